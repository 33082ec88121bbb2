"""Volumes, and the files they come from: geometry is exact, and every fault is met in words."""

from __future__ import annotations

import gzip
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import open_atomic
from napari_addm.io.reading import Frames, read_beside, read_labels, read_volume
from napari_addm.io.resampling import check_same_grid, resample_labels, resample_like
from napari_addm.io.volume import volume_from_array, volume_from_native
from napari_addm.io.writing import write_volume

DATA = Path(__file__).parents[4] / "shared" / "data"

SHAPE = (17, 19, 23)
SPACING = np.array([0.9, 1.2, 1.7])
ORIGIN = np.array([-31.0, 12.5, 40.25])
ORIENTATIONS = [
    "".join(pair[side] for pair, side in zip(pairs, sides, strict=True))
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for sides in itertools.product((0, 1), repeat=3)
]
TILT = Rotation.from_euler("xyz", (11, -7, 16), degrees=True).as_matrix()
SHEAR = np.array([[1, 0.15, 0], [0, 1, 0.1], [0, 0, 1]])
GEOMETRIES = {"straight": np.eye(3), "oblique": TILT, "sheared": TILT @ SHEAR}


def make_affine(orientation: str, world: np.ndarray = GEOMETRIES["straight"]) -> np.ndarray:
    """Native index to world RAS+, for axes that run towards the letters of `orientation`."""
    directions = nib.orientations.inv_ornt_aff(
        nib.orientations.axcodes2ornt(tuple(orientation)), (1, 1, 1)
    )[:3, :3].T
    return nib.affines.from_matvec(world @ directions @ np.diag(SPACING), ORIGIN)


def make_data(shape: tuple[int, ...] = SHAPE, dtype: type = np.float32) -> np.ndarray:
    """No two voxels alike, so that any flip or swap shows."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def save(
    path: Path, data: np.ndarray | None = None, affine: np.ndarray | None = None, **header: object
) -> Path:
    image = nib.Nifti1Image(
        make_data() if data is None else data, make_affine("LAS") if affine is None else affine
    )
    image.set_qform(image.affine, code=1)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patch(path: Path, **fields: object) -> Path:
    """Change header fields of an uncompressed NIfTI-1 behind nibabel's back."""
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


# --- geometry ------------------------------------------------------------------------------------


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


@settings(max_examples=60, deadline=None)
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


def test_nrrd(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="the extra nrrd is not installed")
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

    nrrd.write(str(tmp_path / "plain.nrrd"), make_data())
    assert "left/right unknown" in " ".join(read_volume(tmp_path / "plain.nrrd").warnings)
    whole = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "cut.nrrd").write_bytes(whole[:-900])
    with pytest.raises(InputError, match=r"cut\.nrrd is damaged"):
        read_volume(tmp_path / "cut.nrrd")
    (tmp_path / "huge.nrrd").write_bytes(whole.replace(b"17 19 23", b"30000 30000 30000"))
    with pytest.raises(InputError, match=r"huge\.nrrd is cut short or its header is damaged"):
        read_volume(tmp_path / "huge.nrrd")
    nrrd.write(str(tmp_path / "apart.nhdr"), make_data(), header, detached_header=True)
    (tmp_path / "apart.nhdr").rename(tmp_path / "apart.nrrd")
    with pytest.raises(InputError, match="voxels in another file"):
        read_volume(tmp_path / "apart.nrrd")


def test_volume_from_array() -> None:
    data = make_data((3, 4, 5))

    volume = volume_from_array(data, spacing=(3.0, 2.0, 1.0))

    assert volume.spacing == (3.0, 2.0, 1.0)
    assert volume.name == "volume"
    centre = (np.array(data.shape) - 1) / 2
    assert_allclose(nib.affines.apply_affine(volume.affine, centre), 0, atol=1e-12)
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


# --- labels and resampling -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_labels_are_whole_numbers(dtype: type, tmp_path: Path) -> None:
    native = np.zeros(SHAPE, dtype)
    native[2, 3, 4], native[5:9, 6, 7] = 1, 12
    nib.save(nib.Nifti1Image(native, make_affine("RSP"), dtype=dtype), tmp_path / "a.nii.gz")

    labels = read_labels(tmp_path / "a.nii.gz")

    assert labels.data.dtype == np.int32
    assert_array_equal(labels.to_native(), native)


def test_scaled_mask_and_empty_mask_are_labels(tmp_path: Path) -> None:
    native = np.zeros(SHAPE, np.uint8)
    native[4:6] = 255
    image = nib.Nifti1Image(native, make_affine("LAS"))
    nib.save(image, tmp_path / "a.nii")
    patch(tmp_path / "a.nii", scl_slope=1 / 255, scl_inter=0)
    nib.save(nib.Nifti1Image(native * 0, make_affine("LAS")), tmp_path / "empty.nii")

    assert set(np.unique(read_labels(tmp_path / "a.nii").data)) == {0, 1}
    assert not read_labels(tmp_path / "empty.nii").data.any()


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "probability.nii.gz", make_data() / 7)

    with pytest.raises(InputError, match=r"probability\.nii\.gz holds fractions"):
        read_labels(path)


def test_nan_in_labels_becomes_background(tmp_path: Path) -> None:
    native = np.ones(SHAPE, np.float32)
    native[:2] = np.nan

    labels = read_labels(save(tmp_path / "a.nii.gz", native))

    assert_array_equal(labels.to_native(), np.nan_to_num(native).astype(int))
    assert "NaN" in labels.warnings[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1), np.uint8),
        ((0, 255), np.uint8),
        ((-1, 5), np.int16),
        ((0, 256), np.int16),
        ((0, 70_000), np.int32),
        ((0, 2**40), np.int64),
    ],
)
def test_labels_are_written_small(values: tuple[int, int], expected: type, tmp_path: Path) -> None:
    data = np.full((16, 16, 16), values[0])
    data[3, 4, 5] = values[1]

    path = write_volume(tmp_path / "a.nii.gz", volume_from_array(data))

    assert nib.load(path).get_data_dtype() == expected
    assert_array_equal(read_labels(path).data, data)


def test_maps_are_float32_and_masks_uint8(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii", make_data(dtype=np.int16)))
    real = volume.with_data(volume.data.astype(np.float64) / 3)

    assert nib.load(write_volume(tmp_path / "b.nii", real)).get_data_dtype() == np.float32
    mask = volume.with_data(volume.data > 9)
    assert nib.load(write_volume(tmp_path / "c.nii", mask)).get_data_dtype() == np.uint8


def test_a_truth_on_another_grid_is_refused_and_resampled(tmp_path: Path) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    fine = np.zeros((34, 38, 46), np.uint8)
    fine[10:20, 12:24, 20:30] = 3
    affine = make_affine("LAS") @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] += make_affine("LAS")[:3, :3] @ np.full(3, -0.25)
    truth = read_labels(save(tmp_path / "truth.nii.gz", fine, affine))

    with pytest.raises(InputError, match=r"truth\.nii\.gz has 46 x 38 x 34 voxels .* resample"):
        check_same_grid(truth, scan)
    moved = resample_labels(truth, scan)

    check_same_grid(moved, scan)
    expected = np.zeros(SHAPE, int)
    expected[5:10, 6:12, 10:15] = 3
    assert_array_equal(moved.to_native(), expected)
    assert moved.data.dtype == truth.data.dtype
    assert moved.warnings == (
        "Resampled from a grid of 46 x 38 x 34 voxels of 0.85 x 0.6 x 0.45 mm to 23 x 19 x 17 "
        "voxels of 1.7 x 1.2 x 0.9 mm (S x A x R).",
    )


def shifted(millimetres: float, stretched: float = 1.0) -> np.ndarray:
    """Where a truth lies that is so far to the left, or whose voxels are so much longer there."""
    affine = make_affine("LAS")
    affine[:, 0] *= stretched
    affine[0, 3] -= millimetres
    return affine


def one_cube() -> np.ndarray:
    """Voxels 5 to 9 along the axis to the left."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:10, 6:12, 10:15] = 3
    return labels


@pytest.mark.parametrize(
    ("affine", "note"),
    [
        (shifted(0.4), "from a grid up to 0.4 mm beside the scan's, with as many voxels of the"),
        (
            shifted(0.0, 1.1),
            "from a grid of 23 x 19 x 17 voxels of 1.7 x 1.2 x 0.99 mm to 23 x 19 x 17 voxels of "
            r"1.7 x 1.2 x 0.9 mm \(S x A x R\), up to 1.44 mm apart",
        ),
    ],
)
def test_grids_with_as_many_voxels_are_told_apart(
    affine: np.ndarray, note: str, tmp_path: Path
) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    truth = read_labels(save(tmp_path / "truth.nii.gz", one_cube(), affine))

    (said,) = resample_labels(truth, scan).warnings

    assert re.search(note, said), said


def test_a_truth_beside_the_scan_is_refused_and_does_not_become_empty(tmp_path: Path) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    # The cube begins at voxel 5, and the scan ends half a voxel behind its 17th: 11.5 of .9 mm.
    truth = save(tmp_path / "truth.nii.gz", one_cube(), shifted(20 + 11.5 * 0.9))
    far = read_labels(save(tmp_path / "far.nii.gz", one_cube(), shifted(1000)))

    says = r"truth\.nii\.gz lies beside the scan, its nearest labelled voxel 20 mm away: choose"
    with pytest.raises(InputError, match=says):
        read_beside("truth", truth, scan, resample=True)
    with pytest.raises(InputError, match=r"layer 'far' lies beside the scan, .* 990 mm away"):
        resample_labels(far, scan, "layer 'far'")


def test_what_lies_beyond_the_scan_is_left_out_and_said(tmp_path: Path) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    # By 9 voxels: of the five layers of the cube the last two leave the scan.
    truth = save(tmp_path / "truth.nii.gz", one_cube(), shifted(9 * 0.9))

    brain, notes = read_beside("truth", truth, scan, resample=True)

    assert np.count_nonzero(brain) == 3 * 6 * 5
    layer_ml = 6 * 5 * 0.9 * 1.2 * 1.7 / 1000
    assert notes[-1] == (
        f"The truth: {2 * layer_ml:.3g} of its {5 * layer_ml:.3g} mL lie beyond the scan's grid "
        "and are left out."
    )


def test_labels_that_change_only_by_rounding_are_all_there(tmp_path: Path) -> None:
    """Their volume changes with the size of the voxels, and nothing of them is left out."""
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    coarse = np.zeros((8, 9, 10), np.uint8)
    coarse[:3, :3, :3] = 1  # up to the edge of the scan
    affine = make_affine("LAS") @ np.diag([2.3, 2.3, 2.3, 1])
    affine[:3, 3] += make_affine("LAS")[:3, :3] @ np.full(3, 0.65)
    truth = read_labels(save(tmp_path / "truth.nii.gz", coarse, affine))

    moved = resample_labels(truth, scan)

    before, after = (np.count_nonzero(v.data) * v.voxel_ml for v in (truth, moved))
    assert abs(after / before - 1) > 0.02
    assert not [note for note in moved.warnings if "left out" in note]


def test_a_lesion_between_the_centres_of_voxels_is_told(tmp_path: Path) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    speck = np.zeros((170, 190, 230), np.uint8)
    speck[85, 95, 115] = 1
    affine = make_affine("LAS") @ np.diag([0.1, 0.1, 0.1, 1])
    truth = read_labels(save(tmp_path / "truth.nii.gz", speck, affine))

    moved = resample_labels(truth, scan)

    assert not moved.data.any()
    assert "Nothing is left of its 1.84e-06 mL" in moved.warnings[-1]


def test_an_empty_truth_stays_empty(tmp_path: Path) -> None:
    """That there is no lesion is an answer, too."""
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    path = save(tmp_path / "truth.nii.gz", np.zeros(SHAPE, np.uint8), shifted(1000))

    brain, notes = read_beside("truth", path, scan, resample=True)

    assert not brain.any()
    assert len(notes) == 1


def test_a_shifted_truth_is_refused(tmp_path: Path) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz"))
    affine = make_affine("LAS")
    affine[0, 3] += 2
    truth = read_labels(save(tmp_path / "truth.nii.gz", make_data(dtype=np.int32), affine))

    with pytest.raises(InputError, match=r"truth\.nii\.gz lies up to 2 mm beside"):
        check_same_grid(truth, scan)


def test_the_same_grid_in_another_orientation_is_the_same_grid(tmp_path: Path) -> None:
    scan = read_volume(save(tmp_path / "scan.nii.gz", affine=make_affine("LAS")))
    turned = nib.load(tmp_path / "scan.nii.gz").as_reoriented([[2, -1], [0, 1], [1, -1]])
    nib.save(turned, tmp_path / "turned.nii.gz")

    truth = read_labels(tmp_path / "turned.nii.gz")

    check_same_grid(truth, scan)
    assert_array_equal(truth.data, scan.data)


def test_resample_like_is_linear_in_the_world() -> None:
    # A linear ramp in world x is reproduced by linear interpolation on any grid inside.
    source = volume_from_array(np.zeros((30, 30, 30)))
    world = nib.affines.apply_affine(source.affine, np.indices(source.shape).T.reshape(-1, 3))
    ramp = world[:, 0].reshape(source.shape[::-1]).T
    target = volume_from_native(
        np.zeros((8, 9, 10)), nib.affines.from_matvec(TILT * 1.3, (-5, -5, -5))
    )

    moved = resample_like(source.with_data(ramp), target)

    expected = nib.affines.apply_affine(target.affine, np.indices(target.shape).T.reshape(-1, 3))[
        :, 0
    ]
    assert_allclose(moved.data.T.ravel(), expected, atol=1e-9)


# --- faults that are refused ---------------------------------------------------------------------


def truncated_gz(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:-400])
    return path


def gz_without_its_checksum(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:-8])
    return path


def bad_crc(folder: Path) -> Path:
    """A stored (not deflated) block, so that one bit only shows in the checksum."""
    save(folder / "scan.nii")
    path = folder / "scan.nii.gz"
    raw = bytearray(gzip.compress((folder / "scan.nii").read_bytes(), compresslevel=0))
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert nib.Nifti1Image.from_filename(path).shape == SHAPE
    return path


def flipped_bit(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 16
    path.write_bytes(raw)
    return path


def truncated_plain(folder: Path) -> Path:
    path = save(folder / "scan.nii")
    path.write_bytes(path.read_bytes()[:-1])
    return path


def cut_in_header(folder: Path) -> Path:
    path = save(folder / "scan.nii")
    path.write_bytes(path.read_bytes()[:200])
    return path


def empty(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    path.touch()
    return path


def html(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    path.write_text("\n<!DOCTYPE html><html><body>404 Not Found</body></html>")
    return path


def zipped_html(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    path.write_bytes(gzip.compress(b"<html>Sign in</html>"))
    return path


def dicom(folder: Path) -> Path:
    path = folder / "scan.nii"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 900)
    return path


def noise(folder: Path) -> Path:
    path = folder / "scan.nii"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    return path


def giant(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])


def giant_gz(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    path.write_bytes(gzip.compress(giant(folder).read_bytes()))
    return path


def giant_mgh(folder: Path) -> Path:
    path = folder / "scan.mgh"
    nib.save(MGHImage(make_data(), make_affine("LAS")), path)
    raw = bytearray(path.read_bytes())
    raw[4:16] = np.array([30000] * 3, ">i4").tobytes()
    path.write_bytes(raw)
    return path


def negative_mgh(folder: Path) -> Path:
    path = giant_mgh(folder)
    raw = bytearray(path.read_bytes())
    raw[4:8] = np.array([-17], ">i4").tobytes()
    path.write_bytes(raw)
    return path


def claims_a_little_more(folder: Path) -> Path:
    """Within deflate's reach, so that only the stream can tell."""
    path = folder / "scan.nii.gz"
    plain = patch(save(folder / "scan.nii"), dim=[3, 18, 19, 23, 1, 1, 1, 1])
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def negative_dims(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), dim=[3, 17, -19, 23, 1, 1, 1, 1])


def no_dims(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), dim=[0] * 8)


def nan_affine(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), srow_y=[0, np.nan, 0, 0])


def nan_qform(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), sform_code=0, qoffset_x=np.nan)


def wild_quaternion(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), sform_code=0, quatern_b=3, quatern_c=2)


def singular_sform(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), srow_z=[0, 1.2, 0, 0], srow_y=[0, 1.2, 0, 0])


def zero_sform(folder: Path) -> Path:
    zeros = [0, 0, 0, 0]
    return patch(save(folder / "scan.nii"), srow_x=zeros, srow_y=zeros, srow_z=zeros)


def complex_voxels(folder: Path) -> Path:
    return save(folder / "scan.nii", make_data(dtype=np.complex64))


def rgb(folder: Path) -> Path:
    data = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(data, make_affine("LAS")), folder / "scan.nii")
    return folder / "scan.nii"


def absurd_affine(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), srow_x=[1e17, 0, 0, 0])


def foreign_magic(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), magic=b"n+7")


def newlines_changed(folder: Path) -> Path:
    """A NIfTI-2 file that went through a text-mode transfer."""
    nib.save(nib.Nifti2Image(make_data(), make_affine("LAS")), folder / "scan.nii")
    raw = (folder / "scan.nii").read_bytes()
    (folder / "scan.nii").write_bytes(raw[:8] + b"\n\n\x1a\n" + raw[12:])
    return folder / "scan.nii"


def unknown_type(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), datatype=999)


def all_nan(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", np.full(SHAPE, np.nan, np.float32))


def constant(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", np.full(SHAPE, 7, np.int16))


def flat(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data((17, 19)))


def one_slice(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data((17, 19, 1)))


def several_frames(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data((4, 5, 6, 3)))


def five_dimensions(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data((4, 5, 6, 1, 3)))


def analyze(folder: Path) -> Path:
    nib.save(nib.AnalyzeImage(make_data(dtype=np.int16), np.eye(4)), folder / "scan.hdr")
    return folder / "scan.hdr"


def lone_header(folder: Path) -> Path:
    nib.save(nib.Nifti1Pair(make_data(), np.eye(4)), folder / "scan.hdr")
    (folder / "scan.img").unlink()
    return folder / "scan.hdr"


def short_pair(folder: Path) -> Path:
    nib.save(nib.Nifti1Pair(make_data(), np.eye(4)), folder / "scan.hdr")
    (folder / "scan.img").write_bytes(b"\0" * 100)
    return folder / "scan.hdr"


def folder_named_so(folder: Path) -> Path:
    (folder / "scan.nii").mkdir()
    return folder / "scan.nii"


def missing(folder: Path) -> Path:
    return folder / "scan.nii.gz"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (truncated_gz, "cut short"),
        (gz_without_its_checksum, "cut short"),
        (bad_crc, "damaged, its compressed data fail"),
        (flipped_bit, "damaged, its compressed data fail|cut short"),
        (truncated_plain, "cut short"),
        (cut_in_header, "cut short inside its header"),
        (empty, "is empty"),
        (html, "web page"),
        (zipped_html, "web page"),
        (dicom, "DICOM"),
        (noise, "is no MGZ, NIfTI or NRRD file"),
        (giant, "cannot hold them"),
        (giant_gz, "cannot hold them"),
        (giant_mgh, "cannot hold them"),
        (negative_mgh, "damaged header"),
        (claims_a_little_more, "cut short"),
        (negative_dims, "damaged header"),
        (no_dims, "damaged header"),
        (nan_affine, "NaN or infinite entries"),
        (nan_qform, "NaN or infinite entries"),
        (wild_quaternion, "NaN or infinite entries"),
        (singular_sform, "singular affine"),
        (zero_sform, "singular affine"),
        (absurd_affine, "impossibly large"),
        (foreign_magic, "no NIfTI signature"),
        (newlines_changed, "no NIfTI signature"),
        (complex_voxels, "complex"),
        (rgb, "color"),
        (unknown_type, "unknown voxel type"),
        (all_nan, "all NaN"),
        (constant, "same value in every voxel"),
        (flat, "2D"),
        (one_slice, "2D"),
        (several_frames, "4D with 3 frames.*frame=0 to 2"),
        (five_dimensions, "dimensions"),
        (analyze, "Analyze"),
        (lone_header, "other half scan.img"),
        (short_pair, "cut short"),
        (folder_named_so, "is a folder"),
        (missing, "does not exist"),
    ],
)
def test_fault_is_refused(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    path = make(tmp_path)

    with pytest.raises(InputError, match=says) as caught:
        read_volume(path)

    message = str(caught.value)
    assert str(path.with_suffix("")) in message  # the pair's fault may be in its other half
    assert "\n" not in message
    assert message.count(". ") == 0, "one sentence"
    if make is not constant:  # an empty mask is a mask
        with pytest.raises(InputError):
            read_labels(path)


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
    for _ in range(100):
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
    assert 0 < refused < 100


# --- oddities that are mended and recorded -------------------------------------------------------


def one_frame(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data()[..., None])


def one_frame_5d(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data()[..., None, None])


def some_nan(folder: Path) -> Path:
    data = make_data()
    data[0], data[1] = np.nan, -np.inf
    return save(folder / "scan.nii.gz", data)


def forms_differ(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), qoffset_x=-36.0)


def damaged_qform(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), quatern_b=3)


def no_forms(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), sform_code=0, qform_code=0)


def sheared(folder: Path) -> Path:
    return save(folder / "scan.nii", affine=make_affine("LAS", GEOMETRIES["sheared"]))


def zero_pixdim(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), pixdim=[1, 0, 0, 0, 0, 0, 0, 0])


def zero_pixdim_qform(folder: Path) -> Path:
    return patch(save(folder / "scan.nii"), sform_code=0, pixdim=[-1, 0, 1.2, 1.7, 0, 0, 0, 0])


def plain_gz(folder: Path) -> Path:
    return save(folder / "scan.nii").rename(folder / "scan.nii.gz")


def hidden_gz(folder: Path) -> Path:
    return save(folder / "scan.nii.gz").rename(folder / "scan.nii")


def thick(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", affine=np.diag([1, 1, 5.5, 1]))


def tiny(folder: Path) -> Path:
    return save(folder / "scan.nii.gz", make_data((5, 40, 40)))


def mgh_without_geometry(folder: Path) -> Path:
    path = folder / "scan.mgh"
    nib.save(MGHImage(make_data(), make_affine("LAS")), path)
    raw = bytearray(path.read_bytes())
    raw[28:30] = b"\0\0"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (one_frame, "4D with one frame"),
        (one_frame_5d, "5D with one frame"),
        (some_nan, "were NaN or infinite and are 0 now"),
        (forms_differ, "qform and sform disagree by up to .* mm; the sform was used"),
        (damaged_qform, "qform is damaged"),
        (no_forms, "left/right unknown"),
        (mgh_without_geometry, "left/right unknown"),
        (sheared, "sheared"),
        (zero_pixdim, "no valid voxel size; 0.9 x 1.2 x 1.7 mm was taken from its sform"),
        (zero_pixdim_qform, "no valid voxel size; 1 x 1.2 x 1.7 mm was assumed"),
        (plain_gz, "named as compressed and is not"),
        (hidden_gz, "compressed although"),
        (thick, "5.5 mm apart"),
        (tiny, "tiny"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_oddity_is_recorded(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    volume = read_volume(make(tmp_path))

    assert [w for w in volume.warnings if re.search(says, w)], volume.warnings
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
        read_volume(forms_differ(tmp_path)).source.affine, make_affine("LAS"), rtol=1e-6
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


# --- writing -------------------------------------------------------------------------------------


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


def test_open_atomic_shows_nothing_of_a_failed_block(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with open_atomic(tmp_path / "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_no_patient_and_no_clock_in_what_is_written(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_data(), make_affine("LAS"))
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        image.header[field] = b"Doe^Jane"
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


def test_mgh_header_is_not_taken_for_a_nifti_header(tmp_path: Path) -> None:
    nib.save(MGHImage(make_data(), make_affine("LIA")), tmp_path / "a.mgz")
    volume = read_volume(tmp_path / "a.mgz")
    assert isinstance(volume.source.header, MGHHeader)

    image = nib.load(write_volume(tmp_path / "b.nii.gz", volume))

    assert_allclose(image.affine, make_affine("LIA"), atol=1e-4)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"


# --- cost, and real scans ------------------------------------------------------------------------


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    code = (
        "import sys, napari_addm; napari_addm.read_volume(sys.argv[1]); "
        "assert not {'torch', 'monai', 'napari', 'qtpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    "pattern", ["healthy/sub-01*", "wholehead/*.nii.gz", "tumour/*/t1*", "ms_lesion/*/t1*"]
)
def test_real_scans_come_back_where_they_were(pattern: str, tmp_path: Path) -> None:
    path = sorted(DATA.glob(pattern))[0]
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
