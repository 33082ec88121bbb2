"""File formats: found by name and by content, and added by third parties as one file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import invoke

import napari_addm
from napari_addm.cohort.find import find_cohort
from napari_addm.errors import InputError
from napari_addm.io.names import is_second_half, names_labels, readable_suffixes, stem
from napari_addm.io.reading import read_grid, read_labels, read_volume
from napari_addm.registry import FORMATS
from napari_addm.training.data import find_scans

MANIFEST = Path(napari_addm.__file__).parent / "widgets" / "napari.yaml"
NUMPY_FORMAT = """
import numpy as np
from napari_addm.io.format import Format, ScanHeader

def read_header(file):
    voxels = np.load(file.path, mmap_mode="r")
    return ScanHeader(voxels.shape, voxels.dtype, np.diag([1, 2, 3, 1.0]), lambda frame: voxels)

FORMAT = Format("NumPy", (".npy",), lambda head: head.startswith(b"\\x93NUMPY"), read_header)
"""


def missing_patterns() -> list[str]:
    """The patterns that the line ``filename_patterns`` of napari.yaml lacks."""
    readers = yaml.safe_load(MANIFEST.read_text())["contributions"]["readers"]
    (known,) = (r["filename_patterns"] for r in readers if r["command"].endswith(".get_reader"))
    return [f"*{suffix}" for suffix in readable_suffixes() if f"*{suffix}" not in known]


def test_napari_opens_every_format() -> None:
    assert missing_patterns() == [], f"add these to filename_patterns of get_reader in {MANIFEST}"


def test_a_third_party_adds_a_format_as_one_file(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install("arrays", NUMPY_FORMAT, formats=("numpy", "FORMAT"))
    voxels = np.random.default_rng(0).integers(0, 99, (20, 22, 24))
    folder = tmp_path / "cohort"
    folder.mkdir()
    np.save(folder / "scan.npy", voxels)

    volume = read_volume(folder / "scan.npy")
    np.testing.assert_array_equal(volume.to_native(), voxels)
    assert volume.spacing == (3.0, 2.0, 1.0)
    assert read_grid(folder / "scan.npy").same_grid(volume)
    np.testing.assert_array_equal(read_labels(folder / "scan.npy").data, volume.data)
    assert (stem(folder / "scan.npy"), volume.name) == ("scan", "scan")
    assert [case.name for case in find_cohort(folder, tmp_path / "out")] == ["scan"]
    assert find_scans(folder) == [folder / "scan.npy"]
    assert missing_patterns() == ["*.npy"]
    (folder / "noise.npy").write_bytes(b"noise " * 100)
    with pytest.raises(InputError, match="is no MGZ, NIfTI, NRRD or NumPy file"):
        read_volume(folder / "noise.npy")


def test_a_broken_format_of_a_third_party_stops_nothing_else(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install("torn", "import nothing_of_this_name", formats=("torn", "FORMAT"))
    with pytest.warns(UserWarning, match="'torn' of the package torn cannot be loaded"):
        assert ".nii" in readable_suffixes()
    with pytest.raises(InputError, match="does not exist"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("brain.T1" + suffix, "brain.T1") for suffix in (".nii", ".NII.GZ", ".mgz", ".img.gz")),
        ("scan.nrrd", "scan"),
        ("scan.nhdr", "scan"),
        ("scan", "scan"),
        (".nii.gz", ".nii"),
    ],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected


@pytest.mark.parametrize(
    ("names", "are_labels"),
    [
        (["mask", "demo_lesion", "sub-01_T1w_desc-brain_mask", "sub-01_dseg"], True),
        (["BRATS_001_seg", "scan_labels", "aparc+aseg", "mask_resampled"], True),
        (["sub-01_T1w", "lesion_T1w", "masked", "scan_lesion_anomaly"], False),
    ],
)
def test_the_last_telling_word_of_a_name_decides(names: list[str], are_labels: bool) -> None:
    assert [names_labels(Path(f"{name}.nii.gz")) for name in names] == [are_labels] * len(names)


def test_second_halves_are_no_scans_of_their_own(tmp_path: Path) -> None:
    for name in ("a.hdr.gz", "a.img", "lone.img"):
        (tmp_path / name).touch()
    assert {n for n in ("a.hdr.gz", "a.img", "lone.img") if is_second_half(tmp_path / n)} == {
        "a.img"
    }


def test_help_of_the_command_line_names_the_formats() -> None:
    done = invoke(["detect", "--help"])
    assert all(name in done.stdout for name in FORMATS)
