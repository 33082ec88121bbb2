"""What a person waits for is on screen before the network goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QWidget

from napari_addm.courtesy import come_first, go_on

if TYPE_CHECKING:
    import napari

UNDRAWN_MS = 20
"""So long after the event loop has come to rest a window that was to be drawn would have been."""

INPUT = (
    QEvent.Type.Wheel,
    QEvent.Type.KeyPress,
    QEvent.Type.MouseButtonPress,
    QEvent.Type.MouseButtonRelease,
)


def later(parent: QObject | None, ms: int, then: Callable[[], object]) -> QTimer:
    """A timer that calls once, so long after it was started last.

    After 0 ms that is once the event loop has rest, and a window that had to be drawn is drawn.
    ``QTimer.singleShot`` would have its turn before.
    """
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(then)
    return timer


def draw_first() -> None:
    """Let the network pause until what the caller is about to change is drawn; main thread only.

    That is when the next window is drawn which somebody watches; see `PersonFirst`.
    """
    come_first()
    _turn().begin()


class _Turn(QObject):
    """Ends a pause of the network."""

    def __init__(self) -> None:
        super().__init__(QCoreApplication.instance())
        self._late = later(self, UNDRAWN_MS, go_on)
        self._rest = later(self, 0, self._late.start)
        self._drawn = later(self, 0, self.end)

    def begin(self) -> None:
        """Something is about to change."""
        self._drawn.stop()  # what it tells of was drawn before
        self._late.stop()
        self._rest.start()

    def drawing(self) -> None:
        """A window will be drawn in this turn of the event loop."""
        self._drawn.start()

    def end(self) -> None:
        """Nobody waits any more."""
        for timer in (self._drawn, self._late, self._rest):
            timer.stop()
        go_on()


@cache
def _turn() -> _Turn:
    return _Turn()


class _Watch(QObject):
    """Hears what a person does in a window before anybody else does, and when it is drawn.

    A plugin's callback hears of another slice only when napari has cut it out of all layers.
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        window.installEventFilter(self)
        self._watch_input(window)

    def _watch_input(self, window: QWidget) -> None:
        handle = window.windowHandle()  # the system's, which it gets when it is first shown
        if handle is not None:
            handle.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Look, and let it pass."""
        assert event is not None
        kind = event.type()
        if isinstance(watched, QWidget):
            if kind == QEvent.Type.UpdateRequest:
                _turn().drawing()
            elif kind in (QEvent.Type.WinIdChange, QEvent.Type.Show):
                self._watch_input(watched)
        elif kind in INPUT or (
            isinstance(event, QMouseEvent)
            and kind == QEvent.Type.MouseMove
            and event.buttons() != Qt.MouseButton.NoButton
        ):
            draw_first()
        return False


class PersonFirst(QObject):
    """Lets the network pause while a viewer draws what a person asked for.

    That is whatever a key or the mouse asks of its window; and another position or another part of
    the picture, whoever asks for it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    panel : QWidget
        Shown in the viewer's window, docked or floating.
    """

    def __init__(self, viewer: napari.viewer.Viewer, panel: QWidget) -> None:
        super().__init__(panel)
        panel.installEventFilter(self)
        camera = viewer.scene.camera.events
        self._events = (viewer.dims.events.point, camera.center, camera.zoom, camera.angles)
        for event in self._events:
            event.connect(self._come)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Watch the window that the panel is shown in."""
        if event is not None and event.type() == QEvent.Type.Show:
            window = self.parent()
            assert isinstance(window, QWidget)
            while (holder := window.parentWidget()) is not None:  # a floating dock has one, too
                window = holder
            if window.findChild(_Watch, "", Qt.FindChildOption.FindDirectChildrenOnly) is None:
                _Watch(window)  # lives as long as the window
        return False

    def disconnect_viewer(self) -> None:
        """Hear no more of the viewer."""
        for event in self._events:
            event.disconnect(self._come)
        _turn().end()

    def _come(self, event: Any = None) -> None:  # of its own, because two panels may listen
        draw_first()
