"""Section 'Findings': the threshold, what it promises, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import numpy as np
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget
from superqt import QLabeledDoubleSlider

from napari_addm.checkpoint.specification import FalseAlarmSpecification, ModelSpecification
from napari_addm.detection.pipeline import Detection
from napari_addm.review.decisions import Decided
from napari_addm.review.marking import LabelledFindings, is_calibrated
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.forms import (
    button,
    column,
    form,
    message,
    number,
    row,
    say,
    single_shot,
)

# Promises that the threshold can be set by, mL of false alarm in a healthy brain.
PROMISES_ML = (0.1, 1.0, 5.0)
# Thresholds as near as this are the same: less than the slider shows.
SAME_THRESHOLD = 2e-4


class FindingsReview(QWidget):
    """Set the threshold, and see what a result has above it.

    The section marks nothing itself: it says when the threshold has moved,
    and is told what was found.

    Attributes
    ----------
    moved : Signal()
        Threshold or smallest finding are another; once for all that came
        while the GUI was busy.
    table : FindingsTable
    presets : dict of float to QPushButton
        By the promise that they set the threshold to, mL.
    reviewed : ModelSpecification or None
        Whose threshold the review began with.
    marking : tuple of float
        Threshold and smallest finding (mL); may be read from any thread.
    """

    moved = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.reviewed: ModelSpecification | None = None
        self._detection: Detection | None = None
        self._marked: LabelledFindings | None = None
        self._live = single_shot(self, 0, self.moved)

        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setDecimals(3)
        self.threshold.setRange(0.0, 1.0)
        self.threshold.valueChanged.connect(self._on_moved)
        self.minimum = number(1000, 0.1, " mL")
        self.minimum.valueChanged.connect(self._on_moved)
        self.promise = message()
        self.promise.setToolTip(texts.PROMISE)
        self.count = QLabel()
        self.count.setWordWrap(True)
        self.table = FindingsTable()
        self.table.decided.connect(self._count)
        self.presets = {
            ml: _preset(texts.Text(texts.PRESET.format(ml), ""), partial(self.promise_ml, ml))
            for ml in PROMISES_ML
        }
        self.default_button = _preset(texts.DEFAULT_THRESHOLD, self.take_default)
        fields = form()
        row(fields, texts.THRESHOLD, self.threshold)
        row(fields, texts.PRESETS, *self.presets.values(), self.default_button)
        fields.addRow(self.promise)
        row(fields, texts.MINIMUM, self.minimum)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.count)
        body.addWidget(self.table)
        self.marking = self.threshold.value(), self.minimum.value()
        self._scan: Hashable = None
        # of the scans that were reviewed before this one: for which checkpoint, and how
        self._markings: dict[Hashable, tuple[ModelSpecification | None, tuple[float, float]]] = {}
        self._show_promise()

    def review_as(self, specification: ModelSpecification) -> None:
        """Set the threshold and the smallest finding to a checkpoint's defaults."""
        default = specification.detection
        self.reviewed = specification
        self.threshold.setRange(0.0, max(4 * default.threshold, 1e-3))
        self.threshold.setValue(default.threshold)
        self.minimum.setValue(default.minimum_ml)
        self._show_promise()

    def promise_ml(self, ml: float) -> None:
        """Set the threshold so that it marks so much in a healthy brain, if it was measured."""
        threshold = self._threshold_for(ml)
        if threshold is not None:
            self._set_threshold(threshold)

    def take_default(self) -> None:
        """Set the threshold to the checkpoint's own."""
        if self.reviewed is not None:
            self._set_threshold(self.reviewed.detection.threshold)

    def _set_threshold(self, threshold: float) -> None:
        if threshold > self.threshold.maximum():
            self.threshold.setMaximum(1.2 * threshold)  # type: ignore[arg-type]  # a float slider
        self.threshold.setValue(threshold)
        self._show_promise()  # a button that was on already must not go off

    def mark_at(self, threshold: float, minimum_ml: float) -> None:
        """Set both, and have the findings marked at once, whatever they were."""
        self.minimum.setValue(minimum_ml)
        self._set_threshold(threshold)
        self._live.stop()
        self.moved.emit()

    def begin(
        self, specification: ModelSpecification, scan: Hashable, earlier: tuple[Decided, ...] = ()
    ) -> None:
        """A run with a checkpoint begins on a scan; see `FindingsTable.begin`.

        A scan that was reviewed before others has its threshold and smallest finding again, on
        which the decisions on it depend.
        """
        self._detection = None
        self._marked = None
        self.table.begin(scan, earlier)
        self.count.setText("")
        if scan != self._scan:
            self._markings[self._scan] = self.reviewed, self.marking
            self._scan = scan
        reviewed, marking = self._markings.pop(scan, (None, self.marking))
        if specification != self.reviewed:
            self.review_as(specification)
        if specification == reviewed:
            threshold, minimum = marking
            self.minimum.setValue(minimum)
            self._set_threshold(threshold)

    def show_marked(self, detection: Detection, marked: LabelledFindings) -> None:
        """List and count what was found in a result, partial or whole."""
        self._detection, self._marked = detection, marked
        self.table.show_marked(marked)
        self._count()
        self._show_promise()

    def _count(self) -> None:
        if self._marked is None:
            return
        findings = self._marked.findings
        many = len(findings)
        words = f"{many} finding" if many == 1 else f"{many or 'No'} findings"
        words += f", {findings.total_ml:.1f} mL together" if many else ""
        detection = self._detection
        if not many and detection is not None and detection.done.sum() == 1:
            area = 1000 * self._marked.minimum_ml / detection.anomaly.spacing[0]
            words += f": in one slice {self._marked.minimum_ml:.2f} mL are {area:.0f} mm²"
        rejected = [id for id, made in self.table.decisions.items() if made.verdict == "rejected"]
        if rejected:
            left = findings.total_ml - findings.volume_ml[np.isin(findings.id, rejected)].sum()
            words += f"; {max(left, 0.0):.1f} mL without the {len(rejected)} rejected"
        self.count.setText(words)

    def end(self, detection: Detection) -> None:
        """A run has ended: let the slider reach its highest score."""
        highest = float(detection.anomaly.data.max())
        self.threshold.setMaximum(max(highest, 1.2 * self.threshold.value(), 1e-3))

    def _on_moved(self) -> None:
        self.marking = self.threshold.value(), self.minimum.value()
        self._show_promise()
        if not self._live.isActive():
            self._live.start()

    def _alarms(self) -> FalseAlarmSpecification | None:
        """The curve of false alarms, where it holds."""
        if self.reviewed is None:
            return None
        alarms = self.reviewed.detection.false_alarms
        holds = self._detection is None or is_calibrated(self._detection, self.minimum.value())
        return alarms if holds else None

    def _threshold_for(self, ml: float) -> float | None:
        alarms = self._alarms()
        return None if alarms is None else alarms.threshold_for(ml)

    def _show_promise(self) -> None:
        """Say what the threshold would mark in a healthy brain, where that was measured."""
        alarms, now = self._alarms(), self.threshold.value()
        measured = self.reviewed is not None and self.reviewed.detection.false_alarms is not None
        words = texts.UNCALIBRATED if measured else ""
        if alarms is not None:
            words = f"{alarms.in_words(now)} {texts.IN_HEALTHY}"
        say(self.promise, words)
        why_not = texts.UNCALIBRATED if measured else texts.NO_PRESETS
        for ml, preset in self.presets.items():
            threshold = self._threshold_for(ml)
            _offer(preset, threshold, now)
            tip = texts.PRESET_TIP if threshold is not None else texts.PRESET_BEYOND
            preset.setToolTip(why_not if alarms is None else tip.format(ml))
        default = None if self.reviewed is None else self.reviewed.detection.threshold
        _offer(self.default_button, default, now)
        self.default_button.setToolTip(
            texts.DEFAULT_THRESHOLD.tip.format("none" if default is None else f"{default:g}")
        )


def _preset(text: texts.Text, pressed: Callable[[], object]) -> QPushButton:
    made = button(text, pressed)
    made.setCheckable(True)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    made.setStyleSheet("padding: 2px 1px;")
    made.setMinimumWidth(10)
    return made


def _offer(preset: QPushButton, threshold: float | None, now: float) -> None:
    """Enable a preset that has a threshold, and show it pressed where the slider stands there."""
    preset.setEnabled(threshold is not None)
    preset.setChecked(threshold is not None and abs(threshold - now) < SAME_THRESHOLD)
