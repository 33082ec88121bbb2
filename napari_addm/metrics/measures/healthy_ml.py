"""False alarms in healthy brains, as the benchmark counts them."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="healthy_ml",
    title="False alarm",
    meaning="Mean volume marked in a healthy-appearing brain at the same threshold. A method "
    "that never marks anything has 0: read it beside recall.",
    note="mL, healthy",
    digits=1,
    better="less",
    order=15,
)
