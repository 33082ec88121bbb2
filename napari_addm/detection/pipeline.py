"""Detection: one generator that the panel, the command line and Python drive.

`detect` plans a run, reconstructs the slices and scores the difference. It yields progress
after every network call. Closing the generator cancels within one call; what is finished stays in
the `napari_addm.detection.session.Session`, where the next detection continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.detection.maps import AnomalyMaps
from napari_addm.detection.maps import Detection as Detection
from napari_addm.detection.plan import plan_detection
from napari_addm.detection.preparation import ModelSlices
from napari_addm.detection.reconstruction import Pace, Reconstructor
from napari_addm.detection.session import Session
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.io.volume import Volume

PARTIAL_SECONDS = 2.0
"""Shortest time between two partial results, and from the start to the first."""

PARTIAL_SHARE = 0.2
"""Largest share of the time that partial results take."""


@dataclass(frozen=True)
class Progress:
    """The state of a detection.

    Attributes
    ----------
    stage : str
        ``"prepare"``, ``"reconstruct"`` or ``"finish"``.
    done, total : int
        Network calls.
    seconds : float
        Since the start.
    eta : float or None
        Estimate of the seconds that remain; None while unknown.
    slices : tuple of int
        Slices of the scan that are new in `result`.
    result : Detection or None
        The result so far, with some progress; whole in the last. A partial result scores a slice
        with those of its neighbors that are finished.
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
    pace: Pace | None = None


def detect(
    volume: Volume,
    checkpoint: Checkpoint,
    settings: DetectionSettings | None = None,
    brain_mask: NDArray[np.bool_] | None = None,
    *,
    first_slice: int | Callable[[], int] | None = None,
    partial: bool = True,
    prepared: ModelSlices | None = None,
    session: Session | None = None,
    cancelled: Callable[[], bool] | None = None,
    threads: int | None = None,
) -> Iterator[Progress]:
    """Reconstruct a scan as if it were healthy, and score the difference.

    Parameters
    ----------
    brain_mask : ndarray of bool, shape (S, A, R), optional
        On the scan's grid; found by `napari_addm.detection.preparation.prepare` if missing.
    first_slice : int or callable, optional
        Slices are reconstructed from this slice of the scan outward; by default from the middle.
        A callable is asked again before every batch.
    partial : bool
        Whether to yield partial results, at most one every `PARTIAL_SECONDS`. Single slices that
        are scored with neighbors come in one result.
    prepared : ModelSlices, optional
        `volume` as `napari_addm.detection.preparation.prepare` prepared it for this
        checkpoint; `brain_mask` is then not used.
    session : Session, optional
        Holds what is done already, and keeps what will be. The last result is the same, to the
        digit, as without it on the same device.
    cancelled : callable, optional
        No network call begins once it returns True. A last, partial result then holds what is
        finished and was in no result before. Other threads call it, too.
    threads : int, optional
        Threads of the network on a CPU; torch's own number by default.

    Yields
    ------
    Progress
        After every network call. The last one holds the whole result, unless the detection was
        cancelled.

    Raises
    ------
    AddmError
        If the scan, the settings or the checkpoint cannot be used.
    """
    started = time.perf_counter()
    is_cancelled = cancelled or (lambda: False)
    settings = resolve(settings or DetectionSettings(), checkpoint.specification)
    yield Progress("prepare", 0, 0, time.perf_counter() - started)
    if is_cancelled():
        return
    plan = plan_detection(volume, checkpoint, settings, brain_mask, first_slice, prepared, session)
    seconds = {"prepare": time.perf_counter() - started, "load": 0.0, "network": 0.0, "score": 0.0}
    reconstructor = Reconstructor(plan, threads, is_cancelled, seconds)
    maps = AnomalyMaps(plan, reconstructor.threads, seconds)
    reporter = _Reporter(started, maps, reconstructor)
    gives_partial = partial and not plan.scores_neighbors
    with ThreadPoolExecutor(1) as beside, closing(reconstructor.steps()) as steps:
        ready = beside.submit(maps.prepare)
        named = beside.submit(maps.find_regions)
        try:
            for _ in steps:
                yield reporter.progress("reconstruct", reconstructor.seconds_left)
                if gives_partial and reporter.is_due():
                    ready.result()
                    yield reporter.result("reconstruct", reconstructor.seconds_left)
            ready.result()
            named.result()
        finally:
            named.cancel()  # where nobody waits for the result
    if not reconstructor.left:
        yield reporter.result("finish", 0.0)
    elif not plan.scores_neighbors and reporter.has_news():
        yield reporter.result("reconstruct", None)


class _Reporter:
    """Words the progress of a run, and makes its results in time."""

    def __init__(self, started: float, maps: AnomalyMaps, reconstructor: Reconstructor) -> None:
        self._started = started
        self._maps = maps
        self._reconstructor = reconstructor
        self._finished = np.zeros(len(maps.scan.slices.images), bool)
        self._done = np.zeros(maps.scan.slices.volume.shape[0], bool)
        self._next = time.perf_counter() + PARTIAL_SECONDS

    def progress(self, stage: Literal["reconstruct", "finish"], eta: float | None) -> Progress:
        """Word the state without a result."""
        done, left = self._reconstructor.done, self._reconstructor.left
        return Progress(stage, done, done + left, time.perf_counter() - self._started, eta)

    def has_news(self) -> bool:
        """Whether more of the brain is done than in the last result, or better scored."""
        finished = self._maps.finished()
        return bool((finished & ~self._finished).any() and self._maps.shows(finished).any())

    def is_due(self) -> bool:
        """Whether it is time for a partial result."""
        return (
            time.perf_counter() >= self._next and bool(self._reconstructor.left) and self.has_news()
        )

    def result(self, stage: Literal["reconstruct", "finish"], eta: float | None) -> Progress:
        """Score all that is finished."""
        started = time.perf_counter()
        self._finished = self._maps.finished()
        result = self._maps.make(self._finished)
        new = np.flatnonzero(result.done & ~self._done)
        self._done = result.done
        spent = time.perf_counter() - started
        self._next = time.perf_counter() + max(PARTIAL_SECONDS, spent / PARTIAL_SHARE - spent)
        return replace(
            self.progress(stage, eta),
            slices=tuple(new.tolist()),
            result=result,
            pace=self._reconstructor.pace,
        )


def run(
    volume: Volume,
    checkpoint: Checkpoint,
    settings: DetectionSettings | None = None,
    brain_mask: NDArray[np.bool_] | None = None,
    *,
    on_progress: Callable[[Progress], object] | None = None,
) -> Detection:
    """Drive `detect` to its end and return the result.

    Parameters
    ----------
    volume, checkpoint, settings, brain_mask
        As for `detect`.
    on_progress : callable, optional
        Called with every `Progress`.
    """
    result = None
    for progress in detect(volume, checkpoint, settings, brain_mask, partial=False):
        if on_progress is not None:
            on_progress(progress)
        result = progress.result
    assert result is not None  # the last progress always carries it
    return result
