"""What a training starts from, and what one run of it does. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from napari_addm.checkpoint.specification import Line
from napari_addm.errors import AddmError
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS


def preset_settings(
    method: str = "addm", preset: str = "small", timesteps: int = 1000
) -> TrainingSettings:
    """Return a preset of a method.

    Parameters
    ----------
    timesteps : int
        Length T of the chain, for methods with noise levels.

    Raises
    ------
    AddmError
        If there is no such method, or the method has no such preset.
    """
    presets = METHODS[method].presets(timesteps)
    if preset not in presets:
        raise AddmError(
            f"The method {method} has no preset {preset!r}; choose {', '.join(presets)}."
        )
    return presets[preset]


LEAST_HEALTHY = 5
"""Fewer healthy brains promise nothing that is worth saying."""
PROMISED_ML = 1.0
"""What the default threshold marks in 9 of 10 healthy brains at most, mL."""


class RunSettings(BaseModel):
    """How one run goes on with a training, and what its checkpoint says.

    Other than `~napari_addm.methods.settings.TrainingSettings`, these may change between
    the runs of one training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Path | None = Field(
        None,
        title="Split",
        description="JSON with the subjects in train and validation. Without it, a random tenth "
        "of the scans is for validation.",
    )
    iterations: int | None = Field(
        None,
        ge=1,
        title="Iterations",
        description="Stop after the epoch that reaches this many iterations, earlier runs "
        "included.",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        title="Minutes",
        description="Stop after the epoch that reaches this many minutes, earlier runs included.",
    )
    start_from: Path | None = Field(
        None,
        title="Start from",
        description="Checkpoint of the same kind with weights to start from (fine-tuning). A "
        "discriminator and the optimizers start new, and intensities are standardized to the new "
        "scans.",
    )
    name: Line | None = Field(None, title="Name", description="Name of the model on its card.")
    description: str = Field(
        "", max_length=20_000, title="Description", description="Text for the model's card."
    )
    licence: Line = Field("unspecified", title="Licence", description="Licence of the weights.")
    restart: bool = Field(
        False, title="Restart", description="Throw an earlier training of the output away."
    )
    cache: Path | None = Field(
        None,
        title="Cache",
        description="Folder for the prepared slices, so that trainings on the same scans share "
        "them. Without it, the folder beside the output.",
    )
    half: bool = Field(
        True, title="Half", description="Store float16 weights, which halves the file."
    )
    validate_every: int = Field(
        10,
        ge=1,
        title="Validate every",
        description="Epochs between validations; each validation writes the checkpoint.",
    )


@dataclass(frozen=True)
class Budget:
    """Limits of a training; the first one that is reached ends it."""

    epochs: int
    iterations: int | None = None
    minutes: float | None = None

    def progress(self, iterations: int, seconds: float, epochs: int) -> float:
        """Return the spent fraction, 0..1.

        Where iterations are given, seconds do not count, so that stages begin at the same
        iteration on every machine.
        """
        spent = epochs / self.epochs
        if self.iterations is not None:
            spent = max(spent, iterations / self.iterations)
        elif self.minutes is not None:
            spent = max(spent, seconds / (60.0 * self.minutes))
        return min(spent, 1.0)
