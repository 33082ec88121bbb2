"""The manifest of a batch: one row for each case."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from napari_addm.cohort.case import CaseResult, Shard
from napari_addm.cohort.files import MANIFEST, file_beginning, not_ours
from napari_addm.cohort.folder import CohortFolder
from napari_addm.io.files import write_atomic
from napari_addm.io.text import csv_cell

COLUMNS = ("case", "input", "status", "reason", "seconds", "anomaly_ml", "findings", "dice", "qc")


def manifest_path(output: Path, shard: Shard | None = None) -> Path:
    """The manifest of a batch, or a shard's part of it."""
    return output / (f"manifest_{shard.label}.csv" if shard and shard.label else MANIFEST)


def check_manifest(folder: CohortFolder, shard: Shard | None = None) -> None:
    """Make sure that the manifest replaces no file of another person; nothing is written."""
    path = manifest_path(folder.path, shard)
    if os.path.lexists(path) and not (
        folder.has_plan() and file_beginning(path).partition("\n")[0] == ",".join(COLUMNS)
    ):
        raise not_ours(path)


def write_manifest(path: Path, results: Iterable[CaseResult]) -> None:
    """Write the table of cases; an earlier one stays if that fails."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        cells = {**asdict(result), "qc": " ".join(result.qc)}
        writer.writerow(_cell(cells[column]) for column in COLUMNS)
    write_atomic(path, text.getvalue())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(csv_cell(value))
