"""A person's review of the cases of a cohort, one after the other. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.review import read_decided, refresh_page, save_decisions
from napari_addm.errors import AddmError, InputError
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import recorded_findings
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.volume import Volume
from napari_addm.outputs.case_page import CaseSources
from napari_addm.review.decisions import Decided, DecisionHistory, ReviewedFindings
from napari_addm.review.marking import LabelledFindings
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.cases import CaseRow

SAVING_SECONDS = 30.0
"""How long a panel that closes waits for a thread that saves."""


@dataclass(eq=False)
class CaseReview:
    """The saved findings of a finished case, and what a person decides on them.

    Attributes
    ----------
    case : CohortCase
    output : Path
        Folder of the results.
    opened : CaseResult
        The result as it was read, or as it was last saved from here.
    scan : Volume
    findings : ReviewedFindings
    saved : dict of int to Decision
        What the case's files hold.
    error : str
        Why the last try to save failed; empty if it did not.
    """

    case: CohortCase
    output: Path
    opened: CaseResult
    scan: Volume
    findings: ReviewedFindings
    saved: dict[int, Decision] = field(default_factory=dict)
    error: str = ""

    @property
    def unsaved(self) -> bool:
        """Whether there are decisions that the files do not hold."""
        return self.findings.decisions != self.saved

    @property
    def progress(self) -> str:
        """How many findings are decided, in words."""
        marked = self.findings.marked
        total = 0 if marked is None else len(marked.findings)
        decided = sum(made.verdict is not None for made in self.findings.decisions.values())
        return f"{decided} of {total} decided" if total else "no findings"

    def refresh_page(self) -> None:
        """Make the page of the case again, if it has one that is out of date."""
        refresh_page(self.output, self.case, CaseSources(self.scan, self.case.truth))

    def save(self) -> CaseResult | None:
        """Save the decisions among the case's files, also in another thread.

        Returns
        -------
        CaseResult or None
            None if that failed; `error` says why.
        """
        decisions = dict(self.findings.decisions)
        try:
            result = save_decisions(self.output, self.case, decisions, self.opened)
        except AddmError as error:
            self.error = str(error)
            return None
        self.saved, self.opened, self.error = decisions, result, ""
        return result


class Reviews:
    """The review of the case that is open, and those of others that are not saved yet.

    Attributes
    ----------
    current : CaseReview or None
    saving : Event or None
        Set when the thread that saves has ended.
    """

    def __init__(self) -> None:
        self.current: CaseReview | None = None
        self.saving: Event | None = None
        self._left: dict[str, CaseReview] = {}

    def show(self, review: CaseReview | None) -> str:
        """Go to another case, or to none.

        What could not be saved when the case was open before is taken up again, unless somebody
        else has replaced it.

        Returns
        -------
        str
            What is lost, in words; empty for nothing.
        """
        before = self.current
        if before is not None and before.unsaved:
            before.error = ""  # one more try
            self._left[before.case.name] = before
        self.current, lost = review, ""
        if review is not None and (kept := self._left.pop(review.case.name, None)) is not None:
            if not kept.unsaved or kept.opened.files == review.opened.files:
                self.current = kept if kept.unsaved else review
            else:
                lost = texts.DECISIONS_LOST.format(review.case.name)
        return lost

    def next_to_save(self) -> CaseReview | None:
        """Find a review with decisions that are not saved, and did not fail to be."""
        self._left = {name: each for name, each in self._left.items() if each.unsaved}
        return next((each for each in self._all() if each.unsaved and not each.error), None)

    def close(self) -> None:
        """Save all at once, as nobody will later."""
        if self.saving is not None:
            self.saving.wait(SAVING_SECONDS)
        for review in self._all():
            if review.unsaved:
                review.save()
            with suppress(AddmError):
                review.refresh_page()
        self.current, self._left = None, {}

    def _all(self) -> list[CaseReview]:
        return [*self._left.values(), *([] if self.current is None else [self.current])]


def read_review(
    case: CohortCase, output: Path, result: CaseResult, scan: Volume, labels: np.ndarray
) -> CaseReview:
    """Read the findings of a finished case from its record.

    Parameters
    ----------
    result : CaseResult
        Of the case's state.
    labels : ndarray of int, shape (S, A, R)
        As its file has them.

    Raises
    ------
    AddmError
        When record, labels or scan were changed since the case was run.
    """
    record = read_decided(output, case, result)
    entry = record.outputs.get("labels")
    if entry is None or voxels_sha256(labels) != entry.voxels_sha256:
        name = case.paths(output)["labels"].name
        raise InputError(f"{name} was changed after it was saved: run the batch again.")
    if voxels_sha256(scan.data) != record.input.voxels_sha256:
        raise InputError(f"{case.scan.name} was changed since the run: run the batch again.")
    findings = recorded_findings(record.findings, labels, scan)
    marked = LabelledFindings(labels, findings, record.threshold, record.minimum_ml)
    decided = tuple(Decided(marked.voxels(id), made) for id, made in record.decisions.items())
    reviewed = ReviewedFindings(DecisionHistory(decided))
    reviewed.show(marked)
    if len(findings):
        reviewed.selected = int(findings.id[np.argmax(findings.volume_ml)])
    return CaseReview(case, output, result, scan, reviewed, dict(reviewed.decisions))


def save_in_job(review: CaseReview) -> Iterator[tuple[CaseReview, CaseResult | None]]:
    """`CaseReview.save` for a job."""
    yield review, review.save()


def refresh_page_in_job(review: CaseReview) -> Iterator[None]:
    """`CaseReview.refresh_page` for a job."""
    review.refresh_page()
    yield


# --- the worklist --------------------------------------------------------------------------------


def step_case(
    shown: Sequence[str], rows: Mapping[str, CaseRow], current: str | None, by: int
) -> str | None:
    """Find the next (1) or the previous (-1) finished case of a table; None at its end.

    Parameters
    ----------
    shown : sequence of str
        Names of the cases in the order of the table.
    current : str or None
        The case to go on from.
    """
    at = shown.index(current) if current in shown else (-1 if by > 0 else len(shown))
    ahead = shown[at + 1 :] if by > 0 else shown[:at][::-1] if at > 0 else ()
    return next((name for name in ahead if rows[name].finished), None)


def next_to_review(
    shown: Sequence[str], rows: Mapping[str, CaseRow], current: str | None
) -> str | None:
    """Find the next case with a finding that is not decided, round and round; None if all are."""
    at = shown.index(current) + 1 if current in shown else 0
    ahead = [*shown[at:], *shown[:at]]
    return next((name for name in ahead if name != current and rows[name].to_review), None)
