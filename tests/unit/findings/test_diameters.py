"""The two diameters of RANO: in mm, whatever the grid."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from napari_addm.findings.diameters import Diameters, measure_diameters
from napari_addm.findings.findings import measure_findings
from napari_addm.io.volume import volume_from_array

SPACING = st.tuples(*[st.floats(0.6, 3.0)] * 3)
ANGLES = st.tuples(*[st.floats(-0.7, 0.7)] * 3)


def grid(spacing: tuple[float, float, float], angles: tuple[float, float, float]) -> np.ndarray:
    """An affine from (s, a, r) to the world, turned about its axes."""
    turn = nib.eulerangles.euler2mat(*angles)
    return nib.affines.from_matvec(turn @ np.diag(spacing)[::-1], (12.0, -30.0, 5.0))


def length(affine: np.ndarray, line: tuple[tuple[float, ...], ...]) -> float:
    one, other = nib.affines.apply_affine(affine, np.array(line))
    return float(np.linalg.norm(one - other))


def by_force(region: np.ndarray, affine: np.ndarray, at: int) -> tuple[float, float]:
    """The longest line between the edges of the voxels of a slice, and across it."""
    steps = np.array([(0, 0, 0.5), (0, 0, -0.5), (0, 0.5, 0), (0, -0.5, 0)])
    voxels = np.argwhere(region)
    voxels = voxels[voxels[:, 0] == at]
    edges = nib.affines.apply_affine(affine, (voxels[:, None] + steps).reshape(-1, 3))
    apart = np.linalg.norm(edges[:, None] - edges[None], axis=-1)
    longest, across = apart.max(), 0.0
    for i, j in np.argwhere(np.triu(apart > longest * (1 - 1e-6))):
        along = (edges[j] - edges[i]) / longest
        side = np.cross(np.cross(affine[:3, 1], affine[:3, 2]), along)
        side /= np.linalg.norm(side)
        t, h = (edges - edges[i]) @ along, (edges - edges[i]) @ side
        for at_t in t:  # where the line across meets all lines between two edges
            (one, other) = np.nonzero((t[:, None] <= at_t + 1e-9) & (t[None] >= at_t - 1e-9))
            span = np.where(t[other] - t[one] > 1e-9, t[other] - t[one], np.inf)
            met = h[one] + (h[other] - h[one]) * (at_t - t[one]) / span
            across = max(across, float(met.max() - met.min()))
    return float(longest), across


@settings(max_examples=25, deadline=None)
@given(SPACING, ANGLES, st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.6]))
def test_no_lines_are_longer(
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    seed: int,
    filled: float,
) -> None:
    region = np.random.default_rng(seed).random((2, 4, 5)) < filled
    assume(region.any())
    affine = grid(spacing, angles)
    if seed % 2:  # sheared
        affine[:3, 2] += 0.2 * affine[:3, 1]
    found = measure_diameters(region, affine)
    assert found.slice == region.sum(axis=(1, 2)).argmax()
    longest, across = by_force(region, affine, found.slice)
    assert found.longest_mm == pytest.approx(longest)
    assert found.across_mm == pytest.approx(across)
    check_lines(found, affine)


def check_lines(found: Diameters, affine: np.ndarray) -> None:
    """Both lines are as long as they say, lie in the slice, cross, and are perpendicular."""
    assert length(affine, found.longest) == pytest.approx(found.longest_mm)
    assert length(affine, found.across) == pytest.approx(found.across_mm)
    assert {place[0] for place in (*found.longest, *found.across)} == {float(found.slice)}
    ends = [
        nib.affines.apply_affine(affine, np.array(line)) for line in (found.longest, found.across)
    ]
    along, across = (line[1] - line[0] for line in ends)
    assert along @ across == pytest.approx(0.0, abs=1e-6 * found.product_mm2)
    assert found.product_mm2 == pytest.approx(found.longest_mm * found.across_mm)
    middle = (ends[1][0] - ends[0][0]) @ along / (along @ along)
    assert -1e-6 <= middle <= 1 + 1e-6


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.floats(0.7, 1.6)] * 3),
    ANGLES,
    st.tuples(st.floats(9, 16), st.floats(9, 16), st.floats(9, 16)),
    st.floats(0, np.pi),
)
def test_an_ellipsoid_has_the_diameters_of_its_section(
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    radii: tuple[float, float, float],
    turned: float,
) -> None:
    affine = grid(spacing, angles)
    shape = tuple(int(2 * 17 / mm) + 4 for mm in spacing)
    center = nib.affines.apply_affine(affine, (np.array(shape) - 1) // 2)
    normal, front, right = (affine[:3, n] / np.linalg.norm(affine[:3, n]) for n in range(3))
    axes = np.stack(
        [
            normal,
            np.cos(turned) * front + np.sin(turned) * right,
            np.cos(turned) * right - np.sin(turned) * front,
        ]
    )
    places = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T) - center
    region = (((places @ axes.T / radii) ** 2).sum(axis=1) <= 1).reshape(shape)
    found = measure_diameters(region, affine)
    voxels = region.sum(axis=(1, 2))
    assert voxels[found.slice] == voxels.max()  # several slices may have as many as the middle one
    off = (found.slice - (shape[0] - 1) // 2) * spacing[0] / radii[0]
    assert abs(off) < 0.5
    long, short = (2 * each(radii[1:]) * np.sqrt(1 - off**2) for each in (max, min))
    voxel = max(spacing[1:])
    assert found.longest_mm == pytest.approx(long, abs=1.2 * voxel)
    # An almost round section has many lines that are almost the longest.
    assert found.across_mm == pytest.approx(short, abs=1.5 * voxel)
    check_lines(found, affine)


def test_small_regions_are_as_long_as_their_voxels() -> None:
    affine = grid((4.0, 2.0, 1.0), (0.0, 0.0, 0.0))
    region = np.zeros((3, 4, 6), bool)
    region[1, 2, 3] = True
    one = measure_diameters(region, affine)
    assert (one.longest_mm, one.across_mm) == (pytest.approx(2.0), pytest.approx(1.0))
    region[1, 2, :] = True
    row = measure_diameters(region, affine)
    assert (row.longest_mm, row.across_mm) == (pytest.approx(6.0), pytest.approx(2.0))


def test_the_order_and_the_direction_of_the_axes_do_not_matter() -> None:
    region = np.random.default_rng(3).random((4, 7, 9)) < 0.3
    affine = grid((3.0, 1.5, 0.8), (0.2, -0.3, 0.1))
    expected = measure_diameters(region, affine)
    mirrored = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 6], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    found = measure_diameters(region[:, ::-1], mirrored)
    assert (found.longest_mm, found.across_mm) == (
        pytest.approx(expected.longest_mm),
        pytest.approx(expected.across_mm),
    )


def test_each_finding_has_its_own_diameters() -> None:
    labels = np.zeros((5, 8, 10), np.int32)
    labels[1, 1, 1:4], labels[2, 1, 1:8] = 7, 7
    labels[4, 3:7, 9] = 2
    volume = volume_from_array(np.zeros(labels.shape, np.float32), spacing=(2.0, 1.0, 0.5))
    findings = measure_findings(labels, volume.data, volume)
    told = [(each.id, each.widest_slice, each.longest_mm, each.across_mm) for each in findings]
    assert told == [(2, 4, 4.0, 0.5), (7, 2, 3.5, 1.0)]
    assert [each.product_mm2 for each in findings] == [2.0, 3.5]
    for each, line in itertools.product(findings, ("longest", "across")):
        lines = measure_diameters(labels == each.id, volume.affine)
        assert getattr(lines, f"{line}_mm") == getattr(each, f"{line}_mm")
