"""Area under the per-region overlap curve (AUPRO)."""

from __future__ import annotations

import numpy as np

from napari_addm.metrics.checks import check_scores, check_shapes
from napari_addm.metrics.lesionwise import connected_components


def aupro(
    anomaly: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None, limit: float = 0.3
) -> float | None:
    """Compute the area under the per-region overlap curve up to a false-positive rate.

    Parameters
    ----------
    anomaly : ndarray
        Scores, larger = more anomalous; any real dtype, finite inside `mask`.
    truth : ndarray, same shape
        Ground truth, nonzero = anomalous.
    mask : ndarray, same shape, optional
        Region (nonzero) of overlaps and false-positive rate; everywhere when missing.
    limit : float
        Largest false-positive rate, above 0 and at most 1.

    Returns
    -------
    float or None
        0 to 1. Scores without information reach ``limit / 2``. None when the
        region holds no truth, or nothing but truth.

    Raises
    ------
    InputError
        When the shapes differ, the region is empty or a score in it is NaN or infinite.

    Notes
    -----
    After Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), section 5. The
    overlap at a threshold is the mean, over the connected components of the truth, of the share of
    the component that is predicted, so a small lesion weighs as much as a large one. It is
    integrated against the false-positive rate (predicted share of all voxels that are not truth)
    from 0 to `limit` and divided by `limit`.

    Components are 26-connected (8-connected in a plane) and taken from the whole
    truth: one that the mask cuts in two is still one, its overlap is that of its
    part inside, and one that lies outside is not counted.

    Equal scores enter together. The curve is a straight line across such a tie, which is what any
    order of the tied voxels gives on average; so at ``limit=1`` the result is the mean of the
    components' AUROC, each against all voxels that are not truth.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit is a false-positive rate above 0 and at most 1, not {limit}")
    anomaly = np.asarray(anomaly)
    check_shapes(anomaly, truth=truth, mask=mask)
    component, _ = connected_components(truth)
    region = np.ones(anomaly.shape, bool) if mask is None else np.asarray(mask) != 0
    scores, component = anomaly[region], component[region]
    check_scores(scores)
    if scores.dtype == bool:
        scores = scores.astype(np.uint8)
    lesion = component != 0
    if not lesion.any() or lesion.all():
        return None
    rate, overlap = _overlap_curve(scores[lesion], component[lesion], scores[~lesion])
    return _area_up_to(limit, rate, overlap) / limit


def _overlap_curve(
    positive: np.ndarray, component: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return false-positive rate and mean overlap of the components, as corners of the curve.

    The curve is level up to a score of the truth, then straight across the tied negatives.
    """
    negative = np.sort(negative)
    sizes = np.bincount(component)
    # What one voxel of a component adds to the mean overlap.
    gain = 1.0 / (np.count_nonzero(sizes) * sizes[component])
    steps, step = np.unique(positive, return_inverse=True)
    steps, gained = steps[::-1], np.bincount(step, weights=gain)[::-1]
    before = (negative.size - np.searchsorted(negative, steps, side="right")) / negative.size
    after = (negative.size - np.searchsorted(negative, steps, side="left")) / negative.size
    overlap = np.minimum(np.cumsum(gained), 1.0)
    rate = np.concatenate(([0.0], np.stack((before, after), axis=1).ravel(), [1.0]))
    return rate, np.concatenate(([0.0, 0.0], np.repeat(overlap, 2)))


def _area_up_to(limit: float, rate: np.ndarray, height: np.ndarray) -> float:
    """Integrate a curve of straight pieces from 0 to ``limit``."""
    left, width, foot = rate[:-1], np.diff(rate), height[:-1]
    inside = np.clip(limit - left, 0.0, width)
    slope = np.divide(np.diff(height), width, out=np.zeros_like(width), where=width > 0)
    return float(np.sum(inside * (foot + slope * inside / 2)))
