"""Panels, runs and results for the tests of the GUI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from app_model import Application
from napari._qt._qapp_model.qactions import init_qactions
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.plugins import _initialize_plugins

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import Detection, Progress
from napari_addm.detection.quality import check_quality
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.detect_panel.run import ResultReady, RunRequest, RunStarted
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layer_volumes import LayerData, scan_volume
from napari_addm.widgets.layers import volume_to_layer

MINUTE = 60_000


@pytest.fixture(scope="session")
def scan_file(make_brain: Callable[..., Volume], tmp_path_factory: Any) -> Path:
    """``head.nii.gz``: a head of 29 x 39 x 33 voxels of 5 mm with a lesion."""
    affine = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
    head = make_brain(affine, (33, 39, 29), ((25.0, -20.0, 15.0, 20.0),))
    return write_volume(tmp_path_factory.mktemp("scan") / "head.nii.gz", head)


@pytest.fixture(scope="session")
def scan(scan_file: Path) -> Volume:
    """The head, read from its file."""
    return read_volume(scan_file)


@pytest.fixture(scope="module")
def window(qapp: Any) -> Iterator[napari.Viewer]:
    """One viewer with a window for all tests of a file; each leaves it as it was."""
    if not init_qactions.cache_info().currsize:
        # `make_napari_viewer` makes napari forget that its actions are registered already.
        _initialize_plugins.cache_clear()
        if Application.get_app("napari") is not None:
            Application.destroy("napari")
    made = napari.Viewer()
    made.window.resize(1200, 780)
    yield made
    made.close()


@pytest.fixture(scope="session")
def prepare(tiny_checkpoint: Path) -> Callable[..., DetectWidget]:
    """``prepare(panel)``: give it a tiny network on the CPU and a low threshold."""

    def make_ready(panel: DetectWidget, checkpoint: Path = tiny_checkpoint) -> DetectWidget:
        panel.model.checkpoint_chooser.choose(checkpoint)
        panel.model.device.setCurrentText("cpu")
        panel.model.precision.setCurrentText("float32")
        # An untrained network finds something everywhere.
        panel.findings.threshold.setValue(0.01)
        return panel

    return make_ready


@pytest.fixture
def new_panel(prepare: Callable[..., DetectWidget], qtbot: Any) -> Callable[..., DetectWidget]:
    """``new_panel(viewer)``: one that is prepared; in a viewer with a window it is docked there."""

    def make(viewer: Any) -> DetectWidget:
        panel = DetectWidget(viewer)
        if isinstance(viewer, ViewerModel) and not hasattr(viewer, "window"):
            qtbot.addWidget(panel)
        else:
            viewer.window.add_dock_widget(panel, name="detect")
        return prepare(panel)

    return make


@pytest.fixture
def finish(qtbot: Any) -> Callable[[DetectWidget], None]:
    """``finish(panel)``: wait until its run and all its other jobs are over."""

    def wait(panel: DetectWidget) -> None:
        qtbot.waitUntil(lambda: not panel.running and not panel.jobs.going, timeout=MINUTE)
        qtbot.wait(50)

    return wait


@pytest.fixture
def run(finish: Callable[[DetectWidget], None]) -> Callable[[DetectWidget], None]:
    """``run(panel)``: a run of the network, from the press of the button to the end."""

    def press(panel: DetectWidget) -> None:
        panel.run()
        assert panel.running
        finish(panel)

    return press


@pytest.fixture(scope="session")
def show_result(
    tiny_checkpoint: Path, make_detection: Callable[..., Detection]
) -> Callable[..., Detection]:
    """``show_result(panel)``: what a run on the chosen scan gives, without a network.

    The map is the scan itself, from 0 to 0.1; or it is of a detection that is given.
    """
    checkpoint = replace(load_checkpoint(tiny_checkpoint), weights={})

    def show(panel: DetectWidget, detection: Detection | None = None) -> Detection:
        layer, control = panel.inputs.scan, panel.controller
        assert layer is not None
        scan = scan_volume(LayerData.of(layer))
        if detection is None:
            data = scan.volume.data
            brain = scan.volume.with_data(data > 0)
            detection = make_detection(
                scan.volume.with_data((0.1 * data / data.max()).astype(np.float32)),
                reconstruction=scan.volume,
                brain_mask=brain,
            )
        request = RunRequest(
            scan=LayerData.of(layer),
            checkpoint=tiny_checkpoint,
            settings=panel.model.settings,
            brain_mask=panel.inputs.brain_mask,
            position=(0.0, 0.0, 0.0),
            this_slice=False,
            scan_id=layer.unique_id,
        )
        control.start(request)
        control.take_started(RunStarted(scan, checkpoint, None, None, ("cpu",)))
        slices, quality = detection.slices, None
        if slices is not None:
            quality = check_quality(slices, checkpoint.specification, detection)
        progress = Progress("finish", 1, 1, 1.0, result=detection)
        control.take_result(ResultReady(progress, None, quality))
        control.end()
        return detection

    return show


@pytest.fixture(scope="session")
def add() -> Callable[..., Layer]:
    """``add(viewer, volume, kind, name=...)``: the layer of a volume, called as its file."""

    def add_layer(viewer: Any, volume: Volume, kind: Any = "image", **options: Any) -> Layer:
        data, arguments, kind = volume_to_layer(volume, kind, **options)
        layer = (Image if kind == "image" else Labels)(data, **arguments)
        viewer.add_layer(layer)
        return layer

    return add_layer


@pytest.fixture(scope="session")
def output() -> Callable[[Any, str], Layer | None]:
    """``output(viewer, title)``: the layer of a result, if there is one."""

    def find(viewer: Any, title: str) -> Layer | None:
        found = [each for each in viewer.layers if is_output(each) and each.name.endswith(title)]
        assert len(found) <= 1
        return found[0] if found else None

    return find
