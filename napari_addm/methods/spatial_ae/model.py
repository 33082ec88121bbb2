"""The convolutional autoencoder with a spatial code."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim import Optimizer

from napari_addm.methods.base import Objective, OnePass, StepContext
from napari_addm.methods.network_specifications import AutoencoderSpecification
from napari_addm.methods.networks import channels_last
from napari_addm.methods.settings import TrainingSettings

BETAS = (0.5, 0.999)


def _act(name: str) -> Any:
    # 0.3 is the default slope of Keras, which the published code uses.
    return ("LEAKYRELU", {"negative_slope": 0.3}) if name == "leaky" else name


def encoder(channels: tuple[int, ...]) -> nn.Sequential:
    """Strided 5 x 5 convolutions, each of which halves the image; (B, 1, H, W) to the code."""
    return nn.Sequential(
        *(
            Convolution(2, a, b, 2, 5, "NA", act=_act("leaky"), norm="BATCH")
            for a, b in pairwise((1, *channels))
        )
    )


def decoder(channels: tuple[int, ...]) -> nn.Sequential:
    """The encoder's mirror: transposed convolutions, then a 1 x 1 to the image."""
    widths = (channels[-1], *reversed(channels[:-1]), channels[0])
    return nn.Sequential(
        nn.BatchNorm2d(channels[-1]),
        nn.ReLU(),
        *(
            Convolution(2, a, b, 2, 5, "NA", act=_act("leaky"), norm="BATCH", is_transposed=True)
            for a, b in pairwise(widths)
        ),
        nn.Conv2d(channels[0], 1, 1),
    )


class SpatialAutoencoder(nn.Module):
    """Maps an image (B, 1, H, W) to its reconstruction, through a code of H / 16 x W / 16."""

    def __init__(self, specification: AutoencoderSpecification) -> None:
        super().__init__()
        self.encoder = encoder(specification.channels)
        self.dropout = nn.Dropout(specification.dropout)
        self.decoder = decoder(specification.channels)

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        reconstruction: Tensor = self.decoder(self.dropout(self.encoder(image)))
        return reconstruction


def build_autoencoder(network: Any) -> SpatialAutoencoder:
    """An untrained network."""
    return channels_last(SpatialAutoencoder(network))


class SpatialAeObjective(Objective):
    """The autoencoder, which learns to reproduce its input."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        self.network = build_autoencoder(settings.network)

    def optimizers(self) -> list[Optimizer]:
        """Adam with the published momentum."""
        rate = self.settings.learning_rate
        return [torch.optim.Adam(self.network.parameters(), lr=rate, betas=BETAS)]

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Mean absolute error of the reconstruction."""
        loss = l1_loss(self.network(clean).float(), clean)
        context.optimizer_step(loss)
        return {"l1": loss}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same error, without dropout."""
        return l1_loss(network(clean).float(), clean)


class SpatialAeMethod(OnePass):
    """One pass through a narrow code that keeps positions."""

    objective = SpatialAeObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """The autoencoder, which takes any size that it can halve."""
        return build_autoencoder(network)
