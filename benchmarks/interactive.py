"""Responsiveness of the panel in a real viewer: previews, a run, cancel and the event loop.

    xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/interactive.py SCAN [--json FILE]

A timer of 10 ms is the heartbeat: its delay is the time for which the event loop was blocked.
``longest_own_ms`` is the longest time that the loop's thread itself computed between two beats,
without waiting for a processor. The phases are previews while scrolling (seconds from the last
scroll step to the slice in the layer), five runs of the volume that are cancelled (seconds from
Cancel to the end, beside those of one step of the network), and a run that goes on from there.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_addm.io.reading import read_volume
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layers import volume_to_layer

BEAT_MS = 10


class Heartbeat:
    """Longest gaps between two beats of the event loop, beyond the beat itself."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.own: list[float] = []
        self._last, self._computed = time.perf_counter(), time.thread_time()
        self._timer = QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        now, computed = time.perf_counter(), time.thread_time()
        self.gaps.append(max(0.0, now - self._last - BEAT_MS / 1000))
        self.own.append(computed - self._computed)
        self._last, self._computed = now, computed

    def take(self) -> dict[str, float]:
        """Return the gaps since the last call, in ms."""
        gaps, self.gaps = sorted(self.gaps) or [0.0], []
        own, self.own = self.own or [0.0], []
        return {
            "longest_block_ms": 1000 * gaps[-1],
            "longest_own_ms": 1000 * max(own),
            "blocks_over_100_ms": sum(gap > 0.1 for gap in gaps),
            "beats": len(gaps),
        }


def wait(done: Callable[[], bool], seconds: float = 600.0) -> float:
    """Process events until something holds; return the seconds that it took."""
    started = time.perf_counter()
    while not done():
        QApplication.processEvents()
        time.sleep(0.001)
        if time.perf_counter() - started > seconds:
            raise SystemExit("waited too long")
    return time.perf_counter() - started


def pause(seconds: float) -> None:
    """Process events for some seconds."""
    end = time.perf_counter() + seconds
    wait(lambda: time.perf_counter() > end)


@contextmanager
def steps() -> Iterator[list[float]]:
    """Collect the seconds of every call of the network."""
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    from napari_addm.methods.networks import PackedUNet

    begun, took = [0.0], []

    def before(module: object, inputs: object) -> None:
        if isinstance(module, PackedUNet):
            begun[0] = time.perf_counter()

    def after(module: object, inputs: object, output: object) -> None:
        if isinstance(module, PackedUNet):
            took.append(time.perf_counter() - begun[0])

    hooks = register_module_forward_pre_hook(before), register_module_forward_hook(after)
    try:
        yield took
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="default: the demo checkpoint")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    viewer = napari.Viewer()
    panel = DetectWidget(viewer)
    viewer.window.add_dock_widget(panel)
    volume = read_volume(options.scan)
    data, arguments, _ = volume_to_layer(volume)
    viewer.add_image(data, **arguments)
    if options.checkpoint:
        panel.model.checkpoint_chooser.choose(options.checkpoint)
    brain = np.flatnonzero((volume.data != volume.data.min()).any(axis=(1, 2)))
    middle = int(brain[len(brain) // 2])

    def go(index: int) -> None:
        viewer.dims.set_current_step(0, index)

    def shown(index: int) -> bool:
        detection = panel.outcome.detection if panel.outcome is not None else None
        return detection is not None and bool(detection.done[index])

    report: dict[str, object] = {"scan": list(volume.shape)}
    heart = Heartbeat()
    wait(lambda: len(heart.gaps) > 20)
    heart.take()

    go(middle)
    panel.follow.box.setChecked(True)
    first = wait(lambda: shown(middle))
    wait(lambda: not panel.runner.previewing)
    report["first_preview"] = {"seconds_with_imports": first, **heart.take()}

    seconds = []
    for start in (brain[len(brain) // 5], brain[4 * len(brain) // 5]):
        for index in range(int(start), int(start) + 10):  # what is scrolled past is not begun
            go(index)
            pause(0.03)
        seconds.append(wait(partial(shown, index)))
        wait(lambda: not panel.runner.previewing)
    report["previews"] = {
        "seconds_to_slice": seconds,
        "words": panel.follow.words.text(),
        **heart.take(),
    }

    def begun() -> bool:
        return panel.notices.progress.maximum() > 0 and panel.notices.progress.value() >= 4

    cancels = []
    with steps() as took:
        for _ in range(5):
            panel.runner.session.clear()  # what is there already is not run again
            panel.run()
            wait(begun)
            panel.controller.cancel()
            cancels.append(wait(lambda: not panel.running))
    panel.run()
    report["cancel"] = {
        "seconds": cancels,
        "step_median_seconds": statistics.median(took),
        "step_longest_seconds": max(took),
        **heart.take(),
    }

    started = time.perf_counter()
    step = 0
    while panel.running:  # a person goes on scrolling
        go(int(brain[step % len(brain)]))
        step += 3
        pause(0.2)
    report["run_with_scrolling"] = {"seconds": time.perf_counter() - started, **heart.take()}
    pause(0.5)

    text = json.dumps(report, indent=1, default=float)
    print(text)
    if options.json:
        options.json.write_text(text)
    viewer.close()


if __name__ == "__main__":
    main()
