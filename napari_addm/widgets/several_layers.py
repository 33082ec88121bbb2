"""Several layers saved at once as NIfTI: each on its own grid, under its own name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import take_names
from napari_addm.io.names import find_suffix
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.folder import check_folder, staging_folder
from napari_addm.outputs.portable_names import same_name_key
from napari_addm.widgets.layers import COMPUTED_KEY, METADATA_KEY, volume_from_layer_data

SUFFIXES = (".nii.gz", ".nii")
FullLayer = tuple[Any, dict[str, Any], str]
# What some file system does not take in a name.
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def with_suffix(path: Path) -> Path:
    """Give the path of a NIfTI file its suffix, if it has none."""
    return path if find_suffix(path, SUFFIXES) else path.with_name(f"{path.name}{SUFFIXES[0]}")


def write_beside(path: Path, layers: Iterable[FullLayer]) -> tuple[list[Path], list[str]]:
    """Write layers into the folder of a path, all or none of them.

    A file is named after its layer, behind the path's name where the layer's does not begin so.

    Parameters
    ----------
    path : Path
        What a person gave. Only a file of this very name is replaced: napari has asked about it.
    layers : iterable of (data, meta, kind)

    Returns
    -------
    list of Path
        The files.
    list of str
        Why other layers were not written, one sentence each.
    """
    path = with_suffix(path)
    suffix = find_suffix(path, SUFFIXES) or SUFFIXES[0]
    stem = path.name[: -len(suffix)]
    volumes, others = _volumes(layers)
    names = [name if name.startswith(stem) else f"{stem}_{name}" for name, _ in volumes]
    files = _name_files(path.parent, names, suffix)
    sources = {volume.source.path for _, volume in volumes} - {None}
    _write(files, [volume for _, volume in volumes], {path} - sources)
    return files, others


def write_into(folder: Path, layers: Iterable[FullLayer]) -> list[Path]:
    """Write layers that are volumes into a folder, all or none of them; none is replaced."""
    volumes, _ = _volumes(layers)
    files = _name_files(folder, [name for name, _ in volumes], SUFFIXES[0])
    _write(files, [volume for _, volume in volumes], set())
    return files


def is_ours(layer: FullLayer) -> bool:
    """Whether our reader or a run made a layer, or it is a copy of such a layer."""
    metadata = layer[1].get("metadata", {})
    return METADATA_KEY in metadata or COMPUTED_KEY in metadata


def is_volume(layer: FullLayer) -> bool:
    """Whether a layer can be written as NIfTI."""
    return bool(_volumes([layer])[0])


def _volumes(layers: Iterable[FullLayer]) -> tuple[list[tuple[str, Volume]], list[str]]:
    """Give the volumes of layers by their names, and say what is wrong with the others."""
    volumes, others = [], []
    for data, meta, kind in layers:
        name = str(meta.get("name") or kind)
        if kind not in ("image", "labels"):
            others.append(f"'{name}' holds no voxels: save it alone.")
            continue
        try:
            volumes.append((FORBIDDEN.sub("_", name), volume_from_layer_data(data, meta)))
        except InputError as error:
            others.append(str(error))
    return volumes, others


def _name_files(folder: Path, names: list[str], suffix: str) -> list[Path]:
    """Name files, so that every file system can tell them apart."""
    files: dict[str, Path] = {}
    for name in names:
        name = name.strip(". ") or "layer"
        path, count = folder / f"{name}{suffix}", 1
        while same_name_key(path.name) in files:
            count += 1
            path = folder / f"{name}_{count}{suffix}"
        files[same_name_key(path.name)] = path
    return list(files.values())


def _write(files: list[Path], volumes: list[Volume], replaceable: set[Path]) -> None:
    if not files:
        return
    folder = files[0].parent
    for path in files:
        if path.exists() and path not in replaceable:
            raise AddmError(f"{path} exists already: choose another name or folder.")
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder) as staging:
        renames = {path: staging / path.name for path in files}
        for volume, staged in zip(volumes, renames.values(), strict=True):
            write_volume(staged, volume)
        take_names(renames)
