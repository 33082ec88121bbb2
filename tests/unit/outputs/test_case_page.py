"""The page of a case: made from the saved files alone, true to decisions, and harmless."""

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import invoke

from napari_addm.errors import AddmError, InputError
from napari_addm.findings.computed import computed_findings
from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.writing import write_volume
from napari_addm.metrics.evaluation import evaluate
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.case_page import CaseSources, find_record, write_case_page
from napari_addm.outputs.contents import CaseInputs, GivenRegion

MARKUP = "<script>alert(1)</script>"
UNSEEN = "\x1b[2J\u202egpj"
DECISIONS = {1: Decision("accepted", f"a note {MARKUP}{UNSEEN}"), 7: Decision("rejected", "a vein")}
NO_PICTURES = "There are no pictures"


@pytest.fixture
def record(tmp_path: Path, write_scan: Callable[..., Path], make_case) -> Path:
    """The record of a case with an accepted and a rejected finding, and a ground truth."""
    scan = read_volume(write_scan())
    voxels = np.zeros(scan.shape, bool)
    voxels[2:5, 3:6, 4:9] = True
    write_volume(tmp_path / "truth.nii.gz", scan.with_data(voxels.astype(np.uint8)))
    inputs = CaseInputs(scan, truth=GivenRegion(voxels, tmp_path / "truth.nii.gz"))
    case = make_case(scan, edit=3, inputs=inputs, decisions=DECISIONS)
    metrics = evaluate(case.detection.anomaly.data, voxels, threshold=0.5)
    case = replace(case, metrics=metrics)
    return write_case(case, tmp_path / "out")["record"]


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))), int) for each in found]


def table(page: str) -> list[str]:
    rows = re.findall(r'<tr( class="rejected")?>\n(.*?)</tr>', page, re.DOTALL)
    return [
        kind + re.sub(r"\s+", " ", re.sub(r"<(?!s>|/s>)[^>]*>", " ", row)) for kind, row in rows
    ]


def test_it_shows_findings_decisions_and_figures(record: Path) -> None:
    page = write_case_page(record).read_text()
    assert len(pictures(page)) == 2 * 3  # of the finding that is not rejected
    scan, over = pictures(page)[:2]
    colorful = [np.ptp(each, axis=-1) > 60 for each in (scan, over)]
    assert 0 < colorful[0].sum() < colorful[1].sum()  # outlines, and the map as well
    green = np.abs(over - (0, 158, 115)).max(axis=-1) < 30
    assert green.sum() > 50  # the ground truth
    accepted, rejected = (next(r for r in table(page) if w in r) for w in ("accepted", "a vein"))
    assert "<s>7</s>" in rejected
    assert "<s>" not in accepted
    assert page.count("For research, not for diagnosis") == 1
    saved = json.loads(record.read_text())
    for digest in (saved["checkpoint"]["sha256"], saved["input"]["sha256"]):
        assert digest in page
    assert f"{saved['metrics']['dice']:.3f}" in page
    assert "A warning" in page
    assert "a person changed 3 voxels" in page.replace("A person", "a person")


def test_a_finding_of_the_brightness_glows_and_is_called_so(
    write_scan, make_case, tmp_path: Path
) -> None:
    scan = read_volume(write_scan())
    case = make_case(scan)
    anomaly = case.detection.anomaly
    detection = replace(
        case.detection,
        anomaly=scan.with_data(np.zeros_like(anomaly.data)),
        brightness=scan.with_data(-anomaly.data),
    )
    labels, findings = computed_findings(detection, 0.5, 0.01)
    case = replace(case, detection=detection, labels=labels, findings=findings)
    page = write_case_page(write_case(case, tmp_path / "out")["record"]).read_text()
    assert page.count("darker than healthy") == 2  # in the table and above the pictures
    scan_only, over = (np.ptp(each, axis=-1) > 60 for each in pictures(page)[:2])
    assert 0 < scan_only.sum() < over.sum()


def test_it_needs_nothing_else_and_executes_nothing(record: Path) -> None:
    page = write_case_page(record).read_text()
    assert "<script" not in page
    assert MARKUP.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "\\x1b[2J\\u202egpj" in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\((?!#)|@import""", page)
    assert str(record.parent) not in page


def test_without_the_scan_the_table_is_there(record: Path, tmp_path: Path) -> None:
    scan = (tmp_path / "scan.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    page = write_case_page(record).read_text()
    assert f"{NO_PICTURES}: scan_record.json: the scan scan.nii.gz was not found" in page
    assert any("accepted" in row for row in table(page))
    assert str(tmp_path) not in page
    done = invoke(["report", record, "--scan", scan])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).read_text().count("data:image/jpeg") == 6
    with pytest.raises(AddmError, match="has other voxels than the scan of the record"):
        write_case_page(record, CaseSources(tmp_path / "truth.nii.gz"))
    with pytest.raises(AddmError, match="has other voxels than the ground truth"):
        write_case_page(record, CaseSources(scan, record.with_name("scan_labels.nii.gz")))


def test_changed_files_are_not_shown(record: Path) -> None:
    labels = record.with_name("scan_labels.nii.gz")
    anomaly = read_volume(record.with_name("scan_anomaly.nii.gz"))
    write_volume(labels, anomaly.with_data(anomaly.data > 0.2), overwrite=True)
    page = write_case_page(record).read_text()
    assert f"{NO_PICTURES}: scan_labels.nii.gz was changed since it was saved" in page
    labels.unlink()
    assert "scan_labels.nii.gz is not beside the record" in write_case_page(record).read_text()


def test_a_case_without_findings_shows_the_brain(write_scan, make_case, tmp_path: Path) -> None:
    scan = read_volume(write_scan())
    case = make_case(scan, decisions={1: Decision("rejected")})
    rejected = write_case_page(write_case(case, tmp_path / "out")["record"]).read_text()
    assert f"{NO_PICTURES}: all findings are rejected" in rejected
    case = replace(make_case(scan), labels=np.zeros(scan.shape, np.int32), findings=())
    none = write_case(case, tmp_path / "out", WriteOptions(overwrite=True))["record"]
    assert not none.with_name("scan_page.html").exists()  # it showed another result
    page = write_case_page(none).read_text()
    assert "does not mean that the brain is healthy" in page
    assert len(pictures(page)) == 6


def test_the_command_takes_a_record_or_a_folder(record: Path, tmp_path: Path) -> None:
    page = record.with_name("scan_page.html")
    for place in (record, record.parent):
        assert invoke(["report", place]).stdout.strip() == str(page)
    page.write_text("<html>mine</html>")
    refused = invoke(["report", record])
    assert refused.exit_code == 1
    assert "is no page of napari-addm" in refused.stderr
    assert page.read_text() == "<html>mine</html>"
    for words, place in (("is no run record", page), ("holds no case", tmp_path / "none")):
        if not place.exists():
            place.mkdir()
        assert words in invoke(["report", place]).stderr
    home = tmp_path / "set" / "sub-1" / "ses-2" / "anat"
    home.mkdir(parents=True)
    (home / "a_record.json").write_text("{}")
    assert find_record(tmp_path / "set") == home / "a_record.json"
    assert find_record(home.parent) == home / "a_record.json"
    (home / "b_record.json").write_text("{}")
    with pytest.raises(InputError, match="holds 2 cases"):
        find_record(home)
    with pytest.raises(InputError, match="does not exist"):
        find_record(tmp_path / "nowhere")
    (tmp_path / "batch" / ".batch").mkdir(parents=True)
    assert "is a batch" in invoke(["report", tmp_path / "batch", "--scan", record]).stderr
