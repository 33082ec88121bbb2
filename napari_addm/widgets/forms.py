"""Small widgets and layouts that all panels are built from."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from psygnal import EmitLoopError
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QResizeEvent, QShowEvent
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QDockWidget,
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

from napari_addm.widgets.texts import Text, as_written
from napari_addm.widgets.tones import Words
from napari_addm.widgets.tooltips import WrappedTips
from napari_addm.widgets.wheel import WheelGuard

LABEL_WIDTH = 104
TURN_MS = 20  # longer than Qt waits before it draws
BUTTON_MARGIN = 12  # px, left and right of its words together
# The one button that is to be pressed next. White on it has a contrast of 5:1.
PRIMARY = """
QPushButton:enabled { background-color: #2f6bd0; color: white; font-weight: bold; }
QPushButton:enabled:hover { background-color: #3c78dd; }
QPushButton:enabled:pressed { background-color: #2558ad; }
"""
# napari's own color of a pressed toggle is as loud as that button.
QUIET_TOGGLES = """
QPushButton:checked { background-color: rgba(128, 132, 140, 40%); border: 1px solid #80848c; }
"""


class ElidedButton(QPushButton):
    """A button that shortens its words in the middle where they do not fit.

    A long name does not widen the panel, and names that differ at the end stay different.
    """

    def __init__(self, words: str = "") -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.say(words)

    def say(self, words: str) -> None:
        """Show other words."""
        self._words = words
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Fit the words to the new width."""
        super().resizeEvent(event)
        self._fit()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Fit the words to the width."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        words = self._words
        if self.isVisible():
            room = self.width() - BUTTON_MARGIN
            words = self.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, room)
        words = words.replace("&", "&&")  # one alone would make a shortcut
        if words != self.text():
            self.setText(words)


class Section(QWidget):
    """A heading that folds its content.

    superqt's ``QCollapsible`` fixes the height of its content to the size hint, which cuts off
    words that wrap.

    Parameters
    ----------
    text : Text
        The heading.
    content : QWidget
    expanded : bool
        Whether the content is shown at first.
    quiet : bool
        Whether the heading is not bold, as in a section inside another one.

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
        """Set the heading; without words it is the title."""
        self._words = words or self._text.label
        self.heading.setToolTip(as_written("\n".join(filter(None, (words, self._text.tip)))))
        self._on_toggled(self.expanded)

    def _on_toggled(self, expanded: bool) -> None:
        self.heading.say(f"{'▾' if expanded else '▸'} {self._words}")
        self._content.setVisible(expanded)


class Column(QScrollArea):
    """A scroll area that is never narrower than its content."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:
        """Return Qt's size, as wide as the content and the scroll bar."""
        content, bar = self.widget(), self.verticalScrollBar()
        assert content is not None
        assert bar is not None
        width = content.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the content's size, which changes when napari sets its style."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)


def column(parent: QWidget | None = None) -> QVBoxLayout:
    """Make a layout from top to bottom without margins."""
    layout = QVBoxLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(5)
    return layout


def form() -> QFormLayout:
    """Make an empty form; see `row`."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(5)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return layout


def row(layout: QFormLayout, text: Text, *fields: QWidget) -> None:
    """Add a label and one or more fields, all with the tooltip."""
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
    """Make a button that calls `pressed`."""
    made = QPushButton(text.label)
    made.setToolTip(text.tip)
    made.clicked.connect(lambda _=False: pressed())
    return made


def toggle(text: Text, toggled: Callable[[bool], object]) -> QPushButton:
    """Make a button that stays down until it is pressed again."""
    made = QPushButton(text.label)
    made.setToolTip(text.tip)
    made.setCheckable(True)
    made.toggled.connect(toggled)
    return made


def answers(dialog: QDialog, words: str) -> tuple[QDialogButtonBox, QPushButton]:
    """Make the row of a dialog's buttons: *Cancel*, and the one that accepts."""
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
    accept = QPushButton(words)
    buttons.addButton(accept, QDialogButtonBox.ButtonRole.AcceptRole)
    accept.setStyleSheet(PRIMARY)
    accept.setDefault(True)
    buttons.accepted.connect(dialog.accept)
    buttons.rejected.connect(dialog.reject)
    return buttons, accept


def message(tone: str = "") -> Words:
    """Make a line of words that takes no room while it is empty; see `say`.

    Parameters
    ----------
    tone : str
        See `napari_addm.widgets.tones.Words`.
    """
    label = Words(tone)
    label.setWordWrap(True)
    # Names and cards come from files and must not be read as markup.
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.hide()
    return label


def say(label: QLabel, words: str) -> None:
    """Set the words of a `message`."""
    label.setText(words)
    label.setVisible(bool(words))


def may_replace(parent: QWidget, names: Iterable[str], folder: str | Path) -> bool:
    """Ask whether files of a folder may be replaced."""
    words = f"{', '.join(names)} will be replaced in {folder}."
    answer = QMessageBox.question(parent, "Replace?", as_written(words))
    return answer == QMessageBox.StandardButton.Yes


def single_shot(parent: QObject | None, ms: int, call: Callable[[], object]) -> QTimer:
    """Make a timer that calls `call` once, `ms` after its last start."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(call)
    return timer


def in_turns(
    parent: QObject, steps: Iterator[object], then: Callable[[], object] = lambda: None
) -> None:
    """Go through a generator, with other events between its steps: drawing, keys, the mouse.

    Parameters
    ----------
    parent : QObject
        The steps end with it.
    steps : iterator
    then : callable
        Called when they are over, or one has failed.
    """

    def step() -> None:
        try:
            for _ in steps:
                timer.start()
                return
        finally:
            if not timer.isActive():
                timer.deleteLater()
                then()

    timer = single_shot(parent, TURN_MS, step)
    step()


def lay_out_now(changed: QWidget) -> None:
    """Lay out all parents of a widget at once.

    Qt would go up level by level, and draw the whole window after each.
    """
    holder: QWidget | None = changed
    while holder is not None:
        layout = holder.layout()
        if layout is not None:
            layout.activate()
        holder = holder.parentWidget()


def whole(low: int, high: int) -> QSpinBox:
    """Make a field for a whole number."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setMinimumWidth(60)  # Qt would make room for the largest value
    return box


def number(high: float, step: float, unit: str = "") -> QDoubleSpinBox:
    """Make a field for a number from 0."""
    box = QDoubleSpinBox()
    box.setRange(0.0, high)
    box.setSingleStep(step)
    box.setSuffix(unit)
    return box


def heading(
    text: Text,
    column: int,
    sorted_by: tuple[int, Qt.SortOrder],
    aligned: Qt.AlignmentFlag,
    role: int,
) -> Any:
    """Return what a table's model answers for the heading of a column.

    Parameters
    ----------
    text : Text
    column : int
    sorted_by : (int, SortOrder)
        The column that the rows are sorted by, which gets an arrow.
    aligned : AlignmentFlag
    role : int
        One of Qt's item data roles.
    """
    if role == Qt.ItemDataRole.DisplayRole:
        by, order = sorted_by
        arrow = "↓" if order == Qt.SortOrder.DescendingOrder else "↑"
        return text.label + (arrow if column == by else "")
    if role == Qt.ItemDataRole.ToolTipRole:
        return text.tip
    return aligned if role == Qt.ItemDataRole.TextAlignmentRole else None


class Panel(QWidget):
    """A dock widget that deletes itself when its dock is closed.

    napari only removes it, so its jobs and key bindings would stay alive. The mouse wheel scrolls
    the panel instead of changing fields under the cursor, and tooltips wrap.
    """

    def __init__(self) -> None:
        super().__init__()
        self._was_docked = False
        self._filters = WheelGuard(self), WrappedTips(self)
        self.setStyleSheet(QUIET_TOGGLES)

    def event(self, event: QEvent | None) -> bool:
        """Notice when napari removes it from its dock."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parentWidget() is not None:
                self._was_docked = True
            elif self._was_docked:
                QTimer.singleShot(0, self._on_taken_out)
        return super().event(event)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Shorten the dock's title, whenever napari has made a title bar."""
        super().showEvent(event)
        QTimer.singleShot(0, self._shorten_title)

    def _shorten_title(self) -> None:
        """Leave the plugin's name out: napari cuts a long title off."""
        with contextlib.suppress(RuntimeError):  # it may be gone already
            dock = self.parentWidget()
            bar = dock.titleBarWidget() if isinstance(dock, QDockWidget) else None
            if dock is None or bar is None:
                return
            dock.setWindowTitle(dock.windowTitle().partition(" (")[0])  # on its tab
            for label in bar.findChildren(QLabel):
                label.setText(label.text().partition(" (")[0])

    def leave(self) -> None:
        """Delete the panel, as its dock is closed."""
        self.deleteLater()

    def _on_taken_out(self) -> None:
        with contextlib.suppress(RuntimeError):  # it may be gone already
            # It may have another parent by now.
            if self.parentWidget() is None and not self.isVisible():
                self.leave()


_farewells: set[Callable[[], None]] = set()


def when_gone(widget: QWidget, farewell: Callable[[], None]) -> None:
    """Call a function once, when Qt's side of a widget is deleted, or at the end of the process.

    Parameters
    ----------
    widget : QWidget
    farewell : callable
        Must not hold a reference to the widget, whose Python side may be deleted first. It is
        kept alive until it is called.
    """

    def call() -> None:
        if call in _farewells:
            _farewells.discard(call)
            farewell()

    _farewells.add(call)
    widget.destroyed.connect(call)


@atexit.register
def _say_farewell() -> None:
    """Undo what is left while Qt is still there; a viewer that nobody closed would crash."""
    for call in tuple(_farewells):
        with contextlib.suppress(RuntimeError, EmitLoopError):
            call()


class ProgressLine(QProgressBar):
    """A thin progress bar without text. It keeps its room while it is hidden.

    Qt's own bar draws the whole window at once whenever its value changes. This one is drawn
    with the next update.
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
        """Show how much is done."""
        self.setUpdatesEnabled(False)
        self.setRange(0, total)
        self.setValue(done)
        self.setUpdatesEnabled(True)
