"""Findings: what they are, and how they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import nibabel as nib
import numpy as np

from napari_addm.checkpoint.specification import MAP_PARTS
from napari_addm.detection.atlas import ScanRegions
from napari_addm.detection.midline import (
    MIDLINE_SHARE,
    SIDES,
    Midline,
    MidlineSource,
    Side,
    abbreviate_side,
    describe_side,
)
from napari_addm.findings.diameters import FindingDiameters
from napari_addm.findings.regions import UNKNOWN, RegionCounts
from napari_addm.findings.runs import Runs, first_peaks
from napari_addm.io.volume import Volume

USUALLY_MISSED = (
    "Small lesions (for example of MS) and subdural collections are usually missed; this does not "
    "mean that the brain is healthy."
)


def describe_none(minimum_ml: float) -> str:
    """Say what it means that there is no finding of so many mL or more."""
    return (
        f"No findings: nothing of {minimum_ml:g} mL or more above the threshold. {USUALLY_MISSED}"
    )


LEAST_MAP_SHARE = 0.1
"""A map is named if it gives a finding at least this share of its scores."""

Slice = slice  # `Findings` has a field of that name


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
        Center of its voxels, world RAS+ (x, y, z), mm.
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
    region : str or None
        Regions of the brain, such as ``"right temporal lobe; hippocampus 12 %"``; ``"unknown"``
        where the scan does not fit the atlas, None where no regions were looked for.
    region_fit : float or None
        How similar scan and atlas are there, up to 1; see
        `napari_addm.io.registration.Registration`.
    longest_mm, across_mm, product_mm2 : float or None
        The longest diameter in the axial slice where it is largest, the longest one perpendicular
        to it, and their product; see `napari_addm.findings.diameters.Diameters`. None in records
        of earlier versions.
    widest_slice : int or None
        Index of that slice along S.
    found_by : str or None
        The maps that give it its scores, the one with most voxels first, such as
        ``"darker + structure"``; see `napari_addm.checkpoint.specification.MAP_PARTS`. None for
        checkpoints with one map.
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
    region: str | None = None
    region_fit: float | None = None
    longest_mm: float | None = None
    across_mm: float | None = None
    product_mm2: float | None = None
    widest_slice: int | None = None
    found_by: str | None = None

    @property
    def diameters_in_words(self) -> str:
        """Both diameters, such as ``"32 × 20 mm"``; empty where they are not known."""
        if self.longest_mm is None or self.across_mm is None:
            return ""
        return f"{self.longest_mm:.0f} × {self.across_mm:.0f} mm"

    @property
    def change_in_words(self) -> str:
        """What is different, such as ``"darker than healthy, changed structure"``.

        Empty where one map finds all.
        """
        parts = self.found_by.split(" + ") if self.found_by else []
        shades = [part for part in parts if part in ("darker", "brighter")]
        words = dict.fromkeys(shades, f"{' and '.join(shades)} than healthy")
        words["structure"] = "changed structure"
        return ", ".join(dict.fromkeys(words.get(part, part) for part in parts))

    @property
    def location(self) -> str:
        """Side and region in words; see `napari_addm.detection.midline.describe_side`."""
        side = describe_side(self.side, self.from_midline_mm, self.midline_source)
        return side if self.region is None else f"{side} ({self.region_in_words})"

    @property
    def region_in_words(self) -> str:
        """The region, which may be unknown; empty where no regions were looked for."""
        return "region unknown" if self.region == UNKNOWN else self.region or ""

    @property
    def location_in_brief(self) -> str:
        """The side for a table; see `napari_addm.detection.midline.abbreviate_side`."""
        return abbreviate_side(self.side, self.from_midline_mm, self.midline_source)


@dataclass(frozen=True, eq=False)
class Sides:
    """Where findings lie with respect to the brain's midline.

    Attributes
    ----------
    to_right_mm : ndarray of float64, shape (n,)
        Signed distance of the centroid from the midline, negative on the left.
    right_share : ndarray of float64, shape (n,)
        Share of the voxels in the right half.
    source : {"symmetry", "mask"}
        Where the midline comes from.
    """

    to_right_mm: np.ndarray
    right_share: np.ndarray
    source: MidlineSource

    @classmethod
    def of(cls, entries: Sequence[Finding]) -> Sides | None:
        """Make the sides of findings that were measured earlier; None without a midline."""
        source = entries[0].midline_source if entries else None
        if source is None:
            return None
        away = [each.from_midline_mm or 0.0 for each in entries]
        share = np.array([SIDES.index(each.side or "midline") / 2 for each in entries])
        return cls(np.where(share < 0.5, -1.0, 1.0) * np.array(away), share, source)

    def side(self, index: int) -> Side:
        """Return the side of a finding."""
        right = float(self.right_share[index])
        return SIDES[int(right >= MIDLINE_SHARE) + int(right > 1 - MIDLINE_SHARE)]


@dataclass(frozen=True, eq=False)
class Findings(Sequence[Finding]):
    """Findings as arrays; a `Finding` is made on access.

    Noise has tens of thousands of components, and a person drags the threshold.

    Attributes
    ----------
    id : ndarray of int, shape (n,)
    volume_ml, peak, mean : ndarray of float64, shape (n,)
    centroid_mm : ndarray of float64, shape (n, 3)
    uncertainty : ndarray of float64, shape (n,), or None
    slice, voxels : ndarray of int, shape (n,)
    sides : Sides or None
        None without a midline. All others are as in `Finding`.
    regions : RegionCounts or None
        None where no regions were looked for.
    found_by : tuple of str or None
        None for checkpoints with one map.
    diameters : FindingDiameters
    entries : sequence of Finding or None
        The findings themselves, where they were measured at an earlier time.
    """

    id: np.ndarray
    volume_ml: np.ndarray
    centroid_mm: np.ndarray
    peak: np.ndarray
    mean: np.ndarray
    uncertainty: np.ndarray | None
    slice: np.ndarray
    voxels: np.ndarray
    sides_known: bool
    diameters: FindingDiameters
    sides: Sides | None = None
    regions: RegionCounts | None = None
    found_by: tuple[str, ...] | None = None
    entries: Sequence[Finding] | None = None

    @property
    def total_ml(self) -> float:
        """Volume of all findings together, mL."""
        return float(self.volume_ml.sum())

    def __len__(self) -> int:
        return len(self.id)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: Slice) -> list[Finding]: ...
    def __getitem__(self, index: int | Slice) -> Finding | list[Finding]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        if self.entries is not None:
            return self.entries[index]
        x, y, z = self.centroid_mm[index].tolist()
        sides, regions, diameters = self.sides, self.regions, self.diameters[index]
        volume_ml = float(self.volume_ml[index])
        return Finding(
            id=int(self.id[index]),
            volume_ml=volume_ml,
            centroid_mm=(x, y, z),
            peak=float(self.peak[index]),
            mean=float(self.mean[index]),
            uncertainty=None if self.uncertainty is None else float(self.uncertainty[index]),
            slice=int(self.slice[index]),
            voxels=int(self.voxels[index]),
            sides_known=self.sides_known,
            side=None if sides is None else sides.side(index),
            from_midline_mm=None if sides is None else abs(float(sides.to_right_mm[index])),
            midline_source=None if sides is None else sides.source,
            region=None if regions is None else regions.name(index, volume_ml),
            region_fit=None if regions is None else regions.fit,
            longest_mm=diameters.longest_mm,
            across_mm=diameters.across_mm,
            product_mm2=diameters.product_mm2,
            widest_slice=diameters.slice,
            found_by=None if self.found_by is None else self.found_by[index],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def measure_findings(
    labels: np.ndarray,
    anomaly: np.ndarray,
    volume: Volume,
    uncertainty: np.ndarray | None = None,
    midline: Midline | None = None,
    regions: ScanRegions | None = None,
    brightness: np.ndarray | None = None,
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
        The brain's midline; without it findings have no side.
    regions : ScanRegions, optional
        Of the scan; without them findings have no region.
    brightness : ndarray, (S, A, R), optional
        Tells which map found what, where `anomaly` is the higher of both; see
        `napari_addm.detection.maps.Detection.highest`.

    Returns
    -------
    Findings
        A sequence of `Finding` in the order of the ids.

    Raises
    ------
    ValueError
        When a shape is not the volume's.
    """
    for array in (labels, anomaly, uncertainty, brightness):
        if array is not None and array.shape != volume.shape:
            raise ValueError(f"shape {array.shape} is not the grid's {volume.shape}")
    ids, runs, where = _runs_of(labels)
    scores = anomaly.ravel()[where]
    spread = None if uncertainty is None else uncertainty.ravel()[where]
    bright = None if brightness is None else brightness.ravel()[where]
    at_peak = first_peaks(scores, runs, ids.size)
    return measure_runs(ids, runs, scores, at_peak, spread, volume, midline, regions, bright)


def recorded_findings(entries: Sequence[Finding], labels: np.ndarray, volume: Volume) -> Findings:
    """Make the arrays of findings that were measured earlier, such as those of a record.

    Parameters
    ----------
    entries : sequence of Finding
        All of `labels`.
    labels : ndarray of int, (S, A, R)
        As they were then.
    volume : Volume
        As for `measure_findings`.
    """
    entries = sorted(entries, key=lambda each: each.id)
    ids, runs, _ = _runs_of(labels)
    spread = np.array([each.uncertainty for each in entries], float)
    found_by = tuple(each.found_by or "" for each in entries)
    return Findings(
        id=np.array([each.id for each in entries], np.int64),
        volume_ml=np.array([each.volume_ml for each in entries], float),
        centroid_mm=np.array([each.centroid_mm for each in entries], float).reshape(-1, 3),
        peak=np.array([each.peak for each in entries], float),
        mean=np.array([each.mean for each in entries], float),
        uncertainty=None if np.isnan(spread).any() or not entries else spread,
        slice=np.array([each.slice for each in entries], np.int64),
        voxels=np.array([each.voxels for each in entries], np.int64),
        sides_known=volume.sides_known,
        diameters=FindingDiameters(runs, np.argsort(ids), volume),
        sides=Sides.of(entries),
        found_by=found_by if any(found_by) else None,
        entries=entries,
    )


def _runs_of(labels: np.ndarray) -> tuple[np.ndarray, Runs, np.ndarray]:
    """The ids of labels, their runs of voxels, and the flat indices of all voxels."""
    where = np.flatnonzero(labels)
    label = labels.ravel()[where]
    row = where // labels.shape[2]
    breaks = (np.diff(where) != 1) | (np.diff(row) != 0) | (np.diff(label) != 0)
    offset = np.flatnonzero(np.concatenate((where[:1] >= 0, breaks)))
    ids, member = np.unique(label[offset], return_inverse=True)
    runs = Runs(where[offset], np.diff(offset, append=where.size), member)
    return ids, runs, where


def measure_runs(
    ids: np.ndarray,
    runs: Runs,
    scores: np.ndarray,
    at_peak: np.ndarray,
    uncertainty: np.ndarray | None,
    volume: Volume,
    midline: Midline | None,
    regions: ScanRegions | None,
    brightness: np.ndarray | None = None,
) -> Findings:
    """Measure findings from the scores, uncertainties and brightness of the runs' voxels."""

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
    sides = None
    if midline is not None and volume.sides_known:
        right = total(_right_of(midline, runs, volume)) / voxels
        sides = Sides(midline.distance_to_right(centroids[order]), right[order], midline.source)
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
        diameters=FindingDiameters(runs, order, volume),
        sides=sides,
        regions=None if regions is None else RegionCounts.of(regions, runs, order),
        found_by=None if brightness is None else _name_maps(scores, brightness, runs, order),
    )


def _name_maps(
    scores: np.ndarray, brightness: np.ndarray, runs: Runs, order: np.ndarray
) -> tuple[str, ...]:
    """Name the maps that give findings at least `LEAST_MAP_SHARE` of their scores."""
    ours = (np.abs(brightness) >= scores) & (brightness != 0)
    part = np.where(ours, np.where(brightness < 0, 1, 2), 0)
    places = np.repeat(runs.member, runs.length) * len(MAP_PARTS) + part
    counts = np.bincount(places, minlength=len(order) * len(MAP_PARTS))
    counts = counts.reshape(len(order), len(MAP_PARTS))[order]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = ([n for n in np.argsort(-row) if row[n] >= LEAST_MAP_SHARE] for row in shares)
    return tuple(" + ".join(MAP_PARTS[n] for n in row) for row in named)


def _right_of(midline: Midline, runs: Runs, volume: Volume) -> np.ndarray:
    """How many voxels of each run lie right of the midline."""
    places = np.stack(np.unravel_index(runs.start, volume.shape), axis=-1)
    start = midline.distance_to_right(nib.affines.apply_affine(volume.affine, places))
    step = float(np.dot(midline.normal, volume.affine[:3, 2]))
    leftmost = np.minimum(start, start + (runs.length - 1) * step)
    # All voxels of a run along the midline are on one side of it.
    left = np.floor(-leftmost / max(abs(step), 1e-9)) + 1
    return runs.length - np.clip(left, 0, runs.length)
