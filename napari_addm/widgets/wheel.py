"""The mouse wheel scrolls a panel; it changes a field only where a person has put the focus."""

from __future__ import annotations

from qtpy.QtCore import QEvent, Qt
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

from napari_addm.widgets.parts_filter import PartsFilter, as_kind

# What Qt lets a wheel change, whatever has the focus: values, tabs, and the zoom of plots.
FIELDS = (QAbstractSlider, QAbstractSpinBox, QComboBox, QGraphicsView, QTabBar)
# The focus is given back with these, and so says nothing of who wanted it.
GIVEN_BACK = (
    Qt.FocusReason.ActiveWindowFocusReason,
    Qt.FocusReason.PopupFocusReason,
    Qt.FocusReason.MenuBarFocusReason,
)


class WheelGuard(PartsFilter):
    """Passes the wheel on to what a field lies in, unless the field has the focus.

    The wheel gives no field the focus, either. The focus does not count where Qt has moved it by
    itself, because the field that had it was disabled or hidden, nor after a choice from the list
    of a combo box, until a person clicks or types there. Parameters are those of `PartsFilter`.
    """

    def __init__(self, root: QWidget) -> None:
        super().__init__(root)
        self._stray: QWidget | None = None  # has the focus, and no person gave it that
        self._reason = Qt.FocusReason.OtherFocusReason
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        application.focusChanged.connect(self._on_focus)

    def prepare(self, widget: QWidget) -> None:
        """Let the wheel give no field the focus."""
        if widget.focusPolicy() == Qt.FocusPolicy.WheelFocus:
            widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def stops(self, widget: QWidget, event: QEvent) -> bool:
        """Stop a wheel that would change a field; note who asks for the focus."""
        kind = event.type()
        if kind == QEvent.Type.Wheel:
            field = field_of(widget)
            if field is not None and not self._has_focus(field):
                event.ignore()
                area = _area_around(field)
                if area is not None:
                    QApplication.sendEvent(area.viewport(), event)
                return True
        elif kind == QEvent.Type.FocusIn:
            focus = as_kind(event, QFocusEvent)
            self._reason = Qt.FocusReason.OtherFocusReason if focus is None else focus.reason()
        elif kind in (QEvent.Type.MouseButtonPress, QEvent.Type.KeyPress) and widget.isVisible():
            self._stray = None
        elif kind == QEvent.Type.Hide and _is_list_of_combo(widget):
            # The pointer is still over the box, and who has chosen scrolls on.
            self._stray = widget.parentWidget()
        return False

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
