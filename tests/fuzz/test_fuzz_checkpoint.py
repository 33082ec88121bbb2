"""Damaged checkpoints, split files and trainer states: refused in words, or harmless."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fuzz.mutate import change_bytes, change_tree, or_words, tries
from safetensors.torch import load, save

from napari_addm.checkpoint.file import load_checkpoint, read_specification
from napari_addm.detection.preparation import prepare
from napari_addm.errors import InputError
from napari_addm.io.reading import read_volume
from napari_addm.methods.loading import load_network
from napari_addm.training.data import split_scans
from napari_addm.training.labelled_scans import find_cases, read_split


def with_specification(content: bytes, specification: Any) -> bytes:
    """A checkpoint with another specification."""
    return save(load(content), {"specification": json.dumps(specification)})


def specification_of(path: Path) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])
    return json.loads(header["__metadata__"]["specification"])


def test_a_damaged_checkpoint_is_refused_in_words_or_builds_a_network(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    whole, path = tiny_checkpoint.read_bytes(), tmp_path / "changed.safetensors"
    tree = specification_of(tiny_checkpoint)
    for seed in tries(60):
        random = np.random.default_rng(seed)
        changed = copy.deepcopy(tree)
        if seed % 3 == 0:
            path.write_bytes(change_bytes(random, whole, last=3000))
        else:
            if seed % 3 == 1:
                changed = change_tree(random, tree)
            else:  # the network alone, where most depends on most
                changed["network"] = change_tree(random, tree["network"])
            path.write_bytes(with_specification(whole, changed))
        if or_words(lambda: read_specification(path)) is not None:
            or_words(lambda: load_network(load_checkpoint(path)))


def test_a_network_that_only_its_library_refuses_is_a_sentence(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path, tree = tmp_path / "changed.safetensors", specification_of(tiny_checkpoint)
    for key, values in {"head_channels": range(1, 40), "norm_groups": (1, 2, 4)}.items():
        for value in values:
            changed = copy.deepcopy(tree)
            changed["network"][key] = value
            path.write_bytes(with_specification(tiny_checkpoint.read_bytes(), changed))
            if or_words(lambda: read_specification(path)) is not None:
                or_words(lambda: load_network(load_checkpoint(path)))


def test_a_model_grid_beyond_the_memory_is_refused_before_it_is_made(
    tiny_checkpoint: Path, tmp_path: Path, write_brain: Any
) -> None:
    write_brain(tmp_path / "scan.nii.gz", 1)
    preparation = load_checkpoint(tiny_checkpoint).specification.preparation
    bomb = preparation.replace(spacing_mm=(0.1, 0.1, 0.1), size=(1024, 1024))
    before = psutil.Process().memory_info().rss
    if psutil.virtual_memory().available > 40e9:
        pytest.skip("this machine has the memory")
    with pytest.raises(InputError, match=r"a model grid of .* needs about"):
        prepare(read_volume(tmp_path / "scan.nii.gz"), bomb)
    assert psutil.Process().memory_info().rss - before < 1e9


def test_a_damaged_split_file_is_refused_in_words(tmp_path: Path) -> None:
    split, scans = tmp_path / "split.json", [tmp_path / f"s{n}_T1w.nii.gz" for n in range(3)]
    (tmp_path / "healthy").mkdir()
    case = tmp_path / "tumour" / "c1"
    case.mkdir(parents=True)
    for path in (*scans, case / "t1.nii", case / "mask.nii", tmp_path / "healthy" / "s2_T1w.nii"):
        path.touch()
    tree = {
        "healthy": {"train": ["s0"], "validation": ["s1"], "calibration": ["s2"]},
        "tumour": {"validation": ["c1"], "test": []},
    }
    whole = json.dumps(tree).encode()
    for seed in tries(500):
        random = np.random.default_rng(seed)
        if seed % 2:
            split.write_bytes(change_bytes(random, whole))
        else:
            changed = json.dumps(change_tree(random, tree))
            split.write_bytes(changed.encode(errors="surrogatepass"))
        or_words(lambda: split_scans(scans, split, 0))
        or_words(lambda: find_cases(tmp_path, read_split(split)))
