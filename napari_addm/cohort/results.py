"""What became of every case of a batch, out of the plans, states and run records in its folder."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, ValidationError

from napari_addm.cohort.case import CaseResult
from napari_addm.cohort.files import inside, read_json
from napari_addm.cohort.folder import CohortFolder, PlannedCase
from napari_addm.cohort.state import CaseState
from napari_addm.detection.quality import QualityFlag
from napari_addm.errors import InputError
from napari_addm.io.hashing import json_sha256, scan_sha256
from napari_addm.outputs.record import FindingEntry


class ReportedQuality(BaseModel):
    """The quality control of a record; see `napari_addm.detection.quality.Quality`."""

    flags: Annotated[list[QualityFlag], FailFast()] = []
    figures: dict[str, float | None] = {}
    unchecked: Annotated[list[str], FailFast()] = []


class ReportedRecord(BaseModel):
    """What a report shows of a `napari_addm.outputs.record.RunRecord`."""

    quality: ReportedQuality = ReportedQuality()
    findings: Annotated[list[FindingEntry], FailFast()] = []
    warnings: Annotated[list[str], FailFast()] = []
    versions: dict[str, str] = {}
    device: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Entry:
    """A case in a report; `picture` is the path of its montage under the folder."""

    result: CaseResult
    record: ReportedRecord = field(default_factory=ReportedRecord)
    picture: str = ""

    @property
    def flags(self) -> list[QualityFlag]:
        """Quality flags with their sentences."""
        return self.record.quality.flags

    @property
    def largest(self) -> FindingEntry | None:
        """The largest finding; None without one."""
        return max(self.record.findings, key=lambda found: found.volume_ml, default=None)

    @property
    def figures(self) -> dict[str, float]:
        """The measurements of the quality control, by name."""
        figures = self.record.quality.figures.items()
        return {key: value for key, value in figures if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Cohort:
    """What a batch's folder holds.

    Attributes
    ----------
    missing : tuple of str
        Shards that have not begun, such as ``3 of 4``.
    notes : tuple of str
        What else a reader has to know.
    """

    parameters: Mapping[str, Any]
    entries: tuple[Entry, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def with_status(self, status: str) -> list[Entry]:
        """The entries with one status."""
        return [entry for entry in self.entries if entry.result.status == status]


def read_cohort(path: Path) -> Cohort:
    """Read what became of every case of a batch, with those of all its shards.

    Raises
    ------
    AddmError
        When the folder holds no batch, or its plan or its states lie elsewhere.
    """
    folder = CohortFolder(path)
    folder.check_no_link()
    plans = folder.latest_plans()
    latest = max(plans, key=lambda plan: plan.order)
    notes = []
    if any(plan.parameters != latest.parameters for plan in plans):
        notes.append(
            "The shards were run with different models or settings; the cases of those that differ "
            "from the latest are left out."
        )
    there, count = {plan.shard[0] for plan in plans}, latest.shard[1]
    missing = tuple(f"{i} of {count}" for i in range(1, count + 1) if i not in there)
    parameters = json_sha256(latest.parameters)
    rows = {row.case: row for plan in plans for row in plan.cases}
    states = _read_states(folder, rows)
    entries = []
    for name, planned in sorted(rows.items()):
        result = _current_row(planned, states.get(name), parameters)
        entries.append(_with_files(folder, result) if result.status == "done" else Entry(result))
    return Cohort(latest.parameters, tuple(entries), missing, tuple(notes))


def _read_states(folder: CohortFolder, cases: Iterable[str]) -> dict[str, CaseState]:
    """The states of the cases, without those that name files of another case."""
    states = {name: state for name in cases if (state := folder.states.read(name)) is not None}
    count = Counter(file for state in states.values() for file in state.result.files)
    own = (name for name, state in states.items() if all(count[f] == 1 for f in state.result.files))
    return {name: states[name] for name in own}


def _current_row(planned: PlannedCase, state: CaseState | None, parameters: str) -> CaseResult:
    """The row of a planned case, judging by its state alone."""
    nothing = CaseResult(planned.case, planned.input, "skipped")
    if planned.skip:
        return replace(nothing, reason=planned.skip)
    if planned.problem:
        return replace(nothing, status="failed", reason=planned.problem)
    if state is None or state.result.status == "skipped":
        return replace(nothing, reason="not reached yet")
    if state.done and state.result.is_of_another_scan(planned.input, planned.scan):
        reason = (
            f"its files are those of another scan ({state.result.input_name}), or of this one in "
            "another place: run the batch again"
        )
        return replace(nothing, status="failed", reason=reason)
    if not state.done and state.parameters != parameters:
        return replace(nothing, reason="not reached yet with these settings")
    return state.row(parameters)


def _with_files(folder: CohortFolder, result: CaseResult) -> Entry:
    """A case that is done, with its record and its picture if both are as they were written."""
    record, picture = ReportedRecord(), ""
    for name, sha256 in result.files.items():
        if not name.endswith(("_record.json", "_overlay.png")):
            continue
        path, content = inside(folder.path, name), None
        with suppress(OSError, InputError):
            if path is not None and scan_sha256(path) == sha256:
                content = read_json(path) if name.endswith(".json") else {}
        if content is None:
            lost = (
                "was changed after the batch wrote it: move it away and run the batch again"
                if os.path.lexists(folder.path / name)
                else "was removed after the batch wrote it: run the batch again"
            )
            reason = f"{Path(name).name} {lost}"
            return Entry(CaseResult(result.case, result.input, "failed", reason))
        if name.endswith(".json"):
            with suppress(ValidationError):  # a record of another version
                record = ReportedRecord.model_validate(content)
        else:
            picture = name
    return Entry(result, record, picture)
