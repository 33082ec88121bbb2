"""The menu commands that the manifest ``napari.yaml`` names."""

from __future__ import annotations

from napari.layers import Image, Labels
from napari.utils.notifications import show_info
from napari.viewer import Viewer

from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layer_registry import is_output

# The name in napari's own menu, so that both open the same dock.
PANEL = "Detect anomalies (ADDM brain MRI anomalies)"


def open_panel(viewer: Viewer) -> DetectWidget:
    """Open the panel of a viewer, or bring it to the front."""
    for widget in viewer.window.dock_widgets.values():
        # napari wraps widgets of modules whose name begins with napari, as ours does.
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
    """Use the selected labels layer as the ground truth."""
    layer = viewer.layers.selection.active
    if not isinstance(layer, Labels) or is_output(layer):
        show_info(texts.NO_LABELS_CHOSEN)
        return
    open_panel(viewer).agreement.truth.chooser.choose(layer)


def save_results(viewer: Viewer) -> None:
    """Press the panel's button *Save*."""
    panel = open_panel(viewer)
    if why_not := panel.controller.why_not_save:
        show_info(why_not)
    else:
        panel.saving.save_button.click()


def open_demo(viewer: Viewer) -> None:
    """Open the panel with the demo case."""
    open_panel(viewer).welcome.open_demo()
