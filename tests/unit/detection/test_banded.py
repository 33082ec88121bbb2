"""Banded matrices against the plain product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.detection.banded import ROWS, multiply_along

SUBSCRIPTS = ("mn,nhw->mhw", "mn,dnw->dmw", "mn,dhn->dhm")


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
