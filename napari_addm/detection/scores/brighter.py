"""How much brighter the scan is than expected."""

import numpy as np

from napari_addm.detection.scoring import Score, voxelwise

SCORE = Score(
    title="Brighter",
    description="scan - reconstruction where positive, smoothed",
    compute=voxelwise(lambda scan, reconstruction: np.maximum(scan - reconstruction, 0)),
)
