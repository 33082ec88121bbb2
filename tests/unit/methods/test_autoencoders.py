"""The autoencoders and f-AnoGAN: their losses against formulas, and real, very short trainings."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import interpolate

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
from napari_addm.methods.base import Sampling, StepContext
from napari_addm.methods.dense_vae.model import kl_divergence as code_divergence
from napari_addm.methods.f_anogan import GanSpecification
from napari_addm.methods.f_anogan.model import ENCODER_FROM, gradient_penalty
from napari_addm.methods.loading import load_network
from napari_addm.methods.network_specifications import AutoencoderSpecification
from napari_addm.methods.settings import TrainingSettings
from napari_addm.registry import METHODS

training = pytest.importorskip(
    "napari_addm.training.train", reason="training needs Lightning, the extra train"
)
Callback = pytest.importorskip("lightning.pytorch.callbacks").Callback

NETWORKS = {
    "spatial_ae": AutoencoderSpecification(channels=(8, 16), dropout=0.2),
    "dense_vae": AutoencoderSpecification(channels=(8, 16), latent=16, dropout=0.1),
    "f_anogan": GanSpecification(channels=(8, 16), latent=16, unshuffle=2),
}
QUIET: dict[str, Any] = {"accelerator": "cpu", "precision": "32", "enable_progress_bar": False}

every_method = pytest.mark.parametrize("method", NETWORKS)


def tiny_settings(method: Any) -> TrainingSettings:
    return training.preset_settings(method).replace(
        spacing_mm=(6.0, 4.0, 4.0),
        size=(56, 48),
        network=NETWORKS[method],
        slices_per_volume=4,
        batch_size=4,
        learning_rate=2e-3,
        seed=5,
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, make_brain) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    for n in range(4):
        affine = np.diag([3.0 + 0.05 * n, 3.0, 4.0, 1.0])
        affine[:3, 3] = [-80, -95, -70]
        brain = make_brain(affine, (54, 64, 36))
        image = nib.Nifti1Image(brain.to_native(), brain.source.affine)
        nib.save(image, folder / f"sub-{n}_T1w.nii.gz")
    return folder


def slices() -> torch.Tensor:
    """Four smooth images of -1..1."""
    coarse = torch.rand(4, 1, 7, 6, generator=torch.Generator().manual_seed(1))
    return 2.0 * interpolate(coarse, scale_factor=8, mode="bilinear") - 1.0


class Updates:
    """Steps a learner's optimizers as the training loop does, and counts."""

    def __init__(self, learner) -> None:
        self.learner = learner
        self.optimizers = learner.optimizers()
        self.taken: list[int] = []

    def __call__(self, loss: torch.Tensor, optimizer: int = 0) -> None:
        self.optimizers[optimizer].zero_grad()
        loss.backward()
        self.optimizers[optimizer].step()
        self.taken.append(optimizer)

    def step(self, clean: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(len(self.taken))
        return self.learner.step(clean, StepContext(generator, share, self))


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


# --- what all three share -------------------------------------------------------------------


class PowerCut(Callback):
    """Stops a training early, without its budget knowing."""

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        trainer.should_stop = int(pl_module.iterations) >= 21


@pytest.mark.filterwarnings("ignore")
@every_method
def test_train_interrupt_resume_and_detect(method, cohort, tmp_path):
    settings = tiny_settings(method)
    # f-AnoGAN spends three fifths of them on its GAN before the encoder learns at all
    limits = {"iterations": 120, "validate_every": 5, **QUIET}
    whole = training.train(cohort, tmp_path / "whole.safetensors", settings, **limits)
    rows = training.read_log(whole)
    losses = [float(row["validation/loss"]) for row in rows if row.get("validation/loss")]
    assert losses[-1] < 0.7 * losses[0]

    part = tmp_path / "part.safetensors"
    training.train(cohort, part, settings, callbacks=[PowerCut()], **limits)
    assert load_checkpoint(part).specification.training["iterations"] == 21
    training.train(cohort, part, settings, **limits)
    a, b = load_checkpoint(whole), load_checkpoint(part)
    assert a.specification.training["iterations"] == b.specification.training["iterations"] == 120
    assert a.weights.keys() == b.weights.keys()
    assert same(a.weights, b.weights)
    counters = [n for n, t in a.weights.items() if not t.is_floating_point()]
    assert counters  # batch norm's, stored as they are
    assert all(a.weights[name] > 0 for name in counters)

    scan = read_volume(next(cohort.glob("*.nii.gz")))
    first = run(scan, b, DetectionSettings(device="cpu"))
    again = run(scan, b, DetectionSettings(device="cpu", seed=3, batch_size=5))
    assert first.done.all()
    assert first.precision == "float32"
    assert np.isfinite(first.anomaly.data).all()
    assert first.anomaly.data.max() > 0
    # neither dropout nor the statistics of the batch have a part in detection
    np.testing.assert_allclose(again.anomaly.data, first.anomaly.data, atol=1e-4)


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
    settings = training.preset_settings(method, preset)
    assert not any(n % settings.network.divisor for n in settings.size)
    with torch.device("meta"):
        network = METHODS[method].load().build(settings.network, settings.size)
        image = torch.zeros(2, 1, *settings.size)
        assert network(image).shape == image.shape


@every_method
def test_bfloat16_training_gives_finite_losses_and_float32_weights(method):
    learner = METHODS[method].load().objective(tiny_settings(method))
    updates = Updates(learner)
    for share in (0.0, 1.0):
        with torch.autocast("cpu", torch.bfloat16):
            logged = updates.step(slices(), share)
        assert all(torch.isfinite(value) for value in logged.values())
    assert all(p.dtype == torch.float32 for p in learner.parameters())
    assert all(torch.isfinite(p).all() for p in learner.parameters())


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
    learner = METHODS["dense_vae"].load().objective(tiny_settings("dense_vae"))
    network, clean = learner.network.eval(), slices()
    mean, log_deviation = network.encode(clean)
    error = (network.decode(mean) - clean).abs().sum(dim=(1, 2, 3)) / 2
    expected = (error + code_divergence(mean, log_deviation)).mean() / (56 * 48)
    found = learner.validation_loss(network, clean, torch.Generator())
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


def test_five_steps_of_the_critic_for_one_of_the_generator():
    learner = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    updates = Updates(learner)
    for _ in range(10):
        updates.step(slices(), share=0.0)
    assert updates.taken == [1, 1, 1, 1, 1, 0] * 2


def test_a_critic_learns_to_tell_and_moves_the_generator():
    torch.manual_seed(0)
    learner = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    updates = Updates(learner)
    encoder, generator = copied(learner.network.encoder), copied(learner.network.generator)
    distances = [updates.step(slices(), 0.0)["distance"].item() for _ in range(30)]
    assert np.mean(distances[-5:]) > np.mean(distances[:5])
    assert same(encoder, copied(learner.network.encoder))
    assert not same(generator, copied(learner.network.generator))


def test_the_encoder_learns_with_generator_and_critic_frozen():
    torch.manual_seed(0)
    learner = METHODS["f_anogan"].load().objective(tiny_settings("f_anogan"))
    updates = Updates(learner)
    for _ in range(20):
        updates.step(slices(), share=ENCODER_FROM - 0.01)
    # statistics of batch norm included
    generator, critic = copied(learner.network.generator), copied(learner.critic)
    learner.train()  # as Lightning does at every epoch
    losses = [updates.step(slices(), ENCODER_FROM)["encoder"].item() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    assert same(generator, copied(learner.network.generator))
    assert same(critic, copied(learner.critic))
    assert set(updates.taken[-40:]) == {2}


def test_the_averaged_generator_is_the_one_that_the_encoder_learned_for():
    """The average that is saved lags behind the generator, which stands still at the end."""
    settings = tiny_settings("f_anogan")
    module = training.MethodModule(settings, lambda *spent: 0.0)
    updates = Updates(module.objective)
    for n in range(60):
        updates.step(slices(), share=n / 60)
        module.average.update_parameters(module.objective.network)
    averaged, live = module.average.module.generator, module.objective.network.generator.eval()
    codes = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.no_grad():
        difference = (averaged(codes) - live(codes)).abs().mean()
        spread = live(codes).std()
    assert difference < 0.05 * spread


@pytest.mark.filterwarnings("ignore")
def test_the_checkpoint_holds_encoder_and_generator_and_no_critic(cohort, tmp_path):
    output = training.train(
        cohort, tmp_path / "gan.safetensors", tiny_settings("f_anogan"), iterations=3, **QUIET
    )
    checkpoint = load_checkpoint(output)
    assert {name.split(".")[0] for name in checkpoint.weights} == {"encoder", "generator"}
    network = load_network(checkpoint)
    with torch.no_grad():
        code = network.encoder(slices())
        assert code.abs().max() <= 1
        torch.testing.assert_close(network(slices()), network.generator(code))
