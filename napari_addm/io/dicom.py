"""DICOM series in, DICOM segmentations out; needs the extra ``dicom``.

A series is checked with pydicom, converted by dcm2niix in a folder of its own,
and read like any NIfTI file. Nothing that names a patient is kept; a
segmentation is the exception, because the standard has it belong to the
patient and the study of its series.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from napari_addm import __version__
from napari_addm.errors import AddmError, InputError, MissingExtraError
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
# What a T1-weighted scan is called at the scanners, and what it is called after contrast agent.
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
POSITION_MM = 0.02
ANGLE = 1e-3
UNEVEN = 0.05
GRID_VOXELS = 0.05
MOST_SEGMENTS = 1000


@dataclass(frozen=True)
class Series:
    """The images of one DICOM series in a folder.

    Attributes
    ----------
    number : int
        As the scanner counted; 0 where it did not.
    description : str
        One printable line; not for the record.
    modality : str
    files : tuple of Path
        One per image, sorted by name.
    """

    number: int
    description: str
    modality: str
    files: tuple[Path, ...]
    uid: str

    @property
    def name(self) -> str:
        """How files made from it are called: without the folder, which may name a patient."""
        return f"dicom_series{self.number}"

    @property
    def is_t1(self) -> bool:
        """Whether it is called as a T1-weighted scan without contrast agent is."""
        words = self.description.lower()
        return bool(T1_WORDS.search(words)) and not CONTRAST_WORDS.search(words)

    def __str__(self) -> str:
        return f"{self.number}: {self.description or 'unnamed'} ({len(self.files)} images)"


def find_series(folder: Path) -> list[Series]:
    """The MR series below a folder, by their numbers; other files are passed over.

    Raises
    ------
    InputError
        When there is none.
    MissingExtraError
        Without the extra ``dicom``.
    """
    pydicom = _pydicom()
    images: dict[str, dict[str, tuple[Path, Dataset]]] = defaultdict(dict)
    try:
        candidates = sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}).") from error
    for path in candidates:
        if not is_dicom(path):
            continue
        try:
            image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        except Exception as error:  # pydicom raises whatever a damaged file makes it meet
            raise InputError(f"{path} is a damaged DICOM file: copy the series again.") from error
        if "Rows" in image and image.get("Modality") == "MR":
            # The same image twice, as after copying a disc twice, is one image.
            images[str(image.SeriesInstanceUID)].setdefault(
                str(image.get("SOPInstanceUID", path)), (path, image)
            )
    if not images:
        raise InputError(f"{folder} holds no MR images in DICOM format: choose another folder.")
    found = []
    for uid, members in images.items():
        first = next(iter(members.values()))[1]
        words = str(first.get("SeriesDescription") or first.get("ProtocolName") or "")
        printable = "".join(c if c.isprintable() else " " for c in words)
        found.append(
            Series(
                number=int(first.get("SeriesNumber") or 0),
                description=" ".join(printable.split())[:60],
                modality="MR",
                files=tuple(path for path, _ in members.values()),
                uid=uid,
            )
        )
    return sorted(found, key=lambda series: (series.number, series.uid))


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def holds_dicom(folder: Path, most: int = 50) -> bool:
    """Whether one of the first files below a folder is DICOM."""
    try:
        files = (path for path in folder.rglob("*") if path.is_file())
        return any(is_dicom(path) for path, _ in zip(files, range(most), strict=False))
    except OSError:
        return False


def pick_series(folder: Path, number: int | None = None) -> Series:
    """The series of that number; else the only one, or the only T1 among several.

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
    """A series as a volume on the grid of its images.

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
    try:
        import dcm2niix
    except ImportError as error:
        raise _missing("dcm2niix") from error
    where = series.files[0].parent
    with tempfile.TemporaryDirectory(prefix="napari-addm-") as folder:
        images, made = Path(folder, "in"), Path(folder, "out")
        images.mkdir()
        made.mkdir()
        for n, path in enumerate(series.files):
            shutil.copyfile(path, images / f"{n:06d}.dcm")
        # No BIDS sidecar, not compressed, not cropped, and a name that says nothing.
        options = ["-b", "n", "-z", "n", "-x", "n", "-f", "scan", "-o", str(made)]
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
        files = sorted(made.glob("*.nii"))
        if len(files) != 1:
            fault = "could not decode it" if not files else f"sees {len(files)} scans in it"
            raise InputError(
                f"{where}: dcm2niix {fault} (series {series.number}): export it again, "
                "uncompressed and alone."
            )
        volume = read_volume(files[0])
    source = replace(volume.source, path=None, name=series.name, series=series.files)
    return replace(volume, source=source)


def _check_series(series: Series) -> None:
    """Refuse what would be converted to something else than the scan."""
    pydicom = _pydicom()
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
    for tag in ("StudyInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        values = [image.get(tag) for image in images]
        if any(value is None for value in values):
            raise InputError(f"{where} does not say where its images lie ({tag}): export it again.")
        if not all(_alike(value, values[0]) for value in values):
            raise InputError(
                f"{where} is mixed, its images differ in {tag}: give the images of one scan alone."
            )
    _check_positions(where, images)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, str | int):
        return one == other
    return bool(np.allclose(np.array(one, float), np.array(other, float), atol=ANGLE))


def _check_positions(where: str, images: Sequence[Dataset]) -> None:
    if any(image.get("ImagePositionPatient") is None for image in images):
        raise InputError(f"{where} has images that do not say where they lie: export it again.")
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


# --- segmentations --------------------------------------------------------------------------------


def write_seg(
    path: Path,
    labels: Volume,
    files: Iterable[Path],
    *,
    edited: bool = False,
    locations: Mapping[int, str] = MappingProxyType({}),
    accepted: Collection[int] = (),
    rejected: Collection[int] = (),
) -> Path | None:
    """Write findings as a DICOM segmentation of the series that the scan came from.

    It carries the patient and study of the series, so that an archive can file
    it. One segment per finding that is not rejected, labelled with the finding's
    number; the voxels lie on the very pixels of the series.

    Parameters
    ----------
    path : Path
        To write; not overwritten.
    labels : Volume of int
        0 = no finding, on the grid of `read_series`.
    files : iterable of Path
        The images of the series.
    edited : bool
        Whether a person changed what the threshold gave.
    locations : mapping of int to str
        Where the findings lie, in words, by their numbers; see
        `napari_addm.findings.findings.Finding.location`.
    accepted : collection of int
        Numbers of the findings whose segments say that a person accepted them.
    rejected : collection of int
        Numbers of the findings that are left out.

    Returns
    -------
    Path or None
        None when there is no finding, or all are rejected: the standard knows no
        empty segmentation.

    Raises
    ------
    AddmError
        When the labels do not lie on the series, or there are too many of them.
    """
    pydicom = _pydicom()
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise _missing("highdicom") from error
    ids = np.unique(labels.data)
    # Who opens the archive sees no table: what a person rejected must not look like a finding.
    ids = ids[(ids != 0) & ~np.isin(ids, list(rejected))]
    if not len(ids):
        return None
    if len(ids) > MOST_SEGMENTS:
        raise AddmError(
            f"{len(ids)} findings are too many for a DICOM segmentation ({MOST_SEGMENTS}): raise "
            "the threshold or the smallest volume."
        )
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    if len(images) < 2:
        raise AddmError("A DICOM segmentation of a multi-frame series cannot be written.")
    images, affine = _stack(images)
    first = images[0]
    shape = (len(images), int(first.Rows), int(first.Columns))
    # The standard counts segments from 1 without gaps.
    numbered = np.searchsorted(ids, labels.data) + 1
    numbered = np.where(np.isin(labels.data, ids), numbered, 0).astype(np.uint16)
    pixels = _on_pixels(numbered, labels.affine, affine, shape)
    kind = "SEMIAUTOMATIC" if edited else "AUTOMATIC"
    algorithm = hd.AlgorithmIdentificationSequence(
        name="ADDM", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    segments = []
    for n, number in enumerate(ids.tolist(), 1):
        segment = hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=f"Finding {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=kind,
            algorithm_identification=algorithm,
        )
        words = [locations.get(number, ""), "accepted by a person" if number in accepted else ""]
        description = "; ".join(filter(None, words))
        if description:  # no argument of highdicom's
            segment.SegmentDescription = description[0].upper() + description[1:]
        segments.append(segment)
    seg = hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=int(first.get("SeriesNumber") or 0) + 9000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-addm",
        manufacturer_model_name="napari-addm",
        software_versions=__version__,
        device_serial_number="0",
        content_description="Anomalies; for research, not for diagnosis",
        content_label="FINDINGS",
        series_description="napari-addm findings, research only",
    )
    seg.save_as(path)
    return path


def _stack(images: list[Dataset]) -> tuple[list[Dataset], np.ndarray]:
    """The images in order along their normal; (slice, row, column) to world RAS+ mm."""
    cosines = np.array(images[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    images = sorted(images, key=lambda i: float(np.dot(i.ImagePositionPatient, normal)))
    positions = np.array([image.ImagePositionPatient for image in images], float)
    down, across = (float(n) for n in images[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(images) - 1)
    affine[:3, 1] = cosines[3:] * down
    affine[:3, 2] = cosines[:3] * across
    affine[:3, 3] = positions[0]
    return images, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's world is LPS


def _on_pixels(
    data: np.ndarray, affine: np.ndarray, pixel_affine: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Reorder voxels (never resample) to the pixels of a stack of images."""
    to_voxel = np.linalg.inv(affine) @ pixel_affine
    turn = np.rint(to_voxel[:3, :3]).astype(int)
    corner = np.array(shape) - 1
    off = max(
        float(np.abs((to_voxel[:3, :3] - turn) @ np.diag(corner)).max()),
        float(np.abs(to_voxel[:3, 3] - np.rint(to_voxel[:3, 3])).max()),
    )
    if off <= GRID_VOXELS and (np.abs(turn).sum(axis=0) == 1).all():
        axes = np.abs(turn).argmax(axis=0)
        signs = turn[axes, range(3)]
        start = np.where(turn.sum(axis=1) < 0, np.array(data.shape) - 1, 0)
        there = tuple(data.shape[axis] for axis in axes) == shape
        if there and (np.rint(to_voxel[:3, 3]) == start).all():
            moved = data.transpose(axes)
            return np.ascontiguousarray(moved[tuple(slice(None, None, s) for s in signs)])
    raise AddmError(
        "The labels do not lie on the pixels of the DICOM series: detect in the series itself."
    )


def _pydicom():  # type: ignore[no-untyped-def]
    try:
        import pydicom
    except ImportError as error:
        raise _missing("pydicom") from error
    return pydicom


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"DICOM needs the package {package}, which is not installed: run "
        'pip install "napari-addm[dicom]".'
    )
