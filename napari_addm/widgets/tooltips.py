"""Tooltips that wrap. Qt shows plain words in one line, however long."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QModelIndex, QPoint, Qt
from qtpy.QtGui import QHelpEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QToolTip, QWidget

from napari_addm.widgets.parts_filter import PartsFilter, as_kind
from napari_addm.widgets.texts import wrapped

ROLE = Qt.ItemDataRole.ToolTipRole


class WrappedTips(PartsFilter):
    """Shows the tooltips of a panel, its tables and their headings in lines of readable width.

    Parameters are those of `PartsFilter`.
    """

    def stops(self, widget: QWidget, event: QEvent) -> bool:
        """Show a tooltip in place of Qt."""
        asked = as_kind(event, QHelpEvent) if event.type() == QEvent.Type.ToolTip else None
        if asked is None:
            return False
        words = _item_tip(widget, asked.pos()) or widget.toolTip()
        if words:
            QToolTip.showText(asked.globalPos(), wrapped(words), widget)
        return bool(words)


def _item_tip(viewport: QWidget, at: QPoint) -> str:
    """The tooltip of a cell, or of the heading of a column; empty for other widgets."""
    view = viewport.parentWidget()
    if not isinstance(view, QAbstractItemView) or viewport is not view.viewport():
        return ""
    model = view.model()
    if model is None:
        return ""
    if isinstance(view, QHeaderView):
        section = view.logicalIndexAt(at)
        words = model.headerData(section, view.orientation(), ROLE) if section >= 0 else None
    else:
        index: QModelIndex = view.indexAt(at)
        words = index.data(ROLE) if index.isValid() else None
    return words if isinstance(words, str) else ""
