"""Time until the first result: median seconds of whole processes, in turn.

    python benchmarks/startup.py [--runs 5] [--json FILE]

On the bundled demo case: ``napari-addm --help``; opening the scan; the first slice, from the start
of a process with imports and the loading of the model; the next slice in the same process, whose
model is loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from napari_addm.io.demo import DEMO_CHECKPOINT

DEMO_SCAN = DEMO_CHECKPOINT.parent / "demo_T1w.nii.gz"

OPEN = """
import sys
from napari_addm.io.reading import read_volume
read_volume(sys.argv[1])
assert "torch" not in sys.modules, "reading a scan imported torch"
"""

SLICE = """
import json, sys, time
from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
volume = read_volume(sys.argv[1])
checkpoint = load_checkpoint(DEMO_CHECKPOINT)
middle = volume.shape[0] // 2
run(volume, checkpoint, DetectionSettings(slices=(middle,), context_mm=0.0, draws=1))
first = time.time()
run(volume, checkpoint, DetectionSettings(slices=(middle + 10,), context_mm=0.0, draws=1))
seconds = time.time() - first
print(json.dumps({"first": first, "next": seconds}))
"""


def main() -> None:
    """Run the processes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}

    def put(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    python = sys.executable
    for _ in range(options.runs):
        put("napari-addm --help, s", seconds([python, "-m", "napari_addm.cli", "--help"]))
        put("python alone, s", seconds([python, "-c", "pass"]))
        put("opening a NIfTI, without torch, s", seconds([python, "-c", OPEN, str(DEMO_SCAN)]))
        begun = time.time()
        done = subprocess.run(
            [python, "-c", SLICE, str(DEMO_SCAN)], stdout=subprocess.PIPE, check=True
        )
        found = json.loads(done.stdout)
        put("first slice, imports and model included, s", found["first"] - begun)
        put("next slice, model loaded, s", found["next"])
    medians = {name: statistics.median(values) for name, values in rows.items()}
    for name, value in medians.items():
        print(f"{name:>45} | {value:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps({"runs": rows, "median": medians}, indent=1) + "\n")


def seconds(command: list[str]) -> float:
    """Time a whole process."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
