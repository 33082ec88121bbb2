"""Gaussian noise with power at every scale, after Kascenas et al. (2023)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from napari_addm.diffusion.noise import Noise, Shape

OCTAVES = 6
GROWTH = 1.25


def coarse(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw Gaussian noise with power at every scale, variance 1 at every pixel.

    The noise is a sum of white Gaussian grids with 1, 2, 4, ..., 32 pixels between their knots,
    bilinearly interpolated; each octave weighs 1.25 times the next finer one. It follows the coarse
    noise of Kascenas et al. [1]_. White noise leaves the low frequencies of an image, and so a big
    soft lesion, almost untouched; this noise does not.

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
    total = torch.zeros(shape)
    power = 0.0
    for octave in range(OCTAVES):
        stride = 2**octave
        weight = GROWTH**octave
        # The offset of the knots is random, because fixed knots would always corrupt the
        # same places least.
        offset_y, offset_x = torch.randint(0, stride, (2,), generator=generator).tolist()
        rows = _interpolation(height, stride, offset_y)
        columns = _interpolation(width, stride, offset_x)
        knots = torch.randn(channels, rows.shape[1], columns.shape[1], generator=generator)
        if stride == 1:  # every pixel is a knot
            total += knots[:, :height, :width]
        else:
            total.add_(rows @ knots @ columns.T, alpha=weight)
        power += weight**2
    return total.div_(math.sqrt(power))


@lru_cache(maxsize=256)  # enough for one image size: 63 matrices per axis
def _interpolation(size: int, stride: int, offset: int) -> Tensor:
    """Return the interpolation from knots to pixels, scaled to keep white noise's variance."""
    position = (torch.arange(size, dtype=torch.float32) + offset) / stride
    lower = position.floor().long()
    fraction = position - lower
    matrix = torch.zeros(size, int(lower[-1]) + 2)
    pixel = torch.arange(size)
    matrix[pixel, lower] = 1.0 - fraction
    matrix[pixel, lower + 1] += fraction
    return matrix / matrix.square().sum(dim=1, keepdim=True).sqrt()


NOISE = Noise(
    title="Coarse",
    description="Gaussian noise with power at every scale: also corrupts big soft lesions.",
    source="Kascenas et al., Medical Image Analysis 2023",
    draw=coarse,
)
