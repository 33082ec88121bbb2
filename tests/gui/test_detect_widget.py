"""The dock widget in a real viewer, with a real (tiny) network in a real thread."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from threading import Event

import dask.array
import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image as Picture
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel

from napari_addm.checkpoint.file import load_checkpoint, read_specification, save_checkpoint
from napari_addm.checkpoint.specification import FalseAlarmSpecification
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.record import read_record
from napari_addm.widgets import texts
from napari_addm.widgets.contributions import write_image, write_labels
from napari_addm.widgets.detect_panel import panel as module
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import METADATA_KEY, layer_to_volume, volume_to_layer
from napari_addm.widgets.model_card import card_lines
from napari_addm.widgets.viewing.planes import RADIOLOGICAL

LESION = (25.0, -20.0, 15.0, 20.0)
AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000


@pytest.fixture(scope="module")
def scan_file(make_brain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    return write_volume(folder / "head.nii.gz", make_brain(AFFINE, SHAPE, (LESION,)))


@pytest.fixture(scope="module")
def scan(scan_file) -> Volume:
    return read_volume(scan_file)


def truth_of(volume: Volume) -> Volume:
    """The planted lesion on a volume's grid."""
    index = np.indices(volume.shape).reshape(3, -1)
    world = nib.affines.apply_affine(volume.affine, index.T)
    inside = np.linalg.norm(world - LESION[:3], axis=1) < LESION[3]
    return volume.with_data(inside.reshape(volume.shape).astype(np.uint8))


@pytest.fixture
def viewer(make_napari_viewer_proxy, monkeypatch):
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    return make_napari_viewer_proxy()


def prepared(panel: DetectWidget, checkpoint: Path) -> DetectWidget:
    panel.checkpoint_chooser.choose(checkpoint)
    panel.device.setCurrentText("cpu")
    panel.precision.setCurrentText("float32")
    # An untrained network finds something everywhere.
    panel.threshold.setValue(0.01)
    return panel


@pytest.fixture
def panel(viewer, tiny_checkpoint) -> DetectWidget:
    """The panel in a real viewer with its window."""
    widget = DetectWidget(viewer)
    viewer.window.add_dock_widget(widget)
    return prepared(widget, tiny_checkpoint)


@pytest.fixture
def model() -> ViewerModel:
    """All of a viewer but its window, which takes seconds to open."""
    return ViewerModel()


@pytest.fixture
def alone(model, tiny_checkpoint, qtbot) -> DetectWidget:
    """The panel beside `model`."""
    widget = DetectWidget(model)
    qtbot.addWidget(widget)
    return prepared(widget, tiny_checkpoint)


def add(viewer, volume: Volume, kind: str = "image", **options) -> Layer:
    data, arguments, kind = volume_to_layer(volume, kind, **options)
    layer = (Image if kind == "image" else Labels)(data, **arguments)
    viewer.add_layer(layer)
    return layer


def finish(qtbot, panel: DetectWidget) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=MINUTE)
    qtbot.waitUntil(lambda: panel._aside not in Job._worker_set, timeout=MINUTE)
    qtbot.wait(50)


def run(qtbot, panel: DetectWidget) -> None:
    panel.run()
    assert panel.running
    finish(qtbot, panel)


def slowly(panel: DetectWidget) -> None:
    """Settings with which a run takes seconds and has results between."""
    panel.batch_size.setValue(1)
    panel.draws.setValue(8)


def save_variant(checkpoint: Path, path: Path, **changes) -> Path:
    """The same weights with another specification."""
    loaded = load_checkpoint(checkpoint)
    specification = loaded.specification.model_copy(update=changes)
    save_checkpoint(path, specification, loaded.weights)
    return path


def output(viewer, title: str) -> Layer | None:
    found = [layer for layer in viewer.layers if is_output(layer) and layer.name.endswith(title)]
    assert len(found) <= 1
    return found[0] if found else None


def test_opens_from_the_plugins_menu(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("napari-addm", "Detect anomalies")
    assert isinstance(widget, DetectWidget)
    assert widget.checkpoint_chooser.currentText() == "Demo (bundled)"
    assert not widget.run_button.isEnabled()  # nothing is open
    assert not widget.welcome.isHidden()


def test_creating_it_imports_no_torch():
    code = (
        "import sys\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "from napari_addm.widgets.detect_panel.panel import DetectWidget\n"
        "widget = DetectWidget(ViewerModel())\n"
        "heavy = {'torch', 'monai', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_whole_volume(viewer, panel, qtbot, scan):
    layer = add(viewer, scan)
    add(viewer, truth_of(scan), "labels", name="lesion")
    panel.truth_chooser.choose(viewer.layers["lesion"])
    panel.draws.setValue(2)
    run(qtbot, panel)

    assert panel.error.text() == ""
    assert panel.status.text().startswith("Done in")
    assert "cpu" in panel.status.text()
    detection = panel.outcome.detection
    assert detection.done.all()
    for title, expected in {
        "reconstruction": detection.reconstruction.data,
        "anomaly map": detection.anomaly.data,
        "uncertainty": detection.uncertainty.data,
        "anomalies": panel.outcome.marked.labels,
    }.items():
        made = output(viewer, title)
        assert made.name == f"head {title}"
        assert_array_equal(made.data, expected)
        assert_array_equal(made.scale, layer.scale)
        assert_array_equal(made.translate, layer.translate)
        assert made.units == layer.units
        assert made.axis_labels == layer.axis_labels
        assert made.metadata[METADATA_KEY] is layer.metadata[METADATA_KEY]
    assert output(viewer, "reconstruction").contrast_limits == layer.contrast_limits
    assert not output(viewer, "uncertainty").visible
    assert np.any(output(viewer, "anomalies").data)
    # Outputs are never offered as inputs, and the choice stays.
    assert panel.scan_chooser.count() == 1
    assert panel.truth_chooser.count() == 2
    # Agreement is there, and follows the threshold; the areas do not move.
    before = {key: label.text() for key, label in panel.figures.items()}
    assert not panel.metrics.isHidden()
    assert all(float(text) >= 0 for text in before.values())
    panel.threshold.setValue(0.5 * detection.anomaly.data.max())
    qtbot.wait(400)
    after = {key: label.text() for key, label in panel.figures.items()}
    assert after["recall"] != before["recall"]
    assert (after["auroc"], after["auprc"]) == (before["auroc"], before["auprc"])
    # Only what this machine has is offered now.
    offered = [panel.device.itemText(n) for n in range(panel.device.count())]
    assert offered[:2] == ["auto", "cpu"]
    import torch

    assert ("cuda" in offered) == torch.cuda.is_available()


def test_findings_of_another_scan_than_the_chosen_one_say_so(model, alone, qtbot, scan, tmp_path):
    """They are compared with no ground truth but that of their own scan; coming back, they are."""
    add(model, scan, name="first")
    truth = add(model, truth_of(scan), "labels", name="truth of the first")
    alone.truth_chooser.choose(truth)
    alone.threshold.setValue(0.01)
    run(qtbot, alone)
    qtbot.waitUntil(lambda: alone.outcome.agreement is not None, timeout=MINUTE)
    assert not alone.metrics.isHidden()
    assert alone.whose.isHidden()
    table = alone.findings.table
    id = table.model.finding(0).id
    table.decide(id, Decision("rejected", "a vessel"))

    second = add(model, scan, name="second")
    other_truth = add(model, truth_of(scan), "labels", name="truth of the second")
    alone.scan_chooser.choose(second)
    assert "'first'" in alone.whose.text()
    alone.truth_chooser.choose(other_truth)
    qtbot.wait(300)
    assert alone.outcome.agreement is None
    assert alone.metrics.isHidden()

    alone.truth_chooser.choose(truth)
    alone.scan_chooser.choose(model.layers["first"])
    assert alone.whose.isHidden()
    qtbot.waitUntil(lambda: alone.outcome.agreement is not None, timeout=MINUTE)

    # what was decided on the first is there again after a run on the second
    alone.scan_chooser.choose(second)
    run(qtbot, alone)
    assert alone.whose.isHidden()
    assert table.decisions == {}
    # one colour bar, beside one threshold
    bars = {scan: model.layers[f"{scan} anomaly map"].colorbar for scan in ("first", "second")}
    qtbot.waitUntil(lambda: bars["second"].visible and not bars["first"].visible, timeout=5000)
    alone.scan_chooser.choose(model.layers["first"])
    assert "'second'" in alone.whose.text()
    run(qtbot, alone)
    assert table.decisions == {id: Decision("rejected", "a vessel")}
    qtbot.waitUntil(lambda: bars["first"].visible and not bars["second"].visible, timeout=5000)
    alone.scan_chooser.choose(second)
    assert alone.whose.isHidden() is False
    model.layers["first"].name = "first of all"
    assert "'first of all'" in alone.whose.text()
    model.layers.remove("first of all")
    assert "'first', whose layer is closed" in alone.whose.text()


def test_closing_the_panel_s_dock_ends_it(viewer, tiny_checkpoint, qtbot, scan):
    """With its run, its keys, and what it has put into the viewer; another one has them all."""
    gone: list[object] = []
    before = set(viewer.canvas.overlays)
    panel = prepared(DetectWidget(viewer), tiny_checkpoint)
    panel.destroyed.connect(lambda *_: gone.append(None))
    dock = viewer.window.add_dock_widget(panel, name="first")
    window = dock.window()
    add(viewer, scan)
    keys = [label.text() for label in panel.views.findChildren(QLabel)]
    slowly(panel)
    panel.run()
    panel.views.three_planes.setChecked(True)
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    first = output(viewer, "reconstruction")
    dock.titleBarWidget().close_button.click()
    qtbot.waitUntil(lambda: bool(gone), timeout=MINUTE)
    qtbot.waitUntil(lambda: not Job._worker_set.intersection(panel._jobs._all), timeout=MINUTE)
    held = first.data.copy()
    qtbot.wait(300)
    assert set(viewer.canvas.overlays) == before
    docks = [dock for dock in window.findChildren(QDockWidget) if dock.isVisible()]
    assert {dock.objectName() for dock in docks} <= {"layer controls", "layer list"}

    second = prepared(DetectWidget(viewer), tiny_checkpoint)
    viewer.window.add_dock_widget(second, name="second")
    assert [label.text() for label in second.views.findChildren(QLabel)] == keys
    assert not second.running
    assert_array_equal(first.data, held)
    run(qtbot, second)
    assert_array_equal(output(viewer, "anomalies").data, second.outcome.marked.labels)


def test_decisions_outlive_the_panel(model, alone, qtbot, scan, tiny_checkpoint):
    """They lie with the scan, so that a run with a panel opened anew finds them."""
    layer = add(model, scan, name="first")
    alone.threshold.setValue(0.01)
    run(qtbot, alone)
    table = alone.findings.table
    id = table.model.finding(0).id
    table.decide(id, Decision("accepted", "seen before"))
    alone.close()

    other = prepared(DetectWidget(model), tiny_checkpoint)
    qtbot.addWidget(other)
    assert other.status.text() == texts.RESULTS_OPEN
    other.scan_chooser.choose(layer)
    other.threshold.setValue(0.01)
    run(qtbot, other)
    assert other.findings.table.decisions == {id: Decision("accepted", "seen before")}
    other.findings.table.decide(id, Decision())
    run(qtbot, other)
    assert other.findings.table.decisions == {}


def test_a_note_is_kept_when_a_run_begins_amid_it(model, alone, qtbot, scan):
    add(model, scan)
    run(qtbot, alone)
    table = alone.findings.table
    table.pick(1)
    qtbot.keyClicks(table.note, "half a word")
    run(qtbot, alone)
    assert table.decisions == {1: Decision(note="half a word")}


def cancel_a_slice(qtbot, panel: DetectWidget) -> None:
    """Begin a run of one slice, and cancel it before its neighbours are there."""
    panel.this_slice.setChecked(True)
    slowly(panel)
    panel.run()
    qtbot.waitUntil(lambda: panel.progress.value() > 0, timeout=MINUTE)
    panel.cancel()
    finish(qtbot, panel)


def test_a_single_slice_that_is_cancelled_leaves_nothing(model, alone, qtbot, scan):
    """Without its neighbours it would have another score."""
    add(model, scan)
    model.dims.set_current_step(0, scan.shape[0] // 2)
    cancel_a_slice(qtbot, alone)
    assert alone.status.text() == "Cancelled before the first slice was done"
    assert alone.outcome is None
    assert not alone.save_button.isEnabled()
    # what there was before stays, on the canvas and in the panel
    alone.whole_volume.setChecked(True)
    alone.draws.setValue(1)
    run(qtbot, alone)
    there = alone.outcome, output(model, "anomaly map").data.copy()
    cancel_a_slice(qtbot, alone)
    assert alone.outcome is there[0]
    assert_array_equal(output(model, "anomaly map").data, there[1])
    assert alone.findings.table.model.rowCount() > 0
    assert alone.save_button.isEnabled()


@pytest.mark.parametrize("what", ["the threshold moves", "another run", "amid another run"])
def test_corrections_with_the_brush_are_never_lost(model, alone, qtbot, scan, what):
    add(model, scan)
    alone.threshold.setValue(0.01)
    run(qtbot, alone)
    labels = output(model, "anomalies")
    corner = (0, 0, 0)
    assert labels.data[corner] == 0
    labels.selected_label, labels.brush_size = 5, 1
    if what == "amid another run":
        alone.run()
    labels.paint(corner, 5)
    corrected = labels.data.copy()
    assert corrected[corner] == 5
    if what != "the threshold moves":
        if not alone.running:
            alone.run()
        finish(qtbot, alone)
        assert alone.status.text().startswith("Done in")
        assert "head anomalies, corrected" in alone.status.text()
        labels.undo()  # strokes on what was there before are not this run's
        assert labels.data[corner] == 0
    else:
        alone.threshold.setValue(0.02)
        qtbot.waitUntil(lambda: labels.data[corner] == 0, timeout=MINUTE)
        assert "head anomalies, corrected" in alone.status.text()
    kept = model.layers["head anomalies, corrected"]
    assert_array_equal(kept.data, corrected)
    assert not is_output(kept)
    assert kept.metadata[METADATA_KEY] is labels.metadata[METADATA_KEY]
    count = len(model.layers)
    alone.threshold.setValue(0.03)
    qtbot.wait(200)
    assert len(model.layers) == count
    assert_array_equal(kept.data, corrected)


def test_how_far_a_run_is_is_told_four_times_a_second(viewer, panel, qtbot, scan):
    """Each time has the whole window drawn, which without a graphics card costs a step's time."""
    add(viewer, scan)
    slowly(panel)
    seen, calls = [], []
    panel.progress.valueChanged.connect(lambda value: seen.append((time.monotonic(), value)))
    hear = panel._on_progress
    panel._on_progress = lambda progress: (calls.append(progress), hear(progress))
    panel.run()
    assert panel.progress.maximum() > 0  # a busy bar would be drawn all the time
    finish(qtbot, panel)

    steps = [each for each in calls if each.stage == "reconstruct"]
    values = [value for _, value in seen if value > 0]
    assert 1 <= len(values) < len(steps) / 2
    assert values == sorted(values)
    times = [when for when, value in seen if value > 0]
    assert all(later - earlier > 0.2 for earlier, later in itertools.pairwise(times))
    assert panel.status.text().startswith("Done in")


def test_threshold_writes_in_place(model, alone, qtbot, scan):
    add(model, scan)
    run(qtbot, alone)
    labels = output(model, "anomalies")
    memory, before = labels.data, labels.data.copy()
    alone.threshold.setValue(0.5 * alone.outcome.detection.anomaly.data.max())
    qtbot.wait(400)
    assert labels.data is memory
    assert 0 < np.count_nonzero(labels.data) < np.count_nonzero(before)
    assert_array_equal(labels.data > 0, alone.outcome.marked.labels > 0)
    alone.minimum.setValue(900)
    qtbot.wait(400)
    assert not labels.data.any()
    assert alone.count.text() == "No findings"


@pytest.mark.parametrize("plane", ["Axial", "Coronal"])
def test_this_slice_is_the_axial_one(viewer, panel, qtbot, scan, plane):
    add(viewer, scan)
    panel.show_plane(plane)
    viewer.dims.set_current_step(0, 17)
    viewer.dims.set_current_step(1, 9)
    panel.this_slice.setChecked(True)
    run(qtbot, panel)
    assert panel.error.text() == ""
    assert_array_equal(np.flatnonzero(panel.outcome.detection.done), [17])
    made = output(viewer, "reconstruction").data
    assert made[17].any()
    assert not np.delete(made, 17, axis=0).any()
    assert output(viewer, "anomaly map").data[17].any()


def test_a_second_run_takes_the_layers_over(model, alone, qtbot, scan):
    layer = add(model, scan)
    alone.draws.setValue(2)
    alone.this_slice.setChecked(True)
    run(qtbot, alone)
    count = len(model.layers)
    anomalies = output(model, "anomaly map")
    layer.name = "renamed"
    assert alone.scan_chooser.currentText() == "renamed"
    alone.draws.setValue(1)
    alone.whole_volume.setChecked(True)
    run(qtbot, alone)
    assert output(model, "anomaly map") is anomalies
    assert alone.outcome.detection.done.all()
    # One draw has no uncertainty, so the other run's map is gone.
    assert len(model.layers) == count - 1
    assert output(model, "uncertainty") is None


def test_cancel_keeps_finished_slices(viewer, panel, qtbot, scan):
    add(viewer, scan)
    slowly(panel)
    viewer.dims.set_current_step(0, 14)
    panel.run()
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    job = panel._job
    panel.cancel()
    finish(qtbot, panel)
    assert not job.is_running
    done = panel.outcome.detection.done
    assert done[14]
    assert not done.all()
    assert panel.status.text().startswith("Cancelled after")
    shown = output(viewer, "reconstruction").data
    assert shown[14].any()
    assert_array_equal(shown, panel.outcome.detection.reconstruction.data)
    assert panel.run_button.isEnabled()
    assert not panel.cancel_button.isEnabled()


def test_deleted_layer_stays_deleted(viewer, panel, qtbot, scan):
    add(viewer, scan)
    panel.batch_size.setValue(1)
    panel.run()
    qtbot.waitUntil(lambda: output(viewer, "anomalies") is not None, timeout=MINUTE)
    viewer.layers.remove(output(viewer, "anomaly map"))
    viewer.layers.remove(output(viewer, "anomalies"))
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert panel.outcome.detection.done.all()
    assert output(viewer, "anomaly map") is None
    assert output(viewer, "anomalies") is None
    assert output(viewer, "reconstruction").data.any()
    panel.threshold.setValue(0.02)
    qtbot.wait(100)
    panel.this_slice.setChecked(True)
    run(qtbot, panel)
    assert output(viewer, "anomaly map").data.any()  # a new run makes it again


def test_deleting_the_scan_ends_the_run(viewer, panel, qtbot, scan):
    layer = add(viewer, scan)
    slowly(panel)
    panel.run()
    # the layers come before the first result
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    viewer.layers.remove(layer)
    finish(qtbot, panel)
    assert not panel.outcome.detection.done.all()
    assert panel.error.text() == ""


def test_closing_the_viewer_ends_the_run(make_napari_viewer, tiny_checkpoint, qtbot, scan):
    viewer = make_napari_viewer()
    panel = DetectWidget(viewer)
    viewer.window.add_dock_widget(panel)
    panel.checkpoint_chooser.choose(tiny_checkpoint)
    add(viewer, scan)
    slowly(panel)
    panel.draws.setValue(500)  # minutes
    panel.run()
    job = panel._job
    qtbot.waitUntil(lambda: job.is_running, timeout=MINUTE)
    viewer.close()
    qtbot.waitUntil(lambda: not job.is_running, timeout=MINUTE)


def test_all_jobs_end_with_the_panel(qtbot):
    """Also one that a later one of its kind has followed."""
    ended = []

    def long(name):
        for _ in range(3000):
            yield module.Status("Working")
            time.sleep(0.01)
        ended.append(name)  # by itself

    panel = DetectWidget(ViewerModel())
    jobs = [
        panel._start(
            name,
            long,
            name,
            yielded=panel._on_yielded,
            errored=panel.notices.show_error,
            finished=panel._enable,
        )
        for name in ("one", "another")
    ]
    # The pool may have one thread only.
    qtbot.waitUntil(lambda: any(job.is_running for job in jobs), timeout=MINUTE)
    panel.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qtbot.waitUntil(lambda: not Job._worker_set.intersection(jobs), timeout=MINUTE)
    assert not ended


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (np.zeros((20, 30), np.float32), {}),
        (np.zeros((9, 20, 30, 3), np.uint8), {"rgb": True}),
        (np.zeros((2, 9, 20, 30), np.float32), {}),
        (np.full((9, 20, 30), np.nan, np.float32), {"contrast_limits": (0, 1)}),
        (np.ones((9, 20, 30), np.float32), {}),
    ],
    ids=["2D", "RGB", "4D", "NaN", "constant"],
)
def test_wrong_layers_are_refused_in_words(model, alone, qtbot, scan, data, options):
    model.add_layer(Image(data, name="wrong", **options))
    run(qtbot, alone)
    assert "wrong" in alone.error.text() or "volume" in alone.error.text()
    assert "bug" not in alone.error.text()
    assert alone.details.isHidden()
    assert alone.run_button.isEnabled()
    assert not any(is_output(layer) for layer in model.layers)
    alone.scan_chooser.choose(add(model, scan))
    assert alone.error.isHidden()  # it was about the other


def test_a_bug_is_never_swallowed(model, alone, qtbot, scan, monkeypatch):
    def broken(request):
        yield module.Status("Reading the scan")
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(module, "run_steps", broken)
    add(model, scan)
    run(qtbot, alone)
    assert "This is a bug" in alone.error.text()
    assert "mat1 and mat2" in alone.error.text()
    assert "Traceback" in alone.details.toPlainText()
    assert not alone.details.isHidden()


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_a_run_that_never_began_says_nothing_of_the_one_before(
    model, alone, qtbot, scan, monkeypatch, how
):
    cancelled = Event()

    def stopped(request):
        yield module.Status("Reading the scan")
        if how == "fails":
            raise AddmError("layer 'head' holds no number in any voxel: choose another.")
        cancelled.wait(60)

    add(model, scan)
    alone.this_slice.setChecked(True)
    run(qtbot, alone)
    shown = alone.outcome.detection
    monkeypatch.setattr(module, "run_steps", stopped)
    alone.run()
    if how == "is cancelled":
        alone.cancel()
        cancelled.set()
    finish(qtbot, alone)
    expected = "Cancelled before the first slice was done" if how == "is cancelled" else ""
    assert alone.status.text() == expected
    assert alone.warnings.text() == ""
    assert alone.outcome.detection is shown
    assert alone.save_button.isEnabled()


def test_damaged_checkpoint(model, alone, scan, tmp_path):
    add(model, scan)
    assert alone.run_button.isEnabled()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"PK\x03\x04 not a checkpoint")
    alone.checkpoint_chooser.choose(damaged)
    assert "damaged.safetensors" in alone.card.text()
    assert not alone.run_button.isEnabled()


def test_checkpoint_sets_its_defaults(alone):
    assert "tiny" in alone.card.text()
    assert alone.settings.level == 200
    assert alone.settings.steps == 3
    assert alone.level_percent.text() == "20%"
    alone.level_slider.setValue(2)
    assert alone.level.value() == 2
    assert alone.steps.value() == 2  # no more steps than levels
    alone.sampler.setCurrentIndex(alone.sampler.findData("ddpm"))
    assert alone.settings.sampler == "ddpm"
    assert not alone.eta.isEnabled()


def test_the_card_counts_the_training_that_was_built_on(tiny_checkpoint):
    alone = {"train_volumes": 48, "iterations": 1500, "seconds": 3600}
    before = {"started_from": {"name": "first", "iterations": 5400, "seconds": 7200}}
    specification = read_specification(tiny_checkpoint)
    for training, words in (
        (alone, "Trained on 48 volumes, 1,500 iterations, 1.0 h"),
        (alone | before, "Trained on 48 volumes, 5,400 + 1,500 iterations, 3.0 h"),
        (alone | {"started_from": "damaged"}, "Trained on 48 volumes, 1,500 iterations, 1.0 h"),
    ):
        assert words in card_lines(specification.model_copy(update={"training": training}))


@pytest.mark.parametrize(
    ("training", "highest"),
    [({"highest_level": 400}, 400), ({}, 1000), ({"highest_level": "all"}, 1000)],
)
def test_levels_beyond_the_training_are_not_offered(
    alone, tiny_checkpoint, tmp_path, training, highest
):
    checkpoint = save_variant(tiny_checkpoint, tmp_path / "variant.safetensors", training=training)
    alone.checkpoint_chooser.choose(checkpoint)
    alone.level_slider.setValue(1000)
    assert alone.settings.level == highest
    assert alone.level_slider.value() == highest
    assert alone.level_percent.text() == f"{highest / 1000:.0%}"  # of the whole chain


def test_another_checkpoint_leaves_the_shown_result_alone(
    model, alone, qtbot, scan, tiny_checkpoint, tmp_path
):
    add(model, scan)
    run(qtbot, alone)
    shown, found = alone.outcome.marked, output(model, "anomalies").data.copy()
    default = alone._specification.detection
    assert shown.threshold == pytest.approx(0.01)
    other = save_variant(
        tiny_checkpoint,
        tmp_path / "other.safetensors",
        detection=default.model_copy(update={"threshold": 0.02, "minimum_ml": 3.0}),
    )
    alone.checkpoint_chooser.choose(other)
    qtbot.wait(200)
    assert alone.outcome.marked is shown
    assert_array_equal(output(model, "anomalies").data, found)
    assert alone.threshold.value() == pytest.approx(0.01)
    run(qtbot, alone)
    assert alone.outcome.marked.threshold == pytest.approx(0.02)
    assert alone.outcome.marked.minimum_ml == 3.0


def test_choosers_follow_the_layers(model, alone, scan):
    first = add(model, scan, name="first")
    second = add(model, scan, name="second")
    mask = add(model, truth_of(scan), "labels", name="mask")
    assert alone.welcome.isHidden()
    alone.scan_chooser.choose(second)
    alone.mask_chooser.choose(mask)
    second.name = "other"
    model.layers.remove(first)
    assert alone.scan_chooser.currentText() == "other"
    model.layers.remove(second)
    model.layers.remove(mask)
    assert alone.scan_chooser.layer_id is None
    assert alone.mask_chooser.currentText() == "Automatic"
    assert not alone.run_button.isEnabled()


def test_truth_on_another_grid(model, alone, qtbot, scan, make_brain):
    add(model, scan)
    fine = AFFINE.copy()
    fine[:3, :3] *= 0.7
    other = truth_of(make_brain(fine, (47, 55, 41)))
    alone.truth_chooser.choose(add(model, other, "labels", name="fine"))
    assert "fine" in alone.grid_message.text()
    alone.resample_button.click()
    assert not alone.resample_button.isEnabled()  # it is done aside
    finish(qtbot, alone)
    assert alone.resample_button.isEnabled()
    assert alone.grid_message.text() == ""
    assert alone.truth_chooser.currentText() == "fine on head"
    resampled = model.layers["fine on head"]
    expected = truth_of(scan).data
    overlap = 2 * np.sum((resampled.data > 0) & (expected > 0))
    assert overlap / (np.sum(resampled.data > 0) + expected.sum()) > 0.85
    alone.this_slice.setChecked(True)
    model.dims.set_current_step(0, 17)
    run(qtbot, alone)
    assert not alone.metrics.isHidden()


@pytest.mark.parametrize("drawn_on", [False, True])
def test_a_mask_that_is_drawn_on_is_no_longer_its_file(
    model, alone, qtbot, scan, scan_file, tmp_path, drawn_on
):
    """A record that named it would send `verify` to a file that gives other results."""
    scan = read_volume(scan_file)
    path = tmp_path / "head_mask.nii.gz"
    write_volume(path, scan.with_data((scan.data > scan.data.mean()).astype(np.uint8)))
    add(model, scan)
    layer = add(model, read_labels(path), "labels", name="mask")
    alone.mask_chooser.choose(layer)
    if drawn_on:
        layer.brush_size = 1
        layer.paint(tuple(np.argwhere(layer.data)[0]), 0)
    run(qtbot, alone)
    assert alone.error.text() == ""
    alone.save(tmp_path / "out")
    qtbot.waitUntil(lambda: "saved in" in alone.status.text(), timeout=MINUTE)
    (file,) = (tmp_path / "out").glob("*_record.json")
    mask = read_record(file).brain_mask
    assert mask.origin == "given"
    assert mask.name == (None if drawn_on else path.name)


def test_a_scan_of_one_value_is_refused_by_the_name_of_its_layer(model, alone, qtbot, scan):
    add(model, scan.with_data(np.full(scan.shape, 7, np.float32)), name="empty scan")
    run(qtbot, alone)
    assert "'empty scan' has the same value in every voxel" in alone.error.text()


def test_brain_mask_layer(model, alone, qtbot, scan):
    add(model, scan)
    mask = scan.with_data((scan.data > 0).astype(np.uint8))
    mask.data[:15] = 0
    alone.mask_chooser.choose(add(model, mask, "labels", name="mask"))
    run(qtbot, alone)
    assert_array_equal(alone.outcome.detection.brain_mask.data, mask.data > 0)
    assert alone.warnings.text() == "" or "brain" in alone.warnings.text()


def test_warnings_of_mask_and_truth_are_shown_and_saved(model, alone, qtbot, scan, tmp_path):
    add(model, scan)
    mask = scan.with_data((scan.data > 0).astype(np.uint8), ("labels were rounded",))
    truth = replace(truth_of(scan), warnings=("the header is damaged",))
    drawn = add(model, truth, "labels", name="drawn")
    drawn.metadata.pop(METADATA_KEY)  # as a person draws it on the scan
    alone.mask_chooser.choose(add(model, mask, "labels", name="mask"))
    alone.truth_chooser.choose(add(model, truth, "labels", name="truth"))
    alone.this_slice.setChecked(True)
    model.dims.set_current_step(0, 17)
    run(qtbot, alone)
    assert "The brain mask: labels were rounded" in alone.warnings.text().splitlines()
    assert "The ground truth: the header is damaged" in alone.metrics_notes.text().splitlines()
    alone.save(tmp_path)
    finish(qtbot, alone)
    assert alone.error.text() == ""
    record = (tmp_path / "head_record.json").read_text()
    assert "labels were rounded" in record
    assert "the header is damaged" in record
    alone.truth_chooser.choose(drawn)
    finish(qtbot, alone)
    assert not alone.metrics.isHidden()
    assert "left and right" not in alone.metrics_notes.text()


def test_how_a_scan_differs_from_the_training_is_shown_and_saved(
    model, alone, qtbot, scan, tiny_checkpoint, tmp_path
):
    healthy = {"healthy_reconstruction_error": {"low": 8.0, "high": 9.0, "subjects": 3}}
    prepared(alone, save_variant(tiny_checkpoint, tmp_path / "c.safetensors", evaluation=healthy))
    add(model, scan)
    drawn = add(model, truth_of(scan), "labels", name="drawn")
    drawn.metadata.pop(METADATA_KEY)
    alone.truth_chooser.choose(drawn)
    alone.this_slice.setChecked(True)
    model.dims.set_current_step(0, 17)
    run(qtbot, alone)
    assert alone.outcome.quality is None  # a slice does not tell
    alone.whole_volume.setChecked(True)
    run(qtbot, alone)
    notes = [line for line in alone.warnings.text().splitlines() if "unlike the training" in line]
    assert any("8.000 to 9.000" in line for line in notes)
    alone.save(tmp_path / "out")
    finish(qtbot, alone)
    assert alone.error.text() == ""
    record = read_record(tmp_path / "out" / "head_record.json")
    assert record.quality == alone.outcome.quality.record()
    assert "reconstruction" in [flag["key"] for flag in record.quality["flags"]]
    assert record.truth.voxels_sha256 == voxels_sha256(truth_of(scan).data != 0)


@pytest.mark.parametrize("form", ["plain", "dask", "flipped", "integers"])
def test_layers_of_other_readers(model, alone, qtbot, scan, form):
    """No metadata of ours: the grid is the layer's own, and the outputs have its voxel order."""
    data, scale = scan.data, scan.spacing
    if form == "dask":
        data = dask.array.from_array(data, chunks=(4, -1, -1))
    elif form == "flipped":
        data, scale = data[::-1, :, ::-1], (-scale[0], scale[1], -scale[2])
    elif form == "integers":
        data = data.astype(np.uint16)
    layer = Image(data, name="foreign", scale=scale, contrast_limits=(0, 140))
    model.add_layer(layer)
    model.dims.set_current_step(0, 12)
    run(qtbot, alone)
    assert alone.error.text() == ""
    assert "left and right" in alone.warnings.text()
    made = output(model, "reconstruction")
    assert_allclose(made.scale, scale)
    brain = np.asarray(data) > 0
    assert not made.data[~brain].any()
    assert np.mean(made.data[brain] > 0) > 0.99
    labels = output(model, "anomalies")
    assert_array_equal(alone.outcome.layers.labels(), alone.outcome.marked.labels)
    assert_array_equal(layer_to_volume(labels).data, alone.outcome.marked.labels)


def test_save(model, alone, qtbot, scan, scan_file, tmp_path):
    add(model, scan)
    run(qtbot, alone)
    labels = output(model, "anomalies")
    labels.data[16, 20:24, 14:18] = 99  # a person's edit
    alone.save(tmp_path / "out")
    finish(qtbot, alone)
    assert alone.error.text() == ""
    assert not alone.saving.open_button.isHidden()
    assert alone.saving.seg.isHidden()  # the scan is no DICOM series
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "head_anomaly.nii.gz",
        "head_labels.nii.gz",
        "head_recon.nii.gz",
        "head_findings.csv",
        "head_record.json",
    }
    saved = read_labels(tmp_path / "out" / "head_labels.nii.gz")
    assert_array_equal(saved.data, labels.data)
    assert "\n99," in (tmp_path / "out" / "head_findings.csv").read_text()
    alone.save(tmp_path / "out")
    finish(qtbot, alone)
    assert "exists already: press Save again" in alone.error.text()
    assert "--" not in alone.error.text()
    assert_array_equal(read_labels(tmp_path / "out" / "head_labels.nii.gz").data, saved.data)
    # napari's own File > Save, through our writers.
    native = nib.load(scan_file).affine
    for title, write in (("anomaly map", write_image), ("anomalies", write_labels)):
        data, meta, _ = output(model, title).as_layer_data_tuple()
        (path,) = write(str(tmp_path / "saved.nii.gz"), data, meta)
        assert_array_equal(nib.load(path).affine, native)
        assert_allclose(read_volume(path).data, data, atol=1e-6)


def test_the_demo_case(viewer, panel):
    panel.demo_button.click()
    assert panel.scan_chooser.currentText() == "demo_T1w"
    assert panel.truth_chooser.currentText() == "demo_lesion"
    assert panel.grid_message.text() == ""
    assert tuple(map(str, viewer.scene.camera.orientation)) == RADIOLOGICAL


def test_the_threshold_says_what_it_marks_in_a_healthy_brain(
    model, alone, qtbot, scan, tiny_checkpoint, tmp_path
):
    assert alone.promise.text() == ""  # nobody measured it for this checkpoint
    detection = load_checkpoint(tiny_checkpoint).specification.detection.model_copy(
        update={
            "draws": 2,
            "false_alarms": FalseAlarmSpecification(
                thresholds=(0.01, 0.03, 0.05), mean_ml=(40.0, 20.0, 0.0), minimum_ml=0.5, subjects=6
            ),
        }
    )
    prepared(alone, save_variant(tiny_checkpoint, tmp_path / "c.safetensors", detection=detection))
    for threshold, words in ((0.02, "about 30 mL"), (0.005, "more than 40"), (0.06, "less than")):
        alone.threshold.setValue(threshold)
        assert alone.promise.text().startswith(words)
    add(model, scan)
    alone.draws.setValue(1)
    run(qtbot, alone)
    assert "not with these" in alone.promise.text()
    alone.draws.setValue(2)
    run(qtbot, alone)
    alone.threshold.setValue(0.02)
    assert alone.promise.text().startswith("about 30 mL of false alarm")


def test_a_method_without_noise_offers_no_noise(
    model, alone, qtbot, scan, tiny_checkpoint, tmp_path
):
    loaded = load_checkpoint(tiny_checkpoint)
    before = loaded.specification
    specification = before.replace(
        method="denoising_ae",
        diffusion=None,
        detection=before.detection.replace(level=None, steps=1, draws=1),
    )
    path = save_checkpoint(tmp_path / "dae.safetensors", specification, loaded.weights)
    prepared(alone, path)
    for field in (alone.level, alone.steps, alone.sampler, alone.eta, alone.draws, alone.seed):
        assert not field.isEnabled()
    assert "Denoising AE" in alone.card.text()
    add(model, scan)
    run(qtbot, alone)
    assert alone.error.text() == ""
    assert alone.outcome.detection.done.all()
    assert alone.outcome.detection.settings.level is None
    alone.checkpoint_chooser.choose(tiny_checkpoint)
    assert alone.level.isEnabled()
    assert alone.draws.isEnabled()


# --- ground truth ------------------------------------------------------------------------------


def test_a_truth_out_of_a_file_and_the_threshold_on_its_curves(
    viewer, panel, qtbot, scan, tmp_path
):
    layer = add(viewer, scan)
    truth = truth_of(scan)
    panel.agreement.truth.open(write_volume(tmp_path / "lesion.nii.gz", truth))
    assert not panel.agreement.truth.open_button.isEnabled()  # it is read aside
    finish(qtbot, panel)
    assert panel.truth_chooser.currentText() == "lesion"
    assert_array_equal(viewer.layers["lesion"].data, truth.data)
    assert_array_equal(viewer.layers["lesion"].scale, layer.scale)
    run(qtbot, panel)
    view = panel.agreement.view
    anomaly, brain = panel.outcome.detection.anomaly.data, panel.outcome.detection.brain_mask.data
    lesion = truth.data[brain] > 0
    threshold = round(float(np.quantile(anomaly[brain], 0.98)), 3)
    assert threshold > 0
    view.threshold_chosen.emit(threshold)  # as a click on a curve does
    qtbot.wait(400)
    assert panel.threshold.value() == pytest.approx(threshold)
    above = anomaly[brain] > threshold
    recall = np.mean(above[lesion])
    assert view.roc.marked == pytest.approx((np.mean(above[~lesion]), recall))
    assert view.pr.marked == pytest.approx((recall, np.mean(lesion[above])))
    assert view.dice.marked[0] == pytest.approx(threshold)
    assert view.lesions.model.rowCount() == 1
    # a row leads to the peak of the lesion
    view.lesions.table.clicked.emit(view.lesions.table.model().index(0, 0))
    there = tuple(int(n) for n in np.round(layer.world_to_data(viewer.dims.point)))
    masked = np.where((truth.data > 0) & brain, anomaly, -np.inf)
    assert there == np.unravel_index(np.argmax(masked), masked.shape)


def test_hits_and_misses_follow_the_threshold_in_place(model, alone, qtbot, scan):
    add(model, scan)
    lesion = add(model, truth_of(scan), "labels", name="lesion")
    alone.truth_chooser.choose(lesion)
    run(qtbot, alone)
    button = alone.agreement.view.overlay
    truth, brain = truth_of(scan).data > 0, alone.outcome.detection.brain_mask.data
    button.setChecked(True)
    shown = output(model, "hits and misses")
    memory = shown.data
    anomaly, outlines = output(model, "anomaly map"), output(model, "anomalies")
    assert not any(layer.visible for layer in (anomaly, outlines, lesion))
    for share in (0.2, 0.6, 1.1):
        alone.threshold.setValue(share * alone.outcome.detection.anomaly.data.max())
        qtbot.wait(300)
        found = alone.outcome.marked.labels > 0
        assert shown.data is memory
        assert_array_equal(shown.data == 3, found & truth & brain)
        assert_array_equal(shown.data == 2, found & ~truth)
        assert_array_equal(shown.data == 1, truth & brain & ~found)
    assert_array_equal(shown.scale, outlines.scale)
    assert shown.metadata[METADATA_KEY] is outlines.metadata[METADATA_KEY]
    assert shown.name not in [
        alone.truth_chooser.itemText(n) for n in range(alone.truth_chooser.count())
    ]
    # away and back, by the button, by hand, by a run, by another truth
    button.setChecked(False)
    assert output(model, "hits and misses") is None
    assert all(layer.visible for layer in (anomaly, outlines, lesion))
    button.setChecked(True)
    model.layers.remove(output(model, "hits and misses"))
    assert not button.isChecked()
    assert anomaly.visible
    button.setChecked(True)
    alone.this_slice.setChecked(True)
    model.dims.set_current_step(0, 17)
    alone.run()
    qtbot.waitUntil(lambda: output(model, "hits and misses") is None, timeout=MINUTE)
    finish(qtbot, alone)
    shown = output(model, "hits and misses")
    assert button.isChecked()
    assert shown.data[17].any()
    assert not np.delete(shown.data, 17, axis=0).any()
    alone.truth_chooser.choose(None)
    assert output(model, "hits and misses") is None
    assert output(model, "anomaly map").visible


def test_a_result_that_was_replaced_leaves_the_memory(viewer, panel, qtbot, scan):
    # in a window, because napari's windows remember every job
    add(viewer, scan)
    panel.truth_chooser.choose(add(viewer, truth_of(scan), "labels", name="lesion"))
    replaced = []
    for seed in range(3):
        panel.model.seed.setValue(seed)
        run(qtbot, panel)
        assert panel.outcome.agreement is not None
        replaced.append(weakref.ref(panel.outcome.detection))
    gc.collect()
    assert [result() is None for result in replaced] == [True, True, False]


def test_an_empty_truth_is_explained_in_the_panel(model, alone, qtbot, scan):
    add(model, scan)
    nothing = scan.with_data(np.zeros(scan.shape, dtype=np.uint8))
    alone.truth_chooser.choose(add(model, nothing, "labels", name="nothing"))
    run(qtbot, alone)
    view = alone.agreement.view
    assert "The ground truth is empty" in view.explanation.text()
    assert f"{alone.outcome.marked.total_ml:.1f} mL" in view.explanation.text()
    assert alone.figures["dice"].text() == "–"
    assert alone.error.text() == ""


def test_a_file_that_holds_no_labels_is_refused_in_words(model, alone, qtbot, scan_file, scan):
    add(model, scan)
    before = len(model.layers)
    alone.agreement.truth.open(scan_file)
    finish(qtbot, alone)
    assert str(scan_file) in alone.error.text()
    assert "no mask" in alone.error.text()
    assert alone.agreement.truth.open_button.isEnabled()
    assert len(model.layers) == before


def test_another_truth_while_one_is_compared(model, alone, qtbot, scan):
    """Whichever comparison ends last, the one of the truth that is chosen is shown."""
    add(model, scan)
    empty = scan.with_data(np.zeros(scan.shape, dtype=np.uint8))
    first = add(model, truth_of(scan), "labels", name="lesion")
    second = add(model, empty, "labels", name="nothing")
    run(qtbot, alone)
    alone.truth_chooser.choose(first)
    older = alone.agreement._compared_with
    alone.truth_chooser.choose(second)
    assert alone.agreement._compared_with is not older
    qtbot.waitUntil(lambda: not Job._worker_set, timeout=MINUTE)
    qtbot.wait(50)
    assert alone.outcome.agreement.is_empty


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_a_voxel_is_found_in_layers_of_other_readers(model, alone, qtbot, scan, flips):
    data = scan.data[tuple(slice(None, None, flip) for flip in flips)]
    scale = tuple(step * flip for step, flip in zip(scan.spacing, flips, strict=True))
    layer = Image(data, name="foreign", scale=scale, contrast_limits=(0, 140))
    model.add_layer(layer)
    alone.this_slice.setChecked(True)
    model.dims.set_current_step(0, 12)
    run(qtbot, alone)
    placed = alone.outcome.layers.volume
    index = (20, 7, 11)
    alone.outcome.layers.go_to(index)
    there = tuple(int(n) for n in np.round(layer.world_to_data(model.dims.point)))
    assert there == placed.index_in_layer(index)
    assert layer.data[there] == placed.volume.data[index]


def test_a_figure_is_of_the_slice_on_screen_whatever_is_open(model, alone, qtbot, scan, tmp_path):
    """Of a scan with an axis before its three, and when the scan is closed."""
    data, arguments, _ = volume_to_layer(scan)
    four = {**arguments, "axis_labels": ("t", *arguments["axis_labels"])}
    four["units"] = ("pixel", *arguments["units"])
    four |= {"scale": (1, *arguments["scale"]), "translate": (0, *arguments["translate"])}
    del four["metadata"]
    model.add_layer(Image(data[None], **four))
    run(qtbot, alone)
    assert alone.error.text() == ""

    def figure(name: str) -> np.ndarray:
        alone.views.figure.export(tmp_path / name)
        qtbot.waitUntil(
            lambda: alone.views.figure.note.text() == f"Saved as {name}", timeout=MINUTE
        )
        with Picture.open(tmp_path / name) as picture:
            return np.asarray(picture)

    pictures = []
    for at in (9, 20):
        model.dims.set_current_step(1, at)
        pictures.append(figure(f"{at}.png"))
    assert not np.array_equal(*pictures)
    model.layers.remove(alone.outcome.layers.scan_layer)
    model.dims.set_current_step(0, 9)  # only the results are left, of three axes
    assert_array_equal(figure("closed.png"), pictures[0])
    model.layers.clear()
    alone.views.figure.export(tmp_path / "nothing.png")
    assert alone.views.figure.note.text() == texts.NO_SLICE
    assert not (tmp_path / "nothing.png").exists()


def test_a_single_slice_says_what_its_smallest_finding_is(model, alone, qtbot, scan):
    add(model, scan)
    alone.this_slice.setChecked(True)
    alone.minimum.setValue(900.0)
    model.dims.set_current_step(0, scan.shape[0] // 2)
    run(qtbot, alone)
    area = 1000 * 900 / scan.spacing[0]
    assert alone.count.text() == f"No findings: in one slice 900.00 mL are {area:.0f} mm²"


@pytest.fixture
def reviewed(model, alone, qtbot, scan, tmp_path) -> tuple[Path, np.ndarray]:
    """The record of a review, and its labels as a person left them."""
    add(model, scan)
    run(qtbot, alone)
    alone.minimum.setValue(0.2)
    anomaly = alone.outcome.detection.anomaly.data
    alone.threshold.setValue(float(np.quantile(anomaly[anomaly > 0], 0.97)))
    table = alone.findings.table
    qtbot.waitUntil(lambda: table.model.rowCount() > 1, timeout=MINUTE)
    first, second = (table.model.finding(row).id for row in range(2))
    table.decide(first, Decision("rejected", 'a vessel, "bent" – ü'))
    table.decide(second, Decision("accepted"))
    labels = output(model, "anomalies")
    # nearly all of the first, its peak among it, is erased; and something else is painted
    peak_last = np.argsort(anomaly[labels.data == first])
    places = np.argwhere(labels.data == first)[peak_last[len(peak_last) // 8 :]]
    labels.data_setitem(tuple(places.T), 0)
    labels.data_setitem(tuple(np.array([n]) for n in (3, 3, 3)), 7)
    edited = labels.data.copy()
    alone.save(tmp_path)
    qtbot.waitUntil(lambda: "saved in" in alone.status.text(), timeout=MINUTE)
    (record,) = tmp_path.rglob("*_record.json")
    return record, edited


def on_another_day(qtbot, scan: Volume, checkpoint: Path) -> tuple[ViewerModel, DetectWidget]:
    model = ViewerModel()
    panel = prepared(DetectWidget(model), checkpoint)
    qtbot.addWidget(panel)
    add(model, scan)
    return model, panel


def resume(qtbot, panel: DetectWidget, record: Path) -> None:
    panel.saving.resume(record)
    finish(qtbot, panel)


def test_a_saved_review_goes_on(alone, reviewed, qtbot, scan, tiny_checkpoint):
    record, edited = reviewed
    decisions, threshold = dict(alone.findings.table.decisions), alone.threshold.value()
    assert len(decisions) == 2
    model, panel = on_another_day(qtbot, scan, tiny_checkpoint)
    assert not panel.saving.resume_button.isEnabled()  # there are no findings yet
    run(qtbot, panel)
    assert panel.saving.resume_button.isEnabled()
    resume(qtbot, panel, record)
    assert panel.error.text() == ""
    qtbot.waitUntil(lambda: len(panel.findings.table.decisions) == 2, timeout=MINUTE)
    assert panel.threshold.value() == pytest.approx(threshold)
    assert panel.minimum.value() == pytest.approx(0.2)
    table = panel.findings.table
    assert table.decisions == decisions  # by the numbers that the findings had
    assert_array_equal(output(model, "anomalies").data, edited)
    words = "2 decisions of the record taken over, with its threshold and smallest finding"
    assert panel.status.text() == f"{words}, and its corrections"
    table.undo()
    assert table.decisions == {}
    table.redo()
    # saved again, it is the same review
    again = record.parent / "again"
    again.mkdir()
    panel.save(again)
    qtbot.waitUntil(lambda: "saved in" in panel.status.text(), timeout=MINUTE)
    (other,) = again.rglob("*_record.json")
    first, second = read_record(record), read_record(other)
    assert second.labels == first.labels
    assert first.labels.edited_voxels > 0
    assert second.findings == first.findings
    # and its corrections stay when the labels are drawn anew
    panel.threshold.setValue(0.9 * threshold)
    qtbot.waitUntil(lambda: any(each.name.endswith("corrected") for each in model.layers))
    (corrected,) = [each for each in model.layers if each.name.endswith("corrected")]
    assert_array_equal(corrected.data, edited)


def test_a_review_of_another_run_says_what_was_different(reviewed, qtbot, scan, tiny_checkpoint):
    _, panel = on_another_day(qtbot, scan, tiny_checkpoint)
    panel.seed.setValue(3)
    panel.draws.setValue(2)
    run(qtbot, panel)
    resume(qtbot, panel, reviewed[0])
    assert "It was made with seed 0, draws 1: findings may differ" in panel.status.text()
    panel.this_slice.setChecked(True)
    run(qtbot, panel)
    resume(qtbot, panel, reviewed[0])
    assert "It was made with other slices, seed 0" in panel.status.text()


@pytest.mark.parametrize("fault", ["another scan", "other labels", "no labels", "no record"])
def test_a_review_that_does_not_fit_is_refused(
    model, alone, reviewed, qtbot, scan, tiny_checkpoint, fault
):
    record, _ = reviewed
    labels = next(record.parent.glob("*labels.nii.gz"))
    says = "was changed since"
    if fault == "another scan":
        scan, says = scan.with_data(scan.data + 1), "is of another scan"
    elif fault == "other labels":
        picture = nib.load(labels)
        data = np.asarray(picture.dataobj).copy()
        data[0, 0, 0] = 1
        nib.save(nib.Nifti1Image(data, picture.affine, picture.header), labels)
    elif fault == "no labels":
        labels.unlink()
        says = labels.name
    else:
        record.write_text("{}")
        says = "is no run record"
    _, panel = on_another_day(qtbot, scan, tiny_checkpoint)
    run(qtbot, panel)
    threshold = panel.threshold.value()
    resume(qtbot, panel, record)
    assert says in panel.error.text()
    assert record.name in panel.error.text() or labels.name in panel.error.text()
    assert "bug" not in panel.error.text()
    assert panel.status.text() == ""
    assert panel.threshold.value() == threshold
    assert panel.findings.table.decisions == {}
