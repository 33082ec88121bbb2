"""How the viewer looks while a panel is open: smooth pictures on black, with a scale bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari.layers import Image

from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.viewing.chosen_scan import may_be_scan
from napari_addm.widgets.viewing.connections import Connections, unwrapped

if TYPE_CHECKING:
    import napari

BLACK = (0.0, 0.0, 0.0, 1.0)
NEAREST, LINEAR = "nearest", "linear"
SCALE_BAR: dict[str, Any] = {
    "visible": True,
    "position": "bottom_right",
    "font_size": 8,
    "box": True,
    "ticks": False,
}
# Pixels: on a narrower canvas the bar would reach the letter at the middle of the edge.
LEAST_WIDTH = 350


class SmoothPictures:
    """Shows scans and their maps interpolated, unless a person has chosen how.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._seen: WeakSet[Image] = WeakSet()
        self._changed: WeakSet[Image] = WeakSet()
        self._connections = Connections()
        self._connections.add(viewer.layers.events.inserted, self._smooth)
        self._smooth()

    def _smooth(self, event: Any = None) -> None:
        for layer in map(unwrapped, self._viewer.layers):
            if layer in self._seen or not isinstance(layer, Image):
                continue
            self._seen.add(layer)
            if (is_output(layer) or may_be_scan(layer)) and layer.interpolation2d == NEAREST:
                layer.interpolation2d = LINEAR
                self._changed.add(layer)

    def close(self) -> None:
        """Give the layers back as they were; a person's own choice since then stays."""
        self._connections.close()
        for layer in self._changed:
            if layer.interpolation2d == LINEAR:
                layer.interpolation2d = NEAREST


class CanvasLook:
    """A black canvas with a scale bar while layers are open.

    Without black, the light theme shows a scan as a black box on white.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        bar = viewer.canvas.overlays["scale_bar"]
        self._before = {name: getattr(bar, name) for name in SCALE_BAR}
        self._own = bar.visible  # a person's own bar stays as it is
        self._black = viewer.canvas.background_color_override is None
        self._wide = viewer.canvas.size[1] >= LEAST_WIDTH
        self._connections = Connections()
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connections.add(event, self._update)
        self._connections.add(viewer.canvas.events.size, self._on_size)
        self._update()

    def _on_size(self, event: Any = None) -> None:
        wide = self._viewer.canvas.size[1] >= LEAST_WIDTH
        if wide != self._wide:
            self._wide = wide
            self._update()

    def _update(self, event: Any = None) -> None:
        self._show(bool(len(self._viewer.layers)))

    def _show(self, shown: bool) -> None:
        canvas = self._viewer.canvas
        if self._black and shown != (canvas.background_color_override is not None):
            canvas.background_color_override = BLACK if shown else None
        if not self._own:
            look = SCALE_BAR | {"visible": self._wide} if shown else self._before
            canvas.overlays["scale_bar"].update(look)

    def close(self) -> None:
        """Give the canvas back as it was."""
        self._connections.close()
        self._show(False)
