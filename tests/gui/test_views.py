"""The section 'View' in a real viewer: what is on the screen, and what is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import napari
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers.utils._link_layers import get_linked_layers
from napari.utils.key_bindings import KeymapHandler, coerce_keybinding
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.testing import assert_allclose
from PIL import Image as Picture
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QDockWidget,
    QFileDialog,
    QListView,
    QMainWindow,
    QMessageBox,
    QWidget,
)

from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.view import Views
from napari_addm.widgets.jobs import start_job
from napari_addm.widgets.layer_registry import remember_output
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.viewing import blink
from napari_addm.widgets.viewing.canvas_tools import LETTER
from napari_addm.widgets.viewing.connections import unwrapped
from napari_addm.widgets.viewing.glass import GLASS
from napari_addm.widgets.viewing.planes import LETTER_PLACES, PLANES

SHAPE = (30, 40, 36)  # R, A, S
SPACING = 4.0
# In the patient's left, anterior, superior corner; world mm.
CORNER = np.array([-42.0, 50.0, 42.0])
GREEN, WHITE = "green", "gray"


def brain(codes: str = "RAS") -> Volume:
    """A gray box with a bright block in `CORNER`, stored in an orientation."""
    data = np.full(SHAPE, 60.0, np.float32)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -SPACING * (np.asarray(SHAPE) - 1) / 2
    at = np.round(np.linalg.solve(affine[:3, :3], CORNER - affine[:3, 3])).astype(int)
    data[tuple(slice(n - 2, n + 3) for n in at)] = 255.0
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = data.transpose(np.argsort(turn[:, 0]).astype(int))
    stored = stored[tuple(slice(None, None, int(step)) for step in turn[np.argsort(turn[:, 0]), 1])]
    return volume_from_native(stored, affine @ inv_ornt_aff(turn, SHAPE))


def add(viewer, volume: Volume, name: str = "scan", **options) -> Image:
    data, arguments, _ = volume_to_layer(
        volume, "image", name=name, contrast_limits=(0, 255), **options
    )
    viewer.add_layer(Image(data, **arguments))
    return unwrapped(viewer.layers[name])


def add_results(viewer, scan: Image) -> tuple[Image, Image, Labels]:
    """What a run adds: a reconstruction (all bright), a map and findings (empty)."""
    place = {key: getattr(scan, key) for key in ("scale", "translate", "units", "axis_labels")}

    shape = scan.data.shape
    made = {
        "reconstruction": Image(
            np.full(shape, 255, np.float32),
            name="rec",
            contrast_limits=(0, 255),
            colormap="green",
            visible=False,
            metadata=scan.metadata,
            **place,
        ),
        "anomaly": Image(
            np.zeros(shape, np.float32),
            name="map",
            colormap="red",
            blending="additive",
            contrast_limits=(0, 1),
            metadata=scan.metadata,
            **place,
        ),
        "labels": Labels(
            np.zeros(shape, np.int32), name="findings", metadata=scan.metadata, **place
        ),
    }
    for role, layer in made.items():
        remember_output(layer, scan.unique_id, role, scan)
        viewer.add_layer(layer)
    return tuple(made.values())


def pixels(qt_viewer) -> np.ndarray:
    return np.asarray(qt_viewer.screenshot(flash=False))[..., :3].astype(int)


def green(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of bright green; letters, lines and outlines are of other colors."""
    return np.argwhere((picture[..., 1] > 200) & (picture[..., 0] < 60) & (picture[..., 2] < 60))


def state(viewer) -> tuple[object, ...]:
    """What the section may change in a viewer, apart from its layers."""
    return (
        set(viewer.canvas.overlays),
        set(viewer.scene.overlays),
        dict(viewer.keymap),
        list(viewer.mouse_drag_callbacks),
        viewer.canvas.overlay_tiling.top_right,
        viewer.canvas.background_color_override,
        viewer.canvas.overlays["scale_bar"].visible,
        set(viewer.window.dock_widgets),
    )


@pytest.fixture
def viewer(window, qtbot) -> Iterator[napari.Viewer]:
    """The viewer without layers. Each test has to leave it as it was."""
    before = state(window)
    yield window
    window.layers.clear()
    window.dims.ndisplay = 2
    window.dims.order = tuple(range(window.dims.ndim))
    qtbot.waitUntil(lambda: state(window) == before)


@pytest.fixture
def views(viewer, qtbot) -> Iterator[Views]:
    section = Views(viewer, start_job)
    dock = viewer.window.add_dock_widget(section, name="views")
    yield section
    viewer.window.remove_dock_widget(dock)
    with qtbot.waitSignal(section.destroyed):
        section.deleteLater()


def shown(viewer) -> dict[str, bool]:
    return shown_in(viewer.layers)


def shown_in(layers) -> dict[str, bool]:
    return {layer.name: layer.visible for layer in layers}


# --- left and right -------------------------------------------------------------------------------


def test_patients_left_is_on_the_right_of_the_screen(viewer, views, qtbot) -> None:
    """The planted corner, through every orientation of the file and every plane."""
    for codes in ("RAS", "LPI", "ASR", "PIL"):
        layer = add(viewer, brain(codes), colormap="green")
        viewer.dims.point = CORNER[::-1]
        for plane in PLANES:
            views.show_plane(plane)
            qtbot.wait(60)
            picture = viewer.screenshot(flash=False)[..., :3].astype(int)
            at = green(picture).mean(axis=0) / picture.shape[:2]
            assert at[0] < 0.45, (codes, plane)  # anterior or superior is up
            if plane == "Sagittal":
                assert at[1] < 0.5, codes  # anterior on the left
            else:
                assert at[1] > 0.5, codes  # the patient's left on the right
        viewer.layers.remove(layer.name)


def test_letters_say_what_is_shown(viewer, views) -> None:
    def letters() -> str:
        """Top, bottom, left and right, those that are seen."""
        overlays = viewer.canvas.overlays
        shown = (overlays[LETTER + place] for place in LETTER_PLACES)
        return "".join(overlay.text for overlay in shown if overlay.visible)

    assert letters() == ""
    layer = add(viewer, brain())
    views.show_plane("Axial")
    assert letters() == "APRL"
    views.show_plane("Sagittal")
    assert letters() == "SIAP"
    viewer.scene.camera.orientation = ("towards", "down", "right")
    assert letters() == "ISPA"
    views.show_plane("Axial")
    assert letters() == "APRL"
    views.planes.show_3d()
    assert letters() == ""
    views.show_plane("Axial")
    # a layer that does not say how it lies: nothing is claimed
    viewer.add_layer(Image(np.zeros((36, 40, 30)), name="other"))
    assert letters() == ""
    viewer.layers.remove("other")
    assert letters() == "APRL"
    layer.scale = layer.scale * (1, 1, -1)  # which side is left now?
    assert letters() == ""


def test_3d_is_a_glass_brain(viewer, views, qtbot) -> None:
    """From the front: left on the right, superior up. All else is as before when it is left."""
    scan = add(viewer, brain())
    scan.data[scan.data < 100] = 0
    _, _, findings = add_results(viewer, scan)
    views.show_plane("Coronal")
    viewer.dims.point = CORNER[::-1]
    camera, names = viewer.scene.camera, [layer.name for layer in viewer.layers]
    camera.zoom, camera.center = 3.3, (0.0, 11.0, 5.0)
    before = viewer.dims.order, viewer.dims.point, camera.zoom, camera.center
    looks = shown(viewer)

    def enter() -> None:
        views.planes.show_3d()
        overlay = viewer.scene.overlays[GLASS]
        qtbot.waitUntil(lambda: overlay.brain is not None, timeout=60_000)

    enter()
    qtbot.wait(100)
    assert viewer.dims.ndisplay == 3
    assert not any(shown(viewer).values())
    assert [layer.name for layer in viewer.layers] == names
    overlay = viewer.scene.overlays[GLASS]
    assert_allclose(overlay.brain.vertices.mean(axis=0), CORNER[::-1], atol=SPACING)
    assert "".join(letter for letter, _ in overlay.letters) == "SIAPRL"
    camera.center, camera.zoom = (0, 0, 0), 2.0
    pictures = []
    for visible in (False, True):
        overlay.visible = visible
        qtbot.wait(100)
        pictures.append(viewer.screenshot(flash=False)[..., :3].astype(int))
    drawn = np.abs(pictures[1] - pictures[0]).max(axis=2) > 20
    at = np.argwhere(drawn).mean(axis=0) / drawn.shape
    assert at[0] < 0.45
    assert at[1] > 0.55
    views.planes.toggle_3d()
    assert (viewer.dims.order, viewer.dims.point, camera.zoom, camera.center) == before
    assert shown(viewer) == looks
    assert GLASS not in viewer.scene.overlays

    # left by napari's own button; a layer that came meanwhile, and one that a person showed
    enter()
    late = add(viewer, brain(), "late")
    assert not late.visible
    findings.visible = True
    findings.visible = False
    viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: GLASS not in viewer.scene.overlays)
    assert shown(viewer) == {**looks, "late": True, "findings": False}
    assert (viewer.dims.order, viewer.dims.point, camera.zoom, camera.center) == before


def test_findings_stand_in_the_glass_brain(new_panel, show_result, make_brain, qtbot) -> None:
    """Numbered and in their colors; the selected one clear, in its own."""
    model = ViewerModel()
    panel = new_panel(model)
    affine = np.array([[-6.0, 0, 0, 80], [0, 6.0, 0, -95], [0, 0, 6.0, -70], [0, 0, 0, 1]])
    add(model, make_brain(affine, (27, 32, 24)))
    show_result(panel)
    panel.findings.minimum.setValue(0.0)
    panel.findings.threshold.setValue(
        float(np.quantile(panel.outcome.detection.anomaly.data, 0.98))
    )
    table = panel.findings.table
    qtbot.waitUntil(lambda: table.model.rowCount() > 1, timeout=5000)
    panel.views.planes.show_3d()
    overlay = model.scene.overlays[GLASS]

    def numbers() -> set[int]:
        return {body.number for body in overlay.findings}

    def rows() -> set[int]:
        return {table.model.finding(row).id for row in range(table.model.rowCount())}

    qtbot.waitUntil(lambda: numbers() == rows(), timeout=60_000)
    table.step(1)
    chosen = table.review.selected
    assert overlay.selected == chosen
    assert {n for n, color in overlay.colors.items() if color[3] == 1} == {chosen}
    table.reject()
    assert overlay.colors[chosen][3] < 0.5
    # a lower threshold, while it is shown
    panel.findings.threshold.setValue(0.9 * panel.findings.threshold.value())
    qtbot.waitUntil(lambda: numbers() == rows() and not panel.jobs.going, timeout=60_000)
    panel.views.planes.leave_3d()
    assert GLASS not in model.scene.overlays


def test_slices_are_compared_in_2d_only(viewer, views, qtbot) -> None:
    add_results(viewer, add(viewer, brain()))
    looks, comparison = shown(viewer), views.comparison
    for field in (comparison.beside, comparison.swipe, comparison.blink, views.three_planes):
        views.planes.show_3d()
        field.setChecked(True)
        assert viewer.dims.ndisplay == 2
        assert field.isChecked()
        viewer.dims.ndisplay = 3  # as napari's own button does
        assert field.isChecked() == (field is views.three_planes)
        field.setChecked(False)
        views.planes.leave_3d()
        views.three_planes.setChecked(False)
        assert shown(viewer) == looks  # no layer stays hidden
    assert views.canvases.dock is None


def test_beside_takes_the_room_of_three_planes(viewer, views, qtbot) -> None:
    """Both halves have one zoom from the start, and three planes come back with theirs."""
    add_results(viewer, add(viewer, brain()))
    views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
    qtbot.wait(200)
    camera = viewer.scene.camera
    camera.zoom = before = 1.2 * camera.zoom
    for begin in (lambda: None, views.planes.show_3d):
        begin()
        views.comparison.beside.setChecked(True)
        dock = views.canvases.dock
        (canvas,) = dock.canvases
        qtbot.waitUntil(lambda canvas=canvas: len(canvas.model.layers) > 1, timeout=60_000)
        assert canvas.model.scene.camera.zoom == pytest.approx(camera.zoom)
        qtbot.waitUntil(lambda dock=dock: dock.filled, timeout=60_000)
        qtbot.wait(200)
        assert canvas.model.scene.camera.zoom == pytest.approx(camera.zoom)
        assert views.comparison.beside.isChecked()
        views.comparison.beside.setChecked(False)
        assert views.three_planes.isChecked()
        qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
        qtbot.wait(200)
        assert camera.zoom == pytest.approx(before)


# --- three planes ---------------------------------------------------------------------------------


def test_three_planes_are_one(viewer, views, qtbot) -> None:
    scan = add(viewer, brain(), colormap="green")
    _, anomaly, findings = add_results(viewer, scan)
    views.show_plane("Axial")
    camera = viewer.scene.camera
    before = camera.center, camera.zoom
    views.three_planes.setChecked(True)
    canvases = views.canvases.dock.canvases
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
    qtbot.wait(250)
    models = [canvas.model for canvas in canvases]
    assert [model.dims.order for model in models] == [PLANES["Coronal"], PLANES["Sagittal"]]
    assert all(model.layers["scan"].data is scan.data for model in models)  # no voxels are copied

    # one position, whichever canvas moves it
    def assert_all_are_at(*point: float, within: float = 0.0) -> None:
        assert_allclose(viewer.dims.point, point, atol=within)
        for model in (viewer, *models):
            assert model.scene.overlays["addm_crosshair"].position == viewer.dims.point

    viewer.dims.point = CORNER[::-1]
    assert (models[0].dims.point[1], models[1].dims.point[2]) == (CORNER[1], CORNER[0])
    assert_all_are_at(*CORNER[::-1])
    models[0].dims.set_point(1, 10.0)
    assert_all_are_at(42.0, 10.0, -42.0)
    # a click on the block goes there
    viewer.dims.point = CORNER[::-1]
    qtbot.wait(150)
    row, column = green(pixels(canvases[0].qt_viewer)).mean(axis=0).round().astype(int)
    viewer.dims.point = (0.0, CORNER[1], 0.0)
    native = canvases[0].qt_viewer.canvas.native
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, pos=QPoint(int(column), int(row)))
    assert_all_are_at(*CORNER[::-1], within=1.5 * SPACING)

    # one look, and an update in place: nothing red yet, then all
    scan.colormap, scan.contrast_limits, scan.opacity = "blue", (0, 500), 0.5
    findings.visible, anomaly.name = False, "score"
    for model in models:
        copy = model.layers["scan"]
        assert (copy.colormap.name, tuple(copy.contrast_limits)) == ("blue", (0, 500))
        assert copy.opacity == 0.5
        assert not model.layers["findings"].visible
        assert "score" in model.layers
    qtbot.wait(100)
    assert pixels(canvases[1].qt_viewer)[..., 0].mean() < 30
    anomaly.data[:] = 1
    anomaly.refresh()
    qtbot.wait(200)
    for canvas in canvases:
        assert (pixels(canvas.qt_viewer)[..., 0] > 200).mean() > 0.2

    # layers that come, go and move; another plane on the large canvas
    add(viewer, brain(), "second")
    viewer.layers.move(viewer.layers.index("second"), 0)
    for model in models:
        assert [x.name for x in model.layers] == [x.name for x in viewer.layers]
    viewer.layers.remove("second")
    for model in models:
        assert [x.name for x in model.layers] == [x.name for x in viewer.layers]
    views.show_plane("Sagittal")
    assert [model.dims.order for model in models] == [PLANES["Axial"], PLANES["Coronal"]]
    views.show_plane("Axial")

    views.three_planes.setChecked(False)
    qtbot.wait(250)
    assert not get_linked_layers(scan, anomaly, findings)
    assert_allclose(camera.center, before[0])
    assert camera.zoom == pytest.approx(before[1])
    window = views.window()
    assert isinstance(window, QMainWindow)
    corner = Qt.Corner.BottomRightCorner
    assert window.corner(corner) == Qt.DockWidgetArea.BottomDockWidgetArea


def test_a_person_closes_the_planes(viewer, views, qtbot) -> None:
    """With the dock's own cross, which takes the widget out of the dock."""
    scan = add(viewer, brain())
    views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
    dock = views.canvases.dock.parentWidget()
    dock.destroyOnClose()
    qtbot.waitUntil(lambda: not views.three_planes.isChecked(), timeout=5000)
    assert not get_linked_layers(scan)
    assert "addm_crosshair" not in viewer.scene.overlays
    views.three_planes.setChecked(True)
    assert views.canvases.dock is not None
    views.three_planes.setChecked(False)


# --- scan and reconstruction ----------------------------------------------------------------------


def test_beside(viewer, views, qtbot) -> None:
    scan = add(viewer, brain())
    assert not views.comparison.beside.isEnabled()  # nothing to compare yet
    rec, _, findings = add_results(viewer, scan)
    views.show_plane("Axial")
    looks = shown(viewer)
    views.comparison.beside.setChecked(True)
    (canvas,) = views.canvases.dock.canvases
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
    qtbot.wait(250)
    # outlines only: the map would hide what is compared
    assert shown(viewer) == {**looks, "map": False}
    assert shown(canvas.model) == {**looks, "map": False, "scan": False, "rec": True}
    assert len(green(pixels(canvas.qt_viewer))) > 1000
    # in line with each other, on the longer side of the room
    ours, theirs = canvas_of(views), canvas.qt_viewer.canvas.native
    corner = [each.mapToGlobal(QPoint(0, 0)) for each in (ours, theirs)]
    wide = corner[1].x() > corner[0].x()
    middles = [
        (at.y() + each.height() / 2, at.x() + each.width() / 2)[not wide]
        for at, each in zip(corner, (ours, theirs), strict=True)
    ]
    assert middles[0] == pytest.approx(middles[1], abs=3)
    # the zoom and the place are the same, both ways
    viewer.scene.camera.zoom = 2.5
    assert canvas.model.scene.camera.zoom == pytest.approx(2.5)
    canvas.model.scene.camera.center = (0, 10, 12)
    assert_allclose(viewer.scene.camera.center[-2:], (10, 12))
    # a slice that a run writes into the hidden reconstruction is seen when its map is refreshed
    viewer.reset_view()
    rec.data[:] = 0
    findings.refresh()
    qtbot.wait(200)
    assert len(green(pixels(canvas.qt_viewer))) == 0
    # one at a time
    views.three_planes.setChecked(True)
    assert not views.comparison.beside.isChecked()
    assert len(views.canvases.dock.canvases) == 2
    views.three_planes.setChecked(False)
    assert shown(viewer) == looks
    qtbot.wait(100)  # canvases go with the next passes of the event loop


def test_any_image_may_be_compared(viewer, views, qtbot) -> None:
    """Of another grid, and above the outlines in the list; also before there is a result."""
    scan = add(viewer, brain())
    scan.colormap = "blue"
    scan.contrast_limits = (0, 60)
    data = np.full((18, 40, 12), 255, np.float32)  # S, A, R: coarser, the same room
    scale = np.array(scan.scale) * scan.data.shape / data.shape
    shift = (scale - np.array(scan.scale)) / 2
    flair = Image(
        data,
        name="FLAIR",
        scale=scale,
        translate=np.array(scan.translate) + shift,
        units=scan.units,
        axis_labels=scan.axis_labels,
        metadata=scan.metadata,
        contrast_limits=(0, 255),
        colormap="green",
        visible=False,
    )
    elsewhere = Image(np.ones((4, 5, 6)), name="elsewhere", translate=(500, 0, 0))
    _, _, findings = add_results(viewer, scan)
    for layer in (flair, elsewhere):
        viewer.add_layer(layer)
    viewer.layers.selection.active = scan
    comparison = views.comparison
    qtbot.waitUntil(lambda: comparison.other.findText("FLAIR") > 0)
    assert comparison.other.findText("elsewhere") < 0
    comparison.other.choose(flair)
    views.show_plane("Axial")
    looks, names = shown(viewer), [layer.name for layer in viewer.layers]

    comparison.swipe.setChecked(True)
    comparison.border.setValue(30)
    qtbot.wait(60)
    picture = viewer.screenshot(flash=False)[..., :3].astype(int)
    blue = (picture[..., 2] > 200) & (picture[..., 1] < 60)
    assert blue.sum() / (blue.sum() + len(green(picture))) == pytest.approx(0.3, abs=0.06)
    comparison.blink.setChecked(True)
    assert not comparison.swipe.isChecked()
    layers = viewer.layers
    assert layers.index(flair) < layers.index(findings)
    assert shown(viewer) == {**looks, "FLAIR": True, "scan": False, "map": False}
    comparison.beside.setChecked(True)
    assert shown(viewer) == {**looks, "map": False}
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
    copies = views.canvases.dock.canvases[0].model.layers
    assert shown_in(copies) == {**looks, "FLAIR": True, "scan": False, "map": False}
    assert copies.index("FLAIR") < copies.index("findings")
    viewer.layers.remove("FLAIR")
    assert not comparison.beside.isChecked()
    assert comparison.other.layer_id is None
    del looks["FLAIR"]
    assert shown(viewer) == looks
    assert [layer.name for layer in viewer.layers] == [n for n in names if n != "FLAIR"]


def test_blink_leaves_visibility_as_it_was(viewer, views, qtbot) -> None:
    scan = add(viewer, brain())
    assert not views.comparison.blink.isEnabled()
    rec, _, _ = add_results(viewer, scan)
    assert views.comparison.blink.isEnabled()
    before = shown(viewer)
    seen = set()
    rec.events.visible.connect(lambda event: seen.add((rec.visible, scan.visible)))
    views.comparison.blink.setChecked(True)
    assert (rec.visible, scan.visible) == (True, False)
    qtbot.waitUntil(lambda: len(seen) >= 2, timeout=5000)
    views.comparison.blink.setChecked(False)
    assert shown(viewer) == before
    qtbot.wait(100)
    assert shown(viewer) == before  # no late turn
    # a layer that goes while it blinks
    views.comparison.blink.setChecked(True)
    viewer.layers.remove("rec")
    assert scan.visible
    assert not views.comparison.blink.isChecked()
    assert not views.comparison.blink.isEnabled()
    assert blink.TITLE not in viewer.canvas.overlays


def test_swipe_has_the_scan_on_the_left(viewer, views, qtbot) -> None:
    volume = brain()
    scan = add(viewer, volume, colormap="blue")
    scan.contrast_limits = (0, 60)
    rec, anomaly, _ = add_results(viewer, scan)
    names = [layer.name for layer in viewer.layers]
    looks = shown(viewer)
    for plane in PLANES:
        views.show_plane(plane)
        views.comparison.border.setValue(30)
        views.comparison.swipe.setChecked(True)
        qtbot.wait(60)
        picture = viewer.screenshot(flash=False)[..., :3].astype(int)
        blue = np.argwhere((picture[..., 2] > 200) & (picture[..., 1] < 60))
        right, left = green(picture)[:, 1], blue[:, 1]
        assert np.percentile(left, 98) <= np.percentile(right, 2), plane
        assert len(left) / (len(left) + len(right)) == pytest.approx(0.3, abs=0.06), plane
        views.comparison.border.setValue(0)
        qtbot.wait(60)
        assert len(green(viewer.screenshot(flash=False)[..., :3].astype(int))) > 1.2 * len(right)
        views.comparison.border.setValue(100)
        assert not viewer.layers["scan swipe"].visible
        views.comparison.swipe.setChecked(False)
        assert [layer.name for layer in viewer.layers] == names
        assert shown(viewer) == looks
    # an update in place, and the end of the reconstruction
    views.comparison.border.setValue(50)
    views.comparison.swipe.setChecked(True)
    rec.data[:] = 0
    anomaly.refresh()
    qtbot.wait(60)
    assert len(green(viewer.screenshot(flash=False)[..., :3].astype(int))) == 0
    viewer.layers.remove("rec")
    assert not views.comparison.swipe.isChecked()
    assert "scan swipe" not in viewer.layers


def test_the_bar_says_what_it_shows(qtbot) -> None:
    model = ViewerModel()
    alone = Views(model, start_job)
    qtbot.addWidget(alone)
    scan = add(model, brain())
    _, anomaly, _ = add_results(model, scan)
    qtbot.waitUntil(lambda: anomaly.colorbar.visible)
    label = model.canvas.overlays["addm_bar_label"]
    assert label.text == "anomaly score"
    alone.color_bar.set_threshold(0.4321)
    qtbot.waitUntil(lambda: label.text == "anomaly score\nthreshold 0.432")
    alone.toggle_maps()
    assert not label.visible
    anomaly.visible = True
    assert label.visible
    alone.bar_check.setChecked(False)
    assert not anomaly.colorbar.visible
    assert "addm_bar_label" not in model.canvas.overlays


def test_the_bar_is_of_the_brightness_while_that_is_on_screen(qtbot) -> None:
    model = ViewerModel()
    alone = Views(model, start_job)
    qtbot.addWidget(alone)
    scan = add(model, brain())
    _, anomaly, _ = add_results(model, scan)
    bright = Image(np.zeros(scan.data.shape, np.float32), contrast_limits=(-1, 1), visible=False)
    remember_output(bright, scan.unique_id, "brightness", scan)
    model.add_layer(bright)
    alone.color_bar.set_threshold(0.5)
    qtbot.waitUntil(lambda: anomaly.colorbar.visible)
    bright.visible = True
    qtbot.waitUntil(lambda: (anomaly.colorbar.visible, bright.colorbar.visible) == (False, True))
    label = model.canvas.overlays["addm_bar_label"]
    qtbot.waitUntil(lambda: label.text == "+ brighter\n− darker\nthreshold ±0.5")
    alone.toggle_maps()
    assert [each.visible for each in (anomaly, bright, label)] == [False, False, False]
    qtbot.waitUntil(lambda: label.text.startswith("anomaly score"))
    alone.toggle_maps()
    assert [each.visible for each in (anomaly, bright, label)] == [True, True, True]
    bright.visible = False
    qtbot.waitUntil(lambda: (anomaly.colorbar.visible, bright.colorbar.visible) == (True, False))


# --- keys -----------------------------------------------------------------------------------------


def key_of(action: str) -> tuple[Qt.Key, Qt.KeyboardModifier]:
    """Key and modifiers, as QTest takes them."""
    (name,) = (each.key for each in texts.SHORTCUTS if each.action == action)
    pressed = QKeySequence(name.replace("-", "+"))[0]
    return pressed.key(), pressed.keyboardModifiers()


def canvas_of(section) -> QWidget:
    """The widget of the viewer's own canvas."""
    inside = section.window().centralWidget().findChildren(QWidget)
    return next(each for each in inside if type(each).__name__.startswith("CanvasBackend"))


def test_no_key_is_napari_s_own(viewer) -> None:
    """But for undo and redo, which belong to a labels layer that is painted on."""
    viewer.add_image(np.zeros((2, 2)))
    viewer.add_labels(np.zeros((2, 2), int))
    ours = {coerce_keybinding(each.key): each.action for each in texts.SHORTCUTS}
    assert len(ours) == len(texts.SHORTCUTS)
    taken = set()
    for layer in viewer.layers:
        handler = KeymapHandler()
        handler.keymap_providers = [unwrapped(layer), unwrapped(viewer)]
        taken |= set(handler.active_keymap) & set(ours)
    assert {ours[key] for key in taken} == {"undo", "redo"}


def test_keys_do_what_the_list_says(viewer, views, qtbot) -> None:
    """Pressed on the canvas, one by one."""
    scan = add(viewer, brain())
    rec, anomaly, findings = add_results(viewer, scan)
    canvas = canvas_of(views)

    def press(action: str, how=QTest.keyClick) -> None:
        how(canvas, *key_of(action))
        qtbot.wait(20)

    def results() -> tuple[bool, ...]:
        return scan.visible, rec.visible, anomaly.visible, findings.visible

    views.show_plane("Axial")
    press("next plane")
    assert tuple(viewer.dims.order) == PLANES["Coronal"]
    for ndisplay in (3, 2):
        press("3d")
        assert viewer.dims.ndisplay == ndisplay
    press("hold", QTest.keyPress)
    assert results() == (False, True, False, True)
    press("hold", QTest.keyRelease)
    assert results() == (True, False, True, True)
    press("hold", QTest.keyPress)
    QApplication.sendEvent(views.window(), QEvent(QEvent.Type.WindowDeactivate))
    assert results() == (True, False, True, True)  # the release goes to another window
    for on in (True, False):
        press("blink")
        assert views.comparison.blink.isChecked() == on
        assert not views.comparison.swipe.isChecked()
    for on in (True, False):
        press("swipe")
        assert ("scan swipe" in viewer.layers) == on
    for seen in (False, True):
        press("maps")
        assert results() == (True, False, seen, seen)
    press("maps")
    press("swipe")
    press("maps")  # the map would hide what is compared, and comes back after it
    assert results() == (True, False, False, True)
    press("swipe")
    assert results() == (True, False, True, True)
    press("next finding")  # without a panel nothing happens
    press("three planes")
    assert views.three_planes.isChecked()
    press("beside")
    assert views.comparison.beside.isChecked()
    press("beside")
    assert views.three_planes.isChecked()  # as before
    press("three planes")
    assert views.canvases.dock is None


def test_keys_work_wherever_the_focus_is(viewer, new_panel, show_result, qtbot) -> None:
    """In the table, on the canvas and in a number; not in a text field, menu or other window."""
    add(viewer, brain())
    panel = new_panel(viewer)
    show_result(panel)
    table, canvas = panel.findings.table, canvas_of(panel.views)
    shown = panel.outcome.layers.layer("labels")
    layer_list = panel.window().findChild(QDockWidget, "layer list").findChild(QListView)
    for focus in (
        table.view,
        canvas,
        panel.findings.minimum,
        layer_list,
        panel.views.comparison.blink,
    ):
        for seen in (False, True):
            qtbot.keyClick(focus, *key_of("maps"))
            assert shown.visible == seen, focus
    for focus, verdict in ((canvas, "accepted"), (table.view, "rejected")):
        qtbot.keyClick(focus, *key_of("next finding"))
        qtbot.keyClick(focus, *key_of("accept" if verdict == "accepted" else "reject"))
        assert table.review.decision_on(table.review.selected).verdict == verdict
    for focus in (canvas, table.view):
        qtbot.keyClick(focus, *key_of("undo"))
    assert table.review.decisions == {}
    qtbot.keyClick(canvas, *key_of("redo"))
    decided = dict(table.review.decisions)
    assert decided
    qtbot.keyClicks(table.note, "Jar")
    assert table.note.text() == "Jar"
    assert shown.visible
    other = QWidget()
    qtbot.addWidget(other)
    qtbot.keyClick(other, *key_of("maps"))
    assert shown.visible
    viewer.window.remove_dock_widget(panel)


def test_a_key_stays_with_its_owner(viewer, views, qtbot) -> None:
    """With the plugin that binds it, before or after our panel is there, and when it is gone."""
    scan = add(viewer, brain())
    _, anomaly, _ = add_results(viewer, scan)
    canvas, told = canvas_of(views), []
    viewer.bind_key("J", lambda viewer: told.append("viewer"))  # raises if it is taken
    qtbot.keyClick(canvas, *key_of("maps"))
    assert (told, anomaly.visible) == (["viewer"], True)
    qtbot.keyClick(views.comparison.blink, *key_of("maps"))  # in our panel it is ours
    assert (told, anomaly.visible) == (["viewer"], False)
    scan.bind_key("Q", lambda layer: told.append("layer"))
    viewer.layers.selection.active = scan
    order = viewer.dims.order
    qtbot.keyClick(canvas, *key_of("next plane"))
    assert told.pop() == "layer"
    assert viewer.dims.order == order
    action = QAction("theirs", views.window())
    action.setShortcut(QKeySequence("U"))
    action.triggered.connect(lambda: told.append("window"))
    views.window().addAction(action)
    views.window().activateWindow()
    qtbot.waitUntil(views.window().isActiveWindow)
    qtbot.keyClick(canvas, *key_of("three planes"))
    assert told.pop() == "window"
    assert not views.three_planes.isChecked()
    views.window().removeAction(action)
    assert len(viewer.keymap) == 1
    viewer.bind_key("J", None)


# --- the end --------------------------------------------------------------------------------------


def test_closing_the_section_gives_the_layers_back(viewer, qtbot) -> None:
    """The rest of the viewer is compared after each test."""
    scan = add(viewer, brain())
    rec, anomaly, _ = add_results(viewer, scan)
    before = shown(viewer)
    section = Views(viewer, start_job)
    dock = viewer.window.add_dock_widget(section, name="views")
    qtbot.waitUntil(lambda: anomaly.colorbar.visible)
    section.three_planes.setChecked(True)
    section.comparison.blink.setChecked(True)
    viewer.window.remove_dock_widget(dock)
    section.deleteLater()
    del section
    qtbot.waitUntil(lambda: shown(viewer) == before)
    qtbot.wait(400)
    assert shown(viewer) == before
    assert not anomaly.colorbar.visible
    assert not get_linked_layers(scan, rec, anomaly)


def test_a_panel_that_goes_late_leaves_the_letters_of_the_next(qtbot) -> None:
    model = ViewerModel()
    first, second = Views(model, start_job), Views(model, start_job)
    qtbot.addWidget(second)
    add(model, brain())
    with qtbot.waitSignal(first.destroyed):
        first.deleteLater()
    model.layers.clear()
    add(model, brain())
    second.show_plane("Axial")
    assert model.canvas.overlays[LETTER + "top_center"].text == "A"


# --- figures --------------------------------------------------------------------------------------


def test_a_figure_of_a_run(
    tmp_path: Path, new_panel, show_result, make_brain, qtbot, monkeypatch
) -> None:
    """Through the whole panel: a figure of the slice that is shown, and a montage."""
    model = ViewerModel()
    panel = new_panel(model)
    views = panel.views
    views.figure.export(tmp_path / "early.png")
    assert views.figure.note.text() == texts.NO_FIGURE
    affine = np.array([[-6.0, 0, 0, 80], [0, 6.0, 0, -95], [0, 0, 6.0, -70], [0, 0, 0, 1]])
    add(model, make_brain(affine, (27, 32, 24)), "Doe John")
    show_result(panel)
    overlays = model.canvas.overlays
    qtbot.waitUntil(lambda: "addm_bar_label" in overlays)  # it comes after the layers
    qtbot.waitUntil(lambda: overlays["addm_bar_label"].text.endswith("threshold 0.01"))

    # next and previous finding: selected in the table, so that a decision is on the one in sight
    table = panel.findings.table
    panel.findings.minimum.setValue(0.0)
    panel.findings.threshold.setValue(
        float(np.quantile(panel.outcome.detection.anomaly.data, 0.98))
    )
    qtbot.waitUntil(lambda: table.model.rowCount() > 1, timeout=5000)
    rows = [table.model.finding(row).id for row in range(table.model.rowCount())]
    plain, shift = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier
    for modifier, id in ((plain, rows[0]), (plain, rows[1]), (shift, rows[0]), (shift, rows[-1])):
        model.dims.point = (0.0, 0.0, 0.0)
        qtbot.keyClick(panel, Qt.Key.Key_N, modifier)
        assert table.review.selected == id
        layer = panel.outcome.layers.layer("labels")
        at = tuple(round(float(n)) for n in layer.world_to_data(model.dims.point))
        assert layer.data[at] == id

    views.show_plane("Coronal")
    model.dims.point = (0.0, -20.0, 0.0)
    sizes = []
    for choice in range(2):
        views.figure.scope.setCurrentIndex(choice)
        path = tmp_path / f"{choice}.png"
        views.figure.export(path)
        qtbot.waitUntil(
            lambda saved=f"Saved as {choice}.png": views.figure.note.text() == saved, timeout=60_000
        )
        with Picture.open(path) as picture:
            sizes.append(picture.size)
            assert "Doe" not in str(picture.info)
        views.figure.note.setText("")
    assert sizes[1][0] > sizes[0][0]
    plane, index = views.figure.slice_shown(panel.outcome)
    assert plane == "Coronal"
    assert index == round((-20 + 95) / 6)
    # what is there is replaced only if the person agrees, whatever is put after the name
    taken = tmp_path / "patient.v2.png"
    taken.write_bytes(b"mine")
    (tmp_path / "patient.png").write_bytes(b"other")
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "patient.v2"), "")
    )
    asked: list[str] = []

    def no(parent, title, words):
        asked.append(words)
        return QMessageBox.StandardButton.No

    monkeypatch.setattr(QMessageBox, "question", no)
    views.figure.button.click()
    assert taken.read_bytes() == b"mine"
    assert len(asked) == 1
    assert "patient.v2.png" in asked[0]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    views.figure.button.click()
    qtbot.waitUntil(lambda: views.figure.note.text() == "Saved as patient.v2.png", timeout=60_000)
    assert taken.stat().st_size > 1000
    assert (tmp_path / "patient.png").read_bytes() == b"other"
    taken.unlink()
    (tmp_path / "patient.png").unlink()
    # a folder that is not there: said in the panel, and no half file
    views.figure.export(tmp_path / "not" / "there.png")
    qtbot.waitUntil(lambda: panel.notices.error.text() != "", timeout=60_000)
    assert "there.png" in panel.notices.error.text()
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["0.png", "1.png"]
