"""Cases out of a CSV or TSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

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


def read_table(path: Path, output: Path) -> list[CohortCase]:
    """Read the cases of a table; see `napari_addm.cohort.find.find_cohort`.

    Raises
    ------
    InputError
        When the table cannot be understood, or two of its cases could not be told apart.
    """
    _check_no_output(path, output)
    cases: list[CohortCase] = []
    lines: list[int] = []
    for number, values in _read_rows(path):
        if any(values.values()):
            cases.append(_case_of_row(f"{path}, line {number}", values, path.parent, output))
            lines.append(number)
    _check_names(path, cases, lines)
    return cases


def _check_no_output(table: Path, output: Path) -> None:
    """Refuse a table that the batch itself would write over."""
    if table.parent.resolve() == output.resolve() and OWN_TABLES.fullmatch(table.name.lower()):
        raise InputError(
            f"{table} is the input, and the batch writes a table of that name into its output "
            "folder: rename the input, or choose another output folder."
        )


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows by the keys of `COLUMNS`, with their line numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table: save it as CSV in UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num + 1} cannot be read ({error}): save it as CSV in UTF-8."
        ) from error
    given = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    columns = {
        key: next((given[name] for name in names if name in given), None)
        for key, names in COLUMNS.items()
    }
    if columns["scan"] is None:
        raise InputError(f"{path} has no column scan: name the column with the scans so.")
    for number, row in rows:
        yield (
            number,
            {
                key: (row.get(name) or "").strip() if name is not None else ""
                for key, name in columns.items()
            },
        )


def _case_of_row(line: str, values: Mapping[str, str], folder: Path, output: Path) -> CohortCase:
    """A case out of its row; `line` names the row in errors."""
    if not values["scan"]:
        raise InputError(f"{line}: there is no scan; fill the cell or remove the line.")
    scan = folder / values["scan"]
    relative = PurePosixPath(
        *(part for part in PurePosixPath(values["scan"]).parts if part not in ("/", "..", "."))
    )
    if not relative.name or "\0" in "".join(values.values()):
        raise InputError(f"{line}: {values['scan']!r} names no scan; give the name of a file.")
    given = values["case"] or str(relative.with_name(stem(scan)))
    parts = PurePosixPath(given).parts
    if not parts or given.startswith("/") or any(_is_unsafe(part) for part in parts):
        raise InputError(
            f"{line}: the case cannot be named {given!r}; use letters, digits, - and _."
        )
    name = str(PurePosixPath(*parts))
    truth, mask = (folder / values[key] if values[key] else None for key in ("truth", "mask"))
    case = CohortCase(name, values["scan"], scan, truth, mask, root=name)
    if problem := name_problem(case):
        raise InputError(
            f"{line}: the case {_short(given)} cannot be written, {problem}; give it another "
            "name in the column case, or its scan another one."
        )
    length = longest_path([*case.inputs.values(), *case.paths(output).values()])
    if length > LONGEST_PATH:
        raise InputError(
            f"{line}: the case {_short(given)} has a path of {length} bytes, where a system "
            f"takes {LONGEST_PATH}; use shorter names."
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
