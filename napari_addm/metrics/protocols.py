"""The metrics of one case in each of the two protocols.

``strict`` judges whole volumes at a threshold that was fixed without the case's truth;
``anoddpm`` is the published protocol of AnoDDPM: four slices through a known tumor. Results hold
numbers, None and tuples only, so that ``dataclasses.asdict`` is ready for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_addm.errors import InputError
from napari_addm.findings.labelling import label_anomalies
from napari_addm.io.arrays import Spacing
from napari_addm.metrics.aupro import aupro
from napari_addm.metrics.evaluation import evaluate
from napari_addm.metrics.lesionwise import LesionRecall, lesion_recall
from napari_addm.metrics.sorted_scores import SortedScores

# AnoDDPM's values: the squared error, of images scaled to -1..1, above which a pixel is anomalous;
# the slices per volume; and the slices left out at either end of the tumor.
ANODDPM_THRESHOLD = 0.5
ANODDPM_SLICES = 4
ANODDPM_MARGIN = 5

# The metrics that a strict case has in fields of its own.
BUILT_IN = frozenset(
    (
        "dice",
        "iou",
        "precision",
        "recall",
        "auroc",
        "auprc",
        "prevalence",
        "best_dice",
        "best_threshold",
        "truth_ml",
        "predicted_ml",
    )
)


@dataclass(frozen=True)
class StrictCase:
    """One labelled case in the strict protocol; None means "not defined here".

    The first group is over the whole volume, so truth outside the brain mask counts as
    missed.

    Attributes
    ----------
    threshold, minimum_ml : float
        Settings of the prediction: scores strictly above the threshold, in components
        of at least that volume, mL.
    dice, iou, precision, recall : float or None
        Overlap, as in `napari_addm.metrics.evaluation.Metrics`.
    oracle_best_dice, oracle_threshold : float or None
        ORACLE: the largest Dice of any threshold, found by looking at this
        case's truth: an upper bound, not a result. It has no minimum size, so that
        `dice`, which has one, may exceed it.
    auroc_field : float or None
        AUROC over the whole field. Air scores no higher than anything in the brain,
        which makes it easy.
    lesions : LesionRecall
        Lesions found, by size, and false components.
    truth_ml, predicted_ml, false_positive_ml : float
        Volumes, mL.

    auroc, auprc, prevalence, aupro : float or None
        Inside the brain: AUROC, average precision with the truth's share of the
        brain (the AUPRC of chance), and AUPRO up to a false-positive rate of 0.3.
    further : dict of str to float or None
        Further installed metrics, inside the brain.
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
    further: Mapping[str, float | None]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HealthyCase:
    """The findings in a healthy brain, all of them false.

    Attributes
    ----------
    threshold, minimum_ml : float
        Settings of the findings.
    false_positive_ml : float
        Volume of all findings, mL.
    findings : int
        Number of findings.
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
        brain. Scores outside do not matter.
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
    voxel_ml = voxel_volume_ml(spacing)
    brain = checked_brain(anomaly, brain_mask)
    lesion = np.asarray(truth) != 0
    labels = label_anomalies(anomaly, threshold, spacing=spacing, minimum_ml=minimum_ml, mask=brain)
    inside = evaluate(
        anomaly, lesion, threshold=threshold, mask=brain, voxel_ml=voxel_ml, prediction=labels
    )
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
        further={name: value for name, value in inside.items() if name not in BUILT_IN},
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
    """Count the findings in a healthy brain.

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
    voxel_ml = voxel_volume_ml(spacing)
    brain = checked_brain(anomaly, brain_mask)
    labels = label_anomalies(anomaly, threshold, spacing=spacing, minimum_ml=minimum_ml, mask=brain)
    return HealthyCase(
        threshold=float(threshold),
        minimum_ml=float(minimum_ml),
        false_positive_ml=np.count_nonzero(labels) * voxel_ml,
        findings=int(labels.max()),
        brain_ml=np.count_nonzero(brain) * voxel_ml,
    )


def anoddpm_slices(truth: np.ndarray) -> tuple[int, ...]:
    """Return the four slices through a tumor that AnoDDPM's protocol uses.

    Parameters
    ----------
    truth : ndarray, (S, A, R)
        Nonzero = tumor.

    Returns
    -------
    tuple of int
        Rising indices along S, all with tumor; fewer than four only when fewer
        slices have any.

    Raises
    ------
    InputError
        When the truth is empty.

    Notes
    -----
    AnoDDPM (Wyatt et al., CVPR Workshops 2022; its public code) writes down for
    each volume the range [start, stop) of the slices with tumor and takes four
    evenly spaced from start + 5 to stop - 5, rounded down. Here the range is
    counted in the slices that the truth marks; where they have a gap it is
    skipped. The margin of five shrinks where a tumor has fewer than 14 slices.
    """
    marked = np.flatnonzero((np.asarray(truth) != 0).any(axis=(1, 2)))
    if marked.size == 0:
        raise InputError("The ground truth is empty, so there is no tumor to take slices from.")
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
        Nonzero = tumor.
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
    that is tumor, so its published columns compare with ours exchanged. And where
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


def checked_brain(anomaly: np.ndarray, brain_mask: np.ndarray) -> np.ndarray:
    """Return a brain mask as booleans, checked."""
    brain = np.asarray(brain_mask) != 0
    if brain.shape != np.shape(anomaly):
        raise InputError(
            f"The mask has shape {brain.shape} and the anomaly map {np.shape(anomaly)}: "
            "resample it to the scan's grid first."
        )
    if not brain.any():
        raise InputError("The mask is empty, so nothing can be measured: choose another mask.")
    return brain


def voxel_volume_ml(spacing: Spacing) -> float:
    """Return the volume of a voxel, mL."""
    return spacing[0] * spacing[1] * spacing[2] / 1000.0


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
