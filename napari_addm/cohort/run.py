"""The batch: every case of a cohort through one detection, with reading and writing beside it.

:func:`run_batch` is a generator, as `detect` is; the command line, the
dock widget and Python drive it. Closing it cancels within one step of the network, and what is
finished stays. A case that fails is named with its reason, and the next one follows.

While the network works on one case, the next is read and prepared and the last one written, in
threads that touch no network. At most ``2 * workers + 1`` cases are in memory, however many there
are.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from napari_addm import __version__
from napari_addm.checkpoint.file import Checkpoint
from napari_addm.cohort.case import (
    CUT_OFF,
    EARLIER,
    NOT_CHOSEN,
    NOT_REACHED,
    UNCHECKED,
    CaseResult,
    CohortCase,
    Shard,
)
from napari_addm.cohort.files import inside
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.manifest import check_manifest, manifest_path, write_manifest
from napari_addm.cohort.state import CaseState, LaterRun
from napari_addm.detection.pipeline import Detection, Progress, detect
from napari_addm.detection.preparation import ModelSlices, prepare
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import check_is_file
from napari_addm.io.hashing import json_sha256, scan_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.outputs.case import CaseInputs, WriteOptions, write_case
from napari_addm.outputs.folder import check_folder
from napari_addm.outputs.run_case import CaseRequest, measure_case, plan_case, read_case

# When one of these befalls the output, it befalls the next case as well.
HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
MANIFEST_INTERVAL = 2.0
HEARTBEAT = 0.1
# Goes up when the same input gives other figures or files than those of the version before; since
# 2, sides are counted from the brain's midline.
RESULTS = 2
KEPT = "its files are of an earlier run with other settings (or another model or version)"
KEPT_OTHER_INPUT = "its files are of an earlier run with another scan, truth or mask than now"

Stage = Literal["read", "detect", "case", "finish"]


@dataclass(frozen=True)
class BatchSettings:
    """What a batch does with every case.

    Attributes
    ----------
    detection : DetectionSettings
    threshold, minimum_ml : float, optional
        The checkpoint's own by default.
    frame : int, optional
        Which frame of 4D scans.
    resample : bool
        Bring truths and masks that lie on another grid to the scan's.
    pictures : bool
        Write a montage of each case.
    workers : int
        Threads that read, and as many that write.
    """

    detection: DetectionSettings = field(default_factory=DetectionSettings)
    threshold: float | None = None
    minimum_ml: float | None = None
    frame: int | None = None
    resample: bool = False
    pictures: bool = True
    workers: int = 1


@dataclass(frozen=True)
class BatchProgress:
    """Where a batch is.

    Attributes
    ----------
    stage : str
        ``"read"`` while the next case is awaited, ``"detect"`` while the network works,
        ``"case"`` when a case has its result, ``"finish"`` in the last one.
    case : str
        Its name; empty where it is about none.
    result : CaseResult or None
        With the stage ``"case"``.
    unchanged : bool
        Whether `result` was there already and nothing was done.
    finished, total : int
        Cases with a result, and all that are run.
    failed : int
        How many of `finished` failed.
    unchecked : int
        How many of `finished` have the result of an earlier run that this one could not check.
    eta : float or None
        Seconds left; None while unknown.
    detection : Progress or None
        Of the case in the network.
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


@dataclass
class Prepared:
    """A case that is ready for the network."""

    case: CohortCase
    key: str
    origin: dict[str, str]
    inputs: CaseInputs
    slices: ModelSlices
    seconds: float


class OtherScanError(AddmError):
    """What lies where a case's result goes is the result of another scan."""


class OutputLostError(AddmError):
    """The output folder takes no more files; going on would only fail case after case."""


class Batch:
    """What all cases of a run share: model, settings, folder. Its methods are safe in threads.

    Parameters
    ----------
    checkpoint : Checkpoint
    settings : BatchSettings
    output : path

    Raises
    ------
    AddmError
        When the settings do not fit the checkpoint, or the output cannot be written to.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: BatchSettings, output: str | os.PathLike[str]
    ) -> None:
        self.checkpoint = checkpoint
        self.settings = settings
        self.plan = plan_case(
            checkpoint.specification,
            settings.detection,
            threshold=settings.threshold,
            minimum_ml=settings.minimum_ml,
        )
        if settings.workers < 1:
            raise AddmError(f"{settings.workers} workers are too few; it takes at least 1.")
        check_folder(output)
        self.folder = CohortFolder(output)
        self.parameters: dict[str, Any] = {
            "version": __version__,
            "results": RESULTS,
            "checkpoint": {
                "name": checkpoint.specification.name,
                "file": checkpoint.path.name,
                "sha256": checkpoint.sha256,
            },
            "settings": self.plan.settings.model_dump(),
            "threshold": self.plan.threshold,
            "minimum_ml": self.plan.minimum_ml,
            "frame": settings.frame,
            "resample": settings.resample,
            "pictures": settings.pictures,
        }
        self.parameters_hash = json_sha256(self.parameters)

    # - one case, in three steps -

    def prepare(self, case: CohortCase) -> Prepared | CaseResult:
        """Read a case and bring it to the model's grid, unless it is done or cannot be."""
        started = time.perf_counter()
        key = ""
        try:
            if case.problem:
                raise InputError(case.problem)
            state = self.folder.states.read(case)
            self._check_same_scan(case, state)
            try:
                key, origin = self.key(case)
            except OSError as error:  # reading says it in words
                read_volume(case.scan, frame=self.settings.frame)
                for path in filter(None, (case.truth, case.mask)):
                    read_labels(path)
                raise _unreadable(Path(error.filename or case.scan), error) from error
            old = None if state is None else state.result
            if old and (old.status, old.key) == ("done", key) and self.folder.states.is_whole(old):
                now = replace(old, input=case.input, reason="", origin=origin)
                if state and (state.later is not None or now != old):  # what it said is outdated
                    self.folder.states.write(now, state.parameters)
                return now
            self._check_free(case, state)
            request = CaseRequest(
                case.scan,
                self.folder.path,
                mask=case.mask,
                truth=case.truth,
                frame=self.settings.frame,
                resample_mask=self.settings.resample,
                resample_truth=self.settings.resample,
            )
            inputs = read_case(request, remedy="add --resample to bring it there")
            mask = None if inputs.mask is None else inputs.mask.voxels
            slices = prepare(inputs.scan, self.checkpoint.specification.preparation, mask)
            seconds = time.perf_counter() - started
            return Prepared(case, key, origin, inputs, slices, seconds)
        except Exception as error:  # whatever it is, it is this case's alone
            return self.failed(case, error, time.perf_counter() - started, key)

    def reconstruct(self, prepared: Prepared) -> Generator[Progress, None, None]:
        """The network's part; see `napari_addm.detection.pipeline.detect`."""
        yield from detect(
            prepared.inputs.scan,
            self.checkpoint,
            self.plan.settings,
            partial=False,
            prepared=prepared.slices,
        )

    def write(self, prepared: Prepared, detection: Detection, seconds: float) -> CaseResult:
        """Find, measure and write; the state file comes last.

        Raises
        ------
        OutputLostError
            When the disk is full or gone.
        """
        started = time.perf_counter()
        case, inputs = prepared.case, prepared.inputs
        try:
            detection = replace(detection, warnings=(*detection.warnings, *inputs.warnings))
            outputs = measure_case(inputs, detection, self.checkpoint, self.plan)
            self._check_free(case, self.folder.states.read(case))
            hashes: dict[str, str] = {}

            def claim(staged: Mapping[str, Path]) -> None:
                paths = case.file_names()
                hashes.update({paths[key]: scan_sha256(path) for key, path in staged.items()})
                self._claim(prepared, hashes)

            write_case(
                replace(outputs, name=case.prefix),
                self.folder.path / case.root,
                WriteOptions(montage=self.settings.pictures, dated=False, overwrite=True),
                before_renaming=claim,
            )
            findings, metrics, quality = outputs.findings, outputs.metrics, outputs.quality
            assert quality is not None  # the detection has its prepared scan
            spent = prepared.seconds + seconds + time.perf_counter() - started
            result = CaseResult(
                case.name,
                case.input,
                "done",
                seconds=round(spent, 3),
                anomaly_ml=sum(finding.volume_ml for finding in findings),
                findings=len(findings),
                dice=None if metrics is None else metrics["dice"],
                qc=tuple(flag.key for flag in quality.flags),
                metrics={} if metrics is None else metrics.as_dict(),
                files=hashes,
                key=prepared.key,
                origin=prepared.origin,
            )
            self.folder.states.write(result, self.parameters_hash)
            return result
        except Exception as error:
            self._check_output(error)
            spent = prepared.seconds + seconds + time.perf_counter() - started
            return self.failed(case, error, spent, prepared.key)

    # - what becomes of a case -

    def key(self, case: CohortCase) -> tuple[str, dict[str, str]]:
        """Hash of everything that a result depends on, and `CaseResult.origin`."""
        content = scan_sha256(case.scan)
        inputs: list[tuple[str, str] | None] = [(case.scan.name, content)]
        for path in (case.truth, case.mask):
            inputs.append(None if path is None else (path.name, scan_sha256(path)))
        key = json_sha256({"parameters": self.parameters, "inputs": inputs})
        return key, {**case.origin, "content": content}

    def failed(
        self, case: CohortCase, error: Exception, seconds: float, key: str = ""
    ) -> CaseResult:
        """The result of a case that cannot be done now; files of an earlier run stay.

        What an earlier run has done is not worth less because a scan cannot be read for a moment.
        It stays done where nothing says that scan, truth, mask or settings are others by now.

        Parameters
        ----------
        case : CohortCase
        error : Exception
        seconds : float
        key : str
            As `Batch.key` gives it; empty where that could not be found out.

        Raises
        ------
        AddmError
            When the output cannot be written to.
        """
        reason, seconds = self._reason(case, error), round(seconds, 3)
        result = CaseResult(case.name, case.input, "failed", reason, seconds)
        # The state and the files of its name are, or may be, another scan's.
        if case.problem or isinstance(error, OtherScanError):
            return result
        try:
            state = self.folder.states.read(case)
            old = None if state is None else state.result
            if state is None and self.folder.states.has_file(case):
                return result  # what is not believed now may be again, once a link is gone
            done, files = False, {}
            if state is not None and old is not None:
                files = dict(old.files)
                try:
                    files, changed = self.folder.states.compare_files(state)
                    done = old.status == "done" and (
                        bool(changed) or self.folder.states.verify_files(old)
                    )
                except OSError:  # its files cannot be read now, either
                    done = old.status == "done"
            if state is None or old is None or not done:
                origin = old.origin if old is not None and files else case.origin
                kept = replace(result, files=files, origin=origin)
                self.folder.states.write(kept, self.parameters_hash)
                return result
            unread = self._unread(case)
            if unread:
                reason = f"the {unread[0]} cannot be read: {unread[1]}"
            if state.parameters != self.parameters_hash:
                result = replace(result, reason=f"{reason.rstrip('.')}; {KEPT}")
            elif (key and key != old.key and not unread) or _is_named_otherwise(case, old, key):
                result = replace(result, reason=f"{reason.rstrip('.')}; {KEPT_OTHER_INPUT}")
            else:
                result = replace(old, input=case.input, reason=f"{UNCHECKED}: {reason}")
            later = LaterRun(
                status="done" if result.status == "done" else "failed",
                reason=result.reason,
                parameters=self.parameters_hash,
            )
            self.folder.states.write(old, state.parameters, later)
        except (OSError, AddmError) as lost:
            self._check_output(lost)
            raise
        return result

    def _unread(self, case: CohortCase) -> tuple[str, str] | None:
        """Which file of a case cannot be read, and why; None when all can."""
        for what, path in (
            ("scan", case.scan),
            ("ground truth", case.truth),
            ("brain mask", case.mask),
        ):
            if path is None:
                continue
            try:
                with suppress(OSError):  # reading says it in words
                    check_is_file(path)
                if what == "scan":
                    read_volume(path, frame=self.settings.frame)
                else:
                    read_labels(path)
            except Exception as error:
                return what, self._reason(case, error)
        return None

    def _check_output(self, error: Exception) -> None:
        number = _errno(error)
        if number in HOPELESS:
            raise OutputLostError(
                f"{self.folder.path} takes no more files ({os.strerror(number)}): mend that, and "
                "run the same command again to go on."
            ) from error

    def _reason(self, case: CohortCase, error: Exception) -> str:
        """An error in one line, without the folders above the input."""
        text = str(error)
        if isinstance(error, MemoryError):
            text = "out of memory: close other programs, or use a larger machine"
        elif not isinstance(error, AddmError):
            text = f"{type(error).__name__}: {text} (a bug in napari-addm: please report it)"
        return case.shorten_paths(text).replace(str(self.folder.path / case.folder), case.folder)

    def _check_free(self, case: CohortCase, state: CaseState | None) -> None:
        """Make sure that only files of this batch lie where the case's files go.

        Raises
        ------
        AddmError
            When there are files that no run of this batch wrote, or a link.
        """
        home = inside(self.folder.path, case.folder)
        if home is None or (home.exists() and not home.is_dir()):
            raise AddmError(
                f"{case.folder} in the output folder is a link or a file where the folder of the "
                "case has to be: move it, or choose another output folder."
            )
        if state is not None and state.all_ours:
            return
        if state is not None:
            self._check_unchanged(state)
        ours = {} if state is None else state.result.files
        for name in case.file_names().values():
            if name not in ours and os.path.lexists(self.folder.path / name):
                raise AddmError(
                    f"{self.folder.path / name} exists already and is of no run of this batch: "
                    "move it, or choose another output folder."
                )

    def _check_same_scan(self, case: CohortCase, state: CaseState | None) -> None:
        """Make sure that the state is that of this scan, also after the dataset has moved.

        Raises
        ------
        OtherScanError
        """
        if state is None or self.folder.states.is_own(case, state):
            return
        where = self.folder.path / case.folder if case.folder != "." else "the output folder"
        raise OtherScanError(
            f"{where} has the result of another scan ({state.result.input_name}): move it away, "
            "or choose another output folder"
        )

    def _check_unchanged(self, state: CaseState) -> None:
        """Make sure that nobody has worked on the files of a case since they were written.

        Raises
        ------
        AddmError
            Names the file.
        """
        try:
            _, changed = self.folder.states.compare_files(state)
        except OSError as error:
            raise _unreadable(Path(error.filename or self.folder.path), error) from error
        if changed:
            names = ", ".join(PurePosixPath(name).name for name in changed)
            was, it = ("was", "it") if len(changed) == 1 else ("were", "them")
            raise AddmError(
                f"{names} {was} changed after the batch wrote {it}; move {it} away to have the "
                "case done anew"
            )

    def _claim(self, prepared: Prepared, replacing: Mapping[str, str]) -> None:
        """Say which files are about to take their names, so that a run that ends amid it is seen.

        What was done before counts until the first of them does.
        """
        case = prepared.case
        state = self.folder.states.read(case)
        self._check_free(case, state)
        if state is None:
            origin = prepared.origin
            begun = CaseResult(case.name, case.input, "skipped", CUT_OFF, origin=origin)
            state = CaseState(begun, self.parameters_hash)
        files, _ = self.folder.states.compare_files(state)
        self.folder.states.write(
            replace(state.result, files=files),
            state.parameters,
            state.later,
            replacing,
        )


def _is_named_otherwise(case: CohortCase, old: CaseResult, key: str) -> bool:
    """Whether a result was made with another truth or mask, as far as their places tell."""
    named = case.origin
    return (
        key != old.key
        and bool(old.origin)
        and any(named.get(what) != old.origin.get(what) for what in ("truth", "mask"))
    )


def _unreadable(path: Path, error: OSError) -> AddmError:
    return InputError(f"{path} cannot be read ({error.strerror or error})")


def _errno(error: BaseException | None) -> int | None:
    """The operating system's number for what lies at the bottom of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None


# --- the run ---------------------------------------------------------------------------------


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
        A case that this folder has for the same input, model and parameters is not run again.
    checkpoint : Checkpoint
    settings : BatchSettings, optional
    shard : Shard, optional
        Only this part of the cases.
    only : collection of str, optional
        Names of the cases to run, such as those of `CaseStates.failed`; of all others plan and
        manifest say what an earlier run left.

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
    """One drive through the cases: the order of things, and the table of results.

    Parameters
    ----------
    batch : Batch
    cases : sequence of CohortCase
        Of this shard alone.
    shard : Shard
    only : collection of str, optional
        Names of the cases to run; the others keep their rows.
    """

    def __init__(
        self,
        batch: Batch,
        cases: Sequence[CohortCase],
        shard: Shard,
        only: Collection[str] | None = None,
    ) -> None:
        self.batch, self.cases, self.shard = batch, cases, shard
        self.workers = batch.settings.workers
        self.todo = [c for c in cases if not c.skip and (only is None or c.name in only)]
        self.results: dict[str, CaseResult] = {}
        self.finished = self.failed = self.unchecked = self.worked = 0
        self.started = time.perf_counter()
        self.written = -float("inf")
        self.writing: deque[Future[CaseResult]] = deque()
        inputs = {
            os.path.realpath(path)
            for case in cases
            for path in (case.scan, case.truth, case.mask)
            if path is not None
        }
        check_manifest(batch.folder, shard)
        for case in self.todo:  # no output may take the place of an input, be it another case's
            if case.problem:
                continue
            for path in case.paths(batch.folder.path).values():
                if os.path.realpath(path) in inputs:
                    raise AddmError(f"{path} is an input: choose another output folder.")

    def drive(self) -> Iterator[BatchProgress]:
        """All of it: what is known before, the cases, and the manifest whatever happens."""
        chosen = {case.name for case in self.todo}
        for case in self.cases:
            self.results[case.name] = self._known(case, case.name in chosen)
        self.batch.folder.remove_leftovers(self.cases, self.shard)
        self._manifest(plan=True)
        stopped = "not reached: the run was stopped"
        ended = False
        try:
            yield from self.work()
            ended = True
        except OutputLostError:
            stopped = "not reached: the output folder takes no more files"
            raise
        finally:
            for name, result in self.results.items():
                if (result.status, result.reason) == ("skipped", NOT_REACHED):
                    self.results[name] = replace(result, reason=stopped)
            # An error that is on its way says more than one about the manifest.
            with nullcontext() if ended else suppress(AddmError):
                self._manifest()
        yield self.progress("finish", "")

    def work(self) -> Iterator[BatchProgress]:
        """The cases of `todo`, each of which ends in `take`."""
        batch = self.batch
        waiting = deque(self.todo)
        ahead: deque[Future[Prepared | CaseResult]] = deque()
        readers = ThreadPoolExecutor(self.workers, "addm-read")
        writers = ThreadPoolExecutor(self.workers, "addm-write")
        try:
            while waiting or ahead:
                while waiting and len(ahead) < self.workers:
                    ahead.append(readers.submit(batch.prepare, waiting.popleft()))
                yield from self._await(ahead[0])
                future = ahead.popleft()
                if waiting:  # so that the next case is read while this one is in the network
                    ahead.append(readers.submit(batch.prepare, waiting.popleft()))
                yield from self._case(future.result(), writers)
                del future
            while self.writing:
                yield from self._written()
        finally:
            # What is in the network is given up; what is being written is worth its second.
            readers.shutdown(wait=True, cancel_futures=True)
            writers.shutdown(wait=True)
            for writing in self.writing:
                if writing.exception() is None:
                    self.keep(writing.result())

    def _case(
        self, item: Prepared | CaseResult, writers: ThreadPoolExecutor
    ) -> Iterator[BatchProgress]:
        """One case through the network, and over to the writer."""
        if isinstance(item, CaseResult):
            yield self.take(item, unchanged=item.status == "done")
            return
        started = time.perf_counter()
        detection = None
        steps = self.batch.reconstruct(item)
        try:
            while True:
                try:
                    progress = next(steps)
                except StopIteration:
                    break
                except Exception as error:
                    spent = item.seconds + time.perf_counter() - started
                    yield self.take(self.batch.failed(item.case, error, spent, item.key))
                    return
                detection = progress.result
                yield self.progress("detect", item.case.name, detection=progress)
                while self.writing and self.writing[0].done():
                    yield from self._written()
        finally:
            steps.close()
        assert detection is not None  # the last progress always carries it
        spent = time.perf_counter() - started
        while len(self.writing) >= self.workers:
            yield from self._written()
        self.writing.append(writers.submit(self.batch.write, item, detection, spent))

    def _written(self) -> Iterator[BatchProgress]:
        """The result of the case that has been with the writer for longest."""
        yield from self._await(self.writing[0])
        yield self.take(self.writing.popleft().result())

    def _known(self, case: CohortCase, chosen: bool) -> CaseResult:
        """What the manifest says of a case before it is reached, or if it is not to be."""
        nothing = CaseResult(case.name, case.input, "skipped", case.skip or NOT_REACHED)
        if case.skip:
            return nothing
        if case.problem:
            return replace(nothing, status="failed", reason=case.problem)
        state = self.batch.folder.states.read(case)
        told = None if state is None else state.row(self.batch.parameters_hash)
        if state is not None and state.other:
            return nothing if chosen else replace(nothing, reason=NOT_CHOSEN)
        if state is not None and told is not None and state.result.status == "done":
            if told.status != "done":
                return replace(told, input=case.input)
            return replace(told, reason=(told.reason if not chosen else "") or EARLIER)
        if not chosen:
            return told if told and told.status == "failed" else replace(nothing, reason=NOT_CHOSEN)
        return nothing

    def _await(self, future: Future[Any]) -> Iterator[BatchProgress]:
        """A sign of life while a thread is at work, so that closing takes effect."""
        while not future.done():
            wait([future], timeout=HEARTBEAT)
            yield self.progress("read", "")

    def keep(self, result: CaseResult) -> None:
        """Put a case's result into the table."""
        self.results[result.case] = result
        self.finished += 1
        self.failed += result.status == "failed"
        self.unchecked += result.unchecked

    def take(self, result: CaseResult, unchanged: bool = False) -> BatchProgress:
        """Keep a result, bring the manifest up to date from time to time, and tell."""
        self.keep(result)
        self.worked += not unchanged
        if time.perf_counter() - self.written > MANIFEST_INTERVAL:
            self._manifest()
        return self.progress("case", result.case, result=result, unchanged=unchanged)

    def progress(self, stage: Stage, case: str, **more: Any) -> BatchProgress:
        """Where the run is."""
        eta = None
        if self.worked:
            rate = (time.perf_counter() - self.started) / self.worked
            eta = rate * (len(self.todo) - self.finished)
        return BatchProgress(
            stage,
            case,
            self.finished,
            len(self.todo),
            self.failed,
            eta=eta,
            unchecked=self.unchecked,
            **more,
        )

    def _manifest(self, plan: bool = False) -> None:
        folder = self.batch.folder
        try:
            if plan:
                folder.write_plan(self.shard, self.batch.parameters, self.cases)
            write_manifest(manifest_path(folder.path, self.shard), self.results.values())
        except AddmError as error:
            raise OutputLostError(str(error)) from error
        self.written = time.perf_counter()
