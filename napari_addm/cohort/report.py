"""The report of a cohort: one HTML page, and a CSV and a JSON file with the same figures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_addm import __version__
from napari_addm.cohort.files import REPORTS, file_beginning, not_ours, read_json
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.manifest import check_manifest, manifest_path, write_manifest
from napari_addm.cohort.results import Cohort, Entry, read_cohort
from napari_addm.detection.quality import ALARMS, FLAG_TITLES
from napari_addm.io.files import write_atomic
from napari_addm.io.text import csv_cell
from napari_addm.metrics.metric import rated_metrics
from napari_addm.metrics.statistics import MeanInterval, mean_interval
from napari_addm.outputs.pages import as_jpeg, finite_number, page_environment

PAGE, TABLE, FIGURES = REPORTS
# A page and a JSON file that a report may replace have these.
PAGE_MARK = "<h1>What the batch found</h1>"
FIGURES_KEYS = {"schema_version", "created_utc", "version", "parameters", "counts", "cases"}
MOST_PICTURES = 200
PICTURE_WIDTH = 900
BARS = 24

RESULT_COLUMNS = ("case", "input", "status", "reason", "seconds", "anomaly_ml", "findings")
REVIEW_COLUMNS = ("accepted", "rejected", "open", "kept_ml", "seen")
LARGEST_COLUMNS = ("volume_ml", "side", "from_midline_mm", "midline_source", "region")


def write_cohort_report(path: Path, most_pictures: int = MOST_PICTURES) -> dict[str, Path]:
    """Write the page, its CSV and its JSON into a batch's folder, and the manifest of all shards.

    Parameters
    ----------
    path : Path
        The output folder of a batch, which may still be running.
    most_pictures : int
        Number of montages on the page: cases with quality flags come first, then those with the
        largest findings.

    Returns
    -------
    dict of str to Path
        ``page``, ``table``, ``figures``, ``manifest``.

    Raises
    ------
    AddmError
        When the folder holds no batch, a file cannot be written, or a file of another person has
        one of the names.
    """
    path = Path(path)
    environment = page_environment("napari_addm.cohort")
    cohort = read_cohort(path)
    _check_own(path, cohort)
    intervals = _intervals(cohort)
    summary = _summary(cohort, intervals)
    shown = _choose_pictures(cohort, most_pictures)
    page = environment.get_template("cohort.html").render(
        cohort=cohort,
        summary=summary,
        intervals=[(rated_metrics()[name], interval) for name, interval in intervals.items()],
        flagged=[entry for entry in cohort.entries if entry.result.qc],
        decided=[entry for entry in cohort.entries if entry.decided or entry.seen],
        flag_labels=FLAG_TITLES,
        alarms=ALARMS,
        flag_counts=Counter(key for entry in cohort.entries for key in entry.result.qc),
        histogram=_histogram([entry.result.anomaly_ml for entry in cohort.with_status("done")]),
        pictures=[(entry, _thumbnail(path / entry.picture)) for entry in shown],
        left_out=sum(bool(entry.picture) for entry in cohort.entries) - len(shown),
        parameters=_as_lines(cohort.parameters),
        versions=_versions(cohort),
    )
    figures = json.dumps(_as_json(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path / PAGE, page)
    write_atomic(path / TABLE, _table(cohort))
    write_atomic(path / FIGURES, figures)
    write_manifest(manifest_path(path), (entry.result for entry in cohort.entries))
    return {
        "page": path / PAGE,
        "table": path / TABLE,
        "figures": path / FIGURES,
        "manifest": manifest_path(path),
    }


def _check_own(path: Path, cohort: Cohort) -> None:
    """Make sure that the report replaces no file of another person."""
    check_manifest(CohortFolder(path))
    try:
        figures = read_json(path / FIGURES) or {}
    except OSError:
        figures = {}
    ours = {
        PAGE: PAGE_MARK in file_beginning(path / PAGE),
        TABLE: file_beginning(path / TABLE).partition("\n")[0] == _table_header(figures, cohort),
        FIGURES: figures.keys() >= FIGURES_KEYS,
    }
    for name, known in ours.items():
        if os.path.lexists(path / name) and not known:
            raise not_ours(path / name)


def _table_header(figures: Mapping[str, Any], cohort: Cohort) -> str:
    """The first line of the CSV that belongs to a JSON file, or to the cohort without one."""
    cases = figures.get("cases")
    rows = _rows(cohort)
    if isinstance(cases, list):
        rows = [case for case in cases if isinstance(case, dict)]
    return ",".join(str(csv_cell(cell)) for cell in _header(rows))


def _rows(cohort: Cohort) -> list[dict[str, Mapping[str, Any]]]:
    return [{"figures": e.figures, "metrics": e.result.metrics} for e in cohort.entries]


# --- the figures ---------------------------------------------------------------------------------


def _intervals(cohort: Cohort) -> dict[str, MeanInterval]:
    """Means over the subjects with a ground truth, after a mean over the sessions of each."""
    judged = [entry.result for entry in cohort.with_status("done") if entry.result.metrics]
    found = {}
    for name in rated_metrics() if judged else ():
        scores: dict[str, list[float | None]] = {}
        for result in judged:
            value = result.metrics.get(name)
            scores.setdefault(subject(result.case), []).append(finite_number(value))
        found[name] = mean_interval(scores)
    return found


def subject(case: str) -> str:
    """The subject of a case: ``sub-01`` for all BIDS sessions of one, else the case itself."""
    folder, _, last = case.rpartition("/")
    return f"{folder}/{last.partition('_')[0]}" if last.startswith("sub-") else case


def _summary(cohort: Cohort, intervals: Mapping[str, MeanInterval]) -> dict[str, Any]:
    """The content of the JSON file."""
    counts = Counter(entry.result.status for entry in cohort.entries)
    return {
        "schema_version": 1,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "parameters": dict(cohort.parameters),
        "counts": {status: counts[status] for status in ("done", "failed", "skipped")},
        "missing_shards": list(cohort.missing),
        "notes": list(cohort.notes),
        "metrics": {name: asdict(interval) for name, interval in intervals.items()},
        "cases": [
            {
                **{key: getattr(e.result, key) for key in RESULT_COLUMNS},
                **{key: getattr(e, key) for key in REVIEW_COLUMNS},
                "decisions": [
                    {"id": each.id, "decision": each.decision, "note": each.note}
                    for each in e.decided
                ],
                "largest": e.largest and {key: getattr(e.largest, key) for key in LARGEST_COLUMNS},
                "qc": [asdict(flag) for flag in e.flags] or [{"key": key} for key in e.result.qc],
                "figures": e.figures,
                "unchecked": list(e.unchecked),
                "metrics": dict(e.result.metrics),
                "warnings": [remark.as_dict() for remark in e.remarks],
                "files": list(e.result.files),
            }
            for e in cohort.entries
        ],
    }


def _as_json(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(cohort: Cohort) -> str:
    """The CSV: one line for each case, a column for each figure that any of them has."""
    rows = _rows(cohort)
    columns = {part: _columns(row[part] for row in rows) for part in ("figures", "metrics")}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(rows))
    for entry, row in zip(cohort.entries, rows, strict=True):
        cells = [getattr(entry.result, key) for key in RESULT_COLUMNS]
        cells += [getattr(entry, key) for key in REVIEW_COLUMNS]
        cells += [" ".join(entry.result.qc)]
        cells += [getattr(entry.largest, key, None) for key in LARGEST_COLUMNS]
        for part in row:
            cells += [row[part].get(key) for key in columns[part]]
        writer.writerow(csv_cell(cell) for cell in cells)
    return text.getvalue()


def _header(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the CSV, for rows with their ``figures`` and ``metrics``."""
    measured = [
        key for part in ("figures", "metrics") for key in _columns(r.get(part) for r in rows)
    ]
    largest = (f"largest_{key}" for key in LARGEST_COLUMNS)
    return [*RESULT_COLUMNS, *REVIEW_COLUMNS, "qc", *largest, *measured]


def _columns(tables: Iterable[Any]) -> list[str]:
    """The keys of all tables, in the order of their first occurrence."""
    found = dict.fromkeys(key for table in tables if isinstance(table, Mapping) for key in table)
    return [key for key in found if key != "notes"]


# --- the page ------------------------------------------------------------------------------------


def _choose_pictures(cohort: Cohort, most: int) -> list[Entry]:
    """The entries with a montage on the page, in the order of the cases."""
    ranked = sorted(
        (entry for entry in cohort.entries if entry.picture),
        key=lambda e: (not e.result.qc, -(e.result.anomaly_ml or 0.0)),
    )
    chosen = {entry.result.case for entry in ranked[: max(most, 0)]}
    return [entry for entry in cohort.entries if entry.result.case in chosen]


def _thumbnail(path: Path) -> str:
    """A smaller montage as a JPEG in base64, without its metadata."""
    from PIL import Image

    with Image.open(path) as picture:
        size = (PICTURE_WIDTH, round(PICTURE_WIDTH * picture.height / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return as_jpeg(small, 72)


def _histogram(volumes: Iterable[float | None]) -> dict[str, Any] | None:
    """Bars of a histogram of mL: cases with nothing, then a logarithmic axis."""
    known = [volume for volume in volumes if volume is not None]
    if not known:
        return None
    some = [volume for volume in known if volume > 0]
    low = math.floor(math.log10(min(some))) if some else 0
    high = max(math.ceil(math.log10(max(some))) if some else 1, low + 1)
    edges = [10 ** (low + (high - low) * n / BARS) for n in range(BARS + 1)]
    counts = [0] * BARS
    for volume in some:
        place = int((math.log10(volume) - low) / (high - low) * BARS)
        counts[min(place, BARS - 1)] += 1
    none = len(known) - len(some)
    tallest = max([*counts, none, 1])
    return {
        "none": none,
        "none_height": none / tallest,
        "bars": [
            {"count": n, "low": edges[k], "high": edges[k + 1], "height": n / tallest}
            for k, n in enumerate(counts)
        ],
        "ticks": [
            {"at": (exponent - low) / (high - low), "label": f"{10.0**exponent:g}"}
            for exponent in range(low, high + 1)
        ],
        "n": len(known),
        "median": statistics.median(known),
        "mean": math.fsum(known) / len(known),
        "largest": max(known),
    }


def _as_lines(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as lines."""
    lines: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines |= _as_lines(value, f"{prefix}{key} ")
        elif value is not None:
            lines[f"{prefix}{key}".replace("_", " ")] = str(value)
    return lines


def _versions(cohort: Cohort) -> dict[str, str]:
    """Each library, device and precision of the records, with all that occur."""
    found: dict[str, dict[str, None]] = {}
    for entry in cohort.with_status("done"):
        if (record := entry.record) is None:
            continue
        named = {**record.versions, "device": record.device, "precision": record.precision}
        for name, version in named.items():
            if version:
                found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
