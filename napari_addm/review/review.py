"""What a person looks at after a run: findings under a threshold, and agreement with a truth.

Free of Qt and napari.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_addm.detection.pipeline import Detection
from napari_addm.findings.findings import Box, Decision, Findings, Marker, measure_findings
from napari_addm.metrics.metrics import (
    Curves,
    Lesions,
    LesionTable,
    Metrics,
    SortedScores,
    evaluate,
    metrics_of_counts,
)

# What a voxel of `Agreement.overlay` says: bit 0, it is truth; bit 1, it is marked.
MISSED, FALSE_ALARM, HIT = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Marked:
    """A detection under a threshold.

    Attributes
    ----------
    labels : ndarray of int, shape (S, A, R)
        In the smallest unsigned type that holds the numbers, or as a person edited them.
    findings : Findings
    threshold, minimum_ml : float
    box : tuple of slice
        Outside there is no finding.
    """

    labels: np.ndarray
    findings: Findings
    threshold: float
    minimum_ml: float
    box: Box = (slice(None), slice(None), slice(None))

    @property
    def total_ml(self) -> float:
        """Volume of all findings together, mL."""
        return self.findings.total_ml

    def voxels(self, id: int) -> np.ndarray:
        """Flat indices of the voxels of a finding, rising."""
        return np.flatnonzero(self.labels == id)

    def middle(self, id: int) -> tuple[int, int, int]:
        """The voxel (s, a, r) of a finding that is nearest to its centre, whatever its shape."""
        places = np.stack(np.unravel_index(self.voxels(id), self.labels.shape), axis=-1)
        apart = np.linalg.norm(places - places.mean(axis=0), axis=1)
        s, a, r = places[np.argmin(apart)].tolist()
        return s, a, r


class LiveMarker:
    """Mark one detection, as far as it is done, under a threshold that moves.

    Numbers stay with their findings: see :class:`napari_addm.findings.findings.Marker`.
    """

    def __init__(self, detection: Detection) -> None:
        self.detection = detection
        self._last: Marked | None = None
        anomaly = detection.anomaly
        # Compact: the memory of int32 would come from the system anew for every threshold.
        self._marker = Marker(
            anomaly.data, spacing=anomaly.spacing, mask=detection.region, compact=True
        )

    def mark(self, threshold: float, minimum_ml: float) -> Marked:
        """Label and measure the findings; at once where it was asked for just before."""
        last = self._last
        if last is not None and (last.threshold, last.minimum_ml) == (threshold, minimum_ml):
            return last
        detection = self.detection
        uncertainty = None if detection.uncertainty is None else detection.uncertainty.data
        labels, findings = self._marker.find(
            threshold, minimum_ml, detection.anomaly, uncertainty, detection.midline
        )
        self._last = Marked(labels, findings, threshold, minimum_ml, self._marker.box)
        return self._last

    def renumber(self, labels: np.ndarray) -> None:
        """As `napari_addm.findings.findings.Marker.renumber`."""
        self._marker.renumber(labels)
        self._last = None


def mark(detection: Detection, threshold: float, minimum_ml: float) -> Marked:
    """Mark a detection once; see `LiveMarker`."""
    return LiveMarker(detection).mark(threshold, minimum_ml)


def measure(
    detection: Detection, labels: np.ndarray, threshold: float, minimum_ml: float
) -> Marked:
    """Measure labels that are there already, such as those that a person edited."""
    uncertainty = None if detection.uncertainty is None else detection.uncertainty.data
    anomaly = detection.anomaly
    findings = measure_findings(labels, anomaly.data, anomaly, uncertainty, detection.midline)
    return Marked(labels, findings, threshold, minimum_ml)


# A decision holds for a finding that overlaps, with at least this Dice, with what was decided on.
SAME_FINDING = 0.5


@dataclass(frozen=True, eq=False)
class Decided:
    """A decision, and what it was made on.

    Attributes
    ----------
    voxels : ndarray of int
        Flat indices of the finding's voxels when it was decided on, rising.
    decision : Decision
    """

    voxels: np.ndarray
    decision: Decision


def decisions_of(marked: Marked, decided: Sequence[Decided]) -> dict[int, Decision]:
    """What was decided on the findings, whatever has become of them as the threshold moved.

    A decision holds for the finding that shares the most voxels with the one
    that it was made on, provided that their Dice is `SAME_FINDING` or more. A
    finding that outgrows it, or shrinks to a fraction, is open again, until the
    threshold comes back. Where two would hold for one finding, the better
    overlap wins, and of equal ones the later decision.

    Parameters
    ----------
    marked : Marked
    decided : sequence of Decided
        The oldest first.

    Returns
    -------
    dict of int to Decision
        By the findings' ids.
    """
    return {id: made.decision for id, made in _holding(marked, decided).items()}


def decide(
    marked: Marked, decided: Sequence[Decided], id: int, decision: Decision
) -> tuple[Decided, ...]:
    """The decisions after another one on a finding, which takes the place of its earlier ones.

    Parameters
    ----------
    marked : Marked
    decided : sequence of Decided
        The oldest first.
    id : int
        Of the finding.
    decision : Decision
        Empty to take the decision back.
    """
    matches = _matches(marked, decided)
    others = tuple(made for made, match in zip(decided, matches, strict=True) if match[0] != id)
    return (*others, Decided(marked.voxels(id), decision)) if decision else others


def _holding(marked: Marked, decided: Sequence[Decided]) -> dict[int, Decided]:
    best: dict[int, tuple[float, Decided]] = {}
    for made, (id, dice) in zip(decided, _matches(marked, decided), strict=True):
        if id and dice >= best.get(id, (0.0, made))[0]:
            best[id] = dice, made
    return {id: made for id, (_, made) in best.items()}


def _matches(marked: Marked, decided: Sequence[Decided]) -> list[tuple[int, float]]:
    """For each decision the finding that it holds for, 0 if there is none, and their Dice."""
    labels, findings = marked.labels.ravel(), marked.findings
    matches = []
    for made in decided:
        ids, shared = np.unique(labels[made.voxels], return_counts=True)
        ids, shared = ids[ids != 0], shared[ids != 0]
        dice = 0.0
        if ids.size:
            nearest = int(np.argmax(shared))
            size = findings.voxels[np.searchsorted(findings.id, ids[nearest])]
            dice = 2 * float(shared[nearest]) / float(made.voxels.size + size)
        matches.append((int(ids[nearest]), dice) if dice >= SAME_FINDING else (0, dice))
    return matches


class Agreement:
    """Agreement of a detection with a ground truth while the threshold moves.

    Parameters
    ----------
    detection : Detection
    truth : ndarray, shape (S, A, R)
        Nonzero = anomalous.

    Attributes
    ----------
    detection : Detection
    truth : ndarray of bool, shape (S, A, R)
    curves : Curves
        Of the map, voxel by voxel: before the smallest finding is applied.
    best_dice, best_threshold : float or None
        As in `Metrics`: the upper bound of the Dice curve.
    voxel_ml : float
        Volume of one voxel, mL.

    Raises
    ------
    InputError
        When nothing of the brain is done yet.

    Notes
    -----
    Measured inside the brain mask, in finished slices. What needs all scores
    sorted (areas, curves, the best Dice) or all lesions labelled does not
    depend on the threshold and is computed here, once.
    """

    def __init__(self, detection: Detection, truth: np.ndarray) -> None:
        self.detection = detection
        self.voxel_ml = detection.anomaly.voxel_ml
        anomaly = detection.anomaly.data
        truth = np.asarray(truth) != 0
        self._region = detection.region
        # Of the truth against itself: for the checks, and the notes about the truth alone.
        itself = evaluate(truth, truth, threshold=0.5, mask=self._region, voxel_ml=self.voxel_ml)
        self._notes = itself.notes
        self._elsewhere = bool(truth.any())
        self.truth = truth
        self._inside = truth & self._region
        self._where = np.flatnonzero(self._inside)
        self._scores = SortedScores.of(anomaly[self._region], truth[self._region])
        self._voxels = self._scores.positive.size + self._scores.negative.size
        self._ranking = None if self.is_empty else self._scores.ranking()
        self._lesions = Lesions(truth, anomaly, mask=self._region, voxel_ml=self.voxel_ml)
        self.curves = self._scores.curves()
        self.best_dice = self._ranking.best_dice if self._ranking else None
        self.best_threshold = self._ranking.best_threshold if self._ranking else None

    @property
    def is_empty(self) -> bool:
        """Whether no ground truth lies where it is measured."""
        return self._scores.positive.size == 0

    def at(self, marked: Marked) -> Metrics:
        """The metrics of some findings."""
        # A slider is dragged: count, and rank nothing anew.
        figures = metrics_of_counts(
            hits=int(np.count_nonzero(marked.labels.ravel()[self._where])),
            found=int(np.count_nonzero((marked.labels != 0) & self._region)),
            positives=self._where.size,
            voxels=self._voxels,
            voxel_ml=self.voxel_ml,
            ranking=self._ranking,
        )
        return replace(figures, notes=tuple(dict.fromkeys((*self._notes, *figures.notes))))

    def point(self, threshold: float) -> Curves:
        """Where a threshold lies on the curves: curves of one point."""
        return self._scores.at(threshold)

    def lesions(self, marked: Marked) -> LesionTable:
        """The lesions of the truth, one by one, under some findings."""
        return self._lesions.under(marked.labels, marked.findings.id, marked.findings.voxels)

    def overlay(self, marked: Marked) -> np.ndarray:
        """`HIT`, `FALSE_ALARM` and `MISSED` voxels, and 0 elsewhere; uint8, (S, A, R)."""
        marks = (marked.labels != 0) & self._region
        return (marks.view(np.uint8) << 1) | self._inside.view(np.uint8)

    def explanation(self, figures: Metrics) -> str:
        """What can be said, in words, where an empty truth leaves the usual figures undefined."""
        if not self.is_empty:
            return ""
        if self._elsewhere:
            why = "None of the ground truth lies in the brain mask, in the slices that are done"
        else:
            why = "The ground truth is empty: there is no lesion to find"
        brain_ml = self._voxels * self.voxel_ml
        return (
            f"{why}. So Dice, recall, ROC and precision have no meaning here. What can be said: "
            f"whatever is marked is a false alarm. That is {figures.predicted_ml:.1f} mL now, "
            f"{figures.predicted_ml / brain_ml:.1%} of the brain."
        )


def is_calibrated(detection: Detection, minimum_ml: float) -> bool:
    """Whether a checkpoint's curve of false alarms holds for a result."""
    default, used = detection.specification.detection, detection.settings
    alarms = default.false_alarms
    return (
        alarms is not None
        and used.slices is None
        and minimum_ml >= alarms.minimum_ml
        and (used.level, used.steps, used.draws, used.sampler, used.eta)
        == (default.level, default.steps, default.draws, default.sampler, default.eta)
        and (used.score, used.smoothing_mm, used.symmetry)
        == (default.score.kind, default.score.smoothing_mm, default.score.symmetry)
    )
