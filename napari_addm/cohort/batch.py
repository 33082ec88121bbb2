"""One case of a batch: read it, run the network, write its files, and keep what became of it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from napari_addm import __version__
from napari_addm.checkpoint.file import Checkpoint
from napari_addm.cohort.case import CUT_OFF, NO_SCAN, UNCHECKED, CaseResult, CohortCase
from napari_addm.cohort.files import check_answers, hash_scan
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.guard import (
    DecidedError,
    OtherScanError,
    check_free,
    check_same_scan,
    unreadable,
)
from napari_addm.cohort.review import finish_saving
from napari_addm.cohort.state import CaseState, LaterRun
from napari_addm.detection.pipeline import Detection, Progress
from napari_addm.detection.preparation import ModelSlices, prepare
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.io.hashing import json_sha256, scan_sha256
from napari_addm.io.kinds import why_no_scan
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.outputs.folder import check_folder
from napari_addm.outputs.run_case import (
    CaseRequest,
    detect_case,
    measure_case,
    plan_case,
    read_case,
)

# After one of these errors of the output folder, every further case would fail as well.
HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
# Incremented when the same input gives other figures or files than the version before. Since 2,
# sides are counted from the brain's midline; since 3, findings have regions.
RESULTS = 3
KEPT = "its files are of an earlier run with other settings (or another model or version)"
KEPT_OTHER_INPUT = "its files are of an earlier run with another scan, ground truth or mask"
INPUT_WORDS = {"scan": "scan", "truth": "ground truth", "mask": "brain mask"}


@dataclass(frozen=True)
class BatchSettings:
    """What a batch does with every case.

    Attributes
    ----------
    threshold, minimum_ml : float, optional
        The checkpoint's own by default.
    frame : int, optional
        Which frame of 4D scans.
    resample : bool
        Bring truths and masks that lie on another grid to the scan's.
    workers : int
        Number of threads that read, and of threads that write.
    """

    detection: DetectionSettings = field(default_factory=DetectionSettings)
    threshold: float | None = None
    minimum_ml: float | None = None
    frame: int | None = None
    resample: bool = False
    pictures: bool = True
    workers: int = 1


@dataclass(frozen=True, eq=False)
class ReadCase:
    """A case that is ready for the network; `key` is the hash of all that its result depends on."""

    case: CohortCase
    key: str
    origin: dict[str, str]
    inputs: CaseInputs
    slices: ModelSlices
    seconds: float


class OutputLostError(AddmError):
    """The output folder takes no more files; going on would only fail case after case."""


class Batch:
    """What all cases of a run share: model, settings, folder. Its methods are safe in threads.

    Raises
    ------
    AddmError
        When the settings do not fit the checkpoint, or the output cannot be written to.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: BatchSettings, output: str | os.PathLike[str]
    ) -> None:
        if settings.workers < 1:
            raise AddmError(f"{settings.workers} workers are too few; it takes at least 1.")
        self.checkpoint = checkpoint
        self.settings = settings
        self.plan = plan_case(
            checkpoint.specification,
            settings.detection,
            threshold=settings.threshold,
            minimum_ml=settings.minimum_ml,
        )
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
        self.stopped = threading.Event()  # ends the waiting for silent disks

    # --- the three steps of a case ---------------------------------------------------------------

    def read(self, case: CohortCase) -> ReadCase | CaseResult:
        """Read and prepare a case, unless it is done or cannot be."""
        started = time.perf_counter()
        states, key = self.folder.states, ""
        try:
            if case.problem:
                raise InputError(case.problem)
            state = states.read(case)
            if state is not None and state.deciding:
                state = finish_saving(self.folder.path, case, state)
            for path in case.inputs.values():
                check_answers(path, self.stopped)
            check_same_scan(self.folder, case, state)
            key, origin = self._key(case)
            if (done := self._find_done(case, state, key, origin)) is not None:
                return done
            check_free(self.folder, case, state)
            inputs = self._read_inputs(case)
            if case.searched and (kind := why_no_scan(inputs.scan.data, case.scan)):
                return CaseResult(case.name, case.input, "skipped", NO_SCAN.format(kind))
            mask = None if inputs.mask is None else inputs.mask.voxels
            slices = prepare(inputs.scan, self.checkpoint.specification.preparation, mask)
            return ReadCase(case, key, origin, inputs, slices, time.perf_counter() - started)
        except Exception as error:  # any error concerns this case alone
            return self.keep_failure(case, error, time.perf_counter() - started, key)

    def _find_done(
        self, case: CohortCase, state: CaseState | None, key: str, origin: dict[str, str]
    ) -> CaseResult | None:
        """The result of a case that is done already, and whole."""
        states = self.folder.states
        if state is None or (state.result.status, state.result.key) != ("done", key):
            return None
        if not states.is_whole(state.result):
            # A person may have saved decisions since the state was read.
            state = states.read(case)
            if state is None or state.result.key != key or not states.is_whole(state.result):
                return None
        old, later = state.result, state.later
        now = replace(old, input=case.input, reason="", origin=origin)
        if later is not None or now != old:
            state = states.read(case) or state
            now = replace(state.result, input=case.input, reason="", origin=origin)
            states.write(now, state.parameters)
        return now

    def _read_inputs(self, case: CohortCase) -> CaseInputs:
        resample = self.settings.resample
        request = CaseRequest(
            case.scan,
            self.folder.path,
            mask=case.mask,
            truth=case.truth,
            frame=self.settings.frame,
            resample_mask=resample,
            resample_truth=resample,
        )
        return read_case(request, remedy="add --resample to bring it there")

    def _key(self, case: CohortCase) -> tuple[str, dict[str, str]]:
        """Hash of everything that a result depends on, and `CaseResult.origin`."""
        try:
            hashes = {what: hash_scan(path, self.stopped) for what, path in case.inputs.items()}
        except OSError as error:
            self._read_inputs(case)  # its errors say what is wrong
            raise unreadable(case.scan, error) from error
        inputs = [
            (case.inputs[what].name, hashes[what]) if what in hashes else None
            for what in INPUT_WORDS
        ]
        key = json_sha256({"parameters": self.parameters, "inputs": inputs})
        return key, {**case.origin, "content": hashes["scan"]}

    def detect(self, read: ReadCase) -> Generator[Progress, None, Detection | CaseResult]:
        """Run the network; returns the row of a case that failed."""
        started = time.perf_counter() - read.seconds
        try:
            return (
                yield from detect_case(
                    read.inputs, self.checkpoint, self.plan.settings, read.slices
                )
            )
        except Exception as error:
            return self.keep_failure(read.case, error, time.perf_counter() - started, read.key)

    def write(self, read: ReadCase, detection: Detection, seconds: float) -> CaseResult:
        """Measure a detection that took `seconds`, and write its files; the state comes last.

        Raises
        ------
        OutputLostError
            When the disk is full or gone.
        """
        started, case = time.perf_counter() - read.seconds - seconds, read.case
        try:
            outputs = measure_case(read.inputs, detection, self.checkpoint, self.plan)
            check_free(self.folder, case, self.folder.states.read(case))
            files = self._write_files(read, outputs)
            findings, metrics, quality = outputs.findings, outputs.metrics, outputs.quality
            assert quality is not None  # the detection has its prepared scan
            result = CaseResult(
                case.name,
                case.input,
                "done",
                seconds=round(time.perf_counter() - started, 3),
                anomaly_ml=sum(finding.volume_ml for finding in findings),
                findings=len(findings),
                dice=None if metrics is None else metrics["dice"],
                qc=tuple(flag.key for flag in quality.flags),
                metrics={} if metrics is None else metrics.as_dict(),
                files=files,
                key=read.key,
                origin=read.origin,
            )
            self.folder.states.write(result, self.parameters_hash)
            return result
        except Exception as error:
            self._check_output(error)
            return self.keep_failure(case, error, time.perf_counter() - started, read.key)

    def _write_files(self, read: ReadCase, outputs: CaseOutputs) -> dict[str, str]:
        """Write the files of a case; returns their hashes by their names in the state."""
        case, hashes = read.case, {}

        def before_renaming(staged: Mapping[str, Path]) -> None:
            names = case.file_names()
            hashes.update({names[key]: scan_sha256(path) for key, path in staged.items()})
            self._announce(read, hashes)

        write_case(
            replace(outputs, name=case.prefix),
            self.folder.path / case.root,
            WriteOptions(montage=self.settings.pictures, dated=False, overwrite=True),
            before_renaming=before_renaming,
        )
        return hashes

    def _announce(self, read: ReadCase, replacing: Mapping[str, str]) -> None:
        """Write which files are about to be renamed, so that an end of the run amid it shows.

        The earlier result counts until the first file is replaced.
        """
        case, states = read.case, self.folder.states
        state = states.read(case)
        check_free(self.folder, case, state)
        if state is None:
            begun = CaseResult(case.name, case.input, "skipped", CUT_OFF, origin=read.origin)
            state = CaseState(begun, self.parameters_hash)
        files, _ = states.compare_files(state)
        states.write(replace(state.result, files=files), state.parameters, state.later, replacing)

    # --- failures --------------------------------------------------------------------------------

    def keep_failure(
        self, case: CohortCase, error: Exception, seconds: float, key: str = ""
    ) -> CaseResult:
        """Keep what became of a case that cannot be done now; files of an earlier run stay.

        An earlier result stays done, as a scan may be unreadable for a moment, unless its scan,
        truth, mask or settings are known to differ. One of the same inputs that a person has
        decided on stays done whatever the settings.

        Parameters
        ----------
        key : str
            Hash of input, model and parameters; empty if it could not be computed.

        Raises
        ------
        AddmError
            When the output cannot be written to.
        """
        reason = self._reason(case, error)
        result = CaseResult(case.name, case.input, "failed", reason, round(seconds, 3))
        if case.problem or isinstance(error, OtherScanError):
            return result  # state and files of this name are, or may be, another scan's
        try:
            return self._write_failure(case, result, key, isinstance(error, DecidedError))
        except (OSError, AddmError) as lost:
            self._check_output(lost)
            raise

    def _write_failure(
        self, case: CohortCase, result: CaseResult, key: str, decided: bool
    ) -> CaseResult:
        states = self.folder.states
        state = states.read(case)
        if state is None:
            if not states.has_file(case):  # one that does not count now may count again
                states.write(replace(result, origin=case.origin), self.parameters_hash)
            return result
        old, files, done = state.result, dict(state.result.files), state.done
        with suppress(OSError):  # its files cannot be read now, either
            files, changed = states.compare_files(state)
            done = done and (bool(changed) or states.verify_files(old))
        if not done:
            origin = old.origin if files else case.origin
            kept = {name: getattr(old, name) for name in ("accepted", "rejected", "noted", "seen")}
            failed = replace(result, files=files, origin=origin, **kept)
            states.write(failed, self.parameters_hash)
            return result
        row = _row_of_decided(case, old, result.reason) if decided else None
        row = row or self._row_of_earlier(case, state, result, key)
        status: Literal["done", "failed"] = "done" if row.status == "done" else "failed"
        later = LaterRun(status=status, reason=row.reason, parameters=self.parameters_hash)
        states.write(old, state.parameters, later)
        return row

    def _row_of_earlier(
        self, case: CohortCase, state: CaseState, result: CaseResult, key: str
    ) -> CaseResult:
        """The row of a failed case that an earlier run has done."""
        old, reason = state.result, result.reason
        unread = self._find_unreadable(case)
        if unread:
            reason = f"the {unread[0]} cannot be read: {unread[1]}"
        if state.parameters != self.parameters_hash:
            return replace(result, reason=f"{reason.rstrip('.')}; {KEPT}")
        other = key != old.key and bool(old.origin) and _has_other_regions(case, old)
        if (key and key != old.key and not unread) or other:
            return replace(result, reason=f"{reason.rstrip('.')}; {KEPT_OTHER_INPUT}")
        return replace(old, input=case.input, reason=f"{UNCHECKED}: {reason}")

    def _find_unreadable(self, case: CohortCase) -> tuple[str, str] | None:
        """Find the first input of a case that cannot be read: what it is, and why."""
        for what, path in case.inputs.items():
            try:
                check_answers(path, self.stopped)
                if what == "scan":
                    read_volume(path, frame=self.settings.frame)
                else:
                    read_labels(path)
            except Exception as error:
                return INPUT_WORDS[what], self._reason(case, error)
        return None

    def _check_output(self, error: Exception) -> None:
        number = _system_error(error)
        if number in HOPELESS:
            raise OutputLostError(
                f"{self.folder.path} takes no more files ({os.strerror(number)}): fix that, and "
                "run the same command again to go on."
            ) from error

    def _reason(self, case: CohortCase, error: Exception) -> str:
        """An error in one line, without the folders above the input."""
        text = str(error)
        if isinstance(error, MemoryError):
            text = "out of memory: close other programs, or use a larger machine"
        elif isinstance(error, OSError):
            text = f"{error.filename or case.scan}: {error.strerror or error}"
        elif not isinstance(error, AddmError):
            text = f"{type(error).__name__}: {text} (a bug in napari-addm: please report it)"
        return case.shorten_paths(text).replace(str(self.folder.path / case.folder), case.folder)


def _row_of_decided(case: CohortCase, old: CaseResult, reason: str) -> CaseResult | None:
    """The row of a result that a person has decided on; None for one of other inputs."""
    with suppress(OSError):
        same = scan_sha256(case.scan) == old.origin.get("content")
        if same and not _has_other_regions(case, old):
            return replace(old, input=case.input, reason=f"{UNCHECKED}: {reason}")
    return None


def _has_other_regions(case: CohortCase, old: CaseResult) -> bool:
    """Whether a result was made with another truth or mask, judging by their paths."""
    now = case.origin
    return any(now.get(what) != old.origin.get(what) for what in ("truth", "mask"))


def _system_error(error: BaseException | None) -> int | None:
    """The number of the system's error behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None
