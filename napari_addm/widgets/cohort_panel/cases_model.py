"""The rows of a cohort's cases as Qt's table model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from qtpy.QtGui import QColor, QFont
from qtpy.QtWidgets import QWidget

from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.cases import (
    COLUMNS,
    FAILED,
    Arrangement,
    CaseRow,
    describe_case,
)
from napari_addm.widgets.forms import heading
from napari_addm.widgets.tones import ERROR, WARNING, tone_color

FONT_PX = 11
NAMES = tuple(COLUMNS)
ALIGNMENTS = {
    "left": Qt.AlignmentFlag.AlignLeft,
    "right": Qt.AlignmentFlag.AlignRight,
    "center": Qt.AlignmentFlag.AlignHCenter,
}
Index = QModelIndex | QPersistentModelIndex


class CasesModel(QAbstractTableModel):
    """The cases that a filter lets through, in their order.

    Parameters
    ----------
    rows : mapping of str to CaseRow
        All cases by their names. Call `show_changes` or `reset` after a change.
    parent : QWidget

    Attributes
    ----------
    arrangement : Arrangement
        Filter and order; `arrange` sets it.
    font : QFont
    opened : str or None
        Name of the case whose findings are decided on; its line is bold.
    """

    def __init__(self, rows: Mapping[str, CaseRow], parent: QWidget) -> None:
        super().__init__(parent)
        self.rows = rows
        self.arrangement = Arrangement()
        self.font = QFont()
        self.font.setPixelSize(FONT_PX)
        self._bold = QFont(self.font)
        self._bold.setBold(True)
        self.opened: str | None = None
        self._parent = parent
        self._show(self.arrangement.apply(rows))

    def _show(self, names: list[str]) -> None:
        self._shown = names
        self._places = {name: place for place, name in enumerate(names)}

    def reset(self) -> None:
        """Show the rows of other cases."""
        self.beginResetModel()
        self._show(self.arrangement.apply(self.rows))
        self.endResetModel()

    def settle(self) -> None:
        """Filter and sort the rows as they are now."""
        if self.arrangement.apply(self.rows) != self._shown:
            self.reset()

    def arrange(self, arrangement: Arrangement) -> None:
        """Filter and sort in another way."""
        self.arrangement = arrangement
        self.settle()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column, as Qt asks."""
        descending = order == Qt.SortOrder.DescendingOrder
        self.arrange(replace(self.arrangement, column=NAMES[column], descending=descending))
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(NAMES) - 1)

    def show_changes(self, names: Iterable[str]) -> None:
        """Show that the rows of some cases are others; they move with `settle`."""
        places = [self._places[name] for name in names if name in self._places]
        if places:
            last = self.index(max(places), len(NAMES) - 1)
            self.dataChanged.emit(self.index(min(places), 0), last)

    @property
    def names(self) -> list[str]:
        """The cases that are shown, in their order."""
        return self._shown

    def row_at(self, place: int) -> CaseRow:
        """Return the case in a line of the table."""
        return self.rows[self._shown[place]]

    def place_of(self, case: str | None) -> int | None:
        """Return the line of a case; None if it is not shown."""
        return None if case is None else self._places.get(case)

    # --- what Qt asks ----------------------------------------------------------------------------

    def rowCount(self, parent: Index | None = None) -> int:
        """Return how many cases are shown."""
        return 0 if parent is not None and parent.isValid() else len(self._shown)

    def columnCount(self, parent: Index | None = None) -> int:
        """Return the number of `COLUMNS`."""
        return 0 if parent is not None and parent.isValid() else len(NAMES)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return a heading, or its tooltip."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        name, by = NAMES[section], self.arrangement
        order = Qt.SortOrder.DescendingOrder if by.descending else Qt.SortOrder.AscendingOrder
        sorted_by = NAMES.index(by.column), order
        return heading(texts.COHORT_COLUMNS[name], section, sorted_by, _alignment(name), role)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text of a cell, or how it looks."""
        if not index.isValid():
            return None
        name, row = NAMES[index.column()], self.row_at(index.row())
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return COLUMNS[name].show(row)
            case Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(name)
            case Qt.ItemDataRole.FontRole:
                return self._bold if row.name == self.opened else self.font
            case Qt.ItemDataRole.ForegroundRole:
                return self._color(row, name)
            case Qt.ItemDataRole.ToolTipRole:
                return texts.as_written("\n".join(describe_case(row)))
        return None

    def _color(self, row: CaseRow, name: str) -> QColor | None:
        failed = name == "status" and row.state in FAILED
        if failed or (name == "qc" and row.alarmed):
            return QColor(tone_color(self._parent, ERROR))
        warns = name == "status" and row.state in ("will fail", "not checked")
        return QColor(tone_color(self._parent, WARNING)) if warns or name == "qc" else None


def _alignment(name: str) -> Qt.AlignmentFlag:
    return ALIGNMENTS[COLUMNS[name].aligned] | Qt.AlignmentFlag.AlignVCenter
