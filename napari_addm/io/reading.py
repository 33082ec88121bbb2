"""Reading scans and label files.

Formats are known by their content, not by their name. A compressed file is decompressed once,
to its very end, so that its checksum is always compared. Nothing is allocated before the
header's claim is compared with the size of the file and with the free memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from napari_addm.errors import InputError, MissingExtraError
from napari_addm.io.checks import (
    check_affine,
    check_dtype,
    check_memory,
    choose_frame,
    frame_warning,
    warn_of_grid,
    warn_of_name,
)
from napari_addm.io.format import Format, ScanFile, ScanHeader, check_file, open_scan
from napari_addm.io.names import header_file, installed_formats, readable_titles
from napari_addm.io.remarks import Remark, about, caution
from napari_addm.io.resampling import check_same_grid, resample_labels
from napari_addm.io.volume import Volume, volume_from_native

# Frames of a 4D file that stay in memory: the one that is looked at and the one before.
FRAMES_KEPT = 2
# How other files begin that are given or named as scans, and what to do about them.
FOREIGN = {
    b"\x1f\x8b": "compressed twice: decompress it once",
    b"BZh": "compressed by bzip2: decompress it",
    b"\xfd7zXZ\0": "compressed by xz: decompress it",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: decompress it",
    b"PK\x03\x04": "a ZIP archive: unpack it, and choose the scan in it",
    b"7z\xbc\xaf": "a 7z archive: unpack it, and choose the scan in it",
    b"Rar!": "a RAR archive: unpack it, and choose the scan in it",
    b"\x89HDF": "an HDF5 or MINC file: convert it to NIfTI, for example with mnc2nii",
    b"CDF": "a MINC file: convert it to NIfTI, for example with mnc2nii",
    b"ObjectType": "a MetaImage file: convert it to NIfTI",
    b"NDims": "a MetaImage file: convert it to NIfTI",
    b"type ": "an AFNI header: convert the dataset with 3dAFNItoNIFTI",
    b"# === DATA DESCR": "a PAR file of Philips: convert it with dcm2niix",
    b"\x89PNG": "a PNG picture: choose the 3D scan",
    b"\xff\xd8\xff": "a JPEG picture: choose the 3D scan",
    b"II*\0": "a TIFF picture: convert it to NIfTI, with its voxel size",
    b"MM\0*": "a TIFF picture: convert it to NIfTI, with its voxel size",
    b"%PDF": "a PDF document: choose the scan",
    b"{": "a JSON file: choose the scan beside it",
}


@dataclass(frozen=True, eq=False)
class _Stored:
    """One frame in S, A, R order with the stored numbers, and their scale."""

    volume: Volume
    slope: float
    inter: float
    frames: int


# Numbers too large for their type become infinite and are found so; numpy's warning adds nothing.
@np.errstate(over="ignore", invalid="ignore")
def read_volume(
    path: str | os.PathLike[str], *, frame: int | None = None, constant: bool = False
) -> Volume:
    """Read a scan.

    Parameters
    ----------
    path : path
        A file of one of the formats in `napari_addm.registry.FORMATS`: NIfTI-1 or -2
        (``.nii``, ``.nii.gz``, ``.hdr`` + ``.img``), MGH/MGZ, or NRRD (with the extra ``nrrd``).
    frame : int, optional
        Which frame of a 4D file; needed only where there is more than one.
    constant : bool
        Whether the same value in every voxel is allowed, as in a map of nothing.

    Returns
    -------
    Volume
        float32 voxels, shape (S, A, R), with the file's scale slope and
        intercept applied. NaN and infinite voxels are 0. Oddities that were
        put right or that weaken a result are in ``warnings``.

    Raises
    ------
    InputError
        When the file is damaged, is no volume, or holds no picture.
    """
    path = Path(path)
    stored = _read(path, frame)
    volume = stored.volume
    data = volume.data.astype(np.float32, copy=False)
    if stored.slope != 1.0:
        data *= np.float32(stored.slope)
    if stored.inter != 0.0:
        data += np.float32(stored.inter)
    data, warnings = _zero_non_finite(data, path)
    if not constant and data.min() == data.max():
        raise InputError(
            f"{path} holds the same value in every voxel, so there is no picture in it: "
            "export the scan again."
        )
    return volume.with_data(data, volume.warnings + warnings)


@np.errstate(over="ignore", invalid="ignore")
def read_labels(path: str | os.PathLike[str], *, frame: int | None = None) -> Volume:
    """Read a mask or a label file.

    Parameters
    ----------
    path, frame
        As for `read_volume`. Whole numbers may be stored as floats.

    Returns
    -------
    Volume
        int32 voxels (int64 where the labels need it), shape (S, A, R). A mask may be empty.

    Raises
    ------
    InputError
        As for `read_volume`, and when values are not whole numbers.
    """
    path = Path(path)
    stored = _read(path, frame)
    data, warnings = stored.volume.data, stored.volume.warnings
    scaled = stored.slope != 1.0 or stored.inter != 0.0
    if scaled or not np.issubdtype(data.dtype, np.integer):
        values = data.astype(np.float64) * stored.slope + stored.inter
        values, more = _zero_non_finite(values, path)
        data = np.rint(values)
        if np.abs(values - data).max() > 1e-3 or np.abs(data).max() > 2**53:
            raise InputError(
                f"{path} holds fractions, so it is no mask: threshold it, or choose the "
                "file with whole-number labels."
            )
        warnings += more
    low, high = int(data.min()), int(data.max())
    if high > np.iinfo(np.int64).max:
        raise InputError(
            f"{path} holds labels beyond 64-bit signed integers: renumber them from 1."
        )
    fits = np.iinfo(np.int32).min <= low and high <= np.iinfo(np.int32).max
    return stored.volume.with_data(data.astype(np.int32 if fits else np.int64), warnings)


def read_grid(path: str | os.PathLike[str], *, frame: int | None = None) -> Volume:
    """Read the header of a scan or a label file: where its voxels lie, and how many they are.

    Parameters
    ----------
    path, frame
        As for `read_volume`.

    Returns
    -------
    Volume
        Without its voxels: all are 0 and share one place in memory.

    Raises
    ------
    InputError
        As for `read_volume`, as far as the header and the size of the file show it.
    """
    return _read(Path(path), frame, voxels=False).volume


def read_beside(
    what: str, path: Path, like: Volume, resample: bool = False, fix: str | None = None
) -> tuple[np.ndarray, list[Remark]]:
    """Read a mask or a ground truth of a scan as booleans on the scan's own grid.

    Parameters
    ----------
    what : str
        Its name in the warnings, such as ``"brain mask"``.
    like : Volume
        The scan.
    resample : bool
        Bring it to the scan's grid where it lies on another.
    fix : str, optional
        What to do about another grid, for the error; see `check_same_grid`.

    Returns
    -------
    ndarray of bool, shape (S, A, R)
        True where the file is not 0.
    list of Remark
        Its own warnings.

    Raises
    ------
    InputError
        As for `read_labels`, and when it lies on another grid, or wholly beside the scan's.
    """
    labels = read_labels(path)
    if resample and not labels.same_grid(like):
        labels = resample_labels(labels, like)
    check_same_grid(labels, like, *([fix] if fix else []))
    notes = [about(what, each) for each in labels.warnings if each not in like.warnings]
    return labels.data != 0, notes


class Frames:
    """The frames of a scan or a label file, each read on demand.

    The last two are kept. Every other one costs a pass through the file.

    Parameters
    ----------
    path : path
        As for `read_volume`. A 3D file has one frame.
    labels : bool
        Whether they are read by `read_labels`.

    Attributes
    ----------
    count : int
        The number of frames.

    Raises
    ------
    InputError
        As for `read_grid`.
    """

    def __init__(self, path: str | os.PathLike[str], labels: bool = False) -> None:
        self.path = Path(path)
        self.count = _read(self.path, 0, voxels=False).frames
        self._labels = labels
        self._state = self._file_state()
        self._kept = lru_cache(FRAMES_KEPT)(self._read)

    def volume(self, frame: int) -> Volume:
        """Read a frame, counted from 0; it may hold the same value in every voxel.

        Raises
        ------
        InputError
            As for `read_volume`, and when the file has changed.
        """
        return self._kept(frame)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the first frame, less the one that says that it is the first."""
        note = frame_warning(0, self.count)
        return tuple(each for each in self.volume(0).warnings if each != note)

    def _read(self, frame: int) -> Volume:
        if self._file_state() != self._state:
            raise InputError(f"{self.path} has changed since it was opened: open it again.")
        if self._labels:
            return read_labels(self.path, frame=frame)
        return read_volume(self.path, frame=frame, constant=True)

    def _file_state(self) -> tuple[int, int]:
        check_file(self.path)
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size


@np.errstate(over="ignore", invalid="ignore")
def _read(path: Path, frame: int | None, voxels: bool = True) -> _Stored:
    check_file(path)
    path = header_file(path)
    check_file(path)
    with open_scan(path) as file:
        header = _read_header(file)
        shape, notes = choose_frame(path, header.shape, frame)
        check_dtype(path, header.dtype)
        check_affine(path, header.affine)
        warnings = (
            *warn_of_name(path, file.compressed),
            *notes,
            *header.warnings,
            *warn_of_grid(header.affine, shape),
        )
        check_memory(path, shape, header.dtype)
        if voxels:
            data = header.load(frame or 0)
            warnings += tuple(file.notes)
            check_dtype(path, data.dtype)
        else:
            data = np.broadcast_to(np.zeros((), header.dtype), shape)
    volume = volume_from_native(
        data, header.affine, header=header.header, path=path, warnings=warnings
    )
    if header.frames > 1:
        volume = replace(volume, source=replace(volume.source, frame=frame))
    return _Stored(volume, header.slope, header.inter, header.frames)


def _read_header(file: ScanFile) -> ScanHeader:
    found = _recognize(file.head)
    if found is None:
        raise InputError(f"{file.path} {_describe_foreign(file.head)}")
    try:
        return found.read_header(file)
    except ImportError as error:
        raise MissingExtraError(
            f"{file.path} has the format {found.title}, which",
            error.name or found.extra,
            found.extra,
            "convert it to NIfTI",
        ) from error


def _recognize(head: bytes) -> Format | None:
    return next((each for each in installed_formats() if each.recognizes(head)), None)


def _describe_foreign(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<gifti" in text:
        return "is a surface in GIFTI format: choose the scan."
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "is a web page, not a scan: the download failed, so fetch the file again."
    if head[128:132] == b"DICM":
        return "is a DICOM image: detect in its series, or convert that to NIfTI first."
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it, and choose the scan in it."
    for signature, words in FOREIGN.items():
        if head.lstrip().startswith(signature):
            return f"is {words}."
    return f"is no {readable_titles()} file: choose another, or convert it to NIfTI."


def _zero_non_finite(data: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    finite = np.isfinite(data)
    bad = data.size - int(np.count_nonzero(finite))
    if bad == 0:
        return data, ()
    if bad == data.size:
        raise InputError(f"{path} holds no number in any voxel (all NaN): export the scan again.")
    data[~finite] = 0
    words = f"{bad} voxels ({bad / data.size:.2%}) were NaN or infinite and are taken as 0."
    return data, (caution(words),)
