"""The run record: what it holds of a case, and what is refused as one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_addm.errors import AddmError
from napari_addm.findings.computed import computed_labels
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_volume
from napari_addm.metrics.evaluation import evaluate
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs, GivenRegion
from napari_addm.outputs.record import RunRecord, read_record


def test_record_of_a_case(tmp_path: Path, write_scan, make_case, checkpoint) -> None:
    path = write_scan(orientation="LPS")
    scan = read_volume(path)
    case = make_case(scan, edit=5)
    lesion = case.labels > 0
    paths = write_case(
        make_case(
            scan,
            edit=5,
            inputs=CaseInputs(scan, truth=GivenRegion(lesion, path)),
            metrics=evaluate(case.detection.anomaly.data, lesion, threshold=0.5, prediction=lesion),
        ),
        tmp_path / "out",
    )
    text = paths["record"].read_text()
    assert str(tmp_path) not in text
    assert list(json.loads(text)) == list(RunRecord.model_fields)
    record = read_record(paths["record"])
    assert record.input.name == record.truth.name == "scan.nii.gz"
    assert len(record.input.sha256) == 64
    assert record.input.voxels_sha256 == voxels_sha256(scan.data)
    assert record.truth.voxels_sha256 == voxels_sha256(lesion)
    assert record.brain_mask.origin == "found"
    assert record.checkpoint.sha256 == checkpoint.sha256
    assert record.checkpoint.weights_sha256 == checkpoint.specification.weights_sha256
    assert (record.settings.steps, record.settings.erosion_mm) == (3, 4.0)
    assert record.geometry.orientation == "LPS"
    assert record.geometry.spacing_mm == (1.0, 1.5, 2.0)
    assert record.geometry.shape == (9, 11, 13)
    assert record.labels.edited_voxels == 5
    assert record.metrics["dice"] == 1.0
    assert record.metrics["region"].startswith("brain mask")
    assert record.warnings == ("a warning",)
    assert record.versions.keys() >= {"napari-addm", "python", "torch", "monai", "numpy"}
    # The hashes are those of what lies on the disk.
    assert record.outputs["anomaly"].voxels_sha256 == voxels_sha256(
        read_volume(paths["anomaly"]).data
    )
    assert {entry.name for entry in record.outputs.values()} == {
        path.name for key, path in paths.items() if key != "record"
    }


def test_equal_runs_give_equal_records_without_a_date(
    tmp_path: Path, write_scan, make_case
) -> None:
    case = make_case(read_volume(write_scan()))
    undated = WriteOptions(dated=False)
    texts = {write_case(case, tmp_path / n, undated)["record"].read_bytes() for n in ("a", "b")}
    (text,) = texts
    record = json.loads(text)
    assert (record["created_utc"], record["seconds"]) == (None, {})
    assert RunRecord.of(case).created_utc is not None


def test_labels_that_are_known_are_not_computed_again(write_scan, make_case) -> None:
    scan = read_volume(write_scan())
    unknown = make_case(scan, edit=5)
    computed = computed_labels(unknown.detection, 0.5, 0.01)
    known = RunRecord.of(make_case(scan, edit=5, computed=computed)).labels
    assert known == RunRecord.of(unknown).labels
    assert known.edited_voxels == 5
    assert known.computed_voxels_sha256 == voxels_sha256(computed)


def test_other_numbers_are_no_edit(write_scan, make_case) -> None:
    case = make_case(read_volume(write_scan()))
    renumbered = make_case(case.scan, computed=np.where(case.labels > 0, 9, 0))
    assert RunRecord.of(renumbered).labels.edited_voxels == 0


def test_settings_of_a_later_version_cannot_be_repeated(write_scan, make_case) -> None:
    settings = RunRecord.of(make_case(read_volume(write_scan()))).settings
    assert settings.to_detection().steps == 3
    later = settings.model_validate({**settings.model_dump(), "new_option": 1})
    with pytest.raises(AddmError, match="does not know \\(new_option\\)"):
        later.to_detection()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no run record of napari-addm"),
        ('{"schema_version": 1}', "an older version"),
        ('{"schema_version": 5}', "a newer version"),
        ('{"schema_version": 4}', "damaged or was changed by hand"),
    ],
)
def test_what_is_no_record(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a_record.json"
    path.write_text(text)
    with pytest.raises(AddmError, match=words):
        read_record(path)


def test_findings_that_no_record_can_hold_are_refused_before_a_file_has_its_name(
    tmp_path: Path, write_scan, make_case
) -> None:
    case = make_case(read_volume(write_scan()))
    few = replace(case, findings=[case.findings[0]] * 10_000)
    assert len(read_record(write_case(few, tmp_path / "out")["record"]).findings) == 10_000
    many = replace(case, findings=[case.findings[0]] * 20_000)
    with pytest.raises(
        AddmError, match=r"^scan\.nii\.gz has 20000 findings, .* raise the threshold"
    ):
        write_case(many, tmp_path / "none")
    assert not (tmp_path / "none").exists()
