"""The files of one case: maps and labels on the scan's own grid, findings, run record."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from napari_addm import __version__
from napari_addm.errors import AddmError
from napari_addm.findings import (
    NO_DECISIONS,
    Decisions,
    Finding,
    findings_csv,
    findings_record,
)
from napari_addm.io import write_volume
from napari_addm.metrics import Metrics
from napari_addm.volume import Volume

if TYPE_CHECKING:
    from napari_addm.checkpoint import Checkpoint
    from napari_addm.detection import Detection

RECORD_VERSION = 1

# What is written for a case, and how each file's name ends.
ENDINGS = {
    "anomaly": "_anomaly.nii.gz",
    "labels": "_labels.nii.gz",
    "recon": "_recon.nii.gz",
    "uncertainty": "_uncertainty.nii.gz",
    "findings": "_findings.csv",
    "record": "_record.json",
    "overlay": "_overlay.png",
}


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure that a folder can be written to, whether it exists yet or not; creates nothing.

    Raises
    ------
    AddmError
        When it cannot.
    """
    folder = Path(folder)
    parent = folder
    try:
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        # Trying is surer than asking: permissions, read-only disks and full ones all show.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise AddmError(
            f"{folder} cannot be written to ({error.strerror}): choose another output folder."
        ) from error


def check_outputs(
    folder: str | os.PathLike[str],
    stem: str,
    overwrite: bool = False,
    volume: Volume | None = None,
    *,
    keep: Sequence[Path | None] = (),
) -> dict[str, Path]:
    """Make sure, before any computation, that a case can be written; nothing is created.

    Parameters
    ----------
    folder : path
        Where the files will go; it need not exist yet.
    stem : str
        How their names begin.
    overwrite : bool
        Whether files of an earlier run may be replaced.
    volume : Volume, optional
        The scan; its file is never replaced.
    keep : sequence of Path
        Further input files (ground truth, brain mask) that are never replaced.

    Returns
    -------
    dict of str to Path
        The paths by the keys of `ENDINGS`.

    Raises
    ------
    AddmError
        When the folder cannot be written to, a file is there already, or an
        input would be replaced.
    """
    folder = Path(folder)
    paths = {key: folder / f"{stem}{ending}" for key, ending in ENDINGS.items()}
    check_folder(folder)
    inputs = [volume.source.path if volume else None, *keep]
    kept = {path.resolve() for path in inputs if path is not None}
    for path in paths.values():
        if path.resolve() in kept:
            raise AddmError(f"{path} is an input of this run: choose another output folder.")
        if path.is_dir():
            raise AddmError(f"{path} is a folder: remove it, or choose another output folder.")
        if path.exists() and not overwrite:
            raise AddmError(
                f"{path} exists already: use --overwrite to replace it, or choose another "
                "output folder."
            )
    return paths


def save_detection(
    folder: str | os.PathLike[str],
    volume: Volume,
    detection: Detection,
    labels: np.ndarray,
    findings: Sequence[Finding],
    *,
    checkpoint: Checkpoint,
    threshold: float,
    minimum_ml: float,
    decisions: Decisions = NO_DECISIONS,
    stem: str | None = None,
    metrics: Metrics | None = None,
    truth: Path | None = None,
    mask: Path | None = None,
    seconds: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write the maps, the labels, the findings and the run record of one case.

    The files are written aside and take their names together at the end, so
    that a failure leaves none of them.

    Parameters
    ----------
    folder : path
        Created if missing.
    volume : Volume
        The scan; everything is written on its own grid.
    detection : Detection
    labels : ndarray of int, shape (S, A, R)
        0 = no finding.
    findings : sequence of Finding
        Measured on `labels`.
    checkpoint : Checkpoint
        That `detection` was made with.
    threshold, minimum_ml : float
        That `labels` were made with.
    decisions : mapping of int to Decision
        What a person thinks of the findings, by their ids.
    stem : str, optional
        How the file names begin; the scan's name by default.
    metrics : Metrics, optional
        Against `truth`, inside the brain mask.
    truth, mask : Path, optional
        The files of the ground truth and of the brain mask that were given.
    seconds : mapping of str to float, optional
        Seconds per stage for the record; the detection's own by default.
    overwrite : bool
        Replace the files of an earlier run.

    Returns
    -------
    dict of str to Path
        The written files: ``anomaly``, ``labels``, ``recon``, ``uncertainty``
        (several draws only), ``findings``, ``record``.

    Raises
    ------
    AddmError
        When a file cannot or must not be written.
    """
    folder = Path(folder)
    stem = stem or volume.name
    paths = check_outputs(folder, stem, overwrite, volume, keep=(truth, mask))
    maps = {
        "anomaly": detection.anomaly,
        "labels": volume.with_data(labels),
        "recon": detection.reconstruction,
    }
    if detection.uncertainty is not None:
        maps["uncertainty"] = detection.uncertainty
    record = run_record(
        volume,
        detection,
        findings,
        checkpoint=checkpoint,
        threshold=threshold,
        minimum_ml=minimum_ml,
        decisions=decisions,
        metrics=metrics,
        truth=truth,
        mask=mask,
        seconds=seconds,
    )
    texts = {
        "findings": findings_csv(findings, decisions),
        "record": json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as aside:
            staged = {key: Path(aside, paths[key].name) for key in (*maps, *texts)}
            # zlib lets go of the interpreter's lock, so threads compress side by side.
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda key: write_volume(staged[key], maps[key]), maps))
            for key, text in texts.items():
                staged[key].write_text(text, encoding="utf-8")
            for key, path in staged.items():
                os.replace(path, paths[key])
        # What an earlier run wrote and this one did not must not lie beside this one's.
        for key in paths.keys() - staged.keys():
            paths[key].unlink(missing_ok=True)
    except OSError as error:
        raise AddmError(
            f"{folder} cannot be written to ({error.strerror}): choose another output folder, or "
            "free some space."
        ) from error
    return {key: paths[key] for key in staged}


def run_record(
    volume: Volume,
    detection: Detection,
    findings: Sequence[Finding],
    *,
    checkpoint: Checkpoint,
    threshold: float,
    minimum_ml: float,
    decisions: Decisions = NO_DECISIONS,
    metrics: Metrics | None = None,
    truth: Path | None = None,
    mask: Path | None = None,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """All that is needed to repeat a run and to check it; parameters as in `save_detection`.

    Files are named without their folders, and nothing of a header's free text
    is taken over.

    Returns
    -------
    dict
        Ready for JSON, its keys always in the same order.
    """
    source = volume.source
    spacing = np.linalg.norm(source.affine[:3, :3], axis=0)
    settings = asdict(detection.settings)
    settings["erosion_mm"] = detection.specification.detection.score.erosion_mm
    return {
        "schema_version": RECORD_VERSION,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": _file(source.path),
        "brain_mask": _file(mask),
        "truth": _file(truth),
        "checkpoint": {
            "name": detection.specification.name,
            "file": checkpoint.path.name,
            "sha256": checkpoint.sha256,
        },
        "settings": settings,
        "threshold": float(threshold),
        "minimum_ml": float(minimum_ml),
        "device": detection.device,
        "precision": detection.precision,
        "versions": {
            "napari-addm": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch", "monai", "nibabel")},
        },
        "geometry": {
            "shape": [int(n) for n in source.shape],
            "spacing_mm": [float(n) for n in spacing],
            "affine": [[float(n) for n in row] for row in source.affine],
            "orientation": "".join(nib.aff2axcodes(source.affine)),
        },
        "slices_done": {"done": int(detection.done.sum()), "of": len(detection.done)},
        "warnings": list(detection.warnings),
        "seconds": {
            stage: round(float(spent), 3)
            for stage, spent in (detection.seconds if seconds is None else seconds).items()
        },
        "findings": findings_record(findings, decisions),
        "metrics": None if metrics is None else metrics_record(metrics, detection),
    }


def metrics_record(metrics: Metrics, detection: Detection) -> dict[str, Any]:
    """Metrics that were computed inside the brain mask, ready for JSON; says so in ``region``."""
    region = "brain mask, on the scan's grid"
    if not detection.done.all():
        region = f"{region}, {int(detection.done.sum())} of {len(detection.done)} slices"
    return {"region": region, **asdict(metrics)}


def _file(path: Path | None) -> dict[str, str] | None:
    """Name and SHA-256 of a file's bytes (of the header's for a .hdr/.img pair)."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AddmError(
            f"{path} can no longer be read ({error.strerror}): put it back and save again."
        ) from error
    return {"name": path.name, "sha256": digest}
