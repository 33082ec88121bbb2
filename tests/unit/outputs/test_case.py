"""The files of a case: on the scan's own grid, all or none."""

import csv
import gzip
import itertools
import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import volume_from_array
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs, GivenRegion

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]
SECRET = "DOE^JANE"
OVERWRITE = WriteOptions(overwrite=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_files_lie_on_the_scan(tmp_path: Path, write_scan, make_case, orientation: str) -> None:
    path = write_scan(orientation=orientation)
    scan = nib.load(path)
    case = make_case(read_volume(path))
    written = write_case(case, tmp_path / "out")
    anomaly, labels, recon = (nib.load(written[key]) for key in ("anomaly", "labels", "recon"))
    for image in (anomaly, labels, recon):
        assert image.shape == scan.shape
        np.testing.assert_array_equal(image.affine, scan.affine)
    assert anomaly.get_data_dtype() == np.float32
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(anomaly.get_fdata(), case.detection.anomaly.to_native())
    np.testing.assert_array_equal(recon.get_fdata(), np.asarray(scan.dataobj) + 1)
    np.testing.assert_array_equal(labels.get_fdata() > 0, anomaly.get_fdata() > 0.5)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


def test_names_and_table(tmp_path: Path, write_scan, make_case) -> None:
    case = make_case(read_volume(write_scan()), draws=2)
    paths = write_case(case, tmp_path / "new" / "out", WriteOptions(montage=True))
    assert {key: path.name for key, path in paths.items()} == {
        "anomaly": "scan_anomaly.nii.gz",
        "labels": "scan_labels.nii.gz",
        "recon": "scan_recon.nii.gz",
        "uncertainty": "scan_uncertainty.nii.gz",
        "findings": "scan_findings.csv",
        "record": "scan_record.json",
        "overlay": "scan_overlay.png",
    }
    assert contents(tmp_path / "new" / "out").keys() == {path.name for path in paths.values()}
    with paths["findings"].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "1"
    assert float(row["volume_ml"]) == pytest.approx(45 * 3 / 1000, abs=1e-3)
    assert row["uncertainty"]


def test_bids_layout(tmp_path: Path, write_scan, make_case) -> None:
    out = tmp_path / "out"
    for subject in ("01", "02"):
        scan = read_volume(write_scan(f"raw/sub-{subject}/anat/sub-{subject}_T1w.nii.gz"))
        write_case(make_case(scan), out)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "napari-addm"
    sidecar = json.loads((out / "space-orig_desc-anomaly_dseg.json").read_text())
    assert sidecar["SpatialReference"] == "orig"
    endings = "anomaly_map.nii.gz anomaly_dseg.nii.gz recon_T1w.nii.gz anomaly_findings.csv"
    assert contents(out / "sub-02" / "anat").keys() == {
        f"sub-02_space-orig_desc-{ending}" for ending in [*endings.split(), "anomaly_record.json"]
    }


def test_a_scan_without_a_file(tmp_path: Path, make_case) -> None:
    scan = volume_from_array(np.random.default_rng(0).random((9, 11, 13), np.float32))
    paths = write_case(make_case(scan), tmp_path)
    assert paths["anomaly"].name == "volume_anomaly.nii.gz"
    entry = json.loads(paths["record"].read_text())["input"]
    assert (entry["name"], entry["sha256"]) == (None, None)
    assert len(entry["voxels_sha256"]) == 64


def test_decisions_are_saved(tmp_path: Path, write_scan, make_case) -> None:
    decisions = {1: Decision("rejected", "choroid plexus"), 2: Decision()}
    case = make_case(read_volume(write_scan()), decisions=decisions)
    paths = write_case(case, tmp_path / "out")
    with paths["findings"].open(newline="") as file:
        (row,) = csv.DictReader(file)
    (finding,) = json.loads(paths["record"].read_text())["findings"]
    for saved in (row, finding):
        assert (saved["decision"], saved["note"]) == ("rejected", "choroid plexus")
    # A rejected finding stays in the labels.
    assert np.asarray(nib.load(paths["labels"]).dataobj).any()


def test_a_dicom_segmentation_needs_a_series(tmp_path: Path, write_scan, make_case) -> None:
    case = make_case(read_volume(write_scan()))
    with pytest.raises(AddmError, match="does not come from a DICOM series"):
        write_case(case, tmp_path / "out", WriteOptions(dicom_seg=True))
    assert not (tmp_path / "out").exists()


def test_existing_files_are_kept(tmp_path: Path, write_scan, make_case) -> None:
    scan, out = read_volume(write_scan()), tmp_path / "out"
    write_case(make_case(scan, draws=2), out)
    before = contents(out)
    with pytest.raises(AddmError, match=r"scan_anomaly\.nii\.gz exists already: use --overwrite"):
        write_case(make_case(scan), out)
    assert contents(out) == before
    # A map of the draws of the earlier run would belong to nothing.
    write_case(make_case(scan), out, OVERWRITE)
    assert before.keys() - contents(out).keys() == {"scan_uncertainty.nii.gz"}


def test_inputs_are_never_replaced(tmp_path: Path, write_scan, make_case) -> None:
    scan = read_volume(write_scan())
    region = GivenRegion(scan.data > 0, tmp_path / "scan_labels.nii.gz")
    for inputs in (CaseInputs(scan, mask=region), CaseInputs(scan, truth=region)):
        with pytest.raises(AddmError, match=r"scan_labels\.nii\.gz is an input of this run"):
            write_case(make_case(scan, inputs=inputs), tmp_path, OVERWRITE)


def test_no_file_takes_its_name_if_the_caller_objects(
    tmp_path: Path, write_scan, make_case
) -> None:
    staged_names: list[str] = []

    def object_to(staged) -> None:
        staged_names.extend(path.name for path in staged.values())
        raise AddmError("another run has written here")

    with pytest.raises(AddmError, match="another run"):
        write_case(
            make_case(read_volume(write_scan())), tmp_path / "out", before_renaming=object_to
        )
    assert "scan_record.json" in staged_names
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of file sizes")
def test_a_full_disk_leaves_nothing_and_loses_nothing(
    tmp_path: Path, write_scan, make_case
) -> None:
    """The system itself refuses to write any file beyond a size."""
    import resource

    case = make_case(read_volume(write_scan()))
    write_case(case, tmp_path / "old")
    before = contents(tmp_path / "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for out in (tmp_path / "new", tmp_path / "old"):
            with pytest.raises(AddmError, match=f"{out.name} cannot be written to"):
                write_case(case, out, OVERWRITE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "new").exists()
    assert contents(tmp_path / "old") == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path, write_scan, make_case) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(AddmError, match="cannot be written to"):
        write_case(make_case(read_volume(write_scan())), out)


def test_an_input_that_is_gone_is_named(tmp_path: Path, write_scan, make_case) -> None:
    path = write_scan()
    case = make_case(read_volume(path))
    path.unlink()
    with pytest.raises(AddmError, match=r"scan\.nii\.gz cannot be read"):
        write_case(case, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nobody_is_named(tmp_path: Path, write_scan, make_case) -> None:
    """No words of a header, no folder and no time are in any file."""
    scan = read_volume(write_scan(f"{SECRET}/scan.nii.gz", text=SECRET))
    for path in write_case(make_case(scan), tmp_path / "out").values():
        content = path.read_bytes()
        if path.suffix == ".gz":
            assert content[3] == 0  # no name in the gzip header
            assert content[4:8] == bytes(4)  # nor a time
            content = gzip.decompress(content)
        assert SECRET.encode() not in content
        assert str(tmp_path).encode() not in content
