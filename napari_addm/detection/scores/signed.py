"""The signed difference: dark lesions score high, bright ones low."""

from napari_addm.detection.scoring import Score, voxelwise

SCORE = Score(
    title="Signed",
    description="reconstruction - scan, smoothed: high where the scan is darker than expected",
    compute=voxelwise(lambda scan, reconstruction: reconstruction - scan),
)
