"""Which scan a layer belongs to, and one scan at a time in view."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from napari.layers import Image, Layer

from napari_addm.widgets.layer_registry import is_output, scan_of
from napari_addm.widgets.layers import COMPUTED_KEY
from napari_addm.widgets.titles import path_of
from napari_addm.widgets.viewing.connections import unwrapped
from napari_addm.widgets.viewing.visibility import (
    beside,
    give_back,
    is_put_away,
    put_away,
    scans_of,
)

if TYPE_CHECKING:
    import napari

# Two scans show the same place if this share of the smaller one lies in the other.
SAME_PLACE = 0.5
# A person who sees a smaller share of a slice has zoomed in.
ZOOMED_IN = 0.6
# The next scan is cut off if less than this share as much of it is seen.
CUT_OFF = 0.9
# Share of the canvas that a fitted scan fills, as in napari.
FILLED = 0.95
# Air is darker than this share of the brightest voxels. Every so many voxels are looked at.
BRIGHT, STEP = 0.15, 3
# Room for the letters at each edge of a canvas.
LETTER_PIXELS = 30


def may_be_scan(layer: Any) -> TypeGuard[Image]:
    """Whether a layer may be a scan: a gray image of three axes or more.

    A result is no scan, and neither is a person's copy of one.
    """
    return isinstance(layer, Image) and not (
        is_output(layer) or COMPUTED_KEY in layer.metadata or layer.rgb or layer.ndim < 3
    )


def owners_of(layer: Layer, layers: Iterable[Layer]) -> set[Hashable]:
    """Give the `unique_id` of each scan that a layer belongs to; empty when that is not known.

    A scan belongs to itself, a result to its scan, and labels to the scans that they were chosen
    or made for. Any other layer belongs to the scan in its file's folder with the most similar
    name. Without such a file, it belongs to the scan that was in view when it was added.

    Parameters
    ----------
    layer : Layer
    layers : iterable of Layer
        All that are open.
    """
    if may_be_scan(layer):
        return {layer.unique_id}
    if is_output(layer):
        return {scan_of(layer)}
    if isinstance(layer, Image) and COMPUTED_KEY not in layer.metadata:  # some other picture
        return set()
    scans = [each for each in layers if may_be_scan(each)]
    owners = _by_file(layer, scans)
    came_beside = beside(layer)
    if not owners and came_beside in [scan.unique_id for scan in scans]:
        owners = {came_beside}
    return owners | scans_of(layer)


def _by_file(layer: Layer, scans: list[Image]) -> set[Hashable]:
    """Find the scans in the folder of a layer's file whose names share the longest beginning."""
    path = path_of(layer)
    if path is None:
        return set()
    alike: dict[Hashable, int] = {}
    for scan in scans:
        other = path_of(scan)
        if other is not None and other.absolute().parent == path.absolute().parent:
            alike[scan.unique_id] = _alike(path.name, other.name)
    return {scan for scan, length in alike.items() if length == max(alike.values())}


def _alike(one: str, other: str) -> int:
    """Count the letters that two names share at their beginning."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def is_of_another(layer: Layer, scan_id: Hashable, layers: Iterable[Layer]) -> bool:
    """Whether a layer belongs only to other scans than the one of a `unique_id`."""
    owners = owners_of(layer, layers)
    return bool(owners) and scan_id not in owners


def scan_behind(layer: Layer | None, layers: Iterable[Layer]) -> Hashable | None:
    """Give the `unique_id` of the scan that is meant by selecting a layer; None for no scan.

    That is the scan itself, the scan of a result, or the scan of a layer that is put away.
    """
    if layer is None:
        return None
    if may_be_scan(layer) or is_output(layer) or is_put_away(layer):
        return next(iter(owners_of(layer, layers)), None)
    return None


def scan_in_view(viewer: napari.viewer.Viewer) -> Image | None:
    """Find the scan that is meant by the selected layer; else the topmost one in view."""
    layers = list(viewer.layers)
    scans = [layer for layer in layers if may_be_scan(layer) and not is_put_away(layer)]
    meant = scan_behind(viewer.layers.selection.active, layers)
    found = [scan for scan in scans if scan.unique_id == meant] or scans[-1:]
    return unwrapped(found[0]) if found else None


def comparable_with(viewer: napari.viewer.Viewer, scan: Image) -> list[Image]:
    """List the images, no results, that show the same place as a scan, on whatever grid."""
    here = _box(viewer, scan)
    found = []
    for layer in viewer.layers:
        other = isinstance(layer, Image) and layer.unique_id != scan.unique_id
        if other and not (is_output(layer) or layer.rgb or layer.multiscale or layer.ndim < 3):
            there = _box(viewer, layer)
            if here is not None and there is not None and _overlap(here, there) >= SAME_PLACE:
                found.append(layer)
    return found


def bring_into_view(viewer: napari.viewer.Viewer, scan: Layer, before: Layer | None = None) -> None:
    """Show a scan and its layers, hide all other scans and their layers.

    Layers hidden here are shown again with their own scan; layers that a person has hidden stay
    hidden. Slice and camera stay where they are if the scan is visible there.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    scan : Layer
        A layer of `viewer`.
    before : Layer, optional
        The scan that was in view; it may be closed by now.
    """
    layers = list(viewer.layers)
    for layer in layers:
        if not is_of_another(layer, scan.unique_id, layers):
            give_back(layer)
    if not scan.visible:
        scan.visible = True
    # only now, so that the canvas is never empty between the two
    for layer in layers:
        if is_of_another(layer, scan.unique_id, layers) and layer is not scan:
            put_away(layer)
    look_at(viewer, scan, before)


def look_at(viewer: napari.viewer.Viewer, scan: Layer, before: Layer | None = None) -> None:
    """Go to the middle of a scan, and fit it to the canvas, unless it is visible already."""
    box = _box(viewer, scan)
    dims = viewer.dims
    if box is None or dims.ndim < box.shape[1]:
        return
    first = dims.ndim - box.shape[1]
    here = np.array(dims.point[first:])
    shown = [axis - first for axis in dims.displayed if axis >= first]
    if shown:
        here[shown] = viewer.scene.camera.center[-len(shown) :]
    inside = bool(((box[0] <= here) & (here <= box[1])).all())
    other = None if before is None else _box(viewer, before)
    if not inside or (other is not None and _overlap(box, other) < SAME_PLACE):
        dims.set_point(range(first, dims.ndim), box.mean(axis=0).tolist())
    elif other is None or dims.ndisplay != 2:
        return
    else:
        seen = _seen(viewer, other[:, shown])
        if seen < ZOOMED_IN or _seen(viewer, box[:, shown]) > CUT_OFF * seen:
            return  # the person has zoomed in, and can go on looking there
    fit(viewer, scan)


def fit_in_view(viewer: napari.viewer.Viewer) -> None:
    """Fit the scan in view to the canvas, wherever hidden ones lie."""
    scan = scan_in_view(viewer)
    if scan is None:
        viewer.reset_view()
    else:
        fit(viewer, scan)


def fit(viewer: napari.viewer.Viewer, scan: Layer) -> None:
    """Fit a scan to the canvas, however far hidden layers reach."""
    box, dims, camera = _box(viewer, scan), viewer.dims, viewer.scene.camera
    if box is None or dims.ndim == box.shape[1]:
        viewer.reset_view(layers=[unwrapped(scan)], reset_camera_angle=False)
        return
    viewer.reset_view(reset_camera_angle=False)  # it takes no layer with fewer axes
    low, high = box[:, [axis - (dims.ndim - box.shape[1]) for axis in dims.displayed]]
    middle = ((low + high) / 2).tolist()
    camera.center = (*camera.center[: -len(middle)], *middle)
    if dims.ndisplay == 2:
        camera.zoom = FILLED * float(np.min(np.array(viewer.canvas.size) / (high - low)))


def fit_brain(viewer: napari.viewer.Viewer, scan: Layer) -> None:
    """Fit what is bright in a scan to the canvas; dark margins may be cut."""
    box, dims, camera = _bright_box(scan), viewer.dims, viewer.scene.camera
    if box is None:
        fit(viewer, scan)
        return
    low, high = box[:, [axis - (dims.ndim - box.shape[1]) for axis in dims.displayed]]
    middle = ((low + high) / 2).tolist()
    camera.center = (*camera.center[: -len(middle)], *middle)
    size = high - low if dims.ndisplay == 2 else np.full(2, (high - low).max())
    room = np.array(viewer.canvas.size) - 2 * LETTER_PIXELS
    camera.zoom = float(np.min(room / size))


def is_wide(viewer: napari.viewer.Viewer, scan: Layer) -> bool:
    """Whether two pictures of a scan are larger side by side than one above the other."""
    box, dims = _bright_box(scan), viewer.dims
    box = _box(viewer, scan) if box is None else box
    if box is None:
        return True
    high, wide = (box[1] - box[0])[[axis - (dims.ndim - box.shape[1]) for axis in dims.displayed]]
    height, width = np.array(viewer.canvas.size) - 2 * LETTER_PIXELS
    return bool(min(height / high, width / 2 / wide) >= min(height / 2 / high, width / wide))


def _bright_box(layer: Layer) -> np.ndarray | None:
    """Give the corners, in the world, of what is bright in a layer of three axes."""
    if layer.ndim != 3:
        return None
    data = np.asarray(layer.data[::STEP, ::STEP, ::STEP])
    bright = np.argwhere(data > BRIGHT * np.percentile(data, 99.5))
    if not len(bright):
        return None
    corners = np.stack([bright.min(axis=0) - 1, bright.max(axis=0) + 1]) * STEP
    return np.sort([layer.data_to_world(corner) for corner in corners], axis=0)


def _box(viewer: napari.viewer.Viewer, layer: Layer) -> np.ndarray | None:
    """Give the lowest and the highest corner of a layer along its last three axes."""
    box = np.asarray(viewer.layers.get_extent([unwrapped(layer)]).world)[:, -3:]
    return box if np.isfinite(box).all() else None


def _seen(viewer: napari.viewer.Viewer, box: np.ndarray) -> float:
    """Compute the share of a slice that is within the canvas."""
    camera = viewer.scene.camera
    reach = np.array(viewer.canvas.size) / camera.zoom / 2
    center = np.array(camera.center[-2:])
    return _overlap(np.stack([center - reach, center + reach]), box, box)


def _overlap(one: np.ndarray, other: np.ndarray, of: np.ndarray | None = None) -> float:
    """Compute the share of a box, or of the smaller one, in which two boxes overlap."""
    if one.shape != other.shape:  # a picture beside a scan
        return 0.0
    sides = np.minimum(one[1], other[1]) - np.maximum(one[0], other[0])
    sizes = [float(np.prod(box[1] - box[0])) for box in ((one, other) if of is None else (of,))]
    return float(np.prod(sides.clip(0))) / min(sizes) if min(sizes) > 0 else 0.0
