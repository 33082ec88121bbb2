"""Further canvases of the panel: three planes at once, or scan and reconstruction side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QDockWidget

from napari_addm.widgets import texts
from napari_addm.widgets.viewing.blink import RECONSTRUCTION, SCAN, find_pair
from napari_addm.widgets.viewing.canvas_dock import CanvasDock
from napari_addm.widgets.viewing.canvas_tools import ClickToGo, Crosshair
from napari_addm.widgets.viewing.linked_canvas import LinkedCanvas
from napari_addm.widgets.viewing.overlays import white_words
from napari_addm.widgets.viewing.planes import other_plane, stand_upright

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

SIDE_TITLE = "addm_side_title"


class FurtherCanvases:
    """Docks further canvases beside the viewer's own; one dock at a time.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        With a window.
    attach : callable
        Lets the mouse work on a model's canvas; what it returns ends that.

    Attributes
    ----------
    dock : CanvasDock or None
        The dock that is open.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        attach: Callable[[ViewerModel], Callable[[], None]],
    ) -> None:
        self._viewer, self._attach = viewer, attach
        self.dock: CanvasDock | None = None
        self._undo: list[Callable[[], object]] = []

    def show_three_planes(self, beside: QDockWidget | None = None) -> CanvasDock:
        """Show the two planes that the viewer does not show, with a crosshair through all three."""
        viewer = self._viewer
        stand_upright(viewer)
        canvases = [LinkedCanvas(viewer, partial(other_plane, which=which)) for which in (0, 1)]
        models = [viewer, *(canvas.model for canvas in canvases)]
        for tool in (Crosshair, ClickToGo):
            self._undo += [tool(viewer, model).close for model in models]
        return self._open(canvases, texts.THREE_PLANES.label, "bottom", beside)

    def show_side_by_side(self, beside: QDockWidget | None = None) -> CanvasDock | None:
        """Show the reconstruction on the right of the scan; None without such a pair."""
        pair = find_pair(self._viewer)
        if pair is None:
            return None
        scan, reconstruction = pair
        overrides = {scan: False, reconstruction: True}
        canvas = LinkedCanvas(
            self._viewer,
            lambda order: order,
            title=RECONSTRUCTION,
            overrides=overrides.get,
            follow_camera=True,
        )
        overlays = self._viewer.canvas.overlays
        overlays[SIDE_TITLE] = white_words(
            text=SCAN, position="top_left", font_size=8, visible=True
        )
        self._undo.append(lambda: overlays.pop(SIDE_TITLE, None))
        return self._open([canvas], texts.SIDE_BY_SIDE.label, "right", beside)

    def _open(
        self, canvases: list[LinkedCanvas], name: str, area: str, beside: QDockWidget | None
    ) -> CanvasDock:
        self._undo += [self._attach(canvas.model) for canvas in canvases]
        self.dock = CanvasDock(self._viewer, canvases, name, area, beside)
        return self.dock

    def close(self) -> None:
        """Close the dock, and undo what came with it."""
        dock, self.dock = self.dock, None
        undo, self._undo = self._undo, []
        for each in undo:
            each()
        if dock is not None:
            dock.release()
