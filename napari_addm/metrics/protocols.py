"""What is measured on one case, in each of the two protocols, and how a threshold is chosen.

``strict`` judges whole volumes at a threshold that was fixed without the case's truth;
``anoddpm`` is the published protocol of AnoDDPM, four slices through a known tumour. Results
are frozen and hold numbers, None and tuples only, so ``dataclasses.asdict`` makes JSON of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from napari_addm.errors import InputError
from napari_addm.findings.labelling import label_anomalies
from napari_addm.io.arrays import Spacing
from napari_addm.metrics.aupro import aupro
from napari_addm.metrics.evaluation import evaluate
from napari_addm.metrics.lesionwise import LesionRecall, lesion_recall
from napari_addm.metrics.sorted_scores import SortedScores, just_below

# AnoDDPM's own: the squared error on images scaled to -1..1 above which a pixel is anomalous,
# slices per volume, and slices kept clear of either end of the tumour.
ANODDPM_THRESHOLD = 0.5
ANODDPM_SLICES = 4
ANODDPM_MARGIN = 5

# A mean Dice is tried at so many scores at most: with more, two neighbours differ by a hundredth
# of a percent of the lesions' distinct scores.
MOST_CANDIDATES = 10_000


@dataclass(frozen=True)
class StrictCase:
    """One labelled case in the strict protocol; None means "not defined here".

    The first group is over the whole volume, so what the brain mask leaves out of
    the truth counts as missed.

    Attributes
    ----------
    threshold, minimum_ml : float
        What the prediction was made with: scores strictly above, in components
        of at least so many mL.
    dice, iou, precision, recall : float or None
        As in `napari_addm.metrics.evaluation.Metrics`.
    oracle_best_dice, oracle_threshold : float or None
        ORACLE: the largest Dice of any threshold, found by looking at this
        case's truth: an upper bound, no result. Without a minimum size, so that
        `dice`, which has one, may even exceed it.
    auroc_field : float or None
        AUROC over the whole field; air counts as scored no higher than anything
        in the brain, which makes it easy to be right.
    lesions : LesionRecall
        Which lesions were found, by size, and false components.
    truth_ml, predicted_ml, false_positive_ml : float
        Volumes, mL.

    auroc, auprc, prevalence, aupro : float or None
        Inside the brain: AUROC, average precision with the truth's share of the
        brain (what chance reaches), and AUPRO up to a false-positive rate of 0.3.
    notes : tuple of str
        What a reader of the numbers must know, one sentence each.
    """

    threshold: float
    minimum_ml: float
    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    oracle_best_dice: float | None
    oracle_threshold: float | None
    auroc_field: float | None
    lesions: LesionRecall
    truth_ml: float
    predicted_ml: float
    false_positive_ml: float
    auroc: float | None
    auprc: float | None
    prevalence: float
    aupro: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HealthyCase:
    """What is found in a healthy brain, all of it false.

    Attributes
    ----------
    threshold, minimum_ml : float
        What the findings were made with.
    false_positive_ml : float
        Volume of all findings, mL.
    findings : int
        Their number.
    brain_ml : float
        Volume of the brain mask, mL.
    """

    threshold: float
    minimum_ml: float
    false_positive_ml: float
    findings: int
    brain_ml: float


@dataclass(frozen=True)
class SliceScores:
    """One slice in the anoddpm protocol; None means "not defined here".

    Attributes
    ----------
    slice : int
        Index along S.
    dice, iou, recall, auc : float or None
        None when the slice has no truth.
    precision : float or None
        None when the slice has no truth or nothing is predicted.
    """

    slice: int
    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    auc: float | None


@dataclass(frozen=True)
class AnoddpmCase:
    """One case in the anoddpm protocol: the slices, and their means.

    Attributes
    ----------
    slices : tuple of SliceScores
    dice, iou, precision, recall, auc : float or None
        Means over the slices in which they are defined; None where there is none.
    undefined_precision : int
        Slices that the mean precision leaves out.
    """

    slices: tuple[SliceScores, ...]
    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    auc: float | None
    undefined_precision: int


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
        Of each case with a truth, in their order.
    excluded : int
        Cases whose truth is empty.
    """

    threshold: float
    mean_dice: float
    dice: tuple[float, ...]
    excluded: int


@dataclass(frozen=True)
class FalseAlarmCurve:
    """What is found in healthy brains, threshold by threshold.

    Attributes
    ----------
    thresholds : tuple of float
        Rising.
    mean_ml, max_ml : tuple of float
        Volume of the findings at each threshold, never rising: the mean over the
        subjects and the largest of them, mL.
    minimum_ml : float
        Smallest finding that counts, mL.
    subjects : int
        Healthy brains that it was measured on.
    """

    thresholds: tuple[float, ...]
    mean_ml: tuple[float, ...]
    max_ml: tuple[float, ...]
    minimum_ml: float
    subjects: int


def strict_case(
    anomaly: np.ndarray,
    truth: np.ndarray,
    brain_mask: np.ndarray,
    threshold: float,
    *,
    spacing: Spacing,
    minimum_ml: float,
) -> StrictCase:
    """Judge one labelled case by the strict protocol.

    Parameters
    ----------
    anomaly : ndarray, (S, A, R)
        Scores on the scan's own grid, larger = more anomalous; finite inside the
        brain. What they are outside of it does not matter.
    truth : ndarray, (S, A, R)
        Ground truth, nonzero = anomalous.
    brain_mask : ndarray, (S, A, R)
        Nonzero = brain; findings lie in it.
    threshold : float
        Fixed without this case's truth.
    spacing : tuple of float
        Along S, A, R, mm.
    minimum_ml : float
        Smallest finding that counts, mL.

    Returns
    -------
    StrictCase

    Raises
    ------
    InputError
        When the shapes differ, the brain mask is empty or a score in it is NaN
        or infinite.
    """
    voxel_ml = _voxel_ml(spacing)
    brain = _brain(anomaly, brain_mask)
    lesion = np.asarray(truth) != 0
    # What is wrong with the arrays is said here, once for all that follows.
    inside = evaluate(anomaly, lesion, threshold=threshold, mask=brain, voxel_ml=voxel_ml)
    labels = label_anomalies(anomaly, threshold, spacing=spacing, minimum_ml=minimum_ml, mask=brain)
    whole = evaluate(labels != 0, lesion, threshold=0.5, voxel_ml=voxel_ml)
    ranking = None
    if lesion.any():
        lowest = min(0.0, float(anomaly[brain].min()))
        ranking = SortedScores.of(np.where(brain, anomaly, lowest).ravel(), lesion.ravel())
    notes = list(whole.notes)
    outside = np.count_nonzero(lesion & ~brain)
    if outside:
        notes.append(
            f"{outside * voxel_ml:.2f} mL of the ground truth lies outside the brain mask: it "
            "counts as missed, and not in what is measured inside the brain."
        )
    return StrictCase(
        threshold=float(threshold),
        minimum_ml=float(minimum_ml),
        dice=whole["dice"],
        iou=whole["iou"],
        precision=whole["precision"],
        recall=whole["recall"],
        oracle_best_dice=ranking.best_dice if ranking else None,
        oracle_threshold=ranking.best_threshold if ranking else None,
        auroc_field=ranking.auroc if ranking else None,
        lesions=lesion_recall(labels, lesion, voxel_ml),
        truth_ml=whole["truth_ml"] or 0.0,
        predicted_ml=whole["predicted_ml"] or 0.0,
        false_positive_ml=np.count_nonzero((labels != 0) & ~lesion) * voxel_ml,
        auroc=inside["auroc"],
        auprc=inside["auprc"],
        prevalence=inside["prevalence"] or 0.0,
        aupro=aupro(anomaly, lesion, brain),
        notes=tuple(notes),
    )


def healthy_case(
    anomaly: np.ndarray,
    brain_mask: np.ndarray,
    threshold: float,
    *,
    spacing: Spacing,
    minimum_ml: float,
) -> HealthyCase:
    """Count what is found in a healthy brain.

    Parameters
    ----------
    anomaly : ndarray, (S, A, R)
        Scores on the scan's own grid, larger = more anomalous.
    brain_mask : ndarray, (S, A, R)
        Nonzero = brain.
    threshold : float
    spacing : tuple of float
        Along S, A, R, mm.
    minimum_ml : float
        Smallest finding that counts, mL.

    Returns
    -------
    HealthyCase

    Raises
    ------
    InputError
        When the shapes differ or the brain mask is empty.
    """
    voxel_ml = _voxel_ml(spacing)
    brain = _brain(anomaly, brain_mask)
    labels = label_anomalies(anomaly, threshold, spacing=spacing, minimum_ml=minimum_ml, mask=brain)
    return HealthyCase(
        threshold=float(threshold),
        minimum_ml=float(minimum_ml),
        false_positive_ml=np.count_nonzero(labels) * voxel_ml,
        findings=int(labels.max()),
        brain_ml=np.count_nonzero(brain) * voxel_ml,
    )


def anoddpm_slices(truth: np.ndarray) -> tuple[int, ...]:
    """The four slices through a tumour that AnoDDPM's protocol takes.

    Parameters
    ----------
    truth : ndarray, (S, A, R)
        Nonzero = tumour.

    Returns
    -------
    tuple of int
        Rising indices along S, all with tumour; fewer than four only when fewer
        slices have any.

    Raises
    ------
    InputError
        When the truth is empty.

    Notes
    -----
    AnoDDPM (Wyatt et al., CVPR Workshops 2022; its public code) writes down for
    each volume the range [start, stop) of the slices with tumour and takes four
    evenly spaced from start + 5 to stop - 5, rounded down. Here the range is
    counted in the slices that the truth marks; where they have a gap it is
    skipped. The margin of five shrinks where a tumour has fewer than 14 slices.
    """
    marked = np.flatnonzero((np.asarray(truth) != 0).any(axis=(1, 2)))
    if marked.size == 0:
        raise InputError("The ground truth is empty, so there is no tumour to take slices from.")
    if marked.size <= ANODDPM_SLICES:
        return tuple(int(index) for index in marked)
    margin = min(ANODDPM_MARGIN, (marked.size - ANODDPM_SLICES) // 2)
    last = min(marked.size - margin, marked.size - 1)
    chosen = np.linspace(margin, last, ANODDPM_SLICES).astype(int)
    return tuple(int(index) for index in marked[chosen])


def anoddpm_case(
    squared_error: np.ndarray, truth: np.ndarray, slices: Sequence[int]
) -> AnoddpmCase:
    """Judge one case by AnoDDPM's protocol.

    Parameters
    ----------
    squared_error : ndarray, (S, A, R)
        Squared difference of scan and reconstruction, both scaled to -1..1;
        finite in the slices.
    truth : ndarray, (S, A, R)
        Nonzero = tumour.
    slices : sequence of int
        Indices along S, such as those of `anoddpm_slices`.

    Returns
    -------
    AnoddpmCase

    Raises
    ------
    InputError
        When the shapes differ or a squared error is NaN or infinite.

    Notes
    -----
    A pixel is predicted where its squared error exceeds 0.5, all pixels of a slice
    count, air included, and each measure is taken slice by slice and then averaged.
    Every case has as many slices, so the mean of the cases' means is the published
    mean over all slices.

    Two things differ from the public code on purpose. Its functions for precision
    and recall each compute the other; here precision is the share of the prediction
    that is tumour, so its published columns compare with ours exchanged. And where
    nothing is predicted, it counts a precision of 0; here it is undefined, left out
    of the mean, and counted.
    """
    if np.shape(truth) != np.shape(squared_error):
        raise InputError(
            f"The ground truth has shape {np.shape(truth)} and the squared error "
            f"{np.shape(squared_error)}: resample it to the scan's grid first."
        )
    if not len(slices):
        raise ValueError("no slices to judge")
    found = []
    for index in slices:
        got = evaluate(squared_error[index], truth[index], threshold=ANODDPM_THRESHOLD)
        found.append(
            SliceScores(
                slice=int(index),
                dice=got["dice"],
                iou=got["iou"],
                precision=got["precision"],
                recall=got["recall"],
                auc=got["auroc"],
            )
        )
    return AnoddpmCase(
        slices=tuple(found),
        dice=_mean_defined([s.dice for s in found]),
        iou=_mean_defined([s.iou for s in found]),
        precision=_mean_defined([s.precision for s in found]),
        recall=_mean_defined([s.recall for s in found]),
        auc=_mean_defined([s.auc for s in found]),
        undefined_precision=sum(s.precision is None for s in found),
    )


def threshold_by_dice(cases: Iterable[tuple[np.ndarray, np.ndarray]]) -> DiceThreshold:
    """The threshold with the best mean Dice over labelled validation cases.

    Parameters
    ----------
    cases : iterable of (scores, truth)
        The finite scores of a case's brain voxels and, in the same order, whether
        each is truth; both of shape (n,).

    Returns
    -------
    DiceThreshold

    Raises
    ------
    ValueError
        When no case has any truth, the shapes differ or a score is not finite.

    Notes
    -----
    Without a minimum size. Lowering the threshold raises a case's Dice only where
    it lets in a voxel of truth, so the best mean lies just below the score of one
    of those. All of them are tried, or 10,000 evenly spaced among them; each case
    is sorted once.
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


def threshold_by_false_alarms(
    healthy: Sequence[HealthyMap], mean_ml: float, *, minimum_ml: float
) -> float:
    """The lowest threshold that finds at most so much in healthy brains.

    Parameters
    ----------
    healthy : sequence of HealthyMap
        At least one.
    mean_ml : float
        Largest mean volume of the findings per brain, mL.
    minimum_ml : float
        Smallest finding that counts, mL.

    Returns
    -------
    float
        "Above" is strict.

    Raises
    ------
    InputError
        When the shapes differ, a brain mask is empty or a score in it is NaN or
        infinite.

    Notes
    -----
    A lower threshold lets every finding grow or merge and none shrink, so the
    volume found never falls, minimum size or not, and bisection over the scores
    finds the exact place.
    """
    if mean_ml < 0:
        raise ValueError(f"a volume is not negative: {mean_ml}")
    pooled = _pooled(healthy)
    return _threshold(pooled, _most_above(pooled, healthy, mean_ml, minimum_ml))


def false_alarm_curve(
    healthy: Sequence[HealthyMap],
    *,
    minimum_ml: float,
    points: int = 40,
    range_ml: tuple[float, float] = (0.1, 100.0),
) -> FalseAlarmCurve:
    """How much is found in healthy brains, over the thresholds worth choosing.

    Parameters
    ----------
    healthy : sequence of HealthyMap
        At least one, of subjects that neither trained nor tuned the model.
    minimum_ml : float
        Smallest finding that counts, mL.
    points : int
        Thresholds, at least two; fewer come back where the scores have fewer
        distinct values.
    range_ml : tuple of float
        The lowest threshold finds at most the second volume per brain on average
        (and the next lower score would find more), the highest at most the first,
        mL.

    Returns
    -------
    FalseAlarmCurve

    Raises
    ------
    InputError
        When the shapes differ, a brain mask is empty or a score in it is NaN or
        infinite.

    Notes
    -----
    Between the two ends the thresholds are evenly spaced in the logarithm of the
    number of voxels above them. At each, the findings are labelled as a person
    would see them, and measured.
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
    thresholds = np.unique([_threshold(pooled, number) for number in above])
    volumes = np.array([_found_ml(healthy, t, minimum_ml) for t in thresholds])
    return FalseAlarmCurve(
        thresholds=tuple(float(t) for t in thresholds),
        mean_ml=tuple(float(ml) for ml in volumes.mean(axis=1)),
        max_ml=tuple(float(ml) for ml in volumes.max(axis=1)),
        minimum_ml=float(minimum_ml),
        subjects=len(healthy),
    )


def _pooled(healthy: Sequence[HealthyMap]) -> np.ndarray:
    """All scores inside the brains, sorted."""
    if not healthy:
        raise ValueError("no healthy brains to set a threshold by")
    inside = [np.asarray(m.anomaly)[_brain(m.anomaly, m.brain_mask)] for m in healthy]
    pooled = np.sort(_floating(np.concatenate(inside)))
    # NaN sorts to the end.
    if not np.isfinite(pooled[[0, -1]]).all():
        raise InputError("The anomaly map has NaN or infinite voxels, so it cannot be ranked.")
    return pooled


def _most_above(
    pooled: np.ndarray, healthy: Sequence[HealthyMap], mean_ml: float, minimum_ml: float
) -> int:
    """How many of the pooled scores may lie above the threshold for at most `mean_ml` found."""
    # A hair above, so that a hundred voxels of 0.001 mL are 0.1 mL whatever the rounding.
    allowed = mean_ml * (1 + 1e-9)
    # So many voxels cannot be too much, were all of them in findings.
    low = int(allowed * len(healthy) / max(_voxel_ml(m.spacing) for m in healthy))
    low, high = min(low, pooled.size), pooled.size
    while low < high:
        # The answer is mostly near the low end, where labelling is quick, too.
        middle = max(low + 1, math.isqrt(low * high))
        if np.mean(_found_ml(healthy, _threshold(pooled, middle), minimum_ml)) <= allowed:
            low = middle
        else:
            high = middle - 1
    return low


def _threshold(pooled: np.ndarray, above: int) -> float:
    """The threshold that at most so many of the sorted scores exceed."""
    return float(pooled[-above - 1]) if above < pooled.size else just_below(pooled[0])


def _found_ml(healthy: Sequence[HealthyMap], threshold: float, minimum_ml: float) -> list[float]:
    """Volume of the findings in each of the brains, mL."""
    return [
        healthy_case(
            m.anomaly, m.brain_mask, threshold, spacing=m.spacing, minimum_ml=minimum_ml
        ).false_positive_ml
        for m in healthy
    ]


def _brain(anomaly: np.ndarray, brain_mask: np.ndarray) -> np.ndarray:
    """The brain mask as booleans, checked."""
    brain = np.asarray(brain_mask) != 0
    if brain.shape != np.shape(anomaly):
        raise InputError(
            f"The mask has shape {brain.shape} and the anomaly map {np.shape(anomaly)}: "
            "resample it to the scan's grid first."
        )
    if not brain.any():
        raise InputError("The mask is empty, so nothing can be measured: choose another mask.")
    return brain


def _floating(scores: np.ndarray) -> np.ndarray:
    """Scores of a floating type: their own where they have one, so that thresholds are exact."""
    scores = np.asarray(scores)
    return scores if np.issubdtype(scores.dtype, np.floating) else scores.astype(np.float64)


def _voxel_ml(spacing: Spacing) -> float:
    return spacing[0] * spacing[1] * spacing[2] / 1000.0


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
