"""Names, the run record, and what happens to an output folder when things go wrong."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError
from napari_addm.findings.computed import computed_labels
from napari_addm.findings.findings import measure_findings
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.case import CaseInputs, CaseOutputs, WriteOptions, write_case
from napari_addm.outputs.folder import check_outputs, claim_outputs
from napari_addm.outputs.naming import case_paths, is_bids
from napari_addm.outputs.record import read_record

SECRET = "DOE^JANE"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def scan_at(path: Path) -> Volume:
    """A scan whose header names somebody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(0).uniform(1, 100, (9, 11, 13)).astype(np.float32)
    image = nib.Nifti1Image(data, np.diag([-1.0, 1.5, 2.0, 1.0]))
    image.header["descrip"] = SECRET
    image.header["db_name"] = SECRET
    nib.save(image, path)
    return read_volume(path)


def detection_of(volume: Volume, checkpoint: Checkpoint) -> Detection:
    anomaly = np.random.default_rng(1).uniform(0, 0.4, volume.shape).astype(np.float32)
    anomaly[2:5, 3:6, 2:7] += 0.5
    return Detection(
        anomaly=volume.with_data(anomaly),
        reconstruction=volume.with_data(volume.data + 1),
        uncertainty=None,
        brain_mask=volume.with_data(np.ones(volume.shape, bool)),
        done=np.ones(volume.shape[0], bool),
        seconds={"prepare": 0.1, "load": 0.2, "network": 1.0, "score": 0.3},
        settings=resolve(DetectionSettings(), checkpoint.specification),
        specification=checkpoint.specification,
        device="cpu",
        precision="float32",
        threads=2,
    )


def save(
    folder: Path,
    volume: Volume,
    checkpoint: Checkpoint,
    edit: int = 0,
    overwrite: bool = False,
    **more: Any,
) -> dict[str, Path]:
    detection = detection_of(volume, checkpoint)
    labels = computed_labels(detection, 0.5, 0.01)
    labels[0, 0, :edit] = 7
    findings = measure_findings(labels, detection.anomaly.data, volume)
    case = CaseOutputs(
        CaseInputs(volume), detection, labels, findings, checkpoint, 0.5, 0.01, **more
    )
    return write_case(case, folder, WriteOptions(overwrite=overwrite))


# --- names ----------------------------------------------------------------------------------


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


def test_bids_layout(tmp_path: Path, checkpoint: Checkpoint) -> None:
    out = tmp_path / "out"
    for subject in ("01", "02"):
        path = tmp_path / "raw" / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz"
        save(out, scan_at(path), checkpoint)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "napari-addm"
    sidecar = json.loads((out / "space-orig_desc-anomaly_dseg.json").read_text())
    assert sidecar["SpatialReference"] == "orig"
    stem = "sub-02_space-orig_desc"
    assert {path.name for path in (out / "sub-02" / "anat").iterdir()} == {
        f"{stem}-anomaly_map.nii.gz",
        f"{stem}-anomaly_dseg.nii.gz",
        f"{stem}-recon_T1w.nii.gz",
        f"{stem}-anomaly_findings.csv",
        f"{stem}-anomaly_record.json",
    }


def test_results_do_not_go_into_a_raw_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "ours", "BIDSVersion": "1.8.0"}')
    with pytest.raises(AddmError, match=r"no derivative: choose .*derivatives.napari-addm"):
        check_outputs(tmp_path, "sub-01_T1w")
    check_outputs(tmp_path, "scan")


# --- the record -----------------------------------------------------------------------------


def test_hash_of_voxels_does_not_depend_on_the_file(tmp_path: Path) -> None:
    volume = scan_at(tmp_path / "a.nii.gz")
    native, affine = volume.to_native(), volume.source.affine
    other = volume_from_native(native[::-1, :, ::-1].transpose(2, 0, 1), np.eye(4))
    assert voxels_sha256(other.data) != voxels_sha256(volume.data)
    flipped = nib.as_closest_canonical(nib.Nifti1Image(native, affine))
    nib.save(flipped, tmp_path / "b.nii")
    assert voxels_sha256(read_volume(tmp_path / "b.nii").data) == voxels_sha256(volume.data)
    assert voxels_sha256(np.zeros((2, 3, 4), bool)) == voxels_sha256(np.zeros((2, 3, 4), np.uint8))
    assert voxels_sha256(np.zeros((2, 3, 4), bool)) != voxels_sha256(np.zeros((4, 3, 2), bool))


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 255], "u1"),
        ([-1, 255], "<i2"),
        ([0, 256], "<i2"),
        ([0, 40000], "<i4"),
        ([0, 2**40], "<i8"),
    ],
)
def test_whole_numbers_are_hashed_as_they_are_stored(values: list[int], stored: str) -> None:
    labels = np.array(values, np.int64).reshape(1, 2, 1)
    head = np.array([1, 2, 1], "<i8").tobytes()
    expected = hashlib.sha256(head + np.array(values, stored).tobytes()).hexdigest()
    assert voxels_sha256(labels) == expected
    assert voxels_sha256(labels.astype(stored)) == expected


def test_labels_that_are_known_are_not_worked_out_again(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    volume = scan_at(tmp_path / "scan.nii.gz")
    detection = detection_of(volume, checkpoint)
    computed = computed_labels(detection, 0.5, 0.01)
    unknown, known = (
        read_record(save(tmp_path / name, volume, checkpoint, edit=edit, **more)["record"]).labels
        for name, edit, more in (("a", 5, {}), ("b", 5, {"computed": computed}))
    )
    assert known == unknown
    assert known.edited_voxels == 5
    assert known.computed_voxels_sha256 == voxels_sha256(computed)


def test_record_is_whole(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = scan_at(tmp_path / "scan.nii.gz")
    paths = save(tmp_path / "out", volume, checkpoint, edit=5)
    record = read_record(paths["record"])
    assert record.input.voxels_sha256 == voxels_sha256(volume.data)
    assert record.brain_mask.origin == "found"
    assert record.checkpoint.weights_sha256 == checkpoint.specification.weights_sha256
    assert record.labels.edited_voxels == 5
    assert record.threads >= 1
    assert record.versions.keys() >= {"napari-addm", "python", "torch", "monai", "numpy"}
    # what is on disk has the recorded hashes
    written = voxels_sha256(read_volume(paths["anomaly"]).data)
    assert record.outputs["anomaly"].voxels_sha256 == written
    assert {entry.name for entry in record.outputs.values()} == {
        path.name for key, path in paths.items() if key != "record"
    }


def test_nobody_is_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = scan_at(tmp_path / SECRET / "scan.nii.gz")
    out = tmp_path / "out"
    for path in save(out, volume, checkpoint).values():
        content = path.read_bytes()
        if path.suffix == ".gz":
            assert content[3] == 0  # no name in the gzip header
            assert content[4:8] == bytes(4)  # nor a time
            content = gzip.decompress(content)
        assert SECRET.encode() not in content
        assert str(tmp_path).encode() not in content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no run record of napari-addm"),
        ('{"schema_version": 1}', "an older version"),
        ('{"schema_version": 4}', "a newer version"),
        ('{"schema_version": 3}', "damaged or was changed by hand"),
    ],
)
def test_what_is_no_record(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a_record.json"
    path.write_text(text)
    with pytest.raises(AddmError, match=words):
        read_record(path)


# --- the output folder ----------------------------------------------------------------------

HOLD = (
    "import sys, time\n"
    "from napari_addm.outputs.folder import claim_outputs\n"
    "with claim_outputs(sys.argv[1], 'scan'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_one_run_at_a_time(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A second run is refused; a killed one blocks nobody."""
    volume = scan_at(tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(AddmError, match="Another run is writing the files of scan"):
            save(out, volume, checkpoint)
        refused = invoke(["detect", str(tmp_path / "scan.nii.gz"), "-o", str(out)])
        assert refused.exit_code == 1
        assert "Another run" in refused.stderr
        assert [path.suffix for path in out.iterdir()] == [".lock"]
        with claim_outputs(out, "another"):
            pass  # other cases go on beside it
        other.send_signal(signal.SIGKILL)
    save(out, volume, checkpoint)
    assert not list(out.glob(".*"))


def test_claims_nest_and_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with claim_outputs(out, "sub-1_T1w"):
        with claim_outputs(out, "sub-1_T1w"):
            pass
        assert list(out.rglob("*.lock"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of file sizes")
def test_full_disk_leaves_nothing_and_loses_nothing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """The real thing: the system refuses to write any file beyond a size."""
    import resource

    volume = scan_at(tmp_path / "scan.nii.gz")
    save(tmp_path / "old", volume, checkpoint)
    before = {path: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for out in (tmp_path / "new", tmp_path / "old"):
            with pytest.raises(AddmError, match="cannot be written"):
                save(out, volume, checkpoint, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = scan_at(tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(AddmError, match="cannot be written to"):
        save(out, volume, checkpoint)
