"""A viewer that is closed while the panel is busy in it."""

from __future__ import annotations

import numpy as np
from napari.layers import Image

from napari_addm.widgets.detect_panel.view import Views
from napari_addm.widgets.jobs import start_job
from napari_addm.widgets.layer_registry import remember_output


def test_closing_the_viewer_amid_comparing_is_harmless(make_napari_viewer_proxy, qtbot) -> None:
    """The fixture looks for what is left of further canvases."""
    viewer = make_napari_viewer_proxy(show=True)
    views = Views(viewer, start_job)
    viewer.window.add_dock_widget(views, name="views")
    scan = Image(np.random.default_rng(0).random((9, 9, 9)), name="scan")
    reconstruction = Image(scan.data.copy(), name="reconstruction", visible=False)
    remember_output(reconstruction, scan.unique_id, "reconstruction", scan)
    for layer in (scan, reconstruction):
        viewer.add_layer(layer)
    views.side_by_side.setChecked(True)
    views.blink_button.setChecked(True)
    assert reconstruction.visible
    viewer.close()
    qtbot.wait(50)  # what Qt was asked to delete later
