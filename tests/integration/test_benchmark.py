"""Cases, calibration and the benchmark, on small brains and really trained, tiny models."""

import json
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_addm.benchmark.run import Benchmark, write_results
from napari_addm.benchmark.systems import BenchmarkSettings
from napari_addm.checkpoint.file import load_checkpoint, save_checkpoint
from napari_addm.errors import AddmError, InputError
from napari_addm.training.calibration import calibrate
from napari_addm.training.labelled_scans import (
    LabelledScan,
    find_cases,
    find_healthy,
    read_split,
)

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("lightning", "matplotlib", "SimpleITK"))),
    reason="needs the extra benchmark",
)

AFFINE = np.diag([4.0, 4.0, 5.0, 1.0])
SHAPE = (41, 48, 29)
AFFINE[:3, 3] = [-80, -95, -70]
PLACES = ((25.0, -20.0, 15.0, 16.0), (-30.0, 20.0, 10.0, 14.0), (20.0, 30.0, -5.0, 18.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_brain) -> Path:
    folder = tmp_path_factory.mktemp("study")

    def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, affine), path)

    for n in range(5):
        affine = AFFINE @ np.diag([1 + 0.01 * n, 1, 1, 1])
        brain = make_brain(affine, SHAPE)
        save(folder / "healthy" / f"sub-{n}_T1w.nii.gz", brain.to_native(), brain.source.affine)
    for n, place in enumerate(PLACES):
        brain = make_brain(AFFINE, SHAPE, (place,))
        plain = make_brain(AFFINE, SHAPE)
        lesion = (brain.to_native() != plain.to_native()).astype(np.uint8)
        save(folder / "tumour" / f"case-{n}" / "t1.nii.gz", brain.to_native(), AFFINE)
        save(folder / "tumour" / f"case-{n}" / "mask.nii.gz", lesion, AFFINE)
    split = {
        "healthy": {
            "train": ["sub-0", "sub-1"],
            "validation": ["sub-2"],
            "calibration": ["sub-3", "sub-4"],
        },
        "tumour": {"validation": ["case-0", "case-1"], "test": ["case-2"]},
    }
    (folder / "split.json").write_text(json.dumps(split))
    return folder


# --- cases ----------------------------------------------------------------------------------


def test_cases_are_grouped_as_the_split_says(data):
    cases = find_cases(data, read_split(data / "split.json"))
    groups = Counter(case.group for case in cases)
    assert groups == {"healthy/calibration": 2, "tumour/validation": 2, "tumour/test": 1}
    test = next(case for case in cases if case.group == "tumour/test")
    assert test.name == "case-2"
    assert test.lesion.any()
    assert test.brain[test.lesion].all()
    healthy = next(case for case in cases if case.truth is None)
    assert not healthy.lesion.any()


def test_what_cannot_be_measured_is_said_in_words(data, tmp_path):
    split = read_split(data / "split.json")
    with pytest.raises(InputError, match="no labelled validation cases"):
        find_cases(data, {**split, "tumour": {"test": ["case-2"]}})
    with pytest.raises(InputError, match=r"no scan of sub-99; correct split\.json"):
        find_cases(data, {**split, "healthy": {"calibration": ["sub-99"]}})
    with pytest.raises(InputError, match="cannot be used as a split file"):
        read_split(tmp_path / "split.json")


# --- calibration ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scanners(tmp_path_factory, make_brain) -> dict[str, list[LabelledScan]]:
    """Healthy brains of two scanners, and others for the norm."""
    folder = tmp_path_factory.mktemp("scanners")
    for n in range(16):
        affine = AFFINE @ np.diag([1 + 0.01 * (n % 8), 1 + 0.005 * (n % 3), 1, 1])
        brain = make_brain(affine, SHAPE)
        place = folder / ("healthy", "norm")[n // 8] / ("one", "two")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(brain.to_native(), brain.source.affine)
        nib.save(image, place / f"sub-{n}_T1w.nii.gz")
    return {
        kind: find_healthy([folder / kind / "one", folder / kind / "two"])
        for kind in ("healthy", "norm")
    }


CHANGES = {"steps": 1, "draws": 2}


@pytest.fixture(scope="module")
def calibrated(data, scanners, tiny_checkpoint):
    labelled = [
        case
        for case in find_cases(data, read_split(data / "split.json"))
        if case.group == "tumour/validation"
    ]
    return calibrate(
        load_checkpoint(tiny_checkpoint),
        scanners["healthy"],
        CHANGES,
        norm=scanners["norm"],
        labelled=labelled,
    )


def test_calibration_promises_what_it_then_finds(calibrated, scanners, tmp_path):
    from napari_addm.detection.pipeline import run
    from napari_addm.detection.preparation import prepare
    from napari_addm.detection.quality import check_quality
    from napari_addm.findings.computed import computed_labels

    specification = calibrated.specification
    detection = specification.detection
    assert (detection.steps, detection.draws) == (1, 2)
    assert detection.threshold_source.endswith("8 brains of one, two")
    alarms = detection.false_alarms
    assert alarms is not None
    assert alarms.scanners == {"one": 4, "two": 4}
    assert alarms.brains == "4 of 5 healthy brains"
    assert specification.evaluation["validation"]["cases"] == 2

    # the file carries it, and the brains have what the curve says
    path = save_checkpoint(tmp_path / "new.safetensors", specification, calibrated.weights)
    checkpoint = load_checkpoint(path)
    assert checkpoint.specification.detection == detection
    place = len(alarms.thresholds) // 2
    found: dict[float, list[float]] = {alarms.thresholds[place]: [], detection.threshold: []}
    for case in scanners["healthy"]:
        result = run(case.volume, checkpoint, brain_mask=case.brain)
        assert result.brightness is not None
        slices = prepare(case.volume, specification.preparation, case.brain)
        quality = check_quality(slices, specification, result)
        assert quality.unchecked == ()
        assert "reconstruction" not in {flag.key for flag in quality.flags}
        for threshold, volumes in found.items():
            labels = computed_labels(result, threshold, detection.minimum_ml)
            volumes.append((labels > 0).sum() * case.volume.voxel_ml)
    at_middle, at_default = found.values()
    assert np.mean(at_middle) == pytest.approx(alarms.mean_ml[place], rel=0.02, abs=0.01)
    assert max(at_middle) == pytest.approx(alarms.promised[place], rel=0.02, abs=0.01)
    assert max(at_default) <= 1.0


def test_brightness_takes_nothing_from_the_promise(calibrated, scanners):
    from napari_addm.detection.pipeline import run
    from napari_addm.findings.computed import computed_labels

    default = calibrated.specification.detection
    case = scanners["healthy"][0]
    result = run(case.volume, calibrated, brain_mask=case.brain)
    blank = replace(result, anomaly=result.anomaly.with_data(result.anomaly.data * 0))
    assert not computed_labels(blank, default.threshold, default.minimum_ml).any()


def test_labelled_cases_change_no_default(calibrated, scanners, tiny_checkpoint):
    again = calibrate(
        load_checkpoint(tiny_checkpoint), scanners["healthy"], CHANGES, norm=scanners["norm"]
    )
    assert again.specification.detection == calibrated.specification.detection


def test_a_local_calibration_keeps_the_norm(calibrated, scanners):
    mine = [scan for each in scanners.values() for scan in each if scan.group == "two"]
    local = calibrate(calibrated, mine[:5])
    assert local.weights.keys() == calibrated.weights.keys()
    before = calibrated.specification.detection.healthy_norm
    assert local.specification.detection.healthy_norm == before
    promise = local.specification.evaluation["promise"]
    assert promise["two"]["subjects"] == 5
    other = before and calibrated.specification.detection.score.model_copy(
        update={"smoothing_mm": 6.0}
    )
    changed = calibrate(calibrated, mine[:5], {"score": other})
    assert changed.specification.detection.healthy_norm is None
    assert changed.weights.keys() == calibrated.network_weights.keys()


def test_a_few_healthy_brains_promise_nothing(scanners, tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="4 healthy brains promise nothing about others"):
        calibrate(load_checkpoint(tiny_checkpoint), scanners["healthy"][:4])
    six = [*scanners["healthy"][:5], scanners["healthy"][2]]
    with pytest.raises(InputError, match="are the same scan: take one of them away"):
        calibrate(load_checkpoint(tiny_checkpoint), six)
    folders = [tmp_path / part / "same" for part in ("a", "b")]
    with pytest.raises(InputError, match="Two folders are named same"):
        find_healthy(folders)


# --- the benchmark --------------------------------------------------------------------------

SETTINGS = BenchmarkSettings(
    systems=("intensity", "template", "spatial_ae"),
    iterations=2,
    draws=1,
    anoddpm_steps=2,
    device="cpu",
)
QUIET = {"accelerator": "cpu", "precision": "32", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def finished(data, tiny_checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    settings = replace(
        SETTINGS,
        checkpoints=(tiny_checkpoint,),
        curve_systems=(f"checkpoint-{tiny_checkpoint.stem}",),
        curve_steps=(1, 2),
        curve_levels=(0.1,),
    )
    run = Benchmark(data, output, settings)
    run.train_missing(**QUIET)
    results = run.results("napari-addm benchmark")
    return output, settings, results, write_results(results, output)


@pytest.mark.filterwarnings("ignore")
def test_every_system_is_measured_on_every_case(finished):
    output, _, results, paths = finished
    titles = {"Intensity, no model", "Template (affine)", "AE (spatial)", "tiny"}
    assert {m["title"] for m in results["methods"]} == titles
    strict = [r for r in results["cases"] if r["protocol"] == "strict"]
    per_case = Counter((r["method"], r["case"]) for r in strict)
    assert {m for m, _ in per_case} == titles
    assert {c for _, c in per_case} == {"case-0", "case-1", "case-2"}
    for row in strict:
        assert 0 < row["prevalence"] < 0.2
        assert 0 <= row["auroc"] <= 1
    anoddpm = {r["method"] for r in results["cases"] if r["protocol"] == "anoddpm"}
    assert anoddpm == titles - {"Intensity, no model"}
    assert {c["kind"] for c in results["curves"]} == {"steps", "level"}
    assert {h["method"] for h in results["healthy"]} == titles
    assert all(h["false_positive_ml"] >= 0 for h in results["healthy"])
    for row in results["pictures"]:
        for column in row["columns"]:
            assert (output / column["path"]).is_file()
    assert [p.name for p in paths] == ["report.html", "results.csv", "results.json"]
    page = paths[0].read_text()
    assert all(title in page for title in titles)
    assert json.loads(paths[2].read_text())["data"]["groups"]["tumour/test"] == 1


def test_every_system_is_compared_with_the_template(finished):
    _, _, results, paths = finished
    template = results["baseline"]
    assert template == "Template (affine)"
    strict = [
        row
        for row in results["comparisons"]
        if (row["protocol"], row["metric"]) == ("strict", "auprc")
    ]
    others = {method["title"] for method in results["methods"]} - {template}
    assert {row["first"] for row in strict if row["second"] == template} == others
    # two subjects have a range, and tests of the same cases are one family
    for row in strict:
        if row["group"] == "tumour/validation":
            assert (row["low"], row["n"]) == (None, 2)
            assert row["least"] <= row["difference"] <= row["most"]
        assert row["p_holm"] >= row["p"]
    assert f"gain over {template}" in paths[0].read_text()


def test_the_threshold_comes_from_validation_alone(finished):
    _, _, results, _ = finished
    rows = [row for row in [*results["cases"], *results["healthy"]] if "threshold" in row]
    thresholds = {(row["method"], row["score"], row["threshold"]) for row in rows}
    assert len(thresholds) == len({(row["method"], row["score"]) for row in rows}) > 0


def test_means_are_those_of_the_cases_under_the_chosen_score(finished):
    _, _, results, _ = finished
    where = ("strict", "tumour/validation")
    for row in results["summary"]:
        if (row["protocol"], row["group"], row["metric"]) == (*where, "dice"):
            score = results["chosen_scores"][row["method"]]
            values = [
                case["dice"]
                for case in results["cases"]
                if (case["protocol"], case["group"]) == where
                and (case["method"], case["score"]) == (row["method"], score)
            ]
            assert len(values) == row["n"] == 2
            assert row["mean"] == pytest.approx(np.mean(values))


@pytest.mark.filterwarnings("ignore")
def test_again_nothing_is_computed_and_nothing_changes(data, finished):
    output, settings, results, _ = finished

    def kept():
        folders = ("models", "maps", "strict", "anoddpm", "curves")
        files = [path for folder in folders for path in (output / folder).rglob("*.*")]
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    before, lines = kept(), []
    again = Benchmark(data, output, settings, lines.append)
    again.train_missing()
    repeated = again.results("napari-addm benchmark")
    assert {**repeated, "created": ""} == {**results, "created": ""}
    assert kept() == before
    assert lines == []


@pytest.mark.filterwarnings("ignore")
def test_another_seed_is_another_training_and_the_same_seed_the_same(data, finished, tmp_path):
    settings = replace(SETTINGS, systems=("spatial_ae",), seeds=(0, 1))
    run = Benchmark(data, tmp_path, settings)
    run.train_missing(**QUIET)
    (system,) = run.systems
    paths = [Benchmark(data, finished[0], settings).model_path(system, 0)]
    paths += [run.model_path(system, seed) for seed in (0, 1)]
    first, again, other = (load_checkpoint(p).specification.weights_sha256 for p in paths)
    assert first == again
    assert first != other


def test_what_is_missing_is_said_in_words(data, tmp_path):
    with pytest.raises(AddmError, match="no system gan"):
        Benchmark(data, tmp_path, replace(SETTINGS, systems=("gan",)))
    settings = replace(SETTINGS, systems=("intensity", "spatial_ae"), iterations=None)
    run = Benchmark(data, tmp_path, settings)
    with pytest.raises(AddmError, match="--minutes or --iterations"):
        run.train_missing()
    with pytest.raises(AddmError, match="not trained yet"):
        run.results()
