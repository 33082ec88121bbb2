"""What one detection leaves for the next, seen from outside and counted at the network."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.nn.modules.module import register_module_forward_hook

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection, Progress, detect
from napari_addm.detection.session import Reconstructions, Session
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.volume import Volume
from napari_addm.methods.networks import PackedUNet

EXACT = DetectionSettings(device="cpu", precision="float32")
BATCH = 4


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def scan(make_brain) -> Volume:
    affine = np.diag([-5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [80, -95, -70]
    return make_brain(affine, (33, 39, 29), ((25.0, -20.0, 15.0, 20.0),))


@pytest.fixture
def calls() -> Iterator[list[int]]:
    """The size of the batch of every call of the network."""
    sizes: list[int] = []

    def count(module, inputs, output) -> None:
        if isinstance(module, PackedUNet):
            sizes.append(len(output))

    handle = register_module_forward_hook(count)
    yield sizes
    handle.remove()


def last(progress: Iterator[Progress]) -> Detection:
    *_, end = progress
    assert end.stage == "finish"
    return end.result


def cancel_after(count: int, progress: Iterator[Progress]) -> None:
    """Close the generator after so many calls of the network."""
    for item in progress:
        if item.done == count:
            break
    progress.close()


def assert_same(a: Detection, b: Detection) -> None:
    np.testing.assert_array_equal(a.anomaly.data, b.anomaly.data)
    np.testing.assert_array_equal(a.reconstruction.data, b.reconstruction.data)
    np.testing.assert_array_equal(a.done, b.done)
    assert (a.uncertainty is None) == (b.uncertainty is None)
    if a.uncertainty is not None:
        np.testing.assert_array_equal(a.uncertainty.data, b.uncertainty.data)
    assert (a.settings, a.device, a.precision) == (b.settings, b.device, b.precision)
    assert a.warnings == b.warnings


@pytest.mark.parametrize(
    "settings",
    [
        EXACT.replace(draws=3, sampler="ddpm"),
        EXACT.replace(precision="bfloat16", eta=0.5),
        EXACT.replace(batch_size=7),
    ],
    ids=["ddpm", "bfloat16", "batches of 7"],
)
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_cancelled_run_goes_on_to_the_same_result(
    scan, checkpoint, calls, monkeypatch, threads, lanes, settings
):
    threads(2)
    monkeypatch.setattr("napari_addm.detection.lanes.LANES", lanes)
    undisturbed = last(detect(scan, checkpoint, settings))
    needed = len(calls)
    assert len(set(calls)) == 1  # batches of one size only
    calls.clear()

    session = Session()
    # Within a batch of three steps, which is lost; at the end of one; from other slices.
    cancel_after(7, detect(scan, checkpoint, settings, session=session))
    assert 7 <= len(calls) <= 7 + lanes - 1  # and what was on its way
    cancel_after(3, detect(scan, checkpoint, settings, first_slice=22, session=session))
    resumed = last(detect(scan, checkpoint, settings, first_slice=8, session=session))
    assert_same(resumed, undisturbed)
    # In each lane a batch of three steps at most is lost, each time.
    assert len(calls) == needed + 1 if lanes == 1 else needed < len(calls) <= needed + 2 * 2 * 3
    assert needed > 7


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_cancelled_run_ends_with_all_that_is_finished(
    scan, checkpoint, calls, monkeypatch, threads, lanes, draws
):
    threads(2)
    monkeypatch.setattr("napari_addm.detection.lanes.LANES", lanes)
    monkeypatch.setattr(
        "napari_addm.detection.pipeline.PARTIAL_INTERVAL", 1e9
    )  # only the first comes
    settings = EXACT.replace(batch_size=2, draws=draws)
    whole = last(detect(scan, checkpoint, settings))
    session, shown = Session(), np.zeros(len(scan.data), bool)
    for more in (24, 6):  # a run that begins, and one that goes on
        calls.clear()
        known: list[Progress] = []
        going = detect(
            scan,
            checkpoint,
            settings,
            session=session,
            cancelled=lambda known=known, more=more: bool(known) and known[-1].done >= more,
        )
        known.extend(going)  # one by one
        assert more <= len(calls) <= more + 2 * (lanes - 1)  # and what was on its way
        *earlier, end = known
        assert (end.stage, end.done, end.eta) == ("reconstruct", more, None)
        assert end.total > more
        before = [index for progress in earlier for index in progress.slices]
        assert not set(end.slices) & set(before)
        (kept,) = (each for each in session._kept.values() if isinstance(each, Reconstructions))
        finished = end.result.slices.complete_native(kept.finished.all(axis=0))
        np.testing.assert_array_equal(end.result.done, finished)
        assert shown.sum() < finished.sum() < len(finished)
        assert finished[shown].all()
        shown = finished
        np.testing.assert_allclose(
            end.result.reconstruction.data[shown], whole.reconstruction.data[shown], rtol=1e-6
        )
        assert end.result.anomaly.data[shown].any()
    assert_same(last(detect(scan, checkpoint, settings, session=session)), whole)


def test_a_run_that_is_cancelled_says_nothing_twice(scan, checkpoint, calls, monkeypatch):
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_INTERVAL", 0.0)
    known: list[Progress] = []
    known.extend(
        detect(
            scan, checkpoint, EXACT, cancelled=lambda: bool(known) and known[-1].result is not None
        )
    )
    assert [progress.result is None for progress in known].count(False) == 1
    assert known[-1].stage == "reconstruct"


def test_a_run_that_is_cancelled_at_once_calls_no_network(scan, checkpoint, calls):
    (only,) = detect(scan, checkpoint, EXACT, cancelled=lambda: True)
    assert only.stage == "prepare"
    asked = iter([False])  # while the scan is prepared
    (only,) = detect(scan, checkpoint, EXACT, cancelled=lambda: next(asked, True))
    assert only.result is None
    session = Session()
    once = last(detect(scan, checkpoint, EXACT, session=session))
    calls.clear()
    asked = iter([False])
    *_, end = detect(scan, checkpoint, EXACT, session=session, cancelled=lambda: next(asked, True))
    assert calls == []
    assert end.result.done.all()
    np.testing.assert_array_equal(end.result.reconstruction.data, once.reconstruction.data)


def test_what_is_finished_needs_no_network(scan, checkpoint, calls):
    session = Session()
    once = last(detect(scan, checkpoint, EXACT, session=session))
    calls.clear()
    again = list(detect(scan, checkpoint, EXACT, session=session))
    assert again[-1].total == 0
    assert_same(again[-1].result, once)
    score = EXACT.replace(score="structure", smoothing_mm=3.0, symmetry=True)
    otherwise = last(detect(scan, checkpoint, score, session=session))
    assert calls == []
    assert_same(otherwise, last(detect(scan, checkpoint, score)))


def test_the_same_voxels_read_again_are_the_same_scan(scan, checkpoint, calls):
    session = Session()
    last(detect(scan, checkpoint, EXACT.replace(slices=(16,)), session=session))
    calls.clear()
    copied = Volume(scan.data.copy(), scan.affine.copy(), replace(scan.source), scan.warnings)
    last(detect(copied, checkpoint, EXACT.replace(slices=(16,)), session=session))
    assert calls == []


def test_more_draws_take_over_those_that_are_there(scan, checkpoint, calls):
    session = Session()
    last(detect(scan, checkpoint, EXACT.replace(draws=2), session=session))
    first = len(calls)
    more = last(detect(scan, checkpoint, EXACT.replace(draws=4), session=session))
    assert len(calls) <= 2 * first
    assert_same(more, last(detect(scan, checkpoint, EXACT.replace(draws=4))))


@pytest.mark.parametrize(
    "change",
    [{"level": 201}, {"steps": 2}, {"sampler": "ddpm"}, {"eta": 0.1}, {"seed": 1}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_computed(scan, checkpoint, calls, change):
    session = Session()
    one = EXACT.replace(slices=(16,))
    last(detect(scan, checkpoint, one, session=session))
    calls.clear()
    changed = last(detect(scan, checkpoint, replace(one, **change), session=session))
    assert calls
    assert_same(changed, last(detect(scan, checkpoint, replace(one, **change))))


def test_another_scan_mask_or_checkpoint_is_computed(scan, checkpoint, calls):
    session = Session()
    one = EXACT.replace(slices=(16,))
    edited = scan.with_data(scan.data.copy())
    last(detect(edited, checkpoint, one, session=session))
    edited.data[16, 15:20, 10:15] *= 0.7  # in place, as a layer's voxels may change
    weights = dict(checkpoint.weights)
    other = replace(checkpoint, weights=weights, sha256="of another file")
    for arguments in ((edited, checkpoint), (edited, other)):
        calls.clear()
        last(detect(*arguments, one, session=session))
        assert calls
    mask = scan.data > 0
    mask[:, :, :12] = False
    calls.clear()
    last(detect(edited, checkpoint, one, mask, session=session))
    assert calls


def test_slices_that_were_looked_at_serve_the_volume(scan, checkpoint, calls):
    undisturbed = last(detect(scan, checkpoint, EXACT))
    needed = len(calls)
    calls.clear()
    session = Session()
    for index in (10, 11, 20):
        last(detect(scan, checkpoint, EXACT.replace(slices=(index,)), session=session))
    looked = len(calls)
    assert set(calls) == {BATCH}
    volume = last(detect(scan, checkpoint, EXACT, session=session))
    assert_same(volume, undisturbed)
    assert len(calls) - looked < needed


def test_a_single_slice_does_not_depend_on_what_is_there(scan, checkpoint, calls):
    one = EXACT.replace(slices=(16,), score="ssim", symmetry=True)
    alone = last(detect(scan, checkpoint, one))
    session = Session()
    last(detect(scan, checkpoint, EXACT, session=session))
    calls.clear()
    assert_same(last(detect(scan, checkpoint, one, session=session)), alone)
    assert calls == []


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_order_follows_the_slice_that_is_looked_at(
    scan, checkpoint, monkeypatch, threads, lanes
):
    threads(2)
    monkeypatch.setattr("napari_addm.detection.lanes.LANES", lanes)
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_INTERVAL", 0.0)
    settings = EXACT.replace(batch_size=2)
    looked = [10]
    seen: list[int] = []
    for progress in detect(scan, checkpoint, settings, first_slice=lambda: looked[0]):
        if progress.stage == "reconstruct" and progress.slices:
            seen.append(min(progress.slices, key=lambda index: abs(index - looked[0])))
            looked[0] = 24
    assert abs(seen[0] - 10) <= 1
    # what the lanes had begun comes before
    assert min(abs(index - 24) for index in seen[1 : 2 + lanes]) <= 1


def test_partial_results_come_no_faster_than_they_are_dealt_with(scan, checkpoint, monkeypatch):
    """One that its caller takes long over, as a viewer may, has a longer interval after it."""
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_INTERVAL", 2.0)
    taking, came, done = 0.2, [], []
    for progress in detect(scan, checkpoint, EXACT.replace(batch_size=1)):
        if progress.stage != "reconstruct":
            continue
        if progress.result is not None:
            came.append(time.perf_counter())
            time.sleep(taking)
            done.append(time.perf_counter())
        else:
            time.sleep(0.02)  # a network that takes its time
    assert len(came) >= 2
    assert all(
        after - before >= 2.0 * taking for before, after in zip(done, came[1:], strict=False)
    )


def test_a_partial_result_changes_only_where_it_says(scan, checkpoint, monkeypatch):
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_INTERVAL", 0.0)
    before = np.zeros(scan.shape, np.float32)
    results = 0
    for progress in detect(scan, checkpoint, EXACT.replace(batch_size=2)):
        if progress.result is None:
            continue
        results += 1
        now = progress.result.anomaly.data
        same = np.ones(len(now), bool)
        same[list(progress.changed)] = False
        np.testing.assert_array_equal(now[same], before[same])
        assert set(progress.slices) <= set(progress.changed)
        assert not now[~progress.result.done].any()
        assert progress.pace.per_slice > 0
        before = now.copy()
    assert results > 5
    assert progress.result.done.all()
    assert progress.pace.volume == 0


def test_memory_is_bounded(scan, checkpoint, calls):
    session = Session(limit_bytes=0)
    settings = [EXACT.replace(slices=(16,), seed=seed) for seed in range(4)]
    for one in settings:
        last(detect(scan, checkpoint, one, session=session))
    least = session.nbytes
    roomy = Session(limit_bytes=3 * least)
    for one in settings:
        last(detect(scan, checkpoint, one, session=roomy))
    assert least < roomy.nbytes <= 3 * least
    calls.clear()
    last(detect(scan, checkpoint, settings[-1], session=session))
    assert calls == []  # what was used last stays
    last(detect(scan, checkpoint, settings[0], session=session))
    assert calls
    session.clear()
    assert session.nbytes == 0
