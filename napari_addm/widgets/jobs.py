"""Work off the GUI thread: from layers as they were at the press of a button to results.

Nothing here touches a layer or a widget; the panel takes pictures of the
layers on the main thread (:class:`LayerData`) and hears back by Qt signals.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from qtpy.QtCore import QCoreApplication, QEvent, QObject, QThreadPool, Signal  # type: ignore[attr-defined]
from superqt.utils import WorkerBase

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection, Progress, detect, usable_devices
from napari_addm.detection.quality import Quality, check_quality
from napari_addm.detection.session import Session
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.io.reading import read_beside, read_labels
from napari_addm.io.resampling import resample_labels
from napari_addm.io.volume import GRID_OF_LAYER, Volume
from napari_addm.review.marking import CachedLabeller
from napari_addm.widgets.layers import (
    COMPUTED_KEY,
    GEOMETRY,
    METADATA_KEY,
    LayerGeometry,
    LayerTuple,
    spatial_part,
    volume_from_layer_data,
    volume_to_layer,
)
from napari_addm.widgets.viewing.threads import (
    import_libraries,
    layers_are_warm,
    run_behind_the_gui,
    warm_layers,
    warm_units,
)
from napari_addm.widgets.viewing.turns import Turns

if TYPE_CHECKING:
    from napari.layers import Layer

HANDLED_SECONDS = 0.05
"""How often a job that waits for the GUI looks whether it was told to stop."""

LAST_SECONDS = 30.0
"""How long Python, which ends, waits for a job to stop within its step."""


@dataclass(frozen=True, eq=False)
class LayerData:
    """A layer's voxels and arguments at one moment, to be used in another thread.

    Attributes
    ----------
    data : array-like
        Whatever the layer holds: numpy, dask, zarr ...
    meta : dict
        The layer's other arguments, the name among them.
    """

    data: Any
    meta: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer) -> LayerData:
        """Take the picture, of the last three axes where that is possible; main thread only."""
        data, meta, _ = layer.as_layer_data_tuple()
        return cls(*spatial_part(data, meta))

    @property
    def name(self) -> str:
        return str(self.meta["name"])

    @property
    def place(self) -> tuple[Hashable, ...]:
        """What tells two places and shapes of a layer apart."""
        numbers = tuple(
            np.asarray(self.meta[key], np.float64).tobytes()
            for key in ("scale", "translate", "rotate", "shear", "affine")
            if self.meta.get(key) is not None
        )
        return np.shape(self.data), numbers, tuple(map(str, self.meta.get("units") or ()))


@dataclass(frozen=True, eq=False)
class Placed:
    """A layer's volume, and the way from the volume's voxel order back to the layer's.

    The two orders are one for layers that our reader made. A layer of another
    reader may count an axis the other way, or in another order.

    Attributes
    ----------
    volume : Volume
        The voxels as S, A, R.
    in_layer_order : bool
        Whether the layer's voxels have that order, too.
    """

    volume: Volume
    in_layer_order: bool

    def to_layer(self, array: np.ndarray) -> np.ndarray:
        """An array of the volume's shape in the layer's voxel order (a view)."""
        return array if self.in_layer_order else self.volume.with_data(array).to_native()

    def from_layer(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_layer` (a view)."""
        if self.in_layer_order:
            return array
        source = self.volume.source
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in source.flips)
        return array.transpose(source.axes)[steps]

    def index_in_layer(self, index: tuple[int, int, int]) -> tuple[int, ...]:
        """Where a voxel (s, a, r) of the volume stands in the layer."""
        if self.in_layer_order:
            return index
        source, there = self.volume.source, [0, 0, 0]
        for axis, n, flip, count in zip(
            source.axes, index, source.flips, self.volume.shape, strict=True
        ):
            there[axis] = count - 1 - n if flip else n
        return tuple(there)

    def slice_at(self, index: tuple[float, ...], cut: int = 0) -> int:
        """The volume's slice that holds a position given in the layer's voxels.

        Parameters
        ----------
        index : tuple of float
        cut : int
            The volume's axis (S, A, R) that the slices lie across.
        """
        source, count = self.volume.source, self.volume.shape[cut]
        position = index[cut] if self.in_layer_order else index[source.axes[cut]]
        nearest = int(np.clip(np.round(position), 0, count - 1))
        flipped = not self.in_layer_order and source.flips[cut]
        return count - 1 - nearest if flipped else nearest

    @property
    def order(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Which of the layer's axes S, A and R are, and which of them run the other way."""
        if self.in_layer_order:
            return (0, 1, 2), (False, False, False)
        return self.volume.source.axes, self.volume.source.flips

    def cut_of(self, axis: int) -> int:
        """The volume's axis (S, A, R) that is an axis of the layer."""
        return axis if self.in_layer_order else self.volume.source.axes.index(axis)


def place(layer: LayerData) -> Placed:
    """The volume that a layer shows; voxels as they are.

    Raises
    ------
    InputError
        When it is no 3D grey image or labels layer.
    """
    volume = volume_from_layer_data(layer.data, layer.meta)
    kept = layer.meta.get("metadata", {}).get(METADATA_KEY)
    return Placed(volume, isinstance(kept, LayerGeometry) and volume.affine is kept.affine)


def place_grid(layer: LayerData) -> Volume:
    """Only the grid of a layer: its voxels (which dask may yet have to compute) are not read.

    Raises
    ------
    InputError
        As `place`.
    """
    shape = np.shape(layer.data)
    empty = np.broadcast_to(np.uint8(0), shape)
    return volume_from_layer_data(empty, layer.meta)


def place_scan(layer: LayerData) -> Placed:
    """The scan that a layer shows, float32 and finite.

    Raises
    ------
    InputError
        When it is no 3D grey image, or holds no number at all or only one.
    """
    placed = place(layer)
    volume = placed.volume
    if COMPUTED_KEY in layer.meta.get("metadata", {}):
        # A copy of a result lies where the scan's file lies, but that file does not hold it.
        source = replace(volume.source, path=None, series=(), frame=None, name=layer.name)
        volume = replace(volume, source=source)
        placed = replace(placed, volume=volume)
    if not (np.issubdtype(volume.data.dtype, np.number) or volume.data.dtype == bool) or (
        np.iscomplexobj(volume.data)
    ):
        raise InputError(
            f"layer '{layer.name}' has voxels of type {volume.data.dtype}: choose a grey image."
        )
    data = np.asarray(volume.data, np.float32)
    finite = np.isfinite(data)
    if not finite.any():
        raise InputError(f"layer '{layer.name}' holds no number in any voxel: choose another.")
    whole = bool(finite.all())
    numbers = data if whole else data[finite]
    if numbers.min() == numbers.max():
        raise InputError(f"layer '{layer.name}' has the same value in every voxel: choose another.")
    if whole:
        return replace(placed, volume=volume.with_data(data))
    bad = data.size - int(np.count_nonzero(finite))
    warning = f"{bad} voxels ({bad / data.size:.2%}) were NaN or infinite and are taken as 0."
    data = np.where(finite, data, np.float32(0))
    return replace(placed, volume=volume.with_data(data, (*volume.warnings, warning)))


def place_labels(layer: LayerData, scan: Volume) -> Volume:
    """A labels layer on the scan's voxels.

    Raises
    ------
    InputError
        When it lies on others, or has several frames.
    """
    if np.ndim(layer.data) > 3:  # of a scan a frame can be taken
        raise InputError(
            f"layer '{layer.name}' has {np.ndim(layer.data)} axes: choose labels of one frame, "
            "from a 3D file."
        )
    labels = place(layer).volume
    if not labels.same_grid(scan):
        raise InputError(
            f"layer '{layer.name}' does not lie on the voxels of the scan: press 'Resample onto "
            "the scan'."
        )
    return labels


def read_labels_layer(path: Path) -> Iterator[LayerTuple]:
    """Read a file of labels as a layer; a generator for :class:`Job`.

    Raises
    ------
    InputError
        When the file is damaged or holds no labels.
    """
    yield volume_to_layer(read_labels(path), "labels")


def resample_onto(labels: LayerData, scan: LayerData) -> Iterator[LayerTuple]:
    """A labels layer on the voxels of a scan's (nearest); a generator for :class:`Job`.

    Raises
    ------
    InputError
        When one of the two is no 3D grey image or labels layer, or the labels
        lie beside the scan.
    """
    like = place(scan)
    moved = resample_labels(place(labels).volume, like.volume, f"layer '{labels.name}'")
    name = f"{labels.name} on {scan.name}"
    data, arguments, kind = volume_to_layer(moved, "labels", name=name)
    arguments |= {key: scan.meta[key] for key in GEOMETRY if key in scan.meta}
    yield np.array(like.to_layer(data)), arguments, kind


def labels_notes(what: str, labels: Volume, scan: Volume) -> tuple[str, ...]:
    """Warnings of a brain mask or ground truth that the scan's own do not say already.

    That its grid is the layer's is no news: it was found to be the scan's.
    """
    known = (*scan.warnings, GRID_OF_LAYER)
    return tuple(f"The {what}: {note}" for note in labels.warnings if note not in known)


def file_of(labels: Volume, what: str, scan: Volume) -> Path | None:
    """The file that holds just what some labels show; None when they were drawn or resampled here.

    A layer that is drawn on keeps its file's name. A record with that name would send a reader to
    a file that does not give the figures.
    """
    path = labels.source.path
    if path is None or path == scan.source.path:
        return None
    try:
        stored, _ = read_beside(what, path, scan)
    except AddmError:  # it is gone, or has become another
        return None
    return path if np.array_equal(stored, labels.data != 0) else None


@dataclass(frozen=True, eq=False)
class Request:
    """All that a run needs, taken when Run was pressed.

    Attributes
    ----------
    scan : LayerData
    checkpoint : Path
    settings : DetectionSettings
        Their ``slices`` are set here from the scope.
    brain_mask : LayerData or None
    position : tuple of float
        Where the viewer stands, in the scan layer's voxels.
    this_slice : bool
        Only the slice at `position`; else the whole volume, from there outward.
    scan_id : hashable, optional
        `unique_id` of the scan's layer.
    session : Session, optional
        What other requests have left, and where this one leaves its own.
    where : callable, optional
        Tells the position again while the run goes on; asked from the other thread.
    reach_mm : float, optional
        Not the whole volume, but so far on either side of the position.
    threshold : callable, optional
        Tells threshold and smallest finding (mL), under which results are marked; asked from the
        other thread.
    cancelled : Event
        Set to end within a step of the network, with the result of all that is finished. To quit
        the job ends it without.
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
    def slices_aside(self) -> Hashable:
        """What tells requests apart, whichever slices they ask for."""
        brain, mask = self.brain_mask, None
        if brain is not None:
            mask = id(brain.data), brain.place
        return self.scan_id, self.scan.place, mask, self.checkpoint, self.settings


@dataclass(frozen=True)
class Stage:
    """What is being done now, in words."""

    words: str


@dataclass(frozen=True, eq=False)
class Begun:
    """Everything is read; the network comes next.

    Attributes
    ----------
    scan : Placed
    checkpoint : Checkpoint
        Without its weights, which the panel need not keep.
    brain_mask : Volume or None
    mask_path : Path or None
        See `file_of`; none for a preview.
    devices : tuple of str
        That torch finds on this machine.
    """

    scan: Placed
    checkpoint: Checkpoint
    brain_mask: Volume | None
    mask_path: Path | None
    devices: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Room:
    """The first result is about to come: a layer is needed.

    One layer at a time, because napari and OpenGL take their time for each.

    Attributes
    ----------
    role : str
        A key of :data:`napari_addm.widgets.result_layers.TITLES`.
    data : ndarray
        Zeros, in the layer's voxel order. To get the memory of a volume from the system takes a
        tenth of a second, too.
    """

    role: str
    data: np.ndarray

    @classmethod
    def of(cls, role: str, scan: Placed) -> Room:
        """For a role on a scan."""
        shape = scan.to_layer(scan.volume.data).shape
        return cls(role, np.full(shape, 0, layer_type(role)))


@dataclass(frozen=True)
class Reveal:
    """The layer that was made is to be shown: its first drawing takes as long as making it.

    Attributes
    ----------
    role : str
    """

    role: str


@dataclass(frozen=True, eq=False)
class Found:
    """A result.

    Attributes
    ----------
    progress : Progress
        With the result, whose warnings are the brain mask's, too.
    marker : CachedLabeller or None
        Of the result, which it has marked where the request says how.
    quality : Quality or None
        Of the scan, once the whole of it is done.
    """

    progress: Progress
    marker: CachedLabeller | None
    quality: Quality | None = None


def work(request: Request) -> Iterator[Stage | Begun | Room | Reveal | Progress | Found]:
    """Carry out a request; a generator for :class:`Job`.

    Raises
    ------
    AddmError
        When layers, checkpoint or settings cannot be used.
    """
    yield Stage("Reading the scan")
    scan = place_scan(request.scan)
    mask: Volume | None = None
    mask_path: Path | None = None
    notes: tuple[str, ...] = ()
    if request.brain_mask is not None:
        mask = place_labels(request.brain_mask, scan.volume)
        if not mask.data.any():
            raise InputError(
                f"layer '{request.brain_mask.name}' is empty, so it marks no brain: paint the "
                "brain in it, or choose another brain mask or 'Automatic'."
            )
        if request.reach_mm is None:  # previews, which are never saved, come many a second
            mask_path = file_of(mask, "brain mask", scan.volume)
        notes = labels_notes("brain mask", mask, scan.volume)
    # The first import of torch takes seconds.
    yield Stage("Loading the checkpoint")
    if request.cancelled.is_set():
        return
    import_libraries()
    checkpoint = load_checkpoint_once(request.checkpoint)
    if request.cancelled.is_set():
        return  # what an earlier run gave stays
    yield Begun(scan, replace(checkpoint, weights={}), mask, mask_path, usable_devices())
    here = scan.slice_at(request.position)
    settings = request.settings
    first_slice: int | Callable[[], int] = here
    if request.this_slice:
        settings = settings.replace(slices=(here,))
    elif request.reach_mm is not None:
        reach = round(request.reach_mm / scan.volume.spacing[0])
        near = range(max(0, here - reach), min(scan.volume.shape[0], here + reach + 1))
        settings = settings.replace(slices=tuple(near), context_mm=0.0)
    elif request.where is not None:
        where = request.where

        def first_slice() -> int:
            return scan.slice_at(where())

    roomy = False
    for progress in detect(
        scan.volume,
        checkpoint,
        settings,
        None if mask is None else mask.data != 0,
        first_slice=first_slice,
        session=request.session,
        cancelled=request.cancelled.is_set,
    ):
        result = progress.result
        if result is None:
            yield progress
            continue
        if not roomy:
            roomy = True
            for role in roles_of(result):
                yield Room.of(role, scan)
                yield Reveal(role)
        result = replace(result, warnings=(*result.warnings, *notes))
        marker = None
        if request.threshold is not None:
            marker = CachedLabeller(result)
            marker.label(*request.threshold())
        quality = None
        if progress.stage == "finish" and result.done.all() and result.slices is not None:
            quality = check_quality(result.slices, checkpoint.specification, result)
        yield Found(replace(progress, result=result), marker, quality)


def layer_type(role: str) -> type[np.generic]:
    """The type of a layer's voxels."""
    return np.int32 if role == "labels" else np.float32


def roles_of(result: Detection) -> tuple[str, ...]:
    """The layers that show a result, from the lowest to the highest."""
    spread = () if result.uncertainty is None else ("uncertainty",)
    return "reconstruction", "anomaly", *spread, "labels"


def load_checkpoint_once(path: Path) -> Checkpoint:
    """A checkpoint; the last one is kept until its file changes.

    Raises
    ------
    AddmError
        When it cannot be used.
    """
    try:
        state = path.stat()
    except OSError:
        return load_checkpoint(path)  # which says what is wrong
    return _load_checkpoint(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _load_checkpoint(path: Path, modified: int, size: int) -> Checkpoint:
    return load_checkpoint(path)


def give_memory_back() -> None:
    """Forget the checkpoint and the network that are kept between runs."""
    if "torch" in sys.modules:
        from napari_addm.detection.pipeline import free_memory

        free_memory()
        forget_checkpoint()


def forget_checkpoint() -> None:
    """Give the memory of the last checkpoint back."""
    _load_checkpoint.cache_clear()


class JobSignals(QObject):
    """What a `Job` tells; every one of superqt's worker signals, and a few more.

    Attributes
    ----------
    arrived : Signal(object)
        Something was yielded. `yielded` tells of it when all that a person has asked for by then is
        drawn: the two would else be one long pass of the event loop.
    failed : Signal(object)
        The exception that ended the work. superqt's own ``errored`` is not used: what napari
        connects to it takes no exception, which PySide6 does not forgive.
    handled : Event
        What was yielded last has been dealt with, and the event loop has turned since.
    """

    started = Signal()
    finished = Signal()
    _finished = Signal(object)
    returned = Signal(object)
    errored = Signal(object)
    arrived = Signal(object)
    failed = Signal(object)
    warned = Signal(tuple)
    yielded = Signal(object)
    aborted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.handled = Event()
        self._turns = Turns(self)
        self.arrived.connect(self._on_arrived)
        # the first to hear of the end, before which comes what was yielded last
        self.failed.connect(self._on_end)
        self.finished.connect(self._on_end)

    def _on_arrived(self, item: Any) -> None:
        self._turns.call(partial(self.yielded.emit, item))
        self._turns.call(self.handled.set)

    def _on_end(self, error: Any = None) -> None:
        self._turns.finish()


class Job(WorkerBase):
    """Drives a generator in a thread of Qt's pool.

    superqt's own ``GeneratorWorker`` would not do: it takes every RuntimeError
    (torch raises many) for a deleted worker and keeps silent, and leaves the
    generator of a cancelled run to the garbage collector of another thread.
    And it never waits, so that what it yields would pile up before a busy GUI.
    """

    def __init__(self, generate: Callable[..., Generator[Any, None, None]], *args: Any) -> None:
        super().__init__(SignalsClass=JobSignals)  # type: ignore[arg-type]
        # once closed it holds nothing; a job itself napari keeps for as long as its window is open
        self._items = generate(*args)
        _end_with_python()
        _all_jobs.add(self)

    def work(self) -> None:
        """Until the end, or until `quit` was called, whichever comes first."""
        run_behind_the_gui(self._drive)

    def _drive(self) -> None:
        signals = self.signals
        assert isinstance(signals, JobSignals)
        signals.handled.set()  # nothing is waiting
        try:
            with closing(self._items):
                for item in self._items:
                    self._let_the_gui_catch_up()  # at most one item ahead
                    signals.handled.clear()
                    signals.arrived.emit(item)
                    if self.abort_requested:
                        self.aborted.emit()
                        return
                self._let_the_gui_catch_up()
        except Exception as error:
            self.failed.emit(error)

    def _let_the_gui_catch_up(self) -> None:
        signals = self.signals
        assert isinstance(signals, JobSignals)
        while not signals.handled.wait(HANDLED_SECONDS) and not self.abort_requested:
            pass


_all_jobs: WeakSet[Job] = WeakSet()


@lru_cache
def _end_with_python() -> None:
    """Where a script ends without quitting Qt, end what is left before Qt's objects go."""
    atexit.register(_end_all)


def _end_all() -> None:
    """End all jobs, and delete the windows that were closed.

    Where no event loop of Qt's runs on, a closed window is there still. PyQt6 would take it down
    while it goes through the table of all its objects, which what napari does meanwhile may move.
    """
    for job in list(_all_jobs):
        job.quit()
    pool = QThreadPool.globalInstance()
    if pool is not None:
        pool.waitForDone(round(1000 * LAST_SECONDS))  # until Qt has done with them, too
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


class _Named(partial[Any]):
    """A function with a name for people: napari shows it when its window is closed mid-run."""

    def __str__(self) -> str:
        return f"'{self.keywords['name']}'"


def _call(generate: Callable[..., Any], *args: Any, name: str) -> Generator[Any, None, None]:
    yield from generate(*args)


def start_job(
    name: str,
    generate: Callable[..., Iterator[Any]],
    *args: Any,
    yielded: Callable[[Any], object] | None = None,
    errored: Callable[[Exception], object],
    finished: Callable[[], object] | None = None,
) -> Job:
    """Run a generator off the GUI thread.

    Parameters
    ----------
    name : str
        For people.
    generate : callable
        A generator function, called with `args` in the other thread.
    yielded, errored, finished : callable
        What hears of it, the first and the last if wanted: methods of a living QObject, so that
        Qt calls them in its thread, and no longer once it is deleted.
    """
    from napari.qt.threading import create_worker

    heard = {"yielded": yielded, "failed": errored, "finished": finished}
    job = create_worker(
        _Named(_call, generate, name=name),
        *args,
        _start_thread=False,
        _worker_class=Job,
        _ignore_errors=True,
        _connect={signal: slot for signal, slot in heard.items() if slot is not None},
    )
    job.start()
    return job


class Jobs:
    """The jobs of a panel, which end with it; superqt keeps them until they are finished."""

    def __init__(self) -> None:
        self._all: WeakSet[Job] = WeakSet()

    def start(self, *args: Any, **options: Any) -> Job:
        """Start one, as `start_job`."""
        job = start_job(*args, **options)
        self._all.add(job)
        return job

    def get_ready(self, errored: Callable[[Exception], object]) -> None:
        """Do now what napari would do with its first layers; once, main thread only."""
        warm_units()
        if not layers_are_warm():
            self.start("Get ready for layers", warm_layers, errored=errored)

    def quit(self) -> None:
        """Ask all of them to stop."""
        for job in self._all:
            job.quit()
