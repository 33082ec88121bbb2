"""What became of every case of a batch, out of the plans, states and run records in its folder."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_addm.cohort.case import UNCHECKED, CaseResult
from napari_addm.cohort.files import inside
from napari_addm.cohort.folder import CohortFolder, PlannedCase
from napari_addm.cohort.state import CaseState
from napari_addm.detection.quality import ALARMS, QualityFlag
from napari_addm.errors import AddmError, InputError
from napari_addm.io.hashing import json_sha256, scan_sha256
from napari_addm.io.remarks import Remark
from napari_addm.outputs.record import FindingEntry, QualityEntry, RunRecord, read_record

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A case in a report.

    Attributes
    ----------
    record : RunRecord or None
        None for a case that is not done, and where the record cannot be read.
    picture : str
        The path of its montage under the folder.
    """

    result: CaseResult
    record: RunRecord | None = None
    picture: str = ""

    @property
    def quality(self) -> QualityEntry | None:
        """The quality control; None where nothing is known of it."""
        return None if self.record is None else self.record.quality

    @property
    def findings(self) -> tuple[FindingEntry, ...]:
        """The findings of the record."""
        return () if self.record is None else self.record.findings

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The warnings and the quality flags of the record, the heaviest first."""
        return () if self.record is None else self.record.remarks

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What the quality control could not check."""
        return () if self.quality is None else self.quality.unchecked

    @property
    def flags(self) -> tuple[QualityFlag, ...]:
        """Quality flags with their sentences."""
        return () if self.quality is None else self.quality.flags

    @property
    def alarmed(self) -> bool:
        """Whether its map is not to be trusted."""
        return not set(ALARMS).isdisjoint(self.result.qc)

    @property
    def largest(self) -> FindingEntry | None:
        """The largest finding; None without one."""
        return max(self.findings, key=lambda found: found.volume_ml, default=None)

    @property
    def accepted(self) -> int | None:
        """How many findings a person has accepted; None without a record."""
        return self._count("accepted")

    @property
    def rejected(self) -> int | None:
        """How many findings a person has rejected; None without a record."""
        return self._count("rejected")

    @property
    def open(self) -> int | None:
        """How many findings are neither accepted nor rejected; None without a record."""
        return self._count(None)

    def _count(self, decision: str | None) -> int | None:
        if self.record is None:
            return None
        return sum(found.decision == decision for found in self.findings)

    @property
    def kept_ml(self) -> float | None:
        """Volume of the findings that are not rejected, mL; None without a record."""
        kept = (found.volume_ml for found in self.findings if found.decision != "rejected")
        return None if self.record is None else math.fsum(kept)

    @property
    def decided(self) -> tuple[FindingEntry, ...]:
        """The findings that a person has decided on, or has written a note on."""
        return tuple(found for found in self.findings if found.decision or found.note)

    @property
    def seen(self) -> bool:
        """Whether a person has looked at a case in which nothing was found."""
        return self.record is not None and self.record.seen

    @property
    def figures(self) -> dict[str, float]:
        """The measurements of the quality control, by name."""
        return {} if self.quality is None else self.quality.figures


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
    record, picture = None, ""
    for name, sha256 in result.files.items():
        if not name.endswith(("_record.json", "_overlay.png")):
            continue
        path, intact = inside(folder.path, name), False
        with suppress(OSError, InputError):
            intact = path is not None and scan_sha256(path) == sha256
        if path is None or not intact:
            lost = (
                "was changed after the batch wrote it: move it away and run the batch again"
                if os.path.lexists(folder.path / name)
                else "was removed after the batch wrote it: run the batch again"
            )
            reason = f"{Path(name).name} {lost}"
            return Entry(CaseResult(result.case, result.input, "failed", reason))
        if name.endswith(".json"):
            try:
                record = read_record(path)
            except AddmError as error:  # of another version, or forged with its hash
                problem = str(error).replace(str(path), path.name)
                result = replace(result, reason=f"{UNCHECKED}: {problem}")
                _log.warning("%s: %s", result.case, problem)
        else:
            picture = name
    return Entry(result, record, picture)
