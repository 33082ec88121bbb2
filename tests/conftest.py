"""What every test may use."""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from napari_addm.io.volume import Volume, volume_from_native

if TYPE_CHECKING:
    from napari_addm.detection.pipeline import Detection

ROOT = Path(__file__).parents[1]

pytest_plugins = ["cohorts"]

# Before napari is imported, here or in another process that a test starts: the preferences of
# whoever runs the tests are neither read nor written.
PREFERENCES = tempfile.TemporaryDirectory(prefix="napari-")
os.environ["NAPARI_CONFIG"] = str(Path(PREFERENCES.name) / "settings.yaml")

# Time per example says more about a busy machine than about the code. For a long search:
# pytest --hypothesis-profile thorough
settings.register_profile("addm", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("addm")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans beside the checkout; a test that needs it is skipped without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real scans in ../shared/data, which are not here")
    return folder


BrainMaker = Callable[..., Volume]


@pytest.fixture(scope="session")
def make_brain() -> BrainMaker:
    """A skull-stripped ellipsoid of 150 x 180 x 130 mm with soft structure, on any grid.

    ``make_brain(affine, shape, lesions)`` samples the same object in the world, so that scans
    on different grids can be compared. ``lesions`` are (x, y, z, radius) in mm, a fifth darker.
    """

    def make(
        affine: np.ndarray,
        shape: tuple[int, int, int],
        lesions: tuple[tuple[float, float, float, float], ...] = (),
    ) -> Volume:
        index = np.indices(shape).reshape(3, -1)
        x, y, z = affine[:3, :3] @ index + affine[:3, 3:]
        brain = (x / 75) ** 2 + (y / 90) ** 2 + (z / 65) ** 2 < 1
        value = 100 + 30 * np.sin(x / 15) * np.cos(y / 18) * np.sin(z / 14 + 1)
        # T1: white matter lies deep, and is brighter
        value += 30 * (1 - (x / 75) ** 2 - (y / 90) ** 2 - (z / 65) ** 2)
        for cx, cy, cz, radius in lesions:
            value[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < radius**2] *= 0.8
        data = np.where(brain, value, 0).astype(np.float32).reshape(shape)
        return volume_from_native(data, affine)

    return make


@pytest.fixture(scope="session")
def known_planes() -> Iterator[None]:
    """Symmetry and regions of a scan are searched once, which is most of a small detection."""
    from napari_addm.detection import session, symmetry

    search, planes = symmetry.best_mirror_plane, dict[tuple[Any, ...], Any]()

    def look_up(image: np.ndarray, mask: np.ndarray, spacing: tuple[float, ...]) -> Any:
        key = (image.tobytes(), mask.tobytes(), image.shape, spacing)
        if key not in planes:
            planes[key] = search(image, mask, spacing)
        return planes[key]

    find, regions = session.find_regions, dict[tuple[Any, ...], Any]()

    def look_up_regions(scan: Volume, mask: np.ndarray) -> Any:
        key = (scan.data.tobytes(), scan.affine.tobytes(), mask.tobytes(), scan.shape)
        if key not in regions:
            regions[key] = find(scan, mask)
        return regions[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetry, "best_mirror_plane", look_up)
        patch.setattr(session, "find_regions", look_up_regions)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, known_planes: None) -> Path:
    """A checkpoint of an untrained, very small network on a 4 mm grid."""
    import torch

    from napari_addm.checkpoint.file import save_checkpoint
    from napari_addm.checkpoint.specification import (
        DetectionSpecification,
        DiffusionSpecification,
        ModelSpecification,
        PreparationSpecification,
        ScoreSpecification,
    )
    from napari_addm.methods.network_specifications import UNetSpecification
    from napari_addm.methods.networks import build_network

    network = UNetSpecification(
        unshuffle=4,
        channels=(8, 16),
        res_blocks=(1, 1),
        attention=(False, False),
        head_channels=8,
        norm_groups=4,
    )
    specification = ModelSpecification(
        method="addm",
        name="tiny",
        network=network,
        diffusion=DiffusionSpecification(timesteps=1000, noise="pyramid"),
        preparation=PreparationSpecification(
            spacing_mm=(6.0, 4.0, 4.0),
            size=(56, 48),
            percentiles=(1.0, 50.0, 99.0),
            landmarks=(0.05, 0.5, 0.95),
        ),
        detection=DetectionSpecification(
            level=200,
            steps=3,
            score=ScoreSpecification(kind="signed", smoothing_mm=8.0, erosion_mm=4.0),
            threshold=0.05,
            threshold_source="none, for tests",
        ),
    )
    gc.freeze()  # or every network that is let go costs a walk through all of torch and MONAI
    torch.manual_seed(0)
    weights = build_network(network).state_dict()
    # MONAI initialises the last convolution with zeros; a network that says 0 would hide faults.
    weights["unet.out.2.conv.weight"] = torch.randn_like(weights["unet.out.2.conv.weight"]) * 0.05
    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", specification, weights
    )


@pytest.fixture(scope="session")
def normed_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with healthy norms, which are the same at every place."""
    from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
    from napari_addm.checkpoint.specification import MAP_PARTS, HealthyNormSpecification
    from napari_addm.detection.healthy_norm import SHAPE, Norm, to_tensors

    norm = HealthyNormSpecification(
        share=0.5,
        smoothing_mm=6.0,
        erosion_mm=4.0,
        darker_unit=0.02,
        brighter_unit=0.02,
        brains=3,
        source="made up",
    )
    tiny = load_checkpoint(tiny_checkpoint)
    detection = tiny.specification.detection.replace(healthy_norm=norm)
    everywhere = np.full(SHAPE, 0.01, np.float32)
    norms = {name: Norm(everywhere, everywhere) for name in MAP_PARTS}
    return save_checkpoint(
        tmp_path_factory.mktemp("normed") / "normed.safetensors",
        tiny.specification.replace(detection=detection),
        tiny.weights | to_tensors(norms),
    )


DetectionMaker = Callable[..., "Detection"]


@pytest.fixture(scope="session")
def make_detection(tiny_checkpoint: Path) -> DetectionMaker:
    """``make_detection(anomaly)``: a whole result without a network, whose map is a volume.

    Keyword arguments replace fields of the detection.
    """
    from napari_addm.checkpoint.file import read_specification
    from napari_addm.detection.midline import Midline
    from napari_addm.detection.pipeline import Detection
    from napari_addm.detection.settings import DetectionSettings, resolve

    specification = read_specification(tiny_checkpoint)

    def make(anomaly: Volume, **fields: Any) -> Detection:
        whole: dict[str, Any] = {
            "anomaly": anomaly,
            "reconstruction": anomaly,
            "uncertainty": None,
            "brain_mask": anomaly.with_data(np.ones(anomaly.shape, bool)),
            "done": np.ones(anomaly.shape[0], bool),
            "seconds": {},
            "settings": resolve(DetectionSettings(), specification),
            "specification": specification,
            "device": "cpu",
            "precision": "float32",
            "threads": 2,
            "midline": Midline((1.0, 0.0, 0.0), 0.0, "symmetry"),
        }
        return Detection(**whole | fields)

    return make


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """``threads(n)``: torch computes with so many, until the test ends."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_preferences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads the preferences that another one wrote."""
    napari_settings = sys.modules.get("napari.settings")
    if napari_settings is None:  # a test without napari
        yield
        return
    napari_settings._clear_plugin_settings_cache()
    monkeypatch.setattr(napari_settings, "_CFG_PATH", str(tmp_path / "settings" / "settings.yaml"))
    yield
    napari_settings._clear_plugin_settings_cache()


@pytest.fixture(autouse=True)
def _disable_qt_warnings() -> None:
    """In place of napari's fixture, which imports all of its window for the first test."""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of one file with entry points."""

    def put(package, source, **entries):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [
            f"[napari_addm.{group}]\n{name} = {package}:{target}\n"
            for group, (name, target) in entries.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / f"{package}.py").write_text(source)

    monkeypatch.syspath_prepend(tmp_path)
    yield put
    for package in tmp_path.glob("*.py"):
        sys.modules.pop(package.stem, None)


# --- trainings: few small scans, and Lightning without its noise ---------------------------------

TRAINING_AFFINE = np.diag([3.0, 3.0, 6.0, 1.0])
TRAINING_AFFINE[:3, 3] = [-80, -95, -70]
TRAINING_SHAPE = (54, 64, 24)


@pytest.fixture(scope="session")
def healthy_scans(tmp_path_factory: pytest.TempPathFactory, make_brain: Callable[..., Any]) -> Path:
    """A folder of three skull-stripped brains of slightly different width."""
    folder = tmp_path_factory.mktemp("healthy")
    for n in range(3):
        brain = make_brain(TRAINING_AFFINE @ np.diag([1 + 0.02 * n, 1, 1, 1]), TRAINING_SHAPE)
        image = nib.Nifti1Image(brain.to_native(), brain.source.affine)
        nib.save(image, folder / f"sub-{n}_T1w.nii.gz")
    return folder


@pytest.fixture(scope="session")
def train_quietly(healthy_scans: Path) -> Callable[..., Path]:
    """``train_quietly(output, settings, callbacks=(), **run)`` trains on the healthy scans."""
    pytest.importorskip("lightning", reason="training needs Lightning, the extra train")
    from napari_addm.training.settings import RunSettings
    from napari_addm.training.train import train

    def run(output: Path, settings: Any, callbacks: Any = (), **run: Any) -> Path:
        return train(
            healthy_scans,
            output,
            settings,
            RunSettings(**run),
            callbacks=callbacks,
            accelerator="cpu",
            precision="32",
            enable_progress_bar=False,
        )

    return run
