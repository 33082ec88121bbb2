"""From an opened scan to its first finding, by real clicks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtWidgets import QWidget

from napari_addm.widgets.detect_panel.panel import DetectWidget


class Person:
    """Somebody before a window of 1280 x 800 with an open scan, whose clicks are counted."""

    def __init__(self, viewer: Any, panel: DetectWidget, qtbot: Any, finish: Any) -> None:
        self.viewer, self.panel, self.qtbot, self._finish = viewer, panel, qtbot, finish
        self.clicks = 0

    def click(self, widget: QWidget) -> None:
        self.qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)
        self.clicks += 1

    def run(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.click(self.panel.run_button)
        assert self.panel.running
        meanwhile()
        self._finish(self.panel)

    @property
    def sees_table(self) -> bool:
        area, table = self.panel.scroll_area.viewport(), self.panel.findings.table.view
        place = QRect(table.mapTo(area, QPoint(0, 0)), table.size())
        return table.isVisible() and area.rect().contains(place)

    @property
    def is_at_largest(self) -> bool:
        outcome = self.panel.outcome
        largest = outcome.marked.findings.id[outcome.marked.findings.volume_ml.argmax()]
        slice = outcome.layers.slice_at(0)[1]
        return outcome.findings.selected == largest and largest in outcome.marked.labels[slice]


@pytest.fixture
def person(
    window: Any,
    new_panel: Callable[..., DetectWidget],
    scan_file: Path,
    qtbot: Any,
    finish: Any,
) -> Iterator[Person]:
    window.window.resize(1280, 800)
    panel = new_panel(window)
    panel.model.form["regions"].value = False
    window.open(str(scan_file), plugin="napari-addm")
    window.dims.set_current_step(0, 2)
    qtbot.wait(100)
    yield Person(window, panel, qtbot, finish)
    window.window.remove_dock_widget(panel)
    window.layers.clear()


def test_one_click_from_an_open_scan_to_its_first_finding(person: Person) -> None:
    panel = person.panel
    assert not panel.sections["Model"].expanded
    person.run()
    assert person.clicks == 1
    assert person.is_at_largest
    assert person.sees_table
    found = panel.outcome.marked.findings
    status, count = panel.notices.status, panel.findings.count.text()
    assert count.startswith(f"{len(found)} finding")
    assert "\N{NO-BREAK SPACE}mL" in count
    assert status.text() in count  # it repeats no more than the number
    assert status.toolTip().endswith("on cpu, in float32.")
    assert panel.findings.table.accept_button.isEnabled()


def test_a_person_who_has_gone_elsewhere_stays_there(person: Person) -> None:
    viewer, panel = person.viewer, person.panel
    person.run(lambda: viewer.dims.set_current_step(0, 5))
    assert viewer.dims.current_step[0] == 5
    assert panel.outcome.findings.selected is None
    assert person.sees_table
    # Rejected findings are no place to begin at.
    panel.findings.table.step(1)
    first = panel.outcome.findings.selected
    panel.findings.table.reject()
    panel.model.batch_size.setValue(3)
    person.run()
    assert panel.outcome.findings.selected != first


def test_the_model_is_folded_once_and_no_more_against_a_persons_will(person: Person) -> None:
    panel = person.panel
    model, findings = panel.sections["Model"], panel.sections["Findings"]
    person.click(model.heading)
    assert model.expanded
    person.run()
    assert not model.expanded
    person.click(model.heading)
    panel.model.batch_size.setValue(3)
    person.run()
    assert model.expanded
    assert person.sees_table
    person.click(findings.heading)
    panel.model.batch_size.setValue(4)
    person.run()
    assert not findings.expanded
    person.click(findings.heading)
    person.click(model.heading)  # as it was found


def test_a_model_that_is_opened_during_a_run_stays_open(person: Person) -> None:
    model = person.panel.sections["Model"]
    person.run(lambda: person.click(model.heading))
    assert model.expanded
    person.click(model.heading)


def test_a_run_of_one_slice_says_so(person: Person) -> None:
    person.viewer.dims.set_current_step(0, 14)
    person.panel.model.this_slice.setChecked(True)
    person.panel.findings.minimum.setValue(0.0)
    person.run()
    assert person.panel.notices.status.text().startswith("This slice: ")
    assert np.flatnonzero(person.panel.outcome.detection.done).tolist() == [14]
    assert person.is_at_largest
