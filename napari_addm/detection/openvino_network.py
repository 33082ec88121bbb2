"""A network run by OpenVINO on the CPU, and the folder where converted networks are kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from napari_addm import __version__
from napari_addm.errors import AddmError
from napari_addm.io.files import folder_aside
from napari_addm.io.hashing import sha256
from napari_addm.methods.loading import load_network

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint

HINTS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}
"""A precision as OpenVINO is asked for it, and as it says that a processor has it."""

_first_call = Lock()

LIMIT_BYTES = 1 << 30
"""Of all converted networks that are kept; what was used longest ago goes first."""


class OpenVinoNetwork(nn.Module):
    """A compiled network for one size of batch; called as the one that it was made from.

    Maps an image (B, 1, H, W) and timesteps (B,) to a predicted noise (B, 1, H, W), float32
    outside whatever it computes in. May be called from several threads at once.
    """

    def __init__(self, compiled: Any, requests: int) -> None:
        super().__init__()
        # a request serves one caller at a time
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())

    def forward(self, image: Tensor, timesteps: Tensor) -> Tensor:
        inputs = {0: image.float().contiguous().numpy(), 1: timesteps.contiguous().numpy()}
        request = self._requests.get()
        try:  # the interpreter's lock is let go meanwhile
            (predicted,) = request.infer(inputs, share_inputs=True).values()
        finally:
            self._requests.put(request)
        return torch.from_numpy(predicted)


def openvino_network(
    checkpoint: Checkpoint, batch: int, precision: str, workers: int = 1, threads: int = 1
) -> OpenVinoNetwork:
    """The trained network of a checkpoint, compiled by OpenVINO for this processor.

    To convert a network takes seconds; it is done once and kept in `cache_folder`.

    Parameters
    ----------
    checkpoint : Checkpoint
        Whose network is the diffusion U-Net.
    batch : int
        Slices in every call.
    precision : str
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    workers : int
        Calls at a time; each has its share of the threads, also alone.
    threads : int

    Raises
    ------
    AddmError
        If this processor does not compute in that precision.
    """
    openvino = _openvino()
    core = openvino.Core()
    hint, capability = HINTS[precision]
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capability not in capabilities:
        has = ", ".join(name for name, (_, known) in HINTS.items() if known in capabilities)
        raise AddmError(
            f"OpenVINO does not compute in {precision} on this processor: choose {has} or auto."
        )
    # Windows does not delete a file that is mapped
    core.set_property({"ENABLE_MMAP": False})
    model = _kept(core, checkpoint)
    height, width = checkpoint.specification.preparation.size
    model.reshape({0: [batch, 1, height, width], 1: [batch]})
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": workers,
    }
    network = OpenVinoNetwork(core.compile_model(model, "CPU", options), workers)
    # The first call of a process sets OpenVINO's side of numpy up. Two first calls at once can stop
    # each other for good: one has the interpreter's lock and waits for that, the other the reverse.
    with _first_call:
        network(torch.zeros(batch, 1, height, width), torch.ones(batch, dtype=torch.int64))
    return network


def cache_folder() -> Path:
    """Where converted networks are kept; it may be deleted at any time."""
    return user_cache_path("napari-addm", appauthor=False) / "openvino"


def _openvino() -> ModuleType:
    """OpenVINO without its telemetry, which would tell its maker of every import."""
    # this is how it runs where the package openvino-telemetry is not installed
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _kept(core: Any, checkpoint: Checkpoint) -> Any:
    """The converted network, from the cache if it is there and whole."""
    depends = (checkpoint.sha256, __version__, *map(version, ("openvino", "torch", "monai")))
    folder = cache_folder() / sha256(" ".join(depends).encode())[:32]
    try:
        if (folder / "sha256").read_text() == _digest(folder):
            os.utime(folder)
            # a description of layers and their weights; nothing in it is executed
            return core.read_model(folder / "network.xml")
    except (OSError, ValueError, RuntimeError):
        pass  # not there, or damaged
    model = _converted(checkpoint)
    # Without a cache it is only slower: the disk may be full, or another process was first.
    with contextlib.suppress(OSError, RuntimeError):
        _keep(model, folder)
    return model


def _converted(checkpoint: Checkpoint) -> Any:
    """The network as OpenVINO's graph, for any number of slices."""
    openvino = _openvino()
    height, width = checkpoint.specification.preparation.size
    # two, because a batch of one may be left out of a graph that is traced
    example = torch.zeros(2, 1, height, width), torch.ones(2, dtype=torch.int64)
    shapes = [openvino.PartialShape([-1, 1, height, width]), openvino.PartialShape([-1])]
    with warnings.catch_warnings():
        # MONAI checks the number of channels, which is the same for every batch
        warnings.simplefilter("ignore", TracerWarning)
        return openvino.convert_model(load_network(checkpoint), example_input=example, input=shapes)


def _keep(model: Any, folder: Path) -> None:
    """Write a converted network, all of it or nothing, and make room for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_aside(folder.parent) as made:
        _openvino().save_model(model, made / "network.xml", compress_to_fp16=False)
        (made / "sha256").write_text(_digest(made))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    others = sorted(
        (each for each in folder.parent.iterdir() if each != folder),
        key=lambda each: each.stat().st_mtime,
        reverse=True,
    )
    held = _bytes(folder)
    for other in others:
        held += _bytes(other)
        if held > LIMIT_BYTES:
            shutil.rmtree(other, ignore_errors=True)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _digest(folder: Path) -> str:
    """Of the graph and its weights: a damaged file is not to give a wrong map."""
    return sha256(*((folder / name).read_bytes() for name in ("network.xml", "network.bin")))
