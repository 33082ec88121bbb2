"""The panel among napari's menus, viewers and layers of every kind."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import dask.array
import numpy as np
import pytest
from napari._app_model import get_app_model
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager
from npe2 import PluginManager
from numpy.testing import assert_allclose, assert_array_equal
from qtpy.QtCore import QPoint
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QScrollBar,
    QTabBar,
    QWidget,
)

from napari_addm.detection.settings import DetectionSettings
from napari_addm.metrics.metric import rated_metrics
from napari_addm.widgets import texts
from napari_addm.widgets.commands import open_panel
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.guide import END, PAGES
from napari_addm.widgets.viewing.planes import PLANES

MINUTE = 60_000


@pytest.fixture
def model() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(model, new_panel) -> DetectWidget:
    return new_panel(model)


# --- the look ------------------------------------------------------------------------------------


def interactive(widget: QWidget) -> list[QWidget]:
    kinds = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QAbstractItemView)
    found = [child for kind in kinds for child in widget.findChildren(kind)]
    # What Qt puts into a field (a list that drops down, a slider's number, the corner of a table,
    # the arrows of tabs) belongs to it.
    holders = [*found, *widget.findChildren(QTabBar)]
    inner = [child for holder in holders for child in holder.findChildren(QWidget)]
    return [w for w in found if w not in inner and type(w) is not QScrollBar]


def has_tip(widget: QWidget, panel: QWidget) -> bool:
    """Whether Qt would show one: the widget's own, or that of what holds it."""
    step: QWidget | None = widget
    while step is not None and step is not panel:
        if step.toolTip():
            return True
        step = step.parentWidget()
    return False


def test_everything_that_can_be_pressed_or_set_says_what_it_does(panel):
    fields = interactive(panel)
    assert len(fields) > 30
    without = [
        f"{type(w).__name__} {getattr(w, 'text', lambda: '')()!r} in {type(w.parent()).__name__}"
        for w in fields
        if not has_tip(w, panel)
    ]
    assert not without
    bars = panel.findChildren(QTabBar)
    assert all(bar.tabToolTip(n) for bar in bars for n in range(bar.count()))


def test_run_stays_in_reach_on_a_small_screen(
    make_napari_viewer, prepare, add, show_result, qtbot, scan
):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    panel = prepare(open_panel(viewer))
    window = panel.window()
    add(viewer, scan)
    show_result(panel)
    panel.notices.status.setText("A long line of words that wraps. " * 6)
    for theme in ("dark", "light"):
        viewer.theme = theme
        qtbot.wait(200)
        assert (window.width(), window.height()) == (1280, 800)
        for widget in (panel.run_button, panel.cancel_button, panel.notices.status):
            low = widget.mapTo(window, QPoint(0, widget.height()))
            assert widget.isVisible()
            assert low.y() <= window.height()
            assert low.x() + widget.width() <= window.width()
        # The rest scrolls.
        panel.scroll_area.ensureWidgetVisible(panel.saving.save_button)
        top = panel.saving.save_button.mapTo(panel, QPoint(0, 0)).y()
        assert 0 <= top <= panel.run_button.mapTo(panel, QPoint(0, 0)).y()


def test_empty_panel_offers_the_demo_and_nothing_else(model, panel, add, scan):
    shown = {title for title, section in panel.sections.items() if not section.isHidden()}
    assert shown == set()
    assert not panel.welcome.isHidden()
    assert not panel.run_button.isEnabled()
    assert "Help" in panel.notices.help_link.text()
    layer = add(model, scan)
    shown = {title for title, section in panel.sections.items() if not section.isHidden()}
    assert {"Scan", "Model", "Ground truth", "View"} <= shown
    assert panel.welcome.isHidden()
    model.layers.remove(layer)
    assert not panel.welcome.isHidden()


# --- menus ---------------------------------------------------------------------------------------


@pytest.fixture
def said():
    """What napari has told the user."""
    before = len(notification_manager.records)
    return lambda: [n.message for n in notification_manager.records[before:]]


def test_commands_of_the_menus_work_on_the_selected_layer(make_napari_viewer, said, add, scan):
    viewer = make_napari_viewer()
    menus, commands = get_app_model().menus, get_app_model().commands
    for menu, names in {
        "napari/layers/segment": ("detect", "detect_in_layer"),
        "napari/layers/measure": ("compare_with_layer",),
        "napari/file/io_utilities": ("save_results", "open_demo"),
    }.items():
        there = {item.command.id for item in menus.get_menu(menu) if hasattr(item, "command")}
        assert {f"napari-addm.{name}" for name in names} <= there

    def do(name: str) -> None:
        commands.execute_command(f"napari-addm.{name}")

    do("detect_in_layer")
    assert said() == [texts.NO_IMAGE_CHOSEN]
    first, second = (add(viewer, scan, name=name) for name in ("first", "second"))
    labels = viewer.add_layer(Labels(np.zeros(scan.shape, int), scale=first.scale, name="truth"))
    viewer.layers.selection.active = second
    do("detect_in_layer")
    (panel,) = viewer.window.dock_widgets.values()
    assert isinstance(panel, DetectWidget)
    assert panel.model.checkpoint_chooser.currentText() == "Demo (bundled)"
    assert panel.inputs.scan_chooser.currentText() == "second"
    viewer.layers.selection.active = first
    do("detect_in_layer")
    assert panel.inputs.scan_chooser.currentText() == "first"
    do("compare_with_layer")  # on an image
    assert said()[-1] == texts.NO_LABELS_CHOSEN
    viewer.layers.selection.active = labels
    do("compare_with_layer")
    assert panel.agreement.truth.chooser.currentText() == "truth"
    do("save_results")
    assert said()[-1] == texts.NO_RESULT
    do("open_demo")
    assert "demo_T1w" in viewer.layers
    assert panel.agreement.truth.chooser.currentText() == "demo_lesion"
    assert len(viewer.window.dock_widgets) == 1
    # napari's own entry toggles the very same panel.
    do("detect")
    assert len(viewer.window.dock_widgets) == 1


def test_commands_have_no_icon():
    """napari would look its name up at a server of icons."""
    manager = PluginManager.instance()
    manager.discover()
    commands = manager.get_manifest("napari-addm").contributions.commands
    assert not [command.id for command in commands if command.icon]


# --- layers --------------------------------------------------------------------------------------


def gray(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: Image(gray((2, 9, 20, 30)), name="x"), "2 frames: go to the frame you want"),
        (lambda: Image(gray((2, 3, 9, 20, 30)), name="x"), "6 frames"),
        (
            lambda: Image(gray((9, 20, 30)), units=("s", "mm", "mm"), name="x"),
            "give it units of length",
        ),
    ],
    ids=["4D", "5D", "time"],
)
def test_what_cannot_be_a_scan_is_said_when_it_is_chosen(model, panel, layer, words):
    made = layer()
    model.add_layer(made)
    assert words in panel.inputs.message.text()
    assert "layer 'x'" in panel.inputs.message.text()
    assert panel.inputs.frame_button.isHidden() == ("frames" not in words)
    model.layers.remove(made)
    assert panel.inputs.message.text() == ""


def axes_of(form: str, data: np.ndarray, scale: tuple[float, ...]) -> Image:
    """The same scan as layers of other kinds."""
    if form == "one frame":
        return Image(data[None], scale=(7, *scale), translate=(5, 0, 0, 0), name="head")
    if form == "dask":
        chunks = dask.array.from_array(data, chunks=(5, 20, -1))
        return Image(chunks, scale=scale, contrast_limits=(0, 140), name="head")
    if form == "multiscale":
        return Image([data, data[::2, ::2, ::2]], multiscale=True, scale=scale, name="head")
    return Image(data, scale=scale, name="head")


def test_other_kinds_of_layers_give_the_same_result(model, panel, run, output, scan):
    expected = None
    for form in ("plain", "one frame", "dask", "multiscale"):
        layer = axes_of(form, scan.data, scan.spacing)
        model.add_layer(layer)
        assert panel.inputs.message.text() == ""
        run(panel)
        assert panel.notices.error.text() == ""
        made = output(model, "anomaly map")
        if expected is None:
            expected = made.data.copy()
        assert_array_equal(made.data, expected, err_msg=form)
        assert_allclose(made.scale, scan.spacing)
        assert_allclose(made.extent.world, layer.extent.world[:, -3:])
        model.layers.clear()


def test_a_frame_of_several_is_taken_where_the_viewer_is(model, panel, run, scan):
    frames = dask.array.stack([scan.data * n for n in (3, 2, 1)])
    layer = Image(
        frames, scale=(2, *scan.spacing), translate=(10, 1, 2, 3), contrast_limits=(0, 140)
    )
    layer.name = "series"
    model.add_layer(layer)
    assert not panel.inputs.frame_button.isHidden()
    model.dims.set_current_step(0, 2)
    panel.inputs.frame_button.click()
    taken = model.layers["series 2"]
    assert panel.inputs.scan_chooser.currentText() == "series 2"
    assert panel.inputs.message.text() == ""
    assert_array_equal(np.asarray(taken.data), scan.data)
    assert_allclose(taken.translate, (1, 2, 3))
    model.dims.set_current_step(1, 17)
    panel.model.this_slice.setChecked(True)
    run(panel)
    assert panel.notices.error.text() == ""
    assert_array_equal(np.flatnonzero(panel.outcome.detection.done), [17])


def test_layers_renamed_and_removed_while_a_run_goes_on(
    model, panel, qtbot, finish, add, output, scan
):
    """Results stay with their scan by identity, and come to what is left."""
    layer = add(model, scan)
    other = add(model, scan, name="other")
    mask = model.add_layer(
        Labels((scan.data > 0).astype(np.uint8), scale=layer.scale, translate=layer.translate)
    )
    panel.inputs.scan_chooser.choose(layer)
    panel.inputs.brain.chooser.choose(mask)
    panel.model.batch_size.setValue(1)
    panel.model.draws.setValue(4)
    panel.run()
    qtbot.waitUntil(lambda: output(model, "anomalies") is not None, timeout=MINUTE)
    layer.name = "renamed"
    anomalies = output(model, "anomaly map")
    anomalies.name = "mine"
    model.layers.remove(mask)
    model.layers.remove(other)
    output(model, "reconstruction").data = np.zeros((4, 5, 6), np.float32)  # as a crop does
    finish(panel)
    assert panel.notices.error.text() == ""
    assert panel.outcome.layers.labels() is not None
    output(model, "anomalies").data = np.zeros((4, 5, 6), int)
    assert panel.outcome.layers.labels() is None  # so what was found is saved
    detection = panel.outcome.detection
    assert detection.done.all()
    assert_array_equal(anomalies.data, detection.anomaly.data)
    assert output(model, "reconstruction").data.shape == (4, 5, 6)  # a person's, left alone
    assert panel.inputs.scan_chooser.currentText() == "renamed"
    assert panel.inputs.brain.chooser.currentText() == "Automatic"


def test_the_scan_changed_while_a_run_goes_on(model, panel, finish, add, scan):
    """A run works on the scan as it was when Run was pressed."""
    layer = add(model, scan.with_data(scan.data.copy()))
    panel.run()
    layer.data = np.zeros_like(layer.data)
    finish(panel)
    assert panel.notices.error.text() == ""
    assert panel.outcome.detection.reconstruction.data.any()


def test_two_viewers_run_at_once(new_panel, finish, add, output, scan):
    viewers = [ViewerModel(), ViewerModel()]
    panels = [new_panel(viewer) for viewer in viewers]
    flipped = scan.with_data(np.ascontiguousarray(scan.data[:, :, ::-1]))
    for viewer, volume in zip(viewers, (scan, flipped), strict=True):
        add(viewer, volume)
    for panel in panels:
        panel.run()
    assert all(panel.running for panel in panels)
    for panel in panels:
        finish(panel)
    maps = [output(viewer, "anomaly map").data for viewer in viewers]
    for panel, viewer, found in zip(panels, viewers, maps, strict=True):
        assert panel.notices.error.text() == ""
        assert len(viewer.layers) == 4 + panel.outcome.detection.settings.draws // 2
        assert_array_equal(found, panel.outcome.detection.anomaly.data)
    assert not np.array_equal(*maps)


# --- the guide -----------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[2] / "docs" / "review.md"


def test_a_wheel_carries_the_guide() -> None:
    root = GUIDE.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for name in PAGES:
        assert shipped[f"docs/{name}"] == f"napari_addm/widgets/docs/{name}"
        shown = (GUIDE.parent / name).read_text(encoding="utf-8").partition(END)[0]
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", shown):
            assert picture.startswith("pictures/"), picture  # the folder that is shipped as well
            assert (GUIDE.parent / picture).is_file(), picture


def table_of(heading: str, text: str) -> list[str]:
    """The first cells of the rows of the first table below a heading."""
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, heading
    rows = [line for line in rest.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [row.split("|")[1].strip() for row in rows[2:]]


def test_the_guide_names_what_the_panel_has() -> None:
    labels = {
        said.label.casefold()
        for group in vars(texts).values()
        for said in (group.values() if isinstance(group, dict) else [group])
        if isinstance(said, texts.Text)
    } | {name.casefold() for name in PLANES}
    labels |= {metric.title.casefold() for metric in rated_metrics().values()}
    labels |= {str(field.title).casefold() for field in DetectionSettings.model_fields.values()}
    keys = {key.shown.split(" (")[0].casefold() for key in texts.SHORTCUTS}
    guide = GUIDE.read_text()
    written = set()
    for heading in ("The controls", "Views"):
        cells = table_of(heading, guide)
        assert len(cells) > 7
        for name in (name for cell in cells for name in re.split("[:,] ", cell)):
            said = name.casefold()
            known = said in labels | keys | {"key", "held"}
            assert known or set(said) == {"-"}, f"{heading}: {name}"
            written.add(said)
    assert keys <= written


def test_the_guide_has_a_picture_of_every_step() -> None:
    text = GUIDE.read_text()
    steps = text.partition("\n## Step by step\n")[2].split("\n## ")[0]
    each = re.split(r"(?m)^\d\. ", steps)[1:]
    assert len(each) == 8
    for step in each:
        shown = "](pictures/" in step or "picture of" in step
        assert shown, step[:40]
