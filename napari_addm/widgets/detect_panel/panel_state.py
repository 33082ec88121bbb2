"""What the panel 'Detect anomalies' shows and allows. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.io.remarks import Kind, Remark, of_kind
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.state import (
    Idle,
    Marking,
    Outcome,
    Preparing,
    Running,
    RunState,
    ScanReview,
)

if TYPE_CHECKING:
    from napari_addm.widgets.detect_panel.run import RunRequest


class ScanLayer(Protocol):
    """What the controller asks of a scan's layer, which it holds weakly."""

    @property
    def unique_id(self) -> Hashable:
        """Stays the same when the layer is renamed."""

    def __hash__(self) -> int: ...


class Title(NamedTuple):
    """How a scan is called: on screen, in the layer list, and in files and figures."""

    plain: str
    quoted: str
    layer: str = ""
    in_files: str = ""


@dataclass(frozen=True)
class OpenScans:
    """What the viewer holds.

    Attributes
    ----------
    titles : mapping of hashable to Title
        Of all scans that may be chosen, by the `unique_id` of their layers.
    several : bool
        Whether there is more than one brain scan.
    with_results : frozenset of hashable
        `unique_id` of the scans that have result layers, from whichever panel.
    """

    titles: Mapping[Hashable, Title]
    several: bool = False
    with_results: frozenset[Hashable] = frozenset()


@dataclass(frozen=True)
class Headings:
    """What the panel's headings and its Run button say.

    Attributes
    ----------
    scan, findings, save : str
        Empty for a section that is about no scan.
    run, run_tip : str
    other : str
        Which scan the last result belongs to, if that is not the chosen one.
    remarks : tuple of Remark
        What a person has to know about the result that is shown.
    """

    scan: str
    findings: str
    save: str
    run: str
    run_tip: str
    other: str
    remarks: tuple[Remark, ...]


class PanelState:
    """The run, the chosen scan and the reviews, and what follows from them.

    Each scan has a review of its own, for as long as its layer lives.

    Attributes
    ----------
    run : RunState
    specification : ModelSpecification or None
        Of the chosen checkpoint; None if it cannot be read.
    opened : OpenScans
    scan_id : hashable or None
        `unique_id` of the chosen scan's layer.
    """

    def __init__(self) -> None:
        self._reviews: WeakKeyDictionary[ScanLayer, ScanReview] = WeakKeyDictionary()
        self._review = ScanReview(Marking())
        self._last: ScanReview | None = None  # the review with the outcome that came last
        self.run: RunState = Idle()
        self.specification: ModelSpecification | None = None
        self.opened = OpenScans({})
        self.scan_id: Hashable | None = None

    @property
    def outcome(self) -> Outcome | None:
        """The outcome that is shown: the chosen scan's; without a chosen scan the last one."""
        return self._review.outcome

    @property
    def marking(self) -> Marking:
        """The threshold, and what goes with it, of the outcome that is shown."""
        return self._review.marking

    def is_done(self, request: RunRequest, index: int) -> bool:
        """Whether a run has done a slice of the scan just as a request would."""
        outcome = self.outcome
        return (
            outcome is not None
            and outcome.detection is not None
            and not outcome.preview
            and outcome.asked_for == request.without_slices
            and bool(outcome.detection.done[index])
        )

    def _title(self, scan_id: Hashable | None) -> Title:
        return self.opened.titles.get(scan_id, Title("", ""))

    def _rename(self) -> None:
        """Call each result as its scan's layer is called now."""
        for review in self._reviews.values():
            outcome = review.outcome
            title = None if outcome is None else self.opened.titles.get(outcome.scan_id)
            if outcome is not None and title is not None and title.layer:
                outcome.title, outcome.name = title.layer, title.in_files

    # --- what is allowed -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return isinstance(self.run, Preparing)

    @property
    def why_not_run(self) -> str:
        """Why Run cannot be pressed; empty if it can."""
        if self.running:
            return texts.RUN_GOES_ON
        if self.scan_id is None:
            return texts.NO_SCAN
        return texts.NO_CHECKPOINT if self.specification is None else ""

    @property
    def may_cancel(self) -> bool:
        """Whether a run goes on that nobody has cancelled yet."""
        return isinstance(self.run, Preparing) and not self.run.request.cancelled.is_set()

    @property
    def why_not_save(self) -> str:
        """Why the outcome cannot be saved; empty if it can."""
        outcome = self.outcome
        if outcome is None or outcome.detection is None:
            return texts.NO_RESULT
        if outcome.misfit:
            return outcome.misfit
        if isinstance(self.run, Preparing) and self.run.request.scan_id == outcome.scan_id:
            return texts.RUN_GOES_ON
        return texts.PREVIEW_NOT_SAVED if outcome.preview else ""

    @property
    def grows(self) -> bool:
        """Whether a run still adds to the outcome that is shown."""
        return isinstance(self.run, Running) and self.run.outcome is self.outcome

    @property
    def comparable(self) -> Outcome | None:
        """The outcome, if it may be compared with a ground truth of the chosen scan."""
        outcome = self.outcome
        if outcome is None or outcome.scan_id != self.scan_id or self.grows or outcome.misfit:
            return None
        return outcome

    @property
    def result_kept(self) -> bool:
        """Whether there are findings to save, in mL and mm that still hold."""
        outcome = self.outcome
        return outcome is not None and outcome.marked is not None and not outcome.misfit

    @property
    def findings_shown(self) -> bool:
        """Whether there are such findings, and layers that show where they are."""
        return self.result_kept and not self._all_closed

    @property
    def _all_closed(self) -> bool:
        """Whether neither a scan is open nor a layer of the outcome."""
        outcome, opened = self.outcome, self.opened
        return not opened.titles and (outcome is None or outcome.scan_id not in opened.with_results)

    @property
    def headings(self) -> Headings:
        """What the headings and the Run button say."""
        outcome, title = self.outcome, self._title(self.scan_id).plain
        found = ""
        if outcome is not None:
            found = self._title(outcome.scan_id).plain or outcome.title
        tips = (texts.RUN_IS_ON.format(title) if title else "", texts.RUN.tip)
        return Headings(
            scan=title and texts.SCAN_NAMED.format(title),
            findings=found and texts.FINDINGS_NAMED.format(found),
            save=found and texts.SAVE_NAMED.format(found),
            run=texts.RUN_NAMED.format(title) if title and self.opened.several else texts.RUN.label,
            run_tip="\n".join(filter(None, tips)),
            other=self._other_scan(),
            remarks=self._remarks(),
        )

    def _remarks(self) -> tuple[Remark, ...]:
        """Those of the outcome; while it grows the alarms alone, which cannot wait."""
        if self.outcome is None or self._all_closed:
            return ()
        remarks = self.outcome.remarks
        return tuple(of_kind(Kind.ALARM, remarks)) if self.grows else remarks

    def _other_scan(self) -> str:
        """Where the last result is, if it is not the one shown; or what is wrong with that."""
        outcome, last = self.outcome, None if self._last is None else self._last.outcome
        if outcome is not None:
            return outcome.misfit or self._closed(outcome)
        words = []
        if last is not None:
            title = self._title(last.scan_id).quoted
            words.append(self._closed(last) or texts.OTHER_SCAN.format(title))
        if self.scan_id in self.opened.with_results:
            words.append(texts.RESULTS_SHOWN)
        return " ".join(words)

    def _closed(self, outcome: Outcome) -> str:
        if outcome.scan_id in self.opened.titles:
            return ""
        words = texts.ALL_CLOSED if self._all_closed else texts.CLOSED_SCAN
        return words.format(outcome.title)
