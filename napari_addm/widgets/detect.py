"""The dock widget 'Detect anomalies'."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import weakref
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from weakref import WeakSet

import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible, QLabeledDoubleSlider

from napari_addm.checkpoint import (
    RANDOM_METHODS,
    Checkpoint,
    ModelSpecification,
    SamplerKind,
    ScoreKind,
    read_specification,
)
from napari_addm.detection import DEVICES, PRECISIONS, Detection, DetectionSettings, Progress
from napari_addm.errors import AddmError
from napari_addm.io import resample_labels
from napari_addm.metrics import Metrics
from napari_addm.outputs import check_outputs, save_detection
from napari_addm.scoring import SCORE_MEANINGS
from napari_addm.volume import Volume
from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.card import card_lines
from napari_addm.widgets.choosers import CheckpointChooser, LayerChooser
from napari_addm.widgets.layers import METADATA_KEY, volume_to_layer
from napari_addm.widgets.results import ResultLayers, is_output
from napari_addm.widgets.review import Agreement, Marked, is_calibrated, mark, measure
from napari_addm.widgets.worker import (
    Begun,
    Job,
    LayerData,
    Request,
    Stage,
    labels_notes,
    place,
    place_grid,
    place_labels,
    start_job,
    work,
)

if TYPE_CHECKING:
    import napari

log = logging.getLogger(__name__)

# Order of the axes S, A, R on screen; the last two span the slice.
PLANES = {"Axial": (0, 1, 2), "Coronal": (1, 0, 2), "Sagittal": (2, 0, 1)}
DEFAULT_ORIENTATION = ("towards", "down", "right")
# Superior or anterior up, the patient's right on the left of the screen; right-handed in 3D.
RADIOLOGICAL = ("away", "up", "left")

# A dragged threshold shows findings this soon, and metrics when it has rested for this long.
LIVE_MS = 30
SETTLED_MS = 120
LABEL_WIDTH = 104
SMALL = "font-size: 11px;"
ERROR = "color: #f0616d;"
WARNING = "color: #d9a441;"


@dataclass
class Outcome:
    """What the last run gave, and how it may be saved.

    Attributes
    ----------
    layers : ResultLayers
    checkpoint : Checkpoint
        Without its weights.
    mask_path : Path or None
        File of the brain mask that was chosen.
    mask_notes : tuple of str
        Its warnings.
    name : str
        Of the scan's layer.
    detection : Detection or None
        The last result, partial while the run goes on.
    marked : Marked or None
    agreement : Agreement or None
        With the ground truth that is chosen.
    truth_path : Path or None
        File of that ground truth.
    truth_notes : tuple of str
        Its warnings.
    """

    layers: ResultLayers
    checkpoint: Checkpoint
    mask_path: Path | None
    mask_notes: tuple[str, ...]
    name: str
    detection: Detection | None = None
    marked: Marked | None = None
    agreement: Agreement | None = None
    truth_path: Path | None = None
    truth_notes: tuple[str, ...] = ()

    @property
    def scan(self) -> Volume:
        """The scan."""
        return self.layers.placed.volume


class DetectWidget(QWidget):
    """Reconstruct an open scan as if it were healthy, and review where it differs.

    The panel holds no loop of its own: a run is
    :func:`napari_addm.detection.detect`, driven by
    :class:`napari_addm.widgets.worker.Job` off the GUI thread.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Injected by napari.

    Attributes
    ----------
    outcome : Outcome or None
        What the last run gave.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.outcome: Outcome | None = None
        self._specification: ModelSpecification | None = None
        self._reviewed: ModelSpecification | None = None  # whose threshold the review began with
        self._job: Job | None = None
        self._scan_id: Hashable | None = None
        self._request: Request | None = None
        self._begun = False  # the run; until then the outcome is an earlier run's
        self._cancelled = False
        self._started = 0.0
        self._aside: Job | None = None  # ranks or saves
        self._jobs: WeakSet[Job] = WeakSet()  # all; superqt keeps them until they are finished
        self._live = QTimer(self)
        self._live.setSingleShot(True)
        self._live.setInterval(LIVE_MS)
        self._live.timeout.connect(self._mark)
        self._settled = QTimer(self)
        self._settled.setSingleShot(True)
        self._settled.setInterval(SETTLED_MS)
        self._settled.timeout.connect(self._show_metrics)

        self._build()
        for chooser in (self.scan_chooser, self.truth_chooser, self.mask_chooser):
            chooser.changed.connect(self._check_grids)
        self.scan_chooser.changed.connect(self._on_scan)
        self.truth_chooser.changed.connect(self._measure)
        self.checkpoint_chooser.changed.connect(self._on_checkpoint)
        self._on_checkpoint()
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(self._on_layers)
        self._on_layers()
        self._check_grids()
        self.destroyed.connect(_Farewell(self))

    # --- what it looks like ----------------------------------------------------------------------

    def _build(self) -> None:
        form = _form()

        self.scan_chooser = LayerChooser()
        self.demo_button = _button(texts.OPEN_DEMO, self._on_demo)
        self.truth_chooser = LayerChooser("None")
        self.mask_chooser = LayerChooser("Automatic")
        self.grid_message = _message(WARNING)
        self.resample_button = _button(texts.RESAMPLE, self._on_resample)
        self.checkpoint_chooser = CheckpointChooser()
        self.card = _message("")
        _row(form, texts.SCAN, self.scan_chooser)
        form.addRow("", self.demo_button)
        _row(form, texts.TRUTH, self.truth_chooser)
        _row(form, texts.BRAIN_MASK, self.mask_chooser)
        form.addRow(self.grid_message)
        form.addRow("", self.resample_button)
        _row(form, texts.CHECKPOINT, self.checkpoint_chooser)
        form.addRow(self.card)

        self.level = _whole(1, 1000)
        self.level_slider = QSlider(Qt.Orientation.Horizontal)
        self.level_slider.setRange(1, 1000)
        self.level_percent = QLabel()
        self.level_percent.setMinimumWidth(34)
        self.level.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
        self.level_percent.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.level.valueChanged.connect(self._on_level)
        self.level_slider.valueChanged.connect(self.level.setValue)
        self.sampler = QComboBox()
        for kind in get_args(SamplerKind):
            self.sampler.addItem(kind.upper(), kind)
        self.sampler.currentIndexChanged.connect(self._on_sampler)
        self.steps = _whole(1, 1000)
        self.seed = _whole(0, 2**31 - 1)
        self.draws = _whole(1, 1000)
        self.device = QComboBox()
        self.device.addItems(DEVICES)
        self.this_slice = QRadioButton(texts.THIS_SLICE)
        self.whole_volume = QRadioButton(texts.WHOLE_VOLUME)
        self.whole_volume.setChecked(True)
        scope = QButtonGroup(self)
        scope.addButton(self.this_slice)
        scope.addButton(self.whole_volume)
        _row(form, texts.LEVEL, self.level_slider, self.level, self.level_percent)
        _row(form, texts.SAMPLER, self.sampler, self.steps)
        self.steps.setToolTip(texts.STEPS.tip)
        self.steps.valueChanged.connect(self._on_steps)
        self._on_steps()
        draws_label = QLabel(texts.DRAWS.label)
        _row(form, texts.SEED, self.seed, draws_label, self.draws)
        draws_label.setToolTip(texts.DRAWS.tip)
        self.draws.setToolTip(texts.DRAWS.tip)
        for field in (self.sampler, self.steps, self.seed, self.draws):
            field.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        _row(form, texts.DEVICE, self.device)
        _row(form, texts.SCOPE, self.this_slice, self.whole_volume)

        self.score = QComboBox()
        for kind in get_args(ScoreKind):
            self.score.addItem(kind, kind)
            self.score.setItemData(self.score.count() - 1, SCORE_MEANINGS[kind], 3)
        self.smoothing = _number(100, 0.5, " mm")
        self.eta = _number(1, 0.1)
        self.precision = QComboBox()
        self.precision.addItems(PRECISIONS)
        self.batch_size = _whole(0, 1024)
        self.batch_size.setSpecialValueText("automatic")
        inner = _form()
        _row(inner, texts.SCORE, self.score)
        _row(inner, texts.SMOOTHING, self.smoothing)
        _row(inner, texts.ETA, self.eta)
        _row(inner, texts.PRECISION, self.precision)
        _row(inner, texts.BATCH_SIZE, self.batch_size)
        advanced_content = QWidget()
        advanced_content.setLayout(inner)
        # The arrow is text: superqt draws its icons before napari's theme gives the colours.
        self.advanced = QCollapsible(expandedIcon=QIcon(), collapsedIcon=QIcon())
        self.advanced.toggled.connect(self._on_advanced)
        self._on_advanced(False)
        self.advanced.setDuration(0)
        self.advanced.toggleButton().setStyleSheet(
            "text-align: left; border: none; background: transparent; padding: 0;"
        )
        self.advanced.addWidget(advanced_content)
        self.advanced.collapse(animate=False)
        for layout in (self.advanced.layout(), self.advanced.content().layout()):
            if layout is not None:
                layout.setContentsMargins(0, 0, 0, 0)
                layout.setSpacing(4)

        self.run_button = _button(texts.RUN, self.run)
        self.cancel_button = _button(texts.CANCEL, self.cancel)
        self.cancel_button.setEnabled(False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        policy = self.progress.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.progress.setSizePolicy(policy)
        self.progress.hide()
        self.status = _message("")
        self.error = _message(ERROR)
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setMaximumHeight(120)
        self.details.hide()
        self.warnings = _message(WARNING)

        result_form = _form()
        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setDecimals(3)
        self.threshold.setRange(0.0, 1.0)
        self.threshold.valueChanged.connect(self._on_threshold)
        self.minimum = _number(1000, 0.1, " mL")
        self.minimum.valueChanged.connect(self._on_threshold)
        _row(result_form, texts.THRESHOLD, self.threshold)
        self.promise = _message("")
        self.promise.setToolTip(texts.PROMISE)
        result_form.addRow(self.promise)
        _row(result_form, texts.MINIMUM, self.minimum)
        self.count = QLabel()
        self.figures = {key: QLabel("–") for key in texts.METRICS}
        table = QGridLayout()
        table.setContentsMargins(0, 0, 0, 0)
        table.setSpacing(2)
        for column, (key, text) in enumerate(texts.METRICS.items()):
            heading = QLabel(text.label)
            heading.setStyleSheet(SMALL)
            for row, label in enumerate((heading, self.figures[key])):
                label.setToolTip(text.tip)
                label.setAlignment(Qt.AlignmentFlag.AlignCenter)
                table.addWidget(label, row, column)
        self.metrics = QWidget()
        self.metrics.setLayout(table)
        self.metrics_notes = _message(WARNING)
        self.save_button = _button(texts.SAVE, self._on_save)
        self.results = QWidget()
        results = QVBoxLayout(self.results)
        results.setContentsMargins(0, 0, 0, 0)
        results.addWidget(_line())
        results.addLayout(result_form)
        results.addWidget(self.count)
        results.addWidget(self.metrics)
        results.addWidget(self.metrics_notes)
        results.addWidget(self.save_button)
        self.results.hide()
        self.metrics.hide()

        planes = QHBoxLayout()
        label = QLabel(texts.VIEW.label)
        label.setToolTip(texts.VIEW.tip)
        planes.addWidget(label)
        for name in PLANES:
            button = QPushButton(name)
            button.setToolTip(texts.VIEW.tip)
            button.clicked.connect(lambda _=False, name=name: self.show_plane(name))
            planes.addWidget(button)

        content = QWidget()
        body = QVBoxLayout(content)
        body.setContentsMargins(8, 6, 8, 6)
        body.setSpacing(6)
        body.addLayout(form)
        body.addWidget(self.advanced)
        body.addLayout(buttons)
        body.addWidget(self.progress)
        for widget in (self.status, self.error, self.details, self.warnings, self.results):
            body.addWidget(widget)
        body.addStretch()
        scroll = _Column(content)
        notice = QLabel(texts.RESEARCH_USE_ONLY)
        notice.setStyleSheet(SMALL)
        notice.setAlignment(Qt.AlignmentFlag.AlignCenter)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(4)
        whole.addWidget(scroll)
        footer = QVBoxLayout()
        footer.setContentsMargins(8, 0, 8, 4)
        footer.addLayout(planes)
        footer.addWidget(notice)
        whole.addLayout(footer)

    # --- settings --------------------------------------------------------------------------------

    @property
    def settings(self) -> DetectionSettings:
        """The settings as they stand; the scope is not among them."""
        diffuses = self._specification is None or self._specification.diffusion is not None
        return DetectionSettings(
            steps=self.steps.value() if diffuses else None,
            level=self.level.value() if diffuses else None,
            sampler=self.sampler.currentData(),
            eta=self.eta.value(),
            seed=self.seed.value(),
            draws=self.draws.value(),
            device=self.device.currentText(),
            precision=self.precision.currentText(),
            batch_size=self.batch_size.value() or None,
            score=self.score.currentData(),
            smoothing_mm=self.smoothing.value(),
        )

    def _on_checkpoint(self) -> None:
        """Show the card, and set everything to the checkpoint's defaults."""
        try:
            specification = read_specification(self.checkpoint_chooser.path)
        except AddmError as error:
            self._specification = None
            self.card.setStyleSheet(SMALL + ERROR)
            _say(self.card, str(error))
            self._enable()
            return
        self._specification = specification
        self.card.setStyleSheet(SMALL)
        _say(self.card, "\n".join(card_lines(specification)))
        self.card.setToolTip(specification.description)
        default = specification.detection
        highest = _highest_level(specification)
        self.level.setMaximum(highest)
        self.level_slider.setMaximum(highest)
        self.level.setValue(default.level or 1)
        self._on_level()
        self.steps.setValue(default.steps)
        diffuses = default.level is not None
        for field in (self.level, self.level_slider, self.steps, self.sampler):
            field.setEnabled(diffuses)
        draws = specification.method in RANDOM_METHODS
        for field in (self.draws, self.seed):
            field.setEnabled(draws)
        self.draws.setMaximum(1000 if draws else 1)
        self.sampler.setCurrentIndex(self.sampler.findData(default.sampler))
        self.eta.setValue(default.eta)
        self._on_sampler()
        self.draws.setValue(default.draws)
        self.score.setCurrentIndex(self.score.findData(default.score.kind))
        self.smoothing.setValue(default.score.smoothing_mm)
        # A result that is shown keeps its threshold until a run with the other one begins.
        if not self.running and (self.outcome is None or self.outcome.detection is None):
            self._review_as(specification)
        self._enable()

    def _review_as(self, specification: ModelSpecification) -> None:
        """Set the threshold and the smallest finding to a checkpoint's defaults."""
        default = specification.detection
        self._reviewed = specification
        self.threshold.setRange(0.0, max(4 * default.threshold, 1e-3))
        self.threshold.setValue(default.threshold)
        self.minimum.setValue(default.minimum_ml)

    def _on_level(self) -> None:
        level = self.level.value()
        self.level_slider.setValue(level)
        if self._specification is not None:
            diffusion = self._specification.diffusion
            self.level_percent.setText(f"{level / diffusion.length:.0%}" if diffusion else "")
        self.steps.setMaximum(level)

    def _on_steps(self) -> None:
        self.steps.setSuffix(" step" if self.steps.value() == 1 else " steps")

    def _on_advanced(self, expanded: bool) -> None:
        self.advanced.setText(f"{'▾' if expanded else '▸'} {texts.ADVANCED}")

    def _on_sampler(self) -> None:
        diffuses = self._specification is None or self._specification.diffusion is not None
        self.eta.setEnabled(diffuses and self.sampler.currentData() == "ddim")

    def _offer_devices(self, devices: tuple[str, ...]) -> None:
        """Take away what this machine does not have."""
        for index in reversed(range(self.device.count())):
            if self.device.itemText(index) not in ("auto", *devices):
                self.device.removeItem(index)

    # --- layers ----------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        layers = [layer for layer in self._viewer.layers if not is_output(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        self.scan_chooser.offer(images)
        self.truth_chooser.offer(labels)
        self.mask_chooser.offer(labels)
        self.demo_button.setVisible(not images)
        if self._job is not None and self._scan_id not in [layer.unique_id for layer in images]:
            self.cancel()
        self._enable()

    def _layer(self, chooser: LayerChooser) -> Layer | None:
        for layer in self._viewer.layers:
            if layer.unique_id == chooser.layer_id:
                return layer
        return None

    def _on_demo(self) -> None:
        self._viewer.open_sample("napari-addm", "demo")
        for layer in self._viewer.layers:
            if isinstance(layer, Labels) and not is_output(layer):
                layer.contour = 1
                self.truth_chooser.choose(layer)

    def _on_scan(self) -> None:
        layer = self._layer(self.scan_chooser)
        if layer is not None and METADATA_KEY in layer.metadata:
            self._stand_upright()
        self._enable()

    def _stand_upright(self) -> None:
        """Rows of our layers grow to anterior or superior: show that side up."""
        camera = self._viewer.scene.camera
        if tuple(str(axis) for axis in camera.orientation) == DEFAULT_ORIENTATION:
            camera.orientation = RADIOLOGICAL

    def show_plane(self, name: str) -> None:
        """Show the axial, coronal or sagittal slice through the current position."""
        first = self._viewer.dims.ndim - 3
        if first < 0:
            return
        self._viewer.dims.ndisplay = 2
        self._viewer.dims.order = (*range(first), *(first + axis for axis in PLANES[name]))
        self._stand_upright()
        self._viewer.reset_view()

    def _check_grids(self) -> None:
        """Say when ground truth or brain mask lie on other voxels than the scan."""
        wrong = self._misfit()
        words = ""
        if wrong is not None:
            layer, scan = wrong
            words = f"'{layer.name}' does not lie on the voxels of '{scan.name}'."
        _say(self.grid_message, words)
        self.resample_button.setVisible(wrong is not None)

    def _misfit(self) -> tuple[Layer, Layer] | None:
        """The first chosen labels layer that is not on the scan's grid, and the scan."""
        scan = self._layer(self.scan_chooser)
        if scan is None:
            return None
        for layer in filter(
            None, (self._layer(self.truth_chooser), self._layer(self.mask_chooser))
        ):
            try:
                fits = place_grid(LayerData.of(layer)).same_grid(place_grid(LayerData.of(scan)))
            except AddmError:
                continue  # said when it is used
            if not fits:
                return layer, scan
        return None

    def _on_resample(self) -> None:
        wrong = self._misfit()
        if wrong is None:
            return
        layer, scan = wrong
        try:
            like = place(LayerData.of(scan))
            moved = resample_labels(place(LayerData.of(layer)).volume, like.volume)
        except AddmError as error:
            self._show_error(error)
            return
        name = f"{layer.name} on {scan.name}"
        data, arguments, _ = volume_to_layer(moved, "labels", name=name)
        for key in ("scale", "translate", "units", "axis_labels", "affine"):
            arguments[key] = getattr(scan, key)
        copy = Labels(np.array(like.to_layer(data)), **arguments)
        choosers = [
            c for c in (self.truth_chooser, self.mask_chooser) if c.layer_id == layer.unique_id
        ]
        self._viewer.add_layer(copy)
        for chooser in choosers:
            chooser.choose(copy)

    # --- a run -----------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._job is not None

    def _start(self, *args: Any, **options: Any) -> Job:
        """Start a job (as `start_job`) that ends with the panel."""
        job = start_job(*args, **options)
        self._jobs.add(job)
        return job

    def run(self) -> None:
        """Start a run with the settings as they stand."""
        scan = self._layer(self.scan_chooser)
        if scan is None or self._specification is None or self.running:
            return
        mask = self._layer(self.mask_chooser)
        self._clear_messages()
        self._scan_id = scan.unique_id
        point = self._viewer.dims.point[-scan.ndim :]
        self._request = Request(
            scan=LayerData.of(scan),
            checkpoint=self.checkpoint_chooser.path,
            settings=self.settings,
            brain_mask=None if mask is None else LayerData.of(mask),
            position=tuple(float(n) for n in scan.world_to_data(point)),
            this_slice=self.this_slice.isChecked(),
        )
        self._begun = False
        self._cancelled = False
        self._started = time.perf_counter()
        self.progress.setRange(0, 0)
        self.progress.show()
        self._job = self._start(
            "Detect anomalies",
            work,
            self._request,
            yielded=self._on_yielded,
            errored=self._show_error,
            finished=self._on_finished,
        )
        self._enable()

    def cancel(self) -> None:
        """Stop the run within one step of the network; finished slices stay."""
        if self._job is not None:
            self._cancelled = True
            self._job.quit()
            self.cancel_button.setEnabled(False)
            _say(self.status, "Cancelling ...")

    def _on_yielded(self, item: Stage | Begun | Progress) -> None:
        if isinstance(item, Stage):
            _say(self.status, item.words + " ...")
        elif isinstance(item, Begun):
            self._on_begun(item)
        else:
            self._on_progress(item)

    def _on_begun(self, begun: Begun) -> None:
        assert self._request is not None
        self._begun = True
        self._offer_devices(begun.devices)
        scan = self._request.scan
        layers = ResultLayers(self._viewer, scan, self._scan_id, begun.scan)
        self.outcome = Outcome(
            layers=layers,
            checkpoint=begun.checkpoint,
            mask_path=_own_path(begun.brain_mask, begun.scan.volume),
            mask_notes=begun.mask_notes,
            name=scan.name,
        )
        if begun.checkpoint.specification != self._reviewed:
            self._review_as(begun.checkpoint.specification)

    def _on_progress(self, progress: Progress) -> None:
        assert self.outcome is not None
        if progress.stage == "prepare":
            words = "Preparing the scan ..."
        elif progress.stage == "reconstruct":
            words = f"Reconstructing: {progress.done}/{progress.total}"
            words += "" if progress.eta is None else f", {_duration(progress.eta)} left"
            self.progress.setRange(0, progress.total)
            self.progress.setValue(progress.done)
        else:
            words = "Finishing ..."
        if not self._cancelled:
            _say(self.status, words)
        if progress.result is not None:
            warnings = (*progress.result.warnings, *self.outcome.mask_notes)
            self.outcome.detection = replace(progress.result, warnings=warnings)
            self.outcome.agreement = None
            self.outcome.layers.show(self.outcome.detection, self.threshold.value())
            self._mark()

    def _on_finished(self) -> None:
        self._job = None
        self.progress.hide()
        detection = self.outcome.detection if self.outcome is not None and self._begun else None
        failed = bool(self.error.text())
        words = ""
        if detection is not None:
            done, count = int(detection.done.sum()), len(detection.done)
            took = _duration(time.perf_counter() - self._started, about=False)
            where = f"on {detection.device}, in {detection.precision}"
            if self._cancelled or failed:
                words = "Cancelled" if self._cancelled else "Stopped"
                words += f" after {took} {where}; {done} of {count} slices are done"
            else:
                words = f"Done in {took} {where}"
            _say(self.warnings, "\n".join(detection.warnings))
            highest = float(detection.anomaly.data.max())
            self.threshold.setMaximum(max(highest, 1.2 * self.threshold.value(), 1e-3))
        elif self._cancelled:
            words = "Cancelled before the first slice was done"
        _say(self.status, words)
        self._enable()
        self._measure()

    # --- review ----------------------------------------------------------------------------------

    def _on_threshold(self) -> None:
        self._show_promise()
        if not self._live.isActive():
            self._live.start()

    def _show_promise(self) -> None:
        """Say what the threshold would mark in a healthy brain, where that was measured."""
        specification = self._reviewed
        alarms = specification.detection.false_alarms if specification is not None else None
        detection = self.outcome.detection if self.outcome is not None else None
        words = ""
        if specification is not None and alarms is not None:
            if detection is None or is_calibrated(detection, self.minimum.value()):
                words = f"{alarms.in_words(self.threshold.value())} {texts.IN_HEALTHY}"
            else:
                words = texts.UNCALIBRATED
        _say(self.promise, words)

    def _mark(self) -> None:
        """Label and count the findings of the result under the threshold."""
        outcome = self.outcome
        if outcome is None or outcome.detection is None:
            return
        outcome.marked = mark(outcome.detection, self.threshold.value(), self.minimum.value())
        outcome.layers.show_labels(outcome.marked.labels)
        number = len(outcome.marked.findings)
        found = f"{number} finding" if number == 1 else f"{number or 'No'} findings"
        total = f", {outcome.marked.total_ml:.1f} mL together" if number else ""
        self.count.setText(f"{found}{total}")
        self._show_promise()
        self.results.show()
        self._settled.start()

    def _measure(self) -> None:
        """Compare with the ground truth, if there is one: all that needs sorting, aside."""
        outcome = self.outcome
        if outcome is None:
            return
        outcome.agreement = None
        self._show_metrics()
        truth = self._layer(self.truth_chooser)
        if truth is None or outcome.detection is None or self.running:
            return
        self._aside = self._start(
            "Compare with the ground truth",
            _compare,
            outcome,
            outcome.detection,
            LayerData.of(truth),
            yielded=self._on_compared,
            errored=self._on_not_compared,
            finished=self._enable,
        )

    def _on_compared(self, compared: Compared) -> None:
        outcome, agreement = compared.outcome, compared.agreement
        if outcome is self.outcome and agreement.detection is outcome.detection:
            outcome.agreement = agreement
            outcome.truth_path, outcome.truth_notes = compared.path, compared.notes
            self._show_metrics()

    def _on_not_compared(self, error: Exception) -> None:
        if isinstance(error, AddmError):
            _say(self.metrics_notes, str(error))
        else:
            self._show_error(error)

    def _figures(self) -> Metrics | None:
        outcome = self.outcome
        if outcome is None or outcome.agreement is None or outcome.marked is None:
            return None
        return outcome.agreement.at(outcome.marked)

    def _show_metrics(self) -> None:
        figures = self._figures()
        self.metrics.setVisible(figures is not None)
        _say(self.metrics_notes, "")
        if figures is not None and self.outcome is not None:
            _say(self.metrics_notes, "\n".join((*self.outcome.truth_notes, *figures.notes)))
            for key, label in self.figures.items():
                value = getattr(figures, key)
                label.setText("–" if value is None else f"{value:.3f}")

    # --- saving ----------------------------------------------------------------------------------

    def _on_save(self) -> None:
        outcome = self.outcome
        if outcome is None or outcome.detection is None:
            return
        folder = QFileDialog.getExistingDirectory(self, "Save into which folder?")
        if not folder:
            return
        try:
            paths = check_outputs(folder, _stem(outcome), True, outcome.scan)
        except AddmError as error:
            self._show_error(error)
            return
        there = [path.name for path in paths.values() if path.exists()]
        if there and (
            QMessageBox.question(
                self, "Replace?", f"{', '.join(there)} will be replaced in {folder}."
            )
            != QMessageBox.StandardButton.Yes
        ):
            return
        self.save(Path(folder), overwrite=bool(there))

    def save(self, folder: Path, overwrite: bool = False) -> None:
        """Write all files of the last result into a folder, in the background.

        The labels are written as the layer shows them, with a person's edits.
        """
        outcome = self.outcome
        if outcome is None or outcome.detection is None or outcome.marked is None:
            return
        self._clear_messages()
        _say(self.status, f"Saving into {folder} ...")
        labels = outcome.layers.labels()
        self._aside = self._start(
            "Save the results",
            _save,
            outcome,
            None if labels is None else labels.copy(),
            folder,
            overwrite,
            yielded=self._on_saved,
            errored=self._show_error,
            finished=self._enable,
        )

    def _on_saved(self, paths: dict[str, Path]) -> None:
        folder = next(iter(paths.values())).parent
        _say(self.status, f"{len(paths)} files saved in {folder}")

    # --- messages --------------------------------------------------------------------------------

    def _clear_messages(self) -> None:
        for label in (self.status, self.error, self.warnings):
            _say(label, "")
        self.details.hide()

    def _show_error(self, error: Exception) -> None:
        """Say in words what went wrong; anything but an AddmError is a bug, and shows where."""
        if isinstance(error, AddmError):
            _say(self.error, str(error))
            return
        log.error("a bug in napari-addm", exc_info=error)
        _say(self.error, f"This is a bug, please report it: {type(error).__name__}: {error}")
        self.details.setPlainText("".join(traceback.format_exception(error)))
        self.details.show()

    def _enable(self) -> None:
        ready = self._specification is not None and self.scan_chooser.layer_id is not None
        self.run_button.setEnabled(ready and not self.running)
        self.cancel_button.setEnabled(self.running and not self._cancelled)
        done = self.outcome is not None and self.outcome.detection is not None
        self.save_button.setEnabled(done and not self.running)


class _Farewell:
    """What is left to do when the panel is gone: stop its jobs, give the network's memory back."""

    def __init__(self, panel: DetectWidget) -> None:
        self._panel = weakref.ref(panel)
        self._jobs = panel._jobs  # the panel's Python side may be gone before Qt's

    def __call__(self) -> None:
        for job in self._jobs:
            job.quit()
        panel = self._panel()
        if panel is not None:
            events = panel._viewer.layers.events
            for event in (events.inserted, events.removed, events.reordered, events.renamed):
                event.disconnect(panel._on_layers)
        if "torch" in sys.modules:
            from napari_addm.detection import free_memory

            free_memory()


# --- in another thread ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compared:
    """How an outcome agrees with a ground truth, and that one's file and warnings."""

    outcome: Outcome
    agreement: Agreement
    path: Path | None
    notes: tuple[str, ...]


def _compare(outcome: Outcome, detection: Detection, truth: LayerData) -> Iterator[Compared]:
    labels = place_labels(truth, outcome.scan)
    yield Compared(
        outcome,
        Agreement(detection, labels.data),
        _own_path(labels, outcome.scan),
        labels_notes("ground truth", labels, outcome.scan),
    )


def _save(
    outcome: Outcome, labels: np.ndarray | None, folder: Path, overwrite: bool
) -> Iterator[dict[str, Path]]:
    detection, marked, agreement = outcome.detection, outcome.marked, outcome.agreement
    assert detection is not None
    assert marked is not None
    if labels is not None:
        marked = measure(detection, labels, marked.threshold, marked.minimum_ml)
    if agreement is not None:
        detection = replace(detection, warnings=(*detection.warnings, *outcome.truth_notes))
    # The panel asks before it replaces files; these came since.
    there = [path for path in check_outputs(folder, _stem(outcome), True).values() if path.exists()]
    if there and not overwrite:
        raise AddmError(
            f"{there[0]} exists already: press Save again and agree to replace it, or choose "
            "another folder."
        )
    yield save_detection(
        folder,
        outcome.scan,
        detection,
        marked.labels,
        marked.findings,
        checkpoint=outcome.checkpoint,
        threshold=marked.threshold,
        minimum_ml=marked.minimum_ml,
        stem=_stem(outcome),
        metrics=None if agreement is None else agreement.at(marked),
        truth=None if agreement is None else outcome.truth_path,
        mask=outcome.mask_path,
        overwrite=overwrite,
    )


class _Column(QScrollArea):
    """Scrolls up and down only: it is never narrower than what it holds."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:
        """Qt's, but as wide as the content and the scroll bar."""
        content, bar = self.widget(), self.verticalScrollBar()
        assert content is not None
        assert bar is not None
        width = content.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Hear when the content's size changes, as when napari's style comes over it."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)


# --- small helpers -------------------------------------------------------------------------------


def _own_path(labels: Volume | None, scan: Volume) -> Path | None:
    """The file of some labels; None when they were drawn or resampled here."""
    if labels is None or labels.source.path == scan.source.path:
        return None
    return labels.source.path


def _highest_level(specification: ModelSpecification) -> int:
    """Up to where the network was trained; the record of the training may be silent or foreign."""
    length = specification.diffusion.length if specification.diffusion else 1
    highest = specification.training.get("highest_level")
    return min(highest, length) if isinstance(highest, int) and highest >= 1 else length


def _stem(outcome: Outcome) -> str:
    """How saved files are named: as the scan's file, or else as its layer."""
    if outcome.scan.source.path is not None:
        return outcome.scan.name
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in outcome.name).strip(".") or (
        outcome.scan.name
    )


def _duration(seconds: float, about: bool = True) -> str:
    """Seconds in words."""
    prefix = "about " if about else ""
    if seconds < 9.5:
        return f"{prefix}{max(seconds, 1):.0f} s" if about else f"{seconds:.1f} s"
    if seconds < 90:
        return f"{prefix}{seconds:.0f} s"
    return f"{prefix}{seconds / 60:.0f} min"


def _whole(low: int, high: int) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setMinimumWidth(60)  # the largest value would ask for more
    return box


def _number(high: float, step: float, unit: str = "") -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setRange(0.0, high)
    box.setSingleStep(step)
    box.setSuffix(unit)
    return box


def _form() -> QFormLayout:
    form = QFormLayout()
    form.setContentsMargins(0, 0, 0, 0)
    form.setSpacing(5)
    form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return form


def _row(form: QFormLayout, text: texts.Text, *fields: QWidget) -> None:
    label = QLabel(text.label)
    label.setToolTip(text.tip)
    label.setMinimumWidth(LABEL_WIDTH)
    row: QWidget | QHBoxLayout = fields[0]
    if len(fields) > 1:
        row = QHBoxLayout()
        for field in fields:
            row.addWidget(field)
    else:
        fields[0].setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    for field in fields:
        field.setToolTip(text.tip)
    form.addRow(label, row)


def _button(text: texts.Text, pressed: Any) -> QPushButton:
    button = QPushButton(text.label)
    button.setToolTip(text.tip)
    button.clicked.connect(lambda _=False: pressed())
    return button


def _message(style: str) -> QLabel:
    """A line of words that takes no room while it is empty."""
    label = QLabel()
    label.setWordWrap(True)
    # Names and cards come from files: never read them as markup.
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setStyleSheet(SMALL + style)
    label.hide()
    return label


def _say(label: QLabel, words: str) -> None:
    label.setText(words)
    label.setVisible(bool(words))


def _line() -> QFrame:
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    return line
