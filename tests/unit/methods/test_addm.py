"""ADDM's objective against its formulas."""

import pytest
import torch

from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.addm import AdversarialSettings
from napari_addm.methods.addm.model import (
    AddmMethod,
    adaptive_weight,
    adversarial_loss,
    build_discriminator,
    denoise,
    discriminator_loss,
    min_snr_weights,
)
from napari_addm.methods.base import StepContext
from napari_addm.registry import METHODS

SCHEDULE = LinearSchedule(1000)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(6, 1, 16, 16, generator=generator) * 2 - 1
    levels = torch.tensor([1, 2, 50, 250, 600, 1000])
    drawn = []

    def draw() -> torch.Tensor:
        drawn.append(torch.randn(clean.shape, generator=generator))
        return drawn[-1]

    return clean, levels, draw, drawn


def test_the_l2_is_the_error_of_the_predicted_noise(batch):
    clean, levels, draw, drawn = batch
    sample = denoise(
        lambda x, t: torch.zeros_like(x),
        SCHEDULE,
        clean,
        levels,
        draw,
        AdversarialSettings(weight=0.0),
    )
    assert sample.l2 == pytest.approx(drawn[0].square().mean().item())
    assert sample.fake is None
    assert sample.real is None


def test_a_perfect_denoiser_makes_fakes_that_are_posterior_samples(batch):
    clean, levels, draw, drawn = batch
    noisy_seen = []

    def perfect(x, t):
        noisy_seen.append(x)
        return drawn[0]

    sample = denoise(perfect, SCHEDULE, clean, levels, draw, AdversarialSettings())
    mean, variance = SCHEDULE.posterior(clean, noisy_seen[0], levels, levels - 1)
    torch.testing.assert_close(sample.fake, mean + variance.sqrt() * drawn[1], atol=2e-4, rtol=1e-4)
    # real: a fresh noising of x0 to t - 1; at t = 1 the clean image itself
    torch.testing.assert_close(sample.real, SCHEDULE.add_noise(clean, drawn[2], levels - 1))
    torch.testing.assert_close(sample.real[0], clean[0])
    torch.testing.assert_close(sample.fake[0], clean[0], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("real_sample", ["marginal", "posterior"])
def test_the_papers_step_draws_and_computes_bit_by_bit_as_ever(batch, real_sample):
    """So that a training of an earlier version is repeated exactly by its seed."""
    clean, levels, draw, drawn = batch
    predicted = torch.full_like(clean, 0.3)
    options = AdversarialSettings(real_sample=real_sample, conditioned=True)
    sample = denoise(lambda x, t: predicted, SCHEDULE, clean, levels, draw, options)
    noisy = SCHEDULE.add_noise(clean, drawn[0], levels)
    hat = SCHEDULE.clean_from_noise(noisy, predicted, levels)
    mean, variance = SCHEDULE.posterior(hat, noisy, levels, levels - 1)
    assert torch.equal(sample.fake, torch.cat([mean + variance.sqrt() * drawn[1], noisy], dim=1))
    if real_sample == "posterior":
        mean, variance = SCHEDULE.posterior(clean, noisy, levels, levels - 1)
        real = mean + variance.sqrt() * drawn[2]
    else:
        real = SCHEDULE.add_noise(clean, drawn[2], levels - 1)
    assert torch.equal(sample.real, torch.cat([real, noisy], dim=1))
    assert sample.weights is None
    assert len(drawn) == 3


def test_the_gradient_reaches_the_denoiser_through_the_mean_with_the_known_factor(batch):
    """d(mu)/d(eps) = -beta / sqrt(alpha (1 - abar)), about .0074 at level 250 of 1000."""
    clean, levels, draw, _ = batch
    predicted = torch.zeros_like(clean, requires_grad=True)
    sample = denoise(lambda x, t: predicted, SCHEDULE, clean, levels, draw, AdversarialSettings())
    sample.fake[3].sum().backward()
    beta = SCHEDULE.betas[249]
    bar = SCHEDULE.alpha_bars[250]
    expected = -(beta / ((1 - beta).sqrt() * (1 - bar).sqrt())).item()
    assert abs(expected) == pytest.approx(0.0074, abs=2e-4)
    assert predicted.grad[3].flatten()[0].item() == pytest.approx(expected, rel=1e-3)


def test_the_x0_hat_option_judges_clean_images(batch):
    clean, levels, draw, drawn = batch
    sample = denoise(
        lambda x, t: drawn[0],
        SCHEDULE,
        clean,
        levels,
        draw,
        AdversarialSettings(discriminator_input="clean", conditioned=True),
    )
    assert sample.fake.shape[1] == 2
    torch.testing.assert_close(sample.fake[:3, :1], clean[:3], atol=1e-3, rtol=1e-3)
    # in the upper half of the chain x0-hat is mostly the network's error, enlarged
    low = levels <= SCHEDULE.timesteps // 2
    assert 0 < low.sum() < len(low)
    torch.testing.assert_close(sample.real[:, :1], clean[low])


def test_a_batch_of_high_levels_alone_has_no_judged_x0_hat(batch):
    clean, levels, draw, drawn = batch
    clean_judged = AdversarialSettings(discriminator_input="clean")
    high = torch.full_like(levels, SCHEDULE.timesteps)
    sample = denoise(lambda x, t: drawn[0], SCHEDULE, clean, high, draw, clean_judged)
    assert (sample.fake, sample.real) == (None, None)
    assert sample.l2 == 0


def test_a_long_step_is_sampled_from_the_posterior_of_the_merged_chain(batch):
    """Against Bayes' rule, with the products of the betas: no formula of the code is used."""
    clean, levels, draw, drawn = batch
    predicted = torch.zeros_like(clean)
    options = AdversarialSettings(
        discriminator_input="step", stride=0.6, level_weighting="min_snr", conditioned=False
    )
    sample = denoise(lambda x, t: predicted, SCHEDULE, clean, levels, draw, options)
    assert sample.fake.shape == (6, 3, 16, 16)
    noisy = sample.fake[:, 1].double()
    torch.testing.assert_close(sample.fake[:, 1:], sample.real[:, 1:])
    torch.testing.assert_close(sample.real[:, 2, 0, 0], levels / 1000)
    alphas = 1.0 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    for n, t in enumerate(levels.tolist()):
        s = t - max(1, round(0.6 * t))
        kept, left = alphas[:s].prod(), alphas[s:t].prod()
        seen = noisy[n]
        hat = seen / alphas[:t].prod().sqrt()  # the noise was predicted as 0
        for x0, found, z in (
            (hat, sample.fake[n, 0], drawn[1][n, 0]),
            (clean[n, 0].double(), sample.real[n, 0], drawn[2][n, 0]),
        ):
            # x_s ~ N(sqrt(kept) x0, 1 - kept) and x_t ~ N(sqrt(left) x_s, 1 - left)
            if s == 0:
                mean, sd = x0, torch.tensor(0.0, dtype=torch.float64)
            else:
                precision = 1 / (1 - kept) + left / (1 - left)
                mean = kept.sqrt() * x0 / (1 - kept) + left.sqrt() * seen / (1 - left)
                mean, sd = mean / precision, precision.rsqrt()
            torch.testing.assert_close(found.double(), mean + sd * z, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_long_step_is_far_larger_than_that_of_one_level(batch):
    clean, levels, draw, _ = batch
    gains = {}
    for judged in ("previous", "step"):
        predicted = torch.zeros_like(clean, requires_grad=True)
        options = AdversarialSettings(discriminator_input=judged)
        sample = denoise(lambda x, t, p=predicted: p, SCHEDULE, clean, levels, draw, options)
        sample.fake[3, 0].sum().backward()
        gains[judged] = predicted.grad[3].abs().max().item()
    # d x_s / d eps at t = 250, s = 62
    assert gains["step"] == pytest.approx(0.89, abs=0.01)
    assert gains["step"] > 110 * gains["previous"]


def test_min_snr_weights_fall_with_the_noise_and_open_all_levels(batch):
    clean, levels, draw, _ = batch
    bars = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)[levels - 1]
    snr = bars / (1 - bars)
    torch.testing.assert_close(min_snr_weights(SCHEDULE, levels), snr.clamp(max=5) / 5)
    options = AdversarialSettings(discriminator_input="clean", level_weighting="min_snr")
    sample = denoise(lambda x, t: torch.zeros_like(x), SCHEDULE, clean, levels, draw, options)
    assert len(sample.fake) == len(levels)
    weights = min_snr_weights(SCHEDULE, levels).float()
    torch.testing.assert_close(sample.weights, weights)
    # the mean over patches, each image's times its weight, in both players' losses
    logits = torch.linspace(-2, 2, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    identity, softplus = torch.nn.Identity(), torch.nn.functional.softplus
    found = adversarial_loss(identity, logits, options, weights)
    torch.testing.assert_close(found, -(softplus(logits[:, 0, 0, 0]) * weights).mean())
    judged = discriminator_loss(identity, logits, logits, options, weights)
    both = softplus(-logits[:, 0, 0, 0]) + softplus(logits[:, 0, 0, 0])
    torch.testing.assert_close(judged.loss, (both * weights).mean())


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_weight_brings_the_adversarial_gradient_to_its_share(share):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    values = torch.randn(5, 3)
    l2, adversarial = network(values).square().mean(), network(values).sin().mean()
    weight = adaptive_weight(l2, adversarial, network, share)
    norms = []
    for loss in (l2, weight * adversarial):
        network.zero_grad()
        loss.backward(retain_graph=True)
        norms.append(torch.cat([p.grad.flatten() for p in network.parameters()]).norm())
    assert (norms[1] / norms[0]).item() == pytest.approx(share, rel=1e-4)


def test_the_weight_stays_finite_where_the_discriminator_has_no_gradient():
    network = torch.nn.Linear(3, 2)
    l2 = network(torch.ones(1, 3)).square().mean()
    nothing = 0.0 * network(torch.ones(1, 3)).mean()
    assert adaptive_weight(l2, nothing, network, 0.2).item() == 1e4
    assert adaptive_weight(nothing, nothing, network, 0.2).item() == 0


def test_the_losses_are_those_of_the_papers_equation():
    real, fake = torch.full((4, 1, 8, 8), 2.0), torch.full((4, 1, 8, 8), -1.0)
    identity = torch.nn.Identity()  # logits: 2 on real, -1 on fake
    saturating = AdversarialSettings()
    d_real, d_fake = torch.sigmoid(torch.tensor(2.0)), torch.sigmoid(torch.tensor(-1.0))
    torch.testing.assert_close(adversarial_loss(identity, fake, saturating), torch.log(1 - d_fake))
    torch.testing.assert_close(
        adversarial_loss(identity, fake, saturating.replace(loss="non_saturating")),
        -torch.log(d_fake),
    )
    judged = discriminator_loss(identity, real, fake, saturating)
    torch.testing.assert_close(judged.loss, -(torch.log(d_real) + torch.log(1 - d_fake)))
    assert judged.accuracy_real == 1
    assert judged.accuracy_fake == 1
    with_r1 = discriminator_loss(identity, real, fake, saturating.replace(r1=2.0))
    # the logit's gradient is 1 at each of 64 pixels
    torch.testing.assert_close(with_r1.loss, judged.loss + 64.0)


def test_a_discriminator_learns_to_tell_and_its_gradient_moves_the_denoiser():
    torch.manual_seed(0)
    critic = build_discriminator(AdversarialSettings())
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    real = torch.randn(8, 1, 32, 32)
    fake = torch.nn.functional.avg_pool2d(torch.randn(8, 1, 32, 32), 3, 1, 1)
    for _ in range(30):
        judged = discriminator_loss(critic, real, fake, AdversarialSettings())
        optimizer.zero_grad()
        judged.loss.backward()
        optimizer.step()
    assert judged.accuracy_real > 0.9
    assert judged.accuracy_fake > 0.9
    fake.requires_grad_(True)
    adversarial_loss(critic, fake, AdversarialSettings()).backward()
    assert fake.grad.abs().max() > 0


@pytest.fixture
def tiny_settings():
    preset = METHODS["addm"].presets(1000)["small"]
    network = preset.network.replace(
        channels=(8, 16),
        res_blocks=(1, 1),
        attention=(False, True),
        head_channels=8,
        norm_groups=4,
    )
    return preset.replace(network=network)


LOGGED = {
    "l2",
    "adversarial",
    "gradient_norm/l2",
    "gradient_norm/adversarial",
    "discriminator/loss",
    "discriminator/accuracy_real",
    "discriminator/accuracy_fake",
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, LOGGED),
        ({"weight": 0.0}, {"l2"}),
        ({"weight": 0.0, "share": 0.2}, {"l2"}),
        ({"discriminator_input": "step", "share": 0.2}, LOGGED | {"adversarial_weight"}),
        ({"discriminator_input": "clean", "level_weighting": "min_snr", "r1": 1.0}, LOGGED),
    ],
)
def test_a_step_updates_denoiser_and_discriminator_and_says_what_they_did(
    trainee, tiny_settings, options, expected
):
    settings = tiny_settings.replace(options=AdversarialSettings(**options))
    objective = AddmMethod().objective(settings)
    learner = trainee(objective)
    clean = torch.rand(2, 1, 32, 32) * 2 - 1
    context = StepContext(torch.Generator(), 0.0, learner, gradient_norm=lambda loss: loss)
    logged = objective.step(clean, context)
    assert learner.taken == ([0] if expected == {"l2"} else [0, 1])
    assert set(logged) == expected
    if options.get("share") and expected != {"l2"}:
        # the log's norm, here the loss itself, has the weight that is logged
        weighted = logged["adversarial_weight"] * logged["adversarial"]
        torch.testing.assert_close(logged["gradient_norm/adversarial"], weighted)
