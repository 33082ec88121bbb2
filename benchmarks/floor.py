"""A whole volume against the bare calls of its network, on torch and on OpenVINO.

    python benchmarks/floor.py SCAN [--devices cpu,openvino] [--runs 5] [--json FILE]

In one process that has the model loaded and has just done another case, as a batch has: reading,
preparation, network, scoring, findings and files. The floor is the network called as often as the
volume needs, on the same batch, one call after another with all threads, with nothing around it;
the workers make the same calls at a time, as a run has them; the plain floor, on torch, is the
first with the network as its method builds it, with torch's own group norms. Run and floors come in
turn, because a machine's pace changes, and each is the median of its rounds. CPU seconds are those
of all threads; on a machine that others use they say more than the clock does, with
OMP_NUM_THREADS=1 most.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from plain_network import plain_network
from torch import nn

from napari_addm.checkpoint.file import DEMO_CHECKPOINT, Checkpoint, load_checkpoint
from napari_addm.detection.devices import (
    BATCH_SIZES,
    WORKERS,
    count_threads,
    free_memory,
    network_workers,
)
from napari_addm.detection.pipeline import Detection, run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
from napari_addm.methods.loading import load_network
from napari_addm.outputs.case import CaseInputs, write_case
from napari_addm.outputs.run_case import measure_case, plan_case

FLOORS = ("floor", "workers", "plain")


class Watch:
    """Seconds by the clock and of the processor since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--devices", default="cpu,openvino")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    rows = []
    for device in options.devices.split(","):
        settings = DetectionSettings(device=device, precision=options.precision)
        _, detection = whole_case(options.scan, checkpoint, settings)  # imports, loads the model
        rounds = [
            second_case(options.scan, checkpoint, settings) | bare_calls(checkpoint, detection)
            for _ in range(options.runs)
        ]
        middle = {
            key: statistics.median(each[key] for each in rounds)
            for key in rounds[0]
            if key != "stages"
        }
        stages = {
            stage: statistics.median(each["stages"][stage] for each in rounds)
            for stage in rounds[0]["stages"]
        }
        rows.append(
            {"device": detection.device, "precision": detection.precision, "rounds": rounds}
            | middle
            | {"stages": stages}
        )
        free_memory()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} processors")
    header: tuple[str, ...] = ("device", "precision", "", "whole s")
    header += tuple(cell for floor in FLOORS for cell in (f"{floor} s", "ratio"))
    print(" | ".join(f"{cell:>12}" for cell in header))
    for row in rows:
        for kind in ("wall", "cpu"):
            whole = row[kind]
            cells = [row["device"], row["precision"], kind, f"{whole:.2f}"]
            for floor in FLOORS:
                if f"{floor}_{kind}" in row:
                    seconds = row[f"{floor}_{kind}"]
                    cells += [f"{seconds:.2f}", f"{whole / seconds:.2f}"]
            print(" | ".join(f"{cell:>12}" for cell in cells))
        print("  ", ", ".join(f"{stage} {s:.2f}" for stage, s in row["stages"].items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def whole_case(
    scan: Path, checkpoint: Checkpoint, settings: DetectionSettings
) -> tuple[dict, Detection]:
    """From the file to the files; the stages by the clock."""
    plan = plan_case(checkpoint.specification, settings)
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        volume = read_volume(scan)
        reading = watch.read()["wall"]
        detection = run(volume, checkpoint, settings)
        after = Watch()
        outputs = measure_case(CaseInputs(volume), detection, checkpoint, plan)
        marking = after.read()["wall"]
        write_case(outputs, folder)
        spent = watch.read()
        writing = after.read()["wall"] - marking
    stages = {"read": reading, **detection.seconds, "findings": marking, "write": writing}
    return spent | {"stages": stages}, detection


def second_case(scan: Path, checkpoint: Checkpoint, settings: DetectionSettings) -> dict:
    """A case straight after another: after the bare calls its memory would have to come anew."""
    whole_case(scan, checkpoint, settings)
    return whole_case(scan, checkpoint, settings)[0]


def bare_calls(checkpoint: Checkpoint, detection: Detection) -> dict[str, float]:
    """The network alone, as often as the volume needs it."""
    assert detection.slices is not None
    assert detection.settings.draws is not None
    batch = detection.settings.batch_size or BATCH_SIZES[detection.device]
    dtype = getattr(torch, detection.precision)
    workers, threads = min(WORKERS, count_threads()), count_threads()
    one: torch.nn.Module
    several: torch.nn.Module
    if detection.device == "openvino":
        from napari_addm.detection.openvino_network import openvino_network

        one = openvino_network(checkpoint, batch, detection.precision, 1, threads)
        dtype = torch.float32
        several = openvino_network(checkpoint, batch, detection.precision, workers, threads)
    else:
        one = several = load_network(checkpoint).to(detection.device, dtype)
        plain = plain_network(checkpoint).to(detection.device, dtype)
    images = torch.randn(batch, 1, *checkpoint.specification.preparation.size).to(
        "cpu" if detection.device == "openvino" else detection.device, dtype
    )
    levels = torch.full((batch,), detection.settings.level or 1, device=images.device)
    pairs = len(detection.slices.images) * detection.settings.draws
    calls = -(-pairs // batch) * (detection.settings.steps or 1)

    def measure(
        prefix: str, network: nn.Module, each: Callable[..., Iterable[None]]
    ) -> dict[str, float]:
        def call(_: int) -> None:
            with torch.no_grad():
                network(images, levels)

        list(each(call, range(4)))
        watch = Watch()
        list(each(call, range(calls)))
        if images.is_cuda:
            torch.cuda.synchronize()
        return {f"{prefix}_{kind}": seconds for kind, seconds in watch.read().items()}

    with network_workers(detection.device, threads) as (pool, _):
        found = measure("floor", one, map) | measure("workers", several, pool.map)
        if detection.device != "openvino":
            found |= measure("plain", plain, map)
        return found | {"calls": calls}


if __name__ == "__main__":
    main()
