"""Findings as a DICOM segmentation of the series that was read; needs the extra ``dicom``.

The file names the patient and the study of the series, because the standard requires it.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm import __version__
from napari_addm.errors import AddmError
from napari_addm.io.dicom_header import import_extra
from napari_addm.io.remarks import DO_NOT_TRUST
from napari_addm.io.volume import Volume
from napari_addm.outputs.dicom_source import read_source

if TYPE_CHECKING:
    from pydicom import Dataset

# Largest distance of a label from a pixel of the series, in voxels.
GRID_VOXELS = 0.05
MOST_SEGMENTS = 1000


def write_seg(
    path: Path,
    labels: Volume,
    files: Iterable[Path],
    *,
    edited: bool = False,
    locations: Mapping[int, str] = MappingProxyType({}),
    accepted: Collection[int] = (),
    rejected: Collection[int] = (),
    alarm: str = "",
) -> Path | None:
    """Write findings as a DICOM segmentation of the series that the scan came from.

    It has one segment per finding that is not rejected, labeled with the finding's number.
    The voxels lie on the pixels of the series.

    Parameters
    ----------
    path : Path
        To write; not overwritten.
    labels : Volume of int
        0 = no finding, on the grid of `napari_addm.io.dicom_volume.read_series`.
    files : iterable of Path
        The images of the series.
    edited : bool
        Whether a person changed the findings.
    locations : mapping of int to str
        Places of the findings in words, by their numbers.
    accepted, rejected : collection of int
        Numbers of the findings that a person accepted, which their segments say, and of those
        that are left out, because an archive shows no decisions.
    alarm : str
        Why the findings are not to be trusted, if they are not: the names of content and series
        say so, and the structured report says why.

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
    numbers = _shown_numbers(labels.data, rejected)
    if not len(numbers):
        return None
    descriptions = [
        _describe_segment(n, number, edited, locations.get(number, ""), number in accepted)
        for n, number in enumerate(numbers.tolist(), 1)
    ]
    # The standard counts segments from 1 without gaps.
    segments = np.searchsorted(numbers, labels.data) + 1
    segments = np.where(np.isin(labels.data, numbers), segments, 0).astype(np.uint16)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of highdicom quote the patient's name
            _segmentation(
                labels.with_data(segments), files, descriptions, trusted=not alarm
            ).save_as(path)
    except AddmError:
        raise
    except Exception as error:  # pydicom and highdicom raise many kinds for odd images
        raise AddmError(
            "The images of the series do not allow a DICOM segmentation "
            f"({type(error).__name__}): leave it out."
        ) from error
    return path


def check_seg(scan: Volume) -> None:
    """Refuse a scan of which no segmentation can be written, by writing one of a single voxel.

    Raises
    ------
    AddmError
        When it does not come from a DICOM series, or its images do not allow a segmentation.
    """
    check_comes_from_dicom(scan)
    voxel = np.zeros(scan.shape, np.uint8)
    voxel.flat[0] = 1
    with TemporaryDirectory(prefix="napari-addm-") as folder:
        write_seg(Path(folder) / "seg.dcm", scan.with_data(voxel), scan.source.series)


def check_comes_from_dicom(scan: Volume) -> None:
    """Refuse a scan that does not come from a DICOM series."""
    if not scan.source.series:
        raise AddmError(
            f"{scan.name} does not come from a DICOM series, so there is nothing that a "
            "DICOM segmentation could belong to: leave it out, or detect in the DICOM folder."
        )


def _segmentation(
    segments: Volume, files: Iterable[Path], descriptions: list[Any], trusted: bool
) -> Dataset:
    """A segmentation of a series, of the numbers of the descriptions' segments."""
    hd = import_extra("highdicom")
    series = read_source(files)
    pixels = _to_pixels(segments.data, segments.affine, series.affine, series.shape)
    # 64 letters at most
    what, doubt = ("Anomalies;", "") if trusted else (f"{DO_NOT_TRUST} Only", "DO NOT TRUST, ")
    seg: Dataset = hd.seg.Segmentation(
        source_images=series.images,
        pixel_array=pixels[series.order],
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=series.number + 9000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-addm",
        manufacturer_model_name="napari-addm",
        software_versions=__version__,
        device_serial_number="0",
        content_description=f"{what} for research, not for diagnosis",
        content_label="FINDINGS",
        series_description=f"napari-addm findings, {doubt}research only",
    )
    for element in seg.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = series.sop_class
    return seg


def _shown_numbers(labels: np.ndarray, rejected: Collection[int]) -> np.ndarray:
    """The numbers of the findings that are not rejected."""
    numbers = np.unique(labels)
    numbers = numbers[(numbers != 0) & ~np.isin(numbers, list(rejected))]
    if len(numbers) > MOST_SEGMENTS:
        raise AddmError(
            f"{len(numbers)} findings are too many for a DICOM segmentation ({MOST_SEGMENTS}): "
            "raise the threshold or the smallest volume."
        )
    return numbers


def _describe_segment(n: int, number: int, edited: bool, location: str, accepted: bool) -> Any:
    """The description of the n-th segment, which holds one finding."""
    from pydicom.sr.codedict import codes

    hd = import_extra("highdicom")
    segment = hd.seg.SegmentDescription(
        segment_number=n,
        segment_label=f"Finding {number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="SEMIAUTOMATIC" if edited else "AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="ADDM", family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )
    words = "; ".join(filter(None, [location, "accepted by a person" if accepted else ""]))
    if words:  # highdicom has no argument for it
        segment.SegmentDescription = words[0].upper() + words[1:]
    return segment


def _to_pixels(
    data: np.ndarray, affine: np.ndarray, pixel_affine: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Reorder voxels to the pixels of a stack of images; they are never resampled."""
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
