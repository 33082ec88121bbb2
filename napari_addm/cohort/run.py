"""The batch: every case of a cohort through one detection, with reading and writing beside it.

`run_batch` is a generator that the command line, the dock widget and Python drive. Closing
it cancels within one step of the network, and finished cases stay. While the network works on one
case, threads read and prepare the next and write the last one. At most ``2 * workers + 1`` cases
are in memory.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.cohort.batch import Batch, BatchSettings, OutputLostError, ReadCase
from napari_addm.cohort.case import EARLIER, NOT_CHOSEN, NOT_REACHED, CaseResult, CohortCase, Shard
from napari_addm.cohort.files import answer
from napari_addm.cohort.manifest import check_manifest, manifest_path, write_manifest
from napari_addm.detection.pipeline import Detection, Progress
from napari_addm.errors import AddmError, InputError

MANIFEST_SECONDS = 2.0
HEARTBEAT_SECONDS = 0.1

Stage = Literal["read", "detect", "case", "finish"]
T = TypeVar("T")


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is.

    Attributes
    ----------
    stage : str
        ``"read"`` while the next case is awaited, ``"detect"`` while the network works,
        ``"case"`` when a case has its result, ``"finish"`` in the last one.
    case : str
        The case's name; empty if the progress concerns none.
    finished, total : int
        Cases with a result, and all that are run.
    failed, unchecked : int
        How many of `finished` failed, or have an earlier result that could not be checked.
    eta : float or None
        Seconds left; None while unknown.
    unchanged : bool
        Whether `result` was there already and nothing was done.
    """

    stage: Stage
    case: str
    finished: int
    total: int
    failed: int
    eta: float | None = None
    result: CaseResult | None = None
    unchanged: bool = False
    detection: Progress | None = None
    unchecked: int = 0


def run_batch(
    cases: Sequence[CohortCase],
    output: str | os.PathLike[str],
    checkpoint: Checkpoint,
    settings: BatchSettings | None = None,
    shard: Shard | None = None,
    only: Collection[str] | None = None,
) -> Generator[BatchProgress, None, None]:
    """Detect in every case of a cohort, and write everything into one folder.

    Parameters
    ----------
    cases : sequence of CohortCase
        From `napari_addm.cohort.find.find_cohort`.
    output : path
        A case with a result for the same input, model and parameters is not run again.
    checkpoint : Checkpoint
    settings : BatchSettings, optional
    shard : Shard, optional
        Only this part of the cases.
    only : collection of str, optional
        Names of the cases to run, such as those of `CaseStates.failed`; plan and manifest keep
        the results of all others.

    Yields
    ------
    BatchProgress
        After each call of the network, with each case's result, and once at the end.

    Raises
    ------
    AddmError
        When nothing can be run: the settings, the output, another run at work there; or when the
        disk is full or gone, after the manifest says so where that is possible.
    """
    shard = shard or Shard()
    batch = Batch(checkpoint, settings or BatchSettings(), output)
    run = Run(batch, shard.select(cases), shard, only)
    with batch.folder.lock(shard):
        yield from run.drive()


class Run:
    """One way through the cases of a shard, and the table of their results; see `run_batch`."""

    def __init__(
        self,
        batch: Batch,
        cases: Sequence[CohortCase],
        shard: Shard,
        only: Collection[str] | None = None,
    ) -> None:
        self.batch, self.cases, self.shard = batch, cases, shard
        self.todo = [c for c in cases if not c.skip and (only is None or c.name in only)]
        self.results: dict[str, CaseResult] = {}
        self.finished = self.failed = self.unchecked = self.worked = 0
        self.no_scans: dict[str, str] = {}
        self.started = time.perf_counter()
        self.manifest_written = -float("inf")
        self.writing: deque[Future[CaseResult]] = deque()
        check_manifest(batch.folder, shard)
        self._check_inputs()

    def _check_inputs(self) -> None:
        """Make sure that no output takes the place of an input, even of another case."""
        inputs = _real_paths(p for case in self.cases if case.runs for p in case.inputs.values())
        for case in self.todo:
            for path in () if case.problem else case.paths(self.batch.folder.path).values():
                if os.path.realpath(path) in inputs:
                    raise AddmError(f"{path} is an input: choose another output folder.")

    def drive(self) -> Iterator[BatchProgress]:
        """Run all cases; the manifest is written whatever happens."""
        chosen = {case.name for case in self.todo}
        for case in self.cases:
            self.results[case.name] = self._first_row(case, case.name in chosen)
        self.batch.folder.remove_leftovers(self.cases, self.shard)
        self._write_manifest(plan=True)
        stopped = "not reached: the run was stopped"
        ended = False
        try:
            yield from self.work()
            self._check_files()
            ended = True
        except OutputLostError:
            stopped = "not reached: the output folder takes no more files"
            raise
        finally:
            for name, result in self.results.items():
                if (result.status, result.reason) == ("skipped", NOT_REACHED):
                    self.results[name] = replace(result, reason=stopped)
            # An error on its way says more than one about the manifest.
            with nullcontext() if ended else suppress(AddmError):
                self._write_manifest(plan=bool(self.no_scans) or not self._plan_is_there())
        yield self.progress("finish")

    def _plan_is_there(self) -> bool:
        return os.path.lexists(self.batch.folder.plan_path(self.shard))

    def _check_files(self) -> None:
        """Make sure that nobody has removed the files of a case since it was done."""
        for case in self.todo:
            result = self.results[case.name]
            gone = [f for f in result.files if not os.path.lexists(self.batch.folder.path / f)]
            if result.status == "done" and not result.unchecked and gone:
                reason = f"{PurePath(gone[0]).name} was removed during the run: run it again"
                nothing = CaseResult(case.name, case.input, "failed", reason, result.seconds)
                self.results[case.name] = nothing
                self.failed += 1

    def _first_row(self, case: CohortCase, chosen: bool) -> CaseResult:
        """The row of a case until it is reached, or if it is not to be."""
        nothing = CaseResult(case.name, case.input, "skipped", case.skip or NOT_REACHED)
        if case.skip:
            return nothing
        if case.problem:
            return replace(nothing, status="failed", reason=case.problem)
        state = self.batch.folder.states.read(case)
        row = None if state is None or state.other else state.row(self.batch.parameters_hash)
        if state is not None and row is not None and state.done:
            if row.status != "done":
                return replace(row, input=case.input)
            return replace(row, reason=(row.reason if not chosen else "") or EARLIER)
        if chosen:
            return nothing
        return row if row and row.status == "failed" else replace(nothing, reason=NOT_CHOSEN)

    def work(self) -> Iterator[BatchProgress]:
        """Read, detect and write the cases to do; each of them ends in `take`."""
        workers, cases = self.batch.settings.workers, iter(self.todo)
        readers = ThreadPoolExecutor(workers, "addm-read")
        writers = ThreadPoolExecutor(workers, "addm-write")
        try:
            ahead = deque(readers.submit(self.batch.read, case) for case in islice(cases, workers))
            while ahead:
                item = yield from self._wait_for(ahead.popleft())
                # The next case is read while this one is in the network.
                ahead.extend(readers.submit(self.batch.read, case) for case in islice(cases, 1))
                yield from self._finish(item, writers)
                del item
            while self.writing:
                yield from self._take_written()
        finally:
            self.batch.stopped.set()
            # The case in the network is given up; one that is being written is worth its second.
            readers.shutdown(wait=True, cancel_futures=True)
            writers.shutdown(wait=True)
            for writing in self.writing:
                if writing.exception() is None:
                    self.keep(writing.result())

    def _wait_for(self, future: Future[T]) -> Generator[BatchProgress, None, T]:
        """Wait for a thread; yields now and then, so that closing takes effect."""
        while not future.done():
            wait([future], timeout=HEARTBEAT_SECONDS)
            yield self.progress("read")
        return future.result()

    def _finish(
        self, item: ReadCase | CaseResult, writers: ThreadPoolExecutor
    ) -> Iterator[BatchProgress]:
        """Take a case through the network, and give it to the writers."""
        if isinstance(item, CaseResult):
            yield self.take(item, unchanged=item.status == "done")
            return
        started = time.perf_counter()
        detection = yield from self._detect(item)
        if isinstance(detection, CaseResult):
            yield self.take(detection)
            return
        seconds = time.perf_counter() - started
        while len(self.writing) >= self.batch.settings.workers:
            yield from self._take_written()
        self.writing.append(writers.submit(self.batch.write, item, detection, seconds))

    def _detect(self, item: ReadCase) -> Generator[BatchProgress, None, Detection | CaseResult]:
        """Run the network on a case, and take what is written meanwhile."""
        with closing(self.batch.detect(item)) as steps:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    result: Detection | CaseResult = end.value
                    return result
                yield self.progress("detect", item.case.name, detection=progress)
                while self.writing and self.writing[0].done():
                    yield from self._take_written()

    def _take_written(self) -> Iterator[BatchProgress]:
        """Take the result of the case that has been with the writers for longest."""
        yield from self._wait_for(self.writing[0])
        yield self.take(self.writing.popleft().result())

    def keep(self, result: CaseResult) -> None:
        """Put a case's result into the table."""
        self.results[result.case] = result
        if result.status == "skipped":  # it turned out to be no scan
            self.no_scans[result.case] = result.reason
            return
        self.finished += 1
        self.failed += result.status == "failed"
        self.unchecked += result.unchecked

    def take(self, result: CaseResult, unchanged: bool = False) -> BatchProgress:
        """Keep a result, and write the manifest from time to time."""
        self.keep(result)
        self.worked += not unchanged
        if time.perf_counter() - self.manifest_written > MANIFEST_SECONDS:
            self._write_manifest()
        return self.progress("case", result.case, result=result, unchanged=unchanged)

    def progress(self, stage: Stage, case: str = "", **more: Any) -> BatchProgress:
        """How far the run is."""
        eta, total = None, len(self.todo) - len(self.no_scans)
        if self.worked:
            rate = (time.perf_counter() - self.started) / self.worked
            eta = rate * (total - self.finished)
        return BatchProgress(
            stage,
            case,
            self.finished,
            total,
            self.failed,
            eta=eta,
            unchecked=self.unchecked,
            **more,
        )

    def _write_manifest(self, plan: bool = False) -> None:
        folder = self.batch.folder
        try:
            if plan:
                cases = [
                    replace(case, skip=case.skip or self.no_scans.get(case.name, ""))
                    for case in self.cases
                ]
                folder.write_plan(self.shard, self.batch.parameters, cases)
            write_manifest(manifest_path(folder.path, self.shard), self.results.values())
        except AddmError as error:
            raise OutputLostError(str(error)) from error
        self.manifest_written = time.perf_counter()


def _real_paths(paths: Iterable[Path]) -> set[str]:
    """The paths without links; with them if the disk of one does not answer."""
    given = [os.path.abspath(path) for path in paths]
    try:
        return answer(lambda: set(map(os.path.realpath, given)), Path(given[0])) if given else set()
    except InputError:
        return set(given)
