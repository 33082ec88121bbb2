"""Parallel work in numpy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Result = TypeVar("Result")

_lock = Lock()
_users = 0
_limit: Any = None


def parallel_map(function: Callable[..., Result], *iterables: Iterable[Any]) -> list[Result]:
    """Like `map`, but on all cores; `function` must release the interpreter's lock."""
    with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *iterables))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Compute products of small matrices with one thread each, so that several run at a time.

    The number of threads belongs to the process, so the first user sets it and the last one
    restores it.
    """
    global _users, _limit
    with _lock:
        if not _users:
            _limit = _setter().submit(_blas().limit, limits=1).result()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _setter().submit(_limit.restore_original_limits).result()


@cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


@cache
def _setter() -> ThreadPoolExecutor:
    """Return the one thread that sets the number: threadpoolctl ignores all but the first."""
    return ThreadPoolExecutor(1, "blas-threads")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_setter.cache_clear)
