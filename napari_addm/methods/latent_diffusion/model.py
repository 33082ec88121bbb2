"""Diffusion in the latents of a VQ-VAE.

A diffusion model learns the latents of a VQ-VAE. Where its steps disagree with a scan's
latents more than with healthy ones, the latents are inpainted from their surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn.functional import interpolate

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.diffusion.noise import Shape
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.base import (
    DrawNoise,
    Method,
    Reconstruction,
    Sampling,
    StepContext,
    fresh_noise,
    random_timesteps,
)
from napari_addm.methods.ddpm.model import VALIDATION_FRACTIONS
from napari_addm.methods.latent_diffusion import LatentUNetSpecification
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings
from napari_addm.methods.vqvae import (
    TwoStageObjective,
    build_vqvae,
    codebook,
    decode,
    encode,
    frozen,
)
from napari_addm.registry import NOISES, SAMPLERS

DIVERGENCE_RANGE = (0.4, 0.6)
"""Where in the chain the divergence is measured, as fractions of its length."""

DIVERGENCE_LEVELS = 9
"""Number of levels that represent that range."""

HEALTHY_FRACTION = 0.975
"""Fraction of the healthy latents at a position that the mask leaves alone."""

MEASURING = 0.9
"""Fraction of the training after which healthy divergences are gathered."""

REMEMBERED = 512
"""Number of slices with divergences that are kept, the newest."""


class LatentDiffusion(nn.Module):
    """A frozen VQ-VAE, and the U-Net that predicts the noise in its latents.

    Latents are quantized, and scaled to mean 0 and variance 1 per channel, float32
    (B, C, h, w). ``forward`` maps noisy ones and levels (B,) to the noise.

    Attributes
    ----------
    mean, deviation : Tensor of float32, shape (C, 1, 1)
        Statistics of the VQ-VAE's latents.
    healthy : Tensor of float32, shape (1, h, w)
        The divergence that :data:`HEALTHY_FRACTION` of the healthy latents stay below;
        0 until it has been measured, so that every latent is inpainted.
    """

    def __init__(self, specification: LatentUNetSpecification, size: tuple[int, int]) -> None:
        super().__init__()
        vqvae, unet = specification.vqvae, specification.unet
        self.vqvae = frozen(build_vqvae(vqvae))
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=vqvae.embedding_size,
            out_channels=vqvae.embedding_size,
            channels=unet.channels,
            num_res_blocks=unet.res_blocks,
            attention_levels=unet.attention,
            num_head_channels=unet.head_channels,
            norm_num_groups=unet.norm_groups,
        )
        self.mean: Tensor
        self.deviation: Tensor
        self.healthy: Tensor
        height, width = (n // vqvae.divisor for n in size)
        self.register_buffer("mean", torch.zeros(vqvae.embedding_size, 1, 1))
        self.register_buffer("deviation", torch.ones(vqvae.embedding_size, 1, 1))
        self.register_buffer("healthy", torch.zeros(1, height, width))

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        predicted: Tensor = self.unet(
            noisy.contiguous(memory_format=torch.channels_last), timesteps=levels
        )
        return predicted.float()

    def encode(self, image: Tensor) -> Tensor:
        """Scaled latents of images (B, 1, H, W)."""
        latents = codebook(self.vqvae).embed(encode(self.vqvae, image))
        return (latents - self.mean) / self.deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 1, H, W) of scaled latents, which are quantized once more."""
        codes = codebook(self.vqvae).quantize(latents * self.deviation + self.mean)[2]
        return decode(self.vqvae, codes)


def divergence_levels(length: int) -> list[int]:
    """The levels at which the divergence is measured, in a chain of ``length``."""
    low, high = DIVERGENCE_RANGE
    span = (high - low) / (DIVERGENCE_LEVELS - 1)
    return [round((low + n * span) * length) for n in range(DIVERGENCE_LEVELS)]


def divergence(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    schedule: LinearSchedule,
    latents: Tensor,
    noise: Tensor,
    level: int,
) -> Tensor:
    """KL divergence of the model's step from the true one, per latent place.

    Both steps to ``level - 1`` are Gaussians of one variance, so that it is the squared
    distance of their means over twice the variance: q(x_{t-1} | x_t, x_0) knows the
    latents, the model's has x0-hat in their place.

    Parameters
    ----------
    latents, noise : Tensor, shape (B, C, h, w)

    Returns
    -------
    Tensor of float32, shape (B, 1, h, w)
        In nats, mean over the channels.
    """
    noisy = schedule.add_noise(latents, noise, level)
    predicted = denoiser(noisy, torch.full((len(noisy),), level, device=noisy.device))
    expected = schedule.clean_from_noise(noisy, predicted, level)
    true_mean, variance = schedule.posterior(latents, noisy, level, level - 1)
    model_mean, _ = schedule.posterior(expected, noisy, level, level - 1)
    squared = (true_mean - model_mean).square() / (2.0 * variance)
    return squared.mean(dim=1, keepdim=True)


def inpaint(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    schedule: LinearSchedule,
    latents: Tensor,
    mask: Tensor,
    sampling: Sampling,
    noise: Callable[[int], Tensor],
) -> Iterator[Tensor]:
    """Paint the masked latents from their surroundings.

    After every step what is not masked becomes the scan's own again, noised to where
    the step has come.

    Parameters
    ----------
    latents : Tensor of float32, shape (B, C, h, w)
    mask : Tensor of bool, shape (B, 1, h, w)
    noise : callable
        ``noise(0)`` noises the latents; ``noise(n)`` is fresh for the n-th step.

    Yields
    ------
    Tensor of float32, shape (B, C, h, w)
        After every step; the last are the painted latents.
    """
    sampler = SAMPLERS[sampling.sampler]
    first = noise(0)
    state = schedule.add_noise(latents, first, sampling.levels[0])
    for n, levels in enumerate(pairwise(sampling.levels), start=1):

        def fresh(_: int, n: int = n) -> Tensor:
            return noise(n)

        (painted,) = sampler.sample(
            denoiser, state, levels, schedule, eta=sampling.eta, noise=fresh
        )
        # The same noise all the way: what is kept then runs along one path, as DDIM's does.
        state = torch.where(mask, painted, schedule.add_noise(latents, first, levels[1]))
        yield state


class LatentDiffusionObjective(TwoStageObjective):
    """The VQ-VAE, then the U-Net, and at the end what divergence healthy latents leave."""

    network: LatentDiffusion

    def __init__(self, settings: TrainingSettings) -> None:
        assert isinstance(settings.network, LatentUNetSpecification)
        assert settings.diffusion is not None
        network = channels_last(LatentDiffusion(settings.network, settings.size))
        super().__init__(settings, settings.network.vqvae, network)
        assert settings.max_timestep is not None
        self.max_timestep = settings.max_timestep
        self.noise = settings.diffusion.noise
        self.schedule = LinearSchedule(settings.diffusion.timesteps)
        self.divergences: Tensor
        self.gathered: Tensor
        # In the trainer's state, so that a resumed training goes on with them.
        self.register_buffer("divergences", torch.zeros(REMEMBERED, *network.healthy.shape))
        self.register_buffer("gathered", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, latents: Tensor) -> None:
        """Let mean and deviation of the latents follow, too."""
        weight = self.following()
        spread, mean = torch.std_mean(latents, dim=(0, 2, 3))
        self.network.mean.lerp_(mean[:, None, None], weight)
        # A channel of which all codes agree must not divide by 0.
        self.network.deviation.lerp_(spread.clamp_min(1e-3)[:, None, None], weight)
        super().follow(latents)

    def second(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Mean squared error of the predicted noise at random levels."""
        with torch.no_grad():
            latents = self.network.encode(clean)
        levels = random_timesteps(len(clean), self.max_timestep, context.generator)
        loss = self._error(self.network, latents, levels.to(clean.device), context.generator)
        context.optimizer_step(loss)
        if context.progress >= MEASURING:
            self._measure(latents, context.generator)
        else:
            self.gathered.zero_()  # of a training that has got a larger budget
        return {"l2": loss}

    @torch.no_grad()
    def _measure(self, latents: Tensor, generator: torch.Generator) -> None:
        """Gather the divergences of a batch, and take the percentile of all so far.

        With the weights that learn: the moving average diverges a little less, so that
        detection masks somewhat fewer healthy latents than the percentile says.
        """
        found = torch.zeros_like(latents[:, :1])
        levels = divergence_levels(self.schedule.timesteps)
        for level in levels:
            noise = fresh_noise(NOISES[self.noise].draw, latents, generator)
            found += divergence(self.network, self.schedule, latents, noise, level) / len(levels)
        for one in found:
            self.divergences[int(self.gathered) % REMEMBERED] = one
            self.gathered += 1
        known = self.divergences[: min(int(self.gathered), REMEMBERED)]
        self.network.healthy.copy_(known.quantile(HEALTHY_FRACTION, dim=0))

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The sum of both stages' errors, in either; the second's from low to high levels."""
        assert isinstance(network, LatentDiffusion)
        latents = network.encode(clean)
        total = (network.decode(latents) - clean).abs().mean()
        for fraction in VALIDATION_FRACTIONS:
            level = max(1, round(fraction * self.max_timestep))
            levels = torch.full((len(clean),), level, device=clean.device)
            error = self._error(network, latents, levels, generator)
            total = total + error / len(VALIDATION_FRACTIONS)
        return total

    def _error(
        self, network: LatentDiffusion, latents: Tensor, levels: Tensor, generator: torch.Generator
    ) -> Tensor:
        noise = fresh_noise(NOISES[self.noise].draw, latents, generator)
        noisy = self.schedule.add_noise(latents, noise, levels)
        return (network(noisy, levels) - noise).square().mean()


class LatentDiffusionMethod(Method):
    """Inpainting of latents that diverge."""

    objective = LatentDiffusionObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """VQ-VAE and U-Net."""
        return channels_last(LatentDiffusion(network, size))

    def calls(self, specification: ModelSpecification, sampling: Sampling) -> int:
        """The levels of the divergence, and the sampling steps."""
        return DIVERGENCE_LEVELS + super().calls(specification, sampling)

    def reconstruct(
        self,
        network: nn.Module,
        specification: ModelSpecification,
        clean: Tensor,
        sampling: Sampling,
        noise: DrawNoise,
    ) -> Iterator[Reconstruction]:
        """Find where the latents diverge, and paint them there."""
        assert isinstance(network, LatentDiffusion)
        assert specification.diffusion is not None
        schedule = LinearSchedule(specification.diffusion.timesteps)
        with torch.no_grad():
            latents = network.encode(clean)
            unchanged = Reconstruction(network.decode(latents), torch.zeros_like(clean))
        shape: Shape = (latents.shape[1], latents.shape[2], latents.shape[3])

        found = torch.zeros_like(latents[:, :1])
        for level in divergence_levels(schedule.timesteps):
            with torch.no_grad():
                # Numbers beyond the steps of any chain, because its noise has to differ.
                drawn = noise(schedule.timesteps + level, shape)
                found += divergence(network, schedule, latents, drawn, level)
            yield unchanged
        mask = found / DIVERGENCE_LEVELS > network.healthy

        def for_step(step: int) -> Tensor:
            return noise(step, shape)

        chain = inpaint(network, schedule, latents, mask, sampling, for_step)
        weight = interpolate(mask.float(), clean.shape[2:], mode="bilinear")
        for painted in chain:
            with torch.no_grad():
                image = network.decode(painted)
            yield Reconstruction(image, weight)
