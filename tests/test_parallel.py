"""Work side by side, and the threads of the libraries meanwhile."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from threading import Barrier

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from napari_addm.parallel import beside, one_blas_thread


def blas() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def three():
    """As many threads as no machine has by chance, set by a thread that is gone by then."""
    before = [(each["filepath"], each["num_threads"]) for each in threadpool_info()]
    with ThreadPoolExecutor(1) as setting:
        setting.submit(threadpool_limits, 3, "blas").result()
    yield
    with ThreadPoolExecutor(1) as setting:
        setting.submit(threadpool_limits, dict(before)).result()


def test_results_come_in_the_order_of_what_was_given():
    first_waits = Barrier(2)

    def work(number, other):
        if number < 2:
            first_waits.wait(60)  # both at once, or never
        return number * other

    assert beside(work, range(5), range(5)) == [0, 1, 4, 9, 16]


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError):
        beside(lambda number: 1 / number, [1, 0])
    assert blas() == {3}


def test_products_take_one_thread_within_and_as_many_as_before_after():
    assert blas() == {3}
    with one_blas_thread():
        assert blas() == {1}
        with one_blas_thread():
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {3}
    assert beside(lambda _: blas(), range(2)) == [{1}, {1}]
    assert blas() == {3}


def test_those_who_come_and_go_crosswise_leave_as_many_threads_as_there_were():
    """The first goes while the second is still within, in other threads."""
    first, second = one_blas_thread(), one_blas_thread()
    with ThreadPoolExecutor(1) as here, ThreadPoolExecutor(1) as there:
        here.submit(first.__enter__).result()
        there.submit(second.__enter__).result()
        here.submit(first.__exit__, None, None, None).result()
        assert blas() == {1}
        there.submit(second.__exit__, None, None, None).result()
    assert blas() == {3}


def within() -> set[int]:
    with one_blas_thread():
        return blas()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_limits_its_own():
    assert within() == {1}
    with one_blas_thread(), ProcessPoolExecutor(1, get_context("fork")) as processes:
        assert processes.submit(within).result(60) == {1}
    assert blas() == {3}
