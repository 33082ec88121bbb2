"""How much darker the scan is than expected."""

import numpy as np

from napari_addm.detection.scoring import Score, voxelwise

SCORE = Score(
    title="Darker",
    description="reconstruction - scan where positive, smoothed",
    compute=voxelwise(lambda scan, reconstruction: np.maximum(reconstruction - scan, 0)),
)
