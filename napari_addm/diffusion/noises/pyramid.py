"""Gaussian noise with power at every scale: a pyramid of grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from napari_addm.diffusion.noise import Noise, Shape
from napari_addm.diffusion.noises._grid import interpolation

OCTAVES = 6
GROWTH = 1.25


def pyramid(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw Gaussian noise with power at every scale, variance 1 at every pixel.

    The noise is a sum of white Gaussian grids with 1, 2, 4, ..., 32 pixels between their knots,
    bilinearly interpolated; each octave weighs 1.25 times the next finer one. White noise leaves
    the low frequencies of an image, and so a big soft lesion, almost untouched; this noise does
    not.

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
    total = torch.zeros(shape)
    power = 0.0
    for octave in range(OCTAVES):
        stride = 2**octave
        weight = GROWTH**octave
        # The offset of the knots is random, because fixed knots would always corrupt the
        # same places least.
        offset_y, offset_x = torch.randint(0, stride, (2,), generator=generator).tolist()
        rows = interpolation(height, stride, offset_y, unit_variance=True)
        columns = interpolation(width, stride, offset_x, unit_variance=True)
        knots = torch.randn(channels, rows.shape[1], columns.shape[1], generator=generator)
        if stride == 1:  # every pixel is a knot
            total += knots[:, :height, :width]
        else:
            total.add_(rows @ knots @ columns.T, alpha=weight)
        power += weight**2
    return total.div_(math.sqrt(power))


NOISE = Noise(
    title="Pyramid",
    description="Gaussian noise with power at every scale: also corrupts big soft lesions.",
    source="six octaves of interpolated grids, as pyramid noise",
    draw=pyramid,
)
