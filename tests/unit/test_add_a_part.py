"""The page Contribute, followed by another package: one file makes a part appear everywhere."""

import json
import sys
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support import code_of_part

BRAIN_AFFINE = nib.affines.from_matvec(np.diag([-4.0, 4.0, 5.0]), (82, -98, -72))
BRAIN_SHAPE = (42, 50, 30)
NAMES = {"score": "cubed", "noise": "uniform", "sampler": "jump", "metric": "specificity"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package with a part; the program starts anew with it."""
    packages = ["napari_addm"]

    def install(kind: str, name: str) -> None:
        package = f"parts_of_{kind}"
        packages.append(package)
        (tmp_path / f"{package}.py").write_text(code_of_part(kind), encoding="utf-8")
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[napari_addm.{kind}s]\n{name} = {package}:{kind.upper()}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        for module in list(sys.modules):
            if module.split(".")[0] in packages:
                monkeypatch.delitem(sys.modules, module)

    yield install
    for module in list(sys.modules):
        if module.split(".")[0] in packages:
            del sys.modules[module]


@pytest.fixture(params=NAMES)
def part(request, install):
    """Kind and name of a part that another package brings."""
    kind = request.param
    install(kind, NAMES[kind])
    return kind, NAMES[kind]


@pytest.mark.parametrize("kind", NAMES)
def test_a_part_takes_less_than_twenty_lines_beside_its_description(kind):
    lines = [line for line in code_of_part(kind).splitlines() if line.strip()]
    assert len(lines) < 20


def check_listed(kind: str, name: str) -> None:
    registry = getattr(import_module("napari_addm.registry"), f"{kind.upper()}S")
    assert name in registry
    assert registry[name].title.lower() == name


def with_part(checkpoint: Path, kind: str, name: str) -> dict:
    """The specification of a checkpoint, as JSON, with another part in it."""
    from napari_addm.checkpoint.file import read_specification

    specification = json.loads(read_specification(checkpoint).model_dump_json())
    if kind == "noise":
        specification["diffusion"]["noise"] = name
    elif kind == "sampler":
        specification["detection"]["sampler"] = name
    elif kind == "score":
        specification["detection"]["score"]["kind"] = name
    return specification


def run_program(*arguments: object) -> int:
    """Run the command line in this process; returns its exit code."""
    from napari_addm.cli.app import run

    return run([str(argument) for argument in arguments])


def check_offered(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that the command line and the panel offer it."""
    from napari_addm.detection.settings import DetectionSettings
    from napari_addm.metrics.metric import rated_metrics

    if kind == "metric":
        assert name in rated_metrics()  # what the panel's grid and the cohort's page show
        return
    assert run_program("train" if kind == "noise" else "detect", "--help") == 0
    assert name in capsys.readouterr().out
    if kind != "noise":  # the panel's form is made from this field
        field = DetectionSettings.model_json_schema()["properties"][kind]
        assert name in field["anyOf"][0]["enum"]


def test_it_is_listed_offered_and_recorded(
    part, tiny_checkpoint, make_brain, tmp_path, monkeypatch, capsys
):
    kind, name = part
    monkeypatch.setenv("COLUMNS", "200")
    check_listed(kind, name)
    check_offered(kind, name, capsys)
    from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
    from napari_addm.checkpoint.specification import parse_specification

    checkpoint = save_checkpoint(
        tmp_path / "with_part.safetensors",
        parse_specification(with_part(tiny_checkpoint, kind, name)),
        load_checkpoint(tiny_checkpoint).weights,
    )
    scan = make_brain(BRAIN_AFFINE, BRAIN_SHAPE).to_native()
    lesion = np.zeros(BRAIN_SHAPE, np.uint8)
    lesion[15:20, 20:26, 12:16] = 1
    for file, data in (("scan", scan), ("truth", lesion)):
        nib.save(nib.Nifti1Image(data, BRAIN_AFFINE), tmp_path / f"{file}.nii.gz")
    code = run_program(
        "detect", tmp_path / "scan.nii.gz", "-o", tmp_path / "results",
        "--ground-truth", tmp_path / "truth.nii.gz", "--checkpoint", checkpoint, "--device", "cpu",
        "--slices", 14, "--no-regions",
    )  # fmt: skip
    assert code == 0, capsys.readouterr()
    (record,) = (json.loads(file.read_text()) for file in tmp_path.rglob("*_record.json"))
    if kind == "metric":
        assert 0 < record["metrics"][name] <= 1
        return
    assert kind == "noise" or record["settings"][kind] == name
    capsys.readouterr()
    assert run_program("info", checkpoint) == 0
    assert name in capsys.readouterr().out.lower()


def test_a_file_format_is_read(install, tmp_path):
    install("format", "numpy")
    from napari_addm.io.reading import read_volume

    voxels = np.random.default_rng(0).random((8, 9, 10), dtype=np.float32)
    np.save(tmp_path / "scan.npy", voxels)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.npy").data, voxels.T)


@pytest.mark.parametrize("kind", ["score", "noise", "sampler"])
def test_a_checkpoint_that_names_a_missing_part_is_refused(kind, tiny_checkpoint):
    from napari_addm import registry
    from napari_addm.checkpoint.specification import parse_specification

    installed = ", ".join(getattr(registry, f"{kind.upper()}S"))
    with pytest.raises(ValueError, match="validation error") as raised:
        parse_specification(with_part(tiny_checkpoint, kind, NAMES[kind]))
    problem = f"There is no {kind} '{NAMES[kind]}'; this installation has {installed}."
    assert problem in str(raised.value)
