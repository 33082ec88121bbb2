"""Batches in processes of their own that die at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeVar

from cohorts import Trial

T = TypeVar("T")
METHOD = "spawn" if sys.platform == "win32" else "forkserver"
"""A server that has imported the libraries and computed nothing forks quick processes."""

LIBRARIES = ["pytest", "napari_addm.cohort.run", "monai.networks.nets.diffusion_model_unet"]

PROCESSES = multiprocessing.get_context(METHOD)
PROCESSES.set_forkserver_preload(LIBRARIES)


def start(trial: Trial, renames: int) -> tuple[multiprocessing.process.BaseProcess, Event]:
    """Run the case a of a batch with another threshold in a process.

    It exits with 9 before it renames one file more than ``renames``; the event says that the
    batch has begun.
    """
    begun = PROCESSES.Event()
    process = PROCESSES.Process(target=_run, args=(trial, renames, begun))
    process.start()
    return process, begun


def _run(trial: Trial, renames: int, begun: Event) -> None:
    from napari_addm.checkpoint.file import load_checkpoint
    from napari_addm.cohort.batch import BatchSettings
    from napari_addm.cohort.run import run_batch
    from napari_addm.detection.settings import DetectionSettings

    rename, left = os.replace, renames
    results = trial.output / "a"

    def replace(one: str, other: str) -> None:
        nonlocal left
        if Path(other).parent == results and Path(one).parent.parent == results:
            if not left:
                os._exit(9)
            left -= 1
        rename(one, other)

    os.replace = replace
    settings = BatchSettings(DetectionSettings(device="cpu"), threshold=0.03, pictures=False)
    checkpoint = load_checkpoint(trial.checkpoint)
    for _ in run_batch(trial.cases, trial.output, checkpoint, settings, only=["a"]):
        begun.set()


def save_and_die(trial: Trial, renames: int) -> int | None:
    """Save decisions on the case a in a process that dies before it renames one file more.

    Returns
    -------
    int or None
        The exit code: 9 if it died.
    """
    process = PROCESSES.Process(target=_save, args=(trial, renames))
    process.start()
    process.join(60)
    return process.exitcode


def _save(trial: Trial, renames: int) -> None:
    from napari_addm.cohort.folder import CohortFolder
    from napari_addm.cohort.review import save_decisions
    from napari_addm.findings.decisions import Decision

    rename, left = os.replace, renames

    def replace(one: str, other: str) -> None:
        nonlocal left
        if not left:
            os._exit(9)
        left -= 1
        rename(one, other)

    os.replace = replace
    (case,) = (each for each in trial.cases if each.name == "a")
    state = CohortFolder(trial.output).states.read_own(case)
    assert state is not None
    save_decisions(trial.output, case, {1: Decision("rejected", "new")}, state.result)


def in_other_thread(call: Callable[[], T]) -> T:
    """Call a function in a thread of its own, which holds no claim of this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
