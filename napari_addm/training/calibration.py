"""Choosing a checkpoint's threshold, and measuring its false alarms in healthy brains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import FalseAlarmSpecification, ModelSpecification
from napari_addm.detection.pipeline import run
from napari_addm.detection.preparation import prepare
from napari_addm.detection.quality import RECONSTRUCTION_KEY, healthy_range, reconstruction_error
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import InputError
from napari_addm.metrics.intensity_baselines import intensity_baselines
from napari_addm.metrics.protocols import healthy_case
from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.metrics.thresholds import (
    DiceThreshold,
    HealthyMap,
    false_alarm_curve,
    threshold_by_dice,
    threshold_by_false_alarms,
)
from napari_addm.training.labelled_scans import LabelledScan

PROMISED_ML = 5.0
"""False alarm per brain for which leave-one-out tries the threshold."""

Report = Callable[[str], None]


def calibrate(
    checkpoint: Checkpoint,
    scans: Sequence[LabelledScan],
    changes: dict[str, Any],
    *,
    report: Report = lambda line: None,
) -> ModelSpecification:
    """Give a checkpoint a threshold, a curve of false alarms, and figures.

    The threshold has the best mean Dice over the labelled validation scans. The
    curve comes from healthy brains outside the training, and says for every
    threshold how many mL it marks in such a brain.

    Parameters
    ----------
    scans : sequence of LabelledScan
        Those of groups that end in ``/validation``, and of ``healthy/calibration``.
        Test scans are ignored.
    changes : dict
        Detection defaults to change first, fields of
        `napari_addm.checkpoint.specification.DetectionSpecification`.
    report : callable
        Called with a line of text whenever something begins.

    Returns
    -------
    ModelSpecification
        With new ``detection`` and ``evaluation``.

    Raises
    ------
    InputError
        If there are no validation scans or no healthy brains to calibrate on.
    """
    validation = [scan for scan in scans if scan.group.endswith("/validation")]
    healthy = [scan for scan in scans if scan.group == "healthy/calibration"]
    if not validation or not healthy:
        raise InputError(
            "Calibration needs labelled validation cases and healthy subjects that were not "
            "trained on; name them in split.json, as in tumour.validation and "
            "healthy.calibration."
        )
    detection = checkpoint.specification.detection.replace(**changes, false_alarms=None)
    specification = checkpoint.specification.replace(detection=detection)
    checkpoint = replace(checkpoint, specification=specification)

    choice, measured = choose_threshold(checkpoint, validation, report)
    threshold = round(choice.threshold, 4)
    maps, errors = _reconstruct_healthy(checkpoint, healthy, report)
    alarms, found = measure_false_alarms(maps, threshold, detection.minimum_ml, report)
    groups = ", ".join(sorted({scan.group for scan in validation}))
    return specification.replace(
        detection=detection.replace(
            threshold=threshold,
            threshold_source=f"best mean Dice over {len(validation)} labelled cases ({groups})",
            false_alarms=alarms,
        ),
        evaluation={"validation": measured, **found, RECONSTRUCTION_KEY: healthy_range(errors)},
    )


def choose_threshold(
    checkpoint: Checkpoint, validation: Sequence[LabelledScan], report: Report
) -> tuple[DiceThreshold, dict[str, float]]:
    """Choose the threshold with the best mean Dice, and measure the validation scans.

    Returns
    -------
    choice : DiceThreshold
    measured : dict of str to float
        Means over the scans.
    """
    score = checkpoint.specification.detection.score
    pairs, rows = [], []
    for scan in validation:
        report(f"{scan.group}: {scan.name}")
        result = run(scan.volume, checkpoint, DetectionSettings(regions=False), scan.brain)
        scores, lesion = result.anomaly.data[scan.brain], scan.lesion[scan.brain]
        pairs.append((scores, lesion))
        ours = SortedScores.of(scores, lesion)
        baselines = intensity_baselines(
            scan.volume, scan.brain, smoothing_mm=score.smoothing_mm, erosion_mm=score.erosion_mm
        )
        by_intensity = [SortedScores.of(map_[scan.brain], lesion) for map_ in baselines.values()]
        rows.append(
            {
                "prevalence": float(lesion.mean()),
                "auprc": ours.auprc,
                "auroc": ours.auroc or 0.0,
                "best_dice": ours.best_dice,
                "auprc_of_best_intensity_baseline": max(b.auprc or 0.0 for b in by_intensity),
                "best_dice_of_best_intensity_baseline": max(
                    b.best_dice or 0.0 for b in by_intensity
                ),
            }
        )
        scan.forget()
    choice = threshold_by_dice(pairs)
    return choice, {
        "cases": len(rows),
        **{name: round(float(np.mean([r[name] for r in rows])), 3) for name in rows[0]},
        "dice_at_threshold": round(choice.mean_dice, 3),
    }


def _reconstruct_healthy(
    checkpoint: Checkpoint, healthy: Sequence[LabelledScan], report: Report
) -> tuple[list[HealthyMap], list[float]]:
    """Anomaly maps of healthy brains, and the errors of their reconstructions."""
    maps, errors = [], []
    for scan in healthy:
        report(f"{scan.group}: {scan.name}")
        result = run(scan.volume, checkpoint, DetectionSettings(regions=False), scan.brain)
        maps.append(HealthyMap(result.anomaly.data, scan.brain, scan.volume.spacing))
        prepared = prepare(scan.volume, checkpoint.specification.preparation, scan.brain)
        errors.append(reconstruction_error(prepared, result))
        scan.forget()
    return maps, errors


def measure_false_alarms(
    maps: Sequence[HealthyMap], threshold: float, minimum_ml: float, report: Report
) -> tuple[FalseAlarmSpecification, dict[str, Any]]:
    """Measure the curve of false alarms, and the false alarms at a threshold.

    Returns
    -------
    alarms : FalseAlarmSpecification
    found : dict
        Figures at the threshold and, with three brains or more, those of leave-one-out.
    """
    report("curve of false alarms")
    curve = false_alarm_curve(maps, minimum_ml=minimum_ml)
    alarms = FalseAlarmSpecification(
        thresholds=tuple(round(t, 6) for t in curve.thresholds),
        mean_ml=tuple(round(ml, 3) for ml in curve.mean_ml),
        minimum_ml=curve.minimum_ml,
        subjects=curve.subjects,
    )
    marked = [_marked_ml(map_, threshold, minimum_ml) for map_ in maps]
    found: dict[str, Any] = {
        "healthy_calibration": {
            "subjects": len(marked),
            "false_positive_ml_mean": round(float(np.mean(marked)), 2),
            "false_positive_ml_max": round(float(np.max(marked)), 2),
        }
    }
    if len(maps) > 2:
        report("leave-one-out")
        kept = []
        for n, held in enumerate(maps):
            others = [*maps[:n], *maps[n + 1 :]]
            promised = threshold_by_false_alarms(others, PROMISED_ML, minimum_ml=minimum_ml)
            kept.append(_marked_ml(held, promised, minimum_ml))
        found["leave_one_out"] = {
            "subjects": len(kept),
            "promised_ml": PROMISED_ML,
            "found_ml_mean": round(float(np.mean(kept)), 2),
            "found_ml": [round(ml, 2) for ml in kept],
        }
    return alarms, found


def _marked_ml(healthy: HealthyMap, threshold: float, minimum_ml: float) -> float:
    judged = healthy_case(
        healthy.anomaly,
        healthy.brain_mask,
        threshold,
        spacing=healthy.spacing,
        minimum_ml=minimum_ml,
    )
    return judged.false_positive_ml
