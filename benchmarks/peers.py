"""Time and quality beside AnoDDPM's code, MONAI, diffusers and the bare network.

    python benchmarks/peers.py DATA [--anoddpm FOLDER] [--keep FOLDER] [--json FILE]
                                    [--parts agreement,quality,time,whole]

One network (the bundled checkpoint: for the others as MONAI builds it, for ours and the floor as
`load_network` loads it), the same slices, the same noise, the same score. DATA is a benchmark's
folder: the tumours that its ``split.json`` names for validation are measured.
FOLDER after ``--anoddpm`` is a checkout of github.com/Julian-Wyatt/AnoDDPM, whose code runs as it
is (it needs numba, scikit-image, scikit-learn and matplotlib). The script needs diffusers.

- ``agreement``: checks that all ways give the same picture for the same slices and noise.
- ``quality``: AUPRC and best Dice on whole volumes. The full 250 steps take an hour of one core;
  with ``--keep`` they go on where they were stopped.
- ``time``: median seconds per slice of the loops alone, without making noise, the ways in turn.
- ``whole``: a whole detection against its network calls alone.

The parts add to the JSON file, so that they can be run one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ways import (
    AsPeersCall,
    Bench,
    Loop,
    Way,
    anoddpm,
    diffusers,
    machine,
    mean,
    monai,
    ours,
    ours_as_anoddpm,
    plain_network,
    validation_tumours,
    write,
)

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import run
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.methods.loading import load_network
from napari_addm.metrics.sorted_scores import SortedScores

PARTS = ("agreement", "quality", "time", "whole")
LEVEL, STEPS = 150, 25
ANODDPM_LEVEL = 250
BATCH = 4
HEAD = (
    *("way", "level", "steps", "draws", "precision", "batch", "s per slice"),
    *("times ours, same chain", "times ours, default", "times the floor", "AUPRC", "best Dice"),
)
SAME = 2e-3
"""How far two float32 reconstructions of one chain may differ, on a scale from -1 to 1."""


def main() -> None:
    """Run the parts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--anoddpm", type=Path, help="a checkout of AnoDDPM")
    parser.add_argument("--keep", type=Path, help="folder for finished reconstructions")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts takes {', '.join(PARTS)}")

    checkpoint = load_checkpoint(DEMO_CHECKPOINT)
    bench = Bench(checkpoint, validation_tumours(options.data), options.keep)
    found: dict[str, Any] = {"ways": {}}
    if options.json is not None and options.json.exists():
        found = json.loads(options.json.read_text())
    ways = all_ways(bench, options.anoddpm)
    for way in ways:
        row = {
            "level": way.level,
            "steps": way.steps,
            "draws": way.draws,
            "precision": way.precision,
            "batch": way.batch,
        }
        found["ways"].setdefault(way.name, {}).update(row)
    if "agreement" in parts:
        found["agreement"] = agreement(bench, options.anoddpm)
        write(options.json, found)
    if "quality" in parts:
        for way in ways:
            found["ways"][way.name]["cases"] = bench.quality(whole_volumes(bench, way, options))
            print(f"{way.name}: {found['ways'][way.name]['cases']}", flush=True)
            write(options.json, found)
        found["detect"] = {**found.get("detect", {}), **detected(bench)}
        check_scoring(found)
        write(options.json, found)
    if "time" in parts:
        found["machine"] = machine()
        for timed in timing(bench, ways, options.repeats):
            for way in ways:
                found["ways"][way.name]["seconds_per_slice"] = timed.pop(way.name)
            found["floor"] = timed
            write(options.json, found)
    if "whole" in parts:
        found["machine"] = machine()
        found["detect"] = {**found.get("detect", {}), **whole_detection(bench, options.repeats)}
        write(options.json, found)
    print(table(found))


def all_ways(bench: Bench, folder: Path | None) -> list[Way]:
    """Return the rows of the table."""
    checkpoint, schedule = bench.checkpoint, bench.schedule
    plain = AsPeersCall(plain_network(checkpoint))
    mixed = AsPeersCall(plain_network(checkpoint), autocast=True)
    ways = []
    if folder is not None:
        loop = anoddpm(
            folder, plain, ANODDPM_LEVEL, checkpoint.specification.preparation.size, schedule
        )
        ways.append(
            Way("AnoDDPM, public code", loop, ANODDPM_LEVEL, ANODDPM_LEVEL, 1, "float32", 1)
        )

    def chain(name: str, loop: Loop, steps: int, precision: str, kept: str = "") -> Way:
        return Way(name, loop, LEVEL, steps, 1, precision, BATCH, kept)

    for network, precision in ((plain, "float32"), (mixed, "autocast")):
        ways += [
            chain(
                f"MONAI DDIM, {precision}",
                monai(network, LEVEL, STEPS, schedule),
                STEPS,
                precision,
            ),
            chain(
                f"diffusers DDIM, {precision}",
                diffusers(network, LEVEL, STEPS, schedule),
                STEPS,
                precision,
            ),
        ]
    for precision in ("float32", "bfloat16"):
        ways.append(
            chain(
                f"ours DDIM, {precision}",
                ours(checkpoint, LEVEL, STEPS, dtype=precision),
                STEPS,
                precision,
                "ours ddim",
            )
        )
    ways += by_openvino(checkpoint)
    ways += [
        chain(
            "diffusers DDPM, autocast",
            diffusers(mixed, LEVEL, STEPS, schedule, "ddpm"),
            STEPS,
            "autocast",
        ),
        chain(
            "ours DDPM, bfloat16",
            ours(checkpoint, LEVEL, STEPS, "ddpm"),
            STEPS,
            "bfloat16",
            "ours ddpm",
        ),
        chain(
            "MONAI DDPM, autocast", monai(mixed, LEVEL, LEVEL, schedule, "ddpm"), LEVEL, "autocast"
        ),
        default_way(checkpoint),
    ]
    return ways


def by_openvino(checkpoint: Checkpoint) -> list[Way]:
    """Return our loop with the network run by OpenVINO, if that is installed."""
    try:
        from napari_addm.detection.openvino_network import openvino_network

        networks = {p: openvino_network(checkpoint, BATCH, p) for p in ("float32", "bfloat16")}
    except ImportError:
        return []
    return [
        Way(
            f"ours DDIM, OpenVINO {precision}",
            ours(checkpoint, LEVEL, STEPS, network=network),
            LEVEL,
            STEPS,
            1,
            precision,
            BATCH,
        )
        for precision, network in networks.items()
    ]


def default_way(checkpoint: Checkpoint) -> Way:
    """Return the way of a detection with its defaults."""
    default = resolve(DetectionSettings(), checkpoint.specification)
    assert default.level is not None
    assert default.steps is not None
    assert default.draws is not None
    assert default.sampler is not None
    return Way(
        "ours, default",
        ours(checkpoint, default.level, default.steps, default.sampler),
        default.level,
        default.steps,
        default.draws,
        "bfloat16",
        BATCH,
        f"ours {default.sampler}",
    )


def whole_volumes(bench: Bench, way: Way, options: argparse.Namespace) -> Way:
    """Return a way for whole volumes: AnoDDPM's in batches and bfloat16; see `agreement`."""
    if way.batch > 1:
        return way
    network = AsPeersCall(plain_network(bench.checkpoint).to(torch.bfloat16))
    size = bench.checkpoint.specification.preparation.size
    return Way(
        "AnoDDPM",
        anoddpm(options.anoddpm, network, ANODDPM_LEVEL, size, bench.schedule),
        way.level,
        way.steps,
        way.draws,
        "bfloat16",
        8,
    )


# --- the same pictures ----------------------------------------------------------------------


def some_slices(bench: Bench, count: int) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Return slices through the middle of the last case, and their noise."""
    slices = bench.prepared(bench.cases[-1]).slices
    middle = len(slices.images) // 2
    rows = slice(middle, middle + count)
    clean = torch.from_numpy(slices.images[rows])[:, None]
    return clean, bench.noises([(int(index), 0) for index in slices.slice_index[rows]])


def agreement(bench: Bench, folder: Path | None) -> dict[str, float]:
    """Measure the largest differences between the ways, for the same slices and noise.

    Raises
    ------
    SystemExit
        If two ways that should give the same do not.
    """
    checkpoint, schedule = bench.checkpoint, bench.schedule
    plain = AsPeersCall(plain_network(checkpoint))
    clean, noise = some_slices(bench, 2)
    reference = ours(checkpoint, LEVEL, STEPS, dtype="float32")(clean, noise)
    others = {
        "MONAI DDIM": monai(plain, LEVEL, STEPS, schedule)(clean, noise),
        "diffusers DDIM": diffusers(plain, LEVEL, STEPS, schedule)(clean, noise),
    }
    found = {name: apart(reference, other) for name, other in others.items()}
    if folder is not None:
        size = checkpoint.specification.preparation.size
        loop = anoddpm(folder, plain, ANODDPM_LEVEL, size, schedule)
        together = loop(clean, noise)
        by_ours = ours_as_anoddpm(checkpoint, ANODDPM_LEVEL, schedule)(clean, noise)
        found["AnoDDPM, our sampler at its settings"] = apart(together, by_ours)
        one, noise_of_one = some_slices(bench, 1)
        found["AnoDDPM, one slice at a time"] = apart(together[:1], loop(one, noise_of_one))
    wrong = {name: value for name, value in found.items() if value > SAME}
    if wrong:
        raise SystemExit(f"not the same reconstructions: {wrong}")
    # bfloat16 is another rounding, not another method: reported, and shown by the quality
    if folder is not None:
        network = AsPeersCall(plain_network(checkpoint).to(torch.bfloat16))
        short = anoddpm(folder, network, ANODDPM_LEVEL, size, schedule)(clean, noise)
        found["AnoDDPM, root mean square of float32 - bfloat16"] = float(
            (together - short).square().mean().sqrt()
        )
    return found


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference."""
    return float((one - other).abs().max())


# --- what they find -------------------------------------------------------------------------


def detected(bench: Bench) -> dict[str, Any]:
    """Measure what a whole detection with its defaults finds."""
    rows = []
    for case in bench.cases:
        anomaly = run(case.volume, bench.checkpoint, brain_mask=case.brain).anomaly.data
        found = SortedScores.of(anomaly[case.brain], case.lesion[case.brain])
        rows.append({"case": case.name, "auprc": found.auprc, "best_dice": found.best_dice})
    return {"cases": rows}


def check_scoring(found: dict[str, Any]) -> None:
    """Check that this script scores as a detection does.

    Raises
    ------
    SystemExit
        If it is not.
    """
    for here, there in zip(
        found["ways"]["ours, default"]["cases"], found["detect"]["cases"], strict=True
    ):
        if abs(here["auprc"] - there["auprc"]) > 2e-3:
            raise SystemExit(f"this script and detect() score differently: {here}, {there}")


# --- how long they take ---------------------------------------------------------------------


def timing(bench: Bench, ways: list[Way], repeats: int) -> Iterator[dict[str, float]]:
    """Time the ways and the bare network calls in turn: median seconds per slice.

    Yields
    ------
    dict of str to float
        The medians after each round.
    """
    jobs: dict[str, tuple[Callable[[], object], float]] = {}
    for way in ways:
        clean, noise = some_slices(bench, way.batch)
        made: dict[int, Tensor] = {}

        def keep(step: int, made: dict[int, Tensor] = made, noise: Any = noise) -> Tensor:
            if step not in made:
                made[step] = noise(step)
            return made[step]

        def job(way: Way = way, clean: Tensor = clean, keep: Any = keep) -> None:
            for _ in range(way.draws):
                way.loop(clean, keep)

        if way.level == ANODDPM_LEVEL or way.steps == way.level or "DDPM" in way.name:
            for step in range(way.steps + 1):
                keep(step)
        jobs[way.name] = (job, way.batch)
    for precision in ("float32", "bfloat16"):
        network = load_network(bench.checkpoint).to(getattr(torch, precision))
        image = some_slices(bench, BATCH)[0].to(getattr(torch, precision))
        levels = torch.full((BATCH,), LEVEL)

        def bare(network: Any = network, image: Tensor = image, levels: Tensor = levels) -> None:
            with torch.no_grad():
                for _ in range(STEPS):
                    network(image, levels)

        jobs[f"{precision}, seconds per call and slice"] = (bare, BATCH * STEPS)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats):
        for name, (run_it, slices) in jobs.items():
            if repeat and seconds[name][0] * slices > 5.0:
                continue  # the longest are steady, and would hold the others up
            started = time.perf_counter()
            run_it()
            seconds[name].append((time.perf_counter() - started) / slices)
        yield {name: statistics.median(values) for name, values in seconds.items()}


def whole_detection(bench: Bench, repeats: int) -> dict[str, Any]:
    """Time a detection with its defaults and its network calls alone, in turn."""
    case = bench.cases[-1]
    volume, brain = case.volume, case.brain
    default = default_way(bench.checkpoint)
    slices = bench.prepared(case).slices
    network = load_network(bench.checkpoint).to(torch.bfloat16)
    image = some_slices(bench, BATCH)[0].to(torch.bfloat16)
    levels = torch.full((BATCH,), default.level)
    calls = -(-len(slices.images) * default.calls // BATCH)
    wholes, floors, stages = [], [], []
    run(volume, bench.checkpoint, brain_mask=brain)  # the model is loaded once
    for _ in range(repeats):
        started = time.perf_counter()
        done = run(volume, bench.checkpoint, brain_mask=brain)
        wholes.append(time.perf_counter() - started)
        stages.append(done.seconds)
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(calls):
                network(image, levels)
        floors.append(time.perf_counter() - started)
    return {
        "slices": len(slices.images),
        "seconds": statistics.median(wholes),
        "floor_seconds": statistics.median(floors),
        "times_floor": statistics.median(np.divide(wholes, floors)),
        "stages": {key: statistics.median(s[key] for s in stages) for key in stages[0]},
    }


# --- the table ------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    ways = found["ways"]
    lines = []
    if "agreement" in found:
        lines += ["largest difference of the reconstructions, on a scale from -1 to 1:"]
        lines += [f"- {name}: {value:.1e}" for name, value in found["agreement"].items()]
        lines += [""]
    lines += [" | ".join(HEAD), "|".join(["---"] * len(HEAD))]
    default = ways["ours, default"].get("seconds_per_slice")
    floor = found.get("floor", {}).get("bfloat16, seconds per call and slice")
    for name, row in ways.items():
        each = row.get("seconds_per_slice")
        cells = [name, *(str(row[k]) for k in ("level", "steps", "draws", "precision", "batch"))]
        if each is None or default is None or floor is None:
            cells += [""] * 4
        else:
            peer = ways[f"ours {'DDPM' if 'DDPM,' in name else 'DDIM'}, bfloat16"]
            same = peer["steps"] == row["steps"] and row["draws"] == 1
            cells += [
                f"{each:.3f}",
                f"{each / peer['seconds_per_slice']:.2f}" if same else "",
                f"{each / default:.1f}",
                f"{each / (floor * row['steps'] * row['draws']):.2f}",
            ]
        if "cases" in row:
            cells += [
                f"{mean(row['cases'], 'auprc'):.3f}",
                f"{mean(row['cases'], 'best_dice'):.3f}",
            ]
        else:
            cells += ["", ""]
        lines.append(" | ".join(cells))
    whole = found.get("detect", {})
    if "seconds" in whole:
        stages = ", ".join(f"{name} {value:.2f}" for name, value in whole["stages"].items())
        lines += [
            "",
            f"a whole detection, {whole['slices']} slices: {whole['seconds']:.2f} s ({stages}); "
            f"its network calls alone {whole['floor_seconds']:.2f} s: "
            f"{whole['times_floor']:.2f} times the floor",
        ]
    if "cases" in whole:
        lines += [f"it finds AUPRC {mean(whole['cases'], 'auprc'):.3f}"]
    if "machine" in found:
        lines += [found["machine"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
