"""The samplers against closed forms of Gaussian data, and against diffusers step by step.

For data x0 ~ N(m, C) the best prediction of the noise is linear in x, so the whole reverse chain
is linear and Gaussian: its mean and covariance are known for every number of steps.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.diffusion.samplers.ddpm import ddpm as ddpm_updates
from napari_addm.diffusion.sampling import sampling_levels
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.registry import SAMPLERS

MEAN = 0.3
ddim, dpm_solver = SAMPLERS["ddim"].sample, SAMPLERS["dpm++"].sample


def ddpm(*arguments, variance="posterior", **options):
    sampler = replace(SAMPLERS["ddpm"], updates=partial(ddpm_updates, variance=variance))
    return sampler.sample(*arguments, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads waiting for each other on a busy machine cost far more than these small sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class PixelModel:
    """Independent pixels, x0 ~ N(MEAN, variance): the network that knows this."""

    schedule: LinearSchedule
    variance: float

    def __call__(self, x, t):
        bar = self.schedule.alpha_bars[t].reshape(-1, 1, 1, 1)
        expected_noise = (1 - bar).sqrt() * (x - bar.sqrt() * MEAN)
        return expected_noise / (bar * self.variance + 1 - bar)

    def gain(self, bar):
        """d E[x0 | x_t] / d x_t."""
        return math.sqrt(bar) * self.variance / (bar * self.variance + 1 - bar)


def last(states):
    *_, state = states
    return state


def states_per_unit(sampler, model, levels, schedule, **options):
    """How each state of a chain depends on its start and on the fresh noise of every step.

    Returns an array (steps, steps + 1): entry [k, 0] belongs to the start, [k, n] to the noise of
    step n. Exact, because the chain is linear.
    """
    steps = len(levels) - 1
    unit = torch.eye(steps + 2).reshape(-1, steps + 2, 1, 1, 1)  # the last one stays at zero
    states = sampler(model, unit[0], levels, schedule, noise=lambda n: unit[n], **options)
    states = torch.stack([state.flatten() for state in states]).double().numpy()
    return states[:, :-1] - states[:, -1:]


def test_the_levels_of_a_few_chains():
    assert sampling_levels(250, 1) == [250, 0]
    assert sampling_levels(250, 5) == [250, 200, 150, 100, 50, 0]
    assert sampling_levels(3, 3) == [3, 2, 1, 0]
    assert sampling_levels(10, 4) == [10, 8, 5, 3, 0]


@given(st.data())
def test_levels_fall_strictly_and_evenly(data):
    level = data.draw(st.integers(1, 3000))
    steps = data.draw(st.integers(1, level))
    levels = sampling_levels(level, steps)
    assert (levels[0], levels[-1], len(levels)) == (level, 0, steps + 1)
    strides = -np.diff(levels)
    assert strides.min() >= 1
    assert np.abs(strides - level / steps).max() <= 1


@pytest.mark.parametrize(("level", "steps"), [(10, 0), (10, 11), (0, 0), (0, 1), (-3, 1)])
def test_impossible_numbers_of_steps_are_refused(level, steps):
    with pytest.raises(ValueError, match="sampling steps"):
        sampling_levels(level, steps)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
@pytest.mark.parametrize("levels", [[], [5], [5, 5], [3, 4], [301, 0], [5, -1]])
def test_impossible_levels_are_refused(sampler, levels):
    with pytest.raises(ValueError, match="fall strictly within 300"):
        sampler(lambda x, t: x, torch.zeros(1, 1, 2, 2), levels, LinearSchedule(300))


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
def test_impossible_eta_is_refused(eta):
    with pytest.raises(ValueError, match="eta"):
        ddim(lambda x, t: x, torch.zeros(1, 1, 2, 2), [5, 0], LinearSchedule(300), eta=eta)


def test_missing_noise_is_refused():
    with pytest.raises(ValueError, match="give it `noise`"):
        next(ddpm(lambda x, t: x, torch.zeros(1, 1, 2, 2), [5, 2, 0], LinearSchedule(300)))


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_one_step_is_x0_hat(sampler):
    schedule = LinearSchedule(300)
    noisy, predicted = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    (clean,) = sampler(lambda x, t: predicted, noisy, sampling_levels(75, 1), schedule)
    assert torch.allclose(clean, schedule.clean_from_noise(noisy, predicted, 75), atol=1e-6)


# Partial diffusion of Gaussian data, in closed form


CHAINS = [(75, 1), (75, 4), (75, 75), (300, 7), (300, 60), (12, 12), (1, 1)]


@pytest.mark.parametrize(("level", "steps"), CHAINS)
@pytest.mark.parametrize("sampler", [ddim, ddpm])
@pytest.mark.parametrize("variance", [0.04, 1.0, 4.0])
def test_ancestral_mean_is_the_posterior_mean_at_every_step_count(sampler, variance, level, steps):
    """E[x0 | x_level], whatever the stride: the tower rule, because all is linear."""
    schedule = LinearSchedule(300)
    model = PixelModel(schedule, variance)
    noisy = torch.linspace(-2, 2, 9).reshape(1, 1, 3, 3)
    ancestral = {"eta": 1.0} if sampler is ddim else {}
    silence = torch.zeros_like(noisy)
    clean = last(
        sampler(
            model, noisy, sampling_levels(level, steps), schedule,
            noise=lambda n: silence, **ancestral,
        )
    )  # fmt: skip
    bar = schedule.alpha_bar(level).item()
    expected = MEAN + model.gain(bar) * (noisy - math.sqrt(bar) * MEAN)
    assert torch.allclose(clean, expected, atol=1e-4)


@pytest.mark.parametrize(("level", "steps"), CHAINS)
@pytest.mark.parametrize("kind", ["posterior", "beta"])
@pytest.mark.parametrize("variance", [0.04, 1.0, 4.0])
def test_ancestral_variance_follows_its_recursion(variance, kind, level, steps):
    schedule = LinearSchedule(300)
    model = PixelModel(schedule, variance)
    levels = sampling_levels(level, steps)
    response = states_per_unit(ddpm, model, levels, schedule, variance=kind)
    expected = 0.0
    for n, (t, s) in enumerate(pairwise(levels)):
        bar, bar_s = schedule.alpha_bars[[t, s]].tolist()
        beta = 1 - bar / bar_s
        slope = (
            math.sqrt(bar / bar_s) * (1 - bar_s) + math.sqrt(bar_s) * beta * model.gain(bar)
        ) / (1 - bar)
        fresh = beta if kind == "beta" and s > 0 else (1 - bar_s) / (1 - bar) * beta
        expected = slope**2 * expected + fresh
        assert (response[n, 1:] ** 2).sum() == pytest.approx(expected, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(("level", "steps"), CHAINS)
@pytest.mark.parametrize(("kind", "variance"), [("posterior", 0.0), ("beta", 1.0)])
def test_each_variance_is_exact_for_its_own_data(kind, variance, level, steps):
    """Ho et al., section 3.2: one is right for a single image, the other for x0 ~ N(0, 1).

    Then Var(x_s | x_t) is the true one for any stride, so every state above level 0 has the
    true conditional variance given the start.
    """
    schedule = LinearSchedule(300)
    levels = sampling_levels(level, steps)
    model = PixelModel(schedule, variance)
    response = states_per_unit(ddpm, model, levels, schedule, variance=kind)
    bar = schedule.alpha_bar(level).item()
    for n, s in enumerate(levels[1:-1]):
        bar_s = schedule.alpha_bar(s).item()
        prior = bar_s * variance + 1 - bar_s
        forward = math.sqrt(bar / bar_s)
        truth = prior - (forward * prior) ** 2 / (forward**2 * prior + 1 - bar / bar_s)
        assert (response[n, 1:] ** 2).sum() == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_more_ancestral_steps_come_closer_to_the_posterior_variance(variance):
    schedule = LinearSchedule(1000)
    level = 250
    model = PixelModel(schedule, variance)
    bar = schedule.alpha_bar(level).item()
    truth = variance * (1 - bar) / (bar * variance + 1 - bar)
    errors = []
    for steps in (1, 5, 25, 125, 250):
        levels = sampling_levels(level, steps)
        response = states_per_unit(ddpm, model, levels, schedule)
        errors.append(truth - (response[-1, 1:] ** 2).sum())
    assert errors[0] == pytest.approx(truth)  # one step: the mean alone
    assert errors == sorted(errors, reverse=True)
    assert abs(errors[-1]) < 0.02 * truth


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 250])
def test_ddim_follows_its_recursion(eta, steps):
    """In the basis (x0-hat, predicted noise): eq. 12 of DDIM."""
    schedule = LinearSchedule(1000)
    model = PixelModel(schedule, 0.25)
    levels = sampling_levels(250, steps)
    response = states_per_unit(ddim, model, levels, schedule, eta=eta)
    from_start, fresh = 1.0, 0.0
    for n, (t, s) in enumerate(pairwise(levels)):
        bar, bar_s = schedule.alpha_bars[[t, s]].tolist()
        sigma2 = eta**2 * (1 - bar_s) / (1 - bar) * (1 - bar / bar_s)
        noise_gain = math.sqrt(1 - bar) / (bar * 0.25 + 1 - bar)
        slope = math.sqrt(bar_s) * model.gain(bar) + math.sqrt(1 - bar_s - sigma2) * noise_gain
        from_start *= slope
        fresh = slope**2 * fresh + sigma2
        assert response[n, 0] == pytest.approx(from_start, rel=1e-4)
        assert (response[n, 1:] ** 2).sum() == pytest.approx(fresh, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("variance", [0.04, 1.0, 4.0])
def test_deterministic_ddim_converges_to_the_probability_flow(variance):
    """Its limit keeps every image at its quantile: the spread of x_t becomes that of x0."""
    schedule = LinearSchedule(1000)
    level = 250
    model = PixelModel(schedule, variance)
    noisy = torch.linspace(-2, 2, 9).reshape(1, 1, 3, 3)
    bar = schedule.alpha_bar(level).item()
    ratio = math.sqrt(variance / (bar * variance + 1 - bar))
    limit = MEAN + ratio * (noisy - math.sqrt(bar) * MEAN)
    errors = [
        (last(ddim(model, noisy, sampling_levels(level, steps), schedule)) - limit).abs().max()
        for steps in (1, 5, 25, 250)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * ratio


@pytest.mark.parametrize("variance", [0.04, 4.0])
def test_dpm_solver_comes_closer_to_the_probability_flow_than_ddim(variance):
    """One and two steps are DDIM's; from there on the second order shows."""
    schedule = LinearSchedule(1000)
    level = 250
    model = PixelModel(schedule, variance)
    noisy = torch.linspace(-2, 2, 9).reshape(1, 1, 3, 3)
    bar = schedule.alpha_bar(level).item()
    ratio = math.sqrt(variance / (bar * variance + 1 - bar))
    limit = MEAN + ratio * (noisy - math.sqrt(bar) * MEAN)

    def error(sampler, steps):
        clean = last(sampler(model, noisy, sampling_levels(level, steps), schedule))
        return (clean - limit).abs().max().item()

    for steps in (1, 2):
        assert error(dpm_solver, steps) == pytest.approx(error(ddim, steps), rel=1e-5)
    for steps in (10, 25, 50):
        assert error(dpm_solver, steps) < 0.6 * error(ddim, steps)


def test_a_whole_chain_samples_the_distribution_of_the_data():
    """Data, noised and sampled back through every level, have the data's mean and variance."""
    schedule = LinearSchedule(1000)
    generator = torch.Generator().manual_seed(0)
    shape = (4, 1, 120, 120)
    data = MEAN + 0.6 * torch.randn(shape, generator=generator)
    noisy = schedule.add_noise(data, torch.randn(shape, generator=generator), 250)
    sampled = last(
        ddpm(
            PixelModel(schedule, 0.36), noisy, sampling_levels(250, 250), schedule,
            noise=lambda n: torch.randn(shape, generator=generator),
        )
    )  # fmt: skip
    assert sampled.mean().item() == pytest.approx(MEAN, abs=5 * 0.6 / 240)
    # A finite chain falls a little short, beside the error of counting.
    assert sampled.var().item() == pytest.approx(0.36, rel=0.03)


# What a caller relies on


@given(st.data())
def test_a_network_that_knows_the_noise_gives_the_image_back(data):
    """DDIM stays on the straight path between image and noise, for any levels."""
    schedule = LinearSchedule(data.draw(st.integers(21, 1000)))
    levels = sorted(
        data.draw(st.sets(st.integers(1, schedule.timesteps), min_size=1, max_size=8)), reverse=True
    )
    clean, noise = torch.rand(2, 1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    noisy = schedule.add_noise(clean, noise, levels[0])
    states = list(ddim(lambda x, t: noise, noisy, [*levels, 0], schedule))
    for state, level in zip(states, [*levels[1:], 0], strict=True):
        # Dividing by a tiny sqrt(abar) costs float32 digits at the noisiest levels.
        tolerance = 2e-6 / schedule.alpha_bar(levels[0]).sqrt().item()
        assert torch.allclose(state, schedule.add_noise(clean, noise, level), atol=tolerance)


@pytest.mark.parametrize("steps", [1, 3, 75])
def test_ddim_with_eta_1_is_ancestral_sampling(steps):
    schedule = LinearSchedule(300)
    model = PixelModel(schedule, 0.25)
    start, *fresh = torch.randn(steps + 1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"levels": sampling_levels(75, steps), "schedule": schedule}
    by_ddim = ddim(model, start, eta=1.0, noise=lambda n: fresh[n - 1], **options)
    by_ddpm = ddpm(model, start, noise=lambda n: fresh[n - 1], **options)
    for one, other in zip(by_ddim, by_ddpm, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_one_state_per_network_call_and_none_ahead():
    calls = []

    def model(x, t):
        assert t.shape == (2,)
        assert t.dtype == torch.int64
        calls.append(t[0].item())
        return torch.zeros_like(x)

    levels = sampling_levels(80, 4)
    states = ddim(model, torch.zeros(2, 1, 4, 4), levels, LinearSchedule(300))
    assert calls == []
    for n, _ in enumerate(states, start=1):
        assert calls == levels[:n]


def test_noise_is_asked_for_only_where_it_is_used():
    asked = []

    def noise(n):
        asked.append(n)
        return torch.zeros(1, 1, 4, 4)

    options = {"levels": [40, 30, 20, 0], "schedule": LinearSchedule(300), "noise": noise}
    start = torch.zeros(1, 1, 4, 4)
    list(ddim(lambda x, t: x, start, **options))
    assert asked == []
    for variance in ("posterior", "beta"):
        list(ddpm(lambda x, t: x, start, variance=variance, **options))
        assert asked == [1, 2]
        asked.clear()


def test_states_are_float32_and_keep_for_a_half_precision_network():
    start = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    kept = start.clone()
    states = []
    copies = []
    for state in ddim(lambda x, t: x.bfloat16(), start, [40, 20, 10, 0], LinearSchedule(300)):
        assert state.dtype == torch.float32
        assert not state.requires_grad
        assert torch.is_grad_enabled()
        states.append(state)
        copies.append(state.clone())
    assert torch.equal(start, kept)
    assert all(torch.equal(a, b) for a, b in zip(states, copies, strict=True))


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_clipping_bounds_x0_hat_and_keeps_the_noise_consistent(sampler):
    schedule = LinearSchedule(300)
    noisy, predicted, fresh = torch.randn(3, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"eta": 0.7} if sampler is ddim else {}

    def chain(model, clip=None):
        return list(
            sampler(
                model, 2 * noisy, [75, 40, 0], schedule,
                noise=lambda n: fresh, clip=clip, **options,
            )
        )  # fmt: skip

    def implied(x, t):
        bar = schedule.alpha_bar(t, x)
        clean = schedule.clean_from_noise(x, predicted, t).clamp(-1, 1)
        return (x - bar.sqrt() * clean) / (1 - bar).sqrt()

    clipped = chain(lambda x, t: predicted, clip=(-1.0, 1.0))
    assert clipped[-1].abs().max() == 1.0
    assert chain(lambda x, t: predicted)[-1].abs().max() > 1.0
    for one, other in zip(clipped, chain(implied), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


# Against diffusers, whose timesteps 0..T-1 are our levels 1..T


def their_betas(schedule):
    pytest.importorskip("diffusers", reason="diffusers is the independent implementation")
    return schedule.betas.float().numpy()


def any_network(x, t):
    """Some smooth function of image and level."""
    return torch.tanh(x + t.reshape(-1, 1, 1, 1) / 100)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [10, 50, 500])
def test_ddim_agrees_with_diffusers(eta, steps):
    schedule = LinearSchedule(500)
    betas = their_betas(schedule)
    from diffusers import DDIMScheduler

    # "trailing" and a stride that divides T: the only case in which its steps meet its timesteps.
    theirs = DDIMScheduler(500, trained_betas=betas, clip_sample=False, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    start = steps // 5  # partial diffusion, from 400
    levels = [int(t) + 1 for t in theirs.timesteps[start:]] + [0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 8, 8, generator=generator)
    fresh = torch.randn(len(levels), *x.shape, generator=generator)
    states = ddim(any_network, x, levels, schedule, eta=eta, noise=lambda n: fresh[n])
    for n, (level, state) in enumerate(zip(levels, states, strict=False), start=1):
        predicted = any_network(x, torch.full((2,), level))
        x = theirs.step(predicted, level - 1, x, eta=eta, variance_noise=fresh[n]).prev_sample
        assert torch.allclose(state, x, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_dpm_solver_agrees_with_diffusers(steps):
    schedule = LinearSchedule(500)
    betas = their_betas(schedule)
    from diffusers import DPMSolverMultistepScheduler

    levels = sampling_levels(200, steps)
    theirs = DPMSolverMultistepScheduler(500, trained_betas=betas, final_sigmas_type="zero")
    theirs.set_timesteps(timesteps=[level - 1 for level in levels[:-1]])
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    states = dpm_solver(any_network, x, levels, schedule)
    for level, state in zip(levels, states, strict=False):
        predicted = any_network(x, torch.full((2,), level))
        x = theirs.step(predicted, level - 1, x).prev_sample
        assert torch.allclose(state, x, atol=2e-4)


@pytest.mark.parametrize("kind", ["posterior", "beta"])
@pytest.mark.parametrize("steps", [1, 5, 120])
def test_ddpm_agrees_with_diffusers(kind, steps):
    schedule = LinearSchedule(500)
    betas = their_betas(schedule)
    from diffusers import DDPMScheduler

    levels = sampling_levels(120, steps)
    theirs = DDPMScheduler(
        500,
        trained_betas=betas,
        clip_sample=False,
        variance_type={"posterior": "fixed_small", "beta": "fixed_large"}[kind],
    )
    theirs.set_timesteps(timesteps=[level - 1 for level in levels[:-1]])
    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, their_noise = (torch.Generator().manual_seed(1) for _ in range(2))
    states = ddpm(
        any_network, start, levels, schedule, variance=kind,
        noise=lambda n: torch.randn(start.shape, generator=ours),
    )  # fmt: skip
    x = start
    for level, previous, state in zip(levels, levels[1:], states, strict=False):
        if kind == "beta" and previous == 0 and level > 1:
            break  # theirs adds noise to the clean image here
        predicted = any_network(x, torch.full((2,), level))
        x = theirs.step(predicted, level - 1, x, generator=their_noise).prev_sample
        assert torch.allclose(state, x, atol=2e-4)
