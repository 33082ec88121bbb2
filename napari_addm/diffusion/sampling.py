"""What samplers share: from a noised image back to a clean one, in any number of steps.

A sampler is an iterator over the states of the reverse chain, so that its caller can show them or
stop between two calls of the network. States and updates are float32 whatever the network's
precision. Numbers that depend on the noise levels alone are computed once, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from napari_addm.diffusion.schedules import LinearSchedule

    Model = Callable[[Tensor, Tensor], Tensor]
    """``model(x, t)``: the noise predicted in x, (B, C, H, W), at the levels t, int64 (B,)."""

    FreshNoise = Callable[[int], Tensor]
    """Noise of unit variance, (B, C, H, W), for the n-th step of the chain, n = 1, 2, ..."""

Update = tuple[float, float, float, float]
"""a, b, c, sigma of one step: ``x_previous = a x + b x0_hat + c x0_hat_before + sigma z``,
with the x0-hat of this step and of the one before."""


@dataclass(frozen=True)
class Sampler:
    """A sampler as the panel, the command line and the checkpoints know it.

    Attributes
    ----------
    title, description, source : str
        For people: its name, what it does, and where it was published.
    updates : callable
        ``updates(levels, schedule, eta)`` returns one `Update` per step.
    uses_eta : bool
        Whether ``eta`` has an effect.
    clips : bool
        Whether x0-hat is to be kept within the range of model values; see ``clip`` of `sample`.
    """

    title: str
    description: str
    source: str
    updates: Callable[[Sequence[int], LinearSchedule, float], list[Update]]
    uses_eta: bool = False
    clips: bool = False

    def sample(
        self,
        model: Model,
        noisy: Tensor,
        levels: Sequence[int],
        schedule: LinearSchedule,
        *,
        eta: float = 0.0,
        noise: FreshNoise | None = None,
        clip: tuple[float, float] | None = None,
    ) -> Iterator[Tensor]:
        """Walk down the levels, one call of the network per step.

        Parameters
        ----------
        model : callable
            ``model(x, t)`` predicts the noise in x.
        noisy : Tensor, shape (B, C, H, W)
            The images at level ``levels[0]``.
        levels : sequence of int
            Strictly decreasing levels; see `sampling_levels`.
        schedule : LinearSchedule
            The chain that the network was trained on.
        eta : float, 0 to 1
            Randomness of a sampler that can vary it: 0 is deterministic, 1 as random as DDPM.
        noise : callable, optional
            ``noise(n)`` is the fresh noise of step n; called only where it is used.
        clip : (low, high), optional
            Bounds for x0-hat; the noise is then the one that the clipped image implies.

        Yields
        ------
        Tensor, float32, shape (B, C, H, W)
            The state at ``levels[1]``, ``levels[2]``, ...; at level 0 this is the clean image.

        Raises
        ------
        ValueError
            If the levels or ``eta`` are impossible, or a step adds noise and ``noise`` is missing.
        """
        falling = all(level > previous for level, previous in pairwise(levels))
        if len(levels) < 2 or not falling or levels[-1] < 0 or levels[0] > schedule.timesteps:
            raise ValueError(
                f"levels must fall strictly within {schedule.timesteps}..0, not {list(levels)}"
            )
        updates = self.updates(levels, schedule, eta)
        return _descend(model, noisy, levels, schedule, updates, noise, clip)


def sampling_levels(level: int, steps: int) -> list[int]:
    """Return the noise levels of a chain: evenly spaced integers from ``level`` down to 0.

    Parameters
    ----------
    level : int
        Where the chain starts.
    steps : int
        Number of network calls, 1 to ``level``. One step goes straight to x0-hat.

    Returns
    -------
    list of int, strictly decreasing, length ``steps + 1``

    Raises
    ------
    ValueError
        If there are no such levels.
    """
    if not 1 <= steps <= level:
        raise ValueError(f"the sampling steps from level {level} must be 1 to {level}, not {steps}")
    return [(level * left + steps // 2) // steps for left in range(steps, -1, -1)]


def _descend(
    model: Model,
    noisy: Tensor,
    levels: Sequence[int],
    schedule: LinearSchedule,
    updates: Sequence[Update],
    noise: FreshNoise | None,
    clip: tuple[float, float] | None,
) -> Iterator[Tensor]:
    import torch

    x = noisy.float()
    times = torch.tensor(levels, device=x.device)
    bars = schedule.alpha_bars[list(levels)].tolist()
    before = None
    for n, (a, b, c, sigma) in enumerate(updates, start=1):
        # The grad mode belongs to the thread: it must not stay switched while the caller runs.
        with torch.no_grad():
            predicted = model(x, times[n - 1].expand(len(x))).float()
            bar = bars[n - 1]
            clean = (x - math.sqrt(1.0 - bar) * predicted) / math.sqrt(bar)
            if clip is not None:
                clean = clean.clamp_(*clip)
            x = (a * x).add_(clean, alpha=b)
            if c != 0.0 and before is not None:
                x.add_(before, alpha=c)
            before = clean
            if sigma > 0.0:
                if noise is None:
                    raise ValueError("this chain adds fresh noise at its steps: give it `noise`")
                x.add_(noise(n).to(x), alpha=sigma)
        yield x
