"""What the panel shows while no scan is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QUrl, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QLabel, QWidget

from napari_addm.widgets import texts
from napari_addm.widgets.forms import LINK, button, column

if TYPE_CHECKING:
    import napari

HELP_PAGE = "https://github.com/napari-addm/napari-addm/blob/main/docs/clinician.md"


class Welcome(QWidget):
    """A friendly line, the demo case, and the way to the help page.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    demo_opened : Signal()
    demo_button : QPushButton
    """

    demo_opened = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        words = QLabel(texts.WELCOME)
        words.setWordWrap(True)
        self.demo_button = button(texts.OPEN_DEMO, self.open_demo)
        self.help_link = QLabel(f'<a href="{HELP_PAGE}" style="{LINK}">{texts.HELP.label}</a>')
        self.help_link.setToolTip(texts.HELP.tip)
        self.help_link.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.help_link.setOpenExternalLinks(True)
        body = column(self)
        body.setSpacing(10)
        for widget in (words, self.demo_button, self.help_link):
            body.addWidget(widget)

    def open_demo(self) -> None:
        """Open the demo case."""
        self._viewer.open_sample("napari-addm", "demo")
        self.demo_opened.emit()

    def open_help(self) -> None:
        """Open the guide."""
        QDesktopServices.openUrl(QUrl(HELP_PAGE))
