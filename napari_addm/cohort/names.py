"""Names of cases: each has one of its own, so that no result is confused with another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.files import OWN_TABLES
from napari_addm.io.names import stem
from napari_addm.outputs.portable_names import path_problem, readable, same_name_key


def name_problem(case: CohortCase) -> str:
    """Why the files of a case cannot be written under its name; empty if they can."""
    if case.skip:
        return ""
    paths: list[PurePath] = list(case.paths(Path()).values())
    first = paths[0].parts[0].lower()
    if problem := path_problem([*paths, PurePath(case.name), PurePath(f".{case.prefix}.lock")]):
        return problem
    return f"the batch writes {first} itself" if OWN_TABLES.fullmatch(first) else ""


def find_collisions(cases: Sequence[CohortCase]) -> list[tuple[int, int, str]]:
    """Find pairs of cases with results that could not be told apart, and why.

    Names, files and folders are compared as file systems do that ignore upper and lower case, the
    form of accents, and dots and blanks at the end.
    """
    pairs: dict[tuple[int, int], str] = {}
    names: dict[str, int] = {}
    files: dict[str, int] = {}
    folders: dict[str, list[int]] = {}
    for n, case in enumerate(cases):
        if not case.runs:
            continue
        first = names.setdefault(same_name_key(case.name), n)
        if first != n:
            pairs[first, n] = _compare_names(cases[first].name, case.name)
        own = {same_name_key(name): name for name in case.file_names().values()}
        for key, name in own.items():
            first = files.setdefault(key, n)
            if first != n:
                pairs.setdefault((first, n), f"both would have the file {name}")
        for parent in PurePosixPath(next(iter(own))).parents:
            folders.setdefault(str(parent), []).append(n)
    for key in files.keys() & folders.keys():
        for n in folders[key]:
            if n != files[key]:
                pair = (min(n, files[key]), max(n, files[key]))
                pairs.setdefault(pair, "a file of one would lie where the folder of the other is")
    return [(one, other, why) for (one, other), why in sorted(pairs.items())]


def _compare_names(one: str, other: str) -> str:
    if one == other:
        return f"both would be called {one}"
    return (
        "their names are one where upper and lower case, the form of accents, or dots and blanks "
        "at the end do not count"
    )


def with_own_names(
    cases: Sequence[CohortCase], vanished: Sequence[CohortCase] = ()
) -> list[CohortCase]:
    """Give each case a name of its own, and a problem to those that cannot have one.

    Parameters
    ----------
    cases : sequence of CohortCase
        Scans that differ in their suffix alone keep it in their names.
    vanished : sequence of CohortCase
        Cases of earlier results without a scan. They keep their names, so that those of the
        others do not change with them.
    """
    cases = [replace(case, problem=case.problem or name_problem(case)) for case in cases]
    keys = [same_name_key(_plain_name(case)) for case in cases]
    gone = [_plain_name(case) for case in vanished if case.name != _plain_name(case)]
    seen = Counter(key for case, key in zip(cases, keys, strict=True) if not case.problem)
    seen.update(map(same_name_key, gone))
    named = [
        case if case.problem or seen[key] == 1 else with_suffix(case)
        for case, key in zip(cases, keys, strict=True)
    ]
    named = _with_collisions(named)
    taken = {case.name for case in named}
    named += [case for case in vanished if case.name not in taken]
    return sorted(with_own_rows(named), key=lambda case: case.name)


def _with_collisions(cases: Sequence[CohortCase]) -> list[CohortCase]:
    """Name in the problem of each case the others that it cannot be told apart from."""
    problems: dict[int, list[str]] = {}
    for one, other, why in find_collisions(cases):
        for mine, theirs in ((one, other), (other, one)):
            problems.setdefault(mine, []).append(
                f"cannot be told apart from {readable(cases[theirs].input)}, {why}: rename one of "
                "the two"
            )
    return [
        replace(case, problem=_first_of(problems[n])) if n in problems else case
        for n, case in enumerate(cases)
    ]


def _first_of(problems: Sequence[str]) -> str:
    more = f" (and from {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + more


def _plain_name(case: CohortCase) -> str:
    """Its name without the suffix that distinguishes it from a sibling."""
    if case.name.rpartition("/")[2] == case.scan.name:
        return str(PurePosixPath(case.name).with_name(stem(case.scan)))
    return case.name


def with_suffix(case: CohortCase) -> CohortCase:
    """The case with the suffix of its scan in its name."""
    name = str(PurePosixPath(case.name).with_name(case.scan.name))
    if case.file_stem:  # its name was completed from its folders
        name = case.file_stem + case.scan.name[len(stem(case.scan)) :]
    return replace(case, name=name, root=name if case.root == case.name else case.root)


def with_own_rows(cases: Sequence[CohortCase]) -> Iterator[CohortCase]:
    """Name the rows of cases that are not run by their inputs if their names are taken."""
    count = Counter(case.name for case in cases)
    taken = {case.name for case in cases if case.runs}
    for case in cases:
        if not case.runs:
            wanted = readable(case.name if count[case.name] == 1 else case.input)
            name = _free_name(wanted, taken)
            taken.add(name)
            case = replace(
                case, name=name, input=readable(case.input), problem=readable(case.problem)
            )
        yield case


def _free_name(wanted: str, taken: Iterable[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted} ({number})"
    return name
