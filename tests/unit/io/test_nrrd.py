"""NRRD files: every encoding, space and unit; bombs and odd headers are refused in one sentence."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scans import GEOMETRIES, make_affine, make_data

from napari_addm.errors import InputError
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

nrrd = pytest.importorskip("nrrd", reason="the extra nrrd is not installed")

SHAPE = (17, 18, 20)
DATA = make_data(SHAPE, np.int16)
RAW = DATA.tobytes(order="F")
PLACE = {"space directions": "(.5,0,0) (0,0.5,0) (0,0,2)", "space origin": "(-3,4,5)"}
LPS = {"space": "left-posterior-superior", **PLACE}
# What ITK and 3D Slicer see, in RAS+.
AFFINE = np.array([[-0.5, 0, 0, 3], [0, -0.5, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])


def write(folder: Path, content: bytes = RAW, **fields: object) -> Path:
    """A file with any header; ``space_units`` becomes ``space units``, None leaves a field out."""
    header = {
        "type": "int16",
        "dimension": 3,
        "sizes": "17 18 20",
        "endian": "little",
        "encoding": "raw",
        **LPS,
        **{k.replace("_", " "): v for k, v in fields.items()},
    }
    text = "".join(f"{name}: {value}\n" for name, value in header.items() if value is not None)
    path = folder / "scan.nrrd"
    path.write_bytes(f"NRRD0005\n# made by hand\n{text}name:=Doe\n\n".encode() + content)
    return path


def test_what_pynrrd_writes(tmp_path: Path) -> None:
    affine = make_affine("PIR", GEOMETRIES["oblique"])
    lps = np.diag([-1, -1, 1, 1]) @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), make_data(), header)

    volume = read_volume(tmp_path / "a.nrrd")

    expected = volume_from_native(make_data(), affine)
    assert_array_equal(volume.data, expected.data)
    assert volume.same_grid(expected, atol=1e-6)
    back = nib.load(write_volume(tmp_path / "b.nii.gz", volume))
    assert_array_equal(back.get_fdata(), make_data())
    assert_allclose(back.affine, affine, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (RAW, {}),
        (DATA.astype(">i2").tobytes("F"), {"endian": "big"}),
        (DATA.astype(np.float64).tobytes("F"), {"type": "double"}),
        (gzip.compress(RAW), {"encoding": "gzip"}),
        (gzip.compress(RAW[:999]) + gzip.compress(RAW[999:]) + b"\n", {"encoding": "GZ"}),
        (bz2.compress(RAW), {"encoding": "bzip2"}),
        (" ".join(map(str, DATA.ravel("F"))).encode(), {"encoding": "ascii", "endian": None}),
        (b"two\nlines\n123" + RAW, {"line_skip": 2, "byte_skip": 3}),
        (b"unknown" + RAW, {"byteskip": -1}),
        (b"x\n" + gzip.compress(b"abc" + RAW), {"encoding": "gz", "lineskip": 1, "byte skip": 3}),
        (RAW, {"dimension": 4, "sizes": "1 17 18 20", "kinds": "list space space space"}
         | {"space_directions": "none " + str(PLACE["space directions"])}),
        (RAW, {"dimension": 4, "sizes": "17 18 20 1", "space": "left-posterior-superior-time"}
         | {"space_directions": "(.5,0,0,0) (0, 0.5, 0, 0) ( 0,0,2,0 ) (0,0,0,1)"}
         | {"space_origin": "(-3,4,5,0)"}),
        (RAW, {"space": "LPS", "space_units": '"mm" "mm" "mm"'}),
        (RAW, {"space": "RAS", "space_origin": "(3,-4,5)"}
         | {"space_directions": "(-.5,0,0) (0,-.5,0) (0,0,2)"}),
        (RAW, {"thicknesses": "a b c", "space units": None}),
    ],
)  # fmt: skip
def test_a_scan_is_the_same_however_it_is_stored(
    content: bytes, fields: dict[str, object], tmp_path: Path
) -> None:
    volume = read_volume(write(tmp_path, content, **fields))
    assert_array_equal(volume.to_native(), DATA)
    assert_allclose(volume.source.affine, AFFINE)
    assert not [w for w in volume.warnings if "compressed data" not in w]


@pytest.mark.parametrize(
    ("fields", "affine", "warning"),
    [
        ({"space": "scanner-xyz"}, AFFINE, "up and front as well"),
        ({"space": "3D-right-handed"}, AFFINE, "up and front as well"),
        ({"space": None, "space_dimension": 3}, AFFINE, "up and front as well"),
        ({"space": "3D-left-handed-time", "space_origin": "(-3,4,5,0)", "dimension": 4}
         | {"sizes": "17 18 20 1"}
         | {"space_directions": "(.5,0,0,0) (0,.5,0,0) (0,0,2,0) (0,0,0,9)"},
         AFFINE, "up and front as well"),
        ({"space_units": '"um" "microns" "µm"', "space_origin": "(-3000,4000,5000)"}
         | {"space_directions": "(500,0,0) (0,500,0) (0,0,2000)"},
         AFFINE, "lengths in um, which were changed to mm"),
        ({"space_units": '"m" "m" "metres"', "space_origin": "(-.003,.004,.005)"}
         | {"space_directions": "(.0005,0,0) (0,.0005,0) (0,0,.002)"},
         AFFINE, "lengths in m, which were changed to mm"),
        ({**dict.fromkeys(("space", "space directions", "space origin")), "spacings": ".5 .5 2"}
         | {"axis_mins": "-3 4 5", "centers": "node node node"}, AFFINE, "up and front as well"),
        ({**dict.fromkeys(("space", "space directions", "space origin")), "spacings": ".05 .05 .2"}
         | {"units": '"cm" "cm" "cm"', "axis_mins": "-.325 .375 .4"}, AFFINE, "lengths in cm"),
        (dict.fromkeys(("space", "space directions", "space origin")),
         np.diag([-1, -1, 1, 1]), "no valid voxel size; 1 mm was assumed"),
    ],
)  # fmt: skip
def test_voxel_size_and_origin_are_kept_whatever_the_space(
    fields: dict[str, object], affine: np.ndarray, warning: str, tmp_path: Path
) -> None:
    volume = read_volume(write(tmp_path, **fields))
    assert_allclose(volume.source.affine, affine)
    assert_array_equal(volume.to_native(), DATA)
    assert warning in " ".join(volume.warnings)
    assert volume.sides_known == ("lengths" in warning and "space" not in fields)


BOMB = gzip.compress(bytes(2**24)) * 8
REFUSED: dict[str, tuple[bytes, dict[str, object], str]] = {
    "cut": (RAW[:-1], {}, "is cut short or its header is damaged"),
    "cut gzip": (gzip.compress(RAW)[:-9], {"encoding": "gzip"}, "compressed data end early"),
    "short gzip": (gzip.compress(RAW[:-2]), {"encoding": "gzip"}, "cut short: it holds"),
    "cut bzip2": (bz2.compress(RAW)[:-9], {"encoding": "bzip2"}, "compressed data end early"),
    "no bzip2": (RAW, {"encoding": "bzip2"}, "cannot be read .Invalid data stream"),
    "too few numbers": (b"1 2 34 " * 2030, {"encoding": "text"}, "does not hold 6120 numbers"),
    "too many numbers": (b"1 " * 6121, {"encoding": "text"}, "does not hold 6120 numbers"),
    "words": (b"one " * 6120, {"encoding": "text"}, "does not hold 6120 numbers as text"),
    "giant": (RAW, {"sizes": "30000 30000 30000"}, "cannot hold them"),
    "giant bzip2": (RAW, {"sizes": "3000 3000 3000", "encoding": "bz2"}, "cannot hold them"),
    "gzip bomb": (BOMB, {"encoding": "gzip"}, "holds more than 100 MB behind the voxels"),
    "bzip2 bomb": (bz2.compress(bytes(2**24)) * 8, {"encoding": "bz2"}, "holds more than 100 MB"),
    "many lines": (RAW, {"line_skip": 4000000000}, "skips 4000000000 lines and 0 bytes"),
    "minus lines": (RAW, {"line_skip": -2}, "skips -2 lines"),
    "many bytes": (RAW, {"byte_skip": 10**12}, "cannot hold them"),
    "gzip and many bytes": (RAW, {"byte_skip": 10**12, "encoding": "gz"}, "cannot hold them"),
    "from the end of gzip": (gzip.compress(RAW), {"byte skip": -1, "encoding": "gz"}, "-1 bytes"),
    "far from the end": (RAW, {"byte_skip": -2}, "-2 bytes before its voxels"),
    "hex": (RAW.hex().encode(), {"encoding": "hex"}, "an encoding that is not read: save"),
    "long header": (RAW, {"old_content": "word " * 2**18}, "a header of more than 1 MB: export it"),
    "detached": (RAW, {"data_file": "/etc/passwd"}, "its voxels in another file: save it as one"),
    "five channels": (5 * RAW, {"dimension": 4, "sizes": "5 17 18 20"}
                      | {"space_directions": "none (1,0,0) (0,1,0) (0,0,1)"}, "has 4 dimensions"),
    "flat": (RAW, {"dimension": 2, "sizes": "17 360", "space_directions": "(1,0,0) (0,1,0)"}, "2D"),
    "blocks": (RAW, {"type": "block"}, "damaged header|unknown voxel type"),
    "no byte order": (RAW, {"endian": None}, "damaged header"),
    "one axis less": (RAW, {"sizes": "17 360"}, "damaged header"),
    "no sizes": (RAW, {"sizes": None}, "damaged header"),
    "words as sizes": (RAW, {"sizes": "a b c"}, "damaged header"),
    "flat directions": (RAW, {"space_directions": "(1,0) (0,1) (1,1)"}, "damaged header"),
    "a number as origin": (RAW, {"space_origin": "5"}, "damaged header"),
    "equal directions": (RAW, {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "singular affine"),
    "NaN": (RAW, {"space_origin": "(nan,0,0)"}, "NaN or infinite"),
    "mm called meters": (RAW, {"space_units": '"m" "m" "m"'}, "whose unit is m: set the unit"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_fault_is_refused_in_one_sentence_and_little_memory(what: str, tmp_path: Path) -> None:
    content, fields, message = REFUSED[what]
    path = write(tmp_path, content, **fields)
    tracemalloc.start()
    try:
        for read in (read_volume, read_labels):
            with pytest.raises(InputError, match=message) as caught:
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_header_alone_and_a_whole_file_in_gzip_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path).rename(tmp_path / "scan.nhdr")
    with pytest.raises(InputError, match="voxels in another file: save it as one"):
        read_volume(path)
    (tmp_path / "a.nrrd").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="an NRRD file inside gzip: decompress it first"):
        read_volume(tmp_path / "a.nrrd")
