"""Words on a canvas, and a crosshair, which napari does not have.

Only this module uses private parts of napari.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from napari._vispy.overlays.base import ViewerOverlayMixin, VispySceneOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari.components.overlays import SceneOverlay, TextOverlay
from napari.layers.base._base_constants import Blending
from napari.viewer import Viewer
from vispy.scene.visuals import Line

COLOR = (0.35, 0.75, 1.0, 0.55)
# Longer than any scan, in mm; clipped at the canvas.
REACH = 1e4


class CrosshairOverlay(SceneOverlay):
    """Lines through a position, in 2D only.

    Attributes
    ----------
    position : tuple of float
        In the world of the viewer, one number per axis.
    """

    position: tuple[float, ...] = ()
    blending: Blending = Blending.TRANSLUCENT_NO_DEPTH


class VispyCrosshairOverlay(ViewerOverlayMixin, VispySceneOverlay):
    """Draws a `CrosshairOverlay`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            node=Line(pos=np.zeros((4, 2)), connect="segments", color=COLOR, width=1), **kwargs
        )
        dims = self.viewer.dims.events
        for event in (dims.order, dims.ndisplay, dims.ndim):
            event.connect(self._move)
        self.overlay.events.position.connect(self._move)
        self.reset()
        self._move()

    def _should_be_visible(self) -> bool:
        return bool(super()._should_be_visible() and self.viewer.dims.ndisplay == 2)

    def _move(self, event: Any = None) -> None:
        self._on_visible_change()
        dims, position = self.viewer.dims, self.overlay.position
        if dims.ndisplay != 2 or len(position) != dims.ndim:
            return
        row, column = (position[axis] for axis in dims.displayed)
        lines = [
            (column - REACH, row),
            (column + REACH, row),
            (column, row - REACH),
            (column, row + REACH),
        ]
        self.node.set_data(pos=np.asarray(lines, np.float32))

    def close(self) -> None:
        """Stop following the viewer."""
        dims = self.viewer.dims.events
        for event in (dims.order, dims.ndisplay, dims.ndim):
            event.disconnect(self._move)
        self.overlay.events.position.disconnect(self._move)
        super().close()


def white_words(**look: Any) -> TextOverlay:
    """Make words that can be read on any picture: white, on a dim box."""
    return TextOverlay(color="white", box_color=(0.0, 0.0, 0.0, 0.45), **look)


def open_viewers() -> list[Viewer]:
    """List all viewers of this process that have a window."""
    return list(Viewer._instances)


overlay_to_visual[CrosshairOverlay] = VispyCrosshairOverlay
