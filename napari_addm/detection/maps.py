"""Maps of a detection: scores, mean reconstruction and uncertainty, on the scan's own grid."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.specification import (
    MAP_PARTS,
    HealthyNormSpecification,
    ModelSpecification,
    ScoreSpecification,
)
from napari_addm.detection.atlas import NO_REGIONS, NO_SIMPLEITK, ScanRegions
from napari_addm.detection.brightness import darker_and_brighter, higher_of
from napari_addm.detection.healthy_norm import BrainBox, Norm, beyond_norm, in_deviations
from napari_addm.detection.midline import NO_MIDLINE, SIDES_FROM_MASK, Midline
from napari_addm.detection.scoring import voxel_scores
from napari_addm.detection.settings import DetectionSettings, has_norm
from napari_addm.detection.smoothing import smooth_and_average
from napari_addm.detection.symmetry import subtract_mirror_score
from napari_addm.io.arrays import Grid, Mask
from napari_addm.io.remarks import caution
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    from napari_addm.detection.plan import Plan
    from napari_addm.detection.preparation import ModelSlices
    from napari_addm.detection.session import PreparedScan

ASYMMETRIC = caution(
    "Left and right of this brain are too different to be compared: every place is compared with "
    "the scan's median instead."
)


CUT = caution(
    "A part of this brain is cut off, so it is compared with the wrong places of healthy brains: "
    "expect false alarms and misses."
)


@dataclass(frozen=True)
class Detection:
    """Maps on the scan's own grid, and how they were made.

    Attributes
    ----------
    anomaly : Volume of float32
        The smoothed score; 0 outside the brain.
    reconstruction : Volume of float32
        In the scan's intensities; 0 outside the brain.
    uncertainty : Volume of float32 or None
        Standard deviation of the score over the draws; None for a single draw.
    done : ndarray of bool, shape (S,)
        Which slices of the scan are finished.
    seconds : dict of str to float
        Time for ``prepare``, ``load``, ``network`` and ``score``.
    settings : DetectionSettings
        With every default filled in.
    device, precision : str
        What the network ran on.
    threads : int
        Of the processor, for the network.
    brightness : Volume of float32 or None
        How much brighter (positive) or darker (negative) the scan is than healthy brains, in the
        units of ``anomaly``; 0 outside. None for checkpoints without healthy norms.
    midline : Midline or None
        The plane between the halves of the brain, which gives findings their sides.
    regions : ScanRegions or None
        Regions of the brain, which give findings their names.
    """

    anomaly: Volume
    reconstruction: Volume
    uncertainty: Volume | None
    brain_mask: Volume
    done: NDArray[np.bool_]
    seconds: dict[str, float]
    settings: DetectionSettings
    specification: ModelSpecification
    device: str
    precision: str
    threads: int
    warnings: tuple[str, ...] = ()
    brightness: Volume | None = None
    midline: Midline | None = None
    regions: ScanRegions | None = None
    _maps: AnomalyMaps | None = field(default=None, repr=False, compare=False)

    @property
    def region(self) -> NDArray[np.bool_]:
        """Where there is a score: the brain mask in finished slices, shape (S, A, R)."""
        brain: NDArray[np.bool_] = self.brain_mask.data
        return brain if self.done.all() else brain & self.done[:, None, None]

    @property
    def highest(self) -> Grid:
        """The higher of the anomaly map and the brightness, shape (S, A, R): findings lie in it."""
        brightness = self.brightness
        return higher_of(self.anomaly.data, None if brightness is None else brightness.data)

    @property
    def slices(self) -> ModelSlices | None:
        """The prepared scan; None for a detection that was assembled by hand."""
        return None if self._maps is None else self._maps.scan.slices

    def rescored(self, score: ScoreSpecification) -> Detection:
        """Score the same reconstructions differently, without the network.

        Returns
        -------
        Detection
            With everything that is finished by now.

        Raises
        ------
        ValueError
            For a detection that was assembled by hand.
        """
        if self._maps is None:
            raise ValueError("a detection that was assembled by hand cannot be scored again")
        return self._maps.with_score(score).make()

    def places(self, norm: HealthyNormSpecification) -> dict[str, tuple[Grid, Grid]]:
        """Return what a healthy norm is measured on; see `AnomalyMaps.places`."""
        if self._maps is None:
            raise ValueError("a detection that was assembled by hand has no maps to measure")
        return self._maps.places(norm)


@dataclass(frozen=True, eq=False)
class _Scored:
    """The smoothed score of some slices.

    Attributes
    ----------
    part : slice
        The slices of the model grid; D' of them.
    there, inner : ndarray of bool, shape (depth, 1, 1) and (depth, H, W)
        Which slices are finished, and where the score is wanted.
    mask : ndarray of bool, shape (D', H, W)
        The brain.
    mean, anomaly : ndarray of float32, shape (D', H, W)
        The mean reconstruction and the score.
    uncertainty : ndarray of float32, shape (D', H, W), or None
    """

    part: slice
    there: Mask
    mask: Mask
    inner: Mask
    mean: Grid
    anomaly: Grid
    uncertainty: Grid | None


@dataclass(frozen=True)
class AnomalyMaps:
    """Makes the maps of the slices that are finished.

    Only slices that were asked for take part, so that a result does not depend on what else a
    session holds.

    Attributes
    ----------
    threads : int
        What the network computes with.
    seconds : dict of str to float
        Per stage; scoring adds its own.
    """

    plan: Plan
    threads: int
    seconds: dict[str, float]

    @property
    def scan(self) -> PreparedScan:
        """The scan on the model grid."""
        return self.plan.scan

    def with_score(self, score: ScoreSpecification) -> AnomalyMaps:
        """Return maps of the same reconstructions under another score."""
        settings = self.plan.settings.replace(
            score=score.kind, smoothing_mm=score.smoothing_mm, symmetry=score.symmetry
        )
        if settings.healthy_norm and not has_norm(settings, self.plan.checkpoint.specification):
            settings = settings.replace(healthy_norm=False)
        plan = replace(self.plan, settings=settings, erosion_mm=score.erosion_mm)
        return replace(self, plan=plan, seconds=dict(self.seconds))

    def finished(self) -> Mask:
        """Return which model slices have all their draws now, shape (N,)."""
        plan = self.plan
        finished = np.zeros(len(self.scan.slices.images), bool)
        made = plan.reconstructions.finished[: plan.draws, plan.positions]
        finished[plan.positions] = made.all(axis=0)
        return finished

    def shows(self, finished: Mask) -> Mask:
        """Return which slices of the scan would show brain, shape (S,)."""
        return self.done(finished) & self.scan.slices.reconstructed

    def done(self, finished: Mask) -> Mask:
        """Return which slices of the scan are complete and were asked for, shape (S,)."""
        done = self.scan.slices.finished_native_slices(finished)
        if self.plan.settings.slices is not None:
            done &= np.isin(np.arange(len(done)), self.plan.settings.slices)
        return done

    def prepare(self) -> None:
        """Compute what the maps need of the scan alone."""
        settings = self.plan.settings
        if self.plan.healthy_norm is not None:
            self.scan.norms(self.plan.checkpoint)
        self.scan.prepare_scoring(symmetry=bool(settings.symmetry), whole=settings.slices is None)

    def find_regions(self) -> None:
        """Find the regions of the brain, if the settings ask for them."""
        if self.plan.settings.regions:
            self.scan.find_regions()

    def make(self, finished: Mask | None = None) -> Detection:
        """Score the finished slices, each with its finished neighbors.

        Parameters
        ----------
        finished : ndarray of bool, shape (N,), optional
            Model slices; by default all that are finished now.
        """
        started = time.perf_counter()
        finished = self.finished() if finished is None else finished
        done = self.done(finished)
        maps = self._to_native(self._score(finished), finished, done)
        brightness = _signed(maps)
        self.seconds["score"] += time.perf_counter() - started
        volume = self.scan.slices.volume
        uncertainty = maps.get("uncertainty")
        return Detection(
            anomaly=volume.with_data(maps["anomaly"]),
            reconstruction=volume.with_data(maps["reconstruction"]),
            uncertainty=None if uncertainty is None else volume.with_data(uncertainty),
            brain_mask=volume.with_data(self.scan.slices.brain_mask),
            done=done,
            seconds=dict(self.seconds),
            settings=self.plan.settings,
            specification=self.plan.checkpoint.specification,
            device=self.plan.reconstructions.device,
            precision=self.plan.reconstructions.precision,
            threads=self.threads,
            warnings=self._all_warnings(),
            brightness=None if brightness is None else volume.with_data(brightness),
            midline=self.scan.midline,
            regions=self.scan.regions if self.plan.settings.regions else None,
            _maps=self,
        )

    def _score(self, finished: Mask) -> dict[str, Grid]:
        """Make the maps on the model grid, float32, shape (depth, H, W)."""
        shape = self.scan.scan.shape
        names = ["anomaly", "reconstruction"]
        if self.plan.draws > 1:
            names.append("uncertainty")
        grids = {name: np.zeros(shape, np.float32) for name in names}
        scored = self._smooth(finished)
        if scored is None:
            return grids
        part = scored.part
        grids["reconstruction"][part] = self.scan.slices.intensity.inverse(scored.mean)
        if scored.uncertainty is not None:
            grids["uncertainty"][part] = scored.uncertainty
        if self.plan.healthy_norm is None:
            grids["anomaly"][part] = self._beyond_symmetry(scored.anomaly, scored.inner, part)
        else:
            grids |= self._compare_with_healthy(scored, self.plan.healthy_norm)
        return grids

    def _smooth(self, finished: Mask) -> _Scored | None:
        """Score the finished slices, and smooth; None without any."""
        scan, slices, score = self.scan, self.scan.slices, self.plan.score
        rows = slices.slice_index[finished]
        if not len(rows):
            return None
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        drawn, weights = self._draws(finished, part)
        there = slices.to_model_volume(finished)[:, None, None]
        mask = scan.mask[part] & there[part]
        scores = voxel_scores(score.kind, scan.scan[part], drawn, mask, slices.spacing_mm, weights)
        inner = scan.inner(score.erosion_mm) & there
        anomaly, uncertainty = smooth_and_average(
            scores, inner[part], score.smoothing_mm, slices.spacing_mm
        )
        mean = drawn.mean(axis=0).clip(0.0, 1.0)
        return _Scored(part, there, mask, inner, mean, anomaly, uncertainty)

    def _beyond_symmetry(self, part_map: Grid, inner: Mask, part: slice) -> Grid:
        """Subtract what both halves show alike, if the settings ask for it."""
        if not self.plan.score.symmetry:
            return part_map
        whole = np.zeros(inner.shape, np.float32)
        whole[part] = part_map
        return subtract_mirror_score(whole, inner, self.scan.mirror_plane, part)

    def _parts(
        self, scored: _Scored, norm: HealthyNormSpecification
    ) -> dict[str, tuple[Grid, Mask]]:
        """Return the smoothed maps, before any comparison with healthy brains.

        Returns
        -------
        dict of str to (ndarray of float32, ndarray of bool)
            By `MAP_PARTS`: the map, of shape (D', H, W), and where it is wanted, (depth, H, W).
        """
        part, rim = scored.part, self.scan.inner(norm.erosion_mm) & scored.there
        darker, brighter = darker_and_brighter(
            self.scan.scan[part],
            scored.mean,
            scored.mask,
            rim[part],
            norm.smoothing_mm,
            self.scan.slices.spacing_mm,
        )
        maps = (scored.anomaly, scored.inner), (darker, rim), (brighter, rim)
        return dict(zip(MAP_PARTS, maps, strict=True))

    def _compare_with_healthy(
        self, scored: _Scored, norm: HealthyNormSpecification
    ) -> dict[str, Grid]:
        """Compare score and brightness with those of healthy brains.

        Returns
        -------
        dict of str to ndarray of float32, shape (depth, H, W)
            ``anomaly``, ``darker`` and ``brighter``, in the same units.
        """
        part, placed = scored.part, self.scan.norms(self.plan.checkpoint)
        units = {"darker": norm.darker_unit, "brighter": norm.brighter_unit}
        grids = {}
        for name, (values, inside) in self._parts(scored, norm).items():
            healthy = Norm(placed[name].mean[part], placed[name].deviation[part])
            if name in units:
                compared = units[name] * in_deviations(values, healthy, inside[part])
            else:
                compared = beyond_norm(values, healthy, inside[part], norm.share)
            grid = np.zeros(self.scan.scan.shape, np.float32)
            grid[part] = self._beyond_symmetry(compared, inside, part)
            grids[name if name in units else "anomaly"] = grid
        return grids

    def places(self, norm: HealthyNormSpecification) -> dict[str, tuple[Grid, Grid]]:
        """Return the smoothed maps of a whole brain, brought to the places of a healthy norm.

        Returns
        -------
        dict of str to (ndarray of float32, ndarray of float32)
            By `MAP_PARTS`: values and weight, as `measure_norm` takes them.
        """
        scored = self._smooth(self.finished())
        assert scored is not None
        box = BrainBox.of(self.scan.mask)
        placed = {}
        for name, (values, inside) in self._parts(scored, norm).items():
            whole = np.zeros(self.scan.scan.shape, np.float32)
            whole[scored.part] = values
            placed[name] = box.to_places(np.where(inside, whole, 0)), box.to_places(inside)
        return placed

    def _draws(self, finished: Mask, part: slice) -> tuple[Grid, Grid | None]:
        """Put the finished draws into a part of the model grid, as values in 0..1."""
        slices, made = self.scan.slices, self.plan.reconstructions
        rows = slices.slice_index[finished] - part.start
        shape = (self.plan.draws, part.stop - part.start, *slices.images.shape[1:])
        drawn = np.zeros(shape, np.float32)
        weights = None if made.weights is None else np.ones(shape, np.float32)
        for draw in range(len(drawn)):
            drawn[draw, rows] = (made.images[draw, finished] + 1.0) / 2.0
            if weights is not None and made.weights is not None:
                weights[draw, rows] = made.weights[draw, finished]
        return drawn, weights

    def _to_native(self, grids: dict[str, Grid], finished: Mask, done: Mask) -> dict[str, Grid]:
        """Bring the maps to the scan's grid, in the slices that are done."""
        slices = self.scan.slices
        maps = {name: np.zeros(slices.volume.shape, np.float32) for name in grids}
        for first, last in _ranges(np.flatnonzero(done)):
            slices.to_native(
                *grids.values(),
                native_slices=(first, last),
                valid=finished,
                out=[map_[first:last] for map_ in maps.values()],
            )
        return maps

    def _all_warnings(self) -> tuple[str, ...]:
        scan, warnings = self.scan, [*self.scan.slices.warnings, *self.plan.warnings]
        if self.plan.score.symmetry and scan.mirror_plane is None:
            warnings.append(ASYMMETRIC)
        if self.plan.healthy_norm is not None and scan.is_cut:
            warnings.append(CUT)
        if scan.midline is None and scan.slices.volume.sides_known:
            warnings.append(NO_MIDLINE)
        elif scan.midline is not None and scan.midline.source == "mask":
            warnings.append(SIDES_FROM_MASK)
        if self.plan.settings.regions and scan.slices.volume.sides_known:
            if scan.regions is not None and scan.regions.labels is None:
                warnings.append(NO_REGIONS)
            elif scan.regions is None and find_spec("SimpleITK") is None:
                warnings.append(NO_SIMPLEITK)
        return (*warnings, *self.plan.reconstructions.warnings)


def _signed(maps: dict[str, Grid]) -> Grid | None:
    """Join the maps of what is darker and what is brighter; None without them."""
    if "darker" not in maps:
        return None
    darker, brighter = maps["darker"], maps["brighter"]
    return np.where(brighter > darker, brighter, -darker)


def _ranges(indices: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return rising indices as ranges (start, stop) without gaps."""
    parts = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]
