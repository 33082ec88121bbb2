"""Training a checkpoint from a folder of healthy scans.

Lightning runs the loop: mixed precision, resuming, several GPUs and nodes are
its options. The package is the extra ``train``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from napari_addm.checkpoint import (
    DetectionSpecification,
    DiffusionSpecification,
    ModelSpecification,
    NetworkSpecification,
    PreparationSpecification,
    ScoreSpecification,
    save_checkpoint,
)
from napari_addm.diffusion.noises import NOISES, NoiseKind
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.errors import AddmError, InputError
from napari_addm.io import read_volume
from napari_addm.methods.addm import (
    AdversarialSettings,
    adversarial_loss,
    build_discriminator,
    denoise,
    discriminator_loss,
)
from napari_addm.networks import build_network
from napari_addm.preparation import find_brain, prepare, strip_skull

SCAN_ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh")
PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
LANDMARK_ENDS = (0.05, 0.95)
LOG_EVERY = 50


@dataclass(frozen=True)
class TrainingSettings:
    """What is trained, and how.

    Attributes
    ----------
    preset : str
        The preset that these settings started from.
    spacing_mm, size : tuple
        Model grid: (z, y, x) in mm, and (height, width) of a slice.
    network, diffusion : specification
    detection_level, detection_steps, score
        The checkpoint's defaults for :func:`napari_addm.detect`.
    adversarial : AdversarialSettings
    highest_level : int
        Noise levels are drawn from 1..highest_level in training.
    epochs : int
        An epoch draws ``slices_per_volume`` random slices from every volume.
    learning_rate, decay, decay_epochs : float, float, int
        Adam's rate, multiplied by ``decay`` every ``decay_epochs`` epochs.
    ema : float
        Decay per iteration of the moving average of the weights, which is what is saved.
    clip : float
        Largest gradient norm of the denoiser and of the discriminator.
    augment : bool
        Random geometry, contrast, bias field and sharpness.
    seed : int
    """

    preset: str
    spacing_mm: tuple[float, float, float]
    size: tuple[int, int]
    network: NetworkSpecification
    diffusion: DiffusionSpecification
    detection_level: int
    detection_steps: int
    score: ScoreSpecification
    adversarial: AdversarialSettings = field(default_factory=AdversarialSettings)
    highest_level: int = 1000
    epochs: int = 3000
    slices_per_volume: int = 1
    batch_size: int = 4
    learning_rate: float = 1e-4
    decay: float = 0.999
    decay_epochs: int = 200
    ema: float = 0.9999
    clip: float = 1.0
    augment: bool = False
    seed: int = 0


def paper_settings(length: int = 1000) -> TrainingSettings:
    """The paper's preset: 256 x 256, batch 4, 3000 epochs, Gaussian noise, lambda .05.

    The network is AnoDDPM's, which the paper follows where it says nothing.
    """
    return TrainingSettings(
        preset="paper",
        spacing_mm=(1.0, 0.9, 0.9),
        size=(256, 256),
        network=NetworkSpecification(
            pack=1,
            channels=(128, 128, 256, 256, 512, 512),
            res_blocks=(2, 2, 2, 2, 2, 2),
            attention=(False, False, False, True, True, True),
            head_channels=64,
            norm_groups=32,
        ),
        diffusion=DiffusionSpecification(length=length, noise="gaussian"),
        # the level, and the squared error, are AnoDDPM's
        detection_level=length // 4,
        detection_steps=length // 4,
        score=ScoreSpecification(kind="squared", smoothing_mm=0.0, erosion_mm=0.0),
        highest_level=length,
    )


def small_settings(length: int = 1000) -> TrainingSettings:
    """A preset that trains on a CPU: packed 112 x 96 slices, coarse noise, augmentation."""
    return TrainingSettings(
        preset="small",
        spacing_mm=(2.0, 1.75, 1.75),
        size=(112, 96),
        network=NetworkSpecification(
            pack=2,
            channels=(32, 96, 128, 192),
            res_blocks=(1, 1, 1, 1),
            attention=(False, False, False, True),
            head_channels=32,
            norm_groups=32,
        ),
        diffusion=DiffusionSpecification(length=length, noise="coarse"),
        detection_level=length // 4,
        detection_steps=1,
        score=ScoreSpecification(kind="ssim", smoothing_mm=6.0, erosion_mm=4.0),
        # above half of the chain little is left of the image to reconstruct from
        highest_level=length // 2,
        epochs=300,
        slices_per_volume=10,
        batch_size=16,
        learning_rate=3e-4,
        ema=0.999,
        augment=True,
    )


PRESETS: dict[str, Callable[[int], TrainingSettings]] = {
    "paper": paper_settings,
    "small": small_settings,
}


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
    scans = sorted(
        path
        for path in folder.rglob("*")
        if path.name.endswith(SCAN_ENDINGS) and path.is_file() and not _is_mask(path)
    )
    if not scans:
        raise InputError(f"{folder}: holds no NIfTI or MGZ scan; check the folder.")
    return scans


def _is_mask(path: Path) -> bool:
    last = path.name.split(".")[0].lower().replace("-", "_").split("_")[-1]
    return last in ("mask", "brainmask", "seg", "dseg", "label", "labels", "lesion")


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
    digest = hashlib.sha256()
    for scan in scans:
        digest.update(hashlib.sha256(scan.read_bytes()).digest())
    digest.update(json.dumps([len(train), settings.spacing_mm, settings.size]).encode())
    name = digest.hexdigest()
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
    increments = (0.25 * torch.randn(batch, knots - 1, generator=generator)).exp().to(device)
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
    values = values + uniform(-0.2, 0.8, 1, 1, 1) * (mean - values)
    grain = uniform(0.0, 0.02, 1, 1, 1)
    values = values + grain * torch.randn(values.shape, generator=generator).to(device)
    return values.clamp(0.0, 1.0), mask


# --- the loop -------------------------------------------------------------------------------


class AddmModule(lightning.LightningModule):
    """Denoiser, its moving average, and the discriminator, as Lightning wants them."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        self.schedule = LinearSchedule(settings.diffusion.length)
        self.denoiser = build_network(settings.network)
        self.average = AveragedModel(
            self.denoiser, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)
        ).requires_grad_(False)
        self.adversarial = settings.adversarial.weight > 0
        if self.adversarial:
            self.discriminator = build_discriminator(settings.adversarial)
        self.seconds: Tensor
        self.iterations: Tensor
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> Any:
        rate = self.settings.learning_rate
        parts = [self.denoiser, *([self.discriminator] if self.adversarial else [])]
        optimizers = [torch.optim.Adam(part.parameters(), lr=rate) for part in parts]
        schedulers = [
            torch.optim.lr_scheduler.StepLR(o, self.settings.decay_epochs, self.settings.decay)
            for o in optimizers
        ]
        return optimizers, schedulers

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        started = time.monotonic()
        settings = self.settings
        # Reseeded at every iteration, so that a resumed training repeats an undisturbed one.
        generator = torch.Generator().manual_seed(
            _seed(settings.seed, int(self.iterations), self.global_rank)
        )
        mask = batch > 0
        values = (batch.float() - 1.0) / 254.0
        if settings.augment:
            values, mask = augment(values, mask, generator)
        clean = to_model_values(values, mask)
        levels = torch.randint(
            1, settings.highest_level + 1, (len(clean),), generator=generator
        ).to(self.device)
        sample = denoise(
            self.denoiser,
            self.schedule,
            clean,
            levels,
            partial(_draw_noise, settings.diffusion.noise, clean, generator),
            settings.adversarial,
        )
        logged = {"train/l2": sample.l2.detach()}
        optimizers: Any = self.optimizers()
        by_denoiser = optimizers[0] if self.adversarial else optimizers
        loss = sample.l2
        if sample.fake is not None and sample.real is not None:
            by_discriminator = optimizers[1]
            self.discriminator.requires_grad_(False)
            adversarial = adversarial_loss(self.discriminator, sample.fake, settings.adversarial)
            self.discriminator.requires_grad_(True)
            logged["train/adversarial"] = adversarial.detach()
            weighted = settings.adversarial.weight * adversarial
            if batch_index == 0:  # once an epoch: each takes a backward pass of its own
                for name, part in (("l2", sample.l2), ("adversarial", weighted)):
                    norm = self._gradient_norm(part)
                    self.log(f"gradient_norm/{name}", norm, on_step=False, on_epoch=True)
            loss = loss + weighted
        by_denoiser.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(by_denoiser, settings.clip, "norm")
        by_denoiser.step()
        self.average.update_parameters(self.denoiser)

        if sample.fake is not None and sample.real is not None:
            judgement = discriminator_loss(
                self.discriminator, sample.real, sample.fake, settings.adversarial
            )
            by_discriminator.zero_grad()
            self.manual_backward(judgement.loss)
            self.clip_gradients(by_discriminator, settings.clip, "norm")
            by_discriminator.step()
            logged["discriminator/loss"] = judgement.loss.detach()
            logged["discriminator/accuracy_real"] = judgement.accuracy_real
            logged["discriminator/accuracy_fake"] = judgement.accuracy_fake
        if not torch.isfinite(sample.l2):
            raise AddmError(
                "The training diverged (the loss is not finite); lower the learning rate, or "
                "train with --precision 32."
            )
        self.log_dict(logged, prog_bar=False)
        self.log("l2", logged["train/l2"], prog_bar=True, logger=False)
        self.iterations += 1
        self.seconds += time.monotonic() - started

    def _gradient_norm(self, loss: Tensor) -> Tensor:
        parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.stack([g.norm() for g in gradients if g is not None]).norm()

    def on_train_epoch_end(self) -> None:
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        generator = torch.Generator().manual_seed(batch_index)
        clean = to_model_values((batch.float() - 1.0) / 254.0, batch > 0)
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            level = max(1, round(share * self.settings.highest_level))
            levels = torch.full((len(clean),), level, device=self.device)
            noise = _draw_noise(self.settings.diffusion.noise, clean, generator)
            predicted = self.average(self.schedule.add_noise(clean, noise, levels), levels)
            error = (predicted.float() - noise).square().mean()
            self.log("validation/l2", error, prog_bar=True, on_epoch=True, batch_size=len(clean))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _draw_noise(kind: NoiseKind, like: Tensor, generator: torch.Generator) -> Tensor:
    shape = (like.shape[1], like.shape[2], like.shape[3])
    return torch.stack([NOISES[kind](shape, generator) for _ in range(len(like))]).to(like.device)


class SavePictures(Callback):
    """Validation slices, noised, and their one-step reconstruction, as a PNG per validation."""

    def __init__(self, folder: Path, images: Tensor) -> None:
        self.folder = folder
        self.images = images

    @torch.no_grad()
    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, AddmModule):
            return
        from skimage.io import imsave

        module = pl_module
        batch = self.images.to(module.device)
        clean = to_model_values((batch.float() - 1.0) / 254.0, batch > 0)
        level = module.settings.detection_level
        levels = torch.full((len(clean),), level, device=module.device)
        noise = _draw_noise(
            module.settings.diffusion.noise, clean, torch.Generator().manual_seed(0)
        )
        noisy = module.schedule.add_noise(clean, noise, levels)
        restored = module.schedule.clean_from_noise(
            noisy, module.average(noisy, levels).float(), levels
        )
        rows = [torch.cat([i[0].flip(0) for i in part], dim=1) for part in (clean, noisy, restored)]
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

    def export(self, module: AddmModule) -> None:
        training = {
            **self.specification.training,
            "iterations": int(module.iterations),
            "seconds": round(float(module.seconds)),
        }
        weights = module.average.module.state_dict()
        if self.half:
            weights = {name: tensor.half() for name, tensor in weights.items()}
        save_checkpoint(
            self.path, self.specification.model_copy(update={"training": training}), weights
        )

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            assert isinstance(pl_module, AddmModule)
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
        Stop earlier than after ``settings.epochs``.
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
        If the trainer state beside ``output`` belongs to other settings.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise AddmError(f"{output}: the checkpoint's name has to end in .safetensors.")
    run = output.with_name(output.stem + ".training")
    run.mkdir(parents=True, exist_ok=True)
    scans = find_scans(folder)
    train_scans, validation_scans = split_scans(scans, split, settings.seed)
    data = prepare_training_data(train_scans, validation_scans, settings, run, report)

    state = run / "last.ckpt"
    described = json.loads(json.dumps({**_plain(settings), "data_sha256": data.digest}))
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
        update={"name": name or output.stem, "description": description, "licence": licence}
    )
    lightning.seed_everything(settings.seed, verbose=False)
    module = AddmModule(settings)
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
        max_time=timedelta(minutes=minutes) if minutes is not None else None,
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
            SavePictures(run / "pictures", torch.from_numpy(pictured).unsqueeze(1)),
            exporter,
            *([StopAfter(iterations)] if iterations is not None else []),
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


class StopAfter(Callback):
    """Stops at the end of the epoch in which the iterations are reached."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        assert isinstance(pl_module, AddmModule)
        if int(pl_module.iterations) >= self.iterations:
            trainer.should_stop = True


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    plain = asdict(settings)
    plain["network"] = settings.network.model_dump()
    plain["diffusion"] = settings.diffusion.model_dump()
    # what is done with the trained network is no part of its training
    for detection in ("detection_level", "detection_steps", "score"):
        plain.pop(detection)
    return plain


def _specification(
    settings: TrainingSettings, data: TrainingData, train: int, validation: int
) -> ModelSpecification:
    plain = _plain(settings)
    for elsewhere in ("network", "diffusion", "spacing_mm", "size"):
        plain.pop(elsewhere)
    return ModelSpecification(
        name="untitled",
        network=settings.network,
        diffusion=settings.diffusion,
        preparation=PreparationSpecification(
            spacing_mm=settings.spacing_mm,
            size=settings.size,
            percentiles=PERCENTILES,
            landmarks=data.landmarks,
        ),
        detection=DetectionSpecification(
            level=settings.detection_level,
            steps=settings.detection_steps,
            score=settings.score,
            threshold=0.1,
            threshold_source="not calibrated",
        ),
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


def read_log(output: str | Path) -> list[dict[str, str]]:
    """The rows that training has logged so far for a checkpoint path, oldest first."""
    run = Path(output).with_name(Path(output).stem + ".training")
    parts = sorted((run / "log").glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime)
    rows: list[dict[str, str]] = []
    for part in parts:
        with part.open(newline="") as file:
            rows.extend(csv.DictReader(file))
    return rows
