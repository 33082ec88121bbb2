"""The layers of one run: found, made, written and removed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap

from napari_addm.errors import AddmError
from napari_addm.io.arrays import Box
from napari_addm.outputs.colors import EARLIER_COLOR, brightness_limits, map_limits
from napari_addm.widgets.finding_colors import (
    AGREEMENT_COLORS,
    BRIGHTNESS_COLORS,
    MAP_COLORS,
    finding_colors,
)
from napari_addm.widgets.layer_registry import (
    TITLES,
    forget_others,
    forget_output,
    is_changed,
    is_output,
    known,
    remember_correction,
    remember_output,
)
from napari_addm.widgets.layer_volumes import LayerData, LayerVolume
from napari_addm.widgets.layers import COMPUTED_KEY, METADATA_KEY, display_range, same_place
from napari_addm.widgets.viewing.overlays import open_viewers
from napari_addm.widgets.viewing.visibility import belongs_to, is_put_away, put_away

if TYPE_CHECKING:
    import napari

CORRECTED = "{}, corrected"
EVERYWHERE: Box = (slice(None), slice(None), slice(None))

Misfit = Literal["", "place", "voxels"]


def voxel_type(role: str) -> type[np.generic]:
    """Give the type of the voxels of a role's layer."""
    return np.int32 if role in ("labels", "earlier findings") else np.float32


class RunScan:
    """The layer of a run's scan, as the run had it and as it is now.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    before : LayerData
        When the run began.
    id : hashable
        The layer's `unique_id`. A layer that is renamed stays the same.
    """

    def __init__(self, viewer: napari.viewer.Viewer, before: LayerData, id: Hashable) -> None:
        self._viewer = viewer
        self.before = before
        self.id = id
        self._misfit: Misfit = ""

    @property
    def layer(self) -> Layer | None:
        """The layer, if it is still there."""
        return next((layer for layer in self._viewer.layers if layer.unique_id == self.id), None)

    @property
    def name(self) -> str:
        """What the layer is called; a closed one keeps its name."""
        layer = self.layer
        return self.before.name if layer is None else str(layer.name)

    @property
    def misfit(self) -> Misfit:
        """What of the layer is no longer as the run had it; empty while it fits.

        Of a closed scan it is what it was when the scan was still open.
        """
        layer = self.layer
        if layer is not None:
            now = _snapshot(layer)
            if now is None or not _same_array(now.data, self.before.data):
                self._misfit = "voxels"
            else:
                there = same_place(now.meta, self.before.meta, np.shape(now.data))
                self._misfit = "" if there else "place"
        return self._misfit

    @property
    def geometry(self) -> dict[str, Any]:
        """Arguments that put a layer where the scan is now."""
        layer = self.layer
        now = None if layer is None else _snapshot(layer)
        if now is None or np.shape(now.data) != np.shape(self.before.data):
            return self.before.geometry
        return now.geometry


class RunLayers:
    """The layers of one run on one scan.

    A person may take a layer: convert it, or give it other voxels. Then it is left alone.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    scan : LayerData
        The scan's layer when the run began.
    scan_id : hashable
        Its `unique_id`.
    volume : LayerVolume
        Its volume.

    Attributes
    ----------
    corrected : str or None
        Name of the layer that last kept a person's corrections.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        scan: LayerData,
        scan_id: Hashable,
        volume: LayerVolume,
    ) -> None:
        self._viewer = viewer
        self._scan = RunScan(viewer, scan, scan_id)
        self.volume = volume
        self.corrected: str | None = None

    @property
    def scan_layer(self) -> Layer | None:
        """The scan's layer, if it is still there."""
        return self._scan.layer

    @property
    def misfit(self) -> Misfit:
        """What of the scan's layer is no longer as the run had it; empty while it fits."""
        return self._scan.misfit

    def layer(self, role: str) -> Layer | None:
        """Find the layer of a role (a key of `TITLES`)."""
        found = None
        for layer in self._viewer.layers:
            result = known(layer)
            if result is not None and (result.scan_id, result.role) == (self._scan.id, role):
                if result.holds(layer):
                    return layer
                found = found or layer
        return found

    def _own(self, role: str) -> Layer | None:
        """Find the layer of a role, unless a person has given it other voxels."""
        layer = self.layer(role)
        result = None if layer is None else known(layer)
        return layer if layer is not None and result is not None and result.holds(layer) else None

    def _zeros(self, role: str) -> np.ndarray:
        shape = self.volume.to_layer(self.volume.volume.data).shape
        return np.zeros(shape, voxel_type(role))

    def _clear(self, layer: Layer, role: str) -> None:
        """Let a layer hold zeros, in the memory that it has if that is the volume's and ours."""
        like = self.volume.to_layer(self.volume.volume.data).shape, voxel_type(role)
        if (
            _is_alone_with_its_voxels(layer, self._viewer)
            and (layer.data.shape, layer.data.dtype) == like
            and layer.data.flags.writeable
        ):
            layer.data.fill(0)  # new memory takes ten times as long
            give(layer, layer.data)
        else:
            give(layer, self._zeros(role))

    def _write(self, role: str, array: np.ndarray, *boxes: Box) -> None:
        """Write an array of shape (S, A, R), or only what is in some boxes, and show it."""
        layer = self._own(role)
        if layer is None or np.shape(layer.data) != self.volume.to_layer(array).shape:
            return
        if not (_is_alone_with_its_voxels(layer, self._viewer) and layer.data.flags.writeable):
            give(layer, np.array(layer.data, voxel_type(role)))
        shown = self.volume.from_layer(layer.data)  # a view
        for box in boxes or (EVERYWHERE,):
            shown[box] = array[box]
        layer.refresh(highlight=False, extent=False)

    def _keep_corrections(self, layer: Layer) -> bool:
        """Copy labels that a person has drawn on, if so, into a layer of their own."""
        result = known(layer)
        if result is None or not is_changed(layer):
            return False
        forget_strokes(layer)
        data, arguments, kind = layer.as_layer_data_tuple()
        arguments |= {"name": CORRECTED.format(layer.name), "visible": False}
        copy = Layer.create(np.array(data), arguments, kind)
        remember_correction(copy, self._scan.id)
        belongs_to(copy, self._scan.id)
        self._add(copy)
        self.corrected = str(copy.name)
        return True

    def _remember(self, role: str, labels: np.ndarray) -> None:
        """Remember labels (S, A, R) as they were written, to notice later what a person draws."""
        layer = self._own(role)
        result = None if layer is None else known(layer)
        shown = self.volume.to_layer(labels)
        if layer is not None and result is not None and np.shape(layer.data) == shown.shape:
            result.remember(shown)

    def _create(self, role: str, data: np.ndarray, threshold: float) -> Layer:
        """Add a new layer of a role."""
        before = self._scan.before
        metadata: dict[str, Any] = {COMPUTED_KEY: True}
        if METADATA_KEY in before.meta.get("metadata", {}):
            metadata[METADATA_KEY] = before.meta["metadata"][METADATA_KEY]
        arguments = {
            **self._scan.geometry,
            "name": f"{self._scan.name} {TITLES[role]}",
            "metadata": metadata,
        }
        limits = before.meta.get("contrast_limits")
        layer = _new_layer(role, data, threshold, limits, arguments)
        forget_others(self._scan.id, role, (self._viewer, *open_viewers()))
        scan = self.scan_layer
        remember_output(layer, self._scan.id, role, scan)
        if scan is not None and is_put_away(scan):
            put_away(layer)
        self._add(layer)
        return layer

    def _add(self, layer: Layer) -> None:
        """Add a layer, and leave the layer list's selection as it is."""
        selection = self._viewer.layers.selection
        chosen = selection.active
        if chosen is None:
            self._viewer.add_layer(layer)
            return
        # With the events the window would show the new layer's controls, and then the others again.
        with selection.events.blocker_all():
            self._viewer.add_layer(layer)
            selection.active = chosen

    def _remove(self, role: str) -> None:
        """Remove the layer of a role; what a person has made of it stays."""
        layer, own = self.layer(role), self._own(role)
        if own is not None:
            self._keep_corrections(own)
            self._viewer.layers.remove(own)
        elif layer is not None:
            forget_output(layer)


def _new_layer(
    role: str,
    data: np.ndarray,
    threshold: float,
    contrast_limits: tuple[float, float] | None,
    arguments: dict[str, Any],
) -> Layer:
    """Make the layer of a role; the contrast limits are the scan's."""
    low, top = map_limits(threshold)
    if role == "labels":
        colormap = CyclicLabelColormap(colors=finding_colors(None, (), 0))
        layer = Labels(data, colormap=colormap, opacity=1.0, **arguments)
        layer.contour = 1
        return layer
    if role == "agreement":
        colors = {None: "transparent"} | AGREEMENT_COLORS
        colormap = DirectLabelColormap(color_dict=colors)
        return Labels(data, colormap=colormap, opacity=0.6, **arguments)
    if role == "earlier findings":
        colormap = DirectLabelColormap(color_dict={None: EARLIER_COLOR, 0: "transparent"})
        layer = Labels(data, colormap=colormap, opacity=1.0, **arguments)
        layer.contour = 1
        return layer
    if role in ("reconstruction", "earlier"):
        # It would hide the scan.
        if role == "earlier":  # often of another scanner
            contrast_limits = display_range(data)
        arguments |= {"colormap": "gray", "contrast_limits": contrast_limits, "visible": False}
    elif role == "uncertainty":
        arguments |= {"colormap": "viridis", "blending": "additive", "visible": False}
        arguments |= {"contrast_limits": (0.0, top / 2)}
    elif role == "brightness":
        # The largest value along a ray would hide all that is darker.
        arguments |= {"colormap": BRIGHTNESS_COLORS, "rendering": "translucent", "visible": False}
        arguments |= {"contrast_limits": brightness_limits(threshold)}
    else:
        # Scores far below the threshold stay clear, so that the scan keeps its gray.
        assert role == "anomaly"
        arguments |= {"colormap": MAP_COLORS, "contrast_limits": (low, top)}
    return Image(data, **arguments)


def give(layer: Layer, data: np.ndarray) -> None:
    """Let a result layer show another array, which is ours to write into."""
    result = known(layer)
    assert result is not None
    result.take(data, isinstance(layer, Labels))
    layer.data = data


def forget_strokes(layer: Layer) -> None:
    """Clear the undo history of labels that are about to be replaced."""
    result = known(layer)
    if isinstance(layer, Labels) and result is not None and result.painted:
        mode = layer.mode
        layer.editable = False  # napari clears the history with this
        layer.editable, layer.mode = True, mode
        result.painted = False


def _is_alone_with_its_voxels(layer: Layer, viewer: napari.viewer.Viewer) -> bool:
    """Whether voxels written into a result layer show in no layer of a person's."""
    data, result = layer.data, known(layer)
    if result is None or result.given() is not data:
        return False  # the array is a person's
    others = (other for each in (viewer, *open_viewers()) for other in each.layers)
    return not any(
        isinstance(other.data, np.ndarray)
        and not is_output(other)
        and np.may_share_memory(other.data, data)
        for other in others
    )


def _snapshot(layer: Layer) -> LayerData | None:
    """Snapshot of a layer; None when the file of its frame has changed."""
    try:
        return LayerData.of(layer)
    except AddmError:
        return None


def _same_array(one: Any, other: Any) -> bool:
    """Whether two arrays are the same voxels in memory, or the same task of dask's."""
    if np.shape(one) != np.shape(other):
        return False
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one is other or (
            one.__array_interface__["data"] == other.__array_interface__["data"]
            and one.strides == other.strides
            and one.dtype == other.dtype
        )
    if hasattr(one, "dask") and hasattr(other, "dask"):
        return bool(one.name == other.name)
    return type(one) is type(other)
