"""The layers that show a detection, exactly over the scan."""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap, CyclicLabelColormap, DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color

from napari_addm.detection.pipeline import Detection
from napari_addm.errors import AddmError
from napari_addm.io.arrays import Box, bounding_box
from napari_addm.review.agreement import FALSE_ALARM, HIT, MISSED
from napari_addm.widgets.jobs import LayerData, Placed, Room, layer_type
from napari_addm.widgets.layers import COMPUTED_KEY, GEOMETRY, METADATA_KEY, same_place
from napari_addm.widgets.viewing.linked_canvas import unwrapped
from napari_addm.widgets.viewing.overlays import (
    forget_strokes,
    hold_overlays,
    open_viewers,
    set_color_bar,
)
from napari_addm.widgets.viewing.turns import Turns, draw_first
from napari_addm.widgets.viewing.visibility import belongs_to, is_put_away, put_away

if TYPE_CHECKING:
    import napari

CORRECTED = "{}, corrected"
TITLES = {
    "reconstruction": "reconstruction",
    "anomaly": "anomaly map",
    "uncertainty": "uncertainty",
    "labels": "anomalies",
    "agreement": "hits and misses",
}
# Clear where nothing is, so that the scan shows through; half of it lies below the threshold.
GLOW = Colormap(
    [[0.8, 0.0, 0.2, 0.0], [0.95, 0.25, 0.1, 0.35], [1.0, 0.65, 0.1, 0.7], [1.0, 0.95, 0.5, 0.8]],
    name="anomaly",
    display_name="anomaly",
)
# Okabe and Ito's colours, which people who see red and green alike can tell apart.
AGREEMENT_COLORS = {HIT: "#009e73", FALSE_ALARM: "#d55e00", MISSED: "#56b4e9"}
# Far from grey and from the glow, and from one to the next.
FINDING_COLORS = ("#35e0ff", "#7dff5c", "#ff7bf2", "#9d9bff", "#ffe14d", "#4dffc3")
SELECTED_COLOR = "#ffffff"
DIMMED = 0.25
EVERYWHERE: Box = (slice(None), slice(None), slice(None))
NOWHERE: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
# Of colors in a texture of napari's.
MOST_COLORS = 2**16 - 1


def finding_colors(selected: int | None, rejected: Collection[int], highest: int) -> np.ndarray:
    """Colors by number, as napari's cyclic colormap takes them.

    Parameters
    ----------
    selected : int or None
        Stands out.
    rejected : collection of int
        Dimmed.
    highest : int
        Number that occurs.

    Returns
    -------
    ndarray of float32, shape (n, 4)
        RGBA; row 0 is the background's, and after the last one it goes on with row 1.
    """
    palette = transform_color(FINDING_COLORS)
    cycle = len(palette)
    special = [id for id in (selected, *rejected) if id is not None and 0 < id <= highest]
    rounds = 1
    if special and highest < MOST_COLORS - cycle:
        # One row for each number; rounded up, so that it seldom changes under a moving threshold.
        rounds = 2 ** math.ceil(math.log2(max(highest, cycle) / cycle))
        rounds = min(rounds, MOST_COLORS // cycle)
    else:
        special = []
    colors = np.concatenate([np.zeros((1, 4)), np.tile(palette, (rounds, 1))]).astype(np.float32)
    for id in special:
        if id == selected:
            colors[id] = transform_color(SELECTED_COLOR)[0]
    for id in special:
        if id in rejected:
            colors[id, 3] *= 2 * DIMMED if id == selected else DIMMED
    return colors


def _around(one: Box, other: Box) -> Box:
    """The smallest box around two; one of them may be empty, or everywhere."""
    if EVERYWHERE in (one, other):
        return EVERYWHERE
    if any(side.start == side.stop for side in other):
        return one
    if any(side.start == side.stop for side in one):
        return other
    s, a, r = (
        slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(one, other, strict=True)
    )
    return s, a, r


Misfit = Literal["", "place", "voxels"]


# --- which layers are ours -----------------------------------------------------------------------


@dataclass(eq=False)
class _Made:
    """What is known of a layer that shows a result.

    It is kept by the layer itself, for as long as that lives, whichever panel made it. Metadata
    would not do: napari copies that into duplicates, projections and conversions.

    Attributes
    ----------
    scan_id : hashable
        `unique_id` of the scan's layer.
    role : str
        A key of `TITLES`, or another word for a layer that only helps to compare.
    given : weak reference
        To the array that the layer was given. Who sets another one has made the layer their own:
        it is left alone, and the next run forgets it.
    shape : tuple of int
        Of that array.
    written : ndarray or None
        Copy of the labels as they were last written, in the layer's voxel order; None for zeros.
    unseen : bool
        Whether the layer is still to be revealed.
    """

    scan_id: Hashable
    role: str
    given: weakref.ref[Any]
    shape: tuple[int, ...]
    written: np.ndarray | None = field(default=None, repr=False)
    unseen: bool = False

    def holds(self, layer: Layer) -> bool:
        """Whether the layer still shows the result, or labels that a person has corrected."""
        if self.role not in TITLES or layer.data is self.given():
            return True
        # Who corrects labels by an operation on all of them sets another array of their shape.
        return isinstance(layer, Labels) and np.shape(layer.data) == self.shape

    def is_drawn_on(self, layer: Layer) -> bool:
        """Whether labels are others than were written."""
        data = np.asarray(layer.data)
        if self.written is None:
            return bool(data.any())
        return not np.array_equal(data, self.written)


_made: WeakKeyDictionary[Layer, _Made] = WeakKeyDictionary()
# Corrections that were kept: a person's own, but they go along when their scan is moved.
_corrections: WeakKeyDictionary[Layer, Hashable] = WeakKeyDictionary()
# The arguments that say where each scan with results lay when it was last looked at.
_scans: WeakKeyDictionary[Layer, dict[str, Any]] = WeakKeyDictionary()


def _known(layer: Layer) -> _Made | None:
    return _made.get(unwrapped(layer))


def output_of(layer: Layer) -> tuple[Hashable, str] | None:
    """The `unique_id` of the scan whose result a layer shows, and its role; None for others."""
    made = _known(layer)
    return None if made is None else (made.scan_id, made.role)


def role_of(layer: Layer) -> str | None:
    """What a layer shows of a result: a key of `TITLES`; None for a person's own layer."""
    made = _known(layer)
    return None if made is None else made.role


def scan_of(layer: Layer) -> Hashable | None:
    """`unique_id` of the scan whose result a layer shows; None for a person's own layer."""
    made = _known(layer)
    return None if made is None else made.scan_id


def is_output(layer: Layer) -> bool:
    """Whether a layer was made by a run, and is no copy of such a layer."""
    return _known(layer) is not None


def remember_output(layer: Layer, scan_id: Hashable, role: str, scan: Layer | None = None) -> None:
    """Take a layer for the result of a scan from now on, and let it lie where the scan lies.

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
    _made[layer] = _Made(scan_id, role, weakref.ref(layer.data), np.shape(layer.data))
    if scan is not None:
        _follow(scan)


def forget_output(layer: Layer) -> None:
    """Treat a result layer as a person's own from now on."""
    _made.pop(unwrapped(layer), None)


def is_changed(layer: Layer) -> bool:
    """Whether a person has given a result layer other voxels, or drawn on its labels."""
    made = _known(layer)
    if made is None:
        return False
    return not made.holds(layer) or (isinstance(layer, Labels) and made.is_drawn_on(layer))


# --- where they lie ------------------------------------------------------------------------------


def _follow(scan: Layer) -> None:
    """Let the results of a scan go along when it is moved; once for each scan."""
    scan = unwrapped(scan)
    if scan not in _scans:
        _scans[scan] = _geometry(LayerData.of(scan).meta)
        for name in GEOMETRY:
            getattr(scan.events, name).connect(_on_scan_moved)


def _on_scan_moved(event: Any) -> None:
    scan = unwrapped(event.source)
    before = _scans.get(scan)
    if before is None:
        return
    try:
        now = LayerData.of(scan)
    except AddmError:  # the file of a frame is not what it was
        return
    _scans[scan] = _geometry(now.meta)
    shape = np.shape(now.data)
    for layer, made in list(_made.items()):
        mine = made.scan_id == scan.unique_id and made.holds(layer)
        if mine and (np.shape(layer.data) == shape or made.role not in TITLES):
            _lay(layer, now.meta)
    for layer, scan_id in list(_corrections.items()):
        if scan_id == scan.unique_id and np.shape(layer.data) == shape:
            _, meta, _ = layer.as_layer_data_tuple()
            if same_place(meta, before, shape):  # else it was moved on purpose
                _lay(layer, now.meta)


def _geometry(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: meta[name] for name in GEOMETRY if name in meta}


def _lay(layer: Layer, meta: dict[str, Any]) -> None:
    """Put a layer where the arguments of another one put that."""
    for name in GEOMETRY:
        if name not in meta:
            continue
        value, now = meta[name], getattr(layer, name)
        if name in ("units", "axis_labels"):
            if tuple(map(str, now)) != tuple(map(str, value)):
                setattr(layer, name, value)
        elif not np.array_equal(np.asarray(now), np.asarray(value)):
            setattr(layer, name, np.asarray(value))


class ResultLayers:
    """The output layers of one run on one scan.

    They know their scan by its `unique_id`, so that renaming does no harm and
    the next run on the same scan takes them over. One that the user deletes
    stays deleted until the next run.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    scan : LayerData
        The scan's layer when the run began.
    scan_id : hashable
        Its `unique_id`.
    placed : Placed
        Its volume.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        scan: LayerData,
        scan_id: Hashable,
        placed: Placed,
    ) -> None:
        self._viewer = viewer
        self._scan = scan
        self._scan_id = scan_id
        self.placed = placed
        self._made: set[str] = set()
        self._turns = Turns(None)
        self._begun = False
        self._misfit: Misfit = ""
        # The layer of the findings, and its voxels, as of the last time that they were written.
        self._findings: tuple[weakref.ref[Layer], weakref.ref[Any]] | None = None
        self._labelled: Box = NOWHERE
        self.corrected: str | None = None
        self._covered: list[Layer] = []  # hidden while hits and misses are shown

    @property
    def scan_layer(self) -> Layer | None:
        """The scan's layer, if it is still there."""
        for layer in self._viewer.layers:
            if layer.unique_id == self._scan_id:
                return layer
        return None

    def layer(self, role: str) -> Layer | None:
        """The layer of a role (a key of `TITLES`), if it is there."""
        found = None
        for layer in self._viewer.layers:
            made = _known(layer)
            if made is not None and (made.scan_id, made.role) == (self._scan_id, role):
                if made.holds(layer):
                    return layer
                found = found or layer
        return found

    def _own(self, role: str) -> Layer | None:
        """The layer of a role, unless a person has given it other voxels: then it is theirs."""
        layer = self.layer(role)
        made = None if layer is None else _known(layer)
        return layer if layer is not None and made is not None and made.holds(layer) else None

    @property
    def misfit(self) -> Misfit:
        """What of the scan's layer is no longer as the run had it; empty while it fits.

        Of a scan that is closed it is what it was when that was still open.
        """
        layer = self.scan_layer
        if layer is not None:
            self._misfit = self._misfit_of(layer)
        return self._misfit

    def _misfit_of(self, scan: Layer) -> Misfit:
        try:
            now = LayerData.of(scan)
        except AddmError:
            return "voxels"
        shape = np.shape(now.data)
        if shape != np.shape(self._scan.data) or not _same_array(now.data, self._scan.data):
            return "voxels"
        return "" if same_place(now.meta, self._scan.meta, shape) else "place"

    @property
    def _place(self) -> dict[str, Any]:
        """Arguments that put a layer where the scan lies now."""
        layer = self.scan_layer
        if layer is not None:
            try:
                now = LayerData.of(layer)
            except AddmError:
                return self._scan.meta
            if np.shape(now.data) == np.shape(self._scan.data):
                return now.meta
        return self._scan.meta

    def show(
        self, detection: Detection, threshold: float, changed: Sequence[int] | None = None
    ) -> Iterator[None]:
        """Show a result, partial or whole, in layers that are made or taken over if need be.

        A generator for the GUI's thread: let the event loop turn between its steps.

        Parameters
        ----------
        detection : Detection
        threshold : float
            For the contrast of new layers.
        changed : sequence of int, optional
            The slices, rising, in which it differs from what is shown; else any of them.
        """
        maps = {
            "reconstruction": detection.reconstruction.data,
            "anomaly": detection.anomaly.data,
        }
        if detection.uncertainty is not None:
            maps["uncertainty"] = detection.uncertainty.data
        if not self._begun:
            self._begun = True
            # A layer of an earlier run that this one does not make would belong to other maps.
            for role in ("uncertainty", "agreement"):
                if role not in maps:
                    self._remove(role)
        for role in (*maps, "labels"):
            if role not in self._made:
                self.make(role, threshold)
                yield
            self.reveal(role)
        rows = np.arange(len(detection.done)) if changed is None else np.array(changed, int)
        if not rows.size:
            return
        # Outside the brain they are 0, as new layers are: a write there would be for nothing.
        _, a, r = bounding_box(detection.brain_mask.data[rows[0] : rows[-1] + 1])
        # slices without a gap at once, which takes no copy of them
        parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        boxes = [(slice(int(part[0]), int(part[-1]) + 1), a, r) for part in parts]
        for role, array in maps.items():
            self._write(role, array, *boxes)
            yield

    def make(self, role: str, threshold: float, data: np.ndarray | None = None) -> None:
        """Make the empty layer of a role, or take that of an earlier run over; once.

        A new one is hidden until `reveal`, so that it is first drawn in a turn of its own.

        Parameters
        ----------
        role : str
            A key of `TITLES`.
        threshold : float
            For the contrast of a new layer.
        data : ndarray, optional
            What it shows at first, in the layer's voxel order; zeros by default.
        """
        if role in self._made:
            return
        self._made.add(role)
        if data is None:
            data = Room.of(role, self.placed).data
        layer = self._own(role)
        if layer is not None:
            self._keep_corrections(layer)
            _give(layer, data)
            _lay(layer, self._place)
        else:
            layer = self._create(role, data, threshold)
            if layer.visible:
                layer.visible = False
                _made[layer].unseen = True
            self._add(layer)
        if role == "labels":
            self._note_findings(layer)

    def reveal(self, role: str) -> None:
        """Show the layer of a role that was made, by this run or by one that was dropped since.

        While another scan is in view, it waits until its own is.
        """
        layer = self.layer(role)
        made = None if layer is None else _known(layer)
        if layer is None or made is None or not made.unseen:
            return
        made.unseen = False
        scan = self.scan_layer
        if scan is not None and is_put_away(scan):
            put_away(layer, visible=True)
            return
        draw_first()
        layer.visible = True

    def show_labels(
        self, labels: np.ndarray, colors: np.ndarray | None = None, box: Box = EVERYWHERE
    ) -> None:
        """Write the labels in place; what a person has drawn among them stays as a layer.

        Where a person has made the layer another one, by converting it or by giving it other
        voxels, the labels get a new layer.

        Parameters
        ----------
        labels : ndarray of int, shape (S, A, R)
        colors : ndarray, optional
            From `finding_colors`; as they are when not given.
        box : tuple of slice
            Outside there are none.
        """
        layer = self._own("labels")
        if layer is None and self._findings_taken:
            layer = self._create("labels", Room.of("labels", self.placed).data, 0.0)
            self._add(layer)
        drawn = False
        if layer is not None:
            drawn = self._keep_corrections(layer)
            forget_strokes(layer)  # they would bring back parts of other labels
        # What a person has drawn, or an earlier call has written, may lie outside.
        self._write("labels", labels, EVERYWHERE if drawn else _around(box, self._labelled))
        self._remember("labels", labels)
        if layer is not None:
            self._note_findings(layer)
        self._labelled = box
        if colors is not None:
            self.color_labels(colors)

    def _keep_corrections(self, layer: Layer) -> bool:
        """Copy labels that a person has drawn on, if so, into a layer of their own."""
        made = _known(layer)
        if made is None or not is_changed(layer):
            return False
        forget_strokes(layer)
        data, arguments, kind = layer.as_layer_data_tuple()
        arguments["name"] = f"{self._scan.name} {CORRECTED.format(TITLES[made.role])}"
        arguments["visible"] = False
        copy = Layer.create(np.array(data), arguments, kind)
        _corrections[copy] = self._scan_id
        belongs_to(copy, self._scan_id)
        self._add(copy)
        self.corrected = str(copy.name)
        return True

    def show_corrections(self, labels: np.ndarray) -> None:
        """Show labels that a person has corrected at another time, as if it had been now.

        Parameters
        ----------
        labels : ndarray of int, shape (S, A, R)
        """
        layer = self._own("labels")
        if layer is None:
            layer = self._create("labels", Room.of("labels", self.placed).data, 0.0)
            self._add(layer)
            self._note_findings(layer)
        # What was written last stays remembered: to that, these are corrections.
        self._write("labels", labels, EVERYWHERE)
        self._labelled = EVERYWHERE

    def color_labels(self, colors: np.ndarray) -> None:
        """Give the labels that are there other colors, from `finding_colors`."""
        layer = self._own("labels")
        if layer is None:
            return
        shown = layer.colormap
        if not isinstance(shown, CyclicLabelColormap) or not np.array_equal(shown.colors, colors):
            layer.colormap = CyclicLabelColormap(colors=colors)

    def labels(self) -> np.ndarray | None:
        """The labels as they are now, edits and all, in the volume's voxel order.

        None when their layer is gone or holds another grid.
        """
        layer = self.layer("labels")
        if layer is None or np.ndim(layer.data) != 3:
            return None
        labels = self.placed.from_layer(np.asarray(layer.data))
        return labels if labels.shape == self.placed.volume.shape else None

    def show_agreement(self, overlay: np.ndarray, truth: Layer | None = None) -> None:
        """Show hits, false alarms and misses, in place once they are there.

        Anomaly map, outlines and ground truth, which would mix with the colours,
        are hidden meanwhile.

        Parameters
        ----------
        overlay : ndarray of uint8, (S, A, R)
            See `Agreement.overlay`.
        truth : Layer, optional
            The ground truth's.
        """
        shown = self._own("agreement")
        if shown is not None:
            self._keep_corrections(shown)
            self._write("agreement", overlay)
            self._remember("agreement", overlay)
            return
        self.hide_agreement()
        data = np.array(self.placed.to_layer(overlay), order="C")
        self._add(self._create("agreement", data, 0.0))
        for layer in (self.layer("anomaly"), self.layer("labels"), truth):
            if layer is not None and layer.visible:
                layer.visible = False
                self._covered.append(layer)

    def _remember(self, role: str, labels: np.ndarray) -> None:
        """Remember labels (S, A, R) as they were written, to know later what a person draws."""
        layer = self._own(role)
        made = None if layer is None else _known(layer)
        if layer is None or made is None:
            return
        shown = self.placed.to_layer(labels)
        if np.shape(layer.data) != shown.shape:
            return
        kept = made.written
        if kept is not None and (kept.shape, kept.dtype) == (shown.shape, shown.dtype):
            np.copyto(kept, shown)  # its memory need not come from the system anew
        else:
            made.written = np.array(shown)

    @property
    def _findings_taken(self) -> bool:
        """Whether a person has made the findings' layer one of his own, and not deleted it."""
        if self._findings is None:
            return False
        before, voxels = (kept() for kept in self._findings)
        return any(
            unwrapped(layer) is before or (voxels is not None and layer.data is voxels)
            for layer in self._viewer.layers
        )

    def _note_findings(self, layer: Layer) -> None:
        self._findings = weakref.ref(unwrapped(layer)), weakref.ref(layer.data)

    def hide_agreement(self) -> None:
        """Take hits and misses away, and show again what they covered."""
        covered, self._covered = self._covered, []
        self._remove("agreement")
        for hidden in covered:
            hidden.visible = True

    def _remove(self, role: str) -> None:
        """Take the layer of a role away; what a person has made of it stays."""
        layer, own = self.layer(role), self._own(role)
        if own is not None:
            self._keep_corrections(own)
            self._viewer.layers.remove(own)
        elif layer is not None:
            forget_output(layer)

    @property
    def _in_place(self) -> Layer | None:
        """A layer whose voxels are those of the scan's volume, if there is one left."""
        shape = self.placed.to_layer(self.placed.volume.data).shape
        results = [layer for layer in self._viewer.layers if scan_of(layer) == self._scan_id]
        for layer in (self.scan_layer, *results):
            if layer is not None and np.shape(layer.data) == shape:
                return layer
        return None

    def slice_at(self, axis: int) -> tuple[int, int] | None:
        """The slice of the scan that the viewer is at.

        Parameters
        ----------
        axis : int
            Of the last three of the viewer, that which its slices lie across.

        Returns
        -------
        tuple of int, or None
            The volume's axis (S, A, R), and the slice along it; None when no layer is there to
            tell.
        """
        layer = self._in_place
        if layer is None or self._viewer.dims.ndim < layer.ndim:
            return None
        index = layer.world_to_data(self._viewer.dims.point[-layer.ndim :])
        cut = self.placed.cut_of(axis)
        return cut, self.placed.slice_at(tuple(float(n) for n in index), cut)

    def go_to(self, index: tuple[int, int, int]) -> None:
        """Turn all slices of the viewer to a voxel (s, a, r) of the scan."""
        layer = self._in_place
        if layer is None:
            return
        there = self.placed.index_in_layer(index)
        point = [float(n) for n in layer.data_to_world(there)]
        dims, first = self._viewer.dims, self._viewer.dims.ndim - len(point)
        dims.set_point(range(first, dims.ndim), point)
        if dims.ndisplay == 3:
            return
        # Somebody who has zoomed in must see it; else the picture had better stay where it is.
        low, high = np.asarray(layer.corner_pixels)
        shown = [axis - first for axis in dims.displayed if axis >= first]
        if high.any() and any(not low[n] <= there[n] <= high[n] for n in shown):
            camera = self._viewer.scene.camera
            camera.center = (*camera.center[: -len(shown)], *(point[n] for n in shown))

    def _write(self, role: str, array: np.ndarray, *boxes: Box) -> None:
        """Write an array of shape (S, A, R), or only what is in some boxes, and show it."""
        layer = self._own(role)
        if layer is None or np.shape(layer.data) != self.placed.to_layer(array).shape:
            return
        if not _is_alone_with_its_voxels(layer, self._viewer):
            _give(layer, np.array(layer.data, layer_type(role)))
        # a view: the layer's own voxels in the volume's order
        shown = self.placed.from_layer(layer.data)
        for box in boxes or (EVERYWHERE,):
            shown[box] = array[box]
        layer.refresh(highlight=False, extent=False)

    def _add(self, layer: Layer) -> None:
        """Add a layer, and leave chosen in the layer list what is."""
        draw_first()
        self._turns.take(hold_overlays(layer, self._viewer.layers))
        selection = self._viewer.layers.selection
        chosen = selection.active
        if chosen is None:
            self._viewer.add_layer(layer)
            return
        # The window shows the new one's controls, and then again the others, if it hears of it.
        with selection.events.blocker_all():
            self._viewer.add_layer(layer)
            selection.active = chosen

    def _create(self, role: str, data: np.ndarray, threshold: float) -> Layer:
        layer = self._new(role, data, threshold)
        for other, made in list(_made.items()):
            if (made.scan_id, made.role) != (self._scan_id, role):
                continue
            # One that was closed, should it be opened again, is a person's own by now, too.
            shown = any(other in viewer.layers for viewer in (self._viewer, *open_viewers()))
            if not shown or not made.holds(other):
                forget_output(other)
        remember_output(layer, self._scan_id, role, self.scan_layer)
        _made[layer].written = _compact(data) if isinstance(layer, Labels) else None
        return layer

    def _new(self, role: str, data: np.ndarray, threshold: float) -> Layer:
        arguments = _geometry(self._place)
        arguments["name"] = f"{self._scan.name} {TITLES[role]}"
        metadata: dict[str, Any] = {COMPUTED_KEY: True}
        if METADATA_KEY in self._scan.meta.get("metadata", {}):
            metadata[METADATA_KEY] = self._scan.meta["metadata"][METADATA_KEY]
        arguments["metadata"] = metadata
        if role == "labels":
            colormap = CyclicLabelColormap(colors=finding_colors(None, (), 0))
            layer = Labels(data, colormap=colormap, **arguments)
            layer.contour = 1
            layer.opacity = 1.0
            return layer
        if role == "agreement":
            return Labels(
                data,
                colormap=DirectLabelColormap(color_dict={None: "transparent"} | AGREEMENT_COLORS),
                opacity=0.6,
                **arguments,
            )
        if role == "reconstruction":
            # It would hide the scan; the eye in the layer list shows it.
            return Image(
                data,
                colormap="gray",
                contrast_limits=self._scan.meta.get("contrast_limits"),
                visible=False,
                **arguments,
            )
        low, top = (threshold / 2, 2 * threshold) if threshold > 0 else (0.0, 1.0)
        if role == "uncertainty":
            return Image(
                data,
                colormap="viridis",
                blending="additive",
                contrast_limits=(0.0, top / 2),
                visible=False,
                **arguments,
            )
        # what is far below the threshold stays clear, so that the scan keeps its grey
        layer = Image(data, colormap=GLOW, contrast_limits=(low, top), **arguments)
        set_color_bar(layer)
        return layer


def _give(layer: Layer, data: np.ndarray) -> None:
    """Let a result layer show another array, which is ours to write into."""
    made = _made[unwrapped(layer)]
    made.given, made.shape = weakref.ref(data), data.shape
    made.written = _compact(data) if isinstance(layer, Labels) else None
    layer.data = data


def _compact(labels: np.ndarray) -> np.ndarray | None:
    """A copy of labels in the smallest type that holds them; None for zeros."""
    highest = int(labels.max(initial=0))
    return labels.astype(np.min_scalar_type(highest)) if labels.any() else None


def _is_alone_with_its_voxels(layer: Layer, viewer: napari.viewer.Viewer) -> bool:
    """Whether what is written into a result layer shows in no layer of a person's."""
    data = layer.data
    made = _known(layer)
    if made is None or made.given() is not data:
        return False  # the array is a person's
    for each in (viewer, *open_viewers()):
        for other in each.layers:
            if (
                isinstance(other.data, np.ndarray)
                and not is_output(other)
                and np.may_share_memory(other.data, data)
            ):
                return False
    return True


def _same_array(one: Any, other: Any) -> bool:
    """Whether two arrays are the same voxels in memory, or the same task of dask's."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one is other or (
            one.__array_interface__["data"] == other.__array_interface__["data"]
            and one.strides == other.strides
            and one.dtype == other.dtype
        )
    if hasattr(one, "dask") and hasattr(other, "dask"):
        return bool(one.name == other.name)
    return type(one) is type(other)
