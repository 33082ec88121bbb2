"""Volume of the findings."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="predicted_ml",
    title="Marked",
    meaning="Volume of the findings.",
    compute=lambda comparison: comparison.predicted * comparison.voxel_ml,
    note="mL",
    digits=1,
    order=11,
)
