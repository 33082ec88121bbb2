"""Drop-down lists of layers and of checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Labels, Layer
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_addm.checkpoint import DEMO_CHECKPOINT
from napari_addm.errors import AddmError
from napari_addm.io import READABLE
from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.forms import WARNING, button, column, message, say
from napari_addm.widgets.layers import LayerTuple
from napari_addm.widgets.worker import (
    Job,
    LayerData,
    place_grid,
    read_labels_layer,
    resample_onto,
)

if TYPE_CHECKING:
    import napari


def _narrow(box: QComboBox) -> None:
    """Let long names not widen the dock."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)


class LayerChooser(QComboBox):
    """One of some layers, by identity: it follows when layers come, go or are renamed.

    Parameters
    ----------
    none : str, optional
        Words of a first entry that means no layer; without it the first layer is chosen.
    """

    changed = Signal()

    def __init__(self, none: str | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._none = none
        _narrow(self)
        self.offer(())
        self.currentIndexChanged.connect(self.changed)

    def offer(self, layers: Iterable[Layer]) -> None:
        """Offer these layers; the choice stays where it can."""
        chosen = self.layer_id
        self.blockSignals(True)
        self.clear()
        if self._none is not None:
            self.addItem(self._none, None)
        for layer in layers:
            self.addItem(layer.name, layer.unique_id)
            self.setItemData(self.count() - 1, layer.name, Qt.ItemDataRole.ToolTipRole)
        self._select(chosen)
        self.blockSignals(False)
        if self.layer_id != chosen:
            self.changed.emit()

    @property
    def layer_id(self) -> Hashable | None:
        """`unique_id` of the chosen layer."""
        chosen: Hashable | None = self.currentData()
        return chosen

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer that is offered, or none."""
        self._select(None if layer is None else layer.unique_id)

    def _select(self, layer_id: Hashable | None) -> None:
        for index in range(self.count()):
            if self.itemData(index) == layer_id:
                self.setCurrentIndex(index)
                return
        self.setCurrentIndex(0 if self.count() else -1)


def layer_of(viewer: napari.viewer.Viewer, chooser: LayerChooser) -> Layer | None:
    """The layer that is chosen, if it is still there."""
    for layer in viewer.layers:
        if layer.unique_id == chooser.layer_id:
            return layer
    return None


class LabelsChoice(QWidget):
    """A chooser of labels that have to lie on the scan's voxels, and what to do if they do not.

    The chooser and the button that opens a file are for a row of a form; the
    widget itself, below them, holds a message and a button that resamples, and
    is empty while the labels fit.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    none : str
        Words of the entry that means no layer.
    start : callable
        Starts a job as `napari_addm.widgets.worker.start_job` does.

    Attributes
    ----------
    changed : Signal()
        Another layer is chosen.
    failed : Signal(object)
        An exception, for the panel to show.
    chooser : LayerChooser
    open_button : QPushButton
    grid_message : QLabel
    resample_button : QPushButton
    """

    changed = Signal()
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, none: str, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self._scan: Layer | None = None
        self._resampled: Hashable | None = None  # the layer that is resampled now
        self.chooser = LayerChooser(none)
        self.open_button = button(texts.OPEN_LABELS, self._on_open)
        self.grid_message = message(WARNING)
        self.resample_button = button(texts.RESAMPLE, self._on_resample)
        body = column(self)
        body.addWidget(self.grid_message)
        body.addWidget(self.resample_button)
        self._check()
        self.chooser.changed.connect(self._check)
        self.chooser.changed.connect(self.changed)

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        return layer_of(self._viewer, self.chooser)

    def lie_on(self, scan: Layer | None) -> None:
        """Set the scan on whose voxels the labels have to lie."""
        self._scan = scan
        self._check()

    def _check(self) -> None:
        """Say when the labels lie on other voxels than the scan."""
        layer, scan = self.layer, self._scan
        fits = True
        if layer is not None and scan is not None:
            with contextlib.suppress(AddmError):  # said when it is used
                fits = place_grid(LayerData.of(layer)).same_grid(place_grid(LayerData.of(scan)))
        words = ""
        if not fits and layer is not None and scan is not None:
            words = f"'{layer.name}' does not lie on the voxels of '{scan.name}'."
        say(self.grid_message, words)
        self.resample_button.setVisible(not fits)
        self.setVisible(not fits)

    def open(self, path: Path) -> None:
        """Read a file aside, add it as a labels layer and choose that."""
        self.open_button.setEnabled(False)
        self._start(
            f"Read {path.name}",
            read_labels_layer,
            path,
            yielded=self._on_read,
            errored=self._on_failed,
            finished=self._on_done,
        )

    def _on_open(self) -> None:
        endings = " ".join(f"*{ending}" for ending in READABLE)
        name, _ = QFileDialog.getOpenFileName(self, texts.OPEN_LABELS.tip, "", f"({endings})")
        if name:
            self.open(Path(name))

    def _on_read(self, made: LayerTuple) -> None:
        self.chooser.choose(self._add(made))

    def _on_resample(self) -> None:
        layer, scan = self.layer, self._scan
        if layer is None or scan is None:
            return
        self._resampled = layer.unique_id
        self.resample_button.setEnabled(False)
        self.resample_button.setText(texts.RESAMPLING)
        self._start(
            "Resample labels",
            resample_onto,
            LayerData.of(layer),
            LayerData.of(scan),
            yielded=self._on_resampled,
            errored=self._on_failed,
            finished=self._on_done,
        )

    def _on_resampled(self, made: LayerTuple) -> None:
        copy = self._add(made)
        # Another one may have been chosen meanwhile.
        if self.chooser.layer_id == self._resampled:
            self.chooser.choose(copy)

    def _add(self, made: LayerTuple) -> Labels:
        data, arguments, _ = made
        layer = Labels(data, **arguments)
        layer.contour = 1  # what is below stays to be seen
        self._viewer.add_layer(layer)
        return layer

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(error)

    def _on_done(self) -> None:
        self.open_button.setEnabled(True)
        self.resample_button.setEnabled(True)
        self.resample_button.setText(texts.RESAMPLE.label)


class CheckpointChooser(QComboBox):
    """The bundled checkpoint, one of a folder, or any file.

    Attributes
    ----------
    changed : Signal()
        Another checkpoint is chosen.
    path : Path
        The chosen file.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        _narrow(self)
        self.path: Path = DEMO_CHECKPOINT
        self._folder: Path | None = None
        self._files: list[Path] = []  # chosen from elsewhere
        self._list()
        self.activated.connect(self._on_activated)

    def offer_folder(self, folder: Path | None) -> None:
        """Offer the checkpoints of a folder as well; the choice stays."""
        self._folder = folder
        self._list()

    def choose(self, path: Path) -> None:
        """Choose a file, which is offered from now on."""
        self.path = path
        self._list()
        self.changed.emit()

    def showPopup(self) -> None:
        """Qt's, with the folder as it is now."""
        self._list()
        super().showPopup()

    def _list(self) -> None:
        in_folder: list[Path] = []
        if self._folder is not None:
            with contextlib.suppress(OSError):
                in_folder = sorted(self._folder.glob("*.safetensors"))
        if self.path not in (DEMO_CHECKPOINT, *in_folder, *self._files):
            self._files.append(self.path)
        elsewhere = [path for path in self._files if path not in in_folder]
        self.blockSignals(True)
        self.clear()
        self.addItem("Demo (bundled)", DEMO_CHECKPOINT)
        for path in (*in_folder, *elsewhere):
            self.addItem(path.name, path)
            self.setItemData(self.count() - 1, str(path), Qt.ItemDataRole.ToolTipRole)
            if path == self.path:
                self.setCurrentIndex(self.count() - 1)
        self.addItem("Choose a file...", None)
        self.blockSignals(False)

    def _on_activated(self, index: int) -> None:
        path: Path | None = self.itemData(index)
        if path is None:
            start = "" if self._folder is None else str(self._folder)
            name, _ = QFileDialog.getOpenFileName(
                self, "Choose a checkpoint", start, "Checkpoints (*.safetensors)"
            )
            if not name:
                self._list()
                return
            path = Path(name)
        self.choose(path)
