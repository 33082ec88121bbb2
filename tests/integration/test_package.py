"""The package as a whole: what importing costs, what the manifest promises, what is shipped."""

import importlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from npe2 import PluginManifest
from packaging.requirements import Requirement
from packaging.version import Version

import napari_addm

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "monai", "lightning")


def heavy_after(statement: str, *arguments: str) -> str:
    """Run one statement in a fresh interpreter; return which heavy packages it imported."""
    program = (
        f"import sys\ntry:\n    {statement}\n"
        f"finally:\n    print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("heavy: ")[2].strip()


def test_import_is_light() -> None:
    assert heavy_after("import napari_addm") == "[]"


def test_heavy_imports_are_noticed() -> None:
    """The check itself can fail."""
    assert heavy_after("import torch") == "['torch']"


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_addm; napari_addm.read_volume(sys.argv[1])",
        "import napari_addm.widgets.contributions as c; c.get_reader(sys.argv[1])(sys.argv[1])",
    ],
    ids=["core", "napari reader"],
)
def test_reading_a_scan_is_light(statement: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).random((8, 9, 10), dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    assert heavy_after(statement, str(path)) == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows names every user")
def test_a_user_without_a_name_may_use_the_network() -> None:
    """As in a container that runs under any number; MONAI asks for the name."""
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    program = (
        "import os, pwd\n"
        f"for name in {names}: os.environ.pop(name, None)\n"
        "pwd.getpwuid = {}.__getitem__\n"
        "import napari_addm.methods.networks\n"
        "from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == 0


def test_version_is_the_installed_one() -> None:
    assert napari_addm.__version__ == metadata.version("napari-addm")


def test_citation_and_changelog_know_the_version() -> None:
    """Between two releases, both name the next one."""
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert heading is not None
    assert cited is not None
    assert heading[1] == cited[1]
    installed = Version(napari_addm.__version__)
    assert Version(cited[1]) == installed or (installed.is_devrelease and "dev" not in cited[1])


def test_recipe_has_the_version_and_what_the_package_needs() -> None:
    """conda-forge has some packages under other names."""
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text()
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert f'  version: "{cited[1]}"\n' in recipe
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    conda = {"isal": "python-isal", "torch": "pytorch"}
    requirements = [Requirement(each) for each in needed]
    lines = {f"{conda.get(each.name, each.name)} {each.specifier}" for each in requirements}
    run = recipe.partition("  run:\n")[2].partition("\n\n")[0]
    assert {line.strip(" -") for line in run.splitlines()[1:]} == lines


@pytest.mark.parametrize("name", napari_addm.__all__)
def test_public_name_exists(name: str) -> None:
    assert getattr(napari_addm, name).__module__.startswith("napari_addm.")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = napari_addm.no_such_name


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution("napari-addm")


def test_manifest_is_the_package_one(manifest: PluginManifest) -> None:
    inside = resources.files("napari_addm.widgets") / "napari.yaml"
    assert manifest.name == "napari-addm"
    assert manifest.display_name == "ADDM brain MRI anomalies"
    assert manifest.contributions == PluginManifest.from_file(str(inside)).contributions


def test_every_command_imports(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    commands = manifest.contributions.commands or []
    assert commands
    for command in commands:
        module, _, name = str(command.python_name).partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_contribution_names_a_command(manifest: PluginManifest) -> None:
    """npe2 does not check this by itself."""
    contributions = manifest.contributions
    known = {command.id for command in contributions.commands or []}
    used = {
        item.command
        for items in (
            contributions.readers,
            contributions.writers,
            contributions.sample_data,
            contributions.widgets,
            *contributions.menus.values(),
        )
        for item in items or []
    }
    assert used == known


def test_icon_is_shipped(manifest: PluginManifest) -> None:
    package, _, name = str(manifest.icon).partition(":")
    assert (resources.files(package) / name).read_text().startswith("<svg")


def test_sample_data_is_shipped() -> None:
    names = {item.name for item in (resources.files("napari_addm.io") / "sample_data").iterdir()}
    assert any(name.endswith(".nii.gz") for name in names)
    assert any(name.endswith(".safetensors") for name in names)


@pytest.fixture(scope="module")
def tracked_files() -> list[Path]:
    """Every file that git keeps; the tests that ask for it are about the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: an unpacked archive has no list of tracked files")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name]


def test_root_links_lead_into_the_package() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: an archive leaves the links out")
    for name, room in (("napari.yaml", "widgets"), ("sample_data", "io")):
        assert (ROOT / name).is_symlink()
        assert (ROOT / name).resolve(strict=True) == ROOT / "napari_addm" / room / name


def test_no_path_of_one_machine(tracked_files: list[Path]) -> None:
    """Nothing in the repository works only where it was written."""
    # written in pieces, or this file would find itself
    pattern = re.compile("(?<![\\w.])/" + r"(?:home|Users|root|work|tmp|mnt|scratch)/\w")
    binary = {".gif", ".gz", ".nii", ".npz", ".png", ".safetensors"}
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()[:100]}"
        for path in tracked_files
        if path.is_file() and not path.is_symlink() and path.suffix not in binary
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert not found
