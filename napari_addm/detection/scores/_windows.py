"""Scores that compare scan and reconstruction in Gaussian windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from napari_addm.detection.parallel import parallel_map
from napari_addm.detection.scoring import Compute
from napari_addm.detection.smoothing import NormalizedConvolution, in_plane_box
from napari_addm.io.arrays import Grid, Mask, Spacing

C1, C2 = np.float32(0.01**2), np.float32(0.03**2)
"""The constants that keep the quotients of the structural similarity stable, for values 0 to 1."""

Compare = Callable[[Grid], Grid]
"""The similarity of a reconstruction with the scan in one window, at every voxel."""


def dissimilarity(
    prepare: Callable[[NormalizedConvolution, Grid], Compare], scales_mm: tuple[float, ...]
) -> Compute:
    """Make a score of a local similarity: 1 - its mean over some window sizes.

    Parameters
    ----------
    prepare : callable
        ``prepare(window, scan)`` computes what depends on the scan alone. Scan and
        reconstruction are 0 outside the mask.
    scales_mm : tuple of float
        Standard deviations of the Gaussian windows.
    """

    def compute(scan: Grid, reconstructions: Grid, mask: Mask, spacing_mm: Spacing) -> Grid:
        box = in_plane_box(mask)
        inside = mask[box]
        masked_scan = np.where(inside, scan[box], np.float32(0))

        def at_scale(scale_mm: float) -> Compare:
            window = NormalizedConvolution(inside, scale_mm, spacing_mm)
            return prepare(window, masked_scan)

        comparisons = parallel_map(at_scale, scales_mm)

        def similarity(reconstruction: Grid) -> Grid:
            masked = np.where(inside, reconstruction[box], np.float32(0))
            total = np.zeros_like(masked)
            for compare in comparisons:
                total += compare(masked)
            total /= np.float32(len(scales_mm))
            return total

        scores = np.zeros_like(reconstructions)
        for score, similar in zip(scores, parallel_map(similarity, reconstructions), strict=True):
            np.subtract(1.0, similar, out=score[box])
        return scores

    return compute
