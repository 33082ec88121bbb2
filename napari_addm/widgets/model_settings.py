"""Section 'Model': the checkpoint, and the settings of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from magicgui.widgets import ComboBox
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QLabel,
    QRadioButton,
    QSlider,
    QWidget,
)

from napari_addm.checkpoint.file import read_specification
from napari_addm.checkpoint.specification import (
    ModelSpecification,
)
from napari_addm.detection.devices import has_openvino
from napari_addm.detection.presets import PRESETS, with_preset
from napari_addm.detection.settings import (
    DEVICES,
    SCORE_FIELDS,
    DetectionSettings,
    has_norm,
    resolve,
)
from napari_addm.errors import AddmError
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.registry import METHODS, SAMPLERS
from napari_addm.widgets import texts
from napari_addm.widgets.forms import (
    Section,
    button,
    column,
    form,
    message,
    row,
    say,
)
from napari_addm.widgets.layer_combos import CheckpointChooser
from napari_addm.widgets.model_card import card_lines
from napari_addm.widgets.preferences import Preferences
from napari_addm.widgets.settings_form import SettingsForm
from napari_addm.widgets.tones import ERROR


class ModelSettings(QWidget):
    """Choose a checkpoint, see its card, and set how a run goes.

    A checkpoint that is chosen sets all fields to its own defaults, but for
    the device, the precision, the batch size, the seed and the scope. So does a
    preset, with its own draws and steps; the list of presets says which of them
    the fields stand for, or "Custom".

    Parameters
    ----------
    scope : bool
        Whether one slice may be chosen instead of the volume.

    Attributes
    ----------
    checkpoint_changed : Signal()
        Another checkpoint is chosen, and its defaults are set.
    chosen : Signal(str, str)
        A person chose what holds beyond a run and a checkpoint: the name in
        the preferences, and the value.
    reset_asked : Signal()
    changed : Signal()
        Any of the settings is another; for one choice it may come more than once.
    specification : ModelSpecification or None
        Of the chosen checkpoint; None when it cannot be read.
    preset_row : QWidget
        The preset with its label, for the panel to lay out where it is always in view.
    """

    checkpoint_changed = Signal()
    chosen = Signal(str, str)
    reset_asked = Signal()
    changed = Signal()

    def __init__(self, scope: bool = True) -> None:
        super().__init__()
        self.specification: ModelSpecification | None = None
        self.form = SettingsForm(DetectionSettings)
        for name in self.form:  # for scripts: model.steps is the Qt field of that setting
            setattr(self, name, self.form.native(name))
        self._build(scope)
        self.form.changed.connect(self.changed.emit)
        self.form["level"].changed.connect(self._on_level)
        self.form["sampler"].changed.connect(self._on_sampler)
        for name in ("score", "smoothing_mm"):
            self.form[name].changed.connect(self._on_score)
        self.checkpoint_changed.connect(self.changed)
        self.changed.connect(self._show_preset)
        self.preset.activated.connect(self._on_preset)
        self.checkpoint_chooser.changed.connect(self._on_checkpoint)
        self.checkpoint_chooser.changed.connect(self._on_chosen)
        for name in ("device", "precision"):
            box = self.form.native(name)
            assert isinstance(box, QComboBox)
            box.textActivated.connect(partial(self.chosen.emit, name))
        self._on_checkpoint()

    def _build(self, with_scope: bool) -> None:
        self.checkpoint_chooser = CheckpointChooser()
        self.card = message()
        self.preset = self._make_presets()
        self.reset_button = button(texts.RESET, self.reset_asked.emit)
        basic, advanced, more = form(), form(), QWidget()
        more.setLayout(advanced)
        row(basic, texts.CHECKPOINT, self.checkpoint_chooser)
        basic.addRow(self.card)
        self._below_card = column()
        basic.addRow(self._below_card)
        self.preset_row, preset = QWidget(), form()
        row(preset, texts.RUN_PRESET, self.preset)
        self.preset_row.setLayout(preset)
        self._add_level()
        for panel, fields in (("basic", basic), ("advanced", advanced)):
            for name in self.form.names(panel):
                self._add_row(fields, name)
        self._add_scope(basic, with_scope)
        advanced.addRow("", self.reset_button)
        self.advanced = Section(texts.ADVANCED_SECTION, more, expanded=False, quiet=True)
        body = column(self)
        body.addLayout(basic)
        body.addWidget(self.advanced)
        self.offer_devices(tuple(d for d in DEVICES if d != "openvino" or has_openvino()))

    def add(self, part: QWidget) -> None:
        """Add a part below the card of the checkpoint."""
        self._below_card.addWidget(part)

    def _make_presets(self) -> QComboBox:
        presets = QComboBox()
        presets.setPlaceholderText(texts.CUSTOM_PRESET)
        for index, name in enumerate(PRESETS):
            presets.addItem(texts.RUN_PRESETS[name].label, name)
            presets.setItemData(index, texts.RUN_PRESETS[name].tip, Qt.ItemDataRole.ToolTipRole)
        return presets

    def _add_level(self) -> None:
        """Give the noise level a slider and its share of T."""
        self.level_slider = QSlider(Qt.Orientation.Horizontal)
        self.level_slider.setMinimum(1)
        self.level_slider.valueChanged.connect(partial(setattr, self.form["level"], "value"))
        self.level_percent = QLabel()
        self.level_percent.setMinimumWidth(34)
        self.level_percent.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        spin_box = self.form.native("level")
        assert isinstance(spin_box, QAbstractSpinBox)
        spin_box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)

    def _add_row(self, fields: QFormLayout, name: str) -> None:
        field = self.form[name]
        if field.annotation is bool:  # a check box has its own title
            fields.addRow("", self.form.native(name))
            return
        beside = (self.level_percent,) if name == "level" else ()
        before = (self.level_slider,) if name == "level" else ()
        text = texts.Text(self.form.title(name), str(field.tooltip))
        row(fields, text, *before, self.form.native(name), *beside)

    def _add_scope(self, fields: QFormLayout, shown: bool) -> None:
        self.this_slice = QRadioButton(texts.THIS_SLICE)
        self.whole_volume = QRadioButton(texts.WHOLE_VOLUME)
        self.whole_volume.setChecked(True)
        scope = QButtonGroup(self)
        scope.addButton(self.this_slice)
        scope.addButton(self.whole_volume)
        if shown:
            row(fields, texts.SCOPE, self.this_slice, self.whole_volume)

    @property
    def checkpoint(self) -> Path:
        """File of the chosen checkpoint."""
        return self.checkpoint_chooser.path

    @property
    def summary(self) -> str:
        """The model and its preset in a few words, for a folded section."""
        if self.specification is None:
            return texts.MODEL_UNREADABLE
        preset = self.preset.currentText() or texts.CUSTOM_PRESET
        return texts.MODEL_NAMED.format(self.specification.name, preset)

    @property
    def settings(self) -> DetectionSettings:
        """The settings as they stand; the scope is not among them."""
        values = self.form.values()
        if self.specification is not None and self.specification.diffusion is None:
            values |= {"steps": None, "level": None}
        if not self._norm_fits:
            values["healthy_norm"] = None
        return DetectionSettings(**values)

    @property
    def _norm_fits(self) -> bool:
        values = self.form.values()
        now = DetectionSettings(score=values["score"], smoothing_mm=values["smoothing_mm"])
        return self.specification is not None and bool(has_norm(now, self.specification))

    def restore(self, preferences: Preferences) -> str:
        """Start as the preferences say.

        Returns
        -------
        str
            Words for a person when the checkpoint of last time is gone, else empty.
        """
        path = preferences.checkpoint or DEMO_CHECKPOINT
        gone = not path.is_file()
        # It sets its defaults; so it comes before what does not depend on it.
        self.checkpoint_chooser.path = DEMO_CHECKPOINT if gone else path
        self.checkpoint_chooser.offer_folder(preferences.checkpoint_folder)
        self._on_checkpoint()
        if self.form["sampler"].enabled:
            self.form.set_values({"sampler": preferences.sampler})
        self._set_hardware(preferences)
        return texts.CHECKPOINT_GONE.format(path) if gone else ""

    def follow(self, preferences: Preferences) -> None:
        """Take over what was changed on the page of preferences while the panel is open."""
        self.checkpoint_chooser.offer_folder(preferences.checkpoint_folder)
        self._set_hardware(preferences)

    def _set_hardware(self, preferences: Preferences) -> None:
        device = preferences.device
        devices = self.form["device"].choices  # type: ignore[attr-defined]
        self.form.set_values({"device": device if device in devices else "auto"})
        self.form.set_values({"precision": preferences.precision})

    def reset(self) -> None:
        """Set every field to its default."""
        self.form.reset()
        self.whole_volume.setChecked(True)
        self.restore(Preferences())

    def offer_devices(self, devices: tuple[str, ...]) -> None:
        """Take away what this machine does not have."""
        box = self.form["device"]
        assert isinstance(box, ComboBox)
        box.choices = [name for name in box.choices if name in ("auto", *devices)]

    def _on_checkpoint(self) -> None:
        """Show the card, and set everything to the checkpoint's defaults."""
        try:
            self.specification = read_specification(self.checkpoint)
        except AddmError as error:
            self.specification = None
            self.card.set_tone(ERROR)
            say(self.card, str(error))
        else:
            self.card.set_tone("")
            say(self.card, "\n".join(card_lines(self.specification)))
            self.card.setToolTip(texts.as_written(self.specification.description))
            self._set_defaults(self.specification)
        self.checkpoint_changed.emit()

    def _on_chosen(self) -> None:
        path = self.checkpoint
        self.chosen.emit("checkpoint", "" if path == DEMO_CHECKPOINT else str(path.absolute()))

    def _set_defaults(self, specification: ModelSpecification) -> None:
        diffuses = specification.detection.level is not None
        draws = METHODS[specification.method].random
        highest = _highest_level(specification)
        self.form["level"].max = highest  # type: ignore[attr-defined]
        self.form["draws"].max = 1000 if draws else 1  # type: ignore[attr-defined]
        self.level_slider.setMaximum(highest)
        self.level_slider.setEnabled(diffuses)
        for name in ("level", "steps", "sampler"):
            self.form[name].enabled = diffuses
        for name in ("draws", "seed"):
            self.form[name].enabled = draws
        self._show(DetectionSettings(), specification)

    def _show(self, settings: DetectionSettings, specification: ModelSpecification) -> None:
        """Show what a checkpoint makes of settings; hardware and seed stay."""
        wanted = dict(resolve(settings, specification))
        steps = self.form["steps"]
        steps.max = max(wanted["steps"] or 1, steps.value)  # type: ignore[attr-defined]
        self.form.set_values({name: wanted[name] for name in SCORE_FIELDS if name in self.form})
        self._on_level()
        self._on_sampler()
        self._on_score()
        self.form.set_values({"healthy_norm": wanted["healthy_norm"]})

    def _on_preset(self) -> None:
        """Set everything that a preset decides on."""
        specification, preset = self.specification, self.preset.currentData()
        if specification is None or preset is None:
            return
        self._show(with_preset(DetectionSettings(), preset, specification), specification)

    def _show_preset(self) -> None:
        """Say which preset the fields stand for."""
        specification, found = self.specification, -1
        self.preset.setEnabled(specification is not None)
        if specification is not None:
            try:
                now = resolve(self.settings, specification)
            except AddmError:  # between two checkpoints
                now = self.settings
            asked = [with_preset(DetectionSettings(), name, specification) for name in PRESETS]
            presets = [resolve(settings, specification) for settings in asked]
            # One that is the same as the checkpoint's own settings is no choice.
            standard = presets[PRESETS.index("standard")]
            for index, settings in enumerate(presets):
                differs = settings is standard or settings != standard
                # Qt's own way to gray out an item
                self.preset.setItemData(index, None if differs else 0, Qt.ItemDataRole.UserRole - 1)
                if differs and self._stand_for(settings, now):
                    found = index
        self.preset.setCurrentIndex(found)

    def _stand_for(self, settings: DetectionSettings, now: DetectionSettings) -> bool:
        """Whether these are the settings now, as far as the fields can tell."""
        for name in SCORE_FIELDS:
            wanted, there = getattr(settings, name), getattr(now, name)
            if isinstance(wanted, float) and isinstance(there, float):
                wanted, there = round(wanted, 2), round(there, 2)  # the fields' own digits
            if wanted != there:
                return False
        return True

    def _on_level(self) -> None:
        level = round(self.form["level"].value)
        self.level_slider.setValue(level)
        if self.specification is not None:
            diffusion = self.specification.diffusion
            self.level_percent.setText(f"{level / diffusion.timesteps:.0%}" if diffusion else "")
        self.form["steps"].max = level  # type: ignore[attr-defined]

    def _on_score(self) -> None:
        """Offer the comparison with healthy brains where the checkpoint's norm fits the score."""
        box, fits = self.form["healthy_norm"], self._norm_fits
        if fits != box.enabled:
            box.enabled = box.value = fits

    def _on_sampler(self) -> None:
        diffuses = self.specification is None or self.specification.diffusion is not None
        self.form["eta"].enabled = diffuses and SAMPLERS[self.form["sampler"].value].uses_eta


def model_section(model: ModelSettings) -> Section:
    """Make the folded section of a model; its heading says which model and preset are chosen."""
    section = Section(texts.MODEL_SECTION, model, expanded=False)
    model.changed.connect(lambda: section.name(model.summary))
    section.name(model.summary)
    return section


def _highest_level(specification: ModelSpecification) -> int:
    """Up to where the network was trained; the record of the training may be silent or foreign."""
    length = specification.diffusion.timesteps if specification.diffusion else 1
    highest = specification.training.get("highest_level")
    return min(highest, length) if isinstance(highest, int) and highest >= 1 else length
