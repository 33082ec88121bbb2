"""A click on a finding selects its row, and the right button opens its menu."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QPoint
from qtpy.QtWidgets import QMenu

from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.viewing.canvas_mouse import CanvasMouse
from napari_addm.widgets.viewing.connections import unwrapped


def bind_mouse(
    mouse: CanvasMouse,
    table: FindingsTable,
    outcome: Callable[[], Outcome | None],
    write_note: Callable[[], None],
) -> None:
    """Let clicks on the canvases act on the table, and the window know the brain of the result.

    Parameters
    ----------
    mouse : CanvasMouse
    table : FindingsTable
    outcome : callable
        Gives the outcome that is shown.
    write_note : callable
        Goes to the note of the selected finding.
    """

    def findings() -> Labels | None:
        shown = outcome()
        layer = None if shown is None else shown.layers.layer("labels")
        return layer if isinstance(layer, Labels) else None

    def ask(number: int, at: QPoint) -> None:
        if table.review.selected == number:  # else a person has drawn that label
            finding_menu(table, write_note).popup(at)

    def brain(image: Image) -> np.ndarray | None:
        shown = outcome()
        if shown is None or shown.detection is None:
            return None
        if unwrapped(shown.layers.scan_layer) is not image:
            return None
        return shown.layers.volume.to_layer(shown.detection.brain_mask.data)

    mouse.window.brain = brain
    mouse.findings, mouse.chosen, mouse.asked = findings, table.select, ask


def finding_menu(table: FindingsTable, write_note: Callable[[], None]) -> QMenu:
    """Make the menu of the selected finding. It deletes itself when it is closed."""
    selected = table.review.selected
    verdict = table.review.decision_on(selected).verdict
    menu = QMenu(table)
    menu.aboutToHide.connect(menu.deleteLater)
    title = menu.addAction(texts.FINDING_NAMED.format(selected))
    assert title is not None
    title.setEnabled(False)
    menu.addSeparator()
    for words, act, holds in (
        (texts.MENU_ACCEPT, table.accept, verdict == "accepted"),
        (texts.MENU_REJECT, table.reject, verdict == "rejected"),
        (texts.MENU_NOTE, write_note, False),
    ):
        action = menu.addAction(words)
        assert action is not None
        action.setCheckable(act is not write_note)
        action.setChecked(holds)
        action.triggered.connect(lambda _=False, act=act: act())
    return menu
