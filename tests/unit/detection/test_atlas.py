"""The regions of an atlas are found in a brain, however it lies in its file."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from heads import head, turned

pytest.importorskip("SimpleITK", reason="needs the extra regions")

from napari_addm.detection.atlas import Atlas, Region, find_regions, load_atlas
from napari_addm.findings.findings import measure_findings
from napari_addm.io.volume import Volume

SIDES, AREAS = ("left", "right"), ("low behind", "high behind", "low front", "high front")


def own_places(volume: Volume, to_world: np.ndarray) -> np.ndarray:
    """The places of the voxels in the brain's own mm, shape (S, A, R, 3)."""
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    return nib.affines.apply_affine(np.linalg.inv(to_world) @ volume.affine, index)


def octants(places: np.ndarray) -> np.ndarray:
    """The number of the octant, from 1, of places (..., 3)."""
    return 1 + (places > 0) @ np.array([4, 2, 1])


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """A brain whose octants are its regions."""
    brain = head()
    labels = octants(own_places(brain, np.eye(4))).astype(np.uint8)
    regions = tuple(Region(*each, "") for each in itertools.product(SIDES, AREAS))
    return Atlas(brain, brain.data > 0, labels, regions)


@pytest.mark.parametrize(
    ("orientation", "degrees"),
    [("RAS", (0, 0, 0)), ("LPI", (20, 0, 0)), ("PSR", (0, -20, 0)), ("IAL", (10, 10, -15))],
)
def test_octants_are_found_again(atlas, orientation, degrees):
    to_world = turned(degrees, zoom=(1.06, 0.95, 1.03), shift=(80, -30, 12))
    scan = head(orientation, to_world, gain=4.0)
    brain = scan.data > 0
    found = find_regions(scan, brain, atlas)
    place = own_places(scan, to_world)
    inner = brain & (np.abs(place).min(axis=-1) > 6.0)  # 6 mm from the borders of octants
    assert (found.labels[inner] == octants(place)[inner]).mean() > 0.99
    assert not found.labels[~brain].any()

    planted = np.linalg.norm(place - (35, 30, -20), axis=-1) < 12
    (finding,) = measure_findings(planted.astype(int), planted * 1.0, scan, regions=found)
    assert finding.region == "right low front"
    assert finding.location.endswith("(right low front)")


@pytest.mark.parametrize("change", ["other values", "half", "small", "upside down"])
def test_what_does_not_fit_has_no_regions(atlas, change):
    scan = head()
    brain = scan.data > 0
    if change == "other values":
        noise = np.random.default_rng(0).normal(100, 30, scan.shape)
        scan = scan.with_data(np.where(brain, noise, 0).astype(np.float32))
    elif change == "half":
        brain &= own_places(scan, np.eye(4))[..., 0] > 0
    elif change == "small":
        scan = head(to_world=turned((0, 0, 0), zoom=(0.7, 0.7, 0.7)))
        brain = scan.data > 0
    else:
        scan = head(to_world=turned((0, 180, 0)))
        brain = scan.data > 0
    found = find_regions(scan, brain, atlas)
    assert found.labels is None
    (finding,) = measure_findings(brain.astype(int), brain * 1.0, scan, regions=found)
    assert finding.region == "unknown"
    assert finding.location == "side unknown (region unknown)"


def test_bundled_atlas_is_a_brain_with_both_sides():
    atlas = load_atlas()
    names = {(each.side, each.area) for each in atlas.regions}
    x = own_places(atlas.brain, np.eye(4))[..., 0]
    for number, region in enumerate(atlas.regions, start=1):
        there = (atlas.labels == number) & atlas.mask
        assert there.any(), region
        middle = x[there].mean()
        if region.side and abs(middle) > 1.0:  # the fornix is in the middle
            assert (middle > 0) == (region.side == "right"), region
    for lobe in ("frontal", "temporal", "parietal", "occipital"):
        assert {("left", f"{lobe} lobe"), ("right", f"{lobe} lobe")} <= names
