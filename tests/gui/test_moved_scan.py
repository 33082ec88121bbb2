"""The panel with a scan that is moved, copied or replaced: what it shows, refuses and saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Layer
from numpy.testing import assert_allclose, assert_array_equal

from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.outputs.record import read_record
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import layer_to_volume
from napari_addm.widgets.viewing.canvas_tools import LETTER

MINUTE = 60_000
RUN_AGAIN = "press Run again"


@pytest.fixture
def model() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(model: ViewerModel, new_panel: Any) -> DetectWidget:
    return new_panel(model)


def result(viewer: Any, title: str) -> Layer:
    (found,) = (one for one in viewer.layers if is_output(one) and one.name.endswith(f" {title}"))
    return found


def choices(chooser: Any) -> list[str]:
    return [chooser.itemText(n) for n in range(chooser.count())]


def truth_of(volume: Volume) -> Volume:
    return volume.with_data((volume.data > 120).astype(np.uint8))


def test_a_moved_scan_is_not_saved_until_it_is_back(
    model, panel, qtbot, finish, add, show_result, scan, tmp_path
) -> None:
    layer, out = add(model, scan), tmp_path / "out"
    show_result(panel)
    button, figure = panel.saving.save_button, panel.views.figure
    before, found = np.array(layer.scale), panel.findings.count.text()
    layer.scale = 2 * before
    qtbot.waitUntil(lambda: not button.isEnabled(), timeout=MINUTE)
    assert panel.findings.isHidden() or not panel.findings.isVisibleTo(panel)
    panel.saving.save(out)
    finish(panel)
    assert RUN_AGAIN in panel.notices.error.text()
    figure.export(tmp_path / "figure.png")
    assert RUN_AGAIN in figure.note.text()
    assert not out.exists()
    assert not (tmp_path / "figure.png").exists()
    layer.scale = before
    qtbot.waitUntil(button.isEnabled, timeout=MINUTE)
    assert panel.findings.count.text() == found
    panel.saving.save(out)
    finish(panel)
    assert panel.notices.error.text() == ""
    assert (out / "head_record.json").exists()


@pytest.mark.parametrize("reader", ["ours", "another"])
def test_a_new_run_has_the_new_place(
    model, panel, new_panel, run, finish, add, scan, tmp_path, reader
) -> None:
    """As in a panel that has never seen the old one: no reconstruction of it is taken over."""
    if reader == "ours":
        layer = add(model, scan)
    else:
        layer = Image(scan.data, name="head", contrast_limits=(0, 140), scale=(5.0, 5.0, 5.0))
        model.add_layer(layer)
    run(panel)
    before = result(model, "anomaly map")
    layer.scale = (4.0, 4.0, 4.5)
    layer.translate = (-30.0, 0.0, 7.0)
    run(panel)
    assert panel.outcome.misfit == ""
    assert result(model, "anomaly map") is before
    expected = layer_to_volume(layer)
    assert_allclose(layer_to_volume(before).affine, expected.affine, atol=1e-4)
    detection = panel.outcome.detection
    assert_allclose(detection.anomaly.affine, expected.affine, atol=1e-4)
    marked = panel.outcome.marked
    voxels = np.array([np.sum(marked.labels == id) for id in marked.findings.id])
    assert_allclose(marked.findings.volume_ml, voxels * expected.voxel_ml)
    panel.saving.save(tmp_path)
    finish(panel)
    (saved,) = tmp_path.glob("*_anomaly.nii.gz")
    assert read_volume(saved).same_grid(expected)
    other = ViewerModel()
    fresh = new_panel(other)
    other.add_layer(Layer.create(*layer.as_layer_data_tuple()))
    run(fresh)
    assert_array_equal(detection.anomaly.data, fresh.outcome.detection.anomaly.data)


def test_a_scan_that_is_moved_amid_a_run(model, panel, qtbot, finish, add, scan) -> None:
    layer = add(model, scan)
    panel.model.batch_size.setValue(1)
    panel.model.draws.setValue(4)
    panel.run()
    layer.translate = layer.translate + np.array([30.0, 0, 0])  # before any layer is there
    qtbot.waitUntil(lambda: any(map(is_output, model.layers)), timeout=MINUTE)
    layer.scale = 2 * layer.scale  # when they are
    finish(panel)
    for title in ("reconstruction", "anomaly map", "anomalies"):
        assert_allclose(result(model, title).scale, layer.scale)
        assert_allclose(result(model, title).translate, layer.translate)
    assert panel.outcome.misfit
    assert not panel.saving.save_button.isEnabled()


def test_a_preview_after_a_move_has_the_new_place(model, panel, qtbot, finish, add, scan) -> None:
    layer = add(model, scan)
    panel.show()
    model.dims.set_current_step(0, 16)
    panel.follow.box.setChecked(True)
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    first = panel.outcome
    layer.scale = 0.8 * layer.scale
    qtbot.waitUntil(
        lambda: panel.outcome is not first and panel.outcome.detection is not None, timeout=MINUTE
    )
    assert_allclose(panel.outcome.scan.spacing, 4)
    assert panel.outcome.misfit == ""
    panel.follow.box.setChecked(False)
    finish(panel)


def test_decisions_stay_with_the_voxels_that_they_are_about(
    model, panel, add, show_result, scan
) -> None:
    layer = add(model, scan)
    show_result(panel)
    table = panel.findings.table
    id = table.model.finding(0).id
    table.decide(id, Decision("rejected", "a vessel"))
    scale = np.array(layer.scale)
    layer.scale = scale * (1, 1, -1)  # left is right: other voxels
    show_result(panel)
    assert panel.outcome.decisions == {}
    layer.scale = scale
    show_result(panel)
    assert panel.outcome.decisions == {id: Decision("rejected", "a vessel")}
    copy = Layer.create(*layer.as_layer_data_tuple())
    copy.data = np.ascontiguousarray(layer.data[:, :, ::-1])  # of the same shape
    model.add_layer(copy)
    panel.inputs.scan_chooser.choose(copy)
    show_result(panel)
    assert panel.outcome.decisions == {}


def test_a_ground_truth_that_is_moved_is_no_longer_compared(
    model, panel, qtbot, add, show_result, scan
) -> None:
    add(model, scan)
    truth = add(model, truth_of(scan), "labels", name="truth")
    choice = panel.agreement.truth
    choice.chooser.choose(truth)
    show_result(panel)
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    truth.translate = truth.translate + np.array([30.0, 0, 0])
    qtbot.waitUntil(lambda: panel.outcome.agreement is None, timeout=MINUTE)
    assert "does not lie on the voxels" in choice.grid_message.text()
    truth.translate = truth.translate - np.array([30.0, 0, 0])
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    assert choice.grid_message.text() == ""


def test_copies_are_offered_and_their_records_name_no_file(
    model, panel, qtbot, run, finish, add, show_result, scan, tmp_path
) -> None:
    """As ground truth, as brain mask and as scan."""
    add(model, scan)
    show_result(panel)
    truth, mask, healthy = (
        model.add_layer(Layer.create(*result(model, title).as_layer_data_tuple()))
        for title in ("anomalies", "anomalies", "reconstruction")
    )
    truth.name, mask.name, healthy.name = "truth", "mask", "healthy"
    mask.data = (scan.data > 0).astype(np.int32)
    assert "healthy" in choices(panel.inputs.scan_chooser)
    panel.agreement.truth.chooser.choose(truth)
    panel.inputs.brain.chooser.choose(mask)
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    assert panel.outcome.agreement.at(panel.outcome.marked)["dice"] == 1
    run(panel)
    panel.saving.save(tmp_path)
    finish(panel)
    record = read_record(tmp_path / "head_record.json")
    assert record.brain_mask.name is None
    assert record.truth is not None
    assert record.truth.name is None
    panel.inputs.scan_chooser.choose(healthy)
    show_result(panel)
    panel.saving.save(tmp_path)
    finish(panel)
    assert read_record(tmp_path / "healthy_record.json").input.name != "head.nii.gz"
    assert read_volume(tmp_path / "healthy_anomaly.nii.gz").same_grid(scan)


def test_letters_and_canvases_follow_a_scan_that_is_moved(
    make_napari_viewer_proxy, monkeypatch, new_panel, add, show_result, qtbot, scan
) -> None:
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer_proxy(show=True)
    panel = new_panel(viewer)
    layer = add(viewer, scan)
    show_result(panel)

    def letters() -> set[str]:
        overlays = viewer.canvas.overlays
        return {name for name in overlays if name.startswith(LETTER) and overlays[name].visible}

    assert len(letters()) == 4
    panel.views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: panel.views.canvases.dock.filled, timeout=60_000)
    layer.scale = 2 * layer.scale
    layer.translate = layer.translate + np.array([30.0, 0, 0])
    assert len(letters()) == 4
    for canvas in panel.views.canvases.dock.canvases:
        assert len(canvas.model.layers) == len(viewer.layers)
        for copy in canvas.model.layers:
            assert_allclose(copy.scale, layer.scale)
            assert_allclose(copy.translate, layer.translate)
    layer.scale = layer.scale * (1, 1, -1)  # which side is left now?
    assert letters() == set()
    panel.views.three_planes.setChecked(False)
    qtbot.wait(100)
