"""Resampling of images between the scan's grid and the model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_addm.detection.parallel import one_blas_thread
from napari_addm.detection.smoothing import multiply_along
from napari_addm.io.arrays import Box

Affine = NDArray[np.float64]


def resample(
    data: NDArray[np.float32], matrix: Affine, box: Box, sigma: Sequence[float] = (0.0, 0.0, 0.0)
) -> NDArray[np.float32]:
    """Sample an image linearly at ``matrix @ index`` for every index of a box.

    Parameters
    ----------
    data : ndarray of float32, shape (D, H, W)
        0 outside.
    matrix : ndarray, shape (4, 4)
        Index of a sample to index of ``data``.
    sigma : sequence of float
        Standard deviations, in voxels along each axis, of a Gaussian that smooths ``data`` before;
        0.2 and less leave it alone.

    Returns
    -------
    ndarray of float32, the box's shape
    """
    start = np.array([s.start for s in box], float)
    shape = tuple(s.stop - s.start for s in box)
    offset = matrix[:3, :3] @ start + matrix[:3, 3]
    linear = matrix[:3, :3]
    diagonal = np.diag(linear)
    values = np.asarray(data, np.float32)
    if not np.allclose(linear, np.diag(diagonal), atol=1e-6):
        for axis in range(3):
            values = _blur(values, sigma[axis], axis)
        samples: NDArray[np.float32] = ndimage.affine_transform(
            values, linear, offset, output_shape=shape, order=1, mode="grid-constant"
        )
        return samples
    # Parallel grids: a product with a banded matrix along each axis is many times faster than
    # scipy. The axes that get shorter come first.
    with one_blas_thread():
        for axis in sorted(range(3), key=lambda a: shape[a] / values.shape[a]):
            weights = _linear(values.shape[axis], shape[axis], diagonal[axis], offset[axis])
            weights = _blur(weights, sigma[axis], 1)  # the same as smoothing the values
            values = multiply_along(axis, weights, values)
    return values


def _blur(values: NDArray[np.float32], sigma: float, axis: int) -> NDArray[np.float32]:
    """Smooth along one axis, with zeros beyond its ends."""
    if sigma <= 0.2:
        return values
    blurred: NDArray[np.float32] = ndimage.gaussian_filter1d(
        values, sigma, axis, mode="constant", truncate=3.0
    )
    return blurred


def _linear(size: int, count: int, scale: float, offset: float) -> NDArray[np.float32]:
    """Return linear interpolation at ``scale * n + offset`` as a matrix, shape (count, size).

    Beyond the ends it falls to 0 within one sample.
    """
    place = scale * np.arange(count) + offset
    lower = np.floor(place).astype(int)
    matrix = np.zeros((count, size), np.float32)
    for sample, weight in ((lower, 1.0 - (place - lower)), (lower + 1, place - lower)):
        there = np.flatnonzero((sample >= 0) & (sample < size))
        matrix[there, sample[there]] = weight[there]
    return matrix
