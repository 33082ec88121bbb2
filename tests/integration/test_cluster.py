"""The batch on a dask cluster: real schedulers and workers, some of which die."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import dask
import psutil
import pytest
import torch
from cohorts import SETTINGS, Trial, WriteBrain, gone
from distributed import Client, LocalCluster, Security
from distributed.utils import get_mp_context
from killed_batch import LIBRARIES, METHOD

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort import cluster as cluster_module
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import Shard
from napari_addm.cohort.cluster import connect, run_on_cluster
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.run import BatchProgress, run_batch
from napari_addm.errors import AddmError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_workers")]

CASES = 6


@pytest.fixture(scope="module")
def quick_workers() -> Iterator[None]:
    """Dask forks its workers from a server that has imported torch."""
    with dask.config.set({"distributed.worker.multiprocessing-method": METHOD}):
        get_mp_context().set_forkserver_preload(["distributed", *LIBRARIES])
        yield


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, write_brain: WriteBrain, tiny_checkpoint: Path
) -> Trial:
    """A finished batch of six brains and a web page, with as many threads as a worker has."""
    root = tmp_path_factory.mktemp("plain")
    for n in range(CASES):
        write_brain(root / "in" / f"{n}.nii.gz", n)
    (root / "in" / "page.nii.gz").write_text("<!DOCTYPE html><html>not found</html>")
    trial = Trial(root / "in", root / "out", tiny_checkpoint)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trial.fails()
    finally:
        torch.set_num_threads(threads)
    return trial


@pytest.fixture
def trial(plain: Trial, tmp_path: Path) -> Trial:
    """The same input with an empty output folder."""
    return Trial(plain.source, tmp_path / "out", plain.checkpoint)


def drive(
    trial: Trial, address: str, settings: BatchSettings = SETTINGS
) -> Iterator[BatchProgress]:
    checkpoint = load_checkpoint(trial.checkpoint)
    return run_on_cluster(trial.cases, trial.output, checkpoint, settings, address=address)


def rows(trial: Trial) -> dict[str, dict[str, str]]:
    """The manifest without seconds."""
    return {case: {**row, "seconds": ""} for case, row in trial.rows.items()}


@contextmanager
def two_workers() -> Iterator[tuple[LocalCluster, Client]]:
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0}
    with (
        LocalCluster(**options, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as watcher,
    ):
        yield cluster, watcher


def test_a_worker_killed_at_work_changes_nothing(plain: Trial, trial: Trial) -> None:
    killed = most = 0
    with two_workers() as (cluster, watcher):
        pids = watcher.run(os.getpid)
        for progress in drive(trial, cluster.scheduler_address):
            at_work = watcher.processing()
            most = max(most, sum(map(len, at_work.values())))
            begun = list((trial.output / HIDDEN / "cases").glob("*.json"))
            if not killed and len(begun) >= 2 and progress.finished < CASES:
                victim = max(pids, key=lambda address: len(at_work.get(address, ())))
                if at_work.get(victim):
                    os.kill(pids[victim], signal.SIGKILL)
                    killed = pids[victim]
        assert killed
        assert killed not in watcher.run(os.getpid).values()
        assert (progress.stage, progress.finished, progress.failed) == ("finish", CASES + 1, 1)
        assert most == 2
        assert not any(watcher.processing().values())
    assert (trial.files, rows(trial)) == (plain.files, rows(plain))
    assert not list(trial.output.rglob("*.part"))


def test_stopping_keeps_finished_cases_and_leaves_nobody_at_work(
    plain: Trial, trial: Trial
) -> None:
    with two_workers() as (cluster, watcher):
        run = drive(trial, cluster.scheduler_address)
        next(p for p in run if p.result is not None and p.result.status == "done")
        with pytest.raises(AddmError, match="being written by another run"):
            next(run_batch(trial.cases, trial.output, load_checkpoint(trial.checkpoint), SETTINGS))
        run.close()
        assert not any(watcher.processing().values())
        statuses = [row["status"] for row in trial.rows.values()]
        assert 0 < statuses.count("done") < CASES
        assert "not reached: the run was stopped" in {r["reason"] for r in trial.rows.values()}
        before = trial.files
        time.sleep(2)  # a worker that is still at work would write now
        assert trial.files == before
        again = list(drive(trial, cluster.scheduler_address))
    assert 0 < sum(progress.unchanged for progress in again) < CASES
    assert (trial.files, rows(trial)) == (plain.files, rows(plain))


def test_a_case_that_kills_its_worker_fails_alone(
    plain: Trial, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker, so that every case has been on one that died.

    It is back and dead again for longer than dask would wait for a lost worker. Another case ends
    in an error that dask cannot send.
    """
    preload = tmp_path / "poison.py"
    preload.write_text(
        textwrap.dedent(
            """
            import os, signal
            from napari_addm.cohort.batch import Batch
            read = globals().get("read") or Batch.read  # dask runs this file twice
            def poisoned(self, case):
                if case.name == "1":
                    return poisoned(self, case)
                if case.name == "3":
                    os.kill(os.getpid(), signal.SIGKILL)
                return read(self, case)
            Batch.read = poisoned
            """
        )
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    preloaded = {
        "distributed.worker.preload": [str(preload)],
        "distributed.deploy.lost-worker-timeout": "1 s",
    }
    with dask.config.set(preloaded):
        last = {p.case: p.result for p in drive(trial, "local:1") if p.result is not None}
    failed = {name: result.reason for name, result in last.items() if result.status == "failed"}
    assert failed.keys() == {"1", "3", "page"}
    assert "RecursionError" in failed["1"]
    assert "the worker died both times that it was at work on this case" in failed["3"]
    assert "is a web page" in failed["page"]
    others = {n: c for n, c in plain.files.items() if not n.startswith(("1/", "3/"))}
    assert trial.files == others


def test_a_cluster_keeps_finished_results(table: Trial) -> None:
    before = table.files
    gone(table.root / "in" / "b.nii.gz")
    *_, last = drive(table, "local:1")
    assert (last.finished, last.failed, last.unchecked) == (3, 0, 1)
    assert table.files == before
    assert table.rows["two"]["reason"].startswith("not checked: the scan cannot be read")
    other = BatchSettings(SETTINGS.detection, threshold=0.02, pictures=False)
    *_, last = drive(table, "local:1", other)
    assert (last.finished, last.failed) == (3, 1)
    assert "with other settings" in table.rows["two"]["reason"]
    kept = {name: content for name, content in before.items() if name.startswith("two/")}
    assert kept.items() <= table.files.items()


# --- what cannot work, in words ------------------------------------------------------------------


@contextmanager
def process(*command: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block."""
    child = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


@contextmanager
def scheduler_and_worker(
    folder: Path, *python: str, **env: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``dask scheduler`` and ``dask worker``, as on two machines; the file and the scheduler."""
    file = folder / "scheduler.json"
    common = ("--scheduler-file", str(file))
    worker = ("-m", "dask", "worker", "--no-nanny", "--nthreads", "1", "--death-timeout", "5")
    with ExitStack() as stack:
        scheduler = ("-m", "dask", "scheduler", "--port", "0", "--no-dashboard", *common)
        child = stack.enter_context(process(*scheduler))
        while not file.exists():
            time.sleep(0.1)
        stack.enter_context(process(*python, *worker, *common, **env))
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        yield str(file), child


def test_a_worker_with_another_version_is_refused(trial: Trial, tmp_path: Path) -> None:
    info = tmp_path / "other" / "napari_addm-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: napari-addm\nVersion: 0.0.1\n")
    path = os.pathsep.join(filter(None, (str(info.parent), os.environ.get("PYTHONPATH"))))
    with (
        scheduler_and_worker(tmp_path, PYTHONPATH=path) as (address, _),
        pytest.raises(AddmError, match=r"The worker tcp://\S+ has napari-addm 0\.0\.1: install"),
    ):
        list(drive(trial, address))


def test_a_worker_without_napari_addm_is_refused(trial: Trial, tmp_path: Path) -> None:
    """Its only libraries are links to all of ours but this one."""
    import distributed

    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(distributed.__file__).parents[1].iterdir():
        if "napari_addm" not in entry.name.replace("-", "_") and entry.suffix != ".pth":
            (libraries / entry.name).symlink_to(entry)
    with (
        scheduler_and_worker(tmp_path, "-S", PYTHONPATH=str(libraries)) as (address, _),
        pytest.raises(AddmError, match=r"The worker tcp://\S+ has no napari-addm: install"),
    ):
        list(drive(trial, address))


@pytest.mark.parametrize("differs", ["plan", "model"])
def test_a_worker_that_sees_other_folders_is_refused(
    trial: Trial, tmp_path: Path, differs: str
) -> None:
    """The only worker comes when the run has begun, and a file is another one by then."""
    model = Path(shutil.copy(trial.checkpoint, tmp_path / "model.safetensors"))
    options = {"n_workers": 0, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options, silence_logs=50) as cluster:
        run = drive(replace(trial, checkpoint=model), cluster.scheduler_address)
        assert next(run).finished == 0
        changed = CohortFolder(trial.output).plan_path(Shard()) if differs == "plan" else model
        changed.write_text("of another folder")
        cluster.scale(1)
        with pytest.raises(AddmError, match=r"The worker \S+ does not see .* machines share"):
            list(run)


def test_a_scheduler_that_is_not_there_is_named(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1.0)
    (tmp_path / "broken.json").write_text("{}")
    for address in ("tcp://127.0.0.1:9", "nonsense", str(tmp_path / "broken.json")):
        with pytest.raises(AddmError, match="No dask scheduler answers at"):
            list(drive(trial, address))
    with pytest.raises(AddmError, match="has no worker"):
        list(drive(trial, "local:0"))
    assert not trial.output.exists()


def test_a_lost_scheduler_ends_the_run_in_words(trial: Trial, tmp_path: Path) -> None:
    with scheduler_and_worker(tmp_path) as (address, scheduler):
        run = drive(trial, address)
        next(progress for progress in run if progress.finished >= 2)
        scheduler.kill()
        with pytest.raises(AddmError, match="does not answer any more"):
            list(run)
    assert "done" in {row["status"] for row in trial.rows.values()}


def listening() -> Iterator[int]:
    """Ports that this process and its children listen on."""
    me = psutil.Process()
    for each in (me, *me.children(recursive=True)):
        for connection in each.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                yield connection.laddr.port


def test_a_local_cluster_talks_to_nobody_else() -> None:
    """Another user of the machine could run code as its owner."""
    before = set(listening())
    with connect("local:1") as client:
        (place,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        assert stat.S_IMODE(Path(place).parents[1].stat().st_mode) == 0o700
        ports = set(listening()) - before
        assert len(ports) == 3  # scheduler, worker, and who looks after the worker
        for port in ports:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with suppress(ConnectionError):
                    assert b"HTTP/" not in plain.recv(100)
            for address, security in (("tcp", None), ("tls", Security.temporary())):
                with pytest.raises((OSError, TypeError)):
                    Client(f"{address}://127.0.0.1:{port}", security=security, timeout=2)
    assert not Path(place).exists()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "work"),
        (signal.SIGINT, "start"),
        (signal.SIGHUP, "work"),
        (signal.SIGTERM, "work"),
        (signal.SIGTERM, "start"),
    ],
)
def test_a_signal_ends_client_and_workers(
    trial: Trial, tmp_path: Path, moment: str, number: int
) -> None:
    """A terminal sends it to every process of the group."""
    command = [sys.executable, "-m", "napari_addm.cli", "batch", trial.source, "-o", trial.output]
    # so many draws that the last case is far away when the first is done
    options = ["--no-regions", "--checkpoint", trial.checkpoint, "--draws", "30", "--no-pictures"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # The background job of a shell, as these tests may be, ignores signals, and so do its children.
    heard = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, heard)
    child = subprocess.Popen(
        [*map(str, [*command, *options]), "--cluster", "local:1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    signal.signal(number, before)
    assert child.stderr is not None
    lines = []
    if moment == "start":
        while not list(scratch.glob("napari-addm-*")):
            time.sleep(0.001)
        os.killpg(child.pid, number)
    for line in child.stderr:
        lines.append(line)
        if ": done" in line:
            os.killpg(child.pid, number)
    assert child.wait(timeout=120) == 128 + number, "".join(lines)
    assert lines[-1] == "Stopped; run the same command again to go on.\n"
    assert "Traceback" not in "".join(lines)
    assert not list(scratch.glob("napari-addm-*"))
    if moment == "work":
        assert "done" in {row["status"] for row in trial.rows.values()}
    else:
        assert len(lines) == 1
    end = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while True:  # the last process is gone soon
            os.killpg(child.pid, 0)
            assert time.monotonic() < end
            time.sleep(0.1)
