"""Findings of two dates are matched by their overlap, each exactly once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.findings.matching import KINDS, Change, Labelled, count_kinds, match_findings

SHAPE = (20, 24, 30)
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])  # a voxel of 0.024 mL


def labelled(*boxes: tuple[int, slice, slice, slice], affine=AFFINE, brain=None) -> Labelled:
    labels = np.zeros(SHAPE, np.uint16)
    for id, *box in boxes:
        labels[tuple(box)] = id
    brain = np.ones(SHAPE, bool) if brain is None else brain
    return Labelled(labels, np.where(labels, 0.9, 0.1).astype(np.float32), brain, affine, 0.5)


def box(id: int, size: int, at: int = 2) -> tuple[int, slice, slice, slice]:
    """A finding of 5 x 4 x `size` voxels."""
    return id, slice(2, 7), slice(3, 7), slice(at, at + size)


def only(changes: list[Change]) -> Change:
    (change,) = changes
    return change


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (10, 10, "unchanged"),
        (10, 12, "unchanged"),  # 20 %
        (10, 13, "grown"),
        (13, 9, "shrunk"),
        (1, 2, "unchanged"),  # 100 %, but 0.48 mL
        (0, 3, "new"),
        (3, 0, "gone"),
    ],
)
def test_a_change_has_to_be_large_enough(before: int, after: int, kind: str) -> None:
    change = only(
        match_findings(
            labelled(*[box(4, before)] * (before > 0)), labelled(*[box(9, after)] * (after > 0))
        )
    )
    assert change.kind == kind
    assert (change.before_ml, change.after_ml) == pytest.approx((0.48 * before, 0.48 * after))
    assert (change.before, change.after) == ((4,) * (before > 0), (9,) * (after > 0))
    assert change.change_ml == pytest.approx(0.48 * (after - before))
    peaks = [0.9 if there else 0.1 for there in (before, after)]
    assert [change.before_peak, change.after_peak] == pytest.approx(peaks)
    if before and after:
        assert change.change_percent == pytest.approx(100 * (after - before) / before)
    else:
        assert change.change_mm is None


def test_the_longest_diameter_is_that_from_face_to_face() -> None:
    change = only(match_findings(labelled(box(1, 20)), labelled(box(1, 25))))
    # the middles of the faces across the longest axis lie in opposite corner rows
    assert change.before_mm == pytest.approx(np.linalg.norm([80, 4 * 2, 3 * 3]))
    assert change.change_mm == pytest.approx(np.linalg.norm([100, 8, 9]) - change.before_mm)
    single = only(match_findings(labelled((1, 4, 4, slice(4, 5))), labelled()))
    assert single.before_mm == pytest.approx(4.0)


def test_several_findings_at_one_place_are_one_group() -> None:
    parts = labelled(box(1, 5), box(2, 5, at=9), box(3, 4, at=20))
    whole = labelled(box(7, 14))
    merged, gone = match_findings(parts, whole)
    assert (merged.before, merged.after, merged.kind) == ((1, 2), (7,), "grown")
    assert merged.before_ml == pytest.approx(4.8)
    assert (gone.before, gone.kind) == ((3,), "gone")
    split = match_findings(whole, parts)[0]
    assert (split.before, split.after, split.kind) == ((7,), (1, 2), "shrunk")


def test_a_finding_near_the_threshold_is_weak() -> None:
    here, there = (replace(labelled(box(1, 9)), threshold=at) for at in (0.5, 0.7))
    assert [only(match_findings(one, one)).weak for one in (here, there)] == [False, True]
    assert not only(match_findings(there, here)).weak, "it is strong at one date"
    larger = replace(labelled(box(1, 18)), threshold=0.7)
    assert only(match_findings(there, larger)).kind == "uncertain"
    assert only(match_findings(here, larger)).kind == "grown"


def test_a_touch_is_no_match() -> None:
    changes = match_findings(labelled(box(1, 12)), labelled(box(1, 12, at=13)))
    assert [change.kind for change in changes] == ["gone", "new"]


def test_what_the_other_scan_does_not_show_is_not_covered() -> None:
    brain = np.ones(SHAPE, bool)
    brain[:, :, 10:] = False
    here, there = labelled(box(1, 4), box(2, 8, at=14)), labelled(box(1, 4), brain=brain)
    for one, other in ((here, there), (there, here)):
        beyond, same = match_findings(one, other)
        assert (beyond.kind, beyond.change_ml, beyond.change_percent) == ("not covered", None, None)
        assert same.kind == "unchanged"
    cut = only(match_findings(labelled(box(1, 16)), labelled(box(1, 8), brain=brain)))
    assert cut.kind == "not covered"  # it may go on beyond the edge
    moved = AFFINE.copy()
    moved[2, 3] = 1000.0
    apart = match_findings(labelled(box(1, 4)), labelled(box(1, 4), affine=moved))
    assert [change.kind for change in apart] == ["not covered"] * 2
    assert [change.after_peak for change in apart] == [None, pytest.approx(0.9)]


def test_grids_may_differ() -> None:
    coarse = labelled(box(1, 6))
    fine = Labelled(
        *(
            np.repeat(np.repeat(a, 2, 0), 2, 1)
            for a in (coarse.labels, coarse.anomaly, coarse.brain)
        ),
        np.array([[1.0, 0, 0, -0.5], [0, 1.5, 0, -0.75], [0, 0, 4, 0], [0, 0, 0, 1]]),
        0.5,
    )
    for one, other in ((coarse, fine), (fine, coarse)):
        change = only(match_findings(one, other))
        assert change.kind == "unchanged"
        assert change.change_ml == pytest.approx(0)


@given(seed=st.integers(0, 2**32 - 1))
def test_every_finding_is_in_exactly_one_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dates = []
    for _ in range(2):
        labels = np.zeros(SHAPE, np.int32)
        for id in rng.choice(10**6, rng.integers(0, 8), replace=False) + 1:
            start = rng.integers(0, SHAPE)
            s, a, r = map(slice, start, start + rng.integers(1, 9, 3))
            labels[s, a, r] = id
        anomaly = rng.random(SHAPE).astype(np.float32)
        dates.append(Labelled(labels, anomaly, rng.random(SHAPE) < 0.9, AFFINE, 0.5))
    changes = match_findings(*dates)
    for date, ids in zip(dates, ("before", "after"), strict=True):
        named = [id for change in changes for id in getattr(change, ids)]
        assert sorted(named) == np.unique(date.labels[date.labels != 0]).tolist()
        total = sum(getattr(change, f"{ids}_ml") for change in changes)
        assert total == pytest.approx(0.024 * np.count_nonzero(date.labels))
    assert sum(count_kinds(changes).values()) == len(changes)
    assert {change.kind for change in changes} <= set(KINDS)
