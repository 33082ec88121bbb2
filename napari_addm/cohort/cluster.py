"""The batch on a dask cluster: its workers do the cases, and the files are the same.

The client holds the lock, the plan and the manifest. Each case goes through the steps of
:class:`napari_addm.cohort.batch.Batch` on one worker, which writes its files and its state. So
input, output and model have to lie on a file system that all machines share, under the same paths;
neither scans nor weights pass through dask.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_addm import __version__
from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.cohort.batch import Batch, BatchSettings, OutputLostError
from napari_addm.cohort.case import CaseResult, CohortCase, Shard
from napari_addm.cohort.run import HEARTBEAT_SECONDS, BatchProgress, Run
from napari_addm.errors import AddmError, MissingExtraError
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.hashing import file_sha256

if TYPE_CHECKING:
    from distributed import Client, Future

PACKAGE = "napari-addm"
CASES_PER_WORKER = 3  # one in the network, one being read, one being written
CONNECT_SECONDS = 10.0
COUNT_SECONDS = 1.0
QUIET_SECONDS = 30.0
RECALL_SECONDS = 60.0
RESULT_SECONDS = 10.0
THREADS_PER_WORKER = 4
LOCAL_CLUSTER = {
    "distributed.scheduler.allowed-failures": 1,  # deaths of workers, before a case is tried alone
    "distributed.deploy.lost-worker-timeout": "365 days",  # after it, workers are not restarted
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}

_log = logging.getLogger(__name__)


# --- on a worker ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a worker has to know of a run.

    Attributes
    ----------
    id : str
    output : Path
    checkpoint : Path or None
        None for the demo model, which every installation has at its own place.
    settings : BatchSettings
    parameters : str
        Hash of the parameters, model included, which a worker has to arrive at as well.
    plan : Path
        The plan of this run; a worker that reads the same file sees the same folder.
    plan_sha256 : str
    """

    id: str
    output: Path
    checkpoint: Path | None
    settings: BatchSettings
    parameters: str
    plan: Path
    plan_sha256: str


# The result of a case, and whether it was there already; an error that ends the run; or None for a
# case that was given up. Errors are returned, as dask would print a traceback that names folders.
Outcome = tuple[CaseResult, bool] | AddmError | None

_stopped: set[str] = set()
_network, _loading = threading.Lock(), threading.Lock()


@lru_cache(maxsize=1)
def load_batch(job: Job) -> Batch:
    """Load the batch of a run on a worker.

    Raises
    ------
    AddmError
        When this machine does not see the same folder or model, or has another napari-addm.
    """
    try:
        if file_sha256(job.plan) != job.plan_sha256:
            raise AddmError(f"{job.plan} differs")
        batch = Batch(load_checkpoint(job.checkpoint or DEMO_CHECKPOINT), job.settings, job.output)
    except AddmError as error:
        raise AddmError(
            f"does not see the output or the model as they are here ({error}): input, output and "
            "model have to lie on a file system that all machines share, under the same paths"
        ) from error
    if batch.parameters_hash != job.parameters:
        raise AddmError(f"has another model or napari-addm: install {__version__} there")
    return batch


def run_case_on_worker(job: Job, case: CohortCase) -> Outcome:
    """Do one case from its file to its files, on a worker."""
    import torch
    from distributed import get_worker

    worker, started, batch = get_worker(), time.perf_counter(), None
    # Dask keeps numerical libraries to one thread; the worker's threads are for the network.
    torch.set_num_threads(max(1, worker.state.nthreads))
    try:
        with _loading:  # one model in a worker, however many threads ask for it
            batch = load_batch(job)
        return _do_case(batch, case, _is_wanted(job))
    except (AddmError, OSError) as error:  # errors of the case alone are results
        return OutputLostError(str(error)) if batch else _unfit(worker.address, error)
    except Exception as error:
        if batch is None:
            return _unfit(worker.address, error)
        return batch.keep_failure(case, error, time.perf_counter() - started), False


def _unfit(address: str, error: Exception) -> AddmError:
    reason = str(error) if isinstance(error, AddmError) else f"cannot begin ({error!r})"
    return AddmError(f"The worker {address} {reason}.")


def _do_case(batch: Batch, case: CohortCase, wanted: Callable[[], bool]) -> Outcome:
    """The three steps of a case; the network takes one case at a time."""
    if not wanted():
        return None
    item = batch.read(case)
    if isinstance(item, CaseResult):
        return item, item.status == "done"
    with _network:
        started, steps = time.perf_counter(), batch.detect(item)
        try:
            while wanted():
                next(steps)
            return None
        except StopIteration as end:
            detection, seconds = end.value, time.perf_counter() - started
        finally:
            steps.close()
    if isinstance(detection, CaseResult):
        return detection, False
    return (batch.write(item, detection, seconds), False) if wanted() else None


def stop(job_id: str) -> None:
    """Give up the cases of a run on this worker, within one step of the network."""
    _stopped.add(job_id)


def _is_wanted(job: Job) -> Callable[[], bool]:
    """Whether this thread's task is still wanted, by the client and by a living scheduler."""
    from distributed import Status, get_worker

    worker = get_worker()
    key = worker.get_current_task()
    alive = (Status.running, Status.paused, Status.closing_gracefully)

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        there = task is not None and task.state == "executing" and worker.status in alive
        return there and job.id not in _stopped

    return wanted


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
        As for `run_batch`.
    address : str
        Address of the scheduler, such as ``tcp://10.0.0.1:8786``; a scheduler file (``.json``);
        or ``local`` or ``local:N`` for N workers on this machine.

    Yields
    ------
    BatchProgress
        As `run_batch`, without the steps of the network.

    Raises
    ------
    AddmError
        As `run_batch`; when the scheduler cannot be reached or is lost; and when a worker lacks
        napari-addm, has another version, or does not see the folders.
    MissingExtraError
        Without distributed.
    """
    shard = shard or Shard()
    batch = Batch(checkpoint, settings or BatchSettings(), Path(output).absolute())
    mine = [  # workers have other working directories
        replace(
            case,
            scan=case.scan.absolute(),
            truth=case.truth and case.truth.absolute(),
            mask=case.mask and case.mask.absolute(),
        )
        for case in shard.select(cases)
    ]
    with connect(address) as client:
        run = _ClusterRun(batch, mine, shard, only)
        run.client, run.address = client, address
        with batch.folder.lock(shard):
            yield from run.drive()


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Connect to a scheduler, or start a local cluster that ends with the block.

    Raises
    ------
    MissingExtraError
        Without distributed.
    AddmError
        When there is no scheduler.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError(
            "A batch on a cluster needs distributed: pip install 'napari-addm[cluster]'."
        ) from error
    local = re.fullmatch(r"local(?::(\d{1,4}))?", address.strip())
    if local:
        cores = os.cpu_count() or 1
        workers = int(local[1]) if local[1] else max(1, cores // THREADS_PER_WORKER)
        if workers < 1:
            raise AddmError(f"The cluster {address} has no worker: local:1 is the smallest.")
        with (
            _local_cluster(workers, max(1, cores // workers)) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    where = {"scheduler_file" if address.endswith(".json") else "address": address}
    try:
        client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise AddmError(
            f"No dask scheduler answers at {address}: check the address, and that dask scheduler "
            "runs there."
        ) from error
    with client:
        yield client


@contextmanager
def _local_cluster(workers: int, threads: int) -> Iterator[Any]:
    """Workers on this machine that nobody else can talk to.

    A terminal sends Ctrl-C to every process; the workers leave it to the client, which ends them.
    """
    import dask
    from distributed import LocalCluster, Security

    preload = {
        f"distributed.{node}.preload": [*dask.config.get(f"distributed.{node}.preload"), __name__]
        for node in ("scheduler", "worker")
    }
    with (
        tempfile.TemporaryDirectory(prefix="napari-addm-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(LOCAL_CLUSTER | preload),
    ):
        with _signals_blocked():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=0,  # the machine's own limit is enough
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                security=Security.temporary(),
                local_directory=scratch,
            )
        try:
            yield cluster
        finally:
            # dask cannot end a worker that it is just starting again; that one ends with us
            with suppress(AssertionError):
                cluster.close()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let threads and processes that begin here get no signal of the terminal.

    One that comes meanwhile takes effect afterwards.
    """
    if sys.platform == "win32":
        yield
        return
    blocked = {signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        resource_tracker.ensure_running()  # its start lets SIGINT through again
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def dask_setup(node: Any) -> None:
    """Stop the web server of a scheduler or worker of ours; dask calls this at its start."""
    node.http_server.stop()


class _ClusterRun(Run):
    """A run with workers that do the cases.

    Dask tries a case again if its worker dies. Cases that have seen too many workers die are
    tried one by one at the end, so that a case that kills its worker takes no other along.
    """

    client: Client
    address: str

    def work(self) -> Iterator[BatchProgress]:
        self.running: dict[Future[Any], CohortCase] = {}
        self.done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.suspects: deque[CohortCase] = deque()
        self.workers, self.counted, self.begun = 0, -float("inf"), time.perf_counter()
        self._check_versions()
        self.job = self._make_job()
        try:
            yield from self._drain(deque(self.todo))
            yield from self._drain(self.suspects, alone=True)
        finally:
            self._recall()
        # Dead workers leave half-written files beside whole ones.
        self.batch.folder.remove_leftovers(self.cases, self.shard)

    def _make_job(self) -> Job:
        batch, path = self.batch, self.batch.checkpoint.path.absolute()
        plan = batch.folder.plan_path(self.shard)
        return Job(
            id=uuid.uuid4().hex,
            output=batch.folder.path,
            checkpoint=None if path == DEMO_CHECKPOINT.absolute() else path,
            settings=batch.settings,
            parameters=batch.parameters_hash,
            plan=plan,
            plan_sha256=file_sha256(plan),
        )

    def _ask(self, question: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Ask the scheduler.

        Raises
        ------
        AddmError
            When it does not answer.
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

    def _check_versions(self) -> None:
        found = self._ask(self.client.get_versions, packages=[PACKAGE])
        machines = {f"The scheduler {self.address}": found["scheduler"]}
        machines |= {f"The worker {name}": answer for name, answer in found["workers"].items()}
        for name, answer in machines.items():
            version = (answer.get("packages") or {}).get(PACKAGE)
            if version is None:
                raise AddmError(f"{name} has no {PACKAGE}: install {PACKAGE} {__version__} there.")
            if version != __version__:
                raise AddmError(
                    f"{name} has {PACKAGE} {version}, and here it is {__version__}: install one "
                    "on both."
                )

    def _room(self, alone: bool) -> int:
        """How many cases may be handed out at once."""
        if time.perf_counter() - self.counted > COUNT_SECONDS:
            self.workers = len(self._ask(self.client.nthreads))
            self.counted = time.perf_counter()
            if not self.workers and self.counted - self.begun > QUIET_SECONDS:
                self.begun = float("inf")  # one warning is enough
                _log.warning("The cluster %s has no worker yet; waiting for one.", self.address)
        return 1 if alone else CASES_PER_WORKER * self.workers

    def _drain(self, cases: deque[CohortCase], alone: bool = False) -> Iterator[BatchProgress]:
        """Let workers do some cases; `alone` means one at a time in the whole cluster."""
        while cases or self.running:
            room = self._room(alone)
            while cases and len(self.running) < room:
                self._submit(cases.popleft())
            try:
                future = self.done.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                yield self.progress("read")
                continue
            if future in self.running:
                outcome, case = self._outcome(future), self.running.pop(future)
                future.release()
                yield from self._settle(case, outcome, cases, alone)

    def _submit(self, case: CohortCase) -> None:
        """Hand out a case, under a key that reveals nothing."""
        key = f"addm-{uuid.uuid4().hex}"
        future = self._ask(
            self.client.submit, run_case_on_worker, self.job, case, key=key, pure=False
        )
        self.running[future] = case
        future.add_done_callback(self.done.put)

    def _outcome(self, future: Future[Any]) -> Outcome | Exception:
        """The outcome of a task, or dask's error; None if it is lost with its worker."""
        if future.status == "error":
            return future.exception()
        if future.status == "finished":
            with suppress(TimeoutError):
                return future.result(timeout=RESULT_SECONDS)
        return None

    def _settle(
        self,
        case: CohortCase,
        outcome: Outcome | Exception,
        cases: deque[CohortCase],
        alone: bool,
    ) -> Iterator[BatchProgress]:
        """Take the outcome of a case, or decide how it goes on."""
        from distributed import KilledWorker

        if isinstance(outcome, tuple):
            yield self.take(*outcome)
        elif outcome is None:
            cases.append(case)
        elif isinstance(outcome, AddmError):
            raise outcome
        elif isinstance(outcome, KilledWorker) and not alone:
            self.suspects.append(case)
        elif isinstance(outcome, ModuleNotFoundError):
            raise AddmError(f"A worker lacks a library ({outcome}): install {PACKAGE} there.")
        else:
            if isinstance(outcome, KilledWorker):
                outcome = AddmError(
                    "the worker died each time that it was at work on this case, in the end on "
                    "this case alone: it may need more memory than a worker has"
                )
            yield self.take(self.batch.keep_failure(case, outcome, 0.0))

    def _recall(self) -> None:
        """Take back the cases that are handed out; those that are being written are waited for."""
        deadline = time.perf_counter() + RECALL_SECONDS
        with suppress(AddmError):
            if self.running:
                self._ask(self.client.run, stop, self.job.id, on_error="ignore")
            while self.running and time.perf_counter() < deadline:
                self._ask(len, self.running)  # ends the wait if the scheduler is lost
                with suppress(queue.Empty):
                    future = self.done.get(timeout=HEARTBEAT_SECONDS)
                    outcome = self._outcome(future)
                    if self.running.pop(future, None) and isinstance(outcome, tuple):
                        self.keep(outcome[0])
        with suppress(OSError, TimeoutError, RuntimeError):
            self.client.cancel(list(self.running), force=True)
