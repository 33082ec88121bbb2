"""Series of DICOM images, and the whole way to a segmentation."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from dicom_series import LPS, NAME, segmented_labels, write_multi_frame, write_series
from support import Finished, invoke

from napari_addm.io.demo import DEMO_SCAN
from napari_addm.io.dicom import pick_series
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_labels


def invoke_all(*arguments: object) -> Finished:
    return invoke(arguments)


def test_detect_and_verify(tmp_path: Path, make_brain: Any, tiny_checkpoint: Path) -> None:
    """A sagittal series from folder to segmentation, and nobody is named on the way."""
    shape, spacing = (42, 30, 50), (4.0, 5.0, 4.0)
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (-4, 0, 0), (0, 0, -5), (0, 4, 0)
    affine[:, 3] = 82, -98, 72, 1
    brain = make_brain(LPS @ affine, shape, ((25.0, 0.0, 5.0, 14.0),)).to_native()
    folder = tmp_path / NAME
    _, written = write_series(
        *(folder, "sagittal", shape, spacing, brain), origin=(82.0, -98.0, 72.0)
    )
    np.testing.assert_allclose(written, affine)

    out = tmp_path / "out"
    command = ("detect", folder, "-o", out, "--checkpoint", tiny_checkpoint, "--steps", 1)
    done = invoke_all(*command, "--threshold", 0.05, "--dicom-seg", "--json")
    assert done.exit_code == 0, done.output
    paths = {key: Path(path) for key, path in json.loads(done.stdout)["paths"].items()}
    assert paths["seg"] == out / "dicom_series4_seg.dcm"
    said = json.loads(done.stdout)["series"]
    agent = "unknown (neither tags nor description say)"
    assert said == f"dicom_series4: the only series; contrast agent: {agent}"
    labels = read_labels(paths["labels"])
    np.testing.assert_array_equal(segmented_labels(paths["seg"], labels), labels.data)
    for key, path in paths.items():
        if key not in ("seg", "sr"):  # which belong to the patient
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert NAME.encode() not in content
            assert "Doe" not in path.name

    record = json.loads(paths["record"].read_text())
    assert record["input"]["files"] == 42
    assert record["input"]["contrast"] == agent
    volume = read_series(pick_series(folder))
    assert record["input"]["voxels_sha256"] == voxels_sha256(volume.data)
    shutil.move(folder, tmp_path / "moved")
    checked = invoke_all(
        *("verify", paths["record"], "--scan", tmp_path / "moved"),
        *("--checkpoint", tiny_checkpoint, "--json"),
    )
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["verdict"] == "identical"
    (tmp_path / "moved" / "IM0003").unlink()
    checked = invoke_all(
        "verify", paths["record"], "--scan", tmp_path / "moved", "--checkpoint", tiny_checkpoint
    )
    assert checked.exit_code == 1
    assert "does not hold the DICOM series of the record" in checked.stderr


def test_a_series_without_a_segmentation_is_refused_before_the_run(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Two multi-frame images together: they are one scan, but no source of a segmentation."""
    write_series(tmp_path / "in")
    files = sorted((tmp_path / "in").iterdir())
    write_multi_frame(tmp_path / "two" / "A", files[:6])
    write_multi_frame(tmp_path / "two" / "B", files[6:])
    command = ("detect", tmp_path / "two", "-o", tmp_path / "out", "--dicom-seg")
    done = invoke_all(*command, "--checkpoint", tiny_checkpoint)
    assert done.exit_code == 1
    assert "leave the segmentation out" in done.stderr
    assert not (tmp_path / "out").exists()


def test_options_that_need_dicom(tmp_path: Path) -> None:
    scan = DEMO_SCAN
    for option in (["--dicom-seg"], ["--series", 3]):
        done = invoke_all("detect", scan, "-o", tmp_path / "out", *option)
        assert done.exit_code == 1
        assert f"{option[0]} needs a folder" in done.stderr
    done = invoke_all("detect", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "holds no MR images" in done.stderr
