"""Choosing a checkpoint's threshold, and measuring what it finds in healthy brains."""

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
from napari_addm.metrics.protocols import (
    HealthyMap,
    false_alarm_curve,
    healthy_case,
    threshold_by_dice,
    threshold_by_false_alarms,
)
from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.training.labelled_scans import Case

PROMISED_ML = 5.0
"""False alarm per brain at which the promise is tried on subjects it was not measured on."""


def calibrate(
    checkpoint: Checkpoint,
    cases: Sequence[Case],
    changes: dict[str, Any],
    *,
    report: Callable[[str], None] = lambda line: None,
) -> ModelSpecification:
    """Give a checkpoint a threshold, a curve of false alarms, and figures.

    The threshold has the best mean Dice over the labelled validation cases. The
    curve comes from healthy brains that were not trained on, and says for every
    threshold how many mL it marks in such a brain.

    Parameters
    ----------
    checkpoint : Checkpoint
    cases : sequence of Case
        Those of groups that end in ``/validation``, and of ``healthy/calibration``,
        are used; test cases are not looked at.
    changes : dict
        Detection defaults to change first, fields of
        :class:`napari_addm.checkpoint.specification.DetectionSpecification`.

    Returns
    -------
    ModelSpecification
        With new ``detection`` and ``evaluation``.

    Raises
    ------
    InputError
        If there are no validation cases or no healthy brains to calibrate on.
    """
    validation = [case for case in cases if case.group.endswith("/validation")]
    healthy = [case for case in cases if case.group == "healthy/calibration"]
    if not validation or not healthy:
        raise InputError(
            "Calibration needs labelled validation cases and healthy subjects that were not "
            "trained on; name them in split.json, as in tumour.validation and "
            "healthy.calibration."
        )
    specification = checkpoint.specification
    detection = specification.detection.replace(**changes, false_alarms=None)
    specification = specification.replace(detection=detection)
    detection = specification.detection
    checkpoint = replace(checkpoint, specification=specification)

    pairs, rows = [], []
    for case in validation:
        report(f"{case.group}: {case.name}")
        result = run(case.volume, checkpoint, DetectionSettings(), case.brain)
        scores, lesion = result.anomaly.data[case.brain], case.lesion[case.brain]
        pairs.append((scores, lesion))
        ours = SortedScores.of(scores, lesion)
        baselines = intensity_baselines(
            case.volume,
            case.brain,
            smoothing_mm=detection.score.smoothing_mm,
            erosion_mm=detection.score.erosion_mm,
        )
        by_intensity = [SortedScores.of(map_[case.brain], lesion) for map_ in baselines.values()]
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
        case.forget()
    chosen = threshold_by_dice(pairs)
    threshold = round(chosen.threshold, 4)

    maps, found, errors = [], [], []
    for case in healthy:
        report(f"{case.group}: {case.name}")
        result = run(case.volume, checkpoint, DetectionSettings(), case.brain)
        maps.append(HealthyMap(result.anomaly.data, case.brain, case.volume.spacing))
        prepared = prepare(case.volume, specification.preparation, case.brain)
        errors.append(reconstruction_error(prepared, result))
        judged = healthy_case(
            result.anomaly.data,
            case.brain,
            threshold,
            spacing=case.volume.spacing,
            minimum_ml=detection.minimum_ml,
        )
        found.append(judged.false_positive_ml)
        case.forget()
    report("curve of false alarms")
    curve = false_alarm_curve(maps, minimum_ml=detection.minimum_ml)
    alarms = FalseAlarmSpecification(
        thresholds=tuple(round(t, 6) for t in curve.thresholds),
        mean_ml=tuple(round(ml, 3) for ml in curve.mean_ml),
        minimum_ml=curve.minimum_ml,
        subjects=curve.subjects,
    )
    evaluation: dict[str, Any] = {
        "validation": {
            "cases": len(rows),
            **{name: round(float(np.mean([r[name] for r in rows])), 3) for name in rows[0]},
            "dice_at_threshold": round(chosen.mean_dice, 3),
        },
        "healthy_calibration": {
            "subjects": len(found),
            "false_positive_ml_mean": round(float(np.mean(found)), 2),
            "false_positive_ml_max": round(float(np.max(found)), 2),
        },
        RECONSTRUCTION_KEY: healthy_range(errors),
    }
    if len(maps) > 2:
        report("the promise, on subjects it was not measured on")
        kept = [
            _found_when_promised(maps[:n] + maps[n + 1 :], held, detection.minimum_ml)
            for n, held in enumerate(maps)
        ]
        evaluation["leave_one_out"] = {
            "subjects": len(kept),
            "promised_ml": PROMISED_ML,
            "found_ml_mean": round(float(np.mean(kept)), 2),
            "found_ml": [round(ml, 2) for ml in kept],
        }
    names = ", ".join(sorted({case.group for case in validation}))
    detection = detection.model_copy(
        update={
            "threshold": threshold,
            "threshold_source": f"best mean Dice over {len(rows)} labelled cases ({names})",
            "false_alarms": alarms,
        }
    )
    return specification.model_copy(update={"detection": detection, "evaluation": evaluation})


def _found_when_promised(others: list[HealthyMap], held: HealthyMap, minimum_ml: float) -> float:
    threshold = threshold_by_false_alarms(others, PROMISED_ML, minimum_ml=minimum_ml)
    judged = healthy_case(
        held.anomaly, held.brain_mask, threshold, spacing=held.spacing, minimum_ml=minimum_ml
    )
    return judged.false_positive_ml
