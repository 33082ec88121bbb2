"""``napari-addm benchmark``: the paper's Table 1."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from napari_addm.cli._common import Flag, OutputFolder, print_line, print_result
from napari_addm.cli._training import (
    TrainingPrecision,
    import_training,
    preparation_bar,
    progress_lines,
    quiet_lightning,
    training_precision,
)
from napari_addm.detection.settings import Device
from napari_addm.errors import AddmError, MissingExtraError

if TYPE_CHECKING:
    from napari_addm.benchmark.run import Benchmark


@Parameter(name="*", group="Systems")
@dataclass(frozen=True)
class SystemOptions:
    """What is compared, and how it is trained.

    Attributes
    ----------
    methods
        Systems to compare, separated by commas, or all.
    checkpoint
        A trained model as a further row; repeatable.
    seeds
        Training seeds, separated by commas.
    size
        Size of what is trained; see napari-addm train.
    minutes
        Training time of each system.
    iterations
        Training iterations of each system.
    precision
        Number format of the training.
    """

    methods: str = "all"
    checkpoint: tuple[Path, ...] = ()
    seeds: str = "0"
    size: Literal["small", "paper"] = "small"
    minutes: PositiveFloat | None = None
    iterations: PositiveInt | None = None
    precision: TrainingPrecision = "auto"


@Parameter(name="*", group="Measurement")
@dataclass(frozen=True)
class MeasurementOptions:
    """How the systems are measured.

    Attributes
    ----------
    protocol
        See docs/benchmark.md.
    steps
        Sampling steps of the strict protocol.
    draws
        Largest number of noise draws of the strict protocol.
    anoddpm_steps
        Largest number of sampling steps of the anoddpm protocol.
    curves
        Systems to measure against steps and noise level, or none.
    curve_steps
        Sampling steps of the curves, separated by commas.
    device
        Where the networks run.
    """

    protocol: Literal["both", "strict", "anoddpm"] = "both"
    steps: PositiveInt | None = None
    draws: PositiveInt | None = None
    anoddpm_steps: PositiveInt = 250
    curves: str = "none"
    curve_steps: str = "1,2,5,10,25"
    device: Device = "auto"


def benchmark(
    data: Path,
    /,
    *,
    output: OutputFolder,
    systems: SystemOptions = SystemOptions(),
    measurement: MeasurementOptions = MeasurementOptions(),
    train_only: Flag = False,
) -> None:
    """Train what is missing, measure every system, and write one page about it.

    Run it again to go on where it stopped: trainings, maps and figures that are
    there already are used. Needs the extra: `pip install "napari-addm[benchmark]"`.

    Parameters
    ----------
    data
        Folder with split.json, healthy/ scans and FOLDER/CASE/{t1,mask}.nii.gz.
    output
        Folder for the results.
    train_only
        Train what is missing and stop.
    """
    from napari_addm.benchmark.systems import BenchmarkSettings, known_systems
    from napari_addm.outputs.folder import check_folder

    check_folder(output)
    known = known_systems()
    chosen = tuple(known) if systems.methods == "all" else _listed(systems.methods)
    settings = BenchmarkSettings(
        systems=chosen,
        checkpoints=systems.checkpoint,
        protocols=(
            ("strict", "anoddpm") if measurement.protocol == "both" else (measurement.protocol,)
        ),
        seeds=_numbers("--seeds", systems.seeds),
        minutes=systems.minutes,
        iterations=systems.iterations,
        preset=systems.size,
        steps=measurement.steps,
        draws=measurement.draws,
        anoddpm_steps=measurement.anoddpm_steps,
        curve_steps=_numbers("--curve-steps", measurement.curve_steps),
        curve_systems=() if measurement.curves == "none" else _listed(measurement.curves),
        device=measurement.device,
    )
    try:
        from napari_addm.benchmark.run import Benchmark, write_results

        run = Benchmark(data, output, settings, print_line)
        needs_training = any(known[label].method for label in chosen if label in known)
        _train(run, needs_training, systems, measurement.device)
        if not train_only:
            command = " ".join(["napari-addm", *sys.argv[1:]])
            for path in write_results(run.results(command), output):
                print_result(path)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("lightning", "matplotlib", "jinja2", "pandas"):
            raise
        raise MissingExtraError("The benchmark", package, "benchmark") from error


def _train(run: Benchmark, any_method: bool, systems: SystemOptions, device: str) -> None:
    accelerator = {"cuda": "gpu"}.get(device, device)
    with quiet_lightning(), preparation_bar() as report:
        if any_method:
            import_training()
        run.train_missing(
            accelerator=accelerator,
            precision=training_precision(systems.precision, accelerator),
            enable_progress_bar=False,
            report=report,
            callbacks=[progress_lines()],
        )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _listed(text))
    except ValueError as error:
        raise AddmError(f"{option} {text} has to be whole numbers, separated by commas.") from error


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace(" ", "").split(",") if part)
