"""Random changes of healthy slices: geometry, contrast, bias field and sharpness.

MONAI's transforms change one image at a time and draw from numpy. These change a whole batch on
its device, with the generator of the iteration, so that a resumed training repeats them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from napari_addm.training.data import LANDMARK_ENDS

LARGEST_ANGLE = 0.15
LARGEST_SHIFT = 0.06
SCALES = (0.92, 1.08)
CURVE_KNOTS = 7
CURVE_DEVIATION = 0.35
BIAS_DEVIATION = 0.05
BIAS_KNOTS = (4, 3)
SHARPNESS = (-0.2, 1.0)
LARGEST_GRAIN = 0.02


def augment(
    values: Tensor, mask: Tensor, generator: torch.Generator, *, vary_contrast: bool = True
) -> tuple[Tensor, Tensor]:
    """Change slices at random, one draw per slice.

    Parameters
    ----------
    values : Tensor of float32, shape (B, 1, H, W)
        0..1, meaningful inside ``mask``.
    mask : Tensor of bool, shape (B, 1, H, W)
    generator : torch.Generator
        On the CPU.
    vary_contrast : bool
        Whether to change the contrast, besides geometry, bias field and sharpness.

    Returns
    -------
    values, mask : Tensor
        Like the arguments.
    """
    values, mask = _move(values, mask, generator)
    if vary_contrast:
        values = _change_contrast(values, generator)
    values = _apply_bias_field(values, generator)
    values = _change_sharpness(values, mask, generator)
    return values.clamp(0.0, 1.0), mask


def _uniform(
    like: Tensor, low: float, high: float, generator: torch.Generator, *shape: int
) -> Tensor:
    drawn = torch.rand(len(like), *shape, generator=generator)
    return (low + (high - low) * drawn).to(like.device)


def _move(values: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotate, scale, shift and mirror about the slice's center."""

    def uniform(low: float, high: float) -> Tensor:
        return _uniform(values, low, high, generator)

    angle = uniform(-LARGEST_ANGLE, LARGEST_ANGLE)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    scale_y, scale_x = 1.0 / uniform(*SCALES), mirror / uniform(*SCALES)
    aspect = values.shape[2] / values.shape[3]
    shift_x = uniform(-LARGEST_SHIFT, LARGEST_SHIFT)
    shift_y = uniform(-LARGEST_SHIFT, LARGEST_SHIFT)
    row_x = torch.stack([scale_x * angle.cos(), -scale_x * angle.sin() * aspect, shift_x], 1)
    row_y = torch.stack([scale_y * angle.sin() / aspect, scale_y * angle.cos(), shift_y], 1)
    theta = torch.stack([row_x, row_y], dim=1)
    grid = affine_grid(theta, list(values.shape), align_corners=False)
    weight = mask.float()
    both = grid_sample(torch.cat([values * weight, weight], 1), grid, align_corners=False)
    return both[:, :1] / both[:, 1:].clamp_min(1e-3), both[:, 1:] > 0.5


def _change_contrast(values: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a random rising piecewise-linear curve through 0.05 and 0.95."""
    low, high = LANDMARK_ENDS
    steps = CURVE_KNOTS - 1
    drawn = torch.randn(len(values), steps, generator=generator)
    increments = (CURVE_DEVIATION * drawn).exp().to(values.device)
    curve = torch.cat([torch.zeros_like(increments[:, :1]), increments.cumsum(1)], 1)
    curve = low + (high - low) * curve / curve[:, -1:]
    place = (values.flatten(1) - low) / (high - low) * steps
    left = place.floor().clamp(0, steps - 1)
    at_left = curve.gather(1, left.long())
    at_right = curve.gather(1, left.long() + 1)
    return (at_left + (place - left) * (at_right - at_left)).reshape(values.shape)


def _apply_bias_field(values: Tensor, generator: torch.Generator) -> Tensor:
    """Multiply by a smooth random gain."""
    knots = torch.randn(len(values), 1, *BIAS_KNOTS, generator=generator)
    field = (BIAS_DEVIATION * knots).to(values.device)
    field = interpolate(field, values.shape[2:], mode="bicubic", align_corners=True)
    return values * field.exp()


def _change_sharpness(values: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Mix with a 3 x 3 mean, or move away from it, and add grain."""
    mean = avg_pool2d(values * mask, 3, 1, 1) / avg_pool2d(mask.float(), 3, 1, 1).clamp_min(0.1)
    values = values + _uniform(values, *SHARPNESS, generator, 1, 1, 1) * (mean - values)
    grain = _uniform(values, 0.0, LARGEST_GRAIN, generator, 1, 1, 1)
    return values + grain * torch.randn(values.shape, generator=generator).to(values.device)
