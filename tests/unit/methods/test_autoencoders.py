"""The autoencoders and f-AnoGAN: their losses against formulas, and real, very short trainings."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import interpolate

from napari_addm.methods.base import Sampling
from napari_addm.methods.dense_vae.model import kl_divergence as code_divergence
from napari_addm.methods.f_anogan import GanSpecification
from napari_addm.methods.f_anogan.model import ENCODER_FROM, gradient_penalty
from napari_addm.methods.network_specifications import AutoencoderSpecification
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS
from napari_addm.training.settings import preset_settings

NETWORKS = {
    "spatial_ae": AutoencoderSpecification(channels=(8, 16), dropout=0.2),
    "dense_vae": AutoencoderSpecification(channels=(8, 16), latent=16, dropout=0.1),
    "f_anogan": GanSpecification(channels=(8, 16), latent=16, unshuffle=2),
}

every_method = pytest.mark.parametrize("method", NETWORKS)


def tiny_settings(method: Any) -> TrainingSettings:
    return preset_settings(method).replace(
        spacing_mm=(6.0, 4.0, 4.0),
        size=(56, 48),
        network=NETWORKS[method],
        slices_per_volume=4,
        batch_size=4,
        learning_rate=2e-3,
        seed=5,
    )


def slices() -> torch.Tensor:
    """Four smooth images of -1..1."""
    coarse = torch.rand(4, 1, 7, 6, generator=torch.Generator().manual_seed(1))
    return 2.0 * interpolate(coarse, scale_factor=8, mode="bilinear") - 1.0


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


# --- what all three share -------------------------------------------------------------------


@every_method
def test_a_reconstruction_has_the_images_shape_and_range(method):
    built = METHODS[method].load()
    network = built.build(NETWORKS[method], (56, 48)).eval()
    specification: Any = None  # these methods need nothing of it
    clean = slices()
    noise: Any = None  # nor this
    *_, last = built.reconstruct(network, specification, clean, Sampling(), noise)
    assert last.image.shape == clean.shape
    assert last.image.dtype == torch.float32
    assert last.image.abs().max() <= 1
    assert last.weight is None


@every_method
@pytest.mark.parametrize("preset", ["small", "paper"])
def test_the_presets_fit_their_own_slices(method, preset):
    settings = preset_settings(method, preset)
    assert not any(n % settings.network.divisor for n in settings.size)
    with torch.device("meta"):
        network = METHODS[method].load().build(settings.network, settings.size)
        image = torch.zeros(2, 1, *settings.size)
        assert network(image).shape == image.shape


@every_method
def test_bfloat16_training_gives_finite_losses_and_float32_weights(method, trainee):
    objective = METHODS[method].load().objective(tiny_settings(method))
    learner = trainee(objective)
    for progress in (0.0, 1.0):
        with torch.autocast("cpu", torch.bfloat16):
            logged = learner.step(slices(), progress)
        assert all(torch.isfinite(value) for value in logged.values())
    assert all(p.dtype == torch.float32 for p in objective.parameters())
    assert all(torch.isfinite(p).all() for p in objective.parameters())


# --- dropout, the code and its prior --------------------------------------------------------


@pytest.mark.parametrize("method", ["spatial_ae", "dense_vae"])
def test_dropout_works_in_training_and_not_in_detection(method):
    network = METHODS[method].load().build(NETWORKS[method], (56, 48))
    clean = slices()
    assert not torch.equal(network.train()(clean), network(clean))
    assert torch.equal(network.eval()(clean), network(clean))


def test_the_divergence_is_that_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 16, generator=generator)
    log_deviation = 0.5 * torch.randn(5, 16, generator=generator)
    known = kl_divergence(Normal(mean, log_deviation.exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(code_divergence(mean, log_deviation), known)


def test_the_vaes_loss_is_the_published_one_per_pixel():
    """Absolute error on 0..1 and divergence, summed per image, mean over images."""
    objective = METHODS["dense_vae"].load().objective(tiny_settings("dense_vae"))
    network, clean = objective.network.eval(), slices()
    mean, log_deviation = network.encode(clean)
    error = (network.decode(mean) - clean).abs().sum(dim=(1, 2, 3)) / 2
    expected = (error + code_divergence(mean, log_deviation)).mean() / (56 * 48)
    found = objective.validation_loss(network, clean, torch.Generator())
    torch.testing.assert_close(found, expected)


# --- f-AnoGAN -------------------------------------------------------------------------------


def test_the_penalty_of_a_linear_critic_is_known():
    """Its slope is the norm of its weights everywhere; its own gradient is known, too."""
    weights = torch.full((56 * 48,), 3.0 / (56 * 48) ** 0.5, requires_grad=True)  # norm 3
    share = torch.rand(4, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):  # which has no part in it
        penalty = gradient_penalty(
            lambda x: x.flatten(1) @ weights[:, None], slices(), -slices().bfloat16(), share
        )
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx((3.0 - 1.0) ** 2, rel=1e-4)
    penalty.backward()
    torch.testing.assert_close(weights.grad, 2 * (3.0 - 1.0) * weights.detach() / 3.0)


def test_the_penalty_looks_between_real_and_fake():
    seen = []

    def critic(images):
        seen.append(images.detach())
        return images.flatten(1).sum(dim=1, keepdim=True)

    real, fake = torch.ones(2, 1, 8, 8), -torch.ones(2, 1, 8, 8)
    gradient_penalty(critic, real, fake, torch.tensor([0.0, 0.75])[:, None, None, None])
    assert (seen[0][0] == 1.0).all()
    assert (seen[0][1] == -0.5).all()


def test_five_steps_of_the_critic_for_one_of_the_generator(trainee):
    objective = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    learner = trainee(objective)
    for _ in range(10):
        learner.step(slices(), progress=0.0)
    assert learner.taken == [1, 1, 1, 1, 1, 0] * 2


def test_a_critic_learns_to_tell_and_moves_the_generator(trainee):
    torch.manual_seed(0)
    objective = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    learner = trainee(objective)
    encoder, generator = copied(objective.network.encoder), copied(objective.network.generator)
    distances = [learner.step(slices(), 0.0)["distance"].item() for _ in range(30)]
    assert np.mean(distances[-5:]) > np.mean(distances[:5])
    assert same(encoder, copied(objective.network.encoder))
    assert not same(generator, copied(objective.network.generator))


def test_the_encoder_learns_with_generator_and_critic_frozen(trainee):
    torch.manual_seed(0)
    objective = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    learner = trainee(objective)
    for _ in range(20):
        learner.step(slices(), progress=ENCODER_FROM - 0.01)
    # statistics of batch norm included
    generator, critic = copied(objective.network.generator), copied(objective.critic)
    objective.train()  # as Lightning does at every epoch
    losses = [learner.step(slices(), ENCODER_FROM)["encoder"].item() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    assert same(generator, copied(objective.network.generator))
    assert same(critic, copied(objective.critic))
    assert set(learner.taken[-40:]) == {2}


def test_the_averaged_generator_is_the_one_that_the_encoder_learned_for(trainee):
    """The average that is saved lags behind the generator, which stands still at the end."""
    module_ = pytest.importorskip("napari_addm.training.module", reason="needs Lightning")
    objective = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    average = torch.optim.swa_utils.AveragedModel(
        objective.network, multi_avg_fn=module_.warmed_average(objective.settings.ema)
    ).eval()
    learner = trainee(objective)
    for n in range(60):
        learner.step(slices(), progress=n / 60)
        average.update_parameters(objective.network)
    averaged, live = average.module.generator, objective.network.generator.eval()
    codes = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.no_grad():
        difference = (averaged(codes) - live(codes)).abs().mean()
        spread = live(codes).std()
    assert difference < 0.05 * spread


def test_the_saved_network_is_encoder_and_generator_without_the_critic():
    network = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan")).network.eval()
    assert {name.split(".")[0] for name in network.state_dict()} == {"encoder", "generator"}
    with torch.no_grad():
        code = network.encoder(slices())
        assert code.abs().max() <= 1
        torch.testing.assert_close(network(slices()), network.generator(code))
