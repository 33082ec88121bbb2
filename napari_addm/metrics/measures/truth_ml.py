"""Volume of the reference."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="truth_ml",
    title="Reference",
    meaning="Volume of the reference.",
    compute=lambda comparison: comparison.positives * comparison.voxel_ml,
    note="mL",
    digits=1,
    order=10,
)
