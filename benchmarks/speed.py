"""Time and memory of ``napari-addm detect``, and the share of the network.

    python benchmarks/speed.py SCAN [--steps 25] [--runs 3] [--json FILE]

Every run is a whole process, ``napari-addm detect``, from start to written files. The table has
the median of the runs for the whole volume and for one slice.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil


def main() -> None:
    """Run the processes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--slices", type=int, help="one slice; default: the middle one along S")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from napari_addm.io.reading import read_volume

    middle = (
        options.slices if options.slices is not None else read_volume(options.scan).shape[0] // 2
    )
    rows = {
        "whole volume": [],
        f"slice {middle}": ["--slices", str(middle)],
    }
    common = ["--steps", str(options.steps), "--draws", "1"]
    table = {
        name: [measure(options.scan, [*common, *extra]) for _ in range(options.runs)]
        for name, extra in rows.items()
    }
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {options.steps} DDIM steps, "
        f"median of {options.runs} whole processes"
    )
    header = ("", "total s", "network s", "outside %", "import+load s", "computing s", "peak GB")
    print(" | ".join(f"{cell:>14}" for cell in header))
    summary = {}
    for name, runs in table.items():
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        summary[name] = row
        cells = (
            name,
            f"{row['total']:.1f}",
            f"{row['network']:.1f}",
            f"{100 * (1 - row['network'] / row['total']):.0f}",
            f"{row['import_and_load']:.1f}",
            f"{row['computing']:.1f}",
            f"{row['peak_gb']:.2f}",
        )
        print(" | ".join(f"{cell:>14}" for cell in cells))
    if options.json:
        options.json.write_text(json.dumps({"runs": table, "median": summary}, indent=1))


def measure(scan: Path, arguments: list[str]) -> dict[str, float]:
    """Run a process; return its wall time, the stages that it reports and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "napari_addm.cli", "detect", str(scan), "-o", folder]
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--json", *arguments], stdout=subprocess.PIPE)
        peak = [0]
        watch = threading.Thread(target=watch_memory, args=(process.pid, peak))
        watch.start()
        output, _ = process.communicate()
        total = time.perf_counter() - started
        watch.join()
    if process.returncode:
        raise SystemExit(f"napari-addm detect failed with exit code {process.returncode}")
    seconds = json.loads(output)["seconds"]
    starting = total - seconds["total"] + seconds["import"] + seconds["load"]
    return {
        "total": total,
        "network": seconds["network"],
        "import_and_load": starting,
        # the wait in an open viewer that has the model
        "computing": total - starting,
        "peak_gb": peak[0] / 1e9,
        **{f"stage_{name}": value for name, value in seconds.items()},
    }


def watch_memory(pid: int, peak: list[int]) -> None:
    """Record the largest resident size of a process until it ends."""
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        pass


if __name__ == "__main__":
    main()
