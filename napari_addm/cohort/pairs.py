"""Masks that lie beside the scans of a folder, taken as their ground truth.

``t1.nii.gz`` has ``mask.nii.gz``, ``lesion_mask.nii.gz`` or ``t1_seg.nii.gz`` beside it, and
``s1_t1.nii.gz`` has ``s1_lesion.nii.gz``. The name pairs them, and the voxels tell a lesion from a
brain mask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_addm.cohort.case import CohortCase
from napari_addm.errors import AddmError
from napari_addm.io.names import LABEL_WORDS, SCAN_WORDS, names_labels, stem
from napari_addm.io.reading import read_grid, read_labels
from napari_addm.outputs.naming import ENDINGS

# Words of labels that are no lesions, and what a name has that says so.
OTHER_LABELS = {"annotation", "aparc", "aseg", "atlas", "brainmask", "parc", "ribbon", "wmparc"}
TRUTH_WORDS = LABEL_WORDS - OTHER_LABELS
# A larger mask, or one of a larger share of the image, may be that of a brain.
LARGEST_ML = 400.0
LARGEST_SHARE = 0.2
TOO_LARGE = "named as labels, and of {:.0f} mL: too large for the ground truth of a scan"
# More different values are those of a map, such as a probability, of which any part would count.
MOST_LABELS = 100
TOO_MANY = "named as labels, and of {} different values: a map, and no ground truth of a scan"
OWN_LABELS = "a result of napari-addm"


def pair_masks(cases: Sequence[CohortCase]) -> Generator[int, None, list[CohortCase]]:
    """Give scans that a search has found the masks beside them as ground truth.

    A mask has to be the only one for its scan, to lie on the scan's voxels, to hold labels of a
    person, and to be too small for a brain mask.

    Returns
    -------
    list of CohortCase
        The cases without the masks that are taken.

    Yields
    ------
    int
        The number of cases, for each mask, so that a search can be stopped.
    """
    scans: dict[tuple[str, tuple[str, ...]], list[CohortCase]] = {}
    folders: dict[str, list[CohortCase]] = {}
    masks: list[CohortCase] = []
    own: dict[str, CohortCase] = {}
    for case in cases:
        if case.searched and not case.problem and _may_be_truth(case.scan):
            if _is_own_result(case.scan):
                own[case.name] = replace(case, skip=OWN_LABELS)
            else:
                masks.append(case)
        elif case.searched and case.runs:
            folders.setdefault(_folder(case), []).append(case)
            scans.setdefault((_folder(case), _person(case.scan)), []).append(case)
    wanted: dict[str, list[CohortCase]] = {}
    changed = own
    for mask in masks:
        yield len(cases)
        folder, person = _folder(mask), _person(mask.scan)
        beside = scans.get((folder, person), [])
        if not beside and not person and len(folders.get(folder, ())) == 1:
            beside = folders[folder]
        if not beside:
            continue
        on_scan, why_not = _fitting(mask.scan, beside)
        if why_not:
            changed[mask.name] = replace(mask, skip=why_not)
        for scan in on_scan:
            wanted.setdefault(scan.name, []).append(mask)
    only = {name: found[0] for name, found in wanted.items() if len(found) == 1}
    taken = {mask.name for mask in only.values()}
    for case in cases:
        if case.name in only:
            changed[case.name] = replace(case, truth=only[case.name].scan, truth_found=True)
    return [changed.get(case.name, case) for case in cases if case.name not in taken]


def _folder(case: CohortCase) -> str:
    return os.path.dirname(case.input)


def _words(path: Path) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", stem(path).lower()) if word]


def _may_be_truth(path: Path) -> bool:
    """Whether a name is that of a lesion's mask, and not of a brain's."""
    words = _words(path)
    named = names_labels(path) and words[-1] in TRUTH_WORDS
    return named and not any("brain" in word or word in OTHER_LABELS for word in words)


def _is_own_result(path: Path) -> bool:
    """Whether these are findings of a run, which has left its record beside them."""
    name = path.name
    base = name.removesuffix(ENDINGS["labels"])
    return base != name and os.path.lexists(path.with_name(base + ENDINGS["record"]))


def _person(path: Path) -> tuple[str, ...]:
    """What a name says without the words of labels and scans at its end."""
    words = _words(path)
    while words and words[-1] in TRUTH_WORDS | SCAN_WORDS:
        words.pop()
    return tuple(words)


def _fitting(mask: Path, scans: Sequence[CohortCase]) -> tuple[list[CohortCase], str]:
    """The scans on whose voxels a mask lies, and why it is no ground truth of any."""
    try:
        labels = read_labels(mask)
    except AddmError:
        return [], ""
    marked = labels.data != 0
    ml = float(marked.sum()) * labels.voxel_ml
    if ml > LARGEST_ML or marked.mean() > LARGEST_SHARE:
        return [], TOO_LARGE.format(ml)
    count = len(np.unique(labels.data[marked]))
    if count > MOST_LABELS:
        return [], TOO_MANY.format(count)
    fitting = []
    for scan in scans:
        try:
            if read_grid(scan.scan).same_grid(labels):
                fitting.append(scan)
        except AddmError:  # the case itself says what is wrong
            continue
    return fitting, ""
