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
    Overlay,
    Place,
    SliceView,
    brain_region,
    choose_slices,
    crop_box,
    gray_window,
    largest,
    printable,
    under_alarm,
    wrap_caption,
)

LABEL_WIDTH = 116
BAR_WIDTH = 92
HEADING = 26


def montage(
    volume: Volume,
    overlay: Overlay,
    reconstruction: NDArray[np.float32] | None = None,
    caption: Sequence[str] = (),
) -> Image.Image:
    """Draw axial slices in columns; scan, reconstruction and anomaly map in rows.

    Slices are shown in radiological convention (the patient's right on the left of the picture,
    anterior up), at their true proportions, from inferior to superior. They are spread over the
    brain; the nearest of them is moved to where the ground truth, or else the largest finding, is
    widest.

    Parameters
    ----------
    overlay : Overlay
        What is drawn over the scan.
    reconstruction : ndarray of float32, shape (S, A, R), optional
        In the scan's intensities, 0 outside the brain.
    caption : sequence of str
        Lines below the picture; see `napari_addm.outputs.captions.caption_lines`.
    """
    scan = volume.data
    brain = brain_region(scan if reconstruction is None else reconstruction)
    target = largest(overlay.shown)
    if overlay.truth is not None and np.any(overlay.truth):
        target = overlay.truth != 0
    slices = choose_slices(brain, target)
    box = crop_box(brain | target, volume.spacing)
    view = SliceView(0, box, PANEL_HEIGHT, _panel_width(box, volume), *gray_window(scan[brain]))
    grays = {"scan": scan}
    if reconstruction is not None:
        grays["reconstruction"] = reconstruction
    names = (*grays, "anomaly")
    right = LABEL_WIDTH + len(slices) * (view.width + GAP)
    bottom = HEADING + len(names) * (view.height + GAP)
    lines = wrap_caption(caption, right + BAR_WIDTH - 16)
    canvas = Canvas(right + BAR_WIDTH, bottom + HEADING + LINE_HEIGHT * len(lines))
    for column, index in enumerate(slices):
        x = LABEL_WIDTH + column * (view.width + GAP)
        canvas.text((x + view.width / 2, HEADING / 2), f"slice {index}", "mm")
        for row, data in enumerate(grays.values()):
            canvas.paste(view.gray(data, index), (x, HEADING + row * (view.height + GAP)))
        place = (x, HEADING + len(grays) * (view.height + GAP))
        canvas.draw_slice(place, view, scan, overlay, index)
    for row, name in enumerate(names):
        canvas.text((8, HEADING + row * (view.height + GAP) + view.height / 2), name)
    if volume.sides_known:
        canvas.letters((LABEL_WIDTH, HEADING), view)
    _draw_color_bar(canvas, (right + 10, bottom - GAP - view.height + 10), view, overlay)
    _draw_foot(canvas, (right - GAP, bottom + HEADING / 2 - 3), volume, overlay.truth is not None)
    for row, line in enumerate(lines):
        y = bottom + HEADING - 3 + LINE_HEIGHT * (row + 0.5)
        canvas.text((8, y), line, font=SMALL_FONT)
    return under_alarm(canvas.image, overlay.alarm)


def _panel_width(box: Box, volume: Volume) -> int:
    """The width in pixels, in the proportions of the millimeters."""
    tall, wide = (
        (part.stop - part.start) * mm for part, mm in zip(box, volume.spacing[1:], strict=True)
    )
    return max(16, min(2 * PANEL_HEIGHT, round(PANEL_HEIGHT * wide / tall)))


def _draw_color_bar(canvas: Canvas, place: Place, view: SliceView, overlay: Overlay) -> None:
    """Draw the colors of the score from a place down, with three of its values."""
    (x, y), height = place, view.height - 20
    (low, top), threshold = overlay.color_limits, overlay.threshold
    canvas.paste_bar(place, 16, height)
    middle = (low + top) / 2
    if threshold is not None and low < threshold < top:
        middle = threshold
        mark = y + (top - threshold) / (top - low) * (height - 1)
        canvas.line((x - 4, mark), (x + 19, mark), FINDING_COLOR)
    for value in (low, middle, top):
        canvas.text((x + 22, y + (top - value) / (top - low) * (height - 1)), f"{value:.2g}")


def _draw_foot(canvas: Canvas, end: Place, volume: Volume, has_truth: bool) -> None:
    """Draw the legend and the scan's name in one line that ends at a place."""
    length = canvas.legend((LABEL_WIDTH, end[1]), FINDING_COLOR, "finding")
    if has_truth:
        x = LABEL_WIDTH + 16 + round(length)
        canvas.legend((x, end[1]), TRUTH_COLOR, "ground truth", dashed=True)
    side = "radiological: patient's right on the left"
    if not volume.sides_known:
        side = "left/right unknown"
    canvas.text(end, f"{printable(volume.name)}  ({side})", "rm")
