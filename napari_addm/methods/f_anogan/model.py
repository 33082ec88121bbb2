"""The two stages of f-AnoGAN.

First a Wasserstein GAN with gradient penalty learns to draw healthy slices from random
codes. Then generator and critic are frozen, and an encoder learns for each slice the code
from which the generator draws it again (izi_f: image to code to image, also compared in
the critic's features).

The published score of an image adds the error of the critic's features, which is one number
per image and says nothing about places; the published map is the residual alone, as here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, mse_loss
from torch.optim import Optimizer

from napari_addm.methods.base import Objective, OnePass, StepContext
from napari_addm.methods.f_anogan import GanSpecification
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings

CRITIC_STEPS = 5
"""Steps of the critic for one of the generator."""

PENALTY = 10.0
KAPPA = 1.0
"""Weight of the critic's features in the encoder's loss."""

BETAS = (0.0, 0.9)
ENCODER_RATE = 0.5
"""The encoder's learning rate as a fraction of the GAN's: 5e-5 of 1e-4."""

ENCODER_FROM = 0.6
"""Fraction of the training after which the GAN is frozen and the encoder learns."""

Norm = Callable[[int], nn.Module]
# Over channels and positions of each image: batch norm would mix images, but the penalty looks
# at the gradient of each image alone.
LAYER_NORM: Norm = partial(nn.GroupNorm, 1)
BATCH_NORM: Norm = nn.BatchNorm2d


def _enlarge(image: Tensor) -> Tensor:
    return interpolate(image, scale_factor=2.0, mode="nearest")


def _shrink(image: Tensor) -> Tensor:
    return avg_pool2d(image, 2)


class UpBlock(nn.Module):
    """A residual block, normalized before each convolution, that doubles the image."""

    def __init__(self, before: int, after: int, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(before), norm(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, image: Tensor) -> Tensor:
        inner = self.conv1(_enlarge(self.norm1(image).relu()))
        inner = self.conv2(self.norm2(inner).relu())
        # A 1 x 1 convolution and nearest-neighbor enlargement commute; this order is cheaper.
        return inner + _enlarge(self.shortcut(image))


class DownBlock(nn.Module):
    """A residual block, normalized before each convolution, that halves the image."""

    def __init__(self, before: int, after: int, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(before), norm(before)
        self.conv1 = nn.Conv2d(before, before, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(before, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, image: Tensor) -> Tensor:
        inner = self.conv1(self.norm1(image).relu())
        inner = _shrink(self.conv2(self.norm2(inner).relu()))
        return inner + self.shortcut(_shrink(image))


def _coarsest(specification: GanSpecification, size: tuple[int, int]) -> tuple[int, int, int]:
    divisor = specification.divisor
    return specification.channels[-1], size[0] // divisor, size[1] // divisor


class Generator(nn.Module):
    """A code (B, latent) to an image (B, 1, H, W) of -1..1."""

    def __init__(self, specification: GanSpecification, size: tuple[int, int]) -> None:
        super().__init__()
        channels, factor = specification.channels, specification.unshuffle
        shape = _coarsest(specification, size)
        widths = (channels[-1], *reversed(channels))
        unfolded = nn.Conv2d(channels[0], factor**2, 3, padding=1)
        with torch.no_grad():
            # Equal weights for all pixels of a block prevent a checkerboard, which a short
            # training would not remove (Aitken et al., arXiv:1707.02937).
            for parameter in unfolded.parameters():
                parameter.copy_(parameter[:1].clone().expand_as(parameter))
        self.layers = nn.Sequential(
            nn.Linear(specification.latent, prod(shape)),
            nn.Unflatten(1, shape),
            *(UpBlock(a, b, BATCH_NORM) for a, b in pairwise(widths)),
            BATCH_NORM(channels[0]),
            nn.ReLU(),
            unfolded,
            nn.PixelShuffle(factor),
            nn.Tanh(),
        )

    def forward(self, code: Tensor) -> Tensor:
        image: Tensor = self.layers(code)
        return image


def _trunk(specification: GanSpecification, norm: Norm) -> nn.Sequential:
    """Layers of critic and encoder: an image (B, 1, H, W) to features (B, N)."""
    channels, factor = specification.channels, specification.unshuffle
    return nn.Sequential(
        nn.PixelUnshuffle(factor),
        nn.Conv2d(factor**2, channels[0], 3, padding=1),
        *(DownBlock(a, b, norm) for a, b in pairwise((*channels, channels[-1]))),
        nn.Flatten(),
    )


class Critic(nn.Module):
    """An image (B, 1, H, W) to how real it is, (B, 1)."""

    def __init__(self, specification: GanSpecification, size: tuple[int, int]) -> None:
        super().__init__()
        self.features = _trunk(specification, LAYER_NORM)
        self.judge = nn.Linear(prod(_coarsest(specification, size)), 1)

    def forward(self, image: Tensor) -> Tensor:
        score: Tensor = self.judge(self.features(image))
        return score


class FAnogan(nn.Module):
    """Encoder and generator; maps an image (B, 1, H, W) to its reconstruction."""

    def __init__(self, specification: GanSpecification, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _trunk(specification, BATCH_NORM),
            nn.Linear(prod(_coarsest(specification, size)), specification.latent),
            nn.Tanh(),
        )
        self.generator = Generator(specification, size)

    def forward(self, image: Tensor) -> Tensor:
        reconstruction: Tensor = self.generator(self.encoder(image))
        return reconstruction


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """Deviation of the critic's slope from 1 between real and fake (Gulrajani et al., 2017).

    Parameters
    ----------
    critic : callable
        (B, 1, H, W) to (B, 1).
    real, fake : Tensor, shape (B, 1, H, W)
    share : Tensor, shape (B, 1, 1, 1)
        0..1, where between real and fake to look.

    Returns
    -------
    Tensor of float32, scalar
        Mean of ``(slope - 1)^2``, without its weight.
    """
    # float32 at every training precision: this is the gradient of a gradient.
    with torch.autocast(real.device.type, enabled=False):
        real, fake = real.detach().float(), fake.detach().float()
        between = (real + share * (fake - real)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        slope = gradient.flatten(1).norm(dim=1)
        return (slope - 1.0).square().mean()


def build_gan(network: Any, size: tuple[int, int]) -> FAnogan:
    """Untrained encoder and generator for slices of one size."""
    return channels_last(FAnogan(network, size))


class FAnoganObjective(Objective):
    """Generator and critic against each other, then the encoder alone.

    A training that is continued with a larger budget goes back to the GAN until its share
    of the new budget is done, and then on with the encoder.
    """

    network: FAnogan

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.network, GanSpecification)
        self.latent = settings.network.latent
        self.network = build_gan(settings.network, settings.size)
        self.critic = channels_last(Critic(settings.network, settings.size))
        self.critic_steps: Tensor
        self.register_buffer("critic_steps", torch.zeros((), dtype=torch.int64))

    def optimizers(self) -> list[Optimizer]:
        """Adam for the generator and the critic, RMSprop for the encoder."""
        rate = self.settings.learning_rate
        return [
            torch.optim.Adam(self.network.generator.parameters(), lr=rate, betas=BETAS),
            torch.optim.Adam(self.critic.parameters(), lr=rate, betas=BETAS),
            torch.optim.RMSprop(self.network.encoder.parameters(), lr=ENCODER_RATE * rate),
        ]

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """One step of the critic and, after every fifth, one of the generator; or the encoder's.

        The moving average that is saved follows the generator with a delay. It catches up
        while the encoder learns, because the generator then stands still.
        """
        generating = context.progress < ENCODER_FROM
        self.network.generator.train(generating)
        self.network.generator.requires_grad_(generating)
        self.critic.requires_grad_(generating)
        return self._gan_step(clean, context) if generating else self._encoder_step(clean, context)

    def _gan_step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        generator = self.network.generator
        with torch.no_grad():
            fake = generator(self._codes(clean, context))
        share = torch.rand(len(clean), 1, 1, 1, generator=context.generator).to(clean.device)
        distance = self._mean_score(clean) - self._mean_score(fake)
        penalty = gradient_penalty(self.critic, clean, fake, share)
        loss = PENALTY * penalty - distance
        context.optimizer_step(loss, optimizer=1)
        logged = {"critic": loss, "distance": distance, "penalty": penalty}
        self.critic_steps += 1
        if self.critic_steps % CRITIC_STEPS == 0:
            self.critic.requires_grad_(False)
            context.optimizer_step(
                -self._mean_score(generator(self._codes(clean, context))), optimizer=0
            )
        return logged

    def _codes(self, like: Tensor, context: StepContext) -> Tensor:
        return torch.randn(len(like), self.latent, generator=context.generator).to(like.device)

    def _mean_score(self, images: Tensor) -> Tensor:
        scores: Tensor = self.critic(images)
        return scores.float().mean()

    def _encoder_step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        image, features = self._errors(self.network, clean)
        loss = image + KAPPA * features
        context.optimizer_step(loss, optimizer=2)
        return {"encoder": loss, "l2": image, "features": features}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The encoder's loss; high while only the GAN learns."""
        image, features = self._errors(network, clean)
        return image + KAPPA * features

    def _errors(self, network: nn.Module, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the reconstruction, and of the critic's features of it."""
        restored = network(clean)
        found: Tensor = self.critic.features(restored)
        with torch.no_grad():
            wanted: Tensor = self.critic.features(clean)
        return mse_loss(restored.float(), clean), mse_loss(found.float(), wanted.float())


class FAnoganMethod(OnePass):
    """One pass: encode a slice, and generate the healthy slice of that code."""

    objective = FAnoganObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """Encoder and generator; their dense layers fit one size."""
        return build_gan(network, size)
