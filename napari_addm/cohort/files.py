"""Files of a batch's folder, which may be damaged, or belong to another person."""

from __future__ import annotations

import json
import re
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic_core import from_json

from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import check_is_file, write_atomic
from napari_addm.io.hashing import scan_sha256

HIDDEN = ".batch"
MANIFEST = "manifest.csv"
# A batch and its report write these beside the cases.
REPORTS = ("report.html", "report.csv", "report.json")
OWN_TABLES = re.compile(r"manifest(_shard-\d+-of-\d+)?\.csv|report\.(html|csv|json)|\.batch")
LARGEST_JSON = 64 << 20
LARGEST_STATE = 1 << 20
# How long a disk or a share may take for an answer, and while another one is silent.
ANSWER_SECONDS = 60.0
NEXT_ANSWER_SECONDS = 5.0

T = TypeVar("T")
_silent: list[Future[Any]] = []


def answer(
    call: Callable[[], T],
    path: Path,
    stopped: threading.Event | None = None,
    latest: Callable[[], float] = lambda: 0.0,
) -> T:
    """Return what a call gives that touches a file, unless its disk never answers.

    Parameters
    ----------
    path : Path
        What the call touches, for the error.
    stopped : Event, optional
        Ends the waiting when it is set, with a KeyboardInterrupt.
    latest : callable
        When the disk answered last, of a call that asks it several times; by `time.monotonic`.

    Raises
    ------
    InputError
        When there is no answer in time, as on a share whose server is gone. The call goes on in
        its thread, which does not keep the process from ending.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    _silent[:] = [each for each in _silent if not each.done()]
    seconds = NEXT_ANSWER_SECONDS if _silent else ANSWER_SECONDS
    threading.Thread(target=run, daemon=True).start()
    started = time.monotonic()
    while not future.done():
        if stopped is not None and stopped.is_set():
            raise KeyboardInterrupt
        if time.monotonic() > max(started, latest()) + seconds:
            _silent.append(future)
            raise InputError(
                f"{path} gives no answer within {seconds:.0f} s: check that its disk or network "
                "share is there."
            )
        wait([future], timeout=0.1)
    return future.result()


def check_answers(path: Path, stopped: threading.Event | None = None) -> None:
    """Make sure that a file is one, and that its disk answers; see `answer`.

    Other errors are left to the reader of the file, who says what is wrong.
    """

    def read_first_byte() -> None:
        with suppress(OSError):
            check_is_file(path)
            if path.is_file():
                with path.open("rb") as file:
                    file.read(1)

    answer(read_first_byte, path, stopped)


def hash_scan(path: Path, stopped: threading.Event) -> str:
    """`scan_sha256` of a file whose disk may fall silent at any block; see `answer`."""
    latest = 0.0

    def after_block() -> None:
        nonlocal latest
        latest = time.monotonic()
        if stopped.is_set():
            raise KeyboardInterrupt

    return answer(lambda: scan_sha256(path, after_block), path, stopped, lambda: latest)


def inside(folder: Path, name: str) -> Path | None:
    """The path of a file or folder in a folder; None if it leads out, or over a link."""
    if name == ".":
        return folder
    parts = PurePosixPath(name).parts
    relative = Path(name)
    if not parts or "\0" in name or relative.drive or relative.root:
        return None
    if "/".join(parts) != name or any(part in (".", "..") for part in relative.parts):
        return None
    path = folder
    for part in relative.parts:
        path = path / part
        if path.is_symlink():
            return None
    return path


def write_json(path: Path, value: Any) -> None:
    """Write a value under a temporary name, then rename it."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, largest: int = LARGEST_JSON) -> dict[str, Any] | None:
    """The content of a small file; None for a link, and for a file that is not sound JSON.

    Raises
    ------
    OSError
        When the file is there and cannot be read.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > largest:
            return None
        content = from_json(path.read_bytes())  # refuses deep nesting and lone surrogates, too
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def file_beginning(path: Path, size: int = 1 << 16) -> str:
    """The first bytes of a file as text; empty for a link, a folder, or an unreadable file."""
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def not_ours(path: Path) -> AddmError:
    """The error for a file of another person under a name that a batch would write."""
    return AddmError(
        f"{path} exists already and was not written by a batch: move or rename it, or choose "
        "another output folder."
    )
