"""Reading DICOM series; needs the extra ``dicom``.

A series is checked with pydicom, converted by dcm2niix in a temporary folder, and read like any
NIfTI file. dcm2niix decodes lossless JPEG, the usual compression of archives, for which pydicom
needs a decoder under the GPL, and it knows the habits of the vendors. Nothing that names a
patient is kept.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from napari_addm.errors import InputError, MissingExtraError
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume

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
# What dcm2niix reads: uncompressed, deflated, RLE, JPEG, JPEG-LS, JPEG 2000.
READABLE_SYNTAXES = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 57, 70, 80, 81, 90, 91)),
}
CONVERT_SECONDS = 600
# Images closer than this lie at one place.
POSITION_MM = 0.02
# Orientations and pixel spacings that differ by less are equal.
TOLERANCE = 1e-3
# Distances between images may differ from the usual one by this share.
UNEVEN = 0.05


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


def read_series(series: Series) -> Volume:
    """Read a series as a volume on the grid of its images.

    Returns
    -------
    Volume
        As `napari_addm.io.reading.read_volume` gives it; its source names no file and
        holds the images' paths in ``series``.

    Raises
    ------
    InputError
        When images are missing, do not belong together, or cannot be decoded.
    """
    _check_series(series)
    with tempfile.TemporaryDirectory(prefix="napari-addm-") as folder:
        volume = read_volume(_convert(series, Path(folder)))
    source = replace(volume.source, path=None, name=series.name, series=series.files)
    return replace(volume, source=source)


def _convert(series: Series, folder: Path) -> Path:
    """Convert a series to one NIfTI file in a folder."""
    dcm2niix = import_extra("dcm2niix")
    where = series.files[0].parent
    images = folder / "in"
    images.mkdir()
    for n, path in enumerate(series.files):
        shutil.copyfile(path, images / f"{n:06d}.dcm")
    # No BIDS sidecar, not compressed, not cropped, and a name without a patient.
    options = ["-b", "n", "-z", "n", "-x", "n", "-f", "scan", "-o", str(folder)]
    try:
        subprocess.run(
            [str(dcm2niix.bin), *options, str(images)],
            capture_output=True,
            check=False,
            timeout=CONVERT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(
            f"{where}: dcm2niix could not convert the series: convert it to NIfTI elsewhere."
        ) from error
    files = sorted(folder.glob("*.nii"))
    if len(files) != 1:
        problem = "could not decode it" if not files else f"sees {len(files)} scans in it"
        raise InputError(
            f"{where}: dcm2niix {problem} (series {series.number}): export it again, "
            "uncompressed and alone."
        )
    return files[0]


def _check_series(series: Series) -> None:
    """Refuse a series that would not become the scan."""
    pydicom = import_extra("pydicom")
    where = f"{series.files[0].parent} (series {series.number})"
    images = []
    for path in series.files:
        image = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = image.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax not in READABLE_SYNTAXES:
            raise InputError(
                f"{path} is compressed in a way that cannot be read ({syntax.name}): export the "
                "series uncompressed."
            )
        images.append(image)
    if any(int(image.get("NumberOfFrames") or 1) > 1 for image in images):
        if len(images) > 1:
            raise InputError(f"{where} has several multi-frame images: give one alone.")
        return
    if len(images) < 3:
        raise InputError(f"{where} has {len(images)} image(s) and is no 3D scan: choose another.")
    for tag in (
        *("StudyInstanceUID", "Rows", "Columns"),
        *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"),
    ):
        values = [image.get(tag) for image in images]
        if any(value is None for value in values):
            raise InputError(f"{where} does not say where its images lie ({tag}): export it again.")
        if tag != "ImagePositionPatient" and not all(_alike(each, values[0]) for each in values):
            raise InputError(
                f"{where} is mixed, its images differ in {tag}: give the images of one scan alone."
            )
    _check_positions(where, images)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, str | int):
        return one == other
    return bool(np.allclose(np.array(one, float), np.array(other, float), atol=TOLERANCE))


def _check_positions(where: str, images: Sequence[Dataset]) -> None:
    cosines = np.array(images[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    positions = np.array([image.ImagePositionPatient for image in images], float)
    steps = np.diff(np.sort(positions @ normal))
    if steps.min() < POSITION_MM:
        raise InputError(
            f"{where} is mixed, it has several images at one place (echoes, or points in time): "
            "give the images of one scan alone."
        )
    usual = float(np.median(steps))
    gaps = np.rint(steps / usual) - 1
    promised = images[0].get("ImagesInAcquisition")
    if gaps.any() and np.allclose(steps / usual, gaps + 1, atol=UNEVEN):
        raise InputError(
            f"{where} is incomplete, {int(gaps.sum())} image(s) between others are missing: copy "
            "it again."
        )
    if np.abs(steps / usual - 1).max() > UNEVEN:
        raise InputError(
            f"{where} has images at uneven distances ({steps.min():.3g} to {steps.max():.3g} mm): "
            "export a scan with even ones."
        )
    if promised and len(images) < int(promised):
        raise InputError(
            f"{where} is incomplete, {len(images)} of {promised} images are there: copy it again."
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
