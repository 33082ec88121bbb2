"""Skull stripping of a real whole-head scan."""

from pathlib import Path

import numpy as np
import pytest

from napari_addm.detection.brain_mask import find_brain, strip_skull
from napari_addm.io.reading import read_volume


@pytest.mark.slow
def test_deepbet_finds_the_brain_of_a_whole_head(shared_data: Path) -> None:
    pytest.importorskip("deepbet", reason="skull stripping is the extra strip")
    volume = read_volume(shared_data / "wholehead" / "sub-10_T1w.nii.gz")
    assert find_brain(volume) is None
    mask = strip_skull(volume)
    assert 900 < mask.sum() * volume.voxel_ml < 1900
    # brain is bright in T1, and lies in the upper part of this field of view
    assert volume.data[mask].mean() > 3 * volume.data[~mask].mean()
    upper = np.argwhere(mask)[:, 0]
    assert upper.min() > 0.1 * mask.shape[0]
    assert np.median(volume.data[mask]) > np.percentile(volume.data, 80)
