"""A batch never loses a finished result, and never touches a file that is not its own."""

import builtins
import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohorts import (
    GRID,
    NOTES,
    OURS,
    SETTINGS,
    SHAPE,
    Trial,
    WriteBrain,
    dangling,
    directory,
    empty,
    folder_gone,
    gone,
    loop,
    pipe,
    truncated,
    write_table,
)
from support import invoke

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import Shard
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.report import write_cohort_report
from napari_addm.cohort.results import read_cohort
from napari_addm.cohort.run import run_batch
from napari_addm.errors import AddmError
from napari_addm.io.hashing import json_sha256, scan_sha256
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

Way = Callable[[Path], None]

# --- scans that cannot be read for a moment ------------------------------------------------------


@pytest.mark.parametrize("way", [gone, folder_gone, truncated])
def test_a_done_case_with_an_unreadable_scan_keeps_files_and_row(table: Trial, way: Way) -> None:
    root, before, rows = table.root, table.files, table.rows
    shutil.copytree(root / "in", root / "kept")
    way(root / "in" / "b.nii.gz")
    lost = {*rows} if way is folder_gone else {"two"}
    done = table.fails()
    assert f"3 done ({len(lost)} of them not checked), 0 failed" in done.stderr
    assert "two: done, as an earlier run left it, not checked: the scan cannot be" in done.stderr
    assert table.files == before
    reported = table.reported()
    for name, row in table.rows.items():
        assert row["reason"].startswith("not checked: the scan cannot be read: ") == (name in lost)
        assert str(root) not in row["reason"]
        assert {**row, "reason": ""} == rows[name]
        assert reported[name] == ("done", row["reason"])
    listed = table.listed["two"]
    assert (listed["earlier"], listed["reason"]) == ("done", table.rows["two"]["reason"])
    assert bool(listed["fault"]) == (way is not truncated)  # no header shows that
    assert json.loads(table.fails("--json").stdout)["unchecked"] == len(lost)

    shutil.rmtree(root / "in", ignore_errors=True)
    shutil.copytree(root / "kept", root / "in")
    assert f"{len(lost)} done, 0 failed" in table.run("--retry-failed").stderr
    table.run()
    assert (table.files, table.rows) == (before, rows)
    assert {*table.reported().values()} == {("done", "")}


@pytest.mark.parametrize("ways", [(dangling, directory, empty), (pipe, loop, gone)])
def test_what_is_no_file_to_read_costs_no_result(table: Trial, ways: tuple[Way, ...]) -> None:
    before = table.files
    for name, way in zip("abc", ways, strict=True):
        way(table.root / "in" / f"{name}.nii.gz")
    assert "3 done (3 of them not checked), 0 failed" in table.fails().stderr
    assert all(row["fault"] for row in table.listed.values())
    assert table.files == before


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``refuse(number, *names)``: opening files with these ends of paths is a system error."""
    real = io.open

    def refuse_them(number: int, *names: str) -> None:
        def refusing(file: Any, *more: Any, **options: Any) -> Any:
            if str(file).endswith(names):
                raise OSError(number, os.strerror(number), str(file))
            return real(file, *more, **options)

        monkeypatch.setattr(io, "open", refusing)
        monkeypatch.setattr(builtins, "open", refusing)

    return refuse_them


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_system_errors_of_scans_delete_nothing(
    folder: Trial, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before, rows = folder.files, folder.rows
    refuse(number, "in/b.nii.gz", "in/c.nii.gz")
    done = folder.fails()
    monkeypatch.undo()
    assert "a: unchanged" in done.stderr
    assert "3 done (2 of them not checked), 0 failed" in done.stderr
    assert folder.files == before
    for name in ("b", "c"):
        assert os.strerror(number) in folder.rows[name]["reason"]
        assert folder.rows[name]["anomaly_ml"] == rows[name]["anomaly_ml"]
    folder.run()


@pytest.mark.parametrize("what", ["state", "result and scan", "result"])
def test_an_unreadable_output_is_not_taken_for_nothing(
    folder: Trial, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before, rows, state = folder.files, folder.rows, folder.state_path("b").read_bytes()
    lost = ["b/b_labels.nii.gz"] + ["in/b.nii.gz"] * (what != "result")
    if what == "state":
        lost.append(folder.state_path("b").name)
    refuse(errno.EACCES, *lost)
    done = folder.run(code=1) if what == "state" else folder.fails()
    monkeypatch.undo()
    if what == "state":
        assert "cannot be read (Permission denied), so what is done is not known" in done.stderr
    else:
        row = folder.rows["b"]
        assert {**row, "reason": ""} == rows["b"]
        assert row["reason"].startswith("not checked: ")
        if what == "result":
            assert "b/b_labels.nii.gz cannot be read (Permission denied)" in row["reason"]
    assert (folder.files, what != "state" or folder.state_path("b").read_bytes() == state) == (
        before,
        True,
    )
    assert folder.run().stderr.count("unchanged") == 3
    assert folder.rows == rows


def test_a_file_in_the_place_of_a_folder_fails_alone(folder: Trial) -> None:
    new = Trial(folder.source, folder.root / "new", folder.checkpoint)
    new.output.mkdir()
    (new.output / "a").write_text(NOTES)
    (new.output / "b" / "b_record.json").mkdir(parents=True)
    assert "1 done, 2 failed" in new.fails().stderr
    assert (new.output / "a").read_text() == NOTES
    assert (new.output / "b" / "b_record.json").is_dir()


@pytest.mark.parametrize("way", [gone, truncated, directory])
def test_an_unreadable_truth_or_mask_gives_no_other_result(table: Trial, way: Way) -> None:
    before, rows = table.files, table.rows
    for what in ("truth", "mask"):
        way(table.root / "labels" / f"{what}.nii.gz")
    table.fails()
    for case, words, what in (("one", "ground truth", "truth"), ("two", "brain mask", "mask")):
        row = table.rows[case]
        assert {**row, "reason": ""} == rows[case]
        assert f"not checked: the {words} cannot be read: {what}.nii" in row["reason"]
    assert table.files == before


def test_a_scan_that_left_a_folder_keeps_files_and_row(folder: Trial) -> None:
    root, before, rows = folder.root, folder.files, folder.rows
    (root / "in" / "b.nii.gz").rename(root / "b.nii.gz")
    for trial in (folder, folder.of(str(root / "in" / "*.nii.gz"))):
        done = trial.fails()
        assert "not checked: the scan cannot be read: b.nii.gz does not exist" in done.stderr
        assert {name: {**row, "reason": ""} for name, row in trial.rows.items()} == rows
        assert trial.reported()["b"][0] == "done"
    assert "b.nii.gz does not exist" in folder.listed["b"]["fault"]
    (root / "b.nii.gz").rename(root / "in" / "b.nii.gz")
    folder.run()
    assert (folder.files, folder.rows) == (before, rows)
    # To forget a case, a person removes its files.
    (root / "in" / "b.nii.gz").unlink()
    shutil.rmtree(folder.output / "b")
    folder.run()
    assert folder.rows.keys() == {"a", "c"}


def test_a_renamed_scan_is_another_case(folder: Trial) -> None:
    before = folder.files
    (folder.root / "in" / "b.nii.gz").rename(folder.root / "in" / "B.nii.gz")
    folder.fails()
    assert {name: row["status"] for name, row in folder.rows.items()} == dict.fromkeys(
        "abcB", "done"
    )
    assert folder.rows["b"]["reason"].startswith("not checked")
    assert before.items() <= folder.files.items()


def test_a_folder_without_any_scan_changes_nothing(folder: Trial) -> None:
    before, rows = folder.files, folder.rows
    for scan in (folder.root / "in").iterdir():
        scan.unlink()
    assert "holds no scan" in folder.run(code=1).stderr
    assert (folder.files, folder.rows) == (before, rows)


def test_a_vanished_sibling_changes_nobodys_name(new: Trial, write_brain: WriteBrain) -> None:
    for n, name in enumerate(("x.nii", "x.nii.gz", "y.nii")):
        write_brain(Path(new.source, name), n)
    new.run()
    before = new.files
    Path(new.source, "x.nii").unlink()
    assert "x.nii.gz: unchanged" in new.fails().stderr
    assert new.rows.keys() == {"x.nii", "x.nii.gz", "y"}
    assert new.files == before


def test_a_subject_that_left_a_bids_dataset_keeps_files_and_row(
    new: Trial, write_brain: WriteBrain
) -> None:
    for n in range(2):
        write_brain(Path(new.source, f"sub-0{n}", "ses-1", "anat", "T1w.nii.gz"), n)
    new.run()
    before = new.files
    Path(new.source, "sub-01").rename(new.root / "sub-01")
    new.fails()
    assert {name: row["status"] for name, row in new.rows.items()} == {
        "sub-00_ses-1": "done",
        "sub-01_ses-1": "done",
    }
    assert new.files == before


def test_another_cohort_in_the_same_folder_does_not_miss_the_first(
    folder: Trial, write_brain: WriteBrain
) -> None:
    before = folder.files
    write_brain(folder.root / "site" / "d.nii.gz", 3)
    folder.of(folder.root / "site").run()
    assert folder.rows.keys() == {"d"}
    assert before.items() <= folder.files.items()


# --- results that are about to be replaced -------------------------------------------------------


def test_with_other_settings_the_old_files_stay_until_there_are_new_ones(table: Trial) -> None:
    before, scan = table.files, table.root / "in" / "b.nii.gz"
    kept = scan.read_bytes()
    truncated(scan)
    assert "2 done, 1 failed" in table.fails("--threshold", "0.02").stderr
    row = table.rows["two"]
    assert (row["status"], row["anomaly_ml"]) == ("failed", "")
    assert "is cut short" in row["reason"]
    assert "its files are of an earlier run with other settings" in row["reason"]
    assert table.reported()["two"] == ("failed", row["reason"])
    for name, content in table.files.items():
        same = content == before[name]
        assert same == name.startswith("two/") or name.endswith(".nii.gz")
    # With the earlier settings, the earlier result counts again.
    assert "two: done, as an earlier run left it, not checked" in table.fails().stderr
    assert table.files == before
    scan.write_bytes(kept)
    table.run("--threshold", "0.02")
    assert json.loads((table.output / "two" / "b_record.json").read_text())["threshold"] == 0.02


def test_a_changed_input_that_fails_leaves_the_files_and_names_their_origin(table: Trial) -> None:
    before, rows = table.files, table.rows
    scan, truth = table.root / "in" / "c.nii.gz", table.root / "labels" / "truth.nii.gz"
    kept = {path: path.read_bytes() for path in (scan, truth)}
    moved = GRID + np.pad(np.full((3, 1), 30.0), ((0, 1), (3, 0)))
    write_volume(truth, volume_from_native(np.ones(SHAPE, np.uint8), moved), overwrite=True)
    speck = np.zeros(SHAPE, np.float32)
    speck[5, 5, 5] = 1  # no brain
    write_volume(scan, volume_from_native(speck, GRID), overwrite=True)
    table.fails()
    for name in ("one", "three"):
        row = table.rows[name]
        assert row["status"] == "failed"
        assert (
            "its files are of an earlier run with another scan, ground truth or mask"
            in row["reason"]
        )
        assert table.reported()[name] == ("failed", row["reason"])
    assert table.files == before
    assert CohortFolder(table.output).states.failed(table.cases) == {"one", "three"}
    for path, content in kept.items():
        path.write_bytes(content)
    assert table.run().stderr.count("unchanged") == 3
    assert table.rows == rows


def test_a_stopped_run_leaves_the_old_results(table: Trial) -> None:
    before = table.files
    other = BatchSettings(SETTINGS.detection, threshold=0.5, pictures=False)
    steps = run_batch(table.cases, table.output, load_checkpoint(table.checkpoint), other)
    next(progress for progress in steps if progress.stage == "detect")
    steps.close()
    assert table.files == before
    for row in table.rows.values():
        assert row["status"] == "skipped"
        assert "its files are of an earlier run with other settings" in row["reason"]


def test_a_state_of_an_earlier_version_that_was_cut_off_goes_on(folder: Trial) -> None:
    """It said that it was writing, but not which files."""
    before = folder.files
    folder.forge("a", status="skipped", reason="its writing was cut off", files={})
    (folder.output / "a" / "a_record.json").unlink()
    folder.run()
    assert folder.files == before


def test_missing_files_are_made_again_even_after_a_failure(folder: Trial) -> None:
    before, scan = folder.files, folder.root / "in" / "a.nii.gz"
    kept = scan.read_bytes()
    (folder.output / "a" / "a_labels.nii.gz").unlink()
    truncated(scan)
    folder.fails()
    assert folder.rows["a"]["status"] == "failed"
    scan.write_bytes(kept)
    folder.run()
    assert folder.files == before


def test_shards_and_chosen_cases_keep_finished_results(table: Trial) -> None:
    before, checkpoint = table.files, load_checkpoint(table.checkpoint)
    folder_gone(table.root / "in" / "a.nii.gz")
    seen = []
    for index in (1, 2):
        *_, last = run_batch(table.cases, table.output, checkpoint, SETTINGS, Shard(index, 2))
        seen.append((last.finished, last.failed, last.unchecked))
    assert sorted(seen) == [(1, 0, 1), (2, 0, 2)]
    assert {status for status, _ in table.reported().values()} == {"done"}
    *_, last = run_batch(table.cases, table.output, checkpoint, SETTINGS, only=["two"])
    assert (last.finished, last.failed, last.unchecked) == (1, 0, 1)
    for row in table.rows.values():  # also those that were not chosen
        assert row["reason"].startswith("not checked: the scan cannot be read")
    assert table.files == before


# --- states and plans that cannot be trusted -----------------------------------------------------


def hostile(victim: Path, case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    sha = "ab" * 32
    yield "absolute", {"files": {str(victim): sha}}
    yield "up", {"files": {f"../{victim.name}": sha}}
    yield "up and down", {"files": {f"{case}/../../{victim.name}": sha}}
    yield "dots", {"files": {f"./../{victim.name}": sha}}
    yield "link", {"files": {f"{case}/link": sha}}
    yield "linked folder", {"files": {f"{case}/away/{victim.name}": sha}}
    yield "another's", {"files": {"c/c_record.json": sha, "c/c_labels.nii.gz": sha}}
    yield "manifest", {"files": {"manifest.csv": sha, ".batch/plan.json": sha}}
    yield "about to replace", {"replacing": {str(victim): sha}}
    yield "nul", {"files": {f"{case}/\0": sha}}
    yield "no text", {"files": {f"{case}/{case}_record.json": 7}}
    yield "no hash", {"files": {f"{case}/{case}_record.json": "../x"}}
    yield "hash and more", {"files": {f"{case}/{case}_record.json": f"{sha}\n"}}
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


KINDS = [kind for kind, _ in hostile(Path("victim"), "a")]


@pytest.mark.parametrize(
    ("kinds", "fails"),
    [
        *((KINDS[n : n + 2], False) for n in range(0, len(KINDS), 2)),
        (["absolute", "another's"], True),
        (["about to replace", "later"], True),
    ],
)
def test_a_forged_state_touches_nothing(folder: Trial, kinds: list[str], fails: bool) -> None:
    """The cases a and b are forged, each in its way, and c is not."""
    victim = folder.root / "thesis_record.json"
    victim.write_text(NOTES)
    forged = dict(zip("ab", kinds, strict=False))
    for case, kind in forged.items():
        (folder.output / case / "link").symlink_to(victim)
        (folder.output / case / "away").symlink_to(folder.root)
        folder.forge(case, **dict(hostile(victim, case))[kind])
    before = folder.files
    for case in forged if fails else ():
        empty(folder.root / "in" / f"{case}.nii.gz")
    folder.fails()
    assert victim.read_text() == NOTES
    assert folder.files == before
    for case in forged:
        row = folder.rows[case]
        assert row["status"] == "failed"
        assert fails or "is of no run of this batch" in row["reason"]
    assert folder.rows["c"]["status"] == "done"
    folder.reported()
    assert NOTES not in (folder.output / "report.html").read_text()
    assert not fails or folder.listed.keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"files":' + '{"a":' * 5000 + "1" + "}" * 5001, "", "7", "\xff", "{}"],
)
@pytest.mark.parametrize("what", ["state", "plan"])
def test_a_damaged_state_or_plan_stops_nothing(folder: Trial, what: str, text: str) -> None:
    before = folder.files
    path = folder.state_path("a") if what == "state" else folder.output / HIDDEN / "plan.json"
    path.write_text(text, encoding="latin-1")
    if what == "state":
        assert folder.reported()["a"] == ("skipped", "not reached yet")
    else:
        with pytest.raises(AddmError, match="holds no batch"):
            read_cohort(folder.output)
    assert folder.listed.keys() == {"a", "b", "c"}
    done = folder.fails() if what == "state" else folder.run()
    assert "b: unchanged" in done.stderr
    assert folder.files == before


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
def test_a_plan_of_another_form_counts_as_none(folder: Trial, change: dict[str, Any]) -> None:
    path = folder.output / HIDDEN / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AddmError, match="holds no batch"):
        read_cohort(folder.output)
    assert len(folder.cases) == 3


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../thesis.nii.gz", "a/../../thesis.nii.gz", "", ".nii.gz", "a\0.nii"]
)
def test_a_forged_plan_opens_no_file_elsewhere(folder: Trial, name: str) -> None:
    path = folder.output / HIDDEN / "plan.json"
    plan = json.loads(path.read_text())
    plan["cases"].append({"case": name or "x", "input": name, "skip": ""})
    path.write_text(json.dumps(plan))
    assert {case.name for case in folder.cases} == {"a", "b", "c"}


def test_the_report_shows_no_file_of_elsewhere_or_of_another_case(folder: Trial) -> None:
    output, outside = folder.output, folder.root / "x_record.json"
    outside.write_text(json.dumps({"warnings": [NOTES]}))
    (output / "a" / "x_record.json").symlink_to(outside)
    for name in ("a/x_record.json", "../x_record.json", str(outside)):
        folder.forge("a", files={name: scan_sha256(outside)})
        assert folder.reported()["a"] == ("skipped", "not reached yet")
        assert NOTES not in (output / "report.html").read_text()
    folder.forge("a", files=json.loads(folder.state_path("b").read_text())["files"])
    assert folder.reported()["a"][0] != "done"
    assert folder.reported()["c"] == ("done", "")


@pytest.mark.parametrize(
    "odd",
    [
        {"quality": [1], "warnings": 3, "versions": "x"},
        {"quality": {"flags": [3, {"key": 1}], "figures": {"brain_ml": "x"}, "unchecked": 1}},
        {"quality": {"figures": {"brain_ml": float("nan")}}, "versions": {"a": [1]}},
    ],
)
def test_a_report_of_odd_records_ends_in_a_page(folder: Trial, odd: dict[str, Any]) -> None:
    record = folder.output / "a" / "a_record.json"
    record.write_text(json.dumps(odd))
    files = json.loads(folder.state_path("a").read_text())["files"]
    files["a/a_record.json"] = scan_sha256(record)
    folder.forge("a", files=files, qc=["of a newer version"], metrics={"dice": float("nan")})
    problem = "not checked: a_record.json is "
    (status, reason), *others = folder.reported().values()
    assert status == "done"
    assert reason.startswith(problem)
    assert set(others) == {("done", "")}
    json.loads((folder.output / "report.json").read_text(), parse_constant=pytest.fail)


# --- links ---------------------------------------------------------------------------------------


def test_no_link_is_written_through(folder: Trial) -> None:
    new, away = Trial(folder.source, folder.root / "new", folder.checkpoint), folder.root / "away"
    for path in (away, new.output / "b", new.output / "c"):
        path.mkdir(parents=True)
    (away / "b_labels.nii.gz").write_text(NOTES)
    (new.output / "a").symlink_to(away)
    (new.output / "b" / "b_labels.nii.gz").symlink_to(away / "b_labels.nii.gz")
    (new.output / "c" / "c_record.json").symlink_to(away / "nowhere")
    for _ in range(2):
        assert "0 done, 3 failed" in new.fails().stderr
        assert "a in the output folder is a link or a file" in new.rows["a"]["reason"]
        for name in ("b", "c"):
            assert "is of no run of this batch" in new.rows[name]["reason"]
        assert [path.name for path in away.iterdir()] == ["b_labels.nii.gz"]
        assert (away / "b_labels.nii.gz").read_text() == NOTES


@pytest.mark.parametrize("place", ["", "cases", "locks", "locks/1-of-1"])
def test_a_batch_folder_that_is_a_link_is_refused(folder: Trial, place: str) -> None:
    new, away = Trial(folder.source, folder.root / "new", folder.checkpoint), folder.root / "away"
    away.mkdir()
    (away / "plan.json").write_text(NOTES)
    link = new.output / HIDDEN / place
    link.parent.mkdir(parents=True)
    link.symlink_to(away)
    assert "is a link" in new.run(code=1).stderr
    assert {path.name: path.read_text() for path in away.iterdir()} == {"plan.json": NOTES}


@pytest.mark.parametrize("place", ["", "cases"])
def test_a_report_reads_nothing_through_a_link(folder: Trial, place: str) -> None:
    link, before = folder.output / HIDDEN / place, folder.files
    link.rename(folder.root / "away")
    link.symlink_to(folder.root / "away")
    done = invoke(["report", folder.output])
    assert done.exit_code == 1
    assert "is a link" in done.stderr
    assert folder.files == before
    assert not (folder.output / "report.html").exists()


def test_a_link_in_the_place_of_a_file_costs_no_result(folder: Trial) -> None:
    before, state = folder.files, folder.state_path("a").read_bytes()
    findings, mine = folder.output / "a" / "a_findings.csv", folder.root / "mine.csv"
    findings.rename(mine)
    findings.symlink_to(mine)
    for more in ((), ("--retry-failed",)):
        folder.fails(*more)
        assert findings.is_symlink()
        assert folder.state_path("a").read_bytes() == state
    findings.unlink()
    folder.run()
    assert folder.files == before


# --- files of other people -----------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("text", ["case;scan\n1;2\n", "", "case,input,status\n", None])
def test_a_manifest_of_another_person_is_not_replaced(
    folder: Trial, begun: bool, text: str | None
) -> None:
    """``None``: a copy of one of ours in a new folder, and a link to a file in a begun one."""
    trial = folder if begun else Trial(folder.source, folder.root / "new", folder.checkpoint)
    trial.output.mkdir(exist_ok=True)
    manifest, theirs = trial.output / "manifest.csv", folder.root / "cases.csv"
    if text is not None:
        manifest.write_text(text)
    elif begun:
        manifest.unlink()
        manifest.symlink_to(theirs)
    else:
        shutil.copy(folder.output / "manifest.csv", manifest)
    content, before = manifest.read_bytes(), trial.files
    done = trial.run(code=1)
    assert f"{manifest} exists already and was not written" in done.stderr
    assert "move or rename it" in done.stderr
    assert (manifest.read_bytes(), trial.files) == (content, before)
    assert manifest.is_symlink() == (begun and text is None)
    assert begun or not (trial.output / HIDDEN).exists()


def test_a_manifest_of_a_shard_is_not_replaced_either(folder: Trial) -> None:
    mine = folder.output / "manifest_shard-1-of-2.csv"
    mine.write_text(NOTES)
    assert f"{mine.name} exists already" in folder.run("--shard", "1/2", code=1).stderr
    assert mine.read_text() == NOTES
    folder.run("--shard", "2/2")


@pytest.mark.parametrize("name", OURS)
def test_the_report_replaces_no_file_of_another_person(folder: Trial, name: str) -> None:
    output = folder.output
    write_cohort_report(output)
    write_cohort_report(output)  # replaces its own
    first, rest = (output / name).read_text().split("\n", 1)
    texts = [NOTES, "<html><h1>My report</h1></html>", '{"mine": 1}', "case,mine\n"]
    if name.endswith(".csv"):  # a person has worked on ours
        heads = (f"{first},my notes", first.replace("anomaly_ml", "mL"), first.replace(",", ";"))
        texts += [f"{head}\n{rest}" for head in heads]
    for text in texts:
        (output / name).write_text(text)
        before = {other: (output / other).read_bytes() for other in OURS}
        refused = [invoke(["report", output])]
        refused += [folder.run(code=1)] if name == "manifest.csv" else []
        for done in refused:
            assert done.exit_code == 1
            assert f"{output / name} exists already and was not written by a batch" in done.stderr
        assert {other: (output / other).read_bytes() for other in OURS} == before


def test_only_leftovers_of_a_killed_run_are_removed(folder: Trial) -> None:
    output, away = folder.output, folder.root / "away"
    theirs = [
        output / ".notes.part",
        output / "a" / ".notes.part",
        output / "a" / f".{'ab' * 16}.part.txt",
        output / "a" / f".{'AB' * 16}.part",
        output / ".mydownload.part" / "x",
        output / ".download.part" / "x",  # as long as a name of tempfile
        output / "a" / ".download.part" / "x",
        output / "a" / f".{'12' * 16}.part" / "thesis.txt",
        output / HIDDEN / ".notes.part",
        away / f".{'ab' * 16}.part",
    ]
    ours = [
        output / f".{'ab' * 16}.part",
        output / "a" / f".{'cd' * 16}.part",
        output / HIDDEN / "cases" / f".{'ef' * 16}.part",
        output / "a" / f".{'01' * 16}.part" / "a_labels.nii.gz",
        output / "a" / f".{'02' * 16}.part" / f".{'03' * 16}.part",
    ]
    for path in (*theirs, *ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTES)
    (output / "a" / ".empty_01.part").mkdir()
    links = [output / ".link.part", output / "a" / f".{'ee' * 16}.part"]
    for link in links:
        link.symlink_to(away)
    folder.run()
    assert all(path.read_text() == NOTES for path in theirs)
    assert all(link.is_symlink() for link in links)
    assert not [path for path in ours if path.exists()]
    assert not any(path.parent.exists() for path in ours if path.parent.suffix == ".part")


def test_a_picture_of_another_person_is_neither_replaced_nor_removed(folder: Trial) -> None:
    """It lies in the folder of a finished case, under a name that the run did not need."""
    mine = folder.output / "a" / "a_overlay.png"
    mine.write_text(NOTES)
    before, checkpoint = folder.files, load_checkpoint(folder.checkpoint)
    pictures = BatchSettings(SETTINGS.detection, threshold=0.01)
    *_, last = run_batch(folder.cases, folder.output, checkpoint, pictures, only=["a"])
    assert last.failed == 1
    assert f"{mine.name} exists already" in folder.rows["a"]["reason"]
    assert folder.files == before
    assert "2 done, 1 failed" in folder.fails("--threshold", "0.02").stderr
    assert mine.read_text() == NOTES


def test_pictures_come_and_go_with_their_case(folder: Trial) -> None:
    before, checkpoint = folder.files, load_checkpoint(folder.checkpoint)
    for pictures in (True, False):
        settings = BatchSettings(SETTINGS.detection, threshold=0.01, pictures=pictures)
        list(run_batch(folder.cases, folder.output, checkpoint, settings, only=["a"]))
        assert (folder.output / "a" / "a_overlay.png").exists() == pictures
        assert folder.rows["a"]["status"] == "done"
    assert folder.files == before


def test_a_plan_from_a_clock_that_is_ahead_does_not_count_for_ever(folder: Trial) -> None:
    folder.run("--shard", "1/2")
    plan = folder.output / HIDDEN / "plan-shard-1-of-2.json"
    ahead = plan.stat().st_mtime + 172_800
    os.utime(plan, (ahead, ahead))
    folder.run()
    found = read_cohort(folder.output)
    assert found.missing == ()
    assert [entry.result.status for entry in found.entries] == ["done"] * 3


# --- a result belongs to one scan ----------------------------------------------------------------


def check_refused(trial: Trial, case: str, named: str, found: str) -> None:
    """Check that a row names its own scan, and has no figure of another one."""
    row = trial.rows[case]
    assert (row["status"], row["input"]) == ("failed", named)
    assert f"has the result of another scan ({found}): move it away, or choose" in row["reason"]
    assert str(trial.root) not in row["reason"]
    assert {row[key] for key in ("anomaly_ml", "findings", "dice", "qc")} == {""}
    (entry,) = (e for e in read_cohort(trial.output).entries if e.result.case == case)
    assert (entry.result.status, entry.result.input) == ("failed", named)
    assert "another scan" in entry.result.reason
    assert (entry.result.anomaly_ml, entry.largest, entry.picture) == (None, None, "")


@pytest.mark.parametrize(
    ("name", "there"), [("T1", "absent"), ("T1", "whole"), ("other", "truncated")]
)
def test_a_line_with_another_scan_does_not_get_the_result_of_the_old_one(
    pairs: Trial, write_brain: WriteBrain, name: str, there: str
) -> None:
    before, rows, state = pairs.files, pairs.rows, pairs.state_path("p1").read_bytes()
    now = f"pat3/{name}.nii.gz"
    if there != "absent":
        write_brain(pairs.root / now)
    if there == "truncated":
        truncated(pairs.root / now)
    write_table(Path(pairs.source), p1=now, p2="pat2/T1.nii.gz")
    assert {case: row["earlier"] for case, row in pairs.listed.items()} == {
        "p1": None,
        "p2": "done",
    }
    for more in ((), ("--retry-failed",)):
        pairs.fails(*more)
        check_refused(pairs, "p1", now, "pat1/T1.nii.gz")
        assert pairs.state_path("p1").read_bytes() == state
    assert pairs.files == before
    write_table(Path(pairs.source), p1="pat1/T1.nii.gz", p2="pat2/T1.nii.gz")
    assert "p1: unchanged" in pairs.run().stderr
    assert pairs.rows == rows
    if there == "whole":  # for a new result under this name, a person moves the old one away
        write_table(Path(pairs.source), p1=now, p2="pat2/T1.nii.gz")
        (pairs.output / "p1").rename(pairs.root / "away")
        pairs.run()
        assert pairs.rows["p1"]["input"] == now


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_swapped_lines_swap_no_results(pairs: Trial, away: bool, known: bool) -> None:
    before = pairs.files
    if not known:  # earlier versions kept the input alone
        for case in ("p1", "p2"):
            pairs.forge(case, origin={})
    write_table(Path(pairs.source), p2="pat1/T1.nii.gz", p1="pat2/T1.nii.gz")
    if away:
        for n in (1, 2):
            (pairs.root / f"pat{n}").rename(pairs.root / f"away{n}")
    for _ in range(2):
        pairs.fails()
        check_refused(pairs, "p1", "pat2/T1.nii.gz", "pat1/T1.nii.gz")
        check_refused(pairs, "p2", "pat1/T1.nii.gz", "pat2/T1.nii.gz")
        assert pairs.files == before


@pytest.mark.parametrize("whole", [True, False])
def test_a_scan_of_the_same_stem_does_not_take_the_place_of_an_absent_one(
    folder: Trial, write_brain: WriteBrain, whole: bool
) -> None:
    source, before, rows = Path(folder.source), folder.files, folder.rows
    (source / "a.nii.gz").rename(folder.root / "a.nii.gz")
    write_brain(source / "a.nii", 3)
    if not whole:
        truncated(source / "a.nii")
    for _ in range(2):
        folder.fails()
        check_refused(folder, "a", "a.nii", "a.nii.gz")
        assert folder.files == before
    (source / "a.nii").unlink()
    (folder.root / "a.nii.gz").rename(source / "a.nii.gz")
    folder.run()
    assert (folder.files, folder.rows) == (before, rows)


@pytest.mark.parametrize("way", [None, gone, truncated])
def test_a_second_site_in_the_same_folder_takes_nothing_from_the_first(
    folder: Trial, way: Way | None
) -> None:
    before, site = folder.files, folder.root / "site"
    shutil.copytree(folder.source, site)
    (site / "a.nii.gz").rename(site / "d.nii.gz")
    for one, other in (("c", "a"), ("d", "c")):
        (site / f"{one}.nii.gz").rename(site / f"{other}.nii.gz")
    (site / "b.nii.gz").write_bytes((site / "a.nii.gz").read_bytes())
    if way:
        way(site / "b.nii.gz")
    folder.of(site).fails()
    assert folder.files == before
    for name in folder.rows:
        check_refused(folder, name, f"{name}.nii.gz", f"{name}.nii.gz")
    assert ("b" in folder.rows) == (way is not gone)


def test_a_dataset_that_has_moved_goes_on(folder: Trial) -> None:
    before, rows = folder.files, folder.rows
    moved = folder.of(Path(folder.source).rename(folder.root / "archive"))
    assert {case: row["earlier"] for case, row in moved.listed.items()} == dict.fromkeys(
        "abc", "done"
    )
    assert moved.run().stderr.count("unchanged") == 3
    assert (moved.files, moved.rows) == (before, rows)
    truncated(folder.root / "archive" / "b.nii.gz")  # its place is known now
    assert "b: done, as an earlier run left it, not checked" in moved.fails().stderr
    assert {**moved.rows["b"], "reason": ""} == rows["b"]


@pytest.mark.parametrize(
    ("what", "case", "change"),
    [
        ("mask", "two", "renamed"),
        ("truth", "one", "removed"),
        ("truth", "three", "added"),
        ("mask", "three", "added"),
    ],
)
def test_another_truth_or_mask_that_cannot_be_read_is_another_input(
    table: Trial, what: str, case: str, change: str
) -> None:
    before, rows, path = table.files, table.rows, Path(table.source)
    kept = path.read_text()
    if change == "added":
        cells = {"truth": "in/c.nii.gz,gone.nii.gz,", "mask": "in/c.nii.gz,,gone.nii"}
        path.write_text(kept.replace("in/c.nii.gz,,", cells[what]))
    elif change == "removed":
        path.write_text(kept.replace(f"labels/{what}.nii.gz", ""))
        (table.root / "in").rename(table.root / "away")
    else:
        path.write_text(kept.replace(f"labels/{what}.nii.gz", f"other/{what}.nii.gz"))
    for _ in range(2):
        table.fails()
        row = table.rows[case]
        assert (row["status"], row["dice"], row["anomaly_ml"]) == ("failed", "", "")
        assert "cannot be read" in row["reason"]
        assert (
            "its files are of an earlier run with another scan, ground truth or mask"
            in row["reason"]
        )
        assert table.reported()[case] == ("failed", row["reason"])
        assert table.files == before
    if change == "removed":
        (table.root / "away").rename(table.root / "in")
    path.write_text(kept)
    table.run()
    assert table.rows == rows


def test_results_of_an_earlier_version_are_made_again(folder: Trial) -> None:
    """Their sides are those of the scanner, not the patient's."""
    before = folder.files
    plan = json.loads((folder.output / HIDDEN / "plan.json").read_text())
    parameters = plan["parameters"]
    assert parameters.pop("results") == 3
    for case in "abc":
        state = json.loads(folder.state_path(case).read_text())
        inputs = [(f"{case}.nii.gz", state["origin"]["content"]), None, None]
        key = json_sha256({"parameters": parameters, "inputs": inputs})
        folder.forge(case, key=key, parameters=json_sha256(parameters), origin={})
    scan = folder.root / "in" / "b.nii.gz"
    kept = scan.read_bytes()
    truncated(scan)
    done = folder.fails()
    assert "unchanged" not in done.stderr
    assert "2 done, 1 failed" in done.stderr
    assert folder.files == before
    assert "its files are of an earlier run with other settings" in folder.rows["b"]["reason"]
    scan.write_bytes(kept)
    assert folder.run().stderr.count("unchanged") == 2


# --- files that a person has worked on -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scan"),
    [
        ("a_findings.csv", None),
        ("a_findings.csv", gone),
        ("a_labels.nii.gz", truncated),
        ("a_record.json", None),
    ],
)
def test_a_changed_file_is_not_written_over(folder: Trial, name: str, scan: Way | None) -> None:
    original, rows, source = folder.files, folder.rows, folder.root / "in" / "a.nii.gz"
    kept, edited = source.read_bytes(), folder.output / "a" / name
    edited.write_text(NOTES)
    (folder.output / "a" / "a_anomaly.nii.gz").unlink()  # a missing file does not decide
    before = folder.files
    if scan:
        scan(source)
    if scan is gone:  # the case may be gone for good
        folder.run()
        assert folder.files == before
    else:
        for _ in range(2):
            assert "3 done (1 of them not checked), 0 failed" in folder.fails().stderr
            row = folder.rows["a"]
            assert {**row, "reason": ""} == rows["a"]
            changed = f"{name} was changed after the batch wrote it"
            reason = "the scan cannot be read" if scan else changed
            assert row["reason"].startswith(f"not checked: {reason}")
            assert folder.files == before
        if not scan:
            assert row["reason"].endswith("; move it away to have the case done anew")
            status, reason = folder.reported()["a"]
            of_record = name == "a_record.json"
            assert status == ("failed" if of_record else "done")
            assert reason.startswith(
                f"{changed}: move it away and run" if of_record else row["reason"]
            )
            if not of_record:
                folder.fails("--threshold", "0.02")
                reason = folder.rows["a"]["reason"]
                assert changed in reason
                assert "its files are of an earlier run with other settings" in reason
    assert edited.read_text() == NOTES
    source.write_bytes(kept)
    edited.rename(folder.root / "mine")
    folder.run()
    assert folder.files == original


def test_a_file_that_is_changed_while_the_network_works_is_not_written_over(
    folder: Trial,
) -> None:
    edited = folder.output / "a" / "a_findings.csv"
    other = BatchSettings(SETTINGS.detection, threshold=0.02, pictures=False)
    checkpoint = load_checkpoint(folder.checkpoint)
    for progress in run_batch(folder.cases, folder.output, checkpoint, other, only=["a"]):
        if progress.stage == "detect":
            edited.write_text(NOTES)
    assert edited.read_text() == NOTES
    assert "was changed after the batch wrote it" in folder.rows["a"]["reason"]
