"""The numbers of findings, beside their outlines on a canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_addm.widgets.forms import single_shot
from napari_addm.widgets.layer_registry import role_of
from napari_addm.widgets.viewing.connections import Connections, unwrapped
from napari_addm.widgets.viewing.visibility import is_put_away
from napari_addm.widgets.viewing.words import NUMBERS, CanvasWords, Wish

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

MOST_NUMBERS = 20
# Numbers follow an update of the labels this soon.
REST_MS = 60


class FindingNumbers:
    """Writes the number of each finding beside its outline, in the outline's color.

    Of many findings in a slice the selected one and the largest have a number, where there is
    room.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        With the labels of the findings.
    model : napari.viewer.Viewer or ViewerModel
    words : CanvasWords
        The numbers are written on its canvas.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        model: napari.viewer.Viewer | ViewerModel,
        words: CanvasWords,
    ) -> None:
        self._viewer, self._model, self._words = viewer, model, words
        self._soon = single_shot(None, REST_MS, self._update)
        self._connections = Connections()
        self._of_layers: dict[Labels, Connections] = {}
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connections.add(event, self._on_layers)
        for event in (model.dims.events.point, model.dims.events.order):
            self._connections.add(event, self._update)
        self._connections.add(model.scene.camera.events.orientation, self._update_soon)
        self._on_layers()

    def _on_layers(self, event: Any = None) -> None:
        there = {unwrapped(layer) for layer in self._viewer.layers if role_of(layer) == "labels"}
        for layer in set(self._of_layers) - there:
            self._of_layers.pop(layer).close()
        for layer in there - set(self._of_layers):
            self._of_layers[layer] = own = Connections()
            events = layer.events
            for each in (events.visible, events.colormap, events.set_data, events.labels_update):
                own.add(each, self._update_soon)
        self._update_soon()

    def _update_soon(self, event: Any = None) -> None:
        self._soon.start()

    def _update(self, event: Any = None) -> None:
        numbers: tuple[Wish, ...] = ()
        if self._model.dims.ndisplay == 2:
            for layer in self._of_layers:
                if layer.visible and layer.ndim == 3 and not is_put_away(layer):
                    numbers += self._number(layer)
        self._words.write(NUMBERS, numbers)

    def _number(self, layer: Labels) -> tuple[Wish, ...]:
        """The numbers of a layer's labels in the slice that is shown."""
        dims, camera = self._model.dims, self._model.scene.camera
        first = dims.ndim - layer.ndim
        shown = [axis - first for axis in dims.displayed]
        if first < 0 or min(shown) < 0:
            return ()
        (cut,) = {0, 1, 2} - set(shown)
        index = round(layer.world_to_data(dims.point[first:])[cut])
        if not 0 <= index < layer.data.shape[cut]:
            return ()
        section = np.asarray(np.take(layer.data, index, cut))
        turned = shown[0] > shown[1]
        up = 1.0 if str(camera.orientation[1]) == "up" else -1.0
        right = 1.0 if str(camera.orientation[2]) == "right" else -1.0
        steps = np.array([up, right]) * layer.scale[shown]
        ids, areas, ends = _in_section(section.T if turned else section, steps)
        colors = layer.colormap.map(ids)
        selected = (colors[:, :3] == 1).all(axis=1)
        wishes = []
        for n in np.lexsort((-areas, ~selected))[:MOST_NUMBERS]:
            voxel = np.full(3, index)
            places = []
            for end in ends[:, n]:
                voxel[shown] = end
                places.append((*dims.point[:first], *map(float, layer.data_to_world(voxel))))
            wishes.append(Wish(str(ids[n]), tuple(places), tuple(colors[n].tolist())))
        return tuple(wishes)

    def close(self) -> None:
        """Remove the numbers."""
        self._soon.stop()
        self._connections.close()
        for own in self._of_layers.values():
            own.close()
        self._of_layers.clear()


def _in_section(
    section: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers in a section, their areas in pixels, and their upper right and lower left ends.

    Parameters
    ----------
    section : ndarray of int, shape (rows, columns)
        0 = no finding.
    steps : ndarray, shape (2,)
        How far a row and a column lead to the upper right of the screen.
    """
    where = np.flatnonzero(section)
    number = section.ravel()[where]
    places = np.stack(np.unravel_index(where, section.shape), axis=-1)
    order = np.lexsort((places @ steps, number))
    ids, begin, areas = np.unique(number[order], return_index=True, return_counts=True)
    return ids, areas, places[order[np.stack([begin + areas - 1, begin])]]
