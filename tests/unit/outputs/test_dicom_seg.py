"""DICOM segmentations lie on the patient's coordinates."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import (
    LPS,
    PLANES,
    MRImageStorage,
    change,
    hd,
    pydicom,
    segmented_labels,
    write_multi_frame,
    write_series,
)

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.midline import Midline
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision, Decisions
from napari_addm.findings.findings import measure_findings
from napari_addm.io.dicom import pick_series
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.hashing import file_sha256
from napari_addm.io.remarks import DO_NOT_TRUST
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.outputs.dicom_seg import check_seg, write_seg
from napari_addm.outputs.dicom_sr import write_sr

SMALL = (4, 10, 12)


def written_volume(folder: Path, plane: str, **options: Any) -> Volume:
    """A series on the disk, and its voxels on the grid of its images."""
    data, affine = write_series(folder, plane, **options)
    volume = volume_from_native(data, LPS @ affine)
    files = tuple(sorted(folder.iterdir()))
    return replace(volume, source=replace(volume.source, name="scan", series=files))


def assert_report(path: Path, seg: Path, labels: Volume) -> None:
    """A report of a segmentation with one finding refers to it, and has no unknown side."""
    findings = measure_findings(labels.data, labels.data.astype(float), labels)
    report = hd.sr.srread(write_sr(path, seg, findings))
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    source = hd.seg.segread(seg)
    assert group.referenced_segment.referenced_sop_instance_uid == source.SOPInstanceUID
    assert group.get_measurements()[0].value == pytest.approx(1000 * findings.total_ml, abs=0.01)
    assert group.finding_sites[0].laterality is None
    assert str(report.PatientName) == str(source.PatientName)
    assert "NOT" not in report.SeriesDescription


@pytest.mark.parametrize("plane", PLANES)
def test_segmentation_lies_on_the_patient(tmp_path: Path, plane: str) -> None:
    data, affine = write_series(tmp_path / "in", plane)
    files = sorted((tmp_path / "in").iterdir())
    planted = np.zeros(data.shape, np.int32)
    planted[2:5, 3:9, 10:14] = 1
    planted[7:9, 12:18, 2:5] = 4  # numbers may have gaps
    labels = volume_from_native(planted, LPS @ affine)

    path = write_seg(tmp_path / "seg.dcm", labels, reversed(files))

    assert path is not None
    seg = hd.seg.segread(path)
    assert [each.SegmentLabel for each in seg.SegmentSequence] == ["Finding 1", "Finding 4"]
    image = pydicom.dcmread(files[0])
    assert seg.StudyInstanceUID == image.StudyInstanceUID
    assert seg.FrameOfReferenceUID == image.FrameOfReferenceUID
    np.testing.assert_array_equal(segmented_labels(path, labels), labels.data)
    # and each frame on its own, from the attributes of the standard alone
    shared = seg.SharedFunctionalGroupsSequence[0]
    found = np.zeros(data.shape, np.int32)
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        down, across = shared.PixelMeasuresSequence[0].PixelSpacing
        row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
        start = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        world = start[:, None] + np.outer(column * down, rows) + np.outer(row * across, columns)
        index = np.linalg.inv(affine) @ np.vstack([world, np.ones(rows.size)])
        nearest = np.rint(index[:3]).astype(int)
        assert np.abs(index[:3] - nearest).max(initial=0) < 0.02
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[tuple(nearest)] = (0, 1, 4)[number]
    np.testing.assert_array_equal(found, planted)


def test_an_alarm_stands_in_segmentation_and_report(tmp_path: Path) -> None:
    volume = written_volume(tmp_path / "in", "axial")
    labels = volume.with_data(np.zeros(volume.shape, np.int32))
    labels.data[2:4, 3:6, 4:9] = 1
    findings = measure_findings(labels.data, labels.data.astype(float), labels)
    alarm = f"{DO_NOT_TRUST} The scan does not look like a T1-weighted brain."
    seg = write_seg(tmp_path / "seg.dcm", labels, volume.source.series, alarm=alarm)
    assert seg is not None
    assert hd.seg.segread(seg).ContentDescription.startswith(DO_NOT_TRUST)
    report = hd.sr.srread(write_sr(tmp_path / "sr.dcm", seg, findings, alarm))
    assert report.ContentSequence[-1].TextValue == alarm
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 1
    for written in (hd.seg.segread(seg), report):
        assert "DO NOT TRUST" in written.SeriesDescription


# What anonymizers and scanners leave behind; None = the tag is missing.
UID_2 = "1.2.3.4.5.6.7.8.9"
ODD = [
    *({tag: None} for tag in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")),
    *({tag: None} for tag in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber")),
    *({tag: None} for tag in ("SliceThickness", "FrameOfReferenceUID", "SOPInstanceUID")),
    *({tag: None} for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID")),
    *({tag: None} for tag in ("SeriesNumber", "Manufacturer", "Modality")),
    {"PatientName": "", "PatientID": "", "StudyDate": "", "SeriesNumber": ""},
    {"PatientBirthDate": "Amadeus", "StudyDate": "ANON", "StudyTime": "99:99"},
    {"PatientBirthDate": "19701399", "StudyTime": "12:00:00", "PatientSex": "female"},
    {"PatientID": "x" * 70, "StudyID": "y" * 20, "AccessionNumber": "z" * 30},
    {"PatientName": "N" * 80, "PatientAge": "40", "StudyDescription": "d" * 100},
    {"SOPClassUID": "1.2.3.4", "SOPInstanceUID": UID_2, "FrameOfReferenceUID": "none"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
    {"SeriesNumber": "9" * 12, "SliceThickness": "0", "LossyImageCompression": "maybe"},
]


def test_directions_that_differ_in_the_last_decimals(tmp_path: Path) -> None:
    write_series(tmp_path / "in", "oblique")
    for n, file in enumerate(sorted((tmp_path / "in").iterdir())):
        turn = pydicom.dcmread(file).ImageOrientationPatient
        change(file, ImageOrientationPatient=[float(value) + 1e-5 * n for value in turn])
    volume = read_series(pick_series(tmp_path / "in"))
    labels = volume.with_data((volume.data > 800).astype(np.int32))
    path = write_seg(tmp_path / "seg.dcm", labels, volume.source.series)
    np.testing.assert_array_equal(segmented_labels(path, labels), labels.data)


def make_odd(folder: Path, changes: dict[str, str | None]) -> None:
    """Change tags of a series without asking whether the standard allows it."""
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        for tag, value in changes.items():
            if value is None:
                image.pop(tag, None)
            else:
                vr = pydicom.datadict.dictionary_VR(tag)
                image[tag] = pydicom.DataElement(tag, vr, value, validation_mode=0)
        image.save_as(file)


@pytest.mark.parametrize("changes", ODD, ids=lambda changes: "-".join(changes))
def test_odd_tags_cost_no_segmentation(tmp_path: Path, changes: dict[str, str | None]) -> None:
    volume = written_volume(tmp_path / "in", "oblique", shape=SMALL)
    make_odd(tmp_path / "in", changes)
    labels = volume.with_data((volume.data > 800).astype(np.int32))
    check_seg(volume)
    path = write_seg(tmp_path / "seg.dcm", labels, volume.source.series)
    assert path is not None
    np.testing.assert_array_equal(segmented_labels(path, labels), labels.data)
    assert_report(tmp_path / "sr.dcm", path, labels)

    seg, image = pydicom.dcmread(path), pydicom.dcmread(volume.source.series[0])
    for tag in ("PatientName", "PatientID", "StudyID", "AccessionNumber", "StudyInstanceUID"):
        if image.get(tag):
            assert str(seg[tag].value) == str(image[tag].value)
    for tag in (
        "PatientBirthDate",
        "StudyDate",
        "StudyTime",
        "PatientSex",
        "ReferringPhysicianName",
    ):
        assert seg[tag].value in ("", None, "19700101", "20240101", "120000", "F")
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert pydicom.uid.UID(seg[tag].value).is_valid
    known = {image.get("SOPClassUID", MRImageStorage)}
    assert {
        element.value for element in seg.iterall() if element.keyword == "ReferencedSOPClassUID"
    } == known


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("ISO_IR 192", "Müller^Jürgen=山田^太郎"),
        ("ISO_IR 100", "Buc^Jérôme"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("GB18030", "Zhang^XiaoDong=张^小东"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (None, "Doe^Jane"),
    ],
)
def test_names_are_kept(tmp_path: Path, characters: str | list[str] | None, name: str) -> None:
    volume = written_volume(tmp_path / "in", "axial", shape=SMALL)
    for file in volume.source.series:
        change(file, SpecificCharacterSet=characters, PatientName=name)
    labels = volume.with_data((volume.data > 800).astype(np.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # highdicom's quote the name, and would stand in a log
        path = write_seg(tmp_path / "seg.dcm", labels, volume.source.series)
    assert path is not None
    seg, image = hd.seg.segread(path), pydicom.dcmread(volume.source.series[0])
    assert str(seg.PatientName) == str(image.PatientName) == name
    np.testing.assert_array_equal(segmented_labels(path, labels), labels.data)


def test_a_chinese_name_is_kept(tmp_path: Path) -> None:
    """As the standard writes it in ISO 2022 IR 58, which pydicom does not."""
    volume = written_volume(tmp_path / "in", "axial")
    written = b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab"
    for file in volume.source.series:
        content = pydicom.dcmread(file)
        content.SpecificCharacterSet = ["", "ISO 2022 IR 58"]
        content.PatientName = "x" * len(written)
        content.save_as(file)
        file.write_bytes(file.read_bytes().replace(b"x" * len(written), written))
    labels = volume.with_data((volume.data > 800).astype(np.int32))
    path = write_seg(tmp_path / "seg.dcm", labels, volume.source.series)
    assert path is not None
    assert str(pydicom.dcmread(path).PatientName) == "Wang^XiaoDong=王^小东"


@pytest.mark.parametrize(
    ("plane", "order"),
    [("oblique", "forward"), ("oblique", "backward"), *((plane, "shuffled") for plane in PLANES)],
)
def test_a_multi_frame_image_has_a_segmentation(tmp_path: Path, plane: str, order: str) -> None:
    data, affine = write_series(tmp_path / "in", plane, SMALL)
    frames = list(range(len(data)))
    if order == "backward":
        frames.reverse()
    elif order == "shuffled":
        np.random.default_rng(1).shuffle(frames)
    files = sorted((tmp_path / "in").iterdir())
    path = write_multi_frame(tmp_path / "multi.dcm", [files[n] for n in frames])
    shutil.rmtree(tmp_path / "in")
    volume = read_series(pick_series(tmp_path))
    np.testing.assert_array_equal(volume.data, volume_from_native(data, LPS @ affine).data)
    labels = volume.with_data((volume.data > 800).astype(np.int32) * 7)

    check_seg(volume)
    written = write_seg(tmp_path / "seg.dcm", labels, [path])

    assert written is not None
    np.testing.assert_array_equal(segmented_labels(written, labels), labels.data)
    assert_report(tmp_path / "sr.dcm", written, labels)
    seg, image = hd.seg.segread(written), pydicom.dcmread(path)
    assert seg.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID


def test_labels_elsewhere_are_refused(tmp_path: Path) -> None:
    volume = written_volume(tmp_path / "in", "sagittal")
    labels = volume.with_data((volume.data > 500).astype(np.int32))
    moved = volume.affine.copy()
    moved[0, 3] += 1
    with pytest.raises(AddmError, match="do not lie on the pixels"):
        write_seg(
            tmp_path / "a.dcm", Volume(labels.data, moved, labels.source), volume.source.series
        )
    many = volume.with_data(np.arange(volume.data.size).reshape(volume.shape))
    with pytest.raises(AddmError, match="5759 findings are too many"):
        write_seg(tmp_path / "a.dcm", many, volume.source.series)
    with pytest.raises(AddmError, match=r"has 1 image\(s\) and is no 3D scan"):
        write_seg(tmp_path / "a.dcm", labels, volume.source.series[:1])
    with pytest.raises(AddmError, match="do not lie on the pixels"):
        check_seg(replace(volume, affine=moved))
    nothing = volume.with_data(np.zeros(volume.shape, np.int32))
    assert write_seg(tmp_path / "a.dcm", nothing, volume.source.series) is None
    assert not (tmp_path / "a.dcm").exists()


def test_a_segmentation_that_fails_keeps_the_other_files(tmp_path: Path, make_case) -> None:
    volume = written_volume(tmp_path / "in", "axial")
    outputs = make_case(volume)
    for file in volume.source.series:
        change(file, PixelSpacing=[2.0, 2.0])  # while the network ran
    with pytest.raises(AddmError, match=r"do not lie on .* All other files of the case are in"):
        write_case(outputs, tmp_path / "out", WriteOptions(dicom_seg=True, montage=True))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    ends = ("labels.nii.gz", "findings.csv", "overlay.png", "anomaly.nii.gz", "recon.nii.gz")
    assert names == {*(f"scan_{end}" for end in ends), "scan_record.json"}
    record = json.loads((tmp_path / "out" / "scan_record.json").read_text())
    assert "seg" not in record["outputs"]


def test_rejected_findings_are_left_out(tmp_path: Path, tiny_checkpoint: Path) -> None:
    volume = written_volume(tmp_path / "in", "oblique")
    labels = np.zeros(volume.shape, np.int32)
    labels[2:6, 3:9, 4:8] = 1
    labels[7:9, 10:14, 9:12] = 3  # numbers may have gaps
    checkpoint = load_checkpoint(tiny_checkpoint)
    anomaly = np.where(labels != 0, 0.5, 0.1).astype(np.float32)
    middles = [
        nib.affines.apply_affine(volume.affine, np.argwhere(labels == n).mean(0)) for n in (1, 3)
    ]
    normal = (middles[1] - middles[0]) / np.linalg.norm(middles[1] - middles[0])
    between = Midline(tuple(normal.tolist()), float(normal @ sum(middles) / 2), "symmetry")
    mm = f"{np.linalg.norm(middles[1] - middles[0]) / 2:.0f} mm from the midline"
    detection = Detection(
        anomaly=volume.with_data(anomaly),
        reconstruction=volume,
        uncertainty=None,
        brain_mask=volume.with_data(np.ones(volume.shape, bool)),
        done=np.ones(volume.shape[0], bool),
        seconds={},
        settings=resolve(DetectionSettings(), checkpoint.specification),
        specification=checkpoint.specification,
        device="cpu",
        precision="float32",
        threads=1,
        midline=between,
    )

    def save(decisions: Decisions) -> dict[str, Path]:
        outputs = CaseOutputs(
            CaseInputs(volume),
            detection,
            labels,
            measure_findings(labels, anomaly, volume, midline=between),
            checkpoint,
            threshold=0.3,
            minimum_ml=0.01,
            computed=labels,
            decisions=decisions,
        )
        return write_case(outputs, tmp_path / "out", WriteOptions(dicom_seg=True, overwrite=True))

    def segments(path: Path) -> tuple[list[int], list[str], list[str | None]]:
        """Numbers, labels and descriptions."""
        seen = hd.seg.segread(path).SegmentSequence
        return (
            [each.SegmentNumber for each in seen],
            [each.SegmentLabel for each in seen],
            [each.get("SegmentDescription") for each in seen],
        )

    def measured(path: Path) -> list[tuple[str, float, str | None]]:
        """Label of the segment, volume in mL and side of each measured finding."""
        report, seg = hd.sr.srread(path), hd.seg.segread(paths["seg"])
        assert report.PatientID == seg.PatientID
        assert report.StudyInstanceUID == seg.StudyInstanceUID
        found = []
        for group in report.content.get_volumetric_roi_measurement_groups():
            segment = group.referenced_segment
            assert segment.referenced_sop_instance_uid == seg.SOPInstanceUID
            label = seg.SegmentSequence[segment.referenced_segment_numbers[0] - 1].SegmentLabel
            (volume,), (site,) = group.get_measurements(), group.finding_sites
            assert (volume.name.meaning, volume.unit.value) == ("Volume", "mm3")
            side = site.laterality and site.laterality.meaning
            found.append((label, volume.value / 1000, side))
        return found

    paths = save({})
    ml = [n * volume.voxel_ml for n in (4 * 6 * 4, 2 * 4 * 3)]
    assert measured(paths["sr"]) == [
        ("Finding 1", pytest.approx(ml[0], abs=1e-5), "Left"),
        ("Finding 3", pytest.approx(ml[1], abs=1e-5), "Right"),
    ]
    descriptions = [f"Left, {mm}", f"Right, {mm}"]
    assert segments(paths["seg"]) == ([1, 2], ["Finding 1", "Finding 3"], descriptions)

    paths = save({1: Decision("rejected", "a vessel"), 3: Decision("accepted")})
    descriptions = [f"Right, {mm}; accepted by a person"]
    assert segments(paths["seg"]) == ([1], ["Finding 3"], descriptions)
    np.testing.assert_array_equal(
        segmented_labels(paths["seg"], volume), np.where(labels == 3, 3, 0)
    )
    assert [label for label, *_ in measured(paths["sr"])] == ["Finding 3"]
    # the labels and the record keep what was rejected
    np.testing.assert_array_equal(np.unique(nib.load(paths["labels"]).dataobj), [0, 1, 3])
    record = json.loads(paths["record"].read_text())
    assert [each["decision"] for each in record["findings"]] == ["rejected", "accepted"]
    assert record["outputs"]["seg"]["sha256"] == file_sha256(paths["seg"])

    # as without a finding: none, and none of an earlier save either
    paths = save({1: Decision("rejected"), 3: Decision("rejected")})
    assert "seg" not in paths
    assert "seg" not in json.loads(paths["record"].read_text())["outputs"]
    assert not list((tmp_path / "out").glob("*.dcm"))
