"""The files of a case: on the scan's own grid, all or none, and what the record says."""

import csv
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError
from napari_addm.findings.findings import (
    NO_DECISIONS,
    Decision,
    Decisions,
    label_anomalies,
    measure_findings,
)
from napari_addm.io.reading import read_volume
from napari_addm.io.volume import Volume, volume_from_array, volume_from_native
from napari_addm.io.writing import write_volume
from napari_addm.metrics.metrics import evaluate
from napari_addm.outputs import case as outputs
from napari_addm.outputs.case import CaseInputs, CaseOutputs, GivenRegion, WriteOptions, write_case
from napari_addm.outputs.drawing import FINDING, TRUTH, montage, overlay_png
from napari_addm.outputs.folder import check_outputs

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]
THRESHOLD = 0.5


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def write_scan(path: Path, orientation: str = "RAS") -> Volume:
    """A small scan in any of the 48 orientations, with anisotropic voxels."""
    random = np.random.default_rng(0)
    codes = nib.orientations.axcodes2ornt(orientation)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for native, (world, flip) in enumerate(codes):
        affine[int(world), native] = flip * (1.0, 1.5, 2.0)[native]
    affine[:3, 3] = 10, -20, 30
    data = random.uniform(1, 100, (9, 11, 13)).astype(np.float32)
    write_volume(path, volume_from_native(data, affine))
    return read_volume(path)


def make_detection(volume: Volume, checkpoint: Checkpoint, draws: int = 1) -> Detection:
    """A result without a network: what is saved does not depend on how it came about."""
    random = np.random.default_rng(1)
    anomaly = random.uniform(0, 0.4, volume.shape).astype(np.float32)
    anomaly[2:5, 3:6, 2:7] += 0.5
    specification = checkpoint.specification
    return Detection(
        anomaly=volume.with_data(anomaly),
        reconstruction=volume.with_data(volume.data + 1),
        uncertainty=volume.with_data(anomaly / 10) if draws > 1 else None,
        brain_mask=volume.with_data(np.ones(volume.shape, bool)),
        done=np.ones(volume.shape[0], bool),
        seconds={"prepare": 0.1, "load": 0.2, "network": 1.0, "score": 0.3},
        settings=resolve(DetectionSettings(draws=draws), specification),
        specification=specification,
        device="cpu",
        precision="float32",
        threads=2,
        warnings=("a warning",),
    )


def save(
    folder: Path,
    volume: Volume,
    checkpoint: Checkpoint,
    *,
    draws: int = 1,
    overwrite: bool = False,
    truth: Path | None = None,
    decisions: Decisions = NO_DECISIONS,
) -> dict[str, Path]:
    detection = make_detection(volume, checkpoint, draws)
    anomaly = detection.anomaly.data
    labels = label_anomalies(anomaly, THRESHOLD, spacing=volume.spacing, minimum_ml=0.01)
    spread = detection.uncertainty.data if detection.uncertainty else None
    outputs = CaseOutputs(
        CaseInputs(volume, truth=GivenRegion(labels > 0, truth) if truth else None),
        detection,
        labels,
        measure_findings(labels, anomaly, volume, spread),
        checkpoint,
        threshold=THRESHOLD,
        minimum_ml=0.01,
        decisions=decisions,
        metrics=evaluate(anomaly, labels, threshold=THRESHOLD) if truth else None,
    )
    return write_case(outputs, folder, WriteOptions(overwrite=overwrite))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_files_lie_on_the_scan(tmp_path: Path, checkpoint: Checkpoint, orientation: str) -> None:
    volume = write_scan(tmp_path / "scan.nii.gz", orientation)
    scan = nib.load(tmp_path / "scan.nii.gz")
    assert nib.aff2axcodes(scan.affine) == tuple(orientation)
    detection = make_detection(volume, checkpoint)

    paths = save(tmp_path / "out", volume, checkpoint)

    anomaly, labels, recon = (nib.load(paths[key]) for key in ("anomaly", "labels", "recon"))
    for image in (anomaly, labels, recon):
        assert image.shape == scan.shape
        np.testing.assert_array_equal(image.affine, scan.affine)
    assert anomaly.get_data_dtype() == np.float32
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(anomaly.get_fdata(), detection.anomaly.to_native())
    np.testing.assert_array_equal(recon.get_fdata(), np.asarray(scan.dataobj) + 1)
    np.testing.assert_array_equal(labels.get_fdata() > 0, anomaly.get_fdata() > THRESHOLD)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


def test_names_and_csv(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = write_scan(tmp_path / "scan.nii.gz")
    paths = save(tmp_path / "new" / "out", volume, checkpoint, draws=2)
    assert {key: path.name for key, path in paths.items()} == {
        "anomaly": "scan_anomaly.nii.gz",
        "labels": "scan_labels.nii.gz",
        "recon": "scan_recon.nii.gz",
        "uncertainty": "scan_uncertainty.nii.gz",
        "findings": "scan_findings.csv",
        "record": "scan_record.json",
    }
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == sorted(
        path.name for path in paths.values()
    )
    with paths["findings"].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "1"
    assert float(row["volume_ml"]) == pytest.approx(45 * 3 / 1000, abs=1e-3)
    assert row["uncertainty"]


def test_record(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = write_scan(tmp_path / "scan.nii.gz", "LPS")
    paths = save(tmp_path / "out", volume, checkpoint, truth=tmp_path / "scan.nii.gz")
    text = paths["record"].read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert list(record) == [
        "schema_version",
        "created_utc",
        "input",
        "brain_mask",
        "truth",
        "checkpoint",
        "settings",
        "threshold",
        "minimum_ml",
        "device",
        "precision",
        "threads",
        "versions",
        "geometry",
        "slices_done",
        "midline",
        "warnings",
        "seconds",
        "findings",
        "labels",
        "metrics",
        "quality",
        "outputs",
    ]
    assert record["input"]["name"] == "scan.nii.gz"
    assert len(record["input"]["sha256"]) == 64
    assert record["checkpoint"]["sha256"] == checkpoint.sha256
    assert record["settings"]["steps"] == 3
    assert record["settings"]["erosion_mm"] == 4.0
    assert record["geometry"]["orientation"] == "LPS"
    assert record["geometry"]["spacing_mm"] == [1.0, 1.5, 2.0]
    assert record["geometry"]["shape"] == [9, 11, 13]
    assert record["metrics"]["dice"] == 1.0
    assert record["metrics"]["region"].startswith("brain mask")
    assert record["warnings"] == ["a warning"]


def test_decisions_are_saved(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = write_scan(tmp_path / "scan.nii.gz")
    decision = Decision("rejected", "choroid plexus")
    paths = save(tmp_path / "out", volume, checkpoint, decisions={1: decision, 2: Decision()})
    with paths["findings"].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["decision"], row["note"]) == ("rejected", "choroid plexus")
    (finding,) = json.loads(paths["record"].read_text())["findings"]
    assert (finding["decision"], finding["note"]) == ("rejected", "choroid plexus")
    # what a person rejects stays in the labels
    assert np.asarray(nib.load(paths["labels"]).dataobj).any()


def test_existing_files_are_kept(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = write_scan(tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    save(out, volume, checkpoint, draws=2)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(AddmError, match=r"scan_anomaly\.nii\.gz exists already: use --overwrite"):
        save(out, volume, checkpoint)
    assert {path: path.read_bytes() for path in out.iterdir()} == before

    save(out, volume, checkpoint, overwrite=True)
    # a map of the earlier run's draws would belong to nothing
    assert not (out / "scan_uncertainty.nii.gz").exists()
    assert len(list(out.iterdir())) == 5


def test_a_failure_leaves_nothing(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = write_scan(tmp_path / "scan.nii.gz")

    def full_disk(path: Path, volume: Volume) -> Path:
        if "recon" in path.name:
            raise AddmError(f"{path} cannot be written (No space left on device).")
        return write_volume(path, volume)

    monkeypatch.setattr(outputs, "write_volume", full_disk)
    with pytest.raises(AddmError, match="No space left"):
        save(tmp_path / "out", volume, checkpoint)
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_replaced(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = write_scan(tmp_path / "scan_labels.nii.gz")
    with pytest.raises(AddmError, match=r"scan_labels\.nii\.gz is an input"):
        check_outputs(tmp_path, "scan", overwrite=True, inputs=CaseInputs(volume).files)
    with pytest.raises(AddmError, match=r"scan_labels\.nii\.gz is an input"):
        check_outputs(tmp_path, "scan", True, [tmp_path / "scan_labels.nii.gz"])
    (tmp_path / "linked").symlink_to(tmp_path)
    with pytest.raises(AddmError, match="is an input"):
        check_outputs(tmp_path / "linked", "scan", True, CaseInputs(volume).files)


def test_check_creates_nothing(tmp_path: Path) -> None:
    check_outputs(tmp_path / "a" / "b", "scan")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(AddmError, match="cannot be written to"):
        check_outputs(tmp_path / "file" / "out", "scan")


def test_volume_without_a_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    volume = volume_from_array(np.random.default_rng(0).random((9, 11, 13), np.float32))
    paths = save(tmp_path, volume, checkpoint)
    assert paths["anomaly"].name == "volume_anomaly.nii.gz"
    entry = json.loads(paths["record"].read_text())["input"]
    assert (entry["name"], entry["sha256"]) == (None, None)
    assert len(entry["voxels_sha256"]) == 64


# --- the picture ----------------------------------------------------------------------------


def colour_places(picture: Image.Image, colour: tuple[float, float, float]) -> np.ndarray:
    """Columns and rows (x, y) of the pixels of one colour, above the legend."""
    pixels = np.asarray(picture, int)[: picture.height - 40]
    wanted = np.array([round(255 * c) for c in colour])
    y, x = np.nonzero((np.abs(pixels - wanted) <= 1).all(axis=-1))
    return np.stack([x, y], axis=-1)


def test_montage_is_radiological(tmp_path: Path) -> None:
    data = np.zeros((40, 60, 50), np.float32)
    data[4:36, 5:55, 5:45] = 100 + np.random.default_rng(0).random((32, 50, 40))
    labels = np.zeros(data.shape, np.int32)
    labels[18:22, 40:50, 8:14] = 1  # low R index: the patient's left; anterior
    truth = np.zeros(data.shape, np.int32)
    truth[18:22, 10:20, 36:42] = 1  # the patient's right; posterior
    volume = volume_from_array(data, spacing=(2.0, 1.0, 1.0))

    picture = montage(volume, labels.astype(np.float32), labels, truth, data)

    finding, lesion = colour_places(picture, FINDING), colour_places(picture, TRUTH)
    assert len(finding)
    assert len(lesion)
    assert lesion[:, 0].max() < finding[:, 0].min()
    assert finding[:, 1].max() < lesion[:, 1].min()

    path = overlay_png(tmp_path / "a.png", volume, labels.astype(np.float32), labels)
    with Image.open(path) as written:
        assert written.height < picture.height  # no row for the reconstruction


def test_montage_of_a_map_below_its_threshold_does_not_glow() -> None:
    data = np.zeros((40, 60, 50), np.float32)
    data[4:36, 5:55, 5:45] = 100 + np.random.default_rng(0).random((32, 50, 40))
    none = np.zeros(data.shape, np.int32)
    volume = volume_from_array(data, spacing=(2.0, 1.0, 1.0))
    low = np.where(data > 0, np.float32(0.1), np.float32(0))

    def colour(threshold: float | None, score: np.ndarray) -> float:
        """How far from grey the panels are, left of the bar and above the legend."""
        picture = montage(volume, score, none, threshold=threshold)
        pixels = np.asarray(picture, np.float32)[:-30, : -picture.width // 4]
        return float(np.ptp(pixels, axis=-1).mean())

    assert colour(0.5, low) == 0
    assert colour(None, low) > 10
    assert colour(0.5, 10 * low) > 10


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_montage_proportions(ratio: float) -> None:
    """A cube of brain is square in the picture, whatever the voxels are."""
    shape = (40, round(48 / ratio), 48)
    data = np.full(shape, 100, np.float32)
    data[20:] += 10
    labels = np.zeros(shape, np.int32)
    labels[20, :, :] = 1
    # air around it, so that the outline lies inside the panel
    volume = volume_from_array(np.pad(data, 4), spacing=(1.0, ratio, 1.0))
    picture = montage(volume, volume.data, np.pad(labels, 4))
    places = colour_places(picture, FINDING)
    width, height = np.ptp(places, axis=0) + 1
    assert width / height == pytest.approx(1, abs=0.1)
