"""Layers that are hidden for a while, and are then as visible as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari.layers import Layer

from napari_addm.widgets.viewing.connections import Connections, unwrapped

if TYPE_CHECKING:
    import napari


class Curtain:
    """Hides some of a viewer's layers while it is drawn, those that come meanwhile among them.

    A layer that a person shows meanwhile is theirs: it stays as they leave it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    hides : callable
        Whether a layer is to be hidden.
    """

    def __init__(self, viewer: napari.viewer.Viewer, hides: Callable[[Layer], bool]) -> None:
        self._viewer, self._hides = viewer, hides
        self._hidden: WeakKeyDictionary[Layer, Connections] = WeakKeyDictionary()
        self._connections = Connections()
        self.drawn = False

    def draw(self, drawn: bool = True) -> None:
        """Hide the layers, or show again those that were visible."""
        if drawn == self.drawn:
            return
        self.drawn = drawn
        if drawn:
            self._connections.add(self._viewer.layers.events.inserted, self._on_inserted)
            for layer in list(self._viewer.layers):
                self._hide(layer)
            return
        self._connections.close()
        for layer, watch in list(self._hidden.items()):
            watch.close()
            layer.visible = True
        self._hidden.clear()

    def shows(self, layer: Layer) -> bool:
        """Whether a layer is visible, or will be once the curtain is gone."""
        return layer.visible or unwrapped(layer) in self._hidden

    def show(self, layer: Layer, visible: bool) -> None:
        """Show or hide a layer; what the curtain hides is shown once it is gone."""
        layer = unwrapped(layer)
        watch = self._hidden.pop(layer, None)
        if watch is not None:
            watch.close()
        layer.visible = visible
        if self.drawn:
            self._hide(layer)

    def _hide(self, layer: Layer) -> None:
        layer = unwrapped(layer)
        if layer.visible and self._hides(layer):
            layer.visible = False
            self._hidden[layer] = watch = Connections()
            watch.add(layer.events.visible, self._on_visible)

    def _on_inserted(self, event: Any) -> None:
        if self.drawn:  # the layer may have ended it, in this very event
            self._hide(event.value)

    def _on_visible(self, event: Any) -> None:
        watch = self._hidden.pop(unwrapped(event.source), None)
        if watch is not None:
            watch.close()
