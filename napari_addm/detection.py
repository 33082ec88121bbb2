"""Detection: one generator that the dock widget, the command line and Python drive.

:func:`detect` yields progress after every call of the network. Closing the
generator cancels within one step, and what is finished stays finished.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial as partial_of
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint import (
    RANDOM_METHODS,
    Checkpoint,
    ModelSpecification,
    ScoreKind,
    ScoreSpecification,
)
from napari_addm.errors import AddmError
from napari_addm.preparation import Slices, prepare
from napari_addm.scoring import anomaly_map, erode
from napari_addm.volume import Volume

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from napari_addm.diffusion.noises import SliceNoise
    from napari_addm.methods.base import Reconstruction

BATCH_SIZES = {"cpu": 8, "cuda": 64, "mps": 16}
PARTIAL_INTERVAL = 2.0
"""A partial result comes when this many times its own cost has passed since the last one."""

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DetectionSettings:
    """What a detection does; None means the checkpoint's own default.

    Attributes
    ----------
    steps : int, optional
        Sampling steps: calls of the network from the noise level to the clean image.
    level : int, optional
        Noise level, a timestep t in 1..T of the checkpoint's chain.
    sampler : str, optional
        ``"ddim"`` or ``"ddpm"``.
    eta : float, optional
        Of the DDIM sampler: 0 is deterministic, 1 as random as DDPM.
    seed : int
        Same seed, scan and settings: same result.
    draws : int, optional
        Independent noise draws; their mean is the result, their spread the uncertainty.
    device : str
        ``"auto"`` takes CUDA, else MPS, else the CPU.
    precision : str
        Of the network; states and updates are float32 always. ``"auto"`` takes
        bfloat16 where the device computes in it, else float16 on CUDA, else float32.
    batch_size : int, optional
        Slices at once; halved when memory runs out.
    slices : tuple of int, optional
        Only these slices of the scan (indices along S); all of them by default.
    score : str, optional
        See :data:`napari_addm.scoring.SCORE_MEANINGS`.
    smoothing_mm : float, optional
        Standard deviation of the Gaussian that smooths the residual.
    """

    steps: int | None = None
    level: int | None = None
    sampler: Literal["ddim", "ddpm"] | None = None
    eta: float | None = None
    seed: int = 0
    draws: int | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    slices: tuple[int, ...] | None = None
    score: ScoreKind | None = None
    smoothing_mm: float | None = None


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
    warnings : tuple of str
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
    warnings: tuple[str, ...] = ()
    _state: _State | None = field(default=None, repr=False, compare=False)

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
        result, _ = self._state.rescored(score).take()
        return result


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
    """

    stage: Literal["prepare", "reconstruct", "finish"]
    done: int
    total: int
    seconds: float
    eta: float | None = None
    slices: tuple[int, ...] = ()
    result: Detection | None = None


def resolve(settings: DetectionSettings, specification: ModelSpecification) -> DetectionSettings:
    """Fill in the checkpoint's defaults and check the settings against it.

    Raises
    ------
    AddmError
        One sentence that names the setting and what it may be.
    """
    default = specification.detection
    method = specification.method
    level: int | None = None
    steps = 1
    if specification.diffusion is None or default.level is None:
        if settings.level is not None or settings.steps not in (None, 1):
            raise AddmError(
                f"The method {method} of this checkpoint has no noise level and no sampling "
                "steps; leave them out."
            )
    else:
        length = specification.diffusion.length
        level = default.level if settings.level is None else settings.level
        if not 1 <= level <= length:
            raise AddmError(
                f"The noise level {level} is not within 1..{length} of this checkpoint."
            )
        steps = min(default.steps, level) if settings.steps is None else settings.steps
        if not 1 <= steps <= level:
            raise AddmError(
                f"{steps} sampling steps do not fit a noise level of {level}: 1..{level}."
            )
    draws = default.draws if settings.draws is None else settings.draws
    if draws < 1:
        raise AddmError(f"{draws} noise draws are too few; it takes at least 1.")
    if draws > 1 and method not in RANDOM_METHODS:
        raise AddmError(
            f"The method {method} of this checkpoint draws no noise, so that every draw would be "
            "the same; use 1."
        )
    sampler = settings.sampler or default.sampler
    if sampler not in ("ddim", "ddpm"):
        raise AddmError(f"There is no sampler {sampler!r}; choose ddim or ddpm.")
    eta = default.eta if settings.eta is None else settings.eta
    if not 0.0 <= eta <= 1.0:
        raise AddmError(f"eta is {eta:g}, and has to be between 0 and 1.")
    score = settings.score or default.score.kind
    if score not in get_args(ScoreKind):
        raise AddmError(f"There is no score {score!r}; choose {', '.join(get_args(ScoreKind))}.")
    smoothing = settings.smoothing_mm
    if smoothing is None:
        smoothing = default.score.smoothing_mm
    if not 0.0 <= smoothing <= 100.0:
        raise AddmError(f"A smoothing of {smoothing:g} mm is not between 0 and 100 mm.")
    if settings.device not in DEVICES:
        raise AddmError(f"There is no device {settings.device!r}; choose {', '.join(DEVICES)}.")
    if settings.precision not in PRECISIONS:
        raise AddmError(
            f"There is no precision {settings.precision!r}; choose {', '.join(PRECISIONS)}."
        )
    if settings.batch_size is not None and settings.batch_size < 1:
        raise AddmError(f"A batch of {settings.batch_size} slices is too small; it takes 1.")
    if settings.seed < 0:
        raise AddmError(f"The seed is {settings.seed}, and has to be 0 or more.")
    return DetectionSettings(
        steps=steps,
        level=level,
        sampler=sampler,
        eta=eta,
        seed=settings.seed,
        draws=draws,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        slices=settings.slices,
        score=score,
        smoothing_mm=smoothing,
    )


def choose_device(name: str) -> torch.device:
    """The device for a setting; ``"auto"`` takes CUDA, else MPS, else the CPU.

    Raises
    ------
    AddmError
        If the named device is not there.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        usable = ", ".join(device for device, available in there.items() if available)
        raise AddmError(f"This machine has no device {name}; usable here: {usable}.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The network's number format for a setting on a device."""
    import torch

    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        capable = torch.cpu.get_capabilities()
        if capable.get("avx512_bf16") or capable.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


@dataclass
class _Engine:
    """A network on a device, kept between runs."""

    key: tuple[str, str, str]
    network: nn.Module


_kept: list[_Engine] = []


def _engine(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> _Engine:
    from napari_addm.methods import load_network

    key = (checkpoint.sha256, str(device), str(dtype))
    for engine in list(_kept):  # another thread may free it meanwhile
        if engine.key == key:
            return engine
    free_memory()
    engine = _Engine(key, load_network(checkpoint).to(device, dtype))
    _kept.append(engine)
    return engine


def free_memory() -> None:
    """Forget the network that is kept between runs, and give its memory back."""
    import torch

    _kept.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class _State:
    """Reconstructions on the model grid while they come in."""

    slices: Slices
    settings: DetectionSettings
    score: ScoreSpecification
    specification: ModelSpecification
    device: str
    precision: str
    seconds: dict[str, float]
    warnings: list[str]
    images: NDArray[np.float32] = field(init=False)
    finished: NDArray[np.bool_] = field(init=False)
    shown: NDArray[np.bool_] = field(init=False)
    weights: NDArray[np.float32] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        assert self.settings.draws is not None
        self.images = np.full(
            (self.settings.draws, *self.slices.images.shape), -1.0, dtype=np.float32
        )
        self.finished = np.zeros(len(self.slices.images), bool)
        self.shown = np.zeros(self.slices.volume.shape[0], bool)
        slices = self.slices
        self.scan = slices.on_grid((slices.images + 1.0) / 2.0)
        self.mask = slices.on_grid(slices.masks)
        self.inner = erode(self.mask, self.score.erosion_mm, slices.spacing_mm)
        self.maps = {
            name: np.zeros(self.slices.volume.shape, np.float32)
            for name in ("anomaly", "reconstruction", "uncertainty")
        }

    def rescored(self, score: ScoreSpecification) -> _State:
        """A copy that shares the reconstructions and scores them otherwise."""
        other = copy(self)
        other.settings = replace(self.settings, score=score.kind, smoothing_mm=score.smoothing_mm)
        other.score = score
        other.inner = erode(self.mask, score.erosion_mm, self.slices.spacing_mm)
        other.shown = np.zeros_like(self.shown)
        other.maps = {name: np.zeros_like(map_) for name, map_ in self.maps.items()}
        other.finished = self.finished.copy()
        other.seconds = dict(self.seconds)
        return other

    def put(self, draw: int, batch: list[int], reconstruction: Reconstruction) -> None:
        """Keep one draw of some slices."""
        self.images[draw, batch] = reconstruction.image[:, 0].cpu().numpy()
        if reconstruction.weight is not None:
            if self.weights is None:
                self.weights = np.ones_like(self.images)
            self.weights[draw, batch] = reconstruction.weight[:, 0].cpu().numpy()

    def take(self) -> tuple[Detection, tuple[int, ...]]:
        """Score what is finished and bring it to the scan's grid; also the new slices."""
        started = time.perf_counter()
        slices = self.slices
        valid = self.finished
        finished = slices.on_grid(valid[:, None, None])
        drawn = np.stack([slices.on_grid((r + 1.0) / 2.0) for r in self.images])
        weights = None
        if self.weights is not None:
            weights = np.stack([slices.on_grid(w) for w in self.weights])
        anomaly, uncertainty = anomaly_map(
            self.scan,
            drawn,
            self.mask & finished,
            self.inner & finished,
            self.score,
            slices.spacing_mm,
            weights,
        )
        reconstruction = slices.intensity.inverse(drawn.mean(axis=0).clip(0.0, 1.0))

        complete = slices.complete_native(valid)
        wanted = self.settings.slices
        if wanted is not None:
            asked = np.zeros_like(complete)
            asked[list(wanted)] = True
            complete &= asked
        new = np.flatnonzero(complete & ~self.shown)
        # Smoothing reaches into neighbouring slices, so what is shown already changes too.
        touched = np.flatnonzero(complete)
        if len(touched):
            span = (int(touched[0]), int(touched[-1]) + 1)
            grids = {"anomaly": anomaly, "reconstruction": reconstruction}
            if uncertainty is not None:
                grids["uncertainty"] = uncertainty
            native = slices.to_native(*grids.values(), native_slices=span, valid=valid)
            for name, map_ in zip(grids, native, strict=True):
                self.maps[name][touched] = map_[touched - span[0]]
        self.shown |= complete
        self.seconds["score"] += time.perf_counter() - started
        volume = slices.volume
        result = Detection(
            anomaly=volume.with_data(self.maps["anomaly"].copy()),
            reconstruction=volume.with_data(self.maps["reconstruction"].copy()),
            uncertainty=(
                volume.with_data(self.maps["uncertainty"].copy())
                if uncertainty is not None
                else None
            ),
            brain_mask=volume.with_data(slices.brain_mask),
            done=self.shown.copy(),
            seconds=dict(self.seconds),
            settings=self.settings,
            specification=self.specification,
            device=self.device,
            precision=self.precision,
            warnings=tuple(self.warnings),
            _state=self,
        )
        return result, tuple(new.tolist())


def detect(
    volume: Volume,
    checkpoint: Checkpoint,
    settings: DetectionSettings | None = None,
    brain_mask: NDArray[np.bool_] | None = None,
    *,
    first_slice: int | None = None,
    partial: bool = True,
    prepared: Slices | None = None,
) -> Iterator[Progress]:
    """Reconstruct a scan as if it were healthy, and score the difference.

    Parameters
    ----------
    volume : Volume
    checkpoint : Checkpoint
    settings : DetectionSettings, optional
    brain_mask : ndarray of bool, shape (S, A, R), optional
        On the scan's grid; found by :func:`napari_addm.preparation.prepare` if missing.
    first_slice : int, optional
        Slices are reconstructed from this slice of the scan outward; else from the middle.
    partial : bool
        Whether to yield results while slices finish, or only the last.
    prepared : Slices, optional
        What :func:`napari_addm.preparation.prepare` made of `volume` for this
        checkpoint, where that was done beforehand; `brain_mask` is then not used.

    Yields
    ------
    Progress
        After every call of the network; the last one holds the whole result.

    Raises
    ------
    AddmError
        If the scan, the settings or the checkpoint cannot be used.
    """
    import torch

    from napari_addm.diffusion.noises import SliceNoise
    from napari_addm.diffusion.samplers import sampling_levels
    from napari_addm.methods import get_method
    from napari_addm.methods.base import Sampling

    started = time.perf_counter()
    specification = checkpoint.specification
    settings = resolve(settings or DetectionSettings(), specification)
    # resolve() has filled these in; the type checker cannot know
    assert settings.steps is not None
    assert settings.draws is not None
    assert settings.score is not None
    assert settings.smoothing_mm is not None
    assert settings.sampler is not None
    assert settings.eta is not None
    device = choose_device(settings.device)
    method = get_method(specification.method)
    precision = settings.precision if method.reduced_precision else "float32"
    dtype = choose_precision(precision, device)

    def elapsed() -> float:
        return time.perf_counter() - started

    yield Progress("prepare", 0, 0, elapsed())
    slices = prepared or prepare(volume, specification.preparation, brain_mask)
    seconds = {"prepare": elapsed(), "load": 0.0, "network": 0.0, "score": 0.0}
    warnings = list(slices.warnings)
    highest = specification.training.get("highest_level")
    if settings.level is not None and isinstance(highest, int) and settings.level > highest:
        warnings.append(
            f"the network was trained up to noise level {highest}: from {settings.level} it "
            "reconstructs what it never learned"
        )
    if settings.slices is not None:
        warnings.append(
            "single slices are scored without their neighbours: the calibrated threshold fits "
            "whole volumes"
        )
    loading = time.perf_counter()
    try:
        engine = _engine(checkpoint, device, dtype)
    except RuntimeError as error:
        if not _is_out_of_memory(error) or device.type == "cpu":
            raise
        warnings.append(f"out of memory on {device.type}: went on on the CPU")
        device = torch.device("cpu")
        dtype = choose_precision(precision, device)
        engine = _engine(checkpoint, device, dtype)
    seconds["load"] = time.perf_counter() - loading

    state = _State(
        slices,
        settings,
        ScoreSpecification(
            kind=settings.score,
            smoothing_mm=settings.smoothing_mm,
            erosion_mm=specification.detection.score.erosion_mm,
        ),
        specification,
        str(device),
        str(dtype).removeprefix("torch."),
        seconds,
        warnings,
    )
    sampling = Sampling()
    if settings.level is not None:
        levels = tuple(sampling_levels(settings.level, settings.steps))
        sampling = Sampling(levels, settings.sampler, settings.eta)
    diffusion = specification.diffusion
    noise = SliceNoise(diffusion.noise if diffusion else "gaussian", settings.seed)
    queue = _order(slices, settings.slices, first_slice)
    batch_size = settings.batch_size or BATCH_SIZES[device.type]
    # Equal batches: a small last one would cost nearly as much as a full one.
    rounds = max(1, -(-len(queue) // batch_size))
    batch_size = max(1, -(-len(queue) // rounds))
    calls, slice_calls = 0, 0
    shown_at, taking = 0.0, 0.0
    per_slice = settings.draws * method.calls(specification, sampling)

    while queue:
        batch = queue[:batch_size]
        ids = slices.indices[batch]
        total = calls + per_slice * -(-len(queue) // batch_size)
        before = calls
        try:
            clean = torch.from_numpy(slices.images[batch])[:, None].to(device)
            for draw in range(settings.draws):
                ticking = time.perf_counter()
                chain = method.reconstruct(
                    engine.network,
                    specification,
                    clean,
                    sampling,
                    partial_of(_fresh_noise, noise, ids, draw, clean),
                )
                for reconstruction in chain:  # noqa: B007 - the last one is used below
                    seconds["network"] += time.perf_counter() - ticking
                    calls += 1
                    slice_calls += len(batch)
                    left = per_slice * len(queue) - (calls - before) * len(batch)
                    eta = left * seconds["network"] / slice_calls
                    yield Progress("reconstruct", calls, total, elapsed(), eta)
                    ticking = time.perf_counter()
                if not torch.isfinite(reconstruction.image).all():
                    raise FloatingPointError("the network gave NaN or infinity")
                state.put(draw, batch, reconstruction)
        except FloatingPointError as error:
            if dtype == torch.float32:
                raise AddmError(
                    f"{checkpoint.path}: the network gives NaN or infinity on "
                    f"{volume.name}; use another checkpoint."
                ) from error
            calls = before
            state.warnings.append(f"NaN in {state.precision}: went on in float32")
            dtype, state.precision = torch.float32, "float32"
            engine = _engine(checkpoint, device, dtype)
            continue
        except (RuntimeError, MemoryError, NotImplementedError) as error:
            calls = before
            device, batch_size = _retreat(error, device, batch_size, state)
            state.device = str(device)
            if str(device) != engine.key[1]:
                dtype = choose_precision(precision, device)
                state.precision = str(dtype).removeprefix("torch.")
                engine = _engine(checkpoint, device, dtype)
            continue
        state.finished[batch] = True
        queue = queue[batch_size:]
        # Scoring must not outweigh the network where one step is all there is to do.
        if queue and partial and elapsed() - shown_at > PARTIAL_INTERVAL * taking:
            begun = elapsed()
            result, new = state.take()
            shown_at = elapsed()
            taking = shown_at - begun
            yield Progress("reconstruct", calls, total, elapsed(), eta, new, result)

    if device.type == "cuda":
        torch.cuda.empty_cache()  # other programs of the desk want it too
    result, new = state.take()
    yield Progress("finish", calls, calls, elapsed(), 0.0, new, result)


def _fresh_noise(
    noise: SliceNoise,
    ids: NDArray[np.int64],
    draw: int,
    like: Tensor,
    step: int,
    shape: tuple[int, int, int] | None = None,
) -> Tensor:
    shape = shape or (like.shape[1], like.shape[2], like.shape[3])
    return noise.sample(ids.tolist(), shape, draw, step).to(like.device)


def _order(slices: Slices, wanted: Sequence[int] | None, first_slice: int | None) -> list[int]:
    """Positions of the model slices to reconstruct, from the first slice outward."""
    count = slices.volume.shape[0]
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
    if first_slice is None:
        first_slice = count // 2 if wanted is None else wanted[len(wanted) // 2]
    near = slices.needed_for([min(max(first_slice, 0), count - 1)])
    centre = near.mean() if len(near) else positions.mean()
    order = np.argsort(np.abs(positions - centre), kind="stable")
    return [int(p) for p in positions[order]]


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # torch says it in several ways: its own class, cuBLAS, and the CPU allocators
    words = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        word in str(error) for word in words
    )


def _retreat(
    error: Exception, device: torch.device, batch_size: int, state: _State
) -> tuple[torch.device, int]:
    """Where to go on after a failed batch: half of it, then the CPU; else raise."""
    import torch

    memory = _is_out_of_memory(error)
    unsupported = isinstance(error, NotImplementedError) and device.type == "mps"
    if not memory and not unsupported:
        raise error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if memory and batch_size > 1:
        state.warnings.append(
            f"out of memory at {batch_size} slices at once: went on with {batch_size // 2}"
        )
        return device, batch_size // 2
    if device.type != "cpu":
        reason = "out of memory" if memory else "an operation is not supported"
        state.warnings.append(f"{reason} on {device.type}: went on on the CPU")
        return torch.device("cpu"), BATCH_SIZES["cpu"]
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
