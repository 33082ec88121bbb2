"""Overlays that napari does not have, a crosshair and words; and what a layer comes with.

There is no public way to either: this module alone uses private parts of napari's.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari._vispy.overlays.base import ViewerOverlayMixin, VispySceneOverlay
from napari._vispy.overlays.colorbar import VispyColorBarOverlay
from napari._vispy.overlays.text import VispyTextOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari.components.overlays import ColorBarOverlay, SceneOverlay, TextOverlay
from napari.layers import Labels
from napari.layers.base._base_constants import Blending
from napari.viewer import Viewer
from vispy.scene.visuals import Line

if TYPE_CHECKING:
    from napari.layers import Image, Layer

COLOR = (0.35, 0.75, 1.0, 0.55)
# Longer than any scan, in mm; clipped at the canvas.
REACH = 1e4
# The colours, their frame, the axis, its ticks and its numbers.
COLOR_BAR_PARTS = 5


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


class CanvasText(TextOverlay):
    """Words on a canvas, with a box behind them."""


def white_words(**look: Any) -> CanvasText:
    """Words that can be read on whatever is shown: white, on a dim box."""
    return CanvasText(color="white", box_color=(0.0, 0.0, 0.0, 0.45), **look)


class VispyCanvasText(VispyTextOverlay):
    """Draws a `CanvasText`.

    napari sets up the box of every overlay anew whenever a layer comes, goes, or is shown or
    hidden; VisPy then compiles its programs again, 10 ms for each. Here that is left out where
    nothing about the box has changed.
    """

    _box_is: tuple[Any, ...] | None = None

    def _on_box_change(self) -> None:
        canvas, color = self.viewer.canvas, self.overlay.box_color
        box = (
            self.overlay.box and self._should_be_visible(),
            self.node.parent,
            self.node.transform,
            self.node.order,
            (self.x_size, self.y_size),
            tuple(canvas.overlay_tiling.padding),
            tuple(canvas.background_color if color is None else color),
        )
        if box != self._box_is:
            self._box_is = box
            super()._on_box_change()


class PartwiseColorBar(ColorBarOverlay):
    """A colour bar that can come part by part.

    Attributes
    ----------
    parts : int
        So many of `COLOR_BAR_PARTS` are drawn.
    """

    parts: int = COLOR_BAR_PARTS


class VispyPartwiseColorBar(VispyColorBarOverlay):
    """Draws a `PartwiseColorBar`.

    Each part has a program of its own that VisPy compiles when it is first drawn, 10 to 50 ms.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.overlay.events.parts.connect(self._show_parts)
        self._show_parts()

    def _show_parts(self, event: Any = None) -> None:
        bar = self.node
        parts = (bar.img, bar.box, bar.ticks._line, bar.ticks._ticks, bar.ticks._text)
        assert len(parts) == COLOR_BAR_PARTS
        for number, part in enumerate(parts):
            part.visible = number < self.overlay.parts
        bar.update()

    def close(self) -> None:
        """Stop following the overlay."""
        self.overlay.events.parts.disconnect(self._show_parts)
        super().close()


def set_color_bar(layer: Image) -> None:
    """Give a layer that is to be added a colour bar that `bring_color_bar` brings part by part."""
    layer._overlays["colorbar"] = PartwiseColorBar()


def bring_color_bar(layer: Image, layers: Container[Layer], **look: Any) -> Iterator[None]:
    """Show a layer's colour bar part by part, and last the box behind it.

    Parameters
    ----------
    layer : napari.layers.Image
        Where it has a bar of napari's own, as a duplicate has, that comes all at once.
    layers : container of Layer
        The viewer's; a layer that is no longer among them gets no bar.
    **look
        Attributes of the bar.

    Yields
    ------
    None
        Before each part, which is for a turn of the event loop of its own.
    """
    yield
    if layer not in layers:
        return
    bar = layer.colorbar
    bar.update(look)
    if not isinstance(bar, PartwiseColorBar):
        bar.visible = True
        return
    bar.parts, bar.box = 0, False
    bar.visible = True
    for parts in range(1, COLOR_BAR_PARTS + 1):
        yield
        if layer not in layers:
            return
        bar.parts = parts
    yield
    if layer in layers:
        bar.box = True


def hide_color_bar(layer: Image) -> None:
    """Hide a layer's colour bar; who shows it again has all of it."""
    bar = layer.colorbar
    bar.visible = False
    if isinstance(bar, PartwiseColorBar):
        bar.parts = COLOR_BAR_PARTS


def hold_overlays(layer: Layer, layers: Container[Layer]) -> Iterator[None]:
    """Let a layer that is to be added come without its overlays, which come one by one then.

    They take as long to set up as labels themselves, for tools that nobody has in hand yet.

    Parameters
    ----------
    layer : Layer
    layers : container of Layer
        The viewer's; what is no longer among them, napari must not hear of.

    Returns
    -------
    iterator
        Brings one with each step.
    """
    held = [overlay for overlay in layer._overlays.values() if overlay.visible]
    for overlay in held:
        overlay.visible = False

    def bring() -> Iterator[None]:
        for overlay in held:
            if layer in layers:
                overlay.visible = True
                yield

    return bring()


def forget_strokes(layer: Layer) -> None:
    """Let nobody undo what was drawn on labels that are about to be others."""
    if isinstance(layer, Labels):
        layer._reset_history()


def open_viewers() -> list[Viewer]:
    """All viewers of this process that have a window."""
    return list(Viewer._instances)


overlay_to_visual[CrosshairOverlay] = VispyCrosshairOverlay
overlay_to_visual[CanvasText] = VispyCanvasText
overlay_to_visual[PartwiseColorBar] = VispyPartwiseColorBar
