"""The panel 'Detect anomalies' without a window: runs, reviews of several scans, permissions."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.checkpoint.specification import FalseAlarmSpecification, ModelSpecification
from napari_addm.detection.pipeline import Detection, Progress
from napari_addm.detection.quality import Quality, QualityFlag
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import describe_none
from napari_addm.io.remarks import note
from napari_addm.io.volume import UNKNOWN_SIDES, Volume, volume_from_array
from napari_addm.review.saved_review import SavedReview
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.controller import DetectController, describe_progress
from napari_addm.widgets.detect_panel.panel_state import Headings, OpenScans, Title
from napari_addm.widgets.detect_panel.patchwork import add_preview
from napari_addm.widgets.detect_panel.state import (
    Cancelled,
    Done,
    Failed,
    Idle,
    Marking,
    Outcome,
    Preparing,
    Running,
    describe_count,
)

REJECTED = Decision("rejected", "a vessel")
SHAPE = (6, 12, 12)


class Layer:
    """As much of a scan's layer as the controller asks for."""

    def __init__(self, name: str) -> None:
        self.unique_id = self.name = name


@dataclass
class Request:
    """As much of a run's request."""

    scan_id: str
    without_slices: Any = "standard"
    position: tuple[float, ...] = (2.0, 0.0, 0.0)
    threshold: Any = None
    cancelled: Event = field(default_factory=Event)

    @property
    def scan(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.scan_id)


class Layers:
    """As much of the layers of a result."""

    def __init__(self, scan_id: str, scan: Volume) -> None:
        self.volume = SimpleNamespace(volume=scan, order=(0, 1, 2))
        self.scan_layer = SimpleNamespace(name=scan_id)
        self.misfit = ""
        self.corrected: str | None = None
        self.corrections: np.ndarray | None = None

    def show_corrections(self, labels: np.ndarray) -> None:
        self.corrections = labels


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Any:
    return replace(load_checkpoint(tiny_checkpoint), weights={})


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Two blocks of 1 mL voxels; the larger one is the higher one."""
    data = np.zeros(SHAPE, np.float32)
    data[1:4, 1:5, 1:5] = 0.3
    data[2:4, 8:10, 8:10] = 0.2
    return volume_from_array(data, np.diag((10.0, 10.0, 10.0, 1.0)))


@pytest.fixture(scope="module")
def detection(make_detection: Any, scan: Volume) -> Detection:
    return make_detection(scan)


class Panel:
    """A controller, what it has said, and what a panel would do with it."""

    def __init__(self, checkpoint: Any, scan: Volume, detection: Detection) -> None:
        self.checkpoint, self.scan, self.detection = checkpoint, scan, detection
        self.now = 0.0
        self.said: list[str] = []
        self.efforts: list[str] = []
        self.control = DetectController(self.make_outcome, clock=lambda: self.now)
        self.control.said.connect(self.said.append)
        self.control.done.connect(lambda outcome, effort: self.efforts.append(effort))
        self.control.set_specification(checkpoint.specification)
        self.layers: dict[str, Layer] = {}

    def make_outcome(self, request: Any, started: Any) -> Outcome:
        return Outcome(
            layers=Layers(request.scan_id, self.scan),  # type: ignore[arg-type]
            checkpoint=started.checkpoint,
            mask_path=None,
            name=request.scan_id,
            title=request.scan_id,
            scan_id=request.scan_id,
            asked_for=request.without_slices,
        )

    def open(self, *names: str) -> None:
        """These scans are open now, and no others."""
        self.layers = {name: self.layers.get(name) or Layer(name) for name in names}
        titles = {name: Title(name, f"'{name}'") for name in names}
        self.control.see(OpenScans(titles, several=len(names) > 1))

    def choose(self, name: str | None) -> None:
        self.control.choose(None if name is None else self.layers[name])

    def started(self, checkpoint: Any = None) -> Any:
        volume = SimpleNamespace(slice_at=lambda position: round(position[0]))
        return SimpleNamespace(checkpoint=checkpoint or self.checkpoint, scan=volume)

    def result(self, stage: str = "finish", **fields: Any) -> Any:
        detection = replace(self.detection, **fields)
        progress = Progress(stage, 1, 1, 1.0, result=detection)  # type: ignore[arg-type]
        return SimpleNamespace(progress=progress, labeller=None, quality=None)

    def start(self, name: str, **fields: Any) -> Any:
        return self.control.start(Request(name, **fields))  # type: ignore[arg-type]

    def run(self, name: str, checkpoint: Any = None, **fields: Any) -> Outcome:
        """Run on a scan that is chosen, to the end."""
        self.start(name, **fields)
        self.control.take_started(self.started(checkpoint))
        self.control.take_result(self.result())
        self.now += 3.0
        self.control.end()
        assert isinstance(self.control.run, Done)
        return self.control.run.outcome

    def preview(self, name: str, index: int, **fields: Any) -> None:
        done = np.zeros(SHAPE[0], bool)
        done[index - 1 : index + 2] = True
        request = Request(name, position=(index, 0.0, 0.0), **fields)
        self.control.take_preview(request, self.started(), self.result(done=done))  # type: ignore[arg-type]


@pytest.fixture
def panel(checkpoint: Any, scan: Volume, detection: Detection) -> Panel:
    made = Panel(checkpoint, scan, detection)
    made.open("A", "B")
    made.choose("A")
    return made


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_from_start_to_end(panel: Panel) -> None:
    control = panel.control
    assert isinstance(control.run, Idle)
    assert control.why_not_run == ""
    assert control.why_not_save == texts.NO_RESULT
    request = panel.start("A")
    assert isinstance(control.run, Preparing)
    assert control.why_not_run == texts.RUN_GOES_ON
    assert control.may_cancel
    assert request.threshold() == (control.marking.threshold, control.marking.minimum_ml)
    control.tell("Reading the scan ...")
    control.take_started(panel.started())
    assert control.outcome is None
    control.take_result(panel.result("reconstruct"))
    assert isinstance(control.run, Running)
    assert control.findings_shown
    assert control.comparable is None  # it still grows
    assert control.why_not_save == texts.RUN_GOES_ON
    control.take_result(panel.result())
    panel.now = 3.0
    control.end()
    assert isinstance(control.run, Done)
    assert control.outcome is control.comparable is control.run.outcome
    assert (control.why_not_run, control.why_not_save) == ("", "")
    assert panel.said[-2:] == ["Reading the scan ...", "2 findings"]
    assert panel.efforts == ["3.0 s on cpu, in float32"]


@pytest.mark.parametrize("by_person", [True, False])
def test_a_run_that_ends_early_keeps_what_is_finished(panel: Panel, by_person: bool) -> None:
    done = np.arange(SHAPE[0]) < 4
    panel.start("A")
    panel.control.take_started(panel.started())
    panel.control.take_result(panel.result("reconstruct", done=done))
    if by_person:
        panel.control.cancel()
        assert not panel.control.may_cancel
        panel.control.tell("Reconstructing: 3/9")  # is not said
        assert panel.said[-1] == texts.CANCELLING
    panel.now = 3.0
    panel.control.end()
    outcome = panel.control.outcome
    assert panel.control.run == Cancelled(outcome, 3.0, by_person)
    word = "Cancelled" if by_person else "Stopped"
    assert panel.said[-1] == f"{word} after 3.0 s on cpu, in float32; 4 of 6 slices are done"
    assert panel.control.why_not_save == ""


@pytest.mark.parametrize("how", ["cancelled", "stopped", "failed"])
def test_a_run_without_a_result_leaves_the_one_before(panel: Panel, how: str) -> None:
    before = panel.run("A")
    panel.start("A")
    panel.control.take_started(panel.started())
    assert panel.control.why_not_save == texts.RUN_GOES_ON
    if how == "cancelled":
        panel.control.cancel()
    elif how == "failed":
        panel.control.fail(AddmError("It cannot be read."))
    panel.control.end()
    expected = {"cancelled": texts.CANCELLED_EARLY, "stopped": texts.STOPPED_EARLY, "failed": ""}
    assert panel.said[-1] == expected[how]
    if how == "failed":
        assert panel.control.run == Failed("It cannot be read.")
    assert panel.control.outcome is before
    assert panel.control.why_not_save == ""
    panel.control.end()  # once more changes nothing
    assert panel.said[-1] == expected[how]


def test_why_nothing_can_be_pressed(panel: Panel) -> None:
    control = panel.control
    control.set_specification(None)
    assert control.why_not_run == texts.NO_CHECKPOINT
    panel.open()
    panel.choose(None)
    assert control.why_not_run == texts.NO_SCAN
    control.cancel()  # there is nothing to cancel
    control.fail(AddmError("late"))
    control.mark()
    assert isinstance(control.run, Idle)


def test_the_progress_in_words() -> None:
    assert describe_progress(Progress("prepare", 0, 1, 0.0)) == "Preparing the scan ..."
    assert describe_progress(Progress("reconstruct", 3, 9, 1.0)) == "Reconstructing: 3/9"
    words = describe_progress(Progress("reconstruct", 3, 9, 1.0, eta=20.0))
    assert words == "Reconstructing: 3/9, about 20 s left"
    assert describe_progress(Progress("finish", 9, 9, 1.0)) == "Finishing ..."


# --- several scans -------------------------------------------------------------------------------


def test_each_scan_has_its_own_outcome(panel: Panel) -> None:
    control = panel.control
    control.set_marking(control.marking.at(0.25))
    first = panel.run("A")
    assert [each.id for each in first.marked.findings] == [1]
    first.findings.decide(1, REJECTED)
    panel.choose("B")
    assert control.outcome is None
    assert control.marking.threshold == 0.25  # a new scan starts with what is set
    assert control.why_not_save == texts.NO_RESULT
    assert not control.findings_shown
    assert control.headings.other == texts.OTHER_SCAN.format("'A'")
    assert control.headings.findings == ""
    assert panel.said[-1] == texts.RUN_IS_ON.format("B")
    control.set_marking(control.marking.at(0.1))
    second = panel.run("B")
    assert len(second.marked.findings) == 2
    assert second.decisions == {}
    assert control.headings.other == ""

    panel.choose("A")
    assert control.outcome is first
    assert control.marking.threshold == 0.25
    assert first.decisions == {1: REJECTED}
    assert control.why_not_save == ""
    assert control.headings.other == ""
    assert control.headings.findings == "Findings in A"
    control.set_marking(control.marking.at(0.01))
    control.mark()
    assert len(first.marked.findings) == 2
    assert second.marked.threshold == 0.1
    # the next run on the scan has the decisions, too
    again = panel.run("A")
    assert again is not first
    assert again.decisions == {1: REJECTED}
    again.findings.undo()
    assert again.decisions == {}


def test_a_run_goes_on_for_its_own_scan(panel: Panel) -> None:
    panel.start("A")
    panel.choose("B")
    assert panel.said[-1] == "Running on A: ..."
    panel.control.take_started(panel.started())
    panel.control.take_result(panel.result("reconstruct"))
    assert panel.control.outcome is None
    panel.control.set_marking(panel.control.marking.at(0.25))  # of the other scan
    panel.control.take_result(panel.result())
    panel.control.end()
    assert panel.said[-1] == "A: 2 findings"
    panel.choose("A")
    assert len(panel.control.outcome.marked.findings) == 2


def test_a_result_that_no_longer_fits_its_scan(panel: Panel) -> None:
    outcome = panel.run("A")
    outcome.layers.misfit = "place"
    words = texts.MISFITS["place"].format("A")
    assert panel.control.headings.other == panel.control.why_not_save == words
    assert panel.control.comparable is None
    assert not panel.control.findings_shown
    panel.choose("B")
    assert panel.control.headings.other == texts.OTHER_SCAN.format("'A'")
    panel.choose("A")
    panel.run("A")
    assert panel.control.headings.other == ""


def test_closing_the_scan_ends_its_run(panel: Panel) -> None:
    request = panel.start("A")
    panel.open("B")
    panel.choose("B")
    assert request.cancelled.is_set()


def test_the_last_result_stays_when_all_scans_are_closed(panel: Panel) -> None:
    outcome = panel.run("A")
    panel.open("B")
    panel.choose("B")
    assert panel.control.outcome is None
    assert panel.control.headings.other == texts.CLOSED_SCAN.format("A")
    panel.open()
    panel.choose(None)
    assert panel.control.outcome is outcome
    assert panel.control.why_not_save == ""
    assert panel.control.comparable is None
    assert panel.control.headings.findings == "Findings in A"


def test_the_review_of_a_closed_scan_leaves_the_memory(panel: Panel) -> None:
    panel.run("A")
    panel.choose("B")
    panel.run("B")
    panel.open("B")
    gc.collect()
    panel.open("A", "B")  # a new layer
    panel.choose("A")
    assert panel.control.outcome is None


def test_files_are_called_as_the_scan_that_a_person_renames(panel: Panel) -> None:
    outcome = panel.run("A")
    title = Title("patient 7 (study)", "'patient 7' (study)", "patient 7 (study)", "patient 7")
    panel.control.see(replace(panel.control.opened, titles={"A": title}))
    assert (outcome.title, outcome.name) == ("patient 7 (study)", "patient 7")
    assert outcome.stem == "patient_7"


def test_decisions_outlive_the_panel(
    panel: Panel, checkpoint: Any, scan: Volume, detection: Detection
) -> None:
    panel.run("A").findings.decide(1, REJECTED)
    other = Panel(checkpoint, scan, detection)
    other.layers = panel.layers
    other.open("A", "B")
    other.control.see(replace(other.control.opened, with_results=frozenset("A")))
    other.choose("A")
    assert other.control.headings.other == texts.RESULTS_SHOWN
    assert other.run("A").decisions == {1: REJECTED}
    other.choose("B")
    assert other.run("B").decisions == {}


def test_headings(panel: Panel) -> None:
    assert panel.control.headings == Headings(
        scan="Scan: A",
        findings="",
        save="",
        run="Run on A",
        run_tip=f"{texts.RUN_IS_ON.format('A')}\n{texts.RUN.tip}",
        other="",
        remarks=(),
    )
    panel.open("A")
    assert panel.control.headings.run == "Run"
    outcome = panel.run("A")
    harmless = note("The file is 4D.")
    outcome.detection = replace(outcome.detection, warnings=(harmless, "Plain words."))
    outcome.quality = Quality((QualityFlag("contrast", "It is no T1."),), {}, ())
    assert panel.control.headings.remarks == ("It is no T1.", "Plain words.", "The file is 4D.")
    assert [each.kind for each in panel.control.headings.remarks] == ["alarm", "caution", "note"]
    assert panel.control.headings.save == "Save: A"


@pytest.mark.parametrize(
    ("warnings", "flag", "why"),
    [
        ((note("The file is 4D."), UNKNOWN_SIDES), "orientation", ""),
        (("The grid is odd.",), "orientation", "caution"),
        ((), "intensities", "flag"),
        ((), "contrast_agent", "flag"),
        (("The grid is odd.",), "contrast", "alarm"),
    ],
)
def test_false_alarms_are_promised_only_where_the_promise_holds(
    panel: Panel, warnings: tuple[str, ...], flag: str, why: str
) -> None:
    panel.open("A")
    outcome = panel.run("A")
    outcome.detection = replace(outcome.detection, warnings=warnings)
    outcome.quality = Quality((QualityFlag(flag, str(UNKNOWN_SIDES)),), {}, ())
    words = texts.NO_PROMISE.format(texts.NO_PROMISE_WHY[why]) if why else ""
    assert outcome.why_no_promise == words


# --- the threshold -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(checkpoint: Any) -> ModelSpecification:
    """The checkpoint with a curve of false alarms, and other defaults."""
    alarms = FalseAlarmSpecification(
        thresholds=(0.01, 0.03, 0.05), mean_ml=(40.0, 20.0, 0.0), minimum_ml=0.5, subjects=6
    )
    changes = {"false_alarms": alarms, "threshold": 0.02, "minimum_ml": 3.0}
    detection = checkpoint.specification.detection.model_copy(update=changes)
    return checkpoint.specification.model_copy(update={"detection": detection})


def test_another_checkpoint_leaves_a_result_alone_until_its_run(
    panel: Panel, checkpoint: Any, measured: ModelSpecification
) -> None:
    control = panel.control
    control.set_specification(measured)
    assert control.marking == Marking.default(measured)
    control.set_specification(checkpoint.specification)
    outcome = panel.run("A")
    before = control.marking
    control.set_specification(measured)
    assert control.marking == before
    assert outcome.marked.threshold == before.threshold
    panel.choose("B")  # which has no result
    assert control.marking == Marking.default(measured)
    panel.choose("A")
    again = panel.run("A", replace(checkpoint, specification=measured))
    assert (again.marked.threshold, again.marked.minimum_ml) == (0.02, 3.0)


def test_the_promise_of_a_threshold(
    checkpoint: Any, measured: ModelSpecification, detection: Detection
) -> None:
    assert Marking().promise(None) == ""
    assert Marking.default(checkpoint.specification).promise(None) == ""  # nobody measured it
    marking = Marking.default(measured)
    for threshold, words in ((0.02, "about 30 mL"), (0.005, "more than 40"), (0.06, "less than")):
        assert marking.at(threshold).promise(None).startswith(words)
    assert marking.promise(detection) == texts.UNCALIBRATED
    used = replace(detection, specification=measured)
    assert marking.promise(used).startswith("about 30 mL of false alarm")
    assert replace(marking, minimum_ml=0.1).promise(used) == texts.UNCALIBRATED


def test_the_slider_reaches_the_threshold_and_the_highest_score(panel: Panel) -> None:
    marking = panel.control.marking
    assert marking.limit == 4 * marking.threshold
    assert marking.at(2.0).limit == 2.4
    panel.control.set_marking(marking.at(0.01))
    panel.run("A")
    assert panel.control.marking.limit == pytest.approx(0.3)


def test_another_threshold_takes_the_words_on_the_former_findings_away(panel: Panel) -> None:
    panel.run("A")
    assert panel.said[-1] == "2 findings"
    panel.control.set_marking(panel.control.marking.at(0.25))
    panel.control.mark()
    assert panel.said[-1] == ""


def test_corrections_that_were_kept_are_said_once(panel: Panel) -> None:
    outcome = panel.run("A")
    outcome.layers.corrected = "A anomalies, corrected"
    panel.control.mark()  # nothing has changed: the corrections stay where they are
    assert outcome.layers.corrected is not None
    panel.control.set_marking(panel.control.marking.at(0.1))
    panel.control.mark()
    assert panel.said[-1] == texts.CORRECTIONS_KEPT.format("A anomalies, corrected")
    panel.said.clear()
    panel.control.set_marking(panel.control.marking.at(0.2))
    panel.choose("B")  # which takes the threshold that was moved just now
    assert outcome.marked.threshold == 0.2
    assert texts.CORRECTIONS_KEPT.format("A anomalies, corrected") not in panel.said


def test_the_findings_in_words(panel: Panel) -> None:
    outcome = panel.run("A")
    words = "2 findings, 56\N{NO-BREAK SPACE}mL; largest: right, 48\N{NO-BREAK SPACE}mL"
    assert describe_count(outcome) == words
    outcome.findings.decide(1, REJECTED)
    words = "2 findings, 56\N{NO-BREAK SPACE}mL; 8.0\N{NO-BREAK SPACE}mL without the 1 rejected"
    assert describe_count(outcome) == words
    panel.control.set_marking(panel.control.marking.at(0.25))
    panel.control.mark()
    words = "1 finding, 48\N{NO-BREAK SPACE}mL; 0.0\N{NO-BREAK SPACE}mL without the 1 rejected"
    assert describe_count(outcome) == words
    panel.control.set_marking(panel.control.marking.at(0.9))
    panel.control.mark()
    assert describe_count(outcome) == describe_none(0.5)
    outcome.detection = replace(outcome.detection, done=np.arange(SHAPE[0]) == 2)
    outcome.label(replace(panel.control.marking, minimum_ml=5.0))
    assert describe_count(outcome) == f"{describe_none(5)} In one slice 5.00 mL are 500 mm²."


# --- a saved review ------------------------------------------------------------------------------


def test_a_saved_review_goes_on(panel: Panel) -> None:
    """By the numbers that the findings had, with corrections and what was different."""
    outcome = panel.run("A")
    labels = np.where(outcome.marked.labels == 1, 7, 0)
    labels[5, 11, 11] = 9
    saved = SavedReview(
        decisions={7: REJECTED, 9: Decision("accepted")},
        threshold=0.25,
        minimum_ml=0.001,
        labels=panel.scan.with_data(labels),
        corrected=True,
        differences=("seed 3",),
    )
    panel.control.resume(saved)
    marking = panel.control.marking
    assert (marking.threshold, marking.minimum_ml) == (0.25, 0.001)
    assert outcome.decisions == {7: REJECTED}
    assert outcome.layers.corrections is labels
    assert panel.said[-1] == (
        "2 decisions of the record taken over (1 on no finding of now), with its threshold and "
        "smallest finding, and its corrections. It was made with seed 3: findings may differ"
    )
    outcome.findings.undo()
    assert outcome.decisions == {}


# --- previews ------------------------------------------------------------------------------------


def test_previews_are_put_together_and_give_way_to_a_run(panel: Panel) -> None:
    control = panel.control
    panel.preview("A", 1)
    panel.preview("A", 4)
    outcome = control.outcome
    assert outcome.preview
    assert outcome.detection.done.all()
    assert control.why_not_save == texts.PREVIEW_NOT_SAVED
    assert not control.is_done(Request("A"), 1)
    panel.preview("A", 1, without_slices="another seed")
    assert control.outcome is not outcome
    assert control.outcome.detection.done.sum() == 3
    panel.run("A")
    assert not control.outcome.preview
    assert control.is_done(Request("A"), 1)
    assert not control.is_done(Request("A", "another seed"), 1)
    panel.start("A")
    panel.preview("A", 1, without_slices="another seed")  # too late
    assert control.outcome.asked_for == "standard"
    control.end()
    panel.open("B")
    panel.preview("A", 1, without_slices="another seed")  # the scan is closed
    assert control.outcome.asked_for == "standard"


def test_a_preview_leaves_the_maps_of_a_run_alone(detection: Detection) -> None:
    run = replace(detection, done=np.arange(SHAPE[0]) == 2)
    before = run.anomaly.data.copy()
    doubled = detection.anomaly.with_data(2 * detection.anomaly.data)
    preview = replace(detection, anomaly=doubled, done=np.isin(range(SHAPE[0]), (1, 2)))
    shown, changed = add_preview(run, preview, 1, in_place=False)
    assert changed == (1,)
    assert shown.done.tolist() == [False, True, True, False, False, False]
    assert np.array_equal(shown.anomaly.data[2], before[2])
    assert np.array_equal(shown.anomaly.data[1], 2 * before[1])
    assert not shown.anomaly.data[3:].any()
    assert np.array_equal(run.anomaly.data, before)
    again, changed = add_preview(shown, preview, 2, in_place=True)
    assert changed == (2,)  # the slice that is looked at has more neighbors now
    assert again.anomaly is shown.anomaly
    assert np.array_equal(again.anomaly.data[2], 2 * before[2])
