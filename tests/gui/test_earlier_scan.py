"""Two dates in the panel: an earlier result is chosen, its findings and scan lie over this scan."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from numpy.testing import assert_allclose

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.findings.computed import computed_findings
from napari_addm.findings.decisions import Decision
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case import write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.state import Marking
from napari_addm.widgets.layer_registry import role_of

pytest.importorskip("SimpleITK", reason="needs the extra regions")

THRESHOLD = 0.05
# Centers in voxels (s, a, r), and radii in mm at both dates.
GROWN, NEW, GONE = ((14, 26, 22), 8, 14), ((14, 12, 10), 0, 14), ((8, 20, 16), 12, 0)
SHIFT_MM = 10.0


def find(volume: Volume, date: int, make_detection: Callable[..., Detection]) -> Detection:
    """The detection of a date; its map is 0.1 in balls."""
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    score = np.zeros(volume.shape, np.float32)
    for center, *radii in (GROWN, NEW, GONE):
        apart = np.linalg.norm((index - center) * volume.spacing, axis=-1)
        score[apart < radii[date]] = 0.1
    return make_detection(
        volume.with_data(score),
        reconstruction=volume,
        brain_mask=volume.with_data(volume.data > 0),
    )


@pytest.fixture(scope="module")
def save_earlier(make_detection: Any, tiny_checkpoint: Path) -> Callable[..., Path]:
    """``save_earlier(scan, file)``: the record of its result, saved beside it."""
    checkpoint = load_checkpoint(tiny_checkpoint)

    def save(scan: Volume, file: Path) -> Path:
        volume = read_volume(write_volume(file, scan))
        detection = find(volume, 0, make_detection)
        labels, findings = computed_findings(detection, THRESHOLD, 0.2)
        inputs = CaseInputs(volume)
        outputs = CaseOutputs(inputs, detection, labels, findings, checkpoint, THRESHOLD, 0.2)
        return write_case(outputs, file.parent)["record"]

    return save


@pytest.fixture(scope="module")
def earlier(scan: Volume, save_earlier: Any, tmp_path_factory: Any) -> Path:
    """The record of the earlier result; the head lay 10 mm beside its present place."""
    affine = scan.affine.copy()
    affine[0, 3] += SHIFT_MM
    file = tmp_path_factory.mktemp("earlier") / "before.nii.gz"
    return save_earlier(replace(scan, affine=affine), file)


@pytest.fixture
def panel(
    qapp: Any, scan: Volume, add: Any, new_panel: Any, show_result: Any, make_detection: Any
) -> DetectWidget:
    """A panel with the present result, which is not saved."""
    viewer = ViewerModel()
    add(viewer, scan)
    made: DetectWidget = new_panel(viewer)
    made.controller.set_marking(Marking(threshold=THRESHOLD, minimum_ml=0.2))
    show_result(made, find(scan, 1, make_detection))
    return made


@pytest.fixture
def compare(finish: Any) -> Callable[..., None]:
    """``compare(panel, record)``: choose an earlier result, and wait."""

    def choose(panel: DetectWidget, *where: Path) -> None:
        panel.earlier.compare(*where)
        finish(panel)

    return choose


def rows(panel: DetectWidget) -> dict[str, list[str]]:
    table = panel.earlier.table
    cells = [[table.item(row, n).text() for n in range(5)] for row in range(table.rowCount())]
    return {kind: numbers for kind, *numbers in cells}


def layer(panel: DetectWidget, role: str) -> Any:
    viewer = panel.controller.outcome.layers._viewer
    return next((each for each in viewer.layers if role_of(each) == role), None)


def test_changes_are_listed_and_shown(panel: DetectWidget, earlier: Path, compare: Any) -> None:
    compare(panel, earlier)
    assert panel.notices.error.text() == ""
    found = rows(panel)
    assert set(found) == {"grown", "new", "gone"}
    for kind, (_, before, after) in zip(("grown", "new", "gone"), (GROWN, NEW, GONE), strict=True):
        numbers = found[kind][1:]
        for shown, radius in zip(numbers, (before, after), strict=False):
            volume = 4 / 3 * np.pi * radius**3 / 1000
            assert shown == "–" if not radius else float(shown) == pytest.approx(volume, rel=0.3)
    # the earlier scan lies over this one, although the head lay elsewhere
    scan, moved = panel.inputs.scan, layer(panel, "earlier")
    assert_allclose(moved.data, scan.data, atol=8)
    assert not moved.visible
    outlines = layer(panel, "earlier findings")
    assert outlines.visible
    assert outlines.data[GONE[0]]
    assert outlines.data[GROWN[0]]
    assert not outlines.data[NEW[0]]

    table = panel.earlier.table
    for kind, center in (("gone", GONE[0]), ("grown", GROWN[0])):
        table.selectRow(list(found).index(kind))
        viewer = panel.controller.outcome.layers._viewer
        assert_allclose(scan.world_to_data(viewer.dims.point), center, atol=1)
    assert panel.findings.table.review.selected is not None  # the grown one is selected there, too

    anomaly = panel.controller.outcome.layers.layer("anomaly")
    panel.earlier.show_button.click()
    assert (scan.visible, moved.visible, anomaly.visible) == (False, True, False)
    assert viewer.canvas.overlays["addm_compared"].text == "earlier scan"
    panel.earlier.show_button.click()
    assert (scan.visible, moved.visible, anomaly.visible) == (True, False, True)
    panel.earlier.show_button.click()
    panel.views.comparison.swipe.click()  # one at a time
    assert not panel.earlier.show_button.isChecked()
    panel.views.comparison.swipe.click()
    assert (scan.visible, moved.visible, anomaly.visible) == (True, False, True)
    panel.earlier.blink_button.click()
    viewer.layers.remove(moved)
    assert scan.visible
    assert not panel.earlier.blink_button.isChecked()


def test_the_comparison_follows_decisions_and_threshold(
    panel: DetectWidget, earlier: Path, compare: Any, qtbot: Any, finish: Any
) -> None:
    compare(panel, earlier)
    id = int(rows(panel)["new"][0])
    panel.findings.table.decide(id, Decision("rejected"))
    assert not panel.earlier.table.isEnabled()
    qtbot.waitUntil(lambda: "new" not in rows(panel), timeout=60_000)
    finish(panel)
    assert panel.earlier.table.isEnabled()
    assert "Rejected findings are left out (1 after)" in "".join(panel.earlier.cautions.shown)
    panel.findings.threshold.setValue(0.2)
    qtbot.waitUntil(lambda: set(rows(panel)) == {"gone"}, timeout=60_000)
    assert panel.earlier.table.rowCount() == 2


def test_the_page_is_saved_with_the_result(
    panel: DetectWidget, earlier: Path, compare: Any, finish: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from napari_addm.widgets.detect_panel import save

    opened = []
    monkeypatch.setattr(save.QDesktopServices, "openUrl", lambda url: opened.append(url) or True)
    for folder in (earlier.parent, tmp_path):
        monkeypatch.setattr(save.QFileDialog, "getExistingDirectory", lambda *_, f=folder: str(f))
        compare(panel, earlier)
        panel.earlier.page_button.click()
        finish(panel)
        assert panel.notices.error.text() == ""
        assert (folder / "comparison.html").exists()
        assert (folder / "head_record.json").exists()
        assert opened.pop().toLocalFile() == str(folder / "comparison.html")
    for path in earlier.parent.glob("*head*"):
        path.unlink()


def test_what_cannot_be_compared_is_said_in_one_sentence(
    panel: DetectWidget, earlier: Path, compare: Any, tmp_path: Path
) -> None:
    def error(*where: Path) -> str:
        compare(panel, *where)
        return str(panel.notices.error.text())

    record = Path(shutil.copytree(earlier.parent, tmp_path / "copy")) / earlier.name
    moved = (record.parent / "before.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    moved = moved.rename(moved.with_name("moved.nii.gz"))
    assert "say where it is with 'Its scan...'" in error(record)
    assert not panel.earlier.scan_button.isHidden()
    assert error(record, moved) == ""
    assert panel.earlier.scan_button.isHidden()
    next(record.parent.glob("*_recon*")).unlink()
    assert "is not beside the record" in error(record, moved)
    assert "does not exist" in error(tmp_path / "nothing")
    assert set(rows(panel)) == {"grown", "new", "gone"}  # of the comparison that went well


def test_another_person_is_not_compared(
    panel: DetectWidget,
    scan: Volume,
    save_earlier: Any,
    earlier: Path,
    compare: Any,
    tmp_path: Path,
) -> None:
    compare(panel, earlier)
    noise = np.random.default_rng(0).uniform(50, 150, scan.shape).astype(np.float32)
    other = scan.with_data(np.where(scan.data > 0, noise, 0))
    compare(panel, save_earlier(other, tmp_path / "other.nii.gz"))
    assert "The registration is doubtful" in "".join(panel.earlier.cautions.shown)
    assert panel.earlier.table.isHidden()
    assert layer(panel, "earlier") is layer(panel, "earlier findings") is None


def test_a_comparison_is_cancelled(panel: DetectWidget, earlier: Path, finish: Any) -> None:
    panel.earlier.compare(earlier)
    assert not panel.earlier.cancel_button.isHidden()
    panel.earlier.cancel_button.click()
    finish(panel)
    assert panel.earlier.compared is None
    assert panel.earlier.cancel_button.isHidden()
    assert panel.earlier.record_button.isEnabled()
    assert layer(panel, "earlier") is None
