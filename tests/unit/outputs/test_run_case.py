"""One way through a case: what `run_case` writes, refuses and cancels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.detection.preparation import prepare
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.outputs.case import WriteOptions
from napari_addm.outputs.record import read_record
from napari_addm.outputs.run_case import (
    CaseRequest,
    detect_case,
    finish,
    measure_case,
    plan_case,
    read_case,
    run_case,
)

QUICK = DetectionSettings(regions=False, steps=2, draws=2, precision="float32")

RequestMaker = Callable[..., CaseRequest]


@pytest.fixture
def make_request(tmp_path: Path, brain_folder: Path) -> RequestMaker:
    """``make_request(**changes)``: a quick run of the brain with truth and mask."""

    def make(**changes: Any) -> CaseRequest:
        request = CaseRequest(
            brain_folder / "scan.nii.gz",
            tmp_path / "out",
            brain_folder / "model.safetensors",
            mask=brain_folder / "mask.nii.gz",
            truth=brain_folder / "truth.nii.gz",
            settings=QUICK,
            threshold=0.05,
        )
        return replace(request, **changes)

    return make


def files_of(folder: Path) -> dict[str, Any]:
    """What the files of a case hold, without the date and the seconds."""
    contents: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads(contents["scan_record.json"])
    return contents | {"scan_record.json": record | {"created_utc": None, "seconds": None}}


def test_the_command_writes_the_same_files(make_request: RequestMaker, tmp_path: Path) -> None:
    result = finish(run_case(make_request(write=WriteOptions(montage=True))))
    request = make_request()
    done = invoke(
        [
            *("detect", request.scan, "-o", tmp_path / "command", "--montage", "--json"),
            *("--checkpoint", request.checkpoint, "--mask", request.mask),
            *("--ground-truth", request.truth, "--steps", 2, "--draws", 2),
            *("--threshold", 0.05, "--precision", "float32"),
        ]
    )
    assert done.exit_code == 0, done.stderr
    assert files_of(request.folder) == files_of(tmp_path / "command")
    assert list(json.loads(done.stdout)["paths"]) == list(result.paths)


def test_what_a_result_holds(make_request: RequestMaker) -> None:
    result = finish(run_case(make_request()))
    outputs, record = result.outputs, json.loads(result.paths["record"].read_text())
    assert outputs.metrics is not None
    assert record["metrics"]["dice"] == outputs.metrics["dice"]
    assert record["quality"]["figures"]["slice_mm"] == 5.0
    assert record["brain_mask"]["origin"] == "given"
    stages = ("read", "import", "load", "prepare", "network", "score", "findings", "metrics")
    assert record["seconds"].keys() == set(stages)
    assert result.seconds.keys() == record["seconds"].keys() | {"write", "total"}
    assert len(record["findings"]) == len(outputs.findings) > 0


def test_a_threshold_that_was_calibrated_otherwise_is_named(
    make_request: RequestMaker, tmp_path: Path
) -> None:
    words = "The checkpoint's threshold, 0.05, is used with other settings than it was made for"
    odd = DetectionSettings(regions=False, steps=1, score="absolute", precision="float32")
    request = make_request(settings=odd, threshold=None)
    result = finish(run_case(request))
    (warning,) = (each for each in result.outputs.warnings if each.startswith(words))
    assert "(Sampling steps, Score)" in warning
    assert warning in read_record(result.paths["record"]).warnings
    asked = ["detect", request.scan, "--checkpoint", request.checkpoint, "--steps", 1]
    assert words in " ".join(invoke([*asked, "-o", tmp_path / "a"]).output.split())
    assert words not in " ".join(
        invoke([*asked, "-o", tmp_path / "b", "--threshold", 0.06]).output.split()
    )


def test_the_parts_give_what_the_whole_gives(make_request: RequestMaker, checkpoint) -> None:
    """A batch prepares a scan ahead of its turn, and measures it afterwards."""
    request = make_request()
    whole = finish(run_case(request)).outputs
    plan = plan_case(checkpoint.specification, QUICK, threshold=0.05)
    inputs = read_case(request)
    slices = prepare(inputs.scan, checkpoint.specification.preparation, inputs.mask.voxels)
    detection = finish(detect_case(inputs, checkpoint, plan.settings, slices))
    parts = measure_case(inputs, detection, checkpoint, plan)
    assert parts.metrics == whole.metrics
    for key, volume in whole.maps.items():
        np.testing.assert_array_equal(parts.maps[key].data, volume.data)


def test_cancelling_leaves_nothing(make_request: RequestMaker, tmp_path: Path) -> None:
    steps = run_case(make_request())
    while next(steps).stage == "prepare":
        pass
    assert list((tmp_path / "out").iterdir())  # the case is claimed
    steps.close()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scan": Path("nowhere.nii.gz")}, "nowhere.nii.gz"),
        ({"checkpoint": Path("nowhere.safetensors")}, "nowhere.safetensors"),
        ({"frame": 5}, "frame"),
        ({"series": 3}, "--series needs a folder with DICOM images"),
        ({"write": WriteOptions(dicom_seg=True)}, "--dicom-seg needs a folder with a DICOM series"),
        ({"threshold": float("nan")}, "The threshold has to be a number"),
        ({"minimum_ml": -1.0}, "the smallest finding 0 mL or more"),
        ({"preset": "best"}, "no preset 'best'"),
    ],
)
def test_what_cannot_be_run(
    make_request: RequestMaker, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(AddmError, match=words):
        finish(run_case(make_request(**changes)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["mask", "truth"])
def test_another_grid_is_refused_unless_it_is_resampled(
    make_request: RequestMaker, brain_folder: Path, tmp_path: Path, what: str
) -> None:
    image = nib.load(brain_folder / f"{what}.nii.gz")
    affine = image.affine.copy()
    affine[:3, 3] += 5
    path = tmp_path / "elsewhere.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    with pytest.raises(AddmError, match=r"add --resample-[a-z-]+ to bring it there"):
        read_case(make_request(**{what: path}))
    with pytest.raises(AddmError, match="ask the scanner"):
        read_case(make_request(**{what: path}), remedy="ask the scanner")
    region = getattr(read_case(make_request(**{what: path, f"resample_{what}": True})), what)
    assert region.path == path
    assert region.voxels.any()


def test_results_that_exist_are_refused_before_the_scan_is_read(
    make_request: RequestMaker, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scan_labels.nii.gz").write_bytes(b"")
    with pytest.raises(AddmError, match=r"scan_labels\.nii\.gz exists already: use --overwrite"):
        finish(run_case(make_request()))
