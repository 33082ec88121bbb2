"""Training: the objective against its formulas, and a real, very short training."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.checkpoint.specification import DiffusionSpecification
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.diffusion.schedules import LinearSchedule
from napari_addm.errors import AddmError, InputError
from napari_addm.io.reading import read_volume
from napari_addm.methods.addm import AdversarialSettings
from napari_addm.methods.addm.model import (
    adversarial_loss,
    build_discriminator,
    denoise,
    discriminator_loss,
)
from napari_addm.methods.network_specifications import UNetSpecification

training = pytest.importorskip(
    "napari_addm.training.train", reason="training needs Lightning, the extra train"
)

SCHEDULE = LinearSchedule(1000)


# --- the objective --------------------------------------------------------------------------


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
    torch.testing.assert_close(sample.real[:, :1], clean)


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


# --- data -----------------------------------------------------------------------------------


def test_the_papers_preset_is_what_the_paper_states():
    for length in (300, 500, 1000):
        preset = training.preset_settings("addm", "paper", length)
        assert preset.size == (256, 256)
        assert preset.batch_size == 4
        assert preset.epochs == 3000
        assert (preset.learning_rate, preset.decay, preset.decay_epochs) == (1e-4, 0.999, 200)
        assert preset.options.weight == 0.05
        assert preset.diffusion.noise == "gaussian"
        assert preset.slices_per_volume == 1
        assert preset.detection.level == length // 4


def test_augmentation_keeps_the_brain_a_brain():
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(96.0), indexing="ij")
    mask = (((y - 56) / 45) ** 2 + ((x - 48) / 35) ** 2 < 1).expand(12, 1, 112, 96)
    values = torch.where(mask, 0.5 + 0.3 * torch.sin(x / 8), 0.0).float()
    changed, moved = training.augment(values, mask, generator)
    assert changed.shape == values.shape
    assert moved.dtype == torch.bool
    assert ((changed >= 0) & (changed <= 1)).all()
    area = moved.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    assert ((area > 0.75) & (area < 1.25)).all()
    assert area.std() > 0.01
    inside = [changed[n][moved[n]] for n in range(12)]
    means = torch.stack([v.mean() for v in inside])
    assert (means - 0.5).abs().max() < 0.25
    assert means.std() > 0.01
    again, _ = training.augment(values, mask, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, changed)


def test_every_volume_gives_its_slices_and_the_draw_depends_on_seed_and_epoch_alone():
    volumes = np.repeat(np.arange(5), 20)
    sampler = training.SliceSampler(volumes, 3, seed=1)
    sampler.set_epoch(4)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 15
    assert (np.bincount(volumes[drawn]) == 3).all()
    other = training.SliceSampler(volumes, 3, seed=1)
    other.set_epoch(4)
    assert list(other) == drawn
    other.set_epoch(5)
    assert list(other) != drawn


def test_a_split_file_names_subjects(tmp_path):
    scans = [tmp_path / f"sub-{n}_T1w.nii.gz" for n in ("1", "10", "2", "3")]
    split = tmp_path / "split.json"
    split.write_text(
        json.dumps({"healthy": {"train": ["sub-1", "sub-2"], "validation": ["sub-3"]}})
    )
    train, validation = training.split_scans(scans, split, 0)
    assert [s.name for s in train] == ["sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz"]
    assert [s.name for s in validation] == ["sub-3_T1w.nii.gz"]
    split.write_text("[]")
    with pytest.raises(InputError, match="not a split file"):
        training.split_scans(scans, split, 0)


def test_a_folder_without_scans_is_said_in_words(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        training.find_scans(tmp_path / "none")
    with pytest.raises(InputError, match="holds no"):
        training.find_scans(tmp_path)


# --- the loop -------------------------------------------------------------------------------


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


def short_settings():
    return training.preset_settings().replace(
        spacing_mm=(6.0, 4.0, 4.0),
        size=(56, 48),
        network=UNetSpecification(
            unshuffle=4,
            channels=(8, 16),
            res_blocks=(1, 1),
            attention=(False, True),
            head_channels=8,
            norm_groups=4,
        ),
        diffusion=DiffusionSpecification(length=1000, noise="coarse"),
        slices_per_volume=4,
        batch_size=4,
        seed=5,
    )


QUIET = {"accelerator": "cpu", "precision": "32", "enable_progress_bar": False}


@pytest.mark.filterwarnings("ignore")
def test_train_interrupt_resume_and_detect(cohort, tmp_path):
    settings = short_settings()
    whole = training.train(
        cohort, tmp_path / "whole.safetensors", settings, iterations=12, validate_every=2, **QUIET
    )
    part = tmp_path / "part.safetensors"
    training.train(cohort, part, settings, iterations=3, validate_every=2, **QUIET)
    assert load_checkpoint(part).specification.training["iterations"] == 3
    training.train(cohort, part, settings, iterations=12, validate_every=2, **QUIET)

    a, b = load_checkpoint(whole), load_checkpoint(part)
    assert a.specification.training["iterations"] == b.specification.training["iterations"] == 12
    for name, weights in a.weights.items():
        torch.testing.assert_close(weights, b.weights[name], msg=name)

    # what a reader of the log is promised
    rows = training.read_log(part)
    assert any(row.get("validation/loss") for row in rows)
    assert list((tmp_path / "part.training" / "pictures").glob("*.png"))

    # the checkpoint does its work on a scan
    scan = read_volume(next(cohort.glob("*.nii.gz")))
    result = run(scan, b, DetectionSettings(steps=2, device="cpu"))
    assert result.done.all()
    assert np.isfinite(result.anomaly.data).all()

    # other settings on the same state are refused, and named
    with pytest.raises(AddmError, match="seed"):
        training.train(cohort, part, settings.replace(seed=6), iterations=12, **QUIET)


@pytest.mark.filterwarnings("ignore")
def test_training_lowers_the_loss_and_logs_the_adversary(cohort, tmp_path):
    output = tmp_path / "model.safetensors"
    settings = short_settings().replace(ema=0.5, learning_rate=2e-3)
    training.train(cohort, output, settings, iterations=150, validate_every=10, **QUIET)
    rows = training.read_log(output)
    losses = [float(row["validation/loss"]) for row in rows if row.get("validation/loss")]
    assert losses[-1] < 0.8 * losses[0]
    logged = {key for row in rows for key, value in row.items() if value}
    assert {
        "train/l2",
        "train/adversarial",
        "discriminator/accuracy_real",
        "discriminator/accuracy_fake",
        "gradient_norm/l2",
        "gradient_norm/adversarial",
    } <= logged


@pytest.mark.filterwarnings("ignore")
def test_lambda_zero_trains_a_plain_ddpm(cohort, tmp_path):
    settings = short_settings().replace(options=AdversarialSettings(weight=0.0))
    output = training.train(cohort, tmp_path / "ddpm.safetensors", settings, iterations=3, **QUIET)
    assert load_checkpoint(output).specification.training["adversarial"]["weight"] == 0


@pytest.mark.filterwarnings("ignore")
def test_a_training_starts_from_another_models_weights(cohort, tmp_path):
    settings = short_settings().replace(ema=0.5, learning_rate=2e-3)
    options = {"validate_every": 1, **QUIET}
    first = training.train(cohort, tmp_path / "a.safetensors", settings, iterations=60, **options)
    learned = load_checkpoint(first)

    # With a rate of almost 0 the weights stay what they were (saved in half precision).
    frozen = settings.replace(learning_rate=1e-12, augment=False)
    tuned = load_checkpoint(
        training.train(
            cohort,
            tmp_path / "b.safetensors",
            frozen,
            iterations=3,
            start_from=learned,
            **options,
        )
    )
    for name, weights in learned.weights.items():
        torch.testing.assert_close(tuned.weights[name], weights, msg=name)
    record = tuned.specification.training["started_from"]
    assert record["sha256"] == learned.sha256
    assert record["iterations"] == learned.specification.training["iterations"]
    assert tuned.specification.training["iterations"] == 3

    with pytest.raises(AddmError, match=r"a\.safetensors: its network and diffusion differ"):
        training.train(
            cohort,
            tmp_path / "c.safetensors",
            settings.replace(
                network=settings.network.model_copy(update={"channels": (16, 16)}),
                diffusion=DiffusionSpecification(length=500, noise="coarse"),
            ),
            start_from=learned,
            **options,
        )
