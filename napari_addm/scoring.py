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

SSIM_SCALES_MM = (2.0, 4.0, 8.0)

SCORE_MEANINGS: dict[ScoreKind, str] = {
    "signed": "reconstruction - scan, smoothed: high where the scan is darker than expected",
    "darker": "reconstruction - scan where positive, smoothed",
    "brighter": "scan - reconstruction where positive, smoothed",
    "absolute": "|scan - reconstruction|, smoothed",
    "squared": "(scan - reconstruction)², smoothed",
    "ssim": "1 - structural similarity over three scales, smoothed",
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


def smooth(values: Grid, mask: Mask, millimetres: float, spacing_mm: Spacing) -> Grid:
    """Gaussian average over the voxels inside a mask; 0 outside it.

    Parameters
    ----------
    values : ndarray of float32, shape (D, H, W)
    mask : ndarray of bool, shape (D, H, W)
        Voxels outside take no part (normalised convolution).
    millimetres : float
        Standard deviation of the Gaussian; 0 leaves the values as they are.
    spacing_mm : (z, y, x)
    """
    if millimetres <= 0:
        return np.where(mask, values, 0).astype(np.float32)
    sigma = [millimetres / s for s in spacing_mm]
    weight = mask.astype(np.float32)
    total = ndimage.gaussian_filter(values * weight, sigma, mode="constant", truncate=3.0)
    share = ndimage.gaussian_filter(weight, sigma, mode="constant", truncate=3.0)
    return np.where(mask, total / np.maximum(share, 1e-6), 0).astype(np.float32)


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
    similarity = [_ssim(scan, reconstruction, mask, s, spacing_mm) for s in SSIM_SCALES_MM]
    return np.asarray(1.0 - np.mean(similarity, axis=0), np.float32)


def _ssim(a: Grid, b: Grid, mask: Mask, millimetres: float, spacing_mm: Spacing) -> Grid:
    """Structural similarity (Wang et al., 2004) within a mask, values in 0..1.

    scikit-image's takes no mask, so that the brain's edge would score as similar as air.
    """

    def mean(values: Grid) -> Grid:
        return smooth(values, mask, millimetres, spacing_mm)

    mean_a, mean_b = mean(a), mean(b)
    variance_a = mean(a * a) - mean_a**2
    variance_b = mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return np.asarray(
        (2 * mean_a * mean_b + c1)
        * (2 * covariance + c2)
        / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)),
        np.float32,
    )


def anomaly_map(
    scan: Grid,
    reconstructions: Grid,
    mask: Mask,
    score: ScoreSpecification,
    spacing_mm: Spacing,
) -> tuple[Grid, Grid | None]:
    """Score the draws, smooth, and average.

    Parameters
    ----------
    scan : ndarray of float32, shape (D, H, W)
        Model values, 0..1.
    reconstructions : ndarray of float32, shape (draws, D, H, W)
    mask : ndarray of bool, shape (D, H, W)
        Where scan and reconstruction hold values.
    score : ScoreSpecification
    spacing_mm : (z, y, x)

    Returns
    -------
    anomaly : ndarray of float32, shape (D, H, W)
        0 outside the eroded mask.
    uncertainty : ndarray of float32, shape (D, H, W), or None
        Standard deviation over the draws; None for a single draw.
    """
    inner = erode(mask, score.erosion_mm, spacing_mm)
    maps = [
        smooth(
            residual(score.kind, scan, reconstruction, mask, spacing_mm),
            inner,
            score.smoothing_mm,
            spacing_mm,
        )
        for reconstruction in reconstructions
    ]
    if len(maps) == 1:
        return maps[0], None
    return np.mean(maps, axis=0), np.std(maps, axis=0, ddof=1)
