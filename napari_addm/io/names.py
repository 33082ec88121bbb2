"""File names of scans: their suffixes, their two halves, and what their words say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari_addm.errors import InputError
from napari_addm.registry import FORMATS

# Words that name a label file in BIDS, nnU-Net, BraTS, FreeSurfer and our own outputs, and words
# that name a scan. Where a file name has several, the last one decides.
LABEL_WORDS = {
    *("annotation", "aparc", "aseg", "atlas", "brainmask", "dseg", "label", "labels", "lesion"),
    *("lesions", "mask", "parc", "ribbon", "roi", "seg", "segmentation", "truth", "wmparc"),
}
SCAN_WORDS = {
    *("anomaly", "flair", "pd", "recon", "t1", "t1c", "t1ce", "t1gd", "t1w", "t2", "t2w"),
    "uncertainty",
    "brightness",
}
# Headers of NRRD that name another file for their voxels: refused, but known by name.
OTHER_SUFFIXES = (".nhdr",)


def installed_formats() -> Iterable[Any]:
    """Return the file formats that can be loaded, the built-in ones first."""
    return FORMATS.usable().values()


def readable_suffixes() -> tuple[str, ...]:
    """Return how names of readable files end, in lower case."""
    return tuple(suffix for each in installed_formats() for suffix in each.suffixes)


def readable_titles() -> str:
    """Return the names of the formats in words, such as ``MGZ, NIfTI or NRRD``."""
    *titles, last = (each.title for each in installed_formats())
    return f"{', '.join(titles)} or {last}"


def stem(path: Path) -> str:
    """Return a file name without its imaging suffix: ``scan`` for ``scan.nii.gz``."""
    suffix = find_suffix(path, (*readable_suffixes(), *OTHER_SUFFIXES))
    return path.name[: -len(suffix)] if suffix and len(path.name) > len(suffix) else path.stem


def find_suffix(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """Return the longest of some suffixes with which a file name ends."""
    name = path.name.lower()
    return max((each for each in suffixes if name.endswith(each)), key=len, default=None)


def header_file(path: Path) -> Path:
    """Return the file of a scan's header: another one where `path` holds voxels alone.

    Raises
    ------
    InputError
        When that other half is missing.
    """
    for each in installed_formats():
        suffix = find_suffix(path, each.voxel_suffixes)
        if suffix is None:
            continue
        header = other_half(path)
        if header is None:
            missing = path.name[: -len(suffix)] + each.header_suffixes[0]
            raise InputError(f"{path} lacks its other half {missing}: put both in one folder.")
        return header
    return path


def other_half(path: Path) -> Path | None:
    """Return the other file of a scan that is stored as two; None where there is none."""
    for each in installed_formats():
        halves = (each.header_suffixes, each.voxel_suffixes)
        for own, others in (halves, halves[::-1]):
            suffix = find_suffix(path, own)
            if suffix is not None:
                base = path.name[: -len(suffix)]
                beside = (path.with_name(base + other) for other in others)
                there = (half for half in beside if half.exists() or half.is_symlink())
                return next(there, None)
    return None


def is_second_half(path: Path) -> bool:
    """Return whether a file holds the voxels of a header that lies beside it."""
    is_voxels = any(find_suffix(path, each.voxel_suffixes) for each in installed_formats())
    return is_voxels and other_half(path) is not None


def names_labels(path: Path) -> bool:
    """Return whether a file's name says that it holds labels, such as a mask, and no scan."""
    telling = [word for word in _words(path) if word in LABEL_WORDS | SCAN_WORDS]
    return bool(telling) and telling[-1] in LABEL_WORDS


def names_scan(path: Path) -> bool:
    """Return whether a file's name ends in a word of a scan, as names in BIDS do."""
    return _words(path)[-1] in SCAN_WORDS


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z0-9]+", stem(path).lower())
