"""A run or a preview: what the panel asks for, and its steps in another thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.detection.devices import threads_beside_window, usable_devices
from napari_addm.detection.pipeline import Progress, detect
from napari_addm.detection.quality import Quality, check_quality
from napari_addm.detection.session import Session
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import InputError
from napari_addm.io.volume import Volume
from napari_addm.review.marking import CachedLabeller
from napari_addm.widgets.jobs import Status
from napari_addm.widgets.layer_volumes import (
    LayerData,
    LayerVolume,
    labels_file,
    labels_notes,
    labels_volume,
    scan_volume,
)
from napari_addm.widgets.loading import import_libraries, load_checkpoint_once


@dataclass(frozen=True, eq=False)
class RunRequest:
    """All that a run needs, taken when Run was pressed.

    Attributes
    ----------
    scan : LayerData
    checkpoint : Path
    settings : DetectionSettings
        Their ``slices`` are set here from the scope.
    brain_mask : LayerData or None
    position : tuple of float
        Where the viewer is, in the scan layer's voxels.
    this_slice : bool
        Only the slice at `position`; else the whole volume, from there outward.
    scan_id : hashable, optional
        `unique_id` of the scan's layer.
    session : Session, optional
        What other requests have reconstructed, and where this one keeps its own.
    where : callable, optional
        Gives the position again during the run; called in the other thread.
    reach_mm : float, optional
        Only this far on either side of the position: a preview.
    threshold : callable, optional
        Gives threshold and smallest finding (mL) to mark results with; called in the other thread.
    cancelled : Event
        Ends the run within a step of the network, with the result of all finished slices. To quit
        the job ends it without that result.
    """

    scan: LayerData
    checkpoint: Path
    settings: DetectionSettings
    brain_mask: LayerData | None
    position: tuple[float, ...]
    this_slice: bool
    scan_id: Hashable = None
    session: Session | None = None
    where: Callable[[], tuple[float, ...]] | None = None
    reach_mm: float | None = None
    threshold: Callable[[], tuple[float, float]] | None = None
    cancelled: Event = field(default_factory=Event)

    @property
    def without_slices(self) -> Hashable:
        """Identify the request, whichever slices it asks for."""
        brain, mask = self.brain_mask, None
        if brain is not None:
            mask = id(brain.data), brain.place
        return self.scan_id, self.scan.place, mask, self.checkpoint, self.settings


@dataclass(frozen=True, eq=False)
class RunStarted:
    """Everything is read; the network comes next.

    Attributes
    ----------
    scan : LayerVolume
    checkpoint : Checkpoint
        Without its weights, which the panel need not keep.
    brain_mask : Volume or None
    mask_path : Path or None
        See `labels_file`; None for a preview.
    devices : tuple of str
        Devices that torch finds on this machine.
    """

    scan: LayerVolume
    checkpoint: Checkpoint
    brain_mask: Volume | None
    mask_path: Path | None
    devices: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ResultReady:
    """A result, partial or whole.

    Attributes
    ----------
    progress : Progress
        With the result, whose warnings include the brain mask's.
    labeller : CachedLabeller or None
        Labels the result; it has done so once where the request gives a threshold.
    quality : Quality or None
        Of the scan, as far as it is done.
    """

    progress: Progress
    labeller: CachedLabeller | None
    quality: Quality | None = None


def run_steps(request: RunRequest) -> Iterator[Status | RunStarted | Progress | ResultReady]:
    """Carry out a request; a generator for a job.

    Raises
    ------
    AddmError
        When layers, checkpoint or settings cannot be used.
    """
    yield Status("Reading the scan")
    scan = scan_volume(request.scan)
    mask, mask_path, notes = _read_brain_mask(request, scan.volume)
    yield Status("Loading the checkpoint")
    if request.cancelled.is_set():
        return
    import_libraries()
    checkpoint = load_checkpoint_once(request.checkpoint)
    if request.cancelled.is_set():
        return  # so that an earlier result stays
    yield RunStarted(scan, replace(checkpoint, weights={}), mask, mask_path, usable_devices())
    settings, first_slice = _slices(request, scan)
    for progress in detect(
        scan.volume,
        checkpoint,
        settings,
        None if mask is None else mask.data != 0,
        first_slice=first_slice,
        session=request.session,
        cancelled=request.cancelled.is_set,
        threads=threads_beside_window(),
    ):
        if progress.result is None:
            yield progress
        else:
            yield _result_ready(progress, notes, request, checkpoint)


def _read_brain_mask(
    request: RunRequest, scan: Volume
) -> tuple[Volume | None, Path | None, tuple[str, ...]]:
    """Read the mask; gives its file and its warnings, too."""
    layer = request.brain_mask
    if layer is None:
        return None, None, ()
    mask = labels_volume(layer, scan)
    if not mask.data.any():
        raise InputError(
            f"layer '{layer.name}' is empty, so it marks no brain: paint the brain in it, or "
            "choose another brain mask or 'Automatic'."
        )
    # A preview is never saved, and there are many of them.
    path = None if request.reach_mm is not None else labels_file(mask, "brain mask", scan)
    return mask, path, labels_notes("brain mask", mask, scan)


def _slices(
    request: RunRequest, scan: LayerVolume
) -> tuple[DetectionSettings, int | Callable[[], int]]:
    """Set the slices of the settings; gives the first slice, too, or what asks for it."""
    here, where = scan.slice_at(request.position), request.where
    if request.this_slice:
        return request.settings.replace(slices=(here,)), here
    if request.reach_mm is not None:
        reach = round(request.reach_mm / scan.volume.spacing[0])
        near = range(max(0, here - reach), min(scan.volume.shape[0], here + reach + 1))
        preview = {"slices": tuple(near), "context_mm": 0.0, "regions": False}
        return request.settings.replace(**preview), here
    if where is None:
        return request.settings, here
    return request.settings, lambda: scan.slice_at(where())


def _result_ready(
    progress: Progress, notes: tuple[str, ...], request: RunRequest, checkpoint: Checkpoint
) -> ResultReady:
    """Mark a result and check the quality of its scan, before the GUI's thread gets it."""
    assert progress.result is not None
    result = replace(progress.result, warnings=(*progress.result.warnings, *notes))
    labeller = None
    if request.threshold is not None:
        labeller = CachedLabeller(result)
        labeller.label(*request.threshold())
    quality = None
    if result.slices is not None:
        quality = check_quality(result.slices, checkpoint.specification, result)
    return ResultReady(replace(progress, result=result), labeller, quality)
