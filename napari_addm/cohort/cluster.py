"""The batch on a dask cluster: its workers do the cases, and the files are the same.

The client holds the lock, the plan and the manifest, and gives each worker one case at a time, so
that a worker that dies takes no other case along. Each case goes through the steps of
`napari_addm.cohort.batch.Batch` on one worker, which writes its files and its state. So
input, output and model have to lie on a file system that all machines share, under the same paths;
neither scans nor weights pass through dask.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
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
CONNECT_SECONDS = 10.0
RECALL_SECONDS = 60.0
RESULT_SECONDS = 10.0
THREADS_PER_WORKER = 4
LOCAL_CLUSTER = {
    "distributed.deploy.lost-worker-timeout": "365 days",  # after it, workers are not restarted
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}

_log = logging.getLogger(__name__)


# --- on a worker ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a worker has to know of a run, and what it has to find there as well."""

    id: str
    output: Path
    checkpoint: Path | None  # None for the demo model, which has a place of its own everywhere
    settings: BatchSettings
    parameters: str  # the hash of settings and model
    plan: Path
    plan_sha256: str


# The result of a case, and whether it was there already; an error that ends the run; or None for a
# case that was given up. Errors are returned, as dask would print a traceback that names folders.
Outcome = tuple[CaseResult, bool] | AddmError | None

_stopped: set[str] = set()


def stop(job_id: str) -> None:
    """Give up the case of a run on this worker, within one step of the network."""
    _stopped.add(job_id)


@lru_cache(maxsize=1)
def _load_batch(job: Job) -> Batch:
    if file_sha256(job.plan) != job.plan_sha256:
        raise AddmError(f"{job.plan} differs")
    batch = Batch(load_checkpoint(job.checkpoint or DEMO_CHECKPOINT), job.settings, job.output)
    if batch.parameters_hash != job.parameters:
        raise AddmError(f"{batch.checkpoint.path} differs")
    return batch


def run_case_on_worker(job: Job, case: CohortCase) -> Outcome:
    """Do one case from its file to its files, on a worker."""
    import torch
    from distributed import get_worker

    worker = get_worker()
    # Dask keeps numerical libraries to one thread; the worker's threads are for the network.
    torch.set_num_threads(max(1, worker.state.nthreads))
    try:
        batch = _load_batch(job)
    except Exception as error:
        return AddmError(
            f"The worker {worker.address} does not see the output or the model as they are here "
            f"({error}): input, output and model have to lie on a file system that all machines "
            "share, under the same paths."
        )
    try:
        item = batch.read(case)
        if isinstance(item, CaseResult):
            return item, item.status == "done"
        started, steps = time.perf_counter(), batch.detect(item)
        try:
            while _is_wanted(job):
                next(steps)
            return None
        except StopIteration as end:
            detection, seconds = end.value, time.perf_counter() - started
        finally:
            steps.close()
        if isinstance(detection, CaseResult):
            return detection, False
        return (batch.write(item, detection, seconds), False) if _is_wanted(job) else None
    except (AddmError, OSError) as error:  # those of the case alone are results
        return OutputLostError(str(error))
    except Exception as error:  # dask cannot send each of them
        return batch.keep_failure(case, error, 0.0), False


def _is_wanted(job: Job) -> bool:
    """Whether this thread's task is still wanted, by the client and by a living scheduler."""
    from distributed import Status, get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    alive = worker.status in (Status.running, Status.paused, Status.closing_gracefully)
    return alive and task is not None and task.state == "executing" and job.id not in _stopped


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
        As `run_batch` and `connect`; when the scheduler is lost; and when a worker lacks
        napari-addm, has another version, or does not see the folders.
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
        raise MissingExtraError("A batch on a cluster", "distributed", "cluster") from error
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

    Another thread starts them, so that Ctrl-C cannot leave half of them behind.
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
        ThreadPoolExecutor(1, initializer=_leave_terminal) as starter,
    ):
        cluster = starter.submit(
            LocalCluster,
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=0,  # the machine's own limit is enough
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            security=Security.temporary(),
            local_directory=scratch,
        )
        try:
            yield cluster.result()
        finally:
            # dask cannot end a worker that it is just starting again; that one ends with us
            with suppress(AssertionError):
                cluster.result().close()


def _leave_terminal() -> None:
    """Keep Ctrl-C, which a terminal sends to all processes, from those that this thread starts."""
    if sys.platform != "win32":
        signals = {signal.SIGINT, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        resource_tracker.ensure_running()  # its start lets SIGINT through again
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)


def dask_setup(node: Any) -> None:
    """Stop the web server of a scheduler or worker of ours; dask calls this at its start."""
    node.http_server.stop()


class _ClusterRun(Run):
    """A run with workers that do the cases; one whose worker dies is tried once more."""

    client: Client
    address: str

    def work(self) -> Iterator[BatchProgress]:
        self.busy: dict[str, tuple[CohortCase, Future[Any]]] = {}  # by the worker's address
        self.ended = threading.Event()
        self.checked: Collection[str] = ()  # workers with the same napari-addm
        self._check_versions()
        if not self.checked:
            _log.warning("The cluster %s has no worker yet; waiting for one.", self.address)
        batch, model = self.batch, self.batch.checkpoint.path.absolute()
        plan = batch.folder.plan_path(self.shard)
        self.job = Job(
            id=uuid.uuid4().hex,
            output=batch.folder.path,
            checkpoint=None if model == DEMO_CHECKPOINT.absolute() else model,
            settings=batch.settings,
            parameters=batch.parameters_hash,
            plan=plan,
            plan_sha256=file_sha256(plan),
        )
        todo, lost = deque(self.todo), set[str]()
        try:
            while todo or self.busy:
                self._hand_out(todo)
                yield self.progress("read")
                for case, outcome in self._collect():
                    if isinstance(outcome, tuple):
                        yield self.take(*outcome)
                    elif isinstance(outcome, AddmError):
                        raise outcome
                    elif outcome is None and case.name not in lost:
                        lost.add(case.name)
                        todo.append(case)
                    else:
                        error = outcome or AddmError(
                            "the worker died both times that it was at work on this case: it may "
                            "need more memory than a worker has"
                        )
                        yield self.take(self.batch.keep_failure(case, error, 0.0))
        finally:
            self._recall()
        # Dead workers leave half-written files beside whole ones.
        self.batch.folder.remove_leftovers(self.cases, self.shard)

    def _ask(self, question: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Ask the scheduler, and say in words when it does not answer."""
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
            if version != __version__:
                has = f"{PACKAGE} {version}" if version else f"no {PACKAGE}"
                raise AddmError(f"{name} has {has}: install {PACKAGE} {__version__} there.")
        self.checked = found["workers"]

    def _hand_out(self, todo: deque[CohortCase]) -> None:
        """Give each free worker a case, under a key that reveals nothing."""
        scheduler: Any = self.client.scheduler
        running = self._ask(self.client.sync, scheduler.ncores_running) if todo else {}
        if running.keys() - self.checked:
            self._check_versions()
        for worker in (running.keys() & self.checked) - self.busy.keys():
            if todo:
                key, case = f"addm-{uuid.uuid4().hex}", todo.popleft()
                task = run_case_on_worker, self.job, case
                future = self._ask(self.client.submit, *task, key=key, workers=[worker])
                self.busy[worker] = case, future
                future.add_done_callback(lambda _: self.ended.set())

    def _collect(self) -> Iterator[tuple[CohortCase, Outcome | Exception]]:
        """Wait for a moment, and yield the cases that ended; None for one lost with its worker."""
        self.ended.wait(HEARTBEAT_SECONDS)
        self.ended.clear()
        there = self._ask(self.client.nthreads)
        for worker, (case, future) in list(self.busy.items()):
            if future.done() or worker not in there:
                outcome = self._outcome(future)
                del self.busy[worker]
                future.release()
                yield case, outcome

    def _outcome(self, future: Future[Any]) -> Outcome | Exception:
        from distributed import KilledWorker

        if not future.done():
            return None
        try:
            outcome: Outcome = future.result(timeout=RESULT_SECONDS)
            return outcome
        except (TimeoutError, CancelledError, KilledWorker):
            return None
        except ImportError as error:
            return AddmError(f"A worker lacks a library ({error}): install {PACKAGE} there.")
        except Exception as error:
            return error

    def _recall(self) -> None:
        """Take back the cases that are handed out; those that are being written are waited for."""
        deadline = time.perf_counter() + RECALL_SECONDS
        with suppress(AddmError):
            if self.busy:
                workers = list(self.busy)
                self._ask(self.client.run, stop, self.job.id, workers=workers, on_error="ignore")
            while self.busy and time.perf_counter() < deadline:
                for _, outcome in self._collect():
                    if isinstance(outcome, tuple):
                        self.keep(outcome[0])
