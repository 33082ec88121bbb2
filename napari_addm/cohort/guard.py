"""Checks that a batch replaces only files that it wrote itself, for the same scan."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.files import inside
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.state import CaseState
from napari_addm.errors import AddmError, InputError


class OtherScanError(AddmError):
    """The result in the place of a case belongs to another scan."""


class DecidedError(AddmError):
    """A person has decided on the findings of the result in the place of a case."""


def unreadable(path: Path, error: OSError) -> AddmError:
    """The error for a file that is there and cannot be read."""
    return InputError(f"{error.filename or path} cannot be read ({error.strerror or error})")


def check_same_scan(folder: CohortFolder, case: CohortCase, state: CaseState | None) -> None:
    """Make sure that a state is that of the case's scan, also after the dataset has moved."""
    if state is None or folder.states.is_own(case, state):
        return
    where = folder.path / case.folder if case.folder != "." else "the output folder"
    raise OtherScanError(
        f"{where} has the result of another scan ({state.result.input_name}): move it away, "
        "or choose another output folder"
    )


def check_free(folder: CohortFolder, case: CohortCase, state: CaseState | None) -> None:
    """Make sure that a case would replace only files of this batch that nobody has changed."""
    place = inside(folder.path, case.folder)
    if place is None or (place.exists() and not place.is_dir()):
        raise AddmError(
            f"{case.folder} in the output folder is a link or a file where the folder of the "
            "case has to be: move it, or choose another output folder."
        )
    if state is not None and state.all_ours:
        return
    if state is not None:
        _check_unchanged(folder, state)
        _check_undecided(folder, case, state)
    ours = {} if state is None else state.result.files
    for name in case.file_names().values():
        if name not in ours and os.path.lexists(folder.path / name):
            raise AddmError(
                f"{folder.path / name} exists already and is of no run of this batch: "
                "move it, or choose another output folder."
            )


def _check_undecided(folder: CohortFolder, case: CohortCase, state: CaseState) -> None:
    """Make sure that a run would not replace a person's decisions."""
    decided = state.result.holds_decisions or state.deciding
    if decided and os.path.lexists(folder.path / case.file_names()["record"]):
        raise DecidedError(
            "it holds a person's decisions on findings, which a run would replace: move its files "
            "away to have it done anew, or choose another output folder"
        )


def _check_unchanged(folder: CohortFolder, state: CaseState) -> None:
    try:
        _, changed = folder.states.compare_files(state)
    except OSError as error:
        raise unreadable(folder.path, error) from error
    if changed:
        names = ", ".join(PurePosixPath(name).name for name in changed)
        was, it = ("was", "it") if len(changed) == 1 else ("were", "them")
        raise AddmError(
            f"{names} {was} changed after the batch wrote {it}; move {it} away to have the "
            "case done anew"
        )
