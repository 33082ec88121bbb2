"""Writing volumes on the grid of the file that they come from."""

from __future__ import annotations

import os
from pathlib import Path

from isal import igzip

from napari_addm.errors import AddmError
from napari_addm.io.arrays import stored_dtype
from napari_addm.io.files import open_atomic
from napari_addm.io.names import find_suffix, installed_formats
from napari_addm.io.volume import Volume

# ISA-L's level 2 makes maps as small as zlib's level 4 in a tenth of the time; its own highest, 3,
# saves nothing more on them.
COMPRESSION_LEVEL = 2


def write_volume(path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False) -> Path:
    """Write a volume on its source's own grid, with the source's affine.

    Floats are stored as float32, whole numbers and booleans as the smallest of uint8, int16, int32
    and int64, all without a scale slope. Of a NIfTI header only the fields that say where the
    voxels lie are written, in its own unit; others may name a patient. The file appears at once
    and whole, or not at all.

    Parameters
    ----------
    path : path
        ``.nii.gz``, ``.nii``, ``.mgz`` or ``.mgh``, in a folder that exists.
    volume : Volume
        Voxels of any real dtype.
    overwrite : bool
        Replace a file of that name. The file that the volume was read from is never replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    AddmError
        When it cannot or must not be written.
    """
    path = Path(path)
    suffix, write = None, None
    for each in installed_formats():
        if each.write is not None and (found := find_suffix(path, each.written_suffixes)):
            suffix, write = found, each.write
            break
    if suffix is None or write is None:
        raise AddmError(f"{path} cannot be written: give it a name that ends in .nii.gz.")
    _check_target(path, volume, overwrite)
    data = volume.to_native()
    data = data.astype(stored_dtype(data), copy=False)
    with open_atomic(path) as file:
        if suffix.endswith("gz"):
            # No file name and no time in the gzip header: neither a patient's name nor the hour
            # of the run belongs there, and equal voxels give equal bytes.
            with igzip.IGzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as compressed:
                write(compressed, data, volume)
        else:
            write(file, data, volume)
    return path


def _check_target(path: Path, volume: Volume, overwrite: bool) -> None:
    if _is_same_file(path, volume.source.path):
        raise AddmError(
            f"{path} is the file that the voxels come from and is not overwritten: choose "
            "another name."
        )
    if path.is_dir():
        raise AddmError(f"{path} is a folder: give a file name inside it.")
    if path.exists() and not overwrite:
        raise AddmError(f"{path} exists already: choose another name, or allow overwriting.")


def _is_same_file(path: Path, source: Path | None) -> bool:
    if source is None:
        return False
    if path.exists() and source.exists():
        return path.samefile(source)
    return path.resolve() == source.resolve()
