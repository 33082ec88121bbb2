"""Planes of the viewer: axial, coronal, sagittal slices and 3D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_addm.widgets.viewing.chosen_scan import fit_in_view
from napari_addm.widgets.viewing.glass import GlassBrain
from napari_addm.widgets.viewing.planes import PLANES, order_of, plane_of, stand_upright

if TYPE_CHECKING:
    import napari

# From the front, a little above and from the side; axes S, A, R.
DIRECTION_3D = ((-0.25, -1.0, 0.35), (1.0, 0.0, 0.0))


class PlaneView:
    """Shows planes through the current position. Without three axes it does nothing.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    glass : GlassBrain
        What 3D shows.
    """

    def __init__(self, viewer: napari.viewer.Viewer, glass: GlassBrain) -> None:
        self._viewer, self._glass = viewer, glass
        self._before_3d: _Before | None = None

    @property
    def in_3d(self) -> bool:
        """Whether the viewer shows volumes."""
        return bool(self._viewer.dims.ndisplay == 3)

    @property
    def plane(self) -> str | None:
        """Name of the plane that is shown; None in 3D and for other orders of the axes."""
        dims = self._viewer.dims
        return None if dims.ndim < 3 or self.in_3d else plane_of(dims.order)

    def show_plane(self, name: str) -> None:
        """Show the axial, coronal or sagittal slice."""
        dims = self._viewer.dims
        if dims.ndim < 3:
            return
        point = dims.point  # napari moves to the middle when it leaves 3D, too
        before, self._before_3d = self._before_3d, None
        if before is not None and self._same_slices(point, before.middle):
            point = before.point  # else somebody moved meanwhile
        dims.ndisplay = 2
        dims.order = order_of(name, dims.ndim)
        dims.point = point
        self._glass.hide()
        stand_upright(self._viewer)
        fit_in_view(self._viewer)
        if before is not None and dims.order == before.order:
            camera = self._viewer.scene.camera
            camera.center, camera.zoom = before.center, before.zoom

    def _same_slices(self, one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        """Whether two points are less than a slice apart: napari's sliders round them."""
        steps = np.array([each.step for each in self._viewer.dims.range])
        return bool((np.abs(np.subtract(one, other)) < 0.6 * steps).all())

    def show_next_plane(self) -> None:
        """Show axial, coronal, sagittal, and axial again."""
        if self._viewer.dims.ndim < 3:
            return
        names = list(PLANES)
        now = plane_of(self._viewer.dims.order)
        self.show_plane(names[0 if now is None else (names.index(now) + 1) % len(names)])

    def show_3d(self) -> None:
        """Show the volume from the front: the patient's right on the left of the screen."""
        dims = self._viewer.dims
        if dims.ndim < 3:
            return
        camera = self._viewer.scene.camera
        before = dims.point, dims.order, camera.center, camera.zoom
        came, glass = not self.in_3d, self._glass.show()
        stand_upright(self._viewer)
        dims.order = order_of("Axial", dims.ndim)
        dims.ndisplay = 3
        fit_in_view(self._viewer)
        if came:
            self._before_3d = _Before(*before, middle=dims.point)
        camera.set_view_direction(*DIRECTION_3D)
        if glass:
            self._glass.fit()

    def leave_3d(self) -> None:
        """Show the slices that were shown before 3D, if it is 3D that is shown."""
        if self.in_3d:
            before = self._before_3d
            self.show_plane((before and plane_of(before.order)) or "Axial")

    def toggle_3d(self) -> None:
        """Show 3D, or the slices again."""
        if self.in_3d:
            self.leave_3d()
        else:
            self.show_3d()

    def come_back(self) -> None:
        """Show the slices as they were: the viewer has left 3D by itself."""
        before = self._before_3d
        if before is not None and not self.in_3d:
            self.show_plane(plane_of(before.order) or "Axial")


@dataclass(frozen=True)
class _Before:
    """The slices before 3D, and where napari moved them then: to the middle."""

    point: tuple[float, ...]
    order: tuple[int, ...]
    center: tuple[float, ...]
    zoom: float
    middle: tuple[float, ...]
