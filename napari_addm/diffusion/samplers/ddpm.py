"""Ancestral sampling of denoising diffusion probabilistic models (DDPM).

Algorithm 2 of Ho, Jain and Abbeel (NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from napari_addm.diffusion.sampling import Sampler, Update

if TYPE_CHECKING:
    from napari_addm.diffusion.schedules import LinearSchedule


def ddpm(
    levels: Sequence[int],
    schedule: LinearSchedule,
    eta: float,
    variance: Literal["posterior", "beta"] = "posterior",
) -> list[Update]:
    """Step with fresh noise, but for the last step to level 0; ``eta`` has no effect.

    A step over several levels is the reverse of the merged forward step, with its variance: that of
    q(x_previous | x, x0), or that of the forward step (``"beta"``), as in AnoDDPM [1]_.

    References
    ----------
    .. [1] Wyatt et al. AnoDDPM: Anomaly Detection with Denoising Diffusion Probabilistic Models
       using Simplex Noise. CVPR Workshops, 2022.
    """
    # The posterior's mean is linear in x and x0: its values at (1, 0) and (0, 1) determine it.
    x, x0 = schedule.alpha_bars.new_tensor([[1.0, 0.0], [0.0, 1.0]])
    updates = []
    for level, previous in pairwise(levels):
        mean, sigma2 = schedule.posterior(x0, x, level, previous)
        if variance == "beta" and previous > 0:
            sigma2 = 1.0 - schedule.alpha_bar(level) / schedule.alpha_bar(previous)
        updates.append((mean[0].item(), mean[1].item(), 0.0, math.sqrt(sigma2.item())))
    return updates


SAMPLER = Sampler(
    title="DDPM",
    description="Draws fresh noise at every step.",
    source="Ho, Jain and Abbeel, NeurIPS 2020",
    updates=ddpm,
)
