"""Section 'View': how the layers are shown."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_addm.widgets import tooltips as texts
from napari_addm.widgets.forms import button

if TYPE_CHECKING:
    import napari

# Order of the axes S, A, R on screen; the last two span the slice.
PLANES = {"Axial": (0, 1, 2), "Coronal": (1, 0, 2), "Sagittal": (2, 0, 1)}
DEFAULT_ORIENTATION = ("towards", "down", "right")
# Superior or anterior up, the patient's right on the left of the screen; right-handed in 3D.
RADIOLOGICAL = ("away", "up", "left")


class Views(QWidget):
    """Buttons that turn the slice view of a viewer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        planes = QHBoxLayout(self)
        planes.setContentsMargins(0, 0, 0, 0)
        for name in PLANES:
            text = texts.Text(name, texts.VIEW)
            planes.addWidget(button(text, partial(self.show_plane, name)))

    def stand_upright(self) -> None:
        """Rows of our layers grow to anterior or superior: show that side up."""
        camera = self._viewer.scene.camera
        if tuple(str(axis) for axis in camera.orientation) == DEFAULT_ORIENTATION:
            camera.orientation = RADIOLOGICAL

    def show_plane(self, name: str) -> None:
        """Show the axial, coronal or sagittal slice through the current position."""
        first = self._viewer.dims.ndim - 3
        if first < 0:
            return
        self._viewer.dims.ndisplay = 2
        self._viewer.dims.order = (*range(first), *(first + axis for axis in PLANES[name]))
        self.stand_upright()
        self._viewer.reset_view()
