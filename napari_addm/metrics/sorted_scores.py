"""What follows from the order of the scores alone: areas, curves and the best threshold.

scikit-learn computes the same figures and serves as the reference in the tests. It sorts all the
scores with their labels and takes some 80 times as long for a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from napari_addm.metrics.checks import check_scores


@dataclass(frozen=True, eq=False)
class Curves:
    """The voxels above each of some thresholds ("above" is strict).

    Attributes
    ----------
    threshold : ndarray, shape (n,)
        Rising.
    tp, fp : ndarray of int, shape (n,)
        Voxels above it that are truth, and those that are not.
    positives, negatives : int
        Voxels of the region that are truth, and those that are not.
    """

    threshold: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    positives: int
    negatives: int

    @property
    def recall(self) -> np.ndarray:
        """Share of the truth that lies above, (n,); NaN when the truth is empty."""
        return _share(self.tp, self.positives)

    @property
    def false_positive_rate(self) -> np.ndarray:
        """Share of the rest that lies above, (n,); NaN when the truth fills the region."""
        return _share(self.fp, self.negatives)

    @property
    def precision(self) -> np.ndarray:
        """Share of truth in what lies above, (n,); NaN where nothing lies above."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def dice(self) -> np.ndarray:
        """Overlap of what lies above with the truth, (n,); NaN when the truth is empty."""
        both = self.positives + self.tp + self.fp
        return _share(2 * self.tp, both if self.positives else 0)


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The scores of the truth and those of the rest, each sorted.

    Two plain sorts are several times faster than the order of all the scores, and everything
    that depends on a threshold alone follows from both, exactly, with ties as one step. The
    properties are None when the truth is empty.

    Attributes
    ----------
    positive, negative : ndarray, shapes (n,) and (m,)
        Rising; either may be empty.
    """

    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, lesion: np.ndarray) -> SortedScores:
        """Sort scores, shape (n,), by whether they are truth: ``lesion``, bool, shape (n,).

        Raises
        ------
        InputError
            When there is no score, or one is NaN or infinite.
        """
        check_scores(scores)
        if scores.dtype == bool:
            scores = scores.astype(np.uint8)
        return cls(np.sort(scores[lesion]), np.sort(scores[~lesion]))

    def at(self, threshold: ArrayLike) -> Curves:
        """Count the scores above some rising thresholds, shape (n,) or one number."""
        threshold = np.atleast_1d(np.asarray(threshold))
        if np.issubdtype(self.positive.dtype, np.floating):
            # as ``scores > threshold`` compares
            threshold = threshold.astype(self.positive.dtype)
        tp, fp = (
            part.size - np.searchsorted(part, threshold, side="right")
            for part in (self.positive, self.negative)
        )
        return Curves(threshold, tp, fp, self.positive.size, self.negative.size)

    def curves(self, points: int = 200) -> Curves:
        """Return curves from the lowest score to the highest, thinned for drawing.

        Parameters
        ----------
        points : int
            Positives, negatives and the range of scores are each cut into about so many
            even steps, so that no curve has a gap. With fewer positives and fewer
            negatives than that, no score is left out.

        Returns
        -------
        Curves
            At most three times ``points``, and 1. All scores lie above the first threshold,
            none above the last. Every point is exact.
        """
        parts = [part for part in (self.positive, self.negative) if part.size]
        low, high = min(part[0] for part in parts), max(part[-1] for part in parts)
        picks = [part[_spread(part.size, points)] for part in parts]
        steps = np.unique(np.concatenate((*picks, np.linspace(low, high, points))))
        return self.at(np.concatenate(([just_below(low)], steps)))

    @cached_property
    def _at_positives(self) -> Curves:
        """The curves at every distinct score of the truth, which lies above its own threshold.

        Only such a score can raise recall or be the best threshold.
        """
        steps, first = np.unique(self.positive, return_index=True)
        fp = self.negative.size - np.searchsorted(self.negative, steps, side="left")
        tp = self.positive.size - first
        return Curves(steps, tp, fp, self.positive.size, self.negative.size)

    @cached_property
    def auroc(self) -> float | None:
        """Area under the receiver operating characteristic; None without negatives, too.

        It is the Mann-Whitney statistic: the share of pairs in which the positive outranks
        the negative, ties counting one half.
        """
        if not self.positive.size or not self.negative.size:
            return None
        curve = self._at_positives
        below = self.negative.size - curve.fp
        tied = np.searchsorted(self.negative, curve.threshold, side="right") - below
        repeats = -np.diff(curve.tp, append=0)
        # Twice the number of won pairs, so that half a tie is an integer.
        won = int(np.sum(repeats * (2 * below + tied)))
        return won / (2 * self.positive.size * self.negative.size)

    @cached_property
    def auprc(self) -> float | None:
        """Average precision: the sum of precision times the rise of recall, not interpolated."""
        if not self.positive.size:
            return None
        curve = self._at_positives
        gained = np.diff(curve.tp[::-1], prepend=0)[::-1]
        precision = curve.tp / (curve.tp + curve.fp)
        return float(np.sum(precision * gained) / self.positive.size)

    @cached_property
    def _best(self) -> tuple[float, float] | None:
        if not self.positive.size:
            return None
        curve = self._at_positives
        dice = 2 * curve.tp / (self.positive.size + curve.tp + curve.fp)
        best = dice.size - 1 - int(np.argmax(dice[::-1]))  # of equals, the highest threshold
        return float(dice[best]), just_below(curve.threshold[best])

    @property
    def best_dice(self) -> float | None:
        """ORACLE: the largest Dice of any threshold, chosen by looking at the truth."""
        return None if self._best is None else self._best[0]

    @property
    def best_threshold(self) -> float | None:
        """The highest threshold with the best Dice ("above" is strict)."""
        return None if self._best is None else self._best[1]


def _share(part: np.ndarray, whole: np.ndarray | int) -> np.ndarray:
    """Return part of a whole; NaN where there is no whole."""
    part = np.asarray(part, dtype=np.float64)
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _spread(size: int, points: int) -> np.ndarray:
    """Return at most so many indices, evenly from the first to the last."""
    return np.unique(np.linspace(0, size - 1, min(size, points)).round().astype(int))


def just_below(score: np.number[Any]) -> float:
    """Return the highest threshold that a score lies above."""
    if isinstance(score, np.floating):
        return float(np.nextafter(score, score.dtype.type(-np.inf)))
    return float(score) - 0.5
