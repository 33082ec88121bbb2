"""The cases of a cohort in the viewer, one at a time, with their findings to decide on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.case_layers import CaseView, bring_up, close_case, show_case
from napari_addm.widgets.cohort_panel.cases import Arrangement
from napari_addm.widgets.cohort_panel.controller import CohortController
from napari_addm.widgets.cohort_panel.review import CaseReview, next_to_review, step_case
from napari_addm.widgets.cohort_panel.review_section import ReviewSection
from napari_addm.widgets.cohort_panel.saved_case import CaseVersion, SavedCase
from napari_addm.widgets.cohort_panel.state import CaseNotOpened
from napari_addm.widgets.cohort_panel.table import CasesTable
from napari_addm.widgets.cohort_panel.work import open_case
from napari_addm.widgets.forms import in_turns, single_shot
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.status_bar import Notices
from napari_addm.widgets.viewing.canvas_mouse import on_clicks
from napari_addm.widgets.viewing.connections import Connections
from napari_addm.widgets.viewing.shortcuts import Shortcuts

if TYPE_CHECKING:
    import napari


class Worklist(QObject):
    """Opens cases, and shows which finding of the open one is decided on.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controller : CohortController
    table : CasesTable
    notices : Notices
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.
    parent : QObject

    Attributes
    ----------
    section : ReviewSection
    opened : Signal(str)
        The case of this name is in view, with findings to decide on.
    """

    opened = Signal(str)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        controller: CohortController,
        table: CasesTable,
        notices: Notices,
        start: Callable[..., Job],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._controller = viewer, controller
        self._table, self._notices = table, notices
        self._start = start
        self._job: Job | None = None
        self._version: CaseVersion | None = None  # of the case that was brought up
        self._view: CaseView | None = None
        self._left: CaseView | None = None  # closed once the next case is there
        self._order: tuple[Arrangement, list[str]] = (table.model.arrangement, [])
        self._connections = Connections()
        self._changed = single_shot(self, 0, self._show_view)
        self.section = ReviewSection(start, self.step)
        self._keys = Shortcuts(viewer, self.section, self.section.on_keys, self._may_act)
        self._forget_clicks = on_clicks(viewer, self._findings_layer, self._on_click)
        self.section.picked.connect(self._on_picked)
        self.section.table.selected.connect(self._show_view)
        self.section.decided.connect(self._show_view)
        self.section.saved.connect(self._on_saved)
        self.section.failed.connect(notices.show_error)
        controller.changed.connect(self._show_ways)
        controller.rows_replaced.connect(self._on_rows_replaced)
        controller.rows_settled.connect(self._on_rows_settled)
        table.opened.connect(self.open)
        self._show_ways()

    def close(self) -> None:
        """Let go of the viewer."""
        self._connections.close()
        self._forget_clicks()

    # --- from case to case -----------------------------------------------------------------------

    def open(self, name: str) -> None:
        """Show a case with its results and its decisions, read in the background."""
        self._left = None
        self._note_order()
        self._open(name)

    def step(self, by: int) -> None:
        """Go to the next (1) or the previous (-1) finished case, or to the next to review (0).

        The layers of the case that is left are closed, so that a long list needs no more memory
        than a short one.
        """
        rows, shown = self._controller.rows, self._names
        name = step_case(shown, rows, self._current, by)
        if not by:
            name = next_to_review(shown, rows, self._current)
        if name is None:
            self._controller.say(texts.NO_MORE_CASES[by])
        else:
            self._left = self._view
            if self._order[0] != self._table.model.arrangement:
                self._note_order()
            self._open(name)

    @property
    def _names(self) -> list[str]:
        """The cases that are shown, in the order that they had when the open one was opened.

        A decision may move the open case to the end of the table, or out of it.
        """
        model, current = self._table.model, self._current
        arrangement, names = self._order
        if arrangement != model.arrangement or current not in names:
            return model.names
        shown = dict.fromkeys(model.names)
        kept = [name for name in names if name in shown or name == current]
        return list(dict.fromkeys((*kept, *shown)))  # a run may have finished others since

    def _note_order(self) -> None:
        self._order = self._table.model.arrangement, list(self._table.model.names)

    @property
    def _current(self) -> str | None:
        """The case to go on from: the one that is being opened, is open, or is selected."""
        opened = None if self._view is None else self._view.version.case
        return self._controller.opening or opened or self._table.selected

    def _open(self, name: str) -> None:
        wanted = self._controller.start_opening(name)
        if wanted is None:
            return
        if self._job is not None:
            self._job.quit()
        self._version = None
        self._notices.forget_error()
        self._job = self._start(
            f"Open {name}",
            open_case,
            *wanted,
            yielded=self._on_case,
            errored=self._notices.show_error,
        )

    def _on_case(self, item: CaseVersion | CaseReview | SavedCase | CaseNotOpened) -> None:
        if _name_of(item) != self._controller.opening:
            return  # a person has chosen another case
        match item:
            case CaseNotOpened():
                self._controller.fail_opening(item.error)
            case CaseVersion():
                if self._version is None and bring_up(self._viewer, item):
                    self._version = item
            case CaseReview():
                if self._version is not None:
                    assert self._job is not None
                    self._job.quit()
                    self._finish(self._version, item)
            case SavedCase():
                in_turns(self, self._show(item))

    def _show(self, saved: SavedCase) -> Iterator[None]:
        """Add the layers of a case, one per step, unless a person chooses another meanwhile."""
        job, name = self._job, saved.version.case
        # They cover what is decided on.
        self._connections.close()
        self.section.table.setEnabled(False)
        self.section.seen_button.setEnabled(False)
        for _ in show_case(self._viewer, saved):
            yield
            if self._job is not job or self._controller.opening != name:
                close_case(self._viewer, saved.version)
                return
        self._finish(saved.version, saved.review, saved.notes)

    def _finish(
        self, version: CaseVersion, review: CaseReview | None, notes: tuple[str, ...] = ()
    ) -> None:
        """Show the findings of a case whose layers are there."""
        left, self._left = self._left, None
        self._connections.close()
        self.section.show_review(review)
        review = self.section.reviews.current
        self._view = None if review is None else CaseView(self._viewer, version, review)
        if left is not None and left.version != version:
            in_turns(self, left.close())
        self._controller.finish_opening(version.case, notes)
        if self._view is None:
            return
        self._table.show_opened(version.case)
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, self._viewer.layers.selection.events.active):
            self._connections.add(event, self._on_layers)
        if (scan := self._view.scan_layer) is not None:
            self._connections.add(scan.events.visible, self._on_layers)
        self._show_view()
        self.opened.emit(version.case)
        self.section.table.view.setFocus()

    # --- the case that is open -------------------------------------------------------------------

    def _on_picked(self, id: int) -> None:
        if self._view is not None:
            self._view.go_to(id)
            self._show_view()

    def _findings_layer(self) -> Layer | None:
        """The outlines that a click may be meant for."""
        view = self._view
        may = view is not None and self.section.table.isEnabled() and not view.has_other_outlines
        return view.findings_layer if view is not None and may else None

    def _on_click(self, id: int) -> None:
        self.section.table.select(id)

    def _may_act(self, action: str) -> bool:
        """Whether keys are about the findings here."""
        return self._view is not None and self.section.table.isEnabled()

    def _on_layers(self, event: Any = None) -> None:
        self._changed.start()

    def _show_view(self) -> None:
        """Color the findings as they are decided, and say when they are not what is on screen."""
        view = self._view
        if view is None:
            return
        words = texts.OTHER_OUTLINES if view.has_other_outlines else ""
        if not view.is_in_view:
            words = texts.NOT_IN_VIEW.format(view.version.case)
        self.section.warn(words)
        self.section.table.setEnabled(view.is_in_view)
        self.section.seen_button.setEnabled(view.is_in_view)
        view.color_findings()

    def _on_saved(self, review: CaseReview) -> None:
        search = self._controller.search
        if search is not None and Path(search.output) == review.output:
            self._controller.take_decisions(review.opened)

    def _on_rows_replaced(self) -> None:
        """End the review when cases of another folder are listed, which may have the same names."""
        self._note_order()
        search, review = self._controller.search, self.section.reviews.current
        if review is not None and (search is None or Path(search.output) != review.output):
            self._connections.close()
            self._view = self._left = None
            self.section.show_review(None)

    def _on_rows_settled(self) -> None:
        """Mark the open case again when the same cases were listed anew."""
        name = None if self._view is None else self._view.version.case
        if name in self._controller.rows and self._table.opened_case is None:
            self._table.show_opened(name)

    def _show_ways(self) -> None:
        self.section.allow(any(row.finished for row in self._controller.rows.values()))


def _name_of(item: CaseVersion | CaseReview | SavedCase | CaseNotOpened) -> str:
    match item:
        case SavedCase():
            return item.version.case
        case CaseReview():
            return item.case.name
        case _:
            return item.case
