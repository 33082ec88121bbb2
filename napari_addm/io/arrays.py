"""Arrays of voxels: their types, boxes and affines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]
"""Real values, shape (S, A, R)."""
Mask = NDArray[np.bool_]
"""Chosen voxels, shape (S, A, R)."""
Shape = tuple[int, int, int]
"""Number of voxels along three axes."""
Spacing = tuple[float, float, float]
"""Distance between the centers of neighboring voxels along three axes, in mm."""
Box = tuple[slice, slice, slice]
"""A part of a grid."""

# An axis less than this from another direction (radians, a tenth of a degree) counts as aligned.
ALIGNED = 1.75e-3


def voxel_spacing(affine: np.ndarray) -> Spacing:
    """Return the voxel size along the index axes.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Index to world mm.

    Returns
    -------
    tuple of float
        In mm, one per column of the affine.
    """
    first, second, third = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return first, second, third


def bounding_box(mask: Mask) -> Box:
    """Return the smallest box around the True voxels; an empty box when there are none."""
    across = np.asarray(mask.any(axis=0))
    occupied = (mask.any(axis=(1, 2)), across.any(axis=1), across.any(axis=0))
    s, a, r = (_extent(np.flatnonzero(places)) for places in occupied)
    return s, a, r


def _extent(places: np.ndarray) -> slice:
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)


def affine_is_sheared(affine: np.ndarray) -> bool:
    """Return whether two index axes are more than 0.1 degrees off a right angle."""
    unit = affine[:3, :3] / voxel_spacing(affine)
    return bool(np.abs(unit.T @ unit - np.eye(3)).max() > ALIGNED)


def displacement(one: np.ndarray, other: np.ndarray, shape: Shape) -> float:
    """Return the largest distance between the places that two affines give to a voxel of a grid.

    Parameters
    ----------
    one, other : ndarray, shape (4, 4)
        Index to world mm.
    shape : tuple of int
        The grid.

    Returns
    -------
    float
        In mm.
    """
    # The distance is convex in the index, so the worst voxel is a corner.
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], 1)).reshape(4, -1)
    apart = (one - other)[:3] @ corners
    return float(np.linalg.norm(apart, axis=0).max())


def stored_dtype(data: np.ndarray) -> np.dtype:
    """Return the type that files store voxels as.

    Returns
    -------
    dtype
        float32, or for whole numbers and booleans the first of uint8, int16, int32 and int64 that
        holds them all.
    """
    if data.dtype == bool:
        return np.dtype(np.uint8)
    if not np.issubdtype(data.dtype, np.integer):
        return np.dtype(np.float32)
    low, high = int(data.min()), int(data.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)
