"""The layers of a cohort's cases in the viewer: a scan with its results exactly over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_addm.widgets.cohort_panel.review import CaseReview
from napari_addm.widgets.cohort_panel.saved_case import CaseVersion, SavedCase
from napari_addm.widgets.finding_colors import finding_colors, outline_truth
from napari_addm.widgets.layer_registry import forget_output, is_changed, is_output
from napari_addm.widgets.layer_volumes import LayerData, LayerVolume
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.run_layers import CORRECTED
from napari_addm.widgets.viewing.chosen_scan import fit, look_at, owners_of
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
        Whether the case is open. If not, the others stay as they are until `show_case`.
    """
    own = [layer for layer in viewer.layers if _version(layer) == version]
    for layer in list(viewer.layers):
        other = _version(layer)
        same_case = other is not None and (other.output, other.case) == (
            version.output,
            version.case,
        )
        if same_case and other != version:
            _close(viewer, layer)
    if not own or len(own) != _cases[unwrapped(own[0])].count:
        for layer in own:
            _close(viewer, layer)
        return False
    _put_others_away(viewer, version)
    layers = viewer.layers
    layers.move_multiple([layers.index(layer) for layer in own], len(layers))
    for layer in own:
        give_back(layer)
    own[0].visible = True
    layers.selection.active = own[0]
    look_at(viewer, own[0])
    return True


def show_case(viewer: napari.viewer.Viewer, saved: SavedCase) -> Iterator[None]:
    """Add the layers of a case, one per step, at its largest finding."""
    if bring_up(viewer, saved.version):
        return
    stand_upright(viewer)
    parts = saved.maps if saved.labels is None else {**saved.maps, "labels": saved.labels}
    count = 1 + len(parts) + (saved.truth is not None)
    scan = None
    for layer in _add_layers(viewer, saved, parts):
        is_truth = isinstance(layer, Labels) and not is_output(layer)
        truth = saved.truth.data.copy() if is_truth and saved.truth is not None else None
        _cases[unwrapped(layer)] = _CaseLayer(saved.version, count, truth)
        if scan is None:
            scan = layer
            # Only now, so that the canvas is never empty between the two.
            _put_others_away(viewer, saved.version)
            point = scan.data_to_world(saved.place)
            viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), point)
        yield
    if scan in viewer.layers:
        viewer.layers.selection.active = scan


def close_case(viewer: napari.viewer.Viewer, version: CaseVersion) -> None:
    """Close the layers of a case."""
    for layer in list(viewer.layers):
        if _version(layer) == version:
            _close(viewer, layer)


def _put_others_away(viewer: napari.viewer.Viewer, version: CaseVersion) -> None:
    for layer in list(viewer.layers):
        if _version(layer) not in (None, version):
            put_away(layer)


class CaseView:
    """The layers of the case whose findings are decided on.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    version : CaseVersion
    review : CaseReview
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, version: CaseVersion, review: CaseReview
    ) -> None:
        self._viewer = viewer
        self.version = version
        self._review = review
        own = [layer for layer in viewer.layers if _version(layer) == version]
        volume = LayerVolume(review.scan, in_layer_order=True)
        self._results = ResultLayers(viewer, LayerData.of(own[0]), own[0].unique_id, volume)

    def color_findings(self) -> None:
        """Let the selected finding stand out, and dim the rejected ones."""
        findings = self._review.findings
        if not self.has_other_outlines:
            colors = finding_colors(findings.selected, findings.rejected, findings.highest)
            self._results.color_labels(colors)

    def go_to(self, id: int) -> None:
        """Go to the middle of a finding."""
        marked = self._review.findings.marked
        assert marked is not None
        self._results.go_to(marked.middle(id))

    @property
    def is_in_view(self) -> bool:
        """Whether the scan is there, and no other one is shown instead."""
        scan = self.scan_layer
        return scan is not None and bool(scan.visible)

    @property
    def has_other_outlines(self) -> bool:
        """Whether the layer of the findings shows others than the saved ones."""
        labels, marked = self._results.labels(), self._review.findings.marked
        return (
            labels is not None and marked is not None and not np.array_equal(labels, marked.labels)
        )

    @property
    def findings_layer(self) -> Layer | None:
        """The layer of the findings, if it is still there."""
        return self._results.layer("labels")

    @property
    def scan_layer(self) -> Layer | None:
        """The layer of the scan, if it is still there."""
        return self._results.scan_layer

    def close(self) -> Iterator[None]:
        """Close the layers of the case, unless a person or another panel has made use of them.

        One per step, as napari takes a while for each.
        """
        layers = list(self._viewer.layers)
        own = [layer for layer in layers if _version(layer) == self.version]
        used = self.has_other_outlines or any(is_changed(each) or _is_painted(each) for each in own)
        scan_id = own[0].unique_id if own else None
        others = [layer for layer in layers if layer not in own]
        if not used and not any(scan_id in owners_of(layer, layers) for layer in others):
            for layer in own:
                if layer in self._viewer.layers and _version(layer) == self.version:
                    _close(self._viewer, layer)
                yield


def _close(viewer: napari.viewer.Viewer, layer: Layer) -> None:
    """Remove a layer of a case; keep one that a person has drawn on, under another name."""
    kept = is_changed(layer) or _is_painted(layer)
    del _cases[unwrapped(layer)]
    if kept:
        forget_output(layer)
        layer.name = CORRECTED.format(layer.name)
    else:
        viewer.layers.remove(layer)


def _is_painted(layer: Layer) -> bool:
    """Whether a person has drawn on the ground truth of a case."""
    truth = _cases[unwrapped(layer)].truth
    return truth is not None and not np.array_equal(np.asarray(layer.data), truth)


def _add_layers(
    viewer: napari.viewer.Viewer, saved: SavedCase, parts: dict[str, np.ndarray]
) -> Iterator[Layer]:
    """Add the layers of a case, and give each, the scan first."""
    data, arguments, _ = volume_to_layer(saved.scan, name=saved.version.case)
    scan = viewer.add_layer(Image(data, **arguments))
    fit(viewer, scan)
    yield scan
    volume = LayerVolume(saved.scan, in_layer_order=True)
    results = ResultLayers(viewer, LayerData.of(scan), scan.unique_id, volume)
    for role, part in parts.items():
        results.make(role, saved.threshold, part)
        if role == "labels":
            results.color_labels(finding_colors(None, (), int(part.max())))
        layer = results.layer(role)
        if layer is None:  # the scan was closed meanwhile
            return
        yield layer
    if saved.truth is not None:
        name = f"{saved.version.case} ground truth"
        data, arguments, _ = volume_to_layer(saved.truth, "labels", name=name)
        truth = Labels(data, **arguments)
        outline_truth(truth)
        belongs_to(truth, scan.unique_id)
        yield viewer.add_layer(truth)


def _version(layer: Layer) -> CaseVersion | None:
    entry = _cases.get(unwrapped(layer))
    return None if entry is None else entry.version
