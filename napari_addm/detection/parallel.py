"""Work side by side on the cores of the processor.

A library for linear algebra splits a product of matrices over threads, which wait for each other,
and go on waiting busily for a while after it. Many products of small matrices are done sooner with
one thread for each, and so is what else computes at that time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Lock, get_native_id
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from napari_addm.detection.courtesy import give_way

Result = TypeVar("Result")

_lock = Lock()
_inside = 0
_limit: Any = None


def beside(function: Callable[..., Result], *iterables: Iterable[Any]) -> list[Result]:
    """As :func:`map`, on all cores; for work that lets go of the interpreter's lock, as numpy's.

    Each call gives way to a person first. The caller does its share, a small one where it stands
    back behind a GUI. The threads that help it stay for the next time: when one ends, its memory
    goes back to the system, for which every other thread has to look up anew where its own memory
    lies, the one that draws the window, too.
    """
    each = list(zip(*iterables, strict=False))
    niceness = _niceness(get_native_id())
    stands_back = niceness > _niceness(os.getpid())
    helpers = _helpers(niceness)
    calls: list[Future[Result]] = []

    def work(*arguments: Any) -> Result:
        give_way()
        return function(*arguments)

    with one_blas_thread():
        try:
            calls = [helpers.submit(work, *arguments) for arguments in each[1:]]
            own = {0: work(*each[0])} if each else {}
            # From the end, where no helper has begun. But who stands back lets them go first, and
            # so leaves a core to the one in front. None waits for a call that has not begun: the
            # helpers may all wait for others, who wait for this.
            order = range(1, len(each))
            for n in order if stands_back else reversed(order):
                if calls[n - 1].cancel():
                    own[n] = work(*each[n])
                elif stands_back:
                    wait([calls[n - 1]])
            return [own[n] if n in own else calls[n - 1].result() for n in range(len(each))]
        finally:
            wait([call for call in calls if not call.cancel()])  # after an error


def _niceness(thread: int) -> int:
    """How far a thread stands back behind others; the threads that it starts inherit that."""
    if sys.platform != "linux":
        return 0  # there no thread has a priority of its own
    return os.getpriority(os.PRIO_PROCESS, thread)


@cache
def _helpers(niceness: int) -> ThreadPoolExecutor:
    """Threads for whoever stands back so far."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "addm-beside")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it numpy's products of matrices take one thread each; nestable, from any thread.

    OpenBLAS has one number for the whole process: the first who comes sets it, the last who goes
    gives it back.
    """
    global _inside, _limit
    with _lock:
        if not _inside:
            _limit = _keeper().submit(_set_limit).result()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _keeper().submit(_limit.__exit__, None, None, None).result()


@cache
def _keeper() -> ThreadPoolExecutor:
    """The thread that sets and gives back: threadpoolctl listens to one thread at a time."""
    return ThreadPoolExecutor(1, "addm-blas")


def _set_limit() -> AbstractContextManager[object]:
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    limit.__enter__()
    return limit


@cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def _begin_anew() -> None:
    """In a process that was forked: no other thread came along."""
    global _lock, _inside
    _keeper.cache_clear()
    _helpers.cache_clear()
    _lock, _inside = Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
