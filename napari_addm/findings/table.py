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
    "decision",
    "note",
)


def findings_csv(findings: Sequence[Finding], decisions: Decisions = NO_DECISIONS) -> str:
    """Write the findings as CSV text with a header line; unknown values are empty cells.

    `side` and `from_midline_mm` refer to the patient's brain. `x_mm`, `y_mm`, `z_mm` are the
    centroid in scanner coordinates (RAS+), whose origin is no anatomical point. `slice` counts
    from 0 along S. `decision` is ``accepted``, ``rejected`` or empty. A note that a spreadsheet
    would read as a formula begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for finding in findings:
        decision = decisions.get(finding.id, UNDECIDED)
        writer.writerow(
            (
                finding.id,
                f"{finding.volume_ml:.3f}",
                finding.side or "",
                "" if finding.from_midline_mm is None else f"{finding.from_midline_mm:.1f}",
                finding.midline_source or "",
                finding.region or "",
                "" if finding.region_fit is None else f"{finding.region_fit:.2f}",
                *(f"{value:.1f}" for value in finding.centroid_mm),
                f"{finding.peak:.6g}",
                f"{finding.mean:.6g}",
                "" if finding.uncertainty is None else f"{finding.uncertainty:.6g}",
                finding.slice,
                finding.voxels,
                decision.verdict or "",
                csv_cell(decision.note),
            )
        )
    return text.getvalue()


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
