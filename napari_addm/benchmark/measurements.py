"""What is measured of one case: its maps, and its figures under each protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.benchmark.cache import Maps
from napari_addm.benchmark.systems import BenchmarkSettings
from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import (
    ModelSpecification,
    ScoreSpecification,
)
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.metrics.intensity_baselines import intensity_baselines
from napari_addm.metrics.protocols import anoddpm_case, anoddpm_slices, healthy_case, strict_case
from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.metrics.thresholds import threshold_by_dice
from napari_addm.registry import METHODS
from napari_addm.training.labelled_scans import LabelledScan

SMOOTHING_MM = 6.0
EROSION_MM = 4.0
MINIMUM_ML = 0.5
DEFAULT_SCORE = "structure, symmetry"
SCORES: dict[str, ScoreSpecification] = {
    name: ScoreSpecification(
        kind=name.removesuffix(", symmetry"),
        smoothing_mm=SMOOTHING_MM,
        erosion_mm=EROSION_MM,
        symmetry=name.endswith(", symmetry"),
    )
    # with left compared with right as the small presets score: most lesions lie on one side
    for name in ("absolute", "ssim", "structure", DEFAULT_SCORE)
}
"""Scores that every system is measured with; the best one on validation is its row."""
SCORES_KEY = {kind: score.model_dump() for kind, score in SCORES.items()}
SQUARED = ScoreSpecification(kind="squared", smoothing_mm=0.0, erosion_mm=0.0)

Row = dict[str, Any]


def one_at_a_time(cases: Iterable[LabelledScan]) -> Iterator[LabelledScan]:
    """Yield cases, and free the memory of each before the next."""
    for case in cases:
        yield case
        case.forget()


def detection_settings(settings: BenchmarkSettings, seed: int, **options: Any) -> DetectionSettings:
    """Return the settings of a detection with these options."""
    return DetectionSettings(
        seed=seed,
        device=settings.device,
        precision=settings.precision,
        regions=False,
        **options,
    )


def strict_settings(
    settings: BenchmarkSettings, seed: int, specification: ModelSpecification
) -> DetectionSettings:
    """Return the settings of the strict protocol, the same for all systems as far as they go."""
    method = METHODS[specification.method]
    steps = settings.steps if method.noise_levels else None
    draws = settings.draws if method.random else None
    if draws is not None:
        draws = min(draws, specification.detection.draws)
    return detection_settings(settings, seed, steps=steps, draws=draws)


def anoddpm_settings(
    settings: BenchmarkSettings, seed: int, specification: ModelSpecification
) -> DetectionSettings:
    """Return the settings of AnoDDPM's protocol: its own steps from a quarter of T."""
    sampling: dict[str, Any] = {}
    if specification.diffusion is not None:
        level = specification.diffusion.timesteps // 4
        steps = min(level, settings.anoddpm_steps)
        sampling = {"level": level, "steps": steps, "sampler": "anoddpm"}
    return detection_settings(settings, seed, draws=1, **sampling)


def curve_settings(
    settings: BenchmarkSettings, seed: int, specification: ModelSpecification
) -> Iterator[tuple[str, float, DetectionSettings]]:
    """Yield the points of the curves: kind, place on the axis, and settings."""
    diffusion, level = specification.diffusion, specification.detection.level
    if diffusion is None or level is None:
        return
    points: list[tuple[str, float, int, int]] = [
        ("steps", steps, level, steps) for steps in settings.curve_steps if steps <= level
    ]
    points += [
        ("level", share, max(1, round(share * diffusion.timesteps)), 1)
        for share in settings.curve_levels
    ]
    for kind, x, noise_level, steps in points:
        yield kind, x, detection_settings(settings, seed, level=noise_level, steps=steps, draws=1)


def is_validation(case: LabelledScan) -> bool:
    """Return whether thresholds and scores are chosen on this case."""
    return case.group.endswith("/validation")


def intensity_maps(case: LabelledScan) -> Maps:
    """Compute anomaly maps of a case without a model."""
    maps = intensity_baselines(
        case.volume, case.brain, smoothing_mm=SMOOTHING_MM, erosion_mm=EROSION_MM
    )
    smoothed = {name: map_ for name, map_ in maps.items() if ", smoothed" in name}
    return Maps(
        {name: map_[case.brain] for name, map_ in smoothed.items()},
        {name: map_[case.shown_slice] for name, map_ in smoothed.items()},
    )


def model_maps(checkpoint: Checkpoint, settings: DetectionSettings, case: LabelledScan) -> Maps:
    """Compute a model's anomaly maps of a case, one for each score."""
    detection = run(case.volume, checkpoint, settings, case.brain)
    maps = Maps({}, {"reconstruction": detection.reconstruction.data[case.shown_slice]})
    for kind, score in SCORES.items():
        anomaly = detection.rescored(score).anomaly.data
        maps.scores[kind] = anomaly[case.brain]
        maps.pictures[kind] = anomaly[case.shown_slice]
    return maps


def choose_thresholds(maps: Mapping[LabelledScan, Maps]) -> dict[str, float]:
    """Return the threshold of each score with the best mean Dice over the validation cases."""
    pairs: dict[str, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = {}
    for case in one_at_a_time(case for case in maps if is_validation(case)):
        for score, values in maps[case].scores.items():
            pairs.setdefault(score, []).append((values, case.lesion[case.brain]))
    return {score: threshold_by_dice(found).threshold for score, found in pairs.items()}


def strict_row(case: LabelledScan, scores: NDArray[np.float32], threshold: float) -> Row:
    """Measure a map under the strict protocol."""
    anomaly = np.zeros(case.volume.shape, np.float32)
    anomaly[case.brain] = scores
    spacing = case.volume.spacing
    if case.truth is None:
        healthy = healthy_case(
            anomaly, case.brain, threshold, spacing=spacing, minimum_ml=MINIMUM_ML
        )
        return asdict(healthy)
    strict = strict_case(
        anomaly, case.lesion, case.brain, threshold, spacing=spacing, minimum_ml=MINIMUM_ML
    )
    row = asdict(strict)
    return row | row.pop("further") | {"lesion_recall": strict.lesions.recall}


def anoddpm_row(checkpoint: Checkpoint, settings: DetectionSettings, case: LabelledScan) -> Row:
    """Measure four slices through a lesion under AnoDDPM's protocol."""
    slices = anoddpm_slices(case.lesion)
    detection = run(case.volume, checkpoint, settings.replace(slices=slices), case.brain)
    # model values 0..1 to -1..1
    error = 4.0 * detection.rescored(SQUARED).anomaly.data
    row = asdict(anoddpm_case(error, case.lesion, slices))
    row["auroc_full"] = row.pop("auc")  # over all pixels, air included
    return row


def auprc_row(checkpoint: Checkpoint, settings: DetectionSettings, case: LabelledScan) -> Row:
    """Measure the AUPRC of a case under each score."""
    lesion = case.lesion[case.brain]
    maps = model_maps(checkpoint, settings, case)
    return {k: SortedScores.of(scores, lesion).auprc or 0.0 for k, scores in maps.scores.items()}
