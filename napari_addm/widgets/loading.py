"""What a run needs in memory: libraries, checkpoint and network, loaded once."""

from __future__ import annotations

import gc
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint

LIBRARIES = ("torch", "napari_addm.methods", "monai.networks.nets.diffusion_model_unet")


def import_libraries() -> None:
    """Import what a run needs. The first time takes seconds, so call it in a job."""
    new = not sys.modules.keys() >= set(LIBRARIES)
    for name in LIBRARIES:
        import_module(name)
    if new:
        spare_loaded()


def spare_loaded() -> None:
    """Let Python's garbage collector leave alone what is there, until `collect_all`.

    It stops all threads while it walks through the objects of napari and torch: for 0.3 s.
    """
    gc.freeze()


def collect_all(event: object = None) -> None:
    """Let the collector look at everything again, as there is something large to free."""
    gc.unfreeze()


def load_checkpoint_once(path: Path) -> Checkpoint:
    """Load a checkpoint. The last one is kept until its file changes.

    Raises
    ------
    AddmError
        When it cannot be used.
    """
    try:
        state = path.stat()
    except OSError:
        return load_checkpoint(path)  # which says what is wrong
    return _load_checkpoint(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _load_checkpoint(path: Path, modified: int, size: int) -> Checkpoint:
    return load_checkpoint(path)


def free_memory() -> None:
    """Forget the checkpoint and the network that are kept between runs."""
    collect_all()
    if "torch" in sys.modules:
        from napari_addm.detection import devices

        devices.free_memory()
        _load_checkpoint.cache_clear()
