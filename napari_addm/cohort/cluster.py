"""The batch on a dask cluster: the client hands out cases, workers do them, files stay the same.

:func:`run_on_cluster` is a twin of :func:`napari_addm.cohort.run.run_batch`. The client holds the
lock, the plan and the manifest; every case goes through the three steps of
:class:`napari_addm.cohort.run.Batch` on one worker, which writes its files and its state. So input,
output and model have to lie on a file system that all machines share, under the same paths. That
is how clusters are built, and it spares the network between them: neither scans nor weights pass
through dask, and each worker checks the model it reads by its SHA-256.

A worker gets at most `PER_WORKER` cases at once, one in the network and two being read or
written, so memory and the load of the scheduler are bounded however many cases there are. The
client says which worker gets which case. That is how it knows, when a worker dies, which cases
were with it: they are tried again, each alone on a worker, so that a case that kills its worker
takes no other along.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm import __version__
from napari_addm.checkpoint.file import DEMO_CHECKPOINT, Checkpoint, load_checkpoint
from napari_addm.cohort.case import CaseResult, CohortCase, Shard
from napari_addm.cohort.run import (
    HEARTBEAT,
    Batch,
    BatchProgress,
    BatchSettings,
    OutputLostError,
    Run,
)
from napari_addm.errors import AddmError, MissingExtraError
from napari_addm.io.hashing import scan_sha256

if TYPE_CHECKING:
    from distributed import Client, Future

PACKAGE = "napari-addm"
PER_WORKER = 3
MOST_TRIES = 3
CONNECT_SECONDS = 10.0
MUSTER_SECONDS = 1.0
QUIET_SECONDS = 30.0
RECALL_SECONDS = 60.0
RESULT_SECONDS = 10.0
THREADS_PER_WORKER = 4
# LocalCluster gives a worker up for good when none of its name is there so long after it died, be
# it back and dead again: then nobody starts it once more.
WORKERS_COME_BACK = {"distributed.deploy.lost-worker-timeout": "365 days"}

_log = logging.getLogger(__name__)


# --- what a worker does --------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a worker has to know of a run.

    Attributes
    ----------
    id : str
    output : Path
    checkpoint : Path or None
        None for the demo model, which every installation has at its own place.
    sha256 : str
        Of the checkpoint's file.
    settings : BatchSettings
    parameters : str
        Hash of the parameters, which a worker has to come to as well.
    plan : Path
        Of this run; a worker that reads the same file sees the same folder.
    plan_sha256 : str
    """

    id: str
    output: Path
    checkpoint: Path | None
    sha256: str
    settings: BatchSettings
    parameters: str
    plan: Path
    plan_sha256: str


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back; never an exception, whose log would name folders.

    Attributes
    ----------
    result : CaseResult or None
        None when the run was stopped, or the output is lost.
    unchanged : bool
    lost : str
        Why the output takes no more files.
    """

    result: CaseResult | None = None
    unchanged: bool = False
    lost: str = ""


_stopped: set[str] = set()
_network = threading.Lock()
_loading = threading.Lock()


@lru_cache(maxsize=1)
def _batch(job: Job) -> Batch:
    checkpoint = load_checkpoint(job.checkpoint or DEMO_CHECKPOINT)
    if checkpoint.sha256 != job.sha256:
        raise AddmError(f"{checkpoint.path} is another file there than here")
    return Batch(checkpoint, job.settings, job.output)


def _batch_of(job: Job) -> Batch:
    """The batch of a run, with one model in a worker however many threads ask for it."""
    with _loading:
        return _batch(job)


def join(job: Job, scan: Path | None) -> str:
    """On a worker: load the model and see whether cases can be done here.

    Parameters
    ----------
    job : Job
    scan : Path or None
        One that the client sees.

    Returns
    -------
    str
        What is wrong; empty when all is well.
    """
    mend = "input, output and model have to lie on a file system that all machines share"
    try:
        same = scan_sha256(job.plan) == job.plan_sha256
    except OSError:
        same = False
    if not same:
        return f"does not see {job.output} as it is here: {mend}, under the same paths"
    if scan is not None and not scan.exists():
        return f"does not see {scan.name}: {mend}, under the same paths"
    try:
        parameters = _batch_of(job).parameters_hash
    except AddmError as error:
        return f"cannot begin ({error}): {mend}, under the same paths"
    except Exception as error:
        return f"cannot begin ({type(error).__name__}: {error}): see that napari-addm runs there"
    if parameters != job.parameters:
        return f"has another napari-addm: install {__version__} there"
    return ""


def work(job: Job, case: CohortCase) -> Outcome:
    """On a worker: one case from its file to its files; nothing is raised.

    Dask would print an exception with its folders, and of one that it cannot send, be it for its
    traceback, the client never hears.
    """
    started = time.perf_counter()
    try:
        batch = _batch_of(job)
        try:
            return _through(job, batch, case)
        except (AddmError, OSError):
            raise  # the output is lost: what befalls one case alone was caught before
        except Exception as error:
            return Outcome(batch.failed(case, error, time.perf_counter() - started))
    except Exception as error:
        known = isinstance(error, AddmError | OSError)
        return Outcome(lost=str(error) if known else f"{type(error).__name__}: {error}")


def _through(job: Job, batch: Batch, case: CohortCase) -> Outcome:
    """The three steps of a case.

    The network takes one case at a time; what waits for it is read and prepared meanwhile, and
    what has passed it is written.
    """
    import torch
    from distributed import get_worker

    wanted = _watch(job)
    # dask keeps numerical libraries to one thread; what the worker was given is the network's
    torch.set_num_threads(max(1, get_worker().state.nthreads))
    prepared = batch.prepare(case)
    if isinstance(prepared, CaseResult):
        return Outcome(prepared, unchanged=prepared.status == "done")
    detection = None
    with _network:
        started = time.perf_counter()
        steps = batch.reconstruct(prepared)
        try:
            while wanted():
                progress = next(steps, None)
                if progress is None:
                    break
                detection = progress.result
        except Exception as error:
            spent = prepared.seconds + time.perf_counter() - started
            return Outcome(batch.failed(case, error, spent, prepared.key))
        finally:
            steps.close()
        spent = time.perf_counter() - started
    if not wanted():
        return Outcome()
    assert detection is not None  # the last progress always carries it
    return Outcome(batch.write(prepared, detection, spent))


def _watch(job: Job) -> Callable[[], bool]:
    """Whether the task of this thread is still wanted: by the client, and by a living scheduler."""
    from distributed import Status, get_worker

    worker = get_worker()
    key = worker.get_current_task()
    alive = (Status.running, Status.paused, Status.closing_gracefully)

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        there = task is not None and task.state == "executing" and worker.status in alive
        return there and job.id not in _stopped

    return wanted


def stop(job_id: str) -> None:
    """On a worker: give up what is in the network for a run, within one step."""
    _stopped.add(job_id)


# --- the client ----------------------------------------------------------------------------------


def run_on_cluster(
    cases: Sequence[CohortCase],
    output: str | os.PathLike[str],
    checkpoint: Checkpoint,
    settings: BatchSettings | None = None,
    shard: Shard | None = None,
    only: Collection[str] | None = None,
    *,
    address: str,
) -> Generator[BatchProgress, None, None]:
    """Detect in every case of a cohort on a dask cluster; see `napari_addm.cohort.run.run_batch`.

    Parameters
    ----------
    cases, output, checkpoint, settings, shard, only
        As for `napari_addm.cohort.run.run_batch`.
    address : str
        Of the scheduler, such as ``tcp://10.0.0.1:8786``; a scheduler file (``.json``); or
        ``local`` or ``local:N`` for N workers on this machine.

    Yields
    ------
    BatchProgress
        With each case's result, from time to time between them, and once at the end. Steps of the
        network are not reported.

    Raises
    ------
    AddmError
        As for `run_batch`; when the scheduler cannot be reached or is lost; and
        when a worker that is there at the start lacks napari-addm, has another version, or does
        not see the folders.
    MissingExtraError
        Without distributed.
    """
    shard = shard or Shard()
    output = Path(output).absolute()
    batch = Batch(checkpoint, settings or BatchSettings(), output)
    mine = [_absolute(case) for case in shard.select(cases)]
    with connected(address) as client:
        run = _ClusterRun(batch, mine, shard, client, address, only)
        with batch.folder.lock(shard):
            yield from run.drive()


def _absolute(case: CohortCase) -> CohortCase:
    """The same case for a machine with another working directory."""
    return replace(
        case,
        scan=case.scan.absolute(),
        truth=case.truth and case.truth.absolute(),
        mask=case.mask and case.mask.absolute(),
    )


@contextmanager
def _unheard_by_children() -> Iterator[None]:
    """Ctrl-C is for the client; processes begun in the block are ended by it, not by the signal.

    A terminal sends it to all of them, and each worker would print where it was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of a scheduler; one of this machine's own is ended with the block.

    Raises
    ------
    MissingExtraError
        Without distributed.
    AddmError
        When there is no scheduler.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtraError(
            "A batch on a cluster needs distributed: pip install 'napari-addm[cluster]'."
        ) from error

    local = re.fullmatch(r"local(?::(\d{1,4}))?", address.strip())
    if local:
        cores = os.cpu_count() or 1
        count = int(local[1]) if local[1] else max(1, cores // THREADS_PER_WORKER)
        if count < 1:
            raise AddmError(f"The cluster {address} has no worker: local:1 is the smallest.")
        with dask.config.set(WORKERS_COME_BACK):
            with _unheard_by_children():
                cluster = LocalCluster(
                    n_workers=count,
                    threads_per_worker=max(1, cores // count),
                    memory_limit=0,  # the machine's own limit is enough
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            with cluster, Client(cluster, set_as_default=False) as client:
                yield client
        return
    try:
        if address.endswith(".json"):
            client = Client(scheduler_file=address, timeout=CONNECT_SECONDS, set_as_default=False)
        else:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise AddmError(
            f"No dask scheduler answers at {address}: check the address, and that dask scheduler "
            "runs there."
        ) from error
    with client:
        yield client


@dataclass
class _Worker:
    """A worker as the client knows it."""

    joining: Future | None = None
    load: int = 0
    fit: bool = False
    alone: bool = False


@dataclass
class _Task:
    """A case on its way."""

    case: CohortCase
    worker: str = ""
    tries: int = 0
    started: float = field(default_factory=time.perf_counter)


class _ClusterRun(Run):
    """A run whose cases are done by workers."""

    def __init__(
        self,
        batch: Batch,
        cases: Sequence[CohortCase],
        shard: Shard,
        client: Client,
        address: str,
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__(batch, cases, shard, only)
        self.client, self.address = client, address
        self.waiting: deque[CohortCase] = deque(self.todo)
        self.suspects: deque[_Task] = deque()
        self.running: dict[Future, _Task] = {}
        self.workers_there: dict[str, _Worker] = {}
        self.done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.mustered = -float("inf")
        self.anybody = time.perf_counter()
        self.begun = self.died = False

    def work(self) -> Iterator[BatchProgress]:
        self.job = self._job()
        try:
            while self.waiting or self.suspects or self.running:
                if time.perf_counter() - self.mustered > MUSTER_SECONDS:
                    yield from self._muster()
                self._hand_out()
                try:
                    future = self.done.get(timeout=HEARTBEAT)
                except queue.Empty:
                    yield self.progress("read", "")
                    continue
                yield from self._settle(future)
        finally:
            self._recall()
        if self.died:  # what was half written lies beside whole files
            self.batch.folder.remove_leftovers(self.cases, self.shard)

    def _job(self) -> Job:
        batch = self.batch
        path = batch.checkpoint.path.absolute()
        plan = batch.folder.plan_path(self.shard)
        return Job(
            id=uuid.uuid4().hex,
            output=batch.folder.path,
            checkpoint=None if path == DEMO_CHECKPOINT.absolute() else path,
            sha256=batch.checkpoint.sha256,
            settings=batch.settings,
            parameters=batch.parameters_hash,
            plan=plan,
            plan_sha256=scan_sha256(plan),
        )

    # - who is there -

    def _muster(self) -> Iterator[BatchProgress]:
        """See which workers have come and gone."""
        there = set(self._ask(self.client.nthreads))
        self.mustered = time.perf_counter()
        for address in self.workers_there.keys() - there:
            del self.workers_there[address]
            for future, task in list(self.running.items()):
                if task.worker == address:
                    yield from self._lost(future)
        new = there - self.workers_there.keys()
        if new:
            self._admit(new)
        if any(worker.fit or worker.joining for worker in self.workers_there.values()):
            self.anybody = self.mustered
        elif self.mustered - self.anybody > QUIET_SECONDS:
            self.anybody = float("inf")  # said once
            _log.warning("The cluster %s has no worker yet; waiting for one.", self.address)

    def _ask(self, question: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Ask the scheduler.

        Raises
        ------
        AddmError
            When it does not answer any more.
        """
        try:
            if self.client.status != "running":
                raise OSError(self.client.status)
            return question(*args, **more)
        except (OSError, TimeoutError, RuntimeError) as error:
            raise AddmError(
                f"The dask scheduler at {self.address} does not answer any more: start it again, "
                "and run the same command again to go on."
            ) from error

    def _admit(self, new: set[str]) -> None:
        """Let workers load the model, those with the same napari-addm."""
        found = self._ask(self.client.get_versions, packages=[PACKAGE])
        theirs = _version(found["scheduler"])
        if theirs != __version__:
            raise AddmError(_unfit(f"The scheduler {self.address}", theirs))
        scan = next((case.scan for case in self.todo if os.path.exists(case.scan)), None)
        for address in sorted(new):
            if address not in found["workers"]:  # gone, or not quite there: ask again
                continue
            self.workers_there[address] = worker = _Worker()
            theirs = _version(found["workers"][address])
            if theirs != __version__:
                self._refuse(_unfit(f"The worker {address}", theirs))
                continue
            worker.joining = self._submit(address, join, self.job, scan)

    def _refuse(self, fault: str) -> None:
        """A worker is not used; at the start, when somebody is there to mend it, nothing is."""
        if not self.begun:
            raise AddmError(fault)
        _log.warning("%s It gets no cases.", fault)

    def _submit(self, worker: str, function: Callable[..., Any], *args: Any) -> Future:
        """A task for one worker; its key tells nothing."""
        future = self._ask(
            self.client.submit,
            function,
            *args,
            key=f"addm-{uuid.uuid4().hex}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
        )
        future.add_done_callback(self.done.put)
        return future

    # - cases -

    def _hand_out(self) -> None:
        """Give cases to whoever has room."""
        for address, worker in sorted(self.workers_there.items(), key=lambda item: item[1].load):
            while worker.fit and not worker.alone and worker.load < PER_WORKER:
                if self.suspects:
                    if worker.load:
                        break  # let it run empty: nobody is to die with a suspect
                    task = self.suspects.popleft()
                    worker.alone = True
                elif self.waiting:
                    task = _Task(self.waiting.popleft())
                else:
                    break
                task.worker = address
                worker.load += 1
                self.running[self._submit(address, work, self.job, task.case)] = task

    def _settle(self, future: Future) -> Iterator[BatchProgress]:
        """A task has ended, one way or another."""
        from distributed import KilledWorker

        for address, worker in self.workers_there.items():
            if worker.joining is future:
                self._joined(address, worker)
                return
        if future not in self.running:
            return
        error = future.exception() if future.status == "error" else None
        if future.status != "finished":
            if error is None or isinstance(error, KilledWorker):
                yield from self._lost(future)
                return
            # whatever dask could not do with it, it is this case's alone
            task = self._leave(future)
            spent = time.perf_counter() - task.started
            yield self.take(self.batch.failed(task.case, error, spent))
            return
        try:
            outcome = future.result(timeout=RESULT_SECONDS)
        except TimeoutError:  # its worker died with it
            yield from self._lost(future)
            return
        task = self._leave(future)
        if outcome.lost:
            raise OutputLostError(outcome.lost)
        if outcome.result is None:  # a worker that was about to close gave it up
            self.suspects.append(task)
            return
        self.begun = True
        yield self.take(outcome.result, outcome.unchanged)

    def _joined(self, address: str, worker: _Worker) -> None:
        future, worker.joining = worker.joining, None
        assert future is not None
        if future.status == "finished":
            fault = future.result()
            worker.fit = not fault
        elif future.status == "error":
            error = future.exception()
            fault = f"cannot begin ({type(error).__name__}: {error})"
        else:  # cancelled or lost: ask again, if the worker is still there
            del self.workers_there[address]
            return
        future.release()
        if fault:
            self._refuse(f"The worker {address} {fault}.")

    def _leave(self, future: Future) -> _Task:
        """The task of a future, which is over."""
        task = self.running.pop(future)
        future.release()
        worker = self.workers_there.get(task.worker)
        if worker is not None:
            worker.load -= 1
            worker.alone = False
        return task

    def _lost(self, future: Future) -> Iterator[BatchProgress]:
        """The worker died under a case: try it alone, but not forever."""
        self._ask(self.client.cancel, [future], force=True)
        task = self._leave(future)
        task.tries += 1
        self.died = True
        if task.tries < MOST_TRIES:
            self.suspects.append(task)
            return
        error = AddmError(
            f"the worker died {task.tries} times while it was at work on this case, in the end on "
            "this case alone: it may need more memory than a worker has"
        )
        spent = time.perf_counter() - task.started
        yield self.take(self.batch.failed(task.case, error, spent))

    def _recall(self) -> None:
        """Take back what is handed out; what is being written is waited for."""
        if not self.running and not any(w.joining for w in self.workers_there.values()):
            return
        there = [address for address, worker in self.workers_there.items() if worker.fit]
        with suppress(AddmError):
            if there:
                self._ask(self.client.run, stop, self.job.id, workers=there, on_error="ignore")
            deadline = time.perf_counter() + RECALL_SECONDS
            while self.running and time.perf_counter() < deadline:
                with suppress(queue.Empty):
                    future = self.done.get(timeout=HEARTBEAT)
                    if future in self.running:
                        outcome = None
                        if future.status == "finished":
                            outcome = self._ask(future.result, timeout=RESULT_SECONDS)
                        self._leave(future)
                        if outcome is not None and outcome.result is not None:
                            self.keep(outcome.result)
                if time.perf_counter() - self.mustered > MUSTER_SECONDS:
                    alive = set(self._ask(self.client.nthreads))
                    self.mustered = time.perf_counter()
                    for future in [f for f, t in self.running.items() if t.worker not in alive]:
                        self._leave(future)
        rest = [*self.running, *(w.joining for w in self.workers_there.values() if w.joining)]
        with suppress(OSError, TimeoutError, RuntimeError):
            self.client.cancel(rest, force=True)


def _version(found: dict[str, Any]) -> str | None:
    """The version of napari-addm out of `Client.get_versions`."""
    version = (found.get("packages") or {}).get(PACKAGE)
    return None if version is None else str(version)


def _unfit(who: str, version: str | None) -> str:
    if version is None:
        return f"{who} has no napari-addm: install {PACKAGE} {__version__} there."
    return f"{who} has napari-addm {version}, and here it is {__version__}: install one on both."
