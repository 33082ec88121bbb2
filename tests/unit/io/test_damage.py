"""Files with faults: refused in one sentence, or repaired with a warning."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage
from numpy.testing import assert_allclose, assert_array_equal
from scans import GEOMETRIES, SHAPE, TILT, make_affine, make_data, patch, save

from napari_addm.errors import InputError
from napari_addm.io.reading import Frames, read_labels, read_volume
from napari_addm.io.writing import write_volume

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
GIANT = [3, 30000, 30000, 30000, 1, 1, 1, 1]
Make = Callable[[Path], Path]


def nifti(**fields: object) -> Make:
    """An uncompressed NIfTI-1 file with other header fields."""
    return lambda folder: patch(save(folder / "scan.nii"), **fields)


def stored(data: np.ndarray, name: str = "scan.nii.gz") -> Make:
    return lambda folder: save(folder / name, data)


def raw(content: bytes, name: str = "scan.nii") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def image(kind: type, name: str = "scan.nii", dtype: type = np.int16) -> Make:
    def make(folder: Path) -> Path:
        nib.save(kind(make_data(dtype=dtype), make_affine("LAS")), folder / name)
        return folder / name

    return make


def cut(make: Make, start: int, end: int | None = None) -> Make:
    """Only a part of a file's bytes."""

    def shorten(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[start:end])
        return path

    return shorten


def edited(make: Make, start: int, new: bytes) -> Make:
    """Some bytes of a file replaced."""

    def edit(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        path.write_bytes(content[:start] + new + content[start + len(new) :])
        return path

    return edit


def zipped(make: Make) -> Make:
    """Compressed after the change, so that the checksum is right."""

    def compress(folder: Path) -> Path:
        path = folder / "scan.nii.gz"
        path.write_bytes(gzip.compress(make(folder).read_bytes()))
        return path

    return compress


def flipped_bit(level: int) -> Make:
    """A changed bit in the middle; without compression only the checksum shows it."""

    def flip(folder: Path) -> Path:
        path = folder / "scan.nii.gz"
        content = bytearray(gzip.compress(save(folder / "scan.nii").read_bytes(), level))
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
        return path

    return flip


def followed(make: Make, tail: bytes) -> Make:
    """Something behind a file's end."""

    def append(folder: Path) -> Path:
        path = make(folder)
        with path.open("ab") as file:
            file.write(tail)
        return path

    return append


def scaled(unit: int, factor: float) -> Make:
    """The lengths of a header in another unit than mm."""

    def scale(folder: Path) -> Path:
        affine = np.diag([factor, factor, factor, 1]) @ make_affine("LAS")
        return save(folder / "scan.nii", affine=affine, xyzt_units=unit)

    return scale


def linked(target: str) -> Make:
    def link(folder: Path) -> Path:
        (folder / "scan.nii.gz").symlink_to(target)
        return folder / "scan.nii.gz"

    return link


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def listening(folder: Path) -> Path:
    place = os.open(folder, os.O_RDONLY)  # the path of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{place}/scan.nii")
    finally:
        os.close(place)
    return folder / "scan.nii"


def of_system(folder: Path) -> Path:
    (folder / "scan.nii").symlink_to("/proc/self/maps")
    return folder / "scan.nii"


def renamed(make: Make, name: str) -> Make:
    return lambda folder: make(folder).rename(folder / name)


def without_half(make: Make, half: str, content: bytes = b"") -> Make:
    """A pair whose other half is cut short, or missing."""

    def remove(folder: Path) -> Path:
        path = make(folder)
        (folder / half).unlink()
        if content:
            (folder / half).write_bytes(content)
        return path

    return remove


def folder_named_so(folder: Path) -> Path:
    (folder / "scan.nii").mkdir()
    return folder / "scan.nii"


PLAIN, GZ, PAIR = nifti(), stored(make_data()), image(nib.Nifti1Pair, "scan.hdr")
MGH = image(MGHImage, "scan.mgh", np.float32)
HTML = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
BOMB = 70 * gzip.compress(bytes(2**24), 9)
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as archive:
    archive.writestr("scan.nii", b"")
FAULTS: dict[str, tuple[Make, str]] = {
    "gzip cut short": (cut(GZ, 0, -400), "cut short"),
    "gzip without its checksum": (cut(GZ, 0, -8), "cut short"),
    "bad checksum": (flipped_bit(0), "damaged, its compressed data fail"),
    "flipped bit": (flipped_bit(9), "damaged, its compressed data fail|cut short"),
    "cut short": (cut(PLAIN, 0, -1), "cut short"),
    "cut in the header": (cut(PLAIN, 0, 200), "cut short inside its header"),
    "empty": (raw(b""), "is empty"),
    "web page": (raw(HTML, "scan.nii.gz"), "web page"),
    "compressed web page": (raw(gzip.compress(b"<html>Sign in</html>")), "web page"),
    "ZIP": (raw(ARCHIVE.getvalue()), "is a ZIP archive: unpack it"),
    "bzip2": (raw(bz2.compress(HTML)), "compressed by bzip2"),
    "xz": (raw(lzma.compress(HTML)), "compressed by xz"),
    "compressed twice": (raw(gzip.compress(gzip.compress(HTML))), "compressed twice"),
    "GIFTI": (raw(b'<?xml version="1.0"?><!DOCTYPE GIFTI><GIFTI/>'), "a surface in GIFTI"),
    "JSON": (raw(b'{"EchoTime": 0.003}'), "a JSON file: choose the scan beside it"),
    "AFNI": (raw(b"\ntype  = string-attribute\n"), "an AFNI header: convert"),
    "annex": (linked("../.git/annex/objects/a/b/MD5E-s9--c.nii.gz"), "run `datalad get .*gz`"),
    "annex, unlocked": (raw(b"/annex/objects/MD5E-s9--c.nii.gz\n"), "run `datalad get .*nii`"),
    "LFS": (raw(LFS), "is not fetched: run `git lfs pull`"),
    "half in LFS": (without_half(PAIR, "scan.img", LFS), "scan.img is not fetched"),
    "dangling link": (linked("nowhere.nii.gz"), "a link to .*nowhere.nii.gz, which does not exist"),
    "DICOM": (raw(bytes(128) + b"DICM" + bytes(900)), "DICOM"),
    "noise": (raw(np.random.default_rng(0).bytes(4000)), "is no MGZ, NIfTI or NRRD file"),
    "giant": (nifti(dim=GIANT), "cannot hold them"),
    "compressed giant": (zipped(nifti(dim=GIANT)), "cannot hold them"),
    "giant MGH": (edited(MGH, 4, np.array([30000] * 3, ">i4").tobytes()), "cannot hold them"),
    "negative MGH": (edited(MGH, 4, np.array([-17], ">i4").tobytes()), "damaged header"),
    # within the reach of compression, so that only the stream shows it
    "a little more": (zipped(nifti(dim=[3, 18, 19, 23, 1, 1, 1, 1])), "cut short"),
    "negative dimension": (nifti(dim=[3, 17, -19, 23, 1, 1, 1, 1]), "damaged header"),
    "no dimension": (nifti(dim=[0] * 8), "damaged header"),
    "NaN in the affine": (nifti(srow_y=[0, np.nan, 0, 0]), "NaN or infinite entries"),
    "NaN in the qform": (nifti(sform_code=0, qoffset_x=np.nan), "NaN or infinite entries"),
    "long quaternion": (nifti(sform_code=0, quatern_b=3, quatern_c=2), "NaN or infinite entries"),
    "two equal rows": (nifti(srow_z=[0, 1.2, 0, 0], srow_y=[0, 1.2, 0, 0]), "singular affine"),
    "zero sform": (nifti(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), "singular affine"),
    "far away": (nifti(srow_x=[1e17, 0, 0, 0]), "impossibly large"),
    "foreign signature": (nifti(magic=b"n+7"), "no NIfTI signature"),
    "newlines changed": (edited(image(nib.Nifti2Image), 8, b"\n\n\x1a\n"), "no NIfTI signature"),
    "complex": (stored(make_data(dtype=np.complex64)), "complex"),
    "color": (stored(np.zeros(SHAPE, RGB)), "color"),
    "unknown type": (nifti(datatype=999), "unknown voxel type"),
    "all NaN": (stored(np.full(SHAPE, np.nan, np.float32)), "all NaN"),
    "flat": (stored(make_data((17, 19))), "2D"),
    "one slice": (stored(make_data((17, 19, 1))), "2D"),
    "frames": (stored(make_data((4, 5, 6, 3))), "4D with 3 frames.*frame=0 to 2"),
    "five dimensions": (stored(make_data((4, 5, 6, 1, 3))), "dimensions"),
    "channel first": (stored(make_data((1, 7, 8, 9))), "extra axis of 1 .1 x 7 x 8 x 9."),
    "a slice over time": (stored(make_data((7, 8, 1, 9))), "a single slice with several frames"),
    "mm called meters": (
        nifti(xyzt_units=1),
        "4 mm by its header, whose unit is m: set",
    ),
    "mm called microns": (nifti(xyzt_units=3), "whose unit is µm: set the unit .* to mm"),
    "a bomb behind the voxels": (followed(GZ, BOMB), "holds more than 100 MB behind the voxels"),
    "Analyze": (image(nib.AnalyzeImage, "scan.hdr"), "Analyze"),
    "lone header": (without_half(PAIR, "scan.img"), "other half scan.img"),
    "lone voxels": (renamed(PAIR, "scan.img"), "other half scan.hdr"),
    "short pair": (without_half(PAIR, "scan.img", bytes(100)), "cut short"),
    "folder": (folder_named_so, "is a folder"),
    "missing": (lambda folder: folder / "scan.nii.gz", "does not exist"),
}
ODDITIES: dict[str, tuple[Make, str]] = {
    "one frame": (stored(make_data()[..., None]), "4D with one frame"),
    "one frame, 5D": (stored(make_data()[..., None, None]), "5D with one frame"),
    "some NaN": (
        stored(np.where(make_data() > 99, make_data(), np.nan)),
        "were NaN or infinite and are taken as 0",
    ),
    "two forms": (nifti(qoffset_x=-36.0), "qform and sform disagree by up to .* mm; the sform"),
    "damaged qform": (nifti(quatern_b=3), "qform is damaged"),
    "no form": (nifti(sform_code=0, qform_code=0), "left/right unknown, and up and front as well"),
    "microns": (scaled(3, 1e3), "lengths in µm, which were changed to mm"),
    "meters": (scaled(1, 1e-3), "lengths in m, which were changed to mm"),
    "dimension 0": (nifti(dim=[4, 17, 19, 23, 0, 1, 1, 1]), "4D with one frame"),
    "bits": (nifti(bitpix=16), "a type of 32 bits and 16 bits per voxel"),
    "newline behind": (followed(GZ, b"\n"), "bytes behind its compressed data"),
    "text behind": (followed(GZ, b"signature: 5f2a"), "bytes behind its compressed data"),
    "more behind": (followed(PLAIN, bytes(3 * 10**6)), "holds 3 MB behind the voxels"),
    "compressed more behind": (
        followed(GZ, gzip.compress(bytes(3 * 10**6))),
        "holds 3 MB behind the voxels",
    ),
    "negative spacing": (
        nifti(pixdim=[-1, -0.9, 1.2, 1.7, 0, 0, 0, 0]),
        "negative voxel size; its sign was dropped: 0.9 x 1.2 x 1.7 mm",
    ),
    "MGH without geometry": (edited(MGH, 28, bytes(2)), "up and front as well"),
    "sheared": (
        lambda folder: save(folder / "a.nii", affine=make_affine("LAS", GEOMETRIES["sheared"])),
        "sheared",
    ),
    "no spacing": (nifti(pixdim=[1] + [0] * 7), "0.9 x 1.2 x 1.7 mm was taken from its sform"),
    "no spacing, qform": (
        nifti(sform_code=0, pixdim=[-1, 0, 1.2, 1.7, 0, 0, 0, 0]),
        "no valid voxel size; 1 x 1.2 x 1.7 mm was assumed",
    ),
    "named as compressed": (renamed(PLAIN, "scan.nii.gz"), "named as compressed and is not"),
    "compressed": (renamed(GZ, "scan.nii"), "compressed although"),
    "thick": (lambda d: save(d / "a.nii", affine=np.diag([1, 1, 5.5, 1])), "5.5 mm apart"),
    "tiny": (stored(make_data((5, 40, 40))), "tiny"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_in_one_sentence(fault: str, tmp_path: Path) -> None:
    make, message = FAULTS[fault]
    path = make(tmp_path)

    for read in (read_volume, read_labels):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        sentence = str(caught.value)
        assert str(path.with_suffix("")) in sentence  # a pair's fault may be in its other half
        assert "\n" not in sentence
        assert sentence.count(". ") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and sockets as files")
@pytest.mark.parametrize("make", [pipe, listening, lambda folder: Path("/dev/zero"), of_system])
def test_what_is_no_file_is_refused_before_it_is_opened(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file but a pipe, a device or a part of the"):
        read_volume(make(tmp_path))


@pytest.mark.parametrize("oddity", ["microns", "meters"])
def test_a_scan_in_another_unit_is_the_same_scan(oddity: str, tmp_path: Path) -> None:
    path = ODDITIES[oddity][0](tmp_path)
    volume = read_volume(path)
    in_mm = read_volume(save(tmp_path / "mm.nii"))
    assert volume.same_grid(in_mm, atol=1e-4)
    assert volume.voxel_ml == pytest.approx(in_mm.voxel_ml)
    # Every other reader finds the output where it finds the scan.
    scan, out = nib.load(path), nib.load(write_volume(tmp_path / "out.nii", volume))
    assert_array_equal(out.affine, scan.affine)
    assert out.header.get_xyzt_units() == scan.header.get_xyzt_units()


def test_one_value_everywhere_is_no_scan_but_a_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz", np.full(SHAPE, 7, np.int16))
    with pytest.raises(InputError, match="same value in every voxel"):
        read_volume(path)
    assert (read_labels(path).data == 7).all()


def test_a_giant_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    """An honest file that memory cannot take: the sparse file holds what its header claims."""
    dim = [3, 10000, 10000, 10000, 1, 1, 1, 1]
    path = patch(save(tmp_path / "scan.nii"), dim=dim, datatype=2)
    try:
        os.truncate(path, 352 + 10000**3)
    except OSError:
        pytest.skip("this file system takes no sparse file of 1 TB")

    with pytest.raises(InputError, match=r"needs about 9 TB of memory"):
        read_volume(path)


@pytest.mark.parametrize("name", ["scan.nii", "nifti2.nii", "scan.mgh"])
def test_a_damaged_header_is_refused_or_harmless(name: str, tmp_path: Path) -> None:
    """Random bytes in the header: either one sentence, or a volume that survives a round trip."""
    kind = {"nifti2.nii": nib.Nifti2Image, "scan.mgh": MGHImage}.get(name, nib.Nifti1Image)
    path, out = tmp_path / name, tmp_path / "out.nii.gz"
    nib.save(kind(make_data(), make_affine("LAS", TILT)), path)
    whole, size = path.read_bytes(), 90 if name.endswith("mgh") else 352
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(40):
        raw = bytearray(whole)
        for position in random.integers(0, size, 3):
            raw[position] = random.integers(256)
        path.write_bytes(raw)
        try:
            volume = read_volume(path)
        except InputError:
            refused += 1
            continue
        again = read_volume(write_volume(out, volume, overwrite=True))
        assert_array_equal(again.data, volume.data)
        assert again.same_grid(volume)
    assert 0 < refused < 40


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_oddity_is_recorded(oddity: str, tmp_path: Path) -> None:
    make, warning = ODDITIES[oddity]
    volume = read_volume(make(tmp_path))

    assert [w for w in volume.warnings if re.search(warning, w)], volume.warnings
    assert np.isfinite(volume.data).all()
    again = read_volume(write_volume(tmp_path / "out.nii.gz", volume))
    assert_array_equal(again.data, volume.data)
    assert again.same_grid(volume, atol=1e-3)


@pytest.mark.parametrize(
    ("turn", "known"),
    [
        (np.diag([-1.0, 1, 1, 1]), False),  # mirrored
        (np.diag([-1.0, -1, 1, 1]), False),  # half a turn: both right and front are others
        (np.diag([1.0, -1, -1, 1]), True),  # upside down, and right is still right
        (nib.affines.from_matvec(nib.eulerangles.euler2mat(0.4, 0.2, -0.3)), True),
        (nib.affines.from_matvec(np.eye(3), [300, -20, 5]), True),
    ],
)
def test_forms_that_contradict_each_other_on_left_and_right_leave_them_unknown(
    turn: np.ndarray, known: bool, tmp_path: Path
) -> None:
    image = nib.load(save(tmp_path / "scan.nii"))
    image.set_sform(image.affine, code=1)
    image.set_qform(turn @ image.affine, code=1)
    nib.save(image, tmp_path / "two.nii")
    volume = read_volume(tmp_path / "two.nii")
    assert volume.sides_known == known
    assert any("qform and sform disagree" in warning for warning in volume.warnings)


def test_an_ordinary_scan_has_no_warnings(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii.gz")).warnings == ()


def test_sform_is_preferred(tmp_path: Path) -> None:
    assert_allclose(
        read_volume(patch(save(tmp_path / "scan.nii"), qoffset_x=-36.0)).source.affine,
        make_affine("LAS"),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_a_frame_can_be_chosen(name: str, tmp_path: Path) -> None:
    data = make_data((20, 20, 20, 3))
    kind = MGHImage if name.endswith("mgz") else nib.Nifti1Image
    nib.save(kind(data, make_affine("LAS")), tmp_path / name)

    for frame in range(3):
        volume = read_volume(tmp_path / name, frame=frame)
        assert_array_equal(volume.to_native(), data[..., frame])
        assert volume.warnings == (f"Frame {frame} of 3 was used.",)
    with pytest.raises(InputError, match="has no frame 3"):
        read_volume(tmp_path / name, frame=3)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_frames_are_read_one_by_one(name: str, tmp_path: Path) -> None:
    data = make_data((20, 20, 20, 3))
    data[..., 1] = 7  # a frame may be blank, where another one is not
    kind = MGHImage if name.endswith("mgz") else nib.Nifti1Image
    nib.save(kind(data, make_affine("LAS")), tmp_path / name)

    frames = Frames(tmp_path / name)

    assert frames.count == 3
    assert frames.warnings == ()
    for frame in (2, 1, 0, 2):
        volume = frames.volume(frame)
        assert_array_equal(volume.to_native(), data[..., frame])
        assert volume.warnings == (f"Frame {frame} of 3 was used.",)
    assert Frames(save(tmp_path / "one.nii")).count == 1


def test_frames_of_a_file_that_became_another_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", make_data((20, 20, 20, 3)))
    frames = Frames(path)
    frames.volume(0)
    save(path, make_data((20, 20, 20, 2)))

    with pytest.raises(InputError, match=r"a\.nii has changed since it was opened: open it again"):
        frames.volume(1)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.nii does not exist"):
        frames.volume(2)
