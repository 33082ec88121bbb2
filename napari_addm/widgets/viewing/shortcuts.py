"""Keys that work in the whole window, wherever the mouse and the focus are."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from napari.utils.key_bindings import KeymapHandler, coerce_keybinding
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDockWidget,
    QLineEdit,
    QPlainTextEdit,
    QTextEdit,
    QWidget,
)

from napari_addm.widgets import texts
from napari_addm.widgets.forms import Panel, when_gone
from napari_addm.widgets.parts_filter import as_kind
from napari_addm.widgets.viewing.connections import unwrapped

if TYPE_CHECKING:
    import napari

KEY_EVENTS = (QEvent.Type.ShortcutOverride, QEvent.Type.KeyPress, QEvent.Type.KeyRelease)
MODIFIERS = {
    "Ctrl": Qt.KeyboardModifier.ControlModifier,
    "Shift": Qt.KeyboardModifier.ShiftModifier,
}
NONE = Qt.KeyboardModifier.NoModifier

# What a key does. A function that it returns is called when the key is released.
Action = Callable[[], Callable[[], object] | None]


class Shortcuts(QObject):
    """Calls actions on the keys of `texts.SHORTCUTS`.

    Keys are read before a widget gets them: napari's `bind_key` works on a focused canvas alone,
    and a key that is bound there cannot be bound by another plugin. In our panel the keys are
    ours. In the rest of the window, a key that somebody has bound stays theirs, and text fields
    keep all keys.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    section : QWidget
        A part of our panel. The keys end with it.
    actions : mapping
        By the actions of the shortcuts. A key without an action is left alone.
    may : callable
        Whether an action has something to act on; else its key is left alone, so that another
        panel of ours gets it.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        section: QWidget,
        actions: Mapping[str, Action],
        may: Callable[[str], bool] = lambda action: True,
    ) -> None:
        super().__init__(section)
        self._viewer = unwrapped(viewer)
        self._section = section
        self._actions = actions
        self._may = may
        self._shortcuts = {_pressed(each.key): each for each in texts.SHORTCUTS}
        self._held = 0  # the key that is down
        self._release: Callable[[], object] | None = None
        application = QApplication.instance()
        assert application is not None
        application.installEventFilter(self)
        when_gone(section, partial(_end, weakref.ref(self)))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Take our keys; leave all else alone."""
        if event is None:
            return False
        kind = event.type()
        if kind in KEY_EVENTS and isinstance(watched, QWidget):
            key = as_kind(event, QKeyEvent)
            return key is not None and self._on_key(watched, key)
        if kind == QEvent.Type.WindowDeactivate:
            self._let_go()  # the release goes to another window
        return False

    def _on_key(self, watched: QWidget, event: QKeyEvent) -> bool:
        """Tells whether the key is ours, and does what it says."""
        if event.type() == QEvent.Type.KeyRelease:
            return self._on_release(event)
        shortcut = self._shortcuts.get((int(event.key()), event.modifiers()))
        action = None if shortcut is None else self._actions.get(shortcut.action)
        if shortcut is None or action is None or not self._may_act(watched, event):
            return False
        if not self._may(shortcut.action):
            return False
        ours = _panel_of(self._section).isAncestorOf(watched)
        if event.type() == QEvent.Type.ShortcutOverride:
            if ours:
                event.accept()  # no shortcut of the window gets it
            return ours
        if not ours and self._is_taken(shortcut.key):
            return False
        if not event.isAutoRepeat():
            self._let_go()
            self._release = action()
            self._held = int(event.key())
        return True

    def _on_release(self, event: QKeyEvent) -> bool:
        if self._release is None or int(event.key()) != self._held:
            return False
        if not event.isAutoRepeat():
            self._let_go()
        return True

    def _let_go(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    def _may_act(self, watched: QWidget, event: QKeyEvent) -> bool:
        """Whether the key is pressed in our window, and not in a menu, dialog or text field."""
        if QApplication.activePopupWidget() or QApplication.activeModalWidget():
            return False
        if _main_window(watched) is not _main_window(self._section):
            return False
        # A text field that does not know a key passes it on to the widgets around it.
        return not any(_writes(each, event) for each in (watched, QApplication.focusWidget()))

    def _is_taken(self, key: str) -> bool:
        """Whether the viewer, the selected layer or the user has bound a key."""
        handler = KeymapHandler()
        active = self._viewer.layers.selection.active
        handler.keymap_providers = [each for each in (active, self._viewer) if each is not None]
        return coerce_keybinding(key) in handler.active_keymap


def _pressed(key: str) -> tuple[int, Qt.KeyboardModifier]:
    """Key and modifiers of a name like ``Ctrl-Shift-Z``."""
    *held, last = key.split("-")
    modifiers = NONE
    for each in held:
        modifiers |= MODIFIERS[each]
    return getattr(Qt.Key, f"Key_{last}").value, modifiers


def _writes(widget: QWidget | None, event: QKeyEvent) -> bool:
    """Whether a key belongs to a text field."""
    if isinstance(widget, QAbstractSpinBox):
        return event.modifiers() != NONE  # numbers have no letters, and undo is the field's own
    if isinstance(widget, QComboBox):
        return widget.isEditable()
    return isinstance(widget, (QLineEdit, QTextEdit, QPlainTextEdit))


def _main_window(widget: QWidget) -> QWidget:
    """The window of a widget; that of a floating dock is the one that it comes from."""
    window = widget.window()
    assert window is not None
    while isinstance(window, QDockWidget) and (parent := window.parentWidget()) is not None:
        window = parent.window()
        assert window is not None
    return window


def _panel_of(section: QWidget) -> QWidget:
    """The panel that a section is a part of; the section itself where it stands alone."""
    part: QWidget | None = section
    while part is not None and not isinstance(part, Panel):
        part = part.parentWidget()
    return part or section


def _end(shortcuts: weakref.ref[Shortcuts]) -> None:
    """Read no more keys: at the end of the process, Qt would call what Python has deleted."""
    application, there = QApplication.instance(), shortcuts()
    if application is not None and there is not None:
        with contextlib.suppress(RuntimeError):
            application.removeEventFilter(there)
