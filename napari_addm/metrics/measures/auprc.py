"""Average precision, the area under precision and recall."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="auprc",
    title="AUPRC",
    meaning="Precision averaged over all thresholds. Chance is the lesion's share of the "
    "voxels, so it is hard to flatter where lesions are small. Needs no threshold.",
    compute=lambda comparison: comparison.scores.auprc,
    better="more",
    order=6,
)
