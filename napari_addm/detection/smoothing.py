"""Gaussian averages inside a mask, in mm, by products with banded matrices.

A dense product spends most of its time on zeros, and a sparse one makes no use of the processor's
vector units. So the rows are multiplied some at a time, each with the columns that they need.
"""

from __future__ import annotations

import numpy as np

from napari_addm.detection.parallel import one_blas_thread, parallel_map
from napari_addm.io.arrays import Box, Grid, Mask, Spacing

ROWS = 24
"""Rows per product: fewer make small products, more include more zeros."""


def multiply_along(axis: int, matrix: Grid, values: Grid) -> Grid:
    """Multiply a matrix with every line of a volume along one axis.

    Parameters
    ----------
    axis : {0, 1, 2}
    matrix : ndarray of float32, shape (m, n)
        Any matrix; a narrow band is fastest.
    values : ndarray of float32, shape (D, H, W)
        n long along the axis.

    Returns
    -------
    ndarray of float32
        m long along the axis, and as long as ``values`` along the others.
    """
    values = np.ascontiguousarray(values)
    depth, height, width = values.shape
    shape = list(values.shape)
    shape[axis] = len(matrix)
    product = np.empty(shape, np.float32)
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS]
        part = slice(start, start + len(rows))
        columns = np.flatnonzero(rows.any(axis=0))
        if not columns.size:
            product[(slice(None),) * axis + (part,)] = 0
            continue
        band = slice(int(columns[0]), int(columns[-1]) + 1)
        rows = rows[:, band]
        if axis == 0:
            flat = product[part].reshape(len(rows), -1)
            np.matmul(rows, values[band].reshape(-1, height * width), out=flat)
        elif axis == 1:
            np.matmul(rows, values[:, band], out=product[:, part])
        else:
            flat = product.reshape(depth * height, -1)
            np.matmul(values.reshape(-1, width)[:, band], rows.T, out=flat[:, part])
    return product


class NormalizedConvolution:
    """Gaussian average over the voxels inside a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
        Voxels outside do not contribute.
    sigma_mm : float
        Standard deviation of the Gaussian, cut at three of them; 0 averages nothing.
    spacing_mm : (z, y, x)
    """

    def __init__(self, mask: Mask, sigma_mm: float, spacing_mm: Spacing) -> None:
        self.mask = mask
        self.bands = [
            _gaussian_band(size, sigma_mm / spacing)
            for size, spacing in zip(mask.shape, spacing_mm, strict=True)
        ]
        weight = self._convolve(mask.astype(np.float32))
        self.gain = np.where(mask, 1.0 / np.maximum(weight, 1e-6), 0).astype(np.float32)

    def _convolve(self, values: Grid) -> Grid:
        with one_blas_thread():
            for axis, band in enumerate(self.bands):
                values = multiply_along(axis, band, values)
        return values

    def __call__(self, values: Grid) -> Grid:
        """Average values of shape (D, H, W); 0 outside the mask; float32, shape (D, H, W)."""
        means = self._convolve(np.where(self.mask, values, np.float32(0)))
        means *= self.gain
        return means


def _gaussian_band(size: int, sigma: float) -> Grid:
    """Return a Gaussian convolution of one axis as a matrix, shape (size, size)."""
    if sigma <= 0:
        return np.eye(size, dtype=np.float32)
    distance = np.arange(size)[:, None] - np.arange(size)
    band = np.exp(-0.5 * (distance / sigma) ** 2)
    band[np.abs(distance) > 3.0 * sigma] = 0
    return band.astype(np.float32)


def smooth_and_average(
    scores: Grid, inner: Mask, sigma_mm: float, spacing_mm: Spacing
) -> tuple[Grid, Grid | None]:
    """Smooth the voxel scores of some draws and average them: the anomaly map.

    Parameters
    ----------
    scores : ndarray of float32, shape (draws, D, H, W)
        See `napari_addm.detection.scoring.voxel_scores`.
    inner : ndarray of bool, shape (D, H, W)
        Where the map is wanted: the eroded brain mask. It is eroded before slices are left
        out, because a slice alone has no inside.
    sigma_mm : float
        Standard deviation of the Gaussian.
    spacing_mm : (z, y, x)

    Returns
    -------
    anomaly : ndarray of float32, shape (D, H, W)
        0 outside ``inner``.
    uncertainty : ndarray of float32, shape (D, H, W), or None
        Standard deviation over the draws; None for a single draw.
    """
    box = in_plane_box(inner)
    smooth = NormalizedConvolution(inner[box], sigma_mm, spacing_mm)
    maps = np.stack(list(parallel_map(smooth, (drawn[box] for drawn in scores))))
    anomaly = np.zeros(inner.shape, np.float32)
    anomaly[box] = maps[0] if len(maps) == 1 else maps.mean(axis=0)
    if len(maps) == 1:
        return anomaly, None
    uncertainty = np.zeros(inner.shape, np.float32)
    uncertainty[box] = maps.std(axis=0, ddof=1)
    return anomaly, uncertainty


def in_plane_box(mask: Mask) -> Box:
    """Return all slices along z, and the rectangle that the mask needs of each."""
    ranges = [slice(None)]
    for axis in (1, 2):
        used = np.flatnonzero(mask.any(axis=(0, 3 - axis)))
        ranges.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    z, y, x = ranges
    return z, y, x
