"""NIfTI-1 and NIfTI-2, as one file or as a pair of header and voxels."""

from __future__ import annotations

import math
from contextlib import nullcontext
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.arrays import Shape, affine_is_sheared, displacement, voxel_spacing
from napari_addm.io.checks import check_affine, check_extent
from napari_addm.io.format import (
    Format,
    ScanFile,
    ScanHeader,
    check_claim,
    check_file,
    check_rest,
    load_frame,
    open_scan,
)
from napari_addm.io.names import other_half
from napari_addm.io.remarks import caution, note
from napari_addm.io.volume import UNKNOWN_DIRECTIONS, UNKNOWN_SIDES, Volume

HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# NIfTI-2 ends its signature with bytes that a text-mode transfer changes; some writers leave 0.
TRANSFER_CHECKS = (b"\r\n\x1a\n", bytes(4))
MAGICS = (
    b"n+1\0",
    b"ni1\0",
    *(magic + check for magic in (b"n+2\0", b"ni2\0") for check in TRANSFER_CHECKS),
)
COMPLEX256 = 2048
FORMS_TOLERANCE_MM = 0.1
# The units of `xyzt_units` other than mm; readers take its 0, unknown, for mm.
UNITS_MM = {1: ("m", 1e3), 3: ("µm", 1e-3)}
# The fields of a header that outputs keep; others may name a patient, or describe other voxels.
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def recognizes(head: bytes) -> bool:
    """Return whether a file begins with the size of a NIfTI header, in either byte order."""
    return _header_size(head) is not None


def _header_size(head: bytes) -> int | None:
    sizes = (int.from_bytes(head[:4], order) for order in ("little", "big"))
    return next((size for size in sizes if size in HEADERS), None)


def read_header(file: ScanFile) -> ScanHeader:
    """Read the header; see `napari_addm.io.format.Format`."""
    path = file.path
    header, in_one_file = _checked_header(file)
    count, *dims = header["dim"].astype(np.int64).tolist()
    if not 1 <= count <= 7 or min(dims[:count]) < 0 or dims[0] == 0:
        raise InputError(
            f"{path} has a damaged header (dimensions {dims}): copy or export it again."
        )
    shape = tuple(max(n, 1) for n in dims[:count])  # as in the C library of the standard
    i, j, k = (*shape, 1, 1)[:3]
    dtype = _dtype(header)
    # A single file's voxels begin behind its header and extension flag, whatever it claims.
    least = header.template_dtype.itemsize + 4 if in_one_file else 0
    claimed = float(header["vox_offset"])
    offset = max(int(claimed) if np.isfinite(claimed) else 0, least)
    total = offset + math.prod(shape) * dtype.itemsize
    with nullcontext(file) if in_one_file else open_scan(_voxels_file(path)) as voxels:
        check_claim(voxels.path, (i, j, k), total, voxels.compressed)

    # The header that is kept describes one 3D frame.
    header.set_data_shape((i, j, k))
    affine, warnings = _affine(path, header, (i, j, k))
    bits = int(header["bitpix"])
    if bits not in (0, 8 * dtype.itemsize):
        words = f"The header names a type of {8 * dtype.itemsize} bits and {bits} bits per voxel"
        warnings.append(note(f"{words}; the type was used."))
    header["vox_offset"] = 0
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0.0:
        slope, inter = 1.0, 0.0  # the standard: no scaling then

    def load(frame: int) -> np.ndarray:
        if in_one_file:
            return load_frame(file, offset, (i, j, k), dtype, total, frame)
        check_rest(file, len(file.head), len(file.head))
        with open_scan(voxels.path) as other:
            data = load_frame(other, offset, (i, j, k), dtype, total, frame)
            file.notes.extend(other.notes)
            return data

    inter = inter if np.isfinite(inter) else 0.0
    return ScanHeader(shape, dtype, affine, load, header, slope, inter, tuple(warnings))


def _checked_header(file: ScanFile) -> tuple[nib.Nifti1Header, bool]:
    """The header, and whether the voxels are in the same file."""
    size = _header_size(file.head)
    if size is None or len(file.head) < size:
        raise InputError(f"{file.path} is cut short inside its header: copy or download it again.")
    magic = file.head[4:12] if size == 540 else file.head[344:348]
    if magic == bytes(4):
        raise InputError(
            f"{file.path} is an Analyze 7.5 file, which does not say left from right: convert it "
            "to NIfTI."
        )
    if magic not in MAGICS:
        raise InputError(f"{file.path} has a damaged header (no NIfTI signature): copy it again.")
    return HEADERS[size](file.head[:size], check=False), magic[:2] == b"n+"


def _voxels_file(path: Path) -> Path:
    """The other half of a header that stands alone in its file."""
    voxels = other_half(path)
    if voxels is None:
        raise InputError(
            f"{path} lacks its other half {path.with_suffix('.img').name}: put both in one folder."
        )
    check_file(voxels)
    return voxels


def _dtype(header: nib.Nifti1Header) -> np.dtype:
    if header["datatype"] == COMPLEX256:  # some systems have no type for it
        return np.dtype(np.complex128)
    try:
        dtype: np.dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        return np.dtype("V")
    return dtype


def _affine(path: Path, header: nib.Nifti1Header, shape: Shape) -> tuple[np.ndarray, list[str]]:
    """World affine in mm by the NIfTI rules, and warnings; repairs spacing and qfac in `header`."""
    for form in ("sform_code", "qform_code"):
        # Readers differ about codes outside the standard: below 0 says nothing, above 5 something.
        if not 0 <= header[form] <= 5:
            header[form] = int(header[form] > 0)
    unit, factor = UNITS_MM.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    to_mm = np.diag([factor, factor, factor, 1.0])
    sform = to_mm @ header.get_sform(coded=False) if header["sform_code"] > 0 else None
    if unit:
        sizes = factor * header["pixdim"][1:4] if sform is None else voxel_spacing(sform)
        check_extent(path, np.abs(np.multiply(sizes, shape)).max(), unit)
    if sform is not None:
        check_affine(path, sform)
    warnings = _repair_spacing(header, sform, factor)
    qform = _qform(header, to_mm)
    affine = sform if sform is not None else qform
    if affine is None:
        affine = to_mm @ header.get_base_affine()
        warnings.append(UNKNOWN_DIRECTIONS)
    check_affine(path, affine)
    if unit:
        warnings.append(note(f"The header gives lengths in {unit}, which were changed to mm."))
    if sform is not None and qform is not None:
        apart = displacement(sform, qform, shape)
        if not apart <= FORMS_TOLERANCE_MM:
            by = f"by up to {apart:.3g} mm" if np.isfinite(apart) else "(the qform is damaged)"
            warnings.append(caution(f"qform and sform disagree {by}; the sform was used."))
        if _mirrored(sform, qform):
            warnings.append(UNKNOWN_SIDES)
    return affine, warnings


def _repair_spacing(header: nib.Nifti1Header, sform: np.ndarray | None, factor: float) -> list[str]:
    pixdim = header["pixdim"]
    if pixdim[0] not in (-1, 1):
        pixdim[0] = 1  # what the standard says of 0
    sizes = pixdim[1:4]
    broken = ~(np.isfinite(sizes) & (sizes > 0))
    if not broken.any():
        return []
    spacing = np.ones(3) if sform is None else np.divide(voxel_spacing(sform), factor)
    negative = np.isfinite(sizes) & (sizes < 0)
    repaired = np.where(negative, -sizes, np.where(broken, spacing, sizes))
    pixdim[1:4] = repaired
    size = " x ".join(f"{n:.3g}" for n in repaired * factor) + " mm"
    if (broken == negative).all():
        return [note(f"The header has a negative voxel size; its sign was dropped: {size}.")]
    if sform is None:
        return [caution(f"The header has no valid voxel size; {size} was assumed.")]
    return [note(f"The header has no valid voxel size; {size} was taken from its sform.")]


def _qform(header: nib.Nifti1Header, to_mm: np.ndarray) -> np.ndarray | None:
    """The affine of the quaternion in mm; NaN for a damaged one, None where there is none."""
    if header["qform_code"] <= 0:
        return None
    try:
        qform: np.ndarray = to_mm @ header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)
    return qform


def _mirrored(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether one affine has on the right what the other has on the left."""
    if not np.isfinite(other).all() or np.linalg.det(other[:3, :3]) == 0:
        return False
    return bool((one[:3, :3] @ np.linalg.inv(other[:3, :3]))[0, 0] < 0)


def write(file: BufferedIOBase, data: np.ndarray, volume: Volume) -> None:
    """Write voxels with the header that was read, where that is a NIfTI header."""
    _image(data, volume).to_stream(file)


def _image(data: np.ndarray, volume: Volume) -> nib.Nifti1Image:
    source = volume.source
    if not isinstance(source.header, nib.Nifti1Header):  # Nifti2Header is one, too
        image = nib.Nifti1Image(data, source.affine, dtype=data.dtype)
        image.header.set_xyzt_units("mm")
        image.set_sform(source.affine, code="scanner")
        # A quaternion cannot say a shear; two forms that disagree would only confuse readers.
        sheared = affine_is_sheared(source.affine)
        image.set_qform(source.affine, code="unknown" if sheared else "scanner")
        return image
    header = _geometry(source.header)
    header.set_data_dtype(data.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # The header's own affine, so that nibabel leaves both forms and their codes as they are.
    return kind(data, header.get_best_affine(), header)


def _geometry(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """A header of the same kind that says only where the voxels lie."""
    geometry = type(header)(endianness=header.endianness)
    geometry.set_data_shape(header.get_data_shape())
    for name in GEOMETRY:
        geometry[name] = header[name]
    geometry["pixdim"][4:] = 0
    return geometry


FORMAT = Format(
    title="NIfTI",
    suffixes=(".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"),
    recognizes=recognizes,
    read_header=read_header,
    header_suffixes=(".hdr", ".hdr.gz"),
    voxel_suffixes=(".img", ".img.gz"),
    written_suffixes=(".nii.gz", ".nii"),
    write=write,
)
