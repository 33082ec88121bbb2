"""The layers that show a detection, exactly over the scan."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.experimental import unlink_layers
from napari.layers import Image, Layer
from napari.utils.colormaps import CyclicLabelColormap

from napari_addm.detection.pipeline import Detection
from napari_addm.findings.diameters import Diameters
from napari_addm.io.arrays import Box, bounding_box
from napari_addm.widgets.layer_registry import move_to, scan_of
from napari_addm.widgets.layer_volumes import LayerData, LayerVolume
from napari_addm.widgets.run_layers import (
    EVERYWHERE,
    RunLayers,
    forget_strokes,
    give,
    voxel_type,
)
from napari_addm.widgets.viewing.connections import unwrapped
from napari_addm.widgets.viewing.measuring import MeasuredLine, diameter_lines
from napari_addm.widgets.viewing.position import go_to_voxel, viewer_index

if TYPE_CHECKING:
    import napari

EARLIER = ("earlier", "earlier findings")
NOWHERE: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


class ResultLayers(RunLayers):
    """Shows the result of a run: its maps, its findings, and hits and misses.

    The next run on the same scan takes the layers over. A layer that the user deletes stays
    deleted until the next run. Parameters are those of `RunLayers`.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        scan: LayerData,
        scan_id: Hashable,
        volume: LayerVolume,
    ) -> None:
        super().__init__(viewer, scan, scan_id, volume)
        self._made: set[str] = set()
        self._shown = False
        # The layer of the findings, and its voxels, when they were last written.
        self._findings: tuple[weakref.ref[Layer], weakref.ref[Any]] | None = None
        self._labelled: Box = NOWHERE
        self._covered: list[Layer] = []  # hidden while hits and misses are shown

    # --- maps ------------------------------------------------------------------------------------

    def show(
        self, detection: Detection, threshold: float, changed: Sequence[int] | None = None
    ) -> None:
        """Show a result, partial or whole, in layers that are made or taken over if need be.

        Parameters
        ----------
        detection : Detection
        threshold : float
            For the contrast of new layers.
        changed : sequence of int, optional
            The slices, rising, in which it differs from what is shown; else any of them.
        """
        maps = _maps(detection)
        if not self._shown:
            # A layer of an earlier run that this one does not make would belong to other maps.
            for role in {"brightness", "uncertainty", "agreement", *EARLIER} - maps.keys():
                self._remove(role)
            self._shown = True
        for role in (*maps, "labels"):
            self.make(role, threshold)
        rows = np.arange(len(detection.done)) if changed is None else np.array(changed, int)
        if not rows.size:
            return
        # Maps are 0 outside the brain, as new layers are.
        _, a, r = bounding_box(detection.brain_mask.data[rows[0] : rows[-1] + 1])
        parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)  # each without a gap
        boxes = [(slice(int(part[0]), int(part[-1]) + 1), a, r) for part in parts]
        for role, array in maps.items():
            self._write(role, array, *boxes)

    def make_new(self, detection: Detection, threshold: float) -> Iterator[None]:
        """Make the layers that `show` would, and cannot take over, in one step each.

        Parameters
        ----------
        detection : Detection
        threshold : float
            For the contrast.
        """
        maps = _maps(detection)
        for role in (*maps, "labels"):
            if self._own(role) is None and role not in self._made:
                data = None
                if role in maps:
                    data = np.array(self.volume.to_layer(maps[role]), order="C")
                self.make(role, threshold, data)
                yield

    def make(self, role: str, threshold: float, data: np.ndarray | None = None) -> None:
        """Make the layer of a role, or take that of an earlier run over; once.

        While another scan is in view, a new layer waits until its own is.

        Parameters
        ----------
        role : str
            A key of `TITLES`.
        threshold : float
            For the contrast of a new layer.
        data : ndarray, optional
            The first voxels, in the layer's voxel order; zeros by default.
        """
        if role in self._made:
            return
        self._made.add(role)
        layer = self._own(role)
        if layer is None:
            layer = self._create(role, self._zeros(role) if data is None else data, threshold)
        else:
            self._keep_corrections(layer)
            if data is None:
                self._clear(layer, role)
            else:
                give(layer, data)
            move_to(layer, self._scan.geometry)
        if role == "labels":
            self._note_findings(layer)

    # --- findings --------------------------------------------------------------------------------

    def show_labels(
        self, labels: np.ndarray, colors: np.ndarray | None = None, box: Box = EVERYWHERE
    ) -> None:
        """Write the labels in place; what a person has drawn among them stays as a layer.

        When a person has converted the layer, or given it other voxels, the labels get a new one.

        Parameters
        ----------
        labels : ndarray of int, shape (S, A, R)
        colors : ndarray, optional
            From `finding_colors`; unchanged when not given.
        box : tuple of slice
            There are no labels outside.
        """
        layer = self._own("labels")
        if layer is None and self._findings_taken:
            layer = self._create("labels", self._zeros("labels"), 0.0)
        drawn = False
        if layer is not None:
            drawn = self._keep_corrections(layer)
            forget_strokes(layer)  # they would bring back parts of other labels
        # A person may have drawn outside, and an earlier call may have written there.
        self._write("labels", labels, EVERYWHERE if drawn else _around(box, self._labelled))
        self._remember("labels", labels)
        if layer is not None:
            self._note_findings(layer)
        self._labelled = box
        if colors is not None:
            self.color_labels(colors)

    def show_corrections(self, labels: np.ndarray) -> None:
        """Show labels that a person corrected earlier, as if they had been corrected now.

        Parameters
        ----------
        labels : ndarray of int, shape (S, A, R)
        """
        if self._own("labels") is None:
            self._note_findings(self._create("labels", self._zeros("labels"), 0.0))
        # The labels that were last written stay remembered: these are corrections of them.
        self._write("labels", labels, EVERYWHERE)
        self._labelled = EVERYWHERE

    def color_labels(self, colors: np.ndarray) -> None:
        """Give the labels other colors, from `finding_colors`."""
        layer = self._own("labels")
        if layer is None:
            return
        shown = layer.colormap
        if not isinstance(shown, CyclicLabelColormap) or not np.array_equal(shown.colors, colors):
            for other in self._viewer.layers:
                if isinstance(other, Image):  # napari fails where an image is linked with labels
                    unlink_layers([unwrapped(layer), unwrapped(other)], ("colormap",))
            layer.colormap = CyclicLabelColormap(colors=colors)

    def labels(self) -> np.ndarray | None:
        """Read the labels, a person's edits included, in the volume's voxel order.

        None when their layer is gone or holds another grid.
        """
        layer = self.layer("labels")
        if layer is None or np.ndim(layer.data) != 3:
            return None
        labels = self.volume.from_layer(np.asarray(layer.data))
        return labels if labels.shape == self.volume.volume.shape else None

    @property
    def _findings_taken(self) -> bool:
        """Whether a person has made the findings' layer their own, and not deleted it."""
        if self._findings is None:
            return False
        before, voxels = (kept() for kept in self._findings)
        return any(
            unwrapped(layer) is before or (voxels is not None and layer.data is voxels)
            for layer in self._viewer.layers
        )

    def _note_findings(self, layer: Layer) -> None:
        self._findings = weakref.ref(unwrapped(layer)), weakref.ref(layer.data)

    # --- hits and misses -------------------------------------------------------------------------

    def show_agreement(self, overlay: np.ndarray, truth: Layer | None = None) -> None:
        """Show hits, false alarms and misses, in place once they are there.

        Maps, outlines and ground truth, whose colors would mix with theirs, are hidden meanwhile.

        Parameters
        ----------
        overlay : ndarray of uint8, (S, A, R)
            See `Agreement.overlay`.
        truth : Layer, optional
            The layer of the ground truth.
        """
        shown = self._own("agreement")
        if shown is not None:
            self._keep_corrections(shown)
            self._write("agreement", overlay)
            self._remember("agreement", overlay)
            return
        self.hide_agreement()
        self._create("agreement", np.array(self.volume.to_layer(overlay), order="C"), 0.0)
        covered = ("anomaly", "brightness", "labels", "earlier findings")
        for layer in (*map(self.layer, covered), truth):
            if layer is not None and layer.visible:
                layer.visible = False
                self._covered.append(layer)

    def hide_agreement(self) -> None:
        """Remove hits and misses, and show again what they covered."""
        covered, self._covered = self._covered, []
        self._remove("agreement")
        for hidden in covered:
            hidden.visible = True

    # --- an earlier scan -------------------------------------------------------------------------

    def show_earlier(self, scan: np.ndarray, labels: np.ndarray) -> None:
        """Show the outlines of an earlier scan's findings; the scan itself is hidden at first.

        Parameters
        ----------
        scan : ndarray, shape (S, A, R)
        labels : ndarray of int, shape (S, A, R)
        """
        layers = self._viewer.layers
        self.hide_earlier()
        for role, array in zip(EARLIER, (scan, labels), strict=True):
            data = np.array(self.volume.to_layer(array), voxel_type(role), order="C")
            layer, below = self._create(role, data, 0.0), self.scan_layer
            if role == "earlier" and below is not None:
                # below the maps and outlines
                layers.move(layers.index(layer), layers.index(below) + 1)

    def hide_earlier(self) -> None:
        """Remove the earlier scan and its findings."""
        for role in EARLIER:
            self._remove(role)

    # --- position --------------------------------------------------------------------------------

    @property
    def _in_place(self) -> Layer | None:
        """A layer whose voxels are those of the scan's volume, if there is one left."""
        shape = self.volume.to_layer(self.volume.volume.data).shape
        results = [layer for layer in self._viewer.layers if scan_of(layer) == self._scan.id]
        for layer in (self.scan_layer, *results):
            if layer is not None and np.shape(layer.data) == shape:
                return layer
        return None

    def slice_at(self, axis: int) -> tuple[int, int] | None:
        """Find the slice of the scan that the viewer is at.

        Parameters
        ----------
        axis : int
            Of the last three of the viewer, the one that its slices lie across.

        Returns
        -------
        tuple of int, or None
            The volume's axis (S, A, R), and the slice along it; None when no layer is there to
            tell.
        """
        layer = self._in_place
        index = None if layer is None else viewer_index(self._viewer, layer)
        if index is None:
            return None
        cut = self.volume.cut_of(axis)
        return cut, self.volume.slice_at(index, cut)

    def go_to(self, index: tuple[int, int, int]) -> None:
        """Move all slices of the viewer to a voxel (s, a, r) of the scan."""
        layer = self._in_place
        if layer is not None:
            go_to_voxel(self._viewer, layer, self.volume.index_in_layer(index))

    def lines_of(self, diameters: Diameters) -> tuple[MeasuredLine, ...]:
        """The diameters of a finding as lines in the viewer's world."""
        layer = self._in_place
        if layer is None or self._viewer.dims.ndim < layer.ndim:
            return ()
        return tuple(diameter_lines(self._viewer, layer, self.volume.index_in_layer, diameters))


def _maps(detection: Detection) -> dict[str, np.ndarray]:
    """The maps of a result by their roles, from the lowest layer to the highest."""
    maps = {"reconstruction": detection.reconstruction, "anomaly": detection.anomaly}
    if detection.brightness is not None:
        maps["brightness"] = detection.brightness
    if detection.uncertainty is not None:
        maps["uncertainty"] = detection.uncertainty
    return {role: map_.data for role, map_ in maps.items()}


def _around(one: Box, other: Box) -> Box:
    """The smallest box around two boxes; one of them may be empty, or everywhere."""
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
