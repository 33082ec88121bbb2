"""Damaged and hostile run records: refused in words, or verified; and nothing else is opened."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fuzz.mutate import TEXTS, Random, change_bytes, change_lines, change_tree, or_words, tries

from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case_page import write_case_page
from napari_addm.outputs.record import LARGEST_BYTES, read_record
from napari_addm.outputs.run_case import CaseRequest, finish, run_case
from napari_addm.outputs.verification import verify

AFFINE = nib.affines.from_matvec(np.diag([-8.0, 8.0, 8.0]), (84, -100, -76))
MOST_MEMORY = 50e6  # for a record of 0.3 MB

opened: list[str] = []
watching = False


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if watching and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(_note)  # for good: the system has no way to take one back


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """The paths that are opened while a test runs."""
    global watching
    opened.clear()
    watching = True
    yield opened
    watching = False


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_brain: Callable, tiny_checkpoint: Path
) -> Path:
    """The record of a small run."""
    folder = tmp_path_factory.mktemp("run")
    brain = make_brain(AFFINE, (21, 25, 19))
    scan = write_volume(folder / "scan.nii.gz", brain)
    truth = write_volume(folder / "truth.nii.gz", brain.with_data((brain.data > 150).astype("u1")))
    model = Path(shutil.copy(tiny_checkpoint, folder))
    settings = DetectionSettings(steps=1, slices=(9,), context_mm=0.0, precision="float32")
    request = CaseRequest(scan, folder / "out", model, settings=settings, truth=truth)
    return finish(run_case(request)).paths["record"]


def damage(random: Random, whole: bytes) -> bytes:
    """A record with a few bytes, lines or values changed."""
    match random.integers(4):
        case 0:
            return change_bytes(random, whole)
        case 1:
            return change_lines(random, whole.decode()).encode(errors="surrogatepass")
        case _:
            tree = change_tree(random, json.loads(whole))
            return json.dumps(tree, ensure_ascii=bool(random.integers(2))).encode(
                errors="surrogatepass"
            )


def test_a_damaged_record_is_refused_in_words_or_verified(finished: Path, watched) -> None:
    whole, folder = finished.read_bytes(), finished.parents[1]
    given = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    try:
        for seed in tries():
            finished.write_bytes(damage(np.random.default_rng(seed), whole))
            found = or_words(lambda: verify(finished))
            if found is not None:
                json.dumps(found.summary(), allow_nan=False)
                assert all(line.isprintable() for line in found.lines()), seed
    finally:
        finished.write_bytes(whole)
    assert given == {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    here = folder.parent
    outside = {path for path in watched if here in Path(path).parents} - set(map(str, given))
    assert not outside


def test_a_page_of_a_damaged_record_is_refused_in_words_or_harmless(finished: Path) -> None:
    whole = finished.read_bytes()
    try:
        for seed in tries():
            finished.write_bytes(damage(np.random.default_rng(seed), whole))
            page = or_words(lambda: write_case_page(finished))
            if page is not None:
                text = page.read_text(encoding="utf-8")
                assert "<script" not in text, seed
                assert not re.search(r"""(?:src|href)=["'](?!data:)""", text), seed
                assert text.replace("\n", "").isprintable(), seed
                page.unlink()
    finally:
        finished.write_bytes(whole)


@pytest.mark.parametrize("entry", ["input", "truth", "checkpoint", "brain_mask", "outputs.recon"])
def test_no_record_leads_elsewhere(finished: Path, tmp_path: Path, watched, entry: str) -> None:
    whole, secret = finished.read_text(), tmp_path / "secret.nii.gz"
    shutil.copy(finished.parents[1] / "scan.nii.gz", secret)
    watched.clear()
    up = "../" * len(finished.parents)
    try:
        for name in (str(secret), up + str(secret), f"./{secret}", str(tmp_path), "..", *TEXTS):
            record = node = json.loads(whole)
            for key in entry.split("."):
                node = node[key]
            node["file" if entry == "checkpoint" else "name"] = name
            if entry == "brain_mask":
                node["origin"] = "given"
            finished.write_text(json.dumps(record))
            found = or_words(lambda: verify(finished))
            assert found is None or found.verdict == "different" or "not verified" in found.notes[0]
    finally:
        finished.write_text(whole)
    assert str(secret) not in {str(Path(path).resolve()) for path in watched}


BOMBS = {
    "list": lambda whole, n: whole.replace('"warnings": [', '"warnings": [' + "1," * (n // 2)),
    "findings": lambda whole, n: whole.replace('"findings": [', '"findings": [' + "{}," * (n // 3)),
    "slices": lambda whole, n: whole.replace('"slices": [', '"slices": [' + "[]," * (n // 3)),
    "keys": lambda whole, n: "{" + "".join(f'"{i}":1,' for i in range(n // 10)) + whole[1:],
    "figures": lambda whole, n: whole.replace(
        '"figures": {', '"figures": {' + "".join(f'"{i}":[],' for i in range(n // 10))
    ),
    "more settings": lambda whole, n: whole.replace(
        '"settings": {', '"settings": {' + "".join(f'"{i}":[],' for i in range(n // 10))
    ),
    "unknown": lambda whole, n: whole.replace("{", '{"x": [' + "[]," * (n // 3) + "[]],", 1),
    "deep": lambda whole, n: whole.replace("{", '{"x": ' + "[" * n + "]" * n + ",", 1),
    "long": lambda whole, n: whole.replace('"name": "', '"name": "' + "x" * n, 1),
    "number": lambda whole, n: whole.replace('"frame": null', '"frame": 1' + "0" * n),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_no_record_fills_the_memory(finished: Path, tmp_path: Path, kind: str) -> None:
    path, whole = tmp_path / "bomb_record.json", finished.read_text()
    path.write_text(BOMBS[kind](whole, 300_000))
    tracemalloc.start()
    with pytest.raises(AddmError) as caught:
        verify(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    assert peak < MOST_MEMORY, f"{peak / 1e6:.0f} MB"
    path.write_text(BOMBS[kind](whole, 2 * LARGEST_BYTES))
    with pytest.raises(AddmError, match="too large for a run record"):
        read_record(path)
