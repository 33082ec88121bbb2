"""The run record: one JSON file about what was done to a scan, with what, and the result.

It holds all that `napari_addm.outputs.verification` needs to repeat the run. Files are named
without their folders, and no free text of a header is copied.
"""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import nibabel as nib
import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from napari_addm import __version__
from napari_addm.detection.midline import Midline
from napari_addm.detection.quality import QualityFlag, flag_remarks
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError, describe_problem
from napari_addm.findings.computed import computed_labels, edited_voxels
from napari_addm.findings.decisions import Decision
from napari_addm.findings.findings import Finding
from napari_addm.findings.table import findings_record
from napari_addm.io.arrays import voxel_spacing
from napari_addm.io.files import check_is_file
from napari_addm.io.hashing import file_sha256, files_sha256, voxels_sha256
from napari_addm.io.remarks import Remark, by_weight
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume

if TYPE_CHECKING:
    from napari_addm.checkpoint.file import Checkpoint
    from napari_addm.detection.pipeline import Detection
    from napari_addm.metrics.evaluation import Metrics
    from napari_addm.outputs.contents import CaseOutputs

SCHEMA_VERSION: Final = 4
EARLIER_VERSION: Final = 3  # can be read; its warnings are plain sentences
SHORT = 60  # letters of a value that a sentence shows
LARGEST_BYTES = 8 * 2**20
"""Upper limit for a record's file, enough for 14,000 findings; a larger one is something else."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Row = tuple[float, float, float, float]
# The first error is enough: a list of a million errors does not fit into the memory.
MOST_KEYS = 100  # of one object
Sentences = Annotated[tuple[str, ...], Field(fail_fast=True)]
Warnings = Annotated[
    tuple[
        Annotated[Remark, PlainValidator(Remark.read), PlainSerializer(Remark.as_dict)],
        ...,
    ],
    Field(fail_fast=True),
]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Entry):
    """A file: its name without folders, the SHA-256 of its bytes and of its voxels.

    ``name`` and ``sha256`` are None for voxels without a file, such as those of a layer that was
    drawn. ``voxels_sha256`` is that of `napari_addm.io.hashing.voxels_sha256`; None for files
    without voxels.
    """

    name: str | None
    sha256: Digest | None = None
    voxels_sha256: Digest | None = None

    @classmethod
    def of(cls, path: Path | None, data: np.ndarray, **more: Any) -> Self:
        """Hash a file, where there is one, and the voxels that were read from it."""
        name, sha256 = (None, None) if path is None else (path.name, file_sha256(path))
        return cls(**{"name": name, "sha256": sha256, "voxels_sha256": voxels_sha256(data)} | more)


class InputEntry(FileEntry):
    """The scan; ``frame`` is that of a 4D file, ``files`` the number of images of a series.

    ``contrast`` says whether it was made with contrast agent, and how that is known.
    """

    frame: Count | None = None
    files: Count | None = None
    contrast: str = ""


class MaskEntry(FileEntry):
    """The brain mask as it was used; ``origin`` says whether it was found in the scan or given."""

    origin: Literal["found", "given"]


class CheckpointEntry(_Entry):
    """The model: SHA-256 of the whole file, and of its weights alone."""

    name: str
    file: str
    sha256: Digest
    weights_sha256: Digest


class RecordedSettings(DetectionSettings):
    """`DetectionSettings` with every default filled in; later versions may have more of them.

    ``erosion_mm`` is the checkpoint's.
    """

    model_config = ConfigDict(extra="allow")

    erosion_mm: float

    @field_validator("slices", mode="before")
    @classmethod
    def _take_list(cls, slices: Any) -> Any:
        """Make a tuple of JSON's list; strict types refuse a list."""
        return tuple(slices) if isinstance(slices, list) else slices

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

    shape: tuple[Count, Count, Count]
    spacing_mm: tuple[float, float, float]
    affine: tuple[Row, Row, Row, Row]
    orientation: str


class SlicesEntry(_Entry):
    """How many slices along S were finished; ``indices`` names them where not all were."""

    done: Count
    of: Count
    indices: Annotated[tuple[Count, ...], Field(fail_fast=True)] | None = None


class LabelsEntry(_Entry):
    """What the threshold alone gives, and how many voxels a person changed after that."""

    computed_voxels_sha256: Digest
    edited_voxels: Count


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FindingEntry(Finding):
    """A finding, its centroid by the names of the table's columns, and a person's decision."""

    x_mm: float | None = None
    y_mm: float | None = None
    z_mm: float | None = None
    decision: Literal["accepted", "rejected"] | None = None
    note: str = ""


class QualityEntry(_Entry):
    """`napari_addm.detection.quality.Quality`."""

    flags: Annotated[tuple[QualityFlag, ...], Field(fail_fast=True)]
    figures: dict[str, float]
    unchecked: Sentences


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
        Between the halves of the brain; None where none was found.
    seen : bool
        Whether a person has looked at a case in which nothing was found.
    seconds : dict of str to float
        Per stage.
    outputs : dict of str to FileEntry
        The files beside the record.
    """

    schema_version: Literal[3, 4] = SCHEMA_VERSION
    created_utc: str | None
    input: InputEntry
    brain_mask: MaskEntry
    truth: FileEntry | None
    checkpoint: CheckpointEntry
    settings: RecordedSettings
    threshold: float
    minimum_ml: Annotated[float, Field(ge=0)]
    device: str
    precision: str
    threads: Count
    versions: dict[str, str]
    geometry: GeometryEntry
    slices_done: SlicesEntry
    midline: Midline | None = None
    warnings: Warnings
    seconds: dict[str, float]
    findings: Annotated[tuple[FindingEntry, ...], Field(fail_fast=True)]
    seen: bool = False
    labels: LabelsEntry
    metrics: dict[str, float | str | Sentences | None] | None
    quality: QualityEntry | None = None
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
            versions=_software_versions(detection.device, detection.regions is not None),
            geometry=geometry_entry(outputs.scan),
            slices_done=_slices_entry(detection),
            midline=detection.midline,
            warnings=tuple(map(Remark.read, outputs.warnings)),
            seconds={stage: round(s, 3) for stage, s in seconds.items()} if dated else {},
            findings=tuple(
                FindingEntry(**entry)
                for entry in findings_record(outputs.findings, outputs.decisions)
            ),
            labels=_labels_entry(outputs),
            metrics=None if metrics is None else metrics_record(metrics, detection),
            quality=None if quality is None else QualityEntry.model_validate(quality.record()),
            outputs={},
        )

    @property
    def decisions(self) -> dict[int, Decision]:
        """What a person decided about the findings, by their ids."""
        return {
            entry.id: Decision(entry.decision, entry.note)
            for entry in self.findings
            if entry.decision is not None or entry.note
        }

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The warnings and the quality flags, the heaviest first."""
        flags = self.quality.flags if self.quality else ()
        return by_weight((*self.warnings, *flag_remarks(flags)))

    @property
    def was_stopped(self) -> bool:
        """Whether not all slices were done that were asked for."""
        return self.settings.slices is None and self.slices_done.indices is not None

    @property
    def environment(self) -> dict[str, str]:
        """What the run's rounding depends on: device, precision, threads and versions."""
        ran_on = {"device": self.device, "precision": self.precision, "threads": str(self.threads)}
        return ran_on | self.versions

    def to_json(self) -> str:
        """The file's text; its keys always in the same order.

        Raises
        ------
        AddmError
            When it holds more findings than `read_record` takes.
        """
        content = self.model_dump(mode="json")
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if len(text.encode(errors="surrogatepass")) > LARGEST_BYTES:
            raise AddmError(
                f"{printable(self.input.name or 'The scan', SHORT)} has {len(self.findings)} "
                "findings, more than a run record can hold: raise the threshold or the smallest "
                "finding."
            )
        return text


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
        check_is_file(path)
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AddmError(
            f"{path} cannot be read ({reason}): check the name and the permissions."
        ) from error
    if len(content) > LARGEST_BYTES:
        raise AddmError(f"{path} is too large for a run record: choose ..._record.json.")
    try:
        json.loads(
            content,
            object_pairs_hook=_check_keys,
            parse_int=_finite,
            parse_float=_finite,
            parse_constant=_finite,
        )
        found = _Version.model_validate_json(content).schema_version
        if found in (SCHEMA_VERSION, EARLIER_VERSION):
            return RunRecord.model_validate_json(content, strict=True)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AddmError(f"{path} is no run record (not JSON): choose ..._record.json.") from error
    except ValidationError as error:
        if error.title == _Version.__name__:
            raise AddmError(
                f"{path} is no run record of napari-addm: choose ..._record.json."
            ) from error
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(printable(part, SHORT) for part in first["loc"])
        problem = f"{where}: {describe_problem(first).lower()}"
    except (AddmError, _Odd) as error:
        problem = printable(str(error).rstrip("."))
    else:
        age = "an older" if found < SCHEMA_VERSION else "a newer"
        raise AddmError(
            f"{path} was written by {age} version of napari-addm (record version "
            f"{printable(found, SHORT)}, here {SCHEMA_VERSION}): use the version of napari-addm "
            "that it names."
        )
    raise AddmError(
        f"{path} is damaged or was changed by hand ({problem}): use the file as it was saved."
    )


class _Version(BaseModel):
    schema_version: Annotated[int, Field(strict=True)]


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object that no run writes, before the memory is full of what is wrong in it."""
    if len(pairs) > MOST_KEYS:
        raise _Odd(f"more than {MOST_KEYS} values in one place")
    ((key, count),) = Counter(key for key, _ in pairs).most_common(1) or [("", 0)]
    if count > 1:  # which of two values counts is a matter of the reader
        raise _Odd(f"{printable(key, SHORT)} is there twice")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise _Odd("a number is not finite")
    return value


class _Odd(Exception):
    """What is wrong with JSON that could be read."""


def geometry_entry(volume: Volume) -> GeometryEntry:
    """Describe a volume's native grid."""
    source = volume.source
    return GeometryEntry(
        shape=source.shape,
        spacing_mm=voxel_spacing(source.affine),
        affine=tuple((a, b, c, d) for a, b, c, d in source.affine.tolist()),
        orientation="".join(nib.aff2axcodes(source.affine)),
    )


@cache
def _software_versions(device: str, registered: bool) -> dict[str, str]:
    """Return the versions that a result on a device may depend on, with or without regions."""
    libraries = ["numpy", "scipy", "torch", "monai", "nibabel"]
    if device == "openvino":
        libraries.append(device)
    if registered:
        libraries.append("SimpleITK")
    return {
        "napari-addm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
