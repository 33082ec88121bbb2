"""Area under the receiver operating characteristic."""

from napari_addm.metrics.metric import Metric

METRIC = Metric(
    key="auroc",
    title="AUROC",
    meaning="How often a lesion voxel scores higher than a healthy voxel of the same brain: "
    "0.5 is a coin toss, 1 perfect. Needs no threshold.",
    compute=lambda comparison: comparison.scores.auroc,
    note="in the brain",
    chance=0.5,
    better="more",
    order=5,
)
