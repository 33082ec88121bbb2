"""Callbacks on napari's events, and the layers behind its proxies."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer

from napari_addm.widgets.forms import when_gone
from napari_addm.widgets.layers import GEOMETRY

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QWidget


def unwrapped(obj: Any) -> Any:
    """Give the object behind the proxy that napari hands to plugins."""
    return getattr(obj, "__wrapped__", obj)


class Connections:
    """Callbacks on napari's events that can be disconnected together."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Callable[..., object]]] = []

    def add(self, emitter: Any, callback: Callable[..., object]) -> None:
        """Connect."""
        emitter.connect(callback)
        self._made.append((emitter, callback))

    def close_with(self, widget: QWidget) -> None:
        """Disconnect all of them when Qt's side of a widget is gone, which they must not hold."""
        me = weakref.ref(self)

        def close() -> None:
            connections = me()
            if connections is not None:
                connections.close()

        when_gone(widget, close)

    def close(self) -> None:
        """Disconnect all of them."""
        for emitter, callback in self._made:
            # a viewer that closes has disconnected some already
            with contextlib.suppress(ValueError, RuntimeError, TypeError):
                emitter.disconnect(callback)
        self._made.clear()


class LayerWatch:
    """Notices when an image or labels layer of a viewer is moved, or gets other voxels.

    Parameters
    ----------
    viewer : napari.viewer.Viewer or ViewerModel
    changed : callable
        Called without arguments; a method of the object that keeps the watch.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer | ViewerModel, changed: Callable[[], object]
    ) -> None:
        self._viewer = viewer
        self._changed = changed
        self._of_layer: dict[Layer, Connections] = {}
        self._connections = Connections()
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connections.add(event, self._sync)
        self._sync()

    def _sync(self, event: Any = None) -> None:
        there = {
            unwrapped(layer) for layer in self._viewer.layers if isinstance(layer, (Image, Labels))
        }
        for layer in set(self._of_layer) - there:
            self._of_layer.pop(layer).close()
        for layer in there - set(self._of_layer):
            self._of_layer[layer] = own = Connections()
            for name in (*GEOMETRY, "data"):
                own.add(getattr(layer.events, name), self._on_change)

    def _on_change(self, event: Any = None) -> None:
        self._changed()

    def close(self) -> None:
        """Stop watching."""
        self._connections.close()
        for own in self._of_layer.values():
            own.close()
        self._of_layer.clear()
