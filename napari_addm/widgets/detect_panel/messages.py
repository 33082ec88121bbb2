"""What a person has to know about a result: alarms in red, cautions in amber, notes folded."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from napari.components.overlays import TextOverlay
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_addm.io.remarks import DO_NOT_TRUST, Kind, Remark, of_kind
from napari_addm.widgets import texts
from napari_addm.widgets.forms import Section, column, message, say
from napari_addm.widgets.tones import ALARM, QUIET, WARNING
from napari_addm.widgets.viewing.connections import Connections, unwrapped

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

BANNER = "addm_alarm"
BANNER_LOOK: dict[str, Any] = {
    "position": "top_center",  # below the letter that is there
    "font_size": 9,
    "color": "white",
    "box": True,
    "box_color": (0.66, 0.06, 0.12, 1.0),
}
LETTER_PX = 8  # widest of the banner's font
BESIDE_PX = 140  # left and right of the banner, where titles and the color bar are
FURTHER_BESIDE_PX = 24
MOST_COLUMNS, FEW_COLUMNS, LEAST_COLUMNS = 56, 24, 8


class Remarks(QWidget):
    """The remarks on the result that is shown.

    Attributes
    ----------
    shown : tuple of Remark
    alarm : QLabel
        Hidden while there is none. The panel has it where it does not scroll away.
    cautions : list of QLabel
        One for each; the figures behind it are its tooltip.
    notes : Section
        Folded; its heading counts them.
    note_words : QLabel
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: tuple[Remark, ...] = ()
        self.alarm = message(ALARM)
        self.cautions: list[QLabel] = []
        self._lines = QGridLayout()
        self._lines.setHorizontalSpacing(6)
        self._lines.setVerticalSpacing(4)
        self._lines.setColumnStretch(1, 1)
        self.note_words = message(QUIET)
        self.notes = Section(texts.NOTES, self.note_words, expanded=False, quiet=True)
        body = column(self)
        body.addLayout(self._lines)
        body.addWidget(self.notes)
        self.hide()

    def show_remarks(self, remarks: Sequence[Remark]) -> None:
        """Show remarks, the heaviest first."""
        remarks = tuple(remarks)
        described = [each.as_dict() for each in remarks]
        if described == [each.as_dict() for each in self.shown]:
            return
        self.shown = remarks
        alarms = of_kind(Kind.ALARM, remarks)
        say(self.alarm, "\n".join([DO_NOT_TRUST, *alarms]) if alarms else "")
        self.alarm.setToolTip(_details(alarms))
        while (item := self._lines.takeAt(0)) is not None:
            if (old := item.widget()) is not None:
                old.hide()
                old.deleteLater()
        self.cautions = []
        for row, remark in enumerate(of_kind(Kind.CAUTION, remarks)):
            icon, words = message(WARNING), message(WARNING)
            self._lines.addWidget(icon, row, 0, Qt.AlignmentFlag.AlignTop)
            self._lines.addWidget(words, row, 1)
            say(icon, texts.CAUTION_ICON)
            say(words, str(remark))
            words.setToolTip(_details([remark]))
            self.cautions.append(words)
        notes = of_kind(Kind.NOTE, remarks)
        say(self.note_words, "\n".join(each.in_full for each in notes))
        self.notes.name(f"{len(notes)} note{'' if len(notes) == 1 else 's'}")
        self.notes.expand(False)
        self.notes.setVisible(bool(notes))
        self.setVisible(len(remarks) > len(alarms))


def _details(remarks: Sequence[Remark]) -> str:
    """The figures behind remarks, for a tooltip."""
    details = (each.detail for each in remarks if each.detail)
    return texts.as_written("\n".join(f"{each[:1].upper()}{each[1:]}." for each in details))


class AlarmBanner:
    """An alarm on each canvas, so that it is in view and in every screenshot.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._main = _Banner(viewer)
        self._banners = [self._main]
        self._alarm = ""

    def show(self, remarks: Sequence[Remark]) -> None:
        """Show the first alarm; take the banner away where there is none."""
        self._alarm = next((str(each) for each in of_kind(Kind.ALARM, remarks)), "")
        for banner in self._banners:
            self._tell(banner)

    def _tell(self, banner: _Banner) -> None:
        reason = self._alarm if banner is self._main else ""
        banner.show(f"{DO_NOT_TRUST} {reason}".strip() if self._alarm else "")

    def attach(self, model: ViewerModel) -> Callable[[], None]:
        """Show it on a further canvas, too, without the reason; the result ends that."""
        banner = _Banner(model, FURTHER_BESIDE_PX)
        self._banners.append(banner)
        self._tell(banner)

        def close() -> None:
            self._banners.remove(banner)
            banner.close()

        return close

    def close(self) -> None:
        """Give the viewer back."""
        for banner in self._banners:
            banner.close()


class _Banner:
    """An alarm on one canvas, in lines that leave room for what is at its corners."""

    def __init__(self, model: Any, beside_px: int = BESIDE_PX) -> None:
        self._model, self._beside_px = model, beside_px
        self._overlay: TextOverlay | None = None
        self._words = ""
        self._connections = Connections()
        self._connections.add(model.canvas.events.size, self._fit)

    def show(self, words: str) -> None:
        self._words = words
        if not words:
            self._remove()
        elif self._overlay is None:
            self._overlay = TextOverlay(text=self._lines(), visible=True, **BANNER_LOOK)
            self._model.canvas.overlays[BANNER] = self._overlay
        self._fit()

    def _lines(self) -> str:
        room = (self._model.canvas.size[1] - 2 * self._beside_px) // LETTER_PX
        columns = min(max(room, LEAST_COLUMNS), MOST_COLUMNS)
        # The panel has the reason in full.
        return textwrap.fill(self._words if columns >= FEW_COLUMNS else DO_NOT_TRUST, columns)

    def _fit(self, event: Any = None) -> None:
        if self._overlay is not None:
            self._overlay.text = self._lines()

    def _remove(self) -> None:
        there = self._model.canvas.overlays
        if self._overlay is not None and unwrapped(there.get(BANNER)) is self._overlay:
            del there[BANNER]
        self._overlay = None

    def close(self) -> None:
        self._connections.close()
        with contextlib.suppress(RuntimeError):
            self._remove()
