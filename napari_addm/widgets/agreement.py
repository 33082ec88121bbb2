"""Section 'Ground truth': the known answer, and how well findings agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QWidget

from napari_addm.detection import Detection
from napari_addm.errors import AddmError
from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.choosers import LabelsChoice
from napari_addm.widgets.comparison import AgreementView
from napari_addm.widgets.forms import column, form, row, say
from napari_addm.widgets.outcome import Outcome, own_path
from napari_addm.widgets.review import Agreement
from napari_addm.widgets.turns import later
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
    threshold_chosen : Signal(float)
        On a curve.
    truth : LabelsChoice
    view : AgreementView
    """

    truth_changed = Signal()
    threshold_chosen = Signal(float)
    finished = Signal()
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self._outcome: Outcome | None = None
        self._compared_with: LayerData | None = None
        self._settled = later(self, SETTLED_MS, self._show)

        self.truth = LabelsChoice(viewer, "None", start)
        self.truth.changed.connect(self.truth_changed)
        self.truth.failed.connect(self.failed)
        fields = form()
        row(fields, texts.TRUTH, self.truth.chooser, self.truth.open_button)
        self.view = AgreementView()
        self.view.threshold_chosen.connect(self.threshold_chosen)
        self.view.overlay_wanted.connect(self._show_overlay)
        self.view.voxel_chosen.connect(self._on_voxel)
        self.metrics = self.view.metrics
        self.metrics_notes = self.view.notes
        self.figures = self.view.figures
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.truth)
        body.addWidget(self.view)

    def forget(self, outcome: Outcome) -> None:
        """Show no agreement of an outcome: there is another ground truth or result."""
        before, self._outcome = self._outcome, outcome
        outcome.agreement = None
        self._compared_with = None
        if before is not None:
            before.layers.hide_agreement()
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
        self._compared_with = LayerData.of(truth)
        self._start(
            "Compare with the ground truth",
            _compare,
            outcome,
            outcome.detection,
            self._compared_with,
            yielded=self._on_compared,
            errored=self._on_not_compared,
            finished=self._on_finished,
        )

    def show_marked(self, outcome: Outcome) -> None:
        """Measure other findings of an outcome, once the threshold rests."""
        self._outcome = outcome
        if outcome.agreement is not None and outcome.marked is not None:
            self.view.show_threshold(outcome.marked.threshold)
            self._show_overlay()
        self._settled.start()

    def check_layers(self) -> None:
        """Hear that layers came or went: who deletes hits and misses wants them no longer."""
        outcome = self._outcome
        if (
            outcome is not None
            and outcome.agreement is not None
            and outcome.layers.layer("agreement") is None
        ):
            self.view.overlay.setChecked(False)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow napari's theme, which comes as a style sheet."""
        if event is not None and event.type() == QEvent.Type.StyleChange:
            self.view.set_theme(self._viewer.theme)
        super().changeEvent(event)

    def _on_compared(self, compared: Compared) -> None:
        outcome, agreement = compared.outcome, compared.agreement
        # Another result or another truth may have come meanwhile.
        if (
            outcome is self._outcome
            and agreement.detection is outcome.detection
            and compared.truth is self._compared_with
        ):
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
        agreement = outcome.agreement if outcome is not None else None
        if agreement is None or agreement is not self.view.agreement:
            self.view.show_agreement(agreement)
        if agreement is not None and outcome is not None and outcome.marked is not None:
            self.view.show_threshold(outcome.marked.threshold)
            self.view.show_marked(outcome.marked, outcome.truth_notes)
            self._show_overlay()

    def _show_overlay(self) -> None:
        """Show hits and misses, or take them away, as the button says."""
        outcome = self._outcome
        if outcome is None or outcome.agreement is None or outcome.marked is None:
            return
        if self.view.overlay.isChecked():
            overlay = outcome.agreement.overlay(outcome.marked)
            outcome.layers.show_agreement(overlay, self.truth.layer)
        else:
            outcome.layers.hide_agreement()

    def _on_voxel(self, index: tuple[int, int, int]) -> None:
        if self._outcome is not None:
            self._outcome.layers.go_to(index)


# --- in another thread ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compared:
    """How an outcome agrees with a ground truth, and that one's file and warnings."""

    outcome: Outcome
    truth: LayerData
    agreement: Agreement
    path: Path | None
    notes: tuple[str, ...]


def _compare(outcome: Outcome, detection: Detection, truth: LayerData) -> Iterator[Compared]:
    labels = place_labels(truth, outcome.scan)
    yield Compared(
        outcome,
        truth,
        Agreement(detection, labels.data),
        own_path(labels, outcome.scan),
        labels_notes("ground truth", labels, outcome.scan),
    )
