"""No entry of a cohort stops the others: it fails, or is left out, with its reason everywhere."""

import os
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cohorts import SETTINGS, SHAPE, Trial, WriteBrain
from scans import save

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort import files
from napari_addm.cohort.files import HIDDEN, answer, hash_scan
from napari_addm.cohort.results import read_cohort
from napari_addm.cohort.run import run_batch
from napari_addm.errors import InputError

GRID = np.diag([5.0, 5.0, 5.0, 1.0])


def test_a_folder_full_of_odd_entries_runs_its_scans(new: Trial, write_brain: WriteBrain) -> None:
    source, blocks = Path(new.source), np.indices(SHAPE) // 8
    for name in ("T1_lesion_filled", "T1_ROI", "T1_recon"):
        write_brain(source / f"{name}.nii.gz")
    save(source / "wmparc.nii.gz", blocks[0].astype(np.int16), GRID)
    save(source / "filled.nii.gz", (127 * (blocks.sum(0) % 3)).astype(np.uint8), GRID)
    save(source / "T1_pve_1.nii.gz", np.clip(blocks[1] / 2.0, 0, 1).astype(np.float32), GRID)
    save(source / "c1T1.nii", np.clip(blocks[2] / 1.5, 0, 1).astype(np.float32), GRID)
    save(source / "nobody_knows.nii", (blocks.sum(0) % 4).astype(np.uint8), GRID)
    os.mkfifo(source / "pipe.nii.gz")
    (source / "zero.nii.gz").symlink_to("/dev/zero")
    (source / "lost.nii.gz").symlink_to(".git/annex/objects/x")
    (source / "sub-1").symlink_to("nowhere")
    (source / "system").symlink_to("/dev")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(source / "s.nii"))
        done = new.fails()
    assert "3 done, 1 failed, 10 skipped" in done.stderr
    rows = new.rows
    labels, map = "its voxels are labels, not a scan", "its voxels are probabilities, not a scan"
    no_file, lost = "a pipe, a socket or a device", "a link that leads nowhere"
    skipped = {"wmparc": "named as labels", "filled": labels, "T1_pve_1": map, "c1T1": map}
    skipped |= {"nobody_knows": labels, "pipe.nii.gz": no_file, "zero.nii.gz": no_file}
    skipped |= {"s.nii": no_file, "sub-1": lost, "system": "a folder of the system"}
    reported = new.reported()
    for name, reason in skipped.items():
        assert (rows[name]["status"], reported[name][0]) == ("skipped", "skipped")
        assert rows[name]["reason"].startswith(reason)
        assert reported[name][1] == rows[name]["reason"]
    assert rows["lost"]["status"] == "failed"
    listed = {name for name, row in new.listed.items() if row["skip"]}
    assert listed == skipped.keys() - {"nobody_knows"}  # its voxels are read by the run alone
    page = (new.output / "report.html").read_text()
    assert "its voxels are probabilities" in page
    assert "leads nowhere" in page
    assert new.fails().stderr.count(": unchanged") == 3


def test_whoever_chooses_labels_has_them_run(new: Trial, write_brain: WriteBrain) -> None:
    brain = write_brain(Path(new.source) / "brain_mask.nii.gz")
    for source in (brain, new.root / "cases.csv"):
        (new.root / "cases.csv").write_text("scan\nin/brain_mask.nii.gz\n")
        assert "1 done, 0 failed, 0 skipped" in new.of(source).run().stderr
        shutil.rmtree(new.output)


@pytest.mark.parametrize("what", ["a", ""], ids=["a case", "the output folder"])
def test_files_that_are_removed_during_a_run_are_missed(folder: Trial, what: str) -> None:
    shutil.rmtree(folder.output)
    steps = run_batch(folder.cases, folder.output, load_checkpoint(folder.checkpoint), SETTINGS)
    for step in steps:
        if step.finished == 1 and step.result:
            shutil.rmtree(folder.output / what)
    assert (step.finished, step.failed) == (3, 1)
    assert folder.rows["a"]["status"] == "failed"
    assert "was removed during the run" in folder.rows["a"]["reason"]
    assert folder.reported()["b"] == ("done", "")
    done = folder.run()
    assert ("3 done" in done.stderr, done.stderr.count(": unchanged")) == (True, 2)


def test_the_latest_plan_is_known_without_a_clock(folder: Trial) -> None:
    folder.run("--shard", "1/2")
    folder.run()
    for plan in (folder.output / HIDDEN).glob("plan*.json"):
        os.utime(plan, (1, 2e9 if "shard" in plan.name else 1))
    found = read_cohort(folder.output)
    assert (found.missing, len(found.with_status("done"))) == ((), 3)


def test_a_disk_that_does_not_answer_costs_one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(files, "NEXT_ANSWER_SECONDS", 0.1)
    back, stopped = threading.Event(), threading.Event()
    for _ in range(2):
        with pytest.raises(InputError, match="gives no answer within"):
            answer(back.wait, Path("scan.nii"))
    monkeypatch.setattr(files, "NEXT_ANSWER_SECONDS", 600)
    threading.Timer(0.2, stopped.set).start()
    with pytest.raises(KeyboardInterrupt):  # the first Ctrl-C ends the waiting
        answer(back.wait, Path("scan.nii"), stopped)
    with pytest.raises(KeyboardInterrupt):  # also amid a file
        hash_scan(Path(__file__), stopped)
    late = threading.Event()
    threading.Timer(0.5, late.set).start()
    assert answer(late.wait, Path("scan.nii"), latest=time.monotonic)  # slow, and not silent
    back.set()
    assert answer(lambda: 7, Path("scan.nii")) == 7
    with pytest.raises(FileNotFoundError):
        answer(lambda: os.stat("/nowhere"), Path("scan.nii"))
