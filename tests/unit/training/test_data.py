"""Training data: scans, splits, slices and their augmentation."""

import json

import numpy as np
import pytest
import torch
from scans import make_data, save

from napari_addm.errors import InputError
from napari_addm.training.augmentation import augment
from napari_addm.training.data import (
    SliceSampler,
    find_scans,
    split_scans,
    to_model_values,
    unpack,
)


def test_the_darkest_brain_is_no_air():
    packed = torch.tensor([0, 1, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    air, darkest, middle, brightest = to_model_values(*unpack(packed)).flatten().tolist()
    assert air == -1
    assert -1 < darkest < -0.99
    assert (middle, brightest) == (pytest.approx(0), 1)


def test_the_contrast_can_be_left_alone():
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    values = torch.full((1, 1, 16, 16), 0.6)

    def largest_change(vary_contrast):
        drawn = [
            augment(values, mask, torch.Generator().manual_seed(n), vary_contrast=vary_contrast)[0]
            for n in range(30)
        ]
        return max(abs(each[..., 4:-4, 4:-4].mean().item() - 0.6) for each in drawn)

    # a bias field and grain remain
    assert 0 < largest_change(False) < largest_change(True) / 2


def test_augmentation_keeps_the_brain_a_brain():
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(96.0), indexing="ij")
    mask = (((y - 56) / 45) ** 2 + ((x - 48) / 35) ** 2 < 1).expand(12, 1, 112, 96)
    values = torch.where(mask, 0.5 + 0.3 * torch.sin(x / 8), 0.0).float()
    changed, moved = augment(values, mask, generator)
    assert changed.shape == values.shape
    assert moved.dtype == torch.bool
    assert ((changed >= 0) & (changed <= 1)).all()
    area = moved.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    assert ((area > 0.75) & (area < 1.25)).all()
    assert area.std() > 0.01
    inside = [changed[n][moved[n]] for n in range(12)]
    means = torch.stack([v.mean() for v in inside])
    assert (means - 0.5).abs().max() < 0.25
    assert means.std() > 0.01
    again, _ = augment(values, mask, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, changed)


def test_every_volume_gives_its_slices_and_the_draw_depends_on_seed_and_epoch_alone():
    volumes = np.repeat(np.arange(5), 20)
    sampler = SliceSampler(volumes, 3, seed=1)
    sampler.set_epoch(4)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 15
    assert (np.bincount(volumes[drawn]) == 3).all()
    other = SliceSampler(volumes, 3, seed=1)
    other.set_epoch(4)
    assert list(other) == drawn
    other.set_epoch(5)
    assert list(other) != drawn


def test_a_split_file_names_subjects(tmp_path):
    scans = [tmp_path / f"sub-{n}_T1w.nii.gz" for n in ("1", "10", "2", "3")]
    split = tmp_path / "split.json"
    split.write_text(
        json.dumps({"healthy": {"train": ["sub-1", "sub-2"], "validation": ["sub-3"]}})
    )
    train, validation = split_scans(scans, split, 0)
    assert [s.name for s in train] == ["sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz"]
    assert [s.name for s in validation] == ["sub-3_T1w.nii.gz"]
    split.write_text("[]")
    with pytest.raises(InputError, match="not a split file"):
        split_scans(scans, split, 0)


def test_a_folder_without_scans_is_said_in_words(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        find_scans(tmp_path / "none")
    with pytest.raises(InputError, match="holds no"):
        find_scans(tmp_path)


def test_a_scan_is_found_by_its_voxels_whatever_its_name(tmp_path):
    scan = make_data((8, 9, 10))
    save(tmp_path / "T1_lesion_filled.nii.gz", scan)
    save(tmp_path / "T1_lesion.nii.gz", (scan > 99).astype(np.uint8))
    (tmp_path / "T1_2.nii.gz").symlink_to("../.git/annex/objects/a/b/MD5E-s9--c.nii.gz")
    found = [path.name for path in find_scans(tmp_path)]
    assert found == ["T1_2.nii.gz", "T1_lesion_filled.nii.gz"]  # reading says what is not fetched
