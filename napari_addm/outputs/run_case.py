"""One way through a case: read, detect, measure, write.

`run_case` does all of it. `read_case`, `detect_case`, `measure_case` and
`napari_addm.outputs.case.write_case` do one part each, for programs that do the parts of several
cases side by side.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_addm.checkpoint.file import Checkpoint, load_checkpoint, read_specification
from napari_addm.checkpoint.specification import ModelSpecification
from napari_addm.detection.pipeline import Detection, Progress, detect
from napari_addm.detection.preparation import ModelSlices
from napari_addm.detection.presets import Preset, with_preset
from napari_addm.detection.quality import check_quality
from napari_addm.detection.settings import DetectionSettings, resolve
from napari_addm.errors import AddmError
from napari_addm.findings.computed import computed_findings, measured_findings
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.io.dicom import Series, series_at
from napari_addm.io.dicom_header import is_dicom
from napari_addm.io.dicom_volume import read_series
from napari_addm.io.names import stem
from napari_addm.io.reading import read_beside, read_volume
from napari_addm.io.remarks import Remark
from napari_addm.io.volume import Volume
from napari_addm.metrics.evaluation import evaluate
from napari_addm.outputs.case import WriteOptions, write_case
from napari_addm.outputs.contents import CaseInputs, CaseOutputs, GivenRegion
from napari_addm.outputs.dicom_seg import check_seg
from napari_addm.outputs.folder import check_outputs, claim_outputs
from napari_addm.outputs.naming import case_paths
from napari_addm.registry import METHODS

T = TypeVar("T")


@dataclass(frozen=True)
class CaseRequest:
    """What is to be done with one scan.

    Attributes
    ----------
    scan : Path
        A scan's file, a folder with DICOM images, or one of the images.
    folder : Path
        Where the files go.
    mask, truth : Path, optional
        Brain mask and ground truth; nonzero counts.
    frame : int, optional
        Which frame of a 4D scan.
    series : int, optional
        Number of the series in a DICOM folder; its only T1 by default.
    resample_mask, resample_truth : bool
        Bring mask or truth to the scan's grid.
    preset : str
        Fills in what `settings` leave open; see `napari_addm.detection.presets.with_preset`.
    threshold, minimum_ml : float, optional
        As in `CasePlan`; the checkpoint's own by default.
    name : str
        How the files' names begin; the scan's name by default.
    """

    scan: Path
    folder: Path
    checkpoint: Path = DEMO_CHECKPOINT
    mask: Path | None = None
    truth: Path | None = None
    frame: int | None = None
    series: int | None = None
    resample_mask: bool = False
    resample_truth: bool = False
    settings: DetectionSettings = field(default_factory=DetectionSettings)
    preset: Preset = "standard"
    threshold: float | None = None
    minimum_ml: float | None = None
    write: WriteOptions = field(default_factory=WriteOptions)
    name: str = ""


@dataclass(frozen=True)
class CasePlan:
    """How scans are run, with every default filled in; see `plan_case`.

    Attributes
    ----------
    threshold : float
        Voxels with a higher score belong to findings.
    minimum_ml : float
        Volume of the smallest finding, mL.
    """

    settings: DetectionSettings
    threshold: float
    minimum_ml: float


@dataclass(frozen=True, eq=False)
class CaseResult:
    """A case that is written, with its files by their keys, and its seconds per stage."""

    outputs: CaseOutputs
    paths: dict[str, Path]
    seconds: dict[str, float]


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of a ``with`` block to a stage."""
    started = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started


def run_case(request: CaseRequest) -> Generator[Progress, None, CaseResult]:
    """Detect anomalies in a scan and write the files of the case.

    Whatever can be refused is refused before the network runs. Closing the generator cancels the
    case; nothing is written then.

    Yields
    ------
    Progress
        Of the detection.

    Raises
    ------
    AddmError
        When an input cannot be used, the settings do not fit the checkpoint, or the folder
        cannot be written to.
    """
    started, seconds = time.perf_counter(), dict[str, float]()
    series = choose_series(request)
    name = request.name or (stem(request.scan) if series is None else series.name)
    with claim_outputs(request.folder, name), _says_what_is_there(request.folder, name):
        specification = read_specification(request.checkpoint)
        plan = plan_case(
            specification, request.settings, request.preset, request.threshold, request.minimum_ml
        )
        given = (path for path in (request.scan, request.truth, request.mask) if path is not None)
        check_outputs(request.folder, name, request.write.overwrite, given)
        with timed(seconds, "read"):
            inputs = read_case(request, series)
            if request.write.dicom_seg:
                check_seg(inputs.scan)
        with timed(seconds, "import"):  # so that this time does not count as loading
            METHODS[specification.method].load()
        with timed(seconds, "load"):
            checkpoint = load_checkpoint(request.checkpoint)
        detection = yield from detect_case(inputs, checkpoint, plan.settings)
        outputs = measure_case(inputs, detection, checkpoint, plan)
        for stage, spent in (outputs.seconds or {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        outputs = replace(outputs, seconds=dict(seconds), name=name)
        with timed(seconds, "write"):
            paths = write_case(outputs, request.folder, request.write)
    seconds["total"] = time.perf_counter() - started
    return CaseResult(outputs, paths, seconds)


@contextlib.contextmanager
def _says_what_is_there(folder: Path, name: str) -> Iterator[None]:
    """Let a Ctrl-C that comes after the files have their names say so."""
    record = case_paths(folder, name)["record"]

    def identity() -> int | None:
        return record.stat().st_ino if record.exists() else None

    before = identity()
    try:
        yield
    except KeyboardInterrupt as error:
        if identity() != before:
            error.add_note(f"Stopped; the files are written: {record.parent}")
        raise


def finish(
    steps: Generator[Progress, None, T], on_progress: Callable[[Progress], object] | None = None
) -> T:
    """Drive `run_case` or `detect_case` to its end, and return what it returns."""
    with contextlib.closing(steps):
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            if on_progress is not None:
                on_progress(progress)


def choose_series(request: CaseRequest) -> Series | None:
    """Choose the series of a DICOM folder or image; None where the scan is another file."""
    if request.scan.is_dir() or is_dicom(request.scan):
        return series_at(request.scan, request.series)
    if request.series is not None:
        raise AddmError(f"--series needs a folder with DICOM images, and {request.scan} is none.")
    if request.write.dicom_seg:
        raise AddmError(
            f"--dicom-seg needs a folder with a DICOM series, and {request.scan} is none."
        )
    return None


def plan_case(
    specification: ModelSpecification,
    settings: DetectionSettings,
    preset: Preset = "standard",
    threshold: float | None = None,
    minimum_ml: float | None = None,
) -> CasePlan:
    """Fill in what a request leaves open, from its preset and its checkpoint.

    Raises
    ------
    AddmError
        When they do not fit the checkpoint.
    """
    default = specification.detection
    threshold = default.threshold if threshold is None else threshold
    minimum_ml = default.minimum_ml if minimum_ml is None else minimum_ml
    settings = resolve(with_preset(settings, preset, specification), specification)
    if not math.isfinite(threshold) or not 0 <= minimum_ml < math.inf:
        raise AddmError("The threshold has to be a number, and the smallest finding 0 mL or more.")
    return CasePlan(settings, float(threshold), float(minimum_ml))


def read_case(
    request: CaseRequest,
    series: Series | None = None,
    remedy: str = "add --resample-{} to bring it there",
) -> CaseInputs:
    """Read a scan with its brain mask and its ground truth.

    Parameters
    ----------
    series : Series, optional
        Read instead of the scan's file; see `choose_series`.
    remedy : str
        What an error says about another grid; ``{}`` stands for ``mask`` or ``truth``.

    Raises
    ------
    AddmError
        When one of them cannot be used, or does not lie where the scan lies.
    """
    scan = read_volume(request.scan, frame=request.frame) if series is None else read_series(series)
    mask, mask_notes = _read_region(
        "brain mask", request.mask, scan, request.resample_mask, remedy.format("mask")
    )
    truth, truth_notes = _read_region(
        "ground truth", request.truth, scan, request.resample_truth, remedy.format("ground-truth")
    )
    return CaseInputs(scan, mask, truth, (*mask_notes, *truth_notes))


def _read_region(
    what: str, path: Path | None, scan: Volume, resample: bool, remedy: str
) -> tuple[GivenRegion | None, list[Remark]]:
    if path is None:
        return None, []
    voxels, warnings = read_beside(what, path, scan, resample, remedy)
    return GivenRegion(voxels, path), warnings


def detect_case(
    inputs: CaseInputs,
    checkpoint: Checkpoint,
    settings: DetectionSettings,
    slices: ModelSlices | None = None,
) -> Generator[Progress, None, Detection]:
    """Detect anomalies; warnings of the inputs become warnings of the result.

    Parameters
    ----------
    slices : ModelSlices, optional
        The prepared scan, where it is prepared already.
    """
    mask = None if inputs.mask is None else inputs.mask.voxels
    detection = None
    for progress in detect(inputs.scan, checkpoint, settings, mask, partial=False, prepared=slices):
        yield progress
        detection = progress.result
    assert detection is not None  # the last progress always carries it
    return replace(detection, warnings=(*detection.warnings, *inputs.warnings))


def measure_case(
    inputs: CaseInputs,
    detection: Detection,
    checkpoint: Checkpoint,
    plan: CasePlan,
    labels: NDArray[np.integer] | None = None,
) -> CaseOutputs:
    """Label and measure the findings, compare them with the truth, and check the scan's quality.

    Parameters
    ----------
    labels : ndarray of int, shape (S, A, R), optional
        Measured instead of those that the threshold gives.
    """
    seconds, metrics, truth = dict(detection.seconds), None, inputs.truth
    with timed(seconds, "findings"):
        computed, findings = computed_findings(detection, plan.threshold, plan.minimum_ml)
        if labels is None:
            labels = computed
        else:
            findings = measured_findings(detection, labels)
    if truth is not None:
        with timed(seconds, "metrics"):
            metrics = evaluate(
                detection.highest,
                truth.voxels,
                threshold=plan.threshold,
                mask=detection.region,
                voxel_ml=inputs.scan.voxel_ml,
                prediction=labels,
            )
    slices = detection.slices
    return CaseOutputs(
        inputs=inputs,
        detection=detection,
        labels=labels,
        findings=findings,
        checkpoint=checkpoint,
        threshold=plan.threshold,
        minimum_ml=plan.minimum_ml,
        computed=computed,
        metrics=metrics,
        quality=(
            None if slices is None else check_quality(slices, detection.specification, detection)
        ),
        seconds=seconds,
    )
