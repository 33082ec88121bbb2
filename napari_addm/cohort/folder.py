"""The output folder of a batch: its lock, its plans, and what a killed run left behind.

It holds one folder of files per case, ``manifest.csv``, and ``.batch/``: the plan of the run
(parameters and cases) and one state file per case. Every file is written under a temporary name
and renamed when it is whole. A damaged plan counts as none, and no link is followed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from napari_addm.cohort.case import CohortCase, Shard
from napari_addm.cohort.files import HIDDEN, inside, read_json, write_json
from napari_addm.cohort.state import CaseStates
from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import PART_NAME, holds_only

PLAN_VERSION = 1
LAST_SERIAL = 10**15


class PlannedCase(BaseModel):
    """A case in a plan; see `CohortCase`. `scan` is the hash of its scan's path."""

    model_config = ConfigDict(strict=True, frozen=True)

    case: str
    input: str
    skip: str
    problem: str = Field("", alias="fault")
    scan: str = ""


class Plan(BaseModel):
    """What a run, or a shard of it, is to do."""

    model_config = ConfigDict(strict=True, frozen=True)

    shard: list[int] = Field(min_length=2, max_length=2)
    parameters: dict[str, Any]
    cases: Annotated[list[PlannedCase], FailFast()]
    serial: int = Field(0, ge=0, le=LAST_SERIAL)
    written_ns: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """What decides which plan is the latest; among those of old versions, the clock."""
        return self.serial, self.written_ns

    @model_validator(mode="after")
    def _check_shard(self) -> Plan:
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError("the shard has to be within 1..count")
        return self


class CohortFolder:
    """The output folder of a batch."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.hidden = self.path / HIDDEN
        self.states = CaseStates(self.path)

    @contextmanager
    def lock(self, shard: Shard) -> Iterator[None]:
        """Keep every other run away from the same cases; shards of one number may run side by side.

        Raises
        ------
        AddmError
            When another run is at work here.
        """
        mine = self.hidden / "locks" / f"{shard.index}-of-{shard.count}"
        self.check_no_link(mine.parent, mine)
        try:
            mine.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AddmError(
                f"{self.path} cannot be written to ({error.strerror}): choose another output "
                "folder."
            ) from error
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(mine, timeout=0))
                for other in sorted(mine.parent.iterdir()):
                    beside = other == mine or other.name.endswith(f"-of-{shard.count}")
                    if not beside and not other.is_symlink():
                        with FileLock(other, timeout=0):
                            pass
            except Timeout as error:
                raise AddmError(
                    f"{self.path} is being written by another run: wait for it to end, or choose "
                    "another output folder."
                ) from error
            yield

    def check_no_link(self, *more: Path) -> None:
        """Refuse a folder whose plan or states lie elsewhere."""
        for place in (self.hidden, self.hidden / "cases", *more):
            if place.is_symlink():
                raise AddmError(
                    f"{place} is a link, and a batch follows none: remove it, or choose another "
                    "output folder."
                )

    def remove_leftovers(self, cases: Iterable[CohortCase], shard: Shard) -> None:
        """Remove what a killed run left half written; only under the lock."""
        own: dict[Path, set[str]] = {}
        for case in cases:
            if case.runs and inside(self.path, case.folder) is not None:
                names = own.setdefault(self.path / case.folder, set())
                names.update(path.name for path in case.paths(self.path).values())
        if not shard.label:  # other shards may be writing there
            for folder in (self.path, self.hidden, self.hidden / "cases"):
                own.setdefault(folder, set())
        for folder, names in own.items():
            for leftover in folder.glob(".*.part"):
                with suppress(OSError):  # then it stays
                    if leftover.is_symlink():
                        continue
                    if leftover.is_file() and PART_NAME.fullmatch(leftover.name):
                        leftover.unlink()
                    elif holds_only(leftover, names):
                        shutil.rmtree(leftover)

    # --- plans -----------------------------------------------------------------------------------

    def plan_path(self, shard: Shard) -> Path:
        """The file of a shard's plan."""
        return self.hidden / ("-".join(filter(None, ("plan", shard.label))) + ".json")

    def has_plan(self) -> bool:
        """Whether a batch has written here."""
        return not self.hidden.is_symlink() and any(self.hidden.glob("plan*.json"))

    def write_plan(
        self, shard: Shard, parameters: Mapping[str, Any], cases: Iterable[CohortCase]
    ) -> None:
        """Write what a run is about to do, without its date."""
        plan = {
            "version": PLAN_VERSION,
            "serial": min(LAST_SERIAL, 1 + max((p.serial for p in self.read_plans()), default=0)),
            "shard": [shard.index, shard.count],
            "parameters": parameters,
            "cases": [
                {"case": c.name, "input": c.input, "skip": c.skip, "scan": c.origin["scan"]}
                | ({"fault": c.problem} if c.problem else {})
                for c in cases
            ],
        }
        write_json(self.plan_path(shard), plan)

    def read_plans(self) -> list[Plan]:
        """All plans that are there and sound."""
        found = []
        for path in sorted(self.hidden.glob("plan*.json")):
            with suppress(OSError, ValidationError):
                plan = Plan.model_validate(read_json(path))
                found.append(plan.model_copy(update={"written_ns": path.lstat().st_mtime_ns}))
        return found

    def latest_plans(self) -> list[Plan]:
        """The plans of the latest number of shards, in their order; `InputError` without one."""
        found = self.read_plans()
        if not found:
            damaged = next(iter(sorted(self.hidden.glob("plan*.json"))), None)
            raise InputError(
                f"{self.path} holds no batch: give the output folder of napari-addm batch."
                if damaged is None
                else f"{self.path} holds no batch that can be read, as {damaged} is damaged: run "
                "the same batch again."
            )
        count = max(found, key=lambda plan: plan.order).shard[1]
        return sorted((p for p in found if p.shard[1] == count), key=lambda plan: plan.shard[0])
