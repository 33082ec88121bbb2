"""Findings of a detection under a threshold that moves; free of Qt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import uses_calibrated_settings
from napari_addm.findings.computed import find_in, labeller_of, measured_findings
from napari_addm.findings.diameters import Diameters
from napari_addm.findings.findings import Findings
from napari_addm.io.arrays import Box

EVERYWHERE: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True, eq=False)
class LabelledFindings:
    """The findings of a detection under one threshold.

    Attributes
    ----------
    labels : ndarray of int, shape (S, A, R)
        Number of the finding that each voxel belongs to, 0 for none, in the smallest unsigned
        type that holds the numbers; or labels that a person edited.
    threshold : float
        Score above which a voxel is marked, in the map's units.
    minimum_ml : float
        Volume of the smallest finding that is kept, mL.
    box : tuple of slice
        A box that holds all findings.
    """

    labels: np.ndarray
    findings: Findings
    threshold: float
    minimum_ml: float
    box: Box = EVERYWHERE

    @property
    def total_ml(self) -> float:
        """Volume of all findings together, mL."""
        return self.findings.total_ml

    def voxels(self, id: int) -> np.ndarray:
        """Flat indices of the voxels of a finding, in rising order."""
        return np.flatnonzero(self.labels == id)

    def middle(self, id: int) -> tuple[int, int, int]:
        """The voxel (s, a, r) of a finding nearest to its center, where its diameters are."""
        places = np.stack(np.unravel_index(self.voxels(id), self.labels.shape), axis=-1)
        diameters = self.diameters(id)
        if diameters is not None:
            places = places[places[:, 0] == diameters.slice]
        apart = np.linalg.norm(places - places.mean(axis=0), axis=1)
        s, a, r = places[np.argmin(apart)].tolist()
        return s, a, r

    def diameters(self, id: int | None) -> Diameters | None:
        """The diameters of a finding; None without such a finding."""
        rows = np.flatnonzero(self.findings.id == id)
        return self.findings.diameters[int(rows[0])] if rows.size else None


class CachedLabeller:
    """Labels the findings of one detection as far as it is done, and keeps the last answer.

    A finding keeps its number while the threshold moves: see
    `napari_addm.findings.labelling.FindingLabeller`.
    """

    def __init__(self, detection: Detection) -> None:
        self.detection = detection
        self._last: LabelledFindings | None = None
        self._labeller = labeller_of(detection)

    def label(self, threshold: float, minimum_ml: float) -> LabelledFindings:
        """Label and measure the findings under a threshold; the smallest has `minimum_ml`."""
        last = self._last
        if last is not None and (last.threshold, last.minimum_ml) == (threshold, minimum_ml):
            return last
        labels, findings = find_in(self.detection, self._labeller, threshold, minimum_ml)
        self._last = LabelledFindings(labels, findings, threshold, minimum_ml, self._labeller.box)
        return self._last

    def renumber(self, labels: np.ndarray) -> None:
        """Give the findings the numbers of other labels; see `FindingLabeller.renumber`."""
        self._labeller.renumber(labels)
        self._last = None


def measure_labels(
    detection: Detection, labels: np.ndarray, threshold: float, minimum_ml: float
) -> LabelledFindings:
    """Measure labels (S, A, R) that exist already, such as those that a person edited."""
    return LabelledFindings(labels, measured_findings(detection, labels), threshold, minimum_ml)


def is_calibrated(detection: Detection, minimum_ml: float) -> bool:
    """Whether a checkpoint's curve of false alarms holds for a result."""
    alarms = detection.specification.detection.false_alarms
    return (
        alarms is not None
        and minimum_ml >= alarms.minimum_ml
        and uses_calibrated_settings(detection.settings, detection.specification)
    )
