"""One picture of one case: a montage of axial slices with the anomaly map over the scan."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont  # scikit-image's own dependency
from scipy import ndimage
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from napari_addm.io import open_atomic
from napari_addm.volume import Volume

Picture = NDArray[np.float32]  # RGB, 0..1
Box = tuple[slice, slice]

COLUMNS = 6
PANEL_HEIGHT = 230
MARGIN_MM = 6.0
GAP = 6
LABEL_WIDTH = 116
BAR_WIDTH = 92
TITLE_HEIGHT = 26

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


def overlay_png(
    path: str | os.PathLike[str],
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    truth: NDArray[np.integer] | NDArray[np.bool_] | None = None,
    reconstruction: NDArray[np.float32] | None = None,
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

    Returns
    -------
    Path
        The file.

    Raises
    ------
    AddmError
        When it cannot be written.
    """
    path = Path(path)
    picture = montage(volume, anomaly, labels, truth, reconstruction)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    with open_atomic(path) as file:
        file.write(encoded.getvalue())
    return path


def montage(
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    truth: NDArray[np.integer] | NDArray[np.bool_] | None = None,
    reconstruction: NDArray[np.float32] | None = None,
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
    top = max(float(np.percentile(anomaly[columns], 99.9)), 1e-6)

    def grey(data: NDArray[np.float32], s: int) -> Picture:
        values = np.clip((_panel(data[s], box, (height, width)) - low) / (high - low), 0, 1)
        return np.repeat(values[..., None], 3, axis=-1)

    def overlaid(s: int) -> Picture:
        picture = grey(scan, s)
        score = np.clip(_panel(anomaly[s], box, (height, width)) / top, 0, 1)
        # Faint where the map is low, so that the anatomy stays visible under it.
        alpha = np.clip((score - 0.15) / 0.45, 0, 0.85)[..., None]
        picture = (1 - alpha) * picture + alpha * _heat(score)
        _outline(picture, labels[s] != 0, box, FINDING)
        if truth is not None:
            _outline(picture, np.asarray(truth[s]) != 0, box, TRUTH)
        return picture

    rows = [("scan", [grey(scan, s) for s in columns])]
    if reconstruction is not None:
        rows.append(("reconstruction", [grey(reconstruction, s) for s in columns]))
    rows.append(("anomaly", [overlaid(s) for s in columns]))

    canvas = Image.new(
        "RGB",
        (
            LABEL_WIDTH + len(columns) * (width + GAP) + BAR_WIDTH,
            TITLE_HEIGHT + len(rows) * (height + GAP) + TITLE_HEIGHT,
        ),
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    for column, s in enumerate(columns):
        x = LABEL_WIDTH + column * (width + GAP)
        draw.text((x + width / 2, TITLE_HEIGHT / 2), f"slice {s}", TEXT, font, anchor="mm")
        for row, (_, panels) in enumerate(rows):
            y = TITLE_HEIGHT + row * (height + GAP)
            canvas.paste(Image.fromarray(_to_bytes(panels[column])), (x, y))
    for row, (name, _) in enumerate(rows):
        y = TITLE_HEIGHT + row * (height + GAP)
        draw.text((8, y + height / 2), name, TEXT, font, anchor="lm")
    for place, side in ((0, "R"), (width, "L")):
        anchor = "lm" if side == "R" else "rm"
        inset = 4 if side == "R" else -4
        x = LABEL_WIDTH + place + inset
        draw.text((x, TITLE_HEIGHT + height / 2), side, TEXT, font, anchor=anchor)

    last = TITLE_HEIGHT + (len(rows) - 1) * (height + GAP)
    right = LABEL_WIDTH + len(columns) * (width + GAP) + 10
    bar = _heat(np.linspace(1, 0, height - 20, dtype=np.float32)[:, None].repeat(16, axis=1))
    canvas.paste(Image.fromarray(_to_bytes(bar)), (right, last + 10))
    for share in (0.0, 0.5, 1.0):
        tick = last + 10 + (1 - share) * (height - 21)
        draw.text((right + 22, tick), f"{share * top:.2g}", TEXT, font, anchor="lm")

    foot = TITLE_HEIGHT + len(rows) * (height + GAP) + TITLE_HEIGHT / 2 - 3
    words = [(FINDING, "finding"), *([(TRUTH, "ground truth")] if truth is not None else [])]
    x = LABEL_WIDTH
    for colour, word in words:
        line = tuple(round(255 * c) for c in colour)
        draw.line((x, foot, x + 22, foot), line, 2)
        draw.text((x + 28, foot), word, TEXT, font, anchor="lm")
        x += 44 + round(draw.textlength(word, font))
    note = f"{volume.name}  (radiological: patient's right on the left)"
    end = LABEL_WIDTH + len(columns) * (width + GAP) - GAP
    draw.text((end, foot), note, TEXT, font, anchor="rm")
    return canvas


def _choose_slices(brain: NDArray[np.bool_], target: NDArray[np.bool_]) -> list[int]:
    """Slices from inferior to superior, one of them where the target is widest."""
    occupied = np.flatnonzero(brain.any(axis=(1, 2)))
    first, last = int(occupied[0]), int(occupied[-1])
    reach = last - first
    columns = np.unique(
        np.linspace(first + 0.2 * reach, last - 0.12 * reach, COLUMNS).round().astype(int)
    )
    area = target.sum(axis=(1, 2))
    if area.any():
        widest = int(area.argmax())
        columns[np.abs(columns - widest).argmin()] = widest
    return np.unique(columns).tolist()


def _frame(brain: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Box:
    """The part of every slice that is shown: the brain with a margin."""
    box = []
    for axis in (1, 2):
        occupied = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(MARGIN_MM / spacing[axis])
        box.append(slice(max(0, int(occupied[0]) - margin), int(occupied[-1]) + 1 + margin))
    return box[0], box[1]


def _panel_size(box: Box, spacing: tuple[float, float, float]) -> tuple[int, int]:
    """Height and width in pixels, in the proportions of the millimetres."""
    tall, wide = ((part.stop - part.start) * mm for part, mm in zip(box, spacing[1:], strict=True))
    return PANEL_HEIGHT, max(16, min(2 * PANEL_HEIGHT, round(PANEL_HEIGHT * wide / tall)))


def _panel(image: NDArray[np.float32], box: Box, size: tuple[int, int]) -> Picture:
    """A slice (A, R) as it is shown: cropped, anterior up, right on the left, in pixels."""
    part = np.asarray(image[box][::-1, ::-1], np.float32)
    shrinks = part.shape[0] > size[0]
    return np.asarray(resize(part, size, order=1, anti_aliasing=shrinks), np.float32)


def _outline(
    picture: Picture, region: NDArray[np.bool_], box: Box, colour: tuple[float, float, float]
) -> None:
    """Draw the edge of a region (A, R) onto a panel, in place."""
    if region.any():
        height, width = picture.shape[:2]
        shown = _panel(region.astype(np.float32), box, (height, width)) > 0.5
        edge = find_boundaries(shown, mode="outer")
        picture[ndimage.binary_dilation(edge, iterations=1) & ~shown] = colour


def _heat(score: NDArray[np.float32]) -> Picture:
    at = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(score, at, HEAT[:, c]) for c in range(3)], -1).astype(np.float32)


def _to_bytes(picture: Picture) -> NDArray[np.uint8]:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
