"""What a person decides on findings, and how it survives a threshold that moves; free of Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_addm.findings.decisions import UNDECIDED, Decision
from napari_addm.review.marking import LabelledFindings

# A decision holds for a finding whose Dice with the voxels that were decided on is at least this.
SAME_FINDING = 0.5


@dataclass(frozen=True, eq=False)
class Decided:
    """A decision, and the voxels that it was made on: flat indices, in rising order."""

    voxels: np.ndarray
    decision: Decision


def decisions_of(marked: LabelledFindings, decided: Sequence[Decided]) -> dict[int, Decision]:
    """Find the decisions that hold for the findings under the present threshold, by their numbers.

    A decision holds for the finding that shares the most voxels with the one that it was made
    on, provided that their Dice is `SAME_FINDING` or more. A finding that outgrows the decision,
    or shrinks to a fraction, is open again until the threshold comes back. If two decisions hold
    for one finding, the better overlap wins, and of equal overlaps the later decision; `decided`
    has the oldest first.
    """
    best: dict[int, tuple[float, Decision]] = {}
    for made, (id, dice) in zip(decided, _matches(marked, decided), strict=True):
        if id and dice >= best.get(id, (0.0, UNDECIDED))[0]:
            best[id] = dice, made.decision
    return {id: decision for id, (_, decision) in best.items()}


def decide(
    marked: LabelledFindings, decided: Sequence[Decided], id: int, decision: Decision
) -> tuple[Decided, ...]:
    """Add a decision on a finding, which replaces the finding's earlier ones.

    An empty decision takes the earlier ones back; `decided` has the oldest first.
    """
    matches = _matches(marked, decided)
    others = tuple(made for made, match in zip(decided, matches, strict=True) if match[0] != id)
    return (*others, Decided(marked.voxels(id), decision)) if decision else others


def _matches(marked: LabelledFindings, decided: Sequence[Decided]) -> list[tuple[int, float]]:
    """For each decision, the number of the finding that it holds for (0 for none), and the Dice."""
    labels, findings = marked.labels.ravel(), marked.findings
    matches = []
    for made in decided:
        ids, shared = np.unique(labels[made.voxels], return_counts=True)
        ids, shared = ids[ids != 0], shared[ids != 0]
        dice = 0.0
        if ids.size:
            nearest = int(np.argmax(shared))
            size = findings.voxels[np.searchsorted(findings.id, ids[nearest])]
            dice = 2 * float(shared[nearest]) / float(made.voxels.size + size)
        matches.append((int(ids[nearest]), dice) if dice >= SAME_FINDING else (0, dice))
    return matches


@dataclass(frozen=True, eq=False)
class _Step:
    """The decisions after one step; a note that is still being written is `unfinished`."""

    decided: tuple[Decided, ...]
    finding: int | None = None
    unfinished: bool = False


class DecisionHistory:
    """All decisions on the findings of one scan, with undo and redo.

    Parameters
    ----------
    decided : tuple of Decided
        Those of an earlier time, which undo does not take back.
    """

    def __init__(self, decided: tuple[Decided, ...] = ()) -> None:
        self._steps = [_Step(decided)]
        self._at = 0

    @property
    def decided(self) -> tuple[Decided, ...]:
        """The decisions that hold now, the oldest first."""
        return self._steps[self._at].decided

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a step that was taken back."""
        return self._at < len(self._steps) - 1

    def add(
        self, decided: tuple[Decided, ...], finding: int | None = None, unfinished: bool = False
    ) -> None:
        """Add a step; it joins an unfinished one on the same finding.

        Parameters
        ----------
        decided : tuple of Decided
            All decisions after the step.
        finding : int, optional
            Number of the finding that was decided on; None for several.
        unfinished : bool
            Whether its note is still being written.
        """
        last = self._steps[self._at]
        if not (last.unfinished and last.finding == finding):
            self._at += 1
        self._steps[self._at :] = [_Step(decided, finding, unfinished)]

    def finish(self) -> None:
        """Finish the last step: the next one on the same finding is a step of its own."""
        self._steps[self._at] = replace(self._steps[self._at], unfinished=False)

    def discard(self) -> None:
        """Take an unfinished step back for good."""
        if self._steps[self._at].unfinished:
            del self._steps[self._at :]
            self._at -= 1

    def undo(self) -> None:
        """Take the last step back, if there is one."""
        self._at = max(self._at - 1, 0)

    def redo(self) -> None:
        """Repeat the step that was taken back last, if there is one."""
        self._at = min(self._at + 1, len(self._steps) - 1)


class ReviewedFindings:
    """The findings of one scan under a threshold, and a person's decisions on them.

    Attributes
    ----------
    marked : LabelledFindings or None
        None until there is a result.
    decisions : dict of int to Decision
        On the findings in `marked`, by their numbers.
    selected : int or None
        Number of the finding that a person looks at. It stays while the threshold hides it.
    """

    def __init__(self, history: DecisionHistory | None = None) -> None:
        self.history = DecisionHistory() if history is None else history
        self.marked: LabelledFindings | None = None
        self.decisions: dict[int, Decision] = {}
        self.selected: int | None = None

    @property
    def rejected(self) -> set[int]:
        """Numbers of the findings that are rejected."""
        return {id for id, made in self.decisions.items() if made.verdict == "rejected"}

    @property
    def highest(self) -> int:
        """The highest number of a finding; 0 without findings."""
        return 0 if self.marked is None else int(np.max(self.marked.findings.id, initial=0))

    def has(self, id: int | None) -> bool:
        """Whether a finding is there under the present threshold."""
        return self.marked is not None and id is not None and id in self.marked.findings.id

    def decision_on(self, id: int | None) -> Decision:
        """The decision on a finding."""
        return UNDECIDED if id is None else self.decisions.get(id, UNDECIDED)

    def show(self, marked: LabelledFindings) -> None:
        """Take other findings of the same scan, and find the decisions that hold for them."""
        self.marked = marked
        self._follow()

    def decide(self, id: int, decision: Decision, *, unfinished: bool = False) -> bool:
        """Decide on a finding; an empty decision takes the earlier one back.

        While a note is `unfinished`, the next step on the finding joins this one.

        Returns
        -------
        bool
            False if the finding is not there, or the decision is no other than before.
        """
        if self.marked is None or not self.has(id) or decision == self.decision_on(id):
            return False
        after = decide(self.marked, self.history.decided, id, decision)
        self.history.add(after, id, unfinished)
        self._follow()
        return True

    def add(self, decided: tuple[Decided, ...]) -> None:
        """Add decisions that were made at another time, as one step."""
        if decided:
            self.history.add((*self.history.decided, *decided))
            self._follow()

    def discard(self) -> None:
        """Take a note back that is still being written."""
        self.history.discard()
        self._follow()

    def undo(self) -> None:
        """Take the last decision back."""
        self.history.undo()
        self._follow()

    def redo(self) -> None:
        """Repeat the decision that was taken back last."""
        self.history.redo()
        self._follow()

    def _follow(self) -> None:
        if self.marked is not None:
            self.decisions = decisions_of(self.marked, self.history.decided)
