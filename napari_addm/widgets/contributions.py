"""Readers, writers and sample data that the manifest ``napari.yaml`` names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm.errors import InputError
from napari_addm.io.demo import DEMO_SCAN, DEMO_TRUTH
from napari_addm.io.kinds import looks_like_labels
from napari_addm.io.names import names_labels, readable_suffixes, stem
from napari_addm.io.reading import Frames, read_labels, read_volume
from napari_addm.io.writing import write_volume
from napari_addm.widgets.layers import (
    LayerKind,
    LayerTuple,
    frames_to_layer,
    volume_from_layer_data,
    volume_to_layer,
)
from napari_addm.widgets.several_layers import (
    FullLayer,
    is_ours,
    is_volume,
    with_suffix,
    write_beside,
    write_into,
)
from napari_addm.widgets.texts import as_written
from napari_addm.widgets.titles import name_of_scan

if TYPE_CHECKING:
    from napari_addm.io.dicom import Series

STACK = (
    "Each scan is opened as a layer of its own, on its own grid: for a stack, merge them with "
    "'Merge to Stack' of the layer list."
)
PathOrPaths = str | Sequence[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """Return the reader if all files have a suffix of brain scans, else None."""
    paths = _paths(path)
    if not paths or not all(p.name.lower().endswith(readable_suffixes()) for p in paths):
        return None
    return read_layers


def get_dicom_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """Return the reader for a folder of DICOM images, or for one DICOM image, else None."""
    from napari_addm.io.dicom import holds_dicom
    from napari_addm.io.dicom_header import is_dicom

    paths = _paths(path)
    if len(paths) == 1 and (holds_dicom if paths[0].is_dir() else is_dicom)(paths[0]):
        return read_dicom
    return None


def read_dicom(path: PathOrPaths) -> list[LayerTuple]:
    """Read a DICOM series as a layer: that of an image, or the only series or T1 of a folder.

    Raises
    ------
    InputError
        When a folder has several series.
    """
    from napari_addm.io.dicom import series_at

    (place,) = _paths(path)
    try:
        series = series_at(place)
    except InputError as error:
        words = str(error).replace("choose one with --series", "open an image of the right one")
        raise InputError(words) from error
    layer, warnings = read_series_layer(series)
    warn_of(layer, warnings)
    return [layer]


def read_layers(path: PathOrPaths) -> list[LayerTuple]:
    """Read one or more files as layers, and show their warnings.

    A file becomes a labels layer if its voxels look like labels (see
    `napari_addm.io.kinds.looks_like_labels`). A file of several frames becomes one layer, which
    reads each frame when it is shown. Files do not become a stack.
    """
    from napari.utils.notifications import show_warning

    layers: list[LayerTuple] = []
    paths = _paths(path)
    if len(paths) > 1:  # napari gives several paths for a stack only
        show_warning(STACK)
    for file in paths:
        layer, warnings = read_layer(file)
        layers.append(layer)
        warn_of(layer, warnings)
    return layers


def warn_of(layer: LayerTuple, warnings: tuple[str, ...]) -> None:
    """Show the warnings of a file that became a layer."""
    from napari.utils.notifications import show_warning

    if warnings:
        show_warning(as_written(f"{layer[1]['name']}: {' '.join(warnings)}"))


def read_series_layer(series: Series) -> tuple[LayerTuple, tuple[str, ...]]:
    """Read a DICOM series as a layer with its description as the name; gives its warnings, too."""
    from napari_addm.io.dicom_volume import read_series

    volume = read_series(series)
    return volume_to_layer(volume, name=series.title), volume.warnings


def write_image(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save an image layer's voxels as they are now, on the scan's own grid.

    Parameters
    ----------
    path : str
        napari asks before it replaces a file. The file that the layer was read from is never
        replaced. A name without a suffix gets ``.nii.gz``.
    data : array-like, shape (S, A, R)
        Voxels of the layer.
    meta : dict
        The other arguments of the layer, with its geometry.

    Returns
    -------
    list of str
        The written file.
    """
    file = with_suffix(Path(path))
    asked = file == Path(path)
    return [str(write_volume(file, volume_from_layer_data(data, meta), overwrite=asked))]


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the present voxels of a labels layer; see `write_image`."""
    return write_image(path, data, meta)


def write_several(path: str, layers: list[FullLayer]) -> list[str]:
    """Save several layers as NIfTI beside each other, each on its own grid.

    Parameters
    ----------
    path : str
        Its folder gets the files; each has the name of its layer, behind that of the path.
    layers : list of (data, meta, kind)
        Those without voxels, or with other axes than three, are named in a warning.

    Returns
    -------
    list of str
        The files.
    """
    from napari.utils.notifications import show_info, show_warning

    files, others = write_beside(Path(path), layers)
    if others:
        show_warning(as_written(f"Not saved: {' '.join(others)}"))
    if not files:
        raise InputError(f"None of these layers can be saved as NIfTI. {' '.join(others)}")
    show_info(as_written(f"Saved {', '.join(file.name for file in files)} in {files[0].parent}"))
    return [str(file) for file in files]


def write_folder(path: str, layers: list[FullLayer]) -> list[str]:
    """Save several layers into a folder: scans, labels and results as NIfTI on their grids.

    All else, and all layers where none is ours, is saved as napari itself does.
    """
    from npe2 import PluginManager

    volumes = [each for each in layers if is_volume(each)] if any(map(is_ours, layers)) else []
    others = [each for each in layers if not any(each is volume for volume in volumes)]
    files = [str(file) for file in write_into(Path(path), volumes)]
    if others:
        run = PluginManager.instance().commands.execute
        files += run("napari.write_directory", (path, others))
    return files


def demo_case() -> list[LayerTuple]:
    """Read the bundled case: a T1 of a healthy brain with a simulated lesion, and its mask."""
    return [read_layer(path)[0] for path in (DEMO_SCAN, DEMO_TRUTH)]


def _paths(path: PathOrPaths) -> list[Path]:
    return [Path(path)] if isinstance(path, str | os.PathLike) else [Path(p) for p in path]


def read_layer(path: Path) -> tuple[LayerTuple, tuple[str, ...]]:
    """Read a file as a layer; gives its warnings, too."""
    frames = Frames(path)
    if frames.count == 1:
        volume = read_volume(path, constant=names_labels(path))
        if not looks_like_labels(volume.data, path):
            return volume_to_layer(volume, "image", name=name_of_scan(path)), volume.warnings
        volume = read_labels(path)
        return volume_to_layer(volume, "labels", name=stem(path)), volume.warnings
    kind: LayerKind = "image"
    if looks_like_labels(frames.volume(0).data, path):
        frames, kind = Frames(path, labels=True), "labels"
    name = stem(path) if kind == "labels" else name_of_scan(path)
    return frames_to_layer(frames, kind, name=name), frames.warnings
