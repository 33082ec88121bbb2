"""The grid of a scan out of its header alone."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_addm.errors import InputError
from napari_addm.io.reading import read_grid, read_volume
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 4.5, -40], [0, 2.0, 0, -20], [0, 0, 0, 1]])


def test_no_voxel_is_read(tmp_path: Path) -> None:
    large = nib.Nifti1Header()
    large.set_data_dtype(np.int16)
    large.set_data_shape((600, 600, 600))
    large.set_sform(np.diag([0.1, 0.1, 0.1, 1]), code=1)
    large["vox_offset"], large["magic"] = 352, b"n+1"
    path = tmp_path / "large.nii"
    with path.open("wb") as file:
        file.write(large.binaryblock)
        file.truncate(352 + 2 * 600**3)  # a hole: nothing on the disk
    grid = read_grid(path)
    assert grid.shape == (600, 600, 600)
    assert grid.data.strides == (0, 0, 0)
    assert "864 MB of memory" in " ".join(grid.warnings)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz"])
def test_the_grid_is_that_of_the_volume(tmp_path: Path, suffix: str) -> None:
    volume = volume_from_native(np.random.default_rng(0).random((20, 24, 17)), AFFINE)
    path = write_volume(tmp_path / f"scan{suffix}", volume)
    grid, volume = read_grid(path), read_volume(path)
    np.testing.assert_array_equal(grid.affine, volume.affine)
    assert (grid.shape, grid.source.axes) == (volume.shape, volume.source.axes)
    assert grid.warnings == volume.warnings
    with pytest.raises(InputError, match="does not exist"):
        read_grid(tmp_path / f"no{suffix}")


def test_the_grid_of_nrrd(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    path = tmp_path / "scan.nrrd"
    nrrd.write(
        str(path),
        np.random.default_rng(0).random((5, 6, 7)),
        {"space": "LPS", "space directions": np.diag([1.0, 2.0, 3.0]), "space origin": np.ones(3)},
    )
    grid, volume = read_grid(path), read_volume(path)
    np.testing.assert_array_equal(grid.affine, volume.affine)
    assert grid.shape == volume.shape
    assert not grid.data.any()
