"""The denoiser of the diffusion models: its training, and partial diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.base import (
    DrawNoise,
    Method,
    Objective,
    Reconstruction,
    Sampling,
    StepContext,
    at_precision,
    chain_noise,
    fresh_noise,
    random_timesteps,
)
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.networks import build_network
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import SAMPLERS

VALIDATION_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


class DdpmObjective(Objective):
    """The denoiser, which learns to predict the noise."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        assert settings.diffusion is not None
        assert settings.max_timestep is not None
        assert isinstance(settings.network, UNetSpecification)
        self.max_timestep = settings.max_timestep
        self.draw_noise = chain_noise(settings.diffusion)
        self.schedule = LinearSchedule(settings.diffusion.timesteps)
        self.network = build_network(settings.network)

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Mean squared error of the predicted noise at random levels."""
        levels = random_timesteps(len(clean), self.max_timestep, context.generator)
        loss = self._error(self.network, clean, levels.to(clean.device), context.generator)
        context.optimizer_step(loss)
        return {"l2": loss}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same error, mean over levels from low to high."""
        errors = []
        for fraction in VALIDATION_FRACTIONS:
            level = max(1, round(fraction * self.max_timestep))
            levels = torch.full((len(clean),), level, device=clean.device)
            errors.append(self._error(network, clean, levels, generator))
        return torch.stack(errors).mean()

    def _error(
        self, network: nn.Module, clean: Tensor, levels: Tensor, generator: torch.Generator
    ) -> Tensor:
        noise = fresh_noise(self.draw_noise, clean, generator)
        predicted = network(self.schedule.add_noise(clean, noise, levels), levels)
        return (predicted.float() - noise).square().mean()


class DdpmMethod(Method):
    """Partial diffusion: noise a slice to a level, then denoise it as a healthy one."""

    objective = DdpmObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """The U-Net that predicts the noise."""
        return build_network(network)

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
        schedule = LinearSchedule(specification.diffusion.timesteps)
        denoiser = at_precision(network)
        levels = sampling.levels
        noisy = schedule.add_noise(clean, noise(0), levels[0])
        sampler = SAMPLERS[sampling.sampler]
        clip = (-1.0, 1.0) if sampler.clips else None
        for image in sampler.sample(
            denoiser, noisy, levels, schedule, eta=sampling.eta, noise=noise, clip=clip
        ):
            yield Reconstruction(image)
