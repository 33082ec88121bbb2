"""Samplers: from a noised image back to a clean one, from any noise level in any number of steps.

A sampler is an iterator over the states of the reverse chain, so that its caller can show them or
stop between two calls of the network. States and updates are float32 whatever the network's
precision. Numbers that depend on the noise levels alone are worked out once, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from napari_addm.diffusion.schedules import LinearSchedule

Model = Callable[[Tensor, Tensor], Tensor]
"""``model(x, t)``: the noise predicted in x, float (B, C, H, W), at the levels t, int64 (B,)."""

FreshNoise = Callable[[int], Tensor]
"""Noise of unit variance, (B, C, H, W), for the n-th step of the chain, n = 1, 2 .."""

Update = tuple[float, float, float, float]
"""a, b, c, sigma of one step: ``x_previous = a x + b x0_hat + c x0_hat_before + sigma z``,
with the x0-hat of this step and of the one before."""


def sampling_levels(level: int, steps: int) -> list[int]:
    """The noise levels that a chain visits: evenly spaced integers from ``level`` down to 0.

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
    """Denoising diffusion implicit models (DDIM) [1]_, eq. 12 and 16.

    Parameters
    ----------
    model : callable
        ``model(x, t)`` predicts the noise in x.
    noisy : Tensor, shape (B, C, H, W)
        The images at level ``levels[0]``.
    levels : sequence of int
        Strictly decreasing levels; see :func:`sampling_levels`.
    schedule : LinearSchedule
        Of the chain that the network was trained on.
    eta : float, 0 to 1
        0 is the deterministic map, 1 has the distribution of :func:`ddpm`.
    noise : callable, optional
        ``noise(n)`` is the fresh noise of step n; asked for only where it is used.
    clip : (low, high), optional
        Bounds for x0-hat; the noise is then the one that the clipped image implies.

    Yields
    ------
    Tensor, float32, shape (B, C, H, W)
        The state at ``levels[1]``, ``levels[2]`` ..; at level 0 this is the clean image.

    Raises
    ------
    ValueError
        If the levels or ``eta`` make no sense, or noise is needed and not given.

    References
    ----------
    .. [1] Song, Meng, Ermon. Denoising Diffusion Implicit Models. ICLR, 2021.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta lies between 0 and 1, not at {eta}")
    _check_levels(levels, schedule)
    updates = []
    for level, previous in pairwise(levels):
        bar = schedule.alpha_bar(level).item()
        bar_previous = schedule.alpha_bar(previous).item()
        sigma = eta * math.sqrt((1.0 - bar_previous) / (1.0 - bar) * (1.0 - bar / bar_previous))
        # x_previous = sqrt(bar_previous) x0 + direction (x - sqrt(bar) x0) + sigma z
        direction = math.sqrt((1.0 - bar_previous - sigma**2) / (1.0 - bar))
        towards = math.sqrt(bar_previous) - direction * math.sqrt(bar)
        updates.append((direction, towards, 0.0, sigma))
    return _descend(model, noisy, levels, schedule, updates, noise, clip)


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
    """Ancestral sampling of denoising diffusion probabilistic models (DDPM) [1]_, algorithm 2.

    Works for any stride: a step over several levels is the reverse of the
    merged forward step, with the variance that belongs to it.

    Parameters
    ----------
    model, noisy, levels, schedule, noise, clip
        As in :func:`ddim`.
    variance : {"posterior", "beta"}
        Of the fresh noise: that of q(x_previous | x, x0), or that of the
        forward step, as AnoDDPM [2]_ has it. The last step to level 0 adds none.

    Yields
    ------
    Tensor, float32, shape (B, C, H, W)
        The state at ``levels[1]``, ``levels[2]`` ..; at level 0 this is the clean image.

    Raises
    ------
    ValueError
        If the levels make no sense, or noise is needed and not given.

    References
    ----------
    .. [1] Ho, Jain, Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS, 2020.
    .. [2] Wyatt et al. AnoDDPM: Anomaly Detection with Denoising Diffusion
       Probabilistic Models using Simplex Noise. CVPR Workshops, 2022.
    """
    _check_levels(levels, schedule)
    # The posterior's mean is linear in x and x0: its values at (1, 0) and (0, 1) say it all.
    x, x0 = torch.eye(2, dtype=torch.float64)
    updates = []
    for level, previous in pairwise(levels):
        mean, sigma2 = schedule.posterior(x0, x, level, previous)
        if variance == "beta" and previous > 0:
            sigma2 = 1.0 - schedule.alpha_bar(level) / schedule.alpha_bar(previous)
        updates.append((mean[0].item(), mean[1].item(), 0.0, math.sqrt(sigma2.item())))
    return _descend(model, noisy, levels, schedule, updates, noise, clip)


def dpm_solver(
    model: Model,
    noisy: Tensor,
    levels: Sequence[int],
    schedule: LinearSchedule,
    *,
    clip: tuple[float, float] | None = None,
) -> Iterator[Tensor]:
    """DPM-Solver++(2M) [1]_, algorithm 2: the same path as deterministic DDIM, to second order.

    It follows the probability flow, which is derived for white Gaussian noise: on a chain with
    another noise it is no more than an extrapolation of x0-hat. The first step, and the last to
    level 0, are DDIM's, so that one and two steps are the same as there.

    Parameters
    ----------
    model, noisy, levels, schedule, clip
        As in :func:`ddim`.

    Yields
    ------
    Tensor, float32, shape (B, C, H, W)
        The state at ``levels[1]``, ``levels[2]`` ..; at level 0 this is the clean image.

    Raises
    ------
    ValueError
        If the levels make no sense.

    References
    ----------
    .. [1] Lu et al. DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
       Probabilistic Models. Machine Intelligence Research, 2025.
    """
    _check_levels(levels, schedule)
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
    return _descend(model, noisy, levels, schedule, updates, None, clip)


def _check_levels(levels: Sequence[int], schedule: LinearSchedule) -> None:
    falling = all(level > previous for level, previous in pairwise(levels))
    if len(levels) < 2 or not falling or levels[-1] < 0 or levels[0] > schedule.length:
        raise ValueError(
            f"levels must fall strictly within {schedule.length}..0, not {list(levels)}"
        )


def _descend(
    model: Model,
    noisy: Tensor,
    levels: Sequence[int],
    schedule: LinearSchedule,
    updates: Sequence[Update],
    noise: FreshNoise | None,
    clip: tuple[float, float] | None,
) -> Iterator[Tensor]:
    """Walk down the levels; ``updates`` has one entry per step."""
    x = noisy.float()
    times = torch.tensor(levels, device=x.device)
    bars = schedule.alpha_bars[list(levels)].tolist()
    before = None
    for n, (a, b, c, sigma) in enumerate(updates, start=1):
        # No grad mode may stay switched while the caller runs: it is the thread's, not ours.
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
