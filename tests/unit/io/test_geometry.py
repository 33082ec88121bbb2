"""Every voxel lies in the world where its file says, before and after writing."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage
from numpy.testing import assert_allclose, assert_array_equal
from scans import GEOMETRIES, ORIENTATIONS, make_affine, make_data, patch, save
from scipy.spatial.transform import Rotation

from napari_addm.io.reading import read_volume
from napari_addm.io.volume import volume_from_array, volume_from_native
from napari_addm.io.writing import write_volume


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48
    for orientation in ORIENTATIONS:
        assert "".join(nib.aff2axcodes(make_affine(orientation))) == orientation


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_read_write_read_is_exact(orientation: str, geometry: str, tmp_path: Path) -> None:
    native, affine = make_data(), make_affine(orientation, GEOMETRIES[geometry])
    image = nib.Nifti1Image(native, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    path = tmp_path / "scan.nii"
    nib.save(image, path)
    stored = nib.load(path)

    volume = read_volume(path)

    assert "".join(nib.aff2axcodes(volume.affine)) == "SAR"
    # Every voxel, found by its value, lies in the world where the file says.
    indices = np.argwhere(native > 0)
    found = np.empty_like(indices)
    found[volume.data.ravel().astype(int) - 1] = np.argwhere(volume.data > 0)
    world = nib.affines.apply_affine
    assert_allclose(world(volume.affine, found), world(stored.affine, indices), rtol=0, atol=1e-9)
    assert_array_equal(volume.to_native(), native)
    assert volume.is_sheared == (geometry == "sheared")
    assert volume.is_oblique == (geometry != "straight")
    assert volume.voxel_ml == pytest.approx(abs(np.linalg.det(affine[:3, :3])) / 1000)

    written = write_volume(tmp_path / "out.nii.gz", volume)

    back = nib.load(written)
    assert_array_equal(np.asarray(back.dataobj), native)
    assert_array_equal(back.affine, stored.affine)
    assert_array_equal(back.get_qform(), stored.get_qform())
    assert (back.header["sform_code"], back.header["qform_code"]) == (2, 1)
    again = read_volume(written)
    assert_array_equal(again.data, volume.data)
    assert again.same_grid(volume, atol=0)


@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    shear=st.floats(0, 0.3),
    mirrored=st.booleans(),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_any_affine_is_only_reordered(
    shape: tuple[int, int, int],
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    shear: float,
    mirrored: bool,
    origin: tuple[float, float, float],
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    turn[:, 0] *= -1 if mirrored else 1
    linear = turn @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine = nib.affines.from_matvec(linear, origin)
    native = make_data(shape)

    volume = volume_from_native(native, affine)

    assert_array_equal(volume.to_native(), native)
    assert sorted(volume.spacing) == pytest.approx(sorted(np.linalg.norm(linear, axis=0)))
    for index in itertools.product(*[(0, n - 1) for n in shape]):
        (found,) = np.argwhere(volume.data == native[index])
        assert_allclose(
            nib.affines.apply_affine(volume.affine, found),
            nib.affines.apply_affine(affine, index),
            rtol=0,
            atol=1e-9,
        )


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (0, 0), (4, 3)])
def test_form_codes_survive(codes: tuple[int, int], tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii"), sform_code=codes[0], qform_code=codes[1])
    stored = nib.load(path)

    back = nib.load(write_volume(tmp_path / "b.nii", read_volume(path)))

    assert (back.header["sform_code"], back.header["qform_code"]) == codes
    assert_allclose(back.affine, stored.affine, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.hdr", "a.img", "a.mgh", "a.mgz", "nifti2.nii.gz"]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_format_gives_the_same_volume(name: str, dtype: type, tmp_path: Path) -> None:
    native, affine = (make_data() % 251).astype(dtype), make_affine("PIR", GEOMETRIES["oblique"])
    path = tmp_path / name
    if name.endswith((".mgh", ".mgz")):
        nib.save(MGHImage(native, affine), path)
    elif name.startswith("nifti2"):
        nib.save(nib.Nifti2Image(native, affine), path)
    elif name.endswith((".hdr", ".img")):
        nib.save(nib.Nifti1Pair(native, affine), path)
    else:
        nib.save(nib.Nifti1Image(native, affine), path)

    volume = read_volume(path)

    expected = volume_from_native(native.astype(np.float32), affine)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    assert_array_equal(volume.data, expected.data)
    assert volume.same_grid(expected, atol=1e-3)
    assert volume.warnings == ()
    for target in ("out.nii.gz", "out.mgz"):
        back = read_volume(write_volume(tmp_path / target, volume))
        assert_array_equal(back.data, volume.data)
        assert back.same_grid(volume, atol=1e-3)
    assert_array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), native)


def test_nifti2_stays_nifti2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(make_data(), make_affine("LPS")), tmp_path / "a.nii.gz")

    path = write_volume(tmp_path / "b.nii.gz", read_volume(tmp_path / "a.nii.gz"))

    assert isinstance(nib.load(path), nib.Nifti2Image)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_byte_order_and_scale_are_applied(endian: str, tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=endian)
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(make_data(), make_affine("LAS"), header)
    image.header.set_slope_inter(0.25, -7)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz")
    assert stored.dataobj.slope == 0.25

    volume = read_volume(tmp_path / "a.nii.gz")

    assert_allclose(volume.to_native(), stored.get_fdata(), rtol=1e-6)
    back = nib.load(write_volume(tmp_path / "b.nii.gz", volume))
    assert_allclose(back.get_fdata(), stored.get_fdata(), rtol=1e-6)
    raw = nib.Nifti1Header(gzip.decompress((tmp_path / "b.nii.gz").read_bytes())[:348])
    assert (raw["scl_slope"], raw["scl_inter"]) == (1, 0)


def test_header_extensions_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_data(), make_affine("LAS"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane " * 50))
    nib.save(image, tmp_path / "a.nii")

    volume = read_volume(tmp_path / "a.nii")

    assert_array_equal(volume.to_native(), make_data())
    assert b"Doe" not in write_volume(tmp_path / "b.nii", volume).read_bytes()


def test_volume_from_array() -> None:
    data = make_data((3, 4, 5))

    volume = volume_from_array(data, spacing=(3.0, 2.0, 1.0))

    assert volume.spacing == (3.0, 2.0, 1.0)
    assert volume.name == "volume"
    center = (np.array(data.shape) - 1) / 2
    assert_allclose(nib.affines.apply_affine(volume.affine, center), 0, atol=1e-12)
    assert "".join(nib.aff2axcodes(volume.affine)) == "SAR"
    assert "".join(nib.aff2axcodes(volume.source.affine)) == "RAS"
    assert_array_equal(volume.to_native(), data.transpose(2, 1, 0))


def test_array_volume_written_and_read_again(tmp_path: Path) -> None:
    volume = volume_from_array(make_data((18, 20, 16)), spacing=(3.0, 2.0, 1.0))

    again = read_volume(write_volume(tmp_path / "a.nii.gz", volume))

    assert_array_equal(again.data, volume.data)
    assert again.same_grid(volume)


def test_with_data_keeps_the_grid_and_refuses_another(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii"))

    mask = volume.with_data(volume.data > 100, ("found so.",))

    assert mask.same_grid(volume, atol=0)
    assert mask.warnings == ("found so.",)
    with pytest.raises(ValueError, match="is not the grid's"):
        volume.with_data(volume.data[1:])


def test_same_grid_looks_at_the_far_corner() -> None:
    volume = volume_from_array(make_data((100, 100, 100)))
    longer = volume.affine.copy()
    longer[0, 2] *= 1.001

    assert not volume.same_grid(volume_from_array(volume.data, longer))
    assert not volume.same_grid(volume_from_array(volume.data[1:], volume.affine))
    assert volume.same_grid(volume_from_array(volume.data, volume.affine + 1e-6))


def test_mgh_header_is_not_taken_for_a_nifti_header(tmp_path: Path) -> None:
    nib.save(MGHImage(make_data(), make_affine("LIA")), tmp_path / "a.mgz")
    volume = read_volume(tmp_path / "a.mgz")
    assert isinstance(volume.source.header, MGHHeader)

    image = nib.load(write_volume(tmp_path / "b.nii.gz", volume))

    assert_allclose(image.affine, make_affine("LIA"), atol=1e-4)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
