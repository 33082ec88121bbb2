"""Sides of findings come from the brain's own midline, for any origin and orientation."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.checkpoint.file import load_checkpoint, read_specification
from napari_addm.detection.midline import NO_MIDLINE, SIDES_FROM_MASK, Midline
from napari_addm.detection.pipeline import run
from napari_addm.detection.preparation import prepare
from napari_addm.detection.session import PreparedScan
from napari_addm.detection.settings import DetectionSettings
from napari_addm.findings.findings import Findings, measure_findings
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.volume import UNKNOWN_SIDES, Volume, volume_from_array, volume_from_native

# Every order of the axes, each of them in both directions; preparation itself has all 48.
ORIENTATIONS = ("RAS", "LPI", "AIL", "PSR", "SLA", "IRP")
QUICK = DetectionSettings(regions=False, steps=1, draws=1, slices=(28,), context_mm=0.0)
# (x, y, z, radius) in the brain's own mm, and the side that a sphere there lies on.
PLANTED = (
    ((30.0, 10.0, 15.0, 9.0), "right"),
    ((-12.0, -40.0, 0.0, 9.0), "left"),
    ((1.0, 35.0, -10.0, 12.0), "midline"),
)


def grid(orientation: str, turn: np.ndarray | None = None, origin=(0.0, 0.0, 0.0)):
    """Affine and shape of 4 mm voxels around a head, in one of the 48 orientations."""
    linear = np.zeros((3, 3))
    for native, (world, flip) in enumerate(nib.orientations.axcodes2ornt(orientation)):
        linear[int(world), native] = flip * 4.0
    if turn is not None:
        linear = turn @ linear
    shape = (56, 56, 56)
    return nib.affines.from_matvec(linear, np.array(origin) - linear @ (np.array(shape) / 2)), shape


def head(affine: np.ndarray, shape, turn: np.ndarray | None = None, origin=(0.0, 0.0, 0.0)):
    """A brain that is its own mirror image, turned and moved in the world; its own coordinates."""
    world = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T) - origin
    own = world if turn is None else world @ turn
    x, y, z = own.T
    inside = (x / 70) ** 2 + (y / 88) ** 2 + (z / 66) ** 2 < 1
    value = 100 + 30 * np.cos(x / 14) * np.cos(y / 18) * np.sin(z / 14 + 1)
    value += 30 * (1 - (x / 70) ** 2 - (y / 88) ** 2 - (z / 66) ** 2)
    # a little more brain in front than behind, as the mirror plane must not lie across
    value += 0.2 * y
    data = np.where(inside, value, 0).reshape(shape).astype(np.float32)
    return volume_from_native(data, affine), own.reshape(*shape, 3)


def sphere(volume: Volume, own: np.ndarray, place) -> np.ndarray:
    *center, radius = place
    ball = np.linalg.norm(own - center, axis=-1) < radius
    return volume_from_native(ball.astype(np.int32), volume.source.affine).data


def side_of(volume: Volume, labels: np.ndarray, midline: Midline | None):
    (finding,) = measure_findings(labels, volume.data, volume, midline=midline)
    return finding


def midline_of(volume: Volume, brain: np.ndarray | None = None) -> Midline | None:
    specification = read_specification(DEMO_CHECKPOINT).preparation
    return PreparedScan(prepare(volume, specification, brain)).midline


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_side_is_the_patients_in_every_orientation_with_any_origin(orientation):
    origin = (131.0, -207.0, 88.0)
    affine, shape = grid(orientation, origin=origin)
    volume, own = head(affine, shape, origin=origin)
    midline = midline_of(volume)
    assert midline is not None
    assert midline.source == "symmetry"
    for place, side in PLANTED:
        finding = side_of(volume, sphere(volume, own, place), midline)
        assert finding.side == side
        assert finding.from_midline_mm == pytest.approx(abs(place[0]), abs=1.5)


@pytest.mark.parametrize(
    ("turned", "roll", "yaw", "pitch"),
    [("grid", 20, 0, 0), ("head", 0, -20, 0), ("both", -20, 14, 20), ("head", -20, 14, 20)],
)
def test_oblique_grids_and_tilted_heads(turned, roll, yaw, pitch):
    turn = nib.eulerangles.euler2mat(*np.radians([yaw, roll, pitch]))
    origin = (-90.0, 60.0, 200.0)
    affine, shape = grid("LPS", turn if turned != "head" else None, origin)
    volume, own = head(affine, shape, turn if turned != "grid" else None, origin)
    midline = midline_of(volume)
    assert midline is not None
    for place, side in PLANTED:
        finding = side_of(volume, sphere(volume, own, place), midline)
        assert finding.side == side
        assert finding.from_midline_mm == pytest.approx(abs(place[0]), abs=2.0)


def test_a_quarter_on_the_other_side_makes_it_lie_on_the_midline():
    volume = volume_from_array(np.ones((4, 4, 40), np.float32))
    midline = Midline((1.0, 0.0, 0.0), 0.0, "symmetry")  # between voxels 19 and 20
    expected = {0: "left", 4: "left", 5: "midline", 10: "midline", 15: "midline", 16: "right"}
    for right, side in expected.items():
        labels = np.zeros(volume.shape, np.int32)
        labels[1, 1, right : 20 + right] = 1
        assert side_of(volume, labels, midline).side == side, right
    labels = np.zeros(volume.shape, np.int32)
    labels[1, 1, 20:40] = 1
    finding = side_of(volume, labels, midline)
    assert (finding.side, finding.from_midline_mm) == ("right", pytest.approx(10.0))


@given(
    seed=st.integers(0, 2**32 - 1),
    angles=st.tuples(*[st.floats(-1.0, 1.0)] * 3),
    offset=st.floats(-8.0, 8.0),
)
def test_shares_and_distances_equal_those_of_all_voxels(seed, angles, offset):
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.integers(0, 4, (6, 7, 4)), 2, axis=2).astype(np.int32)
    linear = nib.eulerangles.euler2mat(*angles)[:, [2, 1, 0]] * (1.5, 1.0, 2.0)
    volume = volume_from_array(
        np.ones(labels.shape, np.float32),
        nib.affines.from_matvec(linear, -linear @ (np.array(labels.shape) / 2)),
    )
    normal = generator.normal(size=3)
    normal /= np.linalg.norm(normal)
    midline = Midline(tuple(normal.tolist()), offset, "symmetry")
    for finding in measure_findings(labels, volume.data, volume, midline=midline):
        places = nib.affines.apply_affine(volume.affine, np.argwhere(labels == finding.id))
        right = places @ normal - offset
        share = np.mean(right > 0)
        expected = "left" if share < 0.25 else "right" if share > 0.75 else "midline"
        # a voxel on the plane itself may count on either side
        if np.abs(right).min() > 1e-6:
            assert finding.side == expected
        assert finding.from_midline_mm == pytest.approx(abs(right.mean()), abs=1e-6)


def test_a_file_that_does_not_say_left_and_right_gets_no_side():
    affine, shape = grid("RAS")
    volume, own = head(affine, shape)
    unknown = replace(volume, warnings=(UNKNOWN_SIDES,))
    assert midline_of(unknown) is None
    # nor where somebody hands a midline in
    midline = midline_of(volume)
    finding = side_of(unknown, sphere(volume, own, PLANTED[0][0]), midline)
    assert (finding.side, finding.from_midline_mm, finding.midline_source) == (None, None, None)
    assert finding.location == "side unknown"


def test_half_a_brain_gets_no_side(tiny_checkpoint):
    affine, shape = grid("RAS", origin=(100.0, 100.0, 100.0))
    volume, own = head(affine, shape, origin=(100.0, 100.0, 100.0))
    x = volume_from_native(own[..., 0], affine).data
    for kept in (x > 0, x < 10, (x > 10) & (x < 50)):
        part = volume.with_data(np.where(kept, volume.data, 0))
        assert midline_of(part) is None
        detection = run(part, load_checkpoint(tiny_checkpoint), QUICK)
        assert NO_MIDLINE in detection.warnings
        assert detection.midline is None


def test_a_piece_of_one_half_gets_no_side_however_it_is_cut():
    """Neither its proportions nor its own symmetry make a half a brain."""
    affine, shape = grid("RAS")
    volume, own = head(affine, shape)
    x, y, z = (volume_from_native(own[..., axis], affine).data for axis in range(3))
    inside = volume.data != 0
    for length, height in ((50, 45), (40, 40), (30, 60), (90, 30)):
        kept = inside & (x > 0) & (np.abs(y) < length) & (np.abs(z) < height)
        assert midline_of(volume.with_data(np.where(kept, volume.data, 0)), kept) is None


def test_where_the_halves_differ_the_mask_decides_and_it_is_said(tiny_checkpoint):
    origin = (80.0, -30.0, 55.0)
    affine, shape = grid("PIR", origin=origin)
    volume, own = head(affine, shape, origin=origin)
    cyst = sphere(volume, own, (32.0, 0.0, 10.0, 36.0)) != 0
    brain = volume.data != 0
    volume = volume.with_data(np.where(cyst & brain, 20, volume.data).astype(np.float32))
    detection = run(volume, load_checkpoint(tiny_checkpoint), QUICK, brain_mask=brain)
    assert detection.midline is not None
    assert detection.midline.source == "mask"
    assert SIDES_FROM_MASK in detection.warnings
    finding = side_of(volume, (cyst & brain).astype(np.int32), detection.midline)
    assert (finding.side, finding.midline_source) == ("right", "mask")
    assert finding.location.startswith("right (estimated), ")


def test_findings_without_a_midline_compare_equal_to_themselves():
    volume = volume_from_array(np.ones((4, 4, 4), np.float32))
    found = measure_findings((volume.data > 0).astype(np.int32), volume.data, volume)
    assert isinstance(found, Findings)
    assert found == list(found)
    assert found[0].side is None
