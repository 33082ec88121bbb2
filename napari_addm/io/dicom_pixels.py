"""Pixels of DICOM images; needs the extra ``dicom``.

A compressed picture is compared with the image's header before it is decoded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.dicom_header import import_extra, read_dicom, text, whole_number
from napari_addm.io.dicom_jpeg import picture_header

JPEG = "1.2.840.10008.1.2.4."
RLE = "1.2.840.10008.1.2.5"
JPEG_LS = {f"{JPEG}{n}" for n in (80, 81)}
# These need a decoder that does not come with pydicom.
JPEG_LOSSLESS = {f"{JPEG}{n}" for n in (57, 70)}
CUT_SHORT = (
    "is cut short, or its pixels cannot be decoded: copy it again, or export it uncompressed."
)


def decode(path: Path, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Decode the pictures of a file.

    Parameters
    ----------
    count : int
        The number of frames.
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    ndarray, shape (`count`, rows, columns)
        Stored numbers, without the scale of the header.

    Raises
    ------
    InputError
        When they cannot be decoded, or are other ones than the header says.
    """
    decoding = import_extra("pydicom.pixels")
    image = read_dicom(path, pixels=True)
    syntax = import_extra("pydicom.uid").UID(
        text(image.file_meta, "TransferSyntaxUID"), validation_mode=0
    )
    if syntax in JPEG_LOSSLESS:
        import_extra("gdcm")
    try:
        available = decoding.get_decoder(syntax).is_available
    except NotImplementedError:  # an unknown one
        available = False
    if not available:
        name = "unknown" if syntax.name == syntax else syntax.name
        raise InputError(
            f"{path} is compressed in a way that cannot be read ({name}): export the series "
            "uncompressed."
        )
    if "PixelData" not in image:
        raise InputError(f"{path} {CUT_SHORT}")
    bits, stored = (whole_number(path, image, tag) for tag in ("BitsAllocated", "BitsStored"))
    if stored > bits:
        raise InputError(f"{path} has a BitsStored above its BitsAllocated: export it again.")
    options: dict[str, object] = {}
    try:
        with warnings.catch_warnings():
            # pydicom warns of lengths, which are compared below, but for those of RLE.
            warnings.simplefilter("error" if syntax == RLE else "ignore")
            if syntax.startswith(JPEG):
                frames = import_extra("pydicom.encaps").generate_frames(
                    image.PixelData, number_of_frames=count
                )
                heads = {picture_header(frame) for frame in frames}
                precision = max(head[2] for head in heads)
                if {head[:2] for head in heads} != {shape} or precision > bits or bits > 16:
                    raise ValueError("another picture than the header's")
                plugin = "pyjpegls" if syntax in JPEG_LS else "pillow"
                if syntax in JPEG_LOSSLESS:
                    plugin, options["bits_stored"] = "gdcm", precision  # so that it clips nothing
                options["decoding_plugin"] = plugin
            pixels = decoding.pixel_array(image, raw=True, correct_unused_bits=False, **options)
            pixels = pixels.reshape(count, *shape)
    except Exception as error:  # pydicom and the decoders raise many kinds
        raise InputError(f"{path} {CUT_SHORT}") from error
    row = pixels.nbytes // count // shape[0]
    if not syntax.is_encapsulated and len(image.PixelData) >= pixels.nbytes + row:
        raise InputError(f"{path} holds more pixels than its header says: export it again.")
    # Bits above those that are stored are no part of the value.
    spare = pixels.dtype.itemsize * 8 - stored
    values = pixels << spare >> spare if spare > 0 else pixels
    if pixels.dtype.kind == "u" and (values != pixels).any():
        raise InputError(f"{path} holds larger numbers than its BitsStored says: export it again.")
    return values
