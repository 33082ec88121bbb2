"""Further canvases, and the ways to compare a scan with another image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDockWidget, QHBoxLayout, QPushButton, QSlider, QWidget

from napari_addm.widgets import texts
from napari_addm.widgets.forms import column, form, row, single_shot, toggle
from napari_addm.widgets.layer_combos import LayerChooser
from napari_addm.widgets.layer_registry import role_of
from napari_addm.widgets.viewing.blink import Blink, Swipe, find_pair, names_of
from napari_addm.widgets.viewing.canvas_dock import CanvasDock
from napari_addm.widgets.viewing.canvas_tools import ClickToGo, Crosshair
from napari_addm.widgets.viewing.chosen_scan import (
    comparable_with,
    fit_brain,
    is_wide,
    scan_in_view,
)
from napari_addm.widgets.viewing.connections import Connections
from napari_addm.widgets.viewing.curtain import Curtain
from napari_addm.widgets.viewing.linked_canvas import LinkedCanvas
from napari_addm.widgets.viewing.marks import Marks
from napari_addm.widgets.viewing.overlays import white_words
from napari_addm.widgets.viewing.planes import other_plane, stand_upright
from napari_addm.widgets.viewing.scanner import CrosshairPlace

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

# Results that would hide what is compared; outlines do not.
FILLED_ROLES = ("anomaly", "brightness", "uncertainty", "agreement")
SIDE_TITLE = "addm_side_title"


def map_curtain(viewer: napari.viewer.Viewer) -> Curtain:
    """Make a curtain that hides maps, and leaves outlines."""
    return Curtain(viewer, lambda layer: role_of(layer) in FILLED_ROLES)


class FurtherCanvases:
    """Docks further canvases beside the viewer's own; one dock at a time.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        With a window.
    attach : sequence of callable
        Let mouse, marks and alarms work on a model's canvas; what each returns ends that.
    marks : Marks
        Their space is that of the crosshair's place.

    Attributes
    ----------
    dock : CanvasDock or None
        The dock that is open.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        attach: Sequence[Callable[[ViewerModel], Callable[[], object]]],
        marks: Marks,
    ) -> None:
        self._viewer, self._attach, self._marks = viewer, attach, marks
        self.dock: CanvasDock | None = None
        self._undo: list[Callable[[], object]] = []

    def show_three_planes(
        self, beside: QDockWidget | None = None, fit: Callable[[], object] | None = None
    ) -> CanvasDock:
        """Show the two planes that the viewer does not show, with a crosshair through all three."""
        viewer = self._viewer
        stand_upright(viewer)
        canvases = [LinkedCanvas(viewer, partial(other_plane, which=which)) for which in (0, 1)]
        models = [viewer, *(canvas.model for canvas in canvases)]
        for tool in (Crosshair, ClickToGo):
            self._undo += [tool(viewer, model).close for model in models]
        self._undo.append(CrosshairPlace(viewer, self._marks.space).close)
        return self._open(canvases, texts.THREE_PLANES.label, "bottom", beside, fit)

    def show_beside(
        self, pair: tuple[Image, Image], beside: QDockWidget | None = None
    ) -> CanvasDock:
        """Show another image on the right of a scan, or below it where that makes both larger."""
        viewer, (scan, image) = self._viewer, pair
        words = names_of(pair)

        def arrange(layers: list[Layer]) -> list[Layer]:
            """Lay the image where the scan is: below outlines."""
            rest = [layer for layer in layers if layer is not image]
            at = rest.index(scan) if scan in rest else 0
            return [*rest[:at], *[image][: image in layers], *rest[at:]]

        canvas = LinkedCanvas(
            viewer,
            lambda order: order,
            title=words[1],
            overrides={scan: False, image: True}.get,
            follow_camera=True,
            arrange=arrange,
        )
        overlays = viewer.canvas.overlays
        overlays[SIDE_TITLE] = white_words(
            text=words[0], position="top_left", font_size=8, visible=True
        )
        self._undo.append(lambda: overlays.pop(SIDE_TITLE, None))
        area = "right" if is_wide(viewer, scan) else "bottom"
        fit = partial(fit_brain, viewer, scan)
        return self._open([canvas], texts.BESIDE.label, area, beside, fit, half=True)

    def _open(
        self,
        canvases: list[LinkedCanvas],
        name: str,
        area: str,
        beside: QDockWidget | None,
        fit: Callable[[], object] | None,
        half: bool = False,
    ) -> CanvasDock:
        self._undo += [attach(canvas.model) for canvas in canvases for attach in self._attach]
        self.dock = CanvasDock(self._viewer, canvases, name, area, beside, fit, half)
        return self.dock

    def close(self) -> None:
        """Close the dock, and undo what came with it."""
        dock, self.dock = self.dock, None
        undo, self._undo = self._undo, []
        for each in undo:
            each()
        if dock is not None:
            dock.release()


class Comparison(QWidget):
    """Compare a scan with its reconstruction or another image: beside it, in turn, or in halves.

    Only outlines stay over the scan meanwhile: a map would hide what is compared. Afterwards all
    layers are as visible as they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    leave_3d : callable
        Slices are compared in 2D only.

    Attributes
    ----------
    begun : Signal()
        A comparison is about to begin.
    beside_wanted : Signal(bool)
        The button *Beside* was switched.
    curtain : Curtain
        Hides maps meanwhile.
    other : LayerChooser
        What the scan is compared with; hidden while there is only the reconstruction.
    beside, blink, swipe : QPushButton
        Checked while they are on, at most one of them.
    border : QSlider
        Percent of the scan's width that *Swipe* leaves to the scan.
    """

    begun = Signal()
    beside_wanted = Signal(bool)

    def __init__(self, viewer: napari.viewer.Viewer, leave_3d: Callable[[], object]) -> None:
        super().__init__()
        self._viewer, self._leave_3d = viewer, leave_3d
        self._window = hasattr(viewer, "window")
        self._blink, self._swipe = Blink(viewer, lambda _: self.pair), Swipe(viewer)
        self.curtain = map_curtain(viewer)
        self._looked = single_shot(self, 0, self.look)
        self._build()
        self._connections = Connections()
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.renamed):
            self._connections.add(event, self._on_layers)
        self._connections.add(viewer.layers.selection.events.active, self._on_active)
        self.look()

    def _build(self) -> None:
        self.other = LayerChooser(texts.RECONSTRUCTION)
        self.other.changed.connect(self._on_other)
        self.beside = toggle(texts.BESIDE, self._on_beside)
        self.blink = toggle(texts.BLINK, self._on_blink)
        self.swipe = toggle(texts.SWIPE, self._on_swipe)
        self.border = QSlider(Qt.Orientation.Horizontal)
        self.border.setRange(0, 100)
        self.border.setValue(50)
        self.border.setToolTip(texts.SWIPE.tip)
        self.border.valueChanged.connect(self._on_border)
        self.border.hide()
        body = column(self)
        chooser = form()
        row(chooser, texts.COMPARE_WITH, self.other)
        self._chooser = QWidget()
        self._chooser.setLayout(chooser)
        body.addWidget(self._chooser)
        line = QHBoxLayout()
        for made in self._modes:
            line.addWidget(made)
        body.addLayout(line)
        body.addWidget(self.border)

    @property
    def _modes(self) -> tuple[QPushButton, ...]:
        return self.beside, self.blink, self.swipe

    @property
    def pair(self) -> tuple[Image, Image] | None:
        """The scan and what it is compared with, if both are there."""
        return find_pair(self._viewer, self.other.layer_id)

    def look(self) -> None:
        """Offer what a scan may be compared with; end a comparison that lost its layers."""
        scan = scan_in_view(self._viewer)
        images = [] if scan is None else comparable_with(self._viewer, scan)
        if self.other.layer_id not in (None, *(image.unique_id for image in images)):
            self.stop()  # what the scan is compared with is gone
        self.other.offer(images)
        self._chooser.setVisible(bool(images))
        there = self.pair is not None
        for made in self._modes:
            made.setEnabled(there and (made is not self.beside or self._window))
        if not there:
            self.stop()

    def _on_layers(self, event: Any) -> None:
        if event.type != "renamed" and role_of(event.value) == "agreement":
            self.stop()  # hits and misses hide and show layers of their own
        self.look()

    def _on_active(self, event: Any = None) -> None:
        self._looked.start()  # once the panel has brought its scan into view

    def _on_other(self) -> None:
        going = [made for made in self._modes if made.isChecked()]
        self.stop()
        self.look()
        for made in going:
            made.setChecked(made.isEnabled())

    def stop(self) -> None:
        """End all comparisons."""
        for made in self._modes:
            made.setChecked(False)
        self._blink.stop()  # the key may be down
        self._show_maps()

    def end(self) -> None:
        """Give the viewer back, when the panel may be gone already."""
        self._connections.close()
        self._blink.stop()
        self._swipe.stop()
        self.curtain.draw(False)

    @property
    def going(self) -> bool:
        """Whether something is compared."""
        return self._blink.shows or any(made.isChecked() for made in self._modes)

    def _show_maps(self) -> None:
        """Hide maps while something is compared."""
        self.curtain.draw(self.going)

    def _start(self, mode: QPushButton) -> None:
        self.begun.emit()
        for made in self._modes:
            if made is not mode:
                made.setChecked(False)

    def _on_beside(self, on: bool) -> None:
        if on:
            self._start(self.beside)
            self._leave_3d()
        self._show_maps()
        self.beside_wanted.emit(on)

    def _on_blink(self, on: bool) -> None:
        if not on:
            self._blink.stop()
        else:
            self._start(self.blink)
            self._leave_3d()
            if not self._blink.start():
                self.blink.setChecked(False)
        self._show_maps()

    def hold(self) -> Callable[[], object] | None:
        """Show the other image instead of the scan until the key is released."""
        if self._blink.running or self._viewer.dims.ndisplay != 2:
            return None
        self.begun.emit()
        if not self._blink.hold():
            return None
        self._show_maps()
        return self._let_go

    def _let_go(self) -> None:
        self._blink.stop()
        self._show_maps()

    def _on_swipe(self, on: bool) -> None:
        self.border.setVisible(on)
        if not on:
            self._swipe.stop()
        else:
            self._start(self.swipe)
            self._leave_3d()
            if not self._swipe.start(self.border.value() / 100, self.other.layer_id):
                self.swipe.setChecked(False)
        self._show_maps()

    def _on_border(self) -> None:
        self._swipe.move(self.border.value() / 100)
