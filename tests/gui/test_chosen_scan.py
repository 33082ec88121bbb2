"""The scan that the panel is about: opened or selected, alone in view, by name and folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image as Picture
from qtpy.QtCore import Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QAbstractButton, QApplication

from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.drawing import TRUTH_COLOR
from napari_addm.widgets import texts
from napari_addm.widgets.commands import save_results
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import volume_to_layer

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000
ONE, TWO, FAR = "t1 (P_one)", "t1 (P_two)", "t1 (P_far)"
REJECTED = Decision("rejected", "a vessel")


@pytest.fixture(scope="module")
def cases(make_brain: Any, tmp_path_factory: Any) -> Path:
    """Three patients, each in a folder with one and the same file name; the last lies elsewhere."""
    folder = tmp_path_factory.mktemp("patients")
    for n, name in enumerate(("P_one", "P_two", "P_far")):
        scan = make_brain(AFFINE, SHAPE, ((25.0 - 6 * n, -20.0, 15.0, 20.0),))
        affine = scan.affine.copy()
        affine[:3, 3] += 400.0 * (n == 2)
        scan = type(scan)(scan.data, affine, scan.source, scan.warnings)
        (folder / name).mkdir()
        write_volume(folder / name / "t1.nii.gz", scan)
        mask = scan.with_data((scan.data > 0).astype(np.uint8))
        mask.data[: 3 + n] = 0
        write_volume(folder / name / "mask.nii.gz", mask)
    return folder


class Desk:
    """A viewer with a panel, the patients' files, and results without a network."""

    def __init__(self, viewer: Any, panel: DetectWidget, cases: Path, show_result: Any) -> None:
        self.viewer, self.panel, self.cases = viewer, panel, cases
        self._show_result = show_result

    def read(self, path: Path) -> Any:
        """Open a file as a person does."""
        (layer,) = self.viewer.open(str(path), plugin="napari-addm")
        return layer

    def open(self, name: str, file: str = "t1.nii.gz") -> Any:
        return self.read(self.cases / name / file)

    def run(self) -> None:
        self._show_result(self.panel)

    def select(self, name: str) -> Any:
        self.viewer.layers.selection.active = self.viewer.layers[name]
        return self.viewer.layers[name]

    @property
    def visible(self) -> set[str]:
        return {layer.name for layer in self.viewer.layers if layer.visible}

    @property
    def chosen(self) -> str:
        return str(self.panel.inputs.scan_chooser.currentText())

    def heading(self, title: str) -> str:
        return str(self.panel.sections[title].heading.text())

    def hidden(self, title: str) -> bool:
        return bool(self.panel.sections[title].isHidden())

    def results_of(self, name: str) -> list[Any]:
        layers = self.viewer.layers
        return [each for each in layers if is_output(each) and each.name.startswith(name)]


@pytest.fixture
def desk(new_panel: Any, cases: Path, show_result: Any) -> Desk:
    viewer = ViewerModel()
    return Desk(viewer, new_panel(viewer), cases, show_result)


@pytest.fixture
def seen(window: Any, prepare: Any, cases: Path, show_result: Any, qtbot: Any) -> Iterator[Desk]:
    """A desk with a real window."""
    panel = prepare(DetectWidget(window))
    dock = window.window.add_dock_widget(panel, name="detect")
    qtbot.wait(200)
    yield Desk(window, panel, cases, show_result)
    with qtbot.waitSignal(panel.destroyed, timeout=MINUTE):
        dock.destroyOnClose()
    window.layers.clear()


# --- one scan at a time --------------------------------------------------------------------------


def test_each_scan_is_alone_in_view_with_its_own_results(desk: Desk) -> None:
    panel, table = desk.panel, desk.panel.findings.table
    desk.open("P_one")
    assert desk.heading("Scan") == f"▾ Scan: {ONE}"
    assert panel.run_button.text() == "Run"
    panel.findings.threshold.setValue(0.02)
    desk.run()
    table.decide(1, REJECTED)
    shown = desk.visible
    assert shown == {ONE, f"{ONE} anomaly map", f"{ONE} anomalies"}
    assert desk.heading("Findings") == f"▾ Findings in {ONE}"
    assert desk.heading("Save") == f"▾ Save: {ONE}"
    first = panel.outcome

    desk.open("P_two")
    assert desk.chosen == TWO
    assert desk.visible == {TWO}
    assert desk.heading("Scan") == f"▾ Scan: {TWO}"
    assert panel.run_button.text() == f"Run on {TWO}"
    # nothing of the first is left that could be taken for the second's
    assert desk.hidden("Findings")
    assert desk.hidden("Save")
    assert table.model.rowCount() == 0
    assert not panel.saving.save_button.isEnabled()
    assert panel.remarks.isHidden()
    assert f"'{ONE}' are kept" in panel.other_scan.text()
    assert panel.notices.status.text() == texts.RUN_IS_ON.format(TWO)
    panel.findings.threshold.setValue(0.03)
    desk.run()
    assert desk.heading("Findings") == f"▾ Findings in {TWO}"
    assert desk.visible == {TWO, f"{TWO} anomaly map", f"{TWO} anomalies"}
    assert table.review.decisions == {}

    # the first has its findings, threshold and decisions again, without a run
    desk.select(ONE)
    assert desk.visible == shown
    assert panel.outcome is first
    assert panel.findings.threshold.value() == pytest.approx(0.02)
    assert table.review.decisions == {1: REJECTED}
    assert not desk.hidden("Findings")
    assert not desk.hidden("Save")
    assert panel.saving.save_button.isEnabled()
    assert panel.other_scan.isHidden()
    assert panel.remarks.shown == first.remarks
    panel.inputs.scan_chooser.choose(desk.viewer.layers[TWO])
    assert desk.viewer.layers.selection.active is desk.viewer.layers[TWO]
    assert panel.findings.threshold.value() == pytest.approx(0.03)
    desk.viewer.layers[TWO].name = "second"
    assert desk.heading("Findings") == "▾ Findings in second (P_two)"


def test_a_closed_scan_is_named_and_its_result_stays_within_reach(desk: Desk) -> None:
    desk.open("P_one")
    desk.run()
    desk.open("P_two")
    desk.viewer.layers.remove(ONE)
    assert f"'{ONE}', whose layer is closed" in desk.panel.other_scan.text()
    desk.viewer.layers.remove(TWO)
    assert not desk.hidden("Findings")
    assert desk.panel.saving.save_button.isEnabled()
    desk.viewer.layers.clear()
    assert desk.hidden("Findings")
    assert not desk.hidden("Save")
    assert desk.panel.saving.save_button.isEnabled()
    assert desk.panel.other_scan.text() == texts.ALL_CLOSED.format(ONE)
    desk.open("P_two")
    assert desk.hidden("Save")


@pytest.mark.parametrize("how", ["reader", "add_image", "insert", "several at once", "four axes"])
def test_a_scan_that_is_opened_is_the_chosen_one(desk: Desk, how: str) -> None:
    desk.open("P_one")
    data = read_volume(desk.cases / "P_two" / "t1.nii.gz").data
    if how == "reader":
        desk.open("P_two")
    elif how == "add_image":
        desk.viewer.add_image(data)
    elif how == "insert":
        desk.viewer.layers.insert(0, Image(data))
    elif how == "four axes":
        desk.viewer.add_image(data[None])
    else:
        files = [str(desk.cases / name / "t1.nii.gz") for name in ("P_two", "P_far")]
        desk.viewer.open(files, plugin="napari-addm")
    (seen,) = [layer for layer in desk.viewer.layers if layer.visible]
    assert seen.name != ONE
    assert desk.panel.inputs.scan_chooser.layer_id == seen.unique_id
    if how == "several at once":
        assert seen is desk.viewer.layers.selection.active


def test_what_is_no_scan_leaves_the_choice_alone_and_stays_in_sight(desk: Desk) -> None:
    scan = desk.open("P_one")
    desk.viewer.add_labels(np.ones(SHAPE, int), name="drawn")
    desk.viewer.add_image(np.random.default_rng(0).random((20, 30)), name="a picture")
    desk.viewer.add_image(np.zeros((9, 20, 30, 3), np.uint8), rgb=True, name="in color")
    desk.viewer.add_points(np.zeros((1, 3)), name="a point")
    assert desk.visible == {ONE, "drawn", "a picture", "in color", "a point"}
    desk.open("P_two", "mask.nii.gz")
    for layer in list(desk.viewer.layers):
        if layer is not scan:
            desk.viewer.layers.selection.active = layer
    desk.run()
    assert desk.panel.inputs.scan_chooser.layer_id == scan.unique_id
    assert scan.visible


def test_what_a_person_has_hidden_stays_hidden(desk: Desk, new_panel: Any) -> None:
    desk.open("P_one")
    desk.run()
    desk.viewer.layers[f"{ONE} anomaly map"].visible = False
    desk.viewer.layers[f"{ONE} reconstruction"].visible = True
    shown = desk.visible
    for _ in range(2):
        desk.open("P_two")
        desk.select(ONE)
        assert desk.visible == shown
    # a panel that is opened later knows what an earlier one has hidden
    desk.select(TWO)
    desk.panel.close()
    other = new_panel(desk.viewer)
    assert other.inputs.scan_chooser.currentText() == TWO
    desk.select(ONE)
    assert desk.visible == shown


def test_a_result_that_is_selected_stands_for_its_scan(desk: Desk) -> None:
    desk.open("P_one")
    desk.run()
    desk.open("P_two")
    for name in ("anomaly map", "anomalies", "reconstruction"):
        desk.select(TWO)
        desk.select(f"{ONE} {name}")
        assert desk.chosen == ONE
        assert desk.viewer.layers.selection.active.name == f"{ONE} {name}"


@pytest.mark.parametrize("title", ["anomaly map", "anomalies"])
def test_a_copy_of_a_result_is_no_scan_and_goes_with_its_scan(desk: Desk, title: str) -> None:
    desk.open("P_one")
    desk.run()
    data, state, kind = desk.viewer.layers[f"{ONE} {title}"].as_layer_data_tuple()
    copy = Layer.create(data.copy(), {**state, "name": "a copy", "visible": True}, kind)
    desk.viewer.add_layer(copy)
    desk.select(copy.name)
    assert desk.chosen == ONE
    assert not desk.hidden("Findings")
    assert desk.viewer.layers[ONE].visible
    desk.open("P_two")
    assert desk.visible == {TWO}  # no map of one patient over the other
    desk.select(copy.name)
    assert desk.chosen == ONE
    assert copy.visible


def test_a_copy_of_a_hidden_layer_is_a_person_s_own(desk: Desk) -> None:
    desk.open("P_one")
    labels = desk.open("P_one", "mask.nii.gz")
    desk.open("P_two")
    assert not labels.visible
    copy = desk.viewer.add_labels(
        labels.data.copy(), metadata=dict(labels.metadata), name="mine", scale=labels.scale
    )
    assert copy.visible
    desk.select(ONE)
    assert labels.visible


def test_a_moved_scan_says_so_only_while_it_is_the_chosen_one(desk: Desk, qtbot: Any) -> None:
    panel, layer = desk.panel, desk.open("P_one")
    desk.run()
    layer.translate = np.array(layer.translate) + 30
    qtbot.waitUntil(lambda: "press Run again" in panel.other_scan.text())
    assert desk.hidden("Findings")
    assert desk.hidden("Save")
    assert not panel.saving.save_button.isEnabled()
    desk.open("P_two")
    assert "press Run again" not in panel.other_scan.text()
    assert "are kept" in panel.other_scan.text()
    desk.select(ONE)
    assert "press Run again" in panel.other_scan.text()
    desk.run()
    assert panel.other_scan.text() == ""
    assert not desk.hidden("Findings")
    for result in desk.results_of(ONE):
        assert_allclose(result.translate, layer.translate)


def test_a_run_goes_on_for_its_own_scan(desk: Desk, qtbot: Any, finish: Any) -> None:
    """Its layers neither steal the choice nor come over the other one's picture."""
    panel = desk.panel
    desk.open("P_one")
    panel.model.batch_size.setValue(1)
    panel.model.draws.setValue(8)
    panel.run()
    desk.open("P_two")
    seen: list[set[str]] = []
    said: list[str] = []
    while panel.running:
        qtbot.wait(20)
        seen.append(desk.visible)
        said.append(panel.notices.status.text())
    finish(panel)
    assert panel.notices.error.text() == ""
    assert desk.results_of(ONE)
    assert all(names == {TWO} for names in seen)
    assert desk.chosen == TWO
    assert any(words.startswith(f"Running on {ONE}: Reconstructing") for words in said)
    assert panel.notices.status.text().startswith(f"{ONE}: ")
    assert " finding" in panel.notices.status.text()
    assert desk.hidden("Findings")
    assert f"'{ONE}' are kept" in panel.other_scan.text()
    desk.select(ONE)
    assert desk.visible == {ONE, f"{ONE} anomaly map", f"{ONE} anomalies"}
    assert panel.outcome.scan.source.path == desk.cases / "P_one" / "t1.nii.gz"
    assert not desk.hidden("Findings")
    assert panel.saving.save_button.isEnabled()


def test_nothing_acts_on_the_findings_of_another_scan(
    desk: Desk, tmp_path: Path, monkeypatch: Any
) -> None:
    """Neither keys, nor blink and swipe, the figure and saving, from the panel or the menu."""
    panel = desk.panel
    desk.open("P_one")
    desk.run()
    desk.open("P_two")
    point, shown = desk.viewer.dims.point, desk.visible
    panel.findings.table.step(1)
    assert desk.viewer.dims.point == point
    for _ in range(2):
        panel.views.toggle_maps()
        assert desk.visible == shown
    for box in (panel.views.comparison.blink, panel.views.comparison.swipe):
        box.setChecked(True)
        assert not box.isChecked()
        assert desk.visible == shown
    panel.views.figure.export(tmp_path / "figure.png")
    assert panel.views.figure.note.text() == texts.NO_FIGURE
    panel.saving.save(tmp_path / "out")
    assert not panel.jobs.going
    assert not (tmp_path / "figure.png").exists()
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    monkeypatch.setattr("napari_addm.widgets.commands.show_info", told.append)
    monkeypatch.setattr("napari_addm.widgets.commands.open_panel", lambda viewer: panel)
    save_results(desk.viewer)
    assert told == [texts.NO_RESULT]


@pytest.mark.parametrize("how", ["blink", "swipe", "key"])
def test_a_comparison_ends_before_another_scan_comes(desk: Desk, how: str) -> None:
    """It would bring layers of the scan before over the picture when it ends later."""
    desk.open("P_one")
    desk.run()
    shown = desk.visible
    desk.open("P_two")
    desk.select(ONE)
    views = desk.panel.views
    toggle = {"blink": views.comparison.blink, "swipe": views.comparison.swipe}.get(how)
    if toggle is not None:
        toggle.setChecked(True)
        desk.select(TWO)
        assert not toggle.isChecked()
    else:
        let_go = views.on_keys["hold"]()
        assert f"{ONE} reconstruction" in desk.visible
        desk.select(TWO)
        let_go()
    assert desk.visible == {TWO}
    desk.select(ONE)
    assert desk.visible == shown


def test_a_scan_that_comes_in_3d_is_seen(desk: Desk) -> None:
    desk.open("P_one")
    desk.panel.views.planes.show_3d()
    assert not desk.visible
    desk.open("P_two")
    assert desk.visible == {TWO}
    assert desk.viewer.dims.ndisplay == 2
    desk.select(ONE)
    assert desk.visible == {ONE}


@pytest.mark.parametrize("name", ["P_two", "P_far"])
def test_a_scan_that_comes_in_3d_is_seen_whole_in_three_planes(
    seen: Desk, name: str, qtbot: Any
) -> None:
    views = seen.panel.views
    seen.open("P_one")
    views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=MINUTE)
    views.plane_buttons["3D"].click()
    scan = seen.open(name)
    qtbot.waitUntil(lambda: views.canvases.dock is not None, timeout=MINUTE)
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=MINUTE)
    low, high = scan.extent.world

    def whole() -> bool:
        for model in (seen.viewer, *(each.model for each in views.canvases.dock.canvases)):
            axes, camera = list(model.dims.displayed), model.scene.camera
            reach = np.array(model.canvas.size) / camera.zoom / 2
            sides = np.abs(np.array([low, high])[:, axes] - camera.center[-2:]).max(axis=0)
            if (sides > reach).any() or (sides < 0.7 * reach).all():
                return False
        return True

    qtbot.waitUntil(whole, timeout=MINUTE)


def test_a_scan_is_compared_with_another_one(desk: Desk) -> None:
    """Which comes into view without being chosen, and is put away again."""
    desk.open("P_one")
    desk.run()
    other = desk.open("P_two")
    desk.select(ONE)
    shown, comparison = desk.visible, desk.panel.views.comparison
    comparison.other.choose(other)
    for mode in (comparison.blink, comparison.swipe):
        mode.setChecked(True)
        assert mode.isChecked()
        assert desk.panel.inputs.scan.name == ONE
        assert f"{ONE} anomaly map" not in desk.visible
        mode.setChecked(False)
        assert desk.visible == shown


def test_a_panel_that_is_closed_shows_again_what_hits_and_misses_covered(
    cases: Path, show_result: Any, finish: Any, qtbot: Any
) -> None:
    viewer = ViewerModel()
    panel = DetectWidget(viewer)
    desk = Desk(viewer, panel, cases, show_result)
    desk.open("P_one")
    panel.agreement.truth.chooser.choose(desk.open("P_one", "mask.nii.gz"))
    desk.run()
    finish(panel)
    before = desk.visible
    panel.agreement.view.overlay.setChecked(True)
    assert f"{ONE} hits and misses" in desk.visible
    with qtbot.waitSignal(panel.destroyed):
        panel.leave()
    assert desk.visible == before


def test_a_click_on_run_gives_the_focus_to_no_button(seen: Desk, qtbot: Any, finish: Any) -> None:
    """Qt hands the focus on when a button is disabled: to one that hides the panel, for example."""
    seen.open("P_one")
    seen.viewer.window.activate()
    canvases = seen.panel.window().findChildren(QOpenGLWidget)
    canvas = next(each for each in canvases if each.isVisible())
    canvas.setFocus()
    qtbot.waitUntil(canvas.hasFocus)
    qtbot.mouseClick(seen.panel.run_button, Qt.MouseButton.LeftButton)
    assert seen.panel.running
    assert not isinstance(QApplication.focusWidget(), QAbstractButton)
    finish(seen.panel)
    assert not isinstance(QApplication.focusWidget(), QAbstractButton)


def test_hits_and_misses_are_of_the_chosen_scan(desk: Desk, qtbot: Any) -> None:
    panel = desk.panel
    desk.open("P_one")
    panel.agreement.truth.chooser.choose(desk.open("P_one", "mask.nii.gz"))
    desk.run()
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    panel.agreement.view.overlay.setChecked(True)
    assert f"{ONE} hits and misses" in desk.visible
    desk.open("P_two")
    assert desk.visible == {TWO}
    assert panel.agreement.view.metrics.isHidden()
    desk.select(ONE)
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    assert desk.visible == {ONE, f"{ONE} hits and misses"}


# --- brain mask and ground truth -----------------------------------------------------------------


@pytest.mark.parametrize("which", ["mask", "truth"])
def test_labels_are_chosen_for_one_scan(desk: Desk, which: str) -> None:
    """The grid of the other is the same, and the patient is another."""
    panel = desk.panel
    chooser = (panel.inputs.brain if which == "mask" else panel.agreement.truth).chooser
    none = chooser.currentText()
    desk.open("P_one")
    mine = desk.open("P_one", "mask.nii.gz")
    chooser.choose(mine)
    desk.open("P_two")
    assert chooser.currentText() == none
    assert not mine.visible
    assert panel.inputs.brain_mask is None
    theirs = desk.open("P_two", "mask.nii.gz")
    # the folders distinguish two scans of one name
    offered = [chooser.itemText(n) for n in range(1, chooser.count())]
    assert sorted(offered) == ["mask (P_one)", "mask [1] (P_two)"]
    chooser.choose(theirs)
    desk.select(ONE)
    assert chooser.layer_id == mine.unique_id
    assert mine.visible
    assert not theirs.visible
    desk.viewer.layers.remove(ONE)
    assert desk.chosen == TWO
    assert chooser.layer_id == theirs.unique_id


def test_labels_of_a_scan_that_is_not_in_view_bring_their_own_scan(desk: Desk) -> None:
    """One patient's mask never lies over the other's picture."""
    desk.open("P_one")
    desk.open("P_two")
    mask = desk.open("P_one", "mask.nii.gz")
    assert desk.chosen == ONE
    assert desk.visible == {ONE, mask.name}
    desk.select(TWO)
    assert desk.visible == {TWO}


def test_labels_that_arrive_late_are_for_the_scan_that_they_were_asked_for(
    desk: Desk, finish: Any
) -> None:
    panel = desk.panel
    desk.open("P_one")
    coarse = desk.viewer.add_labels(np.ones((10, 10, 10), int), scale=(9, 9, 9), name="coarse")
    panel.agreement.truth.chooser.choose(coarse)
    panel.agreement.truth.resample_button.click()
    panel.inputs.brain.open(desk.cases / "P_one" / "mask.nii.gz")
    desk.open("P_two")
    finish(panel)
    assert desk.chosen == TWO
    assert panel.inputs.brain.chooser.currentText() == "Automatic"
    assert panel.agreement.truth.chooser.currentText() == "None"
    assert desk.visible == {TWO}
    desk.select(ONE)
    assert panel.inputs.brain.chooser.currentText() == "mask"
    assert panel.agreement.truth.chooser.currentText() == f"coarse on {ONE}"


def test_labels_without_a_file_go_with_the_scan_that_they_were_drawn_on(desk: Desk) -> None:
    desk.open("P_one")
    drawn = desk.viewer.add_labels(np.ones(SHAPE, int), name="drawn")
    desk.open("P_two")
    assert not drawn.visible
    desk.panel.agreement.truth.chooser.choose(drawn)  # a person may think otherwise
    assert drawn.visible
    desk.select(ONE)
    assert drawn.visible


# --- where it lies -------------------------------------------------------------------------------


def seen_slice(viewer: Any, layer: Any) -> np.ndarray:
    """The part of a layer that the canvas can show: its slice, within the camera's reach."""
    reach = np.array(viewer.canvas.size) / viewer.scene.camera.zoom / 2
    center = np.array(viewer.scene.camera.center[-2:])
    index = layer.world_to_data(viewer.dims.point)[0]
    low = layer.world_to_data((viewer.dims.point[0], *(center - reach)))[1:]
    high = layer.world_to_data((viewer.dims.point[0], *(center + reach)))[1:]
    low, high = np.sort([low, high], axis=0).round().astype(int).clip(0)
    n = round(float(index))
    if not 0 <= n < len(layer.data):
        return np.zeros((0, 0))
    return np.asarray(layer.data[n, low[0] : high[0] + 1, low[1] : high[1] + 1])


def test_a_scan_that_lies_elsewhere_is_seen(seen: Desk, qtbot: Any) -> None:
    viewer = seen.viewer
    seen.open("P_one")
    qtbot.wait(100)
    far = seen.open("P_far")
    assert_array_equal(seen_slice(viewer, far), np.asarray(far.data[len(far.data) // 2]))
    # back to one that lies where the other does not, and on to one that does
    assert seen_slice(viewer, seen.select(ONE)).any()
    point = (viewer.dims.point[0] + 10, *viewer.dims.point[1:])
    viewer.dims.point = point
    viewer.scene.camera.zoom *= 3
    center, zoom = viewer.scene.camera.center, viewer.scene.camera.zoom
    seen.open("P_two")
    assert_allclose(viewer.dims.point, point)
    assert_allclose(viewer.scene.camera.center, center)
    assert viewer.scene.camera.zoom == zoom
    assert viewer.screenshot(canvas_only=True, flash=False)[..., :3].any()


def test_a_larger_scan_in_the_same_place_is_seen_whole(seen: Desk) -> None:
    rng = np.random.default_rng(0)
    seen.viewer.add_image(rng.random((20, 20, 20)), translate=(40, 40, 40), name="small")
    large = seen.viewer.add_image(rng.random((100, 100, 100)), name="large")
    here = round(seen.viewer.dims.point[0])
    assert_array_equal(seen_slice(seen.viewer, large), large.data[here])


def test_a_scan_beside_one_of_several_frames_is_seen(seen: Desk) -> None:
    viewer = seen.viewer
    viewer.add_image(np.random.default_rng(0).random((3, 20, 20, 20)), name="film")
    far = seen.open("P_far")
    assert seen.visible == {FAR}
    reach = np.array(viewer.canvas.size) / viewer.scene.camera.zoom / 2
    box = far.extent.world[:, 1:]
    center = np.array(viewer.scene.camera.center[-2:])
    assert (box[0] >= center - reach).all()
    assert (box[1] <= center + reach).all()
    assert far.extent.world[0, 0] <= viewer.dims.point[1] <= far.extent.world[1, 0]


def test_a_panel_that_is_opened_late_is_about_what_is_seen(
    desk: Desk, new_panel: Any, cases: Path
) -> None:
    viewer = ViewerModel()
    late = Desk(viewer, desk.panel, cases, None)
    late.open("P_one")
    late.open("P_two")
    viewer.layers.selection.clear()
    late.panel = new_panel(viewer)
    assert late.chosen == TWO
    assert late.visible == {TWO}
    viewer.layers.remove(TWO)
    assert late.chosen == ONE
    assert late.visible == {ONE}


# --- names ---------------------------------------------------------------------------------------


def test_scans_of_one_name_are_told_apart(desk: Desk, tmp_path: Path) -> None:
    """Also where the name is no common one, or another plugin has read the file."""
    for visit in ("before", "after"):
        (tmp_path / visit).mkdir()
        scan = read_volume(desk.cases / "P_one" / "t1.nii.gz")
        desk.read(write_volume(tmp_path / visit / "miller.nii.gz", scan))
    offered = [desk.panel.inputs.scan_chooser.itemText(n) for n in range(2)]
    assert offered == ["miller (before)", "miller [1] (after)"]
    assert desk.heading("Scan") == "▾ Scan: miller [1] (after)"
    desk.run()
    assert desk.heading("Findings") == "▾ Findings in miller [1] (after)"
    desk.select("miller")
    assert "'miller [1]' (after) are kept" in desk.panel.other_scan.text()


def test_no_saved_file_names_the_folder(desk: Desk, tmp_path: Path, finish: Any) -> None:
    """A folder may be called as the patient; the screen says so, and files do not."""
    panel, layer = desk.panel, desk.open("P_one")
    panel.agreement.truth.chooser.choose(desk.open("P_one", "mask.nii.gz"))
    desk.run()
    finish(panel)
    panel.saving.save(tmp_path / "out")
    finish(panel)
    assert "saved in" in panel.notices.status.text()
    for path in (tmp_path / "out").rglob("*"):
        assert path.name.startswith("t1_")
        assert b"P_one" not in path.read_bytes()
    # nor a figure that names the scan
    assert panel.outcome.name == "t1"
    panel.views.figure.named.setChecked(True)
    panel.views.figure.export(tmp_path / "figure.png")
    finish(panel)
    with Picture.open(tmp_path / "figure.png") as picture:
        assert "P_one" not in str(picture.info)
    # a scan that was moved is no longer its file's, and so called as its layer
    layer.translate = np.array(layer.translate) + 3
    desk.run()
    assert panel.outcome.stem == "t1"


def test_the_demo_opens_beside_a_scan_with_its_own_truth(desk: Desk) -> None:
    theirs = desk.viewer.add_labels(np.ones(SHAPE, int), name="of somebody")
    desk.panel.welcome.open_demo()
    assert desk.chosen == "demo_T1w"
    assert desk.panel.agreement.truth.chooser.currentText() == "demo_lesion"
    assert isinstance(theirs, Labels)
    assert theirs.contour == 0
    shown = desk.viewer.layers["demo_lesion"]
    assert shown.contour == 2
    np.testing.assert_allclose(shown.colormap.map(np.array([4]))[0, :3], TRUTH_COLOR, atol=0.01)
    assert shown.colormap.map(np.array([0]))[0, 3] == 0


def test_a_long_name_makes_the_panel_no_wider(desk: Desk, qtbot: Any) -> None:
    data, arguments, _ = volume_to_layer(read_volume(desk.cases / "P_one" / "t1.nii.gz"))
    desk.panel.resize(380, 700)
    desk.panel.show()
    desk.viewer.add_layer(Image(data, **arguments))
    desk.run()
    qtbot.wait(100)
    width = desk.panel.minimumSizeHint().width()
    name = "a" * 60 + " begins & ends " + "b" * 60
    desk.viewer.add_layer(Image(data, **{**arguments, "name": name}))
    assert name in desk.panel.notices.status.text()
    qtbot.wait(100)
    assert desk.panel.minimumSizeHint().width() <= width
    desk.run()
    qtbot.wait(100)
    assert desk.panel.minimumSizeHint().width() <= width
    words = desk.heading("Findings")
    assert "…" in words
    assert words.endswith("bb (P_one)")
