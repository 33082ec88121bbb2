"""Repeat a recorded run, and say whether it gives the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.devices import choose_device
from napari_addm.detection.pipeline import Progress
from napari_addm.errors import AddmError
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume
from napari_addm.outputs.comparison import (
    MAPS,
    Verification,
    compare_maps,
    compare_records,
    compare_table,
)
from napari_addm.outputs.contents import CaseInputs
from napari_addm.outputs.record import SHORT, FileEntry, RunRecord, read_record
from napari_addm.outputs.recorded import (
    beside,
    check_scan,
    find_input,
    read_saved,
    recorded_grid,
    recorded_series,
)
from napari_addm.outputs.run_case import (
    CasePlan,
    CaseRequest,
    detect_case,
    finish,
    measure_case,
    read_case,
)


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
            truth = truth or find_input("ground truth", "--ground-truth", record.truth, path)
            request = replace(request, truth=truth)
        except AddmError as error:
            result.notes.append(f"The metrics were not verified: {error}")
    grid = recorded_grid(record, path)
    inputs = _read_inputs(record, request, grid)
    checkpoint = _load_model(record, request.checkpoint)
    saved = read_saved(record, path.parent, inputs.scan, result.problems)
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
        beside(path.parent, record.outputs["findings"]) if "findings" in record.outputs else None
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
        result.notes.append("The DICOM files were compared by their hashes alone.")
    if record.findings:
        result.notes.append("Decisions and notes on findings are a person's and are not verified.")


def _request(
    record: RunRecord, path: Path, scan: Path | None, model: Path | None, mask: Path | None
) -> CaseRequest:
    """Find the files of the run."""
    if record.brain_mask.origin == "found":
        mask = None
    elif mask is None:
        mask = find_input("brain mask", "--mask", record.brain_mask, path)
    saved_model = FileEntry(name=record.checkpoint.file, sha256=record.checkpoint.sha256)
    return CaseRequest(
        scan or find_input("scan", "--scan", record.input, path),
        path.parent,
        checkpoint=model or find_input("model", "--checkpoint", saved_model, path),
        mask=mask,
        frame=record.input.frame,
        resample_mask=True,
        resample_truth=True,
    )


def _read_inputs(record: RunRecord, request: CaseRequest, grid: Volume) -> CaseInputs:
    """Read scan, mask and truth, and refuse a scan that is not the recorded one."""
    inputs = read_case(request, recorded_series(record, request.scan))
    check_scan(record, inputs.scan, request.scan, grid)
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
