"""Fields and buttons of the panel 'Detect in a cohort'."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QWidget,
)

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.cohort.batch import BatchSettings
from napari_addm.detection.settings import DetectionSettings
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.controller import Allowed, exact_value, suggest_output
from napari_addm.widgets.forms import PRIMARY, button, form, number, row, whole

Press = Callable[[], object]


class CohortPlaces(QWidget):
    """Where the scans are, and where the results go.

    Attributes
    ----------
    chosen : Signal()
        A person chose or confirmed a place.
    edited : Signal()
        A person left a field.
    source, output : QLineEdit
    """

    chosen = Signal()
    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.source, self.output = QLineEdit(), QLineEdit()
        folder = button(texts.CHOOSE_FOLDER, self._choose_source)
        table = button(texts.CHOOSE_TABLE, self._choose_table)
        results = button(texts.CHOOSE_FOLDER, self._choose_output)
        self._fields = (self.source, folder, table, self.output, results)
        fields = form()
        self.setLayout(fields)
        row(fields, texts.COHORT_INPUT, self.source, folder, table)
        row(fields, texts.COHORT_OUTPUT, self.output, results)
        table.setToolTip(texts.CHOOSE_TABLE.tip)
        for each in (folder, results):
            each.setToolTip(texts.CHOOSE_FOLDER.tip)
        for field in (self.source, self.output):
            field.returnPressed.connect(self.chosen)
            field.editingFinished.connect(self.edited)

    def set_places(self, source: str, output: str | None = None) -> None:
        """Fill in both places; an empty output becomes a folder beside the scans."""
        self.source.setText(source)
        if output is None and source and not self.output.text().strip():
            output = suggest_output(source)
        if output is not None:
            self.output.setText(output)

    def allow(self, allowed: bool) -> None:
        """Enable or disable all fields."""
        for field in self._fields:
            field.setEnabled(allowed)

    def _choose_source(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose the scans", self.source.text())
        self._take(folder)

    def _choose_table(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Choose a table of cases", self.source.text(), "Tables (*.csv *.tsv)"
        )
        self._take(name)

    def _choose_output(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Choose a folder for the results", self.output.text()
        )
        if folder:
            self.output.setText(folder)
            self.chosen.emit()

    def _take(self, source: str) -> None:
        if source:
            self.set_places(source)
            self.chosen.emit()


class CohortOptions(QWidget):
    """What counts as a finding, how files are read, and what is written.

    Attributes
    ----------
    marking_changed : Signal()
        The threshold or the smallest finding changed.
    reading_changed : Signal()
        The frame or the resampling changed.
    threshold, minimum : QDoubleSpinBox
    frame : QSpinBox
    resample, pictures : QCheckBox
    """

    marking_changed = Signal()
    reading_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.threshold = number(1000, 0.01)
        self.threshold.setDecimals(3)
        self.minimum = number(1000, 0.1, " mL")
        self.frame = whole(-1, 9999)
        self.frame.setSpecialValueText(texts.NO_FRAME)
        self.frame.setValue(-1)
        self.resample = QCheckBox(texts.RESAMPLE_BESIDE.label)
        self.resample.setToolTip(texts.RESAMPLE_BESIDE.tip)
        self.pictures = QCheckBox(texts.PICTURES.label)
        self.pictures.setToolTip(texts.PICTURES.tip)
        self.pictures.setChecked(True)
        fields = form()
        self.setLayout(fields)
        row(fields, texts.COHORT_THRESHOLD, self.threshold)
        row(fields, texts.MINIMUM, self.minimum)
        row(fields, texts.FRAME, self.frame)
        ticks = QHBoxLayout()
        ticks.addWidget(self.resample)
        ticks.addWidget(self.pictures)
        ticks.addStretch()
        fields.addRow("", ticks)
        for field in (self.threshold, self.minimum):
            field.valueChanged.connect(self.marking_changed)
        self.frame.valueChanged.connect(self.reading_changed)
        self.resample.toggled.connect(self.reading_changed)

    @property
    def frame_index(self) -> int | None:
        """Which frame of 4D scans; None for those that have one."""
        frame = self.frame.value()
        return frame if frame >= 0 else None

    def set_defaults(self, specification: ModelSpecification) -> None:
        """Show threshold and smallest finding of a checkpoint."""
        self.threshold.setValue(specification.detection.threshold)
        self.minimum.setValue(specification.detection.minimum_ml)

    def settings(
        self, detection: DetectionSettings, specification: ModelSpecification | None
    ) -> BatchSettings:
        """Return the settings of a run with a checkpoint."""
        threshold, minimum = self.threshold.value(), self.minimum.value()
        if specification is not None:
            own = specification.detection
            threshold = exact_value(threshold, own.threshold, self.threshold.decimals())
            minimum = exact_value(minimum, own.minimum_ml, self.minimum.decimals())
        return BatchSettings(
            detection=detection,
            threshold=threshold,
            minimum_ml=minimum,
            frame=self.frame_index,
            resample=self.resample.isChecked(),
            pictures=self.pictures.isChecked(),
        )


class CohortButtons(QWidget):
    """What a person may do with the cohort.

    Parameters
    ----------
    run, cancel, retry, report, folder : callable
        What each button calls.

    Attributes
    ----------
    run, cancel, retry, report, folder : QPushButton
    """

    def __init__(self, run: Press, cancel: Press, retry: Press, report: Press, folder: Press):
        super().__init__()
        self.run = button(texts.COHORT_RUN, run)
        self.run.setStyleSheet(PRIMARY)
        self.cancel = button(texts.COHORT_CANCEL, cancel)
        self.retry = button(texts.RETRY_FAILED, retry)
        self.report = button(texts.OPEN_REPORT, report)
        self.folder = button(texts.OPEN_RESULTS, folder)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.run, 0, 0, 1, 4)
        layout.addWidget(self.cancel, 0, 4, 1, 2)
        for place, part in enumerate((self.retry, self.report, self.folder)):
            layout.addWidget(part, 1, 2 * place, 1, 2)
        for place in range(6):
            layout.setColumnStretch(place, 1)

    def show_allowed(self, allowed: Allowed, run_text: texts.Text, failed: int) -> None:
        """Enable what is allowed, and say what a run and another try would do."""
        self.run.setText(run_text.label)
        self.run.setToolTip(run_text.tip)
        self.run.setEnabled(allowed.run)
        self.cancel.setEnabled(allowed.cancel)
        self.retry.setText(texts.RETRY_FAILED.label + (f" ({failed})" if failed else ""))
        self.retry.setEnabled(allowed.retry)
        self.report.setEnabled(allowed.report)
        self.folder.setEnabled(allowed.folder)
