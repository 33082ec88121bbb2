"""Titles of scans: names that say nothing of the patient, and the folders that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_addm.widgets.titles import folder_of, is_generic


@pytest.mark.parametrize(
    "name", ["t1", "T1w", "t1ce_brain", "orig", "brain", "anat_1mm", "image-01", "T1_MPRAGE"]
)
def test_names_that_say_nothing_of_the_patient(name: str) -> None:
    assert is_generic(name)


@pytest.mark.parametrize(
    "name",
    ["sub-01_T1w", "BraTS2021_00000_t1", "demo_T1w", "IXI012-HH-1211-T1", "0042", "miller"],
)
def test_names_that_tell_patients_apart(name: str) -> None:
    assert not is_generic(name)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("study/P07/t1.nii.gz", "P07"),
        ("study/sub-01/ses-1/anat/T1w.nii.gz", "sub-01/ses-1/anat"),
        ("subjects/bert/mri/orig.mgz", "bert/mri"),
    ],
)
def test_a_folder_is_named_from_the_one_that_names_the_patient(path: str, folder: str) -> None:
    assert folder_of(Path("/data") / path) == folder
