"""``napari-addm calibrate``: a model's threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from napari_addm.cli._common import OutputFolder, print_json, print_line, print_result
from napari_addm.cli.info import promise_lines
from napari_addm.registry import ScoreName
from napari_addm.training.settings import PROMISED_ML, RunSettings

if TYPE_CHECKING:
    from napari_addm.checkpoint.specification import ModelSpecification


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
    /,
    *,
    healthy: Annotated[list[Path], Parameter(consume_multiple=True, negative="")],
    output: OutputFolder,
    promise_ml: Annotated[float, Parameter(validator=Number(gte=0.1, lte=100))] = PROMISED_ML,
    norm: Annotated[list[Path], Parameter(consume_multiple=True, negative="")] | None = None,
    labelled: Path | None = None,
    defaults: NewDefaults = NewDefaults(),
    name: str | None = None,
    licence: str | None = None,
) -> None:
    """Fit a model to your scanner: its threshold and its false alarms in healthy brains.

    It takes healthy scans without labels, 5 to 20 of them, and as long as `detect` for each. The
    weights stay. The new threshold marks at most so many mL in 9 of 10 such brains (in 5 of 6,
    with five scans). Nothing is written before the end.

    Parameters
    ----------
    model
        The trained .safetensors.
    healthy
        Folder of healthy scans that the model was not trained on. Give one folder for each
        scanner.
    output
        The .safetensors to write.
    promise_ml
        What 9 of 10 healthy brains do not exceed, in mL.
    norm
        Folders of other healthy scans, to measure anew what healthy brains show at each place.
    labelled
        Folder with split.json and labelled validation cases, FOLDER/CASE/{t1,mask}.nii.gz. They
        are measured and change nothing.
    name
        New name, for the model's card.
    licence
        New licence: that of the scans of `norm` may bind the weights.
    """
    from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
    from napari_addm.outputs.folder import check_folder
    from napari_addm.training.calibration import calibrate as calibrate_checkpoint
    from napari_addm.training.calibration import check_output
    from napari_addm.training.labelled_scans import find_cases, find_healthy, read_split

    check_output(output, model)
    check_folder(output.parent)
    RunSettings(name=name)  # refuses now what the checkpoint would refuse in the end
    cases = find_cases(labelled, read_split(labelled / "split.json")) if labelled else []
    checkpoint = load_checkpoint(model)
    try:
        calibrated = calibrate_checkpoint(
            checkpoint,
            find_healthy(healthy),
            _changes(checkpoint.specification, defaults),
            norm=find_healthy(norm or []),
            labelled=[case for case in cases if case.group.endswith("/validation")],
            promised_ml=promise_ml,
            report=print_line,
        )
    except KeyboardInterrupt as error:
        error.add_note("Stopped; nothing was written.")
        raise
    specification = calibrated.specification
    specification = specification.replace(**_given(name=name, licence=licence))
    save_checkpoint(output, specification, calibrated.weights)
    default = specification.detection
    print_result(f"Threshold {default.threshold:g}: {default.threshold_source}")
    for line in promise_lines(specification):
        print_result(line)
    if labelled:
        print_json({"validation": specification.evaluation["validation"]})
    print_result(output)


def _changes(specification: ModelSpecification, defaults: NewDefaults) -> dict[str, Any]:
    """Return the fields of the detection that become others."""
    changes = _given(level=defaults.level, steps=defaults.steps, draws=defaults.draws)
    score = _given(
        kind=defaults.score,
        smoothing_mm=defaults.smoothing_mm,
        erosion_mm=defaults.erosion_mm,
        symmetry=defaults.symmetry,
    )
    return {**changes, "score": specification.detection.score.model_copy(update=score)}


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
