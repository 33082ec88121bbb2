"""The figure of a case: one slice or several, with all that a reader has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from napari_addm.detection.midline import Midline
from napari_addm.io.text import RESEARCH_USE_ONLY
from napari_addm.io.volume import Volume
from napari_addm.outputs.captions import describe_slice
from napari_addm.outputs.drawing import (
    COLUMNS,
    CUTS,
    FINDING_COLOR,
    GAP,
    LINE_HEIGHT,
    PANEL_HEIGHT,
    SMALL_FONT,
    TRUTH_COLOR,
    Canvas,
    Overlay,
    Plane,
    SliceView,
    brain_region,
    crop_box,
    gray_window,
    under_alarm,
    wrap_caption,
)

SINGLE_HEIGHT = 620
SINGLE_WIDTH = 900
LEAST_WIDTH = 620
BAR_WIDTH = 190
BAR_HEIGHT = 260
HEADING = 26
LEGEND_HEIGHT = 46
BORDER = 14
SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True)
class _Layout:
    """Where the slices of a figure stand: `across` of them in a row, `down` rows."""

    across: int
    down: int
    view: SliceView
    pixels_per_mm: float

    @property
    def right(self) -> int:
        """Where the slices end, px from the left."""
        return BORDER + self.across * (self.view.width + GAP) - GAP

    @property
    def bottom(self) -> int:
        """Where the slices end, px from the top."""
        return BORDER + self.down * (HEADING + self.view.height)

    @property
    def width(self) -> int:
        """Width of the picture."""
        return max(self.right + BORDER + BAR_WIDTH, LEAST_WIDTH)

    def corner(self, place: int) -> tuple[int, int]:
        """The upper left corner (x, y) of a slice, below its heading."""
        row, column = divmod(place, self.across)
        height = HEADING + self.view.height
        return BORDER + column * (self.view.width + GAP), BORDER + HEADING + row * height


def figure(
    volume: Volume,
    overlay: Overlay,
    slices: Sequence[int],
    plane: Plane = "Axial",
    caption: Sequence[str] = (),
    midline: Midline | None = None,
) -> Image.Image:
    """Draw one slice, or several side by side, with the anomaly map in color over the scan.

    Findings are outlined and numbered, in radiological convention (as in the viewer), with a scale
    bar, the letters of the patient's sides, a color bar of the score, the caption and "Research
    use only". No name of a file or a person is drawn that is not in the caption.

    Parameters
    ----------
    overlay : Overlay
        What is drawn over the scan.
    slices : sequence of int
        Indices along the axis that the plane cuts across; at least one.
    caption : sequence of str
        Lines below the picture; long ones are wrapped.
    midline : Midline, optional
        Sagittal slices are named by their side and distance from it.

    Returns
    -------
    PIL.Image.Image
        RGB. One millimeter is the same number of pixels in both directions and in all slices.

    Raises
    ------
    ValueError
        Without a slice, or for one outside of the volume.
    """
    cut = CUTS[plane]
    if not slices or not all(0 <= index < volume.shape[cut] for index in slices):
        raise ValueError(f"slices {list(slices)} of {volume.shape[cut]}")
    layout = _lay_out(volume, overlay, len(slices), cut)
    lines = wrap_caption(caption, layout.width - 2 * BORDER)
    foot = layout.bottom + LEGEND_HEIGHT
    canvas = Canvas(layout.width, foot + LINE_HEIGHT * (len(lines) + 1) + BORDER)
    view, middle = layout.view, _middle(layout.view)
    for place, index in enumerate(slices):
        x, y = layout.corner(place)
        words = describe_slice(volume, plane, index, midline, middle)
        canvas.text((x + view.width / 2, y - HEADING / 2), words, "mm")
        canvas.draw_slice((x, y), view, volume.data, overlay, index)
    if volume.sides_known:
        canvas.letters(layout.corner(0), view)
    _draw_color_bar(canvas, layout, len(slices) > 1, overlay)
    _draw_scale_bar(canvas, layout, overlay)
    for row, words in enumerate((*lines, RESEARCH_USE_ONLY)):
        canvas.text((BORDER, foot + LINE_HEIGHT * row), words, "la", font=SMALL_FONT)
    return under_alarm(canvas.image, overlay.alarm)


def _lay_out(volume: Volume, overlay: Overlay, count: int, cut: int) -> _Layout:
    """Choose the part of the slices that is shown, its size in pixels, and the rows."""
    brain = brain_region(volume.data)
    box = crop_box(brain | (overlay.shown != 0), volume.spacing, cut)
    spacing = [mm for axis, mm in enumerate(volume.spacing) if axis != cut]
    tall, wide = ((part.stop - part.start) * mm for part, mm in zip(box, spacing, strict=True))
    scale = PANEL_HEIGHT / tall if count > 1 else min(SINGLE_HEIGHT / tall, SINGLE_WIDTH / wide)
    height, width = max(1, round(tall * scale)), max(1, round(wide * scale))
    view = SliceView(cut, box, height, width, *gray_window(volume.data[brain]))
    across = -(-count // -(-count // COLUMNS))
    return _Layout(across, -(-count // across), view, scale)


def _middle(view: SliceView) -> list[float]:
    """The voxel (s, a, r) in the middle of what is shown; 0 across the slices."""
    middle = [(part.start + part.stop - 1) / 2 for part in view.box]
    middle.insert(view.cut, 0.0)
    return middle


def _draw_color_bar(canvas: Canvas, layout: _Layout, several: bool, overlay: Overlay) -> None:
    """Draw the colors of the score beside the slices, with its values and the threshold."""
    (low, top), threshold = overlay.color_limits, overlay.threshold
    height = min(layout.view.height, BAR_HEIGHT)
    x, y = layout.right + 26, BORDER + HEADING
    if not several:
        y += (layout.view.height - height) // 2
    canvas.text((x, y - 8), "anomaly score", "ld")
    canvas.paste_bar((x, y), 18, height)
    mark = None if threshold is None else y + (top - threshold) / (top - low) * (height - 1)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        tick = y + (1 - share) * (height - 1)
        canvas.line((x + 18, tick), (x + 23, tick))
        if mark is None or abs(tick - mark) > LINE_HEIGHT:
            canvas.text((x + 28, tick), f"{low + share * (top - low):.2f}")
    if mark is not None and y <= mark <= y + height:
        canvas.line((x - 5, mark), (x + 26, mark), FINDING_COLOR)
        canvas.text((x + 30, mark), f"threshold {threshold:.3g}")


def _draw_scale_bar(canvas: Canvas, layout: _Layout, overlay: Overlay) -> None:
    """Draw a bar of round millimeters below the slices, and the legend beside it."""
    y, scale = layout.bottom + 20, layout.pixels_per_mm
    fitting = (mm for mm in SCALE_BARS_MM if mm * scale <= 0.45 * layout.view.width)
    length = next(fitting, SCALE_BARS_MM[-1])
    end = BORDER + round(length * scale) - 1
    canvas.bar((BORDER, y - 1), (end, y + 1))
    canvas.text((end + 8, y), f"{length} mm")
    shift = canvas.legend((end + 84, y), FINDING_COLOR, "finding")
    if overlay.truth is not None:
        canvas.legend((end + 100 + shift, y), TRUTH_COLOR, "ground truth", dashed=True)
