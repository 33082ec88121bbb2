"""Scans in other processes, and real scans."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scans import save

from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.resampling import check_same_grid
from napari_addm.io.writing import write_volume


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file size limit")
def test_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    """A file size limit fails a write half-way, as a full disk does."""
    path = save(tmp_path / "scan.nii.gz", np.random.default_rng(0).random((40, 40, 40)))
    (tmp_path / "out.nii.gz").write_text("older")
    code = f"""
import resource, signal
from napari_addm.errors import AddmError
from napari_addm.io.files import open_atomic
from napari_addm.io.reading import read_volume
from napari_addm.io.writing import write_volume
volume = read_volume({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_volume({str(tmp_path / "out.nii.gz")!r}, volume, overwrite=True)
except AddmError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "out.nii.gz cannot be written" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.nii.gz", "scan.nii.gz"]
    assert (tmp_path / "out.nii.gz").read_text() == "older"


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    code = (
        "import sys, napari_addm; napari_addm.read_volume(sys.argv[1]); "
        "assert not {'torch', 'monai', 'napari', 'qtpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize(
    "pattern",
    ["healthy/sub-01*", "wholehead/*.nii.gz", "tumour/BraTS2021_00031/t1*", "ms_lesion/*/t1*"],
)
def test_real_scans_come_back_where_they_were(
    pattern: str, tmp_path: Path, shared_data: Path
) -> None:
    path = sorted(shared_data.glob(pattern))[0]
    image = nib.load(path)

    volume = read_volume(path)
    back = nib.load(write_volume(tmp_path / "out.nii.gz", volume))

    assert volume.data.max() > 0
    assert_allclose(volume.to_native(), image.get_fdata(), rtol=1e-5)
    assert_array_equal(np.asarray(back.dataobj), volume.to_native())
    assert_array_equal(back.affine, image.affine)
    mask = path.with_name("mask.nii.gz")
    if mask.exists():
        check_same_grid(read_labels(mask), volume)
