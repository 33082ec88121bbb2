"""The denoiser of the diffusion models: the noise of its chain, and AnoDDPM's own sampling."""

import pytest
import torch

from napari_addm.checkpoint.specification import DiffusionSpecification
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.base import Sampling, chain_noise
from napari_addm.methods.ddpm.model import DdpmMethod
from napari_addm.registry import NOISES

DIFFUSION = DiffusionSpecification(timesteps=1000, noise="simplex", noise_sd=0.48)


class Specification:
    diffusion = DIFFUSION


def test_the_noise_of_a_chain_has_its_own_power():
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    plain = NOISES["simplex"].draw((1, 20, 16), draws[0])
    torch.testing.assert_close(chain_noise(DIFFUSION)((1, 20, 16), draws[1]), 0.48 * plain)


def test_anoddpms_sampler_is_its_published_loop():
    """x0-hat clamped, the posterior's mean, and sqrt(beta) of fresh noise but for the last step."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 1, 8, 8, generator=generator) * 2 - 1
    noises = torch.randn(6, 2, 1, 8, 8, generator=generator)
    levels = (5, 4, 3, 2, 1, 0)

    class Network(torch.nn.Module):
        def forward(self, x, t):
            return -0.7 * x  # far off, so that clamping counts

    *_, found = DdpmMethod().reconstruct(
        Network(), Specification, clean, Sampling(levels, "anoddpm"), lambda step: noises[step]
    )
    schedule = LinearSchedule(1000)
    betas, bars = schedule.betas, schedule.alpha_bars
    x = (bars[5].sqrt() * clean + (1 - bars[5]).sqrt() * noises[0]).double()
    for step, t in enumerate(levels[:-1], start=1):
        x0 = (x - (1 - bars[t]).sqrt() * (-0.7 * x)) / bars[t].sqrt()
        assert x0.abs().max() > 1
        x0 = x0.clamp(-1, 1)
        beta, before = betas[t - 1], bars[t - 1]
        mean = before.sqrt() * beta / (1 - bars[t]) * x0
        mean = mean + (1 - beta).sqrt() * (1 - before) / (1 - bars[t]) * x
        x = mean + (beta.sqrt() * noises[step] if t > 1 else 0)
    torch.testing.assert_close(found.image.double(), x, atol=1e-5, rtol=1e-5)
    assert found.image.abs().max() == pytest.approx(1, abs=1e-6)
