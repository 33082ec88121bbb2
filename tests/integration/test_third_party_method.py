"""A method is one folder: another package adds one, and everything follows by itself."""

import importlib.util
import sys
from typing import get_args

import numpy as np
import pytest
from support import code_of_part

from napari_addm.benchmark.systems import known_systems
from napari_addm.checkpoint.file import load_checkpoint, read_specification
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import CheckpointError
from napari_addm.io.reading import read_volume
from napari_addm.registry import METHODS
from napari_addm.training.settings import preset_settings
from napari_addm.widgets.model_card import card_lines

DECLARATION = """
from typing import ClassVar, Literal
from napari_addm.checkpoint.specification import NetworkSpecification, ScoreSpecification
from napari_addm.methods.info import MethodInfo
from napari_addm.methods.settings import TrainingOptions, TrainingSettings, uncalibrated

class BlurSpecification(NetworkSpecification):
    kind: Literal["blur"] = "blur"
    width: int
    @property
    def divisor(self): return 2

class BlurOptions(TrainingOptions):
    record_key: ClassVar[str] = "blurring"
    exponent: float = 1.0

def presets(timesteps):
    score = ScoreSpecification(kind="absolute", smoothing_mm=8.0, erosion_mm=4.0)
    return {"small": TrainingSettings(
        preset="small", method="blur", spacing_mm=(9.0, 4.0, 4.0), size=(56, 48),
        network=BlurSpecification(width=3), detection=uncalibrated(score),
        options=BlurOptions(), epochs=1, slices_per_volume=4,
    )}

METHOD = MethodInfo(
    title="Learned blur", source="Somebody 2026", network=BlurSpecification, presets=presets,
    implementation="blur_method.model:Blur", options=BlurOptions,
)
"""


@pytest.fixture
def blur(tmp_path, monkeypatch):
    """Install a package with one method, as its folder."""
    site = tmp_path / "site"
    (site / "blur_method").mkdir(parents=True)
    (site / "blur_method" / "__init__.py").write_text(DECLARATION)
    (site / "blur_method" / "model.py").write_text(code_of_part("method"))
    info = site / "blur_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blur-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[napari_addm.methods]\nblur = blur_method:METHOD\n")
    monkeypatch.syspath_prepend(site)
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "blur_method"]:
        del sys.modules[module]


@pytest.mark.filterwarnings("ignore")
def test_a_method_in_one_folder_trains_detects_and_is_listed_everywhere(
    blur, train_quietly, healthy_scans, tmp_path
):
    assert list(METHODS)[-1] == "blur"
    assert known_systems()["blur"].title == "Learned blur"
    importlib.import_module("napari_addm.cli.train")  # dataclasses look their module up
    found = importlib.util.find_spec("napari_addm.cli.train")
    command = importlib.util.module_from_spec(found)  # as a new process would see it
    found.loader.exec_module(command)
    assert "blur" in get_args(command.MethodName)

    output = train_quietly(tmp_path / "blur.safetensors", preset_settings("blur"), iterations=1)
    specification = read_specification(output)
    assert specification.network.width == 3
    assert specification.training["blurring"] == {"exponent": 1.0}
    assert "highest_level" not in specification.training
    assert any("Learned blur" in line for line in card_lines(specification))

    scan = read_volume(healthy_scans / "sub-0_T1w.nii.gz")
    result = run(scan, load_checkpoint(output), DetectionSettings(device="cpu"))
    assert result.done.all()
    assert np.isfinite(result.anomaly.data).all()


def test_a_checkpoint_of_a_method_that_is_not_installed_names_it(tiny_checkpoint, tmp_path):
    content = tiny_checkpoint.read_bytes()
    other = tmp_path / "other.safetensors"
    # As many letters, so that the header's length stays.
    other.write_bytes(content.replace(b'\\"method\\":\\"addm\\"', b'\\"method\\":\\"blur\\"', 1))
    with pytest.raises(CheckpointError, match="there is no method 'blur'; this installation has"):
        read_specification(other)
