"""Share of the lesions that are found, as the benchmark computes it."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="lesion_recall",
    title="Lesions",
    meaning="Share of the separate lesions of which at least a tenth is marked.",
    note="share found",
    better="more",
    order=14,
)
