"""Both protocols on hand-made cases, and thresholds against trying every one."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from napari_addm.errors import InputError
from napari_addm.findings.labelling import label_anomalies
from napari_addm.metrics.aupro import aupro
from napari_addm.metrics.protocols import anoddpm_case, anoddpm_slices, healthy_case, strict_case
from napari_addm.metrics.thresholds import (
    HealthyMap,
    false_alarm_curve,
    healthy_bound,
    threshold_by_dice,
    threshold_by_false_alarms,
)

SPACING = (2.0, 1.0, 1.0)  # 2 mm³, 0.002 mL a voxel


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A brain of 10 x 16 x 16 voxels, a lesion of 100, and a map that finds 80 of it.

    It also has a false component of 20 voxels and a false speck of 2.
    """
    brain = np.zeros((12, 20, 20), dtype=np.uint8)
    brain[1:11, 2:18, 2:18] = 1
    truth = np.zeros_like(brain)
    truth[3:7, 4:9, 4:9] = 1
    anomaly = np.where(brain, 0.1, 0.0).astype(np.float32)
    anomaly[3:7, 4:8, 4:9] = 0.8
    anomaly[8, 12:16, 12:17] = 0.6
    anomaly[1, 16, 15:17] = 0.9
    return anomaly, truth, brain


def strict(anomaly, truth, brain, threshold=0.5, minimum_ml=0.01):
    return strict_case(anomaly, truth, brain, threshold, spacing=SPACING, minimum_ml=minimum_ml)


# --- strict


def test_strict_case_by_hand():
    got = strict(*planted())
    assert (got.threshold, got.minimum_ml) == (0.5, 0.01)
    assert got.dice == pytest.approx(2 * 80 / (100 + 100))
    assert got.iou == pytest.approx(80 / 120)
    assert (got.precision, got.recall) == (0.8, 0.8)
    assert got.truth_ml == got.predicted_ml == pytest.approx(0.2)
    assert got.false_positive_ml == pytest.approx(0.04)
    # Just below 0.8 the lesion's 80 and the speck's 2 voxels are in.
    assert got.oracle_best_dice == pytest.approx(2 * 80 / (100 + 82))
    assert 0.6 < got.oracle_threshold < np.float32(0.8)
    assert got.prevalence == 100 / 2560
    assert (got.lesions.lesions, got.lesions.found) == (1, 1)
    assert (got.lesions.components, got.lesions.false_positives) == (2, 1)
    assert [size.lesions for size in got.lesions.by_size] == [0, 1, 0, 0]
    assert got.notes == ()
    # Without a minimum size the speck counts, too.
    everything = strict(*planted(), minimum_ml=0.0)
    assert everything.lesions.false_positives == 2
    assert everything.predicted_ml == pytest.approx(0.204)


def test_strict_areas_are_those_of_the_libraries():
    _, truth, brain = planted()
    rng = np.random.default_rng(0)
    anomaly = (brain * np.round(rng.random(brain.shape) + 0.5 * truth, 2)).astype(np.float32)
    got = strict(anomaly, truth, brain)
    inside = brain != 0
    y, s = truth[inside], anomaly[inside]
    assert got.auroc == pytest.approx(sklearn_metrics.roc_auc_score(y, s))
    assert got.auprc == pytest.approx(sklearn_metrics.average_precision_score(y, s))
    assert got.aupro == aupro(anomaly, truth, brain)
    field = sklearn_metrics.roc_auc_score(truth.ravel(), anomaly.ravel())
    assert got.auroc_field == pytest.approx(field)
    assert got.auroc_field > got.auroc


@pytest.mark.parametrize("offset", [-5.0, 5.0])
@pytest.mark.parametrize("air", [0.0, 99.0, np.nan])
def test_what_a_map_says_of_air_does_not_matter(offset, air):
    anomaly, truth, brain = planted()
    rng = np.random.default_rng(1)
    anomaly += np.where(brain, rng.normal(0, 0.2, brain.shape) + offset, 0).astype(np.float32)
    plain = strict(anomaly, truth, brain, threshold=0.5 + offset)
    other = strict(np.where(brain, anomaly, air), truth, brain, threshold=0.5 + offset)
    assert plain == other
    # Air is ranked below the brain, whatever the sign of the scores.
    order = np.where(brain, anomaly, anomaly.min() - 9)
    expected = sklearn_metrics.roc_auc_score(truth.ravel(), order.ravel())
    assert plain.auroc_field == pytest.approx(expected)


def test_truth_outside_the_brain_mask_counts_as_missed():
    anomaly, truth, brain = planted()
    truth[3:7, 4:9, 0:2] = 1  # 40 voxels of air
    got = strict(anomaly, truth, brain)
    assert got.recall == pytest.approx(80 / 140)
    assert got.truth_ml == pytest.approx(0.28)
    assert got.oracle_best_dice == pytest.approx(2 * 80 / (140 + 82))
    assert got.prevalence == 100 / 2560
    assert "0.08 mL of the ground truth lies outside the brain mask" in got.notes[0]


def test_strict_case_without_truth_or_without_findings():
    anomaly, truth, brain = planted()
    empty = strict(anomaly, np.zeros_like(truth), brain)
    undefined = (empty.dice, empty.iou, empty.precision, empty.recall, empty.oracle_best_dice)
    assert undefined == (None,) * 5
    assert (empty.auroc, empty.auroc_field, empty.auprc, empty.aupro) == (None,) * 4
    assert (empty.lesions.lesions, empty.lesions.recall) == (0, None)
    assert empty.false_positive_ml == empty.predicted_ml == pytest.approx(0.2)
    assert empty.lesions.false_positives == 2
    nothing = strict(anomaly, truth, brain, threshold=2.0)
    assert (nothing.dice, nothing.recall, nothing.precision) == (0, 0, None)
    assert (nothing.lesions.found, nothing.predicted_ml) == (0, 0)
    assert nothing.auroc == strict(anomaly, truth, brain).auroc


def test_strict_case_refuses_what_cannot_be_compared():
    anomaly, truth, brain = planted()
    with pytest.raises(InputError, match="resample"):
        strict(anomaly, truth[1:], brain)
    with pytest.raises(InputError, match="resample"):
        strict(anomaly, truth, brain[1:])
    with pytest.raises(InputError, match="mask is empty"):
        strict(anomaly, truth, np.zeros_like(brain))
    anomaly[5, 5, 5] = np.nan
    with pytest.raises(InputError, match="NaN"):
        strict(anomaly, truth, brain)


def test_results_are_plain_json():
    anomaly, truth, brain = planted()
    healthy = [HealthyMap(anomaly, brain, SPACING)]
    for result in (
        strict(anomaly, truth, brain),
        strict(anomaly, np.zeros_like(truth), brain),
        healthy_case(anomaly, brain, 0.5, spacing=SPACING, minimum_ml=0.01),
        anoddpm_case(anomaly, truth, anoddpm_slices(truth)),
        threshold_by_dice([(anomaly[brain != 0], truth[brain != 0])]),
        false_alarm_curve(healthy, minimum_ml=0.01, range_ml=(0.0, 0.2)),
    ):
        text = json.dumps(asdict(result), allow_nan=False)
        assert json.loads(text).keys() == asdict(result).keys()


def test_healthy_case_by_hand():
    anomaly, _, brain = planted()
    got = healthy_case(anomaly, brain, 0.5, spacing=SPACING, minimum_ml=0.01)
    assert (got.findings, got.false_positive_ml) == (2, pytest.approx(0.2))
    assert got.brain_ml == pytest.approx(5.12)
    none = healthy_case(anomaly, brain, 1.0, spacing=SPACING, minimum_ml=0.01)
    assert (none.findings, none.false_positive_ml) == (0, 0.0)
    outside = np.where(brain, anomaly, 1.0)
    again = healthy_case(outside, brain, 0.5, spacing=SPACING, minimum_ml=0.01)
    assert again == got


# --- anoddpm


def marked(slices) -> np.ndarray:
    truth = np.zeros((60, 4, 4), dtype=bool)
    truth[list(slices), 1, 2] = True
    return truth


@pytest.mark.parametrize(("start", "stop"), [(3, 43), (20, 50), (8, 32), (5, 19)])
def test_slices_are_those_of_anoddpm(start, stop):
    """Four numbers evenly from start + 5 to stop - 5, rounded down."""
    step = (stop - 5 - (start + 5)) / 3
    expected = tuple(math.floor(start + 5 + step * n + 1e-9) for n in range(4))
    assert anoddpm_slices(marked(range(start, stop))) == expected


@given(st.sets(st.integers(0, 59), min_size=1))
def test_slices_all_show_tumour_and_differ(slices):
    got = anoddpm_slices(marked(slices))
    assert len(got) == min(4, len(slices))
    assert set(got) <= slices
    assert list(got) == sorted(set(got))


def test_slices_of_small_tumours():
    assert anoddpm_slices(marked([7])) == (7,)
    assert anoddpm_slices(marked([7, 30])) == (7, 30)
    assert anoddpm_slices(marked(range(10, 14))) == (10, 11, 12, 13)
    with pytest.raises(InputError, match="truth is empty"):
        anoddpm_slices(np.zeros((5, 4, 4)))


def test_anoddpm_case_by_hand():
    truth = np.zeros((5, 4, 5), dtype=np.uint8)
    error = np.zeros(truth.shape, dtype=np.float32)
    truth[1, 0, :4] = 1
    error[1, 0, 2:5] = 0.51  # 2 of 4 found, 1 of 3 false
    error[1, 3, 0] = 0.5  # not above the threshold
    truth[2, 0, :4] = 1  # nothing found
    error[3] = 4.0  # no truth
    got = anoddpm_case(error, truth, (1, 2, 3))
    first, second, third = got.slices
    assert (first.precision, first.recall) == (pytest.approx(2 / 3), 0.5)  # not exchanged
    assert (first.dice, first.iou) == (pytest.approx(4 / 7), pytest.approx(2 / 5))
    y, s = truth[1].ravel(), error[1].ravel()
    assert first.auc == pytest.approx(sklearn_metrics.roc_auc_score(y, s))
    assert (second.dice, second.recall, second.precision, second.auc) == (0, 0, None, 0.5)
    assert (third.dice, third.iou, third.precision, third.recall, third.auc) == (None,) * 5
    assert got.dice == pytest.approx(2 / 7)
    assert got.recall == 0.25
    assert got.precision == pytest.approx(2 / 3)
    assert got.undefined_precision == 2
    assert [s.slice for s in got.slices] == [1, 2, 3]


def test_anoddpm_refuses_what_cannot_be_compared():
    truth = marked(range(20))
    with pytest.raises(InputError, match="resample"):
        anoddpm_case(np.zeros((3, 4, 4)), truth, (1,))
    with pytest.raises(InputError, match="NaN"):
        anoddpm_case(np.full(truth.shape, np.nan), truth, (1,))
    with pytest.raises(ValueError, match="no slices"):
        anoddpm_case(np.zeros(truth.shape), truth, ())


# --- thresholds

labelled = st.lists(
    st.tuples(
        hnp.arrays(np.float32, 30, elements=st.floats(-2, 2, width=16)),
        hnp.arrays(bool, 30),
    ),
    min_size=1,
    max_size=4,
).filter(lambda cases: any(truth.any() for _, truth in cases))


def dice_at(scores, truth, threshold) -> float:
    found = scores > threshold
    return 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum())


@given(labelled)
def test_threshold_by_dice_is_what_trying_every_one_gives(cases):
    got = threshold_by_dice(cases)
    with_truth = [case for case in cases if case[1].any()]
    assert got.excluded == len(cases) - len(with_truth)
    every = np.unique(np.concatenate([scores for scores, _ in cases]))
    tried = [
        np.mean([dice_at(scores, truth, t) for scores, truth in with_truth])
        for t in np.nextafter(every, np.float32(-np.inf))
    ]
    assert got.mean_dice == pytest.approx(max(tried))
    # The threshold as it is stored, a Python float, reaches that Dice on the float32 scores.
    reached = [dice_at(scores, truth, got.threshold) for scores, truth in with_truth]
    assert got.dice == pytest.approx(reached)
    assert np.mean(reached) == pytest.approx(got.mean_dice)


def test_threshold_by_dice_with_more_scores_than_are_tried():
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < 0.3
    cases = [(rng.random(truth.size) + shift * truth, truth) for shift in (0.2, 0.5)]
    got = threshold_by_dice(cases)
    grid = np.linspace(0, 1.5, 151)
    tried = [np.mean([dice_at(scores, truth, t) for scores, truth in cases]) for t in grid]
    assert got.mean_dice >= max(tried) - 1e-4
    assert got.mean_dice == pytest.approx(max(tried), abs=1e-3)


def test_threshold_by_dice_takes_integers_and_refuses_what_makes_no_sense():
    truth = np.array([0, 0, 1, 1])
    got = threshold_by_dice([(np.array([0, 1, 2, 3]), truth)])
    assert got.mean_dice == 1
    assert 1 <= got.threshold < 2
    with pytest.raises(ValueError, match="no case has any truth"):
        threshold_by_dice([(np.zeros(4), np.zeros(4))])
    with pytest.raises(ValueError, match="no case has any truth"):
        threshold_by_dice([])
    with pytest.raises(ValueError, match="not finite"):
        threshold_by_dice([(np.array([0, np.nan, 1, 2]), truth)])
    with pytest.raises(ValueError, match="shape"):
        threshold_by_dice([(np.zeros(3), truth)])


def healthy_maps(number: int, seed: int = 0) -> list[HealthyMap]:
    """Smooth noise within a ball, as residuals of healthy brains are."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt(sum((axis - 14.5) ** 2 for axis in np.indices((30, 30, 30))))
    maps = []
    for _ in range(number):
        noise = ndimage.gaussian_filter(rng.standard_normal((30, 30, 30)), 1.5)
        anomaly = np.abs(noise / noise.std()).astype(np.float32)
        maps.append(HealthyMap(anomaly, distance < 14, (2.0, 2.0, 2.0)))
    return maps


def found_ml(healthy: list[HealthyMap], threshold: float, minimum_ml: float) -> list[float]:
    found = []
    for one in healthy:
        labels = label_anomalies(
            one.anomaly,
            threshold,
            spacing=one.spacing,
            minimum_ml=minimum_ml,
            mask=one.brain_mask,
        )
        found.append(np.count_nonzero(labels) * math.prod(one.spacing) / 1000)
    return found


@given(
    hnp.arrays(np.float32, (4, 5, 6), elements=st.integers(0, 6).map(float)),
    st.integers(0, 8),
    st.integers(-1, 7),
)
def test_a_higher_threshold_never_finds_more(anomaly, fewest, threshold):
    """What bisection and the curve rest on, minimum size included."""
    healthy = [HealthyMap(anomaly, np.ones(anomaly.shape), (10.0, 10.0, 10.0))]
    low, high = (found_ml(healthy, t, float(fewest))[0] for t in (threshold, threshold + 0.5))
    assert high <= low


@pytest.mark.parametrize(("brains", "place"), [(1, 1), (5, 5), (8, 8), (9, 9), (19, 18), (31, 29)])
def test_a_further_healthy_brain_exceeds_the_bound_once_in_ten(brains, place):
    volumes = np.random.default_rng(brains).permutation(np.arange(1.0, brains + 1))
    assert healthy_bound(volumes) == place
    if brains >= 9:  # of n + 1 brains in any order, the last one is within the bound of the others
        everyone = np.arange(brains + 1)
        kept = [n <= healthy_bound(np.delete(everyone, n)) for n in everyone]
        assert np.mean(kept) >= 0.9


def test_the_bound_of_several_scanners_holds_for_each():
    assert healthy_bound([1.0, 2.0, 9.0, 3.0], ["a", "a", "b", "a"]) == 9.0
    many = [0.0] * 18 + [5.0, 0.5]
    assert healthy_bound(many) == 0.5
    assert healthy_bound(many, ["a"] * 18 + ["b", "a"]) == 5.0


@given(
    hnp.arrays(np.float32, (2, 4, 5, 6), elements=st.integers(0, 6).map(float)),
    st.integers(0, 6),
    st.integers(0, 130),
)
def test_threshold_by_false_alarms_is_the_lowest_that_is_allowed(maps, fewest, mean_ml):
    brain = np.ones(maps.shape[1:], dtype=bool)
    brain[0] = False
    healthy = [HealthyMap(anomaly, brain, (10.0, 10.0, 10.0)) for anomaly in maps]
    got = threshold_by_false_alarms(healthy, float(mean_ml), minimum_ml=float(fewest))
    assert np.mean(found_ml(healthy, got, float(fewest))) <= mean_ml
    lower = np.unique(maps[:, brain])
    lower = [-1.0, *lower[lower < got]]
    if got >= maps[:, brain].min():
        assert np.mean(found_ml(healthy, lower[-1], float(fewest))) > mean_ml


@pytest.mark.parametrize("minimum_ml", [0.0, 0.2])
def test_false_alarm_curve(minimum_ml):
    healthy = healthy_maps(3)
    curve = false_alarm_curve(healthy, minimum_ml=minimum_ml, range_ml=(0.1, 20.0))
    assert (curve.subjects, curve.minimum_ml) == (3, minimum_ml)
    assert len(curve.thresholds) == len(curve.mean_ml) == 40
    assert np.all(np.diff(curve.thresholds) > 0)
    assert np.all(np.diff(curve.mean_ml) <= 0)
    for threshold, mean in list(zip(curve.thresholds, curve.mean_ml, strict=True))[::13]:
        assert mean == pytest.approx(np.mean(found_ml(healthy, threshold, minimum_ml)))
    assert curve.mean_ml[0] == pytest.approx(20, abs=0.2)
    assert curve.mean_ml[-1] <= 0.1 + 1e-9
    assert curve.thresholds[0] == threshold_by_false_alarms(healthy, 20, minimum_ml=minimum_ml)
    assert curve.thresholds[-1] == threshold_by_false_alarms(healthy, 0.1, minimum_ml=minimum_ml)


def test_false_alarm_curve_holds_on_other_brains_of_the_same_kind():
    """The promise of the curve, on brains that it was not measured on."""
    curve = false_alarm_curve(healthy_maps(6, seed=1), minimum_ml=0.1, range_ml=(0.1, 20.0))
    others = healthy_maps(6, seed=2)
    for threshold, promised in list(zip(curve.thresholds, curve.mean_ml, strict=True))[::8]:
        assert np.mean(found_ml(others, threshold, 0.1)) == pytest.approx(
            promised, rel=0.5, abs=0.5
        )


def test_false_alarm_curve_of_a_small_or_flat_brain():
    """Even everything is less than 100 mL: then the lowest threshold lets everything in."""
    healthy = healthy_maps(1)
    brain_ml = np.count_nonzero(healthy[0].brain_mask) * 0.008
    curve = false_alarm_curve(healthy, minimum_ml=0.0, range_ml=(0.1, 1000.0))
    assert curve.mean_ml[0] == pytest.approx(brain_ml)
    flat = HealthyMap(np.full((9, 9, 9), 3), np.ones((9, 9, 9)), (5.0, 5.0, 5.0))
    curve = false_alarm_curve([flat], minimum_ml=0.1)
    assert curve.mean_ml == pytest.approx((729 * 0.125, 0.0))
    assert curve.thresholds == (pytest.approx(3), 3.0)


def test_thresholds_from_healthy_brains_refuse_what_makes_no_sense():
    healthy = healthy_maps(1)
    with pytest.raises(ValueError, match="no healthy"):
        false_alarm_curve([], minimum_ml=0.1)
    with pytest.raises(ValueError, match="range_ml"):
        false_alarm_curve(healthy, minimum_ml=0.1, range_ml=(5.0, 1.0))
    with pytest.raises(ValueError, match="two points"):
        false_alarm_curve(healthy, minimum_ml=0.1, points=1)
    with pytest.raises(ValueError, match="not negative"):
        threshold_by_false_alarms(healthy, -1.0, minimum_ml=0.1)
    with pytest.raises(InputError, match="resample"):
        false_alarm_curve(
            [HealthyMap(np.zeros((2, 2, 2)), np.ones((3, 3, 3)), SPACING)], minimum_ml=0.1
        )
    healthy[0].anomaly[15, 15, 15] = np.nan
    with pytest.raises(InputError, match="NaN"):
        false_alarm_curve(healthy, minimum_ml=0.1)
