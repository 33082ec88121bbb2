"""The batch: which cases it finds, what becomes of good and bad ones, and what survives a kill."""

import csv
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import DEMO_CHECKPOINT, Checkpoint, load_checkpoint
from napari_addm.cli import app as cli
from napari_addm.cohort.case import (
    EARLIER,
    NOT_CHOSEN,
    CaseResult,
    CohortCase,
    Shard,
    parse_shard,
)
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.run import BatchProgress, BatchSettings, run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, InputError
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

PATIENT = "DOE^JANE"
QUICK = BatchSettings(detection=DetectionSettings(draws=1), pictures=False)
GRID = np.array([[4, 0, 0, -84], [0, 4, 0, -100], [0, 0, 5, -75], [0, 0, 0, 1.0]])
SHAPE = (42, 50, 30)
LESION = (25.0, 0.0, 5.0, 16.0)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def write_brain(make_brain: Callable[..., Any]) -> Callable[..., Path]:
    """A brain of half a person's size, so that the network has few slices to draw."""

    def write(path: Path, shift: float = 0.0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        x, y, z, radius = LESION
        brain = make_brain(GRID, SHAPE, ((x + shift, y, z, radius),))
        half = GRID @ np.diag([0.5, 0.5, 0.5, 1])
        return write_volume(path, volume_from_native(brain.to_native(), half), overwrite=True)

    return write


def write_truth(path: Path, grid: np.ndarray = GRID, shape: tuple[int, ...] = SHAPE) -> Path:
    index = np.indices(shape).reshape(3, -1)
    place = GRID[:3, :3] @ index + GRID[:3, 3:]
    inside = np.linalg.norm(place.T - LESION[:3], axis=1) < LESION[3]
    half = grid @ np.diag([0.5, 0.5, 0.5, 1])
    labels = inside.reshape(shape).astype(np.uint8)
    return write_volume(path, volume_from_native(labels, half), overwrite=True)


def run(
    source: Path, output: Path, checkpoint: Checkpoint, settings: BatchSettings = QUICK
) -> dict[str, BatchProgress]:
    """Each case's last word; a case that met the network has a ``detect`` before it."""
    found: dict[str, BatchProgress] = {}
    for progress in run_batch(find_cohort(source, output), output, checkpoint, settings):
        if progress.stage == "case":
            found[progress.case] = progress
    return found


def manifest(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def results(output: Path) -> dict[str, bytes]:
    """All files of the cases: what has to be the same, however a run went."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and HIDDEN not in path.parts and path.name != "manifest.csv"
    }


# --- which cases there are -----------------------------------------------------------------------


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(cases: list[CohortCase]) -> dict[str, str]:
    return {case.name: case.skip for case in cases}


def test_a_folder_gives_its_scans_with_the_folders_in_it(tmp_path: Path) -> None:
    touch(
        tmp_path / "a.nii.gz",
        tmp_path / "b.mgz",
        tmp_path / "b_mask.nii.gz",
        tmp_path / "notes.txt",
        tmp_path / ".hidden.nii",
        tmp_path / "pair.hdr",
        tmp_path / "pair.img",
        tmp_path / "deep" / "er" / "a.nii",
        tmp_path / "out" / "a" / "a_labels.nii.gz",
        tmp_path / "before" / "x_anomaly.nii.gz",
        tmp_path / "twice.nii",
        tmp_path / "twice.nii.gz",
    )
    found = listed(find_cohort(tmp_path, tmp_path / "out"))
    assert found == {
        "a": "",
        "b": "",
        "b_mask": "named as labels, not as a scan",
        "deep/er/a": "",
        "pair": "",
        "twice.nii": "",
        "twice.nii.gz": "",
    }


def test_a_pattern_is_named_from_its_last_fixed_folder(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "t1.nii.gz", tmp_path / "y" / "t1.nii.gz", tmp_path / "y" / "t2.nii.gz")
    found = find_cohort(str(tmp_path / "*" / "t1.nii.gz"), tmp_path / "out")
    assert [(case.name, case.input) for case in found] == [
        ("x/t1", "x/t1.nii.gz"),
        ("y/t1", "y/t1.nii.gz"),
    ]


def test_of_a_bids_dataset_only_plain_t1w_is_taken(tmp_path: Path) -> None:
    touch(
        tmp_path / "dataset_description.json",
        tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz",
        tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz",
        tmp_path / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz",
        tmp_path / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_run-1_T1w.nii.gz",
        tmp_path / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_run-2_T1w.nii.gz",
        tmp_path / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_ce-gd_T1w.nii.gz",
        tmp_path / "derivatives" / "x" / "sub-01" / "anat" / "sub-01_T1w.nii.gz",
    )
    cases = find_cohort(tmp_path, tmp_path / "derivatives" / "addm")
    taken = {case.name: case.folder for case in cases if not case.skip}
    assert taken == {
        "sub-01": "sub-01/anat",
        "sub-02_ses-1_run-1": "sub-02/ses-1/anat",
        "sub-02_ses-1_run-2": "sub-02/ses-1/anat",
    }
    assert {case.input: case.skip.split(" (")[0] for case in cases if case.skip} == {
        "sub-01/anat/sub-01_T2w.nii.gz": "not a T1w image",
        "sub-02/ses-1/anat/sub-02_ses-1_ce-gd_T1w.nii.gz": "a T1w image after contrast agent",
    }


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_names_scans_truths_and_masks(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["Case", "age", "scan", "ground_truth", "mask"],
        ["one", "7", "in/1.nii", "in/1_lesion.nii", ""],
        ["", "8", "in/2.nii.gz", "", "in/2_mask.nii"],
        ["", "", "", "", ""],
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    one, two = sorted(find_cohort(table, tmp_path / "out"), key=lambda case: case.input)
    assert (one.name, one.truth, one.mask) == ("one", tmp_path / "in" / "1_lesion.nii", None)
    assert (two.name, two.scan) == ("in/2", tmp_path / "in" / "2.nii.gz")
    assert two.mask == tmp_path / "in" / "2_mask.nii"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,truth\na.nii,b.nii\n", "no column scan"),
        ("scan,case\na.nii,x\nb.nii,x\n", "names the case x twice"),
        ("scan,case\na.nii,../x\n", "line 2: the case cannot be named '../x'"),
        ("scan,case\na.nii,/x\n", "cannot be named '/x'"),
        ("scan,case\n,x\n", "line 2: there is no scan"),
        ("scan\n", "holds no scan"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        find_cohort(table, tmp_path / "out")


def test_inputs_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    for source, said in (
        (tmp_path, "holds no scan"),
        (tmp_path / "no", "does not exist"),
        (str(tmp_path / "*.nii"), "holds no scan"),
    ):
        with pytest.raises(InputError, match=said):
            find_cohort(source, tmp_path / "out")
    touch(tmp_path / "a.nii")
    with pytest.raises(InputError, match="input and output at once"):
        find_cohort(tmp_path, tmp_path)


def test_shards_share_the_cases_and_keep_sessions_together() -> None:
    cases = [CohortCase(f"c{n}", "", Path("x"), root=f"f{n // 2}") for n in range(14)]
    parts = [Shard(i, 3).select(cases) for i in (1, 2, 3)]
    assert sorted(case.name for part in parts for case in part) == sorted(c.name for c in cases)
    folders = [{case.folder for case in part} for part in parts]
    assert sum(map(len, folders)) == len(set.union(*folders)) == 7
    assert max(map(len, parts)) - min(map(len, parts)) <= 2
    for text in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(AddmError, match="has to be i/n"):
            parse_shard(text)


# --- good and bad cases --------------------------------------------------------------------------


def plant_bad(folder: Path, good: Path) -> dict[str, str]:
    """Ten and more ways to be no scan; for each case what its reason has to say."""
    stored = good.read_bytes()
    plain = gzip.decompress(stored)
    image = nib.load(good)
    data = np.asarray(image.dataobj)

    def save(name: str, data: np.ndarray, affine: np.ndarray | None = None) -> None:
        nib.save(nib.Nifti1Image(data, image.affine), folder / name)
        if affine is not None:
            content = bytearray((folder / name).read_bytes())
            content[280:328] = affine[:3].astype("<f4").tobytes()
            content[252:254] = b"\0\0"  # no quaternion to fall back on
            (folder / name).write_bytes(content)

    (folder / "truncated.nii.gz").write_bytes(stored[: len(stored) // 2])
    flipped = bytearray(stored)
    flipped[-6] ^= 0xFF
    (folder / "crc.nii.gz").write_bytes(flipped)
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "html.nii.gz").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "short.nii").write_bytes(plain[:5000])
    save("flat.nii", data[:, :, 0])
    save("five.nii", np.stack([np.stack([data] * 2, -1)] * 2, -1))
    save("nan.nii", np.full_like(data, np.nan))
    save("constant.nii", np.full_like(data, 7))
    save("singular.nii", data, np.diag([1.0, 1.0, 0.0, 1.0]))
    (folder / "gone.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    (folder / "folder.nii").mkdir()
    (folder / "folder.nii" / "inside.txt").write_text("")
    reasons = {
        "truncated": "is cut short",
        "crc": "checksum",
        "empty": "is empty",
        "html": "is a web page",
        "short": "is cut short",
        "flat": "2D picture",
        "five": "5 dimensions",
        "nan": "all NaN",
        "constant": "same value",
        "singular": "singular affine",
        "gone": "does not exist",
    }
    if os.geteuid() != 0:  # root reads everything
        (folder / "locked.nii.gz").write_bytes(stored)
        (folder / "locked.nii.gz").chmod(0)
        reasons["locked"] = "cannot be opened"
    return reasons


def name_the_patient(path: Path) -> None:
    """Write a patient's name wherever a NIfTI and its gzip header have room."""
    image = nib.load(path)
    for text in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[text] = PATIENT.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT.encode()))
    content = image.to_bytes()
    with path.open("wb") as file, gzip.GzipFile(f"{PATIENT}.nii", "wb", fileobj=file) as packed:
        packed.write(content)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_brain: Callable[..., Path]) -> Path:
    """Good cases with and without truth and mask, and every bad one, in a table."""
    folder = tmp_path_factory.mktemp(PATIENT) / "scans"
    good = write_brain(folder / "good.nii.gz")
    name_the_patient(good)
    write_brain(folder / "second.nii.gz", 8.0)
    write_truth(folder / "lesion.nii.gz")
    other = GRID.copy()
    other[:3, 3] += 30
    write_truth(folder / "elsewhere.nii.gz", other)
    mask = nib.load(folder / "second.nii.gz")
    nib.save(
        nib.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.uint8), mask.affine),
        folder / "brain.nii.gz",
    )
    rows = [
        ("scan", "case", "truth", "mask"),
        ("good.nii.gz", "", "lesion.nii.gz", ""),
        ("second.nii.gz", "group/second", "", "brain.nii.gz"),
        ("second.nii.gz", "wrong_truth", "elsewhere.nii.gz", ""),
        ("second.nii.gz", "wrong_mask", "", "elsewhere.nii.gz"),
        ("second.nii.gz", "lost_truth", "nothing.nii.gz", ""),
    ]
    reasons = plant_bad(folder, good)
    rows += [(path.name, "", "", "") for path in sorted(folder.iterdir()) if _is(path, reasons)]
    (folder / "cases.csv").write_text("\n".join(",".join(row) for row in rows))
    reasons |= {
        "wrong_truth": "elsewhere.nii.gz lies up to",
        "wrong_mask": "add --resample to bring it there",
        "lost_truth": "nothing.nii.gz does not exist",
    }
    (folder / "reasons.json").write_text(json.dumps(reasons))
    return folder


def _is(path: Path, reasons: dict[str, str]) -> bool:
    return path.name.split(".")[0] in reasons


@pytest.fixture(scope="module")
def finished(
    cohort: Path, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of an undisturbed run over all of them, with pictures."""
    output = tmp_path_factory.mktemp("finished") / "out"
    settings = BatchSettings(detection=QUICK.detection)
    run(cohort / "cases.csv", output, checkpoint, settings)
    return output


def test_every_good_case_is_done_and_every_bad_one_named(cohort: Path, finished: Path) -> None:
    reasons = json.loads((cohort / "reasons.json").read_text())
    rows = manifest(finished)
    assert {name for name, row in rows.items() if row["status"] == "done"} == {
        "good",
        "group/second",
    }
    assert rows.keys() - {"good", "group/second"} == reasons.keys()
    for name, words in reasons.items():
        assert rows[name]["status"] == "failed"
        assert words in rows[name]["reason"], name
        assert "bug" not in rows[name]["reason"]
        assert not (finished / name).exists()
    good, second = rows["good"], rows["group/second"]
    assert 0 <= float(good["dice"]) <= 1
    assert second["dice"] == ""
    assert float(second["seconds"]) > 0
    assert "brain_volume" in good["qc"].split()


def test_a_case_has_the_files_of_detect_and_their_figures(finished: Path) -> None:
    row = manifest(finished)["good"]
    names = {path.name for path in (finished / "good").iterdir()}
    assert {"good_anomaly.nii.gz", "good_labels.nii.gz", "good_overlay.png"} <= names
    with (finished / "good" / "good_findings.csv").open(newline="") as file:
        volumes = [float(found["volume_ml"]) for found in csv.DictReader(file)]
    assert len(volumes) == int(row["findings"])
    assert sum(volumes) == pytest.approx(float(row["anomaly_ml"]), abs=0.01)
    record = json.loads((finished / "good" / "good_record.json").read_text())
    assert record["metrics"]["dice"] == pytest.approx(float(row["dice"]), abs=1e-5)


def test_no_name_of_a_patient_is_told_anywhere(cohort: Path, finished: Path) -> None:
    assert PATIENT.encode() in gzip.decompress((cohort / "good.nii.gz").read_bytes())
    # Three letters occur by chance in compressed data, in text they do not.
    name = re.compile(rb"DOE.{0,3}JANE", re.DOTALL | re.IGNORECASE)
    assert name.search(PATIENT.encode())
    texts = 0
    for path in finished.rglob("*"):
        assert "DOE" not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert not name.search(content), path
            if path.name.endswith(".gz"):
                assert not name.search(gzip.decompress(content)), path
            elif path.suffix in (".json", ".csv", ".html"):
                assert b"DOE" not in content, path
                texts += 1
    assert texts >= 3


def test_the_command_says_by_its_exit_code_that_some_failed(
    cohort: Path, finished: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    command = ["batch", str(cohort / "cases.csv"), "-o", str(output), "--draws", "1", "--json"]
    done = invoke(command)
    assert done.exit_code == cli.SOME_FAILED, done.output
    summary = json.loads(done.stdout)
    assert (summary["done"], summary["skipped"]) == (2, 0)
    assert summary["failed"] == len(json.loads((cohort / "reasons.json").read_text()))
    assert "good: unchanged" in done.stderr
    assert "html.nii.gz is a web page" in done.stderr
    assert "DOE" not in done.stderr
    assert results(output) == results(finished)


# --- resuming ------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, write_brain: Callable[..., Path]) -> Path:
    for n in range(2):
        write_brain(tmp_path / "in" / f"{n}.nii.gz", 6.0 * n)
    return tmp_path / "in"


def test_only_what_changed_runs_again(
    small: Path, tmp_path: Path, checkpoint: Checkpoint, write_brain: Callable[..., Path]
) -> None:
    output = tmp_path / "out"
    first = run(small, output, checkpoint)
    assert [found.unchanged for found in first.values()] == [False, False]
    undisturbed, seconds = results(output), manifest(output)["0"]["seconds"]

    again = run(small, output, checkpoint)
    assert [found.unchanged for found in again.values()] == [True, True]
    assert manifest(output)["0"]["seconds"] == seconds

    # that a file exists is no proof: neither for a changed one nor beside a missing one
    labels = output / "0" / "0_labels.nii.gz"
    labels.write_bytes(b"something else")
    (output / "1" / "1_record.json").unlink()
    again = run(small, output, checkpoint)
    found = again["0"].result
    assert found is not None
    assert found.unchecked
    assert found.reason.startswith("not checked: 0_labels.nii.gz was changed after the batch")
    assert labels.read_bytes() == b"something else"  # it may be somebody's work
    assert again["1"].unchanged is False
    labels.unlink()
    again = run(small, output, checkpoint)
    assert {name: found.unchanged for name, found in again.items()} == {"0": False, "1": True}
    assert results(output) == undisturbed

    write_brain(small / "1.nii.gz", -9.0)
    again = run(small, output, checkpoint)
    assert {name: found.unchanged for name, found in again.items()} == {"0": True, "1": False}

    other = BatchSettings(detection=QUICK.detection, threshold=0.2, pictures=False)
    again = run(small, output, checkpoint, other)
    assert [found.unchanged for found in again.values()] == [False, False]
    record = json.loads((output / "0" / "0_record.json").read_text())
    assert record["threshold"] == 0.2


def test_a_run_of_some_cases_leaves_the_rows_of_the_others(
    small: Path, tmp_path: Path, checkpoint: Checkpoint, write_brain: Callable[..., Path]
) -> None:
    output = tmp_path / "out"
    for name in ("bad", "worse"):
        (small / f"{name}.nii.gz").write_bytes(b"")
    run(small, output, checkpoint)
    before = manifest(output)
    touch(small / "late.nii.gz")
    write_brain(small / "bad.nii.gz", 3.0)
    cases = find_cohort(small, output)
    failed = CohortFolder(output).states.failed(cases)
    assert failed == {"bad", "worse"}
    steps = run_batch(cases, output, checkpoint, QUICK, only=["bad"])
    met = [progress for progress in steps if progress.stage in ("case", "finish")]
    assert [progress.case for progress in met] == ["bad", ""]
    assert (met[-1].finished, met[-1].total, met[-1].failed) == (1, 1, 0)
    after = manifest(output)
    assert after["bad"]["status"] == "done"
    assert after["worse"] == before["worse"]
    assert after["0"] == {**before["0"], "reason": EARLIER}
    assert (after["late"]["status"], after["late"]["reason"]) == ("skipped", NOT_CHOSEN)
    assert CohortFolder(output).states.failed(cases) == {"worse"}

    command = ["batch", str(small), "-o", str(output), "--draws", "1", "--no-pictures"]
    again = invoke([*command, "--retry-failed"])
    assert again.exit_code == cli.SOME_FAILED, again.output
    assert "1/1 worse: failed" in again.stderr
    assert "0: unchanged" not in again.stderr
    (small / "worse.nii.gz").unlink()
    nothing = invoke([*command, "--retry-failed"])
    assert nothing.exit_code == 1
    assert "has no failed case" in nothing.stderr


def test_a_stopped_run_keeps_what_is_done_and_says_what_is_not(
    small: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    output = tmp_path / "out"
    steps = run_batch(find_cohort(small, output), output, checkpoint, QUICK)
    for progress in steps:
        if progress.stage == "detect" and progress.case == "1":
            break
    with pytest.raises(AddmError, match="being written by another run"):
        next(run_batch(find_cohort(small, output), output, checkpoint, QUICK))
    steps.close()
    rows = manifest(output)
    assert (rows["0"]["status"], rows["1"]["status"]) == ("done", "skipped")
    assert rows["1"]["reason"] == "not reached: the run was stopped"
    again = run(small, output, checkpoint)
    assert {name: found.unchanged for name, found in again.items()} == {"0": True, "1": False}


def test_shards_may_run_side_by_side_and_nothing_else_may(
    small: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    output = tmp_path / "out"
    cases = find_cohort(small, output)

    def start(shard: Shard) -> Iterator[BatchProgress]:
        return run_batch(cases, output, checkpoint, QUICK, shard)

    first, second = start(Shard(1, 2)), start(Shard(2, 2))
    next(first)
    next(second)
    for other in (Shard(1, 2), Shard(), Shard(1, 3)):
        with pytest.raises(AddmError, match="another run"):
            next(start(other))
    *_, last = first
    assert (last.finished, last.failed) == (1, 0)
    *_, last = second
    assert (last.finished, last.failed) == (1, 0)
    found = [json.loads(p.read_text())["case"] for p in (output / HIDDEN / "cases").iterdir()]
    assert sorted(found) == ["0", "1"]


def test_files_of_others_and_inputs_are_never_replaced(
    small: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    output = tmp_path / "out"
    mine = output / "0" / "0_labels.nii.gz"
    touch(mine)
    for _ in range(2):  # a failure does not make them ours
        found = run(small, output, checkpoint)
        assert found["0"].result is not None
        assert "is of no run of this batch" in found["0"].result.reason
        assert mine.read_bytes() == b"x"

    table = tmp_path / "table.csv"
    shutil.copy(small / "0.nii.gz", mine)
    table.write_text(f"scan,case,truth\n{small / '0.nii.gz'},0,{mine}\n")
    with pytest.raises(AddmError, match="is an input"):
        next(run_batch(find_cohort(table, output), output, checkpoint, QUICK))
    assert mine.read_bytes() == (small / "0.nii.gz").read_bytes()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_stops_the_run_and_nothing_is_half_written(
    small: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system does not let a small disk be mounted")
    try:
        output = disk / "out"
        output.mkdir()
        # room for states and manifests, not for a second case
        run(small / "0.nii.gz", output, checkpoint)
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(max(0, free - 40_000)))
        steps = run_batch(find_cohort(small, output), output, checkpoint, QUICK)
        with pytest.raises(AddmError, match=r"takes no more files \(No space left"):
            list(steps)
        rows = manifest(output)
        assert rows["0"]["status"] == "done"
        assert rows["1"]["reason"] == "not reached: the output folder takes no more files"
        assert not [path for path in (output / "1").glob("*") if path.is_file()]
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = run(small, output, checkpoint)
        assert {name: found.unchanged for name, found in again.items()} == {"0": True, "1": False}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


CHILD = """
import sys
from napari_addm.cohort.run import BatchSettings, run_batch
from napari_addm.checkpoint.file import DEMO_CHECKPOINT, load_checkpoint
from napari_addm.cohort.find import find_cohort
from napari_addm.detection.settings import DetectionSettings
source, output = sys.argv[1:]
checkpoint = load_checkpoint(DEMO_CHECKPOINT)
settings = BatchSettings(detection=DetectionSettings(draws=1), pictures=False)
for progress in run_batch(find_cohort(source, output), output, checkpoint, settings):
    if progress.stage == "detect":
        print(progress.case, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_killed_at_random_moments_it_ends_as_if_undisturbed(
    small: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    calm = tmp_path / "calm"
    run(small, calm, checkpoint)
    output = tmp_path / "out"
    moments = random.Random(int(time.time()))
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(small), str(output)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 2))
        child.kill()
        child.wait()
        child.stdout.close()
        for row in manifest(output).values():
            assert row["status"] in ("done", "skipped")
    run(small, output, checkpoint)
    assert results(output) == results(calm)
    assert not list(output.rglob("*.part"))
    assert {row["status"] for row in manifest(output).values()} == {"done"}


def test_a_result_knows_what_it_is() -> None:
    """The rows that other parts build on have their defaults."""
    row = CaseResult("a", "a.nii", "failed", "why")
    assert (row.seconds, row.dice, row.qc, dict(row.files)) == (None, None, (), {})
