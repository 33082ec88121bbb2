"""Best Dice of any threshold."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="best_dice",
    title="Best Dice",
    meaning="The Dice of the best threshold for each case, chosen by looking at the answer: "
    "an upper bound and no result.",
    compute=lambda comparison: comparison.scores.best_dice,
    note="ORACLE",
    oracle=True,
    better="more",
    order=8,
)
