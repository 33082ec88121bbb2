"""Ancestral sampling of denoising diffusion probabilistic models (DDPM).

Algorithm 2 of Ho, Jain and Abbeel (NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from napari_addm.diffusion.sampling import Sampler, check_levels, descend

if TYPE_CHECKING:
    from torch import Tensor

    from napari_addm.diffusion.sampling import FreshNoise, Model
    from napari_addm.diffusion.schedules import LinearSchedule


def ddpm(
    model: Model,
    noisy: Tensor,
    levels: Sequence[int],
    schedule: LinearSchedule,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
    noise: FreshNoise | None = None,
    clip: tuple[float, float] | None = None,
) -> Iterator[Tensor]:
    """Sample with fresh noise at every step but the last.

    Works for any stride: a step over several levels is the reverse of the
    merged forward step, with the variance that belongs to it.

    Parameters
    ----------
    model, noisy, levels, schedule, noise
        As in :meth:`napari_addm.diffusion.sampling.Sampler.sample`.
    variance : {"posterior", "beta"}
        The variance of the fresh noise: that of q(x_previous | x, x0), or that of the
        forward step, as in AnoDDPM [1]_. The last step to level 0 adds none.
    clip : (low, high), optional
        Bounds for x0-hat.

    Yields
    ------
    Tensor, float32, shape (B, C, H, W)
        The state after every step.

    Raises
    ------
    ValueError
        If the levels are impossible, or noise is needed and missing.

    References
    ----------
    .. [1] Wyatt et al. AnoDDPM: Anomaly Detection with Denoising Diffusion
       Probabilistic Models using Simplex Noise. CVPR Workshops, 2022.
    """
    check_levels(levels, schedule)
    # The posterior's mean is linear in x and x0: its values at (1, 0) and (0, 1) determine it.
    x, x0 = schedule.alpha_bars.new_tensor([[1.0, 0.0], [0.0, 1.0]])
    updates = []
    for level, previous in pairwise(levels):
        mean, sigma2 = schedule.posterior(x0, x, level, previous)
        if variance == "beta" and previous > 0:
            sigma2 = 1.0 - schedule.alpha_bar(level) / schedule.alpha_bar(previous)
        updates.append((mean[0].item(), mean[1].item(), 0.0, math.sqrt(sigma2.item())))
    return descend(model, noisy, levels, schedule, updates, noise, clip)


SAMPLER = Sampler(
    title="DDPM",
    description="Draws fresh noise at every step.",
    source="Ho, Jain and Abbeel, NeurIPS 2020",
    function=ddpm,
    options=("noise",),
)
