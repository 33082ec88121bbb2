"""Files are written whole, over nothing that must stay, and without a patient's name."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scans import SPACING, make_affine, make_data, save

from napari_addm.errors import AddmError
from napari_addm.io.files import open_atomic
from napari_addm.io.reading import read_volume
from napari_addm.io.writing import write_volume


def test_input_is_never_overwritten(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz")
    before = path.read_bytes()
    volume = read_volume(path)
    (tmp_path / "link.nii.gz").symlink_to(path)
    (tmp_path / "hard.nii.gz").hardlink_to(path)
    (tmp_path / "sub").mkdir()

    for name in ("scan.nii.gz", "link.nii.gz", "hard.nii.gz", "sub/../scan.nii.gz"):
        with pytest.raises(AddmError, match="is the file that the voxels come from"):
            write_volume(tmp_path / name, volume, overwrite=True)
    assert path.read_bytes() == before


def test_other_files_are_overwritten_only_when_asked(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii.gz"))
    target = tmp_path / "out.nii.gz"
    target.write_text("older")

    with pytest.raises(AddmError, match=r"out\.nii\.gz exists already"):
        write_volume(target, volume)
    assert target.read_text() == "older"
    write_volume(target, volume, overwrite=True)
    assert_array_equal(read_volume(target).data, volume.data)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such/folder/out.nii.gz", "cannot be written"),
        ("scan.nii.gz/out.nii.gz", "cannot be written"),
        ("folder.nii.gz", "is a folder"),
        ("out.png", "ends in .nii.gz"),
        ("out", "ends in .nii.gz"),
    ],
)
def test_unwritable_output_is_refused(name: str, says: str, tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii.gz"))
    (tmp_path / "folder.nii.gz").mkdir()

    with pytest.raises(AddmError, match=says):
        write_volume(tmp_path / name, volume, overwrite=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_read_only_folder_is_refused(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii.gz"))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)

    with pytest.raises(AddmError, match="cannot be written"):
        write_volume(locked / "out.nii.gz", volume)


def test_open_atomic_shows_nothing_of_a_failed_block(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with open_atomic(tmp_path / "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_no_patient_and_no_clock_in_what_is_written(kind: type, tmp_path: Path) -> None:
    image = kind(make_data(), make_affine("LAS"))
    header = image.header
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str"):
        if field in header:
            header[field] = b"Doe^Jane"
    for field in {"extents", "slice_duration", "toffset", "intent_p1"} & set(header):
        header[field] = np.frombuffer(b"Doe^Doe^", header[field].dtype)[0]
    nib.save(image, tmp_path / "DoeJane.nii.gz")
    volume = read_volume(tmp_path / "DoeJane.nii.gz")

    first = write_volume(tmp_path / "first.nii.gz", volume).read_bytes()
    second = write_volume(tmp_path / "second.nii.gz", volume).read_bytes()

    assert b"Doe" not in first
    assert b"Doe" not in gzip.decompress(first)
    assert first[3] == 0, "no file name in the gzip header"
    assert first[4:8] == bytes(4), "no time in the gzip header"
    assert first == second


def test_written_header_describes_the_map_and_not_the_scan(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", make_data(dtype=np.int16), cal_max=900, xyzt_units=10)

    header = nib.load(write_volume(tmp_path / "b.nii", read_volume(path))).header

    assert header["cal_max"] == 0
    assert header["xyzt_units"] == 10
    assert header.get_zooms() == pytest.approx(tuple(SPACING))
    assert header["magic"] == b"n+1"
