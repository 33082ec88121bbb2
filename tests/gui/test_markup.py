"""Words from files are shown letter by letter, whatever Qt could read in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QLabel, QMessageBox, QWidget

from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
from napari_addm.io.volume import Volume
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.contributions import read_layers
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.forms import may_replace

PICTURE = "<img src=file:x>"  # a file's name holds no slash


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    tiny = load_checkpoint(tiny_checkpoint)
    words = {"name": PICTURE, "description": f"{PICTURE} and\nmore", "licence": PICTURE}
    training = {PICTURE: PICTURE, "data": PICTURE, "iterations": 1}
    evil = tiny.specification.model_copy(
        update=words
        | {"training": training, "evaluation": {PICTURE: {"auroc": 0.5, "cases": PICTURE}}}
    )
    return save_checkpoint(tmp_path / f"{PICTURE}.safetensors", evil, dict(tiny.weights))


def item_texts(view: QWidget) -> Iterator[str]:
    """Tooltips of the items of a table or of a choice."""
    model: Any = view.model()  # type: ignore[attr-defined]
    for row in range(model.rowCount()):
        for column in range(model.columnCount()):
            yield str(model.index(row, column).data(Qt.ItemDataRole.ToolTipRole) or "")


def markup(panel: QWidget) -> list[str]:
    """What a panel has that Qt would take for a picture."""
    words = []
    for part in [panel, *panel.findChildren(QWidget)]:
        words.append(part.toolTip())
        if isinstance(part, QLabel) and part.textFormat() != Qt.TextFormat.PlainText:
            words.append(part.text())
        if isinstance(part, QComboBox | QAbstractItemView) and part.model() is not None:
            words += item_texts(part)
    return [each for each in words if "<img" in each]


def test_nothing_from_files_is_markup_in_the_panel_for_a_scan(
    checkpoint: Path,
    scan: Volume,
    add: Callable[..., Any],
    show_result: Callable[..., Any],
    qtbot: Any,
) -> None:
    viewer = ViewerModel()
    panel = DetectWidget(viewer)
    qtbot.addWidget(panel)
    add(viewer, scan, name=PICTURE)
    add(viewer, scan, name=PICTURE)
    panel.model.checkpoint_chooser.choose(checkpoint)
    show_result(panel)
    table = panel.findings.table
    table.view.selectRow(0)
    table.note.setText(PICTURE)
    table.note.editingFinished.emit()
    assert any("Note: &lt;img" in each for each in item_texts(table.view))
    assert PICTURE in panel.model.card.text()
    assert "and<br>more" in panel.model.card.toolTip()
    assert markup(panel) == []


def test_nothing_from_files_is_markup_in_the_panel_for_a_cohort(
    checkpoint: Path, scan_file: Path, tmp_path: Path, qtbot: Any
) -> None:
    scans = tmp_path / PICTURE
    scans.mkdir()
    shutil.copy(scan_file, scans / f"{PICTURE}.nii.gz")
    (scans / f"{PICTURE} bad.nii.gz").write_text(PICTURE)
    panel = BatchWidget(ViewerModel())
    qtbot.addWidget(panel)
    panel.model.checkpoint_chooser.choose(checkpoint)
    panel.choose(str(scans), str(tmp_path / "out"))
    qtbot.waitUntil(lambda: panel.controller.inspecting is None, timeout=60_000)
    assert panel.table.model.rowCount() == 2
    assert any("&lt;img" in each for each in item_texts(panel.table.view))
    assert markup(panel) == []


def test_questions_and_notifications_are_plain(
    scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(QMessageBox, "question", lambda *words: asked.append(words[-1]))
    may_replace(None, [PICTURE], tmp_path)
    assert "&lt;img" in asked[0]
    assert "<img" not in asked[0]
    path = tmp_path / f"{PICTURE}.nii.gz"
    path.write_bytes(scan_file.read_bytes() + b"behind the end")
    read_layers(str(path))
    said = [note.message for note in notification_manager.records]
    assert not [words for words in said if "<img" in words]
