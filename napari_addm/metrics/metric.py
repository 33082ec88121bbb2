"""What a metric is computed from, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.registry import METRICS


@dataclass(frozen=True, eq=False)
class Comparison:
    """A prediction and an anomaly map against a reference, counted in one region.

    Attributes
    ----------
    tp, predicted, positives, voxels : int
        Voxels that are predicted and truth, predicted, truth, and all; at least one voxel.
    voxel_ml : float
        Volume of one voxel, mL.
    scores : SortedScores
        The map's scores in the region.
    """

    tp: int
    predicted: int
    positives: int
    voxels: int
    voxel_ml: float
    scores: SortedScores


@dataclass(frozen=True)
class Metric:
    """A metric as the panel, the command line and the reports know it.

    Attributes
    ----------
    key : str
        Its name in files and in the registry.
    title, note : str
        Head of the column, and a word of small type under it.
    meaning : str
        What it measures, in plain language.
    compute : callable or None
        ``compute(comparison)`` returns a float, or None where the metric is not defined. None
        for figures that only the benchmark's protocols can compute.
    better : {"more", "less"} or None
        Which end is best; None where neither is.
    digits : int
        Decimals shown.
    chance : float or None
        What scores without information reach, where that is a constant.
    oracle : bool
        Whether it is found by looking at the reference: an upper bound and no result.
    order : int
        Place in tables, from the left.
    """

    key: str
    title: str
    meaning: str = ""
    compute: Callable[[Comparison], float | None] | None = None
    note: str = ""
    better: Literal["more", "less"] | None = None
    digits: int = 3
    chance: float | None = None
    oracle: bool = False
    order: int = 100

    def format(self, value: float | None) -> str:
        """Write a value with the metric's decimals."""
        return "not defined" if value is None else f"{value:.{self.digits}f}"


def metrics_in_order() -> dict[str, Metric]:
    """Return the installed metrics by name, in the order of tables."""
    return dict(sorted(METRICS.usable().items(), key=lambda item: (item[1].order, item[0])))


def case_metrics() -> dict[str, Metric]:
    """Return the metrics that every comparison of a map with a reference has, in order."""
    return {name: metric for name, metric in metrics_in_order().items() if metric.compute}


def rated_metrics() -> dict[str, Metric]:
    """Return the metrics of every comparison of which one end is best, in order."""
    return {name: metric for name, metric in case_metrics().items() if metric.better}
