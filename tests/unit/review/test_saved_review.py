"""A saved review: what is read back, what is refused, and how findings get their numbers again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import measure_findings
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume, volume_from_array
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case import write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.review.saved_review import (
    SavedReview,
    describe_resumed,
    match_numbers,
    read_review,
)

SHAPE = (8, 12, 10)
DECISIONS = {1: Decision("rejected", "a vessel"), 9: Decision(note="ask")}


@dataclass(frozen=True)
class Saved:
    """A review on disk, with what it was made of."""

    record: Path
    labels: Path
    scan: Volume
    detection: Detection
    checkpoint: Checkpoint

    def read(self, **others) -> SavedReview:
        """Read it for the very same result, but for what is given."""
        given = {
            "scan": self.scan,
            "detection": self.detection,
            "model_sha256": self.checkpoint.sha256,
        }
        return read_review(self.record, **given | others)


@pytest.fixture
def save_review(tmp_path: Path, tiny_checkpoint: Path, make_detection) -> Callable[..., Saved]:
    """``save_review(edit)``: two findings of which a person drew one, if `edit` is true."""

    def save(edit: bool = True) -> Saved:
        data = np.random.default_rng(0).uniform(1, 100, SHAPE).astype(np.float32)
        scan = read_volume(write_volume(tmp_path / "head.nii.gz", volume_from_array(data)))
        anomaly = np.zeros(SHAPE, np.float32)
        anomaly[2:5, 3:6, 2:7] = 0.5
        detection = make_detection(scan.with_data(anomaly))
        labels = (anomaly > 0.1).astype(np.int32)
        if edit:
            labels[6, 9, 5:9] = 9
        checkpoint = load_checkpoint(tiny_checkpoint)
        case = CaseOutputs(
            inputs=CaseInputs(scan),
            detection=detection,
            labels=labels,
            findings=measure_findings(labels, anomaly, scan),
            checkpoint=checkpoint,
            threshold=0.1,
            minimum_ml=0.001,
            decisions=DECISIONS,
        )
        paths = write_case(case, tmp_path / "out")
        return Saved(paths["record"], paths["labels"], scan, detection, checkpoint)

    return save


def test_a_review_is_read_as_it_was_saved(save_review) -> None:
    review = save_review().read()
    assert review.decisions == DECISIONS
    assert (review.threshold, review.minimum_ml) == (0.1, 0.001)
    assert review.corrected
    assert review.differences == ()
    assert (review.labels.data[6, 9, 5:9] == 9).all()
    decided = review.decided(review.labels.data)
    assert [made.decision for made in decided] == list(DECISIONS.values())
    assert_array_equal(decided[1].voxels, np.flatnonzero(review.labels.data == 9))
    words = "2 decisions of the record taken over"
    rest = ", with its threshold and smallest finding, and its corrections"
    assert describe_resumed(review, matched=2) == words + rest
    assert describe_resumed(review, matched=1) == f"{words} (1 on no finding of now){rest}"


def test_labels_that_nobody_edited_are_no_correction(save_review) -> None:
    review = save_review(edit=False).read()
    assert not review.corrected
    assert review.decisions == {1: DECISIONS[1]}
    assert describe_resumed(review, 1) == (
        "1 decision of the record taken over, with its threshold and smallest finding"
    )


def test_another_run_says_what_was_different(save_review) -> None:
    saved = save_review()
    detection = saved.detection
    done = np.ones(SHAPE[0], bool)
    done[3] = False
    mask = detection.brain_mask.data.copy()
    mask[0] = False
    other = replace(
        detection,
        settings=detection.settings.model_copy(
            update={"seed": 3, "draws": 2, "smoothing_mm": None, "symmetry": True, "device": "cuda"}
        ),
        brain_mask=detection.brain_mask.with_data(mask),
        done=done,
    )
    review = saved.read(detection=other, model_sha256="0" * 64)
    assert review.differences == (
        f"checkpoint {saved.checkpoint.path.name}",
        "another brain mask",
        "other slices",
        "left not compared with right",
        "seed 0",
        "draws 1",
        "smoothing 8",
    )
    words = describe_resumed(review, 2)
    assert "It was made with checkpoint" in words
    assert words.endswith("seed 0, draws 1, smoothing 8: findings may differ")


def other_scan(saved: Saved) -> dict[str, Volume]:
    return {"scan": saved.scan.with_data(saved.scan.data + 1)}


def edit_labels(saved: Saved) -> None:
    image = nib.load(saved.labels)
    data = np.asarray(image.dataobj).copy()
    data[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), saved.labels)


def move_labels(saved: Saved) -> None:
    image = nib.load(saved.labels)
    affine = image.affine.copy()
    affine[0, 3] += 2
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), saved.labels)


def delete_labels(saved: Saved) -> None:
    saved.labels.unlink()


def forget_labels(saved: Saved) -> None:
    record = json.loads(saved.record.read_text())
    del record["outputs"]["labels"]
    saved.record.write_text(json.dumps(record))


def empty_record(saved: Saved) -> None:
    saved.record.write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "words", "names"),
    [
        (other_scan, r"is of another scan \(head", "record"),
        (edit_labels, "was changed since .*_record.json was written", "labels"),
        (move_labels, "was changed since", "labels"),
        (delete_labels, "labels", "labels"),
        (
            forget_labels,
            "names no labels: choose the record of a run that was saved whole",
            "record",
        ),
        (empty_record, "is no run record", "record"),
    ],
)
def test_a_review_that_does_not_fit_is_refused(save_review, spoil, words, names) -> None:
    saved = save_review()
    others = spoil(saved) or {}
    with pytest.raises(AddmError, match=words) as refused:
        saved.read(**others)
    assert getattr(saved, names).name in str(refused.value)


def test_findings_get_the_numbers_that_most_of_their_voxels_had() -> None:
    saved = np.zeros((1, 2, 9), np.uint8)
    marked = np.zeros((1, 2, 9), np.int32)
    saved[0, 0] = [7, 7, 7, 0, 4, 4, 0, 3, 3]
    marked[0, 0] = [1, 1, 1, 0, 1, 2, 2, 0, 0]
    # the first has three voxels of 7 and one of 4; the second one of 4; nothing has 3
    assert match_numbers(saved, marked)[0, 0].tolist() == [7, 7, 7, 0, 7, 4, 4, 3, 3]
    # a number goes to the finding with the larger overlap, and no finding keeps one of its own
    saved[0, 0] = [5, 5, 5, 0, 5, 5, 0, 0, 0]
    marked[0, 0] = [2, 2, 2, 0, 1, 1, 0, 0, 3]
    assert match_numbers(saved, marked)[0, 0].tolist() == [5, 5, 5, 0, 0, 0, 0, 0, 0]
    assert match_numbers(marked, marked).tolist() == marked.tolist()
    assert not match_numbers(np.zeros_like(marked), np.zeros_like(marked)).any()
