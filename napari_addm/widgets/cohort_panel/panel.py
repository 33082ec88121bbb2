"""The dock widget 'Detect in a cohort': which cases, a run over all of them, and its results."""

from __future__ import annotations

import glob
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, QThreadPool, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.find import search_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.inspect import InspectedCase, inspect_cohort
from napari_addm.cohort.run import BatchProgress, run_batch
from napari_addm.errors import AddmError
from napari_addm.io.text import format_duration
from napari_addm.widgets import preferences, texts
from napari_addm.widgets.cohort_panel.saved_case import (
    CaseVersion,
    SavedCase,
    bring_up,
    read_case,
    show_case,
)
from napari_addm.widgets.cohort_panel.table import (
    DONE,
    FAILED,
    TRY_AGAIN,
    CaseRow,
    CasesTable,
    State,
)
from napari_addm.widgets.forms import (
    Column,
    Panel,
    Section,
    button,
    column,
    form,
    lay_out_now,
    message,
    number,
    row,
    say,
    single_shot,
    when_gone,
    whole,
)
from napari_addm.widgets.jobs import Job, Jobs, Status
from napari_addm.widgets.loading import free_memory, import_libraries, load_checkpoint_once
from napari_addm.widgets.model_settings import ModelSettings
from napari_addm.widgets.status_bar import Notices

if TYPE_CHECKING:
    import napari


# Headers are handed over so often, however many there are.
CHUNK_SECONDS = 0.15
# A field that is being typed into has rested for so long.
TYPED_MS = 500
PERCENT = 100


class BatchWidget(Panel):
    """Find anomalies in all scans of a cohort, and see what becomes of each.

    It holds no loop of its own: a run is :func:`napari_addm.cohort.run.run_batch`,
    the list of cases :func:`napari_addm.cohort.inspect.inspect_cohort`, both driven by
    :class:`napari_addm.widgets.jobs.Job` off the GUI thread.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Injected by napari.

    Attributes
    ----------
    source, output : QLineEdit
    model : ModelSettings
    table : CasesTable
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._cases: list[CohortCase] = []
        self._asked: _Look | None = None  # what the table shows, or is about to
        self._looking: Job | None = None
        self._job: Job | None = None
        self._running: CaseRow | None = None  # the case in the network
        self._cancelled = False
        self._started = 0.0
        self._last: BatchProgress | None = None
        self._before: dict[str, tuple[State, CaseResult | None]] = {}  # the run, by case
        self._opening: tuple[str, Job] | None = None
        self._reporting = False
        self._jobs = Jobs()
        self._start = self._jobs.start
        self._typed = single_shot(self, TYPED_MS, self.look)
        self._build()
        self._connect()
        self._unwatch = preferences.watch(self._on_preferences)
        self._restore()
        when_gone(self, _Farewell(self))

    # --- what it looks like ----------------------------------------------------------------------

    def _build(self) -> None:
        self.model = ModelSettings(scope=False)
        content = QWidget()
        body = column(content)
        body.setContentsMargins(8, 6, 8, 2)
        for section in (
            Section(texts.COHORT_SECTION, self._build_places()),
            Section(texts.MODEL_SECTION, self.model, expanded=False),
            Section(texts.OPTIONS_SECTION, self._build_options(), expanded=False),
        ):
            body.addWidget(section)
        self.sections = _Sections(content)
        self.table = CasesTable()
        self.settings_line = message()

        self.run_button = button(texts.COHORT_RUN, self.run)
        self.cancel_button = button(texts.COHORT_CANCEL, self.cancel)
        self.retry_button = button(texts.RETRY_FAILED, self.retry_failed)
        self.report_button = button(texts.OPEN_REPORT, self.open_report)
        self.folder_button = button(texts.OPEN_RESULTS, self.open_folder)
        buttons = QGridLayout()
        buttons.setSpacing(5)
        buttons.addWidget(self.run_button, 0, 0, 1, 4)
        buttons.addWidget(self.cancel_button, 0, 4, 1, 2)
        for place, part in enumerate((self.retry_button, self.report_button, self.folder_button)):
            buttons.addWidget(part, 1, 2 * place, 1, 2)
        for place in range(6):
            buttons.setColumnStretch(place, 1)
        self.notices = Notices(details_height=100)
        self.progress, self.status = self.notices.progress, self.notices.status
        self.error, self.details = self.notices.error, self.notices.details
        lower = QVBoxLayout()
        lower.setContentsMargins(8, 2, 8, 4)
        lower.setSpacing(4)
        lower.addWidget(self.table, 1)
        lower.addWidget(self.settings_line)
        lower.addLayout(buttons)
        lower.addWidget(self.notices)
        everything = QVBoxLayout(self)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.setSpacing(2)
        everything.addWidget(self.sections)
        everything.addLayout(lower, 1)

    def _build_places(self) -> QWidget:
        self.source, self.output = QLineEdit(), QLineEdit()
        self.source_button = button(texts.CHOOSE_FOLDER, self._choose_source)
        self.table_button = button(texts.CHOOSE_TABLE, self._choose_table)
        self.output_button = button(texts.CHOOSE_FOLDER, self._choose_output)
        places = QWidget()
        fields = form()
        places.setLayout(fields)
        row(fields, texts.COHORT_INPUT, self.source, self.source_button, self.table_button)
        row(fields, texts.COHORT_OUTPUT, self.output, self.output_button)
        self.table_button.setToolTip(texts.CHOOSE_TABLE.tip)
        for chooser in (self.source_button, self.output_button):
            chooser.setToolTip(texts.CHOOSE_FOLDER.tip)
        return places

    def _build_options(self) -> QWidget:
        self.threshold = number(1000, 0.01)
        self.threshold.setDecimals(3)
        self.minimum = number(1000, 0.1, " mL")
        self.frame = whole(-1, 9999)
        self.frame.setSpecialValueText(texts.NO_FRAME)
        self.frame.setValue(-1)
        self.resample = QCheckBox(texts.RESAMPLE_BESIDE.label)
        self.resample.setToolTip(texts.RESAMPLE_BESIDE.tip)
        self.pictures = QCheckBox(texts.PICTURES.label)
        self.pictures.setToolTip(texts.PICTURES.tip)
        self.pictures.setChecked(True)
        options = QWidget()
        fields = form()
        options.setLayout(fields)
        row(fields, texts.COHORT_THRESHOLD, self.threshold)
        row(fields, texts.MINIMUM, self.minimum)
        row(fields, texts.FRAME, self.frame)
        ticks = QHBoxLayout()
        ticks.addWidget(self.resample)
        ticks.addWidget(self.pictures)
        ticks.addStretch()
        fields.addRow("", ticks)
        return options

    def _connect(self) -> None:
        self.source.returnPressed.connect(self.look)
        self.output.returnPressed.connect(self.look)
        self.source.editingFinished.connect(self._on_places)
        self.output.editingFinished.connect(self._on_places)
        self.frame.valueChanged.connect(self._typed.start)
        self.resample.toggled.connect(self._typed.start)
        self.model.checkpoint_changed.connect(self._on_checkpoint)
        self.model.chosen.connect(preferences.remember)
        self.model.reset_asked.connect(self._on_reset)
        self.model.changed.connect(self._show_settings)
        for field in (self.threshold, self.minimum):
            field.valueChanged.connect(self._show_settings)
        self.table.opened.connect(self.open_case)

    def _restore(self) -> None:
        """Start as the preferences say."""
        kept = preferences.read()
        self._kept = replace(kept, cohort="", cohort_output=None)
        gone = self.model.restore(kept)
        self.source.setText(kept.cohort)
        self.output.setText("" if kept.cohort_output is None else str(kept.cohort_output))
        self.look()
        say(self.error, gone)

    def _on_preferences(self, event: Any = None) -> None:
        kept = preferences.read()
        # That the folders are remembered is no news for the model.
        if replace(kept, cohort="", cohort_output=None) != self._kept:
            self._kept = replace(kept, cohort="", cohort_output=None)
            self.model.follow(kept)

    def _on_reset(self) -> None:
        preferences.reset()
        self.model.reset()
        self._restore()

    def _on_checkpoint(self) -> None:
        if self.model.specification is not None:
            default = self.model.specification.detection
            self.threshold.setValue(default.threshold)
            self.minimum.setValue(default.minimum_ml)
        self._show_settings()
        self._enable()

    def _show_settings(self) -> None:
        """One line that says what will run, while its sections are folded."""
        name = self.model.checkpoint_chooser.currentText()
        words = [name, f"threshold {self.threshold.value():g}"]
        words.append(f"from {self.minimum.value():g} mL")
        if self.model.specification is None:
            words = [f"{name} cannot be used: see Model"]
        elif self.model.specification.diffusion is not None:
            run = self.model.settings
            words.insert(1, f"level {run.level}, {run.steps} steps")
        say(self.settings_line, " · ".join(words))

    @property
    def settings(self) -> BatchSettings:
        """The settings as they stand."""
        specification = self.model.specification
        threshold, minimum = self.threshold.value(), self.minimum.value()
        if specification is not None:
            # The fields round; what nobody has changed is the checkpoint's to the digit.
            default = specification.detection
            if threshold == round(default.threshold, self.threshold.decimals()):
                threshold = default.threshold
            if minimum == round(default.minimum_ml, self.minimum.decimals()):
                minimum = default.minimum_ml
        frame = self.frame.value()
        return BatchSettings(
            detection=self.model.settings,
            threshold=threshold,
            minimum_ml=minimum,
            frame=frame if frame >= 0 else None,
            resample=self.resample.isChecked(),
            pictures=self.pictures.isChecked(),
        )

    # --- which cases there are -------------------------------------------------------------------

    def _choose_source(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose the scans", self.source.text())
        if folder:
            self.choose(folder)

    def _choose_table(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Choose a table of cases", self.source.text(), "Tables (*.csv *.tsv)"
        )
        if name:
            self.choose(name)

    def _choose_output(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Choose a folder for the results", self.output.text()
        )
        if folder:
            self.choose(self.source.text(), folder)

    def choose(self, source: str, output: str | None = None) -> None:
        """Take these scans, and a folder for the results, and list the cases.

        Parameters
        ----------
        source : str
            Folder, pattern or table; see `napari_addm.cohort.find.find_cohort`.
        output : str, optional
            The one that is chosen, or else one beside the scans.
        """
        self.source.setText(source)
        if output is not None:
            self.output.setText(output)
        elif source and not self.output.text().strip():
            self.output.setText(_beside(source))
        self.look()

    def _on_places(self) -> None:
        places = self.source.text().strip(), self.output.text().strip()
        if self._asked is None or places != (self._asked.source, self._asked.output):
            self.look()

    def look(self) -> None:
        """List the cases anew, in the background; nothing is written."""
        self._typed.stop()
        if self.running:
            return
        if self._looking is not None:
            self._looking.quit()
            self._looking = None
        source, output = self.source.text().strip(), self.output.text().strip()
        settings = self.settings
        self._asked = _Look(source, output, settings.frame, settings.resample)
        self.notices.clear()
        self._cases = []
        self.table.show_cases(())
        if not source or not output:
            say(self.status, texts.COHORT_EMPTY)
            self._enable()
            return
        preferences.remember("cohort", source)
        preferences.remember("cohort_output", output)
        say(self.status, "Looking for cases ...")
        self._looking = self._start(
            "Look for cases",
            _look,
            self._asked,
            yielded=self._on_looked,
            errored=self.notices.show_error,
            finished=self._enable,
        )
        self._enable()

    def _on_looked(self, item: _Listed) -> None:
        if item.asked is not self._asked or self._looking is None:
            return  # other ones are wanted by now
        if item.seen is not None:
            say(self.status, f"Looking for cases: {item.seen} so far ...")
            return
        if item.error is not None:
            self._looking = None
            say(self.status, "")
            self.notices.show_error(item.error)
            return
        if item.cases is not None:
            self._cases = item.cases
            self.table.show_cases(item.cases)
        # While a run goes on, it knows better.
        if not self.running:
            self.table.show_found(item.found)
            read = item.read
            many = f"{read} of {len(self._cases)}" if read < len(self._cases) else ""
            say(self.status, f"Reading headers: {many} ..." if many else self._in_short())
        else:
            self._keep_found(item.found)
        if item.read == len(self._cases):
            self._looking = None
            self.table.settle()
        self._enable()

    def _keep_found(self, found: Sequence[InspectedCase]) -> None:
        """Sizes and spacings that come while a run goes on; what became of a case stays."""
        for each in found:
            line = self.table.model.row_of(each.case.name)
            if line is not None:
                line.found = each
                self.table.changed(line)

    def _in_short(self) -> str:
        """How many cases there are, and how they stand."""
        states = [line.state for line in self.table.model.rows]
        parts = [f"{len(states)} cases"] if len(states) != 1 else ["1 case"]
        for words, kinds in _SHORT.items():
            count = sum(state in kinds for state in states)
            if count:
                parts.append(f"{count} {words}")
        return ", ".join(parts)

    # --- a run -----------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._job is not None

    @property
    def looking(self) -> bool:
        """Whether cases are still looked for, or their headers read."""
        return self._looking is not None

    def run(self) -> None:
        """Run all cases; those that are done already are only checked."""
        self._run(None)

    def retry_failed(self) -> None:
        """Run only the cases that failed or could not be checked."""
        failed = {line.case.name for line in self.table.model.rows if line.state in TRY_AGAIN}
        if failed:
            self._run(failed)

    def _run(self, only: set[str] | None) -> None:
        if self.running or not self._cases or self.model.specification is None:
            return
        self.notices.clear()
        self._before = {}
        for line in self.table.model.rows:
            if not line.case.skip and (only is None or line.case.name in only):
                self._before[line.case.name] = line.state, line.result
                if line.state in (*TRY_AGAIN, "will fail"):
                    line.state, line.result = "waiting", None
        self.table.all_changed()
        self._running, self._last = None, None
        self._cancelled = False
        self._started = time.perf_counter()
        self.notices.begin()
        assert self._asked is not None
        request = _Request(
            tuple(self._cases),
            Path(self._asked.output),
            self.model.checkpoint,
            self.settings,
            None if only is None else frozenset(only),
        )
        self._job = self._start(
            "Detect in a cohort",
            _work,
            request,
            yielded=self._on_yielded,
            errored=self.notices.show_error,
            finished=self._on_finished,
        )
        self._enable()

    def cancel(self) -> None:
        """Stop the run within one step of the network, or the search for cases."""
        if self._looking is not None and self._job is None:
            self._looking.quit()
            self._looking = None
            self.table.settle()
            say(self.status, texts.LOOKING_CANCELLED)
            self._enable()
        if self._job is not None:
            self._cancelled = True
            self._job.quit()
            say(self.status, "Cancelling ...")
            self._enable()

    def _on_yielded(self, item: Status | BatchProgress) -> None:
        if isinstance(item, Status):
            say(self.status, item.words + " ...")
            return
        if self._last is None:  # the plan is written
            for line in self.table.model.rows:
                line.planned = line.planned or line.case.name in self._before
            self._enable()
        self._last = item
        percent = 0
        if item.result is not None:
            self._on_result(item)
        elif item.detection is not None:
            step = item.detection
            if step.stage == "reconstruct" and step.total:
                running = self._running and self._running.case.name
                if running == item.case and not self.notices.is_due():
                    return
                percent = PERCENT * step.done // step.total
            elif step.stage == "finish":
                percent = PERCENT
            self._on_step(item.case, percent)
        if self._running is not None:
            percent = max(percent, self._running.percent)
        total = max(item.total, 1) * PERCENT
        self.progress.tell(min(item.finished * PERCENT + percent, total), total)
        if not self._cancelled:
            words = f"{item.finished} of {item.total} cases"
            words += f", {item.failed} failed" if item.failed else ""
            words += "" if not item.eta else f", about {format_duration(item.eta)} left"
            say(self.status, words)
            lay_out_now(self.notices)

    def _on_step(self, case: str, percent: int) -> None:
        line = self.table.model.row_of(case)
        if line is None:
            return
        if self._running is not None and self._running is not line:
            if self._running.state == "running":
                self._running.state = "writing"
                self.table.changed(self._running)
            self._running = None
        if (line.state, line.percent) != ("running", percent):
            line.state, line.percent, line.result = "running", percent, None
            self.table.changed(line)
        self._running = line

    def _on_result(self, item: BatchProgress) -> None:
        assert item.result is not None
        line = self.table.model.row_of(item.case)
        if line is None:
            return
        if line is self._running:
            self._running = None
        state: State = "done" if item.result.status == "done" else "failed"
        if item.result.unchecked:
            state = "not checked"
        elif item.unchanged:
            state = "unchanged"
        line.state = state
        line.result = item.result
        self.table.changed(line)

    def _on_finished(self) -> None:
        self._job, self._running = None, None
        self.progress.hide()
        for line in self.table.model.rows:
            if line.state in ("running", "writing", "waiting"):
                self._stand_as_before(line)
        self.table.all_changed()
        spent = format_duration(time.perf_counter() - self._started, tenths=True)
        last = self._last
        if last is None:
            say(self.status, "Cancelled before the first case" if self._cancelled else "")
        else:
            words = "Cancelled" if self._cancelled else "Stopped"
            if not self._cancelled and not self.error.text():
                words = "Ended"
            failed = f", {last.failed} failed" if last.failed else ""
            failed += f", {last.unchecked} not checked" if last.unchecked else ""
            done = last.finished - last.failed
            say(self.status, f"{words} after {spent}: {done} of {last.total} cases done{failed}")
        self._enable()

    def _stand_as_before(self, line: CaseRow) -> None:
        """A case that the run did not come to, or not to its end."""
        before = self._before.get(line.case.name, (line.state, line.result))
        if line.state == "writing":  # the run waits for this one, and nobody says so
            assert self._asked is not None
            state = CohortFolder(self._asked.output).states.read_own(line.case)
            if state is not None and state.done and state.result != before[1]:
                line.state, line.result = "done", state.result
                return
        line.state, line.result = before

    # --- results ---------------------------------------------------------------------------------

    def open_report(self) -> None:
        """Make the page of the cohort in the background, and open it in the browser."""
        if self._reporting or self._asked is None:
            return
        self._reporting = True
        say(self.error, "")
        self._enable()
        self._start(
            "Report of the cohort",
            _report,
            Path(self._asked.output),
            yielded=self._on_report,
            errored=self.notices.show_error,
            finished=self._on_report_done,
        )

    def _on_report(self, page: Path) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(page)))

    def _on_report_done(self) -> None:
        self._reporting = False
        self._enable()

    def open_folder(self) -> None:
        """Show the files of all cases."""
        if self._asked is not None and Path(self._asked.output).is_dir():
            QDesktopServices.openUrl(QUrl.fromLocalFile(self._asked.output))

    def open_case(self, name: str) -> None:
        """Open a case with its results, in the background; what is open already comes up."""
        line = self.table.model.row_of(name)
        if line is None or self._asked is None:
            return
        if self._opening is not None:
            if self._opening[0] == name:
                return
            self._opening[1].quit()
        say(self.error, "")
        self.details.hide()
        job = self._start(
            f"Open {name}",
            _open,
            line.case,
            Path(self._asked.output),
            self._asked.frame,
            yielded=self._on_case,
            errored=self.notices.show_error,
            finished=self._enable,
        )
        self._opening = (name, job)
        if not self.running:
            say(self.status, f"Opening {name} ...")

    def _on_case(self, item: CaseVersion | SavedCase | _NotOpened) -> None:
        name = item.case if isinstance(item, CaseVersion | _NotOpened) else item.version.case
        if self._opening is None or self._opening[0] != name:
            return  # another one is wanted by now
        if isinstance(item, _NotOpened):
            self._opened("")
            self.notices.show_error(item.error)
        elif isinstance(item, SavedCase):
            self._show(item)
        elif bring_up(self._viewer, item):
            self._opening[1].quit()
            self._opened(f"{name} is open.")

    def _show(self, saved: SavedCase) -> None:
        """Show the layers of the case that is opened."""
        show_case(self._viewer, saved)
        self._opened(" ".join((f"{saved.version.case} is open.", *saved.notes)))
        if self.running and saved.notes:
            say(self.error, " ".join(saved.notes))

    def _opened(self, words: str) -> None:
        self._opening = None
        if not self.running:
            say(self.status, words)

    # --- messages --------------------------------------------------------------------------------

    def _enable(self) -> None:
        rows = self.table.model.rows
        ready = bool(self._cases) and self.model.specification is not None and not self.running
        failed = sum(line.state in TRY_AGAIN for line in rows)
        unfinished = any(line.unfinished for line in rows)
        text = texts.COHORT_RESUME if unfinished and not self.running else texts.COHORT_RUN
        self.run_button.setText(text.label)
        self.run_button.setToolTip(text.tip)
        self.run_button.setEnabled(ready)
        busy = self.running and not self._cancelled
        self.cancel_button.setEnabled(busy or (self.looking and not self.running))
        self.retry_button.setEnabled(ready and failed > 0)
        self.retry_button.setText(texts.RETRY_FAILED.label + (f" ({failed})" if failed else ""))
        begun = any(line.planned or line.result is not None for line in rows)
        self.report_button.setEnabled(begun and not self._reporting)
        self.folder_button.setEnabled(begun)
        for part in (
            self.source,
            self.output,
            self.source_button,
            self.table_button,
            self.output_button,
            self.frame,
            self.resample,
        ):
            part.setEnabled(not self.running)


_SHORT: dict[str, tuple[State, ...]] = {
    "done": DONE,
    "failed": FAILED,
    "not checked": ("not checked",),
    "that will fail": ("will fail",),
    "skipped": ("skipped",),
}


class _Sections(Column):
    """As tall as what it holds where there is room, so that all else is the table's."""

    def __init__(self, content: QWidget) -> None:
        super().__init__(content)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        """Qt's would be that of the first moment."""
        content, viewport = self.widget(), self.viewport()
        assert content is not None
        assert viewport is not None
        hint = content.sizeHint()
        return QSize(hint.width(), hint.height() + self.height() - viewport.height())


class _Farewell:
    """What is left to do when the panel is gone: stop its jobs, give the network's memory back."""

    def __init__(self, panel: BatchWidget) -> None:
        self._panel = weakref.ref(panel)
        self._jobs = panel._jobs  # the panel's Python side may be gone before Qt's

    def __call__(self) -> None:
        self._jobs.quit()
        panel = self._panel()
        if panel is not None:
            panel._unwatch()
        free_memory()


def _beside(source: str) -> str:
    """A folder for the results that is not among the scans; empty for a pattern."""
    path = Path(source)
    if glob.has_magic(source) and not path.exists():
        return ""
    if (path / "dataset_description.json").is_file():
        return str(path / "derivatives" / "napari-addm")
    return str(path.with_name(f"{path.stem if path.is_file() else path.name}_addm"))


# --- in another thread ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Look:
    """Which cases are looked for."""

    source: str
    output: str
    frame: int | None
    resample: bool


@dataclass(frozen=True, eq=False)
class _Listed:
    """How many cases are seen, then the cases, then what the headers of the next ones tell."""

    asked: _Look
    cases: list[CohortCase] | None = None
    seen: int | None = None
    found: Sequence[InspectedCase] = ()
    read: int = 0
    error: AddmError | None = None


def _look(asked: _Look) -> Iterator[_Listed]:
    search = search_cohort(asked.source, asked.output)
    cases: list[CohortCase] | None = None
    while cases is None:
        try:
            yield _Listed(asked, seen=next(search))
        except StopIteration as end:
            cases = end.value
        except AddmError as error:
            yield _Listed(asked, error=error)
            return
    yield _Listed(asked, cases)
    chunk: list[InspectedCase] = []
    since, read = time.perf_counter(), 0
    for found in inspect_cohort(cases, asked.output, frame=asked.frame, resample=asked.resample):
        chunk.append(found)
        read += 1
        if time.perf_counter() - since > CHUNK_SECONDS:
            yield _Listed(asked, found=chunk, read=read)
            chunk, since = [], time.perf_counter()
    yield _Listed(asked, found=chunk, read=read)


@dataclass(frozen=True, eq=False)
class _Request:
    """All that a run needs, taken when Run was pressed."""

    cases: tuple[CohortCase, ...]
    output: Path
    checkpoint: Path
    settings: BatchSettings
    only: frozenset[str] | None


def _work(request: _Request) -> Iterator[Status | BatchProgress]:
    # A batch may take days: it takes no one's place in the pool, where cases are opened.
    pool = QThreadPool.globalInstance()
    assert pool is not None
    pool.releaseThread()
    try:
        # The first import of torch takes seconds.
        yield Status("Loading the checkpoint")
        import_libraries()
        checkpoint = load_checkpoint_once(request.checkpoint)
        steps = run_batch(
            request.cases, request.output, checkpoint, request.settings, only=request.only
        )
        with closing(steps):
            for progress in steps:
                if progress.detection is not None:
                    # the result would stay in memory until the panel has heard of it
                    step = replace(progress.detection, result=None)
                    progress = replace(progress, detection=step)
                yield progress
    finally:
        pool.reserveThread()


def _report(output: Path) -> Iterator[Path]:
    from napari_addm.cohort.report import write_cohort_report

    yield write_cohort_report(output)["page"]


@dataclass(frozen=True)
class _NotOpened:
    """Why a case cannot be shown."""

    case: str
    error: AddmError


def _open(
    case: CohortCase, output: Path, frame: int | None
) -> Iterator[CaseVersion | SavedCase | _NotOpened]:
    try:
        yield from read_case(case, output, frame)
    except AddmError as error:
        yield _NotOpened(case.name, error)
