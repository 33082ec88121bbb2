"""Detection: one generator that the dock widget, the command line and Python drive.

:func:`detect` yields progress after every call of the network. Closing the
generator cancels within one step, and what is finished stays finished: in the
result, and in the :class:`napari_addm.detection.session.Session`, so that the next
detection with the same settings goes on from there. Where it is asked to end, it
first gives the result of all that is finished.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import partial as partial_of
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import (
    ModelSpecification,
    ScoreSpecification,
)
from napari_addm.detection.courtesy import make_courteous
from napari_addm.detection.lanes import Lanes, lanes_on, torch_threads
from napari_addm.detection.midline import NO_MIDLINE, SIDES_FROM_MASK, Midline
from napari_addm.detection.preparation import Slices
from napari_addm.detection.scoring import voxel_scores
from napari_addm.detection.session import Prepared, Reconstructions, Session
from napari_addm.detection.settings import CONTEXT_MM, DetectionSettings, resolve
from napari_addm.detection.smoothing import smooth_and_average
from napari_addm.detection.symmetry import beyond_symmetry
from napari_addm.errors import AddmError, MissingExtraError
from napari_addm.io.arrays import Grid
from napari_addm.io.volume import Volume
from napari_addm.registry import METHODS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from napari_addm.diffusion.noise import SliceNoise
    from napari_addm.methods.base import Reconstruction

BATCH_SIZES = {"cpu": 4, "cuda": 64, "mps": 16, "openvino": 4}
FEW = 4
"""The batch for a few slices: a large one would let the first of them wait for the last."""

PARTIAL_INTERVAL = 2.0
"""A partial result comes when this many times the cost of the last one has passed since."""

REFRESH_INTERVAL = 10.0
"""All finished slices are scored again when this many times the cost of that has passed."""

PAGE_ITEMS = 1024
"""Of float32, in the smallest page of memory that systems hand out."""

ASYMMETRIC = (
    "left and right of this brain are too different to be compared: every place is compared with "
    "the scan's median instead"
)


@dataclass(frozen=True)
class Detection:
    """Maps on the scan's own grid, and how they came about.

    Attributes
    ----------
    anomaly : Volume of float32
        The score (smoothed residual), in shares of the brain's intensity range;
        0 outside the brain.
    reconstruction : Volume of float32
        In the scan's intensities; 0 outside the brain.
    uncertainty : Volume of float32 or None
        Standard deviation of the score over the draws; None for a single draw.
    brain_mask : Volume of bool
    done : ndarray of bool, shape (S,)
        Which slices of the scan are finished.
    seconds : dict of str to float
        Spent in ``prepare``, ``load``, ``network`` and ``score``.
    settings : DetectionSettings
        With every default filled in.
    specification : ModelSpecification
    device, precision : str
        What the network ran on.
    threads : int
        Of the processor, for all that torch computed.
    warnings : tuple of str
    midline : Midline or None
        Between the halves of the brain, from which the sides of findings are counted.
    """

    anomaly: Volume
    reconstruction: Volume
    uncertainty: Volume | None
    brain_mask: Volume
    done: NDArray[np.bool_]
    seconds: dict[str, float]
    settings: DetectionSettings
    specification: ModelSpecification
    device: str
    precision: str
    threads: int
    warnings: tuple[str, ...] = ()
    midline: Midline | None = None
    _state: _State | None = field(default=None, repr=False, compare=False)

    @property
    def region(self) -> NDArray[np.bool_]:
        """Where there is a score: the brain mask in finished slices, shape (S, A, R)."""
        brain: NDArray[np.bool_] = self.brain_mask.data
        return brain if self.done.all() else brain & self.done[:, None, None]

    @property
    def slices(self) -> Slices | None:
        """The prepared scan; None for a result that did not come from :func:`detect`."""
        return None if self._state is None else self._state.prepared.slices

    def rescored(self, score: ScoreSpecification) -> Detection:
        """The same reconstructions under another score; the network does not run again.

        Returns
        -------
        Detection
            Of all that is finished by now.

        Raises
        ------
        ValueError
            If this result did not come from :func:`detect`.
        """
        if self._state is None:
            raise ValueError("a detection that was put together by hand cannot be scored again")
        return self._state.rescored(score).refresh().result


@dataclass(frozen=True)
class Pace:
    """How fast the network is, measured.

    Attributes
    ----------
    per_slice : float
        Seconds for a slice of the scan.
    volume : float
        Seconds for all slices of the scan that are not there yet.
    """

    per_slice: float
    volume: float


@dataclass(frozen=True)
class Progress:
    """Where a detection is.

    Attributes
    ----------
    stage : str
        ``"prepare"``, ``"reconstruct"`` or ``"finish"``.
    done, total : int
        Calls of the network.
    seconds : float
        Since the start.
    eta : float or None
        Seconds left, from the measured time per call; None while unknown.
    slices : tuple of int
        Slices of the scan that became finished with this progress.
    result : Detection or None
        The result so far, when slices became finished; whole in the last progress.
        Until then a slice is scored with those of its neighbours that were finished
        before it, and the maps go on filling outside `done`.
    changed : tuple of int
        Slices of the scan in which the maps of `result` differ from those of the last one.
    pace : Pace or None
        With every result, once the network's speed is known.
    """

    stage: Literal["prepare", "reconstruct", "finish"]
    done: int
    total: int
    seconds: float
    eta: float | None = None
    slices: tuple[int, ...] = ()
    result: Detection | None = None
    changed: tuple[int, ...] = ()
    pace: Pace | None = None


def usable_devices() -> tuple[str, ...]:
    """The devices of this machine, in the order in which ``"auto"`` takes them."""
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
        "openvino": has_openvino(),
    }
    return tuple(device for device, available in there.items() if available)


def has_openvino() -> bool:
    """Whether OpenVINO is installed; imports nothing."""
    return find_spec("openvino") is not None


def choose_device(name: str) -> str:
    """The device for a setting; ``"auto"`` takes CUDA, else MPS, else the CPU.

    Raises
    ------
    AddmError
        If the named device is not there.
    """
    usable = usable_devices()
    if name == "auto":
        return usable[0]
    if name == "openvino" and name not in usable:
        raise MissingExtraError(
            "OpenVINO is not installed: run `pip install napari-addm[openvino]`, or choose another "
            "device."
        )
    if name not in usable:
        raise AddmError(f"This machine has no device {name}; usable here: {', '.join(usable)}.")
    return name


def _home(device: str) -> torch.device:
    """Where the tensors of a device lie."""
    import torch

    return torch.device("cpu" if device == "openvino" else device)


def choose_precision(name: str, device: str) -> torch.dtype:
    """The network's number format for a setting on a device."""
    import torch

    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device in ("cpu", "openvino"):
        capable = torch.cpu.get_capabilities()
        if capable.get("avx512_bf16") or capable.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


@dataclass
class _Engine:
    """A network on a device, kept between runs."""

    key: tuple[str, ...]
    network: nn.Module


_kept: list[_Engine] = []


def _engine(checkpoint: Checkpoint, kept: Reconstructions) -> _Engine:
    import torch

    key: tuple[str, ...] = (checkpoint.sha256, kept.device, kept.precision)
    if kept.device == "openvino":
        key += (str(kept.batch),)  # it is compiled for one
    for engine in list(_kept):  # another thread may free it meanwhile
        if engine.key == key:
            return engine
    if _kept:
        free_memory()  # which takes a while, and holds other threads up
    network: nn.Module
    if kept.device == "openvino":
        from napari_addm.detection.openvino_network import openvino_network

        network = openvino_network(
            checkpoint, kept.batch, kept.precision, beside=lanes_on(kept.device)
        )
    else:
        from napari_addm.methods.loading import load_network

        dtype = getattr(torch, kept.precision)
        network = load_network(checkpoint).to(torch.device(kept.device), dtype)
        if kept.device == "cpu":
            make_courteous(network)
        elif kept.device.startswith("cuda") and METHODS[checkpoint.specification.method].openvino:
            from napari_addm.detection.graphed import GraphedNetwork

            network = GraphedNetwork(network)
    engine = _Engine(key, network)
    _kept.append(engine)
    return engine


def free_memory() -> None:
    """Forget the network that is kept between runs, and give its memory back."""
    import torch

    _kept.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Taken:
    """A result, its new slices, and all in which it differs from the one before."""

    result: Detection
    new: tuple[int, ...]
    changed: tuple[int, ...]


@dataclass
class _State:
    """Scores and maps while the reconstructions come in.

    Only slices that were asked for take part, so that the result does not depend on what
    else the session knows.
    """

    prepared: Prepared
    kept: Reconstructions
    positions: NDArray[np.int64]
    settings: DetectionSettings
    score: ScoreSpecification
    specification: ModelSpecification
    threads: int
    seconds: dict[str, float]
    warnings: list[str]
    asked: NDArray[np.bool_] = field(init=False)
    finished: NDArray[np.bool_] = field(init=False)
    drawn: Grid = field(init=False)
    weights: Grid | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        assert self.settings.draws is not None
        slices = self.prepared.slices
        self.finished = np.zeros(len(slices.images), bool)
        self.drawn = np.zeros((self.settings.draws, *self.prepared.scan.shape), np.float32)
        count = slices.volume.shape[0]
        self.asked = np.ones(count, bool)
        if self.settings.slices is not None:
            self.asked = np.isin(np.arange(count), self.settings.slices)
        self._clear()

    def _clear(self) -> None:
        """Nothing is scored or shown."""
        slices = self.prepared.slices
        self.scored = np.zeros(len(self.finished), bool)
        self.shown = np.zeros(len(self.asked), bool)
        names = ["anomaly", "reconstruction"]
        if len(self.drawn) > 1:
            names.append("uncertainty")
        self.values = np.zeros(self.drawn.shape, np.float32)
        self.smoothed = np.zeros_like(self.prepared.scan)
        self.grids: dict[str, Grid] = {n: np.zeros_like(self.prepared.scan) for n in names}
        self.maps: dict[str, Grid] = {
            name: np.zeros(slices.volume.shape, np.float32) for name in names
        }

    def take_memory(self) -> None:
        """Have the system hand memory out now, not when it is waited for; before all `gather`."""
        if self.settings.slices is None:
            for array in (self.drawn, self.values, *self.maps.values()):
                array.reshape(-1)[::PAGE_ITEMS] = 0.0

    def get_ready(self) -> None:
        """Work out beside the network what needs no reconstruction."""
        whole = self.settings.slices is None
        self.prepared.get_ready(symmetry=self.score.symmetry, whole=whole)

    def rescored(self, score: ScoreSpecification) -> _State:
        """A copy that shares the reconstructions and scores them otherwise."""
        other = copy(self)
        other.settings = self.settings.replace(
            score=score.kind,
            smoothing_mm=score.smoothing_mm,
            symmetry=score.symmetry,
        )
        other.score = score
        other.finished = self.finished.copy()
        other.seconds = dict(self.seconds)
        other._clear()
        return other

    def gather(self) -> None:
        """Take over what is reconstructed by now."""
        draws = len(self.drawn)
        there = self.kept.finished[:draws].all(axis=0)
        new = self.positions[(there & ~self.finished)[self.positions]]
        rows = self.prepared.slices.indices[new]
        self.drawn[:, rows] = (self.kept.images[:draws, new] + 1.0) / 2.0
        if self.kept.weights is not None:
            if self.weights is None:
                self.weights = np.ones_like(self.drawn)
            self.weights[:, rows] = self.kept.weights[:draws, new]
        self.finished[new] = True

    def complete(self) -> NDArray[np.bool_]:
        """Slices of the scan, shape (S,), that could be shown and are not yet."""
        complete = self.prepared.slices.complete_native(self.finished)
        return complete & self.asked & ~self.shown

    def refresh(self) -> _Taken:
        """Score all that is gathered, each slice with all its neighbours, in new maps."""
        started = time.perf_counter()
        before = self.shown
        if self.scored.any():
            self._clear()  # nothing is shown, so all that is complete comes again
        slices = self.prepared.slices
        complete = self.complete()
        rows = slices.indices[self.finished]
        if len(rows):
            new = slice(int(rows[0]), int(rows[-1]) + 1)

            def reconstruct() -> None:
                self._reconstruct(new)
                self._to_native(complete, "reconstruction")

            with ThreadPoolExecutor(2) as aside:
                done = [aside.submit(reconstruct)]
                self._score(new, 0)
                if "uncertainty" in self.grids:
                    done.append(aside.submit(self._to_native, complete, "uncertainty"))
                self._compare(new)
                self._to_native(complete, "anomaly")
            for each in done:
                each.result()
        self.scored = self.finished.copy()
        self.shown = complete
        self.seconds["score"] += time.perf_counter() - started
        return self._taken(complete & ~before, complete | before)

    def extend(self) -> _Taken:
        """Score what was gathered since the last time, in the maps that are there."""
        started = time.perf_counter()
        slices = self.prepared.slices
        context = round(CONTEXT_MM / slices.spacing_mm[0])
        new = self.complete()
        for first, last in _runs(slices.indices[self.finished & ~self.scored]):
            self._score(slice(first, last), context)
            self._compare(slice(first, last))
            self._reconstruct(slice(first, last))
        self.scored = self.finished.copy()
        self._to_native(new, *self.grids)
        self.shown = self.shown | new
        self.seconds["score"] += time.perf_counter() - started
        return self._taken(new, new)

    def _score(self, new: slice, context: int) -> None:
        """Score some slices of the model grid, looking at so many on either side."""
        prepared, slices = self.prepared, self.prepared.slices
        near = slice(max(new.start - context, 0), new.stop + context)
        rows = slice(new.start - near.start, new.stop - near.start)
        there = slices.on_grid(self.finished)[near, None, None]
        self.values[:, new] = voxel_scores(
            self.score.kind,
            prepared.scan[near],
            self.drawn[:, near],
            prepared.mask[near] & there,
            slices.spacing_mm,
            None if self.weights is None else self.weights[:, near],
            rows,
        )
        there = slices.on_grid(self.scored)[near, None, None]
        there[rows] = True
        inner = prepared.inner(self.score.erosion_mm)[near] & there
        inner[rows] &= slices.on_grid(self.finished)[new, None, None]
        anomaly, uncertainty = smooth_and_average(
            self.values[:, near], inner, self.score.smoothing_mm, slices.spacing_mm, rows
        )
        self.smoothed[new] = anomaly
        if uncertainty is not None:
            self.grids["uncertainty"][new] = uncertainty

    def _compare(self, new: slice) -> None:
        """Compare some slices with the other side, as far as that is scored."""
        prepared = self.prepared
        if not self.score.symmetry:
            self.grids["anomaly"][new] = self.smoothed[new]
            return
        there = prepared.slices.on_grid(self.scored)
        there[new] = prepared.slices.on_grid(self.finished)[new]
        inside = prepared.inner(self.score.erosion_mm) & there[:, None, None]
        self.grids["anomaly"][new] = beyond_symmetry(
            self.smoothed, inside, prepared.mirror_plane, new
        )

    def _reconstruct(self, new: slice) -> None:
        """The mean of the draws of some slices, in the scan's intensities."""
        mean = self.drawn[:, new].mean(axis=0).clip(0.0, 1.0)
        self.grids["reconstruction"][new] = self.prepared.slices.intensity.inverse(mean)

    def _to_native(self, wanted: NDArray[np.bool_], *names: str) -> None:
        """Bring some slices of the scan up to date in some maps."""
        slices = self.prepared.slices
        grids = [self.grids[name] for name in names]
        for first, last in _runs(np.flatnonzero(wanted)):
            slices.to_native(
                *grids,
                native_slices=(first, last),
                valid=self.finished,
                out=[self.maps[name][first:last] for name in names],
            )

    def _taken(self, new: NDArray[np.bool_], changed: NDArray[np.bool_]) -> _Taken:
        volume = self.prepared.slices.volume
        uncertainty = self.maps.get("uncertainty")
        result = Detection(
            anomaly=volume.with_data(self.maps["anomaly"]),
            reconstruction=volume.with_data(self.maps["reconstruction"]),
            uncertainty=None if uncertainty is None else volume.with_data(uncertainty),
            brain_mask=volume.with_data(self.prepared.slices.brain_mask),
            done=self.shown.copy(),
            seconds=dict(self.seconds),
            settings=self.settings,
            specification=self.specification,
            device=self.kept.device,
            precision=self.kept.precision,
            threads=self.threads,
            warnings=(*self.warnings, *self.kept.warnings),
            midline=self.prepared.midline,
            _state=self,
        )
        return _Taken(
            result,
            tuple(np.flatnonzero(new).tolist()),
            tuple(np.flatnonzero(changed).tolist()),
        )


def _runs(indices: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Rising indices as ranges (start, stop) without gaps."""
    parts = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def detect(
    volume: Volume,
    checkpoint: Checkpoint,
    settings: DetectionSettings | None = None,
    brain_mask: NDArray[np.bool_] | None = None,
    *,
    first_slice: int | Callable[[], int] | None = None,
    partial: bool = True,
    prepared: Slices | None = None,
    session: Session | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Progress]:
    """Reconstruct a scan as if it were healthy, and score the difference.

    Parameters
    ----------
    volume : Volume
    checkpoint : Checkpoint
    settings : DetectionSettings, optional
    brain_mask : ndarray of bool, shape (S, A, R), optional
        On the scan's grid; found by :func:`napari_addm.detection.preparation.prepare` if missing.
    first_slice : int or callable, optional
        Slices are reconstructed from this slice of the scan outward; else from the middle.
        A callable is asked again before every call of the network.
    partial : bool
        Whether to yield results while slices finish, or only the last. Single slices that are
        scored with neighbours come when these are all there.
    prepared : Slices, optional
        What :func:`napari_addm.detection.preparation.prepare` made of `volume` for this
        checkpoint, where that was done beforehand; `brain_mask` is then not used.
    session : Session, optional
        Where to look for what is done already, and to keep what will be. The last result
        is the same, to the digit, as without it on the same device.
    cancelled : callable, optional
        Asked before every call of the network. Once it says so, no other call begins, and what
        is finished and in no result yet comes in a last, partial one.

    Yields
    ------
    Progress
        After every call of the network; the last one holds the whole result, unless the
        detection was cancelled.

    Raises
    ------
    AddmError
        If the scan, the settings or the checkpoint cannot be used.
    """
    import torch

    from napari_addm.diffusion.noise import SliceNoise
    from napari_addm.diffusion.sampling import sampling_levels
    from napari_addm.methods.base import Sampling

    started = time.perf_counter()
    specification = checkpoint.specification
    settings = resolve(settings or DetectionSettings(), specification)
    # resolve() has filled these in; the type checker cannot know
    assert settings.steps is not None
    assert settings.draws is not None
    assert settings.score is not None
    assert settings.smoothing_mm is not None
    assert settings.symmetry is not None
    assert settings.sampler is not None
    assert settings.eta is not None
    draws = settings.draws
    device = choose_device(settings.device)
    info = METHODS[specification.method]
    method = info.load()
    precision = settings.precision if info.reduced_precision else "float32"
    dtype = choose_precision(precision, device)

    def elapsed() -> float:
        return time.perf_counter() - started

    def ending() -> bool:
        return cancelled is not None and cancelled()

    yield Progress("prepare", 0, 0, elapsed())
    if ending():
        return
    if session is None:  # what nobody asks for again needs no fingerprint
        session = Session()
        ready = Prepared.alone(volume, specification.preparation, brain_mask, prepared)
    else:
        ready = session.prepared(volume, specification.preparation, brain_mask, prepared)
    slices = ready.slices
    seconds = {"prepare": elapsed(), "load": 0.0, "network": 0.0, "score": 0.0}
    warnings: list[str] = []
    highest = specification.training.get("highest_level")
    if settings.level is not None and isinstance(highest, int) and settings.level > highest:
        warnings.append(
            f"the network was trained up to noise level {highest}: from {settings.level} it "
            "reconstructs what it never learned"
        )
    with_neighbours = settings.slices is not None and settings.context_mm > 0
    if settings.slices is not None:
        how = "among themselves alone"
        if with_neighbours:
            how = f"with their neighbours within {settings.context_mm:g} mm"
        warnings.append(
            f"single slices are scored {how}: the calibrated threshold fits whole volumes"
        )
    centre = first_slice() if callable(first_slice) else first_slice
    order = _order(slices, settings, centre)
    partial = partial and not with_neighbours
    batch = _batch(settings, device, len(order), len(slices.images))
    # Here stands all that a reconstruction depends on, but its slice and its draw.
    key = (
        ready.key,
        checkpoint.sha256,
        (settings.level, settings.steps, settings.sampler, settings.eta, settings.seed),
        (device, str(dtype), batch),
    )
    kept = session.reconstructions(
        key,
        lambda: Reconstructions(
            device,
            str(dtype).removeprefix("torch."),
            batch,
            np.full((draws, *slices.images.shape), -1.0, np.float32),
        ),
    )
    kept.hold(draws)

    state = _State(
        ready,
        kept,
        np.sort(np.array(order)),
        settings,
        ScoreSpecification(
            kind=settings.score,
            smoothing_mm=settings.smoothing_mm,
            erosion_mm=specification.detection.score.erosion_mm,
            symmetry=settings.symmetry,
        ),
        specification,
        torch_threads(),
        seconds,
        warnings,
    )
    sampling = Sampling()
    if settings.level is not None:
        levels = tuple(sampling_levels(settings.level, settings.steps))
        sampling = Sampling(levels, settings.sampler, settings.eta)
    diffusion = specification.diffusion
    noise = SliceNoise(diffusion.noise if diffusion else "gaussian", settings.seed)
    per_batch = method.calls(specification, sampling)
    calls = 0
    shown_at, taking = 0.0, 0.0
    refreshed_at, refreshing = elapsed(), None
    patched = False  # whether slices that were shown lacked neighbours that are there now
    lanes = Lanes(device, per_batch)
    aside = ThreadPoolExecutor(1)
    taking_memory = aside.submit(state.take_memory)
    getting_ready = aside.submit(state.get_ready)

    def await_ready() -> None:
        taking_memory.result()
        getting_ready.result()
        state.warnings = [*slices.warnings, *warnings]
        if settings.symmetry and ready.mirror_plane is None:
            state.warnings.append(ASYMMETRIC)
        if ready.midline is None:
            # of an unknown left and right the scan's own warnings tell
            state.warnings += [NO_MIDLINE] if slices.volume.sides_known else []
        elif ready.midline.source == "mask":
            state.warnings.append(SIDES_FROM_MASK)

    def batches(pairs: int) -> int:
        return -(-pairs // kept.batch)

    def beside(batches: int) -> int:
        """How many of so many batches are at work at once."""
        return max(1, min(lanes.count, batches))

    def pace() -> Pace | None:
        if kept.pace is None:
            return None
        each, rest = batches(draws), batches(len(kept.missing(range(len(slices.images)), draws)))
        model_slices = slices.volume.spacing[0] / slices.spacing_mm[0]
        return Pace(
            max(1.0, model_slices) * draws / kept.batch * per_batch * kept.pace / beside(each),
            rest * per_batch * kept.pace / beside(rest),
        )

    def found(
        stage: Literal["reconstruct", "finish"], taken: _Taken, left: int, eta: float | None
    ) -> Progress:
        return Progress(
            stage,
            calls,
            calls + left,
            elapsed(),
            eta,
            taken.new,
            taken.result,
            taken.changed,
            pace(),
        )

    shows = slices.reconstructed

    def news() -> bool:
        """Whether there is more to show; empty slices are complete at once, and no news."""
        return bool((state.complete() & shows).any())

    def waiting() -> list[tuple[int, int]]:
        """What no lane has taken yet."""
        taken = lanes.pairs
        return [pair for pair in kept.missing(order, draws) if pair not in taken]

    def reconstruct(network: nn.Module, pairs: list[tuple[int, int]]) -> Iterator[Reconstruction]:
        whole = pairs + pairs[-1:] * (kept.batch - len(pairs))
        positions = [position for position, _ in whole]
        clean = torch.from_numpy(slices.images[positions])[:, None].to(_home(kept.device))
        named = [(int(slices.indices[position]), draw) for position, draw in whole]
        fresh = partial_of(_fresh_noise, noise, named, clean)
        yield from method.reconstruct(network, specification, clean, sampling, fresh)

    def fill() -> None:
        """Give every lane something to do."""
        nonlocal centre, order
        if callable(first_slice) and first_slice() != centre:
            centre = first_slice()
            order = _order(slices, settings, centre)
        pairs = waiting() if len(lanes) < lanes.room else []
        while pairs and len(lanes) < lanes.room:
            now, pairs = pairs[: kept.batch], pairs[kept.batch :]
            # here, because the device may have to change
            engine = _engine_for(checkpoint, kept, precision, seconds)
            lanes.add(now, reconstruct(engine.network, now))
        lanes.go_on()

    try:
        while not ending():
            try:
                fill()
                if not len(lanes):
                    break
                ticking = time.perf_counter()
                step = lanes.take()
                seconds["network"] += time.perf_counter() - ticking
                kept.time(step.seconds)
                calls += 1
                if step.arrays is not None:
                    kept.put(step.pairs, *step.arrays)  # now, because a cancel comes at the yield
            except FloatingPointError as error:
                calls -= lanes.drop()
                if kept.precision == "float32":
                    raise AddmError(
                        f"{checkpoint.path}: the network gives NaN or infinity on "
                        f"{volume.name}; use another checkpoint."
                    ) from error
                kept.warnings.append(f"NaN in {kept.precision}: went on in float32")
                kept.precision = "float32"
                continue
            except (RuntimeError, MemoryError, NotImplementedError) as error:
                alone = len(lanes) == 1
                calls -= lanes.drop()
                if _is_out_of_memory(error) and not alone:
                    lanes.count = 1  # one by one they may fit
                else:
                    _retreat(error, kept, precision)
                continue
            rest = waiting()
            left = batches(len(rest)) * per_batch + lanes.left
            eta = left * (kept.pace or 0.0) / beside(len(lanes) + batches(len(rest)))
            yield Progress("reconstruct", calls, calls + left, elapsed(), eta)
            if step.arrays is None or not taking_memory.done() or ending():
                continue
            state.gather()  # little by little, so that little is left for the end
            if not partial or not left:
                continue
            # Scoring must not outweigh the network where one step is all there is to do.
            due = elapsed() - shown_at > PARTIAL_INTERVAL * taking
            if not due or not news():
                continue
            fill()
            await_ready()
            begun = elapsed()
            again = refreshing is not None and begun - refreshed_at > REFRESH_INTERVAL * refreshing
            patched = not again and bool(state.scored.any())
            taken = state.refresh() if again else state.extend()
            yield found("reconstruct", taken, left, eta)
            # with what the caller does with it, before it asks for more
            shown_at = elapsed()
            if again:
                refreshed_at, refreshing = shown_at, shown_at - begun
            else:
                taking = shown_at - begun
        else:
            lanes.close()  # first, or what waits there for its turn would begin
            taking_memory.result()
            state.gather()
            left = batches(len(kept.missing(order, draws))) * per_batch
            if left:  # else all is done, and is finished below
                if (news() or patched) and not with_neighbours:
                    await_ready()
                    # with all neighbours: what is saved must not tell when results came before
                    yield found("reconstruct", state.refresh(), left, None)
                return
        await_ready()
    finally:
        aside.shutdown()
        lanes.close()

    if kept.device.startswith("cuda"):
        torch.cuda.empty_cache()  # other programs of the desk want it too
    state.gather()
    yield found("finish", state.refresh(), 0, 0.0)


def _batch(settings: DetectionSettings, device: str, wanted: int, count: int) -> int:
    """How many slices and draws go into every call of the network.

    It depends on the settings alone, never on what is done already: see
    :attr:`napari_addm.detection.session.Reconstructions.batch`.
    """
    assert settings.draws is not None
    size = settings.batch_size or BATCH_SIZES[device]
    if settings.slices is not None and wanted * settings.draws < size:
        return min(size, FEW)
    if size <= FEW:
        return size
    # Equal batches: a small last one costs as much as a full one.
    pairs = count * settings.draws
    return -(-pairs // -(-pairs // size))


def _engine_for(
    checkpoint: Checkpoint, kept: Reconstructions, precision: str, seconds: dict[str, float]
) -> _Engine:
    """The network where the reconstructions are made; on the CPU if it does not fit there."""
    started = time.perf_counter()
    try:
        return _engine(checkpoint, kept)
    except RuntimeError as error:
        if not _is_out_of_memory(error) or kept.device == "cpu":
            raise
        _to_cpu(kept, precision, f"out of memory on {kept.device}: went on on the CPU")
        return _engine(checkpoint, kept)
    finally:
        seconds["load"] += time.perf_counter() - started


def _to_cpu(kept: Reconstructions, precision: str, why: str) -> None:
    kept.warnings.append(why)
    kept.device = "cpu"
    kept.precision = str(choose_precision(precision, "cpu")).removeprefix("torch.")
    kept.batch = min(kept.batch, BATCH_SIZES["cpu"])


def _fresh_noise(
    noise: SliceNoise,
    named: Sequence[tuple[int, int]],
    like: Tensor,
    step: int,
    shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """The noise of some (slice, draw) for a step."""
    import torch

    shape = shape or (like.shape[1], like.shape[2], like.shape[3])
    fields = [noise.sample([index], shape, draw, step) for index, draw in named]
    return torch.cat(fields).to(like.device)


def _order(slices: Slices, settings: DetectionSettings, first_slice: int | None) -> list[int]:
    """Positions of the model slices to reconstruct, from the first slice outward."""
    count, wanted = slices.volume.shape[0], settings.slices
    if wanted is None:
        positions = np.arange(len(slices.images))
    else:
        if not wanted or any(not 0 <= s < count for s in wanted):
            raise AddmError(
                f"{slices.volume.name}: the slices have to be within 0..{count - 1} of the scan."
            )
        positions = slices.needed_for(wanted)
        if not len(positions):
            raise AddmError(
                f"{slices.volume.name}: there is no brain in the chosen slice; choose another."
            )
        reach = round(settings.context_mm / slices.volume.spacing[0])
        near = np.arange(count)
        near = near[np.abs(near[:, None] - np.array(wanted)).min(axis=1) <= reach]
        positions = slices.needed_for(near.tolist())
    if first_slice is None:
        first_slice = count // 2 if wanted is None else wanted[len(wanted) // 2]
    near = slices.needed_for([min(max(first_slice, 0), count - 1)])
    centre = near.mean() if len(near) else positions.mean()
    order = np.argsort(np.abs(positions - centre), kind="stable")
    return [int(p) for p in positions[order]]


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # torch says it in several ways: its own class, cuBLAS, the CPU allocators, and oneDNN, whose
    # words name no reason
    words = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "ALLOC_FAILED",
        "could not create a primitive",
        "could not create a memory",
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in str(error) for word in words
    )


def _retreat(error: Exception, kept: Reconstructions, precision: str) -> None:
    """Where to go on after a failed batch: half of it, then the CPU; else raise."""
    import torch

    device = kept.device.partition(":")[0]
    memory = _is_out_of_memory(error)
    unsupported = isinstance(error, NotImplementedError) and device == "mps"
    if not memory and not unsupported:
        raise error
    if device == "cuda":
        torch.cuda.empty_cache()
    if memory and kept.batch > 1:
        kept.warnings.append(
            f"out of memory at {kept.batch} slices at once: went on with {kept.batch // 2}"
        )
        kept.batch //= 2
    elif device != "cpu":
        reason = "out of memory" if memory else "an operation is not supported"
        _to_cpu(kept, precision, f"{reason} on {device}: went on on the CPU")
    else:
        raise AddmError(
            "Out of memory with a single slice; close other programs, or use a smaller checkpoint."
        ) from error


def run(
    volume: Volume,
    checkpoint: Checkpoint,
    settings: DetectionSettings | None = None,
    brain_mask: NDArray[np.bool_] | None = None,
    *,
    on_progress: Callable[[Progress], object] | None = None,
) -> Detection:
    """Drive :func:`detect` to its end and return the result.

    Parameters
    ----------
    on_progress : callable, optional
        Called with every :class:`Progress`.
    """
    result = None
    for progress in detect(volume, checkpoint, settings, brain_mask, partial=False):
        if on_progress is not None:
            on_progress(progress)
        result = progress.result
    assert result is not None  # the last progress always carries it
    return result
