"""Trainings that go on, stop in time, and start from another model's weights."""

import json

import pytest
import torch

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.checkpoint.specification import DiffusionSpecification
from napari_addm.errors import AddmError
from napari_addm.methods.addm import AdversarialSettings
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.training.settings import preset_settings

pytestmark = pytest.mark.filterwarnings("ignore")


def short_settings():
    return preset_settings().replace(
        spacing_mm=(9.0, 4.0, 4.0),
        size=(56, 48),
        network=UNetSpecification(
            unshuffle=4,
            channels=(8, 16),
            res_blocks=(1, 1),
            attention=(False, True),
            head_channels=8,
            norm_groups=4,
        ),
        diffusion=DiffusionSpecification(timesteps=1000, noise="pyramid"),
        slices_per_volume=6,
        batch_size=4,
        seed=5,
    )


def test_a_training_goes_on_with_its_own_settings_only(train_quietly, tmp_path):
    from napari_addm.training.train import read_log

    settings, output = short_settings(), tmp_path / "a.safetensors"

    def iterations() -> int:
        return load_checkpoint(output).specification.training["iterations"]

    for budget in (3, 6, 6):  # a spent budget is not overrun
        train_quietly(output, settings, iterations=budget, validate_every=2)
        assert iterations() == budget
    assert any(row.get("validation/loss") for row in read_log(output))
    assert list((tmp_path / "a.training" / "pictures").glob("*.png"))

    with pytest.raises(AddmError, match=r"a training with another seed.*; use --restart"):
        train_quietly(output, settings.replace(seed=6), iterations=6)
    record = tmp_path / "a.training" / "settings.json"
    state, whole = tmp_path / "a.training" / "last.ckpt", record.read_text()
    older = {key: value for key, value in json.loads(whole).items() if key != "format"}
    for text in (json.dumps(older), "[1]", whole[:50]):
        record.write_text(text)
        with pytest.raises(AddmError, match=r"another version of .*, or a damaged one; use --rest"):
            train_quietly(output, settings, iterations=6)
    record.write_text(whole)
    for content in (state.read_bytes()[:5000], b"", b"\x80\x02}q\x00."):
        state.write_bytes(content)
        with pytest.raises(AddmError, match=r"holds a damaged last\.ckpt; use --restart"):
            train_quietly(output, settings, iterations=6)
    train_quietly(output, settings, iterations=3, restart=True)
    assert iterations() == 3


def test_minutes_end_a_training_after_an_epoch(train_quietly, tmp_path):
    output = train_quietly(tmp_path / "a.safetensors", short_settings(), minutes=0.001)
    assert load_checkpoint(output).specification.training["iterations"] == 3


def test_lambda_zero_trains_without_a_discriminator(train_quietly, tmp_path):
    settings = short_settings().replace(options=AdversarialSettings(weight=0.0))
    output = train_quietly(tmp_path / "ddpm.safetensors", settings, iterations=1)
    assert load_checkpoint(output).specification.training["adversarial"]["weight"] == 0


def test_a_training_starts_from_another_models_weights(train_quietly, tmp_path):
    settings = short_settings().replace(ema=0.5, learning_rate=2e-3)
    first = train_quietly(tmp_path / "a.safetensors", settings, iterations=6)
    learned = load_checkpoint(first)

    # With a learning rate of almost 0 the weights stay the same (saved in half precision).
    frozen = settings.replace(learning_rate=1e-12, augment=False)
    output = tmp_path / "b.safetensors"
    tuned = load_checkpoint(train_quietly(output, frozen, iterations=3, start_from=first))
    for name, weights in learned.weights.items():
        torch.testing.assert_close(tuned.weights[name], weights, msg=name)
    record = tuned.specification.training["started_from"]
    assert record["sha256"] == learned.sha256
    assert record["iterations"] == learned.specification.training["iterations"]
    assert tuned.specification.training["iterations"] == 3

    other = settings.replace(
        network=settings.network.replace(channels=(16, 16)),
        diffusion=DiffusionSpecification(timesteps=500, noise="pyramid"),
    )
    with pytest.raises(AddmError, match=r"a\.safetensors: its network and diffusion differ"):
        train_quietly(tmp_path / "c.safetensors", other, start_from=first)
