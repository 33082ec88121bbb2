"""The empty panel: open a scan, a DICOM folder, the demo, the guide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt, QUrl
from qtpy.QtWidgets import QDialog, QFileDialog, QTextBrowser

from napari_addm.io.volume import Volume
from napari_addm.widgets.commands import open_panel
from napari_addm.widgets.detect_panel.panel import DetectWidget

MINUTE = 60_000


@pytest.fixture
def panel(window: Any) -> Iterator[DetectWidget]:
    panel = open_panel(window)
    yield panel
    window.window.remove_dock_widget(panel)
    window.layers.clear()


@pytest.fixture
def click(qtbot: Any, panel: DetectWidget, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``click(button, path)``: press it, choose that in the dialog, wait until it is read."""

    def press(button: Any, path: Path | None = None) -> None:
        files = [] if path is None else [str(path)]
        monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: (files, ""))
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "".join(files))
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not panel.jobs.going and button.isEnabled(), timeout=MINUTE)
        qtbot.wait(50)

    return press


def test_a_scan_is_opened_by_our_reader_without_a_question(
    window: Any, panel: DetectWidget, click: Callable[..., None], scan_file: Path, tmp_path: Path
) -> None:
    welcome = panel.welcome
    click(welcome.scan_button)  # nothing chosen
    assert len(window.layers) == 0
    assert welcome.isVisible()
    (tmp_path / "notes.txt").write_text("no scan")
    click(welcome.scan_button, tmp_path / "notes.txt")
    assert "notes.txt is no" in panel.notices.error.text()
    assert panel.notices.details.isHidden()
    click(welcome.scan_button, scan_file)
    assert panel.notices.error.text() == ""
    assert panel.notices.status.text() == ""
    assert not welcome.isVisible()
    assert panel.inputs.scan_chooser.currentText().startswith("head")
    assert panel.run_button.isEnabled()


def test_the_series_of_a_folder_are_listed_and_one_is_opened(
    window: Any, panel: DetectWidget, click: Callable[..., None], tmp_path: Path, qtbot: Any
) -> None:
    dicom = pytest.importorskip("dicom_series")
    welcome = panel.welcome
    (tmp_path / "empty").mkdir()
    click(welcome.folder_button, tmp_path / "empty")
    assert "holds no MR images" in panel.notices.error.text()
    study = tmp_path / "study"
    dicom.write_series(study / "a", SeriesNumber=2, SeriesDescription="T2 FLAIR")
    dicom.write_series(study / "b", SeriesNumber=3, SeriesDescription="T1 MPRAGE +C")
    dicom.write_series(study / "c", SeriesNumber=5, SeriesDescription="T1 MPRAGE Jane DOE")
    click(welcome.folder_button, study)
    assert panel.notices.error.text() == ""
    dialog, table = welcome.series, welcome.series.table
    assert dialog.isVisible()
    rows = [[table.item(row, n).text() for n in range(4)] for row in range(table.rowCount())]
    assert rows == [
        ["2", "T2 FLAIR", "12", "another kind"],
        ["3", "T1 MPRAGE +C", "12", "T1 of the brain, with contrast agent"],
        ["5", "T1 MPRAGE", "12", "T1 of the brain"],
    ]
    assert table.currentRow() == 2
    qtbot.mouseClick(dialog.open_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(window.layers) == 1, timeout=MINUTE)
    assert window.layers[0].name == "T1 MPRAGE"
    assert "chosen in the list of series" in panel.inputs.about.text()
    assert panel.controller.headings.scan.startswith("Scan: T1 MPRAGE")


def test_the_only_series_of_a_folder_and_an_image_of_it_are_opened_at_once(
    window: Any, panel: DetectWidget, click: Callable[..., None], tmp_path: Path
) -> None:
    dicom = pytest.importorskip("dicom_series")
    dicom.write_series(tmp_path / "a", SeriesDescription=dicom.NAME)
    click(panel.welcome.folder_button, tmp_path)
    assert [layer.name for layer in window.layers] == ["series 4"]
    window.layers.clear()
    click(panel.welcome.scan_button, tmp_path / "a" / "IM0003")
    assert [layer.name for layer in window.layers] == ["series 4"]


def test_the_demo_opens_at_its_lesion_which_no_key_can_change(
    window: Any, panel: DetectWidget, click: Callable[..., None], qtbot: Any
) -> None:
    told = len(notification_manager.records)
    click(panel.welcome.demo_button)
    assert len(notification_manager.records) == told
    scan, truth = window.layers
    assert window.layers.selection.active == scan
    assert isinstance(truth, Labels)
    assert truth.data[window.dims.current_step[0]].any()
    assert panel.agreement.truth.layer == truth
    before = np.array(truth.data)
    window.layers.selection.active = truth
    canvas = window.window._qt_viewer.canvas.native
    canvas.setFocus()
    middle = canvas.rect().center()
    for ndisplay in (2, 3, 2):
        window.dims.ndisplay = ndisplay
        for key in range(Qt.Key.Key_1.value, Qt.Key.Key_8.value):
            qtbot.keyClick(canvas, Qt.Key(key))
            qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle)
    np.testing.assert_array_equal(truth.data, before)


def test_the_guide_opens_without_a_network(window: Any, panel: DetectWidget, qtbot: Any) -> None:
    panel.notices.help_link.linkActivated.emit("help")
    panel.notices.help_link.linkActivated.emit("help")
    dialogs = panel.window().findChildren(QDialog)
    shown = [each for each in dialogs if each.isVisible() and each.findChild(QTextBrowser)]
    assert len(shown) == 1
    page = shown[0].findChild(QTextBrowser)
    assert "Step by step" in page.toPlainText()
    html = page.toHtml()
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert "https:" not in html
    before = page.verticalScrollBar().value()
    for anchor in ("review.md", "views", "cohort.md"):
        assert f'href="#{anchor}"' in html or anchor == "views"
        page.anchorClicked.emit(QUrl(f"#{anchor}"))
        assert page.verticalScrollBar().value() > before
        before = page.verticalScrollBar().value()
    shown[0].close()


def test_layers_cleared_during_a_run_leave_the_empty_panel(
    window: Any,
    panel: DetectWidget,
    prepare: Callable[..., DetectWidget],
    scan_file: Path,
    finish: Callable[[DetectWidget], None],
    qtbot: Any,
) -> None:
    prepare(panel)
    panel.model.form["regions"].value = False
    for result_there in (False, True):
        window.open(str(scan_file), plugin="napari-addm")
        panel.model.batch_size.setValue(1)
        panel.model.draws.setValue(20)
        panel.run()
        if result_there:
            qtbot.waitUntil(lambda: panel.outcome is not None, timeout=MINUTE)
        window.layers.clear()
        finish(panel)
        assert panel.welcome.isVisible()
        assert not any(section.isVisible() for section in panel.sections.values())
        words = (panel.other_scan, panel.notices.status, panel.notices.error)
        assert [label.text() for label in words] == ["", "", ""]


def test_results_are_renamed_with_their_scan(
    window: Any,
    panel: DetectWidget,
    prepare: Callable[..., DetectWidget],
    show_result: Callable[..., object],
    add: Any,
    scan: Volume,
) -> None:
    layer = add(window, scan)
    prepare(panel)
    show_result(panel)
    window.layers["head anomaly map"].name = "mine"
    layer.name = "first visit"
    assert {each.name for each in window.layers} == {
        *("first visit", "first visit anomalies", "first visit reconstruction", "mine"),
    }
    heading = panel.sections["Findings"].heading.text()
    assert "Findings in first visit" in heading
    assert panel.outcome.name == "first visit"
    window.layers.remove(layer)
    assert "'first visit'" in panel.other_scan.text()
