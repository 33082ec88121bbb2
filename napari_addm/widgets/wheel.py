"""The mouse wheel scrolls a panel; it changes a field only where a person has put the focus."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QFocusEvent
from qtpy.QtWidgets import (
    QAbstractScrollArea,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QGraphicsView,
    QScrollBar,
    QTabBar,
    QWidget,
)

# What Qt lets a wheel change, whatever has the focus: values, tabs, and the zoom of plots.
FIELDS = (QAbstractSlider, QAbstractSpinBox, QComboBox, QGraphicsView, QTabBar)
# The focus is given back with these, and so says nothing of who wanted it.
GIVEN_BACK = (
    Qt.FocusReason.ActiveWindowFocusReason,
    Qt.FocusReason.PopupFocusReason,
    Qt.FocusReason.MenuBarFocusReason,
)


class WheelGuard(QObject):
    """Passes the wheel on to what a field lies in, unless the field has the focus.

    It holds for all fields of a widget, those that come later among them, and for the dialogs that
    the widget opens. The wheel gives no field the focus, either. The focus does not count where Qt
    has moved it by itself, because the field that had it was disabled or hidden, nor after a choice
    from the list of a combo box, until a person clicks or types there.

    Parameters
    ----------
    root : QWidget
        The guard lives as long as this.
    """

    def __init__(self, root: QWidget) -> None:
        super().__init__(root)
        self._stray: QWidget | None = None  # has the focus, and no person gave it that
        self._reason = Qt.FocusReason.OtherFocusReason
        self._watch(root)
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        application.focusChanged.connect(self._on_focus)

    def _watch(self, root: QWidget) -> None:
        for widget in (root, *root.findChildren(QWidget)):
            widget.installEventFilter(self)
            if widget.focusPolicy() == Qt.FocusPolicy.WheelFocus:
                widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Stop a wheel that would change a field; note who asks for the focus; look at the rest."""
        if event is None or not isinstance(watched, QWidget):
            return False
        kind = event.type()
        if kind == QEvent.Type.Wheel:
            field = field_of(watched)
            if field is not None and not self._has_focus(field):
                event.ignore()
                area = _area_around(field)
                if area is not None:
                    QApplication.sendEvent(area.viewport(), event)
                return True
        elif kind == QEvent.Type.ChildPolished:
            child = event.child()  # type: ignore[attr-defined]
            if isinstance(child, QWidget):
                self._watch(child)
        elif kind == QEvent.Type.ChildAdded:
            # The child may be half made. One that is added ready-made is never polished again.
            QApplication.postEvent(self, QEvent(QEvent.Type.User))
        elif kind == QEvent.Type.FocusIn:
            assert isinstance(event, QFocusEvent)
            self._reason = event.reason()
        elif kind in (QEvent.Type.MouseButtonPress, QEvent.Type.KeyPress) and watched.isVisible():
            self._stray = None
        elif kind == QEvent.Type.Hide and _is_list_of_combo(watched):
            # The pointer is still over the box, and who has chosen scrolls on.
            self._stray = watched.parentWidget()
        return False

    def event(self, event: QEvent | None) -> bool:
        """Watch the widgets that were added ready-made."""
        if event is not None and event.type() == QEvent.Type.User:
            root = self.parent()
            if isinstance(root, QWidget):
                self._watch(root)
            return True
        return super().event(event)

    def _on_focus(self, old: QWidget | None, now: QWidget | None) -> None:
        reason, self._reason = self._reason, Qt.FocusReason.OtherFocusReason
        if now is None or reason in GIVEN_BACK:
            return
        moved_on = old is not None and not (old.isEnabled() and old.isVisible())
        self._stray = now if moved_on else None

    def _has_focus(self, field: QWidget) -> bool:
        focus = QApplication.focusWidget()
        if focus is None or focus is self._stray:
            return False
        return focus is field or field.isAncestorOf(focus)


def field_of(widget: QWidget) -> QWidget | None:
    """The field that a widget is, or is a part of; of fields within each other the outermost."""
    field: QWidget | None = None
    part: QWidget | None = widget
    while part is not None and not isinstance(part, QScrollBar):
        if isinstance(part, FIELDS):
            field = part
        if part.isWindow():  # such as the list of a combo box
            break
        part = part.parentWidget()
    return field


def _is_list_of_combo(widget: QWidget) -> bool:
    return widget.isWindow() and isinstance(widget.parentWidget(), QComboBox)


def _area_around(field: QWidget) -> QAbstractScrollArea | None:
    """What scrolls a field."""
    around = field.parentWidget()
    while around is not None and not around.isWindow():
        if isinstance(around, QAbstractScrollArea):
            return around
        around = around.parentWidget()
    return None
