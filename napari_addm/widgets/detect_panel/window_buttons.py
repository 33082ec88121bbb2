"""Buttons that set window and level."""

from __future__ import annotations

from functools import partial

from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_addm.widgets import texts
from napari_addm.widgets.forms import button
from napari_addm.widgets.viewing.window_level import WindowLevel


class WindowButtons(QWidget):
    """Presets of window and level in one line.

    Parameters
    ----------
    window : WindowLevel
    """

    def __init__(self, window: WindowLevel) -> None:
        super().__init__()
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        label = QLabel(texts.WINDOW.label)
        label.setToolTip(texts.WINDOW.tip)
        line.addWidget(label)
        for name, text in texts.WINDOW_PRESETS.items():
            line.addWidget(button(text, partial(window.show, name)), 1)
        line.addWidget(button(texts.WINDOW_RESET, window.reset), 1)
