"""Titles of scans on the screen, which differ for two files of the same name.

Free of Qt. Names in files come from `napari_addm.outputs.naming` instead, because the name of a
folder may be a patient's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm.io.names import stem
from napari_addm.widgets.layers import METADATA_KEY, LayerGeometry

if TYPE_CHECKING:
    from napari.layers import Layer

_GENERIC = """
3d 4d acq anat anatomical anatomy axial bet brain brainmask conformed contrast copy cor coronal
corrected cropped data defaced dicom dwi echo final flair frame fspgr gad gd gre head image images
img imgs input iso label labels lesion lesions map mask masks mni mni152 mp2rage mprage mr mri n4
nifti norm normalised normalized nu orig original out output pd preprocessed raw registered
resampled result results run sag sagittal scans se seg segmentation series ses session skull
spgr stripped structural swi t1 t2 timepoint tp truth unknown untitled visit vol volume weighted
whole
"""
# Words of file and folder names that describe an image, not a person.
GENERIC = frozenset(_GENERIC.split())
PARTS = re.compile(r"[^\w]|_")
# A word with a number, such as scan2; or a number that is too short to identify a person.
SHORT = re.compile(r"([a-z]*?)\d{0,2}")
CONTRAST = re.compile(r"t[12](w|n|c|ce|gd|k|map|star|post|pre|weighted|brain|mprage)?")
MILLIMETERS = re.compile(r"\d+(p\d+)?mm")
# napari's suffix of a second layer of the same name.
COUNTED = re.compile(r" \[\d+\]$")
# The most folders in a title.
LEVELS = 3


def is_generic(name: str) -> bool:
    """Return whether a file or folder name, such as ``t1`` or ``anat``, identifies no scan."""
    for word in filter(None, PARTS.split(name.lower())):
        short = SHORT.fullmatch(word)
        known = word in GENERIC or (short is not None and short[1] in ("", *GENERIC))
        if not (known or CONTRAST.fullmatch(word) or MILLIMETERS.fullmatch(word)):
            return False
    return True


def folder_of(path: Path) -> str:
    """Return the folder of a file, with its parents up to one that is not generic."""
    folders: list[str] = []
    for folder in path.absolute().parents:
        if not folder.name or len(folders) == LEVELS:
            break
        folders.insert(0, folder.name)
        if not is_generic(folder.name):
            break
    return "/".join(folders)


def name_of_scan(path: Path) -> str:
    """Return the name of a scan's new layer: its file's, with the folder if that is generic."""
    name = stem(path)
    folder = folder_of(path) if is_generic(name) else ""
    return f"{name} ({folder})" if folder else name


def path_of(layer: Layer) -> Path | None:
    """Return the file, or one of the files, that a layer was read from by any plugin."""
    kept = layer.metadata.get(METADATA_KEY)
    if isinstance(kept, LayerGeometry):
        return _file_of(kept)
    read = layer.source.path
    return None if read is None else Path(read)


def title_of(layer: Layer, quote: str = "") -> str:
    """Return a layer's name, in optional quotes, with its folder unless the name has it."""
    path, name = path_of(layer), str(layer.name)
    folder = "" if path is None else folder_of(path)
    held = re.search(rf"(?<!\w){re.escape(folder)}(?!\w)", name) is not None
    quoted = f"{quote}{name}{quote}"
    return f"{quoted} ({folder})" if folder and not held else quoted


def without_folder(name: str, metadata: Mapping[str, Any]) -> str:
    """Return a layer's name for files, without its folder's, which may be a patient's.

    Parameters
    ----------
    name : str
    metadata : mapping
        Of the layer.
    """
    kept = metadata.get(METADATA_KEY)
    path = _file_of(kept) if isinstance(kept, LayerGeometry) else None
    return name if path is None else name.replace(f" ({folder_of(path)})", "")


def _file_of(kept: LayerGeometry) -> Path | None:
    return kept.source.path or next(iter(kept.source.series), None)


def plain_name(layer: Layer) -> str:
    """Return a layer's name without napari's number of a second layer of that name."""
    return COUNTED.sub("", str(layer.name))
