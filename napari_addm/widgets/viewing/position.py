"""Where the viewer's slices are in a layer's voxels, and how to move them to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer

if TYPE_CHECKING:
    import napari


def viewer_index(viewer: napari.viewer.Viewer, layer: Layer) -> tuple[float, ...] | None:
    """Position of the viewer in a layer's voxels; None when the layer has more axes."""
    if viewer.dims.ndim < layer.ndim:
        return None
    return tuple(float(n) for n in layer.world_to_data(viewer.dims.point[-layer.ndim :]))


def go_to_voxel(viewer: napari.viewer.Viewer, layer: Layer, index: tuple[float, ...]) -> None:
    """Move all slices of the viewer to a voxel of a layer, and have it in sight in 2D."""
    point = [float(n) for n in layer.data_to_world(index)]
    dims, first = viewer.dims, viewer.dims.ndim - len(point)
    dims.set_point(range(first, dims.ndim), point)
    if dims.ndisplay == 3:
        return
    # Only a person who has zoomed in may not see it; else the picture stays where it is.
    low, high = np.asarray(layer.corner_pixels)
    shown = [axis - first for axis in dims.displayed if axis >= first]
    if high.any() and any(not low[n] <= index[n] <= high[n] for n in shown):
        camera = viewer.scene.camera
        camera.center = (*camera.center[: -len(shown)], *(point[n] for n in shown))
