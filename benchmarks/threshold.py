"""How long a moved threshold takes to the screen, and where the time goes.

    python benchmarks/threshold.py SCAN [--checkpoint FILE] [--thresholds 40] [--most .98]

The scan is run once. Then the slider of the panel is set to thresholds from one that marks the
share `--most` of the brain to the highest score, up and down again, in a real viewer; needs a
display (such as ``xvfb-run -a -s "-screen 0 1280x800x24"``). Printed are median and worst of

- marking: labelling and measuring the findings,
- ours: from the slider to the labels, colours and table, all handed to Qt and napari,
- screen: from the slider to the end of the canvas's next drawing,
- drawing: that drawing alone, of the same picture, which is the graphics card's or, without
  one, Mesa's.

The same for the way of the first version (label by scipy, measure, copy, 30 ms of waiting),
at the same thresholds, in the same process. CPU time is of the GUI's thread: on a machine
that others share, wall-clock time says more about them.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import napari
import numpy as np
from interactive import pause
from napari.layers import Image
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection, Progress, run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.findings.findings import measure_findings
from napari_addm.io.reading import read_volume
from napari_addm.review.marking import CachedLabeller
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layer_volumes import LayerData, scan_volume
from napari_addm.widgets.layers import volume_to_layer

FORMER_WAIT_S = 0.03
# Letters and colour bar come after the layers; the threshold is written below them once it rests.
QUIET_S, REST_S = 3.0, 0.3
Clock = tuple[float, float]


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--thresholds", type=int, default=40)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument(
        "--most", type=float, default=0.98, help="share of the brain marked at most"
    )
    options = parser.parse_args()

    scan = read_volume(options.scan)
    viewer = napari.Viewer()
    viewer.window.resize(1280, 800)
    panel = DetectWidget(viewer)
    viewer.window.add_dock_widget(panel)
    data, arguments, _ = volume_to_layer(scan)
    layer = viewer.add_layer(Image(data, **arguments))
    path = options.checkpoint or panel.model.checkpoint_chooser.path
    checkpoint = load_checkpoint(path)
    detection = run(scan, checkpoint, DetectionSettings(draws=options.draws))
    show(panel, viewer, layer, checkpoint, detection)
    brain = detection.anomaly.data[detection.brain_mask.data]
    rising = np.quantile(
        brain[brain > 0], np.linspace(1 - options.most, 0.999, options.thresholds // 2)
    )
    thresholds = [*rising.tolist(), *rising[-2::-1].tolist()]  # never the same twice running
    (labels,) = [one for one in viewer.layers if is_output(one) and one.name.endswith("anomalies")]

    print(
        f"{' x '.join(map(str, scan.shape))} voxels, {int(detection.brain_mask.data.sum())} of "
        f"them brain; {platform.machine()}, {os.cpu_count()} processors, "
        f"load {os.getloadavg()[0]:.1f}; {len(thresholds)} thresholds; ms"
    )
    print(f"{'':>28} {'median':>8} {'worst':>8}   {'median':>8} {'worst':>8} of CPU time")

    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    minimum = panel.findings.minimum.value()
    pause(QUIET_S)
    clocks: dict[str, tuple[float, float]] = {}
    # Connected after the panel's own: by then labels, colours and table are handed over.
    handed = lambda outcome: clocks.__setitem__("handed", clock())  # noqa: E731
    panel.controller.marked.connect(handed)

    def now(threshold: float) -> None:
        panel.findings.threshold.setValue(threshold)
        while "handed" not in clocks:
            QApplication.processEvents()

    def former(threshold: float) -> None:
        labels.data[...] = former_marking(detection, threshold, minimum)
        labels.refresh()
        clocks["handed"] = clock()

    ways: dict[str, tuple[Callable[[float], object], Callable[[float], None], float]] = {
        "now": (
            # a marker of its own: the panel's keeps what it was asked for last
            partial(CachedLabeller(detection).label, minimum_ml=minimum),
            now,
            0.0,
        ),
        "first version": (
            partial(former_marking, detection, minimum_ml=minimum),
            former,
            FORMER_WAIT_S,
        ),
    }
    for name, (marking, move, wait) in ways.items():
        rows = np.zeros((len(thresholds), 4, 2))
        for n, threshold in enumerate(thresholds):
            settle(canvas)
            begun = clock()
            marking(threshold)
            rows[n, 0] = since(begun, clock())
            settle(canvas)
            pause(REST_S)
            clocks.clear()
            begun = clock()
            with drawing(canvas) as drawn:
                move(threshold)
                # one that began before is of what was there before
                while not (after := [end for end in drawn if end > clocks["handed"]]):
                    QApplication.processEvents()
            rows[n, 2] = since(begun, after[0])
            rows[n, 1] = since(begun, clocks["handed"])
            begun = clock()
            draw(canvas)
            rows[n, 3] = since(begun, clock())
        rows[:, 1:3, 0] += wait
        for what, times in zip(
            ("marking", "ours", "screen", "drawing"), rows.swapaxes(0, 1), strict=True
        ):
            wall, cpu = times.T * 1000
            print(
                f"{name + ', ' + what:>28} {np.median(wall):8.1f} {wall.max():8.1f}   "
                f"{np.median(cpu):8.1f} {cpu.max():8.1f}"
            )
    viewer.close()


def show(
    panel: DetectWidget,
    viewer: napari.Viewer,
    layer: Image,
    checkpoint: Checkpoint,
    result: Detection,
) -> None:
    """Hand the panel a result, as the end of a run does."""
    request = RunRequest(
        scan=LayerData.of(layer),
        checkpoint=panel.model.checkpoint,
        settings=panel.model.settings,
        brain_mask=None,
        position=(0.0, 0.0, 0.0),
        this_slice=False,
        scan_id=layer.unique_id,
    )
    control, scan = panel.controller, scan_volume(request.scan)
    control.start(request)
    control.take_started(RunStarted(scan, checkpoint, None, None, ("cpu",)))
    control.take_result(ResultReady(Progress("finish", 1, 1, 1.0, result=result), None))
    control.end()
    viewer.dims.set_current_step(0, layer.data.shape[0] // 2)


def settle(canvas: Any) -> None:
    """Let everything that waits be done and drawn."""
    draw(canvas)
    QApplication.processEvents()


def draw(canvas: Any) -> None:
    """Draw the canvas, and wait until it is drawn."""
    with drawing(canvas) as drawn:
        canvas.update()
        while not drawn:
            QApplication.processEvents()


@contextmanager
def drawing(canvas: Any) -> Iterator[list[Clock]]:
    """Note when the canvas has been drawn."""
    drawn: list[Clock] = []

    def heard(event: object) -> None:
        drawn.append(clock())

    canvas.events.draw.connect(heard, position="last")
    try:
        yield drawn
    finally:
        canvas.events.draw.disconnect(heard)


def clock() -> Clock:
    """Wall-clock and CPU seconds."""
    return time.perf_counter(), time.thread_time()


def since(begun: Clock, ended: Clock) -> Clock:
    """Wall-clock and CPU seconds from one to the other."""
    return ended[0] - begun[0], ended[1] - begun[1]


def former_marking(detection: Detection, threshold: float, minimum_ml: float) -> np.ndarray:
    """As the first version labelled and measured."""
    anomaly = detection.anomaly
    above = anomaly.data > threshold
    above &= detection.brain_mask.data & detection.done[:, None, None]
    labels = np.zeros(anomaly.shape, dtype=np.int32)
    places = [np.flatnonzero(above.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    if all(place.size for place in places):
        box = tuple(slice(place[0], place[-1] + 1) for place in places)
        above = above[box]
        components, count = ndimage.label(above, structure=np.ones((3, 3, 3), bool))
        component = components[above]
        sizes = np.bincount(component, minlength=count + 1)[1:]
        fewest = math.ceil(minimum_ml / (math.prod(anomaly.spacing) / 1000.0) - 1e-6)
        kept = np.flatnonzero(sizes >= fewest)
        kept = kept[np.argsort(-sizes[kept], kind="stable")]
        new_id = np.zeros(count + 1, dtype=np.int32)
        new_id[kept + 1] = np.arange(1, kept.size + 1)
        labels[box][above] = new_id[component]
    spread = None if detection.uncertainty is None else detection.uncertainty.data
    measure_findings(labels, anomaly.data, anomaly, spread)
    return labels


if __name__ == "__main__":
    main()
