"""Repeat a recorded run, and say whether it gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.devices import choose_device
from napari_addm.detection.pipeline import Progress
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.findings.computed import computed_labels, edited_voxels
from napari_addm.io.arrays import displacement
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.dicom import find_series
from napari_addm.io.dicom_header import is_dicom
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.outputs.record import FileEntry, RunRecord, read_record
from napari_addm.outputs.run_case import (
    CasePlan,
    CaseRequest,
    detect_case,
    finish,
    measure_case,
    read_case,
)

# Other devices, versions and numbers of threads round differently. A run is the same when no voxel
# of a map is further off than this share of the map's largest value, and the findings overlap so.
MAP_TOLERANCE = 0.02
DICE_TOLERANCE = 0.98
GRID_MM = 1e-3

Verdict = Literal["identical", "same", "different"]
VERDICTS: dict[Verdict, str] = {
    "identical": "The same: the run gives every map again, voxel for voxel.",
    "same": (
        f"The same within the tolerance: no voxel of a map is off by more than {MAP_TOLERANCE:.0%} "
        f"of its peak, and the findings overlap with a Dice of {DICE_TOLERANCE:g} or more."
    ),
    "different": "Different.",
}
Saved = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MapDifference:
    """How a map differs from the recorded one."""

    what: str  # key of the map in `RunRecord.outputs`
    voxels: int  # that differ
    largest: float = 0.0  # difference, in the map's units
    share: float = 0.0  # of the recorded map's peak
    dice: float | None = None  # of the findings; labels only

    @property
    def tolerable(self) -> bool:
        """Whether other hardware and versions may make this difference."""
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
    """The result of repeating a run; `environment` holds what then and now differ in."""

    problems: list[str] = field(default_factory=list)
    differences: list[MapDifference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The same voxel for voxel, the same within the tolerance, or different."""
        if self.problems or not all(difference.tolerable for difference in self.differences):
            return "different"
        return "same" if self.differences else "identical"

    def summary(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {"verdict": self.verdict, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """All of it in sentences."""
        yield VERDICTS[self.verdict]
        yield from self.problems
        yield from map(str, self.differences)
        if self.differences and self.environment:
            changes = (f"{key} {a} then, {b} now" for key, (a, b) in self.environment.items())
            yield f"Changed since then: {'; '.join(changes)}."
        yield from self.notes


def verify(
    path: Path,
    *,
    scan: Path | None = None,
    model: Path | None = None,
    mask: Path | None = None,
    device: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Verification:
    """Repeat a recorded run and compare.

    Parameters
    ----------
    path : Path
        The run record, among the files of its run.
    scan, model, mask : Path, optional
        Where they are now. They are looked for by name beside the record and one folder above it.
    device : str, optional
        The recorded one if this machine has it, else ``"auto"``.
    on_progress : callable, optional
        Called with every `Progress` of the detection.

    Raises
    ------
    AddmError
        When the run cannot be repeated: the scan, the model or the mask is missing or another
        one.
    """
    record, result = read_record(path), Verification()
    if mask is None and record.brain_mask.origin == "given":
        mask = _find("brain mask", "--mask", record.brain_mask, path)
    saved_model = FileEntry(name=record.checkpoint.file, sha256=record.checkpoint.sha256)
    request = CaseRequest(
        scan or _find("scan", "--scan", record.input, path),
        path.parent,
        checkpoint=model or _find("model", "--checkpoint", saved_model, path),
        mask=mask if record.brain_mask.origin == "given" else None,
        frame=record.input.frame,
        resample_mask=True,
    )
    inputs = _read_inputs(record, request)
    checkpoint = _load_model(record, request.checkpoint)
    saved = _read_saved(record, path.parent, inputs.scan, result)
    plan = CasePlan(_settings(record, device), record.threshold, record.minimum_ml)
    detection = finish(detect_case(inputs, checkpoint, plan.settings), on_progress)
    outputs = measure_case(inputs, detection, checkpoint, plan)
    then, now = record.environment, RunRecord.of(outputs).environment
    result.environment = {
        key: (then.get(key, "unknown"), now.get(key, "unknown"))
        for key in then | now
        if then.get(key) != now.get(key)
    }
    _compare_maps(outputs, record, saved, result)
    _compare_labels(outputs, record, saved, result)
    return result


def _find(what: str, option: str, entry: FileEntry, record: Path) -> Path:
    """Find an input beside the record, one folder above it, or among the bundled files."""
    name = entry.name or "(a layer without a file)"
    folders = (*record.resolve().parents[:2], DEMO_CHECKPOINT.parent)
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found or Path(name).name != name:
        raise AddmError(
            f"{record}: the {what} {name} was not found beside it: say where it is with {option}."
        )
    return next((file for file in found if file_sha256(file) == entry.sha256), found[0])


def _read_inputs(record: RunRecord, request: CaseRequest) -> CaseInputs:
    """Read scan and mask, and refuse a scan that is not the recorded one."""
    entry, grid, series = record.input, record.geometry, None
    if request.scan.is_dir() or is_dicom(request.scan):
        folder = request.scan if request.scan.is_dir() else request.scan.parent
        found = {files_sha256(each.files): each for each in find_series(folder)}
        series = found.get(entry.sha256 or "")
        if series is None:
            raise AddmError(
                f"{request.scan} does not hold the DICOM series of the record ({entry.name}, "
                f"{entry.files} images): give the right one with --scan."
            )
    inputs = read_case(request, series)
    scan = inputs.scan
    if voxels_sha256(scan.data) != entry.voxels_sha256:
        raise AddmError(
            f"{request.scan} has other voxels than the scan of the record: give the right file "
            "with --scan; a layer that was edited has to be saved first."
        )
    recorded = volume_from_native(np.broadcast_to(np.uint8(0), grid.shape), np.array(grid.affine))
    apart = displacement(recorded.affine, scan.affine, scan.shape)
    if apart > GRID_MM:
        raise AddmError(
            f"{request.scan} has the voxels of the record, but puts them up to {apart:.3g} mm "
            "elsewhere: give the file as it was with --scan."
        )
    return inputs


def _load_model(record: RunRecord, path: Path) -> Checkpoint:
    """Load the model; its header may be another one, but for what the record does not hold."""
    checkpoint = load_checkpoint(path)
    specification = checkpoint.specification
    if (
        specification.weights_sha256 != record.checkpoint.weights_sha256
        or specification.detection.score.erosion_mm != record.settings.erosion_mm
    ):
        raise AddmError(
            f"{path} is another model than the one of the record ({record.checkpoint.name}): give "
            "the right one with --checkpoint."
        )
    return checkpoint


def _settings(record: RunRecord, device: str | None) -> DetectionSettings:
    if device is None:
        device = record.device.partition(":")[0]
        try:
            choose_device(device)
        except AddmError:
            device = "auto"
    changes: dict[str, Any] = {"device": device, "precision": record.precision}
    if record.settings.slices is None and record.slices_done.indices is not None:
        # A run that was stopped had no neighbors but the slices that were done.
        changes |= {"slices": record.slices_done.indices, "context_mm": 0.0}
    return record.settings.to_detection().model_copy(update=changes)


def _read_saved(record: RunRecord, folder: Path, scan: Volume, result: Verification) -> Saved:
    """Read the maps beside the record; files that are missing or changed become problems."""
    saved = {}
    for key, entry in record.outputs.items():
        file = folder / Path(entry.name or "").name
        try:
            if entry.voxels_sha256 is None:
                intact = file_sha256(file) == entry.sha256
            else:
                read = read_labels(file) if key == "labels" else read_volume(file, constant=True)
                intact = read.same_grid(scan) and voxels_sha256(read.data) == entry.voxels_sha256
                if intact:
                    saved[key] = read.data
        except AddmError as error:
            result.problems.append(str(error))
        else:
            if not intact:
                result.problems.append(f"{file.name} was changed since it was saved.")
    return saved


def _compare_maps(
    outputs: CaseOutputs, record: RunRecord, saved: Saved, result: Verification
) -> None:
    if voxels_sha256(outputs.detection.brain_mask.data) != record.brain_mask.voxels_sha256:
        result.problems.append("The brain mask that is found now is another one.")
    for key, volume in outputs.maps.items():
        entry = record.outputs.get(key)
        if key == "labels" or (entry and voxels_sha256(volume.data) == entry.voxels_sha256):
            continue
        if key in saved:
            apart = np.abs(volume.data - saved[key])
            largest, peak = float(apart.max()), float(np.abs(saved[key]).max())
            share = largest / peak if peak else float("inf")
            voxels = int(np.count_nonzero(apart))
            result.differences.append(MapDifference(key, voxels, largest, share))
        else:
            result.problems.append(f"The run gives another {key} than the recorded one.")


def _compare_labels(
    outputs: CaseOutputs, record: RunRecord, saved: Saved, result: Verification
) -> None:
    """Compare what the threshold gives then and now, without a person's edits."""
    now, edited = outputs.labels, record.labels.edited_voxels
    if edited:
        result.notes.append(
            f"A person edited the labels before they were saved ({edited} voxels). What the "
            "threshold gave was compared."
        )
    if voxels_sha256(now) == record.labels.computed_voxels_sha256:
        return
    if not edited and "labels" in saved:
        then = saved["labels"]
    elif "anomaly" in saved:
        anomaly = outputs.scan.with_data(saved["anomaly"])
        before = replace(outputs.detection, anomaly=anomaly)
        then = computed_labels(before, record.threshold, record.minimum_ml)
    else:
        result.problems.append("The run gives other findings than the recorded ones.")
        return
    voxels = edited_voxels(then, now)
    if voxels:
        both = np.count_nonzero((then > 0) & (now > 0))
        dice = 2 * both / (np.count_nonzero(then) + np.count_nonzero(now))
        result.differences.append(MapDifference("labels", voxels, dice=dice))
