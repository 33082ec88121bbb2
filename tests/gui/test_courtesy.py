"""A network that pauses while a person waits for the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari_addm.widgets.viewing.turns import PersonFirst, draw_first
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QPaintEvent, QWheelEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QApplication, QLabel, QWidget

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection import courtesy
from napari_addm.detection.courtesy import come_first, give_way, go_on, make_courteous
from napari_addm.detection.lanes import LANES
from napari_addm.detection.pipeline import Progress, free_memory, run
from napari_addm.detection.settings import DetectionSettings
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.jobs import start_job
from napari_addm.widgets.layers import volume_to_layer


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    go_on()  # the last window that was closed may have had no turn to
    yield
    go_on()


@pytest.fixture
def patient(monkeypatch) -> None:
    """A pause that ends only with `go_on`."""
    monkeypatch.setattr(courtesy, "LONGEST_SECONDS", 600.0)


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def small_network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(8, 1)
    )


def test_nobody_waits_for_nobody(patient):
    give_way()  # would hang


def test_a_network_pauses_until_it_may_go_on(patient):
    network = small_network()
    image = torch.ones(1, 1, 4, 4)
    expected = network(image)
    make_courteous(network)
    results = []
    come_first()
    thread = in_thread(lambda: results.append(network(image)))
    thread.join(0.3)
    assert thread.is_alive()
    assert not results
    go_on()
    thread.join(60)
    assert torch.equal(results[0], expected)


def test_it_pauses_amid_a_call(patient):
    network = small_network()
    make_courteous(network)
    reached = threading.Event()

    def somebody_comes(*_: object) -> None:
        come_first()
        reached.set()

    network[1].register_forward_hook(somebody_comes)  # after the first layer
    thread = in_thread(lambda: network(torch.ones(1, 1, 4, 4)))
    assert reached.wait(60)
    thread.join(0.3)
    assert thread.is_alive()
    go_on()
    thread.join(60)
    assert not thread.is_alive()


def test_it_does_not_wait_for_ever_for_a_gui_that_hangs(monkeypatch):
    monkeypatch.setattr(courtesy, "LONGEST_SECONDS", 0.2)
    come_first()
    started = time.monotonic()
    come_first()  # again, which gives it no more time
    give_way()
    assert time.monotonic() - started > 0.1
    give_way()  # no longer
    thread = in_thread(lambda: [give_way() for _ in range(10_000)])
    thread.join(60)
    assert not thread.is_alive()


def pauses() -> bool:
    """Whether a network would wait now; with the patience of the fixture."""
    thread = in_thread(give_way)
    thread.join(0.2)
    return thread.is_alive()


@pytest.mark.parametrize("change", ["slice", "zoom", "pan", "turn"])
def test_what_a_person_does_in_the_viewer_comes_first_until_it_is_drawn(change, qtbot, patient):
    viewer, panel = ViewerModel(), QWidget()
    qtbot.addWidget(panel)
    viewer.add_image(np.zeros((8, 8, 8)))
    first = PersonFirst(viewer, panel)
    qtbot.wait(1)
    assert not pauses()
    if change == "slice":
        viewer.dims.set_point(0, 6)
    elif change == "zoom":
        viewer.scene.camera.zoom *= 2
    elif change == "pan":
        viewer.scene.camera.center = (0, 1, 2)
    else:
        viewer.scene.camera.angles = (10, 20, 30)
    assert pauses()
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)
    first.disconnect_viewer()
    viewer.dims.set_point(0, 2)
    assert not pauses()


@pytest.mark.parametrize("floating", [False, True])
def test_the_wheel_is_heard_before_napari_cuts_the_slice(
    floating, make_napari_viewer_proxy, qtbot, patient
):
    viewer = make_napari_viewer_proxy(show=True)
    panel = DetectWidget(viewer)
    dock = viewer.window.add_dock_widget(panel)
    dock.setFloating(floating)
    layer = viewer.add_image(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32))
    window = dock.parentWidget()
    (canvas,) = window.findChildren(QOpenGLWidget)
    qtbot.waitUntil(lambda: panel.isVisible() and canvas.isVisible(), timeout=60_000)
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)
    seen: dict[str, bool] = {}
    layer.events.set_data.connect(lambda: seen.setdefault("cut", pauses()))
    canvas.frameSwapped.connect(lambda: seen.setdefault("drawn", pauses()))
    before = viewer.dims.point[0]
    turn_wheel(window, canvas)
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    assert viewer.dims.point[0] == before + 1
    assert seen == {"cut": True, "drawn": True}
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)


def turn_wheel(window: QWidget, over: QWidget) -> None:
    """As the system tells of it."""
    middle = over.rect().center()
    event = QWheelEvent(
        QPointF(over.mapTo(window, middle)),
        QPointF(over.mapToGlobal(middle)),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.ControlModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.postEvent(window.windowHandle(), event)


class Words(QLabel):
    """A window that notes when it is drawn, and what it hears."""

    def __init__(self) -> None:
        super().__init__("before")
        self.events: list[str] = []

    def paintEvent(self, event: QPaintEvent | None) -> None:
        super().paintEvent(event)
        self.events.append("drawn")

    def hear(self, item: str) -> None:
        self.events.append(item)

    def end(self) -> None:
        self.events.append("end")


@pytest.mark.parametrize("quits", [False, True])
def test_results_are_told_when_the_window_is_drawn_and_before_the_end(quits, qtbot):
    window, go, told = Words(), threading.Event(), threading.Event()
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(lambda: "drawn" in window.events, timeout=60_000)
    qtbot.wait(200)

    def work() -> Iterator[str]:
        go.wait(60)
        yield "told"
        told.set()

    job = start_job("Wait", work, yielded=window.hear, errored=window.hear, finished=window.end)
    qtbot.waitUntil(lambda: job.is_running, timeout=60_000)
    window.events.clear()
    if quits:
        job.quit()
    go.set()
    told.wait(0.5)  # the item is there while this thread is busy, and what follows is asked for
    window.setText("after")
    qtbot.waitUntil(lambda: "end" in window.events, timeout=60_000)
    assert [event for event in window.events if event != "drawn"] == ["told", "end"]
    assert quits or window.events[0] == "drawn"


def test_who_asks_for_nothing_new_holds_nothing_up_for_long(qtbot, patient):
    draw_first()  # and no window is drawn
    assert pauses()
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)


def test_who_goes_holds_nothing_up(qtbot, patient):
    viewer, panel = ViewerModel(), QWidget()
    qtbot.addWidget(panel)
    viewer.add_image(np.zeros((8, 8, 8)))
    first = PersonFirst(viewer, panel)
    viewer.dims.set_point(0, 6)
    first.disconnect_viewer()
    assert not pauses()


def test_a_threshold_that_moves_comes_first(qtbot, patient):
    panel = DetectWidget(ViewerModel())
    qtbot.addWidget(panel)
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)  # it has set itself up
    seen = []
    panel.findings.moved.connect(lambda: seen.append(pauses()))
    panel.threshold.setValue(0.7 * panel.threshold.maximum())
    qtbot.waitUntil(lambda: bool(seen), timeout=60_000)
    assert seen[0]
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)


def test_a_detection_pauses_and_gives_the_same(tiny_checkpoint, make_brain, patient):
    scan = make_brain(np.diag([-5.0, 5.0, 5.0, 1.0]), (33, 39, 29), ((25.0, -20.0, 15.0, 20.0),))
    checkpoint = load_checkpoint(tiny_checkpoint)
    settings = DetectionSettings(device="cpu", precision="float32", batch_size=2)
    free_memory()
    expected = run(scan, checkpoint, settings)
    begun = threading.Event()
    seen = []

    def somebody_comes(progress: Progress) -> None:
        if progress.stage == "reconstruct":
            if not begun.is_set():
                come_first()
                begun.set()
            seen.append(progress.done)

    results = []
    thread = in_thread(
        lambda: results.append(run(scan, checkpoint, settings, on_progress=somebody_comes))
    )
    assert begun.wait(60)
    thread.join(0.5)
    assert thread.is_alive()
    assert len(seen) <= 1 + LANES  # what had been called by then
    go_on()
    thread.join(60)
    assert len(seen) > 10
    np.testing.assert_array_equal(results[0].anomaly.data, expected.anomaly.data)


def test_layers_that_arrive_come_first(qtbot, tiny_checkpoint, make_brain, patient):
    scan = make_brain(np.diag([-5.0, 5.0, 5.0, 1.0]), (33, 39, 29), ((25.0, -20.0, 15.0, 20.0),))
    viewer = ViewerModel()
    data, arguments, _ = volume_to_layer(scan, "image")
    viewer.add_image(data, **arguments)
    panel = DetectWidget(viewer)
    qtbot.addWidget(panel)
    panel.checkpoint_chooser.choose(tiny_checkpoint)
    panel.device.setCurrentText("cpu")
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)
    paused: dict[str, bool] = {}
    visible: dict[str, bool] = {}

    def inserted(event) -> None:
        paused.setdefault(event.value.name, pauses())
        visible.setdefault(event.value.name, event.value.visible)

    viewer.layers.events.inserted.connect(inserted)
    chosen, told = viewer.layers.selection.active, []
    viewer.layers.selection.events.connect(lambda event: told.append(event.type))
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert len(paused) >= 3
    assert all(paused.values()), paused
    assert not any(visible.values())  # each is drawn in a later turn
    # nor do the controls of each come up and go
    assert viewer.layers.selection == {chosen}
    assert told == []
    shown = {layer.name.split()[-1]: layer.visible for layer in viewer.layers}
    assert (shown["map"], shown["anomalies"], shown["reconstruction"]) == (True, True, False)
    qtbot.waitUntil(lambda: not pauses(), timeout=60_000)
