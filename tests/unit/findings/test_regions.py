"""Findings are named by the regions of an atlas that hold them."""

import pytest

from napari_addm.detection.atlas import Region
from napari_addm.findings.regions import name_regions

REGIONS = (
    Region("right", "temporal lobe", ""),
    Region("left", "temporal lobe", ""),
    Region("right", "temporal lobe", "hippocampus"),
    Region("left", "temporal lobe", "hippocampus"),
    Region("right", "parietal lobe", ""),
    Region("", "brainstem", ""),
    Region("", "cerebellum", "vermis"),
)


@pytest.mark.parametrize(
    ("voxels", "ml", "name"),
    [
        ((88, 0, 12, 0, 0, 0, 0), 5.0, "right temporal lobe; hippocampus 12 %"),
        ((91, 0, 9, 0, 0, 0, 0), 5.0, "right temporal lobe"),
        ((0, 60, 0, 10, 0, 30, 0), 5.0, "left temporal lobe; brainstem 30 %; hippocampus 10 %"),
        (
            (50, 0, 0, 0, 40, 10, 0),
            5.0,
            "right temporal lobe; parietal lobe 40 %; brainstem 10 %",
        ),
        (
            (40, 30, 15, 15, 0, 0, 0),
            5.0,
            "right temporal lobe; left temporal lobe 45 %; hippocampus 15 %; left hippocampus 15 %",
        ),
        ((80, 0, 0, 0, 20, 0, 0), 20.0, "about the right temporal lobe; parietal lobe 20 %"),
        ((0, 0, 0, 0, 0, 7, 0), 0.1, "brainstem"),
        ((0, 0, 0, 0, 0, 0, 1), 0.1, "cerebellum; vermis 100 %"),
        ((0,) * 7, 1.0, "unknown"),
    ],
)
def test_name(voxels, ml, name):
    assert name_regions(voxels, REGIONS, ml) == name
