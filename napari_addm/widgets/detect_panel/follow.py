"""Follow slice: the slice on screen is reconstructed while a person scrolls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_addm.detection.pipeline import Detection
from napari_addm.detection.reconstruction import Pace
from napari_addm.errors import AddmError
from napari_addm.io.text import format_duration
from napari_addm.io.volume import Volume
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted, run_steps
from napari_addm.widgets.forms import column, message, say, single_shot
from napari_addm.widgets.jobs import Job

if TYPE_CHECKING:
    import napari
    from qtpy.QtGui import QHideEvent, QShowEvent

REST_MS = 80
"""The slice has to stay on screen for so long: those that a person scrolls past are not begun."""

REACH_MM = 16.0
"""How far on either side the neighbours follow, with which the slice is scored again."""


class FollowSlice(QWidget):
    """Reconstruct the visible slice in the background: the newest wins, stale ones are dropped.

    One job at a time. It first shows the slice itself, then works outward over the neighbours
    that its score needs, until the person looks elsewhere. What it has reconstructed stays in
    the session, for the next preview and for the run.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        As :func:`napari_addm.widgets.jobs.start_job`.
    ask : callable
        Gives the `RunRequest` for the slice at `position`, or None when there is
        nothing to do.

    Attributes
    ----------
    shown : Signal(RunRequest, RunStarted, ResultReady)
        A preview has a result.
    failed : Signal(object)
        An exception that is a bug; what a person can mend is said here.
    box : QCheckBox
        Turns it on and off.
    point : tuple of float
        Where the viewer's sliders stand, in its world; may be read from any thread.
    position : tuple of float
        What is previewed: the same, but under the cursor where the S axis is on screen.
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
        self._request: RunRequest | None = None
        self._here: Hashable = None  # the newest that was asked for
        self._going: Hashable = None  # what the job was started for
        self._begun: RunStarted | None = None
        self._held = False
        self.point: tuple[float, ...] = ()
        self.position: tuple[float, ...] = ()
        self._rest = single_shot(self, REST_MS, self._look)
        self.box = QCheckBox(texts.FOLLOW.label)
        self.box.setToolTip(texts.FOLLOW.tip)
        self.box.toggled.connect(self._on_toggled)
        self.words = message()
        body = column(self)
        body.setSpacing(2)
        body.addWidget(self.box)
        body.addWidget(self.words)
        dims = viewer.dims.events
        self._events = (dims.point, dims.order, dims.ndisplay)
        for event in self._events:
            event.connect(self.look)
        viewer.cursor.events.position.connect(self._on_cursor)
        self.update_point()

    # --- where the person looks ------------------------------------------------------------------

    @property
    def axial(self) -> bool:
        """Whether the slices on screen are axial ones of our layers."""
        dims = self._viewer.dims
        return dims.ndisplay == 2 and dims.ndim >= 3 and dims.order[-3] == dims.ndim - 3

    def update_point(self) -> None:
        """Read the viewer's position; main thread only."""
        dims = self._viewer.dims
        self.point = tuple(dims.point)
        point = list(dims.point)
        if dims.ndisplay == 2 and dims.ndim >= 3 and not self.axial:
            # the S axis is on screen, so that the slider says nothing of it
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
        """Whether a preview goes on."""
        return self._job is not None

    def hold(self, held: bool) -> None:
        """Wait while a run goes on."""
        self._held = held
        self.box.setEnabled(not held)
        if held:
            self._drop()
        else:
            self.look()

    def look(self, event: Any = None) -> None:
        """Slice or settings may be others: follow once they have rested."""
        self.update_point()
        if self.active:
            self._rest.start()

    def disconnect_viewer(self) -> None:
        """Hear the viewer no longer."""
        for event in self._events:
            event.disconnect(self.look)
        self._viewer.cursor.events.position.disconnect(self._on_cursor)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Go on when the panel is seen again."""
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
        """End the job within a step."""
        self._rest.stop()
        self._here = None
        if self._job is not None:
            self._job.quit()

    # --- one preview -----------------------------------------------------------------------------

    def _look(self) -> None:
        if not self.active:
            return
        request = self._ask()
        if request is None:
            self._drop()
            return
        here = (request.without_slices, tuple(round(n) for n in request.position))
        if here == self._here:
            return
        self._drop()
        self._here = here
        if self._job is None:
            self._go(request)

    def _go(self, request: RunRequest) -> None:
        self._request = replace(request, reach_mm=REACH_MM)
        self._begun = None
        self._going = self._here
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
        return self._going != self._here

    def _on_yielded(self, item: Any) -> None:
        if self._stale:
            return
        if isinstance(item, RunStarted):
            self._begun = item
        elif isinstance(item, ResultReady):
            self.shown.emit(self._request, self._begun, item)
            if item.progress.pace is not None:
                self.say_pace(item.progress.pace)

    def say_pace(self, pace: Pace) -> None:
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
        self._job = None
        if self._stale and self.active:
            # the newest of all that was asked for meanwhile
            self._here = None
            self._look()


@dataclass
class Patchwork:
    """Previews of single slices, put together.

    Attributes
    ----------
    detection : Detection
        The maps are the patchwork's own, and are written in place.
    """

    detection: Detection

    @classmethod
    def begin(cls, first: Detection, shown: Detection | None = None) -> Patchwork:
        """An empty one like `first`, or one that goes on from what is shown."""
        base = shown or first
        done = base.done if shown is not None else np.zeros_like(first.done)
        uncertainty = None if base.uncertainty is None else _own(base.uncertainty, done)
        return cls(
            replace(
                first,
                anomaly=_own(base.anomaly, done),
                reconstruction=_own(base.reconstruction, done),
                uncertainty=uncertainty,
                done=done.copy(),
            )
        )

    def put(self, result: Detection, here: int) -> Sequence[int]:
        """Take the slices that are new, and the one looked at, which now has more neighbours.

        Parameters
        ----------
        result : Detection
            Of a preview.
        here : int
            The slice of the scan that is looked at.

        Returns
        -------
        sequence of int
            The slices taken, rising.
        """
        done = self.detection.done
        take = result.done & ~done
        take[here] = result.done[here]
        rows = np.flatnonzero(take)
        for name in ("anomaly", "reconstruction", "uncertainty"):
            mine, theirs = getattr(self.detection, name), getattr(result, name)
            if mine is not None and theirs is not None:
                mine.data[rows] = theirs.data[rows]
        self.detection = replace(
            self.detection,
            done=done | take,
            seconds=result.seconds,
            warnings=result.warnings,
        )
        return tuple(rows.tolist())


def _own(map_: Volume, done: np.ndarray) -> Volume:
    """A copy of the slices that are done; 0 in the others, which take no memory yet."""
    data = np.zeros(map_.shape, map_.data.dtype)
    data[done] = map_.data[done]
    return map_.with_data(data)
