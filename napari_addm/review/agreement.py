"""Agreement of findings with a ground truth under a threshold that moves; free of Qt."""

from __future__ import annotations

import numpy as np

from napari_addm.detection.pipeline import Detection
from napari_addm.metrics.evaluation import Metrics, evaluate, measure
from napari_addm.metrics.lesionwise import Lesions, LesionTable
from napari_addm.metrics.metric import Comparison
from napari_addm.metrics.sorted_scores import Curves, SortedScores
from napari_addm.review.marking import LabelledFindings

# Values of `Agreement.overlay`: bit 0 stands for the truth, bit 1 for a finding.
MISSED, FALSE_ALARM, HIT = 1, 2, 3


class Agreement:
    """Agreement of a detection with a ground truth while the threshold moves.

    All is measured inside the brain mask, in finished slices. Areas, curves, the best Dice and
    the lesions do not depend on the threshold, so they are computed once, here.

    Parameters
    ----------
    truth : ndarray, shape (S, A, R)
        Ground truth; a voxel other than 0 is anomalous.

    Attributes
    ----------
    curves : Curves
        Of the map voxel by voxel, before the smallest finding is applied.
    best_dice, best_threshold : float or None
        As in `Metrics`: the upper bound of the Dice curve.

    Raises
    ------
    InputError
        When no slice of the brain is done yet.
    """

    def __init__(self, detection: Detection, truth: np.ndarray) -> None:
        self.detection = detection
        self.voxel_ml = detection.anomaly.voxel_ml
        anomaly = detection.highest
        truth = np.asarray(truth) != 0
        self._region = detection.region
        # The truth against itself gives the checks, and the notes about the truth alone.
        itself = evaluate(truth, truth, threshold=0.5, mask=self._region, voxel_ml=self.voxel_ml)
        self._notes = itself.notes
        self._elsewhere = bool(truth.any())
        self.truth = truth
        self._inside = truth & self._region
        self._where = np.flatnonzero(self._inside)
        self._scores = SortedScores.of(anomaly[self._region], truth[self._region])
        self._voxels = self._scores.positive.size + self._scores.negative.size
        self._lesions = Lesions(truth, anomaly, mask=self._region, voxel_ml=self.voxel_ml)
        self.curves = self._scores.curves()
        self.best_dice = self._scores.best_dice
        self.best_threshold = self._scores.best_threshold

    @property
    def is_empty(self) -> bool:
        """Whether no ground truth lies in the part that is measured."""
        return self._scores.positive.size == 0

    def at(self, marked: LabelledFindings) -> Metrics:
        """The metrics of some findings."""
        # Only counts: to rank all scores again would be too slow while a slider is dragged.
        comparison = Comparison(
            tp=int(np.count_nonzero(marked.labels.ravel()[self._where])),
            predicted=int(np.count_nonzero((marked.labels != 0) & self._region)),
            positives=self._where.size,
            voxels=self._voxels,
            voxel_ml=self.voxel_ml,
            scores=self._scores,
        )
        figures = measure(comparison)
        return Metrics(figures, tuple(dict.fromkeys((*self._notes, *figures.notes))))

    def point(self, threshold: float) -> Curves:
        """The point of each curve at a threshold: curves of one point."""
        return self._scores.at(threshold)

    def lesions(self, marked: LabelledFindings) -> LesionTable:
        """The lesions of the truth one by one, and whether some findings cover them."""
        return self._lesions.under(marked.labels, marked.findings.id, marked.findings.voxels)

    def overlay(self, marked: LabelledFindings) -> np.ndarray:
        """`HIT`, `FALSE_ALARM` and `MISSED` voxels, and 0 elsewhere; uint8, (S, A, R)."""
        marks = (marked.labels != 0) & self._region
        return (marks.view(np.uint8) << 1) | self._inside.view(np.uint8)

    def explanation(self, figures: Metrics) -> str:
        """A sentence for an empty truth, which leaves the usual figures undefined; else empty."""
        if not self.is_empty:
            return ""
        if self._elsewhere:
            why = "None of the ground truth lies in the brain mask, in the slices that are done"
        else:
            why = "The ground truth is empty: there is no lesion to find"
        brain_ml, marked_ml = self._voxels * self.voxel_ml, figures["predicted_ml"] or 0.0
        return (
            f"{why}. So Dice, recall, ROC and precision have no meaning here. What can be said: "
            f"whatever is marked is a false alarm. That is {marked_ml:.1f} mL now, "
            f"{marked_ml / brain_ml:.1%} of the brain."
        )
