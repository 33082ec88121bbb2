"""What trainings in tests share: few small scans, and Lightning without its noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.diag([3.0, 3.0, 6.0, 1.0])
AFFINE[:3, 3] = [-80, -95, -70]
SHAPE = (54, 64, 24)


@pytest.fixture(scope="session")
def healthy_scans(tmp_path_factory: pytest.TempPathFactory, make_brain: Callable[..., Any]) -> Path:
    """A folder of three skull-stripped brains of slightly different width."""
    folder = tmp_path_factory.mktemp("healthy")
    for n in range(3):
        brain = make_brain(AFFINE @ np.diag([1 + 0.02 * n, 1, 1, 1]), SHAPE)
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
