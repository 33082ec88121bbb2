"""Preparation and its inverse: what is found on the model grid lies there in the scan."""

import itertools
from collections.abc import Callable
from functools import cache

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_addm.checkpoint.specification import PreparationSpecification
from napari_addm.detection.brain_mask import find_brain
from napari_addm.detection.preparation import HistogramStandardization, ModelSlices, prepare
from napari_addm.detection.resampling import resample
from napari_addm.errors import InputError
from napari_addm.io.volume import Volume, volume_from_array, volume_from_native

SPECIFICATION = PreparationSpecification(
    spacing_mm=(3.0, 2.0, 2.0),
    size=(96, 80),
    percentiles=(1.0, 25.0, 50.0, 75.0, 99.0),
    landmarks=(0.05, 0.3, 0.5, 0.7, 0.95),
)


def grid(
    spacing: tuple[float, float, float],
    codes: str = "RAS",
    rotation: tuple[float, float, float] = (0, 0, 0),
    shear: float = 0.0,
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """An affine centered on the origin that covers the brain, and its shape."""
    orientation = nib.orientations.axcodes2ornt(codes)
    linear = np.zeros((3, 3))
    for n, (axis, sign) in enumerate(orientation):
        linear[int(axis), n] = sign * spacing[n]
    linear = nib.eulerangles.euler2mat(*rotation) @ linear
    linear[0] += shear * linear[1]
    extent = np.array([160, 190, 140]) * (1 if rotation == (0, 0, 0) and not shear else 1.35)
    shape = tuple(
        int(np.ceil(extent[int(axis)] / spacing[n])) for n, (axis, _) in enumerate(orientation)
    )
    affine = nib.affines.from_matvec(linear, -linear @ ((np.array(shape) - 1) / 2))
    return affine, shape  # type: ignore[return-value]


GRIDS = {
    "LPS": grid((2.1, 1.9, 2.4), "LPS"),
    "sagittal, anisotropic": grid((2.2, 1.6, 1.6), "PSR"),
    "coronal": grid((2, 2, 2.5), "LSA"),
    "thick slices": grid((1.6, 1.6, 5.0)),
    "oblique": grid((2, 2, 2.2), "LPS", (0.15, -0.2, 0.3)),
    "sheared": grid((2, 2, 2), "RAS", (0.0, 0.0, 0.1), shear=0.15),
}


Prepared = Callable[[str], tuple[Volume, ModelSlices]]


@pytest.fixture(scope="module")
def prepared(make_brain) -> Prepared:
    """``prepared(name)``: a healthy brain on one of the grids, and its slices."""

    @cache
    def make(name: str) -> tuple[Volume, ModelSlices]:
        volume = make_brain(*GRIDS[name])
        return volume, prepare(volume, SPECIFICATION)

    return make


def world_of(volume: Volume) -> np.ndarray:
    index = np.indices(volume.shape).reshape(3, -1)
    return (volume.affine[:3, :3] @ index + volume.affine[:3, 3:]).reshape(3, *volume.shape)


@pytest.mark.parametrize("name", GRIDS)
def test_a_lesion_is_at_its_world_place_on_the_model_grid(make_brain, prepared, name):
    lesion = (25.0, -20.0, 15.0, 12.0)
    slices = prepare(make_brain(*GRIDS[name], (lesion,)), SPECIFICATION)
    _, healthy = prepared(name)
    change = healthy.to_model_volume(healthy.images) - slices.to_model_volume(slices.images)
    dark = np.argwhere(change > 0.5 * np.percentile(change, 99.9))
    # the two intensity rules differ a little, so the lesion is judged by its center
    center = slices.affine[:3, :3] @ dark.mean(axis=0) + slices.affine[:3, 3]
    assert np.abs(center - lesion[:3]).max() < (0.5 if "thick" not in name else 1.5)
    volume = len(dark) * np.prod(SPECIFICATION.spacing_mm)
    assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.25)


@pytest.mark.parametrize("name", GRIDS)
def test_the_way_back_is_the_exact_inverse(prepared, name):
    """Trilinear interpolation is exact on linear functions: give it the world coordinates."""
    volume, slices = prepared(name)
    index = np.indices((slices.depth, *SPECIFICATION.size)).reshape(3, -1)
    world = slices.affine[:3, :3] @ index + slices.affine[:3, 3:]
    expected = world_of(volume)
    inner = ndimage.distance_transform_edt(slices.brain_mask, sampling=volume.spacing) > 8.0
    assert inner.sum() > 1000
    for axis in range(3):
        function = world[axis].reshape(slices.depth, *SPECIFICATION.size).astype(np.float32)
        (back,) = slices.to_native(function)
        assert np.abs(back[inner] - expected[axis][inner]).max() < 1e-3
        assert (back[~slices.brain_mask] == 0).all()


@pytest.mark.parametrize("name", GRIDS)
def test_a_planted_anomaly_returns_to_its_native_place(prepared, name):
    volume, slices = prepared(name)
    planted = np.array([-30.0, 25.0, 10.0])
    index = np.indices((slices.depth, *SPECIFICATION.size)).reshape(3, -1)
    world = slices.affine[:3, :3] @ index + slices.affine[:3, 3:]
    distance = np.linalg.norm(world - planted[:, None], axis=0)
    blob = np.exp(-((distance / 8.0) ** 2)).reshape(slices.depth, *SPECIFICATION.size)
    (native,) = slices.to_native(blob.astype(np.float32))
    center = (world_of(volume) * native).sum(axis=(1, 2, 3)) / native.sum()
    assert np.abs(center - planted).max() < 0.2


def test_every_orientation_gives_the_same_slices(make_brain):
    lesion = ((25.0, -20.0, 15.0, 12.0),)
    coarse = SPECIFICATION.model_copy(update={"spacing_mm": (6.0, 4.0, 4.0), "size": (48, 40)})
    reference = prepare(make_brain(*grid((4, 4, 4)), lesion), coarse)
    for axes in itertools.permutations(("RL", "AP", "SI")):
        for codes in map("".join, itertools.product(*axes)):
            slices = prepare(make_brain(*grid((4, 4, 4), codes), lesion), coarse)
            np.testing.assert_allclose(slices.affine, reference.affine, atol=1e-9)
            np.testing.assert_allclose(slices.images, reference.images, atol=1e-4)


@pytest.mark.parametrize("share", [-1e-7, 5e-8, 1e-6])
def test_the_rounding_of_an_affine_gives_the_same_slices(make_brain, share):
    """The brain is a whole number of slices high, and half voxels lie on its edge."""
    coarse = SPECIFICATION.model_copy(update={"spacing_mm": (6.0, 4.0, 4.0), "size": (48, 40)})
    volume = make_brain(*grid((6, 6, 6)))
    reference = prepare(volume, coarse)
    rounded = volume.source.affine * (1 + share * np.array([[1, 1, 1, 1]] * 3 + [[0] * 4]))
    slices = prepare(volume_from_native(volume.to_native(), rounded), coarse)
    assert slices.depth == reference.depth
    np.testing.assert_array_equal(slices.masks, reference.masks)
    np.testing.assert_allclose(slices.images, reference.images, atol=1e-3)


def test_parts_of_the_way_back_equal_the_whole(prepared):
    _, slices = prepared("oblique")
    function = slices.to_model_volume(slices.images)
    whole, twice = slices.to_native(function, 2 * function)
    np.testing.assert_allclose(twice, 2 * whole, rtol=1e-6)
    for start in range(0, whole.shape[0], 37):
        stop = min(start + 37, whole.shape[0])
        (part,) = slices.to_native(function, native_slices=(start, stop))
        np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize("name", ["LPS", "thick slices", "oblique"])
def test_a_native_slice_is_complete_once_what_it_needs_is_finished(prepared, name):
    _, slices = prepared(name)
    count = slices.brain_mask.shape[0]
    for native in range(0, count, 9):
        finished = np.zeros(len(slices.images), bool)
        needed = slices.model_slices_for([native])
        finished[needed] = True
        assert slices.finished_native_slices(finished)[native]
        for missing in needed:
            finished[missing] = False
            assert not slices.finished_native_slices(finished)[native]
            finished[missing] = True
    assert slices.finished_native_slices(np.ones(len(slices.images), bool)).all()
    # and what is complete does not change when the rest comes in
    half = np.arange(len(slices.images)) < len(slices.images) // 2
    function = slices.to_model_volume(slices.images)
    (early,) = slices.to_native(
        np.where(
            slices.to_model_volume(half.astype(np.float32)[:, None, None]) > 0, function, 99.0
        ).astype(np.float32),
        valid=half,
    )
    complete = slices.finished_native_slices(half)
    (late,) = slices.to_native(function)
    np.testing.assert_allclose(early[complete], late[complete], atol=1e-4)


@given(
    st.lists(st.floats(-1000, 1000), min_size=3, max_size=3, unique=True),
    st.lists(st.floats(-2000, 2000), min_size=1, max_size=20),
)
def test_the_intensity_map_is_monotone_and_has_an_inverse(knots, values):
    knots = np.sort(knots)
    if np.diff(knots).min() < 1.0:
        return
    rule = HistogramStandardization(knots, np.array([0.05, 0.5, 0.95]))
    np.testing.assert_allclose(rule.forward(knots.astype(np.float32)), rule.target, atol=1e-3)
    mapped = rule.forward(np.sort(np.array(values, np.float32)))
    assert (np.diff(mapped) >= -1e-6).all()
    inside = np.linspace(0.01, 0.99, 9, dtype=np.float32)
    np.testing.assert_allclose(rule.forward(rule.inverse(inside)), inside, atol=1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(7.5, 300), (1e-20, 0), (1e30, 0)])
def test_scaled_and_shifted_intensities_give_the_same_slices(make_brain, scale, shift):
    volume = make_brain(*grid((2, 2, 2)))
    scaled = np.where(volume.data > 0, scale * volume.data + shift, 0)
    other = volume.with_data(scaled.astype(np.float32))
    np.testing.assert_allclose(
        prepare(volume, SPECIFICATION).images, prepare(other, SPECIFICATION).images, atol=1e-3
    )


def test_a_stripped_brain_is_recognised_and_its_holes_are_filled(make_brain):
    volume = make_brain(*grid((2, 2, 2)))
    brain = volume.data > 0
    data = volume.data.copy()
    data[30:34, 40:44, 30:34] = 0
    data[0, 0, 0] = 5
    found = find_brain(volume.with_data(data))
    assert found is not None
    np.testing.assert_array_equal(found, brain)


def test_a_noisy_whole_head_is_not_taken_for_stripped():
    rng = np.random.default_rng(0)
    head = volume_from_array(
        rng.normal(100, 10, (70, 90, 80)).astype(np.float32), spacing=(2, 2, 2)
    )
    assert find_brain(head) is None


def test_a_large_object_on_black_is_not_taken_for_a_brain(make_brain):
    affine, shape = grid((2, 2, 2))
    scaled = affine.copy()
    scaled[:3] *= 1.4
    volume = make_brain(affine, shape)
    head = volume_from_array(volume.data, spacing=(2.8, 2.8, 2.8))
    assert find_brain(head) is None


def test_an_inverted_contrast_is_flagged_as_no_t1(make_brain):
    volume = make_brain(*grid((2, 2, 2)))
    inverted = volume.with_data(np.where(volume.data > 0, 300 - volume.data, 0))
    assert not any("T1-weighted" in w for w in prepare(volume, SPECIFICATION).warnings)
    assert any("T1-weighted" in w for w in prepare(inverted, SPECIFICATION).warnings)


def test_a_brain_of_one_value_is_refused(make_brain):
    volume = make_brain(*grid((4, 4, 4)))
    flat = volume.with_data(np.where(volume.data > 0, 1e6, 0).astype(np.float32))
    with pytest.raises(InputError, match="same value"):
        prepare(flat, SPECIFICATION)


def test_masks_that_do_not_fit_or_are_empty_are_refused(make_brain):
    volume = make_brain(*grid((4, 4, 4)))
    with pytest.raises(InputError, match="resample the mask"):
        prepare(volume, SPECIFICATION, np.ones((3, 3, 3), bool))
    with pytest.raises(InputError, match="brain mask that was given is empty; give another"):
        prepare(volume, SPECIFICATION, np.zeros(volume.shape, bool))


def test_an_implausible_mask_and_a_field_too_small_are_flagged(make_brain):
    volume = make_brain(*grid((4, 4, 4)))
    mask = np.zeros(volume.shape, bool)
    mask[10:25, 10:25, 10:25] = True
    assert any("216 mL" in w for w in prepare(volume, SPECIFICATION, mask).warnings)
    narrow = SPECIFICATION.model_copy(update={"size": (96, 48)})
    assert any("outside the model's field" in w for w in prepare(volume, narrow).warnings)


def test_a_users_mask_bounds_the_slices(make_brain):
    volume = make_brain(*grid((2, 2, 2)))
    mask = volume.data > 0
    mask[:35] = False
    slices = prepare(volume, SPECIFICATION, mask)
    world_z = slices.affine[2, 3] + slices.slice_index * 3.0
    assert world_z.min() > volume.affine[2, 3] + 2 * 35 - 3
    assert (slices.images[~slices.masks] == -1).all()


@pytest.mark.parametrize("sigma", [(0.0, 0.0, 0.0), (0.1, 1.3, 0.8), (2.5, 0.0, 4.0)])
def test_parallel_grids_are_resampled_as_scipy_does(sigma):
    """Bigger and smaller voxels, an axis that runs backwards, and samples beyond the ends."""
    rng = np.random.default_rng(0)
    data = (1000 * rng.random((9, 14, 11))).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([0.4, 1.7, -0.9])
    matrix[:3, 3] = [-1.3, 0.25, 10.6]
    found = resample(data, matrix, (slice(2, 25), slice(0, 9), slice(1, 15)), sigma)
    corner = matrix[:3, :3] @ [2, 0, 1] + matrix[:3, 3]
    blurred = data.astype(float)
    for axis, deviation in enumerate(sigma):
        if deviation > 0.2:
            blurred = ndimage.gaussian_filter1d(
                blurred, deviation, axis, mode="constant", truncate=3.0
            )
    expected = ndimage.affine_transform(
        blurred, matrix[:3, :3], corner, output_shape=(23, 9, 14), order=1,
        mode="grid-constant",
    )  # fmt: skip
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-3)
    assert (expected == 0).any()  # some samples lie outside


@pytest.mark.parametrize("seed", range(3))
def test_the_brain_is_the_largest_part_with_its_holes_filled(seed):
    """As scipy's slower functions have it, on clouds with many parts and holes."""
    cloud = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 40, 35)), 1.0)
    head = cloud > np.quantile(cloud, 0.4)
    head[[0, -1]] = head[:, [0, -1]] = head[:, :, [0, -1]] = False
    parts, count = ndimage.label(head)
    assert count > 1
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    expected = ndimage.binary_fill_holes(largest)
    assert expected.sum() > largest.sum()
    found = find_brain(volume_from_array(np.where(head, 100.0, 0.0).astype(np.float32)))
    np.testing.assert_array_equal(found, expected)
