"""Labels and scans on the grid of another volume."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
from scipy import ndimage

from napari_addm.errors import InputError
from napari_addm.io.arrays import displacement
from napari_addm.io.remarks import caution, note
from napari_addm.io.text import format_amount, format_shape
from napari_addm.io.volume import ROUNDING_MM, Volume


def check_same_grid(
    labels: Volume,
    like: Volume,
    fix: str = "resample it onto the scan's grid first (resample_labels does that)",
) -> None:
    """Refuse a mask or a ground truth that does not lie on the scan's voxels.

    Raises
    ------
    InputError
        Names both grids and the fix.
    """
    if labels.same_grid(like):
        return
    what = _name_of(labels)
    if labels.shape != like.shape:
        here, there = format_shape(labels.shape), format_shape(like.shape)
        how = f"has {here} voxels (S x A x R) where the scan has {there}"
    else:
        apart = displacement(labels.affine, like.affine, like.shape)
        how = f"lies up to {format_amount(apart)} mm beside the scan's voxels"
    raise InputError(f"{what} {how}: {fix}.")


def resample_labels(labels: Volume, like: Volume, what: str | None = None) -> Volume:
    """Bring labels to another volume's grid, each voxel from its nearest neighbor in the world.

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
    total, beyond, apart = _measure_beyond(labels, like)
    if total and beyond == total:
        raise InputError(
            f"{what or _name_of(labels)} lies beside the scan, its nearest labelled voxel "
            f"{format_amount(apart)} mm away: choose the one that belongs to this scan, or "
            "correct where it lies."
        )
    moved = resample_like(labels, like, order=0)
    notes = []
    if beyond:
        left_out, whole = (format_amount(n * labels.voxel_ml) for n in (beyond, total))
        words = f"{left_out} of its {whole} mL lie beyond the scan's grid and are left out."
        notes.append(caution(words))
    if total and not moved.data.any():
        whole = format_amount(total * labels.voxel_ml)
        words = f"Nothing is left of its {whole} mL"
        notes.append(caution(f"{words}, which lie between the centers of the scan's voxels."))
    return like.with_data(moved.data, (*moved.warnings, *notes))


def _measure_beyond(labels: Volume, like: Volume) -> tuple[int, int, float]:
    """Count the labeled voxels and those with centers beyond a grid.

    Also measure how far beyond the nearest of them lies, in mm. The grid ends with its outermost
    voxels, not with their centers.
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
    """Bring voxels to another volume's grid by spline interpolation in the world.

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
        (*volume.warnings, note(f"Resampled {_compare_grids(volume, like)}.")),
    )


def _compare_grids(volume: Volume, like: Volume) -> str:
    """The difference between two grids in words."""
    before, after = (
        f"{format_shape(grid.shape)} voxels of {' x '.join(f'{mm:.3g}' for mm in grid.spacing)} mm"
        for grid in (volume, like)
    )
    if volume.shape != like.shape:
        return f"from a grid of {before} to {after} (S x A x R)"
    apart = f"{format_amount(displacement(volume.affine, like.affine, like.shape))} mm"
    if before != after:
        return f"from a grid of {before} to {after} (S x A x R), up to {apart} apart"
    return f"from a grid up to {apart} beside the scan's, with as many voxels of the same size"


def _name_of(volume: Volume) -> str:
    """The name of labels in an error."""
    return str(volume.source.path or volume.source.name or "the labels")
