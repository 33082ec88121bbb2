"""Agreement with a ground truth on screen: curves, markers, lesions, hits and misses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from numpy.testing import assert_array_equal
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.pipeline import run as detect
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.hashing import file_sha256, voxels_sha256
from napari_addm.io.reading import read_labels
from napari_addm.io.writing import write_volume
from napari_addm.metrics.evaluation import evaluate
from napari_addm.outputs.record import RunRecord, read_record
from napari_addm.outputs.verification import Verification, verify
from napari_addm.review.agreement import FALSE_ALARM, HIT, MISSED, Agreement
from napari_addm.review.marking import CachedLabeller
from napari_addm.widgets.detect_panel.agreement_view import AgreementView
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.truth import TruthAgreement
from napari_addm.widgets.jobs import start_job

MINUTE = 60_000


@pytest.fixture(scope="module")
def detection(scan, tiny_checkpoint) -> Detection:
    settings = DetectionSettings(device="cpu", precision="float32")
    return detect(scan, load_checkpoint(tiny_checkpoint), settings)


@pytest.fixture(scope="module")
def truth(detection) -> np.ndarray:
    """Where the map is high, with some of it elsewhere; and a little outside the brain."""
    anomaly, brain = detection.anomaly.data, detection.brain_mask.data
    truth = (anomaly > np.quantile(anomaly[brain], 0.93)) & brain
    truth = np.roll(truth, 1, axis=1)
    truth[0, 0, 0] = True
    return truth


@pytest.fixture(scope="module")
def agreement(detection, truth) -> Agreement:
    return Agreement(detection, truth)


@pytest.fixture
def view(qtbot) -> AgreementView:
    view = AgreementView()
    qtbot.addWidget(view)
    view.resize(300, 500)
    view.show()
    qtbot.waitExposed(view)
    return view


def thresholds(detection: Detection) -> list[float]:
    anomaly = detection.anomaly.data[detection.brain_mask.data]
    return [-1.0, *(float(q) for q in np.quantile(anomaly, (0.3, 0.9, 0.97, 0.999))), 9.0]


def test_markers_lie_on_the_curves_at_the_threshold(view, detection, agreement):
    view.show_agreement(agreement)
    for threshold in thresholds(detection)[1:-1]:
        view.show_threshold(threshold)
        point = agreement.point(threshold)
        recall = point.recall[0]
        assert view.roc.marked == pytest.approx((point.false_positive_rate[0], recall))
        assert view.pr.marked == pytest.approx((recall, point.precision[0]))
        assert view.dice.marked == pytest.approx((threshold, point.dice[0]))
        for plot in (view.dice, view.roc, view.pr):
            x, y = plot.points
            assert np.hypot(x - plot.marked[0], y - plot.marked[1]).min() < 0.03
    view.show_threshold(9.0)  # nothing is marked: there is no precision
    assert view.pr.marked is None
    assert view.roc.marked == (0, 0)


def test_a_threshold_is_chosen_by_a_click_or_by_dragging(view, qtbot, detection, agreement):
    view.show_agreement(agreement)
    view.show_threshold(thresholds(detection)[2])
    chosen = []
    view.threshold_chosen.connect(chosen.append)
    x, y = view.roc.points
    view.roc.choose_at(x[40], y[40])
    point = agreement.point(chosen[-1])
    assert (point.false_positive_rate[0], point.recall[0]) == (x[40], y[40])
    # a real click on the Dice curve
    plot = view.dice
    QApplication.processEvents()
    wanted = 0.4 * float(plot.points[0][-1])
    place = plot.getPlotItem().getViewBox().mapViewToScene(QPointF(wanted, 0.5))
    qtbot.mouseClick(plot.viewport(), Qt.MouseButton.LeftButton, pos=plot.mapFromScene(place))
    pixel = float(plot.points[0][-1]) / 200
    qtbot.waitUntil(lambda: chosen[-1] == pytest.approx(wanted, abs=2 * pixel))
    plot.choose_at(99.0, 0.5)
    assert chosen[-1] == plot.points[0][-1]


def test_the_wheel_is_left_to_the_panel(view, agreement):
    view.show_agreement(agreement)
    before = view.dice.viewRange()
    port = view.dice.viewport()
    event = QWheelEvent(
        QPointF(port.rect().center()),
        QPointF(port.mapToGlobal(port.rect().center())),
        QPoint(0, 0),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(port, event)
    assert not event.isAccepted()
    assert view.dice.viewRange() == before


def test_the_table_of_lesions(view, qtbot, detection, truth, agreement):
    view.show_agreement(agreement)
    marked = CachedLabeller(detection).label(thresholds(detection)[3], 0.5)
    view.show_marked(marked)
    lesions = agreement.lesions(marked).lesions
    model = view.lesions.table.model()
    assert (
        model.rowCount()
        == len(lesions)
        == ndimage.label(truth, structure=np.ones((3, 3, 3)))[1] - 1
    )  # the one outside the brain is left out
    words = [model.index(0, column).data() for column in range(model.columnCount())]
    first = lesions[0]
    assert words == [
        "1",
        f"{first.volume_ml:.2f}",
        "yes" if first.found else "no",
        f"{first.covered:.0%}",
        f"{first.peak:.3f}",
    ]
    found = sum(lesion.found for lesion in lesions)
    assert view.lesions.count.text().startswith(f"{found} of {len(lesions)} lesion")
    # the smallest comes first when sorted the other way, and a click says where it is
    view.lesions.table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert model.index(0, 0).data() == str(len(lesions))
    with qtbot.waitSignal(view.voxel_chosen) as chosen:
        view.lesions.table.clicked.emit(model.index(0, 0))
    assert chosen.args == [lesions[-1].index]
    # one step of the threshold later
    view.show_marked(CachedLabeller(detection).label(9.0, 0.5))
    assert {model.index(row, 2).data() for row in range(model.rowCount())} == {"no"}
    assert view.lesions.count.text().endswith("0 of 0 findings false")


def test_an_empty_truth_is_explained(view, detection, truth):
    view.show_agreement(Agreement(detection, np.zeros_like(truth)))
    threshold = thresholds(detection)[3]
    marked = CachedLabeller(detection).label(threshold, 0.0)
    view.show_threshold(threshold)
    view.show_marked(marked)
    assert "empty" in view.explanation.text()
    assert f"{marked.total_ml:.1f} mL" in view.explanation.text()
    assert view.explanation.isVisible()
    assert view.notes.text() == ""
    assert {label.text() for label in view.figures.values()} == {"–"}
    assert [view.tabs.isTabVisible(n) for n in range(view.tabs.count())] == [True] + 3 * [False]
    assert view.tabs.tabText(0) == "False alarm"
    x, y = view.dice.marked
    assert x == pytest.approx(threshold)
    assert y == pytest.approx(marked.total_ml)
    x, y = view.dice.points
    expected = [np.count_nonzero(CachedLabeller(detection).label(t, 0.0).labels) for t in x[::97]]
    assert y[::97] == pytest.approx(np.array(expected) * detection.anomaly.voxel_ml)
    view.show_threshold(9.0)  # 0 mL has no place on a logarithmic axis
    assert view.dice.marked is None
    # and back again
    view.show_agreement(Agreement(detection, truth))
    view.show_threshold(threshold)
    view.show_marked(marked)
    assert view.explanation.text() == ""
    assert "outside the mask" in view.notes.text()
    assert all(view.tabs.isTabVisible(n) for n in range(view.tabs.count()))
    assert view.tabs.tabText(0) == "Dice"
    assert view.figures["dice"].text() != "–"


def test_truth_that_fills_the_brain(view, detection):
    full = Agreement(detection, np.ones(detection.anomaly.shape, dtype=bool))
    view.show_agreement(full)
    view.show_threshold(0.01)
    assert view.roc.marked is None
    assert not view.roc.points[0].size
    assert view.dice.marked is not None


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_colors_follow_the_theme(view, theme):
    from napari.utils.theme import get_theme

    view.set_theme(theme)
    expected = get_theme(theme).background.as_hex(format="long")
    assert view.dice.backgroundBrush().color().name() == expected


def test_the_legend_has_the_volumes_of_the_overlay(view, detection, agreement):
    view.show_agreement(agreement)
    with_marks = CachedLabeller(detection).label(thresholds(detection)[3], 0.5)
    view.show_marked(with_marks)
    assert view.legend.isHidden()
    view.overlay.setChecked(True)
    assert view.legend.isVisible()
    counts = np.bincount(agreement.overlay(with_marks).ravel(), minlength=4)
    for value, word in ((HIT, "hit"), (FALSE_ALARM, "false alarm"), (MISSED, "missed")):
        assert f"{word} {counts[value] * detection.anomaly.voxel_ml:.1f}" in view.legend.text()


# --- a truth that is drawn on --------------------------------------------------------------------


class Case:
    """The panel with a scan and a truth that come from files, compared on the result of a run."""

    def __init__(self, panel: DetectWidget, viewer: ViewerModel, folder: Path, qtbot: Any) -> None:
        self.panel, self.viewer, self.folder, self._qtbot = panel, viewer, folder, qtbot
        self.file = folder / "lesion.nii.gz"
        self.layer = viewer.layers["lesion"]

    @property
    def agreement(self) -> Agreement | None:
        return self.panel.outcome.agreement

    def rest(self, ms: int = 100) -> None:
        """Wait until no job is left."""
        self._qtbot.wait(ms)
        self._qtbot.waitUntil(lambda: not self.panel.jobs.going, timeout=MINUTE)
        self._qtbot.wait(50)

    def wait_for_truth(self) -> None:
        """Wait until what is shown is measured on the layer's voxels, and check that it is."""
        self._qtbot.waitUntil(
            lambda: np.array_equal(self.agreement.truth, self.layer.data != 0), timeout=MINUTE
        )
        self.rest(0)
        outcome, view = self.panel.outcome, self.panel.agreement.view
        figures = evaluate(
            outcome.detection.anomaly.data,
            self.layer.data,
            threshold=outcome.marked.threshold,
            mask=outcome.detection.brain_mask.data,
            voxel_ml=outcome.scan.voxel_ml,
            prediction=outcome.marked.labels,
        )
        assert view.agreement is self.agreement
        assert view.figures["dice"].text() == f"{figures['dice']:.3f}"
        assert view.figures["auroc"].text() == f"{figures['auroc']:.3f}"
        curve = self.agreement.curves
        assert_array_equal(view.dice.points, (curve.threshold, curve.dice))

    def save(self) -> RunRecord:
        self.panel.saving.save(self.folder / "out", overwrite=True)
        self.rest()
        assert self.panel.notices.error.text() == ""
        record = read_record(self.folder / "out" / "head_record.json")
        assert record.truth.voxels_sha256 == voxels_sha256(self.layer.data != 0)
        return record

    def verify(self) -> Verification:
        """Repeat the run of the record that was saved."""
        return verify(
            self.folder / "out" / "head_record.json",
            scan=self.panel.outcome.scan.source.path,
            model=self.panel.model.checkpoint,
            device="cpu",
        )


@pytest.fixture
def case(qtbot, tmp_path, scan, new_panel, add, show_result, detection, truth) -> Case:
    viewer = ViewerModel()
    panel = new_panel(viewer)
    add(viewer, scan)
    file = write_volume(tmp_path / "lesion.nii.gz", scan.with_data(truth.astype(np.uint8)))
    layer = add(viewer, read_labels(file), "labels")
    layer.brush_size = 8
    layer.selected_label = 2
    viewer.dims.set_current_step(0, 14)
    panel.agreement.truth.chooser.choose(layer)
    show_result(panel, detection)
    made = Case(panel, viewer, tmp_path, qtbot)
    made.rest()
    return made


def test_figures_curves_and_overlay_follow_strokes_on_the_truth(case, qtbot):
    case.wait_for_truth()
    view = case.panel.agreement.view
    dice, before = view.figures["dice"].text(), case.agreement
    view.overlay.setChecked(True)
    (shown,) = [each for each in case.viewer.layers if each.name.endswith("hits and misses")]
    case.layer.paint((14, 20, 10), 2)
    case.layer.paint((14, 20, 18), 2)
    assert case.agreement is before  # it is measured once the strokes are done, and aside
    assert not view.metrics.isHidden()
    case.wait_for_truth()
    assert view.figures["dice"].text() != dice
    assert shown in case.viewer.layers
    assert_array_equal(shown.data, case.agreement.overlay(case.panel.outcome.marked))
    assert shown.data[14, 20, 10] in (HIT, MISSED)
    view.overlay.setChecked(False)
    case.layer.undo()
    case.layer.undo()
    case.wait_for_truth()
    assert view.figures["dice"].text() == dice
    case.layer.fill((0, 0, 0), 0)
    case.layer.data = np.roll(case.layer.data, 3, axis=1)
    case.wait_for_truth()
    for n in range(6):  # also while a comparison goes on
        case.layer.paint((14, 14 + 2 * n, 10), 2)
        qtbot.wait(150)
    case.wait_for_truth()


def test_the_record_names_the_file_of_a_truth_only_while_it_holds_that_truth(case):
    record = case.save()
    assert record.truth.name == case.file.name
    assert record.truth.sha256 == file_sha256(case.file)
    case.layer.paint((14, 20, 10), 2)
    case.wait_for_truth()
    record = case.save()
    assert record.truth.name is None
    assert record.truth.sha256 is None
    found = case.verify()
    assert found.problems == []
    # other numbers for the same lesions are no other truth
    case.layer.undo()
    case.layer.data[case.layer.data == 1] = 3
    case.layer.refresh()
    case.wait_for_truth()
    assert case.save().truth.name == case.file.name
    found = case.verify()
    assert found.problems == []
    assert not any("metrics" in note for note in found.notes)  # the truth was found again
    # and a layer that was drawn on before it was chosen is no better
    case.panel.agreement.truth.chooser.choose(None)
    case.layer.paint((14, 20, 10), 2)
    case.panel.agreement.truth.chooser.choose(case.layer)
    case.rest()
    assert case.save().truth.name is None


def test_a_truths_file_that_is_gone_or_another_is_not_named(case):
    case.file.unlink()
    case.layer.paint((14, 20, 10), 2)
    case.wait_for_truth()
    assert case.save().truth.name is None
    write_volume(case.file, case.panel.outcome.scan.with_data(case.layer.data.astype(np.uint8)))
    case.panel.agreement.truth.chooser.choose(None)
    case.panel.agreement.truth.chooser.choose(case.layer)
    case.rest()
    assert case.save().truth.name == case.file.name


def test_a_truth_that_no_longer_fits_is_refused_until_it_does(case):
    data = case.layer.data
    case.layer.data = data[1:]
    case.rest(500)
    assert case.agreement is None
    assert case.panel.agreement.view.metrics.isHidden()
    assert "does not lie on the voxels" in case.panel.agreement.view.notes.text()
    case.layer.data = data
    case.rest(500)
    case.wait_for_truth()
    assert not case.panel.agreement.view.metrics.isHidden()


def test_what_is_no_stroke_on_the_truth_measures_nothing(case):
    before = case.agreement
    for step in range(10, 20):
        case.viewer.dims.set_current_step(0, step)
    case.viewer.dims.order = (1, 0, 2)
    case.layer.contour = 1  # it is drawn anew: looked at, and found to be the same
    case.rest(500)
    assert case.agreement is before
    # one that is no longer chosen is not listened to
    case.panel.agreement.truth.chooser.choose(None)
    case.layer.paint((14, 20, 10), 2)
    case.rest(500)
    assert case.agreement is None


def test_strokes_on_the_truth_of_a_section_that_is_gone(qtbot, truth):
    viewer = ViewerModel()
    section = TruthAgreement(viewer, start_job)
    layer = viewer.add_layer(Labels(truth.astype(np.uint8)))
    section.truth.chooser.offer([layer])
    section.truth.chooser.choose(layer)
    emitters = [getattr(layer.events, name) for name in ("paint", "labels_update", "data")]
    emitters.append(layer.events.set_data)
    before = [len(emitter.callbacks) for emitter in emitters]
    section.deleteLater()
    QApplication.sendPostedEvents(section, QEvent.Type.DeferredDelete)
    # the section's Python side is still here, and its timer no longer
    assert [len(emitter.callbacks) for emitter in emitters] == [n - 1 for n in before]
    layer.paint((14, 20, 10), 2)
    assert layer.data[14, 20, 10] == 2
