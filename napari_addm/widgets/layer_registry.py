"""Which layers show a result, and of which scan. They follow their scan when it is moved.

Layers are known by identity. Metadata would not do: napari copies it into duplicates,
projections and conversions, which are a person's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Labels, Layer

from napari_addm.errors import AddmError
from napari_addm.widgets.layer_volumes import LayerData
from napari_addm.widgets.layers import GEOMETRY, same_place
from napari_addm.widgets.viewing.connections import unwrapped

if TYPE_CHECKING:
    import napari

TITLES = {
    "reconstruction": "reconstruction",
    "anomaly": "anomaly map",
    "brightness": "brightness",
    "uncertainty": "uncertainty",
    "labels": "anomalies",
    "agreement": "hits and misses",
    "earlier": "earlier scan",
    "earlier findings": "earlier findings",
}


@dataclass(eq=False)
class ResultLayer:
    """What is known of a layer that shows a result.

    Attributes
    ----------
    scan_id : hashable
        `unique_id` of the scan's layer.
    role : str
        A key of `TITLES`, or another word for a layer that only helps to compare.
    given : weak reference
        To the array that the layer was given. A person who sets another array makes the layer
        their own: it is left alone, and the next run forgets it.
    shape : tuple of int
        Shape of that array.
    written : ndarray or None
        Copy of the labels as they were last written, in the layer's voxel order; None for zeros.
    painted : bool
        Whether a person has painted since labels were last written.
    """

    scan_id: Hashable
    role: str
    given: weakref.ref[Any]
    shape: tuple[int, ...]
    written: np.ndarray | None = field(default=None, repr=False)
    painted: bool = False

    def holds(self, layer: Layer) -> bool:
        """Whether the layer still shows the result, or labels that a person has corrected."""
        if self.role not in TITLES or layer.data is self.given():
            return True
        # An operation on all labels sets another array of the same shape: a correction.
        return isinstance(layer, Labels) and np.shape(layer.data) == self.shape

    def differs(self, layer: Layer) -> bool:
        """Whether labels are not those that were written."""
        data = np.asarray(layer.data)
        if self.written is None:
            return bool(data.any())
        return not np.array_equal(data, self.written)

    def take(self, data: np.ndarray, is_labels: bool) -> None:
        """Remember an array that the layer is given."""
        self.given, self.shape = weakref.ref(data), np.shape(data)
        self.written = None
        if is_labels and data.any():
            self.written = data.astype(np.min_scalar_type(int(data.max())))

    def remember(self, labels: np.ndarray) -> None:
        """Remember labels in the layer's voxel order as they were written."""
        kept = self.written
        if kept is not None and (kept.shape, kept.dtype) == (labels.shape, labels.dtype):
            np.copyto(kept, labels)  # faster than new memory, under a moving threshold
        else:
            self.written = np.array(labels)

    def on_paint(self, event: Any = None) -> None:
        """Notice a stroke."""
        self.painted = True


_results: WeakKeyDictionary[Layer, ResultLayer] = WeakKeyDictionary()
# Corrections that were kept: a person's own, but they follow their scan, too.
_corrections: WeakKeyDictionary[Layer, Hashable] = WeakKeyDictionary()
# Where each scan with results was when it was last looked at.
_scans: WeakKeyDictionary[Layer, dict[str, Any]] = WeakKeyDictionary()
# What each of them was called then.
_names: WeakKeyDictionary[Layer, str] = WeakKeyDictionary()


def known(layer: Layer) -> ResultLayer | None:
    """What is known of a layer that a run made; None for a person's own, copies among them."""
    return _results.get(unwrapped(layer))


def is_output(layer: Layer) -> bool:
    """Whether a run made a layer, which is no copy of such a layer."""
    return known(layer) is not None


def output_of(layer: Layer) -> tuple[Hashable, str] | None:
    """`unique_id` of the scan whose result a layer shows, and its role; None for others."""
    result = known(layer)
    return None if result is None else (result.scan_id, result.role)


def role_of(layer: Layer) -> str | None:
    """What a layer shows of a result: a key of `TITLES`; None for a person's own layer."""
    result = known(layer)
    return None if result is None else result.role


def scan_of(layer: Layer) -> Hashable | None:
    """`unique_id` of the scan whose result a layer shows; None for a person's own layer."""
    result = known(layer)
    return None if result is None else result.scan_id


def is_changed(layer: Layer) -> bool:
    """Whether a person has given a result layer other voxels, or drawn on its labels."""
    result = known(layer)
    if result is None:
        return False
    return not result.holds(layer) or (isinstance(layer, Labels) and result.differs(layer))


def remember_output(layer: Layer, scan_id: Hashable, role: str, scan: Layer | None = None) -> None:
    """Register a layer as the result of a scan, which it follows.

    Parameters
    ----------
    layer : Layer
    scan_id : hashable
        `unique_id` of the scan's layer.
    role : str
        A key of `TITLES`, or ``"swipe"``.
    scan : Layer, optional
        The scan's layer, if it is still there.
    """
    layer = unwrapped(layer)
    result = ResultLayer(scan_id, role, weakref.ref(layer.data), np.shape(layer.data))
    _results[layer] = result
    if isinstance(layer, Labels):
        result.take(layer.data, is_labels=True)
        layer.events.paint.connect(result.on_paint)
    if scan is not None:
        _follow(scan)


def forget_output(layer: Layer) -> None:
    """Treat a result layer as a person's own from now on."""
    _results.pop(unwrapped(layer), None)


def remember_correction(layer: Layer, scan_id: Hashable) -> None:
    """Let a layer of kept corrections follow the scan of a `unique_id`."""
    _corrections[unwrapped(layer)] = scan_id


def forget_others(scan_id: Hashable, role: str, viewers: Iterable[napari.viewer.Viewer]) -> None:
    """Forget the layers of a scan and a role that were closed, or that a person has taken.

    Parameters
    ----------
    scan_id : hashable
    role : str
    viewers : iterable of napari.viewer.Viewer
        All that are open. A closed layer that is opened again is a person's own.
    """
    layers = [unwrapped(layer) for viewer in viewers for layer in viewer.layers]
    for other, result in list(_results.items()):
        if (result.scan_id, result.role) == (scan_id, role) and not (
            any(other is layer for layer in layers) and result.holds(other)
        ):
            forget_output(other)


def move_to(layer: Layer, geometry: dict[str, Any]) -> None:
    """Put a layer where the arguments of another layer put that one."""
    for name in GEOMETRY:
        if name not in geometry:
            continue
        value, now = geometry[name], getattr(layer, name)
        if name in ("units", "axis_labels"):
            if tuple(map(str, now)) != tuple(map(str, value)):
                setattr(layer, name, value)
        elif not np.array_equal(np.asarray(now), np.asarray(value)):
            setattr(layer, name, np.asarray(value))


def _follow(scan: Layer) -> None:
    """Let the results of a scan follow it; once for each scan."""
    scan = unwrapped(scan)
    if scan not in _scans:
        _scans[scan] = LayerData.of(scan).geometry
        for name in GEOMETRY:
            getattr(scan.events, name).connect(_on_scan_moved)
        _names[scan] = str(scan.name)
        scan.events.name.connect(_on_scan_renamed)


def _on_scan_renamed(event: Any) -> None:
    """Rename the results of a scan that are still called after it."""
    scan = unwrapped(event.source)
    before, _names[scan] = _names.get(scan, str(scan.name)), str(scan.name)
    owners = {layer: result.scan_id for layer, result in list(_results.items())}
    for layer, scan_id in (*owners.items(), *list(_corrections.items())):
        if scan_id == scan.unique_id and str(layer.name).startswith(f"{before} "):
            layer.name = f"{scan.name}{str(layer.name).removeprefix(before)}"


def _on_scan_moved(event: Any) -> None:
    scan = unwrapped(event.source)
    before = _scans.get(scan)
    if before is None:
        return
    try:
        now = LayerData.of(scan)
    except AddmError:  # the file of a frame has changed
        return
    _scans[scan] = now.geometry
    shape = np.shape(now.data)
    for layer, result in list(_results.items()):
        mine = result.scan_id == scan.unique_id and result.holds(layer)
        if mine and (np.shape(layer.data) == shape or result.role not in TITLES):
            move_to(layer, now.geometry)
    for layer, scan_id in list(_corrections.items()):
        if scan_id == scan.unique_id and np.shape(layer.data) == shape:
            _, meta, _ = layer.as_layer_data_tuple()
            if same_place(meta, before, shape):  # else a person moved it on purpose
                move_to(layer, now.geometry)
