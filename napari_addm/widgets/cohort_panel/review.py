"""A person's review of the cases of a cohort, one after the other. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

import numpy as np

from napari_addm.cohort.case import CaseResult, CohortCase
from napari_addm.cohort.review import read_decided, refresh_page, save_decisions
from napari_addm.errors import AddmError, InputError
from napari_addm.findings.decisions import UNDECIDED, Decision, Decisions
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

_passing = Lock()  # held while what was saved passes from one thread to the other


@dataclass(eq=False)
class Trail:
    """What this program has saved on a case, so that its own files are not taken for another's.

    Attributes
    ----------
    outdated : list of dict
        The files that were replaced from here, by their hashes.
    latest : CaseResult or None
        With the files that were saved last.
    decisions : dict of int to Decision
        What they hold.
    """

    outdated: list[Mapping[str, str]] = field(default_factory=list)
    latest: CaseResult | None = None
    decisions: dict[int, Decision] = field(default_factory=dict)


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
    seen, saved_seen : bool
        Whether a person has looked at a case without findings, here and in its files.
    error : str
        Why the last try to save failed; empty if it did not.
    trail : Trail
    """

    case: CohortCase
    output: Path
    opened: CaseResult
    scan: Volume
    findings: ReviewedFindings
    saved: dict[int, Decision] = field(default_factory=dict)
    seen: bool = False
    saved_seen: bool = False
    error: str = ""
    trail: Trail = field(default_factory=Trail)

    @property
    def key(self) -> tuple[Path, str]:
        """The case, among those of all folders."""
        return self.output, self.case.name

    @property
    def unsaved(self) -> bool:
        """Whether there are decisions that the files do not hold."""
        return self.findings.decisions != self.saved or self.seen != self.saved_seen

    @property
    def none_found(self) -> bool:
        """Whether there is no finding to decide on."""
        marked = self.findings.marked
        return marked is None or not len(marked.findings)

    @property
    def progress(self) -> str:
        """How many findings are decided, in words."""
        marked = self.findings.marked
        total = 0 if marked is None else len(marked.findings)
        decided = sum(made.verdict is not None for made in self.findings.decisions.values())
        if not total:
            return "no findings, seen" if self.seen else "no findings"
        return f"{decided} of {total} decided"

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
        decisions, seen = dict(self.findings.decisions), self.seen
        try:
            result = save_decisions(self.output, self.case, decisions, self.opened, seen)
        except (AddmError, OSError) as error:
            self.error = str(error)
            return None
        with _passing:
            trail = self.trail
            trail.latest, trail.decisions = result, decisions
            trail.outdated.append(self.opened.files)
            self.saved, self.saved_seen = decisions, seen
            self.opened, self.error = result, ""
        return result

    def follow(self, trail: Trail) -> None:
        """Take what was saved from here while the files were being read."""
        self.trail = trail
        marked = self.findings.marked
        if trail.latest is not None and marked is not None and self.opened.files in trail.outdated:
            self.opened, self.saved = trail.latest, dict(trail.decisions)
            self.seen = self.saved_seen = trail.latest.seen
            self.findings = _reviewed(marked, self.saved)

    def describe_unsaved(self) -> str:
        """Say which decisions the files do not hold."""
        made = self.findings.decisions
        ids = sorted(id for id, each in made.items() if each != self.saved.get(id))
        ids += sorted(self.saved.keys() - made.keys())
        words = []
        for id in ids:
            each = made.get(id, UNDECIDED)
            note = f" ({each.note})" if each.note else ""
            words.append(f"finding {id}: {each.verdict or 'open'}{note}")
        if self.seen != self.saved_seen:
            words.append("seen, no findings" if self.seen else "not seen")
        return "; ".join(words)


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
        self._left: dict[tuple[Path, str], CaseReview] = {}
        self._trails: dict[tuple[Path, str], Trail] = {}

    def show(self, review: CaseReview | None) -> str:
        """Go to another case, or to none.

        What could not be saved when the case was open before is taken up again, unless somebody
        else has replaced it.

        Returns
        -------
        str
            What is lost, in words; empty for nothing.
        """
        with _passing:
            return self._show(review)

    def _show(self, review: CaseReview | None) -> str:
        before = self.current
        if before is not None and before.unsaved:
            before.error = ""  # one more try
            self._left[before.key] = before
        self.current, lost = review, ""
        if review is None:
            return lost
        review.follow(self._trails.get(review.key, review.trail))
        self._trails[review.key] = review.trail
        kept = self._left.pop(review.key, None)
        if kept is not None and kept.unsaved:
            if kept.opened.files == review.opened.files:
                self.current = kept
            else:
                lost = texts.DECISIONS_LOST.format(review.case.name, kept.describe_unsaved())
        return lost

    def next_to_save(self) -> CaseReview | None:
        """Find a review with decisions that are not saved, and did not fail to be."""
        self._left = {key: each for key, each in self._left.items() if each.unsaved}
        return next((each for each in self._all() if each.unsaved and not each.error), None)

    def close(self) -> list[str]:
        """Save all at once, as nobody will later.

        Returns
        -------
        list of str
            What could not be saved, in words.
        """
        lost = []
        if self.saving is not None:
            self.saving.wait(SAVING_SECONDS)
        for review in self._all():
            if review.unsaved and review.save() is None:
                words = texts.DECISIONS_NOT_SAVED.format(review.case.name, review.error)
                lost.append(f"{words} They were: {review.describe_unsaved()}")
            with suppress(AddmError):
                review.refresh_page()
        self.current, self._left = None, {}
        return lost

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
    reviewed = _reviewed(marked, record.decisions)
    saved = dict(reviewed.decisions)
    return CaseReview(case, output, result, scan, reviewed, saved, record.seen, record.seen)


def _reviewed(marked: LabelledFindings, decisions: Decisions) -> ReviewedFindings:
    """Findings with saved decisions, the largest one selected."""
    decided = tuple(Decided(marked.voxels(id), made) for id, made in decisions.items())
    reviewed = ReviewedFindings(DecisionHistory(decided))
    reviewed.show(marked)
    findings = marked.findings
    if len(findings):
        reviewed.selected = int(findings.id[np.argmax(findings.volume_ml)])
    return reviewed


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
    """Find the next (1) or the previous (-1) finished case of a list; None at its end.

    Parameters
    ----------
    shown : sequence of str
        Names of the cases in their order.
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
