"""Every case has a name of its own, or is not run: no result takes the place of another's."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from cohorts import Trial, WriteBrain, write_table

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.files import HIDDEN
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.inspect import inspect_cohort
from napari_addm.cohort.results import read_cohort
from napari_addm.errors import InputError
from napari_addm.outputs.portable_names import path_problem, same_name_key

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Andr\xe9") for form in ("NFC", "NFD"))


def by_input(cases: list[CohortCase]) -> dict[str, CohortCase]:
    assert len({case.name for case in cases}) == len(cases)
    return {case.input: case for case in cases}


# --- BIDS ----------------------------------------------------------------------------------------


def test_sessions_and_subjects_out_of_folders_have_results_of_their_own(
    new: Trial, write_brain: WriteBrain
) -> None:
    names = ["sub-01/ses-A/anat/sub-01_T1w.nii.gz", "sub-01/ses-B/anat/sub-01_T1w.nii.gz"]
    names += ["sub-02/anat/T1w.nii.gz", "sub-3.x/anat/T1w.nii.gz"]
    for n, name in enumerate(names):
        write_brain(Path(new.source, name), n)
    new.run("--no-regions")
    folders = {"sub-01_ses-A": "sub-01/ses-A/anat/", "sub-01_ses-B": "sub-01/ses-B/anat/"}
    folders |= {"sub-02": "sub-02/anat/", "sub-3.x": ""}  # no label that BIDS allows
    first = new.files
    assert new.rows.keys() == folders.keys()
    for case, folder in folders.items():
        stem = f"{case}_space-orig_desc-anomaly" if folder else "sub-3.x_T1w"
        record = json.loads(first[f"{folder}{stem}_record.json"])
        volume = sum(finding["volume_ml"] for finding in record["findings"])
        assert volume == pytest.approx(float(new.rows[case]["anomaly_ml"]), rel=1e-4)
    maps = [content for name, content in first.items() if name.endswith("_map.nii.gz")]
    assert len(set(maps)) == 3
    assert new.run("--no-regions").stderr.count(": unchanged") == 4
    assert new.files == first


def test_a_scan_that_contradicts_its_folder_is_not_taken_for_the_other_subject(
    new: Trial, write_brain: WriteBrain
) -> None:
    source = Path(new.source)
    write_brain(source / "sub-05" / "anat" / "sub-05_T1w.nii.gz", 0)
    new.run()
    before = new.files
    write_brain(source / "sub-06" / "anat" / "sub-05_T1w.nii.gz", 1)
    (source / "sub-07").symlink_to(source / "sub-05")
    write_brain(source / "sub-08" / "ses-1" / "anat" / "sub-08_ses-2_T1w.nii.gz")
    assert "1 done, 3 failed" in new.fails().stderr
    reasons = {row["input"]: row["reason"] for row in new.rows.values()}
    assert reasons.pop("sub-05/anat/sub-05_T1w.nii.gz") == ""
    for subject in ("sub-06", "sub-07"):
        message = f"its name says sub-05 and its folder {subject}"
        assert message in reasons.pop(f"{subject}/anat/sub-05_T1w.nii.gz")
    (last,) = reasons.values()
    assert "ses-2 and its folder ses-1" in last
    assert new.files == before


def test_two_files_of_one_bids_name_are_both_refused_and_keep_results(
    new: Trial, write_brain: WriteBrain
) -> None:
    source = Path(new.source)
    pairs = [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/T1w.nii.gz"),
        ("sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii"),
    ]
    for n, (one, _) in enumerate(pairs):
        write_brain(source / one, n)
    new.run()
    before = new.files
    for _, other in pairs:
        write_brain(source / other, 2)
    assert "0 done, 4 failed" in new.fails().stderr
    reasons = {row["input"]: row["reason"] for row in new.rows.values()}
    for one, other in pairs:
        assert f"cannot be told apart from {other}" in reasons[one]
        assert f"cannot be told apart from {one}" in reasons[other]
        (source / other).unlink()
    assert new.files == before
    assert new.run().stderr.count(": unchanged") == 2


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        (["Pat-a,p1/t1.nii.gz", "Pat-A,p2/t1.nii.gz"], ["lines 2 and 3", "Pat-a and Pat-A"]),
        (["x,1.nii", "y,2.nii", "X,3.nii"], ["lines 2 and 4", "x and X"]),
        ([f"{COMPOSED},1.nii", f"{DECOMPOSED},2.nii"], ["lines 2 and 3", "form of accents"]),
        (["Stra\xdfe,1.nii", "strasse,2.nii"], ["Stra\xdfe and strasse"]),
        (["x,1.nii", "x.,2.nii"], ["x and x."]),
        (["x,1.nii", "x,2.nii"], ["lines 2 and 3", "names the case x twice"]),
        ([",in/1.nii", ",in/1.nii.gz"], ["names the case in/1 twice"]),
        ([",in/a.nii", ",IN/A.nii"], ["in/a and IN/A"]),
        (["a,1.nii", "a/1_record.json,2.nii"], ["a and a/1_record.json", "folder of the other"]),
        (["a,1.nii", "A/1_Record.JSON/b,2.nii"], ["folder of the other"]),
    ],
)
def test_a_table_with_names_that_cannot_be_told_apart_is_refused(
    tmp_path: Path, rows: list[str], messages: list[str]
) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(["case,scan", *rows]), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        find_cohort(table, tmp_path / "out")
    for words in ("cases.csv", *messages):
        assert words in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_refused_table_ends_the_command(new: Trial) -> None:
    trial = new.of(write_table(new.root / "cases.csv", x="1.nii", X="2.nii"))
    for more in ((), ("--dry-run",)):
        assert "x and X cannot be told apart" in trial.run(*more, code=1).stderr
    assert not new.output.exists()


def test_the_names_of_a_table_stay_as_they_are(tmp_path: Path) -> None:
    names = ["12a", "12b", "Pat-A/t1", "Pat-B/t1", COMPOSED, "T1.nii", "t2.nii.gz"]
    scans = {name: f"p{n}/t1.nii.gz" for n, name in enumerate(names)}
    table = write_table(tmp_path / "cases.csv", **scans)
    assert sorted(case.name for case in find_cohort(table, tmp_path / "out")) == sorted(names)


def test_two_lines_of_a_long_table_are_found(tmp_path: Path) -> None:
    scans = {f"p{n:05}": f"p{n}/t1.nii.gz" for n in range(3_000)}
    table = write_table(tmp_path / "cases.csv", **scans, P00007="x.nii")
    with pytest.raises(InputError, match="lines 9 and 3002: the cases p00007 and P00007"):
        find_cohort(table, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["manifest.csv", "Manifest.CSV", "manifest_shard-1-of-2.csv", "report.csv"]
)
def test_a_table_is_not_written_over_by_its_own_batch(new: Trial, name: str) -> None:
    new.output.mkdir()
    table = write_table(new.output / name, a="in/a.nii.gz")
    content = table.read_text()
    done = new.of(table).run(code=1)
    assert f"{name} is the input" in done.stderr
    assert "rename the input" in done.stderr
    assert table.read_text() == content
    assert not (new.output / HIDDEN).exists()


# --- folders and patterns ------------------------------------------------------------------------

# The files of a folder, and pairs of them that cannot be told apart.
ALIKE: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "case": (["x.nii.gz", "x.nii", "X.nii.gz"], [("x.nii.gz", "X.nii.gz")]),
    "case of folders": (["s1/x.nii", "S1/x.nii"], [("s1/x.nii", "S1/x.nii")]),
    "accents": (
        [f"{COMPOSED}.nii", f"{DECOMPOSED}.nii"],
        [(f"{COMPOSED}.nii", f"{DECOMPOSED}.nii")],
    ),
    "blank": (["p /t.nii", "p/t.nii"], [("p /t.nii", "p/t.nii")]),
    "after renaming": (["x.nii", "x.nii.gz", "x.nii.nii.gz"], [("x.nii", "x.nii.nii.gz")]),
    "a file where a folder is": (
        ["a.nii", "a/a_record.json.nii"],
        [("a.nii", "a/a_record.json.nii")],
    ),
    "bids names": (["sub-01_T1w.nii", "SUB-01_T1w.nii"], [("sub-01_T1w.nii", "SUB-01_T1w.nii")]),
    "bids suffixes": (
        ["sub-01_T1w.nii", "sub-01_T1w.nii.gz"],
        [("sub-01_T1w.nii", "sub-01_T1w.nii.gz")],
    ),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_scans_that_cannot_be_told_apart_name_each_other(tmp_path: Path, kind: str) -> None:
    names, pairs = ALIKE[kind]
    source, output = tmp_path / "in", tmp_path / "out"
    for name in (*names, "other.nii.gz"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"")
    alike = {name for pair in pairs for name in pair}
    for given in (source, str(source / "**" / "*.nii*")):
        cases = by_input(find_cohort(given, output))
        assert cases.keys() == {*names, "other.nii.gz"}
        assert {name for name, case in cases.items() if case.problem} == alike
        for one, other in pairs:
            assert f"cannot be told apart from {other}" in cases[one].problem
            assert f"cannot be told apart from {one}" in cases[other].problem
    inspected = inspect_cohort(find_cohort(source, output), output)
    found = {each.case.input for each in inspected if "told apart" in each.problem}
    assert found == alike


@pytest.mark.parametrize("kind", ["case", "a file where a folder is", "bids suffixes"])
def test_scans_that_cannot_be_told_apart_are_not_run(
    new: Trial, write_brain: WriteBrain, kind: str
) -> None:
    names, pairs = ALIKE[kind]
    for n, name in enumerate((*names, "other.nii.gz")):
        write_brain(Path(new.source, name), n)
    alike = {name for pair in pairs for name in pair}
    done = new.fails()
    assert f"{len(names) + 1 - len(alike)} done, {len(alike)} failed, 0 skipped" in done.stderr
    rows, first = {row["input"]: row for row in new.rows.values()}, new.files
    for name in (*names, "other.nii.gz"):
        assert rows[name]["status"] == ("failed" if name in alike else "done")
    entries = {e.result.input: e.result for e in read_cohort(new.output).entries}
    for one, other in pairs:
        assert f"from {other}" in rows[one]["reason"]
        assert (entries[one].status, entries[one].reason) == ("failed", rows[one]["reason"])
    assert new.fails().stderr.count(": unchanged") == len(names) + 1 - len(alike)
    assert new.files == first
    assert f"0 done, {len(alike)} failed" in new.fails("--retry-failed").stderr


def test_a_scan_with_a_name_that_cannot_be_written_fails_alone(
    new: Trial, write_brain: WriteBrain
) -> None:
    source = Path(new.source)
    write_brain(source / "good.nii.gz")
    long, old = "n" * 246, os.fsdecode(b"M\xfcller")
    for name in (long, old, "con", "manifest.csv", "sub-01"):
        write_brain(source / "s" / "x.nii.gz").rename(source / f"{name}.nii.gz")
    (source / old).mkdir()
    for name in ("t1.nii.gz", "t1_mask.nii.gz"):
        (source / old / name).write_bytes(b"x")
    new.fails("--dry-run")
    new.fails()
    rows = {row["input"]: row for row in new.rows.values()}
    for name, message in (
        (f"{long}.nii.gz", "too long"),
        ("M\\xfcller.nii.gz", "not written in UTF-8"),
        ("M\\xfcller/t1.nii.gz", "not written in UTF-8"),
        ("con.nii.gz", "device"),
        ("manifest.csv.nii.gz", "the batch writes manifest.csv itself"),
    ):
        row = rows.pop(name)
        assert row["status"] == "failed"
        assert message in row["reason"]
    assert {name: row["status"] for name, row in rows.items()} == {
        "good.nii.gz": "done",
        "sub-01.nii.gz": "done",
        "M\\xfcller/t1_mask.nii.gz": "skipped",
    }


def test_a_scan_under_two_names_is_two_cases(new: Trial, write_brain: WriteBrain) -> None:
    """In git-annex, files of equal content are links to one."""
    source = Path(new.source)
    write_brain(source / "a.nii.gz")
    (source / "b.nii.gz").symlink_to(source / "a.nii.gz")
    new.run()
    assert new.rows.keys() == {"a", "b"}
    assert {name.split("/")[0] for name in new.files} == {"a", "b"}


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
