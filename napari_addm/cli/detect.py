"""``napari-addm detect``: one scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from napari_addm.cli._common import (
    CheckpointFile,
    Flag,
    JsonFlag,
    OutputFolder,
    RunOptions,
    console,
    detection_bar,
    print_json,
    print_result,
)
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.registry import FORMATS

if TYPE_CHECKING:
    from rich.table import Table

    from napari_addm.findings.findings import Finding
    from napari_addm.io.remarks import Remark
    from napari_addm.metrics.evaluation import Metrics
    from napari_addm.outputs.run_case import CaseRequest, CaseResult


@Parameter(name="*")
@dataclass(frozen=True)
class InputOptions:
    """What is read beside the scan, and which part of the scan.

    Attributes
    ----------
    ground_truth
        Mask of the true anomalies, nonzero = anomalous; gives metrics.
    mask
        Brain mask, nonzero = brain; found if missing.
    frame
        Which frame of a 4D scan, counted from 0; needed if it has several.
    series
        Number of the series in a DICOM folder; its only T1 if missing.
    resample_ground_truth
        Bring the ground truth to the scan's grid.
    resample_mask
        Bring the mask to the scan's grid.
    """

    ground_truth: Path | None = None
    mask: Path | None = None
    frame: int | None = None
    series: int | None = None
    resample_ground_truth: Flag = False
    resample_mask: Flag = False


def detect(
    scan: Annotated[
        Path,
        Parameter(help=f"T1-weighted scan ({', '.join(FORMATS)}), or a DICOM folder or image."),
    ],
    /,
    *,
    output: OutputFolder,
    checkpoint: CheckpointFile = DEMO_CHECKPOINT,
    inputs: InputOptions = InputOptions(),
    options: RunOptions = RunOptions(),
    montage: Flag = False,
    dicom_seg: Flag = False,
    overwrite: Flag = False,
    as_json: JsonFlag = False,
    verbose: Flag = False,
) -> None:
    """Find anomalies in a scan and write maps, labels, findings and a run record.

    What is not given comes from the checkpoint; `napari-addm info` shows it.

    Parameters
    ----------
    output
        Folder for the files.
    checkpoint
        The model (.safetensors).
    montage
        Also write a montage picture.
    dicom_seg
        Also write a DICOM segmentation of a DICOM series, and a structured report of volumes and
        sides.
    overwrite
        Replace the files of an earlier run.
    as_json
        Print one JSON object and nothing else on stdout.
    verbose
        Also print the notes, and the figures behind each caution.
    """
    from napari_addm.outputs.case import WriteOptions
    from napari_addm.outputs.run_case import CaseRequest

    request = CaseRequest(
        scan=scan,
        folder=output,
        checkpoint=checkpoint,
        mask=inputs.mask,
        truth=inputs.ground_truth,
        frame=inputs.frame,
        series=inputs.series,
        resample_mask=inputs.resample_mask,
        resample_truth=inputs.resample_ground_truth,
        settings=options.settings,
        preset=options.quality,
        threshold=options.threshold,
        minimum_ml=options.minimum_ml,
        write=WriteOptions(montage=montage, dicom_seg=dicom_seg, overwrite=overwrite),
    )
    result = run_with_bar(request)
    if as_json:
        print_json(_summary(scan, result))
    else:
        show_case(scan, result, verbose)


def run_with_bar(request: CaseRequest) -> CaseResult:
    """Run a case, with a progress bar on stderr."""
    from napari_addm.outputs.run_case import finish, run_case

    # the name of a folder of DICOM images may be a patient's
    name = "series" if request.scan.is_dir() else request.scan.name
    with detection_bar(name) as show:
        try:
            return finish(run_case(request), show)
        except KeyboardInterrupt as error:
            error.add_note("Stopped; nothing was written.")
            raise


def _summary(scan: Path, result: CaseResult) -> dict[str, Any]:
    """What ``--json`` prints."""
    from napari_addm.findings.table import findings_record
    from napari_addm.outputs.record import metrics_record

    outputs = result.outputs
    summary: dict[str, Any] = {
        "scan": str(scan),
        "paths": {key: str(path) for key, path in result.paths.items()},
        "threshold": outputs.threshold,
        "minimum_ml": outputs.minimum_ml,
        "device": outputs.detection.device,
        "precision": outputs.detection.precision,
        "findings": findings_record(outputs.findings),
        "seconds": {stage: round(spent, 3) for stage, spent in result.seconds.items()},
        "warnings": [remark.as_dict() for remark in outputs.remarks],
        "contrast_agent": outputs.scan.contrast.agent,
    }
    if outputs.scan.source.series:
        summary["series"] = f"{outputs.scan.name}: {outputs.scan.about}"
    if outputs.metrics is not None:
        summary["metrics"] = metrics_record(outputs.metrics, outputs.detection)
    return summary


def _print_remarks(remarks: Sequence[Remark], verbose: bool) -> None:
    """Print alarms and cautions; of the notes only their number, unless all is wanted."""
    from napari_addm.io.remarks import DO_NOT_TRUST, Kind

    looks = {
        Kind.ALARM: (DO_NOT_TRUST, "bold red"),
        Kind.CAUTION: ("Caution:", "yellow"),
        Kind.NOTE: ("Note:", "dim"),
    }
    screen = console()
    for remark in remarks:
        if verbose or remark.kind is not Kind.NOTE:
            words, style = looks[remark.kind]
            said = remark.in_full if verbose else str(remark)
            screen.print(f"{words} {said}", style=style, markup=False)
    count = sum(remark.kind is Kind.NOTE for remark in remarks)
    if count and not verbose:
        words = f"{count} note{'' if count == 1 else 's'}; --verbose shows them."
        screen.print(words, style="dim", markup=False)


def show_case(scan: Path, result: CaseResult, verbose: bool = False) -> None:
    """Print the findings, the metrics and the files for a person."""
    from napari_addm.findings.findings import describe_none

    outputs, screen = result.outputs, console()
    name = outputs.name if scan.is_dir() else scan.name
    if outputs.scan.source.series:
        screen.print(f"{name}: {outputs.scan.about}", markup=False)
    _print_remarks(outputs.remarks, verbose)
    if outputs.findings:
        screen.print(_findings_table(name, outputs.findings))
    else:
        screen.print(f"{name}: {describe_none(outputs.minimum_ml)}", markup=False)
    if outputs.metrics is not None:
        screen.print(_metrics_table(outputs.metrics))
        for note in outputs.metrics.notes:
            screen.print(note, markup=False)
    screen.print(
        f"{result.seconds['total']:.1f} s, of which {result.seconds['network']:.1f} s in the "
        f"network ({outputs.detection.device}, {outputs.detection.precision})",
        markup=False,
    )
    for path in result.paths.values():
        print_result(path)


def _findings_table(name: str, findings: Iterable[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    heads = (
        "finding",
        "mL",
        "side, from midline",
        "region",
        "diameters",
        "scanner x, y, z",
        "peak",
        "slice",
    )
    findings = list(findings)
    two_maps = any(f.found_by is not None for f in findings)
    # rich would read a plain string as markup, and a file name may hold brackets
    table = Table(*heads, *["found by"] * two_maps, title=Text(name))
    for f in findings:
        scanner = ", ".join(str(round(value)) for value in f.centroid_mm) + " mm"
        table.add_row(
            str(f.id),
            f"{f.volume_ml:.2f}",
            f.location_in_brief,
            f.region_in_words,
            f.diameters_in_words,
            scanner,
            f"{f.peak:.3f}",
            str(f.slice),
            *[f.found_by or ""] * two_maps,
        )
    return table


def _metrics_table(metrics: Metrics) -> Table:
    from rich.table import Table

    from napari_addm.metrics.metric import case_metrics

    table = Table("metric", "value", title="Against the ground truth, inside the brain mask")
    for name, metric in case_metrics().items():
        table.add_row(f"{metric.title} {metric.note}".strip(), metric.format(metrics[name]))
    return table
