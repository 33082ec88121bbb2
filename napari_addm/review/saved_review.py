"""A review that was saved before, read back from its run record.

Free of Qt and napari.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_addm.detection.pipeline import Detection
from napari_addm.errors import InputError
from napari_addm.findings.findings import Decision
from napari_addm.io.images import read_labels
from napari_addm.io.volume import Volume
from napari_addm.outputs.record import RunRecord, read_record, voxels_sha256
from napari_addm.review.review import Decided

# What decides about the findings, in a person's words; not how fast they came.
SETTINGS = {
    "level": "noise level",
    "steps": "steps",
    "sampler": "sampler",
    "eta": "eta",
    "seed": "seed",
    "draws": "draws",
    "score": "score",
    "smoothing_mm": "smoothing",
}


@dataclass(frozen=True, eq=False)
class SavedReview:
    """What a person left in a record and its labels.

    Attributes
    ----------
    decisions : dict of int to Decision
        And notes, by the numbers in `labels`.
    threshold, minimum_ml : float
        Under which the findings were marked.
    labels : Volume of int
        The findings.
    corrected : bool
        Whether a person had edited them.
    differences : tuple of str
        What the run was made with that the present result was not, in words.
    """

    decisions: dict[int, Decision]
    threshold: float
    minimum_ml: float
    labels: Volume
    corrected: bool
    differences: tuple[str, ...]

    def decided(self, labels: np.ndarray) -> tuple[Decided, ...]:
        """The decisions, on the voxels that the findings have in some labels (S, A, R)."""
        return tuple(
            Decided(np.flatnonzero(labels == id), decision)
            for id, decision in self.decisions.items()
        )


def on_findings(saved: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Findings as they are marked, with the numbers that a person's labels have for them.

    Of each finding a person may have erased or painted any part: it has the number that most of it
    has, and a number is that of the finding that has most of it.

    Parameters
    ----------
    saved, marked : ndarray of int, shape (S, A, R)
        0 = no finding.

    Returns
    -------
    ndarray of int64, shape (S, A, R)
        Numbers that belong to no finding are where they were, beside the findings.
    """
    both = (saved != 0) & (marked != 0)
    base = int(marked.max(initial=0)) + 1  # a pair as one number: sorting these is quicker
    pairs = saved[both].astype(np.int64) * base + marked[both]
    pairs, shared = np.unique(pairs, return_counts=True)
    number_of: dict[int, int] = {}
    for at in np.argsort(-shared, kind="stable"):
        number, finding = divmod(int(pairs[at]), base)
        if finding not in number_of and number not in number_of.values():
            number_of[finding] = number
    placed = np.where(np.isin(saved, list(number_of.values())) | (marked != 0), 0, saved)
    placed = placed.astype(np.int64)
    for finding, number in number_of.items():
        placed[marked == finding] = number
    return placed


def read_review(path: Path, scan: Volume, detection: Detection, model_sha256: str) -> SavedReview:
    """Read the review that a record holds.

    Parameters
    ----------
    path : Path
        ``..._record.json``, with the labels beside it.
    scan : Volume
        Whose review it has to be.
    detection : Detection
        The present result of the scan.
    model_sha256 : str
        Of the checkpoint that gave it.

    Raises
    ------
    AddmError
        When record or labels cannot be read, belong to another scan, or not to each other.
    """
    record = read_record(path)
    if record.input.voxels_sha256 != voxels_sha256(scan.data):
        raise InputError(
            f"{path} is of another scan ({record.input.name or 'without a name'}) than the "
            f"findings that are shown: run the scan that it belongs to, or choose its own record."
        )
    labels = _labels(path, record, scan)
    decisions = {
        entry.id: Decision(entry.decision, entry.note)
        for entry in record.findings
        if entry.id > 0 and (entry.decision is not None or entry.note)
    }
    return SavedReview(
        decisions=decisions,
        threshold=record.threshold,
        minimum_ml=record.minimum_ml,
        labels=labels,
        corrected=record.labels.edited_voxels > 0,
        differences=_differences(record, detection, model_sha256),
    )


def _labels(path: Path, record: RunRecord, scan: Volume) -> Volume:
    """The labels beside a record, which have to be those that it tells of."""
    entry = record.outputs.get("labels")
    if entry is None or entry.name is None:
        raise InputError(
            f"{path} names no labels: choose the record of a run that was saved whole."
        )
    beside = path.parent / Path(entry.name).name
    labels = read_labels(beside)
    if not labels.same_grid(scan) or voxels_sha256(labels.data) != entry.voxels_sha256:
        raise InputError(
            f"{beside} was changed since {path.name} was written: take the file as it was saved."
        )
    return labels


def _differences(record: RunRecord, detection: Detection, model_sha256: str) -> tuple[str, ...]:
    then, now = record.settings, detection.settings
    differences = []
    if record.checkpoint.sha256 != model_sha256:
        differences.append(f"checkpoint {record.checkpoint.file}")
    if record.brain_mask.voxels_sha256 != voxels_sha256(detection.brain_mask.data):
        differences.append("another brain mask")
    done = record.slices_done.indices
    here = None if detection.done.all() else tuple(np.flatnonzero(detection.done).tolist())
    single = then.slices is not None and now.slices is not None
    if done != here or (single and then.context_mm != now.context_mm):
        differences.append("other slices")
    if then.symmetry != now.symmetry:
        differences.append(f"left {'' if then.symmetry else 'not '}compared with right")
    for name, words in SETTINGS.items():
        value = getattr(then, name)
        if value != getattr(now, name):
            value = f"{value:g}" if isinstance(value, float) else value
            differences.append(f"{words} {'none' if value is None else value}")
    return tuple(differences)


def told(review: SavedReview, minimum_ml: float, there: int) -> str:
    """Say what was taken over.

    Parameters
    ----------
    review : SavedReview
    minimum_ml : float
        The smallest finding as it is now, which a field may have rounded.
    there : int
        How many of the decisions are on a finding.
    """
    many = len(review.decisions)
    words = f"{many or 'No'} decision{'' if many == 1 else 's'} of the record taken over"
    if there < many:
        words += f" ({many - there} on no finding of now)"
    words += ", with its threshold and smallest finding"
    if review.corrected:
        words += ", and its corrections"
    differences = list(review.differences)
    if abs(minimum_ml - review.minimum_ml) > 1e-9:
        differences.append(f"a smallest finding of {review.minimum_ml:g} mL")
    if differences:
        words += f". It was made with {', '.join(differences)}: findings may differ"
    return words
