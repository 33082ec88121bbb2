"""A batch that is killed at any moment, or on a full disk, leaves whole files and goes on."""

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import killed_batch
import pytest
from cohorts import NOTES, SETTINGS, Trial, truncated

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.run import run_batch
from napari_addm.errors import AddmError


def crash(trial: Trial, renames: int) -> None:
    """Run the case a until it has renamed so many files, and let the process die."""
    process, _ = killed_batch.start(trial, renames)
    process.join()
    assert process.exitcode == 9


@pytest.mark.parametrize("renames", range(5))
def test_an_end_between_two_files_is_never_taken_for_a_result(folder: Trial, renames: int) -> None:
    before = folder.files
    crash(folder, renames)
    mixed = {name for name, content in folder.files.items() if before.get(name) != content}
    assert not any(name.startswith(("b/", "c/")) for name in mixed)
    state = CohortFolder(folder.output).states.read(folder.cases[0])
    assert state is not None
    # Maps are the same whatever the threshold: the old result counts until a file has changed.
    shown = {name for name in mixed if "/." not in name}
    assert state.done == (not shown)
    assert folder.reported()["a"][0] == "skipped"
    assert ("a: unchanged" in folder.run().stderr) == (not shown)
    assert folder.files == before
    folder.run("--threshold", "0.03")
    assert not list(folder.output.rglob("*.part"))


def test_without_an_earlier_result_an_end_between_two_files_is_made_good(folder: Trial) -> None:
    new = Trial(folder.source, folder.root / "new", folder.checkpoint)
    crash(new, 3)
    assert new.reported()["a"] == ("skipped", "not reached yet")
    new.run()
    assert new.files == folder.files


def test_after_several_ends_between_two_files_all_files_are_still_ours(folder: Trial) -> None:
    before = folder.files
    for renames in (4, 0, 1):
        crash(folder, renames)
    folder.run()
    assert folder.files == before


def test_a_file_that_was_changed_after_the_end_of_a_run_is_not_written_over(folder: Trial) -> None:
    before, scan = folder.files, folder.root / "in" / "a.nii.gz"
    crash(folder, 3)
    kept, edited = scan.read_bytes(), folder.output / "a" / "a_findings.csv"
    edited.write_text(NOTES)
    folder.fails()
    assert edited.read_text() == NOTES
    assert "a_findings.csv was changed after" in folder.rows["a"]["reason"]
    # The other files of the killed run still count as ours.
    edited.rename(folder.root / "mine")
    truncated(scan)
    folder.fails()
    scan.write_bytes(kept)
    folder.run()
    assert folder.files == before


def test_killed_at_random_moments_it_ends_as_if_undisturbed(folder: Trial) -> None:
    new = Trial(folder.source, folder.root / "new", folder.checkpoint)
    moments = random.Random(int(time.time()))
    for _ in range(3):
        process, begun = killed_batch.start(new, 99)
        assert begun.wait(60)
        time.sleep(moments.uniform(0, 1))
        process.kill()
        process.join()
        assert {row["status"] for row in new.rows.values()} <= {"done", "skipped"}
    new.run()
    assert new.files == folder.files
    assert not list(new.output.rglob("*.part"))
    assert {row["status"] for row in new.rows.values()} == {"done"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
    except OSError:
        pytest.skip("this system has no mount")
    if done.returncode:
        pytest.skip("this system does not let a small disk be mounted")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_nothing_is_half_written(
    folder: Trial, small_disk: Path
) -> None:
    new = Trial(folder.source, small_disk / "out", folder.checkpoint)
    new.output.mkdir()
    checkpoint = load_checkpoint(folder.checkpoint)
    # There is room for states and manifests, and for no second case.
    list(run_batch(new.cases, new.output, checkpoint, SETTINGS, only=["a"]))
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(max(0, free - 40_000)))
    with pytest.raises(AddmError, match=r"takes no more files \(No space left"):
        list(run_batch(new.cases, new.output, checkpoint, SETTINGS))
    assert new.rows["a"]["status"] == "done"
    assert new.rows["b"]["reason"] == "not reached: the output folder takes no more files"
    assert not [path for path in (new.output / "b").glob("*") if path.is_file()]
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    done = new.run()
    assert "a: unchanged" in done.stderr
    assert "b: unchanged" not in done.stderr
