"""Lines with their lengths on the canvases: the diameters of a finding, and a ruler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Layer
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal

from napari_addm.findings.diameters import Diameters, Place
from napari_addm.widgets.finding_colors import SELECTED_COLOR
from napari_addm.widgets.viewing.canvas_tools import CLICK_PIXELS
from napari_addm.widgets.viewing.connections import Connections
from napari_addm.widgets.viewing.overlays import Stroke
from napari_addm.widgets.viewing.scanner import ScannerSpace
from napari_addm.widgets.viewing.words import CanvasWords, Wish

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

RULER_COLOR = "#ffe14d"


class MeasuredLine(NamedTuple):
    """A line in the viewer's world, its length in words, and its color.

    It is shown in slices that are no further than `reach` from both ends.
    """

    start: tuple[float, ...]
    end: tuple[float, ...]
    words: str
    color: str
    reach: float


class MeasuredLines:
    """Lines that all canvases show."""

    changed = Signal()

    def __init__(self) -> None:
        self.lines: tuple[MeasuredLine, ...] = ()

    def show(self, *lines: MeasuredLine) -> None:
        """Show these lines in place of all others."""
        if lines != self.lines:
            self.lines = lines
            self.changed.emit()


def diameter_lines(
    viewer: napari.viewer.Viewer,
    layer: Layer,
    in_layer: Callable[[Place], tuple[float, ...]],
    diameters: Diameters,
) -> Iterator[MeasuredLine]:
    """The two diameters of a finding in the viewer's world.

    Parameters
    ----------
    layer : Layer
        One with the voxels of the scan.
    in_layer : callable
        From a place (s, a, r) in the scan's voxels to one in the layer's.
    """

    def world(place: Place) -> np.ndarray:
        return np.asarray(layer.data_to_world(in_layer(place)))

    extra = viewer.dims.point[: viewer.dims.ndim - layer.ndim]
    s, a, r = diameters.longest[0]
    reach = 1.001 * float(np.linalg.norm(world((s + 0.5, a, r)) - world((s, a, r))))
    lengths = (diameters.longest_mm, diameters.across_mm)
    for line, mm in zip((diameters.longest, diameters.across), lengths, strict=True):
        start, end = ((*extra, *world(place).tolist()) for place in line)
        yield MeasuredLine(start, end, f"{mm:.0f} mm", SELECTED_COLOR, reach)


class DrawnLines:
    """Draws lines on a canvas, where its slice holds them.

    Parameters
    ----------
    lines : MeasuredLines
    model : napari.viewer.Viewer or ViewerModel
    words : CanvasWords
        Of that canvas.
    kind : str
        Of words.
    """

    def __init__(
        self,
        lines: MeasuredLines,
        model: napari.viewer.Viewer | ViewerModel,
        words: CanvasWords,
        kind: str,
    ) -> None:
        self._lines, self._model, self._words, self._kind = lines, model, words, kind
        self._connections = Connections()
        events = model.dims.events
        for event in (lines.changed, events.point, events.order):
            self._connections.add(event, self._draw)
        self._connections.add(model.scene.camera.events.orientation, self._draw)
        self._draw()

    def _draw(self, event: Any = None) -> None:
        dims, camera = self._model.dims, self._model.scene.camera
        strokes, wishes = [], []
        for line in self._lines.lines:
            ends = np.array([line.start, line.end])
            cut = list(dims.not_displayed)
            if ends.shape[1] != dims.ndim or dims.ndisplay != 2:
                continue
            if np.abs(ends[:, cut] - np.array(dims.point)[cut]).max(initial=0) > line.reach:
                continue
            color = tuple(transform_color(line.color)[0].tolist())
            strokes.append(Stroke(line.start, line.end, color))
            right = 1 if str(camera.orientation[2]) == "right" else -1
            from_right = np.argsort(-right * ends[:, dims.displayed[1]], kind="stable")
            places = tuple(tuple(ends[n].tolist()) for n in from_right)
            wishes.append(Wish(line.words, places, color))
        self._words.write(self._kind, tuple(wishes), tuple(strokes))

    def close(self) -> None:
        """Draw no more lines."""
        self._connections.close()


class Ruler:
    """While it is on, a drag on a canvas measures a distance.

    Lines stay until a click without a drag, or until it is off. They are no layers, so nothing
    saves them.

    Parameters
    ----------
    space : ScannerSpace

    Attributes
    ----------
    lines : MeasuredLines
    on : bool
    """

    def __init__(self, space: ScannerSpace) -> None:
        self._space = space
        self.lines = MeasuredLines()
        self.on = False
        self._models: list[Any] = []

    def turn(self, on: bool) -> None:
        """Turn it on, or off, which erases all lines. While it is on, other mouse tools rest."""
        self.on = on
        self.lines.show()
        for model in self._models:
            model.scene.camera.mouse_pan = not on

    def attach(self, model: napari.viewer.Viewer | ViewerModel) -> Callable[[], None]:
        """Measure on a canvas; returns what ends that."""

        def pressed(model: Any, event: Any) -> Iterator[None]:
            if self.on and event.button == 1 and not event.modifiers and model.dims.ndisplay == 2:
                yield from self._measure(model, event)

        def close() -> None:
            self._models.remove(model)
            if self.on:
                model.scene.camera.mouse_pan = True
            with contextlib.suppress(ValueError):
                model.mouse_drag_callbacks.remove(pressed)

        self._models.append(model)
        if self.on:
            model.scene.camera.mouse_pan = False
        model.mouse_drag_callbacks.append(pressed)
        return close

    def _measure(self, model: Any, event: Any) -> Iterator[None]:
        event.handled = True  # else the camera would move
        kept, start, at = self.lines.lines, tuple(event.position), np.asarray(event.pos)
        steps = [model.dims.range[axis].step for axis in model.dims.not_displayed]
        reach = max(steps, default=1.0) / 2
        yield
        dragged = False
        while event.type == "mouse_move":
            event.handled = True
            dragged |= bool(np.abs(np.asarray(event.pos) - at).max() > CLICK_PIXELS)
            end = tuple(event.position)
            mm = self._space.distance(start, end)
            if dragged and mm is not None:
                line = MeasuredLine(start, end, f"{mm:.1f} mm", RULER_COLOR, reach)
                self.lines.show(*kept, line)
            yield
        if not dragged:
            self.lines.show()
