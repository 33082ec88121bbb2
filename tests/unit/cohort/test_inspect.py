"""A cohort before it is run: headers, and results of an earlier run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.cli import app as cli
from napari_addm.cohort.case import CaseResult, Shard
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.inspect import InspectedCase, inspect_cohort
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

GRID = np.array([[-2.0, 0, 0, 30], [0, 0, 4.5, -40], [0, 2.0, 0, -20], [0, 0, 0, 1]])
SHAPE = (20, 24, 17)


def write(path: Path, grid: np.ndarray = GRID, shape: tuple[int, ...] = SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).random(shape, dtype=np.float32)
    return write_volume(path, volume_from_native(voxels, grid))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A table with a good case, and one for every way to be a bad one that a header tells."""
    moved = GRID.copy()
    moved[:3, 3] += 10
    write(tmp_path / "scan.nii.gz")
    write(tmp_path / "moved.nii.gz", moved)
    write(tmp_path / "thin.nii.gz", np.diag([1.0, 1.0, 1.5, 1.0]))
    plain = write(tmp_path / "plain.nii").read_bytes()
    (tmp_path / "short.nii").write_bytes(plain[: len(plain) // 2])
    (tmp_path / "web.nii.gz").write_text("<!DOCTYPE html>")
    frames = np.zeros((*SHAPE, 3), np.float32)
    nib.save(nib.Nifti1Image(frames, GRID), tmp_path / "frames.nii.gz")
    rows = [
        ("case", "scan", "truth", "mask"),
        ("good", "scan.nii.gz", "plain.nii", ""),
        ("thin", "thin.nii.gz", "", "thin.nii.gz"),
        ("beside", "scan.nii.gz", "", "moved.nii.gz"),
        ("lost", "scan.nii.gz", "nowhere.nii.gz", ""),
        ("short", "short.nii", "", ""),
        ("web", "web.nii.gz", "", ""),
        ("frames", "frames.nii.gz", "", ""),
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(map(",".join, rows)))
    return table


def inspect(table: Path, output: Path, **options: Any) -> dict[str, InspectedCase]:
    return {f.case.name: f for f in inspect_cohort(find_cohort(table, output), output, **options)}


def test_headers_tell_size_spacing_flags_and_faults(cohort: Path, tmp_path: Path) -> None:
    found = inspect(cohort, tmp_path / "out")
    good = found["good"]
    assert good.shape == SHAPE
    assert good.spacing == pytest.approx((2.0, 2.0, 4.5))
    assert [flag.key for flag in good.flags] == ["slice_thickness"]
    assert (good.problem, good.earlier, good.planned) == ("", None, False)
    assert found["thin"].flags == ()
    faults = {name: f.problem for name, f in found.items() if f.problem}
    for name, said in {
        "beside": "moved.nii.gz lies up to",
        "lost": "nowhere.nii.gz does not exist",
        "short": "short.nii is cut short",
        "web": "web.nii.gz is a web page",
        "frames": "frames.nii.gz is 4D with 3 frames",
    }.items():
        assert said in faults.pop(name), name
    assert not faults
    assert not any(str(tmp_path) in f.problem for f in found.values())
    # as the run would have them
    assert inspect(cohort, tmp_path / "out", resample=True)["beside"].problem == ""
    assert inspect(cohort, tmp_path / "out", frame=2)["frames"].shape == SHAPE
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_known_by_its_states(cohort: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder, cases = CohortFolder(output), find_cohort(cohort, output)
    (output / ".batch").mkdir(parents=True)
    planned = [case for case in cases if case.name != "web"]
    folder.write_plan(Shard(), {}, planned)
    for name, status in (("good", "done"), ("lost", "failed"), ("thin", "skipped")):
        folder.states.write(CaseResult(name, f"{name}.nii.gz", status, anomaly_ml=3.0), "")
    found = inspect(cohort, output)
    assert {name: f.earlier.status for name, f in found.items() if f.earlier} == {
        "good": "done",
        "lost": "failed",
    }
    # one whose writing was cut off is as open as one that was not reached
    assert {name for name, f in found.items() if f.unfinished} == {
        "thin",
        "beside",
        "short",
        "frames",
    }


def test_the_command_lists_and_runs_nothing(cohort: Path, tmp_path: Path) -> None:
    command = ["batch", str(cohort), "-o", str(tmp_path / "out"), "--dry-run"]
    done = invoke(command)
    assert done.exit_code == cli.SOME_FAILED, done.output
    lines = {line.split("\t")[0]: line.split("\t") for line in done.stdout.splitlines()}
    assert lines["good"][1:6] == ["20x24x17", "2x2x4.5", "yes", "", "slice_thickness"]
    assert "is a web page" in lines["web"][-1]
    done = invoke([*command, "--json"])
    rows = {row["case"]: row for row in json.loads(done.stdout)}
    assert rows["thin"]["voxels"] == list(SHAPE)
    assert rows["thin"]["mask"] is True
    assert rows["web"]["voxels"] is None
    assert not (tmp_path / "out").exists()


def test_of_a_skipped_case_nothing_is_read(tmp_path: Path, make_brain: Callable[..., Any]) -> None:
    (tmp_path / "lesion_mask.nii.gz").write_bytes(b"")
    write(tmp_path / "a.nii.gz")
    found = inspect(tmp_path, tmp_path / "out")
    assert found["lesion_mask"].case.skip
    assert (found["lesion_mask"].problem, found["lesion_mask"].shape) == ("", None)
