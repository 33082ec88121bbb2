"""Baselines for learned anomaly maps: the scan's own intensities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.erosion import erode
from napari_addm.detection.smoothing import NormalizedConvolution
from napari_addm.detection.symmetry import find_mirror_plane, subtract_mirror_score
from napari_addm.io.volume import Volume


def intensity_baselines(
    volume: Volume, brain_mask: NDArray[np.bool_], *, smoothing_mm: float, erosion_mm: float
) -> dict[str, NDArray[np.float32]]:
    """Compute anomaly maps without a model, from the T1 intensity alone.

    Parameters
    ----------
    brain_mask : ndarray of bool, shape (S, A, R)
    smoothing_mm, erosion_mm : float
        The learned map's values, for a fair comparison; each map is also returned
        without smoothing, and with left compared with right.

    Returns
    -------
    dict of str to ndarray of float32, shape (S, A, R)
        ``"dark"``: minus the intensity. ``"unusual"``: the distance from the brain's median.
        ``"even"``: minus the standard deviation within a Gaussian window of 4 mm, because a lesion
        often has less structure than the tissue that it displaces. Each again, smoothed, as
        ``"dark, smoothed"``, and with left compared with right, as ``"dark, smoothed, symmetry"``.
        0 outside the eroded mask, never negative inside.
    """
    inner = erode(brain_mask, erosion_mm, volume.spacing)
    low, median, high = np.percentile(volume.data[brain_mask], (0.5, 50, 99.5))
    scale = max(float(high - low), 1e-6)
    window = NormalizedConvolution(brain_mask, 4.0, volume.spacing)
    relative = np.asarray((volume.data - median) / scale, np.float32)
    variance = window(relative**2) - window(relative) ** 2
    smooth = NormalizedConvolution(inner, smoothing_mm, volume.spacing)
    # values like those of a model, whose brain stands out from air
    values = np.clip((volume.data - low) / scale, 0.0, 1.0).astype(np.float32)
    plane = find_mirror_plane(values, brain_mask, volume.spacing)
    maps = {}
    for name, map_ in (
        ("dark", -relative),
        ("unusual", np.abs(relative)),
        ("even", -np.sqrt(np.maximum(variance, 0))),
    ):
        plain = np.where(inner, map_ - map_[inner].min(), 0).astype(np.float32)
        maps[name] = plain
        smoothed = smooth(plain)
        maps[f"{name}, smoothed"] = smoothed
        maps[f"{name}, smoothed, symmetry"] = subtract_mirror_score(smoothed, inner, plane)
    return maps
