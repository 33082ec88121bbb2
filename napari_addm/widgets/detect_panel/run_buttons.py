"""The buttons *Run* and *Cancel*."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout

from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.forms import PRIMARY, ElidedButton, button


class RunButtons(QHBoxLayout):
    """Say what *Run* would run, and allow what the controller allows.

    Parameters
    ----------
    controller : DetectController
    pressed : callable
        Starts a run.

    Attributes
    ----------
    run, cancel : QPushButton
    """

    def __init__(self, controller: DetectController, pressed: Callable[[], object]) -> None:
        super().__init__()
        self.run = ElidedButton(texts.RUN.label)
        self.run.setStyleSheet(PRIMARY)
        self.run.clicked.connect(lambda _=False: pressed())
        self.cancel = button(texts.CANCEL, controller.cancel)
        for each, stretch in ((self.run, 2), (self.cancel, 1)):
            # Qt hands the focus on when a button is disabled, to one that hides the panel.
            each.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            self.addWidget(each, stretch)

    def show(self, controller: DetectController) -> None:
        """Show what is allowed now."""
        headings, why_not = controller.headings, controller.why_not_run
        self.run.say(headings.run)
        self.run.setToolTip(texts.as_written(why_not or headings.run_tip))
        self.run.setEnabled(not why_not)
        self.cancel.setEnabled(controller.may_cancel)
