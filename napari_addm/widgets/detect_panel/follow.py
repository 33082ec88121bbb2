"""Follow slice: the slice on screen is reconstructed while a person scrolls."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_addm.detection.reconstruction import Pace
from napari_addm.errors import AddmError
from napari_addm.io.text import format_duration
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted, run_steps
from napari_addm.widgets.forms import column, message, say, single_shot
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.viewing.connections import Connections

if TYPE_CHECKING:
    import napari
    from qtpy.QtGui import QHideEvent, QShowEvent

REST_MS = 80
"""A slice has to stay on screen for so long: slices that a person scrolls past are not begun."""

REACH_MM = 16.0
"""So far on either side the neighbors are reconstructed, with which the slice is scored again."""


class FollowSlice(QWidget):
    """Reconstruct the visible slice in the background: the newest wins, stale ones are dropped.

    There is one job at a time. It first shows the slice itself. Then it works outward over the
    neighbors that the score needs, until the person looks elsewhere. The session keeps all that
    is reconstructed, for the next preview and for the run.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.
    ask : callable
        Gives the `RunRequest` for the slice at `position`, or None when there is nothing to do.

    Attributes
    ----------
    shown : Signal(RunRequest, RunStarted, ResultReady)
        A preview has a result.
    failed : Signal(object)
        A preview ended in a bug. Errors that a person can correct are shown beside the box.
    box : QCheckBox
        Turns it on and off.
    point : tuple of float
        Where the viewer's sliders stand, in world coordinates; may be read from any thread.
    position : tuple of float
        What is previewed: the same, but under the cursor if the S axis is on screen.
    words : QLabel
        Time per slice and for the volume, or why nothing is shown.
    """

    shown = Signal(object, object, object)
    failed = Signal(object)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        start: Callable[..., Job],
        ask: Callable[[], RunRequest | None],
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self._ask = ask
        self._job: Job | None = None
        self._request: RunRequest | None = None  # the one that the job works on
        self._started: RunStarted | None = None
        self._wanted: Hashable = None  # identifies the newest request
        self._held = False
        self.point: tuple[float, ...] = ()
        self.position: tuple[float, ...] = ()
        self._rest = single_shot(self, REST_MS, self._preview)
        self.box = QCheckBox(texts.FOLLOW.label)
        self.box.setToolTip(texts.FOLLOW.tip)
        self.box.toggled.connect(self._on_toggled)
        self.words = message()
        body = column(self)
        body.setSpacing(2)
        body.addWidget(self.box)
        body.addWidget(self.words)
        self._connections = Connections()
        dims = viewer.dims.events
        for event in (dims.point, dims.order, dims.ndisplay):
            self._connections.add(event, self.look)
        self._connections.add(viewer.cursor.events.position, self._on_cursor)
        self._connections.close_with(self)
        self.update_point()

    # --- where the person looks ------------------------------------------------------------------

    @property
    def axial(self) -> bool:
        """Whether the slices on screen are axial ones of our layers."""
        dims = self._viewer.dims
        return dims.ndisplay == 2 and dims.ndim >= 3 and dims.order[-3] == dims.ndim - 3

    def update_point(self) -> None:
        """Read the viewer's position, in the GUI's thread."""
        dims = self._viewer.dims
        self.point = tuple(dims.point)
        point = list(dims.point)
        if dims.ndisplay == 2 and dims.ndim >= 3 and not self.axial:
            # the S axis is on screen, so the slider does not give the axial slice
            cursor = self._viewer.cursor.position
            if len(cursor) == len(point):
                point[-3] = cursor[-3]
        self.position = tuple(point)

    def _on_cursor(self, event: Any = None) -> None:
        if not self.axial:
            self.look()

    # --- on and off ------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether previews are wanted and possible now."""
        return self.box.isChecked() and not self._held and self.isVisible()

    @property
    def working(self) -> bool:
        """Whether a preview goes on, or is about to."""
        return self._job is not None or self._rest.isActive()

    def hold(self, held: bool) -> None:
        """Wait while a run goes on."""
        if held == self._held:
            return
        self._held = held
        self.box.setEnabled(not held)
        if held:
            self._drop()
        else:
            self.look()

    def look(self, event: Any = None) -> None:
        """Follow slice and settings, which may be others, once they have rested."""
        self.update_point()
        if self.active:
            self._rest.start()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Go on when the panel is visible again."""
        super().showEvent(event)
        self.look()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Stop while the panel is hidden."""
        super().hideEvent(event)
        self._drop()

    def _on_toggled(self, on: bool) -> None:
        say(self.words, "")
        if on:
            self.look()
        else:
            self._drop()

    def _drop(self) -> None:
        """End the job within a step of the network."""
        self._rest.stop()
        self._wanted = None
        if self._job is not None:
            self._job.quit()

    # --- one preview -----------------------------------------------------------------------------

    def _preview(self) -> None:
        """Start a preview of what is looked at now, unless it is under way."""
        request = self._ask() if self.active else None
        wanted = None if request is None else _identity(request)
        if wanted is not None and wanted == self._wanted:
            return
        self._drop()
        self._wanted = wanted
        if request is None or self._job is not None:  # when the job has ended, the newest begins
            return
        self._request = replace(request, reach_mm=REACH_MM)
        self._started = None
        self._job = self._start(
            "Follow slice",
            run_steps,
            self._request,
            yielded=self._on_yielded,
            errored=self._on_errored,
            finished=self._on_finished,
        )

    @property
    def _stale(self) -> bool:
        return self._request is None or _identity(self._request) != self._wanted

    def _on_yielded(self, item: Any) -> None:
        if self._stale:
            return
        if isinstance(item, RunStarted):
            self._started = item
        elif isinstance(item, ResultReady):
            self.shown.emit(self._request, self._started, item)
            if item.progress.pace is not None:
                self._say_pace(item.progress.pace)

    def _say_pace(self, pace: Pace) -> None:
        """Say how long a slice and the volume take."""
        words = f"{format_duration(pace.per_slice, tenths=True)} per slice"
        if pace.volume > 0:
            words += f"; whole volume about {format_duration(pace.volume)}"
        if not self.axial:
            words += f". {texts.FOLLOW_AXIAL}"
        say(self.words, words)

    def _on_errored(self, error: Exception) -> None:
        if isinstance(error, AddmError):
            say(self.words, str(error))
        else:
            self.failed.emit(error)

    def _on_finished(self) -> None:
        stale = self._stale
        self._job = self._request = self._started = None
        if stale and self.active:
            self._wanted = None
            self._preview()


def _identity(request: RunRequest) -> Hashable:
    """Identify a request and its slice."""
    return request.without_slices, tuple(round(n) for n in request.position)
