"""The states of a batch's cases: one small file each, with hashes of inputs and outputs.

A state file is written last, so it proves that a case is done. A state that does not have the
exact form counts as none, and it counts only if it names files that the case itself would have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from napari_addm.cohort.case import (
    CUT_OFF,
    OTHER_SETTINGS,
    OUTPUT_ENDINGS,
    CaseResult,
    CohortCase,
    Status,
)
from napari_addm.cohort.files import HIDDEN, LARGEST_STATE, inside, read_json, write_json
from napari_addm.errors import AddmError, InputError
from napari_addm.io.hashing import scan_sha256, sha256

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class LaterRun(BaseModel):
    """A later run that could neither check nor replace the result of a case.

    ``status`` is ``"done"`` if the earlier result still counts; ``parameters`` is the hash of that
    run's parameters.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    status: Literal["done", "failed"]
    reason: str
    parameters: str

    def row(self, result: CaseResult) -> CaseResult:
        """The row of that run in the manifest, for a case with this earlier result."""
        if self.status == "done":
            return replace(result, reason=self.reason)
        return CaseResult(result.case, result.input, self.status, self.reason)


class _StateFile(BaseModel):
    """The content of a state file: a `CaseResult` and how it came about."""

    model_config = ConfigDict(strict=True, frozen=True)

    case: str
    input: str
    status: Status
    reason: str
    seconds: Amount | None = None
    anomaly_ml: Amount | None = None
    findings: Annotated[int, Field(ge=0)] | None = None
    dice: Amount | None = None
    qc: list[str]
    metrics: dict[str, Any]
    files: dict[str, Hash]
    key: str
    origin: dict[str, Hash] = {}
    accepted: Count = 0
    rejected: Count = 0
    noted: Count = 0
    seen: bool = False
    parameters: str
    later: LaterRun | None = None
    replacing: dict[str, Hash] | None = None
    deciding: dict[str, Hash] | None = None

    def state(self) -> CaseState:
        """The state that it describes."""
        values = {each.name: getattr(self, each.name) for each in fields(CaseResult)}
        result = CaseResult(**{**values, "qc": tuple(self.qc)})
        replacing = self.replacing or self.deciding or {}
        known = {
            name: frozenset(each[name] for each in (self.files, replacing) if name in each)
            for name in self.files.keys() | replacing.keys()
        }
        all_ours = self.status == "skipped" and self.replacing is None
        deciding = self.deciding is not None
        return CaseState(result, self.parameters, self.later, known, all_ours, deciding=deciding)


@dataclass(frozen=True)
class CaseState:
    """What the output folder knows of a case.

    Attributes
    ----------
    result : CaseResult
        The last result whose files were written, or else what became of the case.
    parameters : str
        Hash of the parameters that `result` was made with.
    later : LaterRun or None
        A later run that could neither check nor replace `result`.
    known : dict of str to set of str
        The hashes that each file may have if nobody else has changed it. There are two while a
        run replaces the file.
    all_ours : bool
        Whether all files of the case count as ours although `result` does not name them: earlier
        versions did not record which files they were about to write.
    other : bool
        Whether the result and its files are those of another scan than the case's.
    deciding : bool
        Whether a person's decisions are being saved, or an end of the program came amid it.
    """

    result: CaseResult
    parameters: str
    later: LaterRun | None = None
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)
    all_ours: bool = False
    other: bool = False
    deciding: bool = False

    @property
    def done(self) -> bool:
        """Whether it has a result with files."""
        return self.result.status == "done"

    def row(self, parameters: str) -> CaseResult:
        """The case's row in the manifest of a run with these parameters."""
        result = self.result
        if self.done and self.later is not None and self.later.parameters == parameters:
            return self.later.row(result)
        if self.done and self.parameters != parameters:
            return CaseResult(result.case, result.input, "skipped", OTHER_SETTINGS)
        return result


class CaseStates:
    """The states of all cases of a batch."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def path(self, case: str) -> Path:
        """The file of a case's state; its name reveals nothing of the case's."""
        name = sha256(case.encode(errors="surrogatepass"))[:32]
        return self.output / HIDDEN / "cases" / f"{name}.json"

    def has_file(self, case: CohortCase) -> bool:
        """Whether there is a state file for a case, even one that does not count."""
        return os.path.lexists(self.path(case.name))

    def read(self, case: CohortCase | str) -> CaseState | None:
        """Read what is known of a case; None if there is no state that counts.

        For a case, a state counts only if all its files are those that this case has, or would
        have if its scan had another name. For a name alone, they have to lie in the folder.

        Raises
        ------
        AddmError
            When there is a state that cannot be read: it must not be taken for none.
        """
        name = case if isinstance(case, str) else case.name
        file = self._read_file(self.path(name))
        if file is None or file.case != name:
            return None
        state = file.state()
        if any(inside(self.output, each) is None for each in state.known):
            return None
        if isinstance(case, CohortCase):
            other = self._is_of_another_scan(case, state)
            if other is None:
                return None
            state = replace(state, other=other)
        if file.deciding:
            # Earlier and later decisions may lie side by side; the record's are those that count.
            state = replace(state, result=self._as_found(state, file.deciding))
        if file.replacing and not (state.done and self.is_whole(state.result)):
            # The run ended while it renamed: the files are a mixture of old and new ones.
            files, origin = {**file.files, **file.replacing}, file.origin
            cut = CaseResult(name, file.input, "skipped", CUT_OFF, files=files, origin=origin)
            return replace(state, result=cut, later=None)
        return state

    def _as_found(self, state: CaseState, names: Iterable[str]) -> CaseResult:
        """The result of a state with the present hashes of some files, where they are known."""
        files = dict(state.result.files)
        for name in names:
            with suppress(OSError):  # then nobody knows
                if (found := self._hash(name)) in state.known[name]:
                    files[name] = str(found)
        return replace(state.result, files=files)

    def _read_file(self, path: Path) -> _StateFile | None:
        try:
            content = read_json(path, LARGEST_STATE)
        except OSError as error:
            raise AddmError(
                f"{path} cannot be read ({error.strerror or error}), so what is done is not known: "
                "fix that, and run the same command again."
            ) from error
        try:
            return None if content is None else _StateFile.model_validate(content)
        except ValidationError:
            return None

    def _is_of_another_scan(self, case: CohortCase, state: CaseState) -> bool | None:
        """Whether a state is another scan's; None if it says nothing about this case."""
        own = state.known.keys() <= set(case.file_names().values())
        if not own and not all(_could_have(case, file) for file in state.known):
            return None
        result = state.result
        other = not own or result.is_of_another_scan(case.input, case.origin["scan"])
        if other and state.known and result.status != "skipped":
            there = any(os.path.lexists(self.output / file) for file in state.known)
            return True if there else None  # None: somebody has moved the files away
        return False if own else None

    def read_own(self, case: CohortCase) -> CaseState | None:
        """`read`; None for the state of another scan, which may take reading the scan."""
        state = self.read(case)
        return state if state is not None and self.is_own(case, state) else None

    def is_own(self, case: CohortCase, state: CaseState) -> bool:
        """Whether a state is that of the case's own scan, also after the dataset has moved."""
        if not state.other:
            return True
        if not state.known.keys() <= set(case.file_names().values()):
            return False
        try:
            return scan_sha256(case.scan) == state.result.origin.get("content")
        except (OSError, InputError):
            return False

    def write(
        self,
        result: CaseResult,
        parameters: str,
        later: LaterRun | None = None,
        replacing: Mapping[str, str] | None = None,
        deciding: Mapping[str, str] | None = None,
    ) -> None:
        """Write the state of a case.

        Parameters
        ----------
        parameters : str
            Hash of the parameters that `result` was made with.
        replacing : mapping of str to str, optional
            The files that are about to be renamed into place, with their hashes.
        deciding : mapping of str to str, optional
            The same for files that differ in nothing but a person's decisions.
        """
        path = self.path(result.case)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**asdict(result), "parameters": parameters}
        if later is not None:
            content["later"] = later.model_dump()
        if replacing is not None:
            content["replacing"] = dict(replacing)
        if deciding is not None:
            content["deciding"] = dict(deciding)
        write_json(path, content)

    def failed(self, cases: Iterable[CohortCase]) -> set[str]:
        """The names of the cases that the last run could not do, or could not check."""
        return {case.name for case in cases if not case.skip and self._has_failed(case)}

    def _has_failed(self, case: CohortCase) -> bool:
        if case.problem:
            return True
        state = self.read(case)
        if state is None:
            return self.has_file(case)
        return state.result.status == "failed" or state.later is not None or state.other

    # --- the files of a case ---------------------------------------------------------------------

    def is_whole(self, result: CaseResult) -> bool:
        """Whether every file of a case is there, can be read, and has not changed."""
        try:
            return self.verify_files(result)
        except OSError:
            return False

    def verify_files(self, result: CaseResult) -> bool:
        """`is_whole`, but a file that cannot be read is an `OSError`, as nobody knows then."""
        return bool(result.files) and all(
            inside(self.output, name) is not None and self._hash(name) == expected
            for name, expected in result.files.items()
        )

    def compare_files(self, state: CaseState) -> tuple[dict[str, str], list[str]]:
        """Compare the files of a case with their known hashes.

        Returns
        -------
        files : dict of str to str
            All files of the result, each with the hash that it has now if that is a known one.
        changed : list of str
            Files that somebody else has changed.

        Raises
        ------
        OSError
            When a file that is there cannot be read, so that nobody knows.
        """
        files, changed = dict(state.result.files), []
        for name, hashes in state.known.items():
            found = self._hash(name)
            if found in hashes:
                files[name] = found
            elif found is not None:
                changed.append(name)
        return files, changed

    def _hash(self, name: str) -> str | None:
        """The hash of a file; None if it is missing, empty if it is no regular file."""
        try:
            return scan_sha256(self.output / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (IsADirectoryError, InputError):
            return ""


def _could_have(case: CohortCase, file: str) -> bool:
    """Whether the case would have this file if its scan had another name."""
    path = PurePosixPath(file)
    own = str(path.parent) == case.folder or (
        case.root == case.name and PurePosixPath(case.root) in path.parents
    )
    return own and path.name.lower().endswith(OUTPUT_ENDINGS)
