"""The detection generator, on a real network, driven as its users drive it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest
import torch
from scipy import stats
from threadpoolctl import threadpool_info

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.checkpoint.specification import ScoreSpecification
from napari_addm.detection import pipeline as detection
from napari_addm.detection.lanes import network_threads, torch_threads
from napari_addm.detection.pipeline import detect, free_memory, run
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError
from napari_addm.io.volume import Volume
from napari_addm.methods.networks import PackedUNet

EXACT = DetectionSettings(device="cpu", precision="float32")
BLAS_THREADS = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def scan(make_brain) -> Volume:
    affine = np.diag([-3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [80, -95, -70]
    return make_brain(affine, (54, 64, 36), ((25.0, -20.0, 15.0, 14.0),))


@pytest.fixture(scope="module")
def whole(scan, checkpoint):
    return run(scan, checkpoint, EXACT)


def test_the_result_lies_on_the_scans_grid(scan, whole):
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


def test_partial_results_lose_nothing_to_memory_that_comes_late(
    scan, checkpoint, whole, monkeypatch
):
    """What is taken beside the network must not wipe out what the network has given by then."""
    take = detection._State.take_memory

    def late(state) -> None:
        time.sleep(1.0)
        take(state)

    monkeypatch.setattr(detection._State, "take_memory", late)
    *_, last = detect(scan, checkpoint, EXACT)
    np.testing.assert_array_equal(last.result.anomaly.data, whole.anomaly.data)
    np.testing.assert_array_equal(last.result.reconstruction.data, whole.reconstruction.data)


def test_every_call_of_the_network_is_reported(scan, checkpoint):
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
    assert progress[-1].result.seconds["network"] > 0


def test_slices_fill_outward_from_the_visible_one(scan, checkpoint):
    brain = np.flatnonzero((scan.data > 0).any(axis=(1, 2)))
    visible = int(brain[6])
    for p in detect(scan, checkpoint, EXACT.replace(batch_size=4), first_slice=visible):
        if p.result is not None:
            assert visible in p.slices
            assert p.result.done[visible]
            assert not p.result.done.all()
            break


def test_finished_slices_of_a_cancelled_run_stay(scan, checkpoint):
    """Smoothing looks at what is finished; the reconstruction itself does not change."""
    generator = detect(scan, checkpoint, EXACT.replace(batch_size=4))
    result = next(p.result for p in generator if p.result is not None)
    generator.close()
    rest = run(scan, checkpoint, EXACT)
    done = result.done
    np.testing.assert_allclose(
        result.reconstruction.data[done], rest.reconstruction.data[done], rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("lanes", [1, 2])
def test_cancel_comes_within_one_step(scan, checkpoint, monkeypatch, threads, lanes):
    threads(2)
    monkeypatch.setattr("napari_addm.detection.lanes.LANES", lanes)
    called = []
    original = PackedUNet.forward

    def counting(self, image, timesteps):
        called.append(len(image))
        return original(self, image, timesteps)

    monkeypatch.setattr(PackedUNet, "forward", counting)
    generator = detect(scan, checkpoint, EXACT)
    while not called:
        next(generator)
    generator.close()
    assert 1 <= len(called) <= lanes  # what was on its way, and no other


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_calls_side_by_side_give_the_same_to_the_digit(
    scan, checkpoint, monkeypatch, threads, precision
):
    """One lane and two, each with one thread."""
    settings = EXACT.replace(precision=precision, draws=3, sampler="ddpm")
    results = []
    for lanes in (1, 2):
        threads(lanes)
        monkeypatch.setattr("napari_addm.detection.lanes.LANES", lanes)
        results.append(run(scan, checkpoint, settings))
    one, two = results
    np.testing.assert_array_equal(one.anomaly.data, two.anomaly.data)
    np.testing.assert_array_equal(one.reconstruction.data, two.reconstruction.data)
    np.testing.assert_array_equal(one.uncertainty.data, two.uncertainty.data)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_threads_of_the_process_stay_as_they_were(scan, checkpoint, threads, count):
    threads(count)
    inside = []

    def note(progress):
        inside.append(torch.get_num_threads())

    run(scan, checkpoint, EXACT, on_progress=note)
    assert set(inside) == {count}
    with ThreadPoolExecutor(1) as pool:  # a thread that is new
        assert pool.submit(torch.get_num_threads).result() == count
    blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
    assert blas == BLAS_THREADS


def test_a_thread_that_begins_while_lanes_start_counts_all_threads(threads):
    """It would keep the share of a lane for good, if it took that for torch's number."""
    threads(2)
    counted, over = [], Event()

    def count():
        while not over.is_set():
            with ThreadPoolExecutor(1) as fresh:
                counted.append(fresh.submit(torch_threads).result())

    with ThreadPoolExecutor(1) as beside:
        counting = beside.submit(count)
        try:
            for _ in range(300):
                network_threads("cpu")[0].shutdown()
        finally:
            over.set()
        counting.result()
    assert len(counted) > 100
    assert set(counted) == {2}


def test_calls_go_one_by_one_before_the_batch_is_halved(scan, checkpoint, monkeypatch, threads):
    """Memory for one call is there, for two at once it is not."""
    threads(2)
    settings = EXACT.replace(batch_size=8)
    undisturbed = run(scan, checkpoint, settings)
    original, both = PackedUNet.forward, Barrier(2)
    sizes, failed = [], []

    def scarce(self, image, timesteps):
        sizes.append(len(image))
        if not failed:
            both.wait(60)
            failed.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return original(self, image, timesteps)

    monkeypatch.setattr(PackedUNet, "forward", scarce)
    result = run(scan, checkpoint, settings)
    assert len(set(sizes)) == 1
    assert not any("out of memory" in warning for warning in result.warnings)
    np.testing.assert_array_equal(result.anomaly.data, undisturbed.anomaly.data)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
def test_the_result_does_not_depend_on_batches_or_order(scan, checkpoint, sampler):
    settings = EXACT.replace(sampler=sampler, eta=0.5, draws=2, seed=3)
    a = run(scan, checkpoint, settings.replace(batch_size=64))
    b = run(scan, checkpoint, settings.replace(batch_size=5))
    np.testing.assert_allclose(a.reconstruction.data, b.reconstruction.data, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(a.anomaly.data, b.anomaly.data, atol=1e-5)
    np.testing.assert_allclose(a.uncertainty.data, b.uncertainty.data, atol=1e-5)
    assert a.uncertainty.data.max() > 0


def test_one_slice_alone_is_reconstructed_as_within_the_volume(scan, checkpoint, whole):
    index = scan.shape[0] // 2
    alone = run(scan, checkpoint, EXACT.replace(slices=(index,)))
    assert np.flatnonzero(alone.done).tolist() == [index]
    np.testing.assert_allclose(
        alone.reconstruction.data[index], whole.reconstruction.data[index], rtol=1e-4, atol=1e-2
    )
    other = np.arange(scan.shape[0]) != index
    assert (alone.reconstruction.data[other] == 0).all()


def test_one_slice_is_scored_with_its_neighbours(scan, checkpoint):
    """As far as the Gaussian reaches, which is cut at three deviations: as within the volume."""
    settings = EXACT.replace(score="absolute", smoothing_mm=5.0, symmetry=False)
    index = scan.shape[0] // 2
    there = run(scan, checkpoint, settings).anomaly.data[index]
    one = settings.replace(slices=(index,))
    alone = run(scan, checkpoint, one)
    np.testing.assert_allclose(alone.anomaly.data[index], there, atol=1e-5)
    assert np.flatnonzero(alone.done).tolist() == [index]
    assert not np.delete(alone.anomaly.data, index, axis=0).any()
    without = run(scan, checkpoint, replace(one, context_mm=0.0)).anomaly.data[index]
    assert np.abs(without - there).max() > 0.01
    with pytest.raises(AddmError, match="context of -1 mm"):
        run(scan, checkpoint, replace(one, context_mm=-1.0))


def test_a_slice_thinner_than_the_erosion_still_has_a_map(scan, checkpoint):
    detection_ = checkpoint.specification.detection
    score = detection_.score.model_copy(update={"erosion_mm": 10.0})  # slices are 6 mm apart
    specification = checkpoint.specification.model_copy(
        update={"detection": detection_.model_copy(update={"score": score})}
    )
    index = scan.shape[0] // 2
    alone = run(
        scan, replace(checkpoint, specification=specification), EXACT.replace(slices=(index,))
    )
    assert (alone.anomaly.data[index] != 0).sum() > 0.5 * (scan.data[index] > 0).sum()


def test_the_same_run_gives_the_same_numbers_and_another_seed_others(scan, checkpoint, whole):
    again = run(scan, checkpoint, EXACT)
    np.testing.assert_array_equal(again.anomaly.data, whole.anomaly.data)
    other = run(scan, checkpoint, EXACT.replace(seed=1))
    assert np.abs(other.anomaly.data - whole.anomaly.data).max() > 1e-3


def test_an_oblique_scan_gets_its_map_on_its_own_grid(make_brain, checkpoint):
    import nibabel as nib

    linear = nib.eulerangles.euler2mat(0.2, -0.15, 0.3) @ np.diag([-3.0, -3.0, 4.0])
    shape = (70, 80, 56)
    affine = nib.affines.from_matvec(linear, -linear @ ((np.array(shape) - 1) / 2))
    scan = make_brain(affine, shape)
    result = run(scan, checkpoint, EXACT)
    assert result.anomaly.same_grid(scan)
    assert result.done.all()
    some = result.reconstruction.data[result.brain_mask.data]
    assert (some != 0).mean() > 0.99


def test_half_the_batch_is_taken_when_memory_runs_out(scan, checkpoint, whole, monkeypatch):
    original = PackedUNet.forward

    def scarce(self, image, timesteps):
        if len(image) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, image, timesteps)

    monkeypatch.setattr(PackedUNet, "forward", scarce)
    result = run(scan, checkpoint, EXACT)
    assert any("out of memory" in w for w in result.warnings)
    np.testing.assert_allclose(result.anomaly.data, whole.anomaly.data, atol=1e-5)


def test_no_memory_at_all_is_said_in_words(scan, checkpoint, monkeypatch):
    def none(self, image, timesteps):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(PackedUNet, "forward", none)
    with pytest.raises(AddmError, match="single slice"):
        run(scan, checkpoint, EXACT)


def test_other_errors_of_the_network_are_not_swallowed(scan, checkpoint, monkeypatch):
    def broken(self, image, timesteps):
        raise RuntimeError("a fault in the code")

    monkeypatch.setattr(PackedUNet, "forward", broken)
    with pytest.raises(RuntimeError, match="a fault in the code"):
        run(scan, checkpoint, EXACT)


def test_grad_mode_of_the_caller_is_left_alone(scan, checkpoint):
    for _ in detect(scan, checkpoint, EXACT):
        assert torch.is_grad_enabled()


def test_bfloat16_stays_close_to_float32(scan, checkpoint, whole):
    half = run(scan, checkpoint, EXACT.replace(precision="bfloat16"))
    assert half.precision == "bfloat16"
    brain = whole.brain_mask.data
    difference = np.abs(half.anomaly.data - whole.anomaly.data)[brain]
    assert difference.mean() < 0.05 * np.abs(whole.anomaly.data[brain]).mean()


def test_the_network_is_kept_between_runs_and_can_be_freed(scan, checkpoint):
    run(scan, checkpoint, EXACT.replace(slices=(18,)))
    again = run(scan, checkpoint, EXACT.replace(slices=(18,)))
    assert again.seconds["load"] < 0.01
    free_memory()
    assert not detection._kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": 1001}, "within 1..1000"),
        ({"level": 0}, "within 1..1000"),
        ({"level": 10, "steps": 11}, "do not fit"),
        ({"steps": 0}, "do not fit"),
        ({"draws": 0}, "at least 1"),
        ({"sampler": "euler"}, "no sampler"),
        ({"score": "magic"}, "no score"),
        ({"device": "abacus"}, "no device"),
        ({"precision": "int8"}, "no precision"),
        ({"eta": 2.0}, "between 0 and 1"),
        ({"batch_size": 0}, "too small"),
        ({"seed": -1}, "0 or more"),
        ({"smoothing_mm": -1.0}, "not between"),
        ({"slices": (99,)}, "within 0..35"),
        ({"slices": (0,)}, "no brain"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_words(scan, checkpoint, change, words):
    with pytest.raises(AddmError, match=words):
        run(scan, checkpoint, EXACT.replace(**change))


def test_a_level_below_the_default_steps_takes_fewer_steps(checkpoint):
    resolved = resolve(DetectionSettings(level=2), checkpoint.specification)
    assert (resolved.level, resolved.steps) == (2, 2)


def test_weights_that_do_not_fit_the_specification_are_listed(scan, checkpoint):
    weights = dict(checkpoint.weights)
    name = next(n for n in weights if n.endswith("conv_in.conv.weight"))
    weights[name] = weights[name][:4]
    free_memory()
    with pytest.raises(AddmError, match=r"conv_in.*instead of"):
        run(scan, replace(checkpoint, weights=weights), EXACT)


def test_nan_in_a_short_format_goes_on_in_float32(scan, checkpoint, whole, monkeypatch):
    original = PackedUNet.forward

    def overflowing(self, image, timesteps):
        out = original(self, image, timesteps)
        return out * float("nan") if image.dtype == torch.bfloat16 else out

    monkeypatch.setattr(PackedUNet, "forward", overflowing)
    result = run(scan, checkpoint, EXACT.replace(precision="bfloat16"))
    assert result.precision == "float32"
    assert any("NaN" in w for w in result.warnings)
    np.testing.assert_array_equal(result.anomaly.data, whole.anomaly.data)


def test_levels_beyond_the_training_are_flagged(scan, checkpoint):
    trained = checkpoint.specification.model_copy(update={"training": {"highest_level": 150}})
    low = run(scan, replace(checkpoint, specification=trained), EXACT.replace(level=150))
    high = run(scan, replace(checkpoint, specification=trained), EXACT.replace(level=151))
    assert not any("never learned" in w for w in low.warnings)
    assert any("never learned" in w for w in high.warnings)


def test_another_score_needs_no_network(scan, checkpoint, whole):
    score = ScoreSpecification(kind="absolute", smoothing_mm=5.0, erosion_mm=4.0, symmetry=True)
    again = whole.rescored(score)
    settings = EXACT.replace(score="absolute", smoothing_mm=5.0, symmetry=True)
    directly = run(scan, checkpoint, settings)
    np.testing.assert_array_equal(again.anomaly.data, directly.anomaly.data)
    np.testing.assert_array_equal(again.reconstruction.data, whole.reconstruction.data)
    assert (again.settings.score, again.settings.smoothing_mm) == ("absolute", 5.0)
    assert again.settings.symmetry
    assert whole.settings.score == "signed"


def test_what_both_sides_show_is_taken_off_if_asked_for(scan, checkpoint, whole):
    score = EXACT.replace(score="absolute")
    plain, compared = (
        run(scan, checkpoint, score),
        run(scan, checkpoint, replace(score, symmetry=True)),
    )
    assert whole.settings.symmetry is False  # the checkpoint's default
    assert (compared.anomaly.data <= plain.anomaly.data + 1e-6).all()
    assert compared.anomaly.data.min() >= 0
    brain = plain.anomaly.data > 0
    assert compared.anomaly.data[brain].mean() < 0.8 * plain.anomaly.data[brain].mean()
    np.testing.assert_array_equal(compared.reconstruction.data, plain.reconstruction.data)
    default = checkpoint.specification.detection
    default = default.model_copy(
        update={"score": default.score.model_copy(update={"symmetry": True})}
    )
    other = checkpoint.specification.model_copy(update={"detection": default})
    asked = run(scan, replace(checkpoint, specification=other), score)
    np.testing.assert_array_equal(asked.anomaly.data, compared.anomaly.data)


def test_half_a_brain_is_compared_with_its_median_and_says_so(scan, checkpoint):
    half = np.asarray(scan.data) > 0
    half[:, :, half.shape[2] // 2 :] = False
    result = run(scan, checkpoint, EXACT.replace(score="absolute", symmetry=True), half)
    assert any("too different to be compared" in warning for warning in result.warnings)
    plain = run(scan, checkpoint, EXACT.replace(score="absolute"), half)
    assert not any("too different" in warning for warning in plain.warnings)
    there = plain.anomaly.data > np.median(plain.anomaly.data[plain.anomaly.data > 0])
    ranks = stats.spearmanr(plain.anomaly.data[there], result.anomaly.data[there])
    assert ranks.statistic > 0.98
