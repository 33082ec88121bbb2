"""Preview, standard and thorough on the command line, in the panel and in the records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from support import invoke

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, save_checkpoint
from napari_addm.detection.presets import PRESETS, with_preset
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.io.writing import write_volume
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.model_settings import ModelSettings

GRID = np.array([[5, 0, 0, -80], [0, 5, 0, -95], [0, 0, 10, -70], [0, 0, 0, 1.0]])
SHAPE = (33, 39, 15)


def variant(checkpoint: Path, path: Path, **detection: Any) -> Path:
    """The same weights with other defaults."""
    loaded = load_checkpoint(checkpoint)
    specification = loaded.specification.model_copy(
        update={"detection": loaded.specification.detection.model_copy(update=detection)}
    )
    return save_checkpoint(path, specification, loaded.weights)


@pytest.fixture(scope="module")
def many(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose defaults are 2 draws and 30 steps."""
    path = tmp_path_factory.mktemp("many") / "many.safetensors"
    return variant(tiny_checkpoint, path, draws=2, steps=30)


@pytest.fixture(scope="module")
def checkpoint(many: Path) -> Checkpoint:
    return load_checkpoint(many)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, make_brain: Callable[..., Any]) -> Path:
    return write_volume(tmp_path_factory.mktemp("scan") / "head.nii.gz", make_brain(GRID, SHAPE))


def addm(*arguments: object) -> Any:
    return invoke([str(a) for a in arguments])


def recorded(folder: Path) -> dict[str, Any]:
    (record,) = folder.rglob("*_record.json")
    settings: dict[str, Any] = json.loads(record.read_text())["settings"]
    return settings


def test_detect_records_what_the_preset_came_to(many: Path, scan: Path, tmp_path: Path) -> None:
    common = ("detect", scan, "--checkpoint", many, "--slices", 7)
    for name, options in {"plain": (), "preset": ("--quality", "preview")}.items():
        done = addm(*common, "-o", tmp_path / name, *options)
        assert done.exit_code == 0, done.output
    assert recorded(tmp_path / "plain")["draws"] == 2
    preview = recorded(tmp_path / "preset")
    assert (preview["draws"], preview["steps"]) == (1, 3)
    assert not list((tmp_path / "preset").glob("*_uncertainty.nii.gz"))

    done = addm(*common, "-o", tmp_path / "own", "--quality", "preview", "--draws", 2)
    assert done.exit_code == 0, done.output
    own = recorded(tmp_path / "own")
    assert (own["draws"], own["steps"]) == (2, 3)


def test_batch_records_what_the_preset_came_to(many: Path, scan: Path, tmp_path: Path) -> None:
    done = addm(
        *("batch", scan.parent, "-o", tmp_path / "out", "--checkpoint", many),
        *("--quality", "thorough", "--steps", 1, "--no-pictures"),
    )
    assert done.exit_code == 0, done.output
    settings = recorded(tmp_path / "out")
    assert (settings["draws"], settings["steps"]) == (4, 1)


@pytest.fixture
def model(qtbot: Any, many: Path) -> ModelSettings:
    widget = ModelSettings()
    qtbot.addWidget(widget)
    widget.checkpoint_chooser.choose(many)
    return widget


def pick(model: ModelSettings, preset: str) -> None:
    """As a person does with the mouse."""
    index = model.preset.findData(preset)
    model.preset.setCurrentIndex(index)
    model.preset.activated.emit(index)


def test_the_panel_sets_what_the_command_line_does(
    model: ModelSettings, checkpoint: Checkpoint
) -> None:
    assert model.preset.currentData() == "standard"
    for preset in PRESETS:
        model.level.setValue(77)
        assert model.preset.currentIndex() == -1
        assert model.preset.placeholderText() == "Custom"
        model.seed.setValue(5)
        pick(model, preset)
        assert model.preset.currentData() == preset
        expected = with_preset(DetectionSettings(seed=5), preset, checkpoint.specification)
        assert resolve(model.settings, checkpoint.specification) == resolve(
            expected, checkpoint.specification
        )


def test_the_panel_sees_a_preset_in_its_values(model: ModelSettings) -> None:
    model.draws.setValue(1)
    model.steps.setValue(3)
    assert model.preset.currentData() == "preview"
    model.smoothing_mm.setValue(model.smoothing_mm.value() + 0.5)
    assert model.preset.currentIndex() == -1
    model.device.setCurrentText("cpu")
    model.reset()  # to the bundled checkpoint
    assert model.preset.currentData() == "standard"


def test_a_preset_that_changes_nothing_is_no_choice(
    model: ModelSettings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    one = variant(tiny_checkpoint, tmp_path / "one.safetensors", draws=1, steps=1)
    model.checkpoint_chooser.choose(one)
    items = [model.preset.model().index(n, 0) for n in range(len(PRESETS))]
    chosen = [bool(item.flags() & Qt.ItemFlag.ItemIsEnabled) for item in items]
    assert chosen == [False, True, True]
    assert model.preset.currentData() == "standard"


def test_the_comparison_with_healthy_brains_is_offered_where_it_fits(
    model: ModelSettings, normed_checkpoint: Path, many: Path
) -> None:
    box = model.healthy_norm
    assert not box.isEnabled()  # this checkpoint has no norm
    assert model.settings.healthy_norm is None
    model.checkpoint_chooser.choose(normed_checkpoint)
    assert box.isEnabled()
    assert box.isChecked()
    assert model.preset.currentData() == "standard"
    box.setChecked(False)
    assert model.preset.currentIndex() == -1
    assert model.settings.healthy_norm is False
    score = model.score.currentIndex()
    model.score.setCurrentIndex(score - 1)
    assert not box.isEnabled()
    assert model.settings.healthy_norm is None
    model.score.setCurrentIndex(score)
    assert box.isChecked()
    model.checkpoint_chooser.choose(many)
    assert not box.isChecked()
    assert model.preset.currentData() == "standard"


def test_the_panel_of_cohorts_has_them_too(qtbot: Any, many: Path) -> None:
    panel = BatchWidget(ViewerModel())
    qtbot.addWidget(panel)
    panel.model.checkpoint_chooser.choose(many)
    pick(panel.model, "preview")
    assert (panel.settings.detection.draws, panel.settings.detection.steps) == (1, 3)
