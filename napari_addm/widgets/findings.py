"""Section 'Findings': the threshold, what it promises, and what it finds."""

from __future__ import annotations

from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QLabel, QWidget
from superqt import QLabeledDoubleSlider

from napari_addm.checkpoint import ModelSpecification
from napari_addm.detection import Detection
from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.forms import column, form, message, number, row, say
from napari_addm.widgets.review import Marked, is_calibrated

# A dragged threshold shows findings this soon.
LIVE_MS = 30


class FindingsReview(QWidget):
    """Set the threshold, and see what a result has above it.

    The section marks nothing itself: it says when the threshold has moved,
    and is told what was found.

    Attributes
    ----------
    moved : Signal()
        Threshold or smallest finding are another; at most every `LIVE_MS`.
    reviewed : ModelSpecification or None
        Whose threshold the review began with.
    """

    moved = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.reviewed: ModelSpecification | None = None
        self._detection: Detection | None = None
        self._live = QTimer(self)
        self._live.setSingleShot(True)
        self._live.setInterval(LIVE_MS)
        self._live.timeout.connect(self.moved)

        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setDecimals(3)
        self.threshold.setRange(0.0, 1.0)
        self.threshold.valueChanged.connect(self._on_moved)
        self.minimum = number(1000, 0.1, " mL")
        self.minimum.valueChanged.connect(self._on_moved)
        self.promise = message()
        self.promise.setToolTip(texts.PROMISE)
        self.count = QLabel()
        fields = form()
        row(fields, texts.THRESHOLD, self.threshold)
        fields.addRow(self.promise)
        row(fields, texts.MINIMUM, self.minimum)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.count)

    def review_as(self, specification: ModelSpecification) -> None:
        """Set the threshold and the smallest finding to a checkpoint's defaults."""
        default = specification.detection
        self.reviewed = specification
        self.threshold.setRange(0.0, max(4 * default.threshold, 1e-3))
        self.threshold.setValue(default.threshold)
        self.minimum.setValue(default.minimum_ml)

    def begin(self, specification: ModelSpecification) -> None:
        """A run with a checkpoint begins; nothing is found yet."""
        self._detection = None
        if specification != self.reviewed:
            self.review_as(specification)

    def show_marked(self, detection: Detection, marked: Marked) -> None:
        """Count what was found in a result, partial or whole."""
        self._detection = detection
        many = len(marked.findings)
        found = f"{many} finding" if many == 1 else f"{many or 'No'} findings"
        total = f", {marked.total_ml:.1f} mL together" if many else ""
        self.count.setText(f"{found}{total}")
        self._show_promise()

    def end(self, detection: Detection) -> None:
        """A run has ended: let the slider reach its highest score."""
        highest = float(detection.anomaly.data.max())
        self.threshold.setMaximum(max(highest, 1.2 * self.threshold.value(), 1e-3))

    def _on_moved(self) -> None:
        self._show_promise()
        if not self._live.isActive():
            self._live.start()

    def _show_promise(self) -> None:
        """Say what the threshold would mark in a healthy brain, where that was measured."""
        specification, detection = self.reviewed, self._detection
        alarms = specification.detection.false_alarms if specification is not None else None
        words = ""
        if alarms is not None:
            if detection is None or is_calibrated(detection, self.minimum.value()):
                words = f"{alarms.in_words(self.threshold.value())} {texts.IN_HEALTHY}"
            else:
                words = texts.UNCALIBRATED
        say(self.promise, words)
