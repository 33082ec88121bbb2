"""Work side by side on the cores of the processor.

A library for linear algebra splits a product of matrices over threads, which wait for each other,
and go on waiting busily for a while after it. Many products of small matrices are done sooner with
one thread for each, and so is what else computes at that time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Result = TypeVar("Result")

_lock = Lock()
_inside = 0
_limit: Any = None


def beside(function: Callable[..., Result], *iterables: Iterable[Any]) -> list[Result]:
    """As :func:`map`, on all cores; for work that lets go of the interpreter's lock, as numpy's."""
    with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *iterables))


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
    """In a process that was forked: the keeper's thread did not come along."""
    global _lock, _inside
    _keeper.cache_clear()
    _lock, _inside = Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
