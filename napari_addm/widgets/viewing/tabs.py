"""Panels that share the right side of the window as tabs, each in its full height."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_addm.widgets.forms import Panel, single_shot, when_gone
from napari_addm.widgets.viewing.canvas_dock import CanvasDock, dock_of, make_narrow
from napari_addm.widgets.viewing.connections import unwrapped

if TYPE_CHECKING:
    import napari


def share_side(panel: Panel, viewer: napari.viewer.Viewer) -> None:
    """Let a new panel join the docks on its side of a viewer as a tab, once it is docked there.

    When it is closed, they are as wide again as they were.
    """
    docks: list[QDockWidget | None] = []
    if hasattr(viewer, "window"):
        docks = [dock_of(unwrapped(each)) for each in viewer.window.dock_widgets.values()]
    _Joiner(panel, {dock: dock.width() for dock in docks if dock is not None})


class _Joiner(QObject):
    def __init__(self, panel: Panel, widths: Mapping[QDockWidget, int]) -> None:
        super().__init__(panel)
        self._panel, self._widths = panel, widths
        self._soon = single_shot(self, 0, self._join)  # napari first sets the docks' sizes
        panel.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Wait until the panel is shown for the first time."""
        if event is not None and event.type() == QEvent.Type.Show:
            self._panel.removeEventFilter(self)
            self._soon.start()
        return False

    def _join(self) -> None:
        dock = dock_of(self._panel)
        window = None if dock is None else dock.parentWidget()
        if dock is None or not isinstance(window, QMainWindow):
            return
        others = _neighbors(window, dock)
        if not others:
            return
        width = self._widths.get(others[0], others[0].width())
        for other in (*others[1:], dock):
            window.tabifyDockWidget(others[0], other)
        dock.raise_()
        when_gone(self._panel, partial(_narrow_again, others[0], width))


def _neighbors(window: QMainWindow, dock: QDockWidget) -> list[QDockWidget]:
    """List the panels on the right beside a dock; napari's layer list stays in sight."""
    right = Qt.DockWidgetArea.RightDockWidgetArea
    if dock.isFloating() or window.dockWidgetArea(dock) != right:
        return []
    return [
        other
        for other in window.findChildren(QDockWidget)
        if other is not dock
        and not (other.isFloating() or other.isHidden())
        and window.dockWidgetArea(other) == right
        and not _holds_canvas(other)
    ]


def _holds_canvas(dock: QDockWidget) -> bool:
    inner: QWidget | None = dock.widget()
    return isinstance(inner, CanvasDock)


def _narrow_again(dock: QDockWidget, width: int) -> None:
    with contextlib.suppress(RuntimeError):  # the window may be gone, too
        make_narrow(dock, width)
