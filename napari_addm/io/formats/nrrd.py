"""NRRD, the format of 3D Slicer."""

from __future__ import annotations

import math
import zlib
from typing import Any

import nibabel as nib
import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.format import DEFLATE_LIMIT, Format, ScanFile, ScanHeader
from napari_addm.io.text import format_shape, format_size
from napari_addm.io.volume import UNKNOWN_SIDES

# The spaces of the format that are anatomical, as signs of the RAS+ axes.
SPACES = {
    name: signs
    for names, signs in (
        (("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
        (("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
        (("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
    )
    for name in names
}


def recognizes(head: bytes) -> bool:
    """Return whether a file begins with the name of the format."""
    return head.startswith(b"NRRD")


def read_header(file: ScanFile) -> ScanHeader:
    """Read the header with pynrrd; see `napari_addm.io.format.Format`."""
    import nrrd

    path = file.path
    broken = (nrrd.NRRDError, OSError, EOFError, KeyError, ValueError, zlib.error)
    damaged = InputError(f"{path} is damaged: export it again.")
    try:
        header = nrrd.read_header(str(path))
        # A detached header could name any file of this machine as its data.
        if "data file" in header or "datafile" in header:
            raise InputError(f"{path} keeps its voxels in another file: save it as one .nrrd file.")
        shape = tuple(int(n) for n in header["sizes"])
        is_raw = header["encoding"] == "raw"
        affine, warnings = _affine(header)
    except broken as error:
        raise damaged from error
    on_disk = path.stat().st_size
    if min(shape) < 1 or math.prod(shape) > on_disk * (1 if is_raw else DEFLATE_LIMIT):
        raise InputError(
            f"{path} is cut short or its header is damaged: {format_shape(shape)} voxels do not "
            f"fit into {format_size(on_disk)}; copy it again."
        )
    if len(shape) > 3:  # which axis is not space differs between programs
        raise InputError(
            f"{path} has {len(shape)} dimensions ({format_shape(shape)}): export one 3D scan."
        )

    def load(frame: int) -> np.ndarray:
        try:
            data, _ = nrrd.read(str(path), index_order="F")
        except broken as error:
            raise damaged from error
        return np.asarray(data)

    return ScanHeader(shape, np.dtype(np.float64), affine, load, warnings=warnings)


def _affine(header: dict[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Index to world RAS+ mm, and a warning where the file does not say it."""
    to_ras = SPACES.get(str(header.get("space", "")).lower())
    if to_ras is None or "space directions" not in header:
        return np.diag([*header.get("spacings", (1.0, 1.0, 1.0)), 1.0]), (UNKNOWN_SIDES,)
    linear = np.asarray(header["space directions"], dtype=np.float64).T
    origin = np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), dtype=np.float64)
    return np.diag([*to_ras, 1.0]) @ nib.affines.from_matvec(linear, origin), ()


FORMAT = Format(
    title="NRRD", suffixes=(".nrrd",), recognizes=recognizes, read_header=read_header, extra="nrrd"
)
