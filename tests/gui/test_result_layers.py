"""Result layers lie where their scan lies, and are known by identity: copies are a person's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dask.array
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.experimental import link_layers
from napari.layers import Image, Labels, Layer
from napari.layers.utils.stack_utils import images_to_stack, stack_to_images
from numpy.testing import assert_allclose, assert_array_equal

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.pipeline import run as detect
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.review.marking import CachedLabeller, LabelledFindings
from napari_addm.widgets.contributions import read_layers, write_image, write_labels
from napari_addm.widgets.finding_colors import finding_colors
from napari_addm.widgets.layer_registry import TITLES, is_output
from napari_addm.widgets.layer_volumes import LayerData, scan_volume
from napari_addm.widgets.layers import volume_to_layer
from napari_addm.widgets.result_layers import ResultLayers
from napari_addm.widgets.viewing.visibility import give_back, put_away

PLACE = ("scale", "translate", "rotate", "shear", "affine")
MAPS = ("reconstruction", "anomaly map", "brightness", "uncertainty", "anomalies")
CORNER = (0, 0, 0)
LOW, HIGH = 0.01, 0.02
MOVES: dict[str, dict[str, Any]] = {
    "scale": {"scale": (4.0, 4.0, 4.0)},
    "one axis": {"scale": (5.0, 5.0, 7.5)},
    "shift": {"translate": (30.0, -10.0, 5.0)},
    "scale and shift": {"scale": (2.0, 3.0, 4.0), "translate": (-30.0, 0.0, 7.0)},
    "rotation": {"rotate": (20.0, 0.0, 0.0)},
    "shear": {"shear": (0.2, 0.0, 0.1)},
    "affine": {"affine": np.array([[0, 1, 0, 3], [1, 0, 0, 5], [0, 0, 2.0, 0], [0, 0, 0, 1]])},
    "mirror": {"scale": (5.0, 5.0, -5.0)},
    "units": {"units": ("um", "um", "um")},
}


@pytest.fixture(scope="module")
def detection(scan: Volume, tiny_checkpoint: Any) -> Detection:
    """What a run of two draws gives, which has an uncertainty; and a brightness."""
    settings = DetectionSettings(draws=2, device="cpu")
    found = detect(scan, load_checkpoint(tiny_checkpoint), settings)
    return replace(found, brightness=scan.with_data(-found.anomaly.data))


class Results:
    """Runs on one scan layer: they all give the same detection, or another one with a seed."""

    def __init__(self, viewer: Any, scan: Layer, detection: Detection) -> None:
        self.viewer, self.scan, self.first = viewer, scan, detection
        self.run()

    def run(self, seed: int = 0, further: bool = True) -> None:
        """Show a result as a run does."""
        scan = LayerData.of(self.scan)
        maps: dict[str, Volume | None] = {
            name: self._scaled(name, 1 + seed)
            for name in ("anomaly", "reconstruction", "brightness", "uncertainty")
        }
        if not further:
            maps["brightness"] = maps["uncertainty"] = None
        self.detection = replace(self.first, **maps)
        volume = scan_volume(scan)
        self.layers = ResultLayers(self.viewer, scan, self.scan.unique_id, volume)
        self.layers.show(self.detection, LOW)
        self.labeller = CachedLabeller(self.detection)
        self.mark(LOW)

    def _scaled(self, name: str, factor: float) -> Volume:
        volume = getattr(self.first, name)
        return volume.with_data(factor * volume.data)

    def mark(self, threshold: float) -> None:
        """Show the findings under a threshold."""
        self.marked: LabelledFindings = self.labeller.label(threshold, 0.0)
        colors = finding_colors(None, (), 3)
        self.layers.show_labels(self.marked.labels, colors, self.marked.box)

    def __getitem__(self, title: str) -> Layer:
        (found,) = outputs(self.viewer, title)
        return found


@pytest.fixture
def viewer(qapp: Any) -> ViewerModel:
    """All of a viewer but its window."""
    return ViewerModel()


@pytest.fixture
def results(viewer: ViewerModel, scan: Volume, detection: Detection) -> Results:
    return Results(viewer, add(viewer, scan), detection)


def add(viewer: Any, volume: Volume, kind: str = "image", **options: Any) -> Layer:
    data, arguments, _ = volume_to_layer(volume, kind, **{"name": "head"} | options)
    return viewer.add_layer((Image if kind == "image" else Labels)(data, **arguments))


def outputs(viewer: Any, title: str) -> list[Layer]:
    """All of a title; napari puts a number behind a name that is taken."""
    return [
        one
        for one in viewer.layers
        if is_output(one) and one.name.split(" [")[0].endswith(f" {title}")
    ]


def move(layer: Layer, how: dict[str, Any]) -> None:
    for name, value in how.items():
        setattr(layer, name, value)


def lies_on(layer: Layer, scan: Layer) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(layer, name)), np.asarray(getattr(scan, name)))
        for name in PLACE
    ) and tuple(layer.units) == tuple(scan.units)


def duplicate(viewer: Any, layer: Layer) -> Layer:
    """Copy a layer as napari's *Duplicate* does."""
    data, state, kind = layer.as_layer_data_tuple()
    return viewer.add_layer(
        Layer.create(data.copy(), {**state, "name": f"{layer.name} copy"}, kind)
    )


def convert(viewer: Any, layer: Layer, kind: str) -> Layer:
    """Make a layer of another kind as napari's *Convert to* does."""
    state = {name: getattr(layer, name) for name in ("name", "metadata", "axis_labels", "units")}
    state |= {name: getattr(layer, name) for name in PLACE}
    if np.issubdtype(layer.data.dtype, np.integer):
        viewer.layers.remove(layer)
        return viewer.add_layer(Layer.create(layer.data, state, kind))
    return viewer.add_layer(Layer.create(layer.data.astype(int), state, kind))


def created(viewer: Any, layer: Layer) -> Layer:
    """As a script copies a layer: the voxels are the same in memory."""
    return viewer.add_layer(Layer.create(*layer.as_layer_data_tuple()))


COPIES = (duplicate, created)


# --- making and updating them --------------------------------------------------------------------


def test_a_result_is_shown_over_its_scan(results: Results, viewer: ViewerModel) -> None:
    detection = results.detection
    assert_array_equal(results["reconstruction"].data, detection.reconstruction.data)
    assert_array_equal(results["anomaly map"].data, detection.anomaly.data)
    assert_array_equal(results["anomalies"].data, results.marked.labels)
    assert results.marked.labels.any()
    assert all(lies_on(results[title], results.scan) for title in MAPS)
    shown = {title: results[title].visible for title in MAPS}
    assert [title for title in MAPS if shown[title]] == ["anomaly map", "anomalies"]
    bright, low = results["brightness"], results["anomaly map"].contrast_limits[0]
    assert_array_equal(bright.data, detection.brightness.data)
    assert sum(bright.contrast_limits) == 0
    colors = bright.colormap.map(
        np.interp([-2 * LOW, -low, 0, low, 2 * LOW], bright.contrast_limits, [0, 1])
    )
    assert_allclose(colors[1:4, 3], 0, atol=1e-3)  # clear where an anomaly map is
    assert colors[0, 2] > colors[0, 0]  # blue
    assert colors[4, 2] < colors[4, 0]  # orange
    assert viewer.layers.selection.active is results.scan  # it stays chosen in the layer list


def test_only_the_slices_that_changed_are_written(results: Results) -> None:
    before = results["anomaly map"].data.copy()
    moved = results.detection.anomaly.with_data(results.detection.anomaly.data * 2)
    results.layers.show(replace(results.detection, anomaly=moved), LOW, [14, 15])
    after = results["anomaly map"].data
    assert_array_equal(after[14:16], moved.data[14:16])
    kept = np.r_[:14, 16 : len(after)]
    assert_array_equal(after[kept], before[kept])


def test_the_next_run_takes_the_layers_over(results: Results) -> None:
    before = {title: results[title] for title in MAPS}
    results["anomaly map"].translate = (1, 2, 3)  # a person has moved it alone
    results["anomalies"].scale = (1, 2, 3)
    results.run(seed=5)
    for title, layer in before.items():
        assert results[title] is layer
        assert lies_on(layer, results.scan)
    assert_array_equal(results["anomaly map"].data, results.detection.anomaly.data)
    results.run(further=False)
    assert outputs(results.viewer, "uncertainty") == outputs(results.viewer, "brightness") == []


def test_a_deleted_layer_stays_deleted_until_the_next_run(results: Results) -> None:
    duplicate(results.viewer, results["anomalies"]).name = "my reading"
    results.viewer.layers.remove(results["anomalies"])
    results.mark(HIGH)
    assert outputs(results.viewer, "anomalies") == []
    results.run()
    assert results["anomalies"].data.any()


def test_a_result_waits_while_another_scan_is_in_view(
    viewer: ViewerModel, scan: Volume, detection: Detection
) -> None:
    layer = add(viewer, scan)
    put_away(layer)
    results = Results(viewer, layer, detection)
    assert not any(results[title].visible for title in MAPS)
    for one in viewer.layers:
        give_back(one)
    shown = [title for title in MAPS if results[title].visible]
    assert shown == ["anomaly map", "anomalies"]


# --- where they lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", MOVES)
def test_results_follow_a_scan_that_is_moved(results: Results, how: str) -> None:
    scan, viewer = results.scan, results.viewer
    results.layers.show_agreement(np.zeros(scan.data.shape, np.uint8))
    results.layers.show_earlier(scan.data, np.zeros(scan.data.shape, np.uint8))
    results["anomalies"].paint(CORNER, 5)
    results.mark(HIGH)
    before = {name: np.array(getattr(scan, name)) for name in PLACE}
    units = scan.units
    move(scan, MOVES[how])
    made = [one for one in viewer.layers if one is not scan]
    assert {one.name for one in made} >= {f"head {title}" for title in TITLES.values()}
    assert "head anomalies, corrected" in viewer.layers
    assert all(lies_on(one, scan) for one in made)
    assert results.layers.misfit == "place"
    move(scan, before | {"units": units})
    assert results.layers.misfit == ""
    assert all(lies_on(one, scan) for one in made)
    move(scan, MOVES[how])
    assert results.layers.misfit == "place"
    viewer.layers.remove(scan)
    assert results.layers.misfit == "place"  # it stays when the scan is closed


def test_a_scan_with_other_voxels_no_longer_fits(results: Results, detection: Detection) -> None:
    scan = results.scan
    for data in (scan.data[::-1].copy(), scan.data[2:].copy()):
        scan.data = data
        assert results.layers.misfit == "voxels"


def test_results_follow_a_lazy_scan_with_an_axis_before_its_three(
    viewer: ViewerModel, scan: Volume, detection: Detection
) -> None:
    data = dask.array.from_array(scan.data[None], chunks=(1, 8, -1, -1))
    layer = viewer.add_layer(Image(data, name="lazy", scale=(1, 5, 5, 5), contrast_limits=(0, 140)))
    results = Results(viewer, layer, detection)
    assert results.layers.misfit == ""
    layer.scale, layer.translate = (1, 2, 3, 4), (0, 5, 6, 7)
    for title in MAPS:
        assert_allclose(results[title].scale, (2, 3, 4))
        assert_allclose(results[title].translate, (5, 6, 7))
    assert results.layers.misfit == "place"


@pytest.mark.parametrize("how", ["scale", "shift", "rotation", "mirror", "affine"])
def test_layers_are_saved_where_they_lie(results: Results, tmp_path: Any, how: str) -> None:
    """Scan, results and copies; the geometry of the scan's file does not win over a move."""
    layers = {title: results[title] for title in ("anomaly map", "anomalies")}
    layers |= {"scan": results.scan, "copy": duplicate(results.viewer, layers["anomalies"])}
    move(layers["scan"], MOVES[how])
    move(layers["copy"], MOVES[how])
    for name, saved in layers.items():
        data, meta, kind = saved.as_layer_data_tuple()
        write = write_labels if kind == "labels" else write_image
        (path,) = write(str(tmp_path / f"{name.replace(' ', '_')}_{kind}.nii.gz"), data, meta)
        again = read_volume(path, constant=True)
        for index in (CORNER, (16, 20, 11), tuple(np.array(data.shape) - 1)):
            world = np.array(saved.data_to_world(index))[::-1]
            inside = np.linalg.solve(again.affine, np.append(world, 1))[:3]
            assert_allclose(inside, np.round(inside), atol=1e-3)
            there = tuple(np.round(inside).astype(int))
            assert_allclose(again.data[there], data[index], atol=1e-5)


def test_a_saved_layer_opens_where_it_lay(results: Results, tmp_path: Any) -> None:
    scan, labels = results.scan, results["anomalies"]
    scan.scale = 2 * scan.scale
    scan.translate = scan.translate + np.array([30.0, 20.0, 10.0])
    (path,) = write_labels(str(tmp_path / "labels.nii.gz"), *labels.as_layer_data_tuple()[:2])
    (made,) = read_layers(path)
    again = Layer.create(*made)
    assert_allclose(again.scale, scan.scale, rtol=1e-6)
    assert_allclose(again.translate, scan.translate, atol=1e-4)
    assert_array_equal(again.data, labels.data)


def test_results_are_called_as_their_scan_is(results: Results) -> None:
    results["anomalies"].paint(CORNER, 5)
    results.mark(HIGH)
    results["uncertainty"].name = "spread"
    results.scan.name = "patient 7"
    names = {"patient 7", "patient 7 reconstruction", "patient 7 anomaly map", "spread"}
    names |= {"patient 7 brightness", "patient 7 anomalies", "patient 7 anomalies, corrected"}
    assert {layer.name for layer in results.viewer.layers} == names
    results.viewer.layers.remove(results["anomaly map"])
    findings = results["anomalies"]
    findings.name = "lesions"
    findings.paint(CORNER, 5)
    results.run(seed=5)
    names |= {"lesions", "lesions, corrected"}
    assert {layer.name for layer in results.viewer.layers} == names - {"patient 7 anomalies"}


@pytest.mark.parametrize(
    "change",
    [
        lambda viewer, labels: link_layers([labels, viewer.layers[0]]),
        lambda viewer, labels: labels.data.setflags(write=False),
    ],
    ids=["linked with the scan", "read-only"],
)
def test_findings_go_on_when_a_person_has_changed_their_layer(
    results: Results, viewer: ViewerModel, change: Callable[..., Any]
) -> None:
    before = viewer.layers[0].colormap
    change(viewer, results["anomalies"])
    results.mark(HIGH)
    results.layers.color_labels(finding_colors(1, (), 3))
    assert_array_equal(results["anomalies"].data, results.marked.labels)
    assert viewer.layers[0].colormap == before


# --- whose they are ------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", [True, False])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_the_findings_is_a_persons_own(
    results: Results, how: Callable[..., Layer], deleted: bool
) -> None:
    labels = results["anomalies"]
    copy = how(results.viewer, labels)
    if deleted:
        results.viewer.layers.remove(labels)
    assert not is_output(copy)
    before = copy.data.copy()
    copy.paint(CORNER, 7)
    mine, look = copy.data.copy(), copy.colormap.colors.copy()
    for update in (lambda: results.mark(HIGH), results.run):
        update()
        assert copy in results.viewer.layers
        assert_array_equal(copy.data, mine)
        assert_array_equal(copy.colormap.colors, look)
    assert results["anomalies"] is not copy
    copy.undo()
    assert_array_equal(copy.data, before)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("title", MAPS[:4])
def test_a_copy_of_a_map_is_a_persons_own(
    results: Results, title: str, how: Callable[..., Layer]
) -> None:
    copy = how(results.viewer, results[title])
    kept = copy.data.copy()
    for seed in (3, 4):
        results.run(seed)
        assert_array_equal(copy.data, kept)
        assert not np.array_equal(results[title].data, kept)
        results.viewer.layers.remove(results[title])
    results.run(further=False)
    assert copy in results.viewer.layers


def test_hits_and_misses(results: Results) -> None:
    """They cover the findings; a copy, and strokes on them, are a person's own."""
    overlay = results.marked.labels.clip(max=2).astype(np.uint8)
    results.layers.show_agreement(overlay)
    shown = results[TITLES["agreement"]]
    assert not results["anomalies"].visible
    copy = duplicate(results.viewer, shown)
    kept = copy.data.copy()
    shown.paint(CORNER, 3)
    drawn = shown.data.copy()
    results.layers.hide_agreement()
    assert results["anomalies"].visible
    corrected = results.viewer.layers["head hits and misses, corrected"]
    assert_array_equal(corrected.data, drawn)
    results.run()
    assert_array_equal(copy.data, kept)


@pytest.mark.parametrize("title", ["reconstruction", "anomaly map"])
def test_projections_and_stacks_are_a_persons_own(results: Results, title: str) -> None:
    viewer, result = results.viewer, results[title]
    viewer.add_image(result.data.max(axis=0), metadata=result.metadata)
    viewer.layers.extend(stack_to_images(duplicate(viewer, result), 0))
    slices = [one for one in viewer.layers if one.ndim == 2]
    assert len(slices) == 1 + result.data.shape[0]
    kept = [np.array(one.data) for one in slices]
    results.run(seed=5)
    for one, data in zip(slices, kept, strict=True):
        assert not is_output(one)
        assert_array_equal(one.data, data)
    originals = [results["reconstruction"], results["anomaly map"]]
    merged = images_to_stack(originals)
    for one in originals:
        viewer.layers.remove(one)
    viewer.add_layer(merged)
    held = np.array(merged.data)
    results.run()
    assert not is_output(merged)
    assert_array_equal(merged.data, held)
    assert results[title].ndim == 3


def test_findings_that_are_converted_to_an_image_are_made_anew(results: Results) -> None:
    viewer, labels = results.viewer, results["anomalies"]
    image = convert(viewer, labels, "image")
    assert labels not in viewer.layers
    kept = np.array(image.data)
    for update in (lambda: results.mark(HIGH), results.run, lambda: results.mark(HIGH)):
        update()
        made = results["anomalies"]
        assert isinstance(made, Labels)
        assert lies_on(made, results.scan)
        assert_array_equal(made.data, results.marked.labels)
        assert not is_output(image)
        assert_array_equal(image.data, kept)


def test_a_map_that_is_converted_to_labels_harms_nothing(results: Results) -> None:
    viewer, original = results.viewer, results["anomaly map"]
    copy = convert(viewer, original, "labels")
    assert copy.name == "head anomaly map [1]"
    kept = copy.data.copy()
    viewer.layers.remove(original)
    results.run()
    assert isinstance(results["anomaly map"], Image)
    assert_array_equal(copy.data, kept)


@pytest.mark.parametrize("how", ["operation", "dtype", "in place", "stroke"])
@pytest.mark.parametrize("then", ["mark", "run"])
def test_corrections_of_the_findings_are_kept(results: Results, how: str, then: str) -> None:
    """However they are made; labels of another type are no correction."""
    viewer, labels = results.viewer, results["anomalies"]
    if how == "operation":
        labels.data = np.where(labels.data == 1, 0, labels.data)
    elif how == "dtype":
        labels.data = labels.data.astype("int64")
    elif how == "in place":
        labels.data[:2] = 9
        labels.refresh()
    else:
        labels.paint(CORNER, 7)
    mine = labels.data
    held = mine.copy()
    assert is_output(labels)
    assert_array_equal(results.layers.labels(), held)  # they are saved
    if then == "mark":
        results.mark(HIGH)
    else:
        results.run()
    assert_array_equal(results["anomalies"].data, results.marked.labels)
    corrected = [one for one in viewer.layers if one.name == "head anomalies, corrected"]
    if how == "dtype":
        assert corrected == []
    else:
        assert_array_equal(corrected[0].data, held)
        assert results.layers.corrected == "head anomalies, corrected"
    if how in ("operation", "dtype"):
        assert_array_equal(mine, held)  # the person's own array


def test_strokes_cannot_be_undone_or_redone_on_other_labels(results: Results) -> None:
    labels, viewer = results["anomalies"], results.viewer
    labels.mode = "paint"
    labels.paint(CORNER, 7)
    labels.undo()  # so that it is no correction
    count = len(viewer.layers)
    results.mark(HIGH)
    assert len(viewer.layers) == count
    labels.redo()
    assert_array_equal(labels.data, results.marked.labels)
    assert labels.mode == "paint"  # the person goes on
    labels.paint(CORNER, 7)
    labels.undo()
    assert_array_equal(labels.data, results.marked.labels)


@pytest.mark.parametrize("title", ["anomaly map", "reconstruction", "anomalies"])
def test_a_layer_that_was_given_other_voxels_is_a_persons_own(results: Results, title: str) -> None:
    """A map may get any other voxels; the findings may get those of another shape."""
    taken = results[title]
    mine = np.array(taken.data[2:, 1:]) if title == "anomalies" else np.array(taken.data) * 2
    taken.data = mine
    held = mine.copy()
    if title == "anomalies":
        results.mark(HIGH)
        assert results[title] is not taken
    results.run(seed=4)
    assert not is_output(taken)
    assert lies_on(results[title], results.scan)
    assert taken.data is mine
    assert_array_equal(mine, held)


def test_a_copy_in_another_viewer_is_a_persons_own(results: Results, make_napari_viewer) -> None:
    other = make_napari_viewer()
    copies = {title: created(other, results[title]) for title in ("anomaly map", "anomalies")}
    kept = {title: copy.data.copy() for title, copy in copies.items()}
    results.mark(HIGH)
    assert not np.array_equal(results["anomalies"].data, kept["anomalies"])
    results.run(seed=7)
    for title, copy in copies.items():
        assert_array_equal(copy.data, kept[title])
