"""Parts that the montage and the figure are drawn from: slices, colors, letters, captions."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont  # scikit-image's own dependency
from scipy import ndimage
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from napari_addm.io.files import write_atomic
from napari_addm.io.volume import Volume

Plane = Literal["Axial", "Coronal", "Sagittal"]
Picture = NDArray[np.float32]  # RGB, 0..1
Box = tuple[slice, slice]
Color = tuple[float, float, float]  # RGB, 0..1
Place = tuple[float, float]  # x, y in pixels

CUTS: dict[Plane, int] = {"Axial": 0, "Coronal": 1, "Sagittal": 2}
"""Across which axis of S, A, R a plane cuts; the other two are its rows and columns."""

# The ends of the axes S, A, R: where the index grows to, and where it comes from.
ENDS = (("S", "I"), ("A", "P"), ("R", "L"))
COLUMNS = 6
PANEL_HEIGHT = 230
GAP = 6
LINE_HEIGHT = 18
MARGIN_MM = 6.0

# From dark red over orange to light yellow: monotone in lightness, so it also reads in gray.
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
FINDING_COLOR = (0.25, 0.85, 1.0)
TRUTH_COLOR = (0.35, 1.0, 0.35)
TEXT_INK = (225, 225, 225)
FONT, SMALL_FONT = ImageFont.load_default(14), ImageFont.load_default(12)


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

    def overlay(
        self, scan: NDArray[np.float32], anomaly: NDArray[np.float32], index: int, top: float
    ) -> Picture:
        """One slice with the anomaly map over it; `top` is the score of the brightest color."""
        picture = self.gray(scan, index)
        score = np.clip(self._panel(np.take(anomaly, index, self.cut)) / top, 0, 1)
        # Faint where the map is low, so that the anatomy stays visible under it.
        alpha = np.clip((score - 0.15) / 0.45, 0, 0.85)[..., None]
        return np.asarray((1 - alpha) * picture + alpha * heat(score), np.float32)

    def outline(
        self, picture: Picture, region: NDArray[np.generic], index: int, color: Color
    ) -> None:
        """Draw the edge of a region (nonzero) onto a panel, in place."""
        inside = np.take(region, index, self.cut) != 0
        if inside.any():
            shown = self._panel(inside) > 0.5
            edge = find_boundaries(shown, mode="outer")
            picture[ndimage.binary_dilation(edge, iterations=1) & ~shown] = color

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


def heat(score: NDArray[np.float32]) -> Picture:
    """The colors of scores from 0 to 1."""
    at = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(score, at, HEAT[:, c]) for c in range(3)], -1).astype(np.float32)


class Canvas:
    """A black RGB picture that panels, words and lines are drawn onto; places are (x, y)."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height))
        self._draw = ImageDraw.Draw(self.image)

    def paste(self, picture: Picture, place: Place) -> None:
        """Put a picture with its upper left corner to a place."""
        pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
        self.image.paste(Image.fromarray(pixels), (int(place[0]), int(place[1])))

    def paste_heat(self, place: Place, width: int, height: int) -> None:
        """Put the colors of the score to a place, the highest one on top."""
        scores = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(width, axis=1)
        self.paste(heat(scores), place)

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

    def legend(self, place: Place, color: Color, word: str) -> float:
        """Draw a short line and what its color means; returns the length of all."""
        x, y = place
        self.line(place, (x + 22, y), color)
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
    volume: Volume, labels: NDArray[np.integer], count: int, plane: Plane = "Axial"
) -> list[int]:
    """Choose slices spread over the brain, one of them where the largest finding is widest.

    Parameters
    ----------
    labels : ndarray of int, shape (S, A, R)
        Findings; 1 is the largest.
    count : int
        At most so many.

    Returns
    -------
    list of int
        Indices along the axis that the plane cuts across, ascending.
    """
    return choose_slices(brain_region(volume.data), labels == 1, CUTS[plane], count)
