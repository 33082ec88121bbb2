"""``napari-addm train``: a model from healthy scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from cyclopts import Parameter
from cyclopts.types import PositiveInt
from pydantic import BaseModel, ConfigDict, Field, create_model

from napari_addm.checkpoint.specification import NoiseKind
from napari_addm.cli._common import OutputFolder, print_result
from napari_addm.cli._training import (
    TrainingPrecision,
    import_training,
    is_watched,
    preparation_bar,
    progress_lines,
    quiet_lightning,
    training_precision,
)
from napari_addm.errors import AddmError
from napari_addm.io.text import format_duration
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS
from napari_addm.training.settings import RunSettings, preset_settings

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


def _optional(model: type[BaseModel]) -> type[BaseModel]:
    """Return a model in which every titled field of another may be given and none has to be."""
    fields: dict[str, Any] = {
        name: (
            Annotated[Optional[field.annotation], *field.metadata, Parameter(negative_iterable="")],  # noqa: UP045
            Field(None, title=field.title, description=field.description),
        )
        for name, field in model.model_fields.items()
        if field.title
    }
    return create_model(
        f"{model.__name__}Changes", __config__=ConfigDict(extra="forbid", frozen=True), **fields
    )


def _given(changes: BaseModel | None) -> dict[str, Any]:
    if changes is None:
        return {}
    return {name: value for name, value in dict(changes).items() if value is not None}


_OPTIONS = {method.options for method in METHODS.usable().values()} - {None}

if TYPE_CHECKING:
    SettingsChanges = BaseModel
    MethodChanges = BaseModel
else:
    SettingsChanges = _optional(TrainingSettings)
    MethodChanges = create_model(
        "MethodChanges",
        **{
            model.record_key: (_optional(model) | None, Field(None))
            for model in sorted(_OPTIONS, key=lambda model: model.record_key)
        },
    )


RUN = RunSettings()


@Parameter(name="*", group="Hardware")
@dataclass(frozen=True)
class HardwareOptions:
    """Where the training runs.

    Attributes
    ----------
    precision
        Number format; auto takes bf16-mixed where the hardware computes in it.
    accelerator
        Kind of device.
    devices
        Number of devices, or which (0,1), or auto.
    nodes
        Number of machines of a cluster.
    """

    precision: TrainingPrecision = "auto"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: str = "auto"
    nodes: PositiveInt = 1


def train(
    healthy: Annotated[Path, Parameter(name="HEALTHY_DIR")],
    /,
    *,
    output: OutputFolder,
    method: MethodName = "addm",
    size: Literal["small", "paper"] = "small",
    timesteps: Literal[300, 500, 1000] = 1000,
    noise: NoiseKind | None = None,
    settings: Annotated[SettingsChanges | None, Parameter(name="*", group="Training")] = None,
    method_options: Annotated[MethodChanges | None, Parameter(name="*", group="Method")] = None,
    run: Annotated[RunSettings, Parameter(name="*", group="Run")] = RUN,
    hardware: HardwareOptions = HardwareOptions(),
) -> None:
    """Train a model on healthy scans; run it again to go on where it stopped.

    Needs the extra: `pip install "napari-addm[train]"`. What is not given comes
    from the configuration of that size. Logs and sample pictures go to OUTPUT.training.

    Parameters
    ----------
    healthy
        Folder of healthy scans.
    output
        The .safetensors to write.
    method
        The method that is trained.
    size
        small trains on a CPU; paper is the published configuration.
    timesteps
        T, the number of timesteps of the chain.
    noise
        Kind of noise.
    """
    from napari_addm.checkpoint.file import read_specification
    from napari_addm.outputs.folder import check_folder

    folder = output.with_name(f"{output.stem}.training")
    check_folder(output.parent)
    if output.exists() and not run.restart and not (folder / "last.ckpt").is_file():
        raise AddmError(
            f"{output} exists already and its training cannot be resumed: use --restart to "
            "replace it, or choose another output."
        )
    chosen = _settings(method, size, timesteps, noise, settings, method_options)
    watched = is_watched()
    with quiet_lightning():
        training = import_training()
        with preparation_bar() as report:
            training.train(
                healthy,
                output,
                chosen,
                run.model_copy(update={"validate_every": min(run.validate_every, chosen.epochs)}),
                report=report,
                callbacks=[] if watched else [progress_lines()],
                accelerator=hardware.accelerator,
                devices=hardware.devices,
                num_nodes=hardware.nodes,
                precision=training_precision(hardware.precision, hardware.accelerator),
                enable_progress_bar=watched,
            )
    record = read_specification(output).training
    trained = METHODS[method].trained
    done = f"{record['iterations']} iterations" if trained else f"{record['train_volumes']} brains"
    print_result(f"{done} in {format_duration(record['seconds'])}")
    for path in (output, folder / "log", folder / "pictures"):
        if path.exists():  # the first pictures come with the first validation
            print_result(path)


def _settings(
    method: str,
    size: str,
    timesteps: int,
    noise: str | None,
    changes: BaseModel | None,
    method_changes: BaseModel | None,
) -> TrainingSettings:
    """Return the configuration of a size with what the command line changes."""
    settings = preset_settings(method, size, timesteps)
    update = _given(changes)
    for key, options in _given(method_changes).items():
        if settings.options is None or settings.options.record_key != key:
            raise AddmError(f"The method {method} has no {key} options; leave out --{key}....")
        update["options"] = settings.options.replace(**_given(options))
    if noise is not None:
        if settings.diffusion is None:
            raise AddmError(f"The method {method} has no noise to choose; leave out --noise.")
        update["diffusion"] = settings.diffusion.model_copy(update={"noise": noise})
    return settings.replace(**update)
