"""The two diameters by which RANO measures a lesion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from napari_addm.findings.runs import Runs
from napari_addm.io.volume import Volume

# Lines whose lengths differ by a smaller share are equally long.
EQUAL = 1e-6

Place = tuple[float, float, float]
Line = tuple[Place, Place]


@dataclass(frozen=True)
class Diameters:
    """The longest line in the axial slice where a finding is largest, and the one across it.

    RANO takes the slice with the largest section, the longest diameter there, and the longest one
    perpendicular to it. The slices are the scan's own, across the axis of its grid that is
    closest to the body's: those that a person scrolls through. Lengths are in mm of the scan's
    world, so oblique grids and unequal voxels measure right.

    The section is bounded halfway between its outermost voxels and their neighbors, as by
    marching squares. Both lines end on its convex hull, so a line may leave a hollow finding.

    Attributes
    ----------
    slice : int
        Index along S.
    longest, across : tuple of two (s, a, r)
        The ends of both lines, in voxels of the scan. The second crosses the first.
    longest_mm, across_mm : float
        Their lengths.
    """

    slice: int
    longest: Line
    across: Line
    longest_mm: float
    across_mm: float

    @property
    def product_mm2(self) -> float:
        """Product of both lengths, mm²."""
        return self.longest_mm * self.across_mm


class FindingDiameters:
    """The diameters of some findings, each computed when it is asked for.

    Parameters
    ----------
    runs : Runs
        The voxels of all findings.
    order : ndarray of int, shape (n,)
        Members of the runs, in the order of the findings.
    volume : Volume
        Gives the grid; its voxels are not read.
    """

    def __init__(self, runs: Runs, order: NDArray[np.intp], volume: Volume) -> None:
        self._runs, self._order = runs, order
        self._shape, self._to_mm = volume.shape, _to_mm(volume.affine)
        self._known: dict[int, Diameters] = {}

    def __getitem__(self, index: int) -> Diameters:
        member = int(self._order[index])
        if member not in self._known:
            by_member, begin = self._sorted
            own = by_member[begin[member] : begin[member + 1]]
            start, length = self._runs.start[own], self._runs.length[own]
            self._known[member] = _measure(start, length, self._shape, self._to_mm)
        return self._known[member]

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The runs, those of a member together, and where each member's begin."""
        member = self._runs.member
        ends = np.cumsum(np.bincount(member, minlength=len(self._order)))
        return np.argsort(member, kind="stable"), np.concatenate(([0], ends)).astype(np.intp)


def measure_diameters(region: NDArray[np.bool_], affine: NDArray[np.float64]) -> Diameters:
    """Measure the diameters of a region.

    Parameters
    ----------
    region : ndarray of bool, shape (S, A, R)
        With at least one voxel.
    affine : ndarray, shape (4, 4)
        Index to world, mm.
    """
    voxels = np.flatnonzero(region)
    return _measure(voxels, np.ones_like(voxels), region.shape, _to_mm(affine))


def _to_mm(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """From steps along A and R to mm along two perpendicular axes of the slice."""
    return np.asarray(np.linalg.qr(affine[:3, 1:3])[1], np.float64)


def _measure(
    start: NDArray[np.intp],
    length: NDArray[np.intp],
    shape: tuple[int, ...],
    to_mm: NDArray[np.float64],
) -> Diameters:
    """Measure the diameters of runs of voxels along R; see `Runs` for the first two."""
    s, a, r = np.unravel_index(start, shape)
    widest = int(np.argmax(np.bincount(s, weights=length)))
    here = s == widest
    hull = _hull(a[here], r[here], length[here])
    longest, across = _longest_lines(hull @ to_mm.T)
    to_index = np.linalg.inv(to_mm).T

    def line(ends: NDArray[np.float64]) -> Line:
        (a1, r1), (a2, r2) = (ends @ to_index).tolist()
        return (float(widest), a1, r1), (float(widest), a2, r2)

    lengths = (float(np.linalg.norm(each[1] - each[0])) for each in (longest, across))
    return Diameters(widest, line(longest), line(across), *lengths)


def _hull(
    a: NDArray[np.intp], first: NDArray[np.intp], length: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The convex hull (n, 2) of a section, counterclockwise, in voxels."""
    from scipy.spatial import ConvexHull  # slow to import

    last = first + length - 1
    fronts = np.concatenate([a, a, a - 0.5, a - 0.5, a + 0.5, a + 0.5])
    rights = np.concatenate([first - 0.5, last + 0.5, first, last, first, last])
    points = np.array([fronts, rights]).T
    return np.asarray(points[ConvexHull(points).vertices], np.float64)


def _longest_lines(hull: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The longest line in a convex hull (n, 2), and the longest one perpendicular to it."""
    apart = np.linalg.norm(hull[:, None] - hull[None], axis=-1)
    pairs = np.argwhere(np.triu(apart >= (1 - EQUAL) * apart.max()))
    found = [(hull[pair], _longest_across(hull, *pair)) for pair in pairs]
    # Of lines that are equally long, that which is crossed by the longest one.
    across = [float(np.linalg.norm(line[1] - line[0])) for _, line in found]
    return found[int(np.argmax(np.array(across) >= (1 - EQUAL) * max(across)))]


def _longest_across(hull: NDArray[np.float64], begin: int, end: int) -> NDArray[np.float64]:
    """The longest line in a hull that is perpendicular to the one between two of its corners."""
    along = hull[end] - hull[begin]
    along /= np.linalg.norm(along)
    axes = np.stack([along, (-along[1], along[0])])
    turned = (hull - hull[begin]) @ axes.T
    # From corner to corner along the one side, and along the other.
    one = turned[begin : end + 1]
    other = np.concatenate([turned[end:], turned[: begin + 1]])[::-1]
    # The width is linear between corners, so it is largest at one of them.
    places = turned[:, 0]
    sides = [np.interp(places, side[:, 0], side[:, 1]) for side in (one, other)]
    at = int(np.argmax(np.abs(sides[1] - sides[0])))
    ends = np.array([(places[at], side[at]) for side in sides])
    return np.asarray(ends @ axes + hull[begin], np.float64)
