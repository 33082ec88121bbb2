"""Section 'Model': the checkpoint, and the settings of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QLabel,
    QRadioButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QWidget,
)

from napari_addm.checkpoint.file import DEMO_CHECKPOINT, read_specification
from napari_addm.checkpoint.specification import (
    ModelSpecification,
)
from napari_addm.detection.devices import has_openvino
from napari_addm.detection.presets import PRESETS, with_preset
from napari_addm.detection.settings import DEVICES, PRECISIONS, DetectionSettings, resolve
from napari_addm.errors import AddmError
from napari_addm.registry import METHODS, SAMPLERS, SCORES
from napari_addm.widgets import texts
from napari_addm.widgets.forms import (
    ERROR,
    SMALL,
    Section,
    button,
    column,
    form,
    message,
    number,
    row,
    say,
    whole,
)
from napari_addm.widgets.layer_combos import CheckpointChooser
from napari_addm.widgets.model_card import card_lines
from napari_addm.widgets.preferences import Preferences

BY_PRESET = ("steps", "level", "sampler", "eta", "draws", "score", "smoothing_mm", "symmetry")
"""The settings that a preset decides on."""


class ModelSettings(QWidget):
    """Choose a checkpoint, see its card, and set how a run goes.

    A checkpoint that is chosen sets all fields to its own defaults, but for
    the device, the precision, the batch size, the seed and the scope. So does a
    preset, with its own draws and steps; the list of presets says which of them
    the fields stand for, or "Custom".

    Parameters
    ----------
    scope : bool
        Whether one slice may be chosen in place of the volume.

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
    """

    checkpoint_changed = Signal()
    chosen = Signal(str, str)
    reset_asked = Signal()
    changed = Signal()

    def __init__(self, scope: bool = True) -> None:
        super().__init__()
        self.specification: ModelSpecification | None = None
        self._build(scope)
        for box in (self.sampler, self.device, self.score, self.precision):
            box.currentIndexChanged.connect(self.changed)
        for field in (self.level, self.steps, self.seed, self.draws, self.batch_size):
            field.valueChanged.connect(self.changed)
        for number_field in (self.smoothing, self.eta):
            number_field.valueChanged.connect(self.changed)
        self.symmetry.toggled.connect(self.changed)
        self.checkpoint_changed.connect(self.changed)
        self.changed.connect(self._show_preset)
        self.preset.activated.connect(self._on_preset)
        self.checkpoint_chooser.changed.connect(self._on_checkpoint)
        self.checkpoint_chooser.changed.connect(self._on_chosen)
        self.device.textActivated.connect(partial(self.chosen.emit, "device"))
        self.precision.textActivated.connect(partial(self.chosen.emit, "precision"))
        self._on_checkpoint()

    def _build(self, with_scope: bool) -> None:
        self.checkpoint_chooser = CheckpointChooser()
        self.card = message()
        self.preset = QComboBox()
        self.preset.setPlaceholderText(texts.CUSTOM_PRESET)
        for name in PRESETS:
            self.preset.addItem(texts.RUN_PRESETS[name].label, name)
            self.preset.setItemData(
                self.preset.count() - 1, texts.RUN_PRESETS[name].tip, Qt.ItemDataRole.ToolTipRole
            )
        self.level = whole(1, 1000)
        self.level_slider = QSlider(Qt.Orientation.Horizontal)
        self.level_slider.setRange(1, 1000)
        self.level_percent = QLabel()
        self.level_percent.setMinimumWidth(34)
        self.level.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
        self.level_percent.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.level.valueChanged.connect(self._on_level)
        self.level_slider.valueChanged.connect(self.level.setValue)
        self.sampler = QComboBox()
        for kind, sampler in SAMPLERS.items():
            self.sampler.addItem(sampler.title, kind)
            self.sampler.setItemData(
                self.sampler.count() - 1, sampler.description, Qt.ItemDataRole.ToolTipRole
            )
        self.sampler.currentIndexChanged.connect(self._on_sampler)
        self.steps = whole(1, 1000)
        self.seed = whole(0, 2**31 - 1)
        self.draws = whole(1, 1000)
        self.device = QComboBox()
        self.device.addItems([d for d in DEVICES if d != "openvino" or has_openvino()])
        self.this_slice = QRadioButton(texts.THIS_SLICE)
        self.whole_volume = QRadioButton(texts.WHOLE_VOLUME)
        self.whole_volume.setChecked(True)
        scope = QButtonGroup(self)
        scope.addButton(self.this_slice)
        scope.addButton(self.whole_volume)

        fields = form()
        row(fields, texts.CHECKPOINT, self.checkpoint_chooser)
        fields.addRow(self.card)
        row(fields, texts.RUN_PRESET, self.preset)
        row(fields, texts.LEVEL, self.level_slider, self.level, self.level_percent)
        row(fields, texts.SAMPLER, self.sampler, self.steps)
        self.steps.setToolTip(texts.STEPS.tip)
        self.steps.valueChanged.connect(self._on_steps)
        self._on_steps()
        draws_label = QLabel(texts.DRAWS.label)
        row(fields, texts.SEED, self.seed, draws_label, self.draws)
        draws_label.setToolTip(texts.DRAWS.tip)
        self.draws.setToolTip(texts.DRAWS.tip)
        for field in (self.sampler, self.steps, self.seed, self.draws):
            field.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        row(fields, texts.DEVICE, self.device)
        if with_scope:
            row(fields, texts.SCOPE, self.this_slice, self.whole_volume)

        self.score = QComboBox()
        for kind, score in SCORES.items():
            self.score.addItem(kind, kind)
            self.score.setItemData(
                self.score.count() - 1, score.description, Qt.ItemDataRole.ToolTipRole
            )
        self.smoothing = number(100, 0.5, " mm")
        self.symmetry = QCheckBox(texts.SYMMETRY.label)
        self.symmetry.setToolTip(texts.SYMMETRY.tip)
        self.eta = number(1, 0.1)
        self.precision = QComboBox()
        self.precision.addItems(PRECISIONS)
        self.batch_size = whole(0, 1024)
        self.batch_size.setSpecialValueText("automatic")
        more = QWidget()
        inner = form()
        more.setLayout(inner)
        row(inner, texts.SCORE, self.score)
        row(inner, texts.SMOOTHING, self.smoothing)
        inner.addRow("", self.symmetry)
        row(inner, texts.ETA, self.eta)
        row(inner, texts.PRECISION, self.precision)
        row(inner, texts.BATCH_SIZE, self.batch_size)
        self.reset_button = button(texts.RESET, self.reset_asked.emit)
        inner.addRow("", self.reset_button)
        self.advanced = Section(texts.ADVANCED_SECTION, more, expanded=False, quiet=True)
        body = column(self)
        body.addLayout(fields)
        body.addWidget(self.advanced)

    @property
    def checkpoint(self) -> Path:
        """File of the chosen checkpoint."""
        return self.checkpoint_chooser.path

    @property
    def settings(self) -> DetectionSettings:
        """The settings as they stand; the scope is not among them."""
        diffuses = self.specification is None or self.specification.diffusion is not None
        return DetectionSettings(
            steps=self.steps.value() if diffuses else None,
            level=self.level.value() if diffuses else None,
            sampler=self.sampler.currentData(),
            eta=self.eta.value(),
            seed=self.seed.value(),
            draws=self.draws.value(),
            device=self.device.currentText(),
            precision=self.precision.currentText(),
            batch_size=self.batch_size.value() or None,
            score=self.score.currentData(),
            smoothing_mm=self.smoothing.value(),
            symmetry=self.symmetry.isChecked(),
        )

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
        if preferences.sampler is not None and self.sampler.isEnabled():
            self.sampler.setCurrentIndex(self.sampler.findData(preferences.sampler))
        self.device.setCurrentText(preferences.device)
        self.precision.setCurrentText(preferences.precision)
        return texts.CHECKPOINT_GONE.format(path) if gone else ""

    def follow(self, preferences: Preferences) -> None:
        """Take over what was changed on the page of preferences while the panel is open."""
        self.checkpoint_chooser.offer_folder(preferences.checkpoint_folder)
        self.device.setCurrentText(preferences.device)
        self.precision.setCurrentText(preferences.precision)

    def reset(self) -> None:
        """Set every field to its default."""
        self.batch_size.setValue(0)
        self.seed.setValue(0)
        self.whole_volume.setChecked(True)
        self.restore(Preferences())

    def offer_devices(self, devices: tuple[str, ...]) -> None:
        """Take away what this machine does not have."""
        for index in reversed(range(self.device.count())):
            if self.device.itemText(index) not in ("auto", *devices):
                self.device.removeItem(index)

    def _on_checkpoint(self) -> None:
        """Show the card, and set everything to the checkpoint's defaults."""
        try:
            self.specification = read_specification(self.checkpoint)
        except AddmError as error:
            self.specification = None
            self.card.setStyleSheet(SMALL + ERROR)
            say(self.card, str(error))
        else:
            self.card.setStyleSheet(SMALL)
            say(self.card, "\n".join(card_lines(self.specification)))
            self.card.setToolTip(self.specification.description)
            self._set_defaults(self.specification)
        self.checkpoint_changed.emit()

    def _on_chosen(self) -> None:
        path = self.checkpoint
        self.chosen.emit("checkpoint", "" if path == DEMO_CHECKPOINT else str(path.absolute()))

    def _set_defaults(self, specification: ModelSpecification) -> None:
        default = specification.detection
        highest = _highest_level(specification)
        self.level.setMaximum(highest)
        self.level_slider.setMaximum(highest)
        self.level.setValue(default.level or 1)
        self._on_level()
        self.steps.setValue(default.steps)
        diffuses = default.level is not None
        for field in (self.level, self.level_slider, self.steps, self.sampler):
            field.setEnabled(diffuses)
        draws = METHODS[specification.method].random
        for field in (self.draws, self.seed):
            field.setEnabled(draws)
        self.draws.setMaximum(1000 if draws else 1)
        self.sampler.setCurrentIndex(self.sampler.findData(default.sampler))
        self.eta.setValue(default.eta)
        self._on_sampler()
        self.draws.setValue(default.draws)
        self.score.setCurrentIndex(self.score.findData(default.score.kind))
        self.smoothing.setValue(default.score.smoothing_mm)
        self.symmetry.setChecked(default.score.symmetry)

    def _on_preset(self) -> None:
        """Set everything that a preset decides on."""
        specification, preset = self.specification, self.preset.currentData()
        if specification is None or preset is None:
            return
        self._set_defaults(specification)
        settings = resolve(with_preset(DetectionSettings(), preset, specification), specification)
        assert settings.steps is not None
        assert settings.draws is not None
        self.steps.setValue(settings.steps)
        self.draws.setValue(settings.draws)

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
                # Qt's own way to grey out an item
                self.preset.setItemData(index, None if differs else 0, Qt.ItemDataRole.UserRole - 1)
                if differs and self._stand_for(settings, now):
                    found = index
        self.preset.setCurrentIndex(found)

    def _stand_for(self, settings: DetectionSettings, now: DetectionSettings) -> bool:
        """Whether these are the settings now, as far as the fields can tell."""
        for name in BY_PRESET:
            wanted, there = getattr(settings, name), getattr(now, name)
            if isinstance(wanted, float) and isinstance(there, float):
                wanted, there = round(wanted, 2), round(there, 2)  # the fields' own digits
            if wanted != there:
                return False
        return True

    def _on_level(self) -> None:
        level = self.level.value()
        self.level_slider.setValue(level)
        if self.specification is not None:
            diffusion = self.specification.diffusion
            self.level_percent.setText(f"{level / diffusion.timesteps:.0%}" if diffusion else "")
        self.steps.setMaximum(level)

    def _on_steps(self) -> None:
        self.steps.setSuffix(" step" if self.steps.value() == 1 else " steps")

    def _on_sampler(self) -> None:
        diffuses = self.specification is None or self.specification.diffusion is not None
        self.eta.setEnabled(diffuses and "eta" in SAMPLERS[self.sampler.currentData()].options)


def _highest_level(specification: ModelSpecification) -> int:
    """Up to where the network was trained; the record of the training may be silent or foreign."""
    length = specification.diffusion.timesteps if specification.diffusion else 1
    highest = specification.training.get("highest_level")
    return min(highest, length) if isinstance(highest, int) and highest >= 1 else length
