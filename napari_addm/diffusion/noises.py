"""Noise fields of unit variance: Gaussian, coarse (octaves) and simplex."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

NoiseKind = Literal["gaussian", "coarse", "simplex"]

Shape = tuple[int, int, int]

COARSE_OCTAVES = 6
COARSE_GROWTH = 1.25

SIMPLEX_OCTAVES = 6
SIMPLEX_PERSISTENCE = 0.8
# AnoDDPM's 64 pixels are a unit of OpenSimplex, whose triangles have edges of sqrt(2) units where
# those of simplex noise have sqrt(2/3).
SIMPLEX_PERIOD = 64.0 * math.sqrt(3.0)
# Skewing the plane turns its equilateral triangles into halves of unit squares;
# unskewing is the way back.
SIMPLEX_SKEW = (math.sqrt(3.0) - 1.0) / 2.0
SIMPLEX_UNSKEW = (3.0 - math.sqrt(3.0)) / 6.0
# Variance of one octave at a random place: the density of corners, sqrt(3), times the integral
# over the disc r^2 < 1/2 of (1/2 - r^2)^8 r^2 / 2 (a unit gradient has 1/2 along any direction).
SIMPLEX_VARIANCE = math.sqrt(3.0) * math.pi / 180.0 * 0.5**10


def gaussian(shape: Shape, generator: torch.Generator) -> Tensor:
    """White Gaussian noise, float32, shape (C, H, W)."""
    return torch.randn(shape, generator=generator)


def coarse(shape: Shape, generator: torch.Generator) -> Tensor:
    """Gaussian noise with power at every scale, variance 1 at every pixel.

    The sum of white Gaussian grids with 1, 2, 4 .. 32 pixels between their
    knots, bilinearly interpolated, each octave weighted 1.25 times the next
    finer one; after the coarse noise of Kascenas et al. [1]_. White noise
    leaves the low frequencies of an image, and so a big soft lesion, almost
    untouched; this noise does not.

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
    for octave in range(COARSE_OCTAVES):
        stride = 2**octave
        weight = COARSE_GROWTH**octave
        # Where the knots fall is drawn too: fixed knots would always corrupt
        # the same places least.
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


@lru_cache(maxsize=256)  # all there are for one size of image: 63 along either side
def _interpolation(size: int, stride: int, offset: int) -> Tensor:
    """Linear interpolation from knots to pixels, scaled to keep the variance of white noise."""
    position = (torch.arange(size, dtype=torch.float32) + offset) / stride
    lower = position.floor().long()
    fraction = position - lower
    matrix = torch.zeros(size, int(lower[-1]) + 2)
    pixel = torch.arange(size)
    matrix[pixel, lower] = 1.0 - fraction
    matrix[pixel, lower + 1] += fraction
    return matrix / matrix.square().sum(dim=1, keepdim=True).sqrt()


def simplex(shape: Shape, generator: torch.Generator) -> Tensor:
    """Octaves of two-dimensional simplex noise, variance 1 at every pixel.

    Perlin's simplex noise as explained by Gustavson [1]_, with the octaves of
    AnoDDPM [2]_: triangles with edges of 91, 45 .. 2.8 pixels, each octave .8
    times the coarser one. Every octave of every field has its own gradients, rotation
    and place, so that no pixel is favoured. Not Gaussian pixel by pixel.

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
    for octave in range(SIMPLEX_OCTAVES):
        amplitude = SIMPLEX_PERSISTENCE**octave
        total += amplitude * _simplex_octave(shape, SIMPLEX_PERIOD / 2**octave, generator)
        power += amplitude**2
    return total / math.sqrt(power * SIMPLEX_VARIANCE)


def _simplex_octave(shape: Shape, period: float, generator: torch.Generator) -> Tensor:
    """Simplex noise of one period (in pixels), variance SIMPLEX_VARIANCE, shape (C, H, W)."""
    channels, height, width = shape
    turn, place_i, place_j = torch.rand(3, generator=generator).tolist()
    cosine = math.cos(2.0 * math.pi * turn) / period
    sine = math.sin(2.0 * math.pi * turn) / period
    row = torch.arange(height, dtype=torch.float32)[:, None]
    column = torch.arange(width, dtype=torch.float32)[None, :]
    y = cosine * row - sine * column
    x = sine * row + cosine * column

    # The place is drawn in skewed coordinates, where it covers one cell evenly.
    skew = SIMPLEX_SKEW * (x + y)
    y, x = y + skew + place_i, x + skew + place_j
    y, x = y - math.floor(y.min()), x - math.floor(x.min())
    cell_i, cell_j = y.long(), x.long()
    y, x = y - cell_i, x - cell_j

    # One unit gradient per corner, unskewed once here instead of every offset later.
    rows, columns = int(cell_i.max()) + 2, int(cell_j.max()) + 2
    gradient_y, gradient_x = torch.randn(2, channels, rows * columns, generator=generator)
    length = torch.hypot(gradient_y, gradient_x)
    gradient_y, gradient_x = gradient_y / length, gradient_x / length
    unskew = SIMPLEX_UNSKEW * (gradient_y + gradient_x)
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


NOISES: dict[NoiseKind, Callable[[Shape, torch.Generator], Tensor]] = {
    "gaussian": gaussian,
    "coarse": coarse,
    "simplex": simplex,
}


@dataclass(frozen=True)
class SliceNoise:
    """The noise of a volume, slice by slice.

    Every field has its own generator, seeded by what the field is for. So the
    noise of a slice depends neither on the batch that it is computed in, nor
    on the device, nor on which other slices are asked for.

    Parameters
    ----------
    kind : {"gaussian", "coarse", "simplex"}
    seed : int
        Of the whole run.
    """

    kind: NoiseKind
    seed: int

    def sample(self, slice_ids: Sequence[int], shape: Shape, draw: int, step: int) -> Tensor:
        """Noise of unit variance for some slices.

        Parameters
        ----------
        slice_ids : sequence of int, length N
            What tells the slices of the volume apart, such as their indices.
        shape : (C, H, W)
            Of one slice.
        draw : int
            Which of several independent reconstructions.
        step : int
            0 for the noise that a scan is noised with, n for the fresh noise
            of the n-th sampling step.

        Returns
        -------
        Tensor, float32, shape (N, C, H, W), on the CPU
        """
        fields = torch.empty(len(slice_ids), *shape)
        for field, slice_id in zip(fields, slice_ids, strict=True):
            name = f"{self.seed} {draw} {step} {int(slice_id)}".encode()
            seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
            field.copy_(NOISES[self.kind](shape, torch.Generator().manual_seed(seed)))
        return fields
