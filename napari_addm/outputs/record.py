"""The run record: one JSON file about what was done to a scan, with what, and the result.

It holds all that `napari_addm.outputs.verification` needs to repeat the run. Files are named
without their folders, and no free text of a header is copied.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import nibabel as nib
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_addm import __version__
from napari_addm.detection.midline import Midline, MidlineSource, Side, describe_side
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, describe_problem
from napari_addm.findings.computed import computed_labels, edited_voxels
from napari_addm.findings.table import findings_record
from napari_addm.io.arrays import voxel_spacing
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint
    from napari_addm.detection.pipeline import Detection
    from napari_addm.metrics.evaluation import Metrics
    from napari_addm.outputs.contents import CaseOutputs

SCHEMA_VERSION: Final = 3
LARGEST_BYTES = 64 * 2**20
"""Upper limit for a record's file; a larger one is something else."""

Digest = str | None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Entry):
    """A file: its name without folders, the SHA-256 of its bytes and of its voxels.

    ``name`` and ``sha256`` are None for voxels without a file, such as those of a layer that was
    drawn. ``voxels_sha256`` is that of `napari_addm.io.hashing.voxels_sha256`; None for files
    without voxels.
    """

    name: str | None
    sha256: Digest = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    voxels_sha256: Digest = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path | None, data: np.ndarray, **more: Any) -> Self:
        """Hash a file, where there is one, and the voxels that were read from it."""
        name, sha256 = (None, None) if path is None else (path.name, file_sha256(path))
        return cls(**{"name": name, "sha256": sha256, "voxels_sha256": voxels_sha256(data)} | more)


class InputEntry(FileEntry):
    """The scan; ``frame`` is that of a 4D file, ``files`` the number of images of a series.

    ``contrast`` says whether it was made with contrast agent, and how that is known.
    """

    frame: int | None = None
    files: int | None = None
    contrast: str = ""


class MaskEntry(FileEntry):
    """The brain mask as it was used; ``origin`` says whether it was found in the scan or given."""

    origin: Literal["found", "given"]


class CheckpointEntry(_Entry):
    """The model: SHA-256 of the whole file, and of its weights alone."""

    name: str
    file: str
    sha256: str
    weights_sha256: str


class RecordedSettings(DetectionSettings):
    """`DetectionSettings` with every default filled in; later versions may have more of them.

    ``erosion_mm`` is the checkpoint's.
    """

    model_config = ConfigDict(extra="allow")

    erosion_mm: float

    @model_validator(mode="before")
    @classmethod
    def _fill_in_older(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add what the first records did not have, as it was then."""
        return {"context_mm": 0.0, "symmetry": False} | values

    def to_detection(self) -> DetectionSettings:
        """The settings to repeat the run with; an error if a later version recorded more."""
        if self.model_extra:
            raise AddmError(
                "The record has settings that this version does not know "
                f"({', '.join(self.model_extra)}): use the version of napari-addm that it names."
            )
        return DetectionSettings(**self.model_dump(exclude={"erosion_mm"}))


class GeometryEntry(_Entry):
    """The native grid: shape (i, j, k), voxel sizes in mm, index to world RAS+ mm, axis codes."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...] = Field(min_length=4, max_length=4)
    orientation: str


class SlicesEntry(_Entry):
    """How many slices along S were finished; ``indices`` names them where not all were."""

    done: int
    of: int
    indices: tuple[int, ...] | None = None


class LabelsEntry(_Entry):
    """What the threshold alone gives, and how many voxels a person changed after that."""

    computed_voxels_sha256: str
    edited_voxels: int


class FindingEntry(_Entry):
    """`napari_addm.findings.findings.Finding`, and what a person decided about it."""

    model_config = ConfigDict(extra="allow")

    id: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    peak: float
    mean: float
    uncertainty: float | None
    slice: int
    voxels: int
    sides_known: bool = True
    side: Side | None = None
    from_midline_mm: float | None = None
    midline_source: MidlineSource | None = None
    decision: Literal["accepted", "rejected"] | None = None
    note: str = ""

    @property
    def location(self) -> str:
        """Describe its side; see `napari_addm.detection.midline.describe_side`."""
        return describe_side(self.side, self.from_midline_mm, self.midline_source)


class RunRecord(_Entry):
    """All that is needed to repeat a run and to check it.

    Attributes
    ----------
    created_utc : str or None
        ISO 8601, when the files were written; None where equal runs have to give equal bytes, as
        in a batch, whose manifest has the times.
    device, precision, threads
        What the network ran on, as it was in the end.
    geometry : GeometryEntry
        Of the scan, and so of every map.
    midline : Midline or None
        Between the halves of the brain; None where none was found, and in older records.
    seconds : dict of str to float
        Per stage.
    quality : dict or None
        `napari_addm.detection.quality.Quality`'s flags, figures and what was not checked.
    outputs : dict of str to FileEntry
        The files beside the record.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    created_utc: str | None
    input: InputEntry
    brain_mask: MaskEntry
    truth: FileEntry | None
    checkpoint: CheckpointEntry
    settings: RecordedSettings
    threshold: float
    minimum_ml: float
    device: str
    precision: str
    threads: int
    versions: dict[str, str]
    geometry: GeometryEntry
    slices_done: SlicesEntry
    midline: Midline | None = None
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    findings: tuple[FindingEntry, ...]
    labels: LabelsEntry
    metrics: dict[str, Any] | None
    quality: dict[str, Any] | None = None
    outputs: dict[str, FileEntry]

    @classmethod
    def of(cls, outputs: CaseOutputs, *, dated: bool = True) -> RunRecord:
        """Record a case, but for its files; `dated` keeps the date and the seconds."""
        detection, metrics, quality = outputs.detection, outputs.metrics, outputs.quality
        truth = outputs.inputs.truth
        seconds = outputs.seconds or detection.seconds
        return cls(
            created_utc=datetime.now(UTC).isoformat(timespec="seconds") if dated else None,
            input=_input_entry(outputs.scan),
            brain_mask=_mask_entry(outputs),
            truth=None if truth is None else FileEntry.of(truth.path, truth.voxels),
            checkpoint=_checkpoint_entry(outputs.checkpoint),
            settings=_recorded_settings(detection),
            threshold=float(outputs.threshold),
            minimum_ml=float(outputs.minimum_ml),
            device=detection.device,
            precision=detection.precision,
            threads=detection.threads,
            versions=_software_versions(detection.device),
            geometry=_geometry_entry(outputs.scan),
            slices_done=_slices_entry(detection),
            midline=detection.midline,
            warnings=detection.warnings,
            seconds={stage: round(s, 3) for stage, s in seconds.items()} if dated else {},
            findings=tuple(
                FindingEntry.model_validate(entry)
                for entry in findings_record(outputs.findings, outputs.decisions)
            ),
            labels=_labels_entry(outputs),
            metrics=None if metrics is None else metrics_record(metrics, detection),
            quality=None if quality is None else quality.record(),
            outputs={},
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the run's rounding depends on: device, precision, threads and versions."""
        ran_on = {"device": self.device, "precision": self.precision, "threads": str(self.threads)}
        return ran_on | self.versions

    def to_json(self) -> str:
        """The file's text; its keys always in the same order."""
        return (
            json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
            + "\n"
        )


def _input_entry(scan: Volume) -> InputEntry:
    source = scan.source
    series: dict[str, Any] = {}
    if source.series:
        series = {"name": scan.name, "sha256": files_sha256(source.series)}
        series["files"] = len(source.series)
    more = {"frame": source.frame, "contrast": str(scan.contrast)}
    return InputEntry.of(source.path, scan.data, **more, **series)


def _mask_entry(outputs: CaseOutputs) -> MaskEntry:
    given, used = outputs.inputs.mask, outputs.detection.brain_mask.data
    return MaskEntry.of(given.path if given else None, used, origin="given" if given else "found")


def _checkpoint_entry(checkpoint: Checkpoint) -> CheckpointEntry:
    return CheckpointEntry(
        name=checkpoint.specification.name,
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        weights_sha256=checkpoint.specification.weights_sha256,
    )


def _recorded_settings(detection: Detection) -> RecordedSettings:
    erosion_mm = detection.specification.detection.score.erosion_mm
    return RecordedSettings(**detection.settings.model_dump(), erosion_mm=erosion_mm)


def _slices_entry(detection: Detection) -> SlicesEntry:
    done = detection.done
    indices = None if done.all() else tuple(np.flatnonzero(done).tolist())
    return SlicesEntry(done=int(done.sum()), of=len(done), indices=indices)


def _labels_entry(outputs: CaseOutputs) -> LabelsEntry:
    labels, computed = outputs.labels, outputs.computed
    if computed is None:
        computed = computed_labels(outputs.detection, outputs.threshold, outputs.minimum_ml)
    edited = 0 if computed is labels else edited_voxels(computed, labels)
    return LabelsEntry(computed_voxels_sha256=voxels_sha256(computed), edited_voxels=edited)


def metrics_record(metrics: Metrics, detection: Detection) -> dict[str, Any]:
    """Metrics inside the brain mask, ready for JSON; ``region`` says so."""
    region = "brain mask, on the scan's grid"
    if not detection.done.all():
        region = f"{region}, {int(detection.done.sum())} of {len(detection.done)} slices"
    return {"region": region, **metrics.as_dict()}


def read_record(path: Path) -> RunRecord:
    """Read and check a run record; an `AddmError` says what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise AddmError(f"{path} is too large for a run record: choose ..._record.json.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AddmError(
            f"{path} cannot be read ({error.strerror}): check the name and the permissions."
        ) from error
    except (ValueError, RecursionError) as error:
        raise AddmError(f"{path} is no run record (not JSON): choose ..._record.json.") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(found, int):
        raise AddmError(f"{path} is no run record of napari-addm: choose ..._record.json.")
    if found != SCHEMA_VERSION:
        age = "an older" if found < SCHEMA_VERSION else "a newer"
        raise AddmError(
            f"{path} was written by {age} version of napari-addm (record version {found}, here "
            f"{SCHEMA_VERSION}): use the version of napari-addm that it names."
        )
    try:
        # JSON has lists where the record has tuples.
        return RunRecord.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AddmError(
            f"{path} is damaged or was changed by hand ({where}: "
            f"{describe_problem(first).lower()}): use the file as it was saved."
        ) from error


def _geometry_entry(volume: Volume) -> GeometryEntry:
    source = volume.source
    return GeometryEntry(
        shape=source.shape,
        spacing_mm=voxel_spacing(source.affine),
        affine=tuple((a, b, c, d) for a, b, c, d in source.affine.tolist()),
        orientation="".join(nib.aff2axcodes(source.affine)),
    )


def _software_versions(device: str) -> dict[str, str]:
    """Return the versions that a result on a device may depend on."""
    libraries = ["numpy", "scipy", "torch", "monai", "nibabel"]
    if device == "openvino":
        libraries.append(device)
    return {
        "napari-addm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
