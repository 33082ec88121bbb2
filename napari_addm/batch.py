"""The batch: every case of a cohort through one detection, with reading and writing beside it.

:func:`run_batch` is a generator, as :func:`napari_addm.detection.detect` is; the command line, the
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
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_addm import __version__
from napari_addm.checkpoint import Checkpoint
from napari_addm.cohort import (
    EARLIER,
    NOT_CHOSEN,
    NOT_REACHED,
    CaseResult,
    CohortCase,
    CohortFolder,
    Shard,
    digest,
    hash_of,
)
from napari_addm.detection import Detection, DetectionSettings, Progress, detect, resolve
from napari_addm.errors import AddmError
from napari_addm.io import read_beside, read_labels, read_volume
from napari_addm.metrics import evaluate
from napari_addm.outputs import check_folder, computed_findings, save_detection
from napari_addm.preparation import Slices, prepare
from napari_addm.qc import check_quality
from napari_addm.volume import Volume

# When one of these befalls the output, it befalls the next case as well.
HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
MANIFEST_INTERVAL = 2.0
HEARTBEAT = 0.1
OTHER_SETTINGS = "not reached yet; its files are of an earlier run with other settings"

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


@dataclass
class Prepared:
    """A case that is ready for the network."""

    case: CohortCase
    key: str
    volume: Volume
    slices: Slices
    lesion: NDArray[np.bool_] | None
    notes: list[str]
    seconds: float


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
        default = checkpoint.specification.detection
        self.checkpoint = checkpoint
        self.settings = settings
        self.detection = resolve(settings.detection, checkpoint.specification)
        self.threshold = default.threshold if settings.threshold is None else settings.threshold
        self.minimum_ml = default.minimum_ml if settings.minimum_ml is None else settings.minimum_ml
        if not abs(self.threshold) < float("inf") or not 0 <= self.minimum_ml < float("inf"):
            raise AddmError(
                "The threshold has to be a number, and the smallest finding 0 mL or more."
            )
        if settings.workers < 1:
            raise AddmError(f"{settings.workers} workers are too few; it takes at least 1.")
        check_folder(output)
        self.folder = CohortFolder(output)
        self.parameters: dict[str, Any] = {
            "version": __version__,
            "checkpoint": {
                "name": checkpoint.specification.name,
                "file": checkpoint.path.name,
                "sha256": checkpoint.sha256,
            },
            "settings": asdict(self.detection),
            "threshold": float(self.threshold),
            "minimum_ml": float(self.minimum_ml),
            "frame": settings.frame,
            "resample": settings.resample,
            "pictures": settings.pictures,
        }
        self.parameters_hash = hash_of(self.parameters)

    # - one case, in three steps -

    def prepare(self, case: CohortCase) -> Prepared | CaseResult:
        """Read a case and bring it to the model's grid, unless it is done or cannot be."""
        started = time.perf_counter()
        old, _ = self.folder.read_state(case.name)
        try:
            try:
                key = self.key(case)
            except OSError:  # reading says it in words
                read_volume(case.scan, frame=self.settings.frame)
                for path in filter(None, (case.truth, case.mask)):
                    read_labels(path)
                raise
            if old and (old.status, old.key) == ("done", key) and self.folder.is_whole(old):
                return replace(old, input=case.input, reason="")
            volume = read_volume(case.scan, frame=self.settings.frame)
            notes: list[str] = []
            brain = lesion = None
            mend = "add --resample to bring it there"
            if case.mask is not None:
                brain, said = read_beside(
                    "brain mask", case.mask, volume, self.settings.resample, mend
                )
                notes += said
            if case.truth is not None:
                lesion, said = read_beside(
                    "truth", case.truth, volume, self.settings.resample, mend
                )
                notes += said
            slices = prepare(volume, self.checkpoint.specification.preparation, brain)
            seconds = time.perf_counter() - started
            return Prepared(case, key, volume, slices, lesion, notes, seconds)
        except Exception as error:  # whatever it is, it is this case's alone
            return self.failed(case, error, time.perf_counter() - started)

    def reconstruct(self, prepared: Prepared) -> Generator[Progress, None, None]:
        """The network's part; see `napari_addm.detection.detect`."""
        yield from detect(
            prepared.volume,
            self.checkpoint,
            self.detection,
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
        case, volume = prepared.case, prepared.volume
        try:
            detection = replace(detection, warnings=(*detection.warnings, *prepared.notes))
            anomaly = detection.anomaly.data
            labels, findings = computed_findings(volume, detection, self.threshold, self.minimum_ml)
            metrics = None
            if prepared.lesion is not None:
                metrics = evaluate(
                    anomaly,
                    prepared.lesion,
                    threshold=self.threshold,
                    mask=detection.region,
                    voxel_ml=volume.voxel_ml,
                    prediction=labels,
                )
            quality = check_quality(prepared.slices, detection.specification, detection)
            self._claim(case)
            paths = save_detection(
                self.folder.path / case.folder,
                volume,
                detection,
                labels,
                findings,
                checkpoint=self.checkpoint,
                threshold=self.threshold,
                minimum_ml=self.minimum_ml,
                computed=labels,
                frame=self.settings.frame,
                metrics=metrics,
                truth=case.truth,
                truth_voxels=prepared.lesion,
                mask=case.mask,
                quality=quality.record(),
                dated=False,
                overwrite=True,
            )
            if self.settings.pictures:
                from napari_addm.overlay import caption_lines, overlay_png

                paths["overlay"] = overlay_png(
                    case.paths(self.folder.path)["overlay"],
                    volume,
                    anomaly,
                    labels,
                    prepared.lesion,
                    detection.reconstruction.data,
                    caption=caption_lines(
                        detection, self.checkpoint.sha256, self.threshold, findings=findings
                    ),
                    threshold=self.threshold,
                )
            spent = prepared.seconds + seconds + time.perf_counter() - started
            result = CaseResult(
                case.name,
                case.input,
                "done",
                seconds=round(spent, 3),
                anomaly_ml=sum(finding.volume_ml for finding in findings),
                findings=len(findings),
                dice=None if metrics is None else metrics.dice,
                qc=tuple(flag.key for flag in quality.flags),
                metrics={} if metrics is None else asdict(metrics),
                files={
                    path.relative_to(self.folder.path).as_posix(): digest(path)
                    for path in paths.values()
                },
                key=prepared.key,
            )
            self.folder.write_state(result, self.parameters_hash)
            return result
        except Exception as error:
            self._check_output(error)
            spent = prepared.seconds + seconds + time.perf_counter() - started
            return self.failed(case, error, spent)

    # - what becomes of a case -

    def key(self, case: CohortCase) -> str:
        """Hash of everything that a result depends on."""
        inputs = [
            None if path is None else (path.name, digest(path))
            for path in (case.scan, case.truth, case.mask)
        ]
        return hash_of({"parameters": self.parameters, "inputs": inputs})

    def failed(self, case: CohortCase, error: Exception, seconds: float) -> CaseResult:
        """The result of a case that cannot be done; what an earlier run left of it is removed.

        Raises
        ------
        AddmError
            When the output cannot be written to.
        """
        result = CaseResult(
            case.name, case.input, "failed", self._reason(case, error), round(seconds, 3)
        )
        try:
            old, _ = self.folder.read_state(case.name)
            for name in old.files if old else ():
                (self.folder.path / name).unlink(missing_ok=True)
            self.folder.write_state(result, self.parameters_hash)
        except (OSError, AddmError) as lost:
            self._check_output(lost)
            raise
        return result

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
        return case.told(text).replace(str(self.folder.path / case.home), case.home)

    def _claim(self, case: CohortCase) -> None:
        """Say that files are about to come, so that those of a killed run are known as ours.

        Raises
        ------
        AddmError
            When there are files that no run of this batch wrote.
        """
        old, _ = self.folder.read_state(case.name)
        if old is None or old.status == "failed":
            there = next(
                (path for path in case.paths(self.folder.path).values() if path.exists()), None
            )
            if there is not None:
                raise AddmError(
                    f"{there} exists already and is of no run of this batch: choose another "
                    "output folder."
                )
        begun = CaseResult(case.name, case.input, "skipped", "its writing was cut off")
        files = {} if old is None else old.files
        self.folder.write_state(replace(begun, files=files), self.parameters_hash)


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
        From `napari_addm.cohort.find_cohort`.
    output : path
        A case that this folder has for the same input, model and parameters is not run again.
    checkpoint : Checkpoint
    settings : BatchSettings, optional
    shard : Shard, optional
        Only this part of the cases.
    only : collection of str, optional
        Names of the cases to run, such as those of `CohortFolder.failed`; of all others plan and
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
    run = Run(batch, shard.take(cases), shard, only)
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
        self.finished = self.failed = self.worked = 0
        self.started = time.perf_counter()
        self.written = -float("inf")
        self.writing: deque[Future[CaseResult]] = deque()
        inputs = {
            path.resolve()
            for case in cases
            for path in (case.scan, case.truth, case.mask)
            if path is not None
        }
        for case in self.todo:  # no output may take the place of an input, be it another case's
            for path in case.paths(batch.folder.path).values():
                if path.resolve() in inputs:
                    raise AddmError(f"{path} is an input: choose another output folder.")

    def drive(self) -> Iterator[BatchProgress]:
        """All of it: what is known before, the cases, and the manifest whatever happens."""
        chosen = {case.name for case in self.todo}
        for case in self.cases:
            self.results[case.name] = self._known(case, case.name in chosen)
        self.batch.folder.sweep(self.cases, self.shard)
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
                    yield self.take(self.batch.failed(item.case, error, spent))
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
        old, parameters = self.batch.folder.read_state(case.name)
        if old is not None and old.status == "done":
            if parameters == self.batch.parameters_hash:
                return replace(old, reason=EARLIER)
            return CaseResult(case.name, case.input, "skipped", OTHER_SETTINGS)
        if not chosen:
            return old if old and old.status == "failed" else replace(nothing, reason=NOT_CHOSEN)
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
            stage, case, self.finished, len(self.todo), self.failed, eta=eta, **more
        )

    def _manifest(self, plan: bool = False) -> None:
        folder = self.batch.folder
        try:
            if plan:
                folder.write_plan(self.shard, self.batch.parameters, self.cases)
            folder.write_manifest(folder.manifest_path(self.shard), self.results.values())
        except AddmError as error:
            raise OutputLostError(str(error)) from error
        self.written = time.perf_counter()
