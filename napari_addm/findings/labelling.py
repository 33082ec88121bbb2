"""From an anomaly map to labels: threshold, connected components, smallest volume."""

from __future__ import annotations

import math

import cc3d
import numpy as np

from napari_addm.detection.atlas import ScanRegions
from napari_addm.detection.midline import Midline
from napari_addm.findings.findings import Findings, measure_runs
from napari_addm.findings.runs import Runs, first_peaks
from napari_addm.io.arrays import bounding_box
from napari_addm.io.volume import Volume


class FindingLabeller:
    """Labels the findings of one anomaly map, for a threshold that a person may move.

    Everything that does not depend on the threshold is computed once.

    Parameters
    ----------
    anomaly : ndarray, (S, A, R)
        Scores; NaN counts as not anomalous.
    spacing : tuple of float
        Along S, A, R, mm.
    mask : ndarray, (S, A, R), optional
        Findings lie where it is nonzero; everywhere when missing.
    compact : bool
        Label in the smallest unsigned type that holds the numbers instead of int32.

    Attributes
    ----------
    box : tuple of slice
        Box around the mask; there is no finding outside.

    Notes
    -----
    At the first threshold the findings are numbered from 1 by falling volume. From then on a number
    belongs to the voxel with the finding's highest score. When the threshold moves, a finding that
    grows or shrinks keeps its number, and so its color. When a finding splits, the part with the
    peak keeps the number. When findings merge, the number of the highest remains. New findings get
    the next free numbers, by falling volume. A finding that returns has its former number.
    """

    def __init__(
        self,
        anomaly: np.ndarray,
        *,
        spacing: tuple[float, float, float],
        mask: np.ndarray | None = None,
        compact: bool = False,
    ) -> None:
        self._anomaly = np.ascontiguousarray(anomaly)
        self._shape = anomaly.shape
        self._voxel_ml = math.prod(spacing) / 1000.0
        self._compact = compact
        inside = None if mask is None else np.asarray(mask).astype(bool, copy=False)
        everywhere = slice(0, self._shape[0]), slice(0, self._shape[1]), slice(0, self._shape[2])
        self.box = everywhere if inside is None else bounding_box(inside)
        s, a, r = (axis.stop - axis.start for axis in self.box)
        # An empty column behind every row keeps runs of voxels from reaching into the next row.
        self._scores = np.full((s, a, r + 1), -np.inf, dtype=np.result_type(anomaly, np.float32))
        self._scores[..., :-1] = anomaly[self.box]
        if inside is not None:
            self._scores[..., :-1][~inside[self.box]] = -np.inf
        # Peaks at the first threshold, in the order of their numbers.
        self._numbered_first: np.ndarray | None = None
        # Number by the peak's flat index; 0 where no finding has had its peak.
        self._number_at: np.ndarray | None = None
        self._given = 0

    def label(self, threshold: float, minimum_ml: float) -> np.ndarray:
        """Label the findings.

        Parameters
        ----------
        threshold : float
            A voxel belongs to a finding where its score is strictly greater.
        minimum_ml : float
            Components smaller than this are dropped, mL.

        Returns
        -------
        ndarray of int32, or smaller if compact, (S, A, R)
            0 = no finding (26-connectivity). int32 names more components than a
            volume that fits in memory can have.
        """
        return self._find(threshold, minimum_ml)[0]

    def find(
        self,
        threshold: float,
        minimum_ml: float,
        volume: Volume,
        uncertainty: np.ndarray | None = None,
        midline: Midline | None = None,
        regions: ScanRegions | None = None,
        brightness: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Findings]:
        """Label and measure the findings: `label` and `measure_findings` in one step.

        Parameters
        ----------
        threshold, minimum_ml : float
            As for `label`.
        volume, uncertainty, midline, regions, brightness
            As for `measure_findings`.

        Returns
        -------
        labels : ndarray of int32, or smaller if compact, (S, A, R)
        findings : Findings
            In the order of the ids.
        """
        labels, ids, runs, scores, at_peak = self._find(threshold, minimum_ml)
        spread = None if uncertainty is None else uncertainty.ravel()[runs.voxels]
        bright = None if brightness is None else brightness.ravel()[runs.voxels]
        return labels, measure_runs(
            ids, runs, scores, at_peak, spread, volume, midline, regions, bright
        )

    def renumber(self, labels: np.ndarray) -> None:
        """Give findings the numbers that they have in other labels, and forget all others.

        Parameters
        ----------
        labels : ndarray of int, (S, A, R)
            0 = no finding. A finding's number belongs to the voxel with its highest score.
        """
        where = np.flatnonzero(labels)
        number = labels.ravel()[where]
        # Backwards, so that of equal peaks the first voxel comes last.
        order = np.lexsort((-where, self._anomaly.ravel()[where], number))
        where, number = where[order], number[order]
        last = np.flatnonzero(np.diff(number, append=0))
        self._number_at = np.zeros(math.prod(self._shape), dtype=np.int32)
        self._number_at[where[last]] = number[last]
        self._numbered_first = where[last]
        self._given = int(number.max(initial=0))

    def _find(
        self, threshold: float, minimum_ml: float
    ) -> tuple[np.ndarray, np.ndarray, Runs, np.ndarray, np.ndarray]:
        """Return the labels, and the findings by falling size as `measure_runs` takes them."""
        most = float(np.finfo(self._scores.dtype).max)  # a limit beyond it would overflow
        above = self._scores > min(max(threshold, -most), most)
        # As uint8: cc3d 4.1 fails for booleans in grids that are one voxel wide and deep.
        components, count = cc3d.connected_components(
            above.view(np.uint8), connectivity=26, return_N=True
        )
        where = np.flatnonzero(above)
        offset = np.flatnonzero(np.diff(where, prepend=-2) != 1)
        start, length = where[offset], np.diff(offset, append=where.size)
        # Neighbors in a row are connected: a run belongs to one component.
        component = components.ravel()[start].astype(np.intp) - 1
        sizes = np.bincount(component, weights=length, minlength=count).astype(np.int64)
        # A hair below, so that 100 voxels of 0.001 mL are 0.1 mL whatever the rounding.
        fewest = np.ceil(minimum_ml / self._voxel_ml - 1e-6)
        kept = np.flatnonzero(sizes >= fewest)
        kept = kept[np.argsort(-sizes[kept], kind="stable")]
        member_of = np.full(count, -1, dtype=np.intp)
        member_of[kept] = np.arange(kept.size)
        member = member_of[component]
        start, length, member = (part[member >= 0] for part in (start, length, member))

        at = np.unravel_index(start, above.shape)
        corner = [axis.start for axis in self.box]
        in_grid = np.ravel_multi_index(
            tuple(n + low for n, low in zip(at, corner, strict=True)), self._shape
        )
        runs = Runs(in_grid, length, member)
        scores = self._anomaly.ravel()[runs.voxels]
        at_peak = first_peaks(scores, runs, kept.size)
        ids = self._numbers(runs.voxels[at_peak])
        numbers = np.min_scalar_type(self._given) if self._compact else np.dtype(np.int32)
        labels = np.zeros(self._shape, dtype=numbers)
        labels.ravel()[runs.voxels] = np.repeat(ids[member], length)
        return labels, ids, runs, scores, at_peak

    def _numbers(self, peaks: np.ndarray) -> np.ndarray:
        """Return the numbers of findings, largest first, from the flat indices of their peaks."""
        if self._numbered_first is None:
            self._numbered_first = peaks
            self._given = peaks.size
            return np.arange(1, peaks.size + 1, dtype=np.int32)
        if self._number_at is None:  # made late, because most thresholds never move
            self._number_at = np.zeros(math.prod(self._shape), dtype=np.int32)
            self._number_at[self._numbered_first] = np.arange(1, self._numbered_first.size + 1)
        numbers = self._number_at[peaks]
        new = np.flatnonzero(numbers == 0)
        numbers[new] = np.arange(1, new.size + 1) + self._given
        self._given += new.size
        self._number_at[peaks] = numbers
        return numbers


def label_anomalies(
    anomaly: np.ndarray,
    threshold: float,
    *,
    spacing: tuple[float, float, float],
    minimum_ml: float = 0.1,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Label the connected components of the voxels above a threshold.

    Parameters
    ----------
    anomaly : ndarray, (S, A, R)
        Scores; NaN counts as not anomalous.
    threshold : float
        A voxel belongs to a finding where its score is strictly greater.
    spacing : tuple of float
        Along S, A, R, mm.
    minimum_ml : float
        Components smaller than this are dropped, mL.
    mask : ndarray, (S, A, R), optional
        Findings lie where it is nonzero; everywhere when missing.

    Returns
    -------
    ndarray of int32, (S, A, R)
        0 = no finding; numbers from 1 by falling volume (26-connectivity).
    """
    return FindingLabeller(anomaly, spacing=spacing, mask=mask).label(threshold, minimum_ml)
