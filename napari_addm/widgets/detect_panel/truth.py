"""Section 'Ground truth': the known answer, and how well findings agree with it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QWidget

from napari_addm.detection.pipeline import Detection
from napari_addm.errors import AddmError
from napari_addm.review.agreement import Agreement
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.agreement_view import AgreementView
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.forms import column, form, row, say, single_shot, when_gone
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_combos import LabelsChoice
from napari_addm.widgets.layer_volumes import (
    LayerData,
    labels_file,
    labels_notes,
    labels_volume,
)
from napari_addm.widgets.layers import GEOMETRY

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

# Metrics follow when a dragged threshold has rested for this long.
SETTLED_MS = 120
# And so long after the last stroke on the truth.
DRAWN_MS = 300


class TruthAgreement(QWidget):
    """Choose a ground truth, and see how the findings agree with it.

    It follows when a person draws on the truth's layer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

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
        self._comparing = 0  # jobs
        self._watched: Layer | None = None
        self._seen: tuple[Any, ...] = ()  # which slices were shown last
        self._settled = single_shot(self, SETTLED_MS, self._show)
        self._drawn = single_shot(self, DRAWN_MS, self._compare_again)

        self.truth = LabelsChoice(viewer, "None", start)
        self.truth.changed.connect(self._watch)
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
        when_gone(self, _Farewell(self))

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
        if truth is not None and outcome.detection is not None:
            self._begin(outcome, outcome.detection, truth)

    def _begin(self, outcome: Outcome, detection: Detection, truth: Layer) -> None:
        self._drawn.stop()
        self._compared_with = LayerData.of(truth)
        self._comparing += 1
        self._start(
            "Compare with the ground truth",
            _compare,
            outcome,
            detection,
            self._compared_with,
            None if outcome.agreement is None else outcome.agreement.truth,
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

    # --- drawing on the truth --------------------------------------------------------------------

    def disconnect_layer(self) -> None:
        """Hear the truth's layer no longer."""
        layer, self._watched = self._watched, None
        if layer is not None:
            for event in _changes(layer):
                event.disconnect(self._on_drawn)
            layer.events.set_data.disconnect(self._on_redrawn)

    def _watch(self) -> None:
        """Hear when the layer that is chosen now is drawn on."""
        self.disconnect_layer()
        self._drawn.stop()
        layer = self._watched = self.truth.layer
        if layer is not None:
            for event in _changes(layer):
                event.connect(self._on_drawn)
            # of an undone stroke napari tells nothing else
            layer.events.set_data.connect(self._on_redrawn)
            self._seen = self._slices

    @property
    def _slices(self) -> tuple[Any, ...]:
        """Which slices are shown."""
        dims = self._viewer.dims
        return dims.point, dims.order, dims.ndisplay

    def _on_drawn(self, event: Any = None) -> None:
        self._drawn.start()

    def _on_redrawn(self, event: Any = None) -> None:
        """The layer shows its voxels anew: maybe others, unless it is for other slices."""
        seen, self._seen = self._seen, self._slices
        if self._seen == seen:
            self._drawn.start()

    def _compare_again(self) -> None:
        """Compare with the truth as it is now; until that is done, what is known stays shown."""
        outcome, truth = self._outcome, self.truth.layer
        # While a result grows nothing is compared, and when it is whole all is.
        if (
            self._compared_with is None
            or truth is None
            or outcome is None
            or outcome.detection is None
        ):
            return
        if self._comparing:
            self._drawn.start()  # one at a time, however fast a person draws
            return
        self._begin(outcome, outcome.detection, truth)

    # --- what a comparison gave ------------------------------------------------------------------

    def _on_compared(self, compared: Compared | Refused) -> None:
        # Another result or another truth may have come meanwhile.
        outcome, truth = compared.outcome, compared.truth
        if outcome is not self._outcome or truth is not self._compared_with:
            return
        if isinstance(compared, Refused):
            self.forget(outcome)  # what is shown is of voxels that the layer no longer has
            self._compared_with = truth  # a person may mend it
            say(self.metrics_notes, compared.words)
        elif compared.agreement.detection is outcome.detection:
            outcome.agreement = compared.agreement
            outcome.truth_path, outcome.truth_notes = compared.path, compared.notes
            self._show()

    def _on_not_compared(self, error: Exception) -> None:
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self._comparing -= 1
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


def _changes(layer: Layer) -> list[Any]:
    """The events that tell that labels are others, or lie elsewhere."""
    names = ("paint", "labels_update", "data", *GEOMETRY)
    return [getattr(layer.events, name) for name in names]


class _Farewell:
    """What is left to do when the section is gone: hear the truth's layer no longer."""

    def __init__(self, section: TruthAgreement) -> None:
        self._section = weakref.ref(section)

    def __call__(self) -> None:
        section = self._section()
        if section is not None:
            section.disconnect_layer()


# --- in another thread ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compared:
    """How an outcome agrees with a ground truth, and that one's file and warnings."""

    outcome: Outcome
    truth: LayerData
    agreement: Agreement
    path: Path | None
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Refused:
    """Why an outcome cannot be compared with a ground truth."""

    outcome: Outcome
    truth: LayerData
    words: str


def _compare(
    outcome: Outcome, detection: Detection, layer: LayerData, known: np.ndarray | None
) -> Iterator[Compared | Refused]:
    """Compare with a layer, unless it shows the truth that is known already."""
    try:
        labels = labels_volume(layer, outcome.scan)
        truth = labels.data != 0  # a copy: a person may be drawing
        if known is not None and np.array_equal(truth, known):
            return
        agreement = Agreement(detection, truth)
    except AddmError as error:
        yield Refused(outcome, layer, str(error))
        return
    yield Compared(
        outcome,
        layer,
        agreement,
        labels_file(labels.with_data(truth), "ground truth", outcome.scan),
        labels_notes("ground truth", labels, outcome.scan),
    )
