"""Hashes of voxels: the same however a file stores them."""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import volume_from_native


def test_the_hash_does_not_depend_on_the_file(tmp_path: Path) -> None:
    native = np.random.default_rng(0).uniform(1, 100, (9, 11, 13)).astype(np.float32)
    image = nib.Nifti1Image(native, np.diag([-1.0, 1.5, 2.0, 1.0]))
    nib.save(image, tmp_path / "a.nii.gz")
    nib.save(nib.as_closest_canonical(image), tmp_path / "b.nii")
    one, other = (
        voxels_sha256(read_volume(tmp_path / name).data) for name in ("a.nii.gz", "b.nii")
    )
    assert one == other
    turned = volume_from_native(native[::-1, :, ::-1].transpose(2, 0, 1), np.eye(4))
    assert voxels_sha256(turned.data) != one
    zeros = np.zeros((2, 3, 4), bool)
    assert voxels_sha256(zeros) == voxels_sha256(zeros.astype(np.uint8))
    assert voxels_sha256(zeros) != voxels_sha256(zeros.T)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 255], "u1"),
        ([-1, 255], "<i2"),
        ([0, 256], "<i2"),
        ([0, 40000], "<i4"),
        ([0, 2**40], "<i8"),
    ],
)
def test_whole_numbers_are_hashed_as_they_are_stored(values: list[int], stored: str) -> None:
    labels = np.array(values, np.int64).reshape(1, 2, 1)
    head = np.array([1, 2, 1], "<i8").tobytes()
    expected = hashlib.sha256(head + np.array(values, stored).tobytes()).hexdigest()
    assert voxels_sha256(labels) == expected
    assert voxels_sha256(labels.astype(stored)) == expected
