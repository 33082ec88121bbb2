"""The cases of a folder, a BIDS dataset, a pattern, a table or a single scan.

Generators that walk through folders yield None where they have found nothing, so that a search
can be stopped at any time.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath

from napari_addm.cohort.case import OUTPUT_ENDINGS, CohortCase
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.folder import CohortFolder, PlannedCase
from napari_addm.cohort.names import with_own_names, with_suffix
from napari_addm.cohort.table import read_table
from napari_addm.errors import InputError
from napari_addm.io.names import (
    is_second_half,
    names_labels,
    readable_suffixes,
    readable_titles,
    stem,
)
from napari_addm.outputs.naming import complete_bids, is_bids

REPORT_SECONDS = 0.15


def find_cohort(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[CohortCase]:
    """Find the cases of an input; none of the scans is opened.

    Parameters
    ----------
    source : path or str
        A BIDS dataset (only its T1w images are taken), any other folder (searched with the
        folders in it), a CSV or TSV of cases, a single scan, or a glob pattern. A table needs the
        column ``scan`` and may have ``case``, ``truth`` and ``mask``; paths in it are relative to
        its folder.
    output : path
        The folder for the results; its files are never an input of a folder or a pattern.

    Returns
    -------
    list of CohortCase
        Sorted by name, each with its own; also those that are skipped, with the reason.

    Raises
    ------
    InputError
        When there is no case, or a table cannot be understood.
    """
    search = search_cohort(source, output)
    while True:
        try:
            next(search)
        except StopIteration as end:
            return list(end.value)


def search_cohort(
    source: str | os.PathLike[str], output: str | os.PathLike[str]
) -> Generator[int, None, list[CohortCase]]:
    """`find_cohort` that can be stopped, and that reports its progress.

    Yields
    ------
    int
        The number of cases so far, several times a second while folders are searched.
    """
    output = Path(output)
    found, from_input = _search(source, output)
    cases: list[CohortCase] = []
    reported = time.monotonic()
    for case in found:
        if case is not None:
            cases.append(case)
        if time.monotonic() - reported > REPORT_SECONDS:
            yield len(cases)
            reported = time.monotonic()
    if all(case.skip for case in cases):
        raise InputError(
            f"{source} holds no scan: give a folder or a pattern of {readable_titles()} files, a "
            "BIDS dataset, or a CSV with the column scan."
        )
    if _is_table(Path(source)):
        return sorted(cases, key=lambda case: case.name)
    return with_own_names(cases, _vanished(cases, output, from_input) if from_input else [])


def _search(
    source: str | os.PathLike[str], output: Path
) -> tuple[Iterable[CohortCase | None], Callable[[str], CohortCase] | None]:
    """What finds the cases, and what makes a case out of its input, if more can come and go."""
    path = Path(source)
    if _is_table(path):
        return read_table(path, output), None
    if path.is_dir():
        if path.resolve() == output.resolve():
            raise InputError(f"{path} is input and output at once: choose another output folder.")
        if _is_bids_dataset(path):
            return _from_bids(path), partial(_bids_case, path)
        return _from_folder(path, output), partial(_plain_case, path)
    if path.exists():
        return [_plain_case(path.parent, path.name)], None
    if glob.has_magic(str(source)):
        fixed = takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
        base = Path(*fixed)
        return _from_pattern(str(source), base, output), partial(_plain_case, base)
    raise InputError(f"{path} does not exist: check the name and the folder.")


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


# --- BIDS ----------------------------------------------------------------------------------------


def _is_bids_dataset(folder: Path) -> bool:
    return (folder / "dataset_description.json").is_file() or any(
        True for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for _ in folder.glob(pattern)
    )


def _from_bids(root: Path) -> Iterator[CohortCase | None]:
    for folder in sorted([*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")]):
        yield None
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            yield _unreadable_folder(folder, root, error)
            continue
        for path in paths:
            name = path.name.lower()
            if name.endswith((".nii", ".nii.gz")) and not name.startswith("."):
                yield _bids_case(root, path.relative_to(root).as_posix())


def _bids_case(root: Path, input: str) -> CohortCase:
    """A scan of a BIDS dataset; its folders complete subject and session in its name."""
    path = root / input
    name, contradiction = complete_bids(stem(path), PurePosixPath(input).parent)
    suffix = name.rpartition("_")[2]
    skip = ""
    if suffix != "T1w":
        skip = f"not a T1w image ({suffix})"
    elif re.search(r"_ce-[0-9A-Za-z]+", name):
        skip = "a T1w image after contrast agent (ce-); the model knows those without"
    return CohortCase(
        name=name.removesuffix("_T1w"),
        input=str(PurePosixPath(input)),
        scan=path,
        skip=skip,
        file_stem="" if name == stem(path) else name,
        problem="" if skip else contradiction,
    )


# --- folders and patterns ------------------------------------------------------------------------


def _from_folder(root: Path, output: Path) -> Iterator[CohortCase | None]:
    closed: list[OSError] = []
    for folder, inside, names in os.walk(root, onerror=closed.append):
        here = Path(folder)
        inside[:] = sorted(
            name
            for name in inside
            if not name.startswith(".")
            # neither these results nor those of another batch
            and not os.path.isdir(here / name / HIDDEN)
            and (here / name).resolve() != output.resolve()
        )
        for name in sorted(names):
            path = here / name
            is_scan = _may_be_scan(path)
            yield _plain_case(root, path.relative_to(root).as_posix()) if is_scan else None
        yield None
    for error in closed:
        if error.filename != str(root):
            yield _unreadable_folder(Path(error.filename), root, error)


def _unreadable_folder(folder: Path, root: Path, error: OSError) -> CohortCase:
    """A folder of the input that cannot be read, as a row that says so."""
    name = folder.relative_to(root).as_posix()
    reason = f"the folder cannot be read ({error.strerror or error})"
    return CohortCase(name=name, input=name, scan=folder, skip=reason)


def _from_pattern(pattern: str, base: Path, output: Path) -> Iterator[CohortCase | None]:
    inside = output.resolve()
    matches: set[str] = set()  # a pattern may match a file several times
    for match in glob.iglob(pattern, recursive=True):
        matches.add(os.path.normpath(match))
        yield None
    for match in sorted(matches):
        path = Path(match)
        of_output = inside in Path(os.path.realpath(path)).parents
        if _may_be_scan(path) and not path.is_dir() and not of_output:
            input = PurePosixPath(Path(os.path.relpath(path, base)).as_posix())
            yield _plain_case(path.parent, path.name, input)


def _may_be_scan(path: Path) -> bool:
    name = path.name.lower()
    if name.startswith(".") or name.endswith(OUTPUT_ENDINGS):
        return False
    return name.endswith(readable_suffixes()) and not is_second_half(path)


def _plain_case(root: Path, name: str, input: PurePosixPath | None = None) -> CohortCase:
    """A scan of any other folder; `input` is `name` by default."""
    path, input = root / name, input or PurePosixPath(name)
    case = str(input.with_name(stem(path)))
    return CohortCase(
        name=case,
        input=str(input),
        scan=path,
        # BIDS names bring folders of their own
        root=str(input.parent) if is_bids(stem(path)) else case,
        skip="named as labels, not as a scan" if names_labels(path) else "",
    )


# --- cases of earlier runs -----------------------------------------------------------------------


def _vanished(
    cases: Sequence[CohortCase], output: Path, from_input: Callable[[str], CohortCase]
) -> list[CohortCase]:
    """Find cases of earlier runs that are done, but have no scan now.

    A scan may be missing for a moment, such as on a share that is not mounted. If none of the
    scans of the earlier runs is there, this is another cohort.
    """
    folder = CohortFolder(output)
    rows = [row for plan in folder.read_plans() for row in plan.cases if not row.skip]
    inputs, names = {case.input for case in cases}, {case.name for case in cases}
    if not any(row.input in inputs for row in rows):
        return []
    found: dict[str, CohortCase] = {}
    for row in rows:
        if row.input in inputs or row.case in names or row.case in found:
            continue
        case = _planned_case(row, from_input)
        if case is None or (os.path.lexists(case.scan) and not case.scan.is_dir()):
            continue
        if _is_done(folder, case):
            found[case.name] = case
    return list(found.values())


def _planned_case(row: PlannedCase, from_input: Callable[[str], CohortCase]) -> CohortCase | None:
    """The case of a row of a plan; None if the row cannot be that of a case of this input."""
    path = PurePosixPath(row.input)
    leads_out = path.is_absolute() or ".." in path.parts
    if row.problem or leads_out or not path.name or "\0" in row.input:
        return None
    try:
        case = from_input(row.input)
    except ValueError:  # no path has this name
        return None
    if case.name != row.case:
        case = with_suffix(case)
    return case if case.name == row.case and case.runs else None


def _is_done(folder: CohortFolder, case: CohortCase) -> bool:
    """Whether a case has a result with all its files."""
    state = folder.states.read(case)
    return (
        state is not None
        and state.done
        and not state.other
        and all(os.path.lexists(folder.path / file) for file in state.result.files)
    )
