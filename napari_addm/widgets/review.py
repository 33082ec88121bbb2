"""What a person looks at after a run: findings under a threshold, and agreement with a truth.

Free of Qt and napari.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_addm.detection import Detection
from napari_addm.findings import Decision, Findings, Marker, measure_findings
from napari_addm.metrics import Metrics, evaluate


@dataclass(frozen=True, eq=False)
class Marked:
    """A detection under a threshold.

    Attributes
    ----------
    labels : ndarray of int32, shape (S, A, R)
    findings : Findings
    threshold, minimum_ml : float
    """

    labels: np.ndarray
    findings: Findings
    threshold: float
    minimum_ml: float

    @property
    def total_ml(self) -> float:
        """Volume of all findings together, mL."""
        return self.findings.total_ml

    def voxels(self, id: int) -> np.ndarray:
        """Flat indices of the voxels of a finding, rising."""
        return np.flatnonzero(self.labels == id)


class LiveMarker:
    """Mark one detection, as far as it is done, under a threshold that moves.

    Numbers stay with their findings: see :class:`napari_addm.findings.Marker`.
    """

    def __init__(self, detection: Detection) -> None:
        self.detection = detection
        self._marker = Marker(
            detection.anomaly.data,
            spacing=detection.anomaly.spacing,
            mask=detection.brain_mask.data & detection.done[:, None, None],
        )

    def mark(self, threshold: float, minimum_ml: float) -> Marked:
        """Label and measure the findings."""
        detection = self.detection
        uncertainty = None if detection.uncertainty is None else detection.uncertainty.data
        labels, findings = self._marker.find(threshold, minimum_ml, detection.anomaly, uncertainty)
        return Marked(labels, findings, threshold, minimum_ml)


def mark(detection: Detection, threshold: float, minimum_ml: float) -> Marked:
    """Mark a detection once; see `LiveMarker`."""
    return LiveMarker(detection).mark(threshold, minimum_ml)


def measure(
    detection: Detection, labels: np.ndarray, threshold: float, minimum_ml: float
) -> Marked:
    """Measure labels that are there already, such as those that a person edited."""
    uncertainty = None if detection.uncertainty is None else detection.uncertainty.data
    anomaly = detection.anomaly
    findings = measure_findings(labels, anomaly.data, anomaly, uncertainty)
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

    Raises
    ------
    InputError
        When nothing of the brain is done yet.

    Notes
    -----
    Measured inside the brain mask, in finished slices. AUROC, AUPRC and the
    best Dice need all scores sorted; they do not depend on the threshold and
    are computed here, once.
    """

    def __init__(self, detection: Detection, truth: np.ndarray) -> None:
        self.detection = detection
        truth = np.asarray(truth) != 0
        self._region = detection.brain_mask.data & detection.done[:, None, None]
        self._truth = truth[self._region]
        self._voxel_ml = detection.anomaly.voxel_ml
        self._ranked = evaluate(
            detection.anomaly.data,
            truth,
            threshold=0.0,
            mask=self._region,
            voxel_ml=self._voxel_ml,
            prediction=truth,  # so that the notes are about the truth alone
        )

    def at(self, marked: Marked) -> Metrics:
        """The metrics of some findings."""
        # Ranking two values instead of a million scores is quick enough for a dragged slider.
        found = evaluate(
            marked.labels[self._region] != 0,
            self._truth,
            threshold=0.5,
            voxel_ml=self._voxel_ml,
        )
        return replace(
            found,
            auroc=self._ranked.auroc,
            auprc=self._ranked.auprc,
            best_dice=self._ranked.best_dice,
            best_threshold=self._ranked.best_threshold,
            notes=tuple(dict.fromkeys((*self._ranked.notes, *found.notes))),
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
        and (used.score, used.smoothing_mm) == (default.score.kind, default.score.smoothing_mm)
    )
