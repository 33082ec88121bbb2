"""The table of findings: walk through them, accept, reject, write a note, undo."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QEvent, QModelIndex, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QFontMetrics, QKeyEvent, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QTableView,
    QWidget,
)

from napari_addm.findings.decisions import Decision, Verdict
from napari_addm.review.decisions import ReviewedFindings
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.findings_model import (
    IN_WORDS,
    ML,
    REGION,
    SPREAD,
    WIDEST,
    FindingsModel,
)
from napari_addm.widgets.forms import button, column
from napari_addm.widgets.parts_filter import as_kind
from napari_addm.widgets.tones import Words
from napari_addm.widgets.viewing.shortcuts import Action

ROWS = 6
# Qt's arrow would lie on the words; the model writes one among them.
NO_ARROW = "QHeaderView::up-arrow, QHeaderView::down-arrow { image: none; width: 0; height: 0; }"


class FindingsView(QTableView):
    """Rows of findings."""

    def __init__(self, model: FindingsModel) -> None:
        super().__init__()
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setToolTip(texts.FINDINGS_TABLE)
        metrics = QFontMetrics(model.font)
        rows = self.verticalHeader()
        assert rows is not None
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(metrics.height() + 5)
        self._has_spread = False
        self._lay_out_columns(model)
        self.setFixedHeight(metrics.height() + 8 + ROWS * rows.defaultSectionSize() + 2)

    def _lay_out_columns(self, model: FindingsModel) -> None:
        heads = self.horizontalHeader()
        assert heads is not None
        heads.setFont(model.font)
        heads.setHighlightSections(False)
        heads.setMinimumSectionSize(8)
        heads.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        heads.setSectionResizeMode(REGION, QHeaderView.ResizeMode.Stretch)
        self._widths = []
        for place, widest in enumerate(WIDEST):
            font = model.small_font if place in IN_WORDS else model.font
            self._widths.append(QFontMetrics(font).horizontalAdvance(widest) + 7)
            heads.resizeSection(place, self._widths[place])
        heads.setSortIndicator(ML, Qt.SortOrder.DescendingOrder)
        self.setSortingEnabled(True)
        heads.setStyleSheet(NO_ARROW)
        heads.setFixedHeight(QFontMetrics(model.font).height() + 8)

    def show_spread(self, there: bool) -> None:
        """Show the uncertainty, where there is one and room for it; a row's tooltip has it, too."""
        self._has_spread = there
        self._fit_columns()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Leave room for the regions."""
        super().resizeEvent(event)
        self._fit_columns()

    def _fit_columns(self) -> None:
        viewport = self.viewport()
        assert viewport is not None
        room = viewport.width() >= sum(self._widths)
        self.setColumnHidden(SPREAD, not (self._has_spread and room))


class NoteField(QLineEdit):
    """Where a note is written.

    Attributes
    ----------
    discarded : Signal()
        Escape was pressed.
    """

    discarded = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setMaxLength(500)
        self.setToolTip(texts.NOTE.tip)

    def event(self, event: QEvent | None) -> bool:
        """Claim Escape before any shortcut of the window."""
        if event is not None and event.type() == QEvent.Type.ShortcutOverride and _leaves(event):
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Tell of Escape; all other keys are Qt's."""
        if event is not None and _leaves(event):
            self.discarded.emit()
        else:
            super().keyPressEvent(event)


class FindingsTable(QWidget):
    """The findings of a review, one row each, with what a person thinks of them.

    Attributes
    ----------
    picked : Signal(int)
        A person went to the finding of this number, by mouse or keyboard.
    selected : Signal()
        A finding was selected, but nobody went to it.
    decided : Signal()
        Decisions of `review` are others.
    review : ReviewedFindings
        Selection and decisions are written into it.
    """

    picked = Signal(int)
    selected = Signal()
    decided = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.review = ReviewedFindings()
        self.model = FindingsModel(self)
        self.view = FindingsView(self.model)
        self.accept_button = _toggle(texts.ACCEPT, self.accept)
        self.reject_button = _toggle(texts.REJECT, self.reject)
        self.undo_button = button(texts.UNDO, self.undo)
        self.redo_button = button(texts.REDO, self.redo)
        self.change = Words()
        self.change.setTextFormat(Qt.TextFormat.PlainText)
        self.change.setToolTip(texts.FOUND_BY)
        # long words do not widen the panel; the row's tooltip has them in full
        self.change.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        for part in (self.accept_button, self.reject_button, self.undo_button, self.redo_button):
            part.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a click leaves the keys to the table
            buttons.addWidget(part, 1)
        self.note = NoteField()
        self.note.textEdited.connect(self._on_note_edited)
        self.note.editingFinished.connect(self._on_note_finished)
        self.note.returnPressed.connect(self.view.setFocus)
        self.note.discarded.connect(self._on_note_discarded)
        body = column(self)
        body.addWidget(self.view)
        body.addWidget(self.change)
        body.addLayout(buttons)
        body.addWidget(self.note)
        selection = self.view.selectionModel()
        assert selection is not None
        selection.currentRowChanged.connect(self._on_row)
        self.view.clicked.connect(self._on_clicked)
        self._show_selected()

    # --- what is shown ---------------------------------------------------------------------------

    def show_review(self, review: ReviewedFindings) -> None:
        """Show the findings and decisions of a review as they are now."""
        self.review = review
        self.model.show_review(review)
        marked = review.marked
        self.view.show_spread(marked is not None and marked.findings.uncertainty is not None)
        self.change.setVisible(marked is not None and marked.findings.found_by is not None)
        row = self.model.row_of(review.selected)
        if row is not None:
            self.view.selectRow(row)
        self._show_selected()

    def pick(self, id: int) -> None:
        """Select a finding and go to it, as a click on its row does."""
        row = self.model.row_of(id)
        if row is not None:
            self.view.selectRow(row)

    def select(self, id: int) -> None:
        """Select a finding, if it is there, without going to it."""
        row = self.model.row_of(id)
        if row is not None:
            self.review.selected = id
            self.view.selectRow(row)
            self._show_selected()
            self.selected.emit()

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (-1) row, round and round."""
        count, row = self.model.rowCount(), self.model.row_of(self.review.selected)
        if not count:
            return
        there = (row + by) % count if row is not None else (0 if by > 0 else count - 1)
        if there == row:
            self.picked.emit(self.review.selected)
        else:
            self.view.selectRow(there)

    def _on_row(self, current: QModelIndex, previous: QModelIndex) -> None:
        if not current.isValid():
            return
        id = self.model.finding(current.row()).id
        if id != self.review.selected:  # else `show_review` has selected it again
            self.review.selected = id
            self._show_selected()
            self.picked.emit(id)

    def _on_clicked(self, index: QModelIndex) -> None:
        """Go again to the row that is selected already."""
        if self.model.finding(index.row()).id == self.review.selected:
            self.picked.emit(self.review.selected)

    def _show_selected(self) -> None:
        review, selected = self.review, self.review.selected
        there, decision = review.has(selected), review.decision_on(selected)
        row = self.model.row_of(selected)
        words = "" if row is None else self.model.finding(row).change_in_words
        self.change.setText(words.capitalize() or " ")  # an empty label has no height
        for part in (self.accept_button, self.reject_button, self.note):
            part.setEnabled(there)
        self.accept_button.setChecked(decision.verdict == "accepted")
        self.reject_button.setChecked(decision.verdict == "rejected")
        self.undo_button.setEnabled(review.history.can_undo)
        self.redo_button.setEnabled(review.history.can_redo)
        self.note.setPlaceholderText(
            texts.NOTE.label.format(selected) if there else texts.NOTHING_SELECTED
        )
        # While a note is typed, its cursor and blanks stay where they are.
        if Decision(note=self.note.text()).note != decision.note:
            self.note.setText(decision.note)

    @property
    def on_keys(self) -> dict[str, Action]:
        """What the keys do, by the actions of `texts.SHORTCUTS`."""
        return {
            "next finding": lambda: self.step(1),
            "previous finding": lambda: self.step(-1),
            "accept": self.accept,
            "reject": self.reject,
            "note": self.write_note,
            "undo": self.undo,
            "redo": self.redo,
        }

    # --- decisions -------------------------------------------------------------------------------

    def accept(self) -> None:
        """Accept the selected finding; open it again if it was accepted."""
        self._judge("accepted")

    def reject(self) -> None:
        """Reject the selected finding; open it again if it was rejected."""
        self._judge("rejected")

    def write_note(self) -> None:
        """Go to the note."""
        self.note.setFocus()

    def undo(self) -> None:
        """Take the last decision back."""
        self.review.undo()
        self._show_decisions()

    def redo(self) -> None:
        """Decide again what was taken back."""
        self.review.redo()
        self._show_decisions()

    def decide(self, id: int, decision: Decision, *, unfinished: bool = False) -> None:
        """Decide on a finding; see `ReviewedFindings.decide`."""
        if self.review.decide(id, decision, unfinished=unfinished):
            self._show_decisions()

    def _show_decisions(self) -> None:
        self.model.update_decisions()
        self._show_selected()
        self.decided.emit()

    def _judge(self, verdict: Verdict) -> None:
        if self.review.selected is not None:
            before = self.review.decision_on(self.review.selected)
            new = None if before.verdict == verdict else verdict
            self.decide(self.review.selected, Decision(new, before.note))
        self._show_selected()

    def _on_note_edited(self, text: str) -> None:
        """Take each letter at once: the finding may be gone when the note is finished."""
        self._take_note(unfinished=True)

    def _on_note_finished(self) -> None:
        self._take_note()
        self.review.history.finish()

    def _on_note_discarded(self) -> None:
        self.review.discard()
        self.note.setText(self.review.decision_on(self.review.selected).note)
        self._show_decisions()
        self.view.setFocus()

    def _take_note(self, *, unfinished: bool = False) -> None:
        selected = self.review.selected
        if selected is not None:
            verdict = self.review.decision_on(selected).verdict
            self.decide(selected, Decision(verdict, self.note.text()), unfinished=unfinished)


def _leaves(event: QEvent) -> bool:
    key = as_kind(event, QKeyEvent)
    return key is not None and key.key() == Qt.Key.Key_Escape


def _toggle(text: texts.Text, pressed: Callable[[], object]) -> QPushButton:
    made = button(text, pressed)
    made.setCheckable(True)
    return made
