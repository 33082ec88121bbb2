"""What is darker or brighter than the reconstruction, without the scanner's field."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_addm.detection.brightness import darker_and_brighter, without_field

SHAPE, SPACING = (18, 24, 20), (2.0, 2.0, 2.0)
POWERS = [p for p in product(range(3), repeat=3) if sum(p) <= 2]


def ball(center: tuple[float, float, float], radius: float) -> np.ndarray:
    away = np.indices(SHAPE) - np.array(center).reshape(3, 1, 1, 1)
    return np.linalg.norm(away, axis=0) <= radius


def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    mask = ball((8.5, 11.5, 9.5), 8.4)
    return np.where(mask, 0.3 + 0.4 * rng.random(SHAPE), 0).astype(np.float32), mask


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-0.1, 0.1), min_size=len(POWERS), max_size=len(POWERS)))
def test_a_quadratic_field_is_taken_off_whole(factors: list[float]) -> None:
    reconstruction, mask = scene()
    at = [axis / 10 - 1 for axis in np.indices(SHAPE)]
    field = sum(
        factor * np.prod([x**n for x, n in zip(at, power, strict=True)], axis=0)
        for factor, power in zip(factors, POWERS, strict=True)
    )
    scan = (reconstruction * (1 + field)).astype(np.float32)
    fitted = without_field(scan, reconstruction, mask)
    np.testing.assert_allclose(fitted[mask], scan[mask], atol=2e-3)
    assert not fitted[~mask].any()


def test_a_lesion_does_not_count_for_the_field() -> None:
    reconstruction, mask = scene()
    lesion = ball((8, 8, 12), 3.5)
    assert 0.05 < lesion[mask].mean() < 0.1
    scan = np.where(lesion, reconstruction - 0.25, reconstruction)
    fitted = without_field(scan, reconstruction, mask)
    np.testing.assert_allclose(fitted[mask], reconstruction[mask], atol=1e-3)


@pytest.mark.parametrize("sign", [-1, 1])
def test_dark_and_bright_lesions_lie_in_their_own_map(sign: int) -> None:
    reconstruction, mask = scene()
    lesion, inner = ball((8, 8, 12), 3.5), ball((8.5, 11.5, 9.5), 7.5)
    scan = np.where(lesion, reconstruction + sign * 0.25, reconstruction)
    maps = darker_and_brighter(scan, reconstruction, mask, inner, 2.0, SPACING)
    mine, other = maps if sign < 0 else maps[::-1]
    assert mine[8, 8, 12] == pytest.approx(0.25, abs=0.02)
    assert np.unravel_index(mine.argmax(), SHAPE) in {tuple(p) for p in np.argwhere(lesion)}
    assert other.max() < 0.005
    assert not any(map_[~inner].any() for map_ in maps)


def test_nothing_is_found_without_a_brain() -> None:
    nothing = np.zeros(SHAPE, bool)
    values = np.zeros(SHAPE, np.float32)
    for map_ in darker_and_brighter(values, values, nothing, nothing, 2.0, SPACING):
        assert not map_.any()
