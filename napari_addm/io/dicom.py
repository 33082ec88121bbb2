"""Finding and choosing DICOM series; needs the extra ``dicom``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from napari_addm.errors import InputError, MissingExtraError
from napari_addm.io.contrast import AGENT_TAGS, Contrast, contrast_of_series, is_brain_t1

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS = (
    "Modality",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImagesInAcquisition",
    "NumberOfFrames",
    *AGENT_TAGS,
)


@dataclass(frozen=True)
class Series:
    """The images of one DICOM series in a folder.

    Attributes
    ----------
    number : int
        As the scanner counted; 0 where it did not.
    description : str
        One printable line; it may name a patient.
    files : tuple of Path
        One per image, sorted by name.
    is_t1 : bool
        Whether its words are those of a T1 of the brain, with contrast agent or without.
    contrast : Contrast
        Whether it was made with contrast agent.
    why : str
        Why `pick_series` chose it.
    """

    number: int
    description: str
    files: tuple[Path, ...]
    uid: str
    is_t1: bool
    contrast: Contrast
    why: str = ""

    @property
    def name(self) -> str:
        """The name of files made from it: without the folder, which may name a patient."""
        return f"dicom_series{self.number}"

    def __str__(self) -> str:
        words = f"{self.number}: {self.description or 'unnamed'} ({len(self.files)} images"
        return f"{words}; contrast agent: {self.contrast})" if self.is_t1 else f"{words})"


def find_series(folder: Path) -> list[Series]:
    """Find the MR series in a folder and below it, sorted by their numbers.

    Raises
    ------
    InputError
        When there is none.
    MissingExtraError
        Without the extra ``dicom``.
    """
    pydicom = import_extra("pydicom")
    # The same image twice, as after copying a disc twice, is one image.
    images: dict[str, dict[str, tuple[Path, Dataset]]] = defaultdict(dict)
    try:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}).") from error
    for path in filter(is_dicom, paths):
        try:
            image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        except Exception as error:  # pydicom raises many kinds for a damaged file
            raise InputError(f"{path} is a damaged DICOM file: copy the series again.") from error
        if "Rows" in image and image.get("Modality") == "MR":
            name = str(image.get("SOPInstanceUID", path))
            images[str(image.SeriesInstanceUID)].setdefault(name, (path, image))
    if not images:
        raise InputError(f"{folder} holds no MR images in DICOM format: choose another folder.")
    found = [_series(uid, list(members.values())) for uid, members in images.items()]
    return sorted(found, key=lambda series: (series.number, series.uid))


def _series(uid: str, members: list[tuple[Path, Dataset]]) -> Series:
    first = members[0][1]
    said, protocol = (str(first.get(tag) or "") for tag in ("SeriesDescription", "ProtocolName"))
    words = said or protocol
    tags: dict[str, set[str]] = defaultdict(set)
    for _, image in members:
        for tag in filter(image.__contains__, AGENT_TAGS):
            tags[tag].add(str(image.get(tag) or ""))
    printable = "".join(c if c.isprintable() else " " for c in words)
    return Series(
        number=int(first.get("SeriesNumber") or 0),
        description=" ".join(printable.split())[:60],
        files=tuple(path for path, _ in members),
        uid=uid,
        is_t1=is_brain_t1(words, str(first.get("BodyPartExamined") or "")),
        contrast=contrast_of_series(said, protocol, tags),
    )


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def holds_dicom(folder: Path, most: int = 50) -> bool:
    """Return whether one of the first files in a folder or below it is DICOM."""
    try:
        files = (path for path in folder.rglob("*") if path.is_file())
        return any(is_dicom(path) for path, _ in zip(files, range(most), strict=False))
    except OSError:
        return False


def pick_series(folder: Path, number: int | None = None) -> Series:
    """Choose the series of a number; without one the only series, or the only T1 among several.

    A T1 that was, or may have been, made with contrast agent is not chosen among several.

    Raises
    ------
    InputError
        When that does not say which; the message lists them.
    """
    series = find_series(folder)
    chosen, why = series, "the only series"
    if number is not None:
        chosen, why = [each for each in series if each.number == number], "chosen by its number"
    elif len(series) > 1:
        chosen = [each for each in series if each.is_t1 and not each.contrast.is_suspect]
        why = f"the only T1 without contrast agent among {len(series)} series"
    if len(chosen) == 1:
        return replace(chosen[0], why=why)
    what = "no series" if not chosen else f"{len(chosen)} series"
    which = f"of number {number}" if number is not None else "that can be the T1 without agent"
    raise InputError(
        f"{folder} holds {what} {which}: choose one with --series, or give a folder of one series "
        f"({'; '.join(str(each) for each in series)})."
    )


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
        raise MissingExtraError(
            f"DICOM needs the package {package}, which is not installed: run "
            'pip install "napari-addm[dicom]".'
        ) from error
