"""A brain is found again in another one, however both lie in their files and in the scanner."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from heads import head, turned

from napari_addm.errors import AddmError

pytest.importorskip("SimpleITK", reason="needs the extra regions")

from napari_addm.io.registration import register

HALF_A_VOXEL = 2.0  # mm
ORIENTATIONS = ("RAS", "LPI", "AIL", "PSR", "SLA", "IRP")  # tests of io try all 48


def apart(found: np.ndarray, right: np.ndarray) -> float:
    """The largest distance within a brain, mm."""
    places = np.array(list(itertools.product((-50, 50), (-60, 60), (-45, 45))))
    one, other = (nib.affines.apply_affine(matrix, places) for matrix in (found, right))
    return float(np.linalg.norm(one - other, axis=1).max())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_does_not_matter(orientation):
    to_world = turned((8, -5, 6), shift=(120, -80, 40))
    fixed, moving = head(), head(orientation, to_world, gain=7.0)
    found = register(moving, moving.data > 0, fixed, fixed.data > 0, "rigid")
    assert apart(found.matrix, to_world) < HALF_A_VOXEL
    assert found.overlap > 0.95
    assert found.similarity > 0.85


@pytest.mark.parametrize("degrees", [(20, 0, 0), (0, 0, -20), (15, -15, 15)])
def test_heads_may_be_tilted_and_differ_in_size(degrees):
    to_world = turned(degrees, zoom=(1.1, 0.95, 1.05), shift=(-30, 10, 200))
    fixed, moving = head(), head("LPS", to_world)
    found = register(moving, moving.data > 0, fixed, fixed.data > 0, "affine")
    assert apart(found.matrix, to_world) < HALF_A_VOXEL


def test_voxels_may_be_thick_and_the_result_is_always_the_same():
    to_world = turned((6, 4, -8))
    fixed, moving = head(), head("RAS", to_world, spacing=(1.5, 1.5, 5.0))
    first, second = (
        register(moving, moving.data > 0, fixed, fixed.data > 0, "rigid") for _ in range(2)
    )
    assert apart(first.matrix, to_world) < HALF_A_VOXEL
    assert np.array_equal(first.matrix, second.matrix)
    assert (first.similarity, first.overlap) == (second.similarity, second.overlap)


@pytest.mark.parametrize("voxels", [0, 1])
def test_no_brain_is_an_error_in_words(voxels):
    fixed = head()
    mask = np.zeros(fixed.shape, bool)
    mask.flat[:voxels] = True
    with pytest.raises(AddmError, match="cannot be registered"):
        register(fixed, mask, fixed, fixed.data > 0)
