"""What a person waits for is on screen before the network goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_addm.courtesy import come_first, go_on

if TYPE_CHECKING:
    import napari


def draw_first() -> None:
    """Let the network pause until what the caller is about to change is drawn; main thread only."""
    come_first()
    QTimer.singleShot(0, go_on)  # when the event loop has nothing left to do


class PersonFirst:
    """Lets the network pause while a viewer draws what a person asked for.

    That is another position, or another part of the picture.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        camera = viewer.scene.camera.events
        self._events = (viewer.dims.events.point, camera.center, camera.zoom, camera.angles)
        for event in self._events:
            event.connect(self._come, position="first")

    def disconnect_viewer(self) -> None:
        """Hear no more of the viewer."""
        for event in self._events:
            event.disconnect(self._come)
        go_on()

    def _come(self, event: Any = None) -> None:  # of its own, because two panels may listen
        draw_first()
