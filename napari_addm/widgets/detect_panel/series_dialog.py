"""The dialog in which a person chooses among the series of a DICOM folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_addm.widgets import texts
from napari_addm.widgets.forms import answers, column

if TYPE_CHECKING:
    from napari_addm.io.dicom import Series

SIZE = (620, 320)


class SeriesDialog(QDialog):
    """A table of series; the first T1 of the brain without contrast agent is selected.

    Parameters
    ----------
    folder : str
        Its name.
    series : list of Series
    parent : QWidget, optional

    Attributes
    ----------
    chosen : Signal(object)
        A person wants to open this `Series`.
    table : QTableWidget
        One row for each series.
    open_button : QPushButton
    """

    chosen = Signal(object)

    def __init__(self, folder: str, series: list[Series], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._series = series
        self.setWindowTitle(texts.SERIES_TITLE)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(*SIZE)
        words = QLabel(texts.SERIES_FOUND.format(folder, len(series)))
        words.setTextFormat(Qt.TextFormat.PlainText)
        words.setWordWrap(True)
        self.table = self._make_table()
        buttons, self.open_button = answers(self, texts.OPEN_SERIES)
        self.table.doubleClicked.connect(self.accept)
        body = column(self)
        body.setContentsMargins(12, 12, 12, 12)
        body.setSpacing(10)
        for widget in (words, self.table, buttons):
            body.addWidget(widget)

    def _make_table(self) -> QTableWidget:
        table = QTableWidget(len(self._series), len(texts.SERIES_COLUMNS))
        table.setHorizontalHeaderLabels(texts.SERIES_COLUMNS)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setShowGrid(False)
        rows, columns = table.verticalHeader(), table.horizontalHeader()
        assert rows is not None
        assert columns is not None
        rows.hide()
        columns.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        columns.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        columns.setHighlightSections(False)
        for row, series in enumerate(self._series):
            cells = (str(series.number), series.title, str(len(series.files)), kind_of(series))
            for place, cell in enumerate(cells):
                table.setItem(row, place, QTableWidgetItem(cell))
        plain = [each.is_t1 and not each.contrast.is_suspect for each in self._series]
        table.selectRow(plain.index(True) if True in plain else 0)
        return table

    def accept(self) -> None:
        """Open the selected series."""
        row = self.table.currentRow()
        super().accept()
        self.chosen.emit(self._series[row])


def kind_of(series: Series) -> str:
    """Say whether a series is a T1 of the brain, and whether with contrast agent."""
    if not series.is_t1:
        return texts.SERIES_OTHER
    return texts.SERIES_KINDS.get(series.contrast.agent, texts.SERIES_T1)
