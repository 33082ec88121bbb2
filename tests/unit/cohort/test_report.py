"""The page of a cohort: what it tells of good, bad, flagged and missing cases, and to whom."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import invoke

from napari_addm.cohort.case import CaseResult, CohortCase, Shard
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.report import subject, write_cohort_report
from napari_addm.cohort.results import read_cohort
from napari_addm.errors import InputError
from napari_addm.io.hashing import json_sha256, scan_sha256

MARKUP = "<script>alert(1)</script>"
UNSEEN = "\x1b[2J\u202egpj\u200b"
PARAMETERS = {
    "checkpoint": {"name": f"model {MARKUP}", "file": "m.safetensors", "sha256": "ab" * 32},
    "settings": {"steps": 3, "batch_size": None},
    "threshold": 0.4321,
}
SHA = "ab" * 32
RECORD: dict[str, Any] = {
    "schema_version": 3,
    "created_utc": None,
    "input": {"name": "x.nii.gz", "sha256": SHA, "voxels_sha256": SHA},
    "brain_mask": {"name": None, "voxels_sha256": SHA, "origin": "found"},
    "truth": None,
    "checkpoint": {"name": "m", "file": "m.safetensors", "sha256": SHA, "weights_sha256": SHA},
    "settings": {"erosion_mm": 4.0},
    "threshold": 0.4321,
    "minimum_ml": 0.1,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "geometry": {
        "shape": [2, 3, 4],
        "spacing_mm": [1.0, 1.0, 1.0],
        "orientation": "RAS",
        "affine": np.eye(4).tolist(),
    },
    "slices_done": {"done": 4, "of": 4},
    "seconds": {},
    "labels": {"computed_voxels_sha256": SHA, "edited_voxels": 0},
    "metrics": None,
    "outputs": {},
}
"""A run record, but for what a report shows of it."""


def finding(id: int, ml: float, side: str) -> dict[str, Any]:
    """A finding as a run record has it."""
    return {
        "id": id,
        "volume_ml": ml,
        "centroid_mm": [1.0, 2.0, 3.0],
        "peak": 1.0,
        "mean": 0.5,
        "uncertainty": None,
        "slice": 3,
        "voxels": 100,
        "side": side,
        "from_midline_mm": 12.5,
        "midline_source": "symmetry",
    }


def keep(
    folder: CohortFolder, case: str, *, ml: float = 1.0, dice: float | None = None, qc: str = ""
) -> CaseResult:
    """What a batch leaves of a case that is done."""
    home = folder.path / case
    home.mkdir(parents=True)
    record = home / "x_record.json"
    flags = [{"key": qc, "message": "this scan is odd"}] if qc else []
    quality = {"flags": flags, "figures": {"brain_ml": 1234.0}, "unchecked": ["some check"]}
    versions = {"torch": "2.6"}
    findings = [finding(1, ml * 0.1, "right"), finding(2, ml * 0.9, "left")] if ml else []
    content = {"quality": quality, "warnings": ["a warning"], "versions": versions}
    record.write_text(json.dumps({**RECORD, **content, "findings": findings}))
    picture = home / "x_overlay.png"
    Image.fromarray(np.zeros((40, 120, 3), np.uint8)).save(picture)
    result = CaseResult(
        case,
        f"{case}.nii.gz",
        "done",
        seconds=2.0,
        anomaly_ml=ml,
        findings=len(findings),
        dice=dice,
        qc=(qc,) if qc else (),
        metrics={} if dice is None else {"dice": dice, "auprc": None, "notes": ["x"]},
        files={
            path.relative_to(folder.path).as_posix(): scan_sha256(path)
            for path in (record, picture)
        },
    )
    folder.states.write(result, json_sha256(PARAMETERS))
    return result


@pytest.fixture
def folder(tmp_path: Path) -> CohortFolder:
    """Two sessions of one subject, one of another, one with nothing, one bad, one not reached."""
    folder = CohortFolder(tmp_path / "out")
    folder.hidden.mkdir(parents=True)
    keep(folder, "sub-1_ses-1", ml=10.0, dice=0.2)
    keep(folder, "sub-1_ses-2", ml=20.0, dice=0.4, qc="intensities")
    keep(folder, "sub-2", ml=300.0, dice=0.9)
    keep(folder, "sub-3", ml=0.0)
    bad = CaseResult("bad", "bad.nii.gz", "failed", f"bad.nii.gz is empty {MARKUP}{UNSEEN}")
    folder.states.write(bad, json_sha256(PARAMETERS))
    names = ["bad", "later", "sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3"]
    cases = [CohortCase(name, f"{name}.nii.gz", Path(name)) for name in names]
    cases.append(CohortCase("t2", "t2.nii", Path("t2"), skip="not a T1w image (T2w)"))
    folder.write_plan(Shard(), PARAMETERS, cases)
    return folder


def decide(folder: CohortFolder, case: str, *decisions: tuple[str | None, str]) -> None:
    """Write decisions and notes into the record of a case."""
    state = folder.states.read(case)
    assert state is not None
    path = folder.path / case / "x_record.json"
    record = json.loads(path.read_text())
    for found, (decision, note) in zip(record["findings"], decisions, strict=True):
        found |= {"decision": decision, "note": note}
    path.write_text(json.dumps(record))
    name = f"{case}/x_record.json"
    files = {**state.result.files, name: scan_sha256(path)}
    folder.states.write(replace(state.result, files=files), state.parameters)


class Page(HTMLParser):
    """The text of every table row, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += f" {data.strip()}"


def test_the_page_tells_everything_and_needs_nothing(folder: CohortFolder) -> None:
    written = write_cohort_report(folder.path)
    text = written["page"].read_text()
    page = Page(text)
    assert MARKUP not in text
    for kind in ("page", "table"):
        shown = written[kind].read_text()
        assert UNSEEN.encode("unicode_escape").decode() in shown
        assert all(letter.isprintable() for letter in shown if letter != "\n")
    assert [tag for tag, _ in page.tags].count("script") == 1
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"https?://|url\(", text)

    rows = {row.split()[0]: row for row in reversed(page.rows) if row.split()}  # "Every case"
    assert "bad.nii.gz is empty" in rows["bad"]
    assert "not reached yet" in rows["later"]
    assert "not a T1w image (T2w)" in rows["t2"]
    assert "a warning" in rows["sub-1_ses-2"]
    assert any("left, 12 mm from the midline" in row and "sub-2" in row for row in page.rows)
    assert "largest left, 12 mm from the midline" in text
    assert any("this scan is odd" in row for row in page.rows)
    for words in ("0.4321", "ab" * 32, "2.6", "some check", "settings steps"):
        assert words in text
    order = [text.index(f'id="{part}"') for part in ("cases", "quality", "failures", "pictures")]
    assert order == sorted(order)
    assert text.count("<figure") == 4


def test_a_subject_counts_once_and_two_have_a_range(folder: CohortFolder) -> None:
    figures = json.loads(write_cohort_report(folder.path)["figures"].read_text())
    dice = figures["metrics"]["dice"]
    assert dice["mean"] == pytest.approx(((0.2 + 0.4) / 2 + 0.9) / 2)
    assert (dice["subjects"], dice["excluded"]) == (2, 0)
    assert (dice["low"], dice["high"]) == (None, None)
    assert (dice["least"], dice["most"]) == (pytest.approx(0.3), pytest.approx(0.9))
    (case,) = (case for case in figures["cases"] if case["case"] == "sub-2")
    assert case["largest"]["side"] == "left"
    assert figures["metrics"]["auprc"]["subjects"] == 0
    assert figures["counts"] == {"done": 4, "failed": 1, "skipped": 2}
    assert subject("site/sub-1_ses-2") == "site/sub-1"
    assert subject("a/t1") == "a/t1"


def test_the_table_has_a_line_for_each_case(folder: CohortFolder) -> None:
    written = write_cohort_report(folder.path)
    for key in ("table", "manifest"):
        with written[key].open(newline="") as file:
            rows = {row["case"]: row for row in csv.DictReader(file)}
        assert list(rows) == sorted(rows)
        assert len(rows) == 7
        assert rows["sub-2"]["anomaly_ml"].startswith("300")
        assert rows["bad"]["status"] == "failed"
    with written["table"].open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert float(rows["sub-2"]["brain_ml"]) == 1234
    largest = [f"largest_{key}" for key in ("volume_ml", "side", "from_midline_mm")]
    assert [rows["sub-2"][key] for key in largest] == ["270.0", "left", "12.5"]
    assert [rows["sub-3"][key] for key in largest] == ["", "", ""]
    assert "notes" not in rows["sub-2"]


def test_pictures_are_few_where_they_have_to_be(folder: CohortFolder) -> None:
    text = write_cohort_report(folder.path, most_pictures=2)["page"].read_text()
    shown = re.findall(r"Montage of (\S+)\"", text)
    assert shown == ["sub-1_ses-2", "sub-2"]  # the flagged one, then the largest
    assert "2 more pictures" in text


def test_what_was_changed_after_the_run_is_not_believed(folder: CohortFolder) -> None:
    (folder.path / "sub-2" / "x_record.json").write_text("{}")
    (folder.path / "sub-3" / "x_overlay.png").unlink()
    entries = {entry.result.case: entry.result for entry in read_cohort(folder.path).entries}
    assert {name for name, result in entries.items() if result.status == "done"} == {
        "sub-1_ses-1",
        "sub-1_ses-2",
    }
    assert "x_record.json was changed after the batch wrote it: move" in entries["sub-2"].reason
    assert "x_overlay.png was removed after the batch wrote it: run" in entries["sub-3"].reason


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({**RECORD, "schema_version": 2}, "was written by an older version of napari-addm"),
        ({**RECORD, "versions": {"torch": float("nan")}}, "is damaged or was changed by hand"),
        ({"versions": {str(n): "" for n in range(10**5)}}, "is damaged or was changed by hand"),
        ({**RECORD, "threads": -1, "warnings": [], "versions": {}}, "is damaged or was"),
        ({"warnings": ["x" * 2**24]}, "is too large for a run record"),
    ],
    ids=["older", "nan", "keys", "field", "large"],
)
def test_a_record_that_cannot_be_read_is_named_and_the_others_go_on(
    folder: CohortFolder, caplog: pytest.LogCaptureFixture, content: Any, problem: str
) -> None:
    record = folder.path / "sub-2" / "x_record.json"
    record.write_text(json.dumps(content))
    state = folder.states.path("sub-2")
    kept = json.loads(state.read_text())
    kept["files"]["sub-2/x_record.json"] = scan_sha256(record)
    state.write_text(json.dumps(kept))
    page = Page(write_cohort_report(folder.path)["page"].read_text())
    assert f"sub-2: x_record.json {problem}" in caplog.text
    rows = {row.split()[0]: row for row in reversed(page.rows) if row.split()}
    assert f"not checked: x_record.json {problem}" in rows["sub-2"]
    assert "300.0" in rows["sub-2"]
    assert "left" in rows["sub-1_ses-1"]
    assert "not checked" not in rows["sub-1_ses-1"]


def test_results_of_other_settings_do_not_count(folder: CohortFolder) -> None:
    folder.write_plan(
        Shard(), {**PARAMETERS, "threshold": 0.5}, [CohortCase("sub-2", "sub-2.nii.gz", Path())]
    )
    (entry,) = read_cohort(folder.path).entries
    assert (entry.result.status, entry.result.anomaly_ml) == ("skipped", None)
    assert "other settings" in entry.result.reason


def test_shards_are_put_together_and_missing_ones_named(folder: CohortFolder) -> None:
    for index, names in ((1, ["bad", "sub-2"]), (3, ["sub-3"])):
        cases = [CohortCase(name, name, Path(name)) for name in names]
        folder.write_plan(Shard(index, 3), PARAMETERS, cases)
    cohort = read_cohort(folder.path)
    assert [entry.result.case for entry in cohort.entries] == ["bad", "sub-2", "sub-3"]
    assert cohort.missing == ("2 of 3",)
    assert "2 of 3" in write_cohort_report(folder.path)["page"].read_text()


def test_the_command_makes_the_page_or_says_why_not(
    folder: CohortFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = invoke(["report", str(folder.path)])
    assert done.exit_code == 0, done.output
    assert [Path(line).name for line in done.stdout.split()] == [
        "report.html",
        "report.csv",
        "report.json",
        "manifest.csv",
    ]
    failed = invoke(["report", str(tmp_path)])
    assert failed.exit_code == 1
    assert "holds no case and no batch" in failed.stderr
    with pytest.raises(InputError, match="holds no batch"):
        read_cohort(tmp_path)


def test_decisions_are_told_with_the_volume_that_is_left(folder: CohortFolder) -> None:
    written = write_cohort_report(folder.path)
    assert 'id="decisions"' not in written["page"].read_text()  # nobody has decided on anything
    decide(folder, "sub-1_ses-1", ("rejected", f"=1+1 {MARKUP}{UNSEEN}"), ("accepted", ""))
    decide(folder, "sub-2", (None, "look again"), ("rejected", ""))
    written = write_cohort_report(folder.path)
    text = written["page"].read_text()
    assert MARKUP not in text
    assert "<b>1</b>reviewed to the end" in text
    rows = Page(text).rows
    told = [row.split() for row in rows if row.split()[:2] == ["sub-1_ses-1", "1"]]
    assert (
        told[0][2:]
        == (
            "1.0 right, 12 mm from the midline rejected =1+1 <script>alert(1)</script>"
            f"{UNSEEN.encode('unicode_escape').decode()}"
        ).split()
    )
    assert any("open look again" in row for row in rows)
    assert "1 of the outlined findings rejected" in text

    with written["table"].open(newline="", encoding="utf-8") as file:
        table = {row["case"]: row for row in csv.DictReader(file)}
    columns = ("accepted", "rejected", "open", "kept_ml")
    assert [table["sub-1_ses-1"][name] for name in columns] == ["1", "1", "0", "9.0"]
    assert [table["sub-2"][name] for name in columns] == ["0", "1", "1", "30.0"]
    assert [table["sub-3"][name] for name in columns] == ["0", "0", "0", "0.0"]
    assert [table["bad"][name] for name in columns] == [""] * 4
    cases = {case["case"]: case for case in json.loads(written["figures"].read_text())["cases"]}
    assert cases["sub-2"]["decisions"] == [
        {"id": 1, "decision": None, "note": "look again"},
        {"id": 2, "decision": "rejected", "note": ""},
    ]
