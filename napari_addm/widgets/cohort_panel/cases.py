"""A cohort's cases as rows: states, columns, filters and order. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.inspect import InspectedCase
from napari_addm.detection.quality import ALARMS, FLAG_TITLES
from napari_addm.io.remarks import DO_NOT_TRUST
from napari_addm.widgets import texts

# In the order of the column.
RowState = Literal[
    "running",
    "writing",
    "failed",
    "failed earlier",
    "not checked",
    "will fail",
    "waiting",
    "done",
    "unchanged",
    "done earlier",
    "skipped",
]
STATES: tuple[RowState, ...] = get_args(RowState)
MARKS: dict[RowState, str] = {
    "will fail": "! ",
    "not checked": "! ",
    "skipped": "– ",
    "done earlier": "✓ ",
    "failed earlier": "✗ ",
    "running": "▸ ",
    "writing": "▸ ",
    "done": "✓ ",
    "unchanged": "✓ ",
    "failed": "✗ ",
}
FAILED: tuple[RowState, ...] = ("failed", "failed earlier")
DONE: tuple[RowState, ...] = ("done", "unchanged", "done earlier", "not checked")
TRY_AGAIN: tuple[RowState, ...] = (*FAILED, "not checked")
"""States that another try may change."""
SUMMARY: dict[str, tuple[RowState, ...]] = {
    "done": DONE,
    "failed": FAILED,
    "not checked": ("not checked",),
    "that will fail": ("will fail",),
    "skipped": ("skipped",),
}


@dataclass(frozen=True)
class CaseRow:
    """What is known of a case.

    Attributes
    ----------
    found : InspectedCase
        What its headers and the output folder say.
    state : str
    percent : int
        How much of its reconstruction is done, while it is running.
    result : CaseResult or None
        Of this run or an earlier one.
    planned : bool
        Whether the last run was to do it.
    """

    found: InspectedCase
    state: RowState = "waiting"
    percent: int = 0
    result: CaseResult | None = None
    planned: bool = False

    @classmethod
    def before_run(cls, found: InspectedCase) -> CaseRow:
        """Make the row of a case that this panel has not run."""
        state: RowState = "waiting"
        if found.case.skip:
            state = "skipped"
        elif found.earlier is not None:
            state = "done earlier" if found.earlier.status == "done" else "failed earlier"
            if found.earlier.unchecked:
                state = "not checked"
        elif found.problem:
            state = "will fail"
        return cls(found, state, result=found.earlier, planned=found.planned)

    @property
    def case(self) -> CohortCase:
        """The case."""
        return self.found.case

    @property
    def name(self) -> str:
        """The name of the case."""
        return self.case.name

    @property
    def reason(self) -> str:
        """Why it was skipped, failed, or will fail."""
        failed = self.result.reason if self.result and self.state in (*TRY_AGAIN, "skipped") else ""
        return self.case.skip or failed or self.found.problem

    @property
    def flags(self) -> list[str]:
        """Quality flags in words: those of a run, or of the header before it."""
        return [FLAG_TITLES.get(key, key) for key in self._flag_keys]

    @property
    def alarmed(self) -> bool:
        """Whether a flag says that the map is not to be trusted."""
        return not set(ALARMS).isdisjoint(self._flag_keys)

    @property
    def _flag_keys(self) -> Sequence[str]:
        if self.result is not None and self.result.status == "done":
            return self.result.qc
        return [flag.key for flag in self.found.flags]

    @property
    def unfinished(self) -> bool:
        """Whether a run was to do it and left no result."""
        return self.planned and self.result is None and not self.case.skip

    @property
    def finished(self) -> bool:
        """Whether it has a result with files."""
        return self.result is not None and self.result.status == "done"

    @property
    def decided(self) -> tuple[int, int] | None:
        """How many of how many findings are accepted or rejected; None if that is not known."""
        if self.result is None or not self.finished or self.result.findings is None:
            return None
        return self.result.accepted + self.result.rejected, self.result.findings

    @property
    def to_review(self) -> bool:
        """Whether it has a finding that nobody has decided on, or none and nobody has seen that."""
        if self.decided is None:
            return False
        return self.decided[0] < self.decided[1] or not (self.decided[1] or self.seen)

    @property
    def seen(self) -> bool:
        """Whether a person has looked at it and nothing was found."""
        return self.result is not None and self.result.seen

    @property
    def reviewed(self) -> str:
        """How far its review is; empty while nobody has decided on anything."""
        if self.decided is not None and not self.decided[1]:
            return "seen" if self.seen else "no findings"
        if self.decided is None or not self.decided[0]:
            return ""
        return "{} of {}".format(*self.decided) if self.to_review else "done"

    @property
    def status(self) -> str:
        """The state with its mark, in words."""
        percent = f" {self.percent} %" if self.state == "running" else ""
        return f"{MARKS.get(self.state, '')}{self.state}{percent}"


@dataclass(frozen=True)
class CaseColumn:
    """A column of the table.

    Attributes
    ----------
    widest : str
        The widest text that it has room for.
    key : callable
        Gives what rows are sorted by. None comes last in either direction.
    show : callable
        Gives the text of a cell.
    aligned : {"left", "right", "center"}
    """

    widest: str
    key: Callable[[CaseRow], Any]
    show: Callable[[CaseRow], str]
    aligned: Literal["left", "right", "center"] = "left"


def _number(field: str, digits: int, widest: str) -> CaseColumn:
    def value(row: CaseRow) -> Any:
        return None if row.result is None else getattr(row.result, field)

    def show(row: CaseRow) -> str:
        return "" if value(row) is None else f"{value(row):.{digits}f}"

    return CaseColumn(widest, value, show, "right")


def _tick(field: str) -> CaseColumn:
    def is_given(row: CaseRow) -> bool:
        return getattr(row.case, field) is not None

    return CaseColumn(
        "✓", lambda row: is_given(row) or None, lambda row: "✓" if is_given(row) else "", "center"
    )


def _voxels(row: CaseRow) -> int | None:
    shape = row.found.shape
    return None if shape is None else shape[0] * shape[1] * shape[2]


def _share(decided: tuple[int, int] | None) -> float | None:
    """What reviews are sorted by: the open ones first; cases without findings come last."""
    return decided[0] / decided[1] if decided and decided[1] else None


COLUMNS: dict[str, CaseColumn] = {
    "case": CaseColumn("sub-001_ses-01_run-1", lambda row: row.name, lambda row: row.name),
    "status": CaseColumn(
        "▸ running 100 %", lambda row: STATES.index(row.state), lambda row: row.status
    ),
    "reviewed": CaseColumn(
        "no findings", lambda row: _share(row.decided), lambda row: row.reviewed
    ),
    "ml": _number("anomaly_ml", 1, "999.9"),
    "dice": _number("dice", 3, "0.9999"),
    "qc": CaseColumn(
        "left/right unknown",
        lambda row: len(row.flags) or None,
        lambda row: ", ".join(row.flags),
    ),
    "seconds": _number("seconds", 1, "999.9"),
    "truth": _tick("truth"),
    "mask": _tick("mask"),
    "size": CaseColumn(
        "999×999×999", _voxels, lambda row: "×".join(map(str, row.found.shape or ())), "right"
    ),
    "spacing": CaseColumn(
        "0.99×0.99×0.99",
        lambda row: max(row.found.spacing) if row.found.spacing else None,
        lambda row: "×".join(f"{mm:.2f}" for mm in row.found.spacing or ()),
        "right",
    ),
}
FILTERS: dict[str, Callable[[CaseRow], bool]] = {
    "All": lambda row: True,
    "Open": lambda row: row.state in ("waiting", "will fail", "running", "writing"),
    "Done": lambda row: row.state in DONE,
    "To review": lambda row: row.to_review,
    "Reviewed": lambda row: row.reviewed in ("done", "seen"),
    "Failed": lambda row: row.state in (*TRY_AGAIN, "will fail"),
    "Flagged": lambda row: bool(row.flags),
    "Skipped": lambda row: row.state == "skipped",
}


@dataclass(frozen=True)
class Arrangement:
    """Which rows are shown, and in which order.

    Attributes
    ----------
    words : str
        Letters that the name or the file of a case has.
    kind : str
        A key of `FILTERS`.
    column : str
        A key of `COLUMNS`.
    descending : bool
    """

    words: str = ""
    kind: str = "All"
    column: str = "case"
    descending: bool = False

    def apply(self, rows: Mapping[str, CaseRow]) -> list[str]:
        """Return the names of the cases to show."""
        words, is_kind = self.words.strip().lower(), FILTERS[self.kind]
        key = COLUMNS[self.column].key
        keys = {
            name: key(row)
            for name, row in rows.items()
            if is_kind(row) and (words in name.lower() or words in row.case.input.lower())
        }
        known = [name for name in keys if keys[name] is not None]
        known.sort(key=keys.__getitem__, reverse=self.descending)
        return known + [name for name in keys if keys[name] is None]


def summarize(rows: Iterable[CaseRow]) -> str:
    """Say how many cases there are, and how they stand."""
    rows = list(rows)
    states = [row.state for row in rows]
    parts = [f"{len(states)} cases" if len(states) != 1 else "1 case"]
    for words, kinds in SUMMARY.items():
        if count := sum(state in kinds for state in states):
            parts.append(f"{count} {words}")
    if count := sum(row.case.truth_found for row in rows):
        parts.append(f"{count} with a mask beside it as ground truth")
    return ", ".join(parts)


def describe_case(row: CaseRow) -> list[str]:
    """Say all about a case, in lines of plain text."""
    lines = [f"{row.name}: {row.status}"]
    if words := row.reason or texts.COHORT_STATES.get(row.state, ""):
        lines.append(words)
    if row.decided and row.decided[0]:
        lines.append("{} of {} findings decided on".format(*row.decided))
    elif row.reviewed:
        lines.append(texts.NOTHING_FOUND + (texts.SEEN_ALREADY if row.seen else ""))
    lines.append(f"Scan: {row.case.input}")
    truth = "Ground truth, found beside the scan" if row.case.truth_found else "Ground truth"
    given = {truth: row.case.truth, "Brain mask": row.case.mask}
    lines += [f"{what}: {path.name}" for what, path in given.items() if path is not None]
    if row.alarmed:
        lines.append(DO_NOT_TRUST)
    if row.flags:
        lines.append(f"Flags: {', '.join(row.flags)}")
    return lines
