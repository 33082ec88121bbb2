"""The command line: its contract, its exit codes, and one line for every fault."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm import __version__
from napari_addm.cli.demo import has_display
from napari_addm.io.writing import write_volume

AFFINE = nib.affines.from_matvec(np.diag([4.0, 4.0, 5.0]), (-82.0, -98.0, -72.5))
SHAPE = (42, 50, 30)


def addm(*arguments: object) -> Any:
    """Run the command line in this process."""
    return invoke([str(a) for a in arguments])


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", [["--help"], ["detect", "--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    """Numpy alone would take longer than the help text."""
    heavy = ("torch", "monai", "lightning", "napari", "numpy")
    done = run_python(
        "import atexit, sys\n"
        f"atexit.register(lambda: print([n for n in {heavy} if n in sys.modules], "
        "file=sys.stderr))\n"
        "from napari_addm.cli.app import main\nmain()",
        *command,
    )
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr.strip() == "[]"


def test_a_package_that_cannot_be_imported_stops_no_help(tmp_path: Path) -> None:
    kinds = ("methods", "scores", "noises", "samplers", "metrics", "formats")
    information = tmp_path / "broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "".join(f"[napari_addm.{kind}]\ntheirs = broken:PART\n" for kind in kinds)
    )
    (tmp_path / "broken.py").write_text("import a_package_that_is_not_there")
    done = run_python(
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from napari_addm.cli.app import main; main()",
        *(tmp_path, "train", "--help"),
    )
    assert done.returncode == 0, done.stderr
    assert "--adversarial.weight" in done.stdout
    assert "The method 'theirs' of the package broken cannot be loaded" in done.stderr


def test_module_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "napari_addm.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"napari-addm {__version__}\n"


def test_one_line_from_a_shell(tmp_path: Path) -> None:
    """Nothing that a library logs or prints at its end comes beside it."""
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    done = run_python(
        "from napari_addm.cli.app import main; main()",
        *("detect", tmp_path / "cut.nii.gz", "-o", tmp_path / "out"),
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "cut.nii.gz" in done.stderr


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, make_brain: Any) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    for n in range(3):
        brain = make_brain(AFFINE, SHAPE, ((20, 9 * n, 0, 10),))
        slab = np.zeros_like(brain.data)
        slab[11:19] = brain.data[11:19]  # few slices, so that validation is quick
        write_volume(folder / f"sub-{n}.nii.gz", brain.with_data(slab))
    return folder


@pytest.mark.slow
def test_train_resume_detect_info(tmp_path: Path, healthy: Path) -> None:
    model = tmp_path / "model.safetensors"
    command = ("train", healthy, "-o", model, "--batch-size", 10, "--precision", 32)
    command += ("--noise", "gaussian", "--timesteps", 300, "--no-augment")
    command += ("--adversarial.weight", 0.1, "--adversarial.discriminator-input", "clean")
    command += ("--adversarial.loss", "non_saturating", "--adversarial.r1", 1)
    first = addm(*command, "--epochs", 2, "--name", "tiny", "--licence", "CC0")
    assert first.exit_code == 0, first.output
    assert "epoch 1, iteration 2" in first.stderr
    run = tmp_path / "model.training"
    for path in (model, run / "log", run / "pictures"):
        assert str(path) in first.stdout
        assert path.exists()
    card = json.loads(addm("info", model, "--json").stdout)
    assert card["training"]["iterations"] == 4
    adversarial = card["training"]["adversarial"]
    assert (adversarial["weight"], adversarial["judged"]) == (0.1, "clean")
    assert (adversarial["loss"], adversarial["r1"]) == ("non_saturating", 1.0)
    assert (card["diffusion"]["length"], card["diffusion"]["noise"]) == (300, "gaussian")

    second = addm(*command, "--epochs", 3, "--name", "tiny")
    assert second.exit_code == 0, second.output
    assert json.loads(addm("info", model, "--json").stdout)["training"]["iterations"] == 6

    other = addm(*command, "--seed", 5)
    assert other.exit_code == 1
    assert "seed" in other.stderr
    assert "--restart" in other.stderr

    found = addm(
        *("detect", healthy / "sub-0.nii.gz", "-o", tmp_path / "out", "--checkpoint", model),
        *("--steps", 1, "--slices", 15),
    )
    assert found.exit_code == 0, found.output
    checked = addm("info", model, "--check")
    assert checked.exit_code == 0
    assert "fit the network" in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{tmp}/none", "-o", "{tmp}/m.safetensors"], "none: not a folder"),
        (["{healthy}", "-o", "{tmp}/m.ckpt"], "m.ckpt"),
        (["{healthy}", "-o", "{tmp}/there.safetensors"], "there.safetensors exists already"),
        (["{healthy}", "-o", "{tmp}/file/m.safetensors"], "cannot be written to"),
        (["{healthy}", "-o", "{tmp}/m.safetensors", "--name", "two\nlines"], "--name"),
        (["{healthy}", "-o", "{tmp}/m.safetensors", "--split", "{tmp}/file"], "not a split file"),
    ],
)
def test_training_faults(tmp_path: Path, healthy: Path, arguments: list[str], named: str) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"kept")
    (tmp_path / "file").write_text("")
    result = addm("train", *(a.format(tmp=tmp_path, healthy=healthy) for a in arguments))
    assert result.exit_code in (1, 2)
    (line,) = result.stderr.splitlines()
    assert named in line
    assert "bug" not in line
    assert (tmp_path / "there.safetensors").read_bytes() == b"kept"


def test_training_without_the_extra(tmp_path: Path, healthy: Path) -> None:
    done = run_python(
        "import sys; sys.modules['lightning'] = None\nfrom napari_addm.cli.app import main; main()",
        *("train", healthy, "-o", tmp_path / "m.safetensors"),
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'pip install "napari-addm[train]"' in done.stderr


def test_info_imports_no_torch(tiny_checkpoint: Path) -> None:
    done = run_python(
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from napari_addm.cli.app import main; main()",
        *("info", tiny_checkpoint, "--json"),
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "tiny"
    assert done.stderr.strip() == "False"


def test_demo_opens_napari() -> None:
    if not has_display():
        pytest.skip("needs a display, for example under xvfb-run")
    done = run_python(
        "import napari\n"
        "def look():\n"
        "    viewer = napari.current_viewer()\n"
        "    print([layer.name for layer in viewer.layers], list(viewer.window.dock_widgets))\n"
        "    viewer.close()\n"
        "napari.run = look\n"
        "from napari_addm.cli.app import main; main()",
        "demo",
    )
    assert done.returncode == 0, done.stderr
    assert "demo_T1w" in done.stdout
    assert "Detect anomalies" in done.stdout


def test_demo_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems always have a display")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "demo_T1w_anomaly.nii.gz").write_text("of an earlier demo")
    result = addm("demo", "-o", tmp_path, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "runs headless" in result.stderr
    assert "AUPRC" in result.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"demo_T1w_overlay.png", "demo_T1w_labels.nii.gz", "demo_T1w_record.json"}
    assert nib.load(tmp_path / "demo_T1w_anomaly.nii.gz").get_fdata().any()
