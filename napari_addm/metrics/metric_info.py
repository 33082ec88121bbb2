"""What each metric is called, and how its figures are shown."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A column of the tables.

    Attributes
    ----------
    key : str
        The metric's name in the results.
    label, note : str
        Head of the column, and a word of small type under it.
    meaning : str
        What it measures, in plain language; empty for a metric that is not known here.
    better : {"more", "less"} or None
        Which end is best; None where neither is.
    digits : int
        Decimals shown.
    chance : float or None
        What scores without information reach, where that is a constant.
    """

    key: str
    label: str
    note: str = ""
    meaning: str = ""
    better: Literal["more", "less"] | None = None
    digits: int = 3
    chance: float | None = None


MEASURES = {
    measure.key: measure
    for measure in (
        Measure(
            "dice",
            "Dice",
            "",
            "Overlap of what was marked with the reference, at the method's fixed threshold: "
            "0 none, 1 perfect.",
            "more",
        ),
        Measure(
            "auroc",
            "AUC",
            "in the brain",
            "How often a lesion voxel scores higher than a healthy voxel of the same brain: "
            "0.5 is a coin toss, 1 perfect. Needs no threshold.",
            "more",
            chance=0.5,
        ),
        Measure(
            "auroc_full",
            "AUC",
            "full field",
            "The same over the whole picture, air included. Air is easily told from a lesion, so "
            "this flatters.",
            "more",
            chance=0.5,
        ),
        Measure(
            "iou",
            "IoU",
            "",
            "Overlap divided by union: never above Dice, and in the same order.",
            "more",
        ),
        Measure(
            "precision",
            "Precision",
            "",
            "Share of what was marked that is lesion. Not defined where nothing was marked.",
            "more",
        ),
        Measure("recall", "Recall", "", "Share of the lesion that was marked.", "more"),
        Measure(
            "auprc",
            "AUPRC",
            "",
            "Precision averaged over all thresholds. Chance is the lesion's share of the voxels, "
            "so it is hard to flatter where lesions are small. Needs no threshold.",
            "more",
        ),
        Measure(
            "aupro",
            "AUPRO",
            "FPR ≤ 0.3",
            "Overlap averaged over the lesions, small ones weighing as much as large ones, up to "
            "a false-positive rate of 0.3. Chance is 0.15.",
            "more",
            chance=0.15,
        ),
        Measure(
            "best_dice",
            "Best Dice",
            "ORACLE",
            "The Dice of the best threshold for each case, chosen by looking at the answer: an "
            "upper bound and no result.",
            "more",
        ),
        Measure(
            "lesion_recall",
            "Lesions",
            "share found",
            "Share of the separate lesions of which at least a tenth was marked.",
            "more",
        ),
        Measure(
            "healthy_ml",
            "False alarm",
            "mL, healthy",
            "Mean volume marked in a healthy-appearing brain at the same threshold. A method that "
            "never marks anything has 0: read it beside recall.",
            "less",
            digits=1,
        ),
        Measure(
            "false_positive_ml",
            "False marks",
            "mL",
            "Volume marked outside of the reference.",
            "less",
            digits=1,
        ),
        Measure(
            "prevalence",
            "Prevalence",
            "",
            "The lesion's share of the voxels.",
        ),
        Measure("truth_ml", "Reference", "mL", "Volume of the reference.", digits=1),
        Measure("predicted_ml", "Marked", "mL", "Volume that was marked.", digits=1),
    )
}
