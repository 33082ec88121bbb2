"""Small scans that tests write, each voxel with a value of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (17, 19, 23)
SPACING = np.array([0.9, 1.2, 1.7])
ORIGIN = np.array([-31.0, 12.5, 40.25])
ORIENTATIONS = [
    "".join(pair[side] for pair, side in zip(pairs, sides, strict=True))
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for sides in itertools.product((0, 1), repeat=3)
]
TILT = Rotation.from_euler("xyz", (11, -7, 16), degrees=True).as_matrix()
SHEAR = np.array([[1, 0.15, 0], [0, 1, 0.1], [0, 0, 1]])
GEOMETRIES = {"straight": np.eye(3), "oblique": TILT, "sheared": TILT @ SHEAR}


def make_affine(orientation: str, world: np.ndarray = GEOMETRIES["straight"]) -> np.ndarray:
    """Native index to world RAS+, for axes that run towards the letters of `orientation`."""
    directions = nib.orientations.inv_ornt_aff(
        nib.orientations.axcodes2ornt(tuple(orientation)), (1, 1, 1)
    )[:3, :3].T
    return nib.affines.from_matvec(world @ directions @ np.diag(SPACING), ORIGIN)


def make_data(shape: tuple[int, ...] = SHAPE, dtype: type = np.float32) -> np.ndarray:
    """No two voxels alike, so that any flip or swap shows."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def save(
    path: Path, data: np.ndarray | None = None, affine: np.ndarray | None = None, **header: object
) -> Path:
    image = nib.Nifti1Image(
        make_data() if data is None else data, make_affine("LAS") if affine is None else affine
    )
    image.set_qform(image.affine, code=1)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patch(path: Path, **fields: object) -> Path:
    """Change header fields of an uncompressed NIfTI-1 behind nibabel's back."""
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path
