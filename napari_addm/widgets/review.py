"""What a person looks at after a run: findings under a threshold, and agreement with a truth.

Free of Qt and napari.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from napari_addm.detection import Detection
from napari_addm.findings import Finding, label_anomalies, measure_findings
from napari_addm.metrics import Metrics, evaluate


@dataclass(frozen=True, eq=False)
class Marked:
    """A detection under a threshold.

    Attributes
    ----------
    labels : ndarray of int32, shape (S, A, R)
    findings : list of Finding
    threshold, minimum_ml : float
    """

    labels: np.ndarray
    findings: list[Finding]
    threshold: float
    minimum_ml: float

    @property
    def total_ml(self) -> float:
        """Volume of all findings together, mL."""
        return sum(finding.volume_ml for finding in self.findings)


def mark(detection: Detection, threshold: float, minimum_ml: float) -> Marked:
    """Label and measure the findings of a detection, as far as it is done."""
    anomaly = detection.anomaly
    labels = label_anomalies(
        anomaly.data,
        threshold,
        spacing=anomaly.spacing,
        minimum_ml=minimum_ml,
        mask=detection.brain_mask.data & detection.done[:, None, None],
    )
    return measure(detection, labels, threshold, minimum_ml)


def measure(
    detection: Detection, labels: np.ndarray, threshold: float, minimum_ml: float
) -> Marked:
    """Measure labels that are there already, such as those that a person edited."""
    uncertainty = None if detection.uncertainty is None else detection.uncertainty.data
    anomaly = detection.anomaly
    findings = measure_findings(labels, anomaly.data, anomaly, uncertainty)
    return Marked(labels, findings, threshold, minimum_ml)


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
