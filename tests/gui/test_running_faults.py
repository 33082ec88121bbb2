"""What may go wrong while a run goes on, in the panel: the faults 41 to 46 of the design.

Each is brought about as it happens: the system refuses memory, the disk takes no more, another
process writes into the same folder. Where the machine has no such device, the network's door is
where torch's own error is raised.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn.modules.module import register_module_forward_pre_hook

from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
from napari_addm.detection.devices import WORKERS
from napari_addm.detection.session import Reconstructions
from napari_addm.io.reading import read_labels
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.methods.network_specifications import UNetSpecification
from napari_addm.methods.networks import PackedUNet, build_network
from napari_addm.outputs.folder import claim_outputs
from napari_addm.widgets import texts
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.jobs import Job
from napari_addm.widgets.layer_registry import is_output
from napari_addm.widgets.layers import volume_to_layer

AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
MINUTE = 60_000


@pytest.fixture(scope="module")
def scan(make_brain) -> Volume:
    return make_brain(AFFINE, SHAPE, ((25.0, -20.0, 15.0, 20.0),))


@pytest.fixture
def model() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def panel(model, tiny_checkpoint, qtbot) -> DetectWidget:
    widget = DetectWidget(model)
    qtbot.addWidget(widget)
    widget.checkpoint_chooser.choose(tiny_checkpoint)
    widget.device.setCurrentText("cpu")
    widget.precision.setCurrentText("float32")
    widget.threshold.setValue(0.01)
    return widget


def add(viewer, volume: Volume, name: str = "head") -> Image:
    data, arguments, _ = volume_to_layer(volume, name=name)
    return viewer.add_layer(Image(data.copy(), **arguments))


def output(viewer, title: str) -> Layer | None:
    return next((x for x in viewer.layers if is_output(x) and x.name.endswith(title)), None)


def finish(qtbot, panel: DetectWidget) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=2 * MINUTE)
    qtbot.waitUntil(lambda: panel._aside not in Job._worker_set, timeout=MINUTE)
    qtbot.wait(50)


def run(qtbot, panel: DetectWidget) -> None:
    panel.run()
    assert panel.running
    finish(qtbot, panel)


# --- 41: out of memory ---------------------------------------------------------------------------

# Another process, because what the system refuses it refuses to all threads of one.
SCARCE = """
import json, resource, sys
from pathlib import Path
import torch
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtWidgets import QApplication
from napari_addm.io.reading import read_volume
from napari_addm.methods.networks import PackedUNet
from napari_addm.widgets.detect_panel.panel import DetectWidget
from napari_addm.widgets.layers import volume_to_layer

torch.set_num_threads(1)  # one call at a time; how two give way to one is in test_detection.py
application = QApplication([])
data, arguments, _ = volume_to_layer(read_volume(sys.argv[1]))
viewer = ViewerModel()
panel = DetectWidget(viewer)
viewer.add_layer(Image(data, **arguments))
panel.checkpoint_chooser.choose(Path(sys.argv[2]))
panel.device.setCurrentText("cpu")
panel.precision.setCurrentText("float32")
panel.this_slice.setChecked(True)
viewer.dims.set_current_step(0, len(data) // 2)
panel.draws.setValue(64)
panel.batch_size.setValue(64)
forward, sizes, said = PackedUNet.forward, [], []


def memory(room):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + room if room is not None else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def scarce(network, image, timesteps):
    if not sizes:
        memory(40 * 2**20)
    sizes.append(len(image))
    try:
        made = forward(network, image, timesteps)
    except Exception as error:
        said.append(str(error))
        raise
    memory(None)
    return made


PackedUNet.forward = scarce
panel.run()
while panel.running:
    application.processEvents()
PackedUNet.forward = forward
print(json.dumps({
    "sizes": sizes,
    "said": said,
    "error": panel.error.text(),
    "warnings": panel.warnings.text(),
    "done": int(panel.outcome.detection.done.sum()),
    "found": float(panel.outcome.detection.anomaly.data.max()),
}))
"""


@pytest.fixture
def wide_checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """A network whose every layer takes .3 MB for each slice: 19 MB for 64 of them."""
    network = UNetSpecification(
        unshuffle=2,
        channels=(32, 32),
        res_blocks=(1, 1),
        attention=(False, False),
        head_channels=32,
        norm_groups=32,
    )
    tiny = load_checkpoint(tiny_checkpoint).specification
    specification = tiny.model_copy(
        update={
            "network": network,
            "preparation": tiny.preparation.model_copy(
                update={"spacing_mm": (6.0, 2.0, 2.0), "size": (112, 96)}
            ),
        }
    )
    torch.manual_seed(0)
    weights = build_network(network).state_dict()
    weights["unet.out.2.conv.weight"] = torch.randn_like(weights["unet.out.2.conv.weight"]) * 0.05
    return save_checkpoint(tmp_path / "wide.safetensors", specification, weights)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_41_out_of_memory_halves_the_batch_and_goes_on(tmp_path, scan, wide_checkpoint):
    """The system refuses memory to a batch of 64; a smaller one fits, and the run ends well."""
    script = tmp_path / "scarce.py"
    script.write_text(SCARCE)
    head = write_volume(tmp_path / "head.nii.gz", scan)
    done = subprocess.run(
        [sys.executable, script, head, wide_checkpoint],
        env=os.environ | {"NAPARI_CONFIG": str(tmp_path / "own" / "settings.yaml")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout.splitlines()[-1])
    assert saw["said"], "the system gave the memory after all"
    assert saw["error"] == ""
    assert "out of memory at 64 slices at once: went on with 32" in saw["warnings"]
    # each failure halves, and what fits is kept to
    failures = len(saw["said"])
    assert saw["sizes"][:failures] == [64 >> n for n in range(failures)]
    assert set(saw["sizes"][failures:]) == {64 >> failures}
    assert saw["done"] == 1
    assert saw["found"] > 0


def test_41_no_memory_at_all_is_said_and_the_panel_goes_on(model, panel, qtbot, scan, monkeypatch):
    add(model, scan)
    forward = PackedUNet.forward

    def none(self, image, timesteps):
        torch.empty(2**60)  # more than any machine has: the real refusal

    monkeypatch.setattr(PackedUNet, "forward", none)
    run(qtbot, panel)
    assert panel.error.text().startswith("Out of memory with a single slice")
    assert panel.run_button.isEnabled()
    monkeypatch.setattr(PackedUNet, "forward", forward)
    run(qtbot, panel)
    assert panel.error.text() == ""
    assert panel.outcome.detection.done.all()


def test_41_memory_for_the_maps_is_said_in_words(model, panel, qtbot, scan):
    """A thousand draws of a scan do not fit; that is no bug of ours."""
    add(model, scan)
    panel.draws.setMaximum(10**9)
    panel.draws.setValue(10**9)
    run(qtbot, panel)
    assert panel.error.text() == texts.OUT_OF_MEMORY
    assert panel.details.isHidden()
    panel.draws.setValue(1)
    run(qtbot, panel)
    assert panel.error.text() == ""
    assert panel.outcome.detection.done.all()


# --- 42: an operation that a device lacks --------------------------------------------------------


def test_42_what_mps_cannot_do_goes_on_on_the_cpu(model, panel, qtbot, scan, monkeypatch):
    """On a machine that says it has MPS, an operation raises what torch raises there."""
    add(model, scan)
    on: list[str] = []
    module_to, tensor_to, forward = torch.nn.Module.to, torch.Tensor.to, PackedUNet.forward

    def stay(original):
        def to(self, *args, **options):
            # this machine has no such memory: tensors stay where they are
            return original(self, *(arg for arg in args if "mps" not in str(arg)), **options)

        return to

    def put(self, *args, **options):
        on.extend(str(arg) for arg in args if isinstance(arg, torch.device))
        return stay(module_to)(self, *args, **options)

    def unsupported(self, image, timesteps):
        if on[-1] == "mps":
            torch.zeros(1, device="mps")  # NotImplementedError, where there is none
        return forward(self, image, timesteps)

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", put)
    monkeypatch.setattr(torch.Tensor, "to", stay(tensor_to))
    monkeypatch.setattr(PackedUNet, "forward", unsupported)
    panel.device.setCurrentText("auto")
    run(qtbot, panel)
    assert panel.error.text() == ""
    assert on == ["mps", "cpu"]
    assert "an operation is not supported on mps: went on on the CPU" in panel.warnings.text()
    assert panel.outcome.detection.device == "cpu"
    assert panel.outcome.detection.done.all()
    assert "on cpu" in panel.status.text()
    assert "mps" in [panel.device.itemText(n) for n in range(panel.device.count())]


# --- 43: a full disk -----------------------------------------------------------------------------


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="the limit on files is Unix's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_43_a_full_disk_leaves_no_partial_file(model, panel, qtbot, scan, tmp_path):
    add(model, scan)
    run(qtbot, panel)
    out = tmp_path / "out"
    with full_disk(4096):
        panel.save(out)
        finish(qtbot, panel)
    assert panel.error.text().startswith(f"{out} cannot be written to")
    assert "free some space" in panel.error.text()
    assert panel.details.isHidden()
    assert not out.exists() or not list(out.iterdir())
    panel.save(out)  # there is room again, and nothing was lost
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert_array_equal(
        read_labels(out / "head_labels.nii.gz").data, output(model, "anomalies").data
    )


def test_43_a_full_disk_keeps_what_an_earlier_run_saved(model, panel, qtbot, scan, tmp_path):
    add(model, scan)
    run(qtbot, panel)
    out = tmp_path / "out"
    panel.save(out)
    finish(qtbot, panel)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 5
    panel.threshold.setValue(0.02)
    qtbot.wait(100)
    with full_disk(4096):
        panel.saving.save(out, overwrite=True)
        finish(qtbot, panel)
    assert "free some space" in panel.error.text()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# --- 44: cancel ----------------------------------------------------------------------------------


@contextmanager
def held_within(call: int) -> Iterator[tuple[list[int], Event, Event]]:
    """The network waits in one of its calls: its calls, what tells of it, what lets it go on."""
    begun, go, calls = Event(), Event(), []

    def wait(module, inputs):
        if isinstance(module, PackedUNet):
            calls.append(len(inputs[0]))
            if len(calls) == call:
                begun.set()
                assert go.wait(60)

    with_hook = register_module_forward_pre_hook(wait)
    try:
        yield calls, begun, go
    finally:
        go.set()
        with_hook.remove()


def cancel_within(qtbot, panel: DetectWidget, call: int) -> list[int]:
    """Run, and cancel while the network is in one of its calls; all its calls."""
    with held_within(call) as (calls, begun, go):
        panel.run()
        qtbot.waitUntil(begun.is_set, timeout=MINUTE)
        panel.cancel()
        go.set()
        finish(qtbot, panel)
    return calls


def finished_slices(panel: DetectWidget) -> np.ndarray:
    """The slices of the scan that the panel's session holds all of, shape (S,)."""
    held = panel.session._kept.values()
    (kept,) = (each for each in held if isinstance(each, Reconstructions))
    return panel.outcome.detection.slices.finished_native_slices(kept.finished.all(axis=0))


def assert_all_finished_is_shown(model, panel: DetectWidget) -> None:
    detection = panel.outcome.detection
    done = detection.done
    assert_array_equal(done, finished_slices(panel))
    assert 0 < done.sum() < len(done)
    assert panel.status.text().startswith("Cancelled after")
    brain = detection.slices.reconstructed
    words = f"; {(done & brain).sum()} of {brain.sum()} slices are done"
    assert panel.status.text().endswith(words)
    shown = output(model, "reconstruction").data
    assert shown[done & brain].any(axis=(1, 2)).all()
    assert_array_equal(shown, detection.reconstruction.data)
    assert_array_equal(output(model, "anomaly map").data, detection.anomaly.data)
    assert_array_equal(output(model, "anomalies").data, panel.outcome.marked.labels)


def test_44_cancel_comes_within_one_step_and_keeps_what_is_done(
    model, panel, qtbot, scan, monkeypatch
):
    """All that is finished is shown, however long ago the last partial result was."""
    monkeypatch.setattr(
        "napari_addm.detection.pipeline.PARTIAL_SECONDS", 1e9
    )  # only the first comes
    add(model, scan)
    panel.batch_size.setValue(1)
    panel.steps.setValue(panel.steps.maximum())
    steps, slices = panel.steps.value(), 8
    assert steps > 3
    lanes = min(WORKERS, torch.get_num_threads())
    partial = 0
    for _ in range(2):  # a run that begins, and one that goes on
        calls = cancel_within(qtbot, panel, slices * steps + 1)
        # The step that was on its way, and no other. The lane beside it goes one ahead, no more.
        assert slices * steps + 1 <= len(calls) <= slices * steps + 1 + 2 * (lanes - 1)
        assert_all_finished_is_shown(model, panel)
        assert panel.outcome.detection.done.sum() > partial
        partial = panel.outcome.detection.done.sum()


def test_44_a_run_that_would_go_on_shows_what_is_there_when_it_is_cancelled(
    model, panel, qtbot, scan
):
    """Before its first call, too: what the run before has finished is not taken away."""
    add(model, scan)
    panel.batch_size.setValue(1)
    cancel_within(qtbot, panel, 20)
    assert_all_finished_is_shown(model, panel)
    done = panel.outcome.detection.done
    cancel_within(qtbot, panel, 1)
    assert_all_finished_is_shown(model, panel)
    assert panel.outcome.detection.done[done].all()


def test_44_nothing_is_scored_for_a_scan_that_is_gone(model, panel, qtbot, scan, monkeypatch):
    monkeypatch.setattr("napari_addm.detection.pipeline.PARTIAL_SECONDS", 1e9)
    layer = add(model, scan)
    panel.batch_size.setValue(1)
    with held_within(20) as (calls, begun, go):
        panel.run()
        qtbot.waitUntil(begun.is_set, timeout=MINUTE)
        qtbot.waitUntil(lambda: panel.outcome.detection is not None, timeout=MINUTE)
        qtbot.wait(100)
        before = panel.outcome.detection
        model.layers.remove(layer)
        go.set()
        finish(qtbot, panel)
    assert len(calls) <= 20 + 2 * (min(WORKERS, torch.get_num_threads()) - 1)
    assert panel.outcome.detection is before
    assert finished_slices(panel).sum() > before.done.sum()


# --- 45: layers that go or change ----------------------------------------------------------------


def test_45_another_scan_of_that_name_gets_nothing(model, panel, qtbot, scan):
    """A scan is deleted mid-run and another one of its name is opened: it is another scan."""
    layer = add(model, scan)
    panel.batch_size.setValue(1)
    panel.draws.setValue(4)
    panel.run()
    qtbot.waitUntil(
        lambda: panel.outcome is not None and panel.outcome.detection is not None, timeout=MINUTE
    )
    model.layers.remove(layer)
    other = add(model, scan.with_data(scan.data[:, :, ::-1].copy()))
    assert other.name == layer.name
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert not panel.outcome.detection.done.all()
    first = output(model, "anomaly map").data.copy()
    run(qtbot, panel)
    assert panel.outcome.layers.scan_layer is other
    maps = [one for one in model.layers if is_output(one) and "anomaly map" in one.name]
    assert len(maps) == 2  # each scan has its own
    assert_array_equal(maps[0].data, first)
    assert_array_equal(maps[1].data, panel.outcome.detection.anomaly.data)


@pytest.mark.parametrize("gone", ["reconstruction", "anomaly map", "anomalies", "truth", "mask"])
def test_45_any_other_layer_may_go(model, panel, qtbot, scan, gone):
    layer = add(model, scan)
    place = {"scale": layer.scale, "translate": layer.translate}
    layers = {
        name: model.add_layer(Labels((scan.data > level).astype(np.uint8), name=name, **place))
        for name, level in (("mask", 0), ("truth", 130))
    }
    panel.mask_chooser.choose(layers["mask"])
    panel.truth_chooser.choose(layers["truth"])
    panel.batch_size.setValue(1)
    panel.draws.setValue(2)
    panel.run()
    qtbot.waitUntil(lambda: output(model, "anomalies") is not None, timeout=MINUTE)
    model.layers.remove(layers.get(gone) or output(model, gone))
    finish(qtbot, panel)
    assert panel.error.text() == ""
    detection = panel.outcome.detection
    assert detection.done.all()
    assert (panel.outcome.agreement is None) == (gone == "truth")
    for title, expected in (
        ("reconstruction", detection.reconstruction.data),
        ("anomaly map", detection.anomaly.data),
        ("anomalies", panel.outcome.marked.labels),
    ):
        if title == gone:
            assert output(model, title) is None
        else:
            assert_array_equal(output(model, title).data, expected)


# --- 46: two runs at one output ------------------------------------------------------------------

HOLD = """
import sys
from napari_addm.outputs.folder import claim_outputs
with claim_outputs(sys.argv[1], "head"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_46_another_process_writes_there(model, panel, qtbot, scan, tmp_path):
    add(model, scan)
    run(qtbot, panel)
    out = tmp_path / "out"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        panel.save(out)
        finish(qtbot, panel)
        assert panel.error.text().startswith("Another run is writing the files of head")
        assert not [path for path in out.iterdir() if not path.name.startswith(".")]
    finally:
        other.communicate("\n", timeout=60)
    assert other.returncode == 0
    panel.save(out)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert (out / "head_record.json").is_file()


def test_46_a_killed_process_holds_nothing(model, panel, qtbot, scan, tmp_path):
    add(model, scan)
    run(qtbot, panel)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    other.kill()
    other.communicate()
    panel.save(tmp_path)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    assert (tmp_path / "head_record.json").is_file()


def test_46_two_panels_save_one_case_at_once(model, panel, qtbot, scan, tmp_path, tiny_checkpoint):
    """One of the two says so and writes nothing; the files are all of the other."""
    add(model, scan)
    run(qtbot, panel)
    with claim_outputs(tmp_path, "head"):  # this thread is one of the two
        panel.save(tmp_path)
        finish(qtbot, panel)
        assert panel.error.text().startswith("Another run is writing the files of head")
    panel.save(tmp_path)
    finish(qtbot, panel)
    assert panel.error.text() == ""
    labels = read_labels(tmp_path / "head_labels.nii.gz")
    assert_allclose(labels.data, output(model, "anomalies").data)


# --- layers that a run cannot use ----------------------------------------------------------------


def test_a_layer_without_a_file_is_called_by_its_name(model, panel, qtbot):
    model.add_image(np.random.default_rng(0).random((4, 4, 4)), name="tiny")
    run(qtbot, panel)
    assert panel.error.text().startswith("tiny: no slice holds")
    model.layers["tiny"].name = "small"
    run(qtbot, panel)
    assert panel.error.text().startswith("small: no slice holds")


def test_an_empty_brain_mask_is_called_by_its_name(model, panel, qtbot, scan):
    head = add(model, scan)
    empty = np.zeros(head.data.shape, np.uint8)
    mask = model.add_layer(
        Labels(empty, name="nothing", scale=head.scale, translate=head.translate)
    )
    panel.mask_chooser.choose(mask)
    run(qtbot, panel)
    assert panel.error.text() == (
        "layer 'nothing' is empty, so it marks no brain: paint the brain in it, or choose another "
        "brain mask or 'Automatic'."
    )
    mask.data = (head.data > 0).astype(np.uint8)
    run(qtbot, panel)
    assert panel.error.text() == ""


def shifted(model, head: Image, name: str, by: tuple[float, float, float]) -> Labels:
    """Labels of all of a head, so many mm beside it."""
    labels = (head.data > 0).astype(np.uint8)
    place = head.translate + np.array(by)
    return model.add_layer(Labels(labels, name=name, scale=head.scale, translate=place))


@pytest.mark.parametrize("role", ["brain mask", "ground truth"])
def test_labels_beside_the_scan_are_refused(model, panel, qtbot, scan, role):
    head = add(model, scan)
    far = shifted(model, head, "far", (0, 0, 1000))
    choice = panel.inputs.brain if role == "brain mask" else panel.agreement.truth
    choice.chooser.choose(far)
    choice.resample_button.click()
    finish(qtbot, panel)
    assert panel.error.text().startswith("layer 'far' lies beside the scan, its nearest labelled")
    assert list(model.layers) == [head, far]
    assert choice.resample_button.isEnabled()


def test_what_a_resampled_mask_left_out_is_told_with_the_result(model, panel, qtbot, scan):
    head = add(model, scan)
    part = shifted(model, head, "part", (60, 0, 0))
    panel.mask_chooser.choose(part)
    panel.inputs.brain.resample_button.click()
    finish(qtbot, panel)
    assert panel.mask_chooser.currentText() == "part on head"
    panel.this_slice.setChecked(True)
    model.dims.set_current_step(0, len(head.data) - 8)
    run(qtbot, panel)
    assert panel.error.text() == ""
    beyond = np.count_nonzero(part.data[-12:]) / 8  # 5 mm each way, in mL
    words = f"The brain mask: {beyond:.0f} of its {np.count_nonzero(part.data) / 8:.0f} mL lie"
    assert words in panel.warnings.text()
