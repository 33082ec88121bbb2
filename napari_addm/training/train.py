"""Training a checkpoint from a folder of healthy scans.

Lightning runs the loop: mixed precision, resuming, several GPUs and nodes are
its options. The package is the extra ``train``.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from napari_addm.checkpoint.file import Checkpoint, save_checkpoint
from napari_addm.checkpoint.specification import (
    ModelSpecification,
    PreparationSpecification,
)
from napari_addm.detection.brain_mask import find_brain, strip_skull
from napari_addm.detection.preparation import prepare
from napari_addm.diffusion.noise import SliceNoise
from napari_addm.diffusion.sampling import sampling_levels
from napari_addm.errors import AddmError, InputError
from napari_addm.io.hashing import file_sha256, sha256
from napari_addm.io.names import is_second_half, names_labels, readable_suffixes, readable_titles
from napari_addm.io.reading import read_volume
from napari_addm.methods.base import Sampling, Shape, StepContext
from napari_addm.methods.loading import load_network
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
LANDMARK_ENDS = (0.05, 0.95)
LOG_EVERY = 50


def preset_settings(
    method: str = "addm", preset: str = "small", length: int = 1000
) -> TrainingSettings:
    """What a method is trained with unless it is told otherwise.

    Parameters
    ----------
    length : int
        T, for methods with noise levels.

    Raises
    ------
    AddmError
        If the method has no such preset.
    """
    presets = METHODS[method].presets(length)
    if preset not in presets:
        raise AddmError(
            f"The method {method} has no preset {preset!r}; choose {', '.join(presets)}."
        )
    return presets[preset]


# --- data -----------------------------------------------------------------------------------


def find_scans(folder: str | Path) -> list[Path]:
    """All scans directly in a folder or below it, sorted.

    Raises
    ------
    InputError
        If there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; give the folder that holds the healthy scans.")
    suffixes = readable_suffixes()
    scans = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(suffixes)
        and path.is_file()
        and not is_second_half(path)
        and not names_labels(path)
    )
    if not scans:
        raise InputError(f"{folder}: holds no {readable_titles()} scan; check the folder.")
    return scans


def split_scans(
    scans: Sequence[Path], split: str | Path | None, seed: int
) -> tuple[list[Path], list[Path]]:
    """Training and validation scans, by a split file or else one tenth at random.

    Parameters
    ----------
    split : path, optional
        JSON with the lists ``train`` and ``validation`` of subject names, at the
        top or under ``healthy``. A scan belongs to a subject if its name starts
        with the subject's name, followed by no letter or digit.
    """
    if split is None:
        order = np.random.default_rng(seed).permutation(len(scans))
        held = set(order[: max(1, len(scans) // 10)].tolist()) if len(scans) > 1 else set()
        train = [s for n, s in enumerate(scans) if n not in held]
        return train, [scans[n] for n in sorted(held)]
    try:
        lists = json.loads(Path(split).read_text())
        lists = lists.get("healthy", lists)
        chosen = [
            [s for s in scans if any(_belongs(s.name, subject) for subject in lists[part])]
            for part in ("train", "validation")
        ]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{split}: not a split file ({error}); it needs JSON lists train and validation."
        ) from error
    if not chosen[0]:
        raise InputError(f"{split}: none of its train subjects is in the folder; check the names.")
    return chosen[0], chosen[1]


def _belongs(name: str, subject: str) -> bool:
    return name.startswith(subject) and not name[len(subject) :][:1].isalnum()


@dataclass(frozen=True)
class TrainingData:
    """Prepared slices of many volumes.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, H, W)
        Air 0, brain 1..255 for model values 0..1.
    volumes : ndarray of int, shape (N,)
        Which volume a slice is of.
    validation : ndarray of bool, shape (N,)
    landmarks : tuple of float
        The intensity rule found on the training volumes.
    digest : str
        SHA-256 over the scans' bytes.
    """

    images: NDArray[np.uint8]
    volumes: NDArray[np.int64]
    validation: NDArray[np.bool_]
    landmarks: tuple[float, ...]
    digest: str


def prepare_training_data(
    train: Sequence[Path],
    validation: Sequence[Path],
    settings: TrainingSettings,
    cache: Path,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> TrainingData:
    """Read, mask, standardise and slice the scans; kept in ``cache`` for the next time.

    The landmarks are the mean over the training volumes of their percentiles,
    after the first and last percentile were mapped to .05 and .95.
    """
    scans = [*train, *validation]
    grid = json.dumps([len(train), settings.spacing_mm, settings.size]).encode()
    name = sha256(*(bytes.fromhex(file_sha256(scan)) for scan in scans), grid)
    stored = cache / f"slices-{name[:16]}.npz"
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as arrays:
            return TrainingData(
                arrays["images"],
                arrays["volumes"],
                arrays["validation"],
                tuple(arrays["landmarks"].tolist()),
                name,
            )

    masks: list[NDArray[np.uint8]] = []
    standard = []
    for n, scan in enumerate(scans):
        report("Brain masks and intensities", n, len(scans))
        volume = read_volume(scan)
        mask = find_brain(volume)
        if mask is None:
            mask = strip_skull(volume)
        masks.append(np.packbits(mask))
        if n < len(train):
            found = np.percentile(volume.data[mask], PERCENTILES)
            if found[-1] <= found[0]:
                raise InputError(
                    f"{scan}: the brain has one intensity only; take the scan out of the folder."
                )
            low, high = LANDMARK_ENDS
            standard.append(low + (high - low) * (found - found[0]) / (found[-1] - found[0]))
    landmarks = tuple(float(v) for v in np.mean(standard, axis=0))
    specification = PreparationSpecification(
        spacing_mm=settings.spacing_mm,
        size=settings.size,
        percentiles=PERCENTILES,
        landmarks=landmarks,
    )
    images, volumes = [], []
    for n, scan in enumerate(scans):
        report("Slices", n, len(scans))
        volume = read_volume(scan)
        mask = np.unpackbits(masks[n], count=volume.data.size).reshape(volume.shape).astype(bool)
        slices = prepare(volume, specification, mask)
        brain = np.round(slices.images * 127.0 + 128.0)
        images.append(np.where(slices.masks, brain, 0).astype(np.uint8))
        volumes.append(np.full(len(slices.images), n))
    data = TrainingData(
        np.concatenate(images),
        np.concatenate(volumes),
        np.concatenate(volumes) >= len(train),
        landmarks,
        name,
    )
    cache.mkdir(parents=True, exist_ok=True)
    temporary = stored.with_suffix(f".{os.getpid()}.npz")
    np.savez(
        temporary,
        images=data.images,
        volumes=data.volumes,
        validation=data.validation,
        landmarks=np.array(landmarks),
    )
    temporary.replace(stored)
    return data


class SliceDataset(Dataset[Tensor]):
    """uint8 slices (1, H, W), air 0."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = torch.from_numpy(images).unsqueeze(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class SliceSampler(Sampler[int]):
    """Random slices of every volume, drawn anew for each epoch.

    The draw depends on the seed and the epoch alone, so that a resumed
    training sees what an undisturbed one would have seen.
    """

    def __init__(self, volumes: NDArray[np.int64], per_volume: int, seed: int) -> None:
        self.members = [np.flatnonzero(volumes == v) for v in np.unique(volumes)]
        self.per_volume = per_volume
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.members) * self.per_volume

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        drawn = [random.choice(m, self.per_volume) for m in self.members]
        yield from random.permutation(np.concatenate(drawn)).tolist()


# --- augmentation ---------------------------------------------------------------------------


def to_model_values(values: Tensor, mask: Tensor) -> Tensor:
    """0..1 inside the mask to -1..1 with air at -1, shape (B, 1, H, W)."""
    return torch.where(mask, 2.0 * values - 1.0, -1.0)


def augment(values: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random geometry, contrast, bias field and sharpness, one draw per slice.

    Parameters
    ----------
    values : Tensor of float32, shape (B, 1, H, W)
        0..1, meaningful inside ``mask``.
    mask : Tensor of bool, shape (B, 1, H, W)
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    values, mask : Tensor
        Like the arguments.
    """
    batch, _, height, width = values.shape
    device = values.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(batch, *shape, generator=generator)).to(device)

    # geometry: rotation, anisotropic scale, shift, mirror, about the slice's centre
    angle = uniform(-0.15, 0.15)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    scale_y, scale_x = 1.0 / uniform(0.92, 1.08), mirror / uniform(0.92, 1.08)
    aspect = height / width
    theta = torch.stack(
        [
            torch.stack(
                [scale_x * angle.cos(), -scale_x * angle.sin() * aspect, uniform(-0.06, 0.06)], 1
            ),
            torch.stack(
                [scale_y * angle.sin() / aspect, scale_y * angle.cos(), uniform(-0.06, 0.06)], 1
            ),
        ],
        dim=1,
    )
    grid = affine_grid(theta, list(values.shape), align_corners=False)
    weight = mask.float()
    both = grid_sample(torch.cat([values * weight, weight], 1), grid, align_corners=False)
    values = both[:, :1] / both[:, 1:].clamp_min(1e-3)
    mask = both[:, 1:] > 0.5

    # contrast: a random monotone piecewise-linear curve through .05 and .95
    knots = 7
    increments = (0.35 * torch.randn(batch, knots - 1, generator=generator)).exp().to(device)
    curve = torch.cat([torch.zeros(batch, 1, device=device), increments.cumsum(1)], 1)
    curve = LANDMARK_ENDS[0] + (LANDMARK_ENDS[1] - LANDMARK_ENDS[0]) * curve / curve[:, -1:]
    low, high = LANDMARK_ENDS
    place = (values.flatten(1) - low) / (high - low) * (knots - 1)
    left = place.floor().clamp(0, knots - 2)
    at_left = curve.gather(1, left.long())
    at_right = curve.gather(1, left.long() + 1)
    values = (at_left + (place - left) * (at_right - at_left)).reshape(values.shape)

    # bias field: smooth gain
    field_ = (0.05 * torch.randn(batch, 1, 4, 3, generator=generator)).to(device)
    field_ = interpolate(field_, (height, width), mode="bicubic", align_corners=True)
    values = values * field_.exp()

    # sharpness: mix with a 3 x 3 mean, or away from it
    mean = avg_pool2d(values * mask, 3, 1, 1) / avg_pool2d(mask.float(), 3, 1, 1).clamp_min(0.1)
    values = values + uniform(-0.2, 1.0, 1, 1, 1) * (mean - values)
    grain = uniform(0.0, 0.02, 1, 1, 1)
    values = values + grain * torch.randn(values.shape, generator=generator).to(device)
    return values.clamp(0.0, 1.0), mask


# --- the loop -------------------------------------------------------------------------------


def warmed_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average whose decay grows with the iterations up to ``decay``.

    For torch's ``AveragedModel``. With a constant decay the average of a short training
    would hold mostly its untrained start.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], currents: list[Tensor], iterations: int | Tensor) -> None:
        n = int(iterations)
        weight = 1.0 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, currents, weight)

    return update


class MethodModule(lightning.LightningModule):
    """A method's learner and the moving average of its network, as Lightning wants them.

    Parameters
    ----------
    share : callable
        Share of the training that is done, from iterations, seconds and epochs so far.
    """

    def __init__(
        self, settings: TrainingSettings, share: Callable[[int, float, int], float]
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        self.share = share
        self.method = METHODS[settings.method].load()
        self.objective = self.method.objective(settings)
        self.average = AveragedModel(
            self.objective.network, multi_avg_fn=warmed_average(settings.ema)
        ).requires_grad_(False)
        self.average.eval()
        self.seconds: Tensor
        self.iterations: Tensor
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> Any:
        optimizers = self.objective.optimizers()
        schedulers = [
            torch.optim.lr_scheduler.StepLR(o, self.settings.decay_epochs, self.settings.decay)
            for o in optimizers
        ]
        return optimizers, schedulers

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        started = time.monotonic()
        settings = self.settings
        iteration = int(self.iterations)
        # Reseeded at every iteration, so that a resumed training repeats an undisturbed one.
        seed = _seed(settings.seed, iteration, self.global_rank)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout has no generator of its own
        mask = batch > 0
        values = (batch.float() - 1.0) / 254.0
        if settings.augment:
            values, mask = augment(values, mask, generator)
        clean = to_model_values(values, mask)
        optimizers: Any = self.optimizers()
        self.average.eval()
        logged = self.objective.step(
            clean,
            StepContext(
                generator,
                self.share(iteration, float(self.seconds), self.current_epoch),
                partial(self._update, optimizers if isinstance(optimizers, list) else [optimizers]),
                self._gradient_norm if batch_index == 0 else None,
            ),
        )
        self.average.update_parameters(self.objective.network)
        values_ = {k if "/" in k else f"train/{k}": v.detach() for k, v in logged.items()}
        self.log_dict(values_, prog_bar=False)
        name, value = next(iter(logged.items()))
        self.log(name, value.detach(), prog_bar=True, logger=False)
        self.iterations += 1
        self.seconds += time.monotonic() - started

    def _update(self, optimizers: list[Any], loss: Tensor, optimizer: int = 0) -> None:
        if not torch.isfinite(loss):
            raise AddmError(
                "The training diverged (the loss is not finite); lower the learning rate, or "
                "train with --precision 32."
            )
        chosen = optimizers[optimizer]
        chosen.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(chosen, self.settings.clip, "norm")
        chosen.step()

    def _gradient_norm(self, loss: Tensor) -> Tensor:
        parameters = [p for p in self.objective.network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.stack([g.norm() for g in gradients if g is not None]).norm()

    def on_train_epoch_end(self) -> None:
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        generator = torch.Generator().manual_seed(batch_index)
        clean = to_model_values((batch.float() - 1.0) / 254.0, batch > 0)
        error = self.objective.validation_loss(self.average.module, clean, generator)
        self.log("validation/loss", error, prog_bar=True, on_epoch=True, batch_size=len(clean))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class SavePictures(Callback):
    """Validation slices and their reconstruction, as a PNG per validation."""

    def __init__(self, folder: Path, images: Tensor, specification: ModelSpecification) -> None:
        self.folder = folder
        self.images = images
        self.specification = specification

    @torch.no_grad()
    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, MethodModule):
            return
        from skimage.io import imsave

        module = pl_module
        batch = self.images.to(module.device)
        clean = to_model_values((batch.float() - 1.0) / 254.0, batch > 0)
        level = self.specification.detection.level
        sampling = Sampling() if level is None else Sampling(tuple(sampling_levels(level, 1)))
        diffusion = self.specification.diffusion
        drawn = SliceNoise(diffusion.noise if diffusion else "gaussian", seed=0)

        def noise(step: int, shape: Shape | None = None) -> Tensor:
            image = (clean.shape[1], clean.shape[2], clean.shape[3])
            return drawn.sample(range(len(clean)), shape or image, 0, step).to(clean.device)

        *_, last = module.method.reconstruct(
            module.average.module, self.specification, clean, sampling, noise
        )
        rows = [torch.cat([i[0].flip(0) for i in part], dim=1) for part in (clean, last.image)]
        picture = (torch.cat(rows).clamp(-1, 1) * 127.5 + 127.5).byte().cpu().numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        imsave(
            self.folder / f"iteration-{int(module.iterations):07d}.png",
            picture,
            check_contrast=False,
        )


class ExportCheckpoint(Callback):
    """Writes the moving average as a checkpoint that ``detect`` can use, at every validation."""

    def __init__(self, path: Path, specification: ModelSpecification, half: bool) -> None:
        self.path = path
        self.specification = specification
        self.half = half

    def export(self, module: MethodModule) -> None:
        training = {
            **self.specification.training,
            "iterations": int(module.iterations),
            "seconds": round(float(module.seconds)),
        }
        weights = module.average.module.state_dict()
        if self.half:
            weights = {
                name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            }
        save_checkpoint(
            self.path, self.specification.model_copy(update={"training": training}), weights
        )

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            assert isinstance(pl_module, MethodModule)
            self.export(pl_module)


def train(
    folder: str | Path,
    output: str | Path,
    settings: TrainingSettings,
    *,
    split: str | Path | None = None,
    name: str | None = None,
    description: str = "",
    licence: str = "unspecified",
    iterations: int | None = None,
    minutes: float | None = None,
    restart: bool = False,
    cache: str | Path | None = None,
    start_from: Checkpoint | None = None,
    half: bool = True,
    validate_every: int = 10,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
    callbacks: Sequence[Callback] = (),
    **lightning_options: Any,
) -> Path:
    """Train a checkpoint; goes on where an interrupted training of the same settings stopped.

    Parameters
    ----------
    folder : path
        Healthy scans, whole-head or skull-stripped.
    output : path
        The .safetensors file. Trainer state, logs and sample pictures go to
        the folder ``OUTPUT.training`` beside it.
    iterations, minutes : optional
        Stop earlier than after ``settings.epochs``: at the end of the epoch that reaches
        so many iterations or minutes, those of earlier sessions included.
    cache : path, optional
        Folder for the prepared slices, so that several trainings on the same scans
        share them; ``OUTPUT.training`` if missing.
    start_from : Checkpoint, optional
        Start from these weights in place of random ones, for example to fine-tune a
        model on the scans of another scanner. What else is trained (a discriminator,
        the optimizers' moments) starts anew, and intensities are standardised to the
        new scans. Left aside when an interrupted training goes on.
    half : bool
        Store float16 weights, which halves the file.
    validate_every : int
        Epochs between validations; at each the checkpoint is written too.
    report : callable
        ``report(stage, done, total)`` while the scans are prepared.
    lightning_options
        For ``lightning.Trainer``: accelerator, devices, precision, strategy ..

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
        ``start_from`` is another network.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise AddmError(f"{output}: the checkpoint's name has to end in .safetensors.")
    run = output.with_name(output.stem + ".training")
    run.mkdir(parents=True, exist_ok=True)
    scans = find_scans(folder)
    train_scans, validation_scans = split_scans(scans, split, settings.seed)
    data = prepare_training_data(
        train_scans, validation_scans, settings, Path(cache) if cache else run, report
    )

    state = run / "last.ckpt"
    origin = _origin(start_from, settings) if start_from is not None else {}
    described = json.loads(json.dumps({**settings.record(), **origin, "data_sha256": data.digest}))
    described.pop("epochs")
    record = run / "settings.json"
    if restart:
        state.unlink(missing_ok=True)
    if state.is_file():
        before = json.loads(record.read_text())
        changed = [k for k in described if before.get(k) != described[k]]
        if changed:
            raise AddmError(
                f"{run}: holds a training with another {', '.join(changed)}; use --restart to "
                "throw it away, or choose another output."
            )
    record.write_text(json.dumps(described, indent=1))

    specification = _specification(settings, data, len(train_scans), len(validation_scans))
    specification = specification.model_copy(
        update={
            "name": name or output.stem,
            "description": description,
            "licence": licence,
            "training": {**specification.training, **origin},
        }
    )
    lightning.seed_everything(settings.seed, verbose=False)
    budget = Budget(settings.epochs, iterations, minutes)
    module = MethodModule(settings, budget.share)
    if start_from is not None:
        trained = load_network(start_from).state_dict()
        for network in (module.objective.network, module.average.module):
            network.load_state_dict(trained)
    training_images = data.images[~data.validation]
    sampler = SliceSampler(
        data.volumes[~data.validation], settings.slices_per_volume, settings.seed
    )
    loader = DataLoader(
        SliceDataset(training_images), settings.batch_size, sampler=sampler, drop_last=True
    )
    if not len(loader):
        raise InputError(
            f"{folder}: {len(training_images)} slices are fewer than a batch of "
            f"{settings.batch_size}; add scans, or lower the batch size."
        )
    held = data.images[data.validation] if data.validation.any() else training_images
    held = held[np.linspace(0, len(held) - 1, min(64, len(held))).round().astype(int)]
    validation = DataLoader(SliceDataset(held), settings.batch_size)
    pictured = held[np.linspace(len(held) * 0.2, len(held) * 0.8, 8).astype(int)]

    exporter = ExportCheckpoint(output, specification, half)
    probe = lightning.Trainer(logger=False, enable_checkpointing=False, **lightning_options)
    if probe.world_size > 1:
        # each of the two losses leaves the other network's weights out
        lightning_options.setdefault("strategy", "ddp_find_unused_parameters_true")
    trainer = lightning.Trainer(
        max_epochs=settings.epochs,
        check_val_every_n_epoch=validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=LOG_EVERY,
        logger=CSVLogger(run / "log", name=""),  # a new version_N at every resumption
        default_root_dir=run,
        callbacks=[
            ModelCheckpoint(
                dirpath=run,
                filename="last",
                every_n_epochs=2,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
            SavePictures(run / "pictures", torch.from_numpy(pictured).unsqueeze(1), specification),
            exporter,
            StopAfter(budget),
            *callbacks,
        ],
        enable_model_summary=False,
        **lightning_options,
    )
    trainer.fit(
        module,
        loader,
        validation,
        ckpt_path=state if state.is_file() else None,
        weights_only=True,
    )
    trainer.save_checkpoint(state)
    if trainer.is_global_zero:
        exporter.export(module)
    return output


@dataclass(frozen=True)
class Budget:
    """How long a training lasts: until the first of its limits."""

    epochs: int
    iterations: int | None
    minutes: float | None

    def share(self, iterations: int, seconds: float, epochs: int) -> float:
        """How much of it is spent, 0..1.

        Iterations alone decide where they are given, so that stages begin where they
        began when the same training ran on another day.
        """
        spent = epochs / self.epochs
        if self.iterations is not None:
            spent = max(spent, iterations / self.iterations)
        elif self.minutes is not None:
            spent = max(spent, seconds / (60.0 * self.minutes))
        return min(spent, 1.0)

    def is_spent(self, iterations: int, seconds: float) -> bool:
        """Whether a limit other than the epochs is reached."""
        return (self.iterations is not None and iterations >= self.iterations) or (
            self.minutes is not None and seconds >= 60.0 * self.minutes
        )


class StopAfter(Callback):
    """Stops at the end of the epoch in which the budget is spent."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        assert isinstance(pl_module, MethodModule)
        spent = self.budget.is_spent(int(pl_module.iterations), float(pl_module.seconds))
        # each process has its own clock
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(spent, all=False)


def _specification(
    settings: TrainingSettings, data: TrainingData, train: int, validation: int
) -> ModelSpecification:
    plain = settings.record()
    for elsewhere in ("method", "network", "diffusion", "spacing_mm", "size"):
        plain.pop(elsewhere, None)
    return ModelSpecification(
        name="untitled",
        method=settings.method,
        network=settings.network,
        diffusion=settings.diffusion,
        preparation=PreparationSpecification(
            spacing_mm=settings.spacing_mm,
            size=settings.size,
            percentiles=PERCENTILES,
            landmarks=data.landmarks,
        ),
        detection=settings.detection,
        training={
            **plain,
            "train_volumes": train,
            "validation_volumes": validation,
            "data_sha256": data.digest,
            "versions": {
                p: version(p) for p in ("napari-addm", "torch", "monai", "lightning", "numpy")
            },
            "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads"
            + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        },
    )


def _origin(start_from: Checkpoint, settings: TrainingSettings) -> dict[str, Any]:
    """What the record says of the model that a training starts from."""
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
    before = {k: there.training[k] for k in ("iterations", "seconds") if k in there.training}
    return {"started_from": {"name": there.name, "sha256": start_from.sha256, **before}}


def read_log(output: str | Path) -> list[dict[str, str]]:
    """The rows that training has logged so far for a checkpoint path, oldest first."""
    run = Path(output).with_name(Path(output).stem + ".training")
    parts = sorted((run / "log").glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime)
    rows: list[dict[str, str]] = []
    for part in parts:
        with part.open(newline="") as file:
            rows.extend(csv.DictReader(file))
    return rows
