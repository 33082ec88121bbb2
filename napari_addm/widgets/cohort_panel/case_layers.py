"""The layers of a cohort's cases in the viewer: a scan with its results exactly over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_addm.widgets.cohort_panel.saved_case import CaseVersion, SavedCase
from napari_addm.widgets.finding_colors import finding_colors, outline_truth
from napari_addm.widgets.layer_registry import forget_output, is_changed, is_output
from napari_addm.widgets.layer_volumes import LayerData, LayerVolume
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.run_layers import CORRECTED
from napari_addm.widgets.viewing.chosen_scan import fit, look_at
from napari_addm.widgets.viewing.connections import unwrapped
from napari_addm.widgets.viewing.planes import stand_upright
from napari_addm.widgets.viewing.visibility import belongs_to, give_back, put_away

if TYPE_CHECKING:
    import napari


@dataclass(frozen=True, eq=False)
class _CaseLayer:
    """What a layer shows. A copy of a layer has no entry: it is a person's own.

    Attributes
    ----------
    version : CaseVersion
    count : int
        Number of layers of the case.
    truth : ndarray or None
        The voxels of a ground truth as they were read.
    """

    version: CaseVersion
    count: int
    truth: np.ndarray | None


_cases: WeakKeyDictionary[Layer, _CaseLayer] = WeakKeyDictionary()


def bring_up(viewer: napari.viewer.Viewer, version: CaseVersion) -> bool:
    """Show an open case above all other layers, as it was seen last.

    Layers of other cases are hidden, as they lie at the same place. Layers of an older result of
    the case are closed, and so are those of a case whose layers are not all there.

    Returns
    -------
    bool
        Whether the case is open.
    """
    own = [layer for layer in viewer.layers if _version(layer) == version]
    for layer in list(viewer.layers):
        other = _version(layer)
        if other is None or other == version:
            continue
        if (other.output, other.case) == (version.output, version.case):
            _close(viewer, layer)
        else:
            put_away(layer)
    if not own or len(own) != _cases[unwrapped(own[0])].count:
        for layer in own:
            _close(viewer, layer)
        return False
    layers = viewer.layers
    layers.move_multiple([layers.index(layer) for layer in own], len(layers))
    for layer in own:
        give_back(layer)
    own[0].visible = True
    layers.selection.active = own[0]
    look_at(viewer, own[0])
    return True


def show_case(viewer: napari.viewer.Viewer, saved: SavedCase) -> None:
    """Add the layers of a case, and go to its largest finding."""
    if bring_up(viewer, saved.version):
        return
    stand_upright(viewer)
    layers = _add_layers(viewer, saved)
    for layer in layers:
        is_truth = isinstance(layer, Labels) and not is_output(layer)
        truth = saved.truth.data.copy() if is_truth and saved.truth is not None else None
        _cases[unwrapped(layer)] = _CaseLayer(saved.version, len(layers), truth)
    scan = layers[0]
    viewer.layers.selection.active = scan
    point = scan.data_to_world(saved.place)
    viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), point)


def _close(viewer: napari.viewer.Viewer, layer: Layer) -> None:
    """Remove a layer of a case; keep one that a person has drawn on, under another name."""
    entry = _cases.pop(unwrapped(layer))
    if is_changed(layer) or (
        entry.truth is not None and not np.array_equal(np.asarray(layer.data), entry.truth)
    ):
        forget_output(layer)
        layer.name = CORRECTED.format(layer.name)
    else:
        viewer.layers.remove(layer)


def _add_layers(viewer: napari.viewer.Viewer, saved: SavedCase) -> list[Layer]:
    """Add the layers of a case, and return them, the scan first."""
    data, arguments, _ = volume_to_layer(saved.scan, name=saved.version.case)
    scan = viewer.add_layer(Image(data, **arguments))
    fit(viewer, scan)
    layers = [scan]
    volume = LayerVolume(saved.scan, in_layer_order=True)
    results = ResultLayers(viewer, LayerData.of(scan), scan.unique_id, volume)
    parts = saved.maps if saved.labels is None else {**saved.maps, "labels": saved.labels}
    for role, part in parts.items():
        results.make(role, saved.threshold, part)
        if role == "labels":
            results.color_labels(finding_colors(None, (), int(part.max())))
        layers.append(results.layer(role))
    if saved.truth is not None:
        name = f"{saved.version.case} ground truth"
        data, arguments, _ = volume_to_layer(saved.truth, "labels", name=name)
        truth = Labels(data, **arguments)
        outline_truth(truth)
        belongs_to(truth, scan.unique_id)
        layers.append(viewer.add_layer(truth))
    return layers


def _version(layer: Layer) -> CaseVersion | None:
    entry = _cases.get(unwrapped(layer))
    return None if entry is None else entry.version
