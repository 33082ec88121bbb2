"""Scans, results and cases that the tests of the outputs share; no network runs for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint
from napari_addm.detection.pipeline import Detection
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.findings.computed import computed_labels
from napari_addm.findings.findings import measure_findings
from napari_addm.io.volume import Volume, volume_from_array, volume_from_native
from napari_addm.io.writing import write_volume
from napari_addm.outputs.contents import CaseInputs, CaseOutputs

SHAPE = (60, 90, 80)
BRAIN_AFFINE = nib.affines.from_matvec(np.diag([-4.0, 4.0, 5.0]), (82, -98, -72))
BRAIN_SHAPE = (42, 50, 30)

CaseMaker = Callable[..., CaseOutputs]


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="session")
def make_detection(checkpoint: Checkpoint) -> Callable[..., Detection]:
    """``make_detection(scan, draws)``: one finding of 5 x 3 x 3 voxels, without a network."""

    def make(scan: Volume, draws: int = 1) -> Detection:
        anomaly = np.random.default_rng(1).uniform(0, 0.4, scan.shape).astype(np.float32)
        anomaly[2:5, 3:6, 2:7] += 0.5
        return Detection(
            anomaly=scan.with_data(anomaly),
            reconstruction=scan.with_data(scan.data + 1),
            uncertainty=scan.with_data(anomaly / 10) if draws > 1 else None,
            brain_mask=scan.with_data(np.ones(scan.shape, bool)),
            done=np.ones(scan.shape[0], bool),
            seconds={"prepare": 0.1, "load": 0.2, "network": 1.0, "score": 0.3},
            settings=resolve(DetectionSettings(draws=draws), checkpoint.specification),
            specification=checkpoint.specification,
            device="cpu",
            precision="float32",
            threads=2,
            warnings=("a warning",),
        )

    return make


@pytest.fixture(scope="session")
def make_case(checkpoint: Checkpoint, make_detection: Callable[..., Detection]) -> CaseMaker:
    """``make_case(scan, draws, edit)``: its outputs; a person changed the first `edit` voxels."""

    def make(scan: Volume, draws: int = 1, edit: int = 0, **more: Any) -> CaseOutputs:
        detection = make_detection(scan, draws)
        labels = computed_labels(detection, 0.5, 0.01)
        labels[0, 0, :edit] = 7
        spread = None if detection.uncertainty is None else detection.uncertainty.data
        findings = measure_findings(labels, detection.anomaly.data, scan, spread)
        given = {"inputs": CaseInputs(scan), "threshold": 0.5, "minimum_ml": 0.01} | more
        return CaseOutputs(
            detection=detection, labels=labels, findings=findings, checkpoint=checkpoint, **given
        )

    return make


@pytest.fixture
def write_scan(tmp_path: Path) -> Callable[..., Path]:
    """``write_scan(name, orientation, text)``: a small scan; `text` stands in its header."""

    def write(name: str = "scan.nii.gz", orientation: str = "LAS", text: str = "") -> Path:
        affine = np.zeros((4, 4))
        affine[3] = 0, 0, 0, 1
        for native, (world, flip) in enumerate(nib.orientations.axcodes2ornt(orientation)):
            affine[int(world), native] = flip * (1.0, 1.5, 2.0)[native]
        affine[:3, 3] = 10, -20, 30
        data = np.random.default_rng(0).uniform(1, 100, (9, 11, 13)).astype(np.float32)
        image = nib.Nifti1Image(data, affine)
        image.header["descrip"] = image.header["db_name"] = text
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return write


@pytest.fixture(scope="session")
def brain_folder(tmp_path_factory: pytest.TempPathFactory, make_brain: Any, tiny_checkpoint: Path):
    """A folder with the files of a brain: scan, mask, truth and model."""
    folder = tmp_path_factory.mktemp("brain")
    brain = make_brain(BRAIN_AFFINE, BRAIN_SHAPE, ((25.0, 0.0, 5.0, 14.0),))
    write_volume(folder / "scan.nii.gz", brain)
    truth = np.zeros(BRAIN_SHAPE, np.uint8)
    truth[12:17, 22:28, 12:18] = 1
    write_volume(folder / "truth.nii.gz", volume_from_native(truth, BRAIN_AFFINE))
    mask = (brain.to_native() > 0).astype(np.uint8)
    mask[:, :8] = mask[:, :, :9] = mask[:, :, 21:] = 0
    write_volume(folder / "mask.nii.gz", volume_from_native(mask, BRAIN_AFFINE))
    shutil.copy(tiny_checkpoint, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def picture_scan() -> Volume:
    """A block of 100 x 70 x 80 mm that is brighter than the air around it."""
    data = np.zeros(SHAPE, np.float32)
    data[5:55, 10:80, 8:72] = 100 + np.random.default_rng(0).random((50, 70, 64))
    return volume_from_array(data, spacing=(2.0, 1.0, 1.25))
