"""AUROC over the whole field, as the benchmark's protocols compute it."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="auroc_full",
    title="AUROC",
    meaning="The same over the whole picture, air included. Air is easy to distinguish from a "
    "lesion, so this flatters.",
    note="full field",
    chance=0.5,
    better="more",
    order=12,
)
