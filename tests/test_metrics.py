"""Metrics against scikit-learn, against hand-made cases, and their properties."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from napari_addm.errors import InputError
from napari_addm.metrics import evaluate, rank

SHAPE = (4, 5, 6)


def cases(distinct: int):
    """A score map with many ties, and a truth with at least one voxel of each kind."""
    scores = hnp.arrays(np.float32, SHAPE, elements=st.integers(0, distinct).map(float))
    truth = hnp.arrays(bool, SHAPE).filter(lambda t: 0 < t.sum() < t.size)
    return st.tuples(scores, truth)


@given(cases(distinct=7), st.integers(-1, 8))
def test_equals_scikit_learn_with_ties(case, threshold):
    scores, truth = case
    got = evaluate(scores, truth, threshold=threshold)
    y, s, p = truth.ravel(), scores.ravel(), (scores > threshold).ravel()
    assert got.auroc == pytest.approx(sklearn_metrics.roc_auc_score(y, s))
    assert got.auprc == pytest.approx(sklearn_metrics.average_precision_score(y, s))
    assert got.dice == pytest.approx(sklearn_metrics.f1_score(y, p))
    assert got.iou == pytest.approx(sklearn_metrics.jaccard_score(y, p))
    assert got.recall == pytest.approx(sklearn_metrics.recall_score(y, p))
    if p.any():
        assert got.precision == pytest.approx(sklearn_metrics.precision_score(y, p))
    else:
        assert got.precision is None


@given(cases(distinct=9))
def test_best_dice_is_what_trying_every_threshold_gives(case):
    scores, truth = case
    got = evaluate(scores, truth, threshold=0)
    tried = [evaluate(scores, truth, threshold=t - 0.5).dice for t in np.unique(scores)]
    assert got.best_dice == max(tried)
    assert evaluate(scores, truth, threshold=got.best_threshold).dice == got.best_dice


@given(
    hnp.arrays(np.float32, SHAPE, elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False))
)
def test_best_threshold_reaches_best_dice_for_any_floats(scores):
    truth = np.zeros(SHAPE, dtype=bool)
    truth[1:3, 2:4, 2:5] = True
    got = evaluate(scores, truth, threshold=0)
    assert evaluate(scores, truth, threshold=got.best_threshold).dice == got.best_dice


@given(cases(distinct=20))
def test_areas_depend_on_order_alone(case):
    scores, truth = case
    one = evaluate(scores, truth, threshold=0)
    other = evaluate(3 * scores + 5, truth, threshold=5)
    assert (other.auroc, other.auprc, other.best_dice) == (one.auroc, one.auprc, one.best_dice)
    assert other.dice == one.dice
    turned = evaluate(-scores, truth, threshold=0)
    assert turned.auroc == pytest.approx(1 - one.auroc)


@given(cases(distinct=5), hnp.arrays(bool, SHAPE))
def test_mask_is_the_same_as_cutting_out(case, mask):
    scores, truth = case
    if not mask.any():
        return
    inside = evaluate(scores, truth, threshold=2, mask=mask)
    cut = evaluate(scores[mask], truth[mask], threshold=2)
    for name in ("dice", "iou", "precision", "recall", "auroc", "auprc", "best_dice", "truth_ml"):
        assert getattr(inside, name) == getattr(cut, name)


def planted() -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((10, 10, 10), dtype=np.uint8)
    truth[2:5, 2:5, 2:5] = 1
    return truth.astype(np.float32), truth


def test_perfect_map():
    scores, truth = planted()
    got = evaluate(scores, truth, threshold=0.5, voxel_ml=0.002)
    assert (got.dice, got.iou, got.precision, got.recall) == (1, 1, 1, 1)
    assert (got.auroc, got.auprc, got.best_dice) == (1, 1, 1)
    assert got.prevalence == 0.027
    assert got.truth_ml == got.predicted_ml == pytest.approx(0.054)
    assert got.notes == ()


def test_half_overlap_by_hand():
    truth = np.array([1, 1, 0, 0], dtype=bool)
    got = evaluate(np.array([0.9, 0.1, 0.8, 0.2]), truth, threshold=0.5)
    assert (got.dice, got.iou, got.precision, got.recall) == (0.5, 1 / 3, 0.5, 0.5)
    assert got.auroc == 0.5
    assert got.best_dice == pytest.approx(2 / 3)


def test_threshold_is_strict():
    got = evaluate(np.array([1.0, 2.0]), np.array([True, True]), threshold=1.0)
    assert got.recall == 0.5


def test_empty_truth_is_excluded_and_says_so():
    scores, truth = planted()
    got = evaluate(scores, np.zeros_like(truth), threshold=0.5)
    measures = (got.dice, got.iou, got.precision, got.recall, got.auroc, got.auprc, got.best_dice)
    assert measures == (None,) * 7
    assert got.best_threshold is None
    assert got.truth_ml == 0
    assert got.predicted_ml == pytest.approx(0.027)
    assert "excluded" in got.notes[0]


def test_empty_prediction_is_a_valid_zero():
    scores, truth = planted()
    got = evaluate(scores, truth, threshold=2.0)
    assert (got.dice, got.iou, got.recall, got.predicted_ml) == (0, 0, 0, 0)
    assert got.precision is None
    assert got.auroc == 1
    assert "0 mL" in got.notes[0]


def test_truth_that_fills_the_region():
    got = evaluate(np.arange(8.0), np.ones(8, dtype=bool), threshold=-1)
    assert got.auroc is None
    assert (got.auprc, got.dice, got.best_dice, got.prevalence) == (1, 1, 1, 1)


def test_constant_score_is_chance():
    _, truth = planted()
    got = evaluate(np.full(truth.shape, 3.0), truth, threshold=3.0)
    assert got.auroc == 0.5
    assert got.auprc == got.prevalence
    assert got.dice == 0
    assert got.best_threshold < 3.0


def test_prediction_replaces_the_threshold_and_leaves_the_areas():
    scores, truth = planted()
    labels = truth.astype(np.int32) * 4
    labels[2] = 0
    got = evaluate(scores, truth, threshold=-5, prediction=labels)
    assert got.recall == pytest.approx(2 / 3)
    assert got.precision == 1
    assert got.auroc == 1


def test_truth_outside_the_mask_is_named():
    scores, truth = planted()
    mask = np.ones(truth.shape, dtype=bool)
    mask[2] = False
    got = evaluate(scores, truth, threshold=0.5, mask=mask, voxel_ml=1.0)
    assert got.truth_ml == 18
    assert got.notes[0].startswith("9.00 mL of the ground truth lies outside the mask")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float64, bool])
def test_any_real_dtype(dtype):
    scores, truth = planted()
    got = evaluate(scores.astype(dtype), truth, threshold=0.5)
    assert (got.auroc, got.dice, got.best_dice) == (1, 1, 1)
    assert evaluate(scores.astype(dtype), truth, threshold=got.best_threshold).dice == 1


def test_refuses_what_cannot_be_compared():
    scores, truth = planted()
    with pytest.raises(InputError, match="resample"):
        evaluate(scores, truth[1:], threshold=0.5)
    with pytest.raises(InputError, match="mask is empty"):
        evaluate(scores, truth, threshold=0.5, mask=np.zeros_like(truth))
    scores[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        evaluate(scores, truth, threshold=0.5)
    mask = np.ones_like(truth)
    mask[0] = 0
    assert evaluate(scores, truth, threshold=0.5, mask=mask).dice == 1


def test_a_whole_brain_is_exact_and_takes_less_than_a_second():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(1_500_000).astype(np.float32)
    truth = rng.random(scores.size) < 0.05
    scores[truth] += 1
    start = time.perf_counter()
    got = rank(scores, truth)
    assert time.perf_counter() - start < 1.0
    assert got.auroc == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores), abs=1e-12)
    expected = sklearn_metrics.average_precision_score(truth, scores)
    assert got.auprc == pytest.approx(expected, abs=1e-9)
