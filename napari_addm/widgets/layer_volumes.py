"""From a layer to a volume and back: which voxels a layer shows, and in which order.

Snapshots of layers (`LayerData`) are made in the GUI's thread. All else may run in any.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm.errors import AddmError, InputError
from napari_addm.io.reading import read_beside, read_labels
from napari_addm.io.remarks import about, caution
from napari_addm.io.resampling import resample_labels
from napari_addm.io.volume import GRID_OF_LAYER, Volume
from napari_addm.widgets.layers import (
    COMPUTED_KEY,
    GEOMETRY,
    METADATA_KEY,
    LayerGeometry,
    LayerTuple,
    spatial_part,
    volume_from_layer_data,
    volume_to_layer,
)

if TYPE_CHECKING:
    from napari.layers import Layer


@dataclass(frozen=True, eq=False)
class LayerData:
    """A layer's voxels and arguments at one moment, for use in another thread.

    Attributes
    ----------
    data : array-like
        Whatever the layer holds: numpy, dask, zarr ...
    meta : dict
        The layer's other arguments, the name among them.
    """

    data: Any
    meta: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer) -> LayerData:
        """Take a snapshot, of the last three axes where that is possible; GUI thread only."""
        data, meta, _ = layer.as_layer_data_tuple()
        return cls(*spatial_part(data, meta))

    @property
    def name(self) -> str:
        """The layer's name."""
        return str(self.meta["name"])

    @property
    def geometry(self) -> dict[str, Any]:
        """The arguments that say where the layer lies."""
        return {name: self.meta[name] for name in GEOMETRY if name in self.meta}

    @property
    def place(self) -> tuple[Hashable, ...]:
        """Shape and place, to compare."""
        numbers = tuple(
            np.asarray(self.meta[key], np.float64).tobytes()
            for key in ("scale", "translate", "rotate", "shear", "affine")
            if self.meta.get(key) is not None
        )
        return np.shape(self.data), numbers, tuple(map(str, self.meta.get("units") or ()))


@dataclass(frozen=True, eq=False)
class LayerVolume:
    """A layer's volume, with the way from the volume's voxel order back to the layer's.

    Layers that our reader made have the order of the volume. A layer of another reader may
    have its axes in another order or direction.

    Attributes
    ----------
    volume : Volume
        The voxels as S, A, R.
    in_layer_order : bool
        Whether the layer's voxels have that order, too.
    """

    volume: Volume
    in_layer_order: bool

    def to_layer(self, array: np.ndarray) -> np.ndarray:
        """Turn an array of the volume's shape into the layer's voxel order (a view)."""
        return array if self.in_layer_order else self.volume.with_data(array).to_native()

    def from_layer(self, array: np.ndarray) -> np.ndarray:
        """Invert `to_layer` (a view)."""
        axes, flips = self.order
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        return array.transpose(axes)[steps]

    def index_in_layer(self, index: tuple[float, float, float]) -> tuple[float, ...]:
        """Give the layer's index of a voxel (s, a, r) of the volume, or of a place between."""
        there = [0.0, 0.0, 0.0]
        axes, flips = self.order
        for axis, flip, n, count in zip(axes, flips, index, self.volume.shape, strict=True):
            there[axis] = count - 1 - n if flip else n
        return tuple(there)

    def slice_at(self, index: tuple[float, ...], cut: int = 0) -> int:
        """Find the volume's slice that holds a position given in the layer's voxels.

        Parameters
        ----------
        index : tuple of float
        cut : int
            The volume's axis (S, A, R) that the slices lie across.
        """
        axes, flips = self.order
        count = self.volume.shape[cut]
        nearest = int(np.clip(np.round(index[axes[cut]]), 0, count - 1))
        return count - 1 - nearest if flips[cut] else nearest

    @property
    def order(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Which of the layer's axes S, A and R are, and which of them are reversed."""
        if self.in_layer_order:
            return (0, 1, 2), (False, False, False)
        return self.volume.source.axes, self.volume.source.flips

    def cut_of(self, axis: int) -> int:
        """Give the volume's axis (S, A, R) that is an axis of the layer."""
        axes, _ = self.order
        return axes.index(axis)


def layer_volume(layer: LayerData) -> LayerVolume:
    """Read the volume that a layer shows; voxels as they are.

    Raises
    ------
    InputError
        When it is no 3D gray image or labels layer.
    """
    volume = volume_from_layer_data(layer.data, layer.meta)
    kept = layer.meta.get("metadata", {}).get(METADATA_KEY)
    return LayerVolume(volume, isinstance(kept, LayerGeometry) and volume.affine is kept.affine)


def layer_grid(layer: LayerData) -> Volume:
    """Read only the grid of a layer: dask need not compute its voxels.

    Raises
    ------
    InputError
        As `layer_volume`.
    """
    empty = np.broadcast_to(np.uint8(0), np.shape(layer.data))
    return volume_from_layer_data(empty, layer.meta)


def scan_volume(layer: LayerData) -> LayerVolume:
    """Read the scan that a layer shows, float32 and finite.

    Raises
    ------
    InputError
        When it is no 3D gray image, or holds no finite number or only one value.
    """
    scan = layer_volume(layer)
    volume = scan.volume
    if COMPUTED_KEY in layer.meta.get("metadata", {}):
        # A copy of a result lies where the scan's file lies, but that file does not hold it.
        source = replace(volume.source, path=None, series=(), frame=None, name=layer.name)
        volume = replace(volume, source=source)
    kind = volume.data.dtype
    if kind.kind not in "biuf":  # bool, integer or float
        raise InputError(f"layer '{layer.name}' has voxels of type {kind}: choose a gray image.")
    data = np.asarray(volume.data, np.float32)
    finite = np.isfinite(data)
    if not finite.any():
        raise InputError(f"layer '{layer.name}' holds no number in any voxel: choose another.")
    warnings = volume.warnings
    if not finite.all():
        bad = data.size - int(np.count_nonzero(finite))
        share = bad / data.size
        words = f"{bad} voxels ({share:.2%}) were NaN or infinite and are taken as 0."
        warnings = (*warnings, caution(words))
    numbers = data if finite.all() else data[finite]
    if numbers.min() == numbers.max():
        raise InputError(f"layer '{layer.name}' has the same value in every voxel: choose another.")
    if numbers is not data:
        data = np.where(finite, data, np.float32(0))
    return replace(scan, volume=volume.with_data(data, warnings))


def labels_volume(layer: LayerData, scan: Volume) -> Volume:
    """Read a labels layer that lies on the scan's voxels.

    Raises
    ------
    InputError
        When it lies on other voxels, or has several frames.
    """
    if np.ndim(layer.data) > 3:  # a frame can be taken of a scan only
        raise InputError(
            f"layer '{layer.name}' has {np.ndim(layer.data)} axes: choose labels of one frame, "
            "from a 3D file."
        )
    labels = layer_volume(layer).volume
    if not labels.same_grid(scan):
        raise InputError(
            f"layer '{layer.name}' does not lie on the voxels of the scan: press 'Resample onto "
            "the scan'."
        )
    return labels


def read_labels_layer(path: Path) -> Iterator[LayerTuple]:
    """Read a file of labels as a layer; a generator for a job.

    Raises
    ------
    InputError
        When the file is damaged or holds no labels.
    """
    yield volume_to_layer(read_labels(path), "labels")


def resample_onto(labels: LayerData, scan: LayerData) -> Iterator[LayerTuple]:
    """Resample a labels layer onto the voxels of a scan (nearest); a generator for a job.

    Raises
    ------
    InputError
        When one of the two is no 3D gray image or labels layer, or the labels
        lie beside the scan.
    """
    like = layer_volume(scan)
    moved = resample_labels(layer_volume(labels).volume, like.volume, f"layer '{labels.name}'")
    name = f"{labels.name} on {scan.name}"
    data, arguments, kind = volume_to_layer(moved, "labels", name=name)
    yield np.array(like.to_layer(data)), arguments | scan.geometry, kind


def labels_notes(what: str, labels: Volume, scan: Volume) -> tuple[str, ...]:
    """Give the warnings of a brain mask or ground truth that the scan does not have itself.

    That its grid is the layer's is no news: it is the scan's grid.
    """
    known = (*scan.warnings, GRID_OF_LAYER)
    return tuple(about(what, each) for each in labels.warnings if each not in known)


def labels_file(labels: Volume, what: str, scan: Volume) -> Path | None:
    """Find the file that holds exactly these labels; None when they were drawn or resampled here.

    A layer that was drawn on keeps its file's name. A record with that name would send a reader
    to a file that does not give the figures.
    """
    path = labels.source.path
    if path is None or path == scan.source.path:
        return None
    try:
        stored, _ = read_beside(what, path, scan)
    except AddmError:  # it is gone, or has changed
        return None
    return path if np.array_equal(stored, labels.data != 0) else None
