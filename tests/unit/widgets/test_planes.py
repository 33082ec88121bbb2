"""Planes and the letters of the patient's sides, without a viewer."""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from napari_addm.io.volume import UNKNOWN_SIDES, Volume, volume_from_native
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.viewing.planes import (
    PLANES,
    RADIOLOGICAL,
    edge_letters,
    order_of,
    other_plane,
    plane_of,
    sides_known,
)

if TYPE_CHECKING:
    from napari.layers import Image

SHAPE = (6, 8, 7)  # R, A, S
ORIENTATIONS = [
    "".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)
]


def head(codes: str, degrees: float = 0.0) -> Volume:
    """A bright voxel in the patient's left, anterior, superior corner, stored in an orientation.

    The patient lies askew by an angle about all three axes.
    """
    data = np.zeros(SHAPE, np.float32)
    data[0, -1, -1] = 255.0
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = data.transpose(np.argsort(turn[:, 0]).astype(int))
    stored = stored[tuple(slice(None, None, int(step)) for step in turn[np.argsort(turn[:, 0]), 1])]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about = np.eye(4)
    about[:3, :3] = (
        np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    )
    return volume_from_native(stored, about @ inv_ornt_aff(turn, SHAPE))


def layer_of(volume: Volume) -> Image:
    data, arguments, _ = volume_to_layer(volume, "image", contrast_limits=(0, 255))
    return plain_layer(data, **arguments)


def plain_layer(data: np.ndarray, **arguments: Any) -> Image:
    from napari.layers import Image  # here, so that one process of pytest imports it and not all

    return Image(data, **arguments)


@pytest.mark.parametrize("degrees", [0.0, 12.0])
def test_letters_agree_with_the_voxels(degrees: float) -> None:
    """In all 48 orientations of a file, the corner lies towards the letters L, A and S."""
    assert len(set(ORIENTATIONS)) == 48
    for codes in ORIENTATIONS:
        layer = layer_of(head(codes, degrees))
        assert sides_known([layer])
        corner = layer.data_to_world(np.argwhere(layer.data > 200)[0])
        away = np.asarray(corner) - layer.extent.world.mean(axis=0)
        for plane, order in PLANES.items():
            letters = edge_letters(order[1:], RADIOLOGICAL)
            rows, columns = order[1:]
            top, left = away[rows] > 0, away[columns] > 0  # the camera looks up and left
            assert letters["top_center" if top else "bottom_center"] == "SAL"[rows], codes
            assert letters["middle_left" if left else "middle_right"] == "SAL"[columns], codes
            assert letters["middle_left"] == ("A" if plane == "Sagittal" else "R")


def test_letters_of_napari_s_default_camera() -> None:
    assert edge_letters((1, 2), ("towards", "down", "right")) == {
        "top_center": "P",
        "bottom_center": "A",
        "middle_left": "L",
        "middle_right": "R",
    }


def test_no_side_is_named_where_a_layer_does_not_tell() -> None:
    ours = layer_of(head("RAS"))
    unknown = layer_of(volume_from_native(np.zeros(SHAPE), np.eye(4), warnings=(UNKNOWN_SIDES,)))
    assert not sides_known([])
    assert not sides_known([ours, plain_layer(np.zeros(SHAPE))])
    assert not sides_known([ours, unknown])
    for change in (
        {"scale": (1, 1, -1)},
        {"rotate": (20, 0, 0)},
        {"affine": np.eye(4)[[1, 0, 2, 3]]},
    ):
        changed = layer_of(head("RAS"))
        for name, value in change.items():
            setattr(changed, name, value)
        assert not sides_known([changed]), change


def test_planes_by_the_order_of_the_axes() -> None:
    assert [plane_of(order_of(name, 4)) for name in PLANES] == list(PLANES)
    assert plane_of((2, 1, 0)) is None
    for name in PLANES:
        shown = {name, *(plane_of(other_plane(PLANES[name], which)) for which in (0, 1))}
        assert shown == set(PLANES)
