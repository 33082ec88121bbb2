"""Section 'Ground truth': the known answer, and how well findings agree with it."""

from __future__ import annotations

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
from napari_addm.widgets.finding_colors import outline_truth
from napari_addm.widgets.forms import column, form, row, say, single_shot
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_combos import LabelsChoice
from napari_addm.widgets.layer_volumes import LayerData, labels_file, labels_notes, labels_volume
from napari_addm.widgets.layers import GEOMETRY
from napari_addm.widgets.viewing.connections import Connections

if TYPE_CHECKING:
    import napari

# Metrics follow when a dragged threshold has rested for this long.
SETTLED_MS = 120
# And when the last stroke on the truth is this long ago.
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
    failed : Signal(object)
        An exception, for the panel to show.
    threshold_chosen : Signal(float)
        On a curve.
    truth : LabelsChoice
    view : AgreementView
    outcome : Outcome or None
        What is compared; see `compare`.
    """

    truth_changed = Signal()
    threshold_chosen = Signal(float)
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self.outcome: Outcome | None = None
        self._detection: Detection | None = None  # the outcome's, when it was compared
        self._compared_with: LayerData | None = None
        self._comparisons = 0  # that go on
        self._slices: tuple[Any, ...] = ()  # that were shown last
        self._settled = single_shot(self, SETTLED_MS, self._show)
        self._drawn = single_shot(self, DRAWN_MS, self._compare_drawn)

        self.truth = LabelsChoice(viewer, "None", start)
        self.truth.changed.connect(self._on_truth)
        self.truth.failed.connect(self.failed)
        fields = form()
        row(fields, texts.TRUTH, self.truth.chooser, self.truth.open_button)
        self.view = AgreementView()
        self.view.threshold_chosen.connect(self.threshold_chosen)
        self.view.overlay_wanted.connect(self._show_overlay)
        self.view.voxel_chosen.connect(self._on_voxel)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.truth)
        body.addWidget(self.view)
        self._connections = Connections()
        self._connections.close_with(self)

    def compare(self, outcome: Outcome | None) -> None:
        """Compare an outcome with the chosen truth, once for each of its results.

        What needs sorting is done aside; `Outcome.agreement` is set when it is there.

        Parameters
        ----------
        outcome : Outcome or None
            None while there is nothing to compare.
        """
        detection = None if outcome is None else outcome.detection
        if outcome is not self.outcome or detection is not self._detection:
            self._forget()
            self.outcome, self._detection = outcome, detection
            self._raise()
            self._begin()

    def show_marked(self, outcome: Outcome) -> None:
        """Measure other findings of an outcome, once the threshold rests."""
        if outcome is self.outcome and outcome.agreement is not None:
            assert outcome.marked is not None
            self.view.show_threshold(outcome.marked.threshold)
            self._show_overlay()
            self._settled.start()

    def check_layers(self) -> None:
        """Notice that layers came or went: a person may have deleted hits and misses."""
        outcome = self.outcome
        compared = outcome is not None and outcome.agreement is not None
        if outcome is not None and compared and outcome.layers.layer("agreement") is None:
            self.view.overlay.setChecked(False)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow napari's theme, which comes as a style sheet."""
        if event is not None and event.type() == QEvent.Type.StyleChange:
            self.view.set_theme(self._viewer.theme)
        super().changeEvent(event)

    # --- another truth, or strokes on it ---------------------------------------------------------

    def _on_truth(self) -> None:
        self._connections.close()
        layer = self.truth.layer
        if layer is not None:
            outline_truth(layer)
            self._raise()
            for name in ("paint", "labels_update", "data", *GEOMETRY):
                self._connections.add(getattr(layer.events, name), self._on_drawn)
            # napari tells of an undone stroke by nothing else
            self._connections.add(layer.events.set_data, self._on_redrawn)
            self._slices = self._shown_slices()
        self._forget()
        self._begin()
        self.truth_changed.emit()

    def _raise(self) -> None:
        """Lay the truth over the maps, whose colors would hide its outline."""
        truth, layers = self.truth.layer, self._viewer.layers
        if self.outcome is None or truth not in layers:
            return
        maps = map(self.outcome.layers.layer, ("anomaly", "brightness"))
        at = [layers.index(layer) for layer in maps if layer is not None]
        if at:
            below, above = layers.index(truth), max(at)
            if below < above:
                layers.move(below, above + 1)

    def _shown_slices(self) -> tuple[Any, ...]:
        dims = self._viewer.dims
        return dims.point, dims.order, dims.ndisplay

    def _on_drawn(self, event: Any = None) -> None:
        self._drawn.start()

    def _on_redrawn(self, event: Any = None) -> None:
        """The layer shows its voxels again: they may be others, unless the slice is another."""
        before, self._slices = self._slices, self._shown_slices()
        if self._slices == before:
            self._drawn.start()

    def _compare_drawn(self) -> None:
        """Compare with the truth as it is now; until that is done, what is known stays shown."""
        if self._comparisons:
            self._drawn.start()  # one at a time, however fast a person draws
        elif self._compared_with is not None:
            self._begin()

    # --- a comparison ----------------------------------------------------------------------------

    def _forget(self) -> None:
        """Show no agreement: there is another ground truth or result."""
        self._drawn.stop()
        self._compared_with = None
        if self.outcome is not None:
            self.outcome.agreement = None
            self.outcome.layers.hide_agreement()
        self._show()

    def _begin(self) -> None:
        outcome, truth = self.outcome, self.truth.layer
        if outcome is None or outcome.detection is None or truth is None:
            return
        self._compared_with = LayerData.of(truth)
        self._comparisons += 1
        self._start(
            "Compare with the ground truth",
            _compare,
            outcome,
            outcome.detection,
            self._compared_with,
            None if outcome.agreement is None else outcome.agreement.truth,
            yielded=self._on_compared,
            errored=self._on_failed,
            finished=self._on_finished,
        )

    def _on_compared(self, compared: Compared | Refused) -> None:
        outcome, truth = compared.outcome, compared.truth
        if outcome is not self.outcome or truth is not self._compared_with:
            return  # another result or another truth came meanwhile
        if isinstance(compared, Refused):
            self._forget()  # what is shown belongs to voxels that the layer no longer has
            self._compared_with = truth  # a person may correct it
            say(self.view.notes, compared.words)
        elif compared.agreement.detection is outcome.detection:
            outcome.agreement = compared.agreement
            outcome.truth_path, outcome.truth_notes = compared.path, compared.notes
            self._show()

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self._comparisons -= 1

    # --- what it gave ----------------------------------------------------------------------------

    def _show(self) -> None:
        outcome = self.outcome
        agreement = None if outcome is None else outcome.agreement
        if agreement is None or agreement is not self.view.agreement:
            self.view.show_agreement(agreement)
        if agreement is not None and outcome is not None and outcome.marked is not None:
            self.view.show_threshold(outcome.marked.threshold)
            self.view.show_marked(outcome.marked, outcome.truth_notes)
            self._show_overlay()

    def _show_overlay(self) -> None:
        """Show hits and misses, or remove them, as the button says."""
        outcome = self.outcome
        if outcome is None or outcome.agreement is None or outcome.marked is None:
            return
        if self.view.overlay.isChecked():
            overlay = outcome.agreement.overlay(outcome.marked)
            outcome.layers.show_agreement(overlay, self.truth.layer)
        else:
            outcome.layers.hide_agreement()

    def _on_voxel(self, index: tuple[int, int, int]) -> None:
        if self.outcome is not None:
            self.outcome.layers.go_to(index)


# --- in another thread ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compared:
    """How an outcome agrees with a ground truth, and the file and warnings of the truth."""

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
