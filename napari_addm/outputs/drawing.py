"""Pictures of one case: the anomaly map over the scan, as a montage or as a figure to show."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont  # scikit-image's own dependency
from scipy import ndimage
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from napari_addm.detection.midline import Midline, Side, describe_side
from napari_addm.findings.findings import NO_DECISIONS, UNDECIDED, Decisions, Finding
from napari_addm.io.files import write_atomic
from napari_addm.io.text import RESEARCH_USE_ONLY
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    from napari_addm.detection.pipeline import Detection

Plane = Literal["Axial", "Coronal", "Sagittal"]
Picture = NDArray[np.float32]  # RGB, 0..1
Box = tuple[slice, slice]

COLUMNS = 6
PANEL_HEIGHT = 230
MARGIN_MM = 6.0
GAP = 6
LABEL_WIDTH = 116
BAR_WIDTH = 92
TITLE_HEIGHT = 26

# A figure: across which axis of S, A, R a plane cuts; the other two are its rows and columns.
CUTS: dict[Plane, int] = {"Axial": 0, "Coronal": 1, "Sagittal": 2}
# The ends of the axes S, A, R: where the index grows to, and where it comes from.
ENDS = (("S", "I"), ("A", "P"), ("R", "L"))
SINGLE_HEIGHT = 620
SINGLE_WIDTH = 900
FIGURE_BAR_WIDTH = 190
LEGEND_HEIGHT = 46
LINE_HEIGHT = 18
BORDER = 14
MOST_NAMED = 5
SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)

# From dark red over orange to light yellow: monotone in lightness, so it also reads in grey.
HEAT = np.array(
    [
        (0.23, 0.04, 0.18),
        (0.55, 0.09, 0.22),
        (0.85, 0.25, 0.13),
        (0.98, 0.55, 0.09),
        (0.99, 0.82, 0.35),
        (1.00, 0.98, 0.80),
    ],
    np.float32,
)
FINDING = (0.25, 0.85, 1.0)
TRUTH = (0.35, 1.0, 0.35)
TEXT = (225, 225, 225)
SCALE_BAR = (255, 255, 255)


def overlay_png(
    path: str | os.PathLike[str],
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    truth: NDArray[np.integer] | NDArray[np.bool_] | None = None,
    reconstruction: NDArray[np.float32] | None = None,
    caption: Sequence[str] = (),
    threshold: float | None = None,
) -> Path:
    """Write a montage: rows scan, reconstruction and anomaly map, columns axial slices.

    Slices are shown in radiological convention (the patient's right on the
    left of the picture, anterior up), at their true proportions, from
    inferior to superior. They are spread over the brain; the nearest of them
    is moved to where the ground truth, or else the largest finding, is widest.

    Parameters
    ----------
    path : path
        The ``.png``; replaced if it is there.
    volume : Volume
        The scan.
    anomaly : ndarray of float32, shape (S, A, R)
        Shown in colour where it is positive.
    labels : ndarray of int, shape (S, A, R)
        Findings; outlined in blue.
    truth : ndarray, shape (S, A, R), optional
        Ground truth, nonzero = anomalous; outlined in green.
    reconstruction : ndarray of float32, shape (S, A, R), optional
        In the scan's intensities, 0 outside the brain.
    caption : sequence of str
        Lines below the picture; see `caption_lines`.
    threshold : float, optional
        Marked beside the colours, which reach to its double at least, so that a map that stays
        below it does not glow.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    AddmError
        When it cannot be written.
    """
    return _write(path, montage(volume, anomaly, labels, truth, reconstruction, caption, threshold))


def figure_png(
    path: str | os.PathLike[str],
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    slices: Sequence[int],
    plane: Plane = "Axial",
    threshold: float | None = None,
    caption: Sequence[str] = (),
    midline: Midline | None = None,
) -> Path:
    """Write a `figure` as PNG.

    Parameters
    ----------
    path : path
        The ``.png``; replaced if it is there.
    volume, anomaly, labels, slices, plane, threshold, caption, midline
        As in `figure`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    AddmError
        When it cannot be written.
    """
    picture = figure(volume, anomaly, labels, slices, plane, threshold, caption, midline)
    return _write(path, picture)


def caption_lines(
    detection: Detection,
    sha256: str,
    threshold: float,
    scan: str | None = None,
    findings: Sequence[Finding] = (),
    decisions: Decisions = NO_DECISIONS,
) -> tuple[str, ...]:
    """The findings of a picture and the settings behind it, in words.

    Parameters
    ----------
    detection : Detection
    sha256 : str
        Of the checkpoint's file; its beginning is shown.
    threshold : float
        On the anomaly score.
    scan : str, optional
        Name of the scan. It may name a patient, so it is left out unless given.
    findings : sequence of Finding
        Named with their sides; the first `MOST_NAMED` of them.
    decisions : mapping of int to Decision
        By their ids; rejected findings are called so.

    Returns
    -------
    tuple of str
        One sentence each.
    """
    settings, specification = detection.settings, detection.specification
    words = [f"threshold {threshold:.3g}"]
    if specification.diffusion is not None and settings.level is not None:
        sampler = (settings.sampler or "").upper()
        words.append(f"noise level {settings.level} of {specification.diffusion.length}")
        words.append(f"{settings.steps} {sampler} step{'' if settings.steps == 1 else 's'}")
    draws = settings.draws or 1
    words += [
        "1 draw" if draws == 1 else f"{draws} draws",
        f"seed {settings.seed}",
        f"score {settings.score}" + (", left compared with right" if settings.symmetry else ""),
    ]
    model = f"Model {specification.name} ({sha256[:12]}); {', '.join(words)}."
    lines = [f"Scan {scan}.", model] if scan else [model]
    if findings:
        lines.insert(0, _describe_findings(findings, decisions))
    if not detection.done.all():
        done, count = int(detection.done.sum()), len(detection.done)
        lines.append(f"{done} of {count} axial slices were run; in the others the map is empty.")
    return tuple(map(_printable, lines))


def _describe_findings(findings: Sequence[Finding], decisions: Decisions) -> str:
    named = []
    for finding in findings[:MOST_NAMED]:
        words = f"{finding.id}: {finding.volume_ml:.1f} mL, {finding.location}"
        if decisions.get(finding.id, UNDECIDED).verdict == "rejected":
            words += ", rejected"
        named.append(words)
    if len(findings) > MOST_NAMED:
        named.append(f"{len(findings) - MOST_NAMED} more")
    return f"{'Finding' if len(findings) == 1 else 'Findings'} {'; '.join(named)}."


def slices_through(
    volume: Volume, labels: NDArray[np.integer], count: int, plane: Plane = "Axial"
) -> list[int]:
    """Slices spread over the brain, one of them where the largest finding is widest.

    Parameters
    ----------
    volume : Volume
    labels : ndarray of int, shape (S, A, R)
        Findings; 1 is the largest.
    count : int
        At most so many.
    plane : {"Axial", "Coronal", "Sagittal"}

    Returns
    -------
    list of int
        Indices along the axis that the plane cuts across, ascending.
    """
    brain = volume.data != 0
    if not brain.any():
        brain = np.ones(volume.shape, bool)
    return _choose_slices(brain, labels == 1, CUTS[plane], count)


def figure(
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    slices: Sequence[int],
    plane: Plane = "Axial",
    threshold: float | None = None,
    caption: Sequence[str] = (),
    midline: Midline | None = None,
) -> Image.Image:
    """One slice, or several side by side, with all that a reader has to know.

    The anomaly map in colour over the scan, findings outlined, in radiological
    convention (as in the viewer), with a scale bar, the letters of the
    patient's sides, a colour bar of the score, the caption and "Research use
    only". No name of a file or a person is drawn that is not in the caption.

    Parameters
    ----------
    volume : Volume
        The scan.
    anomaly : ndarray of float32, shape (S, A, R)
        Shown in colour where it is positive.
    labels : ndarray of int, shape (S, A, R)
        Findings; outlined in blue.
    slices : sequence of int
        Indices along the axis that the plane cuts across; at least one.
    plane : {"Axial", "Coronal", "Sagittal"}
    threshold : float, optional
        Marked on the colour bar.
    caption : sequence of str
        Lines below the picture; see `caption_lines`. Long ones are wrapped.
    midline : Midline, optional
        Sagittal slices are named by their side and distance from it.

    Returns
    -------
    PIL.Image.Image
        RGB. One millimetre is the same number of pixels in both directions and
        in all slices.

    Raises
    ------
    ValueError
        Without a slice, or for one outside of the volume.
    """
    cut = CUTS[plane]
    if not slices or not all(0 <= index < volume.shape[cut] for index in slices):
        raise ValueError(f"slices {list(slices)} of {volume.shape[cut]}")
    scan = volume.data
    brain = scan != 0
    if not brain.any():
        brain = np.ones(scan.shape, bool)
    rows, columns = (axis for axis in range(3) if axis != cut)
    box = _frame(brain | (labels != 0), volume.spacing, cut)
    middle = [0.0, 0.0, 0.0]
    for axis, part in zip((rows, columns), box, strict=True):
        middle[axis] = (part.start + part.stop - 1) / 2
    tall = (box[0].stop - box[0].start) * volume.spacing[rows]
    wide = (box[1].stop - box[1].start) * volume.spacing[columns]
    several = len(slices) > 1
    pixels_per_mm = (
        PANEL_HEIGHT / tall if several else min(SINGLE_HEIGHT / tall, SINGLE_WIDTH / wide)
    )
    height, width = max(1, round(tall * pixels_per_mm)), max(1, round(wide * pixels_per_mm))
    low, high = np.percentile(scan[brain], (0.5, 99.5)).tolist()
    high = max(high, low + 1e-6)
    # Of the whole map, so that the pictures of one result can be compared.
    above = anomaly[anomaly > 0]
    top = max(
        float(np.percentile(above, 99.9)) if above.size else 0.0, 1.25 * (threshold or 0.0), 1e-6
    )

    across = -(-len(slices) // -(-len(slices) // COLUMNS))
    down = -(-len(slices) // across)
    heading = TITLE_HEIGHT
    body_width = across * (width + GAP) - GAP
    body_height = down * (heading + height)
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    total_width = max(2 * BORDER + body_width + FIGURE_BAR_WIDTH, 620)
    lines = _wrapped(caption, total_width - 2 * BORDER, small)
    foot = BORDER + body_height + LEGEND_HEIGHT
    total_height = foot + LINE_HEIGHT * (len(lines) + 1) + BORDER
    canvas = Image.new("RGB", (total_width, total_height))
    draw = ImageDraw.Draw(canvas)

    for place, index in enumerate(slices):
        x = BORDER + (place % across) * (width + GAP)
        y = BORDER + (place // across) * (heading + height)
        words = describe_slice(volume, plane, index, midline, middle)
        draw.text((x + width / 2, y + heading / 2), words, TEXT, font, anchor="mm")
        y += heading
        values = np.clip((_panel(scan.take(index, cut), box, (height, width)) - low), 0, None)
        picture = np.repeat(np.clip(values / (high - low), 0, 1)[..., None], 3, axis=-1)
        _glow(picture, _panel(anomaly.take([index], cut).squeeze(cut), box, (height, width)) / top)
        _outline(picture, labels.take(index, cut) != 0, box, FINDING)
        canvas.paste(Image.fromarray(_to_bytes(picture)), (x, y))
        if place == 0 and volume.sides_known:
            _draw_letters(draw, (x, y, width, height), (rows, columns), font)

    right = BORDER + body_width + 26
    bar_height = min(height, 260)
    upper = BORDER + heading + (height - bar_height) // 2 if not several else BORDER + heading
    _draw_bar(canvas, (right, upper, bar_height), top, threshold, font)

    line = BORDER + body_height + 20
    length = next(
        (mm for mm in SCALE_BARS_MM if mm * pixels_per_mm <= 0.45 * width), SCALE_BARS_MM[-1]
    )
    end = BORDER + round(length * pixels_per_mm) - 1
    draw.rectangle((BORDER, line - 1, end, line + 1), SCALE_BAR)
    draw.text((end + 8, line), f"{length} mm", TEXT, font, anchor="lm")
    x = end + 84
    draw.line((x, line, x + 22, line), _as_ink(FINDING), 2)
    draw.text((x + 28, line), "finding", TEXT, font, anchor="lm")
    for row, words in enumerate((*lines, RESEARCH_USE_ONLY)):
        draw.text((BORDER, foot + LINE_HEIGHT * row), words, TEXT, small, anchor="la")
    return canvas


def describe_slice(
    volume: Volume,
    plane: Plane,
    index: int,
    midline: Midline | None = None,
    middle: Sequence[float] | None = None,
) -> str:
    """Word where a slice lies.

    Parameters
    ----------
    volume : Volume
    plane : {"Axial", "Coronal", "Sagittal"}
    index : int
        Along the axis that the plane cuts across.
    midline : Midline, optional
        Between the halves of the brain.
    middle : sequence of float, optional
        Of the slice, in voxels (s, a, r), where its place is measured; the grid's by default.

    Returns
    -------
    str
        ``"Sagittal, right, 31 mm from the midline"``. Without a midline, and in the other planes,
        the scanner's coordinate (RAS+): ``"Axial, z 25 mm"``. The slice's number where the file
        does not say how it lies.
    """
    cut = CUTS[plane]
    if not volume.sides_known:
        return f"slice {index} of {volume.shape[cut]}"
    place = np.array((np.asarray(volume.shape) - 1) / 2 if middle is None else middle, float)
    place[cut] = index
    world = volume.affine[:3, :3] @ place + volume.affine[:3, 3]
    if midline is not None and plane == "Sagittal":
        right = float(midline.distance_to_right(world))
        side: Side = "right" if right > 0 else "left"
        if abs(right) < 0.5:
            side = "midline"
        return f"{plane}, {describe_side(side, abs(right), midline.source)}"
    return f"{plane}, {'zyx'[cut]} {round(float(world[2 - cut]))} mm"


def montage(
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    truth: NDArray[np.integer] | NDArray[np.bool_] | None = None,
    reconstruction: NDArray[np.float32] | None = None,
    caption: Sequence[str] = (),
    threshold: float | None = None,
) -> Image.Image:
    """The picture of `overlay_png` in memory; parameters as there."""
    scan = volume.data
    brain = scan != 0 if reconstruction is None else reconstruction != 0
    if not brain.any():
        brain = np.ones(scan.shape, bool)
    target = truth if truth is not None and np.any(truth) else labels == 1
    columns = _choose_slices(brain, np.asarray(target) != 0)
    box = _frame(brain | (np.asarray(target) != 0), volume.spacing)
    height, width = _panel_size(box, volume.spacing)
    low, high = np.percentile(scan[brain], (0.5, 99.5)).tolist()
    high = max(high, low + 1e-6)
    top = max(float(np.percentile(anomaly[columns], 99.9)), 2 * (threshold or 0.0), 1e-6)

    def grey(data: NDArray[np.float32], s: int) -> Picture:
        values = np.clip((_panel(data[s], box, (height, width)) - low) / (high - low), 0, 1)
        return np.repeat(values[..., None], 3, axis=-1)

    def overlaid(s: int) -> Picture:
        picture = grey(scan, s)
        _glow(picture, _panel(anomaly[s], box, (height, width)) / top)
        _outline(picture, labels[s] != 0, box, FINDING)
        if truth is not None:
            _outline(picture, np.asarray(truth[s]) != 0, box, TRUTH)
        return picture

    rows = [("scan", [grey(scan, s) for s in columns])]
    if reconstruction is not None:
        rows.append(("reconstruction", [grey(reconstruction, s) for s in columns]))
    rows.append(("anomaly", [overlaid(s) for s in columns]))

    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    total_width = LABEL_WIDTH + len(columns) * (width + GAP) + BAR_WIDTH
    lines = _wrapped(caption, total_width - 16, small)
    total_height = TITLE_HEIGHT + len(rows) * (height + GAP) + TITLE_HEIGHT
    canvas = Image.new("RGB", (total_width, total_height + LINE_HEIGHT * len(lines)))
    draw = ImageDraw.Draw(canvas)
    for column, s in enumerate(columns):
        x = LABEL_WIDTH + column * (width + GAP)
        draw.text((x + width / 2, TITLE_HEIGHT / 2), f"slice {s}", TEXT, font, anchor="mm")
        for row, (_, panels) in enumerate(rows):
            y = TITLE_HEIGHT + row * (height + GAP)
            canvas.paste(Image.fromarray(_to_bytes(panels[column])), (x, y))
    for row, (name, _) in enumerate(rows):
        y = TITLE_HEIGHT + row * (height + GAP)
        draw.text((8, y + height / 2), name, TEXT, font, anchor="lm")
    known = volume.sides_known
    if known:
        _draw_letters(draw, (LABEL_WIDTH, TITLE_HEIGHT, width, height), (1, 2), font)

    last = TITLE_HEIGHT + (len(rows) - 1) * (height + GAP)
    right = LABEL_WIDTH + len(columns) * (width + GAP) + 10
    bar = _heat(np.linspace(1, 0, height - 20, dtype=np.float32)[:, None].repeat(16, axis=1))
    canvas.paste(Image.fromarray(_to_bytes(bar)), (right, last + 10))
    values = [0.0, top / 2, top]
    if threshold is not None and 0 < threshold < top:
        mark = last + 10 + (1 - threshold / top) * (height - 21)
        draw.line((right - 4, mark, right + 19, mark), _as_ink(FINDING), 2)
        values = [0.0, threshold, top]
    for value in values:
        tick = last + 10 + (1 - value / top) * (height - 21)
        draw.text((right + 22, tick), f"{value:.2g}", TEXT, font, anchor="lm")

    foot = TITLE_HEIGHT + len(rows) * (height + GAP) + TITLE_HEIGHT / 2 - 3
    words = [(FINDING, "finding"), *([(TRUTH, "ground truth")] if truth is not None else [])]
    x = LABEL_WIDTH
    for colour, word in words:
        draw.line((x, foot, x + 22, foot), _as_ink(colour), 2)
        draw.text((x + 28, foot), word, TEXT, font, anchor="lm")
        x += 44 + round(draw.textlength(word, font))
    side = "radiological: patient's right on the left" if known else "left/right unknown"
    note = f"{_printable(volume.name)}  ({side})"
    end = LABEL_WIDTH + len(columns) * (width + GAP) - GAP
    draw.text((end, foot), note, TEXT, font, anchor="rm")
    for row, line in enumerate(lines):
        below = foot + TITLE_HEIGHT / 2 + LINE_HEIGHT * (row + 0.5)
        draw.text((8, below), line, TEXT, small, anchor="lm")
    return canvas


def _write(path: str | os.PathLike[str], picture: Image.Image) -> Path:
    path = Path(path)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_atomic(path, encoded.getvalue())
    return path


def _wrapped(
    caption: Sequence[str], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """Lines that fit into a width in pixels."""
    letters = max(20, int(width / font.getlength("n")))
    return [line for words in caption for line in textwrap.wrap(_printable(words), letters)]


def _printable(words: str) -> str:
    """Words that may come from a file: one line, no control characters."""
    return "".join(c if c.isprintable() else "?" for c in words)


def _draw_letters(
    draw: ImageDraw.ImageDraw,
    panel: tuple[int, int, int, int],
    axes: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The patient's sides at the edges of a panel (x, y, width, height)."""
    x, y, width, height = panel
    (up, down), (left, right) = (ENDS[axis] for axis in axes)
    for letter, place, anchor in (
        (up, (x + width / 2, y + 3), "ma"),
        (down, (x + width / 2, y + height - 3), "md"),
        (left, (x + 4, y + height / 2), "lm"),
        (right, (x + width - 4, y + height / 2), "rm"),
    ):
        draw.text(place, letter, TEXT, font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_bar(
    canvas: Image.Image,
    place: tuple[int, int, int],
    top: float,
    threshold: float | None,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The colours of the score (x, y, height), with its values and the threshold."""
    x, y, height = place
    draw = ImageDraw.Draw(canvas)
    draw.text((x, y - 8), "anomaly score", TEXT, font, anchor="ld")
    bar = _heat(np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(18, axis=1))
    canvas.paste(Image.fromarray(_to_bytes(bar)), (x, y))
    mark = None if threshold is None else y + (1 - threshold / top) * (height - 1)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        tick = y + (1 - share) * (height - 1)
        draw.line((x + 18, tick, x + 23, tick), TEXT)
        if mark is None or abs(tick - mark) > LINE_HEIGHT:
            draw.text((x + 28, tick), f"{share * top:.2f}", TEXT, font, anchor="lm")
    if mark is not None and y <= mark <= y + height:
        draw.line((x - 5, mark, x + 26, mark), _as_ink(FINDING), 2)
        draw.text((x + 30, mark), f"threshold {threshold:.3g}", TEXT, font, anchor="lm")


def _choose_slices(
    brain: NDArray[np.bool_], target: NDArray[np.bool_], cut: int = 0, count: int = COLUMNS
) -> list[int]:
    """Slices across an axis, ascending, one of them where the target is widest."""
    in_slice = tuple(axis for axis in range(3) if axis != cut)
    occupied = np.flatnonzero(brain.any(axis=in_slice))
    first, last = int(occupied[0]), int(occupied[-1])
    reach = last - first
    columns = np.unique(
        np.linspace(first + 0.2 * reach, last - 0.12 * reach, count).round().astype(int)
    )
    area = target.sum(axis=in_slice)
    if area.any():
        widest = int(area.argmax())
        columns[np.abs(columns - widest).argmin()] = widest
    return np.unique(columns).tolist()


def _frame(brain: NDArray[np.bool_], spacing: tuple[float, float, float], cut: int = 0) -> Box:
    """The part of every slice across an axis that is shown: the brain with a margin."""
    box = []
    for axis in (axis for axis in range(3) if axis != cut):
        occupied = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(MARGIN_MM / spacing[axis])
        stop = min(brain.shape[axis], int(occupied[-1]) + 1 + margin)
        box.append(slice(max(0, int(occupied[0]) - margin), stop))
    return box[0], box[1]


def _panel_size(box: Box, spacing: tuple[float, float, float]) -> tuple[int, int]:
    """Height and width in pixels, in the proportions of the millimetres."""
    tall, wide = ((part.stop - part.start) * mm for part, mm in zip(box, spacing[1:], strict=True))
    return PANEL_HEIGHT, max(16, min(2 * PANEL_HEIGHT, round(PANEL_HEIGHT * wide / tall)))


def _panel(image: NDArray[np.float32], box: Box, size: tuple[int, int]) -> Picture:
    """A slice as it is shown: cropped, anterior or superior up, right on the left, in pixels."""
    part = np.asarray(image[box][::-1, ::-1], np.float32)
    shrinks = part.shape[0] > size[0]
    return np.asarray(resize(part, size, order=1, anti_aliasing=shrinks), np.float32)


def _outline(
    picture: Picture, region: NDArray[np.bool_], box: Box, colour: tuple[float, float, float]
) -> None:
    """Draw the edge of a region of a slice onto a panel, in place."""
    if region.any():
        height, width = picture.shape[:2]
        shown = _panel(region.astype(np.float32), box, (height, width)) > 0.5
        edge = find_boundaries(shown, mode="outer")
        picture[ndimage.binary_dilation(edge, iterations=1) & ~shown] = colour


def _glow(picture: Picture, score: NDArray[np.float32]) -> None:
    """Lay a score (1: the top of the colours) over a grey panel, in place."""
    score = np.clip(score, 0, 1)
    # Faint where the map is low, so that the anatomy stays visible under it.
    alpha = np.clip((score - 0.15) / 0.45, 0, 0.85)[..., None]
    picture[:] = (1 - alpha) * picture + alpha * _heat(score)


def _as_ink(colour: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(round(255 * c) for c in colour)


def _heat(score: NDArray[np.float32]) -> Picture:
    at = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(score, at, HEAT[:, c]) for c in range(3)], -1).astype(np.float32)


def _to_bytes(picture: Picture) -> NDArray[np.uint8]:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
