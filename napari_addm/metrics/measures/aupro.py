"""Area under the per-region overlap curve, as the benchmark computes it."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="aupro",
    title="AUPRO",
    meaning="Overlap averaged over the lesions, small ones weighing as much as large ones, up "
    "to a false-positive rate of 0.3. Chance is 0.15.",
    note="FPR ≤ 0.3",
    chance=0.15,
    better="more",
    order=13,
)
