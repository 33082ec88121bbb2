"""The page of one case: findings, pictures, cautions and settings in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm import __version__
from napari_addm.detection.quality import FLAG_TITLES
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.findings.findings import describe_none
from napari_addm.io.files import write_atomic
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.names import stem
from napari_addm.io.reading import read_beside
from napari_addm.io.remarks import Kind, Remark, caution
from napari_addm.io.volume import Volume
from napari_addm.metrics.metric import Metric, case_metrics
from napari_addm.outputs.captions import describe_slice
from napari_addm.outputs.colors import BEHIND_BAR, map_limits
from napari_addm.outputs.drawing import (
    CUTS,
    Canvas,
    Overlay,
    Plane,
    SliceView,
    brain_region,
    crop_box,
    glow_over,
    gray_window,
)
from napari_addm.outputs.naming import ENDINGS
from napari_addm.outputs.pages import as_jpeg, finite_number, page_environment
from napari_addm.outputs.record import FileEntry, FindingEntry, RunRecord, read_record
from napari_addm.outputs.recorded import find_input, highest, read_saved, read_scan

OURS = b'<meta name="generator" content="napari-addm">'
MOST_PICTURED = 12
"""How many findings have pictures, the largest ones first."""
SIZE = 380
"""Height and width of a picture in pixels."""
QUALITY = 90
STOPS = 12
# Where a record lies in a case's folder, or in one of a BIDS dataset or subject.
RECORDS = "*_record.json"
PLACES = ("", "anat/", "ses-*/anat/", "sub-*/anat/", "sub-*/ses-*/anat/")


@dataclass(frozen=True)
class CaseSources:
    """What a page is made from beside the record.

    Attributes
    ----------
    scan : path or Volume, optional
        Looked for as `napari_addm.outputs.recorded.find_input` does by default. A volume has to
        be that of the run.
    truth : path or ndarray of bool, optional
        The same for the ground truth; an array has the scan's shape (S, A, R).
    limits : tuple of float, optional
        Scores of the clear and of the brightest color; by default those of a new layer.
    """

    scan: Path | Volume | None = None
    truth: Path | NDArray[np.bool_] | None = None
    limits: tuple[float, float] | None = None


def find_record(path: Path) -> Path:
    """Find the run record that a person means: a file, or the only one in a folder.

    Raises
    ------
    InputError
        When there is none, or several.
    """
    if not path.is_dir():
        if not os.path.lexists(path):
            raise InputError(
                f"{path} does not exist: give a case's ...{RECORDS[1:]}, or its folder."
            )
        return path
    found = sorted({each for place in PLACES for each in path.glob(place + RECORDS)})
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(path)) for each in found[:3])
        more = ", ..." if len(found) > 3 else ""
        raise InputError(
            f"{path} holds {len(found)} cases: give the record of one ({names}{more})."
        )
    if not found:
        raise InputError(
            f"{path} holds no case and no batch: give the folder that detect or batch wrote, or a "
            f"case's ...{RECORDS[1:]}."
        )
    return found[0]


def write_case_page(
    path: Path, sources: CaseSources | None = None, most_pictured: int = MOST_PICTURED
) -> Path:
    """Write the page of a case beside its record.

    It is made from the saved files: no model is loaded, nothing is computed again. Without the
    scan it has no pictures, and says so.

    Parameters
    ----------
    path : Path
        The run record.
    most_pictured : int
        Number of findings with pictures.

    Returns
    -------
    Path
        The page; one of an earlier time is replaced.

    Raises
    ------
    AddmError
        When the record cannot be read, a scan or truth that was named is another one, or the
        page cannot be written.
    """
    environment = page_environment()
    record, sources = read_record(path), sources or CaseSources()
    name = path.name.removesuffix(ENDINGS["record"]).removesuffix(".json")
    target = path.with_name(name + ENDINGS["page"])
    _check_own(target)
    problems: list[str] = []
    scan, overlay = _read_pictured(record, path, sources, problems)
    problems = [_without_folders(problem, path) for problem in problems]
    kept = [finding for finding in record.findings if finding.decision != "rejected"]
    pictured = sorted(kept, key=lambda each: -each.volume_ml)[: max(most_pictured, 0)]
    blocks: list[dict[str, Any]] = []
    if scan is not None and overlay is not None:
        blocks = list(_draw_blocks(record, scan, overlay, pictured))
    page = environment.get_template("case.html").render(
        name=stem(Path(record.input.name)) if record.input.name else name,
        record=record,
        kept=kept,
        accepted=sum(each.decision == "accepted" for each in record.findings),
        rejected=len(record.findings) - len(kept),
        **_remarks(record, problems),
        none_found=describe_none(record.minimum_ml),
        blocks=blocks,
        why_none=_why_no_pictures(problems, bool(kept)),
        size=SIZE,
        left_out=len(kept) - len(pictured),
        has_truth=overlay is not None and overlay.truth is not None,
        sides_known=scan is not None and scan.sides_known,
        colors=_color_bar(record.threshold, sources.limits),
        metrics=_metrics(record),
        measured=_measured(record),
        run=_run(record),
        files=_files(record, path),
        unchecked=record.quality.unchecked if record.quality else (),
    )
    write_atomic(target, page)
    return target


def _why_no_pictures(problems: Sequence[str], kept: bool) -> str:
    if problems:
        return problems[0]
    return "none were asked for." if kept else "all findings are rejected."


def _without_folders(words: str, record: Path) -> str:
    """A sentence without the folders of a record, which may name a person."""
    home = record.resolve().parent
    for folder in (record.parent, home, home.parent):
        if folder.name:
            words = words.replace(f"{folder}{os.sep}", "")
    return words


def _check_own(target: Path) -> None:
    """Make sure that a page replaces no file of another person."""
    if not os.path.lexists(target):
        return
    try:
        with target.open("rb") as file:
            ours = not target.is_symlink() and OURS in file.read(1 << 16)
    except OSError:
        ours = False
    if not ours:
        raise AddmError(
            f"{target} exists already and is no page of napari-addm: move or rename it first."
        )


# --- what is drawn -------------------------------------------------------------------------------


def _read_pictured(
    record: RunRecord, path: Path, sources: CaseSources, problems: list[str]
) -> tuple[Volume | None, Overlay | None]:
    """Read scan, map, labels and truth; a sentence of `problems` for what is missing."""
    try:
        given = sources.scan
        scan = given if isinstance(given, Volume) else read_scan(record, path, given)
        saved = read_saved(record, path.parent, scan, problems, ("anomaly", "labels", "brightness"))
    except AddmError as error:
        if isinstance(sources.scan, Path):
            raise
        problems.append(str(error))
        return None, None
    if not saved.keys() >= {"anomaly", "labels"}:
        problems[:] = problems or ["The record names no map and no labels."]
        return scan, None
    truth = _read_truth(record, path, scan, sources.truth, problems)
    decisions, limits = record.decisions, sources.limits
    overlay = Overlay(highest(saved), saved["labels"], record.threshold, decisions, truth, limits)
    return scan, overlay


def _read_truth(
    record: RunRecord,
    path: Path,
    scan: Volume,
    given: Path | NDArray[np.bool_] | None,
    problems: list[str],
) -> NDArray[np.bool_] | None:
    if record.truth is None:
        if isinstance(given, Path):
            raise InputError(f"{path} is of a run without a ground truth: leave {given.name} out.")
        return None
    if isinstance(given, np.ndarray):
        return given
    try:
        file = given or find_input("ground truth", "--ground-truth", record.truth, path)
        truth, _ = read_beside("ground truth", file, scan, resample=True)
        if voxels_sha256(truth) != record.truth.voxels_sha256:
            raise InputError(
                f"{file} has other voxels than the ground truth of the record: give the right "
                "file with --ground-truth."
            )
    except AddmError as error:
        if given is not None:
            raise
        problems.append(f"The ground truth is not drawn: {error}")
        return None
    return truth


def _draw_blocks(
    record: RunRecord, scan: Volume, overlay: Overlay, findings: Sequence[FindingEntry]
) -> Iterator[dict[str, Any]]:
    """The pictures of each finding, or of the brain where there is none."""
    whole_map = record.slices_done.done == record.slices_done.of  # 0 outside the brain
    brain = brain_region(overlay.anomaly if whole_map else scan.data)
    whole = brain | (overlay.shown != 0)
    if overlay.truth is not None:
        whole |= overlay.truth != 0
    extents = _views(scan, whole, gray_window(scan.data[brain]))
    regions: list[tuple[FindingEntry | None, NDArray[np.bool_]]]
    regions = [(each, overlay.shown == each.id) for each in findings]
    if not record.findings:
        missed = np.asarray(False if overlay.truth is None else overlay.truth, bool)
        regions = [(None, missed if missed.any() else brain)]
    for finding, region in regions:
        if region.any():
            pictures = [
                _draw_plane(record, scan, overlay, view, plane, region) for plane, view in extents
            ]
            yield {"finding": finding, "pictures": pictures}


def _views(
    scan: Volume, whole: NDArray[np.bool_], window: tuple[float, float]
) -> list[tuple[Plane, SliceView]]:
    """How each plane is shown; a millimeter has the same length in all of them."""
    boxes = {plane: crop_box(whole, scan.spacing, cut) for plane, cut in CUTS.items()}
    sizes = {
        plane: [
            (part.stop - part.start) * mm
            for part, mm in zip(box, np.delete(scan.spacing, CUTS[plane]), strict=True)
        ]
        for plane, box in boxes.items()
    }
    scale = SIZE / max(mm for size in sizes.values() for mm in size)
    views = []
    for plane, cut in CUTS.items():
        height, width = (max(1, min(SIZE, round(mm * scale))) for mm in sizes[plane])
        views.append((plane, SliceView(cut, boxes[plane], height, width, *window)))
    return views


def _draw_plane(
    record: RunRecord,
    scan: Volume,
    overlay: Overlay,
    view: SliceView,
    plane: Plane,
    region: NDArray[np.bool_],
) -> dict[str, str]:
    """Draw the slice in which a region is widest: the scan, and the map over it."""
    in_slice = tuple(axis for axis in range(3) if axis != view.cut)
    index = int(region.sum(axis=in_slice).argmax())
    middle = [(part.start + part.stop - 1) / 2 for part in view.box]
    middle.insert(view.cut, 0.0)
    drawn = {}
    for key, colored in (("scan", False), ("map", True)):
        canvas = Canvas(SIZE, SIZE)
        place = ((SIZE - view.width) // 2, (SIZE - view.height) // 2)
        canvas.draw_slice(place, view, scan.data, overlay, index, colored)
        if scan.sides_known:
            canvas.letters((0, 0), replace(view, height=SIZE, width=SIZE))
        drawn[key] = as_jpeg(canvas.image, QUALITY)
    return drawn | {"caption": describe_slice(scan, plane, index, record.midline, middle)}


def _color_bar(threshold: float, limits: tuple[float, float] | None) -> dict[str, Any]:
    """The colors of the map over gray, with the scores that they stand for."""
    low, top = limits or map_limits(threshold)
    gray = np.full((1, STOPS, 3), BEHIND_BAR, np.float32)
    colors = glow_over(gray, np.linspace(0, 1, STOPS, dtype=np.float32)[None])[0]
    ticks = [{"at": share, "label": f"{low + share * (top - low):.3g}"} for share in (0.0, 1.0)]
    marks = [{**tick, "threshold": False} for tick in ticks]
    if low < threshold < top:
        at = (threshold - low) / (top - low)
        marks.append({"at": at, "label": f"{threshold:.3g}", "threshold": True})
    stops = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in (colors * 255).round().astype(int).tolist()]
    return {"stops": stops, "ticks": marks}


# --- words ---------------------------------------------------------------------------------------


def _remarks(record: RunRecord, problems: Sequence[str]) -> dict[str, list[tuple[str, Remark]]]:
    """What a reader has to know, by weight: a tag and a sentence each."""
    flags = record.quality.flags if record.quality else ()
    tags = {flag.message: FLAG_TITLES.get(flag.key, flag.key) for flag in flags}
    more: dict[str, str] = {}
    done = record.slices_done
    if done.done < done.of:
        words = f"{done.done} of {done.of} axial slices were run; in the others the map is empty."
        more[words] = "part of the scan"
    if record.labels.edited_voxels:
        words = f"A person changed {record.labels.edited_voxels} voxels of the findings."
        more[words] = "corrected"
    more |= dict.fromkeys(problems, "files")
    remarks = [*((tags.get(each, ""), each) for each in record.remarks)]
    remarks += [(tag, caution(words)) for words, tag in more.items()]
    return {f"{kind}s": [each for each in remarks if each[1].kind is kind] for kind in Kind}


def _metrics(record: RunRecord) -> list[tuple[Metric, float | None]]:
    """The figures against the ground truth that are known here, in the order of tables."""
    figures = record.metrics or {}
    return [
        (metric, finite_number(figures[name]))
        for name, metric in case_metrics().items()
        if name in figures
    ]


def _measured(record: RunRecord) -> str:
    """Where the figures against the ground truth were measured, and what else to know of them."""
    metrics = record.metrics or {}
    rejected = any(finding.decision == "rejected" for finding in record.findings)
    notes = metrics.get("notes")
    where = f"in the {metrics.get('region') or 'brain mask'}."
    also = "with all findings, also the rejected ones, " if rejected else ""
    return " ".join([f"Measured {also}{where}", *(notes if isinstance(notes, tuple) else ())])


def _run(record: RunRecord) -> dict[str, str]:
    """Settings, model and dates, in words."""
    named = {}
    for key, value in record.settings.model_dump(
        exclude={"device", "precision", "erosion_mm"}
    ).items():
        if value is not None:
            field = DetectionSettings.model_fields.get(key)
            extra = field.json_schema_extra if field else None
            unit = extra.get("unit", "") if isinstance(extra, dict) else ""
            words = {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else None
            words = words or (f"{value:g}" if isinstance(value, float) else str(value))
            title = (field.title if field else None) or key.replace("_", " ").capitalize()
            named[title] = f"{words} {unit}".rstrip()
    return {
        "Model": record.checkpoint.name,
        "Threshold": f"{record.threshold:g}",
        "Smallest finding": f"{record.minimum_ml:g} mL",
        **named,
        "Erosion": f"{record.settings.erosion_mm:g} mm",
        "Device": f"{record.device}, {record.precision}, {record.threads} threads",
        "Contrast agent": record.input.contrast or "unknown",
        "Saved": record.created_utc or "without a date",
        "Page made": f"{datetime.now(UTC).isoformat(timespec='seconds')}, with napari-addm "
        f"{__version__}",
    }


def _files(record: RunRecord, path: Path) -> Iterator[tuple[str, str, str]]:
    """The files of the run with their hashes."""
    mask = f"Brain mask, {record.brain_mask.origin}"
    entries: dict[str, FileEntry | None] = {"Scan": record.input, mask: record.brain_mask}
    entries["Ground truth"] = record.truth
    entries["Model"] = FileEntry(name=record.checkpoint.file, sha256=record.checkpoint.sha256)
    entries |= {key.capitalize(): entry for key, entry in record.outputs.items()}
    for what, entry in entries.items():
        if entry is not None:
            digest = f"SHA-256 {entry.sha256}" if entry.sha256 else ""
            if not digest and entry.voxels_sha256:
                digest = f"SHA-256 of the voxels {entry.voxels_sha256}"
            yield what, entry.name or "(without a file)", digest
    yield "Record", path.name, ""
