"""A brain without any symmetry, anywhere in the scanner and in any order of its voxels."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from napari_addm.io.volume import Volume, volume_from_native


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
