"""Further canvases beside the viewer's own, and what is drawn over every canvas.

A layer is sliced in one way only, so a second canvas shows copies of the
layers. The copies share the voxels of the originals and are linked to them by
napari's `link_layers`; an update in place shows in all of them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import ViewerModel
from napari.experimental import link_layers, unlink_layers
from napari.layers import Image, Labels, Layer
from napari.qt import QtViewer
from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDockWidget, QHBoxLayout, QMainWindow, QVBoxLayout, QWidget

from napari_addm.io.volume import UNKNOWN_SIDES
from napari_addm.widgets.forms import Panel
from napari_addm.widgets.layers import GEOMETRY, METADATA_KEY, LayerGeometry
from napari_addm.widgets.viewing.overlays import CrosshairOverlay, hold_overlays, white_words
from napari_addm.widgets.viewing.threads import hold_garbage, release_garbage
from napari_addm.widgets.viewing.turns import Turns, draw_first, later

if TYPE_CHECKING:
    import napari

# Order of the axes S, A, R on screen; the last two span the slice.
PLANES = {"Axial": (0, 1, 2), "Coronal": (1, 0, 2), "Sagittal": (2, 0, 1)}
DEFAULT_ORIENTATION = ("towards", "down", "right")
# Superior or anterior up, the patient's right on the left of the screen; right-handed in 3D.
RADIOLOGICAL = ("away", "up", "left")

# Where the index of an axis grows to, and where it comes from.
GROWS_TO = ("S", "A", "R")
COMES_FROM = ("I", "P", "L")

LINKED = (
    "visible",
    "opacity",
    "blending",
    "scale",
    "translate",
    "rotate",
    "shear",
    "affine",
    "units",
)
LINKED_OF_KIND: dict[type[Layer], tuple[str, ...]] = {
    Image: ("colormap", "contrast_limits", "gamma", "interpolation2d"),
    Labels: ("colormap", "contour", "selected_label", "show_selected_label"),
}
# Copies follow an update this soon; a run that fills slices asks many times a second.
REFRESH_MS = 30
CLICK_PIXELS = 3
# A new dock has its size after this time.
SETTLE_MS = 100
QWIDGETSIZE_MAX = 2**24 - 1  # Qt's; its bindings have no name for it

LETTER = "addm_edge_"
LETTER_PLACES = ("top_center", "bottom_center", "middle_left", "middle_right")
CROSSHAIR = "addm_crosshair"
TITLE = "addm_title"

Overrides = Callable[[Layer], bool | None]


def unwrapped(obj: Any) -> Any:
    """The object behind the proxy that napari hands to plugins, for Qt and weak references."""
    return getattr(obj, "__wrapped__", obj)


def plane_of(order: tuple[int, ...]) -> str | None:
    """The name of the plane that an order of the axes shows; None for another order."""
    first = len(order) - 3
    shown = tuple(axis - first for axis in order[-3:])
    return next((name for name, axes in PLANES.items() if axes == shown), None)


def order_of(plane: str, ndim: int) -> tuple[int, ...]:
    """The order of the axes that shows a plane."""
    first = ndim - 3
    return (*range(first), *(first + axis for axis in PLANES[plane]))


def stand_upright(viewer: napari.viewer.Viewer) -> None:
    """Rows of our layers grow to anterior or superior: show that side up."""
    camera = viewer.scene.camera
    if tuple(str(axis) for axis in camera.orientation) == DEFAULT_ORIENTATION:
        camera.orientation = RADIOLOGICAL


def sides_known(layers: Iterator[Layer] | Any) -> bool:
    """Whether all images and labels say how they lie in the patient, and agree on the axes.

    A layer that was turned or mirrored since it was opened says so no longer.
    """
    shown = [layer for layer in layers if isinstance(layer, (Image, Labels))]
    kept = [layer.metadata.get(METADATA_KEY) for layer in shown]
    return bool(kept) and all(
        isinstance(grid, LayerGeometry) and UNKNOWN_SIDES not in grid.warnings and _stands(layer)
        for layer, grid in zip(shown, kept, strict=True)
    )


def _stands(layer: Layer) -> bool:
    """Whether the axes of a layer run along those of the world, and the same way."""
    linear = np.eye(layer.ndim)
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    turned = np.stack([np.asarray(layer.data_to_world(axis)) - origin for axis in linear])
    steps = np.diagonal(turned)
    return bool((steps > 0).all() and np.allclose(turned, np.diag(steps), atol=1e-6 * steps.max()))


def edge_letters(displayed: tuple[int, int], orientation: tuple[str, ...]) -> Mapping[str, str]:
    """The letters at the edges of a slice.

    Parameters
    ----------
    displayed : tuple of int
        The vertical and the horizontal axis, out of S, A, R.
    orientation : tuple of str
        The camera's: depth, vertical, horizontal.

    Returns
    -------
    mapping
        From `LETTER_PLACES` to one of S, I, A, P, R, L.
    """
    (rows, columns), (_, vertical, horizontal) = displayed, (str(axis) for axis in orientation)
    ends = ("top_center", "bottom_center") if vertical == "up" else ("bottom_center", "top_center")
    sides = ("middle_left", "middle_right")
    if horizontal == "right":
        sides = ("middle_right", "middle_left")
    return {
        ends[0]: GROWS_TO[rows],
        ends[1]: COMES_FROM[rows],
        sides[0]: GROWS_TO[columns],
        sides[1]: COMES_FROM[columns],
    }


class Connections:
    """Callbacks on napari's events that can be given back together."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Callable[..., object]]] = []

    def add(self, emitter: Any, callback: Callable[..., object]) -> None:
        """Connect."""
        emitter.connect(callback)
        self._made.append((emitter, callback))

    def close(self) -> None:
        """Disconnect all of them."""
        for emitter, callback in self._made:
            # a viewer that is being closed has disconnected some already
            with contextlib.suppress(ValueError, RuntimeError, TypeError):
                emitter.disconnect(callback)
        self._made.clear()


class LayerWatch:
    """Hears when an image or labels layer of a viewer is moved, or gets other voxels.

    Parameters
    ----------
    viewer : napari.viewer.Viewer or ViewerModel
    heard : callable
        Called without arguments; a method of whoever keeps the watch.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer | ViewerModel, heard: Callable[[], object]
    ) -> None:
        self._viewer = viewer
        self._heard = heard
        self._of_layer: dict[Layer, Connections] = {}
        self._connections = Connections()
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connections.add(event, self._sync)
        self._sync()

    def _sync(self, event: Any = None) -> None:
        there = {
            unwrapped(layer) for layer in self._viewer.layers if isinstance(layer, (Image, Labels))
        }
        for layer in set(self._of_layer) - there:
            self._of_layer.pop(layer).close()
        for layer in there - set(self._of_layer):
            self._of_layer[layer] = own = Connections()
            for name in (*GEOMETRY, "data"):
                own.add(getattr(layer.events, name), self._hear)

    def _hear(self, event: Any = None) -> None:
        self._heard()

    def close(self) -> None:
        """Listen no longer."""
        self._connections.close()
        for own in self._of_layer.values():
            own.close()
        self._of_layer.clear()


class EdgeLetters:
    """R, L, A, P, S, I at the edges of a canvas, where all that is shown says how it lies.

    Parameters
    ----------
    viewer : napari.viewer.Viewer or ViewerModel
    """

    def __init__(self, viewer: napari.viewer.Viewer | ViewerModel) -> None:
        self._viewer = viewer
        self._connections = Connections()
        self._drawn: set[str] = set()
        self._turns = Turns(None)
        for place in LETTER_PLACES:
            viewer.canvas.overlays[LETTER + place] = white_words(position=place, font_size=12)
        layers = viewer.layers.events
        for event in (
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            viewer.dims.events.ndim,
            viewer.scene.camera.events.orientation,
            layers.inserted,
            layers.removed,
        ):
            self._connections.add(event, self.update)
        self._watch = LayerWatch(viewer, self.update)
        self.update()

    def update(self, event: Any = None) -> None:
        """Set the letters to how the viewer shows the layers; the first time one by one."""
        dims = self._viewer.dims
        known = dims.ndisplay == 2 and dims.ndim == 3 and sides_known(self._viewer.layers)
        if known:
            camera = self._viewer.scene.camera
            for place, letter in edge_letters(dims.displayed, camera.orientation).items():
                self._viewer.canvas.overlays[LETTER + place].text = letter
        for place in LETTER_PLACES:
            visible = known and place in self._drawn
            self._viewer.canvas.overlays[LETTER + place].visible = visible
        if known and len(self._drawn) < len(LETTER_PLACES):
            self._turns.call(self._draw_next)

    def _draw_next(self) -> None:
        """One more of them: each is a program of OpenGL's of its own."""
        new = next((place for place in LETTER_PLACES if place not in self._drawn), None)
        if new is not None:
            draw_first()
            self._drawn.add(new)
            self.update()

    def close(self) -> None:
        """Take the letters away."""
        self._connections.close()
        self._watch.close()
        self._turns.drop()
        for place in LETTER_PLACES:
            self._viewer.canvas.overlays.pop(LETTER + place, None)


class Crosshair:
    """Two lines through a viewer's position.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose position it is.
    model : napari.viewer.Viewer or ViewerModel
        On whose canvas they are drawn.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, model: napari.viewer.Viewer | ViewerModel
    ) -> None:
        self._viewer, self._model = viewer, model
        self._overlay = CrosshairOverlay(visible=True, position=viewer.dims.point)
        self._connections = Connections()
        self._connections.add(viewer.dims.events.point, self._move)
        model.scene.overlays[CROSSHAIR] = self._overlay

    def _move(self, event: Any = None) -> None:
        self._overlay.position = self._viewer.dims.point

    def close(self) -> None:
        """Take them away."""
        self._connections.close()
        self._model.scene.overlays.pop(CROSSHAIR, None)


class ClickToGo:
    """A click (no drag) on a canvas moves a viewer's position there.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose position moves.
    model : napari.viewer.Viewer or ViewerModel
        On whose canvas one clicks.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, model: napari.viewer.Viewer | ViewerModel
    ) -> None:
        self._viewer, self._model = viewer, model
        model.mouse_drag_callbacks.append(self._on_press)

    def _on_press(self, model: Any, event: Any) -> Iterator[None]:
        active = model.layers.selection.active
        pans = active is None or str(active.mode) == "pan_zoom"
        if event.button != 1 or event.modifiers or model.dims.ndisplay != 2 or not pans:
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos) - start).max() <= CLICK_PIXELS:
            self._viewer.dims.point = event.position

    def close(self) -> None:
        """Listen to clicks no longer."""
        with contextlib.suppress(ValueError):
            self._model.mouse_drag_callbacks.remove(self._on_press)


class LinkedCanvas(QWidget):
    """A canvas with copies of a viewer's layers, at the viewer's position.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose layers are shown.
    plane : callable
        Of the viewer's order of axes: the order of this canvas.
    title : str
        Words in its corner; none if empty.
    overrides : callable, optional
        Whether a layer of the viewer is visible here; None: as there.
    follow_camera : bool
        Whether centre and zoom are those of the viewer, both ways.

    Attributes
    ----------
    model : ViewerModel
        What the canvas shows.
    qt_viewer : QtViewer or None
        The canvas; a moment later than the rest, and its layers later still.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        plane: Callable[[tuple[int, ...]], tuple[int, ...]],
        title: str = "",
        overrides: Overrides | None = None,
        follow_camera: bool = False,
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._plane = plane
        self._overrides = overrides or (lambda layer: None)
        self._connections = Connections()
        self._copies: dict[Layer, Layer] = {}
        self._of_layer: dict[Layer, Connections] = {}
        self._stale: set[Layer] = set()
        self._sliced_at: dict[Layer, tuple[Any, ...]] = {}
        self._timer = later(self, REFRESH_MS, self._refresh)
        self._incomplete = True
        self._follow_camera = follow_camera
        self._closed = False

        self.model = ViewerModel(title=title)
        self.model.theme = viewer.theme
        self._title = title
        self._letters: EdgeLetters | None = None
        self.qt_viewer: QtViewer | None = None
        self.setMinimumSize(120, 120)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)

        add = self._connections.add
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            add(event, self._sync_layers)
        add(viewer.dims.events.point, self._take_position)
        add(viewer.dims.events.order, self._sync_view)
        add(viewer.scene.camera.events.orientation, self._sync_view)
        add(viewer.events.reset_view, self._fit)
        add(viewer.events.theme, self._sync_theme)

    @property
    def complete(self) -> bool:
        """Whether canvas and layers are all there."""
        return not self._incomplete

    def fill(self) -> None:
        """One step, for one pass of the event loop: canvas, a layer, words, the other layers."""
        if self._closed or self.complete:
            return
        if self.qt_viewer is None:
            self.qt_viewer = QtViewer(self.model)
            self.qt_viewer.setAcceptDrops(False)
            layout = self.layout()
            assert layout is not None
            layout.addWidget(self.qt_viewer)
            return
        missing = [layer for layer in self._sources if layer not in self._copies]
        if self._copies or not missing:
            if self._letters is None:
                self._letters = EdgeLetters(self.model)
                return
            if self._title and TITLE not in self.model.canvas.overlays:
                self._write_title()
                return
        if missing:
            self._insert(missing[0])
            self._sync_view()
            return
        self._incomplete = False
        self._fit()
        self._sync_view()
        # From now on what moves here moves there.
        add = self._connections.add
        add(self.model.dims.events.point, self._give_position)
        if self._follow_camera:
            ours, theirs = self._viewer.scene.camera, self.model.scene.camera
            for name in ("zoom", "center"):
                setattr(theirs, name, getattr(ours, name))
                add(getattr(ours.events, name), _copier(ours, theirs, name))
                add(getattr(theirs.events, name), _copier(theirs, ours, name))

    def _write_title(self) -> None:
        self.model.canvas.overlays[TITLE] = white_words(
            text=self._title, position="top_left", font_size=8, visible=True
        )

    def copy_of(self, layer: Layer) -> Layer | None:
        """The copy that stands for a layer of the viewer."""
        return self._copies.get(unwrapped(layer))

    def bind(self, keymap: Mapping[str, Callable[..., object]]) -> None:
        """Let keys work on this canvas, too."""
        for key, pressed in keymap.items():
            self.model.bind_key(key, pressed, overwrite=True)

    def release(self) -> None:
        """Unlink, and free the canvas; the viewer and its layers are as if it had never been."""
        if self._closed:
            return
        self._closed = True
        self._connections.close()
        for layer in list(self._copies):
            self._forget(layer)
        # Qt's side may be gone already, with the window
        with contextlib.suppress(RuntimeError):
            self._timer.stop()
        qt_viewer, self.qt_viewer = self.qt_viewer, None
        with contextlib.suppress(RuntimeError):
            if self._letters is not None:
                self._letters.close()
            if qt_viewer is not None:
                qt_viewer.close()
                qt_viewer.setParent(None)  # whom PySide6 keeps alive it keeps whole
                qt_viewer.deleteLater()
        with contextlib.suppress(RuntimeError):
            self.deleteLater()

    # --- layers ----------------------------------------------------------------------------------

    @property
    def _sources(self) -> list[Layer]:
        return [unwrapped(layer) for layer in self._viewer.layers]

    def _sync_layers(self, event: Any = None) -> None:
        sources = self._sources
        for layer in set(self._copies) - set(sources):
            copy = self._copies[layer]
            self._forget(layer)
            if copy in self.model.layers:
                self.model.layers.remove(copy)
        if not self.complete:
            return  # the next ones come, each to its place
        for index, layer in enumerate(sources):
            if layer not in self._copies:
                self._insert(layer)
            at = self.model.layers.index(self._copies[layer])
            if at != index:
                self.model.layers.move(at, index)

    def _insert(self, layer: Layer) -> None:
        """Show a copy of a layer, below those that lie above it."""
        sources = self._sources
        below = sum(other in self._copies for other in sources[: sources.index(layer)])
        copy = self._adopt(layer)
        hold_overlays(copy, self.model.layers)  # for good: they are the tools', for the original
        self.model.layers.insert(below, copy)

    def _adopt(self, layer: Layer) -> Layer:
        """A copy of a layer, linked to it."""
        copy = Layer.create(*layer.as_layer_data_tuple())
        kind = next(
            (names for kind, names in LINKED_OF_KIND.items() if isinstance(layer, kind)), ()
        )
        shown = self._overrides(layer)
        linked = {*LINKED, *kind} - ({"visible"} if shown is not None else set())
        for name in linked:
            if hasattr(layer, name) and name in kind:
                setattr(copy, name, getattr(layer, name))
        link_layers([layer, copy], linked)
        if shown is not None:
            copy.visible = shown
        own = Connections()

        def renamed(event: Any = None) -> None:
            copy.name = layer.name

        def replaced(event: Any = None) -> None:
            if copy.data is not layer.data:
                copy.data = layer.data

        def updated(event: Any = None) -> None:
            # sliced anew because somebody scrolls, or because there is something new to see?
            here = (self._viewer.dims.point, self._viewer.dims.order, self._viewer.dims.ndisplay)
            if self._sliced_at.get(layer) == here:
                self._mark_stale(layer)
            self._sliced_at[layer] = here

        def painted(event: Any = None) -> None:
            self._mark_stale(layer)

        own.add(layer.events.name, renamed)
        own.add(layer.events.data, replaced)
        own.add(layer.events.set_data, updated)
        if isinstance(layer, Labels):
            own.add(layer.events.labels_update, painted)
        self._copies[layer], self._of_layer[layer] = copy, own
        dims = self._viewer.dims
        self._sliced_at[layer] = (dims.point, dims.order, dims.ndisplay)
        return copy

    def _forget(self, layer: Layer) -> None:
        self._of_layer.pop(layer).close()
        self._stale.discard(layer)
        self._sliced_at.pop(layer, None)
        unlink_layers([self._copies.pop(layer)])

    def _mark_stale(self, layer: Layer) -> None:
        self._stale.add(layer)
        # A hidden layer tells nobody of its updates; the other results of its run do.
        self._stale.update(other for other in self._copies if not other.visible)
        if not self._timer.isActive():
            self._timer.start()

    def _refresh(self) -> None:
        for layer in self._stale:
            copy = self._copies.get(layer)
            if copy is not None and copy.visible:
                copy.refresh(thumbnail=False, highlight=False, extent=False)
        self._stale.clear()

    # --- view ------------------------------------------------------------------------------------

    def _sync_view(self, event: Any = None) -> None:
        """Take the plane and the camera's orientation from the viewer."""
        dims = self._viewer.dims
        if self.model.dims.ndim != dims.ndim:
            return
        order = self._plane(dims.order)
        if self.model.dims.order != order:
            self.model.dims.order = order
        self.model.scene.camera.orientation = self._viewer.scene.camera.orientation
        self._take_position()

    def _take_position(self, event: Any = None) -> None:
        _copy_position(self._viewer.dims, self.model.dims, self.model.dims.not_displayed)

    def _give_position(self, event: Any = None) -> None:
        _copy_position(self.model.dims, self._viewer.dims, self.model.dims.not_displayed)

    def _fit(self, event: Any = None) -> None:
        if self.qt_viewer is not None:
            self.model.fit_to_view()

    def _sync_theme(self, event: Any = None) -> None:
        self.model.theme = self._viewer.theme


class CanvasDock(Panel):
    """Further canvases, docked below or beside the viewer's own.

    Closing it, or `release`, gives the viewer back as it was: its layers
    unlinked, its camera and its corners where they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        With a window.
    canvases : list of LinkedCanvas
    name : str
        Title of the dock.
    area : {"bottom", "right"}
    beside : QDockWidget, optional
        On the right, the dock that keeps its place at the window's edge.

    Attributes
    ----------
    closed : Signal()
        It was released, by a person or in code.
    canvases : list of LinkedCanvas
    """

    closed = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        canvases: list[LinkedCanvas],
        name: str,
        area: str,
        beside: QDockWidget | None = None,
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self.canvases = canvases
        self._complete = self._released = False
        camera = viewer.scene.camera
        dims = viewer.dims
        self._before = dims.ndisplay, dims.order, camera.center, camera.zoom
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for canvas in canvases:
            layout.addWidget(canvas)
        height, width = viewer.canvas.size
        # Qt gives a new dock what it must have, and lets it keep that when it may be less.
        if area == "bottom":
            self.setFixedHeight(int(0.45 * height))
        else:
            self.setFixedWidth(width // 2)
        viewer.window.add_dock_widget(self, name=name, area=area, add_vertical_stretch=False)
        self._corners: dict[Qt.Corner, Qt.DockWidgetArea] = {}
        self._beside: QDockWidget | None = None
        dock, window = self.parentWidget(), self.window()
        assert isinstance(dock, QDockWidget)
        assert isinstance(window, QMainWindow)
        # A child that holds its window lives as long as that, and goes with it: PyQt6, which takes
        # down at Python's end what was never deleted, would go on with a window that is no more.
        self._main = weakref.ref(window)
        if area == "bottom":
            # The docks on the left and on the right keep their height.
            for corner, side in (
                (Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea),
                (Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea),
            ):
                self._corners[corner] = window.corner(corner)
                window.setCorner(corner, side)
        elif (
            beside is not None
            and not beside.isFloating()
            and window.dockWidgetArea(beside) == Qt.DockWidgetArea.RightDockWidgetArea
        ):
            self._beside, self._width_before = beside, beside.width()
            beside.setMinimumWidth(self._width_before)
            window.splitDockWidget(dock, beside, Qt.Orientation.Horizontal)
        # One canvas after the other, each in steps; a search for garbage would be the longest.
        hold_garbage()
        self._turns = Turns(self)
        self._turns.take(self._fill())
        QTimer.singleShot(SETTLE_MS, self._settle)

    def _fill(self) -> Iterator[None]:
        for canvas in self.canvases:
            while not (canvas.complete or self._released):
                draw_first()
                canvas.fill()
                yield
        self._filled()

    def _filled(self) -> None:
        """There is nothing more to come."""
        if not self._complete:
            self._complete = True
            release_garbage()

    def _settle(self) -> None:
        if self._released:
            return
        self.setMinimumSize(0, 0)
        self.setMaximumSize(QWIDGETSIZE_MAX, QWIDGETSIZE_MAX)
        self._viewer.reset_view()

    def release(self) -> None:
        """Close the canvases and the dock."""
        if self._released:
            return
        self._released = True
        for canvas in self.canvases:
            canvas.release()
        with contextlib.suppress(RuntimeError):
            self._filled()
        window = self._main()
        # Qt's side may be gone already, with the window
        with contextlib.suppress(RuntimeError, LookupError, AttributeError):
            for corner, area in self._corners.items():
                if window is not None:
                    window.setCorner(corner, area)
            if self.parentWidget() is not None:
                self._viewer.window.remove_dock_widget(self)
            if self._beside is not None:
                # else it would take the room that becomes free
                self._beside.setMinimumWidth(0)
                self._beside.setMaximumWidth(self._width_before)
                QTimer.singleShot(SETTLE_MS, partial(_widen_again, self._beside))
            ndisplay, order, center, zoom = self._before
            dims = self._viewer.dims
            alike = dims.ndisplay == ndisplay  # else what is seen now stays
            if alike and dims.order == order:
                camera = self._viewer.scene.camera
                camera.center, camera.zoom = center, zoom
            elif alike:
                self._viewer.reset_view()
            self.closed.emit()
            self.deleteLater()

    def leave(self) -> None:
        """A person has closed the dock."""
        self.release()


def _widen_again(dock: QDockWidget) -> None:
    with contextlib.suppress(RuntimeError):  # the window may be gone
        dock.setMaximumWidth(QWIDGETSIZE_MAX)


def dock_of(widget: QWidget) -> QDockWidget | None:
    """The dock that holds a widget."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent


def _copier(ours: Any, theirs: Any, name: str) -> Callable[..., None]:
    def copy(event: Any = None) -> None:
        value = getattr(ours, name)
        if not np.allclose(getattr(theirs, name), value):
            setattr(theirs, name, value)

    return copy


def _copy_position(ours: Any, theirs: Any, axes: tuple[int, ...]) -> None:
    """Only along the axes that are sliced: another position within a slice slices nothing anew."""
    if ours.ndim != theirs.ndim:
        return
    point = [ours.point[axis] for axis in axes]
    if not np.allclose([theirs.point[axis] for axis in axes], point):
        theirs.set_point(axes, point)
