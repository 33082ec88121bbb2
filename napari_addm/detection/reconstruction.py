"""Batches of slices and noise draws on their way through the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.devices import (
    BATCH_SIZES,
    count_threads,
    is_out_of_memory,
    load_network_on,
    network_workers,
    tensor_device,
)
from napari_addm.errors import AddmError
from napari_addm.io.remarks import note
from napari_addm.io.volume import volume_from_array
from napari_addm.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from napari_addm.detection.plan import Plan
    from napari_addm.diffusion.noise import SliceNoise
    from napari_addm.methods.base import Reconstruction, VolumeMethod

Pair = tuple[int, int]
Arrays = tuple[NDArray[np.float32], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Pace:
    """Measured speed of the network.

    Attributes
    ----------
    per_slice : float
        Seconds for one slice of the scan.
    volume : float
        Seconds for all slices of the scan that are not finished.
    """

    per_slice: float
    volume: float


@dataclass(eq=False)
class _Batch:
    """Some (slice, draw) in the network; ``left`` of the calls are not done."""

    pairs: list[Pair]
    left: int


@dataclass(frozen=True)
class _Report:
    """What a worker says after each call, and when it ends early.

    ``arrays`` come with the last call. ``error`` ends the batch; with neither and no ``seconds``
    it was cancelled.
    """

    batch: _Batch
    seconds: float | None = None
    arrays: Arrays | None = None
    error: Exception | None = None


class _WholeScan:
    """The reconstruction of a whole scan, which is made once, for the batch that comes first."""

    def __init__(self, method: VolumeMethod, plan: Plan) -> None:
        self._method = method
        self._plan = plan
        self._lock = Lock()
        self._images: NDArray[np.float32] | None = None

    def images(self, network: nn.Module) -> NDArray[np.float32]:
        """Return all model slices, -1..1, shape (N, H, W)."""
        with self._lock:
            if self._images is None:
                scan = self._plan.scan
                volume = volume_from_array(scan.scan, scan.slices.affine)
                grid, warnings = self._method.reconstruct_volume(
                    network, self._plan.checkpoint.specification, volume, scan.mask
                )
                self._plan.reconstructions.warnings += warnings
                self._images = grid[scan.slices.slice_index]
            return self._images


class Reconstructor:
    """Reconstructs the slices of a plan, batch by batch.

    On a CPU two batches run at a time. When memory runs out, they run one at a time, then in
    halves, then on the CPU. When a short number format overflows, they run in float32.

    Parameters
    ----------
    threads : int, optional
        Threads of a CPU; torch's own number by default.
    cancelled : callable
        No network call begins once it returns True. Worker threads call it, too.
    seconds : dict of str to float
        The time for ``load`` and ``network`` is added here.

    Attributes
    ----------
    done : int
        Network calls.
    """

    def __init__(
        self,
        plan: Plan,
        threads: int | None,
        cancelled: Callable[[], bool],
        seconds: dict[str, float],
    ) -> None:
        from napari_addm.diffusion.noise import SliceNoise
        from napari_addm.methods.base import VolumeMethod

        specification = plan.checkpoint.specification
        diffusion = specification.diffusion
        noise = (diffusion.noise, diffusion.noise_sd) if diffusion else ("gaussian", 1.0)
        self.done = 0
        self.threads = threads or count_threads()
        self._seconds = seconds
        self._plan = plan
        self._slices = plan.scan.slices
        self._store = plan.reconstructions
        self._cancelled = cancelled
        self._noise = SliceNoise(noise[0], plan.settings.seed, noise[1])
        self._sampling = plan.sampling
        method = METHODS[specification.method].load()
        whole = isinstance(method, VolumeMethod)
        self._method = _WholeScan(method, plan) if whole else method
        self._calls = 1 if whole else method.calls(specification, self._sampling)
        self._workers = 1
        self._running: list[_Batch] = []

    @property
    def left(self) -> int:
        """Network calls that remain."""
        running = sum(batch.left for batch in self._running)
        return self._count_batches(self._count_waiting()) * self._calls + running

    @property
    def seconds_left(self) -> float:
        """Estimate of the time that remains, from the last calls."""
        batches = self._count_batches(self._count_waiting()) + len(self._running)
        return self.left * (self._store.pace or 0.0) / self._at_a_time(batches)

    @property
    def pace(self) -> Pace | None:
        """The measured speed; None before the first network call."""
        store, slices, draws = self._store, self._slices, self._plan.draws
        if store.pace is None:
            return None
        per_batch = self._calls * store.pace
        model_slices = max(1.0, slices.volume.spacing[0] / slices.spacing_mm[0])
        one = model_slices * draws / store.batch / self._at_a_time(self._count_batches(draws))
        rest = self._count_batches(int(np.count_nonzero(~store.finished[:draws])))
        return Pace(one * per_batch, rest / self._at_a_time(rest) * per_batch)

    def steps(self) -> Generator[None, None, None]:
        """Reconstruct, and pause after every call of the network.

        Closing the generator cancels within one call, and keeps what is finished.

        Raises
        ------
        AddmError
            If a single slice does not fit into memory, or the network gives NaN in float32.
        """
        import torch

        try:
            with network_workers(self._store.device, self.threads) as (pool, self._workers):
                while self._count_waiting() and not self._cancelled():
                    try:
                        yield from self._run(pool)
                    except FloatingPointError as error:
                        self._take_float32(error)
                    except (RuntimeError, MemoryError, NotImplementedError) as error:
                        self._take_less(error)
        finally:
            if self._store.device.startswith("cuda"):
                torch.cuda.empty_cache()  # for other programs

    def _run(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        """Keep every worker busy until nothing is left, or something fails."""
        reports: SimpleQueue[_Report] = SimpleQueue()
        stop = Event()
        try:
            while True:
                while len(self._running) < self._workers and (pairs := self._next_pairs()):
                    batch = _Batch(pairs, self._calls)
                    network = self._load()
                    self._running.append(batch)
                    pool.submit(self._reconstruct, network, batch, reports, stop)
                if not self._running:
                    return
                waiting = time.perf_counter()
                report = reports.get()
                self._seconds["network"] += time.perf_counter() - waiting
                self._take(report)
                if report.error is not None:
                    raise report.error
                if report.seconds is not None:
                    yield
        finally:
            stop.set()
            while self._running:
                self._take(reports.get())

    def _reconstruct(
        self, network: nn.Module, batch: _Batch, reports: SimpleQueue[_Report], stop: Event
    ) -> None:
        """Take a batch through the network, in a worker thread."""
        try:
            chain = self._chain(network, batch.pairs)
            for left in reversed(range(self._calls)):
                if stop.is_set() or self._cancelled():
                    reports.put(_Report(batch))
                    return
                started = time.perf_counter()
                reconstruction = next(chain)
                arrays = None
                if not left:
                    count = len(batch.pairs)
                    arrays = _to_arrays(reconstruction.image, reconstruction.weight, count)
                reports.put(_Report(batch, time.perf_counter() - started, arrays))
        except Exception as error:
            reports.put(_Report(batch, error=error))

    def _chain(self, network: nn.Module, pairs: list[Pair]) -> Iterator[Reconstruction]:
        """Begin the method's own steps; the last pair fills the batch up."""
        import torch

        from napari_addm.methods.base import Reconstruction

        full = pairs + pairs[-1:] * (self._store.batch - len(pairs))
        positions = [position for position, _ in full]
        if isinstance(self._method, _WholeScan):
            images = torch.from_numpy(self._method.images(network)[positions])
            return iter((Reconstruction(images[:, None]),))
        clean = torch.from_numpy(self._slices.images[positions])[:, None]
        clean = clean.to(tensor_device(self._store.device))
        named = [(int(self._slices.slice_index[position]), draw) for position, draw in full]
        draw_noise = partial(_draw_noise, self._noise, named, clean)
        specification = self._plan.checkpoint.specification
        return self._method.reconstruct(network, specification, clean, self._sampling, draw_noise)

    def _take(self, report: _Report) -> None:
        """Count a call, and store a batch that is finished; forget one that ended early."""
        batch = report.batch
        if report.seconds is None:
            self._running.remove(batch)
            self.done -= self._calls - batch.left
            return
        self.done += 1
        batch.left -= 1
        self._store.note_call(report.seconds)
        if report.arrays is not None:
            self._running.remove(batch)
            self._store.store(batch.pairs, *report.arrays)

    def _count_waiting(self) -> int:
        """Count the (slice, draw) that are neither finished nor running."""
        finished = self._store.finished[: self._plan.draws, self._plan.positions]
        return int(np.count_nonzero(~finished)) - sum(len(batch.pairs) for batch in self._running)

    def _next_pairs(self) -> list[Pair]:
        """Choose what goes into the next batch; nothing once the run is cancelled."""
        if self._cancelled():
            return []
        running = {pair for batch in self._running for pair in batch.pairs}
        pending = self._store.pending(self._plan.order(), self._plan.draws)
        return [pair for pair in pending if pair not in running][: self._store.batch]

    def _count_batches(self, pairs: int) -> int:
        return -(-pairs // self._store.batch)

    def _at_a_time(self, batches: int) -> int:
        return max(1, min(self._workers, batches))

    def _load(self) -> nn.Module:
        """Load the network where the reconstructions are made, or on the CPU if it does not fit."""
        started, store = time.perf_counter(), self._store
        options = (store.batch, self._workers, self.threads)
        try:
            return load_network_on(self._plan.checkpoint, store.device, store.precision, *options)
        except RuntimeError as error:
            if not is_out_of_memory(error) or store.device == "cpu":
                raise
            self._take_cpu("out of memory")
            return load_network_on(self._plan.checkpoint, store.device, store.precision, *options)
        finally:
            self._seconds["load"] += time.perf_counter() - started

    def _take_float32(self, error: FloatingPointError) -> None:
        store = self._store
        if store.precision == "float32":
            raise AddmError(
                f"{self._plan.checkpoint.path}: the network gives NaN or infinity on "
                f"{self._slices.volume.name}; use another checkpoint."
            ) from error
        store.warnings.append(note(f"NaN in {store.precision}: went on in float32."))
        store.precision = "float32"

    def _take_less(self, error: Exception) -> None:
        """Go on with one worker, then half of the batch, then on the CPU; else raise."""
        import torch

        store, device = self._store, self._store.device.partition(":")[0]
        if isinstance(error, NotImplementedError) and device == "mps":
            self._take_cpu("an operation is not supported")
            return
        if not is_out_of_memory(error):
            raise error
        if device == "cuda":
            torch.cuda.empty_cache()
        if self._workers > 1:
            self._workers = 1
        elif store.batch > 1:
            half = store.batch // 2
            store.warnings.append(
                note(f"Out of memory at {store.batch} slices at once: went on with {half}.")
            )
            store.batch = half
        elif device != "cpu":
            self._take_cpu("out of memory")
        else:
            raise AddmError(
                "Out of memory with a single slice; close other programs, or use a smaller "
                "checkpoint."
            ) from error

    def _take_cpu(self, reason: str) -> None:
        store = self._store
        device = store.device.partition(":")[0]
        store.warnings.append(note(f"{reason.capitalize()} on {device}: went on on the CPU."))
        store.device = "cpu"
        store.precision = self._plan.choose_precision("cpu")
        store.batch = min(store.batch, BATCH_SIZES["cpu"])


def _draw_noise(
    noise: SliceNoise,
    named: Sequence[Pair],
    like: Tensor,
    step: int,
    shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """Draw the noise of some (slice, draw) for a step."""
    import torch

    shape = shape or (like.shape[1], like.shape[2], like.shape[3])
    fields = [noise.sample([index], shape, draw, step) for index, draw in named]
    return torch.cat(fields).to(like.device)


def _to_arrays(image: Tensor, weight: Tensor | None, count: int) -> Arrays:
    """Return image and weight of the first slices, (count, H, W), without what fills the batch."""
    images = image[:count, 0].cpu().numpy()
    if not np.isfinite(images).all():
        raise FloatingPointError("the network gave NaN or infinity")
    return images, None if weight is None else weight[:count, 0].cpu().numpy()
