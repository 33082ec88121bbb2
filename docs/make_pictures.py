"""Make the pictures of the documentation from the real viewer.

Runs the demo case, or any scan, through the dock widget and saves the whole
window (``detect.png``) and the three planes (``planes.png``). Without a
display::

    xvfb-run -a -s "-screen 0 1280x800x24" python docs/make_pictures.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import napari
import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication
from skimage.io import imsave

from napari_addm.widgets.canvases import PLANES
from napari_addm.widgets.detect import DetectWidget
from napari_addm.widgets.results import is_output

WINDOW = (1280, 800)
PATIENCE_SECONDS = 3600


def wait(milliseconds: int) -> None:
    """Let Qt work for a while."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def open_case(viewer: napari.Viewer, widget: DetectWidget, arguments: argparse.Namespace) -> None:
    """Open the scan and its ground truth, or the demo case."""
    if arguments.scan is None:
        viewer.open_sample("napari-addm", "demo")
    else:
        viewer.open(arguments.scan, plugin="napari-addm")
        if arguments.truth is not None:
            (truth,) = viewer.open(arguments.truth, plugin="napari-addm")
            if not isinstance(truth, Labels):
                voxels = (truth.data > 0).astype(np.uint8)
                viewer.layers.remove(truth)
                place = ("scale", "translate", "units", "axis_labels", "metadata")
                viewer.add_layer(
                    Labels(voxels, name=truth.name, **{key: getattr(truth, key) for key in place})
                )
    for layer in viewer.layers:
        if isinstance(layer, Labels):
            widget.truth_chooser.choose(layer)
            layer.visible = False
        else:
            viewer.layers.selection.active = layer


def stand_at(viewer: napari.Viewer, widget: DetectWidget) -> None:
    """Go to the middle of the ground truth, else of the largest finding."""
    for layer in reversed(viewer.layers):
        if isinstance(layer, Labels) and np.any(layer.data):
            first = layer.data == 1 if is_output(layer) else layer.data > 0
            centre = np.argwhere(first if first.any() else layer.data > 0).mean(axis=0)
            viewer.dims.point = layer.data_to_world(centre)
            if not is_output(layer):
                return


def run(widget: DetectWidget) -> None:
    """Run with the widget's settings and wait for its end."""
    widget.run()
    until = time.monotonic() + PATIENCE_SECONDS
    while widget.running and time.monotonic() < until:
        wait(100)
    wait(3000)  # the comparison with the ground truth
    if widget.running or widget.error.text():
        raise SystemExit(widget.error.text() or "the run took too long")
    print(widget.status.text(), "|", widget.count.text())


def save_planes(viewer: napari.Viewer, widget: DetectWidget, path: Path) -> None:
    """The canvas in each plane, side by side."""
    pictures = []
    low, high = viewer.layers.extent.world
    for name in PLANES:
        widget.show_plane(name)
        wait(300)
        picture = viewer.screenshot(canvas_only=True, flash=False)
        side = min(picture.shape[:2])
        # One scale in all planes; the longest side of the scan fills the picture.
        viewer.scene.camera.zoom = side / float((high - low).max())
        wait(300)
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
        top, left = ((n - side) // 2 for n in picture.shape[:2])
        pictures.append(picture[top : top + side, left : left + side])
    imsave(path, np.hstack(pictures), check_contrast=False)
    widget.show_plane("Axial")


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", help="a scan; the demo case without it")
    parser.add_argument("--truth", help="its ground truth")
    parser.add_argument("--checkpoint", type=Path, help="the bundled one without it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--steps", type=int, help="sampling steps; the checkpoint's without it")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threshold", type=float, help="the checkpoint's without it")
    parser.add_argument("--this-slice", action="store_true", help="only the slice of the lesion")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    viewer = napari.Viewer()
    viewer.window.set_geometry(0, 0, *WINDOW)
    _, widget = viewer.window.add_plugin_dock_widget("napari-addm", "Detect anomalies")
    assert isinstance(widget, DetectWidget)
    wait(500)
    if arguments.checkpoint is not None:
        widget.checkpoint_chooser.choose(arguments.checkpoint)
    open_case(viewer, widget, arguments)
    stand_at(viewer, widget)
    if arguments.steps is not None:
        widget.steps.setValue(arguments.steps)
    widget.precision.setCurrentText(arguments.precision)
    if arguments.threshold is not None:
        widget.threshold.setValue(arguments.threshold)
    widget.this_slice.setChecked(arguments.this_slice)
    run(widget)
    stand_at(viewer, widget)

    viewer.window.activate()
    viewer.reset_view()
    wait(1000)
    viewer.screenshot(
        str(arguments.output / "detect.png"), canvas_only=False, flash=False, size=None
    )
    save_planes(viewer, widget, arguments.output / "planes.png")
    viewer.close()
    QApplication.processEvents()


if __name__ == "__main__":
    main()
