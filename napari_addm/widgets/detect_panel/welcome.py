"""What the panel shows while no scan is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Layer
from napari.utils.history import get_open_history, update_open_history
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QLabel, QWidget

from napari_addm.io.names import readable_suffixes
from napari_addm.widgets import texts
from napari_addm.widgets.contributions import read_layer, read_series_layer, warn_of
from napari_addm.widgets.detect_panel.demo import show_demo
from napari_addm.widgets.detect_panel.series_dialog import SeriesDialog
from napari_addm.widgets.forms import PRIMARY, button, column
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layers import LayerTuple

if TYPE_CHECKING:
    import napari

    from napari_addm.io.dicom import Series


class Welcome(QWidget):
    """Ways to open a scan, or the demo case.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    demo_opened : Signal()
    begun : Signal()
        Something is about to be read.
    said : Signal(str)
        Words for the status line.
    failed : Signal(object)
        An exception, for the panel to show.
    scan_button, folder_button, demo_button : QPushButton
    series : SeriesDialog or None
        The last one, in which a person chooses among several series.
    """

    demo_opened = Signal()
    begun = Signal()
    said = Signal(str)
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self.series: SeriesDialog | None = None
        words = QLabel(texts.WELCOME)
        words.setWordWrap(True)
        self.scan_button = button(texts.OPEN_SCAN, self._on_scan)
        self.scan_button.setStyleSheet(PRIMARY)
        self.folder_button = button(texts.OPEN_DICOM, self._on_folder)
        self.demo_button = button(texts.OPEN_DEMO, self.open_demo)
        self._buttons = (self.scan_button, self.folder_button, self.demo_button)
        body = column(self)
        body.setSpacing(8)
        for widget in (words, *self._buttons):
            body.addWidget(widget)

    def open_demo(self) -> None:
        """Open the demo case at its lesion."""
        show_demo(self._viewer)
        self.demo_opened.emit()

    def open_files(self, paths: list[Path]) -> None:
        """Read scans in the background, and open them as layers."""
        update_open_history(str(paths[0]))
        self._read(texts.READING.format(paths[0].name), read_files, paths)

    def open_folder(self, folder: Path) -> None:
        """Look for DICOM series in the background; a person chooses among several."""
        update_open_history(str(folder / "series"))
        self._read(texts.LOOKING_FOR_SERIES.format(folder.name), look_for_series, folder)

    def open_series(self, series: Series) -> None:
        """Read a DICOM series in the background, and open it as a layer."""
        self._read(texts.READING.format(series.title), read_one_series, series)

    def _on_scan(self) -> None:
        endings = " ".join(f"*{ending}" for ending in (*readable_suffixes(), ".dcm"))
        names, _ = QFileDialog.getOpenFileNames(
            self,
            texts.OPEN_SCAN.label,
            get_open_history()[0],
            f"Scans ({endings});;All files (*)",
        )
        if names:
            self.open_files([Path(name) for name in names])

    def _on_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, texts.OPEN_DICOM.label, get_open_history()[0])
        if name:
            self.open_folder(Path(name))

    def _read(self, words: str, generate: Callable[..., Iterator[object]], what: object) -> None:
        for each in self._buttons:
            each.setEnabled(False)
        self.begun.emit()
        self.said.emit(words)
        self._start(
            words,
            generate,
            what,
            yielded=self._on_read,
            errored=self._on_failed,
            finished=self._on_finished,
        )

    def _on_read(self, item: Opened | Found) -> None:
        if isinstance(item, Opened):
            data, arguments, kind = item.layer
            self._viewer.add_layer(Layer.create(data, arguments, kind))
            warn_of(item.layer, item.warnings)
        else:
            self.series = SeriesDialog(item.folder.name, item.series, self.window())
            self.series.chosen.connect(self.open_series)
            self.series.open()

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(error)

    def _on_finished(self) -> None:
        self.said.emit("")
        for each in self._buttons:
            each.setEnabled(True)


# --- in another thread ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Opened:
    """A scan as a layer, and the warnings of its file."""

    layer: LayerTuple
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """Several series of a folder."""

    folder: Path
    series: list[Series]


def read_files(paths: list[Path]) -> Iterator[Opened]:
    """Read files as layers; a DICOM image stands for its series."""
    from napari_addm.io.dicom import series_at
    from napari_addm.io.dicom_header import is_dicom

    for path in paths:
        yield Opened(*(read_series_layer(series_at(path)) if is_dicom(path) else read_layer(path)))


def look_for_series(folder: Path) -> Iterator[Opened | Found]:
    """Read the only series of a folder; else list them."""
    from napari_addm.io.dicom import find_series

    series = find_series(folder)
    if len(series) > 1:
        yield Found(folder, series)
    else:
        yield Opened(*read_series_layer(replace(series[0], why="the only series")))


def read_one_series(series: Series) -> Iterator[Opened]:
    """Read the series that a person chose."""
    yield Opened(*read_series_layer(replace(series, why="chosen in the list of series")))
