"""One plane or three, and the color bar: as a person chose it last, else as the window has room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QCheckBox, QPushButton

from napari_addm.widgets import preferences

if TYPE_CHECKING:
    import napari

    from napari_addm.widgets.detect_panel.controller import DetectController
    from napari_addm.widgets.detect_panel.state import Outcome

# A canvas of this height and width (px) has room for three planes.
ROOM = (600, 900)


class Layout(QObject):
    """Opens three planes by itself where that is wanted, and remembers what a person chooses.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    three_planes : QPushButton
        Opens them.
    color_bar : QCheckBox
    free : callable
        Whether the canvas shows slices, and nothing beside them.
    parent : QObject
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        three_planes: QPushButton,
        color_bar: QCheckBox,
        free: Callable[[], bool],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._free = viewer, free
        self._three_planes, self._color_bar = three_planes, color_bar
        self._planes = "automatic"
        self._asked = False  # remembered planes are opened once, with the first scan
        three_planes.clicked.connect(lambda on=False: self.choose("three" if on else "one"))
        color_bar.clicked.connect(lambda on=False: preferences.remember("color_bar", on))

    def follow(self, scan_changed: Any, controller: DetectController) -> None:
        """Open three planes with the first scan or after a run, as they are wanted.

        Parameters
        ----------
        scan_changed : Signal()
            Another scan is in view.
        controller : DetectController
        """
        scan_changed.connect(self._on_scan)
        self._controller = controller
        controller.done.connect(self._on_done)

    def restore(self, kept: preferences.Preferences) -> None:
        """Start as the preferences say."""
        self._planes = kept.planes
        self._color_bar.setChecked(kept.color_bar)

    def choose(self, planes: str) -> None:
        """A person wants ``"one"`` plane or ``"three"`` from now on."""
        self._planes, self._asked = planes, True
        preferences.remember("planes", planes)

    def _on_scan(self) -> None:
        if self._planes == "three" and not self._asked and self._viewer.dims.ndim >= 3:
            self._asked = True
            self._open()

    def _on_done(self, outcome: Outcome, took: str) -> None:
        whole = outcome.detection is not None and outcome.detection.settings.slices is None
        height, width = self._viewer.canvas.size
        if (
            self._planes == "automatic"
            and whole
            and outcome is self._controller.outcome
            and (height >= ROOM[0] and width >= ROOM[1])
        ):
            self._open()

    def _open(self) -> None:
        if self._three_planes.isEnabled() and self._free():
            self._three_planes.setChecked(True)
