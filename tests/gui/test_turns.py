"""Steps of the window's thread that have a turn of the event loop each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from qtpy.QtCore import QObject, QTimer

from napari_addm.widgets.viewing.turns import Turns

MINUTE = 60_000


@pytest.fixture
def owner(qapp) -> Iterator[QObject]:
    owner = QObject()
    yield owner
    owner.deleteLater()


def steps(name: str, count: int, log: list[str], seconds: float = 0.0) -> Iterator[None]:
    for n in range(count):
        time.sleep(seconds)
        log.append(f"{name}{n}")
        yield


def test_nothing_is_done_at_once_and_all_in_order(owner, qtbot):
    turns, log = Turns(owner), []
    turns.take(steps("a", 2, log))
    turns.call(lambda: log.append("then"))
    turns.take(steps("b", 1, log))
    assert log == []
    qtbot.waitUntil(lambda: len(log) == 4, timeout=MINUTE)
    assert log == ["a0", "a1", "then", "b0"]
    turns.call(lambda: log.append("again"))
    qtbot.waitUntil(lambda: log[-1] == "again", timeout=MINUTE)


def test_owners_take_turns(owner, qtbot):
    one, other, log = Turns(owner), Turns(None), []
    one.take(steps("a", 3, log))
    other.take(steps("b", 3, log))
    qtbot.waitUntil(lambda: len(log) == 6, timeout=MINUTE)
    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_between_two_long_steps_the_event_loop_has_its_turn(owner, qtbot):
    """A timer that is due is heard, and what is painted then is no part of a step's turn."""
    log: list[str] = []
    beat = QTimer(owner)
    beat.setInterval(1)
    beat.timeout.connect(lambda: log.append("beat"))
    beat.start()
    for name in "ab":
        Turns(owner).take(steps(name, 3, log, seconds=0.02))
    qtbot.waitUntil(lambda: sum(entry != "beat" for entry in log) == 6, timeout=MINUTE)
    beat.stop()
    for before, after in pairwise(log):
        assert "beat" in (before, after), log


def test_a_step_that_fails_does_not_keep_the_others_from_theirs(owner, qtbot):
    turns, log = Turns(owner), []

    def fails() -> Iterator[None]:
        yield
        raise ValueError("on purpose")

    turns.take(fails())
    turns.take(steps("a", 2, log))
    with qtbot.captureExceptions() as raised:
        qtbot.waitUntil(lambda: len(log) == 2, timeout=MINUTE)
    assert [str(error) for _, error, _ in raised] == ["on purpose"]


def test_what_is_left_can_be_done_at_once(owner, qtbot):
    turns, log = Turns(owner), []
    turns.take(steps("a", 2, log))
    turns.call(lambda: turns.take(steps("b", 1, log)))
    turns.finish()
    assert log == ["a0", "a1", "b0"]
    qtbot.wait(20)
    assert log == ["a0", "a1", "b0"]


def test_they_end_with_their_owner(owner, qtbot):
    gone, log = QObject(), []
    Turns(gone).take(steps("a", 2, log))
    Turns(owner).take(steps("b", 2, log))
    gone.deleteLater()
    qtbot.waitUntil(lambda: "b1" in log, timeout=MINUTE)
    assert "a1" not in log
