"""Which side of the brain a place lies on: the plane between its halves, in world mm.

The world's origin says nothing about sides: many files have it in a corner of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Side = Literal["left", "right", "midline"]
MidlineSource = Literal["symmetry", "mask"]
SIDES: tuple[Side, ...] = ("left", "midline", "right")

MIDLINE_SHARE = 0.25
"""Something lies on the midline where each half of the brain holds at least this share of it."""

SIDES_FROM_MASK = (
    "Left and right of this brain are too different to find its plane of symmetry: the sides of "
    "findings are counted from the middle of the brain mask."
)
NO_MIDLINE = (
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
        Of the plane from the world's origin, along the normal.
    source : {"symmetry", "mask"}
        The scan's plane of symmetry, or the middle of its brain mask, which is less exact.
    """

    normal: tuple[float, float, float]
    offset_mm: float
    source: MidlineSource

    def distance_to_right(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Distance of points (..., 3) in world RAS+ mm; negative on the patient's left."""
        return np.asarray(points_mm, np.float64) @ np.array(self.normal) - self.offset_mm


def describe_side(side: Side | None, from_midline_mm: float | None, source: str | None) -> str:
    """Word a side for a person.

    Parameters
    ----------
    side : {"left", "right", "midline"} or None
    from_midline_mm : float or None
    source : {"symmetry", "mask"} or None
        Of the midline.

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
    """Word a side in the cell of a table: ``"right, 31 mm"``, or ``"≈ right, 31 mm"`` if estimated.

    Parameters as for `describe_side`.
    """
    if side is None or from_midline_mm is None:
        return "unknown"
    words = side if side == "midline" else f"{side}, {from_midline_mm:.0f} mm"
    return f"≈ {words}" if source == "mask" else words
