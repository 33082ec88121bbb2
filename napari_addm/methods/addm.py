"""The Adversarial Denoising Diffusion Model (Yu, Oh and Yang, 2023, arXiv:2312.04382).

A DDPM whose denoiser also has to deceive a discriminator that tells its
one-step samples of x_{t-1} from noised real images of the same level (eq. 5).
With ``weight = 0`` it is the plain DDPM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from napari_addm.diffusion.samplers import ddim, ddpm
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.networks import channels_last

Denoiser = Callable[[Tensor, Tensor], Tensor]
Discriminator = Callable[[Tensor], Tensor]
DrawNoise = Callable[[], Tensor]


@dataclass(frozen=True)
class AdversarialSettings:
    """The options of the adversarial part; the defaults are our reading of the paper.

    Attributes
    ----------
    weight : float
        lambda of eq. 5; 0 leaves the plain DDPM.
    loss : str
        ``"saturating"``: the denoiser minimises ``log(1 - D(fake))``, as eq. 5
        is written. ``"non_saturating"``: it minimises ``-log D(fake)``.
    judged : str
        What the discriminator sees: ``"previous"``, the sample of x_{t-1}, or
        ``"clean"``, the x0-hat. The gradient reaches the denoiser strongly
        attenuated through x_{t-1} and undiminished through x0-hat.
    real : str
        The real x_{t-1}: ``"marginal"``, a fresh noising of x_0, or
        ``"posterior"``, a sample of q(x_{t-1} | x_t, x_0).
    conditioned : bool
        Whether the discriminator also sees x_t.
    r1 : float
        Weight gamma of the R1 penalty on real samples; 0 leaves it out.
    """

    weight: float = 0.05
    loss: Literal["saturating", "non_saturating"] = "saturating"
    judged: Literal["previous", "clean"] = "previous"
    real: Literal["marginal", "posterior"] = "marginal"
    conditioned: bool = False
    r1: float = 0.0


@dataclass(frozen=True)
class DenoisingSample:
    """One training batch after the denoiser has seen it.

    Attributes
    ----------
    l2 : Tensor, scalar
        Mean squared error of the predicted noise (eq. 4, simplified).
    fake, real : Tensor, shape (B, C, H, W), or None
        What the discriminator has to tell apart; ``fake`` carries the
        gradient to the denoiser. None if the adversarial weight is 0.
    """

    l2: Tensor
    fake: Tensor | None
    real: Tensor | None


def denoise(
    denoiser: Denoiser,
    schedule: LinearSchedule,
    clean: Tensor,
    levels: Tensor,
    draw_noise: DrawNoise,
    settings: AdversarialSettings,
) -> DenoisingSample:
    """Noise a batch, predict the noise, and take one ancestral step back.

    Parameters
    ----------
    denoiser : callable
        (x_t, t) to the predicted noise.
    clean : Tensor of float32, shape (B, C, H, W)
    levels : Tensor of int, shape (B,)
        t in 1..T.
    draw_noise : callable
        A fresh noise of the shape of ``clean``, unit variance, at each call.
    """
    noise = draw_noise()
    noisy = schedule.add_noise(clean, noise, levels)
    predicted = denoiser(noisy, levels).float()
    l2 = (predicted - noise).square().mean()
    if settings.weight == 0:
        return DenoisingSample(l2, None, None)

    # No clamping of x0-hat here: it would cut the gradient.
    clean_hat = schedule.clean_from_noise(noisy, predicted, levels)
    if settings.judged == "clean":
        fake, real = clean_hat, clean
    else:
        mean, variance = schedule.posterior(clean_hat, noisy, levels, levels - 1)
        fake = mean + variance.sqrt() * draw_noise()
        if settings.real == "posterior":
            mean, variance = schedule.posterior(clean, noisy, levels, levels - 1)
            real = mean + variance.sqrt() * draw_noise()
        else:
            # level 0 is the clean image itself, as the last step requires
            real = schedule.add_noise(clean, draw_noise(), levels - 1)
    if settings.conditioned:
        fake, real = torch.cat([fake, noisy], dim=1), torch.cat([real, noisy], dim=1)
    return DenoisingSample(l2, fake, real)


def adversarial_loss(
    discriminator: Discriminator, fake: Tensor, settings: AdversarialSettings
) -> Tensor:
    """The denoiser's adversarial loss, without its weight; scalar."""
    logits = discriminator(fake).float()
    if settings.loss == "non_saturating":
        return softplus(-logits).mean()
    return -softplus(logits).mean()


@dataclass(frozen=True)
class Judgement:
    """The discriminator's loss and how often it is right on real and on fake."""

    loss: Tensor
    accuracy_real: Tensor
    accuracy_fake: Tensor


def discriminator_loss(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    settings: AdversarialSettings,
) -> Judgement:
    """Minus ``E log D(real) + E log(1 - D(fake))``, plus the R1 penalty if asked for."""
    real, fake = real.detach(), fake.detach()
    if settings.r1:
        real.requires_grad_(True)
    on_real = discriminator(real).float()
    on_fake = discriminator(fake).float()
    loss = softplus(-on_real).mean() + softplus(on_fake).mean()
    if settings.r1:
        (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        loss = loss + settings.r1 / 2.0 * gradient.square().flatten(1).sum(dim=1).mean()
    return Judgement(loss, (on_real > 0).float().mean(), (on_fake <= 0).float().mean())


class PatchCritic(nn.Module):
    """MONAI's patch discriminator; maps (B, C, H, W) to one logit per patch.

    Group norm instead of its default batch norm, because batches are small.
    """

    def __init__(self, in_channels: int, channels: int = 32, layers: int = 3) -> None:
        super().__init__()
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        self.network = PatchDiscriminator(
            spatial_dims=2,
            channels=channels,
            in_channels=in_channels,
            num_layers_d=layers,
            norm=("GROUP", {"num_groups": 8}),
        )

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        # it returns every layer's features, the logits last
        logits: Tensor = self.network(image)[-1]
        return logits


def build_discriminator(settings: AdversarialSettings) -> nn.Module:
    """An untrained discriminator for one-channel images."""
    critic = PatchCritic(in_channels=2 if settings.conditioned else 1)
    return channels_last(critic)


def reconstruct(
    denoiser: Denoiser,
    schedule: LinearSchedule,
    clean: Tensor,
    levels: Sequence[int],
    noise: Callable[[int], Tensor],
    *,
    sampler: Literal["ddim", "ddpm"] = "ddim",
    eta: float = 0.0,
) -> Iterator[Tensor]:
    """Noise images to ``levels[0]`` and denoise them to the last of ``levels``.

    Parameters
    ----------
    clean : Tensor of float32, shape (B, C, H, W)
        The scan's slices, -1..1.
    levels : sequence of int
        Falling, from the noise level to 0.
    noise : callable
        ``noise(0)`` noises the images; ``noise(n)``, n >= 1, is for the sampler's n-th step.

    Yields
    ------
    Tensor, shape (B, C, H, W)
        The state after each call of the denoiser; the last one is the reconstruction.
    """
    noisy = schedule.add_noise(clean, noise(0), levels[0])
    if sampler == "ddpm":
        return ddpm(denoiser, noisy, levels, schedule, noise=noise)
    return ddim(denoiser, noisy, levels, schedule, eta=eta, noise=noise)
