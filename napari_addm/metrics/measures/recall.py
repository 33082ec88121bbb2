"""Recall."""

from napari_addm.metrics.metric import Comparison, Metric


def recall(comparison: Comparison) -> float | None:
    """Return the recall; None where it is not defined."""
    return comparison.tp / comparison.positives if comparison.positives else None


METRIC = Metric(
    key="recall",
    title="Recall",
    meaning="Share of the lesion that is marked.",
    compute=recall,
    better="more",
    order=4,
)
