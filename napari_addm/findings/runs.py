"""Findings as runs of neighboring voxels, which are far fewer than the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of neighboring voxels along R, each in one finding.

    Attributes
    ----------
    start, length : ndarray of int, shape (n,)
        First voxel, as a flat index that rises, and number of voxels.
    member : ndarray of int, shape (n,)
        Number of the finding, from 0.
    """

    start: np.ndarray
    length: np.ndarray
    member: np.ndarray

    @cached_property
    def offset(self) -> np.ndarray:
        """Index of each run's first voxel in `voxels`."""
        return np.cumsum(self.length) - self.length

    @cached_property
    def voxels(self) -> np.ndarray:
        """Flat indices of the voxels of all runs."""
        return np.repeat(self.start - self.offset, self.length) + np.arange(self.length.sum())


def first_peaks(scores: np.ndarray, runs: Runs, count: int) -> np.ndarray:
    """Return the place in `runs.voxels` of each finding's first highest score."""
    first = np.zeros(count, dtype=np.intp)
    if count:
        peaks = np.full(count, -np.inf, dtype=scores.dtype)
        np.maximum.at(peaks, runs.member, np.maximum.reduceat(scores, runs.offset))
        # Written backwards, so that of equal peaks the first voxel stays.
        at_peak = np.flatnonzero(scores == np.repeat(peaks[runs.member], runs.length))[::-1]
        first[np.repeat(runs.member, runs.length)[at_peak]] = at_peak
    return first
