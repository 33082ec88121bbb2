"""The panel with a real (tiny) network in a real thread: runs, layers, files."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image as Picture
from qtpy.QtCore import QEvent
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel

from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import describe_none
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.record import read_record
from napari_addm.outputs.verification import verify
from napari_addm.widgets import texts
from napari_addm.widgets.contributions import write_image, write_labels
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import METADATA_KEY, layer_to_volume, volume_to_layer
from napari_addm.widgets.viewing.planes import RADIOLOGICAL

LESION = np.array((25.0, -20.0, 15.0)), 20.0
AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
MINUTE = 60_000


def truth_of(volume: Volume) -> Volume:
    """The planted lesion on a volume's grid."""
    index = np.indices(volume.shape).reshape(3, -1)
    world = nib.affines.apply_affine(volume.affine, index.T)
    inside = np.linalg.norm(world - LESION[0], axis=1) < LESION[1]
    return volume.with_data(inside.reshape(volume.shape).astype(np.uint8))


@pytest.fixture
def viewer() -> ViewerModel:
    """All of a viewer but its window, which takes seconds to open."""
    return ViewerModel()


@pytest.fixture
def panel(viewer, new_panel) -> DetectWidget:
    return new_panel(viewer)


def slowly(panel: DetectWidget) -> None:
    """Settings with which a run takes seconds and has results between."""
    panel.model.batch_size.setValue(1)
    panel.model.draws.setValue(8)


def save_variant(checkpoint: Path, path: Path, **changes) -> Path:
    """The same weights with another specification."""
    loaded = load_checkpoint(checkpoint)
    specification = loaded.specification.model_copy(update=changes)
    save_checkpoint(path, specification, loaded.weights)
    return path


def test_creating_it_imports_no_torch() -> None:
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


def test_whole_volume(viewer, panel, qtbot, run, add, output, scan) -> None:
    layer = add(viewer, scan)
    add(viewer, truth_of(scan), "labels", name="lesion")
    panel.agreement.truth.chooser.choose(viewer.layers["lesion"])
    panel.model.draws.setValue(2)
    run(panel)

    assert panel.notices.error.text() == ""
    assert " finding" in panel.notices.status.text()
    assert "cpu" in panel.notices.status.toolTip()
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
    assert panel.inputs.scan_chooser.count() == 1
    assert panel.agreement.truth.chooser.count() == 2
    # Agreement is there, and follows the threshold; the areas do not move.
    before = {key: label.text() for key, label in panel.agreement.view.figures.items()}
    assert not panel.agreement.view.metrics.isHidden()
    assert all(float(text) >= 0 for text in before.values())
    panel.findings.threshold.setValue(0.5 * detection.anomaly.data.max())
    qtbot.wait(400)
    after = {key: label.text() for key, label in panel.agreement.view.figures.items()}
    assert after["recall"] != before["recall"]
    assert (after["auroc"], after["auprc"]) == (before["auroc"], before["auprc"])
    # Only what this machine has is offered now.
    offered = [panel.model.device.itemText(n) for n in range(panel.model.device.count())]
    assert offered[:2] == ["auto", "cpu"]
    import torch

    assert ("cuda" in offered) == torch.cuda.is_available()


def cancel_a_slice(qtbot, finish, panel: DetectWidget) -> None:
    """Begin a run of one slice, and cancel it before its neighbors are there."""
    panel.model.this_slice.setChecked(True)
    slowly(panel)
    panel.run()
    qtbot.waitUntil(lambda: panel.notices.progress.isVisibleTo(panel), timeout=MINUTE)
    panel.controller.cancel()
    finish(panel)


def test_a_single_slice_that_is_cancelled_leaves_nothing(
    viewer, panel, qtbot, run, finish, add, output, scan
) -> None:
    """Without its neighbors it would have another score."""
    add(viewer, scan)
    viewer.dims.set_current_step(0, scan.shape[0] // 2)
    cancel_a_slice(qtbot, finish, panel)
    assert panel.notices.status.text() == "Cancelled before the first slice was done"
    assert panel.outcome is None
    assert not panel.saving.save_button.isEnabled()
    # what there was before stays, on the canvas and in the panel
    panel.model.whole_volume.setChecked(True)
    panel.model.draws.setValue(1)
    run(panel)
    there = panel.outcome, output(viewer, "anomaly map").data.copy()
    cancel_a_slice(qtbot, finish, panel)
    assert panel.outcome is there[0]
    assert_array_equal(output(viewer, "anomaly map").data, there[1])
    assert panel.findings.table.model.rowCount() > 0
    assert panel.saving.save_button.isEnabled()


def test_corrections_with_the_brush_amid_another_run_are_never_lost(
    viewer, panel, qtbot, finish, add, output, show_result, scan
) -> None:
    add(viewer, scan)
    show_result(panel)
    labels = output(viewer, "anomalies")
    corner = (0, 0, 0)
    assert labels.data[corner] == 0
    labels.selected_label, labels.brush_size = 5, 1
    panel.run()
    labels.paint(corner, 5)
    corrected = labels.data.copy()
    assert corrected[corner] == 5
    finish(panel)
    assert "head anomalies, corrected" in panel.notices.status.text()
    labels.undo()  # strokes on what was there before are not this run's
    assert labels.data[corner] == 0
    kept = viewer.layers["head anomalies, corrected"]
    assert_array_equal(kept.data, corrected)
    assert not is_output(kept)
    assert kept.metadata[METADATA_KEY] is labels.metadata[METADATA_KEY]
    count = len(viewer.layers)
    panel.findings.threshold.setValue(0.03)
    qtbot.wait(200)
    assert len(viewer.layers) == count
    assert_array_equal(kept.data, corrected)


def test_threshold_writes_in_place(viewer, panel, qtbot, add, output, show_result, scan) -> None:
    add(viewer, scan)
    show_result(panel)
    labels = output(viewer, "anomalies")
    memory, before = labels.data, labels.data.copy()
    panel.findings.threshold.setValue(0.9 * panel.outcome.detection.anomaly.data.max())
    qtbot.wait(400)
    assert labels.data is memory
    assert 0 < np.count_nonzero(labels.data) < np.count_nonzero(before)
    assert_array_equal(labels.data > 0, panel.outcome.marked.labels > 0)
    panel.findings.minimum.setValue(1000)
    qtbot.wait(400)
    assert not labels.data.any()
    assert panel.findings.count.text() == describe_none(1000)


def test_this_slice_is_the_axial_one(viewer, panel, run, add, output, scan) -> None:
    add(viewer, scan)
    panel.views.show_plane("Coronal")
    viewer.dims.set_current_step(0, 17)
    viewer.dims.set_current_step(1, 9)
    panel.model.this_slice.setChecked(True)
    run(panel)
    assert panel.notices.error.text() == ""
    assert_array_equal(np.flatnonzero(panel.outcome.detection.done), [17])
    made = output(viewer, "reconstruction").data
    assert made[17].any()
    assert not np.delete(made, 17, axis=0).any()
    assert output(viewer, "anomaly map").data[17].any()


def test_a_second_run_takes_the_layers_over(viewer, panel, run, add, output, scan) -> None:
    layer = add(viewer, scan)
    panel.model.draws.setValue(2)
    panel.model.this_slice.setChecked(True)
    run(panel)
    count = len(viewer.layers)
    anomalies = output(viewer, "anomaly map")
    layer.name = "renamed"
    assert panel.inputs.scan_chooser.currentText() == "renamed"
    panel.model.draws.setValue(1)
    panel.model.whole_volume.setChecked(True)
    run(panel)
    assert output(viewer, "anomaly map") is anomalies
    assert panel.outcome.detection.done.all()
    # One draw has no uncertainty, so the other run's map is gone.
    assert len(viewer.layers) == count - 1
    assert output(viewer, "uncertainty") is None


def test_wrong_layers_are_refused_in_words(viewer, panel, run, add, scan) -> None:
    for data, options in (
        (np.zeros((2, 9, 20, 30), np.float32), {}),
        (np.full((9, 20, 30), np.nan, np.float32), {"contrast_limits": (0, 1)}),
        (np.ones((9, 20, 30), np.float32), {}),
    ):
        layer = viewer.add_layer(Image(data, name="wrong", **options))
        run(panel)
        assert "wrong" in panel.notices.error.text() or "volume" in panel.notices.error.text()
        assert "bug" not in panel.notices.error.text()
        assert panel.notices.details.isHidden()
        assert panel.run_button.isEnabled()
        assert not any(is_output(each) for each in viewer.layers)
        viewer.layers.remove(layer)
    viewer.add_layer(layer)
    run(panel)
    panel.inputs.scan_chooser.choose(add(viewer, scan))
    assert panel.notices.error.isHidden()  # it was about the other


def test_damaged_checkpoint(viewer, panel, add, scan, tmp_path) -> None:
    add(viewer, scan)
    assert panel.run_button.isEnabled()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"PK\x03\x04 not a checkpoint")
    panel.model.checkpoint_chooser.choose(damaged)
    assert "damaged.safetensors" in panel.model.card.text()
    assert not panel.run_button.isEnabled()


def test_checkpoint_sets_its_defaults(panel) -> None:
    assert "tiny" in panel.model.card.text()
    assert panel.model.settings.level == 200
    assert panel.model.settings.steps == 3
    assert panel.model.level_percent.text() == "20%"
    panel.model.level_slider.setValue(2)
    assert panel.model.level.value() == 2
    assert panel.model.steps.value() == 2  # no more steps than levels
    panel.model.sampler.setCurrentIndex(panel.model.sampler.findData("ddpm"))
    assert panel.model.settings.sampler == "ddpm"
    assert not panel.model.eta.isEnabled()


@pytest.mark.parametrize(
    ("training", "highest"),
    [({"highest_level": 400}, 400), ({}, 1000), ({"highest_level": "all"}, 1000)],
)
def test_levels_beyond_the_training_are_not_offered(
    panel, tiny_checkpoint, tmp_path, training, highest
) -> None:
    checkpoint = save_variant(tiny_checkpoint, tmp_path / "variant.safetensors", training=training)
    panel.model.checkpoint_chooser.choose(checkpoint)
    panel.model.level_slider.setValue(1000)
    assert panel.model.settings.level == highest
    assert panel.model.level_slider.value() == highest
    assert panel.model.level_percent.text() == f"{highest / 1000:.0%}"  # of the whole chain


def test_choosers_follow_the_layers(viewer, panel, add, scan) -> None:
    first = add(viewer, scan, name="first")
    second = add(viewer, scan, name="second")
    mask = add(viewer, truth_of(scan), "labels", name="mask")
    assert panel.welcome.isHidden()
    panel.inputs.scan_chooser.choose(second)
    panel.inputs.brain.chooser.choose(mask)
    second.name = "other"
    viewer.layers.remove(first)
    assert panel.inputs.scan_chooser.currentText() == "other"
    viewer.layers.remove(second)
    viewer.layers.remove(mask)
    assert panel.inputs.scan_chooser.layer_id is None
    assert panel.inputs.brain.chooser.currentText() == "Automatic"
    assert not panel.run_button.isEnabled()


def test_truth_on_another_grid(viewer, panel, finish, add, show_result, scan, make_brain) -> None:
    add(viewer, scan)
    fine = AFFINE.copy()
    fine[:3, :3] *= 0.7
    other = truth_of(make_brain(fine, (47, 55, 41)))
    panel.agreement.truth.chooser.choose(add(viewer, other, "labels", name="fine"))
    assert "fine" in panel.agreement.truth.grid_message.text()
    panel.agreement.truth.resample_button.click()
    assert not panel.agreement.truth.resample_button.isEnabled()  # it is done aside
    finish(panel)
    assert panel.agreement.truth.resample_button.isEnabled()
    assert panel.agreement.truth.grid_message.text() == ""
    assert panel.agreement.truth.chooser.currentText() == "fine on head"
    resampled = viewer.layers["fine on head"]
    expected = truth_of(scan).data
    overlap = 2 * np.sum((resampled.data > 0) & (expected > 0))
    assert overlap / (np.sum(resampled.data > 0) + expected.sum()) > 0.85
    show_result(panel)
    finish(panel)
    assert not panel.agreement.view.metrics.isHidden()


def test_a_mask_that_is_drawn_on_is_no_longer_its_file(
    viewer, panel, run, finish, add, scan, tmp_path
) -> None:
    """A record that named it would send `verify` to a file that gives other results."""
    add(viewer, scan)
    mask = scan.with_data((scan.data > 0).astype(np.uint8))
    mask.data[:15] = 0
    path = write_volume(tmp_path / "head_mask.nii.gz", mask)
    layer = add(viewer, read_labels(path), "labels", name="mask")
    layer.brush_size = 1
    panel.inputs.brain.chooser.choose(layer)
    for name in (path.name, None):
        run(panel)
        assert panel.notices.error.text() == ""
        assert_array_equal(panel.outcome.detection.brain_mask.data, layer.data > 0)
        panel.saving.save(tmp_path / "out", overwrite=True)
        finish(panel)
        record = read_record(tmp_path / "out" / "head_record.json")
        assert record.brain_mask.origin == "given"
        assert record.brain_mask.name == name
        layer.paint(tuple(np.argwhere(layer.data)[0]), 0)


def test_warnings_of_mask_and_truth_are_shown_and_saved(
    viewer, panel, run, finish, add, scan, tmp_path
) -> None:
    add(viewer, scan)
    mask = scan.with_data((scan.data > 0).astype(np.uint8), ("labels were rounded",))
    truth = replace(truth_of(scan), warnings=("the header is damaged",))
    drawn = add(viewer, truth, "labels", name="drawn")
    drawn.metadata.pop(METADATA_KEY)  # as a person draws it on the scan
    panel.inputs.brain.chooser.choose(add(viewer, mask, "labels", name="mask"))
    panel.agreement.truth.chooser.choose(add(viewer, truth, "labels", name="truth"))
    panel.model.this_slice.setChecked(True)
    viewer.dims.set_current_step(0, 17)
    run(panel)
    assert "The brain mask: labels were rounded" in panel.remarks.shown
    assert (
        "The ground truth: the header is damaged" in panel.agreement.view.notes.text().splitlines()
    )
    panel.saving.save(tmp_path)
    finish(panel)
    assert panel.notices.error.text() == ""
    record = (tmp_path / "head_record.json").read_text()
    assert "labels were rounded" in record
    assert "the header is damaged" in record
    panel.agreement.truth.chooser.choose(drawn)
    finish(panel)
    assert not panel.agreement.view.metrics.isHidden()
    assert "left and right" not in panel.agreement.view.notes.text()


@pytest.mark.parametrize("whole", [True, False])
def test_what_the_panel_saves_can_be_verified(
    viewer, panel, run, finish, add, output, qtbot, scan, tmp_path, whole
) -> None:
    """With a truth, a threshold that moved, decisions and corrections."""
    add(viewer, scan)
    path = write_volume(tmp_path / "truth.nii.gz", truth_of(scan))
    panel.agreement.truth.chooser.choose(add(viewer, read_labels(path), "labels", name="truth"))
    panel.model.this_slice.setChecked(not whole)
    viewer.dims.set_current_step(0, 17)
    run(panel)
    anomaly = panel.outcome.detection.anomaly.data
    panel.findings.minimum.setValue(0.0)
    for share in (0.9, 0.8):
        panel.findings.threshold.setValue(float(np.quantile(anomaly[anomaly > 0], share)))
    table = panel.findings.table
    qtbot.waitUntil(lambda: table.model.rowCount() > 1, timeout=MINUTE)
    table.decide(table.model.finding(0).id, Decision("accepted", "seen"))
    labels = output(viewer, "anomalies")
    labels.data_setitem(tuple(np.array([n]) for n in (3, 3, 3)), 7)
    panel.saving.save(tmp_path / "out")
    finish(panel)
    (record,) = (tmp_path / "out").rglob("*_record.json")
    found = verify(record, scan=scan.source.path, model=panel.outcome.checkpoint.path)
    assert (found.problems, found.verdict) == ([], "identical")
    assert [note.split()[0] for note in found.notes] == ["A", "Decisions"]


def test_how_a_scan_differs_from_the_training_is_shown_and_saved(
    viewer, panel, run, finish, add, scan, tiny_checkpoint, tmp_path
) -> None:
    healthy = {"healthy_reconstruction_error": {"low": 8.0, "high": 9.0, "subjects": 3}}
    variant = save_variant(tiny_checkpoint, tmp_path / "c.safetensors", evaluation=healthy)
    panel.model.checkpoint_chooser.choose(variant)
    add(viewer, scan)
    drawn = add(viewer, truth_of(scan), "labels", name="drawn")
    drawn.metadata.pop(METADATA_KEY)
    panel.agreement.truth.chooser.choose(drawn)
    panel.model.this_slice.setChecked(True)
    viewer.dims.set_current_step(0, 17)
    run(panel)
    said = panel.outcome.quality.unchecked  # a slice does not tell
    assert said == ("reconstruction: not all slices were reconstructed",)
    panel.model.whole_volume.setChecked(True)
    run(panel)
    (redrawn,) = (each for each in panel.remarks.cautions if "model redraws" in each.text())
    assert "8.000 to 9.000" in redrawn.toolTip()
    panel.saving.save(tmp_path / "out")
    finish(panel)
    assert panel.notices.error.text() == ""
    record = read_record(tmp_path / "out" / "head_record.json")
    assert record.quality.model_dump(mode="json") == panel.outcome.quality.record()
    assert "reconstruction" in [flag.key for flag in record.quality.flags]
    assert record.truth.voxels_sha256 == voxels_sha256(truth_of(scan).data != 0)


def test_layers_of_other_readers(viewer, panel, run, output, scan) -> None:
    """No metadata of ours: the grid is the layer's own, and the outputs have its voxel order."""
    data, scale = scan.data[::-1, :, ::-1].astype(np.uint16), scan.spacing
    scale = (-scale[0], scale[1], -scale[2])
    layer = Image(data, name="foreign", scale=scale, contrast_limits=(0, 140))
    viewer.add_layer(layer)
    viewer.dims.set_current_step(0, 12)
    run(panel)
    assert panel.notices.error.text() == ""
    assert "left and right" in "\n".join(panel.remarks.shown)
    made = output(viewer, "reconstruction")
    assert_allclose(made.scale, scale)
    brain = data > 0
    assert not made.data[~brain].any()
    assert np.mean(made.data[brain] > 0) > 0.99
    labels = output(viewer, "anomalies")
    assert_array_equal(panel.outcome.layers.labels(), panel.outcome.marked.labels)
    assert_array_equal(layer_to_volume(labels).data, panel.outcome.marked.labels)


def test_save(
    viewer, panel, finish, add, output, show_result, scan, scan_file, tmp_path, monkeypatch
) -> None:
    add(viewer, scan)
    show_result(panel)
    labels = output(viewer, "anomalies")
    labels.data[16, 20:24, 14:18] = 99  # a person's edit
    panel.saving.save(tmp_path / "out")
    finish(panel)
    assert panel.notices.error.text() == ""
    assert not panel.saving.open_button.isHidden()
    assert panel.saving.seg.isHidden()  # the scan is no DICOM series
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
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    output(viewer, "anomaly map").contrast_limits = 0.125, 1
    panel.saving.save(tmp_path / "out", overwrite=True, page=True)
    finish(panel)
    assert panel.notices.error.text() == ""
    page = tmp_path / "out" / "head_page.html"
    assert opened == [str(page)]
    assert ">0.125<" in page.read_text()  # the color bar is that of the screen
    assert "There are no pictures" not in page.read_text()
    panel.saving.save(tmp_path / "out")
    finish(panel)
    assert "exists already: press Save again" in panel.notices.error.text()
    assert "--" not in panel.notices.error.text()
    assert_array_equal(read_labels(tmp_path / "out" / "head_labels.nii.gz").data, saved.data)
    # napari's own File > Save, through our writers.
    native = nib.load(scan_file).affine
    for title, write in (("anomaly map", write_image), ("anomalies", write_labels)):
        data, meta, _ = output(viewer, title).as_layer_data_tuple()
        (path,) = write(str(tmp_path / "saved.nii.gz"), data, meta)
        assert_array_equal(nib.load(path).affine, native)
        assert_allclose(read_volume(path).data, data, atol=1e-6)


def test_the_demo_case(viewer, panel) -> None:
    panel.welcome.demo_button.click()
    assert panel.inputs.scan_chooser.currentText() == "demo_T1w"
    assert panel.agreement.truth.chooser.currentText() == "demo_lesion"
    assert panel.agreement.truth.grid_message.text() == ""
    assert tuple(map(str, viewer.scene.camera.orientation)) == RADIOLOGICAL


def test_a_method_without_noise_offers_no_noise(
    viewer, panel, run, add, scan, tiny_checkpoint, tmp_path
) -> None:
    loaded = load_checkpoint(tiny_checkpoint)
    before = loaded.specification
    specification = before.replace(
        method="denoising_ae",
        diffusion=None,
        detection=before.detection.replace(level=None, steps=1, draws=1),
    )
    path = save_checkpoint(tmp_path / "dae.safetensors", specification, loaded.weights)
    panel.model.checkpoint_chooser.choose(path)
    for field in (
        panel.model.level,
        panel.model.steps,
        panel.model.sampler,
        panel.model.eta,
        panel.model.draws,
        panel.model.seed,
    ):
        assert not field.isEnabled()
    assert "Denoising AE" in panel.model.card.text()
    add(viewer, scan)
    run(panel)
    assert panel.notices.error.text() == ""
    assert panel.outcome.detection.done.all()
    assert panel.outcome.detection.settings.level is None
    panel.model.checkpoint_chooser.choose(tiny_checkpoint)
    assert panel.model.level.isEnabled()
    assert panel.model.draws.isEnabled()


# --- ground truth ------------------------------------------------------------------------------


def test_a_truth_out_of_a_file_and_the_threshold_on_its_curves(
    viewer, panel, qtbot, finish, add, show_result, scan, tmp_path
) -> None:
    layer = add(viewer, scan)
    truth = truth_of(scan)
    panel.agreement.truth.open(write_volume(tmp_path / "lesion.nii.gz", truth))
    assert not panel.agreement.truth.open_button.isEnabled()  # it is read aside
    finish(panel)
    assert panel.agreement.truth.chooser.currentText() == "lesion"
    assert_array_equal(viewer.layers["lesion"].data, truth.data)
    assert_array_equal(viewer.layers["lesion"].scale, layer.scale)
    show_result(panel)
    finish(panel)
    view = panel.agreement.view
    anomaly, brain = panel.outcome.detection.anomaly.data, panel.outcome.detection.brain_mask.data
    lesion = truth.data[brain] > 0
    threshold = round(float(np.quantile(anomaly[brain], 0.98)), 3)
    assert threshold > 0
    view.threshold_chosen.emit(threshold)  # as a click on a curve does
    qtbot.wait(400)
    assert panel.findings.threshold.value() == pytest.approx(threshold)
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


def test_hits_and_misses_follow_the_threshold_in_place(
    viewer, panel, qtbot, finish, add, output, show_result, scan
) -> None:
    add(viewer, scan)
    lesion = add(viewer, truth_of(scan), "labels", name="lesion")
    panel.agreement.truth.chooser.choose(lesion)
    show_result(panel)
    finish(panel)
    button = panel.agreement.view.overlay
    truth, brain = truth_of(scan).data > 0, panel.outcome.detection.brain_mask.data
    button.setChecked(True)
    shown = output(viewer, "hits and misses")
    memory = shown.data
    anomaly, outlines = output(viewer, "anomaly map"), output(viewer, "anomalies")
    assert not any(layer.visible for layer in (anomaly, outlines, lesion))
    for share in (0.2, 0.6, 1.1):
        panel.findings.threshold.setValue(share * panel.outcome.detection.anomaly.data.max())
        qtbot.wait(300)
        found = panel.outcome.marked.labels > 0
        assert shown.data is memory
        assert_array_equal(shown.data == 3, found & truth & brain)
        assert_array_equal(shown.data == 2, found & ~truth)
        assert_array_equal(shown.data == 1, truth & brain & ~found)
    assert_array_equal(shown.scale, outlines.scale)
    assert shown.metadata[METADATA_KEY] is outlines.metadata[METADATA_KEY]
    assert shown.name not in [
        panel.agreement.truth.chooser.itemText(n)
        for n in range(panel.agreement.truth.chooser.count())
    ]
    # away and back, by the button, by hand, by a run, by another truth
    button.setChecked(False)
    assert output(viewer, "hits and misses") is None
    assert all(layer.visible for layer in (anomaly, outlines, lesion))
    button.setChecked(True)
    viewer.layers.remove(output(viewer, "hits and misses"))
    assert not button.isChecked()
    assert anomaly.visible
    button.setChecked(True)
    panel.model.this_slice.setChecked(True)
    viewer.dims.set_current_step(0, 17)
    panel.run()
    qtbot.waitUntil(lambda: output(viewer, "hits and misses") is None, timeout=MINUTE)
    finish(panel)
    shown = output(viewer, "hits and misses")
    assert button.isChecked()
    assert shown.data[17].any()
    assert not np.delete(shown.data, 17, axis=0).any()
    panel.agreement.truth.chooser.choose(None)
    assert output(viewer, "hits and misses") is None
    assert output(viewer, "anomaly map").visible


def test_a_result_that_was_replaced_leaves_the_memory(viewer, panel, run, add, scan) -> None:
    add(viewer, scan)
    panel.agreement.truth.chooser.choose(add(viewer, truth_of(scan), "labels", name="lesion"))
    replaced = []
    for seed in range(2):
        panel.model.seed.setValue(seed)
        run(panel)
        assert panel.outcome.agreement is not None
        replaced.append(weakref.ref(panel.outcome.detection))
    gc.collect()
    assert [result() is None for result in replaced] == [True, False]


def test_a_file_that_holds_no_labels_is_refused_in_words(
    viewer, panel, finish, add, scan, scan_file
) -> None:
    add(viewer, scan)
    before = len(viewer.layers)
    panel.agreement.truth.open(scan_file)
    finish(panel)
    assert str(scan_file) in panel.notices.error.text()
    assert "no mask" in panel.notices.error.text()
    assert panel.agreement.truth.open_button.isEnabled()
    assert len(viewer.layers) == before


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_a_voxel_is_found_in_layers_of_other_readers(
    viewer, panel, show_result, scan, flips
) -> None:
    data = scan.data[tuple(slice(None, None, flip) for flip in flips)]
    scale = tuple(step * flip for step, flip in zip(scan.spacing, flips, strict=True))
    layer = Image(data, name="foreign", scale=scale, contrast_limits=(0, 140))
    viewer.add_layer(layer)
    show_result(panel)
    placed = panel.outcome.layers.volume
    index = (20, 7, 11)
    panel.outcome.layers.go_to(index)
    there = tuple(int(n) for n in np.round(layer.world_to_data(viewer.dims.point)))
    assert there == placed.index_in_layer(index)
    assert layer.data[there] == placed.volume.data[index]


def test_a_figure_is_of_the_slice_on_screen_whatever_is_open(
    viewer, panel, qtbot, show_result, scan, tmp_path
) -> None:
    """It works for a frame of a 4D scan, and after the scan is closed."""
    data, arguments, _ = volume_to_layer(scan)
    four = {**arguments, "axis_labels": ("t", *arguments["axis_labels"])}
    four["units"] = ("pixel", *arguments["units"])
    four |= {"scale": (1, *arguments["scale"]), "translate": (0, *arguments["translate"])}
    del four["metadata"]
    viewer.add_layer(Image(data[None], **four))
    show_result(panel)
    assert panel.notices.error.text() == ""

    def figure(name: str) -> np.ndarray:
        panel.views.figure.export(tmp_path / name)
        qtbot.waitUntil(
            lambda: panel.views.figure.note.text() == f"Saved as {name}", timeout=MINUTE
        )
        with Picture.open(tmp_path / name) as picture:
            return np.asarray(picture)

    pictures = []
    for at in (9, 20):
        viewer.dims.set_current_step(1, at)
        pictures.append(figure(f"{at}.png"))
    assert not np.array_equal(*pictures)
    viewer.layers.remove(panel.outcome.layers.scan_layer)
    viewer.dims.set_current_step(0, 9)  # only the results are left, of three axes
    assert_array_equal(figure("closed.png"), pictures[0])
    viewer.layers.clear()
    panel.views.figure.export(tmp_path / "nothing.png")
    assert panel.views.figure.note.text() == texts.NO_SLICE
    assert not (tmp_path / "nothing.png").exists()


# --- the end -------------------------------------------------------------------------------------


def test_a_bug_is_never_swallowed(panel, finish) -> None:
    def broken():
        yield from ()
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    panel.jobs.start("Break", broken, errored=panel.notices.show_error)
    finish(panel)
    assert "This is a bug" in panel.notices.error.text()
    assert "mat1 and mat2" in panel.notices.error.text()
    assert "Traceback" in panel.notices.details.toPlainText()
    assert not panel.notices.details.isHidden()


def test_all_jobs_end_with_the_panel(qtbot) -> None:
    ended = []

    def long(name):
        for _ in range(3000):
            yield name
            time.sleep(0.01)
        ended.append(name)  # by itself

    panel = DetectWidget(ViewerModel())
    jobs = panel.jobs
    for name in ("one", "another"):
        jobs.start(name, long, name, errored=panel.notices.show_error)
    panel.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qtbot.waitUntil(lambda: not jobs.going, timeout=MINUTE)
    assert not ended


def test_closing_the_panel_s_dock_ends_it(
    make_napari_viewer_proxy, new_panel, qtbot, run, add, output, scan
) -> None:
    """With its run, its keys, and what it has put into the viewer; another one has them all."""
    viewer = make_napari_viewer_proxy()
    before = set(viewer.canvas.overlays)
    panel = new_panel(viewer)
    jobs, dock = panel.jobs, panel.parentWidget()
    window = dock.window()
    add(viewer, scan)
    keys = [label.text() for label in panel.views.findChildren(QLabel)]
    slowly(panel)
    panel.run()
    panel.views.three_planes.setChecked(True)
    qtbot.waitUntil(lambda: panel.outcome is not None, timeout=MINUTE)
    first = output(viewer, "reconstruction")
    with qtbot.waitSignal(panel.destroyed, timeout=MINUTE):
        dock.titleBarWidget().close_button.click()
    qtbot.waitUntil(lambda: not jobs.going, timeout=MINUTE)
    held = first.data.copy()
    qtbot.wait(300)
    assert set(viewer.canvas.overlays) == before
    docks = [dock for dock in window.findChildren(QDockWidget) if dock.isVisible()]
    assert {dock.objectName() for dock in docks} <= {"layer controls", "layer list"}

    second = new_panel(viewer)
    assert [label.text() for label in second.views.findChildren(QLabel)] == keys
    assert not second.running
    assert_array_equal(first.data, held)
    run(second)
    assert_array_equal(output(viewer, "anomalies").data, second.outcome.marked.labels)


def test_closing_the_viewer_ends_the_run_and_what_is_compared(
    make_napari_viewer_proxy, new_panel, qtbot, add, output, show_result, scan
) -> None:
    """The fixture looks for what is left of further canvases."""
    viewer = make_napari_viewer_proxy(show=True)
    panel = new_panel(viewer)
    add(viewer, scan)
    show_result(panel)
    panel.views.comparison.beside.setChecked(True)
    panel.views.comparison.blink.setChecked(True)
    assert output(viewer, "reconstruction").visible
    slowly(panel)
    panel.model.draws.setValue(500)  # minutes
    panel.run()
    jobs = panel.jobs
    assert jobs.going
    viewer.close()
    qtbot.waitUntil(lambda: not jobs.going, timeout=MINUTE)
    qtbot.wait(50)  # what Qt was asked to delete later


# --- a review that goes on -----------------------------------------------------------------------


def test_a_saved_review_goes_on(
    viewer, panel, new_panel, qtbot, finish, add, output, show_result, scan, tmp_path
) -> None:
    """With threshold, decisions, notes and corrections; and saved again it is the same review."""
    add(viewer, scan)
    detection = show_result(panel)
    panel.findings.minimum.setValue(0.2)
    anomaly = detection.anomaly.data
    panel.findings.threshold.setValue(float(np.quantile(anomaly[anomaly > 0], 0.97)))
    table = panel.findings.table
    qtbot.waitUntil(lambda: table.model.rowCount() > 1, timeout=MINUTE)
    first, second = (table.model.finding(row).id for row in range(2))
    table.decide(first, Decision("rejected", 'a vessel, "bent" – ü'))
    table.decide(second, Decision("accepted"))
    labels = output(viewer, "anomalies")
    # most of the first, its peak among it, is erased; and something else is painted
    peak_last = np.argsort(anomaly[labels.data == first])
    places = np.argwhere(labels.data == first)[peak_last[len(peak_last) // 8 :]]
    labels.data_setitem(tuple(places.T), 0)
    labels.data_setitem(tuple(np.array([n]) for n in (3, 3, 3)), 7)
    edited = labels.data.copy()
    panel.saving.save(tmp_path / "out")
    finish(panel)
    (record,) = (tmp_path / "out").rglob("*_record.json")
    threshold = panel.controller.marking.threshold

    later = ViewerModel()
    other = new_panel(later)
    add(later, scan)
    assert not other.saving.resume_button.isEnabled()  # there are no findings yet
    show_result(other)
    other.saving.resume(record)
    finish(other)
    assert other.notices.error.text() == ""
    assert other.controller.marking.threshold == threshold
    assert other.findings.minimum.value() == pytest.approx(0.2)
    assert other.findings.table.review.decisions == table.review.decisions
    assert_array_equal(output(later, "anomalies").data, edited)
    words = "2 decisions of the record taken over, with its threshold and smallest finding"
    assert other.notices.status.text() == f"{words}, and its corrections"
    other.saving.save(tmp_path / "again")
    finish(other)
    (again,) = (tmp_path / "again").rglob("*_record.json")
    assert read_record(again).labels == read_record(record).labels
    assert read_record(again).findings == read_record(record).findings
    # its corrections stay when the labels are drawn anew
    other.findings.threshold.setValue(0.9 * threshold)
    qtbot.waitUntil(lambda: any(each.name.endswith("corrected") for each in later.layers))
    (corrected,) = [each for each in later.layers if each.name.endswith("corrected")]
    assert_array_equal(corrected.data, edited)
    # and a record of another scan is refused in words
    viewer.layers.clear()
    add(viewer, scan.with_data(scan.data + 1))
    show_result(panel)
    panel.saving.resume(record)
    finish(panel)
    assert "is of another scan" in panel.notices.error.text()
    assert panel.notices.status.text() == ""


def test_another_truth_while_one_is_compared(viewer, panel, finish, add, show_result, scan) -> None:
    """Whichever comparison ends last, the one of the truth that is chosen is shown."""
    add(viewer, scan)
    empty = scan.with_data(np.zeros(scan.shape, dtype=np.uint8))
    first = add(viewer, truth_of(scan), "labels", name="lesion")
    second = add(viewer, empty, "labels", name="nothing")
    show_result(panel)
    panel.agreement.truth.chooser.choose(first)
    panel.agreement.truth.chooser.choose(second)
    finish(panel)
    assert panel.outcome.agreement.is_empty
    view = panel.agreement.view
    assert "The ground truth is empty" in view.explanation.text()
    assert f"{panel.outcome.marked.total_ml:.1f} mL" in view.explanation.text()
    assert view.figures["dice"].text() == "–"
