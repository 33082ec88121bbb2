"""ADDM's objective against its formulas."""

import pytest
import torch

from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.methods.addm import AdversarialSettings
from napari_addm.methods.addm.model import (
    AddmMethod,
    adversarial_loss,
    build_discriminator,
    denoise,
    discriminator_loss,
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


@pytest.mark.parametrize("weight", [0.05, 0.0])
def test_a_step_updates_denoiser_and_discriminator_and_says_what_they_did(trainee, weight):
    preset = METHODS["addm"].presets(1000)["small"]
    network = preset.network.replace(
        channels=(8, 16),
        res_blocks=(1, 1),
        attention=(False, True),
        head_channels=8,
        norm_groups=4,
    )
    settings = preset.replace(network=network, options=AdversarialSettings(weight=weight))
    objective = AddmMethod().objective(settings)
    learner = trainee(objective)
    clean = torch.rand(2, 1, 32, 32) * 2 - 1
    context = StepContext(torch.Generator(), 0.0, learner, gradient_norm=lambda loss: loss)
    logged = objective.step(clean, context)
    if weight == 0:
        assert learner.taken == [0]
        assert set(logged) == {"l2"}
        return
    assert learner.taken == [0, 1]
    assert set(logged) == {
        "l2",
        "adversarial",
        "gradient_norm/l2",
        "gradient_norm/adversarial",
        "discriminator/loss",
        "discriminator/accuracy_real",
        "discriminator/accuracy_fake",
    }
