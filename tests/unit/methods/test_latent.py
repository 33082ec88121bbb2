"""The two methods on a VQ-VAE's latents: real, very short trainings, and cases by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import DiffusionSpecification
from napari_addm.detection.pipeline import detect, run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.diffusion.noise import SliceNoise
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.io.volume import Volume
from napari_addm.methods.base import Sampling
from napari_addm.methods.latent_diffusion import LatentUNetSpecification
from napari_addm.methods.latent_diffusion import model as latent_diffusion
from napari_addm.methods.loading import load_network
from napari_addm.methods.network_specifications import UNetSpecification, VqVaeSpecification
from napari_addm.methods.settings import TrainingSettings
from napari_addm.methods.vqvae import build_vqvae, codebook, decode, encode, frozen, revive
from napari_addm.methods.vqvae_transformer import VqTransformerSpecification
from napari_addm.methods.vqvae_transformer import model as vqvae_transformer
from napari_addm.registry import METHODS
from napari_addm.training.data import (
    find_scans,
    prepare_training_data,
    to_model_values,
    unpack,
)
from napari_addm.training.settings import preset_settings

ITERATIONS = 120  # after half as many, two seeds of six find no latent improbable
VQVAE = VqVaeSpecification(channels=(8, 16), res_layers=1, embeddings=16, embedding_size=4)
SCHEDULE = LinearSchedule(1000)


def tiny_settings(method: str) -> TrainingSettings:
    if method == "vqvae_transformer":
        # a third level, or the sequence would be longer than a test can wait for
        vqvae = VQVAE.model_copy(update={"channels": (8, 16, 16)})
        network = VqTransformerSpecification(vqvae=vqvae, width=16, layers=2, heads=2)
        diffusion = None
    else:
        unet = UNetSpecification(
            unshuffle=1,
            channels=(8, 16),
            res_blocks=(1, 1),
            attention=(False, False),
            head_channels=8,
            norm_groups=4,
        )
        network = LatentUNetSpecification(vqvae=VQVAE, unet=unet)
        diffusion = DiffusionSpecification(timesteps=1000, noise="gaussian")
    return preset_settings(method).replace(
        spacing_mm=(9.0, 4.0, 4.0),
        size=(56, 48),
        network=network,
        diffusion=diffusion,
        slices_per_volume=12,
        batch_size=4,
        learning_rate=5e-3,
        augment=False,
        seed=5,
    )


@pytest.fixture(scope="module")
def slices(healthy_scans, tmp_path_factory) -> torch.Tensor:
    """What the networks are trained on: float32, shape (B, 1, 56, 48)."""
    settings = tiny_settings("vqvae_transformer")
    scans = find_scans(healthy_scans)
    data = prepare_training_data(scans, [], settings, tmp_path_factory.mktemp("cache"))
    return to_model_values(*unpack(torch.from_numpy(data.images).unsqueeze(1)))


@dataclass(frozen=True)
class Trained:
    """A method's network after a short training, and what it logged."""

    settings: TrainingSettings
    network: torch.nn.Module
    checkpoint: Checkpoint
    logged: list[dict[str, float]]


@pytest.fixture(scope="module")
def train(slices, trainee, as_checkpoint) -> Callable[[str], Trained]:
    def run(method: str) -> Trained:
        torch.manual_seed(0)
        settings = tiny_settings(method)
        objective = METHODS[method].load().objective(settings)
        learner, logged = trainee(objective), []
        for n in range(ITERATIONS):
            chosen = torch.randint(len(slices), (4,), generator=torch.Generator().manual_seed(n))
            figures = learner.step(slices[chosen], n / ITERATIONS)
            logged.append({name: value.item() for name, value in figures.items()})
        checkpoint = as_checkpoint(settings, objective.network)
        return Trained(settings, load_network(checkpoint), checkpoint, logged)

    return run


@pytest.fixture(scope="module")
def transformer_training(train) -> Trained:
    return train("vqvae_transformer")


@pytest.fixture(scope="module")
def latent_training(train) -> Trained:
    return train("latent_diffusion")


@pytest.fixture(params=["transformer_training", "latent_training"])
def trained(request) -> Trained:
    """Either method's."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def transformer(transformer_training) -> torch.nn.Module:
    return transformer_training.network


@pytest.fixture(scope="module")
def lesion_scan(make_brain) -> Volume:
    affine = np.diag([3.0, 3.0, 6.0, 1.0])
    affine[:3, 3] = [-80, -95, -70]
    return make_brain(affine, (54, 64, 24), ((25.0, 20.0, 10.0, 30.0),))


def noise_for(clean: torch.Tensor):
    drawn = SliceNoise("gaussian", seed=0)

    def noise(step, shape=None):
        return drawn.sample(range(len(clean)), shape or tuple(clean.shape[1:]), 0, step)

    return noise


# --- training -------------------------------------------------------------------------------


def test_both_stages_learn(trained, slices):
    torch.manual_seed(0)
    untrained = METHODS[trained.settings.method].load().objective(trained.settings).network
    with torch.no_grad():
        before, after = (
            (decode(n.vqvae, encode(n.vqvae, slices)) - slices).abs().mean()
            for n in (untrained, trained.network)
        )
    assert after < 0.6 * before
    name = {"vqvae_transformer": "surprise"}.get(trained.settings.method, "l2")
    losses = [figures[name] for figures in trained.logged if name in figures]
    assert len(losses) == ITERATIONS // 2
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_frozen_vqvae_is_copied_to_the_bit_and_never_moves():
    torch.manual_seed(0)
    vqvae = build_vqvae(VQVAE)
    names = set(vqvae.state_dict())
    network = torch.nn.Sequential(frozen(vqvae), torch.nn.Linear(2, 2))
    assert set(vqvae.state_dict()) == names
    assert not list(vqvae.parameters())
    average = torch.optim.swa_utils.AveragedModel(network)
    for _ in range(3):
        for value in vqvae.state_dict().values():
            value.add_(0.1)
        average.update_parameters(network)
    before = {name: value.clone() for name, value in vqvae.state_dict().items()}
    network.train()
    encode(vqvae, torch.rand(2, 1, 16, 16))
    for name, value in vqvae.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(value, average.module[0].state_dict()[name]), name


def test_codes_that_are_not_used_move_to_where_latents_are():
    torch.manual_seed(0)
    quantizer = codebook(build_vqvae(VQVAE))
    clusters = 10 * torch.randn(16, 4)
    latents = clusters.repeat(32, 1).reshape(2, 16, 16, 4).movedim(-1, 1)
    generator = torch.Generator().manual_seed(0)
    quantizer.train()
    for _ in range(20):
        revive(quantizer, latents, generator)
        *_, codes = quantizer(latents)
    assert len(codes.unique()) > 12
    # in use, so that nothing is to be moved
    quantizer.ema_cluster_size.fill_(32)
    before = quantizer.embedding.weight.clone()
    revive(quantizer, latents, generator)
    assert torch.equal(quantizer.embedding.weight, before)


def test_a_specification_that_no_network_can_have_is_refused():
    with pytest.raises(ValidationError, match="multiple of heads"):
        VqTransformerSpecification(vqvae=VQVAE, width=18, layers=1, heads=4)
    folded = tiny_settings("latent_diffusion").network.unet.model_copy(update={"unshuffle": 2})
    with pytest.raises(ValidationError, match="pack must be 1"):
        LatentUNetSpecification(vqvae=VQVAE, unet=folded.model_dump())


# --- detection ------------------------------------------------------------------------------


def test_the_seed_decides_and_nothing_else(trained, lesion_scan):
    checkpoint = trained.checkpoint
    steps = 1 if checkpoint.specification.diffusion else None
    settings = DetectionSettings(regions=False, device="cpu", draws=1, seed=3, steps=steps)
    first = run(lesion_scan, checkpoint, settings)
    assert first.done.all()
    assert np.isfinite(first.anomaly.data).all()
    assert first.anomaly.data.max() > 0
    again = run(lesion_scan, checkpoint, settings)
    np.testing.assert_array_equal(again.anomaly.data, first.anomaly.data)
    other = run(lesion_scan, checkpoint, settings.replace(seed=4))
    assert np.abs(other.reconstruction.data - first.reconstruction.data).max() > 0.01


def test_a_run_stops_between_two_calls(trained, lesion_scan):
    chain = detect(
        lesion_scan, trained.checkpoint, DetectionSettings(regions=False, device="cpu", draws=1)
    )
    seen = [next(chain) for _ in range(3)]
    assert [p.done for p in seen] == [0, 1, 2]
    assert seen[-1].total > 20
    assert seen[-1].eta > 0
    chain.close()
    with pytest.raises(StopIteration):
        next(chain)


def test_it_yields_as_often_as_announced(trained, slices):
    specification = trained.checkpoint.specification
    method = METHODS[specification.method].load()
    levels = (500, 250, 0) if specification.diffusion else ()
    found = list(
        method.reconstruct(
            trained.network, specification, slices, Sampling(levels), noise_for(slices)
        )
    )
    assert len(found) == method.calls(specification, Sampling(levels))
    assert all(r.image.shape == r.weight.shape == slices.shape for r in found)
    assert all(r.weight.min() >= 0 and r.weight.isfinite().all() for r in found)


# --- codes drawn anew -----------------------------------------------------------------------


def test_only_unlikely_codes_are_drawn_and_each_given_those_before(transformer, slices):
    codes = encode(transformer.vqvae, slices).flatten(1)
    with torch.no_grad():
        chances = vqvae_transformer.likelihoods(transformer, codes)
    unlikely = chances < chances.median()
    uniform = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0))
    *_, drawn = vqvae_transformer.resample(transformer, codes, unlikely, uniform)
    assert torch.equal(drawn[~unlikely], codes[~unlikely])
    assert (drawn != codes).any()
    # by the definition, from the drawn codes themselves
    with torch.no_grad():
        cumulative = transformer(drawn[:, :-1]).softmax(-1).cumsum(-1)
    expected = (cumulative < uniform[..., None]).sum(-1).clamp_max(cumulative.shape[-1] - 1)
    assert torch.equal(drawn[unlikely], expected[unlikely])


def test_likelihoods_look_at_nothing_that_follows(transformer, slices):
    codes = encode(transformer.vqvae, slices).flatten(1)
    changed = codes.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 16
    with torch.no_grad():
        before = vqvae_transformer.likelihoods(transformer, codes)
        after = vqvae_transformer.likelihoods(transformer, changed)
    torch.testing.assert_close(after[:, :20], before[:, :20])
    assert (after[:, 20:] - before[:, 20:]).abs().max() > 0.01


def test_draws_have_the_distribution_of_the_logits():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(4000, 4)
    uniform = (torch.arange(4000) + 0.5) / 4000
    drawn = vqvae_transformer.draw(logits, uniform)
    torch.testing.assert_close(
        drawn.bincount(minlength=4) / 4000, logits[0].softmax(0), atol=1e-3, rtol=0
    )
    assert vqvae_transformer.draw(logits[:1], torch.ones(1)).item() == 3


def test_a_slice_of_likely_codes_stays_as_it_is(transformer, transformer_training, slices):
    codes = encode(transformer.vqvae, slices)
    with torch.no_grad():
        chances = vqvae_transformer.likelihoods(transformer, codes.flatten(1))
    likely = (chances >= vqvae_transformer.UNLIKELY).all(1)
    assert likely.any()
    clean = slices[likely]
    specification = transformer_training.checkpoint.specification
    *_, last = vqvae_transformer.VqTransformerMethod().reconstruct(
        transformer, specification, clean, Sampling(), noise_for(clean)
    )
    torch.testing.assert_close(
        last.image, decode(transformer.vqvae, encode(transformer.vqvae, clean))
    )
    assert last.weight.abs().max() == 0


# --- latents painted anew -------------------------------------------------------------------


def test_the_divergence_is_that_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 3, 6, 5, generator=generator)
    noise = torch.randn(2, 3, 6, 5, generator=generator)
    wrong = torch.zeros_like(noise)
    wrong[1, :, 2, 3] = torch.tensor([0.5, -1.0, 2.0])
    found = latent_diffusion.divergence(
        lambda x, t: noise + wrong, SCHEDULE, latents, noise, level=500
    )
    # from the text book: the means differ by beta / sqrt(alpha (1 - abar)) per unit of noise
    beta, bars = SCHEDULE.betas[499], SCHEDULE.alpha_bars
    step = beta / ((1 - beta) * (1 - bars[500])).sqrt() * wrong[1, :, 2, 3].double()
    scale = (beta * (1 - bars[499]) / (1 - bars[500])).sqrt()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(step, scale), normal(0.0, scale)).mean()
    assert found[1, 0, 2, 3].item() == pytest.approx(expected.item(), rel=1e-3)
    found[1, 0, 2, 3] = 0
    assert found.abs().max() < 1e-9


def test_only_the_masked_latents_are_painted():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 3, 6, 5, generator=generator)
    mask = torch.zeros(2, 1, 6, 5, dtype=torch.bool)
    mask[0, 0, 1:3, 2] = True

    def sees_two_everywhere(x, t):
        bar = SCHEDULE.alpha_bar(t, x)
        return (x - bar.sqrt() * 2.0) / (1 - bar).sqrt()

    def noise(n):
        return torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(n))

    for sampler in ("ddim", "ddpm", "dpm++"):
        states = list(
            latent_diffusion.inpaint(
                sees_two_everywhere,
                SCHEDULE,
                latents,
                mask,
                Sampling((500, 300, 100, 0), sampler),
                noise,
            )
        )
        assert len(states) == 3
        kept = ~mask.expand_as(latents)
        torch.testing.assert_close(states[-1][kept], latents[kept])
        torch.testing.assert_close(states[-1][~kept], torch.full((6,), 2.0), atol=1e-4, rtol=0)
        half = SCHEDULE.add_noise(latents, noise(0), 300)
        torch.testing.assert_close(states[0][kept], half[kept])


def test_what_healthy_latents_leave_is_in_the_checkpoint(latent_training, slices):
    checkpoint = latent_training.checkpoint
    network = load_network(checkpoint)
    assert (network.healthy > 0).all()
    assert (network.healthy < 1e3).all()
    with torch.no_grad():
        latents = network.encode(slices)
        assert (latents.mean(dim=(0, 2, 3)).abs() < 0.3).all()
        assert ((latents.std(dim=(0, 2, 3)) - 1).abs() < 0.3).all()


def test_the_divergence_is_averaged_over_neighbors_in_the_brain():
    clean = torch.full((1, 1, 20, 24), -1.0)
    clean[..., :12, :] = 0.5  # three rows of latents of 4 x 4 pixels, and two of air
    found = torch.zeros(1, 1, 5, 6)
    found[0, 0, 2, 3] = 6.0
    found[0, 0, 3, 0] = 1e6  # in air, where no divergence counts
    smoothed, brain = latent_diffusion.smooth_in_brain(found, clean)
    assert brain[0, 0, :3].all()
    assert not brain[0, 0, 3:].any()
    expected = torch.zeros(3, 6)
    expected[1, 2:5] = 6 / 9
    expected[2, 2:5] = 6 / 6  # of six places in the brain
    torch.testing.assert_close(smoothed[0, 0, :3], expected)


def test_where_latents_diverge_more_than_healthy_ones_they_are_painted(latent_training, slices):
    checkpoint = latent_training.checkpoint
    network = load_network(checkpoint)
    method, sampling = latent_diffusion.LatentDiffusionMethod(), Sampling((500, 0))
    unchanged = network.decode(network.encode(slices))

    def reconstruct(healthy):
        network.healthy.fill_(healthy)
        noise = noise_for(slices)
        *_, last = method.reconstruct(network, checkpoint.specification, slices, sampling, noise)
        return last

    none, all_ = reconstruct(1e6), reconstruct(1e-6)
    torch.testing.assert_close(none.image, unchanged)
    assert none.weight.max() < 1e-3
    assert (all_.image - unchanged).abs().max() > 0.01
    # the weight is the divergence in units of the healthy one
    torch.testing.assert_close(all_.weight * 1e-12, none.weight, rtol=1e-3, atol=1e-9)
    assert all_.weight[slices > -1].min() > 0
