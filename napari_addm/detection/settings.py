"""The settings of a detection: one model that the command line, the panel and the record share.

A new option is one field here. Its title and description are the panel's label and tooltip and the
command line's help; its bounds are checked wherever settings come from.
"""

from __future__ import annotations

from reprlib import repr as shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from napari_addm.errors import AddmError, describe_problem
from napari_addm.registry import METHODS, SamplerName, ScoreName

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification

DEVICES = ("auto", "cpu", "cuda", "mps", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

if TYPE_CHECKING:  # a type checker cannot follow names that are collected at run time
    Device: TypeAlias = str
    Precision: TypeAlias = str
else:
    Device, Precision = Literal[DEVICES], Literal[PRECISIONS]

CONTEXT_MM = 16.0
"""Default distance up to which single slices get reconstructed neighbors: beyond it, the Gaussians
of the scores have almost ended."""

LARGEST_MM = 100.0
"""Upper limit for smoothing and context: about half of a head."""


def _option(
    default: Any,
    title: str,
    description: str,
    *,
    panel: Literal["basic", "advanced", "hidden"] = "advanced",
    affects_scores: bool = False,
    unit: str = "",
    step: float | None = None,
    automatic: str = "",
    **bounds: float,
) -> Any:
    """Declare a field.

    Parameters
    ----------
    panel : str
        Where the panel shows the field.
    affects_scores : bool
        Whether another value gives other scores, so that a calibrated threshold does not hold.
    step : float, optional
        Of the panel's spin box.
    automatic : str
        What the panel shows for None, where the checkpoint has no default of its own.
    **bounds : float
        ``ge``, ``gt``, ``le`` or ``lt``.
    """
    extra: dict[str, Any] = {"panel": panel, "affects_scores": affects_scores}
    extra |= {"unit": unit} if unit else {}
    extra |= {} if step is None else {"step": step}
    extra |= {"automatic": automatic} if automatic else {}
    return Field(default, title=title, description=description, json_schema_extra=extra, **bounds)  # type: ignore[call-overload]


class DetectionSettings(BaseModel):
    """What a detection does. None means the checkpoint's own default.

    Raises
    ------
    AddmError
        If a value is out of bounds; one sentence that names the setting.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int | None = _option(
        None,
        "Sampling steps",
        "Number of network calls from the noise level to the clean image.",
        panel="basic",
        affects_scores=True,
        ge=1,
        le=100_000,
    )
    level: int | None = _option(
        None,
        "Noise level",
        "Timestep t up to which noise is added. More noise removes larger lesions, and more of "
        "the healthy anatomy.",
        panel="basic",
        affects_scores=True,
        ge=1,
        le=100_000,
    )
    sampler: SamplerName | None = _option(
        None,
        "Sampler",
        "How the network's predictions lead back to a clean image. DPM++ is derived for Gaussian "
        "noise.",
        panel="basic",
        affects_scores=True,
    )
    eta: float | None = _option(
        None,
        "DDIM eta",
        "Randomness of the DDIM sampler: 0 is deterministic, 1 is as random as DDPM.",
        affects_scores=True,
        step=0.1,
        ge=0.0,
        le=1.0,
    )
    seed: int = _option(
        0,
        "Seed",
        "Seed of the noise. The same seed, scan and settings give the same result.",
        ge=0,
        le=2**63 - 1,
    )
    draws: int | None = _option(
        None,
        "Noise draws",
        "Number of reconstructions from independent noise. Their mean is the result; with 2 or "
        "more, their spread gives an uncertainty map.",
        panel="basic",
        affects_scores=True,
        ge=1,
        le=1000,
    )
    device: Device = _option(
        "auto",
        "Device",
        "Where the network runs. auto takes CUDA, else MPS, else the CPU; openvino is a faster "
        "engine on the CPU.",
        panel="basic",
    )
    precision: Precision = _option(
        "auto",
        "Precision",
        "Number format of the network. auto takes bfloat16 where the device computes in it, else "
        "float16 on CUDA, else float32.",
    )
    batch_size: int | None = _option(
        None,
        "Batch size",
        "Number of slices per network call; each draw counts as one. It is halved when memory "
        "runs out.",
        automatic="automatic",
        ge=1,
        le=65_536,
    )
    slices: Annotated[tuple[int, ...], Field(fail_fast=True)] | None = _option(
        None,
        "Slices",
        "Reconstruct only these slices, counted from 0, inferior to superior.",
        panel="hidden",
        affects_scores=True,
    )
    context_mm: float = _option(
        CONTEXT_MM,
        "Context",
        "Distance on both sides of single slices within which neighbors are reconstructed for "
        "their score.",
        panel="hidden",
        unit="mm",
        ge=0.0,
        le=LARGEST_MM,
    )
    score: ScoreName | None = _option(
        None, "Score", "How scan and reconstruction are compared.", affects_scores=True
    )
    smoothing_mm: float | None = _option(
        None,
        "Smoothing",
        "Standard deviation of the Gaussian that smooths the score.",
        affects_scores=True,
        unit="mm",
        step=0.5,
        ge=0.0,
        le=LARGEST_MM,
    )
    symmetry: bool | None = _option(
        None,
        "Compare left with right",
        "Subtract what both halves of the brain show alike.",
        affects_scores=True,
    )
    healthy_norm: bool | None = _option(
        None,
        "Compare with healthy brains",
        "Compare every place with healthy brains, and add what is darker or brighter than they "
        "are. It fits the checkpoint's own score and smoothing.",
        affects_scores=True,
    )

    regions: bool = _option(
        True,
        "Name regions",
        "Name the regions of the brain that findings lie in, after a registration to an atlas.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_words(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            field = cls.model_fields.get(str(first["loc"][0])) if first["loc"] else None
            title = name if field is None or field.title is None else f"{field.title} ({name})"
            raise AddmError(
                f"{title} cannot be {shorten(first['input'])}: {describe_problem(first)}."
            ) from error

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, checked.

        Raises
        ------
        AddmError
            If a value is out of bounds.
        """
        return type(self)(**{**dict(self), **changes})


SCORE_FIELDS = tuple(
    name
    for name, field in DetectionSettings.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["affects_scores"]
)
"""The settings on which scores depend."""


def resolve(settings: DetectionSettings, specification: ModelSpecification) -> DetectionSettings:
    """Fill in a checkpoint's defaults, and check the settings against it.

    Raises
    ------
    AddmError
        One sentence that names the setting and its range.
    """
    default, method = specification.detection, specification.method
    defaults = {
        "sampler": default.sampler,
        "eta": default.eta,
        "draws": default.draws,
        "score": default.score.kind,
        "smoothing_mm": default.score.smoothing_mm,
        "symmetry": default.score.symmetry,
        "healthy_norm": has_norm(settings, specification),
        **_resolve_noise_level(settings, specification),
    }
    if settings.draws is not None and settings.draws > 1 and not METHODS[method].random:
        raise AddmError(
            f"The method {method} of this checkpoint draws no noise, so that every draw would be "
            "the same; use 1."
        )
    if settings.healthy_norm and not has_norm(settings, specification):
        raise AddmError(
            "This checkpoint has no healthy norm for this score and smoothing; leave them at its "
            "own, or do not compare with healthy brains."
        )
    if settings.device == "openvino" and not METHODS[method].openvino:
        raise AddmError(
            f"The method {method} of this checkpoint does not run on OpenVINO; choose another "
            "device."
        )
    filled = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    if default.healthy_norm is None:
        filled["healthy_norm"] = None  # to ask for no comparison changes nothing
    return settings.replace(**filled)


def has_norm(settings: DetectionSettings, specification: ModelSpecification) -> bool | None:
    """Tell whether the checkpoint's healthy norm fits the settings; None if it has none."""
    score = specification.detection.score
    if specification.detection.healthy_norm is None:
        return None
    return settings.score in (None, score.kind) and settings.smoothing_mm in (
        None,
        score.smoothing_mm,
    )


def _resolve_noise_level(
    settings: DetectionSettings, specification: ModelSpecification
) -> dict[str, int]:
    """Return the defaults for noise level and sampling steps, and check those of the settings."""
    default, method = specification.detection, specification.method
    if specification.diffusion is None or default.level is None:
        if settings.level is not None or settings.steps not in (None, 1):
            raise AddmError(
                f"The method {method} of this checkpoint has no noise level and no sampling "
                "steps; leave them out."
            )
        return {"steps": 1}
    length = specification.diffusion.timesteps
    level = default.level if settings.level is None else settings.level
    if level > length:
        raise AddmError(f"The noise level {level} is not within 1..{length} of this checkpoint.")
    if settings.steps is not None and settings.steps > level:
        raise AddmError(
            f"{settings.steps} sampling steps do not fit a noise level of {level}: 1..{level}."
        )
    return {"level": level, "steps": min(default.steps, level)}


def uncalibrated_settings(
    settings: DetectionSettings, specification: ModelSpecification
) -> tuple[str, ...]:
    """Return the settings on which scores depend and that are not the checkpoint's own."""
    used = resolve(settings, specification)
    own = resolve(DetectionSettings(), specification)
    return tuple(name for name in SCORE_FIELDS if getattr(used, name) != getattr(own, name))


def uses_calibrated_settings(
    settings: DetectionSettings, specification: ModelSpecification
) -> bool:
    """Tell whether what a checkpoint's calibration says holds for a run with these settings."""
    return not uncalibrated_settings(settings, specification)
