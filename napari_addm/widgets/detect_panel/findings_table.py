"""The table of findings: walk through them, accept, reject, take a note, undo."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from html import escape
from typing import Any

import numpy as np
from qtpy.QtCore import (  # type: ignore[attr-defined]
    QAbstractTableModel,
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
    Signal,
)
from qtpy.QtGui import (  # type: ignore[attr-defined]
    QFont,
    QFontDatabase,
    QFontMetrics,
    QKeyEvent,
    QUndoCommand,
    QUndoStack,
)
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QTableView,
    QWidget,
)

from napari_addm.findings.decisions import UNDECIDED, Decision, Decisions, Verdict
from napari_addm.findings.findings import Finding, Findings
from napari_addm.review.decisions import Decided, decide, decisions_of
from napari_addm.review.marking import LabelledFindings
from napari_addm.widgets import texts
from napari_addm.widgets.forms import button, column, heading

# Columns, and the widest that each has to show.
STATE, ID, ML, SIDE, SCANNER, PEAK, SPREAD = range(7)
WIDEST = ("✓✎", "999", "9999.9", "", "-199 -199 -199", "0.999", "0.999")
WORDS = (SIDE, SCANNER)
ROWS = 6
FONT_PX = 11

Index = QModelIndex | QPersistentModelIndex
SHORTCUTS: dict[tuple[int, Qt.KeyboardModifier], str] = {
    (Qt.Key.Key_A.value, Qt.KeyboardModifier.NoModifier): "accept",
    (Qt.Key.Key_R.value, Qt.KeyboardModifier.NoModifier): "reject",
    (Qt.Key.Key_N.value, Qt.KeyboardModifier.NoModifier): "write_note",
    (Qt.Key.Key_Z.value, Qt.KeyboardModifier.ControlModifier): "undo",
    (Qt.Key.Key_Y.value, Qt.KeyboardModifier.ControlModifier): "redo",
    (
        Qt.Key.Key_Z.value,
        Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier,
    ): "redo",
}


class FindingsModel(QAbstractTableModel):
    """Findings and decisions as the rows of a table, in an order of their own."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._findings: Findings | None = None
        self._decisions: Decisions = {}
        self._order = np.zeros(0, dtype=np.intp)
        self._sorted_by = (ML, Qt.SortOrder.DescendingOrder)
        self._font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        self._font.setPixelSize(FONT_PX)
        self._words = QFont()  # narrower, so that three digits each have room
        self._words.setPixelSize(FONT_PX - 1)

    @property
    def font(self) -> QFont:
        """Of all cells: digits of equal width."""
        return self._font

    @property
    def words(self) -> QFont:
        """Font of sides and places, narrower than `font`."""
        return self._words

    def show_findings(self, findings: Findings | None, decisions: Decisions) -> None:
        """Take the place of all rows; None leaves no row."""
        self.beginResetModel()
        self._findings, self._decisions = findings, decisions
        self._order = self._arrange()
        self.endResetModel()

    def show_decisions(self, decisions: Decisions) -> None:
        """Other decisions on the same findings."""
        self._decisions = decisions
        if self._sorted_by[0] == STATE:
            self.sort(*self._sorted_by)
        last = self.index(self.rowCount() - 1, self.columnCount() - 1)
        self.dataChanged.emit(self.index(0, 0), last)

    def finding(self, row: int) -> Finding:
        """The finding in a row."""
        assert self._findings is not None
        return self._findings[int(self._order[row])]

    def row_of(self, id: int | None) -> int | None:
        """Where a finding is, if it is there."""
        if self._findings is None or id is None:
            return None
        rows = np.flatnonzero(self._findings.id[self._order] == id)
        return int(rows[0]) if rows.size else None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Put the rows in the order of a column."""
        self._sorted_by = (column, order)
        self.layoutAboutToBeChanged.emit()
        before = self._order
        self._order = self._arrange()
        row = np.empty_like(self._order)
        row[self._order] = np.arange(row.size)
        old = self.persistentIndexList()
        new = [self.index(int(row[before[index.row()]]), index.column()) for index in old]
        self.changePersistentIndexList(old, new)
        self.layoutChanged.emit()

    def rowCount(self, parent: Index | None = None) -> int:
        """Findings."""
        return 0 if parent is not None and parent.isValid() else self._order.size

    def columnCount(self, parent: Index | None = None) -> int:
        """See `WIDEST`."""
        return 0 if parent is not None and parent.isValid() else len(WIDEST)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Headings, and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        text = texts.FINDING_COLUMNS[section]
        return heading(text, section, self._sorted_by, _aligned(section), role)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A cell."""
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _aligned(index.column())
        if role not in (
            Qt.ItemDataRole.DisplayRole,
            Qt.ItemDataRole.ToolTipRole,
            Qt.ItemDataRole.FontRole,
        ):
            return None
        finding = self.finding(index.row())
        decision = self._decisions.get(finding.id, UNDECIDED)
        if role == Qt.ItemDataRole.FontRole:
            font = QFont(self._words if index.column() in WORDS else self._font)
            font.setStrikeOut(decision.verdict == "rejected" and index.column() != STATE)
            return font
        if role == Qt.ItemDataRole.ToolTipRole:
            return _in_full(finding, decision)
        return _cell(finding, decision, index.column())

    def _arrange(self) -> np.ndarray:
        findings, (column, order) = self._findings, self._sorted_by
        if findings is None:
            return np.zeros(0, dtype=np.intp)
        keys: dict[int, np.ndarray | None] = {
            ID: findings.id,
            ML: findings.volume_ml,
            SIDE: None if findings.sides is None else findings.sides.to_right_mm,
            SCANNER: findings.centroid_mm[:, 2],
            PEAK: findings.peak,
            SPREAD: findings.uncertainty,
        }
        key = keys.get(column)
        if column == STATE:
            rank = {None: 1, "accepted": 2, "rejected": 0}
            verdicts = [self._decisions.get(id, UNDECIDED).verdict for id in findings.id.tolist()]
            key = np.array([rank[verdict] for verdict in verdicts], dtype=np.intp)
        if key is None:
            key = findings.id
        # Of equal ones the lower number comes first, whichever way the order goes.
        sign = -1 if order == Qt.SortOrder.DescendingOrder else 1
        return np.argsort(sign * key, kind="stable")


class _View(QTableView):
    """A table that keeps its keys to itself: napari's own Ctrl+Z must not hear them."""

    def __init__(self, pressed: Callable[[str], object]) -> None:
        super().__init__()
        self._pressed = pressed

    def event(self, event: QEvent | None) -> bool:
        """Claim the table's keys before any shortcut of the window."""
        if event is not None and event.type() == QEvent.Type.ShortcutOverride:
            assert isinstance(event, QKeyEvent)
            if _action(event) is not None:
                event.accept()
                return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Decide, or undo; all else is Qt's."""
        action = None if event is None else _action(event)
        if action is None:
            super().keyPressEvent(event)
        else:
            self._pressed(action)


class FindingsTable(QWidget):
    """The findings, one row each, with what a person thinks of them.

    Attributes
    ----------
    picked : Signal(int)
        A person went to the finding of this number, by mouse or keyboard.
    decided : Signal()
        `decisions` are others.
    selected : int or None
        Number of the finding that is selected; it stays while the threshold
        hides it.
    decisions : dict of int to Decision
        On the findings that are shown.
    decided_on : tuple of Decided
        All decisions on the results of this scan.
    undo_stack : QUndoStack
        Of the decisions.
    """

    picked = Signal(int)
    decided = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.selected: int | None = None
        self.decisions: dict[int, Decision] = {}
        self.undo_stack = QUndoStack(self)
        self._marked: LabelledFindings | None = None
        self.decided_on: tuple[Decided, ...] = ()
        self._scan: Hashable = None
        self._note_of: int | None = None
        self._telling = True  # whether a change of the row is a person's

        self.model = FindingsModel(self)
        self.view = _View(lambda action: getattr(self, action)())
        self.view.setModel(self.model)
        self._lay_out_table()
        self.accept_button = _toggle(texts.ACCEPT, self.accept)
        self.reject_button = _toggle(texts.REJECT, self.reject)
        self.undo_button = button(texts.UNDO, self.undo)
        self.redo_button = button(texts.REDO, self.redo)
        self.undo_stack.canUndoChanged.connect(self.undo_button.setEnabled)
        self.undo_stack.canRedoChanged.connect(self.redo_button.setEnabled)
        self.undo_button.setEnabled(False)
        self.redo_button.setEnabled(False)
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        for part in (self.accept_button, self.reject_button, self.undo_button, self.redo_button):
            part.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a click leaves the keys to the table
            buttons.addWidget(part, 1)
        self.note = QLineEdit()
        self.note.setMaxLength(500)
        self.note.setToolTip(texts.NOTE.tip)
        self.note.editingFinished.connect(self._on_note)
        body = column(self)
        body.addWidget(self.view)
        body.addLayout(buttons)
        body.addWidget(self.note)
        self._show_selected()

    def _lay_out_table(self) -> None:
        view, metrics = self.view, QFontMetrics(self.model.font)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        view.setTabKeyNavigation(False)
        view.setShowGrid(False)
        view.setWordWrap(False)
        view.setToolTip(texts.FINDINGS_TABLE)
        rows, heads = view.verticalHeader(), view.horizontalHeader()
        assert rows is not None
        assert heads is not None
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(metrics.height() + 5)
        heads.setFont(self.model.font)
        heads.setHighlightSections(False)
        heads.setMinimumSectionSize(8)
        heads.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        heads.setSectionResizeMode(SIDE, QHeaderView.ResizeMode.Stretch)
        words = QFontMetrics(self.model.words)
        for place, widest in enumerate(WIDEST):
            of = words if place in WORDS else metrics
            heads.resizeSection(place, of.horizontalAdvance(widest) + 7)
        heads.setSortIndicator(ML, Qt.SortOrder.DescendingOrder)
        view.setSortingEnabled(True)
        # Qt's arrow would lie on the words; ours is among them.
        heads.setStyleSheet(
            "QHeaderView::up-arrow, QHeaderView::down-arrow { image: none; width: 0; height: 0; }"
        )
        heads.setFixedHeight(metrics.height() + 8)
        view.setFixedHeight(heads.height() + ROWS * rows.defaultSectionSize() + 2)
        selection = view.selectionModel()
        assert selection is not None
        selection.currentRowChanged.connect(self._on_row)
        view.clicked.connect(self._on_clicked)

    @property
    def highlights(self) -> tuple[int | None, set[int], int]:
        """The finding that is selected, those that are rejected, and the highest number."""
        rejected = {id for id, made in self.decisions.items() if made.verdict == "rejected"}
        ids = np.zeros(0, int) if self._marked is None else self._marked.findings.id
        return self.selected, rejected, int(np.max(ids, initial=0))

    # --- what is shown ---------------------------------------------------------------------------

    def begin(self, scan: Hashable, earlier: tuple[Decided, ...] = ()) -> None:
        """Another result comes.

        Parameters
        ----------
        scan : hashable
            Whose it is. What was decided on the results of a scan holds for the next ones of
            it, for findings that are mostly the same voxels.
        earlier : tuple of Decided
            What was decided on it before others were shown, or before this table was there.
        """
        self.selected, self._marked = None, None
        self.decisions = {}
        self.model.show_findings(None, self.decisions)
        self._show_selected()
        if scan != self._scan:
            self._scan, self.decided_on = scan, earlier
            self.undo_stack.clear()

    def show_marked(self, marked: LabelledFindings) -> None:
        """Show findings, their decisions among them."""
        self.take_note()
        self._marked = marked
        self.decisions = decisions_of(marked, self.decided_on)
        self._telling = False
        self.model.show_findings(marked.findings, self.decisions)
        self.view.setColumnHidden(SPREAD, marked.findings.uncertainty is None)
        self._select(self.selected)
        self._telling = True
        self._show_selected()

    def take_note(self) -> None:
        """Take what is being written as a note, while its finding is still there."""
        if self.note.isModified():
            self._on_note(unfinished=True)

    def pick(self, id: int) -> None:
        """Select a finding and go to it, as a click on its row does."""
        row = self.model.row_of(id)
        if row is not None:
            self.view.selectRow(row)

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (-1) row, round and round."""
        count, row = self.model.rowCount(), self.model.row_of(self.selected)
        if not count:
            return
        there = (row + by) % count if row is not None else (0 if by > 0 else count - 1)
        if there == row and self.selected is not None:
            self.picked.emit(self.selected)
        else:
            self.view.selectRow(there)

    def _select(self, id: int | None) -> None:
        row = self.model.row_of(id)
        selection = self.view.selectionModel()
        assert selection is not None
        if row is None:
            selection.clear()
        else:
            self.view.selectRow(row)

    def _on_row(self, current: QModelIndex, previous: QModelIndex) -> None:
        if self._telling and current.isValid():
            self.selected = self.model.finding(current.row()).id
            self._show_selected()
            self.picked.emit(self.selected)

    def _on_clicked(self, index: QModelIndex) -> None:
        # A click on the row that is current already goes there again.
        if self.model.finding(index.row()).id == self.selected:
            self.picked.emit(self.selected)

    def _show_selected(self) -> None:
        there = self.model.row_of(self.selected) is not None
        decision = UNDECIDED
        if there and self.selected is not None:
            decision = self.decisions.get(self.selected, UNDECIDED)
        for part in (self.accept_button, self.reject_button, self.note):
            part.setEnabled(there)
        self.accept_button.setChecked(decision.verdict == "accepted")
        self.reject_button.setChecked(decision.verdict == "rejected")
        self.note.setPlaceholderText(
            texts.NOTE.label.format(self.selected) if there else texts.NOTHING_SELECTED
        )
        # What is being typed is not taken away as the threshold moves.
        if self._note_of != self.selected or not self.note.hasFocus():
            # Else cursor and blanks stay where they are.
            if " ".join(self.note.text().split()) != decision.note:
                self.note.setText(decision.note)
            self.note.setModified(False)
        self._note_of = self.selected

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
        self.undo_stack.undo()

    def redo(self) -> None:
        """Decide again what was taken back."""
        self.undo_stack.redo()

    def decide(self, id: int, decision: Decision, *, unfinished: bool = False) -> None:
        """Decide on a finding; can be undone, together with what was unfinished before it."""
        if self._marked is None or self.model.row_of(id) is None:
            return
        if decision == self.decisions.get(id, UNDECIDED):
            return
        after = decide(self._marked, self.decided_on, id, decision)
        self.undo_stack.push(_Decide(self, self.decided_on, after, id, unfinished))

    def take(self, decided: tuple[Decided, ...]) -> None:
        """Take over what was decided at another time; can be undone."""
        if decided:
            self.undo_stack.push(_Decide(self, self.decided_on, (*self.decided_on, *decided)))

    def _judge(self, verdict: Verdict) -> None:
        if self.selected is not None:
            before = self.decisions.get(self.selected, UNDECIDED)
            new = None if before.verdict == verdict else verdict
            self.decide(self.selected, Decision(new, before.note))
        self._show_selected()

    def _on_note(self, unfinished: bool = False) -> None:
        if self._note_of is not None:
            before = self.decisions.get(self._note_of, UNDECIDED)
            note = Decision(before.verdict, self.note.text())
            self.decide(self._note_of, note, unfinished=unfinished)

    def _hold(self, decided: tuple[Decided, ...]) -> None:
        self.decided_on = decided
        if self._marked is not None:
            self.decisions = decisions_of(self._marked, decided)
            self.model.show_decisions(self.decisions)
        self._note_of = None  # the field shows what holds now
        self._show_selected()
        self.decided.emit()


class _Decide(QUndoCommand):
    """A step of the undo stack.

    Parameters
    ----------
    table : FindingsTable
    before, after : tuple of Decided
    of : int or None
        The finding; None for several.
    unfinished : bool
        Its note is still being written: what comes next on it is of the same step.
    """

    def __init__(
        self,
        table: FindingsTable,
        before: tuple[Decided, ...],
        after: tuple[Decided, ...],
        of: int | None = None,
        unfinished: bool = False,
    ) -> None:
        super().__init__()
        self._table, self._before, self._after = table, before, after
        self.of, self.unfinished = of, unfinished

    def id(self) -> int:
        """Of one kind, so that Qt asks whether two steps are one."""
        return 1

    def mergeWith(self, other: QUndoCommand | None) -> bool:
        """Whether another step only goes on with this one."""
        if not isinstance(other, _Decide) or not self.unfinished or other.of != self.of:
            return False
        self._after, self.unfinished = other._after, other.unfinished
        return True

    def redo(self) -> None:
        self._table._hold(self._after)

    def undo(self) -> None:
        self._table._hold(self._before)


def _cell(finding: Finding, decision: Decision, column: int) -> str:
    if column == STATE:
        mark = {"accepted": "✓", "rejected": "✗", None: ""}[decision.verdict]
        return mark + ("✎" if decision.note else "")
    if column == ID:
        return str(finding.id)
    if column == ML:
        return f"{finding.volume_ml:.1f}" if finding.volume_ml >= 0.1 else "<0.1"
    if column == SIDE:
        return finding.location_in_brief
    if column == SCANNER:
        return " ".join(str(round(value)) for value in finding.centroid_mm)
    value = {PEAK: finding.peak, SPREAD: finding.uncertainty}[column]
    return "" if value is None else f"{value:.3f}"


def _in_full(finding: Finding, decision: Decision) -> str:
    """All about a finding, in plain text: a note is a person's words, and no markup."""
    x, y, z = finding.centroid_mm
    lines = [
        f"Finding {finding.id}: {finding.volume_ml:.3f} mL, {finding.voxels} voxels",
        finding.location[0].upper() + finding.location[1:],
        f"Center in scanner coordinates (RAS+): {x:.1f}, {y:.1f}, {z:.1f} mm",
        f"Peak {finding.peak:.3f}, mean {finding.mean:.3f}",
    ]
    if not finding.sides_known:
        lines.append(texts.SIDES_UNKNOWN)
    if decision.verdict:
        lines.append(decision.verdict.capitalize())
    if decision.note:
        lines.append(f"Note: {decision.note}")
    return "<qt>" + "<br>".join(map(escape, lines)) + "</qt>"


def _aligned(column: int) -> Qt.AlignmentFlag:
    side = {STATE: Qt.AlignmentFlag.AlignHCenter, SIDE: Qt.AlignmentFlag.AlignLeft}
    return side.get(column, Qt.AlignmentFlag.AlignRight) | Qt.AlignmentFlag.AlignVCenter


def _action(event: QKeyEvent) -> str | None:
    return SHORTCUTS.get((int(event.key()), event.modifiers()))


def _toggle(text: texts.Text, pressed: Callable[[], object]) -> QPushButton:
    made = button(text, pressed)
    made.setCheckable(True)
    return made
