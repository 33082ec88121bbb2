"""DPM-Solver++(2M), algorithm 2 of Lu et al. (Machine Intelligence Research, 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from napari_addm.diffusion.sampling import Sampler, Update

if TYPE_CHECKING:
    from napari_addm.diffusion.schedules import LinearSchedule


def dpm_solver(levels: Sequence[int], schedule: LinearSchedule, eta: float) -> list[Update]:
    """Step along the path of deterministic DDIM, to second order; ``eta`` has no effect.

    The path is the probability flow, which is derived for white Gaussian noise: on a chain with
    another noise this only extrapolates x0-hat. The first step, and the last to level 0, are
    DDIM's, so that chains of one and two steps are the same as DDIM's.
    """
    bars = schedule.alpha_bars[list(levels)].tolist()
    # lambda: half of the log of signal over noise
    halves = [math.log(bar / (1.0 - bar)) / 2.0 for bar in bars if bar < 1.0]
    updates = []
    for n, (bar, bar_previous) in enumerate(pairwise(bars)):
        ratio = math.sqrt((1.0 - bar_previous) / (1.0 - bar))
        towards = math.sqrt(bar_previous) - ratio * math.sqrt(bar)
        beyond = 0.0
        if n > 0 and bar_previous < 1.0:
            # Half of this step over the one before: x0-hat goes on as it went.
            beyond = (halves[n + 1] - halves[n]) / (halves[n] - halves[n - 1]) / 2.0
        updates.append((ratio, towards * (1.0 + beyond), -towards * beyond, 0.0))
    return updates


SAMPLER = Sampler(
    title="DPM++",
    description="Follows DDIM's path to second order; derived for Gaussian noise only.",
    source="Lu et al., Machine Intelligence Research 2025",
    updates=dpm_solver,
)
