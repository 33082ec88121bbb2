"""Parts that the montage and the figure are drawn from: slices, colors, letters, captions."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont  # scikit-image's own dependency
from scipy import ndimage
from skimage.transform import resize

from napari_addm.findings.decisions import UNDECIDED, Decisions
from napari_addm.io.files import write_atomic
from napari_addm.io.volume import Volume
from napari_addm.outputs.colors import (
    BEHIND_BAR,
    EARLIER_COLOR,
    FINDING_COLORS,
    GLOW,
    map_limits,
)
from napari_addm.outputs.colors import TRUTH_COLOR as TRUTH

Plane = Literal["Axial", "Coronal", "Sagittal"]
Picture = NDArray[np.float32]  # RGB, 0..1
Box = tuple[slice, slice]
Color = tuple[float, float, float]  # RGB, 0..1
Place = tuple[float, float]  # x, y in pixels


def _rgb(code: str) -> Color:
    red, green, blue = (channel / 255 for channel in ImageColor.getrgb(code)[:3])
    return red, green, blue


CUTS: dict[Plane, int] = {"Axial": 0, "Coronal": 1, "Sagittal": 2}
"""Across which axis of S, A, R a plane cuts; the other two are its rows and columns."""

# The ends of the axes S, A, R: where the index grows to, and where it comes from.
ENDS = (("S", "I"), ("A", "P"), ("R", "L"))
COLUMNS = 6
PANEL_HEIGHT = 230
GAP = 6
LINE_HEIGHT = 18
MARGIN_MM = 6.0

FINDING_COLOR: Color = _rgb(FINDING_COLORS[0])
TRUTH_COLOR: Color = _rgb(TRUTH)
EARLIER_FINDING_COLOR: Color = _rgb(EARLIER_COLOR)
DARKER = 0.3
LIGHT = (0.3, 0.59, 0.11)  # how bright red, green and blue are
DASH = 4  # half a dash, and the gap after it, in pixels
TEXT_INK = (225, 225, 225)
ALARM_INK = (168, 15, 30)
FONT, SMALL_FONT, NUMBER_FONT = (ImageFont.load_default(size) for size in (14, 12, 17))


@dataclass(frozen=True)
class SliceView:
    """How the slices across one axis of a scan are shown: cropped, scaled, radiological.

    Attributes
    ----------
    cut : int
        The axis of S, A, R.
    box : tuple of slice
        The part of a slice that is shown.
    height, width : int
        Size of a panel in pixels.
    low, high : float
        The scan's intensities that are black and white.
    """

    cut: int
    box: Box
    height: int
    width: int
    low: float
    high: float

    def gray(self, data: NDArray[np.float32], index: int) -> Picture:
        """One slice in shades of gray."""
        values = self._panel(np.take(data, index, self.cut))
        shades = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        return np.repeat(shades[..., None], 3, axis=-1)

    def glow(
        self,
        scan: NDArray[np.float32],
        anomaly: NDArray[np.float32],
        index: int,
        limits: tuple[float, float],
    ) -> Picture:
        """One slice with the anomaly map over it, between two scores as the viewer shows them."""
        low, top = limits
        score = (self._panel(np.take(anomaly, index, self.cut)) - low) / (top - low)
        return glow_over(self.gray(scan, index), score)

    def outline(
        self,
        picture: Picture,
        region: NDArray[np.generic],
        index: int,
        color: Color,
        dashed: bool = False,
    ) -> Place | None:
        """Draw the edge of a region (nonzero) onto a panel, in place, with a dark line beside it.

        A dashed one lies inside the edge, beside an outline of the same region that is not.

        Returns
        -------
        Place or None
            The edge's upper right end; None where the region is not in the slice.
        """
        part = np.take(region, index, self.cut) != 0
        shown = self._panel(part) > 0.5 if part.any() else part
        if not shown.any():
            return None
        if dashed:
            edge = shown & ~ndimage.binary_erosion(shown, iterations=2)
            line = edge & (np.add(*np.indices(edge.shape)) // DASH % 3 < 2)
            shade = shown & ~line & ~ndimage.binary_erosion(shown, iterations=3)
        else:
            line = ndimage.binary_dilation(shown, iterations=2) & ~shown
            shade = ndimage.binary_dilation(shown, iterations=3) & ~shown & ~line
        picture[shade] *= DARKER
        picture[line] = color
        y, x = np.nonzero(shown)
        end = int(np.argmax(x - y))
        return float(x[end]), float(y[end])

    def _panel(self, data: NDArray[np.generic]) -> NDArray[np.float32]:
        """A slice in pixels; anterior or superior is up, the patient's right on the left."""
        part = np.asarray(data[self.box][::-1, ::-1], np.float32)
        shrinks = part.shape[0] > self.height
        size = (self.height, self.width)
        return np.asarray(resize(part, size, order=1, anti_aliasing=shrinks), np.float32)


def brain_region(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a skull-stripped volume is not 0; everywhere if it is empty."""
    brain: NDArray[np.bool_] = data != 0
    return brain if brain.any() else np.ones(data.shape, bool)


def gray_window(brain: NDArray[np.float32]) -> tuple[float, float]:
    """The intensities that are drawn black and white."""
    low, high = np.percentile(brain, (0.5, 99.5)).tolist()
    return low, max(high, low + 1e-6)


def largest(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where the finding with the lowest number is, which is the largest; nowhere without one."""
    ids = np.unique(labels)
    return np.isin(labels, ids[ids > 0][:1])


def choose_slices(
    brain: NDArray[np.bool_], target: NDArray[np.bool_], cut: int = 0, count: int = COLUMNS
) -> list[int]:
    """Spread slices over the brain, ascending, one of them where the target is widest."""
    in_slice = tuple(axis for axis in range(3) if axis != cut)
    occupied = np.flatnonzero(brain.any(axis=in_slice))
    first, last = int(occupied[0]), int(occupied[-1])
    reach = last - first
    chosen = np.unique(
        np.linspace(first + 0.2 * reach, last - 0.12 * reach, count).round().astype(int)
    )
    area = target.sum(axis=in_slice)
    if area.any():
        widest = int(area.argmax())
        chosen[np.abs(chosen - widest).argmin()] = widest
    return np.unique(chosen).tolist()


def crop_box(brain: NDArray[np.bool_], spacing: Sequence[float], cut: int = 0) -> Box:
    """The part of every slice across an axis that is shown: the brain with a margin."""
    box = []
    for axis in (axis for axis in range(3) if axis != cut):
        occupied = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(MARGIN_MM / spacing[axis])
        stop = min(brain.shape[axis], int(occupied[-1]) + 1 + margin)
        box.append(slice(max(0, int(occupied[0]) - margin), stop))
    return box[0], box[1]


def glow_over(picture: Picture, score: NDArray[np.float32]) -> Picture:
    """Lay the colors of scores from 0 to 1 over a picture."""
    at = np.linspace(0, 1, len(GLOW))
    red, green, blue, alpha = (np.interp(score, at, channel) for channel in np.transpose(GLOW))
    color = np.stack([red, green, blue], -1)
    return np.asarray(picture + alpha[..., None] * (color - picture), np.float32)


@dataclass(frozen=True, eq=False)
class Overlay:
    """What is drawn over a scan; all arrays have its shape (S, A, R).

    Attributes
    ----------
    anomaly : ndarray of float32
        Shown in the colors and between the scores of the viewer.
    labels : ndarray of int
        Findings; outlined in blue with their numbers, without the rejected ones.
    threshold : float, optional
        Marked on the color bar.
    decisions : mapping of int to Decision
        By the findings' numbers; an accepted one has a check mark.
    truth : ndarray, optional
        Ground truth, nonzero = anomalous; outlined in dashes of green.
    limits : tuple of float, optional
        Scores of the clear and of the brightest color; by default those of a new layer.
    alarm : str
        Why the map is not to be trusted; stands above the picture. Empty if it is.
    color : tuple of float
        Of the findings, RGB.
    """

    anomaly: NDArray[np.float32]
    labels: NDArray[np.generic]
    threshold: float | None = None
    decisions: Decisions = field(default_factory=dict)
    truth: NDArray[np.generic] | None = None
    limits: tuple[float, float] | None = None
    alarm: str = ""
    color: Color = FINDING_COLOR

    @property
    def color_limits(self) -> tuple[float, float]:
        """The scores of the clear and of the brightest color."""
        return self.limits or map_limits(self.threshold)

    def verdict(self, id: int) -> str | None:
        """What a person decided about a finding."""
        return self.decisions.get(id, UNDECIDED).verdict

    @cached_property
    def shown(self) -> NDArray[np.generic]:
        """The labels without rejected findings."""
        rejected = [id for id in self.decisions if self.verdict(id) == "rejected"]
        return np.where(np.isin(self.labels, rejected), 0, self.labels) if rejected else self.labels


class Canvas:
    """A black RGB picture that panels, words and lines are drawn onto; places are (x, y)."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height))
        self._draw = ImageDraw.Draw(self.image)

    def paste(self, picture: Picture, place: Place) -> None:
        """Put a picture with its upper left corner to a place."""
        pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
        self.image.paste(Image.fromarray(pixels), (int(place[0]), int(place[1])))

    def draw_slice(
        self,
        place: Place,
        view: SliceView,
        scan: NDArray[np.float32],
        overlay: Overlay,
        index: int,
        colored: bool = True,
    ) -> None:
        """Draw a slice with its outlines, and the numbers of the findings beside them.

        Parameters
        ----------
        colored : bool
            Whether the anomaly map is drawn as well.
        """
        picture = view.gray(scan, index)
        if colored:
            picture = view.glow(scan, overlay.anomaly, index, overlay.color_limits)
        there = np.unique(np.take(overlay.shown, index, view.cut)).astype(int).tolist()
        ends = {
            id: view.outline(picture, overlay.shown == id, index, overlay.color)
            for id in there
            if id
        }
        if overlay.truth is not None:
            view.outline(picture, overlay.truth, index, TRUTH_COLOR, dashed=True)
        self.paste(picture, place)
        for id, end in ends.items():
            if end is not None:
                self._number(id, place, view, end, overlay)

    def _number(self, id: int, place: Place, view: SliceView, end: Place, overlay: Overlay) -> None:
        """Write a finding's number beside its outline, and a check mark if it is accepted."""
        accepted = overlay.verdict(id) == "accepted"
        width = self._draw.textlength(str(id), NUMBER_FONT) + (14 if accepted else 0)
        x = place[0] + min(end[0] + 4, view.width - width - 2)
        y = place[1] + max(end[1] - 2, 14)
        ink = as_ink(overlay.color)
        around = (0, 0, 0) if np.dot(overlay.color, LIGHT) > 0.5 else (255, 255, 255)
        style = {"font": NUMBER_FONT, "fill": ink, "stroke_width": 2, "stroke_fill": around}
        self.text((x, y), str(id), "ls", **style)
        if accepted:
            x += width - 11
            check = [(x, y - 5), (x + 3, y - 1), (x + 9, y - 10)]
            self._draw.line(check, around, 5)
            self._draw.line(check, ink, 2)

    def paste_bar(self, place: Place, width: int, height: int) -> None:
        """Put the colors of the score over gray to a place, the highest one on top."""
        scores = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(width, axis=1)
        self.paste(glow_over(np.full((height, width, 3), BEHIND_BAR, np.float32), scores), place)

    def text(self, place: Place, words: str, anchor: str = "lm", **style: Any) -> None:
        """Write words; `anchor` and `style` are those of ``PIL.ImageDraw.text``."""
        self._draw.text(place, words, **{"fill": TEXT_INK, "font": FONT, "anchor": anchor} | style)

    def line(self, start: Place, end: Place, color: Color | None = None) -> None:
        """Draw a line: thick in a color, thin in that of the text."""
        if color is None:
            self._draw.line((start, end), TEXT_INK)
        else:
            self._draw.line((start, end), as_ink(color), 2)

    def bar(self, start: Place, end: Place) -> None:
        """Fill a rectangle in white."""
        self._draw.rectangle((start, end), (255, 255, 255))

    def legend(self, place: Place, color: Color, word: str, dashed: bool = False) -> float:
        """Draw a short line and what its color means; returns the length of all."""
        x, y = place
        ends = [(start, start + 2 * DASH - 1) for start in (0, 12)] if dashed else [(0, 22)]
        for start, end in ends:
            self.line((x + start, y), (x + end, y), color)
        self.text((x + 28, y), word)
        return 28 + self._draw.textlength(word, FONT)

    def letters(self, place: Place, view: SliceView) -> None:
        """Write the patient's sides to the edges of a panel."""
        (x, y), width, height = place, view.width, view.height
        (up, down), (left, right) = (ENDS[axis] for axis in range(3) if axis != view.cut)
        for letter, at, anchor in (
            (up, (x + width / 2, y + 3), "ma"),
            (down, (x + width / 2, y + height - 3), "md"),
            (left, (x + 4, y + height / 2), "lm"),
            (right, (x + width - 4, y + height / 2), "rm"),
        ):
            self.text(at, letter, anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def under_alarm(picture: Image.Image, words: str) -> Image.Image:
    """Return a picture below a red strip with an alarm; without one, the picture itself."""
    if not words:
        return picture
    lines = wrap_caption((words,), picture.width - 2 * LINE_HEIGHT)
    height = LINE_HEIGHT * (len(lines) + 1)
    canvas = Canvas(picture.width, height + picture.height)
    canvas.image.paste(ALARM_INK, (0, 0, picture.width, height))
    canvas.image.paste(picture, (0, height))
    for row, line in enumerate(lines):
        canvas.text((LINE_HEIGHT, LINE_HEIGHT * (row + 1)), line, fill=(255, 255, 255))
    return canvas.image


def as_ink(color: Color) -> tuple[int, ...]:
    """Convert a color to bytes."""
    return tuple(round(255 * c) for c in color)


def wrap_caption(caption: Sequence[str], width: int) -> list[str]:
    """Break a caption into lines in the small font that fit into a width in pixels."""
    letters = max(20, int(width / SMALL_FONT.getlength("n")))
    return [line for words in caption for line in textwrap.wrap(printable(words), letters)]


def printable(words: str) -> str:
    """Replace control characters of words that may come from a file; the result is one line."""
    return "".join(c if c.isprintable() else "?" for c in words)


def write_png(path: str | os.PathLike[str], picture: Image.Image) -> Path:
    """Write a picture; a file of that name is replaced."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_atomic(Path(path), encoded.getvalue())
    return Path(path)


def slices_through(
    volume: Volume, labels: NDArray[np.generic], count: int, plane: Plane = "Axial"
) -> list[int]:
    """Choose slices spread over the brain, one of them where the largest finding is widest.

    Parameters
    ----------
    labels : ndarray of int, shape (S, A, R)
        Findings; the lowest number is the largest.
    count : int
        At most so many.

    Returns
    -------
    list of int
        Indices along the axis that the plane cuts across, ascending.
    """
    return choose_slices(brain_region(volume.data), largest(labels), CUTS[plane], count)
