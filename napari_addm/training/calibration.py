"""Fitting a checkpoint to healthy brains: its norm, its threshold, and what it promises.

None of it needs a label. Labelled cases, where there are some, only measure the result.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import (
    MAP_PARTS,
    DetectionSpecification,
    FalseAlarmSpecification,
    HealthyNormSpecification,
)
from napari_addm.detection.healthy_norm import measure_norm, to_tensors
from napari_addm.detection.pipeline import Detection, detect
from napari_addm.detection.preparation import prepare
from napari_addm.detection.quality import (
    INTENSITIES_KEY,
    RECONSTRUCTION_KEY,
    SLICES_KEY,
    check_quality,
    healthy_limit,
    healthy_range,
    histogram_distance,
    reconstruction_error,
)
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.text import format_duration
from napari_addm.metrics.evaluation import evaluate
from napari_addm.metrics.intensity_baselines import intensity_baselines
from napari_addm.metrics.sorted_scores import SortedScores
from napari_addm.metrics.thresholds import (
    FalseAlarmCurve,
    HealthyMap,
    false_alarm_curve,
    healthy_bound,
    threshold_by_false_alarms,
)
from napari_addm.training.labelled_scans import LabelledScan
from napari_addm.training.settings import LEAST_HEALTHY, PROMISED_ML

SHARE = 0.5
"""Share of the healthy mean that is subtracted from the score. Chosen on the validation cases,
where 0.5 and 1 differ by less than 0.01 in AUPRC and best Dice."""
CURVE_ML = (0.01, 100.0)
"""Mean volume of false alarm over which the curve is measured, mL."""
BRIGHTNESS_MM, BRIGHTNESS_EROSION_MM = 3.0, 1.0
"""Smoothing and erosion of the maps of brightness."""
OF_NORM = ("level", "steps", "sampler", "eta", "draws", "score")
"""The defaults that a healthy norm holds for."""
UNCALIBRATED = DetectionSettings(regions=False)
EARLIEST_ETA = 0.3
"""Part of the first scan from which the time for all of them is estimated."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """What a calibration does.

    Attributes
    ----------
    words : str
    done : float
        Scans that the network has done; within a scan, the part of it counts.
    total : int
        Scans in all.
    eta : float or None
        Estimate of the seconds that remain; None while unknown.
    """

    words: str
    done: float
    total: int
    eta: float | None = None

    def __str__(self) -> str:
        left = "" if self.eta is None else f", about {format_duration(self.eta)} left"
        return f"{self.words} ({min(int(self.done) + 1, self.total)} of {self.total}{left})"


@dataclass(frozen=True)
class FlaggedScan:
    """A scan that differs from those of the training.

    Attributes
    ----------
    name : str
    why : str
        One sentence.
    """

    name: str
    why: str

    def __str__(self) -> str:
        return f"Caution, {self.name}: {self.why}"


Steps = Generator[Step | FlaggedScan, None, Any]


def _say_nothing(line: str) -> None:
    pass


def calibrate(
    checkpoint: Checkpoint,
    healthy: Sequence[LabelledScan],
    changes: Mapping[str, Any] | None = None,
    *,
    norm: Sequence[LabelledScan] = (),
    labelled: Sequence[LabelledScan] = (),
    promised_ml: float = PROMISED_ML,
    report: Report = _say_nothing,
) -> Checkpoint:
    """Drive `calibration_steps` to its end, and return the checkpoint.

    Parameters
    ----------
    checkpoint, healthy, changes, norm, labelled, promised_ml
        As for `calibration_steps`.
    report : callable
        Called with a line of text whenever something begins.
    """
    steps = calibration_steps(
        checkpoint, healthy, changes, norm=norm, labelled=labelled, promised_ml=promised_ml
    )
    words = ""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            made: Checkpoint = end.value
            return made
        if isinstance(step, FlaggedScan):
            report(str(step))
        elif step.words != words:
            words = step.words
            report(str(step))


def calibration_steps(
    checkpoint: Checkpoint,
    healthy: Sequence[LabelledScan],
    changes: Mapping[str, Any] | None = None,
    *,
    norm: Sequence[LabelledScan] = (),
    labelled: Sequence[LabelledScan] = (),
    promised_ml: float = PROMISED_ML,
    settings: DetectionSettings = UNCALIBRATED,
    threads: int | None = None,
) -> Generator[Step | FlaggedScan, None, Checkpoint]:
    """Give a checkpoint a threshold that keeps a promise in healthy brains, and figures.

    Parameters
    ----------
    healthy : sequence of LabelledScan
        Healthy brains outside the training; their groups are the scanners.
    changes : mapping, optional
        Detection defaults to change first, fields of
        `napari_addm.checkpoint.specification.DetectionSpecification`.
    norm : sequence of LabelledScan
        Other healthy brains, to measure the healthy norm on; each group counts alike. Without them
        the checkpoint's own norm stays, if the settings in `OF_NORM` stay.
    labelled : sequence of LabelledScan
        Cases with a ground truth. They change no default.
    promised_ml : float
        What 9 of 10 healthy brains do not exceed at the default threshold, mL.
    settings : DetectionSettings
        Device and precision. All else has to be the checkpoint's own.
    threads : int, optional
        Threads of the network on a CPU; torch's own number by default.

    Returns
    -------
    Checkpoint
        With new ``detection`` and ``evaluation``, and the norms among its weights.

    Yields
    ------
    Step or FlaggedScan
        At least one step for each call of the network. To close the generator cancels.

    Raises
    ------
    InputError
        If there are too few healthy brains, a scan is given twice, or one cannot be read.
    """
    if len(healthy) < LEAST_HEALTHY:
        raise InputError(
            f"{len(healthy)} healthy brains promise nothing about others; give {LEAST_HEALTHY} or "
            "more that the model was not trained on."
        )
    runs = len(norm) + len(healthy) * (2 if norm else 1) + len(labelled)
    work = _Work(runs, settings, threads)
    yield from work.read([*norm, *healthy])
    before = checkpoint.specification.detection
    detection = before.replace(**(changes or {}), false_alarms=None)
    if norm or any(getattr(detection, name) != getattr(before, name) for name in OF_NORM):
        detection = detection.replace(healthy_norm=None)
        if before.healthy_norm is not None and not norm:
            yield Step("leaving out the healthy norm, which is of other settings", 0, runs)
    checkpoint = _with(checkpoint, detection)
    if norm:
        checkpoint = yield from _with_norm(checkpoint, norm, work)
        checkpoint = yield from _with_units(checkpoint, healthy, work)
    brains = []
    for scan in healthy:
        brain = yield from _measure(checkpoint, scan, work)
        brains.append(brain)
    yield work.step("threshold and curve of false alarms")
    checkpoint = _with_promise(checkpoint, brains, promised_ml)
    if labelled:
        measured = yield from _measure_labelled(checkpoint, labelled, work)
        evaluation = {**checkpoint.specification.evaluation, "validation": measured}
        specification = checkpoint.specification.replace(evaluation=evaluation)
        checkpoint = replace(checkpoint, specification=specification)
    return checkpoint


def check_output(output: Path, model: Path) -> None:
    """Refuse a name for the new checkpoint that would lose the old one, or that is no checkpoint's.

    Raises
    ------
    AddmError
        One sentence.
    """
    if output.suffix != ".safetensors":
        raise AddmError(f"{output}: the checkpoint's name has to end in .safetensors.")
    if output.exists() and model.exists() and output.samefile(model):
        raise AddmError(
            f"{output} is the model itself, whose own promise would be lost: choose another name."
        )


@dataclass(eq=False)
class _Work:
    """Runs scans through the network, and says how far it is."""

    total: int
    settings: DetectionSettings
    threads: int | None
    done: int = 0
    since: float = field(default_factory=time.monotonic)

    def step(self, words: str, part: float = 0.0) -> Step:
        done = self.done + part
        eta = None
        if done >= EARLIEST_ETA:
            eta = (time.monotonic() - self.since) * (self.total - done) / done
        return Step(words, done, self.total, eta)

    def read(self, scans: Sequence[LabelledScan]) -> Steps:
        """Read all scans once, so that a fault shows before the network has worked for minutes."""
        known: dict[str, LabelledScan] = {}
        for number, scan in enumerate(scans, 1):
            yield Step(f"reading {scan.name}, {number} of {len(scans)}", 0, self.total)
            voxels = voxels_sha256(scan.volume.data)
            scan.forget()
            if voxels in known:
                raise InputError(
                    f"{known[voxels].scan} and {scan.scan} are the same scan: take one of them "
                    "away."
                )
            known[voxels] = scan
        self.since = time.monotonic()

    def detect(self, checkpoint: Checkpoint, scan: LabelledScan, words: str) -> Steps:
        """Return the `Detection` of a scan."""
        yield self.step(words)
        result: Detection | None = None
        steps = detect(
            scan.volume,
            checkpoint,
            self.settings,
            scan.brain,
            partial=False,
            threads=self.threads,
        )
        with closing(steps):  # type: ignore[type-var]
            for progress in steps:
                if progress.result is not None:
                    result = progress.result
                elif progress.total:
                    yield self.step(words, progress.done / progress.total)
        self.done += 1
        return result


def _with(checkpoint: Checkpoint, detection: DetectionSpecification) -> Checkpoint:
    """Return a checkpoint with other defaults; norms that they do not name are dropped."""
    specification = checkpoint.specification.replace(detection=detection)
    keep = detection.healthy_norm is not None
    weights = checkpoint.weights if keep else checkpoint.network_weights
    return replace(checkpoint, specification=specification, weights=weights)


@dataclass(frozen=True, eq=False)
class _HealthyBrain:
    """A healthy brain as the model sees it.

    Attributes
    ----------
    map : HealthyMap
        The highest of all maps.
    error : float
        Of the reconstruction.
    distance : float
        Of the intensities; see `napari_addm.detection.quality.histogram_distance`.
    """

    scanner: str
    map: HealthyMap
    error: float
    distance: float


def _measure(checkpoint: Checkpoint, scan: LabelledScan, work: _Work) -> Steps:
    """Return a scan as a `_HealthyBrain`."""
    result = yield from work.detect(checkpoint, scan, f"{scan.group}: {scan.name}")
    prepared = prepare(scan.volume, checkpoint.specification.preparation, scan.brain)
    for flag in check_quality(prepared, checkpoint.specification).flags:
        if flag.is_unlike_training:
            yield FlaggedScan(scan.name, flag.message)
    brain = _HealthyBrain(
        scan.group,
        HealthyMap(result.highest, scan.brain, scan.volume.spacing),
        reconstruction_error(prepared, result),
        histogram_distance(prepared.intensity) or 0.0,
    )
    scan.forget()
    return brain


def _with_norm(checkpoint: Checkpoint, scans: Sequence[LabelledScan], work: _Work) -> Steps:
    """Measure the healthy norm; brightness counts in healthy standard deviations for now.

    Returns the `Checkpoint`.
    """
    groups = sorted({scan.group for scan in scans})
    specification = HealthyNormSpecification(
        share=SHARE,
        smoothing_mm=BRIGHTNESS_MM,
        erosion_mm=BRIGHTNESS_EROSION_MM,
        darker_unit=1.0,
        brighter_unit=1.0,
        brains=len(scans),
        source=", ".join(groups),
    )
    brains: dict[str, list[Any]] = {name: [] for name in MAP_PARTS}
    for scan in scans:
        result = yield from work.detect(checkpoint, scan, f"norm, {scan.group}: {scan.name}")
        for name, placed in result.places(specification).items():
            brains[name].append((scan.group, *placed))
        scan.forget()
    norms = {name: measure_norm(each) for name, each in brains.items()}
    detection = checkpoint.specification.detection.replace(healthy_norm=specification)
    weights = checkpoint.network_weights | to_tensors(norms)
    changed = checkpoint.specification.replace(detection=detection)
    return replace(checkpoint, specification=changed, weights=weights)


def _with_units(checkpoint: Checkpoint, scans: Sequence[LabelledScan], work: _Work) -> Steps:
    """Bring the maps of brightness to the units of the score.

    At the score's own threshold they mark nothing in any of the healthy brains. So they find what
    is far beyond healthy brightness.

    Returns the `Checkpoint`.
    """
    default = checkpoint.specification.detection
    assert default.healthy_norm is not None
    maps: dict[str, list[HealthyMap]] = {name: [] for name in MAP_PARTS}
    for scan in scans:
        result = yield from work.detect(checkpoint, scan, f"units, {scan.group}: {scan.name}")
        brightness = result.brightness.data
        parts = result.anomaly.data, np.maximum(-brightness, 0), np.maximum(brightness, 0)
        for name, part in zip(MAP_PARTS, parts, strict=True):
            maps[name].append(HealthyMap(part, scan.brain, scan.volume.spacing))
        scan.forget()
    yield work.step("units of the brightness")

    def threshold(name: str, ml: float, statistic: Callable[[np.ndarray], float]) -> float:
        least = default.minimum_ml
        found = threshold_by_false_alarms(maps[name], ml, minimum_ml=least, statistic=statistic)
        return max(found, 1e-6)

    own = threshold("structure", PROMISED_ML, healthy_bound)
    norm = default.healthy_norm.replace(
        **{
            f"{name}_unit": float(f"{own / threshold(name, 0.0, np.max):.4g}")
            for name in ("darker", "brighter")
        }
    )
    return _with(checkpoint, default.replace(healthy_norm=norm))


def _with_promise(
    checkpoint: Checkpoint, brains: Sequence[_HealthyBrain], promised_ml: float
) -> Checkpoint:
    """Set the threshold, what it promises, and which brains the promise is about."""
    detection = checkpoint.specification.detection
    maps, scanners = [brain.map for brain in brains], [brain.scanner for brain in brains]
    threshold = threshold_by_false_alarms(
        maps,
        promised_ml,
        minimum_ml=detection.minimum_ml,
        statistic=partial(healthy_bound, scanners=scanners),
    )
    threshold = float(np.ceil(threshold * 1e4) / 1e4)  # up, so that the promise holds
    curve = false_alarm_curve(
        maps,
        minimum_ml=detection.minimum_ml,
        range_ml=CURVE_ML,
        scanners=scanners,
        include=(threshold,),
    )
    alarms = _alarms(curve, Counter(scanners))
    detection = detection.replace(
        threshold=threshold,
        threshold_source=f"{alarms.in_words(threshold)} in {alarms.brains}, from "
        f"{len(brains)} brains of {', '.join(sorted(set(scanners)))}",
        false_alarms=alarms,
    )
    checkpoint = _with(checkpoint, detection)
    evaluation: dict[str, Any] = {
        "promise": _promise_by_scanner(curve, scanners, promised_ml),
        RECONSTRUCTION_KEY: healthy_range([brain.error for brain in brains]),
        INTENSITIES_KEY: healthy_limit([brain.distance for brain in brains]),
        SLICES_KEY: healthy_limit([max(brain.map.spacing) for brain in brains]),
    }
    specification = checkpoint.specification.replace(evaluation=evaluation)
    return replace(checkpoint, specification=specification)


def _alarms(curve: FalseAlarmCurve, scanners: Mapping[str, int]) -> FalseAlarmSpecification:
    return FalseAlarmSpecification(
        thresholds=tuple(round(t, 9) for t in curve.thresholds),
        mean_ml=tuple(round(ml, 3) for ml in curve.mean_ml),
        bound_ml=tuple(float(np.ceil(ml * 1e3 - 1e-6) / 1e3) for ml in curve.bound_ml),
        minimum_ml=curve.minimum_ml,
        subjects=curve.subjects,
        scanners=dict(scanners),
    )


def _promise_by_scanner(
    curve: FalseAlarmCurve, scanner_of: Sequence[str], promised_ml: float
) -> dict[str, dict[str, float]]:
    """Try the promise on brains that took no part in it.

    Each brain is judged by the threshold that all others give, and by the one that the brains of
    all other scanners give, as if its scanner were new.

    Returns
    -------
    dict of str to dict of str to float
        By scanner: the number of brains, how many keep the promise either way, and their largest
        volume, mL.
    """
    found, scanners = np.array(curve.found_ml), np.array(scanner_of)

    def judged(others: NDArray[np.bool_], brain: int) -> float:
        bounds = np.array(
            [healthy_bound(row, scanners[others].tolist()) for row in found[:, others]]
        )
        kept = np.flatnonzero(bounds <= promised_ml)
        return float(found[kept[0] if kept.size else -1, brain])

    table: dict[str, dict[str, float]] = {}
    for scanner in sorted(set(scanner_of)):
        mine = np.flatnonzero(scanners == scanner).tolist()
        alone = [judged(np.arange(len(scanners)) != brain, brain) for brain in mine]
        row = {"subjects": len(mine), "promised_ml": promised_ml}
        row |= {"kept": sum(ml <= promised_ml for ml in alone), "largest_ml": round(max(alone), 2)}
        elsewhere = scanners != scanner
        if elsewhere.any():
            new = [judged(elsewhere, brain) for brain in mine]
            row["kept_as_new_scanner"] = sum(ml <= promised_ml for ml in new)
            row["largest_ml_as_new_scanner"] = round(max(new), 2)
        table[scanner] = row
    return table


def _measure_labelled(
    checkpoint: Checkpoint, labelled: Sequence[LabelledScan], work: _Work
) -> Steps:
    """Measure a checkpoint on cases with a ground truth, at its own threshold.

    Returns their means as a dict of str to float.
    """
    from napari_addm.findings.computed import computed_labels

    default = checkpoint.specification.detection
    rows = []
    for scan in labelled:
        result = yield from work.detect(checkpoint, scan, f"{scan.group}: {scan.name}")
        labels = computed_labels(result, default.threshold, default.minimum_ml)
        ours = evaluate(
            result.highest,
            scan.lesion,
            threshold=default.threshold,
            mask=scan.brain,
            voxel_ml=scan.volume.voxel_ml,
            prediction=labels,
        )
        baselines = intensity_baselines(
            scan.volume,
            scan.brain,
            smoothing_mm=default.score.smoothing_mm,
            erosion_mm=default.score.erosion_mm,
        )
        lesion = scan.lesion[scan.brain]
        by_intensity = [SortedScores.of(map_[scan.brain], lesion) for map_ in baselines.values()]
        rows.append(
            {
                "prevalence": float(lesion.mean()),
                **{name: ours[name] or 0.0 for name in ("auprc", "auroc", "best_dice")},
                "dice_at_threshold": ours["dice"] or 0.0,
                "auprc_of_best_intensity_baseline": max(b.auprc or 0.0 for b in by_intensity),
            }
        )
        scan.forget()
    return {
        "cases": len(rows),
        **{name: round(float(np.mean([r[name] for r in rows])), 3) for name in rows[0]},
    }
