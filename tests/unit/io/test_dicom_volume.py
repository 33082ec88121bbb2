"""Voxels of a DICOM series lie where its images say, or the series is refused."""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import (
    NAME,
    PLANES,
    assert_placed,
    change,
    compress,
    pydicom,
    to_multi_frame,
    write_multi_frame,
    write_series,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from napari_addm.errors import InputError
from napari_addm.io.dicom import pick_series, series_at
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.volume import Volume

COMPRESSED = [f"1.2.840.10008.1.2.{n}" for n in ("5", "4.57", "4.70", "4.80", "4.90")]


def read(folder: Path) -> Volume:
    return read_series(pick_series(folder))


@pytest.mark.parametrize("kind", ["classic", "backwards", "frames", "reversed", "shuffled"])
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_is_where_the_patient_has_it(tmp_path: Path, plane: str, kind: str) -> None:
    data, _ = write_series(tmp_path, plane, (5, 10, 12), backwards=kind == "backwards")
    shuffled = np.random.default_rng(0).permutation(5)
    orders = {"frames": None, "reversed": range(4, -1, -1), "shuffled": shuffled}
    if kind in orders:
        to_multi_frame(tmp_path, orders[kind])
    volume = read(tmp_path)
    assert_placed(volume, tmp_path.iterdir(), atol=1e-6)
    assert sorted(volume.shape) == sorted(data.shape)
    assert volume.name == "dicom_series4"
    assert volume.source.path is None
    assert volume.source.series == tuple(sorted(tmp_path.iterdir()))


def test_real_series_lies_where_its_images_say(tmp_path: Path, shared_data: Path) -> None:
    shutil.unpack_archive(shared_data / "dicom" / "trio_b17_t1_mprage.zip", tmp_path)
    volume = read_series(pick_series(tmp_path))
    assert volume.shape == (256, 256, 176)
    images = [pydicom.dcmread(path) for path in volume.source.series]
    world = np.array([image.ImagePositionPatient for image in images], float) * (-1, -1, 1)
    there = nib.affines.apply_affine(np.linalg.inv(volume.affine), world)
    nearest = np.rint(there).astype(int)
    # The scanner rounds positions.
    assert np.abs(there - nearest).max() < 2e-3
    for image, voxel in zip(images, nearest, strict=True):
        assert volume.data[tuple(voxel)] == image.pixel_array[0, 0]


@pytest.mark.parametrize("kind", ["classic", "frames"])
@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (lambda n: (0, 0, 0.02 * (-1) ** n), None),  # the last decimal
        (lambda n: (0.5 * n, 0, 0), None),  # sheared by 10 degrees
        (lambda n: (12 * (n == 5), 0, 0), "up to 12 mm beside an even grid"),
        (lambda n: (0, 0, 0.2 * (n > 6)), "uneven distances"),
        (lambda n: (0, 0, 0.005 * n * n), "beside an even grid"),  # drift
        (lambda n: (0, 0, 0.2 * (-1) ** n), "uneven distances"),
        (lambda n: (0, 0, 3 * (n > 6)), "incomplete, 1 image"),
        (lambda n: (0, 0, 100 * (n // 4)), "uneven distances"),  # three stacks
        (lambda n: (0, 0, -3 * (n > 6)), "several images at one place"),
        (lambda n: (0, 0, -3 * n), "several images at one place"),
    ],
)
def test_uneven_stacks(
    tmp_path: Path, kind: str, offset: Callable[[int], Any], words: str | None
) -> None:
    write_series(tmp_path, shape=(12, 4, 5))
    for n, path in enumerate(sorted(tmp_path.iterdir())):
        place = np.array(pydicom.dcmread(path).ImagePositionPatient, float) + offset(n)
        change(path, ImagePositionPatient=place.tolist())
    if kind == "frames":
        to_multi_frame(tmp_path)
    if words is None:
        assert_placed(read(tmp_path), tmp_path.iterdir())
    else:
        with pytest.raises(InputError, match=words):
            read(tmp_path)


def test_positions_with_two_decimals_are_enough(tmp_path: Path) -> None:
    write_series(tmp_path, "oblique", origin=(1.2345, 2.3456, 3.4567))
    for path in tmp_path.iterdir():
        place = pydicom.dcmread(path).ImagePositionPatient
        change(path, ImagePositionPatient=[round(float(x), 2) for x in place])
    assert_placed(read(tmp_path), tmp_path.iterdir(), atol=0.02)


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRBigEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, *COMPRESSED],
)
def test_lossless_transfer_syntaxes_are_exact(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path / "plain", "tilted", (4, 32, 40))
    shutil.copytree(tmp_path / "plain", tmp_path / "other")
    for path in (tmp_path / "other").iterdir():
        if syntax in COMPRESSED:
            compress(path, syntax)
            continue
        image = pydicom.dcmread(path)
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        image.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            *(path, image),
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
    plain, other = read(tmp_path / "plain"), read(tmp_path / "other")
    np.testing.assert_array_equal(other.data, plain.data)
    assert other.same_grid(plain, atol=1e-6)


def test_stored_numbers_become_values(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(-2048, 2048, (6, 9, 11))
    write_series(
        *(tmp_path / "signed", "axial", values.shape, (3.0, 1.0, 1.0), values & 0x0FFF),
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=1,
    )
    for n, path in enumerate(sorted((tmp_path / "signed").iterdir())):
        change(path, RescaleSlope=n + 1, RescaleIntercept=-0.5)
    expected = values * np.arange(1, 7)[:, None, None] - 0.5
    # Rows run to the back, and columns to the left.
    np.testing.assert_array_equal(read(tmp_path / "signed").data, expected[:, ::-1, ::-1])

    data, _ = write_series(tmp_path / "dark", PhotometricInterpretation="MONOCHROME1")
    dark = read(tmp_path / "dark")
    np.testing.assert_array_equal(dark.data, (data.max() + data.min() - data)[:, ::-1, ::-1])
    assert any("MONOCHROME1" in warning for warning in dark.warnings)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "no gray picture"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "is a mosaic"),
        ({"BitsStored": 8}, "larger numbers than its BitsStored"),
        ({"BitsStored": 17}, "BitsStored above"),
        ({"Rows": 19}, "more pixels than its header"),
        ({"Rows": 21}, "cut short"),
        ({"Rows": 60000, "Columns": 60000}, "larger than its files can hold"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing is not positive"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no right angle"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "ImageOrientationPatient is not 6 numbers"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"NumberOfFrames": 4}, "has 4 frames and says of 0 where they lie"),
    ],
)
def test_images_that_are_no_slices_are_refused(
    tmp_path: Path, tags: dict[str, Any], words: str
) -> None:
    write_series(tmp_path)
    for path in tmp_path.iterdir():
        change(path, **tags)
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path)
    assert NAME not in str(caught.value)


@pytest.mark.parametrize("syntax", [None, *COMPRESSED])
def test_pixels_that_are_not_as_the_header_says_are_refused(
    tmp_path: Path, syntax: str | None
) -> None:
    """A decoder would end the process with some of these."""
    for n, tags in enumerate(({}, {"Rows": 64}, {"Columns": 16}, {"BitsAllocated": 32})):
        folder = tmp_path / f"{n}"
        write_series(folder, "axial", (3, 32, 32))
        for path in folder.iterdir():
            if syntax is not None:
                compress(path, syntax)
            if tags:
                change(path, **tags)
            else:
                path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=r"is cut short|more pixels"):
            read(folder)


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = tmp_path / "IM0003"
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path)
    pack = zlib.compressobj(wbits=-15)
    zeros = 300 * (pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)) + pack.flush()
    length = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    path.write_bytes(path.read_bytes()[:length] + zeros)
    with pytest.raises(InputError, match="incomplete, 1 image"):
        read(tmp_path)
    with pytest.raises(InputError, match="is deflated, and cut short or too large"):
        series_at(path)


@pytest.mark.parametrize("lost", [None, 0, 1, 2])
def test_a_concatenation_is_read_whole(tmp_path: Path, lost: int | None) -> None:
    """One multi-frame image in three files."""
    write_series(tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    for n in range(3):
        if n != lost:
            part = write_multi_frame(tmp_path / "parts" / f"{n}", files[n * 4 : n * 4 + 4])
            change(part, InConcatenationNumber=n + 1, InConcatenationTotalNumber=3)
    if lost is None:
        assert_placed(read(tmp_path / "parts"), (tmp_path / "parts").iterdir())
    else:
        with pytest.raises(InputError, match=r"incomplete, 1 part\(s\) of its multi-frame"):
            read(tmp_path / "parts")


def test_a_lost_scale_is_not_overlooked(tmp_path: Path) -> None:
    write_series(tmp_path, RescaleSlope=2, RescaleIntercept=0)
    image = pydicom.dcmread(tmp_path / "IM0003")
    del image.RescaleSlope
    image.save_as(tmp_path / "IM0003")
    with pytest.raises(InputError, match="differ in RescaleSlope"):
        read(tmp_path)
