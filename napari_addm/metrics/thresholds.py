"""Thresholds: chosen by Dice on labelled cases, or by false alarms in healthy brains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.arrays import Spacing
from napari_addm.metrics.protocols import checked_brain, healthy_case, voxel_volume_ml
from napari_addm.metrics.sorted_scores import just_below

# Largest number of thresholds tried for a mean Dice: two neighbors then differ by a hundredth of
# a percent of the lesions' distinct scores.
MOST_CANDIDATES = 10_000
BOUND_SHARE = 0.9
"""Share of healthy brains for which `healthy_bound` holds."""


@dataclass(frozen=True, eq=False)
class HealthyMap:
    """An anomaly map of a healthy brain, to set thresholds by.

    Attributes
    ----------
    anomaly : ndarray, (S, A, R)
        Scores, larger = more anomalous; finite inside the brain.
    brain_mask : ndarray, (S, A, R)
        Nonzero = brain.
    spacing : tuple of float
        Along S, A, R, mm.
    """

    anomaly: np.ndarray
    brain_mask: np.ndarray
    spacing: Spacing


@dataclass(frozen=True)
class DiceThreshold:
    """A threshold chosen on labelled validation cases.

    Attributes
    ----------
    threshold : float
        Voxels with a score strictly above are predicted.
    mean_dice : float
        Mean Dice of the cases there. It is the best of many thresholds, so it
        flatters: on other cases expect less.
    dice : tuple of float
        Dice of each case with a truth, in their order.
    excluded : int
        Number of cases with an empty truth.
    """

    threshold: float
    mean_dice: float
    dice: tuple[float, ...]
    excluded: int


@dataclass(frozen=True)
class FalseAlarmCurve:
    """The findings in healthy brains, threshold by threshold.

    Attributes
    ----------
    thresholds : tuple of float
        Rising.
    mean_ml : tuple of float
        Mean volume of a subject's findings at each threshold, never rising, mL.
    bound_ml : tuple of float
        What at most one in ten of such brains exceeds, mL; see `healthy_bound`. It never rises.
    found_ml : tuple of tuple of float
        At each threshold, the volume of each subject's findings, mL.
    minimum_ml : float
        Smallest finding that counts, mL.
    subjects : int
        Healthy brains that it was measured on.
    """

    thresholds: tuple[float, ...]
    mean_ml: tuple[float, ...]
    bound_ml: tuple[float, ...]
    found_ml: tuple[tuple[float, ...], ...]
    minimum_ml: float
    subjects: int


def threshold_by_dice(cases: Iterable[tuple[np.ndarray, np.ndarray]]) -> DiceThreshold:
    """Return the threshold with the best mean Dice over labelled validation cases.

    Parameters
    ----------
    cases : iterable of (scores, truth)
        The finite scores of a case's brain voxels and, in the same order, whether
        each is truth; both of shape (n,).

    Raises
    ------
    ValueError
        When no case has any truth, the shapes differ or a score is not finite.

    Notes
    -----
    Without a minimum size. Lowering the threshold raises a case's Dice only where it includes a
    voxel of truth, so the best mean lies just below the score of one of these. All of them are
    tried, or 10,000 evenly spaced ones; each case is sorted once.
    """
    positives, negatives, excluded = [], [], 0
    for scores, truth in cases:
        scores, lesion = _floating(scores), np.asarray(truth) != 0
        if scores.ndim != 1 or scores.shape != lesion.shape:
            raise ValueError(f"scores of shape {scores.shape} and truth of {lesion.shape}")
        if not np.isfinite(scores).all():
            raise ValueError("a score is not finite")
        if lesion.any():
            positives.append(np.sort(scores[lesion]))
            negatives.append(np.sort(scores[~lesion]))
        else:
            excluded += 1
    if not positives:
        raise ValueError("no case has any truth, so no threshold has a Dice")

    candidates = np.unique(np.concatenate(positives))
    if candidates.size > MOST_CANDIDATES:
        candidates = candidates[np.linspace(0, candidates.size - 1, MOST_CANDIDATES).astype(int)]
    dice = np.empty((len(positives), candidates.size))
    for row, positive, negative in zip(dice, positives, negatives, strict=True):
        hits = positive.size - np.searchsorted(positive, candidates)
        false = negative.size - np.searchsorted(negative, candidates)
        row[:] = 2 * hits / (positive.size + hits + false)
    mean = dice.mean(axis=0)
    best = mean.size - 1 - int(np.argmax(mean[::-1]))  # of equals, the highest threshold
    return DiceThreshold(
        threshold=just_below(candidates[best]),
        mean_dice=float(mean[best]),
        dice=tuple(float(value) for value in dice[:, best]),
        excluded=excluded,
    )


def healthy_bound(
    found_ml: Sequence[float] | np.ndarray, scanners: Sequence[str] | None = None
) -> float:
    """Return the volume that another healthy brain exceeds with a chance of one in ten at most.

    Parameters
    ----------
    found_ml : sequence of float
        Volume of the findings in n healthy brains, mL.
    scanners : sequence of str, optional
        The scanner of each brain. The bound then holds for each scanner alone: it is the largest
        of theirs.

    Returns
    -------
    float
        The k-th smallest, k = 0.9 (n + 1) rounded up. Fewer than nine brains give the largest one,
        which a further brain exceeds with a chance of one in n + 1.

    References
    ----------
    Vovk, Gammerman and Shafer. Algorithmic Learning in a Random World. Springer, 2005.
    """
    found = np.asarray(found_ml, float)
    if scanners is not None:
        of = np.asarray(scanners)
        return max(healthy_bound(found[of == scanner]) for scanner in set(scanners))
    place = math.ceil(BOUND_SHARE * (found.size + 1) - 1e-9)
    return float(np.sort(found)[min(place, found.size) - 1])


def threshold_by_false_alarms(
    healthy: Sequence[HealthyMap],
    most_ml: float,
    *,
    minimum_ml: float,
    statistic: Callable[[np.ndarray], float] = np.mean,
) -> float:
    """Return the lowest threshold that marks at most a given volume in healthy brains.

    Parameters
    ----------
    healthy : sequence of HealthyMap
        At least one.
    most_ml : float
        Largest allowed value of the statistic, mL.
    minimum_ml : float
        Smallest finding that counts, mL.
    statistic : callable
        Of the brains' volumes; it rises with each of them. Such as the mean or `healthy_bound`.

    Returns
    -------
    float
        "Above" is strict.

    Raises
    ------
    InputError
        When the shapes differ, a brain mask is empty or a score in it is NaN or infinite.

    Notes
    -----
    With a lower threshold every finding grows or merges and none shrinks. So the volume found never
    falls, with or without a minimum size, and bisection over the scores finds the exact place.
    """
    if most_ml < 0:
        raise ValueError(f"a volume is not negative: {most_ml}")
    pooled = _pooled(healthy)
    return _threshold(pooled, _most_above(pooled, healthy, most_ml, minimum_ml, statistic))


def false_alarm_curve(
    healthy: Sequence[HealthyMap],
    *,
    minimum_ml: float,
    points: int = 40,
    range_ml: tuple[float, float] = (0.1, 100.0),
    scanners: Sequence[str] | None = None,
    include: Sequence[float] = (),
) -> FalseAlarmCurve:
    """Measure the false alarms in healthy brains over the thresholds worth choosing.

    Parameters
    ----------
    healthy : sequence of HealthyMap
        At least one, of subjects that neither trained nor tuned the model.
    minimum_ml : float
        Smallest finding that counts, mL.
    points : int
        Thresholds, at least two; fewer come back where the scores have fewer distinct values.
    range_ml : tuple of float
        The lowest threshold finds at most the second volume per brain on average (and the next
        lower score would find more), the highest at most the first, mL.
    scanners : sequence of str, optional
        As for `healthy_bound`.
    include : sequence of float
        Further thresholds.

    Raises
    ------
    InputError
        When the shapes differ, a brain mask is empty or a score in it is NaN or infinite.

    Notes
    -----
    Between the two ends the thresholds are evenly spaced in the logarithm of the number of voxels
    above them. At each, the findings are labelled as a person would see them.
    """
    smallest, largest = range_ml
    if not 0 <= smallest < largest:
        raise ValueError(f"range_ml must rise from 0 or more, not {range_ml}")
    if points < 2:
        raise ValueError(f"a curve needs two points, not {points}")
    pooled = _pooled(healthy)
    most = _most_above(pooled, healthy, largest, minimum_ml)
    fewest = _most_above(pooled, healthy, smallest, minimum_ml)
    above = np.rint(np.geomspace(fewest + 1, most + 1, points)).astype(int) - 1
    thresholds = np.unique([*(_threshold(pooled, number) for number in above), *include])
    volumes = np.array([_found_ml(healthy, t, minimum_ml) for t in thresholds])
    return FalseAlarmCurve(
        thresholds=tuple(float(t) for t in thresholds),
        mean_ml=tuple(float(ml) for ml in volumes.mean(axis=1)),
        bound_ml=tuple(healthy_bound(row, scanners) for row in volumes),
        found_ml=tuple(map(tuple, volumes.tolist())),
        minimum_ml=float(minimum_ml),
        subjects=len(healthy),
    )


def _pooled(healthy: Sequence[HealthyMap]) -> np.ndarray:
    """Return all scores inside the brains, sorted."""
    if not healthy:
        raise ValueError("no healthy brains to set a threshold by")
    inside = [np.asarray(m.anomaly)[checked_brain(m.anomaly, m.brain_mask)] for m in healthy]
    pooled = np.sort(_floating(np.concatenate(inside)))
    # NaN sorts to the end.
    if not np.isfinite(pooled[[0, -1]]).all():
        raise InputError("The anomaly map has NaN or infinite voxels, so it cannot be ranked.")
    return pooled


def _most_above(
    pooled: np.ndarray,
    healthy: Sequence[HealthyMap],
    most_ml: float,
    minimum_ml: float,
    statistic: Callable[[np.ndarray], float] = np.mean,
) -> int:
    """Return how many pooled scores may exceed the threshold for at most `most_ml` found."""
    # A hair above, so that a hundred voxels of 0.001 mL are 0.1 mL whatever the rounding.
    allowed = most_ml * (1 + 1e-9)
    # This many voxels are within the limit even if all of them belong to one brain's findings.
    low = int(allowed / max(voxel_volume_ml(m.spacing) for m in healthy))
    low, high = min(low, pooled.size), pooled.size
    while low < high:
        # The answer is mostly near the low end, where labelling is quick as well.
        middle = max(low + 1, math.isqrt(low * high))
        found = np.array(_found_ml(healthy, _threshold(pooled, middle), minimum_ml))
        if statistic(found) <= allowed:
            low = middle
        else:
            high = middle - 1
    return low


def _threshold(pooled: np.ndarray, above: int) -> float:
    """Return the threshold that at most ``above`` of the sorted scores exceed."""
    return float(pooled[-above - 1]) if above < pooled.size else just_below(pooled[0])


def _found_ml(healthy: Sequence[HealthyMap], threshold: float, minimum_ml: float) -> list[float]:
    """Return the volume of the findings in each brain, mL."""
    return [
        healthy_case(
            m.anomaly, m.brain_mask, threshold, spacing=m.spacing, minimum_ml=minimum_ml
        ).false_positive_ml
        for m in healthy
    ]


def _floating(scores: np.ndarray) -> np.ndarray:
    """Return scores as floats, in their own type if it is one, so that thresholds are exact."""
    scores = np.asarray(scores)
    return scores if np.issubdtype(scores.dtype, np.floating) else scores.astype(np.float64)
