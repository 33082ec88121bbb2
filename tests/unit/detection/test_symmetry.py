"""The mirror plane against planes that are known, and what is taken off against cases by hand."""

import numpy as np
import pytest

from napari_addm.detection.symmetry import (
    COMMON,
    SHARE,
    MirrorPlane,
    find_mirror_plane,
    subtract_mirror_score,
)

SPACING = (2.0, 1.75, 1.5)
SHAPE = (60, 90, 100)


def brain(normal: np.ndarray, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid with blobs, symmetric in a plane; scan and mask."""
    middle = (np.array(SHAPE) - 1) / 2
    places = (np.moveaxis(np.indices(SHAPE), 0, -1) - middle) * SPACING
    across = places @ normal - offset
    along = np.linalg.qr(np.stack([normal, [1.0, 0, 0], [0, 1.0, 0]]).T)[0][:, 1:]
    up, forward = places @ along[:, 0], places @ along[:, 1]
    mask = (across / 60) ** 2 + (up / 50) ** 2 + (forward / 70) ** 2 < 1
    scan = np.full(SHAPE, 0.3)
    generator = np.random.default_rng(seed)
    for _ in range(30):
        a, u, f = generator.uniform((0, -40, -60), (50, 40, 60))
        squares = (np.abs(across) - a) ** 2 + (up - u) ** 2 + (forward - f) ** 2
        scan += generator.uniform(-0.2, 0.4) * np.exp(-squares / 2 / 8**2)
    return np.where(mask, scan, 0).astype(np.float32), mask


@pytest.mark.parametrize(
    ("roll", "yaw", "offset", "seed"),
    [(0, 0, 0, 0), (5, 0, 0, 1), (0, -8, 4.3, 0), (-12, 6, -7, 1), (15, 15, 2, 0)],
)
def test_the_plane_of_a_tilted_head_is_found(roll, yaw, offset, seed):
    sines = np.sin(np.radians([roll, yaw]))
    normal = np.array([*sines, np.sqrt(1 - (sines**2).sum())])
    plane = find_mirror_plane(*brain(normal, offset, seed), SPACING)
    assert plane is not None
    assert np.degrees(np.arccos(np.clip(np.dot(plane.normal, normal), -1, 1))) < 1.0
    assert abs(plane.offset_mm - offset) < 0.7
    assert plane.correlation > 0.97


def test_half_a_brain_has_no_plane():
    scan, mask = brain(np.array([0.0, 0, 1]), 0.0)
    mask[:, :, 50:] = False
    assert find_mirror_plane(scan, mask, SPACING) is None


@pytest.mark.parametrize("scan_value", [0.0, 1.0])
def test_nothing_has_no_plane(scan_value):
    scan = np.full(SHAPE, scan_value, np.float32)
    assert find_mirror_plane(scan, np.zeros(SHAPE, bool), SPACING) is None
    assert find_mirror_plane(scan * 0, np.ones(SHAPE, bool), SPACING) is None


def test_reflection_in_the_middle_is_a_flip():
    values = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    plane = MirrorPlane((0.0, 0.0, 1.0), 0.0, SPACING)
    np.testing.assert_allclose(plane.reflect(values), values[:, :, ::-1], atol=1e-6)
    # half a voxel off the middle: the flip moves by one voxel
    plane = MirrorPlane((0.0, 0.0, 1.0), SPACING[2] / 2, SPACING)
    np.testing.assert_allclose(plane.reflect(values)[:, :, 1:], values[:, :, :0:-1], atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_point_and_its_image_lie_as_far_from_the_plane_on_one_line(seed):
    generator = np.random.default_rng(seed)
    normal = np.array([*generator.uniform(-0.3, 0.3, 2), 1.0])
    normal /= np.linalg.norm(normal)
    offset = generator.uniform(-6, 6)
    plane = MirrorPlane(tuple(normal), offset, SPACING)
    middle = (np.array(SHAPE) - 1) / 2
    index = middle + generator.uniform(-12, 12, 3)
    squares = ((np.moveaxis(np.indices(SHAPE), 0, -1) - index) * SPACING) ** 2
    spot = np.exp(-squares.sum(-1) / 2 / 4**2).astype(np.float32)
    image = plane.reflect(spot)
    place = np.array([(np.indices(SHAPE)[k] * image).sum() / image.sum() for k in range(3)])
    before, after = (index - middle) * SPACING, (place - middle) * SPACING
    expected = before - 2 * (before @ normal - offset) * normal
    np.testing.assert_allclose(after, expected, atol=0.05)
    box = slice(20, 33), slice(3, None), slice(2, -3)
    np.testing.assert_array_equal(plane.reflect(spot, box), image[box])


PLANE = MirrorPlane((0.0, 0.0, 1.0), 0.0, SPACING)


def scores() -> tuple[np.ndarray, np.ndarray]:
    anomaly = np.full(SHAPE, 0.1, np.float32)
    inside = np.zeros(SHAPE, bool)
    inside[5:-5, 5:-5, 5:-5] = True
    return anomaly, inside


def test_what_both_sides_show_is_taken_off_and_what_one_shows_stays():
    anomaly, inside = scores()
    anomaly[10:50, 5:74, 5:30] = anomaly[10:50, 5:74, -30:-5] = 0.4  # common to both
    anomaly[20:24, 76:80, 32:37] = 0.4  # on one side
    less = subtract_mirror_score(anomaly, inside, PLANE)
    assert less[30, 30, 15] == pytest.approx((1 - SHARE) * 0.4, abs=1e-6)
    assert less[22, 78, 34] == pytest.approx(0.4 - SHARE * 0.1, abs=1e-6)
    assert (less[~inside] == 0).all()


def test_a_strong_lesion_with_a_twin_is_left_above_all_else():
    anomaly, inside = scores()
    anomaly += np.random.default_rng(0).random(SHAPE).astype(np.float32) * 0.1
    anomaly[20:30, 20:30, 20:25] = anomaly[20:30, 20:30, -25:-20] = 0.9
    less = subtract_mirror_score(anomaly, inside, PLANE)
    common = np.percentile(anomaly[inside], COMMON)
    assert less[25, 25, 22] == pytest.approx(0.9 - SHARE * common, abs=1e-4)
    lesion = np.zeros(SHAPE, bool)
    lesion[20:30, 20:30, 20:25] = lesion[20:30, 20:30, -25:-20] = True
    assert less[lesion].min() > less[inside & ~lesion].max()


def test_without_a_plane_the_median_is_taken_off():
    anomaly, inside = scores()
    anomaly[inside] = np.random.default_rng(0).random(inside.sum())
    less = subtract_mirror_score(anomaly, inside, None)
    expected = np.maximum(anomaly[inside] - SHARE * np.median(anomaly[inside]), 0)
    np.testing.assert_allclose(less[inside], expected, atol=1e-6)


def test_some_slices_are_as_in_the_whole():
    generator = np.random.default_rng(0)
    _, inside = scores()
    anomaly = generator.random(SHAPE).astype(np.float32)
    plane = MirrorPlane((0.1, -0.05, float(np.sqrt(1 - 0.0125))), 2.0, SPACING)
    whole = subtract_mirror_score(anomaly, inside, plane)
    np.testing.assert_array_equal(
        subtract_mirror_score(anomaly, inside, plane, slice(17, 31)), whole[17:31]
    )
    assert whole.min() >= 0


def test_an_empty_map_stays_empty():
    anomaly, inside = scores()
    assert not subtract_mirror_score(anomaly, inside & False, PLANE).any()
