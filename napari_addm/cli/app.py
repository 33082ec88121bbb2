"""The command line: ``napari-addm detect | verify | batch | report | train`` and more.

Whatever is heavy is imported inside the commands, so that ``--help`` is quick.
Results go to stdout, progress and everything else to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec, TypeAlias

import typer

from napari_addm import __version__
from napari_addm.errors import AddmError, MissingExtraError
from napari_addm.io.text import format_duration
from napari_addm.registry import FORMATS, METHODS, SAMPLERS, NoiseName, SamplerName, ScoreName

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification
    from napari_addm.cohort.case import CohortCase
    from napari_addm.cohort.run import BatchProgress, BatchSettings
    from napari_addm.detection.pipeline import Progress
    from napari_addm.findings.findings import Finding
    from napari_addm.methods.settings import TrainingSettings
    from napari_addm.metrics.evaluation import Metrics
    from napari_addm.outputs.run_case import CaseRequest, CaseResult

    MethodChoice: TypeAlias = str
else:
    MethodChoice = Literal[tuple(METHODS)]

# The modules that define these choices are slow to import; a test holds the two together.
DeviceChoice = Literal["auto", "cpu", "cuda", "mps", "openvino"]
PrecisionChoice = Literal["auto", "float32", "bfloat16", "float16"]
ProtocolChoice = Literal["both", "strict", "anoddpm"]
RunPresetChoice = Literal["preview", "standard", "thorough"]
TimestepsChoice = Literal["300", "500", "1000"]
JudgedChoice = Literal["previous", "clean"]
AdversarialChoice = Literal["saturating", "non_saturating"]
TrainingPrecision = Literal["auto", "32", "bf16-mixed", "16-mixed"]
AcceleratorChoice = Literal["auto", "cpu", "gpu", "mps"]


# What detect and batch share.
RunPresetOption = Annotated[
    RunPresetChoice,
    typer.Option(
        "--preset", help="preview: one draw; standard: the model's; thorough: twice its draws."
    ),
]
StepsOption = Annotated[int | None, typer.Option(help="Sampling steps.")]
LevelOption = Annotated[
    int | None, typer.Option(help="Noise level, a timestep t of the model's chain.")
]
SamplerOption = Annotated[SamplerName | None, typer.Option(help="Sampler.")]
EtaOption = Annotated[float | None, typer.Option(help="Randomness of DDIM: 0 none, 1 like DDPM.")]
SeedOption = Annotated[int, typer.Option(help="Of the noise; same seed, same result.")]
DrawsOption = Annotated[
    int | None, typer.Option(help="Noise draws to average; 2 or more give an uncertainty map.")
]
ScoreOption = Annotated[
    ScoreName | None, typer.Option(help="How scan and reconstruction are compared.")
]
SmoothingOption = Annotated[
    float | None, typer.Option(help="Standard deviation of the score's smoothing, mm.")
]
SymmetryOption = Annotated[
    bool | None,
    typer.Option(
        "--symmetry/--no-symmetry", help="Take off what both halves of the brain show alike."
    ),
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Voxels with a higher score belong to findings.")
]
MinimumOption = Annotated[float | None, typer.Option("--minimum-ml", help="Smallest finding, mL.")]
DeviceOption = Annotated[DeviceChoice, typer.Option(help="Where the network runs.")]
PrecisionOption = Annotated[PrecisionChoice, typer.Option(help="The network's numbers.")]
BatchSizeOption = Annotated[int | None, typer.Option("--batch-size", help="Slices at once.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Model (.safetensors); the bundled demo model if missing.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")
]

SAMPLE_DATA = Path(__file__).parents[1] / "io" / "sample_data"
INTERRUPTED = 130  # what a shell expects after Ctrl-C
SOME_FAILED = 3

app = typer.Typer(
    name="napari-addm",
    help="Find what does not belong in a brain MRI. For research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False

P = ParamSpec("P")


def main() -> None:
    """The console script ``napari-addm``."""
    app(prog_name="napari-addm")


def _plain_errors(command: Callable[P, None]) -> Callable[P, None]:
    """One line on stderr and an exit code for whatever a command raises."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _fail("Stopped; nothing was written.", INTERRUPTED)
        except AddmError as error:
            _fail(f"Error: {error}")
        except MemoryError:
            _fail("Error: Out of memory: close other programs, or use a larger machine.")
        except Exception as error:
            _fail(
                f"Error: {type(error).__name__}: {error} (this is a bug in napari-addm; "
                "napari-addm --debug COMMAND shows where, please report it)"
            )

    return guarded


def _fail(message: str, code: int = 1) -> NoReturn:
    if _debug:
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
    raise typer.Exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"napari-addm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="NAPARI_ADDM_DEBUG", help="Show tracebacks of errors."),
    ] = False,
) -> None:
    global _debug
    _debug = debug


# --- detect ---------------------------------------------------------------------------------


@app.command()
@_plain_errors
def detect(
    scan: Annotated[
        Path, typer.Argument(help=f"T1-weighted scan ({', '.join(FORMATS)}), or a DICOM folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    checkpoint: CheckpointOption = None,
    truth: Annotated[
        Path | None, typer.Option(help="Ground truth, nonzero = anomalous; gives metrics.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Brain mask, nonzero = brain; found if missing.")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="Which frame of a 4D scan, from 0; needed if it has several.")
    ] = None,
    series: Annotated[
        int | None, typer.Option(help="Number of the series in a DICOM folder; else its T1.")
    ] = None,
    resample_truth: Annotated[
        bool, typer.Option("--resample-truth", help="Bring the truth to the scan's grid.")
    ] = False,
    resample_mask: Annotated[
        bool, typer.Option("--resample-mask", help="Bring the mask to the scan's grid.")
    ] = False,
    preset: RunPresetOption = "standard",
    steps: StepsOption = None,
    level: LevelOption = None,
    sampler: SamplerOption = None,
    eta: EtaOption = None,
    seed: SeedOption = 0,
    draws: DrawsOption = None,
    score: ScoreOption = None,
    smoothing: SmoothingOption = None,
    symmetry: SymmetryOption = None,
    threshold: ThresholdOption = None,
    minimum_ml: MinimumOption = None,
    slices: Annotated[
        list[int] | None,
        typer.Option("--slice", help="Only this slice (from 0, inferior to superior); repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    png: Annotated[bool, typer.Option("--png", help="Also write a montage picture.")] = False,
    seg: Annotated[
        bool, typer.Option("--seg", help="Also write a DICOM segmentation of a DICOM series.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier run.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find anomalies in a scan and write maps, labels, findings and a run record.

    What is not given comes from the checkpoint; `napari-addm info` shows it.
    """
    from napari_addm.checkpoint.file import DEMO_CHECKPOINT
    from napari_addm.detection.settings import DetectionSettings
    from napari_addm.outputs.case import WriteOptions
    from napari_addm.outputs.run_case import CaseRequest

    settings = DetectionSettings(
        steps=steps,
        level=level,
        sampler=sampler,
        eta=eta,
        seed=seed,
        draws=draws,
        device=device,
        precision=precision,
        batch_size=batch_size,
        slices=tuple(slices) if slices else None,
        score=score,
        smoothing_mm=smoothing,
        symmetry=symmetry,
    )
    request = CaseRequest(
        scan,
        output,
        checkpoint or DEMO_CHECKPOINT,
        mask=mask,
        truth=truth,
        frame=frame,
        series=series,
        resample_mask=resample_mask,
        resample_truth=resample_truth,
        settings=settings,
        preset=preset,
        threshold=threshold,
        minimum_ml=minimum_ml,
        write=WriteOptions(montage=png, dicom_seg=seg, overwrite=overwrite),
    )
    result = _run_case(request)
    if as_json:
        print(json.dumps(_case_summary(scan, result), indent=2, allow_nan=False))
    else:
        _show_case(scan, result)


def _run_case(request: CaseRequest) -> CaseResult:
    """Run a case to its end, with a progress bar."""
    from napari_addm.outputs.run_case import finish, run_case

    with _progress_bar(request.scan.name) as on_progress:
        return finish(run_case(request), on_progress)


def _case_summary(scan: Path, result: CaseResult) -> dict[str, Any]:
    """What ``--json`` prints."""
    from napari_addm.findings.findings import findings_record
    from napari_addm.outputs.record import metrics_record

    outputs, detection = result.outputs, result.outputs.detection
    summary: dict[str, Any] = {
        "scan": str(scan),
        "paths": {key: str(path) for key, path in result.paths.items()},
        "threshold": outputs.threshold,
        "minimum_ml": outputs.minimum_ml,
        "device": detection.device,
        "precision": detection.precision,
        "findings": findings_record(outputs.findings),
        "seconds": {stage: round(spent, 3) for stage, spent in result.seconds.items()},
        "warnings": list(detection.warnings),
    }
    if outputs.metrics is not None:
        summary["metrics"] = metrics_record(outputs.metrics, detection)
    return summary


def _show_case(scan: Path, result: CaseResult) -> None:
    """Print the findings, the metrics and the files for a person."""
    outputs, detection = result.outputs, result.outputs.detection
    console = _console()
    for warning in detection.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False)
    if outputs.findings:
        console.print(_findings_table(scan.name, outputs.findings))
    else:
        console.print(
            f"{scan.name}: no finding of {outputs.minimum_ml:g} mL or more above a score of "
            f"{outputs.threshold:g}.",
            markup=False,
        )
    if outputs.metrics is not None:
        console.print(_metrics_table(outputs.metrics))
        for note in outputs.metrics.notes:
            console.print(note, markup=False)
    console.print(
        f"{result.seconds['total']:.1f} s, of which {result.seconds['network']:.1f} s in the "
        f"network ({detection.device}, {detection.precision})",
        markup=False,
    )
    for path in result.paths.values():
        print(path)


def _findings_table(title: str, findings: Sequence[Finding]) -> Any:
    from rich.table import Table
    from rich.text import Text

    # Rich reads a plain string as markup, and a file name may hold brackets.
    heads = ("finding", "mL", "side, from midline", "scanner x, y, z", "peak", "slice")
    table = Table(*heads, title=Text(title))
    for finding in findings:
        table.add_row(
            str(finding.id),
            f"{finding.volume_ml:.2f}",
            finding.location_in_brief,
            ", ".join(str(round(value)) for value in finding.centroid_mm) + " mm",
            f"{finding.peak:.3f}",
            str(finding.slice),
        )
    return table


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[Progress], object]]:
    """Show the progress on stderr, if a person is there to see it."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = _console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{name}: preparing", total=None, left="")

        def show(progress: Progress) -> None:
            if progress.stage == "prepare":
                return
            left = "" if progress.eta is None else f"about {format_duration(progress.eta)} left"
            bar.update(
                task,
                description=f"{name}: reconstructing",
                completed=progress.done,
                total=progress.total,
                left=left,
            )

        yield show


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _metrics_table(metrics: Metrics) -> Any:
    from rich.table import Table

    from napari_addm.metrics.metric import case_metrics

    table = Table("metric", "value", title="Against the ground truth, inside the brain mask")
    for name, metric in case_metrics().items():
        table.add_row(f"{metric.title} {metric.note}".strip(), metric.format(metrics[name]))
    return table


# --- verify ---------------------------------------------------------------------------------


@app.command()
@_plain_errors
def verify(
    record: Annotated[Path, typer.Argument(help="The run record, ..._record.json.")],
    scan: Annotated[
        Path | None, typer.Option("--input", help="The scan, unless it lies beside the record.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The .safetensors, unless it lies beside the record.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="The brain mask, if one was given.")] = None,
    device: Annotated[
        DeviceChoice | None, typer.Option(help="Another device than the recorded one.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")
    ] = False,
) -> None:
    """Do a recorded run again, and say whether it gives the same.

    Scan, model and the saved files are checked by their hashes. Exit code 0 only if
    the result is the same, voxel for voxel or within the stated tolerance.
    """
    from napari_addm.outputs.verification import verify as verified

    with _progress_bar(record.name) as on_progress:
        result = verified(
            record,
            scan=scan,
            model=model,
            mask=mask,
            device=device,
            on_progress=on_progress,
        )
    if as_json:
        print(json.dumps(result.summary(), indent=2, allow_nan=False))
    else:
        for line in result.lines():
            print(line)
    if not result.ok:
        raise typer.Exit(1)


# --- batch ----------------------------------------------------------------------------------


@app.command()
@_plain_errors
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Folder, BIDS dataset, glob pattern in quotes, or CSV with the column scan.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all files.")],
    checkpoint: CheckpointOption = None,
    frame: Annotated[int | None, typer.Option(help="Which frame of 4D scans, from 0.")] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring truths and masks to the scan's grid.")
    ] = False,
    preset: RunPresetOption = "standard",
    steps: StepsOption = None,
    level: LevelOption = None,
    sampler: SamplerOption = None,
    eta: EtaOption = None,
    seed: SeedOption = 0,
    draws: DrawsOption = None,
    score: ScoreOption = None,
    smoothing: SmoothingOption = None,
    symmetry: SymmetryOption = None,
    threshold: ThresholdOption = None,
    minimum_ml: MinimumOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Write a montage of each case.")
    ] = True,
    workers: Annotated[
        int, typer.Option(min=1, help="Threads that read, and as many that write.")
    ] = 1,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Only part I of N, for a scheduler's job arrays.")
    ] = "1/1",
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Dask scheduler (tcp://HOST:8786 or its .json) whose workers do the cases; "
            "local:N starts N workers here.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only the cases that failed in the last run.")
    ] = False,
    list_only: Annotated[
        bool,
        typer.Option(
            "--list", help="Run nothing: list the cases with size, spacing and what is known."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find anomalies in all scans of a cohort; run it again to go on where it stopped.

    Each case gets its own folder, and OUT/manifest.csv says what became of it. A
    case that cannot be done is named there with its reason, and the others go on.
    Exit code 0: all done; 3: some failed or could not be checked (with --list: some will).
    """
    from napari_addm.checkpoint.file import DEMO_CHECKPOINT, load_checkpoint
    from napari_addm.cohort.case import parse_shard
    from napari_addm.cohort.find import find_cohort
    from napari_addm.cohort.folder import CohortFolder
    from napari_addm.cohort.manifest import manifest_path
    from napari_addm.cohort.run import BatchSettings, run_batch
    from napari_addm.detection.presets import with_preset
    from napari_addm.detection.settings import DetectionSettings

    part = parse_shard(shard)
    settings = BatchSettings(
        detection=DetectionSettings(
            steps=steps,
            level=level,
            sampler=sampler,
            eta=eta,
            seed=seed,
            draws=draws,
            device=device,
            precision=precision,
            batch_size=batch_size,
            score=score,
            smoothing_mm=smoothing,
            symmetry=symmetry,
        ),
        threshold=threshold,
        minimum_ml=minimum_ml,
        frame=frame,
        resample=resample,
        pictures=pictures,
        workers=workers,
    )
    cases = find_cohort(source, output)
    only = None
    if retry_failed:
        only = CohortFolder(output).states.failed(cases)
        if not only:
            _fail(f"{output} has no failed case: leave --retry-failed out to run all.")
    if list_only:
        chosen = [c for c in part.select(cases) if only is None or c.name in only]
        _list_cases(chosen, output, settings, as_json)
        return
    loaded = load_checkpoint(checkpoint or DEMO_CHECKPOINT)
    detection = with_preset(settings.detection, preset, loaded.specification)
    settings = replace(settings, detection=detection)
    started = time.perf_counter()
    progress = None
    # a scheduler asks to stop with SIGTERM, a person with Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if cluster is None:
        generator = run_batch(cases, output, loaded, settings, part, only)
    else:
        from napari_addm.cohort.cluster import run_on_cluster

        generator = run_on_cluster(cases, output, loaded, settings, part, only, address=cluster)
    try:
        with (
            contextlib.closing(generator) as run,
            _batch_lines() as show,
        ):
            for progress in run:
                show(progress)
    except KeyboardInterrupt:
        _fail("Stopped; run the same command again to go on.", INTERRUPTED)
    assert progress is not None  # the last one always comes
    manifest = manifest_path(output, part)
    done, failed = progress.finished - progress.failed, progress.failed
    skipped = len(part.select(cases)) - progress.finished
    if as_json:
        summary = {
            "manifest": str(manifest),
            "done": done,
            "failed": failed,
            "skipped": skipped,
            "unchecked": progress.unchecked,
            "seconds": round(time.perf_counter() - started, 3),
        }
        print(json.dumps(summary, indent=2))
    else:
        spent = format_duration(time.perf_counter() - started)
        unchecked = f" ({progress.unchecked} of them not checked)" if progress.unchecked else ""
        print(
            f"{done} done{unchecked}, {failed} failed, {skipped} skipped in {spent}",
            file=sys.stderr,
        )
        print(manifest)
    if failed or progress.unchecked:
        raise typer.Exit(SOME_FAILED)


def _list_cases(
    cases: Sequence[CohortCase], output: Path, settings: BatchSettings, as_json: bool
) -> None:
    """Print what a batch would do, one line for each case, as the panel's table shows it."""
    from napari_addm.cohort.inspect import inspect_cohort

    rows: list[dict[str, Any]] = []
    for found in inspect_cohort(cases, output, frame=settings.frame, resample=settings.resample):
        case, earlier = found.case, found.earlier
        rows.append(
            {
                "case": case.name,
                "input": case.input,
                "voxels": None if found.shape is None else list(found.shape),
                "spacing_mm": None if found.spacing is None else list(found.spacing),
                "truth": case.truth is not None,
                "mask": case.mask is not None,
                "qc": [flag.key for flag in found.flags],
                "earlier": None if earlier is None else earlier.status,
                "reason": "" if earlier is None else earlier.reason,
                "skip": case.skip,
                "fault": found.problem,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print("\t".join(("case", "voxels", "mm", "truth", "mask", "qc", "earlier", "said")))
        for row in rows:
            cells = (
                row["case"],
                "x".join(map(str, row["voxels"] or ())),
                "x".join(f"{mm:.3g}" for mm in row["spacing_mm"] or ()),
                "yes" if row["truth"] else "",
                "yes" if row["mask"] else "",
                " ".join(row["qc"]),
                row["earlier"] or "",
                f"skipped: {row['skip']}" if row["skip"] else row["fault"] or row["reason"],
            )
            print("\t".join(map(str, cells)))
    if any(row["fault"] for row in rows):
        raise typer.Exit(SOME_FAILED)


@app.command()
@_plain_errors
def report(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of napari-addm batch.")
    ],
    pictures: Annotated[
        int, typer.Option(min=0, help="At most so many pictures on the page.")
    ] = 200,
) -> None:
    """Make one page of what a batch found, with a CSV and a JSON of all figures beside it.

    The page needs no network and no other file. Shards are put together, and
    OUT/manifest.csv is written for all of them.
    """
    from napari_addm.cohort.report import write_cohort_report

    for path in write_cohort_report(output, pictures).values():
        print(path)


@contextlib.contextmanager
def _batch_lines() -> Iterator[Callable[[BatchProgress], None]]:
    """A line on stderr for each case, and a bar under them if a person is there to see it."""
    from rich.progress import Progress as Bar

    console = _console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(progress: BatchProgress) -> None:
            left = "" if not progress.eta else f", about {format_duration(progress.eta)} left"
            words = f"{progress.finished} of {progress.total} cases{left}"
            bar.update(task, description=words, completed=progress.finished, total=progress.total)
            result = progress.result
            if result is None:
                return
            said = result.reason
            if result.unchecked:
                said = f"as an earlier run left it, {said}"
            elif result.status == "done" and result.anomaly_ml is not None:
                dice = "" if result.dice is None else f", Dice {result.dice:.3f}"
                flags = f" [{', '.join(result.qc)}]" if result.qc else ""
                said = f"{result.anomaly_ml:.1f} mL{dice}{flags}"
            status: str = result.status
            if progress.unchanged and not result.unchecked:
                status = "unchanged"
            line = f"{progress.finished}/{progress.total} {result.case}: {status}, {said}"
            print(line, file=sys.stderr, flush=True)

        yield show


# --- train ----------------------------------------------------------------------------------


@app.command()
@_plain_errors
def train(
    healthy: Annotated[
        Path, typer.Argument(metavar="HEALTHY_DIR", help="Folder of healthy scans.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    method: Annotated[MethodChoice, typer.Option(help="Method that is trained.")] = "addm",
    preset: Annotated[
        str,
        typer.Option(help="small trains on a CPU; paper is the published configuration."),
    ] = "small",
    timesteps: Annotated[
        TimestepsChoice, typer.Option(help="T, the length of the chain.")
    ] = "1000",
    split: Annotated[
        Path | None,
        typer.Option(help="JSON with the subjects in train and validation; a random tenth if not."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs.")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Stop after the epoch that reaches so many.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Stop after so many minutes.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Slices per iteration.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=1e-8, max=1, help="Of Adam.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option("--lambda", min=0, help="Weight of the adversarial loss.")
    ] = None,
    judged: Annotated[
        JudgedChoice | None,
        typer.Option(help="What the discriminator sees: previous, x_(t-1); clean, x_0."),
    ] = None,
    adversarial_loss: Annotated[
        AdversarialChoice | None,
        typer.Option("--adversarial-loss", help="Of the denoiser; the paper's is saturating."),
    ] = None,
    r1: Annotated[
        float | None, typer.Option(min=0, help="Weight of the R1 penalty on the discriminator.")
    ] = None,
    noise: Annotated[NoiseName | None, typer.Option(help="Kind of noise.")] = None,
    augment: Annotated[
        bool | None,
        typer.Option("--augment/--no-augment", help="Random geometry, contrast and bias field."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    precision: Annotated[
        TrainingPrecision, typer.Option(help="auto: bf16-mixed where the hardware computes in it.")
    ] = "auto",
    accelerator: Annotated[AcceleratorChoice, typer.Option(help="Where to train.")] = "auto",
    devices: Annotated[
        str, typer.Option(help="How many of them, or which (0,1), or auto.")
    ] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="Machines of a cluster.")] = 1,
    start_from: Annotated[
        Path | None,
        typer.Option(help="A model of the same kind, to go on from: fine-tuning."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model, for its card.")] = None,
    description: Annotated[str, typer.Option(help="For the model's card.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "unspecified",
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw an earlier training of OUTPUT away.")
    ] = False,
) -> None:
    """Train a model on healthy scans; run it again to go on where it stopped.

    Needs the extra: pip install "napari-addm\\[train]". What is not given comes
    from the preset. Logs and sample pictures go to OUTPUT.training.
    """
    from napari_addm.checkpoint.file import read_specification
    from napari_addm.outputs.folder import check_folder
    from napari_addm.training.settings import RunSettings, preset_settings

    _check_card(name, description, licence)
    run = output.with_name(f"{output.stem}.training")
    check_folder(output.parent)
    if output.exists() and not restart and not (run / "last.ckpt").is_file():
        raise AddmError(
            f"{output} exists already and its training cannot be resumed: use --restart to "
            "replace it, or choose another output."
        )
    with _quiet_lightning():
        training = _import_training()
        settings = _training_settings(
            preset_settings(method, preset, int(timesteps)),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            options={
                "weight": weight,
                "discriminator_input": judged,
                "loss": adversarial_loss,
                "r1": r1,
            },
            noise=noise,
            augment=augment,
            seed=seed,
        )
        person = sys.stderr.isatty()
        with _preparation_bar() as report:
            training.train(
                healthy,
                output,
                settings,
                RunSettings(
                    split=split,
                    name=name,
                    description=description,
                    licence=licence,
                    iterations=iterations,
                    minutes=minutes,
                    restart=restart,
                    start_from=start_from,
                    validate_every=min(10, settings.epochs),
                ),
                report=report,
                callbacks=[] if person else [_progress_lines()],
                accelerator=accelerator,
                devices=devices,
                num_nodes=nodes,
                precision=_training_precision(precision, accelerator),
                enable_progress_bar=person,
            )
    record = read_specification(output).training
    print(f"{record['iterations']} iterations in {format_duration(record['seconds'])}")
    for path in (output, run / "log", run / "pictures"):
        if path.exists():  # the first pictures come with the first validation
            print(path)


def _import_training() -> ModuleType:
    try:
        from napari_addm.training import train as training
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "lightning":
            raise
        raise MissingExtraError(
            "Training needs the package lightning, which is not installed: run "
            'pip install "napari-addm[train]".'
        ) from error
    # Lightning sets these levels when it is imported.
    for logger in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return training


def _check_card(name: str | None, description: str, licence: str) -> None:
    """Refuse now what the checkpoint's schema would refuse after hours of training."""
    for option, text, most in (
        ("--name", name or "", 1000),
        ("--licence", licence, 1000),
        ("--description", description, 20_000),
    ):
        if len(text) > most or (option != "--description" and not text.isprintable()):
            raise AddmError(f"The text of {option} has to be one line of at most {most} letters.")


def _training_settings(
    settings: TrainingSettings,
    *,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    options: dict[str, Any],
    noise: NoiseName | None,
    augment: bool | None,
    seed: int,
) -> TrainingSettings:
    """A preset with what was given on the command line."""
    changes: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "augment": augment,
    }
    asked = {key: value for key, value in options.items() if value is not None}
    if asked:
        if (
            settings.options is None
            or not asked.keys() <= type(settings.options).model_fields.keys()
        ):
            raise AddmError(
                f"The method {settings.method} has no adversarial loss; leave out --lambda, "
                "--judged, --adversarial-loss and --r1."
            )
        changes["options"] = settings.options.replace(**asked)
    if noise is not None:
        if settings.diffusion is None:
            raise AddmError(f"The method {settings.method} has no noise to choose (--noise).")
        changes["diffusion"] = settings.diffusion.model_copy(update={"noise": noise})
    given = {key: value for key, value in changes.items() if value is not None}
    return settings.replace(seed=seed, **given)


def _training_precision(precision: TrainingPrecision, accelerator: str) -> str:
    if precision != "auto":
        return precision
    import torch

    from napari_addm.detection.devices import choose_device, choose_precision

    device = choose_device("cuda" if accelerator == "gpu" else accelerator)
    return "bf16-mixed" if choose_precision("auto", device) == torch.bfloat16 else "32"


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep hints about the hardware and the data loader away; turn its Ctrl-C into ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as stop:
            # Lightning catches Ctrl-C, cleans up and exits with 1.
            if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            _fail("Stopped; run the same command again to go on.", INTERRUPTED)


@contextlib.contextmanager
def _preparation_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show the preparation of the scans on stderr, if a person is there to see it."""
    from rich.progress import Progress as Bar

    console = _console(stderr=True)
    with contextlib.ExitStack() as stack:
        bar: Bar | None = None
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = Bar(console=console, transient=True, disable=not console.is_terminal)
                stack.enter_context(bar)
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            # It is reported before each scan, so with the last one the bar makes way for training.
            bar.update(tasks[stage], completed=done)
            if stage == "Slices" and done == total - 1:
                bar.stop()

        yield report


def _progress_lines() -> Any:
    """A Lightning callback that prints a line every half minute, for logs of unattended runs."""
    from lightning.pytorch.callbacks import Callback

    class ProgressLines(Callback):
        printed = -float("inf")

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero and time.monotonic() - self.printed > 30:
                self.printed = time.monotonic()
                logged = trainer.callback_metrics
                figures = ", ".join(
                    f"{key} {float(value):.4f}"
                    for key, value in sorted(logged.items())
                    if key.startswith(("train/", "validation/"))
                )
                spent = format_duration(pl_module.seconds)
                line = f"epoch {trainer.current_epoch + 1}, iteration {int(pl_module.iterations)}"
                print(f"{line}, {spent}: {figures}", file=sys.stderr, flush=True)

    return ProgressLines()


# --- benchmark ------------------------------------------------------------------------------


@app.command()
@_plain_errors
def benchmark(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with split.json, healthy/ scans and FOLDER/CASE/{t1,mask}.nii.gz."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    methods: Annotated[
        str, typer.Option(help="Systems to compare, separated by commas, or all.")
    ] = "all",
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A trained model as a further row; repeatable."),
    ] = None,
    protocol: Annotated[
        ProtocolChoice, typer.Option(help="How they are measured; see docs/benchmark.md.")
    ] = "both",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Training time of each system.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Training iterations of each system.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Training seeds, separated by commas.")] = "0",
    preset: Annotated[
        str, typer.Option(help="Size of what is trained; see napari-addm train.")
    ] = "small",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps of the strict protocol.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Most noise draws of the strict protocol.")
    ] = None,
    anoddpm_steps: Annotated[
        int, typer.Option(min=1, help="Most sampling steps of the anoddpm protocol.")
    ] = 250,
    curves: Annotated[
        str, typer.Option(help="Systems to measure against steps and noise level, or none.")
    ] = "none",
    curve_steps: Annotated[
        str, typer.Option(help="Sampling steps of the curves, separated by commas.")
    ] = "1,2,5,10,25",
    device: Annotated[DeviceChoice, typer.Option(help="Where the networks run.")] = "auto",
    precision: Annotated[TrainingPrecision, typer.Option(help="Of the training.")] = "auto",
    train_only: Annotated[
        bool, typer.Option("--train-only", help="Train what is missing and stop.")
    ] = False,
) -> None:
    """Train what is missing, measure every system, and write one page about it.

    Run it again to go on where it stopped: trainings, maps and figures that are
    there already are used. Needs the extra: pip install "napari-addm\\[benchmark]".
    """
    from napari_addm.benchmark.run import (
        Benchmark,
        BenchmarkSettings,
        known_systems,
        write_results,
    )
    from napari_addm.outputs.folder import check_folder

    check_folder(output)
    systems = known_systems()
    chosen = tuple(systems) if methods == "all" else _listed(methods)
    settings = BenchmarkSettings(
        systems=chosen,
        checkpoints=tuple(checkpoint or ()),
        protocols=("strict", "anoddpm") if protocol == "both" else (protocol,),
        seeds=_numbers("--seeds", seeds),
        minutes=minutes,
        iterations=iterations,
        preset=preset,
        steps=steps,
        draws=draws,
        anoddpm_steps=anoddpm_steps,
        curve_steps=_numbers("--curve-steps", curve_steps),
        curve_systems=() if curves == "none" else _listed(curves),
        device=device,
    )
    run = Benchmark(data, output, settings, lambda line: print(line, file=sys.stderr, flush=True))
    accelerator = {"cuda": "gpu"}.get(device, device)
    try:
        with _quiet_lightning(), _preparation_bar() as bar:
            if any(systems[label].method for label in chosen if label in systems):
                _import_training()
            run.train_missing(
                accelerator=accelerator,
                precision=_training_precision(precision, accelerator),
                enable_progress_bar=False,
                report=bar,
                callbacks=[_progress_lines()],
            )
        if train_only:
            return
        command = " ".join(["napari-addm", *sys.argv[1:]])
        for path in write_results(run.results(command), output):
            print(path)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("lightning", "matplotlib", "jinja2"):
            raise
        raise MissingExtraError(
            f"The benchmark needs the package {error.name}, which is not installed: run "
            'pip install "napari-addm[benchmark]".'
        ) from error


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _listed(text))
    except ValueError as error:
        raise AddmError(f"{option} {text} has to be whole numbers, separated by commas.") from error


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace(" ", "").split(",") if part)


# --- calibrate ------------------------------------------------------------------------------


@app.command()
@_plain_errors
def calibrate(
    model: Annotated[Path, typer.Argument(help="The trained .safetensors.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with split.json, healthy/ scans and FOLDER/CASE/{t1,mask}.nii.gz."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    level: Annotated[int | None, typer.Option(help="New default noise level.")] = None,
    steps: Annotated[int | None, typer.Option(help="New default sampling steps.")] = None,
    draws: Annotated[int | None, typer.Option(help="New default noise draws.")] = None,
    score: Annotated[ScoreName | None, typer.Option(help="New default score.")] = None,
    smoothing: Annotated[float | None, typer.Option(help="New default smoothing, mm.")] = None,
    erosion: Annotated[
        float | None, typer.Option(help="New default distance from the brain's edge, mm.")
    ] = None,
    symmetry: SymmetryOption = None,
    name: Annotated[str | None, typer.Option(help="New name, for the model's card.")] = None,
) -> None:
    """Choose a model's threshold on validation cases, and measure its false alarms.

    The weights stay; the header gets the threshold with the best mean Dice over the
    labelled validation cases, the mL that every threshold marks in healthy brains,
    and the figures of both.
    """
    from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
    from napari_addm.training.calibration import calibrate as calibrated
    from napari_addm.training.labelled_scans import find_cases, read_split

    if output.suffix != ".safetensors":
        raise AddmError(f"{output}: the checkpoint's name has to end in .safetensors.")
    _check_card(name, "", "")
    checkpoint = load_checkpoint(model)
    given = {"level": level, "steps": steps, "draws": draws}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    scoring = {
        "kind": score,
        "smoothing_mm": smoothing,
        "erosion_mm": erosion,
        "symmetry": symmetry,
    }
    changed = {k: v for k, v in scoring.items() if v is not None}
    changes["score"] = checkpoint.specification.detection.score.model_copy(update=changed)
    specification = calibrated(
        checkpoint,
        find_cases(data, read_split(data / "split.json")),
        changes,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if name is not None:
        specification = specification.model_copy(update={"name": name})
    save_checkpoint(output, specification, checkpoint.weights)
    print(json.dumps(specification.evaluation, indent=1))
    print(output)


# --- info -----------------------------------------------------------------------------------


@app.command()
@_plain_errors
def info(
    model: Annotated[
        Path | None, typer.Argument(help="The .safetensors; the bundled demo model if missing.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole specification as JSON.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Also check the weights (needs a few seconds).")
    ] = False,
) -> None:
    """Show a model's card: what it is, what it was trained on, how it is used."""
    from napari_addm.checkpoint.file import DEMO_CHECKPOINT, load_checkpoint, read_specification

    path = model or DEMO_CHECKPOINT
    specification = read_specification(path)
    if check:
        from napari_addm.methods.loading import load_network

        load_network(load_checkpoint(path))
    if as_json:
        print(json.dumps(specification.model_dump(mode="json"), indent=2))
    else:
        _console().print(_card(path, specification))
        if check:
            print("The weights have their hash, are finite and fit the network.")


def _plain(value: Any) -> str:
    """A value of a specification in a line."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    if isinstance(value, tuple | list):
        return " ".join(_plain(v) for v in value)
    return str(value)


def _card(path: Path, specification: ModelSpecification) -> Any:
    from rich.table import Table
    from rich.text import Text

    preparation, detection = specification.preparation, specification.detection
    height, width = preparation.size
    z, y, x = preparation.spacing_mm
    method, sampling = str(specification.method), "one pass"
    if specification.diffusion is not None and detection.level is not None:
        length = specification.diffusion.length
        method = f"{method}, T = {length}, {specification.diffusion.noise} noise"
        sampling = (
            f"noise level {detection.level} ({detection.level / length:.0%}), {detection.steps} "
            f"{SAMPLERS[detection.sampler].title} step(s), eta {detection.eta:g}"
        )
    network = ", ".join(
        f"{key} {_plain(value)}" for key, value in specification.network.model_dump().items()
    )
    rows = {
        "file": f"{path.name}, {path.stat().st_size / 1e6:.1f} MB",
        "description": specification.description,
        "licence": specification.licence,
        "method": method,
        "network": network,
        "model grid": f"{preparation.orientation}, {height} x {width} pixels of "
        f"{y:g} x {x:g} mm, slices {z:g} mm apart",
        "detection": f"{sampling}, {detection.draws} draw(s)",
        "score": f"{detection.score.kind}, smoothed by {detection.score.smoothing_mm:g} mm, "
        f"{detection.score.erosion_mm:g} mm inside the brain"
        + (", left compared with right" if detection.score.symmetry else ""),
        "threshold": f"{detection.threshold:g} ({detection.threshold_source}), findings from "
        f"{detection.minimum_ml:g} mL",
    }
    table = Table(title=Text(specification.name), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        if value:
            table.add_row(key, Text(value))
    for title, entries in (
        ("training", specification.training),
        ("evaluation", specification.evaluation),
    ):
        table.add_section()
        if not entries:
            table.add_row(title, "nothing recorded")
        for key, value in entries.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if key == "seconds" and isinstance(value, int | float):
                text = f"{value:.0f} ({format_duration(value)})"
            table.add_row(f"{title}: {key}", Text(text))
    return table


# --- demo -----------------------------------------------------------------------------------


@app.command()
@_plain_errors
def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="Detect and write files; open no window.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the files when headless.")
    ] = Path("demo_output"),
    steps: Annotated[int | None, typer.Option(help="Sampling steps when headless.")] = None,
) -> None:
    """Show the main job on a brain with a simulated lesion: in napari, or headless.

    Headless, files of an earlier demo in the output folder are replaced.
    """
    if not headless and not _has_display():
        print("There is no display, so the demo runs headless.", file=sys.stderr)
        headless = True
    if not headless:
        _open_demo()
        return
    from napari_addm.detection.settings import DetectionSettings
    from napari_addm.outputs.case import WriteOptions
    from napari_addm.outputs.run_case import CaseRequest

    scan = SAMPLE_DATA / "demo_T1w.nii.gz"
    request = CaseRequest(
        scan,
        output,
        truth=SAMPLE_DATA / "demo_lesion.nii.gz",
        settings=DetectionSettings(steps=steps),
        write=WriteOptions(montage=True, overwrite=True),
    )
    _show_case(scan, _run_case(request))


def _has_display() -> bool:
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_demo() -> None:
    try:
        import napari

        viewer = napari.Viewer(title="napari-addm demo")
    except ImportError as error:
        raise MissingExtraError(
            "napari or its Qt binding is not installed: run pip install "
            '"napari-addm[all]", or use --headless.'
        ) from error
    viewer.open_sample("napari-addm", "demo")
    viewer.window.add_plugin_dock_widget("napari-addm", "Detect anomalies")
    napari.run()
