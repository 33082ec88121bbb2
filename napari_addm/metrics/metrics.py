"""How well an anomaly map agrees with a ground truth: voxel by voxel and lesion by lesion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from napari_addm.errors import InputError

# Volumes at which lesions are parted into size classes, mL: 0.1 mL is a sphere of 6 mm across,
# 1 mL of 12 mm, 10 mL of 27 mm.
SIZE_BOUNDS_ML = (0.1, 1.0, 10.0)
EMPTY_TRUTH = "The ground truth is empty: Dice and the like are excluded."


@dataclass(frozen=True)
class Metrics:
    """Agreement of one anomaly map with one ground truth; None means "not defined here".

    A case whose truth is empty has no Dice to be averaged: it is excluded and
    counted, and `notes` says so. An empty prediction is a valid 0 mL.

    Attributes
    ----------
    dice, iou : float or None
        Overlap of prediction and truth, 0 to 1; None when the truth is empty.
    precision : float or None
        Share of the prediction that is truth; None when either is empty.
    recall : float or None
        Share of the truth that is predicted; None when the truth is empty.
    auroc : float or None
        Area under the receiver operating characteristic; None when the truth
        is empty or fills the region.
    auprc : float or None
        Average precision (the step-wise area under precision and recall);
        chance is `prevalence`. None when the truth is empty.
    prevalence : float
        Share of the region's voxels that are truth.
    best_dice, best_threshold : float or None
        ORACLE: the largest Dice that any threshold reaches, and that threshold
        ("above" is strict). It was chosen by looking at the truth, so it is an
        upper bound and no result. None when the truth is empty.
    truth_ml, predicted_ml : float
        Volumes inside the region, mL.
    notes : tuple of str
        What a reader of the numbers must know, one sentence each.
    """

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    auroc: float | None
    auprc: float | None
    prevalence: float
    best_dice: float | None
    best_threshold: float | None
    truth_ml: float
    predicted_ml: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """What follows from the order of the scores alone; see `rank`."""

    auroc: float | None
    auprc: float
    best_dice: float
    best_threshold: float


@dataclass(frozen=True, eq=False)
class Curves:
    """What lies above each of some thresholds ("above" is strict); see `SortedScores`.

    Attributes
    ----------
    threshold : ndarray, (n,)
        Rising.
    hits, false : ndarray of int, (n,)
        Voxels above it that are truth, and those that are not.
    positives, negatives : int
        Voxels of the region that are truth, and those that are not.
    """

    threshold: np.ndarray
    hits: np.ndarray
    false: np.ndarray
    positives: int
    negatives: int

    @property
    def recall(self) -> np.ndarray:
        """Share of the truth that lies above, (n,); NaN when the truth is empty."""
        return _share(self.hits, self.positives)

    @property
    def false_positive_rate(self) -> np.ndarray:
        """Share of the rest that lies above, (n,); NaN when the truth fills the region."""
        return _share(self.false, self.negatives)

    @property
    def precision(self) -> np.ndarray:
        """Share of what lies above that is truth, (n,); NaN where nothing lies above."""
        return _share(self.hits, self.hits + self.false)

    @property
    def dice(self) -> np.ndarray:
        """Overlap of what lies above with the truth, (n,); NaN when the truth is empty."""
        both = self.positives + self.hits + self.false
        return _share(2 * self.hits, both if self.positives else 0)


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The scores of the truth and those of the rest, each sorted.

    Two plain sorts are several times faster than the order of all the scores,
    and from both follows, exactly and with ties as one step, whatever depends
    on a threshold alone.

    Attributes
    ----------
    positive, negative : ndarray, (n,), (m,)
        Rising; either may be empty.
    """

    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, lesion: np.ndarray) -> SortedScores:
        """Sort scores, (n,), by whether they are truth: `lesion`, (n,), bool.

        Raises
        ------
        InputError
            When there is no score, or one is NaN or infinite.
        """
        _check_scores(scores)
        if scores.dtype == bool:
            scores = scores.astype(np.uint8)
        return cls(np.sort(scores[lesion]), np.sort(scores[~lesion]))

    def at(self, threshold: ArrayLike) -> Curves:
        """Count what lies above some rising thresholds, (n,) or one number."""
        threshold = np.atleast_1d(np.asarray(threshold))
        if np.issubdtype(self.positive.dtype, np.floating):
            # as ``scores > threshold`` compares
            threshold = threshold.astype(self.positive.dtype)
        hits, false = (
            part.size - np.searchsorted(part, threshold, side="right")
            for part in (self.positive, self.negative)
        )
        return Curves(threshold, hits, false, self.positive.size, self.negative.size)

    def curves(self, points: int = 200) -> Curves:
        """Curves from the lowest score to the highest, thinned to be drawn.

        Parameters
        ----------
        points : int
            Each of positives, negatives and range of scores is cut into about so
            many even steps, so that no curve has a gap. With fewer positives and
            fewer negatives than that, no score is left out.

        Returns
        -------
        Curves
            At most three times `points`, and 1. The first threshold lets all
            scores in, the last one none. Every point is exact.
        """
        parts = [part for part in (self.positive, self.negative) if part.size]
        low, high = min(part[0] for part in parts), max(part[-1] for part in parts)
        picks = [part[_spread(part.size, points)] for part in parts]
        steps = np.unique(np.concatenate((*picks, np.linspace(low, high, points))))
        return self.at(np.concatenate(([_just_below(low)], steps)))

    def ranking(self) -> Ranking:
        """What `rank` says of these scores."""
        positive, negative = self.positive, self.negative
        # Only a positive's score can raise recall or be the best threshold.
        steps, first = np.unique(positive, return_index=True)
        hits = positive.size - first  # positives at or above each step
        below = np.searchsorted(negative, steps, side="left")
        false = negative.size - below  # negatives at or above each step

        auroc = None
        if negative.size:
            tied = np.searchsorted(negative, steps, side="right") - below
            repeats = np.diff(first, append=positive.size)
            # Twice the number of won pairs, so that a tie's half stays an integer.
            won = int(np.sum(repeats * (2 * below + tied)))
            auroc = won / (2 * positive.size * negative.size)
        precision = hits / (hits + false)
        gained = np.diff(hits[::-1], prepend=0)[::-1]
        auprc = float(np.sum(precision * gained) / positive.size)

        dice = 2 * hits / (positive.size + hits + false)
        best = dice.size - 1 - int(np.argmax(dice[::-1]))  # of equals, the highest threshold
        return Ranking(auroc, auprc, float(dice[best]), _just_below(steps[best]))


@dataclass(frozen=True)
class SizeClass:
    """The lesions of one size.

    Attributes
    ----------
    from_ml, below_ml : float, float or None
        A lesion belongs here when its volume is at least `from_ml` and less than
        `below_ml` (None = without end), mL.
    lesions, found : int
        How many there are, and how many of them were found.
    """

    from_ml: float
    below_ml: float | None
    lesions: int
    found: int

    @property
    def recall(self) -> float | None:
        """Share that was found; None where there is no lesion of this size."""
        return self.found / self.lesions if self.lesions else None


@dataclass(frozen=True)
class LesionRecall:
    """Which lesions were found, and which predicted components are false; see `lesion_recall`.

    Attributes
    ----------
    lesions, found : int
        Connected components of the truth, and how many of them were found.
    recall : float or None
        Share that was found; None when the truth is empty.
    by_size : tuple of SizeClass
        The same by volume, from the smallest lesions to the largest.
    components, false_positives : int
        Connected components of the prediction, and how many of them are false.
    """

    lesions: int
    found: int
    recall: float | None
    by_size: tuple[SizeClass, ...]
    components: int
    false_positives: int


@dataclass(frozen=True)
class Lesion:
    """One lesion of a ground truth, and how it was met.

    Attributes
    ----------
    id : int
        1 is the largest.
    volume_ml : float
        Volume inside the region, mL.
    found : bool
        By the rule of `lesion_recall`.
    covered : float
        Share of it that lies in findings of any kind, 0 to 1.
    peak : float
        Largest anomaly score in it, in the map's units.
    index : tuple of int
        The voxel (s, a, r) with that score.
    """

    id: int
    volume_ml: float
    found: bool
    covered: float
    peak: float
    index: tuple[int, int, int]


@dataclass(frozen=True)
class LesionTable:
    """The lesions of a ground truth under some findings; see `Lesions.under`.

    Attributes
    ----------
    lesions : tuple of Lesion
        From the largest to the smallest.
    findings, false_findings : int
        Findings, and how many of them are false by the rule of `lesion_recall`.
    """

    lesions: tuple[Lesion, ...]
    findings: int
    false_findings: int

    @property
    def found(self) -> int:
        """How many lesions were found."""
        return sum(lesion.found for lesion in self.lesions)


class Lesions:
    """The lesions of a ground truth: what does not change while a threshold moves.

    Parameters
    ----------
    truth : ndarray, (S, A, R)
        Nonzero = lesion.
    anomaly : ndarray, same shape
        Scores.
    mask : ndarray, same shape, optional
        Region (nonzero) to judge in; everywhere when not given. Lesions are
        26-connected components of the whole truth: one that the region cuts in
        two is still one, is judged by its part inside, and one that lies outside
        is left out.
    voxel_ml : float
        Volume of one voxel, mL.
    """

    def __init__(
        self,
        truth: np.ndarray,
        anomaly: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        voxel_ml: float = 0.001,
    ) -> None:
        truth = np.asarray(truth) != 0
        _check_shapes(np.asarray(anomaly), truth=truth, mask=mask)
        where = np.nonzero(truth)
        if where[0].size:
            # Labelling holds the interpreter's lock: a box is quick where a whole head is not.
            box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
            components, _ = _components(truth[box])
            lesion = components[truth[box]]
        else:
            lesion = np.zeros(0, dtype=int)
        flat = np.ravel_multi_index(where, truth.shape)
        if mask is not None:
            inside = np.asarray(mask).ravel()[flat] != 0
            flat, lesion = flat[inside], lesion[inside]
        _, lesion, voxels = np.unique(lesion, return_inverse=True, return_counts=True)
        order = np.argsort(-voxels, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        self._where = flat
        self._lesion = place[lesion] + 1
        self._voxels = voxels[order]
        self._voxel_ml = voxel_ml
        # By lesion, then by falling score: the first of each lesion is its peak.
        score = np.asarray(anomaly).ravel()[flat]
        by_peak = np.lexsort((-score.astype(np.float64), self._lesion))
        first = by_peak[np.cumsum(self._voxels) - self._voxels]
        self._peaks = score[first]
        self._index = np.stack(np.unravel_index(flat[first], truth.shape), axis=-1)

    def under(
        self,
        labels: np.ndarray,
        ids: ArrayLike,
        sizes: ArrayLike,
        *,
        overlap: float = 0.1,
        outside: float = 0.7,
    ) -> LesionTable:
        """Hold findings against the lesions.

        Parameters
        ----------
        labels : ndarray of int, (S, A, R)
            0 = no finding; nonzero in the region only.
        ids, sizes : array-like of int, (n,)
            Every finding's number in `labels`, in any order, and its voxels.
        overlap, outside : float
            The rule, as for `lesion_recall`.

        Returns
        -------
        LesionTable
        """
        component = labels.ravel()[self._where]
        ids, voxels = np.asarray(ids), np.asarray(sizes)
        order = np.argsort(ids)
        # Compact, from 1: the ids may have gaps.
        compact = np.zeros(component.size, dtype=np.int64)
        hit = component != 0
        compact[hit] = np.searchsorted(ids[order], component[hit]) + 1
        found, false = _match(
            self._lesion, compact, self._voxels, voxels[order], overlap=overlap, outside=outside
        )
        covered = _counts(self._lesion[hit], self._voxels.size) / self._voxels
        return LesionTable(
            tuple(
                Lesion(
                    id=n + 1,
                    volume_ml=float(self._voxels[n] * self._voxel_ml),
                    found=bool(found[n]),
                    covered=float(covered[n]),
                    peak=float(self._peaks[n]),
                    index=(
                        int(self._index[n, 0]),
                        int(self._index[n, 1]),
                        int(self._index[n, 2]),
                    ),
                )
                for n in range(self._voxels.size)
            ),
            findings=ids.size,
            false_findings=int(np.count_nonzero(false)),
        )


def evaluate(
    anomaly: np.ndarray,
    truth: np.ndarray,
    *,
    threshold: float,
    mask: np.ndarray | None = None,
    voxel_ml: float = 0.001,
    prediction: np.ndarray | None = None,
) -> Metrics:
    """Compare an anomaly map with a ground truth.

    Parameters
    ----------
    anomaly : ndarray
        Scores, larger = more anomalous; any real dtype, finite inside `mask`.
    truth : ndarray, same shape
        Ground truth, nonzero = anomalous.
    threshold : float
        A voxel is predicted where its score is strictly greater.
    mask : ndarray, same shape, optional
        Region (nonzero) that everything is computed in, such as the brain;
        everywhere when not given.
    voxel_ml : float
        Volume of one voxel, mL.
    prediction : ndarray, same shape, optional
        Nonzero = predicted, in place of ``anomaly > threshold`` (for labels
        after a minimum size). The areas and `best_dice` still come from
        `anomaly`.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        When the shapes differ, the region is empty or a score in it is NaN or
        infinite.
    """
    anomaly = np.asarray(anomaly)
    _check_shapes(anomaly, truth=truth, mask=mask, prediction=prediction)
    notes = []
    lesion = np.asarray(truth) != 0
    predicted = anomaly > threshold if prediction is None else np.asarray(prediction) != 0
    if mask is None:
        scores, lesion, predicted = anomaly.ravel(), lesion.ravel(), predicted.ravel()
    else:
        region = np.asarray(mask) != 0
        outside = int(np.count_nonzero(lesion)) - int(np.count_nonzero(lesion[region]))
        if outside:
            notes.append(
                f"{outside * voxel_ml:.2f} mL of the ground truth lies outside the mask, or in "
                "slices that are not done, and was not counted."
            )
        scores, lesion, predicted = anomaly[region], lesion[region], predicted[region]
    _check_scores(scores)

    positives = int(np.count_nonzero(lesion))
    return metrics_of_counts(
        hits=int(np.count_nonzero(lesion & predicted)),
        found=int(np.count_nonzero(predicted)),
        positives=positives,
        voxels=scores.size,
        voxel_ml=voxel_ml,
        ranking=rank(scores, lesion) if positives else None,
        notes=tuple(notes),
    )


def metrics_of_counts(
    *,
    hits: int,
    found: int,
    positives: int,
    voxels: int,
    voxel_ml: float,
    ranking: Ranking | None,
    notes: tuple[str, ...] = (),
) -> Metrics:
    """The metrics of a region whose voxels are counted already.

    Parameters
    ----------
    hits, found, positives, voxels : int
        Voxels that are predicted and truth, predicted, truth, and all; at least
        one voxel.
    voxel_ml : float
        Volume of one voxel, mL.
    ranking : Ranking or None
        Of the scores; None when the truth is empty.
    notes : tuple of str
        Said before those about the counts.

    Returns
    -------
    Metrics
    """
    said = list(notes)
    dice = iou = precision = recall = None
    if positives:
        dice = 2 * hits / (positives + found)
        iou = hits / (positives + found - hits)
        recall = hits / positives
        if found:
            precision = hits / found
        else:
            said.append("Nothing is predicted (0 mL), so precision is not defined.")
        if ranking is not None and ranking.auroc is None:
            said.append("The ground truth fills the region, so AUROC is not defined.")
    else:
        said.append(EMPTY_TRUTH)
    return Metrics(
        dice=dice,
        iou=iou,
        precision=precision,
        recall=recall,
        auroc=ranking.auroc if ranking else None,
        auprc=ranking.auprc if ranking else None,
        prevalence=positives / voxels,
        best_dice=ranking.best_dice if ranking else None,
        best_threshold=ranking.best_threshold if ranking else None,
        truth_ml=positives * voxel_ml,
        predicted_ml=found * voxel_ml,
        notes=tuple(said),
    )


def rank(scores: np.ndarray, lesion: np.ndarray) -> Ranking:
    """AUROC, average precision and the oracle best Dice, exact and with ties as one step.

    Parameters
    ----------
    scores : ndarray, (n,)
        Finite scores.
    lesion : ndarray of bool, (n,)
        True for the positives; at least one.

    Returns
    -------
    Ranking
        `auroc` is None without negatives.

    Notes
    -----
    The AUROC is the Mann-Whitney statistic: the share of pairs in which the
    positive outranks the negative, ties counting one half. The average
    precision is the sum of precision times the rise of recall over the distinct
    scores from high to low, without interpolation. Both equal scikit-learn's
    ``roc_auc_score`` and ``average_precision_score``.
    """
    return SortedScores.of(scores, lesion).ranking()


def aupro(
    anomaly: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray | None = None,
    limit: float = 0.3,
) -> float | None:
    """Area under the per-region overlap curve up to a false-positive rate.

    Parameters
    ----------
    anomaly : ndarray
        Scores, larger = more anomalous; any real dtype, finite inside `mask`.
    truth : ndarray, same shape
        Ground truth, nonzero = anomalous.
    mask : ndarray, same shape, optional
        Region (nonzero) that overlaps and false-positive rate are taken in;
        everywhere when not given.
    limit : float
        Largest false-positive rate, above 0 and at most 1.

    Returns
    -------
    float or None
        0 to 1. Scores without information reach ``limit / 2``. None when the
        region holds no truth, or nothing but truth.

    Raises
    ------
    InputError
        When the shapes differ, the region is empty or a score in it is NaN or
        infinite.

    Notes
    -----
    After Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129
    (2021), section 5. The overlap at a threshold is the mean, over the connected
    components of the truth, of the share of the component that is predicted, so
    a small lesion weighs as much as a large one. It is integrated against the
    false-positive rate (predicted share of all voxels that are not truth) from 0
    to `limit` and divided by `limit`.

    Components are 26-connected (8-connected in a plane) and taken from the whole
    truth: one that the mask cuts in two is still one, its overlap is that of its
    part inside, and one that lies outside is not counted.

    Equal scores enter together. The curve is a straight line across such a tie,
    which is what any order of the tied voxels gives on average; so at ``limit=1``
    the result is the mean of the components' AUROC, each against all voxels that
    are not truth.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit is a false-positive rate above 0 and at most 1, not {limit}")
    anomaly = np.asarray(anomaly)
    _check_shapes(anomaly, truth=truth, mask=mask)
    components, _ = _components(truth)
    if mask is None:
        scores, component = anomaly.ravel(), components.ravel()
    else:
        region = np.asarray(mask) != 0
        scores, component = anomaly[region], components[region]
    _check_scores(scores)
    if scores.dtype == bool:
        scores = scores.astype(np.uint8)

    lesion = component != 0
    positive, component = scores[lesion], component[lesion]
    negative = np.sort(scores[~lesion])
    if positive.size == 0 or negative.size == 0:
        return None
    sizes = np.bincount(component)
    # What one voxel of a component adds to the mean overlap.
    gain = 1.0 / (np.count_nonzero(sizes) * sizes[component])
    steps, step = np.unique(positive, return_inverse=True)
    steps, gained = steps[::-1], np.bincount(step, weights=gain)[::-1]

    # The curve: level up to a step, then straight to where its tied negatives have entered.
    before = (negative.size - np.searchsorted(negative, steps, side="right")) / negative.size
    after = (negative.size - np.searchsorted(negative, steps, side="left")) / negative.size
    overlap = np.minimum(np.cumsum(gained), 1.0)
    rate = np.concatenate(([0.0], np.stack((before, after), axis=1).ravel(), [1.0]))
    height = np.concatenate(([0.0, 0.0], np.repeat(overlap, 2)))
    left, width, foot = rate[:-1], np.diff(rate), height[:-1]
    inside = np.clip(limit - left, 0.0, width)
    slope = np.divide(np.diff(height), width, out=np.zeros_like(width), where=width > 0)
    return float(np.sum(inside * (foot + slope * inside / 2)) / limit)


def lesion_recall(
    prediction: np.ndarray,
    truth: np.ndarray,
    voxel_ml: float,
    *,
    overlap: float = 0.1,
    outside: float = 0.7,
    bounds_ml: tuple[float, ...] = SIZE_BOUNDS_ML,
) -> LesionRecall:
    """Count the lesions that were found, by size, and the predicted components that are false.

    Parameters
    ----------
    prediction : ndarray
        Nonzero = predicted.
    truth : ndarray, same shape
        Nonzero = lesion.
    voxel_ml : float
        Volume of one voxel, mL.
    overlap : float
        A lesion is found when at least this share of its voxels lies in predicted
        components that are not false. Above 0, at most 1.
    outside : float
        A predicted component is false when more than this share of its voxels is
        no truth. At least 0, below 1.
    bounds_ml : tuple of float
        Volumes that part the size classes, rising, mL.

    Returns
    -------
    LesionRecall

    Raises
    ------
    InputError
        When the shapes differ.

    Notes
    -----
    A lesion is a 26-connected component of the truth. The two conditions and their
    10 % and 70 % are those of the MSSEG challenge (Commowick et al., "Objective
    Evaluation of Multiple Sclerosis Lesion Segmentation using a Data Management and
    Processing Infrastructure", Scientific Reports 8:13650, 2018): without the second,
    a prediction that floods the brain would find every lesion. Simpler than there, a
    component that lies too far outside is left aside (there it spoils the lesion, if
    it is among the largest that cover it), a component is judged by its own outside
    alone, and no lesion is too small to count: specks have a size class to themselves.
    """
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap is a share above 0 and at most 1, not {overlap}")
    if not 0 <= outside < 1:
        raise ValueError(f"outside is a share of at least 0 and below 1, not {outside}")
    if any(high <= low for low, high in pairwise((0.0, *bounds_ml))):
        raise ValueError(f"bounds_ml must be positive and rise, not {bounds_ml}")
    predicted = np.asarray(prediction) != 0
    _check_shapes(predicted, "prediction", truth=truth)
    lesion, lesions = _components(truth)
    component, components = _components(predicted)
    sizes = _counts(component, components)
    voxels = _counts(lesion, lesions)
    true = lesion != 0
    found, false = _match(
        lesion[true], component[true], voxels, sizes, overlap=overlap, outside=outside
    )

    # A hair above, so that 100 voxels of 0.001 mL are 0.1 mL whatever the rounding.
    size_class = np.searchsorted(bounds_ml, voxels * voxel_ml * (1 + 1e-9), side="right")
    ends = (0.0, *bounds_ml, None)
    return LesionRecall(
        lesions=lesions,
        found=int(np.count_nonzero(found)),
        recall=int(np.count_nonzero(found)) / lesions if lesions else None,
        by_size=tuple(
            SizeClass(
                from_ml=float(low or 0.0),
                below_ml=None if high is None else float(high),
                lesions=int(np.count_nonzero(size_class == index)),
                found=int(np.count_nonzero(found & (size_class == index))),
            )
            for index, (low, high) in enumerate(pairwise(ends))
        ),
        components=components,
        false_positives=int(np.count_nonzero(false)),
    )


def _components(voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the connected components (26-connected in a volume) of the nonzero voxels."""
    voxels = np.asarray(voxels) != 0
    labels, count = ndimage.label(voxels, structure=np.ones((3,) * voxels.ndim))
    return labels, int(count)


def _counts(labels: np.ndarray, count: int) -> np.ndarray:
    """Number of voxels of each of the labels 1..count."""
    return np.bincount(labels[labels != 0], minlength=count + 1)[1:]


def _match(
    lesion: np.ndarray,
    component: np.ndarray,
    voxels: np.ndarray,
    sizes: np.ndarray,
    *,
    overlap: float,
    outside: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which lesions are found and which components are false, by the rule of `lesion_recall`.

    `lesion` and `component` are those of every voxel of the truth, (n,); `voxels` and `sizes`
    count the voxels of lesions and components from 1 on.
    """
    # Hairs, so that 3 voxels of 30 are a tenth and 21 of 30 seven whatever the rounding.
    false = sizes - _counts(component, sizes.size) > outside * sizes + 1e-9
    counts = np.concatenate(([False], ~false))[component]
    return _counts(lesion[counts], voxels.size) >= overlap * voxels - 1e-9, false


def _share(part: np.ndarray, whole: np.ndarray | int) -> np.ndarray:
    """Part of a whole; NaN where there is none."""
    part = np.asarray(part, dtype=np.float64)
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _spread(size: int, points: int) -> np.ndarray:
    """At most so many indices, evenly from the first to the last."""
    return np.unique(np.linspace(0, size - 1, min(size, points)).round().astype(int))


def _just_below(score: np.number[Any]) -> float:
    """The highest threshold that lets a score in, as "above" is strict."""
    if isinstance(score, np.floating):
        return float(np.nextafter(score, score.dtype.type(-np.inf)))
    return float(score) - 0.5


def _check_shapes(
    reference: np.ndarray, name: str = "anomaly map", **others: np.ndarray | None
) -> None:
    words = {"truth": "ground truth"}
    for other, array in others.items():
        if array is not None and np.shape(array) != reference.shape:
            raise InputError(
                f"The {words.get(other, other)} has shape {np.shape(array)} and the {name} "
                f"{reference.shape}: resample it to the scan's grid first."
            )


def _check_scores(scores: np.ndarray) -> None:
    if scores.size == 0:
        raise InputError("The mask is empty, so nothing can be measured: choose another mask.")
    if not np.isfinite(scores).all():
        raise InputError("The anomaly map has NaN or infinite voxels, so it cannot be ranked.")
