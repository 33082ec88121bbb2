"""What a cohort's panel asks for and hears: searches, runs, cases. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.inspect import InspectedCase
from napari_addm.cohort.run import BatchProgress
from napari_addm.errors import AddmError
from napari_addm.widgets.cohort_panel.cases import CaseRow

# --- looking for cases ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CaseSearch:
    """Where to look for cases, and how a run would read them.

    Attributes
    ----------
    source : str
        Folder, pattern or table; see `napari_addm.cohort.find.find_cohort`.
    output : str
        Folder of the results.
    frame : int or None
        Which frame of 4D scans.
    resample : bool
        Whether a run resamples truths and masks onto their scans.
    """

    source: str
    output: str
    frame: int | None = None
    resample: bool = False


@dataclass(frozen=True)
class CasesCounted:
    """A search goes on, and has come across so many scans."""

    search: CaseSearch
    count: int


@dataclass(frozen=True)
class CasesFound:
    """A search has all its cases."""

    search: CaseSearch
    cases: Sequence[CohortCase]


@dataclass(frozen=True)
class HeadersRead:
    """The headers of the next cases, and how many are read in all."""

    search: CaseSearch
    found: Sequence[InspectedCase]
    read: int


@dataclass(frozen=True)
class SearchFailed:
    """A search ended with an error."""

    search: CaseSearch
    error: AddmError


SearchItem = CasesCounted | CasesFound | HeadersRead | SearchFailed


@dataclass(frozen=True)
class Inspecting:
    """Cases are looked for, or their headers read."""

    search: CaseSearch


# --- a run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RunRequest:
    """What a run does, fixed when it starts.

    Attributes
    ----------
    cases : tuple of CohortCase
    output : Path
    checkpoint : Path
    settings : BatchSettings
    only : frozenset of str or None
        Names of the cases to run; None for all.
    """

    cases: tuple[CohortCase, ...]
    output: Path
    checkpoint: Path
    settings: BatchSettings
    only: frozenset[str] | None = None


@dataclass(frozen=True)
class Idle:
    """Nothing was run since the cases were listed."""


@dataclass(frozen=True, eq=False)
class Running:
    """A run goes on.

    Attributes
    ----------
    request : RunRequest
    started : float
        Time of the controller's clock, s.
    before : mapping of str to CaseRow
        The rows of the cases to run, as they were before.
    case : str
        Name of the case in the network; empty for none.
    last : BatchProgress or None
        None until the plan is written.
    cancelled : bool
    error : Exception or None
        What ends the run.
    """

    request: RunRequest
    started: float
    before: Mapping[str, CaseRow]
    case: str = ""
    last: BatchProgress | None = None
    cancelled: bool = False
    error: Exception | None = None


@dataclass(frozen=True)
class Done:
    """A run came to its end.

    Attributes
    ----------
    seconds : float
    last : BatchProgress or None
        None if the run ended before its plan was written.
    """

    seconds: float
    last: BatchProgress | None


@dataclass(frozen=True)
class Cancelled(Done):
    """A person ended a run."""


@dataclass(frozen=True)
class Failed(Done):
    """An error ended a run."""


RunState = Idle | Running | Done | Cancelled | Failed


# --- a case in the viewer ------------------------------------------------------------------------


@dataclass(frozen=True)
class CaseNotOpened:
    """Why the files of a case cannot be shown."""

    case: str
    error: AddmError
