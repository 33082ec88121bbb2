"""Findings of one brain at two dates: which of them are the same, and how they changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from napari_addm.io.arrays import Grid, Mask

Kind = Literal["new", "grown", "shrunk", "unchanged", "gone", "uncertain", "not covered"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LEAST_SHARE = 0.1
"""Two findings are the same where they share this part of the smaller one."""
LEAST_COVERED = 0.8
"""A finding can be compared if this part of it lies in the other scan's brain."""
LEAST_PERCENT = 25.0
"""A finding changed if its volume differs by more than this, in % of the earlier volume, ..."""
LEAST_ML = 0.5
"""... and by more than this, in mL."""
WEAK = 1.5
"""A finding whose highest score is below this many times the threshold changes by chance."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The findings of one date; all arrays have shape (S, A, R).

    Attributes
    ----------
    labels : ndarray of int
        0 = no finding.
    anomaly : ndarray of float32
        Scores.
    brain : ndarray of bool
        Where there is a score.
    affine : ndarray, shape (4, 4)
        Index (s, a, r, 1) to mm in a space that both dates share.
    threshold : float
        Scores above it are findings.
    """

    labels: NDArray[np.integer]
    anomaly: Grid
    brain: Mask
    affine: NDArray[np.float64]
    threshold: float


@dataclass(frozen=True)
class Change:
    """Findings at one place, at both dates; several at one date are measured together.

    Attributes
    ----------
    kind : str
        One of `KINDS`. A change of volume counts if it is larger than `LEAST_PERCENT` and
        `LEAST_ML`; that of a weak finding is "uncertain". What lies to more than a fifth outside
        the other scan's brain is "not covered".
    before, after : tuple of int
        Ids of the findings.
    before_ml, after_ml : float
        Their volume, measured on each scan's own grid.
    before_mm, after_mm : float or None
        The longest diameter of the largest of them; None without a finding.
    before_peak, after_peak : float or None
        The highest score in the finding or, where there is none, at its place; None beyond the
        map.
    center_mm : tuple of float
        Center of the earlier findings, or of the later ones where there is none earlier, in the
        shared space.
    weak : bool
        Whether no score reaches `WEAK` times the threshold of its date: such findings come, go and
        change their size between repeated scans.
    """

    kind: Kind
    before: tuple[int, ...]
    after: tuple[int, ...]
    before_ml: float
    after_ml: float
    before_mm: float | None
    after_mm: float | None
    before_peak: float | None
    after_peak: float | None
    center_mm: tuple[float, float, float]
    weak: bool

    @property
    def change_ml(self) -> float | None:
        """What the volume gained; None for what is not covered."""
        return None if self.kind == "not covered" else self.after_ml - self.before_ml

    @property
    def change_percent(self) -> float | None:
        """The same in % of the earlier volume; None without one."""
        gained = self.change_ml
        return None if gained is None or not self.before else 100 * gained / self.before_ml

    @property
    def change_mm(self) -> float | None:
        """What the longest diameter gained; None without a finding at both dates."""
        if self.kind == "not covered" or self.before_mm is None or self.after_mm is None:
            return None
        return self.after_mm - self.before_mm


@dataclass(frozen=True, eq=False)
class _Measured:
    """The findings of one date, each with what lies at its place at the other date.

    ``matches`` are pairs (n, m): finding n and the other date's finding m share enough of n.
    """

    ids: NDArray[np.integer]
    volume_ml: NDArray[np.float64]
    diameter_mm: NDArray[np.float64]
    peak: NDArray[np.float64]
    center_mm: NDArray[np.float64]
    covered: NDArray[np.float64]
    threshold: float
    other_peak: NDArray[np.float64]
    matches: NDArray[np.integer]


def match_findings(before: Labelled, after: Labelled) -> list[Change]:
    """Match the findings of two dates by their overlap, and measure how they changed.

    Returns
    -------
    list of Change
        The largest first. Every finding is in exactly one of them.
    """
    one, other = _measure(before, after), _measure(after, before)
    n, count = len(one.ids), len(one.ids) + len(other.ids)
    if not count:
        return []
    pairs = np.concatenate([one.matches + np.array((0, n)), other.matches + np.array((n, 0))])
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    groups = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    changes = [_change(one, other, each[each < n], each[each >= n] - n) for each in groups]
    return sorted(changes, key=lambda c: (-max(c.before_ml, c.after_ml), not c.before, c.before))


def longest_diameter(index: NDArray[np.integer], affine: NDArray[np.float64]) -> float:
    """Measure the longest straight line between the faces of voxels, in mm.

    Parameters
    ----------
    index : ndarray of int, shape (n, 3)
        The voxels, in the order of the memory.
    affine : ndarray, shape (4, 4)
        Index to mm.
    """
    starts = np.diff(index[:, :2], axis=0, prepend=-1).any(axis=1)  # of rows
    outer = index[starts | np.roll(starts, -1)]
    faces = np.concatenate([np.eye(3), -np.eye(3)]) / 2  # never flat, so there is a hull
    ends = (outer[:, None] + faces).reshape(-1, 3)
    return float(pdist(nib.affines.apply_affine(affine, ends[ConvexHull(ends).vertices])).max())


def _measure(one: Labelled, other: Labelled) -> _Measured:
    index = np.argwhere(one.labels)
    ids, finding = np.unique(one.labels[tuple(index.T)], return_inverse=True)
    voxels = np.bincount(finding, minlength=len(ids))
    parts = np.split(index[np.argsort(finding, kind="stable")], np.cumsum(voxels)[:-1])
    places = nib.affines.apply_affine(one.affine, index)
    there = np.rint(nib.affines.apply_affine(np.linalg.inv(other.affine), places)).astype(int)
    inside = ((there >= 0) & (there < other.labels.shape)).all(axis=1)
    inside[inside] = other.brain[tuple(there[inside].T)]
    here, at = finding[inside], tuple(there[inside].T)
    return _Measured(
        ids=ids,
        volume_ml=voxels * abs(np.linalg.det(one.affine[:3, :3])) / 1000,
        diameter_mm=np.array([longest_diameter(p, one.affine) for p in parts if len(p)]),
        peak=_largest(one.anomaly[tuple(index.T)], finding, len(ids)),
        center_mm=np.stack([np.bincount(finding, axis) / voxels for axis in places.T], axis=-1),
        covered=np.bincount(here, minlength=len(ids)) / voxels,
        threshold=one.threshold,
        other_peak=_largest(other.anomaly[at], here, len(ids)),
        matches=_matches(here, other.labels[at], np.unique(other.labels), voxels),
    )


def _matches(
    finding: NDArray[np.integer],
    met: NDArray[np.integer],
    others: NDArray[np.integer],
    voxels: NDArray[np.integer],
) -> NDArray[np.integer]:
    """Return which findings (index) have a large enough part in which others (index)."""
    others = others[others != 0]
    hit = met != 0
    pairs, shared = np.unique(
        np.stack([finding[hit], np.searchsorted(others, met[hit])], axis=-1),
        axis=0,
        return_counts=True,
    )
    return pairs[shared >= LEAST_SHARE * voxels[pairs[:, 0]]]


def _largest(scores: Grid, finding: NDArray[np.integer], count: int) -> NDArray[np.float64]:
    """The highest score of each finding; minus infinity without one."""
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, finding, scores)
    return highest


def _change(
    one: _Measured, other: _Measured, before: NDArray[np.integer], after: NDArray[np.integer]
) -> Change:
    """Describe findings of both dates (indices) that are the same."""
    first_ml, last_ml = float(one.volume_ml[before].sum()), float(other.volume_ml[after].sum())
    covered_ml = float(
        one.covered[before] @ one.volume_ml[before] + other.covered[after] @ other.volume_ml[after]
    )
    weak = not any(
        (measured.peak[which] >= WEAK * measured.threshold).any()
        for measured, which in ((one, before), (other, after))
    )
    kind: Kind = "unchanged"
    if covered_ml < LEAST_COVERED * (first_ml + last_ml):
        kind = "not covered"
    elif not len(before):
        kind = "new"
    elif not len(after):
        kind = "gone"
    elif abs(last_ml - first_ml) > max(LEAST_ML, LEAST_PERCENT / 100 * first_ml):
        kind = "uncertain" if weak else "grown" if last_ml > first_ml else "shrunk"
    here, place = (one, before) if len(before) else (other, after)
    x, y, z = np.average(here.center_mm[place], axis=0, weights=here.volume_ml[place]).tolist()
    return Change(
        kind=kind,
        before=_ids(one, before),
        after=_ids(other, after),
        before_ml=first_ml,
        after_ml=last_ml,
        before_mm=_most(one.diameter_mm[before]),
        after_mm=_most(other.diameter_mm[after]),
        before_peak=_most(one.peak[before] if len(before) else other.other_peak[after]),
        after_peak=_most(other.peak[after] if len(after) else one.other_peak[before]),
        center_mm=(x, y, z),
        weak=weak,
    )


def _ids(measured: _Measured, which: NDArray[np.integer]) -> tuple[int, ...]:
    return tuple(measured.ids[which].tolist())


def _most(values: NDArray[np.float64]) -> float | None:
    highest = float(values.max(initial=-np.inf))
    return highest if np.isfinite(highest) else None


def count_kinds(changes: Sequence[Change]) -> Mapping[Kind, int]:
    """Count the changes of each kind, in the order of `KINDS`."""
    return {kind: sum(change.kind == kind for change in changes) for kind in KINDS}
