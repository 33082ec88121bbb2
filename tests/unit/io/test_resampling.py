"""Labels: whole numbers, on the grid of their scan."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scans import SHAPE, TILT, make_affine, make_data, patch, save

from napari_addm.errors import InputError
from napari_addm.io.reading import read_beside, read_labels, read_volume
from napari_addm.io.resampling import check_same_grid, resample_labels, resample_like
from napari_addm.io.volume import volume_from_array, volume_from_native
from napari_addm.io.writing import write_volume


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
    # The cube begins at voxel 5; the scan ends half a voxel behind its 17th: 11.5 times 0.9 mm.
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


def test_a_lesion_between_the_centers_of_voxels_is_told(tmp_path: Path) -> None:
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
