"""Damaged NRRD files in every encoding."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from fuzz.damaged_scans import check_read
from fuzz.mutate import change_bytes, change_lines, tries
from scans import make_data

pytest.importorskip("nrrd", reason="the extra nrrd is not installed")

VOXELS = make_data((7, 9, 11), np.int16)
RAW = VOXELS.tobytes("F")
CONTENT = {
    "raw": RAW,
    "gzip": gzip.compress(RAW),
    "bzip2": bz2.compress(RAW),
    "text": " ".join(map(str, VOXELS.ravel("F"))).encode(),
}
HEADER = """NRRD0005
# made by hand
type: short
dimension: 3
space: left-posterior-superior
sizes: 7 9 11
space directions: (0.5,0,0) (0,0.5,0) (0,0,2)
kinds: domain domain domain
endian: little
encoding: {}
space origin: (-3,4,5)
space units: "mm" "mm" "mm"
line skip: 0
byte skip: 0
name:=value"""


@pytest.mark.parametrize("encoding", CONTENT)
def test_a_damaged_nrrd_is_refused_in_words_or_harmless(encoding: str, tmp_path: Path) -> None:
    path, header = tmp_path / "scan.nrrd", HEADER.format(encoding)
    for seed in tries():
        random = np.random.default_rng(seed)
        if seed % 2:
            text = change_lines(random, header)
            content = text.encode() + b"\n\n" + CONTENT[encoding]
        else:
            content = change_bytes(random, header.encode() + b"\n\n" + CONTENT[encoding])
        path.write_bytes(content)
        check_read(path)
