"""How well findings agree with a ground truth, lesion by lesion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from napari_addm.metrics.checks import check_shapes

# Volumes that separate the size classes of lesions, mL: 0.1 mL is a sphere of 6 mm across,
# 1 mL of 12 mm, 10 mL of 27 mm.
SIZE_BOUNDS_ML = (0.1, 1.0, 10.0)

OVERLAP = 0.1
"""A lesion is found when this share of its voxels lies in components that are not false."""
OUTSIDE = 0.7
"""A predicted component is false when more than this share of its voxels is no truth."""


@dataclass(frozen=True)
class SizeClass:
    """The lesions of one size class.

    Attributes
    ----------
    from_ml, below_ml : float, float or None
        A lesion belongs here when its volume is at least `from_ml` and less than
        `below_ml` (None = without end), mL.
    lesions, found : int
        Number of lesions, and of found ones.
    """

    from_ml: float
    below_ml: float | None
    lesions: int
    found: int

    @property
    def recall(self) -> float | None:
        """Share of found lesions; None without lesions of this size."""
        return self.found / self.lesions if self.lesions else None


@dataclass(frozen=True)
class LesionRecall:
    """Lesions that were found, and predicted components that are false; see `lesion_recall`.

    Attributes
    ----------
    lesions, found : int
        Number of connected components of the truth, and of found ones.
    recall : float or None
        Share of found lesions; None when the truth is empty.
    by_size : tuple of SizeClass
        The same by volume, from the smallest lesions to the largest.
    components, false_positives : int
        Number of connected components of the prediction, and of false ones.
    """

    lesions: int
    found: int
    recall: float | None
    by_size: tuple[SizeClass, ...]
    components: int
    false_positives: int


@dataclass(frozen=True)
class Lesion:
    """One lesion of a ground truth under some findings.

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
        """Number of found lesions."""
        return sum(lesion.found for lesion in self.lesions)


class Lesions:
    """The lesions of a ground truth, for findings under a threshold that moves.

    Parameters
    ----------
    truth : ndarray, (S, A, R)
        Nonzero = lesion.
    anomaly : ndarray, same shape
        Scores.
    mask : ndarray, same shape, optional
        Region (nonzero) of the comparison; everywhere when missing. Lesions are
        26-connected components of the whole truth. A lesion that the region cuts in
        two remains one and counts with its part inside; one outside is left out.
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
        check_shapes(np.asarray(anomaly), truth=truth, mask=mask)
        where = np.nonzero(truth)
        if where[0].size:
            # Labelling holds the interpreter's lock, so it is confined to a box.
            box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
            components, _ = connected_components(truth[box])
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
    ) -> LesionTable:
        """Compare findings with the lesions.

        Parameters
        ----------
        labels : ndarray of int, (S, A, R)
            0 = no finding; nonzero in the region only.
        ids, sizes : array-like of int, (n,)
            Every finding's number in `labels`, in any order, and its voxels.
        """
        component = labels.ravel()[self._where]
        ids, voxels = np.asarray(ids), np.asarray(sizes)
        order = np.argsort(ids)
        # Compact, from 1: the ids may have gaps.
        compact = np.zeros(component.size, dtype=np.int64)
        hit = component != 0
        compact[hit] = np.searchsorted(ids[order], component[hit]) + 1
        found, false = _match(self._lesion, compact, self._voxels, voxels[order])
        covered = _counts(self._lesion[hit], self._voxels.size) / self._voxels
        return LesionTable(
            tuple(
                Lesion(
                    id=n + 1,
                    volume_ml=float(self._voxels[n] * self._voxel_ml),
                    found=bool(found[n]),
                    covered=float(covered[n]),
                    peak=float(self._peaks[n]),
                    index=(int(self._index[n, 0]), int(self._index[n, 1]), int(self._index[n, 2])),
                )
                for n in range(self._voxels.size)
            ),
            findings=ids.size,
            false_findings=int(np.count_nonzero(false)),
        )


def lesion_recall(prediction: np.ndarray, truth: np.ndarray, voxel_ml: float) -> LesionRecall:
    """Count the lesions that were found, by size, and the predicted components that are false.

    Parameters
    ----------
    prediction : ndarray
        Nonzero = predicted.
    truth : ndarray, same shape
        Nonzero = lesion.
    voxel_ml : float
        Volume of one voxel, mL.

    Raises
    ------
    InputError
        When the shapes differ.

    Notes
    -----
    A lesion is a 26-connected component of the truth. `OVERLAP` and `OUTSIDE`
    are those of the MSSEG challenge (Commowick et al., "Objective Evaluation of Multiple Sclerosis
    Lesion Segmentation using a Data Management and Processing Infrastructure", Scientific Reports
    8:13650, 2018): without the second, a prediction that floods the brain would find every lesion.
    Simpler than there, a component that lies too far outside is left aside (there it spoils the
    lesion, if it is among the largest that cover it), a component is judged by its own outside
    alone, and no lesion is too small to count: specks have a size class to themselves.
    """
    predicted = np.asarray(prediction) != 0
    check_shapes(predicted, "prediction", truth=truth)
    lesion, lesions = connected_components(truth)
    component, components = connected_components(predicted)
    sizes = _counts(component, components)
    voxels = _counts(lesion, lesions)
    true = lesion != 0
    found, false = _match(lesion[true], component[true], voxels, sizes)

    return LesionRecall(
        lesions=lesions,
        found=int(np.count_nonzero(found)),
        recall=int(np.count_nonzero(found)) / lesions if lesions else None,
        by_size=_by_size(voxels * voxel_ml, found),
        components=components,
        false_positives=int(np.count_nonzero(false)),
    )


def _by_size(volume_ml: np.ndarray, found: np.ndarray) -> tuple[SizeClass, ...]:
    """Count lesions and found ones by volume."""
    # A hair above, so that 100 voxels of 0.001 mL are 0.1 mL whatever the rounding.
    size_class = np.searchsorted(SIZE_BOUNDS_ML, volume_ml * (1 + 1e-9), side="right")
    return tuple(
        SizeClass(
            from_ml=float(low or 0.0),
            below_ml=None if high is None else float(high),
            lesions=int(np.count_nonzero(size_class == index)),
            found=int(np.count_nonzero(found & (size_class == index))),
        )
        for index, (low, high) in enumerate(pairwise((0.0, *SIZE_BOUNDS_ML, None)))
    )


def connected_components(voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the connected components (26-connected in a volume) of the nonzero voxels."""
    voxels = np.asarray(voxels) != 0
    labels, count = ndimage.label(voxels, structure=np.ones((3,) * voxels.ndim))
    return labels, int(count)


def _counts(labels: np.ndarray, count: int) -> np.ndarray:
    """Number of voxels of each of the labels 1..count."""
    return np.bincount(labels[labels != 0], minlength=count + 1)[1:]


def _match(
    lesion: np.ndarray, component: np.ndarray, voxels: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which lesions are found and which components are false, by the rule of `lesion_recall`.

    `lesion` and `component` are those of every voxel of the truth, (n,); `voxels` and `sizes`
    count the voxels of lesions and components from 1 on.
    """
    # Hairs, so that 3 voxels of 30 are a tenth and 21 of 30 seven whatever the rounding.
    false = sizes - _counts(component, sizes.size) > OUTSIDE * sizes + 1e-9
    counts = np.concatenate(([False], ~false))[component]
    return _counts(lesion[counts], voxels.size) >= OVERLAP * voxels - 1e-9, false
