"""Denoising diffusion implicit models (DDIM), eq. 12 and 16 of Song, Meng and Ermon (ICLR 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from napari_addm.diffusion.sampling import Sampler, Update

if TYPE_CHECKING:
    from napari_addm.diffusion.schedules import LinearSchedule


def ddim(levels: Sequence[int], schedule: LinearSchedule, eta: float) -> list[Update]:
    """Step along the implicit chain; with ``eta`` 1 it has the distribution of DDPM."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta lies between 0 and 1, not at {eta}")
    updates = []
    for level, previous in pairwise(levels):
        bar = schedule.alpha_bar(level).item()
        bar_previous = schedule.alpha_bar(previous).item()
        sigma = eta * math.sqrt((1.0 - bar_previous) / (1.0 - bar) * (1.0 - bar / bar_previous))
        # x_previous = sqrt(bar_previous) x0 + direction (x - sqrt(bar) x0) + sigma z
        direction = math.sqrt((1.0 - bar_previous - sigma**2) / (1.0 - bar))
        towards = math.sqrt(bar_previous) - direction * math.sqrt(bar)
        updates.append((direction, towards, 0.0, sigma))
    return updates


SAMPLER = Sampler(
    title="DDIM",
    description="Needs few steps. With eta 0 it is repeatable to the voxel.",
    source="Song, Meng and Ermon, ICLR 2021",
    updates=ddim,
    uses_eta=True,
)
