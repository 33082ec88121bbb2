"""The absolute difference."""

import numpy as np

from napari_addm.detection.scoring import Score, voxelwise

SCORE = Score(
    title="Absolute",
    description="|scan - reconstruction|, smoothed",
    compute=voxelwise(lambda scan, reconstruction: np.abs(scan - reconstruction)),
)
