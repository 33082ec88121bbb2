"""The table of findings: order, walking, decisions and undo, and where a click leads."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtGui import QHelpEvent
from qtpy.QtWidgets import QApplication, QToolTip

from napari_addm.checkpoint.file import read_specification
from napari_addm.checkpoint.specification import FalseAlarmSpecification
from napari_addm.detection.atlas import Region, ScanRegions
from napari_addm.detection.pipeline import Detection
from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import UNKNOWN_SIDES, volume_from_array
from napari_addm.review.decisions import ReviewedFindings
from napari_addm.review.marking import CachedLabeller
from napari_addm.widgets.detect_panel.findings_model import (
    DIAMETERS,
    ID,
    ML,
    PEAK,
    REGION,
    SIDE,
    SPREAD,
    STATE,
)
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layer_volumes import LayerData, scan_volume
from napari_addm.widgets.viewing.shortcuts import Shortcuts

# In the world: x, y, z (mm), radius (mm), height.
HILLS = (
    (-31.0, 12.0, 24.0, 12.0, 1.0),
    (26.0, -20.0, -10.0, 9.0, 3.0),
    (5.0, 33.0, -24.0, 6.0, 2.0),
)
SHAPE = (48, 44, 40)


def hills_on(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Cones that fall to 0 at their radius."""
    world = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    value = np.zeros(len(world))
    for x, y, z, radius, height in HILLS:
        apart = np.linalg.norm(world - (x, y, z), axis=1)
        value = np.maximum(value, height * np.maximum(0, 1 - apart / radius))
    return value.reshape(shape).astype(np.float32)


def stored_as(orientation: str, turn: np.ndarray | None = None) -> np.ndarray:
    """An affine of 2 mm voxels in one of the 48 orientations, its middle at the world's origin."""
    linear = np.zeros((3, 3))
    for native, (world, flip) in enumerate(nib.orientations.axcodes2ornt(orientation)):
        linear[int(world), native] = flip * 2.0
    if turn is not None:
        linear = turn @ linear
    return nib.affines.from_matvec(linear, -linear @ (np.array(SHAPE) / 2))


@pytest.fixture(scope="module")
def detection(make_detection) -> Detection:
    affine = stored_as("RAS")
    scan = volume_from_array(
        hills_on(affine, SHAPE).transpose(2, 1, 0).copy(), affine[:, [2, 1, 0, 3]]
    )
    halves = np.ones(scan.shape, np.uint8)
    halves[..., SHAPE[0] // 2 :] = 2
    names = Region("left", "frontal lobe", ""), Region("right", "temporal lobe", "")
    regions = ScanRegions(halves, names, 0.9, 0.98)
    return make_detection(scan, uncertainty=scan.with_data(scan.data / 10), regions=regions)


class Table:
    """A table, and the findings of a detection under a threshold that moves."""

    def __init__(self, detection: Detection) -> None:
        self.table = FindingsTable()
        self.review = ReviewedFindings()
        self._labeller = CachedLabeller(detection)
        self.at(0.1)

    def at(self, threshold: float) -> None:
        self.review.show(self._labeller.label(threshold, 0.0))
        self.table.show_review(self.review)


@pytest.fixture
def moving(detection, qtbot) -> Table:
    made = Table(detection)
    qtbot.addWidget(made.table)
    Shortcuts(ViewerModel(), made.table, made.table.on_keys)
    return made


@pytest.fixture
def table(moving) -> FindingsTable:
    return moving.table


def column(table: FindingsTable, number: int) -> list[str]:
    model = table.model
    return [model.data(model.index(row, number)) for row in range(model.rowCount())]


def numbers(table: FindingsTable) -> list[int]:
    return [int(text) for text in column(table, ID)]


def test_the_largest_comes_first(table):
    assert numbers(table) == [1, 2, 3]
    volumes = [float(text) for text in column(table, ML)]
    assert volumes == sorted(volumes, reverse=True)
    assert volumes[0] == pytest.approx(4 / 3 * np.pi * (12 * 0.9) ** 3 / 1000, rel=0.05)
    assert column(table, SIDE) == ["L 31", "R 26", "R 5"]
    assert column(table, REGION) == ["left frontal", *2 * ["right temporal"]]
    for words, (*_, radius, height) in zip(column(table, DIAMETERS), HILLS, strict=True):
        expected = 2 * radius * (1 - 0.1 / height)
        assert [float(mm) for mm in words.split("×")] == pytest.approx([expected] * 2, abs=2)


def test_a_heading_sorts(table, qtbot):
    header = table.view.horizontalHeader()
    for expected in ([1, 3, 2], [2, 3, 1]):
        middle = header.sectionViewportPosition(PEAK) + header.sectionSize(PEAK) // 2
        qtbot.mouseClick(
            header.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(middle, header.height() // 2)
        )
        peaks = [float(text) for text in column(table, PEAK)]
        assert peaks in (sorted(peaks), sorted(peaks, reverse=True))
        expected_or_reverse = (expected, expected[::-1])
        assert numbers(table) in expected_or_reverse
    table.view.sortByColumn(DIAMETERS, Qt.SortOrder.AscendingOrder)
    assert numbers(table) == [3, 2, 1]  # the longest is the last
    table.view.sortByColumn(SIDE, Qt.SortOrder.AscendingOrder)
    assert numbers(table) == [1, 3, 2]  # from left to right
    table.view.sortByColumn(REGION, Qt.SortOrder.DescendingOrder)
    assert numbers(table) == [2, 3, 1]  # by name


def test_the_selection_survives_sorting_and_the_threshold(moving, table):
    told = []
    table.picked.connect(told.append)
    table.pick(2)
    table.view.sortByColumn(DIAMETERS, Qt.SortOrder.AscendingOrder)
    assert [index.row() for index in table.view.selectionModel().selectedRows()] == [1]
    moving.at(1.5)  # the largest is gone
    assert sorted(numbers(table)) == [2, 3]
    assert table.review.selected == 2
    moving.at(2.5)
    assert numbers(table) == [2]
    moving.at(0.1)
    assert [index.row() for index in table.view.selectionModel().selectedRows()] == [1]
    assert told == [2]  # only a person's pick leads anywhere


def test_keys_walk(table, qtbot):
    told = []
    table.picked.connect(told.append)
    table.pick(1)
    for key in (Qt.Key.Key_Down, Qt.Key.Key_Down, Qt.Key.Key_Up):
        qtbot.keyClick(table.view, key)
    assert told == [1, 2, 3, 2]


def test_decide_by_key_and_undo(table, qtbot):
    told = []
    table.decided.connect(lambda: told.append(dict(table.review.decisions)))
    table.pick(2)
    qtbot.keyClick(table.view, Qt.Key.Key_R)
    assert table.review.decisions == {2: Decision("rejected")}
    assert column(table, STATE) == ["", "✗", ""]
    struck = [
        table.model.data(table.model.index(row, ML), Qt.ItemDataRole.FontRole).strikeOut()
        for row in range(3)
    ]
    assert struck == [False, True, False]
    qtbot.keyClick(table.view, Qt.Key.Key_A)
    table.note.setText("  looks like\n a vessel ")
    qtbot.keyClick(table.note, Qt.Key.Key_Return)
    assert table.review.decisions == {2: Decision("accepted", "looks like a vessel")}
    assert column(table, STATE) == ["", "✓✎", ""]
    assert told[-1] == table.review.decisions
    undo = (Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClick(table.view, *undo)
    assert table.review.decisions == {2: Decision("accepted")}
    assert table.note.text() == ""
    qtbot.keyClick(table.view, *undo)
    assert table.review.decisions == {2: Decision("rejected")}
    table.undo_button.click()
    assert table.review.decisions == {}
    assert not table.undo_button.isEnabled()
    table.redo_button.click()
    assert table.review.decisions == {2: Decision("rejected")}
    table.reject_button.click()  # once more: open again
    assert table.review.decisions == {}
    assert not table.reject_button.isChecked()


UNDO = (Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)


def test_return_keeps_a_note_and_escape_discards_it(table, qtbot):
    """Both lead back to the table, where the keys go on."""
    table.show()
    table.activateWindow()
    qtbot.waitUntil(table.isActiveWindow)
    table.pick(2)
    qtbot.keyClick(table.view, Qt.Key.Key_T)
    assert table.note.hasFocus()
    qtbot.keyClicks(table.note, "Rim")
    qtbot.keyClick(table.note, Qt.Key.Key_Return)
    assert table.view.hasFocus()
    qtbot.keyClick(table.view, Qt.Key.Key_R)
    kept = {2: Decision("rejected", "Rim")}
    assert table.review.decisions == kept
    qtbot.keyClick(table.view, Qt.Key.Key_T)
    qtbot.keyClicks(table.note, " of a vessel")
    assert table.review.decisions == {2: Decision("rejected", "Rim of a vessel")}
    qtbot.keyClick(table.note, Qt.Key.Key_Escape)
    assert table.view.hasFocus()
    assert table.note.text() == "Rim"
    assert table.review.decisions == kept
    assert not table.redo_button.isEnabled()  # it is discarded, not undone
    qtbot.keyClick(table.view, Qt.Key.Key_T)
    qtbot.keyClick(table.note, Qt.Key.Key_Escape)  # nothing was typed
    assert table.review.decisions == kept
    qtbot.keyClick(table.view, *UNDO)
    assert table.review.decisions == {2: Decision(None, "Rim")}


def test_undo_in_a_note_undoes_typing(table, qtbot):
    table.pick(1)
    table.accept()
    qtbot.keyClicks(table.note, "new")
    for _ in range(3):  # more often than there is something to undo
        qtbot.keyClick(table.note, *UNDO)
    assert table.note.text() == ""
    assert table.review.decisions == {1: Decision("accepted")}


def test_nothing_is_decided_without_a_finding(moving, table):
    assert not table.accept_button.isEnabled()
    table.accept()
    assert table.review.decisions == {}
    table.pick(1)
    assert table.accept_button.isEnabled()
    moving.at(2.5)  # it is hidden now
    assert not table.accept_button.isEnabled()
    table.accept()
    assert not table.undo_button.isEnabled()


def test_another_review_has_its_own_decisions_and_undo(detection, moving, table):
    table.pick(3)
    table.reject()
    table.show_review(Table(detection).review)
    assert column(table, STATE) == ["", "", ""]
    assert not table.undo_button.isEnabled()
    assert not table.accept_button.isEnabled()
    table.show_review(moving.review)
    assert column(table, STATE) == ["", "", "✗"]
    assert table.reject_button.isChecked()
    table.undo()
    assert table.review.decisions == {}


def test_steps_follow_the_table_s_order_round_and_round(table):
    went: list[int] = []
    table.picked.connect(went.append)
    table.view.sortByColumn(ML, Qt.SortOrder.AscendingOrder)
    rows = numbers(table)
    assert len(rows) > 1
    for _ in range(len(rows) + 1):
        table.step(1)
    assert went == [*rows, rows[0]]
    table.step(-1)
    assert went[-1] == table.review.selected == rows[-1]


def test_a_note_is_taken_while_it_is_written(moving, table, qtbot):
    table.pick(3)
    qtbot.keyClicks(table.note, "half a word")
    assert table.review.decisions == {3: Decision(note="half a word")}
    table.note.setCursorPosition(4)
    qtbot.keyClicks(table.note, ", or ")
    moving.at(0.1)
    assert table.note.cursorPosition() == 9  # the cursor and the blank stay
    qtbot.keyClicks(table.note, "more")
    table.note.editingFinished.emit()
    note = Decision(note="half, or more a word")
    assert table.review.decisions == {3: note}
    table.undo()  # all of it is one step
    assert table.review.decisions == {}
    assert table.note.text() == ""
    table.redo()
    qtbot.keyClicks(table.note, "s")
    moving.at(2.5)  # its finding is hidden
    moving.at(0.1)
    assert table.review.decisions == {3: Decision(note=f"{note.note}s")}
    table.undo()
    assert table.review.decisions == {3: note}


def test_a_note_is_no_markup(table):
    table.decide(1, Decision(note="<b>bold</b>"))
    tip = table.model.data(table.model.index(0, ML), Qt.ItemDataRole.ToolTipRole)
    assert "&lt;b&gt;bold" in tip
    assert "<b>" not in tip


def test_unknown_sides_are_not_claimed(detection, make_detection, qtbot):
    scan = detection.anomaly
    table = Table(make_detection(scan.with_data(scan.data, (UNKNOWN_SIDES,)))).table
    qtbot.addWidget(table)
    assert column(table, SIDE) == ["?"] * 3
    table.view.sortByColumn(SIDE, Qt.SortOrder.AscendingOrder)  # all are equal
    tip = table.model.data(table.model.index(0, SIDE), Qt.ItemDataRole.ToolTipRole)
    assert "does not say which side is left" in tip


def test_without_uncertainty_there_is_no_column_for_it(detection, moving, make_detection, qtbot):
    table = Table(make_detection(detection.anomaly)).table
    qtbot.addWidget(table)
    table.resize(600, 300)
    table.show()
    assert table.view.isColumnHidden(SPREAD)
    table.show_review(moving.review)
    assert not table.view.isColumnHidden(SPREAD)


def test_a_line_and_the_tooltip_say_what_differs(detection, make_detection, qtbot):
    anomaly = detection.anomaly
    half = np.arange(anomaly.shape[2]) < anomaly.shape[2] // 2
    darker = anomaly.with_data(np.where(half, -anomaly.data, 0))
    for brightness, words in ((darker, ("darker than healthy", "changed structure")), (None, None)):
        table = Table(make_detection(anomaly, brightness=brightness)).table
        qtbot.addWidget(table)
        table.show()
        assert table.change.isVisible() == (words is not None)
        for number, expected in zip((1, 2), words or ("", ""), strict=True):
            table.pick(number)
            row = table.model.row_of(number)
            tip = table.model.data(table.model.index(row, ML), Qt.ItemDataRole.ToolTipRole)
            assert table.change.text().strip() == expected.capitalize()
            if expected:
                assert expected.capitalize() in tip.splitlines()
            else:
                assert "healthy" not in tip


def test_all_columns_have_room_in_a_narrow_panel(table):
    """The uncertainty gives way, and the tooltip has it."""
    table.resize(310, 300)
    table.show()
    view = table.view
    assert view.isColumnHidden(SPREAD)
    assert view.horizontalHeader().length() <= view.viewport().width()
    assert view.columnWidth(REGION) >= 80
    tip = table.model.data(table.model.index(0, ML), Qt.ItemDataRole.ToolTipRole)
    assert "±" in tip


def test_ten_thousands_of_findings(make_detection, qtbot):
    data = np.zeros((90, 90, 90), np.float32)
    data[::2, ::2, ::2] = np.linspace(1, 2, 45**3).reshape(45, 45, 45)
    made = Table(make_detection(volume_from_array(data)))
    table, marked = made.table, made.review.marked
    qtbot.addWidget(table)
    assert table.model.rowCount() == 45**3 > 65_535
    last = marked.findings[45**3 - 1]
    table.pick(last.id)
    table.reject()
    assert table.review.decisions == {last.id: Decision("rejected")}
    assert marked.labels.max() == 45**3


# --- in the panel and in the viewer --------------------------------------------------------------


@pytest.fixture
def reviewed(new_panel, show_result, make_detection, add):
    """``reviewed(viewer, layer)``: the panel with a result on a layer, whose map is the scan."""

    def show(viewer, layer) -> DetectWidget:
        panel = new_panel(viewer)
        panel.inputs.scan_chooser.choose(layer)
        scan = scan_volume(LayerData.of(layer)).volume
        show_result(panel, make_detection(scan))
        panel.findings.threshold.setValue(0.1)
        panel.findings.minimum.setValue(0.0)
        panel.controller.mark()
        return panel

    return show


def labels_of(viewer) -> Labels:
    (layer,) = (one for one in viewer.layers if is_output(one) and isinstance(one, Labels))
    return layer


TURN = nib.eulerangles.euler2mat(0.25, -0.2, 0.3)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LIP", "PSR", "AIL", "oblique"])
def test_a_click_leads_to_the_finding(orientation, reviewed, add, tmp_path):
    """A hill planted in the world is at the cross of all three slices, on the side that it says."""
    affine = stored_as("LAS", TURN) if orientation == "oblique" else stored_as(orientation)
    nib.save(nib.Nifti1Image(hills_on(affine, SHAPE), affine), tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz")
    viewer = ViewerModel()
    layer = add(viewer, scan)
    panel = reviewed(viewer, layer)
    table = panel.findings.table
    for number, (x, y, z, *_) in enumerate(HILLS, start=1):
        table.pick(number)
        index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
        assert labels_of(viewer).data[tuple(index)] == number
        world = nib.affines.apply_affine(scan.affine, index)
        assert np.linalg.norm(world - (x, y, z)) < 3
        row = table.model.row_of(number)
        center = nib.affines.apply_affine(
            scan.affine, np.argwhere(labels_of(viewer).data == number).mean(0)
        )
        tip = table.model.data(table.model.index(row, ID), Qt.ItemDataRole.ToolTipRole)
        assert ", ".join(f"{value:.1f}" for value in center) in tip
        side = "L" if x < 0 else "R"
        assert column(table, SIDE)[row] == f"{side} {abs(center[0]):.0f}"


def test_a_finding_gone_to_in_3d_is_there_in_2d(detection, reviewed, add):
    """Its slice is shown after 3D, not the one from before; in 3D the brain stays where it is."""
    viewer = ViewerModel()
    layer = add(viewer, detection.anomaly)
    panel = reviewed(viewer, layer)
    table = panel.findings.table
    table.pick(2)
    before = viewer.dims.point
    panel.views.planes.show_3d()
    center = viewer.scene.camera.center
    panel.views.planes.toggle_3d()
    assert viewer.dims.point == before
    panel.views.planes.show_3d()
    table.pick(1)
    assert viewer.scene.camera.center == center
    panel.views.planes.toggle_3d()
    index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
    assert labels_of(viewer).data[tuple(index)] == 1


@pytest.mark.parametrize("flipped", [False, True])
def test_a_click_leads_there_on_layers_of_other_readers(flipped, detection, reviewed):
    data, scale = detection.anomaly.data, np.array(detection.anomaly.spacing)
    if flipped:
        data, scale = data[::-1, :, ::-1], scale * (-1, 1, -1)
    viewer = ViewerModel()
    layer = viewer.add_layer(Image(data, name="foreign", scale=scale, contrast_limits=(0, 3)))
    panel = reviewed(viewer, layer)
    table = panel.findings.table
    assert set(column(table, SIDE)) == {"?"}
    for number in (3, 1, 2):
        table.pick(number)
        index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
        assert labels_of(viewer).data[tuple(index)] == number


def test_the_picture_shows_what_is_selected_and_rejected(detection, reviewed, add, qtbot):
    viewer = ViewerModel()
    panel = reviewed(viewer, add(viewer, detection.anomaly, name="head"))
    labels, table = labels_of(viewer), panel.findings.table
    plain = {number: labels.get_color(number) for number in (1, 2, 3)}
    assert len({tuple(color) for color in plain.values()}) == 3
    table.pick(2)
    np.testing.assert_allclose(labels.get_color(2), (1, 1, 1, 1))
    table.pick(1)
    np.testing.assert_allclose(labels.get_color(2), plain[2])
    table.reject()
    table.pick(3)
    dim = labels.get_color(1)
    np.testing.assert_allclose(dim[:3], plain[1][:3])
    assert 0 < dim[3] < 0.5
    assert "without the 1 rejected" in panel.findings.count.text()
    assert panel.outcome.decisions == {1: Decision("rejected")}
    panel.findings.threshold.setValue(0.15)
    qtbot.wait(100)
    assert labels.get_color(1)[3] == dim[3]
    table.undo()
    np.testing.assert_allclose(labels.get_color(1), plain[1])
    assert panel.outcome.decisions == {}


def test_the_table_stays_in_place_and_tooltips_wrap(detection, reviewed, add, qtbot):
    """When the first finding is rejected; in the panel, its tables and their headings."""
    viewer = ViewerModel()
    panel = reviewed(viewer, add(viewer, detection.anomaly, name="head"))
    panel.resize(panel.minimumSizeHint().width(), 900)
    panel.show()
    table = panel.findings.table
    table.pick(1)
    qtbot.wait(50)
    before = table.mapTo(panel, QPoint(0, 0)), panel.findings.count.height()
    table.reject()
    qtbot.wait(50)
    assert (table.mapTo(panel, QPoint(0, 0)), panel.findings.count.height()) == before
    header = table.view.horizontalHeader().viewport()
    side = table.view.horizontalHeader().sectionViewportPosition(SIDE) + 3
    for widget, at in (
        (table.reject_button, QPoint(5, 5)),
        (header, QPoint(side, 5)),
        (table.view.viewport(), QPoint(side, 5)),
    ):
        QApplication.sendEvent(widget, QHelpEvent(QEvent.Type.ToolTip, at, widget.mapToGlobal(at)))
        (tip,) = (w for w in QApplication.topLevelWidgets() if w.inherits("QTipLabel"))
        assert QToolTip.text().startswith("<qt>")
        assert tip.width() <= 90 * tip.fontMetrics().averageCharWidth()
        QToolTip.hideText()
        qtbot.waitUntil(
            lambda: not [w for w in QApplication.topLevelWidgets() if w.inherits("QTipLabel")]
        )


@pytest.mark.parametrize(("selected", "rejected"), [(None, set()), (40, {3}), (3, {3, 39})])
def test_colors_go_round(selected, rejected):
    plain = finding_colors(None, (), 40)
    colors = finding_colors(selected, rejected, 40)
    assert not colors[0].any()
    for number in range(1, 41):
        color = colors[(number - 1) % (len(colors) - 1) + 1]
        usual = plain[(number - 1) % (len(plain) - 1) + 1]
        changed = number == selected or number in rejected
        assert np.array_equal(color, usual) != changed


def test_presets_set_the_threshold_by_its_promise(tiny_checkpoint, qtbot):
    alarms = FalseAlarmSpecification(
        thresholds=(0.01, 0.03, 0.05), mean_ml=(40.0, 2.0, 0.5), minimum_ml=0.5, subjects=6
    )
    unmeasured = read_specification(tiny_checkpoint)
    default = unmeasured.detection.model_copy(update={"false_alarms": alarms})
    panel = DetectWidget(ViewerModel())
    qtbot.addWidget(panel)
    findings, control = panel.findings, panel.controller
    control.set_specification(unmeasured.model_copy(update={"detection": default}))
    for _ in range(2):  # a button that is on stays on: the threshold stands there
        findings.presets[1.0].click()
        assert control.marking.threshold == alarms.threshold_for(1.0)
        assert findings.threshold.value() == pytest.approx(alarms.threshold_for(1.0), abs=1e-4)
        assert findings.promise.text().startswith("about 1.0 mL of false alarm")
        assert findings.presets[1.0].isChecked()
    findings.presets[5.0].click()
    assert findings.promise.text().startswith("about 5.0 mL")
    assert [preset.isChecked() for preset in findings.presets.values()] == [False, False, True]
    assert not findings.presets[0.1].isEnabled()  # beyond what was measured
    assert "more than 0.1 mL" in findings.presets[0.1].toolTip()
    findings.default_button.click()
    assert control.marking.threshold == default.threshold
    control.set_specification(unmeasured)  # nobody measured it
    assert not any(preset.isEnabled() for preset in findings.presets.values())
    assert "not measured" in findings.presets[1.0].toolTip()


def test_decisions_are_saved(detection, reviewed, add, finish, tmp_path):
    viewer = ViewerModel()
    panel = reviewed(viewer, add(viewer, detection.anomaly, name="head"))
    table = panel.findings.table
    table.pick(2)
    table.reject()
    table.decide(3, Decision("accepted", "large, and new"))
    panel.saving.save(tmp_path / "out")
    finish(panel)
    assert panel.notices.error.text() == ""
    (path,) = (tmp_path / "out").rglob("*findings.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["id"], row["decision"], row["note"]) for row in rows] == [
        ("1", "", ""),
        ("2", "rejected", ""),
        ("3", "accepted", "large, and new"),
    ]
