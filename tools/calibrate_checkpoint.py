"""Choose a checkpoint's default threshold and write what it achieves into its header.

The threshold is the one with the best mean Dice over labelled validation cases; what
it finds in healthy-appearing brains is reported beside it. Nothing else is changed.

    python tools/calibrate_checkpoint.py model.safetensors DATA -o out.safetensors

DATA is a folder with ``split.json`` (lists ``healthy.calibration`` and
``tumour.validation``), ``healthy/SUBJECT_T1w.nii.gz`` and ``tumour/CASE/{t1,mask}.nii.gz``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from napari_addm.checkpoint import (
    Checkpoint,
    ScoreKind,
    ScoreSpecification,
    load_checkpoint,
    save_checkpoint,
)
from napari_addm.detection import Detection, DetectionSettings, run
from napari_addm.evaluation import intensity_baselines
from napari_addm.findings import label_anomalies
from napari_addm.io import read_labels, read_volume
from napari_addm.metrics import rank


def main() -> None:
    """Calibrate one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--level", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--draws", type=int)
    parser.add_argument("--score", choices=get_args(ScoreKind))
    parser.add_argument("--smoothing-mm", type=float)
    parser.add_argument("--erosion-mm", type=float)
    options = parser.parse_args()

    checkpoint = load_checkpoint(options.checkpoint)
    chosen: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("level", "steps", "draws")
        if getattr(options, name) is not None
    }
    specification = checkpoint.specification
    score = specification.detection.score.model_dump()
    for name, value in (
        ("kind", options.score),
        ("smoothing_mm", options.smoothing_mm),
        ("erosion_mm", options.erosion_mm),
    ):
        if value is not None:
            score[name] = value
    chosen["score"] = ScoreSpecification.model_validate(score)
    default = specification.detection.model_copy(update=chosen)
    checkpoint = replace(
        checkpoint, specification=specification.model_copy(update={"detection": default})
    )
    split = json.loads((options.data / "split.json").read_text())

    thresholds = np.linspace(0.0, 1.0, 201)
    dice, rows = [], []
    for case in split["tumour"]["validation"]:
        volume, result = detected(checkpoint, options.data / "tumour" / case / "t1.nii.gz")
        truth = read_labels(options.data / "tumour" / case / "mask.nii.gz").data > 0
        brain = result.brain_mask.data
        scores, lesion = result.anomaly.data[brain], truth[brain]
        dice.append([dice_of(scores > t, lesion) for t in thresholds])
        ours = rank(scores, lesion)
        baselines = intensity_baselines(
            volume,
            brain,
            smoothing_mm=default.score.smoothing_mm,
            erosion_mm=default.score.erosion_mm,
        )
        by_intensity = [rank(map_[brain], lesion) for map_ in baselines.values()]
        rows.append(
            {
                "prevalence": float(lesion.mean()),
                "auprc": ours.auprc,
                "auroc": ours.auroc,
                "best_dice": ours.best_dice,
                "auprc_of_best_intensity_baseline": max(b.auprc for b in by_intensity),
                "best_dice_of_best_intensity_baseline": max(b.best_dice for b in by_intensity),
            }
        )
        print(case, {name: round(value, 3) for name, value in rows[-1].items()})
    mean_dice = np.mean(dice, axis=0)
    threshold = float(thresholds[mean_dice.argmax()])

    false_ml = []
    for subject in split["healthy"]["calibration"]:
        volume, result = detected(checkpoint, options.data / "healthy" / f"{subject}_T1w.nii.gz")
        labels = label_anomalies(
            result.anomaly.data,
            threshold,
            spacing=volume.spacing,
            minimum_ml=default.minimum_ml,
            mask=result.brain_mask.data,
        )
        false_ml.append(float((labels > 0).sum()) * volume.voxel_ml)
        print(subject, f"{false_ml[-1]:.1f} mL at {threshold:.3f}")

    evaluation = {
        "validation_tumours": {
            "cases": len(rows),
            **{name: round(float(np.mean([r[name] for r in rows])), 3) for name in rows[0]},
            "dice_at_threshold": round(float(mean_dice.max()), 3),
        },
        "healthy_calibration": {
            "subjects": len(false_ml),
            "false_positive_ml_mean": round(float(np.mean(false_ml)), 1),
            "false_positive_ml_max": round(float(np.max(false_ml)), 1),
        },
    }
    print(json.dumps(evaluation, indent=1))
    default = default.model_copy(
        update={
            "threshold": round(threshold, 4),
            "threshold_source": f"best mean Dice over {len(rows)} labelled validation tumours",
        }
    )
    save_checkpoint(
        options.output,
        specification.model_copy(update={"detection": default, "evaluation": evaluation}),
        checkpoint.weights,
    )


def detected(checkpoint: Checkpoint, path: Path):
    """The scan and its detection with the checkpoint's defaults."""
    volume = read_volume(path)
    result: Detection = run(volume, checkpoint, DetectionSettings())
    return volume, result


def dice_of(prediction: np.ndarray, lesion: np.ndarray) -> float:
    """Dice of two masks; 0 where nothing is predicted."""
    return 2.0 * float((prediction & lesion).sum()) / max(int(prediction.sum() + lesion.sum()), 1)


if __name__ == "__main__":
    main()
