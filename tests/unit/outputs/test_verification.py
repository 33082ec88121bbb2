"""A recorded run is repeated: the same, nearly the same, or different, and why."""

import contextlib
import csv
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import invoke

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.pipeline import Progress, detect
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.findings.decisions import Decision
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.hashing import file_sha256, voxels_sha256
from napari_addm.io.reading import read_labels, read_volume
from napari_addm.io.remarks import Kind
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.comparison import compare_maps
from napari_addm.outputs.contents import CaseInputs, CaseOutputs
from napari_addm.outputs.record import read_record
from napari_addm.outputs.run_case import (
    CasePlan,
    CaseRequest,
    CaseResult,
    finish,
    measure_case,
    plan_case,
    run_case,
)
from napari_addm.outputs.verification import verify

DECISIONS = "Decisions and notes on findings are a person's and are not verified."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, brain_folder: Path) -> CaseResult:
    """A run in a copy of `brain_folder`, with its files in ``out``."""
    folder = Path(shutil.copytree(brain_folder, tmp_path_factory.mktemp("runs") / "finished"))
    request = CaseRequest(
        folder / "scan.nii.gz",
        folder / "out",
        folder / "model.safetensors",
        mask=folder / "mask.nii.gz",
        truth=folder / "truth.nii.gz",
        settings=DetectionSettings(draws=2, steps=2, precision="float32"),
        threshold=0.05,
    )
    return finish(run_case(request))


@pytest.fixture(scope="module")
def finished(run: CaseResult) -> Path:
    """The folder of `run`."""
    return run.paths["record"].parents[1]


@pytest.fixture
def case(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "case"))


def record_of(case: Path) -> Path:
    return case / "out" / "scan_record.json"


def edit_record(case: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(record_of(case).read_text())
    change(record)
    record_of(case).write_text(json.dumps(record))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Change the voxels of a file; returns them."""
    volume = read_labels(path) if "labels" in path.name else read_volume(path)
    changed = volume.with_data(change(volume.data.copy()))
    write_volume(path.with_name("new.nii.gz"), changed).replace(path)
    return changed.data


def write_other_scores(outputs: CaseOutputs, case: Path, by: float, **edited: Any) -> None:
    """Write a run whose scores are a bit others, as if other hardware had made it."""
    detection, anomaly = outputs.detection, outputs.detection.anomaly
    noise = np.random.default_rng(0).uniform(-by, by, anomaly.shape).astype(np.float32)
    moved = anomaly.with_data(anomaly.data + noise * (anomaly.data != 0))
    plan = CasePlan(detection.settings, outputs.threshold, outputs.minimum_ml)
    detection = replace(detection, anomaly=moved, device="cuda:0")
    again = measure_case(outputs.inputs, detection, outputs.checkpoint, plan, edited.get("labels"))
    write_case(replace(again, **edited), case / "out", WriteOptions(overwrite=True))
    edit_record(case, lambda record: record["versions"].update(torch="1.0"))


def test_the_same_in_words_and_in_json(case: Path) -> None:
    command = ["verify", record_of(case)]
    words, found = invoke(command), invoke([*command, "--json"])
    assert (words.exit_code, found.exit_code, found.stderr) == (0, 0, "")
    assert "voxel for voxel" in words.stdout
    assert json.loads(found.stdout) == {
        "verdict": "identical",
        "problems": [],
        "differences": [],
        "notes": [DECISIONS],
        "environment": {},
    }


@pytest.mark.parametrize(
    "names",
    [("found_by",), ("found_by", "longest_mm", "across_mm", "product_mm2", "widest_slice")],
)
def test_a_record_of_an_earlier_version(case: Path, names: tuple[str, ...]) -> None:
    def make_earlier(record: dict[str, Any]) -> None:
        for finding in record["findings"]:
            for name in names:
                del finding[name]

    edit_record(case, make_earlier)
    table = case / "out" / "scan_findings.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    left = [name for name in rows[0] if name not in names]
    lines = [",".join(row[name] for name in left) for row in rows]
    table.write_text("\n".join([",".join(left), *lines]) + "\n")
    edit_record(
        case,
        lambda record: record["outputs"]["findings"].update(sha256=file_sha256(table)),
    )
    assert verify(record_of(case)).verdict == "identical"


def test_diameters_that_were_changed_are_named(case: Path) -> None:
    edit_record(case, lambda record: record["findings"][0].update(longest_mm=99.0))
    found = verify(record_of(case))
    assert found.verdict == "different"
    assert any(words.startswith("findings[0].longest_mm: 99.0") for words in found.problems)


def test_a_record_of_the_version_before(case: Path) -> None:
    """Its warnings are plain sentences in other words, which count as cautions."""

    def as_before(record: dict[str, Any]) -> None:
        record["schema_version"] = 3
        record["warnings"] = ["taken as already skull-stripped"]
        for flag in record["quality"]["flags"]:
            del flag["detail"]
            flag["message"] = "voxels are far apart"

    edit_record(case, as_before)
    record = read_record(record_of(case))
    assert {each.kind for each in record.remarks} == {Kind.CAUTION}
    found = verify(record_of(case))
    assert (found.verdict, found.problems) == ("identical", [])
    assert any("an earlier form" in note for note in found.notes)


def test_inputs_elsewhere_and_stored_otherwise(case: Path, tmp_path: Path) -> None:
    """Files are known by what they hold, wherever they are and whatever they are called."""
    (case / "scan.nii.gz").rename(tmp_path / "renamed.nii.gz")
    with pytest.raises(AddmError, match=r"scan\.nii\.gz was not found .* say where .* --scan"):
        verify(record_of(case))
    canonical = nib.as_closest_canonical(nib.load(tmp_path / "renamed.nii.gz"))
    nib.save(canonical, tmp_path / "canonical.nii")
    assert verify(record_of(case), scan=tmp_path / "canonical.nii").verdict == "identical"
    (case / "mask.nii.gz").unlink()
    with pytest.raises(AddmError, match=r"brain mask mask\.nii\.gz was not found"):
        verify(record_of(case), scan=tmp_path / "renamed.nii.gz")


@pytest.mark.parametrize("output", ["raw/derivatives/napari-addm", "results"])
def test_the_scan_of_bids_derivatives_is_found_by_its_content(
    finished: Path, tmp_path: Path, output: str
) -> None:
    name = "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    for dataset in ("raw", "older"):
        (tmp_path / dataset / name).parent.mkdir(parents=True)
    scan = Path(shutil.copy(finished / "scan.nii.gz", tmp_path / "raw" / name))
    shutil.copy(finished / "mask.nii.gz", tmp_path / "older" / name)
    settings = DetectionSettings(regions=False, steps=1, slices=(15,), precision="float32")
    model = finished / "model.safetensors"
    request = CaseRequest(scan, tmp_path / output, model, settings=settings)
    record = finish(run_case(request)).paths["record"]
    assert verify(record, model=model).verdict == "identical"


@pytest.mark.parametrize(
    ("by", "mm", "words"), [(1, 0, "has other voxels"), (0, 2, "puts them up to 2 mm elsewhere")]
)
def test_another_scan_is_refused(case: Path, by: float, mm: float, words: str) -> None:
    image = nib.load(case / "scan.nii.gz")
    data, affine = image.get_fdata(dtype=np.float32), image.affine.copy()
    data[20, 25, 15] += by
    affine[0, 3] += mm
    (case / "scan.nii.gz").unlink()
    nib.save(nib.Nifti1Image(data, affine), case / "scan.nii.gz")
    with pytest.raises(AddmError, match=words):
        verify(record_of(case))


def test_another_model_is_refused(case: Path) -> None:
    (case / "model.safetensors").unlink()
    with pytest.raises(AddmError, match=r"the model model\.safetensors was not found"):
        verify(record_of(case))
    with pytest.raises(AddmError, match="is another model"):
        verify(record_of(case), model=DEMO_CHECKPOINT)


def test_changed_files_are_named(case: Path) -> None:
    out = case / "out"
    rewrite(out / "scan_anomaly.nii.gz", lambda data: data + np.float32(0.25))
    rewrite(out / "scan_labels.nii.gz", lambda data: np.roll(data, 1))
    (out / "scan_findings.csv").write_text("99\n")
    (out / "scan_recon.nii.gz").unlink()
    found = verify(record_of(case))
    assert found.verdict == "different"
    *changed, table = found.problems
    assert changed == [
        "scan_anomaly.nii.gz was changed since it was saved.",
        "scan_labels.nii.gz was changed since it was saved.",
        "scan_recon.nii.gz is not beside the record.",
        "scan_findings.csv was changed since it was saved.",
    ]
    assert table.startswith("scan_findings.csv, line 1: 99 in the file, id,volume_ml,")
    assert found.differences == []  # the run gives the recorded maps again


def test_within_the_tolerance(run: CaseResult, case: Path) -> None:
    write_other_scores(run.outputs, case, 1e-6)
    found = verify(record_of(case))
    assert found.verdict == "same"
    assert found.environment.keys() == {"device", "torch"}
    anomaly = next(each for each in found.differences if each.what == "anomaly")
    assert 0 < anomaly.largest < 2e-6
    words = "\n".join(found.lines())
    assert "within the tolerance" in words
    assert "device cuda:0 then, cpu now" in words


def test_metrics_need_the_ground_truth(case: Path, tmp_path: Path) -> None:
    edit_record(case, lambda record: record["metrics"].update(dice=0.9))
    truth = (case / "truth.nii.gz").rename(tmp_path / "truth.nii.gz")
    found = verify(record_of(case))
    assert found.verdict == "identical"
    assert found.notes[0].startswith("The metrics were not verified: ")
    done = invoke(["verify", record_of(case), "--ground-truth", truth])
    assert done.exit_code == 1
    assert "metrics.dice: 0.9 in the record, 0.03" in done.stdout


def test_beyond_the_tolerance(run: CaseResult, case: Path) -> None:
    write_other_scores(run.outputs, case, 0.1)
    done = invoke(["verify", record_of(case), "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["verdict"]) == (1, "different")
    anomaly = next(each for each in found["differences"] if each["what"] == "anomaly")
    assert anomaly["share"] > 0.02
    assert anomaly["voxels"] > 1000


def test_edits_before_saving_are_no_difference(run: CaseResult, case: Path) -> None:
    labels = run.outputs.labels.copy()
    labels[0, 0, :4] = 9
    decisions = {9: Decision("accepted", "four voxels")}
    write_other_scores(run.outputs, case, 1e-6, labels=labels, decisions=decisions)
    found = verify(record_of(case))
    assert found.problems == []
    assert found.verdict == "same"
    assert any("edited the labels before they were saved (4 voxels)" in n for n in found.notes)
    assert DECISIONS in found.notes

    def swell(record: dict[str, Any]) -> None:
        record["findings"][-1]["volume_ml"] *= 100

    edit_record(case, swell)
    problem = next(each for each in verify(record_of(case)).problems if "volume_ml" in each)
    place = len(json.loads(record_of(case).read_text())["findings"]) - 1
    assert re.match(rf"findings\[{place}\]\.volume_ml: 3[12]\.\d+ in the record, 0\.3", problem)


def test_another_threshold_gives_other_findings(case: Path) -> None:
    edit_record(case, lambda record: record.update(threshold=0.5))
    assert {problem.split(":")[0] for problem in verify(record_of(case)).problems} >= {
        "labels.computed_voxels_sha256",
        "labels.edited_voxels",
    }


def test_files_that_were_falsified_with_their_hashes(case: Path) -> None:
    """Each is called different at its place, though the record has its new hash."""
    out = case / "out"
    anomaly, labels, table = (
        out / f"scan_{name}" for name in ("anomaly.nii.gz", "labels.nii.gz", "findings.csv")
    )
    whole = {path: path.read_bytes() for path in (anomaly, labels, table, record_of(case))}

    def problems(key: str, entry: dict[str, Any]) -> str:
        edit_record(case, lambda record: record["outputs"][key].update(entry))
        found = verify(record_of(case))
        assert found.verdict == "different"
        for path, content in whole.items():
            path.write_bytes(content)
        return "\n".join((*found.problems, *map(str, found.differences)))

    erased = rewrite(labels, lambda data: data * (np.arange(data.shape[2]) < 18))
    words = problems("labels", {"voxels_sha256": voxels_sha256(erased)})
    assert "labels.edited_voxels: 0 in the record," in words
    assert "findings[0].voxels:" in words
    doubled = rewrite(anomaly, lambda data: data * 2)
    words = problems("anomaly", {"voxels_sha256": voxels_sha256(doubled)})
    assert "anomaly: " in words
    assert "findings[0].peak:" in words
    table.write_text(table.read_text().splitlines()[0] + "\n")
    words = problems("findings", {"sha256": file_sha256(table)})
    assert words.startswith("scan_findings.csv, line 2: ")
    table.write_text(table.read_text() + "\n" * 10_000 + "1,99.0,left\n")
    words = problems("findings", {"sha256": file_sha256(table)})
    assert re.search(r"scan_findings.csv, line \d+:  in the file, nothing by the record", words)
    image = nib.load(labels)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4)[3]), labels)
    assert "lies on another grid than the scan" in problems("labels", {})
    recon = read_record(record_of(case)).outputs["recon"].model_dump()
    assert "anomaly: " in problems("anomaly", recon)


# What a repetition cannot tell, or on what its result does not depend.
NOT_VERIFIABLE = re.compile(
    r"created_utc|seen|seconds\..*|minimum_ml|settings\.(batch_size|context_mm|device|precision)"
)
ELSEWHERE = re.compile(r"device|precision|threads|versions\..*")


def leaves(tree: Any, *place: str | int) -> Iterator[tuple[str | int, ...]]:
    """The places of all values, and of all empty lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in inner:
        if isinstance(value, dict | list) and value:
            yield from leaves(value, *place, key)
        else:
            yield *place, key


def falsify(path: Path, place: tuple[str | int, ...]) -> bool:
    """Put another value into a record; tells whether any can be read."""
    whole = json.loads(path.read_text())
    node = whole
    for key in place[:-1]:
        node = node[key]
    value = node[place[-1]]
    others: list[Any] = ["left", "right", "mask", "symmetry", "found", "accepted", "ddpm", "ssim"]
    others += ["a" * 64, [1], ["x"], f"{value}x", 7, 7.5]
    if isinstance(value, int | float):
        others = [not value] if isinstance(value, bool) else [value * 2 + 1, value * 1000.0 + 1]
    for other in others:
        if other != value:
            node[place[-1]] = other
            path.write_text(json.dumps(whole))
            with contextlib.suppress(AddmError):
                read_record(path)
                return True
    return False


def test_no_field_can_be_falsified_unnoticed(finished: Path, tmp_path: Path) -> None:
    """Fields that stop no run and change no map are falsified together, and each is named."""
    case = Path(shutil.copytree(finished, tmp_path / "case"))
    path, whole = record_of(case), record_of(finished).read_text()
    groups = defaultdict(list)
    derived = {"checkpoint", "labels", "metrics", "midline", "quality"}
    derived |= {"seconds", "versions", "warnings"}
    for place in leaves(json.loads(whole)):
        group = place[:1] if place[0] in derived else place[:2]
        groups[("outputs", place[-1]) if place[0] == "outputs" else group].append(place)
    for places in groups.values():
        path.write_text(whole)
        readable = [place for place in places if falsify(path, place)]
        try:
            found = verify(path)
        except AddmError:
            continue  # refused in words
        words = "\n".join((*found.problems, *found.notes))
        for place in readable:
            name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)[1:]
            if ELSEWHERE.fullmatch(name):
                assert str(place[-1]) in found.environment
            elif name == "truth.name":
                assert "The metrics were not verified: " in words
            elif place[0] == "outputs" or len(places) == 1:
                named = f"{name}: " in words or NOT_VERIFIABLE.fullmatch(name)
                assert found.verdict == "different" or named, name
            elif not NOT_VERIFIABLE.fullmatch(name):
                assert f"{name.partition('[')[0] if place[0] == 'warnings' else name}: " in words


def test_another_seed_is_different(case: Path) -> None:
    edit_record(case, lambda record: record["settings"].update(seed=1))
    found = verify(record_of(case))
    assert found.verdict == "different"
    assert {each.what for each in found.differences} >= {"anomaly", "uncertainty"}


def test_some_slices(case: Path) -> None:
    settings = DetectionSettings(regions=False, steps=1, slices=(15,), precision="float32")
    model = case / "model.safetensors"
    request = CaseRequest(case / "scan.nii.gz", case / "some", model, settings=settings)
    assert verify(finish(run_case(request)).paths["record"]).verdict == "identical"


def test_a_run_that_was_stopped(case: Path) -> None:
    """It had no neighbors but the slices that were done."""
    scan = read_volume(case / "scan.nii.gz")
    checkpoint = load_checkpoint(case / "model.safetensors")
    settings = DetectionSettings(precision="float32", device="cpu", batch_size=2)
    seen: list[Progress] = []

    def is_half_done() -> bool:
        return any(each.stage == "reconstruct" and 2 * each.done > each.total for each in seen)

    seen.extend(detect(scan, checkpoint, settings, cancelled=is_half_done))
    detection = seen[-1].result
    assert detection is not None
    assert 0 < detection.done.sum() < len(detection.done)
    plan = plan_case(checkpoint.specification, settings, threshold=0.05, minimum_ml=0.1)
    outputs = measure_case(CaseInputs(scan), detection, checkpoint, plan)
    record = write_case(outputs, case / "stopped")["record"]
    assert verify(record).verdict == "identical"


def test_the_sign_of_a_weak_brightness_is_rounding(run: CaseResult) -> None:
    record = read_record(run.paths["record"])
    detection = run.outputs.detection
    values = detection.anomaly.data.copy()
    now = replace(detection, brightness=detection.anomaly.with_data(values))
    saved = np.where(np.abs(values) <= record.threshold, -values, values)
    (weak,) = compare_maps(record, now, {"brightness": saved}, same_place=True)
    assert (weak.what, weak.voxels, weak.tolerable) == ("brightness", 0, True)
    strong = [
        each
        for each in compare_maps(record, now, {"brightness": -values}, same_place=True)
        if each.what == "brightness"
    ]
    assert values.max() > record.threshold
    assert not strong[0].tolerable
