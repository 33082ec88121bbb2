"""A case of a cohort that is opened: its layers follow its scan, copies are a person's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Layer
from numpy.testing import assert_allclose, assert_array_equal

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.run import BatchSettings, run_batch
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.widgets.cohort_panel.panel import BatchWidget
from napari_addm.widgets.layer_registry import is_output

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000
CORNER = (0, 0, 0)


def test_an_opened_case(
    make_brain: Callable[..., Volume], qtbot: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for n, name in enumerate(("first", "second")):
        brain = make_brain(AFFINE, SHAPE, ((25.0, -20.0, 15.0 + 3 * n, 20.0),))
        write_volume(scans / f"{name}.nii.gz", brain)
    settings = BatchSettings(
        DetectionSettings(device="cpu", precision="float32"), threshold=0.01, pictures=False
    )
    list(run_batch(find_cohort(scans, out), out, load_checkpoint(tiny_checkpoint), settings))
    viewer = ViewerModel()
    panel = BatchWidget(viewer)
    qtbot.addWidget(panel)
    panel.model.checkpoint_chooser.choose(tiny_checkpoint)
    panel.choose(str(scans), str(out))
    qtbot.waitUntil(lambda: not panel.looking, timeout=MINUTE)

    def open_case(name: str) -> None:
        panel.open_case(name)
        qtbot.waitUntil(lambda: panel.status.text() == f"{name} is open.", timeout=MINUTE)

    open_case("first")
    scan = viewer.layers["first"]
    results = [layer for layer in viewer.layers if is_output(layer)]
    assert len(results) == 3
    scan.scale = 2 * scan.scale
    for layer in results:
        assert_allclose(layer.scale, scan.scale)

    labels = viewer.layers["first anomalies"]
    copy = viewer.add_layer(Layer.create(*labels.as_layer_data_tuple()))
    copy.data = labels.data.copy()
    copy.paint(CORNER, 7)
    kept = copy.data.copy()
    labels.paint(CORNER, 9)  # on the case's own
    drawn = labels.data.copy()
    open_case("second")
    assert copy.visible  # it is not hidden with the case
    viewer.layers.remove("first reconstruction")  # so that the case is read again
    open_case("first")
    assert copy in viewer.layers
    assert_array_equal(copy.data, kept)
    assert_array_equal(viewer.layers["first anomalies, corrected"].data, drawn)
    assert sum(one.name.startswith("first anomalies") for one in viewer.layers) == 3
