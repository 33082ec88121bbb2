"""Decisions on findings under a moving threshold, and their history."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_addm.findings.decisions import Decision
from napari_addm.findings.labelling import FindingLabeller
from napari_addm.io.volume import volume_from_array
from napari_addm.review.decisions import (
    SAME_FINDING,
    Decided,
    ReviewedFindings,
    decide,
    decisions_of,
)
from napari_addm.review.marking import LabelledFindings

REJECTED = Decision("rejected", "a vessel")
ACCEPTED = Decision("accepted")


class Scene:
    """A map without a network, marked at any threshold."""

    def __init__(self, anomaly: np.ndarray) -> None:
        self.volume = volume_from_array(anomaly.astype(np.float32))
        self.marker = FindingLabeller(self.volume.data, spacing=self.volume.spacing)

    def at(self, threshold: float, minimum_ml: float = 0.0) -> LabelledFindings:
        labels, findings = self.marker.find(threshold, minimum_ml, self.volume)
        return LabelledFindings(labels, findings, threshold, minimum_ml)


def two_hills() -> np.ndarray:
    """A large and a small hill, 10 high, that flow together below 1."""
    place = np.indices((20, 20, 40))
    heights = [
        10 - np.linalg.norm(place - np.reshape(center, (3, 1, 1, 1)), axis=0) * slope
        for center, slope in (((10, 10, 10), 1.0), ((10, 10, 26), 1.5))
    ]
    return np.maximum(0, np.maximum(*heights))


@pytest.fixture(scope="module")
def hills() -> Scene:
    return Scene(two_hills())


def test_a_decision_stays_while_the_threshold_moves_a_little(hills):
    before = hills.at(4.0)
    assert [finding.id for finding in before.findings] == [1, 2]
    decided = decide(before, (), 2, REJECTED)
    assert decisions_of(before, decided) == {2: REJECTED}
    for threshold in (3.5, 4.5, 5.0):
        assert decisions_of(hills.at(threshold), decided) == {2: REJECTED}
    # one that is all but gone is another one, until the threshold comes back
    assert hills.at(8.5).findings.id.tolist() == [1, 2]
    assert decisions_of(hills.at(8.5), decided) == {}
    assert decisions_of(hills.at(9.9, 0.1), decided) == {}
    assert decisions_of(before, decided) == {2: REJECTED}


def test_what_swallows_a_rejected_finding_is_not_rejected(hills):
    decided = decide(hills.at(4.0), (), 2, REJECTED)
    whole = hills.at(0.5)
    assert len(whole.findings) == 1
    assert decisions_of(whole, decided) == {}
    # but a decision on the larger part holds for a finding that is mostly that part
    decided = decide(hills.at(1.0), decided, 1, ACCEPTED)
    assert decisions_of(whole, decided) == {whole.findings[0].id: ACCEPTED}


def test_a_later_decision_takes_the_place_of_the_earlier(hills):
    marked = hills.at(4.0)
    decided = decide(marked, decide(marked, (), 1, REJECTED), 2, Decision(note="ask"))
    moved = hills.at(4.5)
    decided = decide(moved, decided, 1, ACCEPTED)
    assert decisions_of(moved, decided) == {1: ACCEPTED, 2: Decision(note="ask")}
    assert decisions_of(marked, decided) == {1: ACCEPTED, 2: Decision(note="ask")}
    decided = decide(marked, decided, 1, Decision())
    assert decisions_of(marked, decided) == {2: Decision(note="ask")}
    assert len(decided) == 1


def test_without_findings_there_are_no_decisions(hills):
    decided = decide(hills.at(4.0), (), 1, REJECTED)
    nothing = hills.at(100.0)
    assert len(nothing.findings) == 0
    assert decisions_of(nothing, decided) == {}


@given(
    hnp.arrays(np.float32, (4, 5, 6), elements=st.integers(0, 4).map(float)),
    st.integers(0, 3),
    st.integers(0, 3),
    st.data(),
)
def test_decisions_follow_overlap(anomaly, before, after, data):
    """Against the rule word for word, on sets of voxels."""
    scene = Scene(anomaly)
    first, second = scene.at(before), scene.at(after)
    decided: tuple[Decided, ...] = ()
    for number in first.findings.id.tolist():
        verdict = data.draw(st.sampled_from(["accepted", "rejected", None]))
        decided = decide(first, decided, number, Decision(verdict))
    assert {id: d.verdict for id, d in decisions_of(first, decided).items()} == {
        int(first.labels.ravel()[made.voxels[0]]): made.decision.verdict for made in decided
    }
    expected: dict[int, tuple[float, Decision]] = {}
    for made in decided:
        extent = set(made.voxels.tolist())
        overlaps = {
            number: len(extent & set(second.voxels(number).tolist()))
            for number in second.findings.id.tolist()
        }
        if not overlaps or not max(overlaps.values()):
            continue
        nearest = max(sorted(overlaps), key=overlaps.__getitem__)
        size = len(second.voxels(nearest))
        dice = 2 * overlaps[nearest] / (len(extent) + size)
        if dice >= SAME_FINDING and dice >= expected.get(nearest, (0.0, None))[0]:
            expected[nearest] = dice, made.decision
    assert decisions_of(second, decided) == {n: decision for n, (_, decision) in expected.items()}


@pytest.fixture
def review(hills) -> ReviewedFindings:
    made = ReviewedFindings()
    made.show(hills.at(4.0))
    return made


def test_decisions_are_taken_back_and_repeated(review):
    assert not review.decide(3, REJECTED)  # there is no such finding
    assert review.decide(2, REJECTED)
    assert not review.decide(2, REJECTED)  # nothing changes
    assert review.decide(2, ACCEPTED)
    assert review.decide(1, Decision(note="ask"))
    assert review.rejected == set()
    review.undo()
    assert review.decisions == {2: ACCEPTED}
    review.undo()
    assert review.decisions == {2: REJECTED}
    assert review.rejected == {2}
    review.redo()
    assert review.decisions == {2: ACCEPTED}
    assert review.decide(2, Decision())  # which drops what could be repeated
    assert not review.history.can_redo
    for _ in range(5):
        review.undo()
    assert review.decisions == {}
    assert not review.history.can_undo


def test_a_note_that_is_being_written_is_one_step_with_its_end(review):
    review.decide(2, Decision(note="half"), unfinished=True)
    review.decide(2, Decision(note="half a"), unfinished=True)
    review.decide(2, Decision(note="half a word"))
    review.decide(2, Decision("rejected", "half a word"))
    review.undo()
    assert review.decisions == {2: Decision(note="half a word")}
    review.undo()
    assert review.decisions == {}
    review.redo()
    assert review.decisions == {2: Decision(note="half a word")}
    # what is written later, or on another finding, is a step of its own
    review.decide(2, Decision(note="half a word,"), unfinished=True)
    review.history.finish()
    review.decide(2, Decision(note="half a word, or"), unfinished=True)
    review.undo()
    assert review.decisions == {2: Decision(note="half a word,")}
    review.redo()
    review.decide(1, ACCEPTED)
    review.undo()
    assert review.decisions == {2: Decision(note="half a word, or")}


def test_decisions_of_another_time_are_one_step(review, hills):
    review.decide(1, ACCEPTED)
    review.add(decide(hills.at(4.5), (), 2, REJECTED))
    assert review.decisions == {1: ACCEPTED, 2: REJECTED}
    review.undo()
    assert review.decisions == {1: ACCEPTED}
    review.add(())
    assert review.history.can_redo  # nothing was added


def test_a_history_outlives_the_findings(review, hills):
    review.decide(2, REJECTED)
    review.selected = 2
    again = ReviewedFindings(review.history)
    assert again.decisions == {}
    assert not again.has(2)
    assert again.highest == 0
    again.show(hills.at(8.5))
    assert again.decisions == {}
    again.show(hills.at(4.0))
    assert again.decisions == {2: REJECTED}
    assert again.decision_on(None) == Decision()
    assert again.highest == 2
    again.undo()
    assert again.decisions == {}
