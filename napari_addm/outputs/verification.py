"""Doing a recorded run again, and saying whether it gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_addm.checkpoint.file import DEMO_CHECKPOINT, Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection, Progress, choose_device, run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.findings.computed import computed_labels, edited_voxels
from napari_addm.io.arrays import displacement
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.images import read_beside, read_labels, read_volume
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.metrics.metrics import evaluate
from napari_addm.outputs.record import (
    FileEntry,
    InputEntry,
    RunRecord,
    read_record,
    software_versions,
)

# Other devices, versions and numbers of threads round differently. A run is the same when no voxel
# of a map is further off than this share of the map's largest value, and the findings overlap so.
MAP_TOLERANCE = 0.02
DICE_TOLERANCE = 0.98
METRIC_TOLERANCE = 0.02
GRID_MM = 1e-3
# How far above the record its scan is looked for: anat, session, subject, pipeline, derivatives.
LEVELS = 6

Verdict = Literal["identical", "same", "different"]


@dataclass(frozen=True)
class MapDifference:
    """How a map differs from the recorded one.

    Attributes
    ----------
    what : str
        Key of the map in ``RunRecord.outputs``.
    voxels : int
        That differ.
    largest : float
        Largest difference, in the map's units; 0 for labels.
    share : float
        The same over the largest value of the recorded map.
    dice : float or None
        Of the findings; labels only.
    """

    what: str
    voxels: int
    largest: float
    share: float
    dice: float | None = None

    @property
    def tolerable(self) -> bool:
        """Whether it is within what other hardware and versions may change."""
        if self.dice is not None:
            return self.dice >= DICE_TOLERANCE
        return self.share <= MAP_TOLERANCE

    def __str__(self) -> str:
        voxels = f"{self.voxels} voxel" + ("s differ" if self.voxels != 1 else " differs")
        if self.dice is not None:
            return f"{self.what}: {voxels}, Dice {self.dice:.4f}"
        return f"{self.what}: {voxels}, by up to {self.largest:.3g} ({self.share:.2%} of the peak)"


@dataclass
class Verification:
    """What came out.

    Attributes
    ----------
    verdict : {"identical", "same", "different"}
        The same voxel for voxel, within the tolerance, or neither; whatever is
        in `faults` makes it different.
    faults : list of str
        Why it is different, a sentence each.
    differences : list of MapDifference
        Between the recorded run and this one.
    notes : list of str
        What else a reader should know.
    environment : dict of str to (str, str)
        What differs between then and now: device, precision, threads, versions.
    """

    verdict: Verdict = "identical"
    faults: list[str] = field(default_factory=list)
    differences: list[MapDifference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the result is the same."""
        return self.verdict != "different"

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person."""
        if self.verdict == "identical":
            yield "The same: the run gives every map again, voxel for voxel."
        elif self.verdict == "same":
            yield (
                "The same within the tolerance: no voxel of a map is off by more than "
                f"{MAP_TOLERANCE:.0%} of its peak, and the findings overlap with a Dice of "
                f"{DICE_TOLERANCE:g} or more."
            )
        else:
            yield "Different."
        yield from self.faults
        yield from (str(difference) for difference in self.differences)
        if self.differences and self.environment:
            changes = (f"{key} {a} then, {b} now" for key, (a, b) in self.environment.items())
            yield f"Not as it was then: {'; '.join(changes)}."
        yield from self.notes


def verify(
    path: Path,
    *,
    scan: Path | None = None,
    model: Path | None = None,
    mask: Path | None = None,
    truth: Path | None = None,
    device: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Verification:
    """Do a recorded run again and compare.

    Parameters
    ----------
    path : Path
        The run record, among the files of its run.
    scan, model, mask, truth : Path, optional
        Where they are now; looked for by name around the record if missing.
        They are known by their hashes.
    device : str, optional
        The recorded one if this machine has it, else what it has.
    on_progress : callable, optional
        As for `napari_addm.detection.pipeline.run`.

    Raises
    ------
    AddmError
        When the run cannot be done again: the scan, the model or the mask is
        missing or another one.
    """
    record = read_record(path)
    result = Verification()
    volume = _scan(record, path, scan)
    checkpoint = _model(record, path, model, result)
    brain = None
    if record.brain_mask.origin == "given":
        brain = _mask(record, path, mask, volume)
    saved = _saved(record, path, volume, result)

    detection = run(
        volume,
        checkpoint,
        _settings(record, checkpoint, device),
        brain,
        on_progress=on_progress,
    )
    result.environment = _environment(record, detection)
    if voxels_sha256(detection.brain_mask.data) != record.brain_mask.voxels_sha256:
        result.faults.append("The brain mask that is found now is another one.")
    if detection.done.sum() != record.slices_done.done:
        result.faults.append(
            f"{int(detection.done.sum())} slices were done now and {record.slices_done.done} then."
        )
    for key, now in _maps(detection).items():
        _compare_map(key, now, record, saved, result)
    _compare_labels(volume, detection, record, saved, result)
    _compare_metrics(record, path, truth, volume, detection, saved, result)

    if result.faults or not all(difference.tolerable for difference in result.differences):
        result.verdict = "different"
        if record.slices_done.indices is not None and record.settings.slices is None:
            result.notes.append(
                "The run was stopped before its end; next to slices that were missing then, its "
                "map cannot be given again."
            )
    elif result.differences:
        result.verdict = "same"
    return result


# --- what went in ---------------------------------------------------------------------------------


def _scan(record: RunRecord, path: Path, given: Path | None) -> Volume:
    entry = record.input
    found = given or _find(entry, path, _bids_folder(entry.name))
    if found is None:
        name = entry.name or "the scan (a layer without a file)"
        if entry.files is not None:
            name = f"the folder of the DICOM series {entry.name}"
        raise AddmError(f"{path}: {name} was not found beside it: say where it is with --input.")
    is_series = found.is_dir()
    volume = _series(found, entry) if is_series else read_volume(found, frame=entry.frame)
    if voxels_sha256(volume.data) != entry.voxels_sha256:
        if not is_series and file_sha256(found) == entry.sha256:
            raise AddmError(
                f"{found} is the file of the record, but the run used other voxels, such as those "
                "of a layer that was edited: save that layer and give it with --input."
            )
        raise AddmError(
            f"{found} is another scan than the one of {path.name}, its voxels differ: give the "
            "right one with --input."
        )
    grid = record.geometry
    recorded = volume_from_native(np.broadcast_to(np.uint8(0), grid.shape), np.array(grid.affine))
    apart = displacement(recorded.affine, volume.affine, volume.shape)
    if recorded.shape != volume.shape or apart > GRID_MM:
        raise AddmError(
            f"{found} has the voxels of the record, but puts them up to {apart:.3g} mm elsewhere: "
            "give the file as it was with --input."
        )
    return volume


def _series(folder: Path, entry: InputEntry) -> Volume:
    from napari_addm.io.dicom import find_series, read_series

    for series in find_series(folder):
        if len(series.files) == entry.files and files_sha256(series.files) == entry.sha256:
            return read_series(series)
    raise AddmError(
        f"{folder} does not hold the DICOM series of the record ({entry.name}, {entry.files} "
        "images): give the right one with --input."
    )


def _model(record: RunRecord, path: Path, given: Path | None, result: Verification) -> Checkpoint:
    entry = record.checkpoint
    found = given or _find(FileEntry(name=entry.file, sha256=entry.sha256), path)
    if found is None and file_sha256(DEMO_CHECKPOINT) == entry.sha256:
        found = DEMO_CHECKPOINT
    if found is None:
        raise AddmError(
            f"{path}: the model {entry.file} ({entry.name}) was not found beside it: say where it "
            "is with --model."
        )
    checkpoint = load_checkpoint(found)
    if checkpoint.specification.weights_sha256 != entry.weights_sha256:
        raise AddmError(
            f"{found} is another model than the one of {path.name} ({entry.name}), its weights "
            "differ: give the right one with --model."
        )
    if checkpoint.sha256 != entry.sha256:
        result.notes.append(
            f"{found.name} has the weights of the recorded model and another header."
        )
    return checkpoint


def _mask(record: RunRecord, path: Path, given: Path | None, volume: Volume) -> np.ndarray:
    entry = record.brain_mask
    found = given or _find(FileEntry(name=entry.name, sha256=entry.sha256), path)
    if found is None:
        name = entry.name or "(a layer without a file)"
        raise AddmError(
            f"{path}: the brain mask {name} was not found beside it: say where it is with --mask."
        )
    brain, _ = read_beside("brain mask", found, volume, resample=True)
    return brain


def _find(entry: FileEntry, record: Path, inner: Path | None = None) -> Path | None:
    """The file of an entry, known by its hash: in the record's folder, above it, or bundled.

    Where one has the name and another hash, it is returned all the same, so
    that the caller can say what is wrong with it.
    """
    if entry.name is None or Path(entry.name).name != entry.name:
        return None
    named = None
    here = record.resolve()
    folders = [*here.parents[:LEVELS], Path.cwd(), DEMO_CHECKPOINT.parent]
    for folder in folders:
        for place in (folder / entry.name, *([folder / inner / entry.name] if inner else [])):
            if place.is_file():
                if file_sha256(place) == entry.sha256:
                    return place
                named = named or place
    return named


def _bids_folder(name: str | None) -> Path | None:
    """Where a BIDS dataset keeps a scan of this name."""
    parts = (name or "").split("_")
    if not parts[0].startswith("sub-"):
        return None
    session = [part for part in parts[1:2] if part.startswith("ses-")]
    return Path(parts[0], *session, "anat")


def _settings(record: RunRecord, checkpoint: Checkpoint, device: str | None) -> DetectionSettings:
    given = {name: getattr(record.settings, name) for name in DetectionSettings.model_fields}
    unknown = record.settings.model_extra
    if unknown:
        raise AddmError(
            f"The record has settings that this version does not know ({', '.join(unknown)}): use "
            f"napari-addm {record.versions.get('napari-addm', 'of a later version')}."
        )
    if record.settings.erosion_mm != checkpoint.specification.detection.score.erosion_mm:
        raise AddmError(
            f"{checkpoint.path} has another distance from the brain's edge in its header than the "
            "recorded run had: give the very file with --model."
        )
    if device is None:
        device = record.device.partition(":")[0]
        try:
            choose_device(device)
        except AddmError:
            device = "auto"
    given |= {"device": device, "precision": record.precision}
    if given["slices"] is None and record.slices_done.indices is not None:
        # a run that was stopped had no neighbours but these
        given |= {"slices": record.slices_done.indices, "context_mm": 0.0}
    return DetectionSettings(**given)


def _environment(record: RunRecord, detection: Detection) -> dict[str, tuple[str, str]]:
    then = {
        "device": record.device,
        "precision": record.precision,
        "threads": str(record.threads),
        **record.versions,
    }
    now = {
        "device": detection.device,
        "precision": detection.precision,
        "threads": str(detection.threads),
        **software_versions(detection.device),
    }
    keys = [*then, *(key for key in now if key not in then)]
    pairs = {key: (then.get(key, "unknown"), now.get(key, "unknown")) for key in keys}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


# --- what came out --------------------------------------------------------------------------------


@dataclass
class _Saved:
    """The voxels beside the record: as they were saved, and those that were changed since."""

    intact: dict[str, np.ndarray] = field(default_factory=dict)
    changed: dict[str, np.ndarray] = field(default_factory=dict)


def _maps(detection: Detection) -> dict[str, Volume]:
    maps = {"anomaly": detection.anomaly, "recon": detection.reconstruction}
    if detection.uncertainty is not None:
        maps["uncertainty"] = detection.uncertainty
    return maps


def _saved(record: RunRecord, path: Path, scan: Volume, result: Verification) -> _Saved:
    """Read what lies beside the record; `result` hears of faults that need no run to be seen."""
    saved = _Saved()
    for key, entry in record.outputs.items():
        name = entry.name or ""
        place = path.parent / name
        if Path(name).name != name or not place.is_file():
            result.faults.append(f"{name} is missing beside the record.")
            continue
        if entry.voxels_sha256 is None:
            if file_sha256(place) != entry.sha256:
                result.faults.append(f"{name} was changed since it was saved.")
            continue
        try:
            volume = read_labels(place) if key == "labels" else read_volume(place, constant=True)
        except AddmError as error:
            result.faults.append(str(error))
            continue
        if not volume.same_grid(scan):
            result.faults.append(f"{name} no longer lies where the scan lies.")
        elif voxels_sha256(volume.data) == entry.voxels_sha256:
            saved.intact[key] = volume.data
        else:
            saved.changed[key] = volume.data
    return saved


def _compare_map(
    key: str, now: Volume, record: RunRecord, saved: _Saved, result: Verification
) -> None:
    entry = record.outputs.get(key)
    if entry is None:
        result.faults.append(f"The record names no {key}, and the run gives one.")
        return
    again = voxels_sha256(now.data) == entry.voxels_sha256
    if key in saved.intact:
        if not again:
            apart = np.abs(now.data - saved.intact[key])
            largest, peak = float(apart.max()), float(np.abs(saved.intact[key]).max())
            share = largest / peak if peak else float("inf")
            number = int(np.count_nonzero(apart))
            result.differences.append(MapDifference(key, number, largest, share))
        return
    words = "the run gives the recorded map again"
    if not again:
        words = "the run gives another map than the recorded one, too"
    if key in saved.changed:
        apart = np.abs(now.data - saved.changed[key])
        number = int(np.count_nonzero(apart))
        result.faults.append(
            f"{entry.name} was changed since it was saved ({number} voxels are not as the run "
            f"gives them, by up to {float(apart.max()):.3g}); {words}."
        )
    elif not again:
        result.faults.append(f"Of {key}, {words}.")


def _compare_labels(
    volume: Volume,
    detection: Detection,
    record: RunRecord,
    saved: _Saved,
    result: Verification,
) -> None:
    """What the threshold gives then and now; what a person edited is told apart."""
    now = computed_labels(detection, record.threshold, record.minimum_ml)
    edited = record.labels.edited_voxels
    if edited:
        result.notes.append(
            f"A person edited the labels before they were saved ({edited} voxels); what the "
            "threshold gave was compared."
        )
    again = voxels_sha256(now) == record.labels.computed_voxels_sha256
    if "labels" in saved.changed:
        number = edited_voxels(now, saved.changed["labels"])
        words = "gives the recorded findings again" if again else "gives other findings, too"
        result.faults.append(
            f"{record.outputs['labels'].name} was edited after it was saved ({number} voxels are "
            f"not as the threshold gives them); the run {words}."
        )
    if again:
        return
    if edited == 0 and "labels" in saved.intact:
        then = saved.intact["labels"]
    elif "anomaly" in saved.intact:
        before = replace(detection, anomaly=detection.anomaly.with_data(saved.intact["anomaly"]))
        then = computed_labels(before, record.threshold, record.minimum_ml)
    else:
        result.faults.append("The run gives other findings than the recorded ones.")
        return
    differing = edited_voxels(then, now)
    if differing:
        both = np.count_nonzero((then > 0) & (now > 0))
        either = np.count_nonzero(then) + np.count_nonzero(now)
        dice = 2.0 * both / either if either else 1.0
        result.differences.append(MapDifference("labels", differing, 0.0, 0.0, dice))


def _compare_metrics(
    record: RunRecord,
    path: Path,
    given: Path | None,
    volume: Volume,
    detection: Detection,
    saved: _Saved,
    result: Verification,
) -> None:
    if record.truth is None or record.metrics is None:
        return
    found = given or _find(record.truth, path, _bids_folder(record.truth.name))
    if found is None:
        result.notes.append(
            "The metrics were not checked, for the ground truth was not found: give it with "
            "--truth."
        )
        return
    if "labels" not in saved.intact:
        return
    lesion, _ = read_beside("truth", found, volume, resample=True)
    recorded = record.truth.voxels_sha256
    if recorded is not None and voxels_sha256(lesion) != recorded:
        result.faults.append(f"{found.name} is another ground truth than the recorded one.")
        return
    now = asdict(
        evaluate(
            detection.anomaly.data,
            lesion,
            threshold=record.threshold,
            mask=detection.region,
            voxel_ml=volume.voxel_ml,
            prediction=saved.intact["labels"],
        )
    )
    tolerance = METRIC_TOLERANCE if result.differences else 1e-6
    for key in ("dice", "iou", "precision", "recall", "auroc", "auprc"):
        then = record.metrics.get(key)
        if (then is None) != (now[key] is None) or (
            then is not None and abs(then - now[key]) > tolerance
        ):
            result.faults.append(f"The metric {key} was {then} and is {now[key]}.")
