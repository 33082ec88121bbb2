"""What the batch promises, measured: throughput, flat memory, and what survives ``kill -9``.

    python benchmarks/batch.py throughput FOLDER [-- options of batch and detect]
    python benchmarks/batch.py memory FOLDER --cases 100 [-- options]
    python benchmarks/batch.py kills FOLDER --times 20 [-- options]

FOLDER holds a few scans. ``throughput`` runs them through ``napari-addm batch`` and through
``napari-addm detect`` one after the other, and prints the seconds of both with their ratio; and,
by the batch's own clock, the share of each stage, and how long the network waited for a file to be
read or written. ``memory`` hands the same scans in again and again under other names and prints
the batch's resident memory on the way. ``kills`` kills a batch at random moments until it has been
killed so often, lets it end, and compares the files of all cases with those of an undisturbed run.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ADDM = [sys.executable, "-m", "napari_addm.cli"]
# The command, with a look at the clock: seconds of each stage, and of waiting for a thread.
TIMED = """
import contextlib, json, sys, time
from napari_addm.cohort import run as batch
from napari_addm.cli import app as cli
began, stages, case = time.perf_counter(), {}, {}
waited = 0.0
run_batch = batch.run_batch
def timed(*arguments):
    global waited, case
    before = time.perf_counter()
    for progress in run_batch(*arguments):
        now = time.perf_counter()
        if progress.stage == "read":
            waited += now - before
        if progress.stage == "detect":
            if progress.detection.result is not None:
                case = progress.detection.result.seconds
            if progress.detection.stage == "finish":
                for name, spent in case.items():
                    stages[name] = stages.get(name, 0.0) + spent
        yield progress
        before = time.perf_counter()
batch.run_batch = timed
sys.argv[0] = "napari-addm"
with contextlib.suppress(SystemExit):
    cli.main()
print(json.dumps({"waited": waited, "stages": stages, "batch": time.perf_counter() - began}))
"""


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "memory", "kills"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])
    options.options = given[cut + 1 :]  # for napari-addm
    with tempfile.TemporaryDirectory() as folder:
        {"throughput": throughput, "memory": memory, "kills": kills}[options.what](
            options, Path(folder)
        )


def throughput(options: argparse.Namespace, folder: Path) -> None:
    """Seconds of a shell's loop, and of one batch."""
    scans = sorted(options.folder.glob("*.nii*"))
    started, computed = time.perf_counter(), children_seconds()
    for scan in scans:
        command = [*ADDM, "detect", scan, "-o", folder / "loop", "--montage", *options.options]
        subprocess.run(command, check=True, capture_output=True)
    loop, loop_cpu = time.perf_counter() - started, children_seconds() - computed
    started, computed = time.perf_counter(), children_seconds()
    command = [sys.executable, "-c", TIMED, "batch", options.folder, "-o", folder / "batch"]
    done = subprocess.run([*command, *options.options], check=True, capture_output=True, text=True)
    batch, batch_cpu = time.perf_counter() - started, children_seconds() - computed
    clock = json.loads(done.stdout.splitlines()[-1])
    assert len(list((folder / "batch").rglob("*_record.json"))) == len(scans)
    print(
        f"{len(scans)} cases: detect in a loop {loop:.1f} s, batch {batch:.1f} s, "
        f"ratio {loop / batch:.2f}"
    )
    print(
        f"of processors, which others may use as well: {loop_cpu:.1f} s and {batch_cpu:.1f} s, "
        f"ratio {loop_cpu / batch_cpu:.2f}"
    )
    for name, spent in clock["stages"].items():
        print(f"{name}: {spent:.1f} s, {spent / batch:.0%} of the batch's {batch:.1f} s")
    print(f"waiting for a file to be read or written: {clock['waited']:.1f} s")


def children_seconds() -> float:
    """Seconds that processes which have ended had of the processors."""
    times = os.times()
    return times.children_user + times.children_system


def memory(options: argparse.Namespace, folder: Path) -> None:
    """Resident memory of a batch, each time that another tenth of the cases is done."""
    scans = sorted(options.folder.glob("*.nii*"))
    names = [f"{n:04d}-{scans[n % len(scans)].name}" for n in range(options.cases)]
    (folder / "in").mkdir()
    for n, name in enumerate(names):
        (folder / "in" / name).symlink_to(scans[n % len(scans)].resolve())
    command = [*ADDM, "batch", folder / "in", "-o", folder / "out", *options.options]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    process = psutil.Process(child.pid)
    assert child.stderr is not None
    tenth: list[float] = []
    for line in child.stderr:
        done = line.split("/")[0]
        if not done.isdigit() or child.poll() is not None:
            continue
        tenth.append(process.memory_info().rss / 1e6)
        if int(done) % max(1, options.cases // 10) == 0:
            print(f"{done} cases: {tenth[-1]:.0f} MB, at most {max(tenth):.0f} MB", flush=True)
            tenth = []
    if child.wait():
        sys.exit(f"the batch ended with {child.returncode}")


def kills(options: argparse.Namespace, folder: Path) -> None:
    """Kill, resume, compare."""
    calm, output = folder / "calm", folder / "out"
    command = [*ADDM, "batch", options.folder, "-o"]
    started = time.perf_counter()
    subprocess.run([*command, calm, *options.options], check=True, capture_output=True)
    whole = time.perf_counter() - started
    moments = random.Random(options.seed)
    killed = 0
    while killed < options.times:
        # once all cases are done there is nothing left to disturb: begin anew
        child = subprocess.Popen(
            [*command, output, *options.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            child.wait(timeout=moments.uniform(0, whole))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            killed += 1
            continue
        compare(calm, output)
        shutil.rmtree(output)
    subprocess.run([*command, output, *options.options], check=True, capture_output=True)
    compare(calm, output)
    print(f"killed {killed} times: all {len(hashes(calm))} files of the cases are the same bytes")


def compare(calm: Path, output: Path) -> None:
    """Exit if any file of a case differs, is missing or is one too many."""
    expected, found = hashes(calm), hashes(output)
    wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
    if wrong:
        sys.exit(f"not the same: {', '.join(sorted(wrong))}")


def hashes(folder: Path) -> dict[str, str]:
    """Every file but the manifest and the batch's own states."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".batch" not in path.parts and path.name != "manifest.csv"
    }


if __name__ == "__main__":
    main()
