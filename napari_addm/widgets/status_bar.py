"""The lines below a panel's buttons: progress, status, errors and the caution."""

from __future__ import annotations

import logging
import time
import traceback

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from napari_addm.errors import AddmError
from napari_addm.io.text import RESEARCH_USE_ONLY
from napari_addm.widgets import texts
from napari_addm.widgets.forms import ProgressLine, message, say
from napari_addm.widgets.guide import help_link
from napari_addm.widgets.tones import ERROR, SMALL

log = logging.getLogger(__name__)

# The shortest time between two updates of a panel.
TELL_SECONDS = 0.25


class Notices(QWidget):
    """Progress, status, errors, the traceback of a bug, the caution, and the way to the guide.

    Parameters
    ----------
    details_height : int
        Largest height of a traceback, pixels.

    Attributes
    ----------
    progress : ProgressLine
    status, error, help_link : QLabel
    details : QPlainTextEdit
    """

    def __init__(self, details_height: int = 120) -> None:
        super().__init__()
        self._next = 0.0
        self.progress = ProgressLine()
        self.status = message()
        self.error = message(ERROR)
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setMaximumHeight(details_height)
        self.details.hide()
        caution = QLabel(RESEARCH_USE_ONLY)
        caution.setStyleSheet(SMALL)
        caution.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.help_link = help_link()
        last = QHBoxLayout()
        last.addWidget(caution, 1)
        last.addWidget(self.help_link)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for part in (self.progress, self.status, self.error, self.details):
            layout.addWidget(part)
        layout.addLayout(last)

    def begin(self) -> None:
        """Show an empty bar; a busy one would be drawn all the time."""
        self.progress.tell(0, 1)
        self.progress.show()
        self._next = 0.0

    def is_due(self) -> bool:
        """Return whether it is time to show progress again.

        Each update draws the whole window. Without a graphics card, that takes as long as a call
        of the network.
        """
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + TELL_SECONDS
        return True

    def clear(self) -> None:
        """Remove all words."""
        say(self.status, "")
        self.forget_error()

    def forget_error(self) -> None:
        """Remove the error."""
        say(self.error, "")
        self.details.hide()

    def show_error(self, error: Exception) -> None:
        """Show an error; any but an `AddmError` is a bug, and comes with its traceback."""
        if isinstance(error, AddmError):
            say(self.error, str(error))
            return
        if isinstance(error, MemoryError):
            say(self.error, texts.OUT_OF_MEMORY)
            return
        log.error("a bug in napari-addm", exc_info=error)
        say(self.error, f"This is a bug, please report it: {type(error).__name__}: {error}")
        self.details.setPlainText("".join(traceback.format_exception(error)))
        self.details.show()
