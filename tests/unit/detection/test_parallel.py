"""Work side by side, and the threads of the libraries meanwhile."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from threading import Barrier, Event, get_native_id
from time import monotonic, sleep

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from napari_addm.detection.courtesy import LONGEST_SECONDS, come_first, go_on
from napari_addm.detection.parallel import beside, one_blas_thread


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


def test_the_caller_does_what_no_helper_has_begun():
    """It waits for none of them while there is something left to do."""
    here, own = get_native_id(), []
    all_else = Event()

    def work(number):
        if get_native_id() != here:
            assert all_else.wait(60)
            return number
        own.append(number)
        if len(own) == 3:
            all_else.set()
        return number

    count = max(1, (os.cpu_count() or 1) - 1) + 3
    assert beside(work, range(count)) == list(range(count))
    assert len(own) >= 3


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError):
        beside(lambda number: 1 / number, [1, 0])
    assert blas() == {3}


def test_after_an_error_nothing_goes_on():
    """What fails leaves no one at work on arrays that the caller may free."""
    going_on = Event()
    done = []

    def work(number):
        if number == 0:
            going_on.wait(60)  # another has begun
            raise ZeroDivisionError
        going_on.set()
        sleep(0.05)
        done.append(number)

    with pytest.raises(ZeroDivisionError):
        beside(work, range(20))
    before = list(done)
    sleep(0.2)
    assert done == before


def test_those_who_help_may_be_helped():
    """Within calls that are made side by side, and those within these: nobody waits for ever."""

    def work(depth):
        return 1 + sum(beside(work, [depth - 1] * 3)) if depth else 1

    assert beside(work, [3] * 5) == [40] * 5


def test_the_threads_that_help_stay():
    count = max(2, os.cpu_count() or 1)
    all_at_once = Barrier(count)

    def thread(_):
        all_at_once.wait(60)
        return get_native_id()

    there = set(beside(thread, range(count)))
    assert len(there) == count
    assert set(beside(thread, range(count))) == there


@pytest.mark.skipif(sys.platform != "linux", reason="no thread has a priority of its own here")
def test_who_stands_back_is_helped_by_those_who_stand_back_as_far():
    def niceness(_=None):
        sleep(0.01)
        return os.getpriority(os.PRIO_PROCESS, get_native_id())

    def stand_back() -> tuple[int, set[int]]:
        os.setpriority(os.PRIO_PROCESS, get_native_id(), niceness() + 3)
        return niceness(), set(beside(niceness, range(8)))

    here = niceness()
    for _ in range(2):
        with ThreadPoolExecutor(1) as other:
            behind, helpers = other.submit(stand_back).result()
        assert helpers == {behind} == {here + 3}
        assert set(beside(niceness, range(8))) == {here}


def test_a_person_comes_before_each_call():
    times = []
    come_first()
    try:
        began = monotonic()
        beside(lambda _: times.append(monotonic() - began), range(3))
    finally:
        go_on()
    assert min(times) >= 0.9 * LONGEST_SECONDS


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
    assert beside(abs, [-1, -2]) == [1, 2]  # helpers are there, and do not come along
    with one_blas_thread(), ProcessPoolExecutor(1, get_context("fork")) as processes:
        assert processes.submit(within).result(60) == {1}
        assert processes.submit(beside, abs, [-1, -2]).result(60) == [1, 2]
    assert blas() == {3}
