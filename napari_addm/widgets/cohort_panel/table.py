"""The table of a cohort's cases: before a run, while it goes on, and after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args

from qtpy.QtCore import (  # type: ignore[attr-defined]
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QFont, QFontMetrics, QKeyEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QTableView,
    QWidget,
)

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.inspect import InspectedCase
from napari_addm.detection.quality import FLAG_TITLES
from napari_addm.widgets import texts
from napari_addm.widgets.forms import (
    ERROR,
    SMALL,
    WARNING,
    column,
    heading,
    message,
    say,
    single_shot,
)

COLUMNS = tuple(texts.COHORT_COLUMNS)
# The widest that each has to show.
WIDEST = {
    "case": "sub-001_ses-01_run-1",
    "status": "▸ running 100 %",
    "ml": "999.9",
    "dice": "0.999",
    "seconds": "999.9",
    "qc": "left/right unknown",
    "truth": "✓",
    "mask": "✓",
    "size": "999×999×999",
    "spacing": "0.99×0.99×0.99",
}
NUMBERS = ("ml", "dice", "seconds", "size", "spacing")
FONT_PX = 11
ROW_PX = 19
# While a run changes rows, their order and what is filtered follow so often.
SETTLE_MS = 500

# In the order of the column.
State = Literal[
    "running",
    "writing",
    "failed",
    "failed earlier",
    "not checked",
    "will fail",
    "waiting",
    "done",
    "unchanged",
    "done earlier",
    "skipped",
]
MARKS: dict[State, str] = {
    "will fail": "! ",
    "not checked": "! ",
    "skipped": "– ",
    "done earlier": "✓ ",
    "failed earlier": "✗ ",
    "running": "▸ ",
    "writing": "▸ ",
    "done": "✓ ",
    "unchanged": "✓ ",
    "failed": "✗ ",
}
FAILED: tuple[State, ...] = ("failed", "failed earlier")
DONE: tuple[State, ...] = ("done", "unchanged", "done earlier", "not checked")
# What another try may mend.
TRY_AGAIN: tuple[State, ...] = (*FAILED, "not checked")

Index = QModelIndex | QPersistentModelIndex


@dataclass
class CaseRow:
    """What is known of a case now.

    Attributes
    ----------
    found : InspectedCase
    state : str
    percent : int
        Of the network's part while it is running.
    result : CaseResult or None
        Of this run or an earlier one.
    planned : bool
        Whether the last run was to do it.
    """

    found: InspectedCase
    state: State = "waiting"
    percent: int = 0
    result: CaseResult | None = None
    planned: bool = False

    @classmethod
    def before(cls, found: InspectedCase) -> CaseRow:
        """As it stands before a run."""
        state: State = "waiting"
        if found.case.skip:
            state = "skipped"
        elif found.earlier is not None:
            state = "done earlier" if found.earlier.status == "done" else "failed earlier"
            if found.earlier.unchecked:
                state = "not checked"
        elif found.problem:
            state = "will fail"
        return cls(found, state, result=found.earlier, planned=found.planned)

    @property
    def case(self) -> CohortCase:
        """The case."""
        return self.found.case

    @property
    def reason(self) -> str:
        """Why it was skipped, failed, or will fail."""
        failed = self.result.reason if self.result and self.state in TRY_AGAIN else ""
        return self.case.skip or failed or self.found.problem

    @property
    def flags(self) -> list[str]:
        """Quality flags in words: those of the run, or of the header before it."""
        keys: Sequence[str] = [flag.key for flag in self.found.flags]
        if self.result is not None and self.result.status == "done":
            keys = self.result.qc
        return [FLAG_TITLES.get(key, key) for key in keys]

    @property
    def unfinished(self) -> bool:
        """Whether a run was to do it and has no result of it."""
        return self.planned and self.result is None and not self.case.skip


FILTERS: dict[str, Callable[[CaseRow], bool]] = {
    "All": lambda row: True,
    "Open": lambda row: row.state in ("waiting", "will fail", "running", "writing"),
    "Done": lambda row: row.state in DONE,
    "Failed": lambda row: row.state in (*TRY_AGAIN, "will fail"),
    "Flagged": lambda row: bool(row.flags),
    "Skipped": lambda row: row.state == "skipped",
}


class CasesModel(QAbstractTableModel):
    """The cases as the rows of a table, those that a filter lets through, in an order of their own.

    Attributes
    ----------
    rows : list of CaseRow
        All cases.
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.rows: list[CaseRow] = []
        self._at: dict[str, int] = {}  # where a case is in `rows`
        self._shown: list[int] = []
        self._place: dict[int, int] = {}  # where one of `rows` is in `_shown`
        self._sorted_by = (0, Qt.SortOrder.AscendingOrder)
        self._words, self._kind = "", "All"
        self._red, self._amber = (QColor(c.split()[1].rstrip(";")) for c in (ERROR, WARNING))
        self._font = QFont()
        self._font.setPixelSize(FONT_PX)

    @property
    def font(self) -> QFont:
        """Of all cells."""
        return self._font

    # --- what is shown ---------------------------------------------------------------------------

    def show_cases(self, cases: Iterable[CohortCase]) -> None:
        """Take the place of all rows; their headers are not read yet."""
        self.beginResetModel()
        self.rows = [CaseRow.before(InspectedCase(case, problem=case.problem)) for case in cases]
        self._at = {row.case.name: n for n, row in enumerate(self.rows)}
        self._arrange()
        self.endResetModel()

    def row_of(self, case: str) -> CaseRow | None:
        """What is known of a case, by its name."""
        at = self._at.get(case)
        return None if at is None else self.rows[at]

    def show_found(self, found: Iterable[InspectedCase]) -> None:
        """What the headers of some cases tell."""
        for each in found:
            at = self._at.get(each.case.name)
            if at is not None:
                self.rows[at] = CaseRow.before(each)
                self._tell(at)

    def changed(self, row: CaseRow) -> None:
        """Say that a row is another; its place follows with `settle`."""
        self._tell(self._at[row.case.name])

    def all_changed(self) -> None:
        """Say that any row may be another."""
        self.settle()
        if self._shown:
            last = self.index(len(self._shown) - 1, len(COLUMNS) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def _tell(self, at: int) -> None:
        place = self._place.get(at)
        if place is not None:
            last = self.index(place, len(COLUMNS) - 1)
            self.dataChanged.emit(self.index(place, 0), last)

    def shown(self, place: int) -> CaseRow:
        """The case in a line of the table."""
        return self.rows[self._shown[place]]

    def place_of(self, case: str | None) -> int | None:
        """The line of a case, if it is shown."""
        at = None if case is None else self._at.get(case)
        return None if at is None else self._place.get(at)

    def filter(self, words: str, kind: str) -> None:
        """Show only cases with these letters in their names, and of this kind (see `FILTERS`)."""
        self._words, self._kind = words.strip().lower(), kind
        self.settle()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Put the rows in the order of a column."""
        self._sorted_by = (column, order)
        self.settle()
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(COLUMNS) - 1)

    def settle(self) -> None:
        """Filter and sort as the rows are now."""
        if self._choose() != self._shown:
            self.beginResetModel()
            self._arrange()
            self.endResetModel()

    def _arrange(self) -> None:
        self._shown = self._choose()
        self._place = {at: place for place, at in enumerate(self._shown)}

    def _choose(self) -> list[int]:
        kind, words = FILTERS[self._kind], self._words
        rows = self.rows
        chosen = [
            n
            for n, row in enumerate(rows)
            if kind(row)
            and (not words or words in row.case.name.lower() or words in row.case.input.lower())
        ]
        by, order = self._sorted_by
        name = COLUMNS[by]
        keys = {n: _key(rows[n], name) for n in chosen}
        # What has no value comes last, whichever way the order goes.
        known = [n for n in chosen if keys[n] is not None]
        known.sort(key=lambda n: keys[n], reverse=order == Qt.SortOrder.DescendingOrder)
        return known + [n for n in chosen if keys[n] is None]

    # --- Qt's questions --------------------------------------------------------------------------

    def rowCount(self, parent: Index | None = None) -> int:
        """Cases that are shown."""
        return 0 if parent is not None and parent.isValid() else len(self._shown)

    def columnCount(self, parent: Index | None = None) -> int:
        """See `COLUMNS`."""
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Headings, and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        name = COLUMNS[section]
        text = texts.COHORT_COLUMNS[name]
        return heading(text, section, self._sorted_by, _aligned(name), role)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A cell."""
        if not index.isValid():
            return None
        name = COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return _cell(self.shown(index.row()), name)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _aligned(name)
        if role == Qt.ItemDataRole.FontRole:
            return self._font
        if role == Qt.ItemDataRole.ForegroundRole and name in ("status", "qc"):
            state = self.shown(index.row()).state
            if name == "qc":
                return self._amber
            if state in FAILED:
                return self._red
            return self._amber if state in ("will fail", "not checked") else None
        if role == Qt.ItemDataRole.ToolTipRole:
            lines = in_full(self.shown(index.row()))
            return "<qt>" + "<br>".join(map(escape, lines)) + "</qt>"
        return None


class _View(QTableView):
    """A table whose Return opens the row."""

    def __init__(self, opened: Callable[[], object]) -> None:
        super().__init__()
        self._opened = opened

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Return opens; all else is Qt's."""
        if event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._opened()
        else:
            super().keyPressEvent(event)


class CasesTable(QWidget):
    """Cases with a filter above them, and all about the selected one below.

    Attributes
    ----------
    opened : Signal(str)
        A person wants to see the case of this name.
    model : CasesModel
    selected : str or None
        Name of the case that is selected; it stays while a filter hides it.
    """

    opened = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.selected: str | None = None
        self._selecting = False
        self.words = QLineEdit()
        self.words.setPlaceholderText(texts.COHORT_FILTER.label)
        self.words.setToolTip(texts.COHORT_FILTER.tip)
        self.words.setClearButtonEnabled(True)
        self.kind = QComboBox()
        for name in FILTERS:
            self.kind.addItem(name, name)
        self.count = QLabel()
        self.count.setStyleSheet(SMALL)
        top = QHBoxLayout()
        top.addWidget(self.words, 2)
        top.addWidget(self.kind, 1)
        top.addWidget(self.count)
        self.model = CasesModel(self)
        self.view = _View(self._open)
        self.view.setModel(self.model)
        self._lay_out_table()
        self.details = message()
        body = column(self)
        body.addLayout(top)
        body.addWidget(self.view, 1)
        body.addWidget(self.details)
        self._settled = single_shot(self, SETTLE_MS, self.settle)
        self.words.textChanged.connect(self._on_filter)
        self.kind.currentIndexChanged.connect(self._on_filter)
        self.model.modelAboutToBeReset.connect(self._before_reset)
        self.model.modelReset.connect(self._after_reset)
        self.view.doubleClicked.connect(self._open)
        self._show_counts()

    def _lay_out_table(self) -> None:
        view, metrics = self.view, QFontMetrics(self.model.font)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        view.setTabKeyNavigation(False)
        view.setShowGrid(False)
        view.setWordWrap(False)
        view.setAlternatingRowColors(False)
        view.setMinimumHeight(8 * ROW_PX)
        rows, heads = view.verticalHeader(), view.horizontalHeader()
        assert rows is not None
        assert heads is not None
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setMinimumSectionSize(ROW_PX)
        rows.setDefaultSectionSize(ROW_PX)
        heads.setFont(self.model.font)
        heads.setHighlightSections(False)
        heads.setMinimumSectionSize(16)
        for place, name in enumerate(COLUMNS):
            heads.resizeSection(place, metrics.horizontalAdvance(WIDEST[name]) + 10)
        # Flags and what comes before them are to be seen; headers' figures may be scrolled to.
        view.setMinimumWidth(heads.sectionPosition(COLUMNS.index("truth")) + 4)
        heads.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
        view.setSortingEnabled(True)
        # Qt's arrow would lie on the words; ours is among them.
        heads.setStyleSheet(
            "QHeaderView::up-arrow, QHeaderView::down-arrow { image: none; width: 0; height: 0; }"
        )
        heads.setFixedHeight(ROW_PX + 3)
        selection = view.selectionModel()
        assert selection is not None
        selection.currentRowChanged.connect(self._on_row)

    # --- rows come and change --------------------------------------------------------------------

    def show_cases(self, cases: Iterable[CohortCase]) -> None:
        """Show other cases."""
        self.selected = None
        self.model.show_cases(cases)
        self._show_counts()

    def show_found(self, found: Iterable[InspectedCase]) -> None:
        """Show what the headers of some cases tell."""
        self.model.show_found(found)
        self._unsettle()

    def changed(self, row: CaseRow) -> None:
        """Show that a row is another."""
        self.model.changed(row)
        if row.case.name == self.selected:
            self._show_details()
        self._unsettle()

    def settle(self) -> None:
        """Let order, filter and counts follow the rows."""
        self._settled.stop()
        started = time.perf_counter()
        self.model.settle()
        self._show_counts()
        # Of hundreds of thousands of cases it may take a while: then not as often.
        spent_ms = round(1000 * (time.perf_counter() - started))
        self._settled.setInterval(max(SETTLE_MS, 20 * spent_ms))

    def all_changed(self) -> None:
        """Show that any row may be another."""
        self.model.all_changed()
        self._show_counts()
        self._show_details()

    def _unsettle(self) -> None:
        if not self._settled.isActive():
            self._settled.start()

    def _show_counts(self) -> None:
        rows = self.model.rows
        for place, (name, kind) in enumerate(FILTERS.items()):
            self.kind.setItemText(place, f"{name} ({sum(map(kind, rows))})")
        shown, total = self.model.rowCount(), len(rows)
        self.count.setText(f"{shown} of {total}" if shown < total else f"{total} cases")

    def _on_filter(self) -> None:
        self.model.filter(self.words.text(), self.kind.currentData())
        self._show_counts()

    # --- the selected one ------------------------------------------------------------------------

    def _before_reset(self) -> None:
        self._selecting = True
        bar = self.view.verticalScrollBar()
        assert bar is not None
        self._scrolled = bar.value()

    def _after_reset(self) -> None:
        place = self.model.place_of(self.selected)
        if place is not None:
            self.view.selectRow(place)
        bar = self.view.verticalScrollBar()
        assert bar is not None
        bar.setValue(self._scrolled)
        self._selecting = False
        self._show_details()

    def _on_row(self, current: QModelIndex, previous: QModelIndex) -> None:
        if not self._selecting and current.isValid():
            self.selected = self.model.shown(current.row()).case.name
            self._show_details()

    def _show_details(self) -> None:
        row = None if self.selected is None else self.model.row_of(self.selected)
        say(self.details, "" if row is None else "\n".join(in_full(row)))

    def _open(self, index: QModelIndex | None = None) -> None:
        index = index or self.view.currentIndex()
        if index.isValid():
            self.opened.emit(self.model.shown(index.row()).case.name)


def _key(row: CaseRow, name: str) -> Any:
    result, found = row.result, row.found
    if name == "status":
        return get_args(State).index(row.state)
    if name == "ml":
        return result.anomaly_ml if result else None
    if name == "dice":
        return result.dice if result else None
    if name == "seconds":
        return result.seconds if result else None
    if name == "qc":
        return len(row.flags) or None
    if name == "truth":
        return True if row.case.truth is not None else None
    if name == "mask":
        return True if row.case.mask is not None else None
    if name == "size":
        return None if found.shape is None else found.shape[0] * found.shape[1] * found.shape[2]
    if name == "spacing":
        return None if found.spacing is None else max(found.spacing)
    return row.case.name


def _cell(row: CaseRow, name: str) -> str:
    result, found = row.result, row.found
    if name == "case":
        return row.case.name
    if name == "status":
        percent = f" {row.percent} %" if row.state == "running" else ""
        return f"{MARKS.get(row.state, '')}{row.state}{percent}"
    if name == "qc":
        return ", ".join(row.flags)
    if name == "truth":
        return "✓" if row.case.truth is not None else ""
    if name == "mask":
        return "✓" if row.case.mask is not None else ""
    if name == "size":
        return "×".join(map(str, found.shape or ()))
    if name == "spacing":
        return "×".join(f"{mm:.2f}" for mm in found.spacing or ())
    if result is None:
        return ""
    value = {"ml": result.anomaly_ml, "dice": result.dice, "seconds": result.seconds}[name]
    if value is None:
        return ""
    return f"{value:.3f}" if name == "dice" else f"{value:.1f}"


def in_full(row: CaseRow) -> list[str]:
    """All about a case, in lines of plain text."""
    lines = [f"{row.case.name}: {_cell(row, 'status')}"]
    if row.reason:
        lines.append(row.reason)
    elif texts.COHORT_STATES.get(row.state):
        lines.append(texts.COHORT_STATES[row.state])
    lines.append(f"Scan: {row.case.input}")
    given = {"Ground truth": row.case.truth, "Brain mask": row.case.mask}
    lines += [f"{what}: {path.name}" for what, path in given.items() if path is not None]
    if row.flags:
        lines.append(f"Flags: {', '.join(row.flags)}")
    return lines


def _aligned(name: str) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignLeft
    if name in NUMBERS:
        side = Qt.AlignmentFlag.AlignRight
    elif name in ("truth", "mask"):
        side = Qt.AlignmentFlag.AlignHCenter
    return side | Qt.AlignmentFlag.AlignVCenter
