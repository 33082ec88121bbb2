"""The detection generator on a real network, driven as its users drive it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import stats
from threadpoolctl import threadpool_info

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.checkpoint.specification import ScoreSpecification
from napari_addm.detection.devices import free_memory
from napari_addm.detection.maps import Detection
from napari_addm.detection.pipeline import Progress, detect, run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.volume import Volume
from napari_addm.methods.networks import PackedUNet

EXACT = DetectionSettings(regions=False, device="cpu", precision="float32", steps=1)
Forward = Callable[[PackedUNet, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def scan(make_brain: Callable[..., Volume]) -> Volume:
    affine = np.diag([-5.0, 5.0, 6.0, 1.0])
    affine[:3, 3] = [80, -95, -70]
    return make_brain(affine, (33, 39, 24), ((25.0, -20.0, 15.0, 14.0),))


@pytest.fixture(scope="module")
def whole(scan: Volume, checkpoint: Checkpoint) -> Detection:
    return run(scan, checkpoint, EXACT)


@pytest.fixture
def disturb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replace what the network gives: ``disturb(function of (network, image, its answer))``."""
    original = PackedUNet.forward

    def install(change: Callable[..., torch.Tensor]) -> None:
        def forward(self: PackedUNet, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return change(image, lambda: original(self, image, timesteps))

        monkeypatch.setattr(PackedUNet, "forward", forward)

    return install


def changed(checkpoint: Checkpoint, **score: Any) -> Checkpoint:
    """The same network with another score as its default."""
    default = checkpoint.specification.detection
    default = default.model_copy(update={"score": default.score.model_copy(update=score)})
    specification = checkpoint.specification.model_copy(update={"detection": default})
    return replace(checkpoint, specification=specification)


def test_the_result_lies_on_the_scans_grid(scan: Volume, whole: Detection) -> None:
    for volume in (whole.anomaly, whole.reconstruction, whole.brain_mask):
        assert volume.same_grid(scan)
        assert volume.source is scan.source
    assert whole.done.all()
    assert whole.uncertainty is None
    brain = scan.data > 0
    assert (whole.anomaly.data[~brain] == 0).all()
    assert np.abs(whole.anomaly.data[brain]).max() > 0
    inside = whole.reconstruction.data[brain]
    assert scan.data[brain].min() * 0.5 < inside.min() < inside.max() < scan.data.max() * 1.5
    assert set(whole.seconds) == {"prepare", "load", "network", "score"}


def test_an_oblique_scan_gets_its_map_on_its_own_grid(
    make_brain: Callable[..., Volume], checkpoint: Checkpoint
) -> None:
    linear = nib.eulerangles.euler2mat(0.2, -0.15, 0.3) @ np.diag([-5.0, -5.0, 6.0])
    shape = (44, 50, 38)
    affine = nib.affines.from_matvec(linear, -linear @ ((np.array(shape) - 1) / 2))
    scan = make_brain(affine, shape)
    result = run(scan, checkpoint, EXACT)
    assert result.anomaly.same_grid(scan)
    assert result.done.all()
    some = result.reconstruction.data[result.brain_mask.data]
    assert (some != 0).mean() > 0.99


def test_every_network_call_is_reported(scan: Volume, checkpoint: Checkpoint) -> None:
    progress = list(detect(scan, checkpoint, EXACT.replace(batch_size=6)))
    calls = [p.done for p in progress if p.stage == "reconstruct" and p.result is None]
    assert calls == list(range(1, progress[-1].total + 1))
    assert progress[0].stage == "prepare"
    assert progress[-1].stage == "finish"
    eta = [p.eta for p in progress if p.eta is not None]
    assert eta[0] > 0
    assert eta[-1] == 0
    fresh = [s for p in progress for s in p.slices]
    assert sorted(fresh) == list(range(scan.shape[0]))  # each slice once
    pace = progress[-1].pace
    assert pace is not None
    assert pace.per_slice > pace.volume == 0


def test_partial_results_grow_from_the_visible_slice(
    scan: Volume, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SECONDS", 0.0)
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SHARE", 1.0)
    visible = int(np.flatnonzero((scan.data > 0).any(axis=(1, 2)))[5])
    settings = EXACT.replace(batch_size=2)
    progress = list(detect(scan, checkpoint, settings, first_slice=visible))
    results = [(p.slices, p.result) for p in progress if p.result is not None]
    assert len(results) > 2
    before = np.zeros(scan.shape[0], bool)
    for slices, result in results:
        assert result.done[before].all()
        assert np.flatnonzero(result.done & ~before).tolist() == list(slices)
        assert not result.anomaly.data[~result.done].any()
        before = result.done
    first, last = results[0][1], results[-1][1]
    shown = np.flatnonzero(first.done & (scan.data > 0).any(axis=(1, 2)))
    assert 0 < len(shown) < 8
    assert np.abs(shown - visible).min() <= 2
    done = first.done
    np.testing.assert_allclose(
        first.reconstruction.data[done], last.reconstruction.data[done], rtol=1e-3, atol=1e-2
    )
    np.testing.assert_array_equal(last.anomaly.data, run(scan, checkpoint, settings).anomaly.data)


def test_short_runs_and_single_slices_give_one_result(
    scan: Volume, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SECONDS", 3600.0)
    assert len([p for p in detect(scan, checkpoint, EXACT) if p.result is not None]) == 1
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SECONDS", 0.0)
    one = EXACT.replace(slices=(12,), batch_size=1)
    assert len([p for p in detect(scan, checkpoint, one) if p.result is not None]) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_result_does_not_depend_on_how_many_batches_run_at_a_time(
    scan: Volume, checkpoint: Checkpoint, precision: str
) -> None:
    """Two workers with one thread each, and one worker with one thread."""
    settings = EXACT.replace(precision=precision, draws=2, sampler="ddpm", steps=2, batch_size=6)
    *_, two = detect(scan, checkpoint, settings, threads=2)
    *_, one = detect(scan, checkpoint, settings, threads=1)
    assert one.result is not None
    assert two.result is not None
    assert (one.result.threads, two.result.threads) == (1, 2)
    for name in ("anomaly", "reconstruction", "uncertainty"):
        a, b = getattr(one.result, name), getattr(two.result, name)
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_leaves_the_numbers_of_threads_alone(
    scan: Volume, checkpoint: Checkpoint, threads: Callable[[int], None], count: int
) -> None:
    def blas_threads() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    before = blas_threads()
    threads(count)
    inside: list[int] = []
    run(scan, checkpoint, EXACT, on_progress=lambda _: inside.append(torch.get_num_threads()))
    assert set(inside) == {count}
    with ThreadPoolExecutor(1) as pool:  # a new thread
        assert pool.submit(torch.get_num_threads).result() == count
    assert blas_threads() == before


def test_the_grad_mode_of_the_caller_is_left_alone(scan: Volume, checkpoint: Checkpoint) -> None:
    for _ in detect(scan, checkpoint, EXACT):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
def test_the_result_does_not_depend_on_the_batch_size(
    scan: Volume, checkpoint: Checkpoint, sampler: str
) -> None:
    settings = EXACT.replace(sampler=sampler, eta=0.5, draws=2, seed=3, steps=2)
    a = run(scan, checkpoint, settings.replace(batch_size=64))
    b = run(scan, checkpoint, settings.replace(batch_size=5))
    np.testing.assert_allclose(a.reconstruction.data, b.reconstruction.data, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(a.anomaly.data, b.anomaly.data, atol=1e-5)
    assert a.uncertainty is not None
    assert b.uncertainty is not None
    np.testing.assert_allclose(a.uncertainty.data, b.uncertainty.data, atol=1e-5)
    assert a.uncertainty.data.max() > 0


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    scan: Volume, checkpoint: Checkpoint, whole: Detection
) -> None:
    np.testing.assert_array_equal(run(scan, checkpoint, EXACT).anomaly.data, whole.anomaly.data)
    other = run(scan, checkpoint, EXACT.replace(seed=1))
    assert np.abs(other.anomaly.data - whole.anomaly.data).max() > 1e-3


def test_bfloat16_stays_close_to_float32(
    scan: Volume, checkpoint: Checkpoint, whole: Detection
) -> None:
    half = run(scan, checkpoint, EXACT.replace(precision="bfloat16"))
    assert half.precision == "bfloat16"
    brain = whole.brain_mask.data
    difference = np.abs(half.anomaly.data - whole.anomaly.data)[brain]
    assert difference.mean() < 0.05 * np.abs(whole.anomaly.data[brain]).mean()


# --- single slices --------------------------------------------------------------------------------


def test_a_single_slice_is_as_within_the_volume(scan: Volume, checkpoint: Checkpoint) -> None:
    """As far as the Gaussian of the score reaches, which is cut at three deviations."""
    settings = EXACT.replace(score="absolute", smoothing_mm=5.0, symmetry=False)
    index = scan.shape[0] // 2
    whole = run(scan, checkpoint, settings)
    alone = run(scan, checkpoint, settings.replace(slices=(index,)))
    assert np.flatnonzero(alone.done).tolist() == [index]
    np.testing.assert_allclose(
        alone.reconstruction.data[index], whole.reconstruction.data[index], rtol=1e-4, atol=1e-2
    )
    np.testing.assert_allclose(alone.anomaly.data[index], whole.anomaly.data[index], atol=1e-5)
    for volume in (alone.anomaly, alone.reconstruction):
        assert not np.delete(volume.data, index, axis=0).any()
    without = run(scan, checkpoint, settings.replace(slices=(index,), context_mm=0.0))
    assert np.abs(without.anomaly.data[index] - whole.anomaly.data[index]).max() > 0.01


def test_a_slice_thinner_than_the_erosion_still_has_a_map(
    scan: Volume, checkpoint: Checkpoint
) -> None:
    index = scan.shape[0] // 2
    deep = changed(checkpoint, erosion_mm=10.0)  # slices are 6 mm apart
    alone = run(scan, deep, EXACT.replace(slices=(index,)))
    assert (alone.anomaly.data[index] != 0).sum() > 0.5 * (scan.data[index] > 0).sum()


# --- when something goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize("fits", [8, 3])
def test_smaller_batches_are_taken_when_memory_runs_out(
    scan: Volume, checkpoint: Checkpoint, whole: Detection, disturb: Any, fits: int
) -> None:
    """8 slices fit after another failure, one batch at a time; or 3 slices at most."""
    failed: list[bool] = []

    def scarce(image: torch.Tensor, answer: Callable[[], torch.Tensor]) -> torch.Tensor:
        if len(image) > fits or not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return answer()

    disturb(scarce)
    *_, last = detect(scan, checkpoint, EXACT.replace(batch_size=8), threads=2)
    result = last.result
    assert result is not None
    assert any("Out of memory" in warning for warning in result.warnings) == (fits < 8)
    np.testing.assert_allclose(result.anomaly.data, whole.anomaly.data, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (torch.OutOfMemoryError("out of memory"), AddmError, "single slice"),
        (RuntimeError("a fault in the code"), RuntimeError, "a fault in the code"),
    ],
)
def test_an_error_of_the_network_ends_the_run(
    scan: Volume,
    checkpoint: Checkpoint,
    disturb: Any,
    error: Exception,
    expected: type[Exception],
    words: str,
) -> None:
    def fail(image: torch.Tensor, answer: Callable[[], torch.Tensor]) -> torch.Tensor:
        raise error

    disturb(fail)
    with pytest.raises(expected, match=words):
        run(scan, checkpoint, EXACT)


def test_nan_in_a_short_format_goes_on_in_float32(
    scan: Volume, checkpoint: Checkpoint, whole: Detection, disturb: Any
) -> None:
    disturb(
        lambda image, answer: answer() * (float("nan") if image.dtype == torch.bfloat16 else 1.0)
    )
    result = run(scan, checkpoint, EXACT.replace(precision="bfloat16"))
    assert result.precision == "float32"
    assert any("NaN" in warning for warning in result.warnings)
    np.testing.assert_array_equal(result.anomaly.data, whole.anomaly.data)


def test_nan_in_float32_is_an_error(scan: Volume, checkpoint: Checkpoint, disturb: Any) -> None:
    disturb(lambda image, answer: answer() * float("nan"))
    with pytest.raises(AddmError, match="NaN or infinity"):
        run(scan, checkpoint, EXACT)


def test_weights_that_do_not_fit_the_specification_are_listed(
    scan: Volume, checkpoint: Checkpoint
) -> None:
    weights = dict(checkpoint.weights)
    name = next(n for n in weights if n.endswith("conv_in.conv.weight"))
    weights[name] = weights[name][:4]
    free_memory()
    with pytest.raises(AddmError, match=r"conv_in.*instead of"):
        run(scan, replace(checkpoint, weights=weights), EXACT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slices": (99,)}, "within 0..23"),
        ({"slices": (0,)}, "no brain"),
        ({"level": 1001}, "within 1..1000"),
        ({"device": "mps"}, "no device mps"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_words(
    scan: Volume, checkpoint: Checkpoint, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(AddmError, match=words):
        run(scan, checkpoint, EXACT.replace(**change))


# --- scores ---------------------------------------------------------------------------------------


def test_levels_beyond_the_training_are_flagged(scan: Volume, checkpoint: Checkpoint) -> None:
    trained = checkpoint.specification.model_copy(update={"training": {"highest_level": 150}})
    for level, flagged in ((150, False), (151, True)):
        settings = EXACT.replace(level=level, slices=(12,), context_mm=0.0)
        result = run(scan, replace(checkpoint, specification=trained), settings)
        assert any("never learned" in warning for warning in result.warnings) is flagged


def test_another_score_needs_no_network(
    scan: Volume, checkpoint: Checkpoint, whole: Detection
) -> None:
    score = ScoreSpecification(kind="absolute", smoothing_mm=5.0, erosion_mm=4.0, symmetry=True)
    again = whole.rescored(score)
    settings = EXACT.replace(score="absolute", smoothing_mm=5.0, symmetry=True)
    directly = run(scan, checkpoint, settings)
    np.testing.assert_array_equal(again.anomaly.data, directly.anomaly.data)
    np.testing.assert_array_equal(again.reconstruction.data, whole.reconstruction.data)
    assert (again.settings, again.warnings) == (directly.settings, directly.warnings)
    assert whole.settings.score == "signed"


def test_a_detection_made_by_hand_cannot_be_scored_again(whole: Detection) -> None:
    by_hand = Detection(
        whole.anomaly,
        whole.reconstruction,
        None,
        whole.brain_mask,
        whole.done,
        whole.seconds,
        whole.settings,
        whole.specification,
        "cpu",
        "float32",
        1,
    )
    assert by_hand.slices is None
    with pytest.raises(ValueError, match="by hand"):
        by_hand.rescored(whole.specification.detection.score)


def test_what_both_halves_show_is_subtracted_if_asked_for(
    scan: Volume, checkpoint: Checkpoint
) -> None:
    settings = EXACT.replace(score="absolute")
    plain = run(scan, checkpoint, settings)
    assert plain.settings.symmetry is False  # the checkpoint's default
    compared = run(scan, checkpoint, settings.replace(symmetry=True))
    assert (compared.anomaly.data <= plain.anomaly.data + 1e-6).all()
    assert compared.anomaly.data.min() >= 0
    brain = plain.anomaly.data > 0
    assert compared.anomaly.data[brain].mean() < 0.8 * plain.anomaly.data[brain].mean()
    np.testing.assert_array_equal(compared.reconstruction.data, plain.reconstruction.data)
    default = run(scan, changed(checkpoint, symmetry=True), settings)
    np.testing.assert_array_equal(default.anomaly.data, compared.anomaly.data)


def test_half_a_brain_is_compared_with_its_median(scan: Volume, checkpoint: Checkpoint) -> None:
    half = np.asarray(scan.data) > 0
    half[:, :, half.shape[2] // 2 :] = False
    result = run(scan, checkpoint, EXACT.replace(score="absolute", symmetry=True), half)
    assert any("too different to be compared" in warning for warning in result.warnings)
    plain = run(scan, checkpoint, EXACT.replace(score="absolute"), half)
    assert not any("too different" in warning for warning in plain.warnings)
    there = plain.anomaly.data > np.median(plain.anomaly.data[plain.anomaly.data > 0])
    ranks = stats.spearmanr(plain.anomaly.data[there], result.anomaly.data[there])
    assert ranks.statistic > 0.98


# --- cancelling -----------------------------------------------------------------------------------


def test_a_closed_generator_ends_the_network(scan: Volume, checkpoint: Checkpoint) -> None:
    progress = detect(scan, checkpoint, EXACT.replace(batch_size=1))
    known: list[Progress] = [next(progress), next(progress)]
    progress.close()  # type: ignore[attr-defined]
    assert known[-1].done == 1
    with pytest.raises(StopIteration):
        next(progress)
