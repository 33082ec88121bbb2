"""The images of a DICOM series with sound tags, as a segmentation refers to them.

De-identified images lack tags, or have values of another form than the standard's. Here such values
become empty where the standard allows it, and new where it does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm.errors import AddmError
from napari_addm.io.dicom_header import import_extra, read_dicom
from napari_addm.io.dicom_volume import LPS_TO_RAS, Frame, frames_of, place_frames

if TYPE_CHECKING:
    from pydicom import Dataset

# What a segmentation says of its patient and study; must be there, and may be empty.
EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
# What is left out where the series does not have it.
OPTIONAL = (
    *("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod", "PatientAge"),
    *("StudyDescription", "LossyImageCompression", "Manufacturer", "ManufacturerModelName"),
    *("InstitutionName", "PositionReferenceIndicator", "SliceThickness"),
)
CODES = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "LossyImageCompression": ("00", "01"),
}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
UID = re.compile(r"(?=.{1,64}$)(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
# A switch of the character set, of which pydicom leaves that to Chinese (ISO 2022 IR 58) in names.
ESCAPE = re.compile(r"\x1b[ -/]+[0-~]")
LARGEST_NUMBER = 10**8


@dataclass(frozen=True, eq=False)
class SeriesSource:
    """A series as a segmentation needs it.

    Attributes
    ----------
    images : list of Dataset
        One per slice in the order of their places, or one with all frames in its own order.
    sop_class : str
        The class that the images say they have.
    number : int
        SeriesNumber; 0 where there is none.
    affine : ndarray, shape (4, 4)
        (slice, row, column) to world RAS+ mm; slices in the order of their places.
    shape : tuple of int
        Numbers of slices, rows and columns.
    order : ndarray of int
        Which slice each image or frame is.
    """

    images: list[Dataset]
    sop_class: str
    number: int
    affine: np.ndarray
    shape: tuple[int, int, int]
    order: np.ndarray


def read_source(files: Iterable[Path]) -> SeriesSource:
    """Read the images of a series, and make their tags sound.

    Raises
    ------
    AddmError
        When a file cannot be read, or an image does not say where its pixels lie.
    """
    images = {file: read_dicom(file) for file in files}
    where = f"The series in {next(iter(images)).parent}"
    rows, columns = (_size(images, side) for side in ("Rows", "Columns"))
    frames = [frame for file, image in images.items() for frame in frames_of(file, image)]
    multi = len(images) == 1
    if not multi and len(frames) > len(images):
        raise AddmError(
            "A DICOM segmentation cannot refer to several multi-frame images: leave the "
            "segmentation out, or give one multi-frame image."
        )
    frames, affine = place_frames(where, frames, rows, columns)
    # Last decimals may differ from image to image, which a segmentation cannot say.
    frames = [replace(frame, turn=frames[0].turn, spacing=frames[0].spacing) for frame in frames]
    headers = list(images.values())
    common = _clean(headers, ENHANCED_MR if multi else MR)
    common.Rows, common.Columns = rows, columns
    uids = dict(zip(images, _own_uids(headers), strict=True))
    order = np.arange(len(frames))
    if multi:
        order[[frame.index for frame in frames]] = np.arange(len(frames))
    clean = []
    for frame in frames[:1] if multi else frames:
        image = deepcopy(common)
        image.SOPInstanceUID = uids[frame.path]
        _set_place(
            image, frame, abs(float(affine[:3, 2] @ np.cross(frame.turn[:3], frame.turn[3:])))
        )
        clean.append(image)
    if multi:
        _set_frames(clean[0], [frames[n] for n in order])
    number = _usual(headers, "SeriesNumber")
    return SeriesSource(
        images=clean,
        sop_class=_usual(headers, "SOPClassUID") or common.SOPClassUID,
        number=int(number) if number.isdecimal() and int(number) < LARGEST_NUMBER else 0,
        affine=LPS_TO_RAS @ affine[:, [2, 1, 0, 3]],
        shape=(len(frames), rows, columns),
        order=order,
    )


def _size(images: Mapping[Path, Dataset], side: str) -> int:
    count = _usual(images.values(), side)
    if not count:
        raise AddmError(
            f"{next(iter(images))}: its {side} is missing, so there is no DICOM segmentation: "
            "export the series again."
        )
    return int(count)


def _clean(images: list[Dataset], sop_class: str) -> Dataset:
    """What all images say of patient, study and series, in the form that the standard demands.

    Texts are kept as they are, but are written in UTF-8: a segmentation in the character set of
    its series could not hold some of the standard's own ways to say Korean and Japanese names.
    """
    pydicom = import_extra("pydicom")
    clean: Dataset = pydicom.Dataset()
    clean.SpecificCharacterSet = "ISO_IR 192"
    clean.SOPClassUID, clean.Modality = sop_class, "MR"
    for keyword in (*EMPTY, *OPTIONAL):
        value = _usual(images, keyword)
        if value or keyword in EMPTY:
            setattr(clean, keyword, value)
    for keyword in UIDS:
        setattr(clean, keyword, _usual(images, keyword) or pydicom.uid.generate_uid())
    return clean


def _own_uids(images: list[Dataset]) -> list[str]:
    """The SOPInstanceUID of each image; a new one where it has none of its own."""
    from pydicom.uid import generate_uid

    uids = [_text(image, "SOPInstanceUID") for image in images]
    count = Counter(uids)
    return [uid if uid and count[uid] == 1 else generate_uid() for uid in uids]


def _usual(images: Iterable[Dataset], keyword: str) -> str:
    """What most images say that say something in the right form; one of them may be damaged."""
    said = Counter(value for image in images if (value := _text(image, keyword)))
    return said.most_common(1)[0][0] if said else ""


def _text(image: Dataset, keyword: str) -> str:
    """The value of a tag, or nothing where it is missing or of another form than the standard's."""
    from pydicom import config
    from pydicom.datadict import dictionary_VR
    from pydicom.multival import MultiValue
    from pydicom.valuerep import DA, TM, PersonName, validate_value

    vr = dictionary_VR(keyword)
    try:
        value = image[keyword].value
        if vr in ("LO", "SH") and isinstance(value, MultiValue):
            value = "\\".join(value)
        if not isinstance(value, str | int | PersonName):
            return ""
        text = ESCAPE.sub("", str(value))
        if vr not in ("LO", "SH", "PN", "US"):  # too long a name is still the name
            validate_value(vr, text, config.RAISE)
        if vr in ("DA", "TM"):
            (DA if vr == "DA" else TM)(text)
    except Exception:  # pydicom raises many kinds for odd values
        return ""
    if (vr == "UI" and not UID.fullmatch(text)) or text not in CODES.get(keyword, (text,)):
        return ""
    return text


def _numbers(values: np.ndarray | list[float]) -> list[str]:
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]


def _set_place(image: Dataset, frame: Frame, distance: float) -> None:
    image.ImagePositionPatient = _numbers(frame.position)
    image.ImageOrientationPatient = _numbers(frame.turn)
    image.PixelSpacing = _numbers(frame.spacing)
    if not float(image.get("SliceThickness") or 0) > 0:
        image.SliceThickness = _numbers([distance])[0]


def _set_frames(image: Dataset, frames: list[Frame]) -> None:
    """Move the place of an image to functional groups, with that of each frame."""

    def group(name: str, **tags: Any) -> Dataset:
        groups, item = image.__class__(), image.__class__()
        for tag, value in tags.items():
            setattr(item, tag, value)
        setattr(groups, name, [item])
        return groups

    turn, spacing = image.ImageOrientationPatient, image.PixelSpacing
    shared = group("PlaneOrientationSequence", ImageOrientationPatient=turn)
    shared.update(
        group("PixelMeasuresSequence", PixelSpacing=spacing, SliceThickness=image.SliceThickness)
    )
    image.NumberOfFrames = len(frames)
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [
        group("PlanePositionSequence", ImagePositionPatient=_numbers(frame.position))
        for frame in frames
    ]
    for tag in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
    ):
        delattr(image, tag)
