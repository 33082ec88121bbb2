"""The panel 'Detect in a cohort' with a real (tiny) network in a real thread."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Layer
from napari.settings import get_plugin_settings
from numpy.testing import assert_allclose, assert_array_equal
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtGui import QDesktopServices
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import CaseResult, Shard
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.inspect import InspectedCase
from napari_addm.cohort.review import save_decisions
from napari_addm.cohort.run import run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case_page import CaseSources, write_case_page
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.cases import CaseRow, describe_case
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.cohort_panel.review import CaseReview, Reviews, read_review
from napari_addm.widgets.cohort_panel.table import CasesTable
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.viewing.planes import RADIOLOGICAL

LESION = (25.0, -20.0, 15.0, 20.0)
AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000
LONG = 500  # draws: minutes


@pytest.fixture(scope="module")
def scans(make_brain: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good cases, one of them with a truth, and a bad one, in a table."""
    folder = tmp_path_factory.mktemp("scans")
    x, y, z, radius = LESION
    for n, name in enumerate(("first", "second", "third")):
        brain = make_brain(AFFINE, SHAPE, ((x, y, z + 3 * n, radius),))
        write_volume(folder / f"{name}.nii.gz", brain)
    scan = read_volume(folder / "first.nii.gz")
    world = nib.affines.apply_affine(scan.affine, np.indices(scan.shape).reshape(3, -1).T)
    inside = np.linalg.norm(world - LESION[:3], axis=1) < radius
    truth = scan.with_data(inside.reshape(scan.shape).astype(np.uint8))
    write_volume(folder / "first_lesion.nii.gz", truth)
    (folder / "bad.nii.gz").write_text("<!DOCTYPE html>")
    (folder / "cases.csv").write_text(
        "case,scan,truth\n"
        "first,first.nii.gz,first_lesion.nii.gz\n"
        "group/second,second.nii.gz,\n"
        "third,third.nii.gz,\n"
        "bad,bad.nii.gz,\n"
    )
    return folder


@pytest.fixture
def own_scans(scans: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(scans, tmp_path / "in"))


@pytest.fixture(scope="module")
def finished(scans: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command line, with the checkpoint's own settings."""
    output = tmp_path_factory.mktemp("finished") / "out"
    settings = BatchSettings(
        DetectionSettings(device="cpu", precision="float32"), threshold=0.01, pictures=False
    )
    cases = find_cohort(scans / "cases.csv", output)
    list(run_batch(cases, output, load_checkpoint(tiny_checkpoint), settings))
    return output


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


class Cohort:
    """A panel, and what a person does with it."""

    def __init__(self, qtbot: Any, viewer: Any, checkpoint: Path) -> None:
        self.qtbot, self.viewer, self.layers = qtbot, viewer, viewer.layers
        self.panel = BatchWidget(viewer)
        self.panel.model.checkpoint_chooser.choose(checkpoint)
        self.panel.model.device.setCurrentText("cpu")
        self.panel.model.precision.setCurrentText("float32")
        self.panel.options.threshold.setValue(0.01)  # an untrained network finds something
        self.panel.options.pictures.setChecked(False)
        self.controller = self.panel.controller
        self.buttons, self.table = self.panel.buttons, self.panel.table
        self.section = self.panel.worklist.section

    def wait(self, condition: Callable[[], object]) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=2 * MINUTE)

    def look(self, source: Path, output: Path) -> None:
        self.panel.choose(str(source), str(output))
        self.wait(lambda: self.controller.inspecting is None)

    def finish(self) -> None:
        self.wait(lambda: not self.controller.running)

    def run(self) -> None:
        self.buttons.run.click()
        self.finish()

    def start(self) -> None:
        """Start a run that takes minutes."""
        self.panel.model.draws.setValue(LONG)
        self.buttons.run.click()
        self.wait(lambda: "running" in self.states.values())

    def open(self, case: str) -> None:
        """Double-click on a case."""
        place = self.table.model.place_of(case)
        self.table.view.doubleClicked.emit(self.table.model.index(place, 0))
        self.wait(lambda: self.controller.opening is None)

    def wait_saved(self) -> None:
        self.wait(lambda: self.section.state.text().endswith(", saved"))

    def cells(self, case: str) -> dict[str, str]:
        model = self.table.model
        place = model.place_of(case)
        assert place is not None
        return {
            name: model.data(model.index(place, n)) for n, name in enumerate(texts.COHORT_COLUMNS)
        }

    @property
    def states(self) -> dict[str, str]:
        return {row.name: row.state for row in self.controller.rows.values()}

    @property
    def status(self) -> str:
        return self.panel.notices.status.text()

    @property
    def error(self) -> str:
        return self.panel.notices.error.text()

    @property
    def shown(self) -> list[str]:
        return [layer.name for layer in self.layers if layer.visible]


def docked(qtbot: Any, viewer: Any, checkpoint: Path) -> Cohort:
    """A panel in the window of a viewer."""
    cohort = Cohort(qtbot, viewer, checkpoint)
    viewer.window.add_dock_widget(cohort.panel)
    return cohort


@pytest.fixture
def cohort(qtbot: Any, tiny_checkpoint: Path) -> Cohort:
    """The panel beside a viewer without a window."""
    cohort = Cohort(qtbot, ViewerModel(), tiny_checkpoint)
    qtbot.addWidget(cohort.panel)
    return cohort


def manifest(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


# --- before a run --------------------------------------------------------------------------------


def test_opens_from_the_plugins_menu(make_napari_viewer_proxy: Any) -> None:
    viewer = make_napari_viewer_proxy()
    for name in ("Detect anomalies", "Detect in a cohort"):
        _, widget = viewer.window.add_plugin_dock_widget("napari-addm", name)
    assert isinstance(widget, BatchWidget)
    assert widget.notices.status.text() == texts.COHORT_EMPTY
    assert not widget.buttons.run.isEnabled()
    layout = widget.layout()
    assert not any(layout.itemAt(n).spacerItem() for n in range(layout.count()))  # the table grows


def test_listing_cases_imports_no_torch(scans: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "from napari_addm.widgets.cohort_panel.panel import BatchWidget\n"
        "panel = BatchWidget(ViewerModel())\n"
        "panel.choose(*sys.argv[1:])\n"
        "while panel.controller.inspecting:\n"
        "    app.processEvents()\n"
        "    time.sleep(0.01)\n"
        "assert len(panel.controller.rows) == 4, panel.notices.error.text()\n"
        "heavy = {'torch', 'monai', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        # the order in which Python takes down what is left of Qt is not defined
        "panel.close()\n"
        "panel.deleteLater()\n"
        "app.sendPostedEvents(panel, 52)\n"  # QEvent.DeferredDelete
        "app.processEvents()\n"
    )
    arguments = [str(scans / "cases.csv"), str(tmp_path / "out")]
    settings = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120, env=settings)


def test_cases_are_listed_before_anything_runs(cohort: Cohort, scans: Path, tmp_path: Path) -> None:
    cohort.look(scans / "cases.csv", tmp_path / "out")
    line = cohort.cells("first")
    assert (line["size"], line["spacing"]) == ("33×39×29", "5.00×5.00×5.00")
    assert (line["truth"], line["mask"], line["qc"]) == ("✓", "", "thick slices")
    table = cohort.table
    table.view.selectRow(table.model.place_of("bad"))
    assert "bad.nii.gz is a web page" in table.details.text()
    assert str(scans) not in table.details.text()
    assert cohort.status == "4 cases, 1 that will fail"
    assert cohort.buttons.run.isEnabled()
    assert cohort.buttons.run.text() == "Run"
    assert not cohort.buttons.report.isEnabled()
    assert not (tmp_path / "out").exists()
    size = list(texts.COHORT_COLUMNS).index("size")
    for order in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder):
        table.view.sortByColumn(size, order)
        assert table.model.place_of("bad") == 3  # without a number it comes last
    assert table.selected == "bad"
    assert table.view.currentIndex().row() == 3


def test_masks_beside_scans_and_the_filter_of_the_table(
    cohort: Cohort, own_scans: Path, tmp_path: Path
) -> None:
    shutil.copy(own_scans / "first_lesion.nii.gz", own_scans / "first_aseg.nii.gz")
    cohort.look(own_scans, tmp_path / "out")
    assert cohort.status.endswith("1 skipped, 1 with a mask beside it as ground truth")
    table = cohort.table
    table.words.setText("FIRST")
    assert table.model.names == ["first", "first_aseg"]
    assert cohort.cells("first")["truth"] == "✓"
    table.view.selectRow(0)
    assert "Ground truth, found beside the scan: first_lesion.nii.gz" in table.details.text()
    table.kind.setCurrentIndex(table.kind.findData("Skipped"))
    assert table.count.text() == "1 of 5"
    assert table.kind.currentText() == "Skipped (1)"


def test_a_source_without_cases_is_an_error(cohort: Cohort, tmp_path: Path) -> None:
    cohort.look(tmp_path / "nowhere", tmp_path / "out")
    assert "nowhere does not exist: check" in cohort.error
    assert not cohort.buttons.run.isEnabled()
    assert cohort.panel.notices.details.isHidden()


def test_the_places_are_there_in_the_next_session(
    cohort: Cohort, qtbot: Any, scans: Path, tmp_path: Path
) -> None:
    cohort.panel.choose(str(scans))
    assert cohort.panel.places.output.text() == f"{scans}_addm"
    cohort.look(scans / "cases.csv", tmp_path / "out")
    assert get_plugin_settings("napari-addm").panel.cohort == str(scans / "cases.csv")
    other = BatchWidget(ViewerModel())
    qtbot.addWidget(other)
    cohort.wait(lambda: not other.controller.inspecting)
    assert other.places.output.text() == str(tmp_path / "out")
    assert len(other.controller.rows) == 4


def test_thousands_of_cases_are_there_while_headers_are_read(
    cohort: Cohort, tmp_path: Path
) -> None:
    count, panel = 3000, cohort.panel
    voxels = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    one = write_volume(tmp_path / "one.nii", volume_from_native(voxels, np.eye(4)))
    many = tmp_path / "many"
    many.mkdir()
    for n in range(count):
        (many / f"s{n:04}.nii").hardlink_to(one)
    panel.places.source.setText(str(many))
    panel.places.output.setText(str(tmp_path / "out"))
    panel.places.source.returnPressed.emit()
    cohort.wait(lambda: len(cohort.controller.rows) == count)
    assert cohort.controller.inspecting
    assert cohort.buttons.run.isEnabled()
    cohort.buttons.cancel.click()
    assert not cohort.buttons.cancel.isEnabled()
    assert cohort.status == texts.LOOKING_CANCELLED
    cohort.look(one, tmp_path / "out")
    assert list(cohort.states) == ["one"]
    cohort.look(many, tmp_path / "out")
    assert cohort.cells("s2999")["size"] == "4×5×6"
    cohort.table.words.setText("s123")
    assert cohort.table.model.rowCount() == 10


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_shows_every_case_live(cohort: Cohort, scans: Path, tmp_path: Path) -> None:
    cohort.look(scans / "cases.csv", tmp_path / "out")
    seen: list[str] = []
    cohort.controller.rows_changed.connect(lambda _: seen.append(cohort.states["third"]))
    cohort.buttons.run.click()
    assert not cohort.buttons.run.isEnabled()
    assert not cohort.panel.places.source.isEnabled()
    cohort.finish()
    assert cohort.error == ""
    assert set(cohort.states.values()) == {"done", "failed"}
    assert [state for state in dict.fromkeys(seen) if state not in ("waiting", "writing")] == [
        "running",
        "done",
    ]
    rows = manifest(tmp_path / "out")
    assert rows["bad"]["status"] == "failed"
    for name in ("first", "group/second", "third"):
        line = cohort.cells(name)
        for key, column in (("ml", "anomaly_ml"), ("seconds", "seconds")):
            assert float(line[key]) == pytest.approx(float(rows[name][column]), abs=0.06)
    dice = float(rows["first"]["dice"])
    assert cohort.cells("first")["dice"] == f"{dice:.3f}"
    assert cohort.cells("third")["dice"] == ""
    model = cohort.table.model
    tip = model.data(model.index(model.place_of("bad"), 1), Qt.ItemDataRole.ToolTipRole)
    assert "bad.nii.gz is a web page" in tip
    assert "3 of 4 cases done, 1 failed" in cohort.status
    assert cohort.buttons.run.text() == "Run"
    assert cohort.buttons.retry.text() == "Retry failed (1)"
    assert cohort.buttons.report.isEnabled()


def test_an_earlier_run_is_shown_taken_over_and_retried(
    cohort: Cohort, own_scans: Path, done: Path
) -> None:
    cohort.look(own_scans / "cases.csv", done)
    assert set(cohort.states.values()) == {"done earlier", "failed earlier"}
    assert cohort.cells("first")["dice"] == f"{float(manifest(done)['first']['dice']):.3f}"
    assert cohort.buttons.run.text() == "Run"
    cohort.run()
    assert cohort.states["first"] == cohort.states["third"] == "unchanged"
    assert cohort.states["bad"] == "failed"

    shutil.copy(own_scans / "third.nii.gz", own_scans / "bad.nii.gz")
    record = done / "first" / "first_record.json"
    before = record.stat().st_mtime_ns
    cohort.buttons.retry.click()
    cohort.finish()
    assert (cohort.states["bad"], cohort.states["first"]) == ("done", "unchanged")
    assert "1 of 1 cases done" in cohort.status
    assert {row["status"] for row in manifest(done).values()} == {"done"}
    assert not cohort.buttons.retry.isEnabled()
    assert record.stat().st_mtime_ns == before

    cohort.panel.options.threshold.setValue(0.03)
    cohort.run()
    assert set(cohort.states.values()) == {"done"}
    assert record.stat().st_mtime_ns > before


def test_a_cancelled_run_keeps_its_results_and_goes_on_later(
    cohort: Cohort, scans: Path, tmp_path: Path
) -> None:
    source, output = scans / "cases.csv", tmp_path / "out"
    cohort.look(source, output)
    cohort.panel.model.draws.setValue(20)
    cohort.panel.model.batch_size.setValue(4)
    cohort.buttons.run.click()
    cohort.wait(lambda: {"done", "running"} <= set(cohort.states.values()))
    cohort.buttons.cancel.click()
    cohort.finish()
    assert cohort.error == ""
    assert cohort.status.startswith("Cancelled after")
    kept = {name for name, row in manifest(output).items() if row["status"] == "done"}
    assert {name for name, state in cohort.states.items() if state == "done"} == kept
    assert "waiting" in cohort.states.values()
    assert cohort.buttons.run.text() == "Resume"
    cohort.look(source, output)
    assert cohort.buttons.run.text() == "Resume"
    cohort.run()
    assert {name for name, state in cohort.states.items() if state == "unchanged"} == kept
    assert cohort.buttons.run.text() == "Run"


def test_two_runs_on_one_folder_are_refused(cohort: Cohort, scans: Path, done: Path) -> None:
    cohort.look(scans / "cases.csv", done)
    before = cohort.states
    with CohortFolder(done).lock(Shard()):
        cohort.run()
    assert "is being written by another run: wait" in cohort.error
    assert cohort.panel.notices.details.isHidden()
    assert cohort.states == before
    assert cohort.buttons.run.isEnabled()


@pytest.mark.parametrize("closed", ["panel", "viewer"])
def test_a_run_ends_with_its_panel_or_viewer(
    qtbot: Any,
    make_napari_viewer_proxy: Any,
    tiny_checkpoint: Path,
    scans: Path,
    tmp_path: Path,
    closed: str,
) -> None:
    viewer = make_napari_viewer_proxy() if closed == "viewer" else ViewerModel()
    cohort = Cohort(qtbot, viewer, tiny_checkpoint)
    if closed == "viewer":
        viewer.window.add_dock_widget(cohort.panel)
    cohort.look(scans / "cases.csv", tmp_path / "out")
    cohort.start()
    if closed == "viewer":
        viewer.close()
    else:
        cohort.panel.deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def is_free() -> bool:
        with suppress(AddmError), CohortFolder(tmp_path / "out").lock(Shard()):
            return True
        return False

    cohort.wait(is_free)


# --- results -------------------------------------------------------------------------------------


def test_a_case_opens_with_its_results_exactly_over_each_other(
    qtbot: Any, make_napari_viewer_proxy: Any, tiny_checkpoint: Path, scans: Path, done: Path
) -> None:
    viewer = make_napari_viewer_proxy()
    cohort = docked(qtbot, viewer, tiny_checkpoint)
    cohort.look(scans / "cases.csv", done)
    cohort.open("first")
    assert (cohort.error, cohort.status) == ("", "first is open.")
    files = {
        "first": scans / "first.nii.gz",
        "first reconstruction": done / "first" / "first_recon.nii.gz",
        "first anomaly map": done / "first" / "first_anomaly.nii.gz",
        "first anomalies": done / "first" / "first_labels.nii.gz",
        "first ground truth": scans / "first_lesion.nii.gz",
    }
    assert [layer.name for layer in viewer.layers] == list(files)
    for name, path in files.items():
        layer = viewer.layers[name]
        is_labels = name.endswith(("anomalies", "truth"))
        volume = read_labels(path) if is_labels else read_volume(path, constant=True)
        assert_array_equal(layer.data, volume.data)
        # The layer's axes are S, A, R of the world, in this order.
        corners = [(0, 0, 0), tuple(np.array(volume.shape) - 1)]
        world = nib.affines.apply_affine(volume.affine, corners)
        placed = [layer.data_to_world(corner) for corner in corners]
        assert_allclose(placed, world[:, ::-1], atol=1e-4)
        assert layer.units == viewer.layers["first"].units
    anomalies = viewer.layers["first anomalies"]
    assert anomalies.get_value(viewer.dims.point, world=True) == 1  # in the largest finding
    assert tuple(map(str, viewer.scene.camera.orientation)) == RADIOLOGICAL
    assert viewer.layers["first anomaly map"].contrast_limits == pytest.approx((0.005, 0.02))

    first = list(viewer.layers)
    viewer.layers["first"].visible = False
    viewer.add_layer(Image(np.zeros((4, 4, 4)), name="mine", contrast_limits=(0, 1)))
    cohort.open("first")
    assert list(viewer.layers)[1:] == first
    assert cohort.shown == ["mine", "first", *list(files)[2:]]

    cohort.table.view.selectRow(cohort.table.model.place_of("group/second"))
    QTest.keyClick(cohort.table.view, Qt.Key.Key_Return)
    cohort.wait(lambda: cohort.status == "group/second is open.")
    assert not any(layer.visible for layer in first)
    assert viewer.layers["group/second anomaly map"].visible
    cohort.open("first")
    assert viewer.layers[-1].name == "first ground truth"
    assert cohort.shown == ["mine", "first", *list(files)[2:]]


def test_the_brightness_of_a_case_opens_too(
    cohort: Cohort, scans: Path, normed_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    cases = find_cohort(scans / "third.nii.gz", output)
    settings = BatchSettings(DetectionSettings(device="cpu"), threshold=0.01, pictures=False)
    list(run_batch(cases, output, load_checkpoint(normed_checkpoint), settings))
    cohort.look(scans / "third.nii.gz", output)
    cohort.open("third")
    layer = cohort.layers["third brightness"]
    saved = read_volume(output / "third" / "third_brightness.nii.gz", constant=True)
    assert_array_equal(layer.data, saved.data)
    assert (layer.contrast_limits, layer.visible) == ([-0.02, 0.02], False)
    cohort.section.table.pick(1)
    assert "structure" in cohort.section.table.change.text().lower()


def test_drawings_and_copies_of_an_opened_case_are_a_persons_own(
    cohort: Cohort, scans: Path, done: Path
) -> None:
    layers = cohort.layers
    cohort.look(scans / "cases.csv", done)
    cohort.open("first")
    scan, labels = layers["first"], layers["first anomalies"]
    scan.scale = 2 * scan.scale
    results = [layer for layer in layers if is_output(layer)]
    assert len(results) == 3
    for layer in results:
        assert_allclose(layer.scale, scan.scale)

    copy = cohort.viewer.add_layer(Layer.create(*labels.as_layer_data_tuple()))
    copy.data = labels.data.copy()
    copy.paint((0, 0, 0), 7)
    kept = copy.data.copy()
    labels.paint((0, 0, 0), 9)
    drawn = labels.data.copy()
    cohort.open("third")
    assert copy.visible
    layers.remove("first reconstruction")  # so the case is read again
    cohort.open("first")
    assert copy in layers
    assert_array_equal(copy.data, kept)
    assert_array_equal(layers["first anomalies, corrected"].data, drawn)
    assert sum(layer.name.startswith("first anomalies") for layer in layers) == 3


def test_missing_and_foreign_files_of_a_case_are_named(
    cohort: Cohort, own_scans: Path, done: Path
) -> None:
    cohort.look(own_scans / "cases.csv", done)
    (done / "third" / "third_recon.nii.gz").unlink()
    shutil.copy(own_scans / "bad.nii.gz", done / "third" / "third_anomaly.nii.gz")
    cohort.open("third")
    assert "There is no reconstruction: third_recon.nii.gz is missing." in cohort.status
    assert "third_anomaly.nii.gz is a web page" in cohort.status
    assert [layer.name for layer in cohort.layers] == ["third", "third anomalies"]
    cohort.open("bad")
    assert "is a web page" in cohort.error
    assert len(cohort.layers) == 2


def test_a_newer_result_replaces_an_older_one(cohort: Cohort, scans: Path, done: Path) -> None:
    cohort.look(scans / "cases.csv", done)
    cohort.open("third")
    before = cohort.layers["third anomalies"].data.copy()
    cohort.panel.options.threshold.setValue(0.03)
    cohort.run()
    cohort.open("third")
    assert len(cohort.layers) == 4
    after = read_labels(done / "third" / "third_labels.nii.gz").data
    assert_array_equal(cohort.layers["third anomalies"].data, after)
    assert not np.array_equal(before, after)


def test_a_case_without_results_opens_while_a_run_goes_on(
    cohort: Cohort, scans: Path, tmp_path: Path
) -> None:
    cohort.look(scans / "cases.csv", tmp_path / "out")
    cohort.start()
    cohort.open("third")
    assert [layer.name for layer in cohort.layers] == ["third"]
    assert "It has no results yet." in cohort.error
    assert cohort.controller.running
    cohort.buttons.cancel.click()
    cohort.finish()


def test_the_report_and_the_folder_are_opened(
    cohort: Cohort, scans: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: shown.append(url.toLocalFile()))
    cohort.look(scans / "cases.csv", done)
    cohort.buttons.report.click()
    assert not cohort.buttons.report.isEnabled()
    cohort.wait(lambda: shown)
    assert cohort.status == f"The report is {done / 'report.html'}{texts.NO_BROWSER}"
    cohort.buttons.folder.click()
    assert shown == [str(done / "report.html"), str(done)]


def test_the_panel_of_one_scan_follows_the_case_that_is_opened(
    cohort: Cohort, qtbot: Any, scans: Path, done: Path
) -> None:
    detect = DetectWidget(cohort.viewer)
    qtbot.addWidget(detect)
    voxels = np.random.default_rng(0).random((9, 9, 9))
    mine = cohort.viewer.add_image(voxels, name="mine")
    cohort.look(scans / "cases.csv", done)
    for case in ("first", "third", "first"):
        cohort.open(case)
        assert detect.inputs.scan_chooser.currentText() == case
        wanted = [case, f"{case} anomaly map", f"{case} anomalies"]
        assert cohort.shown == wanted + ["first ground truth"] * (case == "first")
        assert cohort.layers.selection.active is cohort.layers[case]
    cohort.layers.selection.active = mine
    assert cohort.shown == ["mine"]


def test_rows_that_change_keep_the_selection(qtbot: Any, scans: Path) -> None:
    cases = find_cohort(scans / "cases.csv", scans / "out")
    rows = {case.name: CaseRow(InspectedCase(case)) for case in cases}
    rows["first"] = CaseRow(rows["first"].found, "failed")
    table = CasesTable(rows)
    qtbot.addWidget(table)
    table.view.selectRow(table.model.place_of("third"))
    table.kind.setCurrentIndex(table.kind.findData("Open"))
    assert table.model.place_of("first") is None
    assert table.selected == "third"
    rows["first"] = CaseRow(rows["first"].found)
    table.show_changes(["first"])
    assert table.model.place_of("first") is None  # rows do not jump at once
    qtbot.waitUntil(lambda: table.model.place_of("first") is not None, timeout=MINUTE)
    assert table.selected == "third"
    assert table.view.currentIndex().row() == table.model.place_of("third")


def test_settings_of_a_run(cohort: Cohort) -> None:
    options = cohort.panel.options
    options.threshold.setValue(0.5)
    assert cohort.panel.settings.threshold == 0.5
    assert cohort.panel.settings.frame is None
    options.frame.setValue(0)
    assert cohort.panel.settings.frame == 0
    assert "threshold 0.5" in cohort.panel.settings_line.text()


# --- a worklist ----------------------------------------------------------------------------------


@pytest.fixture
def reading(
    qtbot: Any, make_napari_viewer_proxy: Any, tiny_checkpoint: Path, scans: Path, done: Path
) -> Cohort:
    """The finished cohort in a viewer with a window."""
    cohort = docked(qtbot, make_napari_viewer_proxy(), tiny_checkpoint)
    cohort.look(scans / "cases.csv", done)
    return cohort


def test_three_cases_are_read_as_a_worklist(
    reading: Cohort, qtbot: Any, tiny_checkpoint: Path, scans: Path, done: Path
) -> None:
    cohort, section = reading, reading.section
    sources = CaseSources(scans / "first.nii.gz", scans / "first_lesion.nii.gz")
    page = write_case_page(done / "first" / "first_record.json", sources)
    assert section.table.isHidden()
    cohort.open("first")
    assert section.title.text() == "Findings in first"
    assert section.table.review.selected == 1  # the largest one
    model = cohort.table.model
    bold = [model.data(model.index(n, 0), Qt.ItemDataRole.FontRole).bold() for n in range(4)]
    assert bold == [name == "first" for name in model.names]
    QTest.keyClick(section.table.view, Qt.Key.Key_R)
    QTest.keyClick(section.table.view, Qt.Key.Key_T)
    QTest.keyClicks(section.table.note, "skull =1 <b>")
    colors = cohort.layers["first anomalies"].colormap.colors
    assert colors[1, 3] < 1  # dimmed
    cohort.wait_saved()
    total = len(section.table.review.marked.findings)
    assert section.state.text() == f"1 of {total} decided, saved"
    assert cohort.cells("first")["reviewed"] == ("done" if total == 1 else f"1 of {total}")

    section.next_button.click()
    cohort.wait(lambda: cohort.controller.opening is None)
    assert section.title.text() == "Findings in group/second"
    cohort.wait(lambda: "first" not in cohort.layers)
    cohort.wait(lambda: "skull =1 &lt;b&gt;" in page.read_text())  # it is made again
    assert cohort.table.selected == "group/second"
    for id in section.table.review.marked.findings.id.tolist():
        section.table.pick(id)
        section.table.accept_button.click()
    section.next_button.click()  # at once: nothing is lost
    cohort.wait(lambda: cohort.controller.opening is None)
    assert section.title.text() == "Findings in third"
    cohort.wait(lambda: cohort.cells("group/second")["reviewed"] == "done")
    section.next_button.click()
    assert cohort.status == texts.NO_MORE_CASES[1]
    section.table.accept_button.click()
    cohort.panel.deleteLater()  # before it is saved
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    again = Cohort(qtbot, ViewerModel(), tiny_checkpoint)
    qtbot.addWidget(again.panel)
    again.look(scans / "cases.csv", done)
    assert again.cells("group/second")["reviewed"] == "done"
    again.table.kind.setCurrentIndex(again.table.kind.findData("Reviewed"))
    assert "group/second" in again.table.model.names
    again.table.kind.setCurrentIndex(0)
    again.open("first")
    assert again.section.table.review.decision_on(1) == Decision("rejected", "skull =1 <b>")
    assert not again.section.table.undo_button.isEnabled()  # what is saved is not undone by chance
    assert again.section.table.note.text() == "skull =1 <b>"
    again.open("third")
    assert again.section.table.review.decision_on(1) == Decision("accepted")
    again.run()
    assert [again.states[name] for name in ("first", "group/second", "third")] == ["unchanged"] * 3


def test_the_next_case_to_review(cohort: Cohort, scans: Path, done: Path) -> None:
    cohort.look(scans / "cases.csv", done)
    section = cohort.section
    for name in ("first", "third"):
        cohort.open(name)
        for id in section.table.review.marked.findings.id.tolist():
            section.table.decide(id, Decision("accepted"))
        cohort.wait_saved()
    section.open_button.click()
    cohort.wait(lambda: cohort.controller.opening is None)
    assert section.title.text() == "Findings in group/second"
    section.open_button.click()
    assert cohort.status == texts.NO_MORE_CASES[0]
    section.previous_button.click()
    cohort.wait(lambda: cohort.controller.opening is None)
    assert section.title.text() == "Findings in first"
    section.previous_button.click()
    assert cohort.status == texts.NO_MORE_CASES[-1]


@pytest.mark.parametrize("kind", ["All", "To review"])
def test_a_case_that_moves_in_the_table_is_still_followed_by_the_next_one(
    cohort: Cohort, scans: Path, done: Path, kind: str
) -> None:
    cohort.look(scans / "cases.csv", done)
    section, table = cohort.section, cohort.table
    column = list(texts.COHORT_COLUMNS).index("reviewed")
    table.view.sortByColumn(column, Qt.SortOrder.AscendingOrder)
    table.kind.setCurrentIndex(table.kind.findData(kind))
    names = [name for name in table.model.names if name != "bad"]
    cohort.open(names[1])
    for id in section.table.review.marked.findings.id.tolist():
        section.table.decide(id, Decision("accepted"))
    cohort.wait(lambda: table.model.place_of(names[1]) != 1)
    section.next_button.click()
    cohort.wait(lambda: cohort.controller.opening is None)
    assert section.title.text() == f"Findings in {names[2]}"


def test_cases_of_another_folder_end_the_review(
    cohort: Cohort, scans: Path, done: Path, tmp_path: Path
) -> None:
    cohort.look(scans / "cases.csv", done)
    cohort.open("first")
    cohort.section.table.accept()
    cohort.look(scans / "cases.csv", done)  # the same once more
    assert cohort.section.title.text() == "Findings in first"
    assert cohort.table.model.opened == "first"
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    cohort.look(scans / "cases.csv", copy)
    assert cohort.section.table.isHidden()
    assert cohort.section.title.text() == ""
    cohort.open("first")  # the same name, and nothing is decided there
    assert cohort.section.table.review.decision_on(1) == Decision()
    cohort.look(scans / "cases.csv", done)
    assert cohort.cells("first")["reviewed"]


def test_a_click_on_an_outline_selects_its_row(reading: Cohort, qtbot: Any) -> None:
    viewer, section = reading.viewer, reading.section
    reading.open("first")
    section.table.review.selected = None
    viewer.window.resize(1200, 800)
    qtbot.wait(50)
    root = reading.panel.window().centralWidget()
    canvas = next(
        each for each in root.findChildren(QWidget) if "CanvasBackend" in type(each).__name__
    )
    labels, camera = reading.layers["first anomalies"], viewer.camera
    at = np.round(labels.world_to_data(viewer.dims.point)).astype(int)
    shown = list(viewer.dims.displayed)
    marked = np.argwhere(labels.data == 1)
    cut = next(axis for axis in range(3) if axis not in shown)
    marked = marked[marked[:, cut] == at[cut]]
    voxel = marked[np.argmin(np.linalg.norm(marked - marked.mean(axis=0), axis=1))]
    apart = (np.array(labels.data_to_world(voxel)) - camera.center)[shown] * camera.zoom
    signs = [-1 if str(side) in ("up", "left") else 1 for side in camera.orientation[-2:]]
    down, right = apart * signs
    place = QPoint(round(canvas.width() / 2 + right), round(canvas.height() / 2 + down))
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=place)
    reading.wait(lambda: section.table.review.selected == 1)
    before = len(viewer.mouse_drag_callbacks)
    viewer.window.remove_dock_widget(reading.panel)
    reading.wait(lambda: len(viewer.mouse_drag_callbacks) < before)


def test_what_was_saved_from_here_is_not_taken_for_anothers(scans: Path, done: Path) -> None:
    case = next(case for case in find_cohort(scans / "cases.csv", done) if case.name == "first")
    state = CohortFolder(done).states.read_own(case)
    assert state is not None

    def read() -> CaseReview:
        scan, labels = read_volume(case.scan), read_labels(case.paths(done)["labels"])
        return read_review(case, done, state.result, scan, labels.data)

    reviews, live, read_meanwhile = Reviews(), read(), read()
    reviews.show(live)
    live.findings.decide(1, Decision("rejected", "mine"))
    assert live.save()
    assert reviews.show(read_meanwhile) == ""  # the files were read before they were replaced
    current = reviews.current
    assert current is not None
    assert current.findings.decision_on(1) == Decision("rejected", "mine")
    assert not current.unsaved
    current.findings.decide(1, Decision("accepted", "after all"))
    assert current.save()

    table = case.paths(done)["findings"]
    table.write_text("theirs")
    current.findings.decide(1, Decision("rejected", "unsaved"))
    (words,) = reviews.close()
    assert "finding 1: rejected (unsaved)" in words


def test_a_case_without_findings_says_so(scans: Path, tmp_path: Path) -> None:
    case = find_cohort(scans / "cases.csv", tmp_path)[0]
    row = CaseRow(InspectedCase(case), "done", result=CaseResult(case.name, "", "done", findings=0))
    assert row.reviewed == "no findings"
    assert row.to_review
    assert texts.NOTHING_FOUND in describe_case(row)
    row = replace(row, result=replace(row.result, seen=True))
    assert row.reviewed == "seen"
    assert not row.to_review


def test_a_case_without_findings_is_marked_as_seen(
    qtbot: Any, make_napari_viewer_proxy: Any, tiny_checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    cohort = docked(qtbot, make_napari_viewer_proxy(), tiny_checkpoint)
    cohort.look(scans / "cases.csv", tmp_path)
    cohort.panel.options.threshold.setValue(1.0)
    cohort.run()
    assert cohort.cells("first")["reviewed"] == "no findings"
    cohort.open("first")
    section = cohort.section
    assert not section.seen_button.isHidden()
    assert section.table.isHidden()
    QTest.keyClick(section.seen_button, Qt.Key.Key_A)
    cohort.wait_saved()
    assert section.seen_button.isChecked()
    assert section.state.text() == "no findings, seen, saved"
    assert cohort.cells("first")["reviewed"] == "seen"
    section.open_button.click()
    cohort.wait(lambda: cohort.controller.opening is None)
    assert section.title.text() == "Findings in group/second"
    assert not section.seen_button.isChecked()
    section.seen_button.click()
    section.seen_button.click()  # a change of mind
    cohort.open("first")
    assert section.seen_button.isChecked()
    cohort.run()  # a run leaves it
    assert cohort.cells("first")["reviewed"] == "seen"
    assert cohort.cells("group/second")["reviewed"] == "no findings"


def test_a_failed_case_leaves_the_open_one_in_view(cohort: Cohort, scans: Path, done: Path) -> None:
    cohort.look(scans / "cases.csv", done)
    cohort.open("third")
    shown = cohort.shown
    cohort.open("bad")
    assert cohort.error.startswith("bad has nothing to open: bad.nii.gz is a web page")
    assert cohort.shown == shown
    assert cohort.section.title.text() == "Findings in third"
    assert cohort.section.table.isEnabled()


def test_what_cannot_be_saved_is_kept_and_said(cohort: Cohort, scans: Path, done: Path) -> None:
    cohort.look(scans / "cases.csv", done)
    cohort.open("first")
    table = done / "first" / "first_findings.csv"
    kept = table.read_bytes()
    table.write_text("mine")
    cohort.section.table.accept()
    cohort.wait(lambda: cohort.error)
    assert "first_findings.csv was changed or removed after it was saved" in cohort.error
    assert cohort.section.state.text().endswith("decided, not saved")
    table.write_bytes(kept)
    cohort.open("third")
    cohort.wait(lambda: cohort.cells("first")["reviewed"])
    cohort.open("first")
    assert cohort.section.table.review.decision_on(1) == Decision("accepted")

    other = next(case for case in find_cohort(scans / "cases.csv", done) if case.name == "first")
    state = CohortFolder(done).states.read_own(other)
    assert state is not None
    save_decisions(done, other, {1: Decision("rejected", "theirs")}, state.result)
    cohort.section.table.decide(1, Decision("accepted", "mine"))
    cohort.wait(lambda: "first was decided on or run by somebody else" in cohort.error)
    cohort.open("third")
    cohort.open("first")
    assert cohort.section.table.review.decision_on(1) == Decision("rejected", "theirs")


def test_decisions_are_made_on_what_is_seen(cohort: Cohort, scans: Path, done: Path) -> None:
    cohort.look(scans / "cases.csv", done)
    cohort.open("first")
    section = cohort.section
    assert section.warning.text() == ""
    cohort.layers["first"].visible = False
    cohort.wait(lambda: section.warning.text() == texts.NOT_IN_VIEW.format("first"))
    assert not section.table.isEnabled()
    cohort.open("first")
    assert section.warning.text() == ""
    assert section.table.isEnabled()
    cohort.layers["first anomalies"].paint((0, 0, 0), 1)
    section.table.accept()
    assert section.warning.text() == texts.OTHER_OUTLINES
    section.next_button.click()
    cohort.wait(lambda: cohort.controller.opening is None)
    assert "first anomalies" in cohort.layers  # painted labels are a person's own
