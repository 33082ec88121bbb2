"""DICOM series in, segmentations out: real files, on the patient's coordinates."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cli import app as cli
from napari_addm.detection.midline import Midline
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError, InputError
from napari_addm.findings.findings import Decision, Decisions, measure_findings
from napari_addm.io.dicom import pick_series, read_series, write_seg
from napari_addm.io.hashing import file_sha256, voxels_sha256
from napari_addm.io.volume import Volume
from napari_addm.outputs.case import CaseInputs, CaseOutputs, WriteOptions, write_case
from napari_addm.widgets import texts

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
hd = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid  # noqa: E402

NAME = "Doe^Jane"
# Direction of a row, direction of a column (LPS), and along which the images are stacked.
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": ((0.96, 0.28, 0), (-0.28, 0.96, 0)),
    "tilted": ((1, 0, 0), (0, 0.8, -0.6)),
}


def write_series(
    folder: Path,
    plane: str = "axial",
    shape: tuple[int, int, int] = (12, 20, 24),
    spacing: tuple[float, float, float] = (3.0, 1.5, 1.25),
    data: np.ndarray | None = None,
    origin: tuple[float, float, float] = (-30.0, 40.0, -25.0),
    backwards: bool = False,
    **tags: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Write a series; returns its voxels (slice, row, column) and their affine to LPS mm."""
    folder.mkdir(parents=True, exist_ok=True)
    row, column = (np.array(v, float) for v in PLANES[plane])
    normal = np.cross(row, column)
    affine = np.eye(4)
    for n, (direction, step) in enumerate(zip((normal, column, row), spacing, strict=True)):
        affine[:3, n] = direction * step
    affine[:3, 3] = origin
    if data is None:
        data = np.random.default_rng(0).integers(1, 900, shape)
    study, series, place = generate_uid(), generate_uid(), generate_uid()
    for n in range(shape[0]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = place
        image.PatientName, image.PatientID = NAME, NAME
        image.PatientBirthDate, image.PatientSex = "19700101", "F"
        image.Modality, image.Manufacturer = "MR", "SIEMENS"
        image.StudyDate, image.StudyTime, image.StudyID = "20240101", "120000", "1"
        image.AccessionNumber, image.ReferringPhysicianName = "", ""
        image.SeriesNumber, image.SeriesDescription = 4, "t1_mprage_sag"
        image.InstanceNumber = shape[0] - n if backwards else n + 1
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.MRAcquisitionType = "3D"
        image.Rows, image.Columns = shape[1:]
        image.PixelSpacing = [float(spacing[1]), float(spacing[2])]
        image.SliceThickness = float(spacing[0])
        image.ImageOrientationPatient = [*row.tolist(), *column.tolist()]
        image.ImagePositionPatient = (affine[:3, :3] @ (n, 0, 0) + affine[:3, 3]).tolist()
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.EchoTime, image.RepetitionTime = 2.5, 1900
        for tag, value in tags.items():
            setattr(image, tag, value)
        image.PixelData = data[n].astype("<u2").tobytes()
        image.save_as(folder / f"IM{n:04d}", enforce_file_format=True)
    return data, affine


def change(path: Path, **tags: Any) -> None:
    image = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(image, tag, value)
    image.save_as(path)


def sample(volume: Volume, world_lps: np.ndarray) -> np.ndarray:
    """A volume's values at places (3, n) in the patient's coordinates, which lie on its voxels."""
    world = np.vstack([np.diag([-1, -1, 1]) @ world_lps, np.ones(world_lps.shape[1])])
    index = np.linalg.inv(volume.affine) @ world
    nearest = np.rint(index[:3]).astype(int)
    assert np.abs(index[:3] - nearest).max() < 0.02
    return volume.data[tuple(nearest)]


def places(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1)
    return affine[:3, :3] @ index + affine[:3, 3:]


# --- in -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_is_where_the_patient_has_it(
    tmp_path: Path, plane: str, backwards: bool
) -> None:
    data, affine = write_series(tmp_path, plane, backwards=backwards)
    volume = read_series(pick_series(tmp_path))
    assert sorted(volume.shape) == sorted(data.shape)
    np.testing.assert_array_equal(sample(volume, places(data.shape, affine)), data.ravel())
    assert volume.name == "dicom_series4"
    assert volume.source.path is None
    assert len(volume.source.series) == len(data)


def test_the_t1_is_chosen(tmp_path: Path) -> None:
    write_series(tmp_path / "a", SeriesNumber=2, SeriesDescription="AX FLAIR")
    write_series(tmp_path / "b", SeriesNumber=3, SeriesDescription="Sag T1 MPRAGE post Gd")
    write_series(tmp_path / "c", SeriesNumber=5, SeriesDescription="Sag T1 MPRAGE")
    shutil.copytree(tmp_path / "c", tmp_path / "again")  # the same images are no second series
    (tmp_path / "DICOMDIR.txt").write_text("no image")
    series = pick_series(tmp_path)
    assert (series.number, len(series.files)) == (5, 12)
    assert pick_series(tmp_path, 2).description == "AX FLAIR"
    write_series(tmp_path / "d", SeriesNumber=6, SeriesDescription="T1 SPGR")
    with pytest.raises(InputError, match=r"2 series that is surely the T1.*--series.*6: T1 SPGR"):
        pick_series(tmp_path)
    with pytest.raises(InputError, match="no series of number 9"):
        pick_series(tmp_path, 9)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gap", r"incomplete, 1 image\(s\) between others are missing"),
        ("end", "incomplete, 11 of 12 images"),
        ("size", "mixed, its images differ in Columns"),
        ("turn", "mixed, its images differ in ImageOrientationPatient"),
        ("twice", "mixed, it has several images at one place"),
        ("uneven", "uneven distances"),
        ("nowhere", r"does not say where its images lie \(ImageOrientationPatient\)"),
        ("few", r"has 2 image\(s\) and is no 3D scan"),
        ("syntax", "compressed in a way that cannot be read .*High-Throughput JPEG 2000"),
        ("damaged", "dcm2niix could not decode"),
        ("none", "holds no MR images"),
    ],
)
def test_faulty_series(tmp_path: Path, fault: str, words: str) -> None:
    write_series(tmp_path, **({"ImagesInAcquisition": 12} if fault == "end" else {}))
    files = sorted(tmp_path.iterdir())
    if fault == "gap":
        files[5].unlink()
    elif fault == "end":
        files[0].unlink()
    elif fault == "size":
        change(files[3], Columns=12)
    elif fault == "turn":
        change(files[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    elif fault == "twice":
        other = pydicom.dcmread(files[3])
        other.SOPInstanceUID = generate_uid()
        other.save_as(tmp_path / "IM9999")
    elif fault == "uneven":
        change(files[3], ImagePositionPatient=[-30.0, 40.0, -15.0])
    elif fault == "nowhere":
        for file in files:
            image = pydicom.dcmread(file)
            del image.ImageOrientationPatient
            image.save_as(file)
    elif fault == "few":
        for file in files[2:]:
            file.unlink()
    elif fault == "syntax":
        image = pydicom.dcmread(files[3])
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        image.PixelData = pydicom.encaps.encapsulate([image.PixelData])
        image["PixelData"].VR = "OB"
        image.save_as(files[3])
    elif fault == "damaged":
        for file in files:
            file.write_bytes(file.read_bytes()[:-900])
    elif fault == "none":
        for file in files:
            change(file, Modality="CT")
    with pytest.raises(InputError, match=words) as caught:
        read_series(pick_series(tmp_path))
    assert NAME not in str(caught.value)


# --- out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", PLANES)
def test_segmentation_lies_on_the_patient(tmp_path: Path, plane: str) -> None:
    data, affine = write_series(tmp_path / "in", plane)
    planted = np.zeros(data.shape, np.int32)
    planted[2:5, 3:9, 10:14] = 1
    planted[7:9, 12:18, 2:5] = 4  # numbers may have gaps
    values = data + 1000 * (planted == 1) + 2000 * (planted == 4)
    shutil.rmtree(tmp_path / "in")
    write_series(tmp_path / "in", plane, data=values)
    volume = read_series(pick_series(tmp_path / "in"))
    labels = np.where(volume.data > 2000, 4, np.where(volume.data > 1000, 1, 0)).astype(np.int32)

    path = write_seg(tmp_path / "seg.dcm", volume.with_data(labels), volume.source.series)

    assert path is not None
    seg = hd.seg.segread(path)
    assert [each.SegmentLabel for each in seg.SegmentSequence] == ["Finding 1", "Finding 4"]
    images = [pydicom.dcmread(file) for file in volume.source.series]
    assert seg.StudyInstanceUID == images[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    # each frame on its own, from the attributes of the standard alone
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
    # and as the library understands it
    stored = seg.get_volume(combine_segments=True)
    index = np.indices(stored.array.shape).reshape(3, -1)
    world = stored.affine[:3, :3] @ index + stored.affine[:3, 3:]
    number = np.array([0, 1, 4])[stored.array.ravel()]
    np.testing.assert_array_equal(sample(volume.with_data(labels), world), number)


def test_labels_elsewhere_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", "sagittal")
    volume = read_series(pick_series(tmp_path / "in"))
    labels = volume.with_data((volume.data > 500).astype(np.int32))
    moved = volume.affine.copy()
    moved[0, 3] += 1
    shifted = Volume(labels.data, moved, labels.source)
    with pytest.raises(AddmError, match="do not lie on the pixels"):
        write_seg(tmp_path / "a.dcm", shifted, volume.source.series)
    nothing = volume.with_data(np.zeros(volume.shape, np.int32))
    assert write_seg(tmp_path / "a.dcm", nothing, volume.source.series) is None
    assert not (tmp_path / "a.dcm").exists()


def test_rejected_findings_are_left_out(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_series(tmp_path / "in", "oblique")
    volume = read_series(pick_series(tmp_path / "in"))
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

    paths = save({})
    told = [f"Left, {mm}", f"Right, {mm}"]
    assert segments(paths["seg"]) == ([1, 2], ["Finding 1", "Finding 3"], told)

    paths = save({1: Decision("rejected", "a vessel"), 3: Decision("accepted")})
    told = [f"Right, {mm}; accepted by a person"]
    assert segments(paths["seg"]) == ([1], ["Finding 3"], told)
    stored = hd.seg.segread(paths["seg"]).get_volume(combine_segments=True)
    index = np.indices(stored.array.shape).reshape(3, -1)
    world = stored.affine[:3, :3] @ index + stored.affine[:3, 3:]
    expected = sample(volume.with_data(labels), world) == 3
    np.testing.assert_array_equal(stored.array.ravel(), expected)
    assert expected.sum() == (labels == 3).sum()  # and none is missing
    # the labels and the record keep what was rejected
    np.testing.assert_array_equal(np.unique(nib.load(paths["labels"]).dataobj), [0, 1, 3])
    record = json.loads(paths["record"].read_text())
    assert [each["decision"] for each in record["findings"]] == ["rejected", "accepted"]
    assert record["outputs"]["seg"]["sha256"] == file_sha256(paths["seg"])

    # as without a finding: none, and none of an earlier save either
    paths = save({1: Decision("rejected"), 3: Decision("rejected")})
    assert "seg" not in paths
    assert "seg" not in json.loads(paths["record"].read_text())["outputs"]
    assert not list((tmp_path / "out").glob("*_seg.dcm"))


# --- the whole way --------------------------------------------------------------------------


def addm(*arguments: object) -> Any:
    return invoke([str(a) for a in arguments])


def test_detect_and_verify(tmp_path: Path, make_brain: Any, tiny_checkpoint: Path) -> None:
    """A sagittal series from folder to segmentation, and nobody is named on the way."""
    shape, spacing = (42, 30, 50), (4.0, 5.0, 4.0)
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (-4, 0, 0), (0, 0, -5), (0, 4, 0)
    affine[:, 3] = 82, -98, 72, 1
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    brain = make_brain(lps @ affine, shape, ((25.0, 0.0, 5.0, 14.0),)).to_native()
    folder = tmp_path / NAME
    _, written = write_series(
        *(folder, "sagittal", shape, spacing, brain), origin=(82.0, -98.0, 72.0)
    )
    np.testing.assert_allclose(written, affine)

    out = tmp_path / "out"
    command = ("detect", folder, "-o", out, "--checkpoint", tiny_checkpoint, "--steps", 1)
    done = addm(*command, "--threshold", 0.05, "--seg", "--json")
    assert done.exit_code == 0, done.output
    paths = {key: Path(path) for key, path in json.loads(done.stdout)["paths"].items()}
    assert paths["seg"] == out / "dicom_series4_seg.dcm"
    labels = nib.load(paths["labels"])
    seg = hd.seg.segread(paths["seg"]).get_volume(combine_segments=True)
    counts = np.bincount(np.asarray(labels.dataobj).ravel())[1:]
    np.testing.assert_array_equal(np.bincount(seg.array.ravel())[1:], counts[counts > 0])
    for key, path in paths.items():
        if key != "seg":  # which belongs to the patient
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert NAME.encode() not in content
            assert "Doe" not in path.name

    record = json.loads(paths["record"].read_text())
    assert record["input"]["files"] == 42
    volume = read_series(pick_series(folder))
    assert record["input"]["voxels_sha256"] == voxels_sha256(volume.data)
    shutil.move(folder, tmp_path / "moved")
    checked = addm(
        *("verify", paths["record"], "--input", tmp_path / "moved"),
        *("--model", tiny_checkpoint, "--json"),
    )
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["verdict"] == "identical"
    (tmp_path / "moved" / "IM0003").unlink()
    checked = addm(
        "verify", paths["record"], "--input", tmp_path / "moved", "--model", tiny_checkpoint
    )
    assert checked.exit_code == 1
    assert "does not hold the DICOM series of the record" in checked.stderr


@pytest.mark.parametrize("plane", ["sagittal", "oblique"])
def test_segmentation_saved_from_the_panel(
    tmp_path: Path, make_brain: Any, tiny_checkpoint: Path, qtbot: Any, plane: str
) -> None:
    """A folder opened in napari, run, saved: every finding lies on the patient, read by others."""
    from napari.components import ViewerModel

    from napari_addm.widgets.contributions import get_dicom_reader
    from napari_addm.widgets.detect_panel.panel import DetectWidget
    from napari_addm.widgets.jobs import Job

    shape, spacing = (42, 50, 50), (4.0, 4.0, 4.0)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    row, column = (np.array(v, float) for v in PLANES[plane])
    linear = np.stack([np.cross(row, column), column, row], axis=1) * spacing
    origin = -linear @ ((np.array(shape) - 1) / 2)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    brain = make_brain(lps @ affine, shape, ((25.0, 0.0, 5.0, 14.0),)).to_native()
    folder = tmp_path / "series"
    _, written = write_series(folder, plane, shape, spacing, brain, origin=tuple(origin))
    np.testing.assert_allclose(written, affine)

    viewer = ViewerModel()
    panel = DetectWidget(viewer)
    qtbot.addWidget(panel)
    assert panel.saving.seg.isHidden()
    reader = get_dicom_reader(str(folder))
    assert reader is not None
    ((voxels, arguments, _),) = reader(str(folder))
    viewer.add_image(voxels, **arguments)
    panel.checkpoint_chooser.choose(tiny_checkpoint)
    panel.threshold.setValue(0.01)
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    assert panel.error.text() == ""
    assert len(panel.outcome.marked.findings) > 0
    assert not panel.saving.seg.isHidden()
    panel.saving.seg.setChecked(True)
    out = tmp_path / "out"
    panel.save(out)
    qtbot.waitUntil(lambda: panel._aside not in Job._worker_set, timeout=120_000)
    qtbot.wait(50)
    assert panel.error.text() == ""
    assert panel.status.text().startswith(f"{len(list(out.iterdir()))} files saved")

    labels = panel.outcome.layers.labels()
    volume = panel.outcome.scan
    seg = hd.seg.segread(out / "dicom_series4_seg.dcm")
    assert seg.PatientID == NAME
    source = pydicom.dcmread(folder / "IM0000")
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.number_of_segments == len(panel.outcome.marked.findings)
    segmented = seg.get_volume(combine_segments=True)
    ids = np.unique(labels)[1:]
    descriptions = [seg.get_segment_description(n + 1).segment_label for n in range(len(ids))]
    assert descriptions == [f"Finding {n}" for n in ids]
    # every voxel of the segmentation, at its place in the patient, is that of the labels
    index = np.argwhere(segmented.array >= 0)
    world = nib.affines.apply_affine(lps @ segmented.affine, index)
    there = nib.affines.apply_affine(np.linalg.inv(volume.affine), world)
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 0.02
    inside = ((nearest >= 0) & (nearest < volume.shape)).all(axis=1)
    expected = np.zeros(len(index), int)
    expected[inside] = labels[tuple(nearest[inside].T)]
    numbered = np.concatenate([[0], ids])[segmented.array.ravel()]
    np.testing.assert_array_equal(numbered, expected)
    assert (numbered > 0).sum() == (labels > 0).sum()  # and none is missing

    # and when a person has rejected them all, the panel says why there is none
    for finding in panel.outcome.marked.findings:
        panel.findings.table.decide(finding.id, Decision("rejected"))
    panel.save(out, overwrite=True)
    qtbot.waitUntil(lambda: panel.status.text().endswith(texts.NO_SEG), timeout=120_000)
    assert not (out / "dicom_series4_seg.dcm").exists()


def test_options_that_need_dicom(tmp_path: Path) -> None:
    scan = cli.SAMPLE_DATA / "demo_T1w.nii.gz"
    for option in (["--seg"], ["--series", 3]):
        done = addm("detect", scan, "-o", tmp_path / "out", *option)
        assert done.exit_code == 1
        assert f"{option[0]} needs a folder" in done.stderr
    done = addm("detect", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "holds no MR images" in done.stderr


def test_reader_of_folders(tmp_path: Path) -> None:
    from napari_addm.widgets.contributions import get_dicom_reader

    write_series(tmp_path / "a", SeriesNumber=2)
    data, _ = write_series(tmp_path / "b", SeriesNumber=3, SeriesDescription="T2")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("no DICOM")
    assert get_dicom_reader(str(tmp_path / "none")) is None
    assert get_dicom_reader(str(tmp_path / "none" / "a.txt")) is None
    for place, name in (
        ("", "dicom_series2"),
        ("b", "dicom_series3"),
        ("b/IM0002", "dicom_series3"),
    ):
        read = get_dicom_reader(str(tmp_path / place))
        assert read is not None
        ((voxels, arguments, kind),) = read(str(tmp_path / place))
        assert (kind, arguments["name"]) == ("image", name)
        assert sorted(voxels.shape) == sorted(data.shape)
