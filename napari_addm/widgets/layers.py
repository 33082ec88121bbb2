"""Volumes as napari layers, and layers as volumes.

A layer shows the voxels in S, A, R order with a diagonal scale and a
translation in mm: napari slices along data axes, so a rotating or permuting
layer affine would slice the wrong way. An oblique or sheared grid, and the
file's header, are kept in the layer's metadata.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.arrays import displacement, voxel_spacing
from napari_addm.io.reading import Frames
from napari_addm.io.volume import GRID_OF_LAYER, Source, Volume, volume_from_native

if TYPE_CHECKING:
    from napari.layers import Layer

AXIS_LABELS = ("S", "A", "R")
FRAME_LABEL = "frame"
METADATA_KEY = "napari_addm"
# Marks layers with computed voxels: the scan's file does not hold them, although it has their
# geometry. Copies are marked, too, so the mark does not tell which scan a layer belongs to.
COMPUTED_KEY = "napari_addm_computed"
# Voxels that are at most so far apart are the same.
SAME_MM = 1e-3
# The arguments of a layer that say where it lies.
GEOMETRY = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")

LayerKind = Literal["image", "labels"]
LayerTuple = tuple[np.ndarray, dict[str, Any], LayerKind]

# Voxels are subsampled for the display range: percentiles of all of them would take a second.
DISPLAY_STEP = 4
DISPLAY_PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True, eq=False)
class LayerGeometry:
    """Geometry that a layer keeps in its metadata, to be saved on the grid of its file.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        Index (s, a, r, 1) to world RAS+ mm: `Volume.affine`.
    source : Source
        `Volume.source`.
    warnings : tuple of str
        `Volume.warnings`.
    shape : tuple of int
        Shape (S, A, R) for which the affine holds.
    """

    affine: np.ndarray
    source: Source
    warnings: tuple[str, ...]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, volume: Volume) -> LayerGeometry:
        """Take the geometry of a volume."""
        return cls(volume.affine, volume.source, volume.warnings, volume.shape)


@dataclass(frozen=True, eq=False)
class FramesGeometry(LayerGeometry):
    """Geometry of a layer of several frames, with the file that they are from.

    Attributes
    ----------
    frames : Frames
    """

    frames: Frames

    def at(self, frame: int) -> LayerGeometry:
        """Read the geometry of one frame.

        Raises
        ------
        InputError
            When the file has changed.
        """
        return LayerGeometry.of(self.frames.volume(frame))


def layer_geometry(volume: Volume) -> dict[str, Any]:
    """Give the arguments that put a layer where the volume lies.

    Parameters
    ----------
    volume : Volume
        Its voxels are not read.

    Returns
    -------
    dict
        ``scale`` and ``translate`` (mm, S A R), ``units``, ``axis_labels``
        and ``metadata``, as every layer type takes them. An oblique grid is
        turned upright about its center.
    """
    scale, translate = _upright(volume.affine, volume.shape)
    return {
        "scale": scale,
        "translate": translate,
        "units": ("mm",) * 3,
        "axis_labels": AXIS_LABELS,
        "metadata": {METADATA_KEY: LayerGeometry.of(volume)},
    }


def volume_to_layer(
    volume: Volume, kind: LayerKind = "image", *, name: str | None = None, **options: Any
) -> LayerTuple:
    """Make a layer data tuple of a volume.

    Parameters
    ----------
    volume : Volume
        The voxels are shared, not copied; booleans become uint8.
    kind : {"image", "labels"}
        Labels need whole numbers.
    name : str, optional
        Name of the layer; by default the file's.
    **options
        Further arguments of the layer, for example ``colormap``.

    Returns
    -------
    tuple
        (data, arguments, kind), as ``napari.layers.Layer.create`` takes it.
    """
    data = volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data
    arguments = {"name": name or volume.name, **layer_geometry(volume)}
    if kind == "image" and "contrast_limits" not in options:
        limits = display_range(data)
        if limits is not None:
            arguments["contrast_limits"] = limits
    return data, {**arguments, **options}, kind


def display_range(data: np.ndarray) -> tuple[float, float] | None:
    """Find what is shown black and white; None if all voxels (S, A, R) have one value."""
    # napari would sort all of them
    sample = data[::DISPLAY_STEP, ::DISPLAY_STEP, ::DISPLAY_STEP]
    low, high = np.percentile(sample, DISPLAY_PERCENTILES).tolist()
    if low == high:
        low, high = float(data.min()), float(data.max())
    return (low, high) if low < high else None


def frames_to_layer(
    frames: Frames, kind: LayerKind = "image", *, name: str | None = None
) -> LayerTuple:
    """Make a layer data tuple of all frames of a file; the first axis counts them.

    Parameters
    ----------
    frames : Frames
        The first frame is read now, each other one when it is shown.
    kind : {"image", "labels"}
    name : str, optional
        Name of the layer; by default the file's.

    Returns
    -------
    tuple
        (data, arguments, kind), as of `volume_to_layer`; the data is a dask array.

    Raises
    ------
    InputError
        When the first frame cannot be read.
    """
    import dask.array
    from dask.delayed import delayed

    first = frames.volume(0)
    _, arguments, _ = volume_to_layer(first, kind, name=name)
    read = delayed(lambda frame: frames.volume(frame).data, pure=False)
    data = dask.array.stack(
        [
            dask.array.from_delayed(read(frame), first.shape, first.data.dtype)
            for frame in range(frames.count)
        ]
    )
    arguments["scale"] = (1.0, *arguments["scale"])
    arguments["translate"] = (0.0, *arguments["translate"])
    arguments["units"] = ("pixel", *arguments["units"])
    arguments["axis_labels"] = (FRAME_LABEL, *arguments["axis_labels"])
    kept = FramesGeometry(first.affine, first.source, frames.warnings, first.shape, frames)
    arguments["metadata"] = {METADATA_KEY: kept}
    return data, arguments, kind


def layer_to_volume(layer: Layer) -> Volume:
    """Read the volume that a layer shows, whichever reader made the layer.

    A layer of our reader, or a layer with its metadata, gives its grid
    exactly. Any other layer, and a layer that was moved or cropped, is placed
    by its own scale, translation and affine, with its axes taken as S, A, R.
    A warning of the volume says so.

    Parameters
    ----------
    layer : napari Image or Labels layer
        Three axes, one channel.

    Raises
    ------
    InputError
        When it is no 3D gray image or labels layer.
    """
    data, meta, _ = layer.as_layer_data_tuple()
    return volume_from_layer_data(data, meta)


def volume_from_layer_data(data: Any, meta: dict[str, Any]) -> Volume:
    """Do as `layer_to_volume` for the (data, meta) that napari hands to a writer.

    The voxels are always `data`, so edits are saved; metadata gives the geometry alone.

    Parameters
    ----------
    data : array-like, shape (S, A, R)
        Voxels of the layer.
    meta : dict
        Arguments of the layer; any of them may be absent.
    """
    called = str(meta.get("name", ""))
    name = f"layer '{called or 'without a name'}'"
    own = called.strip(".")  # a file's name may begin with a dot
    _refuse_other_data(data, meta, name)
    data = np.asarray(data)
    kept = meta.get("metadata", {}).get(METADATA_KEY)
    to_world = _layer_to_world(meta, name)
    if isinstance(kept, LayerGeometry) and kept.shape == data.shape:
        scale, translate = _upright(kept.affine, kept.shape)
        if np.allclose(to_world, _matrix(scale, translate), rtol=1e-5, atol=1e-4):
            return Volume(data, kept.affine, _named(kept.source, own), kept.warnings)
    if not np.isfinite(to_world).all() or abs(np.linalg.det(to_world)) < 1e-9:
        raise InputError(f"{name} has a singular transform: give it a scale in mm.")
    # napari's world axes are S, A, R; the world of a volume is R, A, S.
    to_ras = to_world[[2, 1, 0, 3]]
    volume = volume_from_native(data, to_ras, name=own, warnings=(GRID_OF_LAYER,))
    if isinstance(kept, LayerGeometry) and kept.source.shape == volume.source.shape:
        # Labels that were resampled onto a layer in another voxel order have the scan's grid.
        apart = displacement(kept.source.affine, volume.source.affine, volume.source.shape)
        if apart <= SAME_MM:
            warnings = dict.fromkeys((*volume.warnings, *kept.warnings))
            return replace(volume, warnings=tuple(warnings))
    return volume


def _refuse_other_data(data: Any, meta: dict[str, Any], name: str) -> None:
    """Raise an InputError unless the data is one 3D gray volume."""
    if meta.get("rgb"):
        raise InputError(f"{name} is in color: choose a gray 3D scan.")
    if meta.get("multiscale"):
        raise InputError(f"{name} holds several resolutions: choose a layer that holds one.")
    if np.ndim(data) > 3:
        frames = int(np.prod(np.shape(data)[:-3]))
        raise InputError(
            f"{name} has {np.ndim(data)} axes with {frames} frames: go to the frame you want and "
            "press 'Take this frame'."
        )
    if np.ndim(data) < 3:
        raise InputError(f"{name} is a single 2D image: open the whole 3D scan.")


def spatial_part(
    data: Any, meta: dict[str, Any], frame: tuple[int, ...] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Take the last three axes of a layer's data and arguments, where that is possible.

    Of several resolutions the finest is taken. Axes before the last three are
    dropped when they have one step, or when a frame is given. Data that cannot be
    reduced so (colors, fewer axes, several frames, a transform that mixes
    space with another axis) is returned as it is. A frame of a file that our
    reader opened keeps its place in that file.

    Parameters
    ----------
    data, meta
        As of ``layer.as_layer_data_tuple()``.
    frame : tuple of int, optional
        Index along each axis before the last three.

    Raises
    ------
    InputError
        When the file of the frame has changed.
    """
    meta = dict(meta)
    if meta.get("multiscale"):
        data, meta["multiscale"] = data[0], False
    extra = np.ndim(data) - 3
    if meta.get("rgb") or extra <= 0:
        return data, meta
    if frame is None:
        if any(size != 1 for size in np.shape(data)[:extra]):
            return data, meta
        frame = (0,) * extra
    affine, rotate = np.asarray(meta["affine"]), np.asarray(meta["rotate"])
    mixed = any(m[:extra, extra:-1].any() or m[extra:, :extra].any() for m in (affine, rotate))
    if mixed or np.any(meta["shear"]):
        return data, meta
    del meta["shear"]
    meta["affine"], meta["rotate"] = affine[extra:, extra:], rotate[extra:, extra:]
    for key in ("scale", "translate", "units", "axis_labels"):
        meta[key] = tuple(meta[key])[extra:]
    # clipping planes have the layer's number of axes
    meta.pop("experimental_clipping_planes", None)
    metadata = dict(meta.get("metadata", {}))
    kept = metadata.get(METADATA_KEY)
    if isinstance(kept, FramesGeometry):
        del metadata[METADATA_KEY]
        if np.shape(data)[:extra] == (kept.frames.count,):  # else their frames are unknown
            metadata[METADATA_KEY] = kept.at(*frame)
        meta["metadata"] = metadata
    return data[frame], meta


def same_place(one: dict[str, Any], other: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether the arguments of two layers put every voxel of a grid at the same place.

    Parameters
    ----------
    one, other
        Arguments of two layers, as of ``layer.as_layer_data_tuple()``.
    shape : tuple of int
        Shape of the voxels; only three axes have a place in space.
    """
    if len(shape) != 3 or any(len(meta.get("scale", (1, 1, 1))) != 3 for meta in (one, other)):
        return False
    try:
        there = [_layer_to_world(meta, "") for meta in (one, other)]
    except InputError:  # a unit of another kind than length
        return False
    s, a, r = shape
    return displacement(there[0], there[1], (s, a, r)) <= SAME_MM


def _named(source: Source, name: str) -> Source:
    """Name a source that has neither file nor series after its layer."""
    return replace(source, name=name) if source.path is None and not source.series else source


def _upright(
    affine: np.ndarray, shape: tuple[int, int, int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute diagonal scale and translation (S, A, R) that keep the volume's center in place."""
    scale = np.array(voxel_spacing(affine))
    center = (np.asarray(shape) - 1) / 2
    world = (affine[:3, :3] @ center + affine[:3, 3])[::-1]
    return tuple(scale.tolist()), tuple((world - scale * center).tolist())


def _matrix(scale: tuple[float, ...], translate: tuple[float, ...]) -> np.ndarray:
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = translate
    return matrix


def _layer_to_world(meta: dict[str, Any], name: str) -> np.ndarray:
    """Compute the matrix (4, 4) from layer index to napari world, in mm for units of length."""
    from napari.utils.transforms import Affine

    parts = {key: meta[key] for key in ("scale", "translate", "rotate", "shear") if key in meta}
    matrix = np.asarray(Affine(**parts, ndim=3).affine_matrix, dtype=np.float64)
    if meta.get("affine") is not None:
        matrix = np.asarray(meta["affine"], dtype=np.float64) @ matrix
    return np.diag([*_units_in_mm(meta.get("units"), name), 1.0]) @ matrix


def _units_in_mm(units: Any, name: str) -> tuple[float, ...]:
    import pint

    registry = pint.get_application_registry()
    if units is None:
        return (1.0,) * 3
    units = (units,) * 3 if isinstance(units, str) else tuple(units)
    factors = []
    for unit in units:
        if str(unit) == "pixel":
            factors.append(1.0)  # napari's default means no unit
            continue
        try:
            factors.append(float(registry.Quantity(1, str(unit)).to("mm").magnitude))
        except (pint.DimensionalityError, pint.UndefinedUnitError) as error:
            raise InputError(f"{name} has an axis in {unit}: give it units of length.") from error
    return tuple(factors)
