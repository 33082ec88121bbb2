"""What the panel 'Detect in a cohort' does off the GUI thread, as generators for jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from qtpy.QtCore import QThreadPool

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.find import search_cohort
from napari_addm.cohort.inspect import InspectedCase, inspect_cohort
from napari_addm.cohort.run import BatchProgress, run_batch
from napari_addm.errors import AddmError
from napari_addm.widgets.cohort_panel.review import CaseReview
from napari_addm.widgets.cohort_panel.saved_case import CaseVersion, SavedCase, read_case
from napari_addm.widgets.cohort_panel.state import (
    CaseNotOpened,
    CasesCounted,
    CaseSearch,
    CasesFound,
    HeadersRead,
    RunRequest,
    SearchFailed,
    SearchItem,
)
from napari_addm.widgets.jobs import Status
from napari_addm.widgets.loading import import_libraries, load_checkpoint_once

# How often headers are handed over.
CHUNK_SECONDS = 0.15


def search_cases(search: CaseSearch) -> Iterator[SearchItem]:
    """Find the cases of a cohort, then read their headers. Nothing is written."""
    steps = search_cohort(search.source, search.output)
    cases = None
    while cases is None:
        try:
            yield CasesCounted(search, next(steps))
        except StopIteration as end:
            cases = end.value
        except AddmError as error:
            yield SearchFailed(search, error)
            return
    yield CasesFound(search, cases)
    chunk: list[InspectedCase] = []
    since, read = time.perf_counter(), 0
    for found in inspect_cohort(cases, search.output, frame=search.frame, resample=search.resample):
        chunk.append(found)
        read += 1
        if time.perf_counter() - since > CHUNK_SECONDS:
            yield HeadersRead(search, chunk, read)
            chunk, since = [], time.perf_counter()
    yield HeadersRead(search, chunk, read)


def run_cases(request: RunRequest) -> Iterator[Status | BatchProgress]:
    """Load the checkpoint, and detect in every case."""
    # A run may take days. The pool gets a thread more, in which cases are opened meanwhile.
    pool = QThreadPool.globalInstance()
    assert pool is not None
    pool.releaseThread()
    try:
        # The first import of torch takes seconds.
        yield Status("Loading the checkpoint")
        import_libraries()
        checkpoint = load_checkpoint_once(request.checkpoint)
        steps = run_batch(
            request.cases, request.output, checkpoint, request.settings, only=request.only
        )
        with closing(steps):
            for progress in steps:
                if progress.detection is not None:
                    # A result would stay in memory until the panel takes this item.
                    step = replace(progress.detection, result=None)
                    progress = replace(progress, detection=step)
                yield progress
    finally:
        pool.reserveThread()


def write_report(output: Path) -> Iterator[Path]:
    """Write the report of a cohort; yields its page."""
    from napari_addm.cohort.report import write_cohort_report

    yield write_cohort_report(output)["page"]


def open_case(
    case: CohortCase, output: Path, frame: int | None
) -> Iterator[CaseVersion | CaseReview | SavedCase | CaseNotOpened]:
    """Read the files of a case; see `napari_addm.widgets.cohort_panel.saved_case.read_case`."""
    try:
        yield from read_case(case, output, frame)
    except AddmError as error:
        yield CaseNotOpened(case.name, error)
