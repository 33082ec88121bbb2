"""The dock widget 'Detect anomalies': its sections, bound to the controller."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_addm.widgets import preferences, texts
from napari_addm.widgets.detect_panel.calibrating import Calibrating
from napari_addm.widgets.detect_panel.controller import DetectController
from napari_addm.widgets.detect_panel.earlier import EarlierScan
from napari_addm.widgets.detect_panel.finding_clicks import bind_mouse
from napari_addm.widgets.detect_panel.findings import FindingsSection
from napari_addm.widgets.detect_panel.findings_table import FindingsTable
from napari_addm.widgets.detect_panel.folds import Folds
from napari_addm.widgets.detect_panel.lead import LeadToResult
from napari_addm.widgets.detect_panel.messages import Remarks
from napari_addm.widgets.detect_panel.run_buttons import RunButtons
from napari_addm.widgets.detect_panel.runner import Runner
from napari_addm.widgets.detect_panel.save import Saving
from napari_addm.widgets.detect_panel.scan import ScanInputs
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.detect_panel.truth import TruthAgreement
from napari_addm.widgets.detect_panel.view import Views
from napari_addm.widgets.detect_panel.viewer_layers import ViewerLayers
from napari_addm.widgets.detect_panel.welcome import Welcome
from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.forms import (
    Column,
    Panel,
    Section,
    column,
    lay_out_now,
    message,
    say,
    when_gone,
)
from napari_addm.widgets.guide import open_help
from napari_addm.widgets.jobs import Jobs
from napari_addm.widgets.loading import free_memory, spare_loaded
from napari_addm.widgets.model_settings import ModelSettings, model_section
from napari_addm.widgets.status_bar import Notices
from napari_addm.widgets.tones import WARNING
from napari_addm.widgets.viewing.canvas_dock import dock_of
from napari_addm.widgets.viewing.tabs import share_side

if TYPE_CHECKING:
    import napari

# While nothing is open the panel is as wide as its title, which is less than the sections take.
WELCOME_WIDTH = 280


class DetectWidget(Panel):
    """Reconstruct an open scan as if it were healthy, and review where it differs.

    The panel lays out its sections and binds them to the controller, which holds the state and
    decides what is allowed. A run is `napari_addm.detection.pipeline.detect`, driven by a
    job in another thread.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Injected by napari.

    Attributes
    ----------
    welcome : Welcome
    inputs : ScanInputs
    model : ModelSettings
    calibrating : Calibrating
    notices : Notices
    jobs : Jobs
    runner : Runner
    controller : DetectController
    follow : FollowSlice
    findings : FindingsSection
    agreement : TruthAgreement
    views : Views
    saving : Saving
    earlier : EarlierScan
    layers : ViewerLayers
    sections : dict of str to Section
        By their titles.
    scroll_area : QScrollArea
        Holds the sections.
    other_scan : QLabel
        Which scan the last result belongs to.
    remarks : Remarks
        What has to be known about the result shown.
    run_button, cancel_button : QPushButton
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.jobs = Jobs()
        self.welcome = Welcome(viewer, self.jobs.start)
        self.inputs = ScanInputs(viewer, self.jobs.start)
        self.model = ModelSettings()
        self.calibrating = Calibrating(self.model, self.jobs.start)
        self.model.add(self.calibrating)
        self.notices = Notices()
        self.runner = Runner(viewer, self.inputs, self.model, self.notices, self.jobs, self)
        self.controller, self.follow = self.runner.controller, self.runner.follow
        self.findings = FindingsSection(self.controller)
        self.agreement = TruthAgreement(viewer, self.jobs.start)
        self.views = Views(viewer, self.jobs.start)
        self.saving = Saving(self.controller, self.jobs.start)
        self.earlier = EarlierScan(viewer, self.controller, self.jobs.start)
        self.layers = ViewerLayers(viewer, self.controller, self.inputs, self.agreement, self)
        self._build()
        self._lead = LeadToResult(
            viewer,
            self.controller,
            self.findings.table,
            self.sections[texts.MODEL_SECTION.label],
            self.sections[texts.FINDINGS_SECTION.label],
            self.scroll_area,
        )
        self._connect()
        self.unwatch = preferences.watch(self._on_preferences)
        self._restore()
        self.layers.start()
        share_side(self, viewer)
        when_gone(self, _Farewell(self))
        spare_loaded()

    # --- layout ----------------------------------------------------------------------------------

    def _build(self) -> None:
        self.other_scan = message(WARNING)
        self.remarks = Remarks()
        parts = (
            (texts.SCAN_SECTION, self.inputs),
            (texts.MODEL_SECTION, self.model),
            (texts.FINDINGS_SECTION, self.findings),
            (texts.TRUTH_SECTION, self.agreement),
            (texts.VIEW_SECTION, self.views),
            (texts.SAVE_SECTION, self.saving),
        )
        self.sections = {
            text.label: model_section(part) if part is self.model else Section(text, part)
            for text, part in parts
        }
        self._folds = Folds(self.sections)
        earlier = Section(texts.EARLIER_SECTION, self.earlier, expanded=False, quiet=True)
        self.findings.add(earlier)
        content = QWidget()
        body = column(content)
        body.setContentsMargins(8, 6, 8, 6)
        self.welcome.setMinimumWidth(WELCOME_WIDTH)
        body.addWidget(self.welcome)
        for section in self.sections.values():
            if section is self.sections[texts.FINDINGS_SECTION.label]:
                body.addWidget(self.other_scan)
                body.addWidget(self.remarks)
            body.addWidget(section)
            if section is self.sections[texts.SCAN_SECTION.label]:
                body.addWidget(self.model.preset_row)
        body.addStretch(1)  # no section is higher than it has to be
        self.scroll_area = Column(content)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(2)
        whole.addWidget(self.remarks.alarm)  # which does not scroll away
        whole.addWidget(self.scroll_area)
        whole.addLayout(self._footer())

    def _footer(self) -> QVBoxLayout:
        """What is below the sections does not scroll, so it is always in reach."""
        self._buttons = RunButtons(self.controller, self.run)
        self.run_button, self.cancel_button = self._buttons.run, self._buttons.cancel
        footer = QVBoxLayout()
        footer.setContentsMargins(8, 2, 8, 4)
        footer.setSpacing(4)
        footer.addWidget(self.follow)
        footer.addLayout(self._buttons)
        footer.addWidget(self.notices)
        return footer

    def _connect(self) -> None:
        controller, notices, layers = self.controller, self.notices, self.layers
        controller.changed.connect(self._show)
        controller.review_changed.connect(self._show_in_views)
        controller.marked.connect(self._on_marked)
        controller.said.connect(self._say)
        controller.done.connect(self._on_done)
        self.welcome.demo_opened.connect(layers.take_demo_truth)
        layers.scan_changing.connect(notices.forget_error)  # it was about another scan
        layers.scan_changing.connect(self.views.stop_comparing)
        layers.scan_changed.connect(self._on_scan)
        self.views.layout_kept.follow(layers.scan_changed, controller)
        self.model.checkpoint_changed.connect(self._on_checkpoint)
        self.model.chosen.connect(preferences.remember)
        self.model.reset_asked.connect(self._on_reset)
        self.findings.table.decided.connect(self._color_findings)
        self.findings.table.selected.connect(self._color_findings)
        self.findings.table.picked.connect(self._on_picked)
        self.views.on_keys |= self.findings.table.on_keys
        self.views.may_act = partial(_may_act, self.controller, self.findings.table)
        self.views.on_keys |= {"note": self._write_note, "help": self._open_help}
        self.findings.table.decided.connect(self.earlier.follow)
        self.findings.table.picked.connect(self.earlier.table.mark)
        self.findings.table.selected.connect(
            lambda: self.earlier.table.mark(self.findings.table.review.selected)
        )
        self.earlier.finding_picked.connect(self._on_change_picked)
        self.earlier.page_asked.connect(self.saving.save_comparison)
        self.earlier.viewing.connect(self.views.stop_comparing)
        self.views.comparison.begun.connect(self.earlier.stop_viewing)
        self.views.curtains.append(self.earlier.curtain)
        layers.scan_changing.connect(self.earlier.stop_viewing)
        self.views.mouse.window.scan = lambda: self.inputs.scan
        bind_mouse(self.views.mouse, self.findings.table, lambda: self.outcome, self._write_note)
        self.agreement.threshold_chosen.connect(self.findings.threshold.setValue)
        self.saving.folder_chosen.connect(preferences.remember)
        mask_changed = self.inputs.brain.chooser.changed
        for changed in (self.model.changed, layers.scan_changed, layers.moved, mask_changed):
            changed.connect(self.follow.look)
        for changed in (self.agreement.truth_changed, mask_changed):
            changed.connect(notices.forget_error)
        for busy in (self.welcome, self.saving, self.earlier, self.calibrating):
            busy.begun.connect(notices.clear)
            busy.said.connect(self._say)
            busy.failed.connect(notices.show_error)
        for part in (self.inputs, self.agreement, self.follow, self.views):
            part.failed.connect(notices.show_error)

    # --- preferences -----------------------------------------------------------------------------

    def _restore(self) -> None:
        """Start as the preferences say."""
        kept = preferences.read()
        self._say(self.model.restore(kept))
        self.saving.folder = kept.output_folder
        self._folds.restore(kept.folded)
        self.views.layout_kept.restore(kept)

    def _on_preferences(self, event: Any = None) -> None:
        kept = preferences.read()
        self.model.follow(kept)
        self.saving.folder = kept.output_folder

    def _on_reset(self) -> None:
        preferences.reset()
        self.model.reset()
        self._restore()

    def _on_scan(self) -> None:
        if self.outcome is not None and not self.outcome.preview:
            # A preview must not replace a run's result when its scan is looked at again.
            self.follow.box.setChecked(False)

    def _on_checkpoint(self) -> None:
        self.controller.set_specification(self.model.specification)

    # --- what the controller says ----------------------------------------------------------------

    @property
    def outcome(self) -> Outcome | None:
        """The outcome that is shown."""
        return self.controller.outcome

    def run(self) -> None:
        """Start a run with the settings as they stand."""
        self._lead.begin()
        self.runner.run()

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self.controller.running

    def _say(self, words: str) -> None:
        say(self.notices.status, words)
        self.notices.status.setToolTip("")

    def _on_done(self, outcome: Outcome, took: str) -> None:
        self.notices.status.setToolTip(texts.RUN_TOOK.format(took))

    def _show(self) -> None:
        """Show what the controller says and allows."""
        controller, headings = self.controller, self.controller.headings
        say(self.other_scan, headings.other)
        self.remarks.show_remarks(headings.remarks)
        self.views.alarm.show(headings.remarks)
        self.sections[texts.SCAN_SECTION.label].name(headings.scan)
        self.sections[texts.FINDINGS_SECTION.label].name(headings.findings)
        self.sections[texts.SAVE_SECTION.label].name(headings.save)
        self._buttons.show(controller)
        opened = bool(controller.opened.titles)
        self.welcome.setVisible(not opened)
        self.follow.setVisible(opened)
        self.model.preset_row.setVisible(opened)
        of_result = {
            texts.FINDINGS_SECTION.label: controller.findings_shown,
            texts.SAVE_SECTION.label: controller.result_kept,
        }
        for title, section in self.sections.items():
            section.setVisible(of_result.get(title, opened))
        self.agreement.compare(controller.comparable)

    def _show_in_views(self) -> None:
        outcome = self.controller.outcome
        if outcome is not self.views.outcome:
            self.views.outcome = outcome
        self.views.show_marked()

    def _on_marked(self, outcome: Outcome) -> None:
        marked = outcome.marked
        assert marked is not None
        outcome.layers.show_labels(marked.labels, _colors(outcome), marked.box)
        self.agreement.show_marked(outcome)
        self._show_in_views()
        self.views.show_findings()

    def _color_findings(self) -> None:
        if self.outcome is not None:
            self.outcome.layers.color_labels(_colors(self.outcome))
            self.views.show_findings()

    def _on_picked(self, id: int) -> None:
        if self.outcome is not None and self.outcome.marked is not None:
            self._color_findings()
            self.views.show_diameters()
            self.outcome.layers.go_to(self.outcome.marked.middle(id))

    def _write_note(self) -> None:
        """Go to the note of the selected finding, wherever it is."""
        if self.findings.table.note.isEnabled():
            self.sections[texts.FINDINGS_SECTION.label].expand()
            dock = dock_of(self)
            if dock is not None:
                dock.raise_()  # it may be a tab behind another one
            lay_out_now(self.findings)
            self.scroll_area.ensureWidgetVisible(self.findings.table.note)
            self.findings.table.write_note()

    def _open_help(self) -> None:
        open_help(self.window())

    def _on_change_picked(self, id: int) -> None:
        self.findings.table.pick(id)
        self._on_picked(id)

    def leave(self) -> None:
        """The dock is closed: show again what hits and misses have covered."""
        self.agreement.compare(None)
        super().leave()


def _may_act(controller: DetectController, table: FindingsTable, action: str) -> bool:
    """Leave the keys of findings to the panel of a cohort while there are none here."""
    return action not in table.on_keys or controller.findings_shown


def _colors(outcome: Outcome) -> np.ndarray:
    findings = outcome.findings
    return finding_colors(findings.selected, findings.rejected, findings.highest)


class _Farewell:
    """What is left to do when the panel is gone: stop its jobs, free the network's memory."""

    def __init__(self, panel: DetectWidget) -> None:
        self._panel = weakref.ref(panel)
        self._jobs = panel.jobs  # Python's side of the panel may be gone before Qt's

    def __call__(self) -> None:
        self._jobs.quit()
        panel = self._panel()
        if panel is not None:
            panel.layers.close()
            panel.unwatch()
            panel.runner.session.clear()
        free_memory()
