"""1 - structural similarity [1]_ within the mask.

scikit-image's takes no mask, so that air would count as similar.

References
----------
.. [1] Wang et al. Image quality assessment: from error visibility to structural similarity.
   IEEE Transactions on Image Processing, 2004.
"""

from __future__ import annotations

import numpy as np

from napari_addm.detection.scores._windows import C1, C2, Compare, dissimilarity
from napari_addm.detection.scoring import Score
from napari_addm.detection.smoothing import NormalizedConvolution
from napari_addm.io.arrays import Grid

# From a gyrus to a lobe: finer windows see texture that no reconstruction keeps.
SCALES_MM = (4.0, 8.0, 16.0)


def structural_similarity(window: NormalizedConvolution, scan: Grid) -> Compare:
    """Prepare eq. 13 of Wang et al. in one window."""
    scan_mean = window(scan)
    scan_squares = scan * scan

    def compare(other: Grid) -> Grid:
        other_mean = window(other)
        product = scan_mean * other_mean
        squares = np.square(scan_mean) + np.square(other_mean)
        variances = window(other * other + scan_squares) - squares
        covariance = window(scan * other) - product
        numerator = (2 * product + C1) * (2 * covariance + C2)
        return numerator / ((squares + C1) * (variances + C2))

    return compare


SCORE = Score(
    title="SSIM",
    description="1 - structural similarity over three scales: high where expected structure is "
    "lost",
    compute=dissimilarity(structural_similarity, SCALES_MM),
)
