"""Regions of real brains, as the atlas names them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

pytest.importorskip("SimpleITK", reason="needs the extra regions")

from napari_addm.benchmark.simulated_lesions import KINDS, HealthyBrain, simulate
from napari_addm.detection.atlas import find_regions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def make_atlas():
    """The tool that makes the atlas, which knows the regions and the scans that are held out."""
    place = importlib.util.spec_from_file_location("make_atlas", ROOT / "tools" / "make_atlas.py")
    module = importlib.util.module_from_spec(place)
    sys.modules["make_atlas"] = module
    place.loader.exec_module(module)
    yield module
    del sys.modules["make_atlas"]


@pytest.mark.parametrize(("n", "way"), [(0, "mirrored"), (-1, "tilted about x")])
def test_lobes_of_people_who_are_not_in_the_atlas(shared_data, make_atlas, n, way):
    folder = shared_data / "healthy_ixi"
    _, held = make_atlas.split_scans(folder)
    scan, mask, labels = make_atlas.change(way, make_atlas.read_scan(folder, held[n]))
    found = find_regions(scan, mask)
    names = make_atlas.numbered_regions()[0]
    area = np.array(["", *(name.rpartition("|")[0] for name in names)])
    there, right = area[found.labels], area[labels]
    lobes = np.char.endswith(right, "lobe")
    assert (there == right)[lobes].mean() > 0.9
    # The middle of a lobe is on its own side.
    for name in np.unique(right[lobes]):
        r = found.labels[right == name]
        side = name.partition("|")[0]
        assert (np.char.startswith(area[r], side)).mean() > 0.97


@pytest.mark.parametrize("part", ["right half", "inverted"])
def test_what_is_no_whole_t1_of_a_brain_has_no_names(shared_data, make_atlas, part):
    folder = shared_data / "healthy_ixi"
    scan, mask, _ = make_atlas.read_scan(folder, make_atlas.split_scans(folder)[1][0])
    if part == "inverted":
        scan = scan.with_data(scan.data.max() - scan.data)
    else:
        mask[..., : int(np.argwhere(mask)[:, 2].mean())] = False
    assert find_regions(scan, mask).labels is None


def test_one_ventricle_of_a_healthy_brain_becomes_wider(shared_data, make_atlas):
    folder = shared_data / "healthy_ixi"
    _, held = make_atlas.split_scans(folder)
    scan, mask, labels = make_atlas.read_scan(folder, held[1])
    brain = HealthyBrain(scan, mask)
    made = simulate(KINDS["ventricle"], brain)
    names = np.array(["", *make_atlas.numbered_regions()[0]])[labels]
    ventricles = np.char.find(names, "lateral ventricle") >= 0
    near = distance_transform_edt(~ventricles, sampling=scan.spacing)
    assert 10 < brain.millilitres(made.lesion) < 60
    # on one side, and around the ventricle of the reference
    side = np.char.startswith(names[made.lesion], "left").mean()
    assert min(side, 1 - side) < 0.25  # they meet at the midline
    assert np.median(near[made.lesion]) < 6
    assert np.median(made.scan.data[made.lesion]) < np.median(scan.data[made.lesion])
