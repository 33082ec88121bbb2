"""Section 'View': planes, scan against reconstruction, color bar, figures and keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from psygnal import EmitLoopError
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.color_bar import ColorBar, MapToggle
from napari_addm.widgets.detect_panel.comparing import Comparison, FurtherCanvases
from napari_addm.widgets.detect_panel.figure_export import FigureExport
from napari_addm.widgets.detect_panel.layout import Layout
from napari_addm.widgets.detect_panel.messages import AlarmBanner
from napari_addm.widgets.detect_panel.plane_view import PlaneView
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.detect_panel.window_buttons import WindowButtons
from napari_addm.widgets.forms import Section, button, column, single_shot, toggle, when_gone
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.tones import SMALL
from napari_addm.widgets.viewing.canvas_dock import CanvasDock, dock_of
from napari_addm.widgets.viewing.canvas_mouse import CanvasMouse
from napari_addm.widgets.viewing.canvas_tools import EdgeLetters
from napari_addm.widgets.viewing.chosen_scan import fit_in_view, scan_in_view
from napari_addm.widgets.viewing.connections import Connections
from napari_addm.widgets.viewing.glass import GlassBrain
from napari_addm.widgets.viewing.look import CanvasLook, SmoothPictures
from napari_addm.widgets.viewing.marks import Marks
from napari_addm.widgets.viewing.planes import PLANES
from napari_addm.widgets.viewing.shortcuts import Action, Shortcuts

if TYPE_CHECKING:
    import napari


class Views(QWidget):
    """How a viewer shows its layers.

    Closing the panel gives the viewer back: further canvases, keys, letters
    and color bar are gone, and layers as visible as they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Without a window it has no further canvases.
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    failed : Signal(object)
        An exception, for the panel to show.
    planes : PlaneView
    mouse : CanvasMouse
    comparison : Comparison
    canvases : FurtherCanvases
    layout_kept : Layout
    color_bar : ColorBar
    alarm : AlarmBanner
    figure : FigureExport
    on_keys : dict of str to callable
        What the keys do, by the actions of `texts.SHORTCUTS`; the panel adds those of its findings.
    may_act : callable
        Whether an action has something to act on; the panel sets it.
    curtains : list of Curtain
        What hides layers for a while; the panel adds that of its earlier scan.
    toggle_maps : callable
        Hides maps and outlines, or shows them again.
    """

    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._window = hasattr(viewer, "window")
        # Three planes come back after Beside and after 3D, with the camera as it was.
        self._planes_again: Callable[[], object] | None = None
        self._planes_after_3d = False
        self._scan_in_3d: Image | None = None
        self._fit_planes: Callable[[], object] | None = None
        self.glass = GlassBrain(viewer, start, self)
        self.planes = PlaneView(viewer, self.glass)
        self.figure = FigureExport(viewer, start)
        self.figure.failed.connect(self.failed)
        self.color_bar = ColorBar(viewer, self)
        self.alarm = AlarmBanner(viewer)
        self._letters = EdgeLetters(viewer)
        self.mouse = CanvasMouse(viewer)
        self._look = CanvasLook(viewer)
        self._smooth = SmoothPictures(viewer)
        self.marks = Marks(viewer, self)
        self.comparison = Comparison(viewer, self.planes.leave_3d)
        self.comparison.beside_wanted.connect(self._on_beside)
        self.curtains = [self.comparison.curtain, self.glass.curtain]
        self.toggle_maps = MapToggle(viewer, self.curtains)
        self._build()
        self.on_keys: dict[str, Action] = self._on_keys()
        self.may_act: Callable[[str], bool] = lambda action: True
        self._keys = Shortcuts(viewer, self, self.on_keys, lambda action: self.may_act(action))
        self.canvases = FurtherCanvases(
            viewer, (self.mouse.attach, self.marks.attach, self.alarm.attach), self.marks
        )
        self.three_planes.setEnabled(self._window)
        self.layout_kept = Layout(viewer, self.three_planes, self.bar_check, self._is_free, self)
        self._connections = Connections()
        dims = viewer.dims.events
        self._connections.add(dims.ndisplay, self._on_ndisplay)
        self._connections.add(dims.order, self._show_state)
        self._returned = single_shot(self, 0, self._on_returned)
        self._show_state()
        when_gone(self, _Farewell(self))

    @property
    def outcome(self) -> Outcome | None:
        """Result of figure and color bar; the panel sets it."""
        return self.figure.outcome

    @outcome.setter
    def outcome(self, outcome: Outcome | None) -> None:
        self.figure.outcome = self.glass.outcome = outcome
        if outcome is None:
            self.color_bar.set_threshold(None)
        self.color_bar.result = None if outcome is None else outcome.layers
        self.color_bar.update_soon()

    def show_marked(self) -> None:
        """Show the threshold, and the diameters of the selected finding."""
        marked = None if self.outcome is None else self.outcome.marked
        self.color_bar.set_threshold(None if marked is None else marked.threshold)
        self.show_diameters()

    def show_diameters(self) -> None:
        """Draw the diameters of the selected finding."""
        outcome = self.outcome
        marked = None if outcome is None else outcome.marked
        diameters = marked.diameters(outcome.findings.selected) if outcome and marked else None
        lines = outcome.layers.lines_of(diameters) if outcome and diameters else ()
        self.marks.diameters.show(*lines)

    # --- layout ----------------------------------------------------------------------------------

    def _build(self) -> None:
        body = column(self)
        self.plane_buttons = {name: self._plane_button(name) for name in PLANES}
        self.plane_buttons[texts.VIEW_3D.label] = button(texts.VIEW_3D, self._on_3d)
        for made in self.plane_buttons.values():
            made.setCheckable(True)
        self.three_planes = toggle(texts.THREE_PLANES, self._on_three_planes)
        self.bar_check = QCheckBox(texts.COLOR_BAR.label)
        self.bar_check.setToolTip(texts.COLOR_BAR.tip)
        self.bar_check.setChecked(True)
        self.bar_check.toggled.connect(self.color_bar.show)
        self.ruler = toggle(texts.RULER, self.marks.ruler.turn)
        rows: tuple[list[QWidget], ...] = (
            list(self.plane_buttons.values()),
            [self.three_planes, self.ruler, self.bar_check],
        )
        for fields in rows:
            line = QHBoxLayout()
            for each in fields:
                line.addWidget(each, 1)
            body.addLayout(line)
        body.addWidget(self.comparison)
        body.addWidget(WindowButtons(self.mouse.window))
        body.addWidget(self.figure)
        body.addWidget(Section(texts.KEYS, _list_keys(), expanded=False, quiet=True))

    def _plane_button(self, name: str) -> QPushButton:
        return button(texts.Text(name, texts.VIEW), partial(self.show_plane, name))

    def _on_keys(self) -> dict[str, Action]:
        return {
            "next plane": self.planes.show_next_plane,
            "3d": self.planes.toggle_3d,
            "three planes": self.three_planes.click,
            "beside": self.comparison.beside.toggle,
            "hold": self.comparison.hold,
            "blink": self.comparison.blink.toggle,
            "swipe": self.comparison.swipe.toggle,
            "ruler": self.ruler.toggle,
            "maps": self.toggle_maps,
            "reset window": self.mouse.window.reset,
        }

    def _show_state(self, event: Any = None) -> None:
        """Check the button of the plane that is shown."""
        for name, made in self.plane_buttons.items():
            is_3d = name == texts.VIEW_3D.label
            made.setChecked(self.planes.in_3d if is_3d else name == self.planes.plane)

    # --- planes ----------------------------------------------------------------------------------

    def show_plane(self, name: str) -> None:
        """Show the axial, coronal or sagittal slice through the current position."""
        self.planes.show_plane(name)
        self._show_state()  # a button that was pressed in vain comes up again

    def _on_3d(self) -> None:
        self.planes.show_3d()
        self._show_state()

    def _on_ndisplay(self, event: Any = None) -> None:
        if self.planes.in_3d:
            self.comparison.stop()
            if self.glass.shown:  # their layers are hidden
                self._planes_after_3d = self.three_planes.isChecked()
                self._scan_in_3d = scan_in_view(self._viewer)
                self.three_planes.setChecked(False)
        else:
            self._returned.start()  # napari's own button: once napari has done its part
        self._show_state()

    def _on_returned(self) -> None:
        """The viewer has left 3D."""
        self.planes.come_back()
        again, self._planes_after_3d = self._planes_after_3d, False
        if again and not self.planes.in_3d:
            same = scan_in_view(self._viewer) is self._scan_in_3d
            self._fit_planes = self._same_camera() if same else None
            self.three_planes.setChecked(True)
        self._scan_in_3d = None

    def _same_camera(self) -> Callable[[], object]:
        """Remember what the canvas shows; calling it shows that again, or all of another scan."""
        camera, scan = self._viewer.scene.camera, scan_in_view(self._viewer)
        kept = {"center": camera.center, "zoom": camera.zoom}

        def show() -> None:
            if scan_in_view(self._viewer) is scan:
                camera.update(kept)
            else:
                fit_in_view(self._viewer)

        return show

    def _on_three_planes(self, on: bool) -> None:
        if not on:
            self.canvases.close()
            return
        if self._viewer.dims.ndim < 3 or not self._window:
            self.three_planes.setChecked(False)
            return
        self.comparison.beside.setChecked(False)
        if self.planes.plane is None:
            self.show_plane("Axial")
        fit, self._fit_planes = self._fit_planes, None
        dock = self.canvases.show_three_planes(dock_of(self), fit)
        dock.left.connect(partial(self.layout_kept.choose, "one"))
        self._close_with(self.three_planes, dock)

    def _is_free(self) -> bool:
        """Whether slices are shown, and no other image beside them or over them."""
        return self.canvases.dock is None and not (self.planes.in_3d or self.comparison.going)

    # --- scan against another image --------------------------------------------------------------

    def stop_comparing(self) -> None:
        """Stop showing the scan and another image in turn, side by side or in halves, or 3D."""
        self.comparison.stop()
        if self.glass.shown:
            self.planes.leave_3d()

    def show_findings(self) -> None:
        """The findings are others, or have other decisions."""
        self.glass.follow()

    def _on_beside(self, on: bool) -> None:
        if not on:
            self.canvases.close()
            again, self._planes_again = self._planes_again, None
            if again is not None and not self.planes.in_3d:
                self._fit_planes = again
                self.three_planes.setChecked(True)
            return
        had = self.three_planes.isChecked() or self._planes_after_3d
        self._planes_again, self._planes_after_3d = self._same_camera() if had else None, False
        self.three_planes.setChecked(False)
        pair, beside = self.comparison.pair, self.comparison.beside
        if pair is None or not self._window:
            beside.setChecked(False)
        else:
            self._close_with(beside, self.canvases.show_beside(pair, dock_of(self)))

    def _close_with(self, button: QPushButton, dock: CanvasDock) -> None:
        """Let a button come up when its dock is closed."""
        dock.closed.connect(partial(_uncheck, button))


class _Farewell:
    """Gives the viewer back when the panel is gone.

    Python's side of the panel may be gone before Qt's: this holds what is to be undone.
    """

    def __init__(self, views: Views) -> None:
        self._undo = (
            views._connections.close,
            views.comparison.end,
            partial(_leave_glass, views.planes, views.glass),
            views.canvases.close,
            views._letters.close,
            views.mouse.close,
            views.marks.close,
            views._smooth.close,
            views._look.close,
            views.color_bar.close,
            views.alarm.close,
        )

    def __call__(self) -> None:
        for undo in self._undo:
            # the viewer may be closing, too; psygnal wraps what a listener raises
            with contextlib.suppress(RuntimeError, EmitLoopError):
                undo()


def _leave_glass(planes: PlaneView, glass: GlassBrain) -> None:
    """Show the slices again; in 3D, nothing would be left but napari's cloud of voxels."""
    if glass.shown:
        planes.leave_3d()
    glass.hide()


def _list_keys() -> QWidget:
    table = QWidget()
    grid = QGridLayout(table)
    grid.setContentsMargins(12, 0, 0, 0)
    grid.setHorizontalSpacing(12)
    grid.setVerticalSpacing(1)
    grid.setColumnStretch(1, 1)
    for row, shortcut in enumerate(texts.SHORTCUTS):
        for at, words in enumerate((shortcut.shown, shortcut.does)):
            label = QLabel(words)
            label.setStyleSheet(SMALL)
            grid.addWidget(label, row, at)
    return table


def _uncheck(toggle: QPushButton) -> None:
    with contextlib.suppress(RuntimeError):  # the panel may be gone
        toggle.setChecked(False)
