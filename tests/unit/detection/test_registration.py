"""A brain is found again in another one, however both lie in their files and in the scanner."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_addm.errors import AddmError
from napari_addm.io.volume import Volume, volume_from_native

pytest.importorskip("SimpleITK", reason="needs the extra regions")

from napari_addm.detection.registration import register

HALF_A_VOXEL = 2.0  # mm
ORIENTATIONS = ("RAS", "LPI", "AIL", "PSR", "SLA", "IRP")  # tests of io try all 48


def head(orientation="RAS", to_world=None, spacing=(4.0, 4.0, 4.0), gain=1.0) -> Volume:
    """A brain without any symmetry; `to_world` takes its own mm to the scanner's."""
    to_world = np.eye(4) if to_world is None else to_world
    linear = np.zeros((3, 3))
    for native, (world, flip) in enumerate(nib.orientations.axcodes2ornt(orientation)):
        linear[int(world), native] = flip * spacing[native]
    shape = tuple(int(232 // size) for size in spacing)
    middle = nib.affines.apply_affine(to_world, np.zeros(3))
    affine = nib.affines.from_matvec(linear, middle - linear @ (np.array(shape) / 2))
    world = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    x, y, z = nib.affines.apply_affine(np.linalg.inv(to_world), world).T
    inside = (x / 66) ** 2 + (y / 86) ** 2 + (z / 62) ** 2 < 1
    values = 100 + 30 * np.cos(x / 14 + 1) * np.cos(y / 18) * np.sin(z / 14 + 1) + 0.2 * y
    values[(x - 30) ** 2 + (y - 20) ** 2 + (z - 10) ** 2 < 400] = 40.0
    data = np.where(inside, gain * values, 0).reshape(shape).astype(np.float32)
    return volume_from_native(data, affine)


def turned(degrees, zoom=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    linear = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(zoom)
    return nib.affines.from_matvec(linear, shift)


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
