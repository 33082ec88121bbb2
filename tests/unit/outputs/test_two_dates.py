"""Two results of one patient: what changed is found, however the head lay in the scanner."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support import invoke

from napari_addm.checkpoint.file import Checkpoint
from napari_addm.findings.computed import computed_findings
from napari_addm.findings.decisions import Decision
from napari_addm.io.hashing import file_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.volume import volume_from_native
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.outputs.naming import case_paths

pytest.importorskip("SimpleITK", reason="needs the extra regions")

MIDDLE = (5.0, -8.0, 12.0)
PLACES = ((30, 20, 10), (-32, 25, 5), (30, -45, 5), (-30, -40, 0), (5, -5, 40))
# mL at each place: grown, shrunk, unchanged, new, gone
BEFORE, AFTER = (5, 20, 10, 0, 2), (10, 10, 10, 5, 0)
LINEAR = np.diag([-2.5, 2.5, 3.0])
SHAPE = (72, 84, 54)
XYZ, DATES = ("x_mm", "y_mm", "z_mm"), ("before", "after")
KINDS = ("grown", "shrunk", "unchanged", "new", "gone")

ResultMaker = Callable[..., Path]


def radius(ml: float) -> float:
    """Radius in mm of a ball."""
    return (3000 * ml / (4 * np.pi)) ** (1 / 3)


def turned(degrees: tuple[float, ...] = (0, 0, 0), shift: tuple[float, ...] = (0, 0, 0)) -> Any:
    """Where a place of the patient lies in the scanner."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return nib.affines.from_matvec(turn, np.array(shift) + MIDDLE - turn @ MIDDLE)


@pytest.fixture
def make_result(
    tmp_path: Path, make_brain: Any, make_detection: Any, checkpoint: Checkpoint
) -> ResultMaker:
    """``make_result(name, ml, pose)``: the result of a brain with lesions of so many mL.

    The map is simulated: it falls through the threshold at the surface of each lesion. `scan`
    changes the scan's file, other keyword arguments fields of the outputs.
    """

    def make(
        name: str,
        ml: tuple[float, ...] = BEFORE,
        pose: Any = None,
        scan: Callable[[Any], Any] = lambda image: image,
        dark: bool = False,
        **more: Any,
    ) -> Path:
        pose = turned() if pose is None else pose
        grid = nib.affines.from_matvec(LINEAR, pose[:3, 3] - LINEAR @ (np.array(SHAPE) / 2))
        of_patient = np.linalg.inv(pose) @ grid
        lesions = [(*place, radius(each)) for place, each in zip(PLACES, ml, strict=True) if each]
        brain = make_brain(of_patient, SHAPE, tuple(lesions)).to_native()
        places = nib.affines.apply_affine(of_patient, np.moveaxis(np.indices(SHAPE), 0, -1))
        depth = np.full(SHAPE, -40.0)
        for *place, reach in lesions:
            depth = np.maximum(depth, reach - np.linalg.norm(places - place, axis=-1))
        score = np.where(brain > 0, 1 / (1 + np.exp(-depth / 2)), 0).astype(np.float32)
        folder = tmp_path / name
        folder.mkdir()
        nib.save(scan(nib.Nifti1Image(brain, grid)), folder / "scan.nii.gz")
        volume = read_volume(folder / "scan.nii.gz")
        anomaly = volume.with_data(volume_from_native(score, grid).data)
        detection = replace(
            make_detection(volume),
            anomaly=anomaly.with_data(0.2 * anomaly.data) if dark else anomaly,
            brightness=anomaly.with_data(-anomaly.data) if dark else None,
            reconstruction=volume,
            brain_mask=volume.with_data(volume.data != 0),
        )
        labels, findings = computed_findings(detection, 0.5, 0.1)
        given = {"threshold": 0.5, "minimum_ml": 0.1, "checkpoint": checkpoint} | more
        outputs = CaseOutputs(CaseInputs(volume), detection, labels, findings, **given)
        return write_case(outputs, folder, WriteOptions())["record"]

    return make


def read(out: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (out / "comparison_changes.csv").open(newline="") as file:
        return json.loads((out / "comparison.json").read_text()), list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("degrees", "shift"),
    [((0, 0, 0), (0, 0, 0)), ((10, 0, 0), (15, 0, 0)), ((-4, 6, 7), (9, -9, 8))],
)
def test_known_changes_are_found_after_a_known_motion(
    make_result: ResultMaker, tmp_path: Path, degrees: Any, shift: Any
) -> None:
    pose = turned(degrees, shift)
    before, after = make_result("before"), make_result("after", AFTER, pose)
    files = {p: file_sha256(p) for each in (before, after) for p in each.parent.iterdir()}
    done = invoke(["compare", before, after.parent, "-o", tmp_path / "out"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(
        "1 new, 1 grown, 1 shrunk, 1 unchanged, 1 gone, 0 uncertain, 0 not covered\n"
    )
    assert {p: file_sha256(p) for p in files} == files, "the results are left as they are"
    record, rows = read(tmp_path / "out")

    off = np.linalg.inv(pose) @ record["registration"]["matrix"]
    assert np.degrees(Rotation.from_matrix(off[:3, :3]).magnitude()) < 0.5
    angle = np.degrees(Rotation.from_matrix(pose[:3, :3]).magnitude())
    assert record["registration"]["rotation_degrees"] == pytest.approx(angle, abs=0.5)
    assert len(rows) == len(record["changes"]) == len(PLACES)
    centers = np.array([[float(row[axis]) for axis in XYZ] for row in rows])
    for place, first, last, kind in zip(PLACES, BEFORE, AFTER, KINDS, strict=True):
        apart = np.linalg.norm(centers - place, axis=1)
        assert apart.min() < 3
        row = rows[int(apart.argmin())]
        assert row["kind"] == kind
        assert float(row["before_ml"]) == pytest.approx(first, rel=0.15)
        assert float(row["change_ml"]) == pytest.approx(last - first, rel=0.15, abs=0.5)
        if first and last:
            growth = 2 * (radius(last) - radius(first))
            assert float(row["change_mm"]) == pytest.approx(growth, abs=3)

    scan = read_volume(before.parent / "scan.nii.gz")
    for name, read_map in (("anomaly", read_volume), ("labels", read_labels)):
        one, other = (read_map(tmp_path / "out" / f"comparison_{d}_{name}.nii.gz") for d in DATES)
        assert one.same_grid(scan, 1e-3)
        assert other.same_grid(scan, 1e-3)
        saved = read_map(case_paths(before.parent, "scan")[name]).data
        np.testing.assert_array_equal(one.data, saved)
        both = (one.data > 0.5) & (other.data > 0.5)
        assert both.any(), "what is unchanged lies at the same voxels"


def test_findings_of_the_brightness_are_as_sure_as_others(
    make_result: ResultMaker, tmp_path: Path
) -> None:
    before, after = make_result("before", dark=True), make_result("after", AFTER, dark=True)
    done = invoke(["compare", before, after, "-o", tmp_path / "out"])
    assert done.stdout.startswith(
        "1 new, 1 grown, 1 shrunk, 1 unchanged, 1 gone, 0 uncertain, 0 not covered\n"
    )


def test_the_page_needs_nothing_else_and_escapes_names(
    make_result: ResultMaker, tmp_path: Path
) -> None:
    before, after = make_result("before"), make_result("after", AFTER)
    renamed = after.parent / "<b>&.nii.gz"
    (after.parent / "scan.nii.gz").rename(renamed)
    content = json.loads(after.read_text())
    content["input"]["name"] = renamed.name
    after.write_text(json.dumps(content))
    done = invoke(["compare", before, after, "-o", tmp_path / "out"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<b>&.nii" not in page
    assert "&lt;b&gt;&amp;.nii.gz" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Nothing here checks that they show the same patient" in page
    assert page.count("data:image/jpeg") == 2 * len(PLACES) + 2 * 6


def as_noise(image: Any) -> Any:
    noise = np.random.default_rng(0).uniform(50, 150, image.shape).astype(np.float32)
    return nib.Nifti1Image(np.where(image.get_fdata() > 0, noise, 0), image.affine)


def without_sides(image: Any) -> Any:
    unknown = nib.Nifti1Image(image.get_fdata().astype(np.float32), None)
    unknown.header.set_zooms(image.header.get_zooms())
    return unknown


def test_a_doubtful_registration_matches_nothing(make_result: ResultMaker, tmp_path: Path) -> None:
    out, before = tmp_path / "out", make_result("before")
    assert invoke(["compare", before, make_result("after", AFTER), "-o", out]).exit_code == 0
    other = make_result("other", AFTER, scan=as_noise)
    done = invoke(["compare", before, other, "-o", out, "--overwrite"])
    assert done.exit_code == 1
    assert "The registration is doubtful, so no findings were matched" in done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["comparison.html", "comparison.json"]
    record = json.loads((out / "comparison.json").read_text())
    assert (record["matched"], record["changes"]) == (False, [])
    assert "no findings were matched" in (out / "comparison.html").read_text()


def test_what_makes_a_comparison_hard_is_said(make_result: ResultMaker, tmp_path: Path) -> None:
    before = make_result("before", decisions={2: Decision("rejected")})
    after = make_result("after", BEFORE, threshold=0.4, scan=without_sides)
    content = json.loads(after.read_text())
    content["settings"]["level"] += 50
    content["checkpoint"].update(name="another", weights_sha256="0" * 64)
    after.write_text(json.dumps(content))
    done = invoke(["compare", before, after, "-o", tmp_path / "out"])
    assert done.exit_code == 0, done.output
    for words in (
        "different models (tiny and another): their maps are not comparable",
        "different settings (Noise level): their maps are not comparable",
        "The threshold is 0.5 before and 0.4 after",
        "The scan after does not say which side is left",
        "Rejected findings are left out (1 before).",
    ):
        assert words in done.stderr
        assert words in (tmp_path / "out" / "comparison.html").read_text()
    record, rows = read(tmp_path / "out")
    assert [row["kind"] for row in rows].count("new") == 1, "what was rejected before"
    assert len(record["cautions"]) == len(done.stderr.splitlines())
    again = invoke(["compare", before, before, "-o", tmp_path / "same"])
    assert "Both results are of the same scan." in again.stderr
    assert again.stdout.startswith(
        "0 new, 0 grown, 0 shrunk, 3 unchanged, 0 gone, 0 uncertain, 0 not covered"
    )


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    make_result: ResultMaker, tmp_path: Path
) -> None:
    before, after, out = make_result("before"), make_result("after", AFTER), tmp_path / "out"

    def error(*arguments: object) -> str:
        done = invoke(["compare", *arguments, "-o", out])
        assert (done.exit_code, done.stdout) == (1, "")
        assert "bug" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not out.exists()
        return done.stderr

    assert "does not exist" in error(before, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no case" in error(tmp_path / "empty", after)
    moved = (after.parent / "scan.nii.gz").rename(tmp_path / "moved.nii.gz")
    assert "--after-scan" in error(before, after)
    scan = before.parent / "scan.nii.gz"
    assert "give the right file with --after-scan" in error(before, after, "--after-scan", scan)
    labels = case_paths(after.parent, "scan")["labels"]
    kept = labels.read_bytes()
    shutil.copy(case_paths(before.parent, "scan")["labels"], labels)
    assert "was changed since it was saved" in error(before, after, "--after-scan", moved)
    labels.unlink()
    assert "is not beside the record" in error(before, after, "--after-scan", moved)
    labels.write_bytes(kept)
    arguments = ["compare", before, after, "--after-scan", moved, "-o", out]
    assert invoke(arguments).exit_code == 0
    files = {path: path.read_bytes() for path in out.iterdir()}
    assert "use --overwrite" in invoke(arguments).stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == files
