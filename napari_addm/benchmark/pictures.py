"""Pictures of a benchmark: the same slice of a case through every system, as PNG files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.io import imsave

from napari_addm.benchmark.cache import Maps
from napari_addm.training.labelled_scans import LabelledScan


def write_pictures(
    case: LabelledScan, systems: Iterable[tuple[str, str, Maps]], output: Path
) -> dict[str, Any]:
    """Write a case's pictures: the scan, its truth, and reconstruction and map of each system.

    Parameters
    ----------
    case : LabelledScan
    systems : iterable of (str, str, Maps)
        Title, score and maps of each system.
    output : Path
        Folder of the benchmark; the pictures go to ``pictures/`` in it.

    Returns
    -------
    dict
        A row of ``pictures``, as `napari_addm.benchmark.report` takes it.
    """
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    shown = case.shown_slice
    rows, columns = (np.flatnonzero(case.brain.any(axis=axis)) for axis in ((0, 2), (0, 1)))
    crop = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    pictures: list[dict[str, str]] = []

    def write(
        method: str, caption: str, image: NDArray[np.float32], limits: NDArray[np.float64]
    ) -> None:
        low, high = limits
        scaled = np.clip((image[crop] - low) / max(high - low, 1e-6), 0, 1)
        name = f"{case.name}-{len(pictures)}.png"
        # anterior up; the patient's right on the picture's left, as radiologists look
        picture = np.round(scaled[::-1, ::-1] * 255).astype(np.uint8)
        imsave(folder / name, picture, check_contrast=False)
        pictures.append({"method": method, "caption": caption, "path": f"pictures/{name}"})

    intensities = np.percentile(case.volume.data[case.brain], (0.5, 99.5))
    write("", "scan", case.volume.data[shown], intensities)
    write("", "truth", case.lesion[shown].astype(np.float32), np.array((0.0, 1.0)))
    for title, score, maps in systems:
        if "reconstruction" in maps.pictures:
            write(title, "", maps.pictures["reconstruction"], intensities)
        write(title, "map", maps.pictures[score], np.percentile(maps.scores[score], (50, 99.5)))
    return {"group": case.group, "case": case.name, "slice": shown, "columns": pictures}
