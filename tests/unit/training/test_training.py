"""Presets and budgets of trainings."""

import pytest

from napari_addm.errors import AddmError
from napari_addm.registry import METHODS
from napari_addm.training.settings import Budget, preset_settings

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_papers_preset_is_what_the_paper_states():
    for length in (300, 500, 1000):
        preset = preset_settings("addm", "paper", length)
        assert preset.size == (256, 256)
        assert preset.batch_size == 4
        assert preset.epochs == 3000
        assert (preset.learning_rate, preset.decay, preset.decay_epochs) == (1e-4, 0.999, 200)
        assert preset.options.weight == 0.05
        assert preset.diffusion.noise == "gaussian"
        assert preset.slices_per_volume == 1
        assert preset.detection.level == length // 4


def test_anoddpm_is_what_its_public_code_does():
    small, paper = (preset_settings("anoddpm", preset) for preset in ("small", "paper"))
    for settings in (small, paper):
        assert (settings.diffusion.noise, settings.diffusion.noise_sd) == ("simplex", 0.48)
        assert settings.detection.level == 250
        assert settings.decay == 1
    assert (paper.detection.sampler, paper.detection.steps) == ("anoddpm", 250)


@pytest.mark.parametrize("name", METHODS)
def test_every_preset_fits_its_method(name):
    method = METHODS[name]
    for preset, settings in method.presets(1000).items():
        assert (settings.method, settings.preset) == (name, preset)
        assert not any(n % settings.network.divisor for n in settings.size)
        assert (settings.detection.level is not None) is method.noise_levels
    assert "small" in method.presets(1000)


def test_settings_that_do_not_fit_the_method_are_refused():
    settings = preset_settings()
    for changes in ({"options": None}, {"max_timestep": None}, {"method": "dense_vae"}):
        with pytest.raises(ValueError, match="the method"):
            settings.replace(**changes)
    with pytest.raises(AddmError, match="no preset 'huge'; choose small, paper"):
        preset_settings(preset="huge")
    with pytest.raises(AddmError, match="There is no method 'gan'"):
        preset_settings("gan")


def test_progress_is_the_spent_part_of_the_budget():
    assert Budget(10).progress(50, 1e9, 4) == 0.4
    assert Budget(10, iterations=100).progress(50, 1e9, 4) == 0.5
    assert Budget(10, iterations=100, minutes=1).progress(50, 1e9, 4) == 0.5
    assert Budget(10, minutes=1).progress(0, 45, 4) == 0.75
    assert Budget(10, minutes=1).progress(0, 90, 4) == 1


def test_a_state_stays_where_the_next_one_has_no_room(tmp_path):
    import torch

    from napari_addm.training.callbacks import WholeStates

    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    states, path = WholeStates(), tmp_path / "last.ckpt"
    states.save_checkpoint({"step": 1}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(AddmError, match=r"last\.ckpt cannot be written"):
            states.save_checkpoint({"weights": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
