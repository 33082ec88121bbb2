"""One plane or three, and the color bar: as a person chose it last, else as the window has room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QPushButton

if TYPE_CHECKING:
    import napari

    from napari_addm.widgets.preferences import Preferences

# A canvas of this height and width (px) has room for three planes.
ROOM = (600, 900)


class Layout(QObject):
    """Opens three planes by itself where that is wanted, and tells what a person chooses.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    three_planes : QPushButton
        Opens them.
    color_bar : QCheckBox
    free : callable
        Whether the canvas shows slices, and nothing beside them.
    parent : QObject

    Attributes
    ----------
    chosen : Signal(str, object)
        Name and value of a preference that a person has chosen.
    """

    chosen = Signal(str, object)

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
        color_bar.clicked.connect(lambda on=False: self.chosen.emit("color_bar", on))

    def restore(self, kept: Preferences) -> None:
        """Start as the preferences say."""
        self._planes = kept.planes
        self._color_bar.setChecked(kept.color_bar)

    def choose(self, planes: str) -> None:
        """A person wants ``"one"`` plane or ``"three"`` from now on."""
        self._planes, self._asked = planes, True
        self.chosen.emit("planes", planes)

    def show_scan(self) -> None:
        """A scan has come into view."""
        if self._planes == "three" and not self._asked and self._viewer.dims.ndim >= 3:
            self._asked = True
            self._open()

    def show_result(self) -> None:
        """A run has ended, and its result is in view."""
        height, width = self._viewer.canvas.size
        if self._planes == "automatic" and height >= ROOM[0] and width >= ROOM[1]:
            self._open()

    def _open(self) -> None:
        if self._three_planes.isEnabled() and self._free():
            self._three_planes.setChecked(True)
