"""Series of DICOM images: which one is read, and which is refused."""

import shutil
from pathlib import Path

import pytest
from dicom_series import NAME, change, generate_uid, pydicom, write_series

from napari_addm.detection.quality import grid_flags
from napari_addm.errors import InputError
from napari_addm.io.dicom import holds_dicom, pick_series
from napari_addm.io.dicom_header import is_dicom
from napari_addm.io.dicom_volume import read_series


def test_the_t1_is_chosen(tmp_path: Path) -> None:
    write_series(tmp_path / "a", SeriesNumber=2, SeriesDescription="AX FLAIR")
    write_series(tmp_path / "b", SeriesNumber=3, SeriesDescription="Sag T1 MPRAGE post Gd")
    write_series(tmp_path / "c", SeriesNumber=5, SeriesDescription="Sag T1 MPRAGE")
    shutil.copytree(tmp_path / "c", tmp_path / "again")  # the same images are no second series
    (tmp_path / "DICOMDIR.txt").write_text("no image")
    assert holds_dicom(tmp_path)
    assert not is_dicom(tmp_path / "DICOMDIR.txt")
    series = pick_series(tmp_path)
    assert (series.number, len(series.files)) == (5, 12)
    assert series.why == "the only T1 without contrast agent among 3 series"
    assert pick_series(tmp_path, 2).description == "AX FLAIR"
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
