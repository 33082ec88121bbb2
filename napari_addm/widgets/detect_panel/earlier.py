"""Section 'Earlier scan': what changed since an earlier result of the same patient."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari.layers import Image
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_addm.errors import InputError
from napari_addm.io.remarks import Remark
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.changes_table import ChangesTable
from napari_addm.widgets.detect_panel.comparing import map_curtain
from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.detect_panel.messages import Remarks
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.detect_panel.two_dates import (
    STEPS,
    Compared,
    EarlierResult,
    Step,
    compare,
    describe_comparison,
)
from napari_addm.widgets.forms import (
    ProgressLine,
    button,
    column,
    message,
    say,
    single_shot,
    toggle,
    when_gone,
)
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.viewing.blink import Blink
from napari_addm.widgets.viewing.connections import unwrapped

if TYPE_CHECKING:
    import napari

# Threshold and decisions have to rest for so long before the findings are matched again.
REST_MS = 400
WORDS = ("this scan", "earlier scan")


class EarlierScan(QWidget):
    """Compare the result that is shown with an earlier one; it need not be saved.

    Each outcome has a comparison of its own, which follows its threshold and decisions.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    controller : DetectController
    start : callable
        Starts a job as `napari_addm.widgets.jobs.start_job` does.

    Attributes
    ----------
    begun : Signal()
        An earlier result is about to be read.
    said : Signal(str)
        Words for the status line.
    failed : Signal(object)
        An exception, for the panel to show.
    finding_picked : Signal(int)
        A person went to a finding that this scan has.
    page_asked : Signal(object)
        A page of a `TwoDates` is wanted.
    viewing : Signal()
        The earlier scan is about to be shown in place of this one.
    table : ChangesTable
    record_button, folder_button, scan_button, cancel_button, show_button, blink_button
        QPushButton.
    page_button : QPushButton
    chosen : QLabel
    cautions : Remarks
    curtain : Curtain
        Hides maps while the earlier scan is shown.
    """

    begun = Signal()
    said = Signal(str)
    failed = Signal(object)
    finding_picked = Signal(int)
    page_asked = Signal(object)
    viewing = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        controller: DetectController,
        start: Callable[..., Job],
    ) -> None:
        super().__init__()
        self._controller, self._start = controller, start
        self._kept: WeakKeyDictionary[Outcome, Compared] = WeakKeyDictionary()
        self._asked: EarlierResult | None = None  # what was asked for last
        self._next: EarlierResult | None = None  # what waits for the end of the job
        self._job: Job | None = None
        self._again = single_shot(self, REST_MS, self._match_again)
        self._blink = Blink(viewer, lambda _: find_earlier(controller), WORDS)
        self.curtain = map_curtain(viewer)
        self._build()
        controller.changed.connect(self.follow)
        controller.review_changed.connect(self.follow)
        when_gone(self, self._blink.stop)
        when_gone(self, partial(self.curtain.draw, False))
        self.follow()

    def _build(self) -> None:
        self.record_button = button(texts.EARLIER_RECORD, self._on_record)
        self.folder_button = button(texts.EARLIER_FOLDER, self._on_folder)
        self.scan_button = button(texts.EARLIER_SCAN, self._on_scan)
        self.cancel_button = button(texts.EARLIER_CANCEL, self.cancel)
        self.show_button = toggle(texts.EARLIER_SHOW, self._on_show)
        self.blink_button = toggle(texts.EARLIER_BLINK, self._on_blink)
        self.page_button = button(texts.EARLIER_PAGE, self._on_page)
        self.chosen, self.cautions = message(), Remarks()
        self.progress = ProgressLine()
        policy = self.progress.sizePolicy()
        policy.setRetainSizeWhenHidden(False)
        self.progress.setSizePolicy(policy)
        self.table = ChangesTable()
        self.table.picked.connect(self._on_picked)
        choice, views = QHBoxLayout(), QHBoxLayout()
        for part in (self.record_button, self.folder_button, self.scan_button, self.cancel_button):
            choice.addWidget(part)
        for part in (self.show_button, self.blink_button, self.page_button):
            views.addWidget(part)
        body = column(self)
        body.addWidget(self.chosen)
        body.addLayout(choice)
        body.addWidget(self.progress)
        body.addWidget(self.cautions)
        body.addWidget(self.table)
        body.addLayout(views)
        self.scan_button.hide()

    # --- what is compared ------------------------------------------------------------------------

    def _on_record(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Compare with which earlier result?", "", "Run records (*_record.json)"
        )
        if name:
            self.compare(Path(name))

    def _on_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Where is the earlier result?")
        if name:
            self.compare(Path(name))

    def _on_scan(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Where is the earlier scan?")
        if name and self._asked is not None:
            self.compare(self._asked.record, Path(name))

    def compare(self, record: Path, scan: Path | None = None) -> None:
        """Compare the outcome that is shown with an earlier one, in the background.

        Parameters
        ----------
        record : Path
            The earlier run record, or the folder that holds it.
        scan : Path, optional
            The earlier scan, if it is not beside its record.
        """
        outcome = self._controller.outcome
        if outcome is None or self._controller.why_not_save:
            self.failed.emit(InputError(self._controller.why_not_save or texts.NO_RESULT))
            return
        self._begin(EarlierResult(outcome, record, scan))

    def _begin(self, asked: EarlierResult) -> None:
        if self._job is not None:
            self._next = asked
            self._job.quit()
            return
        if asked.found is None:
            self.begun.emit()
        outcome = asked.outcome
        labels = outcome.layers.labels()
        self._asked = asked
        self._job = self._start(
            "Compare with an earlier scan",
            compare,
            asked,
            replace(outcome, findings=copy(outcome.findings)),  # as they are now
            None if labels is None else labels.copy(),
            yielded=self._on_yielded,
            errored=self._on_error,
            finished=self._on_finished,
        )
        self.follow()

    def cancel(self) -> None:
        """Stop a comparison after its present step."""
        if self._job is not None:
            self._job.quit()
            self.follow()
            self.said.emit(texts.CANCELLING)

    def _match_again(self) -> None:
        """Match what the outcome has found meanwhile; the registration holds."""
        compared = self.compared
        if compared is not None and not self._controller.why_not_save and self._job is None:
            self._begin(replace(compared.asked, found=compared.found))

    # --- the job ---------------------------------------------------------------------------------

    def _on_yielded(self, item: Step | Compared) -> None:
        if self._cancelled:
            return
        if isinstance(item, Step):
            if self._first:
                self.progress.tell(item.done, STEPS)
                self.said.emit(item.words)
            return
        outcome = item.asked.outcome
        self.scan_button.hide()
        self._kept[outcome] = item
        if item.moved:
            outcome.layers.show_earlier(item.moved["scan"].data, item.moved["labels"].data)
            item.moved.clear()
        elif item.found.changes is None:
            outcome.layers.hide_earlier()

    def _on_error(self, error: Exception) -> None:
        if self._asked is not None and self._asked.found is not None:
            self._kept.pop(self._asked.outcome, None)  # what it shows does not hold
        self.scan_button.setVisible(texts.EARLIER_SCAN.label in str(error))
        self.failed.emit(error)

    def _on_finished(self) -> None:
        if self._first:
            self.said.emit("")
        self._job, asked, self._next = None, self._next, None
        if asked is not None:
            self._begin(asked)
        self.follow()

    @property
    def _cancelled(self) -> bool:
        """Whether what comes from the job is wanted no more."""
        return self._job is not None and self._job.abort_requested

    @property
    def _first(self) -> bool:
        """Whether an earlier result is read, and not matched again."""
        return self._job is not None and self._asked is not None and self._asked.found is None

    # --- what is shown ---------------------------------------------------------------------------

    @property
    def compared(self) -> Compared | None:
        """The comparison of the outcome that is shown."""
        outcome = self._controller.outcome
        return None if outcome is None else self._kept.get(outcome)

    def follow(self) -> None:
        """Show the comparison of the outcome that is shown, and what may be pressed."""
        compared, why_not = self.compared, self._controller.why_not_save
        found = None if compared is None else compared.found
        matched = found is not None and found.changes is not None
        for made in (self.record_button, self.folder_button, self.scan_button):
            made.setEnabled(not why_not and not self._first)
        self.cancel_button.setVisible(self._first)
        self.cancel_button.setEnabled(not self._cancelled)
        self.progress.setVisible(self._first)
        self.table.setVisible(matched)
        for made in (self.show_button, self.blink_button, self.page_button):
            made.setVisible(matched)
        self.page_button.setEnabled(not why_not)
        say(self.chosen, texts.EARLIER_HINT if found is None else describe_comparison(found))
        self.cautions.show_remarks([] if found is None else list(map(Remark, found.cautions)))
        if find_earlier(self._controller) is None:
            self.stop_viewing()
        if compared is not None:
            self.table.show_changes(compared.found)
            self.table.setEnabled(compared.holds)
            if not compared.holds:
                self._again.start()

    def _on_show(self, on: bool) -> None:
        self._compare_views(on, self.show_button, self.blink_button, self._blink.hold)

    def _on_blink(self, on: bool) -> None:
        self._compare_views(on, self.blink_button, self.show_button, self._blink.start)

    def _compare_views(
        self, on: bool, pressed: QPushButton, other: QPushButton, start: Callable[[], bool]
    ) -> None:
        """Show the earlier scan in place of this one, or stop."""
        if not on:
            self._blink.stop()
            self.curtain.draw(False)
            return
        other.setChecked(False)
        self.viewing.emit()
        if not start():
            pressed.setChecked(False)
            self.said.emit(texts.EARLIER_CLOSED)
        self.curtain.draw(self._blink.shows)

    def stop_viewing(self) -> None:
        """Show this scan again."""
        for pressed in (self.show_button, self.blink_button):
            pressed.setChecked(False)

    def _on_picked(self, row: int) -> None:
        compared, outcome = self.compared, self._controller.outcome
        if compared is None or outcome is None or not compared.found.changes:
            return
        change, place = compared.found.changes[row], compared.places[row]
        if change.after:
            self.finding_picked.emit(change.after[0])
        elif place is None:
            self.said.emit(texts.EARLIER_NOWHERE)
        else:
            outcome.layers.go_to(place)

    def _on_page(self) -> None:
        if self.compared is not None:
            self.page_asked.emit(self.compared.found)


def find_earlier(controller: DetectController) -> tuple[Image, Image] | None:
    """Find the scan of the outcome that is shown, and the earlier one over it."""
    outcome = controller.outcome
    if outcome is None:
        return None
    scan = unwrapped(outcome.layers.scan_layer)
    earlier = unwrapped(outcome.layers.layer("earlier"))
    return (scan, earlier) if isinstance(scan, Image) and isinstance(earlier, Image) else None
