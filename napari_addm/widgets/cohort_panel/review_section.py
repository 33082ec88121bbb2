"""The findings of the case that is open, decided on and saved in place; from case to case."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QHBoxLayout, QLabel, QShortcut, QWidget  # type: ignore[attr-defined]
from superqt.utils import signals_blocked

from napari_addm.cohort.case import CaseResult
from napari_addm.errors import AddmError
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.review import (
    CaseReview,
    Reviews,
    refresh_page_in_job,
    save_in_job,
)
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.forms import button, column, message, say, single_shot, toggle
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.tones import WARNING
from napari_addm.widgets.viewing.shortcuts import Action

# Decisions are saved so soon after they are made; letters of a note come one by one.
SAVE_MS = 300


class ReviewSection(QWidget):
    """Decide on the findings of a case, and go to the next one.

    Decisions are saved a moment after each of them, in the background. What could not be saved
    stays here until it is, also while other cases are open.

    Parameters
    ----------
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.
    step : callable
        Goes to the next (1) or the previous (-1) case, or to the next one to review (0).

    Attributes
    ----------
    picked : Signal(int)
        A person went to the finding of this number.
    decided : Signal()
        Decisions are others.
    saved : Signal(object)
        The `CaseReview` whose decisions were saved.
    failed : Signal(object)
        An exception, for the panel to show.
    reviews : Reviews
    table : FindingsTable
    previous_button, next_button, open_button : QPushButton
    seen_button : QPushButton
        Shown for a case without findings.
    """

    picked = Signal(int)
    decided = Signal()
    saved = Signal(object)
    failed = Signal(object)

    def __init__(self, start: Callable[..., Job], step: Callable[[int], object]) -> None:
        super().__init__()
        self._start = start
        self.reviews = Reviews()
        self._soon = single_shot(self, SAVE_MS, self._save)
        self.table = FindingsTable()
        self.table.picked.connect(self.picked)
        self.table.decided.connect(self._on_decided)
        self._build(step)
        self.show_review(None)

    def _build(self, step: Callable[[int], object]) -> None:
        self.previous_button = button(texts.PREVIOUS_CASE, partial(step, -1))
        self.next_button = button(texts.NEXT_CASE, partial(step, 1))
        self.open_button = button(texts.NEXT_TO_REVIEW, partial(step, 0))
        ways = (self.previous_button, self.next_button, self.open_button)
        buttons = QHBoxLayout()
        for way, keys in zip(ways, texts.CASE_KEYS, strict=True):
            buttons.addWidget(way, 1)
            QShortcut(QKeySequence(keys), self).activated.connect(way.click)
        self.seen_button = toggle(texts.SEEN, self._on_seen)
        self.title, self.state, self.warning = QLabel(), message(), message(WARNING)
        self.title.setStyleSheet("font-weight: bold;")
        self.title.setTextFormat(Qt.TextFormat.PlainText)  # the name of a case is no markup
        self.title.setWordWrap(True)
        body = column(self)
        heading = QHBoxLayout()
        heading.addWidget(self.title, 1)
        heading.addWidget(self.state)
        self.state.setWordWrap(False)
        body.addLayout(buttons)
        body.addLayout(heading)
        for part in (self.warning, self.seen_button, self.table):
            body.addWidget(part)

    # --- the case that is open -------------------------------------------------------------------

    def show_review(self, review: CaseReview | None) -> None:
        """Show the findings of another case; None while there are none to decide on."""
        before = self.reviews.current
        lost = self.reviews.show(review)
        if before is not None:
            self._save()
            self._start_page(before)
        review = self.reviews.current
        none_found = review is not None and review.none_found
        self.table.setVisible(review is not None and not none_found)
        self.seen_button.setVisible(none_found)
        with signals_blocked(self.seen_button):
            self.seen_button.setChecked(review is not None and review.seen)
        for label in (self.title, self.state, self.warning):
            say(label, "")
        if review is not None:
            say(self.title, texts.FINDINGS_NAMED.format(review.case.name))
            self.table.show_review(review.findings)
            self._start_page(review)
            self._soon.start()
        self._show_state()
        if lost:
            self.failed.emit(AddmError(lost))

    def allow(self, finished: bool) -> None:
        """Offer ways from case to case, if there are any that are finished."""
        for way in (self.previous_button, self.next_button, self.open_button):
            way.setVisible(finished)

    def warn(self, words: str) -> None:
        """Say that the screen does not show what is decided on; empty if it does."""
        say(self.warning, words)

    def _show_state(self) -> None:
        review = self.reviews.current
        if review is None:
            return
        held = review.saved or review.saved_seen
        how = texts.SAVING if review.unsaved else texts.SAVED if held else ""
        if review.error:
            how = texts.NOT_SAVED
        say(self.state, ", ".join(filter(None, (review.progress, how))))
        self.state.set_tone(WARNING if review.error else "")

    @property
    def on_keys(self) -> dict[str, Action]:
        """What the keys do, by the actions of `texts.SHORTCUTS`."""
        return {**self.table.on_keys, "accept": self._accept}

    def _accept(self) -> None:
        """Accept the selected finding; where nothing was found, say that this was seen."""
        review = self.reviews.current
        if review is not None and review.none_found:
            self.seen_button.click()
        else:
            self.table.accept()

    def _on_seen(self, seen: bool) -> None:
        review = self.reviews.current
        if review is not None:
            review.seen = seen
            self._on_decided()

    # --- saving ----------------------------------------------------------------------------------

    def _on_decided(self) -> None:
        review = self.reviews.current
        if review is not None:
            review.error = ""  # one more try
        if not self._soon.isActive():
            self._soon.start()
        self._show_state()
        self.decided.emit()

    def _save(self) -> None:
        """Save decisions that are not saved yet, in the background, one case at a time."""
        review = self.reviews.next_to_save()
        if self.reviews.saving is None and review is not None:
            job = self._start(
                f"Save the decisions on {review.case.name}",
                save_in_job,
                review,
                yielded=self._on_saved,
                errored=self._on_error,
            )
            self.reviews.saving = job.over

    def _on_saved(self, saved: tuple[CaseReview, CaseResult | None]) -> None:
        self.reviews.saving = None
        review, result = saved
        if result is not None:
            self.saved.emit(review)
        else:
            words = texts.DECISIONS_NOT_SAVED.format(review.case.name, review.error)
            self.failed.emit(AddmError(words))
        if review is not self.reviews.current:
            self._start_page(review)
        self._show_state()
        self._save()

    def _on_error(self, error: Exception) -> None:
        self.reviews.saving = None
        self.failed.emit(error)

    def _start_page(self, review: CaseReview) -> None:
        """Make the case's page again if it has one that is out of date."""
        if review.case.paths(review.output)["page"].exists():
            self._start(
                f"Page of {review.case.name}",
                refresh_page_in_job,
                review,
                errored=self._on_page_error,
            )

    def _on_page_error(self, error: Exception) -> None:
        self.failed.emit(error)
