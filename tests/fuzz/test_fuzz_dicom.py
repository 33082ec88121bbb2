"""Damaged DICOM series: refused in words, or every voxel where its image says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_series import assert_placed, compress, pydicom, to_multi_frame, write_series
from fuzz.mutate import TEXTS, change_bytes, or_words, tries
from pydicom.dataelem import RawDataElement

from napari_addm.io.dicom import series_at
from napari_addm.io.dicom_volume import read_series

SHAPE = (5, 16, 24)
# RLE, JPEG lossless with the usual predictor and without, JPEG-LS, JPEG 2000.
COMPRESSED = [f"1.2.840.10008.1.2.{n}" for n in ("5", "4.70", "4.57", "4.80", "4.90")]


def change_tag(random: np.random.Generator, image: Any) -> None:
    """Put bytes that may be of the wrong form into a tag, at the top or in a sequence."""
    places = [image]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in image.get(name, ()):
            places += [item, *(each for element in item for each in element.value)]
    places = [each for each in places if len(each)] or [image]
    place = places[random.integers(len(places))]
    tag = list(place.keys())[random.integers(len(place))]
    old = place[tag]
    if tag == 0x7FE00010 or old.VR == "SQ" or random.random() < 0.2:
        del place[tag]
        return
    value = str(random.choice(np.array(TEXTS, object))).encode("utf-8", "surrogatepass")
    if isinstance(old.value, str | int | float) and random.random() < 0.5:
        value = change_bytes(random, str(old.value).encode())
    value += b" " * (len(value) % 2)
    place._dict[tag] = RawDataElement(tag, old.VR, len(value), value, 0, False, True)


@pytest.mark.parametrize("kind", ["classic", "frames", "compressed"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_series_is_refused_in_words_or_placed(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / "whole"
    write_series(whole, "oblique", SHAPE, RescaleSlope=2, RescaleIntercept=-3)
    if kind == "frames":
        to_multi_frame(whole, [3, 0, 4, 1, 2])
    if kind == "compressed":
        for path, syntax in zip(sorted(whole.iterdir()), COMPRESSED, strict=True):
            compress(path, syntax)
    for seed in tries(25):
        random = np.random.default_rng(seed)
        folder = tmp_path / f"{seed}"
        shutil.copytree(whole, folder)
        files = sorted(folder.iterdir())
        path = files[random.integers(len(files))]
        if random.random() < 0.4:
            path.write_bytes(change_bytes(random, path.read_bytes()))
        else:
            for each in files if random.random() < 0.4 else [path]:
                image, same = pydicom.dcmread(each), np.random.default_rng(seed)
                for _ in range(same.integers(1, 3)):
                    change_tag(same, image)
                image.save_as(each)
        series = or_words(lambda folder=folder: series_at(folder))
        volume = series and or_words(lambda series=series: read_series(series))
        if volume:
            assert_placed(volume, series.files)
        shutil.rmtree(folder)
