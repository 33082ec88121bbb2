"""Anatomical planes on the screen: their axes, which side is up, and their letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_addm.io.volume import UNKNOWN_DIRECTIONS, UNKNOWN_SIDES
from napari_addm.widgets.layers import METADATA_KEY, LayerGeometry

if TYPE_CHECKING:
    import napari

# Order of the axes S, A, R on screen; the last two span the slice.
PLANES = {"Axial": (0, 1, 2), "Coronal": (1, 0, 2), "Sagittal": (2, 0, 1)}
DEFAULT_ORIENTATION = ("towards", "down", "right")
# Superior or anterior up, the patient's right on the left of the screen; right-handed in 3D.
RADIOLOGICAL = ("away", "up", "left")

# The sides that the index of an axis grows to, and comes from.
GROWS_TO = ("S", "A", "R")
COMES_FROM = ("I", "P", "L")
LETTER_PLACES = ("top_center", "bottom_center", "middle_left", "middle_right")


def plane_of(order: tuple[int, ...]) -> str | None:
    """Name the plane that an order of the axes shows; None for another order."""
    first = len(order) - 3
    shown = tuple(axis - first for axis in order[-3:])
    return next((name for name, axes in PLANES.items() if axes == shown), None)


def order_of(plane: str, ndim: int) -> tuple[int, ...]:
    """Give the order of the axes that shows a plane."""
    first = ndim - 3
    return (*range(first), *(first + axis for axis in PLANES[plane]))


def other_plane(order: tuple[int, ...], which: int) -> tuple[int, ...]:
    """Give the first or second of the planes that an order of the axes does not show."""
    shown = plane_of(order) or "Axial"
    others = [name for name in PLANES if name != shown]
    return order_of(others[which], len(order))


def stand_upright(viewer: napari.viewer.Viewer) -> None:
    """Show superior or anterior up: the rows of our layers grow to these sides."""
    camera = viewer.scene.camera
    if tuple(str(axis) for axis in camera.orientation) == DEFAULT_ORIENTATION:
        camera.orientation = RADIOLOGICAL


def sides_known(layers: Iterable[Layer]) -> bool:
    """Whether all images and labels say how they lie in the patient, and agree on the axes.

    A layer that was turned or mirrored since it was opened no longer does.
    """
    shown = [layer for layer in layers if isinstance(layer, (Image, Labels))]
    kept = [layer.metadata.get(METADATA_KEY) for layer in shown]
    unknown = {UNKNOWN_SIDES, UNKNOWN_DIRECTIONS}
    known = all(
        isinstance(grid, LayerGeometry) and unknown.isdisjoint(grid.warnings) for grid in kept
    )
    return bool(kept) and known and all(map(_is_upright, shown))


def _is_upright(layer: Layer) -> bool:
    """Whether the axes of a layer have the directions of the world's axes."""
    linear = np.eye(layer.ndim)
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    turned = np.stack([np.asarray(layer.data_to_world(axis)) - origin for axis in linear])
    steps = np.diagonal(turned)
    return bool((steps > 0).all() and np.allclose(turned, np.diag(steps), atol=1e-6 * steps.max()))


def edge_letters(displayed: tuple[int, int], orientation: tuple[str, ...]) -> Mapping[str, str]:
    """Give the letters at the edges of a slice.

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
    top, bottom, left, right = LETTER_PLACES
    ends = (top, bottom) if vertical == "up" else (bottom, top)
    sides = (right, left) if horizontal == "right" else (left, right)
    return {
        ends[0]: GROWS_TO[rows],
        ends[1]: COMES_FROM[rows],
        sides[0]: GROWS_TO[columns],
        sides[1]: COMES_FROM[columns],
    }
