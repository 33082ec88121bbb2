"""Section 'Scan': the scan, and what marks its brain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari.layers import Image, Labels
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QWidget

from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.choosers import LabelsChoice, LayerChooser, layer_of
from napari_addm.widgets.forms import button, column, form, row
from napari_addm.widgets.worker import Job, LayerData

if TYPE_CHECKING:
    import napari


class ScanInputs(QWidget):
    """Choose the scan and its brain mask among the layers of a viewer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.worker.start_job` does.

    Attributes
    ----------
    scan_changed : Signal()
    demo_opened : Signal()
        The demo case was opened from here.
    failed : Signal(object)
        An exception, for the panel to show.
    scan_chooser : LayerChooser
    brain : LabelsChoice
        Of the brain mask.
    """

    scan_changed = Signal()
    demo_opened = Signal()
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self.scan_chooser = LayerChooser()
        self.demo_button = button(texts.OPEN_DEMO, self._on_demo)
        self.brain = LabelsChoice(viewer, "Automatic", start)
        fields = form()
        row(fields, texts.SCAN, self.scan_chooser)
        fields.addRow("", self.demo_button)
        row(fields, texts.BRAIN_MASK, self.brain.chooser, self.brain.open_button)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.brain)
        self.scan_chooser.changed.connect(self._on_scan)
        self.brain.failed.connect(self.failed)

    @property
    def scan(self) -> Image | None:
        """The chosen scan."""
        return layer_of(self._viewer, self.scan_chooser)

    @property
    def brain_mask(self) -> LayerData | None:
        """The chosen brain mask; None means that it is found automatically."""
        layer = self.brain.layer
        return None if layer is None else LayerData.of(layer)

    def offer(self, images: list[Image], labels: list[Labels]) -> None:
        """Offer the layers that may be a scan or a mask."""
        self.scan_chooser.offer(images)
        self.brain.chooser.offer(labels)
        self.demo_button.setVisible(not images)

    def _on_scan(self) -> None:
        self.brain.lie_on(self.scan)
        self.scan_changed.emit()

    def _on_demo(self) -> None:
        self._viewer.open_sample("napari-addm", "demo")
        self.demo_opened.emit()
