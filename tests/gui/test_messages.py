"""Alarms, cautions and notes in the panel and on the canvas, legible in both themes."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QVBoxLayout

from napari_addm.io.contrast import OTHER_SCAN
from napari_addm.io.remarks import DO_NOT_TRUST, caution, note
from napari_addm.widgets.detect_panel.messages import BANNER, BANNER_LOOK, Remarks
from napari_addm.widgets.forms import Panel
from napari_addm.widgets.tones import ALARM, LINK, TONES, LinkWords, Words


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb``, as WCAG 2 defines it."""
    values = np.array([int(color[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def hexadecimal(color: object) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in np.array(color)[:3])


def test_a_contrast_as_wcag_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.fixture
def words(window) -> Iterator[dict[str, Words]]:
    """Words in every tone, in a panel of the viewer."""
    panel = Panel()
    layout = QVBoxLayout(panel)
    made = {tone: Words(tone) for tone in (*TONES, ALARM)} | {LINK: LinkWords("Help")}
    for each in made.values():
        layout.addWidget(each)
    dock = window.window.add_dock_widget(panel)
    yield made
    window.window.remove_dock_widget(dock)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_are_legible_in_the_colors_that_they_have(window, words, theme: str) -> None:
    window.theme = "dark" if theme == "light" else "light"
    window.theme = theme
    look = get_theme(theme)
    for tone, label in words.items():
        style = label.styleSheet() + (label.text() if tone == LINK else "")
        (color,) = re.findall(r"(?<!-)color: (#\w{6}|white)", style)
        color = color.replace("white", "#ffffff")
        grounds = re.findall(r"background: (#\w{6})", style)
        for ground in grounds or (look.background.as_hex("long"), look.foreground.as_hex("long")):
            assert contrast(color, ground) >= 4.5, (tone, theme, color, ground)


def test_the_banner_on_the_canvas_is_legible() -> None:
    assert contrast("#ffffff", hexadecimal(BANNER_LOOK["box_color"])) >= 4.5


def test_notes_are_folded_and_cautions_have_their_figures(qtbot) -> None:
    remarks = Remarks()
    qtbot.addWidget(remarks)
    off = caution("It looks different.", "percentiles lie 29% beside")
    remarks.show_remarks((off, note("It is stripped."), note("It was resampled.", "2 mm")))
    remarks.show()
    assert not remarks.alarm.isVisible()
    assert [each.text() for each in remarks.cautions] == [off]
    assert remarks.cautions[0].toolTip() == "Percentiles lie 29% beside."
    assert "2 notes" in remarks.notes.heading.text()
    assert not remarks.note_words.isVisible()
    remarks.notes.heading.click()
    assert remarks.note_words.isVisible()
    assert remarks.note_words.text() == "It is stripped.\nIt was resampled. (2 mm)"
    remarks.show_remarks(())
    assert not remarks.isVisible()


def test_an_alarm_is_in_the_panel_and_on_the_canvas(new_panel, run, add, scan) -> None:
    viewer = ViewerModel()
    panel = new_panel(viewer)
    add(viewer, scan.with_data(scan.data, (OTHER_SCAN,)))
    run(panel)
    assert panel.remarks.alarm.text().splitlines()[:2] == [DO_NOT_TRUST, OTHER_SCAN]
    viewer.canvas.size = (600, 800)
    banner = viewer.canvas.overlays[BANNER]
    assert " ".join(banner.text.split()) == f"{DO_NOT_TRUST} {OTHER_SCAN}"
    viewer.canvas.size = (600, 400)  # in little room the panel alone has the reason
    assert " ".join(banner.text.split()) == DO_NOT_TRUST
    assert max(map(len, banner.text.splitlines())) < 24
    further = ViewerModel()
    end = panel.views.alarm.attach(further)
    assert " ".join(further.canvas.overlays[BANNER].text.split()) == DO_NOT_TRUST
    end()
    assert BANNER not in further.canvas.overlays
