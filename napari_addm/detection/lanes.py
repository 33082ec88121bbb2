"""Batches on their way through a network: on a CPU side by side, each with some of the threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Barrier, Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_addm.methods.base import Reconstruction

LANES = 2
"""How many calls of the network run side by side on a CPU, sharing torch's threads. More would
only take more memory where there are two cores, and make a single slice slower where there are
many."""

_setting = Lock()
"""Held while torch's number for threads to come is not the process's own."""

Pair = tuple[int, int]
Arrays = tuple[NDArray[np.float32], NDArray[np.float32] | None]


def torch_threads() -> int:
    """How many threads torch computes with, in whatever thread this is asked.

    A thread takes torch's number when it first needs it and keeps it: asked for here, that is
    never the share of a lane which another thread is just starting.
    """
    import torch

    with _setting:
        return torch.get_num_threads()


def lanes_on(device: str) -> int:
    """How many calls of a network run side by side on a device."""
    return min(LANES, torch_threads()) if device in ("cpu", "openvino") else 1


def network_threads(device: str) -> tuple[ThreadPoolExecutor, int]:
    """Threads to call a network in, and how many they are.

    On the CPU they share torch's threads evenly, so that a call is rounded the same whether or
    not another runs beside it. Elsewhere there is one.

    Parameters
    ----------
    device : str
        As in :data:`napari_addm.detection.pipeline.DEVICES`, but not ``"auto"``.
    """
    import torch

    threads, count = torch_threads(), lanes_on(device)
    if count == 1:
        return ThreadPoolExecutor(1), 1
    ready = Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()  # or the thread would take the process's number at its first call
        torch.set_num_threads(threads // count)
        ready.wait()

    pool = ThreadPoolExecutor(count, initializer=start)
    with _setting:
        for _ in range(count):
            pool.submit(int)
        ready.wait()
        torch.set_num_threads(threads)  # threads that come later start with what was set last
    return pool, count


@dataclass(frozen=True)
class Step:
    """What one call of the network has given.

    Attributes
    ----------
    pairs : list of (int, int)
        Slice and draw of each in its batch.
    seconds : float
        That the call took.
    arrays : (ndarray, ndarray or None) or None
        After the last step of the batch its images and weights, (n, H, W).
    """

    pairs: list[Pair]
    seconds: float
    arrays: Arrays | None


@dataclass
class _Batch:
    """A batch on its way; `left` of its steps are not done, one of them may be in `call`."""

    pairs: list[Pair]
    chain: Iterator[Reconstruction]
    left: int
    call: Future[Step] | None = None

    def step(self) -> Step:
        started = time.perf_counter()
        reconstruction = next(self.chain)
        arrays = None if self.left > 1 else _arrays(reconstruction, len(self.pairs))
        return Step(self.pairs, time.perf_counter() - started, arrays)


class Lanes:
    """Takes batches step by step through a network, as many at a time as there are lanes.

    Parameters
    ----------
    device : str
        As for `network_threads`.
    steps : int
        Calls of the network for each batch.

    Attributes
    ----------
    count : int
        How many batches may be at work at once; may be lowered.
    """

    def __init__(self, device: str, steps: int) -> None:
        self._pool, self.count = network_threads(device)
        self._steps = steps
        self._batches: deque[_Batch] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def room(self) -> int:
        """How many batches to have on their way.

        Of single steps one more than there are lanes: a lane that is done goes on at once, and does
        not wait for a slower one's turn.
        """
        return self.count + 1 if self.count > 1 and self._steps == 1 else self.count

    @property
    def pairs(self) -> set[Pair]:
        """Slice and draw of all that is on its way."""
        return {pair for batch in self._batches for pair in batch.pairs}

    @property
    def left(self) -> int:
        """Steps that are still to be taken of what is on its way."""
        return sum(batch.left for batch in self._batches)

    def add(self, pairs: list[Pair], chain: Iterator[Reconstruction]) -> None:
        """Put a batch on its way; `chain` gives a reconstruction after each step."""
        self._batches.append(_Batch(pairs, chain, self._steps))

    def go_on(self) -> None:
        """Begin the next step of every batch that rests."""
        for batch in self._batches:
            if batch.call is None:
                batch.call = self._pool.submit(batch.step)

    def take(self) -> Step:
        """Wait for the next step; its batch then rests, for whoever wants no more.

        The batches come in turn, so that the order does not depend on which is faster.

        Raises
        ------
        FloatingPointError
            When a network gives NaN or infinity.
        Exception
            Whatever else went wrong in the step.
        """
        batch = self._batches[0]
        assert batch.call is not None
        step = batch.call.result()
        batch.call = None
        batch.left -= 1
        if step.arrays is None:
            self._batches.rotate(-1)
        else:
            self._batches.popleft()
        return step

    def drop(self) -> int:
        """Forget what is on its way, once it has come to rest; how many of its steps were taken."""
        wait([batch.call for batch in self._batches if batch.call is not None])
        taken = sum(self._steps - batch.left for batch in self._batches)
        for batch in self._batches:
            batch.call = None  # a failed one holds the memory that it had taken until then
        self._batches.clear()
        return taken

    def close(self) -> None:
        """Wait for the steps that have begun, and end the threads."""
        self._pool.shutdown(cancel_futures=True)


def _arrays(reconstruction: Reconstruction, count: int) -> Arrays:
    """Image and weight of the first slices, (count, H, W); what fills the batch up is left out."""
    image, weight = reconstruction.image, reconstruction.weight
    # numpy, because torch would take all its threads for this little from those that need them
    images = image[:count, 0].cpu().numpy()
    if not np.isfinite(images).all():
        raise FloatingPointError("the network gave NaN or infinity")
    return images, None if weight is None else weight[:count, 0].cpu().numpy()
