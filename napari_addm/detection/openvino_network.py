"""A network that OpenVINO runs on the CPU, and the folder that keeps converted networks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from napari_addm import __version__
from napari_addm.errors import AddmError
from napari_addm.io.files import folder_aside
from napari_addm.io.hashing import file_sha256, sha256
from napari_addm.methods.loading import load_network

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint

HINTS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}
"""OpenVINO's names of a precision: as a hint, and as a capability of the processor."""

MOST_KEPT = 4
"""Converted networks that are kept; the least recently used is deleted first."""


class OpenVinoNetwork(nn.Module):
    """A compiled network for one batch size, which several threads may call at a time.

    Maps an image (B, 1, H, W) and timesteps (B,) to a predicted noise (B, 1, H, W), float32
    outside whatever it computes in.
    """

    def __init__(self, compiled: Any, requests: int) -> None:
        super().__init__()
        self._requests: SimpleQueue[Any] = SimpleQueue()  # a request serves one caller at a time
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())

    def forward(self, image: Tensor, timesteps: Tensor) -> Tensor:
        inputs = {0: image.float().contiguous().numpy(), 1: timesteps.contiguous().numpy()}
        request = self._requests.get()
        try:
            (predicted,) = request.infer(inputs, share_inputs=True).values()
        finally:
            self._requests.put(request)
        return torch.from_numpy(predicted)


def openvino_network(
    checkpoint: Checkpoint, batch: int, precision: str, workers: int = 1, threads: int = 1
) -> OpenVinoNetwork:
    """Compile the network of a checkpoint for this processor.

    The conversion takes seconds; its result is kept in `cache_folder`.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a method whose network can run on OpenVINO.
    batch : int
        Slices per call.
    precision : str
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    workers : int
        Calls at a time; each has its share of the threads, also alone.

    Raises
    ------
    AddmError
        If this processor does not compute in that precision.
    """
    core = _import_openvino().Core()
    hint, capability = HINTS[precision]
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capability not in capabilities:
        has = ", ".join(name for name, (_, known) in HINTS.items() if known in capabilities)
        raise AddmError(
            f"OpenVINO does not compute in {precision} on this processor: choose {has} or auto."
        )
    core.set_property({"ENABLE_MMAP": False})  # Windows does not delete a file that is mapped
    model = _load_or_convert(core, checkpoint)
    height, width = checkpoint.specification.preparation.size
    model.reshape({0: [batch, 1, height, width], 1: [batch]})
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": workers,
    }
    network = OpenVinoNetwork(core.compile_model(model, "CPU", options), workers)
    # The first call of a process initializes OpenVINO's part of numpy, in which two threads can
    # block each other for good.
    network(torch.zeros(batch, 1, height, width), torch.ones(batch, dtype=torch.int64))
    return network


def cache_folder() -> Path:
    """Return where converted networks are kept; it may be deleted at any time."""
    return user_cache_path("napari-addm", appauthor=False) / "openvino"


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports every import to its maker."""
    # as where the package openvino-telemetry is not installed
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _load_or_convert(core: Any, checkpoint: Checkpoint) -> Any:
    """Load the converted network from the cache if it is there and whole, else convert it."""
    depends = (checkpoint.sha256, __version__, *map(version, ("openvino", "torch", "monai")))
    folder = cache_folder() / sha256(" ".join(depends).encode())[:32]
    with contextlib.suppress(OSError, ValueError, RuntimeError, AddmError):
        if (folder / "sha256").read_text() == _hash_network(folder):
            os.utime(folder)
            return core.read_model(folder / "network.xml")  # nothing in it is executed
    model = _convert(checkpoint)
    with contextlib.suppress(OSError, RuntimeError):  # as on a full disk
        _keep(model, folder)
    return model


def _convert(checkpoint: Checkpoint) -> Any:
    """Convert the network to OpenVINO's graph, for any number of slices."""
    openvino = _import_openvino()
    height, width = checkpoint.specification.preparation.size
    # two, because tracing may leave a batch of one out of the graph
    example = torch.zeros(2, 1, height, width), torch.ones(2, dtype=torch.int64)
    shapes = [openvino.PartialShape([-1, 1, height, width]), openvino.PartialShape([-1])]
    with warnings.catch_warnings():
        # MONAI checks the number of channels, which is the same for every batch
        warnings.simplefilter("ignore", TracerWarning)
        return openvino.convert_model(load_network(checkpoint), example_input=example, input=shapes)


def _keep(model: Any, folder: Path) -> None:
    """Write a converted network as a whole, and delete those that were not used for longest."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_aside(folder.parent) as aside:
        made = aside / "made"
        made.mkdir()
        _import_openvino().save_model(model, made / "network.xml", compress_to_fp16=False)
        (made / "sha256").write_text(_hash_network(made))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    kept = sorted(folder.parent.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
    for each in kept[MOST_KEPT:]:
        shutil.rmtree(each, ignore_errors=True)


def _hash_network(folder: Path) -> str:
    """Hash the graph and its weights, because a damaged file would give a wrong map."""
    return " ".join(file_sha256(folder / name) for name in ("network.xml", "network.bin"))
