"""Work in another thread, by superqt's generator worker.

A job is a generator function. What it yields, and the error that ended it, reach
methods of the panel by Qt signals, in the GUI's thread.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Any
from weakref import WeakSet

from qtpy.QtCore import QCoreApplication, QEvent, QObject, Signal  # type: ignore[attr-defined]
from superqt.utils import GeneratorWorker, WorkerBase

EXIT_MS = 30_000
"""How long Python waits at its end for jobs to stop within their step."""


@dataclass(frozen=True)
class Status:
    """What a job does now, in words."""

    words: str


class JobError(Exception):
    """Carries a RuntimeError of a job as its cause.

    superqt takes each RuntimeError for a deleted worker and keeps silent. torch raises many.
    """


class _Errors(QObject):
    """Tells of the exception that ended a job.

    What napari connects to superqt's own ``errored`` takes no exception: PySide6 refuses that.
    """

    failed = Signal(object)


@dataclass(frozen=True)
class _Task:
    """A generator function with the name that napari shows when its window closes mid-run."""

    name: str
    generate: Callable[..., Iterator[Any]]

    def __str__(self) -> str:
        return f"'{self.name}'"


def _forward(items: Iterable[Any]) -> Generator[Any, None, None]:
    try:
        yield from items
    except RuntimeError as error:
        raise JobError from error


class Job(GeneratorWorker[Any, None, None]):
    """Drives a generator in a thread of Qt's pool, and closes it there."""

    def __init__(self, task: _Task, *args: Any) -> None:
        self._items: Any = task.generate(*args)
        super().__init__(_forward, self._items)
        self._errors = _Errors()
        self.failed = self._errors.failed
        self.over = Event()

    def work(self) -> None:
        """Run to the end, or until `quit` was called."""
        # napari keeps a worker while its window is open. Only a closed generator is empty.
        try:
            with closing(self._items):
                super().work()
        except Exception as error:
            self.failed.emit(error.__cause__ if isinstance(error, JobError) else error)
        finally:
            self.over.set()


def start_job(
    name: str,
    generate: Callable[..., Iterator[Any]],
    *args: Any,
    yielded: Callable[[Any], object] | None = None,
    errored: Callable[[Exception], object],
    finished: Callable[[], object] | None = None,
) -> Job:
    """Run a generator off the GUI thread.

    Parameters
    ----------
    name : str
        For people.
    generate : callable
        A generator function, called with `args`.
    yielded, errored, finished : callable
        Hear of each item, of an error and of the end. They must be methods of a living QObject:
        Qt then calls them in its thread, and not after it is deleted.
    """
    from napari.qt.threading import create_worker

    slots = {"yielded": yielded, "failed": errored, "finished": finished}
    return create_worker(
        _Task(name, generate),
        *args,
        _worker_class=Job,
        _ignore_errors=True,
        _connect={signal: slot for signal, slot in slots.items() if slot is not None},
    )


class Jobs:
    """The jobs of one panel, which end with it."""

    def __init__(self) -> None:
        self._all: WeakSet[Job] = WeakSet()

    def start(self, *args: Any, **options: Any) -> Job:
        """Start a job, as `start_job` does."""
        job = start_job(*args, **options)
        self._all.add(job)
        return job

    @property
    def going(self) -> bool:
        """Whether any of them is not over yet."""
        return not all(job.over.is_set() for job in list(self._all))

    def quit(self) -> None:
        """Ask all of them to stop."""
        for job in self._all:
            job.quit()


def _end_all() -> None:
    """End all jobs, and delete the windows that were closed.

    A script may end without Qt's event loop. PyQt6 would then delete closed windows while it goes
    through its table of all objects, which napari changes meanwhile: that crashes.
    """
    with contextlib.suppress(RuntimeError):  # a job takes longer than this
        WorkerBase.await_workers(EXIT_MS)
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


atexit.register(_end_all)
