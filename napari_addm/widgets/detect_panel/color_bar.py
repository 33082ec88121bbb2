"""The color bar of a map, its label, and the key that hides maps."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari.components.overlays import TextOverlay
from napari.layers import Image, Layer

from napari_addm.widgets import texts
from napari_addm.widgets.forms import single_shot
from napari_addm.widgets.layer_registry import is_output, role_of, scan_of
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.viewing.connections import Connections
from napari_addm.widgets.viewing.curtain import Curtain
from napari_addm.widgets.viewing.overlays import give_color_bar
from napari_addm.widgets.viewing.visibility import is_put_away

if TYPE_CHECKING:
    import napari
    from qtpy.QtCore import QObject

MAP_ROLES = ("anomaly", "brightness", "uncertainty", "labels", "earlier findings")
HIDDEN_AT_FIRST = ("brightness", "uncertainty")
BAR_ROLES = ("anomaly", "brightness")
BAR_LABEL = "addm_bar_label"
# Pixels. A bar ends above the letter at the middle of the edge, or it is not there.
BAR_WIDTH, BAR_HEIGHT, LEAST_HEIGHT = 14, 110, 30
BAR_FONT = 8
AROUND_BAR = 85  # its label above it, and half the letter below it
# Layers and threshold have to rest for so long before bar and label follow.
REST_MS = 100


def of_hidden_scan(viewer: napari.viewer.Viewer, layer: Layer) -> bool:
    """Whether a result belongs to a scan that is not in view."""
    scans = {each.unique_id: each for each in viewer.layers}
    return is_put_away(scans.get(scan_of(layer), layer))


class ColorBar:
    """Shows the color bar of an anomaly map, with the threshold beside it.

    While the brightness is on screen, which lies above the anomaly map, the bar is its own.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    owner : QObject
        Its timer ends with it.

    Attributes
    ----------
    result : ResultLayers or None
        Only its maps have a bar. Without it all maps of the scan in view have one.
    """

    def __init__(self, viewer: napari.viewer.Viewer, owner: QObject) -> None:
        self._viewer = viewer
        self.result: ResultLayers | None = None
        self._wanted = True
        self._threshold: float | None = None
        self._watched: WeakSet[Layer] = WeakSet()  # maps with visibility that the label follows
        self._connections = Connections()
        self._tiling_before = viewer.canvas.overlay_tiling.top_right
        viewer.canvas.overlay_tiling.top_right = "vertical"  # the bar below its label
        self._soon = single_shot(owner, REST_MS, self._update)
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, viewer.canvas.events.size):
            self._connections.add(event, self.update_soon)
        self.update_soon()

    def show(self, wanted: bool) -> None:
        """Show or hide bar and label."""
        self._wanted = wanted
        self._update()

    def set_threshold(self, threshold: float | None) -> None:
        """Name the threshold beside the bar; None: no threshold."""
        self._threshold = threshold
        self._soon.start()

    def update_soon(self, event: Any = None) -> None:
        """Follow the layers once they rest."""
        self._soon.start()

    @property
    def _maps(self) -> list[Layer]:
        return [layer for layer in self._viewer.layers if role_of(layer) in BAR_ROLES]

    @property
    def _shown(self) -> list[Layer]:
        """The maps that have a bar."""
        if self.result is not None:
            own = [self.result.layer(role) for role in BAR_ROLES]
            maps = [layer for layer in self._maps if layer in own]
        else:
            maps = [layer for layer in self._maps if not of_hidden_scan(self._viewer, layer)]
        bright = [layer for layer in maps if _is_brightness(layer) and layer.visible]
        return bright or [layer for layer in maps if not _is_brightness(layer)]

    def _update(self) -> None:
        """Show bar and label of the map, if there is one, else remove them.

        napari takes long to draw a letter for the first time. So the words come first, then the
        threshold, then the bar.
        """
        shown = self._shown if self._wanted else []
        overlays = self._viewer.canvas.overlays
        signed = any(map(_is_brightness, shown))
        words = text = texts.BRIGHTNESS_BAR_LABEL if signed else texts.COLOR_BAR_LABEL
        if self._threshold is not None:
            text += f"\nthreshold {'±' if signed else ''}{self._threshold:.3g}"
        label = overlays.get(BAR_LABEL)
        labelled = label is not None and label.text == text
        height = min(BAR_HEIGHT, self._viewer.canvas.size[0] // 2 - AROUND_BAR)
        barred = shown if height >= LEAST_HEIGHT else []
        for layer in self._maps:
            bar = layer.colorbar
            if bar.visible != (layer in barred) and (labelled or layer not in barred):
                give_color_bar(layer)
                bar = layer.colorbar
                bar.font_size = BAR_FONT
                bar.visible = layer in barred
            if layer in barred and bar.size != (BAR_WIDTH, height):
                bar.size = (BAR_WIDTH, height)
            if layer not in self._watched:
                self._watched.add(layer)
                self._connections.add(layer.events.visible, self._on_visible)
        if not shown:
            overlays.pop(BAR_LABEL, None)
            return
        if label is None:
            look = {"position": "top_right", "font_size": BAR_FONT, "box": True}
            overlays[BAR_LABEL] = TextOverlay(text=words, **look)
        else:
            label.text = text
        if not labelled:
            self._soon.start()
        self._show_label()

    def _on_visible(self, event: Any = None) -> None:
        """Hide the label with the map; another map may get the bar."""
        self._show_label()
        self._soon.start()

    def _show_label(self) -> None:
        """Show the label while a map with a bar is on screen: napari does so with the bar."""
        label = self._viewer.canvas.overlays.get(BAR_LABEL)
        if label is not None:
            label.visible = any(layer.visible for layer in self._shown)

    def close(self) -> None:
        """Give the viewer back as it was."""
        self._connections.close()
        with contextlib.suppress(RuntimeError):  # Qt's side may be gone already
            self._soon.stop()
        self._viewer.canvas.overlays.pop(BAR_LABEL, None)
        self._viewer.canvas.overlay_tiling.top_right = self._tiling_before
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and is_output(layer):
                layer.colorbar.visible = False


def _is_brightness(layer: Layer) -> bool:
    return role_of(layer) == "brightness"


class MapToggle:
    """Hides maps and outlines, and shows again those that were visible.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    curtains : sequence of Curtain
        At most one of them is drawn; what it hides stays hidden until it is gone.
    """

    def __init__(self, viewer: napari.viewer.Viewer, curtains: Sequence[Curtain]) -> None:
        self._viewer, self._curtains = viewer, curtains
        self._hidden: list[Layer] = []

    def __call__(self) -> None:
        """Hide them, or show them again."""
        maps = [
            layer
            for layer in self._viewer.layers
            if role_of(layer) in MAP_ROLES and not of_hidden_scan(self._viewer, layer)
        ]
        curtain = next((each for each in self._curtains if each.drawn), self._curtains[0])
        shown = [layer for layer in maps if curtain.shows(layer)]
        if shown:
            self._hidden = shown
        again = [layer for layer in self._hidden if layer in maps] or [
            layer for layer in maps if role_of(layer) not in HIDDEN_AT_FIRST
        ]
        for layer in shown or again:
            curtain.show(layer, not shown)
