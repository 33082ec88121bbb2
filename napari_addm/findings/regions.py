"""The names of the brain regions that findings lie in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.atlas import Region, ScanRegions
from napari_addm.findings.runs import Runs

LEAST_SHARE = 0.10
"""A further area, or a structure, is named if it holds at least this share of a finding."""
LARGE_ML = 20.0
"""A finding of this volume pushes its surroundings away: its regions are named with *about*."""
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class RegionCounts:
    """How many voxels of each finding lie in each region.

    Attributes
    ----------
    voxels : ndarray of int, shape (n, regions + 1)
        The first column counts what lies in none; None where the scan does not fit the atlas.
    regions : tuple of Region
        Those of the columns from 1.
    fit : float
        How similar scan and atlas are.
    """

    voxels: NDArray[np.intp] | None
    regions: tuple[Region, ...]
    fit: float

    @classmethod
    def of(cls, scan: ScanRegions, runs: Runs, order: NDArray[np.intp]) -> RegionCounts:
        """Count the regions of some findings, whose numbers are in `order`."""
        if scan.labels is None:
            return cls(None, scan.regions, scan.similarity)
        columns = len(scan.regions) + 1
        member = np.repeat(runs.member, runs.length)
        places = member * columns + scan.labels.ravel()[runs.voxels]
        counts = np.bincount(places, minlength=len(order) * columns).reshape(-1, columns)
        return cls(counts[order], scan.regions, scan.similarity)

    def name(self, index: int, volume_ml: float) -> str:
        """Name the regions of a finding; see `name_regions`."""
        if self.voxels is None:
            return UNKNOWN
        return name_regions(self.voxels[index, 1:].tolist(), self.regions, volume_ml)


def name_regions(voxels: Sequence[int], regions: Sequence[Region], volume_ml: float) -> str:
    """Name the area that holds most of a finding, and what else holds a part of it.

    Parameters
    ----------
    voxels : sequence of int
        Of the finding, in each region.
    regions : sequence of Region
    volume_ml : float
        From `LARGE_ML` on the name begins with *about*.

    Returns
    -------
    str
        ``"right temporal lobe; hippocampus 12 %"``; ``"unknown"`` without a voxel in a region.
    """
    total = sum(voxels)
    if not total:
        return UNKNOWN
    areas: defaultdict[tuple[str, str], int] = defaultdict(int)
    structures: defaultdict[tuple[str, str], int] = defaultdict(int)
    for count, region in zip(voxels, regions, strict=True):
        areas[region.side, region.area] += count
        if region.structure:
            structures[region.side, region.structure] += count
    main = max(areas, key=lambda area: areas[area])
    further = {area: areas[area] for area in areas if area != main} | structures
    shares = {
        name: count / total for name, count in further.items() if count >= LEAST_SHARE * total
    }
    words = [_in_words(main)]
    if volume_ml >= LARGE_ML:
        words[0] = f"about the {words[0]}"
    for side, name in sorted(shares, key=lambda name: -shares[name]):
        # The side of the area that holds most of it goes without saying, but for the same area.
        own = side == main[0] and name != main[1]
        words.append(
            f"{_in_words(('' if own else side, name))} {shares[side, name]:.0%}".replace("%", " %")
        )
    return "; ".join(words)


def _in_words(name: tuple[str, str]) -> str:
    return " ".join(part for part in name if part)
