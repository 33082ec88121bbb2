"""Quality control: what tells a scan from those that a model was trained on.

A flag is no refusal: the map is made, and whoever reads it is told. What a checkpoint has no
figures for is not checked, and that is said, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm.detection.preparation import (
    LEAST_DEPTH_CONTRAST,
    PLAUSIBLE_BRAIN_ML,
    IntensityMap,
)
from napari_addm.detection.settings import uses_calibrated_settings
from napari_addm.io.checks import THICK_SLICE_MM

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification
    from napari_addm.detection.pipeline import Detection
    from napari_addm.detection.preparation import Slices
    from napari_addm.io.volume import Volume

MOST_HISTOGRAM_DISTANCE = 0.1
"""Of `histogram_distance`; the demo checkpoint's own kind of scans (20 of ds002748) reach .087 and
most stay below .06, the T1s of BraTS with their low contrast lie between .04 and .32."""

RECONSTRUCTION_KEY = "healthy_reconstruction_error"
"""Where `napari-addm calibrate` keeps the range of `reconstruction_error` in a checkpoint's
``evaluation``: a mapping with ``low``, ``high`` and ``subjects``."""

BEYOND_WARNINGS = ("intensities", "reconstruction")
"""The flags of which no warning of reading and preparing a scan tells."""

LABELS = {
    "brain_volume": "brain volume",
    "slice_thickness": "thick slices",
    "orientation": "left/right unknown",
    "contrast": "not like T1",
    "intensities": "intensities",
    "reconstruction": "reconstruction",
}
"""Every flag's key, and what it is called."""


@dataclass(frozen=True)
class Flag:
    """One way in which a scan differs from what the model knows.

    Attributes
    ----------
    key : str
        One of `LABELS`.
    message : str
        One sentence.
    value : float or None
        What was measured.
    low, high : float or None
        The range that would have passed.
    """

    key: str
    message: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Quality:
    """What `check_quality` found: flags, all figures, and what could not be checked."""

    flags: tuple[Flag, ...]
    figures: dict[str, float]
    unchecked: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said beside a detection's own warnings."""
        return tuple(
            f"unlike the training scans: {flag.message}"
            for flag in self.flags
            if flag.key in BEYOND_WARNINGS
        )

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "flags": [asdict(flag) for flag in self.flags],
            "figures": {key: round(value, 6) for key, value in self.figures.items()},
            "unchecked": list(self.unchecked),
        }


def check_quality(
    slices: Slices, specification: ModelSpecification, detection: Detection | None = None
) -> Quality:
    """Hold a prepared scan against what a model was trained on.

    Parameters
    ----------
    slices : Slices
        From `napari_addm.detection.preparation.prepare`.
    specification : ModelSpecification
        Of the checkpoint it was prepared for.
    detection : Detection, optional
        Of the whole scan; without it the reconstruction is not checked.

    Returns
    -------
    Quality
    """
    volume = slices.volume
    flags: list[Flag] = []
    unchecked: list[str] = []

    brain_ml = float(slices.brain_mask.sum()) * volume.voxel_ml
    low, high = PLAUSIBLE_BRAIN_ML
    figures = {"brain_ml": brain_ml, "slice_mm": max(volume.spacing)}
    if not low <= brain_ml <= high:
        text = f"the brain mask holds {brain_ml:.0f} mL, a brain {low:.0f} to {high:.0f}"
        flags.append(Flag("brain_volume", text, brain_ml, low, high))
    flags += grid_flags(volume)

    contrast = slices.depth_contrast
    if contrast is not None:
        figures["depth_contrast"] = contrast
        if contrast < LEAST_DEPTH_CONTRAST:
            text = "the deep brain is not brighter than its surface, as it is in T1"
            flags.append(Flag("contrast", text, contrast, LEAST_DEPTH_CONTRAST, None))
    distance = histogram_distance(slices.intensity)
    if distance is not None:
        figures["histogram_distance"] = distance
        if distance > MOST_HISTOGRAM_DISTANCE:
            text = (
                f"the intensities are distributed otherwise than in training: percentiles lie up "
                f"to {distance:.0%} of the range beside them"
            )
            flags.append(Flag("intensities", text, distance, None, MOST_HISTOGRAM_DISTANCE))

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
            text = (
                f"the brain at large is redrawn with an error of {error:.3f}, healthy brains with "
                f"{known[0]:.3f} to {known[1]:.3f}"
            )
            flags.append(Flag("reconstruction", text, error, *known))
    return Quality(tuple(flags), figures, tuple(unchecked))


def grid_flags(volume: Volume) -> list[Flag]:
    """What a scan's grid alone tells, as `napari_addm.io.reading.read_grid` reads it."""
    flags = []
    if max(volume.spacing) > THICK_SLICE_MM:
        text = f"voxels are {max(volume.spacing):.3g} mm apart, more than {THICK_SLICE_MM:g}"
        flags.append(Flag("slice_thickness", text, max(volume.spacing), None, THICK_SLICE_MM))
    if not volume.sides_known:
        flags.append(Flag("orientation", "the file does not say which side is left"))
    return flags


def histogram_distance(intensity: IntensityMap) -> float | None:
    """How far a scan's percentiles lie from a model's landmarks, both from 0 to 1.

    The intensity rule maps the one onto the other, so their shape alone tells whether the scan
    has the contrast of those that the model was trained on.

    Returns
    -------
    float or None
        The largest distance; None for a rule with no landmark between the two ends.
    """
    if len(intensity.source) < 3:
        return None
    return float(np.abs(_unit(intensity.source) - _unit(intensity.target)).max())


def _unit(knots: np.ndarray) -> np.ndarray:
    return (knots - knots[0]) / (knots[-1] - knots[0])


def reconstruction_error(slices: Slices, detection: Detection) -> float:
    """Median absolute difference of scan and reconstruction in the brain, in model values (0..1).

    The median, so that a lesion that fills less than half of a brain does not count.
    """
    brain = slices.brain_mask
    scan = slices.intensity.forward(slices.volume.data[brain])
    redrawn = slices.intensity.forward(detection.reconstruction.data[brain])
    return float(np.median(np.abs(scan - redrawn)))


def calibrated_range(specification: ModelSpecification) -> tuple[float, float] | None:
    """The range of `reconstruction_error` in healthy brains, if the checkpoint has it."""
    known = specification.evaluation.get(RECONSTRUCTION_KEY)
    if not isinstance(known, dict):
        return None
    low, high = known.get("low"), known.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not low <= high:
        return None
    return float(low), float(high)


def healthy_range(errors: Sequence[float]) -> dict[str, float | int]:
    """What a checkpoint keeps of the errors of healthy brains.

    Returns
    -------
    dict
        ``low`` and ``high``: the extremes, widened by half of their distance to either side,
        because a few brains do not show the whole range; ``subjects``.
    """
    low, high = min(errors), max(errors)
    margin = (high - low) / 2
    return {
        "low": round(max(0.0, low - margin), 5),
        "high": round(high + margin, 5),
        "subjects": len(errors),
    }
