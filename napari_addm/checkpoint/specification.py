"""The specification of a model: all that is needed to use a checkpoint, checked strictly.

A checkpoint's header holds it as JSON. What a method needs to know of its network is declared in
the method's folder.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import cache
from itertools import pairwise
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    create_model,
    field_validator,
    model_validator,
)

from napari_addm.registry import (
    METHODS,
    NOISES,
    SAMPLERS,
    SCORES,
    NoiseName,
    SamplerName,
    ScoreName,
)

SCHEMA_VERSION = 1
MAP_PARTS = ("structure", "darker", "brighter")
"""The maps that an anomaly map is made of where a checkpoint has healthy norms."""
LEAST_SUBJECTS = 9
"""Number of healthy brains from which a bound holds in 9 of 10."""
FIRST_METHOD = "addm"
"""Method of the first checkpoints; their headers name none."""

ScoreKind = Annotated[ScoreName, BeforeValidator(SCORES.check)]
SamplerKind = Annotated[SamplerName, BeforeValidator(SAMPLERS.check)]
NoiseKind = Annotated[NoiseName, BeforeValidator(NOISES.check)]
Millimetres = Annotated[float, Field(ge=0.1, le=20)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Part(BaseModel):
    """Part of a specification: immutable, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        # Files may call a field by another name than the code.
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, checked as a whole."""
        return type(self)(**{**dict(self), **changes})


class NetworkSpecification(Part):
    """Shape of a network. A method declares its own subclass with its own ``kind``."""

    kind: str

    @property
    def divisor(self) -> int:
        """Number that height and width of a slice must be multiples of."""
        raise NotImplementedError


class PreparationSpecification(Part):
    """How a scan becomes the slices that the network takes.

    Attributes
    ----------
    spacing_mm : (z, y, x)
        Voxel size of the model grid; its axes are the world's S, A, R.
    size : (height, width)
        Pixels of one axial slice.
    percentiles, landmarks : tuple of float
        The intensity rule: the scan's percentiles inside the brain mask are mapped to these
        landmarks, linearly between them (Nyul and Udupa, 1999). Landmarks lie in 0..1; the network
        sees ``2 * value - 1`` and air as -1.
    """

    orientation: Literal["axial"] = "axial"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    size: tuple[Annotated[int, Field(ge=8, le=1024)], Annotated[int, Field(ge=8, le=1024)]]
    percentiles: tuple[float, ...]
    landmarks: tuple[float, ...]

    @model_validator(mode="after")
    def _rising(self) -> PreparationSpecification:
        for name in ("percentiles", "landmarks"):
            values = getattr(self, name)
            if not 2 <= len(values) <= 101:
                raise ValueError(f"{name} needs 2 to 101 values")
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must rise")
        if len(self.percentiles) != len(self.landmarks):
            raise ValueError("percentiles and landmarks differ in number")
        if self.percentiles[0] < 0 or self.percentiles[-1] > 100:
            raise ValueError("percentiles lie between 0 and 100")
        if self.landmarks[0] < 0 or self.landmarks[-1] > 1:
            raise ValueError("landmarks lie between 0 and 1")
        return self


class DiffusionSpecification(Part):
    """The chain that the network was trained on.

    Attributes
    ----------
    timesteps : int
        Length T of the chain; betas are linear, scaled by 1000/T. Files call it ``length``.
    noise : str
        Kind of noise in training and sampling.
    noise_sd : float
        Standard deviation of the noise at a pixel. AnoDDPM's own simplex noise has 0.48.
    """

    timesteps: Annotated[int, Field(alias="length", ge=21, le=100_000)]
    betas: Literal["linear"] = "linear"
    noise: NoiseKind
    noise_sd: Annotated[float, Field(gt=0, le=10)] = 1.0
    prediction: Literal["noise"] = "noise"


class ScoreSpecification(Part):
    """How residuals become an anomaly map; see `napari_addm.detection.scoring`.

    Attributes
    ----------
    symmetry : bool
        Whether to discount scores that both halves of the brain have; see
        `napari_addm.detection.symmetry`.
    """

    kind: ScoreKind
    smoothing_mm: Annotated[float, Field(ge=0, le=100)]
    erosion_mm: Annotated[float, Field(ge=0, le=50)]
    symmetry: bool = False


class HealthyNormSpecification(Part):
    """How the maps are compared with those of healthy brains at the same place.

    The norms themselves are tensors of the checkpoint; see
    `napari_addm.detection.healthy_norm`. Two maps of brightness join the score's own map. They
    come from the same reconstruction, and count in units of that score, so that one threshold fits
    all three; see `napari_addm.detection.brightness`.

    Attributes
    ----------
    share : float
        Share of the healthy mean that is subtracted from the score.
    smoothing_mm, erosion_mm : float
        Of the maps of brightness.
    darker_unit, brighter_unit : float
        Score for one healthy standard deviation of brightness.
    brains : int
        Number of healthy brains.
    source : str
        Where they come from.
    """

    share: Annotated[float, Field(ge=0, le=1)]
    smoothing_mm: Annotated[float, Field(ge=0, le=100)]
    erosion_mm: Annotated[float, Field(ge=0, le=50)]
    darker_unit: Annotated[float, Field(gt=0, le=1000)]
    brighter_unit: Annotated[float, Field(gt=0, le=1000)]
    brains: Count
    source: Line


def describe_share(subjects: int) -> str:
    """Say for how many brains a bound from so many healthy ones holds, such as ``"9 of 10"``."""
    return "9 of 10" if subjects >= LEAST_SUBJECTS else f"{subjects} of {subjects + 1}"


class FalseAlarmSpecification(Part):
    """The volume that a model marks in healthy brains, by threshold.

    Attributes
    ----------
    thresholds, mean_ml : tuple of float
        Rising thresholds, and the mean volume per brain of findings above each,
        in mL; it never rises.
    bound_ml : tuple of float or None
        The volume that at most one in ten healthy brains exceeds; see
        `napari_addm.metrics.thresholds.healthy_bound`. None where only the mean is known.
    minimum_ml : float
        Smallest finding that counts, mL.
    subjects : int
        Number of healthy brains, none of them from the training.
    scanners : dict of str to int
        Number of brains from each scanner.
    """

    thresholds: tuple[float, ...] = Field(min_length=1, max_length=1000)
    mean_ml: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1, max_length=1000)
    bound_ml: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(None, max_length=1000)
    minimum_ml: Annotated[float, Field(ge=0)]
    subjects: Count
    scanners: dict[Line, Count] = Field(default_factory=dict, max_length=1000)

    @model_validator(mode="after")
    def _monotone(self) -> FalseAlarmSpecification:
        if any(b <= a for a, b in pairwise(self.thresholds)):
            raise ValueError("thresholds must rise")
        for name in ("mean_ml", "bound_ml"):
            volumes = getattr(self, name)
            if volumes is None:
                continue
            if len(self.thresholds) != len(volumes):
                raise ValueError(f"thresholds and {name} differ in number")
            if any(b > a for a, b in pairwise(volumes)):
                raise ValueError(f"{name} must not rise")
        return self

    @property
    def promised(self) -> tuple[float, ...]:
        """What is promised at each threshold: the bound, or the mean where there is none, mL."""
        return self.mean_ml if self.bound_ml is None else self.bound_ml

    @property
    def brains(self) -> str:
        """Whom the promise is about, such as ``"9 of 10 healthy brains"`` of each scanner."""
        if self.bound_ml is None:
            return "a healthy brain"
        fewest = min(self.scanners.values(), default=self.subjects)
        return f"{describe_share(fewest)} healthy brains"

    def promised_ml(self, threshold: float) -> float:
        """The promised volume above a threshold, mL.

        A mean is linear between the measured thresholds. A bound is that of the next lower one, so
        that it holds. Beyond the measured thresholds it is the nearest one's.
        """
        place, promised = bisect_right(self.thresholds, threshold), self.promised
        if place and self.bound_ml is not None:
            return promised[place - 1]
        if place == 0 or place == len(self.thresholds):
            return promised[min(place, len(promised) - 1)]
        low, high = self.thresholds[place - 1 : place + 1]
        share = (threshold - low) / (high - low)
        return promised[place - 1] + share * (promised[place] - promised[place - 1])

    def threshold_for(self, promised_ml: float) -> float | None:
        """The lowest threshold that keeps a promise: the inverse of `promised_ml`.

        Parameters
        ----------
        promised_ml : float
            As `promised_ml` gives it, mL.

        Returns
        -------
        float or None
            None where even the highest measured threshold marks more.
        """
        for place, (threshold, ml) in enumerate(zip(self.thresholds, self.promised, strict=True)):
            if ml <= promised_ml:
                if place == 0 or self.bound_ml is not None:
                    return threshold
                low, more = self.thresholds[place - 1], self.promised[place - 1]
                return low + (threshold - low) * (more - promised_ml) / (more - ml)
        return None

    def in_words(self, threshold: float) -> str:
        """`promised_ml` in words, such as ``at most 2.5 mL``; it goes on with *in* and `brains`."""
        promised = self.promised_ml(threshold)
        if threshold < self.thresholds[0]:
            return f"more than {promised:.0f} mL"
        if threshold > self.thresholds[-1] or promised < 0.05:
            return f"less than {max(promised, 0.1):.1f} mL"
        digits = 0 if promised >= 10 else 1
        if self.bound_ml is None:
            return f"about {promised:.{digits}f} mL"
        up = ceil(round(promised * 10**digits, 6)) / 10**digits  # or it would not be a bound
        return f"at most {up:.{digits}f} mL"


class DetectionSpecification(Part):
    """Defaults of ``detect``.

    Attributes
    ----------
    level : int or None
        Noise level; None for methods without noise levels, with ``steps`` 1.
    healthy_norm : HealthyNormSpecification or None
        None where scores are not compared with healthy brains. It holds for this score alone.
    false_alarms : FalseAlarmSpecification or None
        Valid for these defaults alone: another level, score or number of draws shifts the scores.
    """

    level: Count | None = None
    steps: Count = 1
    sampler: SamplerKind = "ddim"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    score: ScoreSpecification
    healthy_norm: HealthyNormSpecification | None = None
    threshold: float
    threshold_source: Line
    minimum_ml: Annotated[float, Field(ge=0)] = 0.5
    false_alarms: FalseAlarmSpecification | None = None


class ModelSpecification(Part):
    """All that is needed to use a checkpoint, and to know where it comes from.

    Attributes
    ----------
    method : str
        Name in `napari_addm.registry.METHODS`.
    network : NetworkSpecification
        Of the class that the method declares.
    diffusion : DiffusionSpecification or None
        None for methods without noise levels.
    training : dict
        The record of the training: preset, objective, seed, iterations,
        seconds, hardware, data and its hash, library versions.
    evaluation : dict
        Figures measured with this checkpoint, each with its data set.
    weights_sha256 : str
        Hash over the bytes of the tensors, in the file's order.
    """

    schema_version: Literal[1] = 1
    method: str
    name: Line
    description: Annotated[str, Field(max_length=20_000)] = ""
    licence: Line = "unspecified"
    network: SerializeAsAny[NetworkSpecification]
    diffusion: DiffusionSpecification | None = None
    preparation: PreparationSpecification
    detection: DetectionSpecification
    training: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @field_validator("method")
    @classmethod
    def _installed(cls, method: str) -> str:
        return METHODS.check(method)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpecification:
        method = METHODS[self.method]
        if not isinstance(self.network, method.network):
            raise ValueError(f"the method {self.method} does not work with a {self.network.kind}")
        if method.noise_levels:
            if self.diffusion is None or self.detection.level is None:
                raise ValueError(f"the method {self.method} needs diffusion and detection.level")
            if self.detection.level > self.diffusion.timesteps:
                raise ValueError("detection.level lies beyond diffusion.length")
            if self.detection.steps > self.detection.level:
                raise ValueError("detection.steps exceeds detection.level")
        elif self.diffusion is not None or self.detection.level is not None:
            raise ValueError(f"the method {self.method} has neither diffusion nor detection.level")
        divisor = self.network.divisor
        if any(n % divisor for n in self.preparation.size):
            raise ValueError(f"preparation.size must be multiples of {divisor} for this network")
        return self


def parse_specification(found: object) -> ModelSpecification:
    """Check what a header holds against the specification of the method that it names.

    Parameters
    ----------
    found : object
        JSON, parsed.

    Raises
    ------
    pydantic.ValidationError
        If it is not valid. The check is strict: a number in quotes is not a number.
    """
    network = None
    if isinstance(found, dict):
        found = {"method": FIRST_METHOD, **found}
        if found["method"] in METHODS:
            network = METHODS[found["method"]].network
    checked = _specification_of(network).model_validate_json(
        json.dumps(found), strict=True, by_alias=True, by_name=False
    )
    return ModelSpecification(**dict(checked))


@cache
def _specification_of(network: type[NetworkSpecification] | None) -> type[ModelSpecification]:
    """The specification of methods with one class of network; None for unknown ones."""
    field: Any = (Any if network is None else network, ...)
    return create_model("ModelSpecification", __base__=ModelSpecification, network=field)
