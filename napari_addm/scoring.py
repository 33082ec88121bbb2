"""From scan and reconstruction to an anomaly map, on the model grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from napari_addm.checkpoint import ScoreKind, ScoreSpecification

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

# Windows of a gyrus to a lobe: finer ones see texture that no reconstruction keeps.
SSIM_SCALES_MM = (4.0, 8.0, 16.0)

SCORE_MEANINGS: dict[ScoreKind, str] = {
    "signed": "reconstruction - scan, smoothed: high where the scan is darker than expected",
    "darker": "reconstruction - scan where positive, smoothed",
    "brighter": "scan - reconstruction where positive, smoothed",
    "absolute": "|scan - reconstruction|, smoothed",
    "squared": "(scan - reconstruction)², smoothed",
    "ssim": "1 - structural similarity over three scales: high where expected structure is lost",
}
"""What each score shows, in words for a person."""


def erode(mask: Mask, millimetres: float, spacing_mm: Spacing) -> Mask:
    """Voxels of a mask that lie at least so far inside it.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
    millimetres : float
        0 keeps the mask.
    spacing_mm : (z, y, x)
    """
    if millimetres <= 0:
        return mask
    padded = np.pad(mask, 1)  # what lies outside the grid is not brain
    depth = ndimage.distance_transform_edt(padded, sampling=spacing_mm)
    return np.asarray(depth[1:-1, 1:-1, 1:-1] > millimetres)


class MaskedMean:
    """Gaussian average over the voxels inside a mask (normalised convolution).

    Each axis is one product with a banded matrix: ten times faster than a direct
    convolution where the Gaussian is tens of voxels wide.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
        Voxels outside take no part.
    millimetres : float
        Standard deviation of the Gaussian, cut at three of them; 0 averages nothing.
    spacing_mm : (z, y, x)
    """

    def __init__(self, mask: Mask, millimetres: float, spacing_mm: Spacing) -> None:
        self.mask = mask
        self.bands = [
            _gaussian_band(size, millimetres / spacing)
            for size, spacing in zip(mask.shape, spacing_mm, strict=True)
        ]
        share = self._filter(mask.astype(np.float32))
        self.gain = np.where(mask, 1.0 / np.maximum(share, 1e-6), 0).astype(np.float32)

    def _filter(self, values: Grid) -> Grid:
        z, y, x = self.bands
        depth, height, width = values.shape
        values = (z @ values.reshape(depth, -1)).reshape(depth, height, width)
        return np.asarray(y @ values @ x.T, np.float32)

    def __call__(self, values: Grid) -> Grid:
        """The average at every voxel of the mask, 0 outside; float32, shape (D, H, W)."""
        return self._filter(np.where(self.mask, values, 0).astype(np.float32)) * self.gain


def _gaussian_band(size: int, sigma: float) -> Grid:
    """A Gaussian convolution of one axis as a matrix, shape (size, size)."""
    if sigma <= 0:
        return np.eye(size, dtype=np.float32)
    distance = np.arange(size)[:, None] - np.arange(size)
    band = np.exp(-0.5 * (distance / sigma) ** 2)
    band[np.abs(distance) > 3.0 * sigma] = 0
    return band.astype(np.float32)


def smooth(values: Grid, mask: Mask, millimetres: float, spacing_mm: Spacing) -> Grid:
    """One :class:`MaskedMean` of one map."""
    return MaskedMean(mask, millimetres, spacing_mm)(values)


def residual(
    kind: ScoreKind, scan: Grid, reconstruction: Grid, mask: Mask, spacing_mm: Spacing
) -> Grid:
    """The voxel-wise score before smoothing, float32, shape (D, H, W).

    Parameters
    ----------
    kind : str
        See :data:`SCORE_MEANINGS`.
    scan, reconstruction : ndarray of float32, shape (D, H, W)
        Model values, 0..1.
    """
    difference = reconstruction - scan
    if kind == "signed":
        return difference
    if kind == "darker":
        return np.maximum(difference, 0)
    if kind == "brighter":
        return np.maximum(-difference, 0)
    if kind == "absolute":
        return np.abs(difference)
    if kind == "squared":
        return difference**2
    return 1.0 - structural_similarity(scan, reconstruction, mask, SSIM_SCALES_MM, spacing_mm)


def structural_similarity(
    a: Grid, b: Grid, mask: Mask, scales_mm: tuple[float, ...], spacing_mm: Spacing
) -> Grid:
    """SSIM [1]_ within a mask, averaged over scales; float32, shape (D, H, W).

    scikit-image's takes no mask, so that air would count as similar.

    Parameters
    ----------
    a, b : ndarray of float32, shape (D, H, W)
        Values in 0..1.
    scales_mm : tuple of float
        Standard deviations of the Gaussian windows.

    References
    ----------
    .. [1] Wang et al. Image quality assessment: from error visibility to structural
       similarity. IEEE Transactions on Image Processing, 2004.
    """
    c1, c2 = 0.01**2, 0.03**2
    total = np.zeros(a.shape, np.float32)
    for scale in scales_mm:
        mean = MaskedMean(mask, scale, spacing_mm)
        mean_a, mean_b = mean(a), mean(b)
        product = mean_a * mean_b
        squares = mean_a**2 + mean_b**2
        variances = mean(a * a + b * b) - squares
        covariance = mean(a * b) - product
        total += ((2 * product + c1) * (2 * covariance + c2)) / ((squares + c1) * (variances + c2))
    return total / np.float32(len(scales_mm))


def anomaly_map(
    scan: Grid,
    reconstructions: Grid,
    mask: Mask,
    inner: Mask,
    score: ScoreSpecification,
    spacing_mm: Spacing,
    weights: Grid | None = None,
) -> tuple[Grid, Grid | None]:
    """Score the draws, smooth, and average.

    Parameters
    ----------
    scan : ndarray of float32, shape (D, H, W)
        Model values, 0..1.
    reconstructions : ndarray of float32, shape (draws, D, H, W)
    mask : ndarray of bool, shape (D, H, W)
        Where scan and reconstruction hold values.
    inner : ndarray of bool, shape (D, H, W)
        Where the map is wanted: the brain mask after :func:`erode`. It is eroded
        before slices are left out, or a slice alone would have no inside.
    score : ScoreSpecification
    spacing_mm : (z, y, x)
    weights : ndarray of float32, shape (draws, D, H, W), optional
        What each draw's score is multiplied by before smoothing, for methods that
        also tell where a lesion can be.

    Returns
    -------
    anomaly : ndarray of float32, shape (D, H, W)
        0 outside ``inner``.
    uncertainty : ndarray of float32, shape (D, H, W), or None
        Standard deviation over the draws; None for a single draw.
    """
    mean = MaskedMean(inner, score.smoothing_mm, spacing_mm)
    maps = []
    for draw, reconstruction in enumerate(reconstructions):
        values = residual(score.kind, scan, reconstruction, mask, spacing_mm)
        maps.append(mean(values if weights is None else values * weights[draw]))
    if len(maps) == 1:
        return maps[0], None
    return np.mean(maps, axis=0), np.std(maps, axis=0, ddof=1)
