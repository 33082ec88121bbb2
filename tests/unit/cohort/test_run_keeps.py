"""What a batch never does: lose a finished result, or touch a file that is not its own."""

import builtins
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.cli import app as cli
from napari_addm.cohort.case import Shard
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.report import read_cohort, write_cohort_report
from napari_addm.cohort.run import BatchSettings, run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.io.writing import write_volume

GRID = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
SETTINGS = BatchSettings(detection=DetectionSettings(device="cpu"), threshold=0.01, pictures=False)
NOTES = "keep me"

Brain = Callable[[int], Volume]


@pytest.fixture(scope="module")
def brain(make_brain: Callable[..., Any]) -> Brain:
    """The n-th brain, each with a lesion of another size."""
    return lambda n: make_brain(GRID, SHAPE, ((25.0, -20.0, 15.0, 12.0 + 4 * n),))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def first_run(
    brain: Brain, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of scans with a table, and the finished batches of both."""
    root = tmp_path_factory.mktemp("first")
    for n, name in enumerate("abc"):
        write(root / "in" / f"{name}.nii.gz", brain(n))
    truth = (np.indices(SHAPE).sum(0) % 7 == 0).astype(np.uint8)
    labels = volume_from_native(truth, GRID)
    write(root / "labels" / "truth.nii.gz", labels)
    whole = volume_from_native(np.ones(SHAPE, np.uint8), GRID)
    write(root / "labels" / "mask.nii.gz", whole)
    (root / "cases.csv").write_text(
        "case,scan,truth,mask\n"
        "one,in/a.nii.gz,labels/truth.nii.gz,\n"
        "two,in/b.nii.gz,,labels/mask.nii.gz\n"
        "three,in/c.nii.gz,,\n"
    )
    for source, output in (("cases.csv", "table_out"), ("in", "folder_out")):
        done = batch(root / source, root / output, tiny_checkpoint)
        assert done.exit_code == 0, done.output
    return root


def write(path: Path, volume: Volume) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, volume, overwrite=True)


@pytest.fixture
def root(first_run: Path) -> Path:
    """All of it anew in the same place, as a result belongs to one; a test may change it."""
    kept = first_run.with_name(f"{first_run.name} kept")
    if not kept.exists():
        shutil.copytree(first_run, kept)
    shutil.rmtree(first_run)
    return Path(shutil.copytree(kept, first_run))


def batch(source: object, output: Path, checkpoint: Path, *more: str) -> Any:
    """The command, as a user gives it."""
    options = ["--checkpoint", str(checkpoint), "--device", "cpu", "--no-pictures"]
    if "--threshold" not in more:
        options += ["--threshold", "0.01"]
    return invoke(["batch", str(source), "-o", str(output), *options, *more])


def manifest(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def files(output: Path) -> dict[str, bytes]:
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and HIDDEN not in path.parts and path.name not in OURS
        if not path.name.startswith("manifest_shard")
        if path.suffix != ".lock"  # which a killed run leaves, and the next one takes
    }


OURS = ("manifest.csv", "report.html", "report.csv", "report.json")


def reported(output: Path) -> dict[str, tuple[str, str]]:
    """What the page says of each case."""
    write_cohort_report(output)
    return {e.result.case: (e.result.status, e.result.reason) for e in read_cohort(output).entries}


# --- scans that cannot be read for a moment ------------------------------------------------------


def gone(scan: Path) -> None:
    scan.unlink()


def folder_gone(scan: Path) -> None:
    scan.parent.rename(scan.parent.with_name("elsewhere"))


def dangling(scan: Path) -> None:
    scan.unlink()
    scan.symlink_to(scan.with_name("nowhere"))


def directory(scan: Path) -> None:
    scan.unlink()
    scan.mkdir()


def truncated(scan: Path) -> None:
    scan.write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])


def empty(scan: Path) -> None:
    scan.write_bytes(b"")


def pipe(scan: Path) -> None:
    scan.unlink()
    os.mkfifo(scan)


def loop(scan: Path) -> None:
    scan.unlink()
    scan.symlink_to(scan)


WAYS = [gone, folder_gone, dangling, directory, truncated, empty, pipe, loop]


@pytest.mark.parametrize("way", WAYS)
def test_a_finished_case_whose_scan_cannot_be_read_keeps_files_and_row(
    root: Path, tiny_checkpoint: Path, way: Callable[[Path], None]
) -> None:
    table, output = root / "cases.csv", root / "table_out"
    before, rows = files(output), manifest(output)
    shutil.copytree(root / "in", root / "kept")
    way(root / "in" / "b.nii.gz")
    lost = {"two"} if way is not folder_gone else {"one", "two", "three"}

    done = batch(table, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED, done.stderr
    assert f"3 done ({len(lost)} of them not checked), 0 failed" in done.stderr
    assert "two: done, as an earlier run left it, not checked: the scan cannot be" in done.stderr
    assert "bug" not in done.stderr
    assert files(output) == before
    for name, row in manifest(output).items():
        if name in lost:
            assert row["reason"].startswith("not checked: the scan cannot be read: ")
            assert str(root) not in row["reason"]
        assert {**row, "reason": ""} == {**rows[name], "reason": ""}
        assert reported(output)[name] == ("done", row["reason"])
    listed = batch(table, output, tiny_checkpoint, "--dry-run", "--json")
    assert (listed.exit_code == 0) == (way is truncated)  # no header tells that
    listing = {row["case"]: row for row in json.loads(listed.stdout)}
    assert listing["two"]["earlier"] == "done"
    assert listing["two"]["reason"] == manifest(output)["two"]["reason"]
    summary = batch(table, output, tiny_checkpoint, "--json")
    assert json.loads(summary.stdout)["unchecked"] == len(lost)

    # they are what another try is for
    shutil.rmtree(root / "in", ignore_errors=True)
    shutil.copytree(root / "kept", root / "in")
    again = batch(table, output, tiny_checkpoint, "--retry-failed")
    assert again.exit_code == 0, again.stderr
    assert f"{len(lost)} done, 0 failed" in again.stderr
    assert batch(table, output, tiny_checkpoint).exit_code == 0
    assert files(output) == before
    assert manifest(output) == rows
    assert set(reported(output).values()) == {("done", "")}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EPERM])
def test_errors_of_the_system_delete_nothing(
    root: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    output = root / "folder_out"
    before, rows = files(output), manifest(output)
    real = io.open

    def refusing(file: Any, *more: Any, **options: Any) -> Any:
        if str(file).endswith(("b.nii.gz", "c.nii.gz")) and str(root / "in") in str(file):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *more, **options)

    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr(builtins, "open", refusing)
    done = batch(root / "in", output, tiny_checkpoint)
    monkeypatch.undo()
    assert done.exit_code == cli.SOME_FAILED
    assert "a: unchanged" in done.stderr
    assert "3 done (2 of them not checked), 0 failed" in done.stderr
    assert files(output) == before
    after = manifest(output)
    for name in ("b", "c"):
        assert os.strerror(number) in after[name]["reason"]
        assert after[name]["anomaly_ml"] == rows[name]["anomaly_ml"]
    assert batch(root / "in", output, tiny_checkpoint).exit_code == 0


@pytest.mark.parametrize("what", ["state", "result"])
def test_an_output_that_cannot_be_read_for_a_moment_is_not_taken_for_nothing(
    root: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """As when scans and results lie on one share."""
    source, output = root / "in", root / "folder_out"
    before, rows = files(output), manifest(output)
    state = CohortFolder(output).states.path("b")
    kept = state.read_bytes()
    lost = [str(source / "b.nii.gz"), str(output / "b" / "b_labels.nii.gz")]
    if what == "state":
        lost.append(str(state))
    real = io.open

    def refusing(file: Any, *more: Any, **options: Any) -> Any:
        if str(file) in lost:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *more, **options)

    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr(builtins, "open", refusing)
    done = batch(source, output, tiny_checkpoint)
    monkeypatch.undo()
    assert "bug" not in done.stderr
    if what == "state":
        assert done.exit_code == 1
        assert "cannot be read (Permission denied), so what is done is not known" in done.stderr
        assert state.read_bytes() == kept
    else:
        assert done.exit_code == cli.SOME_FAILED
        assert manifest(output)["b"]["reason"].startswith("not checked: ")
    assert files(output) == before
    again = batch(source, output, tiny_checkpoint)
    assert again.exit_code == 0
    assert again.stderr.count("unchanged") == 3
    assert manifest(output) == rows


def test_a_file_in_the_place_of_a_folder_fails_alone(root: Path, tiny_checkpoint: Path) -> None:
    output = root / "new_out"
    output.mkdir()
    (output / "a").write_text(NOTES)
    (output / "b").mkdir()
    (output / "b" / "b_record.json").mkdir()
    done = batch(root / "in", output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert "1 done, 2 failed" in done.stderr
    assert "bug" not in done.stderr
    assert (output / "a").read_text() == NOTES
    assert (output / "b" / "b_record.json").is_dir()


@pytest.mark.parametrize("way", [gone, truncated, directory])
@pytest.mark.parametrize(("what", "case"), [("truth", "one"), ("mask", "two")])
def test_a_truth_or_a_mask_that_cannot_be_read_is_no_other_result(
    root: Path, tiny_checkpoint: Path, way: Callable[[Path], None], what: str, case: str
) -> None:
    output = root / "table_out"
    before, dice = files(output), manifest(output)["one"]["dice"]
    way(root / "labels" / f"{what}.nii.gz")
    done = batch(root / "cases.csv", output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    row = manifest(output)[case]
    said = {"truth": "ground truth", "mask": "brain mask"}[what]
    assert row["status"] == "done"
    assert f"not checked: the {said} cannot be read: {what}.nii.gz" in row["reason"]
    assert manifest(output)["one"]["dice"] == dice
    assert files(output) == before


def test_a_scan_that_has_left_a_folder_keeps_files_and_row(
    root: Path, tiny_checkpoint: Path
) -> None:
    output = root / "folder_out"
    before, rows = files(output), manifest(output)
    (root / "in" / "b.nii.gz").rename(root / "b.nii.gz")
    for source in (root / "in", str(root / "in" / "*.nii.gz")):
        done = batch(source, output, tiny_checkpoint)
        assert done.exit_code == cli.SOME_FAILED, done.output
        assert "not checked: the scan cannot be read: b.nii.gz does not exist" in done.stderr
        assert files(output) == before
        after = manifest(output)
        assert after.keys() == rows.keys()
        assert {**after["b"], "reason": ""} == rows["b"]
        assert after["a"] == rows["a"]
        assert reported(output)["b"][0] == "done"
    listed = batch(root / "in", output, tiny_checkpoint, "--dry-run")
    assert listed.exit_code == cli.SOME_FAILED
    assert "b.nii.gz does not exist" in listed.stdout
    (root / "b.nii.gz").rename(root / "in" / "b.nii.gz")
    assert batch(root / "in", output, tiny_checkpoint).exit_code == 0
    assert manifest(output) == rows
    # whoever wants it no longer removes its files
    (root / "in" / "b.nii.gz").unlink()
    shutil.rmtree(output / "b")
    assert batch(root / "in", output, tiny_checkpoint).exit_code == 0
    assert manifest(output).keys() == {"a", "c"}


def test_a_scan_that_is_called_otherwise_is_another_case(root: Path, tiny_checkpoint: Path) -> None:
    output = root / "folder_out"
    before = files(output)
    (root / "in" / "b.nii.gz").rename(root / "in" / "B.nii.gz")
    done = batch(root / "in", output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert {name: row["status"] for name, row in manifest(output).items()} == dict.fromkeys(
        ("a", "b", "c", "B"), "done"
    )
    assert manifest(output)["b"]["reason"].startswith("not checked")
    assert before.items() <= files(output).items()


def test_a_folder_without_any_scan_left_changes_nothing(root: Path, tiny_checkpoint: Path) -> None:
    output = root / "folder_out"
    before, rows = files(output), manifest(output)
    for scan in (root / "in").iterdir():
        scan.unlink()
    done = batch(root / "in", output, tiny_checkpoint)
    assert done.exit_code == 1
    assert "holds no scan" in done.stderr
    assert (files(output), manifest(output)) == (before, rows)


def test_a_vanished_sibling_changes_nobodys_name(
    root: Path, tiny_checkpoint: Path, brain: Brain, tmp_path: Path
) -> None:
    source, output = tmp_path / "pairs", tmp_path / "pairs_out"
    source.mkdir()
    for n, name in enumerate(("x.nii", "x.nii.gz", "y.nii")):
        write(source / name, brain(n))
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    before = files(output)
    (source / "x.nii").unlink()
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert "x.nii.gz: unchanged" in done.stderr
    assert manifest(output).keys() == {"x.nii", "x.nii.gz", "y"}
    assert files(output) == before


def test_a_subject_that_has_left_a_bids_dataset_keeps_files_and_row(
    brain: Brain, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for n in range(2):
        anat = source / f"sub-0{n}" / "ses-1" / "anat"
        write(anat / "T1w.nii.gz", brain(n))
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    before = files(output)
    (source / "sub-01").rename(tmp_path / "sub-01")
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert manifest(output).keys() == {"sub-00_ses-1", "sub-01_ses-1"}
    assert manifest(output)["sub-01_ses-1"]["status"] == "done"
    assert files(output) == before


def test_another_cohort_in_the_same_folder_is_not_missed(
    root: Path, brain: Brain, tiny_checkpoint: Path
) -> None:
    output = root / "folder_out"
    before = files(output)
    write(root / "site" / "d.nii.gz", brain(3))
    assert batch(root / "site", output, tiny_checkpoint).exit_code == 0
    assert manifest(output).keys() == {"d"}
    assert before.items() <= files(output).items()


# --- results that are about to be replaced -------------------------------------------------------


def test_with_other_settings_the_old_files_stay_until_the_new_ones_are_there(
    root: Path, tiny_checkpoint: Path
) -> None:
    output = root / "table_out"
    before = files(output)
    kept = (root / "in" / "b.nii.gz").read_bytes()
    truncated(root / "in" / "b.nii.gz")
    done = batch(root / "cases.csv", output, tiny_checkpoint, "--threshold", "0.02")
    assert done.exit_code == cli.SOME_FAILED
    assert "2 done, 1 failed" in done.stderr
    row, after = manifest(output)["two"], files(output)
    assert (row["status"], row["anomaly_ml"]) == ("failed", "")
    assert "is cut short" in row["reason"]
    assert "its files are of an earlier run with other settings" in row["reason"]
    assert reported(output)["two"] == ("failed", row["reason"])
    for name, content in before.items():
        assert (after[name] == content) == name.startswith("two/") or name.endswith("nii.gz")
    # with the settings of before they are what they were
    again = batch(root / "cases.csv", output, tiny_checkpoint)
    assert "two: done, as an earlier run left it, not checked" in again.stderr
    assert files(output) == before
    (root / "in" / "b.nii.gz").write_bytes(kept)
    last = batch(root / "cases.csv", output, tiny_checkpoint, "--threshold", "0.02")
    assert last.exit_code == 0
    assert json.loads((output / "two" / "b_record.json").read_text())["threshold"] == 0.02


def test_a_changed_input_that_fails_leaves_the_files_and_says_of_what_they_are(
    root: Path, tiny_checkpoint: Path
) -> None:
    table, output = root / "cases.csv", root / "table_out"
    before, rows = files(output), manifest(output)
    scan, truth = root / "in" / "c.nii.gz", root / "labels" / "truth.nii.gz"
    kept = {path: path.read_bytes() for path in (scan, truth)}
    other = GRID.copy()
    other[:3, 3] += 30
    labels = volume_from_native(np.ones(SHAPE, np.uint8), other)
    write(truth, labels)  # beside the scan
    speck = np.zeros(SHAPE, np.float32)
    speck[5, 5, 5] = 1  # no brain
    write(scan, volume_from_native(speck, GRID))
    read_volume(scan)
    done = batch(table, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    for name in ("one", "three"):
        row = manifest(output)[name]
        assert row["status"] == "failed"
        assert "its files are of an earlier run with another scan, truth or mask" in row["reason"]
        assert reported(output)[name] == ("failed", row["reason"])
    assert files(output) == before
    assert CohortFolder(output).states.failed(find_cohort(table, output)) == {"one", "three"}
    for path, content in kept.items():
        path.write_bytes(content)
    again = batch(table, output, tiny_checkpoint)
    assert again.exit_code == 0
    assert again.stderr.count("unchanged") == 3
    assert manifest(output) == rows


def test_a_run_that_is_stopped_leaves_the_old_results(root: Path, checkpoint: Checkpoint) -> None:
    table, output = root / "cases.csv", root / "table_out"
    before = files(output)
    other = BatchSettings(SETTINGS.detection, threshold=0.5, pictures=False)
    steps = run_batch(find_cohort(table, output), output, checkpoint, other)
    for progress in steps:
        if progress.stage == "detect":
            break
    steps.close()
    assert files(output) == before
    for row in manifest(output).values():
        assert row["status"] == "skipped"
        assert "its files are of an earlier run with other settings" in row["reason"]


CRASH = """
import os, sys
from pathlib import Path
from napari_addm.cohort.run import BatchSettings, run_batch
from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort.find import find_cohort
from napari_addm.detection.settings import DetectionSettings
source, output, checkpoint, left = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
real = os.replace

def replace(one, other):
    global left
    if Path(other).parent == output / "a" and Path(one).parent.parent == output / "a":
        if not left:
            os._exit(9)
        left -= 1
    real(one, other)

os.replace = replace
settings = BatchSettings(DetectionSettings(device="cpu"), threshold=0.03, pictures=False)
cases = find_cohort(source, output)
for _ in run_batch(cases, output, load_checkpoint(checkpoint), settings, only=["a"]):
    pass
"""


@pytest.mark.parametrize("left", range(5))
def test_an_end_between_two_files_is_noticed_and_never_taken_for_a_result(
    root: Path, tiny_checkpoint: Path, left: int
) -> None:
    source, output = root / "in", root / "folder_out"
    before = files(output)
    command = [sys.executable, "-c", CRASH, str(source), str(output), str(tiny_checkpoint)]
    child = subprocess.run([*command, str(left)], check=False)
    assert child.returncode == 9
    mixed = {name for name, content in files(output).items() if before.get(name) != content}
    assert not any(name.startswith(("b/", "c/")) for name in mixed)
    case = next(case for case in find_cohort(source, output) if case.name == "a")
    state = CohortFolder(output).states.read(case)
    assert state is not None
    # maps are the same whatever the threshold: what was done counts until a file has changed
    shown = {name for name in mixed if "/." not in name}
    assert (state.result.status == "done") == (not shown)
    assert reported(output)["a"][0] == "skipped"
    for threshold in ("0.01", "0.03"):
        again = batch(source, output, tiny_checkpoint, "--threshold", threshold)
        assert again.exit_code == 0, again.stderr
        if threshold == "0.01":
            assert ("a: unchanged" in again.stderr) == (not shown)
            assert files(output) == before
    assert not list(output.rglob("*.part"))


def test_without_an_earlier_result_an_end_between_two_files_is_made_good(
    root: Path, tiny_checkpoint: Path
) -> None:
    source, output = root / "in", root / "new_out"
    command = [sys.executable, "-c", CRASH, str(source), str(output), str(tiny_checkpoint), "3"]
    assert subprocess.run(command, check=False).returncode == 9
    assert reported(output)["a"] == ("skipped", "not reached yet")
    again = batch(source, output, tiny_checkpoint)
    assert again.exit_code == 0, again.stderr
    assert files(output) == files(root / "folder_out")


def test_the_state_of_the_version_before_goes_on(root: Path, tiny_checkpoint: Path) -> None:
    """It said that it was writing, but not which files."""
    source, output = root / "in", root / "folder_out"
    folder, before = CohortFolder(output), files(output)
    state = json.loads(folder.states.path("a").read_text())
    cut = {**state, "status": "skipped", "reason": "its writing was cut off", "files": {}}
    folder.states.path("a").write_text(json.dumps(cut))
    (output / "a" / "a_record.json").unlink()
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == 0, done.stderr
    assert files(output) == before


def test_missing_files_are_made_anew_also_when_their_case_has_failed_in_between(
    root: Path, tiny_checkpoint: Path
) -> None:
    source, output = root / "in", root / "folder_out"
    before = files(output)
    kept = (source / "a.nii.gz").read_bytes()
    (output / "a" / "a_labels.nii.gz").unlink()
    truncated(source / "a.nii.gz")
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert manifest(output)["a"]["status"] == "failed"
    (source / "a.nii.gz").write_bytes(kept)
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert files(output) == before


def test_shards_and_chosen_cases_keep_what_is_done(root: Path, checkpoint: Checkpoint) -> None:
    table, output = root / "cases.csv", root / "table_out"
    before = files(output)
    folder_gone(root / "in" / "a.nii.gz")
    cases = find_cohort(table, output)
    seen = []
    for index in (1, 2):
        *_, last = run_batch(cases, output, checkpoint, SETTINGS, Shard(index, 2))
        seen.append((last.finished, last.failed, last.unchecked))
    assert sorted(seen) == [(1, 0, 1), (2, 0, 2)]
    assert {status for status, _ in reported(output).values()} == {"done"}
    *_, last = run_batch(cases, output, checkpoint, SETTINGS, only=["two"])
    assert (last.finished, last.failed, last.unchecked) == (1, 0, 1)
    for row in manifest(output).values():  # also of those that were not chosen
        assert row["reason"].startswith("not checked: the scan cannot be read")
    assert files(output) == before


@pytest.mark.slow
def test_a_cluster_keeps_what_is_done(root: Path, checkpoint: Checkpoint) -> None:
    pytest.importorskip("distributed")
    from napari_addm.cohort.cluster import run_on_cluster

    table, output = root / "cases.csv", root / "table_out"
    before = files(output)
    gone(root / "in" / "b.nii.gz")
    cases = find_cohort(table, output)
    *_, last = run_on_cluster(cases, output, checkpoint, SETTINGS, address="local:1")
    assert (last.finished, last.failed, last.unchecked) == (3, 0, 1)
    assert files(output) == before
    assert manifest(output)["two"]["reason"].startswith("not checked: the scan cannot be read")
    other = BatchSettings(SETTINGS.detection, threshold=0.02, pictures=False)
    *_, last = run_on_cluster(cases, output, checkpoint, other, address="local:1")
    assert (last.finished, last.failed) == (3, 1)
    assert "with other settings" in manifest(output)["two"]["reason"]
    assert {n: c for n, c in files(output).items() if n.startswith("two/")} == {
        n: c for n, c in before.items() if n.startswith("two/")
    }


# --- states that cannot be trusted ---------------------------------------------------------------


def forge(output: Path, case: str, **change: Any) -> dict[str, Any]:
    """Change a state, as a damaged disk or another person would."""
    path = CohortFolder(output).states.path(case)
    state = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(state))
    return dict(state)


def hostile(output: Path, victim: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    sha = "ab" * 32
    yield "absolute", {"files": {str(victim): sha}}
    yield "up", {"files": {f"../{victim.name}": sha}}
    yield "up and down", {"files": {f"a/../../{victim.name}": sha}}
    yield "dots", {"files": {f"./../{victim.name}": sha}}
    yield "link", {"files": {"a/link": sha}}
    yield "linked folder", {"files": {f"a/away/{victim.name}": sha}}
    yield "another's", {"files": {"b/b_record.json": sha, "b/b_labels.nii.gz": sha}}
    yield "manifest", {"files": {"manifest.csv": sha, ".batch/plan.json": sha}}
    yield "about to replace", {"replacing": {str(victim): sha}}
    yield "nul", {"files": {"a/\0": sha}}
    yield "no text", {"files": {"a/a_record.json": 7}}
    yield "no hash", {"files": {"a/a_record.json": "../x"}}
    yield "list", {"files": [str(victim)]}
    yield "number", {"files": 3}
    yield "status", {"status": "finished"}
    yield "reason", {"reason": ["x"]}
    yield "flags", {"qc": "contrast"}
    yield "volume", {"anomaly_ml": "much"}
    yield "infinite", {"anomaly_ml": float("inf")}
    yield "metrics", {"metrics": [1]}
    yield "surrogate", {"key": "\ud800"}
    yield "later", {"later": {"status": "done"}}


KINDS = [kind for kind, _ in hostile(Path(), Path("victim"))]


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "runs"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_someone_else_touches_nothing(
    root: Path, tiny_checkpoint: Path, kind: str, fails: bool
) -> None:
    source, output, victim = root / "in", root / "folder_out", root / "thesis_record.json"
    victim.write_text(NOTES)
    (output / "a" / "link").symlink_to(victim)
    (output / "a" / "away").symlink_to(root)
    state = forge(output, "a", **dict(hostile(output, victim))[kind])
    before = files(output)
    if fails:
        (source / "a.nii.gz").write_bytes(b"")
    done = batch(source, output, tiny_checkpoint, "--threshold", "0.01")
    assert done.exit_code == cli.SOME_FAILED
    assert "bug" not in done.stderr, state
    assert victim.read_text() == NOTES
    assert files(output) == before
    row = manifest(output)["a"]
    assert row["status"] == "failed"
    if not fails:
        assert "is of no run of this batch" in row["reason"]
    assert manifest(output)["b"]["status"] == "done"
    page = write_cohort_report(output)["page"].read_text()
    assert NOTES not in page
    assert batch(source, output, tiny_checkpoint, "--dry-run").exit_code in (0, cli.SOME_FAILED)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"files":' + '{"a":' * 5000 + "1" + "}" * 5001, "", "null", "7", "\xff", "{}"],
)
@pytest.mark.parametrize("what", ["state", "plan"])
def test_what_is_no_state_and_no_plan_stops_nothing(
    root: Path, tiny_checkpoint: Path, what: str, text: str
) -> None:
    source, output = root / "in", root / "folder_out"
    folder, before = CohortFolder(output), files(output)
    path = folder.states.path("a") if what == "state" else folder.hidden / "plan.json"
    path.write_text(text, encoding="latin-1")
    if what == "state":
        assert reported(output)["a"] == ("skipped", "not reached yet")
    else:
        with pytest.raises(AddmError, match="holds no batch"):
            read_cohort(output)
    listed = batch(source, output, tiny_checkpoint, "--dry-run")
    assert listed.exit_code == 0, listed.stderr
    done = batch(source, output, tiny_checkpoint)
    assert "bug" not in done.stderr
    assert "b: unchanged" in done.stderr
    assert files(output) == before


@pytest.mark.parametrize(
    "change",
    [
        {"cases": 3},
        {"cases": [{"case": "a"}]},
        {"cases": [{"case": "a", "input": 3, "skip": ""}]},
        {"shard": [2, 1]},
        {"shard": "1/1"},
        {"parameters": []},
    ],
)
def test_a_damaged_plan_counts_as_none(root: Path, change: dict[str, Any]) -> None:
    output = root / "folder_out"
    path = output / HIDDEN / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AddmError, match="holds no batch"):
        read_cohort(output)
    assert len(find_cohort(root / "in", output)) == 3


@pytest.mark.parametrize("name", ["/etc/passwd", "../thesis.nii.gz", "a/../../thesis.nii.gz", ""])
def test_a_plan_of_someone_else_opens_no_file_elsewhere(
    root: Path, tiny_checkpoint: Path, name: str
) -> None:
    output = root / "folder_out"
    path = output / HIDDEN / "plan.json"
    plan = json.loads(path.read_text())
    plan["cases"].append({"case": name or "x", "input": name, "skip": ""})
    path.write_text(json.dumps(plan))
    assert {case.name for case in find_cohort(root / "in", output)} == {"a", "b", "c"}


def test_the_report_shows_no_file_from_outside_and_none_of_another_case(root: Path) -> None:
    output, outside = root / "folder_out", root / "x_record.json"
    outside.write_text(json.dumps({"warnings": [NOTES]}))
    from napari_addm.io.hashing import scan_sha256

    (output / "a" / "x_record.json").symlink_to(outside)
    shas = {"a/x_record.json": scan_sha256(outside)}
    for named in (
        shas,
        {"../x_record.json": scan_sha256(outside)},
        {str(outside): scan_sha256(outside)},
    ):
        forge(output, "a", files=named)
        assert reported(output)["a"] == ("skipped", "not reached yet")
        assert NOTES not in (output / "report.html").read_text()
    state = json.loads(CohortFolder(output).states.path("b").read_text())
    forge(output, "a", files=state["files"])
    assert reported(output)["a"][0] != "done"
    assert reported(output)["c"] == ("done", "")


def test_a_report_of_odd_records_ends_in_a_page(root: Path) -> None:
    from napari_addm.io.hashing import scan_sha256

    output = root / "folder_out"
    record = output / "a" / "a_record.json"
    for odd in (
        {"quality": [1], "warnings": 3, "versions": "x"},
        {"quality": {"flags": [3, {"key": 1}], "figures": {"brain_ml": "x"}, "unchecked": 1}},
        {"quality": {"figures": {"brain_ml": float("nan")}}, "versions": {"a": [1]}},
    ):
        record.write_text(json.dumps(odd))
        named = json.loads(CohortFolder(output).states.path("a").read_text())["files"]
        named["a/a_record.json"] = scan_sha256(record)
        forge(output, "a", files=named, qc=["of a newer version"], metrics={"dice": float("nan")})
        assert reported(output)["a"] == ("done", "")
        json.loads((output / "report.json").read_text(), parse_constant=pytest.fail)


# --- links ---------------------------------------------------------------------------------------


def test_no_link_is_written_through(root: Path, tiny_checkpoint: Path) -> None:
    source, output, away = root / "in", root / "new_out", root / "away"
    away.mkdir()
    output.mkdir()
    (away / "b_labels.nii.gz").write_text(NOTES)
    (output / "a").symlink_to(away)
    (output / "b").mkdir()
    (output / "b" / "b_labels.nii.gz").symlink_to(away / "b_labels.nii.gz")
    (output / "c").mkdir()
    (output / "c" / "c_record.json").symlink_to(away / "nowhere")
    for _ in range(2):
        done = batch(source, output, tiny_checkpoint)
        assert done.exit_code == cli.SOME_FAILED
        assert "0 done, 3 failed" in done.stderr
        rows = manifest(output)
        assert "a in the output folder is a link or a file" in rows["a"]["reason"]
        for name in ("b", "c"):
            assert "is of no run of this batch" in rows[name]["reason"]
        assert [path.name for path in away.iterdir()] == ["b_labels.nii.gz"]
        assert (away / "b_labels.nii.gz").read_text() == NOTES


@pytest.mark.parametrize("place", ["", "cases", "locks", "locks/1-of-1"])
def test_a_batch_folder_that_is_a_link_is_refused(
    root: Path, tiny_checkpoint: Path, place: str
) -> None:
    output, away = root / "new_out", root / "away"
    away.mkdir()
    (away / "plan.json").write_text(NOTES)
    link = output / HIDDEN / place
    link.parent.mkdir(parents=True)
    link.symlink_to(away)
    done = batch(root / "in", output, tiny_checkpoint)
    assert done.exit_code == 1
    assert "is a link" in done.stderr
    assert (away / "plan.json").read_text() == NOTES
    assert len(list(away.iterdir())) == 1


# --- files of other people -----------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_manifest_of_someone_else_is_not_replaced(
    root: Path, tiny_checkpoint: Path, begun: bool
) -> None:
    output = root / ("folder_out" if begun else "new_out")
    output.mkdir(exist_ok=True)
    for text in ("case;scan\n1;2\n", "", "case,input,status\n"):
        (output / "manifest.csv").write_text(text)
        before = files(output)
        for command in (batch(root / "in", output, tiny_checkpoint),):
            assert command.exit_code == 1
            assert f"{output / 'manifest.csv'} exists already and was not written" in command.stderr
            assert "move or rename it" in command.stderr
        assert (output / "manifest.csv").read_text() == text
        assert files(output) == before
    assert begun or not (output / HIDDEN).exists()
    if not begun:  # one of ours, from elsewhere, is a person's copy
        shutil.copy(root / "folder_out" / "manifest.csv", output / "manifest.csv")
        assert batch(root / "in", output, tiny_checkpoint).exit_code == 1
        return
    (output / "manifest.csv").unlink()
    (output / "manifest.csv").symlink_to(root / "cases.csv")
    text = (root / "cases.csv").read_text()
    assert batch(root / "in", output, tiny_checkpoint).exit_code == 1
    assert (output / "manifest.csv").is_symlink()
    assert (root / "cases.csv").read_text() == text


def test_a_manifest_of_a_shard_is_not_replaced_either(root: Path, tiny_checkpoint: Path) -> None:
    mine = root / "folder_out" / "manifest_shard-1-of-2.csv"
    mine.write_text(NOTES)
    done = batch(root / "in", root / "folder_out", tiny_checkpoint, "--shard", "1/2")
    assert done.exit_code == 1
    assert "manifest_shard-1-of-2.csv exists already" in done.stderr
    assert mine.read_text() == NOTES
    done = batch(root / "in", root / "folder_out", tiny_checkpoint, "--shard", "2/2")
    assert done.exit_code == 0


@pytest.mark.parametrize("name", OURS)
def test_the_report_replaces_no_file_of_someone_else(root: Path, name: str) -> None:
    output = root / "folder_out"
    write_cohort_report(output)
    write_cohort_report(output)  # its own it does
    for text in (NOTES, "<html><h1>My report</h1></html>", '{"mine": 1}', "case,mine\n"):
        (output / name).write_text(text)
        before = {other: (output / other).read_bytes() for other in OURS}
        done = invoke(["report", str(output)])
        assert done.exit_code == 1
        assert f"{output / name} exists already and was not written by a batch" in done.stderr
        assert {other: (output / other).read_bytes() for other in OURS} == before


def test_what_a_killed_run_left_is_swept_and_nothing_else(
    root: Path, tiny_checkpoint: Path
) -> None:
    output = root / "folder_out"
    theirs = [
        output / ".notes.part",
        output / "a" / ".notes.part",
        output / "a" / f".{'ab' * 16}.part.txt",
        output / "a" / f".{'AB' * 16}.part",
        output / ".mydownload.part" / "x",
        output / ".download.part" / "x",  # as long as tempfile's names
        output / "a" / ".download.part" / "x",
        output / "a" / f".{'12' * 16}.part" / "thesis.txt",
        output / HIDDEN / ".notes.part",
        root / "away" / f".{'ab' * 16}.part",
    ]
    ours = [
        output / f".{'ab' * 16}.part",
        output / "a" / f".{'cd' * 16}.part",
        output / HIDDEN / "cases" / f".{'ef' * 16}.part",
        output / "a" / f".{'01' * 16}.part" / "a_labels.nii.gz",
        output / "a" / f".{'02' * 16}.part" / f".{'03' * 16}.part",
        output / "a" / ".x7_dk2ab.part" / "a_record.json",  # of the version before
    ]
    for path in (*theirs, *ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTES)
    (output / "a" / ".empty_01.part").mkdir()
    links = [output / ".link.part", output / "a" / f".{'ee' * 16}.part"]
    for link in links:
        link.symlink_to(root / "away")
    done = batch(root / "in", output, tiny_checkpoint)
    assert done.exit_code == 0, done.stderr
    assert all(path.read_text() == NOTES for path in theirs)
    assert all(link.is_symlink() for link in links)
    assert not [path for path in ours if path.exists()]
    assert not any(path.parent.exists() for path in ours if path.parent.suffix == ".part")


def test_a_picture_of_someone_else_is_not_replaced_by_ours(
    root: Path, tiny_checkpoint: Path, checkpoint: Checkpoint
) -> None:
    """It lies in the folder of a case that is done, under a name that a run did not need."""
    source, output = root / "in", root / "folder_out"
    mine = output / "a" / "a_overlay.png"
    mine.write_text(NOTES)
    before = files(output)
    pictures = BatchSettings(SETTINGS.detection, threshold=0.01)
    *_, last = run_batch(find_cohort(source, output), output, checkpoint, pictures, only=["a"])
    assert last.failed == 1
    assert f"{mine.name} exists already" in manifest(output)["a"]["reason"]
    assert files(output) == before
    # nor removed by a run that draws none
    done = batch(source, output, tiny_checkpoint, "--threshold", "0.02")
    assert "2 done, 1 failed" in done.stderr
    assert mine.read_text() == NOTES


def test_pictures_come_and_go_with_their_case(root: Path, checkpoint: Checkpoint) -> None:
    source, output = root / "in", root / "folder_out"
    before = files(output)
    for settings, there in (
        (BatchSettings(SETTINGS.detection, threshold=0.01), True),
        (BatchSettings(SETTINGS.detection, threshold=0.01, pictures=False), False),
    ):
        for _ in run_batch(find_cohort(source, output), output, checkpoint, settings):
            pass
        assert (output / "a" / "a_overlay.png").exists() == there
        assert {row["status"] for row in manifest(output).values()} == {"done"}
    assert files(output) == before


def test_a_plan_from_a_clock_that_is_ahead_does_not_count_for_ever(
    root: Path, checkpoint: Checkpoint
) -> None:
    source, output = root / "in", root / "folder_out"
    cases = find_cohort(source, output)
    list(run_batch(cases, output, checkpoint, SETTINGS, Shard(1, 2)))
    plan = output / HIDDEN / "plan-shard-1-of-2.json"
    ahead = plan.stat().st_mtime + 172_800
    os.utime(plan, (ahead, ahead))
    list(run_batch(cases, output, checkpoint, SETTINGS))
    found = read_cohort(output)
    assert found.missing == ()
    assert [entry.result.status for entry in found.entries] == ["done"] * 3


# --- a result belongs to one scan ----------------------------------------------------------------


def pairs(root: Path, brain: Brain, checkpoint: Path) -> tuple[Path, Path]:
    """Two patients whose scans are called alike, and their finished batch."""
    for n in (1, 2):
        write(root / f"pat{n}" / "T1.nii.gz", brain(n))
    table, output = root / "pairs.csv", root / "pairs_out"
    lines(table, p1="pat1/T1.nii.gz", p2="pat2/T1.nii.gz")
    assert batch(table, output, checkpoint).exit_code == 0
    return table, output


def lines(table: Path, **scans: str) -> None:
    rows = [f"{name},{scan}" for name, scan in scans.items()]
    table.write_text("\n".join(["case,scan", *rows]))


def state_of(output: Path, case: str) -> bytes:
    return CohortFolder(output).states.path(case).read_bytes()


def check_refused(output: Path, case: str, named: str, found: str) -> None:
    """Assert that a row names its own scan, and has no figure of another one."""
    row = manifest(output)[case]
    assert (row["status"], row["input"]) == ("failed", named)
    assert f"has the result of another scan ({found}): move it away, or choose" in row["reason"]
    assert str(output.parent) not in row["reason"]
    assert {row[key] for key in ("anomaly_ml", "findings", "dice", "qc")} == {""}
    (entry,) = (e for e in read_cohort(output).entries if e.result.case == case)
    assert (entry.result.status, entry.result.input) == ("failed", named)
    assert "another scan" in entry.result.reason
    assert (entry.result.anomaly_ml, entry.record, entry.picture) == (None, {}, "")


@pytest.mark.parametrize("there", ["absent", "truncated", "whole"])
@pytest.mark.parametrize("name", ["T1", "other"])
def test_a_line_that_names_another_scan_does_not_get_the_result_of_the_old_one(
    root: Path, brain: Brain, tiny_checkpoint: Path, name: str, there: str
) -> None:
    table, output = pairs(root, brain, tiny_checkpoint)
    before, state, rows = files(output), state_of(output, "p1"), manifest(output)
    scan = root / "pat3" / f"{name}.nii.gz"
    if there != "absent":
        write(scan, brain(0))
    if there == "truncated":
        truncated(scan)
    now = f"pat3/{name}.nii.gz"
    lines(table, p1=now, p2="pat2/T1.nii.gz")
    listed = json.loads(batch(table, output, tiny_checkpoint, "--dry-run", "--json").stdout)
    assert {row["case"]: row["earlier"] for row in listed} == {"p1": None, "p2": "done"}
    for more in ((), ("--retry-failed",), ("--threshold", "0.02"), ()):
        done = batch(table, output, tiny_checkpoint, *more)
        assert done.exit_code == cli.SOME_FAILED
        assert "bug" not in done.stderr
        check_refused(output, "p1", now, "pat1/T1.nii.gz")
        assert state_of(output, "p1") == state
    assert files(output) == before
    lines(table, p1="pat1/T1.nii.gz", p2="pat2/T1.nii.gz")
    done = batch(table, output, tiny_checkpoint)
    assert done.exit_code == 0
    assert "p1: unchanged" in done.stderr
    assert manifest(output)["p1"] == rows["p1"]
    if there == "whole":  # whoever wants the other result under this name moves the old one away
        lines(table, p1=now, p2="pat2/T1.nii.gz")
        (output / "p1").rename(root / "away")
        assert batch(table, output, tiny_checkpoint).exit_code == 0
        assert manifest(output)["p1"]["input"] == now


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_lines_that_are_swapped_swap_no_results(
    root: Path, brain: Brain, tiny_checkpoint: Path, away: bool, known: bool
) -> None:
    table, output = pairs(root, brain, tiny_checkpoint)
    before = files(output)
    if not known:  # states of before say no more than the input
        for case in ("p1", "p2"):
            forge(output, case, origin={})
    lines(table, p2="pat1/T1.nii.gz", p1="pat2/T1.nii.gz")
    if away:
        for n in (1, 2):
            (root / f"pat{n}").rename(root / f"away{n}")
    for _ in range(2):
        assert batch(table, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
        check_refused(output, "p1", "pat2/T1.nii.gz", "pat1/T1.nii.gz")
        check_refused(output, "p2", "pat1/T1.nii.gz", "pat2/T1.nii.gz")
        assert files(output) == before


@pytest.mark.parametrize("whole", [True, False])
def test_a_scan_of_the_same_stem_does_not_take_the_place_of_one_that_is_away(
    root: Path, brain: Brain, tiny_checkpoint: Path, whole: bool
) -> None:
    source, output = root / "in", root / "folder_out"
    before, rows = files(output), manifest(output)
    (source / "a.nii.gz").rename(root / "a.nii.gz")
    write(source / "a.nii", brain(3))
    if not whole:
        truncated(source / "a.nii")
    for _ in range(2):
        assert batch(source, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
        check_refused(output, "a", "a.nii", "a.nii.gz")
        assert files(output) == before
    (source / "a.nii").unlink()
    (root / "a.nii.gz").rename(source / "a.nii.gz")
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert (files(output), manifest(output)) == (before, rows)


@pytest.mark.parametrize("way", [None, gone, truncated])
def test_a_second_site_in_the_same_folder_takes_nothing_from_the_first(
    root: Path, brain: Brain, tiny_checkpoint: Path, way: Callable[[Path], None] | None
) -> None:
    output, site = root / "folder_out", root / "site"
    before = files(output)
    for n, name in enumerate("cab"):
        write(site / f"{name}.nii.gz", brain(n))
    if way:
        way(site / "b.nii.gz")
    assert batch(site, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
    assert files(output) == before
    for name in manifest(output):
        check_refused(output, name, f"{name}.nii.gz", f"{name}.nii.gz")
    assert ("b" in manifest(output)) == (way is not gone)


def test_a_dataset_that_has_moved_goes_on(root: Path, tiny_checkpoint: Path) -> None:
    source, output = root / "in", root / "folder_out"
    before, rows = files(output), manifest(output)
    source.rename(root / "archive")
    listed = json.loads(
        batch(root / "archive", output, tiny_checkpoint, "--dry-run", "--json").stdout
    )
    assert {row["case"]: row["earlier"] for row in listed} == dict.fromkeys("abc", "done")
    done = batch(root / "archive", output, tiny_checkpoint)
    assert done.exit_code == 0
    assert done.stderr.count("unchanged") == 3
    assert (files(output), manifest(output)) == (before, rows)
    truncated(root / "archive" / "b.nii.gz")  # this is its place now
    done = batch(root / "archive", output, tiny_checkpoint)
    assert "b: done, as an earlier run left it, not checked" in done.stderr
    assert {**manifest(output)["b"], "reason": ""} == rows["b"]


@pytest.mark.parametrize(("what", "case"), [("truth", "one"), ("mask", "two")])
@pytest.mark.parametrize("change", ["named otherwise", "removed", "added"])
def test_another_truth_or_mask_that_cannot_be_read_is_another_input(
    root: Path, tiny_checkpoint: Path, what: str, case: str, change: str
) -> None:
    table, output = root / "cases.csv", root / "table_out"
    before, rows = files(output), manifest(output)
    text = kept = table.read_text()
    if change == "added":
        case, given = (
            "three",
            {"truth": "in/c.nii.gz,gone.nii.gz,", "mask": "in/c.nii.gz,,gone.nii"},
        )
        text = text.replace("in/c.nii.gz,,", given[what])
    elif change == "removed":
        text = text.replace(f"labels/{what}.nii.gz", "")
        (root / "in").rename(root / "away")
    else:
        text = text.replace(f"labels/{what}.nii.gz", f"other/{what}.nii.gz")
    table.write_text(text)
    for _ in range(2):
        assert batch(table, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
        row = manifest(output)[case]
        assert (row["status"], row["dice"], row["anomaly_ml"]) == ("failed", "", "")
        assert "cannot be read" in row["reason"]
        assert "its files are of an earlier run with another scan, truth or mask" in row["reason"]
        assert reported(output)[case] == ("failed", row["reason"])
        assert files(output) == before
    if change == "removed":
        (root / "away").rename(root / "in")
    table.write_text(kept)
    assert batch(table, output, tiny_checkpoint).exit_code == 0
    assert manifest(output) == rows


# --- work that somebody has put into the files of a case -----------------------------------------


@pytest.mark.parametrize("name", ["a_findings.csv", "a_labels.nii.gz", "a_record.json"])
@pytest.mark.parametrize("scan", [None, gone, truncated])
def test_a_file_that_somebody_has_changed_is_not_written_over(
    root: Path, tiny_checkpoint: Path, name: str, scan: Callable[[Path], None] | None
) -> None:
    source, output = root / "in", root / "folder_out"
    original, rows = files(output), manifest(output)
    kept = (source / "a.nii.gz").read_bytes()
    edited = output / "a" / name
    edited.write_text(NOTES)
    (output / "a" / "a_anomaly.nii.gz").unlink()  # the missing one does not decide
    before = files(output)
    if scan:
        scan(source / "a.nii.gz")
    for _ in range(2):
        done = batch(source, output, tiny_checkpoint)
        if scan is gone:  # no file tells that a case is gone for good, and nothing is touched
            assert files(output) == before
            break
        assert done.exit_code == cli.SOME_FAILED
        assert "3 done (1 of them not checked), 0 failed" in done.stderr
        row = manifest(output)["a"]
        assert {**row, "reason": ""} == rows["a"]
        said = "the scan cannot be read" if scan else f"{name} was changed after the batch wrote it"
        assert row["reason"].startswith(f"not checked: {said}")
        assert files(output) == before
    if not scan:
        assert row["reason"].endswith("; move it away to have the case done anew")
        status, reason = reported(output)["a"]
        if name == "a_record.json":
            wanted = "a_record.json was changed after the batch wrote it: move it away and run"
            assert (status, reason[: len(wanted)]) == ("failed", wanted)
        else:
            assert (status, reason) == ("done", row["reason"])
    # nor by a run with other settings
    done = batch(source, output, tiny_checkpoint, "--threshold", "0.02")
    assert edited.read_text() == NOTES
    if not scan:
        assert done.exit_code == cli.SOME_FAILED
        reason = manifest(output)["a"]["reason"]
        assert "was changed after the batch wrote it" in reason
        assert "its files are of an earlier run with other settings" in reason
    (source / "a.nii.gz").write_bytes(kept)
    edited.rename(root / "mine")
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert files(output) == original


def test_a_file_that_is_changed_while_the_network_works_is_not_written_over(
    root: Path, checkpoint: Checkpoint
) -> None:
    source, output = root / "in", root / "folder_out"
    edited = output / "a" / "a_findings.csv"
    other = BatchSettings(SETTINGS.detection, threshold=0.02, pictures=False)
    for progress in run_batch(find_cohort(source, output), output, checkpoint, other):
        if (progress.stage, progress.case) == ("detect", "a"):
            edited.write_text(NOTES)
    assert edited.read_text() == NOTES
    assert "was changed after the batch wrote it" in manifest(output)["a"]["reason"]


def test_a_file_that_was_changed_after_a_run_was_killed_is_not_written_over(
    root: Path, tiny_checkpoint: Path
) -> None:
    source, output = root / "in", root / "folder_out"
    original = files(output)
    command = [sys.executable, "-c", CRASH, str(source), str(output), str(tiny_checkpoint), "3"]
    assert subprocess.run(command, check=False).returncode == 9
    kept = (source / "a.nii.gz").read_bytes()
    edited = output / "a" / "a_findings.csv"
    edited.write_text(NOTES)
    assert batch(source, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
    assert edited.read_text() == NOTES
    assert "a_findings.csv was changed after" in manifest(output)["a"]["reason"]
    # what is left of the killed run is still known as ours
    edited.rename(root / "mine")
    truncated(source / "a.nii.gz")
    assert batch(source, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
    (source / "a.nii.gz").write_bytes(kept)
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert files(output) == original


def test_results_of_the_version_before_are_made_anew(root: Path, tiny_checkpoint: Path) -> None:
    """Their sides are those of the scanner, not the patient's."""
    from napari_addm.io.hashing import json_sha256

    source, output = root / "in", root / "folder_out"
    before = files(output)
    parameters = json.loads((output / HIDDEN / "plan.json").read_text())["parameters"]
    assert parameters.pop("results") == 2
    for case in "abc":
        scan = CohortFolder(output).states.read(case)
        assert scan is not None
        inputs = [(f"{case}.nii.gz", scan.result.origin["content"]), None, None]
        key = json_sha256({"parameters": parameters, "inputs": inputs})
        forge(output, case, key=key, parameters=json_sha256(parameters), origin={})
    kept = (source / "b.nii.gz").read_bytes()
    truncated(source / "b.nii.gz")
    done = batch(source, output, tiny_checkpoint)
    assert "unchanged" not in done.stderr
    assert "2 done, 1 failed" in done.stderr
    assert files(output) == before
    assert "its files are of an earlier run with other settings" in manifest(output)["b"]["reason"]
    (source / "b.nii.gz").write_bytes(kept)
    done = batch(source, output, tiny_checkpoint)
    assert (done.exit_code, done.stderr.count("unchanged")) == (0, 2)


def test_a_scan_whose_place_a_folder_takes_keeps_its_row(root: Path, tiny_checkpoint: Path) -> None:
    source, output = root / "in", root / "folder_out"
    before, rows = files(output), manifest(output)
    directory(source / "b.nii.gz")
    assert batch(source, output, tiny_checkpoint).exit_code == cli.SOME_FAILED
    row = manifest(output)["b"]
    assert {**row, "reason": ""} == rows["b"]
    assert row["reason"].startswith("not checked: the scan cannot be read")
    assert files(output) == before


@pytest.mark.parametrize("name", ["manifest.csv", "report.csv"])
@pytest.mark.parametrize("change", ["column", "header", "delimiter"])
def test_a_table_to_which_somebody_has_added_is_not_replaced(
    root: Path, tiny_checkpoint: Path, name: str, change: str
) -> None:
    output = root / "folder_out"
    write_cohort_report(output)
    first, rest = (output / name).read_text().split("\n", 1)
    first = {
        "column": f"{first},my notes",
        "header": first.replace("anomaly_ml", "mL"),
        "delimiter": first.replace(",", ";"),
    }[change]
    (output / name).write_text(f"{first}\n{rest}")
    before = (output / name).read_bytes()
    commands = [invoke(["report", str(output)])]
    if name == "manifest.csv":
        commands.append(batch(root / "in", output, tiny_checkpoint))
    for done in commands:
        assert done.exit_code == 1
        assert f"{output / name} exists already and was not written by a batch" in done.stderr
    assert (output / name).read_bytes() == before


def test_a_report_of_the_version_before_is_replaced(root: Path) -> None:
    output = root / "table_out"
    write_cohort_report(output)
    own = (output / "report.csv").read_text()
    columns = own.partition("\n")[0].split(",")
    old = ",".join(name for name in columns if not name.startswith("largest_"))
    (output / "report.csv").write_text(f"{old}\n")
    write_cohort_report(output)
    assert (output / "report.csv").read_text() == own


@pytest.mark.parametrize("place", ["", "cases"])
def test_a_report_reads_no_plan_and_no_state_through_a_link(root: Path, place: str) -> None:
    output = root / "folder_out"
    link = output / HIDDEN / place
    link.rename(root / "away")
    link.symlink_to(root / "away")
    before = files(output)
    done = invoke(["report", str(output)])
    assert done.exit_code == 1
    assert "is a link" in done.stderr
    assert files(output) == before
    assert not (output / "report.html").exists()


def test_a_link_in_the_place_of_a_file_costs_no_result(root: Path, tiny_checkpoint: Path) -> None:
    source, output = root / "in", root / "folder_out"
    before, state = files(output), state_of(output, "a")
    findings = output / "a" / "a_findings.csv"
    findings.rename(root / "mine.csv")
    findings.symlink_to(root / "mine.csv")
    for more in ((), ("--retry-failed",)):
        done = batch(source, output, tiny_checkpoint, *more)
        assert done.exit_code == cli.SOME_FAILED
        assert findings.is_symlink()
        assert state_of(output, "a") == state
    findings.unlink()
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert files(output) == before


def test_a_result_that_cannot_be_read_is_not_written_over(
    root: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = root / "in", root / "folder_out"
    before, rows = files(output), manifest(output)
    real = io.open

    def refusing(file: Any, *more: Any, **options: Any) -> Any:
        if str(file).endswith("b_labels.nii.gz"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *more, **options)

    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr(builtins, "open", refusing)
    done = batch(source, output, tiny_checkpoint)
    monkeypatch.undo()
    assert done.exit_code == cli.SOME_FAILED
    row = manifest(output)["b"]
    assert {**row, "reason": ""} == rows["b"]
    said = "not checked: b/b_labels.nii.gz cannot be read (Permission denied)"
    assert row["reason"].startswith(said)
    assert files(output) == before


def test_after_two_ends_between_two_files_all_are_still_ours(
    root: Path, tiny_checkpoint: Path
) -> None:
    source, output = root / "in", root / "folder_out"
    before = files(output)
    command = [sys.executable, "-c", CRASH, str(source), str(output), str(tiny_checkpoint)]
    for left in ("4", "0", "1"):
        assert subprocess.run([*command, left], check=False).returncode == 9
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == 0, done.stderr
    assert files(output) == before
