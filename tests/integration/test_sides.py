"""Sides of findings in real scans and in all files of a run."""

import csv
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import read_specification
from napari_addm.detection.midline import Midline
from napari_addm.detection.preparation import prepare
from napari_addm.detection.session import PreparedScan
from napari_addm.findings.findings import measure_findings
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume, volume_from_native

SAMPLES = DEMO_CHECKPOINT.parent
TUMORS = ("BraTS19_CBICA_ASK_1", "BraTS2021_00031", "UTSW_BT0003")


def midline_of(volume: Volume) -> Midline | None:
    specification = read_specification(DEMO_CHECKPOINT).preparation
    return PreparedScan(prepare(volume, specification)).midline


@pytest.mark.parametrize("angle", ["roll", "yaw"])
@pytest.mark.parametrize("degrees", [-90, -45, 40, 70])
def test_a_head_on_its_side_gets_no_wrong_side(angle, degrees, shared_data: Path):
    """The search for the midline ends before; what it stops at, or finds across, is none."""
    volume = read_volume(shared_data / "tumour" / TUMORS[0] / "t1.nii.gz")
    turn = np.eye(4)
    radians = np.radians(degrees)
    turn[:3, :3] = nib.eulerangles.euler2mat(
        radians if angle == "yaw" else 0, radians if angle == "roll" else 0, 0
    )
    assert midline_of(replace(volume, affine=turn @ volume.affine)) is None


def test_everything_that_is_written_names_the_same_side(tmp_path):
    """The demo's lesion is on the left; a moved origin changes scanner coordinates alone."""
    demo = nib.load(SAMPLES / "demo_T1w.nii.gz")
    affine = demo.affine.copy()
    affine[:3, 3] += (400.0, -300.0, 200.0)
    nib.save(nib.Nifti1Image(np.asanyarray(demo.dataobj), affine), tmp_path / "moved.nii.gz")
    written = {}
    for name, scan in (("still", SAMPLES / "demo_T1w.nii.gz"), ("moved", "moved.nii.gz")):
        out = tmp_path / name
        options = ["--json", "--steps", "1", "--draws", "1", "--regions"]
        result = invoke(["detect", str(tmp_path / scan), "-o", str(out), *options])
        assert result.exit_code == 0, result.output
        summary = json.loads(result.stdout)
        record = json.loads(next(out.glob("*_record.json")).read_text())
        with next(out.glob("*_findings.csv")).open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(record["findings"]) == len(summary["findings"]) > 0
        for row, entry, finding in zip(rows, record["findings"], summary["findings"], strict=True):
            assert row["side"] == entry["side"] == finding["side"]
            assert row["region"] == entry["region"] == finding["region"] != "unknown"
            assert entry["from_midline_mm"] == finding["from_midline_mm"]
            assert float(row["from_midline_mm"]) == pytest.approx(
                finding["from_midline_mm"], abs=0.051
            )
            scanner = [float(row[key]) for key in ("x_mm", "y_mm", "z_mm")]
            assert scanner == pytest.approx(finding["centroid_mm"], abs=0.051)
            for source in (entry, finding):
                assert [source[key] for key in ("x_mm", "y_mm", "z_mm")] == finding["centroid_mm"]
        assert record["midline"]["source"] == "symmetry"
        written[name] = rows
    assert written["still"][0]["side"] == written["moved"][0]["side"] == "left"
    assert float(written["moved"][0]["x_mm"]) > 300
    if find_spec("SimpleITK"):
        assert written["still"][0]["region"] == written["moved"][0]["region"]
        assert "left parietal lobe" in written["still"][0]["region"]
    assert written["still"][0]["from_midline_mm"] == written["moved"][0]["from_midline_mm"]


def side_by_hand(scan: nib.Nifti1Image, truth: nib.Nifti1Image) -> str:
    """Without this package: the truth's share on either side of the brain's middle."""
    brain = nib.affines.apply_affine(scan.affine, np.argwhere(np.asarray(scan.dataobj) != 0))
    lesion = nib.affines.apply_affine(truth.affine, np.argwhere(np.asarray(truth.dataobj) != 0))
    right = float(np.mean(lesion[:, 0] > brain[:, 0].mean()))
    return "left" if right < 0.25 else "right" if right > 0.75 else "midline"


@pytest.mark.parametrize("case", TUMORS)
def test_real_tumors_lie_on_the_side_of_their_truth(case, shared_data: Path, tmp_path: Path):
    folder = shared_data / "tumour" / case
    scan, truth = nib.load(folder / "t1.nii.gz"), nib.load(folder / "mask.nii.gz")
    expected = side_by_hand(scan, truth)
    tilt = np.eye(4)
    tilt[:3, :3] = nib.eulerangles.euler2mat(*np.radians([-14.0, 20.0, 8.0]))
    tilt[:3, 3] = (57.0, -130.0, 300.0)
    for name, affine in (("as it is", scan.affine), ("tilted and moved", tilt @ scan.affine)):
        image = nib.Nifti1Image(np.asanyarray(scan.dataobj), affine)
        nib.save(image, tmp_path / "t1.nii")
        volume = read_volume(tmp_path / "t1.nii")
        labels = volume_from_native((np.asarray(truth.dataobj) != 0).astype(np.int32), affine)
        midline = midline_of(volume)
        (finding,) = measure_findings(labels.data, volume.data, volume, midline=midline)
        assert (finding.side, finding.midline_source) == (expected, "symmetry"), name
