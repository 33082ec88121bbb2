"""What the menus do: the commands that the manifest ``napari.yaml`` names."""

from __future__ import annotations

from napari.layers import Image, Labels
from napari.utils.notifications import show_info
from napari.viewer import Viewer

from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output

# As napari's own menu entry calls the panel, so that both mean one and the same.
PANEL = "Detect anomalies (ADDM)"


def open_panel(viewer: Viewer) -> DetectWidget:
    """The panel of a viewer, opened if it is not there and brought to the front."""
    for widget in viewer.window.dock_widgets.values():
        # napari hands plugins proxies of all whose module begins with its name: ours does
        widget = getattr(widget, "__wrapped__", widget)
        if isinstance(widget, DetectWidget):
            dock = widget.parentWidget()
            if dock is not None:
                dock.show()
                dock.raise_()
            return widget
    widget = DetectWidget(viewer)
    viewer.window.add_dock_widget(widget, name=PANEL)
    return widget


def detect_in_layer(viewer: Viewer) -> None:
    """Open the panel on the selected image layer."""
    layer = viewer.layers.selection.active
    if not isinstance(layer, Image) or is_output(layer):
        show_info(texts.NO_IMAGE_CHOSEN)
        return
    open_panel(viewer).inputs.scan_chooser.choose(layer)


def compare_with_layer(viewer: Viewer) -> None:
    """Take the selected labels layer as the ground truth."""
    layer = viewer.layers.selection.active
    if not isinstance(layer, Labels) or is_output(layer):
        show_info(texts.NO_LABELS_CHOSEN)
        return
    open_panel(viewer).agreement.truth.chooser.choose(layer)


def save_results(viewer: Viewer) -> None:
    """Ask for a folder and save the last result, as the panel's button does."""
    panel = open_panel(viewer)
    if why_not := panel.controller.why_not_save:
        show_info(why_not)
    else:
        panel.saving.save_button.click()


def open_demo(viewer: Viewer) -> None:
    """Open the panel with the demo case."""
    open_panel(viewer).welcome.open_demo()
