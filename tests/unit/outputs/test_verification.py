"""A recorded run is repeated: the same, nearly the same, or different, and why."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import detect
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs
from napari_addm.outputs.run_case import (
    CaseRequest,
    finish,
    measure_case,
    plan_case,
    run_case,
)
from napari_addm.outputs.verification import verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, brain_folder: Path) -> Path:
    """A copy of `brain_folder` with the files of a run in ``out``."""
    folder = Path(shutil.copytree(brain_folder, tmp_path_factory.mktemp("runs") / "finished"))
    request = CaseRequest(
        folder / "scan.nii.gz",
        folder / "out",
        folder / "model.safetensors",
        mask=folder / "mask.nii.gz",
        settings=DetectionSettings(draws=2, steps=2, precision="float32"),
        threshold=0.05,
    )
    finish(run_case(request))
    return folder


@pytest.fixture
def case(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "case"))


def record_of(case: Path) -> Path:
    return case / "out" / "scan_record.json"


def edit_record(case: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(record_of(case).read_text())
    change(record)
    record_of(case).write_text(json.dumps(record))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Change the voxels of a file; returns them."""
    volume = read_labels(path) if "labels" in path.name else read_volume(path)
    changed = volume.with_data(change(volume.data.copy()))
    write_volume(path.with_name("new.nii.gz"), changed).replace(path)
    return changed.data


def record_other_scores(case: Path, by: float) -> None:
    """Change each score of the record a bit, as if other hardware had made it."""

    def add_noise(data: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).uniform(-by, by, data.shape).astype(np.float32)
        return data + noise * (data != 0)

    moved = rewrite(case / "out" / "scan_anomaly.nii.gz", add_noise)

    def change(record: dict[str, Any]) -> None:
        record["outputs"]["anomaly"]["voxels_sha256"] = voxels_sha256(moved)
        record["device"] = "cuda:0"
        record["versions"]["torch"] = "1.0"

    edit_record(case, change)


def test_the_same_in_words_and_in_json(case: Path) -> None:
    command = ["verify", record_of(case)]
    words, found = invoke(command), invoke([*command, "--json"])
    assert (words.exit_code, found.exit_code, found.stderr) == (0, 0, "")
    assert "voxel for voxel" in words.stdout
    assert json.loads(found.stdout) == {
        "verdict": "identical",
        "problems": [],
        "differences": [],
        "notes": [],
        "environment": {},
    }


def test_inputs_elsewhere_and_stored_otherwise(case: Path, tmp_path: Path) -> None:
    """Files are known by what they hold, wherever they are and whatever they are called."""
    (case / "scan.nii.gz").rename(tmp_path / "renamed.nii.gz")
    with pytest.raises(AddmError, match=r"scan\.nii\.gz was not found .* say where .* --scan"):
        verify(record_of(case))
    canonical = nib.as_closest_canonical(nib.load(tmp_path / "renamed.nii.gz"))
    nib.save(canonical, tmp_path / "canonical.nii")
    assert verify(record_of(case), scan=tmp_path / "canonical.nii").verdict == "identical"
    (case / "mask.nii.gz").unlink()
    with pytest.raises(AddmError, match=r"brain mask mask\.nii\.gz was not found"):
        verify(record_of(case), scan=tmp_path / "renamed.nii.gz")


@pytest.mark.parametrize(
    ("by", "mm", "words"), [(1, 0, "has other voxels"), (0, 2, "puts them up to 2 mm elsewhere")]
)
def test_another_scan_is_refused(case: Path, by: float, mm: float, words: str) -> None:
    image = nib.load(case / "scan.nii.gz")
    data, affine = image.get_fdata(dtype=np.float32), image.affine.copy()
    data[20, 25, 15] += by
    affine[0, 3] += mm
    (case / "scan.nii.gz").unlink()
    nib.save(nib.Nifti1Image(data, affine), case / "scan.nii.gz")
    with pytest.raises(AddmError, match=words):
        verify(record_of(case))


def test_another_model_is_refused(case: Path) -> None:
    (case / "model.safetensors").unlink()
    with pytest.raises(AddmError, match=r"the model model\.safetensors was not found"):
        verify(record_of(case))
    with pytest.raises(AddmError, match="is another model"):
        verify(record_of(case), model=DEMO_CHECKPOINT)


def test_changed_files_are_named(case: Path) -> None:
    out = case / "out"
    rewrite(out / "scan_anomaly.nii.gz", lambda data: data + np.float32(0.25))
    rewrite(out / "scan_labels.nii.gz", lambda data: np.roll(data, 1))
    (out / "scan_findings.csv").write_text("99\n")
    (out / "scan_recon.nii.gz").unlink()
    found = verify(record_of(case))
    assert found.verdict == "different"
    *changed, missing = sorted(found.problems, key=lambda problem: ("recon" in problem, problem))
    assert changed == [
        f"scan_{ending} was changed since it was saved."
        for ending in ("anomaly.nii.gz", "findings.csv", "labels.nii.gz")
    ]
    assert "scan_recon.nii.gz" in missing
    assert found.differences == []  # the run gives the recorded maps again


def test_within_the_tolerance(case: Path) -> None:
    record_other_scores(case, 1e-6)
    found = verify(record_of(case))
    assert found.verdict == "same"
    assert found.environment.keys() == {"device", "torch"}
    anomaly = next(each for each in found.differences if each.what == "anomaly")
    assert 0 < anomaly.largest < 2e-6
    words = "\n".join(found.lines())
    assert "within the tolerance" in words
    assert "device cuda:0 then, cpu now" in words


def test_beyond_the_tolerance(case: Path) -> None:
    record_other_scores(case, 0.1)
    done = invoke(["verify", record_of(case), "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["verdict"]) == (1, "different")
    anomaly = next(each for each in found["differences"] if each["what"] == "anomaly")
    assert anomaly["share"] > 0.02
    assert anomaly["voxels"] > 1000


def test_edits_before_saving_are_no_difference(case: Path) -> None:
    model = case / "model.safetensors"
    settings = DetectionSettings(steps=1, slices=(15,), precision="float32")
    request = CaseRequest(case / "scan.nii.gz", case / "first", model, settings=settings)
    outputs = finish(run_case(request)).outputs
    edited = outputs.labels.copy()
    edited[0, 0, :4] = 9
    overwrite = WriteOptions(overwrite=True)
    write_case(replace(outputs, labels=edited), case / "out", overwrite)
    record_other_scores(case, 1e-6)
    found = verify(record_of(case))
    assert found.verdict == "same"
    assert any("edited the labels before they were saved (4 voxels)" in n for n in found.notes)


def test_other_findings_are_named(case: Path) -> None:
    edit_record(case, lambda record: record.update(threshold=0.5))
    (difference,) = verify(record_of(case)).differences
    assert difference.what == "labels"
    assert "Dice" in str(difference)
    for name in ("labels", "anomaly"):
        (case / "out" / f"scan_{name}.nii.gz").unlink()
    problems = verify(record_of(case)).problems
    assert "The run gives other findings than the recorded ones." in problems


def test_another_seed_is_different(case: Path) -> None:
    edit_record(case, lambda record: record["settings"].update(seed=1))
    found = verify(record_of(case))
    assert found.verdict == "different"
    assert {each.what for each in found.differences} >= {"anomaly", "uncertainty"}


def test_some_slices(case: Path) -> None:
    settings = DetectionSettings(steps=1, slices=(15,), precision="float32")
    model = case / "model.safetensors"
    request = CaseRequest(case / "scan.nii.gz", case / "some", model, settings=settings)
    assert verify(finish(run_case(request)).paths["record"]).verdict == "identical"


def test_a_run_that_was_stopped(case: Path) -> None:
    """It had no neighbors but the slices that were done."""
    scan = read_volume(case / "scan.nii.gz")
    checkpoint = load_checkpoint(case / "model.safetensors")
    settings = DetectionSettings(precision="float32", device="cpu", batch_size=2)
    asked = itertools.count()
    steps = detect(scan, checkpoint, settings, cancelled=lambda: next(asked) > 8)
    *_, detection = filter(None, (progress.result for progress in steps))
    assert 0 < detection.done.sum() < len(detection.done)
    plan = plan_case(checkpoint.specification, settings, threshold=0.05, minimum_ml=0.1)
    outputs = measure_case(CaseInputs(scan), detection, checkpoint, plan)
    record = write_case(outputs, case / "stopped")["record"]
    assert verify(record).verdict == "identical"
