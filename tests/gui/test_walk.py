"""A whole job in a real viewer, by mouse and keys, on the demo case with the bundled checkpoint.

Open, preview, run while scrolling, move the threshold, click a finding, reject it, undo, agreement
with the ground truth, save, verify, reopen. `scripts/test` runs it under PySide6, too. Nothing here
depends on what this checkpoint finds, but that its map is not the same everywhere.
"""

from __future__ import annotations

import json
import os
import sys

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Labels
from numpy.testing import assert_allclose, assert_array_equal
from qtpy import API_NAME
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_addm.io.demo import SAMPLE_DATA
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.outputs.verification import verify
from napari_addm.widgets.commands import open_panel
from napari_addm.widgets.finding_colors import SELECTED_COLOR
from napari_addm.widgets.layer_registry import is_output

MINUTE = 60_000
DEMO = SAMPLE_DATA


def press(qtbot, widget: QWidget) -> None:
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)


def output(viewer, title: str):
    return next(one for one in viewer.layers if is_output(one) and one.name.endswith(title))


def test_the_binding_is_the_one_that_was_asked_for() -> None:
    """Both may be installed; only one of them may be used."""
    assert os.environ.get("QT_API", API_NAME).lower() == API_NAME.lower()
    other = {"PyQt6": "PySide6", "PySide6": "PyQt6"}[API_NAME]
    assert f"{other}.QtWidgets" not in sys.modules


@pytest.mark.slow
def test_from_open_to_reopen(make_napari_viewer_proxy, qtbot, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.set_geometry(0, 0, 1280, 800)
    panel = open_panel(viewer)

    def wait(done) -> None:
        qtbot.waitUntil(done, timeout=10 * MINUTE)
        assert panel.notices.error.text() == ""

    # --- open
    wait(panel.welcome.isVisible)
    assert not panel.run_button.isEnabled()
    press(qtbot, panel.welcome.demo_button)
    assert panel.inputs.scan_chooser.currentText() == "demo_T1w"
    assert panel.agreement.truth.chooser.currentText() == "demo_lesion"
    truth = viewer.layers["demo_lesion"]
    assert isinstance(truth, Labels)
    lesion = np.argwhere(np.asarray(truth.data) > 0)
    middle = tuple(int(n) for n in lesion.mean(axis=0).round())
    viewer.dims.set_current_step(0, middle[0])
    assert panel.run_button.isEnabled()
    assert not panel.saving.save_button.isEnabled()
    panel.model.draws.setValue(2)  # the fewest with an uncertainty

    # --- preview
    panel.follow.box.click()
    wait(lambda: panel.outcome is not None and panel.outcome.detection is not None)
    assert panel.outcome.detection.done[middle[0]]
    assert not panel.outcome.detection.done.all()
    wait(lambda: "per slice" in panel.follow.words.text())
    assert not panel.saving.save_button.isEnabled()  # a preview is rough

    # --- run, and scroll meanwhile
    panel.model.whole_volume.click()
    press(qtbot, panel.run_button)
    assert panel.running
    assert panel.cancel_button.isEnabled()
    step = 0
    while panel.running:
        step += 1
        viewer.dims.set_current_step(0, middle[0] + step % 7)
        qtbot.wait(100)
    wait(lambda: panel.outcome.agreement is not None)
    assert " finding" in panel.notices.status.text()
    assert panel.notices.status.toolTip().startswith("The run took")
    detection = panel.outcome.detection
    assert detection.done.all()
    anomaly, labels = output(viewer, "anomaly map"), output(viewer, "anomalies")
    assert_array_equal(anomaly.data, detection.anomaly.data)

    # --- the threshold: higher marks less, and what is drawn follows
    scores = detection.highest[detection.brain_mask.data]
    panel.findings.minimum.setValue(0.1)
    marked = []
    for share in (0.97, 0.99):
        panel.findings.threshold.setValue(float(np.quantile(scores, share)))
        wait(
            lambda: (
                panel.outcome.marked.threshold == pytest.approx(panel.findings.threshold.value())
            )
        )
        assert_array_equal(labels.data, panel.outcome.marked.labels)
        assert (labels.data > 0).sum() <= (scores > panel.findings.threshold.value()).sum()
        marked.append(int((labels.data > 0).sum()))
    assert marked[0] > marked[1] > 0
    assert "mL" in panel.findings.count.text()

    # --- click a finding: the viewer goes there, and it is outlined in white
    table = panel.findings.table
    assert table.model.rowCount() >= 1
    viewer.dims.set_current_step(0, 0)
    panel.scroll_area.ensureWidgetVisible(table)
    qtbot.wait(100)
    cell = table.view.visualRect(table.model.index(0, 1)).center()
    qtbot.mouseClick(table.view.viewport(), Qt.MouseButton.LeftButton, pos=cell)
    first = table.review.selected
    assert first is not None
    at = tuple(round(n) for n in labels.world_to_data(viewer.dims.point))
    assert (labels.data[at[0]] == first).any()
    white = tuple(int(SELECTED_COLOR[n : n + 2], 16) / 255 for n in (1, 3, 5))
    assert_allclose(labels.get_color(first)[:3], white, atol=1e-6)

    # --- reject it, undo, reject it again
    kept = panel.findings.count.text()
    press(qtbot, table.reject_button)
    assert table.review.decisions[first].verdict == "rejected"
    assert "rejected" in panel.findings.count.text()
    qtbot.keyClick(table.view, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert first not in table.review.decisions
    assert panel.findings.count.text() == kept
    qtbot.keyClick(table.view, Qt.Key.Key_R)
    qtbot.keyClicks(table.note, "a vessel")
    qtbot.keyClick(table.note, Qt.Key.Key_Return)

    # --- agreement with the ground truth
    wait(lambda: panel.outcome.agreement is not None)
    wait(lambda: panel.agreement.view.figures["dice"].text() not in ("", "–"))
    inside = detection.brain_mask.data
    ours, theirs = (labels.data > 0) & inside, (np.asarray(truth.data) > 0) & inside
    dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    assert panel.agreement.view.figures["dice"].text() == f"{dice:.3f}"

    # --- save
    out = tmp_path / "saved"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: str(out))
    panel.scroll_area.ensureWidgetVisible(panel.saving.save_button)
    press(qtbot, panel.saving.save_button)
    wait(lambda: "files saved in" in panel.notices.status.text())
    wait(lambda: not panel.jobs.going)
    (record,) = out.rglob("*_record.json")
    written = json.loads(record.read_text())
    kept_finding = next(each for each in written["findings"] if each["id"] == first)
    assert (kept_finding["decision"], kept_finding["note"]) == ("rejected", "a vessel")
    assert written["metrics"]["dice"] == pytest.approx(dice)

    # --- verify: the run again from its record, in this process and from its files alone
    checked = verify(record, scan=DEMO / "demo_T1w.nii.gz")
    assert checked.verdict == "identical", list(checked.lines())

    # --- reopen: what was saved lies on the scan, and is what was shown
    paths = {path.name.split("_")[-1]: path for path in out.rglob("*.nii.gz")}
    saved = next(p for p in paths.values() if "labels" in p.name or "dseg" in p.name)
    assert_array_equal(read_labels(saved).data, labels.data)
    assert_array_equal(nib.load(saved).affine, nib.load(DEMO / "demo_T1w.nii.gz").affine)
    assert read_labels(saved).same_grid(read_volume(DEMO / "demo_T1w.nii.gz"))
    (again,) = viewer.open(str(saved), plugin="napari-addm")
    assert isinstance(again, Labels)
    assert_array_equal(again.data, labels.data)
    assert_allclose(again.scale, viewer.layers["demo_T1w"].scale)
    assert_allclose(again.translate, viewer.layers["demo_T1w"].translate)
    assert panel.notices.error.text() == ""
