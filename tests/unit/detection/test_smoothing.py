"""Averages inside a mask, against closed forms, scipy and the plain product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_addm.detection.erosion import erode
from napari_addm.detection.smoothing import (
    ROWS,
    NormalizedConvolution,
    multiply_along,
    smooth_and_average,
)

SUBSCRIPTS = ("mn,nhw->mhw", "mn,dnw->dmw", "mn,dhn->dhm")
SPACING = (2.0, 1.5, 1.0)


@pytest.fixture
def ball() -> np.ndarray:
    z, y, x = np.indices((24, 32, 48))
    return (2 * (z - 11.5)) ** 2 + (1.5 * (y - 15.5)) ** 2 + (x - 23.5) ** 2 < 20**2


@given(
    axis=st.integers(0, 2),
    shape=st.tuples(*[st.integers(1, 2 * ROWS + 5)] * 3),
    rows=st.integers(1, 3 * ROWS),
    width=st.integers(0, 3 * ROWS),
    scale=st.floats(-3, 3),
    shift=st.integers(-50, 50),
    seed=st.integers(0, 100),
)
def test_any_band_gives_the_plain_product(axis, shape, rows, width, scale, shift, seed):
    """Rising or falling, wide as the volume, beyond its ends, or empty."""
    random = np.random.default_rng(seed)
    values = random.normal(size=shape).astype(np.float32)
    matrix = random.normal(size=(rows, shape[axis])).astype(np.float32)
    middle = scale * np.arange(rows)[:, None] + shift
    matrix[np.abs(np.arange(shape[axis]) - middle) >= width] = 0
    product = multiply_along(axis, matrix, values)
    expected = np.einsum(SUBSCRIPTS[axis], matrix.astype(float), values)
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_may_lie_in_memory_in_any_order(axis):
    random = np.random.default_rng(0)
    whole = random.normal(size=(40, 60, 50)).astype(np.float32)
    values = whole.transpose(2, 0, 1)[::-1, ::2, 3:]
    matrix = random.normal(size=(30, values.shape[axis])).astype(np.float32)
    before = values.copy()
    expected = np.einsum(SUBSCRIPTS[axis], matrix.astype(float), values)
    np.testing.assert_allclose(multiply_along(axis, matrix, values), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(values, before)


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
    smoothed = NormalizedConvolution(ball, 4.0, SPACING)(values)
    np.testing.assert_allclose(smoothed[ball], 0.7, rtol=1e-5)
    assert (smoothed[~ball] == 0).all()


def test_smoothing_has_the_width_in_millimetres():
    values = np.zeros((41, 61, 81), np.float32)
    values[20, 30, 40] = 1
    smoothed = NormalizedConvolution(np.ones_like(values, bool), 3.0, SPACING)(values)
    for axis, spacing in enumerate(SPACING):
        place = (np.arange(values.shape[axis]) - values.shape[axis] // 2) * spacing
        share = smoothed.sum(axis=tuple(a for a in range(3) if a != axis))
        assert np.sqrt((share * place**2).sum() / share.sum()) == pytest.approx(3.0, rel=0.05)


def test_smoothing_equals_normalized_convolution_by_scipy(ball):
    scan = np.random.default_rng(0).random(ball.shape).astype(np.float32)
    sigma = [4.0 / s for s in SPACING]
    options = {"mode": "constant", "truncate": 3.0}
    total = ndimage.gaussian_filter(scan * ball, sigma, **options)
    share = ndimage.gaussian_filter(ball.astype(np.float32), sigma, **options)
    ours = NormalizedConvolution(ball, 4.0, SPACING)(scan)
    # scipy rounds the radius, so the last voxel of the tails may differ
    np.testing.assert_allclose(ours[ball], (total / share)[ball], atol=2e-3)


def test_draws_are_averaged_and_their_spread_is_the_uncertainty(ball):
    rng = np.random.default_rng(2)
    scores = (0.5 + 0.1 * rng.standard_normal((40, *ball.shape))).astype(np.float32)
    inner = erode(ball, 3, SPACING)
    anomaly, uncertainty = smooth_and_average(scores, inner, 0.0, SPACING)
    np.testing.assert_allclose(anomaly[inner], scores.mean(axis=0)[inner], atol=1e-6)
    assert uncertainty is not None
    assert uncertainty[inner].mean() == pytest.approx(0.1, rel=0.02)
    assert (anomaly[~inner] == 0).all()
    assert (uncertainty[~inner] == 0).all()
    assert smooth_and_average(scores[:1], inner, 0.0, SPACING)[1] is None
