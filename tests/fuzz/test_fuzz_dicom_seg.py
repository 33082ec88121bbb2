"""Series with damaged tags: a segmentation at its place, or a refusal before the run."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dicom_series import (
    LPS,
    pydicom,
    segmented_labels,
    write_multi_frame,
    write_series,
)
from fuzz.mutate import TEXTS, Random, change_bytes, or_words, tries

from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.dicom_seg import check_seg, write_seg

CHARACTERS = ["", ["", "ISO 2022 IR 149"], ["", "ISO 2022 IR 87"], "ISO_IR 192", "nonsense"]


def damage_tags(random: Random, files: list[Path]) -> None:
    """Remove or falsify one to three tags, of all images or of one."""
    images = [pydicom.dcmread(file) for file in files]
    tags = [element.tag for element in images[0] if element.keyword != "PixelData"]
    for tag in random.choice(tags, random.integers(1, 4)).tolist():
        text, act = TEXTS[random.integers(len(TEXTS))], random.integers(4)
        some = images if random.random() < 0.5 else [images[random.integers(len(images))]]
        for image in some:
            vr = image[tag].VR if tag in image else "LO"
            if act == 0:
                image.pop(tag, None)
            elif act == 1:  # what is no text, in place of whatever it was
                image[tag] = pydicom.DataElement(tag, "UN", random.bytes(random.integers(40)))
            elif vr not in ("SQ", "US"):
                vr = vr if act == 2 else "LO"
                image[tag] = pydicom.DataElement(tag, vr, text, validation_mode=0)
    if random.random() < 0.3:
        characters = CHARACTERS[random.integers(len(CHARACTERS))]
        for image in images:
            image.SpecificCharacterSet = characters
    for file, image in zip(files, images, strict=True):
        image.save_as(file)


def _passes(scan: Volume) -> bool:
    check_seg(scan)
    return True


@pytest.mark.parametrize("frames", ["one each", "multi-frame"])
def test_a_segmentation_lies_at_its_place_or_is_refused(tmp_path: Path, frames: str) -> None:
    data, affine = write_series(tmp_path / "whole", "oblique", (5, 7, 6))
    if frames == "multi-frame":
        files = sorted((tmp_path / "whole").iterdir())
        write_multi_frame(tmp_path / "whole" / "IM0", files)
        for file in files:
            file.unlink()
    planted = np.random.default_rng(0).integers(0, 3, data.shape)
    written = 0
    for seed in tries(40):
        random = np.random.default_rng(seed)
        shutil.rmtree(tmp_path / "in", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "in")
        files = sorted((tmp_path / "in").iterdir())
        volume = volume_from_native(data, LPS @ affine)
        volume = replace(volume, source=replace(volume.source, series=tuple(files)))
        labels = volume.with_data(volume_from_native(planted, LPS @ affine).data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of the damage
            if random.random() < 0.3:
                file = files[random.integers(len(files))]
                content = file.read_bytes()
                file.write_bytes(change_bytes(random, content, 132, len(content) - data[0].size))
            else:
                try:
                    damage_tags(random, files)
                except Exception:  # pydicom cannot write that
                    continue
            if or_words(partial(_passes, volume)):
                path = write_seg(tmp_path / f"{seed}.dcm", labels, files)
                assert path is not None
                np.testing.assert_array_equal(segmented_labels(path, labels), labels.data)
                path.unlink()
                written += 1
    assert written
