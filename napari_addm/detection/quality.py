"""Quality control: differences between a scan and those that a model was trained on.

A flag does not stop a detection; it informs the reader of the map. Checks for which a checkpoint
has no figures are listed as unchecked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm.detection.brain_mask import PLAUSIBLE_BRAIN_ML, unlikely_size
from napari_addm.detection.preparation import (
    LEAST_DEPTH_CONTRAST,
    NOT_T1,
    HistogramStandardization,
)
from napari_addm.detection.settings import uses_calibrated_settings
from napari_addm.io.checks import THICK_SLICE_MM, thick_slices
from napari_addm.io.contrast import OTHER_SCAN
from napari_addm.io.remarks import Kind, Remark, note
from napari_addm.io.volume import GRID_OF_LAYER, UNKNOWN_DIRECTIONS, UNKNOWN_SIDES

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification
    from napari_addm.detection.maps import Detection
    from napari_addm.detection.preparation import ModelSlices
    from napari_addm.io.volume import Volume

MOST_HISTOGRAM_DISTANCE = 0.1
"""Largest `histogram_distance` without a flag. 20 scans of ds002748, like those that the demo
checkpoint was trained on, reach 0.087, most of them 0.06; the low-contrast T1 scans of BraTS have
0.04 to 0.32."""

RECONSTRUCTION_KEY = "healthy_reconstruction_error"
"""Key in a checkpoint's ``evaluation`` under which `napari-addm calibrate` stores the range of
`reconstruction_error`: a mapping with ``low``, ``high`` and ``subjects``."""

INTENSITIES_KEY = "healthy_histogram_distance"
SLICES_KEY = "healthy_slice_mm"
"""Keys under which it stores the largest `histogram_distance` and distance of slices in those
brains: mappings with ``high`` and ``subjects``."""

FLAG_TITLES = {
    "brain_volume": "brain volume",
    "slice_thickness": "thick slices",
    "orientation": "left/right unknown",
    "other_scan": "not named T1",
    "contrast": "not like T1",
    "anatomy": "not like a T1 brain",
    "contrast_agent": "contrast agent",
    "intensities": "intensities",
    "reconstruction": "reconstruction",
}
"""Title of every flag, by key."""

ALARMS = ("other_scan", "contrast", "anatomy")
"""The flags of scans whose map is not to be trusted; the others are cautions."""


EXPLAINED = ("intensities", "reconstruction")
"""The cautions that an alarm explains."""


@dataclass(frozen=True)
class QualityFlag:
    """A difference between a scan and the training scans.

    Attributes
    ----------
    key : str
        One of `FLAG_TITLES`.
    message : str
        One sentence in plain words.
    value : float or None
        The measured figure.
    low, high : float or None
        The range that passes.
    detail : str
        The figures in words.
    """

    key: str
    message: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    detail: str = ""

    @property
    def kind(self) -> Kind:
        """How much it weighs."""
        return Kind.ALARM if self.key in ALARMS else Kind.CAUTION

    @property
    def remark(self) -> Remark:
        """The sentence with its weight."""
        return Remark(self.message, self.kind, self.detail)

    @property
    def is_unlike_training(self) -> bool:
        """Whether what was measured in healthy brains says nothing about this scan."""
        return self.key != "orientation"


def flag_remarks(flags: Sequence[QualityFlag]) -> tuple[Remark, ...]:
    """Return flags as sentences; beside an alarm, that the scan looks different is no news."""
    alarmed = any(flag.kind is Kind.ALARM for flag in flags)
    return tuple(
        note(flag.message, flag.detail) if alarmed and flag.key in EXPLAINED else flag.remark
        for flag in flags
    )


@dataclass(frozen=True)
class Quality:
    """Result of `check_quality`: flags, all figures, and the checks that were not possible.

    Attributes
    ----------
    covered : tuple of QualityFlag
        Flags that the brains of the calibration had as well: what was measured in them holds.
    """

    flags: tuple[QualityFlag, ...]
    figures: dict[str, float]
    unchecked: tuple[str, ...]
    covered: tuple[QualityFlag, ...] = ()

    @property
    def unlike_training(self) -> tuple[QualityFlag, ...]:
        """The flags that say that what was measured in healthy brains does not hold here."""
        return tuple(
            flag for flag in self.flags if flag.is_unlike_training and flag not in self.covered
        )

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The flags as sentences, to show with a detection's own warnings."""
        return flag_remarks(self.flags)

    def record(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "flags": [asdict(flag) for flag in self.flags],
            "figures": {key: round(value, 6) for key, value in self.figures.items()},
            "unchecked": list(self.unchecked),
        }


def check_quality(
    slices: ModelSlices, specification: ModelSpecification, detection: Detection | None = None
) -> Quality:
    """Compare a prepared scan with the scans that a model was trained on.

    Parameters
    ----------
    slices : ModelSlices
        From `napari_addm.detection.preparation.prepare`.
    specification : ModelSpecification
        Specification of the checkpoint.
    detection : Detection, optional
        Result for the whole scan; without it the reconstruction is not checked.
    """
    volume = slices.volume
    flags: list[QualityFlag] = []
    unchecked: list[str] = []

    brain_ml = float(slices.brain_mask.sum()) * volume.voxel_ml
    figures = {"brain_ml": brain_ml, "slice_mm": max(volume.spacing)}
    if (problem := unlikely_size(brain_ml)) is not None:
        flags.append(QualityFlag("brain_volume", str(problem), brain_ml, *PLAUSIBLE_BRAIN_ML))
    flags += grid_flags(volume)

    contrast = slices.depth_contrast
    if contrast is not None:
        figures["depth_contrast"] = contrast
        if contrast < LEAST_DEPTH_CONTRAST:
            limits = LEAST_DEPTH_CONTRAST, None
            flags.append(QualityFlag("contrast", str(NOT_T1), contrast, *limits, NOT_T1.detail))
    distance = histogram_distance(slices.intensity)
    if distance is not None:
        figures["histogram_distance"] = distance
        usual = max(MOST_HISTOGRAM_DISTANCE, _highest(specification, INTENSITIES_KEY))
        if distance > usual:
            flags += _intensity_flags(distance, usual, detection)

    known = calibrated_range(specification)
    if known is None:
        unchecked.append("reconstruction: the checkpoint has no range of healthy brains")
    elif detection is None or not detection.done.all():
        unchecked.append("reconstruction: not all slices were reconstructed")
    elif not uses_calibrated_settings(detection.settings, specification):
        unchecked.append("reconstruction: the range is for the checkpoint's own settings")
    else:
        error = reconstruction_error(slices, detection)
        figures["reconstruction_error"] = error
        if not known[0] <= error <= known[1]:
            flags.append(_reconstruction_flag(error, *known))
    thickest = _highest(specification, SLICES_KEY)
    covered = [f for f in flags if f.key == "slice_thickness" and (f.value or 0) <= thickest]
    return Quality(tuple(flags), figures, tuple(unchecked), tuple(covered))


def _intensity_flags(
    distance: float, usual: float, detection: Detection | None
) -> Iterator[QualityFlag]:
    """Flag a scan with other intensities than the training's, and one that also looks otherwise."""
    regions = None if detection is None else detection.regions
    if regions is not None and regions.is_other_anatomy:
        text = (
            "Neither the anatomy nor the intensities of the scan are those of a T1-weighted brain."
        )
        yield QualityFlag("anatomy", text)
    yield QualityFlag(
        "intensities",
        "This scan looks different from the training scans: expect more false alarms.",
        distance,
        None,
        usual,
        f"percentiles of its intensities lie up to {distance:.0%} of their range beside those of "
        f"the training, and up to {usual:.0%} is usual",
    )


def _reconstruction_flag(error: float, low: float, high: float) -> QualityFlag:
    """Flag a brain that the model redraws otherwise than healthy brains."""
    worse = error > high
    text = (
        "The model redraws this brain less well than healthy ones: expect more false alarms."
        if worse
        else "The model redraws this brain more closely than healthy ones: expect misses."
    )
    detail = (
        f"the brain at large is redrawn with an error of {error:.3f}, healthy brains with "
        f"{low:.3f} to {high:.3f}"
    )
    return QualityFlag("reconstruction", text, error, low, high, detail)


def grid_flags(volume: Volume) -> list[QualityFlag]:
    """Check a scan's grid and name alone, as `napari_addm.io.reading.read_grid` reads it."""
    flags = []
    if max(volume.spacing) > THICK_SLICE_MM:
        text = str(thick_slices(max(volume.spacing)))
        flags.append(
            QualityFlag("slice_thickness", text, max(volume.spacing), None, THICK_SLICE_MM)
        )
    if not volume.sides_known:
        said = (each for each in (UNKNOWN_DIRECTIONS, GRID_OF_LAYER) if each in volume.warnings)
        flags.append(QualityFlag("orientation", str(next(said, UNKNOWN_SIDES))))
    if OTHER_SCAN in volume.warnings:
        flags.append(QualityFlag("other_scan", str(OTHER_SCAN)))
    if volume.contrast.is_suspect:
        was = "was" if volume.contrast.agent == "with" else "may have been"
        text = f"The scan {was} made with contrast agent, which the model does not know."
        flags.append(QualityFlag("contrast_agent", text, detail=volume.contrast.reason))
    return flags


def histogram_distance(intensity: HistogramStandardization) -> float | None:
    """Return the largest distance of a scan's percentiles from a model's landmarks, both in 0..1.

    The intensity rule maps one onto the other, so that their spacing shows whether the scan has the
    contrast of the training scans.

    Returns
    -------
    float or None
        None for a rule without a landmark between the two ends.
    """
    if len(intensity.source) < 3:
        return None
    return float(np.abs(_unit(intensity.source) - _unit(intensity.target)).max())


def _unit(knots: np.ndarray) -> np.ndarray:
    return (knots - knots[0]) / (knots[-1] - knots[0])


def reconstruction_error(slices: ModelSlices, detection: Detection) -> float:
    """Return the median absolute difference of scan and reconstruction in the brain, 0..1.

    The median ignores lesions that fill less than half of the brain.
    """
    brain = slices.brain_mask
    scan = slices.intensity.forward(slices.volume.data[brain])
    redrawn = slices.intensity.forward(detection.reconstruction.data[brain])
    return float(np.median(np.abs(scan - redrawn)))


def calibrated_range(specification: ModelSpecification) -> tuple[float, float] | None:
    """Return the range of `reconstruction_error` in healthy brains, if the checkpoint has it."""
    known = specification.evaluation.get(RECONSTRUCTION_KEY)
    if not isinstance(known, dict):
        return None
    low, high = known.get("low"), known.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not low <= high:
        return None
    return float(low), float(high)


def _highest(specification: ModelSpecification, key: str) -> float:
    """The largest value of the brains that a checkpoint was calibrated on; 0 if it has none."""
    known = specification.evaluation.get(key)
    high = known.get("high") if isinstance(known, dict) else None
    return float(high) if isinstance(high, int | float) else 0.0


def healthy_limit(values: Sequence[float]) -> dict[str, float | int]:
    """Summarize a figure of healthy brains for a checkpoint by its largest value."""
    return {"high": math.ceil(max(values) * 1e4) / 1e4, "subjects": len(values)}


def healthy_range(errors: Sequence[float]) -> dict[str, float | int]:
    """Summarize the errors of healthy brains for a checkpoint.

    Returns
    -------
    dict
        ``low`` and ``high``, the extremes widened by half of their distance to either side because
        a few brains do not show the whole range; ``subjects``.
    """
    low, high = min(errors), max(errors)
    margin = (high - low) / 2
    return {
        "low": round(max(0.0, low - margin), 5),
        "high": round(high + margin, 5),
        "subjects": len(errors),
    }
