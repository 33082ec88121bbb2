"""What is refused in a scan, and what is worth a warning."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import psutil

from napari_addm.errors import InputError
from napari_addm.io.arrays import Shape, affine_is_sheared, voxel_spacing
from napari_addm.io.remarks import Remark, caution, note
from napari_addm.io.text import format_shape, format_size

# Beyond these an affine is damaged, and rounding would exceed a millimeter.
FARTHEST_MM = 1e6
LARGEST_SPACING_MM = 1e3
SMALLEST_SPACING_MM = 1e-4
SMALLEST_EXTENT_MM, LARGEST_EXTENT_MM = 2.0, 1e4
THICK_SLICE_MM = 3.0
TINY_AXIS = 16
HUGE_VOXELS = 512**3
# Peak bytes per voxel beyond the stored ones while reading: the float32 voxels and one copy.
WORKING_BYTES = 8


def choose_frame(path: Path, shape: tuple[int, ...], frame: int | None) -> tuple[Shape, list[str]]:
    """Return the shape (i, j, k) of one 3D scan of a file, and warnings.

    Raises
    ------
    InputError
        When the file holds no 3D scan, or `frame` does not say which of several.
    """
    i, j, k = (*shape, 1, 1)[:3]
    frames = math.prod(shape[3:])
    if min(i, j, k) == 1 and sum(n > 1 for n in shape) > 2:
        raise InputError(
            f"{path} is a single slice with several frames, or has an extra axis of 1 "
            f"({format_shape(shape)}): export one 3D scan without that axis."
        )
    if min(i, j, k) == 1:
        raise InputError(
            f"{path} is a single 2D picture ({format_shape(shape)} voxels): choose the whole 3D "
            "scan."
        )
    if any(n > 1 for n in shape[4:]):
        raise InputError(
            f"{path} has {sum(n > 1 for n in shape)} dimensions ({format_shape(shape)}): export "
            "one 3D scan."
        )
    if frame is not None and not 0 <= frame < frames:
        raise InputError(f"{path} has no frame {frame}: choose one from 0 to {frames - 1}.")
    if frames > 1 and frame is None:
        raise InputError(
            f"{path} is 4D with {frames} frames: choose one (frame=0 to {frames - 1}), or export "
            "it as a 3D file."
        )
    if frames > 1:
        return (i, j, k), [frame_warning(frame, frames)]
    if len(shape) > 3:
        return (i, j, k), [note(f"The file is {len(shape)}D with one frame, which was used.")]
    return (i, j, k), []


def frame_warning(frame: int | None, frames: int) -> str:
    """Return the warning that one of several frames was read."""
    return note(f"Frame {frame} of {frames} was used.")


def check_dtype(path: Path, dtype: np.dtype) -> None:
    """Refuse voxels that are no real numbers."""
    if np.issubdtype(dtype, np.complexfloating):
        raise InputError(f"{path} holds complex numbers: export the magnitude image.")
    if dtype.fields is not None:
        raise InputError(f"{path} holds a color picture: export the scan itself, in gray.")
    if not np.issubdtype(dtype, np.integer) and not np.issubdtype(dtype, np.floating):
        raise InputError(f"{path} has an unknown voxel type: export it again.")


def check_affine(path: Path, affine: np.ndarray) -> None:
    """Refuse an affine that cannot be that of a scan."""
    fix = "repair its orientation, or convert it from DICOM again."
    if not np.isfinite(affine).all():
        raise InputError(f"{path} has an affine with NaN or infinite entries: {fix}")
    spacing = voxel_spacing(affine)
    if np.abs(affine).max() > FARTHEST_MM or max(spacing) > LARGEST_SPACING_MM:
        raise InputError(f"{path} has an affine with impossibly large entries: {fix}")
    if min(spacing) < SMALLEST_SPACING_MM or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise InputError(f"{path} has a singular affine, which flattens the volume: {fix}")


def check_extent(path: Path, extent: float, unit: str) -> None:
    """Refuse a unit that no head can have: many programs write mm, whatever the header says."""
    if not SMALLEST_EXTENT_MM < extent < LARGEST_EXTENT_MM:
        raise InputError(
            f"{path} measures {extent:.3g} mm by its header, whose unit is {unit}: set the unit of "
            "its lengths to mm."
        )


def check_memory(path: Path, shape: Shape, dtype: np.dtype) -> None:
    """Refuse a scan that does not fit into the free memory."""
    need = math.prod(shape) * (dtype.itemsize + WORKING_BYTES)
    free = psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{path} needs about {format_size(need)} of memory to be read and {format_size(free)} "
            "is free: crop or resample it, or use a larger machine."
        )


def warn_of_grid(affine: np.ndarray, shape: Shape) -> list[Remark]:
    """Return what a reader of the results must know about a grid, one sentence each."""
    warnings = []
    if affine_is_sheared(affine):
        warnings.append(
            note(
                "The grid is sheared; it is resampled to right angles for the model, and results "
                "are brought back."
            )
        )
    if max(voxel_spacing(affine)) > THICK_SLICE_MM:
        warnings.append(thick_slices(max(voxel_spacing(affine))))
    if min(shape) < TINY_AXIS:
        warnings.append(caution(f"The volume is tiny ({format_shape(shape)} voxels)."))
    voxels = math.prod(shape)
    if voxels > HUGE_VOXELS:
        warnings.append(
            note(
                f"The volume is huge ({format_shape(shape)} voxels): one float32 copy takes "
                f"{format_size(4 * voxels)} of memory, and a run needs several."
            )
        )
    return warnings


def thick_slices(apart_mm: float) -> Remark:
    """Return the warning of thick slices."""
    return caution(
        f"Slices are {apart_mm:.3g} mm apart (more than {THICK_SLICE_MM:g} mm): findings between "
        "them are missed, and volumes are rough."
    )


def warn_of_name(path: Path, compressed: bool) -> list[str]:
    """Return a warning where a file's name contradicts its compression."""
    named_compressed = path.name.lower().endswith((".gz", ".mgz"))
    if named_compressed and not compressed:
        return [note("The file is named as compressed and is not; it was read as it is.")]
    if compressed and not named_compressed:
        return [note("The file is compressed although its name does not say so.")]
    return []
