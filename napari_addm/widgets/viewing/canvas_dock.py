"""A dock with further canvases, below or beside the viewer's own."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDockWidget, QHBoxLayout, QMainWindow, QWidget

from napari_addm.widgets.forms import Panel, in_turns
from napari_addm.widgets.viewing.chosen_scan import fit_in_view
from napari_addm.widgets.viewing.connections import Connections
from napari_addm.widgets.viewing.linked_canvas import LinkedCanvas

if TYPE_CHECKING:
    import napari

# A new dock has its size after this time.
SETTLE_MS = 100
SLIDER = 26  # px, below each canvas
QWIDGETSIZE_MAX = 2**24 - 1  # Qt's; its bindings have no name for it


class CanvasDock(Panel):
    """Further canvases in a dock.

    Closing it, or `release`, gives the viewer back as it was: its layers
    unlinked, its camera and its corners where they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        With a window.
    canvases : list of LinkedCanvas
    name : str
        Title of the dock.
    area : {"bottom", "right"}
    beside : QDockWidget, optional
        On the right, the dock that keeps its place at the window's edge.
    fit : callable, optional
        Fits the picture once the dock has its size; by default the whole scan in view.
    half : bool
        Whether it is a half of the picture: as large as the other, and without a title bar.

    Attributes
    ----------
    closed : Signal()
        It was released, by a person or in code.
    left : Signal()
        A person has closed it.
    canvases : list of LinkedCanvas
        They are filled one by one.
    filled : bool
        Whether all of them are.
    """

    closed = Signal()
    left = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        canvases: list[LinkedCanvas],
        name: str,
        area: str,
        beside: QDockWidget | None = None,
        fit: Callable[[], object] | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._fit = fit or partial(fit_in_view, viewer)
        self.canvases = canvases
        self.filled = False
        self._released = False
        camera, dims = viewer.scene.camera, viewer.dims
        self._before = dims.ndisplay, dims.order, camera.center, camera.zoom
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for canvas in canvases:
            layout.addWidget(canvas, 1)  # of the same width while one is not filled yet
        height, width = viewer.canvas.size
        # Qt gives a new dock its minimum size, and lets it keep that when it may be smaller.
        if area == "bottom":
            self.setFixedHeight((height + SLIDER) // 2 if half else int(0.45 * height))
        else:
            self.setFixedWidth(width // 2)
        viewer.window.add_dock_widget(self, name=name, area=area, add_vertical_stretch=False)
        self._corners: dict[Qt.Corner, Qt.DockWidgetArea] = {}
        self._beside: QDockWidget | None = None
        dock, window = self.parentWidget(), self.window()
        assert isinstance(dock, QDockWidget)
        assert isinstance(window, QMainWindow)
        if half:
            dock.setTitleBarWidget(QWidget())  # napari's would move one half out of line
        # Weak: PyQt6 deletes what is left at Python's end in any order. A child that keeps its
        # window alive would then use a window that is gone.
        self._main = weakref.ref(window)
        if area == "bottom":
            self._keep_side_docks_high(window)
        elif (
            beside is not None
            and not beside.isFloating()
            and window.dockWidgetArea(beside) == Qt.DockWidgetArea.RightDockWidgetArea
        ):
            self._beside, self._width_before = beside, beside.width()
            beside.setMinimumWidth(self._width_before)
            tabs = window.tabifiedDockWidgets(beside)
            window.splitDockWidget(dock, beside, Qt.Orientation.Horizontal)
            for tab in tabs:  # Qt has moved one of them only
                window.tabifyDockWidget(beside, tab)
            beside.raise_()
        # The canvas gets its size some turns later, on a busy machine after a second.
        self._resized = Connections()
        self._resized.add(viewer.canvas.events.size, self._refit)
        QTimer.singleShot(SETTLE_MS, self._refit)
        in_turns(self, self._fill())

    def _fill(self) -> Iterator[None]:
        for _ in chain.from_iterable(canvas.fill() for canvas in self.canvases):
            yield
            if self._released:
                return
        self.filled = True
        # A canvas wants more room than it is to have: only now may the size be another one.
        QTimer.singleShot(SETTLE_MS, self._settle)

    def _refit(self, event: object = None) -> None:
        if not self._released:
            self._fit()

    def _keep_side_docks_high(self, window: QMainWindow) -> None:
        """Let the docks on the left and on the right keep their height."""
        for corner, side in (
            (Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea),
            (Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea),
        ):
            self._corners[corner] = window.corner(corner)
            window.setCorner(corner, side)

    def _settle(self) -> None:
        """Let the size be changed from now on."""
        if self._released:
            return
        self._resized.close()
        self.setMinimumSize(0, 0)
        self.setMaximumSize(QWIDGETSIZE_MAX, QWIDGETSIZE_MAX)

    def release(self) -> None:
        """Close the canvases and the dock."""
        if self._released:
            return
        self._released = True
        self._resized.close()
        for canvas in self.canvases:
            canvas.release()
        # Qt's side may be gone already, with the window
        with contextlib.suppress(RuntimeError, LookupError, AttributeError):
            self._give_back_window()
            self._give_back_camera()
            self.closed.emit()
            self.deleteLater()

    def _give_back_window(self) -> None:
        window = self._main()
        if window is not None:
            for corner, area in self._corners.items():
                window.setCorner(corner, area)
        if self.parentWidget() is not None:
            self._viewer.window.remove_dock_widget(self)
        if self._beside is not None:
            # else it would take the room that becomes free
            self._beside.setMinimumWidth(0)
            make_narrow(self._beside, self._width_before)
        layout = None if window is None else window.layout()
        if layout is not None:
            layout.activate()  # what follows fits its picture to the canvas as it is then

    def _give_back_camera(self) -> None:
        ndisplay, order, center, zoom = self._before
        dims, camera = self._viewer.dims, self._viewer.scene.camera
        if dims.ndisplay != ndisplay:
            return  # the picture stays as it is now
        if dims.order == order:
            camera.center, camera.zoom = center, zoom
        else:
            fit_in_view(self._viewer)

    def leave(self) -> None:
        """A person has closed the dock."""
        if not self._released:
            self.left.emit()
        self.release()


def make_narrow(dock: QDockWidget, width: int) -> None:
    """Give a dock a width at most, px, which a person may change from then on."""
    dock.setMaximumWidth(max(width, dock.minimumSizeHint().width()))
    QTimer.singleShot(SETTLE_MS, partial(_widen_again, dock))


def _widen_again(dock: QDockWidget) -> None:
    with contextlib.suppress(RuntimeError):  # the window may be gone
        dock.setMaximumWidth(QWIDGETSIZE_MAX)


def dock_of(widget: QWidget) -> QDockWidget | None:
    """Find the dock that holds a widget."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
