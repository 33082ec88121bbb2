"""A cohort: which cases an input holds, and the folder that keeps what became of each of them.

The folder of a batch holds one folder of files per case, ``manifest.csv``, and ``.batch/``: the
plan of the run (parameters and cases) and one small state file per case. A state file is written
last, with the hashes of what went in and of what came out, so it is the proof that a case is
done; that a file exists proves nothing. All files take their names when they are whole.

What lies in such a folder may be damaged or another person's, so nothing in it is believed: a plan
or a state that is not of the exact form counts as none, and a state counts only if it names
nothing but files that the case itself would have. No link is followed.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from napari_addm.errors import AddmError, InputError
from napari_addm.io.images import READABLE, names_labels, open_atomic
from napari_addm.io.volume import stem
from napari_addm.outputs.naming import (
    BIDS_ENDINGS,
    ENDINGS,
    LONGEST_PATH,
    case_paths,
    complete_bids,
    is_bids,
    longest_path,
    path_fault,
    readable,
    same_name_key,
)
from napari_addm.outputs.pages import csv_cell

PLAN_VERSION = 1
HIDDEN = ".batch"
TELL_SECONDS = 0.15
MANIFEST = "manifest.csv"
MANIFEST_COLUMNS = (
    "case",
    "input",
    "status",
    "reason",
    "seconds",
    "anomaly_ml",
    "findings",
    "dice",
    "qc",
)
NOT_REACHED = "not reached yet"
NOT_CHOSEN = "not among the cases that this run was limited to"
EARLIER = "from an earlier run, not checked again yet"
OTHER_SETTINGS = "not reached yet; its files are of an earlier run with other settings"
CUT_OFF = "its writing was cut off"
# How the reason of a result begins that is there from an earlier run and could not be checked.
UNCHECKED = "not checked"
# What a batch and its report write beside the cases.
REPORTS = ("report.html", "report.csv", "report.json")
_OWN_TABLES = re.compile(r"manifest(_shard-\d+-of-\d+)?\.csv|report\.(html|csv|json)|\.batch")
# What is half written: of `open_atomic` and `save_detection`, and of the version before.
_PART = re.compile(r"\.[0-9a-f]{32}\.part")
_OLD_PART = re.compile(r"\.[a-z0-9_]{8}\.part")
_SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_JSON = 64 << 20
DEEPEST_JSON = 16

Status = Literal["done", "failed", "skipped"]

# What detect and batch wrote is no scan.
OUR_ENDINGS = (
    *ENDINGS.values(),
    *(f"_desc-{desc}_{ending}".lower() for desc, ending in BIDS_ENDINGS.values()),
)

# What a CSV of cases may call its columns.
COLUMNS = {
    "case": ("case", "name", "id"),
    "scan": ("scan", "input", "path"),
    "truth": ("truth", "ground_truth"),
    "mask": ("mask", "brain_mask"),
}


@dataclass(frozen=True)
class CohortCase:
    """One scan of a cohort.

    Attributes
    ----------
    name : str
        The case's folder under the output folder, with ``/`` between its parts.
    input : str
        The scan as the manifest names it: relative to what was given, so that no folder above
        it is told.
    scan : Path
    truth, mask : Path or None
        Ground truth and brain mask.
    folder : str
        Where `save_detection` is told to write, relative to the output folder;
        all cases of a BIDS dataset share one.
    skip : str
        Why it is not run; empty when it is.
    file_stem : str
        How the names of its files begin, where that is not the scan's own name.
    fault : str
        Why it cannot be run, and counts as failed: its results could not be told from those of
        another case, or its name cannot be written.
    """

    name: str
    input: str
    scan: Path
    truth: Path | None = None
    mask: Path | None = None
    folder: str = ""
    skip: str = ""
    file_stem: str = ""
    fault: str = ""

    @property
    def prefix(self) -> str:
        """How the names of its files begin."""
        return self.file_stem or stem(self.scan)

    @property
    def runs(self) -> bool:
        """Whether it can be run at all."""
        return not self.skip and not self.fault

    def paths(self, output: Path) -> dict[str, Path]:
        """Where its files go, by the keys of `napari_addm.outputs.naming.ENDINGS`."""
        return case_paths(output / self.folder, self.prefix)

    def file_names(self) -> dict[str, str]:
        """Its files as a state names them, relative to the output folder."""
        return {key: path.as_posix() for key, path in self.paths(Path()).items()}

    @property
    def home(self) -> str:
        """The folder that really holds its files; scans of one BIDS session share it."""
        return self.paths(Path())["record"].parent.as_posix()

    @property
    def origin(self) -> dict[str, str]:
        """Hashes of where its scan, truth and mask lie; they tell none of the folders."""
        inputs = {"scan": self.scan, "truth": self.truth, "mask": self.mask}
        return {
            what: hashlib.sha256(os.path.abspath(path).encode(errors="surrogatepass")).hexdigest()
            for what, path in inputs.items()
            if path is not None
        }

    def told(self, text: str) -> str:
        """Words about it in one line, without the folders above its inputs."""
        for path in (self.scan, self.truth, self.mask):
            if path is not None:
                text = text.replace(str(path), path.name)
        return " ".join(text.split())


@dataclass(frozen=True)
class CaseResult:
    """What became of a case; a row of the manifest.

    Attributes
    ----------
    case, input : str
        As in `CohortCase`.
    status : {"done", "failed", "skipped"}
    reason : str
        Why it failed or was skipped.
    seconds : float or None
        Of work on it, without waiting for other cases.
    anomaly_ml : float or None
        Volume of all findings.
    findings : int or None
    dice : float or None
        Against the ground truth, where there is one and it is not empty.
    qc : tuple of str
        Keys of the quality flags; see `napari_addm.detection.quality`.
    metrics : dict
        All metrics by name, empty without a ground truth.
    files : dict of str to str
        SHA-256 of each written file by its path under the output folder.
    key : str
        Hash of input, model and parameters.
    origin : dict of str to str
        Whose result it is: `CohortCase.origin`, and as ``content`` the SHA-256 of the scan. Empty
        in results of earlier versions.
    """

    case: str
    input: str
    status: Status
    reason: str = ""
    seconds: float | None = None
    anomaly_ml: float | None = None
    findings: int | None = None
    dice: float | None = None
    qc: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def unchecked(self) -> bool:
        """Whether it comes from an earlier run and could not be checked in this one."""
        return self.status == "done" and self.reason.startswith(UNCHECKED)


@dataclass(frozen=True)
class CaseState:
    """What the output folder knows of a case.

    Attributes
    ----------
    result : CaseResult
        The last result whose files were written, or else what became of the case.
    parameters : str
        Hash of the parameters that `result` was made with.
    later : CaseResult or None
        The row of a later run that could neither check nor replace `result`.
    later_parameters : str
        Hash of the parameters of that run.
    all_ours : bool
        Whether all files of the case count as ours although `result` does not name them: earlier
        versions did not record which files they were about to write.
    known : dict of str to set of str
        The hashes that each file may have if nobody else has changed it. There are two while a
        run puts a new one in its place.
    other : bool
        Whether the result and its files are those of another scan than the case's.
    """

    result: CaseResult
    parameters: str
    later: CaseResult | None = None
    later_parameters: str = ""
    all_ours: bool = False
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)
    other: bool = False

    def told(self, parameters: str) -> CaseResult:
        """The case's row in the manifest of a run with these parameters."""
        result = self.result
        if result.status != "done":
            return result
        if self.later is not None and self.later_parameters == parameters:
            if self.later.status == "done":
                return replace(result, reason=self.later.reason)
            return self.later
        if self.parameters != parameters:
            return CaseResult(result.case, result.input, "skipped", OTHER_SETTINGS)
        return result


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`; the cases of one folder stay together."""

    index: int = 1
    count: int = 1

    @property
    def label(self) -> str:
        """For file names; empty for the whole."""
        return f"shard-{self.index}-of-{self.count}" if self.count > 1 else ""

    def take(self, cases: Iterable[CohortCase]) -> list[CohortCase]:
        """The cases of this part, in their order."""
        cases = list(cases)
        homes = sorted({case.home for case in cases})
        mine = set(homes[self.index - 1 :: self.count])
        return [case for case in cases if case.home in mine]


def parse_shard(text: str) -> Shard:
    """``i/n`` as a shard.

    Raises
    ------
    AddmError
        When it is no such text, or i is not within 1..n.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise AddmError(f"The shard {text} has to be i/n with i from 1 to n, such as 2/8.")
    return Shard(int(found[1]), int(found[2]))


# --- finding the cases ---------------------------------------------------------------------------


def find_cohort(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[CohortCase]:
    """The cases of an input; none of the scans is opened.

    Parameters
    ----------
    source : path or str
        A BIDS dataset (only its T1w images are taken), any other folder (searched with the
        folders in it), a CSV or TSV of cases, a single scan, or a glob pattern.
    output : path
        The folder for the results; what lies in it is never an input of a folder or a glob.

    Returns
    -------
    list of CohortCase
        Sorted by name, with those that are skipped; each with a name of its own.

    Raises
    ------
    InputError
        When there is no case, or a table cannot be understood.

    Notes
    -----
    A CSV needs the column ``scan`` and may have ``case``, ``truth`` and ``mask``; paths in it are
    relative to its folder. Files that are named as labels and images of a BIDS dataset that are
    not plain T1w are listed as skipped, with the reason.
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
    """`find_cohort` that can be stopped, and that tells how far it is.

    Yields
    ------
    int
        How many cases there are so far, several times a second while folders are searched.

    Returns
    -------
    list of CohortCase
    """
    path, output = Path(source), Path(output)
    found: Iterable[CohortCase | None]
    again: Callable[[str], CohortCase] | None = None  # a case by its input
    table = path.suffix.lower() in (".csv", ".tsv") and path.is_file()
    if table:
        _check_no_output(path, output)
        found = _from_table(path, output)
    elif path.is_dir():
        if path.resolve() == output.resolve():
            raise InputError(f"{path} is input and output at once: choose another output folder.")
        if _is_bids(path):
            found, again = _from_bids(path), partial(_bids_case, path)
        else:
            found, again = _from_folder(path, output), partial(_plain_below, path)
    elif path.exists():
        found = [_plain(path, PurePosixPath(path.name))]
    elif glob.has_magic(str(source)):
        found = _from_pattern(str(source), output)
        again = partial(_plain_below, Path(*_fixed_parts(str(source))))
    else:
        raise InputError(f"{path} does not exist: check the name and the folder.")
    cases: list[CohortCase] = []
    told = time.monotonic()
    for case in found:
        if case is not None:
            cases.append(case)
        if time.monotonic() - told > TELL_SECONDS:
            yield len(cases)
            told = time.monotonic()
    if not any(not case.skip for case in cases):
        raise InputError(
            f"{source} holds no scan: give a folder or a pattern of NIfTI, MGZ or NRRD files, a "
            "BIDS dataset, or a CSV with the column scan."
        )
    if table:
        return sorted(cases, key=lambda case: case.name)
    return _with_own_names(cases, _vanished(cases, output, again) if again else [])


def _check_no_output(table: Path, output: Path) -> None:
    """Refuse a table that the batch itself would write over."""
    if table.parent.resolve() == output.resolve() and _OWN_TABLES.fullmatch(table.name.lower()):
        raise InputError(
            f"{table} is the input, and the batch writes a table of that name into its output "
            "folder: rename the input, or choose another output folder."
        )


# What walks through folders gives None where it has found nothing, so that it can be stopped.


def _is_bids(folder: Path) -> bool:
    if (folder / "dataset_description.json").is_file():
        return True
    return any(True for _ in folder.glob("sub-*/anat")) or any(
        True for _ in folder.glob("sub-*/ses-*/anat")
    )


def _from_bids(root: Path) -> Iterator[CohortCase | None]:
    folders = [*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")]
    for folder in sorted(folders):
        yield None
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            yield _unreadable(folder, root, error)
            continue
        for path in paths:
            name = path.name.lower()
            if name.endswith((".nii", ".nii.gz")) and not name.startswith("."):
                yield _bids_case(root, path.relative_to(root).as_posix())


def _bids_case(root: Path, name: str) -> CohortCase:
    """A scan of a BIDS dataset; what its name lacks of subject and session its folders tell."""
    path, relative = root / name, PurePosixPath(name)
    name, contradiction = complete_bids(stem(path), relative.parent)
    suffix = name.rpartition("_")[2]
    skip = ""
    if suffix != "T1w":
        skip = f"not a T1w image ({suffix})"
    elif re.search(r"_ce-[0-9A-Za-z]+", name):
        skip = "a T1w image after contrast agent (ce-); the model knows those without"
    return CohortCase(
        name=name.removesuffix("_T1w"),
        input=str(relative),
        scan=path,
        skip=skip,
        file_stem="" if name == stem(path) else name,
        fault="" if skip else contradiction,
    )


def _unreadable(folder: Path, root: Path, error: OSError) -> CohortCase:
    """A folder of the input that cannot be looked into, as a row that says so."""
    name = folder.relative_to(root).as_posix()
    said = f"the folder cannot be read ({error.strerror or error})"
    return CohortCase(name=name, input=name, scan=folder, skip=said)


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
            if _may_be_scan(path):
                yield _plain(path, PurePosixPath(path.relative_to(root).as_posix()))
            else:
                yield None
        yield None
    for error in closed:
        if error.filename != str(root):
            yield _unreadable(Path(error.filename), root, error)


def _from_pattern(pattern: str, output: Path) -> Iterator[CohortCase | None]:
    base = Path(*_fixed_parts(pattern))
    inside = output.resolve()
    matches: list[str] = []
    for match in glob.iglob(pattern, recursive=True):
        matches.append(match)
        yield None
    # A pattern may come upon a file several times.
    for match in sorted({os.path.normpath(match) for match in matches}):
        path = Path(match)
        if (
            _may_be_scan(path)
            and not path.is_dir()
            and inside not in Path(os.path.realpath(path)).parents
        ):
            yield _plain(path, PurePosixPath(Path(os.path.relpath(path, base)).as_posix()))


def _fixed_parts(pattern: str) -> Iterator[str]:
    """The folders of a pattern before its first wildcard."""
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _may_be_scan(path: Path) -> bool:
    name = path.name.lower()
    if name.startswith(".") or not name.endswith(READABLE):
        return False
    if name.endswith(OUR_ENDINGS):
        return False
    if name.endswith((".img", ".img.gz")):
        base = path.name[: name.rindex(".img")]
        return not any(path.with_name(base + other).exists() for other in (".hdr", ".hdr.gz"))
    return True


def _plain_below(root: Path, name: str) -> CohortCase:
    return _plain(root / name, PurePosixPath(name))


def _plain(path: Path, relative: PurePosixPath) -> CohortCase:
    name = str(relative.with_name(stem(path)))
    skip = "named as labels, not as a scan" if names_labels(path) else ""
    # BIDS's names bring folders of their own
    folder = str(relative.parent) if is_bids(stem(path)) else name
    return CohortCase(name=name, input=str(relative), scan=path, folder=folder, skip=skip)


def _from_table(path: Path, output: Path) -> list[CohortCase]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table: save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num + 1} cannot be read ({error}): save it as CSV in UTF-8."
        ) from error
    heads = {(head or "").strip().lower(): head for head in reader.fieldnames or ()}
    found = {
        key: next((heads[name] for name in names if name in heads), None)
        for key, names in COLUMNS.items()
    }
    if found["scan"] is None:
        raise InputError(f"{path} has no column scan: name the column with the scans so.")
    cases: list[CohortCase] = []
    lines: list[int] = []
    for number, row in rows:
        values = {
            key: (row.get(head) or "").strip() if head is not None else ""
            for key, head in found.items()
        }
        if not any(values.values()):
            continue
        line = f"{path}, line {number}"
        if not values["scan"]:
            raise InputError(f"{line}: there is no scan; fill the cell or remove the line.")
        scan = path.parent / values["scan"]
        below = _below(PurePosixPath(values["scan"]))
        if not below.name or "\0" in "".join(values.values()):
            raise InputError(f"{line}: {values['scan']!r} names no scan; give the name of a file.")
        name = values["case"] or str(below.with_name(stem(scan)))
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or any(_unsafe(part) for part in parts):
            raise InputError(
                f"{line}: the case cannot be named {name!r}; use letters, digits, - and _."
            )
        case = CohortCase(
            name=str(PurePosixPath(*parts)),
            input=values["scan"],
            scan=scan,
            truth=path.parent / values["truth"] if values["truth"] else None,
            mask=path.parent / values["mask"] if values["mask"] else None,
            folder=str(PurePosixPath(*parts)),
        )
        fault = _name_fault(case)
        if fault:
            raise InputError(
                f"{line}: the case {_short(name)} cannot be written, {fault}; give it another "
                "name in the column case, or its scan another one."
            )
        inputs = filter(None, (case.scan, case.truth, case.mask))
        length = longest_path([*inputs, *case.paths(output).values()])
        if length > LONGEST_PATH:
            raise InputError(
                f"{line}: the case {_short(name)} has a path of {length} bytes, where a system "
                f"takes {LONGEST_PATH}; use shorter names."
            )
        cases.append(case)
        lines.append(number)
    for one, other, why in _alike(cases):
        where = f"{path}, lines {lines[one]} and {lines[other]}"
        first, second = cases[one].name, cases[other].name
        if first == second:
            raise InputError(
                f"{where}: the table names the case {_short(first)} twice; give each line another "
                "name in case."
            )
        raise InputError(
            f"{where}: the cases {_short(first)} and {_short(second)} cannot be told apart, {why}; "
            "give one of them another name in the column case."
        )
    return cases


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."


def _below(path: PurePosixPath) -> PurePosixPath:
    """A path without what leads out of a folder."""
    return PurePosixPath(*(part for part in path.parts if part not in ("/", "..", ".")))


def _unsafe(part: str) -> bool:
    return part.startswith(".") or not part.isprintable() or any(c in part for c in '\\:*?"<>|')


def _with_own_names(
    cases: Sequence[CohortCase], vanished: Sequence[CohortCase] = ()
) -> list[CohortCase]:
    """Give each case a name of its own, and a fault to those that cannot have one.

    Scans that differ in their suffix alone keep it in their names. Scans of earlier results that
    are no longer there keep theirs, so that those of the others do not change with them.
    """
    cases = [
        case if (fault := _name_fault(case)) == "" else replace(case, fault=case.fault or fault)
        for case in cases
    ]
    keys = [same_name_key(_plain_name(case)) for case in cases]
    gone = [_plain_name(case) for case in vanished if case.name != _plain_name(case)]
    seen: dict[str, int] = {}
    counted = [key for case, key in zip(cases, keys, strict=True) if not case.fault]
    for key in (*counted, *map(same_name_key, gone)):
        seen[key] = seen.get(key, 0) + 1
    named = [
        case if case.fault or seen[key] == 1 else _with_suffix(case)
        for case, key in zip(cases, keys, strict=True)
    ]
    faults: dict[int, list[str]] = {}
    for one, other, why in _alike(named):
        for mine, theirs in ((one, other), (other, one)):
            faults.setdefault(mine, []).append(
                f"cannot be told apart from {readable(named[theirs].input)}, {why}: rename one of "
                "the two"
            )
    named = [
        replace(case, fault=f"{faults[n][0]}{_more(len(faults[n]) - 1)}") if n in faults else case
        for n, case in enumerate(named)
    ]
    taken = {case.name for case in named}
    named += [case for case in vanished if case.name not in taken]
    return sorted(_with_rows_apart(named), key=lambda case: case.name)


def _more(others: int) -> str:
    return f" (and from {others} more)" if others else ""


def _plain_name(case: CohortCase) -> str:
    """Its name without the suffix that tells it from a sibling."""
    if case.name.rpartition("/")[2] == case.scan.name:
        return str(PurePosixPath(case.name).with_name(stem(case.scan)))
    return case.name


def _with_suffix(case: CohortCase) -> CohortCase:
    name = str(PurePosixPath(case.name).with_name(case.scan.name))
    if case.file_stem:  # the file's own name is what it lacks a part of
        name = case.file_stem + case.scan.name[len(stem(case.scan)) :]
    return replace(case, name=name, folder=name if case.folder == case.name else case.folder)


def _with_rows_apart(cases: Iterable[CohortCase]) -> Iterator[CohortCase]:
    """Cases that are not run may have the names of others: their rows are named by their inputs."""
    cases = list(cases)
    count: dict[str, int] = {}
    for case in cases:
        count[case.name] = count.get(case.name, 0) + 1
    taken = {case.name for case in cases if case.runs}
    for case in cases:
        if not case.runs:
            name = readable(case.name if count[case.name] == 1 else case.input)
            again, number = name, 1
            while again in taken:
                number += 1
                again = f"{name} ({number})"
            taken.add(again)
            case = replace(case, name=again, input=readable(case.input), fault=readable(case.fault))
        yield case


def _name_fault(case: CohortCase) -> str:
    """Why the files of a case could not be written under its name, whatever else there is."""
    if case.skip:
        return ""
    paths: list[PurePath] = list(case.paths(Path()).values())
    if fault := path_fault([*paths, PurePath(case.name), PurePath(f".{case.prefix}.lock")]):
        return fault
    first = paths[0].parts[0].lower()
    if _OWN_TABLES.fullmatch(first):
        return f"the batch writes {first} itself"
    return ""


def _alike(cases: Sequence[CohortCase]) -> list[tuple[int, int, str]]:
    """Pairs of cases whose results could not be told apart, and why.

    Compared is all that a case has in the output folder: its name, its files and its folder.
    """
    pairs: dict[tuple[int, int], str] = {}
    names: dict[str, int] = {}
    files: dict[str, int] = {}
    homes: dict[str, list[int]] = {}
    for n, case in enumerate(cases):
        if not case.runs:
            continue
        first = names.setdefault(same_name_key(case.name), n)
        if first != n:
            pairs[first, n] = _how_alike(cases[first].name, case.name)
        own = [same_name_key(name) for name in case.file_names().values()]
        for name, key in zip(case.file_names().values(), own, strict=True):
            first = files.setdefault(key, n)
            if first != n:
                pairs.setdefault((first, n), f"both would have the file {name}")
        for parent in PurePosixPath(own[0]).parents:
            homes.setdefault(str(parent), []).append(n)
    for key in files.keys() & homes.keys():
        for n in homes[key]:
            if n != files[key]:
                pair = (min(n, files[key]), max(n, files[key]))
                pairs.setdefault(pair, "a file of one would lie where the folder of the other is")
    return [(one, other, why) for (one, other), why in sorted(pairs.items())]


def _how_alike(one: str, other: str) -> str:
    if one == other:
        return f"both would be called {one}"
    return (
        "their names are one where upper and lower case, the form of accents, or dots and blanks "
        "at the end do not count"
    )


def _vanished(
    cases: Sequence[CohortCase], output: Path, again: Callable[[str], CohortCase]
) -> list[CohortCase]:
    """Cases of earlier runs that are done and whose scans are no longer there.

    A folder says nothing about a scan that is missing for a moment, such as on a share that is not
    mounted, but the files and the row of its case must not be forgotten. If none of the scans of
    the earlier runs is there, this is another cohort.
    """
    folder = CohortFolder(output)
    rows = [row for plan in folder.read_plans() for row in plan["cases"] if not row["skip"]]
    inputs, names = {case.input for case in cases}, {case.name for case in cases}
    if not any(row["input"] in inputs for row in rows):
        return []
    found: dict[str, CohortCase] = {}
    for row in rows:
        name, path = row["input"], PurePosixPath(row["input"])
        if row.get("fault") or name in inputs or path.is_absolute() or ".." in path.parts:
            continue
        if not path.name or "\0" in name or row["case"] in names or row["case"] in found:
            continue
        try:
            case = again(name)
        except ValueError:  # a name that no path has
            continue
        if case.name != row["case"]:
            case = _with_suffix(case)
        if case.name != row["case"] or not case.runs or _is_there(case.scan):
            continue
        state = folder.state(case)
        done = state is not None and state.result.status == "done" and not state.other
        if state and done and all(os.path.lexists(output / file) for file in state.result.files):
            found[case.name] = case
    return list(found.values())


def _is_there(scan: Path) -> bool:
    return os.path.lexists(scan) and not os.path.isdir(scan)


def is_of_another(result: CaseResult, input: str, scan: str) -> bool:
    """Whether a result is of another scan than the one that a row names.

    Parameters
    ----------
    result : CaseResult
    input : str
        As in `CohortCase`.
    scan : str
        Of `CohortCase.origin`; empty where it is not known.
    """
    before = result.origin.get("scan")
    return before != scan if before and scan else result.input != input


def named_input(result: CaseResult) -> str:
    """The scan of a result as a reason names it: without the folders above the input."""
    path = PurePath(result.input)
    return path.name if path.is_absolute() else result.input


# --- the folder of the results -------------------------------------------------------------------


class CohortFolder:
    """The output folder of a batch: plan, states and manifest.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.hidden = self.path / HIDDEN

    @contextmanager
    def lock(self, shard: Shard) -> Iterator[None]:
        """Keep every other run away from the same cases while the block runs.

        Shards of the same number of parts may run side by side.

        Raises
        ------
        AddmError
            When another run is at work here.
        """
        mine = self.hidden / "locks" / f"{shard.index}-of-{shard.count}"
        self.check_no_link(mine.parent, mine)
        try:
            (self.hidden / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AddmError(
                f"{self.path} cannot be written to ({error.strerror}): choose another output "
                "folder."
            ) from error
        busy = AddmError(
            f"{self.path} is being written by another run: wait for it to end, or choose another "
            "output folder."
        )
        with ExitStack() as stack:
            own = FileLock(mine, timeout=0)
            try:
                stack.enter_context(own)
                for other in sorted(mine.parent.iterdir()):
                    if other.is_symlink():
                        continue  # nobody's lock
                    if other != mine and not other.name.endswith(f"-of-{shard.count}"):
                        with FileLock(other, timeout=0):
                            pass
            except Timeout as error:
                raise busy from error
            yield

    def check_no_link(self, *more: Path) -> None:
        """Refuse a folder whose plan or states lie elsewhere.

        Raises
        ------
        AddmError
        """
        for place in (self.hidden, self.hidden / "cases", *more):
            if place.is_symlink():
                raise AddmError(
                    f"{place} is a link, and a batch follows none: remove it, or choose another "
                    "output folder."
                )

    def sweep(self, cases: Iterable[CohortCase], shard: Shard) -> None:
        """Remove what a killed run left half written; only under the lock."""
        own: dict[Path, set[str]] = {}
        for case in cases:
            if case.runs and self.inside(case.home) is not None:
                names = own.setdefault(self.path / case.home, set())
                names.update(path.name for path in case.paths(self.path).values())
        if not shard.label:  # other shards may be writing there
            for folder in (self.path, self.hidden, self.hidden / "cases"):
                own.setdefault(folder, set())
        for folder, names in own.items():
            for leftover in folder.glob(".*.part"):
                # Links are nobody's half-written files, and what another person has called so
                # stays.
                if leftover.is_symlink():
                    continue
                with suppress(OSError):  # then it stays
                    if leftover.is_file() and _PART.fullmatch(leftover.name):
                        leftover.unlink()
                    elif leftover.is_dir() and _is_ours_aside(leftover, names):
                        shutil.rmtree(leftover)

    def inside(self, name: str) -> Path | None:
        """The path of a file or folder of this folder; None where it leads out, or over a link."""
        if name == ".":
            return self.path
        parts = PurePosixPath(name).parts
        relative = Path(name)
        if not parts or "\0" in name or relative.drive or relative.root:
            return None
        if "/".join(parts) != name or any(part in (".", "..") for part in relative.parts):
            return None
        path = self.path
        for part in relative.parts:
            path = path / part
            if path.is_symlink():
                return None
        return path

    # - plan -

    def plan_path(self, shard: Shard) -> Path:
        """The file of a shard's plan."""
        return self.hidden / "-".join(filter(None, ("plan", shard.label)))

    def write_plan(
        self, shard: Shard, parameters: Mapping[str, Any], cases: Iterable[CohortCase]
    ) -> None:
        """Keep what a run is about to do; nothing in it tells when."""
        rows = [
            {"case": c.name, "input": c.input, "skip": c.skip, "scan": c.origin["scan"]}
            | ({"fault": c.fault} if c.fault else {})
            for c in cases
        ]
        plan = {
            "version": PLAN_VERSION,
            "shard": [shard.index, shard.count],
            "parameters": parameters,
            "cases": rows,
        }
        path = self.plan_path(shard).with_suffix(".json")
        _write_json(path, plan)
        # The latest plan is the one that counts, also if another machine's clock is ahead.
        now = path.stat().st_mtime_ns
        others = [other.lstat().st_mtime_ns for other in self.hidden.glob("plan*.json")]
        if max(others) > now:
            os.utime(path, ns=(max(others) + 1, max(others) + 1))

    def read_plans(self) -> list[dict[str, Any]]:
        """All plans that are there, each with when it was written."""
        found = []
        for path in sorted(self.hidden.glob("plan*.json")):
            plan = read_json(path)
            if plan is not None and _is_plan(plan):
                found.append({**plan, "written_ns": path.lstat().st_mtime_ns})
        return found

    def plans(self) -> list[dict[str, Any]]:
        """The plans of the latest number of shards, each with when it was written.

        Raises
        ------
        InputError
            When there is none.
        """
        found = self.read_plans()
        if not found:
            raise InputError(
                f"{self.path} holds no batch: give the output folder of napari-addm batch."
            )
        count = max(found, key=lambda plan: plan["written_ns"])["shard"][1]
        plans = [plan for plan in found if plan["shard"][1] == count]
        return sorted(plans, key=lambda plan: int(plan["shard"][0]))

    # - states -

    def state_path(self, case: str) -> Path:
        """The file of a case's state; its name tells nothing, whatever the case is called."""
        name = hashlib.sha256(case.encode(errors="surrogatepass")).hexdigest()[:32]
        return self.hidden / "cases" / f"{name}.json"

    def state(self, case: CohortCase | str) -> CaseState | None:
        """What is known of a case; None for nothing that can be believed.

        Parameters
        ----------
        case : CohortCase or str
            Of a case itself, a state counts only if all files in it are those that this case has,
            or those that it would have if its scan were called otherwise; of a name alone, if
            they lie in the folder.

        Raises
        ------
        AddmError
            When there is a state that cannot be read: it must not be taken for none.
        """
        name = case if isinstance(case, str) else case.name
        path = self.state_path(name)
        try:
            content = _read_json(path)
        except OSError as error:
            raise AddmError(
                f"{path} cannot be read ({error.strerror or error}), so what is done is not known: "
                "mend that, and run the same command again."
            ) from error
        state = None if content is None else _state_of(content)
        if content is None or state is None or state.result.case != name:
            return None
        replacing = content.get("replacing", {})
        if not _is_files(replacing):
            return None
        files = {**state.result.files, **replacing}
        if any(self.inside(file) is None for file in files):
            return None
        if not isinstance(case, str):
            own = files.keys() <= set(case.file_names().values())
            if not own and not all(_may_have(case, file) for file in files):
                return None
            other = not own or is_of_another(state.result, case.input, case.origin["scan"])
            if other and files and state.result.status != "skipped":
                if not any(os.path.lexists(self.path / file) for file in files):
                    return None  # somebody has moved it away
                state = replace(state, other=True)
            elif not own:
                return None
        known = {
            file: frozenset(
                hashes[file] for hashes in (state.result.files, replacing) if file in hashes
            )
            for file in files
        }
        state = replace(state, known=known)
        if replacing and not (state.result.status == "done" and self.is_whole(state.result)):
            # The run ended during the renaming: the files are a mixture of old and new ones.
            before = state.result
            cut = CaseResult(name, before.input, "skipped", CUT_OFF, files=files)
            cut = replace(cut, origin=before.origin)
            return replace(state, result=cut, later=None, later_parameters="", all_ours=False)
        return state

    def has_state(self, case: CohortCase) -> bool:
        """Whether there is a state file for a case, even one in which nothing can be believed."""
        return os.path.lexists(self.state_path(case.name))

    def own_state(self, case: CohortCase) -> CaseState | None:
        """As `state`; None where it is that of another scan, which may take reading the scan."""
        state = self.state(case)
        return state if state is not None and self.is_own(case, state) else None

    def is_own(self, case: CohortCase, state: CaseState) -> bool:
        """Whether a state is that of the case's own scan, also after the dataset has moved."""
        if not state.other:
            return True
        if not state.known.keys() <= set(case.file_names().values()):
            return False
        try:
            return digest(case.scan) == state.result.origin.get("content")
        except (OSError, InputError):
            return False

    def read_state(self, case: CohortCase | str) -> tuple[CaseResult | None, str]:
        """The result of a case, and the hash of its parameters; None for nothing; see `state`.

        A case whose writing began and did not end is skipped in it.
        """
        state = self.state(case) if isinstance(case, str) else self.own_state(case)
        if state is None:
            return None, ""
        return state.result, state.parameters

    def write_state(
        self,
        result: CaseResult,
        parameters: str,
        later: CaseResult | None = None,
        later_parameters: str = "",
        replacing: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what became of a case.

        Parameters
        ----------
        result : CaseResult
        parameters : str
            Hash of the parameters that `result` was made with.
        later, later_parameters
            See `CaseState`.
        replacing : mapping of str to str, optional
            The files that are about to take their names, with their hashes.
        """
        path = self.state_path(result.case)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**asdict(result), "parameters": parameters}
        if later is not None:
            content["later"] = {
                "status": later.status,
                "reason": later.reason,
                "parameters": later_parameters,
            }
        if replacing is not None:
            content["replacing"] = dict(replacing)
        _write_json(path, content)

    def failed(self, cases: Iterable[CohortCase]) -> set[str]:
        """The names of those that the last run could not do, or could not check."""
        found = set()
        for case in cases:
            if case.fault:
                found.add(case.name)
            elif not case.skip:
                state = self.state(case)
                if state is None:
                    again = self.has_state(case)
                else:
                    failed = state.result.status == "failed"
                    again = failed or state.later is not None or state.other
                if again:
                    found.add(case.name)
        return found

    def is_whole(self, result: CaseResult) -> bool:
        """Whether every file of a case is there and has not changed since it was written."""
        try:
            return self.holds(result)
        except OSError:
            return False

    def holds(self, result: CaseResult) -> bool:
        """As `is_whole`.

        Raises
        ------
        OSError
            When a file that is there cannot be read, so that nobody knows.
        """
        try:
            for name, expected in result.files.items():
                path = self.inside(name)
                if path is None or digest(path) != expected:
                    return False
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, InputError):
            return False
        return bool(result.files)

    def changed(self, state: CaseState) -> tuple[dict[str, str], list[str]]:
        """What has become of the files of a case.

        Returns
        -------
        files : dict of str to str
            Those of `known`, each with the hash that it has now where that is one of the known.
        changed : list of str
            Those that are there and that somebody else has changed.

        Raises
        ------
        OSError
            When a file that is there cannot be read, so that nobody knows.
        """
        files, changed = dict(state.result.files), []
        for name, hashes in state.known.items():
            try:
                found = digest(self.path / name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (IsADirectoryError, InputError):
                found = ""
            if found in hashes:
                files[name] = found
            else:
                changed.append(name)
        return files, changed

    # - manifest -

    def manifest_path(self, shard: Shard) -> Path:
        """The manifest, or a shard's part of it."""
        if not shard.label:
            return self.path / MANIFEST
        return self.path / f"manifest_{shard.label}.csv"

    def check_manifest(self, shard: Shard) -> None:
        """Make sure that the manifest replaces no file of another person; nothing is written.

        Raises
        ------
        AddmError
            Names the file.
        """
        path = self.manifest_path(shard)
        first = ",".join(MANIFEST_COLUMNS)
        if os.path.lexists(path) and not (
            self.is_begun() and file_beginning(path).partition("\n")[0] == first
        ):
            raise not_ours(path)

    def is_begun(self) -> bool:
        """Whether a batch has written here."""
        return not self.hidden.is_symlink() and any(self.hidden.glob("plan*.json"))

    def write_manifest(self, path: Path, results: Iterable[CaseResult]) -> None:
        """Write the table of cases.

        Raises
        ------
        AddmError
            When it cannot be written; an earlier one stays.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        for result in results:
            cells = {**asdict(result), "qc": " ".join(result.qc)}
            writer.writerow(_cell(cells[column]) for column in MANIFEST_COLUMNS)
        with open_atomic(path) as file:
            file.write(text.getvalue().encode())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(csv_cell("" if value is None else " ".join(str(value).split())))


def _may_have(case: CohortCase, file: str) -> bool:
    """Whether the case would have this file if its scan were called otherwise."""
    path = PurePosixPath(file)
    own = str(path.parent) == case.home or (
        case.folder == case.name and PurePosixPath(case.folder) in path.parents
    )
    return own and path.name.lower().endswith(OUR_ENDINGS)


def not_ours(path: Path) -> AddmError:
    """Why a file is not replaced that a batch would write under the same name."""
    return AddmError(
        f"{path} exists already and was not written by a batch: move or rename it, or choose "
        "another output folder."
    )


def file_beginning(path: Path, size: int = 1 << 16) -> str:
    """How a file begins; nothing for a link, a folder or what cannot be read."""
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def check_is_file(path: Path) -> None:
    """Refuse what would be waited for without end, such as a pipe.

    Raises
    ------
    InputError
    OSError
        When it cannot even be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path} is no file but a pipe or a device: give the file of a scan.")


def digest(path: Path) -> str:
    """SHA-256 over a file's bytes, and over its other half for a .hdr/.img pair.

    Raises
    ------
    OSError
        When it cannot be read.
    InputError
        When it is no file at all, such as a pipe.
    """
    hashed = hashlib.sha256()
    for part in (path, *_other_halves(path)):
        check_is_file(part)
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def _other_halves(path: Path) -> list[Path]:
    name = path.name.lower()
    for one, other in ((".hdr", ".img"), (".img", ".hdr")):
        for ending in (one, f"{one}.gz"):
            if name.endswith(ending):
                base = path.name[: -len(ending)]
                halves = [path.with_name(base + other + gz) for gz in ("", ".gz")]
                return [half for half in halves if half.exists()]
    return []


def hash_of(value: Any) -> str:
    """SHA-256 of a value's JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    with open_atomic(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """What a small file holds; None for a link, and for what is damaged, huge or deeply nested."""
    try:
        return _read_json(path)
    except OSError:
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    """As `read_json`, but a file that is there and cannot be read is an OSError."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_JSON:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and _is_shallow(content) else None


def _is_shallow(content: Any, most: int = DEEPEST_JSON) -> bool:
    level = [content]
    while level and most:
        most -= 1
        level = [
            each
            for part in level
            for each in (part.values() if isinstance(part, dict) else part)
            if isinstance(each, dict | list)
        ]
    return not level


def _is_plan(plan: Mapping[str, Any]) -> bool:
    shard, rows = plan.get("shard"), plan.get("cases")
    if not isinstance(shard, list) or len(shard) != 2 or not all(type(n) is int for n in shard):
        return False
    if not 1 <= shard[0] <= shard[1] or not isinstance(plan.get("parameters"), dict):
        return False
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and all(_is_text(row.get(key)) for key in ("case", "input", "skip"))
        and _is_text(row.get("fault", ""))
        and _is_text(row.get("scan", ""))
        for row in rows
    )


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be written."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name) and isinstance(sha, str) and _SHA256.fullmatch(sha)
        for name, sha in value.items()
    )


def _is_number(value: Any) -> bool:
    """Whether it is a finite number of 0 or more."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and 0 <= value < float("inf")


def _state_of(content: Mapping[str, Any]) -> CaseState | None:
    """A state out of its file; None where anything in it is not as it is written."""
    values = {f.name: content.get(f.name) for f in fields(CaseResult)}
    values["origin"] = content.get("origin", {})
    texts = ("case", "input", "reason", "key")
    numbers = ("seconds", "anomaly_ml", "findings", "dice")
    qc, metrics, later = values["qc"], values["metrics"], content.get("later")
    right = (
        all(_is_text(values[key]) for key in texts)
        and values["status"] in get_args(Status)
        and all(values[key] is None or _is_number(values[key]) for key in numbers)
        and (values["findings"] is None or isinstance(values["findings"], int))
        and isinstance(qc, list)
        and all(map(_is_text, qc))
        and isinstance(metrics, dict)
        and _is_files(values["files"])
        and _is_files(values["origin"])
        and _is_text(content.get("parameters"))
    )
    if not right:
        return None
    result = CaseResult(**{**values, "qc": tuple(values["qc"])})  # type: ignore[arg-type]
    said, said_for = None, ""
    if later is not None:
        if not isinstance(later, dict) or later.get("status") not in ("done", "failed"):
            return None
        if not _is_text(later.get("reason")) or not _is_text(later.get("parameters")):
            return None
        said = CaseResult(result.case, result.input, later["status"], later["reason"])
        said_for = later["parameters"]
    return CaseState(
        result,
        content["parameters"],
        said,
        said_for,
        all_ours=result.status == "skipped" and "replacing" not in content,
    )


def _is_ours_aside(folder: Path, names: set[str]) -> bool:
    """Whether a folder is one in which files of a case were being written.

    The version before gave it a name that a person's folder may have, too, so it is known by what
    it holds.
    """
    held = list(folder.iterdir())
    if not _PART.fullmatch(folder.name) and not (held and _OLD_PART.fullmatch(folder.name)):
        return False
    return all(
        (path.name in names or _PART.fullmatch(path.name))
        and path.is_file()
        and not path.is_symlink()
        for path in held
    )
