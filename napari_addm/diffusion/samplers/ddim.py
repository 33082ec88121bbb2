"""Denoising diffusion implicit models (DDIM), eq. 12 and 16 of Song, Meng and Ermon (ICLR 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from napari_addm.diffusion.sampling import Sampler, check_levels, descend

if TYPE_CHECKING:
    from torch import Tensor

    from napari_addm.diffusion.sampling import FreshNoise, Model
    from napari_addm.diffusion.schedules import LinearSchedule


def ddim(
    model: Model,
    noisy: Tensor,
    levels: Sequence[int],
    schedule: LinearSchedule,
    *,
    eta: float = 0.0,
    noise: FreshNoise | None = None,
    clip: tuple[float, float] | None = None,
) -> Iterator[Tensor]:
    """Sample along the implicit chain.

    Parameters
    ----------
    model, noisy, levels, schedule, noise
        As in :meth:`napari_addm.diffusion.sampling.Sampler.sample`.
    eta : float, 0 to 1
        0 is the deterministic map, 1 has the distribution of ancestral sampling.
    clip : (low, high), optional
        Bounds for x0-hat.

    Yields
    ------
    Tensor, float32, shape (B, C, H, W)
        The state after every step.

    Raises
    ------
    ValueError
        If the levels or ``eta`` are impossible, or noise is needed and missing.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta lies between 0 and 1, not at {eta}")
    check_levels(levels, schedule)
    updates = []
    for level, previous in pairwise(levels):
        bar = schedule.alpha_bar(level).item()
        bar_previous = schedule.alpha_bar(previous).item()
        sigma = eta * math.sqrt((1.0 - bar_previous) / (1.0 - bar) * (1.0 - bar / bar_previous))
        # x_previous = sqrt(bar_previous) x0 + direction (x - sqrt(bar) x0) + sigma z
        direction = math.sqrt((1.0 - bar_previous - sigma**2) / (1.0 - bar))
        towards = math.sqrt(bar_previous) - direction * math.sqrt(bar)
        updates.append((direction, towards, 0.0, sigma))
    return descend(model, noisy, levels, schedule, updates, noise, clip)


SAMPLER = Sampler(
    title="DDIM",
    description="Needs few steps. With eta 0 it is repeatable to the voxel.",
    source="Song, Meng and Ermon, ICLR 2021",
    function=ddim,
    options=("eta", "noise"),
)
