"""Masks beside scans as their ground truth."""

from pathlib import Path

import numpy as np
import pytest

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.find import find_cohort
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

SIDE = 20
MM = 10.0


def write(path: Path, share: float | None = None, spacing: float = MM) -> None:
    """A scan; with a share, labels of so much of the image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).random((SIDE, SIDE, SIDE)).astype(np.float32)
    if share is not None:
        voxels = (np.arange(voxels.size).reshape(voxels.shape) < share * voxels.size).astype("u1")
    write_volume(path, volume_from_native(voxels, np.diag([spacing, spacing, spacing, 1.0])))


def found(folder: Path) -> dict[str, CohortCase]:
    return {case.name: case for case in find_cohort(folder, folder.parent / "out")}


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("t1", "mask"),
        ("t1", "lesion_mask"),
        ("anything", "mask"),
        ("s1", "s1_lesion"),
        ("s1_T1w-acq", "s1_T1w-acq_seg"),
        ("BraTS_001_t1", "BraTS_001_seg"),
    ],
)
def test_a_mask_beside_a_scan_is_its_truth(tmp_path: Path, scan: str, mask: str) -> None:
    home = tmp_path / "in" / "p1"
    write(home / f"{scan}.nii.gz")
    write(home / f"{mask}.nii.gz", 0.01)
    ((_, case),) = found(tmp_path / "in").items()
    assert (case.truth, case.truth_found) == (home / f"{mask}.nii.gz", True)


def test_each_of_several_scans_gets_its_own(tmp_path: Path) -> None:
    home = tmp_path / "in"
    for name in ("a_t1", "a_flair", "b"):
        write(home / f"{name}.nii.gz")
    for name in ("a_seg", "b_mask"):
        write(home / f"{name}.nii.gz", 0.01)
    truths = {name: case.truth and case.truth.name for name, case in found(home).items()}
    assert truths == {"a_t1": "a_seg.nii.gz", "a_flair": "a_seg.nii.gz", "b": "b_mask.nii.gz"}


@pytest.mark.parametrize("mask", ["t1_brain_mask", "brainmask", "t1_aseg", "other_mask"])
def test_other_masks_are_no_truth(tmp_path: Path, mask: str) -> None:
    write(tmp_path / "in" / "t1.nii.gz")
    write(tmp_path / "in" / f"{mask}.nii.gz", 0.01)
    assert found(tmp_path / "in")["t1"].truth is None


def test_a_mask_that_may_be_a_brains_is_no_truth(tmp_path: Path) -> None:
    for name, share, spacing in (("large", 0.1, MM), ("share", 0.3, 1.0), ("fits", 0.04, MM)):
        write(tmp_path / "in" / name / "t1.nii.gz", spacing=spacing)
        write(tmp_path / "in" / name / "mask.nii.gz", share, spacing)
    cases = found(tmp_path / "in")
    assert cases["fits/t1"].truth is not None
    assert (cases["large/t1"].truth, cases["share/t1"].truth) == (None, None)
    assert "of 800 mL: too large for the ground truth" in cases["large/mask"].skip


def test_own_findings_and_soft_maps_are_no_truth(tmp_path: Path) -> None:
    home = tmp_path / "in"
    for name in ("own", "soft"):
        write(home / name / "t1.nii.gz")
    write(home / "own" / "t1_labels.nii.gz", 0.01)
    (home / "own" / "t1_record.json").write_text("{}")
    soft = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    soft[0, :10, :20] = np.arange(1, 201).reshape(10, 20)
    grid = np.diag([MM, MM, MM, 1.0])
    write_volume(home / "soft" / "t1_lesion.nii.gz", volume_from_native(soft, grid))
    cases = found(home)
    assert (cases["own/t1"].truth, cases["soft/t1"].truth) == (None, None)
    assert cases["own/t1_labels"].skip == "a result of napari-addm"
    assert "of 200 different values: a map" in cases["soft/t1_lesion"].skip
    (home / "own" / "t1_record.json").unlink()  # then somebody else's
    assert found(home)["own/t1"].truth is not None


def test_what_is_not_clear_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "in"
    write(home / "two" / "t1.nii.gz")
    for name in ("mask", "t1_seg"):
        write(home / "two" / f"{name}.nii.gz", 0.01)
    for name in ("a", "b"):
        write(home / "whose" / f"{name}.nii.gz")
    write(home / "whose" / "mask.nii.gz", 0.01)
    write(home / "grid" / "t1.nii.gz")
    write(home / "grid" / "mask.nii.gz", 0.01, spacing=5.0)
    write(home / "broken" / "t1.nii.gz")
    (home / "broken" / "mask.nii.gz").write_text("<html>")
    cases = found(home)
    assert [name for name, case in cases.items() if case.truth] == []
    assert cases["grid/mask"].skip == "named as labels, not as a scan"
    assert len(cases) == 10
