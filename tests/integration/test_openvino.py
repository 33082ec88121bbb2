"""The network run by OpenVINO: the same maps, a whole cache or none, words for the rest."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from support import invoke

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, save_checkpoint
from napari_addm.detection import devices
from napari_addm.detection.devices import free_memory
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError, MissingExtraError
from napari_addm.io.demo import DEMO_CHECKPOINT, DEMO_SCAN
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume

openvino = pytest.importorskip("openvino")
from napari_addm.detection import openvino_network as module  # noqa: E402

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
FLOAT32 = DetectionSettings(device="openvino", precision="float32")


@pytest.fixture(scope="module")
def scan(make_brain: Callable[..., Volume]) -> Volume:
    return make_brain(AFFINE, SHAPE)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    """A cache that holds the tiny network."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "user_cache_path", lambda *_, **__: folder)
        module.openvino_network(checkpoint, 1, "float32")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path) -> Iterator[Path]:
    """Every test has its own copy of it, and no engine of another test."""
    folder = tmp_path / "cache"
    shutil.copytree(converted, folder)
    monkeypatch.setattr(module, "user_cache_path", lambda *_, **__: folder)
    free_memory()
    yield folder / "openvino"
    free_memory()


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("the network was converted again")


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_the_maps_are_torchs(scan: Volume, checkpoint: Checkpoint, sampler: Any) -> None:
    settings = FLOAT32.replace(sampler=sampler, steps=4)
    ours = run(scan, checkpoint, settings)
    torchs = run(scan, checkpoint, settings.replace(device="cpu"))
    assert (ours.device, ours.precision) == ("openvino", "float32")
    assert torchs.anomaly.data.max() > 0.05
    assert_allclose(ours.anomaly.data, torchs.anomaly.data, atol=1e-4)
    again = run(scan, checkpoint, settings)
    np.testing.assert_array_equal(again.anomaly.data, ours.anomaly.data)


@pytest.mark.slow
def test_the_demo_case_comes_out_as_on_torch() -> None:
    demo = read_volume(DEMO_SCAN)
    checkpoint = load_checkpoint(DEMO_CHECKPOINT)
    few = DetectionSettings(slices=tuple(range(70, 76)), context_mm=0.0, draws=1)
    for precision, bound in (("float32", 1e-3), ("auto", 0.03)):
        settings = few.replace(precision=precision)
        ours = run(demo, checkpoint, settings.replace(device="openvino"))
        torchs = run(demo, checkpoint, settings.replace(device="cpu"))
        assert ours.precision == torchs.precision
        assert torchs.anomaly.data.max() > 0.1
        assert_allclose(ours.anomaly.data, torchs.anomaly.data, atol=bound)


def test_calls_side_by_side_give_what_each_gives_alone(checkpoint: Checkpoint) -> None:
    height, width = checkpoint.specification.preparation.size
    network = module.openvino_network(checkpoint, 2, "float32", 2, 2)
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(24, 2, 1, height, width, generator=generator)
    levels = torch.tensor([3, 7])
    alone = [network(image, levels) for image in images]
    both = Barrier(2)

    def half(first: int) -> list[torch.Tensor]:
        both.wait(60)
        return [network(image, levels) for image in images[first::2]]

    with ThreadPoolExecutor(2) as pool:
        even, odd = pool.map(half, (0, 1))
    for expected, got in zip(alone[0::2] + alone[1::2], even + odd, strict=True):
        assert torch.equal(got, expected)
    assert not torch.equal(alone[0], alone[1])


def test_any_number_of_slices_at_once(scan: Volume, checkpoint: Checkpoint) -> None:
    maps = [run(scan, checkpoint, FLOAT32.replace(batch_size=size)).anomaly.data for size in (1, 7)]
    assert_allclose(maps[0], maps[1], atol=1e-4)


def test_a_network_is_converted_once(
    scan: Volume, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "convert_model", never)
    assert run(scan, checkpoint, FLOAT32).done.all()


def test_a_damaged_cache_is_made_anew(
    scan: Volume,
    checkpoint: Checkpoint,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder,) = cache.iterdir()
    weights = folder / "network.bin"
    sound = weights.read_bytes()
    half = len(sound) // 2
    weights.write_bytes(sound[:half] + bytes([sound[half] ^ 1]) + sound[half + 1 :])
    found = run(scan, checkpoint, FLOAT32)
    torchs = run(scan, checkpoint, FLOAT32.replace(device="cpu"))
    assert_allclose(found.anomaly.data, torchs.anomaly.data, atol=1e-4)
    (made,) = cache.iterdir()
    assert made == folder
    free_memory()
    monkeypatch.setattr(openvino, "convert_model", never)
    run(scan, checkpoint, FLOAT32)


def test_the_least_recently_used_network_makes_room(
    scan: Volume, checkpoint: Checkpoint, cache: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (first,) = cache.iterdir()
    os.utime(first, (0, 0))
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    renamed = checkpoint.specification.model_copy(update={"name": "another"})
    path = save_checkpoint(tmp_path / "other.safetensors", renamed, checkpoint.weights)
    run(scan, load_checkpoint(path), FLOAT32)
    (left,) = cache.iterdir()
    assert left != first


def test_what_it_cannot_do_is_said(
    scan: Volume, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "FP16" not in capable:
        with pytest.raises(AddmError, match=r"does not compute in float16 on this processor"):
            run(scan, checkpoint, FLOAT32.replace(precision="float16"))
    other = checkpoint.specification.model_copy(update={"method": "spatial_ae", "diffusion": None})
    with pytest.raises(AddmError, match="does not run on OpenVINO; choose another device"):
        resolve(FLOAT32, other)
    monkeypatch.setattr(devices, "has_openvino", lambda: False)
    with pytest.raises(MissingExtraError, match=r'pip install "napari-addm\[openvino\]"'):
        run(scan, checkpoint, FLOAT32)
    assert "openvino" not in devices.usable_devices()


def test_the_panel_offers_it_where_it_is_installed(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_addm.widgets import model_settings as settings

    for there in (True, False):
        monkeypatch.setattr(settings, "has_openvino", lambda there=there: there)
        model = settings.ModelSettings()
        qtbot.addWidget(model)
        assert (model.device.findText("openvino") >= 0) == there


def test_the_record_names_it_and_verify_repeats_it(
    scan: Volume, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = write_volume(tmp_path / "head.nii.gz", scan)
    command = ("detect", path, "-o", tmp_path / "out", "--checkpoint", tiny_checkpoint)
    done = invoke([*map(str, command), "--device", "openvino", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["device"] == "openvino"
    record = tmp_path / "out" / "head_record.json"
    found = json.loads(record.read_text())
    assert found["device"] == "openvino"
    assert found["versions"]["openvino"]
    again = invoke(["verify", str(record), "--checkpoint", str(tiny_checkpoint), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["verdict"] == "identical"


def test_it_does_without_a_cache_and_without_telemetry(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """OpenVINO's telemetry would send an event at its import; this is a clean process."""
    (tmp_path / "file").write_text("no folder")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from napari_addm.detection import openvino_network as module\n"
        "from napari_addm.checkpoint.file import load_checkpoint\n"
        "module.user_cache_path = lambda *_, **__: Path(sys.argv[2])\n"
        "module.openvino_network(load_checkpoint(Path(sys.argv[1])), 2, 'float32')\n"
        "print(sorted(n for n, m in sys.modules.items() if m and n.startswith('openvino_tele')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_checkpoint, tmp_path / "file"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
