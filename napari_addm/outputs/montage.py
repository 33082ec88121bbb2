"""The montage of a case: slices of scan, reconstruction and anomaly map in rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_addm.io.volume import Volume
from napari_addm.outputs.drawing import (
    FINDING_COLOR,
    GAP,
    LINE_HEIGHT,
    PANEL_HEIGHT,
    SMALL_FONT,
    TRUTH_COLOR,
    Box,
    Canvas,
    Picture,
    Place,
    SliceView,
    brain_region,
    choose_slices,
    crop_box,
    gray_window,
    printable,
    wrap_caption,
)

LABEL_WIDTH = 116
BAR_WIDTH = 92
HEADING = 26

Rows = dict[str, list[Picture]]


def montage(
    volume: Volume,
    anomaly: NDArray[np.float32],
    labels: NDArray[np.integer],
    truth: NDArray[np.integer] | NDArray[np.bool_] | None = None,
    reconstruction: NDArray[np.float32] | None = None,
    caption: Sequence[str] = (),
    threshold: float | None = None,
) -> Image.Image:
    """Draw axial slices in columns; scan, reconstruction and anomaly map in rows.

    Slices are shown in radiological convention (the patient's right on the left of the picture,
    anterior up), at their true proportions, from inferior to superior. They are spread over the
    brain; the nearest of them is moved to where the ground truth, or else the largest finding, is
    widest.

    Parameters
    ----------
    anomaly : ndarray of float32, shape (S, A, R)
        Shown in color where it is positive.
    labels : ndarray of int, shape (S, A, R)
        Findings; outlined in blue.
    truth : ndarray, shape (S, A, R), optional
        Ground truth, nonzero = anomalous; outlined in green.
    reconstruction : ndarray of float32, shape (S, A, R), optional
        In the scan's intensities, 0 outside the brain.
    caption : sequence of str
        Lines below the picture; see `napari_addm.outputs.captions.caption_lines`.
    threshold : float, optional
        Marked beside the colors, which reach to its double at least, so that a map that stays
        below it does not glow.
    """
    scan = volume.data
    brain = brain_region(scan if reconstruction is None else reconstruction)
    target = (labels == 1) if truth is None or not np.any(truth) else truth != 0
    slices = choose_slices(brain, target)
    box = crop_box(brain | target, volume.spacing)
    view = SliceView(0, box, PANEL_HEIGHT, _panel_width(box, volume), *gray_window(scan[brain]))
    top = max(float(np.percentile(anomaly[slices], 99.9)), 2 * (threshold or 0.0), 1e-6)

    rows: Rows = {"scan": [view.gray(scan, index) for index in slices]}
    if reconstruction is not None:
        rows["reconstruction"] = [view.gray(reconstruction, index) for index in slices]
    rows["anomaly"] = [view.overlay(scan, anomaly, index, top) for index in slices]
    for index, picture in zip(slices, rows["anomaly"], strict=True):
        view.outline(picture, labels, index, FINDING_COLOR)
        if truth is not None:
            view.outline(picture, truth, index, TRUTH_COLOR)

    right = LABEL_WIDTH + len(slices) * (view.width + GAP)
    bottom = HEADING + len(rows) * (view.height + GAP)
    lines = wrap_caption(caption, right + BAR_WIDTH - 16)
    canvas = Canvas(right + BAR_WIDTH, bottom + HEADING + LINE_HEIGHT * len(lines))
    _draw_rows(canvas, rows, slices, view)
    if volume.sides_known:
        canvas.letters((LABEL_WIDTH, HEADING), view)
    _draw_color_bar(canvas, (right + 10, bottom - GAP - view.height + 10), view, top, threshold)
    _draw_foot(canvas, (right - GAP, bottom + HEADING / 2 - 3), volume, truth is not None)
    for row, line in enumerate(lines):
        y = bottom + HEADING - 3 + LINE_HEIGHT * (row + 0.5)
        canvas.text((8, y), line, font=SMALL_FONT)
    return canvas.image


def _panel_width(box: Box, volume: Volume) -> int:
    """The width in pixels, in the proportions of the millimeters."""
    tall, wide = (
        (part.stop - part.start) * mm for part, mm in zip(box, volume.spacing[1:], strict=True)
    )
    return max(16, min(2 * PANEL_HEIGHT, round(PANEL_HEIGHT * wide / tall)))


def _draw_rows(canvas: Canvas, rows: Rows, slices: Sequence[int], view: SliceView) -> None:
    """Draw the panels with their headings."""
    corners = [LABEL_WIDTH + column * (view.width + GAP) for column in range(len(slices))]
    for x, index in zip(corners, slices, strict=True):
        canvas.text((x + view.width / 2, HEADING / 2), f"slice {index}", "mm")
    for row, (name, pictures) in enumerate(rows.items()):
        y = HEADING + row * (view.height + GAP)
        canvas.text((8, y + view.height / 2), name)
        for x, picture in zip(corners, pictures, strict=True):
            canvas.paste(picture, (x, y))


def _draw_color_bar(
    canvas: Canvas, place: Place, view: SliceView, top: float, threshold: float | None
) -> None:
    """Draw the colors of the score from a place down, with three of its values."""
    (x, y), height = place, view.height - 20
    canvas.paste_heat(place, 16, height)
    middle = top / 2
    if threshold is not None and 0 < threshold < top:
        middle = threshold
        mark = y + (1 - threshold / top) * (height - 1)
        canvas.line((x - 4, mark), (x + 19, mark), FINDING_COLOR)
    for value in (0.0, middle, top):
        canvas.text((x + 22, y + (1 - value / top) * (height - 1)), f"{value:.2g}")


def _draw_foot(canvas: Canvas, end: Place, volume: Volume, has_truth: bool) -> None:
    """Draw the legend and the scan's name in one line that ends at a place."""
    length = canvas.legend((LABEL_WIDTH, end[1]), FINDING_COLOR, "finding")
    if has_truth:
        x = LABEL_WIDTH + 16 + round(length)
        canvas.legend((x, end[1]), TRUTH_COLOR, "ground truth")
    side = "radiological: patient's right on the left"
    if not volume.sides_known:
        side = "left/right unknown"
    canvas.text(end, f"{printable(volume.name)}  ({side})", "rm")
