"""Volume of false findings, as the benchmark counts it."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="false_positive_ml",
    title="False marks",
    meaning="Volume of the findings outside of the reference.",
    note="mL",
    digits=1,
    better="less",
    order=16,
)
