"""The inside of a mask, in mm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_addm.detection.smoothing import in_plane_box
from napari_addm.io.arrays import Mask, Spacing


def erode(mask: Mask, depth_mm: float, spacing_mm: Spacing) -> Mask:
    """Return the voxels that lie deeper than ``depth_mm`` inside a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
    depth_mm : float
        0 keeps the mask.
    spacing_mm : (z, y, x)
    """
    if depth_mm <= 0:
        return mask
    return depth_inside(mask, spacing_mm) > depth_mm


def depth_inside(mask: Mask, spacing_mm: Spacing) -> NDArray[np.float64]:
    """Return the distance from every voxel of a mask to the nearest voxel outside, in mm.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
        Voxels beyond the grid are outside.
    spacing_mm : (z, y, x)

    Returns
    -------
    ndarray of float64, shape (D, H, W)
        0 outside the mask.
    """
    box = in_plane_box(mask)
    padded = np.pad(mask[box], 1)
    depth = np.zeros(mask.shape)
    depth[box] = ndimage.distance_transform_edt(padded, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    return depth
