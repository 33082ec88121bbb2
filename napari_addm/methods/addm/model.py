"""ADDM: a DDPM with a denoiser that also has to deceive a discriminator (eq. 5).

The discriminator distinguishes one-step samples of x_{t-1} from noised real images of the
same level; by choice, samples of a much lower level, or the clean image.
With ``weight = 0`` it is the plain DDPM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.addm import AdversarialSettings
from napari_addm.methods.base import StepContext, fresh_noise, random_timesteps
from napari_addm.methods.ddpm.model import DdpmMethod, DdpmObjective
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings

Denoiser = Callable[[Tensor, Tensor], Tensor]
Discriminator = Callable[[Tensor], Tensor]

HIGHEST_JUDGED = 0.5
"""Share of the chain up to which x0-hat, and x_s made from it, are judged with equal weights.
Higher up they are mostly the network's error, enlarged up to 157-fold, which would rule the
discriminator and the gradient."""

HIGHEST_SNR = 5.0
"""Signal-to-noise ratio from which on min-SNR weights are 1; the default of its paper."""

HIGHEST_WEIGHT = 1e4
"""Bound of an adaptive lambda, for a discriminator with hardly a gradient; VQGAN's."""


@dataclass(frozen=True)
class DenoisingSample:
    """One training batch after the denoiser has seen it.

    Attributes
    ----------
    l2 : Tensor, scalar
        Mean squared error of the predicted noise (eq. 4, simplified).
    fake, real : Tensor, shape (B, C, H, W), or None
        The discriminator's inputs; ``fake`` carries the gradient to the denoiser. None if
        the adversarial weight is 0, or no level of the batch can be judged.
    weights : Tensor, shape (B,), or None
        Weight of each image in the adversarial losses; None for 1.
    """

    l2: Tensor
    fake: Tensor | None
    real: Tensor | None
    weights: Tensor | None = None


def denoise(
    denoiser: Denoiser,
    schedule: LinearSchedule,
    clean: Tensor,
    levels: Tensor,
    draw_noise: Callable[[], Tensor],
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
        A fresh noise of the shape of ``clean`` at each call.
    """
    noise = draw_noise()
    noisy = schedule.add_noise(clean, noise, levels)
    predicted = denoiser(noisy, levels).float()
    l2 = (predicted - noise).square().mean()
    if settings.weight == 0:
        return DenoisingSample(l2, None, None)

    # No clamping of x0-hat here: it would cut the gradient.
    clean_hat = schedule.clean_from_noise(noisy, predicted, levels)
    fake, real = _judged_pair(schedule, clean, clean_hat, noisy, levels, draw_noise, settings)
    weights = None
    if settings.level_weighting == "min_snr":
        weights = min_snr_weights(schedule, levels).to(fake)
    elif settings.discriminator_input != "previous":
        low = levels <= HIGHEST_JUDGED * schedule.timesteps
        if not low.any():
            return DenoisingSample(l2, None, None)
        fake, real = fake[low], real[low]
    return DenoisingSample(l2, fake, real, weights)


def _judged_pair(
    schedule: LinearSchedule,
    clean: Tensor,
    clean_hat: Tensor,
    noisy: Tensor,
    levels: Tensor,
    draw_noise: Callable[[], Tensor],
    settings: AdversarialSettings,
) -> tuple[Tensor, Tensor]:
    """What the discriminator sees of every image, fake and real, with what it is told besides."""
    told = [noisy] if settings.conditioned else []
    if settings.discriminator_input == "clean":
        fake, real = clean_hat, clean
    elif settings.discriminator_input == "step":
        lower = levels - (settings.stride * levels).round().long().clamp_min(1)
        # The real sample has to fit the x_t that the discriminator sees.
        fake = _posterior_sample(schedule, clean_hat, noisy, levels, lower, draw_noise)
        real = _posterior_sample(schedule, clean, noisy, levels, lower, draw_noise)
        share = (levels / schedule.timesteps).to(noisy).view(-1, 1, 1, 1)
        told = [noisy, share.expand_as(noisy)]
    else:
        fake = _posterior_sample(schedule, clean_hat, noisy, levels, levels - 1, draw_noise)
        if settings.real_sample == "posterior":
            real = _posterior_sample(schedule, clean, noisy, levels, levels - 1, draw_noise)
        else:
            # Level 0 is the clean image itself, as the last step requires.
            real = schedule.add_noise(clean, draw_noise(), levels - 1)
    return torch.cat([fake, *told], dim=1), torch.cat([real, *told], dim=1)


def _posterior_sample(
    schedule: LinearSchedule,
    clean: Tensor,
    noisy: Tensor,
    levels: Tensor,
    lower: Tensor,
    draw_noise: Callable[[], Tensor],
) -> Tensor:
    """A sample of q(x_lower | x_level, x_0)."""
    mean, variance = schedule.posterior(clean, noisy, levels, lower)
    return mean + variance.sqrt() * draw_noise()


def min_snr_weights(schedule: LinearSchedule, levels: Tensor) -> Tensor:
    """Min-SNR weights of an x_0 loss, divided by the largest; shape (B,)."""
    bars = schedule.alpha_bar(levels)
    return (bars / (1.0 - bars) / HIGHEST_SNR).clamp_max(1.0)


def _weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over patches and images (B, ...), each image's times its weight."""
    if weights is None:
        return values.mean()
    return (values.reshape(len(values), -1).mean(dim=1) * weights).mean()


def adaptive_weight(l2: Tensor, adversarial: Tensor, network: nn.Module, share: float) -> Tensor:
    """The lambda that gives the adversarial gradient a share of the L2's norm; scalar.

    Both are measured at all weights. At the last layer alone, where VQGAN measures, the
    adversarial gradient looks up to four times as large beside the L2's, because it is smooth.

    Parameters
    ----------
    l2, adversarial : Tensor, scalar
        Losses of the network, the latter without a weight.
    """
    norms = [_gradient_norm(loss, network) for loss in (l2, adversarial)]
    # a discriminator without a gradient gives infinity, or 0 / 0
    return (share * norms[0] / norms[1]).nan_to_num(0.0).clamp_max(HIGHEST_WEIGHT)


def _gradient_norm(loss: Tensor, network: nn.Module) -> Tensor:
    weights = [each for each in network.parameters() if each.requires_grad]
    found = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
    return torch.stack([each.float().norm() for each in found]).norm()


def adversarial_loss(
    discriminator: Discriminator,
    fake: Tensor,
    settings: AdversarialSettings,
    weights: Tensor | None = None,
) -> Tensor:
    """The denoiser's adversarial loss, without lambda; scalar."""
    logits = discriminator(fake).float()
    if settings.loss == "non_saturating":
        return _weighted_mean(softplus(-logits), weights)
    return -_weighted_mean(softplus(logits), weights)


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
    weights: Tensor | None = None,
) -> Judgement:
    """Minus ``E log D(real) + E log(1 - D(fake))``, plus the R1 penalty if asked for."""
    real, fake = real.detach(), fake.detach()
    if settings.r1:
        real.requires_grad_(True)
    on_real = discriminator(real).float()
    on_fake = discriminator(fake).float()
    loss = _weighted_mean(softplus(-on_real), weights)
    loss = loss + _weighted_mean(softplus(on_fake), weights)
    if settings.r1:
        (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        penalty = gradient.square().flatten(1).sum(dim=1)
        loss = loss + settings.r1 / 2.0 * _weighted_mean(penalty, weights)
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
        # The network returns every layer's features, the logits last.
        logits: Tensor = self.network(image)[-1]
        return logits


def build_discriminator(settings: AdversarialSettings) -> nn.Module:
    """An untrained discriminator for one-channel images."""
    # x_s, x_t and a plane of t / T; or the judged image, with or without x_t
    step = settings.discriminator_input == "step"
    channels = 3 if step else 1 + settings.conditioned
    return channels_last(PatchCritic(channels))


class AddmObjective(DdpmObjective):
    """The denoiser and the discriminator, in turn."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, AdversarialSettings)
        self.options = settings.options
        self.adversarial = self.options.weight > 0
        if self.adversarial:
            self.discriminator = build_discriminator(self.options)

    def optimizers(self) -> list[Optimizer]:
        """Adam for the denoiser, and for the discriminator if there is one."""
        parts = [self.network, *([self.discriminator] if self.adversarial else [])]
        return [torch.optim.Adam(p.parameters(), lr=self.settings.learning_rate) for p in parts]

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """One step of the denoiser, one of the discriminator."""
        settings = self.options
        levels = random_timesteps(len(clean), self.max_timestep, context.generator)
        sample = denoise(
            self.network,
            self.schedule,
            clean,
            levels.to(clean.device),
            partial(fresh_noise, self.draw_noise, clean, context.generator),
            settings,
        )
        logged = {"l2": sample.l2}
        if sample.fake is None or sample.real is None:
            context.optimizer_step(sample.l2)
            return logged
        self.discriminator.requires_grad_(False)
        adversarial = adversarial_loss(self.discriminator, sample.fake, settings, sample.weights)
        self.discriminator.requires_grad_(True)
        logged["adversarial"] = adversarial
        if settings.share is None:
            weighted = settings.weight * adversarial
        else:
            weight = adaptive_weight(sample.l2, adversarial, self.network, settings.share)
            logged["adversarial_weight"] = weight
            weighted = weight * adversarial
        if context.gradient_norm is not None:
            logged["gradient_norm/l2"] = context.gradient_norm(sample.l2)
            logged["gradient_norm/adversarial"] = context.gradient_norm(weighted)
        context.optimizer_step(sample.l2 + weighted)
        judgement = discriminator_loss(
            self.discriminator, sample.real, sample.fake, settings, sample.weights
        )
        context.optimizer_step(judgement.loss, optimizer=1)
        logged["discriminator/loss"] = judgement.loss
        logged["discriminator/accuracy_real"] = judgement.accuracy_real
        logged["discriminator/accuracy_fake"] = judgement.accuracy_fake
        return logged


class AddmMethod(DdpmMethod):
    """The denoiser detects as in the plain DDPM; the adversary is needed in training only."""

    objective = AddmObjective
