"""Reading and writing volumes; the faults a file can have."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np

from .errors import InputError
from .volume import Volume, volume_from_native


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a scan as float32 voxels in S, A, R order."""
    path = Path(path)
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    return volume_from_native(
        np.nan_to_num(data, posinf=0, neginf=0), image.affine, header=image.header, path=path
    )


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a mask or label file as int32 voxels in S, A, R order."""
    path = Path(path)
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    return volume_from_native(
        np.rint(data).astype(np.int32), image.affine, header=image.header, path=path
    )


def write_volume(
    path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False
) -> Path:
    """Write a volume on its source's own grid."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: choose another name or allow overwriting.")
    data = volume.to_native()
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif not np.issubdtype(data.dtype, np.integer):
        data = data.astype(np.float32)
    image = nib.Nifti1Image(data, volume.source.affine, dtype=data.dtype)
    nib.save(image, path)
    return path
