"""From an anomaly map to a list of findings: threshold, components, mL, sides, places."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, overload

import cc3d
import nibabel as nib
import numpy as np

from napari_addm.detection.midline import (
    MIDLINE_SHARE,
    SIDES,
    Midline,
    MidlineSource,
    Side,
    abbreviate_side,
    describe_side,
)
from napari_addm.io.arrays import bounding_box
from napari_addm.io.text import csv_cell
from napari_addm.io.volume import Volume

CSV_COLUMNS = (
    "id",
    "volume_ml",
    "side",
    "from_midline_mm",
    "midline_source",
    "x_mm",
    "y_mm",
    "z_mm",
    "peak",
    "mean",
    "uncertainty",
    "slice",
    "voxels",
    "decision",
    "note",
)

Verdict = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class Decision:
    """What a person thinks of a finding.

    Attributes
    ----------
    verdict : {"accepted", "rejected"} or None
        None while it is open.
    note : str
        Plain text in one line.
    """

    verdict: Verdict | None = None
    note: str = ""

    def __post_init__(self) -> None:
        # A line break would tear the table's row and the CSV's line apart.
        object.__setattr__(self, "note", " ".join(self.note.split()))

    def __bool__(self) -> bool:
        return self.verdict is not None or bool(self.note)


UNDECIDED = Decision()
# By the finding's id; a finding that is missing is undecided.
Decisions = Mapping[int, Decision]
NO_DECISIONS: Decisions = MappingProxyType({})


@dataclass(frozen=True)
class Finding:
    """One connected component of an anomaly map above the threshold.

    Attributes
    ----------
    id : int
        Its value in the labels; 1 is the largest.
    volume_ml : float
        Volume, mL.
    centroid_mm : tuple of float
        Centre of its voxels, world RAS+ (x, y, z), mm.
    peak, mean : float
        Largest and mean anomaly score in it, in the map's units.
    uncertainty : float or None
        Mean of the uncertainty map in it, in that map's units; None without one.
    slice : int
        Index along S (axis 0, from 0) of the voxel with the largest score.
    voxels : int
        Number of voxels.
    sides_known : bool
        Whether the file says which side is left.
    side : {"left", "right", "midline"} or None
        The patient's side; ``"midline"`` where both halves of the brain hold at least a quarter
        of it. None where the file does not say which side is left, or no midline was found.
    from_midline_mm : float or None
        Distance of the centroid from the brain's midline, mm, on either side.
    midline_source : {"symmetry", "mask"} or None
        Where the midline comes from; see `napari_addm.detection.midline.Midline`.
    """

    id: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    peak: float
    mean: float
    uncertainty: float | None
    slice: int
    voxels: int
    sides_known: bool = True
    side: Side | None = None
    from_midline_mm: float | None = None
    midline_source: MidlineSource | None = None

    @property
    def location(self) -> str:
        """Its side in words; see `napari_addm.detection.midline.describe_side`."""
        return describe_side(self.side, self.from_midline_mm, self.midline_source)

    @property
    def location_in_brief(self) -> str:
        """The same for a table; see `napari_addm.detection.midline.abbreviate_side`."""
        return abbreviate_side(self.side, self.from_midline_mm, self.midline_source)


class Findings(Sequence[Finding]):
    """Findings side by side in arrays; each is made into a `Finding` when it is asked for.

    Noise has ten thousands of components, and a threshold is dragged.

    Attributes
    ----------
    id : ndarray of int, shape (n,)
    volume_ml, peak, mean : ndarray of float64, shape (n,)
    centroid_mm : ndarray of float64, shape (n, 3)
    uncertainty : ndarray of float64, shape (n,), or None
    slice, voxels : ndarray of int, shape (n,)
    sides_known : bool
    to_right_mm : ndarray of float64, shape (n,), or None
        Signed distance of the centroid from the midline, negative on the left; None without one.
    right_share : ndarray of float64, shape (n,), or None
        Share of the voxels that lie in the right half.
    midline_source : {"symmetry", "mask"} or None
        All others as in `Finding`.
    """

    def __init__(
        self,
        *,
        id: np.ndarray,
        volume_ml: np.ndarray,
        centroid_mm: np.ndarray,
        peak: np.ndarray,
        mean: np.ndarray,
        uncertainty: np.ndarray | None,
        slice: np.ndarray,
        voxels: np.ndarray,
        sides_known: bool,
        to_right_mm: np.ndarray | None = None,
        right_share: np.ndarray | None = None,
        midline_source: MidlineSource | None = None,
    ) -> None:
        self.id = id
        self.volume_ml = volume_ml
        self.centroid_mm = centroid_mm
        self.peak = peak
        self.mean = mean
        self.uncertainty = uncertainty
        self.slice = slice
        self.voxels = voxels
        self.sides_known = sides_known
        self.to_right_mm = to_right_mm
        self.right_share = right_share
        self.midline_source = midline_source

    @property
    def total_ml(self) -> float:
        """Volume of all findings together, mL."""
        return float(self.volume_ml.sum())

    def __len__(self) -> int:
        return len(self.id)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | list[Finding]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        x, y, z = self.centroid_mm[index].tolist()
        side: Side | None = None
        from_midline_mm: float | None = None
        if self.right_share is not None and self.to_right_mm is not None:
            right = float(self.right_share[index])
            side = SIDES[int(right >= MIDLINE_SHARE) + int(right > 1 - MIDLINE_SHARE)]
            from_midline_mm = abs(float(self.to_right_mm[index]))
        return Finding(
            id=int(self.id[index]),
            volume_ml=float(self.volume_ml[index]),
            centroid_mm=(x, y, z),
            peak=float(self.peak[index]),
            mean=float(self.mean[index]),
            uncertainty=None if self.uncertainty is None else float(self.uncertainty[index]),
            slice=int(self.slice[index]),
            voxels=int(self.voxels[index]),
            sides_known=self.sides_known,
            side=side,
            from_midline_mm=from_midline_mm,
            midline_source=self.midline_source,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Marker:
    """Findings of one anomaly map under a threshold that moves.

    What does not depend on the threshold is done once.

    Parameters
    ----------
    anomaly : ndarray, (S, A, R)
        Scores; NaN counts as not anomalous.
    spacing : tuple of float
        Along S, A, R, mm.
    mask : ndarray, (S, A, R), optional
        Findings lie where it is nonzero; everywhere when not given.
    compact : bool
        Label in the smallest unsigned type that holds the numbers; int32 leaves room for more.

    Attributes
    ----------
    box : tuple of slice
        Around the mask: outside there is no finding.

    Notes
    -----
    At the first threshold the findings are numbered 1..n by falling volume.
    From then on a number belongs to the voxel with the finding's highest score:
    as the threshold moves, a finding that grows or shrinks keeps its number (and
    so its colour), one that falls apart leaves it to the part with the peak, and
    of those that flow together the highest keeps its own. New ones get the next
    free numbers, by falling volume. Whatever the way the threshold took, a
    finding that was seen before has the number that it had.
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
        # With a column of nothing behind every row, no run of voxels goes on into the next row.
        self._scores = np.full((s, a, r + 1), -np.inf, dtype=np.result_type(anomaly, np.float32))
        self._scores[..., :-1] = anomaly[self.box]
        if inside is not None:
            self._scores[..., :-1][~inside[self.box]] = -np.inf
        # Of the first threshold, in the order of their numbers.
        self._numbered_first: np.ndarray | None = None
        # By the place of the peak in the grid; 0 where none has been seen.
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
    ) -> tuple[np.ndarray, Findings]:
        """Label and measure the findings: `label` and `measure_findings` in one go.

        Parameters
        ----------
        threshold, minimum_ml : float
            As for `label`.
        volume, uncertainty, midline
            As for `measure_findings`.

        Returns
        -------
        labels : ndarray of int32, or smaller if compact, (S, A, R)
        findings : Findings
            In the order of the ids.
        """
        labels, ids, runs, scores, at_peak = self._find(threshold, minimum_ml)
        spread = None if uncertainty is None else uncertainty.ravel()[runs.voxels]
        return labels, _measure(ids, runs, scores, at_peak, spread, volume, midline)

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
    ) -> tuple[np.ndarray, np.ndarray, _Runs, np.ndarray, np.ndarray]:
        """The labels, and for `_measure` the findings in falling size."""
        above = self._scores > threshold
        # As uint8: cc3d 4.1 fails for booleans in grids that are one voxel wide and deep.
        components, count = cc3d.connected_components(
            above.view(np.uint8), connectivity=26, return_N=True
        )
        where = np.flatnonzero(above)
        offset = np.flatnonzero(np.diff(where, prepend=-2) != 1)
        start, length = where[offset], np.diff(offset, append=where.size)
        # Neighbours in a row are connected: a run belongs to one component.
        component = components.ravel()[start].astype(np.intp) - 1
        sizes = np.bincount(component, weights=length, minlength=count).astype(np.int64)
        # A hair below, so that 100 voxels of 0.001 mL are 0.1 mL whatever the rounding.
        fewest = math.ceil(minimum_ml / self._voxel_ml - 1e-6)
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
        runs = _Runs(in_grid, length, member)
        scores = self._anomaly.ravel()[runs.voxels]
        at_peak = _first_peaks(scores, runs, kept.size)
        ids = self._numbers(runs.voxels[at_peak])
        numbers = np.min_scalar_type(self._given) if self._compact else np.dtype(np.int32)
        labels = np.zeros(self._shape, dtype=numbers)
        labels.ravel()[runs.voxels] = np.repeat(ids[member], length)
        return labels, ids, runs, scores, at_peak

    def _numbers(self, peaks: np.ndarray) -> np.ndarray:
        """The numbers of findings, largest first, by the flat indices of their peaks."""
        if self._numbered_first is None:
            self._numbered_first = peaks
            self._given = peaks.size
            return np.arange(1, peaks.size + 1, dtype=np.int32)
        if self._number_at is None:  # most thresholds never move
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
        Findings lie where it is nonzero; everywhere when not given.

    Returns
    -------
    ndarray of int32, (S, A, R)
        0 = no finding, 1..n by falling volume (26-connectivity).
    """
    return Marker(anomaly, spacing=spacing, mask=mask).label(threshold, minimum_ml)


def measure_findings(
    labels: np.ndarray,
    anomaly: np.ndarray,
    volume: Volume,
    uncertainty: np.ndarray | None = None,
    midline: Midline | None = None,
) -> Findings:
    """Measure every finding of a label image.

    Parameters
    ----------
    labels : ndarray of int, (S, A, R)
        0 = no finding. The ids may have gaps (labels that a person edited).
    anomaly : ndarray, (S, A, R)
        Scores.
    volume : Volume
        Gives the place and size of the voxels; its own voxels are not read.
    uncertainty : ndarray, (S, A, R), optional
        Its mean over the finding is reported.
    midline : Midline, optional
        Of the brain; without it findings have no side.

    Returns
    -------
    Findings
        A sequence of `Finding` in the order of the ids.

    Raises
    ------
    ValueError
        When a shape is not the volume's.
    """
    for array in (labels, anomaly, uncertainty):
        if array is not None and array.shape != volume.shape:
            raise ValueError(f"shape {array.shape} is not the grid's {volume.shape}")
    where = np.flatnonzero(labels)
    label = labels.ravel()[where]
    row = where // labels.shape[2]
    breaks = (np.diff(where) != 1) | (np.diff(row) != 0) | (np.diff(label) != 0)
    offset = np.flatnonzero(np.concatenate((where[:1] >= 0, breaks)))
    ids, member = np.unique(label[offset], return_inverse=True)
    runs = _Runs(where[offset], np.diff(offset, append=where.size), member)
    scores = anomaly.ravel()[where]
    spread = None if uncertainty is None else uncertainty.ravel()[where]
    at_peak = _first_peaks(scores, runs, ids.size)
    return _measure(ids, runs, scores, at_peak, spread, volume, midline)


@dataclass(frozen=True, eq=False)
class _Runs:
    """Findings as stretches of neighbours in a row (along R): far fewer than their voxels.

    Attributes
    ----------
    start, length : ndarray of int, shape (n,)
        First voxel, as a flat index that rises, and number of voxels.
    member : ndarray of int, shape (n,)
        Which finding, from 0.
    """

    start: np.ndarray
    length: np.ndarray
    member: np.ndarray

    @cached_property
    def offset(self) -> np.ndarray:
        """Where each begins among the voxels of all."""
        return np.cumsum(self.length) - self.length

    @cached_property
    def voxels(self) -> np.ndarray:
        """Flat indices of the voxels of all."""
        return np.repeat(self.start - self.offset, self.length) + np.arange(self.length.sum())


def _first_peaks(scores: np.ndarray, runs: _Runs, count: int) -> np.ndarray:
    """For each finding which of all voxels has its highest score; of equal ones the first."""
    first = np.zeros(count, dtype=np.intp)
    if count:
        peaks = np.full(count, -np.inf, dtype=scores.dtype)
        np.maximum.at(peaks, runs.member, np.maximum.reduceat(scores, runs.offset))
        # Written backwards, so that of equal peaks the first voxel stays.
        at_peak = np.flatnonzero(scores == np.repeat(peaks[runs.member], runs.length))[::-1]
        first[np.repeat(runs.member, runs.length)[at_peak]] = at_peak
    return first


def _measure(
    ids: np.ndarray,
    runs: _Runs,
    scores: np.ndarray,
    at_peak: np.ndarray,
    uncertainty: np.ndarray | None,
    volume: Volume,
    midline: Midline | None,
) -> Findings:
    """Measure findings from the scores, and uncertainties, of the runs' voxels."""

    def total(values_of_run: np.ndarray) -> np.ndarray:
        return np.bincount(runs.member, weights=values_of_run, minlength=ids.size)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(values, runs.offset, dtype=np.float64) if ids.size else values
        return total(sums) / voxels

    voxels = total(runs.length).astype(np.int64)
    s, a, r = np.unravel_index(runs.start, volume.shape)
    middle = r + (runs.length - 1) / 2
    centroids = nib.affines.apply_affine(
        volume.affine,
        np.stack([total(axis * runs.length) / voxels for axis in (s, a, middle)], axis=-1),
    )
    order = np.argsort(ids)
    known = midline if volume.sides_known else None
    return Findings(
        id=ids[order],
        volume_ml=voxels[order] * volume.voxel_ml,
        centroid_mm=centroids[order],
        peak=scores[at_peak[order]].astype(np.float64),
        mean=mean(scores)[order],
        uncertainty=None if uncertainty is None else mean(uncertainty)[order],
        slice=np.unravel_index(runs.voxels[at_peak[order]], volume.shape)[0],
        voxels=voxels[order],
        sides_known=volume.sides_known,
        to_right_mm=None if known is None else known.distance_to_right(centroids[order]),
        right_share=(
            None if known is None else (total(_right_of(known, runs, volume)) / voxels)[order]
        ),
        midline_source=None if known is None else known.source,
    )


def _right_of(midline: Midline, runs: _Runs, volume: Volume) -> np.ndarray:
    """How many voxels of each run lie right of the midline."""
    places = np.stack(np.unravel_index(runs.start, volume.shape), axis=-1)
    start = midline.distance_to_right(nib.affines.apply_affine(volume.affine, places))
    step = float(np.dot(midline.normal, volume.affine[:3, 2]))
    leftmost = np.minimum(start, start + (runs.length - 1) * step)
    # Of a run that lies along the midline, all voxels are on one side of it.
    left = np.floor(-leftmost / max(abs(step), 1e-9)) + 1
    return runs.length - np.clip(left, 0, runs.length)


def findings_csv(findings: Sequence[Finding], decisions: Decisions = NO_DECISIONS) -> str:
    """The findings as CSV text with a header line; what is unknown is an empty cell.

    `side` and `from_midline_mm` are of the patient's brain, `x_mm`, `y_mm`, `z_mm` the centroid
    in scanner coordinates (RAS+), whose origin is no anatomical point; `slice` counts from 0
    along S; `decision` is ``accepted``, ``rejected`` or empty. A note that a
    spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for finding in findings:
        decision = decisions.get(finding.id, UNDECIDED)
        writer.writerow(
            (
                finding.id,
                f"{finding.volume_ml:.3f}",
                finding.side or "",
                "" if finding.from_midline_mm is None else f"{finding.from_midline_mm:.1f}",
                finding.midline_source or "",
                *(f"{value:.1f}" for value in finding.centroid_mm),
                f"{finding.peak:.6g}",
                f"{finding.mean:.6g}",
                "" if finding.uncertainty is None else f"{finding.uncertainty:.6g}",
                finding.slice,
                finding.voxels,
                decision.verdict or "",
                csv_cell(decision.note),
            )
        )
    return text.getvalue()


def findings_record(
    findings: Sequence[Finding], decisions: Decisions = NO_DECISIONS
) -> list[dict[str, Any]]:
    """The findings ready for JSON, each with its ``decision`` (or None) and ``note``.

    `centroid_mm` stands there by the names of the CSV's columns, too.
    """
    return [
        {
            **asdict(finding),
            **dict(zip(("x_mm", "y_mm", "z_mm"), finding.centroid_mm, strict=True)),
            "decision": decisions.get(finding.id, UNDECIDED).verdict,
            "note": decisions.get(finding.id, UNDECIDED).note,
        }
        for finding in findings
    ]
