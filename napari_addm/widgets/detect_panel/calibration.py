"""A calibration for the user's own scanner, in another thread. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_addm.checkpoint.file import Checkpoint, save_checkpoint
from napari_addm.checkpoint.specification import ModelSpecification, describe_share
from napari_addm.detection.devices import threads_beside_window
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.text import format_duration, printable
from napari_addm.outputs.folder import check_folder
from napari_addm.training.settings import LEAST_HEALTHY
from napari_addm.widgets import texts
from napari_addm.widgets.loading import import_libraries, load_checkpoint_once

if TYPE_CHECKING:
    from napari_addm.training.calibration import Step
    from napari_addm.training.labelled_scans import LabelledScan

NAME_LENGTH = 200


@dataclass(frozen=True)
class CalibrationRequest:
    """All that a calibration needs, taken when it was asked for.

    Attributes
    ----------
    checkpoint : Path
    healthy : tuple of LabelledScan
    output : Path
        The checkpoint to write.
    settings : DetectionSettings
        Device and precision.
    """

    checkpoint: Path
    healthy: tuple[LabelledScan, ...]
    output: Path
    settings: DetectionSettings


@dataclass(frozen=True)
class CalibrationStep:
    """What a calibration does, and how much of it is done."""

    words: str
    done: float
    total: int


@dataclass(frozen=True)
class Calibrated:
    """A calibration that is done, and whose checkpoint is saved.

    Attributes
    ----------
    output : Path
    words : str
        What it promises, and which scans were odd.
    """

    output: Path
    words: str


def find_healthy_scans(folder: Path) -> Iterator[tuple[LabelledScan, ...]]:
    """Find the healthy scans of a folder; a generator for a job.

    Raises
    ------
    InputError
        If there are none.
    """
    from napari_addm.training.labelled_scans import find_healthy  # which imports torch

    yield tuple(find_healthy([folder]))


def calibrate_steps(request: CalibrationRequest) -> Iterator[CalibrationStep | Calibrated]:
    """Calibrate and save; a generator for a job. Nothing is written before the end.

    Raises
    ------
    AddmError
        If the checkpoint, a scan or the new file's place cannot be used.
    """
    yield CalibrationStep(texts.CALIBRATE_LOADING, 0, len(request.healthy))
    import_libraries()
    from napari_addm.training.calibration import FlaggedScan, calibration_steps, check_output

    check_output(request.output, request.checkpoint)
    check_folder(request.output.parent)
    steps = calibration_steps(
        load_checkpoint_once(request.checkpoint),
        request.healthy,
        settings=request.settings,
        threads=threads_beside_window(),
    )
    odd: list[str] = []
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                made: Checkpoint = end.value
                break
            if isinstance(step, FlaggedScan):
                odd.append(step.name)
            else:
                yield CalibrationStep(_describe_step(step), step.done, step.total)
    added = f", {request.healthy[0].group}"
    name = made.specification.name.removesuffix(added) + added
    specification = made.specification.replace(name=printable(name, NAME_LENGTH))
    save_checkpoint(request.output, specification, made.weights)
    yield Calibrated(request.output, _describe_end(request.output, specification, odd))


def suggest_output(checkpoint: Path, folder: Path) -> Path:
    """Return a free name for the new checkpoint, beside the folder of healthy scans."""
    folder = folder.resolve()
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.name) or "scanner"
    names = (f"{checkpoint.stem}_{name}{n}.safetensors" for n in ("", *range(2, 1000)))
    return next(path for path in map(folder.parent.joinpath, names) if not path.exists())


def describe_found(count: int) -> str:
    """Say whether the scans of a folder are enough, and what they will promise."""
    if count < LEAST_HEALTHY:
        return texts.CALIBRATE_TOO_FEW.format(count, LEAST_HEALTHY)
    return texts.CALIBRATE_FOUND.format(count, describe_share(count))


def _describe_step(step: Step) -> str:
    """Say how far the network is, or what else is done."""
    words = f"{step.words[:1].upper()}{step.words[1:]}"
    if 0 < step.done < step.total:
        words = texts.CALIBRATE_SCAN.format(int(step.done) + 1, step.total)
    return words if not step.eta else f"{words}, about {format_duration(step.eta)} left"


def _describe_end(output: Path, specification: ModelSpecification, odd: Sequence[str]) -> str:
    detection = specification.detection
    alarms = detection.false_alarms
    assert alarms is not None
    promise = f"{alarms.in_words(detection.threshold)} {texts.IN_HEALTHY} {alarms.brains}"
    words = texts.CALIBRATED.format(printable(output.name, 60), promise)
    if odd:
        names = list(dict.fromkeys(odd))
        shown = ", ".join(printable(name, 40) for name in names[:3])
        shown += ", ..." if names[3:] else ""
        words += " " + texts.CALIBRATED_ODD.format(len(names), alarms.subjects, shown)
    return words
