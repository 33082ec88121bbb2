"""A case of a cohort in the viewer: its scan, and what a batch has saved of it, exactly over it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_addm.cohort import CohortCase, CohortFolder
from napari_addm.errors import AddmError
from napari_addm.io import read_labels, read_volume, resample_labels
from napari_addm.volume import Volume
from napari_addm.widgets.canvases import stand_upright
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.results import ResultLayers, finding_colors
from napari_addm.widgets.worker import LayerData, Placed

if TYPE_CHECKING:
    import napari

CASE_KEY = "napari_addm_case"

# What is read of a saved result, in the order of the layers, and what it is called.
MAPS = {"recon": "reconstruction", "anomaly": "anomaly", "uncertainty": "uncertainty"}
WORDS = {"recon": "reconstruction", "anomaly": "anomaly map", "uncertainty": "uncertainty map"}


@dataclass(frozen=True)
class CaseVersion:
    """Which result of which case: layers carry it, so that they are found again.

    Attributes
    ----------
    output : str
        The folder of the results.
    case : str
    key : str
        Hash of scan, model and settings; empty while the case is not done.
    """

    output: str
    case: str
    key: str


@dataclass(frozen=True, eq=False)
class SavedCase:
    """A case as its files have it.

    Attributes
    ----------
    version : CaseVersion
    scan : Volume
    maps : dict of str to ndarray
        By the roles of `napari_addm.widgets.results.TITLES`, on the scan's voxels.
    labels : ndarray of int or None
    truth : Volume or None
        On the scan's voxels.
    threshold : float
        That the findings were marked with.
    notes : tuple of str
        What is missing, or cannot be shown.
    """

    version: CaseVersion
    scan: Volume
    maps: dict[str, np.ndarray]
    labels: np.ndarray | None
    truth: Volume | None
    threshold: float
    notes: tuple[str, ...]


def read_case(
    case: CohortCase, output: Path, frame: int | None
) -> Iterator[CaseVersion | SavedCase]:
    """Read a case; a generator for `napari_addm.widgets.worker.Job`.

    Yields
    ------
    CaseVersion
        First, so that what is open already need not be read.
    SavedCase

    Raises
    ------
    AddmError
        When the scan cannot be read. Results that cannot are named in the notes.
    """
    result, _ = CohortFolder(output).read_state(case.name)
    done = result is not None and result.status == "done"
    version = CaseVersion(str(output), case.name, result.key if result and done else "")
    yield version
    # napari imports it with the first labels layer, which would hold the viewer up.
    import_module("pandas")
    scan = read_volume(case.scan, frame=frame)
    notes: list[str] = []
    paths = case.paths(output)
    written = {} if result is None else result.files
    maps: dict[str, np.ndarray] = {}
    labels = None
    if not done:
        notes.append("It has no results yet.")
    else:
        for key, role in MAPS.items():
            wanted = key != "uncertainty" or _name(paths[key], output) in written
            if wanted and (found := _beside(paths[key], WORDS[key], scan, notes)) is not None:
                maps[role] = found.data
            yield version  # a chance to stop
        found = _beside(paths["labels"], "anomalies", scan, notes)
        labels = None if found is None else found.data
    truth = None
    if case.truth is not None:
        try:
            truth = read_labels(case.truth)
            if not truth.same_grid(scan):
                truth = resample_labels(truth, scan)
            truth = scan.with_data((truth.data != 0).astype(np.uint8), truth.warnings)
        except AddmError as error:
            notes.append(case.told(str(error)))
    threshold = _threshold(paths["record"]) if done else 0.0
    yield SavedCase(version, scan, maps, labels, truth, threshold, tuple(notes))


def _name(path: Path, output: Path) -> str:
    return path.relative_to(output).as_posix()


def _beside(path: Path, what: str, scan: Volume, notes: list[str]) -> Volume | None:
    """A saved map, if it is there and lies on the scan's voxels."""
    if not path.exists():
        notes.append(f"There is no {what}: {path.name} is missing.")
        return None
    try:
        is_labels = what == "anomalies"
        found = read_labels(path) if is_labels else read_volume(path, constant=True)
    except AddmError as error:
        notes.append(str(error).replace(str(path), path.name))
        return None
    if not found.same_grid(scan):
        notes.append(f"{path.name} lies on other voxels than the scan: run the batch again.")
        return None
    return found


def _threshold(record: Path) -> float:
    try:
        return float(json.loads(record.read_text(encoding="utf-8"))["threshold"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # it is only for the contrast


def bring_up(viewer: napari.viewer.Viewer, version: CaseVersion) -> bool:
    """Show the layers of a case above all others, if they are open.

    Of other cases the layers are hidden: one lies where the other does.

    Returns
    -------
    bool
        Whether they are. Those of an older result of the case are closed.
    """
    mine = [layer for layer in viewer.layers if _version(layer) == version]
    for layer in list(viewer.layers):
        other = _version(layer)
        if other is None or other == version:
            continue
        if (other.output, other.case) == (version.output, version.case):
            viewer.layers.remove(layer)
        else:
            layer.visible = False
    whole = mine and len(mine) == mine[0].metadata[CASE_KEY][1]
    if not whole:
        for layer in mine:  # some were closed by hand: all come anew
            viewer.layers.remove(layer)
        return False
    layers = viewer.layers
    layers.move_multiple([layers.index(layer) for layer in mine], len(layers))
    for layer in mine:
        layer.visible = not layer.name.endswith(("reconstruction", "uncertainty"))
    layers.selection.active = mine[0]
    return True


def show_case(viewer: napari.viewer.Viewer, saved: SavedCase) -> None:
    """Add the layers of a case, and go to its largest finding."""
    if bring_up(viewer, saved.version):
        return
    stand_upright(viewer)
    data, arguments, _ = volume_to_layer(saved.scan, name=saved.version.case)
    scan = viewer.add_layer(Image(data, **arguments))
    added: list[Layer] = [scan]
    if saved.maps or saved.labels is not None:
        before = set(viewer.layers)
        results = ResultLayers(
            viewer, LayerData.of(scan), scan.unique_id, Placed(saved.scan, in_layer_order=True)
        )
        results.show_saved(saved.maps, saved.labels, saved.threshold)
        if saved.labels is not None:
            results.color_labels(finding_colors(None, (), int(saved.labels.max())))
        added += [layer for layer in viewer.layers if layer not in before]
    if saved.truth is not None:
        data, arguments, _ = volume_to_layer(
            saved.truth, "labels", name=f"{saved.version.case} ground truth"
        )
        truth = viewer.add_layer(Labels(data, **arguments))
        truth.contour = 1  # what is below stays to be seen
        added.append(truth)
    for layer in added:
        layer.metadata[CASE_KEY] = (saved.version, len(added))
    viewer.layers.selection.active = scan
    viewer.reset_view()
    point = scan.data_to_world(_place_to_look(saved))
    viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), point)


def _place_to_look(saved: SavedCase) -> tuple[float, ...]:
    """A voxel in the middle of the largest finding, or of the scan."""
    if saved.labels is not None:
        places = np.argwhere(saved.labels == 1)
        if len(places):
            apart = np.linalg.norm(places - places.mean(axis=0), axis=1)
            return tuple(places[np.argmin(apart)].tolist())
    return tuple((np.array(saved.scan.shape) // 2).tolist())


def _version(layer: Layer) -> CaseVersion | None:
    kept = layer.metadata.get(CASE_KEY)
    return None if kept is None else kept[0]
