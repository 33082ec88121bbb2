"""A case of a cohort in the viewer: its scan, and what a batch has saved of it, exactly over it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels, Layer

from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.folder import CohortFolder
from napari_addm.errors import AddmError
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.resampling import resample_labels
from napari_addm.io.volume import Volume
from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.layer_registry import forget_output, is_changed, is_output
from napari_addm.widgets.layer_volumes import LayerData, LayerVolume
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.run_layers import CORRECTED, voxel_type
from napari_addm.widgets.viewing.chosen_scan import fit, look_at
from napari_addm.widgets.viewing.connections import unwrapped
from napari_addm.widgets.viewing.planes import stand_upright
from napari_addm.widgets.viewing.visibility import belongs_to, give_back, put_away

if TYPE_CHECKING:
    import napari

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
        By the roles of `napari_addm.widgets.result_layers.TITLES`, on the scan's voxels.
    labels : ndarray of int or None
    truth : Volume or None
        On the scan's voxels.
    threshold : float
        That the findings were marked with.
    place : tuple of int
        A voxel (s, a, r) in the middle of the largest finding, or of the scan.
    notes : tuple of str
        What is missing, or cannot be shown.
    """

    version: CaseVersion
    scan: Volume
    maps: dict[str, np.ndarray]
    labels: np.ndarray | None
    truth: Volume | None
    threshold: float
    place: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _CaseLayer:
    """What is known of a layer that shows a part of a case; copies of it are a person's own.

    Attributes
    ----------
    version : CaseVersion
    many : int
        How many layers the case has.
    truth : ndarray or None
        Of a ground truth, its voxels as they came.
    """

    version: CaseVersion
    many: int
    truth: np.ndarray | None


_cases: WeakKeyDictionary[Layer, _CaseLayer] = WeakKeyDictionary()


def read_case(
    case: CohortCase, output: Path, frame: int | None
) -> Iterator[CaseVersion | SavedCase]:
    """Read a case; a generator for `napari_addm.widgets.jobs.Job`.

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
    state = CohortFolder(output).states.read_own(case)
    result = None if state is None else state.result
    done = state is not None and state.done
    version = CaseVersion(str(output), case.name, result.key if result and done else "")
    yield version
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
                maps[role] = np.ascontiguousarray(found.data, voxel_type(role))
            yield version  # a chance to stop
        found = _beside(paths["labels"], "anomalies", scan, notes)
        if found is not None:
            labels = np.ascontiguousarray(found.data, voxel_type("labels"))
    truth = None
    if case.truth is not None:
        try:
            truth = read_labels(case.truth)
            if not truth.same_grid(scan):
                truth = resample_labels(truth, scan)
            truth = scan.with_data((truth.data != 0).astype(np.uint8), truth.warnings)
        except AddmError as error:
            notes.append(case.shorten_paths(str(error)))
    threshold = _threshold(paths["record"]) if done else 0.0
    yield version
    place = _place_to_look(labels, scan.shape)
    yield SavedCase(version, scan, maps, labels, truth, threshold, place, tuple(notes))


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
    """Show the layers of a case above all others, if they are open, as they were seen last.

    Those of other cases are hidden: one lies where the other does.

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
            _close(viewer, layer)
        else:
            put_away(layer)
    whole = mine and len(mine) == _cases[unwrapped(mine[0])].many
    if not whole:
        close_case(viewer, version)  # some were closed by hand: all come anew
        return False
    layers = viewer.layers
    layers.move_multiple([layers.index(layer) for layer in mine], len(layers))
    for layer in mine:
        give_back(layer)
    mine[0].visible = True
    layers.selection.active = mine[0]
    look_at(viewer, mine[0])
    return True


def show_case(viewer: napari.viewer.Viewer, saved: SavedCase) -> None:
    """Add the layers of a case, and go to its largest finding."""
    if bring_up(viewer, saved.version):
        return
    stand_upright(viewer)
    layers = _add_layers(viewer, saved)
    for layer in layers:
        truth = saved.truth if isinstance(layer, Labels) and not is_output(layer) else None
        kept = None if truth is None else truth.data.copy()
        _cases[unwrapped(layer)] = _CaseLayer(saved.version, len(layers), kept)
    scan = layers[0]
    viewer.layers.selection.active = scan
    point = scan.data_to_world(saved.place)
    viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), point)


def close_case(viewer: napari.viewer.Viewer, version: CaseVersion) -> None:
    """Take the layers of a case away."""
    for layer in [layer for layer in viewer.layers if _version(layer) == version]:
        _close(viewer, layer)


def _close(viewer: napari.viewer.Viewer, layer: Layer) -> None:
    """Take a layer of a case away, unless a person has drawn on it: then it is theirs."""
    kept = _cases.pop(unwrapped(layer))
    if is_changed(layer) or (
        kept.truth is not None and not np.array_equal(np.asarray(layer.data), kept.truth)
    ):
        forget_output(layer)
        layer.name = CORRECTED.format(layer.name)
    else:
        viewer.layers.remove(layer)


def _add_layers(viewer: napari.viewer.Viewer, saved: SavedCase) -> list[Layer]:
    """Add the layers of a case; gives them, the scan first."""
    data, arguments, _ = volume_to_layer(saved.scan, name=saved.version.case)
    scan = viewer.add_layer(Image(data, **arguments))
    fit(viewer, scan)
    layers = [scan]
    volume = LayerVolume(saved.scan, in_layer_order=True)
    results = ResultLayers(viewer, LayerData.of(scan), scan.unique_id, volume)
    parts = saved.maps if saved.labels is None else {**saved.maps, "labels": saved.labels}
    for role, part in parts.items():
        results.make(role, saved.threshold, part)
        if role == "labels":
            results.color_labels(finding_colors(None, (), int(part.max())))
        layers.append(results.layer(role))
    if saved.truth is not None:
        name = f"{saved.version.case} ground truth"
        data, arguments, _ = volume_to_layer(saved.truth, "labels", name=name)
        truth = Labels(data, **arguments)
        truth.contour = 1  # what is below stays to be seen
        belongs_to(truth, scan.unique_id)
        layers.append(viewer.add_layer(truth))
    return layers


def _place_to_look(labels: np.ndarray | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A voxel in the middle of the largest finding, or of the scan."""
    if labels is not None:
        places = np.argwhere(labels == 1)
        if len(places):
            apart = np.linalg.norm(places - places.mean(axis=0), axis=1)
            return tuple(places[np.argmin(apart)].tolist())
    return tuple(n // 2 for n in shape)


def _version(layer: Layer) -> CaseVersion | None:
    kept = _cases.get(unwrapped(layer))
    return None if kept is None else kept.version
