"""Drop-down lists of layers and of checkpoints."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Labels, Layer
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QStandardItemModel, QWheelEvent
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_addm.errors import AddmError
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.names import readable_suffixes
from napari_addm.widgets import texts
from napari_addm.widgets.forms import button, column, message, say
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_volumes import (
    LayerData,
    layer_grid,
    read_labels_layer,
    resample_onto,
)
from napari_addm.widgets.layers import LayerTuple
from napari_addm.widgets.titles import plain_name, title_of
from napari_addm.widgets.tones import WARNING
from napari_addm.widgets.viewing.visibility import belongs_to, give_back, put_away

if TYPE_CHECKING:
    import napari


def _narrow(box: QComboBox) -> None:
    """Keep long names from widening the dock."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)


class LayerChooser(QComboBox):
    """Chooses one of several layers, which may be renamed.

    Parameters
    ----------
    none : str, optional
        Words of a first entry that means no layer. By default the first layer is chosen.
    """

    changed = Signal()

    def __init__(self, none: str | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._none = none
        _narrow(self)
        self.offer(())
        self.currentIndexChanged.connect(self.changed)

    def offer(self, layers: Iterable[Layer]) -> None:
        """Offer these layers; the chosen one stays if it is among them."""
        chosen = self.layer_id
        self.blockSignals(True)
        self.clear()
        if self._none is not None:
            self.addItem(self._none, None)
        offered = list(layers)
        names = Counter(plain_name(layer) for layer in offered)
        for layer in offered:
            title = title_of(layer)
            self.addItem(title if names[plain_name(layer)] > 1 else layer.name, layer.unique_id)
            self.setItemData(self.count() - 1, texts.as_written(title), Qt.ItemDataRole.ToolTipRole)
        self.choose_id(chosen)
        self.blockSignals(False)
        if self.layer_id != chosen:
            self.changed.emit()

    @property
    def layer_id(self) -> Hashable | None:
        """`unique_id` of the chosen layer."""
        chosen: Hashable | None = self.currentData()
        return chosen

    def choose(self, layer: Layer | None) -> None:
        """Choose an offered layer, or none."""
        self.choose_id(None if layer is None else layer.unique_id)

    def choose_id(self, layer_id: Hashable | None) -> None:
        """Choose an offered layer by its `unique_id`; the first entry if it is not offered."""
        ids = [self.itemData(index) for index in range(self.count())]
        first = 0 if ids else -1
        self.setCurrentIndex(ids.index(layer_id) if layer_id in ids else first)


def layer_of(viewer: napari.viewer.Viewer, chooser: LayerChooser) -> Layer | None:
    """Return the chosen layer, if the viewer still has it."""
    for layer in viewer.layers:
        if layer.unique_id == chooser.layer_id:
            return layer
    return None


class LabelsChoice(QWidget):
    """Chooses labels for a scan, and offers to resample those that lie on other voxels.

    `chooser` and `open_button` are for a row of a form. The widget itself, below them, holds a
    message and a button that resamples; it is hidden while the labels fit. Each scan has labels of
    its own.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    none : str
        Words of the entry that means no layer.
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

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
        self._chosen: dict[Hashable, Hashable | None] = {}  # labels by scan
        self._opened_for: Hashable | None = None  # the scan whose labels are read now
        self._resampled: tuple[Hashable, Hashable] | None = None  # the labels, and their scan
        self.chooser = LayerChooser(none)
        self.open_button = button(texts.OPEN_LABELS, self._on_open)
        self.grid_message = message(WARNING)
        self.resample_button = button(texts.RESAMPLE, self._on_resample)
        body = column(self)
        body.addWidget(self.grid_message)
        body.addWidget(self.resample_button)
        self._check()
        self.chooser.changed.connect(self._on_chosen)
        self.chooser.changed.connect(self._check)
        self.chooser.changed.connect(self.changed)

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        return layer_of(self._viewer, self.chooser)

    def lie_on(self, scan: Layer | None) -> None:
        """Set the scan that the labels are for, and choose the labels of that scan."""
        before, self._scan = self._scan_id, scan
        if before is not None and before != self._scan_id:
            # Another scan may be of another patient, even on the same grid.
            self.chooser.choose_id(self._chosen.get(self._scan_id))
        self._on_chosen()
        self._check()

    @property
    def _scan_id(self) -> Hashable | None:
        return None if self._scan is None else self._scan.unique_id

    def _on_chosen(self) -> None:
        """Note which scan the labels are chosen for."""
        if self._scan is None:
            return
        self._chosen[self._scan.unique_id] = self.chooser.layer_id
        layer = self.layer
        if layer is not None:
            belongs_to(layer, self._scan.unique_id)
            give_back(layer)

    def _check(self) -> None:
        """Show whether the labels lie on other voxels than the scan."""
        layer, scan, words = self.layer, self._scan, ""
        if layer is not None and scan is not None:
            with contextlib.suppress(AddmError):  # comes up again when the labels are used
                if not layer_grid(LayerData.of(layer)).same_grid(layer_grid(LayerData.of(scan))):
                    words = f"'{layer.name}' does not lie on the voxels of '{scan.name}'."
        say(self.grid_message, words)
        self.resample_button.setVisible(bool(words))
        self.setVisible(bool(words))

    def open(self, path: Path) -> None:
        """Read a file in the background, add it as a labels layer and choose that."""
        self.open_button.setEnabled(False)
        self._opened_for = self._scan_id
        self._start(
            f"Read {path.name}",
            read_labels_layer,
            path,
            yielded=self._on_read,
            errored=self._on_failed,
            finished=self._on_finished,
        )

    def _on_open(self) -> None:
        endings = " ".join(f"*{ending}" for ending in readable_suffixes())
        name, _ = QFileDialog.getOpenFileName(self, texts.OPEN_LABELS.tip, "", f"({endings})")
        if name:
            self.open(Path(name))

    def _on_read(self, made: LayerTuple) -> None:
        self._choose_for(self._opened_for, self._add(made, self._opened_for))

    def _on_resample(self) -> None:
        layer, scan = self.layer, self._scan
        if layer is None or scan is None:
            return
        self._resampled = layer.unique_id, scan.unique_id
        self.resample_button.setEnabled(False)
        self.resample_button.setText(texts.RESAMPLING)
        self._start(
            "Resample labels",
            resample_onto,
            LayerData.of(layer),
            LayerData.of(scan),
            yielded=self._on_resampled,
            errored=self._on_failed,
            finished=self._on_finished,
        )

    def _on_resampled(self, made: LayerTuple) -> None:
        assert self._resampled is not None
        labels_id, scan_id = self._resampled
        layer = self._add(made, scan_id)
        # A person may have chosen other labels by now.
        if self._chosen.get(scan_id) == labels_id:
            self._choose_for(scan_id, layer)

    def _choose_for(self, scan_id: Hashable | None, layer: Layer) -> None:
        """Choose labels for a scan, which may not be the chosen one by now."""
        if scan_id == self._scan_id:
            self.chooser.choose(layer)
        else:
            self._chosen[scan_id] = layer.unique_id

    def _add(self, made: LayerTuple, scan_id: Hashable | None) -> Labels:
        """Add labels for a scan; they are hidden if another scan is chosen by now."""
        data, arguments, _ = made
        scan = self._scan
        if scan is not None and scan_id == self._scan_id and set(map(str, scan.units)) == {"pixel"}:
            # We take its pixels for mm; with two units, napari warns at each change of a layer.
            arguments["units"] = scan.units[-3:]
        layer = Labels(data, **arguments)
        layer.contour = 1  # an outline hides nothing below
        if scan_id is not None:
            belongs_to(layer, scan_id)
        if scan_id == self._scan_id:
            self._viewer.add_layer(layer)
            return layer
        put_away(layer)
        selection = self._viewer.layers.selection
        selected = selection.active
        with selection.events.blocker_all():  # a new layer would be selected
            self._viewer.add_layer(layer)
            selection.active = selected
        return layer

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self.open_button.setEnabled(True)
        self.resample_button.setEnabled(True)
        self.resample_button.setText(texts.RESAMPLE.label)


class CheckpointChooser(QComboBox):
    """Chooses the bundled checkpoint, one of a folder, or any file.

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
        """Offer the checkpoints of a folder, too; the chosen one stays."""
        self._folder = folder
        self._list()

    def choose(self, path: Path) -> None:
        """Choose a file, and offer it from now on."""
        self.path = path
        self._list()
        self.changed.emit()

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Leave out the last entry, because it opens a dialog."""
        self._offer_other(False)
        super().wheelEvent(event)
        self._offer_other(True)

    def _offer_other(self, offered: bool) -> None:
        model = self.model()
        assert isinstance(model, QStandardItemModel)
        item = model.item(self.count() - 1)
        assert item is not None
        item.setEnabled(offered)

    def showPopup(self) -> None:
        """Offer what the folder holds now."""
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
            self.setItemData(
                self.count() - 1, texts.as_written(str(path)), Qt.ItemDataRole.ToolTipRole
            )
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
