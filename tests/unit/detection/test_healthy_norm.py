"""What healthy brains show at the same place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, save_checkpoint
from napari_addm.checkpoint.specification import MAP_PARTS, HealthyNormSpecification
from napari_addm.detection.healthy_norm import (
    SHAPE,
    BrainBox,
    Norm,
    beyond_norm,
    in_deviations,
    measure_norm,
    norms_of,
    to_tensors,
)
from napari_addm.detection.maps import CUT
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, CheckpointError
from napari_addm.findings.computed import computed_findings

NORM = HealthyNormSpecification(
    share=0.5,
    smoothing_mm=6.0,
    erosion_mm=4.0,
    darker_unit=0.02,
    brighter_unit=0.03,
    brains=3,
    source="made up",
)
PLAIN = DetectionSettings(regions=False)


def symmetric(seed: int) -> np.ndarray:
    half = np.random.default_rng(seed).random((*SHAPE[:2], SHAPE[2] // 2))
    return np.concatenate([half, half[..., ::-1]], axis=2).astype(np.float32)


def test_places_and_voxels_agree_within_the_box() -> None:
    mask = np.zeros((50, 70, 60), bool)
    mask[8:43, 5:66, 10:52] = True
    box = BrainBox.of(mask)
    z, y, x = np.indices(mask.shape).astype(np.float32)
    linear = 0.5 * z + 2 * y - x
    back = box.to_grid(box.to_places(linear))
    inside = (slice(9, 42), slice(6, 65), slice(11, 51))
    np.testing.assert_allclose(back[inside], linear[inside], atol=1e-2)
    assert box.to_grid(np.ones(SHAPE)).min() == 1  # also beyond the box


def test_the_box_leaves_out_single_voxels() -> None:
    mask = np.zeros((50, 70, 60), bool)
    mask[8:43, 5:66, 10:52] = True
    spur = mask.copy()
    spur[25, 35, 52:] = True
    np.testing.assert_allclose(BrainBox.of(spur).high, BrainBox.of(mask).high)


def test_mean_and_deviation_of_equal_groups() -> None:
    everywhere = np.ones(SHAPE, np.float32)
    brains = [("one", everywhere * n, everywhere) for n in (1.0, 3.0)]
    brains += [("two", everywhere * 8, everywhere)] * 6
    norm = measure_norm(brains)
    np.testing.assert_allclose(norm.mean, (2 + 8) / 2, rtol=1e-5)
    np.testing.assert_allclose(norm.deviation, (1 + 0) / 2, rtol=1e-5)


def test_both_halves_are_alike_and_rare_places_get_the_median() -> None:
    values, weight = np.full(SHAPE, 2.0, np.float32), np.ones(SHAPE, np.float32)
    values[:, :, :20] = 4.0
    weight[:5] = 0.0
    norm = measure_norm([("one", values * weight, weight)] * 3)
    np.testing.assert_allclose(norm.mean, norm.mean[..., ::-1])
    np.testing.assert_allclose(norm.mean, 3.0, rtol=1e-5)


def test_scores_beyond_the_norm_begin_at_the_lowest_percent() -> None:
    inner = np.ones((10, 10, 10), bool)
    inner[0] = False
    values = np.arange(1000, dtype=np.float32).reshape(inner.shape)
    norm = Norm(values * 0.5, np.full(inner.shape, 2.0, np.float32))
    beyond = beyond_norm(values, norm, inner, share=1.0)
    expected = np.maximum(values / 2 - np.percentile(values[inner] / 2, 1), 0)
    np.testing.assert_allclose(beyond, np.where(inner, expected, 0), rtol=1e-5)
    deviations = in_deviations(values, norm, inner)
    np.testing.assert_allclose(deviations, beyond / 4, rtol=1e-5)  # 2 here and 2 on median


@pytest.fixture(scope="module")
def normed(tiny_checkpoint: Path) -> Checkpoint:
    tiny = load_checkpoint(tiny_checkpoint)
    detection = tiny.specification.detection.replace(healthy_norm=NORM)
    norms = {name: Norm(symmetric(n), symmetric(n + 3)) for n, name in enumerate(MAP_PARTS)}
    return replace(
        tiny,
        specification=tiny.specification.replace(detection=detection),
        weights=tiny.weights | to_tensors(norms),
        sha256="normed",
    )


def test_a_checkpoint_keeps_its_norms(normed: Checkpoint, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "n.safetensors", normed.specification, normed.weights)
    for n, name in enumerate(MAP_PARTS):
        norm = norms_of(load_checkpoint(path))[name]
        np.testing.assert_allclose(norm.mean, symmetric(n), atol=1e-3)
        np.testing.assert_allclose(norm.deviation, symmetric(n + 3), atol=1e-3)


def test_norms_that_do_not_fit_are_refused(normed: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    without = normed.specification.detection.replace(healthy_norm=None)
    mean = normed.weights["healthy.darker.mean"]
    short = {"healthy.darker.mean": mean[:7]}
    huge = {"healthy.darker.mean": mean.float() * 1e30}
    negative = {"healthy.darker.deviation": -mean}
    whole = {"healthy.darker.mean": mean.to(torch.int64)}
    for specification, weights in (
        (normed.specification, normed.weights | huge),
        (normed.specification, normed.weights | negative),
        (normed.specification, normed.weights | whole),
        (normed.specification, normed.network_weights),
        (normed.specification.replace(detection=without), normed.weights),
        (normed.specification, normed.weights | short),
    ):
        save_checkpoint(path, specification, weights)
        with pytest.raises(CheckpointError, match="its healthy norms are not those"):
            load_checkpoint(path)


def test_a_run_has_both_maps_and_says_which_found_what(normed: Checkpoint, make_brain) -> None:
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = [-80, -95, -70]
    scan = make_brain(affine, (41, 48, 29), ((25.0, -20.0, 15.0, 16.0),))
    found = run(scan, normed, PLAIN)
    assert found.settings.healthy_norm is True
    assert found.brightness is not None
    outside = found.brain_mask.data == 0
    assert not found.brightness.data[outside].any()
    np.testing.assert_array_equal(
        found.highest, np.maximum(found.anomaly.data, np.abs(found.brightness.data))
    )
    threshold = float(np.percentile(found.highest[~outside], 80))
    assert len(computed_findings(found, float(found.highest.max()), 0.0)[1]) == 0
    labels, findings = computed_findings(found, threshold, 0.0)
    np.testing.assert_array_equal(labels > 0, (found.highest > threshold) & ~outside)
    for finding in findings:
        here = labels == finding.id
        score, brightness = found.anomaly.data[here], found.brightness.data[here]
        ours = np.abs(brightness) >= score
        shares = {
            "structure": np.mean(~ours),
            "darker": np.mean(ours & (brightness < 0)),
            "brighter": np.mean(ours & (brightness > 0)),
        }
        assert finding.found_by is not None
        assert set(finding.found_by.split(" + ")) == {n for n, s in shares.items() if s >= 0.1}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_cut_brain_is_known(normed: Checkpoint, make_brain, axis: int, share: float) -> None:
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = [-80, -95, -70]
    scan = make_brain(affine, (41, 48, 29))
    assert CUT not in run(scan, normed, PLAIN).warnings
    values = np.moveaxis(scan.data.copy(), axis, 0)
    places = np.flatnonzero(values.any(axis=(1, 2)))
    values[: places[round(share * len(places))]] = 0
    cut = scan.with_data(np.moveaxis(values, 0, axis))
    assert CUT in run(cut, normed, PLAIN).warnings


def test_another_score_is_not_compared_with_healthy_brains(
    normed: Checkpoint, make_brain, tiny_checkpoint: Path
) -> None:
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = [-80, -95, -70]
    scan = make_brain(affine, (41, 48, 29))
    plain = run(scan, load_checkpoint(tiny_checkpoint), PLAIN.replace(score="absolute"))
    for settings in (PLAIN.replace(score="absolute"), PLAIN.replace(healthy_norm=False)):
        found = run(scan, normed, settings)
        assert found.brightness is None
        assert found.settings.healthy_norm is False
        assert all(f.found_by is None for f in computed_findings(found, 0.01, 0.0)[1])
    again = run(scan, normed, PLAIN.replace(score="absolute"))
    np.testing.assert_array_equal(again.anomaly.data, plain.anomaly.data)
    with pytest.raises(AddmError, match="no healthy norm for this score"):
        run(scan, normed, PLAIN.replace(score="absolute", healthy_norm=True))
