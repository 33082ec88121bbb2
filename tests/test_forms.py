"""The small pieces of the panels."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_addm.widgets.forms import lay_out_now, message, say


class Drawn(QObject):
    """Counts how often a window is put together."""

    count = 0

    def eventFilter(self, of: Any, event: Any) -> bool:
        self.count += event.type() == QEvent.Type.UpdateRequest
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
