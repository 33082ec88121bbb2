"""Section 'Findings': the threshold, what it promises, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from qtpy.QtCore import Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget
from superqt import QLabeledDoubleSlider
from superqt.utils import signals_blocked

from napari_addm.checkpoint.specification import FalseAlarmSpecification
from napari_addm.detection.pipeline import Detection
from napari_addm.review.decisions import ReviewedFindings
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.detect_panel.state import Marking, Outcome, describe_count
from napari_addm.widgets.forms import (
    button,
    column,
    form,
    lay_out_now,
    message,
    number,
    row,
    say,
    single_shot,
)
from napari_addm.widgets.tones import WARNING

# Promises that the threshold can be set by, mL of false alarm in a healthy brain.
PROMISES_ML = (0.1, 1.0, 5.0)
# Thresholds that differ by less look the same on the slider.
SAME_THRESHOLD = 2e-4
PRESET_LOOK = "padding: 2px 1px;"
PRESET_DOUBTED = "border: 1px dashed #b87a1e;"


class FindingsSection(QWidget):
    """Set the threshold, and see what the result that is shown has above it.

    Parameters
    ----------
    controller : DetectController

    Attributes
    ----------
    threshold : QLabeledDoubleSlider
    minimum : QDoubleSpinBox
        Smallest finding, mL.
    promise, count : QLabel
        What the threshold marks in a healthy brain, and what it marks here.
    table : FindingsTable
    presets : dict of float to QPushButton
        By the promise that they set the threshold to, mL.
    default_button : QPushButton
    """

    def __init__(self, controller: DetectController) -> None:
        super().__init__()
        self._controller = controller
        # One call for all moves that came while the GUI was busy.
        self._moved = single_shot(self, 0, controller.mark)
        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setDecimals(3)
        self.minimum = number(1000, 0.1, " mL")
        self.promise = message()
        self.count = QLabel()
        self.count.setWordWrap(True)
        self.count.setAlignment(Qt.AlignmentFlag.AlignBottom)
        self.table = FindingsTable()
        self.presets = {
            ml: _preset(texts.Text(texts.PRESET.format(ml), ""), partial(self._on_preset, ml))
            for ml in PROMISES_ML
        }
        self.default_button = _preset(texts.DEFAULT_THRESHOLD, self._on_default)
        fields = form()
        row(fields, texts.THRESHOLD, self.threshold)
        row(fields, texts.PRESETS, *self.presets.values(), self.default_button)
        fields.addRow(self.promise)
        row(fields, texts.MINIMUM, self.minimum)
        self._body = body = column(self)
        body.addLayout(fields)
        body.addWidget(self.count)
        body.addWidget(self.table)
        self.threshold.valueChanged.connect(self._on_threshold)
        self.minimum.valueChanged.connect(self._on_minimum)
        self.table.decided.connect(self._show_count)
        controller.review_changed.connect(self._show_review)
        controller.marked.connect(self._on_marked)
        self._show_review()

    def add(self, part: QWidget) -> None:
        """Add a part below the table."""
        self._body.addWidget(part)

    # --- what a person sets ----------------------------------------------------------------------

    def _on_threshold(self, threshold: float) -> None:
        self._set(replace(self._controller.marking, threshold=threshold))

    def _on_minimum(self, minimum_ml: float) -> None:
        self._set(replace(self._controller.marking, minimum_ml=minimum_ml))

    def _on_preset(self, ml: float) -> None:
        """Set the threshold so that it marks so much in a healthy brain, if it was measured."""
        alarms = self._controller.marking.false_alarms(self._detection)
        self._choose(None if alarms is None else alarms.threshold_for(ml))

    def _on_default(self) -> None:
        specification = self._controller.marking.specification
        self._choose(None if specification is None else specification.detection.threshold)

    def _choose(self, threshold: float | None) -> None:
        if threshold is not None:
            self._set(self._controller.marking.at(threshold))
        self._show_marking()  # a button that was on already must not go off

    def _set(self, marking: Marking) -> None:
        self._controller.set_marking(marking)
        self._show_promise()
        if not self._moved.isActive():
            self._moved.start()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Keep room for two lines: else the table would jump with the first rejected finding."""
        super().showEvent(event)
        words = self.count.text()
        self.count.setText("\n".join("ab"))
        self.count.setMinimumHeight(self.count.sizeHint().height())
        self.count.setText(words)

    # --- what is shown ---------------------------------------------------------------------------

    @property
    def _detection(self) -> Detection | None:
        outcome = self._controller.outcome
        return None if outcome is None else outcome.detection

    def _show_review(self) -> None:
        """Show the outcome and the threshold that the controller has now."""
        outcome = self._controller.outcome
        self.table.show_review(ReviewedFindings() if outcome is None else outcome.findings)
        self._show_marking()
        self._show_count()

    def _on_marked(self, outcome: Outcome) -> None:
        if outcome is self._controller.outcome:
            self._show_review()
            lay_out_now(self)

    def _show_marking(self) -> None:
        marking = self._controller.marking
        with signals_blocked(self.threshold), signals_blocked(self.minimum):
            self.threshold.setRange(0.0, marking.limit)
            self.threshold.setValue(marking.threshold)
            self.minimum.setValue(marking.minimum_ml)
        self._show_promise()

    def _show_count(self) -> None:
        outcome = self._controller.outcome
        self.count.setText("" if outcome is None else describe_count(outcome))

    def _show_promise(self) -> None:
        """Say what the threshold would mark in a healthy brain, where that was measured."""
        marking = self._controller.marking
        alarms, outcome = marking.false_alarms(self._detection), self._controller.outcome
        doubt = "" if outcome is None or alarms is None else outcome.why_no_promise
        in_slices = marking.measured and outcome is not None and not outcome.is_whole
        words = texts.IN_SLICES if in_slices else marking.promise(self._detection)
        say(self.promise, doubt or words)
        self.promise.set_tone(WARNING if doubt else "")
        self.promise.setToolTip("" if alarms is None else _about(alarms))
        why_not = texts.UNCALIBRATED if marking.measured else texts.NO_PRESETS
        for ml, preset in self.presets.items():
            threshold = None if alarms is None else alarms.threshold_for(ml)
            _offer(preset, threshold, marking.threshold)
            tip = texts.PRESET_DOUBTED if doubt else texts.PRESET_TIP
            tip = tip if threshold is not None else texts.PRESET_BEYOND
            preset.setToolTip(why_not if alarms is None else tip.format(ml, alarms.brains))
            preset.setStyleSheet(PRESET_LOOK + (PRESET_DOUBTED if doubt else ""))
        specification = marking.specification
        default = None if specification is None else specification.detection.threshold
        _offer(self.default_button, default, marking.threshold)
        self.default_button.setToolTip(
            texts.DEFAULT_THRESHOLD.tip.format("none" if default is None else f"{default:g}")
        )


def _about(alarms: FalseAlarmSpecification) -> str:
    """Say which brains a promise was measured in."""
    scanners = ", ".join(alarms.scanners)
    of = texts.PROMISE_OF.format(scanners) if scanners else ""
    return texts.as_written(texts.PROMISE.format(alarms.subjects, of))


def _preset(text: texts.Text, pressed: Callable[[], object]) -> QPushButton:
    made = button(text, pressed)
    made.setCheckable(True)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    made.setStyleSheet(PRESET_LOOK)
    made.setMinimumWidth(10)
    return made


def _offer(preset: QPushButton, threshold: float | None, now: float) -> None:
    """Enable a preset that has a threshold, and show it pressed where the slider is there."""
    preset.setEnabled(threshold is not None)
    preset.setChecked(threshold is not None and abs(threshold - now) < SAME_THRESHOLD)
