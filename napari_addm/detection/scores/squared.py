"""The squared difference."""

from napari_addm.detection.scoring import Score, voxelwise

SCORE = Score(
    title="Squared",
    description="(scan - reconstruction)², smoothed",
    compute=voxelwise(lambda scan, reconstruction: (scan - reconstruction) ** 2),
)
