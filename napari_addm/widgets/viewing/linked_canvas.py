"""A further canvas beside the viewer's own.

A layer is sliced in one way only, so a second canvas shows copies of the
layers. The copies share the voxels of the originals and are linked to them by
napari's `link_layers`; an update in place shows in all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import ViewerModel
from napari.experimental import link_layers, unlink_layers
from napari.layers import Image, Labels, Layer
from napari.qt import QtViewer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_addm.widgets.forms import single_shot
from napari_addm.widgets.viewing.canvas_tools import EdgeLetters
from napari_addm.widgets.viewing.connections import Connections, unwrapped
from napari_addm.widgets.viewing.overlays import white_words
from napari_addm.widgets.viewing.planes import LETTER_PLACES

if TYPE_CHECKING:
    import napari

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
# Copies follow an update this soon.
REFRESH_MS = 30
TITLE = "addm_title"


class LayerCopies:
    """Copies of a viewer's layers, linked to them.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        With the originals.
    model : ViewerModel
        Gets the copies.
    overrides : callable
        Whether a layer of the viewer is visible in the model; None: as in the viewer.
    arrange : callable
        Puts the viewer's layers in the order of their copies.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        model: ViewerModel,
        overrides: Callable[[Layer], bool | None],
        arrange: Callable[[list[Layer]], list[Layer]],
    ) -> None:
        self._viewer, self._model, self._overrides = viewer, model, overrides
        self._arrange = arrange
        self._copies: dict[Layer, Layer] = {}
        self._of_layer: dict[Layer, Connections] = {}
        self._stale: set[Layer] = set()
        self._sliced_at: dict[Layer, tuple[Any, ...]] = {}
        self._refresh_soon = single_shot(None, REFRESH_MS, self._refresh)
        self._connections = Connections()
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            self._connections.add(event, self._sync)

    def close(self) -> None:
        """Unlink all copies."""
        self._connections.close()
        self._refresh_soon.stop()
        for layer in list(self._copies):
            self._forget(layer)

    @property
    def _here(self) -> tuple[Any, ...]:
        dims = self._viewer.dims
        return dims.point, dims.order, dims.ndisplay

    def _sync(self, event: Any = None) -> None:
        """Copy layers that came, remove copies of layers that left, keep their order."""
        while self.copy_next():
            pass

    def copy_next(self) -> bool:
        """Copy the lowest layer that has no copy; False when all have one, in the same order."""
        sources = self._arrange([unwrapped(layer) for layer in self._viewer.layers])
        for layer in set(self._copies) - set(sources):
            copy = self._copies[layer]
            self._forget(layer)
            if copy in self._model.layers:
                self._model.layers.remove(copy)
        for index, layer in enumerate(sources):
            if layer not in self._copies:
                self._model.layers.insert(index, self._copy(layer))
                return True
            at = self._model.layers.index(self._copies[layer])
            if at != index:
                self._model.layers.move(at, index)
        return False

    def _copy(self, layer: Layer) -> Layer:
        """Make a copy of a layer, linked to it."""
        copy = Layer.create(*layer.as_layer_data_tuple())
        kind = next(
            (names for kind, names in LINKED_OF_KIND.items() if isinstance(layer, kind)), ()
        )
        shown = self._overrides(layer)
        linked = {*LINKED, *kind} - ({"visible"} if shown is not None else set())
        for name in linked & set(kind):
            if hasattr(layer, name):
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
            here = self._here
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
        self._sliced_at[layer] = self._here
        return copy

    def _forget(self, layer: Layer) -> None:
        self._of_layer.pop(layer).close()
        self._stale.discard(layer)
        self._sliced_at.pop(layer, None)
        unlink_layers([self._copies.pop(layer)])

    def _mark_stale(self, layer: Layer) -> None:
        self._stale.add(layer)
        # A hidden layer does not tell of its updates; the other results of its run do.
        self._stale.update(other for other in self._copies if not other.visible)
        if not self._refresh_soon.isActive():
            self._refresh_soon.start()

    def _refresh(self) -> None:
        for layer in self._stale:
            copy = self._copies.get(layer)
            if copy is not None and copy.visible:
                copy.refresh(thumbnail=False, highlight=False, extent=False)
        self._stale.clear()


class LinkedCanvas(QWidget):
    """A canvas with copies of a viewer's layers, at the viewer's position; see `fill`.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its layers are shown.
    plane : callable
        Gives the order of the axes for the viewer's order.
    title : str
        Words in the corner; none if empty.
    overrides : callable, optional
        Whether a layer of the viewer is visible here; None: as there.
    follow_camera : bool
        Whether center and zoom are those of the viewer, both ways.
    arrange : callable
        Puts the viewer's layers in the order of their copies, from the lowest up.

    Attributes
    ----------
    model : ViewerModel
        What the canvas shows.
    qt_viewer : QtViewer or None
        The canvas; None before it is made and once it is released.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        plane: Callable[[tuple[int, ...]], tuple[int, ...]],
        title: str = "",
        overrides: Callable[[Layer], bool | None] | None = None,
        follow_camera: bool = False,
        arrange: Callable[[list[Layer]], list[Layer]] = list,
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._plane = plane
        self.model = ViewerModel(title=title)
        self.model.theme = viewer.theme
        self.model.canvas.background_color_override = viewer.canvas.background_color_override
        self.qt_viewer: QtViewer | None = None
        self._released = False
        self.setMinimumSize(120, 120)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        shown = overrides or (lambda layer: None)
        self._copies = LayerCopies(viewer, self.model, shown, arrange)
        self._letters: list[EdgeLetters] = []
        self._follow_camera = follow_camera
        if title:
            self.model.canvas.overlays[TITLE] = white_words(
                text=title, position="top_left", font_size=8, visible=True
            )
        self._connections = Connections()

    def fill(self) -> Iterator[None]:
        """Make the canvas, its layers from the lowest up, and its letters, in one step each."""
        yield
        self.qt_viewer = QtViewer(self.model)
        self.qt_viewer.setAcceptDrops(False)
        self._layout.addWidget(self.qt_viewer)
        self.qt_viewer.hide()  # until it is in its plane
        yield
        while self._copies.copy_next():
            yield
            if self.qt_viewer is None:  # released meanwhile
                return
            self._sync_view()
            self.qt_viewer.show()
        self._sync_view()
        self._fit()
        self._connect(self._follow_camera)
        for place in LETTER_PLACES:
            yield
            self._letters.append(EdgeLetters(self.model, [place]))

    def _connect(self, follow_camera: bool) -> None:
        viewer, add = self._viewer, self._connections.add
        add(viewer.dims.events.point, self._take_position)
        add(viewer.dims.events.order, self._sync_view)
        add(viewer.dims.events.ndim, self._sync_view)
        add(viewer.scene.camera.events.orientation, self._sync_view)
        add(viewer.events.theme, self._sync_theme)
        add(self.model.dims.events.point, self._give_position)
        if not follow_camera:
            add(viewer.events.reset_view, self._fit)
        else:
            ours, theirs = viewer.scene.camera, self.model.scene.camera
            for name in ("zoom", "center"):
                setattr(theirs, name, getattr(ours, name))
                add(getattr(ours.events, name), _copier(ours, theirs, name))
                add(getattr(theirs.events, name), _copier(theirs, ours, name))

    def release(self) -> None:
        """Unlink, and free the canvas; the viewer and its layers are as they were before it."""
        if self._released:
            return
        self._released = True
        qt_viewer, self.qt_viewer = self.qt_viewer, None
        self._connections.close()
        # Qt's side may be gone already, with the window
        with contextlib.suppress(RuntimeError):
            self._copies.close()
        with contextlib.suppress(RuntimeError):
            for letter in self._letters:
                letter.close()
            if qt_viewer is not None:
                qt_viewer.close()
                qt_viewer.setParent(None)  # PySide6 keeps children of a widget that it keeps alive
                qt_viewer.deleteLater()
        with contextlib.suppress(RuntimeError):
            self.deleteLater()

    def _sync_view(self, event: Any = None) -> None:
        """Take the plane and the camera's orientation from the viewer."""
        dims = self._viewer.dims
        if self.model.dims.ndim != dims.ndim:
            return
        order = self._plane(dims.order)
        if self.model.dims.order != order:
            self.model.dims.order = order
        camera = self._viewer.scene.camera
        self.model.scene.camera.orientation = camera.orientation
        if self._follow_camera:  # at once: two pictures of unlike size would be misread
            self.model.scene.camera.update({"center": camera.center, "zoom": camera.zoom})
        self._take_position()

    def _take_position(self, event: Any = None) -> None:
        _copy_position(self._viewer.dims, self.model.dims, self.model.dims.not_displayed)

    def _give_position(self, event: Any = None) -> None:
        _copy_position(self.model.dims, self._viewer.dims, self.model.dims.not_displayed)

    def _fit(self, event: Any = None) -> None:
        shown = [layer for layer in self.model.layers if layer.visible]  # others may lie far off
        self.model.fit_to_view(layers=shown or None)

    def _sync_theme(self, event: Any = None) -> None:
        self.model.theme = self._viewer.theme


def _copier(ours: Any, theirs: Any, name: str) -> Callable[..., None]:
    def copy(event: Any = None) -> None:
        value = getattr(ours, name)
        if not np.allclose(getattr(theirs, name), value):
            setattr(theirs, name, value)

    return copy


def _copy_position(ours: Any, theirs: Any, axes: tuple[int, ...]) -> None:
    """Copy it along the sliced axes only: another position within a slice slices nothing anew."""
    if ours.ndim != theirs.ndim:
        return
    point = [ours.point[axis] for axis in axes]
    if not np.allclose([theirs.point[axis] for axis in axes], point):
        theirs.set_point(axes, point)
