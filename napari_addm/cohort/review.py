"""A person's decisions on the findings of a finished case, saved among its files.

The record holds the decisions, and the table repeats them. The state of the case says first which
two files are about to be replaced, so that an end of the program at any point leaves a case that
is done, with the decisions before or after.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.files import inside
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.state import CaseState
from napari_addm.errors import AddmError, InputError
from napari_addm.findings.decisions import UNDECIDED, Decisions
from napari_addm.findings.table import findings_csv
from napari_addm.io.files import take_names, write_atomic
from napari_addm.io.hashing import file_sha256, scan_sha256
from napari_addm.outputs.case_page import CaseSources, write_case_page
from napari_addm.outputs.folder import claim_outputs, staging_folder
from napari_addm.outputs.record import FileEntry, RunRecord, read_record

# The record is renamed first, as its decisions are the ones that count.
DECIDED_FILES = ("record", "findings")
CLAIM_SECONDS = 2.0
"""How long to wait for another person or run that writes the same case."""


def read_decided(output: Path, case: CohortCase, result: CaseResult) -> RunRecord:
    """Read the record of a finished case, with a person's decisions.

    Parameters
    ----------
    result : CaseResult
        As `CaseStates.read` gives it.

    Raises
    ------
    AddmError
        When the record or the table is missing, or was changed by somebody else.
    """
    paths, names = case.paths(output), case.file_names()
    for key in DECIDED_FILES:
        path, found = inside(output, names[key]), None
        with suppress(OSError, InputError):
            found = None if path is None else scan_sha256(path)
        if found is None or found != result.files.get(names[key]):
            raise InputError(
                f"{paths[key].name} was changed or removed after it was saved: put it back, or "
                "move the files of the case away and run it again."
            )
    return read_record(paths["record"])


def save_decisions(
    output: Path,
    case: CohortCase,
    decisions: Decisions,
    opened: CaseResult,
    seen: bool | None = None,
) -> CaseResult:
    """Save decisions in the record and the table of a finished case, and keep its state in step.

    Parameters
    ----------
    decisions : mapping of int to Decision
        All that hold, by the numbers of the findings.
    opened : CaseResult
        The result that the decisions were made on: of the state when the case was opened, or from
        the last call.
    seen : bool, optional
        Whether a person has looked at a case in which nothing was found; by default as it is.

    Returns
    -------
    CaseResult
        The same with the new hashes and counts.

    Raises
    ------
    AddmError
        When somebody else has saved decisions or replaced the result since, or the files cannot
        be written. Nothing is changed then.
    """
    folder, paths, names = CohortFolder(output), case.paths(output), case.file_names()
    with _claimed(output, case):
        state = folder.states.read_own(case)
        if state is None or not state.done or not _same_files(state.result, opened, names):
            raise InputError(
                f"{case.name} was decided on or run by somebody else since it was opened here: "
                "open it again. What was decided here meanwhile is not saved."
            )
        record = _with_decisions(read_decided(output, case, state.result), decisions, seen)
        after = _counted(state.result, record)
        with staging_folder(paths["record"].parent) as staging:
            place = {key: staging / paths[key].name for key in DECIDED_FILES}
            write_atomic(place["findings"], findings_csv(record.findings, record.decisions))
            table = FileEntry(name=paths["findings"].name, sha256=file_sha256(place["findings"]))
            files = {**record.outputs, "findings": table}
            write_atomic(place["record"], record.model_copy(update={"outputs": files}).to_json())
            hashes = {names[key]: file_sha256(place[key]) for key in DECIDED_FILES}
            folder.states.write(after, state.parameters, state.later, deciding=hashes)
            try:
                take_names({paths[key]: place[key] for key in DECIDED_FILES})
            except Exception:
                folder.states.write(state.result, state.parameters, state.later)
                raise
        after = replace(after, files={**after.files, **hashes})
        with suppress(AddmError):  # the state says already what these files may be
            folder.states.write(after, state.parameters, state.later)
    return after


def finish_saving(output: Path, case: CohortCase, state: CaseState) -> CaseState:
    """Bring record, table and state in step where the end of a program came amid saving."""
    if not (state.done and state.deciding):
        return state
    with suppress(AddmError):  # another program may be saving at this moment
        record = read_decided(output, case, state.result)
        save_decisions(output, case, record.decisions, state.result)
    return CohortFolder(output).states.read_own(case) or state


def refresh_page(output: Path, case: CohortCase, sources: CaseSources) -> Path | None:
    """Make the page of a case again if it is older than the record; None if there is none.

    Raises
    ------
    AddmError
        When the page is another person's, or cannot be written.
    """
    paths = case.paths(output)
    try:
        if paths["page"].stat().st_mtime_ns >= paths["record"].stat().st_mtime_ns:
            return None
    except OSError:
        return None
    return write_case_page(paths["record"], sources)


@contextmanager
def _claimed(output: Path, case: CohortCase) -> Iterator[None]:
    """Keep others away from the case's files; waits a moment for those that have them."""
    until = time.monotonic() + CLAIM_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claim_outputs(output / case.root, case.prefix))
                break
            except AddmError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)
        yield


def _same_files(now: CaseResult, then: CaseResult, names: dict[str, str]) -> bool:
    return all(now.files.get(names[key]) == then.files.get(names[key]) for key in DECIDED_FILES)


def _with_decisions(record: RunRecord, decisions: Decisions, seen: bool | None) -> RunRecord:
    findings = []
    for each in record.findings:
        made = decisions.get(each.id, UNDECIDED)
        findings.append(replace(each, decision=made.verdict, note=made.note))
    seen = record.seen if seen is None else seen
    return record.model_copy(update={"findings": tuple(findings), "seen": seen})


def _counted(result: CaseResult, record: RunRecord) -> CaseResult:
    verdicts = [each.decision for each in record.findings]
    return replace(
        result,
        accepted=verdicts.count("accepted"),
        rejected=verdicts.count("rejected"),
        noted=sum(bool(each.note) for each in record.findings),
        seen=record.seen,
    )
