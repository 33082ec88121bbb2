"""White Gaussian noise."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_addm.diffusion.noise import Noise, Shape


def gaussian(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw white Gaussian noise, float32, shape (C, H, W)."""
    return torch.randn(shape, generator=generator)


NOISE = Noise(
    title="Gaussian",
    description="White noise: leaves the low frequencies of an image almost untouched.",
    source="Ho, Jain and Abbeel, NeurIPS 2020",
    draw=gaussian,
)
