"""Octaves of simplex noise, as in AnoDDPM (Wyatt et al., 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from napari_addm.diffusion.noise import Noise, Shape

OCTAVES = 6
PERSISTENCE = 0.8
# AnoDDPM's 64 pixels are a unit of OpenSimplex, whose triangles have edges of sqrt(2) units where
# those of simplex noise have sqrt(2/3).
PERIOD = 64.0 * math.sqrt(3.0)
# Skewing the plane turns its equilateral triangles into halves of unit squares;
# unskewing is the inverse.
SKEW = (math.sqrt(3.0) - 1.0) / 2.0
UNSKEW = (3.0 - math.sqrt(3.0)) / 6.0
# Variance of one octave at a random place: the density of corners, sqrt(3), times the integral
# over the disc r^2 < 1/2 of (1/2 - r^2)^8 r^2 / 2 (a unit gradient has 1/2 along any direction).
VARIANCE = math.sqrt(3.0) * math.pi / 180.0 * 0.5**10


def simplex(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw octaves of two-dimensional simplex noise, variance 1 at every pixel.

    This is Perlin's simplex noise as explained by Gustavson [1]_, with the octaves of
    AnoDDPM [2]_: triangles with edges of 91, 45, ..., 2.8 pixels, each octave 0.8 times the
    coarser one. Every octave of every field has its own gradients, rotation and offset, so
    that no pixel is favored. The pixels are not Gaussian.

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
    .. [1] Gustavson. Simplex noise demystified. 2005.
    .. [2] Wyatt et al. AnoDDPM: Anomaly Detection with Denoising Diffusion
       Probabilistic Models using Simplex Noise. CVPR Workshops, 2022.
    """
    total = torch.zeros(shape)
    power = 0.0
    for octave in range(OCTAVES):
        amplitude = PERSISTENCE**octave
        total += amplitude * simplex_octave(shape, PERIOD / 2**octave, generator)
        power += amplitude**2
    return total / math.sqrt(power * VARIANCE)


def simplex_octave(shape: Shape, period: float, generator: torch.Generator) -> Tensor:
    """Draw simplex noise of one period (in pixels), variance VARIANCE, shape (C, H, W)."""
    channels, height, width = shape
    turn, place_i, place_j = torch.rand(3, generator=generator).tolist()
    cosine = math.cos(2.0 * math.pi * turn) / period
    sine = math.sin(2.0 * math.pi * turn) / period
    row = torch.arange(height, dtype=torch.float32)[:, None]
    column = torch.arange(width, dtype=torch.float32)[None, :]
    y = cosine * row - sine * column
    x = sine * row + cosine * column

    # The offset is drawn in skewed coordinates, where it covers one cell evenly.
    skew = SKEW * (x + y)
    y, x = y + skew + place_i, x + skew + place_j
    y, x = y - math.floor(y.min()), x - math.floor(x.min())
    cell_i, cell_j = y.long(), x.long()
    y, x = y - cell_i, x - cell_j

    # One unit gradient per corner, unskewed once here instead of every offset later.
    rows, columns = int(cell_i.max()) + 2, int(cell_j.max()) + 2
    gradient_y, gradient_x = torch.randn(2, channels, rows * columns, generator=generator)
    length = torch.hypot(gradient_y, gradient_x)
    gradient_y, gradient_x = gradient_y / length, gradient_x / length
    unskew = UNSKEW * (gradient_y + gradient_x)
    gradient_y, gradient_x = gradient_y - unskew, gradient_x - unskew

    lower = (y > x).long()
    total = torch.zeros(shape)
    for corner_i, corner_j in ((0, 0), (lower, 1 - lower), (1, 1)):
        dy, dx = y - corner_i, x - corner_j
        # (2/3)(dy^2 - dy dx + dx^2) is the squared distance before skewing.
        falloff = (0.5 - (dy * dy - dy * dx + dx * dx) * (2.0 / 3.0)).clamp_(min=0.0)
        falloff = falloff.square_().square_()
        corner = ((cell_i + corner_i) * columns + (cell_j + corner_j)).flatten()
        slope_y = gradient_y.index_select(1, corner).view(shape)
        slope_x = gradient_x.index_select(1, corner).view(shape)
        total += falloff * (slope_y * dy + slope_x * dx)
    return total


NOISE = Noise(
    title="Simplex",
    description="Octaves of simplex noise: smooth fields, not Gaussian pixel by pixel.",
    source="Wyatt et al., CVPR Workshops 2022",
    draw=simplex,
)
