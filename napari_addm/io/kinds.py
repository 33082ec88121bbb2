"""Whether a file holds a scan, labels or probabilities, by its voxels and its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_addm.io.names import names_labels, names_scan

# Between neighboring voxels that are not 0, a segmentation into 150 structures has three equal
# pairs of four, and scans with 200 gray levels have one.
LABELS_EQUAL_PAIRS = 0.5
# Of the voxels above one half, a map of a tissue's probability has this part at 1; a scan that was
# scaled to 0..1 has next to none.
PROBABILITIES_AT_ONE = 0.25
SAMPLED_VOXELS = 2**24


def looks_like_labels(values: np.ndarray, path: Path) -> bool:
    """Return whether voxels are labels, such as a mask or a segmentation.

    They are whole numbers that mostly repeat from voxel to voxel. A name that ends in the word of
    a scan, as ``lesion_T1w.nii.gz`` does, means a scan. The name decides also where no two
    neighboring voxels are set, as in an empty mask.

    Parameters
    ----------
    values : ndarray, shape (S, A, R)
        Voxels with the file's scale applied.
    path : Path
        Their file, of which only the name matters.
    """
    if names_scan(path):
        return False
    sample = _whole_slices(values)
    if (
        not np.issubdtype(sample.dtype, np.integer)
        and np.abs(sample - np.rint(sample)).max() > 1e-3
    ):
        return False
    one, other = sample[..., :-1], sample[..., 1:]
    inside = (one != 0) & (other != 0)
    if not inside.any():
        return names_labels(path)
    return bool(np.mean(one[inside] == other[inside]) > LABELS_EQUAL_PAIRS)


def why_no_scan(values: np.ndarray, path: Path) -> str:
    """Return what voxels show instead of a scan, such as ``labels``; empty for a scan.

    Parameters
    ----------
    values, path
        As for `looks_like_labels`.
    """
    if looks_like_labels(values, path):
        return "labels"
    sample = _whole_slices(values)
    high = sample[sample > 0.5]
    is_probability = sample.min() >= 0 and 0.99 < sample.max() < 1.01
    if is_probability and np.mean(high > 0.99) > PROBABILITIES_AT_ONE:
        return "probabilities"
    return ""


def _whole_slices(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, values.size // SAMPLED_VOXELS)]
