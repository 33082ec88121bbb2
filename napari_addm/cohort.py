"""A cohort: which cases an input holds, and the folder that keeps what became of each of them.

The folder of a batch holds one folder of files per case, ``manifest.csv``, and ``.batch/``: the
plan of the run (parameters and cases) and one small state file per case. A state file is written
last, with the hashes of what went in and of what came out, so it is the proof that a case is
done; that a file exists proves nothing. All files take their names when they are whole.
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
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from napari_addm.errors import AddmError, InputError
from napari_addm.io import READABLE, names_labels, open_atomic
from napari_addm.naming import BIDS_ENDINGS, ENDINGS, case_paths, is_bids
from napari_addm.report import csv_cell
from napari_addm.volume import stem

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
        Where `napari_addm.outputs.save_detection` is told to write, relative to the output folder;
        all cases of a BIDS dataset share one.
    skip : str
        Why it is not run; empty when it is.
    """

    name: str
    input: str
    scan: Path
    truth: Path | None = None
    mask: Path | None = None
    folder: str = ""
    skip: str = ""

    def paths(self, output: Path) -> dict[str, Path]:
        """Where its files go, by the keys of `napari_addm.naming.ENDINGS`."""
        return case_paths(output / self.folder, stem(self.scan))

    @property
    def home(self) -> str:
        """The folder that really holds its files; scans of one BIDS session share it."""
        return self.paths(Path())["record"].parent.as_posix()

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
        Keys of the quality flags; see `napari_addm.qc`.
    metrics : dict
        All metrics by name, empty without a ground truth.
    files : dict of str to str
        SHA-256 of each written file by its path under the output folder.
    key : str
        Hash of input, model and parameters.
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
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        found = _from_table(path)
    elif path.is_dir():
        if path.resolve() == output.resolve():
            raise InputError(f"{path} is input and output at once: choose another output folder.")
        found = _from_bids(path) if _is_bids(path) else _from_folder(path, output)
    elif path.exists():
        found = [_plain(path, PurePosixPath(path.name))]
    elif glob.has_magic(str(source)):
        found = _from_pattern(str(source), output)
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
    return _with_own_names(cases)


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
        for path in sorted(folder.iterdir()):
            if not path.name.lower().endswith((".nii", ".nii.gz")):
                continue
            name = stem(path)
            suffix = name.rpartition("_")[2]
            skip = ""
            if suffix != "T1w":
                skip = f"not a T1w image ({suffix})"
            elif re.search(r"_ce-[0-9A-Za-z]+", name):
                skip = "a T1w image after contrast agent (ce-); the model knows those without"
            relative = PurePosixPath(path.relative_to(root).as_posix())
            yield CohortCase(
                name=name.removesuffix("_T1w"),
                input=str(relative),
                scan=path,
                skip=skip,
            )


def _from_folder(root: Path, output: Path) -> Iterator[CohortCase | None]:
    for folder, inside, names in os.walk(root):
        here = Path(folder)
        inside[:] = sorted(
            name
            for name in inside
            if not name.startswith(".")
            # neither these results nor those of another batch
            and not (here / name / HIDDEN).is_dir()
            and (here / name).resolve() != output.resolve()
        )
        for name in sorted(names):
            path = here / name
            if _may_be_scan(path):
                yield _plain(path, PurePosixPath(path.relative_to(root).as_posix()))
            else:
                yield None
        yield None


def _from_pattern(pattern: str, output: Path) -> Iterator[CohortCase | None]:
    base = Path(*_fixed_parts(pattern))
    inside = output.resolve()
    matches: list[str] = []
    for match in glob.iglob(pattern, recursive=True):
        matches.append(match)
        yield None
    for match in sorted(matches):
        path = Path(match)
        if _may_be_scan(path) and not path.is_dir() and inside not in path.resolve().parents:
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


def _plain(path: Path, relative: PurePosixPath) -> CohortCase:
    name = str(relative.with_name(stem(path)))
    skip = "named as labels, not as a scan" if names_labels(path) else ""
    # BIDS's names bring folders of their own
    folder = str(relative.parent) if is_bids(stem(path)) else name
    return CohortCase(name=name, input=str(relative), scan=path, folder=folder, skip=skip)


def _from_table(path: Path) -> list[CohortCase]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table: save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    heads = {(head or "").strip().lower(): head for head in rows.fieldnames or ()}
    found = {
        key: next((heads[name] for name in names if name in heads), None)
        for key, names in COLUMNS.items()
    }
    if found["scan"] is None:
        raise InputError(f"{path} has no column scan: name the column with the scans so.")
    cases = []
    for row in rows:
        values = {
            key: (row.get(head) or "").strip() if head is not None else ""
            for key, head in found.items()
        }
        if not any(values.values()):
            continue
        line = f"{path}, line {rows.line_num}"
        if not values["scan"]:
            raise InputError(f"{line}: there is no scan; fill the cell or remove the line.")
        scan = path.parent / values["scan"]
        name = values["case"] or str(_below(PurePosixPath(values["scan"])).with_name(stem(scan)))
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or any(_unsafe(part) for part in parts):
            raise InputError(
                f"{line}: the case cannot be named {name!r}; use letters, digits, - and _."
            )
        cases.append(
            CohortCase(
                name=str(PurePosixPath(*parts)),
                input=values["scan"],
                scan=scan,
                truth=path.parent / values["truth"] if values["truth"] else None,
                mask=path.parent / values["mask"] if values["mask"] else None,
                folder=str(PurePosixPath(*parts)),
            )
        )
    names = [case.name for case in cases]
    twice = (
        sorted({name for name in names if names.count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if twice:
        raise InputError(
            f"{path} names the case {twice[0]} twice: give each line another name in case."
        )
    return cases


def _below(path: PurePosixPath) -> PurePosixPath:
    """A path without what leads out of a folder."""
    return PurePosixPath(*(part for part in path.parts if part not in ("/", "..", ".")))


def _unsafe(part: str) -> bool:
    return part.startswith(".") or not part.isprintable() or any(c in part for c in '\\:*?"<>|')


def _with_own_names(cases: list[CohortCase]) -> list[CohortCase]:
    """Scans that differ in their suffix alone keep it in their names, or else the first counts."""
    seen: dict[str, int] = {}
    for case in cases:
        seen[case.name.lower()] = seen.get(case.name.lower(), 0) + 1
    named: list[CohortCase] = []
    taken: dict[Path, str] = {}
    for case in cases:
        if seen[case.name.lower()] > 1:
            name = str(PurePosixPath(case.name).with_name(case.scan.name))
            case = replace(
                case, name=name, folder=name if case.folder == case.name else case.folder
            )
        if not case.skip:
            first = taken.setdefault(case.paths(Path())["record"], case.name)
            if first != case.name:
                case = replace(case, skip=f"its files would have the names of those of {first}")
        named.append(case)
    return sorted(named, key=lambda case: case.name)


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
        try:
            (self.hidden / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AddmError(
                f"{self.path} cannot be written to ({error.strerror}): choose another output "
                "folder."
            ) from error
        mine = self.hidden / "locks" / f"{shard.index}-of-{shard.count}"
        busy = AddmError(
            f"{self.path} is being written by another run: wait for it to end, or choose another "
            "output folder."
        )
        with ExitStack() as stack:
            own = FileLock(mine, timeout=0)
            try:
                stack.enter_context(own)
                for other in sorted(mine.parent.iterdir()):
                    if other != mine and not other.name.endswith(f"-of-{shard.count}"):
                        with FileLock(other, timeout=0):
                            pass
            except Timeout as error:
                raise busy from error
            yield

    def sweep(self, cases: Iterable[CohortCase], shard: Shard) -> None:
        """Remove what a killed run left half written; only under the lock."""
        folders = {self.path / case.home for case in cases if not case.skip}
        if not shard.label:  # other shards may be writing there
            folders |= {self.path, self.hidden, self.hidden / "cases"}
        for folder in folders:
            for leftover in folder.glob(".*.part"):
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()

    # - plan -

    def plan_path(self, shard: Shard) -> Path:
        """The file of a shard's plan."""
        return self.hidden / "-".join(filter(None, ("plan", shard.label)))

    def write_plan(
        self, shard: Shard, parameters: Mapping[str, Any], cases: Iterable[CohortCase]
    ) -> None:
        """Keep what a run is about to do; nothing in it tells when."""
        rows = [{"case": c.name, "input": c.input, "skip": c.skip} for c in cases]
        plan = {
            "version": PLAN_VERSION,
            "shard": [shard.index, shard.count],
            "parameters": parameters,
            "cases": rows,
        }
        _write_json(self.plan_path(shard).with_suffix(".json"), plan)

    def plans(self) -> list[dict[str, Any]]:
        """The plans of the latest number of shards, each with when it was written.

        Raises
        ------
        InputError
            When there is none.
        """
        found = [
            {**plan, "written_ns": path.stat().st_mtime_ns}
            for path in sorted(self.hidden.glob("plan*.json"))
            if (plan := _read_json(path)) is not None
        ]
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
        return self.hidden / "cases" / f"{hashlib.sha256(case.encode()).hexdigest()[:32]}.json"

    def read_state(self, case: str) -> tuple[CaseResult | None, str]:
        """What is known of a case, and the hash of the parameters; None for nothing.

        A case whose writing began and did not end is skipped in it.
        """
        content = _read_json(self.state_path(case))
        try:
            assert content is not None
            values = {f.name: content[f.name] for f in fields(CaseResult)}
            values["qc"] = tuple(values["qc"])
            result = CaseResult(**values)
            parameters = str(content["parameters"])
        except (AssertionError, KeyError, TypeError):
            return None, ""
        return (result if result.case == case else None), parameters

    def write_state(self, result: CaseResult, parameters: str) -> None:
        """Keep what became of a case."""
        path = self.state_path(result.case)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, {**asdict(result), "parameters": parameters})

    def failed(self, cases: Iterable[CohortCase]) -> set[str]:
        """The names of those that failed when they were last run."""
        results = (self.read_state(case.name)[0] for case in cases if not case.skip)
        return {result.case for result in results if result and result.status == "failed"}

    def is_whole(self, result: CaseResult) -> bool:
        """Whether every file of a case is there and has not changed since it was written."""
        try:
            return all(
                digest(self.path / name) == expected for name, expected in result.files.items()
            )
        except OSError:
            return False

    # - manifest -

    def manifest_path(self, shard: Shard) -> Path:
        """The manifest, or a shard's part of it."""
        if not shard.label:
            return self.path / MANIFEST
        return self.path / f"manifest_{shard.label}.csv"

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


def digest(path: Path) -> str:
    """SHA-256 over a file's bytes, and over its other half for a .hdr/.img pair."""
    hashed = hashlib.sha256()
    for part in (path, *_other_halves(path)):
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


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
