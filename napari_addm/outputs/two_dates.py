"""Two results of one patient at two dates: brought into one space, matched, and written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_addm import __version__
from napari_addm.detection.settings import DetectionSettings
from napari_addm.errors import AddmError
from napari_addm.findings import matching
from napari_addm.findings.matching import Change, Labelled, match_findings
from napari_addm.io.arrays import Mask
from napari_addm.io.files import take_names, write_atomic
from napari_addm.io.hashing import file_sha256, voxels_sha256
from napari_addm.io.registration import Registration, load_simpleitk, register
from napari_addm.io.resampling import resample_like
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume
from napari_addm.io.writing import write_volume
from napari_addm.outputs.case_page import find_record
from napari_addm.outputs.contents import CaseOutputs
from napari_addm.outputs.folder import check_folder, staging_folder
from napari_addm.outputs.naming import COMPARISON_NAMES
from napari_addm.outputs.pages import page_environment
from napari_addm.outputs.record import SHORT, FileEntry, RunRecord, read_record
from napari_addm.outputs.recorded import highest, read_saved, read_scan
from napari_addm.outputs.two_dates_page import comparison_page

# Twenty-four pairs of brains of different people reach 0.27 to 0.69 after a rigid registration, two
# scans of one patient without and with contrast agent 0.78 and 0.88.
LEAST_SIMILARITY = 0.7
"""A registration with a lower correlation of both brains is doubtful."""
LEAST_OVERLAP = 0.85
"""A registration with a lower Dice of both brain masks is doubtful."""

MEASURES = (
    *("before_ml", "after_ml", "change_ml", "change_percent"),
    *("before_mm", "after_mm", "change_mm", "before_peak", "after_peak"),
)


@dataclass(frozen=True, eq=False)
class DatedResult:
    """A result with its scan.

    Attributes
    ----------
    path : Path or None
        The run record; None while the result is not saved.
    sha256 : str or None
        Hash of that file.
    anomaly : Volume
        The higher of anomaly map and brightness.
    labels : Volume
        Without rejected findings.
    brain : ndarray of bool, shape (S, A, R)
        Where the model saw the brain.
    rejected : int
        Number of findings that a person rejected.
    """

    path: Path | None
    sha256: str | None
    record: RunRecord
    scan: Volume
    anomaly: Volume
    labels: Volume
    brain: Mask
    rejected: int


@dataclass(frozen=True, eq=False)
class TwoDates:
    """Two results of one patient, and how the one lies on the other.

    Attributes
    ----------
    cautions : tuple of str
        What a reader has to know, one sentence each.
    changes : list of Change or None
        None where the registration is doubtful; nothing is matched then.
    """

    before: DatedResult
    after: DatedResult
    registration: Registration
    cautions: tuple[str, ...]
    changes: list[Change] | None

    @cached_property
    def moved(self) -> dict[str, Volume]:
        """The later scan, map and labels on the earlier scan's grid, by these names."""
        there = np.linalg.inv(self.registration.matrix)
        return _moved(self.after, there, self.before.scan)

    def earlier_on_later(self) -> dict[str, Volume]:
        """The earlier scan, map and labels on the later scan's grid, by these names."""
        return _moved(self.before, self.registration.matrix, self.after.scan)


def _moved(result: DatedResult, matrix: NDArray[np.floating], grid: Volume) -> dict[str, Volume]:
    """Resample scan, map and labels onto a grid, after a motion in the world."""
    return {
        name: resample_like(replace(volume, affine=matrix @ volume.affine), grid, order)
        for name, volume, order in (
            ("scan", result.scan, 1),
            ("anomaly", result.anomaly, 1),
            ("labels", result.labels, 0),
        )
    }


def read_result(path: Path, scan: Path | None = None, option: str = "--scan") -> DatedResult:
    """Read a result and its scan, and check both against the run record.

    Parameters
    ----------
    path : Path
        The run record, or the folder that holds it.
    scan : Path, optional
        Where the scan is; looked for as `napari_addm.outputs.recorded.find_input` does by default.
    option : str
        How an error calls the option that says where the scan is.

    Raises
    ------
    AddmError
        When a file is missing, or was changed since it was saved.
    """
    path = find_record(path)
    record = read_record(path)
    volume = read_scan(record, path, scan, option)
    wanted, problems = ("anomaly", "labels", "recon"), list[str]()
    saved = read_saved(record, path.parent, volume, problems, (*wanted, "brightness"))
    problems += [f"it names no {key} map." for key in wanted if key not in saved]
    if problems:
        raise AddmError(f"{path} cannot be compared: {problems[0]}")
    return _result(path, record, volume, saved)


def result_of(outputs: CaseOutputs, path: Path | None = None) -> DatedResult:
    """Take a result that is in memory.

    Parameters
    ----------
    outputs : CaseOutputs
    path : Path, optional
        The run record that was written of it.
    """
    record = RunRecord.of(outputs) if path is None else read_record(path)
    maps = {key: volume.data for key, volume in outputs.maps.items()}
    return _result(path, record, outputs.scan, maps)


def _result(
    path: Path | None, record: RunRecord, scan: Volume, maps: dict[str, NDArray[Any]]
) -> DatedResult:
    rejected = [id for id, each in record.decisions.items() if each.verdict == "rejected"]
    return DatedResult(
        path,
        None if path is None else file_sha256(path),
        record,
        scan,
        scan.with_data(highest(maps).astype(np.float32, copy=False)),
        scan.with_data(np.where(np.isin(maps["labels"], rejected), 0, maps["labels"])),
        maps["recon"] != 0,
        len(rejected),
    )


def compare_dates(
    before: DatedResult, after: DatedResult, found: Registration | None = None
) -> TwoDates:
    """Register the later scan to the earlier one, and match the findings.

    Parameters
    ----------
    before, after : DatedResult
    found : Registration, optional
        Of these two scans, where it is known already.

    Raises
    ------
    MissingExtraError
        When SimpleITK is not installed.
    AddmError
        When the scans cannot be registered.
    """
    if found is None:
        found = register(after.scan, after.brain, before.scan, before.brain, "rigid")
    affine = np.linalg.inv(found.matrix) @ after.scan.affine
    cautions, changes = [], None
    if found.similarity >= LEAST_SIMILARITY and found.overlap >= LEAST_OVERLAP:
        changes = match_findings(
            *(
                Labelled(
                    each.labels.data, each.anomaly.data, each.brain, place, each.record.threshold
                )
                for each, place in ((before, before.scan.affine), (after, affine))
            )
        )
    else:
        cautions.append(
            "The registration is doubtful, so no findings were matched "
            f"(correlation of the brains {found.similarity:.2f}, at least {LEAST_SIMILARITY:g} is "
            f"needed; overlap {found.overlap:.2f}, at least {LEAST_OVERLAP:g} is needed): check "
            "that both scans show the same patient and the whole brain."
        )
    cautions += _cautions(before, after)
    return TwoDates(before, after, found, tuple(cautions), changes)


def _cautions(before: DatedResult, after: DatedResult) -> Iterator[str]:
    """What else makes two results hard to compare."""
    one, other = before.record, after.record
    if one.input.voxels_sha256 == other.input.voxels_sha256:
        yield "Both results are of the same scan."
    if one.checkpoint.weights_sha256 != other.checkpoint.weights_sha256:
        names = " and ".join(printable(each.checkpoint.name, SHORT) for each in (one, other))
        yield f"The results come from different models ({names}): their maps are not comparable."
    if differing := list(_differing_settings(one, other)):
        yield (
            f"The results were made with different settings ({', '.join(differing)}): their maps "
            "are not comparable."
        )
    for name, unit, first, last in (
        ("threshold", "", one.threshold, other.threshold),
        ("smallest finding", " mL", one.minimum_ml, other.minimum_ml),
    ):
        if first != last:
            yield (
                f"The {name} is {first:g}{unit} before and {last:g}{unit} after: a finding may be "
                "larger, smaller, new or gone for this alone."
            )
    if one.input.contrast != other.input.contrast:
        words = [printable(each.input.contrast or "unknown", SHORT) for each in (one, other)]
        yield f"Contrast agent differs: {words[0]} before, {words[1]} after."
    sizes = [each.scan.spacing for each in (before, after)]
    if not np.allclose(sizes[0], sizes[1], rtol=0.1):
        words = [" x ".join(f"{mm:.3g}" for mm in size) for size in sizes]
        yield f"The voxels differ in size ({words[0]} and {words[1]} mm): so do volumes by chance."
    for when, result in (("before", before), ("after", after)):
        if not result.scan.sides_known:
            yield (
                f"The scan {when} does not say which side is left: it may be mirrored against the "
                "other one."
            )
        if result.record.slices_done.indices is not None:
            yield f"Only a part of the scan {when} was run; the rest is not covered."
        if edited := result.record.labels.edited_voxels:
            yield f"A person edited the labels {when} ({edited} voxels)."
        if result.rejected:
            yield f"Rejected findings are left out ({result.rejected} {when})."


def _differing_settings(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """Name the settings that two runs do not share, but for what they ran on."""
    first, second = (
        each.settings.model_dump(exclude={"device", "precision"}) for each in (one, other)
    )
    for key in first | second:
        if first.get(key) != second.get(key):
            field = DetectionSettings.model_fields.get(key)
            yield (field.title if field else None) or printable(key, SHORT)


# --- files ---------------------------------------------------------------------------------------


def write_two_dates(
    before: Path,
    after: Path,
    folder: Path,
    *,
    before_scan: Path | None = None,
    after_scan: Path | None = None,
    overwrite: bool = False,
) -> tuple[TwoDates, dict[str, Path]]:
    """Compare two results, and write maps, labels, a table, a record and a page.

    Everything lies on the earlier scan's grid. The files take their names together at the end.
    Where the registration is doubtful, only the record and the page are written.

    Parameters
    ----------
    before, after : Path
        Run records, or the folders that hold them.
    folder : Path
        Created if missing.
    before_scan, after_scan : Path, optional
        Where the scans are, unless they lie beside the records.
    overwrite : bool
        Replace the files of an earlier comparison.

    Returns
    -------
    TwoDates
    dict of str to Path
        The written files, by the keys of `napari_addm.outputs.naming.COMPARISON_NAMES`.
    """
    paths = check_comparison(folder, overwrite)
    one = read_result(before, before_scan, "--before-scan")
    other = read_result(after, after_scan, "--after-scan")
    scans = [each.scan.source.path for each in (one, other)]
    if inside := {path.resolve() for path in scans if path} & {p.resolve() for p in paths.values()}:
        raise AddmError(f"{inside.pop()} is an input of this run: choose another output folder.")
    found = compare_dates(one, other)
    return found, write_comparison(found, folder, overwrite=overwrite)


def check_comparison(folder: Path, overwrite: bool) -> dict[str, Path]:
    """Refuse what can be refused before two results are compared; returns the files' places."""
    load_simpleitk()
    page_environment()
    paths = {key: folder / name for key, name in COMPARISON_NAMES.items()}
    check_folder(folder)
    for path in paths.values():
        if path.is_dir() or (os.path.lexists(path) and not overwrite):
            raise AddmError(
                f"{path} exists already: use --overwrite to replace it, or choose another folder."
            )
    return paths


def write_comparison(found: TwoDates, folder: Path, *, overwrite: bool = False) -> dict[str, Path]:
    """Write what `write_two_dates` does of two saved results that are compared already."""
    paths = check_comparison(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder) as staging:
        written = _stage(found, {key: staging / name for key, name in COMPARISON_NAMES.items()})
        renames = {paths[key]: path for key, path in written.items()}
        take_names(renames, [path for path in paths.values() if path not in renames])
    return {key: paths[key] for key in written}


def _stage(found: TwoDates, place: dict[str, Path]) -> dict[str, Path]:
    """Write all files; the record and the page after those that they name."""
    entries = {}
    if found.changes is not None:
        maps = {"before_anomaly": found.before.anomaly, "before_labels": found.before.labels}
        maps |= {f"after_{name}": volume for name, volume in found.moved.items()}
        for key, volume in maps.items():
            write_volume(place[key], volume)
            digest = voxels_sha256(volume.data)
            entries[key] = FileEntry(name=place[key].name, voxels_sha256=digest)
        write_atomic(place["changes"], changes_csv(found.changes))
        digest = file_sha256(place["changes"])
        entries["changes"] = FileEntry(name=place["changes"].name, sha256=digest)
    content = _content(found, entries)
    write_atomic(place["record"], json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_atomic(place["page"], comparison_page(found, content))
    return {key: place[key] for key in (*entries, "record", "page")}


def changes_csv(changes: list[Change]) -> str:
    """Write changes as CSV text; unknown values are empty cells, ids have spaces between them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (
        "change",
        "kind",
        "weak",
        "before_ids",
        "after_ids",
        *MEASURES,
        "x_mm",
        "y_mm",
        "z_mm",
    )
    writer.writerow(columns)
    for number, each in enumerate(changes, 1):
        ids = (" ".join(map(str, part)) for part in (each.before, each.after))
        amounts = [*(getattr(each, name) for name in MEASURES), *each.center_mm]
        shown = ("" if amount is None else f"{amount:.6g}" for amount in amounts)
        writer.writerow((number, each.kind, "weak" if each.weak else "", *ids, *shown))
    return text.getvalue()


def _content(found: TwoDates, outputs: dict[str, FileEntry]) -> dict[str, Any]:
    """The content of the JSON record."""
    matrix, before = found.registration.matrix, found.before
    middle = nib.affines.apply_affine(before.scan.affine, np.argwhere(before.brain).mean(axis=0))
    turn = Rotation.from_matrix(matrix[:3, :3]).magnitude()
    libraries = ("SimpleITK", "numpy", "scipy", "nibabel")
    return {
        "schema_version": 1,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"napari-addm": __version__, **{name: version(name) for name in libraries}},
        "before": _described(found.before),
        "after": _described(found.after),
        "registration": {
            "kind": "rigid",
            "matrix": matrix.tolist(),
            "rotation_degrees": float(np.degrees(turn)),
            "shift_mm": float(np.linalg.norm(nib.affines.apply_affine(matrix, middle) - middle)),
            "similarity": found.registration.similarity,
            "overlap": found.registration.overlap,
        },
        "rule": {
            "least_similarity": LEAST_SIMILARITY,
            "least_overlap": LEAST_OVERLAP,
            "least_share": matching.LEAST_SHARE,
            "least_covered": matching.LEAST_COVERED,
            "least_percent": matching.LEAST_PERCENT,
            "least_ml": matching.LEAST_ML,
            "weak": matching.WEAK,
        },
        "cautions": list(found.cautions),
        "matched": found.changes is not None,
        "changes": [
            asdict(each) | {name: getattr(each, name) for name in MEASURES}
            for each in found.changes or ()
        ],
        "outputs": {key: entry.model_dump(mode="json") for key, entry in outputs.items()},
    }


def _described(result: DatedResult) -> dict[str, Any]:
    """What a result is: its files with their hashes, and its settings."""
    derived = {"findings", "metrics", "quality", "seconds", "warnings", "labels", "midline"}
    assert result.path is not None, "both results are saved"
    entry = {"name": result.path.name, "sha256": result.sha256}
    return {"record": entry, **result.record.model_dump(mode="json", exclude=derived)}
