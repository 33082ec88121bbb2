"""Places of the viewer in the coordinates of the scanner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtWidgets import QLabel, QMainWindow, QStatusBar, QWidget

from napari_addm.errors import AddmError
from napari_addm.widgets import texts
from napari_addm.widgets.layer_volumes import LayerData, layer_volume
from napari_addm.widgets.layers import spatial_part
from napari_addm.widgets.viewing.connections import Connections, LayerWatch
from napari_addm.widgets.viewing.overlays import size_of_words, white_words
from napari_addm.widgets.viewing.planes import sides_known

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel

FONT_SIZE = 9
LETTER_PX = 25  # half the letter at the middle of the edge, and the words' margin
POINTER = "addm_crosshair_place"
LETTERS = ("RL", "AP", "SI")
# Right and left of the origin are those of the head if the middle of the scan is as near to it,
# as a share of the scan's width. In files whose origin is a corner, all would be "left".
NEAR_MIDDLE = 0.25


class ScannerSpace:
    """From places in the viewer's world to the scanner's, mm, RAS+.

    A layer of an oblique scan stands upright in the viewer, so the two worlds differ.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._of_layer: dict[Any, tuple[np.ndarray, bool] | None] = {}
        self._watch = LayerWatch(viewer, self._forget)
        self._connections = Connections()
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connections.add(event, self._forget)

    def _forget(self, event: Any = None) -> None:
        self._of_layer.clear()

    def place(self, world: tuple[float, ...]) -> np.ndarray | None:
        """The place (x, y, z) in the scanner; None where no layer tells."""
        found = self._find(world)
        return None if found is None else found[0]

    def _find(self, world: tuple[float, ...]) -> tuple[np.ndarray, bool] | None:
        """The place, and whether the scanner's right and left are those of the head."""
        for layer in self._viewer.layers:
            if not layer.visible or not isinstance(layer, (Image, Labels)) or layer.ndim < 3:
                continue
            key = layer.unique_id
            if key not in self._of_layer:
                self._of_layer[key] = _to_scanner(layer)
            space = self._of_layer[key]
            if space is not None and len(world) >= layer.ndim:
                matrix, sided = space
                index = np.asarray(layer.world_to_data(world[-layer.ndim :]))[-3:]
                return np.asarray(matrix[:3, :3] @ index + matrix[:3, 3]), sided
        return None

    def distance(self, one: tuple[float, ...], other: tuple[float, ...]) -> float | None:
        """Distance between two places in mm; None where no layer tells."""
        ends = self.place(one), self.place(other)
        return (
            None if ends[0] is None or ends[1] is None else float(np.linalg.norm(ends[1] - ends[0]))
        )

    def in_words(self, world: tuple[float, ...]) -> str:
        """The place in words; empty if unknown.

        With its sides, such as ``"R 32.1  A 12.0  S 40.5 mm"``. Where the origin is far from the
        middle of the head, these would be wrong: ``"x 132.1  y 12.0  z 40.5 mm"``.
        """
        found = self._find(world) if sides_known(self._viewer.layers) else None
        if found is None:
            return ""
        numbers = np.round(found[0], 1).tolist()
        if found[1]:
            names = [letters[mm < 0] for letters, mm in zip(LETTERS, numbers, strict=True)]
            numbers = np.abs(numbers).tolist()
        else:
            names = ["x", "y", "z"]
        parts = (f"{name} {mm:.1f}" for name, mm in zip(names, numbers, strict=True))
        return "  ".join(parts) + " mm"

    def close(self) -> None:
        """Stop watching the layers."""
        self._connections.close()
        self._watch.close()


def _to_scanner(layer: Image | Labels) -> tuple[np.ndarray, bool] | None:
    """The matrix (4, 4) from the last three axes of a layer to the scanner, and `NEAR_MIDDLE`."""
    data = LayerData.of(layer)
    shape = np.shape(data.data)[-3:]
    try:
        frame = np.broadcast_to(np.uint8(0), (1,) * (data.data.ndim - 3) + shape)  # of a film
        grid = layer_volume(LayerData(*spatial_part(frame, data.meta)))
    except AddmError:
        return None
    volume = grid.volume
    matrix = volume.affine if grid.in_layer_order else volume.source.affine
    across = matrix[0, :3] * np.array(shape)
    middle = matrix[0, 3] + across.sum() / 2
    return matrix, bool(abs(middle) <= NEAR_MIDDLE * np.abs(across).max())


class PointerPlace:
    """Says in the window's status bar where the mouse is in the scanner.

    Parameters
    ----------
    space : ScannerSpace
    section : QWidget
        Some widget of the window. Without a window, nobody shows `label`.

    Attributes
    ----------
    label : QLabel
    """

    def __init__(self, space: ScannerSpace, section: QWidget) -> None:
        self._space, self._section = space, section
        self._bar: QStatusBar | None = None
        self.label = QLabel()
        self.label.setToolTip(texts.POINTER.tip)

    def follow(self, model: napari.viewer.Viewer | ViewerModel) -> Callable[[], None]:
        """Follow the mouse on a canvas; returns what ends that."""
        connections = Connections()

        def moved(event: Any = None) -> None:
            flat = model.dims.ndisplay == 2
            words = self._space.in_words(model.cursor.position) if flat else ""
            self._say(texts.POINTER.label.format(words) if words else "")

        for event in (model.cursor.events.position, model.dims.events.ndisplay):
            connections.add(event, moved)
        return connections.close

    def _say(self, words: str) -> None:
        if self._bar is None:
            window = self._section.parentWidget()  # a panel has one once it is docked
            while window is not None and not isinstance(window, QMainWindow):
                window = window.parentWidget()
            self._bar = None if window is None else window.statusBar()
            if self._bar is not None:
                self._bar.addPermanentWidget(self.label)
        self.label.setText(words)

    def close(self) -> None:
        """Remove the words."""
        if self._bar is not None:
            self._bar.removeWidget(self.label)
        self.label.deleteLater()


class CrosshairPlace:
    """Says on the canvas where the crosshair is in the scanner.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    space : ScannerSpace
    """

    def __init__(self, viewer: napari.viewer.Viewer, space: ScannerSpace) -> None:
        self._viewer, self._space = viewer, space
        self._overlay = white_words(position="bottom_left", font_size=FONT_SIZE)
        viewer.canvas.overlays[POINTER] = self._overlay
        self._connections = Connections()
        for event in (
            viewer.dims.events.point,
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.canvas.events.size,
        ):
            self._connections.add(event, self._update)
        self._update()

    def _update(self, event: Any = None) -> None:
        words = self._space.in_words(self._viewer.dims.point)
        self._overlay.text = words
        room = self._viewer.canvas.size[1] / 2 - LETTER_PX
        self._overlay.visible = bool(words) and size_of_words(words, FONT_SIZE)[0] <= room

    def close(self) -> None:
        """Remove the words."""
        self._connections.close()
        self._viewer.canvas.overlays.pop(POINTER, None)
