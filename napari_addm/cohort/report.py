"""The page of a cohort: what a batch found, what it warns of and what failed, in one HTML file.

Made from the plan, the states and the run records in a batch's folder; the scans are not needed.
The same figures go to a CSV and a JSON file beside it.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_addm import __version__
from napari_addm.cohort.case import CaseResult
from napari_addm.cohort.files import REPORTS, file_beginning, inside, not_ours, read_json
from napari_addm.cohort.folder import CohortFolder, PlannedCase
from napari_addm.cohort.manifest import check_manifest, manifest_path, write_manifest
from napari_addm.cohort.state import CaseState
from napari_addm.detection.quality import FLAG_TITLES
from napari_addm.errors import InputError
from napari_addm.io.files import write_atomic
from napari_addm.io.hashing import json_sha256, scan_sha256
from napari_addm.io.text import csv_cell
from napari_addm.metrics.metric import rated_metrics
from napari_addm.metrics.statistics import MeanInterval, mean_interval
from napari_addm.outputs.pages import page_environment
from napari_addm.outputs.record import FindingEntry

PAGE, TABLE, FIGURES = REPORTS
# How each of them is known as ours.
PAGE_MARK = "<h1>What the batch found</h1>"
OWN_COLUMNS = ("case", "input", "status", "reason", "seconds", "anomaly_ml", "findings")
FIGURES_KEYS = {"schema_version", "created_utc", "version", "parameters", "counts", "cases"}
MOST_PICTURES = 200
PICTURE_WIDTH = 900
BARS = 24

# What the CSV and the JSON tell of the largest finding.
LARGEST = ("volume_ml", "side", "from_midline_mm", "midline_source")

# Averaged over the cases with a ground truth, in this order.


@dataclass(frozen=True)
class Entry:
    """A case as the page shows it.

    Attributes
    ----------
    result : CaseResult
    record : dict
        The run record; empty where the case is not done.
    picture : str
        Path of its montage under the folder; empty without one.
    """

    result: CaseResult
    record: Mapping[str, Any] = field(default_factory=dict)
    picture: str = ""

    @property
    def flags(self) -> list[dict[str, Any]]:
        """Quality flags with their sentences, as `napari_addm.detection.quality.Flag`."""
        return list(self._quality.get("flags") or ())

    @property
    def largest(self) -> FindingEntry | None:
        """The largest finding; None without one, and for a damaged record."""
        largest = self.record.get("largest")
        return largest if isinstance(largest, FindingEntry) else None

    @property
    def figures(self) -> dict[str, float]:
        """What the quality control measured, by name."""
        return dict(self._quality.get("figures") or {})

    @property
    def unchecked(self) -> list[str]:
        """What it could not check, in sentences."""
        return list(self._quality.get("unchecked") or ())

    @property
    def _quality(self) -> Mapping[str, Any]:
        return self.record.get("quality") or {}


@dataclass(frozen=True)
class Cohort:
    """All that a batch's folder tells.

    Attributes
    ----------
    parameters : dict
        Of the plan.
    entries : tuple of Entry
        All planned cases, in their order.
    missing : tuple of str
        Shards that have not begun, such as ``3 of 4``.
    notes : tuple of str
        What else a reader has to know.
    """

    parameters: Mapping[str, Any]
    entries: tuple[Entry, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, status: str) -> list[Entry]:
        """The entries with one status."""
        return [entry for entry in self.entries if entry.result.status == status]


def read_cohort(path: Path) -> Cohort:
    """What became of every case of a batch, with those of all its shards.

    A case whose record or picture is no longer what was written counts as failed.

    Raises
    ------
    InputError
        When the folder holds no batch.
    AddmError
        When its plan or its states lie elsewhere.
    """
    folder = CohortFolder(path)
    folder.check_no_link()
    plans = folder.latest_plans()
    latest = max(plans, key=lambda plan: plan.written_ns)
    parameters, notes = latest.parameters, []
    if any(plan.parameters != parameters for plan in plans):
        notes.append(
            "The shards were run with different models or settings; the cases of those that differ "
            "from the latest are left out."
        )
    there = {plan.shard[0] for plan in plans}
    count = latest.shard[1]
    missing = tuple(f"{i} of {count}" for i in range(1, count + 1) if i not in there)
    expected = json_sha256(parameters)
    rows = {row.case: row for plan in plans for row in plan.cases}
    states = {name: state for name in rows if (state := folder.states.read(name)) is not None}
    named = Counter(file for state in states.values() for file in state.result.files)
    entries = []
    for name, planned in sorted(rows.items()):
        state = states.get(name)
        if state is not None and any(named[file] > 1 for file in state.result.files):
            state = None  # it names files of another case
        entries.append(_entry(folder, planned, state, expected))
    return Cohort(parameters, tuple(entries), missing, tuple(notes))


def _entry(
    folder: CohortFolder, planned: PlannedCase, state: CaseState | None, expected: str
) -> Entry:
    nothing = CaseResult(planned.case, planned.input, "skipped")
    if planned.skip:
        return Entry(replace(nothing, reason=planned.skip))
    if planned.problem:
        return Entry(replace(nothing, status="failed", reason=planned.problem))
    if state is None or state.result.status == "skipped":
        return Entry(replace(nothing, reason="not reached yet"))
    if state.result.status == "done" and state.result.is_of_another_scan(
        planned.input, planned.scan
    ):
        reason = (
            f"its files are those of another scan ({state.result.input_name}), or of this one in "
            "another place: run the batch again"
        )
        return Entry(replace(nothing, status="failed", reason=reason))
    if state.result.status == "failed" and state.parameters != expected:
        return Entry(replace(nothing, reason="not reached yet with these settings"))
    result = state.row(expected)
    if result.status != "done":
        return Entry(result)
    record: Mapping[str, Any] = {}
    picture = ""
    for name, sha256 in result.files.items():
        if not name.endswith(("_record.json", "_overlay.png")):
            continue
        path = inside(folder.path, name)
        try:
            whole = path is not None and scan_sha256(path) == sha256
        except (OSError, InputError):
            whole = False
        content = read_json(folder.path / name) if whole and name.endswith(".json") else {}
        if not whole or content is None:
            lost = (
                "was changed after the batch wrote it: move it away and run the batch again"
                if os.path.lexists(folder.path / name)
                else "was removed after the batch wrote it: run the batch again"
            )
            return Entry(
                replace(
                    nothing,
                    status="failed",
                    reason=f"{Path(name).name} {lost}",
                )
            )
        if name.endswith(".json"):
            record = content
        else:
            picture = name
    return Entry(result, _sound(record), picture)


def _sound(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the page takes of a record, without what is not of the right kind."""

    def table(value: Any) -> dict[str, Any]:
        return value if isinstance(value, dict) else {}

    def texts(value: Any) -> list[str]:
        return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []

    quality = table(record.get("quality"))
    flags = quality.get("flags")
    return {
        "quality": {
            "flags": [
                flag
                for flag in (flags if isinstance(flags, list) else ())
                if isinstance(flag, dict)
                and isinstance(flag.get("key"), str)
                and isinstance(flag.get("message"), str)
            ],
            "figures": {
                key: value
                for key, value in table(quality.get("figures")).items()
                if isinstance(value, int | float) and math.isfinite(value)
            },
            "unchecked": texts(quality.get("unchecked")),
        },
        "largest": _largest(record.get("findings")),
        "warnings": texts(record.get("warnings")),
        "versions": table(record.get("versions")),
        **{key: record[key] for key in ("device", "precision") if key in record},
    }


def _largest(findings: Any) -> FindingEntry | None:
    try:
        entries = [FindingEntry.model_validate(each) for each in findings or ()]
    except (TypeError, ValidationError):
        return None
    return max(entries, key=lambda entry: entry.volume_ml, default=None)


def write_cohort_report(path: Path, most_pictures: int = MOST_PICTURES) -> dict[str, Path]:
    """Write the page, its CSV and its JSON into a batch's folder, and the manifest of all shards.

    Parameters
    ----------
    path : Path
        The output folder of a batch; it may still be running.
    most_pictures : int
        At most so many montages go into the page: of cases with quality flags first, then of those
        with the largest findings.

    Returns
    -------
    dict of str to Path
        ``page``, ``table``, ``figures``, ``manifest``.

    Raises
    ------
    InputError
        When the folder holds no batch.
    MissingExtraError
        Without jinja2.
    AddmError
        When a file cannot be written, or one of these names is that of another person's file.
    """
    path = Path(path)
    environment = page_environment()
    cohort = read_cohort(path)
    _check_own(path, cohort)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    intervals = _intervals(cohort)
    summary = _summary(cohort, intervals, created)
    shown = _pictured(cohort, most_pictures)
    page = environment.get_template("cohort.html").render(
        cohort=cohort,
        summary=summary,
        intervals=[(rated_metrics()[name], interval) for name, interval in intervals.items()],
        flagged=[entry for entry in cohort.entries if entry.result.qc],
        flag_labels=FLAG_TITLES,
        flag_counts=Counter(key for entry in cohort.entries for key in entry.result.qc),
        histogram=_histogram(
            [e.result.anomaly_ml for e in cohort.of("done") if e.result.anomaly_ml is not None]
        ),
        pictures=[(entry, _thumbnail(path / entry.picture)) for entry in shown],
        left_out=sum(bool(entry.picture) for entry in cohort.entries) - len(shown),
        parameters=_flat(cohort.parameters),
        versions=_versions(cohort),
    )
    written = {
        "page": path / PAGE,
        "table": path / TABLE,
        "figures": path / FIGURES,
        "manifest": manifest_path(path),
    }
    figures = json.dumps(_finite(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for key, text in (("page", page), ("table", _table(cohort)), ("figures", figures)):
        write_atomic(written[key], text)
    write_manifest(written["manifest"], (entry.result for entry in cohort.entries))
    return written


def _check_own(path: Path, cohort: Cohort) -> None:
    """Make sure that the report replaces no file of another person."""
    check_manifest(CohortFolder(path))
    figures = _read_figures(path / FIGURES)
    ours = {
        PAGE: PAGE_MARK in file_beginning(path / PAGE),
        TABLE: file_beginning(path / TABLE).partition("\n")[0] in _known_headers(figures, cohort),
        FIGURES: figures is not None and figures.keys() >= FIGURES_KEYS,
    }
    for name, known in ours.items():
        if os.path.lexists(path / name) and not known:
            raise not_ours(path / name)


def _read_figures(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except OSError:
        return None


def _known_headers(figures: Mapping[str, Any] | None, cohort: Cohort) -> set[str]:
    """First lines of the CSV that was written with these figures, in this version and before."""
    cases = (figures or {}).get("cases")
    if not isinstance(cases, list):  # there is no JSON beside it
        cases = [{"figures": e.figures, "metrics": e.result.metrics} for e in cohort.entries]
    rows = [case for case in cases if isinstance(case, dict)]
    return {
        ",".join(str(csv_cell(cell)) for cell in _header(rows, largest))
        for largest in (LARGEST, ())
    }


def _finite(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _intervals(cohort: Cohort) -> dict[str, MeanInterval]:
    """Means over the subjects with a ground truth, the sessions of one averaged first."""
    judged = [entry.result for entry in cohort.of("done") if entry.result.metrics]
    found = {}
    for name in rated_metrics() if judged else ():
        scores: dict[str, list[float | None]] = {}
        for result in judged:
            value = result.metrics.get(name)
            scores.setdefault(subject(result.case), []).append(
                float(value) if isinstance(value, int | float) and math.isfinite(value) else None
            )
        found[name] = mean_interval(scores)
    return found


def subject(case: str) -> str:
    """Whose scan a case is: ``sub-01`` for all BIDS sessions of one, else the case itself."""
    last = case.rpartition("/")
    name = last[2].partition("_")[0]
    return f"{last[0]}/{name}" if name.startswith("sub-") else case


def _summary(cohort: Cohort, intervals: Mapping[str, MeanInterval], created: str) -> dict[str, Any]:
    """What the JSON holds."""
    counts = Counter(entry.result.status for entry in cohort.entries)
    return {
        "schema_version": 1,
        "created_utc": created,
        "version": __version__,
        "parameters": dict(cohort.parameters),
        "counts": {status: counts[status] for status in ("done", "failed", "skipped")},
        "missing_shards": list(cohort.missing),
        "notes": list(cohort.notes),
        "metrics": {name: asdict(interval) for name, interval in intervals.items()},
        "cases": [
            {
                "case": e.result.case,
                "input": e.result.input,
                "status": e.result.status,
                "reason": e.result.reason,
                "seconds": e.result.seconds,
                "anomaly_ml": e.result.anomaly_ml,
                "findings": e.result.findings,
                "largest": e.largest and e.largest.model_dump(include=set(LARGEST)),
                "qc": e.flags or [{"key": key} for key in e.result.qc],
                "figures": e.figures,
                "unchecked": e.unchecked,
                "metrics": dict(e.result.metrics),
                "warnings": list(e.record.get("warnings") or ()),
                "files": list(e.result.files),
            }
            for e in cohort.entries
        ],
    }


def _table(cohort: Cohort) -> str:
    """One line for each case, a column for each figure that any of them has."""
    metrics = _columns([e.result.metrics for e in cohort.entries])
    figures = _columns([e.figures for e in cohort.entries])
    rows = [{"figures": e.figures, "metrics": e.result.metrics} for e in cohort.entries]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(rows, LARGEST))
    for e in cohort.entries:
        measured = e.figures
        cells = [getattr(e.result, key) for key in OWN_COLUMNS]
        cells += [" ".join(e.result.qc), *(getattr(e.largest, key, None) for key in LARGEST)]
        cells += [*(measured.get(key) for key in figures)]
        cells += [e.result.metrics.get(key) for key in metrics]
        writer.writerow(csv_cell(cell) for cell in cells)
    return text.getvalue()


def _header(rows: Sequence[Mapping[str, Any]], largest: Sequence[str]) -> list[str]:
    """The columns of the CSV, for rows with their ``figures`` and ``metrics``."""
    largest = [f"largest_{key}" for key in largest]
    measured = [
        name for key in ("figures", "metrics") for name in _columns([r.get(key) for r in rows])
    ]
    return [*OWN_COLUMNS, "qc", *largest, *measured]


def _columns(tables: Sequence[Any]) -> list[str]:
    """The keys of all tables, in the order of their first occurrence."""
    found = dict.fromkeys(key for table in tables if isinstance(table, Mapping) for key in table)
    return [key for key in found if key != "notes"]


def _pictured(cohort: Cohort, most: int) -> list[Entry]:
    """Whose montages go into the page, in the order of the cases."""
    ranked = sorted(
        (entry for entry in cohort.entries if entry.picture),
        key=lambda e: (not e.result.qc, -(e.result.anomaly_ml or 0.0)),
    )
    chosen = {entry.result.case for entry in ranked[: max(most, 0)]}
    return [entry for entry in cohort.entries if entry.result.case in chosen]


def _thumbnail(path: Path) -> str:
    """A montage, smaller, as a JPEG in base64; its metadata stay behind."""
    from PIL import Image

    with Image.open(path) as picture:
        size = (PICTURE_WIDTH, round(PICTURE_WIDTH * picture.height / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=72, optimize=True)
    return base64.b64encode(encoded.getvalue()).decode("ascii")


def _histogram(volumes: Sequence[float]) -> dict[str, Any] | None:
    """Bars of a histogram of mL: cases with nothing, then a logarithmic axis."""
    if not volumes:
        return None
    some = [volume for volume in volumes if volume > 0]
    low = math.floor(math.log10(min(some))) if some else 0
    high = max(math.ceil(math.log10(max(some))) if some else 1, low + 1)
    edges = [low + (high - low) * n / BARS for n in range(BARS + 1)]
    counts = [0] * BARS
    for volume in some:
        place = int((math.log10(volume) - low) / (high - low) * BARS)
        counts[min(place, BARS - 1)] += 1
    ordered = sorted(volumes)
    tallest = max([*counts, len(volumes) - len(some), 1])
    return {
        "none": len(volumes) - len(some),
        "bars": [
            {"count": n, "low": 10 ** edges[k], "high": 10 ** edges[k + 1], "height": n / tallest}
            for k, n in enumerate(counts)
        ],
        "none_height": (len(volumes) - len(some)) / tallest,
        "ticks": [
            {"at": (exponent - low) / (high - low), "label": f"{10.0**exponent:g}"}
            for exponent in range(low, high + 1)
        ],
        "n": len(volumes),
        "median": _median(ordered),
        "mean": math.fsum(ordered) / len(ordered),
        "largest": ordered[-1],
    }


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as lines."""
    lines: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines |= _flat(value, f"{prefix}{key} ")
        elif value is not None:
            lines[f"{prefix}{key}".replace("_", " ")] = str(value)
    return lines


def _versions(cohort: Cohort) -> dict[str, str]:
    """Of all records: each library, device and precision, with all that occur."""
    found: dict[str, dict[str, None]] = {}
    for entry in cohort.of("done"):
        for name, version in (entry.record.get("versions") or {}).items():
            found.setdefault(name, {})[str(version)] = None
        for name in ("device", "precision"):
            if name in entry.record:
                found.setdefault(name, {})[str(entry.record[name])] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
