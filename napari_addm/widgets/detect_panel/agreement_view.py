"""How the findings agree with a ground truth: figures, curves, and lesion by lesion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from qtpy.QtCore import (  # type: ignore[attr-defined]
    QAbstractTableModel,
    QModelIndex,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableView,
    QTabWidget,
    QWidget,
)

from napari_addm.metrics.evaluation import EMPTY_TRUTH, Metrics
from napari_addm.metrics.lesionwise import Lesion, LesionTable
from napari_addm.metrics.metric import rated_metrics
from napari_addm.review.agreement import FALSE_ALARM, HIT, MISSED, Agreement
from napari_addm.review.marking import LabelledFindings
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.curves import HEIGHT, CurvePlot
from napari_addm.widgets.finding_colors import AGREEMENT_COLORS
from napari_addm.widgets.forms import column, message, say
from napari_addm.widgets.tones import SMALL, WARNING

OVERLAY_WORDS = {HIT: texts.HIT, FALSE_ALARM: texts.FALSE_ALARM, MISSED: texts.MISSED}
SORT_ROLE = Qt.ItemDataRole.UserRole


class AgreementView(QWidget):
    """Agreement with a ground truth; it shows what it is given and knows no viewer.

    Parameters
    ----------
    parent : QWidget, optional

    Attributes
    ----------
    figures : dict of str to QLabel
        By the names of metrics.
    metrics : QWidget
        Holds them.
    notes : QLabel
        What a reader of the figures must know.
    explanation : QLabel
        What can be said when the truth is empty.
    overlay : QPushButton
        Is checked while hits and misses are wanted as a layer.
    """

    threshold_chosen = Signal(float)
    voxel_chosen = Signal(tuple)  # (s, a, r) of a lesion's peak
    overlay_wanted = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._agreement: Agreement | None = None
        self._threshold = math.nan

        shown = {name: each for name, each in rated_metrics().items() if not each.oracle}
        self.figures = {name: QLabel("–") for name in shown}
        self.metrics = QWidget()
        table = QGridLayout(self.metrics)
        table.setContentsMargins(0, 0, 0, 0)
        table.setSpacing(2)
        for place, (name, metric) in enumerate(shown.items()):
            heading = QLabel(metric.title)
            heading.setStyleSheet(SMALL)
            for line, label in enumerate((heading, self.figures[name])):
                label.setToolTip(metric.meaning)
                label.setAlignment(Qt.AlignmentFlag.AlignCenter)
                table.addWidget(label, line, place)
        self.explanation = message()
        self.notes = message(WARNING)

        self.overlay = QPushButton(texts.OVERLAY.label)
        self.overlay.setToolTip(texts.OVERLAY.tip)
        self.overlay.setCheckable(True)
        self.overlay.toggled.connect(self._on_overlay)
        self.legend = QLabel()
        self.legend.setStyleSheet(SMALL)
        self.legend.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.legend.hide()

        self.dice = CurvePlot(texts.THRESHOLD_AXIS, texts.DICE_CURVE.label, along_threshold=True)
        self.roc = CurvePlot(texts.FALSE_POSITIVE_RATE_AXIS, texts.RECALL_AXIS)
        self.pr = CurvePlot(texts.RECALL_AXIS, texts.PRECISION_AXIS)
        self.lesions = LesionView()
        self.lesions.voxel_chosen.connect(self.voxel_chosen)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        bar = self.tabs.tabBar()
        assert bar is not None
        bar.setDrawBase(False)
        self._captions: dict[CurvePlot, QLabel] = {}
        for plot, text in (
            (self.dice, texts.DICE_CURVE),
            (self.roc, texts.ROC_CURVE),
            (self.pr, texts.PR_CURVE),
        ):
            plot.setToolTip(text.tip)
            plot.chosen.connect(self.threshold_chosen)
            self._captions[plot] = caption = message()
            self._add_tab(text, caption, plot)
        self._add_tab(texts.LESION_TABLE, self.lesions)

        body = column(self)
        for widget in (self.metrics, self.explanation, self.notes):
            body.addWidget(widget)
        body.addWidget(self.overlay)
        body.addWidget(self.legend)
        body.addWidget(self.tabs)
        body.addStretch()
        self.show_agreement(None)

    def _add_tab(self, text: texts.Text, *widgets: QWidget) -> None:
        page = QWidget()
        body = column(page)
        body.setContentsMargins(0, 4, 0, 0)
        body.setSpacing(2)
        for widget in widgets:
            body.addWidget(widget)
        body.addStretch()
        index = self.tabs.addTab(page, text.label)
        self.tabs.setTabToolTip(index, text.tip)

    # --- what is shown ---------------------------------------------------------------------------

    @property
    def agreement(self) -> Agreement | None:
        """What is shown."""
        return self._agreement

    def show_agreement(self, agreement: Agreement | None) -> None:
        """Draw the curves of a comparison, or show that there is none."""
        self._agreement = agreement
        for widget in (self.metrics, self.overlay, self.tabs):
            widget.setVisible(agreement is not None)
        if agreement is None:
            for widget in (self.explanation, self.notes, self.legend):
                widget.hide()
            return
        empty = agreement.is_empty
        # Without a lesion, the volume of false alarms is all that a threshold changes.
        for index in range(1, self.tabs.count()):
            self.tabs.setTabVisible(index, not empty)
        curves = agreement.curves
        if empty:
            self.tabs.setTabText(0, texts.FALSE_ALARM_CURVE.label)
            self.dice.setToolTip(texts.FALSE_ALARM_CURVE.tip)
            self.tabs.setTabToolTip(0, texts.FALSE_ALARM_CURVE.tip)
            self.dice.relabel(texts.FALSE_ALARM_AXIS, logarithmic=True)
            millilitres = _positive(curves.fp * agreement.voxel_ml)
            highest = math.ceil(math.log10(max(agreement.voxel_ml * curves.negatives, 1.0)))
            self.dice.draw(curves.threshold, millilitres, curves.threshold, (-2.0, highest))
        else:
            self.tabs.setTabText(0, texts.DICE_CURVE.label)
            self.dice.setToolTip(texts.DICE_CURVE.tip)
            self.tabs.setTabToolTip(0, texts.DICE_CURVE.tip)
            self.dice.relabel(texts.DICE_CURVE.label)
            self.dice.draw(curves.threshold, curves.dice, curves.threshold)
            self.roc.draw(curves.false_positive_rate, curves.recall, curves.threshold)
            self.pr.draw(curves.recall, curves.precision, curves.threshold)
        self.show_threshold(self._threshold)

    def show_threshold(self, threshold: float) -> None:
        """Move the markers of the curves, and nothing else: quick enough for every step."""
        self._threshold = threshold
        agreement = self._agreement
        if agreement is None or math.isnan(threshold):
            return
        point = agreement.point(threshold)
        dice, recall = float(point.dice[0]), float(point.recall[0])
        rate, precision = float(point.false_positive_rate[0]), float(point.precision[0])
        if agreement.is_empty:
            marked_ml = float(point.fp[0]) * agreement.voxel_ml
            self.dice.mark(threshold, marked_ml or math.nan)
            say(self._captions[self.dice], f"{marked_ml:.1f} mL of false alarm")
            return
        self.dice.mark(threshold, dice)
        self.roc.mark(rate, recall)
        self.pr.mark(recall, precision)
        say(
            self._captions[self.dice],
            f"{_figure(dice)} here; at best {_figure(agreement.best_dice)} "
            f"at {_figure(agreement.best_threshold)}",
        )
        say(
            self._captions[self.roc],
            f"Recall {_figure(recall)} at a false positive rate of {_figure(rate)}",
        )
        say(
            self._captions[self.pr],
            f"Precision {_figure(precision)} at a recall of {_figure(recall)}",
        )

    def show_marked(self, marked: LabelledFindings, notes: tuple[str, ...] = ()) -> None:
        """Show the figures and the lesions under some findings.

        Parameters
        ----------
        marked : LabelledFindings
            Of the detection that was compared.
        notes : tuple of str
            Warnings of the ground truth, said before those of the figures.
        """
        agreement = self._agreement
        if agreement is None:
            return
        figures = agreement.at(marked)
        for key, label in self.figures.items():
            label.setText(_figure(figures[key]))
        say(self.explanation, agreement.explanation(figures))
        said = [note for note in (*notes, *figures.notes) if note != EMPTY_TRUTH]
        say(self.notes, "\n".join(said))
        self._show_legend(figures)
        self.lesions.show_table(agreement.lesions(marked))

    def _show_legend(self, figures: Metrics) -> None:
        truth_ml, predicted_ml = figures["truth_ml"] or 0.0, figures["predicted_ml"] or 0.0
        hit = (figures["recall"] or 0.0) * truth_ml
        volumes = {
            HIT: hit,
            FALSE_ALARM: predicted_ml - hit,
            MISSED: truth_ml - hit,
        }
        self.legend.setText(
            "&nbsp;&nbsp; ".join(
                f'<span style="color: {AGREEMENT_COLORS[value]}">■</span> {OVERLAY_WORDS[value]} '
                f"{abs(volume):.1f}"
                for value, volume in volumes.items()
            )
            + " mL"
        )
        self.legend.setVisible(self.overlay.isChecked())

    def _on_overlay(self, wanted: bool) -> None:
        self.legend.setVisible(wanted and self._agreement is not None)
        self.overlay_wanted.emit(wanted)

    def set_theme(self, theme_name: str) -> None:
        """Take on the colors of one of napari's themes."""
        for plot in self._captions:
            plot.set_theme(theme_name)


# --- lesions -------------------------------------------------------------------------------------


class LesionModel(QAbstractTableModel):
    """Rows of a `LesionTable`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._keys = tuple(texts.LESION_COLUMNS)
        self._lesions: tuple[Lesion, ...] = ()

    def show(self, lesions: tuple[Lesion, ...]) -> None:
        """Replace all rows; a selection stays where the number of rows does."""
        if len(lesions) == len(self._lesions):
            self._lesions = lesions
            if lesions:
                last = self.index(len(lesions) - 1, len(self._keys) - 1)
                self.dataChanged.emit(self.index(0, 0), last)
            return
        self.beginResetModel()
        self._lesions = lesions
        self.endResetModel()

    def lesion(self, row: int) -> Lesion:
        """The lesion of a row."""
        return self._lesions[row]

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._lesions)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._keys)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Words, the number to sort by, or why a covered lesion is not found."""
        lesion, key = self._lesions[index.row()], self._keys[index.column()]
        value = getattr(lesion, key)
        if role == SORT_ROLE:
            return value
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignCenter)
        if role == Qt.ItemDataRole.ToolTipRole:
            flooded = lesion.covered >= 0.1 and not lesion.found
            return texts.FLOODED if key == "found" and flooded else None
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if key == "found":
            return "yes" if value else "no"
        if key == "covered":
            return f"{value:.0%}"
        return str(value) if key == "id" else f"{value:.{2 if key == 'volume_ml' else 3}f}"

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        """Names and tooltips of the columns."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        text = texts.LESION_COLUMNS[self._keys[section]]
        if role == Qt.ItemDataRole.DisplayRole:
            return text.label
        return text.tip if role == Qt.ItemDataRole.ToolTipRole else None


class LesionView(QWidget):
    """The lesions of a truth in a table, with how many were found."""

    voxel_chosen = Signal(tuple)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.count = message()
        self.model = LesionModel(self)
        self._sorted = QSortFilterProxyModel(self)
        self._sorted.setSourceModel(self.model)
        self._sorted.setSortRole(SORT_ROLE)
        self.table = QTableView()
        self.table.setToolTip(texts.LESION_TABLE.tip)
        self.table.setModel(self._sorted)
        self.table.setSortingEnabled(True)
        self.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setShowGrid(False)
        self.table.setFixedHeight(HEIGHT)
        self.table.setStyleSheet(SMALL)
        header, rows = self.table.horizontalHeader(), self.table.verticalHeader()
        assert header is not None
        assert rows is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(40)
        rows.hide()
        rows.setDefaultSectionSize(20)
        self.table.clicked.connect(self._on_row)
        body = column(self)
        body.setSpacing(2)
        body.addWidget(self.count)
        body.addWidget(self.table)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_table(self, table: LesionTable) -> None:
        """Show the lesions under some findings."""
        self.model.show(table.lesions)
        number = len(table.lesions)
        lesions = "1 lesion" if number == 1 else f"{number} lesions"
        findings = "1 finding" if table.findings == 1 else f"{table.findings} findings"
        say(
            self.count,
            f"{table.found} of {lesions} found; {table.false_findings} of {findings} false",
        )

    def _on_row(self, index: QModelIndex) -> None:
        self.voxel_chosen.emit(self.model.lesion(self._sorted.mapToSource(index).row()).index)


# --- small helpers -------------------------------------------------------------------------------


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _positive(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithm would not be defined."""
    return np.where(values > 0, values, np.nan)
