"""Runs and previews of the panel: from its fields to a request, and from results to layers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject

from napari_addm.detection.pipeline import Progress
from napari_addm.detection.session import Session
from napari_addm.widgets.detect_panel.controller import DetectController, describe_progress
from napari_addm.widgets.detect_panel.follow import FollowSlice
from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted, run_steps
from napari_addm.widgets.detect_panel.scan import ScanInputs
from napari_addm.widgets.detect_panel.state import Done, Outcome, Preparing, ScanReview
from napari_addm.widgets.forms import in_turns, lay_out_now, single_shot
from napari_addm.widgets.jobs import Job, Jobs, Status
from napari_addm.widgets.layer_volumes import LayerData
from napari_addm.widgets.model_settings import ModelSettings
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.status_bar import Notices
from napari_addm.widgets.titles import without_folder

if TYPE_CHECKING:
    import napari


class Runner(QObject):
    """Starts runs and previews, and gives the controller what they yield.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : ScanInputs
    model : ModelSettings
    notices : Notices
        Shows progress and errors.
    jobs : Jobs
    parent : QObject

    Attributes
    ----------
    controller : DetectController
    follow : FollowSlice
    session : Session
        What runs and previews have reconstructed.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        inputs: ScanInputs,
        model: ModelSettings,
        notices: Notices,
        jobs: Jobs,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._inputs = inputs
        self._model = model
        self._notices = notices
        self._jobs = jobs
        self._job: Job | None = None
        self._layers: tuple[RunStarted, ResultLayers] | None = None
        # What jobs have told; the first is being taken.
        self._waiting: deque[Callable[[], Iterator[None] | None]] = deque()
        self._next = single_shot(self, 0, self._take_next)
        self.session = Session()
        self.controller = DetectController(self._make_outcome)
        self.controller.changed.connect(self._on_changed)
        self.controller.result_came.connect(self._on_result)
        self.follow = FollowSlice(viewer, jobs.start, self._ask_preview)
        self.follow.shown.connect(self._on_preview)

    def _ask(self, preview: bool = False) -> RunRequest | None:
        """Make a request from the fields; None when a run is not possible."""
        scan = self._inputs.scan
        if scan is None or self._model.specification is None:
            return None
        self.follow.update_point()
        # The run asks for the position in its own thread, which touches no layer.
        origin = np.array(scan.world_to_data((0.0,) * scan.ndim))
        to_data = [np.array(scan.world_to_data(axis)) - origin for axis in np.eye(scan.ndim)]
        turn, ndim, follow = np.stack(to_data), scan.ndim, self.follow
        here = follow.point

        def where() -> tuple[float, ...]:
            point = follow.position if preview else follow.point
            if len(point) < ndim:  # all layers were closed meanwhile
                point = here
            index = origin + np.array(point[-ndim:]) @ turn
            return tuple(index[-3:].tolist())  # without the frame, which comes before them

        return RunRequest(
            scan=LayerData.of(scan),
            checkpoint=self._model.checkpoint,
            settings=self._model.settings,
            brain_mask=self._inputs.brain_mask,
            position=where(),
            this_slice=not preview and self._model.this_slice.isChecked(),
            scan_id=scan.unique_id,
            session=self.session,
            where=where,
        )

    def _make_outcome(self, request: RunRequest, started: RunStarted) -> Outcome:
        metadata = request.scan.meta.get("metadata", {})
        return Outcome(
            layers=self._layers_of(request, started),
            checkpoint=started.checkpoint,
            mask_path=started.mask_path,
            mask_given=started.brain_mask is not None,
            name=without_folder(request.scan.name, metadata),
            title=request.scan.name,
            scan_id=request.scan_id,
            asked_for=request.without_slices,
        )

    def _layers_of(self, request: RunRequest, started: RunStarted) -> ResultLayers:
        """The layers of a run or preview, which are made before its outcome."""
        if self._layers is None or self._layers[0] is not started:
            layers = ResultLayers(self._viewer, request.scan, request.scan_id, started.scan)
            self._layers = started, layers
        return self._layers[1]

    def _on_changed(self) -> None:
        run = self.controller.run
        self.follow.hold(self.controller.running)
        closed = isinstance(run, Preparing) and (
            run.request.scan_id not in self.controller.opened.titles
        )
        if closed and self._job is not None:
            self._job.quit()  # a last result would be for nobody

    def _on_result(self, outcome: Outcome, changed: Sequence[int]) -> None:
        assert outcome.detection is not None
        assert outcome.marked is not None
        outcome.layers.show(outcome.detection, outcome.marked.threshold, changed)

    @property
    def previewing(self) -> bool:
        """Whether a preview goes on, is about to, or is still to be shown."""
        return self.follow.working or bool(self._waiting)

    # --- what jobs tell --------------------------------------------------------------------------

    def _hear(self, take: Callable[..., Iterator[None] | None], *args: Any) -> None:
        """Take what a job tells, after all that was told before; `take` may need several turns."""
        self._waiting.append(partial(take, *args))
        if len(self._waiting) == 1:
            self._take_next()

    def _take_next(self) -> None:
        in_turns(self, _steps(self._waiting[0]), self._taken)

    def _taken(self) -> None:
        self._waiting.popleft()
        if self._waiting:
            self._next.start()

    def _make_layers(
        self, review: ScanReview, request: RunRequest, started: RunStarted, result: ResultReady
    ) -> Iterator[None]:
        """Make the layers that the first result needs, one by one: each takes a while."""
        detection = result.progress.result
        assert detection is not None
        layers = self._layers_of(request, started)
        return layers.make_new(detection, review.marking.threshold)

    # --- runs ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start a run with the settings as they stand."""
        request = self._ask()
        if request is None or self.controller.why_not_run:
            return
        self._notices.clear()
        self._notices.begin()
        self._job = self._jobs.start(
            "Detect anomalies",
            run_steps,
            self.controller.start(request),
            yielded=self._on_yielded,
            errored=self._on_errored,
            finished=self._on_finished,
        )

    def _on_yielded(self, item: Status | RunStarted | Progress | ResultReady) -> None:
        self._hear(self._take, item)

    def _take(self, item: Status | RunStarted | Progress | ResultReady) -> Iterator[None]:
        run = self.controller.run
        if isinstance(item, Status):
            self.controller.tell(f"{item.words} ...")
        elif isinstance(item, RunStarted):
            self._model.offer_devices(item.devices)
            self.controller.take_started(item)
        elif isinstance(item, ResultReady):
            self._on_progress(item.progress)
            if isinstance(run, Preparing) and run.started is not None:
                yield from self._make_layers(run.review, run.request, run.started, item)
            self.controller.take_result(item)
        else:
            self._on_progress(item)
        lay_out_now(self._notices)

    def _on_progress(self, progress: Progress) -> None:
        if progress.stage != "reconstruct":
            self.controller.tell(describe_progress(progress))
        elif self._notices.is_due():
            self.controller.tell(describe_progress(progress))
            self._notices.progress.tell(progress.done, progress.total)

    def _on_errored(self, error: Exception) -> None:
        self._hear(self._fail, error)

    def _fail(self, error: Exception) -> None:
        self.controller.fail(error)
        self._notices.show_error(error)

    def _on_finished(self) -> None:
        self._hear(self._end)

    def _end(self) -> None:
        self._job = None
        self._notices.progress.hide()
        self.controller.end()
        run = self.controller.run
        if isinstance(run, Done) and run.whole_volume:
            # Previews must not replace the result when a setting is touched.
            self.follow.box.setChecked(False)

    # --- previews --------------------------------------------------------------------------------

    def _ask_preview(self) -> RunRequest | None:
        """Make a request for the slice on screen; None when a run has done it already."""
        request, outcome = self._ask(preview=True), self.controller.outcome
        if request is not None and outcome is not None:
            here = outcome.layers.volume.slice_at(request.position)
            if self.controller.is_done(request, here):
                return None
        return request

    def _on_preview(self, request: RunRequest, started: RunStarted, result: ResultReady) -> None:
        self._hear(self._take_preview, request, started, result)

    def _take_preview(
        self, request: RunRequest, started: RunStarted, result: ResultReady
    ) -> Iterator[None]:
        self._model.offer_devices(started.devices)
        review = self.controller.review_of_preview(request)
        if review is not None and not review.goes_on(request):
            yield from self._make_layers(review, request, started, result)
        self.controller.take_preview(request, started, result)


def _steps(take: Callable[[], Iterator[None] | None]) -> Iterator[None]:
    yield from take() or ()
