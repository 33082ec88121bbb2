"""Colors of words that are legible on napari's dark and on its light background."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QSize
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QLabel, QWidget

SMALL = "font-size: 11px;"
LONGEST_WORD = 200  # px
ERROR, WARNING, LINK, QUIET, ALARM = "error", "warning", "link", "quiet", "alarm"
# On a dark background, on a light one: 4.5:1 or more on either, as WCAG asks of small words.
TONES = {
    ERROR: ("#ff8f85", "#a80f1e"),
    WARNING: ("#eba83f", "#744300"),
    LINK: ("#86b7ff", "#17509f"),
    QUIET: ("#abb2bb", "#54595f"),
}
# A banner has a background of its own: 7:1 on either theme.
BANNER = "background: #a80f1e; color: white; font-weight: bold; padding: 6px 8px;"


def tone_color(widget: QWidget, tone: str) -> str:
    """Return a tone's color on the background of a widget that has napari's style."""
    on_dark, on_light = TONES[tone]
    words = widget.palette().color(QPalette.ColorRole.WindowText)
    return on_dark if words.lightness() > 127 else on_light


class Words(QLabel):
    """Small words in a tone, which follows napari's theme.

    Parameters
    ----------
    tone : str
        A key of `TONES`, or `ALARM` for a banner; empty for the color of other words.
    """

    def __init__(self, tone: str = "") -> None:
        super().__init__()
        self._tone = tone
        self._tint()

    def set_tone(self, tone: str) -> None:
        """Show the words in another tone."""
        self._tone = tone
        self._tint()

    def minimumSizeHint(self) -> QSize:
        """Qt's size, but a long name makes nothing wider: its end is cut where there is no room."""
        hint = super().minimumSizeHint()
        return QSize(min(hint.width(), LONGEST_WORD), hint.height()) if self.wordWrap() else hint

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the theme, and the panel that the words come into."""
        super().changeEvent(event)
        if event is not None and event.type() in (
            QEvent.Type.StyleChange,
            QEvent.Type.PaletteChange,
            QEvent.Type.ParentChange,
        ):
            self._tint()

    def _tint(self) -> None:
        look = SMALL
        if self._tone == ALARM:
            look += BANNER
        elif self._tone:
            # Its own words have the tone already.
            look += f" color: {tone_color(self.parentWidget() or self, self._tone)};"
        if look != self.styleSheet():
            self.setStyleSheet(look)


class LinkWords(Words):
    """A link in a color that follows napari's theme; ``linkActivated`` says that it was clicked."""

    def __init__(self, words: str) -> None:
        self._words = words
        super().__init__(LINK)

    def _tint(self) -> None:
        color = tone_color(self.parentWidget() or self, LINK)
        self.setText(f'<a href="link" style="color: {color};">{self._words}</a>')
