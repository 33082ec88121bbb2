"""Repeat a recorded run, and say whether it gives the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.devices import choose_device
from napari_addm.detection.pipeline import Progress
from napari_addm.errors import AddmError
from napari_addm.io.arrays import displacement
from napari_addm.io.checks import check_affine
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.dicom import find_series
from napari_addm.io.dicom_header import is_dicom
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.comparison import (
    MAPS,
    Verification,
    compare_maps,
    compare_records,
    compare_table,
)
from napari_addm.outputs.contents import CaseInputs
from napari_addm.outputs.record import SHORT, FileEntry, RunRecord, read_record
from napari_addm.outputs.run_case import (
    CasePlan,
    CaseRequest,
    detect_case,
    finish,
    measure_case,
    read_case,
)

GRID_MM = 1e-3


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
    """Repeat a recorded run and compare.

    Parameters
    ----------
    path : Path
        The run record, among the files of its run.
    scan, model, mask, truth : Path, optional
        Where they are now. They are looked for by name beside the record and one folder above it;
        for BIDS derivatives, also by content in the datasets around. The metrics are not verified
        where the ground truth is missing.
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
    request = _request(record, path, scan, model, mask)
    if record.truth is not None:
        try:
            truth = truth or _find("ground truth", "--ground-truth", record.truth, path)
            request = replace(request, truth=truth)
        except AddmError as error:
            result.notes.append(f"The metrics were not verified: {error}")
    grid = _recorded_grid(record, path)
    inputs = _read_inputs(record, request, grid)
    checkpoint = _load_model(record, request.checkpoint)
    saved = _read_saved(record, path.parent, inputs.scan, result)
    changes = _changes(record, device)
    settings = record.settings.to_detection().replace(**changes)
    detection = finish(detect_case(inputs, checkpoint, settings), on_progress)
    # What is derived from the maps is derived from those that the record describes.
    maps: dict[str, Any] = {
        name: inputs.scan.with_data(saved[key])
        for key, name in MAPS.items()
        if key in saved and getattr(detection, name) is not None
    }
    asked = {name: getattr(record.settings, name) for name in changes}
    then = replace(detection, settings=detection.settings.replace(**asked), **maps)
    plan = CasePlan(then.settings, record.threshold, record.minimum_ml)
    outputs = measure_case(inputs, then, checkpoint, plan, saved.get("labels"))
    compare_records(record, outputs, grid, result)
    result.differences += compare_maps(record, detection, saved, not result.environment)
    table = (
        _beside(path.parent, record.outputs["findings"]) if "findings" in record.outputs else None
    )
    if table is None:
        result.problems.append("The record names no table of findings beside it.")
    else:
        result.problems += compare_table(record, table)
    _add_notes(record, result)
    return result


def _add_notes(record: RunRecord, result: Verification) -> None:
    """Say what a repetition cannot tell."""
    if record.labels.edited_voxels:
        result.notes.append(
            f"A person edited the labels before they were saved ({record.labels.edited_voxels} "
            "voxels): the findings were measured on these labels again."
        )
    if "seg" in record.outputs:
        result.notes.append("The DICOM segmentation was compared by its hash alone.")
    if record.findings:
        result.notes.append("Decisions and notes on findings are a person's and are not verified.")


def _request(
    record: RunRecord, path: Path, scan: Path | None, model: Path | None, mask: Path | None
) -> CaseRequest:
    """Find the files of the run."""
    if record.brain_mask.origin == "found":
        mask = None
    elif mask is None:
        mask = _find("brain mask", "--mask", record.brain_mask, path)
    saved_model = FileEntry(name=record.checkpoint.file, sha256=record.checkpoint.sha256)
    return CaseRequest(
        scan or _find("scan", "--scan", record.input, path),
        path.parent,
        checkpoint=model or _find("model", "--checkpoint", saved_model, path),
        mask=mask,
        frame=record.input.frame,
        resample_mask=True,
        resample_truth=True,
    )


def _beside(folder: Path, entry: FileEntry) -> Path | None:
    """Return a file of a folder; None if it is not there, or the record leads elsewhere."""
    try:
        if entry.name and Path(entry.name).name == entry.name and (folder / entry.name).is_file():
            return folder / entry.name
    except (OSError, ValueError):  # no file can have this name
        pass
    return None


def _find(what: str, option: str, entry: FileEntry, record: Path) -> Path:
    """Find an input beside the record, one folder above it, or among the bundled files."""
    home = record.resolve().parent
    folders = (home, home.parent, DEMO_CHECKPOINT.parent)
    found = [file for folder in folders if (file := _beside(folder, entry))]
    subject = next((part for part in (home, *home.parents) if part.name.startswith("sub-")), None)
    if subject is not None:  # derivatives lie in the raw dataset, or beside it
        inner = home.relative_to(subject.parent)
        around = [place for up in subject.parents[1:3] for place in (up, *up.glob("*/"))]
        raw = [file for place in around if (file := _beside(place / inner, entry))]
        found += [file for file in raw if file_sha256(file) == entry.sha256]
    if not found:
        name = "(a layer without a file)" if entry.name is None else printable(entry.name, SHORT)
        raise AddmError(
            f"{record}: the {what} {name} was not found beside it: say where it is with {option}."
        )
    return next((file for file in found if file_sha256(file) == entry.sha256), found[0])


def _recorded_grid(record: RunRecord, path: Path) -> Volume:
    """Return the grid of the record, without voxels."""
    shape, affine = record.geometry.shape, np.array(record.geometry.affine)
    try:
        check_affine(path, affine)
        return volume_from_native(np.broadcast_to(np.uint8(0), shape), affine)
    except (AddmError, ValueError) as error:
        raise AddmError(
            f"{path} has a geometry that no scan has: use the file as it was saved."
        ) from error


def _read_inputs(record: RunRecord, request: CaseRequest, grid: Volume) -> CaseInputs:
    """Read scan, mask and truth, and refuse a scan that is not the recorded one."""
    entry, series = record.input, None
    if request.scan.is_dir() or is_dicom(request.scan):
        folder = request.scan if request.scan.is_dir() else request.scan.parent
        found = {files_sha256(each.files): each for each in find_series(folder)}
        series = found.get(entry.sha256 or "")
        if series is None:
            raise AddmError(
                f"{request.scan} does not hold the DICOM series of the record "
                f"({printable(entry.name, SHORT)}, {entry.files} images): give the right "
                "one with --scan."
            )
    inputs = read_case(request, series)
    scan = inputs.scan
    if voxels_sha256(scan.data) != entry.voxels_sha256:
        raise AddmError(
            f"{request.scan} has other voxels than the scan of the record: give the right file "
            "with --scan; a layer that was edited has to be saved first."
        )
    apart = displacement(grid.affine, scan.affine, scan.shape)
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
            f"{path} is another model than the one of the record "
            f"({printable(record.checkpoint.name, SHORT)}): give the right one with --checkpoint."
        )
    return checkpoint


def _changes(record: RunRecord, device: str | None) -> dict[str, Any]:
    """Return the settings of the repetition that are not those of the record."""
    if device is None:
        device = record.device.partition(":")[0]
        try:
            choose_device(device)
        except AddmError:
            device = "auto"
    changes: dict[str, Any] = {"device": device, "precision": record.precision}
    if record.was_stopped:  # without neighbors but the slices that were done
        changes |= {"slices": record.slices_done.indices, "context_mm": 0.0}
    return changes


def _read_saved(
    record: RunRecord, folder: Path, scan: Volume, result: Verification
) -> dict[str, NDArray[Any]]:
    """Read the maps beside the record; files that are missing or changed become problems."""
    saved = {}
    for key, entry in record.outputs.items():
        file = _beside(folder, entry)
        if file is None:
            result.problems.append(f"{printable(entry.name, SHORT)} is not beside the record.")
            continue
        try:
            if entry.voxels_sha256 is None:
                intact = file_sha256(file) == entry.sha256
            else:
                read = read_labels(file) if key == "labels" else read_volume(file, constant=True)
                intact = voxels_sha256(read.data) == entry.voxels_sha256
                if not read.same_grid(scan):
                    result.problems.append(f"{file.name} lies on another grid than the scan.")
                elif intact:
                    saved[key] = read.data
        except AddmError as error:
            result.problems.append(str(error))
        else:
            if not intact:
                result.problems.append(f"{file.name} was changed since it was saved.")
    return saved
