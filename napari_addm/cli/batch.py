"""``napari-addm batch``: a cohort."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from napari_addm.cli._common import (
    INTERRUPTED,
    SOME_FAILED,
    USAGE,
    CheckpointFile,
    Flag,
    JsonFlag,
    OutputFolder,
    RunOptions,
    console,
    print_json,
    print_line,
    print_result,
    stop,
)
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.text import format_duration

if TYPE_CHECKING:
    from napari_addm.cohort.case import CaseResult, CohortCase, Shard
    from napari_addm.cohort.run import BatchProgress


@Parameter(name="*")
@dataclass(frozen=True)
class CohortOptions:
    """How the cases of a cohort are read, shared out and written.

    Attributes
    ----------
    frame
        Which frame of 4D scans, counted from 0.
    resample
        Bring ground truths and masks to the scan's grid.
    pictures
        Write a montage of each case.
    workers
        Number of threads that read, and of those that write.
    shard
        Only part I of N, for the job arrays of a scheduler.
    cluster
        Dask scheduler (tcp://HOST:8786 or its .json) whose workers run the cases; local:N starts
        N workers here.
    """

    frame: int | None = None
    resample: Flag = False
    pictures: bool = True
    workers: PositiveInt = 1
    shard: str = "1/1"
    cluster: str | None = None


def batch(
    source: str,
    /,
    *,
    output: OutputFolder,
    checkpoint: CheckpointFile = DEMO_CHECKPOINT,
    options: RunOptions = RunOptions(),
    cohort: CohortOptions = CohortOptions(),
    retry_failed: Flag = False,
    dry_run: Flag = False,
    as_json: JsonFlag = False,
) -> int:
    """Find anomalies in all scans of a cohort; run it again to go on where it stopped.

    Each case gets its own folder, and OUT/manifest.csv says what became of it. A
    case that cannot be done is named there with its reason, and the others go on.
    Exit code 0: all done; 3: some failed or could not be checked (with --dry-run: some will).

    Parameters
    ----------
    source
        Folder, BIDS dataset, glob pattern in quotes, or CSV with the column scan.
    output
        Folder for all files.
    checkpoint
        The model (.safetensors).
    retry_failed
        Only the cases that failed in the last run.
    dry_run
        Run nothing: list the cases with size, spacing and what is known.
    as_json
        Print one JSON object and nothing else on stdout.
    """
    from napari_addm.cohort.case import parse_shard
    from napari_addm.cohort.find import find_cohort
    from napari_addm.cohort.folder import CohortFolder
    from napari_addm.cohort.manifest import manifest_path

    part = parse_shard(cohort.shard)
    cases = find_cohort(source, output)
    only = None
    if retry_failed:
        only = CohortFolder(output).states.failed(cases)
        if not only:
            stop(f"{output} has no failed case: leave --retry-failed out to run all.")
    chosen = [case for case in part.select(cases) if only is None or case.name in only]
    if dry_run:
        return _list_cases(chosen, output, cohort, as_json)
    if found := sum(case.truth_found for case in chosen):
        scans = "1 scan" if found == 1 else f"{found} scans"
        print_line(f"The ground truth of {scans} is a mask that lies beside it.")
    started = time.perf_counter()
    progress = _follow(_start(cases, output, checkpoint, options, cohort, part, only))
    summary = {
        "manifest": str(manifest_path(output, part)),
        "done": progress.finished - progress.failed,
        "failed": progress.failed,
        "skipped": len(part.select(cases)) - progress.finished,
        "unchecked": progress.unchecked,
        "seconds": round(time.perf_counter() - started, 3),
    }
    _show_summary(summary, as_json)
    return SOME_FAILED if progress.failed or progress.unchecked else 0


def _start(
    cases: Sequence[CohortCase],
    output: Path,
    checkpoint: Path,
    options: RunOptions,
    cohort: CohortOptions,
    part: Shard,
    only: Collection[str] | None,
) -> Generator[BatchProgress, None, None]:
    from napari_addm.checkpoint.file import load_checkpoint
    from napari_addm.cohort.batch import BatchSettings
    from napari_addm.cohort.run import run_batch
    from napari_addm.detection.presets import with_preset

    if options.settings.slices is not None:
        stop("A batch runs whole scans: leave --slices out.", USAGE)
    loaded = load_checkpoint(checkpoint)
    settings = BatchSettings(
        detection=with_preset(options.settings, options.quality, loaded.specification),
        threshold=options.threshold,
        minimum_ml=options.minimum_ml,
        frame=cohort.frame,
        resample=cohort.resample,
        pictures=cohort.pictures,
        workers=cohort.workers,
    )
    if cohort.cluster is None:
        return run_batch(cases, output, loaded, settings, part, only)
    from napari_addm.cohort.cluster import run_on_cluster

    return run_on_cluster(cases, output, loaded, settings, part, only, address=cohort.cluster)


def _follow(batch_run: Generator[BatchProgress, None, None]) -> BatchProgress:
    """Print a line for each case, until the batch ends."""
    progress = None
    try:
        with contextlib.closing(batch_run) as run, _case_lines() as show:
            for progress in run:
                show(progress)
    except KeyboardInterrupt:
        stop("Stopped; run the same command again to go on.", INTERRUPTED)
    assert progress is not None  # the last one always comes
    return progress


def _show_summary(summary: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    unchecked = f" ({summary['unchecked']} of them not checked)" if summary["unchecked"] else ""
    print_line(
        f"{summary['done']} done{unchecked}, {summary['failed']} failed, "
        f"{summary['skipped']} skipped in {format_duration(summary['seconds'])}"
    )
    print_result(summary["manifest"])


@contextlib.contextmanager
def _case_lines() -> Iterator[Callable[[BatchProgress], None]]:
    """Print a line on stderr for each case, above a bar if a person is there to see it."""
    from rich.progress import Progress as Bar

    screen = console(stderr=True)
    with Bar(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(progress: BatchProgress) -> None:
            left = "" if not progress.eta else f", about {format_duration(progress.eta)} left"
            words = f"{progress.finished} of {progress.total} cases{left}"
            bar.update(task, description=words, completed=progress.finished, total=progress.total)
            if progress.result is not None:
                print_line(_case_line(progress, progress.result))

        yield show


def _case_line(progress: BatchProgress, result: CaseResult) -> str:
    from napari_addm.detection.quality import ALARMS
    from napari_addm.io.remarks import DO_NOT_TRUST

    status: str = result.status
    outcome = result.reason
    if result.unchecked:
        outcome = f"as an earlier run left it, {outcome}"
    elif progress.unchanged:
        status = "unchanged"
    if not result.unchecked and result.status == "done" and result.anomaly_ml is not None:
        dice = "" if result.dice is None else f", Dice {result.dice:.3f}"
        flags = f" [{', '.join(result.qc)}]" if result.qc else ""
        if not set(ALARMS).isdisjoint(result.qc):
            flags += f" {DO_NOT_TRUST}"
        outcome = f"{result.anomaly_ml:.1f} mL{dice}{flags}"
    return f"{progress.finished}/{progress.total} {result.case}: {status}, {outcome}"


def _list_cases(
    cases: Sequence[CohortCase], output: Path, cohort: CohortOptions, as_json: bool
) -> int:
    """Print what a batch would do, one line for each case, as the panel's table shows it."""
    from napari_addm.cohort.inspect import inspect_cohort

    headers = inspect_cohort(cases, output, frame=cohort.frame, resample=cohort.resample)
    rows = [_case_row(header) for header in headers]
    if as_json:
        print_json(rows)
    else:
        print_result("case", "voxels", "mm", "truth", "mask", "qc", "earlier", "message")
        for row in rows:
            print_result(*_cells(row))
    return SOME_FAILED if any(row["fault"] for row in rows) else 0


def _case_row(header: Any) -> dict[str, Any]:
    case, earlier = header.case, header.earlier
    return {
        "case": case.name,
        "input": case.input,
        "voxels": None if header.shape is None else list(header.shape),
        "spacing_mm": None if header.spacing is None else list(header.spacing),
        "truth": case.truth is not None,
        "mask": case.mask is not None,
        "qc": [flag.key for flag in header.flags],
        "earlier": None if earlier is None else earlier.status,
        "reason": "" if earlier is None else earlier.reason,
        "skip": case.skip,
        "fault": header.problem,
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["case"],
        "x".join(map(str, row["voxels"] or ())),
        "x".join(f"{mm:.3g}" for mm in row["spacing_mm"] or ()),
        "yes" if row["truth"] else "",
        "yes" if row["mask"] else "",
        " ".join(row["qc"]),
        row["earlier"] or "",
        f"skipped: {row['skip']}" if row["skip"] else row["fault"] or row["reason"],
    )
