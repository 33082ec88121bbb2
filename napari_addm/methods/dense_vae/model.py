"""The variational autoencoder with a dense code."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from napari_addm.methods.base import Objective, OnePass, StepContext
from napari_addm.methods.network_specifications import AutoencoderSpecification
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings
from napari_addm.methods.spatial_ae.model import BETAS, decoder, encoder

SQUEEZE = 8
"""Factor by which the 1 x 1 convolution before the dense layers reduces the channels."""


class DenseVae(nn.Module):
    """A Gaussian code of fixed length for a whole slice.

    Calling it reconstructs an image (B, 1, H, W) from the mean of its code.
    """

    def __init__(self, specification: AutoencoderSpecification, size: tuple[int, int]) -> None:
        super().__init__()
        assert specification.latent is not None
        channels, divisor = specification.channels, specification.divisor
        squeezed = max(1, channels[-1] // SQUEEZE)
        shape = (squeezed, size[0] // divisor, size[1] // divisor)
        self.encoder = nn.Sequential(
            encoder(channels), nn.Conv2d(channels[-1], squeezed, 1), nn.Flatten()
        )
        self.mean = nn.Linear(prod(shape), specification.latent)
        self.log_deviation = nn.Linear(prod(shape), specification.latent)
        self.dropout = nn.Dropout(specification.dropout)
        self.expand = nn.Linear(specification.latent, prod(shape))
        self.decoder = nn.Sequential(
            nn.Unflatten(1, shape), nn.Conv2d(squeezed, channels[-1], 1), decoder(channels)
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of the code, (B, latent) each."""
        features = self.encoder(image.contiguous(memory_format=torch.channels_last))
        return self.dropout(self.mean(features)), self.dropout(self.log_deviation(features))

    def decode(self, code: Tensor) -> Tensor:
        """The image (B, 1, H, W) of a code (B, latent)."""
        image: Tensor = self.decoder(self.dropout(self.expand(code)))
        return image

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image)[0])


def kl_divergence(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """From N(mean, deviation^2) to the standard normal; summed over the code, shape (B,)."""
    variance = (2.0 * log_deviation).exp()
    return 0.5 * (mean.square() + variance - 1.0 - 2.0 * log_deviation).sum(dim=1)


def build_vae(network: Any, size: tuple[int, int]) -> DenseVae:
    """An untrained network for slices of one size."""
    return channels_last(DenseVae(network, size))


class DenseVaeObjective(Objective):
    """The autoencoder, with a code close to the standard normal."""

    network: DenseVae

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        self.network = build_vae(settings.network, settings.size)

    def optimizers(self) -> list[Optimizer]:
        """Adam with the published momentum."""
        rate = self.settings.learning_rate
        return [torch.optim.Adam(self.network.parameters(), lr=rate, betas=BETAS)]

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Absolute error of a code's sample, and the code's divergence from the prior."""
        mean, log_deviation = (part.float() for part in self.network.encode(clean))
        noise = torch.randn(mean.shape, generator=context.generator).to(mean.device)
        decoded = self.network.decode(mean + noise * log_deviation.exp())
        l1, kl = _per_pixel(clean, decoded, mean, log_deviation)
        loss = l1 + kl
        context.optimizer_step(loss)
        return {"loss": loss, "l1": l1, "kl": kl}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same with the mean instead of a sample."""
        assert isinstance(network, DenseVae)
        mean, log_deviation = (part.float() for part in network.encode(clean))
        l1, kl = _per_pixel(clean, network.decode(mean), mean, log_deviation)
        return l1 + kl


def _per_pixel(
    clean: Tensor, decoded: Tensor, mean: Tensor, log_deviation: Tensor
) -> tuple[Tensor, Tensor]:
    """Absolute error and divergence, both summed per image and divided by its pixels.

    The division leaves their balance, which is the published one on images of 0..1, as it is.
    """
    l1 = 0.5 * (decoded.float() - clean).abs().mean()
    return l1, kl_divergence(mean, log_deviation).mean() / clean[0].numel()


class DenseVaeMethod(OnePass):
    """One pass through a code without positions."""

    objective = DenseVaeObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """The autoencoder; its dense layers fit one size."""
        return build_vae(network, size)
