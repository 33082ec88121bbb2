"""Scores against closed forms and scikit-image."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity as skimage_ssim

from napari_addm.detection.scoring import (
    SCORE_MEANINGS,
    Similarity,
    erode,
    residuals,
    smooth,
    smoothed_mean,
)

SPACING = (2.0, 1.5, 1.0)


@pytest.fixture
def ball() -> np.ndarray:
    z, y, x = np.indices((24, 32, 48))
    return (2 * (z - 11.5)) ** 2 + (1.5 * (y - 15.5)) ** 2 + (x - 23.5) ** 2 < 20**2


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).random((24, 32, 48)).astype(np.float32)


def test_erosion_takes_millimetres_off_in_every_direction(ball):
    inner = erode(ball, 5.0, SPACING)
    z, y, x = np.indices(ball.shape)
    radius = np.sqrt((2 * (z - 11.5)) ** 2 + (1.5 * (y - 15.5)) ** 2 + (x - 23.5) ** 2)
    assert radius[inner].max() < 15.5
    assert inner[radius < 13].all()
    np.testing.assert_array_equal(erode(ball, 0, SPACING), ball)


def test_erosion_works_from_the_grids_edge_too():
    inner = erode(np.ones((9, 9, 9), bool), 2.5, (1, 1, 1))
    assert inner.sum() == 5**3


def test_smoothing_keeps_a_constant_up_to_the_masks_edge(ball):
    values = np.where(ball, 0.7, 100).astype(np.float32)
    smoothed = smooth(values, ball, 4.0, SPACING)
    np.testing.assert_allclose(smoothed[ball], 0.7, rtol=1e-5)
    assert (smoothed[~ball] == 0).all()


def test_smoothing_has_the_width_in_millimetres():
    values = np.zeros((41, 61, 81), np.float32)
    values[20, 30, 40] = 1
    smoothed = smooth(values, np.ones_like(values, bool), 3.0, SPACING)
    for axis, spacing in enumerate(SPACING):
        place = (np.arange(values.shape[axis]) - values.shape[axis] // 2) * spacing
        share = smoothed.sum(axis=tuple(a for a in range(3) if a != axis))
        assert np.sqrt((share * place**2).sum() / share.sum()) == pytest.approx(3.0, rel=0.05)


def test_smoothing_equals_normalised_convolution_by_scipy(scan, ball):
    sigma = [4.0 / s for s in SPACING]
    options = {"mode": "constant", "truncate": 3.0}
    total = ndimage.gaussian_filter(scan * ball, sigma, **options)
    share = ndimage.gaussian_filter(ball.astype(np.float32), sigma, **options)
    ours = smooth(scan, ball, 4.0, SPACING)
    # scipy rounds the radius, so the last voxel of the tails may differ
    np.testing.assert_allclose(ours[ball], (total / share)[ball], atol=2e-3)


@pytest.mark.parametrize("kind", SCORE_MEANINGS)
def test_a_perfect_reconstruction_scores_zero(kind, scan, ball):
    assert np.abs(residuals(kind, scan, scan[None], ball, SPACING)[0, ball]).max() < 1e-4


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
        (values,) = residuals(kind, scan, healthy[None], ball, SPACING)
        assert values[ball] == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_scikit_image_where_no_mask_is_near(scan):
    other = scan + 0.2 * np.random.default_rng(1).random(scan.shape).astype(np.float32)
    everywhere = np.ones(scan.shape, bool)
    ours = Similarity(scan, everywhere, (1.5,), (1, 1, 1))(other)
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


def test_structure_alone_is_a_local_correlation(scan, ball):
    options = {"mask": ball, "spacing_mm": SPACING, "scales_mm": (4.0, 8.0)}
    similarity = Similarity(scan, structure_alone=True, **options)
    # whatever the brightness and the contrast, as long as there is some
    np.testing.assert_allclose(similarity(3.0 * scan - 1.0)[ball], 1.0, atol=2e-3)
    assert similarity(1.0 - scan)[ball].max() < -0.9
    noise = np.random.default_rng(5).random(scan.shape).astype(np.float32)
    assert abs(similarity(noise)[ball].mean()) < 0.05
    expected = np.zeros(scan.shape)
    for scale in (4.0, 8.0):
        mean_a, mean_b = smooth(scan, ball, scale, SPACING), smooth(noise, ball, scale, SPACING)
        variance_a = smooth(scan**2, ball, scale, SPACING) - mean_a**2
        variance_b = smooth(noise**2, ball, scale, SPACING) - mean_b**2
        covariance = smooth(scan * noise, ball, scale, SPACING) - mean_a * mean_b
        with np.errstate(invalid="ignore", divide="ignore"):
            expected += covariance / np.sqrt(variance_a * variance_b) / 2
    np.testing.assert_allclose(similarity(noise)[ball], expected[ball], atol=0.01)


def test_draws_are_averaged_and_their_spread_is_the_uncertainty(ball):
    rng = np.random.default_rng(2)
    scan = np.full(ball.shape, 0.5, np.float32)
    drawn = (0.5 + 0.1 * rng.standard_normal((40, *ball.shape))).astype(np.float32)
    inner = erode(ball, 3, SPACING)
    values = residuals("signed", scan, drawn, ball, SPACING)
    anomaly, uncertainty = smoothed_mean(values, inner, 0.0, SPACING)
    np.testing.assert_allclose(anomaly[inner], (drawn - scan).mean(axis=0)[inner], atol=1e-6)
    assert uncertainty is not None
    assert uncertainty[inner].mean() == pytest.approx(0.1, rel=0.02)
    assert (anomaly[~inner] == 0).all()
    assert (uncertainty[~inner] == 0).all()
    assert smoothed_mean(values[:1], inner, 0.0, SPACING)[1] is None


@pytest.mark.parametrize("kind", ["ssim", "structure", "squared"])
def test_some_slices_alone_are_scored_as_among_all(kind, scan, ball):
    rng = np.random.default_rng(3)
    drawn = (scan + 0.2 * rng.random((2, *scan.shape))).astype(np.float32)
    weights = rng.random(drawn.shape).astype(np.float32)
    inner, rows = erode(ball, 3, SPACING), slice(9, 14)
    whole = residuals(kind, scan, drawn, ball, SPACING, weights)
    some = residuals(kind, scan, drawn, ball, SPACING, weights, rows)
    np.testing.assert_allclose(some, whole[:, rows], atol=1e-5)
    for map_, part in zip(
        smoothed_mean(whole, inner, 4.0, SPACING),
        smoothed_mean(whole, inner, 4.0, SPACING, rows),
        strict=True,
    ):
        np.testing.assert_allclose(part, map_[rows], atol=1e-5)
