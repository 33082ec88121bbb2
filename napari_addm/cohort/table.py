"""Cases out of a CSV or TSV file."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.files import OWN_TABLES
from napari_addm.cohort.names import find_collisions, name_problem
from napari_addm.errors import InputError
from napari_addm.io.names import stem
from napari_addm.outputs.portable_names import LONGEST_PATH, longest_path

# The names that a column may have.
COLUMNS = {
    "case": ("case", "name", "id"),
    "scan": ("scan", "input", "path"),
    "truth": ("truth", "ground_truth"),
    "mask": ("mask", "brain_mask"),
}
INPUTS = ("truth", "mask")
# What R and BIDS write where there is nothing.
NOTHING = ("na", "n/a", "nan")


class Row(NamedTuple):
    """A line of a table; `values` by the keys of `COLUMNS`."""

    number: int
    values: Mapping[str, str]
    problem: str


def read_table(path: Path, output: Path) -> list[CohortCase]:
    """Read the cases of a table; see `napari_addm.cohort.find.find_cohort`.

    A line that cannot be understood is a case with a problem, and the others are run.

    Raises
    ------
    InputError
        When the table cannot be understood, or two of its cases could not be told apart.
    """
    _check_no_output(path, output)
    rows = [row for row in _read_rows(path) if any(row.values.values()) or row.problem]
    shared = _shared_folder(rows, path.parent)
    cases = []
    for row in rows:
        try:
            if row.problem:
                raise InputError(row.problem)
            cases.append(_case_of_row(row.values, path.parent, shared, output))
        except InputError as error:
            name = row.values["case"] or row.values["scan"] or f"line {row.number}"
            problem = f"line {row.number} of {path.name}: {error}"
            given = _short(" ".join(row.values["scan"].split()))
            cases.append(CohortCase(_short(name), given, path, problem=problem))
    _check_names(path, cases, [row.number for row in rows])
    return cases


def _check_no_output(table: Path, output: Path) -> None:
    """Refuse a table that the batch itself would write over."""
    if table.parent.resolve() == output.resolve() and OWN_TABLES.fullmatch(table.name.lower()):
        raise InputError(
            f"{table} is the input, and the batch writes a table of that name into its output "
            "folder: rename the input, or choose another output folder."
        )


def _read_rows(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table: save it as CSV in UTF-8.") from error
    before = 0
    if said := re.match(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n)', text, re.IGNORECASE):  # Excel's
        delimiter, text, before = said[1], text[said.end() :], 1
    else:
        first = re.split(r"[\r\n]", text, maxsplit=1)[0]
        delimiter = max(",;\t", key=re.sub(r'"[^"]*"', "", first).count)
    lines = _split(path, text, delimiter, before)
    header = next((cells for _, cells in lines if any(cells)), [])
    names = [name.strip().lower() for name in header]
    columns = {
        key: next((names.index(name) for name in known if name in names), None)
        for key, known in COLUMNS.items()
    }
    if columns["scan"] is None:
        raise InputError(f"{path} has no column scan: name the column with the scans so.")
    for place in columns.values():
        if place is not None and names.count(names[place]) > 1:
            raise InputError(f"{path} has the column {names[place]} twice: keep one of them.")
    for number, cells in lines:
        values = {
            key: cells[place].strip() if place is not None and place < len(cells) else ""
            for key, place in columns.items()
        }
        values |= {key: "" for key in INPUTS if values[key].lower() in NOTHING}
        problem = ""
        if any(cell.strip() for cell in cells[len(header) :]):
            problem = (
                f"it has {len(cells)} cells, the header {len(header)}; put a cell with {delimiter} "
                "in it between quotation marks."
            )
        yield Row(number, values, problem)


def _split(path: Path, text: str, delimiter: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """Split a table into cells; with the line that each row begins in."""
    limit = csv.field_size_limit(len(text) + 1)  # a long cell is its row's problem alone
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows, number = [], 0
        for cells in reader:
            rows.append((number + before + 1, cells))
            if reader.line_num - number > 1 and any("\n" in cell for cell in cells):
                raise csv.Error("line break")
            number = reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path}, line {number + before + 1} cannot be read: a quotation mark is missing or "
            "one too many, or a cell has a line break."
        ) from error
    finally:
        csv.field_size_limit(limit)
    yield from rows


def _as_path(folder: Path, text: str) -> Path:
    """The path that a cell names, also as Windows writes it."""
    path = folder / text
    return folder / text.replace("\\", "/") if "\\" in text and not os.path.lexists(path) else path


def _slashed(text: str) -> PurePosixPath:
    """A path of any system with slashes, without a drive."""
    return PurePosixPath(re.sub(r"^[A-Za-z]:(?=/)", "", text.replace("\\", "/")))


def _shared_folder(rows: Sequence[Row], folder: Path) -> PurePosixPath:
    """The folder that cases without a name are named from, if their paths are absolute."""
    own = _slashed(os.path.abspath(folder))
    paths = [_slashed(row.values["scan"]) for row in rows if not row.values["case"]]
    parents = [path.parent for path in paths if path.is_absolute()]
    if all(own in (path, *path.parents) for path in parents):
        return own
    return PurePosixPath(os.path.commonpath(parents))


def _name_of_scan(text: str, shared: PurePosixPath) -> PurePosixPath:
    """The scan's path as a name of its case, within the output folder."""
    path = _slashed(text)
    if shared in path.parents:
        path = path.relative_to(shared)
    return PurePosixPath(*(part for part in path.parts if part not in ("/", "//", "..", ".")))


def _case_of_row(
    values: Mapping[str, str], folder: Path, shared: PurePosixPath, output: Path
) -> CohortCase:
    if not values["scan"]:
        raise InputError("there is no scan; fill the cell or remove the line.")
    scan, name = _as_path(folder, values["scan"]), _name_of_scan(values["scan"], shared)
    if not name.name or scan.name in ("", "..") or "\0" in "".join(values.values()):
        raise InputError(f"{values['scan'][:80]!r} names no scan; give the name of a file.")
    given = values["case"] or str(name.with_name(stem(Path(name))))
    parts = PurePosixPath(given).parts
    if not parts or given.startswith("/") or any(_is_unsafe(part) for part in parts):
        raise InputError(
            f"the case cannot be named {_short(given)!r}; use letters, digits, - and _."
        )
    given = str(PurePosixPath(*parts))
    truth, mask = (_as_path(folder, values[key]) if values[key] else None for key in INPUTS)
    case = CohortCase(given, values["scan"], scan, truth, mask, root=given)
    if problem := name_problem(case):
        raise InputError(
            f"the case {_short(given)} cannot be written, {problem}; give it another name in the "
            "column case, or its scan another one."
        )
    length = longest_path([*case.inputs.values(), *case.paths(output).values()])
    if length > LONGEST_PATH:
        raise InputError(
            f"the case {_short(given)} has a path of {length} bytes, where a system takes "
            f"{LONGEST_PATH}; use shorter names."
        )
    return case


def _is_unsafe(part: str) -> bool:
    return part.startswith(".") or not part.isprintable() or any(c in part for c in '\\:*?"<>|')


def _check_names(path: Path, cases: Sequence[CohortCase], lines: Sequence[int]) -> None:
    """Refuse a table with cases that could not be told apart."""
    for one, other, why in find_collisions(cases):
        where = f"{path}, lines {lines[one]} and {lines[other]}"
        first, second = _short(cases[one].name), _short(cases[other].name)
        if cases[one].name == cases[other].name:
            raise InputError(
                f"{where}: the table names the case {first} twice; give each line another name in "
                "case."
            )
        raise InputError(
            f"{where}: the cases {first} and {second} cannot be told apart, {why}; give one of "
            "them another name in the column case."
        )


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."
