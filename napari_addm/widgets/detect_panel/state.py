"""What a run gave, and how far it is. Free of Qt and napari."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.checkpoint.specification import FalseAlarmSpecification, ModelSpecification
from napari_addm.detection.midline import NO_MIDLINE, SIDES_FROM_MASK
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.quality import Quality
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import describe_none
from napari_addm.findings.regions import UNKNOWN
from napari_addm.io.remarks import Kind, Remark, by_weight, of_kind
from napari_addm.io.volume import GRID_OF_LAYER, UNKNOWN_SIDES, Volume
from napari_addm.review.agreement import Agreement
from napari_addm.review.decisions import ReviewedFindings
from napari_addm.review.marking import CachedLabeller, LabelledFindings, is_calibrated
from napari_addm.widgets import texts

if TYPE_CHECKING:
    from napari_addm.widgets.detect_panel.run import RunRequest, RunStarted
    from napari_addm.widgets.result_layers import ResultLayers

# The range of the slider, as a multiple of the checkpoint's threshold or of the present one.
DEFAULT_RANGE, BEYOND = 4.0, 1.2
LOWEST_RANGE = 1e-3
# Cautions that say nothing about false alarms.
ABOUT_SIDES = frozenset((UNKNOWN_SIDES, GRID_OF_LAYER, NO_MIDLINE, SIDES_FROM_MASK))


@dataclass(frozen=True)
class Marking:
    """Where findings begin: what the threshold section is set to.

    Attributes
    ----------
    specification : ModelSpecification or None
        Of the checkpoint whose defaults were set.
    threshold : float
    minimum_ml : float
        Volume of the smallest finding, mL.
    limit : float
        The highest threshold that the slider offers.
    """

    specification: ModelSpecification | None = None
    threshold: float = 0.0
    minimum_ml: float = 0.0
    limit: float = 1.0

    @classmethod
    def default(cls, specification: ModelSpecification) -> Marking:
        """The defaults of a checkpoint."""
        default = specification.detection
        limit = max(DEFAULT_RANGE * default.threshold, LOWEST_RANGE)
        return cls(specification, default.threshold, default.minimum_ml, limit)

    def at(self, threshold: float) -> Marking:
        """The same with another threshold, which the slider can reach."""
        limit = self.limit if threshold <= self.limit else BEYOND * threshold
        return replace(self, threshold=threshold, limit=limit)

    def reach(self, highest: float) -> Marking:
        """The same with a slider that ends at the highest score of a map."""
        return replace(self, limit=max(highest, BEYOND * self.threshold, LOWEST_RANGE))

    def false_alarms(self, detection: Detection | None) -> FalseAlarmSpecification | None:
        """The checkpoint's curve of false alarms; None if it was not measured, or does not hold."""
        if self.specification is None:
            return None
        holds = detection is None or is_calibrated(detection, self.minimum_ml)
        return self.specification.detection.false_alarms if holds else None

    @property
    def measured(self) -> bool:
        """Whether false alarms were measured for the checkpoint."""
        return self.false_alarms(None) is not None

    def promise(self, detection: Detection | None) -> str:
        """What the threshold marks in a healthy brain, in words; empty if nobody measured it."""
        alarms = self.false_alarms(detection)
        if alarms is not None:
            return f"{alarms.in_words(self.threshold)} {texts.IN_HEALTHY} {alarms.brains}"
        return texts.UNCALIBRATED if self.measured else ""


@dataclass(eq=False)
class Outcome:
    """What a run, or previews, gave on a scan, and a person's review of it.

    Attributes
    ----------
    layers : ResultLayers
    checkpoint : Checkpoint
        Without its weights.
    mask_path : Path or None
        File of the brain mask that was chosen.
    name : str
        Of the scan's layer, without its folder: for files and figures.
    title : str
        Of the scan's layer: for the screen.
    scan_id : hashable
        `unique_id` of the scan's layer.
    asked_for : hashable
        Identifies the request, whichever slices it asked for.
    mask_given : bool
        Whether a brain mask was chosen; a layer may have no file.
    findings : ReviewedFindings
    detection : Detection or None
        The last result; partial while the run goes on.
    labeller : CachedLabeller or None
        Of `detection`.
    agreement : Agreement or None
        With the chosen ground truth.
    truth_path : Path or None
        File of that ground truth.
    truth_notes : tuple of str
        Warnings of that ground truth.
    quality : Quality or None
        How the scan differs from those of the training, as far as it is known.
    preview : bool
        Whether it is put together from previews, which no record could repeat.
    """

    layers: ResultLayers
    checkpoint: Checkpoint
    mask_path: Path | None
    name: str
    title: str = ""
    scan_id: Hashable = None
    asked_for: Hashable = None
    mask_given: bool = False
    findings: ReviewedFindings = field(default_factory=ReviewedFindings)
    detection: Detection | None = None
    labeller: CachedLabeller | None = None
    agreement: Agreement | None = None
    truth_path: Path | None = None
    truth_notes: tuple[str, ...] = ()
    quality: Quality | None = None
    preview: bool = False

    @property
    def marked(self) -> LabelledFindings | None:
        """The findings under the present threshold."""
        return self.findings.marked

    @property
    def decisions(self) -> Mapping[int, Decision]:
        """A person's decisions on the findings in `marked`, by their numbers."""
        return self.findings.decisions

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What a person has to know about the result, the heaviest first."""
        flags = self.quality.remarks if self.quality else ()
        return by_weight((*self.detection.warnings, *flags)) if self.detection else ()

    @property
    def why_no_promise(self) -> str:
        """Why false alarms in healthy brains say nothing about this scan; empty if they do."""
        remarks = self.remarks
        if of_kind(Kind.ALARM, remarks):
            why = "alarm"
        elif self.quality and self.quality.unlike_training:
            why = "flag"
        elif not self._harmless.issuperset(of_kind(Kind.CAUTION, remarks)):
            why = "caution"
        else:
            return ""
        return texts.NO_PROMISE.format(texts.NO_PROMISE_WHY[why])

    @property
    def _harmless(self) -> frozenset[str]:
        """Cautions that say nothing about false alarms in this scan."""
        covered = self.quality.covered if self.quality else ()
        return ABOUT_SIDES.union(flag.message for flag in covered)

    @property
    def is_whole(self) -> bool:
        """Whether all slices are done, as in the brains whose false alarms were measured."""
        return self.detection is None or bool(self.detection.done.all())

    @property
    def scan(self) -> Volume:
        """The scan."""
        return self.layers.volume.volume

    @property
    def misfit(self) -> str:
        """Why places, sizes and voxels of the result no longer hold; empty while they do."""
        misfit, layer = self.layers.misfit, self.layers.scan_layer
        name = self.name if layer is None else layer.name
        return texts.MISFITS[misfit].format(name) if misfit else ""

    def is_marked(self, marking: Marking) -> bool:
        """Whether `marked` are the findings under a threshold."""
        marked = self.marked
        return marked is not None and (marked.threshold, marked.minimum_ml) == (
            marking.threshold,
            marking.minimum_ml,
        )

    def label(self, marking: Marking) -> LabelledFindings:
        """Label the findings of the result, which has to be there, under a threshold."""
        self.findings.show(self._labeller().label(marking.threshold, marking.minimum_ml))
        assert self.marked is not None
        return self.marked

    def renumber(self, labels: np.ndarray) -> None:
        """Give the findings of the result, which has to be there, the numbers of other labels."""
        self._labeller().renumber(labels)

    def _labeller(self) -> CachedLabeller:
        assert self.detection is not None
        if self.labeller is None or self.labeller.detection is not self.detection:
            self.labeller = CachedLabeller(self.detection)
        return self.labeller

    @property
    def stem(self) -> str:
        """How saved files are named: as the scan's file, or as its layer if that is renamed."""
        source = self.scan.source
        if source.series or (source.path is not None and self.name.startswith(self.scan.name)):
            return self.scan.name
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        return name.strip(".") or self.scan.name


def describe_count(outcome: Outcome) -> str:
    """Say how many findings there are, their volume, and where the largest is.

    Once findings are rejected, it says what is left without them.
    """
    marked, detection = outcome.marked, outcome.detection
    if marked is None or detection is None:
        return ""
    findings = marked.findings
    if not len(findings):
        words = describe_none(marked.minimum_ml)
        if detection.done.sum() == 1:
            area = 1000 * marked.minimum_ml / detection.anomaly.spacing[0]
            words += f" In one slice {marked.minimum_ml:.2f} mL are {area:.0f} mm²."
        return words
    words = f"{describe_number(outcome)}, {_volume(findings.total_ml)}"
    rejected = list(outcome.findings.rejected)
    if rejected:
        left = findings.total_ml - findings.volume_ml[np.isin(findings.id, rejected)].sum()
        return f"{words}; {_volume(max(left, 0.0))} without the {len(rejected)} rejected"
    largest = findings[int(findings.volume_ml.argmax())]
    # Smaller parts of the region stand in the table.
    region = largest.region_in_words.partition(";")[0].removeprefix("about the ")
    where = region if region and largest.region != UNKNOWN else largest.side
    if len(findings) == 1:
        return f"{words}: {where}" if where else words
    return f"{words}; largest: {f'{where}, ' if where else ''}{_volume(largest.volume_ml)}"


def describe_number(outcome: Outcome) -> str:
    """Say how many findings there are."""
    total = 0 if outcome.marked is None else len(outcome.marked.findings)
    return f"{total or 'No'} finding{'' if total == 1 else 's'}"


def _volume(ml: float) -> str:
    return f"{ml:.{0 if ml >= 10 else 1}f}\N{NO-BREAK SPACE}mL"


@dataclass(eq=False)
class ScanReview:
    """What a person has set and sees of one scan.

    Attributes
    ----------
    marking : Marking
        Replaced as a whole, so that any thread may read it.
    outcome : Outcome or None
    """

    marking: Marking
    outcome: Outcome | None = None

    def goes_on(self, request: RunRequest) -> bool:
        """Whether a preview's result belongs to the outcome that is shown."""
        return self.outcome is not None and self.outcome.asked_for == request.without_slices


# --- a run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Idle:
    """No run yet."""


@dataclass(frozen=True)
class Preparing:
    """Run was pressed, and there is no result yet: an earlier outcome stays.

    Attributes
    ----------
    request : RunRequest
    review : ScanReview
        Of the request's scan.
    since : float
        When Run was pressed, s.
    started : RunStarted or None
        What was read; None until then.
    error : str
        Why the run ends, if it failed.
    """

    request: RunRequest
    review: ScanReview
    since: float
    started: RunStarted | None = None
    error: str = ""


@dataclass(frozen=True)
class Running(Preparing):
    """There is a result.

    Attributes
    ----------
    whole : bool
        Whether it is the last one, of all slices that were asked for.
    """

    whole: bool = False

    @property
    def outcome(self) -> Outcome:
        """The outcome that the run makes."""
        assert self.review.outcome is not None
        return self.review.outcome


@dataclass(frozen=True)
class Done:
    """A run gave all that it was asked for.

    Attributes
    ----------
    outcome : Outcome
    seconds : float
        Since Run was pressed.
    """

    outcome: Outcome
    seconds: float

    @property
    def whole_volume(self) -> bool:
        """Whether the volume was asked for, and not some of its slices."""
        detection = self.outcome.detection
        return detection is not None and detection.settings.slices is None


@dataclass(frozen=True)
class Failed:
    """A run ended with an error before its first result.

    Attributes
    ----------
    message : str
    """

    message: str


@dataclass(frozen=True)
class Cancelled:
    """A run ended before it was done.

    Attributes
    ----------
    outcome : Outcome or None
        What was finished.
    seconds : float
        Since Run was pressed.
    by_person : bool
        Whether Cancel was pressed; napari ends jobs when it closes a window, for example.
    """

    outcome: Outcome | None
    seconds: float
    by_person: bool


RunState = Idle | Preparing | Running | Done | Failed | Cancelled


def ended(run: Preparing, now: float) -> Done | Failed | Cancelled:
    """The state that follows when the job of a run has ended, `now` in s."""
    seconds = now - run.since
    outcome = run.outcome if isinstance(run, Running) else None
    if outcome is not None and isinstance(run, Running) and run.whole:
        return Done(outcome, seconds)
    if run.error and outcome is None:
        return Failed(run.error)
    return Cancelled(outcome, seconds, run.request.cancelled.is_set())
