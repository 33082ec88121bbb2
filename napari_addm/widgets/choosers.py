"""Drop-down lists of layers and of checkpoints."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path

from napari.layers import Layer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_addm.checkpoint import DEMO_CHECKPOINT


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
            self.setItemData(self.count() - 1, layer.name, 3)  # the tooltip, for long names
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


class CheckpointChooser(QComboBox):
    """The bundled checkpoint, or a file."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        _narrow(self)
        self.addItem("Demo (bundled)", DEMO_CHECKPOINT)
        self.addItem("Choose a file...", None)
        self._last = 0
        self.activated.connect(self._on_activated)

    @property
    def path(self) -> Path:
        """The chosen file."""
        chosen: Path = self.itemData(self._last)
        return chosen

    def choose(self, path: Path) -> None:
        """Choose a file, which is offered from now on."""
        paths = [self.itemData(index) for index in range(self.count())]
        if path not in paths:
            index = self.count() - 1
            self.insertItem(index, path.name, path)
            self.setItemData(index, str(path), 3)
        else:
            index = paths.index(path)
        self.setCurrentIndex(index)
        self._last = index
        self.changed.emit()

    def _on_activated(self, index: int) -> None:
        path: Path | None = self.itemData(index)
        if path is None:
            name, _ = QFileDialog.getOpenFileName(
                self, "Choose a checkpoint", "", "Checkpoints (*.safetensors)"
            )
            if not name:
                self.setCurrentIndex(self._last)
                return
            path = Path(name)
        self.choose(path)
