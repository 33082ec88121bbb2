"""What one detection leaves for the next, seen from outside: results, and the network's use."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.nn.modules.module import register_module_forward_hook

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.maps import Detection
from napari_addm.detection.pipeline import Progress, detect
from napari_addm.detection.session import Session
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.volume import Volume
from napari_addm.methods.networks import PackedUNet

EXACT = DetectionSettings(regions=False, device="cpu", precision="float32", steps=2)
ONE = EXACT.replace(slices=(8,), context_mm=0.0)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def scan(make_brain: Callable[..., Volume]) -> Volume:
    affine = np.diag([-5.0, 5.0, 10.0, 1.0])
    affine[:3, 3] = [80, -95, -70]
    return make_brain(affine, (33, 39, 15), ((25.0, -20.0, 15.0, 20.0),))


@pytest.fixture(scope="module")
def whole(scan: Volume, checkpoint: Checkpoint) -> Detection:
    return last(detect(scan, checkpoint, EXACT))


@pytest.fixture
def used() -> Iterator[list[int]]:
    """The batch size of every network call; empty while the network rests."""
    sizes: list[int] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, PackedUNet):
            sizes.append(len(output))

    handle = register_module_forward_hook(note)
    yield sizes
    handle.remove()


def last(progress: Iterator[Progress]) -> Detection:
    *_, end = progress
    assert end.stage == "finish"
    assert end.result is not None
    return end.result


def assert_same(a: Detection, b: Detection) -> None:
    np.testing.assert_array_equal(a.anomaly.data, b.anomaly.data)
    np.testing.assert_array_equal(a.reconstruction.data, b.reconstruction.data)
    np.testing.assert_array_equal(a.done, b.done)
    assert (a.uncertainty is None) == (b.uncertainty is None)
    if a.uncertainty is not None and b.uncertainty is not None:
        np.testing.assert_array_equal(a.uncertainty.data, b.uncertainty.data)
    assert (a.settings, a.device, a.precision) == (b.settings, b.device, b.precision)
    assert a.warnings == b.warnings


@pytest.mark.parametrize(
    "settings",
    [
        EXACT.replace(draws=2, sampler="ddpm"),
        EXACT.replace(precision="bfloat16", eta=0.5),
        EXACT.replace(batch_size=7),
    ],
    ids=["ddpm", "bfloat16", "batches of 7"],
)
def test_a_closed_run_goes_on_to_the_same_result(
    scan: Volume, checkpoint: Checkpoint, used: list[int], settings: DetectionSettings
) -> None:
    undisturbed = last(detect(scan, checkpoint, settings))
    assert len(set(used)) == 1  # batches of one size only
    session = Session()
    for first_slice in (7, 11):
        for progress in detect(
            scan, checkpoint, settings, first_slice=first_slice, session=session
        ):
            if progress.done == 4:
                break
    resumed = list(detect(scan, checkpoint, settings, first_slice=4, session=session))
    assert resumed[-1].result is not None
    assert_same(resumed[-1].result, undisturbed)


@pytest.mark.parametrize("draws", [1, 2])
def test_a_cancelled_run_ends_with_all_that_is_finished(
    scan: Volume, checkpoint: Checkpoint, whole: Detection, draws: int
) -> None:
    settings = EXACT.replace(batch_size=1, draws=draws)
    session, shown = Session(), np.zeros(len(scan.data), bool)
    for calls in (12 * draws, 6 * draws):  # a run that begins, and one that goes on
        known: list[Progress] = []
        known.extend(
            detect(
                scan,
                checkpoint,
                settings,
                session=session,
                cancelled=lambda known=known, calls=calls: (
                    bool(known)  # type: ignore[misc]
                    and known[-1].done >= calls
                ),
            )
        )
        end = known[-1]
        assert (end.stage, end.eta) == ("reconstruct", None)
        assert calls <= end.done < end.total
        assert end.result is not None
        done = end.result.done
        assert done[shown].all()
        assert shown.sum() < done.sum() < len(done)
        assert end.result.anomaly.data[done].any()
        assert not end.result.anomaly.data[~done].any()
        shown = done
    assert_same(
        last(detect(scan, checkpoint, settings, session=session)),
        last(detect(scan, checkpoint, settings)),
    )


def test_a_run_that_is_cancelled_at_once_uses_no_network(
    scan: Volume, checkpoint: Checkpoint, used: list[int], whole: Detection
) -> None:
    used.clear()
    (only,) = detect(scan, checkpoint, EXACT, cancelled=lambda: True)
    assert only.stage == "prepare"
    asked = iter([False])  # cancelled while the scan is prepared
    (only,) = detect(scan, checkpoint, EXACT, cancelled=lambda: next(asked, True))
    assert only.result is None
    assert used == []


def test_what_is_finished_needs_no_network(
    scan: Volume, checkpoint: Checkpoint, used: list[int], whole: Detection
) -> None:
    session = Session()
    last(detect(scan, checkpoint, EXACT, session=session))
    used.clear()
    again = list(detect(scan, checkpoint, EXACT, session=session))
    assert again[-1].total == 0
    assert again[-1].result is not None
    assert_same(again[-1].result, whole)
    score = EXACT.replace(score="structure", smoothing_mm=3.0, symmetry=True)
    otherwise = last(detect(scan, checkpoint, score, session=session))
    one = ONE.replace(context_mm=16.0, score="ssim", symmetry=True)
    alone = last(detect(scan, checkpoint, one, session=session))
    asked = iter([False])
    late = detect(scan, checkpoint, EXACT, session=session, cancelled=lambda: next(asked, True))
    assert_same(last(late), whole)
    assert used == []
    assert_same(otherwise, last(detect(scan, checkpoint, score)))
    assert_same(alone, last(detect(scan, checkpoint, one)))


def test_the_same_voxels_read_again_are_the_same_scan(
    scan: Volume, checkpoint: Checkpoint, used: list[int]
) -> None:
    session = Session()
    last(detect(scan, checkpoint, ONE, session=session))
    used.clear()
    copied = Volume(scan.data.copy(), scan.affine.copy(), replace(scan.source), scan.warnings)
    last(detect(copied, checkpoint, ONE, session=session))
    assert used == []


def test_more_draws_reuse_those_that_are_there(
    scan: Volume, checkpoint: Checkpoint, used: list[int]
) -> None:
    session = Session()
    last(detect(scan, checkpoint, EXACT.replace(draws=2), session=session))
    first = len(used)
    more = last(detect(scan, checkpoint, EXACT.replace(draws=4), session=session))
    assert len(used) <= 2 * first
    assert_same(more, last(detect(scan, checkpoint, EXACT.replace(draws=4))))


@pytest.mark.parametrize(
    "change",
    [{"level": 201}, {"steps": 1}, {"sampler": "ddpm"}, {"eta": 0.1}, {"seed": 1}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_computed(
    scan: Volume, checkpoint: Checkpoint, used: list[int], change: dict[str, Any]
) -> None:
    session = Session()
    last(detect(scan, checkpoint, ONE, session=session))
    used.clear()
    result = last(detect(scan, checkpoint, ONE.replace(**change), session=session))
    assert used
    assert_same(result, last(detect(scan, checkpoint, ONE.replace(**change))))


def test_another_scan_mask_or_checkpoint_is_computed(
    scan: Volume, checkpoint: Checkpoint, used: list[int]
) -> None:
    session = Session()
    edited = scan.with_data(scan.data.copy())
    last(detect(edited, checkpoint, ONE, session=session))
    edited.data[8, 15:20, 10:15] *= 0.7  # in place, as a layer's voxels may change
    other = replace(checkpoint, weights=dict(checkpoint.weights), sha256="of another file")
    mask = scan.data > 0
    mask[:, :, :12] = False
    for arguments in (
        (edited, checkpoint, ONE),
        (edited, other, ONE),
        (edited, checkpoint, ONE, mask),
    ):
        used.clear()
        last(detect(*arguments, session=session))
        assert used


def test_slices_that_were_shown_serve_the_volume(
    scan: Volume, checkpoint: Checkpoint, used: list[int], whole: Detection
) -> None:
    session = Session()
    for index in (5, 6, 10):
        last(detect(scan, checkpoint, EXACT.replace(slices=(index,)), session=session))
    shown = len(used)
    volume = last(detect(scan, checkpoint, EXACT, session=session))
    assert_same(volume, whole)
    rest = len(used) - shown
    used.clear()
    last(detect(scan, checkpoint, EXACT))
    assert rest < len(used)


def test_the_order_follows_the_slice_that_is_shown(
    scan: Volume, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SECONDS", 0.0)
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SHARE", 1.0)
    shown, seen = [5], list[int]()
    settings = EXACT.replace(batch_size=1)
    for progress in detect(scan, checkpoint, settings, first_slice=lambda: shown[0]):
        if progress.stage == "reconstruct" and progress.slices:
            seen.append(min(progress.slices, key=lambda index: abs(index - shown[0])))
            shown[0] = 12
    assert abs(seen[0] - 5) <= 2
    assert 12 in seen[1:]


def test_memory_is_bounded(scan: Volume, checkpoint: Checkpoint, used: list[int]) -> None:
    session = Session(limit_bytes=0)
    settings = [ONE.replace(seed=seed) for seed in range(4)]
    for one in settings:
        last(detect(scan, checkpoint, one, session=session))
    least = session.nbytes
    roomy = Session(limit_bytes=3 * least)
    for one in settings:
        last(detect(scan, checkpoint, one, session=roomy))
    assert least < roomy.nbytes <= 3 * least
    used.clear()
    last(detect(scan, checkpoint, settings[-1], session=session))
    assert used == []  # what was used last stays
    last(detect(scan, checkpoint, settings[0], session=session))
    assert used
    session.clear()
    assert session.nbytes == 0
