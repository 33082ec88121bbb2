"""Section 'View': planes, scan against reconstruction, keys, figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from napari.layers import Image, Layer
from psygnal import EmitLoopError
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QWidget,
)

from napari_addm.io.volume import GRID_OF_LAYER
from napari_addm.outputs.drawing import CUTS, Plane, caption_lines, figure_png, slices_through
from napari_addm.review.marking import measure_labels
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.forms import (
    SMALL,
    Section,
    button,
    column,
    may_replace,
    message,
    say,
    when_gone,
)
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.result_layers import is_output, role_of, scan_of
from napari_addm.widgets.viewing.blink import RECONSTRUCTION, SCAN, Blink, Swipe, find_pair
from napari_addm.widgets.viewing.linked_canvas import (
    PLANES,
    CanvasDock,
    ClickToGo,
    Connections,
    Crosshair,
    EdgeLetters,
    LinkedCanvas,
    dock_of,
    order_of,
    plane_of,
    stand_upright,
)
from napari_addm.widgets.viewing.overlays import (
    CanvasText,
    bring_color_bar,
    hide_color_bar,
    white_words,
)
from napari_addm.widgets.viewing.turns import Turns, draw_first, later
from napari_addm.widgets.viewing.visibility import is_put_away

if TYPE_CHECKING:
    import napari

PLANE_ACROSS: dict[int, Plane] = {axis: plane for plane, axis in CUTS.items()}
MAP_ROLES = ("anomaly", "uncertainty", "labels")
BAR_LABEL = "addm_bar_label"
SIDE_TITLE = "addm_side_title"
BAR_LOOK: dict[str, Any] = {"size": (14, 110), "font_size": 8}
# After the layers have changed: OpenGL has its hands full with those.
BAR_MS = 100
# napari takes several ms for a letter that it has not yet drawn; so many new ones at a time.
NEW_LETTERS = 4
# Those of the numbers beside the bar.
BAR_LETTERS = "0123456789.e-+"
# A threshold has to rest for so long before it is written: OpenGL takes its time for words.
REST_MS = 150
# From the front and a little from above and the side; axes S, A, R.
VIEW_3D = ((-0.25, -1.0, 0.35), (1.0, 0.0, 0.0))


class Views(QWidget):
    """How a viewer shows its layers.

    Closing the panel gives the viewer back: further canvases, keys, letters
    and colour bar are gone, and layers as visible as they were.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        One without a window offers no further canvases.
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    said : Signal(str)
        Words for the status line.
    failed : Signal(object)
        An exception, for the panel to show.
    outcome : Outcome or None
        What figure and colour bar are of; the panel sets it.
    step_finding : callable
        Goes to the next (1) or the previous (-1) finding; the panel sets it.
    """

    said = Signal(str)
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self._outcome: Outcome | None = None
        self.step_finding: Callable[[int], object] = lambda by: None
        self._threshold: float | None = None
        self._hidden: list[Any] = []  # maps that the key has hidden
        self._watched: WeakSet[Layer] = WeakSet()  # maps whose eye the bar's label follows
        # where the slices were before 3D, for which napari goes to the middle, and where to
        self._before_3d: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        self._window = hasattr(viewer, "window")
        self._connections = Connections()
        self._letters = EdgeLetters(viewer)
        self._blink = Blink(viewer)
        self._swipe = Swipe(viewer)
        self._docked = _Docked(viewer)
        self._tiling_before = viewer.canvas.overlay_tiling.top_right
        viewer.canvas.overlay_tiling.top_right = "vertical"  # the bar below its label
        self._bar_later = later(self, BAR_MS, self._show_bar)
        self._turns = Turns(self)
        self._label_later = later(self, REST_MS, self._write_bar_label)
        self._build()
        self._keys = self._bind_keys()
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed):
            self._connections.add(event, self._on_layers)
        self._connections.add(viewer.dims.events.ndisplay, self._on_ndisplay)
        self._connections.add(viewer.dims.events.order, self._show_state)
        self._on_layers()
        self._show_state()
        when_gone(self, _Farewell(self))

    @property
    def outcome(self) -> Outcome | None:
        """What figure and colour bar are of; the panel sets it."""
        return self._outcome

    @outcome.setter
    def outcome(self, outcome: Outcome | None) -> None:
        self._outcome = outcome
        if outcome is None:
            self._threshold = None
            self._label_later.start()
        self._bar_later.start()

    # --- what it looks like ----------------------------------------------------------------------

    def _build(self) -> None:
        body = column(self)
        planes = QHBoxLayout()
        self.plane_buttons: dict[str, QPushButton] = {}
        for name in (*PLANES, texts.VIEW_3D.label):
            text = texts.Text(name, texts.VIEW) if name in PLANES else texts.VIEW_3D
            pressed = partial(self.show_plane, name) if name in PLANES else self.show_3d
            made = button(text, pressed)
            made.setCheckable(True)
            self.plane_buttons[name] = made
            planes.addWidget(made)
        body.addLayout(planes)

        beside = QHBoxLayout()
        self.three_planes = _toggle(texts.THREE_PLANES, self._on_three_planes)
        self.side_by_side = _toggle(texts.SIDE_BY_SIDE, self._on_side_by_side)
        self.blink_button = _toggle(texts.BLINK, self._on_blink)
        for made in (self.three_planes, self.side_by_side, self.blink_button):
            beside.addWidget(made)
        body.addLayout(beside)

        swipe = QHBoxLayout()
        self.swipe_check = QCheckBox(texts.SWIPE.label)
        self.swipe_border = QSlider(Qt.Orientation.Horizontal)
        self.swipe_border.setRange(0, 100)
        self.swipe_border.setValue(50)
        self.swipe_check.setToolTip(texts.SWIPE.tip)
        self.swipe_border.setToolTip(texts.SWIPE.tip)
        self.swipe_check.toggled.connect(self._on_swipe)
        self.swipe_border.valueChanged.connect(self._on_border)
        swipe.addWidget(self.swipe_check)
        swipe.addWidget(self.swipe_border, 1)
        self.bar_check = QCheckBox(texts.COLOUR_BAR.label)
        self.bar_check.setToolTip(texts.COLOUR_BAR.tip)
        self.bar_check.setChecked(True)
        self.bar_check.toggled.connect(self._show_bar)
        swipe.addWidget(self.bar_check)
        body.addLayout(swipe)

        figure = QHBoxLayout()
        self.figure_scope = QComboBox()
        for words, count in texts.FIGURE_SCOPES.items():
            self.figure_scope.addItem(words, count)
        self.figure_scope.setToolTip(texts.FIGURE.tip)
        self.figure_named = QCheckBox(texts.FIGURE_NAMED.label)
        self.figure_named.setToolTip(texts.FIGURE_NAMED.tip)
        self.figure_button = button(texts.FIGURE, self._on_figure)
        for field in (self.figure_scope, self.figure_named, self.figure_button):
            figure.addWidget(field)
        body.addLayout(figure)
        self.note = message()
        body.addWidget(self.note)
        self._key_table = QWidget()
        self.keys_section = Section(texts.KEYS, self._key_table, expanded=False, quiet=True)
        body.addWidget(self.keys_section)

    def _show_state(self, event: Any = None) -> None:
        """Let the buttons say what is shown."""
        dims = self._viewer.dims
        in_3d = dims.ndisplay == 3
        plane = plane_of(dims.order) if dims.ndim >= 3 and not in_3d else None
        for name, made in self.plane_buttons.items():
            made.setChecked(in_3d if name == texts.VIEW_3D.label else name == plane)

    def _on_layers(self, event: Any = None) -> None:
        there = find_pair(self._viewer) is not None
        for field in (self.blink_button, self.swipe_check):
            field.setEnabled(there)
        self.side_by_side.setEnabled(there and self._window)
        self.three_planes.setEnabled(self._window)
        if not there:
            self.stop_comparing()
        self.swipe_border.setEnabled(self.swipe_check.isChecked())
        self._bar_later.start()

    def stop_comparing(self) -> None:
        """End what shows scan and reconstruction in turn, side by side or on both sides."""
        for field in (self.blink_button, self.swipe_check, self.side_by_side):
            field.setChecked(False)
        self._blink.stop()  # the key may be down

    # --- planes ----------------------------------------------------------------------------------

    def stand_upright(self) -> None:
        """Rows of our layers grow to anterior or superior: show that side up."""
        stand_upright(self._viewer)

    def show_plane(self, name: str) -> None:
        """Show the axial, coronal or sagittal slice through the current position."""
        if self._viewer.dims.ndim < 3:
            self._show_state()
            return
        draw_first()
        dims = self._viewer.dims
        point = dims.point  # napari goes to the middle when it comes back, too
        if self._before_3d is not None:
            before, middle = self._before_3d
            point = before if point == middle else point  # nobody has gone elsewhere since
            self._before_3d = None
        dims.ndisplay = 2
        dims.order = order_of(name, dims.ndim)
        dims.point = point
        self.stand_upright()
        self._viewer.reset_view()
        self._show_state()

    def show_next_plane(self) -> None:
        """Axial, coronal, sagittal, and axial again."""
        names = list(PLANES)
        now = plane_of(self._viewer.dims.order) if self._viewer.dims.ndim >= 3 else None
        at = names.index(now) + 1 if now is not None else 0
        self.show_plane(names[at % len(names)])

    def show_3d(self) -> None:
        """Show the volume from the front: the patient's right on the left of the screen."""
        if self._viewer.dims.ndim < 3:
            self._show_state()
            return
        draw_first()
        dims = self._viewer.dims
        in_2d, before = dims.ndisplay == 2, dims.point
        self.stand_upright()
        dims.order = order_of("Axial", dims.ndim)
        dims.ndisplay = 3
        self._viewer.reset_view()
        if in_2d:
            self._before_3d = before, dims.point
        self._viewer.scene.camera.set_view_direction(*VIEW_3D)
        self._show_state()

    def _leave_3d(self) -> None:
        """What compares slices shows slices."""
        if self._viewer.dims.ndisplay == 3:
            self.show_plane("Axial")

    def _on_ndisplay(self, event: Any = None) -> None:
        if self._viewer.dims.ndisplay == 3:
            self.swipe_check.setChecked(False)
            self.side_by_side.setChecked(False)
        else:
            self._before_3d = None
        self._show_state()

    def toggle_3d(self) -> None:
        """3D, or back to the axial slices."""
        if self._viewer.dims.ndisplay == 3:
            self.show_plane("Axial")
        else:
            self.show_3d()

    def _on_three_planes(self, on: bool) -> None:
        if not on:
            self._docked.release(self.three_planes)
            return
        if self._viewer.dims.ndim < 3 or not self._window:
            self.three_planes.setChecked(False)
            return
        self.side_by_side.setChecked(False)
        if plane_of(self._viewer.dims.order) is None:
            self.show_plane("Axial")
        self._leave_3d()
        self.stand_upright()
        canvases = [
            LinkedCanvas(self._viewer, partial(_other_plane, which=which)) for which in (0, 1)
        ]
        models = [self._viewer, *(canvas.model for canvas in canvases)]
        drawn = [kind(self._viewer, model) for kind in (Crosshair, ClickToGo) for model in models]

        def undo() -> None:
            for one in drawn:
                one.close()

        self._dock(self.three_planes, canvases, texts.THREE_PLANES.label, "bottom", undo)

    def _on_side_by_side(self, on: bool) -> None:
        if not on:
            self._docked.release(self.side_by_side)
            return
        pair = find_pair(self._viewer)
        if pair is None or not self._window:
            self.side_by_side.setChecked(False)
            return
        self.three_planes.setChecked(False)
        self.blink_button.setChecked(False)
        self.swipe_check.setChecked(False)
        self._leave_3d()
        scan, redrawn = pair
        overrides = {scan: False, redrawn: True}
        canvas = LinkedCanvas(
            self._viewer,
            lambda order: order,
            title=RECONSTRUCTION,
            overrides=lambda layer: overrides.get(layer),
            follow_camera=True,
        )
        self._viewer.canvas.overlays[SIDE_TITLE] = white_words(
            text=SCAN, position="top_left", font_size=8, visible=True
        )

        def undo() -> None:
            self._viewer.canvas.overlays.pop(SIDE_TITLE, None)

        self._dock(self.side_by_side, [canvas], texts.SIDE_BY_SIDE.label, "right", undo)

    def _dock(
        self,
        owner: QPushButton,
        canvases: list[LinkedCanvas],
        name: str,
        area: str,
        undo: Callable[[], None],
    ) -> None:
        draw_first()
        for canvas in canvases:
            canvas.bind(self._pressed)
        dock = CanvasDock(self._viewer, canvases, name, area, dock_of(self))
        dock.closed.connect(partial(_release_button, owner))
        self._docked.hold(owner, dock, undo)

    # --- scan against reconstruction -------------------------------------------------------------

    def _on_blink(self, on: bool) -> None:
        if on:
            self.swipe_check.setChecked(False)
            if not self._blink.start():
                self.blink_button.setChecked(False)
        else:
            self._blink.stop()

    def _on_swipe(self, on: bool) -> None:
        self.swipe_border.setEnabled(on)
        if on:
            self.blink_button.setChecked(False)
            self._leave_3d()
            if not self._swipe.start(self.swipe_border.value() / 100):
                self.swipe_check.setChecked(False)
        else:
            self._swipe.stop()

    def _on_border(self) -> None:
        self._swipe.move(self.swipe_border.value() / 100)

    def toggle_maps(self) -> None:
        """Hide maps and outlines; show those again that were shown."""
        maps = [
            layer
            for layer in self._viewer.layers
            if role_of(layer) in MAP_ROLES and not self._is_another_s(layer)
        ]
        shown = [layer for layer in maps if layer.visible]
        if shown:
            self._hidden = shown
        again = [layer for layer in self._hidden if layer in maps] or [
            layer for layer in maps if role_of(layer) != "uncertainty"
        ]
        for layer in shown or again:
            layer.visible = not shown

    def _is_another_s(self, layer: Layer) -> bool:
        """Whether a result is of a scan that is not in view."""
        scans = {each.unique_id: each for each in self._viewer.layers}
        scan = scans.get(scan_of(layer), layer)
        return is_put_away(scan)

    # --- colour bar ------------------------------------------------------------------------------

    def set_threshold(self, threshold: float) -> None:
        """Say beside the colour bar where the threshold lies."""
        self._threshold = threshold
        self._label_later.start()

    def _bar_words(self) -> str:
        words = texts.COLOUR_BAR_LABEL
        return words if self._threshold is None else f"{words}\nthreshold {self._threshold:.3g}"

    def _write_bar_label(self) -> None:
        label = self._viewer.canvas.overlays.get(BAR_LABEL)
        if label is not None:
            draw_first()
            label.text = self._bar_words()
            label.color, label.box = None, True

    def _show_bar(self) -> None:
        self._turns.take(self._bring_bar())

    def _maps(self, all_of_them: bool = False) -> list[Layer]:
        """The anomaly map whose threshold stands beside the bar, or all there are."""
        maps = [layer for layer in self._viewer.layers if role_of(layer) == "anomaly"]
        if all_of_them:
            return maps
        if self.outcome is None:
            return [layer for layer in maps if not self._is_another_s(layer)]
        own = self.outcome.layers.layer("anomaly")
        return [layer for layer in maps if layer is own]

    def _bring_bar(self) -> Iterator[None]:
        """Show bar and label of the map, if there is one, else take them away; a step a turn."""
        shown = self._maps() if self.bar_check.isChecked() else []
        for layer in self._maps(all_of_them=True):
            if layer not in shown and layer.colorbar.visible:
                hide_color_bar(layer)
        if not shown:
            self._viewer.canvas.overlays.pop(BAR_LABEL, None)
            return
        if BAR_LABEL not in self._viewer.canvas.overlays:
            yield from self._draw_letters()
            self._write_bar_label()
        for layer in shown:
            if layer not in self._watched:
                self._watched.add(layer)
                self._connections.add(layer.events.visible, self._on_eye)
        self._on_eye()
        for layer in shown:
            if not layer.colorbar.visible:
                for _ in bring_color_bar(layer, self._viewer.layers, **BAR_LOOK):
                    yield
                    draw_first()

    def _on_eye(self, event: Any = None) -> None:
        """Without the map there is no bar, and without the bar no label."""
        label = self._viewer.canvas.overlays.get(BAR_LABEL)
        if label is not None:
            label.visible = any(layer.visible for layer in self._maps())

    def _draw_letters(self) -> Iterator[None]:
        """Draw the letters of label and bar once where nobody sees them: there for the label."""
        label = CanvasText(
            position="top_right", font_size=8, visible=True, color="transparent", box=False
        )
        self._viewer.canvas.overlays[BAR_LABEL] = label
        letters = "".join(dict.fromkeys(self._bar_words() + BAR_LETTERS))
        starts = range(0, len(letters), NEW_LETTERS)
        # before the first letter what draws them all
        for part in (" ", *(letters[start : start + NEW_LETTERS] for start in starts)):
            draw_first()
            label.text = part
            yield

    # --- keys ------------------------------------------------------------------------------------

    def _bind_keys(self) -> list[str]:
        """Bind the keys of the list on the viewer; one that is taken stays as it is."""
        actions: dict[str, Callable[[], object]] = {
            "next plane": self.show_next_plane,
            "3d": self.toggle_3d,
            "three planes": self.three_planes.toggle,
            "side by side": self.side_by_side.toggle,
            "blink": self.blink_button.toggle,
            "swipe": self.swipe_check.toggle,
            "maps": self.toggle_maps,
            "next finding": lambda: self.step_finding(1),
            "previous finding": lambda: self.step_finding(-1),
        }
        self._pressed: dict[str, Callable[..., object]] = {}
        for shortcut in texts.SHORTCUTS:
            if shortcut.action == "hold":
                self._pressed[shortcut.key] = self._hold
            else:
                self._pressed[shortcut.key] = _presser(actions[shortcut.action])
        bound = []
        grid = QGridLayout(self._key_table)
        grid.setContentsMargins(12, 0, 0, 0)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(1)
        grid.setColumnStretch(1, 1)
        listed = []
        for shortcut in texts.SHORTCUTS:
            with contextlib.suppress(ValueError):
                self._viewer.bind_key(shortcut.key, self._pressed[shortcut.key])
                bound.append(shortcut.key)
                listed.append((shortcut.shown, shortcut.does))
        for row, words in enumerate((*listed, *texts.TABLE_KEYS)):
            for at, word in enumerate(words):
                label = QLabel(word)
                label.setStyleSheet(SMALL)
                grid.addWidget(label, row, at)
        return bound

    def _hold(self, viewer: Any) -> Iterator[None]:
        """While the key is down, the reconstruction stands in the scan's place."""
        if self._blink.running:
            return
        self._blink.hold()
        yield
        self._blink.stop()

    # --- figures ---------------------------------------------------------------------------------

    def _on_figure(self) -> None:
        outcome = self.outcome
        if outcome is None or outcome.detection is None or outcome.marked is None:
            say(self.note, texts.NO_FIGURE)
            return
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the figure as", "anomaly_figure.png", "Picture (*.png)"
        )
        if not path:
            return
        chosen = Path(path)
        if chosen.suffix.lower() != ".png":
            # the dialog has asked about another name
            chosen = chosen.with_name(f"{chosen.name}.png")
            if chosen.exists() and not may_replace(self, [chosen.name], chosen.parent):
                return
        self.export(chosen)

    def export(self, path: Path) -> None:
        """Write a figure of the last result, in the background.

        Parameters
        ----------
        path : Path
            The ``.png``; replaced if it is there.
        """
        outcome = self.outcome
        if outcome is None or outcome.detection is None or outcome.marked is None:
            say(self.note, texts.NO_FIGURE)
            return
        if outcome.misfit:  # its scale bar would show the old voxel size
            say(self.note, outcome.misfit)
            return
        count = self.figure_scope.currentData()
        plane: Plane = "Axial"
        index: int | None = None
        if count == 1:
            shown = self._slice_shown(outcome)
            if shown is None:
                say(self.note, texts.NO_SLICE)
                return
            plane, index = shown
        labels = outcome.layers.labels()
        say(self.note, "Drawing the figure ...")
        self._start(
            "Draw a figure",
            _draw,
            path,
            outcome,
            outcome.marked.labels if labels is None else labels.copy(),
            plane,
            index,
            count,
            self.figure_named.isChecked(),
            yielded=self._on_drawn,
            errored=self._on_not_drawn,
            finished=self._on_figure_finished,
        )

    def _slice_shown(self, outcome: Outcome) -> tuple[Plane, int] | None:
        """Plane and slice of the outcome's volume that the viewer is at, if its layers tell."""
        dims = self._viewer.dims
        if dims.ndim < 3:
            return None
        axis = dims.not_displayed[-1] - (dims.ndim - 3) if dims.ndisplay == 2 else 0
        found = outcome.layers.slice_at(axis)
        return None if found is None else (PLANE_ACROSS[found[0]], found[1])

    def _on_drawn(self, path: Path) -> None:
        say(self.note, f"Saved as {path.name}")

    def _on_not_drawn(self, error: Exception) -> None:
        say(self.note, "")
        self.failed.emit(error)

    def _on_figure_finished(self) -> None:
        """Qt calls it in its thread; there is nothing to clean up."""


class _Docked:
    """The dock with further canvases, if there is one, and how to undo what came with it."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._owner: QPushButton | None = None
        self._dock: CanvasDock | None = None
        self._undo: Callable[[], None] = lambda: None

    @property
    def dock(self) -> CanvasDock | None:
        return self._dock

    def hold(self, owner: QPushButton, dock: CanvasDock, undo: Callable[[], None]) -> None:
        self._owner, self._dock, self._undo = owner, dock, undo

    def release(self, owner: QPushButton | None = None) -> None:
        """Close it; with an owner, only if it is that one's."""
        if self._dock is None or (owner is not None and owner is not self._owner):
            return
        dock, self._dock, self._owner = self._dock, None, None
        self._undo()
        dock.release()


class _Farewell:
    """Gives the viewer back when the panel is gone."""

    def __init__(self, views: Views) -> None:
        # Python's side of the panel may be gone before Qt's: hold what is to be undone
        self._viewer = views._viewer
        self._connections = views._connections
        self._keys = views._keys
        self._tiling = views._tiling_before
        self._undo: tuple[Callable[[], object], ...] = (
            views._blink.stop,
            views._swipe.stop,
            views._docked.release,
            views._letters.close,
            self._take_down_bar,
        )

    def __call__(self) -> None:
        self._connections.close()
        for key in self._keys:
            self._viewer.bind_key(key, None)
        for undo in self._undo:
            # the viewer may be closing, too; psygnal wraps what a listener raises
            with contextlib.suppress(RuntimeError, EmitLoopError):
                undo()

    def _take_down_bar(self) -> None:
        self._viewer.canvas.overlays.pop(BAR_LABEL, None)
        self._viewer.canvas.overlay_tiling.top_right = self._tiling
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and is_output(layer):
                hide_color_bar(layer)


def _other_plane(order: tuple[int, ...], which: int) -> tuple[int, ...]:
    """The first or second of the planes that an order of the axes does not show."""
    shown = plane_of(order) or "Axial"
    others = [name for name in PLANES if name != shown]
    return order_of(others[which], len(order))


def _toggle(text: texts.Text, toggled: Callable[[bool], None]) -> QPushButton:
    made = QPushButton(text.label)
    made.setToolTip(text.tip)
    made.setCheckable(True)
    made.toggled.connect(toggled)
    return made


def _release_button(owner: QPushButton) -> None:
    with contextlib.suppress(RuntimeError):  # the panel may be gone
        owner.setChecked(False)


def _presser(action: Callable[[], object]) -> Callable[[Any], None]:
    def pressed(viewer: Any) -> None:
        action()

    return pressed


# --- in another thread ---------------------------------------------------------------------------


def _draw(
    path: Path,
    outcome: Outcome,
    labels: np.ndarray,
    plane: Plane,
    index: int | None,
    count: int,
    named: bool,
) -> Iterator[Path]:
    detection, marked = outcome.detection, outcome.marked
    assert detection is not None
    assert marked is not None
    scan = outcome.scan
    slices = slices_through(scan, labels, count, plane) if index is None else [index]
    name = outcome.name if named else None
    # a person may have drawn on them
    findings = measure_labels(detection, labels, marked.threshold, marked.minimum_ml).findings
    caption = caption_lines(
        detection,
        outcome.checkpoint.sha256,
        marked.threshold,
        name,
        findings=findings,
        decisions=outcome.decisions,
    )
    notes = tuple(note for note in scan.warnings if note == GRID_OF_LAYER)
    yield figure_png(
        path,
        scan,
        detection.anomaly.data,
        labels,
        slices,
        plane,
        marked.threshold,
        (*caption, *notes),
        detection.midline,
    )
