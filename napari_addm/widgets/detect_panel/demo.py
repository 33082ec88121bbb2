"""Opening the demo case so that its lesion is seen, and its truth stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels

from napari_addm.widgets.viewing.position import go_to_voxel

if TYPE_CHECKING:
    import napari


def show_demo(viewer: napari.viewer.Viewer) -> None:
    """Open the demo case at the middle of its lesion, with the scan selected."""
    for layer in viewer.open_sample("napari-addm", "demo"):
        if isinstance(layer, Labels):
            layer.editable = False  # a digit would pick a brush, and a click change the answer
            lesion = np.argwhere(np.asarray(layer.data)).mean(axis=0).round()
            go_to_voxel(viewer, layer, tuple(int(n) for n in lesion))
        elif isinstance(layer, Image):
            scan = layer
    viewer.layers.selection.active = scan
