"""Values that a panel remembers, and napari's page of preferences for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from napari import settings as napari_settings
from napari.components import ViewerModel
from npe2 import PluginManager
from qtpy.QtWidgets import QComboBox, QFileDialog

from napari_addm.detection.settings import DEVICES, PRECISIONS
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.registry import SAMPLERS
from napari_addm.widgets import preferences
from napari_addm.widgets.detect_panel.panel import DetectWidget

MakePanel = Callable[[], DetectWidget]


@pytest.fixture
def panel(qtbot: Any) -> MakePanel:
    """Opens a panel in a new session, in which napari reads its settings from the disk again."""

    def make() -> DetectWidget:
        napari_settings._clear_plugin_settings_cache()
        widget = DetectWidget(ViewerModel())
        qtbot.addWidget(widget)
        return widget

    return make


def page() -> Any:
    return napari_settings.get_plugin_settings("napari-addm").panel


def pick(box: QComboBox, words: str) -> None:
    """Choose an entry as a person does."""
    index = box.findText(words)
    assert index >= 0
    box.setCurrentIndex(index)
    box.activated.emit(index)
    box.textActivated.emit(words)


def test_the_page_offers_all_choices_of_the_settings() -> None:
    manager = PluginManager.instance()
    manager.discover()
    manifest = manager.get_manifest("napari-addm")
    properties = manifest.contributions.configurations["panel"].properties
    assert set(properties["device"].enum) == set(DEVICES)
    assert set(properties["precision"].enum) == set(PRECISIONS)
    samplers = {preferences.OWN_SAMPLER, *(sampler.title for sampler in SAMPLERS.values())}
    assert set(properties["sampler"].enum) == samplers
    assert preferences.read() == preferences.Preferences()


def test_choices_last_until_they_are_reset(panel: MakePanel, tiny_checkpoint: Path) -> None:
    first = panel()
    pick(first.model.device, "cpu")
    pick(first.model.precision, "float32")
    first.model.checkpoint_chooser.choose(tiny_checkpoint)
    first.model.level.setValue(77)  # not remembered: the threshold is calibrated for another
    first.model.batch_size.setValue(3)
    first.sections["Scan"].heading.click()
    first.sections["View"].heading.click()
    second = panel()
    assert second.model.device.currentText() == "cpu"
    assert second.model.precision.currentText() == "float32"
    assert second.model.checkpoint_chooser.path == tiny_checkpoint
    assert second.model.checkpoint_chooser.currentText() == tiny_checkpoint.name
    assert second.model.level.value() == 200
    assert not second.sections["Scan"].expanded
    assert second.sections["View"].expanded
    assert not second.sections["Model"].expanded

    first.model.reset_button.click()
    for widget in (first, panel()):
        assert widget.model.device.currentText() == "auto"
        assert widget.model.checkpoint_chooser.path == DEMO_CHECKPOINT
        assert widget.model.batch_size.value() == 0
        assert widget.sections["Scan"].expanded
        assert not widget.sections["View"].expanded
    assert preferences.read() == preferences.Preferences()


def test_what_an_earlier_edition_remembered_still_holds(panel: MakePanel) -> None:
    """It wrote down the folded sections whenever a person folded or unfolded one."""
    page().folded = "View"
    sections = panel().sections
    assert [title for title in sections if not sections[title].expanded] == ["View"]
    sections["View"].heading.click()
    assert all(section.expanded for section in panel().sections.values())


def test_a_folded_model_is_readable_in_its_heading(panel: MakePanel, tiny_checkpoint: Path) -> None:
    widget = panel()
    heading = widget.sections["Model"].heading
    assert heading.text() == "▸ Model: Demo ADDM (small), Standard"
    pick(widget.model.preset, "Preview")
    assert heading.text().endswith(", Preview")
    widget.model.steps.setValue(2)
    widget.model.checkpoint_chooser.choose(tiny_checkpoint.with_name("gone.safetensors"))
    assert "cannot be read" in heading.text()
    assert not widget.run_button.isEnabled()


def test_nothing_is_remembered_if_the_page_turns_it_off(panel: MakePanel) -> None:
    page().remember = False
    pick(panel().model.device, "cpu")
    assert panel().model.device.currentText() == "auto"


def test_a_checkpoints_own_sampler_wins_when_it_is_chosen(
    panel: MakePanel, tiny_checkpoint: Path
) -> None:
    page().sampler = "DDPM"
    widget = panel()
    assert widget.model.settings.sampler == "ddpm"
    widget.model.checkpoint_chooser.choose(tiny_checkpoint)
    assert widget.model.settings.sampler == "ddim"


def test_a_missing_checkpoint_is_replaced_with_a_message(
    panel: MakePanel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(tiny_checkpoint, tmp_path / "lent.safetensors"))
    panel().model.checkpoint_chooser.choose(copy)
    copy.unlink()
    widget = panel()
    assert "lent.safetensors" in widget.notices.status.text()
    assert widget.model.checkpoint_chooser.path == DEMO_CHECKPOINT
    assert widget.model.specification is not None


def test_checkpoints_of_the_folder_are_offered_while_the_panel_is_open(
    panel: MakePanel, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = panel()
    for name in ("b", "a"):
        shutil.copy(tiny_checkpoint, tmp_path / f"{name}.safetensors")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    page().checkpoint_folder = str(tmp_path)
    box = widget.model.checkpoint_chooser

    def offered() -> list[str]:
        names = [box.itemText(n) for n in range(box.count())]
        assert (names[0], names[-1]) == ("Demo (bundled)", "Choose a file...")
        return names[1:-1]

    assert offered() == ["a.safetensors", "b.safetensors"]
    pick(box, "b.safetensors")
    assert "tiny" in widget.model.card.text()
    (tmp_path / "a.safetensors").unlink()
    box.showPopup()
    box.hidePopup()
    assert offered() == ["b.safetensors"]
    page().checkpoint_folder = "/no/such/folder"
    assert offered() == ["b.safetensors"]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    pick(box, "Choose a file...")
    assert box.path == tmp_path / "b.safetensors"
    assert box.currentText() == "b.safetensors"


def test_a_damaged_settings_file_gives_defaults(panel: MakePanel) -> None:
    path = napari_settings.get_plugin_settings("napari-addm").config_path
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(yaml.safe_dump({"panel": {"device": "abacus", "precision": "float32"}}))
    widget = panel()
    assert widget.model.device.currentText() == "auto"
    assert widget.model.precision.currentText() == "float32"


def test_a_panel_follows_the_page_in_the_real_dialog(make_napari_viewer: Any, qtbot: Any) -> None:
    from napari._qt.dialogs.preferences_dialog import PreferencesDialog

    viewer = make_napari_viewer()
    widget, closed = DetectWidget(viewer), DetectWidget(ViewerModel())
    qtbot.addWidget(widget)
    with qtbot.waitSignal(closed.destroyed):
        closed.deleteLater()
    dialog = PreferencesDialog(parent=viewer.window._qt_window)
    qtbot.addWidget(dialog)
    names = [dialog._list.item(n).text() for n in range(dialog._list.count())]
    boxes = dialog._stack.widget(names.index("ADDM brain MRI anomalies")).findChildren(QComboBox)
    (device,) = (box for box in boxes if box.findText("cuda") >= 0)
    device.setCurrentText("cpu")
    assert widget.model.device.currentText() == "cpu"
    dialog.reject()
    assert widget.model.device.currentText() == "auto"
