"""Scan and reconstruction in turn, or on the two sides of a border."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.experimental import link_layers, unlink_layers
from napari.layers import Image, Layer
from qtpy.QtCore import QTimer

from napari_addm.widgets.layer_registry import output_of, remember_output, role_of
from napari_addm.widgets.viewing.connections import Connections, unwrapped
from napari_addm.widgets.viewing.overlays import white_words
from napari_addm.widgets.viewing.visibility import is_put_away

if TYPE_CHECKING:
    import napari

BLINK_MS = 350
TITLE = "addm_compared"
SCAN, RECONSTRUCTION = "scan", "reconstruction"


def find_pair(viewer: napari.viewer.Viewer) -> tuple[Image, Image] | None:
    """Find a scan and its reconstruction among the layers.

    Of several pairs take that of the active layer, else the topmost. A scan that is put away
    does not count.
    """
    by_id = {layer.unique_id: layer for layer in viewer.layers}
    found = []
    for layer in reversed(viewer.layers):
        scan_id, role = output_of(layer) or (None, None)
        if role == RECONSTRUCTION and scan_id in by_id and not is_put_away(by_id[scan_id]):
            found.append((unwrapped(by_id[scan_id]), unwrapped(layer)))
    active = viewer.layers.selection.active
    if active is not None:
        active_id, _ = output_of(active) or (active.unique_id, None)
        for pair in found:
            if pair[0].unique_id == active_id:
                return pair
    return found[0] if found else None


class Blink:
    """Show scan and reconstruction in turn, or the reconstruction while held.

    At the end both layers are as visible as they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    find : callable
        Finds the two layers; None if they are not there.
    words : tuple of str
        What is written over the one and the other.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        find: Callable[[napari.viewer.Viewer], tuple[Image, Image] | None] = find_pair,
        words: tuple[str, str] = (SCAN, RECONSTRUCTION),
    ) -> None:
        self._viewer = viewer
        self._find, self._words = find, words
        self._timer = QTimer()
        self._timer.setInterval(BLINK_MS)
        self._timer.timeout.connect(self._turn)
        self._pair: tuple[Image, Image] | None = None
        self._before: tuple[bool, bool] = (True, False)
        self._connections = Connections()

    @property
    def running(self) -> bool:
        """Whether scan and reconstruction are shown in turn."""
        return self._pair is not None and self._timer.isActive()

    def start(self) -> bool:
        """Begin with the reconstruction; False without a pair of layers."""
        if not self.hold():
            return False
        self._timer.start()
        return True

    def hold(self) -> bool:
        """Show the reconstruction in the scan's place until `stop`; False without a pair."""
        if self._pair is None:
            pair = self._find(self._viewer)
            if pair is None or TITLE in self._viewer.canvas.overlays:  # another pair is shown so
                return False
            self._pair = pair
            self._before = (pair[0].visible, pair[1].visible)
            self._connections.add(self._viewer.layers.events.removed, self._on_removed)
            self._viewer.canvas.overlays[TITLE] = white_words(position="top_left", visible=True)
        self._show(reconstruction=True)
        return True

    def stop(self) -> None:
        """End, and give both layers their visibility back."""
        self._timer.stop()
        self._connections.close()
        if self._pair is None:
            return
        for layer, visible in zip(self._pair, self._before, strict=True):
            layer.visible = visible
        self._pair = None
        self._viewer.canvas.overlays.pop(TITLE, None)

    def _turn(self) -> None:
        if self._pair is not None:
            self._show(reconstruction=not self._pair[1].visible)

    def _show(self, reconstruction: bool) -> None:
        assert self._pair is not None
        scan, redrawn = self._pair
        # show one before the other is hidden, so that the canvas is never empty
        if reconstruction:
            redrawn.visible, scan.visible = True, False
        else:
            scan.visible, redrawn.visible = True, False
        self._viewer.canvas.overlays[TITLE].text = self._words[reconstruction]

    def _on_removed(self, event: Any) -> None:
        if self._pair is not None and unwrapped(event.value) in self._pair:
            self.stop()


class Swipe:
    """The reconstruction on one side of a border across the slice, the scan on the other.

    The reconstruction's side is a layer of its own, whose voxels are a part of
    the reconstruction's (a view, no copy). napari clips layers in 3D only.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._connections = Connections()
        self._pair: tuple[Image, Image] | None = None
        self._border = 0.5
        self.layer: Image | None = None

    def start(self, border: float) -> bool:
        """Begin; False without a pair of layers, or in 3D.

        Parameters
        ----------
        border : float
            Share of the scan's width, from the left of the screen.
        """
        pair = find_pair(self._viewer)
        if pair is None or self._viewer.dims.ndisplay != 2:
            return False
        self.stop()
        scan, redrawn = self._pair = pair
        data, arguments, kind = redrawn.as_layer_data_tuple()
        arguments["name"] = f"{scan.name} swipe"
        arguments["visible"] = True
        self.layer = Layer.create(data, arguments, kind)
        remember_output(self.layer, scan.unique_id, "swipe", scan)
        above = max(map(self._viewer.layers.index, pair)) + 1
        active = unwrapped(self._viewer.layers.selection.active)
        self._viewer.layers.insert(above, self.layer)
        self._viewer.layers.selection.active = active
        link_layers([redrawn, self.layer], ("colormap", "contrast_limits", "gamma"))
        add = self._connections.add
        add(self._viewer.layers.events.removed, self._on_removed)
        add(self._viewer.dims.events.order, self._place)
        add(self._viewer.dims.events.ndisplay, self._place)
        add(redrawn.events.data, self._place)
        for layer in self._viewer.layers:
            # A hidden layer does not tell of updates in place; the other results of its run do.
            if role_of(layer) in ("anomaly", "labels"):
                add(layer.events.set_data, self._refresh)
        self.move(border)
        return True

    def move(self, border: float) -> None:
        """Move the border; see `start`."""
        self._border = border
        self._place()

    def stop(self) -> None:
        """End; the layer is gone."""
        self._connections.close()
        layer, self.layer, self._pair = self.layer, None, None
        if layer is not None:
            unlink_layers([layer])
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _place(self, event: Any = None) -> None:
        if self.layer is None or self._pair is None:
            return
        redrawn = self._pair[1]
        dims = self._viewer.dims
        axis = dims.displayed[-1] - dims.ndim + redrawn.ndim
        count = redrawn.data.shape[axis]
        mirrored = str(self._viewer.scene.camera.orientation[2]) == "left"
        share = 1 - self._border if mirrored else self._border
        # The part with the low indices: it begins where the reconstruction begins.
        width = int(np.clip(round(share * count), 0, count))
        self.layer.visible = width > 0 and dims.ndisplay == 2
        part = [slice(None)] * redrawn.ndim
        part[axis] = slice(max(width, 1))
        self.layer.data = redrawn.data[tuple(part)]

    def _refresh(self, event: Any = None) -> None:
        if self.layer is not None:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _on_removed(self, event: Any) -> None:
        gone = unwrapped(event.value)
        if gone is self.layer or (self._pair is not None and gone in self._pair):
            self.stop()
