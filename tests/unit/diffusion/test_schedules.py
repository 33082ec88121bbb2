"""The noise schedule against its definition and the identities that tie it together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.diffusion.schedules import LinearSchedule

LENGTHS = (300, 500, 1000)
schedules = st.integers(21, 2000).map(LinearSchedule)


@st.composite
def strides(draw):
    """A schedule and two of its levels, level > previous."""
    schedule = draw(schedules)
    level = draw(st.integers(1, schedule.timesteps))
    return schedule, level, draw(st.integers(0, level - 1))


def test_1000_levels_have_the_betas_of_the_ddpm_paper():
    betas = LinearSchedule(1000).betas
    assert betas[0].item() == pytest.approx(1e-4)
    assert betas[-1].item() == pytest.approx(2e-2)
    assert torch.allclose(betas.diff(), betas.diff()[0].expand(999))


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_ends_in_noise_and_keeps_as_much_at_a_quarter(length):
    schedule = LinearSchedule(length)
    assert schedule.alpha_bar(length).item() < 1e-4
    assert schedule.alpha_bar(length // 4).item() == pytest.approx(0.524, abs=0.002)


@given(schedules)
def test_signal_falls_strictly_from_one(schedule):
    bars = schedule.alpha_bars
    assert bars.dtype == torch.float64
    assert len(bars) == schedule.timesteps + 1
    assert bars[0] == 1.0
    assert (bars.diff() < 0).all()
    assert bars[-1] > 0


@pytest.mark.parametrize("length", [-1, 0, 20])
def test_a_chain_too_short_for_scaled_betas_is_refused(length):
    with pytest.raises(ValueError, match="at least 21 levels"):
        LinearSchedule(length)


@pytest.mark.parametrize("level", [1, 75, 300])
def test_noised_images_have_the_mean_and_variance_of_the_forward_process(level):
    schedule = LinearSchedule(300)
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((1, 1, 400, 400), 0.7)
    noisy = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), level)
    bar = schedule.alpha_bar(level).item()
    assert noisy.mean().item() == pytest.approx(0.7 * bar**0.5, abs=5 * (1 - bar) ** 0.5 / 400)
    assert noisy.var().item() == pytest.approx(1 - bar, rel=5 * 2**0.5 / 400)


def test_a_batch_may_have_a_level_per_image():
    schedule = LinearSchedule(500)
    levels = torch.tensor([1, 250, 500])
    clean, noise = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    together = schedule.add_noise(clean, noise, levels)
    for image in range(3):
        one = slice(image, image + 1)
        alone = schedule.add_noise(clean[one], noise[one], int(levels[image]))
        assert torch.equal(together[one], alone)


@given(schedules, st.data())
def test_the_clean_image_comes_back_from_its_noise(schedule, data):
    level = data.draw(st.integers(0, schedule.timesteps))
    clean, noise = torch.randn(
        2, 1, 1, 3, 3, generator=torch.Generator().manual_seed(level), dtype=torch.float64
    )
    noisy = schedule.add_noise(clean, noise, level)
    assert torch.allclose(schedule.clean_from_noise(noisy, noise, level), clean, atol=1e-9)


@given(strides())
def test_posterior_undoes_the_forward_step_for_every_stride(stride):
    """Integrating q(x_s | x_t, x0) over q(x_t | x0) has to give q(x_s | x0)."""
    schedule, level, previous = stride
    bar, bar_previous = schedule.alpha_bars[[level, previous]].tolist()
    of_clean, of_noisy = torch.eye(2, dtype=torch.float64)
    mean, variance = schedule.posterior(of_clean, of_noisy, level, previous)
    b, a = mean.tolist()
    assert a * bar**0.5 + b == pytest.approx(bar_previous**0.5)
    assert a**2 * (1 - bar) + variance.item() == pytest.approx(1 - bar_previous, abs=1e-12)


def test_posterior_of_one_level_is_that_of_the_ddpm_paper():
    schedule = LinearSchedule(1000)
    level = 400
    beta = schedule.betas[level - 1]
    bar, bar_previous = schedule.alpha_bars[level], schedule.alpha_bars[level - 1]
    clean, noisy = torch.randn(2, 5, dtype=torch.float64)
    mean, variance = schedule.posterior(clean, noisy, level, level - 1)
    expected = (
        bar_previous.sqrt() * beta / (1 - bar) * clean
        + (1 - beta).sqrt() * (1 - bar_previous) / (1 - bar) * noisy
    )
    assert torch.allclose(mean, expected)
    assert variance.item() == pytest.approx(((1 - bar_previous) / (1 - bar) * beta).item())
