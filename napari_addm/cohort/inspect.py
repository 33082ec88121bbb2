"""A cohort before it is run: the headers of its cases, and the results of an earlier run.

Voxels are read only of files whose names may be those of labels, and nothing is written, so
thousands of cases take seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from napari_addm.cohort.case import NO_SCAN, CaseResult, CohortCase
from napari_addm.cohort.files import check_answers
from napari_addm.cohort.folder import CohortFolder
from napari_addm.detection.quality import QualityFlag, grid_flags
from napari_addm.errors import AddmError, InputError
from napari_addm.io.arrays import voxel_spacing
from napari_addm.io.kinds import why_no_scan
from napari_addm.io.names import names_labels, stem
from napari_addm.io.reading import read_grid, read_volume
from napari_addm.io.resampling import check_same_grid

# Words of FreeSurfer and FSL, and how SPM and CAT begin the names of tissue maps.
MAP_WORDS = {"csf", "filled", "gm", "prob", "probseg", "pve", "pveseg", "wm"}
SPM = re.compile(r"m?w?[cp][0-6]")


@dataclass(frozen=True)
class InspectedCase:
    """What is known of a case before it is run.

    Attributes
    ----------
    shape : tuple of int or None
        Voxels (i, j, k), as the file stores them; None if the header cannot be read.
    spacing : tuple of float or None
        Spacing along the same axes, mm.
    flags : tuple of QualityFlag
        Quality flags out of the header; a run may raise more.
    problem : str
        Why it will fail, judging by the headers; empty for most.
    earlier : CaseResult or None
        Its result in the output folder. A run checks by content whether it is still valid.
    planned : bool
        Whether the last run in the output folder included it.
    """

    case: CohortCase
    shape: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    flags: tuple[QualityFlag, ...] = ()
    problem: str = ""
    earlier: CaseResult | None = None
    planned: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether a run included it, and did not finish it."""
        return self.planned and self.earlier is None


def inspect_cohort(
    cases: Iterable[CohortCase],
    output: str | os.PathLike[str],
    *,
    frame: int | None = None,
    resample: bool = False,
) -> Iterator[InspectedCase]:
    """Read each case's headers, and its result in the output folder.

    Parameters
    ----------
    output : path
        It need not exist.
    frame, resample
        As in `napari_addm.cohort.batch.BatchSettings`.

    Yields
    ------
    InspectedCase
        One for each case, in their order; nothing is read of a case that is skipped.
    """
    folder = CohortFolder(output)
    try:
        planned = {row.case for plan in folder.latest_plans() for row in plan.cases}
    except InputError:
        planned = set()
    for case in cases:
        found = InspectedCase(case, problem=case.problem)
        if case.runs:
            found = replace(found, earlier=_earlier(folder, case), planned=case.name in planned)
            found = _with_headers(found, frame, resample)
        yield found


def _earlier(folder: CohortFolder, case: CohortCase) -> CaseResult | None:
    """The result of a case in the output folder, with the reason of the last run."""
    state = folder.states.read_own(case)
    if state is None or state.result.status == "skipped":
        return None  # there is none, or its writing was cut off
    return state.later.row(state.result) if state.later else state.result


def _with_headers(found: InspectedCase, frame: int | None, resample: bool) -> InspectedCase:
    case = found.case
    try:
        for given in case.inputs.values():
            check_answers(given)
        grid = read_grid(case.scan, frame=frame)
        found = replace(
            found,
            shape=grid.source.shape,
            spacing=voxel_spacing(grid.source.affine),
            flags=tuple(grid_flags(grid)),
        )
        for path in filter(None, (case.truth, case.mask)):
            labels = read_grid(path)
            if not resample:
                check_same_grid(labels, grid, "resample it to bring it there")
        if case.searched and found.earlier is None and _may_be_no_scan(case.scan):
            volume = read_volume(case.scan, frame=frame, constant=True)
            if kind := why_no_scan(volume.data, case.scan):
                return replace(found, case=replace(case, skip=NO_SCAN.format(kind)))
    except AddmError as error:
        return replace(found, problem=case.shorten_paths(str(error)))
    return found


def _may_be_no_scan(path: Path) -> bool:
    """Whether a name is one that labels and maps of tissues have, too."""
    words = re.split(r"[^a-z0-9]+", stem(path).lower())
    return names_labels(path) or not MAP_WORDS.isdisjoint(words) or bool(SPM.match(words[0]))
