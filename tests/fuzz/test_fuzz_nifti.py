"""Damaged NIfTI files: of both versions, pairs, compressed, and with hostile header fields."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fuzz.damaged_scans import check_read
from fuzz.mutate import change_bytes, tries
from scans import make_affine, make_data

NUMBERS = (0, 1, -1, 2, 3, 5, 8, 100, 255, 348, 352, 540, 32767, -32768, 0.5, 1e-30, 1e30)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
def test_damaged_bytes_are_refused_in_words_or_harmless(kind: type, tmp_path: Path) -> None:
    path = tmp_path / ("scan.hdr" if kind is nib.Nifti1Pair else "scan.nii")
    nib.save(kind(make_data((7, 9, 11)), make_affine("LAS")), path)
    whole = path.read_bytes()
    for seed in tries():
        random = np.random.default_rng(seed)
        changed = change_bytes(random, whole, last=(552, len(whole))[seed % 2])
        path.write_bytes(gzip.compress(changed, 1) if seed % 3 == 0 else changed)
        check_read(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_odd_fields_are_refused_in_words_or_harmless(kind: type, tmp_path: Path) -> None:
    image = kind(make_data((7, 9, 11)), make_affine("LAS"))
    image.set_qform(image.affine, code=1)
    image.to_filename(tmp_path / "scan.nii")
    whole, size = (tmp_path / "scan.nii").read_bytes(), image.header.template_dtype.itemsize
    for seed in tries():
        random = np.random.default_rng(seed)
        header = type(image.header)(whole[:size], check=False)
        for _ in range(random.integers(1, 4)):
            name = str(random.choice(list(header)))
            values = header.structarr[name].reshape(-1) if header[name].ndim else None
            dtype = header[name].dtype
            if dtype.kind == "S":
                header[name] = random.bytes(4)
                continue
            odd = (*NUMBERS, np.nan, np.inf) if dtype.kind == "f" else NUMBERS
            with np.errstate(all="ignore"):
                number = np.array(odd[random.integers(len(odd))]).astype(dtype)
            if values is None:
                header[name] = number
            else:
                values[random.integers(len(values))] = number
        (tmp_path / "scan.nii").write_bytes(header.binaryblock + whole[size:])
        check_read(tmp_path / "scan.nii")


def test_damaged_gzip_is_refused_in_words_or_harmless(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(make_data((7, 9, 11)), make_affine("LAS")), tmp_path / "scan.nii")
    whole = gzip.compress((tmp_path / "scan.nii").read_bytes())
    path = tmp_path / "scan.nii.gz"
    for seed in tries():
        path.write_bytes(change_bytes(np.random.default_rng(seed), whole))
        check_read(path)
