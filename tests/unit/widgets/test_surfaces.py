"""Surfaces of a brain and its findings: closed, in mm, in the right place."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from napari_addm.widgets.viewing.surfaces import Solid, Surface, brain_surface, finding_surfaces

SPACING = np.array([3.0, 1.0, 1.5])
ORIGIN = np.array([-40.0, 10.0, 25.0])
SHAPE = (30, 80, 60)


def ball(middle: tuple[float, ...], radius: float) -> np.ndarray:
    """A ball in the world, mm."""
    places = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING + ORIGIN
    return np.linalg.norm(places - np.array(middle), axis=-1) <= radius


def solid(scan: np.ndarray, labels: np.ndarray | None = None, brain: object = None) -> Solid:
    return Solid(scan, brain, labels, np.diag(SPACING), ORIGIN)


def volume(surface: Surface) -> float:
    """Of what a closed surface encloses, mm3."""
    corners = surface.vertices[surface.faces].astype(float) - surface.middle
    return abs(float(np.linalg.det(corners).sum())) / 6


def test_findings_have_their_place_and_size() -> None:
    middles = {1: (5.0, 50.0, 70.0), 4: (0.0, 30.0, 45.0)}
    labels = np.zeros(SHAPE, np.int32)
    for number, radius in ((1, 12.0), (4, 6.0)):
        labels[ball(middles[number], radius)] = number
    made = {each.number: each for each in finding_surfaces(solid(labels, labels))}
    assert set(made) == {1, 4}
    for number, radius in ((1, 12.0), (4, 6.0)):
        assert_allclose(made[number].middle, middles[number], atol=1.0)
        assert volume(made[number]) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.15)


def test_a_finding_of_one_voxel_is_seen() -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[0, 0, 0] = 2
    (only,) = finding_surfaces(solid(labels, labels))
    assert_allclose(only.middle, ORIGIN, atol=1e-4)


def test_the_brain_is_its_largest_part_without_holes() -> None:
    middle = (0.0, 50.0, 65.0)
    scan = 100.0 * ball(middle, 25.0) - 100.0 * ball(middle, 8.0)  # ventricles are dark
    scan += 100.0 * ball((40.0, 15.0, 30.0), 4.0)  # something beside it
    made = brain_surface(solid(scan))
    assert made is not None
    assert_allclose(made.middle, middle, atol=1.0)
    assert volume(made) == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.1)
    # what is bright outside a brain mask is no brain
    inner = brain_surface(solid(np.full(SHAPE, 100.0), brain=ball(middle, 15.0)))
    assert inner is not None
    assert volume(inner) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.15)


def test_nothing_gives_no_surface() -> None:
    empty = np.zeros(SHAPE)
    assert brain_surface(solid(empty)) is None
    assert list(finding_surfaces(solid(empty))) == []
    assert list(finding_surfaces(solid(empty, empty.astype(int)))) == []
