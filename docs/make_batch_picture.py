"""Run a cohort in the panel of a real viewer: its picture, and how long the event loop was blocked.

A timer of 10 ms is the heartbeat. While the batch runs, a case that is done is opened, and the
viewer is scrolled. Without a display::

    xvfb-run -a -s "-screen 0 1280x800x24" python docs/make_batch_picture.py SCANS OUT
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from make_pictures import WINDOW, Heartbeat, run_until
from qtpy.QtWidgets import QApplication

from napari_addm.widgets.cohort_panel.cases import DONE
from napari_addm.widgets.cohort_panel.panel import BatchWidget


def main() -> None:
    """Run, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", help="folder, pattern in quotes, or CSV")
    parser.add_argument("output", type=Path, help="folder for the results")
    parser.add_argument("--pictures", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    arguments = parser.parse_args()
    viewer = napari.Viewer()
    viewer.theme = arguments.theme
    viewer.window.set_geometry(0, 0, *WINDOW)
    panel = BatchWidget(viewer)
    viewer.window.add_dock_widget(panel, name="Detect in a cohort")
    heart = Heartbeat()
    report: dict[str, Any] = {}

    def wait(done: Callable[[], bool]) -> None:
        run_until(done, lambda: "")  # what is wrong is in the report

    def pause(seconds: float) -> None:
        end = time.perf_counter() + seconds
        wait(lambda: time.perf_counter() > end)

    pause(0.5)
    heart.take_ms()
    panel.choose(arguments.scans, str(arguments.output))
    wait(lambda: not panel.controller.inspecting)
    report["cases"] = len(panel.controller.rows)
    report["longest_block_listing_ms"] = heart.take_ms()
    started = time.perf_counter()
    panel.run()
    wait(
        lambda: (
            not panel.controller.running
            or any(r.state in DONE for r in panel.controller.rows.values())
        )
    )
    report["longest_block_until_first_case_ms"] = heart.take_ms()
    first = next(row.name for row in panel.controller.rows.values() if row.state in DONE)
    place = panel.table.model.place_of(first)
    assert place is not None
    panel.table.view.selectRow(place)
    panel.worklist.open(first)
    wait(lambda: panel.controller.opening is None)
    pause(0.5)
    report["longest_block_opening_a_case_ms"] = heart.take_ms()
    pause(1.0)
    path = str(arguments.pictures / "cohort.png")
    viewer.screenshot(path, canvas_only=False, flash=False, size=None)
    heart.take_ms()  # taking it blocks
    step = 0
    while panel.controller.running:
        step += 1
        here = viewer.dims.current_step[0]
        viewer.dims.set_current_step(0, here + (1 if step % 20 < 10 else -1))
        pause(0.2)
    report["longest_block_running_ms"] = heart.take_ms()
    report["seconds"] = round(time.perf_counter() - started, 1)
    report["status"] = panel.notices.status.text()
    report["error"] = panel.notices.error.text()
    print(json.dumps(report, indent=1))
    viewer.close()
    QApplication.processEvents()


if __name__ == "__main__":
    main()
