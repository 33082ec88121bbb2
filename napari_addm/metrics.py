"""How well an anomaly map agrees with a ground truth, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_addm.errors import InputError


@dataclass(frozen=True)
class Metrics:
    """Agreement of one anomaly map with one ground truth; None means "not defined here".

    A case whose truth is empty has no Dice to be averaged: it is excluded and
    counted, and `notes` says so. An empty prediction is a valid 0 mL.

    Attributes
    ----------
    dice, iou : float or None
        Overlap of prediction and truth, 0 to 1; None when the truth is empty.
    precision : float or None
        Share of the prediction that is truth; None when either is empty.
    recall : float or None
        Share of the truth that is predicted; None when the truth is empty.
    auroc : float or None
        Area under the receiver operating characteristic; None when the truth
        is empty or fills the region.
    auprc : float or None
        Average precision (the step-wise area under precision and recall);
        chance is `prevalence`. None when the truth is empty.
    prevalence : float
        Share of the region's voxels that are truth.
    best_dice, best_threshold : float or None
        ORACLE: the largest Dice that any threshold reaches, and that threshold
        ("above" is strict). It was chosen by looking at the truth, so it is an
        upper bound and no result. None when the truth is empty.
    truth_ml, predicted_ml : float
        Volumes inside the region, mL.
    notes : tuple of str
        What a reader of the numbers must know, one sentence each.
    """

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    auroc: float | None
    auprc: float | None
    prevalence: float
    best_dice: float | None
    best_threshold: float | None
    truth_ml: float
    predicted_ml: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """What follows from the order of the scores alone; see `rank`."""

    auroc: float | None
    auprc: float
    best_dice: float
    best_threshold: float


def evaluate(
    anomaly: np.ndarray,
    truth: np.ndarray,
    *,
    threshold: float,
    mask: np.ndarray | None = None,
    voxel_ml: float = 0.001,
    prediction: np.ndarray | None = None,
) -> Metrics:
    """Compare an anomaly map with a ground truth.

    Parameters
    ----------
    anomaly : ndarray
        Scores, larger = more anomalous; any real dtype, finite inside `mask`.
    truth : ndarray, same shape
        Ground truth, nonzero = anomalous.
    threshold : float
        A voxel is predicted where its score is strictly greater.
    mask : ndarray, same shape, optional
        Region (nonzero) that everything is computed in, such as the brain;
        everywhere when not given.
    voxel_ml : float
        Volume of one voxel, mL.
    prediction : ndarray, same shape, optional
        Nonzero = predicted, in place of ``anomaly > threshold`` (for labels
        after a minimum size). The areas and `best_dice` still come from
        `anomaly`.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        When the shapes differ, the region is empty or a score in it is NaN or
        infinite.
    """
    anomaly = np.asarray(anomaly)
    for name, other in (("ground truth", truth), ("mask", mask), ("prediction", prediction)):
        if other is not None and np.shape(other) != anomaly.shape:
            raise InputError(
                f"The {name} has shape {np.shape(other)} and the anomaly map {anomaly.shape}: "
                "resample it to the scan's grid first."
            )
    notes = []
    lesion = np.asarray(truth) != 0
    predicted = anomaly > threshold if prediction is None else np.asarray(prediction) != 0
    if mask is None:
        scores, lesion, predicted = anomaly.ravel(), lesion.ravel(), predicted.ravel()
    else:
        region = np.asarray(mask) != 0
        outside = int(np.count_nonzero(lesion)) - int(np.count_nonzero(lesion[region]))
        if outside:
            notes.append(
                f"{outside * voxel_ml:.2f} mL of the ground truth lies outside the mask "
                "and was not counted."
            )
        scores, lesion, predicted = anomaly[region], lesion[region], predicted[region]
    if scores.size == 0:
        raise InputError("The mask is empty, so nothing can be measured: choose another mask.")
    if not np.isfinite(scores).all():
        raise InputError("The anomaly map has NaN or infinite voxels, so it cannot be ranked.")

    positives = int(np.count_nonzero(lesion))
    found = int(np.count_nonzero(predicted))
    dice = iou = precision = recall = None
    ranking = None
    if positives:
        hits = int(np.count_nonzero(lesion & predicted))
        dice = 2 * hits / (positives + found)
        iou = hits / (positives + found - hits)
        recall = hits / positives
        if found:
            precision = hits / found
        else:
            notes.append("Nothing is predicted (0 mL), so precision is not defined.")
        ranking = rank(scores, lesion)
        if ranking.auroc is None:
            notes.append("The ground truth fills the region, so AUROC is not defined.")
    else:
        notes.append("The ground truth is empty: Dice and the like are excluded.")
    return Metrics(
        dice=dice,
        iou=iou,
        precision=precision,
        recall=recall,
        auroc=ranking.auroc if ranking else None,
        auprc=ranking.auprc if ranking else None,
        prevalence=positives / scores.size,
        best_dice=ranking.best_dice if ranking else None,
        best_threshold=ranking.best_threshold if ranking else None,
        truth_ml=positives * voxel_ml,
        predicted_ml=found * voxel_ml,
        notes=tuple(notes),
    )


def rank(scores: np.ndarray, lesion: np.ndarray) -> Ranking:
    """AUROC, average precision and the oracle best Dice, exact and with ties as one step.

    Parameters
    ----------
    scores : ndarray, (n,)
        Finite scores.
    lesion : ndarray of bool, (n,)
        True for the positives; at least one.

    Returns
    -------
    Ranking
        `auroc` is None without negatives.

    Notes
    -----
    The AUROC is the Mann-Whitney statistic: the share of pairs in which the
    positive outranks the negative, ties counting one half. The average
    precision is the sum of precision times the rise of recall over the distinct
    scores from high to low, without interpolation. Both equal scikit-learn's
    ``roc_auc_score`` and ``average_precision_score``.
    """
    if scores.dtype == bool:
        scores = scores.astype(np.uint8)
    # Positives and negatives apart: two plain sorts are several times faster than the order
    # of all the scores, and only a positive's score can raise recall or be the best threshold.
    positive = np.sort(scores[lesion])
    negative = np.sort(scores[~lesion])
    steps, first = np.unique(positive, return_index=True)
    hits = positive.size - first  # positives at or above each step
    below = np.searchsorted(negative, steps, side="left")
    false = negative.size - below  # negatives at or above each step

    auroc = None
    if negative.size:
        tied = np.searchsorted(negative, steps, side="right") - below
        repeats = np.diff(first, append=positive.size)
        # Twice the number of won pairs, so that a tie's half stays an integer.
        won = int(np.sum(repeats * (2 * below + tied)))
        auroc = won / (2 * positive.size * negative.size)
    precision = hits / (hits + false)
    gained = np.diff(hits[::-1], prepend=0)[::-1]
    auprc = float(np.sum(precision * gained) / positive.size)

    dice = 2 * hits / (positive.size + hits + false)
    best = dice.size - 1 - int(np.argmax(dice[::-1]))  # of equals, the highest threshold
    # "Above" is strict, so the threshold lies just below the score it lets in.
    step = steps[best]
    if np.issubdtype(scores.dtype, np.floating):
        threshold = float(np.nextafter(step, scores.dtype.type(-np.inf)))
    else:
        threshold = float(step) - 0.5
    return Ranking(auroc, auprc, float(dice[best]), threshold)
