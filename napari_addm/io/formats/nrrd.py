"""NRRD, the format of 3D Slicer: pynrrd parses the header, bounded readers bring the voxels."""

from __future__ import annotations

import bz2
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.arrays import voxel_spacing
from napari_addm.io.checks import check_extent
from napari_addm.io.format import Format, ScanFile, ScanHeader, check_claim, load_frame
from napari_addm.io.gunzip import Gunzip
from napari_addm.io.remarks import caution, note
from napari_addm.io.text import format_shape
from napari_addm.io.volume import UNKNOWN_DIRECTIONS

# The spaces that are anatomical, as signs of the RAS+ axes; each may be followed by time. ITK and
# 3D Slicer take every other one for LPS, and so do we, so that all see the scan at one place.
SPACES = {
    name: signs
    for names, signs in (
        (("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
        (("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
        (("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
    )
    for name in (*names, f"{names[0]}-time", f"{names[1]}t")
}
LPS = SPACES["lps"]
UNITS_MM = {  # in the singular, as in America
    "m": 1e3,
    "meter": 1e3,
    "cm": 10.0,
    "centimeter": 10.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "um": 1e-3,
    "µm": 1e-3,
    "μm": 1e-3,
    "micron": 1e-3,
    "micrometer": 1e-3,
    "nm": 1e-6,
    "nanometer": 1e-6,
}
TYPES = {
    name: kind
    for kind, names in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "i8": (
            *("longlong", "long long", "long long int", "signed long long"),
            *("signed long long int", "int64", "int64_t"),
        ),
        "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
        "f4": ("float",),
        "f8": ("double",),
        "V": ("block",),
    }.items()
    for name in names
}
ENCODINGS = {
    "raw": "raw",
    **dict.fromkeys(("gz", "gzip"), "gzip"),
    **dict.fromkeys(("bz2", "bzip2"), "bzip2"),
    **dict.fromkeys(("txt", "text", "ascii"), "text"),
}
# The fields that are read, without spaces; others may hold anything.
FIELDS = {
    *("dimension", "type", "encoding", "endian", "sizes", "kinds", "spacings", "units", "axismins"),
    *("space", "spacedimension", "spacedirections", "spaceorigin", "spaceunits"),
    *("centers", "centerings", "datafile", "lineskip", "byteskip"),
}
SPATIAL_KINDS = ("domain", "space", "???", "none")
HEADER_BYTES = 2**20
MOST_LINES_SKIPPED = 100
# bzip2 compresses zeros a million times, so a claim of so much is refused by its size alone.
LARGEST_BZIP2_CLAIM = 2**30
# A number as text, with the spaces around it.
LONGEST_NUMBER = 40


def recognizes(head: bytes) -> bool:
    """Return whether a file begins with the name of the format."""
    return head.startswith(b"NRRD")


@dataclass(frozen=True)
class _Data:
    """Where a file's voxels lie: behind the header, some lines, and some bytes of their own."""

    start: int
    lines: int
    skipped: int
    encoding: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of voxels."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The bytes of the voxels in memory."""
        return self.count * self.dtype.itemsize


def read_header(file: ScanFile) -> ScanHeader:
    """Read the header with pynrrd; see `napari_addm.io.format.Format`."""
    path = file.path
    if file.compressed:
        raise InputError(f"{path} is an NRRD file inside gzip: decompress it first.")
    fields, start = _read_fields(path)
    # A detached header could name any file of this machine as its data.
    if "datafile" in fields or path.suffix.lower() == ".nhdr":
        raise InputError(f"{path} keeps its voxels in another file: save it as one .nrrd file.")
    try:
        sizes = [int(n) for n in fields["sizes"]]
        if min(sizes) < 1 or fields["dimension"] != len(sizes):
            raise ValueError("impossible sizes")
        axes = _spatial_axes(fields, sizes)
        shape = tuple(sizes[n] for n in axes)
        encoding = ENCODINGS.get(fields["encoding"].lower(), fields["encoding"])
        lines, skipped = int(fields.get("lineskip", 0)), int(fields.get("byteskip", 0))
        data = _Data(start, lines, skipped, encoding, _dtype(fields), shape)
        affine, unit, notes = _affine(fields, axes)
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        raise InputError(f"{path} has a damaged header: export it again.") from error
    if math.prod(shape) != math.prod(sizes) or len(shape) > 3:
        raise InputError(
            f"{path} has {len(sizes)} dimensions ({format_shape(sizes)}): export one 3D scan."
        )
    _check_data(path, data)
    if unit:
        check_extent(path, float(np.max(np.multiply(voxel_spacing(affine), shape))), unit)
    return ScanHeader(shape, data.dtype, affine, lambda _: _load(file, data), warnings=notes)


def _check_data(path: Path, data: _Data) -> None:
    if data.encoding not in ENCODINGS.values():
        raise InputError(f"{path} has an encoding that is not read: save it with gzip.")
    from_end = data.skipped == -1 and data.encoding == "raw"
    if not 0 <= data.lines <= MOST_LINES_SKIPPED or (data.skipped < 0 and not from_end):
        raise InputError(
            f"{path} skips {data.lines} lines and {data.skipped} bytes before its voxels: save it "
            "without them."
        )
    total = data.size + max(data.skipped, 0)
    if data.encoding == "text":
        check_claim(path, data.shape, data.start + 2 * data.count - 1, False)
    elif data.encoding == "raw":
        check_claim(path, data.shape, data.start + total, False)
    elif data.encoding == "gzip" or total > LARGEST_BZIP2_CLAIM:
        check_claim(path, data.shape, total, True)


def _read_fields(path: Path) -> tuple[dict[str, Any], int]:
    """The fields that matter, their names without spaces, and where the data begin."""
    import nrrd

    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", head)
    if end is None and len(head) == HEADER_BYTES:
        raise InputError(f"{path} has a header of more than 1 MB: export it without comments.")
    lines = head[: end.start() if end else len(head)].decode("utf-8", "replace").splitlines()
    known = [lines[0]]
    for line in lines[1:]:
        field, colon, value = line.partition(":")
        name = field.strip().lower()
        if colon and not value.startswith("=") and name.replace(" ", "") in FIELDS:
            value = re.sub(r"\s*,\s*|(?<=\()\s+|\s+(?=\))", lambda m: m[0].strip(), value)
            known.append(f"{name}:{value}")
    try:
        fields = nrrd.read_header(known)
    except Exception as error:  # whatever its parsing of hostile text raises
        raise InputError(f"{path} has a damaged header: export it again.") from error
    return {name.replace(" ", ""): each for name, each in fields.items()}, (
        end.end() if end else len(head)
    )


def _dtype(fields: dict[str, Any]) -> np.dtype:
    dtype = np.dtype(TYPES[fields["type"].lower()])
    if dtype.itemsize == 1 or ENCODINGS.get(fields["encoding"].lower()) == "text":
        return dtype
    return np.dtype({"little": "<", "big": ">"}[fields["endian"].lower()] + dtype.str[1:])


def _spatial_axes(fields: dict[str, Any], sizes: Sequence[int]) -> list[int]:
    """The axes that lie in space, less empty ones at the end where they are too many."""
    axes = list(range(len(sizes)))
    if "spacedirections" in fields:
        directions = _directions(fields, len(sizes))
        axes = [n for n in axes if np.any(directions[n] != 0) and not np.isnan(directions[n]).all()]
    elif len(sizes) > 3 and "kinds" in fields:
        axes = [n for n in axes if fields["kinds"][n].lower() in SPATIAL_KINDS]
    while len(axes) > 3 and sizes[axes[-1]] == 1:
        axes.pop()
    return axes


def _directions(fields: dict[str, Any], count: int) -> np.ndarray:
    """The x, y and z of each axis, shape (axes, 3)."""
    directions = np.asarray(fields["spacedirections"], dtype=np.float64)
    if directions.shape[0] != count:
        raise ValueError("space directions of another number of axes")
    return directions[:, :3]


def _affine(fields: dict[str, Any], axes: Sequence[int]) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Index to world RAS+ mm, the unit where it is not mm, and warnings."""
    if len(axes) != 3:  # refused for its shape
        return np.eye(4), "", ()
    notes = []
    count = len(fields["sizes"])
    signs = SPACES.get(fields.get("space", "").lower())
    if "spacedirections" in fields:
        scale, unit = _scale(fields.get("spaceunits", [])[:3])
        linear = scale[:, None] * _directions(fields, count)[axes].T
        origin = scale * np.asarray(fields.get("spaceorigin", np.zeros(3)), dtype=np.float64)[:3]
    else:
        signs = None
        scale, unit = _scale([fields["units"][n] for n in axes] if "units" in fields else [])
        spacings = np.asarray(fields.get("spacings", np.full(count, np.nan)))[axes]
        if np.isnan(spacings).any():
            notes.append(caution("The header has no valid voxel size; 1 mm was assumed."))
            spacings = np.where(np.isnan(spacings), 1.0, spacings)
        linear = np.diag(scale * spacings)
        # The least place is that of the first voxel's edge, unless the voxels are nodes.
        is_node = "node" in str(fields.get("centerings", fields.get("centers", ""))).lower()
        first = np.asarray(fields.get("axismins", np.full(count, np.nan)))[axes]
        origin = scale * np.nan_to_num(first + (0.0 if is_node else spacings / 2))
    if unit:
        notes.append(note(f"The header gives lengths in {unit}, which were changed to mm."))
    if signs is None:
        notes.append(UNKNOWN_DIRECTIONS)
    affine = np.diag([*(signs or LPS), 1.0]) @ nib.affines.from_matvec(linear, origin)
    return affine, unit, tuple(notes)


def _scale(units: Sequence[str]) -> tuple[np.ndarray, str]:
    """Millimeters per unit of three axes, and the unit where it is not mm; unknown ones are mm."""
    names = [unit.lower().replace("metre", "meter").removesuffix("s") for unit in units]
    factors = [UNITS_MM.get(name, 1.0) for name in names]
    named = [unit for unit, factor in zip(units, factors, strict=True) if factor != 1.0]
    return np.asarray(factors if len(factors) == 3 else np.ones(3)), named[0] if named else ""


def _load(file: ScanFile, data: _Data) -> np.ndarray:
    raw: Any = file.stream  # a plain file
    raw.seek(data.start)
    for _ in range(data.lines):
        raw.readline(HEADER_BYTES)
    if data.encoding == "text":
        return _load_text(file.path, raw, data)
    stream, offset = raw, max(data.skipped, 0)
    if data.encoding == "gzip":
        stream = BufferedReader(Gunzip(raw))
    elif data.encoding == "bzip2":
        stream = bz2.BZ2File(raw)
    else:
        offset += raw.tell()
        if data.skipped == -1:
            offset = file.path.stat().st_size - data.size
        raw.seek(0)
    packed = ScanFile(file.path, stream, b"", data.encoding != "raw", file.notes)
    return load_frame(packed, offset, data.shape, data.dtype, offset + data.size, 0)


def _load_text(path: Path, file: BinaryIO, data: _Data) -> np.ndarray:
    file.seek(data.skipped, 1)
    text = file.read(data.count * LONGEST_NUMBER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of what is no number
        try:
            numbers = np.fromstring(text, data.dtype, sep=" ")
        except (ValueError, DeprecationWarning):
            numbers = np.empty(0)
    if numbers.size != data.count or file.read(1):
        raise InputError(
            f"{path} does not hold {data.count} numbers as text, as its header says: export it "
            "again."
        )
    return numbers.reshape(data.shape, order="F")


FORMAT = Format(
    title="NRRD", suffixes=(".nrrd",), recognizes=recognizes, read_header=read_header, extra="nrrd"
)
