"""Every case has a name of its own, or is not run: no result takes the place of another's."""

import csv
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import invoke

from napari_addm.cli import app as cli
from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.inspect import inspect_cohort
from napari_addm.cohort.report import read_cohort
from napari_addm.errors import InputError
from napari_addm.io.writing import write_volume
from napari_addm.outputs.portable_names import path_problem, same_name_key

GRID = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Andr\xe9") for form in ("NFC", "NFD"))

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(make_brain: Callable[..., Any]) -> Write:
    """``write(path, n)``: the n-th brain, each with a lesion of another size."""

    def one(path: Path, n: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lesion = ((25.0, -20.0, 15.0, 12.0 + 4 * n),)
        return write_volume(path, make_brain(GRID, SHAPE, lesion), overwrite=True)

    return one


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def batch(source: object, output: Path, checkpoint: Path, *more: str) -> Any:
    """The command, as a user gives it."""
    options = ["--checkpoint", str(checkpoint), "--device", "cpu", "--no-pictures"]
    return invoke(["batch", str(source), "-o", str(output), "--threshold", "0.01", *options, *more])


def manifest(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["case"] for row in rows}) == len(rows)
    return {row["case"]: row for row in rows}


def files(output: Path) -> dict[str, bytes]:
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and HIDDEN not in path.parts and path.name != "manifest.csv"
    }


def by_input(cases: list[CohortCase]) -> dict[str, CohortCase]:
    assert len({case.name for case in cases}) == len(cases)
    return {case.input: case for case in cases}


# --- BIDS ----------------------------------------------------------------------------------------


def test_sessions_whose_files_do_not_name_them_have_results_of_their_own(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for n, session in enumerate(("ses-A", "ses-B")):
        write(source / "sub-01" / session / "anat" / "sub-01_T1w.nii.gz", n)
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == 0, done.output
    rows = manifest(output)
    assert rows.keys() == {"sub-01_ses-A", "sub-01_ses-B"}
    first = files(output)
    for session in ("ses-A", "ses-B"):
        inside = f"sub-01/{session}/anat/sub-01_{session}_space-orig_desc-anomaly"
        assert {f"{inside}_{end}" for end in ("map.nii.gz", "dseg.nii.gz", "record.json")} <= {
            *first
        }
        record = json.loads(first[f"{inside}_record.json"])
        volumes = sum(finding["volume_ml"] for finding in record["findings"])
        assert volumes == pytest.approx(float(rows[f"sub-01_{session}"]["anomaly_ml"]), rel=1e-4)
    a, b = (first[n] for n in sorted(first) if n.endswith("_map.nii.gz"))
    assert a != b
    again = batch(source, output, tiny_checkpoint)
    assert again.exit_code == 0
    assert again.stderr.count(": unchanged") == 2
    assert files(output) == first


def test_files_that_name_no_subject_take_it_from_their_folders(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for n in range(3):
        write(source / f"sub-0{n}" / "anat" / "T1w.nii.gz", n)
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert manifest(output).keys() == {"sub-00", "sub-01", "sub-02"}
    maps = [name for name in files(output) if name.endswith("_desc-anomaly_map.nii.gz")]
    assert maps == [f"sub-0{n}/anat/sub-0{n}_space-orig_desc-anomaly_map.nii.gz" for n in range(3)]
    assert len({files(output)[name] for name in maps}) == 3


@pytest.mark.parametrize(
    ("scan", "name", "home"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01", "sub-01/anat"),
        ("sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii", "sub-01_ses-1_run-2", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/sub-01_run-2_T1w.nii", "sub-01_ses-1_run-2", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/ses-1_T1w.nii", "sub-01_ses-1", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/acq-mp2_T1w.nii", "sub-01_ses-1_acq-mp2", "sub-01/ses-1/anat"),
        ("sub-01/anat/ses-1_T1w.nii", "sub-01_ses-1", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/acq-x_sub-01_T1w.nii", "sub-01_ses-1_acq-x", "sub-01/ses-1/anat"),
        # no labels that BIDS allows, and no folders for them, but names of their own
        ("sub-01_pre/anat/sub-01_pre_T1w.nii", "sub-01_pre", "."),
        ("sub-01_pre/anat/T1w.nii", "sub-01_pre", "."),
        ("sub-a.b/ses-1/anat/sub-a.b_T1w.nii", "sub-a.b_ses-1", "."),
        ("sub-01/anat/sub-01_ses-1_T1w.nii", "sub-01_ses-1", "sub-01/ses-1/anat"),
    ],
)
def test_names_are_completed_and_otherwise_stay(
    tmp_path: Path, scan: str, name: str, home: str
) -> None:
    touch(tmp_path / "in" / scan)
    (case,) = find_cohort(tmp_path / "in", tmp_path / "out")
    assert (case.name, case.folder, case.problem) == (name, home, "")


def test_what_bids_does_not_allow_runs_all_the_same(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    for n in range(2):
        write(tmp_path / "in" / f"sub-{n}.x" / "anat" / "T1w.nii.gz", n)
    for _ in range(2):
        assert batch(tmp_path / "in", tmp_path / "out", tiny_checkpoint).exit_code == 0
    assert {name for name in files(tmp_path / "out") if name.endswith("_labels.nii.gz")} == {
        f"sub-{n}.x_T1w_labels.nii.gz" for n in range(2)
    }


def test_a_scan_whose_name_contradicts_its_folder_is_not_taken_for_the_other_subject(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "sub-05" / "anat" / "sub-05_T1w.nii.gz", 0)
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    before = files(output)
    write(source / "sub-06" / "anat" / "sub-05_T1w.nii.gz", 1)
    (source / "sub-07").symlink_to(source / "sub-05")
    touch(source / "sub-08" / "ses-1" / "anat" / "sub-08_ses-2_T1w.nii.gz")
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert "1 done, 3 failed" in done.stderr
    rows = {row["input"]: row for row in manifest(output).values()}
    assert rows["sub-05/anat/sub-05_T1w.nii.gz"]["status"] == "done"
    for subject in ("sub-06", "sub-07"):
        row = rows[f"{subject}/anat/sub-05_T1w.nii.gz"]
        assert row["status"] == "failed"
        assert f"its name says sub-05 and its folder {subject}" in row["reason"]
    assert (
        "ses-2 and its folder ses-1" in rows["sub-08/ses-1/anat/sub-08_ses-2_T1w.nii.gz"]["reason"]
    )
    assert files(output) == before


def test_two_files_of_one_bids_name_are_both_refused_and_keep_what_was_done(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    anat = source / "sub-01" / "anat"
    write(anat / "sub-01_T1w.nii.gz", 0)
    write(source / "sub-02" / "anat" / "sub-02_T1w.nii.gz", 1)
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    before = files(output)
    write(anat / "T1w.nii.gz", 2)
    write(source / "sub-02" / "anat" / "sub-02_T1w.nii", 2)
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert "0 done, 4 failed" in done.stderr
    reasons = {row["input"]: row["reason"] for row in manifest(output).values()}
    for one, other in (
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/T1w.nii.gz"),
        ("sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii"),
    ):
        assert f"cannot be told apart from {other}" in reasons[one]
        assert f"cannot be told apart from {one}" in reasons[other]
    assert files(output) == before
    # and when the others are gone, it goes on where it was
    (anat / "T1w.nii.gz").unlink()
    (source / "sub-02" / "anat" / "sub-02_T1w.nii").unlink()
    again = batch(source, output, tiny_checkpoint)
    assert again.exit_code == 0
    assert again.stderr.count(": unchanged") == 2


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["Pat-a,p1/t1.nii.gz", "Pat-A,p2/t1.nii.gz"], ["lines 2 and 3", "Pat-a and Pat-A"]),
        (["x,1.nii", "y,2.nii", "X,3.nii"], ["lines 2 and 4", "x and X"]),
        ([f"{COMPOSED},1.nii", f"{DECOMPOSED},2.nii"], ["lines 2 and 3", "form of accents"]),
        (["Stra\xdfe,1.nii", "strasse,2.nii"], ["Stra\xdfe and strasse"]),
        (["\xc9va,1.nii", "e\u0301VA,2.nii"], ["lines 2 and 3"]),
        (["g/x,1.nii", "G/X,2.nii"], ["g/x and G/X"]),
        (["x,1.nii", "x.,2.nii"], ["x and x."]),
        (["x,1.nii", "x,2.nii"], ["lines 2 and 3", "names the case x twice"]),
        ([",in/1.nii", ",in/1.nii.gz"], ["names the case in/1 twice"]),
        ([",in/a.nii", ",IN/A.nii"], ["in/a and IN/A"]),
        (["a,1.nii", "a/1_record.json,2.nii"], ["a and a/1_record.json", "folder of the other"]),
        (["a,1.nii", "A/1_Record.JSON/b,2.nii"], ["folder of the other"]),
        (["ok,1.nii", f"{'n' * 256},2.nii"], ["line 3", "too long", "256 bytes"]),
        (["ok,1.nii", "\xe9" * 130 + ",2.nii"], ["line 3", "260 bytes"]),
        (["ok,1.nii", f"x,{'s' * 240}.nii"], ["line 3", "too long"]),
        (["CON,1.nii"], ["line 2", "device"]),
        (["g/aux.x,1.nii"], ["line 2", "device"]),
        (["x,nul.b.nii"], ["line 2", "device"]),
        (["Manifest.csv,1.nii"], ["line 2", "the batch writes"]),
        (["report.html/a,1.nii"], ["line 2", "the batch writes"]),
        (["x,.."], ["line 2", "names no scan"]),
        (["x,/"], ["line 2", "names no scan"]),
        ([f"x,{'y' * 200_000}.nii"], ["line 2", "cannot be read"]),
        (["ok,1.nii", f"{'n/' * 2500}n,2.nii"], ["line 3", "has a path of", "use shorter names"]),
        ([f"x,{'y/../' * 1000}2.nii"], ["line 2", "has a path of", "use shorter names"]),
        ([f"{'n/' * 1990}n,2.nii"], ["line 2", "has a path of", "use shorter names"]),
        (["a\ufe0f,1.nii", "a,2.nii"], ["lines 2 and 3", "cannot be told apart"]),
        (["a\u034f,1.nii", "a,2.nii"], ["lines 2 and 3", "cannot be told apart"]),
    ],
)
def test_a_table_whose_names_cannot_be_told_apart_is_refused_before_anything_runs(
    tmp_path: Path, tiny_checkpoint: Path, rows: list[str], said: list[str]
) -> None:
    table, output = tmp_path / "cases.csv", tmp_path / "out"
    table.write_text("\n".join(["case,scan", *rows]), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        find_cohort(table, output)
    for words in ("cases.csv", *said):
        assert words in str(refused.value)
    for more in ((), ("--dry-run",)):
        done = batch(table, output, tiny_checkpoint, *more)
        assert done.exit_code == 1
        assert "bug" not in done.stderr
    assert not output.exists()


def test_the_names_of_a_table_stay_as_they_are(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    names = ["12a", "12b", "Pat-A/t1", "Pat-B/t1", COMPOSED, "T1.nii", "t2.nii.gz"]
    rows = [f"{name},p{n}/t1.nii.gz" for n, name in enumerate(names)]
    table.write_text("\n".join(["case,scan", *rows]), encoding="utf-8")
    assert sorted(case.name for case in find_cohort(table, tmp_path / "out")) == sorted(names)


def test_a_long_table_is_checked_in_one_go(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    rows = [f"p{n:05},p{n}/t1.nii.gz" for n in range(20_000)]
    table.write_text("\n".join(["case,scan", *rows, "P00007,x.nii"]))
    with pytest.raises(InputError, match="lines 9 and 20002: the cases p00007 and P00007"):
        find_cohort(table, tmp_path / "out")


def test_a_table_is_not_written_over_by_its_own_batch(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    output = tmp_path / "out"
    write(output / "in" / "a.nii.gz")
    for name in ("manifest.csv", "Manifest.CSV", "manifest_shard-1-of-2.csv", "report.csv"):
        table = output / name
        table.write_text("case,scan\na,in/a.nii.gz\n")
        done = batch(table, output, tiny_checkpoint)
        assert done.exit_code == 1
        assert f"{name} is the input" in done.stderr
        assert "rename the input" in done.stderr
        assert table.read_text() == "case,scan\na,in/a.nii.gz\n"
        table.unlink()
    assert not (output / HIDDEN).exists()


# --- folders and patterns ------------------------------------------------------------------------

# What lies in a folder, and which of it cannot be told from which.
ALIKE: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "case": (["x.nii.gz", "x.nii", "X.nii.gz"], [("x.nii.gz", "X.nii.gz")]),
    "case of folders": (["s1/x.nii", "S1/x.nii"], [("s1/x.nii", "S1/x.nii")]),
    "accents": (
        [f"{COMPOSED}.nii", f"{DECOMPOSED}.nii"],
        [(f"{COMPOSED}.nii", f"{DECOMPOSED}.nii")],
    ),
    "sharp s": (["stra\xdfe.nii", "STRASSE.nii"], [("stra\xdfe.nii", "STRASSE.nii")]),
    "blank": (["p /t.nii", "p/t.nii"], [("p /t.nii", "p/t.nii")]),
    "after renaming": (
        ["x.nii", "x.nii.gz", "x.nii.nii.gz"],
        [("x.nii", "x.nii.nii.gz")],
    ),
    "a file where a folder is": (
        ["a.nii", "a/a_record.json.nii"],
        [("a.nii", "a/a_record.json.nii")],
    ),
    "bids names": (
        ["sub-01_T1w.nii", "SUB-01_T1w.nii"],
        [("sub-01_T1w.nii", "SUB-01_T1w.nii")],
    ),
    "bids suffixes": (
        ["sub-01_T1w.nii", "sub-01_T1w.nii.gz"],
        [("sub-01_T1w.nii", "sub-01_T1w.nii.gz")],
    ),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_scans_that_cannot_be_told_apart_are_not_run_and_name_each_other(
    write: Write, tmp_path: Path, tiny_checkpoint: Path, kind: str
) -> None:
    names, pairs = ALIKE[kind]
    source, output = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate(names):
        write(source / name, n)
    write(source / "other.nii.gz", 3)
    pattern = str(source / "**" / "*.nii*")
    for given in (source, pattern):
        cases = by_input(find_cohort(given, output))
        assert cases.keys() == {*names, "other.nii.gz"}
        alike = {name for pair in pairs for name in pair}
        assert {name for name, case in cases.items() if case.problem} == alike
        for one, other in pairs:
            assert f"cannot be told apart from {other}" in cases[one].problem
            assert f"cannot be told apart from {one}" in cases[other].problem
    found = {f.case.input: f.problem for f in inspect_cohort(find_cohort(source, output), output)}
    assert {name for name, fault in found.items() if fault} == alike

    listed = batch(source, output, tiny_checkpoint, "--dry-run")
    assert listed.exit_code == cli.SOME_FAILED
    assert listed.stdout.count("cannot be told apart") == len(alike)
    assert not output.exists()

    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED
    assert f"{len(names) + 1 - len(alike)} done, {len(alike)} failed, 0 skipped" in done.stderr
    rows = {row["input"]: row for row in manifest(output).values()}
    for name in (*names, "other.nii.gz"):
        assert rows[name]["status"] == ("failed" if name in alike else "done")
    first = files(output)
    entries = {e.result.input: e.result for e in read_cohort(output).entries}
    for one, other in pairs:
        assert f"from {other}" in rows[one]["reason"]
        assert entries[one].status == "failed"
        assert f"from {other}" in entries[one].reason
    # nothing is swapped
    again = batch(source, output, tiny_checkpoint)
    assert again.exit_code == cli.SOME_FAILED
    assert again.stderr.count(": unchanged") == len(names) + 1 - len(alike)
    assert files(output) == first
    retried = batch(source, output, tiny_checkpoint, "--retry-failed")
    assert retried.exit_code == cli.SOME_FAILED
    assert f"0 done, {len(alike)} failed" in retried.stderr


def test_a_scan_whose_name_cannot_be_written_fails_alone(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "good.nii.gz")
    long, old = "n" * 246, os.fsdecode(b"M\xfcller")
    for name in (long, old, "con", "manifest.csv", "sub-01"):
        write(source / "s" / "x.nii.gz").rename(source / f"{name}.nii.gz")
    (source / old).mkdir()
    touch(source / old / "t1.nii.gz", source / old / "t1_mask.nii.gz")
    listed = batch(source, output, tiny_checkpoint, "--dry-run")
    assert listed.exit_code == cli.SOME_FAILED
    done = batch(source, output, tiny_checkpoint)
    assert done.exit_code == cli.SOME_FAILED, done.stderr
    assert "bug" not in done.stderr
    rows = {row["input"]: row for row in manifest(output).values()}
    assert {name for name, row in rows.items() if row["status"] == "done"} == {
        "good.nii.gz",
        "sub-01.nii.gz",
    }
    for name, said in (
        (f"{long}.nii.gz", "too long"),
        ("M\\xfcller.nii.gz", "not written in UTF-8"),
        ("M\\xfcller/t1.nii.gz", "not written in UTF-8"),
        ("con.nii.gz", "device"),
        ("manifest.csv.nii.gz", "the batch writes manifest.csv itself"),
    ):
        assert rows[name]["status"] == "failed"
        assert said in rows[name]["reason"]
    assert rows["M\\xfcller/t1_mask.nii.gz"]["status"] == "skipped"
    assert batch(source, output, tiny_checkpoint).exit_code == cli.SOME_FAILED


def test_a_folder_that_cannot_be_read_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "in" / "a.nii", tmp_path / "in" / "lost+found" / "b.nii")
    bids = tmp_path / "bids"
    touch(*(bids / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii" for n in range(2)))

    def closed(real: Any) -> Any:
        def look(path: Any = ".") -> Any:
            if str(path).endswith(("lost+found", "sub-1/anat")):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return look

    monkeypatch.setattr(os, "scandir", closed(os.scandir))
    monkeypatch.setattr(os, "listdir", closed(os.listdir))
    for source, good, bad in (
        (tmp_path / "in", "a", "lost+found"),
        (bids, "sub-0", "sub-1/anat"),
    ):
        found = {case.name: case.skip for case in find_cohort(source, tmp_path / "out")}
        assert found == {good: "", bad: "the folder cannot be read (Permission denied)"}


def test_a_scan_under_two_names_is_two_cases(
    write: Write, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """As with git-annex, whose files of equal content are links to one."""
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "a.nii.gz")
    (source / "b.nii.gz").symlink_to(source / "a.nii.gz")
    assert batch(source, output, tiny_checkpoint).exit_code == 0
    assert manifest(output).keys() == {"a", "b"}
    assert {name.split("/")[0] for name in files(output)} == {"a", "b"}


def test_a_pattern_takes_a_file_once(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a" / "b" / "t1.nii", tmp_path / "in" / "a" / "c" / "t1.nii")
    for pattern in ("**/**/t1.nii", "a/*/../b/t1.nii"):
        found = find_cohort(str(tmp_path / "in" / pattern), tmp_path / "out")
        assert sum(case.scan.parent.name == "b" for case in found) == 1
        assert all(case.runs for case in found)


def test_the_key_of_a_name_is_what_file_systems_compare() -> None:
    same = [("a", "A"), ("\xe9", "e\u0301"), ("\xdf", "SS"), ("x. ", "X"), ("a\u200bb", "ab")]
    for unseen in "\xad\u034f\u180b\u180f\u200d\u2060\u206f\ufe00\ufe0f\ufeff\U000e0100\U000e0fff":
        same += [("ab", f"a{unseen}b"), ("\xe9", f"e{unseen}\u0301"), ("A.", f"a.{unseen}")]
    for one, other in same:
        assert same_name_key(one) == same_name_key(other)
    for one, other in [("a/b", "a_b"), ("a", "b"), ("a.b", "ab"), ("a b", "ab"), (".", "")]:
        assert same_name_key(one) != same_name_key(other)
    assert path_problem([Path("a" * 255)]) == ""
    assert path_problem([Path("a") / ("b" * 256)])
    assert path_problem([Path("console"), Path("a.con"), Path("lpt")]) == ""
