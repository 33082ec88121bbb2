"""'Calibrate for my scanner...' in the panel, with real clicks and a tiny network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_addm.checkpoint.file import read_specification
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.widgets.detect_panel.panel import DetectWidget

MINUTE = 60_000


@pytest.fixture(scope="module")
def healthy(make_brain: Callable[..., Volume], tmp_path_factory: Any) -> Path:
    """Five small healthy brains of different sizes."""
    folder: Path = tmp_path_factory.mktemp("hospital") / "our_scanner"
    folder.mkdir()
    for n in range(5):
        size = 5.0 + 0.1 * n
        affine = np.diag([-size, size, 4.0, 1])
        affine[:3, 3] = 80, -95, -70
        write_volume(folder / f"sub-{n}.nii.gz", make_brain(affine, (33, 39, 36)))
    return folder


@pytest.fixture
def panel(
    viewer: Any, healthy: Path, add: Callable[..., Layer], new_panel: Callable[..., DetectWidget]
) -> DetectWidget:
    add(viewer, read_volume(healthy / "sub-2.nii.gz"), name="head")
    panel = new_panel(viewer)
    panel.show()
    panel.sections["Model"].expand()
    return panel


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def save_as(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Path], None]:
    """``save_as(dialog, output)``: choose the new file in the dialog."""

    def choose(dialog: Any, output: Path) -> None:
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(output), ""))
        qtbot.mouseClick(dialog.output_button, Qt.MouseButton.LeftButton)

    return choose


@pytest.fixture
def ask(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[DetectWidget, Path], Any]:
    """``ask(panel, folder)``: open the dialog, and choose a folder of healthy scans in it."""

    def open_dialog(panel: DetectWidget, folder: Path) -> Any:
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
        qtbot.mouseClick(panel.calibrating.button, Qt.MouseButton.LeftButton)
        dialog = panel.calibrating.dialog
        assert dialog is not None
        assert not dialog.start_button.isEnabled()
        qtbot.mouseClick(dialog.folder_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not panel.jobs.going, timeout=MINUTE)
        qtbot.wait(50)
        return dialog

    return open_dialog


def test_a_calibration_chooses_a_checkpoint_with_a_promise_of_its_own(
    panel: DetectWidget,
    healthy: Path,
    tmp_path: Path,
    ask: Callable[..., Any],
    run: Callable[[DetectWidget], None],
    finish: Callable[[DetectWidget], None],
    qtbot: Any,
    save_as: Callable[[Any, Path], None],
) -> None:
    dialog = ask(panel, healthy)
    assert dialog.found.text() == "5 scans: the promise will be about 5 of 6 healthy brains."
    assert dialog.output_button.toolTip().endswith("tiny_our_scanner.safetensors")
    # a name without its ending gets it
    save_as(dialog, tmp_path / "ours")

    before, told = panel.model.checkpoint, []
    panel.calibrating.progress.valueChanged.connect(
        lambda _: told.append(panel.calibrating.status.text())
    )
    qtbot.mouseClick(dialog.start_button, Qt.MouseButton.LeftButton)
    assert panel.calibrating.cancel_button.isVisible()
    assert not panel.calibrating.button.isEnabled()
    finish(panel)

    output = tmp_path / "ours.safetensors"
    assert panel.model.checkpoint == output != before
    assert panel.calibrating.button.isEnabled()
    assert not panel.calibrating.cancel_button.isVisible()
    assert any("Scan 3 of 5" in words and "left" in words for words in told)
    specification = read_specification(output)
    assert specification.name == "tiny, our_scanner"
    alarms = specification.detection.false_alarms
    assert alarms is not None
    assert alarms.scanners == {"our_scanner": 5}
    words = panel.notices.status.text()
    assert words.startswith("Saved as ours.safetensors and chosen: ")
    assert "mL of false alarm in 5 of 6 healthy brains" in words
    assert panel.notices.error.text() == ""

    run(panel)
    assert "of false alarm in 5 of 6 healthy brains" in panel.findings.promise.text()
    assert "5 healthy brains" in panel.findings.promise.toolTip()
    assert "of our_scanner" in panel.findings.promise.toolTip()

    # a single slice has no promise
    panel.model.this_slice.setChecked(True)
    run(panel)
    assert panel.findings.promise.text() == (
        "False alarms were measured in whole brains, not in some slices."
    )

    # a second one gets another name, and never that of the model
    again = ask(panel, healthy)
    assert "ours_our_scanner.safetensors" in again.output_button.toolTip()
    save_as(again, output)
    qtbot.mouseClick(again.start_button, Qt.MouseButton.LeftButton)
    finish(panel)
    assert "is the model itself" in panel.notices.error.text()


def test_a_cancelled_calibration_writes_nothing(
    panel: DetectWidget,
    healthy: Path,
    tmp_path: Path,
    ask: Callable[..., Any],
    finish: Callable[[DetectWidget], None],
    qtbot: Any,
    save_as: Callable[[Any, Path], None],
) -> None:
    dialog, before = ask(panel, healthy), panel.model.checkpoint
    (tmp_path / "new").mkdir()
    output = tmp_path / "new" / "ours.safetensors"
    save_as(dialog, output)
    qtbot.mouseClick(dialog.start_button, Qt.MouseButton.LeftButton)
    status = panel.calibrating.status
    qtbot.waitUntil(lambda: "of 5" in status.text(), timeout=MINUTE)
    qtbot.mouseClick(panel.calibrating.cancel_button, Qt.MouseButton.LeftButton)
    finish(panel)
    assert panel.notices.status.text() == "The calibration was cancelled; nothing was written."
    assert list(output.parent.iterdir()) == []
    assert panel.model.checkpoint == before
    assert panel.calibrating.button.isEnabled()


def test_too_few_and_unreadable_scans_are_named(
    panel: DetectWidget,
    healthy: Path,
    tmp_path: Path,
    ask: Callable[..., Any],
    finish: Callable[[DetectWidget], None],
    qtbot: Any,
) -> None:
    few = tmp_path / "few"
    shutil.copytree(healthy, few)
    (few / "sub-4.nii.gz").unlink()
    dialog = ask(panel, few)
    assert dialog.found.text() == "4 scans are too few: choose a folder with 5 or more."
    assert not dialog.start_button.isEnabled()
    dialog.reject()

    whole = (few / "sub-3.nii.gz").read_bytes()
    (few / "sub-4.nii.gz").write_bytes(whole[: len(whole) // 2])
    dialog = ask(panel, few)
    qtbot.mouseClick(dialog.start_button, Qt.MouseButton.LeftButton)
    finish(panel)
    assert "sub-4.nii.gz" in panel.notices.error.text()
    assert not panel.notices.details.isVisible()  # no bug
    assert not list(tmp_path.glob("*.safetensors"))
