"""Words and colour bars on a canvas, and layers that come without their overlays."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
from napari._vispy.overlays.base import VispyCanvasOverlay
from napari.components.overlays import TextOverlay
from napari.layers import Image, Labels

from napari_addm.widgets.viewing.overlays import (
    CanvasText,
    bring_color_bar,
    hold_overlays,
    set_color_bar,
)


def settle(viewer, qtbot, ms: int = 50) -> None:
    """Wait for as long as the window still gives its canvas other sizes."""
    size = None
    while viewer.canvas.size != size:
        size = viewer.canvas.size
        qtbot.wait(ms)


def change(viewer, overlay: TextOverlay, what: str) -> None:
    """Anything that napari's own overlay of words answers to."""
    if what == "layer":
        viewer.add_labels(np.zeros((8, 8), np.uint8))
    elif what == "words":
        overlay.text = "longer than before"
    elif what == "place":
        overlay.position = "bottom_right"
    elif what == "theme":
        viewer.theme = "light"
    elif what == "box":
        overlay.box = False
    elif what == "box color":
        overlay.box_color = (0.0, 0.0, 0.5, 0.5)
    elif what == "size":
        overlay.font_size = 20
    elif what == "padding":
        viewer.canvas.overlay_tiling.padding = (20, 12)
    elif what == "hidden":
        overlay.visible = False
    elif what == "shown":
        overlay.visible = True
    elif what == "smaller":
        viewer.window.resize(700, 500)


CHANGES = (
    "layer",
    "words",
    "place",
    "padding",
    "hidden",
    "layer",
    "shown",
    "theme",
    "box color",
    "size",
    "smaller",
    "box",
)


def test_words_look_as_napari_s_own(make_napari_viewer_proxy, qtbot):
    pictures: dict[type, list[np.ndarray]] = {}
    for kind in (TextOverlay, CanvasText):
        viewer = make_napari_viewer_proxy(show=True)
        viewer.window.resize(900, 600)
        viewer.add_image(np.random.default_rng(0).random((8, 8)))
        overlay = kind(text="words", position="top_left", visible=True)
        viewer.canvas.overlays["words"] = overlay
        pictures[kind] = []
        settle(viewer, qtbot, 300)
        for what in CHANGES:
            change(viewer, overlay, what)
            settle(viewer, qtbot)
            viewer.reset_view()
            pictures[kind].append(viewer.screenshot(flash=False))
    for what, own, ours in zip(CHANGES, pictures[TextOverlay], pictures[CanvasText], strict=True):
        np.testing.assert_array_equal(ours, own, what)
    seen = [
        what
        for what, (one, other) in zip(CHANGES[1:], pairwise(pictures[CanvasText]), strict=True)
        if one.shape != other.shape or (one != other).any()
    ]
    assert set(seen) == set(CHANGES) - {"layer"}


def test_a_layer_leaves_the_box_of_words_as_it_is(make_napari_viewer_proxy, qtbot, monkeypatch):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.add_image(np.zeros((8, 8)))
    set_up: list[str] = []
    whole = VispyCanvasOverlay._on_box_change

    def counted(self: VispyCanvasOverlay) -> None:
        set_up.append(self.overlay.text)
        whole(self)

    monkeypatch.setattr(VispyCanvasOverlay, "_on_box_change", counted)
    for kind in (TextOverlay, CanvasText):
        viewer.canvas.overlays[kind.__name__] = kind(text=kind.__name__, visible=True)
    qtbot.wait(50)
    assert "CanvasText" in set_up
    set_up.clear()
    viewer.add_labels(np.zeros((8, 8), np.uint8))
    qtbot.wait(50)
    assert set(set_up) == {"TextOverlay"}


def slope(name: str) -> Image:
    return Image(np.linspace(0, 3, 64).reshape(8, 8), name=name, colormap="magma")


def seen(viewer, qtbot) -> np.ndarray:
    qtbot.wait(50)
    viewer.reset_view()
    return viewer.screenshot(size=(400, 400), flash=False)


def test_a_color_bar_comes_part_by_part_and_looks_as_napari_s_own(make_napari_viewer_proxy, qtbot):
    viewer = make_napari_viewer_proxy(show=True)
    layer = viewer.add_layer(slope("napari's own"))
    layer.colorbar.size, layer.colorbar.font_size = (14, 110), 8
    layer.colorbar.visible = True
    own = seen(viewer, qtbot)
    viewer.layers.clear()
    layer = slope("ours")
    set_color_bar(layer)
    layer = viewer.add_layer(layer)
    bringing = bring_color_bar(layer, viewer.layers, size=(14, 110), font_size=8)
    pictures = [seen(viewer, qtbot) for _ in bringing]
    pictures.append(seen(viewer, qtbot))
    np.testing.assert_array_equal(pictures[-1], own)
    new = [int((one != other).any(axis=-1).sum()) for one, other in pairwise(pictures)]
    # set up, and nothing is drawn; then the colours; the axis has no width; last the box
    assert [count > 0 for count in new] == [False, True, True, False, True, True, True]
    assert new[1] > 14 * 110 / 2

    layer.colormap = "viridis"
    assert (seen(viewer, qtbot) != own).any()
    layer.colorbar.visible = False
    without = seen(viewer, qtbot)
    layer.colorbar.visible, layer.colormap = True, "magma"
    np.testing.assert_array_equal(seen(viewer, qtbot), own)
    assert (without != own).any()


def test_a_bar_of_napari_s_own_comes_at_once(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy()
    layer = viewer.add_layer(slope("a duplicate"))
    for _ in bring_color_bar(layer, viewer.layers, font_size=8):
        assert not layer.colorbar.visible
    assert layer.colorbar.visible
    assert layer.colorbar.font_size == 8


@pytest.mark.parametrize("steps", range(8))
def test_a_layer_that_has_gone_gets_no_color_bar(steps, make_napari_viewer_proxy, qtbot):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.add_layer(slope("stays"))
    before = seen(viewer, qtbot)
    layer = slope("goes")
    set_color_bar(layer)
    viewer.add_layer(layer)
    bringing = bring_color_bar(layer, viewer.layers)
    for _ in range(steps):
        next(bringing, None)
    viewer.layers.remove(layer)
    for _ in bringing:
        pass
    np.testing.assert_array_equal(seen(viewer, qtbot), before)
    gone = weakref.ref(layer)
    del layer, bringing
    qtbot.wait(50)
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_layer_s_own_overlays_come_when_they_are_asked_to(when, make_napari_viewer_proxy, qtbot):
    """And then the tools that need them work, whenever that is."""
    viewer = make_napari_viewer_proxy(show=True)
    viewer.add_image(np.zeros((40, 40)))
    layer = Labels(np.zeros((40, 40), np.uint8))
    others = {name: overlay.visible for name, overlay in layer._overlays.items()}
    bring = hold_overlays(layer, viewer.layers)
    viewer.add_layer(layer)
    held = {name for name, overlay in layer._overlays.items() if not overlay.visible}
    assert held > {name for name, visible in others.items() if not visible}
    if when == "before":
        assert sum(1 for _ in bring) == sum(others.values())
    layer.mode = "polygon"
    layer.selected_label = 3
    if when == "after":
        for _ in bring:
            pass
    assert {name: overlay.visible for name, overlay in layer._overlays.items()} == others
    polygon = layer._overlays["polygon"]
    polygon.enabled = True
    polygon.points = [[5, 5], [5, 30], [30, 30], [30, 5]]
    polygon.add_polygon_to_labels(layer)
    assert (layer.data[10:25, 10:25] == 3).all()
    assert not layer.data[35:, 35:].any()


def test_a_layer_that_has_gone_meanwhile_stays_gone(make_napari_viewer_proxy, qtbot):
    viewer = make_napari_viewer_proxy(show=True)
    layer = Labels(np.zeros((8, 8), np.uint8))
    bring = hold_overlays(layer, viewer.layers)
    viewer.add_layer(layer)
    viewer.layers.remove(layer)
    assert list(bring) == []
    gone = weakref.ref(layer)
    del layer, bring
    qtbot.wait(50)
    gc.collect()
    assert gone() is None
