"""A case of a cohort, and what became of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from napari_addm.errors import AddmError
from napari_addm.io.hashing import sha256
from napari_addm.io.names import stem
from napari_addm.outputs.naming import BIDS_ENDINGS, COMPARISON_NAMES, ENDINGS, case_paths

Status = Literal["done", "failed", "skipped"]

# The reasons of results that a run did not make.
NOT_REACHED = "not reached yet"
NOT_CHOSEN = "not among the cases that this run was limited to"
EARLIER = "from an earlier run, not checked again yet"
OTHER_SETTINGS = "not reached yet; its files are of an earlier run with other settings"
CUT_OFF = "its writing was cut off"
NO_SCAN = "its voxels are {}, not a scan; a table of cases runs it all the same"
# The reason of a result of an earlier run begins with this if it could not be checked.
UNCHECKED = "not checked"

# Files with these endings were written by detect, batch or compare, and are no scans.
OUTPUT_ENDINGS = (
    *ENDINGS.values(),
    *(f"_desc-{desc}_{ending}".lower() for desc, ending in BIDS_ENDINGS.values()),
    *COMPARISON_NAMES.values(),
)


@dataclass(frozen=True)
class CohortCase:
    """One scan of a cohort.

    Attributes
    ----------
    name : str
        The case's folder under the output folder, with ``/`` between its parts.
    input : str
        The scan as the manifest names it: relative to the input, without the folders above it.
    truth, mask : Path or None
        Ground truth and brain mask.
    root : str
        The folder that its outputs are written under, relative to the output folder;
        all cases of a BIDS dataset share one.
    skip : str
        Why it is not run; empty when it is.
    file_stem : str
        The beginning of its file names, if that is not the scan's own name.
    problem : str
        Why it cannot be run and counts as failed.
    searched : bool
        Whether a search found it and nobody chose it, so that it may be no scan at all.
    truth_found : bool
        Whether its ground truth is a mask that lies beside it, and nobody chose it.
    """

    name: str
    input: str
    scan: Path
    truth: Path | None = None
    mask: Path | None = None
    root: str = ""
    skip: str = ""
    file_stem: str = ""
    problem: str = ""
    searched: bool = False
    truth_found: bool = False

    @property
    def prefix(self) -> str:
        """The beginning of its file names."""
        return self.file_stem or stem(self.scan)

    @property
    def runs(self) -> bool:
        """Whether it can be run at all."""
        return not self.skip and not self.problem

    @property
    def inputs(self) -> dict[str, Path]:
        """The files that it is made from, as ``scan``, ``truth`` and ``mask``."""
        given = {"scan": self.scan, "truth": self.truth, "mask": self.mask}
        return {what: path for what, path in given.items() if path is not None}

    def paths(self, output: Path) -> dict[str, Path]:
        """Its output files, by the keys of `napari_addm.outputs.naming.ENDINGS`."""
        return case_paths(output / self.root, self.prefix)

    def file_names(self) -> dict[str, str]:
        """Its output files as a state names them, relative to the output folder."""
        return {key: path.as_posix() for key, path in self.paths(Path()).items()}

    @property
    def folder(self) -> str:
        """The folder of its output files; scans of one BIDS session share it."""
        return self.paths(Path())["record"].parent.as_posix()

    @property
    def origin(self) -> dict[str, str]:
        """Hashes of the paths of its inputs, which reveal no folder names."""
        return {
            what: sha256(os.path.abspath(path).encode(errors="surrogatepass"))
            for what, path in self.inputs.items()
        }

    def shorten_paths(self, text: str) -> str:
        """Put a message into one line, and remove the folders of the case's inputs."""
        line, files = " ".join(text.split()), list(self.inputs.values())
        short = _without_folders(line, files)
        if os.sep not in short:
            return short
        # It says where a link leads, so the disk has answered.
        return _without_folders(line, files + [Path(os.path.realpath(file)) for file in files])


def _without_folders(text: str, files: Iterable[Path]) -> str:
    folders = {" ".join(str(file.parent).split()) for file in files} - {".", os.sep}
    for folder in sorted(folders, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./\\-]){re.escape(folder + os.sep)}", "", text)
    return text


@dataclass(frozen=True)
class CaseResult:
    """What became of a case; a row of the manifest.

    Attributes
    ----------
    reason : str
        Why it failed or was skipped.
    seconds : float or None
        Work on it, without waiting for other cases.
    anomaly_ml : float or None
        Volume of all findings.
    dice : float or None
        Overlap with the ground truth; None without one, and if it is empty.
    qc : tuple of str
        Keys of the quality flags; see `napari_addm.detection.quality`.
    metrics : dict
        All metrics by name, empty without a ground truth.
    files : dict of str to str
        SHA-256 of each written file by its path under the output folder.
    key : str
        Hash of input, model and parameters.
    origin : dict of str to str
        `CohortCase.origin`, and as ``content`` the SHA-256 of the scan.
    accepted, rejected, noted : int
        How many findings a person has accepted, rejected, and written a note on.
    seen : bool
        Whether a person has looked at a case in which nothing was found.
    """

    case: str
    input: str
    status: Status
    reason: str = ""
    seconds: float | None = None
    anomaly_ml: float | None = None
    findings: int | None = None
    dice: float | None = None
    qc: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    accepted: int = 0
    rejected: int = 0
    noted: int = 0
    seen: bool = False

    @property
    def holds_decisions(self) -> bool:
        """Whether a person has decided on it or its findings, or written a note on one."""
        return bool(self.accepted or self.rejected or self.noted or self.seen)

    @property
    def unchecked(self) -> bool:
        """Whether it comes from an earlier run and could not be checked in this one."""
        return self.status == "done" and self.reason.startswith(UNCHECKED)

    @property
    def input_name(self) -> str:
        """The scan as a reason names it: without the folders above the input."""
        path = PurePath(self.input)
        return path.name if path.is_absolute() else self.input

    def is_of_another_scan(self, input: str, scan: str) -> bool:
        """Whether it belongs to another scan than this one; `scan` is empty if it is not known."""
        before = self.origin.get("scan")
        return before != scan if before and scan else self.input != input


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`; the cases of one folder stay together."""

    index: int = 1
    count: int = 1

    @property
    def label(self) -> str:
        """Its name in file names; empty for the whole."""
        return f"shard-{self.index}-of-{self.count}" if self.count > 1 else ""

    def select(self, cases: Iterable[CohortCase]) -> list[CohortCase]:
        """The cases of this part, in their order."""
        cases = list(cases)
        folders = sorted({case.folder for case in cases})
        mine = set(folders[self.index - 1 :: self.count])
        return [case for case in cases if case.folder in mine]


def parse_shard(text: str) -> Shard:
    """Read ``i/n`` as a shard."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise AddmError(f"The shard {text} has to be i/n with i from 1 to n, such as 2/8.")
    return Shard(int(found[1]), int(found[2]))
