"""The noise schedule of a diffusion chain and its forward process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearSchedule:
    """Linear betas, scaled so that a chain of any length ends in noise.

    The betas run from ``1e-4 * 1000/T`` to ``2e-2 * 1000/T`` [1]_. Without the factor ``1000/T`` a
    chain of 300 levels would stop halfway, with 5 % of the image's variance left.

    Noise levels are timesteps ``t`` in ``1`` to ``T``; level 0 is the clean image.

    Attributes
    ----------
    timesteps : int
        Number of levels T of the chain.

    References
    ----------
    .. [1] Ho, Jain, Abbeel. Denoising Diffusion Probabilistic Models. 2020.
    """

    timesteps: int

    def __post_init__(self) -> None:
        # beta_T = 20/T has to stay below 1
        if self.timesteps < 21:
            raise ValueError(f"a chain needs at least 21 levels, not {self.timesteps}")

    @cached_property
    def betas(self) -> Tensor:
        """beta_1, ..., beta_T, float64, shape (T,)."""
        scale = 1000.0 / self.timesteps
        return torch.linspace(1e-4 * scale, 2e-2 * scale, self.timesteps, dtype=torch.float64)

    @cached_property
    def alpha_bars(self) -> Tensor:
        """abar_0, ..., abar_T, float64, shape (T + 1,); abar_0 = 1."""
        bars = torch.cumprod(1.0 - self.betas, dim=0)
        return torch.cat([torch.ones(1, dtype=torch.float64), bars])

    def alpha_bar(self, level: Tensor | int, like: Tensor | None = None) -> Tensor:
        """Return abar at one level or at a batch of levels.

        Parameters
        ----------
        level : int or Tensor of int, shape (B,)
        like : Tensor, shape (B, C, H, W), optional
            Gives the result's device, dtype and rank (for broadcasting).
        """
        bar = self.alpha_bars[torch.as_tensor(level).cpu()]
        if like is None:
            return bar
        return bar.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))

    def add_noise(self, clean: Tensor, noise: Tensor, level: Tensor | int) -> Tensor:
        """Draw x_t given x_0: ``sqrt(abar) * clean + sqrt(1 - abar) * noise``."""
        bar = self.alpha_bar(level, clean)
        return bar.sqrt() * clean + (1.0 - bar).sqrt() * noise

    def clean_from_noise(self, noisy: Tensor, noise: Tensor, level: Tensor | int) -> Tensor:
        """Return x0-hat: the clean image that ``noisy`` and a predicted noise imply."""
        bar = self.alpha_bar(level, noisy)
        return (noisy - (1.0 - bar).sqrt() * noise) / bar.sqrt()

    def posterior(
        self, clean: Tensor, noisy: Tensor, level: Tensor | int, previous: Tensor | int
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(x_previous | x_level, x_0), for any previous < level.

        With ``previous = level - 1`` this is eq. 6-7 of DDPM [1]_; a longer
        stride merges the levels between into one step of the same chain.

        Returns
        -------
        mean : Tensor, shape of ``noisy``
        variance : Tensor, broadcastable to ``noisy``
        """
        bar = self.alpha_bar(level, noisy)
        bar_previous = self.alpha_bar(previous, noisy)
        alpha = bar / bar_previous
        mean = (
            bar_previous.sqrt() * (1.0 - alpha) * clean
            + alpha.sqrt() * (1.0 - bar_previous) * noisy
        ) / (1.0 - bar)
        variance = (1.0 - bar_previous) / (1.0 - bar) * (1.0 - alpha)
        return mean, variance
