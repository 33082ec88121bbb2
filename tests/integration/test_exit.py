"""A script that ends while jobs run, or after its viewer is closed, ends well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_script(code: str, settings: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in its own process with its own preferences; it has to end well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "NAPARI_CONFIG": str(settings / "settings.yaml"), **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


ENDS = """
import itertools
from qtpy.QtWidgets import QApplication, QLabel

app = QApplication([])
from napari_addm.widgets.jobs import Jobs

class Panel(QLabel):
    def hear(self, item):
        self.setText(str(item))

def count():
    try:
        yield from itertools.count()
    finally:
        print("closed", flush=True)

def wait():
    while True:
        time.sleep(0.01)
        yield "waiting"

import time
panel, jobs = Panel(), Jobs()
for work in (count, wait)[:JOBS]:
    jobs.start("Work", work, yielded=panel.hear, errored=panel.hear)
while panel.text() in ("", "0", "1", "waiting"):
    app.processEvents()
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_script_that_ends_amid_a_job_ends_it(jobs: int, tmp_path: Path) -> None:
    assert "closed" in run_script(ENDS.replace("JOBS", str(jobs)), tmp_path).stdout


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

atexit.register(look)  # functions are called in reverse order: the package's comes first
from napari_addm.widgets.commands import open_panel

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()

viewer = napari.Viewer()
viewer.add_image(np.random.default_rng(0).random((20, 30, 30)))
panel = open_panel(viewer)
spin(1)
for button in (panel.views.comparison.beside, panel.views.three_planes):
    button.click()
    spin(1)
assert panel.views.three_planes.isChecked()
kept = panel.window() if KEPT else panel
viewer.close()
"""


@pytest.mark.parametrize("kept", [False, True])
def test_a_script_that_closes_its_viewer_ends_well(kept: bool, tmp_path: Path) -> None:
    """Whether the script holds the window or not. Freed memory is overwritten, to show its use."""
    code = CLOSES.replace("KEPT", str(kept))
    done = run_script(code, tmp_path, PYTHONMALLOC="malloc", MALLOC_PERTURB_="165")
    assert "deleted" in done.stdout


OPEN = """
import napari
import numpy as np
from napari_addm.widgets.PANEL import WIDGET

viewer = napari.Viewer()
viewer.window.add_dock_widget(WIDGET(viewer))
viewer.add_labels(np.zeros((9, 9, 9), int))
"""


@pytest.mark.parametrize(
    ("panel", "widget"),
    [("detect_panel.panel", "DetectWidget"), ("cohort_panel.panel", "BatchWidget")],
)
def test_a_script_that_leaves_its_viewer_open_ends_well(
    panel: str, widget: str, tmp_path: Path
) -> None:
    run_script(OPEN.replace("PANEL", panel).replace("WIDGET", widget), tmp_path)
