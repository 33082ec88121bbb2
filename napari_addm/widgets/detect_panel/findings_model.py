"""Findings and decisions as the rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
)
from qtpy.QtGui import QFont, QFontDatabase
from qtpy.QtWidgets import QWidget

from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import Finding
from napari_addm.review.decisions import ReviewedFindings
from napari_addm.widgets import texts
from napari_addm.widgets.forms import heading

# Columns, and the widest text that each has to show.
STATE, ID, ML, SIDE, REGION, DIAMETERS, PEAK, SPREAD = range(8)
WIDEST = ("✓✎", "999", "999.9", "≈ R 99", "≈ right temporal", "199×199", "0.999", "0.999")
IN_WORDS = (SIDE, REGION, DIAMETERS)
# Of more findings, diameters would take too long to sort.
MOST_DIAMETERS = 1000
FONT_PX = 11

Index = QModelIndex | QPersistentModelIndex


class FindingsModel(QAbstractTableModel):
    """The findings of a review, in an order of the table's own.

    Attributes
    ----------
    font : QFont
        Font of all cells: its digits have equal width.
    small_font : QFont
        Font of sides and places, which is narrower.
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._review = ReviewedFindings()
        self._order = np.zeros(0, dtype=np.intp)
        self._sorted_by = (ML, Qt.SortOrder.DescendingOrder)
        self.font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        self.font.setPixelSize(FONT_PX)
        self.small_font = QFont()
        self.small_font.setPixelSize(FONT_PX - 1)

    def show_review(self, review: ReviewedFindings) -> None:
        """Replace all rows."""
        self.beginResetModel()
        self._review = review
        self._order = self._arrange()
        self.endResetModel()

    def update_decisions(self) -> None:
        """Show other decisions on the same findings."""
        if self._sorted_by[0] == STATE:
            self.sort(*self._sorted_by)
        last = self.index(self.rowCount() - 1, self.columnCount() - 1)
        self.dataChanged.emit(self.index(0, 0), last)

    def finding(self, row: int) -> Finding:
        """The finding in a row."""
        assert self._review.marked is not None
        return self._review.marked.findings[int(self._order[row])]

    def row_of(self, id: int | None) -> int | None:
        """The row of a finding, if it is there."""
        marked = self._review.marked
        if marked is None or id is None:
            return None
        rows = np.flatnonzero(marked.findings.id[self._order] == id)
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
        """Count the findings."""
        return 0 if parent is not None and parent.isValid() else self._order.size

    def columnCount(self, parent: Index | None = None) -> int:
        """Count the columns; see `WIDEST`."""
        return 0 if parent is not None and parent.isValid() else len(WIDEST)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Headings, and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        text = texts.FINDING_COLUMNS[section]
        return heading(text, section, self._sorted_by, _alignment(section), role)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A cell's text, alignment, font or tooltip."""
        if not index.isValid():
            return None
        column, finding = index.column(), self.finding(index.row())
        decision = self._review.decision_on(finding.id)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role == Qt.ItemDataRole.DisplayRole:
            return _cell(finding, decision, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return _tooltip(finding, decision)
        if role == Qt.ItemDataRole.FontRole:
            font = QFont(self.small_font if column in IN_WORDS else self.font)
            font.setStrikeOut(decision.verdict == "rejected" and column != STATE)
            return font
        return None

    def _arrange(self) -> np.ndarray:
        """Sort the findings by the column that was chosen; gives their indices."""
        if self._review.marked is None:
            return np.zeros(0, dtype=np.intp)
        findings, (column, order) = self._review.marked.findings, self._sorted_by
        keys: dict[int, np.ndarray | None] = {
            ID: findings.id,
            ML: findings.volume_ml,
            SIDE: None if findings.sides is None else findings.sides.to_right_mm,
            PEAK: findings.peak,
            SPREAD: findings.uncertainty,
        }
        key = keys.get(column)
        if column == DIAMETERS:
            few = len(findings) <= MOST_DIAMETERS
            lengths = [findings.diameters[n].longest_mm for n in range(few * len(findings))]
            key = np.array(lengths) if few else findings.volume_ml
        if column == STATE:
            rank = {None: 1, "accepted": 2, "rejected": 0}
            verdicts = [self._review.decision_on(id).verdict for id in findings.id.tolist()]
            key = np.array([rank[verdict] for verdict in verdicts], dtype=np.intp)
        if column == REGION and findings.regions is not None:
            names = [findings.regions.name(n, ml) for n, ml in enumerate(findings.volume_ml)]
            key = np.unique(names, return_inverse=True)[1]
        if key is None:
            key = findings.id
        # Among equal keys the lower number comes first in both directions.
        sign = -1 if order == Qt.SortOrder.DescendingOrder else 1
        return np.argsort(sign * key, kind="stable")


def _cell(finding: Finding, decision: Decision, column: int) -> str:
    if column == STATE:
        mark = {"accepted": "✓", "rejected": "✗", None: ""}[decision.verdict]
        return mark + ("✎" if decision.note else "")
    if column == ID:
        return str(finding.id)
    if column == ML:
        ml = finding.volume_ml
        return f"{ml:.{0 if ml >= 1000 else 1}f}" if ml >= 0.1 else "<0.1"
    if column == SIDE:
        return _side(finding)
    if column == REGION:  # the tooltip has it in full
        region = finding.region_in_words.partition(";")[0].removesuffix(" lobe")
        return region.replace("about the ", "≈ ")
    if column == DIAMETERS:
        return finding.diameters_in_words.removesuffix(" mm").replace(" ", "")
    value = {PEAK: finding.peak, SPREAD: finding.uncertainty}[column]
    return "" if value is None else f"{value:.3f}"


def _side(finding: Finding) -> str:
    """The side as the letter on the canvas, and the mm from the midline."""
    words = finding.location_in_brief.removesuffix(" mm")
    for long, short in (("left,", "L"), ("right,", "R"), ("midline", "mid"), ("unknown", "?")):
        words = words.replace(long, short)
    return words


def _tooltip(finding: Finding, decision: Decision) -> str:
    """Tell all about a finding."""
    x, y, z = finding.centroid_mm
    lines = [
        f"Finding {finding.id}: {finding.volume_ml:.3f} mL, {finding.voxels} voxels",
        finding.location[0].upper() + finding.location[1:],
        *([finding.change_in_words.capitalize()] if finding.change_in_words else []),
        f"Center in scanner coordinates (RAS+): {x:.1f}, {y:.1f}, {z:.1f} mm",
        f"Longest diameters in axial slice {finding.widest_slice}: {finding.longest_mm:.1f} × "
        f"{finding.across_mm:.1f} mm ({finding.product_mm2:.0f} mm²)",
        f"Peak {finding.peak:.3f}, mean {finding.mean:.3f}"
        + ("" if finding.uncertainty is None else f", ± {finding.uncertainty:.3f}"),
    ]
    if not finding.sides_known:
        lines.append(texts.SIDES_UNKNOWN)
    if decision.verdict:
        lines.append(decision.verdict.capitalize())
    if decision.note:
        lines.append(f"Note: {decision.note}")
    return texts.as_written("\n".join(lines))


def _alignment(column: int) -> Qt.AlignmentFlag:
    left = Qt.AlignmentFlag.AlignLeft
    side = {STATE: Qt.AlignmentFlag.AlignHCenter, SIDE: left, REGION: left}
    return side.get(column, Qt.AlignmentFlag.AlignRight) | Qt.AlignmentFlag.AlignVCenter
