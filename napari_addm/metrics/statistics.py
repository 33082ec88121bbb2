"""Bootstrap intervals of means over subjects, and paired tests of two methods.

The subject is the unit: slices and seeds of one person are not independent, so the runs of a
subject are averaged first. Undefined scores (None) are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

# For each subject its score, or one score for each seed; None where it is not defined.
Scores = Mapping[str, float | Sequence[float | None] | None]
IntervalMethod = Literal["BCa", "percentile"]

FEWEST_SUBJECTS = 5
"""Fewer have a range and no interval: with three, 95 % intervals cover the truth in 74 %."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean over subjects with its bootstrap interval; see `mean_interval`.

    Attributes
    ----------
    mean : float or None
        None without subjects.
    low, high : float or None
        Ends of the interval; None below `FEWEST_SUBJECTS`.
    least, most : float or None
        The range over the subjects; None without any.
    confidence : float
        Nominal coverage, such as 0.95.
    method : str
        ``"BCa"`` or ``"percentile"``.
    subjects : int
        Number of subjects in the mean.
    excluded : int
        Number of further subjects, of whom no run has a defined score.
    undefined_runs : int
        Runs without a defined score, over all subjects.
    """

    mean: float | None
    low: float | None
    high: float | None
    least: float | None
    most: float | None
    confidence: float
    method: IntervalMethod
    subjects: int
    excluded: int
    undefined_runs: int


@dataclass(frozen=True)
class PairedDifference:
    """Two methods on the same subjects; see `paired_difference`.

    Attributes
    ----------
    difference : MeanInterval
        First method minus second, over the subjects with a score from both.
    p : float or None
        Two-sided p of the Wilcoxon signed-rank test; None without pairs.
    smallest_p : float or None
        The smallest p that this number of pairs can give: 0.0625 with five. A `p`
        that equals it means that every subject favors the same method.
    untied : int
        Pairs that differ; the test ignores the others.
    """

    difference: MeanInterval
    p: float | None
    smallest_p: float | None
    untied: int


def subject_means(scores: Scores) -> dict[str, float | None]:
    """Average the runs of each subject.

    Parameters
    ----------
    scores : mapping of str to float, None, or sequence of float or None
        For each subject its score, or one for each run (seed).

    Returns
    -------
    dict of str to float or None
        The mean of the subject's defined scores; None where there is none.

    Raises
    ------
    ValueError
        When a score is NaN or infinite.
    """
    means: dict[str, float | None] = {}
    for subject, runs in scores.items():
        defined = [float(score) for score in _runs(runs) if score is not None]
        if not all(math.isfinite(score) for score in defined):
            raise ValueError(f"a score of {subject} is not finite; an undefined one is None")
        means[subject] = math.fsum(defined) / len(defined) if defined else None
    return means


def mean_interval(
    scores: Scores,
    *,
    confidence: float = 0.95,
    method: IntervalMethod = "BCa",
    resamples: int = 9999,
    seed: int = 0,
) -> MeanInterval:
    """Compute the mean over subjects with a bootstrap interval.

    Parameters
    ----------
    scores : mapping of str to float, None, or sequence of float or None
        For each subject its score, or one for each run (seed).
    confidence : float
        Nominal coverage, between 0 and 1.
    method : {"BCa", "percentile"}
        Bias-corrected and accelerated (Efron, JASA 82:171, 1987), or plain.
    resamples : int
        Bootstrap samples of the subjects, at least 99.
    seed : int
        Seed of the resampling; equal seeds give equal intervals.

    Returns
    -------
    MeanInterval

    Raises
    ------
    ValueError
        When a score is NaN or infinite, or an option out of its range.

    Notes
    -----
    With few subjects every bootstrap interval of a mean is too short: nominal 95 %
    intervals cover the truth in 84 % of cases with 5 subjects, 90 % with 10, 94 %
    with 20 (simulated with normal and with skewed scores; BCa and percentile
    differ by a point). Subjects with equal scores give an interval of no width: they
    say little about other subjects, and do not make the mean certain.
    """
    means = subject_means(scores)
    values = [score for score in means.values() if score is not None]
    return _interval(
        np.array(values, dtype=np.float64),
        excluded=len(means) - len(values),
        undefined_runs=_undefined_runs(scores),
        confidence=confidence,
        method=method,
        resamples=resamples,
        seed=seed,
    )


def paired_difference(
    first: Scores,
    second: Scores,
    *,
    confidence: float = 0.95,
    method: IntervalMethod = "BCa",
    resamples: int = 9999,
    seed: int = 0,
) -> PairedDifference:
    """Compare two methods over the same subjects, with an interval and a test.

    Parameters
    ----------
    first, second : mapping of str to float, None, or sequence of float or None
        The methods' scores. A subject without a defined score from both is
        excluded. The methods may have different numbers of runs.
    confidence, method, resamples, seed
        As for `mean_interval`.

    Returns
    -------
    PairedDifference

    Raises
    ------
    ValueError
        When the subjects are not the same, or a score is NaN or infinite.

    Notes
    -----
    The Wilcoxon signed-rank test ignores equal pairs and shares ranks among equal
    differences. Its p is exact, even with shared ranks. With n untied pairs it
    cannot fall below ``2 ** (1 - n)``, so five subjects never reach 0.05. For several
    comparisons, see `correct_by_holm`.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(f"only one of the two methods has scores of {', '.join(odd)}")
    of_second = subject_means(second)
    differences = [
        one - other
        for subject, one in subject_means(first).items()
        if one is not None and (other := of_second[subject]) is not None
    ]
    # Rounded, so that means of the same seeds in another order are equal, and ties are ties.
    values = np.round(np.array(differences, dtype=np.float64), 12)
    untied = values[values != 0]
    p = smallest_p = None
    if values.size:
        p = _wilcoxon(untied) if untied.size else 1.0
        smallest_p = min(1.0, 2.0 ** (1 - untied.size))
    return PairedDifference(
        difference=_interval(
            values,
            excluded=len(first) - values.size,
            undefined_runs=_undefined_runs(first) + _undefined_runs(second),
            confidence=confidence,
            method=method,
            resamples=resamples,
            seed=seed,
        ),
        p=p,
        smallest_p=smallest_p,
        untied=int(untied.size),
    )


def correct_by_holm(ps: Sequence[float | None]) -> list[float | None]:
    """Correct the p values of a family of tests, so that at most one family in twenty errs at 0.05.

    Holm's step-down method (Scandinavian Journal of Statistics 6:65, 1979).

    Parameters
    ----------
    ps : sequence of float or None
        None where there was no test; it stays None and does not count.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for done, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - done) * p))
        corrected[place] = highest
    return corrected


def _interval(
    values: np.ndarray,
    *,
    excluded: int,
    undefined_runs: int,
    confidence: float,
    method: IntervalMethod,
    resamples: int,
    seed: int,
) -> MeanInterval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not at {confidence}")
    if resamples < 99:
        raise ValueError(f"{resamples} resamples are too few for an interval; take at least 99")
    mean = low = high = None
    if values.size:
        mean = math.fsum(values) / values.size
    if mean is not None and values.size >= FEWEST_SUBJECTS:
        if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
            low = high = mean  # BCa divides by the spread
        else:
            found = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=confidence,
                method=method,
                n_resamples=resamples,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
            low, high = float(found.low), float(found.high)
    return MeanInterval(
        mean=mean,
        low=low,
        high=high,
        least=float(values.min()) if values.size else None,
        most=float(values.max()) if values.size else None,
        confidence=confidence,
        method=method,
        subjects=int(values.size),
        excluded=int(excluded),
        undefined_runs=undefined_runs,
    )


def _wilcoxon(differences: np.ndarray) -> float:
    """Return the exact two-sided p of the signed-rank test for nonzero differences.

    scipy's exact p does not support shared ranks, and its permutation p is a thousand times slower.
    """
    ranks = stats.rankdata(np.abs(differences))
    # Shared ranks are halves: twice the rank sum is an integer, and its distribution over all
    # signs is built up pair by pair.
    doubled = np.rint(2 * ranks).astype(np.int64)
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        chance[rank:] += chance[:-rank].copy()
        chance /= 2
    observed = int(doubled[differences > 0].sum())
    off_center = np.abs(2 * np.arange(chance.size) - (chance.size - 1))
    p = float(chance[off_center >= off_center[observed]].sum())
    return min(p, 1.0)


def _runs(runs: float | Sequence[float | None] | None) -> Sequence[float | None]:
    return runs if isinstance(runs, Sequence) else (runs,)


def _undefined_runs(scores: Scores) -> int:
    return sum(score is None for runs in scores.values() for score in _runs(runs))
