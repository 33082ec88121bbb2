"""Real, short trainings of every method: they learn, go on where they stopped, and detect."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.checkpoint.specification import DiffusionSpecification
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
from napari_addm.methods.f_anogan import GanSpecification
from napari_addm.methods.latent_diffusion import LatentUNetSpecification
from napari_addm.methods.network_specifications import (
    AutoencoderSpecification,
    UNetSpecification,
    VqVaeSpecification,
)
from napari_addm.methods.vqvae_transformer import VqTransformerSpecification
from napari_addm.registry import METHODS
from napari_addm.training.settings import RunSettings, preset_settings

training = pytest.importorskip(
    "napari_addm.training.train", reason="training needs Lightning, the extra train"
)
from lightning.pytorch.callbacks import Callback  # noqa: E402 - comes with training

UNET = UNetSpecification(
    unshuffle=1,
    channels=(8, 16),
    res_blocks=(1, 1),
    attention=(False, True),
    head_channels=8,
    norm_groups=4,
)
VQVAE = VqVaeSpecification(channels=(8, 16), res_layers=1, embeddings=16, embedding_size=4)
NETWORKS = {
    "addm": UNET.replace(unshuffle=4),
    "anoddpm": UNET.replace(unshuffle=4),
    "ddpm": UNET.replace(unshuffle=4),
    "denoising_ae": UNET.replace(unshuffle=4),
    "spatial_ae": AutoencoderSpecification(channels=(8, 16), dropout=0.2),
    "dense_vae": AutoencoderSpecification(channels=(8, 16), latent=16, dropout=0.1),
    "f_anogan": GanSpecification(channels=(8, 16), latent=16, unshuffle=2),
    "vqvae_transformer": VqTransformerSpecification(
        vqvae=VQVAE.replace(channels=(8, 16, 16)), width=16, layers=2, heads=2
    ),
    "latent_diffusion": LatentUNetSpecification(vqvae=VQVAE, unet=UNET),
}
FITTED = {name for name in METHODS if not METHODS[name].trained}
ITERATIONS = 40


def tiny_settings(method):
    settings = preset_settings(method)
    return settings.replace(
        spacing_mm=(9.0, 4.0, 4.0),
        size=(56, 48),
        network=NETWORKS[method],
        diffusion=settings.diffusion and DiffusionSpecification(timesteps=1000, noise="pyramid"),
        slices_per_volume=8,
        batch_size=4,
        learning_rate=5e-3 if isinstance(settings.network, VqTransformerSpecification) else 2e-3,
        seed=5,
    )


class StopAtIteration(Callback):
    """Stops a training early, without its budget knowing."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        trainer.should_stop = int(pl_module.iterations) >= self.iteration


@pytest.fixture(scope="module")
def scans(tmp_path_factory, make_brain) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    affine = np.diag([3.0, 3.0, 6.0, 1.0])
    affine[:3, 3] = [-80, -95, -70]
    for n in range(3):
        brain = make_brain(affine @ np.diag([1 + 0.02 * n, 1, 1, 1]), (54, 64, 24))
        image = nib.Nifti1Image(brain.to_native(), brain.source.affine)
        nib.save(image, folder / f"sub-{n}_T1w.nii.gz")
    return folder


@pytest.fixture(scope="module")
def brain_cache(tmp_path_factory) -> Path:
    """Brains that are registered once for all methods that keep them."""
    return tmp_path_factory.mktemp("brains")


def test_every_built_in_method_is_tried():
    assert set(NETWORKS) | FITTED == set(METHODS)


@pytest.mark.parametrize("method", sorted(FITTED))
def test_healthy_brains_are_kept_and_stand_for_a_network(
    method, scans, make_brain, brain_cache, tmp_path
):
    pytest.importorskip("SimpleITK")
    settings = preset_settings(method).replace(spacing_mm=(5.0, 4.0, 4.0), size=(56, 48))
    path = training.train(
        scans,
        tmp_path / "brains.safetensors",
        settings,
        RunSettings(cache=brain_cache),
    )
    checkpoint = load_checkpoint(path)
    assert checkpoint.specification.network.count == (3 if method == "nearest_neighbour" else 1)
    # the same head on another grid, a little wider, with a lesion
    affine = np.diag([3.0, 3.0, 6.0, 1.0])
    affine[:3, 3] = [-70, -90, -75]
    turned = np.eye(4)
    turned[:2, :2] = [[0.995, -0.1], [0.1, 0.995]]
    scan = make_brain(turned @ affine @ np.diag([1.03, 1, 1, 1]), (54, 64, 24), ((25, 20, 10, 30),))
    plain = make_brain(turned @ affine @ np.diag([1.03, 1, 1, 1]), (54, 64, 24))
    lesion, brain = scan.data != plain.data, scan.data > 0
    found = run(scan, checkpoint, DetectionSettings(device="cpu", regions=False))
    assert not [
        warning for warning in found.warnings if "healthy brain does not fit" in str(warning)
    ]
    redrawn = np.abs(found.reconstruction.data - plain.data)
    spread = plain.data[brain].std()
    assert redrawn[brain & ~lesion].mean() < 0.5 * spread


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", NETWORKS)
def test_train_interrupt_resume_and_detect(method, scans, tmp_path):
    settings = tiny_settings(method)
    options = {"accelerator": "cpu", "precision": "32", "enable_progress_bar": False}
    limits = RunSettings(iterations=ITERATIONS, validate_every=5, half=False)
    whole = training.train(scans, tmp_path / "whole.safetensors", settings, limits, **options)
    rows = training.read_log(whole)
    losses = [float(row["validation/loss"]) for row in rows if row.get("validation/loss")]
    assert losses[-1] < losses[0]
    assert list(tmp_path.glob("whole.training/pictures/*.png"))

    # In the second stage of the methods with two, where all of the first has to be kept.
    part = tmp_path / "part.safetensors"
    stop = StopAtIteration(28)
    training.train(scans, part, settings, limits, callbacks=[stop], **options)
    assert load_checkpoint(part).specification.training["iterations"] == 28
    training.train(scans, part, settings, limits, **options)
    a, b = load_checkpoint(whole), load_checkpoint(part)
    assert a.specification.training["iterations"] == b.specification.training["iterations"]
    assert a.weights.keys() == b.weights.keys()
    for name, weights in a.weights.items():
        assert torch.equal(weights, b.weights[name]), name

    scan = read_volume(next(scans.glob("*.nii.gz")))
    steps = 2 if METHODS[method].noise_levels else None
    first = run(scan, b, DetectionSettings(device="cpu", steps=steps, draws=1))
    again = run(scan, b, DetectionSettings(device="cpu", steps=steps, draws=1, batch_size=5))
    assert first.done.all()
    assert np.isfinite(first.anomaly.data).all()
    # Neither dropout nor the statistics of the batch take part in detection.
    np.testing.assert_allclose(again.anomaly.data, first.anomaly.data, atol=1e-4)
