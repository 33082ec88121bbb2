"""The panel 'Detect in a cohort' without a window: the list of cases, runs, permissions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_addm.checkpoint.file import read_specification
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import UNCHECKED, CaseResult, CohortCase
from napari_addm.cohort.inspect import InspectedCase
from napari_addm.cohort.run import BatchProgress
from napari_addm.detection.pipeline import Progress
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.cases import (
    COLUMNS,
    Arrangement,
    CaseRow,
    describe_case,
    summarize,
)
from napari_addm.widgets.cohort_panel.controller import (
    CohortController,
    describe_settings,
    exact_value,
    suggest_output,
)
from napari_addm.widgets.cohort_panel.state import (
    Cancelled,
    CasesCounted,
    CasesFound,
    Done,
    Failed,
    HeadersRead,
    Idle,
    Running,
    RunRequest,
    SearchFailed,
)

SPECIFICATION = read_specification(DEMO_CHECKPOINT)
NAMES = ("a", "b", "c")


def make_case(name: str, **more: Any) -> CohortCase:
    return CohortCase(name, f"{name}.nii", Path(f"/scans/{name}.nii"), **more)


def result(case: str, status: Any = "done", reason: str = "", **more: Any) -> CaseResult:
    return CaseResult(case, f"{case}.nii", status, reason, **more)


FAILED_A = InspectedCase(make_case("a"), earlier=result("a", "failed", "it is a web page"))
DONE_B = InspectedCase(make_case("b"), earlier=result("b", anomaly_ml=2.0, qc=("thick",)))
UNCHECKED_C = InspectedCase(make_case("c"), earlier=result("c", reason=f"{UNCHECKED}: x"))
WAITING = tuple(InspectedCase(make_case(name)) for name in NAMES)


class Panel:
    """A controller with a clock, and what a panel hears from it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.controller = CohortController(lambda: self.now)
        self.said: list[str] = []
        self.errors: list[Exception] = []
        self.progress: list[tuple[int, int]] = []
        self.controller.status_changed.connect(self.said.append)
        self.controller.failed.connect(self.errors.append)
        self.controller.progressed.connect(lambda *both: self.progress.append(both))
        self.controller.set_specification(SPECIFICATION)

    def list_cases(self, *found: InspectedCase) -> None:
        search = self.controller.start_search("in", "out")
        assert search is not None
        self.controller.take_search(CasesFound(search, [each.case for each in found]))
        self.controller.take_search(HeadersRead(search, found, len(found)))

    def start(self, only_failed: bool = False) -> RunRequest | None:
        return self.controller.start_run(DEMO_CHECKPOINT, BatchSettings(), only_failed)

    def step(self, case: str, done: int, finished: int = 0) -> None:
        detection = Progress("reconstruct", done, 10, 0.0)
        self.controller.take_progress(
            BatchProgress("detect", case, finished, 3, 0, detection=detection)
        )

    def end(self, finished: int, result: CaseResult, **more: Any) -> None:
        failed = int(result.status == "failed")
        self.controller.take_progress(
            BatchProgress("case", result.case, finished, 3, failed, result=result, **more)
        )

    @property
    def states(self) -> list[str]:
        return [row.state for row in self.controller.rows.values()]


@pytest.fixture
def panel() -> Panel:
    return Panel()


# --- the list of cases ---------------------------------------------------------------------------


def test_nothing_is_allowed_without_places(panel: Panel) -> None:
    assert panel.controller.start_search(" in ", "") is None
    assert panel.said == [texts.COHORT_EMPTY]
    allowed = panel.controller.allowed
    assert allowed.places
    assert not any((allowed.run, allowed.cancel, allowed.retry, allowed.report, allowed.folder))
    assert panel.start() is None


def test_a_search_counts_then_lists_then_reads_headers(panel: Panel) -> None:
    controller = panel.controller
    search = controller.start_search("in ", " out", frame=2)
    assert search is not None
    assert (search.source, search.output, search.frame) == ("in", "out", 2)
    assert controller.is_searched(" in", "out")
    assert not controller.is_searched("in", "elsewhere")
    assert controller.allowed.cancel
    controller.take_search(CasesCounted(search, 2))
    controller.take_search(CasesFound(search, [each.case for each in WAITING]))
    assert controller.allowed.run  # headers may still be read
    controller.take_search(HeadersRead(search, WAITING[:2], 2))
    controller.take_search(HeadersRead(search, [replace(WAITING[2], problem="it is empty")], 3))
    assert panel.said == [
        "Looking for cases ...",
        "Looking for cases: 2 so far ...",
        "Reading headers: 0 of 3 ...",
        "Reading headers: 2 of 3 ...",
        "3 cases, 1 that will fail",
    ]
    assert panel.states == ["waiting", "waiting", "will fail"]
    assert controller.inspecting is None
    controller.set_specification(None)
    assert not controller.allowed.run


def test_a_search_that_was_given_up_is_ignored(panel: Panel) -> None:
    old = panel.controller.start_search("old", "out")
    assert old is not None
    panel.list_cases(*WAITING[:1])
    panel.controller.take_search(CasesFound(old, [make_case("z")]))
    assert list(panel.controller.rows) == ["a"]

    cancelled = panel.controller.start_search("in", "out")
    assert cancelled is not None
    panel.controller.cancel()
    assert panel.said[-1] == texts.LOOKING_CANCELLED
    panel.controller.take_search(CasesFound(cancelled, [make_case("z")]))
    assert not panel.controller.rows
    assert not panel.controller.allowed.cancel


def test_a_search_that_fails_says_why(panel: Panel) -> None:
    search = panel.controller.start_search("in", "out")
    assert search is not None
    error = InputError("in does not exist")
    panel.controller.take_search(SearchFailed(search, error))
    assert panel.errors == [error]
    assert panel.said[-1] == ""
    assert panel.controller.inspecting is None


@pytest.mark.parametrize(
    ("found", "state", "reason"),
    [
        (WAITING[0], "waiting", ""),
        (replace(WAITING[0], problem="too small"), "will fail", "too small"),
        (InspectedCase(make_case("a", skip="labels")), "skipped", "labels"),
        (FAILED_A, "failed earlier", "it is a web page"),
        (DONE_B, "done earlier", ""),
        (UNCHECKED_C, "not checked", f"{UNCHECKED}: x"),
    ],
)
def test_state_of_a_case_before_a_run(found: InspectedCase, state: str, reason: str) -> None:
    row = CaseRow.before_run(found)
    assert (row.state, row.reason) == (state, reason)
    lines = describe_case(row)
    assert lines[0].endswith(state)
    assert f"Scan: {found.case.input}" in lines


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_from_its_start_to_its_end(panel: Panel) -> None:
    panel.list_cases(*WAITING)
    request = panel.start()
    assert request is not None
    assert request.output == Path("out")
    assert request.only is None
    allowed = panel.controller.allowed
    assert (allowed.run, allowed.cancel, allowed.places, allowed.folder) == (
        False,
        True,
        False,
        False,
    )
    assert panel.start() is None
    assert panel.controller.start_search("other", "out") is None

    panel.step("a", 5)
    assert panel.states == ["running", "waiting", "waiting"]
    assert panel.controller.rows["a"].status == "▸ running 50 %"
    assert panel.progress[-1] == (50, 300)
    assert panel.controller.allowed.folder  # the plan is written
    panel.step("b", 1)
    assert panel.states == ["writing", "running", "waiting"]
    panel.end(1, result("a", anomaly_ml=3.0), eta=600)
    assert panel.states == ["done", "running", "waiting"]
    assert panel.progress[-1] == (110, 300)
    assert panel.said[-1] == "1 of 3 cases, about 10 min left"
    panel.end(2, result("b"), unchanged=True)
    panel.end(3, result("c", "failed", "it is empty"), unchecked=1)
    panel.now = 65.0
    panel.controller.finish_run()
    assert panel.states == ["done", "unchanged", "failed"]
    assert type(panel.controller.run) is Done
    assert panel.said[-1] == "Ended after 65 s: 2 of 3 cases done, 1 failed, 1 not checked"
    assert panel.controller.failed_count == 1
    assert panel.controller.allowed.retry
    assert panel.controller.run_text is texts.COHORT_RUN


def test_a_cancelled_run_can_be_resumed(panel: Panel) -> None:
    panel.list_cases(*WAITING)
    panel.start()
    panel.end(1, result("a"))
    panel.step("b", 3, finished=1)
    panel.controller.cancel()
    panel.step("b", 4, finished=1)
    assert panel.said[-1] == "Cancelling ..."
    assert not panel.controller.allowed.cancel
    panel.controller.finish_run()
    assert panel.states == ["done", "waiting", "waiting"]
    assert isinstance(panel.controller.run, Cancelled)
    assert panel.said[-1].startswith("Cancelled after 0.0 s: 1 of 3 cases done")
    assert panel.controller.run_text is texts.COHORT_RESUME


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_run_that_ends_before_its_first_case_leaves_all_as_it_was(
    panel: Panel, cancelled: bool
) -> None:
    panel.list_cases(FAILED_A, DONE_B, UNCHECKED_C)
    before = dict(panel.controller.rows)
    panel.start()
    assert panel.states == ["waiting", "done earlier", "waiting"]
    if cancelled:
        panel.controller.cancel()
    else:
        panel.controller.take_error(AddmError("another run writes there"))
    panel.controller.finish_run()
    assert panel.controller.rows == before
    assert isinstance(panel.controller.run, Cancelled if cancelled else Failed)
    assert panel.said[-1] == ("Cancelled before the first case" if cancelled else "")
    assert len(panel.errors) == (0 if cancelled else 1)


def test_an_error_stops_a_run(panel: Panel) -> None:
    panel.list_cases(*WAITING)
    panel.start()
    panel.end(1, result("a"))
    panel.controller.take_error(AddmError("the disk is full"))
    panel.controller.finish_run()
    assert panel.said[-1].startswith("Stopped after")


def test_another_try_takes_what_failed_or_was_not_checked(panel: Panel) -> None:
    panel.list_cases(FAILED_A, DONE_B, UNCHECKED_C)
    request = panel.start(only_failed=True)
    assert request is not None
    assert request.only == {"a", "c"}
    assert len(request.cases) == 3
    panel.end(1, result("a"))
    panel.end(2, result("c", reason=f"{UNCHECKED}: still"))
    panel.controller.finish_run()
    assert panel.states == ["done", "done earlier", "not checked"]
    panel.list_cases(*WAITING)
    assert isinstance(panel.controller.run, Idle)
    assert panel.start(only_failed=True) is None


def test_headers_that_come_during_a_run_change_no_state(panel: Panel) -> None:
    search = panel.controller.start_search("in", "out")
    assert search is not None
    panel.controller.take_search(CasesFound(search, [each.case for each in WAITING]))
    panel.start()
    panel.end(1, result("a"))
    said = len(panel.said)
    found = [replace(each, shape=(2, 3, 4)) for each in WAITING]
    panel.controller.take_search(HeadersRead(search, found, 3))
    assert panel.states == ["done", "waiting", "waiting"]
    assert COLUMNS["size"].show(panel.controller.rows["a"]) == "2×3×4"
    assert len(panel.said) == said
    assert isinstance(panel.controller.run, Running)


# --- results -------------------------------------------------------------------------------------


def test_a_report_is_written_once_at_a_time(panel: Panel) -> None:
    panel.list_cases(*WAITING)
    assert panel.controller.start_report() is None
    panel.list_cases(FAILED_A)
    assert panel.controller.start_report() == Path("out")
    assert panel.controller.start_report() is None
    panel.controller.finish_report()
    assert panel.controller.allowed.report


def test_a_case_is_opened_once_and_told_in_the_status(panel: Panel) -> None:
    panel.list_cases(*WAITING)
    assert panel.controller.start_opening("a") == (WAITING[0].case, Path("out"), None)
    assert panel.controller.start_opening("a") is None
    assert panel.said[-1] == "Opening a ..."
    panel.controller.finish_opening("a", ["It has no results yet."])
    assert panel.said[-1] == "a is open. It has no results yet."
    panel.controller.start_opening("b")
    panel.controller.fail_opening(AddmError("b is gone"))
    assert (panel.said[-1], str(panel.errors[-1])) == ("", "b is gone")
    assert panel.controller.opening is None


def test_a_case_that_is_opened_leaves_the_status_to_the_run(panel: Panel) -> None:
    panel.list_cases(*WAITING)
    panel.start()
    panel.step("a", 1)
    said = list(panel.said)
    panel.controller.start_opening("b")
    panel.controller.finish_opening("b", ["It has no results yet."])
    assert panel.said == said
    assert str(panel.errors[-1]) == "It has no results yet."


# --- rows and words ------------------------------------------------------------------------------


def test_rows_are_filtered_and_sorted_with_empty_ones_last() -> None:
    found = (
        FAILED_A,
        replace(DONE_B, shape=(9, 9, 9), spacing=(1.0, 1.0, 3.0)),
        replace(UNCHECKED_C, shape=(2, 2, 2), spacing=(2.0, 2.0, 2.0)),
        InspectedCase(make_case("d", skip="labels", truth=Path("t.nii"))),
    )
    rows = {each.case.name: CaseRow.before_run(each) for each in found}

    def shown(**arrangement: Any) -> str:
        return "".join(Arrangement(**arrangement).apply(rows))

    assert shown() == "abcd"
    assert shown(descending=True) == "dcba"
    assert shown(column="size") == "cbad"
    assert shown(column="size", descending=True) == "bcad"
    assert shown(column="spacing") == "cbad"
    assert shown(column="status") == "acbd"
    assert shown(column="truth") == "dabc"
    assert shown(column="ml") == shown(column="qc") == "bacd"
    assert shown(words=" D.NII ") == "d"
    kinds = {"Open": "", "Done": "bc", "Failed": "ac", "Flagged": "b", "Skipped": "d"}
    assert {kind: shown(kind=kind) for kind in kinds} == kinds
    assert summarize(rows.values()) == "4 cases, 2 done, 1 failed, 1 not checked, 1 skipped"
    assert summarize([]) == "0 cases"
    assert COLUMNS["spacing"].show(rows["b"]) == "1.00×1.00×3.00"
    assert COLUMNS["ml"].show(rows["b"]) == "2.0"
    assert COLUMNS["ml"].show(rows["c"]) == ""


def test_the_line_of_settings() -> None:
    detection = DetectionSettings(level=200, steps=1)
    words = describe_settings("tiny", SPECIFICATION, detection, 0.05, 0.1)
    assert words == "tiny · level 200, 1 step · threshold 0.05 · from 0.1 mL"
    plain = SPECIFICATION.model_copy(update={"diffusion": None})
    assert describe_settings("gan", plain, detection, 1, 2) == "gan · threshold 1 · from 2 mL"
    assert describe_settings("x", None, detection, 1, 2) == "x cannot be used: see Model"


def test_a_default_is_kept_to_the_last_digit() -> None:
    assert exact_value(0.012, 0.0123456, 3) == 0.0123456
    assert exact_value(0.013, 0.0123456, 3) == 0.013


def test_results_go_beside_the_scans(tmp_path: Path) -> None:
    assert suggest_output(str(tmp_path)) == f"{tmp_path}_addm"
    assert suggest_output(str(tmp_path / "*" / "t1.nii.gz")) == ""
    table = tmp_path / "cases.csv"
    table.touch()
    assert suggest_output(str(table)) == str(tmp_path / "cases_addm")
    (tmp_path / "dataset_description.json").touch()
    assert suggest_output(str(tmp_path)) == str(tmp_path / "derivatives" / "napari-addm")
