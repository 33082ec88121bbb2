"""1 - local correlation: the structure term of the structural similarity (Wang et al., 2004)."""

from __future__ import annotations

import numpy as np

from napari_addm.detection.scores._windows import C2, Compare, dissimilarity
from napari_addm.detection.scoring import Score
from napari_addm.detection.smoothing import NormalizedConvolution
from napari_addm.io.arrays import Grid

SCALES_MM = (4.0, 8.0)


def correlation(window: NormalizedConvolution, scan: Grid) -> Compare:
    """Prepare the correlation in one window: covariance over both standard deviations."""
    scan_mean = window(scan)
    scan_deviation = _deviation(window(scan * scan), scan_mean)

    def compare(other: Grid) -> Grid:
        other_mean = window(other)
        covariance = window(scan * other) - scan_mean * other_mean
        deviations = scan_deviation * _deviation(window(other * other), other_mean)
        return (covariance + C2 / 2) / (deviations + C2 / 2)

    return compare


def _deviation(mean_of_squares: Grid, mean: Grid) -> Grid:
    return np.sqrt(np.maximum(mean_of_squares - mean**2, 0))


SCORE = Score(
    title="Structure",
    description="1 - local correlation over two scales (the structure term of the structural "
    "similarity): as ssim, but independent of brightness and contrast",
    compute=dissimilarity(correlation, SCALES_MM),
)
