"""The layers that show a detection, exactly over the scan."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap, CyclicLabelColormap, DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color

from napari_addm.detection import Detection
from napari_addm.findings import Box, bounding_box
from napari_addm.widgets.canvas_overlays import forget_strokes, hold_overlays, set_color_bar
from napari_addm.widgets.layers import GEOMETRY, METADATA_KEY
from napari_addm.widgets.review import FALSE_ALARM, HIT, MISSED
from napari_addm.widgets.turns import Turns, draw_first
from napari_addm.widgets.worker import LayerData, Placed, Room

if TYPE_CHECKING:
    import napari

OUTPUT_KEY = "napari_addm_output"
CORRECTED = "anomalies, corrected"
DRAWN_KEY = "napari_addm_drawn"  # in that of labels which a person has drawn on
UNSEEN_KEY = "napari_addm_unseen"  # in the metadata of a layer that is to be revealed

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


def is_output(layer: Layer) -> bool:
    """Whether a layer was made by a run."""
    return OUTPUT_KEY in layer.metadata


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
        for layer in self._viewer.layers:
            if layer.metadata.get(OUTPUT_KEY) == (self._scan_id, role):
                return layer
        return None

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
                stale = self.layer(role)
                if stale is not None and role not in maps:
                    self._viewer.layers.remove(stale)
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
        layer = self.layer(role)
        if layer is not None:
            self._keep_corrections(layer)
            layer.data = data
        else:
            layer = self._create(role, data, threshold)
            if layer.visible:
                layer.visible = False
                layer.metadata[UNSEEN_KEY] = True
            self._add(layer)

    def reveal(self, role: str) -> None:
        """Show the layer of a role that was made, by this run or by one that was dropped since."""
        layer = self.layer(role)
        if layer is not None and layer.metadata.pop(UNSEEN_KEY, False):
            draw_first()
            layer.visible = True

    def show_labels(
        self, labels: np.ndarray, colors: np.ndarray | None = None, box: Box = EVERYWHERE
    ) -> None:
        """Write the labels in place; what a person has drawn among them stays as a layer.

        Parameters
        ----------
        labels : ndarray of int, shape (S, A, R)
        colors : ndarray, optional
            From `finding_colors`; as they are when not given.
        box : tuple of slice
            Outside there are none.
        """
        layer = self.layer("labels")
        drawn = layer is not None and self._keep_corrections(layer)
        # What a person has drawn, or an earlier call has written, may lie outside.
        self._write("labels", labels, EVERYWHERE if drawn else _around(box, self._labelled))
        self._labelled = box
        if colors is not None:
            self.color_labels(colors)

    def _keep_corrections(self, layer: Layer) -> bool:
        """Copy labels that a person has drawn on, if so, into a layer of their own."""
        if not layer.metadata.pop(DRAWN_KEY, False):
            return False
        forget_strokes(layer)
        data, arguments, kind = layer.as_layer_data_tuple()
        arguments["name"] = f"{self._scan.name} {CORRECTED}"
        arguments["metadata"] = {
            key: value for key, value in layer.metadata.items() if key != OUTPUT_KEY
        }
        arguments["visible"] = False
        copy = Layer.create(np.array(data), arguments, kind)
        self._add(copy)
        self.corrected = str(copy.name)
        return True

    def show_corrections(self, labels: np.ndarray) -> None:
        """Show labels that a person has corrected at another time, as if it had been now.

        Parameters
        ----------
        labels : ndarray of int, shape (S, A, R)
        """
        layer = self.layer("labels")
        if layer is None:
            layer = self._create("labels", Room.of("labels", self.placed).data, 0.0)
            self._add(layer)
        self._write("labels", labels, EVERYWHERE)
        self._labelled = EVERYWHERE
        _mark_as_drawn(layer)

    def color_labels(self, colors: np.ndarray) -> None:
        """Give the labels that are there other colors, from `finding_colors`."""
        layer = self.layer("labels")
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
        if self.layer("agreement") is not None:
            self._write("agreement", overlay)
            return
        self.hide_agreement()
        data = np.array(self.placed.to_layer(overlay), order="C")
        self._add(self._create("agreement", data, 0.0))
        for layer in (self.layer("anomaly"), self.layer("labels"), truth):
            if layer is not None and layer.visible:
                layer.visible = False
                self._covered.append(layer)

    def hide_agreement(self) -> None:
        """Take hits and misses away, and show again what they covered."""
        layer = self.layer("agreement")
        covered, self._covered = self._covered, []
        if layer is not None:
            self._viewer.layers.remove(layer)
        for hidden in covered:
            hidden.visible = True

    @property
    def _in_place(self) -> Layer | None:
        """A layer whose voxels are those of the scan's volume, if there is one left."""
        shape = self.placed.to_layer(self.placed.volume.data).shape
        for layer in self._viewer.layers:
            of = layer.metadata.get(OUTPUT_KEY)
            mine = layer.unique_id == self._scan_id or (of is not None and of[0] == self._scan_id)
            if mine and np.shape(layer.data) == shape:
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
        layer = self.layer(role)
        # Someone may have cropped it or put other voxels in: then it is theirs.
        if layer is None or np.shape(layer.data) != self.placed.to_layer(array).shape:
            return
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
        arguments: dict[str, Any] = {
            key: self._scan.meta[key] for key in GEOMETRY if key in self._scan.meta
        }
        arguments["name"] = f"{self._scan.name} {TITLES[role]}"
        metadata = {OUTPUT_KEY: (self._scan_id, role)}
        if METADATA_KEY in self._scan.meta.get("metadata", {}):
            metadata[METADATA_KEY] = self._scan.meta["metadata"][METADATA_KEY]
        arguments["metadata"] = metadata
        if role == "labels":
            colormap = CyclicLabelColormap(colors=finding_colors(None, (), 0))
            layer = Labels(data, colormap=colormap, **arguments)
            layer.contour = 1
            layer.opacity = 1.0
            layer.events.labels_update.connect(_mark_drawn)
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


def _mark_drawn(event: Any) -> None:
    """Remember that a person has drawn on labels, whatever run is the next to write them."""
    _mark_as_drawn(event.source)


def _mark_as_drawn(layer: Layer) -> None:
    layer.metadata[DRAWN_KEY] = True
