"""The files that a run record names: found again, read, and checked against it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.brightness import higher_of
from napari_addm.errors import AddmError
from napari_addm.io.arrays import displacement
from napari_addm.io.checks import check_affine
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.dicom import Series, find_series
from napari_addm.io.dicom_header import is_dicom
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume, volume_from_native
from napari_addm.outputs.record import SHORT, FileEntry, RunRecord

GRID_MM = 1e-3


def beside(folder: Path, entry: FileEntry) -> Path | None:
    """Return a file of a folder; None if it is not there, or the record leads elsewhere."""
    try:
        if entry.name and Path(entry.name).name == entry.name and (folder / entry.name).is_file():
            return folder / entry.name
    except (OSError, ValueError):  # no file can have this name
        pass
    return None


def find_input(what: str, option: str, entry: FileEntry, record: Path) -> Path:
    """Find an input beside the record, one folder above it, or among the bundled files.

    For BIDS derivatives, it is also looked for by content in the datasets around.

    Parameters
    ----------
    what, option : str
        How an error calls the input, and the option that says where it is.

    Raises
    ------
    AddmError
        When it is not there.
    """
    home = record.resolve().parent
    folders = (home, home.parent, DEMO_CHECKPOINT.parent)
    found = [file for folder in folders if (file := beside(folder, entry))]
    subject = next((part for part in (home, *home.parents) if part.name.startswith("sub-")), None)
    if subject is not None:  # derivatives lie in the raw dataset, or beside it
        inner = home.relative_to(subject.parent)
        around = [place for up in subject.parents[1:3] for place in (up, *up.glob("*/"))]
        raw = [file for place in around if (file := beside(place / inner, entry))]
        found += [file for file in raw if file_sha256(file) == entry.sha256]
    if not found:
        name = "(a layer without a file)" if entry.name is None else printable(entry.name, SHORT)
        raise AddmError(
            f"{record}: the {what} {name} was not found beside it: say where it is with {option}."
        )
    return next((file for file in found if file_sha256(file) == entry.sha256), found[0])


def recorded_grid(record: RunRecord, path: Path) -> Volume:
    """Return the grid of the record, without voxels."""
    shape, affine = record.geometry.shape, np.array(record.geometry.affine)
    try:
        check_affine(path, affine)
        return volume_from_native(np.broadcast_to(np.uint8(0), shape), affine)
    except (AddmError, ValueError) as error:
        raise AddmError(
            f"{path} has a geometry that no scan has: use the file as it was saved."
        ) from error


def recorded_series(record: RunRecord, scan: Path, option: str = "--scan") -> Series | None:
    """Find the recorded series in a folder of DICOM images, or beside an image; None for a file.

    Raises
    ------
    AddmError
        When it is not there.
    """
    if not scan.is_dir() and not is_dicom(scan):
        return None
    folder, entry = scan if scan.is_dir() else scan.parent, record.input
    found = {files_sha256(each.files): each for each in find_series(folder)}
    series = found.get(entry.sha256 or "")
    if series is None:
        raise AddmError(
            f"{scan} does not hold the DICOM series of the record "
            f"({printable(entry.name, SHORT)}, {entry.files} images): give the right "
            f"one with {option}."
        )
    return series


def check_scan(
    record: RunRecord, scan: Volume, path: Path, grid: Volume, option: str = "--scan"
) -> None:
    """Refuse a scan that has other voxels than the recorded one, or puts them elsewhere.

    Parameters
    ----------
    path : Path
        Where it was read.
    grid : Volume
        From `recorded_grid`.
    """
    if voxels_sha256(scan.data) != record.input.voxels_sha256:
        raise AddmError(
            f"{path} has other voxels than the scan of the record: give the right file "
            f"with {option}; a layer that was edited has to be saved first."
        )
    apart = displacement(grid.affine, scan.affine, scan.shape)
    if apart > GRID_MM:
        raise AddmError(
            f"{path} has the voxels of the record, but puts them up to {apart:.3g} mm "
            f"elsewhere: give the file as it was with {option}."
        )


def read_scan(
    record: RunRecord, path: Path, given: Path | None = None, option: str = "--scan"
) -> Volume:
    """Read the scan of a record, and make sure that it is that one.

    Parameters
    ----------
    path : Path
        The record.
    given : Path, optional
        Where the scan is; looked for as `find_input` does by default.
    option : str
        The option that says where it is, for errors.
    """
    file = given or find_input("scan", option, record.input, path)
    series = recorded_series(record, file, option)
    scan = read_volume(file, frame=record.input.frame) if series is None else read_series(series)
    check_scan(record, scan, file, recorded_grid(record, path), option)
    return scan


def read_saved(
    record: RunRecord,
    folder: Path,
    scan: Volume,
    problems: list[str],
    keys: Collection[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """Read the maps beside the record.

    Parameters
    ----------
    scan : Volume
        Gives the grid that they have to lie on.
    problems : list of str
        Gets a sentence for each file that is missing or changed.
    keys : collection of str, optional
        Keys of the files that count; all of them by default.

    Returns
    -------
    dict of str to ndarray, shape (S, A, R)
        By their keys.
    """
    saved = {}
    for key, entry in record.outputs.items():
        if keys is not None and key not in keys:
            continue
        file = beside(folder, entry)
        if file is None:
            problems.append(f"{printable(entry.name, SHORT)} is not beside the record.")
            continue
        try:
            if entry.voxels_sha256 is None:
                intact = file_sha256(file) == entry.sha256
            else:
                read = read_labels(file) if key == "labels" else read_volume(file, constant=True)
                intact = voxels_sha256(read.data) == entry.voxels_sha256
                if not read.same_grid(scan):
                    problems.append(f"{file.name} lies on another grid than the scan.")
                elif intact:
                    saved[key] = read.data
        except AddmError as error:
            problems.append(str(error))
        else:
            if not intact:
                problems.append(f"{file.name} was changed since it was saved.")
    return saved


def highest(saved: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The map that findings lie in, of `read_saved`; see `Detection.highest`."""
    return higher_of(saved["anomaly"], saved.get("brightness"))
