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
from dataclasses import replace
from functools import partial
from itertools import groupby, takewhile
from pathlib import Path, PurePosixPath

from napari_addm.cohort.case import OUTPUT_ENDINGS, CohortCase
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.folder import CohortFolder, PlannedCase
from napari_addm.cohort.names import with_own_names, with_own_rows, with_suffix
from napari_addm.cohort.pairs import pair_masks
from napari_addm.cohort.table import read_table
from napari_addm.cohort.walk import Entry, match, walk
from napari_addm.errors import InputError
from napari_addm.io.names import (
    is_second_half,
    names_labels,
    readable_suffixes,
    readable_titles,
    stem,
)
from napari_addm.outputs.naming import ENDINGS, complete_bids, is_bids
from napari_addm.outputs.portable_names import readable

REPORT_SECONDS = 0.15
# A name that ends so is that of labels. Of other names that labels have, such as T1_ROI, a scan may
# have one as well, and the voxels decide when they are read.
CLEAR_WORDS = (
    *("annotation", "aparc", "aseg", "atlas", "dseg", "label", "labels", "mask", "parc", "ribbon"),
    *("seg", "segmentation", "wmparc"),
)


def find_cohort(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[CohortCase]:
    """Find the cases of an input; no voxels of the scans are read.

    A mask beside a scan of a folder is its ground truth; see `napari_addm.cohort.pairs`.

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
    cases = yield from pair_masks(cases)
    if all(case.skip for case in cases):
        raise InputError(_no_scan(source, cases))
    if _is_table(Path(source)):
        return sorted(with_own_rows(cases), key=lambda case: case.name)
    return with_own_names(cases, _vanished(cases, output, from_input) if from_input else [])


def _no_scan(source: str | os.PathLike[str], skipped: Sequence[CohortCase]) -> str:
    if not skipped:
        return (
            f"{source} holds no scan: give a folder or a pattern of {readable_titles()} files, a "
            "BIDS dataset, or a CSV with the column scan."
        )
    first, more = skipped[0], len(skipped) - 1
    if first.input == ".":
        return f"{source} holds no scan: {first.skip}."
    others = f", and {more} more are left out" if more else ""
    return f"{source} holds no scan: {readable(first.input)} is left out ({first.skip}){others}."


def _search(
    source: str | os.PathLike[str], output: Path
) -> tuple[Iterable[CohortCase | None], Callable[[str], CohortCase] | None]:
    """What finds the cases, and what makes a case out of its input, if more can come and go."""
    path = Path(source)
    if _is_table(path):
        return read_table(path, output), None
    if os.path.isdir(path):
        if os.path.realpath(path) == os.path.realpath(output):
            raise InputError(f"{path} is input and output at once: choose another output folder.")
        if _is_bids_dataset(path):
            return _from_bids(path), partial(_bids_case, path)
        return _from_folder(path, output), partial(_plain_case, path)
    if os.path.lexists(path):
        return [replace(_plain_case(path.parent, path.name), searched=False, skip="")], None
    if glob.has_magic(str(source)):
        fixed = [*takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])]
        base = Path(*fixed)
        parts = [part for part, _ in groupby(path.parts[len(fixed) :])]  # ** twice is ** once
        return _from_pattern(base, parts, output), partial(_plain_case, base)
    reason = "does not exist: check the name and the folder"
    try:
        path.lstat()
    except PermissionError as error:
        reason = f"cannot be opened ({error.strerror}): check the permissions"
    except (OSError, ValueError):
        pass
    raise InputError(f"{path} {reason}.")


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv") and os.path.isfile(path)


def _left_out(entry: Entry, root: Path) -> CohortCase:
    """A file or folder of the input that is left out, as a row that says so."""
    name = PurePosixPath(os.path.relpath(entry.path, root)).as_posix()
    return CohortCase(name=name, input=name, scan=entry.path, skip=entry.skip)


# --- BIDS ----------------------------------------------------------------------------------------


def _is_bids_dataset(folder: Path) -> bool:
    return os.path.isfile(folder / "dataset_description.json") or any(
        entry is not None and entry.kind == "folder" and not entry.skip
        for parts in (("sub-*", "anat"), ("sub-*", "ses-*", "anat"))
        for entry in match(folder, parts)
    )


def _from_bids(root: Path) -> Iterator[CohortCase | None]:
    left_out: dict[Path, Entry] = {}
    for parts in (("sub-*", "anat", "*"), ("sub-*", "ses-*", "anat", "*")):
        for entry in match(root, parts):
            if entry is None or not entry.path.name.lower().endswith(readable_suffixes()):
                if entry is not None and entry.skip and entry.kind != "other":
                    left_out[entry.path] = entry
                yield None
            elif entry.kind == "other":
                yield _left_out(entry, root)
            else:
                yield _bids_case(root, entry.path.relative_to(root).as_posix())
    for entry in left_out.values():
        yield _left_out(entry, root)


def _bids_case(root: Path, input: str) -> CohortCase:
    """A scan of a BIDS dataset; its folders complete subject and session in its name."""
    path = root / input
    name, contradiction = complete_bids(stem(path), PurePosixPath(input).parent)
    suffix = name.rpartition("_")[2]
    skip = _why_no_plain_t1w(name)
    if suffix != "T1w":
        skip = f"not a T1w image ({suffix})"
    elif not path.name.lower().endswith((".nii", ".nii.gz")):
        skip = "no NIfTI, the format of BIDS"
    return CohortCase(
        name=name.removesuffix("_T1w"),
        input=str(PurePosixPath(input)),
        scan=path,
        skip=skip,
        file_stem="" if name == stem(path) else name,
        problem="" if skip else contradiction,
    )


def _why_no_plain_t1w(name: str) -> str:
    """Why a scan with this name in BIDS is not what the model knows; empty if it is."""
    if re.search(r"_ce-[0-9A-Za-z]+", name):
        return "a T1w image after contrast agent (ce-); the model knows those without"
    if part := re.search(r"_part-(phase|real|imag)(?=_)", name):
        return f"the {part[1]} part of a T1w image, not its magnitude"
    return ""


# --- folders and patterns ------------------------------------------------------------------------


def _from_folder(root: Path, output: Path) -> Iterator[CohortCase | None]:
    own = os.path.realpath(output)

    def leave_out(folder: Path) -> str:
        if os.path.realpath(folder) == own:
            return "the output folder"
        return "the output folder of another batch" if os.path.isdir(folder / HIDDEN) else ""

    for entry in walk(root, leave_out):
        if entry is None or (entry.kind == "folder" and os.path.realpath(entry.path) == own):
            yield None
        else:
            yield _case_of_entry(entry, root)


def _from_pattern(base: Path, parts: Sequence[str], output: Path) -> Iterator[CohortCase | None]:
    own = os.path.join(os.path.realpath(output), "")
    matches: dict[str, Entry] = {}  # a pattern may match a file several times
    for entry in match(base, parts):
        if entry is not None:
            matches[os.path.normpath(entry.path)] = entry
        yield None
    for path in sorted(matches):
        entry = matches[path]._replace(path=Path(path))
        yield None if f"{os.path.realpath(path)}/".startswith(own) else _case_of_entry(entry, base)


def _case_of_entry(entry: Entry, root: Path) -> CohortCase | None:
    """The row of a file or folder; None for what nobody expects to be a scan."""
    path, name = entry.path, entry.path.name.lower()
    if entry.kind == "folder":
        return _left_out(entry, root) if entry.skip else None
    if name.startswith("."):
        return None
    if not name.endswith(readable_suffixes()):
        # A link without a suffix may have led to a folder of scans.
        return _left_out(entry, root) if entry.kind == "lost" and not path.suffix else None
    if entry.kind == "other":
        return _left_out(entry, root)
    if is_second_half(path):
        return None
    return _plain_case(root, Path(os.path.relpath(path, root)).as_posix())


def _plain_case(root: Path, name: str) -> CohortCase:
    """A scan of any other folder."""
    path, input = root / name, PurePosixPath(name)
    case = str(input.with_name(stem(path)))
    return CohortCase(
        name=case,
        input=str(input),
        scan=path,
        # BIDS names bring folders of their own
        root=str(input.parent) if is_bids(stem(path)) else case,
        skip=_why_no_scan(path),
        searched=True,
    )


def _why_no_scan(path: Path) -> str:
    """Why a file is no scan to run, judging by its name; empty if it may be one."""
    name = path.name.lower()
    if name.endswith(OUTPUT_ENDINGS):
        if not name.endswith("_recon.nii.gz"):
            return "named as a result of napari-addm, not as a scan"
        record = path.name[: -len("_recon.nii.gz")] + ENDINGS["record"]
        if os.path.lexists(path.with_name(record)):
            return "a result of napari-addm"
    if names_labels(path) and stem(path).lower().endswith(CLEAR_WORDS):
        return "named as labels, not as a scan"
    return _why_no_plain_t1w(stem(path)) if is_bids(stem(path)) else ""


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
