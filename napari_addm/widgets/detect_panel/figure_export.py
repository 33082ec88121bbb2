"""Export of a figure of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QHBoxLayout, QWidget

from napari_addm.io.remarks import in_alarm
from napari_addm.io.volume import GRID_OF_LAYER
from napari_addm.outputs.captions import caption_lines
from napari_addm.outputs.drawing import CUTS, Overlay, Plane, slices_through, write_png
from napari_addm.outputs.figure import figure
from napari_addm.review.marking import measure_labels
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.forms import button, column, may_replace, message, say
from napari_addm.widgets.jobs import Job

if TYPE_CHECKING:
    import napari

PLANE_ACROSS: dict[int, Plane] = {axis: plane for plane, axis in CUTS.items()}


class FigureExport(QWidget):
    """Write a figure of the last result, in the background.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    failed : Signal(object)
        An exception, for the panel to show.
    outcome : Outcome or None
        Shown in the figure; the panel sets it.
    """

    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, start: Callable[..., Job]) -> None:
        super().__init__()
        self._viewer = viewer
        self._start = start
        self.outcome: Outcome | None = None
        self.scope = QComboBox()
        for words, count in texts.FIGURE_SCOPES.items():
            self.scope.addItem(words, count)
        self.scope.setToolTip(texts.FIGURE.tip)
        self.named = QCheckBox(texts.FIGURE_NAMED.label)
        self.named.setToolTip(texts.FIGURE_NAMED.tip)
        self.button = button(texts.FIGURE, self._on_button)
        fields = QHBoxLayout()
        for field in (self.scope, self.named, self.button):
            fields.addWidget(field)
        self.note = message()
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.note)

    def _on_button(self) -> None:
        if self._refused(self.outcome):
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

    def _refused(self, outcome: Outcome | None) -> bool:
        """Say why there is nothing to draw."""
        words = ""
        if outcome is None or outcome.detection is None or outcome.marked is None:
            words = texts.NO_FIGURE
        elif outcome.misfit:  # the scale bar would show the old voxel size
            words = outcome.misfit
        say(self.note, words)
        return bool(words)

    def export(self, path: Path) -> None:
        """Write a figure of the last result, in the background.

        Parameters
        ----------
        path : Path
            The ``.png``; replaced if it is there.
        """
        outcome = self.outcome
        if self._refused(outcome):
            return
        assert outcome is not None
        assert outcome.detection is not None
        assert outcome.marked is not None
        count = self.scope.currentData()
        plane: Plane = "Axial"
        index: int | None = None
        if count == 1:
            shown = self.slice_shown(outcome)
            if shown is None:
                say(self.note, texts.NO_SLICE)
                return
            plane, index = shown
        labels, shown_map = outcome.layers.labels(), outcome.layers.layer("anomaly")
        say(self.note, "Drawing the figure ...")
        self._start(
            "Draw a figure",
            _draw,
            path,
            outcome,
            Overlay(
                outcome.detection.highest,
                outcome.marked.labels if labels is None else labels.copy(),
                outcome.marked.threshold,
                dict(outcome.decisions),
                None if outcome.agreement is None else outcome.agreement.truth,
                None if shown_map is None else tuple(shown_map.contrast_limits),
                in_alarm(outcome.remarks),
            ),
            plane,
            index,
            count,
            self.named.isChecked(),
            yielded=self._on_drawn,
            errored=self._on_failed,
        )

    def slice_shown(self, outcome: Outcome) -> tuple[Plane, int] | None:
        """Plane and slice of the outcome's volume that the viewer is at, if its layers tell."""
        dims = self._viewer.dims
        if dims.ndim < 3:
            return None
        axis = dims.not_displayed[-1] - (dims.ndim - 3) if dims.ndisplay == 2 else 0
        found = outcome.layers.slice_at(axis)
        return None if found is None else (PLANE_ACROSS[found[0]], found[1])

    def _on_drawn(self, path: Path) -> None:
        say(self.note, f"Saved as {path.name}")

    def _on_failed(self, error: Exception) -> None:
        say(self.note, "")
        self.failed.emit(error)


def _draw(
    path: Path,
    outcome: Outcome,
    overlay: Overlay,
    plane: Plane,
    index: int | None,
    count: int,
    named: bool,
) -> Iterator[Path]:
    """Draw and write the figure; a generator for a job."""
    detection, marked, scan = outcome.detection, outcome.marked, outcome.scan
    assert detection is not None
    assert marked is not None
    slices = slices_through(scan, overlay.shown, count, plane) if index is None else [index]
    # a person may have drawn on them
    findings = measure_labels(
        detection, overlay.labels, marked.threshold, marked.minimum_ml
    ).findings
    caption = caption_lines(
        detection,
        outcome.checkpoint.sha256,
        marked.threshold,
        outcome.name if named else None,
        findings=findings,
        decisions=overlay.decisions,
    )
    notes = tuple(note for note in scan.warnings if note == GRID_OF_LAYER)
    picture = figure(scan, overlay, slices, plane, (*caption, *notes), detection.midline)
    yield write_png(path, picture)
