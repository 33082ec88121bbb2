"""How a scan is called on screen, so that two of the same file name can be told apart.

Free of Qt. What is written to files is named in `napari_addm.outputs.naming`, never
here: the name of a folder may be a patient's.
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
# Words of file and folder names that say what a picture is, and not of whom.
GENERIC = frozenset(_GENERIC.split())
PARTS = re.compile(r"[^\w]|_")
# A kind of picture with its number, such as scan2 or T1w; or a number too short for a person's.
SHORT = re.compile(r"([a-z]*?)\d{0,2}")
CONTRAST = re.compile(r"t[12](w|n|c|ce|gd|k|map|star|post|pre|weighted|brain|mprage)?")
MILLIMETRES = re.compile(r"\d+(p\d+)?mm")
# As napari tells layers of one name apart.
COUNTED = re.compile(r" \[\d+\]$")
LEVELS = 3  # of folders, at most


def is_generic(name: str) -> bool:
    """Whether a name of a file or folder says nothing of whose scan it is: ``t1``, ``anat``."""
    for word in filter(None, PARTS.split(name.lower())):
        short = SHORT.fullmatch(word)
        known = word in GENERIC or (short is not None and short[1] in ("", *GENERIC))
        if not (known or CONTRAST.fullmatch(word) or MILLIMETRES.fullmatch(word)):
            return False
    return True


def folder_of(path: Path) -> str:
    """The folder of a file, with those that it lies in until one of them has a name of its own."""
    folders: list[str] = []
    for folder in path.absolute().parents:
        if not folder.name or len(folders) == LEVELS:
            break
        folders.insert(0, folder.name)
        if not is_generic(folder.name):
            break
    return "/".join(folders)


def name_of_scan(path: Path) -> str:
    """How a scan's new layer is called: as its file, with the folder where that says too little."""
    name = stem(path)
    folder = folder_of(path) if is_generic(name) else ""
    return f"{name} ({folder})" if folder else name


def path_of(layer: Layer) -> Path | None:
    """The file, or one of the files, that a layer comes from, whoever has read it."""
    kept = layer.metadata.get(METADATA_KEY)
    if isinstance(kept, LayerGeometry):
        return _file_of(kept)
    read = layer.source.path
    return None if read is None else Path(read)


def title_of(layer: Layer, quote: str = "") -> str:
    """A layer's name, in quotes if wanted, and its file's folder unless the name holds that."""
    path, name = path_of(layer), str(layer.name)
    folder = "" if path is None else folder_of(path)
    held = re.search(rf"(?<!\w){re.escape(folder)}(?!\w)", name) is not None
    quoted = f"{quote}{name}{quote}"
    return f"{quoted} ({folder})" if folder and not held else quoted


def without_folder(name: str, metadata: Mapping[str, Any]) -> str:
    """A layer's name as files may be called: without a folder's, which may be a patient's.

    Parameters
    ----------
    name : str
    metadata : mapping
        The layer's.
    """
    kept = metadata.get(METADATA_KEY)
    path = _file_of(kept) if isinstance(kept, LayerGeometry) else None
    return name if path is None else name.replace(f" ({folder_of(path)})", "")


def _file_of(kept: LayerGeometry) -> Path | None:
    return kept.source.path or next(iter(kept.source.series), None)


def plain_name(layer: Layer) -> str:
    """A layer's name without the number that napari gives the second of a name."""
    return COUNTED.sub("", str(layer.name))
