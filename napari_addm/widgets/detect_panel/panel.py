"""The dock widget 'Detect anomalies': its sections, and the runs."""

from __future__ import annotations

import time
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QVBoxLayout,
    QWidget,
)

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.detection.pipeline import Progress
from napari_addm.detection.session import Session
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.text import format_duration
from napari_addm.review.decisions import Decided
from napari_addm.review.saved_review import SavedReview, describe_resumed, match_numbers
from napari_addm.widgets import preferences, texts
from napari_addm.widgets.detect_panel.findings import FindingsReview
from napari_addm.widgets.detect_panel.follow import FollowSlice, Patchwork
from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted, run_steps
from napari_addm.widgets.detect_panel.save import Saving
from napari_addm.widgets.detect_panel.scan import ScanInputs
from napari_addm.widgets.detect_panel.state import Outcome
from napari_addm.widgets.detect_panel.truth import TruthAgreement
from napari_addm.widgets.detect_panel.view import Views
from napari_addm.widgets.detect_panel.welcome import Welcome
from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.forms import (
    WARNING,
    Column,
    ElidedButton,
    Panel,
    Section,
    button,
    column,
    lay_out_now,
    message,
    say,
    single_shot,
    when_gone,
)
from napari_addm.widgets.jobs import Job, Jobs, Status
from napari_addm.widgets.layer_registry import is_output, scan_of
from napari_addm.widgets.layer_volumes import LayerData
from napari_addm.widgets.layers import METADATA_KEY
from napari_addm.widgets.loading import free_memory
from napari_addm.widgets.model_settings import ModelSettings
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.status_bar import Notices
from napari_addm.widgets.titles import title_of, without_folder
from napari_addm.widgets.viewing.chosen_scan import (
    bring_into_view,
    is_of_another,
    may_be_scan,
    owners_of,
    scan_behind,
)
from napari_addm.widgets.viewing.connections import LayerWatch, unwrapped
from napari_addm.widgets.viewing.planes import stand_upright
from napari_addm.widgets.viewing.visibility import note_beside, put_away

if TYPE_CHECKING:
    import napari


# Room for the dock's title while nothing is open, and less than the sections take.
WELCOME_WIDTH = 280

# What was decided on a scan's findings, by the grid it had; kept for as long as its layer lives,
# whichever panel it was decided in. Of a copy of the scan nothing is decided.
_decided: WeakKeyDictionary[Layer, dict[Hashable, tuple[Decided, ...]]] = WeakKeyDictionary()


class DetectWidget(Panel):
    """Reconstruct an open scan as if it were healthy, and review where it differs.

    The panel lays out its sections, which do not know each other, and takes
    their signals from one to the next. It holds no loop of its own: a run is
    :func:`napari_addm.detection.pipeline.detect`, driven by
    :class:`napari_addm.widgets.jobs.Job` off the GUI thread.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Injected by napari.

    Attributes
    ----------
    welcome : Welcome
    inputs : ScanInputs
    model : ModelSettings
    findings : FindingsReview
    agreement : TruthAgreement
    views : Views
    saving : Saving
    follow : FollowSlice
    session : Session
        What runs and previews have reconstructed.
    outcome : Outcome or None
        What the last run gave, or the previews since.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.outcome: Outcome | None = None
        self._job: Job | None = None
        self._request: RunRequest | None = None
        self._shown_for: Hashable = None  # what the outcome was asked for
        self._patchwork: Patchwork | None = None
        self._begun = False  # to show the run; until then the outcome is an earlier run's
        self._arrived: RunStarted | None = None
        self._cancelled = False
        self._in_view: Hashable = None  # the scan that was chosen last
        self._switching = False  # to another scan
        self._listing = False  # the layers, which have changed
        self._notes = ""  # what is to be known of the outcome
        self._whole = False  # the run's result is there
        self._started = 0.0
        self._aside: Job | None = None  # the last that ranked or saved
        self._jobs = Jobs()
        self._start = self._jobs.start

        self.welcome = Welcome(viewer)
        self.inputs = ScanInputs(viewer, self._start_aside)
        self.model = ModelSettings()
        self.findings = FindingsReview()
        self.agreement = TruthAgreement(viewer, self._start_aside)
        self.views = Views(viewer, self._start_aside)
        self.saving = Saving(self._start_aside)
        self.session = Session()
        self.follow = FollowSlice(viewer, self._start, self._ask_preview)
        self._moved = single_shot(self, 0, self._on_moved)
        self._misfit = ""  # what was last said of it
        self._build()
        self._name_fields()
        self._choose_first()
        self._connect()
        self._unwatch = preferences.watch(self._on_preferences)
        self._restore()
        self._on_layers()
        self._on_scan()
        if any(is_output(layer) for layer in viewer.layers):
            say(self.status, texts.RESULTS_OPEN)
        when_gone(self, _Farewell(self))

    # --- what it looks like ----------------------------------------------------------------------

    def _build(self) -> None:
        self.whose = message(WARNING)  # the findings are, if not the chosen scan's
        self.warnings = message(WARNING)
        self.findings_section = Section(texts.FINDINGS_SECTION, self.findings)
        self.save_section = Section(texts.SAVE_SECTION, self.saving)
        for section in (self.findings_section, self.save_section):
            section.hide()  # until there is a result
        content = QWidget()
        body = column(content)
        body.setContentsMargins(8, 6, 8, 6)
        self._sections = {
            section.title: section
            for section in (
                Section(texts.SCAN_SECTION, self.inputs),
                Section(texts.MODEL_SECTION, self.model),
                self.findings_section,
                Section(texts.TRUTH_SECTION, self.agreement),
                Section(texts.VIEW_SECTION, self.views),
                self.save_section,
            )
        }
        self.welcome.setMinimumWidth(WELCOME_WIDTH)
        body.addWidget(self.welcome)
        for section in self._sections.values():
            if section is self.findings_section:
                body.addWidget(self.whose)
                body.addWidget(self.warnings)
            body.addWidget(section)
            section.folded.connect(self._on_folded)
        body.addStretch(1)  # no section is higher than it has to be
        self._scroll = Column(content)

        self.run_button = ElidedButton(texts.RUN.label)
        self.run_button.clicked.connect(lambda _=False: self.run())
        self.cancel_button = button(texts.CANCEL, self.cancel)
        self.cancel_button.setEnabled(False)
        for each in (self.run_button, self.cancel_button):
            # Qt would hand the focus on when the button is disabled, to one that hides the panel.
            each.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        self.notices = Notices()
        self.progress, self.status = self.notices.progress, self.notices.status
        self.error, self.details = self.notices.error, self.notices.details
        # What is below the sections does not scroll: it is always in reach.
        footer = QVBoxLayout()
        footer.setContentsMargins(8, 2, 8, 4)
        footer.setSpacing(4)
        footer.addWidget(self.follow)
        footer.addLayout(buttons)
        footer.addWidget(self.notices)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(2)
        whole.addWidget(self._scroll)
        whole.addLayout(footer)

    def _name_fields(self) -> None:
        """The fields of all sections under one roof, for scripts."""
        self.scan_chooser = self.inputs.scan_chooser
        self.demo_button = self.welcome.demo_button
        self.mask_chooser = self.inputs.brain.chooser
        self.checkpoint_chooser = self.model.checkpoint_chooser
        self.card = self.model.card
        self.level = self.model.level
        self.level_slider = self.model.level_slider
        self.level_percent = self.model.level_percent
        self.sampler = self.model.sampler
        self.steps = self.model.steps
        self.seed = self.model.seed
        self.draws = self.model.draws
        self.device = self.model.device
        self.this_slice = self.model.this_slice
        self.whole_volume = self.model.whole_volume
        self.score = self.model.score
        self.smoothing = self.model.smoothing
        self.eta = self.model.eta
        self.precision = self.model.precision
        self.batch_size = self.model.batch_size
        self.threshold = self.findings.threshold
        self.minimum = self.findings.minimum
        self.promise = self.findings.promise
        self.count = self.findings.count
        self.truth_chooser = self.agreement.truth.chooser
        self.grid_message = self.agreement.truth.grid_message
        self.resample_button = self.agreement.truth.resample_button
        self.metrics = self.agreement.metrics
        self.metrics_notes = self.agreement.metrics_notes
        self.figures = self.agreement.figures
        self.save_button = self.saving.save_button
        self.show_plane = self.views.show_plane
        self.save = self.saving.save

    def _connect(self) -> None:
        self.welcome.demo_opened.connect(self._on_demo)
        self.inputs.scan_changed.connect(self._on_scan)
        self.inputs.failed.connect(self.notices.show_error)
        self.model.checkpoint_changed.connect(self._on_checkpoint)
        self.model.chosen.connect(preferences.remember)
        self.model.reset_asked.connect(self._on_reset)
        self.findings.moved.connect(self._mark)
        self.findings.table.decided.connect(self._on_decided)
        self.findings.table.picked.connect(self._on_picked)
        self.views.step_finding = self._step_finding
        self.agreement.truth_changed.connect(self.notices.forget_error)
        self.inputs.brain.chooser.changed.connect(self.notices.forget_error)
        self.agreement.truth_changed.connect(self._measure)
        self.agreement.threshold_chosen.connect(self.threshold.setValue)
        self.agreement.finished.connect(self._enable)
        self.agreement.failed.connect(self.notices.show_error)
        self.saving.begun.connect(self.notices.clear)
        self.saving.said.connect(self._on_said)
        self.saving.finished.connect(self._enable)
        self.saving.failed.connect(self.notices.show_error)
        self.saving.folder_chosen.connect(preferences.remember)
        self.saving.resumed.connect(self._on_resumed)
        self.model.changed.connect(self.follow.look)
        self.inputs.scan_changed.connect(self.follow.look)
        self.inputs.brain.chooser.changed.connect(self.follow.look)
        self.follow.shown.connect(self._on_preview)
        self.follow.failed.connect(self.notices.show_error)
        self.views.failed.connect(self.notices.show_error)
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(self._on_layers)
        self._watch = LayerWatch(self._viewer, self._moved.start)
        self._viewer.layers.selection.events.active.connect(self._on_active)

    # --- from one section to the next ------------------------------------------------------------

    @property
    def settings(self) -> DetectionSettings:
        """The settings as they stand; the scope is not among them."""
        return self.model.settings

    @property
    def _specification(self) -> ModelSpecification | None:
        return self.model.specification

    def _restore(self) -> None:
        """Start as the preferences say."""
        kept = preferences.read()
        say(self.status, self.model.restore(kept))
        self.saving.folder = kept.output_folder
        for title, section in self._sections.items():
            section.expand(title not in kept.folded)

    def _on_preferences(self, event: Any = None) -> None:
        kept = preferences.read()
        self.model.follow(kept)
        self.saving.folder = kept.output_folder

    def _on_folded(self) -> None:
        folded = [title for title, section in self._sections.items() if not section.expanded]
        preferences.remember("folded", ", ".join(folded))

    def _on_reset(self) -> None:
        preferences.reset()
        self.model.reset()
        self._restore()

    def _on_checkpoint(self) -> None:
        # A result that is shown keeps its threshold until a run with the other one begins.
        shown = self.outcome is not None and self.outcome.detection is not None
        if self.model.specification is not None and not self.running and not shown:
            self.findings.review_as(self.model.specification)
        self._enable()

    def _offer(self) -> list[Image]:
        """Offer the layers that may be chosen; gives the images among them."""
        layers = [layer for layer in self._viewer.layers if not is_output(layer)]
        images = [layer for layer in layers if isinstance(layer, Image)]
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        self.inputs.offer(images, labels)
        self.agreement.truth.chooser.offer(labels)
        return images

    def _choose_first(self) -> None:
        """Choose among the scans that are open when the panel is: the selected one, or the top."""
        self._offer()
        layers = list(self._viewer.layers)
        seen = [layer for layer in layers if may_be_scan(layer) and layer.visible]
        behind = scan_behind(self._viewer.layers.selection.active, layers)
        if behind in [layer.unique_id for layer in layers]:
            self.scan_chooser.choose_id(behind)
        elif seen:
            self.scan_chooser.choose(seen[-1])

    def _on_layers(self, event: Any = None) -> None:
        self._listing = True
        images = self._offer()
        if event is not None and event.type == "inserted":
            self._on_inserted(event.value)
        self._listing = False
        self.agreement.check_layers()
        self.welcome.setVisible(not images and self.outcome is None)
        self.follow.setVisible(bool(images))
        for section in self._sections.values():
            if section not in (self.findings_section, self.save_section):
                section.setVisible(bool(images) or self.outcome is not None)
        ids = [layer.unique_id for layer in images]
        if self._request is not None and self._request.scan_id not in ids:
            self.cancel()
            assert self._job is not None
            self._job.quit()  # a last result would be for nobody
        self._say_whose()
        self._enable()

    def _on_inserted(self, layer: Layer) -> None:
        """A scan that is opened is the chosen one; what else is opened belongs to the chosen."""
        if may_be_scan(layer):
            self.scan_chooser.choose(layer)
        elif not is_output(layer) and self.scan_chooser.layer_id is not None:
            note_beside(layer, self.scan_chooser.layer_id)
            if is_of_another(layer, self.scan_chooser.layer_id, list(self._viewer.layers)):
                put_away(layer)  # until napari selects it, which brings its own scan into view

    def _on_active(self, event: Any = None) -> None:
        """A scan that is selected, or whose results are, is the chosen one."""
        layers = list(self._viewer.layers)
        behind = scan_behind(self._viewer.layers.selection.active, layers)
        if behind in [layer.unique_id for layer in layers]:
            self.scan_chooser.choose_id(behind)

    def _on_demo(self) -> None:
        layers, scan = list(self._viewer.layers), self.inputs.scan
        for layer in layers:
            own = scan is not None and scan.unique_id in owners_of(layer, layers)
            if isinstance(layer, Labels) and not is_output(layer) and own:
                layer.contour = 1
                self.agreement.truth.chooser.choose(layer)

    def _on_scan(self) -> None:
        """Another scan is chosen: it alone is shown, and nothing of the panel is of another."""
        scan = self.inputs.scan
        self.notices.forget_error()  # it was about another
        self.findings.table.take_note()
        self._switching = True
        self.agreement.truth.lie_on(scan)
        self._switching = False
        self.views.stop_comparing()
        if self.outcome is not None:
            self.agreement.forget(self.outcome)  # shows what hits and misses have covered
            if not self._of_chosen and not self.outcome.preview:
                # A result is not to be replaced because somebody looks at another scan.
                self.follow.box.setChecked(False)
        if scan is not None:
            if METADATA_KEY in scan.metadata:
                stand_upright(self._viewer)
            self._bring_into_view(scan)
        self._say_whose()
        self._measure()
        self._enable()
        self._say_switched()

    def _bring_into_view(self, scan: Layer) -> None:
        layers = self._viewer.layers
        before = next((each for each in layers if each.unique_id == self._in_view), None)
        self._in_view = scan.unique_id
        bring_into_view(self._viewer, scan, before)
        if self._listing:
            return  # napari selects by itself what has come, or what is left
        if scan_behind(layers.selection.active, layers) not in (None, scan.unique_id):
            layers.selection.active = unwrapped(scan)

    def leave(self) -> None:
        """The dock is closed: show again what hits and misses have covered."""
        if self.outcome is not None:
            self.agreement.forget(self.outcome)
        super().leave()

    @property
    def _of_chosen(self) -> bool:
        """Whether the outcome is of the scan that is chosen."""
        layer = None if self.outcome is None else self.outcome.layers.scan_layer
        return layer is not None and self.scan_chooser.layer_id == layer.unique_id

    @property
    def _in_sight(self) -> bool:
        """Whether the outcome may be looked at: no other scan is chosen."""
        none_chosen = self.scan_chooser.layer_id is None
        return self.outcome is not None and (none_chosen or self._of_chosen)

    @property
    def _grid(self) -> Hashable:
        """What a voxel's number in the outcome's volume means."""
        assert self.outcome is not None
        return self.outcome.scan.shape, self.outcome.layers.volume.order

    def _on_moved(self) -> None:
        """Layers were moved, or have other voxels: say what no longer fits, and offer the rest."""
        scan = self.inputs.scan
        self.inputs.brain.lie_on(scan)
        self.agreement.truth.lie_on(scan)
        self._on_layers()
        misfit = "" if self.outcome is None else self.outcome.misfit
        if misfit != self._misfit:
            self._misfit = misfit
            self._show_sections()
            self._measure()
        self.follow.look()

    def _say_whose(self) -> None:
        """Name the scan that is chosen, and show the outcome only with its own scan."""
        outcome, scan = self.outcome, self.inputs.scan
        shown = outcome if self._in_sight else None
        words = found = ""
        if outcome is not None:
            layer = outcome.layers.scan_layer
            if layer is None:
                found = outcome.title
                words = texts.CLOSED_SCAN.format(found)
            else:
                found = title_of(layer)
                there = outcome.detection is not None or self.running
                if there and not self._of_chosen:
                    words = texts.OTHER_SCAN.format(title_of(layer, "'"))
            if shown is not None and outcome.misfit:
                words = outcome.misfit
        chosen = self.scan_chooser.layer_id
        mine = [each for each in self._viewer.layers if is_output(each) and scan_of(each) == chosen]
        if words and mine and shown is None:  # those of an earlier run
            words = f"{words} {texts.RESULTS_SHOWN}"
        say(self.whose, words)
        say(self.warnings, self._notes if shown is not None else "")
        if self.views.outcome is not shown:
            self.saving.outcome = self.views.outcome = shown
        title = "" if scan is None else title_of(scan)
        self._sections[texts.SCAN_SECTION.label].name(title and texts.SCAN_NAMED.format(title))
        found = "" if shown is None else found
        self.findings_section.name(found and texts.FINDINGS_NAMED.format(found))
        self.save_section.name(found and texts.SAVE_NAMED.format(found))
        named = title and self._several_scans
        self.run_button.say(texts.RUN_NAMED.format(title) if named else texts.RUN.label)
        tips = (texts.RUN_IS_ON.format(title) if title else "", texts.RUN.tip)
        self.run_button.setToolTip("\n".join(filter(None, tips)))
        self._show_sections()

    @property
    def _several_scans(self) -> bool:
        return sum(map(may_be_scan, self._viewer.layers)) > 1

    def _say_switched(self) -> None:
        """Let the status line be no longer about the scan before."""
        scan = self.inputs.scan
        if self.running:
            self._tell("...")
        elif scan is not None and self._several_scans:
            say(self.status, texts.RUN_IS_ON.format(title_of(scan)))

    def _show_sections(self) -> None:
        """Show the findings of the scan in view, but not in mL and mm that no longer hold."""
        found = self._in_sight and self.outcome is not None and self.outcome.marked is not None
        for section in (self.findings_section, self.save_section):
            section.setVisible(found and not self._misfit)

    def _warn(self, words: str) -> None:
        """Say what is to be known of the outcome, while it may be looked at."""
        self._notes = words
        say(self.warnings, words if self._in_sight else "")

    def _tell(self, words: str) -> None:
        """Say how a run goes, and on which scan if that is not the chosen one."""
        request, layers = self._request, self._viewer.layers
        if request is not None and request.scan_id != self.scan_chooser.layer_id:
            own = [title_of(layer) for layer in layers if layer.unique_id == request.scan_id]
            words = f"{texts.RUNNING_ON.format(*own or (request.scan.name,))}: {words}"
        say(self.status, words)

    def _on_said(self, words: str) -> None:
        say(self.status, words)

    # --- a run -----------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._job is not None

    def _start_aside(self, *args: Any, **options: Any) -> Job:
        """Start a job of a section."""
        self._aside = self._start(*args, **options)
        return self._aside

    def _ask(self, preview: bool = False) -> RunRequest | None:
        """What scan, settings and position stand for; None when a run is not possible."""
        scan = self.inputs.scan
        if scan is None or self.model.specification is None:
            return None

        self.follow.update_point()
        # The run asks from its own thread, where no layer is touched.
        origin = np.array(scan.world_to_data((0.0,) * scan.ndim))
        to_data = [np.array(scan.world_to_data(axis)) - origin for axis in np.eye(scan.ndim)]
        turn, ndim, follow = np.stack(to_data), scan.ndim, self.follow

        def where() -> tuple[float, ...]:
            point = follow.position if preview else follow.point
            index = origin + np.array(point[-ndim:]) @ turn
            return tuple(index[-3:].tolist())  # a frame before them has no say

        return RunRequest(
            scan=LayerData.of(scan),
            checkpoint=self.model.checkpoint,
            settings=self.model.settings,
            brain_mask=self.inputs.brain_mask,
            position=where(),
            this_slice=False,
            scan_id=scan.unique_id,
            session=self.session,
            where=where,
        )

    def run(self) -> None:
        """Start a run with the settings as they stand."""
        request = self._ask()
        if request is None or self.running:
            return
        self._clear_messages()
        self.follow.hold(True)
        self._patchwork = None
        self._request = replace(
            request,
            this_slice=self.model.this_slice.isChecked(),
            threshold=lambda: self.findings.marking,
        )
        self._begun = False
        self._cancelled = self._whole = False
        self._started = time.perf_counter()
        self.notices.begin()
        self._job = self._start(
            "Detect anomalies",
            run_steps,
            self._request,
            yielded=self._on_yielded,
            errored=self.notices.show_error,
            finished=self._on_finished,
        )
        self._enable()

    def cancel(self) -> None:
        """Stop the run within one step of the network; finished slices stay."""
        if self._request is not None:
            self._cancelled = True
            self._request.cancelled.set()
            self.cancel_button.setEnabled(False)
            say(self.status, "Cancelling ...")

    def _on_yielded(self, item: Status | RunStarted | Progress | ResultReady) -> None:
        if isinstance(item, Status):
            if not self._cancelled:
                self._tell(item.words + " ...")
        elif isinstance(item, RunStarted):
            self.model.offer_devices(item.devices)
            self._arrived = item
        elif isinstance(item, ResultReady):
            self._begin_run()
            self._on_progress(item.progress)
            self._on_found(item)
        else:
            self._on_progress(item)
        lay_out_now(self.notices)

    def _begin_run(self) -> None:
        """The run has something to show: what an earlier one gave has stayed until now."""
        if not self._begun:
            assert self._request is not None
            assert self._arrived is not None
            self._begun = True
            self._begin_outcome(self._request, self._arrived)
            self._arrived = None  # which holds the scan

    def _begin_outcome(self, request: RunRequest, begun: RunStarted) -> None:
        """From now on another scan, or other settings, are shown."""
        self.findings.table.take_note()
        self._shown_for = request.without_slices
        self.outcome = Outcome(
            layers=ResultLayers(self._viewer, request.scan, request.scan_id, begun.scan),
            checkpoint=begun.checkpoint,
            mask_path=begun.mask_path,
            mask_given=begun.brain_mask is not None,
            name=without_folder(request.scan.name, request.scan.meta.get("metadata", {})),
            title=request.scan.name,
        )
        self._notes = ""
        self.agreement.forget(self.outcome)
        scan, layer = (request.scan_id, self._grid), self.outcome.layers.scan_layer
        # on what an earlier panel has shown
        earlier = {} if layer is None else _decided.get(unwrapped(layer), {})
        self.findings.begin(begun.checkpoint.specification, scan, earlier.get(self._grid, ()))
        self._misfit = self.outcome.misfit
        self._say_whose()

    def _on_progress(self, progress: Progress) -> None:
        if progress.stage == "prepare":
            words = "Preparing the scan ..."
        elif progress.stage == "reconstruct":
            if not self.notices.is_due():
                return
            words = f"Reconstructing: {progress.done}/{progress.total}"
            words += "" if progress.eta is None else f", about {format_duration(progress.eta)} left"
            self.progress.tell(progress.done, progress.total)
        else:
            words = "Finishing ..."
        if not self._cancelled:
            self._tell(words)

    def _on_found(self, found: ResultReady) -> None:
        assert self.outcome is not None
        assert found.progress.result is not None
        self.outcome.detection, self.outcome.marker = found.progress.result, found.marker
        self._whole = found.progress.stage == "finish"
        self.outcome.quality = found.quality
        self.outcome.agreement = None
        self._show(tuple(np.flatnonzero(found.progress.result.done).tolist()))

    def _show(self, changed: Sequence[int]) -> None:
        """Show the result, which differs in some slices from what is shown, and its findings."""
        assert self.outcome is not None
        assert self.outcome.detection is not None
        self.outcome.layers.show(self.outcome.detection, self.threshold.value(), changed)
        self._mark()

    def _on_finished(self) -> None:
        """The run is over, and what it gave is shown."""
        self._job = None
        self._request = None
        self.progress.hide()
        outcome = self.outcome if self._begun else None
        detection = None if outcome is None else outcome.detection
        words = ""
        if outcome is not None and detection is not None:
            assert detection.slices is not None  # it comes from a run
            brain = detection.slices.reconstructed
            done, count = int((detection.done & brain).sum()), int(brain.sum())
            took = format_duration(time.perf_counter() - self._started, tenths=True)
            where = f"on {detection.device}, in {detection.precision}"
            if not self._whole:
                words = "Cancelled" if self._cancelled else "Stopped"
                words += f" after {took} {where}; {done} of {count} slices are done"
            else:
                words = f"Done in {took} {where}"
                if detection.settings.slices is None:
                    # It is not to be replaced by previews when a setting is touched.
                    self.follow.box.setChecked(False)
            self._warn("\n".join(outcome.warnings))
            self.findings.end(detection)
            words = f"{words}. {self._corrections_kept(outcome)}".removesuffix(". ")
        elif self._cancelled:
            words = "Cancelled before the first slice was done"
        elif not self.error.text():  # as when napari ends all jobs of a window
            words = "Stopped before the first slice was done: press Run to begin again"
        if outcome is not None and not self._in_sight:
            layer = outcome.layers.scan_layer
            words = f"{outcome.title if layer is None else title_of(layer)}: {words}"
        say(self.status, words)
        self._enable()
        self._measure()
        self.follow.hold(False)

    # --- previews --------------------------------------------------------------------------------

    def _ask_preview(self) -> RunRequest | None:
        """What to preview; None when a run has done the slice already."""
        request, outcome = self._ask(preview=True), self.outcome
        if (
            request is not None
            and outcome is not None
            and outcome.detection is not None
            and not outcome.preview
            and request.without_slices == self._shown_for
            and outcome.detection.done[outcome.layers.volume.slice_at(request.position)]
        ):
            return None
        return request

    def _on_preview(self, request: RunRequest, begun: RunStarted, item: ResultReady) -> None:
        ids = [layer.unique_id for layer in self._viewer.layers]
        if self.running or request.scan_id not in ids:
            return
        if self.outcome is None or request.without_slices != self._shown_for:
            self.model.offer_devices(begun.devices)
            self._begin_outcome(request, begun)
            self._patchwork = None
        assert self.outcome is not None
        result = item.progress.result
        assert result is not None
        if self._patchwork is None:
            self._patchwork = Patchwork.begin(result, self.outcome.detection)
        changed = self._patchwork.put(result, begun.scan.slice_at(request.position))
        self.outcome.detection = self._patchwork.detection
        self.outcome.preview, self.outcome.quality = True, None
        self.agreement.forget(self.outcome)
        self._show(changed)
        self._warn("\n".join(self.outcome.detection.warnings))
        self._enable()

    # --- review ----------------------------------------------------------------------------------

    def _mark(self) -> None:
        """Label and count the findings of the result under the threshold."""
        outcome = self.outcome
        if outcome is None or outcome.detection is None:
            return
        marked = outcome.mark(self.threshold.value(), self.minimum.value())
        self.findings.show_marked(outcome.detection, marked)
        outcome.decisions = dict(self.findings.table.decisions)
        colors = finding_colors(*self.findings.table.highlights)
        outcome.layers.show_labels(marked.labels, colors, marked.box)
        if not self.running and (kept := self._corrections_kept(outcome)):
            say(self.status, kept)
        self.agreement.show_marked(outcome)
        self.views.color_bar.set_threshold(marked.threshold)
        self._show_sections()
        lay_out_now(self.findings)

    def _corrections_kept(self, outcome: Outcome) -> str:
        """Say once where a person's corrections are now."""
        name, outcome.layers.corrected = outcome.layers.corrected, None
        return "" if name is None else texts.CORRECTIONS_KEPT.format(name)

    def _on_decided(self) -> None:
        outcome = self.outcome
        if outcome is None:
            return
        outcome.decisions = dict(self.findings.table.decisions)
        outcome.layers.color_labels(finding_colors(*self.findings.table.highlights))
        layer = outcome.layers.scan_layer
        if layer is not None:  # which outlives the panel
            earlier = _decided.setdefault(unwrapped(layer), {})
            earlier[self._grid] = self.findings.table.decided_on

    def _step_finding(self, by: int) -> None:
        if self._in_sight:
            self.findings.table.step(by)

    def _on_picked(self, id: int) -> None:
        outcome = self.outcome if self._in_sight else None
        if outcome is not None and outcome.marked is not None:
            outcome.layers.color_labels(finding_colors(*self.findings.table.highlights))
            outcome.layers.go_to(outcome.marked.middle(id))

    def _on_resumed(self, review: SavedReview) -> None:
        """Go on with the review of the outcome that a record holds."""
        outcome = self.outcome
        assert outcome is not None
        self.findings.mark_at(review.threshold, review.minimum_ml)
        assert outcome.marked is not None
        placed = match_numbers(review.labels.data, outcome.marked.labels)
        outcome.renumber(placed)
        self._mark()
        self.findings.table.take(review.decided(placed))
        if review.corrected:
            outcome.layers.show_corrections(review.labels.data)
        there = len(review.decisions.keys() & self.findings.table.decisions.keys())
        say(self.status, describe_resumed(review, self.minimum.value(), there))

    def _measure(self) -> None:
        """Compare with the ground truth of the same scan, but not while the result still grows."""
        if self.outcome is None or self._switching:
            return
        if self.running or not self._of_chosen or self.outcome.misfit:
            self.agreement.forget(self.outcome)
        else:
            self.agreement.compare(self.outcome)

    # --- messages --------------------------------------------------------------------------------

    def _clear_messages(self) -> None:
        self._warn("")
        self.notices.clear()

    def _enable(self) -> None:
        ready = self.model.specification is not None and self.scan_chooser.layer_id is not None
        self.run_button.setEnabled(ready and not self.running)
        self.cancel_button.setEnabled(self.running and not self._cancelled)
        outcome = self.outcome
        done = outcome is not None and outcome.detection is not None
        preview = outcome is not None and outcome.preview
        misfit = "" if outcome is None else outcome.misfit
        for each in (self.save_button, self.saving.resume_button):
            savable = done and self._in_sight and not preview and not misfit
            each.setEnabled(savable and not self.running)
        tip = texts.PREVIEW_NOT_SAVED if preview else texts.SAVE.tip
        self.save_button.setToolTip(misfit or tip)


class _Farewell:
    """What is left to do when the panel is gone: stop its jobs, give the network's memory back."""

    def __init__(self, panel: DetectWidget) -> None:
        self._panel = weakref.ref(panel)
        self._jobs = panel._jobs  # the panel's Python side may be gone before Qt's

    def __call__(self) -> None:
        self._jobs.quit()
        panel = self._panel()
        if panel is not None:
            events = panel._viewer.layers.events
            for event in (events.inserted, events.removed, events.reordered, events.renamed):
                event.disconnect(panel._on_layers)
            panel._watch.close()
            panel._viewer.layers.selection.events.active.disconnect(panel._on_active)
            panel._unwatch()
            panel.follow.disconnect_viewer()
            panel.session.clear()
        free_memory()
