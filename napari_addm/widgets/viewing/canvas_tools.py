"""What every canvas of the panel has: letters of the sides, a crosshair, and clicks that move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm.widgets.viewing.connections import Connections, LayerWatch, unwrapped
from napari_addm.widgets.viewing.overlays import CrosshairOverlay, white_words
from napari_addm.widgets.viewing.planes import LETTER_PLACES, edge_letters, sides_known

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

CLICK_PIXELS = 3
LETTER = "addm_edge_"
CROSSHAIR = "addm_crosshair"


class EdgeLetters:
    """R, L, A, P, S, I at the edges of a canvas, if all that it shows says how it lies.

    Parameters
    ----------
    viewer : napari.viewer.Viewer or ViewerModel
    places : sequence of str
        The edges, of `LETTER_PLACES`.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer | ViewerModel,
        places: Sequence[str] = LETTER_PLACES,
    ) -> None:
        self._viewer = viewer
        self._connections = Connections()
        self._overlays = {
            place: white_words(position=place, font_size=12, gridded=True) for place in places
        }
        for place, overlay in self._overlays.items():
            # one that is equal would stay, and go with the panel that has made it
            viewer.canvas.overlays.pop(LETTER + place, None)
            viewer.canvas.overlays[LETTER + place] = overlay
        layers = viewer.layers.events
        for event in (
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            viewer.dims.events.ndim,
            viewer.scene.camera.events.orientation,
            layers.inserted,
            layers.removed,
        ):
            self._connections.add(event, self.update)
        self._watch = LayerWatch(viewer, self.update)
        self.update()

    def update(self, event: Any = None) -> None:
        """Set the letters to how the viewer shows the layers."""
        dims = self._viewer.dims
        known = dims.ndisplay == 2 and dims.ndim == 3 and sides_known(self._viewer.layers)
        orientation = self._viewer.scene.camera.orientation
        letters = edge_letters(dims.displayed, orientation) if known else {}
        for place, overlay in self._overlays.items():
            overlay.text = letters.get(place, "")
            overlay.visible = known

    def close(self) -> None:
        """Remove the letters."""
        self._connections.close()
        self._watch.close()
        there = self._viewer.canvas.overlays
        for place, overlay in self._overlays.items():
            if unwrapped(there.get(LETTER + place)) is overlay:  # not those of a later panel
                del there[LETTER + place]


class Crosshair:
    """Two lines through a viewer's position.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer with the position.
    model : napari.viewer.Viewer or ViewerModel
        The lines are drawn on its canvas.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, model: napari.viewer.Viewer | ViewerModel
    ) -> None:
        self._viewer, self._model = viewer, model
        self._overlay = CrosshairOverlay(visible=True, position=viewer.dims.point)
        self._connections = Connections()
        self._connections.add(viewer.dims.events.point, self._move)
        model.scene.overlays[CROSSHAIR] = self._overlay

    def _move(self, event: Any = None) -> None:
        self._overlay.position = self._viewer.dims.point

    def close(self) -> None:
        """Remove them."""
        self._connections.close()
        self._model.scene.overlays.pop(CROSSHAIR, None)


class ClickToGo:
    """A click (no drag) on a canvas moves a viewer's position there.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer with the position.
    model : napari.viewer.Viewer or ViewerModel
        Clicks on its canvas count.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, model: napari.viewer.Viewer | ViewerModel
    ) -> None:
        self._viewer, self._model = viewer, model
        model.mouse_drag_callbacks.append(self._on_press)

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        active = model.layers.selection.active
        pans = active is None or str(active.mode) == "pan_zoom"
        pans &= model.scene.camera.mouse_pan  # else the ruler is on
        if event.button != 1 or event.modifiers or model.dims.ndisplay != 2 or not pans:
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos) - start).max() <= CLICK_PIXELS:
            self._viewer.dims.point = event.position

    def close(self) -> None:
        """Ignore clicks from now on."""
        with contextlib.suppress(ValueError):
            self._model.mouse_drag_callbacks.remove(self._on_press)
