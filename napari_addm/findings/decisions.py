"""A person's decisions about findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Verdict = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class Decision:
    """A person's decision about a finding.

    Attributes
    ----------
    verdict : {"accepted", "rejected"} or None
        None while it is undecided.
    note : str
        Plain text in one line.
    """

    verdict: Verdict | None = None
    note: str = ""

    def __post_init__(self) -> None:
        # A line break would split the table's row and the CSV's line.
        words = " ".join(self.note.split())
        # Half of a character, which a paste may leave, cannot be written to any file.
        object.__setattr__(self, "note", words.encode(errors="replace").decode())

    def __bool__(self) -> bool:
        return self.verdict is not None or bool(self.note)


UNDECIDED = Decision()
Decisions = Mapping[int, Decision]
"""By the finding's id; a missing finding is undecided."""
NO_DECISIONS: Decisions = MappingProxyType({})
