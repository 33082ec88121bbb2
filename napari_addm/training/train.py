"""Training a checkpoint from a folder of healthy scans.

Lightning runs the loop: mixed precision, resuming, several GPUs and nodes are
its options. The package is the extra ``train``.
"""

from __future__ import annotations

import csv
import json
import platform
import time
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger
from pydantic_core import from_json
from torch.utils.data import DataLoader

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, save_checkpoint
from napari_addm.checkpoint.specification import ModelSpecification, PreparationSpecification
from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import write_atomic
from napari_addm.methods.base import Report, VolumeMethod
from napari_addm.methods.loading import load_network
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS
from napari_addm.training.callbacks import (
    ExportCheckpoint,
    SavePictures,
    StopAfterIterations,
    WholeStates,
)
from napari_addm.training.data import (
    PERCENTILES,
    SliceDataset,
    SliceSampler,
    find_scans,
    prepare_training_data,
    split_scans,
)
from napari_addm.training.module import TrainingModule
from napari_addm.training.settings import Budget, RunSettings

STATE_FORMAT = 2
"""Version of what a run keeps to be resumed."""
LOG_EVERY = 50
VALIDATION_SLICES = 64
PICTURED_SLICES = 8
RECORDED_PACKAGES = ("napari-addm", "torch", "monai", "lightning", "numpy")
FITTED = (
    "preset",
    "train_volumes",
    "validation_volumes",
    "data_sha256",
    "versions",
    "hardware",
)
"""Parts of the training record that a method without iterations has."""
ELSEWHERE = ("method", "network", "diffusion", "spacing_mm", "size")
"""Parts of the settings that a checkpoint's header has outside the training record."""


def train(
    folder: str | Path,
    output: str | Path,
    settings: TrainingSettings,
    run: RunSettings | None = None,
    *,
    report: Report = lambda stage, done, total: None,
    callbacks: Sequence[Callback] = (),
    **lightning_options: Any,
) -> Path:
    """Train a checkpoint, or go on with an interrupted training of the same settings.

    Parameters
    ----------
    folder : path
        Healthy scans, whole-head or skull-stripped.
    output : path
        The .safetensors file. Trainer state, logs and sample pictures go to
        the folder ``OUTPUT.training`` beside it.
    report : callable
        ``report(stage, done, total)`` while the scans are prepared.
    callbacks : sequence of Callback
        Further ones, for ``lightning.Trainer``.
    **lightning_options
        For ``lightning.Trainer``: accelerator, devices, precision, strategy ...

    Returns
    -------
    Path
        The checkpoint.

    Raises
    ------
    InputError
        If there is nothing to train on.
    AddmError
        If the trainer state beside ``output`` belongs to other settings, or
        ``run.start_from`` is another network.
    """
    training = TrainingRun(folder, output, settings, run or RunSettings(), report)
    training.check_state()
    return training.fit(callbacks, lightning_options)


class TrainingRun:
    """One run of a training: its slices are prepared when it is made.

    Parameters
    ----------
    folder, output, settings, run, report
        See `train`.
    """

    def __init__(
        self,
        folder: str | Path,
        output: str | Path,
        settings: TrainingSettings,
        run: RunSettings,
        report: Report,
    ) -> None:
        self.report = report
        self.folder, self.output = Path(folder), Path(output)
        self.settings, self.run = settings, run
        if self.output.suffix != ".safetensors":
            raise AddmError(f"{output}: the checkpoint's name has to end in .safetensors.")
        self.place = _state_folder(self.output)
        self.place.mkdir(parents=True, exist_ok=True)
        self.state = self.place / "last.ckpt"
        self.start_from = None if run.start_from is None else load_checkpoint(run.start_from)
        scans = split_scans(find_scans(folder), run.split, settings.seed)
        self.data = prepare_training_data(*scans, settings, run.cache or self.place, report)
        self.specification = self._specify(len(scans[0]), len(scans[1]))

    def _specify(self, train: int, validation: int) -> ModelSpecification:
        """The checkpoint's specification, for numbers of training and validation volumes."""
        settings = self.settings
        record = {key: value for key, value in settings.record().items() if key not in ELSEWHERE}
        return ModelSpecification(
            name=self.run.name or self.output.stem,
            description=self.run.description,
            licence=self.run.licence,
            method=settings.method,
            network=settings.network,
            diffusion=settings.diffusion,
            preparation=PreparationSpecification(
                spacing_mm=settings.spacing_mm,
                size=settings.size,
                percentiles=PERCENTILES,
                landmarks=self.data.landmarks,
            ),
            detection=settings.detection,
            training={
                **record,
                "train_volumes": train,
                "validation_volumes": validation,
                "data_sha256": self.data.digest,
                "versions": {package: version(package) for package in RECORDED_PACKAGES},
                "hardware": _describe_hardware(),
                **self._origin(),
            },
        )

    def _origin(self) -> dict[str, Any]:
        """The record of the model that the training starts from."""
        if self.start_from is None:
            return {}
        _check_same_network(self.start_from, self.settings)
        there = self.start_from.specification
        before = {k: there.training[k] for k in ("iterations", "seconds") if k in there.training}
        return {"started_from": {"name": there.name, "sha256": self.start_from.sha256, **before}}

    def check_state(self) -> None:
        """Refuse a trainer state of another training, and note what this one is.

        Raises
        ------
        AddmError
            If there is such a state, and ``run.restart`` is not set.
        """
        wanted = {
            "format": STATE_FORMAT,
            **self.settings.record(),
            **self._origin(),
            "data_sha256": self.data.digest,
        }
        del wanted["epochs"]  # a training may go on for more epochs
        record = self.place / "settings.json"
        if self.run.restart:
            self.state.unlink(missing_ok=True)
        if self.state.is_file():
            try:
                before = dict(from_json(record.read_bytes()))
            except (OSError, ValueError, TypeError):
                before = {}
            changed = [key for key in wanted if before.get(key) != wanted[key]]
            if before.get("format") != STATE_FORMAT:
                problem = "a training of another version of napari-addm, or a damaged one"
            elif changed:
                problem = f"a training with another {', '.join(changed)}"
            elif not _is_whole(self.state):
                problem = f"a damaged {self.state.name}"
            else:
                return
            raise AddmError(
                f"{self.place}: holds {problem}; use --restart to throw it away, or choose "
                "another output."
            )
        write_atomic(record, json.dumps(wanted, indent=1))

    def fit(self, callbacks: Sequence[Callback], lightning_options: dict[str, Any]) -> Path:
        """Train until a limit is reached, and write the checkpoint."""
        method = METHODS[self.settings.method].load()
        if isinstance(method, VolumeMethod):
            return self._fit_once(method)
        lightning.seed_everything(self.settings.seed, verbose=False)
        limit = None if self.run.minutes is None else timedelta(minutes=self.run.minutes)
        timer = Timer(limit, interval="epoch", verbose=False)
        module = self._module(timer)
        train, validation = self._loaders()
        exporter = ExportCheckpoint(self.output, self.specification, self.run.half)
        trainer = lightning.Trainer(
            max_epochs=self.settings.epochs,
            check_val_every_n_epoch=self.run.validate_every,
            num_sanity_val_steps=0,
            log_every_n_steps=LOG_EVERY,
            logger=CSVLogger(self.place / "log", name=""),  # a new version_N at every resumption
            default_root_dir=self.place,
            callbacks=[
                ModelCheckpoint(
                    dirpath=self.place,
                    filename="last",
                    every_n_epochs=2,
                    save_on_train_epoch_end=True,
                    enable_version_counter=False,
                ),
                SavePictures(self.place / "pictures", self._pictured(), self.specification),
                exporter,
                StopAfterIterations(self.run.iterations),
                timer,
                *callbacks,
            ],
            plugins=[WholeStates()],
            enable_model_summary=False,
            **_with_strategy(lightning_options),
        )
        state = self.state if self.state.is_file() else None
        trainer.fit(module, train, validation, ckpt_path=state, weights_only=True)
        trainer.save_checkpoint(self.state)
        if trainer.is_global_zero:
            exporter.export(module)
        return self.output

    def _fit_once(self, method: VolumeMethod) -> Path:
        """Fit a method that is not trained in iterations, and write the checkpoint."""
        started = time.perf_counter()
        images, volumes = self.data.images, self.data.volumes
        training = [images[volumes == n] for n in np.unique(volumes[~self.data.validation])]
        cache = (self.run.cache or self.place) / f"brains-{self.data.digest[:16]}.npz"
        specification, network = method.fit(self.settings, training, cache, self.report)
        record = {key: self.specification.training[key] for key in FITTED}
        record["seconds"] = round(time.perf_counter() - started)
        found = self.specification.replace(network=specification, training=record)
        return save_checkpoint(self.output, found, network.state_dict())

    def _module(self, timer: Timer) -> TrainingModule:
        budget = Budget(self.settings.epochs, self.run.iterations, self.run.minutes)
        module = TrainingModule(self.settings, budget, timer)
        if self.start_from is not None:
            trained = load_network(self.start_from).state_dict()
            for network in (module.objective.network, module.average.module):
                network.load_state_dict(trained)
        return module

    def _loaders(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Batches to train on, and to validate on."""
        settings, data = self.settings, self.data
        images = data.images[~data.validation]
        sampler = SliceSampler(
            data.volumes[~data.validation], settings.slices_per_volume, settings.seed
        )
        train: DataLoader[Any] = DataLoader(
            SliceDataset(images), settings.batch_size, sampler=sampler, drop_last=True
        )
        if not len(train):
            raise InputError(
                f"{self.folder}: {len(images)} slices are fewer than a batch of "
                f"{settings.batch_size}; add scans, or lower the batch size."
            )
        return train, DataLoader(SliceDataset(self._held_out()), settings.batch_size)

    def _held_out(self) -> Any:
        """Slices to validate on, uint8 (N, H, W); training slices if nothing is held out."""
        data = self.data
        held = data.images[data.validation if data.validation.any() else ~data.validation]
        count = min(VALIDATION_SLICES, len(held))
        return held[np.linspace(0, len(held) - 1, count).round().astype(int)]

    def _pictured(self) -> torch.Tensor:
        held = self._held_out()
        chosen = np.linspace(len(held) * 0.2, len(held) * 0.8, PICTURED_SLICES).astype(int)
        return torch.from_numpy(held[chosen]).unsqueeze(1)


def _describe_hardware() -> str:
    described = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        described += f", {torch.cuda.get_device_name()}"
    return described


def _is_whole(state: Path) -> bool:
    """Whether Lightning can go on with a file."""
    try:
        found = torch.load(state, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file makes torch raise almost anything
        return False
    wanted = {"state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "epoch"}
    return isinstance(found, dict) and wanted <= found.keys()


def _state_folder(output: Path) -> Path:
    return output.with_name(f"{output.stem}.training")


def _check_same_network(start_from: Checkpoint, settings: TrainingSettings) -> None:
    there = start_from.specification
    wanted = (settings.method, settings.network, settings.diffusion, settings.size)
    found = (there.method, there.network, there.diffusion, there.preparation.size)
    names = ("method", "network", "diffusion", "slice size")
    differing = [n for n, w, f in zip(names, wanted, found, strict=True) if w != f]
    if differing:
        raise AddmError(
            f"{start_from.path}: its {' and '.join(differing)} differ from what is to be trained; "
            "choose the method, preset, noise and timesteps that it was trained with."
        )


def _with_strategy(lightning_options: dict[str, Any]) -> dict[str, Any]:
    """Lightning's options; with several processes, a loss may leave weights out."""
    probe = lightning.Trainer(logger=False, enable_checkpointing=False, **lightning_options)
    several = {"strategy": "ddp_find_unused_parameters_true"} if probe.world_size > 1 else {}
    return {**several, **lightning_options}


def read_log(output: str | Path) -> list[dict[str, str]]:
    """Read the rows that training has logged so far for a checkpoint path, oldest first."""
    place = _state_folder(Path(output))
    parts = sorted((place / "log").glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime)
    rows: list[dict[str, str]] = []
    for part in parts:
        with part.open(newline="") as file:
            rows.extend(csv.DictReader(file))
    return rows
