"""Follow slice in a real viewer, counted at the network."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import numpy as np
import pytest
import torch
from napari.layers import Image, Layer
from numpy.testing import assert_array_equal
from torch.nn.modules.module import register_module_forward_hook

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.devices import WORKERS
from napari_addm.detection.pipeline import Detection, run
from napari_addm.io.volume import Volume
from napari_addm.methods.networks import PackedUNet
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import volume_to_layer

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
REACH = 3  # slices of 5 mm in the reach of a preview
MINUTE = 60_000


@pytest.fixture(scope="module")
def scan(make_brain) -> Volume:
    return make_brain(AFFINE, SHAPE, ((25.0, -20.0, 15.0, 20.0),))


@pytest.fixture
def viewer(make_napari_viewer_proxy, monkeypatch):
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    return make_napari_viewer_proxy(show=True)


@pytest.fixture
def layer(viewer, scan) -> Layer:
    data, arguments, _ = volume_to_layer(scan, name="head")
    return viewer.add_layer(Image(data.copy(), **arguments))


@pytest.fixture
def panel(viewer, layer, tiny_checkpoint) -> DetectWidget:
    widget = DetectWidget(viewer)
    viewer.window.add_dock_widget(widget)
    widget.model.checkpoint_chooser.choose(tiny_checkpoint)
    widget.model.device.setCurrentText("cpu")
    widget.model.precision.setCurrentText("float32")
    widget.findings.threshold.setValue(0.01)
    return widget


class Calls(list[int]):
    """The size of the batch of every call of the network, which can be stopped after one."""

    def __init__(self) -> None:
        super().__init__()
        self.stop_after = 0
        self.reached, self.go = Event(), Event()

    def count(self, module, inputs, output) -> None:
        if isinstance(module, PackedUNet):
            self.append(len(output))
            if len(self) == self.stop_after:
                self.reached.set()
                self.go.wait(60)


@pytest.fixture
def calls() -> Iterator[Calls]:
    made = Calls()
    handle = register_module_forward_hook(made.count)
    yield made
    made.go.set()
    handle.remove()


def output(viewer, title: str) -> np.ndarray:
    (found,) = [one for one in viewer.layers if is_output(one) and one.name.endswith(title)]
    return found.data


def follow(viewer, panel: DetectWidget, qtbot, index: int) -> None:
    """Look at a slice with previews on, and wait until they have nothing more to do."""
    viewer.dims.set_current_step(0, index)
    panel.follow.box.setChecked(True)
    settle(panel, qtbot)


def settle(panel: DetectWidget, qtbot) -> None:
    qtbot.waitUntil(lambda: not panel.follow.working, timeout=MINUTE)
    qtbot.wait(50)


def finish(panel: DetectWidget, qtbot) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=MINUTE)
    qtbot.waitUntil(lambda: not panel.jobs.going, timeout=MINUTE)
    qtbot.wait(50)


def by_itself(panel: DetectWidget, scan: Volume) -> Detection:
    """The same run without a panel."""
    return run(scan, load_checkpoint(panel.model.checkpoint), panel.model.settings)


def test_only_the_newest_of_twenty_slices_is_reconstructed(viewer, panel, qtbot, calls):
    usual = panel.follow._rest.interval()
    panel.follow._rest.setInterval(60_000)  # a busy machine may take long for a step
    panel.follow.box.setChecked(True)
    for index in range(3, 23):
        viewer.dims.set_current_step(0, index)
        qtbot.wait(5)
    panel.follow._rest.setInterval(usual)  # starts it anew
    settle(panel, qtbot)
    assert panel.notices.error.text() == ""
    reconstruction = output(viewer, "reconstruction")
    shown = np.flatnonzero(reconstruction.any(axis=(1, 2)))
    assert shown.tolist() == list(range(22 - REACH, 22 + REACH + 1))
    assert output(viewer, "anomaly map")[22].any()
    assert output(viewer, "anomalies")[22].any()
    assert "per slice; whole volume about" in panel.follow.words.text()
    # seven slices of 5 mm lie on at most eight of 6 mm
    assert 0 < len(calls) <= 3 * 2

    calls.clear()
    follow(viewer, panel, qtbot, 21)  # a neighbour: already there, but for one at the end
    assert len(calls) <= 3
    follow(viewer, panel, qtbot, 22)
    assert len(calls) <= 3
    viewer.dims.set_current_step(0, 10)
    settle(panel, qtbot)
    shown = np.flatnonzero(reconstruction.any(axis=(1, 2)))
    assert 10 in shown
    assert 22 in shown  # in place, beside the earlier ones
    assert output(viewer, "reconstruction") is reconstruction


def test_a_newer_slice_drops_the_older_one_within_a_step(viewer, panel, qtbot, calls):
    panel.model.steps.setValue(panel.model.steps.maximum())  # two hundred calls for a slice
    calls.stop_after = 5
    viewer.dims.set_current_step(0, 10)
    panel.follow.box.setChecked(True)
    qtbot.waitUntil(calls.reached.is_set, timeout=MINUTE)
    panel.model.steps.setValue(1)
    viewer.dims.set_current_step(0, 22)
    qtbot.waitUntil(lambda: not panel.follow._rest.isActive(), timeout=MINUTE)
    calls.go.set()
    settle(panel, qtbot)
    # Eight slices of the model, in one step; the lane beside the one that stood went on a little.
    lanes = min(WORKERS, torch.get_num_threads())
    assert len(calls) <= 5 + 2 + 2 * (lanes - 1)
    shown = np.flatnonzero(output(viewer, "reconstruction").any(axis=(1, 2)))
    assert shown.min() == 22 - REACH


def test_previews_go_on_after_a_run_of_one_slice(viewer, panel, qtbot, scan):
    viewer.dims.set_current_step(0, 12)
    panel.follow.box.setChecked(True)
    settle(panel, qtbot)
    panel.model.this_slice.setChecked(True)
    panel.run()
    finish(panel, qtbot)
    assert panel.saving.save_button.isEnabled()
    assert panel.follow.box.isChecked()
    alone = output(viewer, "anomaly map")[12].copy()
    assert np.flatnonzero(panel.outcome.detection.done).tolist() == [12]
    viewer.dims.set_current_step(0, 13)
    settle(panel, qtbot)
    assert output(viewer, "anomaly map")[13].any()
    assert_array_equal(output(viewer, "anomaly map")[12], alone)
    assert not panel.saving.save_button.isEnabled()


def test_a_run_takes_over_what_was_previewed(viewer, panel, qtbot, scan, calls):
    follow(viewer, panel, qtbot, 12)
    follow(viewer, panel, qtbot, 20)
    assert not panel.saving.save_button.isEnabled()  # no record could repeat it
    assert panel.saving.save_button.toolTip() == texts.PREVIEW_NOT_SAVED
    previewed = len(calls)
    panel.run()
    assert not panel.follow.box.isEnabled()
    finish(panel, qtbot)
    together = len(calls)
    calls.clear()
    expected = by_itself(panel, scan)
    assert 0 < together - previewed < len(calls)
    assert_array_equal(output(viewer, "anomaly map"), expected.anomaly.data)
    assert_array_equal(output(viewer, "reconstruction"), expected.reconstruction.data)
    assert panel.outcome.detection.warnings == expected.warnings
    # A setting that is touched does not replace the whole result by a preview.
    assert not panel.follow.box.isChecked()
    assert panel.saving.save_button.isEnabled()
    calls.clear()
    panel.model.seed.setValue(1)
    qtbot.wait(200)
    assert calls == []
    panel.model.seed.setValue(0)
    follow(viewer, panel, qtbot, 14)  # done already
    assert calls == []
    assert not panel.outcome.preview


def test_a_cancelled_run_goes_on(viewer, panel, qtbot, scan, calls):
    panel.model.draws.setValue(2)
    calls.stop_after = 8
    panel.run()
    qtbot.waitUntil(calls.reached.is_set, timeout=MINUTE)
    panel.cancel()
    before = len(calls)
    calls.go.set()
    finish(panel, qtbot)
    assert before <= len(calls) < before + WORKERS  # it ended within the step of each lane
    assert panel.notices.status.text().startswith("Cancelled")
    viewer.dims.set_current_step(0, 8)  # batches are others now
    panel.run()
    finish(panel, qtbot)
    assert panel.notices.status.text().startswith("Done")
    together = len(calls)
    calls.clear()
    expected = by_itself(panel, scan)
    # Only the steps of the batches under way were lost, two each.
    assert 2 <= together - len(calls) <= 2 * WORKERS
    for title, map_ in {
        "anomaly map": expected.anomaly,
        "reconstruction": expected.reconstruction,
        "uncertainty": expected.uncertainty,
    }.items():
        assert_array_equal(output(viewer, title), map_.data)
    panel.model.score.setCurrentText("ssim")
    panel.model.smoothing.setValue(3.0)
    expected = by_itself(panel, scan)
    calls.clear()
    panel.run()
    finish(panel, qtbot)
    assert calls == []  # another score needs no network
    assert_array_equal(output(viewer, "anomaly map"), expected.anomaly.data)


def test_other_settings_are_previewed_anew(viewer, panel, qtbot, calls):
    follow(viewer, panel, qtbot, 12)
    follow(viewer, panel, qtbot, 22)
    first = output(viewer, "reconstruction").copy()
    calls.clear()
    panel.model.seed.setValue(5)
    settle(panel, qtbot)
    assert calls
    second = output(viewer, "reconstruction")
    assert not second[12].any()  # of the other seed
    assert second[22].any()
    assert (second[22] != first[22]).any()
    calls.clear()
    panel.model.seed.setValue(0)
    settle(panel, qtbot)
    assert calls == []
    assert_array_equal(output(viewer, "reconstruction")[22], first[22])


def test_a_hidden_panel_does_nothing(viewer, panel, qtbot, calls):
    panel.hide()
    viewer.dims.set_current_step(0, 12)
    panel.follow.box.setChecked(True)
    qtbot.wait(300)
    assert not panel.follow.working
    assert calls == []
    panel.show()
    settle(panel, qtbot)
    assert calls


def test_in_a_coronal_view_the_cursor_says_which_slice(viewer, panel, qtbot, layer):
    panel.views.show_plane("Coronal")
    viewer.cursor.position = tuple(layer.data_to_world((9, 15, 14)))
    panel.follow.box.setChecked(True)
    settle(panel, qtbot)
    assert texts.FOLLOW_AXIAL in panel.follow.words.text()
    shown = np.flatnonzero(output(viewer, "reconstruction").any(axis=(1, 2)))
    assert shown.mean() == pytest.approx(9)


def test_a_slice_without_brain_and_a_scan_that_goes(viewer, panel, qtbot, layer, calls):
    layer.data[:8] = 0
    follow(viewer, panel, qtbot, 2)
    assert "no brain" in panel.follow.words.text()
    assert panel.notices.error.text() == ""
    viewer.dims.set_current_step(0, 20)
    panel.model.steps.setValue(panel.model.steps.maximum())
    qtbot.waitUntil(lambda: bool(calls), timeout=MINUTE)
    viewer.layers.remove(layer)
    settle(panel, qtbot)
    assert not [one for one in viewer.layers if is_output(one)]
    assert panel.notices.error.text() == ""
