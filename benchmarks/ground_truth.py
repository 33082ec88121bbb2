"""How the viewer stays alive while a ground truth is compared, and what a threshold costs.

Opens a scan in the real viewer, runs it in one step, and gives it a ground
truth on finer voxels than its own. Prints the largest gap between the beats of
a 10 ms timer in the GUI thread (300 ms would be felt) for each thing that is
done, with the longest time that this process itself computed between two beats
(on a busy machine the rest of a gap is others' work), and the milliseconds of the
processor that each part of a new threshold takes. Without a display::

    xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/ground_truth.py SCAN MASK
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from scipy import ndimage

from napari_addm.io.reading import read_labels
from napari_addm.io.volume import volume_from_native
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layers import volume_to_layer

PATIENCE_SECONDS = 1800


class Heart:
    """Beats every 10 ms in the GUI thread, if that is let."""

    def __init__(self) -> None:
        self._timer = QTimer()
        self._timer.setInterval(10)
        self._timer.timeout.connect(self._beat)
        self._timer.start()
        self.forget()

    def forget(self) -> None:
        self.longest = self.busiest = 0.0
        self._last, self._spent = time.perf_counter(), time.process_time()

    def _beat(self) -> None:
        now, spent = time.perf_counter(), time.process_time()
        self.longest = max(self.longest, now - self._last)
        self.busiest = max(self.busiest, spent - self._spent)
        self._last, self._spent = now, spent

    def measure(self, words: str, begin: Callable[[], object], done: Callable[[], bool]) -> None:
        """Print the longest gap from a beginning to an end."""
        self.forget()
        started = time.perf_counter()
        begin()
        until = time.monotonic() + PATIENCE_SECONDS
        while not done() and time.monotonic() < until:
            wait(20)
        wait(200)
        took = time.perf_counter() - started
        print(
            f"{words}: {took:.1f} s, longest gap {1000 * self.longest:.0f} ms, "
            f"longest computed {1000 * self.busiest:.0f} ms",
            flush=True,
        )


def wait(milliseconds: int) -> None:
    """Let Qt work for a while."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def spent(call: Callable[[], object], repeats: int = 10) -> float:
    """Milliseconds of this thread's processor time that a call takes; the median."""
    times = []
    for _ in range(repeats):
        before = time.thread_time()
        call()
        times.append(time.thread_time() - before)
    return 1000 * float(np.median(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("mask", type=Path)
    arguments = parser.parse_args()

    viewer = napari.Viewer()
    panel = DetectWidget(viewer)
    viewer.window.add_dock_widget(panel)
    viewer.open(arguments.scan, plugin="napari-addm")
    panel.model.steps.setValue(1)
    panel.model.draws.setValue(1)
    heart = Heart()
    heart.measure("run", panel.run, lambda: not panel.running)
    if panel.notices.error.text():
        raise SystemExit(panel.notices.error.text())

    mask = read_labels(arguments.mask)
    zoom = np.diag([0.8, 0.8, 0.8, 1.0])
    finer = ndimage.affine_transform(
        mask.to_native().astype(np.uint8),
        zoom[:3, :3],
        output_shape=tuple(int(n / 0.8) for n in mask.to_native().shape),
        order=0,
    )
    data, options, _ = volume_to_layer(
        volume_from_native(finer, mask.source.affine @ zoom), "labels", name="finer"
    )
    truth = viewer.add_labels(data, **options)
    wait(500)
    panel.agreement.truth.chooser.choose(truth)
    wait(500)

    def compared() -> bool:
        return panel.outcome is not None and panel.outcome.agreement is not None

    heart.measure("resample and compare", panel.agreement.truth.resample_button.click, compared)
    wait(500)

    outcome = panel.outcome
    assert outcome is not None
    agreement, marked = outcome.agreement, outcome.marked
    assert agreement is not None
    assert marked is not None
    view = panel.agreement.view
    for words, call in {
        "markers of the curves": lambda: view.show_threshold(marked.threshold),
        "figures": lambda: agreement.at(marked),
        "lesions": lambda: agreement.lesions(marked),
        "all of the section": lambda: view.show_marked(marked),
        "hits and misses": lambda: agreement.overlay(marked),
    }.items():
        print(f"{words}: {spent(call):.1f} ms")
    view.overlay.setChecked(True)
    overlay = agreement.overlay(marked)
    shown = spent(lambda: outcome.layers.show_agreement(overlay))
    print(f"hits and misses in the layer: {shown:.1f} ms")
    viewer.close()


if __name__ == "__main__":
    main()
