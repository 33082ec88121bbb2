"""A denoising autoencoder with coarse noise (Kascenas et al., Medical Image Analysis, 2023).

It learns to take coarse noise of one strength off a slice. A scan goes through it as it
is, without noise: what looks like the noise, such as a lesion, is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from napari_addm.checkpoint.specification import (
    ModelSpecification,
    NetworkSpecification,
    ScoreSpecification,
    UNetSpecification,
)
from napari_addm.diffusion.noise import Shape
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
    uncalibrated,
)
from napari_addm.methods.ddpm import SMALL_UNET
from napari_addm.methods.networks import build_network

NOISE_CELLS = 8
"""Coarseness: one knot of the noise for so many pixels, as 16 x 16 knots on 128 x 128 pixels."""

NOISE_DEVIATION = 0.4
"""Standard deviation of the noise on images of -1..1; .2 on images of 0..1."""


def kascenas_noise(shape: Shape, generator: torch.Generator) -> Tensor:
    """Gaussian noise on a coarse grid, bilinearly enlarged and shifted at random.

    Parameters
    ----------
    shape : (C, H, W)
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, float32, shape (C, H, W)
    """
    channels, height, width = shape
    rows, columns = -(-height // NOISE_CELLS) + 1, -(-width // NOISE_CELLS) + 1
    knots = torch.randn(1, channels, rows, columns, generator=generator)
    field = torch.nn.functional.interpolate(
        knots, scale_factor=NOISE_CELLS, mode="bilinear", align_corners=False
    )[0]
    y, x = torch.randint(0, NOISE_CELLS, (2,), generator=generator).tolist()
    return NOISE_DEVIATION * field[:, y : y + height, x : x + width]


def _without_time(network: nn.Module, image: Tensor) -> Tensor:
    """The same U-Net as the diffusion models', always told the same level."""
    level = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    return at_precision(network)(image, level)


class DenoisingLearner(Learner):
    """The U-Net that takes noise off."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.network, UNetSpecification)
        self.network = build_network(settings.network)

    def step(self, clean: Tensor, step: Step) -> dict[str, Tensor]:
        """Mean squared error of the restored image inside the brain."""
        loss = self._error(self.network, clean, step.generator)
        step.update(loss)
        return {"l2": loss}

    def validation_loss(
        self, network: nn.Module, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same error."""
        return self._error(network, clean, generator)

    def _error(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        brain = clean > -1.0
        noise = fresh_noise(kascenas_noise, clean, generator)
        restored = _without_time(network, torch.where(brain, clean + noise, -1.0))
        return (restored - clean)[brain].square().mean()


class DenoisingMethod(Method):
    """One pass, no noise added."""

    name = "denoising_ae"
    title = "Denoising AE (coarse)"
    source = "Kascenas et al., Medical Image Analysis 2023"
    reduced_precision = True

    def presets(self, length: int) -> dict[str, TrainingSettings]:
        """``"small"``, with the U-Net of the diffusion models."""
        return {
            "small": TrainingSettings(
                preset="small",
                method=self.name,
                **SMALL_GRID,
                network=SMALL_UNET,
                detection=uncalibrated(
                    ScoreSpecification(kind="absolute", smoothing_mm=6.0, erosion_mm=4.0)
                ),
                epochs=300,
                slices_per_volume=10,
                batch_size=16,
                learning_rate=3e-4,
                ema=0.999,
                augment=True,
            )
        }

    def build(self, network: NetworkSpecification, size: tuple[int, int]) -> nn.Module:
        """The U-Net."""
        assert isinstance(network, UNetSpecification)
        return build_network(network)

    def learner(self, settings: TrainingSettings) -> Learner:
        """The U-Net alone."""
        return DenoisingLearner(settings)

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


METHOD = DenoisingMethod()
