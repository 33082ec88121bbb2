"""Walk through the whole job in a real viewer, and make the pictures of the documentation.

Opens the demo case, or any scan with its ground truth: preview, run, threshold, findings,
a decision, agreement, three planes, save, verify, reopen. A picture of the window is taken
at each step, and a JSON object says what was found and for how long the event loop was ever
blocked. With preferences of its own, without a display::

    NAPARI_CONFIG=$(mktemp -d)/settings.yaml \\
        xvfb-run -a -s "-screen 0 1280x800x24" python docs/make_pictures.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QEventLoop, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QWheelEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QApplication, QScrollArea, QWidget
from skimage.io import imsave

from napari_addm.io.reading import read_labels
from napari_addm.outputs.verification import verify
from napari_addm.widgets import texts
from napari_addm.widgets.commands import open_panel
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.forms import Section
from napari_addm.widgets.viewing.planes import PLANES

WINDOW = (1280, 800)
PATIENCE_SECONDS = 3600
BEAT_MS = 10


class Heartbeat:
    """How long the event loop was blocked, and since when (of the monotonic clock)."""

    def __init__(self) -> None:
        self._longest = (0.0, 0.0)
        self._last = time.monotonic()
        self._timer = QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, (now - self._last - BEAT_MS / 1000, self._last))
        self._last = now

    def take_ms(self) -> float:
        """The longest block since the last time, ms; one that is under way counts until now."""
        return self.take()[0]

    def take(self) -> tuple[float, float]:
        """That block in ms, and the second at which it began."""
        self._beat()
        (seconds, began), self._longest = self._longest, (0.0, 0.0)
        return round(1000 * seconds, 1), round(began, 3)


def run_until(done: Callable[[], bool], wrong: Callable[[], str]) -> float:
    """Run the event loop until something holds, or is wrong; the seconds that it took."""
    started = time.perf_counter()
    loop, looks = QEventLoop(), QTimer()
    words = ""

    def look() -> None:
        nonlocal words
        late = time.perf_counter() - started > PATIENCE_SECONDS
        words = wrong() or ("waited too long" if late else "")
        if done() or words:
            loop.quit()

    looks.setInterval(BEAT_MS)
    looks.timeout.connect(look)
    looks.start()
    loop.exec()
    looks.stop()
    if words:
        raise SystemExit(words)
    return round(time.perf_counter() - started, 2)


class Walk:
    """The job, step by step.

    Parameters
    ----------
    viewer : napari.Viewer
    panel : DetectWidget
        Docked there.
    pictures : Path
        Folder for the pictures.
    """

    def __init__(self, viewer: napari.Viewer, panel: DetectWidget, pictures: Path) -> None:
        self.viewer = viewer
        self.panel = panel
        self.pictures = pictures
        self.heart = Heartbeat()
        window = panel.window()
        assert window is not None
        self.window = window
        canvases = window.findChildren(QOpenGLWidget)
        self.canvas = next(canvas for canvas in canvases if canvas.isVisible())
        self.report: dict[str, Any] = {}

    @property
    def outcome(self) -> Outcome:
        """What the run gave."""
        assert self.panel.outcome is not None
        return self.panel.outcome

    def wait(self, done: Callable[[], bool]) -> float:
        """Run the event loop until something holds; the seconds that it took."""
        return run_until(done, self.panel.notices.error.text)

    def pause(self, seconds: float) -> None:
        """Turn the event loop for so long."""
        end = time.perf_counter() + seconds
        self.wait(lambda: time.perf_counter() > end)

    def unfold(self, *titles: texts.Text) -> None:
        """Unfold these sections, fold the other large ones, and scroll to the first."""
        large = (
            texts.SCAN_SECTION,
            texts.MODEL_SECTION,
            texts.FINDINGS_SECTION,
            texts.TRUTH_SECTION,
            texts.VIEW_SECTION,
        )
        sections = {
            title.label: section
            for section in self.panel.findChildren(Section)
            for title in large
            if section.title == title.label
        }
        for label, section in sections.items():
            section.expand(label in [title.label for title in titles])
        self.pause(0.3)
        self._scroll_to(sections[titles[0].label])

    def _scroll_to(self, section: QWidget) -> None:
        parent = section.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        bar = None if parent is None else parent.verticalScrollBar()
        if bar is not None:
            bar.setValue(section.y())

    def picture(self, name: str) -> None:
        """The whole window."""
        self.pause(0.7)
        self.viewer.window.activate()
        path = str(self.pictures / f"{name}.png")
        self.viewer.screenshot(path, canvas_only=False, flash=False, size=None)
        self.heart.take_ms()  # taking it blocks

    def turn_wheel(self, notches: int) -> None:
        """Turn the mouse's wheel over the picture, Ctrl held: as many slices on."""
        window, canvas = self.window, self.canvas
        middle = canvas.rect().center()
        event = QWheelEvent(
            QPointF(canvas.mapTo(window, middle)),
            QPointF(canvas.mapToGlobal(middle)),
            QPoint(),
            QPoint(0, -120 * notches),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.ControlModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.postEvent(window.windowHandle(), event)

    # --- the steps -------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing is open yet."""
        self.picture("start")

    def open(self, scan: str | None, truth: str | None) -> None:
        """The scan and its ground truth, or the demo case."""
        if scan is None:
            self.panel.welcome.demo_button.click()
        else:
            self.viewer.open(scan, plugin="napari-addm")
            if truth is not None:
                # a segmentation, whatever its name and type say
                (layer,) = self.viewer.open(truth, plugin="napari-addm")
                if not isinstance(layer, Labels):
                    self.viewer.layers.remove(layer)
                    place = ("scale", "translate", "units", "axis_labels", "metadata")
                    layer = self.viewer.add_layer(
                        Labels(
                            (layer.data > 0).astype(np.uint8),
                            name=layer.name,
                            **{key: getattr(layer, key) for key in place},
                        )
                    )
                self.panel.agreement.truth.chooser.choose(layer)
        self.pause(0.5)
        for layer in self.viewer.layers:
            if isinstance(layer, Labels):
                layer.visible = False
                lesion = np.argwhere(np.asarray(layer.data) > 0)
                if len(lesion):
                    self.viewer.dims.point = layer.data_to_world(lesion.mean(axis=0))
            else:
                self.viewer.layers.selection.active = layer
        self.viewer.reset_view()
        self.picture("open")

    def preview(self) -> None:
        """Follow the slice on screen."""
        panel = self.panel
        self.heart.take_ms()
        panel.follow.box.setChecked(True)
        self.report["first_preview_s"] = self.wait(
            lambda: panel.outcome is not None and panel.outcome.detection is not None
        )
        self.wait(lambda: not panel.runner.previewing)
        self.report["preview_says"] = panel.follow.words.text()
        self.report["longest_block_preview_ms"] = self.heart.take_ms()
        self.unfold(texts.SCAN_SECTION, texts.FINDINGS_SECTION)
        self.picture("preview")
        panel.follow.box.setChecked(False)

    def run(self) -> None:
        """The whole volume, while a person scrolls."""
        panel, dims = self.panel, self.viewer.dims
        here = dims.point
        panel.model.whole_volume.setChecked(True)

        def scroll(step: int) -> None:
            self.turn_wheel(1 if step % 8 < 4 else -1)
            self.pause(0.2)

        self.heart.take_ms()
        seen = set()
        for step in range(24):
            scroll(step)
            seen.add(dims.point[0])
        self.report["slices_scrolled_through"] = len(seen)
        self.report["longest_block_scrolling_without_run_ms"] = self.heart.take_ms()
        panel.run()
        started, step, block, taken = time.perf_counter(), 0, (0.0, 0.0), False
        while panel.running:
            scroll(step)
            step += 1
            if (
                not taken
                and panel.notices.progress.value() > 0.3 * panel.notices.progress.maximum() > 0
            ):
                dims.point, taken = here, True
                block = self.heart.take()
                self.picture("run")
        self.report["run_s"] = round(time.perf_counter() - started, 2)
        block = max(block, self.heart.take())
        self.report["longest_block_run_ms"], self.report["longest_block_run_began"] = block
        dims.point = here
        self.pause(0.5)
        truth = self.panel.agreement.truth.layer
        if truth is not None:
            self.wait(lambda: panel.outcome is not None and panel.outcome.agreement is not None)
        self.report["status"] = panel.notices.status.text()

    def review(self) -> None:
        """Threshold, a click on the largest finding, and a decision."""
        panel, table = self.panel, self.panel.findings.table
        default = panel.findings.threshold.value()
        blocks = []
        for factor in (0.8, 0.9, 1.1, 1.0):
            self.heart.take_ms()
            panel.findings.threshold.setValue(factor * default)
            self.pause(0.3)
            blocks.append(self.heart.take_ms())
        self.report["longest_block_threshold_ms"] = max(blocks)
        self.unfold(texts.FINDINGS_SECTION)
        self.report["found"] = panel.findings.count.text()
        rows = table.model.rowCount()
        if rows:
            index = table.model.index(0, 1)
            table.view.clicked.emit(index)
            table.view.selectRow(0)
            self.pause(0.3)
            first = table.review.selected
            self.report["first"] = [
                table.model.data(table.model.index(0, column))
                for column in range(table.model.columnCount())
            ]
            layer = self.outcome.layers.layer("labels")
            assert layer is not None
            at = tuple(round(v) for v in layer.world_to_data(self.viewer.dims.point))
            self.report["viewer_is_in_its_slice"] = bool((layer.data[at[0]] == first).any())
            if rows > 1:
                table.view.selectRow(rows - 1)
                table.reject()
                table.view.selectRow(0)
            table.accept()
            table.note.setText("looked at in all planes")
            table.note.editingFinished.emit()
        self.picture("detect")
        self.unfold(texts.TRUTH_SECTION)
        self.report["figures"] = {
            key: label.text() for key, label in panel.agreement.view.figures.items()
        }
        self.picture("truth")

    def planes(self) -> None:
        """Three planes around the lesion, and the canvas in each plane, side by side."""
        views = self.panel.views
        self.unfold(texts.VIEW_SECTION, texts.FINDINGS_SECTION)
        self.heart.take_ms()
        views.three_planes.setChecked(True)
        self.wait(lambda: views.canvases.dock is not None and views.canvases.dock.filled)
        self.pause(0.5)
        self.report["longest_block_three_planes_ms"] = self.heart.take_ms()
        self.picture("three_planes")
        views.three_planes.setChecked(False)
        self.pause(0.5)
        bar = views.bar_check.isChecked()
        views.bar_check.setChecked(False)  # it would be cut
        pictures = []
        low, high = self.viewer.layers.extent.world
        for name in PLANES:
            views.show_plane(name)
            self.pause(0.3)
            picture = self.viewer.screenshot(canvas_only=True, flash=False)
            side = min(picture.shape[:2])
            # One scale in all planes; the longest side of the scan fills the picture.
            self.viewer.scene.camera.zoom = side / float((high - low).max())
            self.pause(0.3)
            picture = self.viewer.screenshot(canvas_only=True, flash=False)[..., :3]
            top, left = ((n - side) // 2 for n in picture.shape[:2])
            pictures.append(picture[top : top + side, left : left + side])
        imsave(self.pictures / "planes.png", np.hstack(pictures), check_contrast=False)
        views.show_plane("Axial")
        views.bar_check.setChecked(bar)

    def save(self, folder: Path) -> None:
        """Save, verify, and read the labels back."""
        panel, outcome = self.panel, self.outcome
        shown = np.array(outcome.layers.labels())
        panel.saving.save(folder)
        self.wait(lambda: "saved" in panel.notices.status.text())
        self.unfold(texts.FINDINGS_SECTION)
        self.picture("save")
        self.report["saved"] = sorted(path.name for path in folder.rglob("*") if path.is_file())
        (record,) = folder.rglob("*_record.json")
        scan = outcome.scan.source.path
        self.report["verify"] = verify(record, scan=scan).verdict
        (labels,) = (p for p in folder.rglob("*.nii*") if "dseg" in p.name or "labels" in p.name)
        self.report["reopened_labels_equal"] = bool(np.array_equal(read_labels(labels).data, shown))
        before = len(self.viewer.layers)
        self.viewer.open(str(labels), plugin="napari-addm")
        self.report["reopened_layers"] = len(self.viewer.layers) - before


def main() -> None:
    """Walk, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", help="a scan; the demo case without it")
    parser.add_argument("--truth", help="its ground truth")
    parser.add_argument("--checkpoint", type=Path, help="the bundled one without it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument(
        "--no-preview",
        action="store_true",
        help="the run is the first thing done, with all that is drawn then for the first time",
    )
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    arguments = parser.parse_args()
    arguments.output = arguments.output.absolute()
    for name in ("scan", "truth"):  # the walk ends in another folder
        if getattr(arguments, name) is not None:
            setattr(arguments, name, str(Path(getattr(arguments, name)).absolute()))
    arguments.output.mkdir(parents=True, exist_ok=True)

    viewer = napari.Viewer()
    viewer.theme = arguments.theme
    viewer.window.set_geometry(0, 0, *WINDOW)
    panel = open_panel(viewer)
    walk = Walk(viewer, panel, arguments.output)
    walk.pause(0.5)
    if arguments.checkpoint is not None:
        panel.model.checkpoint_chooser.choose(arguments.checkpoint)
    walk.start()
    walk.open(arguments.scan, arguments.truth)
    if not arguments.no_preview:
        walk.preview()
    walk.run()
    walk.review()
    walk.planes()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        walk.save(Path("results"))  # no folder of this machine in the picture
    print(json.dumps(walk.report, indent=1))
    viewer.close()
    QApplication.processEvents()


if __name__ == "__main__":
    main()
