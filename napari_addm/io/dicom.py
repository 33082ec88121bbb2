"""Finding and choosing DICOM series; needs the extra ``dicom``.

Only headers are read, and only of plain files: a pipe or a device is never opened.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_addm.errors import InputError
from napari_addm.io.contrast import (
    AGENT_TAGS,
    OTHER_SCAN,
    Contrast,
    contrast_of_series,
    is_brain_t1,
    is_other_scan,
)
from napari_addm.io.dicom_header import NO_DICOM, import_extra, is_dicom, read_dicom, text
from napari_addm.io.files import belongs_to_system
from napari_addm.io.remarks import caution

if TYPE_CHECKING:
    from pydicom import Dataset

_log = logging.getLogger(__name__)

TAGS = (
    "Modality",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "Rows",
    "InstanceNumber",
    "EchoTime",
    "ImagePositionPatient",
    *AGENT_TAGS,
)
# Tags that name people; a scanner's user may have typed the same words into the description.
NAMES = (
    *("PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
)
# Images that agree in these are copies of one; an anonymizer may give all images one UID.
SAME_IMAGE = ("SOPInstanceUID", "InstanceNumber", "EchoTime", "ImagePositionPatient")
# Programs that compress a copy may write 2.50 as 2.5.
LAST_ZEROS = re.compile(r"(?<=\d)(?:(\.\d*[1-9])|\.)0+(?=[],]|$)")
WORD = re.compile(r"[^\W_]+")
MR_CLASSES = {f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("4", "4.1", "4.4")}
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


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
    uid : str
        Its SeriesInstanceUID; where that is missing, folder and number.
    is_t1 : bool
        Whether its words are those of a T1 of the brain, with contrast agent or without.
    contrast : Contrast
        Whether it was made with contrast agent.
    title : str
        The description without the words of any name in the header, for the screen.
    why : str
        Why `pick_series` chose it.
    notes : tuple of str
        What was left out beside the images, and whether its words are those of another scan, one
        sentence each, without a name.
    """

    number: int
    description: str
    files: tuple[Path, ...]
    uid: str
    is_t1: bool
    contrast: Contrast
    title: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of files made from it: without the folder, which may name a patient."""
        return f"dicom_series{self.number}"

    def __str__(self) -> str:
        words = f"{self.number}: {self.description or 'unnamed'} ({len(self.files)} images"
        return f"{words}; contrast agent: {self.contrast})" if self.is_t1 else f"{words})"


def find_series(folder: Path) -> list[Series]:
    """Find the MR series in a folder and below it, sorted by their numbers.

    Files that cannot be read are left out. The log says so by name, and `Series.notes` in numbers.

    Raises
    ------
    InputError
        When there is none.
    MissingExtraError
        Without the extra ``dicom``.
    """
    import_extra("pydicom")
    members: dict[str, dict[object, tuple[Path, Dataset]]] = defaultdict(dict)
    odd: dict[Path, str] = {}
    for path in _walk(folder, odd):
        try:
            image = read_dicom(path, (*TAGS, *NAMES))
        except InputError as error:
            odd[path] = str(error).removeprefix(f"{path} ").partition(":")[0].rstrip(".")
            continue
        if not text(image, "SeriesInstanceUID") and "Rows" not in image:
            if not _is_directory(image):
                odd[path] = "is damaged"
        else:
            # The same image twice, as after copying a disc twice, is one image.
            known = [LAST_ZEROS.sub(r"\1", text(image, tag)) for tag in SAME_IMAGE]
            key = tuple(known) if known[0] else path
            members[_series_key(path, image)].setdefault(key, (path, image))
    groups = {
        uid: _without_others(list(images.values()), odd)
        for uid, images in members.items()
        # A damaged image may have lost either tag; it still belongs to its series.
        if any(_is_mr(image) for _, image in images.values())
        and any("Rows" in image for _, image in images.values())
    }
    beside = {_kind(path) for images in groups.values() for path, _ in images}
    odd = {
        path: why
        for path, why in odd.items()
        # macOS writes files that begin with a dot beside those of other disks
        if why != NO_DICOM or (_kind(path) in beside and not path.name.startswith("."))
    }
    for path, reason in odd.items():
        _log.warning("%s %s, so it was left out.", path, reason)
    if not groups:
        hidden = f", but {len(odd)} file(s) or folder(s) that cannot be read" if odd else ""
        raise InputError(
            f"{folder} holds no MR images in DICOM format{hidden}: choose another folder."
        )
    found = [_series(uid, images, odd) for uid, images in groups.items()]
    return sorted(found, key=lambda series: (series.number, series.uid))


def series_at(path: Path, number: int | None = None) -> Series:
    """Return the series of one of its images, or of a folder or a DICOMDIR; see `pick_series`.

    Raises
    ------
    InputError
        When it is damaged, no MR image, or does not say which series.
    """
    if path.is_dir():
        return pick_series(path, number)
    image = read_dicom(path, TAGS)
    if number is not None or _is_directory(image):
        return pick_series(path.parent, number)
    key = _series_key(path, image)
    for series in find_series(path.parent):
        if series.uid == key:
            return replace(series, why="the series of the image that was given")
    raise InputError(f"{path} is no MR image: choose another.")


def _walk(folder: Path, odd: dict[Path, str]) -> Iterator[Path]:
    """Yield the plain files in a folder and below it, through links; note the others."""

    def note(error: OSError) -> None:
        odd[Path(error.filename)] = f"cannot be read ({error.strerror})"

    seen = set()
    for here, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders.sort()
        place = os.path.realpath(here)
        if place in seen or belongs_to_system(Path(place)):  # a link that leads back, or to /proc
            folders.clear()
            continue
        seen.add(place)
        for path in sorted(Path(here, name) for name in names):
            try:
                plain = path.is_file()
            except OSError as error:
                note(error)
            else:
                if plain:
                    yield path
                else:
                    odd[path] = "is no plain file"


def _kind(path: Path) -> tuple[Path, str]:
    """The folder of a file, and its suffix where that is not the end of a number, or .gz."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    return path.parent, "" if suffix[1:].isdigit() else suffix.lower()


def _series_key(path: Path, image: Dataset) -> str:
    return text(image, "SeriesInstanceUID") or f"{path.parent} {text(image, 'SeriesNumber')}"


def _is_mr(image: Dataset) -> bool:
    # Anonymizers that empty the modality, or make it "other", keep the class.
    modality = text(image, "Modality").upper().replace("OT", "")
    return (modality or text(image, "SOPClassUID")) in {"MR", *MR_CLASSES}


def _without_others(
    images: list[tuple[Path, Dataset]], odd: dict[Path, str]
) -> list[tuple[Path, Dataset]]:
    """Leave out, and note, raw data and screenshots that lie in one series with MR images."""
    others = {path for path, image in images if text(image, "SOPClassUID") not in {"", *MR_CLASSES}}
    if not any(text(image, "SOPClassUID") in MR_CLASSES for _, image in images):
        return images
    odd.update(dict.fromkeys(others, "is no MR image"))
    return [(path, image) for path, image in images if path not in others]


def _is_directory(image: Dataset) -> bool:
    """Whether a file is the DICOMDIR of a disc, which lists the images."""
    return text(image.file_meta, "MediaStorageSOPClassUID") == DIRECTORY_CLASS


def _series(uid: str, members: list[tuple[Path, Dataset]], odd: dict[Path, str]) -> Series:
    def usual(tag: str) -> str:
        """What most images say, because one of them may be damaged."""
        return Counter(text(image, tag) for _, image in members).most_common(1)[0][0]

    said, protocol = usual("SeriesDescription"), usual("ProtocolName")
    words = said or protocol
    tags: dict[str, set[str]] = defaultdict(set)
    for _, image in members:
        for tag in filter(image.__contains__, AGENT_TAGS):
            tags[tag].add(text(image, tag))
    printable = "".join(c if c.isprintable() else " " for c in words)
    description = " ".join(printable.split())[:60]
    number = usual("SeriesNumber")
    part = usual("BodyPartExamined")
    reasons = Counter(reason.partition(" (")[0] for reason in odd.values())
    notes = [
        caution(
            f"In the folder of the DICOM images {count} file(s) or folder(s) were left out: each "
            f"{reason}."
        )
        for reason, count in reasons.items()
    ]
    if is_other_scan(words, part):
        notes.append(OTHER_SCAN)
    return Series(
        number=int(number) if re.fullmatch("[0-9]{1,9}", number) else 0,
        description=description,
        files=tuple(path for path, _ in members),
        uid=uid,
        is_t1=is_brain_t1(words, part),
        contrast=contrast_of_series(said, protocol, tags),
        title=_without_names(description, [usual(tag) for tag in NAMES]) or f"series {number}",
        notes=tuple(notes),
    )


def _without_names(words: str, names: list[str]) -> str:
    """Leave out the words that occur in names, and what is left around them."""
    known = {word for name in names for word in WORD.findall(name.casefold()) if len(word) > 1}
    kept = WORD.sub(lambda word: "" if word[0].casefold() in known else word[0], words)
    return re.sub(r"([\s_^.,-])[\s_^.,-]+", r"\1", kept).strip(" _^.,-")


def holds_dicom(folder: Path, most: int = 2000) -> bool:
    """Return whether one of the first files in a folder or below it is DICOM.

    A disc has hundreds of files of its viewer.
    """
    return any(is_dicom(path) for path, _ in zip(_walk(folder, {}), range(most), strict=False))


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
    fix = "choose one with --series, or give"
    if number is not None and chosen:
        fix = f"give one of its images ({' or '.join(str(each.files[0]) for each in chosen)}), or"
    raise InputError(
        f"{folder} holds {what} {which}: {fix} a folder of one series "
        f"({'; '.join(str(each) for each in series)})."
    )
