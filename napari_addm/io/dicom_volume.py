"""Reading the images of a DICOM series as a volume; needs the extra ``dicom``.

A series is checked with pydicom, converted by dcm2niix in a temporary folder, and read like any
NIfTI file.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_addm.errors import InputError
from napari_addm.io.dicom import Series, import_extra
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

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
    source = replace(
        volume.source,
        path=None,
        name=series.name,
        series=series.files,
        contrast=series.contrast,
        why=series.why,
    )
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
