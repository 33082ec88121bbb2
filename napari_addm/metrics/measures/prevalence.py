"""Prevalence."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="prevalence",
    title="Prevalence",
    meaning="The lesion's share of the voxels: the AUPRC of chance.",
    compute=lambda comparison: comparison.positives / comparison.voxels,
    order=7,
)
