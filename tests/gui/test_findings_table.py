"""The table of findings: order, walking, decisions and undo, and where a click leads."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.checkpoint.specification import FalseAlarmSpecification
from napari_addm.detection.midline import Midline
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import UNKNOWN_SIDES, Volume, volume_from_array
from napari_addm.review.marking import CachedLabeller
from napari_addm.widgets.detect_panel.findings_table import (
    ID,
    ML,
    PEAK,
    SCANNER,
    SIDE,
    SPREAD,
    STATE,
    FindingsTable,
)
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layer_volumes import LayerData, scan_volume
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.result_layers import ResultLayers

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
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def detection_of(scan: Volume, checkpoint: Checkpoint, uncertain: bool = True) -> Detection:
    """A result without a network: the scan itself is the map."""
    return Detection(
        anomaly=scan,
        reconstruction=scan,
        uncertainty=scan.with_data(scan.data / 10) if uncertain else None,
        brain_mask=scan.with_data(np.ones(scan.shape, bool)),
        done=np.ones(scan.shape[0], bool),
        seconds={},
        settings=resolve(DetectionSettings(), checkpoint.specification),
        specification=checkpoint.specification,
        device="cpu",
        precision="float32",
        threads=2,
        midline=Midline((1.0, 0.0, 0.0), 0.0, "symmetry"),
    )


@pytest.fixture(scope="module")
def marker(checkpoint) -> CachedLabeller:
    affine = stored_as("RAS")
    scan = volume_from_array(
        hills_on(affine, SHAPE).transpose(2, 1, 0).copy(), affine[:, [2, 1, 0, 3]]
    )
    return CachedLabeller(detection_of(scan, checkpoint))


@pytest.fixture
def table(marker, qtbot) -> FindingsTable:
    widget = FindingsTable()
    qtbot.addWidget(widget)
    widget.begin("scan")
    widget.show_marked(marker.label(0.1, 0.0))
    return widget


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
    assert column(table, SIDE) == ["left, 31 mm", "right, 26 mm", "right, 5 mm"]
    assert column(table, SCANNER) == ["-31 12 24", "26 -20 -10", "5 33 -24"]


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
    table.view.sortByColumn(SCANNER, Qt.SortOrder.AscendingOrder)
    assert numbers(table) == [3, 2, 1]  # from below
    table.view.sortByColumn(SIDE, Qt.SortOrder.AscendingOrder)
    assert numbers(table) == [1, 3, 2]  # from left to right


def test_the_selection_survives_sorting_and_the_threshold(table, marker):
    told = []
    table.picked.connect(told.append)
    table.pick(2)
    table.view.sortByColumn(SCANNER, Qt.SortOrder.AscendingOrder)
    assert [index.row() for index in table.view.selectionModel().selectedRows()] == [1]
    table.show_marked(marker.label(1.5, 0.0))  # the largest is gone
    assert sorted(numbers(table)) == [2, 3]
    assert table.selected == 2
    table.show_marked(marker.label(2.5, 0.0))
    assert numbers(table) == [2]
    table.show_marked(marker.label(0.1, 0.0))
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
    table.decided.connect(lambda: told.append(dict(table.decisions)))
    table.pick(2)
    qtbot.keyClick(table.view, Qt.Key.Key_R)
    assert table.decisions == {2: Decision("rejected")}
    assert column(table, STATE) == ["", "✗", ""]
    struck = [
        table.model.data(table.model.index(row, ML), Qt.ItemDataRole.FontRole).strikeOut()
        for row in range(3)
    ]
    assert struck == [False, True, False]
    qtbot.keyClick(table.view, Qt.Key.Key_A)
    table.note.setText("  looks like\n a vessel ")
    qtbot.keyClick(table.note, Qt.Key.Key_Return)
    assert table.decisions == {2: Decision("accepted", "looks like a vessel")}
    assert column(table, STATE) == ["", "✓✎", ""]
    assert told[-1] == table.decisions
    undo = (Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClick(table.view, *undo)
    assert table.decisions == {2: Decision("accepted")}
    assert table.note.text() == ""
    qtbot.keyClick(table.view, *undo)
    assert table.decisions == {2: Decision("rejected")}
    table.undo_button.click()
    assert table.decisions == {}
    assert not table.undo_button.isEnabled()
    table.redo_button.click()
    assert table.decisions == {2: Decision("rejected")}
    table.reject_button.click()  # once more: open again
    assert table.decisions == {}
    assert not table.reject_button.isChecked()


def test_undo_by_key_needs_the_table(marker, qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    table, elsewhere = FindingsTable(), QLineEdit()
    layout = QVBoxLayout(window)
    layout.addWidget(table)
    layout.addWidget(elsewhere)
    table.show_marked(marker.label(0.1, 0.0))
    table.pick(1)
    table.accept()
    qtbot.keyClick(elsewhere, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert table.decisions == {1: Decision("accepted")}


def test_nothing_is_decided_without_a_finding(table, marker):
    assert not table.accept_button.isEnabled()
    table.accept()
    assert table.decisions == {}
    table.pick(1)
    assert table.accept_button.isEnabled()
    table.show_marked(marker.label(2.5, 0.0))  # it is hidden now
    assert not table.accept_button.isEnabled()
    table.accept()
    assert table.undo_stack.count() == 0


def test_decisions_follow_the_threshold(table, marker):
    table.pick(3)
    table.reject()
    table.show_marked(marker.label(0.3, 0.0))
    assert table.decisions == {3: Decision("rejected")}
    table.show_marked(marker.label(1.5, 0.0))  # a grain of it is left
    assert numbers(table) == [2, 3]
    assert table.decisions == {}
    table.show_marked(marker.label(0.1, 0.0))
    assert table.decisions == {3: Decision("rejected")}
    table.begin("scan")  # what a person decided is not lost with the next run
    assert table.decisions == {}
    table.show_marked(marker.label(0.1, 0.0))
    assert table.decisions == {3: Decision("rejected")}
    table.undo()
    assert table.decisions == {}
    table.redo()
    first = table.decided_on
    table.begin("another")
    table.show_marked(marker.label(0.1, 0.0))
    assert table.decisions == {}
    assert not table.undo_stack.canUndo()
    table.pick(2)
    table.accept()
    second = table.decided_on
    table.begin("scan", first)  # nor when another was looked at meanwhile
    table.show_marked(marker.label(0.1, 0.0))
    assert table.decisions == {3: Decision("rejected")}
    table.begin("another", second)
    table.show_marked(marker.label(0.1, 0.0))
    assert table.decisions == {2: Decision("accepted")}


def test_steps_follow_the_table_s_order_round_and_round(table, marker):
    went: list[int] = []
    table.picked.connect(went.append)
    table.show_marked(marker.label(0.1, 0.0))
    table.view.sortByColumn(ML, Qt.SortOrder.AscendingOrder)
    rows = numbers(table)
    assert len(rows) > 1
    for _ in range(len(rows) + 1):
        table.step(1)
    assert went == [*rows, rows[0]]
    assert table.selected == rows[0]
    table.step(-1)
    assert went[-1] == table.selected == rows[-1]


def test_a_note_that_is_being_written_stays_when_its_finding_goes(table, marker, qtbot):
    table.pick(3)
    qtbot.keyClicks(table.note, "half a word")
    table.show_marked(marker.label(2.5, 0.0))  # it is hidden now
    table.show_marked(marker.label(0.1, 0.0))
    assert table.decisions == {3: Decision(note="half a word")}
    # that goes on where it was, and is one step with what follows
    table.pick(3)
    table.note.setCursorPosition(4)
    qtbot.keyClicks(table.note, ", or")
    table.show_marked(marker.label(0.1, 0.0))
    assert table.note.cursorPosition() == 8
    qtbot.keyClicks(table.note, " more")
    table.note.editingFinished.emit()
    assert table.decisions == {3: Decision(note="half, or more a word")}
    assert table.undo_stack.count() == 1
    table.undo()
    assert table.decisions == {}
    table.redo()
    table.reject()
    table.undo()
    assert table.decisions == {3: Decision(note="half, or more a word")}


def test_a_note_is_no_markup(table):
    table.decide(1, Decision(note="<b>bold</b>"))
    tip = table.model.data(table.model.index(0, ML), Qt.ItemDataRole.ToolTipRole)
    assert "&lt;b&gt;bold" in tip
    assert "<b>" not in tip


def test_unknown_sides_are_not_claimed(checkpoint, marker, qtbot):
    scan = marker.detection.anomaly
    unknown = CachedLabeller(detection_of(scan.with_data(scan.data, (UNKNOWN_SIDES,)), checkpoint))
    table = FindingsTable()
    qtbot.addWidget(table)
    table.show_marked(unknown.label(0.1, 0.0))
    assert column(table, SIDE) == ["unknown"] * 3
    table.view.sortByColumn(SIDE, Qt.SortOrder.AscendingOrder)  # which there is nothing to do by
    tip = table.model.data(table.model.index(0, SIDE), Qt.ItemDataRole.ToolTipRole)
    assert "does not say which side is left" in tip


def test_without_uncertainty_there_is_no_column_for_it(checkpoint, marker, qtbot):
    certain = CachedLabeller(detection_of(marker.detection.anomaly, checkpoint, uncertain=False))
    table = FindingsTable()
    qtbot.addWidget(table)
    table.show_marked(certain.label(0.1, 0.0))
    assert table.view.isColumnHidden(SPREAD)
    table.show_marked(marker.label(0.1, 0.0))
    assert not table.view.isColumnHidden(SPREAD)


def test_ten_thousands_of_findings(checkpoint, qtbot):
    data = np.zeros((90, 90, 90), np.float32)
    data[::2, ::2, ::2] = np.linspace(1, 2, 45**3).reshape(45, 45, 45)
    noise = CachedLabeller(detection_of(volume_from_array(data), checkpoint))
    table = FindingsTable()
    qtbot.addWidget(table)
    marked = noise.label(0.5, 0.0)
    table.show_marked(marked)
    assert table.model.rowCount() == 45**3 > 65_535
    last = marked.findings[45**3 - 1]
    table.pick(last.id)
    table.reject()
    assert table.decisions == {last.id: Decision("rejected")}
    assert marked.labels.max() == 45**3


# --- in the panel and in the viewer --------------------------------------------------------------


def reviewed(viewer, layer: Image, checkpoint: Checkpoint) -> DetectWidget:
    """The panel with a result on a layer, as at the end of a run."""
    panel = DetectWidget(viewer)
    placed = scan_volume(LayerData.of(layer))
    panel.outcome = Outcome(
        layers=ResultLayers(viewer, LayerData.of(layer), layer.unique_id, placed),
        checkpoint=replace(checkpoint, weights={}),
        mask_path=None,
        name=layer.name,
    )
    panel.saving.outcome = panel.outcome
    panel.outcome.detection = detection_of(placed.volume, checkpoint)
    panel.findings.begin(checkpoint.specification, "scan")
    panel.outcome.layers.show(panel.outcome.detection, 0.1)
    panel.threshold.setMaximum(3.0)
    panel.threshold.setValue(0.1)
    panel.minimum.setValue(0.0)
    panel._mark()
    panel.findings.end(panel.outcome.detection)
    return panel


def labels_of(viewer) -> Labels:
    (layer,) = (one for one in viewer.layers if is_output(one) and isinstance(one, Labels))
    return layer


TURN = nib.eulerangles.euler2mat(0.25, -0.2, 0.3)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LIP", "PSR", "AIL", "oblique"])
def test_a_click_leads_to_the_finding(orientation, checkpoint, qtbot, tmp_path):
    """A hill planted in the world is at the cross of all three slices, on the side that it says."""
    affine = stored_as("LAS", TURN) if orientation == "oblique" else stored_as(orientation)
    nib.save(nib.Nifti1Image(hills_on(affine, SHAPE), affine), tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz")
    viewer = ViewerModel()
    data, arguments, _ = volume_to_layer(scan)
    layer = viewer.add_layer(Image(data, **arguments))
    panel = reviewed(viewer, layer, checkpoint)
    qtbot.addWidget(panel)
    table = panel.findings.table
    for number, (x, y, z, *_) in enumerate(HILLS, start=1):
        table.pick(number)
        index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
        assert labels_of(viewer).data[tuple(index)] == number
        world = nib.affines.apply_affine(scan.affine, index)
        assert np.linalg.norm(world - (x, y, z)) < 3
        row = table.model.row_of(number)
        centre = nib.affines.apply_affine(
            scan.affine, np.argwhere(labels_of(viewer).data == number).mean(0)
        )
        assert column(table, SCANNER)[row] == " ".join(f"{value:.0f}" for value in centre)
        side = "left" if x < 0 else "right"
        assert column(table, SIDE)[row] == f"{side}, {abs(centre[0]):.0f} mm"


def test_a_finding_gone_to_in_3d_is_there_in_2d(checkpoint, marker, qtbot):
    """Its slice is shown after 3D, not the one from before; in 3D the brain stays where it is."""
    viewer = ViewerModel()
    data, arguments, _ = volume_to_layer(marker.detection.anomaly)
    layer = viewer.add_layer(Image(data, **arguments))
    panel = reviewed(viewer, layer, checkpoint)
    qtbot.addWidget(panel)
    table = panel.findings.table
    table.pick(2)
    before = viewer.dims.point
    panel.views.planes.show_3d()
    centre = viewer.scene.camera.center
    panel.views.planes.toggle_3d()
    assert viewer.dims.point == before
    panel.views.planes.show_3d()
    table.pick(1)
    assert viewer.scene.camera.center == centre
    panel.views.planes.toggle_3d()
    index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
    assert labels_of(viewer).data[tuple(index)] == 1


@pytest.mark.parametrize("flipped", [False, True])
def test_a_click_leads_there_on_layers_of_other_readers(flipped, checkpoint, marker, qtbot):
    data, scale = marker.detection.anomaly.data, np.array(marker.detection.anomaly.spacing)
    if flipped:
        data, scale = data[::-1, :, ::-1], scale * (-1, 1, -1)
    viewer = ViewerModel()
    layer = viewer.add_layer(Image(data, name="foreign", scale=scale, contrast_limits=(0, 3)))
    panel = reviewed(viewer, layer, checkpoint)
    qtbot.addWidget(panel)
    table = panel.findings.table
    assert set(column(table, SIDE)) == {"unknown"}
    for number in (3, 1, 2):
        table.pick(number)
        index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
        assert labels_of(viewer).data[tuple(index)] == number


def test_the_picture_shows_what_is_selected_and_rejected(
    make_napari_viewer_proxy, checkpoint, marker, qtbot
):
    viewer = make_napari_viewer_proxy()
    data, arguments, _ = volume_to_layer(marker.detection.anomaly)
    layer = Image(data, name="head", **{k: v for k, v in arguments.items() if k != "name"})
    viewer.add_layer(layer)
    panel = reviewed(viewer, layer, checkpoint)
    viewer.window.add_dock_widget(panel)
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
    assert "without the 1 rejected" in panel.count.text()
    assert panel.outcome.decisions == {1: Decision("rejected")}
    panel.threshold.setValue(0.15)
    qtbot.wait(100)
    assert labels.get_color(1)[3] == dim[3]
    table.undo()
    np.testing.assert_allclose(labels.get_color(1), plain[1])
    assert panel.outcome.decisions == {}


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


def test_presets_set_the_threshold_by_its_promise(checkpoint, qtbot):
    alarms = FalseAlarmSpecification(
        thresholds=(0.01, 0.03, 0.05), mean_ml=(40.0, 2.0, 0.5), minimum_ml=0.5, subjects=6
    )
    detection = checkpoint.specification.detection.model_copy(update={"false_alarms": alarms})
    specification = checkpoint.specification.model_copy(update={"detection": detection})
    panel = DetectWidget(ViewerModel())
    qtbot.addWidget(panel)
    findings = panel.findings
    findings.review_as(specification)
    findings.presets[1.0].click()
    assert panel.threshold.value() == pytest.approx(alarms.threshold_for(1.0), abs=1e-4)
    assert panel.promise.text().startswith("about 1.0 mL of false alarm")
    assert findings.presets[1.0].isChecked()
    findings.presets[1.0].click()  # it stays on: the threshold stands there
    assert findings.presets[1.0].isChecked()
    findings.presets[5.0].click()
    assert panel.promise.text().startswith("about 5.0 mL")
    assert [preset.isChecked() for preset in findings.presets.values()] == [False, False, True]
    assert not findings.presets[0.1].isEnabled()  # beyond what was measured
    assert "more than 0.1 mL" in findings.presets[0.1].toolTip()
    findings.default_button.click()
    assert panel.threshold.value() == pytest.approx(detection.threshold, abs=1e-4)
    findings.review_as(checkpoint.specification)  # nobody measured it
    assert not any(preset.isEnabled() for preset in findings.presets.values())
    assert "not measured" in findings.presets[1.0].toolTip()


def test_decisions_are_saved(checkpoint, marker, qtbot, tmp_path):
    viewer = ViewerModel()
    data, arguments, _ = volume_to_layer(marker.detection.anomaly, name="head")
    panel = reviewed(viewer, viewer.add_layer(Image(data, **arguments)), checkpoint)
    qtbot.addWidget(panel)
    table = panel.findings.table
    table.pick(2)
    table.reject()
    table.decide(3, Decision("accepted", "large, and new"))
    panel.save(tmp_path)
    # not by looking into the folder, where files come and go meanwhile
    qtbot.waitUntil(lambda: "saved in" in panel.status.text(), timeout=60_000)
    qtbot.wait(100)
    assert panel.error.text() == ""
    (path,) = tmp_path.rglob("*findings.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["id"], row["decision"], row["note"]) for row in rows] == [
        ("1", "", ""),
        ("2", "rejected", ""),
        ("3", "accepted", "large, and new"),
    ]
