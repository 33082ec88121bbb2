"""What the GUI is spared while another thread works: imports, searches for garbage, waiting."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from napari_addm.widgets.viewing import threads
from napari_addm.widgets.viewing.threads import (
    beside_the_gui,
    hold_garbage,
    release_garbage,
    run_behind_the_gui,
)


class Ring:
    """Garbage that only a search finds."""

    def __init__(self) -> None:
        self.myself = self


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """No automatic search between two lines of a test; all as it was afterwards."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def test_what_is_there_is_left_out_until_the_work_is_done() -> None:
    before = gc.get_freeze_count()
    old = weakref.ref(Ring())
    hold_garbage()
    assert gc.get_freeze_count() > 10_000  # all of this process
    new = weakref.ref(Ring())
    gc.collect()
    assert new() is None  # what comes meanwhile is searched
    assert old() is not None
    release_garbage()
    assert gc.get_freeze_count() <= max(before, threads.FROZEN_BY_PYTHON)
    gc.collect()
    assert old() is None


def test_it_is_held_until_the_last_of_several_threads_is_done() -> None:
    hold_garbage()
    inside, go = threading.Event(), threading.Event()

    def work() -> None:
        with beside_the_gui():
            inside.set()
            go.wait(60)

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(60)
    release_garbage()
    assert gc.get_freeze_count() > 10_000
    go.set()
    worker.join()
    assert gc.get_freeze_count() <= threads.FROZEN_BY_PYTHON


def test_what_others_have_frozen_stays_frozen() -> None:
    gc.freeze()
    theirs = gc.get_freeze_count()
    assert theirs > threads.FROZEN_BY_PYTHON
    old = weakref.ref(Ring())
    with beside_the_gui():
        gc.collect()
        assert old() is None  # nothing is held
        assert gc.get_freeze_count() > 0.9 * theirs
    assert gc.get_freeze_count() > 0.9 * theirs


def test_threads_take_turns_often_only_while_somebody_works() -> None:
    before = sys.getswitchinterval()
    with beside_the_gui():
        with beside_the_gui():
            assert sys.getswitchinterval() == pytest.approx(threads.SWITCH_SECONDS)
        assert sys.getswitchinterval() == pytest.approx(threads.SWITCH_SECONDS)
    assert sys.getswitchinterval() == before
    with pytest.raises(ZeroDivisionError), beside_the_gui():
        raise ZeroDivisionError
    assert sys.getswitchinterval() == before
    assert gc.get_freeze_count() <= threads.FROZEN_BY_PYTHON


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system prefers the window")
def test_what_computes_and_its_threads_yield_the_processor_and_nobody_else() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    mine, seen = niceness(), []

    def work() -> None:
        seen.append(niceness())
        child = threading.Thread(target=lambda: seen.append(niceness()))
        child.start()
        child.join()

    run_behind_the_gui(work)
    assert seen == [min(19, mine + threads.NICE)] * 2
    assert niceness() == mine
    with pytest.raises(ZeroDivisionError):
        run_behind_the_gui(lambda: 1 // 0)


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done


IMPORT = """
import gc, sys
from pathlib import Path
from napari_addm.widgets.viewing import threads

assert not set(threads.LIBRARIES) & set(sys.modules)
if sys.platform == "linux":
    threads._load_torch_library()
    assert threads.TORCH_LIBRARY in Path("/proc/self/maps").read_text()
    assert "torch" not in sys.modules  # the system has loaded it, no module is run
with threads.beside_the_gui():
    threads.import_libraries()
    assert gc.isenabled()
    modules = gc.get_freeze_count()
    assert modules > 100_000, modules
assert gc.get_freeze_count() <= threads.FROZEN_BY_PYTHON
assert set(threads.LIBRARIES) <= set(sys.modules)
import torch
assert torch.ones(3).sum() == 3
gc.disable()
threads.import_libraries()  # nothing to do
assert not gc.isenabled()
"""


def test_libraries_are_imported_and_their_objects_held() -> None:
    """In a process of its own, where nothing is imported yet."""
    in_a_process(IMPORT)


WARM = """
import sys
import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels
from vispy.visuals.line import LineVisual
from vispy.visuals.line.dash_atlas import DashAtlas, _make_pattern
from napari_addm.widgets.viewing import threads

model = ViewerModel()
threads.warm_units()
assert not threads.layers_are_warm()
for _ in threads.warm_layers():
    assert not threads.layers_are_warm()
assert threads.layers_are_warm()
before = set(sys.modules)
assert "torch" not in before
model.add_layer(Image(np.eye(3), scale=(2, 3), units=("mm", "mm")))
model.add_layer(Labels(np.eye(3, dtype=int)))
late = set(sys.modules) - before
assert not late & {"scipy.ndimage", "pandas", "skimage.color"}
assert len(late) < 20, late
made = _make_pattern.cache_info().misses
DashAtlas()
assert _make_pattern.cache_info().misses == made > 0
"""


def test_first_layers_find_all_that_they_import() -> None:
    """In a process of its own, where nothing is imported yet."""
    in_a_process(WARM)


ENDS = """
import sys, time
from qtpy.QtWidgets import QApplication, QLabel

app = QApplication([])
from napari_addm.widgets.jobs import Jobs

class Panel(QLabel):
    def hear(self, item):
        self.setText(str(item))

def count():
    try:
        for n in range(10**9):
            yield n
    finally:
        print("closed", flush=True)

panel, jobs = Panel(), Jobs()
jobs.start("Count", count, yielded=panel.hear, errored=panel.hear)
jobs.start("Not begun by then", count, yielded=panel.hear, errored=panel.hear) if TWO else None
while panel.text() in ("", "0", "1"):
    app.processEvents()
"""


@pytest.mark.parametrize("two", [False, True])
def test_a_script_that_ends_amid_a_job_ends_it(two: bool) -> None:
    done = in_a_process(ENDS.replace("TWO", str(two)))
    assert "closed" in done.stdout
    assert "Traceback" not in done.stderr


CLOSES = """
import atexit, sys, time
import napari
import numpy as np
from qtpy.QtWidgets import QApplication

def look():
    try:
        kept.objectName()
    except RuntimeError:
        print("deleted", flush=True)

atexit.register(look)  # before the package registers what is to be done before
from napari_addm.widgets.commands import open_panel

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()

viewer = napari.Viewer()
viewer.add_image(np.random.default_rng(0).random((20, 30, 30)))
panel = open_panel(viewer)
spin(1)
for button in (panel.views.side_by_side, panel.views.three_planes):
    button.click()
    spin(1.5)
assert panel.views.three_planes.isChecked()
kept = panel.window() if KEPT else panel
viewer.close()
"""


@pytest.mark.parametrize("kept", [False, True])
def test_a_script_that_closes_its_viewer_ends_well(kept: bool) -> None:
    """Whether it holds the window or not; what is freed and then used is made to show."""
    code = CLOSES.replace("KEPT", str(kept))
    done = in_a_process(code, PYTHONMALLOC="malloc", MALLOC_PERTURB_="165")
    assert "Traceback" not in done.stderr
    assert "deleted" in done.stdout
