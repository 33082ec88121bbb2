"""What healthy brains show at the same place.

A network's map is higher in some places than in others, in every brain: at the tentorium and the
back of the brain, for example. A checkpoint can hold the mean and the spread of its maps over
healthy brains. They are compared place by place in the brain's bounding box, which needs no
registration; the halves share one norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_addm.checkpoint.file import NORM_SHAPE, norm_tensor
from napari_addm.checkpoint.specification import MAP_PARTS
from napari_addm.io.arrays import Grid, Mask

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint

SHAPE = (*NORM_SHAPE[:2], 2 * NORM_SHAPE[2])
"""Places (z, y, x) in the brain's bounding box."""
BOX_PERCENTILES = (0.5, 99.5)
"""The box leaves out the outermost voxels, which differ from mask to mask."""
CUT_SHARE = 0.25
"""Largest outermost section of a whole brain, as a share of the largest one. 86 brains of five
sources have at most 0.13; where a third or a half is cut off, the cut has 0.5 and more."""
LEAST_SHARE = 0.3
"""Share of the brains that must have a score at a place; elsewhere the norm is the median."""


@dataclass(frozen=True, eq=False)
class Norm:
    """Mean and standard deviation of one map over healthy brains.

    Attributes
    ----------
    mean, deviation : ndarray of float32
        On the places of `SHAPE`, or on a scan's grid.
    """

    mean: Grid
    deviation: Grid


@dataclass(frozen=True, eq=False)
class BrainBox:
    """The bounding box of a brain, and the way between its voxels and the places of `SHAPE`."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    grid: tuple[int, ...]

    @classmethod
    def of(cls, mask: Mask) -> BrainBox:
        """Find the box of a mask of shape (D, H, W) that is not empty."""
        ends = np.array([_ends(sections) for sections in _sections(mask)])
        return cls(ends[:, 0], ends[:, 1], mask.shape)

    @property
    def _step(self) -> NDArray[np.float64]:
        return np.maximum(self.high - self.low, 1.0) / (np.array(SHAPE) - 1)

    @staticmethod
    def is_cut(mask: Mask) -> bool:
        """Tell whether a part of the brain is missing at a face of its box."""
        areas = (sections[sections > 0] for sections in _sections(mask))
        return any(
            len(area) > 0 and max(area[0], area[-1]) > CUT_SHARE * area.max() for area in areas
        )

    def to_places(self, values: Grid | Mask) -> Grid:
        """Bring a map of shape (D, H, W) to the places; 0 beyond the grid."""
        places: Grid = ndimage.affine_transform(
            values.astype(np.float32), self._step, self.low, output_shape=SHAPE, order=1
        )
        return places

    def to_grid(self, places: Grid) -> Grid:
        """Bring the values of the places to the brain's grid, the outermost ones beyond the box."""
        grid: Grid = ndimage.affine_transform(
            places.astype(np.float32),
            1 / self._step,
            -self.low / self._step,
            output_shape=self.grid,
            order=1,
            mode="nearest",
        )
        return grid

    def place(self, norms: Mapping[str, Norm]) -> dict[str, Norm]:
        """Bring norms to the brain's grid."""
        return {
            name: Norm(self.to_grid(norm.mean), self.to_grid(norm.deviation))
            for name, norm in norms.items()
        }


def _sections(mask: Mask) -> list[NDArray[np.int64]]:
    """Count the voxels of each section of a brain, along each axis."""
    return [mask.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]


def _ends(counts: NDArray[np.int64]) -> tuple[float, float]:
    """The outer percentiles of the voxels along an axis, as indices."""
    below = np.cumsum(counts) / counts.sum() * 100
    low, high = (float(np.searchsorted(below, percentile)) for percentile in BOX_PERCENTILES)
    return low, high


def measure_norm(brains: Sequence[tuple[str, Grid, Grid]]) -> Norm:
    """Measure the norm of one map.

    Parameters
    ----------
    brains : sequence of (group, values, weight)
        Of every healthy brain, on the places of `SHAPE`: its map, 0 where it has no scores, and the
        share of each place where it has some. Each group counts alike.

    Returns
    -------
    Norm
        On the places of `SHAPE`, alike in both halves.
    """
    groups = sorted({group for group, _, _ in brains})
    norms = []
    for name in groups:
        values = np.stack([values for group, values, _ in brains if group == name])
        weight = np.stack([weight for group, _, weight in brains if group == name])
        count = np.maximum(weight.sum(axis=0), 1e-3)
        mean = values.sum(axis=0) / count
        spread = np.where(weight > 0.5, (values / np.maximum(weight, 0.5) - mean) ** 2, 0) * weight
        deviation = np.sqrt(spread.sum(axis=0) / np.maximum(count, 1.0))
        sure = weight.mean(axis=0) > LEAST_SHARE
        norms.append((_completed(mean, sure), _completed(deviation, sure)))
    mean, deviation = np.mean(norms, axis=0)
    return Norm(mean, deviation)


def _completed(values: Grid, sure: Mask) -> Grid:
    """Make both halves alike, fill unsure places with the median, and smooth by a place."""
    sure = sure & sure[..., ::-1]
    alike = (values + values[..., ::-1]) / 2
    filled = np.where(sure, alike, np.median(alike[sure]) if sure.any() else 0)
    return np.asarray(ndimage.gaussian_filter(filled, 0.7), np.float32)


def to_tensors(norms: Mapping[str, Norm]) -> dict[str, Any]:
    """Return the tensors by which a checkpoint holds norms; one half of each, float16."""
    import torch

    half = NORM_SHAPE[2]
    return {
        norm_tensor(name, part): torch.from_numpy(values[..., :half].astype(np.float16))
        for name, norm in norms.items()
        for part, values in (("mean", norm.mean), ("deviation", norm.deviation))
    }


def norms_of(checkpoint: Checkpoint) -> dict[str, Norm]:
    """Return the norms that a checkpoint holds; `load_checkpoint` has checked that they fit."""

    def whole(name: str, part: str) -> Grid:
        half = checkpoint.weights[norm_tensor(name, part)].float().numpy()
        return np.concatenate([half, half[..., ::-1]], axis=2)

    if checkpoint.specification.detection.healthy_norm is None:
        return {}
    return {name: Norm(whole(name, "mean"), whole(name, "deviation")) for name in MAP_PARTS}


def beyond_norm(values: Grid, norm: Norm, inner: Mask, share: float) -> Grid:
    """Subtract a share of the healthy mean from a map.

    Parameters
    ----------
    values : ndarray of float32, shape (D, H, W)
    norm : Norm
        On the map's grid.
    inner : ndarray of bool, shape (D, H, W)
        Where the map has scores.

    Returns
    -------
    ndarray of float32, shape (D, H, W)
        Never negative; 0 at the lowest percent of the scores, and outside.
    """
    return _from_lowest(values - share * norm.mean, inner)


def in_deviations(values: Grid, norm: Norm, inner: Mask) -> Grid:
    """Express a map in healthy standard deviations above the healthy mean.

    The unit is the place's deviation plus the brain's median one, so that a place where the healthy
    brains happen to agree does not blow up.

    Parameters and result are as for `beyond_norm`.
    """
    if not inner.any():
        return np.zeros_like(values)
    steady = norm.deviation + np.median(norm.deviation[inner])
    return _from_lowest((values - norm.mean) / np.maximum(steady, 1e-6), inner)


def _from_lowest(values: Grid, inner: Mask) -> Grid:
    if not inner.any():
        return np.zeros_like(values)
    lowest = np.percentile(values[inner], 1.0)
    return np.where(inner, np.maximum(values - lowest, 0), 0).astype(np.float32)
