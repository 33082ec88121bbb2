"""Bilinear interpolation between the knots of a coarse grid."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)  # enough for one image size: 71 matrices per axis
def interpolation(size: int, stride: int, offset: int, *, unit_variance: bool = False) -> Tensor:
    """Return the matrix from knots to pixels, float32, shape (size, knots).

    Parameters
    ----------
    size : int
        Number of pixels.
    stride : int
        Pixels between two knots.
    offset : int
        Pixels between the first knot and the first pixel, less than a stride.
    unit_variance : bool
        Whether every pixel has the variance of the knots; pixels between knots have less otherwise.
    """
    position = (torch.arange(size, dtype=torch.float32) + offset) / stride
    lower = position.floor().long()
    fraction = position - lower
    matrix = torch.zeros(size, int(lower[-1]) + 2)
    pixel = torch.arange(size)
    matrix[pixel, lower] = 1.0 - fraction
    matrix[pixel, lower + 1] += fraction
    return matrix / matrix.square().sum(dim=1, keepdim=True).sqrt() if unit_variance else matrix
