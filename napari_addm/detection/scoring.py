"""The score of every voxel: how far scan and reconstruction differ, before smoothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from napari_addm.errors import AddmError
from napari_addm.io.arrays import Grid, Mask, Spacing
from napari_addm.registry import SCORES

Compute = Callable[[Grid, Grid, Mask, Spacing], Grid]
"""``compute(scan, reconstructions, mask, spacing_mm)``; see `voxel_scores`."""


@dataclass(frozen=True)
class Score:
    """A score as the panel, the command line and the checkpoints know it.

    Attributes
    ----------
    title, description : str
        For people: its name, and where it is high.
    compute : callable
        ``compute(scan, reconstructions, mask, spacing_mm)``, with the arrays of
        `voxel_scores`, returns the scores.
    """

    title: str
    description: str
    compute: Compute


def voxelwise(function: Callable[[Grid, Grid], Grid]) -> Compute:
    """Make a score of ``function(scan, reconstruction)``, which looks at single voxels."""

    def compute(scan: Grid, reconstructions: Grid, mask: Mask, spacing_mm: Spacing) -> Grid:
        return function(scan, reconstructions)

    return compute


def voxel_scores(
    name: str,
    scan: Grid,
    reconstructions: Grid,
    mask: Mask,
    spacing_mm: Spacing,
    weights: Grid | None = None,
) -> Grid:
    """Score some reconstructions voxel by voxel.

    Parameters
    ----------
    name : str
        A name in `napari_addm.registry.SCORES`.
    scan : ndarray of float32, shape (D, H, W)
        Model values, 0 to 1.
    reconstructions : ndarray of float32, shape (draws, D, H, W)
    mask : ndarray of bool, shape (D, H, W)
        Where scan and reconstruction have values.
    spacing_mm : (z, y, x)
    weights : ndarray of float32, shape (draws, D, H, W), optional
        Factors for each draw's score, from methods that also predict where a lesion can be.

    Returns
    -------
    ndarray of float32, shape (draws, D, H, W)

    Raises
    ------
    AddmError
        If there is no such score, or it gives values that are not finite.
    """
    scores = SCORES[name].compute(scan, reconstructions, mask, spacing_mm)
    if not np.isfinite(scores).all():  # a map of them would look like a healthy brain
        raise AddmError(
            f"The score {name!r} gives values that are not finite; choose another, or correct it."
        )
    return scores if weights is None else scores * weights
