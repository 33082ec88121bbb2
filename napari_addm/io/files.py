"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from napari_addm.errors import AddmError, InputError

PART_NAME = re.compile(r"\.[0-9a-f]{32}\.part")
"""Names of files and folders that are still being written."""
# How git-annex, which DataLad uses, and git-lfs mark a file whose content lies elsewhere.
ANNEX = "annex/objects/"
ANNEX_POINTER = f"/{ANNEX}".encode()
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BufferedIOBase]:
    """Open a binary file that takes its name only when the block ends without an error.

    Raises
    ------
    OSError
        When the folder is missing or not writable, or the disk is full. No
        partial file is left, and an earlier file of that name stays.
    """
    temporary = _part_of(path.parent)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be missing
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file as `replacing` does, with its errors in words.

    Raises
    ------
    AddmError
        When `replacing` raises OSError.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise AddmError(
            f"{path} cannot be written ({error.strerror or error}): choose a folder that exists, "
            "is writable and has free space."
        ) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file, text in UTF-8; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """Make a hidden folder for unfinished files, and remove it when the block ends.

    Raises
    ------
    OSError
        When it cannot be made.
    """
    aside = _part_of(folder)
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_is_file(path: Path) -> None:
    """Refuse what has no content to read: a pipe, a device, a socket, or a file not fetched yet.

    Raises
    ------
    InputError
    OSError
        When it cannot be found or opened.
    """
    if path.is_symlink() and not path.exists():
        target = Path(os.path.realpath(path))
        if ANNEX in target.as_posix():
            raise InputError(f"{path} is not fetched: run `datalad get {path}`.")
        raise InputError(f"{path} is a link to {target}, which does not exist: put it back.")
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no file but a pipe or a device: give the file of a scan.")
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head.startswith(ANNEX_POINTER):
        raise InputError(f"{path} is not fetched: run `datalad get {path}`.")
    if head == LFS_POINTER:
        raise InputError(f"{path} is not fetched: run `git lfs pull`.")


def _part_of(folder: Path) -> Path:
    return folder / f".{uuid.uuid4().hex}.part"
