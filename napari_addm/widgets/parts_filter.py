"""An event filter on all widgets of a panel."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from qtpy import API_NAME
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication, QWidget

Kind = TypeVar("Kind", bound=QEvent)


def as_kind(event: QEvent, kind: type[Kind]) -> Kind | None:
    """Give an event as what it is; None if that is unknown.

    PyQt may hand over the Python object of an older event that lay at the same address, and that
    something has kept, as vispy keeps those of the mouse.
    """
    if isinstance(event, kind):
        return event
    if not API_NAME.startswith("PyQt"):
        return None
    sip: Any = import_module("qtpy.sip")
    found = sip.wrapinstance(sip.unwrapinstance(event), kind)
    return found if isinstance(found, kind) else None


class PartsFilter(QObject):
    """Sees the events of a widget and of all its parts, those that come later among them.

    The dialogs that the widget opens are parts, too.

    Parameters
    ----------
    root : QWidget
        The filter lives as long as this.
    """

    def __init__(self, root: QWidget) -> None:
        super().__init__(root)
        self._watch(root)

    def _watch(self, root: QWidget) -> None:
        for widget in (root, *root.findChildren(QWidget)):
            widget.installEventFilter(self)
            self.prepare(widget)

    def prepare(self, widget: QWidget) -> None:
        """Get a widget that is seen from now on ready; a subclass may do so."""

    def stops(self, widget: QWidget, event: QEvent) -> bool:
        """Tell whether an event ends here; a subclass says so."""
        return False

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Notice parts that are added, and ask `stops` about the rest."""
        if event is None or not isinstance(watched, QWidget):
            return False
        kind = event.type()
        if kind == QEvent.Type.ChildPolished:
            child = event.child()  # type: ignore[attr-defined]
            if isinstance(child, QWidget):
                self._watch(child)
        elif kind == QEvent.Type.ChildAdded:
            # The child may be half made. One that is added ready-made is never polished again.
            QApplication.postEvent(self, QEvent(QEvent.Type.User))
        else:
            return self.stops(watched, event)
        return False

    def event(self, event: QEvent | None) -> bool:
        """Watch the widgets that were added ready-made."""
        if event is not None and event.type() == QEvent.Type.User:
            root = self.parent()
            if isinstance(root, QWidget):
                self._watch(root)
            return True
        return super().event(event)
