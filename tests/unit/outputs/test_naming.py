"""Names of a case's files: after the scan, or by the rules of BIDS derivatives."""

from pathlib import Path

import pytest

from napari_addm.outputs.naming import case_paths, is_bids


@pytest.mark.parametrize(
    ("stem", "labels"),
    [
        ("sub-01_T1w", "sub-01/anat/sub-01_space-orig_desc-anomaly_dseg.nii.gz"),
        (
            "sub-01_ses-b_acq-mprage_run-2_T1w",
            "sub-01/ses-b/anat/sub-01_ses-b_acq-mprage_run-2_space-orig_desc-anomaly_dseg.nii.gz",
        ),
        (
            "sub-01_space-MNI152NLin6Asym_res-2_desc-preproc_T1w",
            "sub-01/anat/sub-01_space-MNI152NLin6Asym_res-2_desc-preprocAnomaly_dseg.nii.gz",
        ),
        ("scan", "scan_labels.nii.gz"),
        ("sub-01", "sub-01_labels.nii.gz"),
        ("sub-01_T2w", "sub-01_T2w_labels.nii.gz"),
        ("sub-01_ses_T1w", "sub-01_ses_T1w_labels.nii.gz"),
        ("sub-../x_T1w", "sub-../x_T1w_labels.nii.gz"),
    ],
)
def test_names(stem: str, labels: str) -> None:
    paths = case_paths(Path("out"), stem)
    assert paths["labels"] == Path("out") / labels
    assert len(set(paths.values())) == len(paths)
    assert is_bids(stem) == (paths["labels"].name.endswith("dseg.nii.gz"))
