"""The plain denoising diffusion model (Ho et al., 2020), which ADDM is without its adversary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_addm.checkpoint.specification import (
    DiffusionSpecification,
    ModelSpecification,
    NetworkSpecification,
    ScoreSpecification,
    UNetSpecification,
)
from napari_addm.checkpoint.specification import Method as MethodName
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.base import (
    SMALL_GRID,
    DrawNoise,
    Learner,
    Method,
    Reconstruction,
    Sampling,
    Step,
    TrainingSettings,
    at_precision,
    fresh_noise,
    random_levels,
    uncalibrated,
)
from napari_addm.methods.networks import build_network
from napari_addm.registry import NOISES, SAMPLERS

SMALL_UNET = UNetSpecification(
    pack=2,
    channels=(32, 96, 128, 192),
    res_blocks=(1, 1, 1, 1),
    attention=(False, False, False, True),
    head_channels=32,
    norm_groups=32,
)
PAPER_UNET = UNetSpecification(
    pack=1,
    channels=(128, 128, 256, 256, 512, 512),
    res_blocks=(2, 2, 2, 2, 2, 2),
    attention=(False, False, False, True, True, True),
    head_channels=64,
    norm_groups=32,
)
"""AnoDDPM's network, which ADDM's paper follows where it says nothing."""

VALIDATION_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def small_diffusion(method: MethodName, length: int, noise: str = "coarse") -> TrainingSettings:
    """A preset that trains on a CPU: packed slices, coarse noise, augmentation."""
    return TrainingSettings(
        preset="small",
        method=method,
        **SMALL_GRID,
        network=SMALL_UNET,
        diffusion=DiffusionSpecification(length=length, noise=noise),
        detection=uncalibrated(
            ScoreSpecification(kind="structure", smoothing_mm=6.0, erosion_mm=4.0, symmetry=True),
            round(0.15 * length),
            draws=4,
        ),
        # above half of the chain little is left of the image to reconstruct from
        highest_level=length // 2,
        epochs=300,
        slices_per_volume=10,
        batch_size=16,
        learning_rate=3e-4,
        ema=0.999,
        augment=True,
    )


def paper_diffusion(method: MethodName, length: int, noise: str) -> TrainingSettings:
    """ADDM's published configuration: 256 x 256, batch 4, 3000 epochs."""
    return TrainingSettings(
        preset="paper",
        method=method,
        spacing_mm=(1.0, 0.9, 0.9),
        size=(256, 256),
        network=PAPER_UNET,
        diffusion=DiffusionSpecification(length=length, noise=noise),
        # the level, the squared error and the ancestral sampler are AnoDDPM's
        detection=uncalibrated(
            ScoreSpecification(kind="squared", smoothing_mm=0.0, erosion_mm=0.0),
            length // 4,
            steps=length // 4,
            sampler="ddpm",
        ),
        highest_level=length,
    )


class DdpmLearner(Learner):
    """The denoiser, which learns to tell the noise."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        assert settings.diffusion is not None
        assert isinstance(settings.network, UNetSpecification)
        self.noise = settings.diffusion.noise
        self.schedule = LinearSchedule(settings.diffusion.length)
        self.network = build_network(settings.network)

    def step(self, clean: Tensor, step: Step) -> dict[str, Tensor]:
        """Mean squared error of the predicted noise at random levels."""
        levels = random_levels(len(clean), self.settings.highest_level, step.generator)
        loss = self._error(self.network, clean, levels.to(clean.device), step.generator)
        step.update(loss)
        return {"l2": loss}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same error, mean over levels from low to high."""
        highest = self.settings.highest_level
        errors = []
        for share in VALIDATION_SHARES:
            level = max(1, round(share * highest))
            levels = torch.full((len(clean),), level, device=clean.device)
            errors.append(self._error(network, clean, levels, generator))
        return torch.stack(errors).mean()

    def _error(
        self, network: nn.Module, clean: Tensor, levels: Tensor, generator: torch.Generator
    ) -> Tensor:
        noise = fresh_noise(NOISES[self.noise].draw, clean, generator)
        predicted = network(self.schedule.add_noise(clean, noise, levels), levels)
        return (predicted.float() - noise).square().mean()


class DdpmMethod(Method):
    """Partial diffusion: noise a slice to a level, and denoise it with what is known of health."""

    name: ClassVar[MethodName] = "ddpm"
    title = "DDPM (lambda = 0)"
    source = "Ho, Jain and Abbeel, NeurIPS 2020"
    reduced_precision = True

    def presets(self, length: int) -> dict[str, TrainingSettings]:
        """``"small"``."""
        return {"small": small_diffusion(self.name, length)}

    def build(self, network: NetworkSpecification, size: tuple[int, int]) -> nn.Module:
        """The U-Net that predicts the noise."""
        assert isinstance(network, UNetSpecification)
        return build_network(network)

    def learner(self, settings: TrainingSettings) -> Learner:
        """The denoiser alone."""
        return DdpmLearner(settings)

    def reconstruct(
        self,
        network: nn.Module,
        specification: ModelSpecification,
        clean: Tensor,
        sampling: Sampling,
        noise: DrawNoise,
    ) -> Iterator[Reconstruction]:
        """Noise to the first level and denoise to the last."""
        assert specification.diffusion is not None
        schedule = LinearSchedule(specification.diffusion.length)
        denoiser = at_precision(network)
        levels = sampling.levels
        noisy = schedule.add_noise(clean, noise(0), levels[0])
        sampler = SAMPLERS[sampling.sampler]
        for image in sampler.sample(
            denoiser, noisy, levels, schedule, eta=sampling.eta, noise=noise
        ):
            yield Reconstruction(image)


METHOD = DdpmMethod()
