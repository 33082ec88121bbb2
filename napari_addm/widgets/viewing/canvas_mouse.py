"""What the mouse does on the canvases: the right button sets the contrast, clicks find findings."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtCore import QPoint

from napari_addm.widgets.viewing.overlays import white_words
from napari_addm.widgets.viewing.window_level import WindowLevel, limits_of

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

LEFT, RIGHT = 1, 2
DRAG_PIXELS = 4
# A click so near to a finding is meant for it.
NEAR_PIXELS = (0, 2, 4)
WORDS = "addm_window"
WINDOW_WORDS = "Window {:.4g}  Level {:.4g}"


class CanvasMouse:
    """Mouse tools on the canvases of a viewer, while the tools of its layers rest.

    In slices, a drag with the right button sets the window (left and right) and the level (up and
    down) in place of napari's zoom. A click on a finding chooses it, and one with the right button
    asks what to do with it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    window : WindowLevel
    findings : callable
        Gives the layer of the findings; the panel sets it.
    chosen : callable
        Called with a finding's number; the panel sets it.
    asked : callable
        Called with a finding's number and a point of the screen; the panel sets it.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self.window = WindowLevel(viewer)
        self.findings: Callable[[], Labels | None] = lambda: None
        self.chosen: Callable[[int], object] = lambda number: None
        self.asked: Callable[[int, QPoint], object] = lambda number, at: None
        self._detach = self.attach(viewer)

    def attach(self, model: napari.viewer.Viewer | ViewerModel) -> Callable[[], None]:
        """Work on the canvas of a model; the function that is returned ends it."""
        model.mouse_drag_callbacks.append(self._on_press)

        def detach() -> None:
            with contextlib.suppress(ValueError):
                model.mouse_drag_callbacks.remove(self._on_press)

        return detach

    def close(self) -> None:
        """Leave the viewer's canvas as it was."""
        self._detach()
        self.window.close()

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        if not _is_free(model, event):
            return
        if event.button == LEFT:
            yield from self._left(event)
        elif event.button == RIGHT and model.dims.ndisplay == 2:
            yield from self._right(model, event)

    def _left(self, event: Any) -> Iterator[None]:
        return _choose(event, self.findings, lambda number: self.chosen(number))

    def _right(self, model: Any, event: Any) -> Iterator[None]:
        start, image, dragged = np.array(event.pos), self.window.image_on(model), False
        model.scene.camera.mouse_pan = image is None  # napari would zoom
        try:
            limits = (0.0, 1.0) if image is None else limits_of(image)
            while True:
                yield
                dragged = dragged or not _is_click(start, event)
                if dragged and image is not None:
                    right, down = (np.array(event.pos) - start).tolist()
                    low, high = self.window.dragged(image, limits, right, down)
                    _tell(model, WINDOW_WORDS.format(high - low, (low + high) / 2))
                if event.type != "mouse_move":
                    break
        finally:
            model.scene.camera.mouse_pan = True
            model.canvas.overlays.pop(WORDS, None)
        number = 0 if dragged else _finding_at(self.findings(), event)
        if number:
            self.chosen(number)
            self.asked(number, event.native.globalPosition().toPoint())


def on_clicks(
    viewer: napari.viewer.Viewer,
    findings: Callable[[], Layer | None],
    chosen: Callable[[int], object],
) -> Callable[[], None]:
    """Call a function with the number of each finding that is clicked on.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    findings : callable
        Gives the layer of the findings.
    chosen : callable

    Returns
    -------
    callable
        Ends it.
    """

    def on_press(model: Any, event: Any) -> Iterator[None]:
        if event.button == LEFT and _is_free(model, event):
            yield from _choose(event, findings, chosen)

    viewer.mouse_drag_callbacks.append(on_press)

    def detach() -> None:
        with contextlib.suppress(ValueError):
            viewer.mouse_drag_callbacks.remove(on_press)

    return detach


def _is_free(model: Any, event: Any) -> bool:
    """Whether the mouse is not in use by the tool of a layer, or with a key."""
    active = model.layers.selection.active
    rests = active is None or str(active.mode) == "pan_zoom"
    return rests and not event.modifiers and bool(model.scene.camera.mouse_pan)


def _choose(
    event: Any, findings: Callable[[], Layer | None], chosen: Callable[[int], object]
) -> Iterator[None]:
    start = np.array(event.pos)
    yield
    while event.type == "mouse_move":
        yield
    number = _finding_at(findings(), event) if _is_click(start, event) else 0
    if number:
        chosen(number)


def _finding_at(layer: Layer | None, event: Any) -> int:
    """Number of the finding that a click is meant for; 0 without one."""
    if layer is None or not layer.visible:
        return 0
    if len(event.dims_displayed) == 3:
        there = layer.get_value(
            event.position,
            view_direction=event.view_direction,
            dims_displayed=event.dims_displayed,
            world=True,
        )
        return int(there or 0)
    for distance in NEAR_PIXELS:
        for rows, columns in itertools.product((-distance, 0, distance), repeat=2):
            place = np.array(event.position)
            place[list(event.dims_displayed)] += np.array([rows, columns]) / event.camera_zoom
            if number := _label_at(layer, place):
                return number
    return 0


def _label_at(layer: Layer, place: np.ndarray) -> int:
    """The label at a place of the world; 0 outside of the layer."""
    index = tuple(np.round(layer.world_to_data(place)).astype(int).tolist())
    inside = all(0 <= at < size for at, size in zip(index, layer.data.shape, strict=True))
    return int(layer.data[index]) if inside else 0


def _is_click(start: np.ndarray, event: Any) -> bool:
    return bool(np.abs(np.array(event.pos) - start).max() < DRAG_PIXELS)


def _tell(model: Any, words: str) -> None:
    shown = model.canvas.overlays.get(WORDS)
    if shown is None:
        model.canvas.overlays[WORDS] = white_words(
            text=words, position="bottom_right", font_size=8, visible=True
        )
    else:
        shown.text = words
