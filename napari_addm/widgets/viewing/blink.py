"""A scan and another picture of the same place, in turn or on the two sides of a border."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.experimental import link_layers, unlink_layers
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QTimer

from napari_addm.widgets.layer_registry import output_of, remember_output, role_of
from napari_addm.widgets.titles import title_of
from napari_addm.widgets.viewing.chosen_scan import scan_in_view
from napari_addm.widgets.viewing.connections import Connections, unwrapped
from napari_addm.widgets.viewing.overlays import white_words
from napari_addm.widgets.viewing.visibility import is_put_away

if TYPE_CHECKING:
    import napari

BLINK_MS = 350
TITLE = "addm_compared"
SCAN, RECONSTRUCTION = "scan", "reconstruction"


def find_pair(
    viewer: napari.viewer.Viewer, other: Hashable | None = None
) -> tuple[Image, Image] | None:
    """Find a scan among the layers, and what it is compared with.

    Of several scans take that of the active layer, else the topmost. A scan that is put away
    does not count.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    other : hashable, optional
        `unique_id` of an image; by default it is the scan's reconstruction.
    """
    by_id = {layer.unique_id: unwrapped(layer) for layer in viewer.layers}
    if other is not None:
        scan, image = scan_in_view(viewer), by_id.get(other)
        return None if scan is None or image is None or image is scan else (scan, image)
    found = []
    for layer in reversed(viewer.layers):
        scan_id, role = output_of(layer) or (None, None)
        if role == RECONSTRUCTION and scan_id in by_id and not is_put_away(by_id[scan_id]):
            found.append((by_id[scan_id], unwrapped(layer)))
    active = viewer.layers.selection.active
    if active is not None:
        active_id, _ = output_of(active) or (active.unique_id, None)
        for pair in found:
            if pair[0].unique_id == active_id:
                return pair
    return found[0] if found else None


def names_of(pair: tuple[Image, Image]) -> tuple[str, str]:
    """Name a scan and what it is compared with."""
    if role_of(pair[1]) == RECONSTRUCTION:
        return SCAN, RECONSTRUCTION
    return title_of(pair[0]), title_of(pair[1])


class Blink:
    """Show scan and another image in turn, or the other image while held.

    At the end both layers are as visible as they were, and where they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    find : callable
        Finds the two layers; None if they are not there.
    words : tuple of str, optional
        What is written over the one and the other; by default their names.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        find: Callable[[napari.viewer.Viewer], tuple[Image, Image] | None] = find_pair,
        words: tuple[str, str] | None = None,
    ) -> None:
        self._viewer = viewer
        self._find, self._words = find, words
        self._timer = QTimer()
        self._timer.setInterval(BLINK_MS)
        self._timer.timeout.connect(self._turn)
        self._pair: tuple[Image, Image] | None = None
        self._before: tuple[bool, bool] = (True, False)
        self._below: Layer | None = None  # what the other image lay on, if it was moved
        self._connections = Connections()

    @property
    def running(self) -> bool:
        """Whether the two are shown in turn."""
        return self._pair is not None and self._timer.isActive()

    @property
    def shows(self) -> bool:
        """Whether the two are compared, in turn or held."""
        return self._pair is not None

    def start(self) -> bool:
        """Begin with the other image; False without a pair of layers."""
        if not self.hold():
            return False
        self._timer.start()
        return True

    def hold(self) -> bool:
        """Show the other image in the scan's place until `stop`; False without a pair."""
        if self._pair is None:
            pair = self._find(self._viewer)
            if pair is None or TITLE in self._viewer.canvas.overlays:  # another pair is shown so
                return False
            self._pair = pair
            self._before = (pair[0].visible, pair[1].visible)
            self._lay_below_outlines()
            self._connections.add(self._viewer.layers.events.removed, self._on_removed)
            self._viewer.canvas.overlays[TITLE] = white_words(position="top_left", visible=True)
        self._show(other=True)
        return True

    def _lay_below_outlines(self) -> None:
        """Move the other image down to the scan, if it would cover outlines."""
        assert self._pair is not None
        scan, image = self._pair
        layers = self._viewer.layers
        low, high = layers.index(scan), layers.index(image)
        if any(isinstance(layer, Labels) for layer in layers[low:high]):
            self._below = unwrapped(layers[high - 1])
            layers.move(high, low + 1)

    def stop(self) -> None:
        """End, and give both layers their visibility and their place back."""
        with contextlib.suppress(RuntimeError):  # Qt's side may be gone already
            self._timer.stop()
        self._connections.close()
        pair, self._pair = self._pair, None
        below, self._below = self._below, None
        if pair is None:
            return
        for layer, visible in zip(pair, self._before, strict=True):
            layer.visible = visible
        layers = self._viewer.layers
        if below in layers and pair[1] in layers:
            layers.move(layers.index(pair[1]), layers.index(below) + 1)
        self._viewer.canvas.overlays.pop(TITLE, None)

    def _turn(self) -> None:
        if self._pair is not None:
            self._show(other=not self._pair[1].visible)

    def _show(self, other: bool) -> None:
        assert self._pair is not None
        scan, image = self._pair
        # show one before the other is hidden, so that the canvas is never empty
        if other:
            image.visible, scan.visible = True, False
        else:
            scan.visible, image.visible = True, False
        words = self._words or names_of(self._pair)
        self._viewer.canvas.overlays[TITLE].text = words[other]

    def _on_removed(self, event: Any) -> None:
        if self._pair is not None and unwrapped(event.value) in self._pair:
            self.stop()


class Swipe:
    """Another image on one side of a border across the slice, the scan on the other.

    The other image's side is a layer of its own, whose voxels are a part of
    the image's (a view, no copy). napari clips layers in 3D only.

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

    def start(self, border: float, other: Hashable | None = None) -> bool:
        """Begin; False without a pair of layers, or in 3D.

        Parameters
        ----------
        border : float
            Share of the scan's width, from the left of the screen.
        other : hashable, optional
            See `find_pair`.
        """
        pair = find_pair(self._viewer, other)
        if pair is None or self._viewer.dims.ndisplay != 2:
            return False
        self.stop()
        scan, image = self._pair = pair
        data, arguments, kind = image.as_layer_data_tuple()
        arguments |= {"name": f"{scan.name} swipe", "visible": True}
        arguments |= {"opacity": 1.0, "blending": "translucent_no_depth"}  # hides the scan
        self.layer = Layer.create(data, arguments, kind)
        owner = image if role_of(image) is None else scan  # it follows the one on its voxels
        remember_output(self.layer, owner.unique_id, "swipe", owner)
        above = self._viewer.layers.index(scan) + 1  # and below outlines
        selection = self._viewer.layers.selection
        active = unwrapped(selection.active)
        with selection.events.blocker_all():  # the panel would bring its scan into view
            self._viewer.layers.insert(above, self.layer)
            selection.active = active
        link_layers([image, self.layer], ("colormap", "contrast_limits", "gamma"))
        words = "  |  ".join(names_of(pair))
        self._viewer.canvas.overlays[TITLE] = white_words(
            text=words, position="top_left", visible=True
        )
        add = self._connections.add
        add(self._viewer.layers.events.removed, self._on_removed)
        add(self._viewer.dims.events.order, self._place)
        add(self._viewer.dims.events.ndisplay, self._place)
        add(image.events.data, self._place)
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
            self._viewer.canvas.overlays.pop(TITLE, None)
            unlink_layers([layer])
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _place(self, event: Any = None) -> None:
        if self.layer is None or self._pair is None:
            return
        scan, image = self._pair
        dims = self._viewer.dims
        axis = dims.displayed[-1] - dims.ndim  # from the last
        mirrored = str(self._viewer.scene.camera.orientation[2]) == "left"
        share = 1 - self._border if mirrored else self._border
        # The part with the low indices: it begins where the image begins.
        border = np.zeros(scan.ndim)
        border[axis] = share * scan.data.shape[axis] - 0.5
        width = image.world_to_data(scan.data_to_world(border)[-image.ndim :])[axis] + 0.5
        count = int(np.clip(round(float(width)), 0, image.data.shape[axis]))
        self.layer.visible = count > 0 and dims.ndisplay == 2
        part = [slice(None)] * image.ndim
        part[axis] = slice(max(count, 1))
        self.layer.data = image.data[tuple(part)]

    def _refresh(self, event: Any = None) -> None:
        if self.layer is not None:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _on_removed(self, event: Any) -> None:
        gone = unwrapped(event.value)
        if gone is self.layer or (self._pair is not None and gone in self._pair):
            self.stop()
