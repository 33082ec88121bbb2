"""A small curve over all thresholds, on which the current one is marked."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QFont, QWheelEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

# isort: split
# After qtpy: it takes the Qt binding that is loaded already.
import pyqtgraph as pg

HEIGHT = 190
FONT_POINTS = 8
MARKER_COLOR = "#e8871e"  # to be seen on dark and on light alike
CURVE_COLORS = {"dark": "#8ab8e6", "light": "#2d6ea8"}
AXIS_NAMES = ("left", "bottom")
SHARES = [[(share, f"{share:g}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]]
POWERS = [[(power, f"{10.0**power:g}") for power in range(-3, 5)]]


class CurvePlot(pg.PlotWidget):
    """One curve, with axes, a marker, and thresholds that can be chosen on it.

    A click chooses the threshold of the nearest point. Nothing zooms or pans,
    so that the wheel scrolls the panel.

    Parameters
    ----------
    x_label, y_label : str
        Names of the axes.
    along_threshold : bool
        Whether the x axis is the threshold itself: then it is marked with a
        line, too, which can be dragged.
    parent : QWidget, optional
    """

    chosen = Signal(float)

    def __init__(
        self,
        x_label: str,
        y_label: str,
        *,
        along_threshold: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._labels = {"bottom": x_label, "left": y_label}
        self._x = self._y = self._threshold = np.zeros(0)
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(120)
        self.setFrameShape(self.Shape.NoFrame)
        plot = self.getPlotItem()
        plot.setMenuEnabled(False)
        plot.setMouseEnabled(False, False)
        plot.hideButtons()
        plot.showGrid(x=True, y=True, alpha=0.15)
        plot.setContentsMargins(0, 4, 8, 0)
        font = QFont(self.font())
        font.setPointSize(FONT_POINTS)
        for name in AXIS_NAMES:
            axis = plot.getAxis(name)
            axis.enableAutoSIPrefix(False)
            axis.setStyle(tickFont=font, tickLength=-4, maxTickLevel=0)
        self._curve = plot.plot([], [], antialias=True)
        self._dot = plot.plot([], [], pen=None, symbol="o", symbolSize=9, antialias=True)
        self._line: pg.InfiniteLine | None = None
        if along_threshold:
            self._line = pg.InfiniteLine(angle=90, movable=True)
            self._line.sigDragged.connect(lambda line: self._choose(line.value()))
            plot.addItem(self._line)
        self.scene().sigMouseClicked.connect(self._on_click)
        self.set_theme("dark")

    def set_theme(self, theme_name: str) -> None:
        """Take on the colors of one of napari's themes."""
        theme = get_theme(theme_name)
        text = theme.text.as_hex()
        self.setBackground(theme.background.as_hex())
        curve = CURVE_COLORS[theme.type]
        self._curve.setPen(pg.mkPen(curve, width=2))
        self._dot.setSymbolBrush(MARKER_COLOR)
        self._dot.setSymbolPen(theme.background.as_hex())
        if self._line is not None:
            self._line.setPen(pg.mkPen(MARKER_COLOR, width=1))
            self._line.setHoverPen(pg.mkPen(MARKER_COLOR, width=3))
        for name in AXIS_NAMES:
            axis = self.getPlotItem().getAxis(name)
            axis.setPen(theme.secondary.as_hex())
            axis.setTextPen(text)
            axis.setLabel(self._labels[name], color=text, **{"font-size": f"{FONT_POINTS}pt"})

    def relabel(self, y_label: str, *, logarithmic: bool = False) -> None:
        """Give the y axis another name and scale."""
        self._labels["left"] = y_label
        axis = self.getPlotItem().getAxis("left")
        axis.setLabel(y_label, **axis.labelStyle)
        self.getPlotItem().setLogMode(False, logarithmic)

    def draw(
        self,
        x: np.ndarray,
        y: np.ndarray,
        threshold: np.ndarray,
        y_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Draw a curve; points that are not defined (NaN) are left out.

        Parameters
        ----------
        x, y, threshold : ndarray, (n,)
        y_range : tuple of float
            What the y axis shows; the powers of ten on a logarithmic one.
        """
        defined = np.isfinite(x) & np.isfinite(y)
        self._x, self._y, self._threshold = x[defined], y[defined], threshold[defined]
        self._curve.setData(self._x, self._y)
        self.mark(np.nan, np.nan)
        axes = self.getPlotItem()
        axes.getAxis("left").setTicks(POWERS if axes.getAxis("left").logMode else SHARES)
        if self._line is None:
            axes.getAxis("bottom").setTicks(SHARES)
            self.setXRange(0.0, 1.0, padding=0.03)
        elif self._x.size:
            low, high = max(float(self._x[0]), 0.0), float(self._x[-1])
            self._line.setBounds((float(self._x[0]), high))
            self.setXRange(low, max(high, low + 1e-6), padding=0.03)
        # room for the numbers at both ends, which are left out where they do not fit
        self.setYRange(*y_range, padding=0.06)

    def mark(self, x: float, y: float) -> None:
        """Move the marker; it is not shown where a coordinate is NaN."""
        shown = bool(np.isfinite(x) and np.isfinite(y))
        self._dot.setData([x] if shown else [], [y] if shown else [])
        if self._line is not None and np.isfinite(x):
            self._line.setValue(x)

    @property
    def marked(self) -> tuple[float, float] | None:
        """Where the marker is, in the units of the axes."""
        x, y = self._dot.getOriginalDataset()
        return None if x is None or not len(x) else (float(x[0]), float(y[0]))

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The curve's points as they are drawn."""
        return self._x, self._y

    def choose_at(self, x: float, y: float) -> None:
        """Choose the threshold of a place, in the units of the axes, as a click there does."""
        if self._line is not None:
            self._choose(x)
        elif self._x.size:
            nearest = np.argmin((self._x - x) ** 2 + (self._y - y) ** 2)
            self._choose(float(self._threshold[nearest]))

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Leave the wheel to the panel that this lies in."""
        if event is not None:
            event.ignore()

    def _choose(self, threshold: float) -> None:
        if self._threshold.size:
            self.chosen.emit(float(np.clip(threshold, self._threshold[0], self._threshold[-1])))

    def _on_click(self, event: Any) -> None:
        view = self.getPlotItem().getViewBox()
        if event.button() == Qt.MouseButton.LeftButton and view.sceneBoundingRect().contains(
            event.scenePos()
        ):
            place = view.mapSceneToView(event.scenePos())
            self.choose_at(place.x(), place.y())
