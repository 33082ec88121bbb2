"""Quality against time: steps, samplers, noise levels, precisions and draws, as a table and a plot.

    python benchmarks/curve.py DATA [--peers PEERS_JSON] [--keep FOLDER] [--json FILE]
                                    [--plot FILE.svg] [--parts quality,time]

The bundled checkpoint on the tumours that DATA's ``split.json`` names for validation: AUPRC and
best Dice inside the brain, means over the cases, against seconds for one volume. The seconds are
those of one batch (noise, network and sampler) times the volume's slices; preparation and score
are added from a whole detection. With ``--peers`` the plot also shows AnoDDPM's public code from
what ``peers.py`` wrote. With ``--keep`` a computation that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ways import Bench, Way, clock, machine, mean, ours, validation_tumours, write

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.demo import DEMO_CHECKPOINT

PARTS = ("quality", "time")
BATCH = 4
PRESETS = {"Preview": 1, "Standard": 4, "Thorough": 8}
"""Draws of the panel's presets, all at the checkpoint's level and one step."""

SERIES = {
    "DDIM, steps": [(150, steps, "ddim", 1) for steps in (1, 2, 5, 10, 25, 50, 150)],
    "DPM-Solver++, steps": [(150, steps, "dpm++", 1) for steps in (1, 2, 5, 10, 25)],
    "DDPM, steps": [(150, steps, "ddpm", 1) for steps in (1, 2, 5, 10, 25)],
    "noise level, one step": [(level, 1, "ddim", 1) for level in (50, 100, 150, 200, 250, 400)],
    "level 250, DDIM, steps": [(250, steps, "ddim", 1) for steps in (1, 25)],
    "draws, one step": [(150, 1, "ddim", draws) for draws in (1, 2, 4, 8, 16)],
}


def main() -> None:
    """Measure what is asked for, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers", type=Path, help="what peers.py --json wrote")
    parser.add_argument("--keep", type=Path, help="folder for finished reconstructions")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of one thread")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts takes {', '.join(PARTS)}")

    checkpoint = load_checkpoint(DEMO_CHECKPOINT)
    bench = Bench(checkpoint, validation_tumours(options.data), options.keep)
    found: dict[str, Any] = {"points": {}}
    if options.json is not None and options.json.exists():
        found = json.loads(options.json.read_text())
    ways = all_ways(checkpoint)
    for key, way in ways.items():
        row = found["points"].setdefault(key, {})
        row.update(
            {"level": way.level, "steps": way.steps, "draws": way.draws, "precision": way.precision}
        )
    if "quality" in parts:
        for key, way in ways.items():
            found["points"][key]["cases"] = bench.quality(way)
            print(f"{key}: {mean(found['points'][key]['cases'], 'auprc'):.3f}", flush=True)
            write(options.json, found)
    now = clock(options.cpu)
    if "time" in parts:
        found["clock"] = "CPU seconds" if options.cpu else "seconds"
        timed = timing(bench, ways, options.repeats, now)
        for key, seconds in timed.items():
            found["points"][key]["seconds_per_slice"] = seconds
        found["besides"] = besides(bench, options.repeats, now, timed)
        found["machine"] = machine()
        write(options.json, found)
    print(table(found))
    if options.plot is not None:
        peers = json.loads(options.peers.read_text()) if options.peers else None
        plot(found, peers, options.plot)


def all_ways(checkpoint: Checkpoint) -> dict[str, Way]:
    """Return every point once, by its settings."""
    ways = {}
    points = [(point, "bfloat16") for series in SERIES.values() for point in series]
    points += [(SERIES["draws, one step"][2], "float32")]
    for (level, steps, sampler, draws), precision in points:
        sampler = one_name(sampler, steps)
        loop = ours(checkpoint, level, steps, sampler, precision)
        key = name(level, steps, sampler, draws, precision)
        # the draws of one chain share what is kept
        ways[key] = Way(f"ours {sampler}", loop, level, steps, draws, precision, BATCH)
    return ways


def one_name(sampler: str, steps: int) -> str:
    """Return one name for all samplers with one step, which go straight to x0-hat."""
    return "ddim" if steps == 1 else sampler


def name(level: int, steps: int, sampler: str, draws: int, precision: str = "bfloat16") -> str:
    """Return a point's name."""
    return (
        f"{one_name(sampler, steps)}, level {level}, {steps} step(s), {draws} draw(s), {precision}"
    )


def timing(
    bench: Bench, ways: dict[str, Way], repeats: int, now: Callable[[], float]
) -> dict[str, float]:
    """Time the points in turn: median seconds per slice, with noise and all draws."""
    slices = bench.prepared(bench.cases[-1]).slices
    middle = len(slices.images) // 2
    clean = torch.from_numpy(slices.images[middle : middle + BATCH])[:, None]
    rows = [int(index) for index in slices.slice_index[middle : middle + BATCH]]
    seconds: dict[str, list[float]] = {key: [] for key in ways}
    for repeat in range(repeats):
        for key, way in ways.items():
            if repeat and sum(seconds[key]) / repeat * BATCH > 4.0:
                continue  # long enough to be steady
            started = now()
            for draw in range(way.draws):
                way.loop(clean, bench.noises([(row, draw) for row in rows]))
            seconds[key].append((now() - started) / BATCH)
    return {key: statistics.median(values) for key, values in seconds.items()}


def besides(
    bench: Bench, repeats: int, now: Callable[[], float], timed: dict[str, float]
) -> dict[str, float]:
    """Time a detection without its network, in seconds: once, and for every draw."""
    case = bench.cases[-1]
    slices = len(bench.prepared(case).slices.images)
    run(case.volume, bench.checkpoint, brain_mask=case.brain)
    wholes: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(repeats):
        for draws, values in wholes.items():
            started = now()
            run(case.volume, bench.checkpoint, DetectionSettings(draws=draws), case.brain)
            values.append(now() - started)
    one, four = (
        statistics.median(values) - slices * timed[name(150, 1, "ddim", draws)]
        for draws, values in wholes.items()
    )
    each = max(0.0, (four - one) / 3)
    return {"once": one - each, "per_draw": each, "slices": slices}


def seconds_of(found: dict[str, Any], row: dict[str, Any]) -> float:
    """Return the seconds for one whole volume."""
    rest = found["besides"]
    network = row["seconds_per_slice"] * rest["slices"]
    return float(rest["once"] + rest["per_draw"] * row["draws"] + network)


def table(found: dict[str, Any]) -> str:
    """Write all series as Markdown."""
    lines = ["series | level | steps | draws | precision | AUPRC | best Dice | s per volume"]
    lines += ["|".join(["---"] * 8)]
    series = {**SERIES, "float32": [SERIES["draws, one step"][2]]}
    for title, points in series.items():
        precision = "float32" if title == "float32" else "bfloat16"
        for level, steps, sampler, draws in points:
            row = found["points"][name(level, steps, sampler, draws, precision)]
            cells = [title, *(str(v) for v in (level, steps, draws)), precision]
            if "cases" in row:
                cells += [f"{mean(row['cases'], key):.3f}" for key in ("auprc", "best_dice")]
            else:
                cells += ["", ""]
            timed = "seconds_per_slice" in row and "besides" in found
            cells += [f"{seconds_of(found, row):.1f}" if timed else ""]
            lines.append(" | ".join(cells))
    return "\n".join([*lines, "", found.get("machine", "")])


def plot(found: dict[str, Any], peers: dict[str, Any] | None, path: Path) -> None:
    """Draw AUPRC against seconds, with a line for each series and the names of the presets."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "napari-addm", "font.size": 9})
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for title, points in SERIES.items():
        rows = [found["points"][name(*point)] for point in points]
        rows = [row for row in rows if "cases" in row and "seconds_per_slice" in row]
        if title.startswith("noise level"):
            axes.plot(
                [seconds_of(found, row) for row in rows],
                [mean(row["cases"], "auprc") for row in rows],
                linestyle="none",
                marker="x",
                label=title,
            )
            for row in rows:
                axes.annotate(
                    str(row["level"]),
                    (seconds_of(found, row), mean(row["cases"], "auprc")),
                    xytext=(-5, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=7,
                )
            continue
        axes.plot(
            [seconds_of(found, row) for row in rows],
            [mean(row["cases"], "auprc") for row in rows],
            marker="o",
            markersize=4,
            label=title,
        )
    for label, draws in PRESETS.items():
        row = found["points"][name(150, 1, "ddim", draws)]
        if "cases" not in row:
            continue
        axes.annotate(
            label,
            (seconds_of(found, row), mean(row["cases"], "auprc")),
            xytext=(0, 22),
            textcoords="offset points",
            ha="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )
    their = (peers or {}).get("ways", {}).get("AnoDDPM, public code", {})
    if "seconds_per_slice" in their and "cases" in their:
        # as many times our default there, because the clocks may differ
        default = (peers or {})["ways"]["ours, default"]["seconds_per_slice"]
        here = found["points"][name(150, 1, "ddim", 4)]["seconds_per_slice"]
        times = their["seconds_per_slice"] / default
        seconds = times * here * found["besides"]["slices"]
        axes.plot(seconds, mean(their["cases"], "auprc"), "*", markersize=10, color="black")
        axes.annotate(
            "AnoDDPM's public code,\nlevel 250, every step",
            (seconds, mean(their["cases"], "auprc")),
            xytext=(-8, -4),
            textcoords="offset points",
            ha="right",
            va="top",
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"{found['clock']} for one volume")
    axes.set_ylabel("AUPRC, mean of three validation tumours")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, linewidth=0.3)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    main()
