"""Planes of the viewer: axial, coronal, sagittal slices and 3D."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        # Where the slices were before 3D, and where napari moved them: to the middle.
        self._before_3d: tuple[tuple[float, ...], tuple[float, ...]] | None = None

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
        if self._before_3d is not None:
            before, middle = self._before_3d
            point = before if point == middle else point  # unless somebody moved meanwhile
            self._before_3d = None
        dims.ndisplay = 2
        dims.order = order_of(name, dims.ndim)
        dims.point = point
        stand_upright(self._viewer)
        self._viewer.reset_view()

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
        before = None if self.in_3d else dims.point
        stand_upright(self._viewer)
        dims.order = order_of("Axial", dims.ndim)
        dims.ndisplay = 3
        self._viewer.reset_view()
        if before is not None:
            self._before_3d = before, dims.point
        self._viewer.scene.camera.set_view_direction(*DIRECTION_3D)

    def leave_3d(self) -> None:
        """Show slices, if it is 3D that is shown."""
        if self.in_3d:
            self.show_plane("Axial")

    def toggle_3d(self) -> None:
        """Show 3D, or the axial slices again."""
        if self.in_3d:
            self.show_plane("Axial")
        else:
            self.show_3d()

    def forget_position(self) -> None:
        """Keep the slices where they are: the viewer has left 3D."""
        self._before_3d = None
