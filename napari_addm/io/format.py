"""What a file format is, and what all formats share: open files, headers, raw voxels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from isal import isal_zlib

from napari_addm.errors import InputError
from napari_addm.io.files import check_is_file
from napari_addm.io.gunzip import MAGIC, Gunzip
from napari_addm.io.remarks import note
from napari_addm.io.text import format_shape, format_size

if TYPE_CHECKING:
    import nibabel as nib

    from napari_addm.io.volume import Volume

# Enough to recognize any format: the length of the longest header, that of NIfTI-2.
HEAD_BYTES = 540
# Deflate compresses no better than this (zlib's technical notes), so a larger claim is false.
DEFLATE_LIMIT = 1032
# So much behind the voxels is ordinary, such as the tags of MGH; more than the other is a fault.
ORDINARY_REST_BYTES = 10**6
LARGEST_REST_BYTES = 10**8


@dataclass(frozen=True)
class ScanFile:
    """A file that is being read.

    Attributes
    ----------
    stream : binary file
        Its decompressed bytes; they continue behind `head`.
    head : bytes
        The first `HEAD_BYTES` decompressed bytes, fewer in a shorter file.
    compressed : bool
        Whether the file is compressed by gzip, whatever its name says.
    notes : list of str
        Warnings that only reading the voxels brings.
    """

    path: Path
    stream: BufferedIOBase
    head: bytes
    compressed: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """What a file says about its voxels before any of them is read.

    Attributes
    ----------
    shape : tuple of int
        (i, j, k), followed by the numbers of frames where there are several.
    dtype : dtype
        Type of the stored voxels, or the largest that they may have.
    affine : ndarray, shape (4, 4), float64
        Index (i, j, k, 1) to world RAS+ mm.
    load : callable
        Reads one frame, which is counted from 0, as an array of shape (i, j, k).
    header : nibabel SpatialHeader or None
        Kept for writing, without the frames.
    slope, inter : float
        A voxel's value is its stored number times the slope, plus the intercept.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    load: Callable[[int], np.ndarray]
    header: nib.spatialimages.SpatialHeader | None = None
    slope: float = 1.0
    inter: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """The number of 3D scans in the file."""
        return math.prod(self.shape[3:])


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes
    ----------
    title : str
        Its name in messages.
    suffixes : tuple of str
        How names of its files end, in lower case.
    recognizes : callable
        Whether a file that begins with these `HEAD_BYTES` decompressed bytes has this format.
    read_header : callable
        Raises `InputError` for a damaged header. An ImportError means that `extra` is missing.
    extra : str
        The extra of napari-addm that it needs; empty for none.
    header_suffixes, voxel_suffixes : tuple of str
        Suffixes of the two halves of a scan that is stored as two files of one name.
    written_suffixes : tuple of str
        Those of `suffixes` that can be written, the usual one first. Those that end in ``gz``
        are compressed.
    write : callable, optional
        Writes voxels, shape (i, j, k), with the geometry of the volume that they come from.
    """

    title: str
    suffixes: tuple[str, ...]
    recognizes: Callable[[bytes], bool]
    read_header: Callable[[ScanFile], ScanHeader]
    extra: str = ""
    header_suffixes: tuple[str, ...] = ()
    voxel_suffixes: tuple[str, ...] = ()
    written_suffixes: tuple[str, ...] = ()
    write: Callable[[BufferedIOBase, np.ndarray, Volume], None] | None = None


@contextlib.contextmanager
def open_scan(path: Path) -> Iterator[ScanFile]:
    """Open a file, decompressed if its first two bytes say so.

    Raises
    ------
    InputError
        When it cannot be read, also while the block reads it.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            stream = BufferedReader(Gunzip(file)) if compressed else file
            yield ScanFile(path, stream, stream.read(HEAD_BYTES), compressed)
    except EOFError as error:
        raise InputError(
            f"{path} is cut short, its compressed data end early: copy or download it again."
        ) from error
    except isal_zlib.error as error:  # type: ignore[misc]  # it is a class
        raise InputError(
            f"{path} is damaged, its compressed data fail their checksum: copy or download it "
            "again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): copy it again."
        ) from error


def check_file(path: Path) -> None:
    """Refuse a path that is no file with content that can be opened."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: choose the scan in it.")
        check_is_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the name and the folder.") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}): check the permissions."
        ) from error


def check_claim(path: Path, shape: tuple[int, ...], total: int, compressed: bool) -> None:
    """Compare the size that a header claims with the size of its file.

    Parameters
    ----------
    shape : tuple of int
        The claimed voxels, for the message.
    total : int
        How many decompressed bytes the file should have.

    Raises
    ------
    InputError
        When the file cannot hold so many.
    """
    on_disk = path.stat().st_size
    if total > on_disk * (DEFLATE_LIMIT if compressed else 1):
        raise InputError(
            f"{path} is cut short or its header is damaged: {format_shape(shape)} voxels need "
            f"{format_size(total)}, and the file of {format_size(on_disk)} cannot hold them; copy "
            "it again."
        )


def load_frame(
    file: ScanFile,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    total: int,
    frame: int,
) -> np.ndarray:
    """Read one frame of raw voxels, and a compressed file to its end.

    Parameters
    ----------
    file : ScanFile
        Nothing behind its head was read.
    offset : int
        Where the first frame begins, in decompressed bytes.
    shape : tuple of int
        (i, j, k); i varies fastest.
    total : int
        Where the last frame ends.
    frame : int
        Counted from 0.

    Returns
    -------
    ndarray, shape (i, j, k)

    Raises
    ------
    InputError
        When the file ends before `total`, or far behind it.
    """
    size = math.prod(shape) * dtype.itemsize
    start = offset + frame * size
    buffer = np.empty(size, dtype=np.uint8)
    view = buffer.data
    early = file.head[start : start + size]  # small scans, and small headers
    view[: len(early)] = early
    filled = len(early)
    _skip(file.stream, start + filled - len(file.head))
    while filled < size:
        count = file.stream.readinto(view[filled:])
        if not count:
            raise InputError(
                f"{file.path} is cut short: it holds {filled} of {size} bytes of voxels; copy or "
                "download it again."
            )
        filled += count
    check_rest(file, total, start + size)
    return buffer.view(dtype).reshape(shape, order="F")


def check_rest(file: ScanFile, total: int, position: int) -> None:
    """Compare where a file ends with where its header says that the voxels end.

    A compressed file is read to its end, because gzip compares its checksum only there.

    Parameters
    ----------
    total : int
        Where the voxels end, in decompressed bytes.
    position : int
        How many bytes were read.

    Raises
    ------
    InputError
        When it ends before, or far behind.
    """
    end = position if file.compressed else file.path.stat().st_size
    while file.compressed and end <= total + LARGEST_REST_BYTES:
        chunk = file.stream.read(2**20)
        if not chunk:
            break
        end += len(chunk)
    if end < total:
        raise InputError(
            f"{file.path} is cut short: it holds {end} of {total} bytes; copy or download it again."
        )
    if end > total + LARGEST_REST_BYTES:
        raise InputError(
            f"{file.path} holds more than {format_size(LARGEST_REST_BYTES)} behind the voxels that "
            "its header names, so the header is damaged: copy or export it again."
        )
    if end > total + ORDINARY_REST_BYTES:
        more = format_size(end - total)
        words = (
            f"The file holds {more} behind the voxels that its header names, which were ignored."
        )
        file.notes.append(note(words))
    if isinstance(file.stream, BufferedReader) and getattr(file.stream.raw, "has_garbage", False):
        words = "The file holds bytes behind its compressed data, which were ignored."
        file.notes.append(note(words))


def _skip(stream: BufferedIOBase, count: int) -> None:
    while count > 0 and (chunk := stream.read(min(count, 2**20))):
        count -= len(chunk)
