"""What is trained, and how: the settings that presets and the command line fill in."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny, model_validator

from napari_addm.checkpoint.specification import (
    DetectionSpecification,
    DiffusionSpecification,
    NetworkSpecification,
    Part,
    ScoreSpecification,
)
from napari_addm.registry import METHODS

SMALL: dict[str, Any] = {
    "preset": "small",
    "spacing_mm": (2.0, 1.75, 1.75),
    "size": (112, 96),
    "epochs": 300,
    "slices_per_volume": 10,
    "batch_size": 16,
    "ema": 0.999,
    "augment": True,
}
"""What the presets that train on a CPU share."""


class TrainingOptions(Part):
    """Training options that one method alone has; subclasses declare them as fields.

    Attributes
    ----------
    record_key : str
        Key of these options in a checkpoint's training record.
    """

    record_key: ClassVar[str] = "options"


class TrainingSettings(Part):
    """What is trained, and how.

    Attributes
    ----------
    preset : str
        The preset that these settings started from.
    method : str
        Name in `napari_addm.registry.METHODS`.
    spacing_mm, size : tuple
        Model grid: (z, y, x) in mm, and (height, width) of a slice.
    network : NetworkSpecification
        Of the class that the method declares.
    detection : DetectionSpecification
        The checkpoint's defaults for `napari_addm.detect`.
    diffusion : DiffusionSpecification or None
        None for methods without noise levels.
    options : TrainingOptions or None
        Of the class that the method declares, if it declares one.
    max_timestep : int or None
        Timesteps are drawn from 1..max_timestep in training; None for methods without noise
        levels. The training record calls it ``highest_level``.
    """

    preset: str
    method: str
    spacing_mm: tuple[float, float, float]
    size: tuple[int, int]
    network: SerializeAsAny[NetworkSpecification]
    detection: DetectionSpecification
    diffusion: DiffusionSpecification | None = None
    options: SerializeAsAny[TrainingOptions] | None = None
    max_timestep: int | None = Field(None, ge=1, alias="highest_level")
    epochs: int = Field(3000, ge=1, title="Epochs", description="Stop after this many epochs.")
    slices_per_volume: int = Field(
        1,
        ge=1,
        title="Slices per volume",
        description="Random slices that an epoch draws from every volume.",
    )
    batch_size: int = Field(4, ge=1, title="Batch size", description="Slices per iteration.")
    learning_rate: float = Field(
        1e-4, gt=0, le=1, title="Learning rate", description="Learning rate of the optimizers."
    )
    decay: float = Field(
        0.999, gt=0, le=1, title="Decay", description="Factor of the learning rate's decay."
    )
    decay_epochs: int = Field(
        200, ge=1, title="Decay epochs", description="Epochs between two decays."
    )
    ema: float = Field(
        0.9999,
        ge=0,
        lt=1,
        title="Moving average",
        description="Decay per iteration of the moving average of the weights, which is saved.",
    )
    clip: float = Field(
        1.0, gt=0, title="Clip", description="Largest gradient norm of an optimizer's weights."
    )
    augment: bool = Field(
        False, title="Augment", description="Random geometry, contrast, bias field and sharpness."
    )
    vary_contrast: bool = Field(
        True, title="Vary contrast", description="Whether to augment the contrast, too."
    )
    seed: int = Field(0, ge=0, title="Seed", description="Seed of all random numbers.")

    @model_validator(mode="after")
    def _fits_method(self) -> TrainingSettings:
        method = METHODS[self.method]
        if not isinstance(self.network, method.network):
            raise ValueError(f"the method {self.method} does not work with a {self.network.kind}")
        if not isinstance(self.options, method.options or type(None)):
            raise ValueError(f"the method {self.method} has other options")
        if (self.diffusion is not None, self.max_timestep is not None) != (
            method.noise_levels,
            method.noise_levels,
        ):
            verb = "needs" if method.noise_levels else "has neither"
            raise ValueError(f"the method {self.method} {verb} diffusion and max_timestep")
        return self

    def record(self) -> dict[str, Any]:
        """Return all that decides the trained weights as JSON, by the keys of checkpoints."""
        # The detection defaults are no part of the training.
        record = self.model_dump(mode="json", exclude={"detection"}, exclude_none=True)
        if self.options is None:
            return record
        return {
            self.options.record_key if key == "options" else key: value
            for key, value in record.items()
        }


ABSOLUTE_SCORE = ScoreSpecification(kind="absolute", smoothing_mm=6.0, erosion_mm=4.0)
"""The score of most small presets."""
STRUCTURE_SCORE = ScoreSpecification(
    kind="structure", smoothing_mm=6.0, erosion_mm=4.0, symmetry=True
)
"""The score of the small diffusion models."""


def uncalibrated(
    score: ScoreSpecification, level: int | None = None, **detection: Any
) -> DetectionSpecification:
    """Detection defaults of a model before its threshold is chosen."""
    return DetectionSpecification(
        level=level, score=score, threshold=0.1, threshold_source="not calibrated", **detection
    )
