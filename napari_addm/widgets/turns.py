"""What a person does is on screen before the network goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_addm.courtesy import come_first, go_on

if TYPE_CHECKING:
    import napari


class PersonFirst(QObject):
    """Lets the network pause while a viewer draws what a person asked for.

    That is another position, or another part of the picture.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        camera = viewer.scene.camera.events
        self._events = (viewer.dims.events.point, camera.center, camera.zoom, camera.angles)
        for event in self._events:
            event.connect(self.come, position="first")
        self._drawn = QTimer(self)  # when the event loop has nothing left to do
        self._drawn.setSingleShot(True)
        self._drawn.setInterval(0)
        self._drawn.timeout.connect(go_on)

    def come(self, event: Any = None) -> None:
        """The next picture comes first."""
        come_first()
        self._drawn.start()

    def disconnect_viewer(self) -> None:
        """Hear no more of the viewer."""
        for event in self._events:
            event.disconnect(self.come)
        go_on()
