"""Scans, labels and maps of probabilities are told from each other by voxels and name."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from napari_addm.io.kinds import looks_like_labels, why_no_scan
from napari_addm.io.reading import read_volume

SHAPE = (24, 40, 36)


def scan(highest: float, whole: bool = True) -> np.ndarray:
    """Soft structure with noise in a ball, like a skull-stripped brain."""
    random = np.random.default_rng(0)
    soft = ndimage.gaussian_filter(random.normal(size=SHAPE), 3)
    soft = (soft - soft.min()) / np.ptp(soft)
    voxels = highest * np.clip(0.2 + 0.7 * soft + random.normal(0, 0.02, SHAPE), 0, 1)
    voxels[np.linalg.norm(np.indices(SHAPE).T - np.array(SHAPE) / 2, axis=-1).T > 18] = 0
    return np.rint(voxels).astype(np.int16) if whole else voxels


def regions(count: int) -> np.ndarray:
    """So many labels, each the neighborhood of one point."""
    points = np.zeros(SHAPE, bool)
    points.flat[np.random.default_rng(1).choice(points.size, count, replace=False)] = True
    nearest = ndimage.distance_transform_edt(~points, return_indices=True, return_distances=False)
    return 7 * (1 + np.ravel_multi_index(nearest, SHAPE)) % 32003


LESION = np.zeros(SHAPE, np.uint8)
LESION[8:12, 10:14, 10:13] = 1
PROBABILITY = ndimage.gaussian_filter((scan(1, False) > 0.5).astype(float), 0.6)
FOUND = {
    "a filled lesion": (scan(200), "T1_lesion_filled", ""),
    "cropped by FSL": (scan(200), "T1_ROI", ""),
    "FreeSurfer's stripped scan": (scan(110), "brainmask", ""),
    "a reconstruction": (scan(800), "sub-01_recon", ""),
    "a scan of fractions": (scan(1, False), "scan_mask", ""),
    "a phantom": (regions(6), "phantom_T1w", ""),
    "a mask": (LESION, "sub-01", "labels"),
    "a mask of floats": (LESION * 0.9999, "sub-01_T1w_synthseg", "labels"),
    "an empty mask": (0 * LESION, "sub-01_mask", "labels"),
    "nothing": (0 * LESION, "sub-01", ""),
    "few structures": (regions(40), "aseg", "labels"),
    "many structures": (regions(180), "wmparc", "labels"),
    "two hemispheres": (regions(2), "ribbon", "labels"),
    "SPM": (PROBABILITY, "c1T1", "probabilities"),
    "FAST": (PROBABILITY.astype(np.float32), "T1_pve_1", "probabilities"),
}


@pytest.mark.parametrize("what", FOUND)
def test_voxels_and_name_say_what_a_file_holds(what: str) -> None:
    voxels, name, expected = FOUND[what]
    path = Path(f"{name}.nii.gz")
    assert why_no_scan(voxels, path) == expected
    assert looks_like_labels(voxels, path) == (expected == "labels")


def test_real_scans_and_segmentations_are_told_apart_whatever_their_name(shared_data: Path) -> None:
    folder = shared_data / "healthy_ixi"
    scans, segmentations = sorted(folder.glob("*_T1w*"))[:4], sorted(folder.glob("*_dlmuse*"))[:4]
    scans += sorted((shared_data / "wholehead").glob("*.nii.gz"))[:2]
    for path, expected in (*((p, "") for p in scans), *((p, "labels") for p in segmentations)):
        assert why_no_scan(read_volume(path).data, Path("x.nii.gz")) == expected, path
