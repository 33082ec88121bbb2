"""Three ways to run a checkpoint: a quick look, its own defaults, and with more draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.registry import METHODS

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification

Preset = Literal["preview", "standard", "thorough"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

PREVIEW_STEPS = 10
"""By how much a preview divides the checkpoint's sampling steps."""

THOROUGH_DRAWS = 2
"""By how much a thorough run multiplies the checkpoint's draws."""


def with_preset(
    settings: DetectionSettings, preset: str, specification: ModelSpecification
) -> DetectionSettings:
    """Fill in what `settings` leave open as a preset has it; what they say wins.

    ``"standard"`` is what the checkpoint says. ``"preview"`` takes one draw, and a tenth of the
    steps, but at least one. ``"thorough"`` takes twice the draws: map and
    uncertainty vary less with the seed, but the map marks hardly better. More steps would not
    either. Where a method knows no draws or no steps, presets leave them alone.

    Parameters
    ----------
    preset : str
        One of `PRESETS`.
    specification : ModelSpecification
        Of the checkpoint that will run.

    Returns
    -------
    DetectionSettings
        None still means the checkpoint's own default.

    Raises
    ------
    AddmError
        If there is no such preset.
    """
    if preset not in PRESETS:
        raise AddmError(f"There is no preset {preset!r}; choose {', '.join(PRESETS)}.")
    default = specification.detection
    values: dict[str, Any] = {}
    if preset == "preview" and specification.diffusion is not None and default.level is not None:
        level = default.level if settings.level is None else settings.level
        values["steps"] = max(1, min(default.steps, level) // PREVIEW_STEPS)
    if METHODS[specification.method].random:
        if preset == "preview":
            values["draws"] = 1
        elif preset == "thorough":
            values["draws"] = THOROUGH_DRAWS * default.draws
    return settings.replace(**{k: v for k, v in values.items() if getattr(settings, k) is None})
