"""The files of one case: maps and labels on the scan's own grid, findings, run record."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from napari_addm.errors import AddmError
from napari_addm.findings.findings import (
    NO_DECISIONS,
    Decisions,
    Finding,
    Findings,
    Marker,
    findings_csv,
    findings_record,
)
from napari_addm.io.files import folder_aside, write_atomic
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.images import write_volume
from napari_addm.io.volume import Volume
from napari_addm.metrics.metrics import Metrics
from napari_addm.outputs.naming import case_paths, check_dataset, dataset_files
from napari_addm.outputs.record import (
    CheckpointEntry,
    FileEntry,
    FindingEntry,
    InputEntry,
    LabelsEntry,
    MaskEntry,
    MidlineEntry,
    RecordedSettings,
    RunRecord,
    SlicesEntry,
    file_entry,
    geometry_entry,
    software_versions,
)

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint
    from napari_addm.detection.pipeline import Detection


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure that a folder can be written to, whether it exists yet or not; creates nothing.

    Raises
    ------
    AddmError
        When it cannot.
    """
    folder = Path(folder)
    parent = folder
    try:
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        # Trying is surer than asking: permissions, read-only disks and full ones all show.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise AddmError(
            f"{folder} cannot be written to ({error.strerror}): choose another output folder."
        ) from error


def check_outputs(
    folder: str | os.PathLike[str],
    stem: str,
    overwrite: bool = False,
    volume: Volume | None = None,
    *,
    keep: Sequence[Path | None] = (),
) -> dict[str, Path]:
    """Make sure, before any computation, that a case can be written; nothing is created.

    Parameters
    ----------
    folder : path
        Where the files will go; it need not exist yet.
    stem : str
        How their names begin.
    overwrite : bool
        Whether files of an earlier run may be replaced.
    volume : Volume, optional
        The scan; its file is never replaced.
    keep : sequence of Path
        Further input files (ground truth, brain mask) that are never replaced.

    Returns
    -------
    dict of str to Path
        The paths; see `napari_addm.outputs.naming.case_paths`.

    Raises
    ------
    AddmError
        When the folder cannot be written to, a file is there already, or an
        input would be replaced.
    """
    folder = Path(folder)
    paths = case_paths(folder, stem)
    check_folder(folder)
    check_dataset(folder, stem)
    inputs = [volume.source.path if volume else None, *keep]
    kept = {path.resolve() for path in inputs if path is not None}
    for path in paths.values():
        if path.resolve() in kept:
            raise AddmError(f"{path} is an input of this run: choose another output folder.")
        if path.is_dir():
            raise AddmError(f"{path} is a folder: remove it, or choose another output folder.")
        if path.exists() and not overwrite:
            raise AddmError(
                f"{path} exists already: use --overwrite to replace it, or choose another "
                "output folder."
            )
    return paths


@contextlib.contextmanager
def claim_outputs(folder: str | os.PathLike[str], stem: str) -> Iterator[None]:
    """Keep a case to one run at a time, across processes; may be nested in one thread.

    The system lets go of the lock when the process ends, however it ends. The
    lock file and folders that were made for it are gone afterwards, unless
    something else was written into them.

    Raises
    ------
    AddmError
        When another run has the case, or the folder cannot be written to.
    """
    inner = case_paths(Path(folder), stem)["record"].parent
    made = []
    try:
        parent = inner
        while not parent.exists() and parent != parent.parent:
            made.append(parent)
            parent = parent.parent
        inner.mkdir(parents=True, exist_ok=True)
        lock = FileLock(inner / f".{stem}.lock", timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise AddmError(
            f"Another run is writing the files of {stem} in {inner}: wait until it has finished, "
            "or choose another output folder."
        ) from error
    except OSError as error:
        raise _unwritable(inner, error) from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            # Only while it is held: who waits for it then sees that it is gone, and makes its own.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
        lock.release()
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()


def _unwritable(folder: Path, error: OSError) -> AddmError:
    return AddmError(
        f"{folder} cannot be written to ({error.strerror or error}): choose another output "
        "folder, or free some space."
    )


def save_detection(
    folder: str | os.PathLike[str],
    volume: Volume,
    detection: Detection,
    labels: np.ndarray,
    findings: Sequence[Finding],
    *,
    checkpoint: Checkpoint,
    threshold: float,
    minimum_ml: float,
    computed: np.ndarray | None = None,
    decisions: Decisions = NO_DECISIONS,
    stem: str | None = None,
    frame: int | None = None,
    metrics: Metrics | None = None,
    truth: Path | None = None,
    truth_voxels: np.ndarray | None = None,
    mask: Path | None = None,
    mask_given: bool | None = None,
    seconds: Mapping[str, float] | None = None,
    quality: Mapping[str, Any] | None = None,
    dated: bool = True,
    seg: bool = False,
    overwrite: bool = False,
    also: Mapping[str, Callable[[Path], object]] | None = None,
    ready: Callable[[Mapping[str, Path]], object] | None = None,
) -> dict[str, Path]:
    """Write the maps, the labels, the findings and the run record of one case.

    The files are written aside and take their names together at the end, so
    that a failure leaves none of them. The names are those of
    `napari_addm.outputs.naming.case_paths`; a BIDS scan's dataset is described, too.

    Parameters
    ----------
    folder : path
        Created if missing.
    volume : Volume
        The scan; everything is written on its own grid.
    detection : Detection
    labels : ndarray of int, shape (S, A, R)
        0 = no finding. The record says how many voxels differ from what the
        threshold alone gives, as a person's edits do.
    findings : sequence of Finding
        Measured on `labels`.
    checkpoint : Checkpoint
        That `detection` was made with.
    threshold, minimum_ml : float
        That `labels` were made with.
    computed : ndarray of int, shape (S, A, R), optional
        What the threshold alone gives, where that is known; otherwise it is worked out. `labels`
        itself means that nobody has edited it.
    decisions : mapping of int to Decision
        What a person thinks of the findings, by their ids.
    stem : str, optional
        How the file names begin; the scan's name by default.
    frame : int, optional
        Of a 4D scan; the volume's own by default.
    metrics : Metrics, optional
        Against the truth, inside the brain mask.
    truth, mask : Path, optional
        The files of the ground truth and of the brain mask that were given.
    truth_voxels : ndarray, shape (S, A, R), optional
        The truth as it was compared; nonzero is anomalous.
    mask_given : bool, optional
        Whether the brain mask was given at all; a mask may have no file.
    seconds : mapping of str to float, optional
        Seconds per stage for the record; the detection's own by default.
    quality : mapping, optional
        For the record; see `napari_addm.detection.quality.Quality.record`.
    dated : bool
        Whether the record tells the date and the seconds. Without them, equal runs give equal
        bytes.
    seg : bool
        Also write the labels, less the rejected findings, as a DICOM segmentation;
        the scan has to come from a DICOM series.
    overwrite : bool
        Replace the files of an earlier run.
    also : mapping of str to callable, optional
        What else belongs to the case, such as ``overlay``: each is given the path to write to. The
        record does not name these files.
    ready : callable, optional
        Called once all files are written aside, by their keys, before the first one takes its name;
        if it raises, none does.

    Returns
    -------
    dict of str to Path
        The written files: ``anomaly``, ``labels``, ``recon``, ``uncertainty``
        (several draws only), ``findings``, ``seg`` (if asked for, and there are
        findings that are not rejected), ``record``.

    Raises
    ------
    AddmError
        When a file cannot or must not be written, or another run has the case.
    """
    folder = Path(folder)
    stem = stem or volume.name
    with claim_outputs(folder, stem):
        paths = check_outputs(folder, stem, overwrite, volume, keep=(truth, mask))
        maps = {
            "anomaly": detection.anomaly,
            "labels": volume.with_data(labels),
            "recon": detection.reconstruction,
        }
        if detection.uncertainty is not None:
            maps["uncertainty"] = detection.uncertainty
        inner = paths["record"].parent
        try:
            with folder_aside(inner) as aside:
                staged = {key: Path(aside, paths[key].name) for key in maps}
                # zlib and hashlib let go of the interpreter's lock, so threads work side by side.
                with ThreadPoolExecutor() as pool:
                    writing = [pool.submit(write_volume, staged[key], maps[key]) for key in maps]
                    hashes = {key: pool.submit(voxels_sha256, maps[key].data) for key in maps}
                    inputs = pool.submit(_inputs, volume, detection, frame, mask, mask_given)
                    comparing = pool.submit(
                        _labels_entry,
                        volume,
                        detection,
                        labels,
                        threshold,
                        minimum_ml,
                        computed,
                        hashes["labels"],
                    )
                for written in writing:
                    written.result()
                staged["findings"] = Path(aside, paths["findings"].name)
                write_atomic(staged["findings"], findings_csv(findings, decisions))
                entry = comparing.result()
                if seg:
                    place = Path(aside, paths["seg"].name)
                    edited = entry.edited_voxels > 0
                    if _write_seg(place, maps["labels"], edited, findings, decisions):
                        staged["seg"] = place
                record = RunRecord(
                    created_utc=(
                        datetime.now(UTC).isoformat(timespec="seconds") if dated else None
                    ),
                    **inputs.result(),
                    truth=_truth(truth, truth_voxels, metrics),
                    **_done(detection, checkpoint),
                    threshold=float(threshold),
                    minimum_ml=float(minimum_ml),
                    seconds=(
                        _rounded(detection.seconds if seconds is None else seconds) if dated else {}
                    ),
                    quality=None if quality is None else dict(quality),
                    findings=tuple(
                        FindingEntry.model_validate(entry)
                        for entry in findings_record(findings, decisions)
                    ),
                    labels=entry,
                    metrics=None if metrics is None else metrics_record(metrics, detection),
                    outputs={
                        key: FileEntry(
                            name=path.name,
                            sha256=None if key in maps else file_sha256(path),
                            voxels_sha256=hashes[key].result() if key in maps else None,
                        )
                        for key, path in staged.items()
                    },
                )
                staged["record"] = Path(aside, paths["record"].name)
                write_atomic(staged["record"], record.to_json())
                for key, write in (also or {}).items():
                    write(Path(aside, paths[key].name))
                    staged[key] = Path(aside, paths[key].name)
                for path, text in dataset_files(folder, stem).items():
                    if not os.path.lexists(path):
                        write_atomic(path, text)
                if ready is not None:
                    ready(staged)
                for key, path in staged.items():
                    os.replace(path, paths[key])
            # What an earlier run wrote and this one did not must not lie beside this one's.
            for key in paths.keys() - staged.keys():
                paths[key].unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(inner, error) from error
        except AddmError as error:
            if isinstance(error.__cause__, OSError):  # it names the file aside, which nobody knows
                raise _unwritable(inner, error.__cause__) from error
            raise
        return {key: paths[key] for key in staged}


def _write_seg(
    path: Path,
    labels: Volume,
    edited: bool,
    findings: Sequence[Finding],
    decisions: Decisions,
) -> Path | None:
    from napari_addm.io.dicom import write_seg

    if not labels.source.series:
        raise AddmError(
            f"{labels.name} does not come from a DICOM series, so there is nothing that a DICOM "
            "segmentation could belong to: leave it out, or detect in the DICOM folder."
        )
    return write_seg(
        path,
        labels,
        labels.source.series,
        edited=edited,
        locations={finding.id: finding.location for finding in findings},
        accepted={id for id, made in decisions.items() if made.verdict == "accepted"},
        rejected={id for id, made in decisions.items() if made.verdict == "rejected"},
    )


def _inputs(
    volume: Volume,
    detection: Detection,
    frame: int | None,
    mask: Path | None,
    mask_given: bool | None,
) -> dict[str, Any]:
    given = mask is not None if mask_given is None else mask_given
    scan = file_entry(volume.source.path, volume.data).model_dump()
    series = volume.source.series
    if series:
        scan |= {"name": volume.name, "sha256": files_sha256(series), "files": len(series)}
    brain = file_entry(mask, detection.brain_mask.data)
    return {
        "input": InputEntry(**scan, frame=volume.source.frame if frame is None else frame),
        "brain_mask": MaskEntry(**brain.model_dump(), origin="given" if given else "found"),
        "geometry": geometry_entry(volume),
    }


def _truth(
    path: Path | None, voxels: np.ndarray | None, metrics: Metrics | None
) -> FileEntry | None:
    if path is None and metrics is None:
        return None
    return file_entry(path, None if voxels is None else np.asarray(voxels) != 0)


def _done(detection: Detection, checkpoint: Checkpoint) -> dict[str, Any]:
    """What was computed, with which model, on which machine."""
    specification, done = detection.specification, detection.done
    return {
        "checkpoint": CheckpointEntry(
            name=specification.name,
            file=checkpoint.path.name,
            sha256=checkpoint.sha256,
            weights_sha256=specification.weights_sha256,
        ),
        "settings": RecordedSettings(
            **detection.settings.model_dump(),
            erosion_mm=specification.detection.score.erosion_mm,
        ),
        "device": detection.device,
        "precision": detection.precision,
        "threads": detection.threads,
        "versions": software_versions(detection.device),
        "slices_done": SlicesEntry(
            done=int(done.sum()),
            of=len(done),
            indices=None if done.all() else tuple(np.flatnonzero(done).tolist()),
        ),
        "midline": (
            None
            if detection.midline is None
            else MidlineEntry.model_validate(asdict(detection.midline))
        ),
        "warnings": detection.warnings,
    }


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(float(spent), 3) for stage, spent in seconds.items()}


def _labels_entry(
    volume: Volume,
    detection: Detection,
    labels: np.ndarray,
    threshold: float,
    minimum_ml: float,
    computed: np.ndarray | None,
    sha256: Future[str],
) -> LabelsEntry:
    if computed is None:
        computed = computed_labels(volume, detection, threshold, minimum_ml)
    if computed is labels or np.array_equal(computed, labels):  # nobody edited them
        return LabelsEntry(computed_voxels_sha256=sha256.result(), edited_voxels=0)
    return LabelsEntry(
        computed_voxels_sha256=voxels_sha256(computed),
        edited_voxels=edited_voxels(computed, labels),
    )


def edited_voxels(computed: np.ndarray, labels: np.ndarray) -> int:
    """How many voxels differ between two label images, whatever numbers the findings have.

    The panel keeps a finding's number while the threshold moves, so numbers alone say nothing.
    """
    either = (computed != 0) | (labels != 0)
    if not either.any():
        return 0
    # A pair of numbers as one: sorting these is ten times faster than sorting rows.
    ours, our_codes = np.unique(computed[either], return_inverse=True)
    theirs, their_codes = np.unique(labels[either], return_inverse=True)
    pairs, counts = np.unique(our_codes * len(theirs) + their_codes, return_counts=True)
    ours, theirs = ours[pairs // len(theirs)], theirs[pairs % len(theirs)]
    partner: dict[int, int] = {}
    taken: set[int] = set()
    same = 0
    for n in np.argsort(-counts, kind="stable"):
        one, other = int(ours[n]), int(theirs[n])
        if one and other and one not in partner and other not in taken:
            partner[one] = other
            taken.add(other)
            same += int(counts[n])
    return int(counts.sum()) - same


def computed_labels(
    volume: Volume, detection: Detection, threshold: float, minimum_ml: float
) -> np.ndarray:
    """The findings as the threshold alone gives them, inside the brain and finished slices.

    Returns
    -------
    ndarray of int, shape (S, A, R)
    """
    return _marker(volume, detection).label(threshold, minimum_ml)


def computed_findings(
    volume: Volume, detection: Detection, threshold: float, minimum_ml: float
) -> tuple[np.ndarray, Findings]:
    """`computed_labels`, and the findings measured."""
    uncertainty = detection.uncertainty.data if detection.uncertainty else None
    marker = _marker(volume, detection)
    return marker.find(threshold, minimum_ml, volume, uncertainty, detection.midline)


def _marker(volume: Volume, detection: Detection) -> Marker:
    anomaly, region = detection.anomaly.data, detection.region
    return Marker(anomaly, spacing=volume.spacing, mask=region, compact=True)


def metrics_record(metrics: Metrics, detection: Detection) -> dict[str, Any]:
    """Metrics that were computed inside the brain mask, ready for JSON; says so in ``region``."""
    region = "brain mask, on the scan's grid"
    if not detection.done.all():
        region = f"{region}, {int(detection.done.sum())} of {len(detection.done)} slices"
    return {"region": region, **asdict(metrics)}
