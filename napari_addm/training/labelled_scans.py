"""Scans to measure a model on: healthy ones, and ones with a ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from napari_addm.detection.brain_mask import find_brain, strip_skull
from napari_addm.errors import InputError, describe_problem
from napari_addm.io.dicom import holds_dicom, pick_series
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.hashing import sha256
from napari_addm.io.names import stem
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.resampling import check_same_grid
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume
from napari_addm.training.data import find_scans

Name = Annotated[str, Field(max_length=255, pattern=r"^[^/\\\x00-\x1f]+$")]
Split = dict[str, dict[str, list[Name]]]
SPLIT: TypeAdapter[Split] = TypeAdapter(Split)


@dataclass(frozen=True)
class LabelledScan:
    """A scan to measure on.

    Attributes
    ----------
    group : str
        Such as ``tumour/test``; ``healthy/calibration`` has no ground truth.
    """

    group: str
    name: str
    scan: Path
    truth: Path | None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the bytes of scan and truth."""
        return sha256(*(path.read_bytes() for path in (self.scan, self.truth) if path))

    @cached_property
    def volume(self) -> Volume:
        """The scan; that of a folder is its T1 in DICOM."""
        return read_series(pick_series(self.scan)) if self.scan.is_dir() else read_volume(self.scan)

    @cached_property
    def brain(self) -> NDArray[np.bool_]:
        """The brain mask on the scan's grid, shape (S, A, R)."""
        brain = find_brain(self.volume)
        return strip_skull(self.volume) if brain is None else brain

    @cached_property
    def lesion(self) -> NDArray[np.bool_]:
        """The truth on the scan's grid, shape (S, A, R).

        Raises
        ------
        InputError
            If it lies on another grid.
        """
        if self.truth is None:
            return np.zeros(self.volume.shape, bool)
        labels = read_labels(self.truth)
        check_same_grid(labels, self.volume)
        return np.asarray(labels.data > 0)

    @property
    def shown_slice(self) -> int:
        """Slice with most of the lesion."""
        return int(self.lesion.sum(axis=(1, 2)).argmax())

    def forget(self) -> None:
        """Free the memory of the voxels."""
        for name in ("volume", "brain", "lesion"):
            self.__dict__.pop(name, None)


def find_healthy(folders: Sequence[Path]) -> list[LabelledScan]:
    """Find healthy scans, one folder for each scanner.

    Raises
    ------
    InputError
        If a folder holds no scan, or two have the same name.
    """
    names = [printable(folder.resolve().name, 100) for folder in folders]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"Two folders are named {printable(min(twice), 60)}: name each after its scanner."
        )
    return [
        LabelledScan(name, stem(scan), scan, None)
        for name, folder in zip(names, folders, strict=True)
        for scan in _scans_in(folder)
    ]


def _scans_in(folder: Path) -> list[Path]:
    """The scans in a folder and below it, or else its folders that hold DICOM, one a person."""
    try:
        return find_scans(folder)
    except InputError:
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        series = [path for path in found if path.is_dir() and holds_dicom(path)]
        if not series:
            raise
        return series


def find_cases(data: Path, split: Mapping[str, Any]) -> list[LabelledScan]:
    """Find the scans of a benchmark folder.

    Parameters
    ----------
    data : path
        Holds ``healthy/SUBJECT*`` scans, and any number of folders of labelled
        cases, ``FOLDER/CASE/{t1,mask}.nii.gz``.
    split : mapping
        ``split["healthy"]["calibration"]`` names healthy subjects that nothing was
        trained on; ``split[FOLDER]`` may have the lists ``validation`` and ``test``.
        A folder without an entry is for testing alone.

    Raises
    ------
    InputError
        If there is nothing to measure, or nothing to choose thresholds on.
    """
    calibration = split.get("healthy", {}).get("calibration", ())
    scans = [_healthy_scan(data / "healthy", subject) for subject in calibration]
    for folder in sorted(p for p in data.iterdir() if p.is_dir() and p.name != "healthy"):
        scans += _labelled_scans(folder, split.get(folder.name, {}))
    if not any(scan.group.endswith("/validation") for scan in scans):
        raise InputError(
            f"{data}: no labelled validation cases, so no threshold can be chosen; name some in "
            "split.json, as in tumour.validation."
        )
    return scans


def _healthy_scan(folder: Path, subject: str) -> LabelledScan:
    scans = sorted(folder.glob(f"{escape(subject)}_*.nii*"))
    if not scans:
        raise InputError(
            f"{folder}: there is no scan of {printable(subject, 60)}; correct split.json."
        )
    return LabelledScan("healthy/calibration", subject, scans[0], None)


def _labelled_scans(folder: Path, parts: Mapping[str, Any]) -> Iterator[LabelledScan]:
    """The cases of a folder that have a ground truth and, where there are parts, are in one."""
    for case in sorted(p for p in folder.iterdir() if p.is_dir()):
        scan = min(case.glob("t1.nii*"), default=None)
        truth = min(case.glob("mask.nii*"), default=None)
        part = next((name for name, members in parts.items() if case.name in members), None)
        if scan is not None and truth is not None and (part is not None or not parts):
            group = folder.name if part is None else f"{folder.name}/{part}"
            yield LabelledScan(group, case.name, scan, truth)


def read_split(path: Path) -> Split:
    """Read the split file of a benchmark folder.

    Raises
    ------
    InputError
        If it is missing, or no JSON object of objects of lists of names.
    """
    try:
        return SPLIT.validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason: object = error
        if isinstance(error, ValidationError):
            reason = describe_problem(error.errors(include_url=False, include_input=False)[0])
        raise InputError(
            f"{path}: cannot be used as a split file ({printable(reason, 200)}); see "
            "the pages 'Train your own' and 'Benchmark' for its form."
        ) from error
