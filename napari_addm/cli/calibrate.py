"""``napari-addm calibrate``: a model's threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from napari_addm.cli._common import OutputFolder, print_json, print_line, print_result
from napari_addm.errors import AddmError
from napari_addm.registry import ScoreName
from napari_addm.training.settings import RunSettings


@Parameter(name="*")
@dataclass(frozen=True)
class NewDefaults:
    """What becomes the checkpoint's default; its own stays where nothing is given.

    Attributes
    ----------
    level
        Noise level.
    steps
        Sampling steps.
    draws
        Noise draws.
    score
        How scan and reconstruction are compared.
    smoothing_mm
        Smoothing of the score, in mm.
    erosion_mm
        Distance from the brain's edge within which nothing is scored, in mm.
    symmetry
        Subtract what both halves of the brain show alike.
    """

    level: int | None = None
    steps: int | None = None
    draws: int | None = None
    score: ScoreName | None = None
    smoothing_mm: float | None = None
    erosion_mm: float | None = None
    symmetry: bool | None = None


def calibrate(
    model: Path,
    data: Path,
    /,
    *,
    output: OutputFolder,
    defaults: NewDefaults = NewDefaults(),
    name: str | None = None,
) -> None:
    """Choose a model's threshold on validation cases, and measure its false alarms.

    The weights stay; the header gets the threshold with the best mean Dice over the
    labelled validation cases, the mL that every threshold marks in healthy brains,
    and the figures of both.

    Parameters
    ----------
    model
        The trained .safetensors.
    data
        Folder with split.json, healthy/ scans and FOLDER/CASE/{t1,mask}.nii.gz.
    output
        The .safetensors to write.
    name
        New name, for the model's card.
    """
    from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
    from napari_addm.training.calibration import calibrate as calibrate_checkpoint
    from napari_addm.training.labelled_scans import find_cases, read_split

    if output.suffix != ".safetensors":
        raise AddmError(f"{output}: the checkpoint's name has to end in .safetensors.")
    RunSettings(name=name)  # refuses now what the checkpoint would refuse in the end
    checkpoint = load_checkpoint(model)
    score = checkpoint.specification.detection.score
    changes = _given(level=defaults.level, steps=defaults.steps, draws=defaults.draws)
    changes["score"] = score.model_copy(
        update=_given(
            kind=defaults.score,
            smoothing_mm=defaults.smoothing_mm,
            erosion_mm=defaults.erosion_mm,
            symmetry=defaults.symmetry,
        )
    )
    specification = calibrate_checkpoint(
        checkpoint, find_cases(data, read_split(data / "split.json")), changes, report=print_line
    )
    if name is not None:
        specification = specification.model_copy(update={"name": name})
    save_checkpoint(output, specification, checkpoint.weights)
    print_json(specification.evaluation)
    print_result(output)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
