"""A recorded run against its repetition.

Maps are compared with the saved ones within a tolerance. All else is derived from the saved maps
again, recorded as a run records it, and compared field by field. So a new field of the record is
compared, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_addm.detection.pipeline import Detection
from napari_addm.findings.computed import computed_labels, edited_voxels
from napari_addm.findings.table import CSV_COLUMNS, DIAMETER_COLUMNS, findings_csv
from napari_addm.io.hashing import voxels_sha256
from napari_addm.io.text import printable
from napari_addm.io.volume import Volume
from napari_addm.outputs.contents import CaseOutputs
from napari_addm.outputs.record import (
    EARLIER_VERSION,
    SHORT,
    FileEntry,
    RunRecord,
    geometry_entry,
)

# Other devices, versions and numbers of threads round differently. A run is the same when no voxel
# of a map is further off than this share of the map's largest value, and the findings overlap so.
# In float32 on the same device with the same versions, only another processor rounds differently.
MAP_TOLERANCE = 0.02
SAME_PLACE_TOLERANCE = 0.001
DICE_TOLERANCE = 0.98
# Of the numbers in a record, where device or versions are others, and where they are the same.
LOOSE, TIGHT = 1e-3, 1e-9
MOST_FIELDS = 30  # that are named: a whole finding and more

MAPS = {
    "anomaly": "anomaly",
    "recon": "reconstruction",
    "uncertainty": "uncertainty",
    "brightness": "brightness",
}
"""The maps by their keys among the files, with their names in a detection."""
# What a repetition cannot give again. The environment and the warnings are compared on their own.
NOT_REPEATED = {
    "created_utc",
    "seconds",
    "device",
    "precision",
    "threads",
    "versions",
    "warnings",
    "seen",
}
# What is another where the same content comes in another file, and the words for rounded numbers.
OF_FILES = re.compile(r"(input|brain_mask|truth)\.(name|sha256)|checkpoint\.(name|file|sha256)")
IN_WORDS = re.compile(
    r"(quality\.(flags\[\d+\]\.(message|detail)|unchecked)|metrics\.(region|notes)).*"
)
# Another processor rounds a registration differently, and a voxel at a border changes its region.
OF_REGIONS = re.compile(r"findings\[\d+\]\.region(_fit)?")
# Earlier versions recorded no diameters, or not which map found a finding.
EARLIER_COLUMNS = tuple(
    [name for name in CSV_COLUMNS if name not in absent]
    for absent in (("found_by",), ("found_by", *DIAMETER_COLUMNS))
)
OF_DIAMETERS = re.compile(rf"findings\[\d+\]\.({'|'.join(DIAMETER_COLUMNS)})")

Verdict = Literal["identical", "same", "different"]
VERDICTS: dict[Verdict, str] = {
    "identical": "The same: the run gives every map again, voxel for voxel, and the same record.",
    "same": (
        f"The same within the tolerance: no voxel of a map is off by more than {MAP_TOLERANCE:.0%} "
        f"of its peak, and the findings overlap with a Dice of {DICE_TOLERANCE:g} or more."
    ),
    "different": "Different.",
}


@dataclass(frozen=True)
class MapDifference:
    """How a map differs from the recorded one."""

    what: str  # key of the map in `RunRecord.outputs`
    voxels: int  # that differ
    largest: float = 0.0  # difference, in the map's units
    share: float = 0.0  # of the recorded map's peak
    dice: float | None = None  # of the findings; labels only
    tolerance: float = MAP_TOLERANCE  # for the share

    @property
    def tolerable(self) -> bool:
        """Whether other hardware and versions may make this difference."""
        if self.dice is not None:
            return self.dice >= DICE_TOLERANCE
        return self.share <= self.tolerance

    def __str__(self) -> str:
        voxels = f"{self.voxels} voxel" + ("s differ" if self.voxels != 1 else " differs")
        if self.dice is not None:
            return f"{self.what}: {voxels}, Dice {self.dice:.4f}"
        return f"{self.what}: {voxels}, by up to {self.largest:.3g} ({self.share:.2%} of the peak)"


@dataclass
class Verification:
    """The result of repeating a run; `environment` holds what then and now differ in."""

    problems: list[str] = field(default_factory=list)
    differences: list[MapDifference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The same voxel for voxel, the same within the tolerance, or different."""
        if self.problems or not all(difference.tolerable for difference in self.differences):
            return "different"
        return "same" if self.differences else "identical"

    def summary(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {"verdict": self.verdict, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """All of it in sentences."""
        yield VERDICTS[self.verdict]
        yield from self.problems
        yield from map(str, self.differences)
        if self.environment:
            changes = (
                f"{printable(key, SHORT)} {printable(a, SHORT)} then, {printable(b, SHORT)} now"
                for key, (a, b) in self.environment.items()
            )
            yield f"Changed since then: {'; '.join(changes)}."
        yield from self.notes


def compare_maps(
    record: RunRecord, now: Detection, saved: dict[str, NDArray[Any]], same_place: bool
) -> Iterator[MapDifference]:
    """Compare the maps with the saved ones, and the findings of both.

    Parameters
    ----------
    saved : dict of str to ndarray
        By the keys of `MAPS`.
    same_place : bool
        Whether device, precision, threads and versions are those of the record.
    """
    tight = same_place and record.precision == "float32"
    before = now
    for key, name in MAPS.items():
        volume = getattr(now, name)
        if volume is None or key not in saved or np.array_equal(volume.data, saved[key]):
            continue
        apart = np.abs(volume.data.astype(np.float64) - saved[key])
        if key == "brightness":  # which of two equal parts is higher, is a matter of rounding
            one, other = np.abs(volume.data), np.abs(saved[key])
            weak = np.maximum(one, other) <= record.threshold
            apart = np.where(weak, np.abs(one - other), apart)
        largest, peak = float(apart.max()), float(np.abs(saved[key]).max())
        share, voxels = largest / peak if peak else math.inf, int(np.count_nonzero(apart))
        tolerance = SAME_PLACE_TOLERANCE if tight else MAP_TOLERANCE
        yield MapDifference(key, voxels, largest, share, tolerance=tolerance)
        if key in ("anomaly", "brightness"):
            before = replace(before, **{name: volume.with_data(saved[key])})
    if before is now:
        return
    one, other = (
        computed_labels(each, record.threshold, record.minimum_ml) for each in (before, now)
    )
    if voxels := edited_voxels(one, other):
        both = np.count_nonzero((one > 0) & (other > 0))
        dice = 2 * both / (np.count_nonzero(one) + np.count_nonzero(other))
        yield MapDifference("labels", voxels, dice=dice)


def compare_records(
    record: RunRecord, outputs: CaseOutputs, grid: Volume, result: Verification
) -> None:
    """Compare a record with the one that the repetition gives, field by field.

    Parameters
    ----------
    grid : Volume
        The native grid of the record.
    """
    now = RunRecord.of(replace(outputs, decisions=record.decisions))
    files = {
        key: FileEntry(
            name=record.outputs[key].name if key in record.outputs else None,
            voxels_sha256=voxels_sha256(volume.data),
        )
        for key, volume in outputs.maps.items()
    }
    for key in {"findings", "seg", "sr"} & record.outputs.keys():
        files[key] = record.outputs[key].model_copy(update={"voxels_sha256": None})
    same_file = now.input.sha256 == record.input.sha256
    # The same voxels may be stored in another order.
    geometry = now.geometry if same_file else geometry_entry(grid)
    now = now.model_copy(update={"outputs": files, "geometry": geometry})
    result.environment = {
        key: (record.environment.get(key, "unknown"), now.environment.get(key, "unknown"))
        for key in record.environment | now.environment
        if record.environment.get(key) != now.environment.get(key)
    }
    left_out = set(NOT_REPEATED)
    if record.truth is not None and now.truth is None:
        left_out |= {"truth", "metrics"}
    earlier = record.schema_version == EARLIER_VERSION
    if earlier:
        left_out |= {"schema_version", "quality"}
        result.notes.append("The quality flags were recorded in an earlier form and not compared.")
    if record.quality is None and record.slices_done.indices is not None:  # as the panel does
        left_out.add("quality")
    one, other = (each.model_dump(mode="json", exclude=left_out) for each in (record, now))
    without_diameters = all(finding.longest_mm is None for finding in record.findings)
    problems: list[str] = []
    for where, words in _differences(one, other, LOOSE if result.environment else TIGHT):
        if without_diameters and OF_DIAMETERS.fullmatch(where):
            continue
        if OF_FILES.fullmatch(where):
            result.notes.append(f"{where}: {words}; the content is the same.")
        else:
            may_differ = bool(result.environment) and IN_WORDS.fullmatch(where) is not None
            # Where no tag says so, the name of the file may.
            may_differ |= where == "input.contrast" and now.input.name != record.input.name
            if result.environment and record.settings.regions and OF_REGIONS.fullmatch(where):
                may_differ = _same_areas(record, now)
            (result.notes if may_differ else problems).append(f"{where}: {words}.")
    result.problems += problems[:MOST_FIELDS]
    if len(problems) > MOST_FIELDS:
        result.problems.append(f"{len(problems) - MOST_FIELDS} more fields differ.")
    # Some warnings depend on the device, on the panel, and on how the scan is stored.
    must_be_there = not earlier and same_file and not result.environment and not record.was_stopped
    for words in dict.fromkeys(w for w in now.warnings if w not in record.warnings):
        messages = result.problems if must_be_there else result.notes
        messages.append(f"warnings: the run warns, and the record does not: {words.rstrip('.')}.")
    for words in dict.fromkeys(w for w in record.warnings if w not in now.warnings):
        result.notes.append(
            f"warnings: only the record warns: {printable(words.rstrip('.'), 200)}."
        )


def _same_areas(record: RunRecord, now: RunRecord) -> bool:
    """Whether findings lie in the same areas, or one run could name none; shares may differ."""
    areas = [
        [None if each.region is None else each.region.partition(";")[0] for each in run.findings]
        for run in (record, now)
    ]
    return any(set(each) <= {None} for each in areas) or areas[0] == areas[1]


def compare_table(record: RunRecord, path: Path) -> Iterator[str]:
    """Compare the table of findings with the record, from which it follows."""
    text = findings_csv(record.findings, record.decisions).encode()
    with path.open("rb") as file:
        there = file.read(2 * len(text) + 1)
    for columns in EARLIER_COLUMNS:
        if there.partition(b"\n")[0] == ",".join(columns).encode():
            text = findings_csv(record.findings, record.decisions, columns).encode()
    lines = (each.split(b"\n") for each in (there, text))
    for number, pair in enumerate(zip_longest(*lines), start=1):
        if pair[0] != pair[1]:
            one, other = (
                "nothing" if line is None else printable(line.decode(errors="replace"), 200)
                for line in pair
            )
            yield f"{path.name}, line {number}: {one} in the file, {other} by the record."
            return


def _differences(
    then: Any, now: Any, tolerance: float, where: str = ""
) -> Iterator[tuple[str, str]]:
    """Find where two trees of JSON differ; yields the place, and both values in words."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then | now:
            inner = f"{where}.{printable(key, SHORT)}".lstrip(".")
            one, other = (each.get(key, "nothing") for each in (then, now))
            yield from _differences(one, other, tolerance, inner)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for place, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _differences(one, other, tolerance, f"{where}[{place}]")
    elif not (
        math.isclose(then, now, rel_tol=tolerance, abs_tol=tolerance)
        if isinstance(then, float) and isinstance(now, float)
        else then == now and isinstance(then, bool) == isinstance(now, bool)
    ):
        yield where, f"{_in_words(then)} in the record, {_in_words(now)} when computed again"


def _in_words(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list | dict) else printable(value, SHORT)
