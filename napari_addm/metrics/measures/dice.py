"""Dice coefficient."""

from napari_addm.metrics.metric import Comparison, Metric


def dice(comparison: Comparison) -> float | None:
    """Return the Dice coefficient; None where it is not defined."""
    if not comparison.positives:
        return None
    return 2 * comparison.tp / (comparison.positives + comparison.predicted)


METRIC = Metric(
    key="dice",
    title="Dice",
    meaning="Overlap of the findings with the reference: 0 none, 1 perfect.",
    compute=dice,
    better="more",
    order=1,
)
