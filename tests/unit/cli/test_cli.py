"""The command line: its contract, its exit codes, and one line for every fault."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.cli.app import app
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume
from napari_addm.methods.settings import TrainingSettings
from napari_addm.outputs import run_case
from napari_addm.registry import METHODS

LESION = (25.0, 0.0, 5.0, 14.0)
# Native axes, voxel sizes and a rotation: as scanners store them, and one oblique thick-slice scan.
GRIDS = {
    "RAS": (np.diag([4.0, 4.0, 5.0]), (42, 50, 30)),
    "LPS": (np.diag([-4.0, -4.0, 5.0]), (42, 50, 30)),
    "PIR": (np.array([[0, 0, 4.0], [-4.0, 0, 0], [0, -5.0, 0]]), (50, 30, 42)),
    "oblique": (
        nib.eulerangles.euler2mat(0.1, 0.2, -0.15) @ np.diag([-3.5, 4.5, 6.0]),
        (54, 52, 32),
    ),
}


def grid(name: str) -> tuple[np.ndarray, tuple[int, int, int]]:
    linear, shape = GRIDS[name]
    return nib.affines.from_matvec(linear, -linear @ ((np.array(shape) - 1) / 2)), shape


def addm(*arguments: object) -> Any:
    """Run the command line in this process."""
    return invoke([str(a) for a in arguments])


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, make_brain: Any) -> Path:
    """A folder with NAME.nii.gz and NAME_truth.nii.gz for every grid."""
    folder = tmp_path_factory.mktemp("scans")
    for name in GRIDS:
        affine, shape = grid(name)
        write_volume(folder / f"{name}.nii.gz", make_brain(affine, shape, (LESION,)))
        index = np.indices(shape).reshape(3, -1)
        place = affine[:3, :3] @ index + affine[:3, 3:]
        inside = np.linalg.norm(place.T - LESION[:3], axis=1) < LESION[3]
        truth = volume_from_native(inside.reshape(shape).astype(np.uint8), affine)
        write_volume(folder / f"{name}_truth.nii.gz", truth)
    return folder


# --- the frame ------------------------------------------------------------------------------


def options(command: str) -> dict[str, str]:
    """The options of a command with their help."""
    arguments = app[command].assemble_argument_collection(parse_docstring=True)
    return {
        name: argument.parameter.help or "" for argument in arguments for name in argument.names
    }


@pytest.mark.parametrize("command", ["detect", "batch"])
def test_every_setting_is_an_option(command: str) -> None:
    found = options(command)
    for name, field in DetectionSettings.model_fields.items():
        assert found[f"--{name.replace('_', '-')}"] == field.description


def test_every_training_setting_is_an_option() -> None:
    found = options("train")
    for name, field in TrainingSettings.model_fields.items():
        assert not field.title or found[f"--{name.replace('_', '-')}"] == field.description
    for method in METHODS.values():
        if method.options is not None:
            for name, field in method.options.model_fields.items():
                option = f"--{method.options.record_key}.{name.replace('_', '-')}"
                assert found[option] == field.description


@pytest.mark.parametrize(
    "arguments",
    [["detect"], ["detect", "a.nii.gz"], ["batch", "a", "-o", "b", "--workers", "x"], ["nothing"]],
)
def test_usage_errors(arguments: list[str]) -> None:
    assert addm(*arguments).exit_code == 2


# --- detect ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PIR", "oblique"])
def test_contract(tmp_path: Path, scans: Path, tiny_checkpoint: Path, name: str) -> None:
    scan = scans / f"{name}.nii.gz"
    result = addm(
        *("detect", scan, "-o", tmp_path / "out", "--checkpoint", tiny_checkpoint),
        *("--ground-truth", scans / f"{name}_truth.nii.gz", "--draws", 2, "--steps", 2),
        *("--threshold", 0.01, "--json", "--montage"),
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    names = {
        "anomaly": f"{name}_anomaly.nii.gz",
        "labels": f"{name}_labels.nii.gz",
        "recon": f"{name}_recon.nii.gz",
        "uncertainty": f"{name}_uncertainty.nii.gz",
        "findings": f"{name}_findings.csv",
        "record": f"{name}_record.json",
        "overlay": f"{name}_overlay.png",
    }
    assert summary["paths"] == {key: str(tmp_path / "out" / n) for key, n in names.items()}
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(names.values())

    native = nib.load(scan)
    for key in ("anomaly", "labels", "recon", "uncertainty"):
        image = nib.load(summary["paths"][key])
        assert image.shape == native.shape
        np.testing.assert_allclose(image.affine, native.affine, atol=1e-4)
    assert nib.load(summary["paths"]["anomaly"]).get_data_dtype() == np.float32
    labels = np.asarray(nib.load(summary["paths"]["labels"]).dataobj)
    assert labels.max() == len(summary["findings"]) > 0

    assert list(summary["seconds"]) == [
        *("read", "import", "load", "prepare", "network", "score"),
        *("findings", "metrics", "write", "total"),
    ]
    parts = sum(spent for stage, spent in summary["seconds"].items() if stage != "total")
    assert parts <= summary["seconds"]["total"] * 1.05
    metrics = summary["metrics"]
    assert metrics["region"] == "brain mask, on the scan's grid"
    assert metrics["truth_ml"] == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.1)
    assert metrics.keys() >= {"dice", "iou", "precision", "recall", "auroc", "auprc"}

    record = json.loads((tmp_path / "out" / names["record"]).read_text())
    assert record["findings"] == summary["findings"]
    assert record["metrics"] == metrics
    assert record["settings"]["draws"] == 2
    assert record["truth"]["name"] == f"{name}_truth.nii.gz"


def test_for_a_person(tmp_path: Path, scans: Path, tiny_checkpoint: Path) -> None:
    command = ("detect", scans / "RAS.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint)
    result = addm(*command, "--ground-truth", scans / "RAS_truth.nii.gz", "--threshold", 0.01)
    assert result.exit_code == 0
    assert "Dice" in result.stdout
    assert str(tmp_path / "RAS_anomaly.nii.gz") in result.stdout
    assert not (tmp_path / "RAS_uncertainty.nii.gz").exists()

    assert addm(*command).exit_code == 1
    none = addm(*command, "--overwrite", "--threshold", 1000)
    assert none.exit_code == 0
    assert "No findings: nothing of 0.5 mL or more" in none.stdout


def test_same_seed_same_files(tmp_path: Path, scans: Path, tiny_checkpoint: Path) -> None:
    command = ("detect", scans / "LPS.nii.gz", "--checkpoint", tiny_checkpoint, "--sampler", "ddpm")
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert addm(*command, "-o", tmp_path / out, "--seed", seed).exit_code == 0
    a, b, c = ((tmp_path / out / "LPS_anomaly.nii.gz").read_bytes() for out in "abc")
    assert a == b
    assert a != c


def test_chosen_slices(tmp_path: Path, scans: Path, tiny_checkpoint: Path) -> None:
    result = addm(
        *("detect", scans / "LPS.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint),
        *("--slices", 14, "--slices", 20, "--ground-truth", scans / "LPS_truth.nii.gz", "--json"),
    )
    assert result.exit_code == 0, result.output
    anomaly = nib.load(tmp_path / "LPS_anomaly.nii.gz").get_fdata()
    assert np.flatnonzero(anomaly.any(axis=(0, 1))).tolist() == [14, 20]
    assert " slices" in json.loads(result.stdout)["metrics"]["region"]


def test_mask_is_used_and_resampled(tmp_path: Path, scans: Path, tiny_checkpoint: Path) -> None:
    """With a mask over a part, there is no map elsewhere."""
    affine, shape = grid("RAS")
    half = np.zeros(shape, np.uint8)
    half[:21, 5:45, 5:25] = 1
    write_volume(tmp_path / "half.nii.gz", volume_from_native(half, affine))
    command = ("detect", scans / "LPS.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint)
    # the LPS grid has the RAS grid's voxels, so nothing is resampled
    assert addm(*command, "--mask", tmp_path / "half.nii.gz").exit_code == 0
    anomaly = nib.load(tmp_path / "LPS_anomaly.nii.gz").get_fdata()[::-1, ::-1]
    assert anomaly.any()
    assert not anomaly[half == 0].any()

    command = ("detect", scans / "oblique.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint)
    refused = addm(*command, "--mask", tmp_path / "half.nii.gz")
    assert refused.exit_code == 1
    assert "--resample-mask" in refused.stderr
    result = addm(*command, "--mask", tmp_path / "half.nii.gz", "--resample-mask")
    assert result.exit_code == 0, result.output


def test_resampled_truth(tmp_path: Path, scans: Path, tiny_checkpoint: Path) -> None:
    result = addm(
        *("detect", scans / "RAS.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint),
        *("--ground-truth", scans / "oblique_truth.nii.gz", "--resample-ground-truth", "--json"),
    )
    assert result.exit_code == 0, result.output
    truth_ml = json.loads(result.stdout)["metrics"]["truth_ml"]
    assert truth_ml == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.15)


def test_a_frame_of_several_and_brackets_in_a_name(
    tmp_path: Path, scans: Path, tiny_checkpoint: Path
) -> None:
    one = nib.load(scans / "RAS.nii.gz")
    data = np.stack([np.zeros(one.shape, np.float32), one.get_fdata(dtype=np.float32)], axis=-1)
    scan = tmp_path / "[red]series.nii.gz"
    nib.save(nib.Nifti1Image(data, one.affine), scan)
    command = ("detect", scan, "-o", tmp_path / "out", "--checkpoint", tiny_checkpoint)
    assert addm(*command).exit_code == 1
    found = addm(*command, "--frame", 1, "--threshold", 0.01)
    assert found.exit_code == 0, found.output
    assert scan.name in found.stdout
    assert "Frame 1 of 2" not in found.stdout
    assert "notes; --verbose shows them." in found.stdout
    found = addm(*command, "--frame", 1, "--overwrite", "--verbose")
    assert "Note: Frame 1 of 2 was used." in found.stdout
    alone = tmp_path / "alone"
    command = ("detect", scans / "RAS.nii.gz", "-o", alone, "--checkpoint", tiny_checkpoint)
    assert addm(*command).exit_code == 0
    expected = nib.load(alone / "RAS_anomaly.nii.gz").get_fdata()
    written = nib.load(tmp_path / "out" / "[red]series_anomaly.nii.gz").get_fdata()
    np.testing.assert_array_equal(written, expected)


def test_warnings_of_mask_and_truth_are_kept(
    tmp_path: Path, scans: Path, tiny_checkpoint: Path
) -> None:
    truth = nib.load(scans / "RAS_truth.nii.gz")
    moved = truth.affine.copy()
    moved[0, 3] += 5
    truth.set_qform(moved)  # and the sform stays
    nib.save(truth, tmp_path / "truth.nii.gz")
    mask = (nib.load(scans / "RAS.nii.gz").get_fdata() > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask[..., None], truth.affine), tmp_path / "mask.nii.gz")
    result = addm(
        *("detect", scans / "RAS.nii.gz", "-o", tmp_path / "out", "--checkpoint", tiny_checkpoint),
        *(
            "--ground-truth",
            tmp_path / "truth.nii.gz",
            "--mask",
            tmp_path / "mask.nii.gz",
            "--json",
        ),
    )
    assert result.exit_code == 0, result.output
    warnings = json.loads(result.stdout)["warnings"]
    kinds = {each["text"].partition(" (")[0]: each["kind"] for each in warnings}
    (disagree,) = (text for text in kinds if text.startswith("The ground truth: qform and sform"))
    assert kinds[disagree] == "caution"
    assert kinds["The brain mask: The file is 4D with one frame, which was used."] == "note"
    record = json.loads((tmp_path / "out" / "RAS_record.json").read_text())
    assert all(each in warnings for each in record["warnings"])


# --- faults ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """A folder of files that cannot be used."""
    folder = tmp_path_factory.mktemp("faulty")
    whole = (scans / "RAS.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "page.nii.gz").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    (folder / "a_file").write_text("")
    (folder / "old").mkdir()
    (folder / "old" / "RAS_record.json").write_text("{}")
    return folder


FAULTS = {
    "missing": (["{faulty}/none.nii.gz"], "none.nii.gz"),
    "truncated": (["{faulty}/cut.nii.gz"], "cut.nii.gz"),
    "web page": (["{faulty}/page.nii.gz"], "page.nii.gz"),
    "folder": (["{faulty}/old"], "old"),
    "checkpoint": (
        ["{scans}/RAS.nii.gz", "--checkpoint", "{faulty}/pickle.safetensors"],
        "pickle.safetensors",
    ),
    "no checkpoint": (["{scans}/RAS.nii.gz", "--checkpoint", "{faulty}/x.safetensors"], "x.safe"),
    "truth elsewhere": (
        ["{scans}/RAS.nii.gz", "--ground-truth", "{scans}/oblique_truth.nii.gz"],
        "oblique_truth.nii.gz",
    ),
    "truth is a scan": (
        ["{scans}/RAS.nii.gz", "--ground-truth", "{scans}/LPS.nii.gz"],
        "LPS.nii.gz",
    ),
    "existing": (["{scans}/RAS.nii.gz", "-o", "{faulty}/old"], "RAS_record.json"),
    "unwritable": (["{scans}/RAS.nii.gz", "-o", "{faulty}/a_file/out"], "a_file/out"),
    "level": (["{scans}/RAS.nii.gz", "--level", "5000"], "5000"),
    "slice": (["{scans}/RAS.nii.gz", "--slices", "500"], "RAS"),
    "threshold": (["{scans}/RAS.nii.gz", "--threshold", "nan"], "threshold"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_line_per_fault(
    tmp_path: Path, scans: Path, faulty: Path, tiny_checkpoint: Path, fault: str
) -> None:
    arguments, named = FAULTS[fault]
    command = [a.format(scans=scans, faulty=faulty) for a in arguments]
    for option, value in (("-o", tmp_path / "out"), ("--checkpoint", tiny_checkpoint)):
        if option not in command:
            command += [option, str(value)]
    before = sorted(faulty.rglob("*"))
    result = addm("detect", *command, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert named in line
    assert "bug" not in line
    assert not (tmp_path / "out").exists()
    assert sorted(faulty.rglob("*")) == before
    if fault == "truth elsewhere":
        assert "--resample-ground-truth" in line


def test_a_bug_shows_its_traceback_only_when_asked(
    tmp_path: Path, scans: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(run_case, "detect", broken)
    command = ("detect", scans / "RAS.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint)
    result = addm(*command)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "bug" in line
    assert "division by zero" in line
    shown = addm("--debug", *command)
    assert shown.exit_code == 1
    assert "Traceback" in shown.stderr
    assert "in broken" in shown.stderr


def test_interrupt(
    tmp_path: Path, scans: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_case, "detect", interrupted)
    command = ("detect", scans / "RAS.nii.gz", "-o", tmp_path, "--checkpoint", tiny_checkpoint)
    result = addm(*command)
    assert result.exit_code == 130
    assert result.stderr == "Stopped; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []


# --- train and info -------------------------------------------------------------------------


def test_card(tiny_checkpoint: Path) -> None:
    result = addm("info", tiny_checkpoint)
    assert result.exit_code == 0
    assert "none, for tests" in result.stdout
    assert "T = 1000" in result.stdout


def test_check_finds_changed_weights(tmp_path: Path, tiny_checkpoint: Path) -> None:
    content = bytearray(tiny_checkpoint.read_bytes())
    content[-3] ^= 1
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(content)
    assert addm("info", changed).exit_code == 0
    result = addm("info", changed, "--check")
    assert result.exit_code == 1
    assert "changed.safetensors" in result.stderr
