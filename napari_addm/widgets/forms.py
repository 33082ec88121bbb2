"""Small pieces of which every section of the panel is built, so that all look alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QResizeEvent, QShowEvent
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_addm.widgets.texts import Text
from napari_addm.widgets.wheel import WheelGuard

LABEL_WIDTH = 104
BUTTON_MARGIN = 12  # between its words and both its edges
SMALL = "font-size: 11px;"
# Readable on napari's dark and on its light background alike.
ERROR = "color: #dd4a55;"
WARNING = "color: #bd7a1c;"
LINK = "color: #4a84e0;"


class ElidedButton(QPushButton):
    """A button whose words are shortened in the middle where they do not fit.

    So a long name widens no panel, and two that differ at the end can still be told apart.
    """

    def __init__(self, words: str = "") -> None:
        super().__init__()
        self._words = words
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.say(words)

    def say(self, words: str) -> None:
        """Show other words."""
        self._words = words
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Fit the words in."""
        super().resizeEvent(event)
        self._fit()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Fit the words in."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        words = self._words
        if self.isVisible():
            room = self.width() - BUTTON_MARGIN
            words = self.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, room)
        words = words.replace("&", "&&")  # no key of its own
        if words != self.text():
            self.setText(words)


class Section(QWidget):
    """A heading that folds what is below it.

    superqt's ``QCollapsible`` would cut off words that wrap: it fixes the
    height of its content to the size hint.

    Parameters
    ----------
    text : Text
        The heading.
    content : QWidget
    expanded : bool
        How it begins.
    quiet : bool
        For a section inside another one: no bold heading.

    Attributes
    ----------
    folded : Signal()
        A person folded or unfolded it.
    heading : QPushButton
        Checked while the content is shown.
    """

    folded = Signal()

    def __init__(
        self, text: Text, content: QWidget, expanded: bool = True, quiet: bool = False
    ) -> None:
        super().__init__()
        self._text = text
        self._words = text.label
        self._content = content
        # The arrow is text: an icon would not follow napari's theme.
        self.heading = ElidedButton()
        self.heading.setCheckable(True)
        self.heading.setToolTip(text.tip)
        self.heading.setStyleSheet(
            "text-align: left; border: none; background: transparent; padding: 2px 0;"
            + ("" if quiet else "font-weight: bold;")
        )
        self.heading.toggled.connect(self._on_toggled)
        self.heading.clicked.connect(lambda _=False: self.folded.emit())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addWidget(self.heading)
        layout.addWidget(content)
        self.heading.setChecked(expanded)
        self._on_toggled(expanded)

    @property
    def title(self) -> str:
        """The heading's words."""
        return self._text.label

    @property
    def expanded(self) -> bool:
        """Whether the content is shown."""
        return self.heading.isChecked()

    def expand(self, expanded: bool = True) -> None:
        """Show or fold the content."""
        self.heading.setChecked(expanded)

    def name(self, words: str = "") -> None:
        """Let the heading say what the section is about; its title alone without words."""
        self._words = words or self._text.label
        self.heading.setToolTip("\n".join(filter(None, (words, self._text.tip))))
        self._on_toggled(self.expanded)

    def _on_toggled(self, expanded: bool) -> None:
        self.heading.say(f"{'▾' if expanded else '▸'} {self._words}")
        self._content.setVisible(expanded)


class Column(QScrollArea):
    """Scrolls up and down only: it is never narrower than what it holds."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:
        """Qt's, but as wide as the content and the scroll bar."""
        content, bar = self.widget(), self.verticalScrollBar()
        assert content is not None
        assert bar is not None
        width = content.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Hear when the content's size changes, as when napari's style comes over it."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)


def column(parent: QWidget | None = None) -> QVBoxLayout:
    """A layout from top to bottom without margins."""
    layout = QVBoxLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(5)
    return layout


def form() -> QFormLayout:
    """An empty form; see `row`."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(5)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return layout


def row(layout: QFormLayout, text: Text, *fields: QWidget) -> None:
    """Add a label with one or more fields beside it; all get the tooltip."""
    label = QLabel(text.label)
    label.setToolTip(text.tip)
    label.setMinimumWidth(LABEL_WIDTH)
    right: QWidget | QHBoxLayout = fields[0]
    if len(fields) > 1:
        right = QHBoxLayout()
        for field in fields:
            right.addWidget(field)
    else:
        fields[0].setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    for field in fields:
        field.setToolTip(text.tip)
    layout.addRow(label, right)


def button(text: Text, pressed: Callable[[], object]) -> QPushButton:
    """A button that calls `pressed`."""
    made = QPushButton(text.label)
    made.setToolTip(text.tip)
    made.clicked.connect(lambda _=False: pressed())
    return made


def message(style: str = "") -> QLabel:
    """A line of words that takes no room while it is empty; see `say`."""
    label = QLabel()
    label.setWordWrap(True)
    # Names and cards come from files: never read them as markup.
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setStyleSheet(SMALL + style)
    label.hide()
    return label


def say(label: QLabel, words: str) -> None:
    """Set a `message`."""
    label.setText(words)
    label.setVisible(bool(words))


def may_replace(parent: QWidget, names: Iterable[str], folder: str | Path) -> bool:
    """Ask whether files of a folder may be replaced."""
    words = f"{', '.join(names)} will be replaced in {folder}."
    answer = QMessageBox.question(parent, "Replace?", words)
    return answer == QMessageBox.StandardButton.Yes


def single_shot(parent: QObject | None, ms: int, call: Callable[[], object]) -> QTimer:
    """Make a timer that calls once, so long after it was last started."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(call)
    return timer


def lay_out_now(changed: QWidget) -> None:
    """Have everything that holds a widget laid out at once, so that it is drawn once.

    Qt would go up level by level, and draw the whole window after each.
    """
    holder: QWidget | None = changed
    while holder is not None:
        layout = holder.layout()
        if layout is not None:
            layout.activate()
        holder = holder.parentWidget()


def whole(low: int, high: int) -> QSpinBox:
    """A field for a whole number."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setMinimumWidth(60)  # the largest value would ask for more
    return box


def number(high: float, step: float, unit: str = "") -> QDoubleSpinBox:
    """A field for a number from 0."""
    box = QDoubleSpinBox()
    box.setRange(0.0, high)
    box.setSingleStep(step)
    box.setSuffix(unit)
    return box


def line() -> QFrame:
    """A thin line across."""
    made = QFrame()
    made.setFrameShape(QFrame.Shape.HLine)
    return made


def heading(
    text: Text,
    column: int,
    sorted_by: tuple[int, Qt.SortOrder],
    aligned: Qt.AlignmentFlag,
    role: int,
) -> Any:
    """What a table's model answers for the heading of a column.

    Parameters
    ----------
    text : Text
    column : int
    sorted_by : (int, SortOrder)
        The column that the rows are sorted by; an arrow says so.
    aligned : AlignmentFlag
    role : int
        Of Qt.
    """
    if role == Qt.ItemDataRole.DisplayRole:
        by, order = sorted_by
        arrow = "↓" if order == Qt.SortOrder.DescendingOrder else "↑"
        return text.label + (arrow if column == by else "")
    if role == Qt.ItemDataRole.ToolTipRole:
        return text.tip
    return aligned if role == Qt.ItemDataRole.TextAlignmentRole else None


class Panel(QWidget):
    """A widget for a dock, which goes when that is closed.

    napari only takes it out then: it would live on unseen, with its jobs, its keys and what it has
    put into the viewer. The mouse wheel scrolls it, and changes none of its fields by the way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._was_docked = False
        self._wheel = WheelGuard(self)

    def event(self, event: QEvent | None) -> bool:
        """Notice that it was taken out of its dock."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parentWidget() is not None:
                self._was_docked = True
            elif self._was_docked:
                QTimer.singleShot(0, self._on_taken_out)
        return super().event(event)

    def leave(self) -> None:
        """What to do when the dock is closed."""
        self.deleteLater()

    def _on_taken_out(self) -> None:
        with contextlib.suppress(RuntimeError):  # it may be gone already
            # else somebody has put it elsewhere meanwhile
            if self.parentWidget() is None and not self.isVisible():
                self.leave()


_farewells: set[Callable[[], None]] = set()


def when_gone(widget: QWidget, farewell: Callable[[], None]) -> None:
    """Have something done when Qt's side of a widget is gone.

    Parameters
    ----------
    widget : QWidget
    farewell : callable
        Must not hold the widget, whose Python side may be gone by then. It is kept
        until it is called: garbage may be emptied before Qt tells.
    """

    def call() -> None:
        _farewells.discard(call)
        farewell()

    _farewells.add(call)
    widget.destroyed.connect(call)


class ProgressLine(QProgressBar):
    """A thin progress bar without text, hidden, that keeps its place while it is.

    Qt's own draws the whole window at once, and waits for it, whenever its value changes; this one
    is drawn with what else has changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setTextVisible(False)
        self.setFixedHeight(6)
        policy = self.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.setSizePolicy(policy)
        self.hide()

    def tell(self, done: int, total: int) -> None:
        """So much is done."""
        self.setUpdatesEnabled(False)
        self.setRange(0, total)
        self.setValue(done)
        self.setUpdatesEnabled(True)
