"""The mouse wheel over both panels: it scrolls them, and changes only what has the focus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QScrollArea,
    QScrollBar,
    QSpinBox,
    QTabBar,
    QWidget,
)
from superqt import QLabeledDoubleRangeSlider

from napari_addm.io.volume import Volume
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.forms import Panel, Section

KINDS = (QAbstractSlider, QAbstractSpinBox, QComboBox, QTabBar)


def turn(
    widget: QWidget,
    notches: int = -1,
    pixels: QPoint | None = None,
    keys: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
    phase: Qt.ScrollPhase = Qt.ScrollPhase.NoScrollPhase,
    sideways: bool = False,
) -> None:
    """Turn the wheel over the middle of a widget: whatever lies there is told, as by Qt."""
    window = widget.window()
    middle = widget.mapTo(window, widget.rect().center())
    under = window.childAt(middle) or widget
    degrees = QPoint(120 * notches, 0) if sideways else QPoint(0, 120 * notches)
    told: QWidget | None = under
    while told is not None:  # Qt asks the widgets around it until one takes it
        event = QWheelEvent(
            QPointF(told.mapFrom(window, middle)),
            QPointF(window.mapToGlobal(middle)),
            pixels or QPoint(),
            degrees,
            Qt.MouseButton.NoButton,
            keys,
            phase,
            False,
        )
        QApplication.sendEvent(told, event)
        told = None if event.isAccepted() or told is window else told.parentWidget()


def fields_of(panel: QWidget) -> list[Any]:
    """All fields of a panel that are on screen and can be used."""
    found = [each for kind in KINDS for each in panel.findChildren(kind)]
    return [
        each
        for each in dict.fromkeys(found)
        if not isinstance(each, QScrollBar) and each.isVisible() and each.isEnabled()
    ]


def value_of(field: Any) -> Any:
    return field.value() if hasattr(field, "value") else field.currentIndex()


def area_of(field: QWidget) -> QScrollArea | None:
    around = field.parentWidget()
    while around is not None and not isinstance(around, QScrollArea):
        around = around.parentWidget()
    return around


def bring(field: QWidget, qtbot: Any) -> Any:
    """Scroll a field into sight, with room to scroll on; gives the scroll bar, if there is one."""
    area = area_of(field)
    if area is None:
        return None
    area.ensureWidgetVisible(field, 0, area.height() // 3)
    qtbot.wait(1)
    return area.verticalScrollBar()


@pytest.fixture
def dialogs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The file dialogs that were opened; each is cancelled at once."""
    opened: list[Any] = []

    def cancelled(*args: Any, **options: Any) -> tuple[str, str]:
        opened.append(args)
        return "", ""

    monkeypatch.setattr(QFileDialog, "getOpenFileName", cancelled)
    return opened


@pytest.fixture(scope="module", params=["detect", "cohort"])
def panel(
    request: Any, window: Any, prepare: Any, scan: Volume, add: Any, show_result: Any, qapp: Any
) -> Iterator[Any]:
    """A panel in a real viewer, all of it unfolded; the one of a scan with its result."""
    window.window.set_geometry(0, 0, 1280, 700 if request.param == "detect" else 960)
    made: Any = (DetectWidget if request.param == "detect" else BatchWidget)(window)
    dock = window.window.add_dock_widget(made)
    if request.param == "detect":
        prepare(made)
        add(window, scan, name="head")
        truth = scan.with_data((scan.data > np.quantile(scan.data, 0.95)).astype(np.uint8))
        made.agreement.truth.chooser.choose(add(window, truth, "labels", name="lesion"))
        show_result(made)
        while made.jobs.going:
            qapp.processEvents()
    for section in made.findChildren(Section):
        section.expand()
    made.window().activateWindow()
    QTest.qWait(300)
    yield made
    window.window.remove_dock_widget(dock)
    made.close()
    window.layers.clear()


def test_the_panel_opens_with_no_field_focussed(panel: Any) -> None:
    focus = QApplication.focusWidget()
    assert focus is None or not isinstance(focus, KINDS)
    assert all(
        each.focusPolicy() != Qt.FocusPolicy.WheelFocus for each in panel.findChildren(QWidget)
    )


@pytest.mark.parametrize(
    "how",
    [
        {"notches": -1},
        {"notches": 3},
        {"notches": -2, "keys": Qt.KeyboardModifier.AltModifier},
        {"notches": -2, "keys": Qt.KeyboardModifier.ShiftModifier},
        {"notches": -2, "keys": Qt.KeyboardModifier.ControlModifier},
        {"notches": 2, "sideways": True},
        {"notches": -1, "pixels": QPoint(0, -90), "phase": Qt.ScrollPhase.ScrollUpdate},
    ],
    ids=["down", "up", "alt", "shift", "control", "sideways", "touchpad"],
)
def test_no_field_without_the_focus_is_changed(
    panel: Any, qtbot: Any, dialogs: list[Any], how: dict[str, Any]
) -> None:
    fields = fields_of(panel)
    assert len(fields) > (20 if isinstance(panel, DetectWidget) else 15)
    before = [value_of(field) for field in fields]
    for field in fields:
        bar = bring(field, qtbot)
        place = 0 if bar is None else bar.value()
        turn(field, **how)
        assert not any(each.hasFocus() for each in fields), field
        if bar is not None and set(how) == {"notches"}:
            room = place if how["notches"] > 0 else bar.maximum() - place
            assert bool(room) == (bar.value() != place), field
    assert [value_of(field) for field in fields] == before
    assert dialogs == []


def test_a_field_with_the_focus_follows_the_wheel(
    panel: Any, qtbot: Any, dialogs: list[Any]
) -> None:
    changed = 0
    for field in fields_of(panel):
        if isinstance(field, QTabBar) or not field.isEnabled():
            continue
        bring(field, qtbot)
        field.setFocus()
        before = value_of(field)
        for notches in (-1, 1):
            turn(field, notches)
            if value_of(field) != before:
                changed += 1
                break
        field.clearFocus()
    assert changed > 10
    assert dialogs == []  # nor does the last entry of the checkpoints open one


def test_fields_that_come_later_are_no_exception(panel: Any, qtbot: Any) -> None:
    area = panel.findChild(QScrollArea)
    layout = area.widget().layout()
    ready, nested = QDoubleSpinBox(), QWidget()
    ready.show()  # polished before it is a part of the panel
    slider = QLabeledDoubleRangeSlider(Qt.Orientation.Horizontal, nested)
    slider.setRange(0, 10)
    slider.setValue((2, 8))
    layout.insertWidget(0, ready)
    layout.insertWidget(0, nested)
    box = QSpinBox(area.widget())
    layout.insertWidget(0, box)
    nested.setMinimumSize(200, 40)
    slider.resize(200, 40)
    box.setValue(5)
    ready.setValue(5)
    qtbot.waitUntil(box.isVisible)
    qtbot.wait(50)
    for field in (box, ready, slider):
        bring(field, qtbot)
        turn(field)
    assert (box.value(), ready.value()) == (5, 5)
    assert tuple(slider.value()) == (2, 8)


def test_after_a_choice_from_its_list_a_box_scrolls_the_panel(qtbot: Any) -> None:
    """The pointer is still over it, and the focus as well."""
    panel = Panel()
    qtbot.addWidget(panel)
    box = QComboBox(panel)
    box.addItems([str(n) for n in range(5)])
    panel.resize(200, 100)
    panel.show()
    qtbot.waitExposed(panel)
    panel.activateWindow()
    box.setFocus()
    qtbot.waitUntil(box.hasFocus)
    box.showPopup()
    view = box.view()
    qtbot.waitUntil(view.isVisible)
    view.setCurrentIndex(box.model().index(2, 0))
    qtbot.keyClick(view, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not view.isVisible())
    assert box.currentIndex() == 2
    turn(box)
    assert box.currentIndex() == 2
    box.clearFocus()
    box.setFocus()
    qtbot.waitUntil(box.hasFocus)
    turn(box)
    assert box.currentIndex() == 3


@pytest.mark.parametrize("how", ["disabled", "hidden"])
def test_a_focus_that_moves_on_by_itself_does_not_count(qtbot: Any, how: str) -> None:
    """Such as when *Run* is pressed, which cannot be pressed again meanwhile."""
    panel = Panel()
    qtbot.addWidget(panel)
    first, second = QSpinBox(panel), QSpinBox(panel)
    second.move(0, 40)
    second.setValue(5)
    panel.resize(200, 100)
    panel.show()
    qtbot.waitExposed(panel)
    panel.activateWindow()
    first.setFocus()
    qtbot.waitUntil(first.hasFocus)
    if how == "disabled":
        first.setEnabled(False)
    else:
        first.hide()
    assert second.hasFocus()
    turn(second)
    assert second.value() == 5
    qtbot.mouseClick(second, Qt.MouseButton.LeftButton, pos=QPoint(5, 5))
    turn(second)
    assert second.value() == 4
