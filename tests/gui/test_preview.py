"""Follow slice with a real (tiny) network; `test_walk.py` has it in a real viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from numpy.testing import assert_array_equal
from qtpy.QtCore import QTimer

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import run as detect
from napari_addm.io.volume import Volume
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output

REACH = 3  # slices of 5 mm in the reach of a preview
MINUTE = 60_000


class Desk:
    """A viewer with a scan and a panel that is seen."""

    def __init__(self, viewer: Any, panel: DetectWidget, qtbot: Any) -> None:
        self.viewer, self.panel, self._qtbot = viewer, panel, qtbot

    def look_at(self, index: int) -> None:
        """Look at a slice with previews on, and wait until they have nothing more to do."""
        self.viewer.dims.set_current_step(0, index)
        self.panel.follow.box.setChecked(True)
        self.settle()

    def settle(self) -> None:
        self._qtbot.waitUntil(lambda: not self.panel.runner.previewing, timeout=MINUTE)
        self._qtbot.wait(50)

    def data(self, title: str) -> np.ndarray:
        layers = self.viewer.layers
        (found,) = [each for each in layers if is_output(each) and each.name.endswith(title)]
        return found.data

    @property
    def slices(self) -> list[int]:
        """Those that have a reconstruction."""
        return np.flatnonzero(self.data("reconstruction").any(axis=(1, 2))).tolist()


@pytest.fixture
def desk(new_panel: Any, add: Any, scan: Volume, qtbot: Any) -> Desk:
    viewer = ViewerModel()
    add(viewer, scan.with_data(scan.data.copy()))
    panel = new_panel(viewer)
    panel.show()
    qtbot.waitExposed(panel)
    return Desk(viewer, panel, qtbot)


def test_new_layers_come_one_by_one(desk: Desk) -> None:
    """Each takes a while to make: the window is drawn and heard in between."""
    turns, came = [0], []
    beat = QTimer()
    beat.timeout.connect(lambda: turns.append(turns[-1] + 1))
    beat.start(0)
    desk.viewer.layers.events.inserted.connect(lambda event: came.append(turns[-1]))
    desk.look_at(10)
    assert [layer.name.split()[-1] for layer in desk.viewer.layers][-1] == "anomalies"
    assert len(came) == len(set(came)) == len(desk.viewer.layers) - 1


def test_the_newest_slice_is_reconstructed_with_its_neighbors(desk: Desk) -> None:
    follow = desk.panel.follow
    follow.box.setChecked(True)
    for index in range(3, 23):  # scrolled past, before any of them has rested
        desk.viewer.dims.set_current_step(0, index)
    desk.settle()
    assert desk.panel.notices.error.text() == ""
    assert desk.slices == list(range(22 - REACH, 22 + REACH + 1))
    assert desk.data("anomaly map")[22].any()
    assert desk.data("anomalies")[22].any()
    assert "per slice; whole volume about" in follow.words.text()
    memory = desk.data("reconstruction")
    desk.look_at(10)
    assert {10, 22} <= set(desk.slices)  # beside the earlier ones, in place
    assert desk.data("reconstruction") is memory
    # a newer slice drops an older one that takes long
    desk.panel.model.steps.setValue(desk.panel.model.steps.maximum())
    desk.viewer.dims.set_current_step(0, 14)
    desk.panel.model.steps.setValue(1)
    desk.look_at(22)
    assert desk.slices == list(range(22 - REACH, 22 + REACH + 1))


def test_a_run_takes_over_what_was_previewed(desk: Desk, run: Any, scan: Volume) -> None:
    panel = desk.panel
    desk.look_at(12)
    desk.look_at(20)
    assert not panel.saving.save_button.isEnabled()  # no record could repeat it
    assert panel.saving.save_button.toolTip() == texts.PREVIEW_NOT_SAVED
    run(panel)
    expected = detect(scan, load_checkpoint(panel.model.checkpoint), panel.model.settings)
    assert_array_equal(desk.data("anomaly map"), expected.anomaly.data)
    assert_array_equal(desk.data("reconstruction"), expected.reconstruction.data)
    assert panel.outcome.detection.warnings == expected.warnings
    assert panel.saving.save_button.isEnabled()
    # a setting that is touched replaces no whole result by a preview
    assert not panel.follow.box.isChecked()
    desk.look_at(14)  # which is done already
    assert not panel.outcome.preview


def test_previews_go_on_after_a_run_of_one_slice(desk: Desk, run: Any) -> None:
    panel = desk.panel
    desk.look_at(12)
    panel.model.this_slice.setChecked(True)
    run(panel)
    assert panel.saving.save_button.isEnabled()
    assert panel.follow.box.isChecked()
    alone = desk.data("anomaly map")[12].copy()
    assert np.flatnonzero(panel.outcome.detection.done).tolist() == [12]
    desk.look_at(13)
    assert desk.data("anomaly map")[13].any()
    assert_array_equal(desk.data("anomaly map")[12], alone)
    assert not panel.saving.save_button.isEnabled()


def test_a_cancelled_run_goes_on_with_what_is_there(
    desk: Desk, run: Any, finish: Any, scan: Volume, qtbot: Any
) -> None:
    panel = desk.panel
    panel.model.draws.setValue(2)
    panel.model.batch_size.setValue(1)
    panel.run()
    qtbot.waitUntil(lambda: panel.notices.progress.value() > 0, timeout=MINUTE)
    panel.controller.cancel()
    finish(panel)
    assert panel.notices.status.text().startswith("Cancelled")
    panel.model.score.setCurrentText("ssim")
    panel.model.smoothing_mm.setValue(3.0)
    run(panel)
    assert " finding" in panel.notices.status.text()
    expected = detect(scan, load_checkpoint(panel.model.checkpoint), panel.model.settings)
    for title in ("anomaly", "reconstruction", "uncertainty"):
        shown = desk.data("anomaly map" if title == "anomaly" else title)
        assert_array_equal(shown, getattr(expected, title).data)


def test_other_settings_are_previewed_anew(desk: Desk) -> None:
    desk.look_at(12)
    desk.look_at(22)
    first = desk.data("reconstruction").copy()
    desk.panel.model.seed.setValue(5)
    desk.settle()
    second = desk.data("reconstruction")
    assert not second[12].any()  # of the other seed
    assert second[22].any()
    assert (second[22] != first[22]).any()
    desk.panel.model.seed.setValue(0)
    desk.settle()
    assert_array_equal(desk.data("reconstruction")[22], first[22])


def test_a_hidden_panel_does_nothing(desk: Desk) -> None:
    desk.panel.hide()
    desk.viewer.dims.set_current_step(0, 12)
    desk.panel.follow.box.setChecked(True)
    assert not desk.panel.runner.previewing
    desk.panel.show()
    desk.settle()
    assert 12 in desk.slices


def test_in_a_coronal_view_the_cursor_says_which_slice(desk: Desk) -> None:
    desk.panel.views.show_plane("Coronal")
    (layer,) = desk.viewer.layers
    desk.viewer.cursor.position = tuple(layer.data_to_world((9, 15, 14)))
    desk.panel.follow.box.setChecked(True)
    desk.settle()
    assert texts.FOLLOW_AXIAL in desk.panel.follow.words.text()
    assert np.mean(desk.slices) == pytest.approx(9)


def test_a_slice_without_brain_and_a_scan_that_goes(desk: Desk) -> None:
    (layer,) = desk.viewer.layers
    layer.data[:8] = 0
    desk.look_at(2)
    assert "no brain" in desk.panel.follow.words.text()
    assert desk.panel.notices.error.text() == ""
    desk.panel.model.steps.setValue(desk.panel.model.steps.maximum())
    desk.viewer.dims.set_current_step(0, 20)
    desk.viewer.layers.remove(layer)
    desk.settle()
    assert not [each for each in desk.viewer.layers if is_output(each)]
    assert desk.panel.notices.error.text() == ""
