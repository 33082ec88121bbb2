"""Metrics against scikit-learn and MONAI, hand-made cases, and their properties."""

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from napari_addm.errors import InputError
from napari_addm.metrics.aupro import aupro
from napari_addm.metrics.evaluation import evaluate
from napari_addm.metrics.lesionwise import Lesions, SizeClass, lesion_recall
from napari_addm.metrics.sorted_scores import SortedScores

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
    assert got["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, s))
    assert got["auprc"] == pytest.approx(sklearn_metrics.average_precision_score(y, s))
    assert got["dice"] == pytest.approx(sklearn_metrics.f1_score(y, p))
    assert got["iou"] == pytest.approx(sklearn_metrics.jaccard_score(y, p))
    assert got["recall"] == pytest.approx(sklearn_metrics.recall_score(y, p))
    if p.any():
        assert got["precision"] == pytest.approx(sklearn_metrics.precision_score(y, p))
    else:
        assert got["precision"] is None


@given(cases(distinct=9))
def test_best_dice_is_what_trying_every_threshold_gives(case):
    scores, truth = case
    got = evaluate(scores, truth, threshold=0)
    tried = [evaluate(scores, truth, threshold=t - 0.5)["dice"] for t in np.unique(scores)]
    assert got["best_dice"] == max(tried)
    assert evaluate(scores, truth, threshold=got["best_threshold"])["dice"] == got["best_dice"]


@given(
    hnp.arrays(np.float32, SHAPE, elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False))
)
def test_best_threshold_reaches_best_dice_for_any_floats(scores):
    truth = np.zeros(SHAPE, dtype=bool)
    truth[1:3, 2:4, 2:5] = True
    got = evaluate(scores, truth, threshold=0)
    assert evaluate(scores, truth, threshold=got["best_threshold"])["dice"] == got["best_dice"]


@given(cases(distinct=20))
def test_areas_depend_on_order_alone(case):
    scores, truth = case
    one = evaluate(scores, truth, threshold=0)
    other = evaluate(3 * scores + 5, truth, threshold=5)
    for name in ("auroc", "auprc", "best_dice", "dice"):
        assert other[name] == one[name]
    turned = evaluate(-scores, truth, threshold=0)
    assert turned["auroc"] == pytest.approx(1 - one["auroc"])


@given(cases(distinct=5), hnp.arrays(bool, SHAPE))
def test_mask_is_the_same_as_cutting_out(case, mask):
    scores, truth = case
    if not mask.any():
        return
    inside = evaluate(scores, truth, threshold=2, mask=mask)
    cut = evaluate(scores[mask], truth[mask], threshold=2)
    for name in ("dice", "iou", "precision", "recall", "auroc", "auprc", "best_dice", "truth_ml"):
        assert inside[name] == cut[name]


def planted() -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((10, 10, 10), dtype=np.uint8)
    truth[2:5, 2:5, 2:5] = 1
    return truth.astype(np.float32), truth


def test_threshold_is_strict():
    got = evaluate(np.array([1.0, 2.0]), np.array([True, True]), threshold=1.0)
    assert got["recall"] == 0.5


def test_empty_truth_is_excluded_and_says_so():
    scores, truth = planted()
    got = evaluate(scores, np.zeros_like(truth), threshold=0.5)
    undefined = "dice", "iou", "precision", "recall", "auroc", "auprc", "best_dice"
    for name in (*undefined, "best_threshold"):
        assert got[name] is None
    assert got["truth_ml"] == 0
    assert got["predicted_ml"] == pytest.approx(0.027)
    assert "excluded" in got.notes[0]


def test_empty_prediction_is_a_valid_zero():
    scores, truth = planted()
    got = evaluate(scores, truth, threshold=2.0)
    assert (got["dice"], got["iou"], got["recall"], got["predicted_ml"]) == (0, 0, 0, 0)
    assert got["precision"] is None
    assert got["auroc"] == 1
    assert "0 mL" in got.notes[0]


def test_truth_that_fills_the_region():
    got = evaluate(np.arange(8.0), np.ones(8, dtype=bool), threshold=-1)
    assert got["auroc"] is None
    assert (got["auprc"], got["dice"], got["best_dice"], got["prevalence"]) == (1, 1, 1, 1)


def test_constant_score_is_chance():
    _, truth = planted()
    got = evaluate(np.full(truth.shape, 3.0), truth, threshold=3.0)
    assert got["auroc"] == 0.5
    assert got["auprc"] == got["prevalence"]
    assert got["dice"] == 0
    assert got["best_threshold"] < 3.0


def test_prediction_replaces_the_threshold_and_leaves_the_areas():
    scores, truth = planted()
    labels = truth.astype(np.int32) * 4
    labels[2] = 0
    got = evaluate(scores, truth, threshold=-5, prediction=labels)
    assert got["recall"] == pytest.approx(2 / 3)
    assert got["precision"] == 1
    assert got["auroc"] == 1


def test_truth_outside_the_mask_is_named():
    scores, truth = planted()
    mask = np.ones(truth.shape, dtype=bool)
    mask[2] = False
    got = evaluate(scores, truth, threshold=0.5, mask=mask, voxel_ml=1.0)
    assert got["truth_ml"] == 18
    assert got.notes[0].startswith("9.00 mL of the ground truth lies outside the mask")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float64, bool])
def test_any_real_dtype(dtype):
    scores, truth = planted()
    got = evaluate(scores.astype(dtype), truth, threshold=0.5)
    assert (got["auroc"], got["dice"], got["best_dice"]) == (1, 1, 1)
    assert evaluate(scores.astype(dtype), truth, threshold=got["best_threshold"])["dice"] == 1


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
    assert evaluate(scores, truth, threshold=0.5, mask=mask)["dice"] == 1


def test_a_whole_brain_is_exact():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(500_000).astype(np.float32)
    truth = rng.random(scores.size) < 0.05
    scores[truth] += 1
    got = SortedScores.of(scores, truth)
    assert got.auroc == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores), abs=1e-12)
    expected = sklearn_metrics.average_precision_score(truth, scores)
    assert got.auprc == pytest.approx(expected, abs=1e-9)


def test_equals_monai():
    import monai.metrics
    import torch

    rng = np.random.default_rng(1)
    truth = rng.random((9, 10, 11)) < 0.1
    scores = np.round(rng.random(truth.shape) + 0.4 * truth, 2).astype(np.float32)
    got = evaluate(scores, truth, threshold=0.8)
    s, y = torch.from_numpy(scores), torch.from_numpy(truth)
    one_hot = [t[None, None].float() for t in (s > np.float32(0.8), y)]
    dice = monai.metrics.compute_dice(*one_hot, include_background=True)
    iou = monai.metrics.compute_iou(*one_hot, include_background=True)
    auroc = monai.metrics.compute_roc_auc(s.flatten(), y.flatten().long())
    assert (got["dice"], got["iou"]) == pytest.approx((dice.item(), iou.item()), abs=1e-6)
    assert got["auroc"] == pytest.approx(auroc, abs=1e-6)
    # Of an empty truth both make an undefined Dice, which is no number to be averaged.
    empty = torch.zeros_like(one_hot[1])
    assert monai.metrics.compute_dice(one_hot[0], empty).isnan().all()
    assert evaluate(scores, np.zeros_like(truth), threshold=0.8)["dice"] is None


# --- per-region overlap


def aupro_by_every_threshold(scores: np.ndarray, truth: np.ndarray, limit: float) -> float:
    """Threshold after threshold, then trapezoids: slow and plain."""
    regions, count = ndimage.label(truth, structure=np.ones((3,) * truth.ndim))
    curve = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        predicted = scores >= threshold
        overlap = np.mean([predicted[regions == n].mean() for n in range(1, count + 1)])
        curve.append((predicted[~truth].mean(), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        end = min(x1, limit)
        if end > x0:
            area += (end - x0) * (y0 + (y0 + (y1 - y0) * (end - x0) / (x1 - x0))) / 2
    return area / limit


@given(cases(distinct=7), st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_is_what_trying_every_threshold_gives(case, limit):
    scores, truth = case
    expected = aupro_by_every_threshold(scores, truth, limit)
    assert aupro(scores, truth, limit=limit) == pytest.approx(expected, abs=1e-12)


def test_aupro_of_one_region_is_the_partial_auroc_of_scikit_learn():
    rng = np.random.default_rng(2)
    truth = np.zeros((12, 12, 12), dtype=bool)
    truth[3:8, 4:9, 2:7] = True
    scores = np.round(rng.standard_normal(truth.shape) + truth, 1)
    limit = 0.3
    # scikit-learn rescales the partial area after McClish: chance to .5, perfect to 1.
    rescaled = sklearn_metrics.roc_auc_score(truth.ravel(), scores.ravel(), max_fpr=limit)
    area = limit**2 / 2 + (2 * rescaled - 1) * (limit - limit**2 / 2)
    assert aupro(scores, truth, limit=limit) == pytest.approx(area / limit)


@given(cases(distinct=5), hnp.arrays(bool, SHAPE))
def test_aupro_depends_on_order_alone_and_on_the_mask(case, mask):
    scores, truth = case
    mask = mask | truth
    got = aupro(scores, truth, mask)
    assert got is None or 0 <= got <= 1
    assert aupro(2 * scores - 9, truth, mask) == got
    outside = np.where(mask, scores, 1e6).astype(np.float32)
    assert aupro(outside, truth, mask) == got


def test_aupro_by_hand():
    # Two regions of 1 and 3 voxels; 10 other voxels.
    truth = np.array([1, 0, 1, 1, 1] + 9 * [0], dtype=bool)
    scores = np.array([9.0, 0, 7, 5, 3, 8, 6, 4, 2, 1, 0, 0, 0, 0])
    # Overlap 1/2 from rate 0, 2/3 from .1, 5/6 from .2, 1 from .3.
    assert aupro(scores, truth, limit=0.3) == pytest.approx((1 / 2 + 2 / 3 + 5 / 6) / 3)
    assert aupro(scores, truth, limit=0.15) == pytest.approx((0.1 / 2 + 0.05 * 2 / 3) / 0.15)
    # A small region that is missed weighs as much as a large one.
    assert aupro(np.where(scores == 9, -1, scores), truth, limit=0.05) == 0
    assert aupro(truth.astype(float), truth) == pytest.approx(1)
    assert aupro(-truth.astype(float), truth) == 0


def test_aupro_of_scores_without_information():
    _, truth = planted()
    assert aupro(np.full(truth.shape, 3.0), truth) == pytest.approx(0.15)
    noise = np.random.default_rng(0).random((60, 60, 60))
    truth = np.zeros(noise.shape, dtype=bool)
    truth[10:40, 10:40, 10:40] = True
    assert aupro(noise, truth) == pytest.approx(0.15, abs=0.01)


def test_aupro_is_undefined_without_truth_or_without_anything_else():
    scores, truth = planted()
    assert aupro(scores, np.zeros_like(truth)) is None
    assert aupro(scores, np.ones_like(truth)) is None
    assert aupro(scores, truth, mask=truth) is None
    assert aupro(scores, truth, mask=1 - truth) is None
    with pytest.raises(InputError, match="mask is empty"):
        aupro(scores, truth, mask=np.zeros_like(truth))
    with pytest.raises(InputError, match="The ground truth has shape"):
        aupro(scores, truth[1:])
    with pytest.raises(ValueError, match="limit"):
        aupro(scores, truth, limit=0)


def test_aupro_of_a_component_that_the_mask_cuts_in_two():
    truth = np.zeros((1, 3, 9), dtype=bool)
    truth[0, 1, 1:8] = True
    mask = np.ones(truth.shape, dtype=bool)
    mask[0, :, 4] = False
    scores = np.zeros(truth.shape)
    scores[0, 1, 1] = 1.0
    # One region of six voxels inside the mask, one of them found: not two regions of three.
    assert aupro(scores, truth, mask, limit=0.3) == pytest.approx(1 / 6 + 5 / 6 * 0.3 / 2)


# --- lesion by lesion


def lesions_by_hand() -> tuple[np.ndarray, np.ndarray]:
    """Three lesions of 40, 200 and 2,000 voxels, and a prediction of four components."""
    truth = np.zeros((20, 20, 40), dtype=np.uint8)
    truth[0, 0, :40] = 1
    truth[4:8, 4:9, 0:10] = 1
    truth[10:20, 10:20, 0:20] = 1
    prediction = np.zeros_like(truth)
    prediction[0, 0, 0:3] = 1  # 3 of 40: less than a tenth
    prediction[4, 4, 0:10] = 1  # 10 of 200 ...
    prediction[5, 4, 0:10] = 1  # ... and 10 more: a tenth
    prediction[15:20, 10:20, 0:40] = 1  # 1,000 of 2,000, and as many outside
    prediction[0:2, 18:20, 30:40] = 1  # touches nothing
    return prediction, truth


def test_lesion_recall_by_hand():
    prediction, truth = lesions_by_hand()
    got = lesion_recall(prediction, truth, voxel_ml=0.001)
    assert (got.lesions, got.found, got.recall) == (3, 2, pytest.approx(2 / 3))
    assert got.by_size == (
        SizeClass(0.0, 0.1, lesions=1, found=0),
        SizeClass(0.1, 1.0, lesions=1, found=1),
        SizeClass(1.0, 10.0, lesions=1, found=1),
        SizeClass(10.0, None, lesions=0, found=0),
    )
    assert [size.recall for size in got.by_size] == [0, 1, 1, None]
    assert (got.components, got.false_positives) == (4, 1)
    json.dumps(asdict(got), allow_nan=False)


def test_a_prediction_that_floods_the_brain_finds_nothing():
    truth = np.zeros((3, 3, 30), dtype=bool)
    truth[:, :, :9] = True
    everywhere = np.ones_like(truth)
    exactly_seven_tenths_outside = lesion_recall(everywhere, truth, voxel_ml=1.0)
    assert (exactly_seven_tenths_outside.found, exactly_seven_tenths_outside.components) == (1, 1)
    assert exactly_seven_tenths_outside.false_positives == 0
    truth[0, 0, 8] = False
    flooded = lesion_recall(everywhere, truth, voxel_ml=1.0)
    assert (flooded.found, flooded.components, flooded.false_positives) == (0, 1, 1)


def test_a_false_component_does_not_spoil_what_another_one_finds():
    truth = np.zeros((1, 9, 40), dtype=bool)
    truth[0, 0, :20] = True
    prediction = np.zeros_like(truth)
    prediction[0, 0, 0:2] = True
    assert lesion_recall(prediction, truth, voxel_ml=1.0).found == 1
    prediction[0, 0, 18:20] = True
    prediction[0, :, 20:40] = True
    got = lesion_recall(prediction, truth, voxel_ml=1.0)
    assert (got.found, got.components, got.false_positives) == (1, 2, 1)
    prediction[0, 0, 0] = False
    assert lesion_recall(prediction, truth, voxel_ml=1.0).found == 0


def test_sizes_on_a_bound_belong_to_the_class_above():
    truth = np.zeros((10, 10, 30), dtype=bool)
    truth[:, :, 0] = True
    got = lesion_recall(truth, truth, voxel_ml=0.001)  # 100 voxels are 0.1 mL
    assert [size.lesions for size in got.by_size] == [0, 1, 0, 0]


def test_lesion_recall_of_empty_masks():
    prediction, truth = lesions_by_hand()
    nothing = np.zeros_like(truth)
    healthy = lesion_recall(prediction, nothing, voxel_ml=0.001)
    assert (healthy.lesions, healthy.recall) == (0, None)
    assert (healthy.components, healthy.false_positives) == (4, 4)
    missed = lesion_recall(nothing, truth, voxel_ml=0.001)
    assert (missed.lesions, missed.found, missed.recall) == (3, 0, 0.0)
    assert (missed.components, missed.false_positives) == (0, 0)
    assert lesion_recall(nothing, nothing, voxel_ml=0.001).recall is None


@given(hnp.arrays(bool, SHAPE), hnp.arrays(bool, SHAPE))
def test_lesion_recall_counts_are_consistent(prediction, truth):
    got = lesion_recall(prediction, truth, voxel_ml=0.05)
    assert sum(size.lesions for size in got.by_size) == got.lesions
    assert sum(size.found for size in got.by_size) == got.found <= got.lesions
    components, count = ndimage.label(prediction, structure=np.ones((3, 3, 3)))
    assert got.components == count
    shares = [truth[components == n].mean() for n in range(1, count + 1)]
    assert got.false_positives == sum(share < 0.3 - 1e-9 for share in shares)
    perfect = lesion_recall(truth, truth, voxel_ml=0.05)
    assert (perfect.found, perfect.false_positives) == (perfect.lesions, 0)


def test_lesion_recall_refuses_what_makes_no_sense():
    prediction, truth = lesions_by_hand()
    with pytest.raises(InputError, match="resample"):
        lesion_recall(prediction[1:], truth, voxel_ml=0.001)


# --- curves ----------------------------------------------------------------------------------


@given(cases(distinct=7), st.integers(-1, 8))
def test_what_lies_above_a_threshold_equals_evaluate(case, threshold):
    scores, truth = case
    point = SortedScores.of(scores.ravel(), truth.ravel()).at(threshold)
    expected = evaluate(scores, truth, threshold=threshold)
    assert point.dice == pytest.approx([expected["dice"]])
    assert point.recall == pytest.approx([expected["recall"]])
    above = scores > threshold
    assert point.false_positive_rate == pytest.approx([np.mean(above[~truth])])
    assert (
        np.isnan(point.precision[0])
        if expected["precision"] is None
        else (point.precision[0] == pytest.approx(expected["precision"]))
    )


@given(cases(distinct=9))
def test_curves_with_ties_equal_scikit_learn(case):
    """No score is left out of a few, so corners and areas are scikit-learn's own."""
    scores, truth = case[0].ravel(), case[1].ravel()
    curves = SortedScores.of(scores, truth).curves(points=scores.size)
    rate, recall = curves.false_positive_rate[::-1], curves.recall[::-1]
    expected = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert set(zip(rate, recall, strict=True)) == set(zip(expected[0], expected[1], strict=True))
    assert np.trapezoid(recall, rate) == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores))
    defined = ~np.isnan(curves.precision)
    precision, recall = curves.precision[defined][::-1], curves.recall[defined][::-1]
    expected = sklearn_metrics.precision_recall_curve(truth, scores)
    ours = set(zip(precision.round(9), recall.round(9), strict=True))
    # scikit-learn's last point is made up: precision 1 at recall 0
    theirs = set(zip(expected[0][:-1].round(9), expected[1][:-1].round(9), strict=True))
    assert ours == theirs
    area = np.sum(np.diff(recall, prepend=0) * precision)
    assert area == pytest.approx(sklearn_metrics.average_precision_score(truth, scores))
    assert np.nanmax(curves.dice) == evaluate(scores, truth, threshold=0)["best_dice"]


def test_thinned_curves_are_exact_at_their_points_and_keep_the_areas():
    random = np.random.default_rng(4)
    truth = random.random(200_000) < 0.02
    scores = (random.normal(size=truth.size) + 1.5 * truth).astype(np.float32)
    curves = SortedScores.of(scores, truth).curves()
    assert curves.threshold.size <= 601
    assert np.all(np.diff(curves.threshold) >= 0)
    assert (curves.tp[0], curves.fp[0]) == (truth.sum(), (~truth).sum())
    assert (curves.tp[-1], curves.fp[-1]) == (0, 0)
    assert np.isnan(curves.precision[-1])
    for n in range(0, curves.threshold.size, 37):
        above = scores > curves.threshold[n]
        assert curves.tp[n] == np.count_nonzero(above & truth)
        assert curves.fp[n] == np.count_nonzero(above & ~truth)
    rate, recall = curves.false_positive_rate[::-1], curves.recall[::-1]
    assert np.trapezoid(recall, rate) == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, scores), abs=1e-3
    )
    # 300 pixels wide, no curve has a gap that shows
    assert max(np.diff(rate).max(), np.diff(recall).max()) < 0.01
    reach = curves.threshold[-1] - curves.threshold[0]
    assert np.diff(curves.threshold).max() < 0.01 * reach


def test_curves_without_positives_or_negatives():
    empty = SortedScores.of(np.arange(4.0), np.zeros(4, dtype=bool)).curves()
    assert np.isnan(np.stack((empty.recall, empty.dice))).all()
    full = SortedScores.of(np.arange(4.0), np.ones(4, dtype=bool)).curves()
    assert np.isnan(full.false_positive_rate).all()
    assert full.dice[0] == 1
    with pytest.raises(InputError, match="empty"):
        SortedScores.of(np.zeros(0), np.zeros(0, dtype=bool))
    with pytest.raises(InputError, match="NaN"):
        SortedScores.of(np.array([1.0, np.nan]), np.array([True, False]))


# --- lesions ---------------------------------------------------------------------------------


def table_of(prediction, truth, anomaly=None, **options):
    labels, count = ndimage.label(prediction, structure=np.ones((3, 3, 3)))
    ids = np.arange(1, count + 1)
    sizes = [np.count_nonzero(labels == n) for n in ids]
    anomaly = np.asarray(truth, dtype=np.float32) if anomaly is None else anomaly
    return Lesions(truth, anomaly, **options).under(labels, ids, sizes)


def test_lesions_by_hand():
    truth = np.zeros((8, 8, 8), dtype=np.uint8)
    truth[0, 0, 0] = 5  # one voxel, not found
    truth[2:4, 2:4, 2:4] = 1
    truth[4, 4, 4] = 2  # touches by a corner: the same lesion, of 9 voxels
    truth[7, 0:4, 7] = 1  # 4 voxels, one of them found
    anomaly = np.zeros(truth.shape, dtype=np.float32)
    anomaly[0, 0, 0], anomaly[3, 2, 3], anomaly[4, 4, 4], anomaly[7, 3, 7] = 0.1, 0.8, 0.7, 0.3
    anomaly[6, 6, 6] = 9.0  # no lesion
    prediction = np.zeros(truth.shape, dtype=bool)
    prediction[2:4, 2:4, 2:4] = True
    prediction[7, 3, 7] = True
    prediction[0, 6, 6] = True  # false
    table = table_of(prediction, truth, anomaly, voxel_ml=0.5)
    first, second, third = table.lesions
    assert (first.id, first.volume_ml, first.found) == (1, 4.5, True)
    assert first.covered == pytest.approx(8 / 9)
    assert (first.peak, first.index) == (pytest.approx(0.8), (3, 2, 3))
    assert (second.id, second.volume_ml, second.found, second.covered) == (2, 2.0, True, 0.25)
    assert second.index == (7, 3, 7)
    assert (third.id, third.volume_ml, third.found, third.covered) == (3, 0.5, False, 0.0)
    assert third.peak == pytest.approx(0.1)
    assert (table.found, table.findings, table.false_findings) == (2, 3, 1)


def test_lesions_of_empty_truth_and_all_found():
    nothing = np.zeros((4, 4, 4), dtype=bool)
    spot = nothing.copy()
    spot[1, 1, 1] = True
    table = table_of(spot, nothing)
    assert (table.lesions, table.found, table.false_findings) == ((), 0, 1)
    table = table_of(nothing, spot)
    assert [(lesion.found, lesion.covered) for lesion in table.lesions] == [(False, 0)]
    table = table_of(spot, spot)
    assert [(lesion.found, lesion.covered) for lesion in table.lesions] == [(True, 1)]
    assert table.false_findings == 0


@given(hnp.arrays(bool, SHAPE), hnp.arrays(bool, SHAPE))
def test_lesion_table_counts_as_lesion_recall(prediction, truth):
    table = table_of(prediction, truth)
    expected = lesion_recall(prediction, truth, 0.001)
    assert len(table.lesions) == expected.lesions
    assert table.found == expected.found
    assert (table.findings, table.false_findings) == (expected.components, expected.false_positives)
    volumes = [lesion.volume_ml for lesion in table.lesions]
    assert volumes == sorted(volumes, reverse=True)
    assert sum(volumes) == pytest.approx(truth.sum() * 0.001)


def test_lesions_are_judged_by_their_part_in_the_region():
    truth = np.zeros((6, 6, 6), dtype=bool)
    truth[0:4, 2, 2] = True  # half of it in the region
    truth[5, 5, 5] = True  # none
    region = np.zeros_like(truth)
    region[2:5] = True
    prediction = truth & region
    table = table_of(prediction, truth, mask=region)
    assert [(lesion.volume_ml, lesion.covered) for lesion in table.lesions] == [(0.002, 1)]


def test_findings_with_any_numbers():
    """A person may paint with any label; only what was measured counts."""
    truth = np.zeros((5, 5, 5), dtype=bool)
    truth[2, 2, 1:4] = True
    labels = np.where(truth, 70_000, 0).astype(np.int32)
    labels[0, 0, 0] = 9
    table = Lesions(truth, truth.astype(float)).under(labels, [70_000, 9], [3, 1])
    assert (table.found, table.findings, table.false_findings) == (1, 2, 1)
