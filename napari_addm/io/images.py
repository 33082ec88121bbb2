"""Reading and writing volumes; the faults a file can have.

Formats are known by their content, not by their name. A compressed file is
decompressed once, to its very end, so that its checksum is always checked.
Nothing is allocated before the header's claim is held against the bytes that
the file can hold and the memory that is free.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
from isal import igzip, isal_zlib
from nibabel.filebasedimages import SerializableImage
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage
from scipy import ndimage

from napari_addm.errors import AddmError, InputError, MissingExtraError
from napari_addm.io.arrays import affine_is_sheared, displacement, stored_dtype, voxel_spacing
from napari_addm.io.files import open_atomic
from napari_addm.io.volume import (
    ROUNDING_MM,
    UNKNOWN_SIDES,
    Volume,
    stem,
    volume_from_native,
)

# Words that name a label file in BIDS, nnU-Net, BraTS, FreeSurfer and our own outputs, and words
# that name a scan; where a file name has several, the last one decides.
LABEL_WORDS = {
    "annotation",
    "aparc",
    "aseg",
    "brainmask",
    "dseg",
    "label",
    "labels",
    "lesion",
    "lesions",
    "mask",
    "roi",
    "seg",
    "segmentation",
    "truth",
}
SCAN_WORDS = {
    "anomaly",
    "flair",
    "pd",
    "recon",
    "t1",
    "t1c",
    "t1ce",
    "t1gd",
    "t1w",
    "t2",
    "t2w",
    "uncertainty",
}

READABLE = (
    ".nii",
    ".nii.gz",
    ".hdr",
    ".hdr.gz",
    ".img",
    ".img.gz",
    ".mgh",
    ".mgz",
    ".nrrd",
)
WRITABLE = (".nii.gz", ".nii", ".mgz", ".mgh")

# Deflate cannot do better than this (zlib's technical notes), so a larger claim is a lie.
DEFLATE_LIMIT = 1032
MGH_DATA_OFFSET = 284
# NIfTI-2 ends its signature with bytes that a text-mode transfer changes; some writers leave 0.
TRANSFER_CHECKS = (b"\r\n\x1a\n", bytes(4))
MAGICS = (
    b"n+1\0",
    b"ni1\0",
    *(magic + check for magic in (b"n+2\0", b"ni2\0") for check in TRANSFER_CHECKS),
)
# ISA-L's level 2 makes maps as small as zlib's level 4 in a tenth of the time; its own highest, 3,
# saves nothing more on them.
COMPRESSION_LEVEL = 2

# Beyond these an affine is damage, and its arithmetic loses the millimetre.
FARTHEST_MM = 1e6
LARGEST_SPACING_MM = 1e3
SMALLEST_SPACING_MM = 1e-4
FORMS_TOLERANCE_MM = 0.1
THICK_SLICE_MM = 3.0
TINY_AXIS = 16
HUGE_VOXELS = 512**3
# Frames of a 4D file that stay in memory: the one that is looked at and the one before.
FRAMES_KEPT = 2
# Peak bytes per voxel beyond the stored ones while reading: the float32 voxels and one copy.
WORKING_BYTES = 8

# The spaces of the NRRD format that are anatomical, as signs of the RAS+ axes.
NRRD_SPACES = {
    name: signs
    for names, signs in (
        (("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
        (("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
        (("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
    )
    for name in names
}


@dataclass(frozen=True, eq=False)
class _Stored:
    """One frame as the file has it, with what is needed to give its numbers their meaning."""

    data: np.ndarray  # (i, j, k), stored dtype
    slope: float
    inter: float
    affine: np.ndarray
    header: nib.spatialimages.SpatialHeader | None
    path: Path
    warnings: tuple[str, ...]
    frames: int = 1
    frame: int | None = None

    def to_volume(self) -> Volume:
        """Reorder first: the stored dtype is the smallest to move."""
        volume = volume_from_native(
            self.data, self.affine, header=self.header, path=self.path, warnings=self.warnings
        )
        if self.frames == 1:
            return volume
        return replace(volume, source=replace(volume.source, frame=self.frame))


# Numbers too large for their type become infinite and are found so; numpy's warning adds nothing.
@np.errstate(over="ignore", invalid="ignore")
def read_volume(
    path: str | os.PathLike[str], *, frame: int | None = None, constant: bool = False
) -> Volume:
    """Read a scan.

    Parameters
    ----------
    path : path
        NIfTI-1 or -2 (``.nii``, ``.nii.gz``, ``.hdr`` + ``.img``), MGH/MGZ,
        or NRRD (with the extra ``nrrd``).
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
    stored = _read(Path(path), frame)
    volume = stored.to_volume()
    data = volume.data.astype(np.float32, copy=False)
    if stored.slope != 1.0:
        data *= np.float32(stored.slope)
    if stored.inter != 0.0:
        data += np.float32(stored.inter)
    data, warnings = _zero_non_finite(data, stored.path)
    if not constant and data.min() == data.max():
        raise InputError(
            f"{stored.path} holds the same value in every voxel, so there is no picture in it: "
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
        int32 voxels (int64 where the labels need it), shape (S, A, R). A
        mask may be empty.

    Raises
    ------
    InputError
        As for `read_volume`, and when values are not whole numbers.
    """
    stored = _read(Path(path), frame)
    volume = stored.to_volume()
    data, warnings = volume.data, volume.warnings
    scaled = stored.slope != 1.0 or stored.inter != 0.0
    if scaled or not np.issubdtype(data.dtype, np.integer):
        values = data.astype(np.float64) * stored.slope + stored.inter
        values, more = _zero_non_finite(values, stored.path)
        data = np.rint(values)
        if np.abs(values - data).max() > 1e-3 or np.abs(data).max() > 2**53:
            raise InputError(
                f"{stored.path} holds fractions, so it is no mask: threshold it, or choose the "
                "file with whole-number labels."
            )
        warnings += more
    low, high = int(data.min()), int(data.max())
    if high > np.iinfo(np.int64).max:
        raise InputError(
            f"{stored.path} holds labels beyond 64-bit signed integers: renumber them from 1."
        )
    fits = np.iinfo(np.int32).min <= low and high <= np.iinfo(np.int32).max
    return volume.with_data(data.astype(np.int32 if fits else np.int64), warnings)


def read_grid(path: str | os.PathLike[str], *, frame: int | None = None) -> Volume:
    """Where a scan or a label file lies, and how large it is; only its header is read.

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
        As for `read_volume`, as far as the header and the size of the file tell.
    """
    return _read(Path(path), frame, voxels=False).to_volume()


class Frames:
    """The frames of a scan or a label file, each read when it is asked for.

    The last two are kept. Every other one costs a pass through the file.

    Parameters
    ----------
    path : path
        As for `read_volume`. A 3D file has one frame.
    labels : bool
        Whether they are read by `read_labels`.

    Attributes
    ----------
    path : Path
    count : int
        How many there are.

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
        """One of them, counted from 0; it may hold the same value in every voxel.

        Raises
        ------
        InputError
            As for `read_volume`, and when the file is another by now.
        """
        return self._kept(frame)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the first frame, less the one that says that it is the first."""
        note = _frame_note(0, self.count)
        return tuple(each for each in self.volume(0).warnings if each != note)

    def _read(self, frame: int) -> Volume:
        if self._file_state() != self._state:
            raise InputError(f"{self.path} has changed since it was opened: open it again.")
        if self._labels:
            return read_labels(self.path, frame=frame)
        return read_volume(self.path, frame=frame, constant=True)

    def _file_state(self) -> tuple[int, int]:
        _check_path(self.path)
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size


def write_volume(path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False) -> Path:
    """Write a volume on its source's own grid, with the source's header and affine.

    Floats are stored as float32, whole numbers and booleans as the smallest
    of uint8, int16, int32 and int64, all without a scale slope. Free-text
    header fields and NIfTI extensions, which may name a patient, are not
    written. The file appears at once and whole, or not at all.

    Parameters
    ----------
    path : path
        ``.nii.gz``, ``.nii``, ``.mgz`` or ``.mgh``, in a folder that exists.
    volume : Volume
        Voxels of any real dtype.
    overwrite : bool
        Replace a file of that name. The file that the volume was read from
        is never replaced.

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
    suffix = _suffix(path, WRITABLE)
    if suffix is None:
        raise AddmError(f"{path} cannot be written: give it a name that ends in .nii.gz.")
    if _is_same_file(path, volume.source.path):
        raise AddmError(
            f"{path} is the file that the voxels come from and is not overwritten: choose "
            "another name."
        )
    if path.is_dir():
        raise AddmError(f"{path} is a folder: give a file name inside it.")
    if path.exists() and not overwrite:
        raise AddmError(f"{path} exists already: choose another name, or allow overwriting.")

    data = volume.to_native()
    data = data.astype(stored_dtype(data), copy=False)
    if suffix in (".mgz", ".mgh"):
        if data.dtype == np.int64:
            raise AddmError(
                f"{path} cannot hold labels beyond 32 bits: give it a name that ends in .nii.gz."
            )
        image: SerializableImage = MGHImage(data, volume.source.affine)
    else:
        image = _nifti_image(data, volume)
    with open_atomic(path) as file:
        if suffix in (".nii.gz", ".mgz"):
            # No file name and no time in the gzip header: neither a patient's name nor the hour
            # of the run belongs there, and equal voxels give equal bytes.
            with igzip.IGzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as compressed:
                image.to_stream(compressed)
        else:
            image.to_stream(file)
    return path


def names_labels(path: Path) -> bool:
    """Whether a file's name says that it holds labels, such as a mask, and no scan."""
    words = re.split(r"[^a-z0-9]+", stem(path).lower())
    telling = [word for word in words if word in LABEL_WORDS | SCAN_WORDS]
    return bool(telling) and telling[-1] in LABEL_WORDS


def check_same_grid(
    labels: Volume,
    like: Volume,
    mend: str = "resample it onto the scan's grid first (resample_labels does that)",
) -> None:
    """Refuse a mask or a ground truth that does not lie on the scan's voxels.

    Raises
    ------
    InputError
        Names both grids and the mend.
    """
    if labels.same_grid(like):
        return
    what = _called(labels)
    if labels.shape != like.shape:
        how = (
            f"has {_times(labels.shape)} voxels (S x A x R) where the scan has {_times(like.shape)}"
        )
    else:
        apart = displacement(labels.affine, like.affine, like.shape)
        how = f"lies up to {_rounded(apart)} mm beside the scan's voxels"
    raise InputError(f"{what} {how}: {mend}.")


def read_beside(
    what: str, path: Path, like: Volume, resample: bool = False, mend: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """Read a mask or a ground truth of a scan as booleans on the scan's own grid.

    Parameters
    ----------
    what : str
        Its name in the warnings, such as ``"brain mask"``.
    path : Path
    like : Volume
        The scan.
    resample : bool
        Bring it to the scan's grid where it lies on another.
    mend : str, optional
        What to do about another grid, for the error; see `check_same_grid`.

    Returns
    -------
    ndarray of bool, shape (S, A, R)
        True where the file is not 0.
    list of str
        Its own warnings.

    Raises
    ------
    InputError
        As for `read_labels`, and when it lies on another grid, or wholly beside
        the scan's.
    """
    labels = read_labels(path)
    if resample and not labels.same_grid(like):
        labels = resample_labels(labels, like)
    check_same_grid(labels, like, *([mend] if mend else []))
    notes = [f"The {what}: {note}" for note in labels.warnings if note not in like.warnings]
    return labels.data != 0, notes


def resample_labels(labels: Volume, like: Volume, what: str | None = None) -> Volume:
    """Labels on another volume's grid, each voxel from its nearest neighbour in the world.

    Parameters
    ----------
    labels : Volume
        Integer or boolean voxels.
    like : Volume
        Gives the grid and the source.
    what : str, optional
        How the labels are called in an error; by their file, where they have one.

    Returns
    -------
    Volume
        dtype of `labels`; 0 where they do not reach. A warning tells how much
        of them does not lie on the grid.

    Raises
    ------
    InputError
        When there are labels and none of them lies on the grid.
    """
    total, beyond, apart = _beyond(labels, like)
    if total and beyond == total:
        raise InputError(
            f"{what or _called(labels)} lies beside the scan, its nearest labelled voxel "
            f"{_rounded(apart)} mm away: choose the one that belongs to this scan, or mend where "
            "it lies."
        )
    moved = resample_like(labels, like, order=0)
    notes = []
    if beyond:
        left_out, whole = (_rounded(n * labels.voxel_ml) for n in (beyond, total))
        notes.append(f"{left_out} of its {whole} mL lie beyond the scan's grid and are left out.")
    if total and not moved.data.any():
        notes.append(
            f"Nothing is left of its {_rounded(total * labels.voxel_ml)} mL, which lie between the "
            "centres of the scan's voxels."
        )
    return like.with_data(moved.data, (*moved.warnings, *notes))


def _beyond(labels: Volume, like: Volume) -> tuple[int, int, float]:
    """How many voxels are labelled, how many of their centres lie beyond a grid, and how far (mm).

    The last is of the one that lies nearest to the grid. The grid ends with its outermost voxels,
    not with their centres.
    """
    to_like = np.linalg.inv(like.affine) @ labels.affine
    total, beyond, nearest = 0, 0, math.inf
    for s in np.flatnonzero(labels.data.any(axis=(1, 2))):  # a slice at a time, to save memory
        a, r = np.nonzero(labels.data[s])
        index = np.column_stack([np.full_like(a, s), a, r])
        there = nib.affines.apply_affine(to_like, index)
        outside = there - np.clip(there, -0.5, np.array(like.shape) - 0.5)
        apart = np.linalg.norm(outside @ like.affine[:3, :3].T, axis=1)
        total += len(apart)
        beyond += int(np.count_nonzero(apart > ROUNDING_MM))
        nearest = min(nearest, float(apart.min()))
    return total, beyond, nearest


def resample_like(volume: Volume, like: Volume, order: int = 1) -> Volume:
    """Voxels on another volume's grid by spline interpolation in the world.

    Parameters
    ----------
    volume : Volume
        Real voxels. Nothing is smoothed first: fine voxels on a coarse grid
        are picked, not averaged.
    like : Volume
        Gives the grid and the source.
    order : int
        Spline order: 0 nearest, 1 linear, 3 cubic.

    Returns
    -------
    Volume
        dtype of `volume`; 0 outside its field of view.
    """
    to_index = np.linalg.inv(volume.affine) @ like.affine
    data = volume.data
    if data.dtype == bool:
        data = data.view(np.uint8)
    moved = ndimage.affine_transform(
        data, to_index[:3, :3], to_index[:3, 3], output_shape=like.shape, order=order
    )
    return like.with_data(
        moved.astype(volume.data.dtype, copy=False),
        (*volume.warnings, f"Resampled {_from_grid_to_grid(volume, like)}."),
    )


def _from_grid_to_grid(volume: Volume, like: Volume) -> str:
    """What tells two grids apart, in words."""
    before, after = (
        f"{_times(grid.shape)} voxels of {' x '.join(f'{mm:.3g}' for mm in grid.spacing)} mm"
        for grid in (volume, like)
    )
    if volume.shape != like.shape:
        return f"from a grid of {before} to {after} (S x A x R)"
    apart = f"{_rounded(displacement(volume.affine, like.affine, like.shape))} mm"
    if before != after:
        return f"from a grid of {before} to {after} (S x A x R), up to {apart} apart"
    return f"from a grid up to {apart} beside the scan's, with as many voxels of the same size"


# --- reading -------------------------------------------------------------------------------------


def _read(path: Path, frame: int | None, voxels: bool = True) -> _Stored:
    _check_path(path)
    if _suffix(path, (".nrrd",)):
        return _read_nrrd(path, frame, voxels)
    if (suffix := _suffix(path, (".img.gz", ".img"))) is not None:
        path = _sibling(path, suffix, (".hdr", ".hdr.gz"))
        _check_path(path)
    with _decompressed(path) as (stream, compressed):
        head = stream.read(nib.Nifti2Header.template_dtype.itemsize)
        # NIfTI begins with the size of its header in either byte order, MGH with version 1.
        little, big = (int.from_bytes(head[:4], order) for order in ("little", "big"))
        warnings = _name_warnings(path, compressed)
        if {little, big} & {348, 540}:
            return _read_nifti(path, stream, head, 540 in (little, big), frame, voxels, warnings)
        if big == 1 and len(head) >= MGH_DATA_OFFSET:
            return _read_mgh(path, stream, head, frame, voxels, warnings)
    raise InputError(f"{path} {_what_it_is(head)}")


def _check_path(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: choose the scan in it.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: copy or download the file again.")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the name and the folder.") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}): check the permissions."
        ) from error


def _what_it_is(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "is a web page, not a scan: the download failed, so fetch the file again."
    if head[128:132] == b"DICM":
        return "is a DICOM image: convert its series to NIfTI first, for example with dcm2niix."
    if head.startswith(b"NRRD"):
        return "is an NRRD file: give it a name that ends in .nrrd."
    return "is no NIfTI, MGZ or NRRD file: choose another, or convert it to NIfTI."


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[tuple[BufferedIOBase, bool]]:
    """The bytes of a file, decompressed if its first two bytes say so; its faults in words."""
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if compressed:
                with igzip.IGzipFile(fileobj=file, mode="rb") as stream:
                    yield stream, True
            else:
                yield file, False
    except EOFError as error:
        raise InputError(
            f"{path} is cut short, its compressed data end early: copy or download it again."
        ) from error
    except (gzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]  # a class in truth
        raise InputError(
            f"{path} is damaged, its compressed data fail their checksum: copy or download it "
            "again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): copy it again.") from error


def _read_nifti(
    path: Path,
    stream: BufferedIOBase,
    head: bytes,
    is_nifti2: bool,
    frame: int | None,
    voxels: bool,
    warnings: list[str],
) -> _Stored:
    kind = nib.Nifti2Header if is_nifti2 else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    if len(head) < size:
        raise InputError(f"{path} is cut short inside its header: copy or download it again.")
    header = kind(head[:size], check=False)
    magic = head[4:12] if is_nifti2 else head[344:348]
    if magic == bytes(4):
        raise InputError(
            f"{path} is an Analyze 7.5 file, which does not say left from right: convert it to "
            "NIfTI."
        )
    if magic not in MAGICS:
        raise InputError(f"{path} has a damaged header (no NIfTI signature): copy it again.")

    dim = header["dim"].astype(np.int64).tolist()
    if not 1 <= dim[0] <= 7 or any(n < 1 for n in dim[1 : dim[0] + 1]):
        raise InputError(
            f"{path} has a damaged header (dimensions {dim[1:]}): copy or export it again."
        )
    offset = int(header["vox_offset"]) if np.isfinite(header["vox_offset"]) else -1
    try:
        dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        dtype = np.dtype("V")
    _check_dtype(path, dtype, int(header["datatype"]))
    shape, frames = _spatial(path, dim[1 : dim[0] + 1], frame, warnings)

    # From here on the header tells the truth about what is kept: one 3D frame.
    header.set_data_shape(shape)
    affine = _nifti_affine(path, header, shape, warnings)
    _grid_warnings(affine, shape, warnings)
    header["vox_offset"] = 0
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0.0:
        slope, inter = 1.0, 0.0  # the standard: no scaling then
    inter = inter if np.isfinite(inter) else 0.0

    if magic[:2] == b"n+":
        # A single file's voxels begin after header and extension flag, whatever it claims.
        skip = max(offset, size + 4)
        data = _read_frame(path, stream, head, skip, shape, frames, frame, dtype, voxels)
    else:
        suffix = _suffix(path, (".hdr.gz", ".hdr")) or path.suffix
        image_path = _sibling(path, suffix, (".img", ".img.gz"))
        _check_path(image_path)
        _drain(stream)
        with _decompressed(image_path) as (other, _):
            skip = max(offset, 0)
            data = _read_frame(image_path, other, b"", skip, shape, frames, frame, dtype, voxels)
    return _Stored(data, slope, inter, affine, header, path, tuple(warnings), frames, frame)


def _read_mgh(
    path: Path,
    stream: BufferedIOBase,
    head: bytes,
    frame: int | None,
    voxels: bool,
    warnings: list[str],
) -> _Stored:
    has_geometry = head[28:30] == b"\x00\x01"
    header = MGHHeader(head[:90], check=False)
    dims = header["dims"].astype(np.int64).tolist()
    if any(n < 1 for n in dims):
        raise InputError(f"{path} has a damaged header (dimensions {dims}): copy it again.")
    try:
        dtype = header.get_data_dtype().newbyteorder(">")
    except KeyError:
        dtype = np.dtype("V")
    _check_dtype(path, dtype, int(header["type"]))
    # Every MGH file has four dimensions; a single frame is not worth a word.
    shape, frames = _spatial(path, dims if dims[3] > 1 else dims[:3], frame, warnings)
    header.set_data_shape(shape)
    # set_data_shape forgets the spacing; the block read from the file has it.
    header["delta"] = MGHHeader(head[:90], check=False)["delta"]
    if not has_geometry:
        warnings.append(UNKNOWN_SIDES)
    affine = header.get_affine()
    _check_affine(path, affine)
    _grid_warnings(affine, shape, warnings)
    data = _read_frame(path, stream, head, MGH_DATA_OFFSET, shape, frames, frame, dtype, voxels)
    return _Stored(data, 1.0, 0.0, affine, header, path, tuple(warnings), frames, frame)


def _read_nrrd(path: Path, frame: int | None, voxels: bool) -> _Stored:
    try:
        import nrrd
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is an NRRD file: run `pip install pynrrd` to read it, or convert it to NIfTI."
        ) from error
    try:
        header = nrrd.read_header(str(path))
        # A detached header could name any file of this machine as its data.
        if "data file" in header or "datafile" in header:
            raise InputError(f"{path} keeps its voxels in another file: save it as one .nrrd file.")
        sizes = [int(n) for n in header["sizes"]]
        on_disk = path.stat().st_size
        limit = on_disk * (1 if header["encoding"] == "raw" else DEFLATE_LIMIT)
        if any(n < 1 for n in sizes) or math.prod(sizes) > limit:
            raise InputError(
                f"{path} is cut short or its header is damaged: {_times(sizes)} voxels do not fit "
                f"into {_size(on_disk)}; copy it again."
            )
        _check_memory(path, math.prod(sizes), 8)
        if voxels:
            data, header = nrrd.read(str(path), index_order="F")
        else:
            data = np.broadcast_to(np.uint8(0), sizes)
    except (nrrd.NRRDError, OSError, EOFError, KeyError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is damaged or no NRRD file: export it again.") from error
    _check_dtype(path, data.dtype, 0)
    warnings: list[str] = []
    if data.ndim > 3:
        # Which axis is not space differs between writers.
        raise InputError(
            f"{path} has {data.ndim} dimensions ({_times(sizes)}): export one 3D scan."
        )
    shape, _ = _spatial(path, sizes, frame, warnings)
    space = str(header.get("space", "")).lower()
    to_ras = NRRD_SPACES.get(space)
    if to_ras is not None and "space directions" in header:
        linear = np.asarray(header["space directions"], dtype=np.float64).T
        origin = np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), dtype=np.float64)
        affine = np.diag([*to_ras, 1.0]) @ nib.affines.from_matvec(linear, origin)
    else:
        affine = np.diag([*header.get("spacings", (1.0, 1.0, 1.0)), 1.0])
        warnings.append(UNKNOWN_SIDES)
    _check_affine(path, affine)
    _grid_warnings(affine, shape, warnings)
    return _Stored(data, 1.0, 0.0, affine, None, path, tuple(warnings))


def _read_frame(
    path: Path,
    stream: BufferedIOBase,
    head: bytes,
    offset: int,
    shape: tuple[int, int, int],
    frames: int,
    frame: int | None,
    dtype: np.dtype,
    voxels: bool,
) -> np.ndarray:
    """One frame's voxels; `stream` stands right behind `head`. Reads to the end of the file.

    Without `voxels` nothing is read, and all of them are one 0.
    """
    size = math.prod(shape)
    frame_bytes = size * dtype.itemsize
    total = offset + frame_bytes * frames
    on_disk = path.stat().st_size
    if total > on_disk * (DEFLATE_LIMIT if isinstance(stream, gzip.GzipFile) else 1):
        raise InputError(
            f"{path} is cut short or its header is damaged: {_times(shape)} voxels need "
            f"{_size(total)}, and the file of {_size(on_disk)} cannot hold them; copy it again."
        )
    _check_memory(path, size, dtype.itemsize)
    if not voxels:
        return np.broadcast_to(np.zeros((), dtype), shape)

    start = offset + (frame or 0) * frame_bytes
    buffer = np.empty(frame_bytes, dtype=np.uint8)
    view = buffer.data
    # The first bytes may already have been read together with the header.
    early = head[start : start + frame_bytes]
    view[: len(early)] = early
    filled = len(early)
    _skip(stream, start + filled - len(head))
    while filled < frame_bytes:
        count = stream.readinto(view[filled:])
        if not count:
            raise InputError(
                f"{path} is cut short: it holds {filled} of {frame_bytes} bytes of voxels; copy or "
                "download it again."
            )
        filled += count
    _drain(stream)
    return buffer.view(dtype).reshape(shape, order="F")


def _skip(stream: BufferedIOBase, count: int) -> None:
    while count > 0 and (chunk := stream.read(min(count, 2**20))):
        count -= len(chunk)


def _drain(stream: BufferedIOBase) -> None:
    """Read to the end: only there gzip compares its checksum."""
    while stream.read(2**20):
        pass


def _check_dtype(path: Path, dtype: np.dtype, code: int) -> None:
    if np.issubdtype(dtype, np.complexfloating) or code == 2048:
        raise InputError(f"{path} holds complex numbers: export the magnitude image.")
    if dtype.fields is not None:
        raise InputError(f"{path} holds a colour picture: export the scan itself, in grey.")
    if not np.issubdtype(dtype, np.integer) and not np.issubdtype(dtype, np.floating):
        raise InputError(f"{path} has an unknown voxel type ({code}): export it again.")


def _spatial(
    path: Path, dim: list[int], frame: int | None, warnings: list[str]
) -> tuple[tuple[int, int, int], int]:
    """The (i, j, k) shape and the number of frames, where there is one scan to choose."""
    i, j, k = [*dim, 1, 1][:3]
    frames = math.prod(dim[3:])
    if min(i, j, k) == 1:
        raise InputError(
            f"{path} is a single 2D picture ({_times(dim)} voxels): choose the whole 3D scan."
        )
    if any(n > 1 for n in dim[4:]):
        raise InputError(
            f"{path} has {sum(n > 1 for n in dim)} dimensions ({_times(dim)}): export one 3D scan."
        )
    if frame is not None and not 0 <= frame < frames:
        raise InputError(f"{path} has no frame {frame}: choose one from 0 to {frames - 1}.")
    if frames > 1 and frame is None:
        raise InputError(
            f"{path} is 4D with {frames} frames: choose one (frame=0 to {frames - 1}), or export "
            "it as a 3D file."
        )
    if frames > 1:
        warnings.append(_frame_note(frame, frames))
    elif len(dim) > 3:
        warnings.append(f"The file is {len(dim)}D with one frame, which was used.")
    return (i, j, k), frames


def _frame_note(frame: int | None, frames: int) -> str:
    return f"Frame {frame} of {frames} was used."


def _nifti_affine(
    path: Path,
    header: nib.Nifti1Header,
    shape: tuple[int, int, int],
    warnings: list[str],
) -> np.ndarray:
    """World affine by the NIfTI rules; repairs spacing and qfac in `header` in place."""
    for form in ("sform_code", "qform_code"):
        # Readers differ about codes outside the standard: below 0 says nothing, above 5 something.
        if not 0 <= header[form] <= 5:
            header[form] = int(header[form] > 0)
    sform, sform_code = header.get_sform(coded=False), int(header["sform_code"])
    qform_code = int(header["qform_code"])
    if sform_code > 0:
        _check_affine(path, sform)

    pixdim = header["pixdim"]
    broken = ~(np.isfinite(pixdim[1:4]) & (pixdim[1:4] > 0))
    if broken.any():
        spacing = voxel_spacing(sform) if sform_code > 0 else (1.0, 1.0, 1.0)
        negative = np.isfinite(pixdim[1:4]) & (pixdim[1:4] < 0)
        mended = np.where(negative, -pixdim[1:4], np.where(broken, spacing, pixdim[1:4]))
        header["pixdim"][1:4] = mended
        warnings.append(
            "The header has no valid voxel size; "
            + " x ".join(f"{n:.3g}" for n in mended)
            + (" mm was taken from its sform." if sform_code > 0 else " mm was assumed.")
        )
    if pixdim[0] not in (-1, 1):
        header["pixdim"][0] = 1  # what the standard says of 0

    qform = None
    if qform_code > 0:
        try:
            qform = header.get_qform()
        except (ValueError, nib.spatialimages.HeaderDataError):
            qform = np.full((4, 4), np.nan)
        if sform_code <= 0:
            _check_affine(path, qform)
            return qform
    if sform_code > 0:
        if qform is not None:
            apart = displacement(sform, qform, shape)
            if not apart <= FORMS_TOLERANCE_MM:
                by = f"by up to {apart:.3g} mm" if np.isfinite(apart) else "(the qform is damaged)"
                warnings.append(f"qform and sform disagree {by}; the sform was used.")
            if _mirrored(sform, qform):
                warnings.append(UNKNOWN_SIDES)
        return sform
    warnings.append(UNKNOWN_SIDES)
    return header.get_base_affine()


def _mirrored(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether one affine has on the right what the other has on the left."""
    if not np.isfinite(other).all() or np.linalg.det(other[:3, :3]) == 0:
        return False
    return bool((one[:3, :3] @ np.linalg.inv(other[:3, :3]))[0, 0] < 0)


def _check_affine(path: Path, affine: np.ndarray) -> None:
    mend = "repair its orientation, or convert it from DICOM again."
    if not np.isfinite(affine).all():
        raise InputError(f"{path} has an affine with NaN or infinite entries: {mend}")
    spacing = voxel_spacing(affine)
    if np.abs(affine).max() > FARTHEST_MM or max(spacing) > LARGEST_SPACING_MM:
        raise InputError(f"{path} has an affine with impossibly large entries: {mend}")
    if min(spacing) < SMALLEST_SPACING_MM or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise InputError(f"{path} has a singular affine, which flattens the volume: {mend}")


def _grid_warnings(affine: np.ndarray, shape: tuple[int, int, int], warnings: list[str]) -> None:
    if affine_is_sheared(affine):
        warnings.append(
            "The grid is sheared; it is resampled to right angles for the model, and results are "
            "brought back."
        )
    spacing = voxel_spacing(affine)
    if max(spacing) > THICK_SLICE_MM:
        warnings.append(
            f"Slices are {max(spacing):.3g} mm apart (more than {THICK_SLICE_MM:g} mm): findings "
            "between them are missed, and volumes are rough."
        )
    if min(shape) < TINY_AXIS:
        warnings.append(f"The volume is tiny ({_times(shape)} voxels).")
    voxels = math.prod(shape)
    if voxels > HUGE_VOXELS:
        warnings.append(
            f"The volume is huge ({_times(shape)} voxels): one float32 copy takes "
            f"{_size(4 * voxels)} of memory, and a run needs several."
        )


def _check_memory(path: Path, voxels: int, itemsize: int) -> None:
    need, free = voxels * (itemsize + WORKING_BYTES), psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{path} needs about {_size(need)} of memory to be read and {_size(free)} is free: "
            "crop or resample it, or use a larger machine."
        )


def _name_warnings(path: Path, compressed: bool) -> list[str]:
    named_compressed = path.name.lower().endswith((".gz", ".mgz"))
    if named_compressed and not compressed:
        return ["The file is named as compressed and is not; it was read as it is."]
    if compressed and not named_compressed:
        return ["The file is compressed although its name does not say so."]
    return []


def _zero_non_finite(data: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    finite = np.isfinite(data)
    bad = data.size - int(np.count_nonzero(finite))
    if bad == 0:
        return data, ()
    if bad == data.size:
        raise InputError(f"{path} holds no number in any voxel (all NaN): export the scan again.")
    data[~finite] = 0
    return data, (f"{bad} voxels ({bad / data.size:.2%}) were NaN or infinite and are 0 now.",)


# --- writing -------------------------------------------------------------------------------------


def _nifti_image(data: np.ndarray, volume: Volume) -> nib.Nifti1Image:
    source = volume.source
    if not isinstance(source.header, nib.Nifti1Header):  # Nifti2Header is one, too
        image = nib.Nifti1Image(data, source.affine, dtype=data.dtype)
        image.header.set_xyzt_units("mm")
        image.set_sform(source.affine, code="scanner")
        # A quaternion cannot say a shear; two forms that disagree would only confuse readers.
        sheared = affine_is_sheared(source.affine)
        image.set_qform(source.affine, code="unknown" if sheared else "scanner")
        return image

    header = source.header.copy()
    for text in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if text in header:
            header[text] = b""
    for number in ("cal_max", "cal_min", "glmax", "glmin", "intent_code", "vox_offset"):
        if number in header:
            header[number] = 0
    for number in ("intent_p1", "intent_p2", "intent_p3"):
        header[number] = 0
    header["pixdim"][4:] = 0
    header.set_data_dtype(data.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # The header's own affine, so that nibabel leaves both forms and their codes as they are.
    return kind(data, header.get_best_affine(), header)


def _is_same_file(path: Path, source: Path | None) -> bool:
    if source is None:
        return False
    if path.exists() and source.exists():
        return path.samefile(source)
    return path.resolve() == source.resolve()


# --- names and numbers ---------------------------------------------------------------------------


def _suffix(path: Path, suffixes: tuple[str, ...]) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix)), None)


def _sibling(path: Path, suffix: str, wanted: tuple[str, ...]) -> Path:
    """The other file of a .hdr/.img pair."""
    base = path.name[: len(path.name) - len(suffix)]
    siblings = [path.with_name(base + other) for other in wanted]
    for sibling in siblings:
        if sibling.exists():
            return sibling
    raise InputError(f"{path} lacks its other half {siblings[0].name}: put both in one folder.")


def _called(volume: Volume) -> str:
    """How labels are called in an error."""
    return str(volume.source.path or volume.source.name or "the labels")


def _times(shape: tuple[int, ...] | list[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
