"""Series of DICOM images: which one is read, and which is refused."""

import gzip
import os
import shutil
import struct
from pathlib import Path

import pytest
from dicom_series import NAME, assert_placed, change, compress, generate_uid, pydicom, write_series
from pydicom.fileset import FileSet

from napari_addm.detection.quality import grid_flags
from napari_addm.errors import InputError
from napari_addm.io.dicom import holds_dicom, pick_series, series_at
from napari_addm.io.dicom_header import is_dicom
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.remarks import kind_of


def test_the_t1_is_chosen(tmp_path: Path) -> None:
    write_series(tmp_path / "a", SeriesNumber=2, SeriesDescription="AX FLAIR")
    write_series(tmp_path / "b", SeriesNumber=3, SeriesDescription="Sag T1 MPRAGE post Gd")
    write_series(tmp_path / "c", SeriesNumber=5, SeriesDescription="Sag T1 MPRAGE")
    shutil.copytree(tmp_path / "c", tmp_path / "again")  # the same images are no second series
    for path in (tmp_path / "again").iterdir():
        compress(path, "1.2.840.10008.1.2.4.80")  # writes other decimals
    (tmp_path / "DICOMDIR.txt").write_text("no image")
    (tmp_path / "VIEWER").mkdir()
    for n in range(300):
        (tmp_path / "VIEWER" / f"{n}.dll").write_text("MZ")
    assert holds_dicom(tmp_path)
    assert not is_dicom(tmp_path / "DICOMDIR.txt")
    series = pick_series(tmp_path)
    assert (series.number, len(series.files)) == (5, 12)
    assert series.why == "the only T1 without contrast agent among 3 series"
    assert not any("another scan" in warning for warning in read_series(series).warnings)
    other = pick_series(tmp_path, 2)
    assert other.description == "AX FLAIR"
    assert "named as another scan than a T1" in " ".join(read_series(other).warnings)
    write_series(tmp_path / "d", SeriesNumber=6, SeriesDescription="T1 SPGR")
    with pytest.raises(
        InputError, match=r"2 series that can be the T1 without agent: .*--series.*6: T1 SPGR"
    ):
        pick_series(tmp_path)
    with pytest.raises(InputError, match="no series of number 9"):
        pick_series(tmp_path, 9)


def test_the_t1_with_contrast_agent_is_not_chosen_alone(tmp_path: Path) -> None:
    study = [("AX T1 W/O CONTRAST", {}), ("AX FLAIR", {}), ("AX T1 C+", {})]
    study += [("AX T1", {"ContrastBolusAgent": "DOTAREM"}), ("SAG T1 KNEE", {}), ("T1 map", {})]
    for number, (words, tags) in enumerate(study, 2):
        write_series(
            *(tmp_path / "all" / str(number), "axial", (3, 4, 4)),
            **{"SeriesNumber": number, "SeriesDescription": words, **tags},
        )
    series = pick_series(tmp_path / "all")
    assert (series.number, str(series.contrast)) == (2, "without (by SeriesDescription)")
    scan = read_series(series)
    assert scan.contrast is series.contrast
    assert grid_flags(scan) == []

    shutil.rmtree(tmp_path / "all" / "2")
    with pytest.raises(InputError, match="no series that can be the T1 without agent") as caught:
        pick_series(tmp_path / "all")
    assert "5: AX T1 (3 images; contrast agent: with (ContrastBolusAgent" in str(caught.value)
    # alone, or asked for by its number, it is run and flagged
    for folder, number in ((tmp_path / "all", 5), (tmp_path / "all" / "4", None)):
        flags = grid_flags(read_series(pick_series(folder, number)))
        assert [flag.key for flag in flags] == ["contrast_agent"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gap", r"incomplete, 1 image\(s\) between others are missing"),
        ("size", "mixed, its images differ in Columns"),
        ("turn", "mixed, its images differ in ImageOrientationPatient"),
        ("twice", "mixed, it has several images at one place"),
        ("uneven", "uneven distances"),
        ("nowhere", r"does not say where its images lie \(ImageOrientationPatient\)"),
        ("few", r"has 2 image\(s\) and is no 3D scan"),
        ("syntax", "compressed in a way that cannot be read .*High-Throughput JPEG 2000"),
        ("none", "holds no MR images"),
    ],
)
def test_faulty_series(tmp_path: Path, fault: str, words: str) -> None:
    write_series(tmp_path)
    files = sorted(tmp_path.iterdir())
    if fault == "gap":
        files[5].unlink()
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
    elif fault == "none":
        for file in files:
            change(file, Modality="CT")
    with pytest.raises(InputError, match=words) as caught:
        read_series(pick_series(tmp_path))
    assert NAME not in str(caught.value)


def test_files_without_a_preamble_are_read(tmp_path: Path) -> None:
    """Whole folders and single images, as some scanners write them."""
    for kind in ("all", "some"):
        write_series(tmp_path / kind)
        for n, path in enumerate(sorted((tmp_path / kind).iterdir())):
            if kind == "all" or n % 2:
                image = pydicom.dcmread(path)
                del image.file_meta.TransferSyntaxUID  # so that nothing but the content says it
                pydicom.dcmwrite(
                    *(path, pydicom.Dataset(image)),
                    implicit_vr=n % 3 == 0,
                    little_endian=True,
                )
        volume = read_series(pick_series(tmp_path / kind))
        assert not any("left out" in warning for warning in volume.warnings)
        assert_placed(volume, volume.source.series)
    assert is_dicom(tmp_path / "all" / "IM0003")
    assert holds_dicom(tmp_path / "all")


def test_what_cannot_be_read_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(tmp_path / "a", SeriesNumber=2)
    write_series(tmp_path / "b", SeriesNumber=3, SeriesDescription="T2")
    change(tmp_path / "b" / "IM0003", PixelSpacing=[0, 0])
    (tmp_path / "a" / "IM0011").write_bytes(b"")
    (tmp_path / "a" / "IM0010").write_bytes(bytes(128) + b"DICM" + b"\x08\0\x16\0UI" + bytes(9))
    (tmp_path / "a" / "IM0000").write_bytes(b"no image")
    (tmp_path / "a" / "thumbs.db").write_bytes(b"not meant to be one")
    os.mkfifo(tmp_path / "a" / "pipe")  # reading it would never end
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    shutil.move(tmp_path / "a" / "IM0005", tmp_path / "elsewhere")
    (tmp_path / "a" / "IM0005").symlink_to(tmp_path / "elsewhere")
    volume = read_series(pick_series(tmp_path))
    assert len(volume.source.series) == 9
    assert sum("were left out" in warning for warning in volume.warnings) == 4
    said = {message.partition(" ")[0].rpartition("/")[2] for message in caplog.messages}
    assert said >= {"IM0011", "IM0010", "IM0000", "pipe", "gone"}
    assert "thumbs.db" not in said
    assert not any("IM00" in warning for warning in volume.warnings)  # a name may be a patient's
    with pytest.raises(InputError, match=r"IM0003: its PixelSpacing is not positive"):
        read_series(pick_series(tmp_path, 3))


def test_what_lies_beside_images(tmp_path: Path) -> None:
    """Raw data and screenshots in the same series, compressed images, files of macOS."""
    write_series(tmp_path)
    image = pydicom.dcmread(tmp_path / "IM0003")
    image.SOPClassUID, image.SamplesPerPixel = pydicom.uid.SecondaryCaptureImageStorage, 3
    image.SOPInstanceUID, image.PhotometricInterpretation = generate_uid(), "RGB"
    image.save_as(tmp_path / "screen")
    image.SOPClassUID, image.SOPInstanceUID = pydicom.uid.RawDataStorage, generate_uid()
    del image.Rows, image.PixelData
    image.save_as(tmp_path / "raw")
    (tmp_path / "IM0011.gz").write_bytes(gzip.compress((tmp_path / "IM0011").read_bytes()))
    (tmp_path / "IM0011").unlink()
    (tmp_path / "._IM0001").write_bytes(bytes.fromhex("00051607000200004d6163") + bytes(99))
    volume = read_series(pick_series(tmp_path))
    assert [path.name for path in volume.source.series] == [f"IM{n:04d}" for n in range(11)]
    said = [warning for warning in volume.warnings if "left out" in warning]
    assert [warning.partition("images ")[2] for warning in sorted(said)] == [
        "1 file(s) or folder(s) were left out: each is no DICOM file.",
        "2 file(s) or folder(s) were left out: each is no MR image.",
    ]


def test_one_image_or_a_dicomdir_stands_for_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "disc" / "a", SeriesDescription="T1")
    write_series(tmp_path / "disc" / "b", SeriesDescription="T1")
    with pytest.raises(InputError, match=r"2 series of number 4: .*one of its images"):
        pick_series(tmp_path / "disc", 4)
    series = series_at(tmp_path / "disc" / "b" / "IM0007")
    assert {path.parent.name for path in series.files} == {"b"}
    assert len(series.files) == 12

    shutil.rmtree(tmp_path / "disc" / "a")
    directory = FileSet()
    for path in (tmp_path / "disc" / "b").iterdir():
        directory.add(path)
    directory.write(tmp_path / "set")
    for place in (tmp_path / "set", tmp_path / "set" / "DICOMDIR"):
        series = series_at(place)
        assert len(series.files) == 12
        assert series.notes == ()
    change(tmp_path / "disc" / "b" / "IM0000", Modality="CT", SeriesInstanceUID="1.2")
    with pytest.raises(InputError, match="IM0000 is no MR image"):
        series_at(tmp_path / "disc" / "b" / "IM0000")


@pytest.mark.parametrize(
    "tag", ["SeriesInstanceUID", "SOPInstanceUID", "Modality", "SeriesNumber", "StudyInstanceUID"]
)
def test_anonymized_series_are_read(tmp_path: Path, tag: str) -> None:
    """One tag is gone, or the same in all images."""
    for kind in ("gone", "empty", "same"):
        write_series(tmp_path / kind, shape=(5, 10, 12))
        for path in (tmp_path / kind).iterdir():
            image = pydicom.dcmread(path)
            if kind == "gone":
                del image[tag]
            else:
                same = "1.2.3" if tag.endswith("UID") else {"Modality": "OT"}.get(tag)
                setattr(image, tag, same if kind == "same" else None)
            image.save_as(path)
        volume = read_series(pick_series(tmp_path / kind))
        assert_placed(volume, volume.source.series)


# The tag's value as text, what takes its place (of the same length), and what is said of it.
WRONG = [
    ("PixelSpacing", b"1.5\\1.25", b"1,5\\1,25", "IM0000: its PixelSpacing is not 2 numbers"),
    ("ImagePositionPatient", b"-30.0\\40.0", b"-30,0\\40.0", "ImagePositionPatient is not 3 numb"),
    ("ImageOrientationPatient", b"1.0\\0.0\\", b"one\\two\\", "Orientation.* is not 6 numbers"),
    ("SeriesNumber", b"4 ", b"x ", None),
    ("ImagesInAcquisition", b"12", b"zz", None),
    ("NumberOfFrames", b"1 ", b"y ", "NumberOfFrames is not a number"),
    ("RescaleSlope", b"2.5 ", b"2,5 ", "RescaleSlope is not a number"),
    ("InstanceNumber", b"1 ", b"? ", None),
]


@pytest.mark.parametrize(("tag", "old", "new", "words"), WRONG, ids=[each[0] for each in WRONG])
def test_values_of_the_wrong_form(
    tmp_path: Path, tag: str, old: bytes, new: bytes, words: str | None
) -> None:
    tags = {"ImagesInAcquisition": 12, "NumberOfFrames": 1, "RescaleSlope": 2.5}
    write_series(tmp_path / "bad", **tags, RescaleIntercept=0)
    write_series(tmp_path / "good", SeriesNumber=5, SeriesDescription="T2")
    for path in (tmp_path / "bad").iterdir():
        content = path.read_bytes()
        element = pydicom.tag.Tag(tag)
        mark = struct.pack("<HH", element.group, element.element)
        start = content.index(mark)
        place = content.find(old, start, start + 40)
        if place > 0:
            path.write_bytes(content[:place] + new + content[place + len(old) :])
    series = series_at(tmp_path / "bad" / "IM0000")
    if words is None:
        assert_placed(read_series(series), series.files)
    else:
        with pytest.raises(InputError, match=words):
            read_series(series)
    assert read_series(pick_series(tmp_path, 5)).shape == (12, 20, 24)


def test_a_promise_of_more_images_is_said(tmp_path: Path) -> None:
    """The count may be that of several series, so it is no proof that one is missing."""
    write_series(tmp_path, ImagesInAcquisition=24)
    warnings = read_series(pick_series(tmp_path)).warnings
    assert any("has 12 images, and its header speaks of 24" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("tags", "child"),
    [
        ({"PatientAge": "007Y"}, True),
        ({"PatientAge": "010M"}, True),
        ({"PatientAge": "003D"}, True),
        ({"PatientAge": "018Y"}, False),
        ({"PatientAge": "000Y"}, False),  # as some programs write where they know none
        ({"PatientAge": "seven"}, False),
        ({"PatientBirthDate": "20060102"}, True),  # a day before the 18th birthday
        ({"PatientBirthDate": "20060101"}, False),
        ({"PatientBirthDate": ""}, False),
    ],
)
def test_a_child_is_said_to_be_one(tmp_path: Path, tags: dict[str, str], child: bool) -> None:
    write_series(tmp_path, shape=(4, 20, 24), StudyDate="20240101", **tags)
    said = [w for w in read_series(pick_series(tmp_path)).warnings if "younger than 18" in w]
    assert [kind_of(warning) for warning in said] == ["caution"] * child
