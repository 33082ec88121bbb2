"""The panel of a cohort in a real viewer, with a real (tiny) network in a real thread."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.settings import get_plugin_settings
from numpy.testing import assert_allclose, assert_array_equal
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QDesktopServices
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort import find as find_module
from napari_addm.cohort import inspect as survey_module
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import Shard
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.run import run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.writing import write_volume
from napari_addm.widgets import texts
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.cohort_panel.table import CasesTable
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.viewing.planes import RADIOLOGICAL

LESION = (25.0, -20.0, 15.0, 20.0)
AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000


@pytest.fixture(scope="module")
def scans(make_brain: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good cases, one of them with a truth, and a bad one, in a table."""
    folder = tmp_path_factory.mktemp("scans")
    for n, name in enumerate(("first", "second", "third")):
        x, y, z, radius = LESION
        write_volume(
            folder / f"{name}.nii.gz", make_brain(AFFINE, SHAPE, ((x, y, z + 3 * n, radius),))
        )
    scan = read_volume(folder / "first.nii.gz")
    index = np.indices(scan.shape).reshape(3, -1)
    world = nib.affines.apply_affine(scan.affine, index.T)
    inside = np.linalg.norm(world - LESION[:3], axis=1) < LESION[3]
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


def prepared(panel: BatchWidget, checkpoint: Path) -> BatchWidget:
    panel.model.checkpoint_chooser.choose(checkpoint)
    panel.model.device.setCurrentText("cpu")
    panel.model.precision.setCurrentText("float32")
    panel.threshold.setValue(0.01)  # an untrained network finds something everywhere
    panel.pictures.setChecked(False)
    return panel


@pytest.fixture
def panel(qtbot: Any, tiny_checkpoint: Path) -> BatchWidget:
    """The panel beside a viewer without a window."""
    widget = BatchWidget(ViewerModel())
    qtbot.addWidget(widget)
    return prepared(widget, tiny_checkpoint)


@pytest.fixture(scope="module")
def finished(scans: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command line would have done, with the checkpoint's own settings."""
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


def look(qtbot: Any, panel: BatchWidget, source: Path | str, output: Path) -> None:
    panel.choose(str(source), str(output))
    qtbot.waitUntil(lambda: not panel.looking, timeout=MINUTE)


def finish(qtbot: Any, panel: BatchWidget) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=2 * MINUTE)


def states(panel: BatchWidget) -> dict[str, str]:
    return {line.case.name: line.state for line in panel.table.model.rows}


def cells(panel: BatchWidget, case: str) -> dict[str, str]:
    """A line of the table as it is shown."""
    model = panel.table.model
    place = model.place_of(case)
    assert place is not None
    names = list(texts.COHORT_COLUMNS)
    return {name: model.data(model.index(place, n)) for n, name in enumerate(names)}


def manifest(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def until_second(qtbot: Any, panel: BatchWidget) -> None:
    """Until the first case is done and the next one in the network."""

    def reached() -> bool:
        found = list(states(panel).values())
        return "done" in found and "running" in found

    qtbot.waitUntil(reached, timeout=MINUTE)


# --- before a run --------------------------------------------------------------------------------


def test_opens_from_the_plugins_menu(make_napari_viewer_proxy: Any) -> None:
    viewer = make_napari_viewer_proxy()
    _, widget = viewer.window.add_plugin_dock_widget("napari-addm", "Detect in a cohort")
    assert isinstance(widget, BatchWidget)
    assert widget.status.text() == texts.COHORT_EMPTY
    assert not widget.run_button.isEnabled()


def test_listing_cases_imports_no_torch(scans: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "from napari_addm.widgets.cohort_panel.panel import BatchWidget\n"
        "panel = BatchWidget(ViewerModel())\n"
        "panel.choose(*sys.argv[1:])\n"
        "while panel.looking:\n"
        "    app.processEvents()\n"
        "    time.sleep(0.01)\n"
        "assert len(panel.table.model.rows) == 4, panel.error.text()\n"
        "heavy = {'torch', 'monai', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    arguments = [str(scans / "cases.csv"), str(tmp_path / "out")]
    # what it remembers is nobody's
    apart = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120, env=apart)


def test_cases_are_listed_before_anything_runs(
    qtbot: Any, panel: BatchWidget, scans: Path, tmp_path: Path
) -> None:
    look(qtbot, panel, scans / "cases.csv", tmp_path / "out")
    assert states(panel) == {
        "first": "waiting",
        "group/second": "waiting",
        "third": "waiting",
        "bad": "will fail",
    }
    line = cells(panel, "first")
    assert line["size"] == "33×39×29"
    assert line["spacing"] == "5.00×5.00×5.00"
    assert (line["truth"], line["mask"], line["qc"]) == ("✓", "", "thick slices")
    assert cells(panel, "third")["truth"] == ""
    panel.table.view.selectRow(panel.table.model.place_of("bad"))
    assert "bad.nii.gz is a web page" in panel.table.details.text()
    assert str(scans) not in panel.table.details.text()
    assert panel.status.text() == "4 cases, 1 that will fail"
    assert panel.run_button.isEnabled()
    assert panel.run_button.text() == "Run"
    assert not panel.report_button.isEnabled()
    assert not (tmp_path / "out").exists()
    # what has no number comes last, whichever way
    size = list(texts.COHORT_COLUMNS).index("size")
    for order in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder):
        panel.table.view.sortByColumn(size, order)
        assert panel.table.model.shown(3).case.name == "bad"
    assert panel.table.selected == "bad"
    assert panel.table.view.currentIndex().row() == 3


def test_a_folder_names_what_is_skipped(
    qtbot: Any, panel: BatchWidget, own_scans: Path, tmp_path: Path
) -> None:
    look(qtbot, panel, own_scans, tmp_path / "out")
    assert states(panel)["first_lesion"] == "skipped"
    assert panel.table.model.row_of("first_lesion").reason == "named as labels, not as a scan"
    panel.table.words.setText("FIRST")
    shown = [panel.table.model.shown(n).case.name for n in range(panel.table.model.rowCount())]
    assert shown == ["first", "first_lesion"]
    panel.table.kind.setCurrentIndex(panel.table.kind.findData("Skipped"))
    assert panel.table.model.rowCount() == 1
    assert panel.table.count.text() == "1 of 5"
    assert panel.table.kind.currentText() == "Skipped (1)"


def test_an_input_that_cannot_be_meant_is_said(
    qtbot: Any, panel: BatchWidget, tmp_path: Path
) -> None:
    look(qtbot, panel, tmp_path / "nowhere", tmp_path / "out")
    assert "nowhere does not exist: check" in panel.error.text()
    assert not panel.run_button.isEnabled()
    table = tmp_path / "table.csv"
    table.write_text("file\na.nii\n")
    look(qtbot, panel, table, tmp_path / "out")
    assert "no column scan" in panel.error.text()
    assert panel.details.isHidden()


def test_a_search_can_be_cancelled(
    qtbot: Any, panel: BatchWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "REPORT_SECONDS", 0.0)
    for n in range(300):
        (tmp_path / "in" / f"{n:03d}").mkdir(parents=True)
        (tmp_path / "in" / f"{n:03d}" / "t1.nii.gz").touch()
    panel.choose(str(tmp_path / "in"), str(tmp_path / "out"))
    qtbot.waitUntil(lambda: "so far" in panel.status.text(), timeout=MINUTE)
    assert panel.cancel_button.isEnabled()
    panel.cancel()
    assert not panel.looking
    assert not panel.cancel_button.isEnabled()
    qtbot.wait(300)
    assert panel.status.text() == texts.LOOKING_CANCELLED
    assert not panel.table.model.rows

    monkeypatch.setattr(find_module, "REPORT_SECONDS", 10.0)
    panel.source.returnPressed.emit()
    qtbot.waitUntil(lambda: not panel.looking, timeout=MINUTE)
    assert len(panel.table.model.rows) == 300


def test_what_is_chosen_is_there_in_the_next_session(
    qtbot: Any, panel: BatchWidget, scans: Path, tmp_path: Path
) -> None:
    panel.choose(str(scans))
    assert panel.output.text() == f"{scans}_addm"
    look(qtbot, panel, scans / "cases.csv", tmp_path / "out")
    page = get_plugin_settings("napari-addm").panel
    assert page.cohort == str(scans / "cases.csv")
    other = BatchWidget(ViewerModel())
    qtbot.addWidget(other)
    qtbot.waitUntil(lambda: not other.looking, timeout=MINUTE)
    assert other.output.text() == str(tmp_path / "out")
    assert len(other.table.model.rows) == 4


def test_thousands_of_cases_are_looked_at_aside_and_shown_as_needed(
    qtbot: Any, panel: BatchWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 5000
    one = write_volume(tmp_path / "one.nii", _tiny_scan())
    (tmp_path / "many").mkdir()
    for n in range(count):
        (tmp_path / "many" / f"s{n:04}.nii").hardlink_to(one)
    read, asked = [], []
    grid, data = survey_module.read_grid, type(panel.table.model).data

    def counted_grid(*args: Any, **options: Any) -> Any:
        read.append(1)
        return grid(*args, **options)

    def counted_data(*args: Any) -> Any:
        asked.append(args[1].row())
        return data(*args)

    monkeypatch.setattr(survey_module, "read_grid", counted_grid)
    monkeypatch.setattr(type(panel.table.model), "data", counted_data)
    told = []
    panel.table.model.dataChanged.connect(lambda *_: told.append(1))
    panel.resize(500, 700)
    panel.show()
    panel.choose(str(tmp_path / "many"), str(tmp_path / "out"))
    qtbot.waitUntil(lambda: len(panel.table.model.rows) == count, timeout=MINUTE)
    # all are there to be scrolled through while their headers are still being read
    assert len(read) < count
    assert panel.looking
    assert panel.run_button.isEnabled()
    # another choice gives the reading up
    panel.choose(str(one), str(tmp_path / "out"))
    qtbot.waitUntil(lambda: not panel.looking, timeout=MINUTE)
    qtbot.waitUntil(lambda: not Job._worker_set, timeout=MINUTE)
    assert len(panel.table.model.rows) == 1
    assert len(read) < count
    read.clear()
    asked.clear()
    panel.choose(str(tmp_path / "many"), str(tmp_path / "out"))
    qtbot.waitUntil(lambda: not panel.looking, timeout=MINUTE)
    qtbot.wait(50)
    assert len(read) == count
    # of the cells only those are asked for that are on the screen
    visible = panel.table.view.height() // panel.table.view.rowHeight(0) + 2
    assert max(asked) <= visible
    panel.table.kind.setCurrentIndex(panel.table.kind.findData("Done"))
    assert panel.table.model.rowCount() == 0
    panel.table.kind.setCurrentIndex(0)
    panel.table.words.setText("s123")
    assert panel.table.model.rowCount() == 10


def _tiny_scan() -> Any:
    from napari_addm.io.volume import volume_from_native

    return volume_from_native(
        np.random.default_rng(0).random((4, 5, 6), dtype=np.float32), np.eye(4)
    )


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_tells_of_every_case_live(
    qtbot: Any, panel: BatchWidget, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    look(qtbot, panel, scans / "cases.csv", output)
    seen: dict[str, list[str]] = {}

    def watch(first: Any, last: Any) -> None:
        line = panel.table.model.shown(first.row())
        seen.setdefault(line.case.name, []).append(line.state)

    panel.table.model.dataChanged.connect(watch)
    panel.run()
    assert panel.running
    assert not panel.run_button.isEnabled()
    assert not panel.source.isEnabled()
    finish(qtbot, panel)

    assert panel.error.text() == ""
    assert states(panel) == {
        "first": "done",
        "group/second": "done",
        "third": "done",
        "bad": "failed",
    }
    assert list(dict.fromkeys(seen["third"])) in (
        ["running", "writing", "done"],
        ["running", "done"],  # the last one, after which nothing is run
    )
    rows = manifest(output)
    for name, row in rows.items():
        line = cells(panel, name)
        if row["status"] == "done":
            assert float(line["ml"]) == pytest.approx(float(row["anomaly_ml"]), abs=0.06)
            assert float(line["seconds"]) == pytest.approx(float(row["seconds"]), abs=0.06)
            assert bool(line["dice"]) == (name == "first")
    assert float(cells(panel, "first")["dice"]) == pytest.approx(
        float(rows["first"]["dice"]), abs=6e-4
    )
    assert "thick slices" in cells(panel, "first")["qc"]
    panel.table.view.selectRow(panel.table.model.place_of("bad"))
    assert "bad.nii.gz is a web page" in panel.table.details.text()
    tip = panel.table.model.data(
        panel.table.model.index(panel.table.model.place_of("bad"), 1), Qt.ItemDataRole.ToolTipRole
    )
    assert "is a web page" in tip
    assert "3 of 4 cases done, 1 failed" in panel.status.text()
    assert panel.run_button.text() == "Run"
    assert panel.retry_button.text() == "Retry failed (1)"
    assert panel.report_button.isEnabled()


def test_an_earlier_run_is_shown_taken_over_and_retried(
    qtbot: Any, panel: BatchWidget, own_scans: Path, done: Path
) -> None:
    """The results are those of `run_batch` with the same settings: nothing is done twice."""
    look(qtbot, panel, own_scans / "cases.csv", done)
    assert set(states(panel).values()) == {"done earlier", "failed earlier"}
    assert cells(panel, "first")["dice"] == f"{float(manifest(done)['first']['dice']):.3f}"
    assert panel.run_button.text() == "Run"  # nothing was left open
    assert "1 failed" in panel.status.text()
    panel.run()
    finish(qtbot, panel)
    assert states(panel)["first"] == states(panel)["third"] == "unchanged"
    assert states(panel)["bad"] == "failed"

    # only the failed one, which was mended meanwhile
    shutil.copy(own_scans / "third.nii.gz", own_scans / "bad.nii.gz")
    before = (done / "first" / "first_record.json").stat().st_mtime_ns
    panel.retry_failed()
    finish(qtbot, panel)
    assert states(panel)["bad"] == "done"
    assert states(panel)["first"] == "unchanged"  # as the run before left it
    assert "1 of 1 cases done" in panel.status.text()
    assert {row["status"] for row in manifest(done).values()} == {"done"}
    assert (done / "first" / "first_record.json").stat().st_mtime_ns == before
    assert not panel.retry_button.isEnabled()

    # another parameter
    panel.threshold.setValue(0.03)
    panel.run()
    finish(qtbot, panel)
    assert set(states(panel).values()) == {"done"}
    assert (done / "first" / "first_record.json").stat().st_mtime_ns > before


def test_cancel_keeps_what_is_done_and_resume_goes_on(
    qtbot: Any, panel: BatchWidget, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    look(qtbot, panel, scans / "cases.csv", output)
    panel.model.draws.setValue(20)
    panel.model.batch_size.setValue(4)
    panel.run()
    until_second(qtbot, panel)
    panel.cancel()
    assert not panel.cancel_button.isEnabled()
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert panel.status.text().startswith("Cancelled after")
    after = states(panel)
    kept = {name for name, row in manifest(output).items() if row["status"] == "done"}
    assert kept
    assert {name for name, state in after.items() if state == "done"} == kept
    assert "waiting" in after.values()
    assert panel.run_button.text() == "Resume"
    # a panel that is opened later knows it, too
    look(qtbot, panel, scans / "cases.csv", output)
    assert panel.run_button.text() == "Resume"
    assert {name for name, state in states(panel).items() if state == "done earlier"} == kept
    panel.run()
    finish(qtbot, panel)
    assert {name for name, state in states(panel).items() if state == "unchanged"} == kept
    assert "waiting" not in states(panel).values()
    assert panel.run_button.text() == "Run"


def test_two_runs_on_one_folder_are_refused_in_words(
    qtbot: Any, panel: BatchWidget, scans: Path, done: Path
) -> None:
    look(qtbot, panel, scans / "cases.csv", done)
    before = states(panel)
    with CohortFolder(done).lock(Shard()):
        panel.run()
        finish(qtbot, panel)
    assert "is being written by another run: wait" in panel.error.text()
    assert panel.details.isHidden()
    assert states(panel) == before
    assert panel.run_button.isEnabled()


def test_a_run_ends_with_the_panel(
    qtbot: Any, tiny_checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    panel = prepared(BatchWidget(ViewerModel()), tiny_checkpoint)
    look(qtbot, panel, scans / "cases.csv", tmp_path / "out")
    panel.model.draws.setValue(500)  # minutes
    panel.run()
    job = panel._job
    assert job is not None
    qtbot.waitUntil(lambda: "running" in states(panel).values(), timeout=MINUTE)
    panel.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qtbot.waitUntil(lambda: not Job._worker_set.intersection([job]), timeout=MINUTE)
    with CohortFolder(tmp_path / "out").lock(Shard()):  # it is free again
        pass


def test_a_run_ends_with_the_viewer(
    qtbot: Any, make_napari_viewer_proxy: Any, tiny_checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    viewer = make_napari_viewer_proxy()
    panel = BatchWidget(viewer)
    viewer.window.add_dock_widget(panel)
    prepared(panel, tiny_checkpoint)
    look(qtbot, panel, scans / "cases.csv", tmp_path / "out")
    panel.model.draws.setValue(500)
    panel.run()
    job = panel._job
    qtbot.waitUntil(lambda: job.is_running, timeout=MINUTE)
    viewer.close()
    qtbot.waitUntil(lambda: not job.is_running, timeout=MINUTE)


def test_two_panels_run_side_by_side(
    qtbot: Any, panel: BatchWidget, tiny_checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    other = prepared(BatchWidget(ViewerModel()), tiny_checkpoint)
    qtbot.addWidget(other)
    for each, name in ((panel, "one"), (other, "two")):
        look(qtbot, each, scans / "cases.csv", tmp_path / name)
        each.run()
    for each in (panel, other):
        finish(qtbot, each)
        assert states(each)["third"] == "done"


# --- results -------------------------------------------------------------------------------------


def opened(qtbot: Any, panel: BatchWidget, case: str) -> None:
    """Double-click on a case, and wait."""
    place = panel.table.model.place_of(case)
    panel.table.view.doubleClicked.emit(panel.table.model.index(place, 0))
    qtbot.waitUntil(lambda: panel._opening is None, timeout=MINUTE)
    qtbot.waitUntil(lambda: not Job._worker_set, timeout=MINUTE)


def corners(layer: Any) -> np.ndarray:
    """World coordinates of a layer's first and last voxel."""
    last = np.array(layer.data.shape) - 1
    return np.array([layer.data_to_world((0, 0, 0)), layer.data_to_world(last)])


def test_a_case_opens_with_its_results_exactly_over_each_other(
    qtbot: Any, make_napari_viewer_proxy: Any, scans: Path, done: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")
    viewer = make_napari_viewer_proxy()
    panel = BatchWidget(viewer)
    viewer.window.add_dock_widget(panel)
    look(qtbot, panel, scans / "cases.csv", done)
    opened(qtbot, panel, "first")
    assert panel.error.text() == ""
    assert panel.status.text() == "first is open."
    assert [layer.name for layer in viewer.layers] == [
        "first",
        "first reconstruction",
        "first anomaly map",
        "first anomalies",
        "first ground truth",
    ]
    assert not viewer.layers["first reconstruction"].visible
    folder = done / "first"
    for name, path in {
        "first": scans / "first.nii.gz",
        "first anomaly map": folder / "first_anomaly.nii.gz",
        "first anomalies": folder / "first_labels.nii.gz",
        "first reconstruction": folder / "first_recon.nii.gz",
        "first ground truth": scans / "first_lesion.nii.gz",
    }.items():
        layer = viewer.layers[name]
        is_labels = name.endswith(("anomalies", "truth"))
        volume = read_labels(path) if is_labels else read_volume(path, constant=True)
        assert_array_equal(layer.data, volume.data)
        # where the file says: R, A, S of the world are the layer's last, middle and first axis
        ends = np.array([[0, 0, 0], np.array(volume.shape) - 1])
        world = nib.affines.apply_affine(volume.affine, ends)
        assert_allclose(corners(layer), world[:, ::-1], atol=1e-4)
        assert layer.units == viewer.layers["first"].units
    anomalies = viewer.layers["first anomalies"]
    assert anomalies.get_value(viewer.dims.point, world=True) == 1  # in the largest finding
    assert tuple(map(str, viewer.scene.camera.orientation)) == RADIOLOGICAL
    assert viewer.layers["first anomaly map"].contrast_limits == pytest.approx((0.005, 0.02))

    # again: nothing is added, and what was hidden comes up
    same = list(viewer.layers)
    viewer.layers["first"].visible = False
    viewer.add_layer(Image(np.zeros((4, 4, 4)), name="mine", contrast_limits=(0, 1)))
    opened(qtbot, panel, "first")
    assert list(viewer.layers)[1:] == same
    assert viewer.layers["first"].visible
    assert viewer.layers["mine"].visible

    # another one comes over it, and the first is hidden; Return opens, too
    panel.table.view.selectRow(panel.table.model.place_of("group/second"))
    QTest.keyClick(panel.table.view, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: panel.status.text() == "group/second is open.", timeout=MINUTE)
    assert not any(layer.visible for layer in same)
    assert viewer.layers["group/second anomaly map"].visible
    opened(qtbot, panel, "first")
    assert viewer.layers[-1].name == "first ground truth"
    assert not viewer.layers["group/second"].visible
    assert not viewer.layers["first reconstruction"].visible


def test_each_layer_of_a_case_has_a_turn_of_the_event_loop(
    qtbot: Any, panel: BatchWidget, scans: Path, done: Path
) -> None:
    look(qtbot, panel, scans / "cases.csv", done)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    timer = QTimer(panel)
    timer.timeout.connect(turn)
    timer.start(0)
    inserted: list[int] = []
    panel._viewer.layers.events.inserted.connect(lambda event: inserted.append(turns))
    opened(qtbot, panel, "first")
    assert len(inserted) == 5
    assert len(set(inserted)) == 5


def test_another_case_leaves_no_half_of_the_one_before(
    qtbot: Any, panel: BatchWidget, scans: Path, done: Path
) -> None:
    look(qtbot, panel, scans / "cases.csv", done)
    layers = panel._viewer.layers
    panel.open_case("first")
    qtbot.waitUntil(lambda: len(layers) >= 2, timeout=MINUTE)
    assert len(layers) < 5
    opened(qtbot, panel, "third")
    assert [layer.name for layer in layers] == [
        "third",
        "third reconstruction",
        "third anomaly map",
        "third anomalies",
    ]
    opened(qtbot, panel, "first")
    assert len(layers) == 9


def test_missing_and_foreign_files_of_a_case_are_said(
    qtbot: Any, panel: BatchWidget, own_scans: Path, done: Path
) -> None:
    look(qtbot, panel, own_scans / "cases.csv", done)
    (done / "third" / "third_recon.nii.gz").unlink()
    shutil.copy(own_scans / "bad.nii.gz", done / "third" / "third_anomaly.nii.gz")
    opened(qtbot, panel, "third")
    assert "There is no reconstruction: third_recon.nii.gz is missing." in panel.status.text()
    assert "third_anomaly.nii.gz is a web page" in panel.status.text()
    assert [layer.name for layer in panel._viewer.layers] == ["third", "third anomalies"]

    opened(qtbot, panel, "bad")
    assert "is a web page" in panel.error.text()
    assert len(panel._viewer.layers) == 2
    (own_scans / "first.nii.gz").unlink()
    opened(qtbot, panel, "first")
    assert "does not exist" in panel.error.text()


def test_a_newer_result_takes_the_place_of_an_older_one(
    qtbot: Any, panel: BatchWidget, scans: Path, done: Path
) -> None:
    look(qtbot, panel, scans / "cases.csv", done)
    opened(qtbot, panel, "third")
    layers = panel._viewer.layers
    before = layers["third anomalies"].data.copy()
    panel.threshold.setValue(0.03)
    panel.run()
    finish(qtbot, panel)
    opened(qtbot, panel, "third")
    assert len(layers) == 4
    after = read_labels(done / "third" / "third_labels.nii.gz").data
    assert_array_equal(layers["third anomalies"].data, after)
    assert not np.array_equal(before, after)


def test_a_case_without_results_opens_its_scan_also_while_a_run_goes_on(
    qtbot: Any, panel: BatchWidget, scans: Path, tmp_path: Path
) -> None:
    look(qtbot, panel, scans / "cases.csv", tmp_path / "out")
    panel.model.draws.setValue(500)
    panel.run()
    qtbot.waitUntil(lambda: "running" in states(panel).values(), timeout=MINUTE)
    panel.table.opened.emit("third")
    qtbot.waitUntil(lambda: "third" in panel._viewer.layers, timeout=MINUTE)
    assert panel.running
    qtbot.waitUntil(lambda: "It has no results yet." in panel.error.text(), timeout=MINUTE)
    assert panel.running
    panel.cancel()
    finish(qtbot, panel)


def test_the_report_is_made_aside_and_opened(
    qtbot: Any, panel: BatchWidget, scans: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: shown.append(url.toLocalFile()))
    look(qtbot, panel, scans / "cases.csv", done)
    panel.report_button.click()
    assert not panel.report_button.isEnabled()
    qtbot.waitUntil(lambda: bool(shown), timeout=MINUTE)
    assert shown == [str(done / "report.html")]
    assert "is a web page" in (done / "report.html").read_text()
    panel.folder_button.click()
    assert shown[1] == str(done)


def test_a_bug_is_never_swallowed(
    qtbot: Any, panel: BatchWidget, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    look(qtbot, panel, scans / "cases.csv", tmp_path / "out")
    monkeypatch.setattr("napari_addm.widgets.cohort_panel.panel.run_batch", broken)
    panel.run()
    finish(qtbot, panel)
    assert "This is a bug" in panel.error.text()
    assert "shapes cannot be multiplied" in panel.details.toPlainText()


def test_the_checkpoints_own_threshold_is_taken_to_the_digit(
    panel: BatchWidget, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from napari_addm.checkpoint.file import save_checkpoint

    loaded = load_checkpoint(tiny_checkpoint)
    detection = loaded.specification.detection.model_copy(update={"threshold": 0.0123456})
    path = save_checkpoint(
        tmp_path / "fine.safetensors",
        loaded.specification.model_copy(update={"detection": detection}),
        loaded.weights,
    )
    panel.model.checkpoint_chooser.choose(path)
    assert panel.settings.threshold == 0.0123456
    panel.threshold.setValue(0.5)
    assert replace(panel.settings).threshold == 0.5
    assert panel.settings.frame is None
    panel.frame.setValue(0)
    assert panel.settings.frame == 0


def test_a_table_alone_keeps_its_selection_as_rows_change(qtbot: Any, scans: Path) -> None:
    table = CasesTable()
    qtbot.addWidget(table)
    table.show_cases(find_cohort(scans / "cases.csv", scans / "out"))
    table.view.selectRow(table.model.place_of("third"))
    started = time.perf_counter()
    line = table.model.row_of("first")
    line.state = "failed"
    table.kind.setCurrentIndex(table.kind.findData("Open"))
    assert table.model.place_of("first") is None
    assert table.selected == "third"
    assert table.view.currentIndex().row() == table.model.place_of("third")
    line.state = "waiting"
    table.changed(line)
    assert table.model.place_of("first") is None  # it does not jump at once
    qtbot.waitUntil(lambda: table.model.place_of("first") is not None, timeout=MINUTE)
    assert time.perf_counter() > started


def test_what_cannot_be_told_apart_and_what_cannot_be_read_is_said(
    qtbot: Any, panel: BatchWidget, own_scans: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "folder", tmp_path / "out"
    source.mkdir()
    for name in ("first", "second"):
        shutil.copy(own_scans / f"{name}.nii.gz", source)
    look(qtbot, panel, source, output)
    panel.run()
    finish(qtbot, panel)
    assert set(states(panel).values()) == {"done"}
    files = {path: path.read_bytes() for path in (output / "second").iterdir()}

    (source / "second.nii.gz").rename(tmp_path / "second.nii.gz")
    shutil.copy(own_scans / "third.nii.gz", source / "Third.nii.gz")
    shutil.copy(own_scans / "third.nii.gz", source)
    look(qtbot, panel, source, output)
    assert states(panel) == {
        "first": "done earlier",
        "second": "done earlier",
        "Third.nii.gz": "will fail",
        "third.nii.gz": "will fail",
    }
    reason = panel.table.model.row_of("Third.nii.gz").reason
    assert "cannot be told apart from third.nii.gz" in reason
    assert "second.nii.gz does not exist" in panel.table.model.row_of("second").reason
    panel.run()
    finish(qtbot, panel)
    expected = {
        "first": "unchanged",
        "second": "not checked",
        "Third.nii.gz": "failed",
        "third.nii.gz": "failed",
    }
    assert states(panel) == expected
    assert panel.status.text().endswith("2 of 4 cases done, 2 failed, 1 not checked")
    assert "not checked: the scan cannot be read" in panel.table.model.row_of("second").reason
    assert cells(panel, "second")["ml"] == f"{float(manifest(output)['second']['anomaly_ml']):.1f}"
    assert {path: path.read_bytes() for path in files} == files
    look(qtbot, panel, source, output)
    assert states(panel)["second"] == "not checked"
    assert panel.retry_button.text() == "Retry failed (1)"

    (source / "Third.nii.gz").unlink()
    (tmp_path / "second.nii.gz").rename(source / "second.nii.gz")
    look(qtbot, panel, source, output)
    panel.retry_failed()
    finish(qtbot, panel)
    assert states(panel)["second"] == "unchanged"


def test_the_panel_of_one_scan_follows_the_case_that_is_opened(
    qtbot: Any, panel: BatchWidget, scans: Path, done: Path, tiny_checkpoint: Path
) -> None:
    viewer = panel._viewer
    detect = DetectWidget(viewer)
    qtbot.addWidget(detect)
    mine = viewer.add_image(np.random.default_rng(0).random((9, 9, 9)), name="mine")
    assert detect.inputs.scan_chooser.layer_id == mine.unique_id
    look(qtbot, panel, scans / "cases.csv", done)
    for case in ("first", "third", "first"):
        opened(qtbot, panel, case)
        assert detect.inputs.scan_chooser.currentText() == case
        shown = {layer.name for layer in viewer.layers if layer.visible}
        wanted = {case, f"{case} anomaly map", f"{case} anomalies"}
        assert shown == wanted | ({"first ground truth"} if case == "first" else set())
        assert viewer.layers.selection.active is viewer.layers[case]
    viewer.layers.selection.active = mine
    assert [layer.name for layer in viewer.layers if layer.visible] == ["mine"]
