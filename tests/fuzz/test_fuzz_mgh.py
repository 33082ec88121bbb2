"""Damaged MGH files: refused in words, or read as a volume that survives a round trip."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from fuzz.mutate import change_bytes, or_words, tries
from nibabel.freesurfer.mghformat import MGHImage
from numpy.testing import assert_array_equal
from scans import make_affine, make_data

from napari_addm.io.reading import read_grid, read_labels, read_volume
from napari_addm.io.writing import write_volume


def test_a_damaged_mgh_is_refused_in_words_or_harmless(tmp_path: Path) -> None:
    path, out = tmp_path / "scan.mgh", tmp_path / "out.mgz"
    nib.save(MGHImage(make_data((7, 9, 11)), make_affine("LAS")), path)
    whole = path.read_bytes()
    for seed in tries():
        random = np.random.default_rng(seed)
        path.write_bytes(change_bytes(random, whole, last=random.choice((90, 284, len(whole)))))
        or_words(lambda: read_labels(path))
        or_words(lambda: read_grid(path))
        volume = or_words(lambda: read_volume(path))
        if volume is not None:
            again = read_volume(write_volume(out, volume, overwrite=True))
            assert_array_equal(again.data, volume.data)
            assert again.same_grid(volume)
