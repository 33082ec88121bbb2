"""Devices, number formats and threads, and the network that is kept between runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Barrier, Lock
from typing import TYPE_CHECKING

from napari_addm.errors import AddmError, MissingExtraError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_addm.checkpoint.file import Checkpoint

BATCH_SIZES = {"cpu": 4, "cuda": 64, "mps": 16, "openvino": 4}
"""Slices per network call, where the settings do not say."""

WORKERS = 2
"""Batches at a time on a CPU, which share its threads: a U-Net of small images does not keep many
threads busy. More would only take more memory."""

_thread_number = Lock()
_loaded: dict[tuple[object, ...], nn.Module] = {}


def usable_devices() -> tuple[str, ...]:
    """List the devices of this machine, in the order in which ``"auto"`` takes them."""
    import torch

    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
        "openvino": has_openvino(),
    }
    return tuple(device for device, available in usable.items() if available)


def has_openvino() -> bool:
    """Tell whether OpenVINO is installed, without importing it."""
    return find_spec("openvino") is not None


def choose_device(name: str) -> str:
    """Choose the device for a setting; ``"auto"`` takes CUDA, else MPS, else the CPU.

    Raises
    ------
    AddmError
        If this machine does not have the named device.
    """
    usable = usable_devices()
    if name == "auto":
        return usable[0]
    if name == "openvino" and name not in usable:
        raise MissingExtraError("This device", "openvino", "openvino", "choose another device")
    if name not in usable:
        raise AddmError(f"This machine has no device {name}; usable here: {', '.join(usable)}.")
    return name


def choose_precision(name: str, device: str) -> torch.dtype:
    """Choose the network's number format for a setting on a device."""
    import torch

    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device in ("cpu", "openvino"):
        capable = torch.cpu.get_capabilities()
        if capable.get("avx512_bf16") or capable.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


def tensor_device(device: str) -> torch.device:
    """Return where the tensors of a device are."""
    import torch

    return torch.device("cpu" if device == "openvino" else device)


def count_threads() -> int:
    """Return how many threads torch computes with in this process."""
    import torch

    with _thread_number:
        return torch.get_num_threads()


def threads_beside_window() -> int:
    """Return all of torch's threads but one, which draws a window meanwhile."""
    return max(1, count_threads() - 1)


@contextmanager
def network_workers(device: str, threads: int) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Open threads that call a network, one batch each.

    On a CPU each has an equal share of `threads`, whether or not the other one is busy, so that
    sums are rounded in the same way. Elsewhere there is one worker.

    Yields
    ------
    pool : ThreadPoolExecutor
    workers : int
    """
    import torch

    if device not in ("cpu", "openvino"):
        with ThreadPoolExecutor(1) as pool:
            yield pool, 1
        return
    workers = min(WORKERS, threads)
    started = Barrier(workers + 1)

    def take_share() -> None:
        torch.get_num_threads()  # a thread's first look at the number would undo what it sets
        torch.set_num_threads(threads // workers)
        started.wait()

    with ThreadPoolExecutor(workers, initializer=take_share) as pool:
        # torch hands the number that was set last to every new thread of the process
        with _thread_number:
            own = torch.get_num_threads()
            for _ in range(workers):
                pool.submit(int)
            started.wait()
            torch.set_num_threads(own)
        yield pool, workers


def load_network_on(
    checkpoint: Checkpoint, device: str, precision: str, batch: int, workers: int, threads: int
) -> nn.Module:
    """Load a checkpoint's network on a device; the last one is kept until `free_memory`.

    Parameters
    ----------
    batch, workers, threads : int
        Slices per call, calls at a time and their threads in all, for which OpenVINO compiles.
    """
    import torch

    key: tuple[object, ...] = (checkpoint.sha256, device, precision)
    if device == "openvino":
        key += (batch, workers, threads)
    network = _loaded.get(key)
    if network is not None:
        return network
    if _loaded:
        free_memory()
    if device == "openvino":
        from napari_addm.detection.openvino_network import openvino_network

        network = openvino_network(checkpoint, batch, precision, workers, threads)
    else:
        from napari_addm.methods.loading import load_network

        network = load_network(checkpoint).to(torch.device(device), getattr(torch, precision))
    _loaded[key] = network
    return network


def free_memory() -> None:
    """Forget the network that is kept between runs, and release its memory."""
    import torch

    _loaded.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error of torch is about memory: its own class, or one of several wordings."""
    import torch

    words = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "ALLOC_FAILED",
        # oneDNN gives no reason
        "could not create a primitive",
        "could not create a memory",
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in str(error) for word in words
    )
