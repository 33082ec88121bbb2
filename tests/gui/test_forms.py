"""The small pieces of the panels."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_addm.widgets.forms import ProgressLine, lay_out_now, message, say


class Drawn(QObject):
    """Counts events: how often a window is put together, or something else."""

    def __init__(self, kind: QEvent.Type = QEvent.Type.UpdateRequest) -> None:
        super().__init__()
        self._kind = kind
        self.count = 0

    def eventFilter(self, of: Any, event: Any) -> bool:
        self.count += event.type() == self._kind
        return False


def nested(levels: int) -> tuple[QWidget, QLabel]:
    """A window, and the label in its innermost layout."""
    label = message()
    say(label, "No slices")
    held: QWidget = label
    for _ in range(levels):
        holder = QWidget()
        QVBoxLayout(holder).addWidget(held)
        held = holder
    return held, label


def test_a_window_is_drawn_once_for_what_changes_deep_in_it(qtbot: Any) -> None:
    drawn = {}
    for at_once in (False, True):
        window, label = nested(5)
        qtbot.addWidget(window)
        window.show()
        qtbot.waitExposed(window)
        qtbot.wait(200)
        counter = Drawn()
        window.installEventFilter(counter)
        for n in range(10):
            say(label, f"{n} slices")
            if at_once:
                lay_out_now(label)
            qtbot.wait(50)
        drawn[at_once] = counter.count
        window.removeEventFilter(counter)
    assert drawn[True] == 10
    assert drawn[False] > 20  # else Qt does it by itself, and nobody needs the function


def test_a_progress_line_is_drawn_with_what_else_has_changed(qtbot: Any) -> None:
    plain, line = QProgressBar(), ProgressLine()
    at_once = {}
    for bar in (plain, line):
        qtbot.addWidget(bar)
        bar.show()
        qtbot.waitExposed(bar)
        qtbot.wait(200)
        counter = Drawn(QEvent.Type.Paint)
        bar.installEventFilter(counter)
        for n in range(1, 11):
            if bar is line:
                line.tell(n, 10)
            else:
                bar.setRange(0, 10)
                bar.setValue(n)
        at_once[bar] = counter.count
        qtbot.waitUntil(lambda counter=counter: counter.count > 0, timeout=60_000)
        assert (bar.value(), bar.maximum()) == (10, 10)
        bar.removeEventFilter(counter)
    assert at_once[line] == 0
    assert at_once[plain] > 5  # else Qt's own would do
