"""The baselines without a model: each finds the lesion that it is made for."""

import numpy as np
import pytest

from napari_addm.io.volume import volume_from_array
from napari_addm.metrics.intensity_baselines import intensity_baselines
from napari_addm.metrics.sorted_scores import SortedScores


@pytest.fixture
def brain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y, x = np.indices((40, 60, 50))
    mask = ((z - 20) / 18) ** 2 + ((y - 30) / 27) ** 2 + ((x - 25) / 22) ** 2 < 1
    lesion = (z - 22) ** 2 + (y - 36) ** 2 + (x - 30) ** 2 < 49
    texture = 100 + 20 * np.random.default_rng(0).standard_normal(mask.shape)
    return mask, lesion, np.where(mask, np.maximum(texture, 1), 0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dark", lambda v: v - 60),
        ("unusual", lambda v: v + 80),
        ("even", lambda v: 100 + 0.1 * (v - 100)),
    ],
)
def test_each_baseline_finds_its_lesion(brain, name, change):
    mask, lesion, data = brain
    data = np.where(lesion, change(data), data).astype(np.float32)
    maps = intensity_baselines(
        volume_from_array(data, spacing=(2, 2, 2)), mask, smoothing_mm=4.0, erosion_mm=4.0
    )
    smoothed = SortedScores.of(maps[f"{name}, smoothed"][mask], lesion[mask])
    assert smoothed.auroc > 0.95
    kinds = ("", ", smoothed", ", smoothed, symmetry")
    assert set(maps) == {n + s for n in ("dark", "unusual", "even") for s in kinds}
    for map_ in maps.values():
        assert map_.dtype == np.float32
        assert (map_[~mask] == 0).all()
        assert (map_ >= 0).all()


def test_what_both_halves_have_is_discounted():
    z, y, x = np.indices((40, 60, 50))
    mask = ((z - 20) / 18) ** 2 + ((y - 30) / 27) ** 2 + ((x - 24.5) / 22) ** 2 < 1
    texture = 100 + 20 * np.random.default_rng(0).standard_normal(mask.shape)
    texture = texture + texture[..., ::-1]
    lesion = (z - 22) ** 2 + (y - 36) ** 2 + (x - 34) ** 2 < 49
    dark = lesion | ((z - 22) ** 2 + (y - 18) ** 2 + (np.abs(x - 24.5) - 9.5) ** 2 < 49)
    data = np.where(mask, np.where(dark, texture - 120, texture), 0).astype(np.float32)
    maps = intensity_baselines(
        volume_from_array(data, spacing=(2, 2, 2)), mask, smoothing_mm=4.0, erosion_mm=4.0
    )
    plain, compared = (
        SortedScores.of(maps[name][mask], lesion[mask]).auprc
        for name in ("dark, smoothed", "dark, smoothed, symmetry")
    )
    assert compared > plain + 0.1
