"""SHA-256 of files, voxels and values, in hexadecimal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from napari_addm.errors import AddmError
from napari_addm.io.arrays import stored_dtype
from napari_addm.io.files import check_is_file
from napari_addm.io.names import other_half

BLOCK_BYTES = 1 << 20


def sha256(*parts: bytes | memoryview) -> str:
    """Hash some bytes as if they were one piece."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes (those of the header for a .hdr/.img pair).

    Raises
    ------
    AddmError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AddmError(
            f"{path} cannot be read ({error.strerror}): put it back and try again."
        ) from error


def scan_sha256(path: Path, after_block: Callable[[], object] = lambda: None) -> str:
    """Hash the bytes of a scan's file, and those of its other half for a .hdr/.img pair.

    Parameters
    ----------
    after_block : callable
        Called after each block that the disk gives; an error of it ends the hashing.

    Raises
    ------
    OSError
        When it cannot be read.
    InputError
        When it is empty, a pipe or a device.
    """
    digest = hashlib.sha256()
    for part in (path, *filter(None, [other_half(path)])):
        check_is_file(part)
        with part.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                after_block()
    return digest.hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """Hash the sorted hashes of some files, so that their names and order do not matter.

    Raises
    ------
    AddmError
        When one of them cannot be read.
    """
    return sha256("".join(sorted(map(file_sha256, paths))).encode())


def voxels_sha256(data: np.ndarray) -> str:
    """Hash voxels, with the same result however a file stores them.

    Parameters
    ----------
    data : ndarray, shape (S, A, R)
        Hashed in this order and little-endian, behind the shape as three int64; as the
        type that `napari_addm.io.arrays.stored_dtype` gives.
    """
    dtype = stored_dtype(data).newbyteorder("<")
    digest = hashlib.sha256(np.asarray(data.shape, "<i8").tobytes())
    for plane in data:  # one slice at a time, to save memory
        digest.update(np.ascontiguousarray(plane, dtype).data)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Hash a value's JSON; the order of keys does not matter, other objects count as their text."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode())
