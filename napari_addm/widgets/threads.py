"""Heavy work in another thread, while the viewer stays alive: imports, and all that computes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

# What a run needs, and what napari imports with the first labels layer, on the GUI's thread.
LIBRARIES = (
    "torch",
    "napari_addm.methods",
    "monai.networks.nets.diffusion_model_unet",
    "pandas",
    "skimage.color",
)
TORCH_LIBRARY = "libtorch_cpu"
SWITCH_SECONDS = 0.0005
# So many objects Python itself leaves out of the search for garbage; more, and somebody else does.
FROZEN_BY_PYTHON = 2000

_lock = Lock()
_working = 0
_interval = 0.0
_holding = 0
_freezing = False


def import_libraries() -> None:
    """Import them, once; takes seconds."""
    if all(name in sys.modules for name in LIBRARIES):
        return
    with _no_collections():
        _load_torch_library()
        for name in LIBRARIES:
            import_module(name)


def hold_garbage() -> None:
    """From now on no garbage is looked for among what is there already; `release_garbage` ends it.

    A search among all that torch brings holds every thread up for .3 s. May be nested, from any
    thread. Python can only thaw everything at once, so where somebody else has frozen objects, they
    stay as they are, and nothing is held.
    """
    global _holding, _freezing
    with _lock:
        if not _holding:
            _freezing = gc.get_freeze_count() <= FROZEN_BY_PYTHON
        _holding += 1
        if _freezing:
            gc.freeze()


def release_garbage() -> None:
    """The end of a `hold_garbage`; after the last one all is searched again."""
    global _holding
    with _lock:
        _holding -= 1
        if not _holding and _freezing:
            gc.unfreeze()


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage is looked for meanwhile: modules leave none, but very many objects."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _holding and _freezing:
            gc.freeze()  # the modules, too
        if before:
            gc.enable()


@contextlib.contextmanager
def beside_the_gui() -> Iterator[None]:
    """Let the GUI's thread have its turn while another computes.

    Python changes threads every 5 ms where both want to go on, and each call of OpenGL is an
    occasion: a picture takes many. And garbage is held meanwhile; see `hold_garbage`.
    """
    global _working, _interval
    hold_garbage()
    with _lock:
        if not _working:
            _interval = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_SECONDS)
        _working += 1
    try:
        yield
    finally:
        with _lock:
            _working -= 1
            if not _working:
                sys.setswitchinterval(_interval)
        release_garbage()


def _load_torch_library() -> None:
    """Let the system's linker load torch's large library without the interpreter's lock.

    An import, and ctypes.CDLL itself, hold the lock meanwhile; a call through ctypes does not.
    """
    found = find_spec("torch")
    if "torch" in sys.modules or found is None or found.origin is None:
        return
    suffix = {"linux": ".so", "darwin": ".dylib"}.get(sys.platform)
    library = Path(found.origin).parent / "lib" / f"{TORCH_LIBRARY}{suffix}"
    if suffix is None or not library.is_file():
        return  # the import loads it
    load = ctypes.CDLL(None).dlopen
    load.restype = ctypes.c_void_p
    load.argtypes = [ctypes.c_char_p, ctypes.c_int]
    load(bytes(library), os.RTLD_NOW)  # what goes wrong, the import tells
