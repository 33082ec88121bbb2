"""A recorded run is repeated: the same, nearly the same, or different, and why."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import detect
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.demo import SAMPLE_DATA
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case import CaseInputs, write_case
from napari_addm.outputs.run_case import (
    CaseRequest,
    finish,
    measure_case,
    plan_case,
    run_case,
)
from napari_addm.outputs.verification import verify as verify_record


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


def verify(case: Path, *more: object) -> tuple[int, dict[str, Any], str]:
    done = invoke(["verify", case / "out" / "scan_record.json", "--json", *more])
    found = json.loads(done.stdout) if done.stdout else {}
    return done.exit_code, found, done.stderr


def edit_record(case: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = case / "out" / "scan_record.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def rewrite(path: Path, volume: Volume) -> None:
    write_volume(path.with_name("new.nii.gz"), volume).replace(path)


def recorded_otherwise(case: Path, by: float) -> None:
    """As if the run had been done on other hardware: each score of the record is a bit off."""
    path = case / "out" / "scan_anomaly.nii.gz"
    anomaly = read_volume(path)
    noise = np.random.default_rng(0).uniform(-by, by, anomaly.shape).astype(np.float32)
    moved = anomaly.with_data(anomaly.data + noise * (anomaly.data != 0))
    rewrite(path, moved)

    def change(record: dict[str, Any]) -> None:
        record["outputs"]["anomaly"]["voxels_sha256"] = voxels_sha256(moved.data)
        record["device"] = "cuda:0"
        record["versions"]["torch"] = "1.0"

    edit_record(case, change)


def test_the_same(case: Path) -> None:
    code, found, errors = verify(case)
    assert (code, errors) == (0, "")
    assert found["verdict"] == "identical"
    assert found["problems"] == found["differences"] == found["notes"] == []
    assert found["environment"] == {}
    said = invoke(["verify", case / "out" / "scan_record.json"])
    assert said.exit_code == 0
    assert "voxel for voxel" in said.stdout


def test_moved_apart(case: Path, tmp_path: Path) -> None:
    """Files are known by their hashes, wherever they are and whatever they are called."""
    away = tmp_path / "away"
    away.mkdir()
    (case / "scan.nii.gz").rename(away / "renamed.nii.gz")
    code, _, errors = verify(case)
    assert code == 1
    assert "scan.nii.gz was not found beside it: say where it is with --scan" in errors
    code, found, _ = verify(case, "--scan", away / "renamed.nii.gz")
    assert (code, found["verdict"]) == (0, "identical")

    (case / "mask.nii.gz").unlink()
    code, _, errors = verify(case, "--scan", away / "renamed.nii.gz")
    assert code == 1
    assert "brain mask mask.nii.gz was not found" in errors


def test_stored_otherwise_is_the_same_scan(case: Path) -> None:
    image = nib.as_closest_canonical(nib.load(case / "scan.nii.gz"))
    nib.save(image, case / "canonical.nii")
    code, found, _ = verify(case, "--scan", case / "canonical.nii")
    assert (code, found["verdict"]) == (0, "identical")


@pytest.mark.parametrize("spoil", ["voxels", "place"])
def test_another_scan(case: Path, spoil: str) -> None:
    image = nib.load(case / "scan.nii.gz")
    data, affine = image.get_fdata(dtype=np.float32), image.affine.copy()
    if spoil == "voxels":
        data[20, 25, 15] += 1
    else:
        affine[0, 3] += 2
    (case / "scan.nii.gz").unlink()
    nib.save(nib.Nifti1Image(data, affine), case / "scan.nii.gz")
    code, _, errors = verify(case)
    assert code == 1
    words = "has other voxels" if spoil == "voxels" else "puts them up to 2 mm elsewhere"
    assert words in errors


def test_another_model(case: Path) -> None:
    (case / "model.safetensors").unlink()
    code, _, errors = verify(case)
    assert code == 1
    assert "the model model.safetensors was not found" in errors
    code, _, errors = verify(case, "--checkpoint", SAMPLE_DATA / "demo_addm.safetensors")
    assert code == 1
    assert "is another model" in errors


def test_changed_files_are_named(case: Path) -> None:
    path = case / "out" / "scan_anomaly.nii.gz"
    anomaly = read_volume(path)
    rewrite(path, anomaly.with_data(anomaly.data + np.float32(0.25)))
    table = case / "out" / "scan_findings.csv"
    table.write_text(table.read_text() + "99\n")
    (case / "out" / "scan_recon.nii.gz").unlink()
    code, found, _ = verify(case)
    assert (code, found["verdict"]) == (1, "different")
    changed, table_changed, missing = sorted(found["problems"], key=lambda text: "/" in text)
    assert changed == "scan_anomaly.nii.gz was changed since it was saved."
    assert table_changed == "scan_findings.csv was changed since it was saved."
    assert "scan_recon.nii.gz" in missing
    assert found["differences"] == []  # the run gives the recorded maps again


def test_edits_after_saving_are_found(case: Path) -> None:
    path = case / "out" / "scan_labels.nii.gz"
    labels = read_labels(path)
    data = labels.data.copy()
    data[1, 1, 1:8] = 50
    rewrite(path, labels.with_data(data))
    code, found, _ = verify(case)
    assert code == 1
    assert found["problems"] == ["scan_labels.nii.gz was changed since it was saved."]


def test_within_the_tolerance(case: Path) -> None:
    recorded_otherwise(case, 1e-6)
    code, found, _ = verify(case)
    assert (code, found["verdict"]) == (0, "same")
    assert found["environment"].keys() == {"device", "torch"}
    anomaly = next(each for each in found["differences"] if each["what"] == "anomaly")
    assert 0 < anomaly["largest"] < 2e-6
    said = invoke(["verify", case / "out" / "scan_record.json"]).stdout
    assert "within the tolerance" in said
    assert "device cuda:0 then, cpu now" in said


def test_beyond_the_tolerance(case: Path) -> None:
    recorded_otherwise(case, 0.1)
    code, found, _ = verify(case)
    assert (code, found["verdict"]) == (1, "different")
    anomaly = next(each for each in found["differences"] if each["what"] == "anomaly")
    assert anomaly["share"] > 0.02
    assert anomaly["voxels"] > 1000


def test_another_seed_is_different(case: Path) -> None:
    edit_record(case, lambda record: record["settings"].update(seed=1))
    code, found, _ = verify(case)
    assert code == 1
    assert {each["what"] for each in found["differences"]} >= {"anomaly", "uncertainty"}


def test_some_slices(case: Path) -> None:
    settings = DetectionSettings(steps=1, slices=(15,), precision="float32")
    model = case / "model.safetensors"
    request = CaseRequest(case / "scan.nii.gz", case / "some", model, settings=settings)
    record = finish(run_case(request)).paths["record"]
    assert verify_record(record).verdict == "identical"


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
    assert verify_record(record).verdict == "identical"
