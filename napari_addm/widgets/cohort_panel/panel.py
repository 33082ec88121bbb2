"""The dock widget 'Detect in a cohort': which cases, a run over all of them, and its results."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QSize, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.run import BatchProgress
from napari_addm.widgets import preferences, texts
from napari_addm.widgets.cohort_panel.controller import CohortController, describe_settings
from napari_addm.widgets.cohort_panel.fields import CohortButtons, CohortOptions, CohortPlaces
from napari_addm.widgets.cohort_panel.state import Running
from napari_addm.widgets.cohort_panel.table import CasesTable
from napari_addm.widgets.cohort_panel.work import run_cases, search_cases, write_report
from napari_addm.widgets.cohort_panel.worklist import Worklist
from napari_addm.widgets.forms import (
    Column,
    Panel,
    Section,
    column,
    lay_out_now,
    message,
    say,
    single_shot,
    when_gone,
)
from napari_addm.widgets.jobs import Job, Jobs, Status
from napari_addm.widgets.loading import free_memory
from napari_addm.widgets.model_settings import ModelSettings, model_section
from napari_addm.widgets.status_bar import Notices
from napari_addm.widgets.viewing.tabs import share_side

if TYPE_CHECKING:
    import napari

# A changed option takes effect once it has rested for so long.
TYPED_MS = 500


class BatchWidget(Panel):
    """Find anomalies in all scans of a cohort, and see what becomes of each.

    It lays out widgets, binds them to a `CohortController`, and runs the controller's requests
    in jobs.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Injected by napari.

    Attributes
    ----------
    controller : CohortController
    places : CohortPlaces
    model : ModelSettings
    options : CohortOptions
    table : CasesTable
    worklist : Worklist
    settings_line : QLabel
    buttons : CohortButtons
    notices : Notices
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer, self.controller = viewer, CohortController()
        self._jobs = Jobs()
        self._search_job: Job | None = None
        self._run_job: Job | None = None
        self._rested = single_shot(self, TYPED_MS, self.search)
        # Else napari puts a stretch below, a larger one for each panel that was opened before.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._build()
        self._bind()
        self._unwatch = preferences.watch(self._on_preferences)
        self._restore()
        share_side(self, viewer)
        when_gone(self, _Farewell(self))

    # --- layout ----------------------------------------------------------------------------------

    def _build(self) -> None:
        self.places, self.options = CohortPlaces(), CohortOptions()
        self.model = ModelSettings(scope=False)
        content = QWidget()
        body = column(content)
        body.setContentsMargins(8, 6, 8, 2)
        self._places_section = Section(texts.COHORT_SECTION, self.places)
        for part in (
            self._places_section,
            self.model.preset_row,
            model_section(self.model),
            Section(texts.OPTIONS_SECTION, self.options, expanded=False),
        ):
            body.addWidget(part)
        self.table = CasesTable(self.controller.rows)
        self.settings_line = message()
        self.buttons = CohortButtons(
            self.run, self.cancel, self.retry_failed, self.open_report, self.open_folder
        )
        self.notices = Notices(details_height=100)
        self.worklist = Worklist(
            self._viewer, self.controller, self.table, self.notices, self._jobs.start, self
        )
        lower = QVBoxLayout()
        lower.setContentsMargins(8, 2, 8, 4)
        lower.setSpacing(4)
        lower.addWidget(self.table, 1)
        lower.addWidget(self.worklist.section)
        lower.addWidget(self.settings_line)
        lower.addWidget(self.buttons)
        lower.addWidget(self.notices)
        everything = QVBoxLayout(self)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.setSpacing(2)
        everything.addWidget(_Sections(content))
        everything.addLayout(lower, 1)

    def _bind(self) -> None:
        self.places.chosen.connect(self.search)
        self.places.edited.connect(self._on_places)
        self.options.reading_changed.connect(self._rested.start)
        self.options.marking_changed.connect(self._show_settings)
        self.model.checkpoint_changed.connect(self._on_checkpoint)
        self.model.chosen.connect(preferences.remember)
        self.model.reset_asked.connect(self._on_reset)
        self.model.changed.connect(self._show_settings)
        self.worklist.opened.connect(self._on_opened)
        controller = self.controller
        controller.rows_replaced.connect(self.table.reset)
        controller.rows_changed.connect(self.table.show_changes)
        controller.rows_settled.connect(self.table.settle)
        controller.changed.connect(self._show_allowed)
        controller.status_changed.connect(partial(say, self.notices.status))
        controller.failed.connect(self.notices.show_error)
        controller.progressed.connect(self.notices.progress.tell)

    def _show_allowed(self) -> None:
        controller, allowed = self.controller, self.controller.allowed
        self.buttons.show_allowed(allowed, controller.run_text, controller.failed_count)
        self.places.allow(allowed.places)
        for field in (self.options.frame, self.options.resample):
            field.setEnabled(allowed.places)

    # --- settings --------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Start as the preferences say."""
        kept = preferences.read()
        self._model_preferences = _of_model(kept)
        gone = self.model.restore(kept)
        output = "" if kept.cohort_output is None else str(kept.cohort_output)
        self.choose(kept.cohort, output)
        say(self.notices.error, gone)

    def _on_preferences(self, event: Any = None) -> None:
        kept = preferences.read()
        if _of_model(kept) != self._model_preferences:
            self._model_preferences = _of_model(kept)
            self.model.follow(kept)

    def _on_reset(self) -> None:
        preferences.reset()
        self.model.reset()
        self._restore()

    def _on_checkpoint(self) -> None:
        if self.model.specification is not None:
            self.options.set_defaults(self.model.specification)
        self.controller.set_specification(self.model.specification)
        self._show_settings()

    def _show_settings(self) -> None:
        """Show in one line what will run, while its sections are folded."""
        name, options = self.model.checkpoint_chooser.currentText(), self.options
        threshold, minimum = options.threshold.value(), options.minimum.value()
        words = describe_settings(
            name, self.model.specification, self.model.settings, threshold, minimum
        )
        say(self.settings_line, words)

    @property
    def settings(self) -> BatchSettings:
        """The settings as they stand."""
        return self.options.settings(self.model.settings, self.model.specification)

    # --- the list of cases -----------------------------------------------------------------------

    def choose(self, source: str, output: str | None = None) -> None:
        """List the cases of a place.

        Parameters
        ----------
        source : str
            Folder, pattern or table; see `napari_addm.cohort.find.find_cohort`.
        output : str, optional
            Folder of the results. By default the chosen one, or else one beside the scans.
        """
        self.places.set_places(source, output)
        self.search()

    def search(self) -> None:
        """List the cases again, in the background; nothing is written."""
        self._rested.stop()
        if self.controller.running:
            return
        self._quit_search()
        self.notices.clear()
        search = self.controller.start_search(
            self.places.source.text(),
            self.places.output.text(),
            self.options.frame_index,
            self.options.resample.isChecked(),
        )
        if search is not None:
            preferences.remember("cohort", search.source)
            preferences.remember("cohort_output", search.output)
            self._search_job = self._jobs.start(
                "Look for cases",
                search_cases,
                search,
                yielded=self._on_searched,
                errored=self.notices.show_error,
            )

    def _on_places(self) -> None:
        if not self.controller.is_searched(self.places.source.text(), self.places.output.text()):
            self.search()

    def _quit_search(self) -> None:
        if self._search_job is not None:
            self._search_job.quit()
            self._search_job = None

    def _on_searched(self, item: Any) -> None:
        self.controller.take_search(item)

    # --- a run -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all cases; those that are done are only checked."""
        self._run()

    def retry_failed(self) -> None:
        """Run only the cases that failed or could not be checked."""
        self._run(only_failed=True)

    def _run(self, only_failed: bool = False) -> None:
        request = self.controller.start_run(self.model.checkpoint, self.settings, only_failed)
        if request is None:
            return
        self.notices.clear()
        self.notices.begin()
        self._run_job = self._jobs.start(
            "Detect in a cohort",
            run_cases,
            request,
            yielded=self._on_progress,
            errored=self._on_run_error,
            finished=self._on_run_finished,
        )

    def cancel(self) -> None:
        """Stop a run within one step of the network, or the search for cases."""
        if self._run_job is not None:
            self._run_job.quit()
        else:
            self._quit_search()
        self.controller.cancel()

    def _on_progress(self, item: Status | BatchProgress) -> None:
        if isinstance(item, Status):
            say(self.notices.status, f"{item.words} ...")
            return
        run, step = self.controller.run, item.detection
        same_case = isinstance(run, Running) and run.case == item.case
        if same_case and step and step.stage == "reconstruct" and not self.notices.is_due():
            return
        self.controller.take_progress(item)
        lay_out_now(self.notices)

    def _on_run_error(self, error: Exception) -> None:
        self.controller.take_error(error)

    def _on_run_finished(self) -> None:
        self._run_job = None
        self.notices.progress.hide()
        self.controller.finish_run()

    # --- results ---------------------------------------------------------------------------------

    def open_report(self) -> None:
        """Write the report of the cohort in the background, and open it in the browser."""
        output = self.controller.start_report()
        if output is not None:
            self.notices.forget_error()
            self._jobs.start(
                "Report of the cohort",
                write_report,
                output,
                yielded=self._on_report,
                errored=self.notices.show_error,
                finished=self._on_report_finished,
            )

    def _on_report(self, page: Path) -> None:
        opened = QDesktopServices.openUrl(QUrl.fromLocalFile(str(page)))
        words = texts.REPORT_WRITTEN.format(page)
        self.controller.say(words if opened else words + texts.NO_BROWSER)

    def _on_report_finished(self) -> None:
        self.controller.finish_report()

    def _on_opened(self, name: str) -> None:
        """Make room for the findings of the first case that is opened."""
        self.worklist.opened.disconnect(self._on_opened)
        self._places_section.expand(False)

    def open_folder(self) -> None:
        """Show the files of all cases."""
        search = self.controller.search
        if search is not None and Path(search.output).is_dir():
            QDesktopServices.openUrl(QUrl.fromLocalFile(search.output))


class _Sections(Column):
    """As tall as its content where there is room; the table has the rest."""

    def __init__(self, content: QWidget) -> None:
        super().__init__(content)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        """Return the present size of the content; Qt keeps its first one."""
        content, viewport = self.widget(), self.viewport()
        assert content is not None
        assert viewport is not None
        hint = content.sizeHint()
        return QSize(hint.width(), hint.height() + self.height() - viewport.height())


class _Farewell:
    """Stops the jobs of a panel that is gone, saves decisions, and frees the network's memory."""

    def __init__(self, panel: BatchWidget) -> None:
        self._panel = weakref.ref(panel)
        # The panel's Python side may be gone before Qt's.
        self._jobs, self._reviews = panel._jobs, panel.worklist.section.reviews

    def __call__(self) -> None:
        self._jobs.quit()
        for words in self._reviews.close():
            show_error(words)
        panel = self._panel()
        if panel is not None:
            panel.worklist.close()
            panel._unwatch()
        free_memory()


def _of_model(kept: preferences.Preferences) -> preferences.Preferences:
    """Return the preferences without those of the cohort, which the panel itself remembers."""
    return replace(kept, cohort="", cohort_output=None)
