"""The result that is shown compared with an earlier one, in another thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from napari_addm.findings.decisions import Decision
from napari_addm.findings.matching import count_kinds
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume
from napari_addm.outputs.record import SHORT
from napari_addm.outputs.two_dates import TwoDates, compare_dates, read_result, result_of
from napari_addm.review.marking import LabelledFindings
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.save import case_outputs
from napari_addm.widgets.detect_panel.state import Outcome

STEPS = 4
"""How many steps `compare` tells of."""


@dataclass(frozen=True, eq=False)
class EarlierResult:
    """Which earlier result the outcome is compared with.

    Attributes
    ----------
    outcome : Outcome
        As it is shown.
    record : Path
        The earlier run record, or its folder.
    scan : Path or None
        Where the earlier scan is, if not beside the record.
    found : TwoDates or None
        A comparison of the same two scans.
    """

    outcome: Outcome
    record: Path
    scan: Path | None = None
    found: TwoDates | None = None


@dataclass(frozen=True)
class Step:
    """What the comparison does now."""

    done: int
    words: str


@dataclass(frozen=True, eq=False)
class Compared:
    """Two dates compared, and what of it is shown.

    Attributes
    ----------
    marked, decisions
        What was compared.
    places : tuple of (int, int, int) or None
        For each change a voxel (s, a, r) of the later scan; None beyond its grid.
    moved : dict of str to Volume
        The earlier scan and its findings on the later scan's grid, as ``scan`` and ``labels``;
        empty where they are shown already, or would lie at a wrong place.
    """

    asked: EarlierResult
    marked: LabelledFindings | None
    decisions: dict[int, Decision]
    found: TwoDates
    places: tuple[tuple[int, int, int] | None, ...]
    moved: dict[str, Volume]

    @property
    def holds(self) -> bool:
        """Whether findings and decisions of the outcome are still those that were compared."""
        outcome = self.asked.outcome
        return outcome.marked is self.marked and dict(outcome.decisions) == self.decisions


def compare(
    asked: EarlierResult, frozen: Outcome, labels: np.ndarray | None
) -> Iterator[Step | Compared]:
    """Compare; a generator for a job.

    Parameters
    ----------
    asked : EarlierResult
    frozen : Outcome
        A copy of its outcome with the decisions of now.
    labels : ndarray of int, shape (S, A, R), or None
        The findings as their layer shows them.
    """
    known = asked.found
    if known is None:
        yield Step(0, texts.EARLIER_STEPS[0])
        before = read_result(asked.record, asked.scan, f"'{texts.EARLIER_SCAN.label}'")
    else:
        before = known.before
    yield Step(1, texts.EARLIER_STEPS[1])
    after = result_of(case_outputs(frozen, labels))
    found = compare_dates(before, after, None if known is None else known.registration)
    yield Step(2, texts.EARLIER_STEPS[2])
    matched = found.changes is not None
    moved = found.earlier_on_later() if matched and known is None else {}
    yield Step(3, texts.EARLIER_STEPS[2])
    places = tuple(_places(found))
    yield Compared(asked, frozen.marked, dict(frozen.decisions), found, places, moved)


def _places(found: TwoDates) -> Iterator[tuple[int, int, int] | None]:
    """For each change a voxel of the later scan's grid, in the middle of the finding."""
    grid = found.after.scan
    to_grid = np.linalg.inv(grid.affine)
    dates = (
        (found.before, to_grid @ found.registration.matrix @ found.before.scan.affine),
        (found.after, np.eye(4)),
    )
    boxes = [ndimage.find_objects(result.labels.data) for result, _ in dates]
    for change in found.changes or ():
        later = bool(change.after)
        id = (change.after or change.before)[0]
        result, matrix = dates[later]
        box = boxes[later][id - 1]
        index = np.argwhere(result.labels.data[box] == id) + [part.start for part in box]
        apart = np.linalg.norm((index - index.mean(axis=0)) * result.scan.spacing, axis=1)
        there = nib.affines.apply_affine(matrix, index[apart.argmin()])
        s, a, r = (int(n) for n in np.rint(there))
        inside = all(0 <= n < size for n, size in zip((s, a, r), grid.shape, strict=True))
        yield (s, a, r) if inside else None


def describe_comparison(found: TwoDates) -> str:
    """Say with what was compared, and how many changes of each kind there are."""
    record, words = found.before.record, []
    for kind, count in count_kinds(found.changes or ()).items():
        if count:
            words.append(f"{count} {kind}")
    if found.changes is not None and not words:
        words.append("neither scan has a finding")
    name = printable(record.input.name or "a layer without a file", SHORT)
    place = "" if found.before.path is None else f" in {found.before.path.parent.name}"
    brackets = f" (saved {record.created_utc[:10]}{place})" if record.created_utc else place
    return f"Compared with {name}{brackets}" + (": " if words else "") + ", ".join(words)
