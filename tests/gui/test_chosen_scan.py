"""The scan that the panel is about: opened or selected, alone in view, by name and folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._layer_actions import _duplicate_layer
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image as Picture
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QApplication

from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.writing import write_volume
from napari_addm.widgets import texts
from napari_addm.widgets.commands import save_results
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.titles import folder_of, is_generic

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
LESION = (25.0, -20.0, 15.0, 20.0)
MINUTE = 60_000


@pytest.fixture(scope="module")
def cases(make_brain: Any, tmp_path_factory: Any) -> Path:
    """Three patients, each in a folder with one and the same file name; the last lies elsewhere."""
    folder = tmp_path_factory.mktemp("patients")
    for n, name in enumerate(("P_one", "P_two", "P_far")):
        x, y, z, radius = LESION
        scan = make_brain(AFFINE, SHAPE, ((x - 6 * n, y, z, radius),))
        affine = scan.affine.copy()
        affine[:3, 3] += 400.0 * (n == 2)
        scan = type(scan)(scan.data, affine, scan.source, scan.warnings)
        (folder / name).mkdir()
        write_volume(folder / name / "t1.nii.gz", scan)
        mask = scan.with_data((scan.data > 0).astype(np.uint8))
        mask.data[: 3 + n] = 0
        write_volume(folder / name / "mask.nii.gz", mask)
    return folder


def prepared(panel: DetectWidget, checkpoint: Path) -> DetectWidget:
    panel.checkpoint_chooser.choose(checkpoint)
    panel.device.setCurrentText("cpu")
    panel.precision.setCurrentText("float32")
    panel.threshold.setValue(0.01)  # an untrained network finds something everywhere
    return panel


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(viewer: ViewerModel, tiny_checkpoint: Path, qtbot: Any) -> DetectWidget:
    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    return prepared(widget, tiny_checkpoint)


def read(viewer: Any, path: Path) -> Any:
    """Open a file as a person does."""
    (layer,) = viewer.open(str(path), plugin="napari-addm")
    return layer


def opened(viewer: Any, cases: Path, name: str) -> Any:
    return read(viewer, cases / name / "t1.nii.gz")


def run(qtbot: Any, panel: DetectWidget) -> None:
    panel.run()
    assert panel.running
    finish(qtbot, panel)


def finish(qtbot: Any, panel: DetectWidget) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=MINUTE)
    qtbot.waitUntil(lambda: panel._aside not in Job._worker_set, timeout=MINUTE)
    qtbot.wait(50)
    assert panel.error.text() == ""


def visible(viewer: Any) -> set[str]:
    return {layer.name for layer in viewer.layers if layer.visible}


def heading(panel: DetectWidget, title: str) -> str:
    return str(panel._sections[title].heading.text())


def results_of(viewer: Any, name: str) -> list[Any]:
    return [each for each in viewer.layers if is_output(each) and each.name.startswith(name)]


ONE, TWO, FAR = "t1 (P_one)", "t1 (P_two)", "t1 (P_far)"


def test_a_second_scan_is_the_chosen_one_and_alone_in_view(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    assert heading(panel, "Scan") == f"▾ Scan: {ONE}"
    assert panel.run_button.text() == "Run"
    run(qtbot, panel)
    table = panel.findings.table
    id = table.model.finding(0).id
    table.decide(id, Decision("rejected", "a vessel"))
    shown = visible(viewer)
    assert shown == {ONE, f"{ONE} anomaly map", f"{ONE} anomalies"}
    assert heading(panel, "Findings") == f"▾ Findings in {ONE}"
    assert heading(panel, "Save") == f"▾ Save: {ONE}"
    first = panel.outcome

    opened(viewer, cases, "P_two")
    assert panel.scan_chooser.currentText() == TWO
    assert visible(viewer) == {TWO}
    assert heading(panel, "Scan") == f"▾ Scan: {TWO}"
    assert panel.run_button.text() == f"Run on {TWO}"
    # nothing of the first is left to be taken for the second's
    assert panel.findings_section.isHidden()
    assert panel.save_section.isHidden()
    assert not panel.save_button.isEnabled()
    assert panel.warnings.isHidden()
    assert f"'{ONE}' are kept" in panel.whose.text()
    assert "Done" not in panel.status.text()

    panel.scan_chooser.choose(viewer.layers[ONE])
    assert visible(viewer) == shown
    assert viewer.layers.selection.active is viewer.layers[ONE]
    assert not panel.findings_section.isHidden()
    assert not panel.save_section.isHidden()
    assert panel.outcome is first
    assert table.decisions == {id: Decision("rejected", "a vessel")}
    assert panel.whose.isHidden()
    assert panel.warnings.text() == "\n".join(first.warnings)

    viewer.layers.selection.active = viewer.layers[TWO]
    assert panel.scan_chooser.currentText() == TWO
    run(qtbot, panel)
    assert panel.outcome.scan.source.path == cases / "P_two" / "t1.nii.gz"
    assert heading(panel, "Findings") == f"▾ Findings in {TWO}"
    assert visible(viewer) == {TWO, f"{TWO} anomaly map", f"{TWO} anomalies"}
    viewer.layers.selection.active = viewer.layers[ONE]
    assert visible(viewer) == shown
    assert texts.RESULTS_SHOWN in panel.whose.text()
    run(qtbot, panel)
    assert table.decisions == {id: Decision("rejected", "a vessel")}


@pytest.mark.parametrize("how", ["reader", "add_image", "insert", "several at once", "four axes"])
def test_however_a_scan_is_opened(
    viewer: ViewerModel, panel: DetectWidget, cases: Path, how: str
) -> None:
    opened(viewer, cases, "P_one")
    data = read_volume(cases / "P_two" / "t1.nii.gz").data
    if how == "reader":
        opened(viewer, cases, "P_two")
    elif how == "add_image":
        viewer.add_image(data)
    elif how == "insert":
        viewer.layers.insert(0, Image(data))
    elif how == "four axes":
        viewer.add_image(data[None])
    else:
        viewer.open(
            [str(cases / name / "t1.nii.gz") for name in ("P_two", "P_far")], plugin="napari-addm"
        )
    (seen,) = [layer for layer in viewer.layers if layer.visible]
    assert seen.name != ONE
    assert panel.scan_chooser.layer_id == seen.unique_id
    if how == "several at once":
        assert seen is viewer.layers.selection.active


def test_what_is_no_scan_leaves_the_choice_alone(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    scan = opened(viewer, cases, "P_one")
    viewer.add_labels(np.ones(SHAPE, int), name="drawn")
    viewer.add_image(np.zeros((20, 30)), name="a picture")
    viewer.add_image(np.zeros((9, 20, 30, 3), np.uint8), rgb=True, name="in colours")
    viewer.add_points(np.zeros((1, 3)), name="a point")
    read(viewer, cases / "P_two" / "mask.nii.gz")
    for layer in list(viewer.layers):
        if layer is not scan:
            viewer.layers.selection.active = layer
    assert panel.scan_chooser.layer_id == scan.unique_id
    assert scan.visible
    run(qtbot, panel)
    assert panel.scan_chooser.layer_id == scan.unique_id


def test_what_a_person_has_hidden_stays_hidden(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    run(qtbot, panel)
    viewer.layers[f"{ONE} anomaly map"].visible = False
    viewer.layers[f"{ONE} reconstruction"].visible = True
    shown = visible(viewer)
    for _ in range(2):
        opened(viewer, cases, "P_two")
        viewer.layers.selection.active = viewer.layers[ONE]
        assert visible(viewer) == shown
    # a panel that is opened anew knows what was hidden by the one before
    viewer.layers.selection.active = viewer.layers[TWO]
    panel.close()
    other = DetectWidget(viewer)
    qtbot.addWidget(other)
    assert other.scan_chooser.currentText() == TWO
    viewer.layers.selection.active = viewer.layers[ONE]
    assert visible(viewer) == shown


def test_a_result_that_is_selected_stands_for_its_scan(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    run(qtbot, panel)
    for name in ("anomaly map", "anomalies", "reconstruction"):
        viewer.layers.selection.active = opened(viewer, cases, "P_two")
        viewer.layers.selection.active = viewer.layers[f"{ONE} {name}"]
        assert panel.scan_chooser.currentText() == ONE
        assert viewer.layers.selection.active.name == f"{ONE} {name}"


@pytest.mark.parametrize("title", ["reconstruction", "anomaly map", "anomalies"])
def test_a_copy_of_a_result_is_no_scan_and_goes_with_its_scan(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path, title: str
) -> None:
    opened(viewer, cases, "P_one")
    run(qtbot, panel)
    (result,) = (each for each in results_of(viewer, ONE) if each.name.endswith(title))
    before = set(viewer.layers)
    viewer.layers.selection.active = result
    _duplicate_layer(viewer.layers)
    (copy,) = set(viewer.layers) - before
    copy.visible = True
    viewer.layers.selection.active = copy
    assert panel.scan_chooser.currentText() == ONE
    assert panel.findings_section.isVisibleTo(panel)
    assert viewer.layers[ONE].visible
    opened(viewer, cases, "P_two")
    assert visible(viewer) == {TWO}  # no map of one patient over the other
    viewer.layers.selection.active = copy
    assert panel.scan_chooser.currentText() == ONE
    assert copy.visible


def test_a_copy_of_what_is_put_away_is_hidden_with_its_scan_and_comes_back(
    viewer: ViewerModel, panel: DetectWidget, cases: Path
) -> None:
    mask = cases / "P_one" / "mask.nii.gz"
    opened(viewer, cases, "P_one")
    labels = read(viewer, mask)
    opened(viewer, cases, "P_two")
    assert not labels.visible
    copy = viewer.add_labels(
        labels.data.copy(), metadata=dict(labels.metadata), name="mine", scale=labels.scale
    )
    assert copy.visible  # a person's own, made while the second is looked at
    panel.scan_chooser.choose(viewer.layers[ONE])
    assert labels.visible


def test_a_moved_scan_says_so_only_while_it_is_the_chosen_one(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    layer = opened(viewer, cases, "P_one")
    run(qtbot, panel)
    layer.translate = np.array(layer.translate) + 30
    qtbot.waitUntil(lambda: "press Run again" in panel.whose.text())
    assert panel.findings_section.isHidden()
    assert panel.save_section.isHidden()
    assert not panel.save_button.isEnabled()
    opened(viewer, cases, "P_two")
    assert "press Run again" not in panel.whose.text()
    assert "are kept" in panel.whose.text()
    viewer.layers.selection.active = layer
    assert "press Run again" in panel.whose.text()
    run(qtbot, panel)
    assert panel.whose.text() == ""
    assert panel.findings_section.isVisibleTo(panel)
    for result in results_of(viewer, ONE):
        assert_allclose(result.translate, layer.translate)


def test_a_run_goes_on_for_its_own_scan(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    """Its layers neither steal the choice nor come over the other one's picture."""
    opened(viewer, cases, "P_one")
    panel.batch_size.setValue(1)
    panel.draws.setValue(8)
    panel.run()
    opened(viewer, cases, "P_two")
    seen: list[set[str]] = []
    said: list[str] = []
    while panel.running:
        qtbot.wait(20)
        seen.append(visible(viewer))
        said.append(panel.status.text())
    finish(qtbot, panel)
    assert results_of(viewer, ONE)
    assert all(names == {TWO} for names in seen)
    assert panel.scan_chooser.currentText() == TWO
    assert any(words.startswith(f"Running on {ONE}: Reconstructing") for words in said)
    assert panel.status.text().startswith(f"{ONE}: Done in")
    assert panel.findings_section.isHidden()
    assert f"'{ONE}' are kept" in panel.whose.text()
    assert panel.outcome.scan.source.path == cases / "P_one" / "t1.nii.gz"
    viewer.layers.selection.active = viewer.layers[ONE]
    assert visible(viewer) == {ONE, f"{ONE} anomaly map", f"{ONE} anomalies"}
    assert not panel.findings_section.isHidden()
    assert panel.warnings.text() == "\n".join(panel.outcome.warnings)
    assert panel.save_button.isEnabled()


def test_nothing_acts_on_the_findings_of_another_scan(
    viewer: ViewerModel,
    panel: DetectWidget,
    qtbot: Any,
    cases: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    opened(viewer, cases, "P_one")
    run(qtbot, panel)
    opened(viewer, cases, "P_two")
    point, shown = viewer.dims.point, visible(viewer)
    # N, J, blink, swipe, the figure, and saving, from the panel and from the menu
    panel.views.step_finding(1)
    assert viewer.dims.point == point
    for _ in range(2):
        panel.views.toggle_maps()
        assert visible(viewer) == shown
    for box in (panel.views.blink_button, panel.views.swipe_check):
        box.setChecked(True)
        assert not box.isChecked()
        assert visible(viewer) == shown
    panel.views.figure.export(tmp_path / "figure.png")
    assert panel.views.figure.note.text() == texts.NO_FIGURE
    panel.save(tmp_path / "out")
    qtbot.wait(100)
    assert not (tmp_path / "figure.png").exists()
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    monkeypatch.setattr("napari_addm.widgets.commands.show_info", told.append)
    monkeypatch.setattr("napari_addm.widgets.commands.open_panel", lambda viewer: panel)
    save_results(viewer)  # type: ignore[arg-type]
    assert told == [texts.NO_RESULT]


def test_what_compares_scan_and_reconstruction_ends_first(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    """It would bring layers of the scan before over the picture when it ends later."""
    opened(viewer, cases, "P_one")
    run(qtbot, panel)
    shown = visible(viewer)
    panel.views.blink_button.setChecked(True)
    opened(viewer, cases, "P_two")
    assert not panel.views.blink_button.isChecked()
    qtbot.wait(500)
    assert visible(viewer) == {TWO}
    viewer.layers.selection.active = viewer.layers[ONE]
    assert visible(viewer) == shown
    panel.views.swipe_check.setChecked(True)
    viewer.layers.selection.active = viewer.layers[TWO]
    assert visible(viewer) == {TWO}


def test_a_key_that_is_held_while_another_scan_is_selected_leaves_nothing_behind(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    run(qtbot, panel)
    shown = visible(viewer)
    opened(viewer, cases, "P_two")
    viewer.layers.selection.active = viewer.layers[ONE]
    held = {str(key): pressed for key, pressed in viewer.keymap.items()}["H"](viewer)
    next(held)
    assert f"{ONE} reconstruction" in visible(viewer)
    viewer.layers.selection.active = viewer.layers[TWO]
    next(held, None)  # the key is released
    assert visible(viewer) == {TWO}
    viewer.layers.selection.active = viewer.layers[ONE]
    assert visible(viewer) == shown


def test_a_scan_that_is_run_again_after_another_has_its_threshold_and_decisions(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    panel.threshold.setValue(0.02)
    panel.minimum.setValue(0.3)
    run(qtbot, panel)
    table = panel.findings.table
    table.decide(table.model.finding(0).id, Decision("accepted"))
    decided, found = table.decisions, list(panel.outcome.marked.findings)
    opened(viewer, cases, "P_two")
    run(qtbot, panel)
    panel.threshold.setValue(0.011)
    panel.minimum.setValue(0.0)
    viewer.layers.selection.active = viewer.layers[ONE]
    run(qtbot, panel)
    assert (panel.threshold.value(), panel.minimum.value()) == (0.02, 0.3)
    assert list(panel.outcome.marked.findings) == found
    assert table.decisions == decided


def test_labels_of_a_scan_that_is_not_in_view_bring_their_own_scan(
    viewer: ViewerModel, panel: DetectWidget, cases: Path
) -> None:
    """One patient's mask never lies over the other's picture."""
    opened(viewer, cases, "P_one")
    opened(viewer, cases, "P_two")
    mask = read(viewer, cases / "P_one" / "mask.nii.gz")
    assert panel.scan_chooser.currentText() == ONE
    assert visible(viewer) == {ONE, mask.name}
    viewer.layers.selection.active = viewer.layers[TWO]
    assert visible(viewer) == {TWO}


def test_pictures_and_points_that_are_opened_beside_a_scan_stay_in_sight(
    viewer: ViewerModel, panel: DetectWidget, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    viewer.add_image(np.random.default_rng(0).random((20, 30)), name="a sheet")
    viewer.add_image(np.zeros((20, 30, 3), np.uint8), name="colour", rgb=True)
    viewer.add_points(np.zeros((1, 3)), name="points")
    viewer.add_labels(np.ones(SHAPE, int), name="labels")
    assert visible(viewer) == {ONE, "a sheet", "colour", "points", "labels"}


def test_a_panel_that_is_closed_shows_again_what_hits_and_misses_covered(
    viewer: ViewerModel, tiny_checkpoint: Path, qtbot: Any, cases: Path
) -> None:
    panel = prepared(DetectWidget(viewer), tiny_checkpoint)
    opened(viewer, cases, "P_one")
    panel.truth_chooser.choose(read(viewer, cases / "P_one" / "mask.nii.gz"))
    run(qtbot, panel)
    before = visible(viewer)
    panel.agreement.view.overlay.setChecked(True)
    assert any("hits and misses" in name for name in visible(viewer))
    with qtbot.waitSignal(panel.destroyed):
        panel.leave()
    assert visible(viewer) == before


def test_a_click_on_run_gives_the_focus_to_no_button(
    make_napari_viewer: Any, tiny_checkpoint: Path, qtbot: Any, cases: Path
) -> None:
    """Qt hands the focus on when a button is disabled: to one that hides the panel, for example."""
    viewer = make_napari_viewer(show=True)
    panel = prepared(DetectWidget(viewer), tiny_checkpoint)
    viewer.window.add_dock_widget(panel)
    opened(viewer, cases, "P_one")
    viewer.window._qt_window.activateWindow()
    canvas = viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    qtbot.waitUntil(canvas.hasFocus)
    qtbot.mouseClick(panel.run_button, Qt.MouseButton.LeftButton)
    assert panel.running
    assert not isinstance(QApplication.focusWidget(), QAbstractButton)
    finish(qtbot, panel)
    assert not isinstance(QApplication.focusWidget(), QAbstractButton)


def test_hits_and_misses_are_of_the_chosen_scan(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    truth = read(viewer, cases / "P_one" / "mask.nii.gz")
    panel.truth_chooser.choose(truth)
    run(qtbot, panel)
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    panel.agreement.view.overlay.setChecked(True)
    assert f"{ONE} hits and misses" in visible(viewer)
    opened(viewer, cases, "P_two")
    assert visible(viewer) == {TWO}
    assert panel.metrics.isHidden()
    viewer.layers.selection.active = viewer.layers[ONE]
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    assert visible(viewer) == {ONE, f"{ONE} hits and misses"}


# --- brain mask and ground truth -----------------------------------------------------------------


@pytest.mark.parametrize("which", ["mask", "truth"])
def test_labels_are_chosen_for_one_scan(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path, which: str
) -> None:
    """The grid of the other is the same, and the patient is another."""
    chooser = panel.mask_chooser if which == "mask" else panel.truth_chooser
    none = chooser.currentText()
    opened(viewer, cases, "P_one")
    mine = read(viewer, cases / "P_one" / "mask.nii.gz")
    chooser.choose(mine)
    opened(viewer, cases, "P_two")
    assert chooser.currentText() == none
    assert not mine.visible
    if which == "mask":
        assert panel.inputs.brain_mask is None
        run(qtbot, panel)
        assert panel.outcome.mask_given is False
    theirs = read(viewer, cases / "P_two" / "mask.nii.gz")
    # two of one name are told apart by their folders
    offered = [chooser.itemText(n) for n in range(1, chooser.count())]
    assert sorted(offered) == ["mask (P_one)", "mask [1] (P_two)"]
    chooser.choose(theirs)
    viewer.layers.selection.active = viewer.layers[ONE]
    assert chooser.layer_id == mine.unique_id
    assert mine.visible
    assert not theirs.visible
    viewer.layers.remove(ONE)
    assert panel.scan_chooser.currentText() == TWO
    assert chooser.layer_id == theirs.unique_id


def test_labels_that_arrive_late_are_for_the_scan_that_they_were_asked_for(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    panel.inputs.brain.open(cases / "P_one" / "mask.nii.gz")
    opened(viewer, cases, "P_two")
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=MINUTE)
    qtbot.wait(50)
    assert panel.scan_chooser.currentText() == TWO
    assert panel.mask_chooser.currentText() == "Automatic"
    assert visible(viewer) == {TWO}
    viewer.layers.selection.active = viewer.layers[ONE]
    assert panel.mask_chooser.currentText() == "mask"


def test_labels_that_are_resampled_late_are_for_their_scan(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    coarse = viewer.add_labels(np.ones((10, 10, 10), int), scale=(9, 9, 9), name="coarse")
    panel.truth_chooser.choose(coarse)
    assert not panel.resample_button.isHidden()
    panel.resample_button.click()
    opened(viewer, cases, "P_two")
    made = f"coarse on {ONE}"
    qtbot.waitUntil(lambda: made in viewer.layers, timeout=MINUTE)
    qtbot.wait(50)
    assert panel.truth_chooser.currentText() == "None"
    assert visible(viewer) == {TWO}
    viewer.layers.selection.active = viewer.layers[ONE]
    assert panel.truth_chooser.currentText() == made


def test_labels_without_a_file_go_with_the_scan_that_they_were_drawn_on(
    viewer: ViewerModel, panel: DetectWidget, cases: Path
) -> None:
    opened(viewer, cases, "P_one")
    drawn = viewer.add_labels(np.ones(SHAPE, int), name="drawn")
    opened(viewer, cases, "P_two")
    assert not drawn.visible
    panel.truth_chooser.choose(drawn)  # a person may think otherwise
    assert drawn.visible
    viewer.layers.selection.active = viewer.layers[ONE]
    assert drawn.visible


# --- where it lies -------------------------------------------------------------------------------


def seen_slice(viewer: Any, layer: Any) -> np.ndarray:
    """The part of a layer that the canvas can show: its slice, within the camera's reach."""
    reach = np.array(viewer.canvas.size) / viewer.scene.camera.zoom / 2
    centre = np.array(viewer.scene.camera.center[-2:])
    index = layer.world_to_data(viewer.dims.point)[0]
    low = layer.world_to_data((viewer.dims.point[0], *(centre - reach)))[1:]
    high = layer.world_to_data((viewer.dims.point[0], *(centre + reach)))[1:]
    low, high = np.sort([low, high], axis=0).round().astype(int).clip(0)
    n = round(float(index))
    if not 0 <= n < len(layer.data):
        return np.zeros((0, 0))
    return np.asarray(layer.data[n, low[0] : high[0] + 1, low[1] : high[1] + 1])


def test_a_scan_that_lies_elsewhere_is_seen(
    make_napari_viewer_proxy: Any, tiny_checkpoint: Path, cases: Path, qtbot: Any
) -> None:
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.set_geometry(0, 0, 1280, 800)
    panel = prepared(DetectWidget(viewer), tiny_checkpoint)
    viewer.window.add_dock_widget(panel)
    qtbot.wait(200)
    opened(viewer, cases, "P_one")
    qtbot.wait(100)
    far = opened(viewer, cases, "P_far")
    middle = np.asarray(far.data[len(far.data) // 2])
    assert_array_equal(seen_slice(viewer, far), middle)
    # back to one that lies where the other does not, and on to one that does
    viewer.layers.selection.active = viewer.layers[ONE]
    assert seen_slice(viewer, viewer.layers[ONE]).any()
    point = (viewer.dims.point[0] + 10, *viewer.dims.point[1:])
    viewer.dims.point = point
    viewer.scene.camera.zoom *= 3
    center, zoom = viewer.scene.camera.center, viewer.scene.camera.zoom
    opened(viewer, cases, "P_two")
    assert_allclose(viewer.dims.point, point)
    assert_allclose(viewer.scene.camera.center, center)
    assert viewer.scene.camera.zoom == zoom
    canvas = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    assert canvas.any()


def test_a_larger_scan_in_the_same_place_is_seen_whole(
    make_napari_viewer_proxy: Any, tiny_checkpoint: Path, qtbot: Any
) -> None:
    viewer = make_napari_viewer_proxy(show=True)
    panel = prepared(DetectWidget(viewer), tiny_checkpoint)
    viewer.window.add_dock_widget(panel)
    qtbot.wait(200)
    rng = np.random.default_rng(0)
    viewer.add_image(rng.random((20, 20, 20)), translate=(40, 40, 40), name="small")
    large = viewer.add_image(rng.random((100, 100, 100)), name="large")
    assert_array_equal(seen_slice(viewer, large), large.data[round(viewer.dims.point[0])])


def test_a_scan_beside_one_of_several_frames_is_seen(
    make_napari_viewer_proxy: Any, tiny_checkpoint: Path, cases: Path, qtbot: Any
) -> None:
    viewer = make_napari_viewer_proxy(show=True)
    panel = prepared(DetectWidget(viewer), tiny_checkpoint)
    viewer.window.add_dock_widget(panel)
    qtbot.wait(200)
    viewer.add_image(np.random.default_rng(0).random((3, 20, 20, 20)), name="film")
    far = opened(viewer, cases, "P_far")
    assert visible(viewer) == {FAR}
    reach = np.array(viewer.canvas.size) / viewer.scene.camera.zoom / 2
    box = far.extent.world[:, 1:]
    centre = np.array(viewer.scene.camera.center[-2:])
    assert (box[0] >= centre - reach).all()
    assert (box[1] <= centre + reach).all()
    assert far.extent.world[0, 0] <= viewer.dims.point[1] <= far.extent.world[1, 0]


def test_a_panel_that_is_opened_late_is_about_what_is_seen(
    viewer: ViewerModel, tiny_checkpoint: Path, cases: Path, qtbot: Any
) -> None:
    opened(viewer, cases, "P_one")
    opened(viewer, cases, "P_two")
    viewer.layers.selection.clear()
    panel = DetectWidget(viewer)
    qtbot.addWidget(panel)
    assert panel.scan_chooser.currentText() == TWO
    assert visible(viewer) == {TWO}
    viewer.layers.remove(TWO)
    assert panel.scan_chooser.currentText() == ONE
    assert visible(viewer) == {ONE}


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "generic"),
    [
        ("t1", True),
        ("T1w", True),
        ("t1ce_brain", True),
        ("orig", True),
        ("brain", True),
        ("anat_1mm", True),
        ("image-01", True),
        ("T1_MPRAGE", True),
        ("sub-01_T1w", False),
        ("BraTS2021_00000_t1", False),
        ("demo_T1w", False),
        ("IXI012-HH-1211-T1", False),
        ("0042", False),
        ("miller", False),
    ],
)
def test_which_names_say_nothing_of_the_patient(name: str, generic: bool) -> None:
    assert is_generic(name) == generic


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("study/P07/t1.nii.gz", "P07"),
        ("study/sub-01/ses-1/anat/T1w.nii.gz", "sub-01/ses-1/anat"),
        ("subjects/bert/mri/orig.mgz", "bert/mri"),
    ],
)
def test_a_folder_is_named_from_the_one_that_names_the_patient(path: str, folder: str) -> None:
    assert folder_of(Path("/data") / path) == folder


def test_scans_of_one_name_are_told_apart(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path, tmp_path: Path
) -> None:
    """Also where the name is no common one, or another plugin has read the file."""
    for visit in ("before", "after"):
        (tmp_path / visit).mkdir()
        write_volume(tmp_path / visit / "miller.nii.gz", read_volume(cases / "P_one" / "t1.nii.gz"))
        read(viewer, tmp_path / visit / "miller.nii.gz")
    offered = [panel.scan_chooser.itemText(n) for n in range(2)]
    assert offered == ["miller (before)", "miller [1] (after)"]
    assert heading(panel, "Scan") == "▾ Scan: miller [1] (after)"
    run(qtbot, panel)
    assert heading(panel, "Findings") == "▾ Findings in miller [1] (after)"
    viewer.layers.selection.active = viewer.layers["miller"]
    assert "'miller [1]' (after) are kept" in panel.whose.text()


def test_no_saved_file_names_the_folder(
    viewer: ViewerModel,
    panel: DetectWidget,
    qtbot: Any,
    cases: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    """A folder may be called as the patient; the screen says so, and files do not."""
    opened(viewer, cases, "P_one")
    panel.truth_chooser.choose(read(viewer, cases / "P_one" / "mask.nii.gz"))
    run(qtbot, panel)
    assert panel.outcome.stem == "t1"
    panel.save(tmp_path / "out")
    qtbot.waitUntil(lambda: "saved in" in panel.status.text(), timeout=MINUTE)
    finish(qtbot, panel)
    for path in (tmp_path / "out").rglob("*"):
        assert path.name.startswith("t1_")
        assert b"P_one" not in path.read_bytes()
    # nor a figure that names the scan
    drawn: list[Any] = []
    monkeypatch.setattr(
        "napari_addm.widgets.detect_panel.view.caption_lines",
        lambda *args, **more: drawn.append(args[3]) or ("caption",),
    )
    panel.views.figure.named.setChecked(True)
    panel.views.figure.export(tmp_path / "figure.png")
    qtbot.waitUntil(lambda: "Saved" in panel.views.figure.note.text(), timeout=MINUTE)
    assert drawn == ["t1"]
    with Picture.open(tmp_path / "figure.png") as picture:
        assert "P_one" not in str(picture.info)


def test_a_scan_that_was_moved_is_saved_without_its_folder(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    """It is no longer its file's, and so called as its layer."""
    layer = opened(viewer, cases, "P_one")
    layer.translate = np.array(layer.translate) + 3
    run(qtbot, panel)
    assert panel.outcome.stem == "t1"


def test_the_demo_opens_beside_a_scan_with_its_own_truth(
    viewer: ViewerModel, panel: DetectWidget, cases: Path
) -> None:
    theirs = viewer.add_labels(np.ones(SHAPE, int), name="of somebody")
    panel.welcome.open_demo()
    assert panel.scan_chooser.currentText() == "demo_T1w"
    assert panel.truth_chooser.currentText() == "demo_lesion"
    assert isinstance(theirs, Labels)
    assert theirs.contour == 0


def test_a_long_name_makes_the_panel_no_wider(
    viewer: ViewerModel, panel: DetectWidget, qtbot: Any, cases: Path
) -> None:
    data, arguments, _ = volume_to_layer(read_volume(cases / "P_one" / "t1.nii.gz"))
    panel.resize(380, 700)
    panel.show()
    viewer.add_layer(Image(data, **arguments))
    qtbot.wait(100)
    width = panel.minimumSizeHint().width()
    viewer.add_layer(Image(data, **{**arguments, "name": "a" * 60 + " begins & ends " + "b" * 60}))
    run(qtbot, panel)
    assert panel.minimumSizeHint().width() <= width
    words = heading(panel, "Findings")
    assert "…" in words
    assert words.endswith("bb (P_one)")
