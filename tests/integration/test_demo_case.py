"""The demo case that is shipped: what it promises, and that the script still makes it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_data"


@pytest.fixture(scope="module")
def scan() -> nib.Nifti1Image:
    return nib.load(SAMPLES / "demo_T1w.nii.gz")


@pytest.fixture(scope="module")
def mask() -> nib.Nifti1Image:
    return nib.load(SAMPLES / "demo_lesion.nii.gz")


def test_scan_and_mask_share_one_grid(scan, mask):
    assert scan.shape == mask.shape
    np.testing.assert_array_equal(scan.affine, mask.affine)
    np.testing.assert_allclose(scan.header.get_zooms(), 1.0)
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    # qform and sform agree, so that every reader places the brain alike
    np.testing.assert_allclose(scan.get_qform(), scan.get_sform(), atol=1e-4)


def test_files_are_small_integers_and_say_what_they_are(scan, mask):
    for image in (scan, mask):
        assert image.get_data_dtype() == np.uint8
        assert b"SIMULATED" in image.header["descrip"].item()
    assert sum(path.stat().st_size for path in SAMPLES.glob("demo_*.nii.gz")) < 2.5e6
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert "SIMULATED" in readme
    assert "McConnell Brain Imaging Centre" in readme


def test_lesion_is_one_piece_of_a_tumours_size_on_the_left_inside_the_brain(scan, mask):
    lesion = np.asarray(mask.dataobj) > 0
    brain = np.asarray(scan.dataobj) > 0
    assert set(np.unique(mask.dataobj)) == {0, 1}
    assert ndimage.label(lesion)[1] == 1
    assert 25 < lesion.sum() / 1000 < 45  # mL
    assert not (lesion & ~brain).any()
    world = nib.affines.apply_affine(mask.affine, np.argwhere(lesion))
    assert world[:, 0].max() < 0


def test_lesion_is_darker_than_its_mirror_image_and_than_white_matter(scan, mask):
    voxels = np.asarray(scan.dataobj).astype(float)
    lesion = np.asarray(mask.dataobj) > 0
    index = np.argwhere(lesion)
    world = nib.affines.apply_affine(scan.affine, index)
    mirrored = world * (-1, 1, 1)
    other = nib.affines.apply_affine(np.linalg.inv(scan.affine), mirrored)
    opposite = ndimage.map_coordinates(voxels, other.T, order=1)
    assert voxels[lesion].mean() < 0.85 * opposite.mean()
    # the core is darker than the rim, and neither is as dark as nothing
    core = ndimage.binary_erosion(lesion, iterations=6)
    rim = lesion & ~ndimage.binary_erosion(lesion, iterations=3)
    assert voxels[core].mean() < 0.85 * voxels[rim].mean()
    assert voxels[lesion].min() > 25


def test_lesion_edge_is_soft(scan, mask):
    """No border that a reader could see as painted: neighbors differ as cortex does, or less."""
    voxels = np.asarray(scan.dataobj).astype(float)
    lesion = np.asarray(mask.dataobj) > 0
    near = ndimage.binary_dilation(lesion, iterations=2) & ~ndimage.binary_erosion(
        lesion, iterations=2
    )
    slope = ndimage.gaussian_gradient_magnitude(voxels, 0.5)
    brain = ndimage.binary_erosion(voxels > 0, iterations=3) & ~lesion
    assert np.percentile(slope[near], 95) < np.percentile(slope[brain], 95)


def script() -> ModuleType:
    path = ROOT / "tools" / "make_demo_case.py"
    if not path.is_file():
        pytest.skip("tools/make_demo_case.py is not part of this installation")
    specification = importlib.util.spec_from_file_location("make_demo_case", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_script_makes_the_shipped_files_again(scan, mask):
    module = script()
    if not module.SOURCE.is_file():
        pytest.skip("Debian's mricron-data (Colin27) is not installed")
    made_scan, made_mask = module.make_demo_case()
    np.testing.assert_array_equal(made_scan.affine, scan.affine)
    # another processor may round the last bit of a float differently, hence one gray level
    difference = np.asarray(made_scan.dataobj).astype(int) - np.asarray(scan.dataobj)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3
    assert (np.asarray(made_mask.dataobj) != np.asarray(mask.dataobj)).sum() < 20


def test_mass_effect_that_would_fold_the_tissue_is_refused(monkeypatch):
    module = script()
    monkeypatch.setattr(module, "PUSH", 1.5)
    brain = np.full((48, 48, 48), 100.0)
    offset = np.indices(brain.shape) - 24.0
    with pytest.raises(ValueError, match="folds"):
        module.push_tissue(brain, offset, np.sqrt((offset**2).sum(0)) / 10)


def test_another_source_is_refused(tmp_path):
    other = tmp_path / "ch2bet.nii.gz"
    other.write_bytes(b"another brain")
    with pytest.raises(ValueError, match=r"ch2bet\.nii\.gz is not the Colin27"):
        script().make_demo_case(other)
