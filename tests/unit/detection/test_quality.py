"""Quality flags: raised for what differs from the training set, and for nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.atlas import ScanRegions
from napari_addm.detection.pipeline import Detection, run
from napari_addm.detection.preparation import NOT_T1, HistogramStandardization, ModelSlices, prepare
from napari_addm.detection.quality import (
    FLAG_TITLES,
    MOST_HISTOGRAM_DISTANCE,
    RECONSTRUCTION_KEY,
    check_quality,
    healthy_range,
    histogram_distance,
    reconstruction_error,
)
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.contrast import OTHER_SCAN
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.remarks import Kind, of_kind
from napari_addm.io.volume import UNKNOWN_SIDES, Volume

GRID = np.array([[4, 0, 0, -84], [0, 4, 0, -100], [0, 0, 3, -75], [0, 0, 0, 1.0]])
THIN = np.array([[3, 0, 0, -81], [0, 3, 0, -96], [0, 0, 3, -75], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def brain(make_brain: Callable[..., Volume]) -> Volume:
    return make_brain(THIN, (54, 64, 50))


def like_training(volume: Volume, checkpoint: Checkpoint) -> Volume:
    """The same brain with the very histogram that the model was trained on."""
    rule = checkpoint.specification.preparation
    inside = volume.data != 0
    ranks = volume.data[inside].argsort().argsort()
    shares = 100 * ranks / (len(ranks) - 1)
    data = np.zeros_like(volume.data)
    # percentiles beyond the landmarks go on straight, as the intensity rule has them
    data[inside] = 1 + np.interp(shares, rule.percentiles, rule.landmarks)
    return volume.with_data(data)


def flags(slices: ModelSlices, checkpoint: Checkpoint, **more: Any) -> set[str]:
    return {flag.key for flag in check_quality(slices, checkpoint.specification, **more).flags}


def test_a_scan_like_those_of_the_training_has_no_flag(
    brain: Volume, checkpoint: Checkpoint
) -> None:
    preparation = checkpoint.specification.preparation
    quality = check_quality(
        prepare(like_training(brain, checkpoint), preparation), checkpoint.specification
    )
    assert quality.flags == ()
    assert quality.figures["brain_ml"] == pytest.approx(4 / 3 * np.pi * 7.5 * 9 * 6.5, rel=0.01)
    assert quality.figures["histogram_distance"] < 0.02
    assert quality.unchecked == ("reconstruction: not all slices were reconstructed",)
    unmeasured = checkpoint.specification.model_copy(update={"evaluation": {}})
    quality = check_quality(prepare(like_training(brain, checkpoint), preparation), unmeasured)
    assert quality.unchecked == ("reconstruction: the checkpoint has no range of healthy brains",)


def test_every_way_to_differ_has_its_flag(
    brain: Volume, checkpoint: Checkpoint, make_brain: Callable[..., Volume]
) -> None:
    preparation = checkpoint.specification.preparation
    usual = like_training(brain, checkpoint)

    unknown = replace(usual, warnings=(UNKNOWN_SIDES,))
    assert flags(prepare(unknown, preparation), checkpoint) == {"orientation"}

    thick = like_training(make_brain(GRID, (42, 50, 50)), checkpoint)
    assert flags(prepare(thick, preparation), checkpoint) == {"slice_thickness"}

    tiny = usual.data.copy()
    tiny[:36] = 0
    found = flags(prepare(usual.with_data(tiny), preparation), checkpoint)
    assert "brain_volume" in found

    inverted = np.where(usual.data > 0, 3 - usual.data, 0).astype(np.float32)
    assert "contrast" in flags(prepare(usual.with_data(inverted), preparation), checkpoint)

    squared = np.where(usual.data > 0, usual.data**6, 0).astype(np.float32)
    assert flags(prepare(usual.with_data(squared), preparation), checkpoint) == {"intensities"}
    assert set(FLAG_TITLES) >= {"orientation", "slice_thickness", "brain_volume", "contrast"}


def test_what_is_no_t1_brain_is_an_alarm(brain: Volume, checkpoint: Checkpoint) -> None:
    usual = like_training(brain, checkpoint)
    inside = usual.data > 0
    noise = np.random.default_rng(0).normal(100, 20, usual.shape)
    other = {"inverted": 3 - usual.data, "noise": noise}
    for name, values in other.items():
        scan = usual.with_data(np.where(inside, values, 0).astype(np.float32))
        slices = prepare(scan, checkpoint.specification.preparation)
        quality = check_quality(slices, checkpoint.specification)
        alarms = of_kind(Kind.ALARM, quality.remarks)
        assert alarms == [NOT_T1], name
        assert alarms == of_kind(Kind.ALARM, slices.warnings), name
        assert not of_kind(Kind.CAUTION, quality.remarks), name  # the alarm explains them
    named = replace(usual, warnings=(OTHER_SCAN,))
    quality = check_quality(
        prepare(named, checkpoint.specification.preparation), checkpoint.specification
    )
    assert [(flag.key, flag.kind) for flag in quality.flags] == [("other_scan", Kind.ALARM)]


def test_neither_anatomy_nor_intensities(
    detected: tuple[Checkpoint, ModelSlices, Detection], checkpoint: Checkpoint
) -> None:
    _, slices, detection = detected

    def kinds(similarity: float, overlap: float, source: list[float]) -> dict[str, Kind]:
        rule = HistogramStandardization(np.array(source), np.array([0.0, 0.5, 1.0]))
        regions = ScanRegions(None, (), similarity, overlap)
        found = check_quality(
            replace(slices, intensity=rule),
            checkpoint.specification,
            replace(detection, regions=regions),
        )
        return {flag.key: flag.kind for flag in found.flags}

    odd, usual = [0.0, 0.2, 1.0], [0.0, 0.5, 1.0]
    assert kinds(0.3, 0.97, odd)["anatomy"] is Kind.ALARM
    assert "anatomy" not in kinds(0.3, 0.97, usual)
    assert "anatomy" not in kinds(0.6, 0.97, odd)
    assert "anatomy" not in kinds(0.0, 0.0, odd)  # it could not be measured
    assert kinds(0.6, 0.97, odd)["intensities"] is Kind.CAUTION


def test_the_histogram_distance_is_in_shares_of_the_range() -> None:
    target = np.array([0.1, 0.5, 0.9])
    assert histogram_distance(HistogramStandardization(target * 700 + 30, target)) == pytest.approx(
        0
    )
    moved = np.array([100.0, 130.0, 200.0])
    assert histogram_distance(HistogramStandardization(moved, target)) == pytest.approx(0.2)
    assert histogram_distance(HistogramStandardization(moved[[0, 2]], target[[0, 2]])) is None
    assert MOST_HISTOGRAM_DISTANCE < 0.2


@pytest.fixture(scope="module")
def detected(tiny_checkpoint: Any, brain: Volume) -> tuple[Checkpoint, ModelSlices, Detection]:
    checkpoint = load_checkpoint(tiny_checkpoint)
    slices = prepare(brain, checkpoint.specification.preparation)
    return checkpoint, slices, run(brain, checkpoint, DetectionSettings(regions=False, seed=1))


def test_the_reconstruction_is_held_against_the_range_of_healthy_brains(
    detected: tuple[Checkpoint, ModelSlices, Detection],
) -> None:
    checkpoint, slices, detection = detected
    error = reconstruction_error(slices, detection)
    assert 0 < error < 1

    def keys(low: float, high: float, detection: Detection | None = detection) -> tuple[Any, Any]:
        evaluation = {RECONSTRUCTION_KEY: {"low": low, "high": high, "subjects": 3}}
        specification = checkpoint.specification.model_copy(update={"evaluation": evaluation})
        quality = check_quality(slices, specification, detection)
        return {flag.key for flag in quality.flags} & {"reconstruction"}, quality.unchecked

    assert keys(error * 0.9, error * 1.1) == (set(), ())
    assert keys(error * 1.1, error * 1.2) == ({"reconstruction"}, ())
    assert keys(0.0, error * 0.9) == ({"reconstruction"}, ())
    assert keys(0.0, 1.0, None)[1] == ("reconstruction: not all slices were reconstructed",)
    other = replace(detection, settings=detection.settings.replace(steps=1))
    assert keys(0.0, 1.0, other)[1] == (
        "reconstruction: the range is for the checkpoint's own settings",
    )


def test_a_perfect_reconstruction_has_no_error(
    detected: tuple[Checkpoint, ModelSlices, Detection],
) -> None:
    _, slices, detection = detected
    assert reconstruction_error(slices, replace(detection, reconstruction=slices.volume)) == 0
    # a lesion that fills less than half of the brain does not count
    lesion = slices.volume.data.copy()
    lesion[: lesion.shape[0] // 3] *= 0.2
    assert reconstruction_error(
        slices, replace(detection, reconstruction=slices.volume.with_data(lesion))
    ) == pytest.approx(0, abs=1e-6)


def test_the_range_of_healthy_brains_is_wider_than_what_was_seen() -> None:
    assert healthy_range([0.02, 0.04, 0.03]) == {"low": 0.01, "high": 0.05, "subjects": 3}
    assert healthy_range([0.001, 0.021])["low"] == 0
