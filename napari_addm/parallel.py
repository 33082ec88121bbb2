"""Work side by side on the cores of the processor.

A library for linear algebra splits a product of matrices over threads, which wait for each other,
and go on waiting busily for a while after it. Many products of small matrices are done sooner with
one thread for each, and so is what else computes at that time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Result = TypeVar("Result")


def beside(function: Callable[..., Result], *iterables: Iterable[Any]) -> list[Result]:
    """As :func:`map`, on all cores; for work that lets go of the interpreter's lock, as numpy's."""
    with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *iterables))


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it numpy's products of matrices take one thread each; nestable."""
    context: AbstractContextManager[object] = _blas().limit(limits=1)
    return context


@cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")
