"""Section 'Scan': the scan, and what marks its brain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QWidget

from napari_addm.errors import AddmError
from napari_addm.widgets import texts
from napari_addm.widgets.forms import button, column, form, message, row, say
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_combos import LabelsChoice, LayerChooser, layer_of
from napari_addm.widgets.layer_volumes import LayerData, layer_grid
from napari_addm.widgets.layers import METADATA_KEY, FramesGeometry, spatial_part
from napari_addm.widgets.tones import WARNING

if TYPE_CHECKING:
    import napari

# What a frame takes over from the layer that it comes from.
FRAME_ARGUMENTS = (
    *("scale", "translate", "rotate", "affine", "units", "axis_labels"),
    *("contrast_limits", "colormap"),
)


class ScanInputs(QWidget):
    """Choose the scan and its brain mask among the layers of a viewer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    scan_changed : Signal()
    failed : Signal(object)
        An exception, for the panel to show.
    message, about : QLabel
        Why the layer cannot be a scan; which series it is, and whether with contrast agent.
    scan_chooser : LayerChooser
    brain : LabelsChoice
        Of the brain mask.
    """

    scan_changed = Signal()
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self.scan_chooser = LayerChooser()
        self.message = message(WARNING)
        self.about = message()
        self.frame_button = button(texts.TAKE_FRAME, self._on_frame)
        self.brain = LabelsChoice(viewer, "Automatic", start)
        fields = form()
        row(fields, texts.SCAN, self.scan_chooser)
        fields.addRow(self.message)
        fields.addRow(self.about)
        fields.addRow("", self.frame_button)
        row(fields, texts.BRAIN_MASK, self.brain.chooser, self.brain.open_button)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.brain)
        self.scan_chooser.changed.connect(self._on_scan)
        self.brain.failed.connect(self.failed)
        self._check()

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

    def _on_scan(self) -> None:
        self._check()
        self.brain.lie_on(self.scan)
        self.scan_changed.emit()

    def _check(self) -> None:
        """Say at once what the chosen layer is, or that it cannot be a scan."""
        scan, words, about, frames = self.scan, "", "", False
        if scan is not None:
            picture = LayerData.of(scan)
            frames = np.ndim(picture.data) > 3 and not scan.rgb
            try:
                grid = layer_grid(picture)
                if grid.source.series or grid.contrast.is_suspect:
                    about = f"{grid.name}: {grid.about}"
            except AddmError as error:
                words = str(error)
        say(self.message, words)
        say(self.about, about)
        self.frame_button.setVisible(frames)

    def _on_frame(self) -> None:
        """Make the frame that the viewer is at a layer of its own."""
        scan = self.scan
        if scan is None:
            return
        data, meta, _ = scan.as_layer_data_tuple()
        index = scan.world_to_data(self._viewer.dims.point[-scan.ndim :])[:-3]
        shape = np.shape(data[0] if scan.multiscale else data)
        frame = tuple(
            int(np.clip(round(float(at)), 0, size - 1))
            for at, size in zip(index, shape, strict=False)
        )
        try:
            data, meta = spatial_part(data, meta, frame)
            arguments = {key: meta[key] for key in FRAME_ARGUMENTS if key in meta}
            if isinstance(scan.metadata.get(METADATA_KEY), FramesGeometry):
                arguments["metadata"] = meta["metadata"]
                data = np.array(data)  # from the file, and a copy: what is kept stays as it is
        except AddmError as error:
            self.failed.emit(error)
            return
        name = f"{scan.name} {' '.join(str(n) for n in frame)}"
        taken = Image(data, **arguments, name=name)
        self._viewer.add_layer(taken)
        self.scan_chooser.choose(taken)
