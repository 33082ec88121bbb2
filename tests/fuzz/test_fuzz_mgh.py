"""Damaged MGH files."""

from pathlib import Path

import nibabel as nib
import numpy as np
from fuzz.damaged_scans import check_read
from fuzz.mutate import change_bytes, tries
from nibabel.freesurfer.mghformat import MGHImage
from scans import make_affine, make_data


def test_a_damaged_mgh_is_refused_in_words_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "scan.mgh"
    nib.save(MGHImage(make_data((7, 9, 11)), make_affine("LAS")), path)
    whole = path.read_bytes()
    for seed in tries():
        random = np.random.default_rng(seed)
        last = (90, 284, len(whole))[seed % 3]
        path.write_bytes(change_bytes(random, whole, last=last))
        check_read(path)
