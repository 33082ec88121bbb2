"""Intersection over union."""

from napari_addm.metrics.metric import Comparison, Metric


def iou(comparison: Comparison) -> float | None:
    """Return the intersection over union; None where it is not defined."""
    if not comparison.positives:
        return None
    return comparison.tp / (comparison.positives + comparison.predicted - comparison.tp)


METRIC = Metric(
    key="iou",
    title="IoU",
    meaning="Overlap divided by union: never above Dice, and in the same order.",
    compute=iou,
    better="more",
    order=2,
)
