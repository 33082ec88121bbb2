"""The coarse noise of Kascenas et al. (2023): one coarse grid, bilinearly enlarged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from napari_addm.diffusion.noise import Noise, Shape
from napari_addm.diffusion.noises._grid import interpolation

STRIDE = 8
"""Pixels between two knots, as with 16 x 16 knots on 128 x 128 pixels."""
# Variance at a pixel, over all offsets, of knots with variance 1.
VARIANCE = float(interpolation(STRIDE, STRIDE, 0).square().sum(dim=1).mean()) ** 2


def kascenas_noise(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw white Gaussian knots, 8 pixels apart, bilinearly interpolated and shifted at random.

    As Kascenas et al. [1]_ train their denoising autoencoder with. The knots have variance 1, the
    pixels between them less: 0.45 on average.

    Parameters
    ----------
    shape : (C, H, W)
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, float32, shape (C, H, W)

    References
    ----------
    .. [1] Kascenas et al. The role of noise in denoising models for anomaly
       detection in medical images. Medical Image Analysis, 2023.
    """
    channels, height, width = shape
    offset_y, offset_x = torch.randint(0, STRIDE, (2,), generator=generator).tolist()
    rows, columns = interpolation(height, STRIDE, offset_y), interpolation(width, STRIDE, offset_x)
    knots = torch.randn(channels, rows.shape[1], columns.shape[1], generator=generator)
    return rows @ knots @ columns.T


def coarse_grid(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw the same noise with variance 1 at every pixel, over many draws."""
    return kascenas_noise(shape, generator) / math.sqrt(VARIANCE)


NOISE = Noise(
    title="Coarse grid",
    description="Gaussian noise on one coarse grid: smooth blobs of some 8 pixels.",
    source="Kascenas et al., Medical Image Analysis 2023",
    draw=coarse_grid,
)
