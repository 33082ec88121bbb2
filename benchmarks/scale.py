"""What a detection costs as the job grows: slices, steps, draws and voxels; time and memory.

    python benchmarks/scale.py [--json FILE] [--plot FILE.svg] [--parts time,memory] [--repeats 3]

The bundled demo case and checkpoint. More slices: the same head, stretched along S. More
voxels: the same head on a finer grid. Each row is one size, the rows in turn, medians; a straight
line is put through every axis, and its slope is set against the bare network calls of the same
run. Memory is the peak of a process of its own for each size, above what it holds once
torch and the model are loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from ways import clock, machine, write

from napari_addm.checkpoint.file import DEMO_CHECKPOINT, Checkpoint, load_checkpoint
from napari_addm.detection.brain_mask import find_brain
from napari_addm.detection.pipeline import run
from napari_addm.detection.preparation import prepare
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.methods.loading import load_network

DEMO_SCAN = DEMO_CHECKPOINT.parent / "demo_T1w.nii.gz"
PARTS = ("time", "memory")
BATCH = 4


@dataclass(frozen=True)
class Size:
    """How large a job is.

    Attributes
    ----------
    stretch : float
        Of the head along S.
    finer : tuple of int
        How many voxels become of one along S, A and R.
    steps, draws, batch : int
    """

    stretch: float = 0.25
    finer: tuple[int, int, int] = (1, 1, 1)
    steps: int = 1
    draws: int = 1
    batch: int = BATCH

    @property
    def settings(self) -> DetectionSettings:
        """For a detection."""
        return DetectionSettings(steps=self.steps, draws=self.draws, batch_size=self.batch)


AXES = {
    "slices": [Size(stretch=stretch) for stretch in (0.25, 0.5, 1.0, 2.0)],
    "steps": [Size(steps=steps) for steps in (1, 5, 10, 25)],
    "draws": [Size(draws=draws) for draws in (1, 2, 4, 8)],
    "million voxels": [
        Size(stretch=1.0, finer=finer) for finer in ((1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2))
    ],
}
MEMORY = {
    **AXES,
    "steps": [Size(steps=steps) for steps in (1, 25, 50)],
    "batch": [Size(stretch=1.0, batch=batch) for batch in (1, 4, 16, 64)],
}


def main() -> None:
    """Measure, print the tables, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of one thread")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts takes {', '.join(PARTS)}")
    if options.one:
        print(json.dumps(memory_of(Size(**json.loads(options.one)))))
        return
    found: dict[str, Any] = {}
    if options.json is not None and options.json.exists():
        found = json.loads(options.json.read_text())
    now = clock(options.cpu)
    if "time" in parts:
        found["clock"] = "CPU seconds" if options.cpu else "seconds"
        found["time"] = timing(options.repeats, now)
        found["machine"] = machine()
        write(options.json, found)
    if "memory" in parts:
        found["memory"] = {axis: [peak(axis, size) for size in MEMORY[axis]] for axis in MEMORY}
        write(options.json, found)
    print(table(found))
    if options.plot is not None:
        plot(found, options.plot)


def scan_of(size: Size) -> tuple[Volume, NDArray[np.bool_]]:
    """The demo case, stretched and on a finer grid, and its brain."""
    volume = read_volume(DEMO_SCAN)
    brain = find_brain(volume)
    assert brain is not None
    affine = volume.affine.copy()
    affine[:, 0] *= size.stretch
    data = volume.data
    for axis, times in enumerate(size.finer):
        data, brain = data.repeat(times, axis), brain.repeat(times, axis)
        affine[:, axis] /= times
    return replace(volume, data=data, affine=affine), brain


def amount(axis: str, size: Size, checkpoint: Checkpoint) -> float:
    """Where a size lies on its axis."""
    if axis == "slices":
        volume, brain = scan_of(size)
        return len(prepare(volume, checkpoint.specification.preparation, brain).images)
    if axis == "million voxels":
        return scan_of(size)[0].data.size / 1e6
    return float(getattr(size, axis))


# --- time -----------------------------------------------------------------------------------


def timing(repeats: int, now: Callable[[], float]) -> dict[str, Any]:
    """Seconds of every size, and a line through each axis."""
    checkpoint = load_checkpoint(DEMO_CHECKPOINT)
    jobs = [(axis, size) for axis, sizes in AXES.items() for size in sizes]
    wholes: dict[tuple[str, Size], list[float]] = {job: [] for job in jobs}
    floors = []
    bare = bare_calls(checkpoint, now)
    arguments = {job: _arguments(job[1], checkpoint) for job in jobs}
    run(*arguments[jobs[0]])  # the model is loaded once
    for _ in range(repeats):
        for job, values in wholes.items():
            started = now()
            run(*arguments[job])
            values.append(now() - started)
        floors.append(bare())
    floor = statistics.median(floors)
    base = amount("slices", Size(), checkpoint)
    found: dict[str, Any] = {"floor_seconds_per_slice_and_call": floor, "axes": {}}
    for axis, sizes in AXES.items():
        x = [amount(axis, size, checkpoint) for size in sizes]
        y = [statistics.median(wholes[axis, size]) for size in sizes]
        slope, start = np.polyfit(x, y, 1)
        # what one more step or draw costs the network at least: a call for every slice
        least = {"slices": floor, "steps": floor * base, "draws": floor * base}.get(axis)
        found["axes"][axis] = {
            "x": x,
            "seconds": y,
            "start": float(start),
            "slope": float(slope),
            "floor_slope": least,
            "furthest_from_line": float(np.abs(np.polyval([slope, start], x) - y).max()),
        }
    return found


def _arguments(size: Size, checkpoint: Checkpoint) -> tuple[Any, Any, Any, Any]:
    volume, brain = scan_of(size)
    return volume, checkpoint, size.settings, brain


def bare_calls(
    checkpoint: Checkpoint, now: Callable[[], float], calls: int = 20
) -> Callable[[], float]:
    """Seconds per slice of the network on a ready batch."""
    network = load_network(checkpoint).to(torch.bfloat16)
    height, width = checkpoint.specification.preparation.size
    image = torch.zeros(BATCH, 1, height, width, dtype=torch.bfloat16)
    levels = torch.full((BATCH,), 150)

    def bare() -> float:
        started = now()
        with torch.no_grad():
            for _ in range(calls):
                network(image, levels)
        return (now() - started) / calls / BATCH

    bare()
    return bare


# --- memory ---------------------------------------------------------------------------------


def peak(axis: str, size: Size) -> dict[str, float]:
    """Of one size, in a process of its own."""
    fields = {name: getattr(size, name) for name in size.__dataclass_fields__}
    command = [sys.executable, __file__, "--one", json.dumps(fields)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    found["x"] = amount(axis, size, load_checkpoint(DEMO_CHECKPOINT))
    print(f"{axis} {found['x']:g}: {found['mb']:.0f} MB", flush=True)
    return found


def memory_of(size: Size) -> dict[str, float]:
    """The peak of this process above what it holds with torch and model loaded, in MB."""
    checkpoint = load_checkpoint(DEMO_CHECKPOINT)
    run(*_arguments(Size(batch=1), checkpoint))
    volume, _, settings, brain = _arguments(size, checkpoint)
    held = psutil.Process().memory_info().rss / 1e6
    run(volume, checkpoint, settings, brain)
    return {"held_mb": held, "mb": max(0.0, _peak_mb() - held)}


def _peak_mb() -> float:
    """Most memory that this process has held; Linux only."""
    # not getrusage's figure, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


# --- tables and plot ------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """Both parts, as Markdown."""
    lines = []
    if "time" in found:
        lines += ["axis | sizes | seconds | line: start + slope | slope / floor | off the line"]
        lines += ["|".join(["---"] * 6)]
        for axis, row in found["time"]["axes"].items():
            least = row["floor_slope"]
            cells = [
                axis,
                ", ".join(f"{x:.3g}" for x in row["x"]),
                ", ".join(f"{y:.2f}" for y in row["seconds"]),
                f"{row['start']:.2f} + {row['slope']:.4f}",
                f"{row['slope'] / least:.2f}" if least else "",
                f"{row['furthest_from_line']:.2f} s",
            ]
            lines.append(" | ".join(cells))
        floor = 1000 * found["time"]["floor_seconds_per_slice_and_call"]
        lines += ["", f"the bare network: {floor:.1f} ms per slice and call", ""]
    if "memory" in found:
        lines += ["axis | sizes | peak above the loaded process, MB", "|".join(["---"] * 3)]
        for axis, rows in found["memory"].items():
            sizes = ", ".join(f"{row['x']:.3g}" for row in rows)
            peaks = ", ".join(f"{row['mb']:.0f}" for row in rows)
            lines.append(f"{axis} | {sizes} | {peaks}")
    return "\n".join([*lines, "", found.get("machine", "")])


def plot(found: dict[str, Any], path: Path) -> None:
    """Seconds and memory along every axis, with the floor's slope."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "napari-addm", "font.size": 9})
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, len(AXES))
    for axes, (axis, row) in zip(upper, found["time"]["axes"].items(), strict=True):
        axes.set_xlabel(axis)
        x = np.array(row["x"])
        axes.plot(x, row["seconds"], "o", markersize=4)
        axes.plot(x, row["start"] + row["slope"] * x, linewidth=1, label="line through them")
        if row["floor_slope"]:
            least = row["start"] + row["floor_slope"] * x
            axes.plot(x, least, "--", linewidth=1, color="0.5", label="slope of the bare network")
        axes.set_ylim(bottom=0)
    for axes, axis in zip(lower, AXES, strict=True):
        rows = found.get("memory", {}).get(axis, [])
        axes.set_visible(bool(rows))
        axes.plot([row["x"] for row in rows], [row["mb"] for row in rows], "o-", markersize=4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(axis)
    upper[0].set_ylabel(found["clock"])
    lower[0].set_ylabel("peak memory above\nthe loaded process, MB")
    upper[0].legend(frameon=False, fontsize=7)
    for axes in (*upper, *lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, linewidth=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    main()
