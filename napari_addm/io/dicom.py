"""Finding and choosing DICOM series; needs the extra ``dicom``."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from napari_addm.errors import InputError, MissingExtraError

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
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImagesInAcquisition",
    "NumberOfFrames",
)
# Words in a scanner's descriptions of T1-weighted scans, and of scans after contrast agent.
T1_WORDS = re.compile(r"(?<![a-z0-9])t1|mp-?2?rage|bravo|spgr|ir-?fspgr|(?<![a-z])tfe|tfl3d")
CONTRAST_WORDS = re.compile(r"(?<![a-z])(gd|gad|post|contrast|ce|km|\+c)(?![a-z])|t1ce|t1gd")


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
    """

    number: int
    description: str
    files: tuple[Path, ...]
    uid: str

    @property
    def name(self) -> str:
        """The name of files made from it: without the folder, which may name a patient."""
        return f"dicom_series{self.number}"

    @property
    def is_t1(self) -> bool:
        """Whether its description is that of a T1-weighted scan without contrast agent."""
        words = self.description.lower()
        return bool(T1_WORDS.search(words)) and not CONTRAST_WORDS.search(words)

    def __str__(self) -> str:
        return f"{self.number}: {self.description or 'unnamed'} ({len(self.files)} images)"


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
    words = str(first.get("SeriesDescription") or first.get("ProtocolName") or "")
    printable = "".join(c if c.isprintable() else " " for c in words)
    return Series(
        number=int(first.get("SeriesNumber") or 0),
        description=" ".join(printable.split())[:60],
        files=tuple(path for path, _ in members),
        uid=uid,
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

    Raises
    ------
    InputError
        When that does not say which; the message lists them.
    """
    series = find_series(folder)
    chosen = series if number is None else [each for each in series if each.number == number]
    if number is None and len(series) > 1:
        chosen = [each for each in series if each.is_t1]
    if len(chosen) == 1:
        return chosen[0]
    what = "no series" if not chosen else f"{len(chosen)} series"
    which = f" of number {number}" if number is not None else " that is surely the T1"
    raise InputError(
        f"{folder} holds {what}{which}: choose one with --series, or give a folder of one series "
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
