"""The images of a DICOM series with sound tags, as a segmentation refers to them.

De-identified images lack tags, or have values of another form than the standard's. Here such values
become empty where the standard allows it, and new where it does not.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm.errors import AddmError
from napari_addm.io.dicom_header import import_extra

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
    *("InstitutionName", "PositionReferenceIndicator"),
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
    pydicom = import_extra("pydicom")
    images = []
    for file in files:
        try:
            images.append(pydicom.dcmread(file, stop_before_pixels=True, force=True))
        except Exception as error:  # pydicom raises many kinds for a damaged file
            raise AddmError(
                f"{file} cannot be read, so there is no DICOM segmentation: copy the series again."
            ) from error
    frames = [Place.of(groups) for image in images for groups in _functional_groups(image)]
    multi = len(images) == 1
    if not multi and len(frames) > len(images):
        raise AddmError(
            "A DICOM segmentation cannot refer to several multi-frame images: leave the "
            "segmentation out, or give one multi-frame image."
        )
    order = np.argsort([frame.position @ frames[0].normal for frame in frames], kind="stable")
    slices = [frames[n] for n in order]
    distance = abs(float(_step(slices) @ frames[0].normal))
    header = _clean(images, MR if not multi else ENHANCED_MR)
    for side in ("Rows", "Columns"):
        count = _usual(images, side)
        if not count:
            raise _placeless(side)
        setattr(header, side, int(count))
    uids = _own_uids(images)
    clean = []
    for n in [0] if multi else order:
        image = deepcopy(header)
        image.SOPInstanceUID = uids[n]
        if multi:
            _set_frames(image, frames, distance)
        else:
            _set_place(image, frames[n], distance)
        clean.append(image)
    number = _usual(images, "SeriesNumber")
    return SeriesSource(
        images=clean,
        sop_class=_usual(images, "SOPClassUID") or clean[0].SOPClassUID,
        number=int(number) if number.isdecimal() and int(number) < LARGEST_NUMBER else 0,
        affine=_affine(slices),
        shape=(len(frames), header.Rows, header.Columns),
        order=np.argsort(order) if multi else np.arange(len(frames)),
    )


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


def _usual(images: list[Dataset], keyword: str) -> str:
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


# --- places --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Place:
    """Where the pixels of an image or a frame lie: LPS mm, as the standard has it."""

    position: np.ndarray
    cosines: np.ndarray
    spacing: np.ndarray
    thickness: float

    @classmethod
    def of(cls, groups: list[Dataset]) -> Place:
        """Take the place out of the first groups of tags that have it."""

        def find(keyword: str, count: int) -> np.ndarray:
            for group in groups:
                with contextlib.suppress(Exception):  # pydicom raises many kinds for odd values
                    numbers = np.array(group[keyword].value, float).ravel()
                    if numbers.size == count and np.isfinite(numbers).all():
                        return numbers
            raise _placeless(keyword)

        thickness = 0.0
        with contextlib.suppress(AddmError):
            thickness = float(find("SliceThickness", 1)[0])
        return cls(
            find("ImagePositionPatient", 3),
            find("ImageOrientationPatient", 6),
            find("PixelSpacing", 2),
            thickness,
        )

    @property
    def normal(self) -> np.ndarray:
        """Direction across the pixels."""
        return np.cross(self.cosines[:3], self.cosines[3:])


def _placeless(keyword: str) -> AddmError:
    return AddmError(
        f"The images of the series do not say where they lie ({keyword}): leave the DICOM "
        "segmentation out."
    )


def _functional_groups(image: Dataset) -> list[list[Dataset]]:
    """For each frame, the datasets that may hold its place; a single image is its own."""
    if "PerFrameFunctionalGroupsSequence" not in image:
        return [[image]]
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    shared = image.get("SharedFunctionalGroupsSequence") or []
    return [
        [item for group in (frame, *shared) for name in names for item in group.get(name) or ()]
        for frame in image.get("PerFrameFunctionalGroupsSequence") or ()
    ]


def _step(slices: list[Place]) -> np.ndarray:
    if len(slices) < 2:
        raise AddmError("A DICOM segmentation of a single image cannot be written: leave it out.")
    step: np.ndarray = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    return step


def _affine(slices: list[Place]) -> np.ndarray:
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = _step(slices)
    affine[:3, 1] = first.cosines[3:] * first.spacing[0]
    affine[:3, 2] = first.cosines[:3] * first.spacing[1]
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's world is LPS


def _numbers(values: np.ndarray | list[float]) -> list[str]:
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]


def _set_place(image: Dataset, place: Place, distance: float) -> None:
    image.ImagePositionPatient = _numbers(place.position)
    image.ImageOrientationPatient = _numbers(place.cosines)
    image.PixelSpacing = _numbers(place.spacing)
    image.SliceThickness = _numbers([place.thickness if place.thickness > 0 else distance])[0]


def _set_frames(image: Dataset, frames: list[Place], distance: float) -> None:
    """Write the places of frames as functional groups."""

    def group(**sequences: dict[str, Any]) -> Dataset:
        dataset = image.__class__()
        for name, tags in sequences.items():
            item = image.__class__()
            for tag, value in tags.items():
                setattr(item, tag, value)
            setattr(dataset, name, [item])
        return dataset

    single = image.__class__()
    _set_place(single, frames[0], distance)
    image.NumberOfFrames = len(frames)
    image.SharedFunctionalGroupsSequence = [
        group(
            PlaneOrientationSequence={"ImageOrientationPatient": single.ImageOrientationPatient},
            PixelMeasuresSequence={
                "PixelSpacing": single.PixelSpacing,
                "SliceThickness": single.SliceThickness,
            },
        )
    ]
    image.PerFrameFunctionalGroupsSequence = [
        group(PlanePositionSequence={"ImagePositionPatient": _numbers(frame.position)})
        for frame in frames
    ]
