"""How the window is laid out: panels as tabs, and planes as a person left them."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_addm.widgets import preferences
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.commands import PANEL, open_panel
from napari_addm.widgets.detect_panel import layout
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.viewing.canvas_dock import dock_of


def test_panels_are_tabs(make_napari_viewer_proxy, qtbot, add, scan) -> None:
    """Each has the full height; the width that the wider one took is given back."""
    viewer = make_napari_viewer_proxy(show=True)
    add(viewer, scan)
    first = DetectWidget(viewer)
    viewer.window.add_dock_widget(first, name="detect")
    window = first.window()
    assert isinstance(window, QMainWindow)
    window.resize(1200, 780)
    qtbot.wait(100)
    ours = dock_of(first)
    width, height = ours.width(), ours.height()
    second = BatchWidget(viewer)
    viewer.window.add_dock_widget(second, name="cohort")
    theirs = dock_of(second)
    qtbot.waitUntil(lambda: window.tabifiedDockWidgets(ours) == [theirs], timeout=5000)
    qtbot.wait(100)
    assert second.isVisible()  # what was opened last is in front
    assert theirs.height() > 0.9 * height
    layer_list = window.findChild(QWidget, "layer list")
    assert layer_list.isVisible()
    viewer.window.remove_dock_widget(second)
    qtbot.waitUntil(lambda: first.isVisible() and abs(ours.width() - width) <= 2, timeout=5000)


def test_a_title_fits_its_dock(make_napari_viewer_proxy, qtbot) -> None:
    """The menu's name is long; the dock shows the panel's, also after it has floated."""
    viewer = make_napari_viewer_proxy(show=True)
    dock = dock_of(open_panel(viewer))
    assert PANEL.startswith("Detect anomalies (")

    def fits() -> bool:
        titles = [label.text() for label in dock.titleBarWidget().findChildren(QLabel)]
        return "Detect anomalies" in titles and dock.windowTitle() == "Detect anomalies"

    qtbot.waitUntil(fits)
    for floating in (True, False):
        dock.setFloating(floating)
        qtbot.wait(50)
        qtbot.waitUntil(fits)
    assert viewer.window.dock_widgets[PANEL] is not None


def test_the_layout_is_as_a_person_wants_it(
    make_napari_viewer_proxy, new_panel, run, add, scan, monkeypatch, qtbot
) -> None:
    """Three planes after the first run where there is room; later as it was chosen."""
    viewer = make_napari_viewer_proxy(show=True)
    panel = new_panel(viewer)
    add(viewer, scan)
    views = panel.views
    run(panel)
    assert not views.three_planes.isChecked()  # the window is small
    monkeypatch.setattr(layout, "ROOM", (100, 100))
    run(panel)
    assert views.three_planes.isChecked()
    assert preferences.read().planes == "automatic"
    qtbot.waitUntil(lambda: views.canvases.dock.filled, timeout=60_000)
    qtbot.mouseClick(views.three_planes, Qt.MouseButton.LeftButton)
    views.bar_check.click()
    run(panel)
    assert not views.three_planes.isChecked()
    kept = preferences.read()
    assert (kept.planes, kept.color_bar) == ("one", False)
    views.three_planes.click()
    assert preferences.read().planes == "three"
    viewer.window.remove_dock_widget(panel)
    qtbot.waitUntil(lambda: len(viewer.window.dock_widgets) == 0, timeout=5000)

    again = new_panel(viewer)
    assert again.views.three_planes.isChecked()
    assert not again.views.bar_check.isChecked()
    viewer.close()
    qtbot.wait(200)
    assert preferences.read().planes == "three"  # to close the window is no choice
