"""Intervals against scipy and against simulated truth; paired tests; undefined scores."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from napari_addm.metrics.statistics import (
    correct_by_holm,
    mean_interval,
    paired_difference,
    subject_means,
)


def named(values) -> dict:
    return {f"sub-{number:02d}": value for number, value in enumerate(values)}


def test_runs_are_averaged_within_the_subject():
    scores = {"a": [0.2, 0.4], "b": 0.9, "c": [0.1, None, 0.3], "d": [None, None], "e": None}
    expected = {"a": 0.3, "b": 0.9, "c": 0.2, "d": None, "e": None}
    assert subject_means(scores) == pytest.approx(expected)
    got = mean_interval(scores)
    assert got.mean == pytest.approx((0.3 + 0.9 + 0.2) / 3)
    assert (got.subjects, got.excluded, got.undefined_runs) == (3, 2, 4)


def test_more_seeds_make_no_more_subjects():
    values = [0.1, 0.5, 0.3, 0.8, 0.4]
    once = mean_interval(named(values))
    many = mean_interval(named([[value] * 10 for value in values]))
    assert (many.low, many.high, many.subjects) == (once.low, once.high, 5)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_interval_is_that_of_scipy(method):
    values = np.random.default_rng(3).beta(2, 3, 12)
    got = mean_interval(named(values.tolist()), method=method, seed=7, confidence=0.9)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=0.9,
        method=method,
        n_resamples=9999,
        random_state=np.random.default_rng(7),
    ).confidence_interval
    assert (got.low, got.high) == (expected.low, expected.high)
    assert got.mean == pytest.approx(values.mean())
    assert (got.confidence, got.method) == (0.9, method)


def test_percentile_interval_equals_every_resample_of_five():
    """All 3,125 resamples of five subjects, in place of 9,999 random ones."""
    values = [0.0, 0.2, 0.5, 0.9, 0.6]
    means = [np.mean(sample) for sample in itertools.product(values, repeat=5)]
    got = mean_interval(named(values), method="percentile")
    low, high = np.quantile(means, (0.025, 0.975))
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.03)


def test_seeded():
    scores = named(np.random.default_rng(0).random(9).tolist())
    assert mean_interval(scores, seed=1) == mean_interval(scores, seed=1)
    assert mean_interval(scores, seed=1) != mean_interval(scores, seed=2)


@pytest.mark.parametrize(("subjects", "least", "most"), [(5, 0.78, 0.90), (30, 0.90, 0.98)])
@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_coverage_on_simulated_subjects(subjects, least, most, method):
    """The note of `mean_interval`: too short with five subjects, about right with thirty."""
    rng = np.random.default_rng(11)
    trials = 200
    covered = 0
    for trial in range(trials):
        values = rng.beta(0.8, 1.6, subjects)  # as skewed as Dice is: mean 1/3
        got = mean_interval(named(values.tolist()), method=method, resamples=499, seed=trial)
        covered += got.low <= 1 / 3 <= got.high
    assert least < covered / trials < most


def test_degenerate_means():
    nothing = mean_interval({"a": None, "b": [None]})
    assert (nothing.mean, nothing.low, nothing.high) == (None, None, None)
    assert (nothing.subjects, nothing.excluded) == (0, 2)
    assert mean_interval({}).mean is None
    one = mean_interval({"a": 0.4})
    assert (one.mean, one.low, one.high, one.subjects) == (0.4, None, None, 1)
    assert (one.least, one.most) == (0.4, 0.4)
    few = mean_interval(named([0.1, 0.2, 0.3, 0.9]))
    assert (few.low, few.high) == (None, None)
    assert (few.least, few.most) == (0.1, 0.9)
    same = mean_interval(named([0.1 + 0.2, 0.3, 0.3, 0.3, 0.3]))
    assert same.low == same.high == same.mean == pytest.approx(0.3)


def test_refuses_what_is_no_score():
    with pytest.raises(ValueError, match="sub-01 is not finite"):
        mean_interval(named([0.1, float("nan")]))
    with pytest.raises(ValueError, match="confidence"):
        mean_interval(named([0.1, 0.2]), confidence=95)
    with pytest.raises(ValueError, match="resamples"):
        mean_interval(named([0.1, 0.2]), resamples=9)


@given(st.lists(st.floats(0, 1), min_size=5, max_size=8), st.sampled_from(["BCa", "percentile"]))
def test_interval_lies_within_the_scores(values, method):
    got = mean_interval(named(values), method=method, resamples=199)
    assert min(values) - 1e-12 <= got.low <= got.high <= max(values) + 1e-12


def test_results_are_plain_json():
    result = paired_difference(named([0.1, 0.5, None]), named([0.3, 0.2, 0.1]))
    again = json.loads(json.dumps(asdict(result), allow_nan=False))
    assert again["difference"]["subjects"] == 2
    assert again == asdict(result)


# --- two methods


def test_five_subjects_cannot_reach_five_percent():
    first, second = named([0.5, 0.6, 0.7, 0.8, 0.9]), named([0.1, 0.3, 0.2, 0.4, 0.35])
    got = paired_difference(first, second)
    assert got.p == got.smallest_p == 0.0625
    assert got.difference.mean == pytest.approx(0.43)
    assert 0 < got.difference.low < got.difference.mean < got.difference.high
    assert paired_difference(second, first).p == 0.0625
    assert paired_difference(second, first).difference.mean == pytest.approx(-0.43)


def p_by_every_sign(differences: np.ndarray) -> float:
    """The signed-rank test by its definition: all signs are equally likely."""
    ranks = stats.rankdata(np.abs(differences))
    signs = np.array(list(itertools.product((0, 1), repeat=differences.size)))
    sums = signs @ ranks
    middle = ranks.sum() / 2
    observed = ranks[differences > 0].sum()
    return float(np.mean(np.abs(sums - middle) >= abs(observed - middle) - 1e-9))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_p_is_exact_with_ties_and_zeros(differences):
    first = named([difference / 10 for difference in differences])
    got = paired_difference(first, named([0.0] * len(differences)), resamples=99)
    untied = np.array([d for d in differences if d != 0])
    assert got.untied == untied.size
    assert got.p == pytest.approx(p_by_every_sign(untied) if untied.size else 1.0)
    assert got.p >= got.smallest_p - 1e-12


@pytest.mark.parametrize("pairs", [14, 30])
def test_p_of_more_pairs_is_scipys_exact_one(pairs):
    rng = np.random.default_rng(pairs)
    first, second = rng.random(pairs) + 0.1, rng.random(pairs)
    got = paired_difference(named(first.tolist()), named(second.tolist()))
    assert got.p == pytest.approx(stats.wilcoxon(first, second, method="exact").pvalue)
    assert got.smallest_p == 2.0 ** (1 - pairs)


def test_p_with_ties_is_scipys_permutation_one():
    differences = np.array([1, 1, 2, -2, 3, 3, 3, -1, 4]) / 10
    got = paired_difference(named(differences.tolist()), named([0.0] * 9))
    every_sign = stats.PermutationMethod(n_resamples=np.inf)
    assert got.p == pytest.approx(stats.wilcoxon(differences, method=every_sign).pvalue)


def test_p_is_uniform_when_the_methods_are_alike():
    rng = np.random.default_rng(5)
    found = [
        paired_difference(
            named(rng.random(8).tolist()), named(rng.random(8).tolist()), resamples=99
        ).p
        for _ in range(200)
    ]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.035)


def test_holms_correction_is_that_of_his_paper():
    # the smallest of four times 4, the next times 3, and never less than the one before
    corrected = correct_by_holm([0.01, 0.04, None, 0.03, 0.005])
    assert corrected == [pytest.approx(0.03), pytest.approx(0.06), None, 0.06, 0.02]
    assert correct_by_holm([0.7, 0.6]) == [1.0, 1.0]
    assert correct_by_holm([]) == []


def test_methods_that_agree():
    scores = named([[0.1, 0.2, 0.3], 0.5, 0.7])
    turned = named([[0.3, 0.1, 0.2], 0.5, 0.7])
    got = paired_difference(scores, turned)
    assert (got.p, got.untied, got.smallest_p) == (1.0, 0, 1.0)
    assert (got.difference.mean, got.difference.least, got.difference.most) == (0, 0, 0)


def test_a_subject_that_one_method_leaves_undefined_is_excluded():
    first = {"a": 0.5, "b": None, "c": 0.4, "d": [None, 0.2]}
    second = {"a": 0.1, "b": 0.9, "c": [None], "d": 0.1}
    got = paired_difference(first, second)
    assert got.difference.mean == pytest.approx(0.25)
    assert (got.difference.subjects, got.difference.excluded) == (2, 2)
    assert got.difference.undefined_runs == 3
    assert (got.untied, got.smallest_p) == (2, 0.5)
    nothing = paired_difference({"a": None}, {"a": 0.2})
    assert (nothing.p, nothing.smallest_p, nothing.difference.mean) == (None, None, None)
    one = paired_difference({"a": 0.3}, {"a": 0.2})
    assert (one.p, one.difference.low) == (1.0, None)
    assert one.difference.mean == pytest.approx(0.1)


def test_refuses_other_subjects():
    with pytest.raises(ValueError, match="only one of the two methods has scores of b, c"):
        paired_difference({"a": 0.1, "b": 0.2}, {"a": 0.1, "c": 0.2})
