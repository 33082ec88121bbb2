"""A system that refuses memory: the batch is halved, and the detection ends well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.networks import build_network

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])

# In its own process: what the system refuses, it refuses to all threads of a process.
SCARCE = """
import json, resource, sys
from pathlib import Path
import torch
from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import detect
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
from napari_addm.methods.networks import PackedUNet

torch.set_num_threads(1)  # one call at a time
scan = read_volume(sys.argv[1])
settings = DetectionSettings(
    device="cpu", precision="float32", slices=(scan.shape[0] // 2,), draws=64, batch_size=64
)
forward, sizes, refusals = PackedUNet.forward, [], []


def memory(room):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + room if room is not None else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def scarce(network, image, timesteps):
    if not sizes:
        memory(40 * 2**20)
    sizes.append(len(image))
    try:
        made = forward(network, image, timesteps)
    except Exception as error:
        refusals.append(str(error))
        raise
    memory(None)
    return made


PackedUNet.forward = scarce
for progress in detect(scan, load_checkpoint(Path(sys.argv[2])), settings):
    result = progress.result
print(json.dumps({
    "sizes": sizes,
    "refusals": refusals,
    "warnings": result.warnings,
    "done": int(result.done.sum()),
    "highest": float(result.anomaly.data.max()),
}))
"""


@pytest.fixture
def wide_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A network whose every layer takes 0.3 MB for each slice: 19 MB for 64 of them."""
    network = UNetSpecification(
        unshuffle=2,
        channels=(32, 32),
        res_blocks=(1, 1),
        attention=(False, False),
        head_channels=32,
        norm_groups=32,
    )
    tiny = load_checkpoint(tiny_checkpoint).specification
    wide = {"spacing_mm": (6.0, 2.0, 2.0), "size": (112, 96)}
    preparation = tiny.preparation.model_copy(update=wide)
    specification = tiny.model_copy(update={"network": network, "preparation": preparation})
    torch.manual_seed(0)
    weights = build_network(network).state_dict()
    weights["unet.out.2.conv.weight"] = torch.randn_like(weights["unet.out.2.conv.weight"]) * 0.05
    return save_checkpoint(tmp_path / "wide.safetensors", specification, weights)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
def test_the_batch_is_halved_until_it_fits(
    tmp_path: Path, make_brain: Callable[..., Volume], wide_checkpoint: Path
) -> None:
    scan = make_brain(AFFINE, (33, 39, 29), ((25.0, -20.0, 15.0, 20.0),))
    head = write_volume(tmp_path / "head.nii.gz", scan)
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, head, wide_checkpoint],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout.splitlines()[-1])
    assert saw["refusals"], "the system gave the memory after all"
    words = "Out of memory at 64 slices at once: went on with 32"
    assert any(words in warning for warning in saw["warnings"])
    # each refusal halves, and the size that fits is kept
    refused = len(saw["refusals"])
    assert saw["sizes"][:refused] == [64 >> n for n in range(refused)]
    assert set(saw["sizes"][refused:]) == {64 >> refused}
    assert saw["done"] == 1
    assert saw["highest"] > 0
