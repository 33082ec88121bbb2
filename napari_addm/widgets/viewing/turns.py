"""What a person waits for is on screen before the network goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QWidget

from napari_addm.detection.courtesy import come_first, go_on

if TYPE_CHECKING:
    import napari

UNDRAWN_MS = 20
"""So long after the event loop has come to rest a window that was to be drawn would have been."""

EMPTY_SECONDS = 0.002
"""A turn of the event loop in which there is nothing to do takes less."""

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


class Turns:
    """Work of the GUI's thread in steps, each in a turn of the event loop of its own.

    Whose ever the steps are, there is one a turn, and those of different owners take turns. Between
    two of them what a person has asked for comes first, and what the first has changed is drawn.

    Parameters
    ----------
    owner : QObject or None
        With it the steps end.
    """

    def __init__(self, owner: QObject | None) -> None:
        self._waiting: deque[Iterator[object]] = deque()
        if owner is not None:
            owner.destroyed.connect(self.drop)

    def take(self, work: Iterator[object]) -> None:
        """Go through a generator's steps, after those of earlier ones."""
        self._waiting.append(work)
        _ring().join(self)

    def call(self, then: Callable[[], object]) -> None:
        """Call a function when its turn has come."""
        self.take(call() for call in (then,))

    def finish(self) -> None:
        """Do at once what is left."""
        while self.step():
            pass

    def drop(self, owner: object = None) -> None:
        """Forget what is left."""
        self._waiting.clear()

    def step(self) -> bool:
        """Do the next step, if there is one."""
        while self._waiting:
            work = self._waiting[0]
            for _ in work:
                return True
            if self._waiting and self._waiting[0] is work:  # its last step may have dropped it
                self._waiting.popleft()
        return False


class _Ring(QObject):
    """Lets those who have steps to do take turns."""

    def __init__(self) -> None:
        super().__init__(QCoreApplication.instance())
        self._all: deque[Turns] = deque()
        self._next = later(self, 0, self._turn)
        self._since: float | None = None

    def join(self, turns: Turns) -> None:
        if turns not in self._all:
            self._all.append(turns)
        if not self._next.isActive():
            self._wait()

    def _wait(self) -> None:
        self._since = time.monotonic()
        self._next.start()

    def _turn(self) -> None:
        since, self._since = self._since, None
        if since is not None and time.monotonic() - since > EMPTY_SECONDS:
            # Something was drawn or done in this turn: the next one, for once.
            self._next.start()
            return
        try:
            while self._all:
                turns = self._all[0]
                self._all.rotate(-1)
                if turns.step():
                    break
                self._all.remove(turns)
        finally:
            if self._all:
                self._wait()  # from now on, so that another timer that is due comes before


@cache
def _ring() -> _Ring:
    return _Ring()


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
