"""`napari-addm calibrate` and what `info` says of it, on small healthy brains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Finished, invoke

from napari_addm.checkpoint.file import read_specification
from napari_addm.cli import calibrate as command
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume

CHANGES = ("--steps", 1)


@pytest.fixture(scope="module")
def healthy(make_brain: Callable[..., Volume], tmp_path_factory: Any) -> tuple[Path, Path]:
    """Two scanners with four and two small brains."""
    folder = tmp_path_factory.mktemp("healthy")
    for n in range(6):
        affine = np.diag([-5.0 - 0.1 * n, 5.0, 5.0, 1])
        affine[:3, 3] = 80, -95, -70
        place = folder / ("A" if n < 4 else "B")
        place.mkdir(exist_ok=True)
        write_volume(place / f"sub-{n}.nii.gz", make_brain(affine, (33, 39, 29)))
    return folder / "A", folder / "B"


@pytest.fixture(scope="module")
def done(
    healthy: tuple[Path, Path], tiny_checkpoint: Path, tmp_path_factory: Any
) -> tuple[Path, Finished]:
    """The new checkpoint, and what the command printed."""
    output = tmp_path_factory.mktemp("new") / "ours.safetensors"
    line = ("calibrate", tiny_checkpoint, "--healthy", *healthy, "-o", output, *CHANGES)
    return output, invoke(line)


def test_it_says_how_far_it_is_and_what_it_promises(done: tuple[Path, Finished]) -> None:
    output, finished = done
    assert finished.exit_code == 0, finished.stderr
    assert "A: sub-0 (1 of 6)" in finished.stderr
    assert "B: sub-5 (6 of 6, about " in finished.stderr
    assert "mL of false alarm in 2 of 3 healthy brains" in finished.stdout
    assert "measured in 6 brains: 4 of A, 2 of B" in finished.stdout
    assert finished.stdout.splitlines()[-1] == str(output)


def test_info_tells_the_promise_in_words(done: tuple[Path, Finished], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    output, _ = done
    card = " ".join(invoke(["info", output]).stdout.replace("│", " ").split())
    assert "mL of false alarm in 2 of 3 healthy brains, with the default threshold" in card
    row = read_specification(output).evaluation["promise"]["B"]
    assert f"B: {row['kept']} of 2 brains within 1 mL by the threshold of all other brains" in card
    assert f"{row['kept_as_new_scanner']} by that of the other scanners" in card
    assert "evaluation: promise" not in card


def test_slices_as_thick_as_the_calibration_had_are_covered(
    done: tuple[Path, Finished], healthy: tuple[Path, Path], tiny_checkpoint: Path
) -> None:
    from napari_addm.detection.preparation import prepare
    from napari_addm.detection.quality import check_quality
    from napari_addm.io.reading import read_volume

    scan = read_volume(healthy[0] / "sub-1.nii.gz")
    for path, unlike in ((done[0], False), (tiny_checkpoint, True)):
        specification = read_specification(path)
        quality = check_quality(prepare(scan, specification.preparation), specification)
        assert "slice_thickness" in {flag.key for flag in quality.flags}
        assert bool(quality.unlike_training) == unlike


def test_what_is_refused_names_the_file_and_writes_nothing(
    healthy: tuple[Path, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "ours.safetensors"

    def refused(*line: object, model: Path = tiny_checkpoint) -> str:
        finished = invoke(["calibrate", model, *line, *CHANGES])
        assert finished.exit_code == 1
        assert len(finished.stderr.splitlines()[-1]) > 20
        assert not output.exists()
        return finished.stderr.splitlines()[-1]

    assert "4 healthy brains promise nothing" in refused("--healthy", healthy[0], "-o", output)
    (tmp_path / "file").touch()
    words = refused("--healthy", *healthy, "-o", tmp_path / "file" / "ours.safetensors")
    assert "file cannot be written to" in words
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(healthy[0] / "sub-1.nii.gz", again / "other.nii.gz")
    words = refused("--healthy", *healthy, again, "-o", output)
    assert "sub-1.nii.gz" in words
    assert "other.nii.gz are the same scan" in words
    whole = (again / "other.nii.gz").read_bytes()
    (again / "other.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert "other.nii.gz" in refused("--healthy", *healthy, again, "-o", output)
    model = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.safetensors"))
    words = refused("--healthy", *healthy, "-o", model, model=model)
    assert "is the model itself" in words
    assert model.read_bytes() == tiny_checkpoint.read_bytes()


def test_ctrl_c_leaves_nothing(
    healthy: tuple[Path, Path], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def interrupt(line: str) -> None:
        if "(3 of 6" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "print_line", interrupt)
    output = tmp_path / "ours.safetensors"
    finished = invoke(["calibrate", tiny_checkpoint, "--healthy", *healthy, "-o", output, *CHANGES])
    assert (finished.exit_code, finished.stderr) == (130, "Stopped; nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_card_of_another_program_is_shown(done: tuple[Path, Finished]) -> None:
    """What the promise's table holds is not checked when a checkpoint is read."""
    from napari_addm.cli.info import promise_lines

    specification = read_specification(done[0])
    for table in ([], {"A": 3}, {"A": {"kept": 1}}, {"A": json.loads('{"kept": "x"}')}):
        odd = specification.replace(evaluation={"promise": table})
        assert len(list(promise_lines(odd))) == 2


def test_folders_of_dicom_are_scans(make_brain: Callable[..., Volume], tmp_path: Path) -> None:
    from dicom_series import write_series

    from napari_addm.training.labelled_scans import find_healthy

    for n in range(2):
        data, _ = write_series(tmp_path / "ours" / f"person-{n}", SeriesDescription="t1_mprage")
    scans = find_healthy([tmp_path / "ours"])
    assert [scan.name for scan in scans] == ["person-0", "person-1"]
    assert scans[1].volume.data.size == data.size
