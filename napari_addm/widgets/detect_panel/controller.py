"""How the panel 'Detect anomalies' goes from one state to the next. Free of Qt and napari."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from psygnal import Signal

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.detection.pipeline import Detection, Progress
from napari_addm.io.text import format_duration
from napari_addm.review.decisions import DecisionHistory, ReviewedFindings
from napari_addm.review.saved_review import SavedReview, describe_resumed, match_numbers
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel_state import OpenScans, PanelState, ScanLayer
from napari_addm.widgets.detect_panel.patchwork import add_preview
from napari_addm.widgets.detect_panel.state import (
    Cancelled,
    Done,
    Failed,
    Marking,
    Outcome,
    Preparing,
    Running,
    ScanReview,
    describe_number,
    ended,
)

if TYPE_CHECKING:
    from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted


# What was decided on a scan, by the grid that it had. It outlives the panel, not the layer.
_histories: WeakKeyDictionary[ScanLayer, dict[Hashable, DecisionHistory]] = WeakKeyDictionary()


class DetectController(PanelState):
    """Transitions of the panel: another scan, a run, previews, and their review.

    Parameters
    ----------
    make_outcome : callable
        Makes the empty outcome of a request, once its scan is read.
    clock : callable
        Gives the time in s.
    """

    changed = Signal()
    """The messages, or what may be pressed, have changed."""
    review_changed = Signal()
    """Another outcome is shown, or its threshold was set from here."""
    result_came = Signal(Outcome, object)
    """An outcome has a result, which is new in some slices."""
    marked = Signal(Outcome)
    """The findings of an outcome are others."""
    said = Signal(str)
    """Words for the status line."""
    done = Signal(Outcome, str)
    """A run gave all that it was asked for; with how long it took, in words."""

    def __init__(
        self,
        make_outcome: Callable[[RunRequest, RunStarted], Outcome],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self._make_outcome = make_outcome
        self._clock = clock

    # --- the chosen scan -------------------------------------------------------------------------

    def choose(self, layer: ScanLayer | None) -> None:
        """Choose a scan, whose own review comes back; without a scan the last one is shown."""
        self.mark()  # a threshold that was moved just now
        self.scan_id = None if layer is None else layer.unique_id
        new = ScanReview(self._review.marking)  # it starts with the threshold that is set
        if layer is None:
            self._review = self._last or new
        else:
            self._review = self._reviews.setdefault(layer, new)
        if self.specification is not None and self._review.outcome is None:
            self._set_default(self.specification)
        self.review_changed.emit()
        self.changed.emit()
        if isinstance(self.run, Preparing):
            self._say_run("...")
        elif layer is not None and self.opened.several:
            self.said.emit(texts.RUN_IS_ON.format(self._title(self.scan_id).plain))

    def see(self, opened: OpenScans) -> None:
        """Take what the viewer holds now; a run whose scan was closed is cancelled."""
        self.opened = opened
        self._rename()
        if isinstance(self.run, Preparing) and self.run.request.scan_id not in opened.titles:
            self.cancel()
        self.changed.emit()

    # --- a run -----------------------------------------------------------------------------------

    def start(self, request: RunRequest) -> RunRequest:
        """Begin a run on the chosen scan.

        Parameters
        ----------
        request : RunRequest

        Returns
        -------
        RunRequest
            The same, with the threshold of the scan, which other threads may ask for.
        """
        review = self._review

        def threshold() -> tuple[float, float]:
            return review.marking.threshold, review.marking.minimum_ml

        request = replace(request, threshold=threshold)
        self.run = Preparing(request, review, self._clock())
        self.changed.emit()
        return request

    def cancel(self) -> None:
        """Stop the run within one step of the network; finished slices stay."""
        if isinstance(self.run, Preparing):
            self.run.request.cancelled.set()
            self.said.emit(texts.CANCELLING)
            self.changed.emit()

    def tell(self, words: str) -> None:
        """Say what the run does now, unless it is cancelled."""
        if self.may_cancel:
            self._say_run(words)

    def _say_run(self, words: str) -> None:
        assert isinstance(self.run, Preparing)
        request = self.run.request
        if request.scan_id != self.scan_id:
            title = self._title(request.scan_id).plain or request.scan.name
            words = f"{texts.RUNNING_ON.format(title)}: {words}"
        self.said.emit(words)

    def take_started(self, started: RunStarted) -> None:
        """The run has read its files; an earlier outcome stays until there is a result."""
        assert isinstance(self.run, Preparing)
        self.run = replace(self.run, started=started)

    def take_result(self, result: ResultReady) -> None:
        """Take a result of the run, partial or whole."""
        run = self.run
        assert isinstance(run, Preparing)
        if not isinstance(run, Running):
            assert run.started is not None
            self._begin(run.request, run.started, run.review)
            # What was read is in the outcome from now on.
            run = Running(run.request, run.review, run.since)
        self.run = replace(run, whole=result.progress.stage == "finish")
        outcome, detection = run.outcome, result.progress.result
        assert detection is not None
        outcome.detection, outcome.labeller = detection, result.labeller
        outcome.quality, outcome.agreement = result.quality, None
        self._show(run.review, tuple(np.flatnonzero(detection.done).tolist()))

    def fail(self, error: Exception) -> None:
        """Take the error that ends the run."""
        if isinstance(self.run, Preparing):
            self.run = replace(self.run, error=str(error) or type(error).__name__)

    def end(self) -> None:
        """End the run, whose job is over."""
        run = self.run
        if not isinstance(run, Preparing):
            return
        self.run = state = ended(run, self._clock())
        if isinstance(state, Cancelled) and run.request.scan_id not in self.opened.titles:
            self._forget(run.review)
            return
        words = describe_end(state)
        outcome = None if isinstance(state, Failed) else state.outcome
        if outcome is not None and outcome.detection is not None:
            highest = float(outcome.detection.highest.max())
            run.review.marking = run.review.marking.reach(highest)
            words = f"{words}. {self._kept_corrections(outcome)}".removesuffix(". ")
            if outcome is not self.outcome:
                title = self._title(outcome.scan_id).plain or outcome.title
                words = f"{title}: {words}"
        self.review_changed.emit()
        self.changed.emit()
        self.said.emit(words)
        if isinstance(state, Done):
            assert state.outcome.detection is not None
            self.done.emit(state.outcome, describe_effort(state.seconds, state.outcome.detection))

    def _forget(self, review: ScanReview) -> None:
        """Drop a part of a result whose scan was closed during the run."""
        review.outcome = None
        if self._last is review:
            self._last = None
        self.review_changed.emit()
        self.changed.emit()
        self.said.emit("")

    def review_of_preview(self, request: RunRequest) -> ScanReview | None:
        """The review of a preview's scan; None while a run goes on, or when the scan was closed."""
        layer = self._layer(request.scan_id)
        if self.running or layer is None or request.scan_id not in self.opened.titles:
            return None
        return self._reviews[layer]

    def take_preview(self, request: RunRequest, started: RunStarted, result: ResultReady) -> None:
        """Take a preview, unless a run goes on or its scan was closed."""
        review = self.review_of_preview(request)
        if review is None:
            return
        if not review.goes_on(request):
            self._begin(request, started, review)
        outcome, detection = review.outcome, result.progress.result
        assert outcome is not None
        assert detection is not None
        shown = outcome.detection
        here = started.scan.slice_at(request.position)
        outcome.detection, changed = add_preview(shown, detection, here, in_place=outcome.preview)
        outcome.preview, outcome.quality, outcome.agreement = True, result.quality, None
        self._show(review, changed)

    def _begin(self, request: RunRequest, started: RunStarted, review: ScanReview) -> None:
        """Give a scan an empty outcome: another request is shown from now on."""
        outcome = self._make_outcome(request, started)
        layer = self._layer(request.scan_id)
        history = DecisionHistory()
        if layer is not None:
            grid = outcome.scan.shape, outcome.layers.volume.order
            history = _histories.setdefault(layer, {}).setdefault(grid, history)
        outcome.findings = ReviewedFindings(history)
        specification = started.checkpoint.specification
        if specification != review.marking.specification:
            review.marking = Marking.default(specification)
        review.outcome, self._last = outcome, review
        self.review_changed.emit()

    def _layer(self, scan_id: Hashable) -> ScanLayer | None:
        """The layer of a scan that was chosen at some time, if it is still alive."""
        return next((layer for layer in self._reviews if layer.unique_id == scan_id), None)

    def _show(self, review: ScanReview, changed: Sequence[int]) -> None:
        """Have a result shown, and mark it."""
        assert review.outcome is not None
        review.outcome.label(review.marking)
        self.result_came.emit(review.outcome, changed)
        self._mark(review)

    # --- review ----------------------------------------------------------------------------------

    def set_specification(self, specification: ModelSpecification | None) -> None:
        """Another checkpoint is chosen.

        A result that is shown keeps its threshold until a run with the other checkpoint begins.
        """
        self.specification = specification
        outcome = self.outcome
        shown = outcome is not None and outcome.detection is not None
        if specification is not None and not self.running and not shown:
            self._set_default(specification)
            self.review_changed.emit()
        self.changed.emit()

    def _set_default(self, specification: ModelSpecification) -> None:
        if self._review.marking.specification != specification:
            self._review.marking = Marking.default(specification)

    def set_marking(self, marking: Marking) -> None:
        """Take another threshold for the chosen scan; `mark` shows what it finds."""
        self._review.marking = marking

    def mark(self) -> None:
        """Find what the outcome that is shown has above the threshold, if that is another one.

        Findings that a person has corrected stay as they are while the threshold does.
        """
        outcome, marking = self.outcome, self.marking
        if outcome is None or outcome.detection is None or outcome.is_marked(marking):
            return
        if not self.running:
            self.said.emit("")  # how many findings the run ended with
        self._mark(self._review)

    def _mark(self, review: ScanReview) -> None:
        outcome = review.outcome
        assert outcome is not None
        outcome.label(review.marking)
        self.marked.emit(outcome)
        if not self.running and (kept := self._kept_corrections(outcome)):
            self.said.emit(kept)
        self.changed.emit()

    def _kept_corrections(self, outcome: Outcome) -> str:
        """Say once where a person's corrections are now."""
        name, outcome.layers.corrected = outcome.layers.corrected, None
        return "" if name is None else texts.CORRECTIONS_KEPT.format(name)

    def resume(self, saved: SavedReview) -> None:
        """Go on with a saved review of the outcome that is shown."""
        outcome = self.outcome
        assert outcome is not None
        marking = replace(self.marking, minimum_ml=saved.minimum_ml).at(saved.threshold)
        self._review.marking = marking
        numbers = match_numbers(saved.labels.data, outcome.label(marking).labels)
        outcome.renumber(numbers)
        self._mark(self._review)
        outcome.findings.add(saved.decided(numbers))
        self.review_changed.emit()
        if saved.corrected:
            outcome.layers.show_corrections(saved.labels.data)
        matched = len(saved.decisions.keys() & outcome.decisions.keys())
        self.said.emit(describe_resumed(saved, matched))


def describe_progress(progress: Progress) -> str:
    """Say how far a run is."""
    if progress.stage == "prepare":
        return "Preparing the scan ..."
    if progress.stage == "finish":
        return "Finishing ..."
    words = f"Reconstructing: {progress.done}/{progress.total}"
    return words if progress.eta is None else f"{words}, about {format_duration(progress.eta)} left"


def describe_effort(seconds: float, detection: Detection) -> str:
    """Say how long a run took, and where it ran."""
    took = format_duration(seconds, tenths=True)
    return f"{took} on {detection.device}, in {detection.precision}"


def describe_end(state: Done | Failed | Cancelled) -> str:
    """Say how a run ended; empty for an error, which is shown elsewhere."""
    if isinstance(state, Failed):
        return ""
    outcome = state.outcome
    if outcome is None or outcome.detection is None:
        by_person = isinstance(state, Cancelled) and state.by_person
        return texts.CANCELLED_EARLY if by_person else texts.STOPPED_EARLY
    if isinstance(state, Done):
        words = describe_number(outcome)
        return words if state.whole_volume else texts.IN_THIS_SLICE.format(words)
    detection = outcome.detection
    took = describe_effort(state.seconds, detection)
    brain = detection.brain_mask.data.any(axis=(1, 2))
    if detection.slices is not None:
        brain = detection.slices.reconstructed
    done, total = int((detection.done & brain).sum()), int(brain.sum())
    word = "Cancelled" if state.by_person else "Stopped"
    return f"{word} after {took}; {done} of {total} slices are done"
