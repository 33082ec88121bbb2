"""The mouse on the canvases: window and level, and clicks on findings, with real events."""

from __future__ import annotations

from collections.abc import Iterator

import napari
import numpy as np
import pytest
from napari.components import ViewerModel
from numpy.testing import assert_allclose
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QMenu, QWidget

from napari_addm.findings.decisions import Decision
from napari_addm.io.volume import volume_from_array
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.viewing.connections import unwrapped
from napari_addm.widgets.viewing.window_level import WindowLevel

LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
SHAPE = (24, 30, 28)  # S, A, R; 5 mm
# Voxels s, a, r of two findings.
PLACES = {1: (12, 20, 8), 2: (8, 10, 20)}
ELSEWHERE = (12, 15, 14)


@pytest.fixture
def panel(window, new_panel, make_detection, show_result, add, qtbot) -> Iterator[DetectWidget]:
    """A panel with a result in a viewer with a window: a brain with two findings."""
    data = np.zeros(SHAPE, np.float32)
    data[2:-2, 3:-3, 3:-3] = np.random.default_rng(0).uniform(50, 100, (20, 24, 22))
    affine = np.array([[0, 0, 5.0, -70], [0, 5.0, 0, -75], [5.0, 0, 0, -60], [0, 0, 0, 1]])
    scan = volume_from_array(data, affine)
    add(window, scan, name="scan")
    made = new_panel(window)
    score = np.zeros(SHAPE, np.float32)
    for number, (s, a, r) in PLACES.items():
        size = 4 - number
        score[s - size : s + size + 1, a - size : a + size + 1, r - size : r + size + 1] = 1.0
    show_result(
        made,
        make_detection(
            scan.with_data(score), reconstruction=scan, brain_mask=scan.with_data(data > 0)
        ),
    )
    made.findings.minimum.setValue(0.0)
    made.findings.threshold.setValue(0.5)
    made.controller.mark()
    made.views.show_plane("Axial")
    qtbot.wait(50)
    yield made
    window.window.remove_dock_widget(made)
    window.layers.clear()
    window.dims.ndisplay = 2
    qtbot.wait(50)


def canvases(panel: DetectWidget) -> list[tuple[object, QWidget]]:
    """The viewer and the models of further canvases, each with its widget."""
    found = [(panel.views.mouse, panel.window().centralWidget())]
    dock = panel.views.canvases.dock
    found += [(each.model, each) for each in ([] if dock is None else dock.canvases)]
    return [
        (model, next(w for w in root.findChildren(QWidget) if "CanvasBackend" in type(w).__name__))
        for model, root in found
    ]


def pixel(model, canvas: QWidget, layer, index: tuple[int, ...]) -> QPoint:
    """Where a canvas shows a voxel."""
    place, camera = layer.data_to_world(index), model.scene.camera
    apart = [
        (place[axis] - middle) * camera.zoom * (-1 if str(side) in ("up", "left") else 1)
        for axis, middle, side in zip(
            model.dims.displayed, camera.center[-2:], camera.orientation[-2:], strict=True
        )
    ]
    return QPoint(round(canvas.width() / 2 + apart[1]), round(canvas.height() / 2 + apart[0]))


def drag(qtbot, canvas: QWidget, button, by: tuple[int, int]) -> None:
    start = canvas.rect().center()
    QTest.mousePress(canvas, button, pos=start)
    for part in (0.5, 1.0):
        qtbot.wait(30)
        there = start + QPoint(round(part * by[0]), round(part * by[1]))
        QTest.mouseMove(canvas, there)
    qtbot.wait(30)
    QTest.mouseRelease(canvas, button, pos=start + QPoint(*by))
    qtbot.wait(30)


def window_of(layer) -> tuple[float, float]:
    low, high = layer.contrast_limits
    return high - low, (low + high) / 2


def on_canvases(panel: DetectWidget, window: napari.Viewer):
    return [(window if at == 0 else model, w) for at, (model, w) in enumerate(canvases(panel))]


def test_a_right_drag_sets_window_and_level(window, panel, qtbot) -> None:
    """Of the scan, with its reconstruction, on every canvas; napari's zoom gives way to it.

    There a click on a finding selects its row, too.
    """
    scan, rec = unwrapped(window.layers["scan"]), panel.outcome.layers.layer("reconstruction")
    before = window_of(scan)
    panel.views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: panel.views.canvases.dock.filled, timeout=60_000)
    for model, canvas in on_canvases(panel, window):
        width, level = window_of(scan)
        zoom = window.scene.camera.zoom
        drag(qtbot, canvas, RIGHT, (60, 0))
        assert window_of(scan)[0] > 1.2 * width
        assert window_of(scan)[1] == pytest.approx(level)
        drag(qtbot, canvas, RIGHT, (-60, -40))
        assert window_of(scan)[1] < level  # brighter
        assert rec.contrast_limits == scan.contrast_limits
        assert window.scene.camera.zoom == zoom
        assert window.scene.camera.mouse_pan
        click_on_findings(window, panel, qtbot, model, canvas)
    assert window_of(scan) != before
    qtbot.keyClick(canvas, Qt.Key.Key_W, Qt.KeyboardModifier.ShiftModifier)
    assert_allclose(window_of(scan), before)
    assert_allclose(window_of(rec), before)


def click_on_findings(window, panel, qtbot, model, canvas) -> None:
    """Elsewhere nothing is selected. The slices stay where they are."""
    table, labels = panel.findings.table, panel.outcome.layers.layer("labels")
    for number, place in PLACES.items():
        window.dims.point = labels.data_to_world(ELSEWHERE)
        qtbot.wait(50)
        table.review.selected = None
        qtbot.mouseClick(canvas, LEFT, pos=pixel(model, canvas, labels, ELSEWHERE))
        assert table.review.selected is None
        window.dims.point = labels.data_to_world(place)
        qtbot.wait(50)
        qtbot.mouseClick(canvas, LEFT, pos=pixel(model, canvas, labels, place))
        assert table.review.selected == number
        rows = table.view.selectionModel().selectedRows()
        assert [table.model.finding(row.row()).id for row in rows] == [number]
        assert_allclose(labels.get_color(number), (1, 1, 1, 1))
        assert_allclose(window.dims.point, labels.data_to_world(place), atol=5)


def test_presets_and_another_image(window, panel, qtbot) -> None:
    """The selected one. A map keeps its colors, and the scan is meant."""
    scan, anomaly = window.layers["scan"], panel.outcome.layers.layer("anomaly")
    other = window.add_image(np.zeros(SHAPE), name="flair", contrast_limits=(0, 9))
    panel.inputs.scan_chooser.choose(unwrapped(scan))
    other.visible = True
    canvas = on_canvases(panel, window)[0][1]
    for selected, changed in ((other, other), (anomaly, scan), (scan, scan)):
        window.layers.selection.active = unwrapped(selected)
        other.visible = True
        before = {layer: window_of(layer) for layer in (scan, other, anomaly)}
        drag(qtbot, canvas, RIGHT, (80, 0))
        assert [each for each in before if window_of(each) != before[each]] == [changed]
    shown = {}
    for name in ("full", "brain", "narrow"):
        panel.views.mouse.window.show(name)
        shown[name] = scan.contrast_limits
    assert shown["full"] == [0.0, scan.data.max()]
    inside = scan.data[scan.data > 0]
    assert_allclose(shown["brain"], np.percentile(inside, (0.5, 99.5)), rtol=0.02)
    assert_allclose(shown["narrow"], np.percentile(inside, (15, 95)), rtol=0.02)


def test_a_canvas_without_the_scan_has_the_window_of_what_it_shows() -> None:
    """As with another contrast beside the scan."""
    viewer, beside = ViewerModel(), ViewerModel()
    scan, flair, hidden = (viewer.add_image(np.eye(3), name=name) for name in ("t1", "flair", "t2"))
    for layer in (scan, flair, hidden):
        beside.add_image(layer.data, name=layer.name, visible=layer is flair)
    window = WindowLevel(viewer)
    window.scan = lambda: scan
    viewer.layers.selection.active = scan
    assert window.image_on(viewer) is scan
    assert window.image_on(beside) is flair
    window.close()


def test_a_right_click_on_a_finding_opens_its_menu(window, panel, qtbot) -> None:
    table, labels = panel.findings.table, panel.outcome.layers.layer("labels")
    scan = window.layers["scan"]
    before = window_of(scan)
    window.dims.point = labels.data_to_world(PLACES[2])
    qtbot.wait(100)
    model, canvas = on_canvases(panel, window)[0]
    qtbot.mouseClick(canvas, RIGHT, pos=pixel(model, canvas, labels, ELSEWHERE))
    assert not [menu for menu in table.findChildren(QMenu) if menu.isVisible()]
    for key in (Qt.Key.Key_A, Qt.Key.Key_R):
        qtbot.mouseClick(canvas, RIGHT, pos=pixel(model, canvas, labels, PLACES[2]))
        (menu,) = (menu for menu in table.findChildren(QMenu) if menu.isVisible())
        title, _, accept, reject, _ = menu.actions()
        assert title.text() == "Finding 2"
        assert not reject.isChecked()
        action = accept if key == Qt.Key.Key_A else reject
        qtbot.mouseClick(menu, LEFT, pos=menu.actionGeometry(action).center())
        qtbot.waitUntil(lambda: not [m for m in table.findChildren(QMenu) if m.isVisible()])
    assert table.review.decisions == {2: Decision("rejected")}
    assert window_of(scan) == before  # a click is no drag
    panel.views.planes.show_3d()
    qtbot.wait(50)
    qtbot.mouseClick(canvas, LEFT, pos=canvas.rect().center())
    panel.views.show_plane("Axial")
    window.dims.point = labels.data_to_world(PLACES[2])
    qtbot.wait(50)
    table.review.selected = None
    labels.visible = False
    qtbot.mouseClick(canvas, LEFT, pos=pixel(model, canvas, labels, PLACES[2]))
    assert table.review.selected is None


def test_napari_zooms_again_when_the_panel_is_closed(window, new_panel, add, qtbot) -> None:
    data = np.random.default_rng(0).uniform(0, 9, SHAPE).astype(np.float32)
    layer = window.add_image(data)
    window.reset_view()
    callbacks = list(window.mouse_drag_callbacks)
    panel = new_panel(window)
    canvas = on_canvases(panel, window)[0][1]
    qtbot.wait(50)
    with qtbot.waitSignal(panel.destroyed):
        window.window.remove_dock_widget(panel)
    assert list(window.mouse_drag_callbacks) == callbacks
    before, zoom = window_of(layer), window.scene.camera.zoom
    drag(qtbot, canvas, RIGHT, (60, 60))
    qtbot.waitUntil(lambda: window.scene.camera.zoom != zoom)
    assert window_of(layer) == before
    window.layers.clear()
