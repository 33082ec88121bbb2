"""Heavy work in another thread, while the viewer stays alive: imports, and all that computes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# What a run needs.
LIBRARIES = (
    "torch",
    "napari_addm.methods",
    "monai.networks.nets.diffusion_model_unet",
)
# What napari imports on the GUI's thread with the first image, and with the first labels.
LAYER_LIBRARIES = ("scipy.ndimage", "pandas", "skimage.color.colorconv", "skimage.util")
TORCH_LIBRARY = "libtorch_cpu"
SWITCH_SECONDS = 0.0005
# So many objects Python itself leaves out of the search for garbage; more, and somebody else does.
FROZEN_BY_PYTHON = 2000
# Of the nice values: a tenth of the processor's time where the GUI wants it, all of it where not.
NICE = 10

_lock = threading.Lock()
_working = 0
_interval = 0.0
_holding = 0
_freezing = False
_warm = False


def import_libraries() -> None:
    """Import them, once; takes seconds."""
    if all(name in sys.modules for name in LIBRARIES):
        return
    with _no_collections():
        _load_torch_library()
        for name in LIBRARIES:
            import_module(name)


def warm_units() -> None:
    """Have the units read that napari needs with the first layer.

    It takes .1 s, on the GUI's thread: half-read units are of no use to anybody.
    """
    import pint

    pint.get_application_registry().Unit("mm")


def layers_are_warm() -> bool:
    """Whether there is nothing left for `warm_layers` to do."""
    return _warm


def warm_layers() -> Iterator[None]:
    """Do beforehand what napari would do with the first layers; a generator for a `Job`.

    It would hold the GUI up for .3 s.
    """
    global _warm
    for name in LAYER_LIBRARIES:
        import_module(name)
        yield
    from vispy.visuals.line.dash_atlas import DashAtlas

    DashAtlas()  # VisPy keeps its patterns, and every labels layer has three of these
    _warm = True


def run_behind_the_gui(work: Callable[[], None]) -> None:
    """Call a function in a thread that gets the processor where the GUI does not want it, and wait.

    On Linux the threads that it starts, torch's among them, inherit that. Windows and macOS
    prefer the window in front by themselves.
    """
    raised: list[BaseException] = []

    def behind() -> None:
        if sys.platform == "linux":
            here = threading.get_native_id()  # on Linux a thread has a priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, here, os.getpriority(os.PRIO_PROCESS, here) + NICE)
        try:
            with beside_the_gui():
                work()
        except BaseException as error:
            raised.append(error)

    # A new one, because only an administrator could give a thread of Qt's pool its priority back;
    # and one that a script which ends without quitting Qt does not wait for.
    thread = threading.Thread(target=behind, name="behind the GUI", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


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
