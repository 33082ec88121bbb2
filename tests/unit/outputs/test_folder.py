"""The output folder: checked before a run, claimed during one."""

from pathlib import Path

import pytest

from napari_addm.errors import AddmError
from napari_addm.outputs.folder import check_outputs, claim_outputs


def test_a_check_creates_nothing(tmp_path: Path) -> None:
    check_outputs(tmp_path / "a" / "b", "scan")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(AddmError, match="cannot be written to"):
        check_outputs(tmp_path / "file" / "out", "scan")


def test_inputs_are_found_behind_links(tmp_path: Path) -> None:
    scan = tmp_path / "scan_labels.nii.gz"
    scan.write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "linked"):
        with pytest.raises(AddmError, match=r"scan_labels\.nii\.gz is an input"):
            check_outputs(folder, "scan", overwrite=True, inputs=[scan])


def test_results_do_not_go_into_a_raw_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "ours", "BIDSVersion": "1.8.0"}')
    with pytest.raises(AddmError, match=r"no derivative: choose .*derivatives.napari-addm"):
        check_outputs(tmp_path, "sub-01_T1w")
    check_outputs(tmp_path, "scan")


@pytest.mark.parametrize("name", ["n" * 245, "M\udcfcller"])
def test_a_name_that_no_disk_takes_is_refused_before_the_run(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(AddmError, match=r"its name is (too long|not written in UTF-8)"),
        claim_outputs(tmp_path, name),
    ):
        pass


def test_claims_nest_and_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with claim_outputs(out, "sub-1_T1w"):
        with claim_outputs(out, "sub-1_T1w"):
            pass
        assert list(out.rglob("*.lock"))
    assert list(tmp_path.iterdir()) == []
