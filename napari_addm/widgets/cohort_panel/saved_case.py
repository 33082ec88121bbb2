"""What a batch has saved of a case, read for the viewer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.review import finish_saving
from napari_addm.errors import AddmError, InputError
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.resampling import resample_labels
from napari_addm.io.volume import Volume
from napari_addm.outputs.record import read_record
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.review import CaseReview, read_review
from napari_addm.widgets.run_layers import voxel_type

MAPS = {
    "recon": "reconstruction",
    "anomaly": "anomaly",
    "brightness": "brightness",
    "uncertainty": "uncertainty",
}
"""Roles of result layers by the keys of a case's files, in the order of the layers."""
WORDS = {
    "recon": "reconstruction",
    "anomaly": "anomaly map",
    "brightness": "brightness map",
    "uncertainty": "uncertainty map",
}
NOT_ALWAYS = ("brightness", "uncertainty")


@dataclass(frozen=True)
class CaseVersion:
    """Identifies one result of a case, and the layers that show it.

    Attributes
    ----------
    output : str
        The folder of the results.
    case : str
    key : str
        Hash of scan, model and settings; empty while the case is not done.
    """

    output: str
    case: str
    key: str


@dataclass(frozen=True, eq=False)
class SavedCase:
    """The content of a case's files.

    Attributes
    ----------
    version : CaseVersion
    scan : Volume
    maps : dict of str to ndarray
        By the roles of `napari_addm.widgets.layer_registry.TITLES`, on the scan's voxels.
    labels : ndarray of int or None
    truth : Volume or None
        On the scan's voxels.
    threshold : float
        Of the findings; 0 if it is not known.
    place : tuple of int
        A voxel (s, a, r) in the middle of the largest finding, or of the scan.
    notes : tuple of str
        What is missing, or cannot be shown.
    review : CaseReview or None
        None where there are no findings to decide on.
    """

    version: CaseVersion
    scan: Volume
    maps: dict[str, np.ndarray]
    labels: np.ndarray | None
    truth: Volume | None
    threshold: float
    place: tuple[int, ...]
    notes: tuple[str, ...]
    review: CaseReview | None = None


def read_case(
    case: CohortCase, output: Path, frame: int | None
) -> Iterator[CaseVersion | CaseReview | SavedCase]:
    """Read a case; a generator for `napari_addm.widgets.jobs.Job`.

    Yields
    ------
    CaseVersion
        First, so that the layers of a case that is open need not be read; then after each file,
        so that reading can stop.
    CaseReview
        Before the maps, which a case that is open has already.
    SavedCase

    Raises
    ------
    AddmError
        When the scan cannot be read. The notes name results that cannot.
    """
    state = CohortFolder(output).states.read_own(case)
    if state is not None and state.deciding:
        state = finish_saving(output, case, state)
    if state is not None and state.result.status == "failed":
        raise InputError(texts.CASE_FAILED.format(case.name, state.result.reason))
    result = state.result if state is not None and state.done else None
    version = CaseVersion(str(output), case.name, "" if result is None else result.key)
    yield version
    scan = read_volume(case.scan, frame=frame)
    notes: list[str] = []
    maps: dict[str, np.ndarray] = {}
    labels, threshold, review = None, 0.0, None
    if result is None:
        notes.append("It has no results yet.")
    else:
        paths = case.paths(output)
        found = _read_beside(paths["labels"], "anomalies", scan, notes)
        if found is not None:
            # The layer gets an array of its own, which a person may paint in.
            labels = np.array(found.data, voxel_type("labels"), order="C")
            try:
                review = read_review(case, output, result, scan, found.data)
            except AddmError as error:
                notes.append(f"Its findings cannot be decided on: {error}")
            else:
                yield review
        for key in _written_maps(paths, output, result):
            found = _read_beside(paths[key], WORDS[key], scan, notes)
            if found is not None:
                role = MAPS[key]
                maps[role] = np.ascontiguousarray(found.data, voxel_type(role))
            yield version
        threshold = _read_threshold(paths["record"])
    truth = _read_truth(case, scan, notes)
    yield version
    place = _place_to_look(labels, scan.shape)
    yield SavedCase(version, scan, maps, labels, truth, threshold, place, tuple(notes), review)


def _written_maps(paths: dict[str, Path], output: Path, result: CaseResult) -> list[str]:
    """Return the keys of the maps to read: those of `NOT_ALWAYS` only if the run wrote them."""
    names = {key: paths[key].relative_to(output).as_posix() for key in MAPS}
    return [key for key in MAPS if key not in NOT_ALWAYS or names[key] in result.files]


def _read_beside(path: Path, what: str, scan: Volume, notes: list[str]) -> Volume | None:
    """Read a saved map that lies on the scan's voxels; None, and a note, if there is none."""
    if not path.exists():
        notes.append(f"There is no {what}: {path.name} is missing.")
        return None
    try:
        is_labels = what == "anomalies"
        found = read_labels(path) if is_labels else read_volume(path, constant=True)
    except AddmError as error:
        notes.append(str(error).replace(str(path), path.name))
        return None
    if not found.same_grid(scan):
        notes.append(f"{path.name} lies on other voxels than the scan: run the batch again.")
        return None
    return found


def _read_truth(case: CohortCase, scan: Volume, notes: list[str]) -> Volume | None:
    if case.truth is None:
        return None
    try:
        truth = read_labels(case.truth)
        if not truth.same_grid(scan):
            truth = resample_labels(truth, scan)
    except AddmError as error:
        notes.append(case.shorten_paths(str(error)))
        return None
    return scan.with_data((truth.data != 0).astype(np.uint8), truth.warnings)


def _read_threshold(record: Path) -> float:
    """Read the threshold of the findings; only the contrast of the map depends on it."""
    try:
        return read_record(record).threshold
    except AddmError:
        return 0.0


def _place_to_look(labels: np.ndarray | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    if labels is not None:
        voxels = np.argwhere(labels == 1)
        if len(voxels):
            distances = np.linalg.norm(voxels - voxels.mean(axis=0), axis=1)
            return tuple(voxels[np.argmin(distances)].tolist())
    return tuple(n // 2 for n in shape)
