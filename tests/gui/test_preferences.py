"""What the panel remembers, and napari's page of preferences for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from napari import settings as napari_settings
from napari.components import ViewerModel
from npe2 import PluginManager
from qtpy.QtWidgets import QComboBox, QFileDialog

from napari_addm.checkpoint.file import DEMO_CHECKPOINT
from napari_addm.detection.settings import DEVICES, PRECISIONS
from napari_addm.registry import SAMPLERS
from napari_addm.widgets import preferences
from napari_addm.widgets.detect_panel.panel import DetectWidget


def new_session() -> None:
    """What napari does when it starts: the settings are read from the disk again."""
    napari_settings._clear_plugin_settings_cache()


@pytest.fixture
def panel(qtbot):
    def make() -> DetectWidget:
        new_session()
        widget = DetectWidget(ViewerModel())
        qtbot.addWidget(widget)
        return widget

    return make


def pick(box: QComboBox, words: str) -> None:
    """Choose an entry as a person does."""
    index = box.findText(words)
    assert index >= 0
    box.setCurrentIndex(index)
    box.activated.emit(index)
    box.textActivated.emit(words)


def test_the_page_offers_what_the_code_takes():
    manager = PluginManager.instance()
    manager.discover()
    manifest = manager.get_manifest("napari-addm")
    page = manifest.contributions.configurations["panel"].properties
    assert set(page["device"].enum) == set(DEVICES)
    assert set(page["precision"].enum) == set(PRECISIONS)
    samplers = {preferences.OWN_SAMPLER, *(sampler.title for sampler in SAMPLERS.values())}
    assert set(page["sampler"].enum) == samplers
    assert preferences.read() == preferences.Preferences()


def test_choices_are_there_in_the_next_session(panel, tiny_checkpoint):
    first = panel()
    pick(first.model.device, "cpu")
    pick(first.model.precision, "float32")
    first.model.checkpoint_chooser.choose(tiny_checkpoint)
    first.model.level.setValue(77)  # not remembered: the threshold is calibrated for another
    first.sections["View"].heading.click()
    second = panel()
    assert second.model.device.currentText() == "cpu"
    assert second.model.precision.currentText() == "float32"
    assert second.model.checkpoint_chooser.path == tiny_checkpoint
    assert second.model.checkpoint_chooser.currentText() == tiny_checkpoint.name
    assert second.model.level.value() == 200
    assert not second.sections["View"].expanded
    assert second.sections["Model"].expanded


def test_reset_forgets_everything(panel, tiny_checkpoint):
    first = panel()
    pick(first.model.device, "cpu")
    first.model.checkpoint_chooser.choose(tiny_checkpoint)
    first.sections["Model"].heading.click()
    first.model.batch_size.setValue(3)
    first.model.reset_button.click()
    for widget in (first, panel()):
        assert widget.model.device.currentText() == "auto"
        assert widget.model.checkpoint_chooser.path == DEMO_CHECKPOINT
        assert widget.model.batch_size.value() == 0
        assert widget.sections["Model"].expanded
    assert preferences.read() == preferences.Preferences()


def test_nothing_is_kept_when_the_page_says_so(panel):
    page = napari_settings.get_plugin_settings("napari-addm").panel
    page.remember = False
    pick(panel().model.device, "cpu")
    assert panel().model.device.currentText() == "auto"


def test_a_checkpoints_own_sampler_wins_when_it_is_chosen(panel, tiny_checkpoint):
    napari_settings.get_plugin_settings("napari-addm").panel.sampler = "DDPM"
    widget = panel()
    assert widget.model.settings.sampler == "ddpm"
    widget.model.checkpoint_chooser.choose(tiny_checkpoint)
    assert widget.model.settings.sampler == "ddim"


def test_a_checkpoint_that_is_gone_is_said_and_replaced(panel, tiny_checkpoint, tmp_path):
    copy = Path(shutil.copy(tiny_checkpoint, tmp_path / "lent.safetensors"))
    panel().model.checkpoint_chooser.choose(copy)
    copy.unlink()
    widget = panel()
    assert "lent.safetensors" in widget.notices.status.text()
    assert widget.model.checkpoint_chooser.path == DEMO_CHECKPOINT
    assert widget.model.specification is not None


def test_checkpoints_of_the_folder_are_offered_while_the_panel_is_open(
    panel, tiny_checkpoint, tmp_path
):
    widget = panel()
    for name in ("b", "a"):
        shutil.copy(tiny_checkpoint, tmp_path / f"{name}.safetensors")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    page = napari_settings.get_plugin_settings("napari-addm").panel
    page.checkpoint_folder = str(tmp_path)
    box = widget.model.checkpoint_chooser

    def offered() -> list[str]:
        return [box.itemText(n) for n in range(box.count())]

    assert offered() == ["Demo (bundled)", "a.safetensors", "b.safetensors", "Choose a file..."]
    pick(box, "b.safetensors")
    assert "tiny" in widget.model.card.text()
    (tmp_path / "a.safetensors").unlink()
    box.showPopup()
    box.hidePopup()
    assert offered() == ["Demo (bundled)", "b.safetensors", "Choose a file..."]
    assert box.path == tmp_path / "b.safetensors"
    page.checkpoint_folder = "/no/such/folder"
    assert offered() == ["Demo (bundled)", "b.safetensors", "Choose a file..."]


def test_a_cancelled_file_dialog_changes_nothing(panel, tiny_checkpoint, monkeypatch):
    widget = panel()
    widget.model.checkpoint_chooser.choose(tiny_checkpoint)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    pick(widget.model.checkpoint_chooser, "Choose a file...")
    assert widget.model.checkpoint_chooser.path == tiny_checkpoint
    assert widget.model.checkpoint_chooser.currentText() == tiny_checkpoint.name


def test_a_damaged_settings_file_gives_defaults(panel):
    path = napari_settings.get_plugin_settings("napari-addm").config_path
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(yaml.safe_dump({"panel": {"device": "abacus", "precision": "float32"}}))
    widget = panel()
    assert widget.model.device.currentText() == "auto"
    assert widget.model.precision.currentText() == "float32"


def test_a_closed_panel_no_longer_follows(panel, qtbot):
    widget = DetectWidget(ViewerModel())
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    napari_settings.get_plugin_settings("napari-addm").panel.device = "cpu"
    assert panel().model.device.currentText() == "cpu"


def test_the_page_in_the_real_dialog(make_napari_viewer, panel, qtbot):
    """napari builds its page from the manifest, and the panel follows it."""
    from napari._qt.dialogs.preferences_dialog import PreferencesDialog

    viewer = make_napari_viewer()
    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    dialog = PreferencesDialog(parent=viewer.window._qt_window)
    qtbot.addWidget(dialog)
    names = [dialog._list.item(n).text() for n in range(dialog._list.count())]
    assert "ADDM" in names
    page = dialog._stack.widget(names.index("ADDM"))
    boxes = [box for box in page.findChildren(QComboBox) if box.findText("cuda") >= 0]
    assert len(boxes) == 1
    boxes[0].setCurrentText("cpu")
    assert widget.model.device.currentText() == "cpu"
    dialog.reject()
    assert widget.model.device.currentText() == "auto"
