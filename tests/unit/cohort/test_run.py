"""What becomes of good and bad cases, and which of them run again."""

import csv
import gzip
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohorts import GRID, SETTINGS, SHAPE, Trial, WriteBrain

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import EARLIER, NOT_CHOSEN, Shard
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.run import BatchProgress, run_batch
from napari_addm.errors import AddmError
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

PATIENT = "DOE^JANE"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


# --- good and bad cases --------------------------------------------------------------------------


def write_bad_scans(folder: Path, good: Path) -> dict[str, str]:
    """Write many files that are no scans; returns for each case what its reason has to say."""
    stored, image = good.read_bytes(), nib.load(good)
    data = np.asarray(image.dataobj)
    flipped = bytearray(stored)
    flipped[-6] ^= 0xFF
    (folder / "truncated.nii.gz").write_bytes(stored[: len(stored) // 2])
    (folder / "crc.nii.gz").write_bytes(flipped)
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "html.nii.gz").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "short.nii").write_bytes(gzip.decompress(stored)[:5000])
    (folder / "gone.nii.gz").symlink_to(folder / "DOE,  JANE" / "nowhere.nii.gz")
    for name, voxels in {
        "flat": data[:, :, 0],
        "five": np.stack([np.stack([data] * 2, -1)] * 2, -1),
        "nan": np.full_like(data, np.nan),
        "constant": np.full_like(data, 7),
        "singular": data,
    }.items():
        nib.save(nib.Nifti1Image(voxels, image.affine), folder / f"{name}.nii")
    header = bytearray((folder / "singular.nii").read_bytes())
    header[280:328] = np.diag([1.0, 1.0, 0.0, 1.0])[:3].astype("<f4").tobytes()
    header[252:254] = b"\0\0"  # no quaternion to fall back on
    (folder / "singular.nii").write_bytes(header)
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
def mixed(
    tmp_path_factory: pytest.TempPathFactory,
    write_brain: WriteBrain,
    checkpoint: Checkpoint,
) -> tuple[Trial, dict[str, str]]:
    """A finished batch of good scans and bad ones, with pictures, and the reasons of the bad."""
    root = tmp_path_factory.mktemp(PATIENT)
    scans = root / "scans"
    good = write_brain(scans / "good.nii.gz")
    name_the_patient(good)
    write_brain(scans / "second.nii.gz", 2)
    truth = (np.indices(SHAPE).sum(0) % 7 == 0).astype(np.uint8)
    moved = GRID + np.pad(np.full((3, 1), 30.0), ((0, 1), (3, 0)))
    for name, voxels, grid in (
        ("lesion", truth, GRID),
        ("elsewhere", truth, moved),
        ("brain", np.ones(SHAPE, np.uint8), GRID),
    ):
        write_volume(scans / f"{name}.nii.gz", volume_from_native(voxels, grid))
    rows = [
        "scan,case,truth,mask",
        "good.nii.gz,,lesion.nii.gz,",
        "second.nii.gz,group/second,,brain.nii.gz",
        "second.nii.gz,wrong_truth,elsewhere.nii.gz,",
        "second.nii.gz,wrong_mask,,elsewhere.nii.gz",
        "second.nii.gz,lost_truth,nothing.nii.gz,",
    ]
    reasons = write_bad_scans(scans, good)
    rows += [f"{p.name},,," for p in sorted(scans.iterdir()) if p.name.split(".")[0] in reasons]
    (scans / "cases.csv").write_text("\n".join(rows))
    reasons |= {
        "wrong_truth": "elsewhere.nii.gz lies up to",
        "wrong_mask": "add --resample to bring it there",
        "lost_truth": "nothing.nii.gz does not exist",
    }
    trial = Trial(scans / "cases.csv", root / "out", checkpoint.path)
    settings = BatchSettings(SETTINGS.detection, threshold=0.01)
    list(run_batch(trial.cases, trial.output, checkpoint, settings))
    return trial, reasons


def test_good_cases_are_done_and_bad_ones_are_named(mixed: tuple[Trial, dict[str, str]]) -> None:
    trial, reasons = mixed
    rows = trial.rows
    good, second = rows.pop("good"), rows.pop("group/second")
    assert good["status"] == second["status"] == "done"
    assert rows.keys() == reasons.keys()
    for name, words in reasons.items():
        assert rows[name]["status"] == "failed"
        assert words in rows[name]["reason"], name
        assert "bug" not in rows[name]["reason"]
        assert not (trial.output / name).exists()
    assert 0 <= float(good["dice"]) <= 1
    assert second["dice"] == ""
    assert float(second["seconds"]) > 0
    assert good["qc"] == "slice_thickness"


def test_a_case_has_the_files_of_detect_and_their_figures(
    mixed: tuple[Trial, dict[str, str]],
) -> None:
    trial, _ = mixed
    row, folder = trial.rows["good"], trial.output / "good"
    names = {path.name for path in folder.iterdir()}
    assert {"good_anomaly.nii.gz", "good_labels.nii.gz", "good_overlay.png"} <= names
    with (folder / "good_findings.csv").open(newline="") as file:
        volumes = [float(found["volume_ml"]) for found in csv.DictReader(file)]
    assert len(volumes) == int(row["findings"])
    assert sum(volumes) == pytest.approx(float(row["anomaly_ml"]), abs=0.01)
    record = json.loads((folder / "good_record.json").read_text())
    assert record["metrics"]["dice"] == pytest.approx(float(row["dice"]), abs=1e-5)


def test_no_file_holds_the_name_of_a_patient(mixed: tuple[Trial, dict[str, str]]) -> None:
    trial, _ = mixed
    scan = Path(trial.source).with_name("good.nii.gz")
    assert PATIENT.encode() in gzip.decompress(scan.read_bytes())
    # Three letters occur by chance in compressed data, in text they do not.
    name = re.compile(rb"DOE.{0,3}JANE", re.DOTALL | re.IGNORECASE)
    assert name.search(PATIENT.encode())
    files = [path for path in trial.output.rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix in (".json", ".csv", ".html")]
    for path in files:
        content = path.read_bytes()
        assert "DOE" not in path.name
        assert not name.search(content), path
        if path.name.endswith(".gz"):
            assert not name.search(gzip.decompress(content)), path
    assert len(texts) >= 3
    assert not any(b"DOE" in path.read_bytes() for path in texts)


def test_the_exit_code_says_that_some_failed(
    mixed: tuple[Trial, dict[str, str]], tmp_path: Path
) -> None:
    finished, reasons = mixed
    output = shutil.copytree(finished.output, tmp_path / "out")
    done = Trial(finished.source, output, finished.checkpoint).fails("--json", "--pictures")
    summary = json.loads(done.stdout)
    assert (summary["done"], summary["failed"], summary["skipped"]) == (2, len(reasons), 0)
    assert "good: unchanged" in done.stderr
    assert "html.nii.gz is a web page" in done.stderr
    assert "DOE" not in done.stderr
    assert Trial(finished.source, output, finished.checkpoint).files == finished.files


# --- running again -------------------------------------------------------------------------------


def unchanged(
    trial: Trial, checkpoint: Checkpoint, settings: BatchSettings = SETTINGS
) -> dict[str, bool]:
    """Run a batch; returns for each case whether it was there already."""
    steps = run_batch(trial.cases, trial.output, checkpoint, settings)
    return {progress.case: progress.unchanged for progress in steps if progress.stage == "case"}


def test_only_what_changed_runs_again(
    folder: Trial, checkpoint: Checkpoint, write_brain: WriteBrain
) -> None:
    before, rows = folder.files, folder.rows
    assert unchanged(folder, checkpoint) == dict.fromkeys("abc", True)
    assert folder.rows == rows

    # That a file exists proves nothing: neither if it was changed, nor beside a missing one.
    labels = folder.output / "a" / "a_labels.nii.gz"
    labels.write_bytes(b"something else")
    (folder.output / "b" / "b_record.json").unlink()
    assert unchanged(folder, checkpoint) == {"a": True, "b": False, "c": True}
    reason = folder.rows["a"]["reason"]
    assert reason.startswith("not checked: a_labels.nii.gz was changed after the batch")
    assert labels.read_bytes() == b"something else"  # it may be somebody's work
    labels.unlink()
    assert unchanged(folder, checkpoint) == {"a": False, "b": True, "c": True}
    assert folder.files == before

    write_brain(folder.root / "in" / "b.nii.gz", 3)
    assert unchanged(folder, checkpoint) == {"a": True, "b": False, "c": True}
    other = BatchSettings(SETTINGS.detection, threshold=0.2, pictures=False)
    assert unchanged(folder, checkpoint, other) == dict.fromkeys("abc", False)
    record = json.loads((folder.output / "a" / "a_record.json").read_text())
    assert record["threshold"] == 0.2


def test_a_run_of_some_cases_leaves_the_rows_of_the_others(
    folder: Trial, checkpoint: Checkpoint, write_brain: WriteBrain
) -> None:
    source = folder.root / "in"
    for name in ("bad", "worse"):
        (source / f"{name}.nii.gz").write_bytes(b"")
    folder.fails()
    before = folder.rows
    (source / "late.nii.gz").write_bytes(b"x")
    write_brain(source / "bad.nii.gz", 3)
    failed = CohortFolder(folder.output).states.failed
    assert failed(folder.cases) == {"bad", "worse"}
    steps = run_batch(folder.cases, folder.output, checkpoint, SETTINGS, only=["bad"])
    met = [progress for progress in steps if progress.stage in ("case", "finish")]
    assert [progress.case for progress in met] == ["bad", ""]
    assert (met[-1].finished, met[-1].total, met[-1].failed) == (1, 1, 0)
    after = folder.rows
    assert after["bad"]["status"] == "done"
    assert after["worse"] == before["worse"]
    assert after["a"] == {**before["a"], "reason": EARLIER}
    assert (after["late"]["status"], after["late"]["reason"]) == ("skipped", NOT_CHOSEN)
    assert failed(folder.cases) == {"worse"}

    again = folder.fails("--retry-failed")
    assert "1/1 worse: failed" in again.stderr
    assert "a: unchanged" not in again.stderr
    (source / "worse.nii.gz").unlink()
    assert "has no failed case" in folder.run("--retry-failed", code=1).stderr


def test_a_stopped_run_keeps_what_is_done_and_says_what_is_not(
    new: Trial, checkpoint: Checkpoint, write_brain: WriteBrain
) -> None:
    for n in range(2):
        write_brain(Path(new.source, f"{n}.nii.gz"), n)
    steps = run_batch(new.cases, new.output, checkpoint, SETTINGS)
    next(progress for progress in steps if (progress.stage, progress.case) == ("detect", "1"))
    with pytest.raises(AddmError, match="being written by another run"):
        next(run_batch(new.cases, new.output, checkpoint, SETTINGS))
    steps.close()
    assert (new.rows["0"]["status"], new.rows["1"]["status"]) == ("done", "skipped")
    assert new.rows["1"]["reason"] == "not reached: the run was stopped"
    assert unchanged(new, checkpoint) == {"0": True, "1": False}


def test_only_shards_of_one_number_may_run_side_by_side(
    new: Trial, checkpoint: Checkpoint, write_brain: WriteBrain
) -> None:
    for n in range(2):
        write_brain(Path(new.source, f"{n}.nii.gz"), n)

    def start(shard: Shard) -> Iterator[BatchProgress]:
        return run_batch(new.cases, new.output, checkpoint, SETTINGS, shard)

    first, second = start(Shard(1, 2)), start(Shard(2, 2))
    next(first)
    next(second)
    for other in (Shard(1, 2), Shard(), Shard(1, 3)):
        with pytest.raises(AddmError, match="another run"):
            next(start(other))
    for run in (first, second):
        *_, last = run
        assert (last.finished, last.failed) == (1, 0)
    found = [json.loads(p.read_text())["case"] for p in (new.output / HIDDEN / "cases").iterdir()]
    assert sorted(found) == ["0", "1"]


def test_files_of_other_people_and_inputs_are_never_replaced(
    folder: Trial, checkpoint: Checkpoint
) -> None:
    new = Trial(folder.source, folder.root / "new", folder.checkpoint)
    mine, scan = new.output / "a" / "a_labels.nii.gz", folder.root / "in" / "a.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"x")
    for _ in range(2):  # a failure does not make them ours
        new.fails()
        assert "is of no run of this batch" in new.rows["a"]["reason"]
        assert mine.read_bytes() == b"x"
    shutil.copy(scan, mine)
    table = folder.root / "table.csv"
    table.write_text(f"scan,case,truth\n{scan},a,{mine}\n")
    with pytest.raises(AddmError, match="is an input"):
        next(run_batch(new.of(table).cases, new.output, checkpoint, SETTINGS))
    assert mine.read_bytes() == scan.read_bytes()
