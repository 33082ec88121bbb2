"""The batch on a dask cluster: real schedulers and workers, some of which die."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from napari_addm.checkpoint.file import DEMO_CHECKPOINT, Checkpoint, load_checkpoint
from napari_addm.cohort import cluster as cluster_module
from napari_addm.cohort.cluster import MOST_TRIES, PER_WORKER, run_on_cluster
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.run import BatchProgress, BatchSettings, run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

pytestmark = pytest.mark.slow

SETTINGS = BatchSettings(detection=DetectionSettings(draws=1), pictures=False)
GRID = np.array([[4, 0, 0, -84], [0, 4, 0, -100], [0, 0, 5, -75], [0, 0, 0, 1.0]])
SHAPE = (42, 50, 30)
CASES = 6


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, make_brain: Callable[..., Any]) -> Path:
    """Six brains of half a person's size, and one file that is none."""
    folder = tmp_path_factory.mktemp("scans")
    half = GRID @ np.diag([0.5, 0.5, 0.5, 1])
    for n in range(CASES):
        brain = make_brain(GRID, SHAPE, ((25.0 + 3 * n, 0.0, 5.0, 16.0),))
        write_volume(folder / f"{n}.nii.gz", volume_from_native(brain.to_native(), half))
    (folder / "page.nii.gz").write_text("<!DOCTYPE html><html>not found</html>")
    return folder


@pytest.fixture(scope="module")
def plain(
    scans: Path, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What a plain run writes, with as many threads as a worker has."""
    output = tmp_path_factory.mktemp("plain") / "out"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in run_batch(find_cohort(scans, output), output, checkpoint, SETTINGS):
            pass
    finally:
        torch.set_num_threads(threads)
    return results(output)


def results(output: Path) -> dict[str, bytes]:
    """All files of the cases, and the manifest without its seconds."""
    found = {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and HIDDEN not in path.parts and path.name != "manifest.csv"
    }
    with (output / "manifest.csv").open(newline="") as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    found["manifest.csv"] = json.dumps(rows).encode()
    return found


def workers(count: int, **more: Any) -> LocalCluster:
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        silence_logs=50,
        **more,
    )


def drive(
    scans: Path, output: Path, checkpoint: Checkpoint, address: str
) -> Iterator[BatchProgress]:
    return run_on_cluster(find_cohort(scans, output), output, checkpoint, SETTINGS, address=address)


def test_a_worker_killed_at_work_changes_nothing(
    scans: Path, plain: dict[str, bytes], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    killed = 0
    most = 0
    with workers(2) as cluster, Client(cluster, set_as_default=False) as watcher:
        pids = watcher.run(os.getpid)
        for progress in drive(scans, output, checkpoint, cluster.scheduler_address):
            at_work = watcher.processing()
            most = max([most, *map(len, at_work.values())])
            claimed = [c for c in (output / HIDDEN / "cases").glob("*.json") if c.is_file()]
            if not killed and len(claimed) >= 2 and progress.finished < CASES:
                victim = max(pids, key=lambda address: len(at_work.get(address, ())))
                if at_work.get(victim):
                    os.kill(pids[victim], signal.SIGKILL)
                    killed = pids[victim]
        assert killed
        assert killed not in watcher.run(os.getpid).values()
        assert (progress.stage, progress.finished, progress.failed) == ("finish", CASES + 1, 1)
        assert 1 <= most <= PER_WORKER
        assert not any(watcher.processing().values())
    assert results(output) == plain
    assert not list(output.rglob("*.part"))


def test_stopping_keeps_what_is_finished_and_leaves_nobody_at_work(
    scans: Path, plain: dict[str, bytes], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with workers(2) as cluster, Client(cluster, set_as_default=False) as watcher:
        address = cluster.scheduler_address
        run = drive(scans, output, checkpoint, address)
        for progress in run:
            if progress.result is not None and progress.result.status == "done":
                break
        with pytest.raises(AddmError, match="being written by another run"):
            next(run_batch(find_cohort(scans, output), output, checkpoint, SETTINGS))
        run.close()
        assert not any(watcher.processing().values())
        lines = (output / "manifest.csv").read_text()
        assert "not reached: the run was stopped" in lines
        assert lines.count(",done,") < CASES
        before = results(output)
        time.sleep(2)  # somebody who is still at work would write now
        assert results(output) == before

        unchanged = {
            progress.case
            for progress in drive(scans, output, checkpoint, address)
            if progress.unchanged
        }
    assert unchanged
    assert len(unchanged) < CASES
    assert results(output) == plain


def test_a_case_that_kills_its_worker_fails_alone(
    scans: Path,
    plain: dict[str, bytes],
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
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
            from napari_addm.cohort.run import Batch
            prepare = globals().get("prepare") or Batch.prepare  # dask runs this file twice
            def poisoned(self, case):
                if case.name == "1":
                    return poisoned(self, case)
                if case.name == "3":
                    os.kill(os.getpid(), signal.SIGKILL)
                return prepare(self, case)
            Batch.prepare = poisoned
            """
        )
    )
    output = tmp_path / "out"
    failed: dict[str, str] = {}
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    preloaded = {
        "distributed.worker.preload": [str(preload)],
        "distributed.deploy.lost-worker-timeout": "1 s",
    }
    deadline = time.monotonic() + 500
    with dask.config.set(preloaded):
        for progress in drive(scans, output, checkpoint, "local:1"):
            assert time.monotonic() < deadline
            if progress.result is not None and progress.result.status == "failed":
                failed[progress.case] = progress.result.reason
    assert failed.keys() == {"1", "3", "page"}
    assert "RecursionError" in failed["1"]
    assert f"the worker died {MOST_TRIES} times" in failed["3"]
    assert "is a web page" in failed["page"]
    found = results(output)
    assert found.pop("manifest.csv") != plain["manifest.csv"]
    assert found == {
        name: content
        for name, content in plain.items()
        if name != "manifest.csv" and not name.startswith(("1/", "3/"))
    }


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


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def scheduler_and_worker(folder: Path, *worker: str, **env: str) -> Iterator[str]:
    """As on two machines: ``dask scheduler`` and ``dask worker``; gives the scheduler file."""
    file = folder / "scheduler.json"
    common = ("--scheduler-file", str(file))
    scheduler = ("-m", "dask", "scheduler", "--port", "0", "--no-dashboard", *common)
    with (
        process(*scheduler),
        process(*worker, "-m", "dask", "worker", "--no-nanny", "--nthreads", "1", *common, **env),
    ):
        wait_for(file)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        yield str(file)


def test_a_worker_with_another_version_is_refused(
    scans: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    info = tmp_path / "other" / "napari_addm-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: napari-addm\nVersion: 0.0.1\n")
    path = os.pathsep.join(filter(None, (str(info.parent), os.environ.get("PYTHONPATH"))))
    with (
        scheduler_and_worker(tmp_path, PYTHONPATH=path) as address,
        pytest.raises(AddmError, match=r"The worker tcp://\S+ has napari-addm 0\.0\.1, and here"),
    ):
        list(drive(scans, tmp_path / "out", checkpoint, address))


def test_a_worker_without_napari_addm_is_refused(
    scans: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Its only libraries are links to all of ours but this one."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    import distributed

    for entry in Path(distributed.__file__).parents[1].iterdir():
        if "napari_addm" not in entry.name.replace("-", "_") and entry.suffix != ".pth":
            (libraries / entry.name).symlink_to(entry)
    with (
        scheduler_and_worker(tmp_path, "-S", PYTHONPATH=str(libraries)) as address,
        pytest.raises(AddmError, match=r"The worker tcp://\S+ has no napari-addm: install"),
    ):
        list(drive(scans, tmp_path / "out", checkpoint, address))


def test_a_worker_that_sees_other_folders_is_refused(
    scans: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cluster_module.Job(
        id="x",
        output=tmp_path,
        checkpoint=None,
        sha256=checkpoint.sha256,
        settings=SETTINGS,
        parameters="",
        plan=tmp_path / "plan.json",
        plan_sha256="0" * 64,
    )
    assert "does not see" in cluster_module.join(job, None)
    (tmp_path / "plan.json").write_text("of another folder")
    assert "a file system that all machines share" in cluster_module.join(job, None)


def test_a_scheduler_that_is_not_there_is_named(
    scans: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1.0)
    (tmp_path / "broken.json").write_text("{}")
    for address in ("tcp://127.0.0.1:9", "nonsense", str(tmp_path / "broken.json")):
        with pytest.raises(AddmError, match="No dask scheduler answers at"):
            list(drive(scans, tmp_path / "out", checkpoint, address))
    with pytest.raises(AddmError, match="has no worker"):
        list(drive(scans, tmp_path / "out", checkpoint, "local:0"))
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_is_lost_ends_the_run_in_words(
    scans: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    file = tmp_path / "scheduler.json"
    common = ("--scheduler-file", str(file))
    worker = ("-m", "dask", "worker", "--no-nanny", "--nthreads", "1", "--death-timeout", "5")
    with (
        process("-m", "dask", "scheduler", "--port", "0", "--no-dashboard", *common) as scheduler,
        process(*worker, *common),
    ):
        wait_for(file)
        run = drive(scans, output, checkpoint, str(file))
        for progress in run:
            if progress.finished >= 2:
                break
        scheduler.kill()
        with pytest.raises(AddmError, match="does not answer any more"):
            list(run)
    assert CohortFolder(output).latest_plans()
    assert ",done," in (output / "manifest.csv").read_text()


def test_ctrl_c_ends_client_and_workers(scans: Path, tmp_path: Path) -> None:
    """As a terminal sends it: to every process of the group."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "napari_addm.cli", "batch", str(scans), "-o", str(output)]
    # A shell's background job, as these tests may be, ignores SIGINT, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(
        # so many draws that the last case is far away when the first is done
        [*command, "--draws", "30", "--no-pictures", "--cluster", "local:1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if ": done" in line:
            os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=120) == 130, "".join(said)
    assert said[-1] == "Stopped; run the same command again to go on.\n"
    assert "Traceback" not in "".join(said)
    assert ",done," in (output / "manifest.csv").read_text()
