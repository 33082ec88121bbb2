"""Words, hashes and boxes that many outputs share."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import make_affine, make_data

from napari_addm.errors import AddmError, InputError
from napari_addm.io.arrays import bounding_box, voxel_spacing
from napari_addm.io.demo import DEMO_SCAN
from napari_addm.io.files import check_is_file, take_names, write_atomic
from napari_addm.io.hashing import file_sha256, files_sha256, json_sha256, scan_sha256
from napari_addm.io.text import csv_cell, format_duration, format_size, printable


@given(st.text())
def test_no_terminal_obeys_what_is_printed(text: str) -> None:
    """Escapes, line breaks, marks of direction and invisible letters show as such."""
    shown = printable(text)
    assert shown.isprintable()
    assert not text.isprintable() or shown == text
    assert len(printable(text, 10)) <= 102


def test_invisible_letters_show() -> None:
    assert printable("a\x1b[31m\n\t\x9b\u202e\u200b\udcfcé") == (
        r"a\x1b[31m\n\t\x9b\u202e\u200b\udcfcé"
    )
    assert printable("abcdef", 3) == "abc.."


def test_files_take_their_names_all_or_none(tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    for name in ("a", "b", "c"):
        (aside / name).write_text(f"new {name}")
    for name in ("a", "old"):
        (tmp_path / name).write_text("before")
    (tmp_path / "c").mkdir()  # a folder cannot be replaced by a file
    (tmp_path / "c" / "inner").write_text("")
    renames = {tmp_path / name: aside / name for name in ("a", "b", "c")}
    with pytest.raises(OSError, match="c"):
        take_names(renames, [tmp_path / "old"])
    assert (tmp_path / "a").read_text() == (tmp_path / "old").read_text() == "before"
    assert not (tmp_path / "b").exists()
    for name in ("a", "b"):
        (aside / name).write_text(f"new {name}")
    take_names({tmp_path / name: aside / name for name in ("a", "b")}, [tmp_path / "old"])
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new a", "new b"]
    assert not (tmp_path / "old").exists()


@pytest.mark.parametrize(
    ("seconds", "words", "with_tenths"),
    [
        (0.04, "0 s", "0.0 s"),
        (9.94, "10 s", "9.9 s"),
        (9.96, "10 s", "10 s"),
        (89, "89 s", "89 s"),
        (90, "2 min", "2 min"),
        (3599, "1 h 00 min", "1 h 00 min"),
        (7500, "2 h 05 min", "2 h 05 min"),
    ],
)
def test_duration(seconds: float, words: str, with_tenths: str) -> None:
    assert format_duration(seconds) == words
    assert format_duration(seconds, tenths=True) == with_tenths


def test_size() -> None:
    assert [format_size(10.0**n) for n in (0, 4, 16)] == ["1 bytes", "10 kB", "1e+04 TB"]


def test_no_cell_is_a_formula() -> None:
    harmful = ["=1+1", " @cmd", "  -1", "＋1", "+1"]
    assert [csv_cell(text) for text in harmful] == [f"'{text}" for text in harmful]
    harmless = ["a=b", -1, 0.5, "", "1-2"]
    assert [csv_cell(value) for value in harmless] == harmless
    unseen = ["\t=1", "\r\n+1", "\u200b=1", "\x1b[2J", "a\u202eb"]
    shown = [r"\t=1", r"\r\n+1", r"\u200b=1", r"\x1b[2J", r"a\u202eb"]
    assert [csv_cell(text) for text in unseen] == shown
    assert csv_cell(None) == ""


def test_hashes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_atomic(one, "äb")
    write_atomic(other, b"c")
    assert file_sha256(one) == scan_sha256(one) == sha256("äb".encode()).hexdigest()
    assert files_sha256([one, other]) == files_sha256([other, one]) != file_sha256(one)
    assert json_sha256({"a": 1, "b": Path("c")}) == json_sha256({"b": "c", "a": 1})
    assert json_sha256([1]) == sha256(json.dumps([1]).encode()).hexdigest()
    with pytest.raises(AddmError, match="none cannot be read"):
        file_sha256(tmp_path / "none")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a device file")
def test_a_device_is_no_scan() -> None:
    with pytest.raises(InputError, match="a pipe, a device"):
        check_is_file(Path("/dev/null"))


def test_the_hash_of_a_pair_covers_both_halves(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(make_data(), make_affine("LAS")), tmp_path / "a.hdr")
    before = scan_sha256(tmp_path / "a.hdr")
    content = [(tmp_path / f"a.{half}").read_bytes() for half in ("hdr", "img")]
    assert before == sha256(b"".join(content)).hexdigest()
    (tmp_path / "a.img").write_bytes(content[1][:-1])
    assert scan_sha256(tmp_path / "a.hdr") != before


def test_boxes_and_spacing() -> None:
    mask = np.zeros((5, 6, 7), bool)
    assert mask[bounding_box(mask)].size == 0
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))
    assert voxel_spacing(np.diag([3.0, -2.0, 1.0, 1.0])) == (3.0, 2.0, 1.0)
    assert DEMO_SCAN.is_file()
