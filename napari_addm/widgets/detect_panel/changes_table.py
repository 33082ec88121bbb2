"""The table of changes between two dates."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QFont, QFontDatabase, QFontMetrics
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_addm.findings.matching import Change
from napari_addm.outputs.two_dates import TwoDates
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.findings_model import FONT_PX

ROWS = 5
WIDEST = ("shrunk, weak", "12 (12)", "before", "999.9", "+999.9")
PLACE = len(WIDEST)


class ChangesTable(QTableWidget):
    """One row for each change, in the order of the comparison.

    Attributes
    ----------
    picked : Signal(int)
        A person went to the change in this row, by mouse or keyboard.
    """

    picked = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, len(texts.EARLIER_COLUMNS))
        font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        small = QFont()
        font.setPixelSize(FONT_PX)
        small.setPixelSize(FONT_PX - 1)
        self._font, self._small = font, small
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setToolTip(texts.EARLIER_TABLE)
        heads, rows = self.horizontalHeader(), self.verticalHeader()
        assert heads is not None
        assert rows is not None
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(QFontMetrics(font).height() + 5)
        heads.setFont(font)
        heads.setHighlightSections(False)
        heads.setMinimumSectionSize(8)
        heads.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        heads.setSectionResizeMode(PLACE, QHeaderView.ResizeMode.Stretch)
        heads.setFixedHeight(QFontMetrics(font).height() + 8)
        for column, text in enumerate(texts.EARLIER_COLUMNS):
            item = QTableWidgetItem(text.label)
            item.setToolTip(text.tip)
            item.setTextAlignment(_alignment(column))
            self.setHorizontalHeaderItem(column, item)
        for column, widest in enumerate(WIDEST):
            metrics = QFontMetrics(font if column else small)
            heads.resizeSection(column, metrics.horizontalAdvance(widest) + 9)
        self.setFixedHeight(heads.height() + ROWS * rows.defaultSectionSize() + 2)
        self._found: TwoDates | None = None
        self._filling = False
        self.itemSelectionChanged.connect(self._on_selected)
        self.clicked.connect(self._on_clicked)

    def show_changes(self, found: TwoDates) -> None:
        """Show other changes; the one that is selected stays so, if it is still there."""
        if found is self._found:
            return
        changes = found.changes or []
        row = self._row_in(changes)
        self._found = found
        places = tuple(
            {each.id: each for each in result.record.findings}
            for result in (found.after, found.before)
        )
        self._filling = True
        self.setRowCount(len(changes))
        for number, change in enumerate(changes):
            gone = not change.after
            finding = places[gone].get((change.after or change.before)[0])
            place = tip = ""
            if finding is not None:
                place, tip = finding.region_in_words or finding.location_in_brief, finding.location
            for column, words in enumerate((*_cells(change), place)):
                item = QTableWidgetItem(words)
                item.setFont(self._font if 0 < column < PLACE else self._small)
                item.setTextAlignment(_alignment(column))
                item.setToolTip(texts.as_written(tip if column == PLACE else words))
                self.setItem(number, column, item)
        if row is None:
            self.clearSelection()
        else:
            self.selectRow(row)
        self._filling = False

    def mark(self, id: int | None) -> None:
        """Select the change that a finding of this scan belongs to, without going there."""
        changes = (None if self._found is None else self._found.changes) or []
        row = next((row for row, each in enumerate(changes) if id in each.after), None)
        self._filling = True
        if row is None:
            self.clearSelection()
        else:
            self.selectRow(row)
        self._filling = False

    def _row_in(self, changes: list[Change]) -> int | None:
        """Find the change that is selected among others; None if there is none."""
        before = None if self._found is None else self._found.changes
        if not before or not self.selectedItems():
            return None
        selected = before[self.currentRow()]
        for row, change in enumerate(changes):
            if (change.before or change.after) == (selected.before or selected.after):
                return row
        return None

    def _on_selected(self) -> None:
        if not self._filling and self.selectedItems():
            self.picked.emit(self.currentRow())

    def _on_clicked(self, index: QModelIndex) -> None:
        """Go again to the row that is selected already."""
        self.picked.emit(index.row())


def _cells(change: Change) -> tuple[str, ...]:
    """Give the words of all columns but the last."""
    numbers = "+".join(map(str, change.after))
    if change.before:
        numbers += f" ({'+'.join(map(str, change.before))})"
    gained = change.change_ml
    return (
        f"{change.kind}, weak" if change.weak else change.kind,
        numbers.strip(),
        f"{change.before_ml:.1f}" if change.before else "–",
        f"{change.after_ml:.1f}" if change.after else "–",
        "" if gained is None else f"{gained:+.1f}",
    )


def _alignment(column: int) -> Qt.AlignmentFlag:
    left, right = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
    return (left if column in (0, PLACE) else right) | Qt.AlignmentFlag.AlignVCenter
