"""Threshold of the best Dice."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="best_threshold",
    title="Best threshold",
    meaning="The threshold of the best Dice, chosen by looking at the answer.",
    compute=lambda comparison: comparison.scores.best_threshold,
    note="ORACLE",
    oracle=True,
    order=9,
)
