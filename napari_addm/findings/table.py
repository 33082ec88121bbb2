"""Findings as a table: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from napari_addm.findings.decisions import NO_DECISIONS, UNDECIDED, Decisions
from napari_addm.findings.findings import Finding
from napari_addm.io.text import csv_cell

CSV_COLUMNS = (
    "id",
    "volume_ml",
    "side",
    "from_midline_mm",
    "midline_source",
    "region",
    "region_fit",
    "x_mm",
    "y_mm",
    "z_mm",
    "peak",
    "mean",
    "uncertainty",
    "slice",
    "voxels",
    "longest_mm",
    "across_mm",
    "product_mm2",
    "widest_slice",
    "found_by",
    "decision",
    "note",
)
DIAMETER_COLUMNS = ("longest_mm", "across_mm", "product_mm2", "widest_slice")


def findings_csv(
    findings: Sequence[Finding],
    decisions: Decisions = NO_DECISIONS,
    columns: Sequence[str] = CSV_COLUMNS,
) -> str:
    """Write the findings as CSV text with a header line; unknown values are empty cells.

    `side` and `from_midline_mm` refer to the patient's brain. `x_mm`, `y_mm`, `z_mm` are the
    centroid in scanner coordinates (RAS+), whose origin is no anatomical point. `slice` and
    `widest_slice` count from 0 along S. `longest_mm` and `across_mm` are the diameters of
    `napari_addm.findings.diameters.Diameters`, in `widest_slice`. `decision` is ``accepted``,
    ``rejected`` or empty. A note that a spreadsheet would read as a formula begins with an
    apostrophe.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for finding in findings:
        decision = decisions.get(finding.id, UNDECIDED)
        cells = (
            finding.id,
            f"{finding.volume_ml:.3f}",
            finding.side or "",
            _rounded(finding.from_midline_mm, ".1f"),
            finding.midline_source or "",
            finding.region or "",
            _rounded(finding.region_fit, ".2f"),
            *(f"{value:.1f}" for value in finding.centroid_mm),
            f"{finding.peak:.6g}",
            f"{finding.mean:.6g}",
            _rounded(finding.uncertainty, ".6g"),
            finding.slice,
            finding.voxels,
            _rounded(finding.longest_mm, ".1f"),
            _rounded(finding.across_mm, ".1f"),
            _rounded(finding.product_mm2, ".1f"),
            _rounded(finding.widest_slice, "d"),
            finding.found_by or "",
            decision.verdict or "",
            csv_cell(decision.note),
        )
        writer.writerow(dict(zip(CSV_COLUMNS, cells, strict=True)))
    return text.getvalue()


def _rounded(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def findings_record(
    findings: Sequence[Finding], decisions: Decisions = NO_DECISIONS
) -> list[dict[str, Any]]:
    """Return the findings ready for JSON, each with its ``decision`` (or None) and ``note``.

    The centroid is there twice: as `centroid_mm`, and by the names of the CSV's columns.
    """
    return [
        {
            **asdict(finding),
            **dict(zip(("x_mm", "y_mm", "z_mm"), finding.centroid_mm, strict=True)),
            "decision": decisions.get(finding.id, UNDECIDED).verdict,
            "note": decisions.get(finding.id, UNDECIDED).note,
        }
        for finding in findings
    ]
