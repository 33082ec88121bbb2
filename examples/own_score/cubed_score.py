"""The cubed absolute difference of scan and reconstruction, as a score of napari-addm.

    pip install examples/own_score
    napari-addm detect scan.nii.gz -o out --score cubed --threshold 0.01

The panel, records and reports know it, too. A score has a scale of its own: give a threshold, or
calibrate a checkpoint for it.
"""

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.scoring import Score, voxelwise


def cubed(scan: NDArray[np.floating], reconstruction: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compare intensities between 0 and 1; a perfect reconstruction has to score 0."""
    return np.abs(scan - reconstruction) ** 3


SCORE = Score(
    title="Cubed",
    description="|scan - reconstruction|³, smoothed",
    compute=voxelwise(cubed),
)
