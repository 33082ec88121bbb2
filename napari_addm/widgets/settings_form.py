"""The fields of a settings model as widgets, which magicgui makes from their types and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Le
from magicgui.widgets import create_widget
from magicgui.widgets.bases import ValueWidget
from psygnal import Signal
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QWidget

from napari_addm.registry import SAMPLERS, SCORES, Registry

PARTS: dict[str, Registry[Any]] = {"sampler": SAMPLERS, "score": SCORES}
"""Fields whose choices are parts that describe themselves."""

LARGEST_WHOLE = 2**31 - 1
"""Largest integer that a field shows."""


class SettingsForm(Mapping[str, ValueWidget[Any]]):
    """One widget for each field of a settings model, by the field's name.

    A field's ``json_schema_extra`` says where it is shown (``panel``), its ``unit`` and ``step``,
    and what its smallest value stands for where that is None (``automatic``).

    Parameters
    ----------
    model : type of BaseModel
        Its fields have titles and descriptions.

    Attributes
    ----------
    changed : Signal()
        A value is another.
    """

    changed = Signal()

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._widgets = {
            name: _make_widget(name, field)
            for name, field in model.model_fields.items()
            if _extra(field).get("panel", "hidden") != "hidden"
        }
        self.reset()
        for widget in self._widgets.values():
            widget.changed.connect(lambda _: self.changed.emit())

    def __getitem__(self, name: str) -> ValueWidget[Any]:
        return self._widgets[name]

    def __iter__(self) -> Any:
        return iter(self._widgets)

    def __len__(self) -> int:
        return len(self._widgets)

    def native(self, name: str) -> QWidget:
        """Return the Qt widget of a field."""
        widget: QWidget = self._widgets[name].native
        return widget

    def title(self, name: str) -> str:
        """Return the title of a field."""
        return self._model.model_fields[name].title or name

    def names(self, panel: str) -> list[str]:
        """Return the fields that are shown in one part of the panel."""
        fields = self._model.model_fields
        return [name for name in self._widgets if _extra(fields[name])["panel"] == panel]

    def values(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the values as the model takes them."""
        return {name: self._value(name) for name in self._widgets}

    def _value(self, name: str) -> Any:
        value = self._widgets[name].value
        if _plain_type(self._model.model_fields[name].annotation) is int:
            value = round(value)
        automatic = "automatic" in _extra(self._model.model_fields[name])
        return None if automatic and value == 0 else value

    def reset(self) -> None:
        """Set every field whose default does not depend on a checkpoint."""
        fields = self._model.model_fields
        self.set_values({name: fields[name].default for name in self})
        self.set_values({name: 0 for name in self if "automatic" in _extra(fields[name])})

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Set fields; None leaves a field as it is."""
        for name, value in values.items():
            if value is not None and name in self._widgets:
                self._widgets[name].value = value


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _make_widget(name: str, field: FieldInfo) -> ValueWidget[Any]:
    extra = _extra(field)
    options: dict[str, Any] = {"tooltip": field.description}
    if "automatic" in extra:
        options["min"] = 0
    for bound in field.metadata:
        if isinstance(bound, Ge):
            options.setdefault("min", bound.ge)
        if isinstance(bound, Le):
            options["max"] = bound.le
    if "step" in extra:
        options["step"] = extra["step"]
    annotation = _plain_type(field.annotation)
    whole = annotation is int
    if whole:  # magicgui's own field for integers takes the focus whenever its value is set
        annotation = float
        options |= {"step": 1, "max": min(options["max"], LARGEST_WHOLE)}
    if annotation is bool:
        options["text"] = field.title
    if name in PARTS:
        options["choices"] = [(part.title, key) for key, part in PARTS[name].usable().items()]
    widget = create_widget(name=name, annotation=annotation, options=options)
    if whole:
        widget.native.setDecimals(0)
        widget.native.setMinimumWidth(60)  # the largest value would ask for more
    if "unit" in extra:
        widget.native.setSuffix(f" {extra['unit']}")
    if "automatic" in extra:
        widget.native.setSpecialValueText(extra["automatic"])
    if name in PARTS:
        _describe_choices(widget.native, PARTS[name])
    assert isinstance(widget, ValueWidget)
    return widget


def _plain_type(annotation: Any) -> Any:
    """Return the type without None and without validators."""
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    members = [member for member in get_args(annotation) if member is not NoneType]
    if len(members) < len(get_args(annotation)):
        return _plain_type(members[0])
    return annotation


def _describe_choices(box: QComboBox, parts: Registry[Any]) -> None:
    for index, part in enumerate(parts.usable().values()):
        box.setItemData(index, part.description, Qt.ItemDataRole.ToolTipRole)
