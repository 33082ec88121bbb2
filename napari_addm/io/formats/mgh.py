"""MGH and MGZ, the format of FreeSurfer."""

from __future__ import annotations

from functools import partial
from io import BufferedIOBase

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage

from napari_addm.errors import AddmError, InputError
from napari_addm.io.format import Format, ScanFile, ScanHeader, check_claim, load_frame
from napari_addm.io.volume import UNKNOWN_DIRECTIONS, Volume

DATA_OFFSET = 284
# The part of a header that nibabel reads; before it says whether the geometry is valid.
HEADER_BYTES = 90


def recognizes(head: bytes) -> bool:
    """Return whether a file begins with version 1 of the format."""
    return head[:4] == b"\0\0\0\1" and len(head) >= DATA_OFFSET


def read_header(file: ScanFile) -> ScanHeader:
    """Read the header, which is big-endian; see `napari_addm.io.format.Format`."""
    header = MGHHeader(file.head[:HEADER_BYTES], check=False)
    i, j, k, frames = header["dims"].astype(np.int64).tolist()
    if min(i, j, k, frames) < 1:
        raise InputError(
            f"{file.path} has a damaged header (dimensions {[i, j, k, frames]}): copy it again."
        )
    try:
        dtype = header.get_data_dtype().newbyteorder(">")
    except KeyError:
        dtype = np.dtype("V")
    shape = (i, j, k)
    total = DATA_OFFSET + i * j * k * frames * dtype.itemsize
    check_claim(file.path, shape, total, file.compressed)
    header.set_data_shape(shape)
    # set_data_shape forgets the spacing; the block read from the file has it.
    header["delta"] = MGHHeader(file.head[:HEADER_BYTES], check=False)["delta"]
    has_geometry = file.head[28:30] == b"\0\1"
    return ScanHeader(
        shape=(*shape, frames) if frames > 1 else shape,
        dtype=dtype,
        affine=header.get_affine(),
        load=partial(load_frame, file, DATA_OFFSET, shape, dtype, total),
        header=header,
        warnings=() if has_geometry else (UNKNOWN_DIRECTIONS,),
    )


def write(file: BufferedIOBase, data: np.ndarray, volume: Volume) -> None:
    """Write voxels; 64-bit labels do not fit."""
    if data.dtype == np.int64:
        raise AddmError(
            "An MGZ file cannot hold labels beyond 32 bits: give it a name that ends in .nii.gz."
        )
    MGHImage(data, volume.source.affine).to_stream(file)


FORMAT = Format(
    title="MGZ",
    suffixes=(".mgh", ".mgz"),
    recognizes=recognizes,
    read_header=read_header,
    written_suffixes=(".mgz", ".mgh"),
    write=write,
)
