"""Precision."""

from napari_addm.metrics.metric import Comparison, Metric


def precision(comparison: Comparison) -> float | None:
    """Return the precision; None where it is not defined."""
    if not comparison.positives or not comparison.predicted:
        return None
    return comparison.tp / comparison.predicted


METRIC = Metric(
    key="precision",
    title="Precision",
    meaning="Share of the findings that is lesion. Not defined where nothing is marked.",
    compute=precision,
    better="more",
    order=3,
)
