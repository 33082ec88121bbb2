"""What the panel 'Detect in a cohort' knows, shows and allows. Free of Qt and napari."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psygnal import Signal

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.inspect import InspectedCase
from napari_addm.cohort.run import BatchProgress
from napari_addm.detection.pipeline import Progress
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.text import format_duration
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.cases import TRY_AGAIN, CaseRow, RowState, summarize
from napari_addm.widgets.cohort_panel.state import (
    Cancelled,
    CasesCounted,
    CaseSearch,
    CasesFound,
    Done,
    Failed,
    HeadersRead,
    Idle,
    Inspecting,
    Running,
    RunRequest,
    RunState,
    SearchFailed,
    SearchItem,
)

PERCENT = 100
# Of a case that a run did not bring to its end.
OPEN_STATES: tuple[RowState, ...] = ("running", "writing", "waiting")


@dataclass(frozen=True)
class Allowed:
    """What may be pressed or changed now.

    Attributes
    ----------
    run, cancel, retry, report, folder : bool
        Buttons.
    places : bool
        What decides on the list of cases.
    """

    run: bool
    cancel: bool
    retry: bool
    report: bool
    folder: bool
    places: bool


class CohortController:
    """State and transitions of the panel: the list of cases, a run over them, an opened case.

    Parameters
    ----------
    clock : callable
        Gives the time in s.

    Attributes
    ----------
    specification : ModelSpecification or None
        Of the chosen checkpoint.
    rows : dict of str to CaseRow
        All cases by their names. It stays the same object.
    search : CaseSearch or None
        Which cases are listed, or about to be.
    inspecting : Inspecting or None
        Headers may still be read while a run goes on.
    run : RunState
    opening : str or None
        Name of the case that is about to be shown.
    reporting : bool
        Whether the report is being written.
    """

    rows_replaced = Signal()
    """The rows are those of other cases."""
    rows_changed = Signal(object)
    """The rows of some cases, a list of names, changed."""
    rows_settled = Signal()
    """Many rows changed: order and filter have to follow at once."""
    changed = Signal()
    """`allowed`, `failed_count` or `run_text` may have changed."""
    status_changed = Signal(str)
    """The status line has other words."""
    failed = Signal(object)
    """An exception to show."""
    progressed = Signal(int, int)
    """How much of a run is done, and the whole."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.specification: ModelSpecification | None = None
        self.rows: dict[str, CaseRow] = {}
        self.search: CaseSearch | None = None
        self.inspecting: Inspecting | None = None
        self.run: RunState = Idle()
        self.opening: str | None = None
        self.reporting = False

    # --- what is allowed -------------------------------------------------------------------------

    def set_specification(self, specification: ModelSpecification | None) -> None:
        """Take another checkpoint's specification; None if it cannot be read."""
        self.specification = specification
        self.changed.emit()

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return isinstance(self.run, Running)

    @property
    def allowed(self) -> Allowed:
        """What may be pressed or changed now."""
        run = self.run
        ready = bool(self.rows) and self.specification is not None and not self.running
        begun = any(row.planned or row.result is not None for row in self.rows.values())
        cancel = not run.cancelled if isinstance(run, Running) else self.inspecting is not None
        return Allowed(
            run=ready,
            cancel=cancel,
            retry=ready and self.failed_count > 0,
            report=begun and not self.reporting,
            folder=begun,
            places=not self.running,
        )

    @property
    def failed_count(self) -> int:
        """How many cases failed or could not be checked."""
        return sum(row.state in TRY_AGAIN for row in self.rows.values())

    @property
    def run_text(self) -> texts.Text:
        """The label and tooltip of the button that starts a run."""
        unfinished = any(row.unfinished for row in self.rows.values())
        return texts.COHORT_RESUME if unfinished and not self.running else texts.COHORT_RUN

    # --- the list of cases -----------------------------------------------------------------------

    def start_search(
        self, source: str, output: str, frame: int | None = None, resample: bool = False
    ) -> CaseSearch | None:
        """Forget the cases, and look for others; see `CaseSearch`.

        Returns
        -------
        CaseSearch or None
            What to look for. None while a run goes on, and if a place is missing.
        """
        if self.running:
            return None
        self.search = CaseSearch(source.strip(), output.strip(), frame, resample)
        complete = bool(self.search.source and self.search.output)
        self.inspecting = Inspecting(self.search) if complete else None
        self.run, self.opening = Idle(), None
        self.rows.clear()
        self.rows_replaced.emit()
        self.status_changed.emit("Looking for cases ..." if complete else texts.COHORT_EMPTY)
        self.changed.emit()
        return self.search if complete else None

    def is_searched(self, source: str, output: str) -> bool:
        """Whether the cases of these places are listed or looked for."""
        search = self.search
        return search is not None and (source.strip(), output.strip()) == (
            search.source,
            search.output,
        )

    def take_search(self, item: SearchItem) -> None:
        """Take an item of a search; items of an earlier search are ignored."""
        if self.inspecting is None or item.search is not self.inspecting.search:
            return
        match item:
            case CasesCounted():
                self.status_changed.emit(f"Looking for cases: {item.count} so far ...")
            case SearchFailed():
                self.inspecting = None
                self.status_changed.emit("")
                self.failed.emit(item.error)
            case CasesFound():
                self._list_cases(item.cases)
            case HeadersRead():
                self._take_headers(item)
        self.changed.emit()

    def _list_cases(self, cases: Sequence[CohortCase]) -> None:
        found = (InspectedCase(case, problem=case.problem) for case in cases)
        self.rows.update({each.case.name: CaseRow.before_run(each) for each in found})
        self.rows_replaced.emit()
        self._say_read(0)

    def _take_headers(self, item: HeadersRead) -> None:
        for each in item.found:
            row = self.rows[each.case.name]
            # The state of a case in a run is newer than the inspection.
            new = replace(row, found=each) if self.running else CaseRow.before_run(each)
            self.rows[each.case.name] = new
        self.rows_changed.emit([each.case.name for each in item.found])
        if not self.running:
            self._say_read(item.read)
        if item.read == len(self.rows):
            self.inspecting = None
            self.rows_settled.emit()

    def _say_read(self, read: int) -> None:
        total = len(self.rows)
        words = f"Reading headers: {read} of {total} ..."
        self.status_changed.emit(words if read < total else summarize(self.rows.values()))

    # --- a run -----------------------------------------------------------------------------------

    def start_run(
        self, checkpoint: Path, settings: BatchSettings, only_failed: bool = False
    ) -> RunRequest | None:
        """Start a run over all cases, or over those that failed or could not be checked.

        Returns
        -------
        RunRequest or None
            None if it is not allowed.
        """
        if not (self.allowed.retry if only_failed else self.allowed.run):
            return None
        assert self.search is not None
        before = _rows_to_run(self.rows, only_failed)
        request = RunRequest(
            tuple(row.case for row in self.rows.values()),
            Path(self.search.output),
            checkpoint,
            settings,
            frozenset(before) if only_failed else None,
        )
        for name, row in before.items():
            if row.state in (*TRY_AGAIN, "will fail"):
                self.rows[name] = replace(row, state="waiting", result=None)
        self.run = Running(request, self._clock(), before)
        self._settle(self.rows)
        return request

    def cancel(self) -> None:
        """Ask a run to stop, or give up looking for cases."""
        if isinstance(self.run, Running):
            self.run = replace(self.run, cancelled=True)
            self.status_changed.emit("Cancelling ...")
        elif self.inspecting is not None:
            self.inspecting = None
            self.rows_settled.emit()
            self.status_changed.emit(texts.LOOKING_CANCELLED)
        self.changed.emit()

    def take_progress(self, progress: BatchProgress) -> None:
        """Take how far the run is."""
        run = self._get_run()
        self.run = replace(run, last=progress, case=_case_in_network(run, progress))
        if run.last is None:  # the plan is written
            self.rows.update({name: replace(self.rows[name], planned=True) for name in run.before})
            self.changed.emit()
        rows = _rows_after(self.rows, run, progress)
        self.rows.update({row.name: row for row in rows})
        self.rows_changed.emit([row.name for row in rows])
        case = self.run.case
        done = progress.finished * PERCENT + (self.rows[case].percent if case else 0)
        total = max(progress.total, 1) * PERCENT
        self.progressed.emit(min(done, total), total)
        if not run.cancelled:
            self.status_changed.emit(describe_progress(progress))

    def take_error(self, error: Exception) -> None:
        """Take the error that ends the run."""
        self.run = replace(self._get_run(), error=error)
        self.failed.emit(error)

    def finish_run(self) -> None:
        """Take the end of the run."""
        run = self._get_run()
        for name, row in self.rows.items():
            if row.state in OPEN_STATES:
                self.rows[name] = _close_row(row, run)
        kind = Cancelled if run.cancelled else Failed if run.error is not None else Done
        self.run = kind(self._clock() - run.started, run.last)
        self.status_changed.emit(describe_end(self.run))
        self._settle(self.rows)

    def _get_run(self) -> Running:
        assert isinstance(self.run, Running)
        return self.run

    def _settle(self, names: Iterable[str]) -> None:
        self.rows_changed.emit(list(names))
        self.rows_settled.emit()
        self.changed.emit()

    # --- results ---------------------------------------------------------------------------------

    def start_report(self) -> Path | None:
        """Start the report; returns the folder of the results, or None if it is not allowed."""
        if self.search is None or not self.allowed.report:
            return None
        self.reporting = True
        self.changed.emit()
        return Path(self.search.output)

    def finish_report(self) -> None:
        """Take the end of the report."""
        self.reporting = False
        self.changed.emit()

    def start_opening(self, name: str) -> tuple[CohortCase, Path, int | None] | None:
        """Open a case instead of any other.

        Gives the case, the folder of its results and the frame; None if it is being opened.
        """
        if name == self.opening:
            return None
        assert self.search is not None
        self.opening = name
        self.say(f"Opening {name} ...")
        return self.rows[name].case, Path(self.search.output), self.search.frame

    def finish_opening(self, name: str, notes: Sequence[str] = ()) -> None:
        """Take the end of opening a case, with notes on missing files."""
        self.opening = None
        self.say(" ".join((f"{name} is open.", *notes)))
        if self.running and notes:
            self.failed.emit(AddmError(" ".join(notes)))

    def fail_opening(self, error: Exception) -> None:
        """Take the error of a case that cannot be shown."""
        self.opening = None
        self.say("")
        self.failed.emit(error)

    def take_decisions(self, result: CaseResult) -> None:
        """Take the result of a case whose decisions were saved."""
        row = self.rows.get(result.case)
        if row is not None and row.finished:
            self.rows[result.case] = replace(row, result=result)
            self.rows_changed.emit([result.case])

    def say(self, words: str) -> None:
        """Say something in the status line, unless a run says there how far it is."""
        if not self.running:
            self.status_changed.emit(words)


def _rows_to_run(rows: Mapping[str, CaseRow], only_failed: bool) -> dict[str, CaseRow]:
    """Return the rows of the cases that a run is about."""
    return {
        name: row
        for name, row in rows.items()
        if not row.case.skip and (not only_failed or row.state in TRY_AGAIN)
    }


def _percent(step: Progress) -> int:
    if step.stage == "reconstruct" and step.total:
        return PERCENT * step.done // step.total
    return PERCENT if step.stage == "finish" else 0


def _case_in_network(run: Running, progress: BatchProgress) -> str:
    if progress.result is not None:
        return "" if progress.case == run.case else run.case
    return run.case if progress.detection is None else progress.case


def _rows_after(
    rows: Mapping[str, CaseRow], run: Running, progress: BatchProgress
) -> list[CaseRow]:
    """Return the rows that change with this progress."""
    result = progress.result
    if result is not None:
        state: RowState = result.status
        if result.unchecked:
            state = "not checked"
        elif progress.unchanged:
            state = "unchanged"
        return [replace(rows[progress.case], state=state, result=result)]
    if progress.detection is None:
        return []
    row, before = rows[progress.case], rows.get(run.case)
    percent = _percent(progress.detection)
    after = [replace(row, state="running", percent=percent, result=None)]
    if before is not None and before is not row and before.state == "running":
        after.append(replace(before, state="writing"))
    return after


def _close_row(row: CaseRow, run: Running) -> CaseRow:
    """Return the row of a case that a run did not come to, or not to its end."""
    before = run.before.get(row.name, row)
    if row.state == "writing":  # a cancelled run still writes it, without saying so
        state = CohortFolder(run.request.output).states.read_own(row.case)
        if state is not None and state.done and state.result != before.result:
            return replace(row, state="done", result=state.result)
    return replace(row, state=before.state, result=before.result)


def describe_progress(progress: BatchProgress) -> str:
    """Say how far a run is."""
    words = f"{progress.finished} of {progress.total} cases"
    words += f", {progress.failed} failed" if progress.failed else ""
    return words + (f", about {format_duration(progress.eta)} left" if progress.eta else "")


def describe_end(run: Done) -> str:
    """Say how a run ended."""
    words = "Ended"
    if isinstance(run, Cancelled):
        words = "Cancelled"
    elif isinstance(run, Failed):
        words = "Stopped"
    last = run.last
    if last is None:
        return "Cancelled before the first case" if isinstance(run, Cancelled) else ""
    failed = f", {last.failed} failed" if last.failed else ""
    failed += f", {last.unchecked} not checked" if last.unchecked else ""
    spent = format_duration(run.seconds, tenths=True)
    done = last.finished - last.failed
    return f"{words} after {spent}: {done} of {last.total} cases done{failed}"


def describe_settings(
    name: str,
    specification: ModelSpecification | None,
    detection: DetectionSettings,
    threshold: float,
    minimum_ml: float,
) -> str:
    """Say in one line what will run.

    Parameters
    ----------
    name : str
        Of the checkpoint.
    specification : ModelSpecification or None
        None if the checkpoint cannot be read.
    detection : DetectionSettings
    threshold, minimum_ml : float
    """
    if specification is None:
        return f"{name} cannot be used: see Model"
    words = [name]
    if specification.diffusion is not None:
        steps = f"{detection.steps} step" + ("" if detection.steps == 1 else "s")
        words.append(f"level {detection.level}, {steps}")
    return " · ".join((*words, f"threshold {threshold:g}", f"from {minimum_ml:g} mL"))


def exact_value(shown: float, default: float, decimals: int) -> float:
    """Return the default to the last digit if that is what a field with few decimals shows."""
    return default if shown == round(default, decimals) else shown


def suggest_output(source: str) -> str:
    """Return a folder for results that is not among the scans; empty for a pattern."""
    path = Path(source)
    if glob.has_magic(source) and not path.exists():
        return ""
    if (path / "dataset_description.json").is_file():
        return str(path / "derivatives" / "napari-addm")
    return str(path.with_name(f"{path.stem if path.is_file() else path.name}_addm"))
