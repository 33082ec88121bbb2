"""How well an anomaly map agrees with a ground truth, voxel by voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from napari_addm.metrics.checks import check_scores, check_shapes
from napari_addm.metrics.metric import Comparison, case_metrics
from napari_addm.metrics.sorted_scores import SortedScores

EMPTY_TRUTH = "The ground truth is empty: Dice and the like are excluded."


class Metrics(Mapping[str, float | None]):
    """The metrics of one anomaly map by name; None means "not defined here".

    A case with an empty truth has no Dice. It is excluded from averages and counted, and
    `notes` says so. An empty prediction is a valid 0 mL.

    Parameters
    ----------
    figures : mapping of str to float or None
        One value per metric in `napari_addm.registry.METRICS` that has ``compute``:
        ``dice``, ``iou``, ``precision``, ``recall``, ``auroc``, ``auprc``, ``prevalence``,
        ``best_dice``, ``best_threshold``, ``truth_ml`` and ``predicted_ml`` are built in.
    notes : tuple of str
        What a reader of the numbers must know, one sentence each.
    """

    def __init__(self, figures: Mapping[str, float | None], notes: tuple[str, ...] = ()) -> None:
        self._figures = dict(figures)
        self.notes = notes

    def __getitem__(self, name: str) -> float | None:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __repr__(self) -> str:
        return f"Metrics({self._figures}, notes={self.notes})"

    def as_dict(self) -> dict[str, Any]:
        """Return figures and notes, ready for JSON."""
        return {**self._figures, "notes": self.notes}


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
        Region (nonzero) in which everything is computed, such as the brain;
        everywhere when missing.
    voxel_ml : float
        Volume of one voxel, mL.
    prediction : ndarray, same shape, optional
        Nonzero = predicted, instead of ``anomaly > threshold`` (for labels after a minimum size).
        The areas and the best Dice still come from `anomaly`.

    Raises
    ------
    InputError
        When the shapes differ, the region is empty or a score in it is NaN or infinite.
    """
    anomaly = np.asarray(anomaly)
    check_shapes(anomaly, truth=truth, mask=mask, prediction=prediction)
    notes: tuple[str, ...] = ()
    lesion = np.asarray(truth) != 0
    predicted = anomaly > threshold if prediction is None else np.asarray(prediction) != 0
    if mask is None:
        scores, lesion, predicted = anomaly.ravel(), lesion.ravel(), predicted.ravel()
    else:
        region = np.asarray(mask) != 0
        outside = int(np.count_nonzero(lesion)) - int(np.count_nonzero(lesion[region]))
        if outside:
            notes = (
                f"{outside * voxel_ml:.2f} mL of the ground truth lies outside the mask, or in "
                "slices that are not done, and was not counted.",
            )
        scores, lesion, predicted = anomaly[region], lesion[region], predicted[region]
    check_scores(scores)
    positives = int(np.count_nonzero(lesion))
    comparison = Comparison(
        tp=int(np.count_nonzero(lesion & predicted)),
        predicted=int(np.count_nonzero(predicted)),
        positives=positives,
        voxels=scores.size,
        voxel_ml=voxel_ml,
        # without truth nothing needs the order of the scores
        scores=SortedScores.of(scores, lesion) if positives else SortedScores(scores[:0], scores),
    )
    return measure(comparison, notes)


def measure(comparison: Comparison, notes: tuple[str, ...] = ()) -> Metrics:
    """Compute all metrics of a comparison; ``notes`` come before those about the counts."""
    figures = {
        name: metric.compute(comparison)
        for name, metric in case_metrics().items()
        if metric.compute is not None
    }
    if not comparison.positives:
        notes = (*notes, EMPTY_TRUTH)
    elif not comparison.predicted:
        notes = (*notes, "Nothing is predicted (0 mL), so precision is not defined.")
    if comparison.positives == comparison.voxels:
        notes = (*notes, "The ground truth fills the region, so AUROC is not defined.")
    return Metrics(figures, notes)
