"""Scores against closed forms and scikit-image; every installed score passes the first checks."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity as skimage_ssim

from napari_addm.detection import scoring
from napari_addm.detection.scores.ssim import structural_similarity
from napari_addm.detection.scores.structure import SCALES_MM
from napari_addm.detection.scoring import Score, voxel_scores, voxelwise
from napari_addm.detection.smoothing import NormalizedConvolution
from napari_addm.errors import AddmError
from napari_addm.registry import SCORES

SPACING = (2.0, 1.5, 1.0)


@pytest.fixture
def ball() -> np.ndarray:
    z, y, x = np.indices((24, 32, 48))
    return (2 * (z - 11.5)) ** 2 + (1.5 * (y - 15.5)) ** 2 + (x - 23.5) ** 2 < 20**2


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).random((24, 32, 48)).astype(np.float32)


@pytest.mark.parametrize("kind", list(SCORES))
def test_a_perfect_reconstruction_scores_zero(kind, scan, ball):
    assert np.abs(voxel_scores(kind, scan, scan[None], ball, SPACING)[0, ball]).max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "dark", "bright"),
    [
        ("signed", 0.2, -0.2),
        ("darker", 0.2, 0.0),
        ("brighter", 0.0, 0.2),
        ("absolute", 0.2, 0.2),
        ("squared", 0.04, 0.04),
    ],
)
def test_signs(kind, dark, bright, ball):
    healthy = np.full(ball.shape, 0.5, np.float32)
    for value, expected in ((0.3, dark), (0.7, bright)):
        scan = np.full_like(healthy, value)
        (values,) = voxel_scores(kind, scan, healthy[None], ball, SPACING)
        assert values[ball] == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_scikit_image_where_no_mask_is_near(scan):
    other = scan + 0.2 * np.random.default_rng(1).random(scan.shape).astype(np.float32)
    window = NormalizedConvolution(np.ones(scan.shape, bool), 1.5, (1, 1, 1))
    ours = structural_similarity(window, scan)(other)
    _, theirs = skimage_ssim(
        scan,
        other,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        truncate=3.0,
        use_sample_covariance=False,
        full=True,
    )
    inner = (slice(7, -7),) * 3
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2e-3)


def test_structure_is_a_local_correlation(scan, ball):
    def similarity(other):
        return 1 - voxel_scores("structure", scan, other[None], ball, SPACING)[0]

    # independent of brightness and contrast
    np.testing.assert_allclose(similarity(3.0 * scan - 1.0)[ball], 1.0, atol=2e-3)
    assert similarity(1.0 - scan)[ball].max() < -0.9
    noise = np.random.default_rng(5).random(scan.shape).astype(np.float32)
    assert abs(similarity(noise)[ball].mean()) < 0.05
    expected = np.zeros(scan.shape)
    for scale in SCALES_MM:
        mean = NormalizedConvolution(ball, scale, SPACING)
        variance_a = mean(scan**2) - mean(scan) ** 2
        variance_b = mean(noise**2) - mean(noise) ** 2
        covariance = mean(scan * noise) - mean(scan) * mean(noise)
        with np.errstate(invalid="ignore", divide="ignore"):
            expected += covariance / np.sqrt(variance_a * variance_b) / len(SCALES_MM)
    np.testing.assert_allclose(similarity(noise)[ball], expected[ball], atol=0.01)


def test_scores_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of them would look like a healthy brain."""
    root = Score("Root", "", voxelwise(lambda scan, other: (scan - other) * np.nan))
    monkeypatch.setattr(scoring, "SCORES", {"root": root})
    scan = np.ones((2, 3, 4), np.float32)
    with pytest.raises(AddmError, match="'root' gives values that are not finite"):
        voxel_scores("root", scan, scan[None], scan > 0, (1.0, 1.0, 1.0))
