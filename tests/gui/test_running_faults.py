"""What may go wrong while a run goes on, or when it is saved, as the panel shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Semaphore

import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.layers import Image, Labels
from numpy.testing import assert_array_equal
from torch.nn.modules.module import register_module_forward_pre_hook

from napari_addm.io.reading import read_labels
from napari_addm.methods.networks import PackedUNet
from napari_addm.outputs.folder import claim_outputs
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.status_bar import Notices

MINUTE = 60_000


@pytest.fixture
def model() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(model, new_panel) -> DetectWidget:
    return new_panel(model)


def error_of(panel: DetectWidget) -> str:
    return panel.notices.error.text()


# --- the machine ---------------------------------------------------------------------------------


def test_no_memory_at_all_is_said_and_the_panel_goes_on(model, panel, run, add, scan, monkeypatch):
    add(model, scan)
    with monkeypatch.context() as patch:
        # more than any machine has: the real refusal
        patch.setattr(PackedUNet, "forward", lambda *arguments: torch.empty(2**60))
        run(panel)
    assert error_of(panel).startswith("Out of memory with a single slice")
    assert panel.run_button.isEnabled()
    run(panel)
    assert error_of(panel) == ""
    assert panel.outcome.detection.done.all()


def test_any_other_lack_of_memory_is_no_bug(qtbot):
    notices = Notices()
    qtbot.addWidget(notices)
    notices.show_error(MemoryError())
    assert notices.error.text() == texts.OUT_OF_MEMORY
    assert notices.details.isHidden()


def test_what_mps_cannot_do_goes_on_on_the_cpu(model, panel, run, add, scan, monkeypatch):
    """On a machine that says it has MPS, an operation raises what torch raises there."""
    add(model, scan)
    on: list[str] = []
    module_to, tensor_to, forward = torch.nn.Module.to, torch.Tensor.to, PackedUNet.forward

    def stay(original):
        def to(self, *args, **options):
            # this machine has no such memory: tensors stay where they are
            return original(self, *(arg for arg in args if "mps" not in str(arg)), **options)

        return to

    def put(self, *args, **options):
        on.extend(str(arg) for arg in args if isinstance(arg, torch.device))
        return stay(module_to)(self, *args, **options)

    def unsupported(self, image, timesteps):
        if on[-1] == "mps":
            torch.zeros(1, device="mps")  # NotImplementedError, where there is none
        return forward(self, image, timesteps)

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", put)
    monkeypatch.setattr(torch.Tensor, "to", stay(tensor_to))
    monkeypatch.setattr(PackedUNet, "forward", unsupported)
    panel.model.device.setCurrentText("auto")
    run(panel)
    assert error_of(panel) == ""
    assert "not supported on mps: went on on the CPU" in "\n".join(panel.remarks.shown)
    assert panel.outcome.detection.device == "cpu"
    assert panel.outcome.detection.done.all()
    assert "on cpu" in panel.notices.status.toolTip()


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_partial_file_and_keeps_what_was_saved(
    model, panel, qtbot, finish, add, output, show_result, scan, tmp_path
):
    add(model, scan)
    show_result(panel)
    out = tmp_path / "out"
    with full_disk(4096):
        panel.saving.save(out)
        finish(panel)
    assert error_of(panel).startswith(f"{out} cannot be written to")
    assert "free some space" in error_of(panel)
    assert panel.notices.details.isHidden()
    assert not out.exists() or not list(out.iterdir())
    panel.saving.save(out)  # there is room again, and nothing was lost
    finish(panel)
    assert error_of(panel) == ""
    labels = read_labels(out / "head_labels.nii.gz")
    assert_array_equal(labels.data, output(model, "anomalies").data)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 5
    panel.findings.threshold.setValue(0.02)
    qtbot.wait(100)
    with full_disk(4096):
        panel.saving.save(out, overwrite=True)
        finish(panel)
    assert "free some space" in error_of(panel)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_two_runs_at_one_output(model, panel, finish, add, show_result, scan, tmp_path):
    """One of the two says so and writes nothing; the files are all of the other."""
    add(model, scan)
    show_result(panel)
    with claim_outputs(tmp_path, "head"):  # this thread is one of the two
        panel.saving.save(tmp_path)
        finish(panel)
        assert error_of(panel).startswith("Another run is writing the files of head")
        assert not list(tmp_path.glob("head*"))
    panel.saving.save(tmp_path)
    finish(panel)
    assert error_of(panel) == ""
    assert (tmp_path / "head_record.json").is_file()


# --- cancel --------------------------------------------------------------------------------------


@contextmanager
def held_after(calls: int) -> Iterator[tuple[Event, Event]]:
    """The network stops after so many calls: an event that says so, and one that frees it."""
    allowed, held, go = Semaphore(calls), Event(), Event()

    def wait(module, inputs):
        if isinstance(module, PackedUNet) and not allowed.acquire(blocking=False):
            held.set()
            assert go.wait(60)

    hook = register_module_forward_pre_hook(wait)
    try:
        yield held, go
    finally:
        go.set()
        hook.remove()


@pytest.fixture
def cancel_after(qtbot, finish):
    """``cancel_after(panel, calls)``: run, and cancel when the network has done so much."""

    def run_and_cancel(panel: DetectWidget, calls: int) -> None:
        with held_after(calls) as (held, go):
            panel.run()
            qtbot.waitUntil(held.is_set, timeout=MINUTE)
            panel.cancel_button.click()
            go.set()
            finish(panel)

    return run_and_cancel


def test_cancel_keeps_what_is_done_and_the_next_run_goes_on(
    model, panel, cancel_after, add, output, scan
):
    """Also a run that is cancelled in its first call shows what the run before has finished."""
    add(model, scan)
    panel.model.batch_size.setValue(1)
    before = np.zeros(scan.shape[0], bool)
    for calls in (24, 0, 24):
        cancel_after(panel, calls)
        detection = panel.outcome.detection
        done, brain = detection.done, detection.slices.reconstructed
        assert done[before].all()
        assert before.sum() <= done.sum() < len(done)
        before = done
        words = panel.notices.status.text()
        assert words.startswith("Cancelled after")
        assert words.endswith(f"; {(done & brain).sum()} of {brain.sum()} slices are done")
        shown = output(model, "reconstruction").data
        assert shown[done & brain].any(axis=(1, 2)).all()
        assert_array_equal(shown, detection.reconstruction.data)
        assert_array_equal(output(model, "anomaly map").data, detection.anomaly.data)
        assert_array_equal(output(model, "anomalies").data, panel.outcome.marked.labels)
    assert before.any()


# --- layers that go or change --------------------------------------------------------------------


def test_another_scan_of_that_name_gets_nothing(
    model, panel, qtbot, run, finish, cancel_after, add, output, scan
):
    """A scan is deleted mid-run and another one of its name is opened: it is another scan."""
    layer = add(model, scan)
    panel.model.batch_size.setValue(1)
    cancel_after(panel, 24)
    first = output(model, "anomaly map").data.copy()
    with held_after(0) as (held, go):
        panel.run()
        qtbot.waitUntil(held.is_set, timeout=MINUTE)
        model.layers.remove(layer)
        other = add(model, scan.with_data(scan.data[:, :, ::-1].copy()))
        go.set()
        finish(panel)
    assert other.name == layer.name
    assert error_of(panel) == ""
    run(panel)
    assert panel.outcome.layers.scan_layer is other
    maps = [one for one in model.layers if is_output(one) and "anomaly map" in one.name]
    assert len(maps) == 2  # each scan has its own
    assert_array_equal(maps[0].data, first)
    assert_array_equal(maps[1].data, panel.outcome.detection.anomaly.data)


def test_a_run_whose_scan_is_closed_keeps_its_finished_slices(
    model, panel, qtbot, finish, cancel_after, add, output, scan
):
    layer = add(model, scan)
    panel.model.batch_size.setValue(1)
    cancel_after(panel, 24)
    before = panel.outcome.detection.done
    with held_after(24) as (held, go):
        panel.run()
        qtbot.waitUntil(held.is_set, timeout=MINUTE)
        outcome = panel.outcome
        model.layers.remove(layer)
        go.set()
        finish(panel)
    assert error_of(panel) == ""
    done = outcome.detection.done
    assert done[before].all()
    assert not done.all()
    assert_array_equal(output(model, "reconstruction").data, outcome.detection.reconstruction.data)


@pytest.mark.parametrize("kept", ["reconstruction", "anomalies"])
def test_all_other_layers_may_go(model, panel, qtbot, finish, add, output, scan, kept):
    layer = add(model, scan)
    place = {"scale": layer.scale, "translate": layer.translate}
    mask, truth = (
        model.add_layer(Labels((scan.data > level).astype(np.uint8), name=name, **place))
        for name, level in (("mask", 0), ("truth", 130))
    )
    panel.inputs.brain.chooser.choose(mask)
    panel.agreement.truth.chooser.choose(truth)
    panel.model.batch_size.setValue(1)
    panel.model.draws.setValue(2)
    panel.run()
    qtbot.waitUntil(lambda: output(model, "anomalies") is not None, timeout=MINUTE)
    titles = {"reconstruction", "anomaly map", "uncertainty", "anomalies"}
    for gone in (mask, truth, *(output(model, title) for title in titles - {kept})):
        model.layers.remove(gone)
    finish(panel)
    assert error_of(panel) == ""
    detection = panel.outcome.detection
    assert detection.done.all()
    assert panel.outcome.agreement is None
    expected = {
        "reconstruction": detection.reconstruction.data,
        "anomalies": panel.outcome.marked.labels,
    }
    assert_array_equal(output(model, kept).data, expected[kept])
    assert all(output(model, title) is None for title in titles - {kept})


# --- layers that a run cannot use ----------------------------------------------------------------


def test_layers_without_a_file_are_called_by_their_names(model, panel, run, add, scan):
    model.add_image(np.random.default_rng(0).random((4, 4, 4)), name="tiny")
    model.layers["tiny"].name = "small"
    run(panel)
    assert error_of(panel).startswith("small: no slice holds")
    head = add(model, scan)
    empty = np.zeros(head.data.shape, np.uint8)
    mask = Labels(empty, name="nothing", scale=head.scale, translate=head.translate)
    panel.inputs.brain.chooser.choose(model.add_layer(mask))
    run(panel)
    assert error_of(panel).startswith("layer 'nothing' is empty, so it marks no brain")
    mask.data = (head.data > 0).astype(np.uint8)
    run(panel)
    assert error_of(panel) == ""


def shifted(model, head: Image, name: str, by: tuple[float, float, float]) -> Labels:
    """Labels of all of a head, so many mm beside it."""
    labels = (head.data > 0).astype(np.uint8)
    place = head.translate + np.array(by)
    return model.add_layer(Labels(labels, name=name, scale=head.scale, translate=place))


def test_labels_beside_the_scan_are_refused(model, panel, finish, add, scan):
    head = add(model, scan)
    far = shifted(model, head, "far", (0, 0, 1000))
    for choice in (panel.inputs.brain, panel.agreement.truth):
        choice.chooser.choose(far)
        choice.resample_button.click()
        finish(panel)
        assert error_of(panel).startswith("layer 'far' lies beside the scan, its nearest labelled")
        assert list(model.layers) == [head, far]
        assert choice.resample_button.isEnabled()


def test_what_a_resampled_mask_left_out_is_named_with_the_result(
    model, panel, run, finish, add, scan
):
    head = add(model, scan)
    part = shifted(model, head, "part", (60, 0, 0))
    panel.inputs.brain.chooser.choose(part)
    panel.inputs.brain.resample_button.click()
    finish(panel)
    assert panel.inputs.brain.chooser.currentText() == "part on head"
    panel.model.this_slice.setChecked(True)
    model.dims.set_current_step(0, len(head.data) - 8)
    run(panel)
    assert error_of(panel) == ""
    beyond = np.count_nonzero(part.data[-12:]) / 8  # 5 mm each way, in mL
    words = f"The brain mask: {beyond:.0f} of its {np.count_nonzero(part.data) / 8:.0f} mL lie"
    assert words in "\n".join(panel.remarks.shown)
