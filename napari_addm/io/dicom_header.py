"""Headers of DICOM files; needs the extra ``dicom``.

A tag may hold anything. Only `text`, `numbers` and `items` read one, as the type that is wanted.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from napari_addm.errors import InputError, MissingExtraError
from napari_addm.io.files import check_is_file

if TYPE_CHECKING:
    from pydicom import Dataset

NO_DICOM = "is no DICOM file"
PIXEL_GROUP = 0x7FE0
DEFLATED = "1.2.840.10008.1.2.1.99"
# A deflated file is held in memory; one that grows beyond is no image.
LARGEST_DEFLATED = 2**27


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM files do."""
    try:
        if not path.is_file():
            return False
        check_is_file(path)
        with path.open("rb") as file:
            return _begins_as_dicom(file.read(132))
    except (OSError, InputError):
        return False


def _begins_as_dicom(head: bytes) -> bool:
    """Whether a file has the mark of DICOM, or without a preamble begins with a first tag."""
    if head[128:132] == b"DICM":
        return True
    # Groups 2 and 8, then two letters or, where types are implicit, a short length.
    first_tag = head[:2] in {b"\x02\0", b"\x08\0", b"\0\x08"}
    return first_tag and ((head[4:6].isalpha() and head[4:6].isupper()) or head[6:8] == b"\0\0")


def read_dicom(path: Path, tags: Iterable[str] | None = None, *, pixels: bool = False) -> Dataset:
    """Read a DICOM file, with or without a preamble.

    Parameters
    ----------
    path : Path
        A plain file.
    tags : iterable of str, optional
        Which tags; all if missing.
    pixels : bool
        Whether with its pixels.

    Raises
    ------
    InputError
        When it is damaged or no DICOM file.
    """
    import_extra("pydicom")
    try:
        check_is_file(path)
        with path.open("rb") as file, warnings.catch_warnings():
            # pydicom warns of values; `text`, `numbers` and `items` look at those.
            warnings.simplefilter("ignore")
            head = file.read(132)
            if not _begins_as_dicom(head):
                raise InputError(f"{path} {NO_DICOM}: choose another.")
            return _parse(file, path, None if tags is None else list(tags), pixels)
    except InputError:
        raise
    except Exception as error:  # pydicom raises many kinds for a damaged file
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
        raise InputError(f"{path} is damaged: copy the series again.") from error


def _parse(file: BinaryIO, path: Path, tags: list[str] | None, pixels: bool) -> Dataset:
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import dcmread, read_dataset
    from pydicom.tag import Tag
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    file.seek(128)
    file.seek(132 if file.read(4) == b"DICM" else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if text(meta, "TransferSyntaxUID") == DEFLATED:
        # pydicom would inflate whatever comes.
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = inflate.decompress(file.read(), LARGEST_DEFLATED)
        if not inflate.eof:
            raise InputError(
                f"{path} is deflated, and cut short or too large: export the series uncompressed."
            )
        image = read_dataset(
            BytesIO(plain),
            False,
            True,
            stop_when=lambda tag, *_: not pixels and tag >> 16 == PIXEL_GROUP,
            specific_tags=None if tags is None else [Tag(tag) for tag in tags],
        )
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta = FileMetaDataset(meta)
        return image
    file.seek(0)
    image = dcmread(file, stop_before_pixels=not pixels, force=True, specific_tags=tags)
    if not text(image.file_meta, "TransferSyntaxUID"):
        implicit, little = image.original_encoding
        plain_syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain_syntax
    return image


def text(image: Dataset, tag: str) -> str:
    """Return a tag's value as text; empty where it is missing or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.get(tag)
            return "" if value is None else str(value).strip(" \0")
    except Exception:  # pydicom raises many kinds for a damaged value
        return ""


def numbers(path: Path, image: Dataset, tag: str, count: int = 1) -> np.ndarray | None:
    """Return the finite numbers of a tag, shape (`count`,); None where it is missing or empty.

    Raises
    ------
    InputError
        When it holds something else; the message names `path`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.get(tag)
            if value is None or (hasattr(value, "__len__") and len(value) == 0):
                return None
            found = np.atleast_1d(np.array(value, float))
    except Exception:  # pydicom raises many kinds for a damaged value
        found = np.array([])
    if found.shape != (count,) or not np.isfinite(found).all():
        what = "a number" if count == 1 else f"{count} numbers"
        raise InputError(f"{path}: its {tag} is not {what}: export the series again.")
    return found


def whole_number(path: Path, image: Dataset, tag: str) -> int:
    """Return the number of a tag, which has to be 1 or more.

    Raises
    ------
    InputError
        When it is not, or missing.
    """
    found = numbers(path, image, tag)
    if found is None or found[0] < 1:
        raise InputError(f"{path}: its {tag} is missing: export the series again.")
    return int(found[0])


def items(path: Path, image: Dataset, tag: str) -> list[Dataset]:
    """Return the items of a sequence; none where it is missing.

    Raises
    ------
    InputError
        When it is damaged.
    """
    from pydicom import Dataset

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(image.get(tag) or ())
    except Exception:  # pydicom raises many kinds for a damaged value
        found = [None]
    if not all(isinstance(item, Dataset) for item in found):
        raise InputError(f"{path}: its {tag} is damaged: export the series again.")
    return found


def import_extra(package: str) -> ModuleType:
    """Import a package of the extra ``dicom``.

    Raises
    ------
    MissingExtraError
        When it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError("DICOM", package, "dicom") from error
