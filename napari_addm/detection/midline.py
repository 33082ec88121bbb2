"""The midline: the plane between the halves of a brain, and the side on which a place lies.

The world's origin does not give the side: many files have it in a corner of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_addm.io.remarks import caution

Side = Literal["left", "right", "midline"]
MidlineSource = Literal["symmetry", "mask"]
SIDES: tuple[Side, ...] = ("left", "midline", "right")

MIDLINE_SHARE = 0.25
"""A finding is on the midline if each half of the brain holds at least this share of it."""

SIDES_FROM_MASK = caution(
    "Left and right of this brain are too different to find its plane of symmetry: the sides of "
    "findings are counted from the middle of the brain mask."
)
NO_MIDLINE = caution(
    "The brain mask does not hold both halves of a brain evenly enough to find the midline: no "
    "side is given for the findings."
)


@dataclass(frozen=True)
class Midline:
    """The plane between the left and the right half of a brain.

    Attributes
    ----------
    normal : tuple of float
        Unit vector (x, y, z) in world RAS+, towards the patient's right.
    offset_mm : float
        Distance of the plane from the world's origin, along the normal.
    source : {"symmetry", "mask"}
        The scan's plane of symmetry, or that of its brain mask, which is less exact.
    """

    normal: tuple[float, float, float]
    offset_mm: float
    source: MidlineSource

    def distance_to_right(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Return the distance of points (..., 3) in world RAS+ mm; negative on the left."""
        return np.asarray(points_mm, np.float64) @ np.array(self.normal) - self.offset_mm


def describe_side(side: Side | None, from_midline_mm: float | None, source: str | None) -> str:
    """Describe a side in words.

    Parameters
    ----------
    side : {"left", "right", "midline"} or None
    from_midline_mm : float or None
    source : {"symmetry", "mask"} or None
        Source of the midline.

    Returns
    -------
    str
        ``"right, 31 mm from the midline"``, ``"on the midline"`` or ``"side unknown"``;
        with ``(estimated)`` where the midline is the middle of the brain mask.
    """
    if side is None or from_midline_mm is None:
        return "side unknown"
    estimated = " (estimated)" if source == "mask" else ""
    if side == "midline":
        return f"on the midline{estimated}"
    return f"{side}{estimated}, {from_midline_mm:.0f} mm from the midline"


def abbreviate_side(side: Side | None, from_midline_mm: float | None, source: str | None) -> str:
    """Describe a side in a table's cell: ``"right, 31 mm"``, or ``"≈ right, 31 mm"`` if estimated.

    Parameters as for `describe_side`.
    """
    if side is None or from_midline_mm is None:
        return "unknown"
    words = side if side == "midline" else f"{side}, {from_midline_mm:.0f} mm"
    return f"≈ {words}" if source == "mask" else words
