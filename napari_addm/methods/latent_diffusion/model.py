"""Diffusion in the latents of a VQ-VAE.

A diffusion model learns the latents of a VQ-VAE. Where its steps disagree with a scan's
latents more than with healthy ones, the latents are inpainted from their surroundings. How much
they disagree there weighs the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.diffusion.noise import Shape
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.base import (
    DrawNoise,
    Method,
    Reconstruction,
    Sampling,
    StepContext,
    chain_noise,
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
from napari_addm.registry import SAMPLERS

DIVERGENCE_RANGE = (0.4, 0.6)
"""Where in the chain the divergence is measured, as fractions of its length."""

DIVERGENCE_LEVELS = 9
"""Number of levels that represent that range."""

HEALTHY_FRACTION = 0.975
"""Fraction of the brain's latents that the mask leaves alone in healthy slices."""

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
    healthy : Tensor of float32, scalar
        The divergence that `HEALTHY_FRACTION` of the healthy brain's latents stay below;
        0 until it has been measured, so that every latent is inpainted.
    """

    def __init__(self, specification: LatentUNetSpecification) -> None:
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
        self.register_buffer("mean", torch.zeros(vqvae.embedding_size, 1, 1))
        self.register_buffer("deviation", torch.ones(vqvae.embedding_size, 1, 1))
        self.register_buffer("healthy", torch.zeros(()))

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


def mean_divergence(
    network: LatentDiffusion,
    schedule: LinearSchedule,
    latents: Tensor,
    draw_noise: Callable[[int], Tensor],
) -> Iterator[Tensor]:
    """Average the divergence over levels, one call of the network each.

    Yields
    ------
    Tensor of float32, shape (B, 1, h, w)
        The mean so far; the last is the whole.
    """
    levels = divergence_levels(schedule.timesteps)
    total = torch.zeros_like(latents[:, :1])
    for count, level in enumerate(levels, start=1):
        with torch.no_grad():
            total += divergence(network, schedule, latents, draw_noise(level), level)
        yield total / count


def smooth_in_brain(divergence: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Average a divergence over 3 x 3 latents, of those that are mostly brain.

    Parameters
    ----------
    divergence : Tensor of float32, shape (B, 1, h, w)
    clean : Tensor of float32, shape (B, 1, H, W)
        The slices, air -1.

    Returns
    -------
    smoothed : Tensor of float32, shape (B, 1, h, w)
        0 where there is no brain near.
    brain : Tensor of bool, shape (B, 1, h, w)
    """
    factor = clean.shape[-1] // divergence.shape[-1]
    brain = avg_pool2d((clean > -1.0).float(), factor) > 0.5
    share = avg_pool2d(brain.float(), 3, 1, 1)
    total = avg_pool2d(divergence * brain, 3, 1, 1)
    return torch.where(share > 0, total / share.clamp_min(0.05), 0.0), brain


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
        network = channels_last(LatentDiffusion(settings.network))
        super().__init__(settings, settings.network.vqvae, network)
        assert settings.max_timestep is not None
        self.max_timestep = settings.max_timestep
        self.draw_noise = chain_noise(settings.diffusion)
        self.schedule = LinearSchedule(settings.diffusion.timesteps)
        self.divergences: Tensor
        self.gathered: Tensor
        # In the trainer's state, so that a resumed training goes on with them.
        height, width = (n // settings.network.vqvae.divisor for n in settings.size)
        self.register_buffer("divergences", torch.full((REMEMBERED, height, width), torch.nan))
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
            self._measure(clean, latents, context.generator)
        else:
            self.gathered.zero_()  # of a training that has got a larger budget
        return {"l2": loss}

    @torch.no_grad()
    def _measure(self, clean: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        """Gather the divergences of a batch, and take the percentile of all so far.

        With the weights that learn: the moving average diverges a little less, so that
        detection masks somewhat fewer healthy latents than the percentile says.
        """

        def draw_noise(level: int) -> Tensor:
            return fresh_noise(self.draw_noise, latents, generator)

        *_, found = mean_divergence(self.network, self.schedule, latents, draw_noise)
        smoothed, brain = smooth_in_brain(found, clean)
        for one in torch.where(brain, smoothed, torch.nan)[:, 0]:
            self.divergences[int(self.gathered) % REMEMBERED] = one
            self.gathered += 1
        self.network.healthy.copy_(self.divergences.nanquantile(HEALTHY_FRACTION))

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
        noise = fresh_noise(self.draw_noise, latents, generator)
        noisy = self.schedule.add_noise(latents, noise, levels)
        return (network(noisy, levels) - noise).square().mean()


class LatentDiffusionMethod(Method):
    """Inpainting of latents that diverge."""

    objective = LatentDiffusionObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """VQ-VAE and U-Net."""
        return channels_last(LatentDiffusion(network))

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

        def for_level(level: int) -> Tensor:
            # Numbers beyond the steps of any chain, because its noise has to differ.
            return noise(schedule.timesteps + level, shape)

        found = torch.zeros_like(latents[:, :1])
        for mean in mean_divergence(network, schedule, latents, for_level):
            found = mean
            yield unchanged
        smoothed, brain = smooth_in_brain(found, clean)
        mask = brain & (smoothed > network.healthy)

        def for_step(step: int) -> Tensor:
            return noise(step, shape)

        chain = inpaint(network, schedule, latents, mask, sampling, for_step)
        unlikely = smoothed / network.healthy.clamp_min(torch.finfo(torch.float32).tiny)
        weight = interpolate(unlikely, clean.shape[2:], mode="bilinear")
        for painted in chain:
            with torch.no_grad():
                image = network.decode(painted)
            yield Reconstruction(image, weight)
