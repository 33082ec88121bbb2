"""The examples run as they are, each in a process of its own, as a reader would run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_addm.io.demo import DEMO_TRUTH
from napari_addm.io.reading import read_labels, read_volume

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SECONDS = 600  # on a busy machine; a quiet one takes some ten

pytestmark = pytest.mark.timeout(SECONDS + 60)


def python(*arguments: str | Path, folder: Path, path: Path | None = None) -> str:
    """Run Python in a folder; return what it printed."""
    found = [str(each) for each in (path, ROOT) if each is not None]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(found)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_detect_finds_the_lesion(tmp_path: Path) -> None:
    words = python(EXAMPLES / "detect.py", folder=tmp_path)
    assert "mL, peak" in words.splitlines()[0]
    labels = read_labels(tmp_path / "example_output" / "labels.nii.gz")
    lesion = read_labels(DEMO_TRUTH).data > 0
    assert labels.data[lesion].astype(bool).mean() > 0.5


def test_batch_and_plot_draws_the_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra benchmark")
    words = python(EXAMPLES / "batch_and_plot.py", folder=tmp_path)
    assert words.startswith("demo_T1w done")
    picture = tmp_path / "example_output" / "cohort" / "cohort.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_train_gives_a_model_that_detects(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the extra train")
    words = python(EXAMPLES / "train.py", folder=tmp_path)
    assert "mean score in the brain: 0." in words
    assert (tmp_path / "example_output" / "model.safetensors").stat().st_size > 1e6


def test_a_score_of_another_package_is_found(healthy_scans: Path, tmp_path: Path) -> None:
    """Installed by pip, then chosen by its name on the command line."""
    pytest.importorskip("setuptools", reason="builds the package without the network")
    shutil.copytree(EXAMPLES / "own_score", tmp_path / "source")  # a build leaves files there
    site = tmp_path / "site"
    python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--target", site, tmp_path / "source"),
        folder=tmp_path,
    )
    scan = shutil.copy(healthy_scans / "sub-0_T1w.nii.gz", tmp_path / "scan.nii.gz")
    call = ("-m", "napari_addm.cli", "detect", scan, "-o", "out", "--score", "cubed")
    python(*call, "--threshold", "0.01", "--draws", "1", folder=tmp_path, path=site)
    assert '"cubed"' in (tmp_path / "out" / "scan_record.json").read_text(encoding="utf-8")
    assert np.isfinite(read_volume(tmp_path / "out" / "scan_anomaly.nii.gz").data).all()
