"""Which scan of the viewer the panel is about, and what else may be chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.detect_panel.panel_state import OpenScans, Title
from napari_addm.widgets.detect_panel.scan import ScanInputs
from napari_addm.widgets.detect_panel.truth import TruthAgreement
from napari_addm.widgets.forms import single_shot
from napari_addm.widgets.layer_registry import is_output, scan_of
from napari_addm.widgets.layers import METADATA_KEY
from napari_addm.widgets.loading import collect_all
from napari_addm.widgets.titles import title_of, without_folder
from napari_addm.widgets.viewing.chosen_scan import (
    bring_into_view,
    is_of_another,
    may_be_scan,
    owners_of,
    scan_behind,
)
from napari_addm.widgets.viewing.connections import Connections, LayerWatch, unwrapped
from napari_addm.widgets.viewing.planes import stand_upright
from napari_addm.widgets.viewing.visibility import note_beside, put_away

if TYPE_CHECKING:
    import napari


def _title(scan: Layer) -> Title:
    name = str(scan.name)
    in_files = without_folder(name, scan.metadata)
    return Title(title_of(scan), title_of(scan, "'"), name, in_files)


class ViewerLayers(QObject):
    """Offers the viewer's layers to the sections, and brings the chosen scan into view.

    A scan that is opened or selected is the chosen one.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controller : DetectController
        Gets the open scans and the chosen one.
    inputs : ScanInputs
    agreement : TruthAgreement
    parent : QObject

    Attributes
    ----------
    scan_changing, scan_changed : Signal()
        Another scan is about to come into view, and has come.
    moved : Signal()
        Layers were moved, or have other voxels.
    """

    scan_changing = Signal()
    scan_changed = Signal()
    moved = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        controller: DetectController,
        inputs: ScanInputs,
        agreement: TruthAgreement,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._controller = controller
        self._inputs = inputs
        self._agreement = agreement
        self._rest = single_shot(self, 0, self._on_moved)
        self._connections = Connections()
        self._watch: LayerWatch | None = None

    def start(self) -> None:
        """Choose among the scans that are open, and follow the viewer from now on."""
        self._offer()
        layers = list(self._viewer.layers)
        seen = [layer for layer in layers if may_be_scan(layer) and layer.visible]
        if not self._choose_selected() and seen:
            self._inputs.scan_chooser.choose(seen[-1])
        self._inputs.scan_changed.connect(self._on_scan)
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            self._connections.add(event, self._on_layers)
        self._connections.add(events.removed, collect_all)
        self._connections.add(self._viewer.layers.selection.events.active, self._on_active)
        self._watch = LayerWatch(self._viewer, self._rest.start)
        self._on_scan()

    def close(self) -> None:
        """Follow the viewer no more."""
        self._connections.close()
        if self._watch is not None:
            self._watch.close()

    # --- the list of layers ----------------------------------------------------------------------

    def _offer(self) -> None:
        """Tell which scans are open, and offer the layers that may be chosen."""
        layers = [layer for layer in self._viewer.layers if not is_output(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        results = [layer for layer in self._viewer.layers if is_output(layer)]
        self._controller.see(
            OpenScans(
                {each.unique_id: _title(each) for each in images},
                several=sum(map(may_be_scan, layers)) > 1,
                with_results=frozenset(map(scan_of, results)),
            )
        )
        self._inputs.offer(images, labels)
        self._agreement.truth.chooser.offer(labels)

    def _on_layers(self, event: Any = None) -> None:
        self._offer()
        if event is not None and event.type == "inserted":
            self._on_inserted(event.value)
        self._agreement.check_layers()

    def _on_inserted(self, layer: Layer) -> None:
        """Choose a scan that is opened. All else that is opened belongs to the chosen scan."""
        scan_id = self._controller.scan_id
        if may_be_scan(layer):
            self._inputs.scan_chooser.choose(layer)
        elif not is_output(layer) and scan_id is not None:
            note_beside(layer, scan_id)
            if is_of_another(layer, scan_id, list(self._viewer.layers)):
                put_away(layer)  # until napari selects it, which brings its own scan into view

    def _on_active(self, event: Any = None) -> None:
        self._choose_selected()

    def _choose_selected(self) -> bool:
        """Choose the scan that is selected, or whose result is; tells whether there is one."""
        layers = list(self._viewer.layers)
        scan_id = scan_behind(self._viewer.layers.selection.active, layers)
        found = scan_id in [layer.unique_id for layer in layers]
        if found:
            self._inputs.scan_chooser.choose_id(scan_id)
        return found

    def _on_moved(self) -> None:
        self._inputs.brain.lie_on(self._inputs.scan)
        self._agreement.truth.lie_on(self._inputs.scan)
        self._on_layers()
        self.moved.emit()

    def take_demo_truth(self) -> None:
        """Choose the labels that belong to the demo scan as its ground truth."""
        layers, scan = list(self._viewer.layers), self._inputs.scan
        for layer in layers:
            own = scan is not None and scan.unique_id in owners_of(layer, layers)
            if isinstance(layer, Labels) and not is_output(layer) and own:
                self._agreement.truth.chooser.choose(layer)

    # --- the chosen scan -------------------------------------------------------------------------

    def _on_scan(self) -> None:
        """Show the chosen scan alone, with what belongs to it."""
        scan = self._inputs.scan
        self.scan_changing.emit()
        self._agreement.compare(None)
        self._agreement.truth.lie_on(scan)
        if scan is not None:
            if METADATA_KEY in scan.metadata:
                stand_upright(self._viewer)
            self._bring_into_view(scan)
        self._controller.choose(None if scan is None else unwrapped(scan))
        self.scan_changed.emit()

    def _bring_into_view(self, scan: Layer) -> None:
        layers, before = self._viewer.layers, self._controller.scan_id
        bring_into_view(
            self._viewer, scan, next((each for each in layers if each.unique_id == before), None)
        )
        if scan_behind(layers.selection.active, layers) not in (None, scan.unique_id):
            layers.selection.active = unwrapped(scan)
