"""Which cases an input holds, and how shards divide them."""

import os
from pathlib import Path
from typing import Any

import pytest

from napari_addm.cohort.case import CohortCase, Shard, parse_shard
from napari_addm.cohort.find import find_cohort
from napari_addm.errors import AddmError, InputError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_a_folder_gives_its_scans_with_the_folders_in_it(tmp_path: Path) -> None:
    scans = ("a.nii.gz", "b.mgz", "pair.hdr", "pair.img", "twice.nii", "twice.nii.gz")
    others = ("b_mask.nii.gz", "notes.txt", ".hidden.nii", "before/x_anomaly.nii.gz")
    others += ("both/comparison_after_scan.nii.gz",)
    touch(tmp_path, *scans, *others, "deep/er/a.nii", "out/a/a_labels.nii.gz")
    found = {case.name: case.skip for case in find_cohort(tmp_path, tmp_path / "out")}
    names = ("a", "b", "deep/er/a", "pair", "twice.nii", "twice.nii.gz")
    assert found == dict.fromkeys(names, "") | {
        "b_mask": "named as labels, not as a scan",
        "before/x_anomaly": "named as a result of napari-addm, not as a scan",
        "both/comparison_after_scan": "named as a result of napari-addm, not as a scan",
    }


def test_a_pattern_is_named_from_its_last_fixed_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x/t1.nii.gz", "y/t1.nii.gz", "y/t2.nii.gz")
    found = find_cohort(str(tmp_path / "*" / "t1.nii.gz"), tmp_path / "out")
    assert [(case.name, case.input) for case in found] == [
        ("x/t1", "x/t1.nii.gz"),
        ("y/t1", "y/t1.nii.gz"),
    ]


def test_a_pattern_takes_a_file_once(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a/b/t1.nii", "a/c/t1.nii")
    for pattern in ("**/**/t1.nii", "a/*/../b/t1.nii"):
        found = find_cohort(str(tmp_path / "in" / pattern), tmp_path / "out")
        assert sum(case.scan.parent.name == "b" for case in found) == 1
        assert all(case.runs for case in found)


def test_a_bids_dataset_gives_only_plain_t1w(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_run-1_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_ce-gd_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    )
    cases = find_cohort(tmp_path, tmp_path / "derivatives" / "addm")
    assert {case.name: case.folder for case in cases if not case.skip} == {
        "sub-01": "sub-01/anat",
        "sub-02_ses-1_run-1": "sub-02/ses-1/anat",
        "sub-02_ses-1_run-2": "sub-02/ses-1/anat",
    }
    assert {case.input: case.skip.split(" (")[0] for case in cases if case.skip} == {
        "sub-01/anat/sub-01_T2w.nii.gz": "not a T1w image",
        "sub-02/ses-1/anat/sub-02_ses-1_ce-gd_T1w.nii.gz": "a T1w image after contrast agent",
    }


@pytest.mark.parametrize(
    ("scan", "name", "folder"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01", "sub-01/anat"),
        ("sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii", "sub-01_ses-1_run-2", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/sub-01_run-2_T1w.nii", "sub-01_ses-1_run-2", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/ses-1_T1w.nii", "sub-01_ses-1", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/acq-mp2_T1w.nii", "sub-01_ses-1_acq-mp2", "sub-01/ses-1/anat"),
        ("sub-01/anat/ses-1_T1w.nii", "sub-01_ses-1", "sub-01/ses-1/anat"),
        ("sub-01/ses-1/anat/acq-x_sub-01_T1w.nii", "sub-01_ses-1_acq-x", "sub-01/ses-1/anat"),
        # BIDS does not allow these labels: they get no folders, but names of their own
        ("sub-01_pre/anat/sub-01_pre_T1w.nii", "sub-01_pre", "."),
        ("sub-01_pre/anat/T1w.nii", "sub-01_pre", "."),
        ("sub-a.b/ses-1/anat/sub-a.b_T1w.nii", "sub-a.b_ses-1", "."),
        ("sub-01/anat/sub-01_ses-1_T1w.nii", "sub-01_ses-1", "sub-01/ses-1/anat"),
    ],
)
def test_folders_complete_bids_names(tmp_path: Path, scan: str, name: str, folder: str) -> None:
    (case,) = find_cohort(touch(tmp_path / "in", scan), tmp_path / "out")
    assert (case.name, case.folder, case.problem) == (name, folder, "")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_names_scans_truths_and_masks(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["Case", '"age, in years; or\ta,b;c\td,e;f\tg"', "scan", "ground_truth", "mask"],
        ["one", "7", "in/1.nii", "in/1_lesion.nii", "NA"],
        ["", "8", "in/2.nii.gz", "n/a", "in/2_mask.nii"],
        ["", "", "", "", ""],
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    one, two = sorted(find_cohort(table, tmp_path / "out"), key=lambda case: case.input)
    assert (one.name, one.truth, one.mask) == ("one", tmp_path / "in" / "1_lesion.nii", None)
    assert (two.name, two.scan) == ("in/2", tmp_path / "in" / "2.nii.gz")
    assert two.mask == tmp_path / "in" / "2_mask.nii"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,truth\na.nii,b.nii\n", "no column scan"),
        ("scan\n", "holds no scan"),
        ("scan,Scan\na.nii,b.nii\n", "has the column scan twice"),
        ('scan,case\n"a.nii,x\nb.nii,y\n', "line 2 cannot be read"),
        ('scan,case\n"a.nii,x\nb.nii",y\n', "line 2 cannot be read: a quotation mark is missing"),
    ],
)
def test_a_table_without_a_meaning_is_refused(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        find_cohort(table, tmp_path / "out")


def test_a_bad_line_of_a_table_fails_alone(tmp_path: Path) -> None:
    bad = {
        "a.nii,../x": "the case cannot be named '../x'",
        "a.nii,/x": "the case cannot be named '/x'",
        ",x": "there is no scan",
        "..,dots": "'..' names no scan",
        ".,dot": "'.' names no scan",
        "/,root": "'/' names no scan",
        "b\0.nii,nul": "names no scan",
        "b.nii,Doe, Jane,7": "it has 4 cells, the header 2",
        f"{'y' * 200_000}.nii,long": "too long",
        f"x.nii,{'n' * 256}": "would have 256 bytes",
        f"{'s' * 240}.nii,y": "too long",
        "1.nii,CON": "Windows keeps the name CON for a device",
        "2.nii,x/nul.b": "device",
        "3.nii,Manifest.csv": "the batch writes manifest.csv itself",
        "4.nii,report.html/a": "the batch writes report.html itself",
        f"5.nii,{'n/' * 2500}n": "has a path of",
        f"{'y/../' * 1000}6.nii,z": "has a path of",
    }
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(["sep=,", "scan,case", "good.nii,good,,", *bad]))
    cases = find_cohort(table, tmp_path / "out")
    assert len({case.name for case in cases}) == len(cases) == len(bad) + 1
    found = {case.problem.split(" ")[1]: case for case in cases if case.problem}
    for number, (line, message) in enumerate(bad.items(), 4):
        case = found.pop(str(number))
        assert case.problem.startswith(f"line {number} of cases.csv: "), line
        assert message in case.problem, line
        assert max(map(len, (case.name, case.input))) < 100
    assert not found
    assert [case.name for case in cases if case.runs] == ["good"]


@pytest.mark.parametrize("mark", ["sep=;\r\n", '"sep=;"\n', "SEP=;\r", ""])
def test_a_table_as_a_spreadsheet_writes_it(tmp_path: Path, mark: str) -> None:
    touch(tmp_path / "scans", "p01/t1.nii", "p02/t1.nii", "back\\slash.nii")
    rows = ["scan;case", "scans\\p01\\t1.nii;", f"{tmp_path}/scans/p02/t1.nii;"]
    rows += ["C:\\data\\p03\\t1.nii;p03", "scans/back\\slash.nii;kept", ";;;"]
    table = tmp_path / "cases.csv"
    table.write_text(mark + ("\r" if "\r" in mark else "\n").join(rows))
    found = {case.name: case.scan for case in find_cohort(table, tmp_path / "out")}
    assert found.keys() == {"scans/p01/t1", "scans/p02/t1", "p03", "kept"}
    for name in found.keys() - {"p03"}:
        assert found[name].is_file()


def test_absolute_scans_are_named_from_the_folder_that_they_share(tmp_path: Path) -> None:
    table = tmp_path / "tables" / "cases.csv"
    table.parent.mkdir()
    table.write_text("scan\n/data/study/p1/t1.nii\n/data/study/p2/t1.nii\nown/t1.nii\n")
    names = {case.name for case in find_cohort(table, tmp_path / "out")}
    assert names == {"p1/t1", "p2/t1", "own/t1"}
    table.write_text("scan\n/data/study/p1/t1.nii\n")
    assert [case.name for case in find_cohort(table, tmp_path / "out")] == ["t1"]


def links(folder: Path, **targets: str | Path) -> None:
    for name, target in targets.items():
        (folder / name).symlink_to(target)


def test_linked_folders_are_searched_once_and_odd_entries_are_listed(tmp_path: Path) -> None:
    root, far = tmp_path / "in", tmp_path / "far"
    touch(root, "real/t1.nii", ".store/p2/t1.nii", "lone.nii")
    touch(far, "p1/t1.nii")
    links(root, p1=far / "p1", p1_again=far / "p1", p2=".store/p2", again="real", up=tmp_path)
    links(tmp_path, **{"alone.nii": ".git/annex"})  # reading says what is not fetched
    assert [case.skip for case in find_cohort(tmp_path / "alone.nii", tmp_path / "out")] == [""]
    links(root, disk="/", gone="nowhere", **{"zero.nii": "/dev/zero", "data.nii": ".git/annex"})
    links(far / "p1", loop=".", back=root)
    os.mkfifo(root / "pipe.nii.gz")
    plain = {case.name: case.skip for case in find_cohort(root, tmp_path / "out")}
    deep = find_cohort(str(root / "**" / "*.nii*"), tmp_path / "out")
    assert {case.name for case in deep if case.runs} == {
        "lone",
        "data",
        "real/t1",
        "p1/t1",
        "p2/t1",
    }
    assert {name for name, skip in plain.items() if not skip} == {
        case.name for case in deep if case.runs
    }
    skipped = {name: skip for name, skip in plain.items() if skip}
    assert skipped == {
        "p1_again": "the same folder as p1",
        "again": "a link to real, which is searched itself",
        "up": "a link to a folder around it",
        "disk": "a link to a folder around it",
        "gone": "a link that leads nowhere",
        "zero.nii": "a pipe, a socket or a device, and no file",
        "pipe.nii.gz": "a pipe, a socket or a device, and no file",
        "p1/loop": "the same folder as p1",
        "p1/back": "a link to a folder around it",
    }


def test_a_scan_is_told_from_what_is_none_by_its_name(tmp_path: Path) -> None:
    runs = ["T1_recon.nii.gz", "sub-01_part-mag_T1w.nii.gz"]
    others = ["a_recon.nii.gz", "a_record.json", "sub-01_part-phase_T1w.nii.gz"]
    others += ["sub-01_ce-gd_T1w.nii.gz"]
    for folder in (touch(tmp_path / "in", *runs, *others), tmp_path / "ds"):
        if folder.name == "ds":
            touch(folder, *(f"sub-01/anat/{name}" for name in (*runs, *others) if "sub" in name))
        found = find_cohort(folder, tmp_path / "out")
        names = [case.scan.name for case in found if case.runs]
        assert names == [name for name in runs if folder.name == "in" or "sub" in name]
    reasons = {case.scan.name: case.skip for case in find_cohort(tmp_path / "in", tmp_path / "out")}
    assert reasons["a_recon.nii.gz"] == "a result of napari-addm"
    assert "phase part" in reasons["sub-01_part-phase_T1w.nii.gz"]


def test_inputs_without_a_scan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "labels", "x_mask.nii", "y_mask.nii")
    for source, message in (
        (tmp_path / "empty", "holds no scan"),
        (tmp_path / "no", "does not exist"),
        (str(tmp_path / "*.nii"), "holds no scan"),
        (tmp_path / "labels", "x_mask.nii is left out .named as labels, not .* and 1 more"),
        ("n" * 5000, "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            find_cohort(source, tmp_path / "out")
    touch(tmp_path, "a.nii")
    with pytest.raises(InputError, match="input and output at once"):
        find_cohort(tmp_path, tmp_path)


def test_a_folder_that_cannot_be_read_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = touch(tmp_path / "in", "a.nii", "lost+found/b.nii")
    bids = touch(tmp_path / "bids", *(f"sub-{n}/anat/sub-{n}_T1w.nii" for n in range(2)))

    def closed(real: Any) -> Any:
        def look(path: Any = ".") -> Any:
            if str(path).endswith(("lost+found", "sub-1/anat")):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return look

    monkeypatch.setattr(os, "scandir", closed(os.scandir))
    monkeypatch.setattr(os, "listdir", closed(os.listdir))
    for source, good, bad in ((plain, "a", "lost+found"), (bids, "sub-0", "sub-1/anat")):
        found = {case.name: case.skip for case in find_cohort(source, tmp_path / "out")}
        assert found == {good: "", bad: "the folder cannot be read (Permission denied)"}


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
