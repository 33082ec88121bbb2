"""What is written over the layers: numbers, diameters, the ruler, places in the scanner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import napari
import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.colors import TRUTH_COLOR
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.view import Views
from napari_addm.widgets.finding_colors import SELECTED_COLOR, finding_colors
from napari_addm.widgets.jobs import start_job
from napari_addm.widgets.layer_registry import remember_output
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.viewing.overlays import boxes_at_edges, size_of_words

SHAPE = (30, 36, 40)
NUMBERS, DIAMETERS, RULER = "addm_numbers", "addm_diameters", "addm_ruler"
MINUTE = 60_000
LEFT = Qt.MouseButton.LeftButton


def oblique(spacing: tuple[float, float, float] = (1.5, 1.0, 2.0)) -> Volume:
    """A grid of unequal voxels, turned in the scanner."""
    turn = nib.eulerangles.euler2mat(0.2, -0.15, 0.25)
    affine = nib.affines.from_matvec(turn @ np.diag(spacing), (-20.0, 12.0, -40.0))
    data = np.random.default_rng(0).random(SHAPE).astype(np.float32) + 1
    return volume_from_native(data, affine)


def found(viewer: Any, scan: Layer, labels: np.ndarray) -> Labels:
    """The layer of findings."""
    place = {key: getattr(scan, key) for key in ("scale", "translate", "units", "axis_labels")}
    layer = Labels(labels.astype(np.int32), name="findings", metadata=scan.metadata, **place)
    remember_output(layer, scan.unique_id, "labels", scan)
    viewer.add_layer(layer)
    return layer


def written(model: Any, name: str = NUMBERS) -> dict[str, Any]:
    return {word.text: word for word in model.scene.overlays[name].words}


@pytest.fixture
def viewer(window: napari.Viewer) -> Iterator[napari.Viewer]:
    yield window
    window.layers.clear()


@pytest.fixture
def views(viewer: napari.Viewer, qtbot: Any) -> Iterator[Views]:
    section = Views(viewer, start_job)
    dock = viewer.window.add_dock_widget(section, name="views")
    yield section
    viewer.window.remove_dock_widget(dock)
    with qtbot.waitSignal(section.destroyed):
        section.deleteLater()


@pytest.fixture
def alone(qtbot: Any) -> tuple[ViewerModel, Views]:
    """A section without a window."""
    model = ViewerModel()
    section = Views(model, start_job)
    qtbot.addWidget(section)
    return model, section


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_stand_beside_their_outlines(
    views: Views, viewer: Any, add: Any, qtbot: Any
) -> None:
    scan = add(viewer, oblique(), name="scan")
    views.show_plane("Axial")
    labels = np.zeros(scan.data.shape)
    s = labels.shape[0] // 2
    labels[s, 5:9, 5:9], labels[s, 20:24, 20:30], labels[s + 3, 8, 8] = 1, 2, 3
    layer = found(viewer, scan, labels)
    viewer.dims.set_point(0, layer.data_to_world((s, 0, 0))[0])
    qtbot.waitUntil(lambda: set(written(viewer)) == {"1", "2"})
    top, right = layer.world_to_data(written(viewer)["1"].place)[1:]
    assert top == pytest.approx(8, abs=1.2)  # anterior is up, and the patient's left on the right
    assert 3 < right <= 5
    layer.colormap = napari.utils.CyclicLabelColormap(colors=finding_colors(1, (2,), 3))
    qtbot.waitUntil(lambda: written(viewer)["1"].color == (1, 1, 1, 1))
    assert written(viewer)["2"].color == pytest.approx(layer.get_color(2))
    assert written(viewer)["2"].color[3] < 0.5  # rejected
    viewer.dims.set_point(0, layer.data_to_world((s + 3, 0, 0))[0])
    assert set(written(viewer)) == {"3"}
    views.three_planes.setChecked(True)
    dock = views.canvases.dock
    qtbot.waitUntil(lambda: dock.filled, timeout=MINUTE)
    viewer.dims.point = layer.data_to_world((s, 6, 6))
    for canvas in dock.canvases:
        qtbot.waitUntil(lambda canvas=canvas: set(written(canvas.model)) == {"1"})
    layer.visible = False
    qtbot.waitUntil(lambda: not written(viewer))
    assert [each.name for each in viewer.layers] == ["scan", "findings"]


def test_of_many_findings_the_largest_and_the_selected_have_numbers(
    alone: tuple[ViewerModel, Views], add: Any, qtbot: Any
) -> None:
    model, _ = alone
    model.scene.camera.zoom = 20.0
    scan = add(model, oblique(), name="scan")
    labels = np.zeros(scan.data.shape)
    section = labels[labels.shape[0] // 2]
    section[::2, ::2] = np.arange(1, section[::2, ::2].size + 1).reshape(section[::2, ::2].shape)
    section[0, :2] = section[0, 0]
    layer = found(model, scan, labels)
    layer.colormap = napari.utils.CyclicLabelColormap(colors=finding_colors(250, (), 999))
    model.dims.set_point(0, layer.data_to_world((labels.shape[0] // 2, 0, 0))[0])
    qtbot.waitUntil(lambda: "250" in written(model))
    assert "1" in written(model)
    assert len(written(model)) <= 20


# --- room -----------------------------------------------------------------------------------------


def overlapping(boxes: list[tuple[float, float, float, float]]) -> list[Any]:
    return [
        (one, other)
        for n, one in enumerate(boxes)
        for other in boxes[:n]
        if max(one[0], other[0]) < min(one[2], other[2])
        and max(one[1], other[1]) < min(one[3], other[3])
    ]


def covered(model: Any) -> list[tuple[float, float, float, float]]:
    """Where words are on a canvas: left, top, right and bottom, in pixels."""
    boxes = boxes_at_edges(model)
    camera, rows_columns = model.scene.camera, list(model.dims.displayed)
    for overlay in (model.scene.overlays[kind] for kind in (NUMBERS, DIAMETERS, RULER)):
        for word in overlay.words:
            steps = (np.array(word.place)[rows_columns] - camera.center[-2:]) * camera.zoom
            y, x = np.array(model.canvas.size) / 2 - steps  # anterior up, the left on the right
            wide, high = size_of_words(word.text, overlay.font_size)
            boxes.append((x, y, x + wide, y + high))
    return boxes


def test_no_word_lies_on_another(
    viewer: Any, new_panel: Any, show_result: Any, scan: Volume, add: Any, qtbot: Any
) -> None:
    layer = add(viewer, scan, name="head")
    panel = new_panel(viewer)
    show_result(panel)
    panel.findings.table.pick(1)
    panel.views.three_planes.setChecked(True)
    dock = panel.views.canvases.dock
    qtbot.waitUntil(lambda: dock.filled, timeout=MINUTE)
    (bar,) = (each.colorbar for each in viewer.layers if each.name.endswith("anomaly map"))
    qtbot.waitUntil(lambda: bar.visible, timeout=MINUTE)
    assert {"1"} <= set(written(viewer))
    camera, center = viewer.scene.camera, viewer.scene.camera.center
    size = max(layer.data.shape) * layer.scale[0]
    for zoom in (1.0, 2.0):
        camera.zoom *= zoom
        for aside in np.linspace(-size, size, 6):  # under letters, bars and labels
            for axis in (1, 2):
                camera.center = tuple(np.array(center) + aside * np.eye(3)[axis])
                qtbot.wait(100)
                assert overlapping(covered(viewer)) == []
    camera.center = center
    panel.views.planes.toggle_3d()
    camera.zoom *= 1.1
    qtbot.wait(200)  # nothing fails where there is no room to look for
    panel.views.planes.toggle_3d()
    qtbot.waitUntil(lambda: panel.views.canvases.dock is not None, timeout=MINUTE)
    dock = panel.views.canvases.dock
    qtbot.waitUntil(lambda: dock.filled, timeout=MINUTE)
    qtbot.waitUntil(lambda: len(viewer.scene.overlays[DIAMETERS].words) == 2)
    for canvas in dock.canvases:
        assert overlapping(covered(canvas.model)) == []
    dock.parentWidget().resize(dock.parentWidget().width(), 700)
    viewer.window._qt_window.resizeDocks([dock.parentWidget()], [480], Qt.Orientation.Vertical)
    qtbot.wait(300)
    assert overlapping(covered(viewer)) == []  # on a low canvas the bar is shorter
    viewer.window.remove_dock_widget(panel)


# --- diameters ------------------------------------------------------------------------------------


def test_the_selected_finding_shows_its_diameters(
    qtbot: Any, new_panel: Any, show_result: Any, scan: Volume, add: Any
) -> None:
    model = ViewerModel()
    add(model, scan, name="head")
    panel = new_panel(model)
    show_result(panel)
    table = panel.findings.table
    table.pick(1)
    finding = table.review.marked.findings[0]
    assert f"{finding.longest_mm:.1f} × {finding.across_mm:.1f} mm" in table.model.data(
        table.model.index(0, 1), Qt.ItemDataRole.ToolTipRole
    )
    drawn = model.scene.overlays[DIAMETERS]
    assert [word.text for word in drawn.words] == [
        f"{mm:.0f} mm" for mm in (finding.longest_mm, finding.across_mm)
    ]
    for stroke, mm in zip(drawn.strokes, (finding.longest_mm, finding.across_mm), strict=True):
        assert np.linalg.norm(np.subtract(stroke.start, stroke.end)) == pytest.approx(mm, rel=1e-3)
        assert stroke.color == (1, 1, 1, 1)
        assert SELECTED_COLOR == "#ffffff"
    model.dims.set_point(0, model.dims.point[0] + 10)
    assert not drawn.strokes
    model.dims.set_point(0, model.dims.point[0] - 10)
    assert drawn.strokes
    panel.views.show_plane("Coronal")
    assert not drawn.words
    panel.views.show_plane("Axial")
    before = drawn.words
    model.dims.ndisplay = 3
    model.scene.camera.zoom *= 2
    qtbot.wait(100)  # the camera rests
    model.dims.ndisplay = 2
    model.scene.camera.zoom /= 2
    qtbot.wait(100)
    assert drawn.words == before
    panel.controller.set_marking(panel.controller.marking.at(1.0))
    panel.controller.mark()
    assert not drawn.strokes  # nothing is above the threshold


# --- ruler ----------------------------------------------------------------------------------------


def canvas_of(section: QWidget) -> QWidget:
    inside = section.window().centralWidget().findChildren(QWidget)
    return next(each for each in inside if type(each).__name__.startswith("CanvasBackend"))


def drag(canvas: QWidget, start: QPoint, end: QPoint, qtbot: Any) -> None:
    QTest.mousePress(canvas, LEFT, pos=start)
    for share in (0.3, 0.7, 1.0):
        QTest.mouseMove(canvas, start + (end - start) * share)
        qtbot.wait(20)
    QTest.mouseRelease(canvas, LEFT, pos=end)


@pytest.mark.parametrize("plane", ["Axial", "Sagittal"])
def test_the_ruler_measures_in_the_scanner(
    plane: str, views: Views, viewer: Any, add: Any, qtbot: Any
) -> None:
    volume = oblique()
    scan = add(viewer, volume, name="scan")
    views.show_plane(plane)
    viewer.reset_view()
    qtbot.wait(100)
    center, layers = viewer.scene.camera.center, len(viewer.layers)
    canvas = canvas_of(views)
    middle = canvas.rect().center()
    ends = middle - QPoint(60, 40), middle + QPoint(50, 30)
    drag(canvas, *ends, qtbot)
    assert not viewer.scene.overlays[RULER].strokes  # it is off
    viewer.scene.camera.center = center
    views.ruler.click()
    drag(canvas, *ends, qtbot)
    (stroke,) = viewer.scene.overlays[RULER].strokes
    index = [scan.world_to_data(place) for place in (stroke.start, stroke.end)]
    one, other = nib.affines.apply_affine(volume.affine, index)
    (word,) = viewer.scene.overlays[RULER].words
    assert float(word.text.removesuffix(" mm")) == pytest.approx(
        np.linalg.norm(one - other), abs=0.051
    )
    assert viewer.scene.camera.center == center
    drag(canvas, ends[1], middle, qtbot)
    assert len(viewer.scene.overlays[RULER].strokes) == 2
    axis = viewer.dims.not_displayed[0]
    viewer.dims.set_current_step(axis, viewer.dims.current_step[axis] + 3)
    assert not viewer.scene.overlays[RULER].strokes
    QTest.mouseClick(canvas, LEFT, pos=middle)
    viewer.dims.set_current_step(axis, viewer.dims.current_step[axis] - 3)
    assert not viewer.scene.overlays[RULER].strokes  # a click erases
    drag(canvas, *ends, qtbot)
    assert viewer.scene.overlays[RULER].strokes
    views.ruler.click()
    assert not viewer.scene.overlays[RULER].strokes
    assert len(viewer.layers) == layers
    assert viewer.scene.camera.mouse_pan


# --- places ---------------------------------------------------------------------------------------


def in_words(place: np.ndarray) -> str:
    sides = zip(("RL", "AP", "SI"), place.tolist(), strict=True)
    return "  ".join(f"{ends[mm < 0]} {abs(mm):.1f}" for ends, mm in sides) + " mm"


def test_places_are_those_of_the_scanner(views: Views, viewer: Any, add: Any, qtbot: Any) -> None:
    volume = oblique()
    scan = add(viewer, volume, name="scan")
    views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=MINUTE)
    for index in ((4, 30, 7), (30, 2, 20)):
        viewer.dims.point = scan.data_to_world(index)
        shown = viewer.canvas.overlays["addm_crosshair_place"]
        nearest = np.round(scan.world_to_data(viewer.dims.point))
        assert shown.visible
        assert shown.text == in_words(nib.affines.apply_affine(volume.affine, nearest))
    viewer.cursor.position = tuple(scan.data_to_world((10.5, 11.25, 12)))
    words = in_words(nib.affines.apply_affine(volume.affine, (10.5, 11.25, 12)))
    label = views.marks.pointer.label
    assert label.text() == f"Pointer: {words}"
    assert label.isVisibleTo(views.window())
    views.three_planes.setChecked(False)
    assert "addm_crosshair_place" not in viewer.canvas.overlays
    viewer.add_image(np.zeros(scan.data.shape))  # nobody knows how this one lies
    viewer.cursor.position = tuple(scan.data_to_world((1, 2, 3)))
    assert label.text() == ""


def test_no_side_is_named_far_from_the_head(views: Views, viewer: Any, add: Any) -> None:
    volume = oblique()
    affine = volume.affine.copy()
    affine[0, 3] -= 200  # the origin is beyond the head: all of it would be "left"
    scan = add(viewer, replace(volume, affine=affine), name="scan")
    viewer.cursor.position = tuple(scan.data_to_world((10.5, 11.25, 12)))
    x, y, z = nib.affines.apply_affine(affine, (10.5, 11.25, 12)).tolist()
    assert views.marks.pointer.label.text() == f"Pointer: x {x:.1f}  y {y:.1f}  z {z:.1f} mm"


# --- how all looks --------------------------------------------------------------------------------


def test_the_viewer_looks_as_before_when_the_section_is_gone(
    viewer: Any, add: Any, qtbot: Any
) -> None:
    scan, chosen = (add(viewer, oblique(), name=name) for name in ("scan", "chosen"))
    map_ = Image(np.zeros(scan.data.shape, np.float32), name="map", scale=scan.scale)
    remember_output(map_, scan.unique_id, "anomaly", scan)
    plain = viewer.add_image(np.zeros((5, 5)), name="plain")
    viewer.theme = "light"
    bar = viewer.canvas.overlays["scale_bar"]
    before = bar.model_dump()
    section = Views(viewer, start_job)
    dock = viewer.window.add_dock_widget(section, name="views")
    viewer.add_layer(map_)
    images = {"scan": scan, "chosen": chosen, "map": map_}
    assert {name: each.interpolation2d for name, each in images.items()} == dict.fromkeys(
        images, "linear"
    )
    assert plain.interpolation2d == "nearest"
    assert bar.visible
    assert np.allclose(viewer.canvas.background_color[:3], 0)
    chosen.interpolation2d = "cubic"
    viewer.window.remove_dock_widget(dock)
    section.deleteLater()
    del section
    qtbot.waitUntil(lambda: scan.interpolation2d == "nearest")
    assert (map_.interpolation2d, chosen.interpolation2d) == ("nearest", "cubic")
    assert bar.model_dump() == before
    assert viewer.canvas.background_color_override is None
    viewer.theme = "dark"


def test_the_bar_has_the_colors_that_are_seen_on_a_brain(
    viewer: Any,
    new_panel: Callable[..., DetectWidget],
    show_result: Any,
    scan: Volume,
    add: Any,
    qtbot: Any,
) -> None:
    add(viewer, scan, name="head")
    panel = new_panel(viewer)
    show_result(panel)
    anomaly = panel.outcome.layers.layer("anomaly")
    qtbot.waitUntil(lambda: anomaly.colorbar.visible, timeout=MINUTE)
    for layer in viewer.layers:
        if layer is not anomaly and layer.name != "head":
            layer.visible = False
    viewer.layers["head"].visible = False
    anomaly.opacity = 1.0
    picture = viewer.screenshot(flash=False)
    bar = picture[:200, -120:, :3].reshape(-1, 3).astype(int)
    gray = (np.abs(bar - 127).max(axis=1) <= 6).sum()
    assert gray >= 14  # the lowest score is clear: one sees the brain's gray
    viewer.window.remove_dock_widget(panel)


def test_a_truth_is_green_thick_and_over_the_map(
    new_panel: Any, show_result: Any, scan: Volume, add: Any
) -> None:
    model = ViewerModel()
    add(model, scan, name="head")
    truth = add(model, scan.with_data((scan.data > 100).astype(np.uint8)), "labels", name="truth")
    panel = new_panel(model)
    panel.agreement.truth.chooser.choose(truth)
    show_result(panel)
    layers: ResultLayers = panel.outcome.layers
    order = [layer.unique_id for layer in model.layers]
    places = [order.index(layers.layer(role).unique_id) for role in ("anomaly", "labels")]
    assert places[0] < order.index(truth.unique_id) < places[1]
    assert truth.contour > layers.layer("labels").contour
    assert truth.get_color(1)[:3] == pytest.approx(
        [int(TRUTH_COLOR[n : n + 2], 16) / 255 for n in (1, 3, 5)], abs=1e-3
    )
