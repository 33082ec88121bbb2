"""The denoising autoencoder learns to remove coarse noise of one strength from a slice.

A scan goes through it without noise: it removes what looks like noise, such as a lesion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.diffusion.noises.coarse_grid import kascenas_noise
from napari_addm.methods.base import (
    DrawNoise,
    Method,
    Objective,
    Reconstruction,
    Sampling,
    StepContext,
    at_precision,
    fresh_noise,
)
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.networks import build_network
from napari_addm.methods.settings import TrainingSettings

KNOT_DEVIATION = 0.4
"""Standard deviation of the noise's knots on images of -1..1; 0.2 on images of 0..1."""


def _without_time(network: nn.Module, image: Tensor) -> Tensor:
    """Call the U-Net of the diffusion models, always with the same level."""
    level = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    return at_precision(network)(image, level)


class DenoisingObjective(Objective):
    """The U-Net that removes noise."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.network, UNetSpecification)
        self.network = build_network(settings.network)

    def step(self, clean: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Mean squared error of the restored image inside the brain."""
        loss = self._error(self.network, clean, context.generator)
        context.optimizer_step(loss)
        return {"l2": loss}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same error."""
        return self._error(network, clean, generator)

    def _error(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        brain = clean > -1.0
        noise = KNOT_DEVIATION * fresh_noise(kascenas_noise, clean, generator)
        restored = _without_time(network, torch.where(brain, clean + noise, -1.0))
        return (restored - clean)[brain].square().mean()


class DenoisingMethod(Method):
    """One pass, no noise added."""

    objective = DenoisingObjective

    def build(self, network: Any, size: tuple[int, int]) -> nn.Module:
        """The U-Net."""
        return build_network(network)

    def reconstruct(
        self,
        network: nn.Module,
        specification: ModelSpecification,
        clean: Tensor,
        sampling: Sampling,
        noise: DrawNoise,
    ) -> Iterator[Reconstruction]:
        """The scan as it is, through the network."""
        yield Reconstruction(_without_time(network, clean))
