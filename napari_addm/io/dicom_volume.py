"""Reading the images of a DICOM series as a volume; needs the extra ``dicom``.

Each image, or frame of a multi-frame image, says where it lies. All have to lie on one grid, which
is compared with each of them before a pixel is decoded. Nothing is written, and nothing that names
a patient is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.checks import check_affine, check_memory, warn_of_grid
from napari_addm.io.dicom import Series
from napari_addm.io.dicom_header import items, numbers, read_dicom, text, whole_number
from napari_addm.io.dicom_pixels import decode
from napari_addm.io.remarks import Remark, caution, note
from napari_addm.io.volume import Volume, volume_from_native

if TYPE_CHECKING:
    from pydicom import Dataset

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Images closer than this lie at one place.
POSITION_MM = 0.02
# No corner of an image may lie further from the grid; positions are often rounded.
GRID_MM = 0.1
# Orientations and pixel spacings that differ by less are equal.
TOLERANCE = 1e-3
# Directions may be this far from unit length and from right angles.
RIGHT_ANGLE = 0.01
# Distances between images may differ from the usual one by this share.
UNEVEN = 0.05
# No scan is compressed to less than this share of its size.
MOST_COMPRESSED = 1000
UIH_MOSAIC = "0x00651050"
# Which part of a multi-frame image a file is, and of how many.
CONCATENATION = ("InConcatenationNumber", "InConcatenationTotalNumber")
EQUAL_TAGS = (
    *("StudyInstanceUID", "FrameOfReferenceUID"),
    *("Rows", "Columns", "PhotometricInterpretation"),
)
# Where multi-frame images keep a tag.
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
TAGS = (
    *EQUAL_TAGS,
    *GROUPS,
    *GROUPS.values(),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames"),
    *("ImageType", "SamplesPerPixel", "ModalityLUTSequence", "ImagesInAcquisition"),
    *("LossyImageCompression", UIH_MOSAIC, *CONCATENATION),
    *("PatientAge", "PatientBirthDate", "StudyDate"),
)
ADULT_YEARS = 18
A_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a file: where it lies, and the scale of its values.

    Attributes
    ----------
    path, index
        The file, and which of its pictures it is.
    turn : ndarray, shape (6,)
        Directions of a row and of a column, LPS.
    spacing : ndarray, shape (2,)
        Distance of rows and of columns in mm.
    position : ndarray, shape (3,)
        Center of the first pixel, LPS mm.
    """

    path: Path
    index: int
    turn: np.ndarray
    spacing: np.ndarray
    position: np.ndarray
    slope: float | None
    inter: float | None

    @property
    def plane(self) -> np.ndarray:
        """(column, row, 1) to LPS mm, shape (3, 3)."""
        row, column = self.turn[:3] * self.spacing[1], self.turn[3:] * self.spacing[0]
        return np.stack([row, column, self.position], axis=1)


@np.errstate(over="ignore", invalid="ignore")
def read_series(series: Series) -> Volume:
    """Read a series as a volume on the grid of its images.

    Returns
    -------
    Volume
        As `napari_addm.io.reading.read_volume` gives it; its source names no file and
        holds the images' paths in ``series``. What was left out is in ``warnings``.

    Raises
    ------
    InputError
        When images are missing, do not belong together, or cannot be decoded.
    """
    where = f"{series.files[0].parent} (series {series.number})"
    images = [(path, read_dicom(path, TAGS)) for path in series.files]
    for path, image in images:
        _check_kind(path, image)
    parts, of = ({text(image, tag) for _, image in images} for tag in CONCATENATION)
    lost = max((int(n) for n in parts | of if n.isdecimal()), default=0) - len(parts - {""})
    if lost > 0:
        raise InputError(
            f"{where} is incomplete, {lost} part(s) of its multi-frame image are missing: copy it "
            "again."
        )
    for tag in EQUAL_TAGS:
        if len({text(image, tag) for _, image in images} - {""}) > 1:
            raise _mixed(where, tag)
    path, first = images[0]
    rows, columns = (whole_number(path, first, tag) for tag in ("Rows", "Columns"))
    inverted = text(first, "PhotometricInterpretation") == "MONOCHROME1"
    frames = [frame for path, image in images for frame in frames_of(path, image)]
    notes = (*series.notes, *_doubts(images, len(frames), inverted))
    for tag, scales in (
        ("RescaleSlope", [frame.slope for frame in frames]),
        ("RescaleIntercept", [frame.inter for frame in frames]),
    ):
        if None in scales and any(scale is not None for scale in scales):
            raise _mixed(where, tag)
    frames, affine = place_frames(where, frames, rows, columns)
    affine = LPS_TO_RAS @ affine
    check_affine(path, affine)
    shape = (columns, rows, len(frames))
    stored = sum(file.stat().st_size for file in series.files)
    if rows * columns * len(frames) > stored * MOST_COMPRESSED:
        raise InputError(f"{where} is larger than its files can hold: copy it again.")
    check_memory(path, shape, np.dtype(np.float32))

    data = np.empty(shape[::-1], np.float32)
    places: dict[Path, list[int]] = defaultdict(list)
    for n, frame in enumerate(frames):
        places[frame.path].append(n)
    for path, found in places.items():
        pictures = decode(path, len(found), (rows, columns))
        for n in found:
            frame = frames[n]
            data[n] = pictures[frame.index] * (1.0 if frame.slope is None else frame.slope)
            data[n] += 0.0 if frame.inter is None else frame.inter
    if not np.isfinite(data).all():
        raise InputError(f"{where} has values that are no finite numbers: export it again.")
    low, high = data.min(), data.max()
    if low == high:
        raise InputError(f"{where} holds the same value in every voxel: export the scan again.")
    if inverted:
        data = low + high - data
    volume = volume_from_native(
        data.transpose(2, 1, 0),
        affine,
        name=series.name,
        warnings=(*notes, *warn_of_grid(affine, shape)),
    )
    source = replace(volume.source, series=series.files, contrast=series.contrast, why=series.why)
    return replace(volume, source=source)


def _check_kind(path: Path, image: Dataset) -> None:
    """Refuse an image that is no plain gray picture of a slice."""
    kind = text(image, "ImageType")
    samples = whole_number(path, image, "SamplesPerPixel")
    if samples != 1 or text(image, "PhotometricInterpretation") not in {
        "MONOCHROME1",
        "MONOCHROME2",
    }:
        raise InputError(f"{path} is no gray picture: choose the scan itself.")
    if "MOSAIC" in kind or UIH_MOSAIC in image:
        raise InputError(
            f"{path} is a mosaic, with all slices in one picture: export one image per slice, or "
            "convert it to NIfTI."
        )
    if "ModalityLUTSequence" in image:
        raise InputError(f"{path} has a table of values: export it with a slope and intercept.")


def _doubts(images: list[tuple[Path, Dataset]], count: int, inverted: bool) -> Iterator[Remark]:
    """What a reader of the results must know about the images, one sentence each."""
    try:
        promised = numbers(*images[0], "ImagesInAcquisition")
    except InputError:  # nothing depends on it
        promised = None
    if promised is not None and count < promised:
        yield caution(
            f"The series has {count} images, and its header speaks of {promised[0]:.0f} in the "
            "acquisition: check that the scan is whole."
        )
    if any(text(image, "LossyImageCompression") == "01" for _, image in images):
        yield caution("The images were compressed with loss.")
    if _is_of_child(images[0][1]):
        yield caution(
            "The patient was younger than 18: a model of adults marks more in children, and its "
            "false alarms were not measured in them."
        )
    if inverted:
        yield note("The images are stored dark on bright (MONOCHROME1); they were inverted.")


def _is_of_child(image: Dataset) -> bool:
    """Whether the header says that the patient was younger than 18."""
    if age := re.fullmatch(r"(\d{3})([DWMY])", text(image, "PatientAge")):
        # an age of 000 stands for none
        return 0 < int(age[1]) / A_YEAR[age[2]] < ADULT_YEARS
    born, seen = text(image, "PatientBirthDate"), text(image, "StudyDate")
    if not re.fullmatch(r"\d{8}", born, re.ASCII) or not re.fullmatch(r"\d{8}", seen, re.ASCII):
        return False
    return 0 < int(seen) - int(born) < ADULT_YEARS * 10_000  # dates as YYYYMMDD


def frames_of(path: Path, image: Dataset) -> list[Frame]:
    """Read where the pictures of a file lie.

    Raises
    ------
    InputError
        When it does not say that.
    """
    found = numbers(path, image, "NumberOfFrames")
    count = 1 if found is None else int(found[0])
    groups = items(path, image, "PerFrameFunctionalGroupsSequence")
    shared = items(path, image, "SharedFunctionalGroupsSequence")[:1]
    if groups or count != 1:
        if len(groups) != count:
            raise InputError(
                f"{path} has {count} frames and says of {len(groups)} where they lie: export the "
                "series again."
            )
        return [_frame(path, n, [group, *shared, image]) for n, group in enumerate(groups)]
    return [_frame(path, 0, [*shared, image])]


def _frame(path: Path, index: int, places: list[Dataset]) -> Frame:
    """Read a frame's tags from the first place that has them."""

    def find(tag: str, count: int = 1) -> np.ndarray | None:
        for place in places[:-1]:
            for item in items(path, place, GROUPS[tag])[:1]:
                if (found := numbers(path, item, tag, count)) is not None:
                    return found
        return numbers(path, places[-1], tag, count)

    def need(tag: str, count: int) -> np.ndarray:
        if (found := find(tag, count)) is None:
            raise InputError(f"{path} does not say where its images lie ({tag}): export it again.")
        return found

    turn, spacing = need("ImageOrientationPatient", 6), need("PixelSpacing", 2)
    position = need("ImagePositionPatient", 3)
    row, column = turn[:3], turn[3:]
    square = np.array([row @ row - 1, column @ column - 1, row @ column])
    if np.abs(square).max() > RIGHT_ANGLE:
        raise InputError(
            f"{path}: its ImageOrientationPatient is no right angle: export the series again."
        )
    if spacing.min() <= 0:
        raise InputError(f"{path}: its PixelSpacing is not positive: export the series again.")
    slope, inter = find("RescaleSlope"), find("RescaleIntercept")
    if slope is not None and slope[0] == 0:
        raise InputError(f"{path}: its RescaleSlope is 0: export the series again.")
    return Frame(
        path,
        index,
        turn,
        spacing,
        position,
        slope=None if slope is None else float(slope[0]),
        inter=None if inter is None else float(inter[0]),
    )


def _mixed(where: str, tag: str) -> InputError:
    return InputError(
        f"{where} is mixed, its images differ in {tag}: give the images of one scan alone."
    )


def place_frames(
    where: str, frames: list[Frame], rows: int, columns: int
) -> tuple[list[Frame], np.ndarray]:
    """Sort frames along their normal, and find the grid on which all of them lie.

    Parameters
    ----------
    where : str
        What errors call the series.
    frames : list of Frame
    rows, columns : int
        The size of each.

    Returns
    -------
    tuple
        The frames, and (column, row, frame, 1) to LPS mm.

    Raises
    ------
    InputError
        When they lie on no even grid.
    """
    if len(frames) < 3:
        raise InputError(f"{where} has {len(frames)} image(s) and is no 3D scan: choose another.")
    turn, spacing = frames[0].turn, frames[0].spacing
    for tag, values in (
        ("ImageOrientationPatient", [frame.turn - turn for frame in frames]),
        ("PixelSpacing", [frame.spacing - spacing for frame in frames]),
    ):
        if np.abs(values).max() > TOLERANCE:
            raise _mixed(where, tag)
    normal = np.cross(turn[:3], turn[3:])
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    planes = np.stack([frame.plane for frame in frames])
    positions = planes[:, :, 2]
    _check_steps(where, np.diff(positions @ normal))

    affine = np.eye(4)
    affine[:3, :2] = planes[0, :, :2]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(frames) - 1)
    affine[:3, 3] = positions[0]
    corners = np.array([(c, r, 1) for c in (0, columns - 1) for r in (0, rows - 1)]).T
    grid = np.stack([affine[:3, [0, 1, 3]]] * len(frames))
    grid[:, :, 2] += np.arange(len(frames))[:, None] * affine[:3, 2]
    off = float(np.linalg.norm((planes - grid) @ corners, axis=1).max())
    if off > GRID_MM:
        raise InputError(
            f"{where} has images up to {off:.3g} mm beside an even grid: export a scan whose "
            "images lie evenly."
        )
    return frames, affine


def _check_steps(where: str, steps: np.ndarray) -> None:
    """Say in words what is wrong with the distances of images along their normal."""
    if steps.min() < POSITION_MM:
        raise InputError(
            f"{where} is mixed, it has several images at one place (echoes, or points in time): "
            "give the images of one scan alone."
        )
    usual = float(np.median(steps))
    gaps = np.rint(steps / usual) - 1
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
