"""A review that was saved before, read back from its run record; free of Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_addm.detection.pipeline import Detection
from napari_addm.errors import InputError
from napari_addm.findings.decisions import Decision
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_labels
from napari_addm.io.volume import Volume
from napari_addm.outputs.record import RunRecord, read_record
from napari_addm.review.decisions import Decided

# The settings that change the findings, in words. The device, for example, is none of them.
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
        Verdicts and notes, by the numbers in `labels`.
    threshold, minimum_ml : float
        Under which the findings were marked; the smallest finding in mL.
    corrected : bool
        Whether a person had edited the labels.
    differences : tuple of str
        How the run of the record differs from the present one, in words.
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


def match_numbers(saved: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Give findings the numbers that they have in saved labels.

    A person may have erased or painted any part of a finding. Each finding gets the number that
    most of its voxels have in the saved labels, and each number goes to one finding only.

    Parameters
    ----------
    saved, marked : ndarray of int, shape (S, A, R)
        Saved labels, and the findings as they are marked now; 0 = no finding.

    Returns
    -------
    ndarray of int64, shape (S, A, R)
        `marked` with other numbers. Saved numbers that belong to no finding keep their voxels
        beside the findings.
    """
    both = (saved != 0) & (marked != 0)
    base = int(marked.max(initial=0)) + 1  # one number for a pair: faster to sort
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
    """Read the review that a record holds, with the labels beside it.

    Parameters
    ----------
    scan : Volume
        The scan that the record has to belong to.
    detection : Detection
        The present result on the scan.
    model_sha256 : str
        Hash of the checkpoint that gave the present result.

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
    labels = _read_labels(path, record, scan)
    return SavedReview(
        decisions={id: decision for id, decision in record.decisions.items() if id > 0},
        threshold=record.threshold,
        minimum_ml=record.minimum_ml,
        labels=labels,
        corrected=record.labels.edited_voxels > 0,
        differences=_differences(record, detection, model_sha256),
    )


def _read_labels(path: Path, record: RunRecord, scan: Volume) -> Volume:
    """Read the labels beside a record, and check that they are the ones in the record."""
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


def describe_resumed(review: SavedReview, matched: int) -> str:
    """Say what was taken over from a saved review; `matched` decisions hold for a finding now."""
    total = len(review.decisions)
    words = f"{total or 'No'} decision{'' if total == 1 else 's'} of the record taken over"
    if matched < total:
        words += f" ({total - matched} on no finding of now)"
    words += ", with its threshold and smallest finding"
    if review.corrected:
        words += ", and its corrections"
    if review.differences:
        words += f". It was made with {', '.join(review.differences)}: findings may differ"
    return words
