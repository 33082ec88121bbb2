"""Result layers lie where their scan lies, and are told from a person's own by their identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.layers._layer_actions import (
    _convert_dtype,
    _convert_to_image,
    _convert_to_labels,
    _duplicate_layer,
    _merge_stack,
    _project,
    _split_stack,
)
from numpy.testing import assert_allclose, assert_array_equal

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.run import BatchSettings, run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.findings.findings import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.record import read_record
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.contributions import read_layers, write_image, write_labels
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_registry import TITLES, is_output
from napari_addm.widgets.layers import layer_to_volume, volume_to_layer
from napari_addm.widgets.viewing.canvas_tools import LETTER

LESION = (25.0, -20.0, 15.0, 20.0)
AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000
PLACE = ("scale", "translate", "rotate", "shear", "affine")
MAPS = ("reconstruction", "anomaly map", "uncertainty", "anomalies")
CORNER = (0, 0, 0)


@pytest.fixture(scope="module")
def scan_file(make_brain: Callable[..., Volume], tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    return write_volume(folder / "head.nii.gz", make_brain(AFFINE, SHAPE, (LESION,)))


@pytest.fixture
def scan(scan_file: Path) -> Volume:
    return read_volume(scan_file)


@pytest.fixture
def model() -> ViewerModel:
    """All of a viewer but its window."""
    return ViewerModel()


@pytest.fixture
def panel(model: ViewerModel, tiny_checkpoint: Path, qtbot: Any) -> DetectWidget:
    return new_panel(model, tiny_checkpoint, qtbot)


def new_panel(model: Any, checkpoint: Path, qtbot: Any | None = None) -> DetectWidget:
    """A panel; without `qtbot` one that the test has to close itself."""
    widget = DetectWidget(model)
    if qtbot is not None:
        qtbot.addWidget(widget)
    widget.checkpoint_chooser.choose(checkpoint)
    widget.device.setCurrentText("cpu")
    widget.precision.setCurrentText("float32")
    widget.threshold.setValue(0.01)  # an untrained network finds something everywhere
    return widget


def add(viewer: Any, volume: Volume, kind: str = "image", **options: Any) -> Layer:
    data, arguments, _ = volume_to_layer(volume, kind, **options)
    layer = (Image if kind == "image" else Labels)(data, **arguments)
    viewer.add_layer(layer)
    return layer


def finish(qtbot: Any, panel: DetectWidget) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=MINUTE)
    qtbot.waitUntil(lambda: panel._aside not in Job._worker_set, timeout=MINUTE)
    qtbot.wait(50)


def run(qtbot: Any, panel: DetectWidget) -> None:
    panel.run()
    assert panel.running
    finish(qtbot, panel)
    assert panel.error.text() == ""


def close(qtbot: Any, panel: DetectWidget) -> None:
    """As a person closes it: the viewer and its layers stay."""
    panel.close()
    with qtbot.waitSignal(panel.destroyed):
        panel.leave()


def outputs(viewer: Any, title: str) -> list[Layer]:
    """Those of a title; napari puts a number behind a name that is taken."""
    return [
        one
        for one in viewer.layers
        if is_output(one) and one.name.split(" [")[0].endswith(f" {title}")
    ]


def output(viewer: Any, title: str) -> Layer:
    (found,) = outputs(viewer, title)
    return found


def lies_on(layer: Layer, scan: Layer) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(layer, name)), np.asarray(getattr(scan, name)))
        for name in PLACE
    ) and tuple(layer.units) == tuple(scan.units)


def choices(chooser: Any) -> list[str]:
    return [chooser.itemText(n) for n in range(chooser.count())]


def truth_of(volume: Volume) -> Volume:
    return volume.with_data((volume.data > 120).astype(np.uint8))


# --- where they lie ------------------------------------------------------------------------------

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


def move(layer: Layer, how: dict[str, Any]) -> None:
    for name, value in how.items():
        setattr(layer, name, value)


@pytest.mark.parametrize("how", MOVES)
def test_results_follow_a_scan_that_is_moved(model, panel, qtbot, scan, tmp_path, how) -> None:
    layer = add(model, scan)
    truth = add(model, truth_of(scan), "labels", name="truth")
    panel.truth_chooser.choose(truth)
    panel.draws.setValue(2)
    run(qtbot, panel)
    panel.agreement.view.overlay.setChecked(True)
    qtbot.waitUntil(lambda: bool(outputs(model, TITLES["agreement"])), timeout=MINUTE)
    results = [one for one in model.layers if is_output(one)]
    assert len(results) == 5
    labels = output(model, "anomalies")
    labels.paint(CORNER, 5)
    panel.threshold.setValue(0.011)
    qtbot.waitUntil(lambda: "head anomalies, corrected" in model.layers, timeout=MINUTE)

    move(layer, MOVES[how])
    # an overlay that belongs to the old place may be gone, what is there lies where the scan lies
    for one in (*results, model.layers["head anomalies, corrected"]):
        assert lies_on(one, layer), one.name
    # nothing of the old voxel size is shown, or written
    assert panel.outcome.misfit
    qtbot.waitUntil(lambda: not panel.save_button.isEnabled(), timeout=MINUTE)
    assert "press Run again" in panel.whose.text()
    assert "head" in panel.whose.text()
    assert panel.findings_section.isHidden()
    assert panel.metrics.isHidden()
    panel.save(tmp_path / "out")
    finish(qtbot, panel)
    assert "press Run again" in panel.error.text()
    assert not (tmp_path / "out").exists()
    panel.views.figure.export(tmp_path / "figure.png")
    assert "press Run again" in panel.views.figure.note.text()


def test_a_scan_that_is_moved_back_has_its_results_again(
    model, panel, qtbot, scan, tmp_path
) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    before = np.array(layer.scale)
    found = panel.count.text()
    layer.scale = 2 * before
    qtbot.waitUntil(lambda: not panel.save_button.isEnabled(), timeout=MINUTE)
    layer.scale = before
    qtbot.waitUntil(lambda: panel.save_button.isEnabled(), timeout=MINUTE)
    assert panel.whose.isHidden()
    assert not panel.findings_section.isHidden()
    assert panel.count.text() == found
    panel.save(tmp_path)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert (tmp_path / "head_record.json").exists()


@pytest.mark.parametrize("how", ["scale", "shift", "scale and shift", "rotation", "mirror"])
@pytest.mark.parametrize("reader", ["ours", "another"])
def test_a_new_run_has_the_new_place(model, panel, qtbot, scan, tmp_path, how, reader) -> None:
    if reader == "ours":
        layer = add(model, scan)
    else:
        layer = Image(scan.data, name="head", contrast_limits=(0, 140))
        layer.scale = (5.0, 5.0, 5.0)
        model.add_layer(layer)
    run(qtbot, panel)
    before = {title: output(model, title) for title in ("reconstruction", "anomaly map")}
    move(layer, MOVES[how])
    run(qtbot, panel)
    assert panel.outcome.misfit == ""
    assert panel.whose.isHidden()
    for title, was in before.items():
        assert output(model, title) is was  # taken over
    expected = layer_to_volume(layer)
    for title in ("reconstruction", "anomaly map", "anomalies"):
        result = output(model, title)
        assert lies_on(result, layer)
        assert_allclose(layer_to_volume(result).affine, expected.affine, atol=1e-4)
    assert_allclose(panel.outcome.scan.affine, expected.affine, atol=1e-4)
    assert_allclose(panel.outcome.detection.anomaly.affine, expected.affine, atol=1e-4)
    findings = panel.outcome.marked.findings
    voxels = np.array([np.sum(panel.outcome.marked.labels == id) for id in findings.id])
    assert_allclose(findings.volume_ml, voxels * expected.voxel_ml)
    panel.save(tmp_path)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    (saved,) = tmp_path.glob("*_anomaly.nii.gz")
    assert read_volume(saved).same_grid(expected)


def test_a_run_after_a_new_scale_is_that_of_a_fresh_panel(
    model, panel, qtbot, scan, tiny_checkpoint
) -> None:
    """No reconstruction of the old voxel size is taken over."""
    layer = add(model, scan)
    run(qtbot, panel)
    old = panel.outcome.detection.anomaly.data.copy()
    layer.scale = np.array(layer.scale) * 0.8
    run(qtbot, panel)
    other = ViewerModel()
    fresh = new_panel(other, tiny_checkpoint, qtbot)
    other.add_layer(Layer.create(*layer.as_layer_data_tuple()))
    run(qtbot, fresh)
    assert_array_equal(panel.outcome.detection.anomaly.data, fresh.outcome.detection.anomaly.data)
    assert not np.array_equal(panel.outcome.detection.anomaly.data, old)


def test_a_scan_that_is_moved_amid_a_run(model, panel, qtbot, scan, tmp_path) -> None:
    layer = add(model, scan)
    panel.batch_size.setValue(1)
    panel.draws.setValue(4)
    panel.run()
    layer.translate = layer.translate + np.array([30.0, 0, 0])  # before any layer is there
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    layer.scale = 2 * layer.scale  # when they are
    finish(qtbot, panel)
    for title in MAPS:
        assert lies_on(output(model, title), layer)
    assert "press Run again" in panel.whose.text()
    assert not panel.save_button.isEnabled()
    panel.save(tmp_path / "out")
    finish(qtbot, panel)
    assert not (tmp_path / "out").exists()


def test_a_preview_after_a_move_has_the_new_place(model, panel, qtbot, scan) -> None:
    layer = add(model, scan)
    panel.show()
    model.dims.set_current_step(0, 16)
    panel.follow.box.setChecked(True)
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    first = panel.outcome
    layer.scale = 0.8 * layer.scale
    layer.translate = layer.translate + np.array([0, 30.0, 0])
    qtbot.waitUntil(
        lambda: panel.outcome is not first and panel.outcome.detection is not None, timeout=MINUTE
    )
    assert_allclose(panel.outcome.scan.spacing, 4)
    assert panel.outcome.misfit == ""
    for title in ("reconstruction", "anomaly map", "anomalies"):
        assert lies_on(output(model, title), layer)
    panel.follow.box.setChecked(False)
    qtbot.waitUntil(lambda: not panel.follow.working, timeout=MINUTE)


def test_results_follow_a_scan_with_an_axis_before_its_three(model, panel, qtbot, scan) -> None:
    layer = Image(scan.data[None], name="head", scale=(1, 5, 5, 5), contrast_limits=(0, 140))
    model.add_layer(layer)
    run(qtbot, panel)
    layer.scale = (1, 2, 3, 4)
    layer.translate = (0, 5, 6, 7)
    for title in ("reconstruction", "anomaly map", "anomalies"):
        assert_allclose(output(model, title).scale, (2, 3, 4))
        assert_allclose(output(model, title).translate, (5, 6, 7))
    assert panel.outcome.misfit
    run(qtbot, panel)
    assert_allclose(panel.outcome.scan.spacing, (2, 3, 4))


def test_a_scan_that_is_closed_after_a_move_stays_unfit(
    model, panel, qtbot, scan, tmp_path
) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    layer.scale = 2 * layer.scale
    qtbot.waitUntil(lambda: not panel.save_button.isEnabled(), timeout=MINUTE)
    model.layers.remove(layer)
    qtbot.wait(50)
    assert "press Run again" in panel.whose.text()
    panel.save(tmp_path / "out")
    finish(qtbot, panel)
    assert not (tmp_path / "out").exists()


def test_a_result_that_was_moved_alone_lies_over_the_scan_after_a_run(
    model, panel, qtbot, scan
) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    output(model, "anomaly map").translate = (1, 2, 3)
    output(model, "anomalies").scale = (1, 2, 3)
    run(qtbot, panel)
    assert lies_on(output(model, "anomaly map"), layer)
    assert lies_on(output(model, "anomalies"), layer)


def test_results_follow_when_no_panel_is_left(model, tiny_checkpoint, qtbot, scan) -> None:
    panel = new_panel(model, tiny_checkpoint)
    layer = add(model, scan)
    run(qtbot, panel)
    close(qtbot, panel)
    layer.translate = (1, 2, 3)
    assert lies_on(output(model, "anomaly map"), layer)


@pytest.mark.parametrize("other", ["voxels", "shape"])
def test_a_scan_with_other_voxels_no_longer_fits(
    model, panel, qtbot, scan, tmp_path, other
) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    layer.data = scan.data[::-1].copy() if other == "voxels" else scan.data[2:].copy()
    qtbot.waitUntil(lambda: not panel.save_button.isEnabled(), timeout=MINUTE)
    assert "have been replaced" in panel.whose.text()
    panel.save(tmp_path / "out")
    finish(qtbot, panel)
    assert not (tmp_path / "out").exists()
    run(qtbot, panel)
    for title in ("reconstruction", "anomaly map", "anomalies"):
        result = output(model, title)
        assert result.data.shape == layer.data.shape
        assert lies_on(result, layer)
    assert panel.outcome.misfit == ""


@pytest.mark.parametrize("how", ["scale", "shift", "rotation", "mirror", "affine"])
def test_layers_are_saved_where_they_lie(model, panel, qtbot, scan, tmp_path, how) -> None:
    """Scan, results and copies; the geometry of the scan's file does not win over a move."""
    layer = add(model, scan)
    run(qtbot, panel)
    layers = {title: output(model, title) for title in ("anomaly map", "anomalies")}
    model.layers.selection = {layers["anomalies"]}
    _duplicate_layer(model.layers)
    layers |= {"scan": layer, "copy": model.layers["head anomalies copy"]}
    move(layer, MOVES[how])
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


def test_a_saved_layer_opens_where_it_lay(model, panel, qtbot, scan, tmp_path) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    layer.scale = 2 * layer.scale
    layer.translate = layer.translate + np.array([30.0, 20.0, 10.0])
    result = output(model, "anomalies")
    (path,) = write_labels(str(tmp_path / "labels.nii.gz"), *result.as_layer_data_tuple()[:2])
    (made,) = read_layers(path)
    again = Layer.create(*made)
    assert_allclose(again.scale, layer.scale, rtol=1e-6)
    assert_allclose(again.translate, layer.translate, atol=1e-4)
    assert_array_equal(again.data, result.data)


def test_decisions_stay_with_their_voxels_when_a_scan_is_mirrored(
    model, panel, qtbot, scan
) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    table = panel.findings.table
    id = table.model.finding(0).id
    table.decide(id, Decision("rejected", "a vessel"))
    scale, translate = np.array(layer.scale), np.array(layer.translate)
    layer.scale = scale * (1, 1, -1)
    run(qtbot, panel)
    assert table.decisions == {}
    layer.scale, layer.translate = scale, translate
    run(qtbot, panel)
    assert table.decisions == {id: Decision("rejected", "a vessel")}


def test_a_ground_truth_that_is_moved_is_compared_no_longer(model, panel, qtbot, scan) -> None:
    add(model, scan)
    truth = add(model, truth_of(scan), "labels", name="truth")
    panel.truth_chooser.choose(truth)
    run(qtbot, panel)
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    truth.translate = truth.translate + np.array([30.0, 0, 0])
    qtbot.waitUntil(lambda: panel.outcome.agreement is None, timeout=MINUTE)
    assert "does not lie on the voxels" in panel.grid_message.text()
    truth.translate = truth.translate - np.array([30.0, 0, 0])
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    assert panel.grid_message.text() == ""


def test_letters_and_canvases_follow_a_scan_that_is_moved(
    make_napari_viewer_proxy, monkeypatch, tiny_checkpoint, qtbot, scan
) -> None:
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer_proxy(show=True)
    panel = DetectWidget(viewer)
    viewer.window.add_dock_widget(panel)
    panel.checkpoint_chooser.choose(tiny_checkpoint)
    panel.device.setCurrentText("cpu")
    layer = add(viewer, scan)
    run(qtbot, panel)

    def letters() -> set[str]:
        overlays = viewer.canvas.overlays
        return {name for name in overlays if name.startswith(LETTER) and overlays[name].visible}

    qtbot.waitUntil(lambda: len(letters()) == 4, timeout=MINUTE)
    panel.views.three_planes.setChecked(True)
    canvases = panel.views.canvases.dock.canvases
    qtbot.waitUntil(lambda: all(canvas.complete for canvas in canvases), timeout=MINUTE)
    layer.scale = 2 * layer.scale
    layer.translate = layer.translate + np.array([30.0, 0, 0])
    assert len(letters()) == 4
    for canvas in canvases:
        for one in viewer.layers:
            assert lies_on(canvas.copy_of(one), layer)
    layer.scale = layer.scale * (1, 1, -1)  # whose left is it now?
    assert letters() == set()
    panel.views.three_planes.setChecked(False)
    qtbot.wait(100)


def test_the_results_of_a_case_follow_its_scan(
    make_brain, qtbot, tiny_checkpoint, tmp_path
) -> None:
    viewer, panel = cohort(make_brain, qtbot, tiny_checkpoint, tmp_path)
    open_case(qtbot, panel, "first")
    layer = viewer.layers["first"]
    layer.scale = 2 * layer.scale
    results = [one for one in viewer.layers if is_output(one)]
    assert len(results) == 3
    assert all(lies_on(one, layer) for one in results)


# --- whose they are ------------------------------------------------------------------------------


def duplicate(viewer: Any, layer: Layer) -> Layer:
    viewer.layers.selection = {layer}
    before = list(viewer.layers)
    _duplicate_layer(viewer.layers)
    (copy,) = (one for one in viewer.layers if one not in before)
    return copy


def created(viewer: Any, layer: Layer) -> Layer:
    """As a script copies a layer: the voxels are the same in memory."""
    return viewer.add_layer(Layer.create(*layer.as_layer_data_tuple()))


COPIES = {"duplicated": duplicate, "created anew": created}


@pytest.mark.parametrize("then", ["the threshold moves", "another run", "a panel opened anew"])
@pytest.mark.parametrize("deleted", [True, False])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_the_findings_is_a_persons_own(
    model, qtbot, scan, tiny_checkpoint, how, deleted, then
) -> None:
    opened_anew = then == "a panel opened anew"
    panel = new_panel(model, tiny_checkpoint, None if opened_anew else qtbot)
    add(model, scan)
    run(qtbot, panel)
    labels = output(model, "anomalies")
    copy = COPIES[how](model, labels)
    copy.name = "my reading"
    for chooser in (panel.truth_chooser, panel.mask_chooser):
        assert "my reading" in choices(chooser)
    if deleted:
        model.layers.remove(labels)
    assert not is_output(copy)
    before = copy.data.copy()
    copy.paint(CORNER, 7)
    mine, look = copy.data.copy(), copy.colormap.colors.copy()
    if then == "the threshold moves":
        panel.threshold.setValue(0.02)
        qtbot.wait(200)
    elif then == "another run":
        run(qtbot, panel)
    else:
        close(qtbot, panel)
        run(qtbot, new_panel(model, tiny_checkpoint, qtbot))
    assert copy in model.layers
    assert_array_equal(copy.data, mine)
    assert_array_equal(copy.colormap.colors, look)
    if then != "the threshold moves":
        assert output(model, "anomalies") is not copy
    copy.undo()
    assert_array_equal(copy.data, before)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("title", MAPS[:3])
def test_a_copy_of_a_map_is_a_persons_own(model, panel, qtbot, scan, title, how) -> None:
    add(model, scan)
    panel.draws.setValue(2)
    run(qtbot, panel)
    original = output(model, title)
    copy = COPIES[how](model, original)
    copy.name = "kept"
    assert "kept" in choices(panel.scan_chooser)
    kept = copy.data.copy()
    for deleted in (False, True):
        if deleted:
            model.layers.remove(output(model, title))
        panel.seed.setValue(3 + deleted)
        run(qtbot, panel)
        assert_array_equal(copy.data, kept)
        assert not np.array_equal(output(model, title).data, kept)
    panel.draws.setValue(1)  # has no uncertainty: that of the run before goes, the copy stays
    run(qtbot, panel)
    assert copy in model.layers


def test_a_copy_of_hits_and_misses_is_a_persons_own(model, panel, qtbot, scan) -> None:
    add(model, scan)
    panel.truth_chooser.choose(add(model, truth_of(scan), "labels", name="truth"))
    run(qtbot, panel)
    panel.agreement.view.overlay.setChecked(True)
    copy = duplicate(model, output(model, TITLES["agreement"]))
    kept = copy.data.copy()
    assert copy.name in choices(panel.truth_chooser)
    panel.agreement.view.overlay.setChecked(False)
    run(qtbot, panel)
    assert copy in model.layers
    assert_array_equal(copy.data, kept)


def test_strokes_on_hits_and_misses_stay(model, panel, qtbot, scan) -> None:
    add(model, scan)
    panel.truth_chooser.choose(add(model, truth_of(scan), "labels", name="truth"))
    run(qtbot, panel)
    panel.agreement.view.overlay.setChecked(True)
    shown = output(model, TITLES["agreement"])
    shown.paint(CORNER, 3)
    drawn = shown.data.copy()
    panel.agreement.view.overlay.setChecked(False)
    assert_array_equal(model.layers["head hits and misses, corrected"].data, drawn)


@pytest.mark.parametrize("title", ["reconstruction", "anomaly map"])
def test_projections_and_stacks_of_results_are_a_persons_own(
    model, panel, qtbot, scan, title
) -> None:
    add(model, scan)
    run(qtbot, panel)
    result = output(model, title)
    model.layers.selection = {result}
    model.layers.selection.active = result
    _project(model.layers, axis=0, mode="max")
    projection = model.layers[-1]
    model.layers.selection.active = duplicate(model, result)
    _split_stack(model.layers, axis=0)
    slices = [one for one in model.layers if one.ndim == 2]
    assert len(slices) == 1 + scan.shape[0]
    assert not any(is_output(one) for one in slices)
    kept = [np.array(one.data) for one in slices]
    panel.seed.setValue(5)
    run(qtbot, panel)
    for one, data in zip(slices, kept, strict=True):
        assert_array_equal(one.data, data)
    assert projection.name in choices(panel.scan_chooser)
    # the originals themselves, merged
    model.layers.selection = {output(model, "reconstruction"), output(model, "anomaly map")}
    _merge_stack(model.layers)
    merged = model.layers[-1]
    held = np.array(merged.data)
    assert not is_output(merged)
    panel.scan_chooser.choose(model.layers["head"])
    run(qtbot, panel)
    assert_array_equal(merged.data, held)
    assert output(model, title).ndim == 3


@pytest.mark.parametrize("then", ["the threshold moves", "another run", "amid a run"])
def test_findings_that_are_converted_to_an_image_are_made_anew(
    model, panel, qtbot, scan, then
) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    labels = output(model, "anomalies")
    if then == "amid a run":
        panel.batch_size.setValue(1)
        panel.draws.setValue(4)
        panel.run()
        first = panel.outcome
        qtbot.waitUntil(lambda: panel.outcome is not first, timeout=MINUTE)
        qtbot.waitUntil(lambda: panel.outcome.marked is not None, timeout=MINUTE)
    model.layers.selection = {labels}
    _convert_to_image(model.layers)
    assert labels not in model.layers
    (image,) = (one for one in model.layers if one.name == "head anomalies")
    kept = np.array(image.data)
    assert isinstance(image, Image)
    assert not is_output(image)
    if then == "the threshold moves":
        panel.threshold.setValue(0.02)
        qtbot.waitUntil(lambda: bool(outputs(model, "anomalies")), timeout=MINUTE)
    elif then == "another run":
        run(qtbot, panel)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    made = next(one for one in model.layers if is_output(one) and isinstance(one, Labels))
    assert lies_on(made, layer)
    assert_array_equal(made.data, panel.outcome.marked.labels)
    assert_array_equal(image.data, kept)
    panel.threshold.setValue(0.03)
    qtbot.wait(200)
    assert_array_equal(made.data, panel.outcome.marked.labels)
    assert_array_equal(image.data, kept)


def test_a_map_that_is_converted_to_labels_harms_nothing(model, panel, qtbot, scan) -> None:
    add(model, scan)
    run(qtbot, panel)
    original = output(model, "anomaly map")
    model.layers.selection = {original}
    _convert_to_labels(model.layers)
    (copy,) = (one for one in model.layers if one.name.startswith("head anomaly map [1]"))
    assert isinstance(copy, Labels)
    assert copy.name in choices(panel.truth_chooser)
    kept = copy.data.copy()
    model.layers.remove(original)
    panel.views.toggle_maps()
    panel.views.bar_check.setChecked(False)
    panel.views.bar_check.setChecked(True)
    panel.threshold.setValue(0.02)
    qtbot.wait(300)
    run(qtbot, panel)
    assert isinstance(output(model, "anomaly map"), Image)
    assert_array_equal(copy.data, kept)


def test_a_deleted_layer_stays_deleted_until_the_next_run(model, panel, qtbot, scan) -> None:
    add(model, scan)
    run(qtbot, panel)
    duplicate(model, output(model, "anomalies")).name = "my reading"
    model.layers.remove(output(model, "anomalies"))
    panel.threshold.setValue(0.02)
    qtbot.wait(200)
    assert outputs(model, "anomalies") == []
    run(qtbot, panel)
    assert output(model, "anomalies").data.any()


@pytest.mark.parametrize("how", ["operation", "dtype", "in place", "stroke"])
@pytest.mark.parametrize("then", ["the threshold moves", "another run"])
def test_corrections_of_the_findings_themselves_are_kept(
    model, panel, qtbot, scan, tmp_path, how, then
) -> None:
    """However they are made; labels of another type are no correction."""
    add(model, scan)
    run(qtbot, panel)
    labels = output(model, "anomalies")
    found = labels.data.copy()
    if how == "operation":
        mine = np.where(labels.data == 1, 0, labels.data)
        labels.data = mine
    elif how == "dtype":
        model.layers.selection = {labels}
        model.layers.selection.active = labels
        _convert_dtype(model.layers, "int64")
        mine = labels.data
    elif how == "in place":
        labels.data[:2] = 9
        labels.refresh()
        mine = labels.data
    else:
        labels.paint(CORNER, 7)
        mine = labels.data
    held = mine.copy()
    assert is_output(labels)
    panel.save(tmp_path)
    finish(qtbot, panel)
    saved = read_volume(tmp_path / "head_labels.nii.gz", constant=True)
    assert_array_equal(saved.data, held)
    if then == "the threshold moves":
        panel.threshold.setValue(0.02)
        qtbot.waitUntil(lambda: panel.outcome.marked.threshold > 0.015, timeout=MINUTE)
    else:
        run(qtbot, panel)
    assert_array_equal(output(model, "anomalies").data, panel.outcome.marked.labels)
    corrected = [one for one in model.layers if one.name.startswith("head anomalies, corrected")]
    if how == "dtype":
        assert corrected == []
        assert_array_equal(held, found)
    else:
        assert_array_equal(corrected[0].data, held)
        assert corrected[0].name in choices(panel.truth_chooser)
    if how in ("operation", "dtype"):
        assert_array_equal(mine, held)  # the person's own array


def test_a_stroke_that_is_undone_is_no_correction(model, panel, qtbot, scan) -> None:
    add(model, scan)
    run(qtbot, panel)
    labels = output(model, "anomalies")
    labels.paint(CORNER, 7)
    labels.undo()
    count = len(model.layers)
    panel.threshold.setValue(0.02)
    qtbot.waitUntil(lambda: panel.outcome.marked.threshold > 0.015, timeout=MINUTE)
    assert len(model.layers) == count
    labels.redo()  # it was on other labels
    assert_array_equal(labels.data, panel.outcome.marked.labels)


@pytest.mark.parametrize("title", ["anomaly map", "reconstruction", "anomalies"])
def test_a_layer_that_was_given_other_voxels_is_a_persons_own(
    model, panel, qtbot, scan, title
) -> None:
    """Of a map any others, of the findings those of another shape."""
    layer = add(model, scan)
    run(qtbot, panel)
    taken = output(model, title)
    mine = np.array(taken.data[2:, 1:])
    if title != "anomalies":
        mine = np.array(taken.data) * 2
    taken.data = mine
    held = mine.copy()
    if title == "anomalies":
        panel.threshold.setValue(0.02)
        qtbot.waitUntil(lambda: output(model, "anomalies") is not taken, timeout=MINUTE)
    panel.seed.setValue(4)
    run(qtbot, panel)
    assert not is_output(taken)
    chooser = panel.truth_chooser if title == "anomalies" else panel.scan_chooser
    assert taken.name in choices(chooser)
    made = next(one for one in model.layers if is_output(one) and f"head {title}" in one.name)
    assert made is not taken
    assert lies_on(made, layer)
    assert_array_equal(taken.data, held)
    assert taken.data is mine


def test_a_copy_in_another_viewer_is_a_persons_own(
    make_napari_viewer, tiny_checkpoint, qtbot, scan, model
) -> None:
    panel = new_panel(model, tiny_checkpoint, qtbot)
    add(model, scan)
    run(qtbot, panel)
    other = make_napari_viewer()
    labels = output(model, "anomalies")
    copies = [
        other.add_layer(Layer.create(*output(model, title).as_layer_data_tuple()))
        for title in ("anomaly map", "anomalies")
    ]
    kept = [copy.data.copy() for copy in copies]
    there = new_panel(other, tiny_checkpoint, qtbot)
    assert copies[0].name in choices(there.scan_chooser)
    assert copies[1].name in choices(there.truth_chooser)
    panel.threshold.setValue(0.02)
    qtbot.waitUntil(lambda: panel.outcome.marked.threshold > 0.015, timeout=MINUTE)
    assert not np.array_equal(labels.data, kept[1])
    panel.seed.setValue(7)
    run(qtbot, panel)
    for copy, data in zip(copies, kept, strict=True):
        assert_array_equal(copy.data, data)


def test_a_copy_of_the_findings_is_compared_as_ground_truth_and_used_as_mask(
    model, panel, qtbot, scan, tmp_path
) -> None:
    add(model, scan)
    run(qtbot, panel)
    copy = duplicate(model, output(model, "anomalies"))
    panel.truth_chooser.choose(copy)
    qtbot.waitUntil(lambda: panel.outcome.agreement is not None, timeout=MINUTE)
    qtbot.waitUntil(lambda: panel.figures["dice"].text().startswith("1.0"), timeout=MINUTE)
    mask = duplicate(model, output(model, "anomalies"))
    mask.data = (scan.data > 0).astype(np.int32)
    panel.mask_chooser.choose(mask)
    run(qtbot, panel)
    panel.save(tmp_path)
    finish(qtbot, panel)
    record = read_record(tmp_path / "head_record.json")
    assert record.brain_mask.name is None  # no file holds it
    assert record.truth is not None
    assert record.truth.name is None


def test_a_copy_of_a_reconstruction_as_scan_is_not_the_scans_file(
    model, panel, qtbot, scan, tmp_path
) -> None:
    add(model, scan)
    run(qtbot, panel)
    copy = duplicate(model, output(model, "reconstruction"))
    copy.name = "healthy"
    panel.scan_chooser.choose(copy)
    run(qtbot, panel)
    panel.save(tmp_path)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    record = read_record(tmp_path / "healthy_record.json")
    assert record.input.name != "head.nii.gz"
    assert read_volume(tmp_path / "healthy_anomaly.nii.gz").same_grid(scan)


def test_decisions_are_not_those_of_a_copy_of_the_scan(model, panel, qtbot, scan) -> None:
    layer = add(model, scan)
    run(qtbot, panel)
    table = panel.findings.table
    table.decide(table.model.finding(0).id, Decision("rejected", "a vessel"))
    copy = duplicate(model, layer)
    copy.data = np.ascontiguousarray(copy.data[:, :, ::-1])  # of the same shape
    panel.scan_chooser.choose(copy)
    run(qtbot, panel)
    assert table.decisions == {}


def test_dask_and_lazy_scans_keep_their_results(model, panel, qtbot, scan, tmp_path) -> None:
    """Lazy voxels are not taken for others each time that they are looked at."""
    data = dask.array.from_array(scan.data[None], chunks=(1, 8, -1, -1))
    layer = Image(data, name="lazy", scale=(1, 5, 5, 5), contrast_limits=(0, 140))
    model.add_layer(layer)
    run(qtbot, panel)
    assert panel.outcome.misfit == ""
    assert panel.save_button.isEnabled()
    layer.translate = (0, 1, 2, 3)
    assert panel.outcome.misfit


# --- cases of a cohort ---------------------------------------------------------------------------


def cohort(
    make_brain: Callable[..., Volume], qtbot: Any, checkpoint: Path, folder: Path
) -> tuple[ViewerModel, BatchWidget]:
    """Two cases with their results, and a panel that lists them."""
    x, y, z, radius = LESION
    scans, results = folder / "scans", folder / "out"
    scans.mkdir()
    for n, name in enumerate(("first", "second")):
        brain = make_brain(AFFINE, SHAPE, ((x, y, z + 3 * n, radius),))
        write_volume(scans / f"{name}.nii.gz", brain)
    settings = BatchSettings(
        DetectionSettings(device="cpu", precision="float32"), threshold=0.01, pictures=False
    )
    list(run_batch(find_cohort(scans, results), results, load_checkpoint(checkpoint), settings))
    viewer = ViewerModel()
    panel = BatchWidget(viewer)
    qtbot.addWidget(panel)
    panel.model.checkpoint_chooser.choose(checkpoint)
    panel.choose(str(scans), str(results))
    qtbot.waitUntil(lambda: not panel.looking, timeout=MINUTE)
    return viewer, panel


def open_case(qtbot: Any, panel: BatchWidget, name: str) -> None:
    panel.open_case(name)
    qtbot.waitUntil(lambda: panel.status.text() == f"{name} is open.", timeout=MINUTE)
    qtbot.wait(100)


def test_copies_of_a_case_are_a_persons_own(make_brain, qtbot, tiny_checkpoint, tmp_path) -> None:
    viewer, panel = cohort(make_brain, qtbot, tiny_checkpoint, tmp_path)
    open_case(qtbot, panel, "first")
    labels = output(viewer, "anomalies")
    copy = duplicate(viewer, labels)
    copy.paint(CORNER, 7)
    kept = copy.data.copy()
    labels.paint(CORNER, 9)  # on the case's own
    drawn = labels.data.copy()
    open_case(qtbot, panel, "second")
    assert copy.visible  # a case that is hidden takes no copy with it
    viewer.layers.remove("first reconstruction")  # so that all of it comes anew
    open_case(qtbot, panel, "first")
    assert copy in viewer.layers
    assert_array_equal(copy.data, kept)
    assert_array_equal(viewer.layers["first anomalies, corrected"].data, drawn)
    assert sum(one.name.startswith("first anomalies") for one in viewer.layers) == 3
