"""One settings model: bounds, the checkpoint's defaults, presets, calibration, the record."""

from pathlib import Path
from typing import Any

import pytest

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.detection.presets import PRESETS, with_preset
from napari_addm.detection.settings import (
    DetectionSettings,
    resolve,
    uses_calibrated_settings,
)
from napari_addm.errors import AddmError
from napari_addm.outputs.record import RecordedSettings, RunRecord


@pytest.fixture(scope="module")
def specification(tiny_checkpoint: Path) -> ModelSpecification:
    """A specification with 2 draws and 30 steps as its defaults."""
    loaded = load_checkpoint(tiny_checkpoint).specification
    detection = loaded.detection.model_copy(update={"draws": 2, "steps": 30})
    return loaded.model_copy(update={"detection": detection})


@pytest.fixture(scope="module")
def autoencoder(specification: ModelSpecification) -> ModelSpecification:
    """A method without noise."""
    return specification.model_copy(update={"method": "spatial_ae", "diffusion": None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("level", 0),
        ("sampler", "euler"),
        ("eta", 1.5),
        ("eta", float("nan")),
        ("seed", -1),
        ("draws", 0),
        ("device", "tpu"),
        ("precision", "int8"),
        ("batch_size", 0),
        ("context_mm", -1.0),
        ("score", "guess"),
        ("smoothing_mm", 101.0),
        ("color", "red"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(AddmError, match=name):
        DetectionSettings(**{name: value})
    with pytest.raises(AddmError, match=name):
        DetectionSettings().replace(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 100_000}, "not within 1..1000"),
        ({"level": 5, "steps": 6}, "do not fit a noise level of 5"),
    ],
)
def test_settings_have_to_fit_the_checkpoint(
    specification: ModelSpecification, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AddmError, match=message):
        resolve(DetectionSettings(**changes), specification)


@pytest.mark.parametrize("changes", [{"level": 5}, {"steps": 2}, {"draws": 2}])
def test_a_method_without_noise_refuses_noise(
    autoencoder: ModelSpecification, changes: dict[str, Any]
) -> None:
    with pytest.raises(AddmError, match="spatial_ae"):
        resolve(DetectionSettings(**changes), autoencoder)


@pytest.mark.parametrize(
    ("preset", "draws", "steps"), [("preview", 1, 3), ("standard", 2, 30), ("thorough", 4, 30)]
)
def test_a_preset_sets_draws_and_steps(
    specification: ModelSpecification, preset: str, draws: int, steps: int
) -> None:
    plain = resolve(DetectionSettings(), specification)
    found = resolve(with_preset(DetectionSettings(), preset, specification), specification)
    assert (found.draws, found.steps) == (draws, steps)
    assert found.replace(draws=plain.draws, steps=plain.steps) == plain


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_leaves_given_values_alone(
    specification: ModelSpecification, autoencoder: ModelSpecification, preset: str
) -> None:
    asked = DetectionSettings(draws=3, steps=7, seed=5)
    assert with_preset(asked, preset, specification) == asked
    assert with_preset(DetectionSettings(), preset, autoencoder) == DetectionSettings()


def test_a_preview_fits_a_lower_level(specification: ModelSpecification) -> None:
    asked = with_preset(DetectionSettings(level=5), "preview", specification)
    assert resolve(asked, specification).steps == 1


def test_an_unknown_preset_is_refused(specification: ModelSpecification) -> None:
    with pytest.raises(AddmError, match="no preset 'fast'; choose preview, standard, thorough"):
        with_preset(DetectionSettings(), "fast", specification)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"seed": 3, "device": "cpu", "precision": "float32", "batch_size": 2}, True),
        ({"steps": 29}, False),
        ({"level": 31}, False),
        ({"sampler": "ddpm"}, False),
        ({"eta": 0.25}, False),
        ({"draws": 1}, False),
        ({"slices": (7,)}, False),
        ({"score": "ssim"}, False),
        ({"smoothing_mm": 99.0}, False),
    ],
)
def test_a_calibration_holds_for_the_settings_that_scores_depend_on(
    specification: ModelSpecification, changes: dict[str, Any], holds: bool
) -> None:
    assert uses_calibrated_settings(DetectionSettings(**changes), specification) is holds
    own = not resolve(DetectionSettings(), specification).symmetry
    assert not uses_calibrated_settings(DetectionSettings(symmetry=own), specification)


def test_the_record_has_every_field_of_the_settings() -> None:
    schema = RunRecord.model_json_schema()["$defs"]["RecordedSettings"]["properties"]
    for name, field in DetectionSettings.model_fields.items():
        assert schema[name]["title"] == field.title
        assert field.description
    assert schema.keys() - DetectionSettings.model_fields.keys() == {"erosion_mm"}


def test_an_added_field_is_kept_in_a_record_by_versions_without_it() -> None:
    class Newer(DetectionSettings):
        halo: int = 3

    dumped = Newer(seed=4).model_dump(mode="json")
    read = RecordedSettings(**dumped, erosion_mm=2.0)
    assert read.model_dump(mode="json") == {**dumped, "erosion_mm": 2.0}
    assert read.model_extra == {"halo": 3}
