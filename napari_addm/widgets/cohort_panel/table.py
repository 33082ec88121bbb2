"""The table of a cohort's cases: before a run, while it goes on, and after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from qtpy.QtCore import QModelIndex, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QFontMetrics, QKeyEvent
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

from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.cases import COLUMNS, FILTERS, CaseRow, describe_case
from napari_addm.widgets.cohort_panel.cases_model import NAMES, CasesModel
from napari_addm.widgets.forms import column, message, say, single_shot
from napari_addm.widgets.tones import SMALL

ROW_PX = 19
# How often order and filter follow rows that change.
SETTLE_MS = 500


class _View(QTableView):
    """A table of whole rows. Return opens the selected one."""

    def __init__(self, model: CasesModel, opened: Callable[[], object]) -> None:
        super().__init__()
        self._opened = opened
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setMinimumHeight(8 * ROW_PX)
        rows, headings = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None
        assert headings is not None
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setMinimumSectionSize(ROW_PX)
        rows.setDefaultSectionSize(ROW_PX)
        headings.setFont(model.font)
        headings.setHighlightSections(False)
        headings.setMinimumSectionSize(16)
        metrics = QFontMetrics(model.font)
        for place, each in enumerate(COLUMNS.values()):
            headings.resizeSection(place, metrics.horizontalAdvance(each.widest) + 10)
        # Flags are always seen. The columns from the headers may be scrolled to.
        self.setMinimumWidth(headings.sectionPosition(NAMES.index("seconds")) + 4)
        headings.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        # Qt would draw its arrow over the words; the model has its own.
        headings.setStyleSheet(
            "QHeaderView::up-arrow, QHeaderView::down-arrow { image: none; width: 0; height: 0; }"
        )
        headings.setFixedHeight(ROW_PX + 3)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Open the row on Return; leave other keys to Qt."""
        if event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._opened()
        else:
            super().keyPressEvent(event)

    def scrolled(self) -> int:
        """Return how far down the table is scrolled."""
        bar = self.verticalScrollBar()
        assert bar is not None
        return bar.value()

    def scroll_back(self, value: int) -> None:
        """Scroll to where `scrolled` was."""
        bar = self.verticalScrollBar()
        assert bar is not None
        bar.setValue(value)


class CasesTable(QWidget):
    """Cases with a filter above them, and all about the selected one below.

    Parameters
    ----------
    rows : mapping of str to CaseRow
        All cases by their names. Call `show_changes` or `reset` after a change.

    Attributes
    ----------
    opened : Signal(str)
        A person wants to see the case of this name.
    model : CasesModel
    selected : str or None
        Name of the case that is selected; it stays while a filter hides it.
    opened_case : str or None
        Name of the case whose findings are shown elsewhere.
    """

    opened = Signal(str)

    def __init__(self, rows: Mapping[str, CaseRow]) -> None:
        super().__init__()
        self.selected: str | None = None
        self.opened_case: str | None = None
        self._rows = rows
        self._resetting = False
        self._scrolled = 0
        self.model = CasesModel(rows, self)
        self.view = _View(self.model, self._open)
        self._build()
        self._settling = single_shot(self, SETTLE_MS, self.settle)
        self.words.textChanged.connect(self._on_filter)
        self.kind.currentIndexChanged.connect(self._on_filter)
        self.model.modelAboutToBeReset.connect(self._before_reset)
        self.model.modelReset.connect(self._after_reset)
        self.view.doubleClicked.connect(self._open)
        selection = self.view.selectionModel()
        assert selection is not None
        selection.currentRowChanged.connect(self._on_row)
        self._show_counts()

    def _build(self) -> None:
        self.words = QLineEdit()
        self.words.setPlaceholderText(texts.COHORT_FILTER.label)
        self.words.setToolTip(texts.COHORT_FILTER.tip)
        self.words.setClearButtonEnabled(True)
        self.kind = QComboBox()
        for name in FILTERS:
            self.kind.addItem(name, name)
        self.count = QLabel()
        self.count.setStyleSheet(SMALL)
        self.details = message()
        top = QHBoxLayout()
        top.addWidget(self.words, 2)
        top.addWidget(self.kind, 1)
        top.addWidget(self.count)
        body = column(self)
        body.addLayout(top)
        body.addWidget(self.view, 1)
        body.addWidget(self.details)

    def reset(self) -> None:
        """Show the rows of other cases."""
        self.selected = self.opened_case = self.model.opened = None
        self.model.reset()
        self._show_counts()

    def show_changes(self, names: Collection[str]) -> None:
        """Show that the rows of some cases are others; their order follows soon."""
        self.model.show_changes(names)
        if self.selected in names:
            self._show_details()
        if not self._settling.isActive():
            self._settling.start()

    def settle(self) -> None:
        """Let order, filter and counts fit the rows."""
        self._settling.stop()
        started = time.perf_counter()
        self.model.settle()
        self._show_counts()
        # Hundreds of thousands of cases take a while: settle less often.
        spent_ms = round(1000 * (time.perf_counter() - started))
        self._settling.setInterval(max(SETTLE_MS, 20 * spent_ms))

    def show_opened(self, name: str) -> None:
        """Select the row of a case that was opened; its findings take the place of its details."""
        before, self.opened_case = self.opened_case, name
        self.model.opened = name
        self.model.show_changes([name] if before is None else [before, name])
        self._show_details()
        place = self.model.place_of(name)
        if place is not None:
            self.view.selectRow(place)

    def _show_counts(self) -> None:
        rows = self._rows.values()
        for place, (name, is_kind) in enumerate(FILTERS.items()):
            self.kind.setItemText(place, f"{name} ({sum(map(is_kind, rows))})")
        shown, total = self.model.rowCount(), len(rows)
        self.count.setText(f"{shown} of {total}" if shown < total else f"{total} cases")

    def _on_filter(self) -> None:
        words, kind = self.words.text(), self.kind.currentData()
        self.model.arrange(replace(self.model.arrangement, words=words, kind=kind))
        self._show_counts()

    def _before_reset(self) -> None:
        self._resetting = True
        self._scrolled = self.view.scrolled()

    def _after_reset(self) -> None:
        place = self.model.place_of(self.selected)
        if place is not None:
            self.view.selectRow(place)
        self.view.scroll_back(self._scrolled)
        self._resetting = False
        self._show_details()

    def _on_row(self, current: QModelIndex, previous: QModelIndex) -> None:
        if not self._resetting and current.isValid():
            self.selected = self.model.row_at(current.row()).name
            self._show_details()

    def _show_details(self) -> None:
        name = None if self.selected == self.opened_case else self.selected
        say(self.details, "" if name is None else "\n".join(describe_case(self._rows[name])))

    def _open(self, index: QModelIndex | None = None) -> None:
        index = index or self.view.currentIndex()
        if index.isValid():
            self.opened.emit(self.model.row_at(index.row()).name)
