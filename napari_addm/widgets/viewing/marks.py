"""What is written and drawn on all canvases of a viewer, over its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

from napari_addm.widgets.viewing.finding_numbers import FindingNumbers
from napari_addm.widgets.viewing.measuring import DrawnLines, MeasuredLines, Ruler
from napari_addm.widgets.viewing.scanner import PointerPlace, ScannerSpace
from napari_addm.widgets.viewing.words import DIAMETERS, RULER, CanvasWords

if TYPE_CHECKING:
    import napari
    from napari.components import ViewerModel


class Marks:
    """Numbers of findings, diameters, a ruler, and the place of the mouse in the scanner.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    section : QWidget
        A part of the panel.

    Attributes
    ----------
    space : ScannerSpace
    pointer : PointerPlace
    diameters : MeasuredLines
        Of the selected finding.
    ruler : Ruler
    """

    def __init__(self, viewer: napari.viewer.Viewer, section: QWidget) -> None:
        self._viewer = viewer
        self.space = ScannerSpace(viewer)
        self.pointer = PointerPlace(self.space, section)
        self.diameters = MeasuredLines()
        self.ruler = Ruler(self.space)
        self._undo = self.attach(viewer)

    def attach(self, model: napari.viewer.Viewer | ViewerModel) -> Callable[[], None]:
        """Mark a canvas; returns what ends that."""
        words = CanvasWords(model)
        undo = (
            FindingNumbers(self._viewer, model, words).close,
            DrawnLines(self.diameters, model, words, DIAMETERS).close,
            DrawnLines(self.ruler.lines, model, words, RULER).close,
            words.close,
            self.ruler.attach(model),
            self.pointer.follow(model),
        )

        def close() -> None:
            for each in undo:
                each()

        return close

    def close(self) -> None:
        """Give the viewer back as it was."""
        self._undo()
        self.pointer.close()
        self.space.close()
