"""Findings as a DICOM segmentation of the series that was read; needs the extra ``dicom``.

The file names the patient and the study of the series, because the standard requires it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_addm import __version__
from napari_addm.errors import AddmError
from napari_addm.io.dicom_header import import_extra
from napari_addm.io.volume import Volume

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
    pydicom, hd = import_extra("pydicom"), import_extra("highdicom")
    numbers = _shown_numbers(labels.data, rejected)
    if not len(numbers):
        return None
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    if len(images) < 2:
        raise AddmError("A DICOM segmentation of a multi-frame series cannot be written.")
    images, affine = _stack(images)
    shape = (len(images), int(images[0].Rows), int(images[0].Columns))
    # The standard counts segments from 1 without gaps.
    segments = np.searchsorted(numbers, labels.data) + 1
    segments = np.where(np.isin(labels.data, numbers), segments, 0).astype(np.uint16)
    seg = hd.seg.Segmentation(
        source_images=images,
        pixel_array=_to_pixels(segments, labels.affine, affine, shape),
        segmentation_type="BINARY",
        segment_descriptions=[
            _describe_segment(n, number, edited, locations.get(number, ""), number in accepted)
            for n, number in enumerate(numbers.tolist(), 1)
        ],
        series_instance_uid=hd.UID(),
        series_number=int(images[0].get("SeriesNumber") or 0) + 9000,
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
