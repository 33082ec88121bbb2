"""Jobs in another thread: what they yield, their errors and their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from qtpy.QtCore import QObject

from napari_addm.errors import InputError
from napari_addm.widgets.jobs import Jobs, start_job


class Listener(QObject):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[object] = []
        self.errors: list[Exception] = []
        self.ended = False
        self.thread_ids: set[int] = set()

    def hear(self, item: object) -> None:
        self.items.append(item)
        self.thread_ids.add(threading.get_ident())

    def fail(self, error: Exception) -> None:
        self.errors.append(error)

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def listener(qapp) -> Listener:
    return Listener()


def start(listener: Listener, work, *args):
    return start_job(
        "Test", work, *args, yielded=listener.hear, errored=listener.fail, finished=listener.end
    )


def test_items_come_in_order_in_the_thread_of_the_gui_and_before_the_end(listener, qtbot):
    def work(count: int) -> Iterator[int]:
        assert threading.current_thread() is not threading.main_thread()
        yield from range(count)

    start(listener, work, 5)
    qtbot.waitUntil(lambda: listener.ended)
    assert listener.items == list(range(5))
    assert listener.thread_ids == {threading.get_ident()}
    assert listener.errors == []


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2"), InputError("words"), MemoryError()]
)
def test_an_error_is_reported_as_it_was_raised(listener, qtbot, error):
    def work() -> Iterator[str]:
        yield "begun"
        raise error

    start(listener, work)
    qtbot.waitUntil(lambda: listener.ended)
    assert listener.items == ["begun"]
    assert listener.errors == [error]


def test_a_job_that_is_asked_to_stop_is_closed_in_its_own_thread(listener, qtbot):
    closed_in: list[int] = []

    def work() -> Iterator[int]:
        try:
            while True:
                yield threading.get_ident()
        finally:
            closed_in.append(threading.get_ident())

    jobs = Jobs()
    jobs.start("Test", work, yielded=listener.hear, errored=listener.fail, finished=listener.end)
    qtbot.waitUntil(lambda: len(listener.items) > 1)
    jobs.quit()
    qtbot.waitUntil(lambda: listener.ended)
    assert closed_in == [listener.items[0]]
    assert listener.errors == []
