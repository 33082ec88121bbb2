"""Words beside things on a canvas, none of them over another, or over what is at its edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_addm.widgets.forms import single_shot
from napari_addm.widgets.viewing.connections import Connections, unwrapped
from napari_addm.widgets.viewing.overlays import (
    Box,
    MarksOverlay,
    Stroke,
    Word,
    boxes_at_edges,
    edges_changed,
    size_of_words,
)

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

# The kinds of words, as overlays of a canvas; where there is room for one only, the first stays.
DIAMETERS, RULER, NUMBERS = KINDS = ("addm_diameters", "addm_ruler", "addm_numbers")
# Words find their places this soon after the camera rests.
REST_MS = 60
# Between a place and its words, in pixels of the screen.
BESIDE = 4


class Wish(NamedTuple):
    """Words, and places in the viewer's world: on the right of the first, or the left of the last.

    Where there is no room, they stand above or below one of them.
    """

    text: str
    places: tuple[tuple[float, ...], ...]
    color: tuple[float, ...]


class CanvasWords:
    """Finds room for each word on a canvas. A word without room is not shown.

    Parameters
    ----------
    model : napari.viewer.Viewer or ViewerModel
    """

    def __init__(self, model: napari.viewer.Viewer | ViewerModel) -> None:
        self._model = model
        self._wishes: dict[str, tuple[Wish, ...]] = dict.fromkeys(KINDS, ())
        self._overlays = {kind: MarksOverlay() for kind in KINDS}
        for kind, overlay in self._overlays.items():
            model.scene.overlays.pop(kind, None)
            model.scene.overlays[kind] = overlay
        self._soon = single_shot(None, REST_MS, self._place)
        self._connections = Connections()
        camera = model.scene.camera.events
        events = (camera.zoom, camera.center, camera.orientation, edges_changed(model))
        for event in (*events, model.canvas.events.size, model.dims.events.ndisplay):
            self._connections.add(event, self._place_soon)

    def write(self, kind: str, wishes: tuple[Wish, ...], strokes: tuple[Stroke, ...] = ()) -> None:
        """Replace all words and lines of a kind by these."""
        overlay = self._overlays[kind]
        if strokes != overlay.strokes:
            overlay.strokes = strokes
            self._show(overlay)
        if wishes != self._wishes[kind]:
            self._wishes[kind] = wishes
            self._place()

    @staticmethod
    def _show(overlay: MarksOverlay) -> None:
        """Let napari make what draws words, which takes a while, when there are some."""
        if overlay.words or overlay.strokes:
            overlay.visible = True

    def _place_soon(self, event: Any = None) -> None:
        if any(self._wishes.values()):
            self._soon.start()

    def _place(self) -> None:
        if self._model.dims.ndisplay != 2:
            return  # words belong to a slice
        taken = boxes_at_edges(self._model) if any(self._wishes.values()) else []
        for kind, overlay in self._overlays.items():
            words = []
            for wish in self._wishes[kind]:
                found = self._find_room(wish, overlay.font_size, taken)
                if found is not None:
                    word, box = found
                    words.append(word)
                    taken.append(box)
            if tuple(words) != overlay.words:
                overlay.words = tuple(words)
            self._show(overlay)

    def _find_room(self, wish: Wish, font_size: float, taken: list[Box]) -> tuple[Word, Box] | None:
        """Choose the first free spot, best one that is wholly on the canvas."""
        size = size_of_words(wish.text, font_size)
        free = [
            (place, box)
            for place, box in self._spots(wish, size)
            if not any(_overlap(box, other) for other in taken)
        ]
        height, width = self._model.canvas.size
        whole = (0.0, 0.0, float(width), float(height))
        for place, box in [each for each in free if _inside(each[1], whole)] or free:
            return Word(wish.text, place, wish.color), box
        return None

    def _spots(
        self, wish: Wish, size: tuple[float, float]
    ) -> Iterator[tuple[tuple[float, ...], Box]]:
        """Where the words may begin in the world, and what they would cover then, in pixels."""
        wide, high = size
        first, last = wish.places[0], wish.places[-1]
        steps = [
            (place, (aside, down))
            for place, aside in ((first, BESIDE), (last, -wide - BESIDE))
            for down in (-high / 2, 0.0, -high)
        ]
        steps += [
            (place, (-wide / 2, down)) for place in wish.places for down in (-high - BESIDE, BESIDE)
        ]
        camera, dims = self._model.scene.camera, self._model.dims
        shown = list(dims.displayed)
        below = -1.0 if str(camera.orientation[1]) == "up" else 1.0
        ahead = 1.0 if str(camera.orientation[2]) == "right" else -1.0
        per_pixel = np.array([below, ahead]) / max(camera.zoom, 1e-9)
        corner = np.array(self._model.canvas.size) / 2
        for place, step in steps:
            begins = np.array(place)
            begins[shown] += step[::-1] * per_pixel
            y, x = (begins[shown] - camera.center[-2:]) / per_pixel + corner
            yield tuple(begins.tolist()), (x, y, x + wide, y + high)

    def close(self) -> None:
        """Remove them."""
        self._soon.stop()
        self._connections.close()
        overlays = self._model.scene.overlays
        for kind, overlay in self._overlays.items():
            if unwrapped(overlays.get(kind)) is overlay:
                del overlays[kind]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(one: Box, other: Box) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]
