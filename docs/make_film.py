"""Film the job in a real viewer: open the demo case, run, look at the first finding, scroll.

Writes ``figures/film.gif`` for the README. Without a display, with preferences of its own::

    NAPARI_CONFIG=$(mktemp -d)/settings.yaml \\
        xvfb-run -a -s "-screen 0 1280x800x24" python docs/make_film.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import napari
from make_pictures import Walk
from napari.layers import Labels
from PIL import Image, ImageDraw
from qtpy.QtCore import QPoint
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget

from napari_addm.widgets.commands import open_panel

WINDOW = (960, 640)
COLORS = 160
# The pointer's corners, px from its tip.
POINTER = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]


class Film:
    """The frames of a film, each with the time it is shown.

    Parameters
    ----------
    walk : Walk
        The viewer, its panel, and the event loop.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.pointer = QPoint(WINDOW[0] // 2, WINDOW[1] // 2)
        self.frames: list[Image.Image] = []
        self.times_ms: list[int] = []

    def shoot(self, ms: int) -> None:
        """Take the window as it is, with the pointer, for so long."""
        pixels = self.walk.viewer.screenshot(canvas_only=False, flash=False)
        frame = Image.fromarray(pixels[..., :3])
        at = [(self.pointer.x() + x, self.pointer.y() + y) for x, y in POINTER]
        ImageDraw.Draw(frame).polygon(at, fill="white", outline="black")
        self.frames.append(frame)
        self.times_ms.append(ms)

    def point_at(self, widget: QWidget, ms: int = 700) -> None:
        """Show the pointer on a widget for so long."""
        self.pointer = widget.mapTo(self.walk.window, widget.rect().center())
        self.shoot(ms)

    def scroll(self, slices: list[int], ms: int = 130) -> None:
        """Show one slice after the other; axis 0 is the slider's."""
        for each in slices:
            self.walk.viewer.dims.set_current_step(0, each)
            self.walk.pause(0.1)
            self.shoot(ms)

    def write(self, path: Path) -> None:
        """Write all frames with one palette, which keeps equal pixels equal."""
        width, height = self.frames[0].size
        some = self.frames[:: max(1, len(self.frames) // 8)]
        sheet = Image.new("RGB", (width, height * len(some)))
        for row, frame in enumerate(some):
            sheet.paste(frame, (0, row * height))
        palette = sheet.quantize(COLORS, dither=Image.Dither.NONE)
        plain = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        plain[0].save(
            path,
            save_all=True,
            append_images=plain[1:],
            duration=self.times_ms,
            loop=0,
            optimize=True,
        )


def act(film: Film) -> None:
    """Play the job."""
    walk, panel = film.walk, film.walk.panel
    film.shoot(900)
    film.point_at(panel.welcome.demo_button)
    panel.welcome.demo_button.click()
    walk.pause(1.0)
    for layer in walk.viewer.layers:
        layer.visible = not isinstance(layer, Labels)  # the solution comes with the demo case
    walk.viewer.reset_view()
    walk.pause(0.3)
    film.shoot(900)
    film.point_at(panel.run_button)
    panel.run()
    bar, shown = panel.notices.progress, -1.0
    while panel.running:
        walk.pause(0.1)
        part = bar.value() / max(1, bar.maximum())
        if part > shown + 0.08:  # as many frames on a slow machine
            film.shoot(300)
            shown = part
    walk.pause(1.0)
    film.shoot(1600)
    film.point_at(panel.findings.table.view, 1400)
    here = walk.viewer.dims.current_step[0]
    there = [here + 2 * step for step in (*range(1, 8), *range(6, -9, -1), *range(-7, 1))]
    film.pointer = walk.canvas.mapTo(walk.window, walk.canvas.rect().center()) + QPoint(-150, 150)
    film.scroll(there)
    accept = panel.findings.table.accept_button
    film.point_at(accept)
    accept.click()
    walk.pause(0.5)
    film.shoot(2500)


def main() -> None:
    """Film, and say how large the film is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    figures = Path(__file__).parent / "figures"
    parser.add_argument("--output", type=Path, default=figures / "film.gif")
    output = parser.parse_args().output
    viewer = napari.Viewer()
    viewer.window.set_geometry(0, 0, *WINDOW)
    panel = open_panel(viewer)
    window = panel.window()
    assert window is not None
    for dock in window.findChildren(QDockWidget):  # room for the brain
        if dock.windowTitle().startswith("layer "):
            dock.hide()
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(viewer, panel, Path(folder))
        walk.pause(1.0)
        film = Film(walk)
        act(film)
    film.write(output)
    seconds = sum(film.times_ms) / 1000
    print(f"{output}: {len(film.frames)} frames, {seconds:.0f} s, {output.stat().st_size:,} bytes")
    viewer.close()
    QApplication.processEvents()


if __name__ == "__main__":
    main()
