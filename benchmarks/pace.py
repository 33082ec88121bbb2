"""How the machine did while the event loop of a walk was blocked for longest.

    python benchmarks/pace.py [--times N] -- xvfb-run -a -s "-screen 0 1280x800x24" \\
        python docs/make_pictures.py --scan SCAN --truth TRUTH --output FOLDER

Runs the walk N times. A process of its own, which shares nothing with it, times every 20 ms its
own reads in random order over 64 MB, and some arithmetic, in CPU seconds, which do not grow while
it waits for a processor. What it took while the walk's longest block lasted, over what it
takes at its median, says whether the machine itself was slow then, as a virtual one is when its
host takes it off a processor. How often that is so at any moment stands below the table.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import time
from multiprocessing.connection import Connection

import numpy as np

BEAT_SECONDS = 0.02
MARGIN_SECONDS = 0.05  # the first look after a block may come so late
SLOW = 3.0


def watch(connection: Connection) -> None:
    """Time reads and arithmetic until it is told to stop; send (time, seconds, seconds) of all."""
    random = np.random.default_rng(0)
    memory = random.random(8 << 20)
    places = [random.integers(0, len(memory), 20_000) for _ in range(16)]
    few = random.random(1000)
    looks: list[tuple[float, float, float]] = []
    while not connection.poll():
        started = time.thread_time()
        memory[places[len(looks) % len(places)]].sum()
        middle = time.thread_time()
        for _ in range(20):
            np.dot(few, few)
        looks.append((time.monotonic(), middle - started, time.thread_time() - middle))
        time.sleep(BEAT_SECONDS)
    connection.send(looks)


def watched(command: list[str]) -> tuple[dict, np.ndarray]:
    """The report of a walk, and all that was seen beside it: (n, 3), over the median."""
    here, there = multiprocessing.Pipe()
    beside = multiprocessing.Process(target=watch, args=(there,))
    beside.start()
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(done.stdout[done.stdout.index("{") :])
    finally:
        here.send(None)
        looks = np.array(here.recv())
        beside.join()
    looks[:, 1:] /= np.median(looks[:, 1:], axis=0)
    return report, looks


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("command", nargs="+", help="the walk, after --")
    options = parser.parse_args()
    blocks, shares = [], []
    print(
        "longest block in the run, ms | reads beside it, x median | arithmetic | run, s", flush=True
    )
    for _ in range(options.times):
        report, looks = watched(options.command)
        block, began = report["longest_block_run_ms"], report["longest_block_run_began"]
        since = looks[:, 0] - began
        then = looks[(since > 0) & (since < block / 1000 + MARGIN_SECONDS), 1:].max(axis=0)
        print(
            f"{block:17.0f} | {then[0]:22.1f} | {then[1]:10.1f} | {report['run_s']:6.1f}",
            flush=True,
        )
        blocks.append(block)
        # windows of the same length, one after another: how often chance would find a slow one
        length = max(1, round((block / 1000 + MARGIN_SECONDS) / BEAT_SECONDS))
        windows = [looks[n : n + length, 1].max() for n in range(0, len(looks), length)]
        shares.append(float(np.mean(np.array(windows) > SLOW)))
    print(
        f"median {statistics.median(blocks):.0f} ms; over 100 ms: {sum(b > 100 for b in blocks)} "
        f"of {len(blocks)}; of all moments as long, reads took {SLOW:.0f} times the median in "
        f"{100 * statistics.mean(shares):.1f} %"
    )


if __name__ == "__main__":
    main()
