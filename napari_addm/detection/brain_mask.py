"""Brain masks: read off a stripped scan, found by deepbet, or given and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_addm.errors import InputError, MissingExtraError
from napari_addm.io.arrays import bounding_box
from napari_addm.io.remarks import Remark, caution, note

if TYPE_CHECKING:
    from napari_addm.io.volume import Volume

PLAUSIBLE_BRAIN_ML = (500.0, 2200.0)
"""Smallest and largest brain mask that passes without a warning, in mL."""

_BACKGROUND_SHARE = 0.9


def choose_brain_mask(
    volume: Volume, given: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], list[Remark]]:
    """Check the given brain mask, or find one.

    Returns
    -------
    mask : ndarray of bool, shape (S, A, R)
    warnings : list of Remark

    Raises
    ------
    InputError
        If the mask is empty, or not on the scan's grid.
    MissingExtraError
        If skull stripping is needed and deepbet is not installed.
    """
    warnings: list[Remark] = []
    if given is None:
        mask = find_brain(volume)
        if mask is None:
            mask = strip_skull(volume)
            warnings.append(note("The skull was stripped with deepbet."))
        else:
            warnings.append(
                note("Taken as already skull-stripped, because its background is one value.")
            )
    elif given.shape == volume.shape:
        mask = np.asarray(given, bool)
    else:
        raise InputError(
            f"{volume.name}: the brain mask has {given.shape} voxels, the scan {volume.shape}; "
            "resample the mask to the scan."
        )
    if not mask.any():
        empty = (
            "that was found is empty; check the scan, or give a brain mask"
            if given is None
            else "that was given is empty; give another, or none"
        )
        raise InputError(f"{volume.name}: the brain mask {empty}.")
    brain_ml = float(mask.sum()) * volume.voxel_ml
    if (problem := unlikely_size(brain_ml)) is not None:
        warnings.append(problem)
    return mask, warnings


def unlikely_size(brain_ml: float) -> Remark | None:
    """Return the warning of a brain mask that is too small or too large for a brain."""
    low, high = PLAUSIBLE_BRAIN_ML
    if low <= brain_ml <= high:
        return None
    return caution(
        f"The brain mask holds {brain_ml:.0f} mL, a brain {low:.0f} to {high:.0f}: check the mask "
        "before you trust the map."
    )


def find_brain(volume: Volume) -> NDArray[np.bool_] | None:
    """Find the brain mask of a scan that is skull-stripped already.

    A scan counts as stripped when nine tenths of its border have the same value, and what differs
    from it is no larger than a brain.

    Returns
    -------
    ndarray of bool, shape (S, A, R), or None
    """
    data = volume.data
    border = np.concatenate(
        [np.take(data, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    )
    values, counts = np.unique(border, return_counts=True)
    # a brain that was cropped tightly touches the border
    background = values[counts.argmax()]
    if counts.max() < _BACKGROUND_SHARE * border.size:
        return None
    head = data != background
    if np.count_nonzero(head) * volume.voxel_ml > PLAUSIBLE_BRAIN_ML[1]:
        return None
    return _largest_solid(head)


def _largest_solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask, without holes."""
    if not mask.any():
        return mask
    box = bounding_box(mask)
    # cc3d is several times as fast as scipy, and fastest for uint8
    inside = np.ascontiguousarray(mask[box]).view(np.uint8)
    parts, count = cc3d.connected_components(inside, connectivity=6, return_N=True)
    if count > 1:
        inside = (parts == 1 + np.bincount(parts.ravel())[1:].argmax()).view(np.uint8)
    outside = np.pad(1 - inside, 1, constant_values=1)
    parts = cc3d.connected_components(outside, connectivity=6)
    solid = np.zeros_like(mask)
    solid[box] = (parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return solid


def strip_skull(volume: Volume) -> NDArray[np.bool_]:
    """Find the brain mask of a whole-head scan with deepbet (the extra ``strip``).

    Returns
    -------
    ndarray of bool, shape (S, A, R)

    Raises
    ------
    MissingExtraError
        If deepbet is not installed.

    References
    ----------
    .. [1] Fisch et al. deepbet: Fast brain extraction of T1-weighted MRI. 2024.
    """
    try:
        import nibabel as nib
        from deepbet.bet import BrainExtraction
    except ImportError as error:
        raise MissingExtraError(
            f"{volume.name} shows the whole head: skull stripping",
            "deepbet",
            "strip",
            "give a brain mask",
        ) from error
    # deepbet reorients to R, A, S, which this order is already
    image = nib.Nifti1Image(np.transpose(volume.data, (2, 1, 0)), volume.affine[:, [2, 1, 0, 3]])
    try:
        _, found, _ = BrainExtraction(no_gpu=True).run(image)
    except AssertionError as error:  # deepbet found no brain
        raise InputError(
            f"{volume.name}: deepbet finds no brain; check that this is a T1-weighted scan of a "
            "head, or give a brain mask."
        ) from error
    mask = np.asarray(found.dataobj) > 0
    return np.transpose(mask, (2, 1, 0))
