"""Section 'Ground truth': the known answer, and how well findings agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_addm.detection import Detection
from napari_addm.errors import AddmError
from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.choosers import LabelsChoice
from napari_addm.widgets.forms import SMALL, WARNING, column, form, message, row, say
from napari_addm.widgets.outcome import Outcome, own_path
from napari_addm.widgets.review import Agreement
from napari_addm.widgets.worker import Job, LayerData, labels_notes, place_labels

if TYPE_CHECKING:
    import napari

# Metrics follow when a dragged threshold has rested for this long.
SETTLED_MS = 120


class TruthAgreement(QWidget):
    """Choose a ground truth, and see how the findings agree with it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.worker.start_job` does.

    Attributes
    ----------
    truth_changed : Signal()
    finished : Signal()
        A comparison has come to its end, well or not.
    failed : Signal(object)
        An exception, for the panel to show.
    truth : LabelsChoice
    """

    truth_changed = Signal()
    finished = Signal()
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._start = start
        self._outcome: Outcome | None = None
        self._settled = QTimer(self)
        self._settled.setSingleShot(True)
        self._settled.setInterval(SETTLED_MS)
        self._settled.timeout.connect(self._show)

        self.truth = LabelsChoice(viewer, "None")
        self.truth.changed.connect(self.truth_changed)
        self.truth.failed.connect(self.failed)
        fields = form()
        row(fields, texts.TRUTH, self.truth.chooser)
        self.figures = {key: QLabel("–") for key in texts.METRICS}
        self.metrics = QWidget()
        table = QGridLayout(self.metrics)
        table.setContentsMargins(0, 0, 0, 0)
        table.setSpacing(2)
        for place, (key, text) in enumerate(texts.METRICS.items()):
            heading = QLabel(text.label)
            heading.setStyleSheet(SMALL)
            for line, label in enumerate((heading, self.figures[key])):
                label.setToolTip(text.tip)
                label.setAlignment(Qt.AlignmentFlag.AlignCenter)
                table.addWidget(label, line, place)
        self.metrics.hide()
        self.metrics_notes = message(WARNING)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.truth)
        body.addWidget(self.metrics)
        body.addWidget(self.metrics_notes)

    def forget(self, outcome: Outcome) -> None:
        """Show no agreement of an outcome: there is another ground truth or result."""
        self._outcome = outcome
        outcome.agreement = None
        self._show()

    def compare(self, outcome: Outcome) -> None:
        """Compare a result with the ground truth that is chosen, if one is.

        All that needs sorting is done aside; `Outcome.agreement` is set when
        it is there.
        """
        self.forget(outcome)
        truth = self.truth.layer
        if truth is None or outcome.detection is None:
            return
        self._start(
            "Compare with the ground truth",
            _compare,
            outcome,
            outcome.detection,
            LayerData.of(truth),
            yielded=self._on_compared,
            errored=self._on_not_compared,
            finished=self._on_finished,
        )

    def show_marked(self, outcome: Outcome) -> None:
        """Measure other findings of an outcome, once the threshold rests."""
        self._outcome = outcome
        self._settled.start()

    def _on_compared(self, compared: Compared) -> None:
        outcome, agreement = compared.outcome, compared.agreement
        if outcome is self._outcome and agreement.detection is outcome.detection:
            outcome.agreement = agreement
            outcome.truth_path, outcome.truth_notes = compared.path, compared.notes
            self._show()

    def _on_not_compared(self, error: Exception) -> None:
        if isinstance(error, AddmError):
            say(self.metrics_notes, str(error))
        else:
            self.failed.emit(error)

    def _on_finished(self) -> None:
        self.finished.emit()

    def _show(self) -> None:
        outcome = self._outcome
        figures = None
        if outcome is not None and outcome.agreement is not None and outcome.marked is not None:
            figures = outcome.agreement.at(outcome.marked)
        self.metrics.setVisible(figures is not None)
        say(self.metrics_notes, "")
        if figures is not None and outcome is not None:
            say(self.metrics_notes, "\n".join((*outcome.truth_notes, *figures.notes)))
            for key, label in self.figures.items():
                value = getattr(figures, key)
                label.setText("–" if value is None else f"{value:.3f}")


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
        own_path(labels, outcome.scan),
        labels_notes("ground truth", labels, outcome.scan),
    )
