"""Small scans and finished batches for tests of the cohort room; a plugin of the tests."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Finished, invoke

from napari_addm.cli import app as cli
from napari_addm.cohort.batch import BatchSettings
from napari_addm.cohort.case import CohortCase
from napari_addm.cohort.files import HIDDEN, REPORTS
from napari_addm.cohort.find import find_cohort
from napari_addm.cohort.folder import CohortFolder
from napari_addm.cohort.report import write_cohort_report
from napari_addm.cohort.results import read_cohort
from napari_addm.detection.settings import DetectionSettings
from napari_addm.io.volume import volume_from_native
from napari_addm.io.writing import write_volume

GRID = np.array([[-5.0, 0, 0, 80], [0, 5.0, 0, -95], [0, 0, 5.0, -70], [0, 0, 0, 1]])
SHAPE = (33, 39, 29)
SETTINGS = BatchSettings(detection=DetectionSettings(device="cpu"), threshold=0.01, pictures=False)
OURS = ("manifest.csv", *REPORTS)
NOTES = "keep me"

WriteBrain = Callable[..., Path]


@dataclass(frozen=True)
class Trial:
    """A batch on the command line: its input, its output folder and its model."""

    source: Path | str
    output: Path
    checkpoint: Path

    @property
    def root(self) -> Path:
        return self.output.parent

    def run(self, *more: str, code: int = 0) -> Finished:
        """Run it, and check its exit code."""
        options = ["--checkpoint", self.checkpoint, "--device", "cpu"]
        options += [] if "--pictures" in more else ["--no-pictures"]
        options += [] if "--threshold" in more else ["--threshold", "0.01"]
        done = invoke(["batch", self.source, "-o", self.output, *options, *more])
        assert done.exit_code == code, done.output
        assert "bug" not in done.stderr
        return done

    def fails(self, *more: str) -> Finished:
        """Run it; some of its cases fail."""
        return self.run(*more, code=cli.SOME_FAILED)

    def of(self, source: Path | str) -> Trial:
        """The same with another input."""
        return replace(self, source=source)

    @property
    def cases(self) -> list[CohortCase]:
        return find_cohort(self.source, self.output)

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """The manifest."""
        with (self.output / "manifest.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len({row["case"] for row in rows}) == len(rows)
        return {row["case"]: row for row in rows}

    @property
    def files(self) -> dict[str, bytes]:
        """The files of all cases; a killed run leaves locks, which the next one takes."""
        return {
            path.relative_to(self.output).as_posix(): path.read_bytes()
            for path in sorted(self.output.rglob("*"))
            if path.is_file() and HIDDEN not in path.parts and path.name not in OURS
            if not path.name.startswith("manifest_shard") and path.suffix != ".lock"
        }

    @property
    def listed(self) -> dict[str, dict[str, Any]]:
        """What ``--list`` says, whatever its exit code."""
        options = ["--dry-run", "--json"]
        done = invoke(["batch", self.source, "-o", self.output, *options])
        return {row["case"]: row for row in json.loads(done.stdout)}

    def reported(self) -> dict[str, tuple[str, str]]:
        """What the report says of each case."""
        write_cohort_report(self.output)
        entries = read_cohort(self.output).entries
        return {entry.result.case: (entry.result.status, entry.result.reason) for entry in entries}

    def state_path(self, case: str) -> Path:
        return CohortFolder(self.output).states.path(case)

    def forge(self, case: str, **change: Any) -> None:
        """Change a state, as a damaged disk or another person would."""
        path = self.state_path(case)
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def write_table(path: Path, **scans: str) -> Path:
    """Write a table of cases."""
    lines = [f"{case},{scan}" for case, scan in scans.items()]
    path.write_text("\n".join(["case,scan", *lines]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def write_brain(make_brain: Callable[..., Any]) -> WriteBrain:
    """``write_brain(path, n)``: the n-th brain, each with a lesion of another size."""

    def write(path: Path, n: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lesion = ((25.0, -20.0, 15.0, 12.0 + 4 * n),)
        return write_volume(path, make_brain(GRID, SHAPE, lesion), overwrite=True)

    return write


@pytest.fixture(scope="session")
def finished_root(
    write_brain: WriteBrain, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Scans and tables, and the finished batches of them."""
    root = tmp_path_factory.mktemp("cohort")
    for n, name in enumerate("abc"):
        write_brain(root / "in" / f"{name}.nii.gz", n)
    for n in (1, 2):
        write_brain(root / f"pat{n}" / "T1.nii.gz", n)
    (root / "labels").mkdir()
    truth = (np.indices(SHAPE).sum(0) % 7 == 0).astype(np.uint8)
    for name, voxels in (("truth", truth), ("mask", np.ones(SHAPE, np.uint8))):
        write_volume(root / "labels" / f"{name}.nii.gz", volume_from_native(voxels, GRID))
    (root / "cases.csv").write_text(
        "case,scan,truth,mask\n"
        "one,in/a.nii.gz,labels/truth.nii.gz,\n"
        "two,in/b.nii.gz,,labels/mask.nii.gz\n"
        "three,in/c.nii.gz,,\n"
    )
    write_table(root / "pairs.csv", p1="pat1/T1.nii.gz", p2="pat2/T1.nii.gz")
    for source, output in (("cases.csv", "table_out"), ("in", "out"), ("pairs.csv", "pairs_out")):
        Trial(root / source, root / output, tiny_checkpoint).run()
    shutil.copytree(root, root.with_name(f"{root.name} kept"))
    return root


@pytest.fixture
def root(finished_root: Path) -> Path:
    """All of `finished_root` anew in the same place, because a result belongs to one place."""
    shutil.rmtree(finished_root)
    return Path(
        shutil.copytree(finished_root.with_name(f"{finished_root.name} kept"), finished_root)
    )


@pytest.fixture
def folder(root: Path, tiny_checkpoint: Path) -> Trial:
    """The finished batch of a folder with the scans a, b and c."""
    return Trial(root / "in", root / "out", tiny_checkpoint)


@pytest.fixture
def table(root: Path, tiny_checkpoint: Path) -> Trial:
    """The finished batch of a table: one has a ground truth, two a brain mask, three neither."""
    return Trial(root / "cases.csv", root / "table_out", tiny_checkpoint)


@pytest.fixture
def pairs(root: Path, tiny_checkpoint: Path) -> Trial:
    """The finished batch of a table of two patients whose scans have the same name."""
    return Trial(root / "pairs.csv", root / "pairs_out", tiny_checkpoint)


@pytest.fixture
def new(tmp_path: Path, tiny_checkpoint: Path) -> Trial:
    """A batch of an empty folder."""
    (tmp_path / "in").mkdir()
    return Trial(tmp_path / "in", tmp_path / "out", tiny_checkpoint)


# --- ways in which a file can be unreadable for a moment -----------------------------------------


def gone(path: Path) -> None:
    path.unlink()


def folder_gone(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)
