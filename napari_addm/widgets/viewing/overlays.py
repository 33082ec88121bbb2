"""Words and lines on a canvas, a crosshair and a glass brain, which napari does not have.

Only this module uses private parts of napari.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from napari._vispy.overlays.base import ViewerOverlayMixin, VispySceneOverlay
from napari._vispy.overlays.colorbar import VispyColorBarOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari._vispy.visuals.markers import Markers
from napari._vispy.visuals.text import Text
from napari.components.overlays import ColorBarOverlay, SceneOverlay, TextOverlay
from napari.layers import Image
from napari.layers.base._base_constants import Blending
from napari.qt import QtViewer
from napari.utils.colormaps import Colormap
from napari.utils.colormaps.colormap_utils import _napari_cmap_to_vispy
from napari.viewer import Viewer
from qtpy.QtGui import QFont, QFontMetricsF
from vispy.gloo import set_depth_mask
from vispy.scene import Node
from vispy.scene.visuals import Compound, Line, Mesh
from vispy.visuals.filters import Filter

from napari_addm.outputs.colors import BEHIND_BAR
from napari_addm.widgets.viewing.connections import unwrapped

COLOR = (0.35, 0.75, 1.0, 0.55)
SHELL_COLOR = (0.75, 0.83, 0.95, 0.75)
# Longer than any scan, in mm; clipped at the canvas.
REACH = 1e4
DOTS_PER_POINT = 96 / 72
# Enough for the eye.
BAR_COLORS = 128
# Where dark copies of words and lines lie, in pixels: their rim.
RIM = ((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0))


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


class GlassOverlay(SceneOverlay):
    """A clear brain with solid findings in it, in 3D only.

    Attributes
    ----------
    brain : Surface or None
    findings : tuple of Surface
    colors : dict
        RGBA by the number of the finding.
    selected : int
        Number of the finding that stands out; 0 for none.
    letters : tuple
        Pairs of a letter and its place in the world.
    """

    brain: Any = None
    findings: tuple[Any, ...] = ()
    colors: dict[int, Any] = {}  # noqa: RUF012
    selected: int = 0
    letters: tuple[tuple[str, tuple[float, ...]], ...] = ()


class VispyGlassOverlay(ViewerOverlayMixin, VispySceneOverlay):
    """Draws a `GlassOverlay`."""

    def __init__(self, *, font_info: Any, **kwargs: Any) -> None:
        super().__init__(node=Node(), font_info=font_info, **kwargs)
        empty = {"vertices": np.zeros((3, 3), np.float32), "faces": np.array([[0, 1, 2]])}
        self._bodies = Mesh(parent=self.node, shading="smooth", **empty)
        self._shell = ClearMesh(parent=self.node, shading="smooth", **empty)
        self._badges = Markers(parent=self.node)
        self._numbers = Text(parent=self.node, font_info=font_info, bold=True)
        self._letters = Text(parent=self.node, font_info=font_info, bold=True)
        self._bodies.set_gl_state("translucent", depth_test=True, cull_face=False)
        # Behind findings it is hidden; before them it is clear.
        self._shell.set_gl_state("translucent", depth_test=True, cull_face=False)
        self._shell.attach(RimFilter())
        for order, visual in enumerate((self._bodies, self._shell, self._badges, self._numbers)):
            visual.order = order
        self._letters.order = 4
        for visual in (self._badges, self._numbers, self._letters):
            visual.set_gl_state("translucent", depth_test=False)
        events = self.overlay.events
        events.brain.connect(self._on_brain)
        for event in (events.findings, events.colors, events.selected):
            event.connect(self._on_findings)
        events.letters.connect(self._on_letters)
        self._camera = self.viewer.scene.camera.events
        for event in (self._camera.angles, self._camera.orientation):
            event.connect(self._on_turn)
        self._on_visible_change()
        for show in (self._on_brain, self._on_findings, self._on_letters, self._on_turn):
            show()

    def _on_blending_change(self) -> None:
        """Each part blends in its own way."""

    def _on_brain(self, event: Any = None) -> None:
        brain = self.overlay.brain
        self._shell.visible = brain is not None
        if brain is not None:
            self._shell.set_data(brain.vertices[:, ::-1], brain.faces, color=SHELL_COLOR)

    def _on_findings(self, event: Any = None) -> None:
        colors = self.overlay.colors
        found = [each for each in self.overlay.findings if each.number in colors]
        for visual in (self._bodies, self._badges, self._numbers):
            visual.visible = bool(found)
        if not found:
            return
        starts = np.cumsum([0, *(len(each.vertices) for each in found)])
        self._bodies.set_data(
            np.concatenate([each.vertices[:, ::-1] for each in found]),
            np.concatenate([each.faces + at for each, at in zip(found, starts, strict=False)]),
            vertex_colors=np.concatenate(
                [np.tile(colors[each.number], (len(each.vertices), 1)) for each in found]
            ),
        )
        middles = np.stack([each.middle[::-1] for each in found])
        chosen = [each.number == self.overlay.selected for each in found]
        dark, light = (0.0, 0.0, 0.0, 0.7), (1.0, 1.0, 1.0, 1.0)
        self._badges.set_data(
            middles,
            size=20,
            edge_width=1.5,
            edge_color=np.stack([(*colors[each.number][:3], 1.0) for each in found]),
            face_color=np.array([light if is_chosen else dark for is_chosen in chosen]),
        )
        self._numbers.text = [str(each.number) for each in found]
        self._numbers.pos = middles
        self._numbers.font_size = 8
        self._numbers.color = np.array(
            [(0.0, 0.0, 0.0, 1.0) if is_chosen else light for is_chosen in chosen]
        )

    def _on_letters(self, event: Any = None) -> None:
        letters = self.overlay.letters
        self._letters.visible = bool(letters)
        if letters:
            self._letters.text = [letter for letter, _ in letters]
            self._letters.pos = np.array([place[::-1] for _, place in letters])
            self._letters.font_size = 12
            self._letters.color = (0.8, 0.85, 0.9, 1.0)

    def _on_turn(self, event: Any = None) -> None:
        """Let the light come from above the camera."""
        camera = self.viewer.scene.camera
        view = np.array(camera.view_direction[::-1])
        light = view - 0.6 * np.array(camera.up_direction[::-1])
        for mesh in (self._bodies, self._shell):
            mesh.shading_filter.light_dir = tuple(light)

    def close(self) -> None:
        """Stop following the camera."""
        for event in (self._camera.angles, self._camera.orientation):
            event.disconnect(self._on_turn)
        super().close()


class ClearMesh(Mesh):
    """A mesh that hides nothing behind it."""

    def draw(self) -> None:
        """Draw without writing depths, which the next picture could not clear otherwise."""
        set_depth_mask(False)
        super().draw()
        set_depth_mask(True)


class RimFilter(Filter):
    """Clear where a shaded surface faces the eye, denser towards its rim."""

    def __init__(self) -> None:
        super().__init__(
            fcode="""
            void clear_as_glass() {
                float facing = abs(dot(normalize(v_normal_vec), normalize(v_eye_vec)));
                gl_FragColor.a *= mix(1.0, 0.12, pow(facing, 0.7));
            }
            """,
            fpos=6,
        )


Box = tuple[float, float, float, float]
"""Left, top, right and bottom on a canvas, in pixels."""


def boxes_at_edges(model: Any) -> list[Box]:
    """Where the letters, bars and labels of a viewer's canvas are."""
    boxes = []
    for canvas in (each.canvas for each in QtViewer._instances if each.viewer is unwrapped(model)):
        canvas._update_overlay_canvas_positions()
        for _, drawn, _ in canvas._get_ordered_visible_canvas_overlays():
            x, y = drawn.node.transform.translate[:2].tolist()
            boxes.append((x, y, x + drawn.x_size, y + drawn.y_size))
    return boxes


def edges_changed(model: Any) -> Any:
    """The event that letters, bars or labels of a canvas have other places or sizes."""
    return unwrapped(model).canvas.events._overlay_positions_changed


def size_of_words(text: str, font_size: float) -> tuple[float, float]:
    """Width and height of words on a canvas, in pixels."""
    font = QFont()
    font.setPixelSize(round(font_size * DOTS_PER_POINT**2))  # vispy counts its dots twice
    metrics = QFontMetricsF(font)
    return metrics.horizontalAdvance(text) + 2, metrics.ascent() + 2


class Word(NamedTuple):
    """A word on a canvas: RGBA, and where its upper left end is, in the world of the viewer."""

    text: str
    place: tuple[float, ...]
    color: tuple[float, ...]


class Stroke(NamedTuple):
    """A straight line on a canvas, between two places in the world of the viewer."""

    start: tuple[float, ...]
    end: tuple[float, ...]
    color: tuple[float, ...]


class MarksOverlay(SceneOverlay):
    """Words and lines at places of the picture, each with a dark rim; in 2D only.

    Attributes
    ----------
    words : tuple of Word
    strokes : tuple of Stroke
    font_size : float
        In points.
    """

    words: tuple[Word, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    font_size: float = 11
    blending: Blending = Blending.TRANSLUCENT_NO_DEPTH


class VispyMarksOverlay(ViewerOverlayMixin, VispySceneOverlay):
    """Draws a `MarksOverlay`."""

    def __init__(self, *, font_info: Any, **kwargs: Any) -> None:
        self._lines = Line(connect="segments", method="gl", width=1, antialias=True)
        self._text = Text(anchor_x="left", anchor_y="bottom", font_info=font_info)
        node = Compound([self._lines, self._text])  # the last is drawn on top
        super().__init__(node=node, font_info=font_info, **kwargs)
        self._events = (
            self.overlay.events.words,
            self.overlay.events.strokes,
            self.viewer.dims.events.order,
            self.viewer.dims.events.ndisplay,
            self.viewer.scene.camera.events.zoom,
        )
        for event in self._events:
            event.connect(self._draw)
        self.reset()
        self._draw()

    def _should_be_visible(self) -> bool:
        filled = self.overlay.words or self.overlay.strokes
        flat = self.viewer.dims.ndisplay == 2
        return bool(super()._should_be_visible() and flat and filled)

    def _draw(self, event: Any = None) -> None:
        self._on_visible_change()
        if not self.node.visible:
            return
        words, strokes = self.overlay.words, self.overlay.strokes
        self._lines.visible, self._text.visible = bool(strokes), bool(words)
        if strokes:
            ends = [place for stroke in strokes for place in stroke[:2]]
            colors = np.repeat([stroke.color for stroke in strokes], 2, axis=0)
            pos, color = self._with_rim(ends, colors)
            self._lines.set_data(pos=pos, color=color)
        if words:
            pos, color = self._with_rim([w.place for w in words], [w.color for w in words])
            self._text.font_size = self.overlay.font_size
            self._text.text = [word.text for word in words] * (len(pos) // len(words))
            self._text.pos, self._text.color = pos, color
        self.node.update()

    def _with_rim(self, places: Any, colors: Any) -> tuple[np.ndarray, np.ndarray]:
        """Places on the screen, and colors: black ones around, and below, the real ones."""
        shown = np.asarray(places, np.float32)[:, list(self.viewer.dims.displayed)[::-1]]
        pixel = 1 / max(self.viewer.scene.camera.zoom, 1e-9)
        around = [shown + np.multiply(step, pixel, dtype=np.float32) for step in RIM]
        ink = np.asarray(colors, np.float32)
        black = ink * (0, 0, 0, 1)
        return (
            np.concatenate([*around, shown]),
            np.concatenate([*len(RIM) * [black], ink]).astype(np.float32),
        )

    def close(self) -> None:
        """Stop following the viewer."""
        for event in self._events:
            event.disconnect(self._draw)
        super().close()


class SeenColorBar(ColorBarOverlay):
    """The color bar of a map, in the colors that are seen where it lies on a brain."""


class VispySeenColorBar(VispyColorBarOverlay):
    """Draws a `SeenColorBar`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer.events.opacity.connect(self._on_colormap_change)

    def _on_colormap_change(self) -> None:
        colors = self.layer.colormap.map(np.linspace(0, 1, BAR_COLORS))
        opaque = colors[:, 3:] * self.layer.opacity
        seen = np.concatenate(
            [BEHIND_BAR + opaque * (colors[:, :3] - BEHIND_BAR), np.ones_like(opaque)], axis=1
        )
        self.node.set_cmap(_napari_cmap_to_vispy(Colormap(seen, name="seen")))


def give_color_bar(layer: Image) -> None:
    """Let the color bar of a layer show the colors that are seen on a brain."""
    if not isinstance(layer.colorbar, SeenColorBar):
        del layer._overlays["colorbar"]  # one that is equal would stay
        layer._overlays["colorbar"] = SeenColorBar()


def white_words(**look: Any) -> TextOverlay:
    """Make words that can be read on any picture: white, on a dim box."""
    return TextOverlay(color="white", box_color=(0.0, 0.0, 0.0, 0.45), **look)


def open_viewers() -> list[Viewer]:
    """List all viewers of this process that have a window."""
    return list(Viewer._instances)


overlay_to_visual[CrosshairOverlay] = VispyCrosshairOverlay
overlay_to_visual[GlassOverlay] = VispyGlassOverlay
overlay_to_visual[MarksOverlay] = VispyMarksOverlay
overlay_to_visual[SeenColorBar] = VispySeenColorBar
