"""From the end of a run to its first finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QScrollArea

from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.forms import Section, single_shot

if TYPE_CHECKING:
    import napari


class LeadToResult(QObject):
    """Brings the findings of a run into view, and goes to the largest one.

    A person who has gone elsewhere during the run stays there. The model is folded once: a person
    who unfolds it during a run, or after it was folded here, keeps it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controller : DetectController
    table : FindingsTable
    model, findings : Section
    scroll_area : QScrollArea
        Holds the sections.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        controller: DetectController,
        table: FindingsTable,
        model: Section,
        findings: Section,
        scroll_area: QScrollArea,
    ) -> None:
        super().__init__(scroll_area)
        self._viewer = viewer
        self._controller = controller
        self._table = table
        self._model = model
        self._findings = findings
        self._scroll_area = scroll_area
        self._began_at: tuple[object, ...] | None = None
        self._folded = self._keep_model = False
        self._scroll_soon = single_shot(self, 0, self._scroll)
        model.folded.connect(self._on_model_folded)
        controller.done.connect(self._on_done)

    def begin(self) -> None:
        """A person pressed Run: what they look at then is where they are."""
        self._began_at = self._place()

    def _place(self) -> tuple[object, ...]:
        """What a person looks at: the scan, the slice and the plane."""
        dims = self._viewer.dims
        point = tuple(np.round(dims.point, 3).tolist())
        return self._controller.scan_id, point, dims.order, dims.ndisplay

    def _on_model_folded(self) -> None:
        if self._model.expanded and (self._folded or self._controller.running):
            self._keep_model = True

    def _on_done(self, outcome: Outcome, took: str) -> None:
        began_at, self._began_at = self._began_at, None
        if began_at is None or outcome is not self._controller.outcome:
            return
        if self._model.expanded and not self._keep_model:
            self._model.expand(False)
            self._folded = True
        if self._findings.expanded:
            self._scroll_soon.start()  # Qt lays out first what is folded or shown now
        if self._place() == began_at and outcome.findings.selected is None:
            self._go_to_largest(outcome)

    def _scroll(self) -> None:
        """Show all of the findings, or the table where that is too much."""
        area, viewport = self._scroll_area, self._scroll_area.viewport()
        assert viewport is not None
        fits = self._findings.height() <= viewport.height()
        area.ensureWidgetVisible(self._findings if fits else self._table, 0, 0)

    def _go_to_largest(self, outcome: Outcome) -> None:
        marked = outcome.marked
        if marked is None:
            return
        findings = marked.findings
        open_ones = ~np.isin(findings.id, list(outcome.findings.rejected))
        if open_ones.any():
            largest = np.where(open_ones, findings.volume_ml, -1.0).argmax()
            self._table.pick(int(findings.id[largest]))
